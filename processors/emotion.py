"""Emotion: how an utterance sounds, from the voice alone, for the parties it may be computed for. Audio ends here.

A changer must know: by default only customers are scored. To infer employees' emotions at work is forbidden in the EU
(AI Act, article 5(1)(f)) but for medical or safety reasons, so an agent's voice never reaches the model unless a
setting says so, and neither does a voice whose role is unknown.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from processors.base import Output, Processor, Record, Step
from processors.utterances import promote, read, rounded, samples
from schemas.events import CallEvent, Emotion, EmotionScored, Transcript

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
            samples(event, record)
            for event, (_, record) in zip(events, batch, strict=True)
            if isinstance(event, Transcript) and self._skipped(event) is None
        ]
        model = self._model
        found = [self._emotion(model, row) for row in model.predict(heard)] if model and heard else []
        emotions = iter(found)
        scored: list[CallEvent] = []
        for event in events:
            if not isinstance(event, Transcript):
                scored.append(event)
            elif skipped := self._skipped(event):
                scored.append(promote(event, EmotionScored, emotion_skipped=skipped))
            else:
                scored.append(promote(event, EmotionScored, emotion=next(emotions)))
        return [Step([Output.of(event)]) for event in scored]

    def _skipped(self, event: Transcript) -> str | None:
        """Why there is no emotion for this utterance, in words for people; None: there is one."""
        roles = self._config.roles
        if not self._config.enabled:
            return "emotion.enabled is false"
        if event.role not in roles and "all" not in roles:
            return f"role {event.role} is not in emotion.roles ({', '.join(roles)})"
        if event.end_ms - event.start_ms < MINIMUM_MS:
            return f"shorter than {MINIMUM_MS} ms"
        if not event.text:
            return "no words were recognised"
        return None

    @staticmethod
    def _emotion(model: "EmotionModel", probabilities: NDArray[np.float32]) -> Emotion:
        labels = model.labels
        return Emotion.model_validate(
            {
                "label": labels[int(np.argmax(probabilities))],
                "probabilities": dict(zip(labels, map(rounded, probabilities), strict=True)),
                "model": model.id,
            }
        )


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage with its real model; switched off, it needs none and its weights may be absent."""
    if not config.enabled:
        return VoiceEmotion(config, None)
    from processors.models.emotion import WhisperStatsEmotion

    return VoiceEmotion(config, WhisperStatsEmotion())
