"""What the gateway knows of replays that are shown: where each is, and the calls that run in it.

A changer must know: a position that says `reset` forgets all that was known of its replay, here as at a client.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from schemas.replayed import BEFORE, REPLAY, ReplayPosition
from streams.subscriptions import Record, RunningCalls, Subscription, event_message, subject, utc

SILENT_S: Final = 30.0
"""A replay of which nothing came for so long was killed: it tells where it is every second. Judgement: the clocks of
two machines differ by less."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One record of the topic `scores.replayed`."""

    replay: str
    at: float
    """When it was sent, Unix seconds."""
    what: Record | ReplayPosition
    before: bool = False
    """Whether it lies before the place of a jump."""

    @classmethod
    def of(cls, headers: Mapping[str, bytes], at: float, what: Record | ReplayPosition) -> "Replayed":
        """From the headers of a record. Raises KeyError when it names no replay."""
        return cls(headers[REPLAY].decode(errors="replace"), at, what, BEFORE in headers)

    def text(self, now: datetime) -> str:
        """The JSON text for clients."""
        if isinstance(self.what, Record):
            return event_message(self.what, None, now, history=self.before, replay=self.replay)
        return _position(self.what, now)

    @property
    def key(self) -> tuple[str, ...] | None:
        """What a newer one of the same replaces; None: nothing does."""
        return (self.replay, *subject(self.what.event)) if isinstance(self.what, Record) else None

    def wanted(self, by: Subscription, tenants: Set[str] = frozenset()) -> bool:
        """Whether it is to be pushed. Where a replay is concerns all who watch it and may see one of its `tenants`."""
        if not by.shows(self.replay):
            return False
        if isinstance(self.what, Record):
            return by.wants(self.what.event)
        return not by.tenant or not by.tenant.isdisjoint(tenants)


def _position(position: ReplayPosition, now: datetime) -> str:
    body = position.model_dump_json(exclude={"kind"})
    return f'{{"type":"{position.kind}","pushed_at":"{utc(now)}",{body[1:]}'


@dataclass(slots=True)
class _Shown:
    position: ReplayPosition
    at: float
    tenants: set[str]
    """Of the calls that were shown of it, before a jump, too."""
    calls: RunningCalls = field(default_factory=RunningCalls)


class Replays:
    """The replays that are shown now."""

    def __init__(self) -> None:
        self._shown: dict[str, _Shown] = {}

    def add(self, one: Replayed) -> Set[str]:
        """Take a record, in the order of its partition; the tenants of whose calls its replay has shown some."""
        shown = self._shown.get(one.replay)
        tenants = shown.tenants if shown else set()
        if isinstance(one.what, Record):
            # What comes before any position was sent before a jump that the topic keeps no more.
            if shown:
                tenants.add(one.what.event.call.tenant)
                shown.calls.add(one.what, "", one.at)
        elif one.what.state in ("ended", "stopped"):
            self._shown.pop(one.replay, None)
        elif one.what.reset or not shown:
            self._shown[one.replay] = _Shown(one.what, one.at, tenants)
        else:
            shown.position, shown.at = one.what, one.at
        return tenants

    def so_far(self, wanted: Subscription, now: datetime) -> list[str]:
        """JSON texts of where the wanted replays are, each with the events of the calls that run in it."""
        found = []
        for name, shown in self._shown.items():
            seen = not wanted.tenant or not wanted.tenant.isdisjoint(shown.tenants)
            if wanted.shows(name) and seen and now.timestamp() - shown.at < SILENT_S:
                found.append(_position(shown.position.model_copy(update={"reset": True}), now))
                found += [
                    event_message(record, None, now, history=True, replay=name)
                    for record, _ in shown.calls.events(wanted)
                ]
        return found
