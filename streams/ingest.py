"""Recordings into Kafka, paced as if they were being spoken.

One thread serves all calls: it sends whatever packet is due next. A changer must know: a record's timestamp is the wall
clock at which its last sample is captured; idle times and latencies are counted from it.
"""

import heapq
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, Role, encode
from schemas.topics import Lane, frames
from streams import kafka
from streams.files import AudioFile, open_audio
from streams.packets import Packet, now, packets, roles_for
from streams.settings import Settings

log = logging.getLogger(__name__)

FLUSH_S: Final = 120.0
"""How long to wait for Kafka at the end. Judgement: a broker that was killed is back within half a minute."""
TICK_S: Final = 0.005
"""Judgement: packets that are due within so long are sent together. A wake-up for each would cost more than sending."""
LINGER_MS: Final = 20
"""Judgement: a fifth of a packet's own length; what waits for it shares a request, which costs the broker as much as
what is in it (docs/benchmarks.md, 200 calls)."""
MAXIMUM_SPEED: Final = float("inf")
NEXT_S: Final = 0.1
"""Judgement: how often the next recording is asked for while there is none yet."""


@dataclass(slots=True)
class Call:
    """One recording on its way into Kafka."""

    info: CallInfo
    audio: AudioFile
    delay_s: float = 0.0
    since_ms: int | None = None
    """Media time up to which it was sent before: it goes on there, under the times that it has; None: it begins now."""
    sent_ms: int = 0
    """Media time sent so far."""
    records: int = 0
    ended: bool = False
    error: str | None = None
    """What is wrong with the recording; what came before it was sent."""
    unsent: bool = True
    """Whether packets are still to be sent."""
    interrupted: bool = False
    acknowledged: int = 0
    lost: int = 0
    """Records that Kafka has answered for; those of them, and of those it had no room for, that it did not take."""
    stream: Iterator[Packet] = field(default_factory=lambda: iter(()))


def new_call_id(path: Path) -> str:
    """A name that tells the file and is like no other."""
    name = re.sub(r"[^\w.-]+", "-", path.stem).strip("-")[:48]
    return f"{name or 'call'}-{uuid.uuid4().hex[:8]}"


def prepare(
    paths: Sequence[Path],
    *,
    roles: tuple[Role, ...] | None = None,
    mix: bool = False,
    call_id: str | None = None,
    stagger_s: float = 0.0,
    **fields: Any,
) -> list[Call]:
    """Look at every file before the first packet is sent. Raises CalltideError for the first that cannot be a call."""
    if call_id is not None and len(paths) > 1:
        raise CalltideError("--call-id names one call; give one file")
    calls = []
    for number, path in enumerate(paths):
        audio = open_audio(path, mix)
        info = CallInfo(
            call_id=call_id or new_call_id(path),
            started_at=now(),
            roles=roles_for(audio, roles),
            source=path.name,
            **fields,
        )
        calls.append(Call(info, audio, number * stagger_s))
    return calls


class Ingest:
    """Streams calls into a lane's topic of audio. `run` may be called once."""

    def __init__(self, settings: Settings, lane: Lane = "live") -> None:
        self.settings = settings
        self.topic = frames(lane)
        options = {"linger.ms": LINGER_MS, "queue.buffering.max.kbytes": 65_536}
        self.producer = Producer(kafka.producer(settings, **options))
        self.stop = threading.Event()
        self.give_up_at = float("inf")
        """When, after a stop, to wait no longer for room in the producer's queue, monotonic seconds."""
        self.settled: Callable[[Call], None] = lambda _call: None
        self.failures = 0
        self.failure = ""

    def run(
        self,
        calls: Sequence[Call],
        speed: float = 1.0,
        stop: threading.Event | None = None,
        progress: Callable[[Call], None] = lambda _call: None,
    ) -> None:
        """Send all calls, each from its `delay_s` on, at `speed` times real time (infinity: as fast as Kafka takes it).

        When `stop` is set, calls that have begun are ended properly (reason `interrupted`) and the rest is not begun.
        Raises CalltideError if Kafka did not take every record or a file was damaged.
        """
        self.send(iter(calls), len(calls), speed, stop, progress)
        damaged = [call.error for call in calls if call.error]
        if damaged:
            raise CalltideError("; ".join(damaged))

    def send(
        self,
        calls: Iterator[Call | None],
        at_once: int,
        speed: float = 1.0,
        stop: threading.Event | None = None,
        progress: Callable[[Call], None] = lambda _call: None,
        settled: Callable[[Call], None] = lambda _call: None,
    ) -> None:
        """As `run`, for calls that come as they are asked for, at most `at_once` at the same time.

        `calls` gives None when there is none yet. `settled` is told of each call that was begun, once Kafka has
        answered for all its records; a damaged recording is in its `error`. Raises CalltideError as soon as `calls`
        does, and if Kafka did not take every record.
        """
        stop = stop or threading.Event()
        self.stop, self.settled = stop, settled
        start = time.monotonic()
        due: list[tuple[float, int, Call]] = []
        waiting: dict[int, tuple[Packet, float]] = {}
        numbers = count()
        more = True
        while more or due:
            more = more and self._fill(due, calls, at_once, start, numbers)
            early_s = due[0][0] - time.monotonic() if due else NEXT_S
            asking = more and len(due) < at_once
            pause_s = max(min(early_s, NEXT_S) if asking else early_s, TICK_S)
            if stop.wait(pause_s) if early_s > 0 else stop.is_set():
                self._interrupt([call for _, _, call in due], speed)
                break
            if not due or early_s > pause_s:
                self.producer.poll(0)
                continue
            _, number, call = heapq.heappop(due)
            if number not in waiting:
                if call.since_ms is None:
                    # Time in the call runs from the moment its first packet is due.
                    call.info = call.info.model_copy(update={"started_at": now()})
                call.stream = packets(call.info, call.audio, self.settings.ingest.packet_ms, call.since_ms or 0)
                waiting[number] = (next(call.stream), time.monotonic())
            packet, begun = waiting[number]
            self._send(call, packet, speed)
            progress(call)
            try:
                following = next(call.stream)
            except (StopIteration, CalltideError) as end:
                call.error = None if isinstance(end, StopIteration) else str(end)
                call.unsent = False
                del waiting[number]
                self._settle(call)
                continue
            waiting[number] = (following, begun)
            heapq.heappush(due, (begun + following.media_ms / 1_000 / speed, number, call))
        left = self.producer.flush(FLUSH_S)
        if left or self.failures:
            raise CalltideError(
                f"{left + self.failures} records did not reach Kafka at {self.settings.bootstrap_servers}"
                f"{f' ({self.failure})' if self.failure else ''}; see that the broker runs and ingest the calls again"
            )

    def _fill(
        self,
        due: list[tuple[float, int, Call]],
        calls: Iterator[Call | None],
        at_once: int,
        start: float,
        numbers: Iterator[int],
    ) -> bool:
        """Take calls while there is room; False when there will be no more."""
        while len(due) < at_once:
            try:
                call = next(calls)
            except StopIteration:
                return False
            if call is None:
                break
            heapq.heappush(due, (max(start + call.delay_s, time.monotonic()), next(numbers), call))
        return True

    def _send(self, call: Call, packet: Packet, speed: float) -> None:
        captured_ms = call.info.started_at.timestamp() * 1_000 + packet.media_ms / speed
        while True:
            try:
                self.producer.produce(
                    self.topic,
                    key=call.info.call_id.encode(),
                    value=packet.value,
                    headers=[*packet.headers],
                    timestamp=round(captured_ms),
                    on_delivery=partial(self._delivered, call),
                )
                break
            except BufferError:
                # Kafka is slower than we are, or away: wait for room rather than lose a packet.
                self.producer.poll(0.1)
                if self.stop.is_set():
                    self.give_up_at = min(self.give_up_at, time.monotonic() + FLUSH_S)
                if time.monotonic() >= self.give_up_at:
                    self.failures += 1
                    call.lost += 1
                    return
            except KafkaException as error:
                raise CalltideError(f"Kafka refuses the call: {error.args[0].str()}") from error
        call.records += 1
        call.sent_ms = packet.media_ms
        call.ended = packet.headers[0][1] == b"call_ended"
        self.producer.poll(0)

    def _delivered(self, call: Call, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self.failures += 1
            self.failure = error.str()
            call.lost += 1
        call.acknowledged += 1
        self._settle(call)

    def _settle(self, call: Call) -> None:
        if not call.unsent and call.acknowledged == call.records:
            self.settled(call)

    def _interrupt(self, calls: Sequence[Call], speed: float) -> None:
        for call in calls:
            if call.records and not call.ended:
                ended_at = call.info.started_at + timedelta(milliseconds=call.sent_ms)
                ended = CallEnded(call=call.info, duration_ms=call.sent_ms, ended_at=ended_at, reason="interrupted")
                self._send(call, Packet(*encode(ended), media_ms=call.sent_ms), speed)
                call.unsent, call.interrupted = False, True
                self._settle(call)
