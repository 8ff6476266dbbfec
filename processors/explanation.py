"""Why a model scored an utterance as it did: what each word adds, and in what the voice differs from the speaker's own.

Words are taken away, many sets of them, and the model is asked again: from the voice the audio of the word is cut out,
from the text the word. Shapley values share the difference between the whole utterance and nothing at all out among the
words, so that they add up to it; a weighted linear fit of the same answers (as in LIME) is given beside them.

A changer must know: audio is cut out and not silenced, because the voice model hears silence as sadness
(docs/explanations.md has the measurement); and who solves the game (`Shapley`, streams/shapley.py) must ask for the
same sets of words each time, or the same utterance would be explained in two ways.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from processors.emotion import audible
from processors.models.emotion import WhisperEncoder, WhisperStatsEmotion
from processors.utterances import RATE, WITHOUT_SPACES
from schemas.events import EmotionLabel, Role, Score, SentimentLabel, Word

if TYPE_CHECKING:
    from processors.models.attention import TextAttention, VoiceAttention
    from processors.models.emotion import EmotionModel
    from processors.models.sentiment import SentimentModel

MOST_VOICE_PARTS: Final = 12
MOST_TEXT_PARTS: Final = 40
"""Of more words, neighbours are taken together: so many parts can be told apart with so many questions."""
VOICE_QUESTIONS: Final = 78
TEXT_QUESTIONS: Final = 150
"""Sets of words that a model is asked about: what two cores answer in three seconds (docs/explanations.md). They are
all that there are of 6 and of 7 parts, whose values are exact then."""
KERNEL_WIDTH: Final = 0.25
"""How fast a set of words counts less, the more are missing: that of LIME for text (Ribeiro et al. 2016)."""
FEWEST_OTHERS: Final = 5
"""Judgement: utterances of a speaker under which nothing is said of what is usual for him."""
MAD: Final = 1.4826
"""Median absolute deviation to standard deviation, of a normal distribution."""
DIGITS: Final = 6

Samples = NDArray[np.float32]
Masks = NDArray[np.bool_]
"""(sets, parts): which parts are left."""
Values = NDArray[np.float64]
"""(sets or parts, outputs)."""
Game = Callable[[Masks], Values]
Shapley = Callable[[Game, int, int], Values]
"""(game, number of parts, most questions) → float64 (parts, outputs), the same each time."""

FEATURES: Final = {
    "pitch_mean_hz": ("pitch", "Hz", 0.03),
    "pitch_deviation_hz": ("pitch variation", "Hz", 0.1),
    "loudness_lufs": ("loudness", "LUFS", 1.0),
    "speaking_rate_wps": ("pace", "words/s", 0.1),
    "spectral_centroid_hz": ("brightness", "Hz", 0.03),
    "zero_crossing_rate": ("zero crossings", "of samples", 0.05),
    "jitter": ("jitter", "of period", 0.1),
    "shimmer": ("shimmer", "of amplitude", 0.1),
    "hnr_db": ("harmonics to noise", "dB", 1.0),
}
"""Acoustic feature → name, unit, and the least spread that is assumed: of decibels as they are, of others a share of
the median. Judgement: about what can be heard; without it a steady speaker's smallest change would be the largest."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Model):
    """One word, or several that were taken together."""

    text: str
    start_ms: int | None
    end_ms: int | None
    contribution: float
    """To the score that is explained: Shapley value."""
    lime: float
    """Weight in a linear model fitted near the whole utterance."""
    attention: float | None = None
    """Share of the attention that reaches the model's result, 0 to 1; None: it has none, or shows none."""


class _Explained(_Model):
    model: str
    value: float
    """What is explained: of the whole utterance."""
    baseline: float
    """The same of nothing. `value` − `baseline` is the sum of the contributions."""
    parts: tuple[Part, ...]
    method: Literal["exact", "sampled"]
    """Whether every set of parts was asked about."""
    questions: int
    lime_fit: float | None
    """R² of the linear model, weighted; None: the model's answer never changes."""
    attention: tuple[tuple[float, ...], ...] = ()
    """Part × part: how much of each one's representation comes from which; empty: not known."""


class VoiceParts(_Explained):
    """Of the probability of one emotion."""

    label: EmotionLabel
    probabilities: dict[EmotionLabel, float]
    contributions: dict[EmotionLabel, tuple[float, ...]]
    """Of the parts, to each emotion's probability."""
    unheard: str
    """Words that the model does not hear: of long utterances it takes the middle."""


class TextParts(_Explained):
    """Of the sentiment of the words, −1 to 1."""

    label: SentimentLabel


class Difference(_Model):
    """An acoustic feature beside what is usual for the speaker in this call."""

    feature: str
    name: str
    unit: str
    value: float
    usual: float
    """Median of the speaker's other utterances."""
    spread: float
    deviations: float
    """(value − usual) / spread."""


class Explanation(_Model):
    """All that can be said of one utterance; `missing` says why something cannot."""

    call_id: str
    tenant: str
    channel: int
    start_ms: int
    end_ms: int
    speaker: str
    role: Role
    text: str
    language: str
    pipeline_version: str
    emotion: dict[EmotionLabel, float] | None
    """As it was scored."""
    score: float | None
    """Words and voice fused, as it was scored."""
    voice: VoiceParts | None = None
    words: TextParts | None = None
    differences: tuple[Difference, ...] = ()
    compared_with: int = 0
    """Utterances of the same speaker."""
    missing: dict[Literal["voice", "words", "differences"], str] = {}
    notes: tuple[str, ...] = ()
    audio_from: str = ""


def explain_voice(
    score: Score,
    samples: Samples,
    model: "EmotionModel",
    shapley: Shapley,
    attention: "VoiceAttention | None" = None,
) -> VoiceParts:
    """What each word's audio adds to the probability of the utterance's emotion.

    `samples`: the utterance, mono 16 kHz, float32 (n,). A word's stretch reaches half-way to its neighbours, so nothing
    is left out; without word times the audio is divided evenly. Nothing at all has the probabilities of a model that
    was asked nothing: equal ones, for which the packaged model is calibrated. `score` must have an emotion.
    """
    if score.emotion is None:
        raise ValueError("an utterance without emotion cannot be explained")
    longest = int(WhisperEncoder.LONGEST_S * RATE) if isinstance(model, WhisperStatsEmotion) else len(samples)
    kept = audible(score, len(samples))
    # Sample → its place among those that the model heard.
    place = np.concatenate(([0], np.cumsum(kept)))
    samples = samples[kept]
    first = max(0, (len(samples) - longest) // 2)
    heard = samples[first : first + longest]
    words = score.words or _even_stretches(score)
    edges = np.clip(place[_edges(words, score.start_ms, len(kept))] - first, 0, len(heard))
    inside = [number for number, (begin, end) in enumerate(pairwise(edges)) if end > begin]
    groups = [group.tolist() for group in np.array_split(inside, min(len(inside), MOST_VOICE_PARTS))]
    part_of = np.repeat(np.arange(len(groups)), [edges[group[-1] + 1] - edges[group[0]] for group in groups])
    labels = cast("tuple[EmotionLabel, ...]", model.labels)
    whole = model.predict([heard])[0].astype(np.float64)
    nothing = (whole > 0) / np.count_nonzero(whole)

    def game(masks: Masks) -> Values:
        rows = np.empty((len(masks), len(labels)))
        for row, mask in zip(rows, masks, strict=True):
            row[:] = whole if mask.all() else model.predict([heard[mask[part_of]]])[0] if mask.any() else nothing
        return rows

    asked = _Asked(game)
    values = shapley(asked, len(groups), VOICE_QUESTIONS)
    column = labels.index(score.emotion.label)
    weights, fit = asked.linear_fit(column)
    seen = attention.positions(heard) if attention else None
    shares, matrix = _by_part(seen, part_of[_middles(seen, len(heard))], len(groups)) if seen is not None else ([], ())
    said = set(inside)
    return VoiceParts(
        model=model.id,
        label=score.emotion.label,
        value=_plain(whole[column]),
        baseline=_plain(nothing[column]),
        probabilities=dict(zip(labels, map(_plain, whole), strict=True)),
        contributions={label: tuple(map(_plain, values[:, at])) for at, label in enumerate(labels)},
        parts=tuple(
            Part(
                text=_joined([words[one].text for one in group], score.language),
                start_ms=words[group[0]].start_ms,
                end_ms=words[group[-1]].end_ms,
                contribution=_plain(values[number, column]),
                lime=weights[number],
                attention=shares[number] if shares else None,
            )
            for number, group in enumerate(groups)
        ),
        method=_method(len(groups), VOICE_QUESTIONS),
        questions=asked.count,
        lime_fit=fit,
        attention=matrix,
        unheard=_joined([word.text for number, word in enumerate(words) if number not in said], score.language),
    )


def explain_words(
    score: Score, model: "SentimentModel", shapley: Shapley, attention: "TextAttention | None" = None
) -> TextParts:
    """What each word adds to the sentiment of the text. Nothing at all is what the model makes of an empty text: 0.

    `score` must have text.
    """
    pieces, words = _pieces(score)
    groups = [group.tolist() for group in np.array_split(range(len(pieces)), min(len(pieces), MOST_TEXT_PARTS))]
    text = "".join(pieces)
    whole = model.score([text])[0]

    def game(masks: Masks) -> Values:
        left = [
            "".join(pieces[one] for group, kept in zip(groups, mask, strict=True) if kept for one in group).strip()
            for mask in masks
        ]
        return np.array([[said.score] for said in model.score(left)])

    asked = _Asked(game)
    values = shapley(asked, len(groups), TEXT_QUESTIONS)
    weights, fit = asked.linear_fit(0)
    shares: list[float] = []
    matrix: tuple[tuple[float, ...], ...] = ()
    if attention:
        seen, starts = attention.tokens(text)
        lengths = [sum(len(pieces[one]) for one in group) for group in groups]
        behind = np.cumsum(lengths)
        part_of = np.array([-1 if at is None else int(np.searchsorted(behind, at, "right")) for at in starts])
        shares, matrix = _by_part(seen, part_of, len(groups))
    return TextParts(
        model=model.id,
        label=cast("SentimentLabel", whole.label),
        value=whole.score,
        baseline=asked.value(np.zeros(len(groups), np.bool_), 0),
        parts=tuple(
            Part(
                text="".join(pieces[one] for one in group).strip(),
                start_ms=words[group[0]].start_ms if words else None,
                end_ms=words[group[-1]].end_ms if words else None,
                contribution=_plain(values[number, 0]),
                lime=weights[number],
                attention=shares[number] if shares else None,
            )
            for number, group in enumerate(groups)
        ),
        method=_method(len(groups), TEXT_QUESTIONS),
        questions=asked.count,
        lime_fit=fit,
        attention=matrix,
    )


def compare(score: Score, others: Sequence[Score]) -> tuple[Difference, ...]:
    """What was measured of the voice beside the speaker's other utterances, the farthest from usual first.

    Deviations are robust: from the median, in units of the median absolute deviation (times MAD). A feature that fewer
    than FEWEST_OTHERS of the others have is left out.
    """
    mine, theirs = _measured(score), [_measured(other) for other in others]
    found = []
    for feature, (name, unit, least) in FEATURES.items():
        usual = [one[feature] for one in theirs if feature in one]
        if feature not in mine or len(usual) < FEWEST_OTHERS:
            continue
        median = statistics.median(usual)
        floor = least if unit in ("LUFS", "dB") else least * abs(median)
        spread = max(MAD * statistics.median(abs(value - median) for value in usual), floor, 1e-9)
        found.append(
            Difference(
                feature=feature,
                name=name,
                unit=unit,
                value=_plain(mine[feature]),
                usual=_plain(median),
                spread=_plain(spread),
                deviations=round((mine[feature] - median) / spread, 2),
            )
        )
    return tuple(sorted(found, key=lambda one: -abs(one.deviations)))


class _Asked:
    """A game whose answers are kept: no set of parts is asked about twice."""

    def __init__(self, game: Game) -> None:
        self._game = game
        self._answers: dict[bytes, Values] = {}

    def __call__(self, masks: Masks) -> Values:
        new = {mask.tobytes(): mask for mask in masks if mask.tobytes() not in self._answers}
        if new:
            self._answers.update(zip(new, self._game(np.array([*new.values()])), strict=True))
        return np.array([self._answers[mask.tobytes()] for mask in masks])

    @property
    def count(self) -> int:
        return len(self._answers)

    def value(self, mask: Masks, column: int) -> float:
        """One answer."""
        return _plain(self(mask[None])[0, column])

    def linear_fit(self, column: int) -> tuple[list[float], float | None]:
        """(weight of each part, weighted R²): least squares over all answers, those near the whole counting more."""
        sets = sorted(self._answers)  # not in the order in which threads came back
        masks = np.array([np.frombuffer(one, np.bool_) for one in sets], np.float64)
        answers = np.array([self._answers[one][column] for one in sets])
        distance = 1 - np.sqrt(masks.mean(1))  # cosine, to the whole
        near = np.exp(-(distance**2) / KERNEL_WIDTH**2 / 2)
        root = np.sqrt(near)
        design = np.column_stack([np.ones(len(masks)), masks])
        weights, *_ = np.linalg.lstsq(design * root[:, None], answers * root, rcond=None)
        mean = np.average(answers, weights=near)
        around = float(near @ (answers - mean) ** 2)
        left = float(near @ (answers - design @ weights) ** 2)
        return [_plain(weight) for weight in weights[1:]], _plain(1 - left / around) if around > 1e-12 else None


def _method(parts: int, questions: int) -> Literal["exact", "sampled"]:
    return "exact" if 2**parts - 2 <= questions else "sampled"


def _edges(words: Sequence[Word], start_ms: int, n: int) -> NDArray[np.int64]:
    """(words + 1,) samples at which the words' stretches begin and the last ends: half-way between neighbours."""
    between = [(word.end_ms + following.start_ms) / 2 - start_ms for word, following in pairwise(words)]
    edges = np.array([0, *(ms * RATE / 1000 for ms in between), n]).round().astype(np.int64)
    return np.clip(np.maximum.accumulate(edges), 0, n)


def _even_stretches(score: Score) -> tuple[Word, ...]:
    times = np.linspace(score.start_ms, score.end_ms, MOST_VOICE_PARTS + 1).round().astype(int).tolist()
    return tuple(
        Word(text=f"{begin / 1000:.1f}–{end / 1000:.1f} s", start_ms=begin, end_ms=end, confidence=1)
        for begin, end in pairwise(times)
    )


def _pieces(score: Score) -> tuple[list[str], tuple[Word, ...]]:
    """(the text cut before each word, the words): joined, the pieces are the text. Words that do not lie in the text
    one after another have no times: then it is cut at spaces."""
    starts, at = [], 0
    for word in score.words:
        at = score.text.find(word.text.strip(), at)
        if at < 0:
            break
        starts.append(at)
        at += len(word.text.strip())
    words = score.words
    if at < 0 or not starts:
        words = ()
        if score.language in WITHOUT_SPACES:
            return [*score.text], words
        parts = score.text.split()
        return [f"{part} " for part in parts[:-1]] + parts[-1:], words
    starts[0] = 0
    return [score.text[begin:end] for begin, end in pairwise([*starts, len(score.text)])], words


def _joined(texts: Sequence[str], language: str) -> str:
    return ("" if language in WITHOUT_SPACES else " ").join(text.strip() for text in texts)


def _middles(seen: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """The sample in the middle of each of the encoder's positions."""
    middles: NDArray[np.int64] = np.minimum((np.arange(len(seen)) + 0.5) * RATE // 50, n - 1).astype(np.int64)
    return middles


def _by_part(
    seen: NDArray[np.float64], part_of: NDArray[np.int64], parts: int
) -> tuple[list[float], tuple[tuple[float, ...], ...]]:
    """Attention between positions as (share of each part in the mean over all positions, part × part).

    `seen` float64 (positions, positions), rows of sum 1; `part_of` (positions,), −1 for what belongs to none.
    """
    belongs = np.array([part_of == part for part in range(parts)], np.float64)
    rows = belongs @ seen / np.maximum(belongs.sum(1, keepdims=True), 1)
    matrix = rows @ belongs.T
    shares = seen.mean(0) @ belongs.T
    return [_plain(share) for share in shares], tuple(tuple(map(_plain, row)) for row in matrix)


def _measured(score: Score) -> dict[str, float]:
    if score.acoustics is None:
        return {}
    found = score.acoustics.model_dump()
    if (variance := score.acoustics.pitch_variance_hz2) is not None:
        found["pitch_deviation_hz"] = math.sqrt(variance)
    return {name: found[name] for name in FEATURES if found.get(name) is not None}


def _plain(value: float) -> float:
    return round(float(value), DIGITS) + 0.0
