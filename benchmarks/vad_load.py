"""Ingest and VAD with 200 telephone calls at once, in real time: `python -m benchmarks.vad_load` takes 6 minutes.

Each call is the packaged conversation (8 kHz mu-law, a party a channel, packets of 100 ms) with a pause behind it, over
and over, begun at its own place and moment. Ingest and every VAD worker are processes of their own; besides them only
the broker runs, and this program, which reads `speech.segments` as any later stage does.

A changer must know: the delay is counted from `captured_at`, which ingest sets to when the sample was due, so an ingest
that is late shows as delay too. And a segment cannot come before its pause is heard: `hangover_ms` less the tail that
belongs to it, and half a packet on average.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from benchmarks.support import (
    Table,
    Watch,
    Worker,
    add_outputs,
    broker,
    cpu_s,
    looped,
    percentile,
    publish,
    telephone,
    temporary_home,
)
from processors.vad import TAIL_MS
from schemas.errors import CalltideError
from schemas.events import Segment, decode
from schemas.topics import STAGES
from streams.ingest import Ingest
from streams.settings import Settings, load

COMMAND: Final = "python -m benchmarks.vad_load"
VAD: Final = STAGES[0]
PAUSE_S: Final = 8.0
"""Judgement: so nobody is heard for a fifth of the time, as while somebody looks something up."""
PHASE_S: Final = 5.0
WARM_UP_S: Final = 15.0
"""After the first call began; what comes before is not counted."""
LOOK_S: Final = 1.0
PARTS: Final = ("start", "middle", "end")
SEED: Final = 1


@dataclass(slots=True)
class Run:
    """What was seen. Moments are Unix seconds."""

    began: float
    ended: float = 0.0
    delays: list[tuple[float, float]] = field(default_factory=list)
    """(when a segment arrived, seconds since its last sample was captured)"""
    lags: list[tuple[float, float]] = field(default_factory=list)
    """(when, records that were there and not read, all workers)"""
    used_s: dict[str, float] = field(default_factory=dict)
    """CPU seconds of each process between `began` and `ended`."""
    speech_s: float = 0.0
    outputs: int = 0
    batch: float = 0.0
    """Records a turn."""

    def parts(self) -> Iterator[tuple[str, list[float], list[float]]]:
        """(name, delays, lags) of each third."""
        third = (self.ended - self.began) / len(PARTS)
        for number, name in enumerate(PARTS):
            first, last = self.began + number * third, self.began + (number + 1) * third
            delays, lags = ([value for at, value in pairs if first <= at < last] for pairs in (self.delays, self.lags))
            yield name, delays, lags


def _feed(recording: Path, number: int, seconds: float) -> None:
    Ingest(load()).run(looped(recording, number, seconds, SEED, PHASE_S))


def measure(settings: Settings, calls: int, seconds: float, slots: int) -> Run:
    """So many calls for so many seconds after the warm-up, on a broker of its own."""
    length_s = PHASE_S + WARM_UP_S + seconds
    feeder = multiprocessing.get_context("spawn").Process(
        target=_feed, args=(telephone(settings.directory, PAUSE_S), calls, length_s), daemon=True
    )
    with ExitStack() as stack:
        running = stack.enter_context(broker(settings))
        workers = [stack.enter_context(Worker(settings, VAD.name, slot)).start() for slot in range(slots)]
        for worker in workers:
            worker.wait()
        watch = stack.enter_context(Watch(settings, [VAD.writes]))
        stack.callback(feeder.join)
        stack.callback(feeder.terminate)
        feeder.start()
        assert running.pid is not None
        assert feeder.pid is not None
        processes = {f"vad {worker.slot}": worker.running for worker in workers}
        processes |= {"ingest": psutil.Process(feeder.pid), "broker": psutil.Process(running.pid)}
        processes |= {"reader": psutil.Process(os.getpid())}
        return _observe(watch, workers, processes, seconds)


def _observe(watch: Watch, workers: Sequence[Worker], processes: Mapping[str, psutil.Process], seconds: float) -> Run:
    while not watch.read(0.1):
        pass  # the first call has begun
    run = Run(time.time() + WARM_UP_S)
    run.ended = run.began + seconds
    before: dict[str, float] = {}
    turns = [0.0, 0.0]
    look_at = run.began
    while (now := time.time()) < run.ended:
        if now >= look_at:
            look_at += LOOK_S
            run.lags.append((now, sum(worker.metric("calltide_lag_records") for worker in workers)))
            if not before:
                before, turns = {name: cpu_s(process) for name, process in processes.items()}, _turns(workers)
        for arrival in watch.read(0.1):
            if arrival.at < run.began:
                continue
            run.outputs += 1
            if arrival.kind == "segment":
                event = decode(arrival.headers, arrival.value)
                assert isinstance(event, Segment)
                run.delays.append((arrival.at, arrival.at - event.captured_at.timestamp()))
                run.speech_s += (event.end_ms - event.start_ms) / 1_000
    run.used_s = {name: cpu_s(process) - before[name] for name, process in processes.items()}
    records, count = (after - first for after, first in zip(_turns(workers), turns, strict=True))
    run.batch = records / count
    return run


def _turns(workers: Sequence[Worker]) -> list[float]:
    """[records, turns] so far."""
    names = ("calltide_batch_records_sum", "calltide_batch_records_count")
    return [sum(worker.metric(name) for worker in workers) for name in names]


def tables(run: Run, calls: int, slots: int, settings: Settings) -> list[Table]:
    """Lag and delay by time, and the CPU of each process."""
    seconds = run.ended - run.began
    delay = Table(
        f"{calls} two-channel telephone calls through ingest and VAD in real time, {slots} VAD worker"
        f"{'s' if slots > 1 else ''}, {seconds:.0f} s",
        ("part of the time", "segments", "delay p50", "p95", "p99", "max", "lag in records, mean", "max"),
        [],
        data={"delays_s": run.delays, "lags": run.lags},
    )
    parts = [*run.parts(), ("**all**", [d for _, d in run.delays], [lag for _, lag in run.lags])]
    for name, delays, lags in parts:
        found = [f"{percentile(delays, share):.2f} s" for share in (0.5, 0.95, 0.99, 1.0)]
        mean = sum(lags) / len(lags) if lags else float("nan")
        delay.rows.append((name, f"{len(delays)}", *found, f"{mean:.0f}", f"{max(lags, default=0):.0f}"))
    floor_ms = settings.vad.hangover_ms - TAIL_MS
    packets_per_s = 2 * 1_000 / settings.ingest.packet_ms
    speech_s = run.speech_s / seconds / calls
    delay.notes.append(
        f"Delay: from the capture of a segment's last sample to its record at a read_committed reader; {floor_ms} ms "
        f"of it are the pause that ends a segment. A call has {len(run.delays) / seconds / calls * 60:.1f} segments a "
        f"minute and {speech_s:.2f} s of speech a second. {calls * packets_per_s:,.0f} records/s came in and "
        f"{run.outputs / seconds:.0f} went out; a turn of VAD took {run.batch:.0f} records."
    )
    used = Table(
        "CPU of a core meanwhile",
        ("process", "share of a core", "for a second of call"),
        [(name, f"{s / seconds:.1%}", f"{s / seconds / calls * 1_000:.2f} ms") for name, s in run.used_s.items()],
        data=run.used_s,
    )
    total = sum(s for name, s in run.used_s.items() if name != "reader") / seconds
    used.rows.append(("**all but the reader**", f"**{total:.1%}**", f"**{total / calls * 1_000:.2f} ms**"))
    return [delay, used]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--calls", type=int, default=200, metavar="N", help="calls at once (default: 200)")
    parser.add_argument("--seconds", type=float, default=300, metavar="S", help="how long (default: 300)")
    parser.add_argument("--slots", type=int, default=1, metavar="N", help="VAD workers (default: 1)")
    add_outputs(parser)
    arguments = parser.parse_args()
    print(f"{arguments.calls} calls; takes {arguments.seconds + WARM_UP_S + PHASE_S + 10:.0f} s")
    with temporary_home() as settings:
        run = measure(settings, arguments.calls, arguments.seconds, arguments.slots)
        found = tables(run, arguments.calls, arguments.slots, settings)
    publish({COMMAND: found}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
