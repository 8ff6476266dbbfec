"""`scores` to ClickHouse: nothing lost, and nothing doubled for whoever reads with FINAL.

Offsets are committed after the insert is acknowledged. An insert carries a deduplication token made of the offsets it
holds and of its rows, so that a retry of the same batch adds nothing; a batch that is cut differently after a crash
adds rows of the same identity, which the ReplacingMergeTree tables make one.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from prometheus_client import Counter, Gauge

from deploy.migrations import apply_migrations
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallEvent, CallStarted, Score, decode
from schemas.topics import SCORES
from streams import kafka
from streams.settings import Settings

log = logging.getLogger(__name__)

MIGRATIONS: Final = Path(__file__).parent.parent / "deploy" / "clickhouse"
RETRY_S: Final = (0.2, 10.0)
"""First and longest pause between tries while ClickHouse is away (judgement)."""

ROWS = Counter("calltide_sink_rows_total", "rows inserted", ["table"])
SKIPPED = Counter("calltide_sink_unreadable_total", "records of scores that are no event")
WAITING = Gauge("calltide_sink_waiting", "1 while ClickHouse does not answer")


class Unreachable(CalltideError):
    """No ClickHouse answers, or none that lets us in: it may come."""


def connect(settings: Settings, *, create: bool = False) -> Client:
    """A client of the database. `create` makes it when it is absent. Raises Unreachable when none answers."""
    parts = urlsplit(settings.clickhouse_url)
    options: dict[str, Any] = {
        "host": parts.hostname or "127.0.0.1",
        "port": parts.port or (8443 if parts.scheme == "https" else 8123),
        "secure": parts.scheme == "https",
        "username": parts.username or "default",
        "password": parts.password or "",
        "compress": False,
        "autogenerate_session_id": False,
    }
    database = settings.clickhouse.database
    try:
        if create:
            with clickhouse_connect.get_client(**options) as first:
                first.command(f"CREATE DATABASE IF NOT EXISTS {database}")
        return clickhouse_connect.get_client(**options, database=database)
    except (ClickHouseError, OSError) as error:
        where = f"{options['host']}:{options['port']}"
        raise Unreachable(
            f"no ClickHouse at {where} ({_reason(error)}); start it with `calltide up`, or set CALLTIDE_CLICKHOUSE__URL"
        ) from None


def _reason(error: BaseException) -> str:
    """The innermost cause in one line: libraries wrap "connection refused" in several others."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error).splitlines()[0][:200]


def migrate(settings: Settings) -> list[str]:
    """Bring the schema up to date; returns the names of the migrations that were applied."""
    with connect(settings, create=True) as client:
        return apply_migrations(client, MIGRATIONS)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def call_row(event: CallStarted | CallEnded, version: str) -> dict[str, Any]:
    """The row of `calls` for the start or the end of a call."""
    call = event.call
    row: dict[str, Any] = {
        "tenant": call.tenant,
        "call_id": call.call_id,
        "pipeline_version": version,
        "queue": call.queue,
        "agent": call.agent,
        "source": call.source,
        "roles": list(call.roles),
        "metadata": call.metadata,
        "started_at": _time(call.started_at),
        "revision": 1,
    }
    if isinstance(event, CallEnded):
        row |= {
            "ended_at": _time(event.ended_at),
            "duration_ms": event.duration_ms,
            "end_reason": event.reason,
            "missing_ms": event.missing_ms,
            "dropped_packets": event.dropped_packets,
            "revision": 2,
        }
    return row


def utterance_row(score: Score, topic: str, partition: int, offset: int) -> dict[str, Any]:
    """The row of `utterances` for a score."""
    call, emotion, sentiment = score.call, score.emotion, score.sentiment
    return {
        "tenant": call.tenant,
        "call_id": call.call_id,
        "pipeline_version": score.pipeline_version,
        "channel": score.channel,
        "start_ms": score.start_ms,
        "end_ms": score.end_ms,
        "spoken_at": _time(call.started_at + timedelta(milliseconds=score.start_ms)),
        "captured_at": _time(score.captured_at),
        "queue": call.queue,
        "agent": call.agent,
        "speaker": score.speaker,
        "role": score.role,
        "speaker_confidence": score.speaker_confidence,
        "cut": score.cut,
        "text": score.text,
        "words.text": [word.text for word in score.words],
        "words.start_ms": [word.start_ms for word in score.words],
        "words.end_ms": [word.end_ms for word in score.words],
        "words.confidence": [word.confidence for word in score.words],
        "language": score.language,
        "asr_confidence": score.asr_confidence,
        "asr_model": score.asr_model,
        "flags": list(score.flags),
        "emotion": emotion.label if emotion else "",
        "emotions": emotion.probabilities if emotion else {},
        "emotion_model": emotion.model if emotion else "",
        "emotion_skipped": score.emotion_skipped or "",
        "sentiment": sentiment.label if sentiment else "",
        "score": sentiment.score if sentiment else None,
        "text_score": sentiment.text_score if sentiment else None,
        "voice_score": sentiment.voice_score if sentiment else None,
        "confidence": sentiment.confidence if sentiment else None,
        "members": sentiment.members if sentiment else {},
        "sentiment_model": sentiment.model if sentiment else "",
        "call_score": score.running.score,
        "party_score": score.running.party_score,
        "call_utterances": score.running.utterances,
        "topic": topic,
        "partition": partition,
        "offset": offset,
    }


@dataclass(slots=True)
class _Batch:
    calls: list[dict[str, Any]]
    utterances: list[dict[str, Any]]
    spans: dict[int, tuple[int, int]]
    """First and last offset by partition."""

    @property
    def rows(self) -> int:
        return len(self.calls) + len(self.utterances)

    @property
    def offsets(self) -> str:
        return ",".join(f"{partition}:{first}-{last}" for partition, (first, last) in sorted(self.spans.items()))


class Sink:
    """Consumer group → ClickHouse."""

    def __init__(self, settings: Settings, slot: int = 0, topic: str = SCORES) -> None:
        self.settings = settings
        self.topic = topic
        self.client: Client | None = None
        group = f"{settings.kafka.group_prefix}.sink"
        self.consumer = Consumer(
            kafka.consumer(
                settings,
                **{
                    "group.id": group,
                    "group.instance.id": f"{group}.{slot}",
                    "session.timeout.ms": settings.kafka.session_timeout_ms,
                    # A sink may wait for ClickHouse for longer than Kafka would wait for the sink.
                    "max.poll.interval.ms": 3_600_000,
                },
            )
        )

    def run(self, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Insert until `stop` is set.

        Raises CalltideError when the database is not one that this version can bring up to date, and KafkaException for
        what only a restart mends.
        """
        try:
            if self._insist(lambda: migrate(self.settings), stop):
                self.consumer.subscribe([self.topic], on_assign=lambda _consumer, _partitions: ready())
            while not stop.is_set():
                batch = self._collect(stop)
                if batch.spans and self._insist(lambda batch=batch: self._insert(batch), stop):  # type: ignore[misc]
                    self._commit(batch)
        finally:
            self.consumer.close()
            self._disconnect()

    def _collect(self, stop: threading.Event) -> _Batch:
        batch = _Batch([], [], {})
        limits = self.settings.sink
        deadline = time.monotonic() + limits.batch_ms / 1_000
        while (room := limits.batch_rows - batch.rows) > 0 and not stop.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            for message in self.consumer.consume(min(room, 500), min(left, 0.1)):
                error = message.error()
                if error is None:
                    self._add(batch, message)
                elif error.fatal() or not error.retriable():
                    raise KafkaException(error)
        return batch

    def _add(self, batch: _Batch, message: Message) -> None:
        partition, offset = kafka.partition_of(message), message.offset() or 0
        first, _ = batch.spans.get(partition, (offset, offset))
        batch.spans[partition] = (first, offset)
        headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
        try:
            event: CallEvent = decode(headers, message.value() or b"")
            if isinstance(event, Score):
                batch.utterances.append(utterance_row(event, self.topic, partition, offset))
            elif isinstance(event, CallStarted | CallEnded):
                batch.calls.append(call_row(event, self.settings.pipeline_version))
        except (KeyError, ValueError, OverflowError) as error:
            # A kind that is none or not text, an event that is none, a time beyond the calendar. It stays in the topic,
            # at the offset named here.
            SKIPPED.inc()
            where = {"topic": self.topic, "partition": partition, "offset": offset}
            log.error("not an event: %s: %s", type(error).__name__, error, extra=where)

    def _insert(self, batch: _Batch) -> None:
        if self.client is None:
            self.client = connect(self.settings)
        for table, rows in (("calls", batch.calls), ("utterances", batch.utterances)):
            if rows:
                _insert_rows(self.client, table, rows, f"{self.topic}/{batch.offsets}/{table}")
                ROWS.labels(table).inc(len(rows))

    def _disconnect(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    def _commit(self, batch: _Batch) -> None:
        offsets = [TopicPartition(self.topic, partition, last + 1) for partition, (_, last) in batch.spans.items()]
        try:
            self.consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # The rows are in; whoever reads these records again inserts rows of the same identity.
            log.warning("offsets not committed: %s", error.args[0].str())

    def _insist(self, action: Callable[[], object], stop: threading.Event) -> bool:
        """Try until it works or `stop` is set (False): ClickHouse may be away for long; Kafka keeps what is not in."""
        pause_s, longest_s = RETRY_S
        while not stop.is_set():
            try:
                action()
            except (Unreachable, ClickHouseError, OSError) as error:
                self._disconnect()
                WAITING.set(1)
                log.warning("waiting for ClickHouse: %s", str(error).splitlines()[0][:300])
                stop.wait(pause_s)
                pause_s = min(pause_s * 2, longest_s)
            else:
                WAITING.set(0)
                return True
        return False


def _insert_rows(client: Client, table: str, rows: Sequence[dict[str, Any]], offsets: str) -> None:
    block = "\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows).encode()
    # The offsets alone would not do: those of a topic made anew, or of another cluster, come again for other rows.
    token = f"{offsets}/{hashlib.sha256(block).hexdigest()}"
    client.raw_insert(
        table,
        insert_block=block,
        fmt="JSONEachRow",
        settings={"insert_deduplication_token": token, "input_format_import_nested_json": 0},
    )


def ask(settings: Settings, sql: str, form: str) -> str:
    """The answer to a statement, in one of ClickHouse's formats. Raises CalltideError with ClickHouse's own words."""
    with connect(settings) as client:
        try:
            answer = client.raw_query(sql, fmt=form)
        except ClickHouseError as error:
            raise CalltideError(f"ClickHouse refuses: {str(error).splitlines()[0][:500]}") from None
    return answer.decode(errors="replace")
