"""Silero VAD: the probability that a window of 32 ms is speech, for many channels in one model call.

A changer must know: a channel's numbers must be the same bit for bit whichever channels are computed beside it, or the
segments would depend on how records fall into batches. ONNX Runtime does not promise that, so the constructor tries
every batch size that `step` uses; where a CPU's kernels fail, windows are computed one by one.

Weights: silero_vad.onnx of the wheel silero-vad 6.2.3 (MIT), both sample rates in one file.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from processors.models.onnx_session import open_session
from processors.models.packages import packaged_file

Floats = NDArray[np.float32]

WINDOW: Final = {16_000: 512, 8_000: 256}
"""Samples of one window by sample rate: 32 ms. Fixed by the model."""
CONTEXT: Final = {16_000: 64, 8_000: 32}
"""Samples before the window that the model also sees (`OnnxWrapper` in silero_vad/utils_vad.py); zeros at the start."""
STATE: Final = (2, 128)
"""Shape of a channel's LSTM state (hidden, cell); zeros at the start."""

_LARGEST_BATCH: Final = 16
"""Beyond it a window gets hardly cheaper (table below), and every size has to be tried at the start."""


class SileroVad:
    """The model alone; each channel's state and context are kept by the caller.

    CPU milliseconds a window, one thread of 2 CPU cores (AMD EPYC), onnxruntime 1.31.1, 2026-11-21:

    | channels in one call | 1 | 2 | 4 | 8 | 16 | 32 | 64 |
    |---|---|---|---|---|---|---|---|
    | 8 kHz | 0.093 | 0.065 | 0.047 | 0.039 | 0.038 | 0.036 | 0.035 |
    | 16 kHz | 0.117 | 0.090 | 0.073 | 0.064 | 0.062 | 0.059 | 0.057 |

    `python -m benchmarks.vad` prints them. All sizes from 1 to 64 gave the same bits there, so batches need no padding;
    silero_vad_16k_op15.onnx and silero_vad_op18_ifless.onnx of the same wheel cost the same and behave the same.
    """

    def __init__(self, weights: Path | None = None, threads: int = 1) -> None:
        """`weights`: an ONNX file with Silero's inputs; the packaged one by default. Raises CalltideError."""
        file = weights or packaged_file("silero-vad", "silero_vad/data/silero_vad.onnx")
        self.id = weights.stem if weights else f"silero-vad-{version('silero-vad')}"
        self._session = open_session(file, threads)
        self._batch = _LARGEST_BATCH if all(self._rows_are_independent(rate) for rate in WINDOW) else 1

    def step(self, rate: int, windows: Floats, states: Floats, contexts: Floats) -> tuple[Floats, Floats, Floats]:
        """One window of each of n channels, all at `rate` (8000 or 16000 Hz).

        windows: float32 (n, WINDOW[rate]); states: float32 (n, 2, 128); contexts: float32 (n, CONTEXT[rate]). Returns
        (speech probabilities (n,), states, contexts); nothing is changed in place, nor shared with what was passed.
        """
        probabilities = np.empty(len(windows), np.float32)
        new_states = np.empty_like(states)
        for first in range(0, len(windows), self._batch):
            rows = slice(first, first + self._batch)
            probabilities[rows], new_states[rows] = self._run(rate, windows[rows], states[rows], contexts[rows])
        return probabilities, new_states, windows[:, -CONTEXT[rate] :].copy()

    def _run(self, rate: int, windows: Floats, states: Floats, contexts: Floats) -> tuple[Floats, Floats]:
        inputs = {
            "input": np.concatenate((contexts, windows), axis=1),
            "state": np.ascontiguousarray(states.swapaxes(0, 1)),
            "sr": np.array(rate, np.int64),
        }
        output, state = self._session.run(None, inputs)
        return output[:, 0], state.swapaxes(0, 1)

    def _rows_are_independent(self, rate: int) -> bool:
        """Whether every row of every batch size has the bits that it has alone. Takes about 10 ms."""
        numbers = np.random.default_rng(0)
        windows = numbers.normal(0, 0.1, (_LARGEST_BATCH, WINDOW[rate])).astype(np.float32)
        states = numbers.normal(0, 0.5, (_LARGEST_BATCH, *STATE)).astype(np.float32)
        contexts = numbers.normal(0, 0.1, (_LARGEST_BATCH, CONTEXT[rate])).astype(np.float32)
        alone = [
            self._run(rate, windows[i : i + 1], states[i : i + 1], contexts[i : i + 1]) for i in range(len(windows))
        ]
        for size in range(2, _LARGEST_BATCH + 1):
            probabilities, new_states = self._run(rate, windows[:size], states[:size], contexts[:size])
            for row, (probability, state) in enumerate(alone[:size]):
                if probabilities[row] != probability[0] or not np.array_equal(new_states[row], state[0]):
                    return False
        return True
