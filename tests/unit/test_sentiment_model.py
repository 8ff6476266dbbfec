"""The text sentiment model on the committed weights: what it must never get wrong, and how well it must do at least."""

import hashlib
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from processors.models import sentiment
from processors.models.sentiment import (
    ENCODER_FILE,
    HEAD_FILE,
    MEMBERS,
    SENTIMENTS,
    TOKENIZER_FILE,
    EnsembleSentiment,
    label_of,
)
from schemas.errors import CalltideError

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "processors" / "models" / "weights"
DATA = Path(os.environ.get("CALLTIDE_TEST_DATA", ROOT / ".." / "shared" / "data")) / "text"


@pytest.fixture(scope="module")
def model() -> EnsembleSentiment:
    return EnsembleSentiment()


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Thank you so much, you have been wonderful.", "positive"),
        ("oh that's great thanks for your help", "positive"),
        ("I'm really happy with the service", "positive"),
        ("This is the worst service I have ever had.", "negative"),
        ("i am so angry nobody called me back", "negative"),
        ("I'm very disappointed with this.", "negative"),
        ("My account number is four five six two.", "neutral"),
        ("The appointment is on Tuesday at three.", "neutral"),
        ("could you spell your last name for me", "neutral"),
        ("it still doesn't work", "negative"),
        ("yes", "neutral"),
        ("no", "neutral"),
        ("okay", "neutral"),
        ("Thank you for calling Acme Travel, my name is Joe, what can I do for you?", "neutral"),
        ("i have been on hold for half an hour", "negative"),
        ("this is the second time that this has happened", "negative"),
    ],
)
def test_obvious_utterances(model: EnsembleSentiment, text: str, label: str) -> None:
    [result] = model.score([text])
    assert result.label == label, result


@pytest.mark.parametrize(
    ("plain", "negated"),
    [
        ("I am happy with this.", "I am not happy with this."),
        ("that was helpful", "that was not helpful at all"),
        ("I like it", "I don’t like it"),
    ],
)
def test_negation_turns_the_score(model: EnsembleSentiment, plain: str, negated: str) -> None:
    straight, turned = model.score([plain, negated])
    assert straight.label == "positive"
    assert turned.label != "positive"
    assert turned.score < -0.15, (straight, turned)


def test_a_result_does_not_depend_on_its_neighbours(model: EnsembleSentiment) -> None:
    texts = [
        "thank you",
        "no",
        "I have been waiting for an hour " * 8,
        "okay that's fine",
        "it broke again, it's awful",
    ]
    alone = [model.score([text])[0] for text in texts]
    assert model.score(texts) == alone
    shuffled = random.Random(3).sample(range(len(texts)), len(texts))
    assert model.score([texts[i] for i in shuffled]) == [alone[i] for i in shuffled]
    assert EnsembleSentiment(threads=1).score(texts) == alone


def test_texts_of_one_length_are_read_together_with_the_same_result(model: EnsembleSentiment) -> None:
    """To the last bit, at every length: so a replay, which reads hundreds at once, gives what was heard live."""
    words = [
        "no",
        "i",
        "never",
        "wonderful",
        "experience",
        "with",
        "your",
        "terrible",
        "service",
        "thank",
        "you",
        "well",
    ]
    numbers = random.Random(5)
    texts = [" ".join(numbers.choices(words, k=length)) for length in (1, 2, 3, 4, 6, 9, 13, 20, 40) for _ in range(18)]
    together = model.embed_all(texts)
    assert together.tobytes() == np.stack([model.embed(text) for text in texts]).tobytes()


@pytest.mark.parametrize("text", ["", "   ", "...", "—"])
def test_nothing_said_is_neutral_without_confidence(model: EnsembleSentiment, text: str) -> None:
    [result] = model.score([text])
    assert (result.label, result.score, result.confidence) == ("neutral", 0.0, 0.0)
    assert result.members == dict.fromkeys(MEMBERS, 0.0)


def test_ranges_and_label_follow_from_the_members(model: EnsembleSentiment) -> None:
    texts = ["great", "awful awful awful", "ünïcode 😀 wörds", "a" * 5000, "the " * 3000, "1 2 3", "\x00 odd \n bytes"]
    for result in model.score(texts):
        assert result.label in SENTIMENTS
        assert 0 < result.confidence < 1
        assert list(result.members) == list(MEMBERS)
        assert all(-1 <= value <= 1 for value in result.members.values())
        mean = sum(model.shares[name] * value for name, value in result.members.items())
        assert result.score == pytest.approx(mean, abs=2e-4)
        assert result.label == label_of(result.score, model.thresholds)


def test_words_beyond_the_limit_are_not_seen_by_the_network(model: EnsembleSentiment) -> None:
    long = "the parcel came on monday " * 40
    assert (model.embed(long) == model.embed(long + "and I hated it")).all()


def test_disagreement_lowers_confidence(model: EnsembleSentiment) -> None:
    agreed = model._confidence({"minilm": 0.8, "vader": 0.8, "textblob": 0.8}, 0.8)
    split = model._confidence({"minilm": 0.8, "vader": -0.8, "textblob": 0.0}, 0.8)
    assert split < agreed


def test_shares_are_a_mean_and_thresholds_enclose_zero(model: EnsembleSentiment) -> None:
    assert sum(model.shares.values()) == pytest.approx(1.0)
    assert min(model.shares.values()) > 0
    assert -1 < model.thresholds[0] < 0 < model.thresholds[1] < 1


def test_missing_weights_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CalltideError, match=r"minilm\.onnx is missing; make the directory again"):
        EnsembleSentiment(tmp_path)


@pytest.mark.parametrize("name", [ENCODER_FILE, TOKENIZER_FILE, HEAD_FILE])
def test_weights_are_those_of_the_manifest(name: str) -> None:
    content = (WEIGHTS / name).read_bytes()
    [entry] = [e for e in json.loads((WEIGHTS / "MANIFEST.json").read_text("utf-8")) if e["file"] == name]
    assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert entry["licence"] and entry["made_by"] == "training/train_sentiment.py"


def test_no_corpus_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """TextBlob's other analysers need NLTK corpora that must be downloaded; the one used here must not ask for any."""
    import nltk

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an NLTK corpus was asked for")

    monkeypatch.setattr(nltk.data, "find", refuse)
    monkeypatch.setattr(nltk, "download", refuse)
    assert sentiment.EnsembleSentiment().score(["This is a lovely day, isn't it?"])[0].members["textblob"] > 0


@pytest.mark.skipif(not (DATA / "goemotions-dev.tsv").exists(), reason="no ../shared/data/text (CALLTIDE_TEST_DATA)")
def test_floor_on_comments_it_was_not_trained_on(model: EnsembleSentiment) -> None:
    """The odd rows of the dev file: the part that neither training nor the choice of thresholds has seen."""
    rows = [line.split("\t") for line in (DATA / "goemotions-dev.tsv").read_text("utf-8").splitlines()[1::2]]
    rows = [row for row in rows if row[1] in ("1", "2", "3")][:400]
    results = model.score([text for text, _, _ in rows])
    scores = []
    for index, name in enumerate(SENTIMENTS, start=1):
        truth, guess = [row[1] == str(index) for row in rows], [r.label == name for r in results]
        hits = sum(t and g for t, g in zip(truth, guess, strict=True))
        scores.append(2 * hits / (sum(truth) + sum(guess)))
    assert sum(scores) / 3 >= 0.69, scores  # 0.738 on the whole part
