"""The Kafka runtime: one consume-process-transact loop, used by every stage.

A worker serves two lanes in one thread, live calls before bulk work. Each lane is a life of its own with its own
topics, group, transactions and state, so what befalls one does not touch the other; the processor and its models are
shared.

A changer must know: memory must never be ahead of the log. Whatever fails between reading and the end of a commit ends
in `_Rejoin`: state dropped, clients closed, and everything restored from what was committed.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from processors.base import Adjustable, Processor, Record, Reloadable
from schemas.errors import CalltideError
from schemas.events import Segment, Transcript, decode
from schemas.topics import Stage
from streams import kafka, metrics
from streams.checkpoint import Checkpoint, Consumed, Produced
from streams.crashes import CrashRecord
from streams.health import Health
from streams.interim import beside
from streams.overload import Ladder
from streams.settings import Settings

log = logging.getLogger(__name__)

RESTORE_BATCH: Final = 500
"""Judgement: changelog records read at once in a restore."""
POLL_S: Final = 0.05
"""How long to wait for the first record of a batch: also the longest delay of a commit that has no outputs."""
COMMIT_INTERVAL_S: Final = 1.0
"""Judgement: offsets and snapshots without outputs are committed so often; bounds what a crash repeats."""
TRANSACTION_S: Final = 30.0
"""How long to wait for the ghost of this slot, and for offsets of others to become stable."""
RESTORE_S: Final = 120.0
CLOSE_S: Final = 15.0
"""Judgement: closing a consumer takes milliseconds, with its broker away up to a session. librdkafka 2.16 was seen to
hang there once, after its offsets had been refused in the middle of a rebalance."""
RELOAD_S: Final = 1.0
"""How often files that a processor works by are looked at."""
LOOK_S: Final = 1.0
"""How often quiet partitions and lag are looked for, however busy the others are."""
HOLD_S: Final = 1.0
"""Judgement: a lane that has been held back for so long is paused, and looked after once in so long."""
UTTERANCES: Final = frozenset({b"segment", b"turn", b"transcript", b"emotion", b"score"})


class _Rejoin(Exception):
    """Drop the state, rejoin the group, restore."""


def group_config(settings: Settings, group: str, member: str) -> dict[str, Any]:
    """What makes a consumer a static member of a group."""
    return {
        "group.id": group,
        "group.instance.id": member,
        "group.protocol": "classic",
        "session.timeout.ms": settings.kafka.session_timeout_ms,
        # Whoever is to take over learns of it with the next heartbeat.
        "heartbeat.interval.ms": settings.kafka.session_timeout_ms // 12,
        # A cooperative rebalance has two parts, and a static member that joins again between them gets what the first
        # part left it, so that what was on its way to another belongs to nobody. By range, in one part; and the same
        # members get the same partitions.
        "partition.assignment.strategy": "range",
    }


class StageWorker:
    """One worker of one stage. `slot` numbers the workers of a stage on all machines: it names the transactional id and
    the static group member, so a restarted worker fences its own ghost at once and gets its partitions back.

    `rows`: the stage in each lane, the one that goes first first.
    """

    def __init__(
        self,
        settings: Settings,
        rows: Sequence[Stage],
        processor: Processor,
        slot: int = 0,
        crashes: CrashRecord | None = None,
    ) -> None:
        self.settings = settings
        self.processor = processor
        self.slot = slot
        self.crashes = crashes
        self.lanes = [_Lane(self, row) for row in rows]
        self.careful_until: dict[tuple[str, int], int] = crashes.suspects() if crashes else {}
        """(topic, partition) → last offset that is to be processed alone."""
        self._reload_at = 0.0
        if isinstance(processor, Reloadable):
            for what in ("taken", "refused"):
                metrics.RELOADS.labels(rows[0].name, what)

    def run(self, stop: threading.Event, health: Health | None = None) -> None:
        """Work until `stop` is set. `health` hears of every turn, and of whether partitions are assigned and restored.

        Raises CalltideError for what no retry can mend: the broker refuses, or another worker took this slot.
        """
        health = health or Health()
        try:
            while not stop.is_set():
                health.beat()
                self._reload()
                worked = False
                for lane in self.lanes:
                    # A lane waits for its first record only when none of the others has any.
                    waits = lane is self.lanes[0] and not any(other.worked for other in self.lanes[1:])
                    worked = lane.turn(POLL_S if waits else 0.0, held_back=worked) or worked
                    lane.aside()
                self._report(health)
            for lane in self.lanes:
                lane.finish()
        finally:
            for lane in self.lanes:
                lane.close()

    def _reload(self) -> None:
        """Between turns, so that a turn is all of one version. What people wrote wrongly stops nothing."""
        if not isinstance(self.processor, Reloadable) or (now := time.monotonic()) < self._reload_at:
            return
        self._reload_at = now + RELOAD_S
        stage = self.lanes[0].row.name
        try:
            if self.processor.reload():
                metrics.RELOADS.labels(stage, "taken").inc()
                log.info("files changed and were read", extra={"stage": stage})
        except CalltideError as error:
            metrics.RELOADS.labels(stage, "refused").inc()
            log.error("files changed and are wrong; what was there before stays: %s", error, extra={"stage": stage})

    def _report(self, health: Health) -> None:
        waiting = [lane.waiting for lane in self.lanes if lane.waiting]
        if waiting:
            health.waiting("; ".join(waiting))
        else:
            held = {lane.row.lane: sorted(lane.partitions) for lane in self.lanes}
            health.ready(stage=self.lanes[0].row.name, slot=self.slot, partitions=held)


def tell_redacted(event: Transcript, row: Stage) -> None:
    """How much of which kind was taken out of an utterance, and in which call; never what it was."""
    log.info("personal data taken out", extra={"stage": row.id, "call": event.call.call_id, "kinds": event.redacted})
    for kind, number in event.redacted.items():
        metrics.REDACTED.labels(row.lane, kind).inc(number)


class _Lane:
    """One lane of a worker: its life, and how it gets the next one."""

    def __init__(self, worker: StageWorker, row: Stage) -> None:
        self.worker = worker
        self.row = row
        self.labels = (row.name, row.lane)
        self.worked = False
        """Whether the last turn had records."""
        self.ladder: Ladder | None = None
        lag_s = worker.settings.runtime.reduce_at_lag_s
        # What a replay hears lags by days, and is to be heard as well as it was.
        if isinstance(worker.processor, Adjustable) and row.lane == "live" and not row.namespace and lag_s:
            self.ladder = Ladder(1 + len(worker.processor.reduced), lag_s)
        self.beside = beside(worker.settings, row, worker.processor)
        """What is done for interim results."""
        metrics.begin(*self.labels)
        self._life: _Life | None = None
        self._reason = "joining the group"
        self._began = 0.0
        self._pause_s = 0.1
        self._resume_at = 0.0
        self._held_since = 0.0
        self._looked_after = 0.0

    @property
    def waiting(self) -> str:
        """Why it does not serve; empty if it does."""
        return "" if self._life is not None and self._life.assigned else f"{self.row.id}: {self._reason}"

    @property
    def partitions(self) -> Sequence[int]:
        """What it holds."""
        return list(self._life.checkpoint.partitions) if self._life else []

    def aside(self) -> None:
        """What is done for interim results, outside of turns and transactions."""
        if self.beside is not None and self._life is not None and self._life.assigned:
            lags = self.ladder is not None and self.ladder.step > 0
            self.beside.turn(self._life.checkpoint, busy=lags or self._life.full)

    def turn(self, wait_s: float, held_back: bool) -> bool:
        """One turn; whether there were records. `held_back`: another lane has work, so this one only stays alive."""
        now = time.monotonic()
        if self._life is None and now < self._resume_at:
            time.sleep(wait_s)
            return False
        # A lane that is still joining is polled all the time: each step of joining takes a poll.
        if held_back and self._life is not None and self._life.assigned and self._held(now):
            return self.worked
        try:
            if self._life is None:
                self._began = now
                self._life = _Life(self)
                self._life.join()
            self._pause(held_back and now - self._held_since >= HOLD_S)
            self.worked = self._life.turn(wait_s)
        except (KafkaException, _Rejoin) as error:
            self._drop(error)
            self.worked = False
        if not held_back:
            self._held_since = 0.0
        return self.worked

    def finish(self) -> None:
        """Commit what is left to commit."""
        try:
            if self._life is not None:
                self._life.finish()
        except (KafkaException, _Rejoin) as error:
            log.warning("the last commit failed: %s; it is done again at the next start", error, extra=self._about())

    def close(self) -> None:
        """Leave without committing. A static member does not leave the group, so a quick restart moves nothing."""
        if self.beside is not None:
            self.beside.close()
        if self._life is not None:
            self._life.close()
            self._life = None

    def _held(self, now: float) -> bool:
        """Whether to pass over this turn: but a lane that is never looked after loses its partitions."""
        if not self._held_since:
            self._held_since = self._looked_after = now
        if now - self._looked_after < HOLD_S:
            return True
        self._looked_after = now
        return False

    def _pause(self, paused: bool) -> None:
        assert self._life is not None
        if paused or self._life.paused:
            self._life.pause(paused)
            metrics.PAUSED.labels(*self.labels).set(paused)

    def _drop(self, error: Exception) -> None:
        """Give this life up and come back; raises CalltideError where coming back would not help."""
        life, self._life = self._life, None
        self._reason = f"rejoining after: {error.__cause__ or error}"
        code = error.args[0].code() if isinstance(error, KafkaException) else None
        try:
            if code in kafka.REFUSED:
                raise CalltideError(
                    f"Kafka refuses stage {self.row.id}: {error.args[0].str()};"
                    " grant it, or mend CALLTIDE_KAFKA__CLIENT"
                ) from error
            if life is not None and code in kafka.FENCED and life.slot_taken():
                # To join again would fence the other one in turn, and so on for ever.
                raise CalltideError(
                    f"another worker of stage {self.row.name} took slot {self.worker.slot}; "
                    "give each worker a --slot of its own and start it again"
                ) from error
        finally:
            if life is not None:
                life.close()
        metrics.REJOINS.labels(*self.labels).inc()
        log.warning("rejoin", extra=self._about() | {"reason": str(error.__cause__ or error)})
        # A life that lasted was not the last one's fault: start the back-off anew.
        self._pause_s = 0.1 if time.monotonic() - self._began > 30 else min(self._pause_s * 2, 5.0)
        self._resume_at = time.monotonic() + self._pause_s

    def _about(self) -> dict[str, Any]:
        return {"stage": self.row.name, "lane": self.row.lane}


class _Life:
    """From joining the group to leaving it: the clients, and the state restored for the partitions assigned."""

    def __init__(self, lane: _Lane) -> None:
        settings = lane.worker.settings
        self.lane, self.row, self.worker = lane, lane.row, lane.worker
        self.checkpoint = Checkpoint(self.row, self.worker.processor)
        self.assigned = False
        """Whether the group has said what this worker holds, be it nothing."""
        self.assignments = 0
        """How often the group has said so."""
        self.failure: Exception | None = None
        """Why partitions could not be taken over."""
        self.full = False
        """Whether the last turn took as many records as it may: more wait."""
        self.paused = False
        self.fenced = False
        """Whether the group has said that another took this member's place."""
        self.pending = 0.0
        """When the oldest uncommitted change without outputs came, monotonic seconds; 0: none."""
        self.next_look = 0.0
        self.drained = 0.0
        """When there was nothing left to read last, monotonic seconds."""
        self.heard: dict[int, float] = {}
        """When a partition last gave a record, monotonic seconds."""
        self.captured_ms: dict[int, int] = {}
        """Timestamp of the last record of a partition: when its audio was captured."""
        self.group = f"{settings.kafka.group_prefix}.{self.row.id}"
        self.member = f"{self.group}.{self.worker.slot}"
        self.session_s = settings.kafka.session_timeout_ms / 1_000
        self.commit_s = self.session_s + 2
        """By then the broker has ended the transaction itself; to wait longer would hold up a rebalance."""
        self.producer = Producer(
            kafka.producer(
                settings,
                **{
                    "transactional.id": self.member,
                    # All inference is done before a transaction begins. What a dead worker left open holds up whoever
                    # takes over its partitions, so it must be ended before the worker's session is. 1 s: the least
                    # that librdkafka takes.
                    "transaction.timeout.ms": max(1_000, settings.kafka.session_timeout_ms // 2),
                    "queue.buffering.max.kbytes": 65_536,
                },
            )
        )
        self.consumer = Consumer(kafka.consumer(settings, **group_config(settings, self.group, self.member)))

    def join(self) -> None:
        """Fence the ghost of this slot, wait until its open transaction is ended, and ask for partitions."""
        self.producer.init_transactions(TRANSACTION_S)
        self.consumer.subscribe([self.row.reads], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke)

    def finish(self) -> None:
        """Commit what turns without outputs have left."""
        if self.pending:
            self._commit([])

    def close(self) -> None:
        """Leave without committing. Raises CalltideError when the client hangs: then only a new process helps."""
        leaving = threading.Thread(target=self._leave, name=f"leave {self.row.id}", daemon=True)
        leaving.start()
        leaving.join(CLOSE_S)
        if leaving.is_alive():
            raise CalltideError(f"the Kafka client of stage {self.row.id} does not close; start the stage again")

    def _leave(self) -> None:
        try:
            self.consumer.close()
        except (KafkaException, RuntimeError) as error:
            log.warning("consumer did not close cleanly", extra={"stage": self.row.id, "reason": str(error)})

    def pause(self, paused: bool) -> None:
        """Stop or go on fetching. Partitions that are assigned meanwhile are not paused: call it again."""
        held = [TopicPartition(self.row.reads, number) for number in self.checkpoint.partitions]
        if paused:
            self.consumer.pause(held)
        else:
            self.consumer.resume(held)
        self.paused = paused

    def slot_taken(self) -> bool:
        """Whether another worker has this one's place in the group.

        A fenced producer alone does not say so: its transaction may have timed out while the process was asleep. The
        group's coordinator tells with the next heartbeat.
        """
        deadline = time.monotonic() + self.session_s / 2
        while not self.fenced and time.monotonic() < deadline:
            for message in self.consumer.consume(1, 0.1):
                error = message.error()
                self.fenced = error is not None and error.code() in kafka.FENCED
        return self.fenced

    def turn(self, wait_s: float) -> bool:
        """One micro-batch: wait for the first record, take what is there beside it, never wait for a batch to fill.

        Returns whether there were records.
        """
        messages = self.consumer.consume(1, wait_s)
        if messages:
            before = self.assignments
            messages += self.consumer.consume(self._most() - 1, 0)
            if self.assignments != before:
                # What was restored lies before the first of them, and is to be read before it.
                raise _Rejoin("partitions were given anew while their records were being read")
        if self.failure is not None:
            raise self.failure
        self.full = len(messages) >= self._most()
        batch = [consumed for message in messages if (consumed := self._consumed(message)) is not None]
        labels = self.lane.labels
        if batch:
            now = time.monotonic()
            for number, timestamp_ms in {item.partition: item.record.timestamp_ms for item in batch}.items():
                self.heard[number], self.captured_ms[number] = now, timestamp_ms
            metrics.RECORDS.labels(*labels).inc(len(batch))
            metrics.BATCH.labels(*labels).observe(len(batch))
            metrics.BYTES.labels(*labels).inc(sum(len(item.record.value) for item in batch))
        elif not self.paused:
            self.drained = time.monotonic()
        produced = self._process(batch) if batch else []
        if time.monotonic() >= self.next_look:
            self.next_look = time.monotonic() + LOOK_S
            produced += self._idle()
            self._look()
        if batch and not self.pending:
            self.pending = time.monotonic()
        if produced or (self.pending and time.monotonic() - self.pending >= COMMIT_INTERVAL_S):
            self._commit(produced)
        if batch and log.isEnabledFor(logging.DEBUG):
            last = {item.partition: item.offset for item in batch}
            about = {"stage": self.row.name, "lane": self.row.lane, "offsets": last}
            log.debug("turn", extra=about | {"records": len(batch), "outputs": len(produced)})
        return bool(batch)

    def _most(self) -> int:
        processor, ladder = self.worker.processor, self.lane.ladder
        if ladder is not None and ladder.step and isinstance(processor, Adjustable):
            return processor.reduced[ladder.step - 1].batch
        return self.row.batch

    def _process(self, batch: list[Consumed]) -> list[Produced]:
        worker, topic = self.worker, self.row.reads
        if isinstance(worker.processor, Adjustable):
            worker.processor.effort = self.lane.ladder.step if self.lane.ladder else 0
        careful = worker.careful_until
        alone = careful and any(item.offset <= careful.get((topic, item.partition), -1) for item in batch)
        try:
            with metrics.PROCESS.labels(*self.lane.labels).time():
                if alone:
                    return self.checkpoint.carefully(batch, self._enter_alone)
                if worker.crashes is not None:
                    spans: dict[int, tuple[int, int]] = {}
                    for item in batch:
                        first, _ = spans.get(item.partition, (item.offset, 0))
                        spans[item.partition] = (first, item.offset)
                    worker.crashes.enter(topic, spans)
                return self.checkpoint.turn(batch)
        except Exception as error:
            # One of these records is bad; the states are half-changed. Come back and try them one by one.
            for item in batch:
                place = topic, item.partition
                careful[place] = max(careful.get(place, -1), item.offset)
            raise _Rejoin from error
        finally:
            if worker.crashes is not None:
                worker.crashes.leave()

    def _enter_alone(self, consumed: Consumed) -> None:
        if self.worker.crashes is not None:
            self.worker.crashes.enter_alone(self.row.reads, consumed.partition, consumed.offset)

    def _commit(self, produced: list[Produced]) -> None:
        """Make one or more turns durable: the checkpoint protocol. docs/runtime.md names the test of each step.

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
        offsets, changes = self.checkpoint.commit()
        self.pending = 0.0
        if not (produced or offsets or changes):
            return
        with metrics.TRANSACTION.labels(*self.lane.labels).time(), self._counting_aborts():
            self.producer.begin_transaction()
            for record in produced:
                kafka.put(
                    self.producer,
                    record.topic or self.row.writes,
                    value=record.output.value,
                    key=record.call_id.encode() if record.key is None else record.key,
                    headers=record.output.headers,
                    partition=record.partition,
                    timestamp=record.timestamp_ms,
                )
            for change in changes:
                kafka.put(
                    self.producer,
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
                    self.commit_s,
                )
            self.producer.commit_transaction(self.commit_s)
        self.checkpoint.committed(offsets, changes)
        self._count(produced)

    @contextlib.contextmanager
    def _counting_aborts(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            metrics.ABORTS.labels(*self.lane.labels).inc()
            raise

    def _count(self, produced: list[Produced]) -> None:
        labels, now = self.lane.labels, time.time()
        metrics.OUTPUTS.labels(*labels).inc(len(produced))
        if self.checkpoint.dead_letters:
            metrics.DEAD.labels(*labels).inc(self.checkpoint.dead_letters)
            self.checkpoint.dead_letters = 0
        for record in produced:
            headers = record.output.headers
            if headers and headers[0][1] in UTTERANCES and record.topic is None:
                event = decode(dict(headers), record.output.value)
                assert isinstance(event, Segment)
                metrics.DELAY.labels(*labels).observe(now - event.captured_at.timestamp())
                if type(event) is Transcript and event.redacted:
                    tell_redacted(event, self.lane.row)
                if self.lane.ladder is not None and self.lane.ladder.step:
                    metrics.REDUCED.labels(*labels).inc()
                if self.lane.beside is not None:
                    self.lane.beside.finished(event)

    def _look(self) -> None:
        """Once in LOOK_S: what the metrics show that is not counted as it happens, and whether to work with less."""
        labels, now = self.lane.labels, time.monotonic()
        behind = 0
        if now - self.drained > LOOK_S:
            # Not caught up within the last second. What the consumer has heard of the ends is good enough here.
            for number, held in self.checkpoint.partitions.items():
                _, end = self.consumer.get_watermark_offsets(TopicPartition(self.row.reads, number), cached=True)
                behind += max(0, end - held.position)
        oldest_ms = min(self.captured_ms.values(), default=0)
        lag_s = max(0.0, time.time() - oldest_ms / 1_000) if behind and oldest_ms else 0.0
        metrics.LAG.labels(*labels).set(behind)
        metrics.LAG_SECONDS.labels(*labels).set(lag_s)
        metrics.CALLS.labels(*labels).set(self.checkpoint.calls())
        metrics.STATE.labels(*labels).set(self.checkpoint.state_bytes())
        ladder = self.lane.ladder
        if ladder is not None and ladder.look(lag_s, now):
            metrics.EFFORT.labels(*labels).set(ladder.step)
            about = {"stage": self.row.name, "effort": ladder.step, "lag_s": round(lag_s, 1)}
            log.warning("works with %s effort", "full" if not ladder.step else "less", extra=about)
        self.captured_ms.clear()

    def _idle(self) -> list[Produced]:
        """Wall clock ends the calls of a partition only when it is quiet and read to its end."""
        timeout_ms = self.worker.processor.idle_timeout_ms
        if timeout_ms is None or self.row.namespace:  # what a replay reads is old: its feed says when no more comes
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
            self.fenced = error.code() in kafka.FENCED
            if error.fatal() or not error.retriable():
                raise KafkaException(error)
            log.warning("kafka: %s", error.str(), extra={"stage": self.row.id})
            return None
        partition, offset = kafka.partition_of(message), message.offset()
        if offset is None or partition not in self.checkpoint.partitions:
            return None
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
        """Take over partitions. A failure is kept for the loop: what is raised here reaches it as something else."""
        self.assignments += 1
        try:
            self._take_over(consumer, partitions)
        except Exception as error:
            self.failure = error

    def _take_over(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
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
        consumer.assign(
            [
                TopicPartition(self.row.reads, held.partition, self.checkpoint.partitions[held.partition].watermark)
                for held in partitions
            ]
        )
        log.info(
            "assigned",
            extra={
                "stage": self.row.id,
                "partitions": sorted(positions),
                "calls": self.checkpoint.calls(),
                "restore_ms": round((time.monotonic() - started) * 1_000),
            },
        )
        self.assigned = True

    def _read_changelogs(self, numbers: list[int]) -> dict[int, list[tuple[str, dict[str, bytes], bytes | None]]]:
        """The committed records of the changelog's partitions.

        The end is the high watermark, not the last stable offset: a transaction of another worker that is still open
        must be ended, one way or the other, before the restore is done.
        """
        changelogs: dict[int, list[tuple[str, dict[str, bytes], bytes | None]]] = {number: [] for number in numbers}
        if not numbers:
            return changelogs
        settings, topic = self.worker.settings, self.row.state_topic
        ends = kafka.ranges(AdminClient(kafka.client(settings)), topic, numbers, TRANSACTION_S)
        left = {number: high for number, (low, high) in ends.items() if high > low}
        group = {"group.id": f"{self.member}.restore", "enable.partition.eof": True, "fetch.wait.max.ms": 10}
        reader = Consumer(kafka.consumer(settings, **group))
        try:
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
        log.info("revoked", extra={"stage": self.row.id, "partitions": sorted(held.partition for held in partitions)})
