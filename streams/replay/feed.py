"""The records of the wished calls, from the topics of history to those of a replay.

A changer must know: records go in their old order, with their old times, into their old partition, each copy in one
transaction with the offset that it came from. So a replay that was killed goes on where it was, and its stages see what
the live ones saw, at another pace.
"""

import logging
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from processors.base import NO_MORE
from schemas.errors import CalltideError
from schemas.topics import STAGES, frames
from streams import history, kafka
from streams.archive import Archive, Damaged
from streams.dead_letters import OVERTAKEN, REDRIVEN
from streams.replay.plan import SLACK_MS, Plan, mark, marks_of, named, plan_topic
from streams.settings import Settings

log = logging.getLogger(__name__)

Place = tuple[str, int]
"""Topic and partition."""

MOST: Final = 1_000
"""Records of a transaction. Judgement: about a megabyte of telephone audio; a commit costs 20 ms whatever is in it."""
ANSWER_S: Final = 30.0
NEAR_MS: Final = 5_000
"""Judgement: so much may the times of one call's records differ from its start, which one producer has written."""
AHEAD_S: Final = 0.02
"""Judgement: what is due within so long is sent now; a wake-up for each packet would cost more."""


class Feed:
    """Copies what the plan names. `run` ends when all of it is copied, or `stop` is set."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self.settings = settings
        self.plan = plan
        self.done = False
        self.copied = 0
        self.skipped = 0
        """Records that dead letters were redriven to: their originals are replayed."""
        self.damaged: dict[str, str] = {}
        """Archived calls that cannot be read, and why: they are left out."""
        self.run_id = uuid.uuid4().hex
        """What the marks of the end say, so that those of a run before this one do not count."""
        self._calls = {call.call_id.encode(): call for call in plan.calls if call.call_id not in plan.archived}
        self._sources = {
            (topic, number): one for topic, source in plan.sources.items() for number, one in source.items()
        }
        self._audio = plan.from_stage == STAGES[0].name
        self._marks: Counter[bytes] = Counter()
        """Ends that were told, by call."""
        self._open: dict[int, set[bytes]] = {}
        """Partition → calls whose last record is still to come."""
        for key, call in self._calls.items():
            self._open.setdefault(call.partition, set()).add(key)
        self._name = f"{settings.kafka.group_prefix}.{plan.namespace}feed.{plan.created_at:%Y%m%d%H%M%S%f}"
        """Group and transactional id. The moment is in it because offsets in topics of live work outlive a replay."""
        self._read: dict[Place, deque[Message]] = {}
        """What was read and is not copied yet."""
        self._position: dict[Place, int] = {}
        """The offset up to which it was read."""
        self._committed: dict[Place, int] = {}
        self._resting: set[Place] = set()
        """Where nothing more is read."""
        self._begun: float | None = None
        """When there was something to send first, monotonic seconds."""
        self._first_ms = 0
        """The time of that."""

    @property
    def group(self) -> str:
        """The consumer group whose offsets are the progress."""
        return self._name

    def run(self, stop: threading.Event, wait: Callable[[], bool] = lambda: False) -> None:
        """`wait`: whether the stages have enough to do for now. Raises CalltideError when Kafka refuses."""
        producer = Producer(
            kafka.producer(
                self.settings,
                **{"transactional.id": self._name, "linger.ms": 5, "queue.buffering.max.kbytes": 65_536},
            )
        )
        # What is gone is told: to go on behind it would cut calls in two.
        own = {"group.id": self._name, "enable.partition.eof": True, "auto.offset.reset": "error"}
        consumer = Consumer(kafka.consumer(self.settings, **own))
        try:
            producer.init_transactions(ANSWER_S)
            self._assign(consumer)
            while (left := self._left()) or any(self._read.values()):
                if stop.is_set():
                    return
                if done := {*self._position} - left - self._resting:
                    # The rest of a partition is no business of ours, and may be long.
                    consumer.pause([TopicPartition(*place) for place in done])
                    self._resting |= done
                if wait():
                    stop.wait(0.1)
                    continue
                if sum(map(len, self._read.values())) < MOST:
                    self._fetch(consumer, left)
                self._copy_due(consumer, producer, stop)
            self._from_archive(producer, stop, wait)
            if not stop.is_set():
                self._no_more(producer)
                self.done = True
        except KafkaException as error:
            if error.args[0].code() in OVERTAKEN:
                raise CalltideError(
                    f"replay {self.plan.name} is run by another program now; leave it to that"
                ) from error
            raise CalltideError(
                f"Kafka: {error.args[0].str()}; `calltide replay resume {self.plan.name}` goes on where it stopped"
            ) from error
        finally:
            consumer.close()

    def _assign(self, consumer: Consumer) -> None:
        """Go on where the last run stopped."""
        places = [TopicPartition(*place) for place in self._sources]
        for held in consumer.committed(places, ANSWER_S) if places else []:
            place = held.topic, held.partition
            self._position[place] = self._committed[place] = max(held.offset, self._sources[place].first)
            self._read[place] = deque()
        consumer.assign([TopicPartition(*place, offset) for place, offset in self._position.items()])
        self._first_ms = self._earliest_ms() if self.plan.speed is not None else 0

    def _earliest_ms(self) -> int:
        """The time of what is to be sent first: partitions begin at different times."""
        begin = min((call.start_ms for call in self._calls.values()), default=0)
        left: dict[str, dict[int, tuple[int, int]]] = {}
        for topic, number in self._left():
            left.setdefault(topic, {})[number] = self._position[topic, number], self._sources[topic, number].end
        peeked = [
            message.timestamp()[1]
            for topic, ranges in left.items()
            for message in history.read(self.settings, topic, ranges, enough=lambda _number: True)
        ]
        return max(begin, min(peeked, default=begin))

    def _left(self) -> set[Place]:
        """Where there is more to read: to where the calls likely end, and on until the end of each of them was seen.

        What a run before this one has seen is not known here: then it reads to where all must have ended.
        """
        return {
            place
            for place, source in self._sources.items()
            if self._position[place] < source.likely
            or (self._position[place] < source.end and self._open.get(place[1]))
        }

    def _fetch(self, consumer: Consumer, left: set[Place]) -> None:
        """Read on."""
        gone: list[Place] = []
        for message in consumer.consume(MOST, 0.02 if any(self._read.values()) else 0.1):
            error, offset = message.error(), message.offset()
            place = message.topic() or "", kafka.partition_of(message)
            if place not in left or offset is None:
                continue
            if error is None:
                if offset < self._sources[place].end and self._wanted(message):
                    self._read[place].append(message)
                self._position[place] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._position[place] = max(self._position[place], offset)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                gone.append(place)
            elif error.fatal() or not error.retriable():
                raise KafkaException(error)
        for place in gone:
            self._deleted(place)
        if gone:
            consumer.assign([TopicPartition(*place, offset) for place, offset in self._position.items()])
            self._resting.clear()

    def _deleted(self, place: Place) -> None:
        """Kafka has deleted what was to be read next: go on behind it.

        Raises CalltideError if it was of a call of the plan.
        """
        topic, number = place
        ranges = kafka.ranges(AdminClient(kafka.client(self.settings)), topic, [number], ANSWER_S)
        left = [*history.read(self.settings, topic, ranges, enough=lambda _number: True)]
        oldest_ms = left[0].timestamp()[1] if left else round(time.time() * 1_000)
        waited = self._open.get(number, set())
        gone = {
            key
            for key, call in self._calls.items()
            if call.partition == number and call.start_ms <= oldest_ms + NEAR_MS and key in waited
        }
        for message in history.read(self.settings, topic, ranges if gone else {}, enough=lambda _number: not gone):
            if dict(kafka.headers_of(message)).get("kind") == b"call_started":
                gone.discard(message.key() or b"")
        if gone:
            calls = sorted(self._calls[key].call_id for key in gone)
            raise CalltideError(
                f"Kafka has deleted records of {named(calls)} from {topic} meanwhile "
                f"(CALLTIDE_KAFKA__RETENTION_HOURS); {self._drop}"
            )
        self._position[place] = max(self._position[place], ranges[number][0])

    def _copy_due(self, consumer: Consumer, producer: Producer, stop: threading.Event) -> None:
        """Copy what is due, with the offsets behind it."""
        due: list[Message] = []
        offsets: dict[Place, int] = {}
        for place, messages in self._read.items():
            while messages and (self.plan.speed is None or self._due_in(messages[0]) <= AHEAD_S):
                due.append(messages.popleft())
            behind = (messages[0].offset() or 0) if messages else self._position[place]
            if behind != self._committed[place]:
                offsets[place] = behind
        if due or offsets:
            self._copy(consumer, producer, due, offsets)
            self._committed.update(offsets)
        elif waiting := [self._due_in(messages[0]) for messages in self._read.values() if messages]:
            stop.wait(min(max(min(waiting), AHEAD_S), 0.5))

    def _from_archive(self, producer: Producer, stop: threading.Event, wait: Callable[[], bool]) -> None:
        """One call after the other, each in one transaction with a mark of it in the topic of the plan."""
        if not self.plan.archived:
            return
        fed = {*marks_of(self.settings, self.plan.name)}
        store = Archive(self.settings)
        for call_id, lane in self.plan.archived.items():
            while wait() and not stop.is_set():
                stop.wait(0.1)
            if stop.is_set():
                return
            if call_id in fed:
                continue
            try:
                kept = store.find(call_id)
                records = store.records(kept) if kept else []
            except Damaged as error:
                self.damaged[call_id] = str(error)
                continue
            if not kept:
                self.damaged[call_id] = f"it is in the archive {store.url} no more"
                continue
            producer.begin_transaction()
            for record in records:
                kafka.put(
                    producer,
                    f"{self.plan.namespace}{frames(lane)}",
                    value=record.value,
                    key=call_id.encode(),
                    headers=[*record.headers.items()],
                    timestamp=record.timestamp_ms,
                )
            kafka.put(producer, plan_topic(self.plan.name).name, **mark(call_id))
            producer.commit_transaction(ANSWER_S)
            self.copied += len(records)

    def _no_more(self, producer: Producer) -> None:
        """Behind the last record of each partition: what fell silent ends there, and all stages pass it on."""
        producer.begin_transaction()
        for row in self.plan.firsts:
            for number in range(self.plan.partitions):
                kafka.put(
                    producer,
                    row.reads,
                    value=f"{self.run_id}/{row.lane}".encode(),
                    headers=[("kind", NO_MORE.encode())],
                    partition=number,
                    timestamp=round(time.time() * 1_000),
                )
        producer.commit_transaction(ANSWER_S)

    @property
    def _drop(self) -> str:
        return (
            f"`calltide replay drop {self.plan.name}`, then begin again: what the archive has comes from there, and "
            "the rest is left out"
        )

    def _due_in(self, message: Message) -> float:
        """Seconds until its time, at the wished speed."""
        at_ms = message.timestamp()[1]
        if self._begun is None:
            self._begun = time.monotonic()
        return self._begun + (at_ms - self._first_ms) / 1_000 / (self.plan.speed or 1.0) - time.monotonic()

    def _wanted(self, message: Message) -> bool:
        key = message.key()
        call = self._calls.get(key) if key else None
        # An earlier or a later call of the same name is another one.
        at_ms = message.timestamp()[1]
        if call is None or key is None or not call.start_ms - NEAR_MS <= at_ms <= call.last_ms + SLACK_MS:
            return False
        headers = dict(kafka.headers_of(message))
        if REDRIVEN in headers:
            self.skipped += 1
            return False
        kind = headers.get("kind")
        self._marks[key] += kind == b"call_ended"
        if call.ends_with(kind, at_ms, self._marks[key], self._audio):
            self._open[call.partition].discard(key)
        return True

    def _copy(self, consumer: Consumer, producer: Producer, messages: list[Message], offsets: dict[Place, int]) -> None:
        producer.begin_transaction()
        for message in messages:
            kafka.put(
                producer,
                f"{self.plan.namespace}{message.topic()}",
                value=message.value(),
                key=message.key(),
                headers=message.headers(),
                partition=kafka.partition_of(message),
                timestamp=message.timestamp()[1],
            )
        if offsets:
            producer.send_offsets_to_transaction(
                [TopicPartition(*place, offset) for place, offset in offsets.items()],
                consumer.consumer_group_metadata(),
                ANSWER_S,
            )
        producer.commit_transaction(ANSWER_S)
        self.copied += len(messages)
