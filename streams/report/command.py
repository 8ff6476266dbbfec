"""The command `calltide report`.

A changer must know: the command line imports this module at its start, so ClickHouse, rich and matplotlib come later.
"""

import json as jsons
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import CalltideError

_ONLY = "only this one (may be given again)"
_Tenants = Annotated[list[str] | None, typer.Option(help=_ONLY)]
_OrNone = Annotated[list[str] | None, typer.Option(help=f"{_ONLY}; (none): calls without one")]


def report(
    since: Annotated[str, typer.Option(help="from when on: 7d (s, m, h, d) or an ISO time in UTC")] = "7d",
    until: Annotated[str | None, typer.Option(help="until when, in the same way (default: now)")] = None,
    tenant: _Tenants = None,
    queue: _OrNone = None,
    agent: _OrNone = None,
    version: Annotated[str | None, typer.Option(help="pipeline version (default: the one that heard most)")] = None,
    minimum: Annotated[int, typer.Option(min=0, help="utterances: who has fewer is not compared")] = 20,
    json: Annotated[bool, typer.Option("--json", help="print JSON (docs/analytics.md)")] = False,
    html: Annotated[Path | None, typer.Option(help="write a page with charts into this file")] = None,
) -> None:
    """Tell how calls went: mood, emotions, queues, agents, the worst calls, alerts (docs/analytics.md)."""
    from rich.console import Console

    from streams.history import moment
    from streams.report import figures, tables
    from streams.settings import load

    now = datetime.now(UTC)
    end = now if until is None else _moment(moment(until, "--until", now))
    begin = _moment(moment(since, "--since", end))
    if begin >= end:
        raise CalltideError(f"--since {since} is not before {end:%Y-%m-%d %H:%M} UTC; give an earlier time")
    scope = figures.Scope(
        begin, end, tuple(tenant or ()), tuple(queue or ()), tuple(agent or ()), version or "", minimum
    )
    told = figures.gather(load(), scope)
    if json:
        typer.echo(jsons.dumps(told.as_json(), ensure_ascii=False, indent=2))
    if not told.calls:
        chosen = " of this choice" if tenant or queue or agent or version else ""
        typer.echo(f"no calls{chosen} since {begin:%Y-%m-%d %H:%M} UTC; `calltide generate` makes some", err=json)
        return
    if html is not None:
        from streams.report.page import page

        try:
            html.write_text(page(told), encoding="utf-8")
        except OSError as error:
            raise CalltideError(f"cannot write {html}: {error.strerror}; choose another file") from None
        typer.echo(f"wrote {html}", err=json)
    elif not json:
        terminal = Console()
        tables.show(told, terminal if terminal.is_terminal or "COLUMNS" in os.environ else Console(width=tables.PIPED))


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
