"""Topics read from one offset to another: history, as opposed to what comes.

A changer must know: the end of a range is a high watermark, not the last stable offset, which is what a read_committed
consumer is told when it asks: a transaction that is still open is waited for, since what is in it may count.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas.errors import CalltideError
from streams import kafka
from streams.settings import Settings

ANSWER_S: Final = 30.0
STALLED_S: Final = 75.0
"""A stage's transaction that nobody ends is aborted by Kafka after a minute (streams.runtime); until then nothing
behind it in its partition can be read."""
BATCH: Final = 500
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Ranges = Mapping[int, tuple[int, int]]
"""Partition → (first offset, offset behind the last)."""


def moment(text: str, option: str, now: datetime) -> int:
    """Unix milliseconds of `24h` (s, m, h, d before now) or of an ISO time, UTC if it names no zone.

    Raises CalltideError, which names the option, for anything else.
    """
    try:
        if text[-1:] in _UNITS and text[:-1].isdecimal():
            return round((now - timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])).timestamp() * 1_000)
        at = datetime.fromisoformat(text)
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000)
    except (ValueError, OverflowError):
        raise CalltideError(f"{option} {text} is no time; give 90s, 30m, 24h, 7d or 2026-01-31T14:00Z") from None


def partitions(admin: AdminClient, topic: str) -> list[int]:
    """The partitions of a topic. Raises CalltideError when there is none, KafkaException when Kafka does not answer."""
    found = admin.list_topics(timeout=ANSWER_S).topics.get(topic)
    if found is None:
        raise CalltideError(f"there is no topic {topic}; create it with `calltide topics create`")
    return sorted(found.partitions)


def offsets_at(admin: AdminClient, topic: str, numbers: list[int], at_ms: int) -> dict[int, int | None]:
    """Partition → the first offset of a record of that time (Unix milliseconds) or later; None: there is none yet.

    Raises KafkaException.
    """
    spec = OffsetSpec.for_timestamp(at_ms)
    asked = admin.list_offsets(
        {TopicPartition(topic, number): spec for number in numbers},
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=ANSWER_S,
    )
    found = {place.partition: future.result().offset for place, future in asked.items()}
    return {number: offset if offset >= 0 else None for number, offset in found.items()}


def read(
    settings: Settings,
    topic: str,
    ranges: Ranges,
    *,
    enough: Callable[[int], bool] = lambda _partition: False,
    **client: Any,
) -> Iterator[Message]:
    """The committed records of these ranges, in order within each partition.

    `enough`: whether no more of a partition is wanted, asked after each of its records. Raises CalltideError when an
    end does not come, and KafkaException.
    """
    left = {number: end for number, (first, end) in ranges.items() if end > first}
    if not left:
        return
    options = {"group.id": f"{settings.kafka.group_prefix}.history", "enable.partition.eof": True} | client
    consumer = Consumer(kafka.consumer(settings, **{"fetch.wait.max.ms": 10}, **options))
    try:
        consumer.assign([TopicPartition(topic, number, ranges[number][0]) for number in left])
        deadline = time.monotonic() + STALLED_S
        while left:
            if time.monotonic() > deadline:
                raise CalltideError(
                    f"{topic} cannot be read to its end in partition {', '.join(map(str, sorted(left)))}: "
                    "Kafka does not answer, or a stage hangs in a transaction; try again in a minute"
                )
            for message in consumer.consume(BATCH, 0.1):
                error, number, offset = message.error(), kafka.partition_of(message), message.offset() or 0
                if number not in left:
                    continue
                if error is None:
                    deadline = time.monotonic() + STALLED_S
                    if offset < left[number]:
                        yield message
                        if enough(number):
                            left.pop(number)
                            continue
                    offset += 1
                elif error.code() != KafkaError._PARTITION_EOF:
                    if error.fatal() or not error.retriable():
                        raise KafkaException(error)
                    continue
                if offset >= left[number]:
                    del left[number]
    finally:
        consumer.close()
