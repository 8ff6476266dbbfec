"""Calls heard again: POST /calls/{id}/transcribe and /analyze, each the replay of one call as a version of its own
(docs/replay.md), which the feeder works on.

A changer must know: what is heard again never takes the place of what was heard. The task names its version, by which
it is read (`?version=`) and compared, and `calltide promote` shows it to all.
"""

import uuid
from typing import Annotated, Any, Final

import anyio
from fastapi import APIRouter, Query, Request, Response

from streams.api import queries
from streams.api.access import Caller
from streams.api.calls import Supervisor
from streams.api.feeding import feeding_of
from streams.api.parameters import CallId, OfCall
from streams.api.problems import Fault, documented
from streams.api.tasks import Kind, Order, Queue, Task, store_of
from streams.packets import now

VERSION_LETTERS: Final = 64
router = APIRouter(tags=["tasks"])


def again(request: Request, who: Caller, call_id: str, tenant: str | None, kind: Kind) -> tuple[Task, bool]:
    """(the task that hears the call again, whether it was there before).

    Raises Fault 404 for a call that is not there, 409 for one that goes on.
    """
    settings = request.app.state.settings
    call = queries.find(request.app.state.store, who, call_id, "", tenant)
    if not call.ended:
        raise Fault(409, f"call {call_id!r} goes on; it can be heard again when it has ended", "live")
    store, queue = store_of(request), Queue(settings)
    if (doing := store.doing(call.row["tenant"], call_id, kind)) is not None:
        return doing.model_copy(update={"duplicate": True}), True
    task_id = uuid.uuid4().hex
    mark = f"-{kind}-{task_id[:8]}"
    order = Order(
        task_id=task_id,
        tenant=call.row["tenant"],
        kind=kind,
        call_id=call_id,
        pipeline_version=settings.pipeline_version[: VERSION_LETTERS - len(mark)] + mark,
        created_at=now(),
        asked_by=who.name,
        source=call.row["source"],
        duration_ms=call.row["duration_ms"],
    )
    queue.add(order)
    task = store.put(order, "pending")
    feeding_of(request).wake()
    return task, False


async def _asked(request: Request, response: Response, who: Caller, call_id: str, asked: OfCall, kind: Kind) -> Task:
    task, before = await anyio.to_thread.run_sync(again, request, who, call_id, asked.tenant, kind)
    response.status_code = 200 if before else 202
    response.headers["Location"] = f"/api/v1/tasks/{task.task_id}"
    return task


ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": Task, "description": "somebody has asked for the same: that task"},
    **documented(404, 409),
}


@router.post("/calls/{call_id}/transcribe", status_code=202, responses=ANSWERS)
async def transcribe(
    request: Request, response: Response, who: Supervisor, call_id: CallId, asked: Annotated[OfCall, Query()]
) -> Task:
    """Hear a call again from speech recognition on, with the models and settings of now."""
    return await _asked(request, response, who, call_id, asked, "transcribe")


@router.post("/calls/{call_id}/analyze", status_code=202, responses=ANSWERS)
async def analyze(
    request: Request, response: Response, who: Supervisor, call_id: CallId, asked: Annotated[OfCall, Query()]
) -> Task:
    """Judge the words of a call again: emotion, sentiment and what is made of them."""
    return await _asked(request, response, who, call_id, asked, "analyze")
