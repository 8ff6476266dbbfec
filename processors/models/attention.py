"""What the packaged networks attend to: their ONNX files, opened so that they also give what their softmaxes hold.

Attention of all layers is joined by rollout (Abnar & Zuidema 2020): heads averaged, half of each layer's output taken
as its input (the residual), layers multiplied. It says what was mixed into what on the way, not what decided.

A changer must know: in these files every Softmax is an attention, of shape (1, heads, positions, positions); a session
made here is a second copy of the network in memory, so it is made for explanations only.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from processors.models.emotion import WhisperEncoder
from processors.models.onnx_session import WEIGHTS
from processors.models.sentiment import ENCODER_FILE, MAX_TOKENS, TOKENIZER_FILE, straight

Rollout = NDArray[np.float64]
"""(positions, positions): the shares, of sum 1 a row, that the positions of the input have in each of the output."""


class _Network:
    def __init__(self, path: Path) -> None:
        model = onnx.load(str(path))
        self._names = [node.output[0] for node in model.graph.node if node.op_type == "Softmax"]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def rollout(self, name: str, value: NDArray[np.generic]) -> Rollout:
        joined: Rollout | None = None
        for layer in self._session.run(self._names, {name: value}):
            mixed = (layer[0].astype(np.float64).mean(0) + np.eye(layer.shape[-1])) / 2
            joined = mixed if joined is None else mixed @ joined
        if joined is None:
            raise ValueError("the network has no attention")
        return joined


class VoiceAttention:
    """Of the encoder under the packaged voice model and those of `calltide train emotion`."""

    def __init__(self) -> None:
        self._network = _Network(WEIGHTS / "whisper-tiny-encoder.onnx")

    def positions(self, samples: NDArray[np.float32]) -> Rollout:
        """Between positions of 20 ms of mono 16 kHz audio, float32 (n,), of no more than WhisperEncoder.LONGEST_S."""
        return self._network.rollout("audio", WhisperEncoder.prepared(samples)[None])


class TextAttention:
    """Of the encoder in a directory of the text model: the packaged one, or one of `calltide train sentiment`."""

    def __init__(self, folder: Path = WEIGHTS) -> None:
        self._network = _Network(folder / ENCODER_FILE)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def tokens(self, text: str) -> tuple[Rollout, list[int | None]]:
        """(attention between tokens, where in the text each begins; None: a token that is not of the text)."""
        coded = self._tokenizer.encode(straight(text))
        starts = [
            None if special else begin
            for special, (begin, _) in zip(coded.special_tokens_mask, coded.offsets, strict=True)
        ]
        return self._network.rollout("ids", np.array([coded.ids], np.int64)), starts
