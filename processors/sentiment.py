"""Sentiment: what the words and the voice of an utterance say together, and where the call stands.

A changer must know: the running score is the state. It is kept unrounded and restored exactly, and it is made from the
rounded scores of the utterances, so that anyone can compute it again from the rows in ClickHouse.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field

from processors.base import Output, Processor, Record, Step
from processors.utterances import FORGOTTEN_MS, each_but_idle, promote, read, rounded
from schemas.events import (
    CallEnded,
    CallEvent,
    Emotion,
    EmotionLabel,
    EmotionScored,
    RunningScore,
    Score,
    Sentiment,
)

if TYPE_CHECKING:
    from processors.models.sentiment import SentimentModel, TextSentiment

VALENCE: Final[dict[EmotionLabel, float]] = {
    "neutral": 0.0,
    "happiness": 0.87,
    "sadness": -0.65,
    "anger": -0.62,
    "fear": -0.52,
    "surprise": 0.0,
}
"""How pleasant each emotion is, −1 to 1: valence of its noun in the norms of Warriner, Kuperman & Brysbaert (2013),
(V.Mean.Sum − 5) / 4. Surprise is 0 by judgement: its norm (0.61) is that of a nice surprise, a call has both kinds."""

HALF_LIFE_WORDS: Final = 50
"""Judgement: about 20 s of talk. After so many words, half of the running score is what was said since."""


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    voice_weight: float = Field(
        0.3, ge=0, le=1, description="most that the voice counts in an utterance's score; 0: words only"
    )


@dataclass(slots=True)
class Course:
    """Where a call stands, unrounded."""

    score: float = 0.0
    parties: dict[str, float] = field(default_factory=dict)
    utterances: int = 0


class FusedSentiment:
    """Utterances with words and emotion in, finished scores out. Marks pass through.

    * `text_score` is the text model's. `voice_score` is the mean VALENCE under the emotion's probabilities.
    * `score` = (1 − share) · text + share · voice, with share = `voice_weight` · certainty and certainty = 1 − entropy
      of the probabilities / its largest value: a voice that could be anything has no say. Without voice: the text's.
    * `label` is by the text model's own thresholds: they are where it calls a text neutral.
    * `confidence` is the text model's, times 1 − share · |text − voice| / 2: what disagrees is less sure.
    * `running`: score ← score + (utterance − score) · (1 − 2^(−words / HALF_LIFE_WORDS)), from 0 at the call's start;
      once over all parties and once for each speaker. An utterance without words has no sentiment and changes nothing.
    """

    idle_timeout_ms: int | None = FORGOTTEN_MS

    def __init__(self, config: Config, pipeline_version: str, model: "SentimentModel") -> None:
        self._config = config
        self._pipeline_version = pipeline_version
        self._model = model

    def open(self, call_id: str) -> Course:
        return Course()

    def restore(self, call_id: str, snapshot: bytes) -> Course:
        return Course(**json.loads(snapshot))

    def process(self, batch: Sequence[tuple[Course, Record]]) -> list[Step]:
        return each_but_idle(batch, self._hear)

    def _hear(self, batch: Sequence[tuple[Course, Record]]) -> list[Step]:
        events = read(batch, EmotionScored)
        texts = iter(
            self._model.score([event.text for event in events if isinstance(event, EmotionScored) and event.text])
        )
        steps = []
        for event, (course, _) in zip(events, batch, strict=True):
            scored: CallEvent = event
            if isinstance(event, EmotionScored):
                scored = self._score(course, event, next(texts) if event.text else None)
            ended = isinstance(event, CallEnded) or not course.utterances
            steps.append(Step([Output.of(scored)], b"" if ended else json.dumps(asdict(course)).encode()))
        return steps

    def _score(self, course: Course, event: EmotionScored, text: "TextSentiment | None") -> Score:
        sentiment = None
        if text is not None:
            sentiment = self._fuse(text, event.emotion)
            step = 1 - 2 ** (-len(event.text.split()) / HALF_LIFE_WORDS)
            party = course.parties.get(event.speaker, 0.0)
            course.parties[event.speaker] = party + (sentiment.score - party) * step
            course.score += (sentiment.score - course.score) * step
            course.utterances += 1
        running = RunningScore(
            score=rounded(course.score),
            party_score=rounded(course.parties.get(event.speaker, 0.0)),
            utterances=course.utterances,
        )
        return promote(event, Score, sentiment=sentiment, running=running, pipeline_version=self._pipeline_version)

    def _fuse(self, text: "TextSentiment", emotion: Emotion | None) -> Sentiment:
        from processors.models.sentiment import label_of  # settings read Config without loading ONNX Runtime

        score, confidence, voice = text.score, text.confidence, None
        if emotion is not None:
            voice = sum(VALENCE[label] * probability for label, probability in emotion.probabilities.items())
            share = self._config.voice_weight * _certainty(emotion)
            score = (1 - share) * text.score + share * voice
            confidence *= 1 - share * abs(text.score - voice) / 2
        score = rounded(score)
        return Sentiment.model_validate(
            {
                "label": label_of(score, self._model.thresholds),
                "score": score,
                "text_score": text.score,
                "voice_score": None if voice is None else rounded(voice),
                "confidence": rounded(confidence),
                "members": text.members,
                "model": self._model.id,
            }
        )


def _certainty(emotion: Emotion) -> float:
    """1 for one sure emotion, 0 for a voice that could as well be any."""
    shares = [share for share in emotion.probabilities.values() if share]
    return max(0.0, 1 + sum(share * math.log(share) for share in shares) / math.log(len(emotion.probabilities)))


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage with its real model."""
    from processors.models.sentiment import EnsembleSentiment

    return FusedSentiment(config, pipeline_version, EnsembleSentiment())
