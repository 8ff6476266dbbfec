"""Speaker embeddings: a stretch of speech as a unit vector, near to others of the same voice.

A changer must know: the features (kaldi fbank, mean removed over the stretch) are those the weights were trained with,
and dither must stay 0, or results are random.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import kaldi_native_fbank
import numpy as np
from numpy.typing import NDArray

from processors.models.onnx_session import WEIGHTS, open_session

RATE: Final = 16_000


class SpeakerEmbedder(Protocol):
    """A speaker embedding. Cosine of two embeddings = their dot product."""

    id: str
    dim: int

    def embed(self, audio: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Mono 16 kHz stretches, float32 (samples,) in [-1, 1], as float32 (n, dim), each row of length 1."""
        ...


class CamPlusPlus:
    """CAM++ (Wang et al. 2023) of 3D-Speaker, trained on Chinese and English speakers; 192 dimensions.

    Each stretch is computed alone: its embedding does not depend on its neighbours. How far to trust one depends on its
    length: equal error rate in wide band / over G.711 from 3 s on 0 / 0 %, 2 s 0 / 3 %, 1 s 8 / 13 %, 0.5 s 24 / 26 %,
    at a cosine of 0.39 / 0.57 from 3 s on and of less below (44 LibriSpeech utterances of 5 speakers, cut to a length;
    `python -m training.evaluate_speaker`; 2026-11-21).
    """

    id = "campplus-zh-en-common-advanced"
    dim = 192

    SHORTEST_S: Final = 0.1
    """Shorter stretches are repeated up to it: the net needs three frames. Repeating longer ones did not help."""
    LONGEST_S: Final = 6.0
    """Of longer stretches the middle is taken: it bounds the cost (100 ms), and errors do not grow."""

    def __init__(self, weights: Path | None = None, threads: int = 1) -> None:
        """Raises CalltideError when the weights are missing or broken."""
        self._session = open_session(weights or WEIGHTS / "campplus.onnx", threads)
        self._options = kaldi_native_fbank.FbankOptions()
        self._options.frame_opts.samp_freq = RATE
        self._options.frame_opts.dither = 0.0
        self._options.mel_opts.num_bins = 80

    def embed(self, audio: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """See SpeakerEmbedder.embed. Raises ValueError for an empty stretch."""
        rows = np.empty((len(audio), self.dim), np.float32)
        for row, samples in zip(rows, audio, strict=True):
            embedding = self._session.run(None, {"fbank": self._features(samples)[None]})[0][0]
            row[:] = embedding / np.linalg.norm(embedding)
        return rows

    def _features(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log mel energies less their mean over time, float32 (frames of 10 ms, 80)."""
        if not len(samples):
            raise ValueError("an empty stretch of audio has no speaker")
        shortest, longest = int(self.SHORTEST_S * RATE), int(self.LONGEST_S * RATE)
        if len(samples) < shortest:
            samples = np.resize(samples, shortest)
        start = max(0, (len(samples) - longest) // 2)
        computer = kaldi_native_fbank.OnlineFbank(self._options)
        computer.accept_waveform(RATE, samples[start : start + longest])
        computer.input_finished()
        frames: NDArray[np.float32] = np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])
        frames -= frames.mean(0)
        return frames
