"""`scores` and `dead.letters` to ClickHouse: nothing lost, and nothing doubled for whoever reads with FINAL.

Offsets are committed after the insert is acknowledged. An insert carries a deduplication token made of the offsets it
holds and of its rows, so that a retry of the same batch adds nothing, not to the counts that materialized views make of
it either. What is read again after a crash would add rows of the same identity, which the ReplacingMergeTree tables
make one, but which would be counted twice: so whoever is given a partition leaves out what ClickHouse has of it.

A changer must know: the end of a call is inserted after its utterances and corrections, because its metrics are made
from them by a materialized view on `calls`. While ClickHouse is away the sink waits with the batch in its hands, its
partitions paused, and goes on polling Kafka, or Kafka would give the partitions away. A partition that is taken all the
same takes its rows along: whoever gets it reads them again.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from prometheus_client import Counter, Gauge, Histogram

from deploy.migrations import apply_migrations, keep_for, rebuild
from processors.base import NO_MORE
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallEvent, CallStarted, Correction, Score, decode
from schemas.topics import DEAD_LETTERS, FINDINGS, MADE_OF_SCORES, REPLAYS, SCORES
from streams import kafka
from streams.health import Health
from streams.rows import (
    FINDING_ROWS,
    Place,
    call_row,
    correction_row,
    fitting,
    letter_row,
    time_of,
    utterance_row,
)
from streams.settings import Settings

log = logging.getLogger(__name__)

MIGRATIONS: Final = Path(__file__).parent.parent / "deploy" / "clickhouse"
TABLES: Final = (
    "utterances_heard",
    "corrections",
    "calls",
    "dead_letters",
    *(one.table for one in FINDINGS),
)
"""In the order of inserts: what a call's end is counted from comes before it."""
IDENTITY: Final = {
    "utterances_heard": ("tenant", "call_id", "pipeline_version", "channel", "start_ms", "partition", "offset"),
    "calls": ("tenant", "call_id", "pipeline_version", "revision", "partition", "offset"),
}
"""Of the tables whose rows are counted: a row that has come before."""
PARTY: Final = ("tenant", "pipeline_version", "started_at", "call_id", "role", "speaker")
"""A party of a call, as `call_progress` knows it."""
RETRY_S: Final = (0.2, 10.0)
"""First and longest pause between tries while ClickHouse is away (judgement)."""
ANSWER_S: Final = 60
"""Judgement: an insert takes a part of a second; a server that is silent for so long is asked again."""
MIGRATION_S: Final = 6 * 3600
"""Judgement: a migration may copy all utterances."""
LAG_EVERY_S: Final = 1.0
CALLS_ASKED: Final = 500
"""Calls in one question: a statement may have 256 KiB, and an id some hundred characters."""

ROWS = Counter("calltide_sink_rows_total", "rows inserted", ["table"])
SKIPPED = Counter("calltide_sink_unreadable_total", "records of scores that are no event, or hold what no column does")
INSERT = Histogram("calltide_sink_insert_seconds", "time of an insert of all its tables")
WAITING = Gauge("calltide_sink_waiting", "1 while ClickHouse does not answer")
LAG = Gauge("calltide_sink_lag_records", "records that are not in ClickHouse yet")
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
    """Bring the schema and the retention up to date; returns what was done, in words: nothing when all is as it should.

    Raises Unreachable when no ClickHouse answers, and CalltideError when it is none that this version can bring up to
    date.
    """
    days = settings.clickhouse.retention_days
    with connect(settings, create=True, answer_s=MIGRATION_S) as client:
        done = [f"applied {name}" for name in apply_migrations(client, MIGRATIONS)]
        kept = f"rows are kept for {days} days" if days else "rows are kept for ever"
        return done + [f"{table}: {kept}" for table in keep_for(client, days)]


def count_again(settings: Settings) -> list[str]:
    """Count again everything that materialized views count; returns what was done, in words."""
    with connect(settings, answer_s=MIGRATION_S) as client:
        return [f"counted {table} again: {rows:,} rows" for table, rows in rebuild(client).items()]


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
        self.parts: dict[tuple[str, int], _Part] = {}
        """By topic and partition."""

    @property
    def rows(self) -> int:
        return sum(len(rows) for part in self.parts.values() for rows in part.rows.values())

    @property
    def offsets(self) -> str:
        return ",".join(
            f"{topic}/{partition}:{part.first}-{part.last}" for (topic, partition), part in sorted(self.parts.items())
        )

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        parts = [part for _, part in sorted(self.parts.items())]
        tables = {table: [row for part in parts for row in part.rows[table]] for table in TABLES}
        # Only the newest is ever read: of a call that goes on there comes one a second.
        newest = {tuple(row[name] for name in PARTY): row for row in tables["call_progress"]}
        return tables | {"call_progress": list(newest.values())}


class Sink:
    """Consumer group → ClickHouse."""

    def __init__(
        self,
        settings: Settings,
        slot: int = 0,
        topic: str = SCORES,
        dead_letters: str = DEAD_LETTERS,
        group: str = "sink",
        others: Sequence[str] | None = None,
    ) -> None:
        """`topic`: the scores; empty: none. `group`: the consumer group, without the prefix of the settings. `others`:
        the topics of what is made of the scores; None: those of live calls, if `topic` is."""
        self.settings = settings
        self.topic = topic
        self.dead_letters = dead_letters
        self.others = MADE_OF_SCORES if others is None and topic == SCORES else others or ()
        self.client: Client | None = None
        self.health = Health()
        self.batch = _Batch()
        self._positions: dict[tuple[str, int], int] | None = None
        """Topic and partition → the offset up to which it was read, of those that are held; None: Kafka has given none
        yet."""
        self._come: dict[int, int] | None = None
        """Partition of the scores → the last offset of it that ClickHouse had when the partitions were given; None: it
        was not asked yet."""
        self._away = ""
        """Why ClickHouse does not take rows now."""
        self._lag_at = 0.0
        self.group = f"{settings.kafka.group_prefix}.{group}"
        self.consumer = Consumer(
            kafka.consumer(
                settings,
                **{
                    "group.id": self.group,
                    "group.instance.id": f"{self.group}.{slot}",
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
                topics = [*filter(None, (self.topic, self.dead_letters)), *self.others]
                self.consumer.subscribe(topics, on_assign=self._assign, on_revoke=self._revoke)
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
        self._positions = dict.fromkeys(((one.topic, one.partition) for one in held), -1)
        self._come = None
        self._tell()

    def _revoke(self, _consumer: Consumer, lost: list[TopicPartition]) -> None:
        """What is in hand of these partitions was not committed: it is read again by whoever gets them."""
        for one in lost:
            self.batch.parts.pop((one.topic, one.partition), None)
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
            self.health.ready(
                partitions=sorted(partition for topic, partition in self._positions if topic == self.topic)
            )

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
            error, place, offset = message.error(), _place(message), message.offset() or 0
            if error is None:
                self._add(message)
                self._read_to(place, offset + 1)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._read_to(place, offset)
            elif error.fatal() or error.code() in (*kafka.REFUSED, *kafka.FENCED):
                raise KafkaException(error)
            else:
                # Such as a topic that is not led while its broker starts: librdkafka goes on by itself.
                log.warning("kafka: %s", error.str())
        if time.monotonic() >= self._lag_at + LAG_EVERY_S:
            self._lag_at = time.monotonic()
            self._measure_lag()

    def _read_to(self, place: tuple[str, int], offset: int) -> None:
        if self._positions is not None and place in self._positions:
            self._positions[place] = offset

    def _measure_lag(self) -> None:
        lag = 0
        try:
            for place, position in (self._positions or {}).items():
                held = TopicPartition(*place)
                # A partition that is paused is not fetched, and what is known of its end grows old.
                low, end = self.consumer.get_watermark_offsets(held, timeout=1.0, cached=not self._away)
                if position < 0:
                    (held,) = self.consumer.committed([held], timeout=1.0)
                    self._read_to(place, position := max(held.offset, low, 0))
                part = self.batch.parts.get(place)
                lag += max(end - (part.first if part else position), 0)
        except KafkaException:
            return  # the broker is away: the last figure stands
        LAG.set(lag)
        now_ms = time.time() * 1_000
        waited_ms = now_ms - min((part.since_ms for part in self.batch.parts.values()), default=now_ms)
        LAG_SECONDS.set(max(waited_ms, 0.0) / 1_000)

    def _add(self, message: Message) -> None:
        (topic, partition), offset = _place(message), message.offset() or 0
        part = self.batch.parts.setdefault((topic, partition), _Part(offset, offset, message.timestamp()[1]))
        part.last = offset
        headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
        if headers.get("kind") == NO_MORE.encode():
            return
        try:
            if topic == self.dead_letters:
                part.rows["dead_letters"].append(letter_row(message, topic, partition, offset))
                return
            for table, row in self._rows(decode(headers, message.value() or b""), (topic, partition, offset)):
                part.rows[table].append(fitting(row))
        except (KeyError, ValueError, OverflowError) as error:
            # A kind that is none or not text, an event that is none, a time beyond the calendar. It stays in the topic,
            # at the offset named here.
            SKIPPED.inc()
            call = (message.key() or b"").decode(errors="replace")
            where = {"call": call, "topic": topic, "partition": partition, "offset": offset}
            log.error("not an event: %s: %s", type(error).__name__, error, extra=where)

    def _rows(self, event: CallEvent, place: Place) -> list[tuple[str, dict[str, Any]]]:
        """What an event of a topic is in ClickHouse: table and row."""
        version = self.settings.pipeline_version
        if place[0] != self.topic:
            # What is made of the scores. The marks of calls pass through there, too; those of the scores are written.
            return [
                (one.table, row)
                for one in FINDINGS
                if one.kind == event.kind
                for row in FINDING_ROWS[one.kind](event, place)
            ]
        match event:
            case Score():
                row = utterance_row(event, *place)
                if not self.topic.startswith(REPLAYS):  # how late a replay's score is says nothing
                    row["scored_at"] = time_of(datetime.now(UTC))
                return [("utterances_heard", row)]
            case Correction():
                return [("corrections", correction_row(event, version, *place))]
            case CallStarted() | CallEnded():
                topic, partition, offset = place
                of_place = {"topic": topic, "partition": partition, "offset": offset}
                return [("calls", call_row(event, version) | of_place)]
        return []

    def _insert(self) -> None:
        if self.client is None:
            self.client = connect(self.settings, answer_s=ANSWER_S)
        tables = self.batch.tables()
        with INSERT.time():
            self._leave_out(self.client, tables)
            for table, rows in tables.items():
                if table == "calls":
                    _add_languages(self.client, [row for row in rows if row["revision"] == 2])
                if rows:
                    _insert_rows(self.client, table, rows, f"{self.batch.offsets}/{table}")
        for table, rows in tables.items():
            ROWS.labels(table).inc(len(rows))

    def _leave_out(self, client: Client, tables: dict[str, list[dict[str, Any]]]) -> None:
        """Take out the rows that were inserted and not committed by whoever had these partitions before.

        Offsets alone would not tell: those of a topic made anew come again for other rows.
        """
        topic = {"topic": self.topic}
        if self._come is None:
            every = " UNION ALL ".join(
                f"SELECT partition, offset FROM {table} WHERE topic = %(topic)s" for table in IDENTITY
            )
            sql = f"SELECT partition, max(offset) FROM ({every}) GROUP BY partition"
            self._come = dict(map(tuple, client.query(sql, topic).result_rows))
        again = " OR ".join(
            f"(partition = {partition} AND offset BETWEEN {part.first} AND {part.last})"
            for (name, partition), part in self.batch.parts.items()
            if name == self.topic and part.first <= self._come.get(partition, -1)
        )
        for table, identity in IDENTITY.items() if again else ():
            sql = f"SELECT {', '.join(identity)} FROM {table} WHERE topic = %(topic)s AND ({again})"
            there = set(client.query(sql, topic).result_rows)
            tables[table] = [row for row in tables[table] if tuple(row[name] for name in identity) not in there]

    def _disconnect(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    def _commit(self, batch: _Batch) -> None:
        offsets = [TopicPartition(*place, part.last + 1) for place, part in batch.parts.items()]
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


def _place(message: Message) -> tuple[str, int]:
    return message.topic() or "", kafka.partition_of(message)


def _add_languages(client: Client, ended: Sequence[dict[str, Any]]) -> None:
    """What was heard in calls that have ended: only ClickHouse has seen them whole."""
    key = ("tenant", "pipeline_version", "started_at", "call_id")
    for first in range(0, len(ended), CALLS_ASKED):
        calls = {tuple(row[name] for name in key): row for row in ended[first : first + CALLS_ASKED]}
        heard = client.query(
            "SELECT tenant, pipeline_version, toString(call_started_at), call_id, arraySort(groupUniqArray(language)) "
            "FROM utterances_heard WHERE (tenant, pipeline_version, call_started_at, call_id) IN %(calls)s "
            "AND text != '' AND language != '' GROUP BY tenant, pipeline_version, call_started_at, call_id",
            {"calls": tuple(calls)},
        )
        for *call, languages in heard.result_rows:
            calls[tuple(call)]["languages"] = languages


def _insert_rows(client: Client, table: str, rows: Sequence[dict[str, Any]], offsets: str) -> None:
    block = "\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows).encode()
    # The offsets alone would not do: those of a topic made anew, or of another cluster, come again for other rows.
    token = f"{offsets}/{hashlib.sha256(block).hexdigest()}"
    client.raw_insert(
        table,
        insert_block=block,
        fmt="JSONEachRow",
        settings={
            "insert_deduplication_token": token,
            "deduplicate_blocks_in_dependent_materialized_views": 1,
            # Acknowledged is inserted, whatever the server's default.
            "async_insert": 0,
            "input_format_import_nested_json": 0,
        },
    )


def ask(settings: Settings, sql: str, form: str) -> str:
    """The answer to a statement, in one of ClickHouse's formats. Raises CalltideError with ClickHouse's own words."""
    with connect(settings) as client:
        try:
            answer = client.raw_query(sql, fmt=form)
        except ClickHouseError as error:
            raise CalltideError(f"ClickHouse refuses: {str(error).splitlines()[0][:500]}") from None
    return answer.decode(errors="replace")
