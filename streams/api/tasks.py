"""Tasks: what was asked of Calltide over its API and how far it is. What people see lies in ClickHouse (`tasks`,
`task_chunks`); what is still to be done lies in `<home>/uploads/tasks`, a directory for each task with its order and
its recording, until it is done.

A changer must know: who takes an order writes its directory first and its row then, and who works on it
(streams/api/feeder.py) writes the row anew from the order: so a crash between the two loses nothing. Rows are written
from several programs; the revision says which one stays (deploy/clickhouse/0018_tasks.sql).
"""

import hashlib
import shutil
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from clickhouse_connect.driver.client import Client
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from schemas.events import CallInfo, UtcTime
from streams.api.access import Caller, caller
from streams.api.parameters import Page, TaskId, from_cursor, to_cursor
from streams.api.problems import Fault, documented, not_found
from streams.packets import now
from streams.settings import Settings
from streams.sink import connect

State = Literal["pending", "processing", "completed", "failed", "cancelled"]
Kind = Literal["upload", "transcribe", "analyze"]
FINAL: Final[tuple[State, ...]] = ("completed", "failed", "cancelled")
ANSWER_S: Final = 30
TIME_BITS: Final = 42
"""Of a revision: Unix milliseconds until the year 2109."""
CHUNKS_AT_ONCE: Final = 10_000
"""Rows in one insert."""


class Order(BaseModel):
    """What is to be done: all that the feeder needs, as it lies in `order.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: str
    tenant: str
    kind: Kind
    call_id: str
    pipeline_version: str = Field(description="of what comes of it")
    created_at: UtcTime
    attempt: int = 1
    asked_by: str = ""
    source: str = ""
    sha256: str = ""
    bytes: int = 0
    duration_ms: int | None = None
    info: CallInfo | None = Field(default=None, description="of an upload: the call that it is")
    container: str = Field(default="", description="of an upload: what its recording is read as")
    stored: str = Field(default="", description="of an upload: the object that is its recording; empty: it lies here")
    etag: str = Field(default="", description="of that object, as it was when it was taken")

    @property
    def key(self) -> tuple[str, str]:
        """By which the tables know it."""
        return self.tenant, self.task_id


class Chunk(BaseModel):
    """A part of a recording. Completed: Kafka has all of it."""

    number: int
    state: Literal["pending", "processing", "completed", "failed"]
    start_ms: int
    end_ms: int


class Task(BaseModel):
    """What was asked and how far it is."""

    task_id: str = Field(examples=["5d1c2f0e9b7a4c6d8e0f1a2b3c4d5e6f"])
    state: State
    kind: Kind = "upload"
    calls: list[str] = Field(description="what is heard, or is to be", examples=[["billing-4711"]])
    version: str = Field("", description="pipeline version of what comes of it")
    file: str = Field("", description="name of the recording, as it was given")
    bytes: int = 0
    duration_ms: int | None = Field(None, description="of the recording; null: not known yet")
    progress: dict[str, float] = Field(
        description="stage → the share of the recording that it has written: ingest (into Kafka), the stages of the "
        "chain, insights",
        examples=[{"ingest": 1.0, "vad": 1.0, "diarization": 1.0, "asr": 0.42, "emotion": 0.42, "sentiment": 0.41}],
    )
    chunks: list[Chunk] = []
    error: str | None = None
    duplicate: bool = Field(False, description="in the answer to an upload: the recording was there before")
    created_at: UtcTime
    updated_at: UtcTime


class Tasks(BaseModel):
    """A page of tasks."""

    items: list[Task]
    next: str | None = Field(None, description="cursor of the next page")


_COLUMNS: Final = (
    "tenant", "task_id", "kind", "state", "call_id", "pipeline_version", "source", "asked_by", "sha256", "bytes",
    "duration_ms", "progress", "error", "created_at", "updated_at", "attempt", "revision",
)  # fmt: skip
_SHOWN: Final = ", ".join(_COLUMNS[1:-1])
_CHUNK_COLUMNS: Final = (
    "tenant", "task_id", "number", "call_id", "state", "start_ms", "end_ms", "error", "created_at", "revision",
)  # fmt: skip
_CHUNK_RANKS: Final = {"pending": 0, "processing": 1, "failed": 2, "completed": 3}

_CANCEL: Final = f"""
INSERT INTO tasks ({", ".join(_COLUMNS)})
SELECT
    {", ".join(_COLUMNS[:3])}, 'cancelled', {", ".join(_COLUMNS[4:-3])}, now64(3), attempt,
    bitShiftLeft(toUInt64(attempt), {TIME_BITS + 1}) + bitShiftLeft(toUInt64(1), {TIME_BITS})
        + toUInt64(toUnixTimestamp64Milli(now64(3)))
FROM tasks FINAL
WHERE tenant = {{tenant:String}} AND task_id = {{task:String}} AND NOT has({{final:Array(String)}}, state)
"""


class Store:
    """The tables. Every method raises Unreachable when no ClickHouse answers, ClickHouseError when it refuses."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Client | None = None
        self._lock = threading.Lock()

    @property
    def client(self) -> Client:
        """The connection, made when it is first wanted."""
        with self._lock:
            if self._client is None:
                self._client = connect(self._settings, answer_s=ANSWER_S)
            return self._client

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def put(self, order: Order, state: State, progress: Mapping[str, float] | None = None, error: str = "") -> Task:
        """Write how far a task is."""
        at = now()
        row = {
            **order.model_dump(include={"tenant", "task_id", "kind", "call_id", "pipeline_version", "source"}),
            **order.model_dump(include={"asked_by", "sha256", "bytes", "duration_ms", "attempt"}),
            "state": state,
            "progress": dict(progress or {}),
            "error": error,
            "created_at": order.created_at,
            "updated_at": at,
            "revision": order.attempt << TIME_BITS + 1 | (state in FINAL) << TIME_BITS | round(at.timestamp() * 1_000),
        }
        self.client.insert("tasks", [[row[name] for name in _COLUMNS]], column_names=_COLUMNS)
        return _task([row[name] for name in _COLUMNS[1:-1]])

    def chunks(self, order: Order, chunks: Iterable[Chunk], error: str = "") -> None:
        """Write how far these chunks are."""
        rows = [
            (
                *order.key, one.number, order.call_id, one.state, one.start_ms, one.end_ms, error, order.created_at,
                order.attempt << 8 | _CHUNK_RANKS[one.state],
            )
            for one in chunks
        ]  # fmt: skip
        for first in range(0, len(rows), CHUNKS_AT_ONCE):
            self.client.insert("task_chunks", rows[first : first + CHUNKS_AT_ONCE], column_names=_CHUNK_COLUMNS)

    def chunks_of(self, tenant: str, task_id: str) -> list[Chunk]:
        """Of a task, in order."""
        rows = self.client.query(
            "SELECT number, state, start_ms, end_ms FROM task_chunks FINAL"
            " WHERE tenant = {tenant:String} AND task_id = {task:String} ORDER BY number",
            {"tenant": tenant, "task": task_id},
        ).result_rows
        return [Chunk(number=n, state=state, start_ms=start, end_ms=end) for n, state, start, end in rows]

    def done_to(self, order: Order) -> int:
        """The first chunk of this attempt that Kafka has not taken."""
        rows = self.client.query(
            "SELECT number FROM task_chunks FINAL WHERE tenant = {tenant:String} AND task_id = {task:String}"
            " AND state = 'completed' AND bitShiftRight(revision, 8) = {attempt:UInt16} ORDER BY number",
            {"tenant": order.tenant, "task": order.task_id, "attempt": order.attempt},
        ).result_rows
        number = 0
        while number < len(rows) and rows[number][0] == number:
            number += 1
        return number

    def find(self, tenant: str | None, task_id: str, chunks: bool = True) -> tuple[Task, str, int] | None:
        """(the task, its tenant, which attempt it is); `tenant` None: of any."""
        rows = self.client.query(
            f"SELECT {_SHOWN}, tenant FROM tasks FINAL WHERE task_id = {{task:String}}"
            + (" AND tenant = {tenant:String}" if tenant is not None else ""),
            {"task": task_id, "tenant": tenant or ""},
        ).result_rows
        if not rows:
            return None
        *row, owner = rows[0]
        task = _task(row)
        return task.model_copy(update={"chunks": self.chunks_of(owner, task_id) if chunks else []}), owner, row[-1]

    def page(self, tenant: str | None, state: Sequence[str], limit: int, before: tuple[int, str] | None) -> list[Task]:
        """The latest first, without their chunks. `before`: behind this one, (Unix milliseconds, id)."""
        conditions = ["1"]
        if tenant is not None:
            conditions.append("tenant = {tenant:String}")
        if state:
            conditions.append("state IN {states:Array(String)}")
        if before is not None:
            conditions.append("(toUnixTimestamp64Milli(created_at), task_id) < ({ms:Int64}, {task:String})")
        ms, task_id = before or (0, "")
        rows = self.client.query(
            f"SELECT {_SHOWN} FROM tasks FINAL WHERE {' AND '.join(conditions)}"
            " ORDER BY created_at DESC, task_id DESC LIMIT {limit:UInt32}",
            {"tenant": tenant or "", "states": [*state], "ms": ms, "task": task_id, "limit": limit},
        ).result_rows
        return [_task(row) for row in rows]

    def cancel(self, tenant: str, task_id: str) -> None:
        """Nobody wants the task any more; without effect where it has ended."""
        self.client.command(_CANCEL, {"tenant": tenant, "task": task_id, "final": [*FINAL]})

    def cancelled(self, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the tasks, (tenant, id), that nobody wants any more."""
        if not keys:
            return set()
        rows = self.client.query(
            "SELECT tenant, task_id FROM tasks FINAL WHERE state = 'cancelled' AND task_id IN {tasks:Array(String)}",
            {"tasks": [task_id for _, task_id in keys]},
        ).result_rows
        return {(tenant, task_id) for tenant, task_id in rows} & {*keys}

    def calls(self, call_id: str) -> list[tuple[str, str, str, datetime, str]]:
        """Whose call that is: (tenant, SHA-256 of its recording, how it ended, when it began, pipeline version)."""
        return [
            (tenant, digest, reason, began.replace(tzinfo=UTC), version)
            for tenant, digest, reason, began, version in self.client.query(
                "SELECT tenant, metadata['sha256'], end_reason, started_at, pipeline_version FROM calls FINAL"
                " WHERE call_id = {call:String}",
                {"call": call_id},
            ).result_rows
        ]

    def doing(self, tenant: str, call_id: str, kind: Kind) -> Task | None:
        """The task that does just this now."""
        rows = self.client.query(
            f"SELECT {_SHOWN} FROM tasks FINAL WHERE tenant = {{tenant:String}} AND call_id = {{call:String}}"
            " AND kind = {kind:String} AND state IN ('pending', 'processing') ORDER BY created_at DESC LIMIT 1",
            {"tenant": tenant, "call": call_id, "kind": kind},
        ).result_rows
        return _task(rows[0]) if rows else None


def _task(row: Sequence[Any]) -> Task:
    (task_id, kind, state, call_id, version, source, _by, _sha256, size, duration_ms, progress, error, *times) = row
    created_at, updated_at = (moment.replace(tzinfo=UTC) for moment in times[:2])
    return Task(
        task_id=task_id,
        state=state,
        kind=kind,
        calls=[call_id],
        version=version,
        file=source,
        bytes=size,
        duration_ms=duration_ms,
        progress={stage: round(share, 4) for stage, share in progress.items()},
        error=error or None,
        created_at=created_at,
        updated_at=updated_at,
    )


class Queue:
    """What is to be done on this machine: `<home>/uploads/tasks/ID/order.json`, and beside it the `recording`."""

    def __init__(self, settings: Settings) -> None:
        self.uploads = settings.directory / "uploads"
        self.directory = self.uploads / "tasks"
        self.incoming = self.uploads / "incoming"

    def add(self, order: Order, recording: Path | None = None) -> None:
        """Take an order; `recording` is moved. What is there of an earlier attempt goes."""
        new = self.directory / f".{uuid.uuid4().hex}"
        new.mkdir(parents=True)
        try:
            (new / "order.json").write_text(order.model_dump_json())
            if recording is not None:
                recording.replace(new / "recording")
            self.remove(order.task_id)
            new.rename(self.place(order.task_id))
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def place(self, task_id: str) -> Path:
        """Its directory."""
        return self.directory / task_id

    def has(self, task_id: str) -> bool:
        """Whether it is still to be done here."""
        return (self.place(task_id) / "order.json").exists()

    def orders(self) -> list[Order]:
        """What there is, the oldest first."""
        found = []
        for path in self.directory.glob("[!.]*/order.json"):
            try:
                found.append(Order.model_validate_json(path.read_text()))
            except FileNotFoundError:  # removed in this moment
                continue
        return sorted(found, key=lambda order: (order.created_at, order.task_id))

    def remove(self, task_id: str) -> None:
        """It is done."""
        shutil.rmtree(self.place(task_id), ignore_errors=True)


def upload_id(tenant: str, sha256: str) -> str:
    """Of the task of a recording: the same for the same bytes, so that whoever brings them twice meets one task."""
    return hashlib.sha256(f"{tenant}\0{sha256}".encode()).hexdigest()[:32]


def store_of(request: Request) -> Store:
    """The application's store."""
    state = request.app.state
    if not hasattr(state, "tasks"):
        state.tasks = Store(state.settings)
    found: Store = state.tasks
    return found


Reader = Annotated[Caller, Depends(caller("viewer", "ingest"))]
Feeder = Annotated[Caller, Depends(caller("ingest"))]
router = APIRouter(tags=["tasks"])


def known(store: Store, who: Caller, task_id: str) -> tuple[Task, str, int]:
    """(the task, its tenant, which attempt it is). Raises Fault 404 for one that is not there, or not the caller's."""
    found = store.find(who.tenant, task_id)
    if found is None:
        raise not_found("task", task_id)
    return found


class TasksAsked(Page):
    """What `GET /tasks` takes."""

    state: list[State] = Field([], max_length=5, description="in any of these states")


@router.get("/tasks")
def list_tasks(request: Request, who: Reader, asked: Annotated[TasksAsked, Query()]) -> Tasks:
    """Tasks, the latest first, without their chunks."""
    place = from_cursor("tasks", asked.cursor, int, str)
    before = (place[0], place[1]) if place else None
    found = store_of(request).page(who.tenant, asked.state, asked.limit + 1, before)
    shown = found[: asked.limit]
    if len(found) == len(shown):
        return Tasks(items=shown)
    last = shown[-1]
    return Tasks(items=shown, next=to_cursor("tasks", round(last.created_at.timestamp() * 1_000), last.task_id))


@router.get("/tasks/{task_id}", responses=documented(404))
def get_task(request: Request, who: Reader, task_id: TaskId) -> Task:
    """How far a task is: by stage, from what the stages have written, and by chunk of its recording."""
    return known(store_of(request), who, task_id)[0]


@router.delete("/tasks/{task_id}", responses=documented(404, 409))
def cancel_task(request: Request, who: Feeder, task_id: TaskId) -> Task:
    """Cancel a task. What is in Kafka already is heard; the call ends there, as interrupted."""
    store = store_of(request)
    task, tenant, _ = known(store, who, task_id)
    if task.state == "cancelled":
        return task
    if task.state in FINAL:
        raise Fault(409, f"the task is {task.state}; there is nothing to cancel", details={"state": task.state})
    store.cancel(tenant, task_id)
    return known(store, who, task_id)[0]
