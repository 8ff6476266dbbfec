"""The calls of a process: which are going on, who may join them, and when they are over."""

from collections import OrderedDict
from typing import Final

from streams.ingestion import metrics
from streams.ingestion.feed import Feed, Ring
from streams.ingestion.line import Leg, Line
from streams.ingestion.routes import Route
from streams.ingestion.settings import Serve
from streams.protocols.base import Began, Fault

REMEMBERED: Final = 10_000
"""Calls that ended and would be continued under the same name: a stream that was stopped and started again would else
begin its media time anew, and its utterances take the place of the earlier ones. Judgement: some hours of calls."""


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

    def __init__(self, settings: Serve, packet_ms: int, feed: Feed) -> None:
        self._settings = settings
        self._packet_ms = packet_ms
        self._feed = feed
        self._calls: dict[str, Call] = {}
        self._ended: OrderedDict[tuple[tuple[str, str], str], int] = OrderedDict()
        """(owner, name) → when it began."""

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
            self._ended[call.owner, name] = call.started_ms
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
        started_ms = self._ended.pop((owner, began.call_id), None)
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
        )
        call = Call(line, ring, route, owner, now_ms if started_ms is None else started_ms)
        self._calls[began.call_id] = call
        metrics.CALLS.labels(route.name).inc()
        return call
