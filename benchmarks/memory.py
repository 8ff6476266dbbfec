"""Whether a stage's memory stays flat over 10,000 short calls: `python -m benchmarks.memory`, with the real models.

A call lasts 2 s and holds an utterance or two, cut from the packaged conversation: three of four are telephone calls (8
kHz mu-law, a party a channel), the fourth is mixed (16 kHz, so that diarization has work for its model). The chosen
stages run at once, each a process, as fast as the slowest of them goes, with a bounded number of calls in flight. A
stage whose input none of the others makes is fed with what the chain in memory made of the same calls.

All stages take half an hour or more, because ASR does. `--stages vad diarization emotion sentiment` takes some minutes,
and `--stages asr --calls N` measures the rest.

A changer must know: Python, ONNX Runtime and malloc take what they need for the largest batch they have seen and keep
it. That is why the first calls do not count, and why a leak would show in all columns and not in one.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import psutil
from confluent_kafka import Producer

from benchmarks.support import Table, Watch, Worker, add_outputs, broker, looped, publish, telephone, temporary_home
from processors.base import Record
from schemas.errors import CalltideError
from schemas.topics import CHAIN, Stage
from streams import kafka, samples
from streams.memory import Chain
from streams.packets import records
from streams.settings import Settings
from streams.stages import build

COMMAND: Final = "python -m benchmarks.memory"
CALLS: Final = 10_000
MARKS: Final = (0.1, 0.25, 0.5, 1.0)
"""Where memory is shown, as shares of all calls; the first is the end of the warm-up."""
LOOKS: Final = 200
"""How often it is looked at for the worst deviation."""
ALLOWED: Final = 0.1
CALL_S: Final = 2.0
PATTERNS: Final = 48
"""Different calls, in turn."""
IN_FLIGHT: Final = 64
"""Judgement: a busy machine's number of calls at once, and far more than keeps every stage busy."""
STUCK_S: Final = 120.0
SEED: Final = 1
BROKER: Final = "broker"

Pattern = list[Record]
"""The records of one call in one topic."""


@dataclass(slots=True)
class Run:
    """Memory by process: (calls ended there, resident bytes), in order."""

    calls: int
    seen: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    took_s: float = 0.0

    def at(self, name: str, calls: int) -> int:
        """Bytes at the first look with so many calls ended."""
        return next(rss for ended, rss in self.seen[name] if ended >= calls)

    def deviation(self, name: str) -> float:
        """The worst since the warm-up, as a share of what was there at its end."""
        first = round(self.calls * MARKS[0])
        start = self.at(name, first)
        return max((rss / start - 1 for ended, rss in self.seen[name] if ended >= first), key=abs)


def patterns(settings: Settings, fed: Sequence[Stage]) -> dict[str, list[Pattern]]:
    """Topic → the calls' records in it, for the topics that are to be fed."""
    mixed = PATTERNS // 4
    calls = looped(telephone(settings.directory), PATTERNS - mixed, CALL_S, SEED)
    calls += looped(samples.packaged(), mixed, CALL_S, SEED)
    found: dict[str, list[Pattern]] = {row.reads: [] for row in fed}
    chains = [
        (row, Chain(lambda each: build(settings, each), CHAIN[: CHAIN.index(row)]))
        for row in fed
        if row is not CHAIN[0]
    ]
    for call in calls:
        call.info = call.info.model_copy(update={"call_id": _name(0)})
        sent = list(records(call.info, call.audio, settings.ingest.packet_ms))
        if CHAIN[0] in fed:
            found[CHAIN[0].reads].append(sent)
        for row, chain in chains:
            found[row.reads].append(chain.push(sent))
    return found


def _name(number: int) -> str:
    """Ids of one length, so that one can stand for another in what was encoded."""
    return f"call-{number:08}"


class _Feeder:
    """Sends the patterns of a topic as ever new calls."""

    def __init__(self, settings: Settings, topic: str, made: list[Pattern]) -> None:
        self.producer = Producer(kafka.producer(settings, **{"linger.ms": 5}))
        self.topic = topic
        self.made = made
        self.sent = 0

    def send(self) -> None:
        """One more call, captured now."""
        old, new = _name(0).encode(), _name(self.sent).encode()
        at_ms = int(time.time() * 1_000)
        for record in self.made[self.sent % len(self.made)]:
            # The id is in the event, which is a header where audio is the value.
            headers: dict[str, str | bytes | None] = {
                name: value.replace(old, new) if name == "event" else value for name, value in record.headers.items()
            }
            value = record.value
            if record.kind != "audio" and "event" not in record.headers:
                value = value.replace(old, new)
            while True:
                try:
                    self.producer.produce(self.topic, value, new, headers=headers, timestamp=at_ms)
                    break
                except BufferError:
                    self.producer.poll(0.1)
        self.producer.poll(0)
        self.sent += 1


def measure(settings: Settings, rows: Sequence[Stage], calls: int) -> Run:
    """So many calls through these stages."""
    fed = [row for row in rows if row.reads not in {other.writes for other in rows}]
    made = patterns(settings, fed)
    run = Run(calls)
    with ExitStack() as stack:
        running = stack.enter_context(broker(settings))
        workers = {row.name: stack.enter_context(Worker(settings, row.name)).start() for row in rows}
        for worker in workers.values():
            worker.wait()
        assert running.pid is not None
        java = psutil.Process(running.pid)
        watch = stack.enter_context(Watch(settings, [row.writes for row in rows]))
        feeders = {row.name: _Feeder(settings, row.reads, made[row.reads]) for row in fed}
        behind = {row.name: _behind(row, rows) for row in fed}
        ended = {row.writes: 0 for row in rows}
        looks = dict.fromkeys(workers, 0)
        run.seen = {name: [] for name in (*workers, BROKER)}
        began = moved = time.monotonic()
        while min(ended.values()) < calls:
            for name, feeder in feeders.items():
                while feeder.sent < calls and feeder.sent - ended[behind[name].writes] < IN_FLIGHT:
                    feeder.send()
            for arrival in watch.read(0.05):
                if arrival.kind == "call_ended":
                    ended[arrival.topic] += 1
                    moved = time.monotonic()
            for row in rows:
                while ended[row.writes] * LOOKS >= (looks[row.name] + 1) * calls:
                    looks[row.name] += 1
                    run.seen[row.name].append((ended[row.writes], workers[row.name].rss()))
                    if row is rows[-1]:
                        run.seen[BROKER].append((ended[row.writes], java.memory_info().rss))
                        _tell(looks[row.name], time.monotonic() - began)
            if time.monotonic() - moved > STUCK_S:
                raise CalltideError(f"no call came to its end within {STUCK_S:.0f} s; see that the machine has room")
        run.took_s = time.monotonic() - began
        for feeder in feeders.values():
            feeder.producer.close()
    return run


def _behind(row: Stage, rows: Sequence[Stage]) -> Stage:
    """The last of the chosen stages that works on what this one is fed with."""
    following = {other.reads: other for other in rows}
    while row.writes in following:
        row = following[row.writes]
    return row


def _tell(looks: int, since_s: float) -> None:
    if looks % (LOOKS // 20) == 0:
        left_s = since_s / looks * (LOOKS - looks)
        print(f"{looks / LOOKS:.0%}, {left_s / 60:.0f} minutes to go", file=sys.stderr)


def tables(run: Run) -> list[Table]:
    """Resident memory by process."""
    marks = [round(run.calls * share) for share in MARKS]
    return [
        Table(
            f"Resident memory over {run.calls:,} calls of {CALL_S:.0f} s, MB",
            ("process", *(f"{mark:,} calls" for mark in marks), "worst deviation", "flat"),
            [
                (
                    name,
                    *(f"{run.at(name, mark) / 2**20:.1f}" for mark in marks),
                    f"{run.deviation(name):+.1%}",
                    "–" if name == BROKER else ("yes" if abs(run.deviation(name)) <= ALLOWED else "**no**"),
                )
                for name in run.seen
            ],
            [
                f"Flat: at each of {LOOKS - LOOKS // 10} looks after the first {marks[0]:,} calls within "
                f"{ALLOWED:.0%} of what it was there. It took {run.took_s / 60:.0f} minutes, at most {IN_FLIGHT} calls "
                "in flight."
            ],
            run.seen,
        )
    ]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    names = [row.name for row in CHAIN]
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N", help=f"how many (default: {CALLS})")
    parser.add_argument("--stages", nargs="+", choices=names, default=names, help="which (default: all)")
    add_outputs(parser)
    arguments = parser.parse_args()
    if arguments.calls < LOOKS:
        parser.error(f"--calls takes {LOOKS} or more")
    print(f"{arguments.calls} calls; 10,000 take half an hour or more with ASR, some minutes without")
    with temporary_home() as settings:
        run = measure(settings, [row for row in CHAIN if row.name in arguments.stages], arguments.calls)
    publish({COMMAND: tables(run)}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
