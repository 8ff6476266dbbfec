"""The command `calltide generate`; streams/analytics/generate.py does the work.

A changer must know: the command line imports this module at its start, so numpy, Arrow and ClickHouse come later.
"""

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from schemas.errors import CalltideError


def generate(
    days: Annotated[int, typer.Option(min=14, max=3_650, help="how far back the first call lies")] = 30,
    calls: Annotated[int, typer.Option(min=100, help="number of calls; each has about 100 utterances")] = 5_200,
    seed: Annotated[int, typer.Option(min=0, help="another number makes other calls")] = 7,
    until: Annotated[str | None, typer.Option(help="ISO time, in UTC, of the latest calls (default: now)")] = None,
    force: Annotated[bool, typer.Option("--force", help="also into a database with calls of another source")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="remove the generated calls that are there first")] = False,
) -> None:
    """Fill ClickHouse with made-up calls, to see dashboards and reports at work (docs/analytics.md)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from streams.analytics import generate as generator
    from streams.analytics.traffic import Traffic
    from streams.settings import load

    traffic = Traffic(until=_moment(until), days=days, calls=calls, seed=seed)
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{calls:,} calls", total=traffic.call_rows)
        rows = generator.generate(
            load(), traffic, force=force, clear=clear, progress=lambda done: bar.update(task, completed=done)
        )
    typer.echo(f"{traffic.since:%Y-%m-%d %H:%M} to {traffic.until:%Y-%m-%d %H:%M} UTC:")
    for table, count in rows.items():
        typer.echo(f"{count:>12,}  {table}")
    typer.echo(f"in {time.monotonic() - began:.0f} s")


def _moment(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CalltideError(f"--until {text!r} is no time; write it like 2026-11-18T15:20") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
