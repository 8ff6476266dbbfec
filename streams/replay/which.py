"""Which old calls: the options that `calltide replay` and `calltide archive` share."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import CalltideError

if TYPE_CHECKING:
    from streams.replay.plan import Wish

Since = Annotated[
    str | None, typer.Option("--from", help="calls from then on: 7d (s, m, h, d ago) or an ISO time in UTC")
]
Until = Annotated[str | None, typer.Option("--to", help="calls until then")]
Calls = Annotated[list[str] | None, typer.Option("--calls", help="these calls: names, with commas or given again")]
Tenant = Annotated[list[str] | None, typer.Option(help="calls of this tenant (may be given again)")]
Queue = Annotated[list[str] | None, typer.Option(help="calls of this queue (may be given again)")]


def names(calls: Iterable[str] | None) -> list[str]:
    """`--calls a,b --calls c` as names."""
    return [one.strip() for part in calls or () for one in part.split(",") if one.strip()]


def wish(since: Since, until: Until, calls: Calls, tenant: Tenant, queue: Queue) -> "Wish":
    """The options together. Raises CalltideError for a time that is none, or times the wrong way round."""
    from streams.history import moment
    from streams.replay.plan import Wish

    now = datetime.now(UTC)
    since_ms, until_ms = (
        moment(text, option, now) if text else None for text, option in ((since, "--from"), (until, "--to"))
    )
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise CalltideError("--from is not before --to; turn them round")
    return Wish(since_ms, until_ms, frozenset(names(calls)), frozenset(tenant or ()), frozenset(queue or ()))
