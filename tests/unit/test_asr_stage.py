"""Words in call time, and silence that says why it is silent."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from processors.asr import Config, SpeechRecognition, build
from processors.base import Record
from processors.models.whisper import Recognition, Rejection, Word
from schemas.errors import CalltideError
from schemas.events import CallInfo, Correction, Interim, Role, Transcript, Turn
from streams.corrections import Corrections
from tests.scripted import score
from tests.unit.stage_records import call, event_of, interim, marks, noise, record, run, utterance


class Counting:
    """Says how many milliseconds it heard, in words that last from `start_s` to `end_s`."""

    id = "counting"

    def __init__(
        self, start_s: float = 0.1, end_s: float = 0.25, rejected: Rejection | None = None, confidence: float = 0.87654
    ) -> None:
        self.word = (start_s, end_s, confidence)
        self.rejected = rejected

    def transcribe(self, audio: Sequence[NDArray[np.float32]], contexts: Sequence[str] = ()) -> list[Recognition]:
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


class Saying:
    """Says what it is told to, in turn of the turns' loudness: the first sample's hundredths are the line's number."""

    id = "saying"

    def __init__(self, *lines: str, probability: float = 1.0, shift_s: float = 0.0) -> None:
        self.lines = lines
        self.shift_s = shift_s
        self.probability = probability
        self.contexts: list[list[str]] = []

    def transcribe(self, audio: Sequence[NDArray[np.float32]], contexts: Sequence[str] = ()) -> list[Recognition]:
        self.contexts.append(list(contexts))
        return [self._one(self.lines[round(float(samples[0]) * 100)], samples) for samples in audio]

    def _one(self, line: str, samples: NDArray[np.float32]) -> Recognition:
        words = tuple(
            Word(part, self.shift_s + 0.1 * i, self.shift_s + 0.1 * i + 0.1, 0.9) for i, part in enumerate(line.split())
        )
        return Recognition(line, words, "en", 0.9, 0.0, None, self.probability)


def revision(line: int, before: Interim | None, shift_s: float = 0.0, length_ms: int = 1_000) -> Interim:
    """What is made of a revision in which `line` is heard, each word so much later than before."""
    heard = record(interim(call(), 4_000, length_ms), np.full(length_ms * 16, line / 100, np.float32))
    (event,) = SpeechRecognition(Saying(*REVISIONS, shift_s=shift_s)).revise([(before, heard)])
    return event


REVISIONS = ("", "the quick", "The quick, brown", "the quick crown fox", "quick brown fox")


def stable(event: Interim) -> list[str]:
    return [word.text for word in event.words if word.stable]


def test_words_on_which_two_revisions_agree_are_stable() -> None:
    first = revision(1, None)
    assert (first.text, first.revision, stable(first)) == ("the quick", 10, [])
    assert first.words[1].start_ms == 4_100
    second = revision(2, first)
    assert (second.text, stable(second)) == ("The quick, brown", ["The", "quick,"]), "punctuation and case do not count"
    assert stable(revision(3, second)) == ["the", "quick"], "from the beginning on"
    assert stable(revision(4, second)) == []


def test_words_that_have_moved_are_not_stable() -> None:
    first = revision(1, None)
    assert stable(revision(1, first, 0.29)) == ["the", "quick"]
    assert stable(revision(1, first, 0.3)) == []


def test_only_revisions_of_the_same_segment_agree() -> None:
    before = revision(1, None)
    assert stable(revision(1, before.model_copy(update={"start_ms": 3_900}))) == []


def test_an_unfinished_utterance_in_which_nothing_is_recognised_has_no_words() -> None:
    heard = record(interim(call(), 4_000, 700, "old words"), noise(700))
    (event,) = SpeechRecognition(Counting(rejected="no_speech")).revise([(None, heard)])
    assert (event.text, event.words) == ("", ())


def test_only_interim_records_are_revised() -> None:
    with pytest.raises(CalltideError, match="a turn came where interim audio is read"):
        SpeechRecognition(Counting()).revise([(None, record(utterance(Turn, call())))])


def said(line: int, info: CallInfo, start_ms: int, **fields: Any) -> Record:
    return record(utterance(Turn, info, start_ms, **fields), np.full(16_000, line / 100, np.float32))


LINES = (
    "Thank you for calling Acme. How can I help you?",
    "Hi, I'm calling about my order.",
    "May I have your account number please?",
    "It was a fine day.",
    "",
)
MIXED = call(("unknown",))


def test_roles_of_a_mixed_call_become_known_by_what_is_said() -> None:
    speakers = ["speaker-1", "speaker-2", "speaker-1", "speaker-2"]
    turns = [
        said(line, MIXED, 1_000 * i, speaker=speaker, role="unknown")
        for i, (line, speaker) in enumerate(zip((3, 0, 1, 3), speakers, strict=True))
    ]
    written, _, changelog = run("asr", SpeechRecognition(Saying(*LINES)), [*turns, record(marks(MIXED)[2])])
    events = [event_of(item) for item in written[:-1]]
    transcripts = [event for event in events if isinstance(event, Transcript)]
    assert [event.role for event in transcripts] == ["unknown", "agent", "customer", "agent"]
    assert transcripts[0].role_confidence is None
    assert all((event.role_confidence or 0) >= 0.95 for event in transcripts[1:])
    corrections = [
        (events.index(event), event.speaker, event.role) for event in events if isinstance(event, Correction)
    ]
    assert corrections == [(2, "speaker-2", "agent"), (4, "speaker-1", "customer")], "each once, behind its utterance"
    assert changelog == {}, "the end leaves nothing"


def test_less_certainty_is_a_setting() -> None:
    stage = SpeechRecognition(Saying(*LINES), config=Config(role_certainty=0.999))
    (written,) = run("asr", stage, [said(0, MIXED, 0, speaker="speaker-1", role="unknown")])[0]
    assert event_of(written).role == "unknown"


def test_a_role_that_a_channel_tells_is_left_alone() -> None:
    turns = [said(line, call(), 1_000 * line, speaker="agent", role="agent") for line in (1, 3)]
    written, _, changelog = run("asr", SpeechRecognition(Saying(*LINES)), turns)
    assert [(event_of(item).role, event_of(item).role_confidence) for item in written] == [("agent", None)] * 2
    assert not changelog


def test_speakers_who_turn_out_to_be_one_share_what_they_said() -> None:
    same = record(Correction(call=MIXED, speaker="speaker-2", same_as="speaker-1"))
    records = [said(2, MIXED, 0, speaker="speaker-1", role="unknown"), same]
    records[1:1] = [said(2, MIXED, 1_000, speaker="speaker-2", role="unknown")]
    written = [event_of(item) for item in run("asr", SpeechRecognition(Saying(*LINES)), records)[0]]
    assert [event.role for event in written[:2]] == ["unknown", "unknown"]
    assert (written[2].same_as, written[3].speaker, written[3].role) == ("speaker-1", "speaker-1", "agent")


@example([(2, 0, 0), (0, 1, 0), (1, 1, 0), (1, 1, 0), (None, 1, 0)])
@example([(0, 1, 0), (1, 2, 0), (None, 1, 2), (None, 2, 0), (3, 0, 0)])
@given(st.lists(st.tuples(st.sampled_from([None, 0, 0, 1, 1, 2, 3]), *[st.integers(0, 3)] * 2), max_size=12))
def test_whoever_is_one_speaker_has_one_role_in_all_that_was_said(events: list[tuple[int | None, int, int]]) -> None:
    """For a reader who applies corrections, and also where a role was found for somebody who is merged later."""
    speakers, records = [f"speaker-{number}" for number in range(1, 5)], []
    for at, (line, one, other) in enumerate(events):
        speaker, same_as = speakers[one % len(speakers)], speakers[other % len(speakers)]
        if line is not None:
            records.append(said(line, MIXED, 1_000 * at, speaker=speaker, role="unknown"))
        elif speaker != same_as:
            records.append(record(Correction(call=MIXED, speaker=speaker, same_as=same_as)))
            speakers.remove(speaker)
    written = [event_of(item) for item in run("asr", SpeechRecognition(Saying(*LINES)), records)[0]]
    known, roles = Corrections(), dict[str, set[Role]]()
    for event in written:
        if isinstance(event, Correction):
            known.add(event)
    for event in written:
        if isinstance(event, Transcript):
            heard = score(MIXED).model_copy(update={"speaker": event.speaker, "role": event.role})
            now = known.apply(heard)
            roles.setdefault(now.speaker, set()).add(now.role)
    assert all(len(found) == 1 for found in roles.values()), roles


def test_cross_talk_is_not_heard() -> None:
    records = [said(0, call(), 0, flags=("cross_talk",)), said(1, call(), 1_000)]
    model = Saying(*LINES)
    silent, heard = (event_of(item) for item in run("asr", SpeechRecognition(model), records)[0])
    assert (silent.text, silent.words, silent.flags, silent.language) == ("", (), ("cross_talk",), "und")
    assert heard.text == LINES[1]


def test_each_tenant_has_its_own_hotwords() -> None:
    config = Config(hotwords={"acme": "Zybrotron", "*": "Calltide"}, prompt="Hello.")
    model = Saying(*LINES)
    acme, other = (call().model_copy(update={"tenant": tenant}) for tenant in ("acme", "default"))
    run("asr", SpeechRecognition(model, config=config), [said(0, acme, 0), said(0, other, 0)])
    assert model.contexts == [["Zybrotron Hello.", "Calltide Hello."]]


def test_a_language_that_may_be_another_is_flagged() -> None:
    (written,) = run("asr", SpeechRecognition(Saying(*LINES, probability=0.4)), [said(3, call(), 0)])[0]
    assert event_of(written).flags == ("uncertain_language",)


def test_numbers_are_written_as_is_wanted() -> None:
    stage = SpeechRecognition(Saying("It is twenty five dollars."), config=Config(numbers="formatted"))
    (written,) = run("asr", stage, [said(0, call(), 1_000)])[0]
    transcript = event_of(written)
    assert (transcript.text, transcript.words[2].start_ms, transcript.words[2].end_ms) == ("It is $25.", 1_200, 1_500)


def test_times_hold_although_silence_was_cut_off() -> None:
    sound = np.concatenate([np.zeros(8_000, np.float32), noise(500)])
    stage = SpeechRecognition(Counting(), config=Config(preprocess=("trim",)))
    (written,) = run("asr", stage, [record(utterance(Turn, call(), 0), sound)])[0]
    transcript = event_of(written)
    assert transcript.text.endswith("milliseconds") and int(transcript.text.split()[0]) < 700
    assert transcript.words[0].start_ms == pytest.approx(500, abs=40)


@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from([None, 0, 0, 1, 1, 2, 3, 4]), st.sampled_from(["speaker-1", "speaker-2", "speaker-3"])
        ),
        max_size=10,
    ),
    batches=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_roles_outlive_any_crash(lines: list[tuple[int | None, str]], batches: list[int]) -> None:
    records = [
        record(Correction(call=MIXED, speaker="speaker-3", same_as="speaker-1"))
        if line is None
        else said(line, MIXED, 1_000 * i, speaker=speaker, role="unknown")
        for i, (line, speaker) in enumerate(lines)
    ]
    stage = SpeechRecognition(Saying(*LINES))
    whole = run("asr", stage, records)
    assert run("asr", stage, records, batches, crash=True) == whole


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
