"""What the gateway knows without sockets or Kafka: cursors, subscriptions, the calls running now, a client's backlog.

A changer must know: partitions have no order among each other, so a place in the stream is a *vector*, the next offset
of every partition. All records below a message's vector have been offered to its client before, none at or above it.
"""

import json
import re
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, get_args

from schemas.errors import CalltideError
from schemas.events import Alert, CallEvent, Categorised, Correction, Evaluation, Insights, Interim, Severity
from schemas.topics import FINDINGS

Positions = dict[int, int]
"""Partition → the next offset to be pushed."""

FOUND: Final = tuple(one.kind for one in FINDINGS)
"""Kinds of what is made of the scores."""
KINDS: Final = ("score", "correction", "call_started", "call_ended", "progress", "interim", *FOUND)
DEFAULT_KINDS: Final = KINDS[:4]
FILTERS: Final = ("call", "queue", "agent", "tenant")
SEVERITIES: Final = get_args(Severity)
FIELDS: Final = (*FILTERS, "kinds", "severity", "from", "history", "replay")

MOST_VALUES: Final = 1_000
"""Of all fields of a subscription together. Judgement: more calls than a person can follow, 100 KB at most."""

HISTORY_UTTERANCES: Final = 500
"""Utterances kept of each running call. Judgement: about 40 minutes of talk; at 2 KB each a call takes 1 MB at most."""

HISTORY_FINDINGS: Final = 200
"""Alerts and the like kept of each running call. Judgement: more than anyone looks at; rules have cool-downs."""

ENDED_SECONDS: Final = 60.0
"""Findings of a call that does not run are kept for so long: they may be a little ahead of its scores. Judgement."""

FORGET_SECONDS: Final = 3_600.0
"""Judgement: a call of which nothing, not even a progress mark, came for an hour has lost its end."""

_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_OWN = re.compile(rf"-({_NUMBER})-({_NUMBER})")
_PAIR = re.compile(rf"({_NUMBER}):({_NUMBER})")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a topic.

    Written `<topic>-<partition>-<offset>~<partition>:<next offset>,…`: the record the message carries, then the place
    in every other partition. A message of the gateway itself has no record: `<topic>~0:17,1:44`. A bare
    `<topic>-<partition>-<offset>` names one partition alone, which is enough for a subscription to one call.
    """

    topic: str
    positions: Mapping[int, int]
    own: int | None = None
    whole: bool = True

    def __str__(self) -> str:
        head = self.topic if self.own is None else f"{self.topic}-{self.own}-{self.positions[self.own] - 1}"
        if not self.whole:
            return head
        return head + "~" + ",".join(f"{at}:{next_}" for at, next_ in self.positions.items() if at != self.own)

    @classmethod
    def parse(cls, text: str, topic: str) -> "Cursor":
        """Read a cursor of `topic`. Raises CalltideError for what is none, or one of another topic."""
        head, tilde, rest = text.partition("~")
        own = _OWN.fullmatch(head[len(topic) :])
        pairs = [_PAIR.fullmatch(pair) for pair in rest.split(",")] if rest else []
        if not head.startswith(topic) or not all(pairs) or not (own or (head == topic and pairs)):
            raise CalltideError(
                f"cursor {text[:80]!r} is malformed or not of the topic {topic}; send one as it was received, such as "
                f"{topic}-3-120~0:17,1:44,2:9"
            )
        positions = {int(pair[1]): int(pair[2]) for pair in pairs if pair}
        if own:
            positions[int(own[1])] = int(own[2]) + 1
        if len(positions) < len(pairs) + bool(own):
            raise CalltideError(f"cursor {text[:80]!r} names a partition twice; send one as it was received")
        return cls(topic, positions, int(own[1]) if own else None, whole=bool(tilde))


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One record of the topic: the event, and its JSON exactly as it lies there."""

    partition: int
    offset: int
    event: CallEvent
    body: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """Which events a client wants. An empty set stands for all; within a field any, across fields all must match."""

    call: frozenset[str] = frozenset()
    queue: frozenset[str] = frozenset()
    agent: frozenset[str] = frozenset()
    tenant: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset(DEFAULT_KINDS)
    severity: frozenset[str] = frozenset()
    """Of alerts; all else has none."""
    start: Cursor | None = None
    history: bool = False
    replay: frozenset[str] = frozenset()
    """Replays to be shown, `*` for all, and no live calls; empty: live calls alone."""

    @classmethod
    def parse(cls, fields: Mapping[str, Sequence[str]], topic: str, partitions: int) -> "Subscription":
        """A subscription from its fields, each with one or more values.

        Raises CalltideError that says what is wrong: an unknown field, kind or partition, a malformed cursor, too many.
        """
        if sum(map(len, fields.values())) > MOST_VALUES:
            raise CalltideError(f"more than {MOST_VALUES} values in a subscription; leave a field out to get all of it")
        unknown = [name for name in fields if name not in FIELDS]
        if unknown:
            raise CalltideError(f"unknown field {unknown[0][:40]!r}; send any of {', '.join(FIELDS)}")
        kinds = frozenset(kind for value in fields.get("kinds", DEFAULT_KINDS) for kind in value.split(","))
        if not kinds <= set(KINDS):
            raise CalltideError(f"unknown kind {min(kinds - set(KINDS))[:40]!r}; send any of {', '.join(KINDS)}")
        severity = frozenset(value for given in fields.get("severity", ()) for value in given.split(","))
        if not severity <= set(SEVERITIES):
            unknown_one = min(severity - set(SEVERITIES))[:40]
            raise CalltideError(f"unknown severity {unknown_one!r}; send any of {', '.join(SEVERITIES)}")
        history = list(fields.get("history", ()))
        if history not in ([], ["live"]):
            raise CalltideError("history can only be 'live': the events of the calls running now")
        cursors = list(fields.get("from", ()))
        if len(cursors) + len(history) > 1:
            raise CalltideError(
                "send one 'from', or 'history', not several: a cursor says where to go on, history starts anew"
            )
        replay = frozenset(fields.get("replay", ()))
        if "" in replay:
            raise CalltideError("replay names one, as `calltide replay list` does, or is * for all that are shown")
        if replay and cursors:
            raise CalltideError("a replay has no cursors; send history=live instead of 'from'")
        call, queue, agent, tenant = (frozenset(fields.get(name, ())) for name in FILTERS)
        wanted = cls(call, queue, agent, tenant, kinds, severity, history=bool(history), replay=replay)
        if cursors:
            wanted = replace(wanted, start=wanted._start(Cursor.parse(cursors[0], topic), partitions))
        return wanted

    def _start(self, cursor: Cursor, partitions: int) -> Cursor:
        beyond = [partition for partition in cursor.positions if partition >= partitions]
        if beyond:
            raise CalltideError(f"the cursor names partition {beyond[0]}, {cursor.topic} has 0 to {partitions - 1}")
        if cursor.whole:
            # Partitions added since the cursor was written are read from their first record.
            return replace(cursor, positions=dict.fromkeys(range(partitions), 0) | dict(cursor.positions))
        if len(self.call) != 1:
            raise CalltideError(
                "a cursor of one partition resumes one call; add call=<id>, or send the whole, with its part after ~"
            )
        return cursor

    @property
    def one_call(self) -> bool:
        """Whether a bare cursor is enough: one call is in one partition."""
        return len(self.call) == 1

    def wants(self, event: CallEvent) -> bool:
        """Whether the event is to be pushed."""
        call = event.call
        return (
            event.kind in self.kinds
            and (not self.call or call.call_id in self.call)
            and (not self.queue or call.queue in self.queue)
            and (not self.agent or call.agent in self.agent)
            and (not self.tenant or call.tenant in self.tenant)
            and (not self.severity or not isinstance(event, Alert) or event.severity in self.severity)
        )

    def shows(self, replay: str) -> bool:
        """Whether it is for this replay."""
        return replay in self.replay or "*" in self.replay

    def describe(self) -> dict[str, list[str]]:
        """The fields that restrict it, as a client would send them."""
        filters = {name: sorted(getattr(self, name)) for name in (*FILTERS, "severity", "replay")}
        return {name: values for name, values in filters.items() if values} | {
            "kinds": [kind for kind in KINDS if kind in self.kinds]
        }


def subject(event: CallEvent) -> tuple[str, ...]:
    """(call, kind), of a correction also of whom and of what it speaks, of an interim result also the channel, of what
    a rule has found also which and when, of insights also whose, of an evaluation also by which form: what a newer
    event of the same replaces."""
    same = event.call.call_id, event.kind
    if isinstance(event, Interim):
        return *same, str(event.channel)
    if isinstance(event, Alert | Categorised):
        return *same, event.rule, str(event.at_ms)
    if isinstance(event, Insights):
        return *same, event.engine
    if isinstance(event, Evaluation):
        return *same, event.form
    if isinstance(event, Correction):
        return *same, event.speaker, event.same_as or "", "" if event.same_as and event.role == "unknown" else "role"
    return same


def event_message(
    record: Record, cursor: str | None, pushed_at: datetime, *, history: bool = False, replay: str | None = None
) -> str:
    """The JSON text that carries a record; the event is spliced in as it lies in the topic, not written anew.

    Live it has a `cursor`, in a replay the name of that.
    """
    place = f'"cursor":"{cursor}"' if replay is None else f'"replay":{json.dumps(replay)}'
    mark = ',"history":true' if history else ""
    return f'{{"type":"{record.event.kind}",{place},"pushed_at":"{utc(pushed_at)}"{mark},"event":{record.body}}}'


def notice(kind: str, cursor: Cursor | None, **fields: Any) -> str:
    """The JSON text of a message of the gateway itself; without a cursor for who watches a replay."""
    place = {} if cursor is None else {"cursor": str(cursor)}
    return json.dumps({"type": kind, **place, **fields}, ensure_ascii=False, separators=(",", ":"))


def utc(moment: datetime) -> str:
    """ISO 8601 with milliseconds and a Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


@dataclass(slots=True)
class _RunningCall:
    touched: float
    started: tuple[int, Record, str] | None = None
    corrections: dict[tuple[str, ...], tuple[int, Record, str]] = field(default_factory=dict)
    scores: deque[tuple[int, Record, str]] = field(default_factory=lambda: deque(maxlen=HISTORY_UTTERANCES))


class RunningCalls:
    """The events of the calls that have not ended, as first pushed: each with the cursor it had then."""

    def __init__(self) -> None:
        # The call of which something came last is at the end.
        self._calls: OrderedDict[str, _RunningCall] = OrderedDict()
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._calls

    def add(self, record: Record, cursor: str, now: float) -> None:
        """Keep a record, or forget its call when it has ended. `now`: seconds of any clock that only goes forward."""
        self._sequence += 1
        call_id = record.event.call.call_id
        if record.event.kind == "call_ended":
            self._calls.pop(call_id, None)
        else:
            call = self._calls.setdefault(call_id, _RunningCall(now))
            call.touched = now
            self._calls.move_to_end(call_id)
            if record.event.kind == "call_started":
                call.started = (self._sequence, record, cursor)
            elif record.event.kind == "correction":
                call.corrections[subject(record.event)] = (self._sequence, record, cursor)
            elif record.event.kind == "score":
                call.scores.append((self._sequence, record, cursor))
        while self._calls and now - next(iter(self._calls.values())).touched > FORGET_SECONDS:
            self._calls.popitem(last=False)

    def events(self, wanted: Subscription) -> list[tuple[Record, str]]:
        """What of it a subscription wants, in the order in which it came."""
        kept = [
            entry
            for call in self._calls.values()
            for entry in (*([call.started] if call.started else []), *call.corrections.values(), *call.scores)
            if wanted.wants(entry[1].event)
        ]
        return [(record, cursor) for _, record, cursor in sorted(kept, key=lambda entry: entry[0])]


class Findings:
    """The newest figures of each call, and what rules have found in it: what who joins later is told of it."""

    def __init__(self) -> None:
        # The call of which something came last is at the end.
        self._calls: OrderedDict[str, tuple[float, OrderedDict[tuple[str, ...], Record]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, record: Record, running: RunningCalls, now: float) -> None:
        """Keep a record, and forget calls that do not run. `now`: seconds of any clock that only goes forward."""
        call_id = record.event.call.call_id
        _, kept = self._calls.pop(call_id, (now, OrderedDict()))
        self._calls[call_id] = (now, kept)
        kept.pop(key := subject(record.event), None)
        kept[key] = record
        if len(kept) > HISTORY_FINDINGS:
            kept.popitem(last=False)
        # Two for one that comes: so those of ended calls do not gather.
        for _ in range(2):
            oldest, (since, its) = next(iter(self._calls.items()))
            if now - since <= ENDED_SECONDS:
                break
            del self._calls[oldest]
            if oldest in running:
                self._calls[oldest] = (now, its)

    def events(self, wanted: Subscription, running: RunningCalls) -> list[Record]:
        """What of it a subscription wants, of calls that are running: by call, in the order in which it came."""
        return [
            record
            for call_id, (_, kept) in self._calls.items()
            if call_id in running
            for record in kept.values()
            if wanted.wants(record.event)
        ]


class Backlog:
    """Messages that wait for one client: at most `limit`.

    When one more comes: without `conflate` it is refused. With it only the newest message of each `subject` is kept
    from then on until all is sent, and the next message says how many were skipped; it is refused when even so there
    are more than `limit`.
    """

    def __init__(self, limit: int, *, conflate: bool) -> None:
        self._limit = limit
        self._conflate = conflate
        self._waiting: OrderedDict[object, tuple[tuple[str, ...] | None, str]] = OrderedDict()
        self._conflating = False
        self._sequence = 0
        self._skipped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def told(self) -> bool:
        """Whether nothing waits, not even to be said of what was skipped."""
        return not self._waiting and not self._skipped

    def put(self, text: str, key: tuple[str, ...] | None = None) -> bool:
        """Add a message; `key` (`subject`) is what it may be conflated by. False: no room."""
        if len(self._waiting) >= self._limit and self._conflate and not self._conflating:
            self._conflating = True
            waiting, self._waiting = self._waiting, OrderedDict()
            for old_key, old_text in waiting.values():
                self._add(old_text, old_key)
        self._add(text, key)
        return len(self._waiting) <= self._limit

    def _add(self, text: str, key: tuple[str, ...] | None) -> None:
        self._sequence += 1
        slot: object = key if self._conflating and key else self._sequence
        if self._waiting.pop(slot, None):
            self._skipped += 1
        self._waiting[slot] = (key, text)

    def __iter__(self) -> Iterator[str]:
        """Take the messages out one by one, oldest first; `skipped` is told in the first event after the gap."""
        while self._waiting:
            _, (key, text) = self._waiting.popitem(last=False)
            if self._skipped and key:
                text = f'{{"skipped":{self._skipped},{text[1:]}'
                self._skipped = 0
            if not self._waiting:
                self._conflating = False
            yield text
