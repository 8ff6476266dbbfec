"""A stage with a model of the extra `torch`, named by its setting: the same bytes however records fall into batches and
however often the worker dies.
"""

from typing import Any

import pytest

from processors import emotion, sentiment
from schemas.errors import CalltideError
from schemas.events import EmotionScored, Transcript
from tests.unit.stage_records import call, event_of, marks, noise, record, run, utterance

TEXTS = ("thank you so much", "this is the worst service", "well", "my order number is forty two", "thank you so much")


def test_emotion_by_setting(tiny: Any) -> None:
    config = emotion.Config(model=str(tiny.hubert), device="cpu", roles=("all",), acoustics=False)
    info = call()
    records = [record(mark) for mark in marks(info)]
    said = [utterance(Transcript, info, 2_000 * i, 1_000 + 500 * (i % 2)) for i in range(5)]
    records[1:1] = [record(one, noise(one.end_ms - one.start_ms, i)) for i, one in enumerate(said)]
    once, dead, _ = run("emotion", emotion.build(config, "v1"), records)
    assert not dead
    heard = [event_of(written).emotion for written in once if isinstance(event_of(written), EmotionScored)]
    assert [one.model for one in heard] == ["hubert"] * 5
    assert len({tuple(one.probabilities.values()) for one in heard}) == 5
    again, _, _ = run("emotion", emotion.build(config, "v1"), records, (1, 3), crash=True)
    assert [one.value for one in again] == [one.value for one in once]


def test_sentiment_by_setting(tiny: Any) -> None:
    config = sentiment.Config(model=str(tiny.roberta), device="cpu")
    info = call()
    records = [record(mark, in_value=True) for mark in marks(info)]
    said = [utterance(EmotionScored, info, 2_000 * i, text=text) for i, text in enumerate(TEXTS)]
    records[1:1] = [record(one, in_value=True) for one in said]
    once, dead, _ = run("sentiment", sentiment.build(config, "v1"), records)
    assert not dead
    scores = [event_of(written).sentiment for written in once if event_of(written).kind == "score"]
    assert len(scores) == len(TEXTS)
    assert {one.model for one in scores} == {"roberta"}
    assert len({one.score for one in scores}) >= 3
    again, _, _ = run("sentiment", sentiment.build(config, "v1"), records, (1, 3), crash=True)
    assert [one.value for one in again] == [one.value for one in once]


def test_a_class_without_a_name_is_mapped_by_setting(tiny: Any) -> None:
    folder = str(tiny.waves("contemptuous", "wav2vec2", ("neu", "contempt")))
    with pytest.raises(CalltideError, match="CALLTIDE_EMOTION__MEANT_AS="):
        emotion.build(emotion.Config(model=folder), "v1")
    emotion.build(emotion.Config(model=folder, meant_as={"contempt": "anger"}), "v1")
