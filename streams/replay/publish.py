"""Old calls through the live websocket: events of a topic of scores, sent again at a pace, with pause and seek.

A changer must know: a place is the time since the first event, and stretches in which no call runs are left out of it.
Every jump, the start among them, begins with a position that says `reset`, then come the events that the running calls
had before that place, at once, and then what is due. So a reader need not know what was sent before.
"""

import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.topics import Topics
from schemas.errors import CalltideError
from schemas.replayed import ANSWERS, BEFORE, REPLAY, ReplayPosition, ReplayState
from schemas.topics import SCORES, SCORES_REPLAYED
from streams import history, kafka
from streams.replay.control import Command, control_topic, position_in
from streams.replay.plan import Call, Plan
from streams.settings import Settings

ANSWER_S: Final = 30.0
TOLD_S: Final = 1.0
"""Between two positions: what a page shows as the time, and how near a replay that was killed goes on."""
TURN_S: Final = 0.2
"""Longest wait before a stop is seen; commands are seen at once."""
IDLE_MS: Final = 2_000
"""What is left of a stretch in which no call runs (judgement)."""
MOST_BYTES: Final = 256 * 1024**2
"""Judgement: all events are in memory, so that every place is there at once; this is about a hundred hours of calls."""

STATES: Final[dict[str, ReplayState]] = {"pause": "paused", "resume": "playing", "stop": "stopped"}
"""What an order makes of it."""

Headers = list[tuple[str, str | bytes | None]]


class Event(NamedTuple):
    """One event of an old call."""

    at_ms: int
    """As it was: Unix milliseconds at which the last sound it tells of was captured."""
    call: bytes
    headers: Headers
    value: bytes


@dataclass(slots=True)
class Line:
    """Events in the order in which they are shown, each at its place."""

    events: list[Event]
    places: list[int] = field(default_factory=list)
    """Of each, milliseconds from the first one."""
    _last: dict[bytes, int] = field(default_factory=dict)
    """Call → which event is its last."""

    def __post_init__(self) -> None:
        self._last = {event.call: at for at, event in enumerate(self.events)}
        running: set[bytes] = set()
        place, before_ms = 0, self.events[0].at_ms if self.events else 0
        for at, event in enumerate(self.events):
            passed = event.at_ms - before_ms
            place += passed if running else min(passed, IDLE_MS)
            before_ms = event.at_ms
            self.places.append(place)
            running.add(event.call)
            if self._last[event.call] == at:
                running.discard(event.call)

    @property
    def length_ms(self) -> int:
        """The place of the last event."""
        return self.places[-1] if self.places else 0

    def at(self, place_ms: int) -> int:
        """The first event that is not before a place."""
        return bisect_left(self.places, place_ms)

    def until(self, place_ms: float) -> int:
        """The first event behind a place."""
        return bisect_right(self.places, place_ms)

    def so_far(self, number: int) -> list[Event]:
        """What the calls that run at an event had before it."""
        return [event for event in self.events[:number] if self._last[event.call] >= number]


def line(messages: Iterable[Message], calls: Sequence[str]) -> Line:
    """The events of these calls. Raises CalltideError when there are none, or more than memory should hold."""
    wanted, size = {call.encode() for call in calls}, 0
    latest: dict[bytes, int] = {}
    events: list[Event] = []
    for message in messages:
        call = message.key() or b""
        if call not in wanted:
            continue
        value = message.value() or b""
        size += len(value)
        if size > MOST_BYTES:
            raise CalltideError(
                f"these calls have more than {MOST_BYTES // 1024**2} MiB of scores; show fewer at a time (--calls)"
            )
        # The events of a call stay in the order of the topic: a correction holds for what came before it.
        latest[call] = max(latest.get(call, 0), message.timestamp()[1])
        events.append(Event(latest[call], call, [*kafka.headers_of(message)], value))
    if not events:
        raise CalltideError("nothing came of these calls, so there is nothing to show")
    return Line(sorted(events, key=lambda event: event.at_ms))


def length_s(calls: Iterable[Call]) -> float:
    """About how long they are shown at real time."""
    total_s = end_s = 0.0
    for start_s, duration_s in sorted((call.started_at.timestamp(), call.duration_ms / 1_000) for call in calls):
        total_s += min(start_s - end_s, IDLE_MS / 1_000) if end_s and start_s > end_s else 0.0
        total_s += max(start_s + duration_s - max(start_s, end_s), 0.0)
        end_s = max(end_s, start_s + duration_s)
    return total_s


def line_of(settings: Settings, plan: Plan) -> Line:
    """What a plan wants to be shown: what was heard live, or what its stages have made of it. Raises CalltideError."""
    admin = AdminClient(kafka.client(settings))
    calls = [call.call_id for call in plan.calls]
    try:
        if plan.from_stage:
            topic = plan.scores
            ranges = kafka.ranges(admin, topic, history.partitions(admin, topic), ANSWER_S)
            return line(history.read(settings, topic, ranges), calls)
        return line(_live(settings, plan), calls)
    except KafkaException as error:
        raise CalltideError(f"Kafka: {error.args[0].str()}; see that it runs and try again") from error


def _live(settings: Settings, plan: Plan) -> Iterable[Message]:
    """Where the calls were heard, up to the end of the last of them."""
    sources = plan.sources[SCORES]
    left = Counter(call.partition for call in plan.calls)
    position: dict[int, int] = {}
    wanted = {call.call_id.encode() for call in plan.calls}

    def enough(number: int) -> bool:
        return position[number] >= sources[number].likely and left[number] <= 0

    ranges = {number: (source.first, source.end) for number, source in sources.items()}
    for message in history.read(settings, SCORES, ranges, enough=enough):
        number = kafka.partition_of(message)
        position[number] = (message.offset() or 0) + 1
        if message.key() in wanted and dict(kafka.headers_of(message)).get("kind") == b"call_ended":
            left[number] -= 1
        yield message


class Publication:
    """Sends a line at the speed of its plan. `run` ends when all is sent, somebody stops it, or `stop` is set."""

    def __init__(self, settings: Settings, plan: Plan, events: Line, place_ms: int = 0) -> None:
        """From `place_ms` on. Raises CalltideError when Kafka does not answer."""
        assert plan.publish is not None
        self.settings = settings
        self.plan = plan
        self.line = events
        self.state: ReplayState = "playing"
        self.speed = plan.publish
        self._place = float(place_ms)
        self._since = time.monotonic()
        """When it was there."""
        self._next = 0
        self._told = 0.0
        Topics(settings.bootstrap_servers, settings.kafka.client).create(
            [row for row in settings.topics if row.name == SCORES_REPLAYED] + [control_topic(plan.name)]
        )

    @property
    def place_ms(self) -> float:
        """Where it is now."""
        if self.state != "playing":
            return self._place
        return min(self._place + (time.monotonic() - self._since) * 1_000 * self.speed, self.line.length_ms)

    def position(self, *, reset: bool = False) -> ReplayPosition:
        """The same for others."""
        return ReplayPosition(
            replay=self.plan.name,
            begun_at=self.plan.created_at,
            state=self.state,
            position_ms=int(self._place if reset else self.place_ms),
            of_ms=self.line.length_ms,
            speed=self.speed,
            reset=reset,
        )

    def run(self, stop: threading.Event, tell: Callable[[ReplayPosition], None] = lambda _position: None) -> None:
        """`tell` hears several times a second where it is. Raises CalltideError when Kafka refuses, or another program
        shows the same replay."""
        producer = Producer(
            kafka.producer(
                self.settings,
                **{
                    "transactional.id": f"{self.settings.kafka.group_prefix}.{self.plan.namespace}publish",
                    # Other replays share the partition: who is killed in a transaction holds them up no longer.
                    "transaction.timeout.ms": 10_000,
                },
            )
        )
        control = self._control()
        try:
            producer.init_transactions(ANSWER_S)
            self._jump(producer, self._place)
            while not stop.is_set() and self.state in ("playing", "paused"):
                self._send_due(producer)
                tell(self.position())
                if (message := control.poll(self._wait_s())) is not None and message.error() is None:
                    self._obey(producer, Command.model_validate_json(message.value() or b""))
            if self.state in ("playing", "paused"):
                self._hold()
                self.state = "stopped"
                self._send(producer, [self._mark([])])
        except KafkaException as error:
            code = error.args[0].code()
            if code in kafka.FENCED or code == KafkaError.INVALID_PRODUCER_EPOCH:
                raise CalltideError(f"another program shows replay {self.plan.name} from now on") from error
            raise CalltideError(
                f"Kafka: {error.args[0].str()}; `calltide replay resume {self.plan.name}` goes on where it stopped"
            ) from error
        finally:
            control.close()

    def _control(self) -> Consumer:
        """A reader of commands from now on."""
        topic = control_topic(self.plan.name).name
        group = f"{self.settings.kafka.group_prefix}.{self.plan.namespace}publish"
        consumer = Consumer(kafka.consumer(self.settings, **{"group.id": group}))
        ((_, end),) = kafka.ranges(AdminClient(kafka.client(self.settings)), topic, [0], ANSWER_S).values()
        consumer.assign([TopicPartition(topic, 0, end)])
        return consumer

    def _wait_s(self) -> float:
        """Until something is to be done."""
        waits = [TURN_S, self._told + TOLD_S - time.monotonic()]
        if self.state == "playing" and self._next < len(self.line.events):
            waits.append((self.line.places[self._next] - self.place_ms) / 1_000 / self.speed)
        return max(min(waits), 0.001)

    def _hold(self, place_ms: float | None = None) -> None:
        """The clock goes on from here, or from another place."""
        self._place = self.place_ms if place_ms is None else min(max(place_ms, 0.0), self.line.length_ms)
        self._since = time.monotonic()

    def _obey(self, producer: Producer, command: Command) -> None:
        answer: Headers = [(ANSWERS, command.id.encode())]
        self._hold()
        if command.verb in ("seek", "skip"):
            self._jump(producer, command.value + (self._place if command.verb == "skip" else 0.0), answer)
            return
        if command.verb in STATES:
            self.state = STATES[command.verb]
        elif command.verb == "speed":
            self.speed = command.value
        self._send(producer, [self._mark(answer)])

    def _jump(self, producer: Producer, place_ms: float, answer: Headers | None = None) -> None:
        """The new place, and the running calls up to it."""
        self._hold(place_ms)
        self._next = self.line.at(int(self._place))
        before = [([*event.headers, (BEFORE, b"1")], event.value) for event in self.line.so_far(self._next)]
        self._send(producer, [self._mark(answer or [], reset=True), *before])
        self._since = time.monotonic()

    def _send_due(self, producer: Producer) -> None:
        """What is due, and now and then where it is."""
        until = max(self._next, self.line.until(self.place_ms))
        due = [(event.headers, event.value) for event in self.line.events[self._next : until]]
        self._next = until
        if self.state == "playing" and self._next == len(self.line.events):
            self._hold()
            self.state = "ended"
        if self.state == "ended" or time.monotonic() >= self._told + TOLD_S:
            due.append(self._mark([]))
        if due:
            self._send(producer, due)

    def _mark(self, more: Headers, *, reset: bool = False) -> tuple[Headers, bytes]:
        self._told = time.monotonic()
        position = self.position(reset=reset)
        return [("kind", position.kind.encode()), *more], position.model_dump_json().encode()

    def _send(self, producer: Producer, records: Sequence[tuple[Headers, bytes]]) -> None:
        producer.begin_transaction()
        for headers, value in records:
            record: dict[str, Any] = {
                "value": value,
                "key": self.plan.name.encode(),
                "headers": [*headers, (REPLAY, self.plan.name.encode())],
            }
            kafka.put(producer, SCORES_REPLAYED, **record)
        producer.commit_transaction(ANSWER_S)


def place_of(settings: Settings, plan: Plan) -> int | None:
    """Where a replay that was shown before goes on, milliseconds; None: it was not, or longer ago than the topic keeps.

    Raises CalltideError.
    """
    admin = AdminClient(kafka.client(settings))
    place: int | None = None
    try:
        if SCORES_REPLAYED not in admin.list_topics(timeout=ANSWER_S).topics:
            return None
        ranges = kafka.ranges(admin, SCORES_REPLAYED, history.partitions(admin, SCORES_REPLAYED), ANSWER_S)
        for message in history.read(settings, SCORES_REPLAYED, ranges):
            position = position_in(message)
            if position and (position.replay, position.begun_at) == (plan.name, plan.created_at):
                place = 0 if position.state == "ended" else position.position_ms
    except KafkaException as error:
        raise CalltideError(f"Kafka: {error.args[0].str()}; see that it runs and try again") from error
    return place
