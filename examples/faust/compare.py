"""Why Faust is not in the scoring path: `python -m examples.faust.compare` measures one job done in three ways.

Every record of a topic is written to another, by Calltide's own loop, by Faust as it comes, and by Faust asked for
exactly-once: one process at a time, on an embedded broker of its own, in turns. First its speed with a backlog; then it
is killed with -9 in the middle, started again, and what a read_committed consumer sees is counted.

A changer must know: other work on the machine changes the figures, so only the ways of one run may be compared.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.loop import PassThrough
from benchmarks.support import Table, machine, temporary_home
from deploy.broker import Broker
from deploy.topics import Topics
from examples.faust.environment import faust_python
from schemas.errors import CalltideError
from schemas.topics import STAGES, Stage, Topic
from streams import kafka
from streams.runtime import StageWorker
from streams.settings import Settings, load

WAYS: Final = {"Calltide": None, "Faust, default": "at_least_once", "Faust, exactly_once": "exactly_once"}
"""Name → Faust's processing_guarantee; None: Calltide's loop, which has one guarantee."""
ROUNDS: Final = 3
VALUE_BYTES: Final = 3_200
"""A packet of 100 ms at 16 kHz, 16 bit."""
CALLS: Final = 64
BACKLOGS: Final = {"speed": 100_000, "kill": 20_000}
"""Topic → records in it."""
WARM_UP: Final = 2_000
MEASURED_S: Final = 8.0
KILL_AFTER: Final = 8_000
DRAIN_S: Final = 1.0
"""How long to read after a kill what the dead worker had written, before the next is started."""
WAIT_S: Final = 120.0
"""Judgement: more than a dead worker's session (Faust: 60 s) and the timeout of a transaction that it left open."""


class Row(Stage):
    """A row like those of the table of stages, with topics of its own."""

    @property
    def state_topic(self) -> str:
        """One for each job: a changelog says what was done with an input."""
        return f"{self.writes}.state"


@dataclass(frozen=True, slots=True)
class Job:
    """One way of doing it, from one topic to another."""

    name: str
    guarantee: str | None
    source: str

    @property
    def row(self) -> "Row":
        """The job as a stage."""
        return Row(STAGES[0].name, self.source, f"{self.name}.out")

    @property
    def group(self) -> str:
        """The consumer group."""
        return f"{self.name}.{self.row.name}"

    def command(self, settings: Settings) -> tuple[list[str | Path], dict[str, str]]:
        """The worker's command and environment."""
        if self.guarantee is None:
            command = [sys.executable, "-m", "examples.faust.compare", self.name, self.source]
            return [*command], os.environ | {"CALLTIDE_KAFKA__GROUP_PREFIX": self.name}
        app = Path(__file__).with_name("passthrough.py")
        variables = {
            "APP": self.group,
            "BOOTSTRAP": settings.bootstrap_servers,
            "GUARANTEE": self.guarantee,
            "SOURCE": self.source,
            "TARGET": self.row.writes,
        }
        data = settings.directory / f"{self.name}.data"
        return [faust_python(), app, "--datadir", data, "worker", "-l", "error"], os.environ | variables


def work(name: str, source: str) -> None:
    """Calltide's way, in the process that calls it, until it is killed."""
    StageWorker(load(), [Job(name, None, source).row], PassThrough()).run(threading.Event())


@contextmanager
def running(job: Job, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """The job's worker; it is killed at the end of the block, if not before."""
    command, environment = job.command(settings)
    with (settings.directory / f"{job.name}.log").open("ab") as log:
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


class Watcher:
    """Reads what a job has written as any consumer sees it that wants committed records only."""

    def __init__(self, job: Job, settings: Settings) -> None:
        self.job, self.settings = job, settings
        self.consumer = Consumer(kafka.consumer(settings, **{"group.id": "watcher"}))
        self.partitions = [TopicPartition(job.row.writes, n, 0) for n in range(settings.kafka.partitions)]
        self.consumer.assign(self.partitions)
        self.seen: Counter[int] = Counter()

    def close(self) -> None:
        """Leave the broker."""
        self.consumer.close()

    def read(self, worker: subprocess.Popen[bytes] | None = None) -> int:
        """Read what is there, or wait 50 ms for it; the number of records seen. A dead `worker` is an error."""
        for message in self.consumer.consume(1_000, 0.05):
            if message.error():
                raise CalltideError(f"cannot read {self.job.row.writes}: {message.error()}; run it again")
            self.seen[int.from_bytes((message.value() or b"")[:8], "big")] += 1
        if worker is not None and worker.poll() is not None:
            log = self.settings.directory / f"{self.job.name}.log"
            raise CalltideError(f"{self.job.name} ended by itself: {log.read_text()[-500:]}; run it again")
        return self.seen.total()

    def read_until(self, count: int, worker: subprocess.Popen[bytes] | None, seconds: float = WAIT_S) -> int:
        """Read until so many records were seen or the time is over."""
        deadline = time.monotonic() + seconds
        while (total := self.read(worker)) < count and time.monotonic() < deadline:
            pass
        return total

    def read_to_end(self) -> int:
        """Read all there is, after the worker has committed its whole input; the number of offsets in the output."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            self.read()
            positions = self.consumer.position(self.partitions)
            ends = [self.consumer.get_watermark_offsets(part, timeout=10)[1] for part in self.partitions]
            if all(max(at.offset, 0) >= end for at, end in zip(positions, ends, strict=True)):
                return sum(ends)
        raise CalltideError(f"{self.job.row.writes} holds a transaction that does not end; run it again")


def records_per_second(job: Job, settings: Settings) -> float:
    """Speed from the 2,000th record on, for at most 8 s."""
    with closing(Watcher(job, settings)) as watcher, running(job, settings) as worker:
        first, began = watcher.read_until(WARM_UP, worker), time.monotonic()
        last = watcher.read_until(BACKLOGS[job.source], worker, MEASURED_S)
        return (last - first) / (time.monotonic() - began)


def after_a_kill(job: Job, settings: Settings) -> tuple[int, int, int, float]:
    """(lost, doubled, markers, seconds) of a job whose worker is killed in the middle and started again at once.

    Lost and doubled are records as the watcher sees them; markers: offsets of the output without a visible record:
    the end marks of transactions, and what was aborted; seconds: from the restart to the first new record.
    """
    total = BACKLOGS[job.source]
    partitions = [TopicPartition(job.source, number) for number in range(settings.kafka.partitions)]
    group = Consumer(kafka.consumer(settings, **{"group.id": job.group}))
    with closing(group), closing(Watcher(job, settings)) as watcher:
        with running(job, settings) as worker:
            if not KILL_AFTER <= watcher.read_until(KILL_AFTER, worker) < total:
                raise CalltideError(f"{job.name} was not in the middle when it was killed; run it again")
        before = watcher.read_until(2 * total, None, DRAIN_S)
        with running(job, settings) as worker:
            restarted = time.monotonic()
            watcher.read_until(before + 1, worker)
            silence = time.monotonic() - restarted
            while sum(max(part.offset, 0) for part in group.committed(partitions, 10)) < total:
                watcher.read(worker)
                if time.monotonic() > restarted + WAIT_S:
                    raise CalltideError(f"{job.name} did not finish within {WAIT_S:.0f} s; run it again")
            end = watcher.read_to_end()
        seen = watcher.seen.total()
        return total - len(watcher.seen), seen - len(watcher.seen), end - seen, round(silence, 1)


def fill(settings: Settings) -> None:
    """The input: numbered records of 64 calls."""
    producer = Producer(kafka.producer(settings, **{"linger.ms": 20}))
    for topic, records in BACKLOGS.items():
        for number in range(records):
            while True:
                try:
                    producer.produce(
                        topic, number.to_bytes(8, "big") + bytes(VALUE_BYTES - 8), f"call-{number % CALLS}"
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
    producer.flush()


def report(speeds: dict[str, list[int]], kills: dict[str, list[tuple[int, int, int, float]]]) -> Table:
    """The figures of every round, a row for each way; shares are taken within a round."""
    rows = []
    for way, speed in speeds.items():
        shares = [f"{one / own:.0%}" for one, own in zip(speed, speeds["Calltide"], strict=True)]
        figures = [", ".join(map(str, column)) for column in (speed, *zip(*kills[way], strict=True))]
        rows.append((way, figures[0], ", ".join(shares), *figures[1:]))
    columns = ("way", "records/s", "of Calltide's", "lost", "doubled", "markers", "silent, s")
    return Table("One job, three ways", columns, rows)


def main() -> None:
    """Measure, print a table and, as one line of JSON, every figure."""
    python = faust_python()
    versions = (
        "import faust, aiokafka; print(f'faust-streaming {faust.__version__}, aiokafka {aiokafka.__version__}')",
    )
    found = subprocess.run([python, "-c", *versions], capture_output=True, text=True, check=True).stdout.strip()
    speeds: dict[str, list[int]] = {way: [] for way in WAYS}
    kills: dict[str, list[tuple[int, int, int, float]]] = {way: [] for way in WAYS}
    with temporary_home() as settings, Broker(settings.directory, settings.broker.port, heap_mb=512):
        jobs = [
            (way, Job(f"{source}-{number}-{round_}", guarantee, source))
            for round_ in range(ROUNDS)
            for source in BACKLOGS
            for number, (way, guarantee) in enumerate(WAYS.items())
        ]
        names = [*BACKLOGS, *(name for _, job in jobs for name in (job.row.writes, job.row.state_topic))]
        partitions = settings.kafka.partitions
        Topics(settings.bootstrap_servers).ensure(Topic(name, partitions, -1, "delete", "", ()) for name in names)
        fill(settings)
        for way, job in jobs:
            if job.source == "speed":
                speeds[way].append(round(records_per_second(job, settings)))
            else:
                kills[way].append(after_a_kill(job, settings))
            print(way, (speeds if job.source == "speed" else kills)[way][-1], file=sys.stderr, flush=True)
    print(report(speeds, kills).markdown())
    print(json.dumps(machine() | {"faust": found, "records_per_s": speeds, "lost_doubled_markers_silent_s": kills}))


if __name__ == "__main__":
    try:
        work(*sys.argv[1:]) if sys.argv[1:] else main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
