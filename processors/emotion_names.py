"""Finer names for what six probabilities say: granular emotions and, for pairs, complex ones.

A changer must know: this is a naming convention, not a measurement. Nothing here has heard the voice; a name follows
from the six numbers alone, and no figure of docs/emotion.md speaks of it. The thresholds are the convention's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from schemas.events import EmotionLabel, GranularEmotion

DOMINANT: Final = (0.3, 0.7)
"""Between these, both included, the dominant emotion is there but not pronounced: it gets secondary names, too."""
SECONDARY_SHARE: Final = 0.7
"""A secondary name has this share of its emotion's probability as its confidence."""
COMPLEX: Final = 0.3
"""The mean of the two strongest must exceed it for the two to be named together."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names under one of the six emotions, and the probability from which on they are given."""

    primary: tuple[str, ...]
    secondary: tuple[str, ...]
    threshold: float = 0.3


GRANULAR: Final[Mapping[EmotionLabel, Names]] = {
    "neutral": Names(("calm", "attentiveness"), ("reserve", "indifference"), threshold=0.4),
    "happiness": Names(("joy", "enthusiasm"), ("satisfaction", "amusement")),
    "sadness": Names(("sorrow", "disappointment"), ("discouragement", "regret")),
    "anger": Names(("outrage", "frustration"), ("irritation", "impatience")),
    "fear": Names(("alarm", "anxiety"), ("worry", "nervousness")),
    "surprise": Names(("astonishment", "disbelief"), ("confusion", "curiosity")),
}
"""All names; in the order of the six classes, which also decides between equal probabilities."""

PAIRS: Final[Mapping[frozenset[EmotionLabel], str]] = {
    frozenset({"happiness", "surprise"}): "elation",
    frozenset({"sadness", "anger"}): "bitterness",
    frozenset({"fear", "sadness"}): "desperation",
    frozenset({"happiness", "neutral"}): "contentment",
    frozenset({"anger", "fear"}): "panic",
    frozenset({"sadness", "neutral"}): "resignation",
}


def strongest_first(probabilities: Mapping[EmotionLabel, float]) -> list[EmotionLabel]:
    """The emotions, the likeliest first; equal ones in the order of `GRANULAR`."""
    return sorted(GRANULAR, key=lambda label: -probabilities.get(label, 0.0))


def granular(probabilities: Mapping[EmotionLabel, float]) -> tuple[GranularEmotion, ...]:
    """The finer names for `probabilities` (an absent class counts 0), the likeliest emotion's first.

    Every emotion that reaches its threshold gives its primary names with its probability as confidence; the dominant
    one, where it lies within `DOMINANT`, its secondary names besides, with `SECONDARY_SHARE` of it.
    """
    ranked = strongest_first(probabilities)
    found = []
    for label in ranked:
        names, share = GRANULAR[label], probabilities.get(label, 0.0)
        if share < names.threshold:
            continue
        found += [GranularEmotion(name=name, base=label, confidence=share) for name in names.primary]
        if label == ranked[0] and DOMINANT[0] <= share <= DOMINANT[1]:
            lesser = round(share * SECONDARY_SHARE, 4)
            found += [GranularEmotion(name=name, base=label, confidence=lesser) for name in names.secondary]
    return tuple(found)


def complex_emotion(probabilities: Mapping[EmotionLabel, float]) -> str | None:
    """The name of the two strongest together; None: they have none, or their mean does not exceed `COMPLEX`."""
    first, second = strongest_first(probabilities)[:2]
    mean = (probabilities.get(first, 0.0) + probabilities.get(second, 0.0)) / 2
    return PAIRS.get(frozenset({first, second})) if mean > COMPLEX else None
