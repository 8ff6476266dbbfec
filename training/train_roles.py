"""Fit the weights of the phrases in processors/roles.py, and measure how soon and how rightly roles are found.

`python -m training.train_roles` prints both; `--write` puts the weights into processors/roles.py. The turns of two of
three help-desk calls are fitted by logistic regression whose weights are drawn to the judged ones (a normal prior), so
that a phrase that this one help desk never says keeps its judged weight. Every third call is kept for measuring; so
are the bank customers' questions, of which none may sound like an agent's. A call is measured as it would be heard:
turn by turn, in lower case without punctuation, and again with every tenth word lost. Seconds of one core.
"""

import csv
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from processors import roles
from schemas.events import Role

PULL = 20.0
"""Precision of the prior: the evidence of so many undecided turns. Judgement: below 10 the weights are the help desk's
own (a polite order to open a window says "agent" there), from 100 on hardly anything is learned."""
Turns = list[tuple[Role, str]]


def calls(texts: Path) -> list[Turns]:
    lines = (texts / "helpdesk-calls.jsonl").read_text().splitlines()
    return [[(turn["role"], turn["text"]) for turn in json.loads(line)["turns"]] for line in lines]


def fit(train: Sequence[Turns]) -> NDArray[np.float64]:
    """Weights of the phrases: the posterior's mode, by Newton's method."""
    turns = [turn for call in train for turn in call]
    found = np.array(
        [[re.search(pattern, roles.plain(text)) is not None for pattern, *_ in roles.PHRASES] for _, text in turns],
        np.float64,
    )
    agent = np.array([role == "agent" for role, _ in turns], np.float64)
    judged = np.array([judged for _, judged, _ in roles.PHRASES])
    weights = judged.copy()
    for _ in range(30):
        probability = 1 / (1 + np.exp(-found @ weights))
        slope = found.T @ (probability - agent) + PULL * (weights - judged)
        curvature = (found.T * (probability * (1 - probability))) @ found + PULL * np.eye(len(weights))
        weights -= np.linalg.solve(curvature, slope)
    return weights.round(2)


def write(weights: NDArray[np.float64]) -> None:
    """Replace the second number of each phrase."""
    file = Path(roles.__file__)
    source = file.read_text()
    begin, end = source.index("PHRASES: Final"), source.index('"""', source.index("PHRASES: Final"))
    new = iter(weights.tolist())
    table, n = re.subn(r"(-?\d\.\d+,\s+)-?\d\.\d+(,?\s*\),\n)", lambda m: f"{m[1]}{next(new)}{m[2]}", source[begin:end])
    if n != len(weights):
        raise SystemExit(f"{n} of {len(weights)} phrases found in {file}")
    file.write_text(source[:begin] + table + source[end:])


def heard(text: str, lost: float, random: np.random.Generator) -> str:
    """What is left of `text` when words get lost."""
    return " ".join(word for word in roles.plain(text).split() if random.random() >= lost)


def measure(name: str, held_out: Sequence[Turns], lost: float, skip: int = 0) -> None:
    """One row. `skip`: turns at the start that nobody hears, as when a recording begins late."""
    random = np.random.default_rng(11)
    speakers = right = wrong = early = 0
    needed: list[int] = []
    withdrawn = 0
    for call in held_out:
        parties = roles.Parties()
        first_right: dict[str, int] = {}
        for number, (role, text) in enumerate(call[skip:], 1):
            parties.hear(role, heard(text, lost, random))
            for changed in parties.decide():
                found = parties.roles[changed]
                withdrawn += found == "unknown"
                early += found not in (changed, "unknown")
                if found == changed:
                    first_right.setdefault(changed, number)
        for truth in parties.odds:
            speakers += 1
            found = parties.role(truth)[0]
            right += found == truth
            wrong += found not in (truth, "unknown")
        needed += first_right.values()
    if not needed:
        needed = [0]
    print(
        f"| {name} | {speakers} | {100 * right / speakers:.1f} % | {100 * wrong / speakers:.1f} % | {early} | "
        f"{np.median(needed):.0f} / {np.percentile(needed, 95):.0f} | {withdrawn} |"
    )


def main() -> None:
    """Fit, print, measure."""
    texts = Path(os.environ.get("CALLTIDE_TEST_DATA", "../shared/data")) / "text"
    every = calls(texts)
    train = [call for number, call in enumerate(every) if number % 3 != 2]
    held_out = every[2::3]
    weights = fit(train)
    if "--write" in sys.argv:
        write(weights)
        print("written; run again to measure")
        return
    for (pattern, judged, used), weight in zip(roles.PHRASES, weights, strict=True):
        print(f"{weight:6.2f} (judged {judged}, in use {used}) {pattern[:90]}")
    if any(used != weight for (*_, used), weight in zip(roles.PHRASES, weights, strict=True)):
        print("the weights in use are others; --write puts these in")
    print("| calls | speakers | right | wrong | wrong on the way | turns needed, median / p95 | withdrawn |")
    print("|---|---|---|---|---|---|---|")
    measure("fitted on", train, 0)
    measure("held out", held_out, 0)
    measure("held out, a tenth of words lost", held_out, 0.1)
    measure("held out, from the 5th turn on", held_out, 0, 4)
    with (texts / "banking77-train.csv").open(newline="") as file:
        scores = np.array([roles.evidence(row["text"]) for row in csv.DictReader(file)])
    print(
        f"bank customers' questions: {np.mean(scores < 0):.1%} customer, {np.mean(scores > 0):.1%} agent, rest neither"
    )


if __name__ == "__main__":
    main()
