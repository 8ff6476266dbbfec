"""From a spoken word to the interim transcript that has it: `python -m benchmarks.interim` takes 6 minutes.

Each call is the packaged telephone conversation (8 kHz mu-law, a party a channel, packets of 100 ms), over and over,
begun at its own place and moment, in real time. Ingest and every stage are processes of their own, as `calltide up`
runs them; this program reads the topics as a gateway does. Each number of calls is run with and without interim
results, to see what they cost those who wait for what is final.

A changer must know: a word counts from its end as the finished transcript has it to the first record that has it, be it
interim or, where no interim record had it, final. So what is never told beforehand shows as a long delay.
"""

import argparse
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.support import (
    Table,
    Watch,
    Worker,
    add_outputs,
    broker,
    looped,
    percentile,
    publish,
    telephone,
    temporary_home,
)
from processors.asr import plain
from schemas.errors import CalltideError
from schemas.events import Interim, Transcript, Word, decode
from schemas.topics import CHAIN, TRANSCRIPTS_INTERIM, stage
from streams.ingest import Ingest
from streams.settings import Settings, load

COMMAND: Final = "python -m benchmarks.interim"
CALLS: Final = (1, 8)
PHASE_S: Final = 4.0
DRAIN_S: Final = 60.0
"""Longest wait for the last transcript after the last packet."""
SAME_MS: Final = 500
"""A word of an interim transcript is a finished one that reads alike and begins no further apart. Judgement."""
SEED: Final = 1

Channel = tuple[str, int]


@dataclass(slots=True)
class Run:
    """What was seen. Moments are Unix seconds."""

    calls: int
    interim: bool
    revisions: dict[Channel, list[tuple[float, Interim]]] = field(default_factory=lambda: defaultdict(list))
    final: dict[Channel, list[tuple[float, Transcript]]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, float] = field(default_factory=dict)
    """What became of revisions."""

    @property
    def final_delays(self) -> list[float]:
        """Seconds from the last sample of an utterance to its transcript."""
        return [at - event.captured_at.timestamp() for found in self.final.values() for at, event in found]

    @property
    def record_delays(self) -> list[float]:
        """Seconds from the last sample of a revision to the record of its words."""
        return [at - event.captured_at.timestamp() for found in self.revisions.values() for at, event in found]

    def words(self, *, stable: bool = False) -> tuple[list[float], int]:
        """(seconds from the end of each finished word to the first record that had it, how many were told before)."""
        delays, before = [], 0
        for channel, found in self.final.items():
            first = [
                (word, at) for at, event in self.revisions[channel] for word in event.words if word.stable or not stable
            ]
            for at, event in found:
                begun_s = event.captured_at.timestamp() - event.end_ms / 1_000
                for word in event.words:
                    told = min((then for one, then in first if same(one, word)), default=at)
                    before += told < at
                    delays.append(min(told, at) - begun_s - word.end_ms / 1_000)
        return delays, before

    def kept(self) -> float:
        """Share of the words called stable that are in the finished transcript."""
        kept = total = 0
        for channel, found in self.revisions.items():
            final = [word for _, event in self.final[channel] for word in event.words]
            for _, event in found:
                for word in event.words:
                    if word.stable:
                        total += 1
                        kept += any(same(word, one) for one in final)
        return kept / total if total else float("nan")


def same(one: Word, other: Word) -> bool:
    """Whether two transcripts mean the same word."""
    return abs(one.start_ms - other.start_ms) <= SAME_MS and plain(one.text) == plain(other.text)


def _feed(recording: Path, number: int, seconds: float, interim: bool) -> None:
    calls = looped(recording, number, seconds, SEED, PHASE_S)
    for call in calls:
        call.info = call.info.model_copy(update={"interim": interim})
    Ingest(load()).run(calls)


def measure(settings: Settings, workers: Sequence[Worker], calls: int, seconds: float, interim: bool) -> Run:
    """So many calls at once, to their last transcript."""
    run = Run(calls, interim)
    before = _counts(workers)
    feeder = multiprocessing.get_context("spawn").Process(
        target=_feed, args=(telephone(settings.directory), calls, seconds, interim), daemon=True
    )
    with Watch(settings, [TRANSCRIPTS_INTERIM, stage("asr").writes]) as watch:
        feeder.start()
        ended: set[str] = set()
        deadline = time.time() + PHASE_S + seconds + DRAIN_S
        while len(ended) < calls:
            if time.time() > deadline:
                raise CalltideError(f"not every transcript came within {DRAIN_S:.0f} s; see the logs of the stages")
            for worker in workers:
                _ = worker.running
            for arrival in watch.read(0.1):
                event = decode(arrival.headers, arrival.value)
                if isinstance(event, Interim):
                    run.revisions[event.call.call_id, event.channel].append((arrival.at, event))
                elif isinstance(event, Transcript):
                    run.final[event.call.call_id, event.channel].append((arrival.at, event))
                elif event.kind == "call_ended":
                    ended.add(event.call.call_id)
    feeder.join()
    run.counts = {what: number - before.get(what, 0) for what, number in _counts(workers).items()}
    return run


def _counts(workers: Sequence[Worker]) -> dict[str, float]:
    names = {"vad": ("emitted",), "asr": ("transcribed", "superseded", "finished", "old")}
    return {
        what: worker.labelled("calltide_interim_total", stage=worker.name, what=what)
        for worker in workers
        for what in names.get(worker.name, ())
    }


def tables(runs: Sequence[Run], settings: Settings) -> list[Table]:
    """Words, revisions, and what they cost."""
    words = Table(
        "From the end of a spoken word to the first transcript that has it",
        ("calls at once", "words", "told before the final", "p50", "p95", "stable: p50", "stable words that stay"),
        [],
        data=[],
    )
    revisions = Table(
        "Revisions",
        ("calls at once", "emitted", "transcribed", "skipped", "last sample to record p50", "p95"),
        [],
        data=[],
    )
    final = Table(
        "From the end of an utterance to its final transcript",
        ("calls at once", "interim results", "utterances", "p50", "p95", "max"),
        [],
        data=[],
    )
    for run in runs:
        found = run.final_delays
        shares = [f"{percentile(found, share):.2f} s" for share in (0.5, 0.95, 1.0)]
        final.rows.append((f"{run.calls}", "yes" if run.interim else "no", f"{len(found)}", *shares))
        final.data.append({"calls": run.calls, "interim": run.interim, "delays_s": found})
        if not run.interim:
            continue
        delays, before = run.words()
        stable, _ = run.words(stable=True)
        words.rows.append(
            (
                f"{run.calls}",
                f"{len(delays)}",
                f"{before / max(len(delays), 1):.0%}",
                *(f"{percentile(delays, share):.2f} s" for share in (0.5, 0.95)),
                f"{percentile(stable, 0.5):.2f} s",
                f"{run.kept():.0%}",
            )
        )
        words.data.append({"calls": run.calls, "delays_s": delays, "stable_s": stable, "kept": run.kept()})
        skipped = ", ".join(
            f"{run.counts[what]:.0f} {what}" for what in ("superseded", "finished", "old") if run.counts[what]
        )
        revisions.rows.append(
            (
                f"{run.calls}",
                f"{run.counts['emitted']:.0f}",
                f"{run.counts['transcribed']:.0f}",
                skipped or "none",
                *(f"{percentile(run.record_delays, share):.2f} s" for share in (0.5, 0.95)),
            )
        )
        revisions.data.append({"calls": run.calls, "counts": run.counts, "delays_s": run.record_delays})
    words.notes.append(
        f"Packets of {settings.ingest.packet_ms} ms, a revision every {settings.runtime.interim_every_ms} ms at best, "
        f"{settings.asr.model}, one worker a stage."
    )
    return [words, revisions, final]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS, metavar="N", help="numbers of calls (1 8)")
    parser.add_argument("--seconds", type=float, default=60, metavar="S", help="length of a call (default: 60)")
    parser.add_argument("--only", action="store_true", help="leave out the runs without interim results")
    add_outputs(parser)
    arguments = parser.parse_args()
    with temporary_home() as settings, ExitStack() as stack:
        stack.enter_context(broker(settings))
        workers = [stack.enter_context(Worker(settings, row.name)).start() for row in CHAIN]
        for worker in workers:
            worker.wait()
        measure(settings, workers, 1, 10, interim=True)  # to warm up
        runs = [
            measure(settings, workers, calls, arguments.seconds, interim)
            for calls in arguments.calls
            for interim in ((True,) if arguments.only else (False, True))
        ]
        found = tables(runs, settings)
    publish({COMMAND: found}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
