"""From the calls to Kafka: a ring for each call before one producer for all.

A changer must know: `put` never waits. librdkafka takes a record into its own queue, which its own threads send; when
that is full, because the broker is slow or away, records wait in their call's ring, and when the ring is full its
oldest packet goes. A packet knows its place in the call, so what went is a hole and nothing else moves. Start and end
markers are never dropped. All of it runs in the event loop.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from processors.base import Record
from schemas.errors import CalltideError
from streams import kafka
from streams.ingest import LINGER_MS
from streams.ingestion import metrics
from streams.settings import Settings

log = logging.getLogger(__name__)

QUEUED: Final = 20_000
"""Most records in librdkafka's queue. Judgement: two seconds of 500 calls with two channels each."""
QUIET_S: Final = 10.0
"""Kafka that acknowledged nothing for so long, with records waiting, counts as away."""


class Ring:
    """The records of one call that Kafka's client has no room for, oldest first: at most `packets` of audio.

    `lossless`: whoever sends is made to wait when it is `full`, so what has come all the same is kept.
    """

    def __init__(self, source: str, packets: int, *, lossless: bool = False) -> None:
        self.waiting: deque[Record] = deque()
        self.dropped = 0
        self._packets = packets
        self._lossless = lossless
        self._audio = 0
        self._source = source

    def put(self, record: Record) -> None:
        """Add a record; the oldest packet of audio goes when there is no room."""
        self.waiting.append(record)
        self._audio += record.kind == "audio"
        if self._audio > self._packets and not self._lossless:
            at = next(at for at, one in enumerate(self.waiting) if one.kind == "audio")
            del self.waiting[at]
            self._audio -= 1
            self.dropped += 1
            metrics.OVERFLOWS.labels(self._source).inc()

    def take(self) -> None:
        """The oldest record is on its way."""
        self._audio -= self.waiting.popleft().kind == "audio"

    @property
    def full(self) -> bool:
        """Whether it is half full: whoever can wait has to."""
        return self._audio * 2 >= self._packets


class Feed:
    """The producer of a process, writing to `topic`."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._topic = topic
        options = {
            "linger.ms": LINGER_MS,
            "queue.buffering.max.kbytes": 65_536,
            "queue.buffering.max.messages": QUEUED,
        }
        self._producer = Producer(kafka.producer(settings, **options))
        self._backlog: dict[Ring, None] = {}
        """Rings with records in them, in the order of their turn."""
        self._acknowledged_at = time.monotonic()
        self.undelivered = 0
        self._failure = ""
        self._refusal = ""

    @property
    def answers(self) -> bool:
        """Whether Kafka takes what it is given."""
        return time.monotonic() - self._acknowledged_at < QUIET_S

    def to(self, ring: Ring) -> Callable[[Record], None]:
        """Where a call puts its records."""

        def put(record: Record) -> None:
            if ring.waiting or not self._produce(record):
                ring.put(record)
                self._backlog[ring] = None

        return put

    def pump(self) -> None:
        """To be called often: hear what was acknowledged, and send on what waits, a record of each call in turn.

        Raises CalltideError once Kafka's client has given up for good.
        """
        if self._refusal:
            raise CalltideError(f"Kafka refuses calls: {self._refusal}; see its log and start again")
        self._producer.poll(0)
        while self._backlog:
            ring = next(iter(self._backlog))
            if not self._produce(ring.waiting[0]):
                break
            ring.take()
            del self._backlog[ring]
            if ring.waiting:
                self._backlog[ring] = None
        metrics.WAITING.set(len(self._backlog))
        if not len(self._producer):
            self._acknowledged_at = time.monotonic()

    def close(self, seconds: float) -> None:
        """Send all there is; blocks for so long at most. Raises CalltideError when records are left behind."""
        deadline = time.monotonic() + seconds
        while self._backlog and time.monotonic() < deadline:
            self._producer.poll(0.05)
            self.pump()
        left = self._producer.flush(max(deadline - time.monotonic(), 0.1)) + sum(
            len(ring.waiting) for ring in self._backlog
        )
        if left:
            metrics.UNDELIVERED.inc(left)
            raise CalltideError(f"{left} records did not reach Kafka before the end; see that the broker runs")

    def _produce(self, record: Record) -> bool:
        try:
            self._producer.produce(
                self._topic,
                key=record.call_id.encode(),
                value=record.value,
                headers=list(record.headers.items()),
                timestamp=record.timestamp_ms,
                on_delivery=self._delivered,
            )
        except BufferError:
            return False
        except KafkaException as error:
            # Not here: whoever put it is a connection, and this is the end of the process.
            self._refusal = error.args[0].str()
            return False
        return True

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._acknowledged_at = time.monotonic()
            metrics.ACKNOWLEDGED.observe(max(time.time() - message.timestamp()[1] / 1_000, 0.0))
            return
        self.undelivered += 1
        metrics.UNDELIVERED.inc()
        if error.str() != self._failure:
            self._failure = error.str()
            log.error("records did not reach Kafka: %s", self._failure)
