"""SpeechBrain's models through SpeechBrain's own code: wav2vec2 emotion (IEMOCAP) and ECAPA-TDNN speaker embeddings.

A changer must know: a SpeechBrain model is a hyperparams.yaml that names Python classes, and the emotion model brings a
Python file of its own; loading one runs both. So only ids of the hub's `speechbrain/` are taken, and directories, which
the user has put there. From the hub, too, everything is loaded from the fetched directory: the yaml's own
`pretrained_path` points back to the hub and is overridden.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from processors.models.emotion import EMOTIONS, EmotionModel
from processors.models.hub import (
    EMOTION_NAMES,
    RATE,
    Classes,
    chosen_device,
    extra,
    first_line,
    is_directory,
    located,
    long_enough,
    model_id,
    not_loaded,
    same_shape,
)
from processors.models.speaker import SpeakerEmbedder
from schemas.errors import CalltideError

YAML: Final = "hyperparams.yaml"
INTERFACE_FILE: Final = "custom_interface.py"
INTERFACE: Final = "CustomEncoderWav2vec2Classifier"
"""The class in it, by the model card of speechbrain/emotion-recognition-wav2vec2-IEMOCAP."""
BASE: Final = re.compile(r"^wav2vec2_hub:[ \t]*['\"]?([^\s'\"#]+)", re.MULTILINE)
"""Where the emotion model's yaml says on which wav2vec2 it is built: facebook/wav2vec2-base."""
BASE_FOLDER: Final = "wav2vec2-base"


def is_speechbrain(model: str) -> bool:
    """Whether a hub id or directory is SpeechBrain's."""
    if is_directory(model):
        return (Path(model).expanduser() / YAML).is_file()
    return model.startswith("speechbrain/")


def load_emotion(
    model: str, device: str = "auto", batch: int = 1, dtype: str = "auto", meant_as: Mapping[str, str] | None = None
) -> EmotionModel:
    """See `processors.models.hub.load_emotion`."""
    return SpeechBrainEmotion(model, device, batch, dtype, meant_as)


def load_embedder(model: str, device: str = "auto") -> SpeakerEmbedder:
    """ECAPA-TDNN by hub id (speechbrain/spkrec-ecapa-voxceleb) or directory.

    Raises CalltideError when the extra is missing or the model cannot be had.
    """
    return EcapaTdnn(model, device)


class SpeechBrainEmotion:
    """speechbrain/emotion-recognition-wav2vec2-IEMOCAP, or a directory of the same form, in float32.

    It is built on another model, facebook/wav2vec2-base: taken from the directory's folder `wav2vec2-base` or the hub.
    """

    labels = EMOTIONS

    def __init__(
        self, model: str, device: str, batch: int, dtype: str = "auto", meant_as: Mapping[str, str] | None = None
    ) -> None:
        if dtype not in ("auto", "float32"):
            raise CalltideError(
                f"CALLTIDE_EMOTION__DTYPE: SpeechBrain's models run in float32, not {dtype}; leave it auto"
            )
        located("emotion", model, YAML)
        interfaces = extra("emotion", model, "speechbrain.inference.interfaces")
        self._torch = extra("emotion", model, "torch")
        extra("emotion", model, "transformers")
        on = chosen_device("emotion", device)
        folder, revision = _fetched("emotion", model)
        overrides = {"pretrained_path": str(folder), **_base(model, folder)}
        try:
            self._classifier: Any = interfaces.foreign_class(
                source=str(folder),
                pymodule_file=INTERFACE_FILE,
                classname=INTERFACE,
                overrides=overrides,
                overrides_must_match=False,
                run_opts={"device": str(on)},
            )
        except Exception as error:  # SpeechBrain, hyperpyyaml, transformers and torch share no base class
            raise not_loaded("emotion", model, error) from error
        self._batch = batch
        self.id = model_id(model, revision, "float32")
        encoder = self._classifier.hparams.label_encoder
        theirs = [str(encoder.ind2lab[index]) for index in range(len(encoder))]
        self._classes = Classes("emotion", model, theirs, EMOTIONS, EMOTION_NAMES, meant_as)
        self._width = len(theirs)

    def predict(self, audio: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """See EmotionModel.predict. Raises ValueError for an empty utterance."""
        utterances = [long_enough(samples) for samples in audio]
        shares = np.empty((len(utterances), self._width))
        for chosen in same_shape([len(samples) for samples in utterances], self._batch):
            waves = self._torch.from_numpy(np.stack([utterances[i] for i in chosen]))
            # SpeechBrain's pooling adds noise of 1e-5, and not in training alone: let it be the same each time.
            self._torch.manual_seed(0)
            with self._torch.inference_mode():
                shares[chosen] = self._classifier.classify_batch(waves)[0].float().cpu().numpy()
        # Their interface gives probabilities; their logarithms are logits with the same softmax.
        return self._classes.probabilities(np.log(np.maximum(shares, np.finfo(np.float32).tiny)))


class EcapaTdnn:
    """ECAPA-TDNN (Desplanques et al. 2020) by SpeechBrain's EncoderClassifier. Each stretch is computed alone."""

    def __init__(self, model: str, device: str) -> None:
        located("diarization", model, YAML)
        speaker = extra("diarization", model, "speechbrain.inference.classifiers")
        self._torch = extra("diarization", model, "torch")
        on = chosen_device("diarization", device)
        folder, revision = _fetched("diarization", model)
        try:
            self._encoder: Any = speaker.EncoderClassifier.from_hparams(
                source=str(folder),
                overrides={"pretrained_path": str(folder)},
                overrides_must_match=False,
                run_opts={"device": str(on)},
            )
        except Exception as error:  # as above
            raise not_loaded("diarization", model, error) from error
        self.id = model_id(model, revision, "float32")
        self.dim = len(self._encode(np.zeros(RATE, np.float32)))

    def embed(self, audio: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """See SpeakerEmbedder.embed. Raises ValueError for an empty stretch."""
        rows = np.empty((len(audio), self.dim), np.float32)
        for row, samples in zip(rows, audio, strict=True):
            embedding = self._encode(long_enough(samples))
            row[:] = embedding / np.linalg.norm(embedding)
        return rows

    def _encode(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._torch.inference_mode():
            vector: NDArray[np.float32] = (
                self._encoder.encode_batch(self._torch.from_numpy(samples[None])).cpu().numpy()
            )
        return vector.reshape(-1)


def _fetched(stage: str, model: str) -> tuple[Path, str | None]:
    """(directory, revision of the hub) of a model."""
    source = located(stage, model, YAML)
    if is_directory(model):
        return Path(source), None
    if not is_speechbrain(model):
        raise CalltideError(
            f"{stage}: {model} is not of the hub's speechbrain/; a SpeechBrain model runs code of its own, so fetch it "
            f"(`hf download {model} --local-dir DIR`), read that code, and name DIR"
        )
    hub = extra(stage, model, "huggingface_hub")
    try:
        folder = Path(hub.snapshot_download(model, allow_patterns=["*.yaml", "*.py", "*.ckpt", "*.txt", "*.json"]))
    except Exception as error:  # the hub client's errors share no base class
        raise not_loaded(stage, model, error) from error
    return folder, folder.name


def _base(model: str, folder: Path) -> dict[str, str]:
    """What to override in the yaml so that its wav2vec2 is read from a directory."""
    named = BASE.search((folder / YAML).read_text("utf-8"))
    if named is None or is_directory(named[1]):
        return {}
    beside = folder / BASE_FOLDER
    if beside.is_dir():
        return {"wav2vec2_hub": str(beside)}
    hub = extra("emotion", model, "huggingface_hub")
    try:
        patterns = ["config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"]
        return {"wav2vec2_hub": hub.snapshot_download(named[1], allow_patterns=patterns)}
    except Exception as error:  # as above
        raise CalltideError(
            f"emotion: the model {model} is built on {named[1]}, which cannot be fetched ({first_line(error)}); where "
            f"there is internet run `hf download {named[1]} --local-dir {BASE_FOLDER}` and put that into {folder}"
        ) from error
