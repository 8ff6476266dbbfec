"""Sentiment of an utterance's words: MiniLM with a trained head, VADER and TextBlob, weighed into one score.

The one thing a changer must know: a score is the same bit for bit however records are batched. So texts run through the
network unpadded, together only with others of as many tokens, and their mean vectors are computed one by one: padding,
and ONNX Runtime's own mean over several texts, change the last digits (tests/unit/test_sentiment_model.py).

Member weights, label thresholds and the confidence curve live in `sentiment-head.json` beside the network's weights.
They were chosen with it on held-out texts by `training/train_sentiment.py`, and go stale when any of the three members
changes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from textblob.en import polarity
from tokenizers import Tokenizer
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from processors.models.onnx_session import WEIGHTS, open_session
from schemas.errors import CalltideError

if TYPE_CHECKING:
    import onnx

SENTIMENTS = ("negative", "neutral", "positive")
MEMBERS = ("minilm", "vader", "textblob")
ENCODER_FILE, TOKENIZER_FILE, HEAD_FILE = "minilm.onnx", "minilm-tokenizer.json", "sentiment-head.json"
# About 100 spoken words. A segment ends after 15 s, in which people say about 40; training cut its texts at 64 tokens.
MAX_TOKENS = 128
# Texts that the network reads at once. Measured: half the cost of one by one at 14 tokens, and hardly less beyond.
TOGETHER = 16
WIDTH = 384
DIGITS = 4
RESTORE = f"restore it with `git checkout -- {WEIGHTS}` or make it with `python -m training.train_sentiment`"


@dataclass(frozen=True, slots=True)
class TextSentiment:
    """What one text says. Numbers are rounded to 4 digits.

    `label` is one of SENTIMENTS; `score` runs from −1 (negative) to 1 (positive); `confidence`, 0 to 1, estimates how
    often such a label is right; `members` holds each member's own score, −1 to 1, by the names in MEMBERS.
    """

    label: str
    score: float
    confidence: float
    members: dict[str, float]


class SentimentModel(Protocol):
    """Judges texts, each for itself: the result for one must not depend on the others."""

    id: str
    thresholds: tuple[float, float]
    """Below the first a score is negative, above the second positive."""

    def score(self, texts: Sequence[str]) -> list[TextSentiment]:
        """One result a text, in order."""
        ...


def label_of(score: float, thresholds: tuple[float, float]) -> str:
    """Negative below the lower threshold, positive above the upper one, neutral between them and on them."""
    if score < thresholds[0]:
        return "negative"
    return "positive" if score > thresholds[1] else "neutral"


def straight(text: str) -> str:
    """The text with straight apostrophes: the lexicons know "don't" only in this spelling."""
    return text.replace("’", "'")


def made_here(name: str) -> Path | None:
    """The directory of a model of this project: the packaged one, or one of `calltide train sentiment`; None: it is
    another's. Raises CalltideError for a directory that holds no model at all.
    """
    if name == "packaged":
        return WEIGHTS
    folder = Path(name).expanduser()
    if (folder / HEAD_FILE).is_file():
        return folder
    if (folder.is_dir() or name.startswith((".", "/", "~"))) and not (folder / "config.json").is_file():
        raise CalltideError(
            f"CALLTIDE_SENTIMENT__MODEL: {name} is no directory with a model; name one made by `calltide train "
            "sentiment` or one with config.json, a hub id such as owner/name, or packaged"
        )
    return None


class EnsembleSentiment:
    """MiniLM, VADER and TextBlob for English text, on the CPU, with nothing loaded from outside one directory.

    * `minilm`: the head's P(positive) − P(negative), calibrated by a temperature on held-out texts.
    * `vader`: VADER's compound score (Hutto & Gilbert 2014).
    * `textblob`: the polarity of TextBlob's pattern lexicon, which comes inside the package: no NLTK corpus is read.

    The score is their weighted mean and the label follows from two thresholds; weights and thresholds are those with
    the best macro-F1 on held-out texts (docs/sentiment.md). Confidence is a logistic curve, fitted on the same texts,
    over the members' agreement (1 − half the distance between the highest and the lowest) and MiniLM's probability of
    the label. A text without a letter or digit is neutral with confidence 0. Tokens beyond MAX_TOKENS are not seen by
    MiniLM.

    `weights_dir` is a directory made by `calltide train sentiment`; without it, the committed weights are taken.
    Raises CalltideError when a file is missing.
    """

    def __init__(self, weights_dir: Path | None = None, threads: int = 1) -> None:
        self.folder = folder = weights_dir or WEIGHTS
        for name in (ENCODER_FILE, TOKENIZER_FILE, HEAD_FILE):
            if not (folder / name).is_file():
                raise CalltideError(
                    f"sentiment: {folder / name} is missing; "
                    + (RESTORE if folder == WEIGHTS else "make the directory again with `calltide train sentiment`")
                )
        head = json.loads((folder / HEAD_FILE).read_text("utf-8"))
        self.id: str = head["id"]
        self.shares: dict[str, float] = {name: head["members"][name] for name in MEMBERS}
        self.thresholds: tuple[float, float] = (head["thresholds"][0], head["thresholds"][1])
        self._curve: dict[str, float] = head["confidence"]
        self._weight = np.array(head["weight"], np.float64)
        self._bias = np.array(head["bias"], np.float64)
        self._encoder = open_session(folder / ENCODER_FILE, threads, _of_many)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._vader = SentimentIntensityAnalyzer()
        polarity("good")  # TextBlob reads its lexicon at the first use: let that be now

    def score(self, texts: Sequence[str]) -> list[TextSentiment]:
        said = [text for text in texts if any(character.isalnum() for character in text)]
        found = iter([self._score(text, vector) for text, vector in zip(said, self.embed_all(said), strict=True)])
        kept = set(said)
        return [
            next(found) if text in kept else TextSentiment("neutral", 0.0, 0.0, dict.fromkeys(MEMBERS, 0.0))
            for text in texts
        ]

    def embed(self, text: str) -> npt.NDArray[np.float32]:
        """The network's mean token vector, float32 [384]: the head's input, tuned to sentiment, not to likeness."""
        return self.embed_all([text]).reshape(-1)

    def embed_all(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The same of each text, float32 [n, 384]."""
        vectors = np.empty((len(texts), WIDTH), np.float32)
        alike: dict[int, list[tuple[int, list[int]]]] = {}
        for at, text in enumerate(texts):
            ids = self._tokenizer.encode(straight(text)).ids
            alike.setdefault(len(ids), []).append((at, ids))
        for group in alike.values():
            for first in range(0, len(group), TOGETHER):
                some = group[first : first + TOGETHER]
                (states,) = self._encoder.run(None, {"ids": np.array([each for _, each in some], np.int64)})
                for (at, _), tokens in zip(some, states, strict=True):
                    vectors[at] = tokens.mean(0)
        return vectors

    @property
    def head(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Weight [3, 384] and bias [3] that make logits, in the order of SENTIMENTS, of `embed`'s vector."""
        return self._weight, self._bias

    def lexicons(self, text: str) -> dict[str, float]:
        """The scores of VADER and TextBlob, −1 to 1."""
        text = straight(text)
        return {"vader": float(self._vader.polarity_scores(text)["compound"]), "textblob": float(polarity(text))}

    def members(self, text: str) -> tuple[dict[str, float], list[float]]:
        """Each member's score, −1 to 1, and MiniLM's probabilities in the order of SENTIMENTS; unrounded."""
        return self._members(text, self.embed(text))

    def _members(self, text: str, vector: npt.NDArray[np.float32]) -> tuple[dict[str, float], list[float]]:
        logits = self._weight @ vector.astype(np.float64) + self._bias
        powers = np.exp(logits - logits.max())
        probabilities: list[float] = (powers / powers.sum()).tolist()
        return {"minilm": probabilities[2] - probabilities[0], **self.lexicons(text)}, probabilities

    def _score(self, text: str, vector: npt.NDArray[np.float32]) -> TextSentiment:
        members, probabilities = self._members(text, vector)
        score = sum(self.shares[name] * members[name] for name in MEMBERS)
        label = label_of(score, self.thresholds)
        confidence = self._confidence(members, probabilities[SENTIMENTS.index(label)])
        rounded = {name: round(value, DIGITS) for name, value in members.items()}
        return TextSentiment(label, round(score, DIGITS), round(confidence, DIGITS), rounded)

    def _confidence(self, members: Mapping[str, float], probability: float) -> float:
        agreement = 1 - (max(members.values()) - min(members.values())) / 2
        c = self._curve
        return 1 / (1 + math.exp(-(c["bias"] + c["agreement"] * agreement + c["probability"] * probability)))


def _of_many(model: "onnx.ModelProto") -> None:
    """Let the graph, which is drawn for one text, take several of the same length and give their tokens' vectors."""
    graph = model.graph
    (mean,) = (node for node in graph.node if node.output[0] == graph.output[0].name)
    graph.node.remove(mean)
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "texts"
    graph.output[0].name = mean.input[0]
    graph.output[0].type.tensor_type.ClearField("shape")
