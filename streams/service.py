"""What every long-running process does alike: log, serve metrics and health, say when it is ready, stop on a signal."""

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from schemas.errors import CalltideError
from streams import logs
from streams.health import Health
from streams.settings import Settings

log = logging.getLogger(__name__)

CRASHED: Final = 70
"""Exit status after an exception that nobody expected (EX_SOFTWARE); 1 is an error in plain words."""

Work = Callable[[threading.Event, Health], None]


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a request: a scraper that is slow to read holds nobody up."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """A line for every scrape would drown the rest of the log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def answers(health: Health) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """The WSGI application: /healthz and /readyz (200 or 503, JSON), and Prometheus metrics everywhere else."""
    metrics = make_wsgi_app()
    pages = {"/healthz": health.alive, "/readyz": health.readiness}

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        page = pages.get(environ["PATH_INFO"])
        if page is None:
            return metrics(environ, start_response)
        good, facts = page()
        status = "200 OK" if good else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(facts).encode() + b"\n"]

    return answer


def serve_metrics(host: str, port: int, health: Health) -> WSGIServer:
    """Answer /metrics, /healthz and /readyz in a thread. Raises CalltideError when the port is taken."""
    try:
        server = make_server(host, port, answers(health), server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise CalltideError(f"port {port} is taken ({error.strerror}); set CALLTIDE_METRICS__PORT") from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def run(settings: Settings, ready: Path | None, work: Work) -> None:
    """Run `work(stop, health)` until it returns. SIGTERM and SIGINT set `stop`; `ready` appears once it serves.

    Raises CalltideError when the metrics port is taken, and that of `work`; anything else that `work` raises is logged,
    and the process ends with status CRASHED.
    """
    logs.to_stderr(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    health = Health(ready)
    if settings.metrics.port:
        serve_metrics(settings.metrics.host, settings.metrics.port, health)
    try:
        work(stop, health)
    except CalltideError:
        raise  # the command line says it in one line
    except Exception:
        log.critical("ended by an exception", exc_info=True)
        sys.exit(CRASHED)
