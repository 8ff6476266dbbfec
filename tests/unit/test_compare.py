"""What is said of two versions of the same calls."""

import pytest

from streams.replay.compare import Row, compare


def row(version: str, start_ms: int, text: str = "", score: float | None = None, **more: object) -> Row:
    sentiment = "" if score is None else "negative" if score < -0.05 else "positive" if score > 0.05 else "neutral"
    fields: dict[str, object] = {
        "call_id": "one",
        "version": version,
        "channel": 0,
        "start_ms": start_ms,
        "end_ms": start_ms + 1_000,
        "role": "customer",
        "text": text,
        "sentiment": sentiment,
        "score": score,
        "emotion": "",
        "latency_ms": None,
    }
    return Row(**(fields | more))  # type: ignore[arg-type]


def test_pairs_are_those_of_one_start_and_one_channel() -> None:
    rows = [
        row("a", 0, "good morning", 0.5),
        row("b", 0, "good morning", 0.4),
        row("a", 2_000, "that is bad", -0.5),
        row("b", 2_000, "that is not bad", 0.2),
        row("b", 2_000, "another channel", -0.9, channel=1),
        row("a", 5_000, "", None),
        row("b", 5_100, "late", 0.0),
    ]
    found = compare(rows, "a", "b", (3, 4))
    assert (found.calls, found.calls_in_both, found.utterances, found.utterances_in_both) == ((3, 4), 1, [3, 4], 2)
    assert found.sentiments == {("positive", "positive"): 1, ("negative", "positive"): 1}
    assert found.flips == 1
    assert found.differences == pytest.approx([-0.1, 0.7]) or found.differences == pytest.approx([0.7, -0.1])
    assert [(one.start_ms, other.start_ms) for _, one, other in found.largest] == [(2_000, 2_000), (0, 0)]
    facts = found.document()
    assert facts["score"]["mean_difference"] == pytest.approx(0.3)
    assert facts["score"]["mean_absolute_difference"] == pytest.approx(0.4)
    assert facts["score"]["distribution"]["+0.5 to +2"] == 1


def test_words_are_compared_over_whole_channels_however_speech_was_cut() -> None:
    rows = [
        row("a", 0, "My card does not work."),
        row("a", 3_000, "Please help!"),
        row("b", 0, "my card does"),
        row("b", 1_500, "not work please, yelp"),
        row("b", 2_000, "two more", channel=1),
    ]
    found = compare(rows, "a", "b", (1, 1))
    assert (found.words, found.word_errors) == (7, 1 + 2), "a word is another, and two are on a channel that A has not"
    assert found.document()["words"]["wer"] == pytest.approx(3 / 7, abs=1e-4)


def test_what_neither_has_scored_is_no_difference() -> None:
    found = compare([row("a", 0), row("b", 0)], "a", "b", (1, 1))
    assert (found.differences, found.largest, found.flips) == ([], [], 0)
    assert found.document()["score"]["mean_difference"] is None
    assert found.sentiments == {("none", "none"): 1}


def test_calls_are_kept_apart() -> None:
    rows = [row("a", 0, "x", 0.5), row("b", 0, "x", 0.5, call_id="two"), row("a", 0, "x", 0.1, call_id="two")]
    found = compare(rows, "a", "b", (2, 1))
    assert found.calls_in_both == 2
    assert found.utterances_in_both == 1


def test_latencies_are_those_of_each_version() -> None:
    rows = [row("a", 0, latency_ms=500), row("a", 2_000, latency_ms=1_500), row("b", 0, latency_ms=None)]
    assert compare(rows, "a", "b", (1, 1)).document()["latency_ms"] == {
        "a": {"p50": 1_000, "p95": 1_450},
        "b": {"p50": None, "p95": None},
    }
