"""`calltide dashboards export` and `push` as commands: their options and what they print.

A changer must know: as in streams/cli.py, what does the work is imported inside the commands.
"""

from pathlib import Path
from typing import Annotated

import typer

dashboards_app = typer.Typer(no_args_is_help=True, help="Grafana: its dashboards, alert rules and data sources.")


@dashboards_app.command("export")
def export(directory: Annotated[Path, typer.Argument(help="where to; made if it does not exist")]) -> None:
    """Write dashboards and alert rules as files, to look at, to change and push, or to import by hand."""
    from streams import grafana

    for path in grafana.export(directory):
        typer.echo(path)


@dashboards_app.command("push")
def push(
    directory: Annotated[
        Path | None, typer.Argument(help="what `export` wrote and you changed; none: what Calltide comes with")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would change, and how")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace dashboards that people edited in Grafana")] = False,
) -> None:
    """Bring a Grafana's folder, data sources, dashboards and alert rules to what they should be."""
    from streams import grafana
    from streams.settings import load

    bundle = grafana.committed() if directory is None else grafana.read(directory)
    pushing = grafana.Push(load(), bundle, dry_run=dry_run, force=force)
    told, warning = pushing.about()
    typer.echo(told)
    if warning:
        typer.echo(f"warning: {warning}", err=True)
    for change in pushing.run():
        done = change.fate in ("unchanged", "kept") or not dry_run
        fate = change.fate if done else f"would be {change.fate}"
        typer.echo(f"{change.kind:12} {change.name:28} {fate}{f'  {change.note}' if change.note else ''}")
        for line in change.diff if dry_run or change.fate == "kept" else ():
            typer.echo(f"  {line}")
