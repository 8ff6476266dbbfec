"""Calls: the list of them, and what is known of each.

A changer must know: whoever may read a call is decided by the tenant alone, in queries.py; what may be heard of it is
for supervisors, and is written into the audit log before it is answered.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from streams.api import queries
from streams.api.access import Caller, caller
from streams.api.parameters import CallsAsked

router = APIRouter(tags=["calls"])

Viewer = Annotated[Caller, Depends(caller("viewer"))]
Supervisor = Annotated[Caller, Depends(caller("supervisor"))]


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


def utc(text: str | None) -> str | None:
    """A time of ClickHouse's as ISO 8601."""
    return text.replace(" ", "T") + "Z" if text else None


def _call(row: dict[str, Any]) -> dict[str, Any]:
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
        "score": None,
        "categories": [],
        "alerts": 0,
        "language": next(iter(row["languages"]), ""),
        "channels": row["channels"],
    }


@router.get("/calls", response_model=Calls)
def list_calls(request: Request, who: Viewer, asked: Annotated[CallsAsked, Query()]) -> dict[str, Any]:
    """Calls, the latest first."""
    rows, cursor = queries.calls(request.app.state.store, who, asked)
    return {"items": [_call(row) for row in rows], "next": cursor}
