"""Kafka clients: the settings that every producer and consumer of Calltide shares, and errors in plain words.

The same settings serve the embedded broker and any cluster; `kafka.client` is passed through last, so SASL and TLS (and
anything else librdkafka knows) can be set from outside.
"""

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas.errors import CalltideError
from streams.settings import Settings

log = logging.getLogger(__name__)

MAXIMUM_MESSAGE_BYTES = 2_097_152
"""As in the topics' own setting: a segment of 15 s at 16 kHz in 16 bit is 480 kB."""

REFUSED: Final = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError._INVALID_ARG,
)
"""What a person has to mend."""
FENCED: Final = (KafkaError._FENCED, KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID)
"""Another took the transactional id or the group member. A consumer says no more than that it is a fatal error, in a
message whose `fatal()` is false."""

ANSWER_S: Final = 5.0
"""Judgement: no broker takes so long to say that it is there."""
GROUP_ANSWER_S: Final = 30.0
"""Judgement: a broker that has just started takes some seconds to find a group."""
NEWS_EVERY_S: Final = 10.0
"""librdkafka tries a broker that is away 40 times a second, and says so each time."""
_told: dict[int, float] = {}
"""Code of an error → when it was last logged, monotonic seconds."""


def _log_event(error: KafkaError) -> None:
    """librdkafka reports broker trouble here; it retries by itself, so this is news, not a failure."""
    now = time.monotonic()
    if now - _told.get(error.code(), -NEWS_EVERY_S) >= NEWS_EVERY_S:
        _told[error.code()] = now
        log.warning("kafka: %s", error.str())


def client(settings: Settings, **more: Any) -> dict[str, Any]:
    """The configuration of any client."""
    common: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "error_cb": _log_event,
        # Its own lines are no JSON, and it repeats them for as long as a broker is away. Errors come to `error_cb`.
        "log_level": 2,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        # Otherwise a client whose only broker is away begins its connections anew, without any back-off; and offsets
        # sent in a transaction after its return wait for ever, whatever their timeout (librdkafka issue 5511, open as
        # of 2.16.0).
        "metadata.recovery.strategy": "none",
    }
    return common | more | settings.kafka.client


def producer(settings: Settings, **more: Any) -> dict[str, Any]:
    """The configuration of a producer: Kafka's own murmur2 partitioner, so that Java clients co-partition."""
    common: dict[str, Any] = {
        "partitioner": "murmur2_random",
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 0,
        "message.max.bytes": MAXIMUM_MESSAGE_BYTES,
        # A transaction begun while the markers of the last one are being written is refused and asked for again after
        # this pause: at its default of 100 ms it is the largest part of a stage's latency (docs/runtime.md).
        "retry.backoff.ms": 5,
        "retry.backoff.max.ms": 1_000,
    }
    return client(settings, **(common | more))


def consumer(settings: Settings, **more: Any) -> dict[str, Any]:
    """The configuration of a consumer that sees committed records only."""
    common: dict[str, Any] = {
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 500,
        "fetch.queue.backoff.ms": 10,
        # Bounded memory: what librdkafka may hold ahead of the loop.
        "queued.max.messages.kbytes": 16_384,
        "fetch.message.max.bytes": MAXIMUM_MESSAGE_BYTES,
    }
    return client(settings, **(common | more))


def check(settings: Settings) -> None:
    """Raise CalltideError if no broker answers."""
    quiet = {"error_cb": lambda _error: None, "log_level": 0}
    try:
        AdminClient(client(settings) | quiet).list_topics(timeout=ANSWER_S)
    except KafkaException as error:
        raise CalltideError(
            f"no Kafka at {settings.bootstrap_servers} ({error.args[0].str()}); start it with `calltide up`, "
            "or set CALLTIDE_KAFKA__BOOTSTRAP_SERVERS"
        ) from None


def ranges(admin: AdminClient, topic: str, partitions: Iterable[int], timeout_s: float) -> dict[int, tuple[int, int]]:
    """Partition → (first offset, high watermark). Raises KafkaException.

    A read_committed consumer that is asked for its watermarks tells the last stable offset instead, before which a
    transaction that is still open does not count.
    """
    places = [TopicPartition(topic, number) for number in partitions]
    first, last = (
        admin.list_offsets(
            dict.fromkeys(places, spec), isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=timeout_s
        )
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
    )
    return {place.partition: (first[place].result().offset, last[place].result().offset) for place in places}


class Groups:
    """How far consumer groups have read; it joins none of them, and asks for each by a consumer of its own.

    An AdminClient could ask for all of them, and ends the whole process when a group's coordinator is not ready
    (librdkafka 2.16.0: rd_kafka_handle_OffsetFetch takes it for a consumer, which it is not). One thread at a time may
    ask for a group.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumers: dict[tuple[str, str], Consumer] = {}
        self._lock = threading.Lock()

    def _consumer(self, group: str, isolation: str) -> Consumer:
        options = {
            "group.id": group,
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
            "queued.max.messages.kbytes": 1_024,
        }
        with self._lock:
            if (group, isolation) not in self._consumers:
                self._consumers[group, isolation] = Consumer(consumer(self._settings, **options))
            return self._consumers[group, isolation]

    def committed(self, group: str, places: Iterable[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        """The places with the offsets that the group has committed, negative where it has none. Raises
        KafkaException."""
        # One that reads what is committed only would wait here for a transaction that is open.
        return self._consumer(group, "read_uncommitted").committed([*places], timeout_s)

    def without_more(
        self, group: str, places: Iterable[TopicPartition], timeout_s: float
    ) -> set[tuple[str | None, int]]:
        """Those of the places, (topic, partition), in which there is no record from the offset on: Kafka's marks of
        the ends of transactions take offsets, too. What is not known in time is not among them."""
        asking = self._consumer(group, "read_committed")
        found: set[tuple[str | None, int]] = set()
        left = {(place.topic, place.partition) for place in places}
        deadline = time.monotonic() + timeout_s
        try:
            asking.assign([*places])
            while left and (pause_s := deadline - time.monotonic()) > 0:
                for message in asking.consume(len(left), min(pause_s, 0.1)):
                    place = message.topic(), partition_of(message)
                    error = message.error()
                    if error is not None and error.code() == KafkaError._PARTITION_EOF and place in left:
                        found.add(place)
                    left.discard(place)
        finally:
            asking.unassign()
        return found

    def close(self) -> None:
        """Let go of the connections."""
        for one in self._consumers.values():
            one.close()
        self._consumers.clear()


def put(producer: Producer, topic: str, **record: Any) -> None:
    """Hand a record to the producer, as `Producer.produce` takes it; waits for room where too many wait already."""
    while True:
        try:
            producer.produce(topic, **record)
            return
        except BufferError:
            producer.poll(0.1)


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """The headers of a message as the wire has them: names and bytes."""
    return cast("list[tuple[str, bytes | None]]", message.headers() or [])


def partition_of(message: Message) -> int:
    """The partition of a message; −1 for an event that belongs to none."""
    partition = message.partition()
    return -1 if partition is None else partition


def from_now_on(consumer: Consumer, held: list[TopicPartition]) -> list[TopicPartition]:
    """These partitions with the offset to begin at: where the group is, and for a group that is new, what comes from
    now on. Written down at once, or what comes while nobody reads would be passed over.

    Raises KafkaException.
    """
    known = consumer.committed(held, GROUP_ANSWER_S)
    for one in known:
        if one.error is not None:
            raise KafkaException(one.error)
    fresh = [one for one in known if one.offset < 0]
    for one in fresh:
        one.offset = consumer.get_watermark_offsets(one, timeout=GROUP_ANSWER_S)[1]
    if fresh:
        consumer.commit(offsets=fresh, asynchronous=False)
    return known


def produce(
    producer: Producer,
    topic: str,
    value: bytes | None,
    key: bytes | str | None,
    partition: int,
    headers: Sequence[tuple[str, bytes | None]],
    **more: Any,
) -> None:
    """Write one record and wait until it is there. Raises KafkaException when it is not."""
    failures: list[KafkaError] = []
    producer.produce(
        topic,
        value,
        key,
        partition=partition,
        headers=[*headers],
        on_delivery=lambda failed, _message: failures.append(failed) if failed is not None else None,
        **more,
    )
    if producer.flush(GROUP_ANSWER_S) or failures:
        raise KafkaException(failures[0] if failures else KafkaError(KafkaError._TIMED_OUT))


def bury(producer: Producer, dead_letters: str, message: Message, stage: str, error: Exception) -> None:
    """A record into `dead_letters`, with where it comes from and why, from where `calltide dead-letters redrive` sends
    it again. Raises KafkaException when it cannot be written."""
    about = {
        "topic": message.topic(),
        "partition": partition_of(message),
        "offset": message.offset(),
        "stage": stage,
        "exception.class.name": f"{type(error).__module__}.{type(error).__qualname__}",
        "exception.message": str(error)[:1_000],
    }
    headers = [*headers_of(message), *((f"__connect.errors.{name}", str(one).encode()) for name, one in about.items())]
    where, at_ms = partition_of(message), message.timestamp()[1]
    produce(producer, dead_letters, message.value(), message.key(), where, headers, timestamp=at_ms)
