"""Other recognisers by the package onnx-asr: Parakeet, Canary, FastConformer, Zipformer (Vosk), GigaAM and their like.

A changer must know: stretches are recognised one at a time, since padded batches change the last bits. These models
have no notion of silence: only texts without words and loops are rejected, so trust the VAD more than with Whisper.
"""

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from processors.models.whisper import RATE, Recognition, Word, rejection
from schemas.errors import CalltideError

if TYPE_CHECKING:
    from onnx_asr.asr import TimestampedResult

_SHORTEST_S: Final = 0.2
"""Shorter audio is filled up with silence: encoders that take every eighth frame need some to begin with."""
_UNTOLD: Final = math.log(0.5)
"""Log probability of what a model does not say how sure it is of."""
_UNDETERMINED: Final = "und"
"""ISO 639-2's code for a language that was not found out."""


class OnnxAsr:
    """A model that onnx-asr knows, behind `processors.models.whisper.AsrModel`. It takes no contexts."""

    def __init__(
        self,
        model: str,
        threads: int = 1,
        language: str | None = None,
        device: Literal["cpu", "cuda", "auto"] = "cpu",
    ) -> None:
        """`model`: a name or hub id that onnx-asr knows and fetches (nemo-parakeet-tdt-0.6b-v3), or a directory that
        has its files and a config.json with their model_type. `language`: put into every transcript, and into models
        that ask for it (Canary, Whisper); None: undetermined.

        Raises CalltideError when the package, the model or the device cannot be had.
        """
        try:
            import onnx_asr
        except ImportError as error:
            raise CalltideError(
                "the ASR engine onnx-asr is not installed; run `.venv/bin/pip install -e '.[onnx-asr]'`"
            ) from error
        has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if device == "cuda" and not has_cuda:
            raise CalltideError(
                "this ONNX Runtime has no CUDA; install onnxruntime-gpu in place of onnxruntime, "
                "or set CALLTIDE_ASR__DEVICE=cpu"
            )
        cuda = has_cuda and device != "cpu"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        local = Path(model).is_dir()
        # A directory's config.json says what kind of model it holds.
        which: Any = (None, model) if local else (model,)
        try:
            found = onnx_asr.load_model(
                *which,
                sess_options=options,
                providers=["CUDAExecutionProvider", "CPUExecutionProvider"] if cuda else ["CPUExecutionProvider"],
            )
        except Exception as error:  # onnx-asr's, the hub's and onnxruntime's exceptions share no base class
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CalltideError(
                f"the ASR model {model} cannot be loaded by onnx-asr ({reason}); "
                "name one of its models or a hub id (needs internet and huggingface_hub the first time), "
                "or a directory with its ONNX files, vocab.txt and config.json"
            ) from error
        self._model = found.with_timestamps()
        self._language = language
        name = Path(model).name if local else model
        self.id = f"onnx-asr-{version('onnx-asr')}-{name}" + (f"-{language}" if language else "")

    def transcribe(self, audio: Sequence[NDArray[np.float32]], contexts: Sequence[str] = ()) -> list[Recognition]:
        """As `AsrModel.transcribe`. Raises CalltideError when there are contexts: such a model takes none."""
        if any(contexts):
            raise CalltideError("the ASR engine onnx-asr takes no hotwords and no prompt; unset them, or take whisper")
        return [self._one(samples) for samples in audio]

    def _one(self, samples: NDArray[np.float32]) -> Recognition:
        missing = round(_SHORTEST_S * RATE) - len(samples)
        heard = np.pad(samples, (0, missing)) if missing > 0 else samples
        result = self._model.recognize(heard, sample_rate=RATE, language=self._language)
        text = result.text.strip()
        language = self._language or _UNDETERMINED
        log_probabilities = result.logprobs or []
        mean = sum(log_probabilities) / len(log_probabilities) if log_probabilities else _UNTOLD
        if rejected := rejection(text, mean, 0.0):
            return Recognition("", (), language, 0.0, 0.0, rejected)
        words = _words(result, len(samples) / RATE)
        return Recognition(text, words, language, round(math.exp(mean), 4), 0.0, None)


def _words(result: "TimestampedResult", seconds: float) -> tuple[Word, ...]:
    """Tokens put together: one that begins with a space begins a word. None where the model tells no times.

    A token's time is when it was emitted; so a word ends where the next begins.
    """
    if not result.tokens or not result.timestamps:
        return ()
    log_probabilities = result.logprobs or [_UNTOLD] * len(result.tokens)
    words: list[tuple[str, float, list[float]]] = []
    for token, start_s, log_probability in zip(result.tokens, result.timestamps, log_probabilities, strict=True):
        if words and not token.startswith(" "):
            text, first_s, before = words[-1]
            words[-1] = (text + token, first_s, [*before, log_probability])
        else:
            words.append((token.strip(), start_s, [log_probability]))
    ends = [start_s for _, start_s, _ in words[1:]] + [seconds]
    return tuple(
        Word(text, round(start_s, 3), round(max(start_s, end_s), 3), round(math.exp(sum(parts) / len(parts)), 4))
        for (text, start_s, parts), end_s in zip(words, ends, strict=True)
        if text
    )
