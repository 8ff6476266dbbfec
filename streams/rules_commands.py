"""`calltide rules`: look rules over, and hold them against calls of before.

A changer must know: `test` runs the stage itself over the records that it would have read, so it finds what the stage
would have found. Where Kafka has a call no more, its records are made again from ClickHouse's rows: the utterances with
the speakers and roles as they are known by now, and the watermark after each of them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import CalltideError

if TYPE_CHECKING:
    from processors.base import Record
    from processors.rules.language import RuleSet
    from schemas.events import Alert, Categorised
    from streams.settings import Settings

rules_app = typer.Typer(no_args_is_help=True, help="Rules for calls: look them over, try them on calls of before.")

File = Annotated[str, typer.Argument(help="a YAML file of rules, a directory of such, or packaged")]
On = Annotated[
    list[str],
    typer.Option("--on", help="calls: their names, with commas or given again, or recordings", show_default=False),
]

Tenant = Annotated[str, typer.Option(help="whose calls recordings are, for rules that name tenants")]


@rules_app.command("list")
def list_rules() -> None:
    """Print the rules in effect."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from streams.settings import load

    path = load().rules.path
    rules = _read(path)
    table = Table("rule", "category", "alert", "tenants", "what it finds", box=None)
    for rule in sorted(rules.rules, key=lambda one: one.name):
        severity = rule.alert.severity if rule.alert else "none"
        table.add_row(
            rule.name, rule.gives, severity, escape(", ".join(rule.tenants or ("all",))), escape(rule.description)
        )
    Console().print(table)
    typer.echo(f"{len(rules.rules)} rules of {path}, version {rules.version}")


@rules_app.command()
def check(file: File) -> None:
    """Say what is wrong with rules, by line and field; exit 1 if anything is."""
    rules = _read(file)
    typer.echo(f"{file}: {len(rules.rules)} rules are right, version {rules.version}")


@rules_app.command("test")
def try_rules(file: File, on: On, tenant: Tenant = "default") -> None:
    """Hold rules against calls of before and print what they would have found, and when. Rules that name tenants are
    held against their calls only, as the stage does."""
    from rich.console import Console
    from rich.text import Text

    from schemas.events import Alert, decode
    from streams.analyze import clock
    from streams.settings import load

    rules = _read(file)
    console, settings = Console(highlight=False), load()
    counts: Counter[tuple[str, str]] = Counter()
    calls = [name.strip() for part in on for name in part.split(",") if name.strip()]
    for call, source, records in calls_of(settings, calls, tenant):
        console.print(Text(f"{call}  ({source})", style="bold"))
        whose = decode(records[0].headers, records[0].value).call.tenant
        if others := [rule.name for rule in rules.rules if not rule.applies_to(whose)]:
            console.print(Text(f"  not for calls of tenant {whose}: {', '.join(others)}", style="yellow"))
        found = list(findings(settings, file, records))
        for one in found:
            counts[one.rule, one.kind] += 1
            what = one.message if isinstance(one, Alert) else f"category {one.category}"
            severity = one.severity if isinstance(one, Alert) else ""
            console.print(Text(f"{clock(one.at_ms):>8}  {severity:<8}  {one.rule}: {what}"))
            if isinstance(one, Alert):
                for evidence in one.evidence:
                    said = f"{clock(evidence.start_ms)} {evidence.speaker}: {evidence.text}"
                    console.print(Text(f"{'':20}{said}", style="dim"))
        if not found:
            console.print(Text("  nothing", style="dim"))
    for rule in sorted({name for name, _ in counts}):
        alerts, categories = counts[rule, "alert"], counts[rule, "category"]
        typer.echo(f"{rule}: {alerts} alerts, {categories} of {len(calls)} calls")


def findings(settings: "Settings", file: str, records: "Sequence[Record]") -> "Iterator[Alert | Categorised]":
    """What the stage finds in the records of a call, in order. Raises CalltideError when it cannot process one."""
    from processors.rules import Config, build
    from schemas.events import Alert, Categorised, decode
    from schemas.topics import stage
    from streams.memory import Log, Worker

    worker = Worker(stage("rules"), build(Config(path=file), settings.pipeline_version), Log(list(records)), Log())
    while not worker.at_end:
        worker.turn()
    for letter in worker.dead_letters.records:
        why = letter.headers.get("__connect.errors.exception.message", b"").decode()
        raise CalltideError(f"a record of call {letter.call_id} cannot be processed ({why}); report it")
    for record in worker.target.records:
        event = decode(record.headers, record.value)
        if isinstance(event, Alert | Categorised):
            yield event


def _read(file: str) -> "RuleSet":
    from processors.rules.files import RuleFiles
    from processors.rules.language import RuleError

    try:
        return RuleFiles(file).read()
    except RuleError as error:
        raise CalltideError("\ncalltide: ".join(error.faults)) from None


def calls_of(
    settings: "Settings", names: "Sequence[str]", tenant: str = "default"
) -> "Iterator[tuple[str, str, Sequence[Record]]]":
    """(call, where it comes from, the records that the stage would read) of each; `tenant`: of recordings. Raises
    CalltideError for one that is nowhere."""
    recordings = [name for name in names if Path(name).is_file()]
    known = calls_of_before(settings, [name for name in names if name not in recordings])
    for name in names:
        yield (
            (name, "recording, heard anew", _of_recording(settings, Path(name), tenant))
            if name in recordings
            else next(known)
        )


def calls_of_before(settings: "Settings", names: "Sequence[str]") -> "Iterator[tuple[str, str, Sequence[Record]]]":
    """The same of calls alone, each by its name."""
    in_kafka, why = _in_kafka(settings, names) if names else ({}, "")
    for name in names:
        if name in in_kafka:
            yield name, "Kafka", in_kafka[name]
        else:
            yield name, "ClickHouse", _in_clickhouse(settings, name, why)


def _in_kafka(settings: "Settings", calls: "Sequence[str]") -> "tuple[dict[str, list[Record]], str]":
    """(records by call, of those that Kafka has from their start, why it has not the others)."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    from processors.base import Record
    from schemas.topics import SCORES
    from streams import history, kafka

    found: dict[str, list[Record]] = {}
    try:
        kafka.check(settings)
        admin = AdminClient(kafka.client(settings))
        ranges = kafka.ranges(admin, SCORES, history.partitions(admin, SCORES), history.ANSWER_S)
        keys = {call.encode(): call for call in calls}
        for message in history.read(settings, SCORES, ranges):
            if (call := keys.get(message.key() or b"")) is None:
                continue
            headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
            kind = headers.get("kind", b"").decode()
            if kind == "call_started" and any(one.kind == "call_ended" for one in found.get(call, ())):
                del found[call]  # another call of the same name: the latest counts
            record = Record(call, kind, headers, message.value() or b"", message.timestamp()[1])
            found.setdefault(call, []).append(record)
    except CalltideError as error:
        return {}, str(error)
    except KafkaException as error:
        return {}, f"Kafka: {error.args[0].str()}"
    whole = {call: records for call, records in found.items() if records[0].kind == "call_started"}
    return whole, f"the topic {SCORES} does not have it from its start"


def _in_clickhouse(settings: "Settings", call: str, why: str) -> "list[Record]":
    """The records of a call, made again from the rows of its utterances. `why`: Kafka has not got it."""
    from clickhouse_connect.driver.exceptions import ClickHouseError

    from processors.base import Output, Record
    from schemas.events import CallEnded, CallEvent, CallStarted, Progress
    from streams.explain import hear
    from streams.sink import connect

    sql = "SELECT roles, duration_ms FROM calls FINAL WHERE call_id = {call:String} AND tenant = {tenant:String}"
    sql += " AND pipeline_version = {version:String} ORDER BY started_at DESC LIMIT 1"
    try:
        scores = hear(settings, call).scores
        one = scores[0]
        asked = {"call": call, "tenant": one.call.tenant, "version": one.pipeline_version}
        with connect(settings) as client:
            rows = client.query(sql, asked).result_rows
    except (CalltideError, ClickHouseError) as error:
        raise CalltideError(f"call {call} cannot be had: {why}; {str(error).splitlines()[0]}") from None
    heard_ms = max(score.end_ms for score in scores)
    roles, duration_ms = rows[0] if rows else (one.call.roles, heard_ms)
    info = one.call.model_copy(update={"roles": tuple(roles)})
    duration_ms = max(duration_ms or 0, heard_ms)
    ended_at = info.started_at + timedelta(milliseconds=duration_ms)
    events: list[tuple[int, CallEvent]] = [(0, CallStarted(call=info))]
    for at, score in enumerate(scores):
        events.append((score.end_ms, score.model_copy(update={"call": info})))
        next_ms = scores[at + 1].start_ms if at + 1 < len(scores) else duration_ms
        events.append((next_ms, Progress(call=info, at_ms=next_ms)))
    events.append((duration_ms, CallEnded(call=info, duration_ms=duration_ms, ended_at=ended_at, reason="hangup")))
    started_ms = round(info.started_at.timestamp() * 1_000)
    outputs = [(at_ms, event.kind, Output.of(event)) for at_ms, event in events]
    return [Record(call, kind, dict(out.headers), out.value, started_ms + at_ms) for at_ms, kind, out in outputs]


def _of_recording(settings: "Settings", path: Path, tenant: str) -> "list[Record]":
    """The records of a recording, heard by the chain in this process."""
    from schemas.events import CallInfo
    from schemas.topics import CHAIN
    from streams.files import open_audio
    from streams.ingest import new_call_id
    from streams.memory import Chain
    from streams.packets import now, records, roles_for
    from streams.stages import build

    audio = open_audio(path)
    chain = Chain(lambda row: build(settings, row), CHAIN)
    call = CallInfo(
        call_id=new_call_id(path), started_at=now(), roles=roles_for(audio, None), tenant=tenant, source=path.name
    )
    return chain.push(records(call, audio, settings.ingest.packet_ms))
