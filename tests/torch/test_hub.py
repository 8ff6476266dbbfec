"""Emotion and sentiment by transformers: the numbers are those of its own pipelines, and neighbours change nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from processors.models.emotion import EMOTIONS
from processors.models.hub import MAX_TOKENS, load_emotion, load_sentiment
from schemas.errors import CalltideError

Voices = list[NDArray[np.float32]]
AUDIO = ("wav2vec2", "wav2vec2_masked", "hubert", "whisper")
OURS = {
    "neu": "neutral", "hap": "happiness", "ang": "anger", "sad": "sadness",
    "angry": "anger", "fearful": "fear", "happy": "happiness", "neutral": "neutral", "surprised": "surprise",
}  # fmt: skip
SAID = ["thank you so much", "this is the worst service", "my order number", "…", "", "thank you so much", "great"]


@pytest.mark.parametrize("kind", AUDIO)
def test_emotions_are_those_of_the_pipeline_by_our_names(kind: str, tiny: Any, voices: Voices) -> None:
    from transformers import pipeline

    model = load_emotion(str(getattr(tiny, kind)), "cpu", 1)
    rows = model.predict(voices)
    assert rows.dtype == np.float32
    assert len({tuple(row) for row in rows.tolist()}) == len(voices), "an answer must come from its own audio"
    judge = pipeline("audio-classification", model=str(getattr(tiny, kind)), device="cpu")
    for row, samples in zip(rows, voices, strict=True):
        theirs = {one["label"]: one["score"] for one in judge(samples, top_k=None)}
        left_out = theirs.pop("disgust", 0.0)
        expected = dict.fromkeys(EMOTIONS, 0.0) | {
            OURS[label]: score / (1 - left_out) for label, score in theirs.items()
        }
        assert dict(zip(model.labels, row.tolist(), strict=True)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", AUDIO)
def test_a_neighbour_changes_no_bit_of_an_emotion(kind: str, tiny: Any, voices: Voices) -> None:
    model = load_emotion(str(getattr(tiny, kind)), "cpu", 1)
    alone = np.concatenate([model.predict([samples]) for samples in voices])
    assert model.predict(voices).tobytes() == alone.tobytes()
    assert model.predict(voices[::-1])[::-1].tobytes() == alone.tobytes()
    again = load_emotion(str(getattr(tiny, kind)), "cpu", 1)
    assert again.predict(voices).tobytes() == alone.tobytes(), "nor does a restart"


@pytest.mark.parametrize("kind", AUDIO)
def test_a_batch_pads_nothing(kind: str, tiny: Any, voices: Voices) -> None:
    alone = load_emotion(str(getattr(tiny, kind)), "cpu", 1).predict(voices)
    together = load_emotion(str(getattr(tiny, kind)), "cpu", 4).predict(voices)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_short_utterances_are_repeated_and_empty_ones_refused(tiny: Any, voices: Voices) -> None:
    model = load_emotion(str(tiny.wav2vec2), "cpu", 1)
    short = voices[0][:320]
    assert np.array_equal(model.predict([short]), model.predict([np.tile(short, 5)]))
    with pytest.raises(ValueError, match="empty"):
        model.predict([voices[0][:0]])
    assert model.predict([]).shape == (0, 6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_dtype_is_near_to_float32_and_named(dtype: str, tiny: Any, voices: Voices) -> None:
    exact = load_emotion(str(tiny.wav2vec2_masked), "cpu", 1)
    rough = load_emotion(str(tiny.wav2vec2_masked), "cpu", 1, dtype)
    assert (exact.id, rough.id) == ("wav2vec2-masked", f"wav2vec2-masked-{dtype}")
    difference = np.abs(exact.predict(voices) - rough.predict(voices)).max()
    assert 0 < difference < 0.1


def test_sentiment_is_that_of_the_pipeline(tiny: Any) -> None:
    from transformers import pipeline

    model = load_sentiment(str(tiny.roberta), "cpu", 1)
    judge = pipeline("text-classification", model=str(tiny.roberta), device="cpu")
    found = model.score(SAID)
    assert len(found) == len(SAID)
    for text, one in zip(SAID, found, strict=True):
        if not any(character.isalnum() for character in text):
            assert (one.label, one.score, one.confidence) == ("neutral", 0.0, 0.0)
            continue
        theirs = {part["label"]: part["score"] for part in judge(text, top_k=None)}
        assert one.score == pytest.approx(theirs["positive"] - theirs["negative"], abs=2e-4)
        assert one.confidence == pytest.approx(theirs[one.label], abs=2e-4)
    assert len({one.score for one in found}) > 3


def test_neighbours_change_no_sentiment(tiny: Any) -> None:
    model = load_sentiment(str(tiny.roberta), "cpu", 1)
    alone = [model.score([text])[0] for text in SAID]
    assert model.score(SAID) == alone
    assert model.score(SAID[::-1]) == alone[::-1]
    together = load_sentiment(str(tiny.roberta), "cpu", 8).score(SAID)
    assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=2e-4)


def test_a_long_text_is_cut(tiny: Any) -> None:
    model = load_sentiment(str(tiny.roberta), "cpu", 1)
    long = "thank you " * MAX_TOKENS
    assert model.score([long]) == model.score([long + "this is the worst service"])


def test_two_classes_leave_room_for_neutral(tiny: Any) -> None:
    model = load_sentiment(str(tiny.roberta_with(("NEGATIVE", "POSITIVE"), "two")), "cpu", 1)
    for one in model.score(SAID[:3]):
        assert one.label == ("neutral" if abs(one.score) <= 1 / 3 else "positive" if one.score > 0 else "negative")
        expected = 1 - abs(one.score) if one.label == "neutral" else (1 + abs(one.score)) / 2
        assert one.confidence == pytest.approx(expected, abs=2e-4)


def test_numbered_classes_need_a_mapping(tiny: Any) -> None:
    folder = str(tiny.roberta_with(("LABEL_0", "LABEL_1", "LABEL_2"), "numbered"))
    with pytest.raises(CalltideError, match=r"LABEL_0, LABEL_1, LABEL_2.*CALLTIDE_SENTIMENT__LABELS='\{"):
        load_sentiment(folder, "cpu", 1)
    meaning = {"LABEL_0": "positive", "LABEL_1": "neutral", "LABEL_2": "none"}
    found = load_sentiment(folder, "cpu", 1, labels=meaning).score(["great"])[0]
    assert found.score >= 0


def test_an_unknown_emotion_is_an_error_that_names_the_setting(tiny: Any, voices: Voices) -> None:
    folder = str(tiny.waves("contempt", "hubert", ("neu", "contempt")))
    with pytest.raises(CalltideError, match=r"contempt.*neutral, .*or left_out.*CALLTIDE_EMOTION__MEANT_AS='"):
        load_emotion(folder, "cpu", 1)
    row = load_emotion(folder, "cpu", 1, meant_as={"contempt": "anger"}).predict(voices)[0]
    assert [name for name, share in zip(EMOTIONS, row.tolist(), strict=True) if share] == ["neutral", "anger"]


def test_a_model_without_a_trained_head_is_refused(tiny: Any, tmp_path: Path) -> None:
    """transformers would fill the head with random numbers and warn in the log."""
    import transformers

    net = transformers.AutoModelForAudioClassification.from_pretrained(tiny.hubert)
    net.hubert.save_pretrained(tmp_path)
    transformers.AutoFeatureExtractor.from_pretrained(tiny.hubert).save_pretrained(tmp_path)
    with pytest.raises(CalltideError, match=r"no trained weights for classifier\.bias.*no finished classifier"):
        load_emotion(str(tmp_path), "cpu", 1)


def test_a_regression_is_refused(tiny: Any, tmp_path: Path) -> None:
    import transformers

    net = transformers.AutoModelForAudioClassification.from_pretrained(tiny.hubert, problem_type="regression")
    for part in (net, transformers.AutoFeatureExtractor.from_pretrained(tiny.hubert)):
        part.save_pretrained(tmp_path)
    with pytest.raises(CalltideError, match="does regression"):
        load_emotion(str(tmp_path), "cpu", 1)


def test_audio_at_another_rate_is_refused(tiny: Any, tmp_path: Path) -> None:
    import transformers

    transformers.AutoModelForAudioClassification.from_pretrained(tiny.hubert).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(tmp_path)
    with pytest.raises(CalltideError, match="8000 Hz"):
        load_emotion(str(tmp_path), "cpu", 1)


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2_masked"])
def test_weights_of_2021_are_read(kind: str, tiny: Any, tmp_path: Path, voices: Voices) -> None:
    """As superb/hubert-base-superb-er has them: a .bin, and weight_g and weight_v where torch now says original0, 1."""
    import torch
    import transformers

    from tests.torch.tiny_models import old_names

    folder = getattr(tiny, kind)
    net = transformers.AutoModelForAudioClassification.from_pretrained(folder)
    net.config.save_pretrained(tmp_path)
    transformers.AutoFeatureExtractor.from_pretrained(folder).save_pretrained(tmp_path)
    old = old_names(net.state_dict())
    assert len([name for name in old if name.endswith(("weight_g", "weight_v"))]) == 2
    torch.save(old, tmp_path / "pytorch_model.bin")
    found = load_emotion(str(tmp_path), "cpu", 1).predict(voices)
    np.testing.assert_allclose(found, load_emotion(str(folder), "cpu", 1).predict(voices), atol=1e-5)
