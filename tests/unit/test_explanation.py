"""Explanations by the packaged models: they add up, name what matters, follow the weights, and say what is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from numpy.typing import NDArray

from processors import explanation
from processors.emotion import audible
from processors.explanation import TEXT_QUESTIONS, TextParts, VoiceParts
from processors.models.attention import TextAttention, VoiceAttention
from processors.models.emotion import EMOTIONS, WhisperEncoder, WhisperStatsEmotion
from processors.models.onnx_session import WEIGHTS
from processors.models.sentiment import EnsembleSentiment
from schemas.audio import AudioPacket
from schemas.errors import CalltideError
from schemas.events import Acoustics, Emotion, Score, Word
from streams import explain, explain_pictures, samples, shapley
from streams.archive import Archive
from streams.explain import Audio, Explainer, Heard
from streams.settings import Settings
from tests.scripted import call, score
from tests.unit.test_archive import records

pytestmark = pytest.mark.models

Samples = NDArray[np.float32]
SAID = (
    (12_542, 14_184, "This is Diane in New Jersey."),
    (14_444, 17_769, "And I'm Sheila in Texas, originally from Chicago."),
    (20_173, 21_475, "I'm in New Jersey now though."),
    (24_058, 28_425, "At least you know, they all call me a Yankee down here, so what can I say?"),
)
"""Start, end and words of stretches of the packaged conversation, by its reference transcript."""
TEXTS = (
    "This is the worst service I have ever had",
    "thank you so much you have been wonderful",
    "I am really angry that nobody called me back",
    "the engineer arrived on Monday and it works perfectly now",
    "I want to cancel because the bill is wrong again",
)


@pytest.fixture(scope="module")
def voice() -> WhisperStatsEmotion:
    return WhisperStatsEmotion()


@pytest.fixture(scope="module")
def text() -> EnsembleSentiment:
    return EnsembleSentiment()


@pytest.fixture(scope="module")
def spoken(voice: WhisperStatsEmotion) -> list[tuple[Score, Samples]]:
    """The utterances with their audio; times of words go by their letters."""
    sound, _ = soundfile.read(samples.packaged(), dtype="float32")
    found = []
    for start, end, said in SAID:
        words = said.split()
        letters = np.cumsum([0, *map(len, words)])
        times = (start + letters / letters[-1] * (end - start)).round().astype(int).tolist()
        audio = sound[start * 16 : end * 16]
        row = voice.predict([audio])[0]
        emotion = Emotion(
            label=EMOTIONS[int(row.argmax())],
            probabilities=dict(zip(EMOTIONS, row.tolist(), strict=True)),
            model=voice.id,
        )
        parts = [
            Word(text=word, start_ms=begin, end_ms=behind, confidence=1)
            for word, begin, behind in zip(words, times, times[1:], strict=False)
        ]
        made = score(call("chat"), start, said).model_copy(
            update={"end_ms": end, "words": tuple(parts), "emotion": emotion, "emotion_skipped": None}
        )
        found.append((made, audio))
    return found


@pytest.fixture(scope="module")
def heard(voice: WhisperStatsEmotion, spoken: list[tuple[Score, Samples]]) -> list[VoiceParts]:
    return [explanation.explain_voice(said, audio, voice, shapley.shapley, VoiceAttention()) for said, audio in spoken]


@pytest.fixture(scope="module")
def read(text: EnsembleSentiment) -> list[TextParts]:
    return [explanation.explain_words(score(call("c"), 0, said), text, shapley.shapley) for said in TEXTS]


def test_contributions_add_up_to_the_difference_from_the_baseline(
    heard: list[VoiceParts], read: list[TextParts]
) -> None:
    for one in (*heard, *read):
        assert sum(part.contribution for part in one.parts) == pytest.approx(one.value - one.baseline, abs=1e-4)
    for one in heard:
        for label, values in one.contributions.items():
            assert sum(values) == pytest.approx(one.probabilities[label] - 1 / 6, abs=1e-4)
    assert {one.method for one in heard} == {"exact", "sampled"}
    assert [one.baseline for one in read] == [0.0] * len(read)


def test_what_was_silenced_is_not_heard(voice: WhisperStatsEmotion, spoken: list[tuple[Score, Samples]]) -> None:
    """The emotion was found without it, and silence would be heard as sad."""
    said, audio = max(spoken, key=lambda pair: len(pair[1]))
    taken = said.words[0].model_copy(update={"text": "[CARD]"})
    said = said.model_copy(update={"words": (taken, *said.words[1:]), "redacted": {"card": 1}})
    kept = audible(said, len(audio))
    silenced = np.where(kept, audio, np.float32(0))
    explained = explanation.explain_voice(said, silenced, voice, shapley.shapley)
    heard = voice.predict([audio[kept]])[0]
    assert explained.value == pytest.approx(float(heard[EMOTIONS.index(explained.label)]), abs=1e-4)
    assert not any("[CARD]" in part.text and part.contribution for part in explained.parts)


def test_the_decisive_word_has_most_and_the_linear_fit_agrees(read: list[TextParts]) -> None:
    assert [max(one.parts, key=lambda part: abs(part.contribution)).text for one in read[:2]] == ["worst", "wonderful"]
    for one in read:
        pair = [[part.contribution for part in one.parts], [part.lime for part in one.parts]]
        assert np.asarray(np.corrcoef(pair))[0, 1] > 0.8


def test_deleting_the_top_words_of_a_text_changes_its_score_more_than_deleting_random_ones(
    read: list[TextParts], text: EnsembleSentiment
) -> None:
    draws = np.random.default_rng(0)
    top, random = [], []
    for one in read:
        said = [part.text for part in one.parts]

        def change(gone: Any, said: list[str] = said, one: TextParts = one) -> float:
            left = " ".join(word for at, word in enumerate(said) if at not in set(gone))
            return abs(text.score([left])[0].score - one.value)

        sign = np.sign(one.value)
        top.append(change(np.argsort([-sign * part.contribution for part in one.parts])[:2]))
        random.append(np.mean([change(draws.permutation(len(said))[:2]) for _ in range(10)]))
    assert np.mean(top) > 2 * np.mean(random)


def test_cutting_out_the_top_words_of_a_voice_changes_it_more_than_cutting_out_random_ones(
    heard: list[VoiceParts], spoken: list[tuple[Score, Samples]], voice: WhisperStatsEmotion
) -> None:
    draws = np.random.default_rng(0)
    top, random = [], []
    for one, (said, audio) in zip(heard, spoken, strict=True):

        def drop(gone: Any, one: VoiceParts = one, said: Score = said, audio: Samples = audio) -> float:
            left = np.ones(len(audio), bool)
            for at in gone:
                part = one.parts[at]
                assert part.start_ms is not None and part.end_ms is not None
                left[(part.start_ms - said.start_ms) * 16 : (part.end_ms - said.start_ms) * 16] = False
            return one.value - float(voice.predict([audio[left]])[0][EMOTIONS.index(one.label)])

        top.append(drop(np.argsort([-part.contribution for part in one.parts])[:2]))
        random.append(np.mean([drop(draws.permutation(len(one.parts))[:2]) for _ in range(6)]))
    assert np.mean(top) > np.mean(random) + 0.05


def test_shuffled_weights_explain_otherwise(
    tmp_path: Path,
    heard: list[VoiceParts],
    read: list[TextParts],
    spoken: list[tuple[Score, Samples]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = np.random.default_rng(0)
    model = onnx.load(str(WEIGHTS / "emotion.onnx"))
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 2:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(draws.permutation(values.ravel()).reshape(values.shape), tensor.name)
            )
    onnx.save(model, str(tmp_path / "emotion.onnx"))
    said, audio = spoken[0]
    other = explanation.explain_voice(said, audio, WhisperStatsEmotion(tmp_path / "emotion.onnx"), shapley.shapley)
    true = np.array([*heard[0].contributions.values()]).ravel()
    assert np.corrcoef(true, np.array([*other.contributions.values()]).ravel())[0, 1] < 0.8

    # The network behind the lexicons alone: they have no weights to shuffle.
    minilm = EnsembleSentiment()
    minilm.shares = {"minilm": 1.0, "vader": 0.0, "textblob": 0.0}
    utterance = score(call("c"), 0, TEXTS[2])
    before = explanation.explain_words(utterance, minilm, shapley.shapley)
    monkeypatch.setattr(minilm, "_weight", draws.permutation(minilm.head[0].ravel()).reshape(3, -1))
    after = explanation.explain_words(utterance, minilm, shapley.shapley)
    pair = [[part.contribution for part in one.parts] for one in (before, after)]
    assert np.asarray(np.corrcoef(pair))[0, 1] < 0.8


def test_the_same_utterance_is_explained_in_the_same_way_and_numpys_generator_is_left_alone(
    text: EnsembleSentiment,
) -> None:
    long = score(call("c"), 0, " ".join(TEXTS[:3]))
    np.random.seed(7)
    first = explanation.explain_words(long, text, shapley.shapley)
    drawn = np.random.rand()
    assert explanation.explain_words(long, text, shapley.shapley) == first
    assert first.method == "sampled" and first.questions <= TEXT_QUESTIONS + 2
    np.random.seed(7)
    assert np.random.rand() == drawn


def test_sampled_values_are_near_the_exact_ones() -> None:
    """A made game of ten players of which two work together: drawn sets give nearly what all sets give."""
    weights = np.linspace(-1, 1, 10)

    def game(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
        return (masks @ weights + masks[:, 0] * masks[:, 9])[:, None]

    exact, drawn = (shapley.shapley(game, 10, questions) for questions in (2**10, 190))
    assert exact[:, 0] == pytest.approx(weights + np.eye(10)[0] / 2 + np.eye(10)[9] / 2, abs=1e-9)
    assert drawn == pytest.approx(exact, abs=0.1)


def test_of_a_long_utterance_the_voice_model_does_not_hear_the_ends(
    voice: WhisperStatsEmotion, spoken: list[tuple[Score, Samples]]
) -> None:
    said, audio = spoken[0]
    words = tuple(
        Word(
            text=f"w{at}", start_ms=said.start_ms + 1_000 * at, end_ms=said.start_ms + 1_000 * at + 1_000, confidence=1
        )
        for at in range(10)
    )
    long = said.model_copy(update={"words": words, "end_ms": said.start_ms + 10_000})
    one = explanation.explain_voice(long, np.resize(audio, 160_000), voice, shapley.shapley)
    assert WhisperEncoder.LONGEST_S == 6.0
    assert [part.text for part in one.parts] == [f"w{at}" for at in range(2, 8)]
    assert one.unheard == "w0 w1 w8 w9"


def test_attention_is_shared_out_among_the_words(heard: list[VoiceParts], text: EnsembleSentiment) -> None:
    read = explanation.explain_words(score(call("c"), 0, TEXTS[0]), text, shapley.shapley, TextAttention())
    for one in (heard[0], read):
        assert len(one.attention) == len(one.parts) and len(one.attention[0]) == len(one.parts)
        shares = [part.attention or 0.0 for part in one.parts]
        assert all(share > 0 for share in shares) and sum(shares) <= 1.001
    assert sum(part.attention or 0.0 for part in heard[0].parts) == pytest.approx(1, abs=1e-3)


def test_words_that_are_not_in_the_text_have_no_times_and_signs_without_spaces_are_words() -> None:
    said = score(call("c"), 0, "one two three")
    assert explanation._pieces(said)[0] == ["one ", "two ", "three"]
    other = said.model_copy(update={"text": "$12 three"})
    assert explanation._pieces(other) == (["$12 ", "three"], ())
    assert explanation._pieces(other.model_copy(update={"text": "好的", "language": "zh"}))[0] == ["好", "的"]


def with_pitch(start_ms: int, pitch: float) -> Score:
    return score(call("c"), start_ms).model_copy(
        update={"acoustics": Acoustics(pitch_mean_hz=pitch, rms=0.1, loudness_lufs=-20.0)}
    )


def test_the_voice_is_compared_with_the_speakers_own() -> None:
    others = [with_pitch(1_000 * at, 200 + at) for at in range(6)]
    differences = explanation.compare(with_pitch(9_000, 300), others)
    assert [one.feature for one in differences] == ["pitch_mean_hz", "loudness_lufs"]
    assert differences[0].usual == 202.5 and differences[0].deviations == pytest.approx(97.5 / 6.075, abs=0.01)
    assert differences[1].deviations == 0
    assert explanation.compare(with_pitch(9_000, 300), others[:4]) == ()


def test_an_utterance_is_named_by_place_number_or_time() -> None:
    found = Heard([score(call("c"), start, "one two three four") for start in (0, 5_250, 61_300)], 0)
    for which, start in (("1/5250", 5_250), ("3", 61_300), ("0:05", 5_250), ("1:01", 61_300), ("0:01:02", 61_300)):
        assert found.find(which).start_ms == start
    for which in ("4", "0", "0:03", "0/5250", "hello"):
        with pytest.raises(CalltideError, match=f"no utterance {which}"):
            found.find(which)


def test_what_cannot_be_explained_says_why(spoken: list[tuple[Score, Samples]]) -> None:
    explainer = Explainer(Settings())
    silent = score(call("c"), 0, "")
    one = explainer.explain(silent, [], Audio(None))
    assert (one.voice, one.words) == (None, None)
    assert one.missing == {
        "voice": "its emotion was not computed: role_customer",
        "words": "no words were recognised",
        "differences": "role_customer",
    }
    german = score(call("c"), 0, "guten Tag").model_copy(
        update={"language": "de", "flags": ("no_sentiment_for_language",), "sentiment": None}
    )
    assert explainer.explain(german, [], Audio(None)).missing["words"] == "no sentiment model is set for language de"
    said, _ = spoken[0]
    expired = explainer.explain(said, [], Audio(None, why_not="Kafka has its audio no more"))
    assert expired.voice is None and expired.words is not None
    assert expired.missing["voice"] == "Kafka has its audio no more"
    assert any("scripted gave" in note for note in expired.notes)


def test_without_shap_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = shapley.importlib.util.find_spec
    absent: Callable[[str], Any] = lambda name: None if name == "shap" else find(name)  # noqa: E731
    monkeypatch.setattr(shapley.importlib.util, "find_spec", absent)
    with pytest.raises(CalltideError, match=r"pip install -e '\.\[explain\]'"):
        Explainer(Settings())


@pytest.mark.parametrize("codec", ["mulaw", "pcm_s16le"])
def test_audio_is_cut_out_of_an_archived_call(tmp_path: Path, codec: Any) -> None:
    base = Settings()
    settings = base.model_copy(update={"archive": base.archive.model_copy(update={"url": str(tmp_path)})})
    width, draws = (1 if codec == "mulaw" else 2), np.random.default_rng(0)
    packets = [
        AudioPacket(channel, codec, 8_000, 800 * at, at, draws.bytes(800 * width))
        for at in range(20)
        for channel in (0, 1)
        if at != 9
    ]
    Archive(settings).put(records("one", packets))
    said = score(call("one"), 750, "one two three")
    found = explain._from_archive(settings, said)
    whole = b"".join(bytes(packet.value) for packet in packets if packet.channel == 1 and packet.sample < 9 * 800)
    expected = explain.audio.decode(whole, codec)[750 * 8 : 900 * 8]
    assert found is not None and len(found) == 900 * 16
    near = explain.audio.resample(np.concatenate([expected, np.zeros(750 * 8, np.float32)]), 8_000, 16_000)
    assert np.abs(found[: 100 * 16] - near[: 100 * 16]).max() < 1e-3
    assert explain._from_archive(settings, score(call("other"), 0, "one")) is None


def test_pictures_are_drawn_of_what_there_is(
    tmp_path: Path, heard: list[VoiceParts], read: list[TextParts], spoken: list[tuple[Score, Samples]]
) -> None:
    said, audio = spoken[1]
    explained = Explainer(Settings()).explain(said.model_copy(update={"text": "costs $5 & $6"}), [], Audio(None))
    explained = explained.model_copy(update={"voice": heard[1], "words": read[0]})
    made = explain_pictures.draw(tmp_path / "new", explained, audio)
    assert [path.name for path in made] == [
        f"1-14444-{name}.png" for name in ("words", "waveform", "emotions", "attention")
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)
    (tmp_path / "file").write_text("")
    with pytest.raises(CalltideError, match="choose another --png"):
        explain_pictures.draw(tmp_path / "file", explained, audio)
