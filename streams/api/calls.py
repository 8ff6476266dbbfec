"""Calls: the list of them, and what is known of each.

A changer must know: whoever may read a call is decided by the tenant alone, in queries.py; what may be heard of it is
for supervisors, and is written into the audit log before it is answered. What is kept of calls that have ended is kept
for a minute only, since a redriven utterance or a replay may still add to one.
"""

import json
import threading
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from cachetools import LRUCache, TTLCache
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field

from schemas.errors import CalltideError
from schemas.events import EvaluationSection, Findings, Outlook
from streams.api import audio, queries
from streams.api.access import Caller, caller
from streams.api.parameters import SLASH, AudioAsked, CallId, CallsAsked, OfCall, Page, UtterancesAsked
from streams.api.problems import Fault, documented, not_found
from streams.api.queries import Found, Store
from streams.settings import Settings

router = APIRouter(tags=["calls"])

Viewer = Annotated[Caller, Depends(caller("viewer"))]
Supervisor = Annotated[Caller, Depends(caller("supervisor"))]

KEPT_BYTES: Final = 32 * 2**20
KEPT_S: Final = 60.0
"""Answers about calls that have ended. Judgement: pages ask for the same a few times within seconds."""
EXPLAINED: Final = 500
"""Explanations that are kept, of calls that have ended: each costs seconds of a core and has some 20 kB."""
EXPLAINING: Final = 3
"""Who waits while one utterance is explained; more are told to come again (judgement: three seconds each)."""
UTTERANCE: Final[dict[str, Any]] = {
    "id": "billing-4711/1/5900", "channel": 1, "start_ms": 5_900, "end_ms": 6_500, "speaker": "customer",
    "role": "customer", "text": "charged twice",
    "words": [{"text": "charged", "start_ms": 5_900, "end_ms": 6_180, "confidence": 0.9}],
    "sentiment": "negative", "emotion": "anger", "emotions": {"anger": 0.8, "neutral": 0.2}, "score": -0.55,
    "alerts": [],
}  # fmt: skip


class Call(BaseModel):
    """A call as lists have it. Times are UTC, durations milliseconds, scores from −1 to 1."""

    call_id: str = Field(examples=["billing-4711"])
    tenant: str = Field(examples=["default"])
    queue: str = Field(examples=["billing"])
    agent: str = Field(examples=["diane"])
    started_at: str = Field(examples=["2026-11-22T08:00:00.000Z"])
    ended_at: str | None = Field(examples=["2026-11-22T08:04:10.250Z"])
    duration_ms: int | None = Field(examples=[250_250])
    state: Literal["live", "ended"]
    pipeline_version: str = Field(examples=["v1"])
    score: float | None = Field(description="mean of its utterances", examples=[-0.21])
    categories: list[str] = Field(examples=[["complaint"]])
    alerts: int = Field(description="how many", examples=[1])
    language: str = Field(description="in which most was said; empty: not known", examples=["en"])
    channels: int = Field(examples=[2])


class Calls(BaseModel):
    """A page of calls."""

    items: list[Call]
    next: str | None = Field(description="cursor of the next page; null: this is the last")


class CallMark(BaseModel):
    """An alert, or a category that the call belongs to from here on."""

    kind: Literal["alert", "category"]
    name: str = Field(description="category", examples=["complaint"])
    rule: str = Field(examples=["angry-customer"])
    severity: str | None = Field(description="of an alert: info, warning, critical", examples=["critical"])
    at_ms: int = Field(description="media time", examples=[6_500])
    text: str = Field(description="of an alert, for people", examples=["the customer is angry"])
    utterances: list[str] = Field(description="what it rests on", examples=[["billing-4711/1/5900"]])


class CallWhole(Call):
    """A call with all that is known of it as a whole."""

    source: str = Field(examples=["billing-4711.wav"])
    metadata: dict[str, str]
    roles: list[str] = Field(description="the party on each channel", examples=[["agent", "customer"]])
    end_reason: str = Field(description="hangup, idle, interrupted; empty: it goes on", examples=["hangup"])
    missing_ms: int = Field(description="audio that never arrived, all channels", examples=[0])
    not_speech_ms: int = Field(description="sound that was taken for none (music, tones)", examples=[0])
    versions: list[str] = Field(description="that have heard it, the one shown by default first", examples=[["v1"]])
    marks: list[CallMark]


class Word(BaseModel):
    """A word with its times in the call."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float


class UtteranceAlert(BaseModel):
    """An alert that rests on the utterance."""

    rule: str
    category: str
    severity: str
    at_ms: int
    message: str


class Utterance(BaseModel):
    """What somebody said."""

    model_config = {"json_schema_extra": {"examples": [UTTERANCE]}}

    id: str = Field(description="CALL/CHANNEL/START_MS")
    channel: int
    start_ms: int
    end_ms: int
    speaker: str
    role: str
    text: str
    words: list[Word]
    language: str
    sentiment: str | None = Field(description="negative, neutral, positive; null: no words were recognised")
    emotion: str | None = Field(description="of the voice; null: not computed")
    emotions: dict[str, float]
    emotion_uncertain: bool
    complex_emotion: str | None
    emotion_skipped: str | None = Field(description="why there is no emotion")
    score: float | None = Field(description="words and voice fused")
    text_score: float | None
    voice_score: float | None
    disagree: bool = Field(description="words and voice say clearly different things")
    confidence: float = Field(description="how sure speech recognition is")
    speaker_confidence: float
    overlap_ms: int
    flags: list[str]
    alerts: list[UtteranceAlert]


class Utterances(BaseModel):
    """A page of a call, in order of time."""

    items: list[Utterance]
    next: str | None


def utc(text: str | None) -> str | None:
    """A time of ClickHouse's as ISO 8601."""
    return text.replace(" ", "T") + "Z" if text else None


def rounded(score: float | None) -> float | None:
    """A mean without the digits that Float32 adds."""
    return None if score is None else round(score, 4)


def as_call(row: dict[str, Any], beside: dict[tuple[str, str, str], dict[str, Any]]) -> dict[str, Any]:
    """A row of `calls`, and what `queries.beside` has of it, as the API shows a call."""
    more = beside.get((row["tenant"], row["pipeline_version"], row["call_id"]), {})
    return {
        "call_id": row["call_id"],
        "tenant": row["tenant"],
        "queue": row["queue"],
        "agent": row["agent"],
        "started_at": utc(row["started_at"]),
        "ended_at": utc(row["ended_at"]),
        "duration_ms": row["duration_ms"],
        "state": "ended" if row["ended_at"] else "live",
        "pipeline_version": row["pipeline_version"],
        "score": rounded(more.get("score")),
        "categories": more.get("categories", []),
        "alerts": int(more.get("alerts", 0)),
        "language": more.get("language") or (row["languages"][0] if len(row["languages"]) == 1 else ""),
        "channels": row["channels"],
    }


def as_utterance(row: dict[str, Any], alerts: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of `utterances` as the API shows it. `alerts`: those that rest on it."""
    words = zip(*(row[f"words.{name}"] for name in ("text", "start_ms", "end_ms", "confidence")), strict=True)
    same = (
        "channel", "start_ms", "end_ms", "speaker", "role", "text", "language", "emotions", "emotion_uncertain",
        "score", "text_score", "voice_score", "disagree", "speaker_confidence", "overlap_ms", "flags",
    )  # fmt: skip
    return {
        "id": f"{row['call_id']}/{row['channel']}/{row['start_ms']}",
        **{name: row[name] for name in same},
        "words": [
            {"text": text, "start_ms": start, "end_ms": end, "confidence": sure} for text, start, end, sure in words
        ],
        "confidence": row["asr_confidence"],
        **{name: row[name] or None for name in ("sentiment", "emotion", "complex_emotion", "emotion_skipped")},
        "alerts": [
            {"rule": one["rule"], "category": one["name"], "severity": one["severity"], "at_ms": one["at_ms"],
             "message": one["text"]}
            for one in alerts
        ],
    }  # fmt: skip


def whole(store: Store, call: Found) -> dict[str, Any]:
    """A call with all that is known of it as a whole."""
    row = call.row
    same = ("source", "metadata", "roles", "end_reason", "missing_ms", "not_speech_ms")
    return (
        as_call(row, queries.beside(store, [row]))
        | {name: row[name] for name in same}
        | {
            "versions": list(call.versions),
            "marks": [
                mark
                | {"severity": mark["severity"] or None}
                | {"utterances": [f"{row['call_id']}/{channel}/{start_ms}" for channel, start_ms in _places(mark)]}
                for mark in queries.marks(store, call)
            ],
        }
    )


def page_of_utterances(store: Store, call: Found, asked: Page) -> dict[str, Any]:
    """What was said in a call."""
    rows, cursor = queries.utterances(store, call, asked)
    marks = queries.marks(store, call) if rows else []
    items = [as_utterance(row, alerts_on(marks, row)) for row in rows]
    return {"items": items, "next": cursor}


def alerts_on(marks: list[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the marks that are alerts and rest on the utterance."""
    place = row["channel"], row["start_ms"]
    return [mark for mark in marks if mark["kind"] == "alert" and place in _places(mark)]


def _places(mark: dict[str, Any]) -> list[tuple[int, int]]:
    return [(one["channel"], one["start_ms"]) for one in mark["utterances"]]


class Kept:
    """Answers about calls that have ended, as they were sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: TTLCache[tuple[Any, ...], bytes] = TTLCache(KEPT_BYTES, KEPT_S, getsizeof=len)

    def answer(self, call: Found, what: tuple[Any, ...], make: Callable[[], Any]) -> Response:
        """The answer: of a call that has ended the one that is kept, if there is one."""
        key = (*call.bound.values(), *what)
        with self._lock:
            content = self._answers.get(key)
        if content is None:
            content = json.dumps(make(), ensure_ascii=False, separators=(",", ":")).encode()
            if call.ended and len(content) < KEPT_BYTES:
                with self._lock:
                    self._answers[key] = content
        return Response(content, media_type="application/json")


@router.get("/calls", response_model=Calls)
def list_calls(request: Request, who: Viewer, asked: Annotated[CallsAsked, Query()]) -> dict[str, Any]:
    """Calls, the latest first."""
    store: Store = request.app.state.store
    rows, cursor = queries.calls(store, who, asked)
    beside = queries.beside(store, rows)
    return {"items": [as_call(row, beside) for row in rows], "next": cursor}


@router.get("/calls/{call_id}", response_model=CallWhole, responses=documented(404, 409))
def get_call(request: Request, who: Viewer, call_id: CallId, asked: Annotated[OfCall, Query()]) -> dict[str, Any]:
    """A call as a whole."""
    store: Store = request.app.state.store
    return whole(store, queries.find(store, who, call_id, asked.version, asked.tenant))


@router.get("/calls/{call_id}/utterances", response_model=Utterances, responses=documented(404, 409))
def list_utterances(
    request: Request,
    who: Viewer,
    call_id: CallId,
    asked: Annotated[UtterancesAsked, Query()],
) -> Response:
    """What was said in a call, in order of time, with speakers and roles as they are known by now."""
    store: Store = request.app.state.store
    call = queries.find(store, who, call_id, asked.version, asked.tenant)
    kept: Kept = request.app.state.kept
    return kept.answer(call, ("utterances", asked.limit, asked.cursor), lambda: page_of_utterances(store, call, asked))


class Party(BaseModel):
    """What is counted of a party; docs/metrics.md says how. More fields than these may come."""

    model_config = {"extra": "allow"}

    role: str = Field(examples=["customer"])
    speaker: str = Field(examples=["customer"])
    utterances: int = Field(examples=[12])
    words: int = Field(examples=[140])
    talk_ms: int = Field(examples=[61_000])
    talk_share: float = Field(examples=[0.41])
    words_per_minute: float | None = Field(examples=[138.0])
    score: float | None = Field(examples=[-0.35])
    negative: int = Field(examples=[6])
    neutral: int = Field(examples=[5])
    positive: int = Field(examples=[1])
    quarters: list[float | None] = Field(description="mean score of each quarter, -5 to 5", examples=[[-1, -3, -2, 0]])
    change: float | None = Field(examples=[1.0])
    emotion_ms: dict[str, int] = Field(examples=[{"anger": 12_000, "neutral": 49_000}])
    longest_monologue_ms: int = Field(examples=[14_000])
    turns: int = Field(examples=[11])
    interruptions: int | None = Field(examples=[2])
    overtalk_ms: int | None = Field(examples=[1_800])


class Silence(BaseModel):
    """A gap in which nobody speaks."""

    start_ms: int
    end_ms: int


class CallFigures(BaseModel):
    """What is counted of a call, so far or as a whole."""

    call_id: str
    pipeline_version: str
    final: bool = Field(description="whether it is of the whole call")
    at_ms: int = Field(description="media time up to which it is known", examples=[250_250])
    score: float | None = Field(examples=[-0.21])
    silences: int = Field(description="gaps of 5 s and more", examples=[1])
    silence_ms: int = Field(examples=[7_000])
    longest_silence_ms: int = Field(examples=[7_000])
    silence_now_ms: int = Field(description="how long nobody has spoken by at_ms", examples=[0])
    hold_ms: int | None = Field(examples=[None])
    dead_air: list[Silence] = Field(description="the longest gaps")
    outlook: Outlook | None = Field(description="how it will probably end; null: no model, too early, or it has ended")
    parties: list[Party]


def figures(store: Store, call: Found) -> dict[str, Any]:
    """What is counted of a call: by the stage while it goes on, by ClickHouse when it has ended, and both together."""
    going = queries.progress(store, call)
    counted = queries.metrics(store, call)
    first = (going or counted or [{}])[0]
    scored = queries.beside(store, [call.row])
    parties = {(row["role"], row["speaker"]): row for row in counted}
    for row in going:
        key = (row["role"], row["speaker"])
        if counted and key not in parties:
            continue  # a role that was found since is in what was counted
        # What both have is counted with the corrections that were known at the end.
        parties[key] = row | parties.get(key, {})
    own: tuple[str, ...] = (
        "tenant",
        "call_id",
        "pipeline_version",
        "started_at",
        "ended_at",
        "duration_ms",
        "queue",
        "agent",
    )
    own += ("topic", "partition", "offset", "written_at", "at_ms", "final", "partial", "call_score", *_OF_ALL)
    own += ("outlook", "outlook_model")
    outlook = None if counted else first.get("outlook")
    return {
        "call_id": call.row["call_id"],
        "pipeline_version": call.row["pipeline_version"],
        "final": bool(counted) or bool(first.get("final")),
        "at_ms": call.row["duration_ms"] if counted else first.get("at_ms", 0),
        "score": rounded(next((row["score"] for row in scored.values()), None)),
        **{name: first.get(name, 0) for name in _OF_ALL if name not in ("dead_air", "hold_ms")},
        "hold_ms": first.get("hold_ms"),
        "dead_air": first.get("dead_air", []),
        "outlook": None if outlook is None else {"negative": rounded(outlook), "model": first["outlook_model"]},
        "parties": [{name: value for name, value in row.items() if name not in own} for row in parties.values()],
    }


_OF_ALL: Final = ("silences", "silence_ms", "longest_silence_ms", "silence_now_ms", "hold_ms", "dead_air")


@router.get("/calls/{call_id}/metrics", response_model=CallFigures, responses=documented(404, 409))
def get_metrics(request: Request, who: Viewer, call_id: CallId, asked: Annotated[OfCall, Query()]) -> Response:
    """Talk, silence, interruptions and scores of each party: so far, or of the whole call."""
    store: Store = request.app.state.store
    call = queries.find(store, who, call_id, asked.version, asked.tenant)
    kept: Kept = request.app.state.kept
    return kept.answer(call, ("metrics",), lambda: figures(store, call))


class CallInsights(Findings):
    """What a call was about; each statement names the utterances that it rests on (docs/insights.md)."""

    call_id: str
    pipeline_version: str
    language: str
    business: str
    utterances: int = Field(description="with words")
    unread: int = Field(description="of these, left out because the call was too long")


def found_insights(store: Store, call: Found) -> dict[str, Any] | None:
    """What the call was about; None: not known, or not yet."""
    row = queries.insights(store, call)
    if row is None:
        return None
    same = ("call_id", "pipeline_version", "language", "business", "utterances", "unread")
    content = {name: row[name] for name in same}
    return content | Findings.model_validate_json(row["findings"]).model_dump(mode="json")


@router.get("/calls/{call_id}/insights", response_model=CallInsights, responses=documented(404, 409))
def get_insights(request: Request, who: Viewer, call_id: CallId, asked: Annotated[OfCall, Query()]) -> dict[str, Any]:
    """Summary, topics, issues, what was promised, coaching and quiz: when a call has ended."""
    store: Store = request.app.state.store
    call = queries.find(store, who, call_id, asked.version, asked.tenant)
    content = found_insights(store, call)
    if content is None:
        why = "they come some seconds after its end" if not call.ended else "its stage may still be at work, or be off"
        raise Fault(404, f"there are no insights of this call; {why}", "no_insights")
    return content


class CallEvaluation(BaseModel):
    """A form filled for a call: what each item has earned, and what it rests on (docs/forms.md)."""

    call_id: str
    pipeline_version: str
    language: str
    form: str = Field(examples=["service"])
    form_version: str = Field(description="a hash of what the form means", examples=["a4c66eb3bf9d"])
    state: str = Field(description="ok; why there is no score, otherwise", examples=["ok"])
    why: str = Field(description="the state in words, unless it is ok", examples=[""])
    score: float | None = Field(description="0 to 100", examples=[92.0])
    judged: float = Field(description="part of the form, by weight, that could be judged", examples=[1.0])
    sections: list[EvaluationSection]


class CallEvaluations(BaseModel):
    """All forms that were filled for a call."""

    items: list[CallEvaluation]
    next: None = Field(None, description="they come on one page")


def evaluations(store: Store, call: Found) -> list[dict[str, Any]]:
    """The forms that were filled for a call; none: there are no forms, or not yet."""
    same = ("call_id", "pipeline_version", "language", "form", "form_version", "state", "why")
    return [
        {name: row[name] for name in same}
        | {"score": rounded(row["score"]), "judged": rounded(row["judged"])}
        | json.loads(row["items"])
        for row in queries.evaluations(store, call)
    ]


@router.get("/calls/{call_id}/evaluations", response_model=CallEvaluations, responses=documented(404, 409))
def get_evaluations(
    request: Request, who: Viewer, call_id: CallId, asked: Annotated[OfCall, Query()]
) -> dict[str, Any]:
    """Score cards: the forms that were filled when the call had ended, some seconds after its end."""
    store: Store = request.app.state.store
    call = queries.find(store, who, call_id, asked.version, asked.tenant)
    return {"items": evaluations(store, call), "next": None}


@router.get(
    "/calls/{call_id}/audio",
    response_class=Response,
    responses={
        200: {"content": {"audio/wav": {}}, "description": "all of it"},
        206: {"content": {"audio/wav": {}}, "description": "the range of bytes that was asked for"},
        304: {"description": "what you have is what there is"},
        **documented(404, 409, 410, 416),
    },
)
def get_audio(
    request: Request,
    who: Supervisor,
    call_id: CallId,
    asked: Annotated[AudioAsked, Query()],
) -> Response:
    """What was spoken, as WAV of 16 bit with the call's channels, by ranges if asked; of a call that goes on as far as
    it has been heard. What was taken out of the words is silent here, too. Who listened is written down."""
    state = request.app.state
    call = queries.find(state.store, who, call_id, tenant=asked.tenant)
    state.store.audit(
        who, call.row["tenant"], call.row["call_id"], "audio",
        "" if asked.channel is None else f"channel {asked.channel}", request.state.request_id,
    )  # fmt: skip
    sounds: audio.Sounds = state.sounds
    return sounds.answer(request, state.store, call, asked.channel)


class Explaining:
    """The explainer, its models loaded when it is first asked; one utterance at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(EXPLAINING)
        self._explainer: Any = None
        self._kept_lock = threading.Lock()
        self._kept: LRUCache[tuple[Any, ...], dict[str, Any]] = LRUCache(EXPLAINED)

    def explain(self, call: Found, which: str) -> dict[str, Any]:
        """Why an utterance was scored as it was. Raises Fault 404 for one that is none, 503 without shap and when too
        many wait; CalltideError when a model cannot be had."""
        from streams import explain

        row = call.row
        key = (*call.bound.values(), which)
        with self._kept_lock:
            known = self._kept.get(key)
        if known is not None:
            return known
        if not self._waiting.acquire(blocking=False):
            raise Fault(
                503,
                "other utterances are being explained; try again in some seconds",
                "busy",
                headers={"Retry-After": "5"},
            )
        try:
            with self._lock:
                if self._explainer is None:
                    try:
                        self._explainer = explain.Explainer(self._settings)
                    except CalltideError as error:
                        raise Fault(503, str(error), "not_installed") from None
                heard = explain.hear(self._settings, row["call_id"], row["pipeline_version"], row["tenant"])
                try:
                    score = heard.find(which)
                except CalltideError:
                    raise not_found("utterance", which) from None
                sound = (
                    explain.read_audio(self._settings, score, heard.partition) if score.emotion else explain.Audio(None)
                )
                content: dict[str, Any] = self._explainer.explain(score, heard.others(score), sound).model_dump(
                    mode="json"
                )
                if call.ended:
                    with self._kept_lock:
                        self._kept[key] = content
                return content
        finally:
            self._waiting.release()


@router.get("/calls/{call_id}/explanations/{utterance}", responses=documented(404, 409))
def get_explanation(
    request: Request,
    who: Supervisor,
    call_id: CallId,
    utterance: Annotated[
        str,
        Path(
            min_length=1,
            max_length=600,
            examples=["1-5900"],
            description="CHANNEL-START_MS, or the utterance's id (its slashes as %2F)",
        ),
    ],
    asked: Annotated[OfCall, Query()],
) -> dict[str, Any]:
    """Why an utterance was scored as it was: what each word adds, and in what the voice differs from how the speaker
    speaks otherwise (docs/explanations.md). It takes some seconds the first time."""
    state = request.app.state
    call = queries.find(state.store, who, call_id, asked.version, asked.tenant)
    which = utterance.replace(SLASH, "/").removeprefix(f"{call.row['call_id']}/").replace("-", "/")
    if which.count("/") != 1 or not which.replace("/", "").isdecimal():
        raise not_found("utterance", utterance.replace(SLASH, "/"))
    explaining: Explaining = state.explaining
    content = explaining.explain(call, which)
    state.store.audit(who, call.row["tenant"], call.row["call_id"], "explanation", which, request.state.request_id)
    return content
