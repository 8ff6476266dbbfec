"""What was heard against what is true: each measure as sums over units, so that it can be drawn again and again.

Word errors are counted by jiwer after Whisper's English normaliser, diarization errors by pyannote.metrics, classes by
scikit-learn. A changer must know: a measure is a function of the *sum* of its units' rows, and its interval is that of
units drawn anew with replacement (percentile bootstrap, seeded). The unit is the largest of which there are at least
FEWEST: call, speaker, else turn, clip or ten seconds; the fewer and smaller the units, the less an interval says about
other callers.
"""

import hashlib
import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import jiwer
import numpy as np
from numpy.typing import NDArray
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate
from pyannote.metrics.identification import IdentificationErrorRate
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score
from whisper_normalizer.english import EnglishTextNormalizer

from schemas.events import Emotion, EmotionLabel, Score, Sentiment, SentimentLabel
from streams.evaluation.hearing import Cost, HeardCall, HeardClip, HeardText, name_of
from streams.evaluation.manifest import EMOTIONS, SentimentTruth, Turn, sentiment_of

Rows = NDArray[np.float64]

FEWEST: Final = 5
"""Judgement: fewer calls or speakers drawn with replacement give intervals that mean nothing."""
WINDOW_S: Final = 10.0
"""Unit of diarization errors where there are few calls. Judgement: longer than most turns."""
DRAWS: Final = 500
COLLARS: Final = {"0.25": 0.25, "0": 0.0}
"""Seconds around each boundary of the reference that do not count, as pyannote.metrics has it: half of them before."""
CLOSE_MS: Final = 200
BINS: Final = 10
SENTIMENTS: Final[tuple[SentimentLabel, ...]] = ("negative", "neutral", "positive")
EMOTION_LABELS: Final[tuple[EmotionLabel, ...]] = tuple(
    dict.fromkeys(label for label in EMOTIONS.values() if label is not None)
)
PARTS: Final = ("missed", "false_alarm", "confusion")

_normalise = EnglishTextNormalizer()


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure and what it is made of: `value` maps sums of rows (…, k) to (…)."""

    name: str
    rows: Rows
    value: Callable[[Rows], Rows]
    unit: str
    units: tuple[str, ...]

    @property
    def figure(self) -> float:
        """Over all units."""
        return float(self.value(self.rows.sum(axis=0)))

    @property
    def digest(self) -> str:
        """Two measures with the same digest are of the same units, so their draws are pairs."""
        return hashlib.sha256("\n".join(self.units).encode()).hexdigest()[:12]

    def draws(self) -> Rows:
        """The figure of DRAWS sets of as many units, drawn with replacement. NaN where such a set has none to count."""
        count = len(self.units)
        times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.value(times.astype(np.float64) @ self.rows)

    def interval(self) -> tuple[float, float] | None:
        """95 %; None where a single unit leaves nothing to draw."""
        if len(self.units) < 2:
            return None
        low, high = np.nanpercentile(self.draws(), [2.5, 97.5])
        return float(low), float(high)


@dataclass(slots=True)
class Found:
    """All that was measured on one data set in one band."""

    measures: list[Measure] = field(default_factory=list)
    confusions: dict[str, tuple[tuple[str, ...], list[list[int]]]] = field(default_factory=dict)
    """Name of the classes → (labels, rows: meant, columns: heard)."""
    notes: list[str] = field(default_factory=list)


def ratio(sums: Rows) -> Rows:
    """First column over second; NaN over nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def grouped(
    name: str, rows: Iterable[tuple[str, str, Sequence[float] | Rows]], value: Callable[[Rows], Rows], kinds: str
) -> Measure:
    """A measure of (group, unit, row): by groups where there are FEWEST, else by units. `kinds`: such as call/turn."""
    rows = list(rows)
    by_group: dict[str, Rows] = {}
    by_unit: dict[str, Rows] = {}
    for group, unit, row in rows:
        numbers = np.asarray(row, np.float64)
        by_group[group] = by_group.get(group, 0.0) + numbers
        by_unit[f"{group}/{unit}"] = by_unit.get(f"{group}/{unit}", 0.0) + numbers
    large, small = kinds.split("/")
    units, unit = (by_group, large) if len(by_group) >= FEWEST else (by_unit, small)
    return Measure(name, np.stack(list(units.values())), value, unit, tuple(units))


# --- words ---------------------------------------------------------------------------------------------------------


def tokens(text: str) -> list[str]:
    """Words after Whisper's English normaliser: no case or marks, numbers as digits, one spelling."""
    # It leaves the points of an ellipsis.
    return [token for token in _normalise(text).split() if any(sign.isalnum() for sign in token)]


def plain(text: str) -> list[str]:
    """Words without case or marks, otherwise as they stand: one token keeps its time, confidence and speaker."""
    return re.findall(r"(?:[^\W_]|')+", text.lower().replace("’", "'"))


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[int | None, int | None, bool]]:
    """(place in the reference, place in the hypothesis, whether equal) by jiwer; None: inserted, or deleted."""
    if not reference:
        return [(None, place, False) for place in range(len(hypothesis))]
    if not hypothesis:
        return [(place, None, False) for place in range(len(reference))]
    (chunks,) = jiwer.process_words(" ".join(reference), " ".join(hypothesis)).alignments
    pairs: list[tuple[int | None, int | None, bool]] = []
    for chunk in chunks:
        left = range(chunk.ref_start_idx, chunk.ref_end_idx)
        right = range(chunk.hyp_start_idx, chunk.hyp_end_idx)
        pairs += [(a, b, chunk.type == "equal") for a, b in itertools.zip_longest(left, right)]
    return pairs


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[int, int]]:
    """(errors, words) of each text of the reference; inserted words count where they stand, or to the first."""
    owners = [number for number, text in enumerate(reference) for _ in tokens(text)]
    found = [[0, 0] for _ in reference] or [[0, 0]]
    for owner in owners:
        found[owner][1] += 1
    owner = 0
    said = [word for text in hypothesis for word in tokens(text)]
    for place, _, equal in align([word for text in reference for word in tokens(text)], said):
        owner = owner if place is None else owners[place]
        found[owner][0] += not equal
    return [(errors, words) for errors, words in found]


def _by_channel(call: HeardCall) -> list[tuple[list[Turn], list[Score]]]:
    """Turns and utterances that are compared with each other: of each channel, or all of a mixed one."""
    turns, scores = call.truth.spoken, call.scores
    if all(len(score.call.roles) == 1 for score in scores):
        return [(list(turns), list(scores))]
    channels = sorted({score.channel for score in scores} | {turn.channel for turn in turns})
    return [([t for t in turns if t.channel == c], [s for s in scores if s.channel == c]) for c in channels]


def _words(calls: Sequence[HeardCall]) -> list[Measure]:
    mixed, by_speaker = [], []
    for call in calls:
        for part, (turns, scores) in enumerate(_by_channel(call)):
            texts = [turn.text or "" for turn in turns]
            errors = word_errors(texts, [score.text for score in scores])
            mixed += [(call.name, f"{part}-{turn}", row) for turn, row in enumerate(errors)]
            if len({turn.name for turn in turns}) > 1:
                rows = _by_best_speaker(turns, scores)
                by_speaker += [(call.name, f"{part}-{turn}", row) for turn, row in enumerate(rows)]
    measures = []
    if sum(words for _, _, (_, words) in mixed):
        measures.append(grouped("wer", mixed, ratio, "call/turn"))
    if by_speaker:
        measures.append(grouped("cp_wer", by_speaker, ratio, "call/turn"))
    told = [(call, call.truth.spoken) for call in calls if call.truth.spoken or call.truth.turns == ()]
    silent = [call for call, turns in told if not any(tokens(turn.text or "") for turn in turns)]
    if silent:
        heard = [(c.name, "", (sum(len(tokens(s.text)) for s in c.scores), c.duration_s / 60)) for c in silent]
        measures.append(grouped("phantom_words", heard, ratio, "call/call"))
    return measures


def _by_best_speaker(turns: Sequence[Turn], scores: Sequence[Score]) -> list[tuple[int, int]]:
    """(errors, words) of each turn when every speaker's words are compared with those of the best fitting one heard.

    cpWER: concatenated minimum-permutation word error rate (Watanabe et al. 2020, CHiME-6).
    """
    people = list(dict.fromkeys(turn.name for turn in turns))
    heard = list(dict.fromkeys(score.speaker for score in scores))
    said = {name: [turn.text or "" for turn in turns if turn.name == name] for name in people}
    got = {name: [score.text for score in scores if score.speaker == name] for name in heard}
    size = max(len(people), len(heard))
    rows: dict[tuple[int, int], list[tuple[int, int]]] = {}
    cost = np.zeros((size, size))
    for i, j in itertools.product(range(size), repeat=2):
        left = said[people[i]] if i < len(people) else []
        right = got[heard[j]] if j < len(heard) else []
        rows[i, j] = word_errors(left, right)
        cost[i, j] = sum(errors for errors, _ in rows[i, j])
    chosen = [rows[i, j] for i, j in zip(*linear_sum_assignment(cost), strict=True)]
    return [row for part in chosen for row in part]


@dataclass(frozen=True, slots=True)
class _Token:
    """A word as it was heard, or as it is true."""

    text: str
    start: float | None
    end: float | None
    owner: int
    confidence: float = 0.0


def _true_tokens(turns: Sequence[Turn]) -> list[_Token]:
    found = []
    for owner, turn in enumerate(turns):
        timed = [(word.text, word.start, word.end) for word in turn.words] or [(turn.text or "", None, None)]
        for text, start, end in timed:
            parts = plain(text)
            for place, part in enumerate(parts):
                found.append(
                    _Token(part, start if place == 0 else None, end if place == len(parts) - 1 else None, owner)
                )
    return found


def _heard_tokens(scores: Sequence[Score]) -> list[_Token]:
    return [
        _Token(part, word.start_ms / 1_000, word.end_ms / 1_000, owner, word.confidence)
        for owner, score in enumerate(scores)
        for word in score.words
        for part in plain(word.text)
    ]


def _single_words(calls: Sequence[HeardCall]) -> list[Measure]:
    """Times, confidences and roles of the words that were recognised."""
    times, confidences, roles = [], list[tuple[str, str, Rows]](), []
    for call in calls:
        for part, (turns, scores) in enumerate(_by_channel(call)):
            if not turns:
                continue
            truth, heard = _true_tokens(turns), _heard_tokens(scores)
            for left, right, equal in align([token.text for token in truth], [token.text for token in heard]):
                if right is None:
                    continue
                got = heard[right]
                row = np.zeros(3 * BINS)
                step = min(int(got.confidence * BINS), BINS - 1)
                row[[step, BINS + step, 2 * BINS + step]] = 1, got.confidence, equal
                confidences.append((call.name, f"{part}-{got.owner}", row))
                if left is None or not equal:
                    continue
                for mine, its in ((got.start, truth[left].start), (got.end, truth[left].end)):
                    if mine is not None and its is not None:
                        off = abs(mine - its) * 1_000
                        times.append((call.name, f"{part}-{truth[left].owner}", (off, 1, off <= CLOSE_MS)))
                turn = turns[truth[left].owner]
                if turn.role and turn.start is None and _mixed(call):
                    roles.append((call.name, f"{part}-{truth[left].owner}", _role(turn, scores[got.owner], 1.0)))
    measures = []
    if times:
        measures.append(grouped("word_time_ms", times, ratio, "call/turn"))
        measures.append(grouped("word_time_close", times, lambda sums: ratio(sums[..., [2, 1]]), "call/turn"))
    if confidences:
        measures.append(grouped("word_calibration", confidences, _calibration, "call/utterance"))
    if roles:
        measures += _roles(roles)
    return measures


def _calibration(sums: Rows) -> Rows:
    """Expected calibration error: the gap between confidence and share right in each step, weighted by its words."""
    count, confidence, right = np.split(sums, 3, axis=-1)
    return ratio(np.stack([np.abs(confidence - right).sum(axis=-1), count.sum(axis=-1)], axis=-1))


# --- who speaks ----------------------------------------------------------------------------------------------------


def _mixed(call: HeardCall) -> bool:
    """Whether voices share a channel, so that speaker and role are found and not given."""
    return all(score.call.roles == ("unknown",) for score in call.scores)


def _role(turn: Turn, score: Score, weight: float) -> tuple[float, float, float]:
    """(right, wrong, all) of some words or seconds."""
    return weight * (score.role == turn.role), weight * (score.role not in (turn.role, "unknown")), weight


def _roles(rows: Sequence[tuple[str, str, tuple[float, float, float]]]) -> list[Measure]:
    return [
        grouped("role_accuracy", rows, lambda sums: ratio(sums[..., [0, 2]]), "call/turn"),
        grouped("role_wrong", rows, lambda sums: ratio(sums[..., [1, 2]]), "call/turn"),
    ]


def _annotations(call: HeardCall) -> tuple[Annotation, Annotation]:
    """(truth, heard). pyannote keeps a segment once, so each gets a track of its own."""
    truth, heard = Annotation(), Annotation()
    for track, turn in enumerate(call.truth.turns or ()):
        if turn.start is not None and turn.end is not None:
            truth[Segment(turn.start, turn.end), track] = turn.name
    for track, score in enumerate(call.scores):
        heard[Segment(score.start_ms / 1_000, score.end_ms / 1_000), track] = score.speaker
    return truth.support(), heard.support()


def diarization_errors(
    truth: Annotation, heard: Annotation, duration_s: float, collar: float
) -> list[tuple[float, float, float, float]]:
    """Seconds (missed, false alarm, confusion, speech) of each WINDOW_S, with speakers paired over the whole call.

    The sum is what pyannote's DiarizationErrorRate finds in one piece.
    """
    whole = DiarizationErrorRate(collar=collar)
    everything = Timeline([Segment(0, duration_s)])
    truth, heard, *rest = whole.uemify(truth, heard, uem=everything, collar=collar, returns_uem=True)
    (region,) = rest
    truth, heard = truth.rename_labels(generator="string"), heard.rename_labels(generator="int")
    heard = heard.rename_labels(mapping=whole.optimal_mapping(truth, heard))
    count, rows = IdentificationErrorRate(), []
    for start in np.arange(0, duration_s, WINDOW_S):
        window = region.crop(Segment(start, min(start + WINDOW_S, duration_s)), mode="intersection")
        if window:
            parts = count.compute_components(truth, heard, uem=window)
            names = ("missed detection", "false alarm", "confusion", "total")
            rows.append((parts[names[0]], parts[names[1]], parts[names[2]], parts[names[3]]))
        else:
            rows.append((0.0, 0.0, 0.0, 0.0))
    return rows


def _speakers(calls: Sequence[HeardCall]) -> list[Measure]:
    calls = [call for call in calls if any(turn.start is not None for turn in call.truth.turns or ())]
    measures = []
    for name, collar in COLLARS.items():
        errors, jaccard = list[tuple[str, str, Sequence[float]]](), []
        for call in calls:
            truth, heard = _annotations(call)
            parts = diarization_errors(truth, heard, call.duration_s, collar)
            errors += [(call.name, str(window), row) for window, row in enumerate(parts)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = JaccardErrorRate(collar=collar).compute_components(
                    truth, heard, uem=Timeline([Segment(0, call.duration_s)])
                )
            jaccard.append((call.name, "", (found["speaker error"], found["speaker count"])))
        if not errors:
            continue
        measures.append(
            grouped(
                f"der_{name}",
                errors,
                lambda sums: ratio(np.stack([sums[..., :3].sum(axis=-1), sums[..., 3]], axis=-1)),
                "call/10 s",
            )
        )
        for place, part in enumerate(PARTS):
            measures.append(
                grouped(f"{part}_{name}", errors, lambda sums, p=place: ratio(sums[..., [p, 3]]), "call/10 s")  # type: ignore[misc]
            )
        measures.append(grouped(f"jer_{name}", jaccard, ratio, "call/call"))
    roles = []
    for call in calls:
        for number, turn in enumerate(call.truth.turns or ()):
            for score in call.scores if turn.role and _mixed(call) else ():
                shared = _shared_s(turn, score)
                if shared > 0:
                    roles.append((call.name, str(number), _role(turn, score, shared)))
    return measures + (_roles(roles) if roles else [])


def _shared_s(turn: Turn, score: Score) -> float:
    """Seconds in which both go on."""
    return min(turn.end or 0.0, score.end_ms / 1_000) - max(turn.start or 0.0, score.start_ms / 1_000)


# --- how it sounds -------------------------------------------------------------------------------------------------


def unweighted_accuracy(sums: Rows) -> Rows:
    """Mean recall of the classes that occur, of confusion matrices (…, k · k)."""
    matrix = _square(sums)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(_diagonal(matrix) / matrix.sum(axis=-1), axis=-1))


def weighted_accuracy(sums: Rows) -> Rows:
    """Share right, of confusion matrices (…, k · k)."""
    matrix = _square(sums)
    return np.asarray(_diagonal(matrix).sum(axis=-1) / matrix.sum(axis=(-1, -2)))


def macro_f1(sums: Rows) -> Rows:
    """Mean F1 of the classes that occur in the truth, of confusion matrices (…, k · k)."""
    matrix = _square(sums)
    meant = matrix.sum(axis=-1)
    f1 = 2 * _diagonal(matrix) / np.maximum(meant + matrix.sum(axis=-2), 1)
    return np.asarray(np.nanmean(np.where(meant > 0, f1, np.nan), axis=-1))


def _square(sums: Rows) -> Rows:
    size = round(sums.shape[-1] ** 0.5)
    return sums.reshape(*sums.shape[:-1], size, size)


def _diagonal(matrix: Rows) -> Rows:
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def _one_hot(labels: Sequence[str], truth: str, guess: str) -> Rows:
    row = np.zeros(len(labels) ** 2)
    row[labels.index(truth) * len(labels) + labels.index(guess)] = 1
    return row


Guess = tuple[str, str, str, str]
"""(group, unit, truth, guess)."""


def _classes(prefix: str, guesses: Sequence[Guess], labels: tuple[str, ...], kinds: str, found: Found) -> None:
    """The measures of one classification, checked against scikit-learn's."""
    rows = [(group, unit, _one_hot(labels, truth, guess)) for group, unit, truth, guess in guesses]
    truth, guess = [g[2] for g in guesses], [g[3] for g in guesses]
    occurring = sorted(set(truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are heard and never meant: macro figures are over those meant
        expected = {
            f"{prefix}_ua": balanced_accuracy_score(truth, guess),
            f"{prefix}_f1": f1_score(truth, guess, labels=occurring, average="macro"),
        }
    for name, value in (("ua", unweighted_accuracy), ("wa", weighted_accuracy), ("f1", macro_f1)):
        measure = grouped(f"{prefix}_{name}", rows, value, kinds)
        if abs(expected.get(measure.name, measure.figure) - measure.figure) > 1e-9:
            raise AssertionError(f"{measure.name} is {measure.figure} and scikit-learn says {expected[measure.name]}")
        found.measures.append(measure)
    if len(occurring) == 1:
        found.notes.append(f"all of {prefix} are {occurring[0]}: what is taken for it wrongly cannot show")
    found.confusions[prefix] = (labels, confusion_matrix(truth, guess, labels=list(labels)).tolist())


def _emotions(heard: Sequence[tuple[str, str, str, Emotion]], kinds: str, found: Found) -> None:
    """(group, unit, name in the data, emotion)."""
    guesses = [(group, unit, str(EMOTIONS[name]), emotion.label) for group, unit, name, emotion in heard]
    _classes("emotion", guesses, EMOTION_LABELS, kinds, found)
    sure = [
        (group, unit, (not emotion.uncertain, 1, (not emotion.uncertain) and EMOTIONS[name] == emotion.label))
        for group, unit, name, emotion in heard
    ]
    found.measures.append(grouped("emotion_sure", sure, ratio, kinds))
    if any(row[0] for _, _, row in sure):
        found.measures.append(grouped("emotion_sure_wa", sure, lambda sums: ratio(sums[..., [2, 0]]), kinds))


def correlation(sums: Rows) -> Rows:
    """Pearson's r of sums (n, x, y, xx, yy, xy)."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y)))


def _sentiments(heard: Sequence[tuple[str, str, SentimentTruth, Sentiment]], kinds: str, found: Found) -> None:
    """(group, unit, truth, sentiment). Where the truth knows no neutral, the label is the score's sign."""
    truths = [sentiment_of(truth) for _, _, truth, _ in heard]
    two = {label for label, _ in truths} == {"negative", "positive"}
    guesses, pairs = [], []
    for (group, unit, _, sentiment), (label, number) in zip(heard, truths, strict=True):
        sign = "positive" if sentiment.score > 0 else "negative"
        guesses.append((group, unit, label, sign if two else sentiment.label))
        x, y = sentiment.score, number
        pairs.append((group, unit, (1, x, y, x * x, y * y, x * y)))
    _classes("sentiment", guesses, SENTIMENTS, kinds, found)
    if len({number for _, number in truths}) > 1:
        found.measures.append(grouped("sentiment_correlation", pairs, correlation, kinds))
    if two:
        found.notes.append("two classes: a text is positive or negative by the score's sign")


# --- all of it -----------------------------------------------------------------------------------------------------


def _costs(costs: Sequence[Cost], what: str) -> list[Measure]:
    rows = [(str(n), "", (c.cpu_s, c.wall_s, c.audio_s / 60, 1)) for n, c in enumerate(costs)]
    if sum(cost.audio_s for cost in costs):
        cpu = grouped("cpu_s_per_min", rows, lambda sums: ratio(sums[..., [0, 2]]), f"{what}/{what}")
        factor = grouped("rtf", rows, lambda sums: ratio(sums[..., [1, 2]]) / 60, f"{what}/{what}")
        return [cpu, factor]
    return [grouped("cpu_ms", rows, lambda sums: 1_000 * ratio(sums[..., [0, 3]]), f"{what}/{what}")]


def _utterance_for(turn: Turn, call: HeardCall) -> Score | None:
    """The utterance that shares most time with a turn, on its channel where there are two."""
    candidates = [s for s in call.scores if len(s.call.roles) == 1 or s.channel == turn.channel]
    best = max(candidates, key=lambda score: _shared_s(turn, score), default=None)
    return best if best is not None and _shared_s(turn, best) > 0 else None


def of_calls(calls: Sequence[HeardCall]) -> Found:
    """Words, speakers, and whatever else is known of the turns."""
    found = Found(_words(calls) + _single_words(calls) + _speakers(calls))
    emotions: list[tuple[str, str, str, Emotion]] = []
    sentiments: list[tuple[str, str, SentimentTruth, Sentiment]] = []
    missed = 0
    for call in calls:
        for number, turn in enumerate(call.truth.turns or ()):
            if turn.emotion is None and turn.sentiment is None:
                continue
            score = _utterance_for(turn, call)
            if turn.emotion is not None and EMOTIONS[turn.emotion] is not None:
                if score is not None and score.emotion is not None:
                    emotions.append((call.name, str(number), turn.emotion, score.emotion))
                else:
                    missed += 1
            if turn.sentiment is not None:
                if score is not None and score.sentiment is not None:
                    sentiments.append((call.name, str(number), turn.sentiment, score.sentiment))
                else:
                    missed += 1
    if emotions:
        _emotions(emotions, "call/turn", found)
    if sentiments:
        _sentiments(sentiments, "call/turn", found)
    if missed:
        found.notes.append(f"{missed} labels are of turns to which the chain gave none, and count nowhere")
    timed = [(call, [turn for turn in call.truth.turns or () if turn.start is not None]) for call in calls]
    if nameless := sum(
        {turn.name for turn in turns} == {"channel-0"} and all(len(score.call.roles) == 1 for score in call.scores)
        for call, turns in timed
    ):
        found.notes.append(f"the turns of {nameless} calls name nobody: all are taken for one speaker's")
    found.measures += _costs([call.cost for call in calls], "call")
    return found


def of_clips(clips: Sequence[HeardClip]) -> Found:
    """The emotions of clips."""
    found = Found()
    heard = [
        (clip.truth.speaker, name_of(clip.truth.file), clip.truth.emotion or "", clip.emotion)
        for clip in clips
        if clip.emotion is not None
    ]
    if heard:
        _emotions(heard, "speaker/clip", found)
    reasons = sorted({clip.why or "no reason given" for clip in clips if clip.emotion is None})
    if reasons:
        count = sum(clip.emotion is None for clip in clips)
        found.notes.append(f"{count} clips got no emotion and count nowhere ({'; '.join(reasons)})")
    found.measures += _costs([clip.cost for clip in clips], "clip")
    return found


def of_spoken_clips(calls: Sequence[HeardCall]) -> Found:
    """Words of clips, and the sentiment of the utterance with most words in each."""
    words = _words(calls) + _single_words(calls)
    found = Found([replace(measure, unit="clip" if measure.unit == "call" else measure.unit) for measure in words])
    heard: list[tuple[str, str, SentimentTruth, Sentiment]] = []
    missed = 0
    for call in calls:
        if call.clip is None or call.clip.sentiment is None:
            continue
        best = max(call.scores, key=lambda score: len(score.words), default=None)
        if best is not None and best.sentiment is not None:
            heard.append((call.clip.speaker, call.name, call.clip.sentiment, best.sentiment))
        else:
            missed += 1
    if missed:
        found.notes.append(f"{missed} clips got no sentiment (no words heard?) and count nowhere")
    if heard:
        _sentiments(heard, "speaker/clip", found)
    found.measures += _costs([call.cost for call in calls], "clip")
    return found


def of_texts(texts: Sequence[HeardText]) -> Found:
    """The sentiment of texts."""
    found = Found()
    if not texts:
        return found
    heard = [(t.truth.speaker or str(n), str(n), t.truth.sentiment, t.sentiment) for n, t in enumerate(texts)]
    _sentiments(heard, "source/text" if any(text.truth.speaker for text in texts) else "text/text", found)
    found.measures += _costs([text.cost for text in texts], "text")
    return found
