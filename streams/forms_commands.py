"""`calltide forms`: look score cards over, and see how a call was filled into them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import CalltideError

if TYPE_CHECKING:
    from processors.forms.language import FormSet
    from schemas.events import EvaluationItem
    from streams.settings import Settings

forms_app = typer.Typer(no_args_is_help=True, help="Score cards for calls: look them over, see how calls fill them.")


@forms_app.command()
def check(file: Annotated[str, typer.Argument(help="a YAML file of forms, a directory of such, or packaged")]) -> None:
    """Say what is wrong with forms, by line and field; exit 1 if anything is."""
    forms = _read(file)
    for form in forms.forms:
        whole = sum(section.weight for section in form.sections)
        sections = ", ".join(f"{section.name} {section.weight / whole:.0%}" for section in form.sections)
        typer.echo(f"{form.name}, version {form.version}: {sections}; {sum(1 for _ in form.items)} items")
    typer.echo(f"{file}: {len(forms.forms)} forms are right")


@forms_app.command()
def show(
    call: Annotated[str, typer.Argument(help="a call, or with --form also a recording", show_default=False)],
    form: Annotated[
        str | None,
        typer.Option(help="fill these forms anew: a YAML file, a directory, or packaged", show_default=False),
    ] = None,
    tenant: Annotated[str, typer.Option(help="whose call a recording is, for forms that name tenants")] = "default",
) -> None:
    """Print the score cards of a call: what each item earned, why, and what was said."""
    from rich.console import Console
    from rich.text import Text

    from streams.analyze import clock
    from streams.settings import load

    console, settings = Console(highlight=False), load()
    cards = list(_filled(settings, call, form, tenant) if form else _kept(settings, call))
    for title, state, sections in cards:
        console.print(Text(title, style="bold"))
        if state:
            console.print(Text(f"  {state}"))
        for name, weight, score, items in sections:
            console.print(Text(f"  {_percent(score):>5}  {name} (weight {weight:g})", style="bold"))
            for item in items:
                earned = "–" if item.earned is None else f"{item.earned:g}"
                console.print(Text(f"  {earned:>5} of {item.points:g}  {item.name}: {item.why}"))
                for one in item.evidence:
                    console.print(Text(f"{'':14}{clock(one.start_ms)} {one.speaker}: {one.text}", style="dim"))
    if not cards:
        typer.echo("no form is for calls of this tenant")


Card = tuple[str, str, "list[tuple[str, float, float | None, tuple[EvaluationItem, ...]]]"]
"""Title, state in words unless it is ok, and the sections: name, weight, score, items."""


def _read(file: str) -> "FormSet":
    from processors.forms import FormFiles
    from processors.rules.language import RuleError

    try:
        return FormFiles(file).read()
    except RuleError as error:
        raise CalltideError("\ncalltide: ".join(error.faults)) from None


def _filled(settings: "Settings", call: str, file: str, tenant: str) -> Iterator[Card]:
    """The forms of a file, filled by the stage itself with the records that it would have read."""
    from processors.insights import build
    from schemas.events import Evaluation, decode
    from schemas.topics import stage
    from streams.memory import Log, Worker
    from streams.rules_commands import calls_of

    _read(file)
    config = settings.insights.model_copy(update={"forms": file})
    made = build(config, settings.pipeline_version)
    for _, _, records in calls_of(settings, [call], tenant):
        worker = Worker(stage("insights"), made, Log(list(records)), Log())
        while not worker.at_end:
            worker.turn()
        for letter in worker.dead_letters.records:
            why = letter.headers.get("__connect.errors.exception.message", b"").decode()
            raise CalltideError(f"a record of call {call} cannot be processed ({why}); report it")
        for event in (decode(one.headers, one.value) for one in worker.target.records):
            if isinstance(event, Evaluation):
                title = f"{event.form} {event.form_version}: {_percent(event.score)}, {event.judged:.0%} judged"
                yield title, event.why, [(one.name, one.weight, one.score, one.items) for one in event.sections]


def _kept(settings: "Settings", call: str) -> Iterator[Card]:
    """What ClickHouse has."""
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from pydantic import BaseModel

    from schemas.events import EvaluationSection
    from streams.sink import connect

    class Items(BaseModel):
        sections: tuple[EvaluationSection, ...]

    sql = "SELECT form, form_version, pipeline_version, why, score, judged, items FROM evaluations FINAL"
    sql += " WHERE call_id = {call:String} ORDER BY pipeline_version, form"
    try:
        with connect(settings) as client:
            rows = client.query(sql, {"call": call}).result_rows
    except ClickHouseError as error:
        raise CalltideError(f"ClickHouse: {str(error).splitlines()[0][:300]}; run `calltide migrate`") from error
    if not rows:
        raise CalltideError(f"no form was filled for call {call}; `--form packaged` fills one now, if it can be had")
    for form, version, pipeline, why, score, judged, items in rows:
        title = f"{form} {version}, pipeline {pipeline}: {_percent(score)}, {judged:.0%} judged"
        sections = Items.model_validate_json(items).sections
        yield title, why, [(one.name, one.weight, one.score, one.items) for one in sections]


def _percent(score: float | None) -> str:
    return "–" if score is None else f"{score:.0f}"
