"""The records of the wished calls, from the topics of history to those of a replay.

A changer must know: records go in their old order, with their old times, into their old partition, each copy in one
transaction with the offset that it came from. So a replay that was killed goes on where it was, and its stages see what
the live ones saw, at another pace.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.errors import CalltideError
from streams import kafka
from streams.dead_letters import REDRIVEN
from streams.replay.plan import Plan
from streams.settings import Settings

log = logging.getLogger(__name__)

Place = tuple[str, int]
"""Topic and partition."""

MOST: Final = 1_000
"""Records of a transaction. Judgement: about a megabyte of telephone audio; a commit costs 20 ms whatever is in it."""
ANSWER_S: Final = 30.0
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
        self._calls = {call.call_id.encode() for call in plan.calls}
        self._name = f"{settings.kafka.group_prefix}.{plan.namespace}feed.{plan.created_at:%Y%m%d%H%M%S%f}"
        """Group and transactional id. The moment is in it because offsets in topics of live work outlive a replay."""
        self._read: dict[Place, deque[Message]] = {}
        """What was read and is not copied yet."""
        self._position: dict[Place, int] = {}
        """The offset up to which it was read."""
        self._committed: dict[Place, int] = {}
        self._paced: tuple[float, int] | None = None
        """When the first record was sent, monotonic seconds, and its time."""

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
        consumer = Consumer(kafka.consumer(self.settings, **{"group.id": self._name, "enable.partition.eof": True}))
        try:
            producer.init_transactions(ANSWER_S)
            left = self._assign(consumer)
            while (left or any(self._read.values())) and not stop.is_set():
                if wait():
                    stop.wait(0.1)
                    continue
                if sum(map(len, self._read.values())) < MOST:
                    self._fetch(consumer, left)
                self._copy_due(consumer, producer, stop)
            self.done = not left and not any(self._read.values())
        except KafkaException as error:
            raise CalltideError(
                f"Kafka: {error.args[0].str()}; `calltide replay resume {self.plan.name}` goes on where it stopped"
            ) from error
        finally:
            consumer.close()

    def _assign(self, consumer: Consumer) -> dict[Place, int]:
        """Go on where the last run stopped; returns (topic, partition) → offset behind the last, of what is left."""
        ranges = {
            (topic, number): found for topic, source in self.plan.sources.items() for number, found in source.items()
        }
        held = consumer.committed([TopicPartition(*place) for place in ranges], ANSWER_S) if ranges else []
        starts = {(at.topic, at.partition): max(at.offset, ranges[at.topic, at.partition][0]) for at in held}
        left = {place: end for place, (_, end) in ranges.items() if starts[place] < end}
        self._read = {place: deque() for place in left}
        self._position = {place: starts[place] for place in left}
        self._committed = dict(self._position)
        consumer.assign([TopicPartition(*place, starts[place]) for place in left])
        return left

    def _fetch(self, consumer: Consumer, left: dict[Place, int]) -> None:
        """Read on, and forget the partitions of which nothing is left to read."""
        for message in consumer.consume(MOST, 0.02 if any(self._read.values()) else 0.1):
            error, offset = message.error(), message.offset()
            place = message.topic() or "", kafka.partition_of(message)
            if place not in left or offset is None:
                continue
            if error is None:
                if offset < left[place]:
                    if self._wanted(message):
                        self._read[place].append(message)
                    self._position[place] = offset + 1
                elif offset >= left[place]:
                    self._position[place] = left[place]
            elif error.code() == KafkaError._PARTITION_EOF:
                self._position[place] = max(self._position[place], offset)
            elif error.fatal() or not error.retriable():
                raise KafkaException(error)
            if self._position[place] >= left[place]:
                del left[place]

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

    def _due_in(self, message: Message) -> float:
        """Seconds until its time, at the wished speed."""
        at_ms = message.timestamp()[1]
        if self._paced is None:
            self._paced = time.monotonic(), at_ms
        begun, first_ms = self._paced
        return begun + (at_ms - first_ms) / 1_000 / (self.plan.speed or 1.0) - time.monotonic()

    def _wanted(self, message: Message) -> bool:
        if message.key() not in self._calls:
            return False
        if any(name == REDRIVEN for name, _ in kafka.headers_of(message)):
            self.skipped += 1
            return False
        return True

    def _copy(self, consumer: Consumer, producer: Producer, messages: list[Message], offsets: dict[Place, int]) -> None:
        if not messages and not offsets:
            return
        producer.begin_transaction()
        for message in messages:
            record: dict[str, Any] = {
                "value": message.value(),
                "key": message.key(),
                "headers": message.headers(),
                "partition": kafka.partition_of(message),
                "timestamp": message.timestamp()[1],
            }
            while True:
                try:
                    producer.produce(f"{self.plan.namespace}{message.topic()}", **record)
                    break
                except BufferError:
                    producer.poll(0.1)
        if offsets:
            producer.send_offsets_to_transaction(
                [TopicPartition(*place, offset) for place, offset in offsets.items()],
                consumer.consumer_group_metadata(),
                ANSWER_S,
            )
        producer.commit_transaction(ANSWER_S)
        self.copied += len(messages)
