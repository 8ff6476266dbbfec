"""What a model's classes mean. Needs no torch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.models.emotion import EMOTIONS
from processors.models.hub import EMOTION_NAMES, SENTIMENT_NAMES, Classes, same_shape
from processors.models.sentiment import SENTIMENTS
from schemas.errors import CalltideError


def emotions(*theirs: str, **given: str) -> Classes:
    return Classes("emotion", "owner/model", theirs, EMOTIONS, EMOTION_NAMES, given)


def softmax(logits: list[float]) -> list[float]:
    powers = np.exp(np.array(logits) - max(logits))
    return (powers / powers.sum()).tolist()


def test_four_classes_of_iemocap() -> None:
    found = emotions("neu", "hap", "ang", "sad").probabilities(np.array([[1.0, 2.0, 3.0, 4.0]]))
    neutral, happiness, anger, sadness = softmax([1, 2, 3, 4])
    np.testing.assert_allclose(found, [[neutral, happiness, sadness, anger, 0, 0]], rtol=1e-6)


def test_a_class_that_is_left_out_gives_its_share_to_the_others() -> None:
    logits = np.array([[3.0, 50.0, 1.0]])
    found = emotions("angry", "Disgust", "calm").probabilities(logits)
    anger, neutral = softmax([3, 1])
    np.testing.assert_allclose(found, [[neutral, 0, 0, anger, 0, 0]], rtol=1e-6)
    kept = emotions("angry", "Disgust", "calm", Disgust="anger").probabilities(logits)
    np.testing.assert_allclose(kept[0, 3], 1, rtol=1e-6)


def test_several_classes_of_one_meaning_add_up() -> None:
    stars = ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]
    classes = Classes("sentiment", "owner/model", stars, SENTIMENTS, SENTIMENT_NAMES, None)
    one, two, three, four, five = softmax([1, 2, 3, 4, 5])
    found = classes.probabilities(np.array([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    np.testing.assert_allclose(found, [[one + two, three, four + five]], rtol=1e-6)


@given(st.lists(st.lists(st.floats(-500, 500), min_size=5, max_size=5), max_size=4))
def test_shares_are_probabilities_however_large_the_logits(rows: list[list[float]]) -> None:
    classes = emotions("neutral", "happy", "disgust", "fearful", "joy")
    found = classes.probabilities(np.array(rows, np.float64).reshape(-1, 5))
    assert found.shape == (len(rows), 6) and found.dtype == np.float32
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert not found[:, [2, 3, 5]].any()


def test_what_cannot_be_meant() -> None:
    with pytest.raises(CalltideError, match=r"^emotion: it is not known what the classes LABEL_0, LABEL_1 of the"):
        emotions("neu", "LABEL_0", "LABEL_1")
    with pytest.raises(CalltideError, match=r"^CALLTIDE_EMOTION__MEANT_AS: rage is no class; allowed are neutral, "):
        emotions("neu", "ang", ang="rage")
    with pytest.raises(CalltideError, match="fewer than two classes are left; change CALLTIDE_EMOTION__MEANT_AS"):
        emotions("neu", "disgust")


@given(st.lists(st.integers(0, 3)), st.integers(1, 5))
def test_a_batch_is_of_one_shape_and_takes_each_item_once(shapes: list[int], batch: int) -> None:
    batches = list(same_shape(shapes, batch))
    assert sorted(i for one in batches for i in one) == list(range(len(shapes)))
    assert all(len({shapes[i] for i in one}) == 1 and len(one) <= batch for one in batches)
