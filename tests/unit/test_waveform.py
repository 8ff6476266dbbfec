"""The outline of a call's sound."""

import io
from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import numpy as np
import pytest

from streams.api.audio import HEADER, PIECE, Wav
from streams.api.waveform import outline


class Recording:
    """A WAV in memory, read in pieces that end anywhere."""

    rate = 8_000

    def __init__(self, samples: np.ndarray, piece: int = 1_001) -> None:
        self.channels = samples.shape[1]
        self._bytes = samples.astype("<i2").tobytes()
        self.size = HEADER + len(self._bytes)
        self._piece = piece

    def read(self, first: int, behind: int) -> Iterator[bytes]:
        data = io.BytesIO(self._bytes[first - HEADER : behind - HEADER])
        while piece := data.read(self._piece):
            yield piece


@pytest.mark.parametrize("piece", [1, 3, 1_001, PIECE])
def test_each_stretch_has_its_loudest_sample_however_the_pieces_fall(piece: int) -> None:
    random = np.random.default_rng(1)
    samples = random.integers(-32_768, 32_767, (997, 2))
    found = outline(cast(Wav, Recording(samples, piece)), 10)
    edges = np.linspace(0, 997, 11).astype(int)
    for channel in (0, 1):
        wanted = [
            round(float(np.abs(samples[first:last, channel]).max()) / 32_768, 4) for first, last in pairwise(edges)
        ]
        assert found["channels"][channel] == wanted
    assert found["duration_ms"] == round(997 / 8)


def test_a_recording_shorter_than_the_picture_or_empty_has_fewer_points() -> None:
    assert outline(cast(Wav, Recording(np.full((3, 1), 16_384))), 1_000)["channels"] == [[0.5, 0.5, 0.5]]
    assert outline(cast(Wav, Recording(np.zeros((0, 2)))), 1_000) == {"duration_ms": 0, "channels": [[0.0], [0.0]]}
