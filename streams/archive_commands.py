"""`calltide archive` and `calltide forget`: what they say and ask."""

import sys
from typing import Annotated

import typer

from schemas.errors import CalltideError
from streams.replay import which


def archive(
    since: which.Since = None,
    until: which.Until = None,
    calls: which.Calls = None,
    tenant: which.Tenant = None,
    queue: which.Queue = None,
) -> None:
    """Keep ended calls for longer than Kafka: FLAC and JSON in a directory or an object store."""
    from rich.console import Console

    from streams import archiving
    from streams.settings import load

    wish = which.wish(since, until, calls, tenant, queue)
    with Console(stderr=True).status("looking for calls that have ended") as status:

        def tell(done: archiving.Archived, of: int) -> None:
            status.update(f"{done.calls} of {of} calls archived, {done.bytes / 1e6:,.1f} MB")

        done = archiving.archive(load(), wish, tell)
    typer.echo(f"archived {done.calls} calls, {done.bytes / 1e6:,.1f} MB; {done.before} were there before")
    if done.silenced:
        typer.echo(f"in {done.silenced} of them what was taken out of the words is silenced")
    if done.unsearched:
        typer.echo(
            f"in {done.unsearched} of them nobody looked for personal data in all utterances: some were dropped as "
            "dead letters; the archive marks these calls (`unsearched`)"
        )
    for call_id, why in done.failed.items():
        sys.stderr.write(f"calltide: {call_id}: {why}\n")
    if done.failed:
        raise CalltideError(f"{len(done.failed)} calls are not in the archive; see above")


def forget(call: Annotated[str, typer.Argument(help="the call's id")]) -> None:
    """Remove a call from the archive and from ClickHouse, and say what of it expires when."""
    from streams import archiving
    from streams.settings import load

    done = archiving.forget(load(), call)
    typer.echo(f"removed of call {call}: {', '.join(done.removed) or 'nothing'}")
    for words in done.left:
        typer.echo(f"left: {words}")
