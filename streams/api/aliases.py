"""The verbs of older systems, for programs that know them: each does what its counterpart does, and answers so."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from streams.api import again, calls, uploads
from streams.api.calls import Supervisor, Viewer
from streams.api.parameters import CallId, CallsAsked, OfCall
from streams.api.problems import documented
from streams.api.tasks import Feeder, Task, Tasks

router = APIRouter(tags=["aliases"])


@router.post(
    "/upload", status_code=202, response_model=Task | Tasks, responses=documented(409, 413, 415),
    openapi_extra=uploads.BODY,
)  # fmt: skip
async def upload(request: Request, response: Response, who: Feeder) -> Task | Tasks:
    """As POST /calls."""
    return await uploads.upload_calls(request, response, who)


@router.post("/transcribe/{call_id}", status_code=202, responses=again.ANSWERS)
async def transcribe_call(
    request: Request, response: Response, who: Supervisor, call_id: CallId, asked: Annotated[OfCall, Query()]
) -> Task:
    """As POST /calls/{call_id}/transcribe."""
    return await again.transcribe(request, response, who, call_id, asked)


@router.post("/analyze/{call_id}", status_code=202, responses=again.ANSWERS)
async def analyze_call(
    request: Request, response: Response, who: Supervisor, call_id: CallId, asked: Annotated[OfCall, Query()]
) -> Task:
    """As POST /calls/{call_id}/analyze."""
    return await again.analyze(request, response, who, call_id, asked)


@router.get("/all", response_model=calls.Calls)
def all_calls(request: Request, who: Viewer, asked: Annotated[CallsAsked, Query()]) -> dict[str, Any]:
    """As GET /calls."""
    return calls.list_calls(request, who, asked)
