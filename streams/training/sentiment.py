"""`calltide train sentiment`: the packaged model's head trained further on one's own texts, and what is chosen on it.

The encoder stays as it is, so no torch is needed: each text is embedded once, and the head's 1,155 numbers are trained
in numpy. A changer must know: training begins at the packaged head and is pulled back to it, and the round with the
lowest loss on the validation part is kept, the packaged head itself among them. So a handful of texts cannot ruin it.
"""

import csv
import hashlib
import io
import itertools
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from processors.models.onnx_session import WEIGHTS
from processors.models.sentiment import (
    ENCODER_FILE,
    HEAD_FILE,
    MEMBERS,
    SENTIMENTS,
    TOKENIZER_FILE,
    EnsembleSentiment,
    label_of,
)
from schemas.errors import CalltideError
from streams.training.common import (
    Card,
    Patience,
    Report,
    logistic,
    progress,
    report,
    require_empty,
    require_enough,
    split,
    text_of,
    write_card,
)

Array = NDArray[np.float64]
Target = tuple[float, float, float]

NEUTRAL_BAND: Final = 0.125
"""Judgement: a score from −1 to 1 nearer to 0 is neutral, and one twice as far is sure."""
ENOUGH_TO_CHOOSE: Final = 150
"""Judgement: with fewer validation texts, member weights and thresholds would follow chance; the packaged ones stay."""
FORMS: Final = "{text, label} or {text, score}, and if known {group}: the call or speaker it comes from"
GRID: Final = np.round(np.arange(0.02, 0.72, 0.02), 2)


@dataclass(frozen=True, slots=True)
class Example:
    text: str
    target: Target
    """How much of it is negative, neutral, positive; sums to 1."""
    group: str = ""

    @property
    def label(self) -> int:
        return int(np.argmax(self.target))


@dataclass(frozen=True, slots=True)
class Judged:
    """Texts as the members see them: truth (n,), the head's logits (n, 3), scores of the lexicons (n, 2)."""

    truth: NDArray[np.intp]
    logits: Array
    lexicons: Array


def train_sentiment(
    data: Path, out: Path, *, seed: int = 0, rounds: int = 2_000, console: Console | None = None
) -> Report:
    """Train on the labelled texts of `data`, write the directory `out`, and return what was found on the test part.

    `data` is a .jsonl, .tsv or .csv file, or a directory of such files, with FORMS; labels are SENTIMENTS, scores run
    from −1 to 1. `out` is a directory for CALLTIDE_SENTIMENT__MODEL, with the model card in it.

    Raises CalltideError when a file cannot be read as that, when there are too few examples, or `out` is in use.
    """
    console = console or Console()
    require_empty(out)
    examples = read_examples(data)
    labels = [SENTIMENTS[example.label] for example in examples]
    require_enough(labels, "texts")
    parts = split(labels, [example.group for example in examples], group="group", item="text", seed=seed)
    console.print(f"{len(examples)} texts ({_counts(labels)}), split by {parts.by}")

    packaged = EnsembleSentiment()
    vectors = np.stack([packaged.embed(example.text) for example in progress(examples, "reading")]).astype(np.float64)
    lexicons = np.array([list(packaged.lexicons(example.text).values()) for example in examples])
    targets = np.array([example.target for example in examples])
    truth = targets.argmax(1)

    weight, bias, patience = train_head(vectors, targets, parts.train, parts.validation, packaged.head, rounds, console)
    head = json.loads((WEIGHTS / HEAD_FILE).read_text("utf-8")) | {"weight": weight.tolist(), "bias": bias.tolist()}
    held = parts.validation
    if len(held) >= ENOUGH_TO_CHOOSE:
        head = choose(head, [Judged(truth[held], vectors[held] @ weight.T + bias, lexicons[held])])
    head["id"] = f"{out.name}-{hashlib.sha256(weight.tobytes() + bias.tobytes()).hexdigest()[:8]}+vader+textblob"

    out.mkdir(parents=True, exist_ok=True)
    for name in (ENCODER_FILE, TOKENIZER_FILE):  # beside it, so that a newer packaged encoder does not spoil the head
        shutil.copyfile(WEIGHTS / name, out / name)
    (out / HEAD_FILE).write_text(json.dumps(head, indent=1) + "\n", "utf-8")
    trained = EnsembleSentiment(out)
    found = {
        name: report(SENTIMENTS, truth[parts.test], _labels(model, [examples[i].text for i in parts.test]))
        for name, model in (("this model", trained), ("the packaged model", packaged))
    }
    write_card(out, _card(trained, data, labels, parts.by, parts.train, patience, len(held), found))
    for name, each in found.items():
        console.print(
            f"{name}, {len(parts.test)} texts not trained on: "
            f"macro-F1 {each.macro_f1:.1%}, accuracy {each.accuracy:.1%}"
        )
    line = f"written to {out}; use it with CALLTIDE_SENTIMENT__MODEL={out.absolute()}"
    console.print(line, markup=False, soft_wrap=True)
    return found["this model"]


def read_examples(data: Path) -> list[Example]:
    """The examples of a file or of all .jsonl, .tsv and .csv files of a directory; a text that comes twice counts once.

    Raises CalltideError with file and line for what is not as FORMS says.
    """
    if not data.exists():
        raise CalltideError(f"no file or directory {data}; give the labelled texts with --data")
    files = sorted(file for file in data.glob("*") if file.suffix.lower() in READERS) if data.is_dir() else [data]
    if not files or not all(file.is_file() and file.suffix.lower() in READERS for file in files):
        raise CalltideError(
            f"{data} has no texts; give a .jsonl, .tsv or .csv file, or a directory of them, with {FORMS}"
        )
    examples: dict[str, Example] = {}
    for file in files:
        for line, row in READERS[file.suffix.lower()](file):
            example = _example(row, f"{file}:{line}")
            examples.setdefault(example.text, example)
    return list(examples.values())


def _json_lines(file: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text_of(file).split("\n"), 1):  # not at the other marks that JSON may hold
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise CalltideError(f"{file}:{number} is not JSON ({error.msg}); give one object a line") from error
            yield number, row if isinstance(row, dict) else {}


def _table(file: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    tabs = file.suffix.lower() == ".tsv"  # where a quotation mark is a mark like any other
    rows = csv.DictReader(
        io.StringIO(text_of(file), newline=""),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
    )
    try:
        if "text" not in (names := rows.fieldnames or ()):
            by, found = "tabs" if tabs else "commas", ", ".join(names) or "it is empty"
            raise CalltideError(f"{file} has no column text ({found}); give columns separated by {by}: {FORMS}")
        for row in rows:
            yield rows.line_num, dict(row)
    except csv.Error as error:
        raise CalltideError(f"{file}:{rows.line_num + 1} is no table row ({error}); mend it") from error


READERS: Final = {".jsonl": _json_lines, ".tsv": _table, ".csv": _table}


def _example(row: dict[str, Any], where: str) -> Example:
    text, label, score = (row.get(name) for name in ("text", "label", "score"))
    if not isinstance(text, str) or not any(character.isalnum() for character in text):
        raise CalltideError(f"{where} has no text; every row is {FORMS}")
    if label:
        if label not in SENTIMENTS:
            raise CalltideError(f"{where}: the label {label} is none of {', '.join(SENTIMENTS)}; change it")
        target = tuple(float(label == name) for name in SENTIMENTS)
        return Example(text.strip(), (target[0], target[1], target[2]), str(row.get("group") or ""))
    try:
        number = float(score if score is not None else "nothing")
    except (TypeError, ValueError):
        number = math.nan
    if not -1 <= number <= 1:
        raise CalltideError(f"{where} has neither a label nor a score from -1 to 1; every row is {FORMS}")
    sure = min(1.0, abs(number) / (2 * NEUTRAL_BAND))
    return Example(
        text.strip(), (sure, 1 - sure, 0.0) if number < 0 else (0.0, 1 - sure, sure), str(row.get("group") or "")
    )


def train_head(
    vectors: Array,
    targets: Array,
    train: NDArray[np.intp],
    validation: NDArray[np.intp],
    start: tuple[Array, Array],
    rounds: int,
    console: Console,
) -> tuple[Array, Array, Patience]:
    """Weight (3, d) and bias (3,) by full-batch Adam from `start`, of the round with the least validation loss.

    `pull` towards the start is as though that many texts spoke for it. No randomness.
    """
    pull, rate, patience = 5.0, 3e-3, Patience(rounds=100)
    first = np.column_stack(start)
    inputs = np.column_stack([vectors, np.ones(len(vectors))])
    weights, mean, square = first.copy(), np.zeros_like(first), np.zeros_like(first)
    for turn in range(1, rounds + 1):
        loss = log_loss(inputs[validation] @ weights.T, targets[validation])
        if turn % 50 == 1:
            console.print(f"  round {turn}: validation loss {loss:.4f}")
        if patience.lost(loss, weights.copy()):
            break
        wrong = softmax(inputs[train] @ weights.T) - targets[train]
        slope = (wrong.T @ inputs[train] + pull * (weights - first)) / len(train)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        weights -= rate * (mean / (1 - 0.9**turn)) / (np.sqrt(square / (1 - 0.999**turn)) + 1e-8)
    console.print(f"  kept: round {patience.round}, validation loss {patience.loss:.4f}")
    best: Array = patience.best
    return best[:, :-1], best[:, -1], patience


# --- what is chosen on held-out texts: the same for the packaged model and for one's own ------------------------------


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    shares: Array = powers / powers.sum(-1, keepdims=True)
    return shares


def log_loss(logits: Array, targets: Array) -> float:
    return -float((targets * np.log(np.maximum(softmax(logits), 1e-12))).sum(1).mean())


def choose(head: dict[str, Any], sets: Sequence[Judged]) -> dict[str, Any]:
    """The head file's content with temperature, member weights, thresholds and confidence chosen on `sets`.

    The temperature has the least log loss over all; it goes into weight and bias. Member weights (in steps of 0.05,
    none under 0.05: a member that has no say cannot disagree) and the thresholds (in steps of 0.02) have the best
    macro-F1, averaged over the sets. Confidence is a logistic curve of being right over agreement and probability.
    """
    logits = np.concatenate([one.logits for one in sets])
    truth = np.eye(3)[np.concatenate([one.truth for one in sets])]
    temperature = min(np.round(np.arange(0.5, 4.01, 0.05), 2).tolist(), key=lambda t: log_loss(logits / t, truth))
    probabilities = [softmax(one.logits / temperature) for one in sets]
    members = [np.column_stack([p[:, 2] - p[:, 0], one.lexicons]) for p, one in zip(probabilities, sets, strict=True)]

    best = (0.0, (-0.05, 0.05), (1.0, 0.0, 0.0))
    for vader, textblob in itertools.product(np.arange(0.05, 0.5, 0.05), repeat=2):
        if vader + textblob <= 0.5:
            share = (round(float(1 - vader - textblob), 2), round(float(vader), 2), round(float(textblob), 2))
            table = np.mean([grid_f1(one.truth, m @ share) for one, m in zip(sets, members, strict=True)], axis=0)
            low, high = np.unravel_index(int(table.argmax()), table.shape)
            best = max(best, (float(table[low, high]), (-float(GRID[low]), float(GRID[high])), share))
    _, thresholds, share = best

    features, right = [], []
    for one, m, p in zip(sets, members, probabilities, strict=True):
        guess = np.array([SENTIMENTS.index(label_of(score, thresholds)) for score in m @ share])
        features.append(np.column_stack([1 - np.ptp(m, axis=1) / 2, p[np.arange(len(p)), guess], np.ones(len(p))]))
        right.append(guess == one.truth)
    agreement, probability, bias = logistic(np.concatenate(features), np.concatenate(right).astype(np.float64))
    return head | {
        "weight": (np.array(head["weight"]) / temperature).round(6).tolist(),
        "bias": (np.array(head["bias"]) / temperature).round(6).tolist(),
        "members": dict(zip(MEMBERS, share, strict=True)),
        "thresholds": list(thresholds),
        "confidence": {
            "bias": round(bias, 4),
            "agreement": round(agreement, 4),
            "probability": round(probability, 4),
        },
    }


def grid_f1(truth: NDArray[np.intp], score: Array) -> Array:
    """Macro-F1 over the classes that occur, for every lower (axis 0) and upper (axis 1) threshold of ∓GRID."""
    below = [np.array([np.sum(score[truth == c] < -low) for low in GRID])[:, None] for c in range(3)]
    above = [np.array([np.sum(score[truth == c] > high) for high in GRID])[None, :] for c in range(3)]
    counts = np.bincount(truth, minlength=3)
    guessed = (sum(below), len(truth) - sum(below) - sum(above), sum(above))
    hits = (below[0], counts[1] - below[1] - above[1], above[2])
    f1 = [2 * hit / np.maximum(1, n + g) for hit, n, g in zip(hits, counts, guessed, strict=True) if n]
    mean: Array = np.mean(np.broadcast_arrays(*f1), axis=0)
    return mean


def _labels(model: EnsembleSentiment, texts: Sequence[str]) -> NDArray[np.intp]:
    return np.array([SENTIMENTS.index(result.label) for result in model.score(texts)], np.intp)


def _counts(labels: Sequence[str]) -> str:
    counts = Counter(labels)
    return ", ".join(f"{name} {counts[name]}" for name in SENTIMENTS if counts[name])


def _card(
    model: EnsembleSentiment,
    data: Path,
    labels: Sequence[str],
    by: str,
    train: NDArray[np.intp],
    patience: Patience,
    held: int,
    found: dict[str, Report],
) -> Card:
    limits = ["They are of texts like those that were given, and of nothing else."]
    if by == "text":
        limits.append("The texts have no groups: other texts of the same calls and speakers may have been trained on.")
    if held < ENOUGH_TO_CHOOSE:
        limits.append(
            f"Only {held} validation texts: member weights, thresholds and confidence are those of the packaged model."
        )
    if missing := [name for name in SENTIMENTS if name not in labels]:
        limits.append(f"No text was {' or '.join(missing)}: what is, is found as the packaged model finds it.")
    return Card(
        id=model.id,
        title="Sentiment of texts, trained further",
        setting="CALLTIDE_SENTIMENT__MODEL",
        trained_on={
            "data": data.name,
            "texts": len(labels),
            "of them trained on": len(train),
            "labels": Counter(labels),
        },
        method={
            "network": "the packaged MiniLM, unchanged; a linear head, from the packaged one on",
            "split by": by,
            "round kept": patience.round,
            "validation loss": round(patience.loss, 4),
            "member weights": model.shares,
            "thresholds": model.thresholds,
            "licence": "that of your texts and of the packaged weights (processors/models/weights/MANIFEST.json)",
        },
        held_out=found,
        limits=limits,
    )
