"""Rules over the API: those in effect, a change of them checked, tried on calls of before, and kept.

A changer must know: what is tried is held by the stage itself against the records that it would have read
(streams/rules_commands.py), one trial at a time, and what is kept is written to the file that CALLTIDE_RULES__PATH
names, where the stage finds it within a second (docs/rules.md). Rules are of the whole installation, not of a tenant:
who sees one tenant alone may neither keep nor read them.
"""

import logging
import tempfile
import threading
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from processors.rules.files import BYTES, NONE, PACKAGED, RuleFiles
from processors.rules.language import RuleError, RuleSet, parse
from schemas.events import Alert
from streams.api import queries
from streams.api.access import Caller, caller
from streams.api.parameters import LONGEST
from streams.api.problems import Fault, documented
from streams.rules_commands import calls_of_before, findings
from streams.settings import Settings

log = logging.getLogger(__name__)
router = APIRouter(tags=["rules"])

Supervisor = Annotated[Caller, Depends(caller("supervisor"))]
Admin = Annotated[Caller, Depends(caller("admin"))]
MOST_CALLS: Final = 20
"""Of one trial. Judgement: a person reads no more of them; `calltide rules test` takes any number."""

_trying = threading.Lock()
_writing = threading.Lock()


class RuleShown(BaseModel):
    """A rule as lists have it."""

    name: str = Field(examples=["refund-refused"])
    category: str = Field(examples=["refunds"])
    severity: str | None = Field(description="of its alert; null: it raises none", examples=["warning"])
    tenants: list[str] = Field(description="whose calls; empty: all")
    description: str


class File(BaseModel):
    """A file of rules."""

    name: str = Field(examples=["my-rules.yaml"])
    text: str


class Rules(BaseModel):
    """The rules in effect, or, where the files are wrong, what is wrong with them."""

    path: str = Field(description="CALLTIDE_RULES__PATH", examples=["my-rules.yaml"])
    version: str = Field(description="a hash of what they mean; empty: they are wrong", examples=["cafba2c5ee40"])
    faults: list[str] = Field(description="what is wrong, by file, line and field: those from before are in effect")
    editable: bool = Field(description="whether who asks may keep others in their place")
    files: list[File]
    rules: list[RuleShown]


class Checked(BaseModel):
    """Rules that are right."""

    version: str
    rules: list[RuleShown]


class Changed(BaseModel):
    """One of the files, changed; the others are as they are."""

    file: str = Field(max_length=LONGEST, examples=["my-rules.yaml"])
    text: str = Field(max_length=BYTES)


class Tried(Changed):
    """The same, and the calls to try it on."""

    calls: list[Annotated[str, Field(min_length=1, max_length=LONGEST)]] = Field(min_length=1, max_length=MOST_CALLS)


class Kept(Changed):
    """The same, to be kept."""

    version: str = Field(description="of the rules that were changed: others, meanwhile, are not overwritten")


class Trial(BaseModel):
    """What rules find in a call."""

    call_id: str
    source: str = Field(description="where the call was read", examples=["ClickHouse"])
    found: list[dict[str, Any]] = Field(description="alerts and categories as events have them, without the call")


class Trials(BaseModel):
    """What rules find in calls."""

    calls: list[Trial]


def _everybody(who: Caller) -> None:
    if who.tenant is not None:
        raise Fault(403, "rules are of all tenants; ask who runs this installation")


def _texts(settings: Settings) -> dict[str, str]:
    """File → content, as they are."""
    return {Path(name).name: text for name, text in RuleFiles(settings.rules.path).texts().items()}


def _right(texts: dict[str, str]) -> RuleSet:
    try:
        return parse(texts)
    except RuleError as error:
        raise Fault(422, "the rules are wrong", "bad_rules", details={"faults": error.faults}) from None


def _changed(settings: Settings, change: Changed) -> dict[str, str]:
    texts = _texts(settings)
    if change.file not in texts:
        raise Fault(404, f"there is no file {change.file} of rules; one of {', '.join(texts) or 'none'}", "not_found")
    return texts | {change.file: change.text}


def _shown(rules: RuleSet) -> list[dict[str, Any]]:
    return [
        {
            "name": rule.name,
            "category": rule.gives,
            "severity": rule.alert.severity if rule.alert else None,
            "tenants": list(rule.tenants or ()),
            "description": rule.description,
        }
        for rule in sorted(rules.rules, key=lambda one: one.name)
    ]


def _in_effect(settings: Settings, who: Caller) -> dict[str, Any]:
    path, texts = settings.rules.path, _texts(settings)
    try:
        rules, faults = parse(texts), list[str]()
    except RuleError as error:
        rules, faults = RuleSet(()), error.faults
    return {
        "path": path,
        "version": "" if faults else rules.version,
        "faults": faults,
        "editable": who.role == "admin" and path not in (PACKAGED, NONE),
        "files": [{"name": name, "text": text} for name, text in texts.items()],
        "rules": _shown(rules),
    }


@router.get("/rules", response_model=Rules)
def get_rules(request: Request, who: Supervisor) -> dict[str, Any]:
    """The rules in effect, with their files."""
    _everybody(who)
    return _in_effect(request.app.state.settings, who)


@router.post("/rules/check", response_model=Checked, responses=documented(404))
def check_rules(request: Request, who: Supervisor, change: Changed) -> dict[str, Any]:
    """Say what is wrong with a changed file, by line and field: 422, in `details.faults`."""
    _everybody(who)
    rules = _right(_changed(request.app.state.settings, change))
    return {"version": rules.version, "rules": _shown(rules)}


@router.post("/rules/test", response_model=Trials, responses=documented(404))
def test_rules(request: Request, who: Supervisor, change: Tried) -> dict[str, Any]:
    """What the changed rules would have found in calls of before."""
    _everybody(who)
    settings: Settings = request.app.state.settings
    texts = _changed(settings, change)
    _right(texts)
    for call in change.calls:  # also keeps out what is a file here, and no call
        queries.find(request.app.state.store, who, call)
    if not _trying.acquire(blocking=False):
        raise Fault(503, "other rules are being tried; try again in some seconds", "busy", headers={"Retry-After": "5"})
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            return {
                "calls": [
                    {
                        "call_id": call,
                        "source": source,
                        "found": [
                            one.model_dump(mode="json", exclude={"call"})
                            | ({} if isinstance(one, Alert) else {"severity": None})
                            for one in findings(settings, folder, records)
                        ],
                    }
                    for call, source, records in calls_of_before(settings, change.calls)
                ]
            }
    finally:
        _trying.release()


@router.put("/rules", response_model=Rules, responses=documented(404, 409))
def keep_rules(request: Request, who: Admin, change: Kept) -> dict[str, Any]:
    """Keep a changed file: the rules are in effect from the next words on, in the calls that go on, too."""
    _everybody(who)
    settings: Settings = request.app.state.settings
    if settings.rules.path in (PACKAGED, NONE):
        raise Fault(409, "these rules are no file; set CALLTIDE_RULES__PATH to one of your own", "packaged")
    with _writing:
        if _version(settings) != change.version:
            raise Fault(409, "the rules were changed meanwhile; load them again, and change those", "changed")
        _right(_changed(settings, change))
        path = next(one for one in RuleFiles(settings.rules.path).paths() if one.name == change.file)
        new = path.with_name(f".{path.name}.new")  # no reader takes a file whose name begins with a dot
        try:
            new.write_text(change.text, encoding="utf-8")
            new.chmod(path.stat().st_mode)
            new.replace(path)
        except OSError as error:
            log.warning("cannot write %s: %s", path, error.strerror)
            raise Fault(409, "this server may not write that file; change it where it lies", "read_only") from None
    return _in_effect(settings, who)


def _version(settings: Settings) -> str:
    """Of the rules as they lie; of wrong ones, which can be mended, the empty one."""
    try:
        return parse(_texts(settings)).version
    except RuleError:
        return ""
