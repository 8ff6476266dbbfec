"""Which part is killed when, and how long it takes until it works again.

A changer must know: a part works again when work of its own is seen that only the new process can have done: later
than its start. So the seconds hold everything a person would wait for, from the kill on: that its death is noticed, the
pause before it is started, its start, and the restore.
"""

import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from schemas.topics import STAGES
from streams.supervisor import Supervisor

ONE_ROUND: Final[Mapping[str, int]] = {
    **{row.name: 5 for row in STAGES},
    "sink": 3,
    "gateway": 2,
    "broker": 3,
    "clickhouse": 2,
}
"""Part → how often it is killed in one round."""
EVERYTHING_ONCE: Final = dict.fromkeys(ONE_ROUND, 1)


DOWN_AT_ONCE: Final = 3
"""Parts that do not work at one time: the next is killed when one works again. Judgement: enough to have every two die
together, few enough for calls to be heard meanwhile."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One kill to come: which part, and how many seconds after the one before."""

    part: str
    pause_s: float


def plan(kills: Mapping[str, int], pause_s: float, seed: int) -> list[Plan]:
    """All kills of a run in random order, each at a random moment: `pause_s` after the one before on average."""
    chance = random.Random(seed)
    parts = [part for part, times in kills.items() for _ in range(times)]
    chance.shuffle(parts)
    return [Plan(part, chance.uniform(0.0, 2 * pause_s)) for part in parts]


@dataclass(slots=True)
class Kill:
    """One that was done. Times are monotonic seconds."""

    part: str
    at: float
    starts: int
    """How often the part had been started by then."""
    started: float | None = None
    works: float | None = None

    @property
    def seconds(self) -> float | None:
        """From the kill until the part worked again; None if it never did."""
        return None if self.works is None else self.works - self.at


class Killer:
    """Kills by plan. `tend` is called by the thread that tends the supervisor, `seen` by the observers."""

    def __init__(self, supervisor: Supervisor, plans: list[Plan]) -> None:
        self.supervisor = supervisor
        self.kills: list[Kill] = []
        self._plans = deque(plans)
        self._lock = threading.Lock()
        self._waiting: list[Kill] = []
        self._last = 0.0

    def tend(self) -> None:
        """Kill what is due. The pauses begin with the first call of this."""
        now = time.monotonic()
        self._last = self._last or now
        with self._lock:
            for kill in self._waiting:
                if kill.started is None and self.supervisor.started(kill.part) > kill.starts:
                    kill.started = now
            if not self._plans or now < self._last + self._plans[0].pause_s:
                return
            part = self._plans[0].part
            pid = self.supervisor.pid(part)
            # What does not run just now is killed when it does.
            if pid is None or len({kill.part for kill in self._waiting} | {part}) > DOWN_AT_ONCE:
                return
            kill = Kill(part, time.monotonic(), self.supervisor.started(part))
            os.kill(pid, signal.SIGKILL)
            self.kills.append(kill)
            self._waiting.append(kill)
            self._plans.popleft()
            self._last = now

    def seen(self, part: str) -> None:
        """The part has done something."""
        if not self._waiting:
            return
        now = time.monotonic()
        with self._lock:
            for kill in [one for one in self._waiting if one.part == part and one.started is not None]:
                kill.works = now
                self._waiting.remove(kill)

    def waiting_for(self) -> set[str]:
        """Parts that were killed and were not seen to work since."""
        return {kill.part for kill in list(self._waiting)}
