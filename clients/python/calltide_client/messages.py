# fmt: off
# ruff: noqa: E501
"""What the gateway sends and takes. Generated from clients/asyncapi.json by clients/generate.py: do not edit."""

from typing import Literal, NotRequired, TypedDict


class Acoustics(TypedDict):
    """What can be measured of a voice. Absent where there was too little voice to measure it."""

    pitch_mean_hz: float | None
    pitch_variance_hz2: float | None
    rms: float | None  # root mean square of the samples, 0 to 1
    loudness_lufs: float | None
    speaking_rate_wps: float | None  # words a second
    spectral_centroid_hz: float | None
    zero_crossing_rate: float | None  # share of samples at which the sign changes
    mfcc: list[float]  # means over time of 13 mel-frequency cepstral coefficients
    jitter: float | None  # local, a share of the period
    shimmer: float | None  # local, a share of the amplitude
    formants_hz: list[float]  # means of F1, F2, F3 over voiced frames
    hnr_db: float | None  # harmonics-to-noise ratio


class Evidence(TypedDict):
    """An utterance, or some words of it, that a statement about the call rests on."""

    identity: str  # of the utterance: call/channel/start_ms
    channel: int
    start_ms: int  # of the utterance
    end_ms: int  # of the utterance
    speaker: str
    role: Literal["agent", "customer", "unknown"]
    text: str  # words of the utterance, as the transcript has them


class ActionItem(TypedDict):
    """What somebody said that he would do."""

    text: str
    evidence: list[Evidence]
    owner: Literal["agent", "customer", "unknown"]
    due: str  # when, in the words of the utterance; empty: nothing was said


class CallInfo(TypedDict):
    """What is known of a call from its start. It travels with every event, so that each record can be read alone."""

    call_id: str
    started_at: str
    roles: list[Literal["agent", "customer", "unknown"]]  # the party on each channel, in the channels' order
    tenant: str
    queue: str
    agent: str
    source: str  # where the audio comes from: a file name, a protocol, a trunk
    metadata: dict[str, str]
    interim: bool  # whether somebody wants the words before an utterance is finished


class Alert(TypedDict):
    """Something that somebody should look at now."""

    kind: Literal["alert"]
    call: CallInfo
    rule: str
    category: str
    at_ms: int  # media time at which the rule's condition was met
    raised_at: str  # wall clock at which the last audio was captured that this rests on
    evidence: list[Evidence]  # the utterances that it rests on, oldest first
    rules_version: str  # which set of rules it comes from: a hash of the rules
    pipeline_version: str
    severity: Literal["info", "warning", "critical"]
    message: str  # what has happened and why it was noticed, for people


class AlertMessage(TypedDict):
    """Something that somebody should look at now."""

    type: Literal["alert"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    replay: NotRequired[str]  # of which replay, in place of a cursor
    pushed_at: str  # when the gateway sent it
    history: NotRequired[Literal[True]]  # read back, not live
    skipped: NotRequired[int]  # events before it that were left out: too slow
    event: Alert


class Mark(TypedDict):
    """A moment that the phone system told of. Which key was pressed is not kept: people type the numbers of cards."""

    at_ms: int
    name: str  # what the phone system calls the moment; empty: a key was pressed


class CallEnded(TypedDict):
    """The last event of a call: its state can be freed."""

    kind: Literal["call_ended"]
    call: CallInfo
    duration_ms: int
    ended_at: str
    reason: Literal["hangup", "idle", "interrupted"]  # hangup: the source said so; idle: no frame came for the idle timeout; interrupted: ingest stopped
    missing_ms: int  # audio that never arrived and was taken as silence, all channels
    dropped_packets: int  # packets that came twice or too late
    not_speech_ms: int  # sound that rose like speech and was taken for none (music, tones), all channels
    marks: list[Mark]  # keys that were pressed and marks, the first of them


class CallEndedMessage(TypedDict):
    """The last event of a call: its state can be freed."""

    type: Literal["call_ended"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    replay: NotRequired[str]  # of which replay, in place of a cursor
    pushed_at: str  # when the gateway sent it
    history: NotRequired[Literal[True]]  # read back, not live
    skipped: NotRequired[int]  # events before it that were left out: too slow
    event: CallEnded


class PartyMetrics(TypedDict):
    """What one party has done in the call; docs/metrics.md has the definitions."""

    role: Literal["agent", "customer", "unknown"]
    speaker: str
    utterances: int
    words: int
    talk_ms: int
    talk_share: float  # of all talk of the call
    words_per_minute: float | None  # of talk; absent: no talk
    score: float | None  # mean of its utterances, words and voice fused; absent: none scored
    negative: int  # utterances
    neutral: int
    positive: int
    quarters: list[float | None]  # mean score in each quarter of the call so far, −5 to 5; absent: nothing scored there
    change: float | None  # last quarter less first; absent: scored in one at most
    emotion_ms: dict[str, int]  # talk by emotion, where it was computed
    emotion_share: dict[str, float]  # of the talk whose emotion was computed
    longest_monologue_ms: int  # longest stretch in which no other party begins to speak
    turns: int  # how often it takes the floor
    responses: int  # how often it answers another party
    response_ms: int | None  # median silence before it answers; absent: it never does
    interruptions: int | None  # how often it begins while another speaks, and both go on for 0.3 s; absent: all share a channel
    interrupted: int | None  # how often another party does so to it
    overtalk_ms: int | None  # how long both speak after it began so
    loudness_lufs: float | None  # mean over its talk, where it was measured
    loudness_trend: float | None  # dB a minute; absent: too few utterances were measured


class Silence(TypedDict):
    """A stretch in which nobody speaks."""

    start_ms: int
    end_ms: int


class Interruption(TypedDict):
    """One party begins while another speaks, and both go on."""

    start_ms: int
    overtalk_ms: int  # how long both go on
    by: str  # the speaker who begins
    of: str  # the speaker who spoke already


class Outlook(TypedDict):
    """How a call will probably end (docs/early-warning.md)."""

    negative: float  # that the customer's last quarter will be negative, −1 or less on −5 to 5
    model: str  # which model says so


class CallMetrics(TypedDict):
    """What has happened in the call so far, or, once it has ended, in all of it."""

    kind: Literal["metrics"]
    call: CallInfo
    at_ms: int  # media time up to which anything is known; the call's length at its end
    final: bool  # the call has ended, and this is its last record
    partial: bool  # the beginning of the call was not heard here
    pipeline_version: str
    parties: list[PartyMetrics]  # those that were heard
    unheard: list[Literal["agent", "customer", "unknown"]]  # roles with a channel of their own that were not heard
    talk_ms: int  # of all parties
    score: float | None  # mean of all utterances; absent: none scored
    quarters: list[float | None]  # of all parties, as in each party's
    change: float | None
    silences: int  # gaps of 5 s and more in which nobody speaks
    silence_ms: int  # of these gaps
    longest_silence_ms: int  # the longest gap, if of 5 s or more
    silence_now_ms: int  # how long nobody has spoken by now, be it short
    dead_air: list[Silence]  # the longest gaps, in order of time
    interruptions: list[Interruption] | None  # the longest, in order of time; absent: all parties share a channel
    hold_ms: int | None  # on hold; absent: nobody marked it, or not the end
    holds: list[Silence]  # the holds that were marked
    late: int  # utterances that came too late to have a part in turns and the like
    outlook: Outlook | None  # absent: no model is trained, it is too early to say, or the call has ended


class CallMetricsMessage(TypedDict):
    """What has happened in the call so far, or, once it has ended, in all of it."""

    type: Literal["metrics"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    replay: NotRequired[str]  # of which replay, in place of a cursor
    pushed_at: str  # when the gateway sent it
    history: NotRequired[Literal[True]]  # read back, not live
    skipped: NotRequired[int]  # events before it that were left out: too slow
    event: CallMetrics


class CallStarted(TypedDict):
    """The first event of a call."""

    kind: Literal["call_started"]
    call: CallInfo


class CallStartedMessage(TypedDict):
    """The first event of a call."""

    type: Literal["call_started"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    replay: NotRequired[str]  # of which replay, in place of a cursor
    pushed_at: str  # when the gateway sent it
    history: NotRequired[Literal[True]]  # read back, not live
    skipped: NotRequired[int]  # events before it that were left out: too slow
    event: CallStarted


class CallTopic(TypedDict):
    """A topic of the glossary that the call is about."""

    path: list[str]  # from the widest level to the term
    similarity: float | None  # cosine of the closest sentence to the term, its synonyms or examples; absent: chosen by an llm
    evidence: list[Evidence]


class Categorised(TypedDict):
    """A call belongs to a category from now on: once a call and rule."""

    kind: Literal["category"]
    call: CallInfo
    rule: str
    category: str
    at_ms: int  # media time at which the rule's condition was met
    raised_at: str  # wall clock at which the last audio was captured that this rests on
    evidence: list[Evidence]  # the utterances that it rests on, oldest first
    rules_version: str  # which set of rules it comes from: a hash of the rules
    pipeline_version: str


class CategorisedMessage(TypedDict):
    """A call belongs to a category from now on: once a call and rule."""

    type: Literal["category"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    replay: NotRequired[str]  # of which replay, in place of a cursor
    pushed_at: str  # when the gateway sent it
    history: NotRequired[Literal[True]]  # read back, not live
    skipped: NotRequired[int]  # events before it that were left out: too slow
    event: Categorised


class Correction(TypedDict):
    """What has become known of a speaker of a mixed channel and holds for all of the call's utterances so far, too."""

    kind: Literal["correction"]
    call: CallInfo
    speaker: str
    same_as: str | None  # the earlier speaker whose voice this one turned out to be
    role: Literal["agent", "customer", "unknown"]
    role_confidence: float | None


class CorrectionMessage(TypedDict):
    """What has become known of a speaker of a mixed channel and holds for all of the call's utterances so far, too."""

    type: Literal["correction"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    replay: NotRequired[str]  # of which replay, in place of a cursor
    pushed_at: str  # when the gateway sent it
    history: NotRequired[Literal[True]]  # read back, not live
    skipped: NotRequired[int]  # events before it that were left out: too slow
    event: Correction


class GranularEmotion(TypedDict):
    """A finer name for an emotion: a naming convention over the six probabilities, not a measurement of its own."""

    name: str
    base: Literal["neutral", "happiness", "sadness", "anger", "fear", "surprise"]
    confidence: float


class Emotion(TypedDict):
    """How the voice sounds."""

    label: Literal["neutral", "happiness", "sadness", "anger", "fear", "surprise"]
    probabilities: dict[str, float]
    model: str
    uncertain: bool  # the strongest is too weak to be called by its name
    granular: list[GranularEmotion]
    complex: str | None  # the name of the two strongest together, if they have one


class ErrorMessage(TypedDict):
    """Why the connection is closed next."""

    type: Literal["error"]
    error: str  # which sort, for programs: invalid, unauthorized, token_expired…
    message: str  # what and what to do, for people


class EvaluationItem(TypedDict):
    """One item of a form, and what a call has earned for it."""

    name: str
    points: float  # most that it can earn
    earned: float | None  # absent: it could not be judged, and counts nowhere
    why: str  # what it rests on, or why it could not be judged, for people
    evidence: list[Evidence]  # the utterances that it rests on, where there are


class EvaluationSection(TypedDict):
    """A section of a form."""

    name: str
    weight: float  # beside those of the other sections
    score: float | None  # points earned of those that could be judged, in percent; absent: none could
    items: list[EvaluationItem]


class Evaluation(TypedDict):
    """A form filled for a call, once, when it has ended. Its identity is (call, form)."""

    kind: Literal["evaluation"]
    call: CallInfo
    ended_at: str
    duration_ms: int
    language: str  # in which most words were said; empty: no words
    form: str
    form_version: str  # a hash of what the form means
    state: str  # ok, too_short, no_agent_speech, no_customer_speech, unsupported_language, too_little_judged: only ok has a score
    why: str  # the state in a sentence for people, unless it is ok
    score: float | None  # mean of the sections' scores by their weights; absent: there is none
    judged: float  # the part of the form, by weight, that could be judged
    sections: list[EvaluationSection]
    pipeline_version: str


class EvaluationMessage(TypedDict):
    """A form filled for a call, once, when it has ended. Its identity is (call, form)."""

    type: Literal["evaluation"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    replay: NotRequired[str]  # of which replay, in place of a cursor
    pushed_at: str  # when the gateway sent it
    history: NotRequired[Literal[True]]  # read back, not live
    skipped: NotRequired[int]  # events before it that were left out: too slow
    event: Evaluation


class Finding(TypedDict):
    """A complaint, an objection, or a moment worth practising."""

    text: str
    evidence: list[Evidence]
    name: str  # which sort, such as not_working, price or dead_air


class Gap(TypedDict):
    """What the cursor asked for is no longer there; what follows is."""

    type: Literal["gap"]
    cursor: str  # where to go on: send it back as `from`, as it was received
    partition: int
    from_offset: int
    to_offset: int  # not included
    message: str


class You(TypedDict):
    """Who the gateway takes you for."""

    tenant: str | None  # null: all tenants
    role: Literal["viewer", "supervisor", "admin"]
    name: str


class Wanted(TypedDict):
    """The fields that restrict a subscription."""

    call: NotRequired[list[str]]
    queue: NotRequired[list[str]]
    agent: NotRequired[list[str]]
    tenant: NotRequired[list[str]]
    severity: NotRequired[list[Literal["info", "warning", "critical"]]]
    replay: NotRequired[list[str]]
    kinds: list[Literal["score", "correction", "call_started", "call_ended", "progress", "interim", "metrics", "alert", "category", "insights", "evaluation"]]


class Hello(TypedDict):
    """The first message."""

    type: Literal["hello"]
    cursor: NotRequired[str]  # absent while history is still to come, and in a replay
    protocol: int
    calltide: str
    pipeline: str
    topic: str
    partitions: int
    kafka: Literal["ok", "unreachable"]
    queue: int  # messages that may wait for you
    slow_clients: Literal["close", "conflate"]
    you: You
    subscription: Wanted


class Statement(TypedDict):
    """Something that is said about a call, and what it rests on. An extractive engine's text is its evidence's."""

    text: str
    evidence: list[Evidence]


class Resolution(TypedDict):
    """Whether the customer's matter was settled when the call ended."""

    resolved: Literal["yes", "no", "unknown"]
    evidence: list[Evidence]


class QuizQuestion(TypedDict):
    """A question for training about the call."""

    name: str  # which sort, such as reason or promise
    question: str
    choices: list[str]
    answer: int  # index of the right choice
    evidence: list[Evidence]  # what the answer rests on


class Insights(TypedDict):
    """What a call was about, what went wrong and what to practise: once, when it has ended."""

    kind: Literal["insights"]
    call: CallInfo
    engine: str  # extractive: nothing but words of the call and fixed phrases; or llm:MODEL
    model: str  # of the engine
    state: str  # ok, too_short, no_customer_speech, unsupported_language, failed: only ok has content
    why: str  # the state in a sentence for people, unless it is ok
    summary: list[Statement]
    reason: Statement | None  # why the customer calls, or is called
    topics: list[CallTopic]  # the likeliest first
    glossary: str  # whose topics they are: its name and a hash of its content
    issues: list[Finding]  # what is wrong, as the customer says it
    objections: list[Finding]  # why the customer does not want what is offered
    outcome: Statement | None  # what came of the call
    action_items: list[ActionItem]
    resolution: Resolution
    coaching: list[Finding]  # recommendations for the agent, tied to moments
    quiz: list[QuizQuestion]
    uncited: int  # statements that were left out since they cited no utterance
    prompts: str  # of an llm: the prompts' version and a hash of what they say
    tokens_in: int  # that an llm has read, over all tries
    tokens_out: int  # that an llm has written, over all tries
    ended_at: str
    duration_ms: int
    language: str  # in which most words were said; empty: no words
    business: str  # whose glossary was read: b2b or b2c
    utterances: int  # with words, in the call
    unread: int  # of these, left out because the call was too long to keep them
    pipeline_version: str


class InsightsMessage(TypedDict):
    """What a call was about, what went wrong and what to practise: once, when it has ended."""

    type: Literal["insights"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    replay: NotRequired[str]  # of which replay, in place of a cursor
    pushed_at: str  # when the gateway sent it
    history: NotRequired[Literal[True]]  # read back, not live
    skipped: NotRequired[int]  # events before it that were left out: too slow
    event: Insights


class InterimWord(TypedDict):
    """A word of an utterance that is still going on."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float
    stable: bool  # whether the revision before had it, too


class Interim(TypedDict):
    """The open segment so far, and the words in it once they are known: for who waits, never scored or stored. Its identity is that of the segment to come; the highest `revision` of an identity is the latest, and the finished utterance of that identity, or a later one of the channel, puts an end to it."""

    kind: Literal["interim"]
    call: CallInfo
    channel: int
    start_ms: int
    end_ms: int
    codec: Literal["pcm_s16le", "mulaw", "alaw"]
    rate: int  # samples a second of the audio that travels with it
    captured_at: str  # wall clock at which the last sample of the speech was captured
    revision: int  # length of the audio so far in steps of 100 ms
    text: str
    words: list[InterimWord]


class InterimMessage(TypedDict):
    """The open segment so far, and the words in it once they are known: for who waits, never scored or stored. Its identity is that of the segment to come; the highest `revision` of an identity is the latest, and the finished utterance of that identity, or a later one of the channel, puts an end to it."""

    type: Literal["interim"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    replay: NotRequired[str]  # of which replay, in place of a cursor
    pushed_at: str  # when the gateway sent it
    history: NotRequired[Literal[True]]  # read back, not live
    skipped: NotRequired[int]  # events before it that were left out: too slow
    event: Interim


class Position(TypedDict):
    """Where you are: when all history has been sent, and whenever nothing was pushed for 15 s."""

    type: Literal["position"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received


class Progress(TypedDict):
    """A watermark: the call has been heard up to `at_ms` and nothing before it is still to come."""

    kind: Literal["progress"]
    call: CallInfo
    at_ms: int


class ProgressMessage(TypedDict):
    """A watermark: the call has been heard up to `at_ms` and nothing before it is still to come."""

    type: Literal["progress"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    replay: NotRequired[str]  # of which replay, in place of a cursor
    pushed_at: str  # when the gateway sent it
    history: NotRequired[Literal[True]]  # read back, not live
    skipped: NotRequired[int]  # events before it that were left out: too slow
    event: Progress


class ReplayPosition(TypedDict):
    """Where a replay is."""

    type: Literal["replay_position"]
    pushed_at: str  # when the gateway sent it
    replay: str
    begun_at: str
    state: Literal["playing", "paused", "ended", "stopped"]
    position_ms: int
    of_ms: int
    speed: float  # times real time
    reset: bool  # forget all of this replay: what follows tells it anew


class RunningScore(TypedDict):
    """The sentiment of the call so far."""

    score: float  # this call, all parties
    party_score: float  # this utterance's speaker
    utterances: int  # scored utterances so far, this one included


class Word(TypedDict):
    """One word with its times in the call."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float


class Sentiment(TypedDict):
    """The sentiment of one utterance; scores run from −1 (negative) to 1 (positive)."""

    label: Literal["negative", "neutral", "positive"]
    score: float  # words and voice fused
    text_score: float
    voice_score: float | None  # absent when emotion was not computed
    confidence: float
    members: dict[str, float]  # the text models' own scores
    model: str
    disagree: bool  # words and voice say clearly different things


class Score(TypedDict):
    """The finished utterance: what goes to ClickHouse and to the websocket."""

    kind: Literal["score"]
    call: CallInfo
    channel: int
    start_ms: int
    end_ms: int
    codec: Literal["pcm_s16le", "mulaw", "alaw"]
    rate: int  # samples a second of the audio that travels with it
    captured_at: str  # wall clock at which the last sample of the speech was captured
    cut: Literal["pause", "max_length", "end"]  # why it ends: a pause, the longest length a segment may have, or the end of the call
    speaker: str
    role: Literal["agent", "customer", "unknown"]
    speaker_confidence: float
    role_confidence: float | None  # how sure a role is that was found by what was said; absent: the channel tells
    overlap_ms: int  # how much of it another speaker of the same mixed channel speaks, too
    flags: list[str]  # what a reader must know: no_words, no_speech, repetition, cross_talk, …
    text: str
    words: list[Word]
    language: str
    asr_confidence: float
    asr_model: str
    redacted: dict[str, int]  # what was taken out of text, words and audio: kind of personal data → how often
    emotion: Emotion | None
    emotion_skipped: str | None
    acoustics: Acoustics | None
    sentiment: Sentiment | None  # absent when no words were recognised
    running: RunningScore
    pipeline_version: str


class ScoreMessage(TypedDict):
    """The finished utterance: what goes to ClickHouse and to the websocket."""

    type: Literal["score"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    replay: NotRequired[str]  # of which replay, in place of a cursor
    pushed_at: str  # when the gateway sent it
    history: NotRequired[Literal[True]]  # read back, not live
    skipped: NotRequired[int]  # events before it that were left out: too slow
    event: Score


class Status(TypedDict):
    """Kafka became unreachable, or answers again."""

    type: Literal["status"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    kafka: Literal["ok", "unreachable"]
    message: str


class Subscribed(TypedDict):
    """The subscription is another one from here on."""

    type: Literal["subscribed"]
    cursor: NotRequired[str]  # where to go on: send it back as `from`, as it was received
    subscription: Wanted

Subscription = TypedDict(
    "Subscription",
    {
        "call": NotRequired[str | list[str]],
        "queue": NotRequired[str | list[str]],
        "agent": NotRequired[str | list[str]],
        "tenant": NotRequired[str | list[str]],
        "kinds": NotRequired[Literal["score", "correction", "call_started", "call_ended", "progress", "interim", "metrics", "alert", "category", "insights", "evaluation"] | list[Literal["score", "correction", "call_started", "call_ended", "progress", "interim", "metrics", "alert", "category", "insights", "evaluation"]]],
        "severity": NotRequired[Literal["info", "warning", "critical"] | list[Literal["info", "warning", "critical"]]],
        "from": NotRequired[str | list[str]],
        "history": NotRequired[Literal["live"] | list[Literal["live"]]],
        "replay": NotRequired[str | list[str]],
    },
)
"""Which events are wanted; call, queue, agent, tenant: any of the values, all of the fields."""



Message = Hello | Subscribed | Position | Status | Gap | ErrorMessage | ReplayPosition | ScoreMessage | CorrectionMessage | CallStartedMessage | CallEndedMessage | ProgressMessage | InterimMessage | CallMetricsMessage | AlertMessage | CategorisedMessage | InsightsMessage | EvaluationMessage
"""Whatever the gateway sends, told apart by `type`."""
