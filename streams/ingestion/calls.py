"""The calls of a process: which are going on, who may join them, and when they are over.

A changer must know: media time is counted from a call's first start, whatever has happened since. So the starts outlive
the process, in a journal: a phone system that connects again after a restart would else begin its call's time anew, and
VAD would take what it says for what it has heard already.
"""

import json
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Final

from streams.ingestion import metrics
from streams.ingestion.feed import Feed, Ring
from streams.ingestion.line import Leg, Line
from streams.ingestion.routes import Route
from streams.protocols.base import Began, Fault
from streams.settings import Serve

log = logging.getLogger(__name__)

REMEMBERED: Final = 10_000
"""Calls whose start is known after their end. Judgement: some hours of a call centre."""
REMEMBERED_MS: Final = 24 * 3_600_000
"""Judgement: no name of a call comes again after a day and means the same call."""


class Call:
    """A call and the ring before its packets' way to Kafka."""

    def __init__(self, line: Line, ring: Ring, route: Route, owner: tuple[str, str], started_ms: int) -> None:
        self.line = line
        self.ring = ring
        self.route = route
        self.owner = owner
        self.started_ms = started_ms


class Calls:
    """All calls, by name. Times are wall clock, Unix milliseconds."""

    def __init__(self, settings: Serve, packet_ms: int, feed: Feed, journal: Path, now_ms: int) -> None:
        """`journal`: the file of calls' starts, made if it is not there, and another beside it whose name ends in
        `.before`. Raises OSError when they cannot be written."""
        self._settings = settings
        self._packet_ms = packet_ms
        self._feed = feed
        self._calls: dict[str, Call] = {}
        self._ended: OrderedDict[tuple[tuple[str, str], str], tuple[int, int]] = OrderedDict()
        """(owner, name) → when it began, and how much of it there was, ms."""
        journal.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._before = journal, journal.with_name(journal.name + ".before")
        known = [path.read_text(errors="replace") for path in (self._before, journal) if path.exists()]
        for line in "\n".join(known).splitlines():
            try:
                source, tenant, name, started_ms, end_ms = json.loads(line)
            except (ValueError, TypeError):
                continue  # the last line of a process that was killed may be cut off
            if isinstance(started_ms, int) and isinstance(end_ms, int) and now_ms - started_ms < REMEMBERED_MS:
                self._ended[(source, tenant), name] = started_ms, end_ms
                self._ended.move_to_end(((source, tenant), name))
        while len(self._ended) > 2 * REMEMBERED:
            self._ended.popitem(last=False)
        self._before.write_text("".join(_line(owner, name, *times) for (owner, name), times in self._ended.items()))
        self._journal = journal.open("w")
        self._noted = 0
        """Lines in the journal."""

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def full(self) -> bool:
        """Whether no other call may begin."""
        return len(self._calls) >= self._settings.calls

    def join(self, began: Began, route: Route, tenant: str, now_ms: int) -> tuple[Leg, Call]:
        """A connection's part in a call, new or going on.

        Raises Fault: too many calls, a name in use by another source or tenant, or what `Line` refuses.
        """
        owner = (route.name, tenant)
        call = self._calls.get(began.call_id)
        if call is None:
            call = self._begin(began, route, owner, now_ms)
        elif call.owner != owner:
            raise Fault("a call of this name is going on elsewhere", "name_taken")
        else:
            metrics.RECONNECTS.labels(route.name).inc()
        try:
            leg = call.line.join(began, now_ms)
        except Fault:
            self.forget_ended(call)
            raise
        return leg, call

    def forget_ended(self, call: Call) -> None:
        """Let go of a call that is over."""
        name = call.line.info.call_id
        if call.line.ended and self._calls.get(name) is call:
            del self._calls[name]
            self._ended[call.owner, name] = call.started_ms, call.line.position_ms
            self._note(call.owner, name, call.started_ms, call.line.position_ms)
            while len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)
            metrics.CALLS.labels(call.route.name).dec()

    def tick(self, now_ms: int) -> None:
        """To be called every second or so."""
        for call in list(self._calls.values()):
            line = call.line
            if line.alone_since_ms is not None and now_ms - line.alone_since_ms >= self._settings.grace_s * 1_000:
                line.end("interrupted", now_ms)
            line.tick(now_ms)
            self.forget_ended(call)

    def end_all(self, now_ms: int) -> None:
        """Every call is ended properly: this process stops."""
        for call in list(self._calls.values()):
            call.line.end("interrupted", now_ms)
            self.forget_ended(call)

    def _begin(self, began: Began, route: Route, owner: tuple[str, str], now_ms: int) -> Call:
        if self.full:
            raise Fault("as many calls as may be are going on", "full", 1013)
        packets = round(self._settings.buffer_s * 1_000 / self._packet_ms) * max(len(began.roles), 1)
        ring = Ring(route.name, max(packets, 1), lossless=not route.live)
        started_ms, from_ms = self._ended.pop((owner, began.call_id), (now_ms, 0))
        if now_ms - started_ms >= REMEMBERED_MS:
            started_ms, from_ms = now_ms, 0
        line = Line(
            began,
            now_ms,
            self._feed.to(ring),
            source=route.name,
            tenant=owner[1],
            live=route.live,
            packet_ms=self._packet_ms,
            longest_ms=self._settings.call_minutes * 60_000,
            started_ms=started_ms,
            from_ms=from_ms,
        )
        call = Call(line, ring, route, owner, started_ms)
        # Now as well as at the end, which a process that is killed does not come to.
        self._note(owner, began.call_id, started_ms, from_ms)
        self._calls[began.call_id] = call
        metrics.CALLS.labels(route.name).inc()
        return call

    def _note(self, owner: tuple[str, str], name: str, started_ms: int, end_ms: int) -> None:
        try:
            self._journal.write(_line(owner, name, started_ms, end_ms))
            self._journal.flush()
            self._noted += 1
            if self._noted >= 2 * REMEMBERED:
                self._begin_anew()
        except OSError as error:
            # It costs the continuity of calls over a restart, no call.
            log.error("the journal of calls cannot be written: %s", error)

    def _begin_anew(self) -> None:
        """Begin another journal, with the calls that are going on: what this one and the one before it know is enough
        for as many calls as are remembered, so the one before that is let go of."""
        self._path.replace(self._before)
        full, self._journal = self._journal, self._path.open("w")
        full.close()
        self._journal.writelines(
            _line(call.owner, name, call.started_ms, call.line.position_ms) for name, call in self._calls.items()
        )
        self._journal.flush()
        self._noted = 0


def _line(owner: tuple[str, str], name: str, started_ms: int, end_ms: int) -> str:
    return json.dumps([*owner, name, started_ms, end_ms]) + "\n"
