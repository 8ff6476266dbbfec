"""Whose voice is judged, whose is not, and that both are said."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from processors.base import Record
from processors.emotion import MINIMUM_MS, Config, VoiceEmotion, build
from schemas.errors import CalltideError
from schemas.events import EmotionScored, Role, Transcript
from tests.unit.stage_records import call, event_of, marks, noise, record, run, utterance

LABELS = ("neutral", "happiness", "sadness", "anger", "fear", "surprise")


ROLES: tuple[Role, ...] = ("agent", "customer", "unknown")


class Loudness:
    """The louder, the angrier; counts what it was made to hear."""

    id = "loudness"
    labels = LABELS

    def __init__(self) -> None:
        self.heard = 0

    def predict(self, audio: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        self.heard += len(audio)
        anger = np.array([min(1.0, float(np.abs(samples).mean())) for samples in audio])
        rest = (1 - anger) * 0.2
        return np.stack([rest, rest, rest, anger, rest, rest], 1).astype(np.float32)


def spoken(
    role: Role, start_ms: int = 0, length_ms: int = 1_000, text: str = "well then", language: str = "en"
) -> Record:
    said: dict[str, Any] = {"speaker": role, "role": role, "text": text, "language": language}
    return record(utterance(Transcript, call(), start_ms, length_ms, **said))


def scored(records: Sequence[Record], config: Config | None = None) -> tuple[list[EmotionScored], int]:
    model = Loudness()
    written, dead, changelog = run("emotion", VoiceEmotion(config or Config(), model), records)
    assert not dead
    assert not changelog
    assert all("event" not in item.headers for item in written), "from here on the event is the value"
    return [event_of(item) for item in written], model.heard


def test_only_customers_are_heard_unless_a_setting_says_so() -> None:
    records = [spoken(role, 2_000 * i) for i, role in enumerate(ROLES)]
    (agent, customer, unknown), heard = scored(records)
    assert heard == 1
    assert agent.emotion is None
    assert agent.emotion_skipped == "role agent is not in emotion.roles (customer)"
    assert unknown.emotion_skipped == "role unknown is not in emotion.roles (customer)"
    assert customer.emotion is not None
    assert customer.emotion_skipped is None
    assert scored(records, Config(roles=("all",)))[1] == 3
    (agent, customer, unknown), heard = scored(records, Config(roles=("agent", "unknown")))
    assert heard == 2
    assert customer.emotion_skipped == "role customer is not in emotion.roles (agent, unknown)"


def test_switched_off_nobody_is_heard() -> None:
    (customer,), heard = scored([spoken("customer")], Config(enabled=False))
    assert heard == 0
    assert customer.emotion_skipped == "emotion.enabled is false"


def test_what_is_too_short_or_without_words_is_not_judged() -> None:
    records = [
        spoken("customer", 0, MINIMUM_MS - 1),
        spoken("customer", 1_000, MINIMUM_MS),
        spoken("customer", 2_000, text=""),
    ]
    (short, enough, wordless), heard = scored(records)
    assert heard == 1
    assert short.emotion_skipped == f"shorter than {MINIMUM_MS} ms"
    assert enough.emotion is not None
    assert wordless.emotion_skipped == "no words were recognised"


def test_the_label_is_the_likeliest_and_the_transcript_stays() -> None:
    said = utterance(Transcript, call(), flags=("repetition",))
    for level, label in ((0.9, "anger"), (0.05, "neutral")):
        (event,), _ = scored([record(said, np.full(16_000, level, np.float32))])
        assert event.emotion is not None
        assert event.emotion.label == label
        assert tuple(event.emotion.probabilities) == LABELS
        assert sum(event.emotion.probabilities.values()) == pytest.approx(1, abs=3e-4)
        assert all(round(share, 4) == share for share in event.emotion.probabilities.values())
        assert event.emotion.model == "loudness"
        assert Transcript.model_validate(event.model_dump() | {"kind": "transcript"}) == said


def test_finer_names_and_doubt_follow_from_the_probabilities() -> None:
    records = [record(utterance(Transcript, call()), np.full(16_000, level, np.float32)) for level in (0.9, 0.4, 0.2)]
    (sure, half, even), _ = scored(records, Config(uncertain_below=0.5))
    assert sure.emotion is not None
    assert half.emotion is not None
    assert even.emotion is not None
    assert (sure.emotion.uncertain, half.emotion.uncertain, even.emotion.uncertain) == (False, True, True)
    assert {found.name: found.confidence for found in sure.emotion.granular} == {"outrage": 0.9, "frustration": 0.9}
    assert {found.confidence for found in half.emotion.granular} == {0.4, 0.28}
    assert even.emotion.granular == ()
    assert even.emotion.complex is None


def test_a_voice_is_measured_only_where_its_emotion_is_computed() -> None:
    records = [spoken(role, 2_000 * i, text="one two three") for i, role in enumerate(ROLES)]
    (agent, customer, unknown), _ = scored(records)
    assert (agent.acoustics, unknown.acoustics) == (None, None)
    assert customer.acoustics is not None
    assert customer.acoustics.speaking_rate_wps == 3
    (japanese,) = scored([spoken("customer", text="もしもし", language="ja")])[0]
    assert japanese.acoustics is not None
    assert japanese.acoustics.speaking_rate_wps is None, "what a word is there cannot be told by spaces"
    assert customer.acoustics.jitter is None, "Praat is not asked for"
    assert scored(records, Config(acoustics=False))[0][1].acoustics is None


def test_without_praat_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "parselmouth", None)  # as if it were not installed
    with pytest.raises(CalltideError, match=r"run `.venv/bin/pip install -e '\.\[praat\]'`"):
        build(Config(praat=True), "test")


def test_an_unknown_role_in_the_settings_is_refused() -> None:
    with pytest.raises(ValueError, match="customer"):
        Config.model_validate({"roles": ["custommer"]})


@settings(max_examples=30)
@given(
    roles=st.lists(st.sampled_from(["agent", "customer", "unknown"]), max_size=8),
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    crash=st.booleans(),
)
def test_neither_batches_nor_restarts_change_a_byte(roles: list[Role], batches: list[int], crash: bool) -> None:
    started, progress, ended = (record(mark) for mark in marks(call()))
    records = [started, *(spoken(role, 1_000 * i) for i, role in enumerate(roles)), progress, ended]
    stage = VoiceEmotion(Config(), Loudness())
    whole = run("emotion", stage, records)[0]
    assert run("emotion", stage, records, batches, crash=crash)[0] == whole
    assert [event_of(item) for item in whole if not item.kind.startswith("emotion")] == list(marks(call()))


@pytest.mark.models
def test_the_real_model_in_any_batch() -> None:
    records = [
        record(utterance(Transcript, call(), 20_000 * i, length_ms, rate=rate, codec=codec), noise(length_ms, i))
        for i, (length_ms, rate, codec) in enumerate(
            [(MINIMUM_MS, 16_000, "pcm_s16le"), (3_000, 8_000, "mulaw"), (15_000, 8_000, "pcm_s16le")]
        )
    ]
    stage = build(Config(), "test")
    whole = run("emotion", stage, records)[0]
    assert run("emotion", stage, records[::-1], [1, 2])[0][::-1] == whole
    for item in whole:
        emotion = event_of(item).emotion
        assert emotion.label == max(emotion.probabilities, key=emotion.probabilities.get)
        assert sum(emotion.probabilities.values()) == pytest.approx(1, abs=3e-4)
