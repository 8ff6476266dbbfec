"""Search through what was said, and statistics over calls.

A changer must know: both take the filters of the list of calls and count each call once, as the version has it that is
shown.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from streams.api import queries
from streams.api.access import Caller, caller
from streams.api.calls import Utterance, as_utterance, rounded, utc
from streams.api.parameters import SearchAsked, StatisticsAsked
from streams.api.problems import Fault
from streams.api.queries import Store

router = APIRouter(tags=["search"])

Viewer = Annotated[Caller, Depends(caller("viewer"))]

DAYS: Final = 30
"""Of statistics, where no time is asked for."""
HOURS: Final = 31 * 24
"""Most stretches of an hour in one answer; more are days."""


class CallOfHit(BaseModel):
    """The call in which it was said."""

    call_id: str = Field(examples=["billing-4711"])
    tenant: str
    queue: str
    agent: str
    started_at: str
    pipeline_version: str


class Hit(BaseModel):
    """An utterance that was found."""

    call: CallOfHit
    spoken_at: str = Field(examples=["2026-11-22T08:00:05.900Z"])
    utterance: Utterance


class Hits(BaseModel):
    """A page of them, the latest first."""

    items: list[Hit]
    next: str | None


@router.get("/search", response_model=Hits)
def search(request: Request, who: Viewer, asked: Annotated[SearchAsked, Query()]) -> dict[str, Any]:
    """Utterances in which all of these words were said, the latest first."""
    store: Store = request.app.state.store
    rows, cursor = queries.search(store, who, asked)
    items = [
        {
            "call": {name: row[name] for name in ("call_id", "tenant", "queue", "agent", "pipeline_version")}
            | {"started_at": utc(row["call_started_at"])},
            "spoken_at": utc(row["spoken_at"]),
            "utterance": as_utterance(row, []),
        }
        for row in rows
    ]
    return {"items": items, "next": cursor}


class Counts(BaseModel):
    """What is counted of some calls. Of those that go on only their number."""

    calls: int = Field(examples=[120])
    live: int = Field(examples=[3])
    duration_ms: int
    utterances: int
    words: int
    talk_ms: int
    silence_ms: int = Field(description="gaps of 5 s and more")
    negative: int = Field(description="utterances")
    neutral: int
    positive: int
    score: float | None = Field(description="mean of the utterances", examples=[-0.08])
    customer_score: float | None = Field(description="of those of customers")
    emotion_ms: dict[str, int] = Field(description="talk by emotion", examples=[{"neutral": 900_000, "anger": 41_000}])


class CountsAt(Counts):
    """Of a stretch of time."""

    at: str = Field(examples=["2026-11-22T00:00:00Z"])


class CountsOf(Counts):
    """Of a queue or an agent."""

    name: str = Field(examples=["billing"])


class Named(BaseModel):
    """How many calls; of alerts how many alerts."""

    name: str
    calls: int


class FormScore(BaseModel):
    """The score cards of a form."""

    name: str = Field(examples=["service"])
    calls: int = Field(description="with a score")
    score: float = Field(description="mean, 0 to 100", examples=[74.2])


class Statistics(BaseModel):
    """Calls of a time, counted."""

    since: str = Field(alias="from")
    until: str = Field(alias="to")
    by: str
    all: Counts
    times: list[CountsAt]
    queues: list[CountsOf] = Field(description="those with most calls")
    agents: list[CountsOf] = Field(description="those with most calls")
    categories: list[Named]
    alerts: list[Named] = Field(description="by rule")
    topics: list[Named]
    issues: list[Named]
    resolved: list[Named] = Field(description="yes, no, unknown")
    forms: list[FormScore] = Field(description="score cards, those of most calls first")


@router.get("/statistics", response_model=Statistics)
def statistics(request: Request, who: Viewer, asked: Annotated[StatisticsAsked, Query()]) -> dict[str, Any]:
    """Calls counted: in all, by hour or day, by queue and agent, and what was found in them. Without a time: of the
    last 30 days."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    until = asked.until or max(now, asked.since or now)
    since = asked.since or until - timedelta(days=DAYS)
    if asked.by == "hour" and until - since > timedelta(hours=HOURS):
        raise Fault(
            422, f"by: hours of at most {HOURS // 24} days in one answer; ask for days, or for less time", "too_many"
        )
    asked = asked.model_copy(update={"since": since, "until": until})
    tables = queries.statistics(request.app.state.store, who, asked, asked.by)
    whole = next(iter(tables.get("all", [])), None)
    return {
        "from": _iso(since),
        "to": _iso(until),
        "by": asked.by,
        "all": _counts(whole) if whole else dict.fromkeys(Counts.model_fields, 0) | _NOTHING,
        "times": sorted(
            (_counts(row) | {"at": utc(row["time"])} for row in tables.get("times", [])), key=lambda one: one["at"]
        ),
        "queues": [_counts(row) | {"name": row["of_queue"]} for row in tables.get("queues", [])],
        "agents": [_counts(row) | {"name": row["of_agent"]} for row in tables.get("agents", [])],
        **{
            name: [{"name": row["name"], "calls": int(row["calls"])} for row in tables.get(name, [])]
            for name in ("categories", "alerts", "topics", "issues", "resolved")
        },
        "forms": [
            {"name": row["name"], "calls": int(row["calls"]), "score": rounded(row["score"])}
            for row in tables.get("forms", [])
        ],
    }


_NOTHING: Final[dict[str, Any]] = {"score": None, "customer_score": None, "emotion_ms": {}}


def _counts(row: dict[str, Any]) -> dict[str, Any]:
    return {name: int(row[name]) for name in Counts.model_fields if name not in _NOTHING} | {
        "score": rounded(row["score"]),
        "customer_score": rounded(row["customer_score"]),
        "emotion_ms": {name: int(value) for name, value in row["emotion_ms"].items()},
    }


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
