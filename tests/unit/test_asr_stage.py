"""Words in call time, and silence that says why it is silent."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from processors.asr import Config, SpeechRecognition, build
from processors.base import Record
from processors.models.whisper import Recognition, Rejection, Word
from schemas.errors import CalltideError
from schemas.events import Transcript, Turn
from tests.unit.stage_records import call, event_of, marks, noise, record, run, utterance


class Counting:
    """Says how many milliseconds it heard, in words that last from `start_s` to `end_s`."""

    id = "counting"

    def __init__(
        self, start_s: float = 0.1, end_s: float = 0.25, rejected: Rejection | None = None, confidence: float = 0.87654
    ) -> None:
        self.word = (start_s, end_s, confidence)
        self.rejected = rejected

    def transcribe(self, audio: Sequence[NDArray[np.float32]]) -> list[Recognition]:
        return [self.recognition(f"{len(samples) / 16:.0f} milliseconds") for samples in audio]

    def recognition(self, text: str) -> Recognition:
        if self.rejected:
            return Recognition("", (), "en", 0.1, 0.9, self.rejected)
        return Recognition(text, tuple(Word(part, *self.word) for part in text.split()), "en", self.word[2], 0.0, None)


def transcripts(records: Sequence[Record], model: Counting | None = None) -> list[Transcript]:
    written, dead, changelog = run("asr", SpeechRecognition(model or Counting()), records)
    assert not dead
    assert not changelog
    assert [item.value for item in written] == [item.value for item in records], "the audio travels on"
    return [event_of(item) for item in written]


def test_words_have_the_times_of_the_call() -> None:
    (transcript,) = transcripts([record(utterance(Turn, call(), 5_000))])
    assert (transcript.text, transcript.language, transcript.asr_model) == ("1000 milliseconds", "en", "counting")
    assert [word.text for word in transcript.words] == ["1000", "milliseconds"]
    assert {(word.start_ms, word.end_ms) for word in transcript.words} == {(5_100, 5_250)}
    assert (transcript.asr_confidence, transcript.words[0].confidence) == (0.8765, 0.8765)
    assert transcript.flags == ()


@pytest.mark.parametrize(
    ("start_s", "end_s", "times"),
    [(0.5, 1.7, (5_500, 6_000)), (1.2, 1.4, (6_000, 6_000)), (-0.2, 0.1, (5_000, 5_100)), (0.4, 0.3, (5_400, 5_400))],
)
def test_word_times_stay_within_the_turn(start_s: float, end_s: float, times: tuple[int, int]) -> None:
    (transcript,) = transcripts([record(utterance(Turn, call(), 5_000))], Counting(start_s, end_s))
    assert {(word.start_ms, word.end_ms) for word in transcript.words} == {times}


@pytest.mark.parametrize("reason", ["no_words", "no_speech", "repetition"])
def test_what_was_not_recognised_goes_on_and_says_why(reason: Rejection) -> None:
    (transcript,) = transcripts([record(utterance(Turn, call()))], Counting(rejected=reason))
    assert (transcript.text, transcript.words, transcript.flags) == ("", (), (reason,))


@pytest.mark.parametrize(("codec", "rate"), [("pcm_s16le", 16_000), ("pcm_s16le", 8_000), ("mulaw", 8_000)])
def test_the_model_hears_16_khz_whatever_comes(codec: str, rate: int) -> None:
    (transcript,) = transcripts([record(utterance(Turn, call(), 0, 700, codec=codec, rate=rate))])
    assert transcript.text == "700 milliseconds"


@given(
    lengths=st.lists(st.integers(100, 900), max_size=8),
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    crash=st.booleans(),
)
def test_neither_batches_nor_restarts_change_a_byte(lengths: list[int], batches: list[int], crash: bool) -> None:
    started, progress, ended = (record(mark) for mark in marks(call()))
    turns = [record(utterance(Turn, call(), 1_000 * i, length)) for i, length in enumerate(lengths)]
    records = [started, *turns, progress, ended]
    stage = SpeechRecognition(Counting())
    whole = run("asr", stage, records)[0]
    assert run("asr", stage, records, batches, crash=crash)[0] == whole
    assert [event_of(item) for item in whole if not item.kind.startswith("transcript")] == list(marks(call()))


def test_a_model_that_cannot_be_had_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CalltideError, match="cannot be loaded"):
        build(Config.model_validate({"model": str(tmp_path)}), "test")


@pytest.mark.models
def test_a_real_sentence_in_any_batch(test_data: Path) -> None:
    samples, rate = soundfile.read(test_data / "calls/phone-chat.flac", dtype="float32")
    assert rate == 16_000
    spoken = [(21_780, 6_720), (10_570, 4_130), (18_050, 3_440)]
    records = [
        record(
            utterance(Turn, call(), start, length, codec=codec, rate=8_000 if codec == "mulaw" else rate),
            samples[start * 16 : (start + length) * 16],
        )
        for (start, length), codec in zip(spoken, ("pcm_s16le", "mulaw", "pcm_s16le"), strict=True)
    ]
    records.append(record(utterance(Turn, call(), 60_000, 500), noise(500) * 0))
    stage = build(Config.model_validate({}), "test")
    whole = run("asr", stage, records)[0]
    assert run("asr", stage, records[::-1], [1, 2])[0][::-1] == whole
    texas, jersey, chicago, silence = (event_of(item) for item in whole)
    assert "they all call me a" in texas.text
    assert "New Jersey" in jersey.text
    assert "originally from Chicago" in chicago.text
    assert silence.text == ""
    assert silence.flags
    for transcript in (texas, jersey, chicago):
        assert " ".join(word.text for word in transcript.words) == transcript.text
        times = [time for word in transcript.words for time in (word.start_ms, word.end_ms)]
        assert transcript.start_ms <= times[0] <= times[-1] <= transcript.end_ms
        assert all(first <= second for first, second in pairwise(times))
        assert transcript.asr_confidence > 0.5
