"""`scores` to ClickHouse: nothing lost, and nothing doubled for whoever reads `utterances` or `calls FINAL`.

Offsets are committed after the insert is acknowledged. An insert carries a deduplication token made of the offsets it
holds and of its rows, so that a retry of the same batch adds nothing; a batch that is cut differently after a crash
adds rows of the same identity, which the ReplacingMergeTree tables make one. Utterances are kept as they were heard;
corrections of their speakers lie beside them, and the view `utterances` applies them.

A changer must know: while ClickHouse is away the sink waits with the batch in its hands, its partitions paused, and
goes on polling Kafka, or Kafka would give the partitions away. A partition that is taken all the same takes its rows
along: whoever gets it reads them again.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from prometheus_client import Counter, Gauge, Histogram

from deploy.migrations import apply_migrations
from schemas.errors import CalltideError
from schemas.events import Acoustics, CallEnded, CallEvent, CallStarted, Correction, Score, decode
from schemas.topics import SCORES
from streams import kafka
from streams.health import Health
from streams.settings import Settings

log = logging.getLogger(__name__)

MIGRATIONS: Final = Path(__file__).parent.parent / "deploy" / "clickhouse"
TABLES: Final = ("calls", "corrections", "utterances_heard")
RETRY_S: Final = (0.2, 10.0)
"""First and longest pause between tries while ClickHouse is away (judgement)."""
ANSWER_S: Final = 60
"""Judgement: an insert takes a part of a second; a server that is silent for so long is asked again."""
LAG_EVERY_S: Final = 1.0

ROWS = Counter("calltide_sink_rows_total", "rows inserted", ["table"])
SKIPPED = Counter("calltide_sink_unreadable_total", "records of scores that are no event")
INSERT = Histogram("calltide_sink_insert_seconds", "time of an insert of all its tables")
WAITING = Gauge("calltide_sink_waiting", "1 while ClickHouse does not answer")
LAG = Gauge("calltide_sink_lag_records", "records of scores that are not in ClickHouse yet")
LAG_SECONDS = Gauge("calltide_sink_lag_seconds", "age of the oldest record that waits for its insert; 0: none waits")


class Unreachable(CalltideError):
    """No ClickHouse answers, or none that lets us in: it may come."""


def connect(settings: Settings, *, create: bool = False, answer_s: int = 300) -> Client:
    """A client of the database that waits `answer_s` seconds for an answer. `create` makes it when it is absent.

    Raises Unreachable when none answers.
    """
    parts = urlsplit(settings.clickhouse_url)
    options: dict[str, Any] = {
        "host": parts.hostname or "127.0.0.1",
        "port": parts.port or (8443 if parts.scheme == "https" else 8123),
        "secure": parts.scheme == "https",
        "username": unquote(parts.username or ("default" if settings.clickhouse.url else settings.clickhouse.user)),
        "password": unquote(parts.password or ("" if settings.clickhouse.url else settings.clickhouse.password)),
        "compress": False,
        "send_receive_timeout": answer_s,
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
            "not_speech_ms": event.not_speech_ms,
            "revision": 2,
        }
    return row


def utterance_row(score: Score, topic: str, partition: int, offset: int) -> dict[str, Any]:
    """The row of `utterances_heard` for a score."""
    call, emotion, sentiment = score.call, score.emotion, score.sentiment
    granular = emotion.granular if emotion else ()
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
        "role_confidence": score.role_confidence,
        "speaker_confidence": score.speaker_confidence,
        "overlap_ms": score.overlap_ms,
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
        "emotion_uncertain": emotion.uncertain if emotion else False,
        "complex_emotion": (emotion.complex or "") if emotion else "",
        "granular.name": [one.name for one in granular],
        "granular.base": [one.base for one in granular],
        "granular.confidence": [one.confidence for one in granular],
        "emotion_model": emotion.model if emotion else "",
        "emotion_skipped": score.emotion_skipped or "",
        # Each of its fields is a column of the same name.
        **(score.acoustics or Acoustics()).model_dump(),
        "sentiment": sentiment.label if sentiment else "",
        "score": sentiment.score if sentiment else None,
        "text_score": sentiment.text_score if sentiment else None,
        "voice_score": sentiment.voice_score if sentiment else None,
        "disagree": sentiment.disagree if sentiment else False,
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


def correction_row(event: Correction, version: str, topic: str, partition: int, offset: int) -> dict[str, Any]:
    """The row of `corrections`."""
    return {
        "tenant": event.call.tenant,
        "call_id": event.call.call_id,
        "pipeline_version": version,
        "started_at": _time(event.call.started_at),
        "speaker": event.speaker,
        "same_as": event.same_as or "",
        "role": event.role,
        "role_confidence": event.role_confidence,
        "topic": topic,
        "partition": partition,
        "offset": offset,
    }


@dataclass(slots=True)
class _Part:
    """The rows of one partition by table, the first and the last offset they were made from, and the first's time."""

    first: int
    last: int
    since_ms: int
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {table: [] for table in TABLES})


class _Batch:
    """What one insert will hold."""

    def __init__(self) -> None:
        self.parts: dict[int, _Part] = {}

    @property
    def rows(self) -> int:
        return sum(len(rows) for part in self.parts.values() for rows in part.rows.values())

    @property
    def offsets(self) -> str:
        return ",".join(f"{partition}:{part.first}-{part.last}" for partition, part in sorted(self.parts.items()))

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        parts = [part for _, part in sorted(self.parts.items())]
        return {table: [row for part in parts for row in part.rows[table]] for table in TABLES}


class Sink:
    """Consumer group → ClickHouse."""

    def __init__(self, settings: Settings, slot: int = 0, topic: str = SCORES) -> None:
        self.settings = settings
        self.topic = topic
        self.client: Client | None = None
        self.health = Health()
        self.batch = _Batch()
        self._positions: dict[int, int] | None = None
        """Partition → the offset up to which it was read, of those that are held; None: Kafka has given none yet."""
        self._away = ""
        """Why ClickHouse does not take rows now."""
        self._lag_at = 0.0
        group = f"{settings.kafka.group_prefix}.sink"
        self.consumer = Consumer(
            kafka.consumer(
                settings,
                **{
                    "group.id": group,
                    "group.instance.id": f"{group}.{slot}",
                    "session.timeout.ms": settings.kafka.session_timeout_ms,
                    "heartbeat.interval.ms": settings.kafka.session_timeout_ms // 4,
                    # Says where a partition ends behind the marks of transactions: otherwise a lag of 0 is never seen.
                    "enable.partition.eof": True,
                },
            )
        )

    def run(self, stop: threading.Event, health: Health | None = None) -> None:
        """Insert until `stop` is set.

        Raises CalltideError when the database is not one that this version can bring up to date, and KafkaException for
        what only a restart mends.
        """
        self.health = health or self.health
        for table in TABLES:
            ROWS.labels(table)
        try:
            if self._insist(lambda: migrate(self.settings), stop):
                self.consumer.subscribe([self.topic], on_assign=self._assign, on_revoke=self._revoke)
                self._tell()
            while not stop.is_set():
                self._collect(stop)
                if self.batch.parts and self._insist(self._insert, stop):
                    log.debug("inserted", extra={"rows": self.batch.rows, "offsets": self.batch.offsets})
                    self._commit(self.batch)
                    self.batch = _Batch()
        finally:
            self.consumer.close()
            self._disconnect()

    def _assign(self, _consumer: Consumer, held: list[TopicPartition]) -> None:
        self._positions = dict.fromkeys((one.partition for one in held), -1)
        self._tell()

    def _revoke(self, _consumer: Consumer, lost: list[TopicPartition]) -> None:
        """What is in hand of these partitions was not committed: it is read again by whoever gets them."""
        for one in lost:
            self.batch.parts.pop(one.partition, None)
        self._positions = None
        self._tell()

    def _tell(self) -> None:
        """Readiness: partitions are held, and ClickHouse takes rows."""
        WAITING.set(bool(self._away))
        if self._away:
            self.health.waiting(f"ClickHouse does not answer: {self._away}")
        elif self._positions is None:
            self.health.waiting("Kafka has given no partitions yet")
        else:
            self.health.ready(partitions=sorted(self._positions))

    def _collect(self, stop: threading.Event) -> None:
        limits = self.settings.sink
        deadline = time.monotonic() + limits.batch_ms / 1_000
        while (room := limits.batch_rows - self.batch.rows) > 0 and not stop.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._poll(min(room, 500), min(left, 0.1))

    def _poll(self, most: int, wait_s: float) -> None:
        """Take what Kafka has, and let it know that this sink lives."""
        self.health.beat()
        for message in self.consumer.consume(most, wait_s):
            error, partition, offset = message.error(), kafka.partition_of(message), message.offset() or 0
            if error is None:
                self._add(message)
                self._read_to(partition, offset + 1)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._read_to(partition, offset)
            elif error.fatal() or error.code() in (*kafka.REFUSED, *kafka.FENCED):
                raise KafkaException(error)
            else:
                # Such as a topic that is not led while its broker starts: librdkafka goes on by itself.
                log.warning("kafka: %s", error.str())
        if time.monotonic() >= self._lag_at + LAG_EVERY_S:
            self._lag_at = time.monotonic()
            self._measure_lag()

    def _read_to(self, partition: int, offset: int) -> None:
        if self._positions is not None and partition in self._positions:
            self._positions[partition] = offset

    def _measure_lag(self) -> None:
        lag = 0
        try:
            for partition, position in (self._positions or {}).items():
                held = TopicPartition(self.topic, partition)
                # A partition that is paused is not fetched, and what is known of its end grows old.
                low, end = self.consumer.get_watermark_offsets(held, timeout=1.0, cached=not self._away)
                if position < 0:
                    (held,) = self.consumer.committed([held], timeout=1.0)
                    self._read_to(partition, position := max(held.offset, low, 0))
                part = self.batch.parts.get(partition)
                lag += max(end - (part.first if part else position), 0)
        except KafkaException:
            return  # the broker is away: the last figure stands
        LAG.set(lag)
        now_ms = time.time() * 1_000
        waited_ms = now_ms - min((part.since_ms for part in self.batch.parts.values()), default=now_ms)
        LAG_SECONDS.set(max(waited_ms, 0.0) / 1_000)

    def _add(self, message: Message) -> None:
        partition, offset = kafka.partition_of(message), message.offset() or 0
        part = self.batch.parts.setdefault(partition, _Part(offset, offset, message.timestamp()[1]))
        part.last = offset
        headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
        try:
            event: CallEvent = decode(headers, message.value() or b"")
            if isinstance(event, Score):
                part.rows["utterances_heard"].append(utterance_row(event, self.topic, partition, offset))
            elif isinstance(event, Correction):
                row = correction_row(event, self.settings.pipeline_version, self.topic, partition, offset)
                part.rows["corrections"].append(row)
            elif isinstance(event, CallStarted | CallEnded):
                part.rows["calls"].append(call_row(event, self.settings.pipeline_version))
        except (KeyError, ValueError, OverflowError) as error:
            # A kind that is none or not text, an event that is none, a time beyond the calendar. It stays in the topic,
            # at the offset named here.
            SKIPPED.inc()
            call = (message.key() or b"").decode(errors="replace")
            where = {"call": call, "topic": self.topic, "partition": partition, "offset": offset}
            log.error("not an event: %s: %s", type(error).__name__, error, extra=where)

    def _insert(self) -> None:
        if self.client is None:
            self.client = connect(self.settings, answer_s=ANSWER_S)
        tables = self.batch.tables()
        with INSERT.time():
            for table, rows in tables.items():
                if rows:
                    _insert_rows(self.client, table, rows, f"{self.topic}/{self.batch.offsets}/{table}")
        for table, rows in tables.items():
            ROWS.labels(table).inc(len(rows))

    def _disconnect(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    def _commit(self, batch: _Batch) -> None:
        offsets = [TopicPartition(self.topic, partition, part.last + 1) for partition, part in batch.parts.items()]
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
                self._away = str(error).splitlines()[0][:300]
                self._tell()
                log.warning("waiting for ClickHouse: %s", self._away)
                self._wait(pause_s, stop)
                pause_s = min(pause_s * 2, longest_s)
            else:
                if self._away:
                    self._away = ""
                    log.info("ClickHouse answers again")
                    self.consumer.resume(self.consumer.assignment())
                    self._tell()
                return True
        return False

    def _wait(self, pause_s: float, stop: threading.Event) -> None:
        """Be patient, and stay a member of the group. What comes before a new partition is paused joins the batch."""
        deadline = time.monotonic() + pause_s
        while (left := deadline - time.monotonic()) > 0 and not stop.is_set():
            self.consumer.pause(self.consumer.assignment())
            self._poll(1, min(left, 0.1))


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
