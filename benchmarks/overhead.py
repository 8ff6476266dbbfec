"""What the chain costs beyond its models: CPU seconds of every process, beside those of the bare model calls.

The chain: broker and stages as `calltide up` runs them, fed by ingest with telephone calls (the packaged conversation,
8 kHz mu-law, a party a channel) and with mixed calls (one channel, 16 kHz, so that diarization has work for its model).
A stage is counted until the end of the last call is in its output topic, waiting for work included. The bare model
calls: the chain in memory hears the same calls, in batches of the size that the stages had; what it asks of the models
is noted, asked again with nothing around it, and timed.

A changer must know: what counts as the model is what `processors/models` does, features, tokens and lexicons included.
Decoding, resampling, events and JSON are overhead, and so is all that Kafka needs.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any, Final

import numpy as np
import psutil

from benchmarks.support import (
    Table,
    Watch,
    Worker,
    add_outputs,
    broker,
    cpu_s,
    looped,
    publish,
    telephone,
    temporary_home,
)
from processors.asr import SpeechRecognition
from processors.base import Processor, Record
from processors.diarization import Diarization
from processors.emotion import VoiceEmotion
from processors.models.emotion import WhisperStatsEmotion
from processors.models.segmentation import PyannoteSegmentation
from processors.models.sentiment import EnsembleSentiment
from processors.models.silero import SileroVad
from processors.models.speaker import CamPlusPlus
from processors.models.whisper import WhisperCt2
from processors.sentiment import FusedSentiment
from processors.vad import VoiceActivity
from schemas.errors import CalltideError
from schemas.topics import CHAIN
from streams import samples
from streams.ingest import Call, Ingest
from streams.memory import Log
from streams.memory import Worker as InMemory
from streams.packets import records
from streams.settings import Settings

COMMAND: Final = "python -m benchmarks overhead"
CALLS: Final = 8
"""Telephone calls; a quarter as many mixed ones come with them."""
CALL_S: Final = 60.0
AT_ONCE: Final = 1_000.0
"""Times real time: as fast as Kafka takes it, and still all calls side by side."""
WARM_UP_S: Final = 6.0
WAIT_S: Final = 600.0
TARGET: Final = 1.15
SEED: Final = 1
BROKER, INGEST = "broker", "ingest"


class Noted:
    """A model that notes what it is asked, with copies of the arrays that its caller goes on writing into."""

    def __init__(self, model: Any, asked: list[tuple[Callable[..., Any], list[Any]]]) -> None:
        self._model = model
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        if not callable(value):
            return value

        def ask(*arguments: Any) -> Any:
            copies = [each.copy() if isinstance(each, np.ndarray) else each for each in arguments]
            self._asked.append((value, copies))
            return value(*arguments)

        return ask


@dataclass(slots=True)
class Run:
    """CPU seconds by process, and what was heard."""

    used_s: dict[str, float] = field(default_factory=dict)
    batches: dict[str, float] = field(default_factory=dict)
    """Records a turn, by stage."""
    bare_s: dict[str, float] = field(default_factory=dict)
    utterances: int = 0
    wall_s: float = 0.0


def _calls(directory: Path, number: int, seconds: float) -> list[Call]:
    calls = looped(telephone(directory), number, seconds, SEED)
    return calls + looped(samples.packaged(), max(1, number // 4), seconds, SEED)


def _chain(settings: Settings, run: Run, number: int, seconds: float, speed: float) -> None:
    """Let the calls go through the chain; fills in `used_s` and `batches`."""
    with ExitStack() as stack:
        running = stack.enter_context(broker(settings))
        workers = {row.name: stack.enter_context(Worker(settings, row.name)).start() for row in CHAIN}
        for worker in workers.values():
            worker.wait()
        assert running.pid is not None
        processes = {name: worker.running for name, worker in workers.items()} | {BROKER: psutil.Process(running.pid)}
        watch = stack.enter_context(Watch(settings, [row.writes for row in CHAIN]))
        _send(settings, watch, processes, _calls(settings.directory, 1, WARM_UP_S), AT_ONCE)
        before = {name: cpu_s(process) for name, process in processes.items()}
        turns = {name: _turns(worker) for name, worker in workers.items()}
        began = time.monotonic()
        after, run.utterances = _send(settings, watch, processes, _calls(settings.directory, number, seconds), speed)
        run.wall_s = time.monotonic() - began
        run.used_s = {name: after[name] - before.get(name, 0.0) for name in after}
        for name, worker in workers.items():
            (heard, count), (first, first_count) = _turns(worker), turns[name]
            run.batches[name] = (heard - first) / (count - first_count)


def _turns(worker: Worker) -> tuple[float, float]:
    """(records, turns) so far."""
    return worker.metric("calltide_batch_records_sum"), worker.metric("calltide_batch_records_count")


def _send(
    settings: Settings, watch: Watch, processes: Mapping[str, psutil.Process], calls: list[Call], speed: float
) -> tuple[dict[str, float], int]:
    """Returns each process's CPU seconds when the last end was in its topic (broker: at the end), and the scores."""
    used: dict[str, float] = {}
    faults: list[BaseException] = []

    def send() -> None:
        try:
            Ingest(settings).run(calls, speed)
            used[INGEST] = time.thread_time()
        except BaseException as error:
            faults.append(error)

    sender = Thread(target=send, daemon=True)
    sender.start()
    ended: dict[str, set[str]] = {row.writes: set() for row in CHAIN}
    scores, deadline = 0, time.monotonic() + WAIT_S
    while BROKER not in used:
        for arrival in watch.read(0.1):
            scores += arrival.kind == "score"
            if arrival.kind == "call_ended":
                ended[arrival.topic].add(arrival.key)
        for row in CHAIN:
            if row.name not in used and len(ended[row.writes]) == len(calls):
                used[row.name] = cpu_s(processes[row.name])
        if all(row.name in used for row in CHAIN):
            used[BROKER] = cpu_s(processes[BROKER])
        if faults:
            raise faults[0]
        if time.monotonic() > deadline:
            raise CalltideError(f"not every call came through within {WAIT_S:.0f} s; take fewer with --calls")
    sender.join()
    return used, scores


def _bare(settings: Settings, batches: Mapping[str, float], number: int, seconds: float) -> dict[str, float]:
    """The same calls in memory, in batches of the same size; then the model calls alone: CPU seconds by stage."""
    used: dict[str, float] = {}
    log = Log(together(_calls(settings.directory, number, seconds), settings.ingest.packet_ms))
    for row in CHAIN:
        asked: list[tuple[Callable[..., Any], list[Any]]] = []
        target = Log()
        worker = InMemory(row, processor_of(settings, row.name, partial(Noted, asked=asked)), log, target)
        while not worker.at_end:
            worker.turn(max(1, round(batches[row.name])))
        started = time.process_time()
        for ask, arguments in asked:
            ask(*arguments)
        used[row.name] = time.process_time() - started
        log = target
    return used


def together(calls: list[Call], packet_ms: int) -> list[Record]:
    """The records of all calls as ingest sends them: whatever was spoken first comes first."""
    sent = [record for call in calls for record in records(call.info, call.audio, packet_ms)]
    return sorted(sent, key=lambda record: record.timestamp_ms)


def processor_of(settings: Settings, name: str, noted: Callable[[Any], Any]) -> Processor:
    """The stage with its real model in `noted`, which notes what it is asked."""
    asr = settings.asr
    make: dict[str, Callable[[], Processor]] = {
        "vad": lambda: VoiceActivity(settings.vad, noted(SileroVad())),
        "diarization": lambda: Diarization(settings.diarization, noted(CamPlusPlus()), noted(PyannoteSegmentation())),
        "asr": lambda: SpeechRecognition(
            noted(WhisperCt2(asr.model, asr.threads, asr.beam_size, language=asr.language))
        ),
        "emotion": lambda: VoiceEmotion(settings.emotion, noted(WhisperStatsEmotion())),
        "sentiment": lambda: FusedSentiment(settings.sentiment, "benchmark", noted(EnsembleSentiment())),
    }
    return make[name]()


def measure(number: int = CALLS, seconds: float = CALL_S, speed: float = AT_ONCE) -> Run:
    """One run of the chain, and one of the models alone."""
    run = Run()
    os.environ["CALLTIDE_RUNTIME__REDUCE_AT_LAG_S"] = "1e9"  # a backlog is what is measured, not what is done about it
    try:
        with temporary_home() as settings:
            _chain(settings, run, number, seconds, speed)
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                run.bare_s = process.submit(_bare, settings, run.batches, number, seconds).result()
    finally:
        del os.environ["CALLTIDE_RUNTIME__REDUCE_AT_LAG_S"]
    return run


def tables(run: Run, number: int = CALLS, seconds: float = CALL_S, speed: float = AT_ONCE) -> list[Table]:
    """CPU by stage, with and without the broker."""
    mixed = max(1, number // 4)
    call_s = (number + mixed) * seconds
    pace = "as fast as it goes" if speed == AT_ONCE else f"at {speed:g} times real time"
    table = Table(
        f"CPU of the chain and of its models alone: {number} telephone calls and {mixed} mixed ones, {seconds:.0f} s "
        f"each, {pace}",
        ("process", "records a turn", "CPU", "bare model calls", "ratio", "beyond the model, for a second of call"),
        [],
        [
            f"Target: {TARGET} over all stages. {run.utterances} utterances in {call_s:.0f} s of call took "
            f"{run.wall_s:.0f} s."
        ],
        {"used_s": run.used_s, "bare_s": run.bare_s, "batches": run.batches, "utterances": run.utterances},
    )

    def add(name: str, batch: str, used: float, bare: float) -> None:
        ratio = f"{used / bare:.2f}" if bare else "–"
        own = f"{(used - bare) / call_s * 1_000:.1f} ms"
        table.rows.append((name, batch, f"{used:.1f} s", f"{bare:.1f} s" if bare else "–", ratio, own))

    for row in CHAIN:
        add(row.name, f"{run.batches[row.name]:.0f}", run.used_s[row.name], run.bare_s[row.name])
    stages, bare = sum(run.used_s[row.name] for row in CHAIN), sum(run.bare_s.values())
    add("**all stages**", "", stages, bare)
    add("broker", "", run.used_s[BROKER], 0.0)
    add("**stages and broker**", "", stages + run.used_s[BROKER], bare)
    add("ingest", "", run.used_s[INGEST], 0.0)
    return [table]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.split("\n\n")[0])
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N", help=f"telephone calls (default: {CALLS})")
    parser.add_argument("--seconds", type=float, default=CALL_S, metavar="S", help="length of a call (default: 60)")
    parser.add_argument("--speed", type=float, default=AT_ONCE, metavar="X", help="times real time (default: all)")
    add_outputs(parser)
    arguments = parser.parse_args()
    how = arguments.calls, arguments.seconds, arguments.speed
    print("takes about 3 minutes with 8 calls of 60 s")
    publish({COMMAND: tables(measure(*how), *how)}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
