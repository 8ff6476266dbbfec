"""The calls: so many at a time, in both lanes, for as long as they are wanted.

A changer must know: an ingest sends its next calls when the last have come out at the end of the chain. So there are
never more calls at once than were asked for, and a call that does not come out is noticed.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Final

from schemas.topics import Lane
from streams.ingest import MAXIMUM_SPEED, Call, Ingest, prepare
from streams.packets import Packet
from streams.settings import Settings
from tests.chaos.recordings import QUEUE, Recording

SPEEDS: Final = (1.5, 2.0, 3.0, 4.0)
"""Of live calls, times real time. Calls of the batch lane are sent as fast as Kafka takes them."""
STAGGER_S: Final = 1.5
PATIENCE_S: Final = 120.0
"""Judgement: no kill delays a call for so long; it is lost or stuck."""


@dataclass(slots=True)
class Sent:
    """A call on its way."""

    recording: Recording
    came_out: threading.Event = field(default_factory=threading.Event)


class _Ingest(Ingest):
    """Loses and doubles the packets that the recording says."""

    def __init__(self, settings: Settings, lane: Lane, recordings: dict[str, Recording]) -> None:
        super().__init__(settings, lane)
        self.recordings = recordings

    def _send(self, call: Call, packet: Packet, speed: float) -> None:
        for _ in range(self.recordings[call.info.call_id].copies(dict(packet.headers))):
            super()._send(call, packet, speed)


class Telephone:
    """Sends calls from threads of its own, from `start` until `stop`."""

    def __init__(self, settings: Settings, recordings: Sequence[Recording], at_once: int, seed: int) -> None:
        self.settings = settings
        self.calls: dict[str, Sent] = {}
        """By call id."""
        self.failures: list[BaseException] = []
        self._next: Iterator[tuple[int, Recording]] = zip(count(1), cycle(recordings))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        chance = random.Random(seed)
        bulk = max(1, at_once // 4)
        widths: list[tuple[Lane, int]] = [("batch", bulk)]
        # Several calls in one ingest, and several ingests, as at several sites.
        widths += [("live", min(2, at_once - bulk - at)) for at in range(0, at_once - bulk, 2)]
        self._threads = [
            threading.Thread(target=self._run, args=(lane, width, random.Random(chance.random())), name=f"{lane} calls")
            for lane, width in widths
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no more calls, and wait until those that were begun have come out, or did not for too long."""
        self._stop.set()

    @property
    def busy(self) -> bool:
        """Whether calls are still on their way."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def finished(self) -> int:
        """Calls that have come out at the end of the chain."""
        return sum(sent.came_out.is_set() for sent in list(self.calls.values()))

    def came_out(self, call_id: str) -> None:
        """The call's end was seen at the end of the chain."""
        if sent := self.calls.get(call_id):
            sent.came_out.set()

    def _run(self, lane: Lane, width: int, chance: random.Random) -> None:
        try:
            while not self._stop.is_set():
                calls = [self._call(lane, chance) for _ in range(width)]
                ids = [call.info.call_id for call in calls]
                ingest = _Ingest(self.settings, lane, {call_id: self.calls[call_id].recording for call_id in ids})
                ingest.run(calls, MAXIMUM_SPEED if lane == "batch" else chance.choice(SPEEDS))
                deadline = time.monotonic() + PATIENCE_S
                for call_id in ids:
                    self.calls[call_id].came_out.wait(max(0.0, deadline - time.monotonic()))
        except BaseException as error:
            self.failures.append(error)

    def _call(self, lane: Lane, chance: random.Random) -> Call:
        with self._lock:
            number, recording = next(self._next)
            call_id = f"{lane}-{number:05}"
            self.calls[call_id] = Sent(recording)
        (call,) = prepare([recording.path], roles=recording.roles, call_id=call_id, queue=QUEUE)
        call.delay_s = chance.uniform(0, STAGGER_S)
        return call
