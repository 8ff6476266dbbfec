"""Measures against results worked out by hand, and against the libraries in one piece."""

import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyannote.metrics", reason="needs the extra eval")

from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from sklearn.metrics import balanced_accuracy_score, f1_score

from schemas.events import CallInfo, Role, RunningScore, Score
from streams.evaluation import metrics
from streams.evaluation.hearing import Cost, HeardCall
from streams.evaluation.manifest import Call


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


@settings(max_examples=30)
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


START = datetime(2026, 1, 1, tzinfo=UTC)


def score(start: float, end: float, text: str, speaker: str, roles: tuple[Role, ...], **more: Any) -> Score:
    """An utterance whose words follow each other evenly."""
    words = text.split()
    step = (end - start) * 1_000 / max(len(words), 1)
    timed = [
        {"text": word, "start_ms": round(start * 1_000 + n * step), "end_ms": round(start * 1_000 + (n + 1) * step)}
        | {"confidence": 0.9}
        for n, word in enumerate(words)
    ]
    return Score.model_validate(
        {
            "call": CallInfo(call_id="c", started_at=START, roles=roles),
            "channel": 0,
            "start_ms": round(start * 1_000),
            "end_ms": round(end * 1_000),
            "cut": "pause",
            "codec": "mulaw",
            "rate": 8_000,
            "captured_at": START,
            "speaker": speaker,
            "role": "unknown",
            "speaker_confidence": 1.0,
            "text": text,
            "words": timed,
            "language": "en",
            "asr_confidence": 0.9,
            "asr_model": "m",
            "running": RunningScore(score=0, party_score=0, utterances=1),
            "pipeline_version": "v1",
        }
        | more
    )


def figures(truth: dict[str, Any], *scores: Score) -> dict[str, float]:
    call = HeardCall(Call.model_validate({"file": "call.wav"} | truth), "call", scores, 10.0, Cost(10.0, 1.0, 2.0))
    found = metrics.of_calls([call])
    assert call.truth.file == Path("call.wav")
    return {measure.name: measure.figure for measure in found.measures}


MIXED: tuple[Role, ...] = ("unknown",)
DIALOGUE = {
    "turns": [
        {"start": 1, "end": 3, "speaker": "anna", "role": "agent", "text": "how can I help"},
        {"start": 4, "end": 6, "speaker": "otto", "role": "customer", "text": "my parcel is late"},
    ]
}


def test_a_call_heard_without_a_fault() -> None:
    found = figures(
        DIALOGUE,
        score(1, 3, "How can I help?", "speaker-1", MIXED, role="agent"),
        score(4, 6, "My parcel is late.", "speaker-2", MIXED, role="customer"),
    )
    for name in ("wer", "cp_wer", "der_0", "der_0.25", "jer_0", "confusion_0", "role_wrong"):
        assert found[name] == 0.0, name
    assert found["role_accuracy"] == 1.0
    assert found["word_calibration"] == pytest.approx(0.1)
    assert (found["cpu_s_per_min"], found["rtf"]) == (6.0, 0.2)


def test_right_words_of_the_wrong_speaker_count_for_cpwer_der_and_role() -> None:
    found = figures(
        DIALOGUE,
        score(1, 3, "How can I help?", "speaker-1", MIXED, role="agent"),
        score(4, 6, "My parcel is late.", "speaker-1", MIXED, role="agent"),
    )
    assert found["wer"] == 0.0
    assert found["cp_wer"] == 1.0  # four words too many for the one, four too few for the other
    assert found["confusion_0"] == found["der_0"] == 0.5
    assert found["role_accuracy"] == found["role_wrong"] == 0.5


def test_an_unknown_role_is_neither_right_nor_wrong() -> None:
    found = figures(DIALOGUE, score(1, 3, "how can I help", "speaker-1", MIXED))
    assert found["role_accuracy"] == found["role_wrong"] == 0.0
    assert found["missed_0"] == 0.5 and found["wer"] == 0.5


def test_channels_are_compared_each_for_itself() -> None:
    turns = [{**turn, "start": 1, "end": 3, "channel": n} for n, turn in enumerate(DIALOGUE["turns"])]
    roles: tuple[Role, ...] = ("agent", "customer")
    found = figures(
        {"turns": turns},
        score(1, 3, "my parcel is late", "customer", roles, channel=1),
        score(1, 3, "how can I help", "agent", roles),
    )
    assert found["wer"] == 0.0 and found["der_0"] == 0.0
    assert "cp_wer" not in found and "role_accuracy" not in found


def test_times_of_words_that_were_recognised() -> None:
    words = [{"text": "my", "start": 4.0}, {"text": "parcel"}, {"text": "is"}, {"text": "late", "end": 6.3}]
    turns = [{"start": 4, "end": 6.3, "text": "my parcel is late", "words": words}]
    found = figures({"turns": turns}, score(4.1, 6, "My parcel was late.", "speaker-1", MIXED))
    assert found["word_time_ms"] == pytest.approx(200)
    assert found["word_time_close"] == 0.5


def test_a_script_without_times_and_a_call_in_which_nothing_is_heard() -> None:
    turns = [{"text": "hello", "speaker": "a", "role": "agent"}, {"text": "hi", "speaker": "b", "role": "customer"}]
    found = figures({"transcript": turns}, score(0, 1, "hello hi", "speaker-1", MIXED, role="agent"))
    assert (found["wer"], found["cp_wer"]) == (0.0, 1.0)
    assert (found["role_accuracy"], found["role_wrong"]) == (0.5, 0.5)
    silent = figures(DIALOGUE)
    assert silent["wer"] == silent["der_0"] == silent["missed_0"] == silent["jer_0"] == 1.0


def test_words_where_nobody_speaks() -> None:
    assert figures({"turns": []}, score(0, 1, "thank you", "speaker-1", MIXED))["phantom_words"] == 12.0
    assert figures({"turns": []})["phantom_words"] == 0.0
    # Said to be empty is the same; without a text, nobody knows.
    assert figures({"transcript": [{"text": ""}]}, score(0, 1, "you", "speaker-1", MIXED))["phantom_words"] == 6.0
    assert "phantom_words" not in figures({"turns": [{"start": 0, "end": 1}]})


def test_turns_of_nobody_are_told_of() -> None:
    def notes(**who: object) -> list[str]:
        turns = [{"start": 1, "end": 3} | who, {"start": 4, "end": 6} | who]
        call = Call.model_validate({"file": "x", "turns": turns})
        heard = score(1, 3, "a", "speaker-1", MIXED)
        return metrics.of_calls([HeardCall(call, "call", (heard,), 10.0, Cost(10.0, 1.0, 2.0))]).notes

    assert notes() == ["the turns of 1 calls name nobody: all are taken for one speaker's"]
    assert notes(role="agent") == notes(speaker="anna") == []


def test_words_of_other_alphabets_keep_their_times() -> None:
    assert metrics.plain("Grüße, don’t – привет_да!") == ["grüße", "don't", "привет", "да"]


def test_labels_of_turns_are_compared_with_the_utterance_that_shares_most_time() -> None:
    turns = [{**turn, "emotion": "anger", "sentiment": "negative"} for turn in DIALOGUE["turns"]]
    emotion = {"label": "anger", "probabilities": {"anger": 1.0}, "model": "m"}
    sentiment = {"label": "negative", "score": -0.5, "text_score": -0.5, "confidence": 0.5, "model": "m"}
    heard = score(3.5, 6, "my parcel is late", "speaker-1", MIXED, emotion=emotion, sentiment=sentiment)
    call = HeardCall(Call.model_validate({"file": "x", "turns": turns}), "call", (heard,), 10.0, Cost(10.0, 1.0, 2.0))
    found = metrics.of_calls([call])
    assert {m.name: m.figure for m in found.measures}["emotion_ua"] == 1.0
    assert sum(map(sum, found.confusions["sentiment"][1])) == 1
    assert any(note.startswith("2 labels are of turns") for note in found.notes)
