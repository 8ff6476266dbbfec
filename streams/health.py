"""Whether a process is alive and whether it serves: what /healthz and /readyz answer, and the file of `--ready`.

A changer must know: alive means "do not restart me", ready means "send me work". A worker that waits for Kafka or
ClickHouse is alive and not ready; restarting it would not help. The file is there for as long as the process serves.
"""

import threading
import time
from pathlib import Path
from typing import Any, Final

STALL_S: Final = 120.0
"""Judgement: a loop that has not come round for so long hangs; one turn of the slowest model on one core takes 10 s."""


class Health:
    """What a process says of itself. Any thread may write and read it."""

    def __init__(self, ready_file: Path | None = None) -> None:
        self.serving = threading.Event()
        """Set while the process serves."""
        self._ready_file = ready_file
        self._beat: float | None = None
        self._facts: dict[str, Any] = {}
        self._waiting = "starting"

    def beat(self) -> None:
        """The main loop has come round. A process that never says so is taken to be alive."""
        self._beat = time.monotonic()

    def ready(self, **facts: Any) -> None:
        """It serves; `facts` say what, such as the partitions it holds."""
        self._facts = facts
        if not self.serving.is_set():
            self.serving.set()
            if self._ready_file is not None:
                self._ready_file.touch()

    def waiting(self, why: str) -> None:
        """It does not serve now, and why."""
        self._waiting = why
        if self.serving.is_set():
            self.serving.clear()
            if self._ready_file is not None:
                self._ready_file.unlink(missing_ok=True)

    def alive(self) -> tuple[bool, dict[str, Any]]:
        """For /healthz: whether the loop comes round, and what to show."""
        since_s = 0.0 if self._beat is None else time.monotonic() - self._beat
        return since_s < STALL_S, {"alive": since_s < STALL_S, "seconds_since_the_last_turn": round(since_s, 1)}

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """For /readyz: whether it serves, and with what or why not."""
        if self.serving.is_set():
            return True, {"ready": True, **self._facts}
        return False, {"ready": False, "waiting": self._waiting}
