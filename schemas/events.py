"""The events of the chain, one model a kind; each stage adds its fields to what it read.

Readers ignore fields they do not know and every field added later must have a default, so that old and new versions
can read each other: tests/unit/test_schemas.py holds the committed JSON Schemas against these models.
Times called `_ms` are media time, milliseconds from the call's start; times called `_at` are UTC wall clock.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from schemas.audio import Codec

Role = Literal["agent", "customer", "unknown"]
EmotionLabel = Literal["neutral", "happiness", "sadness", "anger", "fear", "surprise"]
SentimentLabel = Literal["negative", "neutral", "positive"]


def _to_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time needs its zone; write it in UTC with a Z")
    return moment.astimezone(UTC)


UtcTime = Annotated[datetime, AfterValidator(_to_utc)]
Milliseconds = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Polarity = Annotated[float, Field(ge=-1, le=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class CallInfo(_Model):
    """What is known of a call from its start. It travels with every event, so that each record can be read alone."""

    call_id: str = Field(min_length=1)
    started_at: UtcTime
    roles: tuple[Role, ...] = Field(min_length=1, description="the party on each channel, in the channels' order")
    tenant: str = "default"
    queue: str = ""
    agent: str = ""
    source: str = Field(default="", description="where the audio comes from: a file name, a protocol, a trunk")
    metadata: dict[str, str] = Field(default_factory=dict)
    interim: bool = Field(default=False, description="whether somebody wants the words before an utterance is finished")


class CallEvent(_Model):
    """What every event has."""

    kind: str
    call: CallInfo


class CallStarted(CallEvent):
    """The first event of a call."""

    kind: Literal["call_started"] = "call_started"


class Mark(_Model):
    """A moment that the phone system told of. Which key was pressed is not kept: people type the numbers of cards."""

    at_ms: Milliseconds
    name: str = Field(default="", description="what the phone system calls the moment; empty: a key was pressed")


class CallEnded(CallEvent):
    """The last event of a call: its state can be freed."""

    kind: Literal["call_ended"] = "call_ended"
    duration_ms: Milliseconds
    ended_at: UtcTime
    reason: Literal["hangup", "idle", "interrupted"] = Field(
        description="hangup: the source said so; idle: no frame came for the idle timeout; interrupted: ingest stopped"
    )
    missing_ms: Milliseconds = Field(
        default=0, description="audio that never arrived and was taken as silence, all channels"
    )
    dropped_packets: int = Field(default=0, ge=0, description="packets that came twice or too late")
    not_speech_ms: Milliseconds = Field(
        default=0, description="sound that rose like speech and was taken for none (music, tones), all channels"
    )
    marks: tuple[Mark, ...] = Field(default=(), description="keys that were pressed and marks, the first of them")


class Progress(CallEvent):
    """A watermark: the call has been heard up to `at_ms` and nothing before it is still to come."""

    kind: Literal["progress"] = "progress"
    at_ms: Milliseconds


class Correction(CallEvent):
    """What has become known of a speaker of a mixed channel and holds for all of the call's utterances so far, too."""

    kind: Literal["correction"] = "correction"
    speaker: str
    same_as: str | None = Field(default=None, description="the earlier speaker whose voice this one turned out to be")
    role: Role = "unknown"
    role_confidence: Probability | None = None


class Stretch(CallEvent):
    """Some audio of one channel in which somebody speaks. Its identity is (call, channel, start_ms)."""

    channel: int = Field(ge=0)
    start_ms: Milliseconds
    end_ms: Milliseconds
    codec: Codec
    rate: int = Field(description="samples a second of the audio that travels with it")
    captured_at: UtcTime = Field(description="wall clock at which the last sample of the speech was captured")

    @property
    def identity(self) -> str:
        """`call/channel/start_ms`: the same however often the work is done."""
        return f"{self.call.call_id}/{self.channel}/{self.start_ms}"


class Segment(Stretch):
    """One stretch of speech on one channel."""

    kind: Literal["segment", "turn", "transcript", "emotion", "score"] = "segment"
    cut: Literal["pause", "max_length", "end"] = Field(
        description="why it ends: a pause, the longest length a segment may have, or the end of the call"
    )


class Turn(Segment):
    """A segment of one speaker."""

    kind: Literal["turn", "transcript", "emotion", "score"] = "turn"
    speaker: str
    role: Role
    speaker_confidence: Probability
    role_confidence: Probability | None = Field(
        default=None, description="how sure a role is that was found by what was said; absent: the channel tells"
    )
    overlap_ms: Milliseconds = Field(
        default=0, description="how much of it another speaker of the same mixed channel speaks, too"
    )
    flags: tuple[str, ...] = Field(
        default=(), description="what a reader must know: no_words, no_speech, repetition, cross_talk, …"
    )


class Word(_Model):
    """One word with its times in the call."""

    text: str
    start_ms: Milliseconds
    end_ms: Milliseconds
    confidence: Probability


class Transcript(Turn):
    """A turn and what was said in it. An empty text means that no words were recognised; `flags` says why."""

    kind: Literal["transcript", "emotion", "score"] = "transcript"
    text: str
    words: tuple[Word, ...] = ()
    language: str
    asr_confidence: Probability
    asr_model: str
    redacted: dict[str, int] = Field(
        default={},
        description="what was taken out of text, words and audio: kind of personal data → how often",
    )


class InterimWord(Word):
    """A word of an utterance that is still going on."""

    stable: bool = Field(default=False, description="whether the revision before had it, too")


class Interim(Stretch):
    """The open segment so far, and the words in it once they are known: for who waits, never scored or stored.

    Its identity is that of the segment to come; the highest `revision` of an identity is the latest, and the finished
    utterance of that identity, or a later one of the channel, puts an end to it.
    """

    kind: Literal["interim"] = "interim"
    revision: int = Field(ge=0, description="length of the audio so far in steps of 100 ms")
    text: str = ""
    words: tuple[InterimWord, ...] = ()


class GranularEmotion(_Model):
    """A finer name for an emotion: a naming convention over the six probabilities, not a measurement of its own."""

    name: str
    base: EmotionLabel
    confidence: Probability


class Emotion(_Model):
    """How the voice sounds."""

    label: EmotionLabel
    probabilities: dict[EmotionLabel, Probability]
    model: str
    uncertain: bool = Field(default=False, description="the strongest is too weak to be called by its name")
    granular: tuple[GranularEmotion, ...] = ()
    complex: str | None = Field(default=None, description="the name of the two strongest together, if they have one")


class Acoustics(_Model):
    """What can be measured of a voice. Absent where there was too little voice to measure it."""

    pitch_mean_hz: float | None = None
    pitch_variance_hz2: float | None = None
    rms: float | None = Field(default=None, description="root mean square of the samples, 0 to 1")
    loudness_lufs: float | None = None
    speaking_rate_wps: float | None = Field(default=None, description="words a second")
    spectral_centroid_hz: float | None = None
    zero_crossing_rate: float | None = Field(default=None, description="share of samples at which the sign changes")
    mfcc: tuple[float, ...] = Field(default=(), description="means over time of 13 mel-frequency cepstral coefficients")
    jitter: float | None = Field(default=None, description="local, a share of the period")
    shimmer: float | None = Field(default=None, description="local, a share of the amplitude")
    formants_hz: tuple[float, ...] = Field(default=(), description="means of F1, F2, F3 over voiced frames")
    hnr_db: float | None = Field(default=None, description="harmonics-to-noise ratio")


class EmotionScored(Transcript):
    """A transcript and how it sounded. `emotion` is absent when it was not computed; `emotion_skipped` says why."""

    kind: Literal["emotion", "score"] = "emotion"
    emotion: Emotion | None = None
    emotion_skipped: str | None = None
    acoustics: Acoustics | None = None


class Sentiment(_Model):
    """The sentiment of one utterance; scores run from −1 (negative) to 1 (positive)."""

    label: SentimentLabel
    score: Polarity = Field(description="words and voice fused")
    text_score: Polarity
    voice_score: Polarity | None = Field(default=None, description="absent when emotion was not computed")
    confidence: Probability
    members: dict[str, Polarity] = Field(default_factory=dict, description="the text models' own scores")
    model: str
    disagree: bool = Field(default=False, description="words and voice say clearly different things")


class RunningScore(_Model):
    """The sentiment of the call so far."""

    score: Polarity = Field(description="this call, all parties")
    party_score: Polarity = Field(description="this utterance's speaker")
    utterances: int = Field(ge=0, description="scored utterances so far, this one included")


class Score(EmotionScored):
    """The finished utterance: what goes to ClickHouse and to the websocket."""

    kind: Literal["score"] = "score"
    sentiment: Sentiment | None = Field(default=None, description="absent when no words were recognised")
    running: RunningScore
    pipeline_version: str


class Evidence(_Model):
    """An utterance, or some words of it, that a statement about the call rests on."""

    identity: str = Field(description="of the utterance: call/channel/start_ms")
    channel: int = Field(ge=0)
    start_ms: Milliseconds = Field(description="of the utterance")
    end_ms: Milliseconds = Field(description="of the utterance")
    speaker: str
    role: Role
    text: str = Field(default="", description="words of the utterance, as the transcript has them")


class Statement(_Model):
    """Something that is said about a call, and what it rests on. An extractive engine's text is its evidence's."""

    text: str
    evidence: tuple[Evidence, ...] = Field(min_length=1)


class CallTopic(_Model):
    """A topic of the glossary that the call is about."""

    path: tuple[str, ...] = Field(min_length=1, description="from the widest level to the term")
    similarity: Probability | None = Field(
        description="cosine of the closest sentence to the term, its synonyms or examples; absent: chosen by an llm"
    )
    evidence: tuple[Evidence, ...] = Field(min_length=1)


class Finding(Statement):
    """A complaint, an objection, or a moment worth practising."""

    name: str = Field(description="which sort, such as not_working, price or dead_air")


class ActionItem(Statement):
    """What somebody said that he would do."""

    owner: Role
    due: str = Field(default="", description="when, in the words of the utterance; empty: nothing was said")


class Resolution(_Model):
    """Whether the customer's matter was settled when the call ended."""

    resolved: Literal["yes", "no", "unknown"] = "unknown"
    evidence: tuple[Evidence, ...] = ()


class QuizQuestion(_Model):
    """A question for training about the call."""

    name: str = Field(description="which sort, such as reason or promise")
    question: str
    choices: tuple[str, ...] = Field(min_length=2)
    answer: int = Field(ge=0, description="index of the right choice")
    evidence: tuple[Evidence, ...] = Field(min_length=1, description="what the answer rests on")


class Findings(_Model):
    """What an engine makes of a whole call. Each item cites utterances of the call."""

    engine: str = Field(description="extractive: nothing but words of the call and fixed phrases; or llm:MODEL")
    model: str = Field(default="", description="of the engine")
    state: str = Field(
        description="ok, too_short, no_customer_speech, unsupported_language, failed: only ok has content"
    )
    why: str = Field(default="", description="the state in a sentence for people, unless it is ok")
    summary: tuple[Statement, ...] = ()
    reason: Statement | None = Field(default=None, description="why the customer calls, or is called")
    topics: tuple[CallTopic, ...] = Field(default=(), description="the likeliest first")
    glossary: str = Field(default="", description="whose topics they are: its name and a hash of its content")
    issues: tuple[Finding, ...] = Field(default=(), description="what is wrong, as the customer says it")
    objections: tuple[Finding, ...] = Field(default=(), description="why the customer does not want what is offered")
    outcome: Statement | None = Field(default=None, description="what came of the call")
    action_items: tuple[ActionItem, ...] = ()
    resolution: Resolution = Resolution()
    coaching: tuple[Finding, ...] = Field(default=(), description="recommendations for the agent, tied to moments")
    quiz: tuple[QuizQuestion, ...] = ()
    uncited: int = Field(default=0, ge=0, description="statements that were left out since they cited no utterance")
    prompts: str = Field(default="", description="of an llm: the prompts' version and a hash of what they say")
    tokens_in: int = Field(default=0, ge=0, description="that an llm has read, over all tries")
    tokens_out: int = Field(default=0, ge=0, description="that an llm has written, over all tries")


class Insights(Findings, CallEvent):
    """What a call was about, what went wrong and what to practise: once, when it has ended."""

    kind: Literal["insights"] = "insights"
    ended_at: UtcTime
    duration_ms: Milliseconds
    language: str = Field(default="", description="in which most words were said; empty: no words")
    business: str = Field(default="", description="whose glossary was read: b2b or b2c")
    utterances: int = Field(default=0, ge=0, description="with words, in the call")
    unread: int = Field(default=0, ge=0, description="of these, left out because the call was too long to keep them")
    pipeline_version: str


class EvaluationItem(_Model):
    """One item of a form, and what a call has earned for it."""

    name: str
    points: float = Field(gt=0, description="most that it can earn")
    earned: float | None = Field(ge=0, description="absent: it could not be judged, and counts nowhere")
    why: str = Field(description="what it rests on, or why it could not be judged, for people")
    evidence: tuple[Evidence, ...] = Field(default=(), description="the utterances that it rests on, where there are")


class EvaluationSection(_Model):
    """A section of a form."""

    name: str
    weight: float = Field(gt=0, description="beside those of the other sections")
    score: float | None = Field(
        ge=0, le=100, description="points earned of those that could be judged, in percent; absent: none could"
    )
    items: tuple[EvaluationItem, ...]


class Evaluation(CallEvent):
    """A form filled for a call, once, when it has ended. Its identity is (call, form)."""

    kind: Literal["evaluation"] = "evaluation"
    ended_at: UtcTime
    duration_ms: Milliseconds
    language: str = Field(default="", description="in which most words were said; empty: no words")
    form: str
    form_version: str = Field(description="a hash of what the form means")
    state: str = Field(
        description="ok, too_short, no_agent_speech, no_customer_speech, unsupported_language, too_little_judged: "
        "only ok has a score"
    )
    why: str = Field(default="", description="the state in a sentence for people, unless it is ok")
    score: float | None = Field(
        ge=0, le=100, description="mean of the sections' scores by their weights; absent: there is none"
    )
    judged: Probability = Field(description="the part of the form, by weight, that could be judged")
    sections: tuple[EvaluationSection, ...]
    pipeline_version: str


class Spoken(_Model):
    """An utterance with words, as it is known at the end of the call."""

    channel: int = Field(ge=0)
    start_ms: Milliseconds
    end_ms: Milliseconds
    speaker: str
    role: Role
    text: str
    score: Polarity | None = Field(default=None, description="words and voice fused; absent: not scored")
    emotion: str = Field(default="", description="of the voice; empty: not computed")


class Conversation(CallEvent):
    """All that was said in a call: one record, when it has ended, for whoever reads calls as a whole.

    There is none of a call without enough words, or without words of the customer: its insights say so.
    """

    kind: Literal["conversation"] = "conversation"
    ended_at: UtcTime
    duration_ms: Milliseconds
    language: str = Field(description="in which most words were said, without the country")
    business: str = Field(description="whose glossary is read: b2b or b2c")
    utterances: tuple[Spoken, ...] = Field(description="with words, in the order of time")
    unread: int = Field(ge=0, description="utterances that were left out because the call was too long to keep them")
    pipeline_version: str


class _Found(CallEvent):
    """What a rule has found in a call. Its identity is (call, rule, at_ms)."""

    kind: Literal["category", "alert"]
    rule: str
    category: str
    at_ms: Milliseconds = Field(description="media time at which the rule's condition was met")
    raised_at: UtcTime = Field(description="wall clock at which the last audio was captured that this rests on")
    evidence: tuple[Evidence, ...] = Field(default=(), description="the utterances that it rests on, oldest first")
    rules_version: str = Field(description="which set of rules it comes from: a hash of the rules")
    pipeline_version: str


class Categorised(_Found):
    """A call belongs to a category from now on: once a call and rule."""

    kind: Literal["category"] = "category"


Severity = Literal["info", "warning", "critical"]


class Alert(_Found):
    """Something that somebody should look at now."""

    kind: Literal["alert"] = "alert"
    severity: Severity
    message: str = Field(description="what has happened and why it was noticed, for people")


class Silence(_Model):
    """A stretch in which nobody speaks."""

    start_ms: Milliseconds
    end_ms: Milliseconds


class Interruption(_Model):
    """One party begins while another speaks, and both go on."""

    start_ms: Milliseconds
    overtalk_ms: Milliseconds = Field(description="how long both go on")
    by: str = Field(description="the speaker who begins")
    of: str = Field(description="the speaker who spoke already")


class PartyMetrics(_Model):
    """What one party has done in the call; docs/metrics.md has the definitions."""

    role: Role
    speaker: str
    utterances: int = Field(ge=0)
    words: int = Field(ge=0)
    talk_ms: Milliseconds
    talk_share: Probability = Field(description="of all talk of the call")
    words_per_minute: float | None = Field(description="of talk; absent: no talk")
    score: Polarity | None = Field(description="mean of its utterances, words and voice fused; absent: none scored")
    negative: int = Field(ge=0, description="utterances")
    neutral: int = Field(ge=0)
    positive: int = Field(ge=0)
    quarters: tuple[float | None, ...] = Field(
        description="mean score in each quarter of the call so far, −5 to 5; absent: nothing scored there"
    )
    change: float | None = Field(description="last quarter less first; absent: scored in one at most")
    emotion_ms: dict[EmotionLabel, int] = Field(description="talk by emotion, where it was computed")
    emotion_share: dict[EmotionLabel, Probability] = Field(description="of the talk whose emotion was computed")
    longest_monologue_ms: Milliseconds = Field(description="longest stretch in which no other party begins to speak")
    turns: int = Field(ge=0, description="how often it takes the floor")
    responses: int = Field(ge=0, description="how often it answers another party")
    response_ms: Milliseconds | None = Field(description="median silence before it answers; absent: it never does")
    interruptions: int | None = Field(
        description="how often it begins while another speaks, and both go on for 0.3 s; absent: all share a channel"
    )
    interrupted: int | None = Field(description="how often another party does so to it")
    overtalk_ms: int | None = Field(description="how long both speak after it began so")
    loudness_lufs: float | None = Field(description="mean over its talk, where it was measured")
    loudness_trend: float | None = Field(description="dB a minute; absent: too few utterances were measured")


class Outlook(_Model):
    """How a call will probably end (docs/early-warning.md)."""

    negative: Probability = Field(
        description="that the customer's last quarter will be negative, −1 or less on −5 to 5"
    )
    model: str = Field(description="which model says so")


class CallMetrics(CallEvent):
    """What has happened in the call so far, or, once it has ended, in all of it."""

    kind: Literal["metrics"] = "metrics"
    at_ms: Milliseconds = Field(description="media time up to which anything is known; the call's length at its end")
    final: bool = Field(description="the call has ended, and this is its last record")
    partial: bool = Field(description="the beginning of the call was not heard here")
    pipeline_version: str
    parties: tuple[PartyMetrics, ...] = Field(description="those that were heard")
    unheard: tuple[Role, ...] = Field(description="roles with a channel of their own that were not heard")
    talk_ms: Milliseconds = Field(description="of all parties")
    score: Polarity | None = Field(description="mean of all utterances; absent: none scored")
    quarters: tuple[float | None, ...] = Field(description="of all parties, as in each party's")
    change: float | None
    silences: int = Field(ge=0, description="gaps of 5 s and more in which nobody speaks")
    silence_ms: Milliseconds = Field(description="of these gaps")
    longest_silence_ms: Milliseconds = Field(description="the longest gap, if of 5 s or more")
    silence_now_ms: Milliseconds = Field(description="how long nobody has spoken by now, be it short")
    dead_air: tuple[Silence, ...] = Field(description="the longest gaps, in order of time")
    interruptions: tuple[Interruption, ...] | None = Field(
        description="the longest, in order of time; absent: all parties share a channel"
    )
    hold_ms: Milliseconds | None = Field(default=None, description="on hold; absent: nobody marked it, or not the end")
    holds: tuple[Silence, ...] = Field(default=(), description="the holds that were marked")
    late: int = Field(default=0, ge=0, description="utterances that came too late to have a part in turns and the like")
    outlook: Outlook | None = Field(
        default=None, description="absent: no model is trained, it is too early to say, or the call has ended"
    )


Event = (
    CallStarted
    | CallEnded
    | Progress
    | Correction
    | Segment
    | Interim
    | Turn
    | Transcript
    | EmotionScored
    | Score
    | CallMetrics
    | Categorised
    | Alert
    | Insights
    | Evaluation
    | Conversation
)

EVENTS: Final[Mapping[str, type[CallEvent]]] = {
    "call_started": CallStarted,
    "call_ended": CallEnded,
    "progress": Progress,
    "correction": Correction,
    "segment": Segment,
    "interim": Interim,
    "turn": Turn,
    "transcript": Transcript,
    "emotion": EmotionScored,
    "score": Score,
    "metrics": CallMetrics,
    "category": Categorised,
    "alert": Alert,
    "insights": Insights,
    "evaluation": Evaluation,
    "conversation": Conversation,
}
"""The model of each kind, as named in the `kind` header of every record."""

_ADAPTERS: Final = {kind: TypeAdapter(model) for kind, model in EVENTS.items()}


def encode(event: CallEvent, audio: bytes | None = None) -> tuple[list[tuple[str, bytes]], bytes]:
    """(headers, value) of a record. With `audio` (b"" for none) the event is the header `event`, else the value."""
    body = _ADAPTERS[event.kind].dump_json(event)
    kind = ("kind", event.kind.encode())
    if audio is None:
        return [kind], body
    return [kind, ("event", body)], audio


def decode(headers: Mapping[str, bytes], value: bytes) -> CallEvent:
    """The event of a record, wherever it is carried. Raises KeyError or pydantic.ValidationError for what is none."""
    return _ADAPTERS[headers["kind"].decode()].validate_json(headers.get("event", value))
