"""The Kafka runtime: one consume-process-transact loop, used by every stage.

A changer must know: memory must never be ahead of the log. Whatever fails between reading and the end of a commit ends
in `_Rejoin`: state dropped, clients closed, and everything restored from what was committed.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from prometheus_client import Counter, Gauge, Histogram

from processors.base import Processor, Record
from schemas.errors import CalltideError
from schemas.topics import Stage
from streams import kafka
from streams.checkpoint import Checkpoint, Consumed, Produced
from streams.settings import Settings

log = logging.getLogger(__name__)

RESTORE_BATCH: Final = 500
"""Judgement: changelog records read at once in a restore."""
POLL_S: Final = 0.05
"""How long to wait for the first record of a batch: also the longest delay of a commit that has no outputs."""
COMMIT_INTERVAL_S: Final = 1.0
"""Judgement: offsets and snapshots without outputs are committed so often; bounds what a crash repeats."""
TRANSACTION_S: Final = 30.0
RESTORE_S: Final = 120.0
QUIET_CHECK_S: Final = 1.0
"""How often quiet partitions are looked for, however busy the others are."""
FENCED: Final = (KafkaError._FENCED, KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL)
"""Another took the transactional id or the group member. A consumer says no more than that it is a fatal error."""

RECORDS = Counter("calltide_records_total", "records read", ["stage"])
BYTES = Counter("calltide_bytes_total", "bytes read", ["stage"])
BATCH = Histogram(
    "calltide_batch_records", "records in a batch", ["stage"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500)
)
PROCESS = Histogram("calltide_process_seconds", "time in the processor for one batch", ["stage"])
TRANSACTION = Histogram("calltide_transaction_seconds", "time of one transaction", ["stage"])
REJOINS = Counter("calltide_rejoins_total", "times the state was dropped and restored", ["stage"])
DEAD = Counter("calltide_dead_letters_total", "records sent to dead.letters", ["stage"])
CALLS = Gauge("calltide_calls", "calls in memory", ["stage"])


class _Rejoin(Exception):
    """Drop the state, rejoin the group, restore."""


class StageWorker:
    """One worker of one stage. `slot` numbers the workers of a stage on all machines: it names the transactional id and
    the static group member, so a restarted worker fences its own ghost at once and gets its partitions back.
    """

    def __init__(self, settings: Settings, row: Stage, processor: Processor, slot: int = 0) -> None:
        self.settings = settings
        self.row = row
        self.processor = processor
        self.slot = slot
        self.group = f"{settings.kafka.group_prefix}.{row.name}"
        self.member = f"{self.group}.{slot}"
        self.careful_until: dict[int, int] = {}

    def run(self, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is set. `ready` is called once partitions are assigned and restored.

        Raises CalltideError for what no retry can mend: the broker refuses, or another worker took this slot.
        """
        pause_s = 0.1
        while not stop.is_set():
            life = _Life(self, ready)
            started = time.monotonic()
            try:
                life.run(stop)
            except _Rejoin as reason:
                REJOINS.labels(self.row.name).inc()
                log.warning("rejoin", extra={"stage": self.row.name, "reason": str(reason.__cause__ or reason)})
                # A life that lasted was not the last one's fault: start the back-off anew.
                pause_s = 0.1 if time.monotonic() - started > 30 else min(pause_s * 2, 5.0)
                stop.wait(pause_s)
            finally:
                life.close()


class _Life:
    """From joining the group to leaving it: the clients, and the state restored for the partitions assigned."""

    def __init__(self, worker: StageWorker, ready: Callable[[], None]) -> None:
        settings, self.row, self.worker, self.ready = worker.settings, worker.row, worker, ready
        self.checkpoint = Checkpoint(self.row.name, worker.processor)
        self.pending = 0.0
        """When the oldest uncommitted change without outputs came, monotonic seconds; 0: none."""
        self.next_quiet_check = 0.0
        self.heard: dict[int, float] = {}
        """When a partition last gave a record, monotonic seconds."""
        self.producer = Producer(
            kafka.producer(
                settings,
                **{
                    "transactional.id": worker.member,
                    "transaction.timeout.ms": 60_000,
                    # Otherwise offsets sent after a restart of the only broker wait for ever, whatever their timeout
                    # (librdkafka issue 5511, open as of 2.16.0).
                    "metadata.recovery.strategy": "none",
                },
            )
        )
        self.consumer = Consumer(
            kafka.consumer(
                settings,
                **{
                    "group.id": worker.group,
                    "group.instance.id": worker.member,
                    "session.timeout.ms": settings.kafka.session_timeout_ms,
                    "heartbeat.interval.ms": settings.kafka.session_timeout_ms // 4,
                    "partition.assignment.strategy": "cooperative-sticky",
                },
            )
        )

    def run(self, stop: threading.Event) -> None:
        try:
            # Fences the ghost of this slot and waits until its open transaction is ended.
            self.producer.init_transactions(TRANSACTION_S)
            self.consumer.subscribe(
                [self.row.reads], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke
            )
            while not stop.is_set():
                self._turn()
            if self.pending:
                self._commit([])
        except KafkaException as error:
            code = error.args[0].code()
            if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
                raise CalltideError(f"Kafka refuses stage {self.row.name}: {error.args[0].str()}; grant it") from error
            if code in FENCED:
                # To join again would fence the other one in turn, and so on for ever.
                raise CalltideError(
                    f"another worker of stage {self.row.name} took slot {self.worker.slot}, or this one was asleep for "
                    f"over a minute ({error.args[0].str()}); give each worker a --slot of its own and start it again"
                ) from error
            raise _Rejoin from error

    def close(self) -> None:
        """Leave without committing. A static member does not leave the group, so a quick restart moves nothing."""
        try:
            self.consumer.close()
        except (KafkaException, RuntimeError) as error:
            log.warning("consumer did not close cleanly", extra={"stage": self.row.name, "reason": str(error)})

    def _turn(self) -> None:
        """One micro-batch: wait for the first record, take what is there beside it, never wait for a batch to fill."""
        messages = self.consumer.consume(1, POLL_S)
        if messages:
            messages += self.consumer.consume(self.row.batch - 1, 0)
        batch = [consumed for message in messages if (consumed := self._consumed(message)) is not None]
        name = self.row.name
        if batch:
            RECORDS.labels(name).inc(len(batch))
            BATCH.labels(name).observe(len(batch))
            BYTES.labels(name).inc(sum(len(item.record.value) for item in batch))
        produced = self._process(batch) if batch else []
        if time.monotonic() >= self.next_quiet_check:
            self.next_quiet_check = time.monotonic() + QUIET_CHECK_S
            produced += self._idle()
        if batch and not self.pending:
            self.pending = time.monotonic()
        if produced or (self.pending and time.monotonic() - self.pending >= COMMIT_INTERVAL_S):
            self._commit(produced)
        CALLS.labels(name).set(self.checkpoint.calls())

    def _process(self, batch: list[Consumed]) -> list[Produced]:
        careful = self.worker.careful_until
        try:
            with PROCESS.labels(self.row.name).time():
                return self.checkpoint.turn(
                    batch, careful=any(item.offset <= careful.get(item.partition, -1) for item in batch)
                )
        except Exception as error:
            # One of these records is bad; the states are half-changed. Come back and try them one by one.
            for item in batch:
                careful[item.partition] = max(careful.get(item.partition, -1), item.offset)
            raise _Rejoin from error

    def _commit(self, produced: list[Produced]) -> None:
        """Make one or more turns durable: the checkpoint protocol.

        1. The records were read under read_committed, and those that a call's snapshot covers were skipped.
        2. All inference is done: nothing slow happens while the transaction is open.
        3. The outputs are written, each to the partition its input came from.
        4. The changelog follows: for every call that reached a cut its snapshot, with the offset it covers; for a call
           that gave outputs since its cut, how many, so that they are swallowed when its records are read again; a
           tombstone for a call that needs no state any more.
        5. The committed offset of a partition is its oldest record that no snapshot covers, not the position.
        6. Offsets go with the group's metadata, so a worker that has lost its partitions cannot commit.
        7. Only when the transaction is in the log does memory take it for granted; any failure ends in a rejoin.
        """
        with TRANSACTION.labels(self.row.name).time():
            offsets, changes = self.checkpoint.commit()
            if not (produced or offsets or changes):
                self.pending = 0.0
                return
            self.producer.begin_transaction()
            for record in produced:
                self._produce(
                    record.topic or self.row.writes,
                    value=record.output.value,
                    key=record.call_id.encode() if record.key is None else record.key,
                    headers=record.output.headers,
                    partition=record.partition,
                    timestamp=record.timestamp_ms,
                )
            for change in changes:
                self._produce(
                    self.row.state_topic,
                    value=change.value,
                    key=change.call_id.encode(),
                    headers=change.headers,
                    partition=change.partition,
                )
            if offsets:
                self.producer.send_offsets_to_transaction(
                    [TopicPartition(self.row.reads, partition, offset) for partition, offset in offsets.items()],
                    self.consumer.consumer_group_metadata(),
                    TRANSACTION_S,
                )
            self.producer.commit_transaction(TRANSACTION_S)
        self.checkpoint.committed(offsets, changes)
        self.pending = 0.0
        if self.checkpoint.dead_letters:
            DEAD.labels(self.row.name).inc(self.checkpoint.dead_letters)
            self.checkpoint.dead_letters = 0

    def _produce(self, topic: str, **record: Any) -> None:
        while True:
            try:
                self.producer.produce(topic, **record)
                return
            except BufferError:
                self.producer.poll(0.1)

    def _idle(self) -> list[Produced]:
        """Wall clock ends the calls of a partition only when it is quiet and read to its end."""
        timeout_ms = self.worker.processor.idle_timeout_ms
        if timeout_ms is None:
            return []
        now = time.monotonic()
        produced: list[Produced] = []
        for partition, heard in self.heard.items():
            held = self.checkpoint.partitions.get(partition)
            if held is None or not held.calls or (now - heard) * 1_000 < timeout_ms:
                continue
            self.heard[partition] = now
            _, end = self.consumer.get_watermark_offsets(TopicPartition(self.row.reads, partition), timeout=5.0)
            if end <= held.position:
                produced += self.checkpoint.idle(partition, int(time.time() * 1_000))
        return produced

    def _consumed(self, message: Message) -> Consumed | None:
        """None for an event that is no record, and for a record of a partition that was revoked meanwhile."""
        error = message.error()
        if error is not None:
            if error.fatal() or not error.retriable():
                raise KafkaException(error)
            log.warning("kafka: %s", error.str(), extra={"stage": self.row.name})
            return None
        partition, offset = kafka.partition_of(message), message.offset()
        if offset is None or partition not in self.checkpoint.partitions:
            return None
        self.heard[partition] = time.monotonic()
        headers = kafka.headers_of(message)
        fields = {name: value for name, value in headers if value is not None}
        key = message.key()
        record = Record(
            call_id="" if key is None else key.decode(errors="replace"),
            kind=fields.get("kind", b"").decode(errors="replace"),
            headers=fields,
            value=message.value() or b"",
            timestamp_ms=message.timestamp()[1],
        )
        return Consumed(partition, offset, record, key, headers)

    def _assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Restore before the first record: the changelog is read to its end as it is once the offsets are stable."""
        started = time.monotonic()
        # With read_committed the broker answers only when no transaction holds offsets of these partitions open.
        positions = {held.partition: held.offset for held in consumer.committed(partitions, TRANSACTION_S)}
        changelogs = self._read_changelogs([held.partition for held in partitions])
        for held in partitions:
            position = positions[held.partition]
            if position < 0:
                position, _ = consumer.get_watermark_offsets(held, timeout=TRANSACTION_S)
            self.checkpoint.assign(held.partition, position, changelogs[held.partition])
            self.heard[held.partition] = time.monotonic()
        consumer.incremental_assign(
            [
                TopicPartition(self.row.reads, held.partition, self.checkpoint.partitions[held.partition].watermark)
                for held in partitions
            ]
        )
        log.info(
            "assigned",
            extra={
                "stage": self.row.name,
                "partitions": sorted(positions),
                "calls": self.checkpoint.calls(),
                "restore_ms": round((time.monotonic() - started) * 1_000),
            },
        )
        self.ready()

    def _read_changelogs(self, numbers: list[int]) -> dict[int, list[tuple[str, dict[str, bytes], bytes | None]]]:
        """The committed records of the changelog's partitions.

        The end is the high watermark, not the last stable offset: a transaction of another worker that is still open
        must be ended, one way or the other, before the restore is done.
        """
        changelogs: dict[int, list[tuple[str, dict[str, bytes], bytes | None]]] = {number: [] for number in numbers}
        if not numbers:
            return changelogs
        group = {"group.id": f"{self.worker.member}.restore", "enable.partition.eof": True, "fetch.wait.max.ms": 10}
        reader = Consumer(kafka.consumer(self.worker.settings, **group))
        try:
            topic = self.row.state_topic
            left: dict[int, int] = {}
            for number in numbers:
                low, high = reader.get_watermark_offsets(TopicPartition(topic, number), timeout=TRANSACTION_S)
                if high > low:
                    left[number] = high
            reader.assign([TopicPartition(topic, number, 0) for number in left])
            deadline = time.monotonic() + RESTORE_S
            while left:
                if time.monotonic() > deadline:
                    raise _Rejoin(f"{topic} could not be read to its end within {RESTORE_S:.0f} s")
                for message in reader.consume(RESTORE_BATCH, 0.1):
                    error, number, offset = message.error(), kafka.partition_of(message), message.offset()
                    if error is None:
                        headers = {name: value or b"" for name, value in kafka.headers_of(message)}
                        changelogs[number].append(((message.key() or b"").decode(), headers, message.value()))
                    elif error.code() == KafkaError._PARTITION_EOF:
                        if offset is not None and offset >= left.get(number, 0):
                            left.pop(number, None)
                    elif error.fatal() or not error.retriable():
                        raise KafkaException(error)
        finally:
            reader.close()
        return changelogs

    def _revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Nothing is committed here: what was read since the last commit is read again by the next owner."""
        for held in partitions:
            self.checkpoint.revoke(held.partition)
            self.heard.pop(held.partition, None)
        log.info("revoked", extra={"stage": self.row.name, "partitions": sorted(held.partition for held in partitions)})
