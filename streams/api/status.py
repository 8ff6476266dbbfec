"""How the system does: its stages and how far they are behind, its models, its versions; and who has listened.

A changer must know: Kafka is asked at most every few seconds, however many pages are open, and what does not answer is
said to be away instead of failing the whole answer.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Annotated, Any, Final, Literal

from cachetools import TTLCache, cachedmethod
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from schemas.topics import ALERTS, CALL_METRICS, INSIGHTS, SCORES, STAGES, lanes
from streams import kafka
from streams.api import queries
from streams.api.access import Caller, caller
from streams.api.calls import utc
from streams.api.parameters import Page
from streams.api.problems import Fault
from streams.api.queries import Store
from streams.settings import Settings

router = APIRouter(tags=["system"])

Viewer = Annotated[Caller, Depends(caller("viewer"))]
Admin = Annotated[Caller, Depends(caller("admin"))]

FRESH_S: Final = 3.0
ANSWER_S: Final = 2.0
"""Judgement: who looks at how things are does not want to wait for what is away."""
FEW: Final = 100
"""Offsets. Judgement: of so many it is looked whether there is any record among them. Where a stage has read all there
is, some are left in each partition: Kafka's marks of the ends of transactions."""
LOOK_S: Final = 0.5


class Stage(BaseModel):
    """A stage of the chain in one lane, or what reads its results."""

    name: str = Field(examples=["asr"])
    lane: Literal["live", "batch"]
    workers: int = Field(description="that work on it now", examples=[2])
    lag: int | None = Field(
        description="records that wait for it, 0 when there is none; where some do, Kafka's marks between them are "
        "counted, too; null: nothing is known of it yet",
        examples=[0],
    )


class Model(BaseModel):
    """What a stage hears or judges with, as set."""

    stage: str = Field(examples=["asr"])
    model: str = Field(examples=["base.en"])


class VersionShown(BaseModel):
    """A pipeline version."""

    name: str = Field(examples=["v1"])
    calls: int = Field(description="that it has heard, of those you may see", examples=[5_200])
    first: str = Field(description="when its first call began")
    last: str
    promoted: bool = Field(description="whether it is shown when nobody chooses one")
    live: bool = Field(description="whether live calls are heard as it")


class Status(BaseModel):
    """How the system does."""

    calltide: str = Field(examples=["0.1.0"])
    pipeline_version: str = Field(examples=["v1"])
    kafka: Literal["ok", "away"]
    clickhouse: Literal["ok", "away"]
    stages: list[Stage]
    models: list[Model]
    versions: list[VersionShown]
    you: dict[str, str | None] = Field(
        description="who asks", examples=[{"tenant": "acme", "role": "viewer", "name": "floor"}]
    )


class Watch:
    """What Kafka knows of the stages."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache: TTLCache[Any, list[dict[str, Any]] | None] = TTLCache(1, FRESH_S)
        self._lock = threading.Lock()
        self._groups = kafka.Groups(settings)

    def close(self) -> None:
        """Let go of the connections."""
        self._groups.close()

    def _lags(self, group: str, ends: dict[tuple[str, int], tuple[int, int]]) -> dict[tuple[str, int], int]:
        """Topic and partition → how many records wait for a group, where that is known. `ends`: first and last
        offset."""
        try:
            places = self._groups.committed(group, [TopicPartition(*place) for place in ends], ANSWER_S)
            read = [place for place in places if place.offset >= 0]
            found = {}
            for one in read:
                low, high = ends[one.topic, one.partition]
                found[one.topic, one.partition] = max(high - max(one.offset, low), 0)
            few = [one for one in read if 0 < found[one.topic, one.partition] <= FEW]
            done = self._groups.without_more(group, few, LOOK_S) if few else set()
        except KafkaException:
            return {}  # whoever keeps its offsets is not ready
        return {place: 0 if place in done else lag for place, lag in found.items()}

    def stages(self) -> list[dict[str, Any]] | None:
        """Each stage and reader, its workers and its lag; None: Kafka does not answer."""
        with self._lock:  # who comes meanwhile gets the same answer
            return self._asked()

    @cachedmethod(lambda self: self._cache)
    def _asked(self) -> list[dict[str, Any]] | None:
        prefix = self._settings.kafka.group_prefix
        rows = [(row.name, row.lane, f"{prefix}.{row.id}", row.reads) for first in STAGES for row in lanes(first)]
        rows += [("sink", "live", f"{prefix}.sink", topic) for topic in (SCORES, CALL_METRICS, ALERTS, INSIGHTS)]
        admin = AdminClient(kafka.client(self._settings))
        try:
            there = admin.list_topics(timeout=ANSWER_S).topics
            ends = {
                topic: kafka.ranges(admin, topic, there[topic].partitions, ANSWER_S)
                for topic in {row[3] for row in rows} & {*there}
            }
            groups = sorted({row[2] for row in rows})
            members = admin.describe_consumer_groups(groups, request_timeout=ANSWER_S)
            held = {
                group: {
                    (topic, number): found
                    for _, _, of, topic in rows
                    if of == group
                    for number, found in ends.get(topic, {}).items()
                }
                for group in groups
            }
            with ThreadPoolExecutor(len(groups)) as pool:
                lags = dict(zip(groups, pool.map(lambda group: self._lags(group, held[group]), groups), strict=True))
            workers = {group: len(answer.result().members) for group, answer in members.items()}
        except KafkaException:
            return None
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for name, lane, group, topic in rows:
            one = found.setdefault((name, lane), {"name": name, "lane": lane, "workers": workers[group], "lag": None})
            known = [lag for (read, _), lag in lags[group].items() if read == topic]
            if known:
                one["lag"] = (one["lag"] or 0) + sum(known)
        return list(found.values())


def _models(settings: Settings) -> list[dict[str, str]]:
    named: dict[str, Callable[[], Any]] = {
        "asr": lambda: settings.asr.model,
        "emotion": lambda: settings.emotion.model,
        "sentiment": lambda: settings.sentiment.model,
        "llm": lambda: settings.llm.model if settings.llm.url else "",
    }
    return [{"stage": stage, "model": str(of())} for stage, of in named.items()]


@router.get("/status", response_model=Status)
def get_status(request: Request, who: Viewer) -> dict[str, Any]:
    """Stages, how far they are behind, models and versions."""
    state = request.app.state
    settings: Settings = state.settings
    stages = state.watch.stages()
    try:
        versions, clickhouse = queries.versions(state.store, who), "ok"
    except Fault:
        versions, clickhouse = [], "away"
    return {
        "calltide": version("calltide"),
        "pipeline_version": settings.pipeline_version,
        "kafka": "away" if stages is None else "ok",
        "clickhouse": clickhouse,
        "stages": stages or [],
        "models": _models(settings),
        "versions": [
            {
                "name": row["name"],
                "calls": int(row["calls"]),
                "first": utc(row["first"]),
                "last": utc(row["last"]),
                "promoted": bool(row["promoted"]),
                "live": bool(row["live"]),
            }
            for row in versions
        ],
        "you": {"tenant": who.tenant, "role": who.role, "name": who.name},
    }


class Audited(BaseModel):
    """Who heard, exported or had explained what."""

    at: str = Field(examples=["2026-11-22T09:00:00.000Z"])
    tenant: str = Field(description="of the call")
    call_id: str = Field(examples=["billing-4711"])
    caller: str = Field(description="name of the key, or subject of the token", examples=["floor"])
    caller_tenant: str = Field(description="empty: all tenants")
    role: str = Field(examples=["supervisor"])
    action: str = Field(description="audio, explanation, export", examples=["audio"])
    detail: str
    request_id: str


class AuditLog(BaseModel):
    """A page of the audit log, the latest first."""

    items: list[Audited]
    next: str | None


@router.get("/audit", response_model=AuditLog)
def list_audit(request: Request, who: Admin, asked: Annotated[Page, Query()]) -> dict[str, Any]:
    """Who has listened to what: for admins. What one caller does with a call within ten minutes is one line."""
    store: Store = request.app.state.store
    rows, cursor = queries.audited(store, who, asked)
    names = [name for name in Audited.model_fields if name != "at"]
    items = [{"at": utc(row["at"])} | {name: row[name] for name in names} for row in rows]
    return {"items": items, "next": cursor}
