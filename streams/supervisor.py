"""`calltide up`: everything on one machine, started, watched and stopped together.

A changer must know the order: the broker comes first and goes last, so that whoever dies in between can still commit or
finds everything again at the next start.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Final, NoReturn

from filelock import FileLock, Timeout

from deploy.broker import Broker
from deploy.process import holder_of_port, last_lines, spawn
from deploy.topics import Topics
from schemas.errors import CalltideError
from schemas.topics import STAGES
from streams import kafka
from streams.settings import Settings

Report = Callable[[str], None]

READY_S: Final = 120.0
"""Judgement: a slow disk and a cold cache included; the models take seconds."""
STOP_S: Final = 10.0
RESTARTS: Final = 5
RESTART_WINDOW_S: Final = 60.0
"""Judgement: a process that dies so often in so short a time will not live."""
BACKOFF_S: Final = (0.2, 5.0)


@dataclass(slots=True)
class _Service:
    name: str
    command: list[str]
    log: Path
    ready: Path
    process: Popen[bytes] | None = None
    deaths: list[float] = field(default_factory=list)
    start_at: float = 0.0


class Supervisor:
    """The processes of one home. Use as a context manager: it is up inside the block and down behind it."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self.settings = settings
        self.report = report
        self.home = settings.directory
        self.lock: FileLock | None = None
        self.broker: Broker | None = None
        self.services: list[_Service] = []
        self.restarts = 0

    def start(self) -> None:
        """Start everything; returns when all of it serves.

        Raises CalltideError: the home is held, not writable or full; a port is taken; a part does not come up.
        """
        self._claim()
        self._check_ports()
        kafka_settings = self.settings.kafka
        if kafka_settings.bootstrap_servers is None:
            self.broker = Broker(
                self.home, self.settings.broker.port, heap_mb=self.settings.broker.heap_mb, report=self.report
            )
            with self._timed("Kafka broker"):
                self.broker.start()
        else:
            kafka.check(self.settings)
        with self._timed("topics"):
            Topics(self.settings.bootstrap_servers, kafka_settings.client).ensure(self.settings.topics)
        commands = {row.name: ["stage", row.name] for row in STAGES}
        if self.settings.clickhouse.url is None:
            commands |= {"clickhouse": ["clickhouse"]}
        commands |= {name: [name] for name in ("sink", "gateway", "web")}
        with self._timed(f"{len(commands)} processes ({', '.join(commands)})"):
            for name, arguments in commands.items():
                ready = self.home / "run" / f"{name}.ready"
                command = [sys.executable, "-m", "streams", *arguments, "--ready", str(ready)]
                service = _Service(name, command, self.home / "logs" / f"{name}.log", ready)
                self.services.append(service)
                service.log.unlink(missing_ok=True)
                self._spawn(service)
            self._wait_until_ready()

    def watch(self) -> NoReturn:
        """Start again what dies, until a signal comes. Raises CalltideError for what keeps dying."""
        while True:
            self.tend()
            time.sleep(0.1)

    def tend(self) -> None:
        """One look at all processes. Raises CalltideError when the broker ended or a process keeps dying."""
        if self.broker is not None and self.broker.poll() is not None:
            raise CalltideError(f"the broker ended: {self.broker.failure()}; everything it had is kept, start again")
        now = time.monotonic()
        for service in self.services:
            process = service.process
            if process is None:
                if now >= service.start_at:
                    self._spawn(service)
                continue
            status = process.poll()
            if status is None:
                continue
            service.process = None
            service.deaths = [at for at in service.deaths if now - at < RESTART_WINDOW_S] + [now]
            if len(service.deaths) >= RESTARTS:
                raise CalltideError(f"{service.name} keeps dying: {self._last_words(service)}")
            shortest, longest = BACKOFF_S
            service.start_at = now + min(shortest * 2 ** (len(service.deaths) - 1), longest)
            self.restarts += 1
            self.report(f"{service.name} ended with status {status}; it is started again (log: {service.log})")

    def stop(self) -> None:
        """End everything: first what feeds on the broker, all at once, then the broker."""
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN) if _in_main_thread() else None
        self.report("stopping")
        running = [service.process for service in self.services if service.process is not None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except TimeoutExpired:
                process.kill()
        self.services.clear()
        if self.broker is not None:
            self.broker.stop(STOP_S)
            self.broker = None
        if self.lock is not None:
            self.lock.release()
            self.lock = None
        if previous is not None:
            signal.signal(signal.SIGINT, previous)

    def __enter__(self) -> "Supervisor":
        if _in_main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, _interrupt)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _claim(self) -> None:
        try:
            for part in ("run", "logs"):
                (self.home / part).mkdir(parents=True, exist_ok=True)
            holder = self.home / "run" / "up.pid"
            lock = FileLock(self.home / "run" / "up.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                who = holder.read_text().strip() if holder.exists() else "unknown"
                raise CalltideError(
                    f"calltide already runs in {self.home} (process {who}); stop it, or set CALLTIDE_HOME to another"
                ) from None
            self.lock = lock
            holder.write_text(str(os.getpid()))
        except OSError as error:
            raise CalltideError(
                f"cannot write to {self.home} ({error.strerror}); make it writable or set CALLTIDE_HOME to another"
            ) from error

    def _check_ports(self) -> None:
        wanted = {
            "CALLTIDE_GATEWAY__PORT": (self.settings.gateway.host, self.settings.gateway.port),
            "CALLTIDE_WEB__PORT": (self.settings.web.host, self.settings.web.port),
        }
        if self.settings.clickhouse.url is None:
            wanted["CALLTIDE_CLICKHOUSE__PORT"] = ("127.0.0.1", self.settings.clickhouse.port)
        if self.settings.kafka.bootstrap_servers is None:
            wanted["CALLTIDE_BROKER__PORT"] = ("127.0.0.1", self.settings.broker.port)
        for variable, (host, port) in wanted.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError:
                    raise CalltideError(
                        f"port {port} is taken{holder_of_port(port)}; stop that program or set {variable}"
                    ) from None

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.report(f"{what}: {time.monotonic() - started:.1f} s")

    def _spawn(self, service: _Service) -> None:
        service.ready.unlink(missing_ok=True)
        service.process = spawn(
            service.command,
            output=service.log,
            env={"CALLTIDE_HOME": str(self.home)},
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while waiting := [service for service in self.services if not service.ready.exists()]:
            for service in waiting:
                if service.process is not None and service.process.poll() is not None:
                    raise CalltideError(f"{service.name} ended at its start: {self._last_words(service)}")
            if time.monotonic() > deadline:
                late = ", ".join(service.name for service in waiting)
                raise CalltideError(f"not ready after {READY_S:.0f} s: {late}; see the logs in {self.home / 'logs'}")
            time.sleep(0.05)

    def _last_words(self, service: _Service) -> str:
        words = " | ".join(line.strip() for line in last_lines(service.log, 3))
        return f"{words[-600:] or 'it left no log'} (log: {service.log})"


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _interrupt(*_: object) -> NoReturn:
    """SIGTERM ends the program in the way Ctrl-C does: by the exception that every `with` block cleans up for."""
    raise KeyboardInterrupt
