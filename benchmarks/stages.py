"""CPU of each stage for a second of call, beside its bare model calls, with 1, 4 and 16 calls at once:
`python -m benchmarks.stages` takes some 4 minutes.

In memory, without Kafka: what the loop costs is in `benchmarks overhead`. Calls are the packaged conversation, two
channels at 8 kHz, and for diarization the same mixed to one channel, since two channels need no model there. A turn
holds what arrives in 100 ms of all calls for VAD, and one record a call for the later stages, but no more than the
stage takes. A changer must know: ASR is measured with the beam of the settings and with beam 1.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.overhead import Noted, processor_of, together
from benchmarks.support import Table, add_outputs, looped, publish, telephone, temporary_home
from processors.base import Record
from processors.models.emotion import WhisperStatsEmotion
from processors.models.sentiment import EnsembleSentiment
from schemas.errors import CalltideError
from schemas.events import Score, decode
from schemas.topics import CHAIN
from streams import samples
from streams.memory import Log
from streams.memory import Worker as InMemory
from streams.settings import Settings

COMMAND: Final = "python -m benchmarks.stages"
AT_ONCE: Final = (1, 4, 16)
CALL_S: Final = 30.0
SEED: Final = 1
UTTERANCE_S: Final = 3
REPEATS: Final = 20
MIXED: Final = "diarization, one channel"
GREEDY: Final = "asr, beam 1"


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of a stage, and of the model calls that it made."""

    whole_s: float
    bare_s: float


def _run(settings: Settings, name: str, log: Log, calls: int) -> tuple[Cost, Log]:
    """A stage over a log; the model calls are made once more alone, and timed."""
    row = next(row for row in CHAIN if row.name == name)
    asked: list[tuple[Callable[..., Any], list[Any]]] = []
    packets = 2 * calls if row is CHAIN[0] else calls
    target = Log()
    worker = InMemory(row, processor_of(settings, name, partial(Noted, asked=asked)), log, target)
    before = time.process_time()
    while not worker.at_end:
        worker.turn(min(row.batch, packets))
    whole_s = time.process_time() - before
    before = time.process_time()
    for ask, arguments in asked:
        ask(*arguments)
    return Cost(whole_s, time.process_time() - before), target


def measure(settings: Settings, calls: int, seconds: float) -> tuple[dict[str, Cost], list[Record]]:
    """Stage → cost for so many calls at once, and the scores."""
    greedy = settings.model_copy(update={"asr": settings.asr.model_copy(update={"beam_size": 1})})
    costs: dict[str, Cost] = {}
    for source, mixed in ((telephone(settings.directory), False), (samples.packaged(), True)):
        log = Log(together(looped(source, calls, seconds, SEED), settings.ingest.packet_ms))
        for row in CHAIN[: 2 if mixed else len(CHAIN)]:
            if row.name == "asr":
                costs[GREEDY], _ = _run(greedy, row.name, log, calls)
            cost, log = _run(settings, row.name, log, calls)
            if not mixed:
                costs[row.name] = cost
            elif row.name == "diarization":
                costs[MIXED] = cost
        if not mixed:
            scores = log.records
    return costs, scores


def single(settings: Settings, scores: Sequence[Record]) -> Table:
    """One utterance at a time: what the issue of each model is judged by."""
    sound = np.random.default_rng(SEED).standard_normal(UTTERANCE_S * 16_000).astype(np.float32) * np.float32(0.05)
    texts = [event.text for one in scores if isinstance(event := decode(one.headers, one.value), Score) and event.text]
    emotion, sentiment = WhisperStatsEmotion(), EnsembleSentiment()
    emotion.predict([sound])
    before = time.process_time()
    for _ in range(REPEATS):
        emotion.predict([sound])
    emotion_ms = (time.process_time() - before) * 1_000 / REPEATS
    before = time.process_time()
    for text in texts:
        sentiment.score([text])
    text_ms = (time.process_time() - before) * 1_000 / len(texts)
    words = sum(len(text.split()) for text in texts) / len(texts)
    return Table(
        "One utterance",
        ("model", "CPU"),
        [
            (f"emotion, {UTTERANCE_S} s of sound", f"{emotion_ms:.1f} ms"),
            (f"sentiment, {words:.0f} words on average", f"{text_ms:.1f} ms"),
        ],
    )


def table(found: dict[int, dict[str, Cost]], seconds: float) -> Table:
    """CPU milliseconds for a second of call."""
    names = ["vad", "diarization", MIXED, "asr", GREEDY, "emotion", "sentiment"]
    columns = ("stage", *(f"{n} call{'s' if n > 1 else ''}: stage" for n in AT_ONCE))
    columns += tuple(f"{n}: bare model" for n in AT_ONCE)
    made = Table(f"CPU ms for a second of call, {seconds:.0f} s each", columns, [])
    for name in names:
        whole = [f"{found[n][name].whole_s / seconds / n * 1_000:.1f}" for n in AT_ONCE]
        bare = [f"{found[n][name].bare_s / seconds / n * 1_000:.1f}" for n in AT_ONCE]
        made.rows.append((name, *whole, *bare))
    for title, left_out in (("**two channels, settings' beam**", GREEDY), ("**two channels, beam 1**", "asr")):
        kept = [name for name in names if name not in (MIXED, left_out)]
        sums = [
            f"**{sum(getattr(found[n][name], part) for name in kept) / seconds / n * 1_000:.1f}**"
            for part in ("whole_s", "bare_s")
            for n in AT_ONCE
        ]
        made.rows.append((title, *sums))
    return made


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=CALL_S, help=f"length of a call (default: {CALL_S:.0f})")
    add_outputs(parser)
    arguments = parser.parse_args()
    with temporary_home() as settings:
        found: dict[int, dict[str, Cost]] = {}
        scores: list[Record] = []
        for number in AT_ONCE:
            print(f"{number} calls", file=sys.stderr)
            found[number], scores = measure(settings, number, arguments.seconds)
        tables = [table(found, arguments.seconds), single(settings, scores)]
    publish({COMMAND: tables}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
