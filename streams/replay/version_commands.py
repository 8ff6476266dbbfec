"""`calltide versions`, `compare`, `promote` and `drop-version`: what they say and ask."""

from typing import Annotated

import typer

from streams.replay import which

Name = Annotated[str, typer.Argument(help="a pipeline version, as `calltide versions` lists it")]


def versions() -> None:
    """List the pipeline versions that calls were heard with; * is the one that is shown."""
    from streams.replay.versions import versions as listed
    from streams.settings import load

    found = listed(load())
    for one in found:
        typer.echo(
            f"{'*' if one.promoted else ' '} {one.name}: {one.calls:,} calls, {one.utterances:,} utterances, "
            f"from {one.first:%Y-%m-%d %H:%M} to {one.last:%Y-%m-%d %H:%M} UTC"
        )
    if not found:
        typer.echo("no call was heard yet")


def compare(
    a: Name,
    b: Name,
    calls: Annotated[list[str] | None, typer.Option("--calls", help="only these calls: names, with commas")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON (docs/replay.md)")] = False,
) -> None:
    """Show how two versions differ on the calls that both have heard."""
    from rich.console import Console

    from streams.replay import compare as comparing
    from streams.settings import load

    found = comparing.of_versions(load(), a, b, which.names(calls))
    if json:
        typer.echo(comparing.as_json(found))
    else:
        comparing.show(Console(), found)


def promote(version: Name) -> None:
    """Make a version the one that dashboards and reports show when nobody chooses."""
    from streams.replay.versions import promote as make
    from streams.settings import load

    make(load(), version)
    typer.echo(f"{version} is shown from now on; live calls are written as {load().pipeline_version}")


def drop_version(version: Name) -> None:
    """Remove all that a version has heard from ClickHouse."""
    from streams.replay.versions import drop
    from streams.settings import load

    gone = drop(load(), version)
    typer.echo(f"removed {gone.calls:,} calls and {gone.utterances:,} utterances of version {version}")
