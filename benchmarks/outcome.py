"""How well the end of a call can be told early: `python -m benchmarks.outcome` takes three minutes.

A month of generated calls in a ClickHouse of its own, trained on and tried as by `calltide train outcome`; the end of
the help-desk calls of CALLTIDE_TEST_DATA; what an outlook costs. A changer must know: generated moods drift in straight
lines, so the figures say that the method works, and nothing of what it is worth on anybody's calls.
"""

import argparse
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.support import Table, add_outputs, publish
from deploy.clickhouse import ClickHouse
from processors.conversation import Tally
from processors.metrics import measured
from processors.models.sentiment import EnsembleSentiment
from processors.outlook import Model, ended_negative
from schemas.events import CallEnded, CallStarted, Score, Sentiment
from streams.analytics.generate import generate
from streams.analytics.traffic import Traffic
from streams.evaluation.insights import WORD_MS, Part, read_calls
from streams.settings import Settings, load
from streams.sink import connect
from streams.training.outcome import RIVALS, Outcome, history, train
from tests.unit.test_conversation import STEREO, end, said

COMMAND: Final = "python -m benchmarks.outcome"
TRAFFIC: Final = Traffic(until=datetime(2026, 11, 18, 15, 20, tzinfo=UTC), days=30, calls=5_200, seed=7)
TIMES: Final = 2_000
PARTS: Final[tuple[Part, ...]] = ("dev", "test")


def generated(settings: Settings) -> Outcome:
    """What can be learnt of a generated month."""
    with tempfile.TemporaryDirectory() as home, ClickHouse(Path(home), port=0) as server:
        of_it = settings.clickhouse.model_copy(update={"url": server.url, "database": "month"})
        settings = settings.model_copy(update={"clickhouse": of_it})
        generate(settings, TRAFFIC)
        with connect(settings) as client:
            return train(history(client, settings.pipeline_version), {})


def tables(found: Outcome) -> list[Table]:
    """Trial, reliability and weights."""
    facts = found.model.facts
    told = "; ".join(
        f"{part} {facts[part]['calls']:,} calls, {facts[part]['from'][:10]} to {facts[part]['to'][:10]}, "
        f"{facts[part]['ended negative']:,} of them ended negative"
        for part in ("trained on", "tried on")
    )
    trials = [
        (
            one.moment, f"{one.calls:,}", f"{one.negative:.1%}", f"{one.brier:.4f}",
            *(f"{one.rivals[name]:.4f}" for name in RIVALS), f"{one.skill:.1%}", f"{one.errors:.1f}",
        )
        for one in found.trials
    ]  # fmt: skip
    intercept, slope = found.calibration
    columns = ("known after", "calls", "ended negative", "Brier score", *RIVALS, "skill", "standard errors")
    return [
        Table(
            "Calls whose last quarter had not begun", columns, trials, [f"{told}."], facts["before the last quarter"]
        ),
        Table(
            "What came of what was foretold",
            ("foretold", "came", "times"),
            [(f"{one.foretold:.1%}", f"{one.came:.1%}", f"{one.rows:,}") for one in found.bins],
            [f"Intercept {intercept:.2f}, slope {slope:.2f} (0 and 1 are right)."],
            facts["reliability"],
        ),
        Table(
            "What it goes by",
            ("feature", "weight"),
            [
                (f"`{name}`", f"{term.weight:+.2f}")
                for name, term in sorted(found.model.terms.items(), key=lambda one: -abs(one[1].weight))
            ],
            data={name: term.weight for name, term in found.model.terms.items()},
        ),
    ]


def helpdesk(data: Path) -> Table:
    """How the help-desk calls end, by the packaged text model; their turns follow each other, a word every WORD_MS."""
    model = EnsembleSentiment()
    ends: list[bool | None] = []
    for part in PARTS:
        for _, row in read_calls(data / "text" / "helpdesk-calls.jsonl", part):
            tally, at_ms = Tally(), 0
            tally.hear(CallStarted(call=STEREO))
            for turn, found in zip(row["turns"], model.score([turn["text"] for turn in row["turns"]]), strict=True):
                until_ms = at_ms + WORD_MS * len(turn["text"].split())
                heard: Score = said(int(turn["role"] == "customer"), at_ms, until_ms, score=None)
                felt = {
                    "label": found.label,
                    "score": found.score,
                    "text_score": found.score,
                    "confidence": 1,
                    "model": "",
                }
                tally.hear(heard.model_copy(update={"sentiment": Sentiment.model_validate(felt)}))
                at_ms = until_ms
            ended: CallEnded = end(at_ms)
            tally.hear(ended)
            ends.append(ended_negative(measured(tally, STEREO, "")))
    shown = (f"{len(ends)}", f"{ends.count(True)}", f"{ends.count(False)}", f"{ends.count(None)}")
    columns = ("calls", "ended negative", "did not", "customer silent in the last quarter")
    return Table("The help-desk calls", columns, [shown], data=shown)


def cost(model: Model) -> Table:
    """CPU time of an outlook beside the record that it is in."""
    tally = Tally()
    tally.hear(CallStarted(call=STEREO))
    for number in range(60):
        tally.hear(said(number % 2, number * 5_000, number * 5_000 + 4_000, score=(number % 5 - 2) / 4))
    record = measured(tally, STEREO, "")
    spent = []
    for what in (lambda: measured(tally, STEREO, ""), lambda: model.outlook(record)):
        began = time.process_time()
        for _ in range(TIMES):
            what()
        spent.append((time.process_time() - began) / TIMES * 1e6)
    row = tuple(f"{one:.0f}" for one in spent)
    return Table("Cost, CPU µs", ("figures of a record", "its outlook"), [row], data=spent)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    add_outputs(parser)
    arguments = parser.parse_args()
    settings = load()
    found = generated(settings)
    publish({COMMAND: [*tables(found), helpdesk(settings.test_data), cost(found.model)]}, arguments)


if __name__ == "__main__":
    main()
