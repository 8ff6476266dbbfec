"""Interim results: what is said before an utterance is finished, beside the chain and never in its way.

VAD's worker sends copies of the open segments of calls that ask for it, between its turns (`Emitter`). ASR's worker
finds the words in the newest of each, in a thread that yields to all others (`Transcriber`).

A changer must know: nothing of this is in a transaction, in a snapshot or in the group's offsets, and whatever goes
wrong in it is counted, logged and tried again later. What is lost is replaced by the next revision.
"""

import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import ClassVar, Final

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from processors.base import Output, Processor, Provisional, Record, Revising, Unfinished
from schemas.errors import CalltideError
from schemas.events import Interim, Stretch, decode
from schemas.topics import Stage
from streams import kafka, metrics
from streams.checkpoint import Checkpoint
from streams.settings import Settings

log = logging.getLogger(__name__)

OLD_S: Final = 1.0
"""What is older is not worth its transcription: the next revision is there, or the utterance is finished soon."""
WINDOW: Final = 3
"""Revisions of a channel that may be without an answer. Judgement: at 300 ms each, as many as come before the oldest of
them is too old."""
TOGETHER: Final = 3
"""Most revisions transcribed at once. Judgement: decoded together they cost a fifth less, but all wait for the last."""
NICE: Final = 5
"""How much less of a core is due to interim work where there are not enough. Judgement: a third of what others get, so
that it does not stand still with a lock for which finished work waits."""
WAIT_S: Final = 0.1
"""Longest wait for a revision."""
PAUSE_S: Final = 5.0
"""Judgement: from a failure to the next attempt."""
KEPT_S: Final = 60.0
"""A channel of which nothing came for so long is forgotten; its call may have ended long before."""
MOST: Final = 1_000
"""Records read at once."""

Place = tuple[str, int]
"""Call and channel: where there is one open segment at most."""


@dataclass(slots=True)
class _Sent:
    """The latest revision of a channel that was sent."""

    start_ms: int
    revision: int
    heard_ms: int
    at: float
    since: float
    """When the first revision without an answer was sent, or the last answer came."""
    unanswered: tuple[int, ...]
    """Ends of the revisions without an answer, oldest first, WINDOW at most."""


class Pace:
    """How often the open segment of each channel is sent: every `every_ms` of media time while answers come. Once
    WINDOW revisions have none, only after half as long again as nothing was heard.

    So what is sent in vain is bounded by what is transcribed, however busy ASR is, and when it does not answer at all
    next to nothing is sent. How long the segment is does not matter: ASR takes hardly longer for it.
    """

    def __init__(self, every_ms: int) -> None:
        self._every_ms = every_ms
        self._sent: dict[Place, _Sent] = {}

    def due(self, one: Unfinished, now_s: float) -> bool:
        """Whether to send it now, monotonic seconds; if so it counts as sent."""
        place = one.call.call_id, one.channel
        last = self._sent.get(place)
        unanswered: tuple[int, ...] = ()
        since = now_s
        if last is not None:
            same = last.start_ms == one.start_ms
            if same and (one.revision <= last.revision or one.heard_ms - last.heard_ms < self._every_ms):
                return False
            if len(last.unanswered) == WINDOW:
                if now_s - last.at < (now_s - last.since) / 2:
                    return False
                unanswered, since = last.unanswered[1:], last.since
            elif same and last.unanswered:
                unanswered, since = last.unanswered, last.since
            # Otherwise what has no answer was of a segment that was finished first.
        self._sent[place] = _Sent(one.start_ms, one.revision, one.heard_ms, now_s, since, (*unanswered, one.end_ms))
        return True

    def answered(self, event: Interim, now_s: float) -> None:
        """A revision was transcribed: the earlier ones will not be."""
        sent = self._sent.get((event.call.call_id, event.channel))
        if sent is not None:
            sent.unanswered = tuple(end_ms for end_ms in sent.unanswered if end_ms > event.end_ms)
            sent.since = now_s

    def forget(self, now_s: float) -> None:
        """Drop the channels that have been silent for KEPT_S."""
        self._sent = {place: sent for place, sent in self._sent.items() if now_s - sent.at < KEPT_S}


class Aside:
    """Work beside a live lane, with clients of its own. Whatever fails in it ends here."""

    outcomes: ClassVar[tuple[str, ...]] = ()
    """What may become of a revision, as it is counted."""

    def __init__(self, settings: Settings, row: Stage) -> None:
        assert row.reads_interim and row.writes_interim
        self.settings = settings
        self.row = row
        self.reads: str = row.reads_interim
        self.writes: str = row.writes_interim
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._held: list[int] = []
        self._next_look = 0.0
        metrics.begin_interim(row.name, self.outcomes)

    def turn(self, checkpoint: Checkpoint, busy: bool) -> None:
        """The lane has done a turn. `checkpoint`: the calls of the partitions that it holds; `busy`: there was more to
        do than it could do at once, or it works with less effort."""
        raise NotImplementedError

    def finished(self, event: Stretch) -> None:
        """An utterance is finished, and written."""

    def close(self) -> None:
        """End it."""
        self._let_go()

    def _work(self, now: float) -> None:
        """Do what there is to do. Raises whatever goes wrong."""
        raise NotImplementedError

    def _forget(self, now: float) -> None:
        """Free what is old."""
        raise NotImplementedError

    def _attempt(self) -> bool:
        """`_work`, and whether it went well."""
        now = time.monotonic()
        try:
            self._work(now)
            if now >= self._next_look:
                self._next_look = now + KEPT_S / 6
                self._forget(now)
            if self._producer is not None:
                self._producer.poll(0)
            return True
        except Exception as error:  # finished work goes on, whatever it is
            metrics.INTERIM_FAILURES.labels(self.row.name).inc()
            log.warning("no interim results for %.0f s: %s", PAUSE_S, error, extra={"stage": self.row.name})
            self._let_go()
            return False

    def _let_go(self) -> None:
        consumer, self._consumer, self._producer, self._held = self._consumer, None, None, []
        try:
            if consumer is not None:
                consumer.close()
        except (KafkaException, RuntimeError) as error:
            log.warning("consumer did not close cleanly", extra={"stage": self.row.name, "reason": str(error)})

    def _read(self, partitions: Iterable[int], wait_s: float = 0.0) -> list[Message]:
        """What has come on these partitions since they were held, waiting at most so long for the first of it."""
        if self._consumer is None:
            more = {
                # Never joined and never committed to: the client library insists on a name.
                "group.id": f"{self.settings.kafka.group_prefix}.{self.row.id}.interim",
                "auto.offset.reset": "latest",
            }
            self._consumer = Consumer(kafka.consumer(self.settings, **more))
        held = sorted(partitions)
        if held != self._held:
            self._consumer.assign([TopicPartition(self.reads, number, OFFSET_END) for number in held])
            self._held = held
        messages = self._consumer.consume(1, wait_s)
        if messages:
            messages += self._consumer.consume(MOST, 0)
        for message in messages:
            if (error := message.error()) is not None:
                raise KafkaException(error)
        return messages

    def _write(self, output: Output, partition: int, call_id: str, timestamp_ms: int) -> None:
        """Send it, or drop it when there is no room."""
        if self._producer is None:
            more = {
                # A revision that is lost or comes twice does no harm, a late one is of no use.
                "enable.idempotence": False,
                "acks": 1,
                "message.timeout.ms": 2_000,
                "queue.buffering.max.kbytes": 16_384,
            }
            self._producer = Producer(kafka.producer(self.settings, **more))
        try:
            self._producer.produce(
                self.writes,
                value=output.value,
                key=call_id.encode(),
                headers=[*output.headers],
                partition=partition,
                timestamp=timestamp_ms,
                on_delivery=self._delivered,
            )
        except BufferError:
            self._count("dropped")

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._count("dropped")

    def _count(self, what: str, number: int = 1) -> None:
        metrics.INTERIM.labels(self.row.name, what).inc(number)


class Emitter(Aside):
    """VAD's part: copies of open segments, as often as `Pace` says, and only while VAD itself keeps up."""

    outcomes = ("emitted", "dropped")

    def __init__(self, settings: Settings, row: Stage, processor: Provisional) -> None:
        super().__init__(settings, row)
        self._processor = processor
        self._everyone = settings.runtime.interim == "always"
        self._pace = Pace(settings.runtime.interim_every_ms)
        self._checkpoint: Checkpoint | None = None
        self._resume_at = 0.0

    def turn(self, checkpoint: Checkpoint, busy: bool) -> None:
        self._checkpoint = checkpoint
        if time.monotonic() >= self._resume_at and not self._attempt():
            self._resume_at = time.monotonic() + PAUSE_S

    def _work(self, now: float) -> None:
        checkpoint = self._checkpoint
        assert checkpoint is not None
        if self._producer is not None:
            for message in self._read(checkpoint.partitions):
                self._pace.answered(_interim(_record(message)), now)
        wall_ms = time.time() * 1_000
        chosen: list[Unfinished] = []

        def due(one: Unfinished) -> bool:
            asked = one.call.interim or self._everyone
            # Calls sent faster than they were spoken are ahead of the clock.
            if asked and abs(wall_ms - one.captured_ms) <= OLD_S * 1_000 and self._pace.due(one, now):
                chosen.append(one)
                return True
            return False

        for partition, call_id, state in checkpoint.states():
            chosen.clear()
            outputs = self._processor.provisional(state, due)
            for one, output in zip(chosen, outputs, strict=True):
                self._write(output, partition, call_id, one.captured_ms)
                self._count("emitted")

    def _forget(self, now: float) -> None:
        self._pace.forget(now)


@dataclass(slots=True)
class _Channel:
    touched: float
    served: float = 0.0
    waiting: "Waiting | None" = None
    revised: Interim | None = None
    """The newest revision of which the words are known."""
    finished_ms: int = -1
    """Start of the latest utterance that is finished."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A revision of which the words are not known."""

    event: Interim
    partition: int
    record: Record


class Newest:
    """The newest revision of each channel, until it is transcribed or of no use any more. Times are Unix seconds."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        """Revisions that are not transcribed, by the reason."""
        self._channels: dict[Place, _Channel] = {}

    def add(self, one: Waiting, now_s: float) -> None:
        """A revision that has come."""
        channel = self._channel(one.event, now_s)
        self.skipped["superseded"] += channel.waiting is not None
        channel.waiting = one

    def finished(self, event: Stretch, now_s: float) -> None:
        """What is still to come of this utterance is of no use any more."""
        self._channel(event, now_s).finished_ms = event.start_ms

    def take(self, now_s: float) -> list[tuple[Interim | None, Waiting]]:
        """TOGETHER of them at most, who has waited longest first, each with what was made of the one before it."""
        taken: list[tuple[Interim | None, Waiting]] = []
        for channel in sorted(self._channels.values(), key=lambda one: one.served):
            one = channel.waiting
            if one is None:
                continue
            if one.event.start_ms <= channel.finished_ms:
                self.skipped["finished"] += 1
            elif now_s - one.event.captured_at.timestamp() > OLD_S:
                self.skipped["old"] += 1
            elif len(taken) == TOGETHER:
                break
            else:
                channel.served = now_s
                taken.append((channel.revised, one))
            channel.waiting = None
        return taken

    def revised(self, event: Interim, now_s: float) -> bool:
        """What was made of a revision; whether it is still of use."""
        channel = self._channel(event, now_s)
        channel.revised = event
        return event.start_ms > channel.finished_ms

    def forget(self, now_s: float) -> None:
        """Drop the audio that is too old, and the channels of which nothing came for KEPT_S."""
        for channel in self._channels.values():
            if channel.waiting is not None and now_s - channel.waiting.event.captured_at.timestamp() > OLD_S:
                channel.waiting = None
                self.skipped["old"] += 1
        self._channels = {place: one for place, one in self._channels.items() if now_s - one.touched < KEPT_S}

    def _channel(self, event: Stretch, now_s: float) -> _Channel:
        channel = self._channels.setdefault((event.call.call_id, event.channel), _Channel(now_s))
        channel.touched = now_s
        return channel


class Transcriber(Aside):
    """ASR's part: the words of the newest revision of each segment, in a thread of its own, while ASR keeps up."""

    outcomes = ("transcribed", "superseded", "finished", "old", "dropped")

    def __init__(self, settings: Settings, row: Stage, processor: Revising) -> None:
        super().__init__(settings, row)
        self._processor = processor
        self._newest = Newest()
        self._finished: SimpleQueue[Stretch] = SimpleQueue()
        self._partitions: tuple[int, ...] = ()
        self._busy = True
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def turn(self, checkpoint: Checkpoint, busy: bool) -> None:
        self._partitions, self._busy = tuple(checkpoint.partitions), busy
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"interim {self.row.id}", daemon=True)
            self._thread.start()

    def finished(self, event: Stretch) -> None:
        self._finished.put(event)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(PAUSE_S)

    def _run(self) -> None:
        # The threads that the model makes in here inherit it.
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(os.nice(0) + NICE, 19))
        while not self._stop.is_set():
            if not self._attempt():
                self._stop.wait(PAUSE_S)
        self._let_go()

    def _work(self, now: float) -> None:
        for message in self._read(self._partitions, WAIT_S):
            record = _record(message)
            self._newest.add(Waiting(_interim(record), kafka.partition_of(message), record), time.time())
        self._hear_of_finished()
        batch = [] if self._busy else self._newest.take(time.time())
        for reason, number in self._newest.skipped.items():
            self._count(reason, number)
        self._newest.skipped.clear()
        if not batch:
            return
        with metrics.INTERIM_PROCESS.labels(self.row.name).time():
            revised = self._processor.revise([(before, one.record) for before, one in batch])
        self._count("transcribed", len(revised))
        self._hear_of_finished()
        for event, (_, one) in zip(revised, batch, strict=True):
            if not self._newest.revised(event, time.time()):
                continue
            self._write(Output.of(event), one.partition, one.record.call_id, one.record.timestamp_ms)
            metrics.INTERIM_DELAY.labels(self.row.name).observe(time.time() - event.captured_at.timestamp())

    def _hear_of_finished(self) -> None:
        while not self._finished.empty():
            self._newest.finished(self._finished.get(), time.time())

    def _forget(self, now: float) -> None:
        self._newest.forget(time.time())


def beside(settings: Settings, row: Stage, processor: Processor) -> Aside | None:
    """What a stage does for interim results in the lane of `row`, if anything."""
    if settings.runtime.interim == "never" or not row.writes_interim:
        return None
    if isinstance(processor, Provisional):
        return Emitter(settings, row, processor)
    return Transcriber(settings, row, processor) if isinstance(processor, Revising) else None


def _record(message: Message) -> Record:
    headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
    call_id, kind = (message.key() or b"").decode(), headers.get("kind", b"").decode()
    return Record(call_id, kind, headers, message.value() or b"", message.timestamp()[1])


def _interim(record: Record) -> Interim:
    event = decode(record.headers, record.value)
    if not isinstance(event, Interim):
        raise CalltideError(f"a {event.kind} came where interim results are read; mend what writes to the topic")
    return event
