"""What the insights of a call cost: `python -m benchmarks.insights` takes a minute.

The stage alone, on one thread, with what the help-desk calls of CALLTIDE_TEST_DATA say, one call after the other until
the call is as long as it is to be; every sentence has a number, so that no vector is known from before. A changer must
know: the time at the end of a call is one step of the stage, in which its worker does nothing else.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.support import Table, add_outputs, publish
from processors.base import Processor, Record
from processors.insights import Config, Course, build
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallEvent, CallInfo, CallStarted, Progress, Role, RunningScore, Score, Sentiment
from streams.evaluation.insights import WORD_MS, Part, read_calls
from streams.settings import load
from tests.unit.stage_records import STARTED_AT, record, utterance

COMMAND: Final = "python -m benchmarks.insights"
LIMIT_S: Final = 2.0
"""What a call of ten minutes may take."""
LENGTHS: Final = {"1 minute": 1, "10 minutes": 10, "1 hour": 60, "4 hours": 240}
TIMES: Final = 5
PARTS: Final[tuple[Part, ...]] = ("dev", "test")


def conversation(file: Path, minutes: int, run: int) -> Iterator[CallEvent]:
    """Scores and marks of a call that people talk through."""
    info = CallInfo(call_id=f"call-{minutes}-{run}", started_at=STARTED_AT, roles=("agent", "customer"))
    calls = [row for part in PARTS for _, row in read_calls(file, part)]
    turns = [(turn["role"], turn["text"]) for row in calls for turn in row["turns"]]
    yield CallStarted(call=info)
    at_ms = number = 0
    while at_ms < minutes * 60_000:
        role: Role
        role, text = turns[(number + 31 * run) % len(turns)]
        text = text.replace(". ", f" {run} {number}. ")
        length_ms = WORD_MS * len(text.split())
        sentiment = Sentiment(label="neutral", score=0.1, text_score=0.1, confidence=1, model="made up")
        score = utterance(
            Score, info, at_ms, length_ms, channel=int(role == "customer"), speaker=role, role=role, text=text,
            sentiment=sentiment, running=RunningScore(score=0, party_score=0, utterances=1), pipeline_version="v1",
        )  # fmt: skip
        yield score
        number += 1
        for second in range(at_ms // 1_000 + 1, (at_ms + length_ms) // 1_000 + 1):
            yield Progress(call=info, at_ms=second * 1_000)
        at_ms += length_ms + 300
    yield CallEnded(call=info, duration_ms=at_ms, ended_at=STARTED_AT, reason="hangup")


def listen(stage: Processor, line: list[Record]) -> tuple[float, float, int, int, int]:
    """(ms of an ordinary record, s of the end, bytes read, bytes of all snapshots, bytes of the largest)."""
    course: Course = stage.open("")
    snapshots = []
    began = time.process_time()
    for start in range(0, len(line) - 1, 50):
        steps = stage.process([(course, one) for one in line[start : min(start + 50, len(line) - 1)]])
        snapshots += [len(step.snapshot or b"") for step in steps]
    middle = time.process_time()
    stage.process([(course, line[-1])])
    ended = time.process_time()
    read = sum(len(one.value) for one in line)
    return 1_000 * (middle - began) / len(line), ended - middle, read, sum(snapshots), max(snapshots)


def measure(data: Path) -> Table:
    """The table. Raises CalltideError where there is nothing to measure with."""
    file = data / "text" / "helpdesk-calls.jsonl"
    if not file.is_file():
        raise CalltideError(f"no {file}: set CALLTIDE_TEST_DATA")
    began = time.process_time()
    stage = build(Config(business="b2b"), "v1")
    loading_s = time.process_time() - began
    rows: list[tuple[str, ...]] = []
    for name, minutes in LENGTHS.items():
        found = []
        for run in range(TIMES if minutes <= 10 else 1):
            line = [record(event, in_value=True) for event in conversation(file, minutes, run)]
            found.append(listen(stage, line))
        ms, end_s, read, written, largest = (median(column) for column in zip(*found, strict=True))
        rows.append(
            (
                name,
                f"{len(line):,}",
                f"{ms:.3f}",
                f"{end_s:.2f}",
                f"{read / 1_000:,.0f}",
                f"{written / 1_000:,.0f}",
                f"{largest / 1_000:,.0f}",
            )
        )
    return Table(
        f"Insights of a call, CPU time on one thread (at most {LIMIT_S:.0f} s for ten minutes is wanted)",
        ("talk", "records", "ms a record", "s at the end", "KB read", "KB of snapshots", "KB of the largest"),
        rows,
        [f"The stage takes {loading_s:.1f} s to load with both starter glossaries."],
        data=rows,
    )


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    add_outputs(parser)
    arguments = parser.parse_args()
    publish({COMMAND: [measure(load().test_data)]}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
