"""Measures against results worked out by hand, and against the libraries in one piece."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyannote.metrics", reason="needs the extra eval")

from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from sklearn.metrics import balanced_accuracy_score, f1_score

from streams.evaluation import metrics


def test_words_are_compared_after_whispers_normaliser() -> None:
    assert metrics.tokens("I'm Mr. Smith, twenty-five!") == ["i", "am", "mister", "smith", "25"]
    assert metrics.word_errors(["It's colour"], ["it is color"]) == [(0, 3)]


def test_errors_count_to_the_turn_in_which_they_are() -> None:
    assert metrics.word_errors(["hello there", "how are you"], ["hello their how you", "doing"]) == [(1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [([], ["so what"], [(2, 0)]), (["so what"], [], [(2, 2)]), ([], [], [(0, 0)]), (["… uh"], ["..."], [(0, 0)])],
)
def test_nothing_said_or_nothing_heard(reference: list[str], hypothesis: list[str], errors: list[tuple]) -> None:
    assert metrics.word_errors(reference, hypothesis) == errors


def annotation(turns: list[tuple[float, float, str]]) -> Annotation:
    found = Annotation()
    for track, (start, length, name) in enumerate(turns):
        found[Segment(start, start + length), track] = name
    return found.support()


TURNS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 40), st.sampled_from("abc")).map(lambda t: (t[0] / 1, t[1] / 4, t[2])),
    min_size=1,
    max_size=8,
)


@settings(max_examples=30, deadline=None)
@given(TURNS, TURNS, st.sampled_from([0.0, 0.25, 0.5]))
def test_diarization_errors_of_pieces_add_up_to_pyannotes(first: list, second: list, collar: float) -> None:
    truth, heard, length = annotation(first), annotation(second), 51.5
    whole = DiarizationErrorRate(collar=collar).compute_components(truth, heard, uem=Timeline([Segment(0, length)]))
    parts = np.sum(metrics.diarization_errors(truth, heard, length, collar), axis=0)
    names = ("missed detection", "false alarm", "confusion", "total")
    assert parts == pytest.approx([whole[name] for name in names], abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_classes_as_scikit_learn_counts_them(pairs: list[tuple[int, int]]) -> None:
    truth, guess = zip(*pairs, strict=True)
    counts = np.zeros((4, 4))
    np.add.at(counts, (truth, guess), 1)
    sums = counts.reshape(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are heard and never meant
        recall = balanced_accuracy_score(truth, guess)
        f1 = f1_score(truth, guess, labels=sorted(set(truth)), average="macro", zero_division=0)
    assert metrics.unweighted_accuracy(sums) == pytest.approx(recall)
    assert metrics.macro_f1(sums) == pytest.approx(f1)
    assert metrics.weighted_accuracy(sums) == pytest.approx(np.mean(np.equal(truth, guess)))


def test_correlation_is_pearsons() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 50))
    sums = np.array([50, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])
    assert metrics.correlation(sums) == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_few_calls_are_drawn_by_their_turns_and_many_as_wholes() -> None:
    rows = [(f"call-{call}", str(turn), (call, 10.0)) for call in range(5) for turn in range(3)]
    many = metrics.grouped("wer", rows, metrics.ratio, "call/turn")
    few = metrics.grouped("wer", rows[:12], metrics.ratio, "call/turn")
    assert (many.unit, len(many.units)) == ("call", 5)
    assert (few.unit, len(few.units)) == ("turn", 12)
    assert many.figure == pytest.approx(0.2)


def test_an_interval_holds_the_figure_and_is_the_same_each_time() -> None:
    rows = [(str(n), "", (n % 3 == 0, 1.0)) for n in range(60)]
    measure = metrics.grouped("wer", rows, metrics.ratio, "clip/clip")
    low, high = measure.interval() or (0, 0)
    # Binomial: a third ± 1.96 · sqrt(2/9 / 60).
    assert (low, high) == pytest.approx((1 / 3 - 0.119, 1 / 3 + 0.119), abs=0.03)
    assert measure.interval() == (low, high)
    assert metrics.grouped("wer", rows[:1], metrics.ratio, "clip/clip").interval() is None
