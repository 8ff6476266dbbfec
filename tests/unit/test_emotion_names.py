"""The tables of names: their size, their thresholds, and what holds for every six probabilities."""

from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from processors.emotion_names import GRANULAR, PAIRS, complex_emotion, granular, strongest_first
from schemas.events import EmotionLabel

LABELS: tuple[EmotionLabel, ...] = get_args(EmotionLabel)
Shares = dict[EmotionLabel, float]


def shares_of(weights: list[int]) -> Shares:
    total = sum(weights) or 1
    return {label: round(weight / total, 4) for label, weight in zip(LABELS, weights, strict=True)}


SHARES = st.lists(st.integers(0, 100), min_size=6, max_size=6).map(shares_of)


def names_of(shares: Shares) -> dict[str, float]:
    return {found.name: found.confidence for found in granular(shares)}


def test_at_least_twenty_names_each_given_once() -> None:
    names = [name for row in GRANULAR.values() for name in (*row.primary, *row.secondary)]
    assert len(names) >= 20
    assert len(set(names) | set(PAIRS.values())) == len(names) + len(PAIRS)
    assert tuple(GRANULAR) == LABELS
    assert all(row.primary and row.secondary for row in GRANULAR.values())


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("happiness", "surprise", "elation"),
        ("sadness", "anger", "bitterness"),
        ("fear", "sadness", "desperation"),
        ("happiness", "neutral", "contentment"),
        ("anger", "fear", "panic"),
        ("sadness", "neutral", "resignation"),
        ("anger", "surprise", None),
        ("neutral", "anger", None),
    ],
)
def test_pairs_in_either_order(first: EmotionLabel, second: EmotionLabel, name: str | None) -> None:
    assert complex_emotion({first: 0.5, second: 0.2}) == name
    assert complex_emotion({second: 0.5, first: 0.2}) == name
    assert complex_emotion({first: 0.35, second: 0.25}) is None, "a mean of 0.3 does not exceed 0.3"


def test_thresholds() -> None:
    assert not granular({"anger": 0.29, "neutral": 0.39, "fear": 0.2, "surprise": 0.12})
    assert names_of({"anger": 0.3, "neutral": 0.39}) == {"outrage": 0.3, "frustration": 0.3}, "not dominant"
    assert names_of({"neutral": 0.4, "anger": 0.31}) == {
        "calm": 0.4,
        "attentiveness": 0.4,
        "reserve": 0.28,
        "indifference": 0.28,
        "outrage": 0.31,
        "frustration": 0.31,
    }
    assert names_of({"fear": 0.7}) == {"alarm": 0.7, "anxiety": 0.7, "worry": 0.49, "nervousness": 0.49}
    assert names_of({"fear": 0.71}) == {"alarm": 0.71, "anxiety": 0.71}


@given(SHARES)
@example({"neutral": 0.5, "happiness": 0.5})
@example({"surprise": 0.4, "anger": 0.4, "fear": 0.2})
def test_what_holds_for_all_probabilities(shares: Shares) -> None:
    shares = {label: shares.get(label, 0.0) for label in LABELS}
    found = granular(shares)
    top = strongest_first(shares)[0]
    assert shares[top] == max(shares.values())
    for label, row in GRANULAR.items():
        given_names = {item.name: item.confidence for item in found if item.base == label}
        primary = dict.fromkeys(row.primary, shares[label])
        secondary = {name: round(0.7 * shares[label], 4) for name in row.secondary}
        if shares[label] < (0.4 if label == "neutral" else 0.3):
            assert not given_names
        elif label == top and 0.3 <= shares[label] <= 0.7:
            assert given_names == primary | secondary
        else:
            assert given_names == primary
    assert [item.base for item in found] == sorted([item.base for item in found], key=strongest_first(shares).index)
    assert len({item.name for item in found}) == len(found)


@given(SHARES)
def test_a_pair_is_named_exactly_when_it_is_one_and_strong_enough(shares: Shares) -> None:
    first, second = strongest_first(shares)[:2]
    named = complex_emotion(shares)
    assert (named is not None) == (frozenset({first, second}) in PAIRS and (shares[first] + shares[second]) / 2 > 0.3)
    # Neither the order in which they are given nor an absent class that counts 0 changes anything.
    other = {label: share for label, share in reversed(shares.items()) if share}
    assert complex_emotion(other) == named
    assert granular(other) == granular(shares)
