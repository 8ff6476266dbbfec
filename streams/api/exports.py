"""Calls as files: GET /calls/{id}/export and, of many calls, GET /export (docs/exports.md).

A changer must know: many calls are streamed, a few at a time, so that neither memory nor time bound how many there are;
the first of them are asked for before the answer begins, so that what is wrong with a question is an answer of its own.
Who takes calls away is written into the audit log before he gets them.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from streams.api import queries
from streams.api.access import Caller, caller
from streams.api.calls import (
    Viewer,
    alerts_on,
    as_call,
    as_utterance,
    evaluations,
    figures,
    found_insights,
    page_of_utterances,
    whole,
)
from streams.api.export_forms import Whole, as_json, as_pca, as_srt, as_vtt, csv_lines
from streams.api.parameters import CallId, CallsAsked, Filters, OfCall, Page
from streams.api.problems import documented
from streams.api.queries import Found, Row, Store

Form = Literal["json", "csv", "pdf", "srt", "vtt", "pca"]
TYPES: Final[Mapping[str, str]] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "pdf": "application/pdf",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "pca": "application/json",
}
SUFFIXES: Final = {"pca": "pca.json"}
CALLS_AT_ONCE: Final = 20
"""Judgement: an hour each has some 10 MB of utterances."""
UTTERANCES_AT_ONCE: Final = 1_000

_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {kind.partition(";")[0]: {} for kind in TYPES.values()}},
    **documented(404, 409),
}
router = APIRouter(tags=["exports"])
Taker = Annotated[Caller, Depends(caller("supervisor"))]


class ExportAsked(OfCall):
    """What `GET /calls/{call_id}/export` takes."""

    format: Form = Field("json", description="pca: JSON in the shape of Amazon's Post Call Analytics")


class ExportsAsked(Filters):
    """What `GET /export` takes."""

    format: Literal["json", "csv"] = Field("json", description="json: one object a line (NDJSON); csv: an utterance")


def utterances_of(store: Store, call: Found) -> Iterator[dict[str, Any]]:
    """Everything that was said."""
    cursor: str | None = ""
    while cursor is not None:
        page = page_of_utterances(store, call, Page.model_construct(limit=UTTERANCES_AT_ONCE, cursor=cursor))
        yield from page["items"]
        cursor = page["next"]


def all_of(store: Store, call: Found) -> Whole:
    """All that is known of a call."""
    return Whole(
        whole(store, call),
        [*utterances_of(store, call)],
        figures(store, call),
        found_insights(store, call),
        evaluations(store, call),
    )


def content(whole: Whole, form: Form) -> bytes:
    """A call as a file."""
    if form == "pdf":
        from streams.api.export_pdf import as_pdf  # matplotlib and reportlab take a second to load

        return as_pdf(whole)
    if form == "csv":
        return "".join(csv_lines((whole.call, said) for said in whole.utterances)).encode()
    if form in ("srt", "vtt"):
        return (as_srt if form == "srt" else as_vtt)(whole.utterances).encode()
    made = as_pca(whole) if form == "pca" else as_json(whole)
    return json.dumps(made, ensure_ascii=False, indent=1).encode()


def attached(name: str) -> dict[str, str]:
    """The headers of a file of that name."""
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else "-" for one in name)
    return {"Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"}


@router.get(
    "/calls/{call_id}/export",
    responses=_ANSWERS,
    response_class=Response,
)
def export_call(request: Request, who: Viewer, call_id: CallId, asked: Annotated[ExportAsked, Query()]) -> Response:
    """A call as a file: everything as JSON, utterances as CSV, a report as PDF, subtitles."""
    store: Store = request.app.state.store
    call = queries.find(store, who, call_id, asked.version, asked.tenant)
    store.audit(who, call.row["tenant"], call_id, "export", asked.format, request.state.request_id)
    suffix = SUFFIXES.get(asked.format, asked.format)
    return Response(
        content(all_of(store, call), asked.format),
        media_type=TYPES[asked.format],
        headers=attached(f"{call_id}.{suffix}"),
    )


@router.get(
    "/export",
    responses={200: {"content": {"application/x-ndjson": {}, "text/csv": {}}}},
    response_class=StreamingResponse,
)
def export_calls(request: Request, who: Taker, asked: Annotated[ExportsAsked, Query()]) -> StreamingResponse:
    """Many calls, the latest first, as they come: an object a line with all of each call, or the utterances as CSV."""
    store: Store = request.app.state.store
    detail = json.dumps({"format": asked.format} | asked.model_dump(mode="json", exclude_defaults=True))
    store.audit(who, who.tenant or "", "", "export", detail, request.state.request_id)
    pages = _calls(store, who, asked)
    if asked.format == "csv":
        lines = csv_lines(pair for page in pages for pair in _said_in(store, page))
    else:
        found = (Found(row, (row["pipeline_version"],)) for page in pages for row in page)
        lines = (json.dumps(as_json(all_of(store, call)), ensure_ascii=False) + "\n" for call in found)
    first = [*itertools.islice(lines, 1)]
    return StreamingResponse(
        itertools.chain(first, lines),
        media_type=TYPES["csv"] if asked.format == "csv" else "application/x-ndjson",
        headers=attached(f"calls.{'csv' if asked.format == 'csv' else 'ndjson'}"),
    )


def _calls(store: Store, who: Caller, asked: ExportsAsked) -> Iterator[list[Row]]:
    """The calls of a filter, page by page."""
    cursor: str | None = ""
    wanted = asked.model_dump(exclude={"format"})
    while cursor is not None:
        page = CallsAsked.model_validate(wanted | {"limit": CALLS_AT_ONCE, "cursor": cursor})
        rows, cursor = queries.calls(store, who, page)
        yield rows


def _said_in(store: Store, calls: list[Row]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(call, utterance) of these calls, in their order and that of time: few questions for many calls."""
    beside = queries.beside(store, calls)
    said: dict[tuple[str, ...], list[Row]] = {}
    for row in queries.said_in(store, calls) if calls else ():
        said.setdefault((row["tenant"], row["pipeline_version"], row["call_id"]), []).append(row)
    for row in calls:
        call = as_call(row, beside)
        marks = queries.marks(store, Found(row, (row["pipeline_version"],))) if call["alerts"] else []
        for one in said.pop((row["tenant"], row["pipeline_version"], row["call_id"]), []):
            yield call, as_utterance(one, alerts_on(marks, one))
