"""What the score card that comes with Calltide finds in calls of a help desk, and what it costs: `python -m
benchmarks.forms` takes three minutes.

The calls are those of CALLTIDE_TEST_DATA, text/helpdesk-calls.jsonl, read as if they were spoken one turn after the
other: without voice and sentiment, so what asks for these cannot be judged, and nobody cuts in. A changer must know:
their label (satisfied or not) is machine-made, and the patterns of the resolution were written when some of them had
been read.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

from benchmarks import insights as long_calls
from benchmarks.support import Table, add_outputs, publish
from processors.base import Record
from processors.forms import FormFiles
from processors.forms.judging import Forms
from processors.insights import CallInsights, Config, Engine, FinishedCall, build
from schemas.errors import CalltideError
from schemas.events import Evaluation, Findings
from streams.evaluation.insights import WORD_MS, read_calls
from streams.settings import load
from tests.unit.rule_calls import Call
from tests.unit.stage_records import record

COMMAND: Final = "python -m benchmarks.forms"
LENGTHS: Final = {"10 minutes": 10, "4 hours": 240}


class Listening:
    """An engine that keeps what it was asked and what it said."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.model, self.languages = engine.name, engine.model, engine.languages

    def conclude(self, call: FinishedCall) -> Findings:
        self.call, self.findings = call, self._engine.conclude(call)
        return self.findings


def spoken(row: dict[str, Any]) -> list[Record]:
    """The records of a call in which these turns are said, with half a second between them."""
    told, at_s = Call("agent", "customer", call_id=row["id"]), 0.0
    for turn in row["turns"]:
        length_s = WORD_MS * len(turn["text"].split()) / 1_000
        told.say(at_s, turn["text"], turn["role"], None, length_s=length_s)
        at_s += length_s + 0.5
        told.hear(at_s)
    return told.end(at_s).records


def filled(engine: Listening, forms: Forms, records: Iterable[Record]) -> tuple[Evaluation, float]:
    """(the form filled, CPU seconds that it took) of one call."""
    stage = CallInsights(Config(business="b2b"), "v1", engine)
    course = stage.open("")
    for one in records:
        stage.process([(course, one)])
    began = time.process_time()
    (evaluation,) = forms.fill(engine.call, engine.findings, "v1")
    return evaluation, time.process_time() - began


def measure(data: Path) -> list[Table]:
    """The tables. Raises CalltideError where there is nothing to measure with."""
    file = data / "text" / "helpdesk-calls.jsonl"
    if not file.is_file():
        raise CalltideError(f"no {file}: set CALLTIDE_TEST_DATA")
    stage = build(Config(business="b2b"), "v1")
    assert isinstance(stage, CallInsights)
    engine, files = Listening(stage._engine), FormFiles("")
    forms = Forms(files.read, files.changed, lambda: stage._engine._embedder)  # type: ignore[attr-defined]
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    scores: dict[str, list[float]] = defaultdict(list)
    judged: list[float] = []
    for row in (row for part in long_calls.PARTS for _, row in read_calls(file, part)):
        evaluation, _ = filled(engine, forms, spoken(row))
        judged.append(evaluation.judged)
        if evaluation.score is not None:
            scores[row["satisfied"]].append(evaluation.score)
        for section in evaluation.sections:
            for item in section.items:
                fate = "not judged" if item.earned is None else "earned" if item.earned else "lost"
                counts[section.name, item.name][fate] += 1
    fates = ("earned", "lost", "not judged")
    items = [(section, item, *(str(found[fate]) for fate in fates)) for (section, item), found in counts.items()]
    pairs = [(one, other) for one in scores["Yes"] for other in scores["No"]]
    above = mean(0.5 if one == other else float(one > other) for one, other in pairs)
    yes, no = scores["Yes"], scores["No"]
    notes = [
        f"{len(yes) + len(no)} calls, {mean(judged):.0%} of the form judged on average. Mean score where the label "
        f"says that the customer is satisfied: {mean(yes):.0f} ({len(yes)} calls), not: {mean(no):.0f} ({len(no)}). "
        f"Of one call of each sort the satisfied one has the higher score in {above:.0%}."
    ]
    found = Table("The starter form, help-desk calls", ("section", "item", *fates), items, notes, data=items)
    cost: list[tuple[str, ...]] = []
    for name, minutes in LENGTHS.items():
        times = []
        for run in range(3):
            line = [record(event, in_value=True) for event in long_calls.conversation(file, minutes, run)]
            evaluation, seconds = filled(engine, forms, line)
            times.append(seconds)
        cost.append((name, f"{1_000 * median(times):.0f}", f"{len(evaluation.model_dump_json()) / 1_000:.0f}"))
    speed = Table("Filling the starter form", ("talk", "CPU ms at the end", "KB of the record"), cost, data=cost)
    return [found, speed]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    add_outputs(parser)
    arguments = parser.parse_args()
    publish({COMMAND: measure(load().test_data)}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
