"""What the benchmarks share: a temporary home with a broker of its own, stages as processes, calls to feed them, what
comes out of them, the machine in words, tables, percentiles.

A changer must know: a benchmark measures this machine with the embedded parts, never somebody's cluster, so a
configured Kafka or ClickHouse is refused.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import confluent_kafka
import numpy as np
import psutil
import soundfile
from confluent_kafka import Consumer, TopicPartition
from numpy.typing import NDArray
from rich.console import Console
from rich.markdown import Markdown

from deploy.broker import KAFKA_VERSION, Broker
from deploy.process import free_port, last_lines, spawn, stop
from deploy.topics import Topics
from schemas.errors import CalltideError
from streams import kafka, samples
from streams.files import AudioFile, open_audio
from streams.ingest import Call, prepare
from streams.settings import Settings, load
from streams.supervisor import PORTS

ROOT = Path(__file__).parent.parent
START_S: Final = 120.0
"""Judgement: longest wait for a process to serve, on a machine that is busy."""
END: Final = "<!-- end of figures -->"


@dataclass(slots=True)
class Table:
    """One table of a report; `data` is what it was made from, for JSON."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)
    data: Any = None

    def markdown(self) -> str:
        """The table with its title above and its notes below."""
        lines = [f"**{self.title}**", "", "| " + " | ".join(self.columns) + " |"]
        lines += ["|" + "---|" * len(self.columns), *("| " + " | ".join(row) + " |" for row in self.rows)]
        return "\n".join([*lines, "", *(f"{note}\n" for note in self.notes)])


@contextlib.contextmanager
def temporary_home() -> Iterator[Settings]:
    """The settings of an installation that is gone afterwards, on free ports; child processes see them too.

    The broker's jars are those of the user's home. Raises CalltideError when a Kafka or a ClickHouse is configured.
    """
    usual = load()
    if usual.kafka.bootstrap_servers or usual.clickhouse.url:
        raise CalltideError(
            "benchmarks measure this machine with the embedded broker and ClickHouse; unset "
            "CALLTIDE_KAFKA__BOOTSTRAP_SERVERS and CALLTIDE_CLICKHOUSE__URL"
        )
    jars = usual.directory / "kafka" / "jars"
    jars.mkdir(parents=True, exist_ok=True)
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="calltide-benchmark-") as name:
        home = Path(name)
        (home / "kafka").mkdir()
        (home / "kafka" / "jars").symlink_to(jars)
        os.environ["CALLTIDE_HOME"] = name
        # What a client says while a fresh broker settles is no news here.
        os.environ["CALLTIDE_KAFKA__CLIENT"] = '{"log_level": "3"}'
        # As the command line does: numpy's idle threads would be counted as work.
        os.environ["OMP_NUM_THREADS"] = "1"
        os.environ.update((port, str(free_port())) for port in PORTS)
        load.cache_clear()
        try:
            yield load()
        finally:
            os.environ.clear()
            os.environ.update(before)
            load.cache_clear()


def machine() -> dict[str, str]:
    """What the figures depend on: hardware, versions, commit, day."""
    versions = [f"Python {platform.python_version()}", f"Kafka {KAFKA_VERSION}"]
    versions.append(f"librdkafka {confluent_kafka.libversion()[0]}")
    packages = ("confluent-kafka", "onnxruntime", "ctranslate2", "faster-whisper", "chdb")
    versions += [f"{package} {importlib.metadata.version(package)}" for package in packages]
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True, capture_output=True, check=False
    )
    return {
        "machine": f"{psutil.cpu_count()} CPU cores ({_cpu_model()}), {psutil.virtual_memory().total / 2**30:.0f} GB",
        "versions": ", ".join(versions),
        "commit": git.stdout.strip() or "none",
        "date": datetime.now(UTC).date().isoformat(),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed; NaN when there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def _renew(page: Path, sections: Mapping[str, str]) -> None:
    """Raises CalltideError when a section has no place in the page."""
    text = page.read_text()
    for command, body in sections.items():
        mark = f"<!-- figures: {command} -->"
        before, found, rest = text.partition(mark)
        _, end, after = rest.partition(END)
        if not (found and end):
            raise CalltideError(f"{page} has no place for {command}; add the lines {mark} and {END}")
        text = f"{before}{mark}\n{body}\n{END}{after}"
    page.write_text(text)


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """The options `--json` and `--markdown`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="renew the tables in a page")


def publish(tables: Mapping[str, Sequence[Table]], arguments: argparse.Namespace) -> None:
    """Print the tables, by the command that made them, with the machine below; write what `add_outputs` asks for."""
    about, console = machine(), Console()
    origin = f"{about['date']}, {about['machine']}; {about['versions']}; commit {about['commit']}"
    sections = {
        command: "\n" + "\n".join(table.markdown() for table in found) + f"\n*{origin}*\n"
        for command, found in tables.items()
    }
    if arguments.json:
        figures = {command: {table.title: table.data for table in found} for command, found in tables.items()}
        arguments.json.write_text(json.dumps(about | figures, indent=1) + "\n")
    if arguments.markdown:
        _renew(arguments.markdown, sections)
    for section in sections.values():
        console.print(Markdown(section))


@contextlib.contextmanager
def broker(settings: Settings) -> Iterator[Broker]:
    """The embedded broker of the home, with its topics."""
    with Broker(settings.directory, settings.broker.port, heap_mb=settings.broker.heap_mb) as running:
        Topics(settings.bootstrap_servers).ensure(settings.topics)
        yield running


@dataclass(slots=True)
class Worker:
    """A process with one worker of a stage, as `calltide up` runs it. `env` is added to the environment."""

    settings: Settings
    name: str
    slot: int = 0
    module: str = "streams"
    """What is run: python -m MODULE stage NAME."""
    env: dict[str, str] = field(default_factory=dict)
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> "Worker":
        """Start it, or start it again; `wait` waits until it serves."""
        self.port = free_port()
        self.ready.unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", self.module, "stage", self.name, "--slot", str(self.slot)]
        env = self.env | {"CALLTIDE_METRICS__PORT": str(self.port)}
        self.process = spawn([*command, "--ready", str(self.ready)], output=self.log, cwd=ROOT, env=env)
        return self

    @property
    def ready(self) -> Path:
        """The file that is there while it serves."""
        return self.settings.directory / f"{self.name}.{self.slot}.ready"

    @property
    def log(self) -> Path:
        """What it writes to stderr."""
        return self.settings.directory / "logs" / f"{self.name}.{self.slot}.log"

    @property
    def running(self) -> psutil.Process:
        """Raises CalltideError with its last line when it has ended."""
        if self.process is None or self.process.poll() is not None:
            raise CalltideError(f"the {self.name} worker ended: {' '.join(last_lines(self.log, 1))}")
        return psutil.Process(self.process.pid)

    def wait(self) -> None:
        """Until it serves. Raises CalltideError when it ends or takes more than START_S."""
        deadline = time.monotonic() + START_S
        while not self.ready.exists():
            if time.monotonic() > deadline:
                raise CalltideError(f"the {self.name} worker does not serve; {' '.join(last_lines(self.log, 1))}")
            _ = self.running
            time.sleep(0.01)

    def cpu_s(self) -> float:
        """CPU seconds, user and system, since its start."""
        return cpu_s(self.running)

    def rss(self) -> int:
        """Resident bytes."""
        return self.running.memory_info().rss

    def partitions(self) -> list[int]:
        """Those of the live lane that it holds; none while it does not serve."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                return list(json.load(answer)["partitions"]["live"])
        except (urllib.error.URLError, ConnectionError):
            return []

    def metric(self, name: str) -> float:
        """A metric of the live lane, such as calltide_lag_records."""
        return self.labelled(name, lane="live", stage=self.name)

    def labelled(self, name: str, **labels: str) -> float:
        """A metric with these labels, which are in the order of their names; 0 while there is none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        mark = name + "{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}"
        return next((float(line.split()[-1]) for line in lines if line.startswith(mark)), 0.0)

    def kill(self) -> None:
        """As `kill -9` does; returns when it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            stop(self.process, 10)


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds, user and system, of a process since its start."""
    times = process.cpu_times()
    return times.user + times.system


@dataclass(frozen=True, slots=True)
class Arrival:
    """A committed record, seen by a reader. Moments are Unix seconds."""

    at: float
    topic: str
    partition: int
    caused_at: float
    """Capture of the last sample of the record that led to it."""
    key: str
    headers: dict[str, bytes]
    value: bytes

    @property
    def kind(self) -> str:
        return self.headers.get("kind", b"").decode()


class Watch:
    """A read_committed reader of topics, from their present ends on."""

    def __init__(self, settings: Settings, topics: Iterable[str]) -> None:
        self.consumer = Consumer(kafka.consumer(settings, **{"group.id": "benchmark"}))
        places = [TopicPartition(topic, number) for topic in topics for number in range(settings.kafka.partitions)]
        for place in places:
            _, place.offset = self.consumer.get_watermark_offsets(place, timeout=10)
        self.consumer.assign(places)

    def read(self, wait_s: float) -> list[Arrival]:
        """What is there, waiting at most so long for the first of it."""
        messages = self.consumer.consume(1, wait_s)
        at = time.time()
        if messages:
            messages += self.consumer.consume(1_000, 0)
        return [
            Arrival(
                at,
                message.topic() or "",
                kafka.partition_of(message),
                message.timestamp()[1] / 1_000,
                (message.key() or b"").decode(),
                {name: value or b"" for name, value in kafka.headers_of(message)},
                message.value() or b"",
            )
            for message in messages
            if message.error() is None
        ]

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.consumer.close()


@dataclass(frozen=True, slots=True)
class Looped(AudioFile):
    """A recording played from `skip_s` on, over and over, for `seconds`."""

    skip_s: float = 0.0
    seconds: float = 0.0

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        skip, left = round(self.skip_s * self.rate), round(self.seconds * self.rate)
        while left > 0:
            for block in AudioFile.blocks(self):
                samples, skip = block[skip : skip + left], max(0, skip - len(block))
                left -= len(samples)
                if len(samples):
                    yield samples
                if left <= 0:
                    return


def telephone(directory: Path, pause_s: float = 0.0) -> Path:
    """The packaged conversation, 8 kHz mu-law, a party a channel, with a pause behind it."""
    path = samples.two_channel(directory)
    if pause_s:
        audio, rate = soundfile.read(path, dtype="float32")
        path = directory / "with-pause.wav"
        silence = np.zeros((round(pause_s * rate), audio.shape[1]), np.float32)
        soundfile.write(path, np.concatenate([audio, silence]), rate, subtype="ULAW")
    return path


def named_parts(command: str, about: str, parts: Iterable[str]) -> list[str]:
    """The parts that the command line names, or all, as `parsed` reads it."""
    names: list[str] = parsed(argparse.ArgumentParser(prog=command, description=about), parts).parts
    return names


def parsed(parser: argparse.ArgumentParser, parts: Iterable[str]) -> argparse.Namespace:
    """The command line, with the parts that it names, or all, as `parts`. Ends the program with a line where one is
    unknown or no data lies.

    For benchmarks that print figures of recordings of CALLTIDE_TEST_DATA.
    """
    names = list(parts)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(names)} (default: all)")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in names]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(names)}")
    folder = load().test_data
    if not folder.is_dir():
        parser.error(f"no recordings at {folder}; set CALLTIDE_TEST_DATA")
    arguments.parts = arguments.parts or names
    return arguments


def looped(path: Path, number: int, seconds: float, seed: int, phase_s: float = 0.0) -> list[Call]:
    """Calls of so many seconds, each begun at its own place in the recording and its own moment within `phase_s`."""
    numbers = random.Random(seed)
    whole = open_audio(path)
    length_s = (whole.duration_ms or 0) / 1_000
    about = {each.name: getattr(whole, each.name) for each in fields(AudioFile)} | {"duration_ms": None}
    calls = prepare([path] * number)
    for call in calls:
        call.audio = Looped(**about, skip_s=numbers.uniform(0, length_s), seconds=seconds)
        call.delay_s = numbers.uniform(0, phase_s)
    return calls
