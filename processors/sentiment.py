"""Sentiment: what the words and the voice of an utterance say together, and where the call stands.

A changer must know: the running score is the state. It is kept unrounded and restored exactly, and it is made from the
rounded scores of the utterances, so that anyone can compute it again from the rows in ClickHouse.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from processors.base import Output, Processor, Record, Step
from processors.utterances import FORGOTTEN_MS, WITHOUT_SPACES, each_but_idle, promote, read, rounded
from schemas.events import (
    CallEnded,
    CallEvent,
    Correction,
    Emotion,
    EmotionLabel,
    EmotionScored,
    Role,
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


POLARITY: Final = {"negative": -1, "neutral": 0, "positive": 1}

CLEAR_VOICE: Final = 0.3
"""Judgement: a voice whose mean valence is farther from 0 says something, half-way to a sure negative emotion."""

CLEAR_WORDS: Final = 0.5
"""Judgement: words say something when their label, negative or positive, is likelier right than wrong."""

NO_LANGUAGE: Final = "no_sentiment_for_language"
NO_ROLE: Final = "no_sentiment_for_role"
"""Flags of an utterance with words that no model is set for: its language, or its role in any language."""

Weight = Annotated[float, Field(ge=0, le=1)]
Parties = Annotated[str, Field(pattern=r"^(agent|customer|unknown|\*)(/([a-z]{2,3}|\*))?$")]


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "packaged",
        description="packaged (English only); a directory made by `calltide train sentiment`; with the extra torch, an "
        "id or directory of Hugging Face; none: no sentiment",
    )
    models: dict[Parties, str] = Field(
        {},
        description="other models by role, by language or both, as JSON: "
        '{"agent": "none", "*/de": "owner/name", "customer/es": "DIR"}',
    )
    voice_weight: Weight = Field(0.3, description="most that the voice counts in an utterance's score; 0: words only")
    voice_weights: dict[Role, Weight] = Field({}, description='other voice weights by role, as JSON: {"agent": 0.1}')
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N, for models of the extra torch")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="arithmetic of models of the extra torch; auto: float16 on a GPU, float32 on a CPU"
    )
    batch: int = Field(1, ge=1, description="texts computed at once, for models of the extra torch")
    labels: dict[str, Literal["negative", "neutral", "positive", "none"]] = Field(
        {}, description="as JSON, what the classes of a model of the extra torch mean where their names do not tell"
    )


@dataclass(slots=True)
class Course:
    """Where a call stands, unrounded."""

    score: float = 0.0
    parties: dict[str, float] = field(default_factory=dict)
    utterances: int = 0
    words: dict[str, int] = field(default_factory=dict)
    """How many each party has said: what it takes to join two parties that are one."""


class FusedSentiment:
    """Utterances with words and emotion in, finished scores out. Marks pass through.

    * `text_score` is the text model's. `voice_score` is the mean VALENCE under the emotion's probabilities.
    * `score` = (1 − share) · text + share · voice, with share = the role's voice weight · certainty and certainty = 1 −
      entropy of the probabilities / its largest value: a voice that could be anything has no say. Without voice: the
      text's.
    * `label` is by the text model's own thresholds: they are where it calls a text neutral.
    * `confidence` is the text model's, times 1 − share · |text − voice| / 2: what disagrees is less sure.
    * `disagree`: the words are negative and the voice positive or the other way round, and both clearly: the text's
      label with a confidence of CLEAR_WORDS, the voice by CLEAR_VOICE and not `uncertain`. Neutral words said with
      feeling, or the other way round, are no contradiction.
    * `running`: score ← score + (utterance − score) · (1 − 2^(−words / HALF_LIFE_WORDS)), from 0 at the call's start;
      once over all parties and once for each speaker. A speaker who turns out to be another one (`Correction`) is
      joined to that one as though all that he said had come last. An utterance without sentiment changes nothing.

    `models` is one model for all, or models by "role/language", where * stands for any and None for no model. The
    closest counts: role and language before role, role before language. An utterance with words but no model has no
    sentiment and the flag NO_LANGUAGE, or NO_ROLE where its role has none in any language: a model that does not know
    the language would give numbers that mean nothing.
    """

    idle_timeout_ms: int | None = FORGOTTEN_MS

    def __init__(
        self, config: Config, pipeline_version: str, models: "SentimentModel | Mapping[str, SentimentModel | None]"
    ) -> None:
        self._config = config
        self._pipeline_version = pipeline_version
        self._models: Mapping[str, SentimentModel | None] = models if isinstance(models, Mapping) else {"*/*": models}
        self._languages = {key.split("/")[1] for key in self._models}

    def open(self, call_id: str) -> Course:
        return Course()

    def restore(self, call_id: str, snapshot: bytes) -> Course:
        return Course(**json.loads(snapshot))

    def process(self, batch: Sequence[tuple[Course, Record]]) -> list[Step]:
        return each_but_idle(batch, self._hear)

    def _hear(self, batch: Sequence[tuple[Course, Record]]) -> list[Step]:
        events = read(batch, EmotionScored)
        said = self._read_words([event for event in events if isinstance(event, EmotionScored) and event.text])
        steps = []
        for event, (course, _) in zip(events, batch, strict=True):
            scored: CallEvent = event
            if isinstance(event, EmotionScored):
                scored = self._score(course, event, *said.get(id(event), (None, None)))
            elif isinstance(event, Correction) and event.same_as is not None:
                _join(course, event.speaker, event.same_as)
            ended = isinstance(event, CallEnded) or not course.utterances
            steps.append(Step([Output.of(scored)], b"" if ended else json.dumps(asdict(course)).encode()))
        return steps

    def _read_words(self, events: list[EmotionScored]) -> "dict[int, tuple[SentimentModel, TextSentiment]]":
        """By the id of the event, which model read it and what it found; one call of each model."""
        chosen: dict[int, tuple[SentimentModel, list[EmotionScored]]] = {}
        for event in events:
            if (model := self.model_for(event.role, event.language)) is not None:
                chosen.setdefault(id(model), (model, []))[1].append(event)
        return {
            id(event): (model, text)
            for model, theirs in chosen.values()
            for event, text in zip(theirs, model.score([event.text for event in theirs]), strict=True)
        }

    def model_for(self, role: Role, language: str) -> "SentimentModel | None":
        """What reads the words of a party in a language; None: nothing is set for them."""
        language = _plain(language)
        for key in (f"{role}/{language}", f"{role}/*", f"*/{language}", "*/*"):
            if key in self._models:
                return self._models[key]
        return None

    def _score(
        self, course: Course, event: EmotionScored, model: "SentimentModel | None", text: "TextSentiment | None"
    ) -> Score:
        sentiment = None
        flags = event.flags
        if model is not None and text is not None:
            sentiment = self._fuse(model, text, event)
            words = _words(event)
            step = 1 - 2 ** (-words / HALF_LIFE_WORDS)
            party = course.parties.get(event.speaker, 0.0)
            course.parties[event.speaker] = party + (sentiment.score - party) * step
            course.words[event.speaker] = course.words.get(event.speaker, 0) + words
            course.score += (sentiment.score - course.score) * step
            course.utterances += 1
        elif event.text:
            any_language = any(self.model_for(event.role, language) for language in self._languages)
            flags = (*flags, NO_LANGUAGE if any_language else NO_ROLE)
        running = RunningScore(
            score=rounded(course.score),
            party_score=rounded(course.parties.get(event.speaker, 0.0)),
            utterances=course.utterances,
        )
        added = {"sentiment": sentiment, "running": running, "flags": flags}
        return promote(event, Score, **added, pipeline_version=self._pipeline_version)

    def _fuse(self, model: "SentimentModel", text: "TextSentiment", event: EmotionScored) -> Sentiment:
        from processors.models.sentiment import label_of  # settings read Config without loading ONNX Runtime

        score, confidence, voice, disagree = text.score, text.confidence, None, False
        if (emotion := event.emotion) is not None:
            voice = sum(VALENCE[label] * probability for label, probability in emotion.probabilities.items())
            share = self._config.voice_weights.get(event.role, self._config.voice_weight) * _certainty(emotion)
            score = (1 - share) * text.score + share * voice
            confidence *= 1 - share * abs(text.score - voice) / 2
            heard = 0 if emotion.uncertain or abs(voice) < CLEAR_VOICE else math.copysign(1, voice)
            disagree = text.confidence >= CLEAR_WORDS and heard * POLARITY[text.label] == -1
        score = rounded(score)
        return Sentiment.model_validate(
            {
                "label": label_of(score, model.thresholds),
                "score": score,
                "text_score": text.score,
                "voice_score": None if voice is None else rounded(voice),
                "confidence": rounded(confidence),
                "members": text.members,
                "model": model.id,
                "disagree": disagree,
            }
        )


def _certainty(emotion: Emotion) -> float:
    """1 for one sure emotion, 0 for a voice that could as well be any."""
    shares = [share for share in emotion.probabilities.values() if share]
    return max(0.0, 1 + sum(share * math.log(share) for share in shares) / math.log(len(emotion.probabilities)))


def _join(course: Course, speaker: str, same_as: str) -> None:
    """Make two parties one: what the first had is weighed down by all the words of the second."""
    score, words = course.parties.pop(speaker, None), course.words.pop(speaker, 0)
    if score is not None:
        course.parties[same_as] = course.parties.get(same_as, 0.0) * 2 ** (-words / HALF_LIFE_WORDS) + score
        course.words[same_as] = course.words.get(same_as, 0) + words


def _words(event: EmotionScored) -> int:
    """How many words were said; in a language written without spaces two signs count as one (judgement)."""
    if _plain(event.language) in WITHOUT_SPACES:
        return -(-sum(map(str.isalnum, event.text)) // 2)
    return len(event.text.split())


def _plain(language: str) -> str:
    """en of en-US: models are set by language, not by country."""
    return language.lower().split("-")[0]


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage with its real models, each loaded once.

    A model made here (packaged, or by `calltide train sentiment`) reads English only, unless `models` names a language
    for it; a model of the hub reads what comes. Raises CalltideError when a model cannot be had or a key is wrong.
    """
    from processors.models.sentiment import made_here

    loaded: dict[str, SentimentModel | None] = {}
    routes: dict[str, SentimentModel | None] = {}
    wanted = {key if "/" in key else f"{key}/*": name for key, name in config.models.items()}
    for key, name in {"*/*": config.model, **wanted}.items():
        if name not in loaded:
            loaded[name] = _load(name, config)
        role, language = key.split("/")
        routes[f"{role}/en" if language == "*" and made_here(name) else key] = loaded[name]
    return FusedSentiment(config, pipeline_version, routes)


def _load(name: str, config: Config) -> "SentimentModel | None":
    from processors.models.sentiment import EnsembleSentiment, made_here

    if name == "none":
        return None
    if folder := made_here(name):
        return EnsembleSentiment(folder)
    from processors.models.hub import load_sentiment

    return load_sentiment(name, config.device, config.batch, config.dtype, config.labels)
