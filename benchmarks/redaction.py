"""Redaction's milliseconds for an utterance: `python -m benchmarks.redaction` takes some 10 seconds.

Alone, in one thread: texts of CALLTIDE_TEST_DATA and the generated set of `calltide eval redaction`, as delivered
(cards) and with all kinds but names. A changer must know: the utterance's words are made before the clock starts, as
the model makes them, and each utterance is redacted once: caches do not help.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.support import Table, add_outputs, publish
from processors.redaction import Config, Kind, Memory, Redactor
from schemas.errors import CalltideError
from schemas.events import Word
from streams.evaluation import redaction as evaluation
from streams.settings import load

COMMAND: Final = "python -m benchmarks.redaction"
LIMIT_MS: Final = 0.5
"""What an utterance may cost on average."""


def _milliseconds(texts: Sequence[str], kinds: Sequence[Kind]) -> np.ndarray:
    """Of each utterance, float64 (n,)."""
    redactor = Redactor(Config(kinds={"*": tuple(kinds)}))
    took, memory = [], Memory()
    for number, text in enumerate(texts):
        words = tuple(Word(text=word, start_ms=at, end_ms=at + 1, confidence=1) for at, word in enumerate(text.split()))
        before = time.perf_counter()
        redactor.redact(text, words, "en", "acme", memory, "customer", 5_000 * number)
        took.append(1_000 * (time.perf_counter() - before))
    return np.array(took)


def measure(data: Path) -> Table:
    """The table. Raises CalltideError where there is nothing to measure with."""
    if not data.is_dir():
        raise CalltideError(f"no texts at {data}: set CALLTIDE_TEST_DATA")
    sets = {
        "help-desk calls": [text for _, text in evaluation.helpdesk(data / "text" / "helpdesk-calls.jsonl")],
        "bank customers' questions": [text for _, text in evaluation.questions(data / "text" / "banking77-train.csv")],
        "generated": [" ".join(part.text for part in parts) for one in evaluation.samples() for _, parts in one.turns],
    }
    rows: list[tuple[str, ...]] = []
    for name, texts in sets.items():
        for on, kinds in (("cards", Config().kinds["*"]), ("all", evaluation.MEASURED)):
            took = _milliseconds(texts, kinds)
            middle, high, top = np.percentile(took, [50, 95, 99])
            figures = (f"{took.mean():.3f}", f"{middle:.3f}", f"{high:.3f}", f"{top:.2f}")
            rows.append((name, f"{len(texts):,}", on, *figures))
    return Table(
        f"Milliseconds for an utterance (at most {LIMIT_MS} on average is wanted)",
        ("texts", "utterances", "kinds", "mean", "p50", "p95", "p99"),
        rows,
        data=rows,
    )


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    add_outputs(parser)
    arguments = parser.parse_args()
    publish({COMMAND: [measure(load().test_data)]}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
