"""What both trainings share: the split by speaker, early stopping, the held-out report and the model card.

A changer must know: the part called `test` decides nothing. It is looked at once, after training has ended, so that the
report says what to expect of speakers (or texts) that were not trained on.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from schemas.errors import CalltideError

SHARES: Final = {"train": 0.7, "validation": 0.15, "test": 0.15}
FEWEST_GROUPS: Final = 3
"""Speakers without whom no split by speaker can be had: one for each part."""
FEWEST_PER_CLASS: Final = 8
"""Judgement: of a class with fewer examples one is left to judge it by, and neither training nor report means much."""
CARD: Final = "card.json"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of each part, as indices in rising order."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]
    by: str
    """What no two parts share: `speaker`, or `clip` / `text` where speakers are not known."""


def split(labels: Sequence[str], groups: Sequence[str], *, group: str, item: str, seed: int = 0) -> Split:
    """Rows in three parts of about `SHARES`; no group (such as a speaker; "" where unknown) is in two of them.

    Where fewer than `FEWEST_GROUPS` groups are known, single rows are split, class by class. Groups go, the largest
    first and equal ones in a seeded order, to the part that is furthest from its share.
    """
    generator = np.random.default_rng(seed)
    known = Counter(name for name in groups if name)
    parts: dict[str, list[int]] = {name: [] for name in SHARES}
    if len(known) >= FEWEST_GROUPS and all(groups):
        names = sorted(known)
        generator.shuffle(names)
        for name in sorted(names, key=lambda name: -known[name]):
            rows = [row for row, own in enumerate(groups) if own == name]
            # A part without anybody comes first: with few speakers the shares cannot be met anyway.
            emptiest = min(SHARES, key=lambda part: (bool(parts[part]), len(parts[part]) / SHARES[part]))
            parts[emptiest] += rows
        return _split(parts, group)
    for label in sorted(set(labels)):
        rows = [row for row, own in enumerate(labels) if own == label]
        generator.shuffle(rows)
        held = max(1, round(len(rows) * SHARES["test"]))
        parts["test"] += rows[:held]
        parts["validation"] += rows[held : 2 * held]
        parts["train"] += rows[2 * held :]
    return _split(parts, item)


def _split(parts: Mapping[str, list[int]], by: str) -> Split:
    train, validation, test = (np.array(sorted(parts[name]), np.intp) for name in SHARES)
    return Split(train, validation, test, by)


def require_enough(labels: Sequence[str], what: str) -> None:
    """Raises CalltideError for fewer than two classes, or a class with fewer than `FEWEST_PER_CLASS` examples."""
    counts = Counter(labels)
    if len(counts) < 2:
        raise CalltideError(f"{what} of one class only ({', '.join(counts) or 'none'}); give examples of at least two")
    if few := {label: n for label, n in counts.items() if n < FEWEST_PER_CLASS}:
        shown = ", ".join(f"{label}: {n}" for label, n in few.items())
        raise CalltideError(f"too few {what} of some classes ({shown}); give at least {FEWEST_PER_CLASS} of each")


def require_empty(out: Path) -> None:
    """Raises CalltideError when `out` holds something that is no model of `calltide train`, or cannot be written."""
    if out.exists() and not out.is_dir():
        raise CalltideError(f"{out} is a file; give a directory for the model with --out")
    above = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise CalltideError(f"nothing can be written into {above}; give another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / CARD).is_file():
        raise CalltideError(f"{out} is not empty and holds no model made by `calltide train`; give another --out")


def text_of(file: Path) -> str:
    """A text file in UTF-8, with or without the mark that Windows programs begin it with. Raises CalltideError."""
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalltideError(f"{file} is not UTF-8 text ({error.reason}); save it as UTF-8") from error


class Patience:
    """Says when to stop: after `rounds` rounds in which the loss on the validation part has not fallen.

    `best` is what was kept of the round with the lowest loss so far, the first of equals.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._without = 0
        self.loss = float("inf")
        self.round = 0
        self.best: Any = None
        self._seen = 0

    def lost(self, loss: float, kept: Any) -> bool:
        """Whether to stop, now that a round ended with `loss` and the weights `kept`."""
        self._seen += 1
        if loss < self.loss:
            self.loss, self.best, self.round, self._without = loss, kept, self._seen, 0
        else:
            self._without += 1
        return self._without >= self._rounds


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, with a bar that says how far it is."""
    return iter(track(items, description=what, transient=False))


def logistic(features: NDArray[np.float64], hit: NDArray[np.float64], pull: float = 1e-3) -> list[float]:
    """Weights (d,) of a logistic regression of `hit` (n,), 0 or 1, on `features` (n, d), by Newton's method.

    They are pulled to 0 as ridge regression does, so that it always has an end.
    """
    weights = np.zeros(features.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-features @ weights))
        slope = features.T @ (hit - chance) - pull * weights
        bend = (features * (chance * (1 - chance))[:, None]).T @ features + pull * np.eye(len(weights))
        weights = weights + np.linalg.solve(bend, slope)
    found: list[float] = weights.tolist()
    return found


@dataclass(frozen=True, slots=True)
class Report:
    """How well guesses meet the truth."""

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    """(true, guessed) counts."""

    @property
    def recall(self) -> dict[str, float]:
        """Share found of each class that occurs."""
        counts = self.confusion.sum(1)
        return {name: float(self.confusion[i, i] / counts[i]) for i, name in enumerate(self.classes) if counts[i]}

    @property
    def accuracy(self) -> float:
        """Share of right guesses."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def unweighted(self) -> float:
        """Mean recall: every class that occurs weighs the same."""
        return float(np.mean(list(self.recall.values())))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur or are guessed."""
        hits, true, guessed = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)
        present = true + guessed > 0
        return float(np.mean(2 * hits[present] / (true + guessed)[present]))

    def figures(self) -> dict[str, Any]:
        """All of it as JSON, shares with four digits."""
        return {
            "examples": int(self.confusion.sum()),
            "accuracy": round(self.accuracy, 4),
            "unweighted_accuracy": round(self.unweighted, 4),
            "macro_f1": round(self.macro_f1, 4),
            "chance": round(1 / len(self.recall), 4),
            "recall": {name: round(share, 4) for name, share in self.recall.items()},
            "confusion": {name: row.tolist() for name, row in zip(self.classes, self.confusion, strict=True)},
        }


def report(classes: Sequence[str], truth: NDArray[np.intp], guess: NDArray[np.intp]) -> Report:
    """Of (n,) class numbers each."""
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (truth, guess), 1)
    return Report(tuple(classes), confusion)


@dataclass(frozen=True, slots=True)
class Card:
    """What a reader must know of a trained model."""

    id: str
    title: str
    setting: str
    """The environment variable that takes the directory."""
    trained_on: Mapping[str, Any]
    method: Mapping[str, Any]
    held_out: Mapping[str, Report]
    """Name of the condition → what was found on the test part."""
    limits: Sequence[str] = field(default_factory=tuple)


def write_card(out: Path, card: Card) -> None:
    """`card.json` for programs and `README.md` for people, in the directory `out`."""
    made = f"{datetime.now(UTC):%Y-%m-%d}"
    examples = min(int(found.confusion.sum()) for found in card.held_out.values())
    # Half the 95 % interval of a share near one half: where it is widest.
    points = round(100 * 1.96 * 0.5 / examples**0.5)
    limits = [
        f"They are of {examples} examples: chance alone moves an accuracy by up to {points} points.",
        *card.limits,
    ]
    facts = {
        "id": card.id,
        "title": card.title,
        "made": made,
        "trained_on": dict(card.trained_on),
        "method": dict(card.method),
        "held_out": {name: found.figures() for name, found in card.held_out.items()},
        "limits": limits,
    }
    (out / CARD).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")
    lines = [f"# {card.title}", "", f"Made with `calltide train` on {made}. Use it with", ""]
    lines += [f"    export {card.setting}={out.absolute()}", "", "## Trained on", "", *_list(card.trained_on)]
    lines += ["", "## How", "", *_list(card.method), "", "## On what it was not trained on", "", *table(card.held_out)]
    for name, found in card.held_out.items():
        lines += ["", f"What was found for what is true, {name}:", "", *confusion_table(found)]
    lines += ["", "## Where these figures do not carry over", "", *(f"- {limit}" for limit in limits)]
    (out / "README.md").write_text("\n".join(lines) + "\n", "utf-8")


def _list(facts: Mapping[str, Any]) -> Iterable[str]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {number}" for key, number in value.items())
        yield f"- {name.replace('_', ' ')}: {value}"


def table(reports: Mapping[str, Report]) -> list[str]:
    """Rows of Markdown: the figures of each condition."""
    rows = [
        "| condition | examples | accuracy | unweighted accuracy | macro-F1 | chance |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, found in reports.items():
        rows.append(
            f"| {name} | {found.confusion.sum()} | {found.accuracy:.1%} | {found.unweighted:.1%} "
            f"| {found.macro_f1:.1%} | {1 / len(found.recall):.1%} |"
        )
    return rows


def confusion_table(found: Report) -> list[str]:
    """Rows of Markdown: of each class that occurs, the shares of what was guessed."""
    rows = ["| true \\ found | " + " | ".join(found.classes) + " | examples |"]
    rows.append("|---|" + "--:|" * (len(found.classes) + 1))
    for name, counts in zip(found.classes, found.confusion, strict=True):
        if counts.sum():
            rows.append(f"| {name} | " + " | ".join(f"{n / counts.sum():.0%}" for n in counts) + f" | {counts.sum()} |")
    return rows
