"""What endpoints read from a request alike: ids of calls, cursors, filters.

A changer must know: a slash within an id is not one between the parts of a path. `Requests` (app.py) puts SLASH in the
place of %2F before a route is looked for, and `CallId` makes it a slash again.
"""

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from streams.api.problems import Fault

SLASH: Final = "\ufdd0"
"""A code point that no text has (Unicode's noncharacters)."""
LONGEST: Final = 500
"""Characters of an id or a name. Judgement: many times what phone systems give."""
MOST: Final = 100
"""Values of one filter. Judgement: more are not chosen by hand, and a URL has to hold them."""


FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""As of the times that are kept (streams/rows.py)."""


def _whole(text: str) -> str:
    return text.replace(SLASH, "/")


Name = Annotated[str, Field(max_length=LONGEST)]
CallId = Annotated[
    str, Path(min_length=1, max_length=LONGEST, description="the call's id", examples=["billing-4711"]),
    AfterValidator(_whole),
]  # fmt: skip
TaskId = Annotated[str, Path(max_length=LONGEST, examples=["5d1c2f0e9b7a4c6d8e0f1a2b3c4d5e6f"])]
UploadId = Annotated[str, Path(max_length=LONGEST, examples=["0b9c2f4e6d8a4c3b9e1f2a3b4c5d6e7f"])]


def to_cursor(kind: str, *place: Any) -> str:
    """The place behind which a page goes on, opaque to whoever gets it. `kind`: of which list it is."""
    text = json.dumps([kind, *place], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def from_cursor(kind: str, cursor: str, *types: type) -> list[Any] | None:
    """The place of a cursor; None: from the beginning. Raises Fault 422 for one that is none of this list."""
    if not cursor:
        return None
    try:
        name, *place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if name != kind or [type(one) for one in place] != [*types]:
            raise ValueError
        if any(isinstance(one, int) and not 0 <= one < 2**53 for one in place):
            raise ValueError
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise Fault(422, "cursor: not one of this list; begin without one", "bad_cursor") from None
    return place


def _in_range(moment: datetime) -> datetime:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    if not FIRST <= moment <= LAST:
        raise ValueError("a time from 1970 to 2199")
    return moment.astimezone(UTC)


Moment = Annotated[datetime, AfterValidator(_in_range)]


class Page(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    limit: int = Field(50, ge=1, le=200, description="most items in the answer")
    cursor: str = Field("", max_length=4 * LONGEST, description="`next` of the page before; empty: the first page")


class Filters(BaseModel):
    """Which calls. Several values of a name: any of them; several names: all of them."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    since: Moment | None = Field(
        None, alias="from", description="begun then or later (ISO 8601; UTC if it names no zone)",
        examples=["2026-11-22T08:00:00Z"],
    )  # fmt: skip
    until: Moment | None = Field(None, alias="to", description="begun before that", examples=["2026-11-23T00:00:00Z"])
    tenant: list[Name] = Field([], max_length=MOST, description="of these tenants")
    queue: list[Name] = Field([], max_length=MOST, description="in these queues", examples=[["billing"]])
    agent: list[Name] = Field([], max_length=MOST, description="of these agents", examples=[["diane"]])
    category: list[Name] = Field([], max_length=MOST, description="in these categories", examples=[["complaint"]])
    state: Literal["live", "ended"] | None = Field(None, description="going on, or ended")
    text: str = Field(
        "", max_length=LONGEST, description="in which these words were said", examples=["cancel contract"]
    )
    score_below: float | None = Field(None, ge=-1, le=1, description="whose score is below that", examples=[-0.2])
    version: str = Field(
        "", max_length=64, description="pipeline version; empty: the promoted one, or else that of live calls"
    )


class CallsAsked(Filters, Page):
    """What `GET /calls` takes."""


class SearchAsked(Filters, Page):
    """What `GET /search` takes."""

    q: str = Field(
        min_length=1, max_length=LONGEST, description='words, all of which were said; "in quotes": just so',
        examples=["cancel contract"],
    )  # fmt: skip


class StatisticsAsked(Filters):
    """What `GET /statistics` takes."""

    by: Literal["hour", "day"] = Field("day", description="into which stretches of time calls are counted")


class OfCall(BaseModel):
    """Which of the calls of an id."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(
        "",
        max_length=64,
        description="as this pipeline version heard it; empty: the promoted one, or else the live one",
    )
    tenant: str | None = Field(
        None, max_length=LONGEST, description="of this tenant; needed where several have a call of that id"
    )


class UtterancesAsked(OfCall, Page):
    """What `GET /calls/{call_id}/utterances` takes."""


class AudioAsked(BaseModel):
    """What `GET /calls/{call_id}/audio` takes."""

    model_config = ConfigDict(extra="forbid")

    channel: int | None = Field(None, ge=0, le=255, description="this channel only")
    tenant: str | None = Field(
        None, max_length=LONGEST, description="of this tenant; needed where several have a call of that id"
    )
