"""The process that works on tasks (streams/api/feeder.py), as the web service starts it: when there is something to do,
and again when it dies. A recording that breaks the decoder breaks that process, and not the one that answers.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import Popen
from typing import Final

import anyio
from fastapi import FastAPI, Request

from deploy.process import spawn, stop
from schemas.errors import CalltideError
from streams.api.stored import Uploads
from streams.api.tasks import Queue
from streams.settings import Settings

log = logging.getLogger(__name__)

LOOK_S: Final = 0.2
AGAIN_S: Final = (0.5, 30.0)
"""Judgement: first and longest pause before it is started again."""
LIVED_S: Final = 60.0
"""Judgement: what has lived so long died of something new."""
STOP_S: Final = 10.0
TIDY_EVERY_S: Final = 3_600.0


class Feeding:
    """Keeps the process alive while there are orders."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.queue = Queue(settings)
        self.process: Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def wake(self) -> None:
        """There may be something to do."""
        with self._lock:
            if self._stop.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._tend, name="feeding", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the process: what it has begun is gone on with at the next start."""
        self._stop.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(STOP_S + 1)

    def _tend(self) -> None:
        pause_s, longest_s = AGAIN_S
        try:
            while not self._stop.is_set():
                if not self.queue.orders():
                    with self._lock:
                        # Asked under the lock: who wakes now sees that nobody is there any more.
                        if not self.queue.orders():
                            self._thread = None
                            return
                begun = time.monotonic()
                self.process = self._spawned()
                while self.process.poll() is None and not self._stop.wait(LOOK_S):
                    pass
                if self._stop.is_set() or not self.process.returncode:
                    continue
                lived_s = time.monotonic() - begun
                pause_s = AGAIN_S[0] if lived_s > LIVED_S else min(pause_s * 2, longest_s)
                log.error("the feeder ended with %s; it is started again", self.process.returncode)
                self._stop.wait(pause_s)
        finally:
            if self.process is not None:
                stop(self.process, STOP_S)

    def _spawned(self) -> Popen[bytes]:
        logs = self.settings.directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        return spawn(
            [sys.executable, "-m", "streams", "feeder"],
            output=logs / "feeder.log",
            env={"CALLTIDE_HOME": str(self.settings.directory), "CALLTIDE_METRICS__PORT": "0"},
        )


def feeding_of(request: Request) -> Feeding:
    """The application's."""
    return _feeding(request.app)


def _feeding(app: FastAPI) -> Feeding:
    if not hasattr(app.state, "feeding"):
        app.state.feeding = Feeding(app.state.settings)
    found: Feeding = app.state.feeding
    return found


def tidy(settings: Settings, at: float | None = None) -> list[Path]:
    """Remove what was begun and not finished long ago; returns what that was. `at`: Unix seconds; None: now."""
    oldest = (at or time.time()) - settings.uploads.keep_hours * 3_600
    gone = []
    for directory in (Queue(settings).incoming, Queue(settings).uploads / "tus"):
        for path in directory.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # finished in this moment
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    gone.append(path)
    return gone


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """While the service runs: what was left undone is gone on with, and what nobody finishes is removed."""
    settings: Settings = app.state.settings
    feeding = _feeding(app)
    await anyio.to_thread.run_sync(feeding.wake)

    async def tidily() -> None:
        while True:
            for path in await anyio.to_thread.run_sync(tidy, settings):
                log.info("an upload that nobody finished is removed", extra={"path": str(path)})
            try:
                await anyio.to_thread.run_sync(Uploads(settings).tidy)
            except (OSError, CalltideError) as error:  # the store is away, or its package
                log.warning("expired uploads in the store are left there for now: %s", error)
            await anyio.sleep(TIDY_EVERY_S)

    async with anyio.create_task_group() as group:
        group.start_soon(tidily)
        yield
        group.cancel_scope.cancel()
    await anyio.to_thread.run_sync(feeding.close)
    if hasattr(app.state, "tasks"):
        app.state.tasks.close()
