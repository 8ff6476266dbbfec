"""`calltide feeder`: works on the orders of streams/api/tasks.py. Recordings go into Kafka in chunks, one after the
other, as `calltide ingest` sends them; one-call replays run beside that; and a watcher reads from the stages' topics
how far each has come.

A changer must know: a chunk is completed when Kafka has acknowledged it and ClickHouse has written that down. What died
in the middle of a chunk sends it again under the same times and numbers, and the VAD stage passes over what it has. It
forgets a call of which nothing came for `vad.idle_timeout_ms`, and ends it: then the recording is sent from its
beginning, for a call that is heard in halves has other speakers and other insights than a whole one.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from filelock import FileLock, Timeout

from schemas.errors import CalltideError
from schemas.events import CallEnded, CallMetrics, CallStarted, Progress, Stretch, decode
from schemas.topics import CHAIN, SCORES, STAGES, lanes
from streams import history, kafka
from streams.api.stored import Away, Stored, remove
from streams.api.tasks import Chunk, Kind, Order, Queue, State, Store
from streams.files import open_audio
from streams.health import Health
from streams.ingest import FLUSH_S, MAXIMUM_SPEED, Call, Ingest
from streams.packets import now
from streams.settings import Settings
from streams.sink import Unreachable

if TYPE_CHECKING:
    from streams.replay.plan import Plan

log = logging.getLogger(__name__)

IDLE_S: Final = 30.0
"""Judgement: it starts in a second, and holds some 100 MB."""
LOOK_S: Final = 0.2
TELL_S: Final = 1.0
"""How often it is written how far a task is."""
AGAIN_S: Final = 2.0
"""Pause before Kafka or ClickHouse is tried again."""
NICE: Final = 10
"""Of the workers of one-call replays: each gets a tenth of what live work does where there is not enough, for a call is
short, and somebody waits for it. Judgement."""
CAUGHT_UP_S: Final = 60.0
AFTER_SCORES_S: Final = 30.0
"""Judgement: insights come a second after the last score; where no stage makes them, a task does not wait for ever."""
SAME_MS: Final = 1_000
"""An end so much before the recording's own is that of an earlier attempt."""
INGEST: Final = "ingest"
REPLAY: Final = "replay"
FROM_STAGE: Final[Mapping[Kind, str]] = {"transcribe": "asr", "analyze": "emotion"}
"""Where hearing a call again begins."""
WRITES: Final = {lanes(row)[-1].writes: row.name for row in STAGES}
"""Topic → the stage that writes it, for calls of the batch lane."""
SCORED: Final = next(row.name for row in CHAIN if row.writes == SCORES)


class _Left(Exception):
    """The work on a recording ends here: the program does, or it begins anew."""


@dataclass(slots=True)
class _Job:
    """A recording on its way."""

    order: Order
    fed_ms: int = 0
    """Media time that Kafka has."""
    fed: bool = False
    told: bool = False
    """Whether its last word is written."""
    marks: dict[str, int] = field(default_factory=dict)
    """Stage → media time that it has written."""
    ended: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """Stage → topic, partition and offset at which the call's end lies."""
    scored_at: float = 0.0
    """When its scores were all written, monotonic seconds; 0: they are not."""
    forgotten: bool = False
    """Whether the VAD stage has ended the call before all of it was sent."""
    again_at: float = 0.0
    """When what its recording lies in is asked again after it was away, monotonic seconds."""

    @property
    def progress(self) -> dict[str, float]:
        total = self.order.duration_ms or (self.fed_ms if self.fed else 0)
        if not total:
            return {}
        shares = {stage: min(ms / total, 1.0) for stage, ms in self.marks.items()}
        ordered = {name: shares[name] for name in WRITES.values() if name in shares}
        return {INGEST: 1.0 if self.fed else min(self.fed_ms / total, 1.0)} | ordered

    def begin_again(self) -> None:
        self.order = self.order.model_copy(update={"attempt": self.order.attempt + 1})
        self.fed_ms, self.fed, self.forgotten, self.scored_at = 0, False, False, 0.0
        self.marks.clear()
        self.ended.clear()


class Watcher:
    """Reads what the stages write of calls, and what of it the sink has written; `jobs` by call id."""

    def __init__(self, settings: Settings, jobs: dict[str, _Job], since_ms: int | None) -> None:
        """`since_ms`: from records of that time on, Unix milliseconds; None: from now on. Raises KafkaException,
        CalltideError."""
        self._jobs = jobs
        admin = AdminClient(kafka.client(settings))
        self._groups = kafka.Groups(settings)
        self._sink = f"{settings.kafka.group_prefix}.sink"
        places = []
        for topic in WRITES:
            numbers = history.partitions(admin, topic)
            ends = kafka.ranges(admin, topic, numbers, history.ANSWER_S)
            found = {} if since_ms is None else history.offsets_at(admin, topic, numbers, since_ms)
            for number in numbers:
                offset = found.get(number)
                places.append((topic, number, ends[number][1] if offset is None else offset, ends[number][1]))
        self._behind = {(topic, number): end for topic, number, first, end in places if first < end}
        """Topic and partition → the offset up to which there was something when it began."""
        options = {"group.id": f"{settings.kafka.group_prefix}.feeder", "enable.partition.eof": True}
        self._consumer = Consumer(kafka.consumer(settings, **options))
        self._consumer.assign([TopicPartition(topic, number, first) for topic, number, first, _ in places])

    def read(self, wait_s: float) -> None:
        """Take what has come."""
        for message in self._consumer.consume(500, wait_s):
            place = message.topic() or "", kafka.partition_of(message)
            if message.error() is not None:
                self._behind.pop(place, None)  # the end of a partition; what else there is, librdkafka mends by itself
                continue
            if (message.offset() or 0) + 1 >= self._behind.get(place, 0):
                self._behind.pop(place, None)
            job = self._jobs.get((message.key() or b"").decode(errors="replace"))
            if job is not None:
                self._take(job, message)

    def catch_up(self) -> None:
        """Take what there was when it began."""
        deadline = time.monotonic() + CAUGHT_UP_S
        while self._behind and time.monotonic() < deadline:
            self.read(0.1)

    def _take(self, job: _Job, message: Message) -> None:
        topic, stage = message.topic() or "", WRITES[message.topic() or ""]
        headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
        try:
            event = decode(headers, message.value() or b"")
        except (KeyError, ValueError):
            return  # the sink tells of it
        if event.call.tenant != job.order.tenant:
            return
        at_ms = 0
        match event:
            case CallStarted() if stage == CHAIN[0].name:
                job.forgotten = False
            case Progress() | CallMetrics():
                at_ms = event.at_ms
            case Stretch():
                at_ms = event.end_ms
            case CallEnded():
                at_ms = event.duration_ms
                if job.fed and at_ms >= job.fed_ms - SAME_MS:
                    job.ended[stage] = topic, kafka.partition_of(message), message.offset() or 0
                elif stage == CHAIN[0].name and event.reason == "idle":
                    job.forgotten = True
        job.marks[stage] = max(job.marks.get(stage, 0), at_ms)

    def written(self, job: _Job, stage: str) -> bool:
        """Whether the sink has written what a stage has said of the call, to its end."""
        if stage not in job.ended:
            return False
        topic, partition, offset = job.ended[stage]
        (place,) = self._groups.committed(self._sink, [TopicPartition(topic, partition)], history.ANSWER_S)
        return bool(place.offset > offset)

    def close(self) -> None:
        """Leave."""
        self._consumer.close()
        self._groups.close()


class Feeder:
    """The work. `run` may be called once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings)
        self.queue = Queue(settings)
        self.jobs: dict[str, _Job] = {}
        self.stop = threading.Event()
        self._watcher: Watcher | None = None
        self._told_at = 0.0
        self._replaying: threading.Thread | None = None

    def run(self, stop: threading.Event, health: Health | None = None, idle_s: float = IDLE_S) -> None:
        """Work until `stop` is set, or there has been nothing to do for `idle_s`."""
        self.stop, health = stop, health or Health()
        self.queue.uploads.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.queue.uploads / "feeder.lock")
        while not stop.is_set():
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:  # one that is about to end
                stop.wait(LOOK_S)
        health.ready()
        busy_at = time.monotonic()
        try:
            while not stop.is_set():
                health.beat()
                try:
                    busy = self._turn()
                except (Unreachable, ClickHouseError, KafkaException, OSError, CalltideError) as error:
                    log.warning("trying again: %s", str(error).splitlines()[0] if str(error) else type(error).__name__)
                    self._forget_connections()
                    stop.wait(AGAIN_S)
                    continue
                if busy:
                    busy_at = time.monotonic()
                elif time.monotonic() - busy_at > idle_s:
                    return
                stop.wait(0 if self.jobs else LOOK_S)
        finally:
            if self._replaying is not None:
                self._replaying.join()
            if self._watcher is not None:
                self._watcher.close()
            self.store.close()
            lock.release()

    def _forget_connections(self) -> None:
        self.store.close()
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    def _turn(self) -> bool:
        """One look at the orders; whether there are any."""
        orders = self.queue.orders()
        uploads = [order for order in orders if order.kind == "upload"]
        if uploads and self._watcher is None:
            self.jobs.update({order.call_id: _Job(order) for order in uploads if order.call_id not in self.jobs})
            begun = [order for order in uploads if self.store.chunks_of(*order.key)]
            since = [round(order.info.started_at.timestamp() * 1_000) for order in begun if order.info is not None]
            self._watcher = Watcher(self.settings, self.jobs, min(since, default=None))
            self._watcher.catch_up()
        for order in uploads:
            job = self.jobs.setdefault(order.call_id, _Job(order))
            if not job.fed and not self.stop.is_set() and time.monotonic() >= job.again_at:
                try:
                    self._feed(job)
                except Away as error:  # the others need not wait for it
                    log.warning("trying again: %s", error, extra={"call": order.call_id})
                    job.again_at = time.monotonic() + AGAIN_S
        replays = [order for order in orders if order.kind != "upload"]
        if replays and (self._replaying is None or not self._replaying.is_alive()):
            self._replaying = threading.Thread(target=self._replay, args=(replays[0],), name="replay")
            self._replaying.start()
        self.watch(LOOK_S)
        self._tell()
        return bool(orders)

    def watch(self, wait_s: float) -> None:
        """Take what the stages have written meanwhile."""
        if self._watcher is not None:
            self._watcher.read(wait_s)

    # Recordings

    def _feed(self, job: _Job) -> None:
        """Send what of a recording Kafka has not. Raises CalltideError for what will be better later."""
        order, path = job.order, self.queue.place(job.order.task_id) / "recording"
        if (order.tenant, order.task_id) in self.store.cancelled([order.key]):
            self._done(job)
            return
        first = self.store.done_to(order)
        if first and job.forgotten:
            self._again(job)
            order, first = job.order, 0
        job.forgotten = False
        assert order.info is not None
        opener = Stored(order.stored, order.etag, order.bytes).open if order.stored else None
        try:
            audio = open_audio(path, container=order.container, opener=opener)
        except CalltideError as error:
            self._done(job, "failed", str(error).replace(str(path), order.source))
            return
        sending = _Sending(self, job, first)
        job.fed_ms = first * sending.chunk_ms
        call = Call(order.info, audio, since_ms=job.fed_ms)
        if not first:
            self.store.chunks(order, sending.planned())
        self.store.put(order, "processing", job.progress)
        try:
            sending.ingest.send(iter([call]), 1, MAXIMUM_SPEED, sending.cancel, sending.progress)
        except _Left:
            if job.forgotten:
                self._again(job)
            return
        job.fed_ms, job.fed = call.sent_ms, True
        if call.interrupted:
            sending.last(call.sent_ms, "failed")
            self._done(job, "failed" if sending.error else "cancelled", sending.error)
        elif call.error:
            # What came before was heard, and goes on being so.
            why = call.error.replace(str(path), order.source)
            sending.last(call.sent_ms, "failed", why)
            self._done(job, "failed", why)
        else:
            sending.last(call.sent_ms, "completed")
            if order.duration_ms != call.sent_ms:
                job.order = order.model_copy(update={"duration_ms": call.sent_ms})
                self._keep(job.order)
            self.store.put(job.order, "processing", job.progress)

    def _again(self, job: _Job) -> None:
        """From the beginning, as another attempt."""
        log.warning("the call was ended for idleness; it is sent again", extra={"call": job.order.call_id})
        job.begin_again()
        self._keep(job.order)

    def _keep(self, order: Order) -> None:
        """Write an order anew."""
        place = self.queue.place(order.task_id)
        new = place / "order.new"
        new.write_text(order.model_dump_json())
        new.replace(place / "order.json")

    def _done(self, job: _Job, state: State | None = None, error: str = "") -> None:
        """Nothing more is to be done; None: somebody else has written how it ended."""
        if state is not None:
            self.store.put(job.order, state, job.progress, error)
        if job.order.stored:
            try:
                remove(job.order.stored)
            except Away as away:  # it goes when its upload expires
                log.warning("%s", away, extra={"call": job.order.call_id})
        self.queue.remove(job.order.task_id)
        self.jobs.pop(job.order.call_id, None)

    def _tell(self) -> None:
        """Write how far each task is, once in a while, and end those that are done."""
        if time.monotonic() - self._told_at < TELL_S or self._watcher is None:
            return
        self._told_at = time.monotonic()
        gone = self.store.cancelled([job.order.key for job in self.jobs.values()])
        for job in [*self.jobs.values()]:
            if job.order.key in gone and job.fed:
                self._done(job)
            elif job.fed and self._complete(job):
                self._done(job, "completed")
            elif job.fed:
                self.store.put(job.order, "processing", job.progress)

    def _complete(self, job: _Job) -> bool:
        assert self._watcher is not None
        if not job.scored_at and self._watcher.written(job, SCORED):
            job.scored_at = time.monotonic()
        if not job.scored_at:
            return False
        return self._watcher.written(job, STAGES[-1].name) or time.monotonic() - job.scored_at > AFTER_SCORES_S

    # Old calls

    def _replay(self, order: Order) -> None:
        """Hear a call again; in a thread of its own."""
        store = Store(self.settings)
        try:
            if order.key in store.cancelled([order.key]):
                self._drop_replay(order)
            else:
                self._heard_again(store, order)
            self.queue.remove(order.task_id)
        except _Left:
            return
        except (Unreachable, ClickHouseError, KafkaException) as error:
            log.warning("trying again: %s", error)
            self.stop.wait(AGAIN_S)
        except CalltideError as error:
            store.put(order, "failed", error=str(error))
            self._drop_replay(order)
            self.queue.remove(order.task_id)
        finally:
            store.close()

    def _heard_again(self, store: Store, order: Order) -> None:
        from streams.replay import plan as plans
        from streams.replay.run import Progress as Heard
        from streams.replay.run import Replay, remove

        settings = self.settings.model_copy(update={"pipeline_version": order.pipeline_version})
        kafka.check(settings)
        name = replay_name(order)
        if name not in plans.names(AdminClient(kafka.client(settings))):
            plans.save(settings, self._plan(settings, order))
        plan = plans.find(settings, name)
        told_at = 0.0

        def tell(heard: Heard) -> None:
            nonlocal told_at
            if self.stop.is_set():
                raise _Left
            if time.monotonic() - told_at < TELL_S:
                return
            told_at = time.monotonic()
            if order.key in store.cancelled([order.key]):
                raise _Cancelled
            share = heard.media_ms / heard.of_ms if heard.of_ms else 0.0
            store.put(order, "processing", {REPLAY: share})

        try:
            with Replay(settings, plan) as replay:
                heard = replay.run(tell)
        except _Cancelled:
            remove(settings, name)
            return
        remove(settings, name)
        if heard.endless or heard.damaged:
            reason = next(iter(heard.damaged.values()), "its end did not come out; `calltide dead-letters` tells more")
            store.put(order, "failed", {REPLAY: 0.0}, reason)
        else:
            store.put(order, "completed", {REPLAY: 1.0})

    def _plan(self, settings: Settings, order: Order) -> "Plan":
        from streams.replay import plan as plans

        stage = FROM_STAGE[order.kind]
        wish = plans.Wish(calls=frozenset({order.call_id}), tenants=frozenset({order.tenant}))
        found = plans.survey(settings, wish, next(row for row in CHAIN if row.name == stage))
        if order.call_id not in {call.call_id for call in found.calls}:
            why = "has not ended" if found.running else "is not in Kafka any more (CALLTIDE_KAFKA__RETENTION_HOURS)"
            raise CalltideError(f"call {order.call_id} {why}; only what Kafka has can be heard again from {stage} on")
        return plans.Plan(
            name=replay_name(order),
            version=order.pipeline_version,
            from_stage=stage,
            to_stage=plans.ALL,
            overrides={},
            speed=None,
            workers=1,
            keep=False,
            created_at=now(),
            partitions=found.partitions,
            calls=tuple(found.calls),
            archived={},
            sources=found.sources,
            nice=NICE,
        )

    def _drop_replay(self, order: Order) -> None:
        from streams.replay import plan as plans
        from streams.replay.run import remove

        if replay_name(order) in plans.names(AdminClient(kafka.client(self.settings))):
            remove(self.settings, replay_name(order))


class _Cancelled(Exception):
    """Nobody wants it any more."""


class _Sending:
    """One recording through streams.ingest, from a chunk on."""

    def __init__(self, feeder: Feeder, job: _Job, first: int) -> None:
        self.feeder, self.job, self.order = feeder, job, job.order
        self.ingest = Ingest(feeder.settings, "batch")
        self.chunk_ms = feeder.settings.uploads.chunk_s * 1_000
        self.longest_ms = round(feeder.settings.uploads.longest_hours * 3_600_000)
        self.number = first
        self.told_at = 0.0
        self.cancel = threading.Event()
        self.error = ""

    def planned(self) -> list[Chunk]:
        """All chunks, as far as it is known how many there are."""
        total = self.order.duration_ms or self.chunk_ms
        pending = [self._chunk(number, "pending") for number in range(1, -(-total // self.chunk_ms))]
        return [self._chunk(0, "processing"), *pending]

    def progress(self, call: Call) -> None:
        """A packet was handed over. A chunk is done when one behind it was: the channels' packets come in turn."""
        if self.feeder.stop.is_set() or self.job.forgotten:
            raise _Left
        if call.sent_ms <= (self.number + 1) * self.chunk_ms or call.ended:
            return
        left = self.ingest.producer.flush(FLUSH_S)
        if left or self.ingest.failures:
            raise CalltideError(f"Kafka did not take {left + self.ingest.failures} records ({self.ingest.failure})")
        done, self.number = self.number, self.number + 1
        self.job.fed_ms = self.number * self.chunk_ms
        self.feeder.store.chunks(self.order, [self._chunk(done, "completed"), self._chunk(self.number, "processing")])
        if time.monotonic() - self.told_at > TELL_S:
            self.told_at = time.monotonic()
            self.feeder.watch(0)
            self.feeder.store.put(self.order, "processing", self.job.progress)
            if self.order.key in self.feeder.store.cancelled([self.order.key]):
                self.cancel.set()
        if call.sent_ms > self.longest_ms:
            hours = self.feeder.settings.uploads.longest_hours
            self.error = f"{self.order.source} is longer than {hours:g} h; what came before was used, cut it in parts"
            self.cancel.set()

    def last(self, end_ms: int, state: str, error: str = "") -> None:
        """The chunk in which the recording ended."""
        chunks = [self._chunk(self.number, state, end_ms)]
        # Of a container that told of more than it has, as MP3 may, nothing is left to be done.
        behind = range(self.number + 1, -(-(self.order.duration_ms or 0) // self.chunk_ms))
        chunks += [Chunk(number=number, state="completed", start_ms=end_ms, end_ms=end_ms) for number in behind]
        self.feeder.store.chunks(self.order, chunks if state == "completed" else chunks[:1], error)

    def _chunk(self, number: int, state: str, end_ms: int | None = None) -> Chunk:
        end = (number + 1) * self.chunk_ms if end_ms is None else end_ms
        if self.order.duration_ms:
            end = min(end, self.order.duration_ms)
        return Chunk.model_validate(
            {"number": number, "state": state, "start_ms": number * self.chunk_ms, "end_ms": end}
        )


def replay_name(order: Order) -> str:
    """Of the replay that an order is."""
    return f"task-{order.task_id}"
