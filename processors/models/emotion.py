"""Emotion of an utterance from the voice alone: six probabilities.

A changer must know: level, length and encoder are part of the trained model. `training/train_emotion.py` and
`calltide train emotion` take their features from `WhisperEncoder`, so a change there asks for a new training and new
figures in docs/emotion.md, and makes users' own heads worthless.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from processors.models.onnx_session import WEIGHTS, open_session
from schemas.errors import CalltideError

RATE: Final = 16_000
EMOTIONS: Final = ("neutral", "happiness", "sadness", "anger", "fear", "surprise")
MEANT_AS: Final[Mapping[str, str]] = {"calm": "neutral", "boredom": "neutral", "disgust": "left_out"}
"""Judgement: calm and boredom are even voices, neutral to a call centre; disgust is like none of the six."""
HEAD: Final = "emotion.onnx"
"""The file of a trained head in its directory."""


class EmotionModel(Protocol):
    """A model of the emotion that is heard in a voice."""

    id: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The six classes, in the order of the columns; one that the model does not know has probability 0."""
        ...

    def predict(self, audio: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Mono 16 kHz utterances, float32 (samples,) in [-1, 1], as float32 (n, 6): probabilities of the `labels`."""
        ...


class WhisperEncoder:
    """The encoder of whisper-tiny.en, giving the states of all its layers, on audio of one level and bounded length."""

    SHORTEST_S: Final = 0.5
    """Shorter utterances are repeated up to it (judgement: under half a second there is little to hear)."""
    LONGEST_S: Final = 6.0
    """Of longer utterances the middle is taken; it bounds the cost at about 60 ms."""
    LEVEL: Final = 0.05
    """Root mean square that every utterance is brought to (-26 dBFS): a line's gain says nothing of its speaker."""
    FLOOR: Final = 1e-4
    """What is softer (-80 dBFS) is silence and is not raised any further."""

    def __init__(self, threads: int = 1) -> None:
        self._session = open_session(WEIGHTS / "whisper-tiny-encoder.onnx", threads)

    def states(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 (6 layers, positions of 20 ms, 384) of one utterance. Raises ValueError when it is empty."""
        states: NDArray[np.float32] = self._session.run(None, {"audio": self.prepared(samples)[None]})[0]
        return states

    @classmethod
    def prepared(cls, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network hears of them: bounded and levelled. Raises ValueError when there are none."""
        if not len(samples):
            raise ValueError("an empty utterance has no emotion")
        shortest, longest = int(cls.SHORTEST_S * RATE), int(cls.LONGEST_S * RATE)
        if len(samples) < shortest:
            samples = np.resize(samples, shortest)
        start = max(0, (len(samples) - longest) // 2)
        samples = samples[start : start + longest]
        level = float(np.sqrt(np.mean(np.square(samples))))
        return samples * np.float32(cls.LEVEL / max(level, cls.FLOOR))


class WhisperStatsEmotion:
    """A small trained head on the mean and spread over time of whisper-tiny.en's encoder states.

    Probabilities are calibrated for six equally frequent emotions of acted speech: docs/emotion.md has the figures and
    says where they do not carry over. Each utterance is computed alone, so that its result does not depend on its
    neighbours.
    """

    labels = EMOTIONS

    def __init__(self, head: Path | None = None, meant_as: Mapping[str, str] | None = None, threads: int = 1) -> None:
        """`head`: another one, of `training/train_emotion.py` or `calltide train emotion`; `meant_as`: see `onto_six`.

        Raises CalltideError when it does not fit.
        """
        path = head or WEIGHTS / HEAD
        self._encoder = WhisperEncoder(threads)
        self._head = open_session(path, threads)
        facts = self._head.get_modelmeta().custom_metadata_map
        classes = json.loads(facts.get("labels", "[]"))
        if not classes or "id" not in facts:
            raise CalltideError(f"{path} is no emotion head; train one (docs/emotion.md)")
        self._onto_six = onto_six(classes, meant_as or {})
        self.id = facts["id"]

    def predict(self, audio: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """See EmotionModel.predict. Raises ValueError for an empty utterance."""
        rows = np.empty((len(audio), len(EMOTIONS)), np.float32)
        for row, samples in zip(rows, audio, strict=True):
            six = self._head.run(None, {"states": self._encoder.states(samples)})[0][0] @ self._onto_six
            row[:] = six / max(six.sum(), np.float32(1e-6))
        return rows


def onto_six(classes: Sequence[str], meant_as: Mapping[str, str]) -> NDArray[np.float32]:
    """The (classes, 6) matrix of 0 and 1 that adds a model's probabilities up to those of `EMOTIONS`.

    A class that is none of them counts as what `meant_as`, or else `MEANT_AS`, says; as nothing when that is
    `left_out`, and then the rest must be brought to a sum of 1. Raises CalltideError for a class that neither knows.
    """
    known = {**{name: name for name in EMOTIONS}, **MEANT_AS, **meant_as}
    matrix = np.zeros((len(classes), len(EMOTIONS)), np.float32)
    for row, name in zip(matrix, classes, strict=True):
        meant = known.get(name)
        if meant is None:
            raise CalltideError(f"the model has a class {name}; say in emotion.meant_as which of the six it counts as")
        if meant != "left_out":
            row[EMOTIONS.index(meant)] = 1
    return matrix


def head_in(directory: str) -> Path | None:
    """The head in a directory made by `calltide train emotion`; None when there is none."""
    path = Path(directory).expanduser() / HEAD
    return path if path.is_file() else None
