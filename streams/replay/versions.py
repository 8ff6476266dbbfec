"""Pipeline versions in ClickHouse: which there are, which one is shown, and how one is removed.

A changer must know: every table that says anything of calls has the version in its key, also those that materialized
views fill, so that a version can be removed from all of them and from nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from schemas.errors import CalltideError
from schemas.topics import FINDINGS
from streams.settings import Settings
from streams.sink import CALLS_ASKED, MIGRATION_S, connect

TABLES: Final = (
    "calls", "utterances_heard", "corrections", "call_metrics", "call_terms", "utterance_minutes", "utterance_hours",
    *(one.table for one in FINDINGS),
)  # fmt: skip
"""Emptied from the last to the first: a version is listed for as long as it has calls, so that a removal that was
interrupted can be done again."""

_LISTED: Final = """
SELECT pipeline_version, uniqExact(tenant, call_id) AS calls, min(started_at), max(started_at), any(heard),
       pipeline_version = (SELECT argMax(pipeline_version, promoted_at) FROM promotions)
FROM calls
LEFT JOIN
(
    SELECT pipeline_version, sum(utterances) AS heard FROM utterance_hours GROUP BY pipeline_version
) AS hours USING (pipeline_version)
GROUP BY pipeline_version
ORDER BY min(started_at), pipeline_version
"""


@dataclass(frozen=True, slots=True)
class Version:
    """A version, and what it has heard."""

    name: str
    calls: int
    first: datetime
    last: datetime
    """Starts of its first and its last call."""
    utterances: int
    promoted: bool


def versions(settings: Settings) -> list[Version]:
    """All that have calls. Raises CalltideError when ClickHouse does not answer or refuses."""
    with connect(settings) as client:
        return _listed(client)


def _listed(client: Client) -> list[Version]:
    try:
        rows = client.query(_LISTED).result_rows
    except ClickHouseError as error:
        raise CalltideError(f"ClickHouse: {str(error).splitlines()[0][:300]}; run `calltide migrate`") from error
    return [Version(name, calls, first, last, heard or 0, bool(up)) for name, calls, first, last, heard, up in rows]


def _known(client: Client, name: str) -> Version:
    found = _listed(client)
    for one in found:
        if one.name == name:
            return one
    raise CalltideError(f"no call has version {name}; there are: {', '.join(one.name for one in found) or 'none'}")


def heard_as(settings: Settings, version: str, calls: Sequence[str]) -> list[str]:
    """Those of the calls that a version has heard. Raises CalltideError when ClickHouse does not answer or refuses."""
    found: set[str] = set()
    with connect(settings) as client:
        try:
            for first in range(0, len(calls), CALLS_ASKED):
                # Put into the statement, which has room for so many names; the embedded port takes no forms.
                given = {"version": version, "calls": tuple(calls[first : first + CALLS_ASKED])}
                rows = client.query(
                    "SELECT DISTINCT call_id FROM calls WHERE pipeline_version = %(version)s AND call_id IN %(calls)s",
                    parameters=given,
                ).result_rows
                found |= {call_id for (call_id,) in rows}
        except ClickHouseError as error:
            raise CalltideError(f"ClickHouse: {str(error).splitlines()[0][:300]}; run `calltide migrate`") from error
    return sorted(found)


def promote(settings: Settings, name: str) -> None:
    """Make it the version that is shown when nobody chooses one. Raises CalltideError when no call has it."""
    with connect(settings) as client:
        _known(client, name)
        client.insert("promotions", [[name]], column_names=["pipeline_version"])


def drop(settings: Settings, name: str) -> Version:
    """Remove all that it has heard; returns what that was.

    Raises CalltideError when no call has it, live calls are written with it, or it is the one that is shown.
    """
    if name == settings.pipeline_version:
        raise CalltideError(f"live calls are written as version {name}; it cannot be removed")
    with connect(settings, answer_s=MIGRATION_S) as client:
        version = _known(client, name)
        if version.promoted:
            raise CalltideError(f"version {name} is the one that is shown; `calltide promote` another one first")
        try:
            for table in reversed(TABLES):
                client.command(
                    f"ALTER TABLE {table} DELETE WHERE pipeline_version = {{name:String}}",
                    parameters={"name": name},
                    settings={"mutations_sync": 2},
                )
        except ClickHouseError as error:
            raise CalltideError(f"ClickHouse: {str(error).splitlines()[0][:300]}; run it again") from error
    return version
