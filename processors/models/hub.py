"""Emotion and sentiment by any model of Hugging Face's transformers: a hub id, or a directory of `save_pretrained`.

Everything here needs the extra `torch`, which is imported when a model is loaded and not before. A changer must know:
inputs are never padded. Only inputs of one shape share a model call, so a neighbour can at most move the last digits of
a result; with a batch of 1, the default, it cannot even do that. Models without an attention mask (wav2vec2 and HuBERT
of the base size) would give another answer beside a longer neighbour.
"""

import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from processors.models.emotion import EMOTIONS, EmotionModel
from processors.models.sentiment import SENTIMENTS, SentimentModel, TextSentiment, label_of
from schemas.errors import CalltideError

RATE: Final = 16_000
CONFIG: Final = "config.json"
"""The file that makes a directory a model of transformers."""
SHORTEST_S: Final = 0.1
"""Shorter utterances are repeated up to it: the convolutions of wav2vec2 and HuBERT need 25 ms (judgement: more)."""
MAX_TOKENS: Final = 128
"""Most tokens of a text that are read, about 100 spoken words, as in the packaged model."""
THRESHOLDS: Final = (-1 / 3, 1 / 3)
"""Scores between them are neutral: the middle third, by judgement, since a hub model brings no thresholds."""

MAPPED_BY: Final = {
    "emotion": ("CALLTIDE_EMOTION__MEANT_AS", "left_out"),
    "sentiment": ("CALLTIDE_SENTIMENT__LABELS", "none"),
}
"""Stage → the setting that says what a model's classes mean, and its word for a class that is left out: the others then
share its probability."""
LEFT_OUT: Final = ""

EMOTION_NAMES: Final[dict[str, str]] = {
    **{name: name for name in EMOTIONS},
    **dict.fromkeys(("neu", "calm", "boredom", "bored"), "neutral"),
    **dict.fromkeys(("hap", "happy", "joy", "exc", "excited", "excitement"), "happiness"),
    **dict.fromkeys(("sad",), "sadness"),
    **dict.fromkeys(("ang", "angry"), "anger"),
    **dict.fromkeys(("fea", "fearful", "afraid"), "fear"),
    **dict.fromkeys(("sur", "surprised", "pleasant_surprise"), "surprise"),
    # None of the six names fits it; the embedded model leaves it out as well.
    **dict.fromkeys(("dis", "disgust", "disgusted"), LEFT_OUT),
}
"""Class names of published speech-emotion models, in lower case, as ours."""

SENTIMENT_NAMES: Final[dict[str, str]] = {
    **{name: name for name in SENTIMENTS},
    **dict.fromkeys(("neg", "very negative", "1 star", "2 stars"), "negative"),
    **dict.fromkeys(("neu", "3 stars"), "neutral"),
    **dict.fromkeys(("pos", "very positive", "4 stars", "5 stars"), "positive"),
}
"""Class names of published sentiment models, in lower case, as ours. Bare numbers such as LABEL_0 are not among them:
their order differs from model to model."""

NUMBERED: Final[dict[str, dict[str, str]]] = {
    "cardiffnlp/twitter-roberta-base-sentiment": dict(zip(("LABEL_0", "LABEL_1", "LABEL_2"), SENTIMENTS, strict=True)),
}
"""Models whose classes have numbers for names, and whose order is known from their model card."""


def load_emotion(
    model: str, device: str = "auto", batch: int = 1, dtype: str = "auto", meant_as: Mapping[str, str] | None = None
) -> EmotionModel:
    """A speech-emotion model by hub id or directory; of SpeechBrain's when the id begins with `speechbrain/` or the
    directory has a hyperparams.yaml, else of transformers (wav2vec2, HuBERT, WavLM, Whisper and others).

    `device`: auto (a GPU if there is one), cpu, cuda or cuda:N. `dtype`: auto (float16 on a GPU, float32 on a CPU),
    float32, float16 or bfloat16. `batch`: most utterances of one length in a model call. `meant_as`: the model's class
    names as ours or as `left_out`, where EMOTION_NAMES does not know them or is not wanted.

    Raises CalltideError when the extra is missing, the model cannot be had, or a class has no name of ours.
    """
    from processors.models import speechbrain_models

    if speechbrain_models.is_speechbrain(model):
        return speechbrain_models.load_emotion(model, device, batch, dtype, meant_as)
    return HubEmotion(model, device, batch, dtype, meant_as)


def load_sentiment(
    model: str, device: str = "auto", batch: int = 1, dtype: str = "auto", labels: Mapping[str, str] | None = None
) -> SentimentModel:
    """A text-classification model by hub id or directory; arguments and errors as in `load_emotion`, but that `labels`
    says `none` for a class that is left out."""
    return HubSentiment(model, device, batch, dtype, labels)


class HubEmotion:
    """`AutoModelForAudioClassification`: the softmax of its classes by our names. What it does not know has 0."""

    labels = EMOTIONS

    def __init__(
        self, model: str, device: str, batch: int, dtype: str = "auto", meant_as: Mapping[str, str] | None = None
    ) -> None:
        located("emotion", model, CONFIG)
        transformers = extra("emotion", model, "transformers")
        self._net = _Net("emotion", model, transformers.AutoModelForAudioClassification, device, batch, dtype)
        self.id = self._net.id
        self._extractor = _from_pretrained("emotion", model, transformers.AutoFeatureExtractor)
        rate = getattr(self._extractor, "sampling_rate", None)
        if rate != RATE:
            raise CalltideError(f"emotion: the model {model} takes audio at {rate} Hz, not {RATE}; take another one")
        self._classes = Classes("emotion", model, self._net.labels, EMOTIONS, EMOTION_NAMES, meant_as)

    def predict(self, audio: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """See EmotionModel.predict. Raises ValueError for an empty utterance."""
        inputs = [
            dict(self._extractor(long_enough(samples), sampling_rate=RATE, return_tensors="pt")) for samples in audio
        ]
        return self._classes.probabilities(self._net.logits(inputs))


class HubSentiment:
    """`AutoModelForSequenceClassification`: score = P(positive) − P(negative), confidence = P(label), uncalibrated.

    A model without a neutral class is neutral with confidence 1 − |score| where its score lies between THRESHOLDS.
    A text without a letter or digit is neutral with confidence 0.
    """

    thresholds = THRESHOLDS

    def __init__(
        self, model: str, device: str, batch: int, dtype: str = "auto", labels: Mapping[str, str] | None = None
    ) -> None:
        located("sentiment", model, CONFIG)
        transformers = extra("sentiment", model, "transformers")
        self._net = _Net("sentiment", model, transformers.AutoModelForSequenceClassification, device, batch, dtype)
        self.id = self._net.id
        self._tokenizer = _from_pretrained("sentiment", model, transformers.AutoTokenizer)
        given = {**NUMBERED.get(model, {}), **(labels or {})}
        self._classes = Classes("sentiment", model, self._net.labels, SENTIMENTS, SENTIMENT_NAMES, given)

    def score(self, texts: Sequence[str]) -> list[TextSentiment]:
        """See SentimentModel.score."""
        spoken = list(dict.fromkeys(text for text in texts if any(character.isalnum() for character in text)))
        inputs = [
            dict(self._tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")) for text in spoken
        ]
        rows = iter(self._classes.probabilities(self._net.logits(inputs)).tolist())
        said = {text: self._sentiment(next(rows)) for text in spoken}
        nothing = TextSentiment("neutral", 0.0, 0.0, {"hub": 0.0})
        return [said.get(text, nothing) for text in texts]

    def _sentiment(self, row: list[float]) -> TextSentiment:
        shares = dict(zip(SENTIMENTS, row, strict=True))
        score = shares["positive"] - shares["negative"]
        label = label_of(score, self.thresholds)
        confidence = shares[label] if label in self._classes.known else 1 - abs(score)
        return TextSentiment(label, round(score, 4), round(confidence, 4), {"hub": round(score, 4)})


class Classes:
    """A model's classes as ours: several may mean one of ours, and some may be left out."""

    def __init__(
        self,
        stage: str,
        model: str,
        theirs: Sequence[str],
        names: Sequence[str],
        known: Mapping[str, str],
        given: Mapping[str, str] | None,
    ) -> None:
        """`theirs`: the model's class names by column. `names`: ours. Raises CalltideError as `load_emotion` does."""
        setting, left_out = MAPPED_BY[stage]
        allowed = f"{', '.join(names)} or {left_out}"
        says = {label: LEFT_OUT if name == left_out else name for label, name in (given or {}).items()}
        if wrong := sorted(set(says.values()) - {*names, LEFT_OUT}):
            raise CalltideError(f"{setting}: {', '.join(wrong)} is no class; allowed are {allowed}")
        meant = [says.get(label, known.get(label.strip().lower())) for label in theirs]
        if unknown := [label for label, name in zip(theirs, meant, strict=True) if name is None]:
            example = json.dumps(dict.fromkeys(unknown, names[0]))
            raise CalltideError(
                f"{stage}: it is not known what the classes {', '.join(unknown)} of the model {model} mean; say of "
                f"each whether it is {allowed}, as in {setting}='{example}'"
            )
        self._columns = {
            ours: [column for column, theirs_means in enumerate(meant) if theirs_means == name]
            for ours, name in enumerate(names)
            if name in meant
        }
        self.known = frozenset(names[ours] for ours in self._columns)
        self._width = len(names)
        if len(self.known) < 2:
            raise CalltideError(f"{stage}: of the model {model} fewer than two classes are left; change {setting}")

    def probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float32]:
        """(n, their classes) as float32 (n, ours): the softmax over the classes that are not left out, summed by name;
        0 for what the model does not know."""
        kept = [column for columns in self._columns.values() for column in columns]
        powers = np.exp(logits - logits[:, kept].max(1, keepdims=True))
        shares = np.zeros((len(logits), self._width))
        for ours, columns in self._columns.items():
            shares[:, ours] = powers[:, columns].sum(1)
        result: NDArray[np.float32] = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
        return result


class _Net:
    """A classifier of transformers on its device."""

    def __init__(self, stage: str, model: str, auto_class: Any, device: str, batch: int, dtype: str) -> None:
        torch = extra(stage, model, "torch")
        self._device = chosen_device(stage, device)
        if dtype == "auto":
            dtype = "float16" if self._device.type == "cuda" else "float32"
        self._dtype = getattr(torch, dtype)
        self._batch = batch
        self._inference_mode = torch.inference_mode
        self._cat = torch.cat
        net, report = _from_pretrained(stage, model, auto_class, dtype=self._dtype, output_loading_info=True)
        if missing := sorted(report["missing_keys"]):
            raise CalltideError(
                f"{stage}: the model {model} has no trained weights for {', '.join(missing[:3])}: it is no finished "
                "classifier for this version of transformers; take one that was trained for the task"
            )
        if net.config.problem_type in ("regression", "multi_label_classification"):
            raise CalltideError(
                f"{stage}: the model {model} does {net.config.problem_type}; take one of single classes"
            )
        self._net = net.eval().to(self._device)
        self.labels = [str(net.config.id2label[column]) for column in range(net.config.num_labels)]
        self.id = model_id(model, getattr(net.config, "_commit_hash", None), dtype)

    def logits(self, inputs: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """`inputs`: for each item its tensors with a first axis of 1. Float64 (n, classes)."""
        rows = np.empty((len(inputs), len(self.labels)))
        shapes = [tuple((name, tuple(tensor.shape)) for name, tensor in one.items()) for one in inputs]
        for chosen in same_shape(shapes, self._batch):
            joined = {name: self._cat([inputs[i][name] for i in chosen]).to(self._device) for name in inputs[chosen[0]]}
            joined = {
                name: tensor.to(self._dtype) if tensor.is_floating_point() else tensor
                for name, tensor in joined.items()
            }
            with self._inference_mode():
                rows[chosen] = self._net(**joined).logits.float().cpu().numpy()
        return rows


def same_shape(shapes: Sequence[Any], batch: int) -> Iterator[list[int]]:
    """Indices of items of equal shape, at most `batch` together, every index once."""
    groups: dict[Any, list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(index)
    for group in groups.values():
        for first in range(0, len(group), batch):
            yield group[first : first + batch]


def long_enough(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """At least SHORTEST_S of audio. Raises ValueError when there is none."""
    if not len(samples):
        raise ValueError("an empty utterance has no emotion and no speaker")
    shortest = int(SHORTEST_S * RATE)
    return samples if len(samples) >= shortest else np.resize(samples, shortest)


def extra(stage: str, model: str, name: str) -> Any:
    """The module `name` of the extra `torch`. Raises CalltideError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CalltideError(
            f"{stage}: the model {model} needs {error.name or name}, which is not installed; run "
            "`.venv/bin/pip install -e '.[torch]'`"
        ) from error
    except (RuntimeError, OSError) as error:  # a torch and a torchaudio that do not fit each other
        raise CalltideError(
            f"{stage}: {name} cannot be imported ({first_line(error)}); run `.venv/bin/pip install -e '.[torch]'` "
            "to get versions that fit each other"
        ) from error


def chosen_device(stage: str, device: str) -> Any:
    """The torch.device for auto, cpu, cuda or cuda:N. Raises CalltideError when it is not there."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    setting = f"CALLTIDE_{stage.upper()}__DEVICE"
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise CalltideError(f"{setting}: {device} is no device; allowed are auto, cpu, cuda and cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise CalltideError(
            f"{setting} is {device}, but PyTorch {torch.__version__} sees {torch.cuda.device_count()} GPUs; check "
            f"`nvidia-smi`, or set {setting}=cpu"
        )
    return chosen


def model_id(model: str, revision: str | None, dtype: str) -> str:
    """What goes into every record: the hub id with its revision, or the directory's name; and what changes numbers."""
    name = Path(model).expanduser().absolute().name if is_directory(model) else model
    return name + (f"@{revision[:7]}" if revision else "") + ("" if dtype == "float32" else f"-{dtype}")


def is_directory(model: str) -> bool:
    return Path(model).expanduser().is_dir()


def located(stage: str, model: str, file: str) -> str:
    """The directory `model`, which must hold `file`, or a hub id as it came. Raises CalltideError for neither."""
    setting = model_setting(stage)
    others = "campplus" if stage == "diarization" else f"one made by `calltide train {stage}`, or packaged"
    if is_directory(model):
        folder = Path(model).expanduser().absolute()
        if not (folder / file).is_file():
            raise CalltideError(f"{setting}: the directory {folder} has no {file}; name one that has, or {others}")
        return str(folder)
    if model.startswith((".", "~", "/")) or model.count("/") != 1 or model.endswith("/"):
        raise CalltideError(
            f"{setting}: there is no directory {model}; name one with {file}, a hub id such as owner/name, or {others}"
        )
    return model


def model_setting(stage: str) -> str:
    """The variable that names the stage's model."""
    return f"CALLTIDE_{stage.upper()}__{'EMBEDDER' if stage == 'diarization' else 'MODEL'}"


def _from_pretrained(stage: str, model: str, auto_class: Any, **options: Any) -> Any:
    source = located(stage, model, CONFIG)
    # Else transformers asks a bot of the hub, in public, to convert a repository that has no safetensors file.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        return auto_class.from_pretrained(source, **options)
    except Exception as error:  # transformers, the hub client and safetensors share no base class
        raise not_loaded(stage, model, error) from error


def not_loaded(stage: str, model: str, error: Exception) -> CalltideError:
    """Why a model could not be loaded, in one line with the command that helps."""
    from huggingface_hub import errors

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)

    def is_any(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in chain)

    if is_any(ImportError):
        said = (
            f"{model} needs packages that are missing or do not fit each other ({first_line(chain[-1])}); run "
            "`.venv/bin/pip install -e '.[torch]'`"
        )
    elif is_directory(model):
        said = f"in {model} cannot be loaded ({first_line(error)}); check that the copy is whole"
    elif is_any(errors.GatedRepoError):
        said = f"{model} is given out on request; ask for it on its hub page, then run `hf auth login`"
    elif is_any(errors.RepositoryNotFoundError):
        said = f"{model} is neither a directory nor on the hub; check its name, or run `hf auth login` if it is private"
    elif is_any(errors.RemoteEntryNotFoundError):
        said = f"{model} lacks a file ({first_line(error)}); it is not of the kind that this loader reads, take another"
    elif is_any(errors.LocalEntryNotFoundError, ConnectionError):
        said = (
            f"{model} is not on this machine and the hub cannot be reached; where there is internet run `hf download "
            f"{model} --local-dir DIR`, bring DIR here, and set {model_setting(stage)}=DIR"
        )
    else:
        said = f"{model} cannot be loaded ({first_line(error)}); take another model"
    return CalltideError(f"{stage}: the model {said}")


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
