"""Every question that the API asks of ClickHouse, and the one place where it is bound to the caller's tenant.

A changer must know: what comes from a request is a bound parameter ({name:Type}) or a value that the driver quotes
(lists of names), never part of a statement. `Asked` begins with the tenant of the caller, so no question is without it.
A call is shown as the promoted version heard it, or else as live calls are heard, or else as any other has.
"""

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from streams.api.access import Caller
from streams.api.parameters import CallsAsked, Filters, from_cursor, to_cursor
from streams.api.problems import unavailable
from streams.settings import Settings
from streams.sink import Unreachable, connect

log = logging.getLogger(__name__)

ANSWER_S: Final = 30
"""Judgement: who waits longer asks for less at a time."""
_LIMITS: Final = {"max_execution_time": ANSWER_S - 5}


class Store:
    """One client for all requests, made when it is first needed, and anew when ClickHouse has been away."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._client: Client | None = None

    def rows(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows of an answer. Raises Fault 503 when there is no answer."""
        try:
            answer = self.client().raw_query(sql, parameters=dict(parameters), settings=_LIMITS, fmt="JSONEachRow")
        except OperationalError as error:
            self._lost(error)
            raise unavailable("clickhouse") from None
        return [json.loads(line) for line in answer.splitlines()]

    def insert(self, table: str, rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> None:
        """Write rows. Raises Fault 503 when they are not written."""
        try:
            self.client().insert(table, rows, column_names=columns)
        except (ClickHouseError, OSError) as error:
            self._lost(error)
            raise unavailable("clickhouse") from None

    def client(self) -> Client:
        """The client. Raises Fault 503 when no ClickHouse answers."""
        with self._lock:
            if self._client is None:
                try:
                    self._client = connect(self.settings, answer_s=ANSWER_S)
                except Unreachable as error:
                    log.warning("%s", error)
                    raise unavailable("clickhouse") from None
            return self._client

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _lost(self, error: Exception) -> None:
        log.warning("clickhouse: %s", str(error).splitlines()[0][:500] if str(error) else type(error).__name__)
        self.close()


class Asked:
    """The conditions of a question, and what they are bound to."""

    def __init__(self, who: Caller, version: str = "", live: str = "") -> None:
        self.of: list[str] = []
        """Conditions on the tenant, which each table has."""
        self.where: list[str] = []
        self.bound: dict[str, Any] = {"live": live}
        if who.tenant is not None:
            self.of.append("tenant = {tenant:String}")
            self.bound["tenant"] = who.tenant
        if version:
            self.of.append("pipeline_version = {version:String}")
            self.bound["version"] = version

    def any_of(self, column: str, values: Sequence[str], of_tenant: bool = False) -> None:
        """Of any of these values; none: of any at all."""
        if values:
            name = f"{column}_in"
            self.bound[name] = list(dict.fromkeys(values))
            (self.of if of_tenant else self.where).append(f"has({{{name}:Array(String)}}, {column})")

    def add(self, condition: str, **bound: Any) -> None:
        """One more condition."""
        self.where.append(condition)
        self.bound |= bound


def _and(*conditions: str) -> str:
    return " AND ".join(conditions) or "1"


def _shown(asked: Asked) -> str:
    """The calls, each as the version has it that is shown."""
    return f"""
        SELECT * FROM calls FINAL
        WHERE {_and(*asked.of)}
        ORDER BY
            pipeline_version = (SELECT argMax(pipeline_version, promoted_at) FROM promotions) DESC,
            pipeline_version = {{live:String}} DESC, pipeline_version
        LIMIT 1 BY tenant, call_id
    """


def _asked(who: Caller, filters: Filters, live: str) -> Asked:
    asked = Asked(who, filters.version, live)
    asked.any_of("tenant", filters.tenant, of_tenant=True)
    if filters.since is not None:
        asked.of.append("started_at >= fromUnixTimestamp64Milli({since:Int64})")
        asked.bound["since"] = round(filters.since.timestamp() * 1_000)
    if filters.until is not None:
        asked.of.append("started_at < fromUnixTimestamp64Milli({until:Int64})")
        asked.bound["until"] = round(filters.until.timestamp() * 1_000)
    asked.any_of("queue", filters.queue)
    asked.any_of("agent", filters.agent)
    if filters.state is not None:
        asked.add(f"ended_at IS {'NULL' if filters.state == 'live' else 'NOT NULL'}")
    return asked


def calls(store: Store, who: Caller, asked: CallsAsked) -> tuple[list[dict[str, Any]], str | None]:
    """A page of calls, the latest first, and the cursor of the next."""
    conditions = _asked(who, asked, store.settings.pipeline_version)
    if (place := from_cursor("calls", asked.cursor, int, str, str)) is not None:
        conditions.add(
            "(started_at, tenant, call_id) < (fromUnixTimestamp64Milli({at:Int64}), {at_tenant:String}, "
            "{at_call:String})",
            at=place[0], at_tenant=place[1], at_call=place[2],
        )  # fmt: skip
    rows = store.rows(
        f"""
        SELECT *, toUnixTimestamp64Milli(started_at) AS started_ms
        FROM ({_shown(conditions)})
        WHERE {_and(*conditions.where)}
        ORDER BY started_at DESC, tenant DESC, call_id DESC
        LIMIT {asked.limit + 1}
        """,
        conditions.bound,
    )
    more = len(rows) > asked.limit
    rows = rows[: asked.limit]
    last = rows[-1] if more else None
    return rows, to_cursor("calls", int(last["started_ms"]), last["tenant"], last["call_id"]) if last else None
