"""`calltide up`: everything on one machine, started, watched and stopped together.

A changer must know the order: the broker comes first and goes last, so that whoever dies in between can still commit or
finds everything again at the next start. And a death has a culprit: a process that lived through an outage of the
broker did not die of its own, so such a death is not held against it.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import ClassVar, Final, NoReturn, Self
from wsgiref.simple_server import WSGIServer

from filelock import FileLock, Timeout
from prometheus_client import Counter, Gauge

from deploy.broker import START_SECONDS, Broker
from deploy.process import holder_of_port, keep_free, last_lines, spawn, stop_all
from deploy.topics import Topics
from schemas.errors import CalltideError
from schemas.topics import STAGES
from streams import kafka, service
from streams.health import Health
from streams.ingestion.routes import check_open
from streams.settings import Settings

Report = Callable[[str], None]

READY_S: Final = 120.0
"""Judgement: a slow disk and a cold cache included; the models take seconds."""
STOP_S: Final = 8.0
BROKER_STOP_S: Final = 5.0
"""Together under the 15 s that Ctrl-C may take. What does not end in its time is killed; nothing is lost by that."""
BACKOFF_S: Final = (0.2, 5.0)
"""First and longest pause before a process is started again (judgement)."""
BROKER: Final = "broker"
PORTS: Final = (
    "CALLTIDE_BROKER__PORT",
    "CALLTIDE_CLICKHOUSE__PORT",
    "CALLTIDE_GATEWAY__PORT",
    "CALLTIDE_WEB__PORT",
    "CALLTIDE_SERVE__PORT",
    "CALLTIDE_SERVE__AUDIOSOCKET_PORT",
)
"""The settings of all it listens on, for who needs several of it on one machine."""

RESTARTED = Counter("calltide_restarts_total", "times a process of `calltide up` was started again", ["process"])
UP = Gauge("calltide_process_up", "1 while a process of `calltide up` runs", ["process"])
READY = Gauge("calltide_process_ready", "1 while a process of `calltide up` serves", ["process"])
FREE = Gauge(
    "calltide_home_free_bytes", "room left on the disk of CALLTIDE_HOME: broker, ClickHouse and logs write there"
)


@dataclass(slots=True)
class _Deaths:
    """How often something was started and died, and when it may be started again."""

    starts: int = 0
    begun: float = 0.0
    start_at: float = 0.0
    counted: list[float] = field(default_factory=list)
    """Deaths that are held against it, monotonic seconds."""

    def started(self) -> None:
        self.starts += 1
        self.begun = time.monotonic()

    def died(self, own_fault: bool, served: bool, window_s: float) -> int:
        """How many deaths are held against it now. Those before the window count for as long as it never served."""
        now = time.monotonic()
        if served:
            self.counted = [at for at in self.counted if now - at < window_s]
        if own_fault:
            self.counted.append(now)
        shortest, longest = BACKOFF_S
        self.start_at = now + min(shortest * 2 ** max(len(self.counted) - 1, 0), longest)
        return len(self.counted)


@dataclass(slots=True)
class _Service:
    name: str
    command: list[str]
    log: Path
    ready: Path
    metrics_port: int
    process: Popen[bytes] | None = None
    deaths: _Deaths = field(default_factory=_Deaths)
    ever_served: bool = False
    refusal: str = ""
    """What it said when it last ended by an error in plain words."""


class Supervisor:
    """The processes of one home. Use as a context manager: it is up inside the block and down behind it."""

    RESTARTS: ClassVar[int] = 5
    RESTART_WINDOW_S: ClassVar[float] = 60.0
    """Judgement: what dies so often in so short a time, or so often without ever having served, will not live."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self.settings = settings
        self.report = report
        self.home = settings.directory
        self.lock: FileLock | None = None
        self.broker: Broker | None = None
        self.services: list[_Service] = []
        self.health = Health()
        self._broker_deaths = _Deaths()
        self._kafka_since: float | None = None
        """Since when Kafka has answered without a break, monotonic seconds; None: it does not."""
        self._metrics: WSGIServer | None = None

    def commands(self) -> dict[str, list[str]]:
        """Name → what comes behind the interpreter, in the order of the metrics ports. `--ready FILE` is appended."""
        commands = {row.name: ["stage", row.name] for row in STAGES}
        commands |= {name: [name] for name in ("sink", "gateway", "web", "serve")}
        if self.settings.clickhouse.url is None:
            commands["clickhouse"] = ["clickhouse"]
        if self.settings.webhooks.endpoints:
            commands["webhooks"] = ["webhooks"]
        if self.settings.llm.url:
            commands["llm"] = ["llm"]
        return {name: ["-m", "streams", *arguments] for name, arguments in commands.items()}

    @property
    def restarts(self) -> int:
        """How often anything was started again."""
        return sum(max(deaths.starts - 1, 0) for deaths in self._deaths().values())

    def started(self, name: str) -> int:
        """How often a process, or the `broker`, was started."""
        return self._deaths()[name].starts

    def pid(self, name: str) -> int | None:
        """The process of that name; None while it does not run."""
        if name == BROKER:
            return self.broker.pid if self.broker is not None and self.broker.poll() is None else None
        process = self._service(name).process
        return process.pid if process is not None and process.poll() is None else None

    def serves(self, name: str) -> bool:
        """Whether that process says that it is ready; of the `broker`, whether it answers."""
        if name == BROKER:
            return self._kafka_since is not None
        one = self._service(name)
        return one.process is not None and one.ready.exists()

    def start(self) -> None:
        """Start everything; returns when all of it serves.

        Raises CalltideError: the home is held, not writable or full; a port is taken; anyone could bring calls; a part
        does not come up.
        """
        self._claim()
        commands = self.commands()
        self._check_ports(list(commands))
        check_open(self.settings.serve)
        metrics = self.settings.metrics
        if metrics.port:
            self._metrics = service.serve_metrics(metrics.host, metrics.port, self.health)
            ports = ", ".join(f"{name} {metrics.port + at}" for at, name in enumerate(commands, 1))
            self.report(f"metrics: all processes {metrics.port}, {ports}")
        kafka_settings = self.settings.kafka
        if kafka_settings.bootstrap_servers is None:
            self.broker = Broker(
                self.home, self.settings.broker.port, heap_mb=self.settings.broker.heap_mb, report=self.report
            )
            with self._timed("Kafka broker"):
                self._broker_deaths.started()
                self.broker.start()
        else:
            kafka.check(self.settings)
        self._kafka_since = time.monotonic()
        with self._timed("topics"):
            Topics(self.settings.bootstrap_servers, kafka_settings.client).ensure(self.settings.topics)
        with self._timed(f"{len(commands)} processes ({', '.join(commands)})"):
            for at, (name, arguments) in enumerate(commands.items(), 1):
                ready = self.home / "run" / f"{name}.ready"
                command = [sys.executable, *arguments, "--ready", str(ready)]
                port = metrics.port + at if metrics.port else 0
                one = _Service(name, command, self.home / "logs" / f"{name}.log", ready, port)
                self.services.append(one)
                one.log.unlink(missing_ok=True)
                self._spawn(one)
            self._wait_until_ready()

    def watch(self) -> NoReturn:
        """Start again what dies, until a signal comes. Raises CalltideError for what keeps dying."""
        while True:
            self.tend()
            time.sleep(0.1)

    def tend(self) -> None:
        """One look at everything. Raises CalltideError when the broker or a process keeps dying."""
        self._tend_broker()
        for one in self.services:
            if one.process is None:
                # Without Kafka a stage could only wait and give up.
                if self._kafka_since is not None and time.monotonic() >= one.deaths.start_at:
                    self._spawn(one)
            elif (status := one.process.poll()) is not None:
                self._died(one, status)
            elif not one.ever_served:
                one.ever_served = one.ready.exists()
        self._tell()

    def stop(self) -> None:
        """End everything: first what feeds on the broker, all at once, then the broker."""
        with _uninterrupted():
            self.report("stopping")
            running = [one.process for one in self.services if one.process is not None]
            stop_all(running, STOP_S)
            for one in self.services:
                one.ready.unlink(missing_ok=True)
            self.services.clear()
            if self.broker is not None:
                self.broker.stop(BROKER_STOP_S)
                self.broker = None
            self._kafka_since = None
            if self._metrics is not None:
                self._metrics.shutdown()
                self._metrics.server_close()
                self._metrics = None
            if self.lock is not None:
                (self.home / "run" / "up.pid").unlink(missing_ok=True)
                self.lock.release()
                self.lock = None

    def __enter__(self) -> Self:
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

    def _check_ports(self, names: list[str]) -> None:
        serve = self.settings.serve
        wanted = [
            ("CALLTIDE_GATEWAY__PORT", self.settings.gateway.host, self.settings.gateway.port),
            ("CALLTIDE_WEB__PORT", self.settings.web.host, self.settings.web.port),
            ("CALLTIDE_SERVE__PORT", serve.host, serve.port),
            ("CALLTIDE_SERVE__AUDIOSOCKET_PORT", serve.host, serve.audiosocket_port),
        ]
        if self.settings.clickhouse.url is None:
            wanted.append(("CALLTIDE_CLICKHOUSE__PORT", "127.0.0.1", self.settings.clickhouse.port))
        if self.settings.kafka.bootstrap_servers is None:
            wanted.append(("CALLTIDE_BROKER__PORT", "127.0.0.1", self.settings.broker.port))
        if first := self.settings.metrics.port:
            if first + len(names) > 65_535:
                raise CalltideError(
                    f"CALLTIDE_METRICS__PORT is {first}, and the ports above it are for {len(names)} processes; "
                    f"set it to {65_535 - len(names)} or less"
                )
            wanted += [
                ("CALLTIDE_METRICS__PORT", self.settings.metrics.host, first + at) for at in range(len(names) + 1)
            ]
        for variable, host, port in wanted:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError:
                    raise CalltideError(
                        f"port {port} is taken{holder_of_port(port)}; stop that program or set {variable}"
                    ) from None
            # The broker chooses one for itself before the others are there.
            keep_free(port)

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.report(f"{what}: {time.monotonic() - started:.1f} s")

    def _spawn(self, one: _Service) -> None:
        one.ready.unlink(missing_ok=True)
        if one.deaths.starts:
            RESTARTED.labels(one.name).inc()
        one.deaths.started()
        one.process = spawn(
            one.command,
            output=one.log,
            env={"CALLTIDE_HOME": str(self.home), "CALLTIDE_METRICS__PORT": str(one.metrics_port)},
        )

    def _died(self, one: _Service, status: int) -> None:
        one.process = None
        # Who feels the broker's death first may be gone before the broker's own end is seen.
        kafka_lives = self._kafka_since is not None and (self.broker is None or self.broker.answers())
        own_fault = kafka_lives and one.deaths.begun >= (self._kafka_since or 0.0)
        deaths = one.deaths.died(own_fault, one.ready.exists(), self.RESTART_WINDOW_S)
        one.ready.unlink(missing_ok=True)
        # An error in plain words, twice the same before it ever served: a setting, a port, a model. Trying on would
        # only keep whoever waits from reading it.
        said = refusal(one.log) if status == 1 else ""
        if said and own_fault and not one.ever_served and said == one.refusal:
            raise CalltideError(f"{one.name} does not start: {said} (log: {one.log})")
        one.refusal = said
        if deaths >= self.RESTARTS:
            raise CalltideError(f"{one.name} keeps dying: {last_words(one.log)}")
        self.report(f"{one.name} ended with status {status}; it is started again (log: {one.log})")

    def _tend_broker(self) -> None:
        """Start the embedded broker again when it has ended: what it had is kept, and it comes back at its port."""
        broker, deaths = self.broker, self._broker_deaths
        if broker is None:
            return
        if broker.running:
            if self._kafka_since is None and broker.answers():
                self._kafka_since = time.monotonic()
                self.report(f"the broker answers again, {self._kafka_since - deaths.begun:.1f} s after its start")
            elif self._kafka_since is None and time.monotonic() - deaths.begun > START_SECONDS:
                broker.kill()
            return
        if deaths.start_at < deaths.begun:
            self._broker_died(broker.failure())
        elif time.monotonic() >= deaths.start_at:
            deaths.started()
            RESTARTED.labels(BROKER).inc()
            try:
                broker.restart()
            except CalltideError as error:
                self._broker_died(str(error))

    def _broker_died(self, why: str) -> None:
        served, self._kafka_since = self._kafka_since is not None, None
        if self._broker_deaths.died(True, served, self.RESTART_WINDOW_S) >= self.RESTARTS:
            raise CalltideError(f"the broker keeps dying: {why}; everything it had is kept")
        self.report(f"the broker ended: {why}; it is started again")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while waiting := [one.name for one in self.services if not self.serves(one.name)]:
            self.tend()
            if time.monotonic() > deadline:
                raise CalltideError(
                    f"not ready after {READY_S:.0f} s: {', '.join(waiting)}; see the logs in {self.home / 'logs'}"
                )
            time.sleep(0.05)
        self.tend()

    def _tell(self) -> None:
        """Metrics and health of the whole."""
        self.health.beat()
        names = list(self._deaths())
        for name in names:
            UP.labels(name).set(self.pid(name) is not None)
            READY.labels(name).set(self.serves(name))
            RESTARTED.labels(name)  # 0 before the first: `increase()` does not see a series that begins at 1
        FREE.set(shutil.disk_usage(self.home).free)
        if waiting := [name for name in names if not self.serves(name)]:
            self.health.waiting(f"not ready: {', '.join(waiting)}")
        else:
            self.health.ready(processes=names)

    def _deaths(self) -> dict[str, _Deaths]:
        own = {BROKER: self._broker_deaths} if self.broker is not None else {}
        return own | {one.name: one.deaths for one in self.services}

    def _service(self, name: str) -> _Service:
        return next(one for one in self.services if one.name == name)


def last_words(log: Path) -> str:
    """The last lines of a process, a JSON line as its message and the last line of its exception."""
    words = []
    for line in last_lines(log, 3):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(line)
            line = " ".join([said["message"], *said.get("exception", "").strip().splitlines()[-1:]])
        words.append(line.strip())
    return f"{' | '.join(words)[-600:] or 'it left no log'} (log: {log})"


def refusal(log: Path) -> str:
    """The error in plain words by which a process ended (streams.cli); empty if it did not."""
    last = "".join(last_lines(log, 1))
    return last.removeprefix("calltide: ") if last.startswith("calltide: ") else ""


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not keep the first from ending everything."""
    numbers = (signal.SIGINT, signal.SIGTERM) if _in_main_thread() else ()
    previous = [(number, signal.signal(number, signal.SIG_IGN)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


def _interrupt(*_: object) -> NoReturn:
    """SIGTERM ends the program in the way Ctrl-C does: by the exception that every `with` block cleans up for."""
    raise KeyboardInterrupt
