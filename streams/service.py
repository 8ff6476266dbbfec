"""What every long-running process does alike: log, serve metrics, say when it is ready, stop on a signal."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path

from prometheus_client import start_http_server

from schemas.errors import CalltideError
from streams import logs
from streams.settings import Settings


def run(settings: Settings, ready: Path | None, work: Callable[[threading.Event, Callable[[], None]], None]) -> None:
    """Run `work(stop, ready)` until it returns. SIGTERM and SIGINT set `stop`; the file `ready` appears once it serves.

    Raises CalltideError when the metrics port is taken, and whatever `work` raises.
    """
    logs.to_stderr(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if settings.metrics.port:
        try:
            start_http_server(settings.metrics.port, settings.metrics.host)
        except OSError as error:
            raise CalltideError(
                f"port {settings.metrics.port} is taken ({error.strerror}); set CALLTIDE_METRICS__PORT"
            ) from None
    work(stop, lambda: ready.touch() if ready is not None else None)
