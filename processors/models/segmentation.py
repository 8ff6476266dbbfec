"""Speaker segmentation: which of up to three voices speaks when within a stretch of speech, and where two do at once.

A changer must know: the voices are numbered anew in every stretch. Voice 0 of one stretch is not voice 0 of the next;
the embedding says who it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from processors.models.onnx_session import WEIGHTS, open_session

_CLASSES: Final = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)], bool)
"""Which voices speak in each of the model's classes."""


class Segmenter(Protocol):
    """Says who speaks when. A stretch's result must not depend on its neighbours, bit for bit."""

    id: str
    step: int
    """Samples between two frames."""
    field: int
    """Samples that a frame sees: frame i sees those from `step * i` on."""

    def voices(self, audio: Sequence[NDArray[np.float32]]) -> list[NDArray[np.bool_]]:
        """Mono 16 kHz stretches of at least `field` samples, float32 (n,) in [-1, 1], as bool (frames, voices)."""
        ...


class PyannoteSegmentation:
    """pyannote segmentation-3.0 (Bredin and Plaquet 2023), trained on stretches of 10 s.

    Each stretch is computed alone: a batched LSTM adds up in another order.
    """

    id = "pyannote-segmentation-3.0"
    step, field = 270, 991

    def __init__(self, weights: Path | None = None, threads: int = 1) -> None:
        """Raises CalltideError when the weights are missing or broken."""
        self._session = open_session(weights or WEIGHTS / "segmentation.onnx", threads)

    def voices(self, audio: Sequence[NDArray[np.float32]]) -> list[NDArray[np.bool_]]:
        """See Segmenter.voices: the likeliest class of each frame. Raises ValueError for too short a stretch."""
        if any(len(samples) < self.field for samples in audio):
            raise ValueError(f"speaker segmentation needs at least {self.field} samples")
        found = []
        for samples in audio:
            classes = self._session.run(None, {"waveform": samples[None, None]})[0][0]
            found.append(_CLASSES[classes.argmax(1)])
        return found
