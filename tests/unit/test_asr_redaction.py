"""Personal data from the recogniser on: words, audio, interim results, emotion, archive."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from processors import audio
from processors.asr import Config, SpeechRecognition
from processors.base import Record
from processors.emotion import MINIMUM_MS, VoiceEmotion
from processors.emotion import Config as EmotionConfig
from processors.models.whisper import Recognition, WhisperCt2, Word
from processors.redaction import MARGIN_MS, WINDOW_MS
from processors.redaction import Config as Redact
from schemas import topics
from schemas.audio import AudioPacket, Codec
from schemas.errors import CalltideError
from schemas.events import CallInfo, EmotionScored, Interim, Progress, Transcript, Turn
from schemas.events import Word as EventWord
from streams.archive import Archive
from streams.archiving import silenced
from streams.runtime import tell_redacted
from streams.settings import Settings
from tests.unit.stage_records import call, event_of, interim, marks, noise, record, run, utterance

LINES = (
    "My card is 4111 1111 1111 1111 thanks",
    "Can I have your card number?",
    "four one one one",
    "",
    "that was all",
    "call me at 415-555-2671",
)


class Saying:
    """Says the line whose number its audio's length is, in seconds, a word every 400 ms."""

    id = "saying"

    def transcribe(self, audio: Sequence[NDArray[np.float32]], contexts: Sequence[str] = ()) -> list[Recognition]:
        return [self._one(LINES[len(samples) // 16_000 - 4]) for samples in audio]

    def _one(self, line: str) -> Recognition:
        words = tuple(Word(part, 0.4 * at, 0.4 * at + 0.3, 0.9) for at, part in enumerate(line.split()))
        return Recognition(line, words, "en", 0.9, 0.0, None)


def said(line: int, info: CallInfo, start_ms: int, **fields: Any) -> Record:
    return record(utterance(Turn, info, start_ms, (line + 4) * 1_000, **fields))


def stage(**redact: Any) -> SpeechRecognition:
    return SpeechRecognition(Saying(), config=Config(redact=Redact(**redact)))


@pytest.mark.parametrize(("codec", "rate"), [("mulaw", 8_000), ("alaw", 8_000), ("pcm_s16le", 16_000)])
def test_words_keep_their_times_and_their_audio_is_silence(codec: Codec, rate: int) -> None:
    given = said(0, call(), 10_000, codec=codec, rate=rate)
    (written,), dead, _ = run("asr", stage(), [given])
    assert not dead
    transcript = event_of(written)
    assert isinstance(transcript, Transcript)
    assert (transcript.text, transcript.redacted) == ("My card is [CARD] thanks", {"card": 1})
    (card,) = [word for word in transcript.words if word.text == "[CARD]"]
    assert (card.start_ms, card.end_ms) == (11_200, 12_700)
    before, after = audio.decode(given.value, codec), audio.decode(written.value, codec)
    first, behind = ((at + side * MARGIN_MS - 10_000) * rate // 1_000 for at, side in ((11_200, -1), (12_700, 1)))
    assert np.array_equal(after[:first], before[:first])
    assert np.array_equal(after[behind:], before[behind:])
    assert np.abs(after[first:behind]).max() <= 0.001
    assert np.abs(before[first:behind]).max() > 0.1


def test_what_is_not_to_be_taken_out_travels_as_it_came() -> None:
    given = [said(0, call(), 0), said(4, call(), 9_000)]
    written, _, changelog = run("asr", stage(kinds={"*": ()}), given)
    assert [item.value for item in written] == [item.value for item in given]
    assert [event_of(item).redacted for item in written] == [{}, {}]
    assert not changelog


@pytest.mark.parametrize("crash", [False, True])
def test_a_number_in_pieces_survives_restarts_and_no_digit_of_it_is_in_the_state(crash: bool) -> None:
    info = call()
    records = [
        said(1, info, 0, channel=0, speaker="agent", role="agent"),
        said(2, info, 6_000, channel=1),
        said(2, info, 13_000, channel=1),
    ]
    written, _, changelog = run("asr", stage(), records, (1,), crash=crash)
    assert [event_of(item).text for item in written] == ["Can I have your card number?", "[CARD]", "[CARD]"]
    (kept,) = changelog.values()
    assert "4111" not in str(kept)
    late = record(Progress(call=info, at_ms=19_000 + WINDOW_MS + 1))
    assert not run("asr", stage(), [*records, late])[2], "nothing is awaited any more"
    assert not run("asr", stage(), [*records, record(marks(info)[2])])[2]


def test_logs_and_metrics_have_counts_and_no_value(caplog: pytest.LogCaptureFixture) -> None:
    (written,) = run("asr", stage(), [said(0, call(), 0)])[0]
    row = topics.stage("asr")
    before = REGISTRY.get_sample_value("calltide_redacted_total", {"lane": row.lane, "kind": "card"}) or 0
    with caplog.at_level("INFO"):
        tell_redacted(event_of(written), row)
    assert REGISTRY.get_sample_value("calltide_redacted_total", {"lane": row.lane, "kind": "card"}) == before + 1
    (line,) = caplog.records
    assert vars(line)["kinds"] == {"card": 1}
    assert "1111" not in str(vars(line))


def test_each_tenant_has_its_own_kinds() -> None:
    of_acme = call().model_copy(update={"tenant": "acme"})
    both = [said(5, of_acme, 0), said(5, call(), 0)]
    one = stage(kinds={"acme": ("phone",), "*": ("card",)})
    assert [event_of(run("asr", one, [item])[0][0]).text for item in both] == [
        "call me at [PHONE]",
        "call me at 415-555-2671",
    ]


def test_interim_results_show_no_digits() -> None:
    for line, left in ((2, "[NUMBER]"), (0, "My card is [CARD] thanks"), (4, "that was all")):
        length_ms = (line + 4) * 1_000
        heard = record(interim(call(), 4_000, length_ms), noise(length_ms))
        (event,) = stage().revise([(None, heard)])
        assert isinstance(event, Interim)
        assert event.text == left
        assert " ".join(word.text for word in event.words) == left


@pytest.mark.parametrize(("numbers", "left"), [("formatted", "My card is [CARD] thanks"), ("spoken", "[CARD]")])
def test_numbers_as_they_are_wanted_are_those_that_are_left(numbers: Any, left: str) -> None:
    one = SpeechRecognition(Saying(), config=Config(numbers=numbers))
    (written,) = run("asr", one, [said(0, call(), 0)])[0]
    assert left in event_of(written).text
    assert "one" not in event_of(written).text


def test_names_need_a_model() -> None:
    from processors.asr import build

    with pytest.raises(CalltideError, match="CALLTIDE_ASR__REDACT__NAMES_MODEL"):
        build(Config(redact=Redact(kinds={"acme": ("name",)})), "v1")


def test_names_are_found_by_a_pipeline(tmp_path: Path) -> None:
    """Presidio over a pipeline made here: no weights needed."""
    spacy = pytest.importorskip("spacy")
    pytest.importorskip("presidio_analyzer")
    from processors.models.names import PresidioNames

    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Ada Lovelace"}])
    pipeline.to_disk(tmp_path)
    names = PresidioNames(str(tmp_path))
    assert names.find("this is Ada Lovelace, hello", "en") == [(8, 20)]
    assert names.find("this is Ada Lovelace, hello", "de") == []
    from processors.redaction import Memory, Redactor

    redactor = Redactor(Redact(kinds={"*": ("name",)}), names)
    found = redactor.redact("this is Ada Lovelace, hello", (), "en", "", Memory())
    assert (found.text, found.counts) == ("this is [NAME], hello", {"name": 1})


class Lengths:
    """Remembers how much it heard."""

    id = "lengths"
    labels = ("neutral", "happiness", "sadness", "anger", "fear", "surprise")

    def __init__(self) -> None:
        self.heard: list[int] = []

    def predict(self, audio: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        self.heard += [len(samples) for samples in audio]
        return np.full((len(audio), 6), 1 / 6, np.float32)


def test_emotion_is_of_what_is_left_of_the_voice() -> None:
    model = Lengths()
    written, _, _ = run("asr", stage(), [said(0, call(), 10_000)])
    (scored,) = run("emotion", VoiceEmotion(EmotionConfig(acoustics=False), model), written)[0]
    event = event_of(scored)
    assert isinstance(event, EmotionScored)
    assert event.emotion is not None
    assert model.heard == [16 * (4_000 - 1_500 - 2 * MARGIN_MS)]


def test_of_a_voice_that_is_silenced_there_is_no_emotion() -> None:
    words = (EventWord(text="[CARD]", start_ms=300, end_ms=900 + MINIMUM_MS - 1, confidence=1),)
    given = utterance(Transcript, call(), 0, 1_200 + MINIMUM_MS - 1, text="[CARD]", words=words, redacted={"card": 1})
    (scored,) = run("emotion", VoiceEmotion(EmotionConfig(), Lengths()), [record(given)])[0]
    assert event_of(scored).emotion_skipped == "nearly all of it was personal and is silenced"


@pytest.mark.parametrize(("codec", "rate"), [("mulaw", 8_000), ("alaw", 8_000), ("pcm_s16le", 16_000)])
def test_the_archive_is_silent_where_it_is_to_be(tmp_path: Path, codec: Codec, rate: int) -> None:
    chance, packet = np.random.default_rng(1), rate // 10
    sound = [audio.encode(chance.uniform(-0.5, 0.5, packet).astype(np.float32), codec) for _ in range(20)]
    start, _, end = (record(mark) for mark in marks(call()))
    packets = [
        AudioPacket(channel, codec, rate, at * packet, at, value)
        for at, value in enumerate(sound)
        for channel in (0, 1)
    ]
    records = [
        start,
        *(Record("call-1", "audio", dict(one.headers()), one.value, at) for at, one in enumerate(packets)),
        end,
    ]
    quiet = silenced(records, {1: [(250, 620), (1_950, 9_000)]})
    base = Settings()
    own = base.archive.model_copy(update={"url": str(tmp_path)})
    store = Archive(base.model_copy(update={"archive": own}))
    kept = store.put(quiet)
    assert store.records(kept) == quiet
    for channel in (0, 1):
        given = np.concatenate([audio.decode(one.value, codec) for one in packets if one.channel == channel])
        found = np.concatenate(
            [
                audio.decode(one.value, codec)
                for one in store.records(kept)
                if one.kind == "audio" and AudioPacket.decode(one.headers, one.value).channel == channel
            ]
        )
        silent = np.zeros(len(given), bool)
        if channel == 1:
            silent[rate * 250 // 1_000 : rate * 620 // 1_000] = silent[rate * 1_950 // 1_000 :] = True
        assert np.array_equal(found[~silent], given[~silent])
        assert np.abs(found[silent]).max(initial=0) <= 0.001
    assert silenced(records, {}) == records


@pytest.mark.models
def test_nobody_hears_in_the_audio_what_was_taken_out(test_data: Path) -> None:
    """A caller says a phone number and an address; after them the recogniser finds neither in what is left."""
    sound, rate = soundfile.read(test_data / "calls" / "contoso-account.flac", dtype="float32")
    model = WhisperCt2("tiny.en", beam_size=1)
    one = SpeechRecognition(model, config=Config(redact=Redact(kinds={"*": ("phone", "address")})))
    info = call()
    turns = [(10_400, 13_900), (17_700, 22_700), (22_700, 27_000), (30_400, 33_900), (34_000, 42_000)]
    records = [
        record(utterance(Turn, info, start, end - start), sound[start * rate // 1_000 : end * rate // 1_000])
        for start, end in turns
    ]
    written, _, _ = run("asr", one, records)
    events = [event_of(item) for item in written]
    assert [event.redacted for event in events] == [{}, {}, {"phone": 1}, {}, {"address": 1}]
    again = model.transcribe([audio.decode(item.value, "pcm_s16le") for item in written])
    for number in (2, 4):
        assert not any(character.isdigit() for character in again[number].text + events[number].text)
    assert json.loads(written[2].headers["event"])["redacted"] == {"phone": 1}
