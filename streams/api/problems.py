"""Errors of the API: whatever goes wrong, the answer is `{"error", "message", "details"}` with the status that fits.

A changer must know: what a part of the system says of itself (addresses, paths, SQL) goes into the log and never into
an answer. An endpoint raises `Fault`; everything else that it may meet is made one here.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import KafkaException
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from schemas.errors import CalltideError

log = logging.getLogger(__name__)

FAULTS_SHOWN: Final = 20
"""Of one request, in an answer."""
AGAIN_S: Final = 5
"""Judgement: after so long it is worth while to ask again for what was away."""
NAMES: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    409: "conflict",
    410: "gone",
    411: "length_required",
    412: "precondition_failed",
    413: "too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    422: "invalid",
    423: "locked",
    429: "too_many_requests",
    500: "internal",
    503: "unavailable",
}
_WORDS: Final = {
    404: "there is nothing at this address; /api/v1/openapi.json lists what there is",
    405: "this address does not take that method; the header Allow names those it takes",
    413: "the request is too large; send less",
}


_EXAMPLES: Final[dict[int, tuple[str, dict[str, Any]]]] = {
    401: ("who asks? send a key as X-API-Key, or a token as Authorization: Bearer", {}),
    403: ("the role viewer may not do this; admin or supervisor may", {"role": "viewer"}),
    404: ("there is no call 'billing-4711'; see that the name is right", {"call": "billing-4711"}),
    409: ("several tenants have a call 'billing-4711'; choose one by ?tenant=", {"tenants": ["acme", "beta"]}),
    422: ("limit: Input should be less than or equal to 200; see docs/api.md", {"faults": [
        {"in": "query", "name": "limit", "message": "Input should be less than or equal to 200"},
    ]}),
    429: ("more than 1200 requests a minute; wait 2 s", {"requests_per_minute": 1_200}),
    503: ("clickhouse does not answer now; try again in some seconds", {"part": "clickhouse"}),
}  # fmt: skip


class Problem(BaseModel):
    """Every error."""

    error: str = Field(description="which sort, for programs", examples=["not_found"])
    message: str = Field(
        description="what and what to do, for people",
        examples=["there is no call billing-4711; see that the id is right"],
    )
    details: dict[str, Any] = Field({}, description="more for programs; the request id is among it")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an endpoint says of these statuses in OpenAPI."""
    return {
        status: {
            "model": Problem,
            "description": NAMES[status].replace("_", " "),
            "content": {"application/json": {"example": _example(status)}},
        }
        for status in statuses
    }


def _example(status: int) -> dict[str, Any]:
    message, details = _EXAMPLES.get(status, ("what and what to do", {}))
    return {"error": NAMES[status], "message": message, "details": details | {"request_id": "5f0c2c1a"}}


COMMON: Final = documented(400, 401, 403, 422, 429, 503)
"""What any endpoint may answer."""


class Fault(Exception):
    """An answer that is an error. `error` is its name for programs, `message` one line of what and what to do."""

    def __init__(
        self,
        status: int,
        message: str,
        error: str = "",
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = error or NAMES[status]
        self.message = message
        self.details = dict(details or {})
        self.headers = dict(headers or {})


def not_found(what: str, name: str) -> Fault:
    """That there is no such thing, or none that the caller may see: the same answer for both."""
    return Fault(404, f"there is no {what} {name[:200]!r}; see that the name is right", details={what: name[:200]})


def unavailable(part: str, message: str = "", error: str = "unavailable") -> Fault:
    """That a part of the system is away."""
    message = message or f"{part} does not answer now; try again in some seconds"
    return Fault(503, message, error, {"part": part}, {"Retry-After": str(AGAIN_S)})


def answer(request: Request, fault: Fault) -> Response:
    """The fault as a response."""
    details = fault.details | {"request_id": getattr(request.state, "request_id", "")}
    content = {"error": fault.error, "message": fault.message, "details": details}
    return JSONResponse(content, fault.status, {"Cache-Control": "no-store"} | fault.headers)


def fault_of(error: Exception) -> Fault:
    """What an exception is to a caller; what only the operator may know of it is logged."""
    match error:
        case Fault():
            return error
        case HTTPException():
            message = _WORDS.get(error.status_code) or f"{error.detail}; see docs/api.md"
            name = NAMES.get(error.status_code, "error")
            return Fault(error.status_code, message, name, headers=error.headers)
        case RequestValidationError():
            return _invalid(error)
        case ClickHouseError():
            log.warning("clickhouse: %s", str(error).splitlines()[0][:500] if str(error) else type(error).__name__)
            return unavailable("clickhouse")
        case KafkaException():
            log.warning("kafka: %s", error)
            return unavailable("kafka")
        case CalltideError():
            log.warning("%s", error)
            return unavailable("service", "a part of the service does not answer now; try again in some seconds")
    log.error("an exception that nobody expected", exc_info=error)
    return Fault(500, "this should not have happened; tell the operator the request id", "internal")


def _invalid(error: RequestValidationError) -> Fault:
    faults = []
    for one in error.errors()[:FAULTS_SHOWN]:
        where, *path = one["loc"] or ("body",)
        # Without the value: it may be a secret that stands in the wrong place.
        faults.append({"in": str(where), "name": ".".join(map(str, path))[:200], "message": one["msg"][:300]})
    first = faults[0] if faults else {"name": "the request", "message": "is wrong"}
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    message = f"{first['name'] or 'the body'}: {first['message']}{more}; see docs/api.md"
    return Fault(422, message, "invalid", {"faults": faults})


def install(app: FastAPI) -> None:
    """Have every error of the application answered so."""

    async def handle(request: Request, error: Exception) -> Response:
        return answer(request, fault_of(error))

    for kind in (Fault, HTTPException, RequestValidationError, ClickHouseError, KafkaException, CalltideError):
        app.add_exception_handler(kind, handle)
