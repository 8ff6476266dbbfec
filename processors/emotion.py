"""Emotion: how an utterance sounds, from the voice alone, for the parties it may be computed for. Audio ends here.

Six probabilities by a model, finer names for them by a table (`emotion_names`), and what can be measured (`acoustics`).

A changer must know: by default only customers are scored. To infer employees' emotions at work is forbidden in the EU
(AI Act, article 5(1)(f)) but for medical or safety reasons, so an agent's voice never reaches the model unless a
setting says so, and neither does a voice whose role is unknown.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from processors import acoustics
from processors.base import Output, Processor, Record, Step
from processors.emotion_names import complex_emotion, granular
from processors.redaction import hidden
from processors.utterances import RATE, WITHOUT_SPACES, promote, read, rounded, samples
from schemas.events import Acoustics, CallEvent, Emotion, EmotionLabel, EmotionScored, Transcript

if TYPE_CHECKING:
    from processors.models.emotion import EmotionModel

MINIMUM_MS: Final = 400
"""Judgement: with the pre-roll that VAD adds, less than a syllable or two is left to hear an emotion in."""


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="compute emotion from voice at all")
    roles: tuple[Literal["agent", "customer", "unknown", "all"], ...] = Field(
        ("customer",), description="parties whose emotion is computed, as JSON; all: every party"
    )
    model: str = Field(
        "packaged",
        description="packaged; a directory made by `calltide train emotion`; or, with the extra torch, an id or "
        "directory of Hugging Face or SpeechBrain",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N, for models of the extra torch")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="arithmetic of models of the extra torch; auto: float16 on a GPU, else float32"
    )
    batch: int = Field(1, ge=1, description="utterances computed at once, for models of the extra torch")
    meant_as: dict[str, Literal[EmotionLabel, "left_out"]] = Field(
        {},
        description='as JSON, what a class beyond the six counts as, such as {"disgust": "anger"}; if not said, calm '
        "and boredom are neutral and disgust is left_out: the others share its probability",
    )
    # Measured (docs/emotion.md): of the tenth of utterances below it, fewer than half are right, of the others 85 %.
    uncertain_below: float = Field(
        0.5, ge=0, le=1, description="probability of the strongest emotion under which it is marked uncertain"
    )
    acoustics: bool = Field(True, description="measure pitch, level, pace and spectrum, too")
    praat: bool = Field(
        False, description="measure jitter, shimmer, formants and HNR, too; needs the extra praat (GPL-3)"
    )


class VoiceEmotion:
    """Transcripts in, the same with an emotion out, as JSON without audio. Marks pass through. No state.

    Not computed, with the reason in `emotion_skipped`: when switched off, for other roles than `config.roles`, for less
    than MINIMUM_MS, and where no words were recognised: the model has learned from spoken sentences only, and would
    name an emotion for a cough or for music on hold, too. Probabilities are rounded to 4 digits.
    """

    idle_timeout_ms: int | None = None

    def __init__(self, config: Config, model: "EmotionModel | None") -> None:
        self._config = config
        self._model = model

    def open(self, call_id: str) -> None:
        return None

    def restore(self, call_id: str, snapshot: bytes) -> None:
        return None

    def process(self, batch: Sequence[tuple[None, Record]]) -> list[Step]:
        events = read(batch, Transcript)
        heard = [
            (event, _heard_of(event, samples(event, record)))
            for event, (_, record) in zip(events, batch, strict=True)
            if isinstance(event, Transcript) and self._skipped(event) is None
        ]
        found = iter(self._heard(heard))
        scored: list[CallEvent] = []
        for event in events:
            if not isinstance(event, Transcript):
                scored.append(event)
            elif skipped := self._skipped(event):
                scored.append(promote(event, EmotionScored, emotion_skipped=skipped))
            else:
                emotion, measured = next(found)
                scored.append(promote(event, EmotionScored, emotion=emotion, acoustics=measured))
        return [Step([Output.of(event)]) for event in scored]

    def _heard(self, heard: list[tuple[Transcript, NDArray[np.float32]]]) -> list[tuple[Emotion, Acoustics | None]]:
        model = self._model
        if model is None or not heard:
            return []
        rows = model.predict([audio for _, audio in heard])
        return [
            (self._emotion(model, row), self._measured(event, audio))
            for (event, audio), row in zip(heard, rows, strict=True)
        ]

    def _measured(self, event: Transcript, audio: NDArray[np.float32]) -> Acoustics | None:
        if not self._config.acoustics:
            return None
        words = None if event.language in WITHOUT_SPACES else len(event.text.split())
        return acoustics.measure(audio, words, praat=self._config.praat)

    def _skipped(self, event: Transcript) -> str | None:
        """Why there is no emotion for this utterance, in words for people; None: there is one."""
        roles = self._config.roles
        if not self._config.enabled:
            return "emotion.enabled is false"
        if event.role not in roles and "all" not in roles:
            return f"role {event.role} is not in emotion.roles ({', '.join(roles)})"
        if event.end_ms - event.start_ms < MINIMUM_MS:
            return f"shorter than {MINIMUM_MS} ms"
        if event.redacted and event.end_ms - event.start_ms - _hidden_ms(event) < MINIMUM_MS:
            return "nearly all of it was personal and is silenced"
        if not event.text:
            return "no words were recognised"
        return None

    def _emotion(self, model: "EmotionModel", row: NDArray[np.float32]) -> Emotion:
        labels = cast("tuple[EmotionLabel, ...]", model.labels)
        probabilities = dict(zip(labels, map(rounded, row), strict=True))
        label = labels[int(np.argmax(row))]
        return Emotion(
            label=label,
            probabilities=probabilities,
            model=model.id,
            uncertain=probabilities[label] < self._config.uncertain_below,
            granular=granular(probabilities),
            complex=complex_emotion(probabilities),
        )


def audible(event: Transcript, samples: int) -> NDArray[np.bool_]:
    """Which of the utterance's samples, at 16 kHz, are heard, bool (samples,): not those in which personal data was
    silenced, because silence is heard as sad."""
    kept = np.ones(samples, bool)
    for start_ms, end_ms in hidden(event.words, event.start_ms, event.end_ms) if event.redacted else ():
        kept[(start_ms - event.start_ms) * RATE // 1_000 : (end_ms - event.start_ms) * RATE // 1_000] = False
    return kept


def _heard_of(event: Transcript, voice: NDArray[np.float32]) -> NDArray[np.float32]:
    return voice[audible(event, len(voice))]


def _hidden_ms(event: Transcript) -> int:
    return sum(end_ms - start_ms for start_ms, end_ms in hidden(event.words, event.start_ms, event.end_ms))


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage with its real model; switched off, it needs none and its weights may be absent.

    Raises CalltideError when the model, or Praat where it is asked for, cannot be had.
    """
    if not config.enabled:
        return VoiceEmotion(config, None)
    if config.acoustics and config.praat:
        acoustics.require_praat()
    return VoiceEmotion(config, load_model(config))


def load_model(config: Config) -> "EmotionModel":
    """The voice model that the settings name. Raises CalltideError when it cannot be had."""
    from processors.models.emotion import WhisperStatsEmotion, head_in

    if config.model == "packaged":
        return WhisperStatsEmotion(meant_as=config.meant_as)
    if head := head_in(config.model):
        return WhisperStatsEmotion(head, config.meant_as)
    from processors.models.hub import load_emotion

    return load_emotion(config.model, config.device, config.batch, config.dtype, config.meant_as)
