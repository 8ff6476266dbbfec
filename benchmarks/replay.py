"""How fast old calls go through the chain again, and what live calls notice of it.

`python -m benchmarks.replay` takes 20 minutes for an hour of calls.

The hour is two-channel telephone calls of three minutes (the packaged conversation with a pause behind it, over and
over, 8 kHz mu-law, packets of 100 ms), as live work has left them on the topics of a broker of its own, with
`calltide up` running and idle beside it. Each replay is `calltide replay` as people run it, with its start and end.

Beside each stands what the same machine reaches without Kafka, in the same run: as many processes as cores hear the
same calls with the same stages in memory, and what they spend in the calls of the models is timed. What they heard is
what lies on the topics.

A changer must know: latency of live calls is measured in turns without and with a replay of the whole chain beside
them, so that what else the machine does falls on both.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from rich.console import Console

from benchmarks import latency
from benchmarks.overhead import processor_of, together
from benchmarks.support import Table, add_outputs, broker, looped, percentile, publish, telephone, temporary_home
from schemas.errors import CalltideError
from schemas.topics import CHAIN, STAGES, lanes
from streams import kafka
from streams.ingest import Call
from streams.memory import Log
from streams.memory import Worker as InMemory
from streams.packets import now
from streams.settings import Settings, load
from streams.supervisor import Supervisor

COMMAND: Final = "python -m benchmarks.replay"
MINUTES: Final = 60
CALL_S: Final = 180.0
"""Judgement: the length of a usual call."""
PAUSE_S: Final = 8.0
"""Judgement: so nobody is heard for a fifth of the time, as while somebody looks something up."""
AT_ONCE: Final = 10
"""How many of the old calls went on at the same time."""
AGO: Final = timedelta(hours=12)
SEED: Final = 1
REPLAYS: Final[dict[str, tuple[str, str, float | None]]] = {
    "the whole chain": ("vad", "sentiment", 30.0),
    "sentiment, to ClickHouse": ("sentiment", "sentiment", 1_000.0),
    "vad": ("vad", "vad", 300.0),
    "diarization": ("diarization", "diarization", None),
    "asr": ("asr", "asr", None),
    "emotion": ("emotion", "emotion", None),
}
"""What is replayed → first and last stage, and the aim, times real time."""
LEAST_S: Final = 0.05
"""A model that was called for less than this is none: two channels need none in diarization."""
SPEED, LIVE = "speed", "live"
PARTS: Final = (SPEED, LIVE)
QUIET, BUSY = "nothing beside", "a replay beside"
LIVE_CALLS: Final = 6
"""Half of what this machine holds live: p95 passes 2 s between 8 and 16 calls (docs/benchmarks.md)."""
ROUNDS: Final = 2
MOST_RISE: Final = 0.2
BUSY_S: Final = 120.0
"""Longest wait for the first result of a replay."""
SAID: Final = re.compile(
    r"replayed \d+ calls, [\d,]+ s of audio, (?P<utterances>\d+) utterances .* in (?P<seconds>[\d,.]+) s "
    r".*?(?P<start>[\d,.]+) s to the first result.*?(?P<rate>[\d,]+)× from there"
)


class Timed:
    """A model of which the time of its calls is noted."""

    def __init__(self, model: Any, spent: list[float]) -> None:
        self._model, self._spent = model, spent

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        if not callable(value):
            return value

        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return value(*arguments)
            finally:
                self._spent[0] += time.perf_counter() - began

        return call


@dataclass(slots=True)
class Alone:
    """Seconds of each stage in memory, and those of its model, of the process that took longest; by stage."""

    whole_s: dict[str, float] = field(default_factory=dict)
    model_s: dict[str, float] = field(default_factory=dict)
    utterances: int = 0


@dataclass(frozen=True, slots=True)
class Replayed:
    """One `calltide replay`, in seconds."""

    audio_s: float
    whole_s: float
    """From the start of the command to its end."""
    first_s: float
    """From the replay's start to its first result."""
    rate: float
    """Times real time from its first result to its last; 0 where all came at once."""
    utterances: int


def _calls(settings: Settings, number: int) -> list[Call]:
    """Old calls, a few at a time."""
    calls = looped(telephone(settings.directory, PAUSE_S), number, CALL_S, SEED)
    begun = now() - AGO
    for at, call in enumerate(calls):
        started_at = begun + timedelta(seconds=at * CALL_S / AT_ONCE)
        call.info = call.info.model_copy(update={"call_id": f"call-{at:04}", "started_at": started_at})
    return calls


def _hear(calls: list[Call], part: int, parts: int) -> tuple[dict[str, float], dict[str, float], int]:
    """A part of the calls in memory, onto the topics of live work; (seconds by stage, of its model, utterances)."""
    settings = load()
    producer = Producer(kafka.producer(settings, **{"linger.ms": 50}))
    log = Log(together(calls[part::parts], settings.ingest.packet_ms))
    _write(producer, CHAIN[0].reads, log)
    whole, model = {}, {}
    for row in CHAIN:
        spent = [0.0]
        target = Log()
        worker = InMemory(row, processor_of(settings, row.name, partial(Timed, spent=spent)), log, target)
        began = time.perf_counter()
        while not worker.at_end:
            worker.turn(row.batch)
        whole[row.name], model[row.name] = time.perf_counter() - began, spent[0]
        _write(producer, row.writes, target)
        log = target
    return whole, model, sum(record.kind == "score" for record in log.records)


def _write(producer: Producer, topic: str, log: Log) -> None:
    for record in log.records:
        while True:
            try:
                producer.produce(
                    topic,
                    record.value,
                    record.call_id.encode(),
                    headers=[*record.headers.items()],
                    timestamp=record.timestamp_ms,
                )
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(60):
        raise CalltideError("the broker did not take the calls; see its log")


def _history(settings: Settings, number: int) -> Alone:
    """Put old calls onto the topics, as though live work had heard them; what that took in memory."""
    calls, alone = _calls(settings, number), Alone()
    parts = min(os.cpu_count() or 1, number)
    with ProcessPoolExecutor(parts, get_context("spawn")) as processes:
        found = [processes.submit(_hear, calls, part, parts) for part in range(parts)]
        for one in found:
            whole, model, utterances = one.result()
            alone.utterances += utterances
            for name in whole:
                alone.whole_s[name] = max(alone.whole_s.get(name, 0.0), whole[name])
                alone.model_s[name] = max(alone.model_s.get(name, 0.0), model[name])
    _leave_alone(settings)
    return alone


def _leave_alone(settings: Settings) -> None:
    """Let live stages and the sink take all that lies there for read."""
    admin = AdminClient(kafka.client(settings))
    prefix, numbers = settings.kafka.group_prefix, range(settings.kafka.partitions)
    read = [(f"{prefix}.{row.id}", row.reads) for each in STAGES for row in lanes(each)]
    for group, topic in [*read, (f"{prefix}.sink", CHAIN[-1].writes)]:
        ends = kafka.ranges(admin, topic, numbers, 30)
        places = [TopicPartition(topic, number, end) for number, (_, end) in ends.items()]
        for future in admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)]).values():
            future.result(30)


def _command(name: str, first: str, last: str) -> list[str]:
    stages = ["--from-stage", first, "--to-stage", last]
    return [sys.executable, "-m", "streams", "replay", "--all", "--version", name, *stages]


def _replay(name: str, first: str, last: str, audio_s: float) -> Replayed:
    began = time.monotonic()
    done = subprocess.run(_command(name, first, last), text=True, capture_output=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode or (said := SAID.search(done.stdout)) is None:
        raise CalltideError(f"the replay {name} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    numbers = {key: float(value.replace(",", "")) for key, value in said.groupdict().items()}
    return Replayed(audio_s, seconds, numbers["start"], numbers["rate"], int(numbers["utterances"]))


@contextmanager
def _beside(settings: Settings, name: str) -> Iterator[None]:
    """A replay of the whole chain that is at work inside the block, and gone behind it."""
    log = settings.directory / f"{name}.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(_command(name, "vad", "sentiment"), stdout=out, stderr=out)
        try:
            _until_at_work(settings, name, process, log)
            yield
            if process.poll() is not None:
                said = log.read_text()[-300:].strip()
                raise CalltideError(f"the replay was done before the live calls were ({said}); take more --minutes")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    subprocess.run([sys.executable, "-m", "streams", "replay", "drop", name], check=True, capture_output=True)


def _until_at_work(settings: Settings, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until something came out of its last stage."""
    admin = AdminClient(kafka.client(settings))
    topic, deadline = f"replay.{name}.{CHAIN[-1].writes}", time.monotonic() + BUSY_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(KafkaException):  # the topic is not there yet, or nobody leads it yet
            ends = kafka.ranges(admin, topic, range(settings.kafka.partitions), 30)
            if any(end for _, end in ends.values()):
                return
        time.sleep(0.2)
    raise CalltideError(f"the replay does not begin: {log.read_text()[-500:].strip()}")


def speeds(alone: Alone, replayed: dict[str, Replayed], audio_s: float) -> Table:
    """Times real time of each replay, and of the same stages in memory."""
    table = Table(
        f"{audio_s / 60:.0f} minutes of two-channel telephone calls, {CALL_S:.0f} s each, replayed",
        (
            "replay",
            "whole command",
            "× real time",
            "aim",
            "first result after",
            "× real time from there on",
            "stages alone in memory",
            "bare models",
        ),
        [],
        [
            f"A call has {alone.utterances / audio_s * 60:.0f} utterances a minute. In memory: × real time of "
            f"{os.cpu_count()} processes, each with its part of the calls and one thread, nothing else at work."
        ],
        {"alone": asdict(alone), "replays": {name: asdict(one) for name, one in replayed.items()}},
    )
    names = [row.name for row in CHAIN]
    for what, one in replayed.items():
        first, last, aim = REPLAYS[what]
        part = names[names.index(first) : names.index(last) + 1]
        whole, model = (sum(found[name] for name in part) for found in (alone.whole_s, alone.model_s))
        table.rows.append(
            (
                what,
                f"{one.whole_s:.1f} s",
                f"**{one.audio_s / one.whole_s:,.0f}**",
                f"{aim:,.0f}" if aim else "–",
                f"{one.first_s:.1f} s",
                f"{one.rate:,.0f}" if one.rate else "all at once",
                f"{audio_s / whole:,.0f}",
                f"{audio_s / model:,.0f}" if model > LEAST_S else "–",
            )
        )
    return table


def beside(runs: Sequence[tuple[str, latency.Run]]) -> Table:
    """Latency of live calls, without and with a replay beside them."""
    table = Table(
        f"End of speech to score of {LIVE_CALLS} live calls, without and with a replay of the whole chain beside them",
        ("live calls beside", "scores", "p50", "p95", "max"),
        [],
        data=[{"beside": name, "latency_s": run.latencies} for name, run in runs],
    )
    pooled: dict[str, list[float]] = {}
    for name, run in runs:
        pooled.setdefault(name, []).extend(run.latencies)
    every = [(name, run.latencies) for name, run in runs] + [
        (f"**{name}, all**", all_) for name, all_ in pooled.items()
    ]
    for name, values in every:
        shares = [f"{percentile(values, share):.2f} s" for share in (0.5, 0.95, 1.0)]
        table.rows.append((name, f"{len(values)}", *shares))
    quiet, busy = (percentile(pooled[name], 0.95) for name in (QUIET, BUSY))
    table.notes.append(f"p95 rises by **{(busy / quiet - 1) * 100:.0f} %**; the aim is less than {MOST_RISE:.0%}.")
    return table


def measure(parts: Sequence[str], minutes: int, console: Console) -> list[Table]:
    """The tables of the parts."""
    tell = partial(console.print, highlight=False)
    number = max(1, round(minutes * 60 / CALL_S))
    audio_s = number * CALL_S
    with temporary_home() as settings, tempfile.TemporaryDirectory(prefix="calltide-benchmark-") as directory:
        with broker(settings):
            tell(f"{number} old calls, heard in memory")
            alone = _history(settings, number)
            tell(f"  {audio_s / sum(alone.whole_s.values()):.0f}x real time")
        with Supervisor(settings, lambda text: tell(f"  {text}")) as supervisor:
            tables = []
            if SPEED in parts:
                replayed = {}
                for at, (what, (first, last, _)) in enumerate(REPLAYS.items()):
                    tell(f"replay: {what}")
                    one = replayed[what] = _replay(f"r{at}", first, last, audio_s)
                    tell(
                        f"  {one.whole_s:.1f} s, {one.audio_s / one.whole_s:,.0f}x real time; first result after "
                        f"{one.first_s:.1f} s, {one.rate:,.0f}x from there on"
                    )
                tables.append(speeds(alone, replayed, audio_s))
            if LIVE in parts:
                chain = latency.Chain(settings, supervisor, Path(directory))
                runs = []
                for at in range(ROUNDS):
                    tell(f"{LIVE_CALLS} live calls, {QUIET}")
                    runs.append((QUIET, chain.measure(LIVE_CALLS)))
                    tell(f"  p95 {runs[-1][1].p95:.2f} s")
                    tell(f"{LIVE_CALLS} live calls, {BUSY}")
                    with _beside(settings, f"beside{at}"):
                        runs.append((BUSY, chain.measure(LIVE_CALLS)))
                    tell(f"  p95 {runs[-1][1].p95:.2f} s")
                tables.append(beside(runs))
    return tables


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: both)")
    parser.add_argument("--minutes", type=int, default=MINUTES, help=f"of old calls (default: {MINUTES})")
    add_outputs(parser)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    console = Console(stderr=True)
    publish({COMMAND: measure(arguments.parts or PARTS, arguments.minutes, console)}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
