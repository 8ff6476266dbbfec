"""Every question about calls that the API asks of ClickHouse, each bound to the caller's tenant.

A changer must know: what comes from a request is a bound parameter (%(name)s, which the driver quotes; its other way
wants forms for long ones, and the embedded ClickHouse takes none), never part of a statement. `Asked` begins with the
tenant of the caller, so that no question is without it. A call is shown as the promoted version heard it, or else as
live calls are heard, or else as any other has.
"""

import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cachetools import TTLCache
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from streams.api.access import Caller
from streams.api.parameters import CallsAsked, Filters, Page, SearchAsked, from_cursor, to_cursor
from streams.api.problems import Fault, not_found, unavailable
from streams.settings import Settings
from streams.sink import Unreachable, connect

log = logging.getLogger(__name__)

ANSWER_S: Final = 30
"""Judgement: who waits longer asks for less at a time."""
_LIMITS: Final = {"max_execution_time": ANSWER_S - 5, "max_query_size": 2**22}
"""A statement holds the values of its filters."""
HEARD_S: Final = 600
"""Judgement: who hears a call in pieces hears it once; so long it is one line of the audit log."""
GROUPS: Final = 200
"""Queues, agents and stretches of time in statistics, those with most calls (judgement: a page shows no more)."""

Row = dict[str, Any]


class Store:
    """One client for all requests, made when it is first needed, and anew when ClickHouse has been away."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._heard: TTLCache[tuple[str | None, ...], bool] = TTLCache(10_000, HEARD_S)

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        """The rows of an answer. Raises Fault 503 when there is no answer."""
        try:
            answer = self.client().raw_query(
                sql, parameters=dict(parameters or {}), settings=_LIMITS, fmt="JSONEachRow"
            )
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

    def audit(self, who: Caller, tenant: str, call_id: str, action: str, detail: str, request_id: str) -> None:
        """Write down who hears, exports or has something explained, before he gets it; the same within HEARD_S is
        written once. Raises Fault 503 when it cannot be: then he does not get it."""
        same = (who.tenant, who.name, tenant, call_id, action, detail)
        with self._lock:
            if same in self._heard:
                return
        columns = ("tenant", "call_id", "caller", "caller_tenant", "role", "action", "detail", "request_id")
        row = (tenant, call_id, who.name, who.tenant or "", who.role, action, detail, request_id)
        self.insert("audit", [row], columns)
        log.info("audit", extra=dict(zip(columns, row, strict=True)))
        with self._lock:
            self._heard[same] = True

    def _lost(self, error: Exception) -> None:
        log.warning("clickhouse: %s", str(error).splitlines()[0][:500] if str(error) else type(error).__name__)
        self.close()


class Asked:
    """The conditions of a question, and what they are bound to."""

    def __init__(self, who: Caller, store: Store, filters: Filters | None = None) -> None:
        self._of: list[str] = []
        self.where: list[str] = []
        """Conditions on the calls that are shown."""
        self.bound: dict[str, Any] = {"live": store.settings.pipeline_version}
        if who.tenant is not None:
            self._of.append("tenant = %(tenant)s")
            self.bound["tenant"] = who.tenant
        if filters is not None:
            self._filter(filters)

    def of(self, started: str = "started_at") -> str:
        """The conditions that hold for each table with rows of calls; `started`: its column of the call's start."""
        return " AND ".join(self._of).replace("started_at", started) or "1"

    def bind(self, **values: Any) -> None:
        """Values of one more condition."""
        self.bound |= values

    def chosen(self) -> str:
        """The calls that are asked for, each as the version has it that is shown."""
        return f"""
            SELECT * FROM
            (
                SELECT * FROM calls FINAL
                WHERE {self.of()}
                ORDER BY {_BEST}
                LIMIT 1 BY tenant, call_id
            )
            WHERE {" AND ".join(self.where) or "1"}
        """

    def _filter(self, filters: Filters) -> None:
        if filters.version:
            self._of.append("pipeline_version = %(version)s")
            self.bound["version"] = filters.version
        for name, sign, moment in (("since", ">=", filters.since), ("until", "<", filters.until)):
            if moment is not None:
                self._of.append(f"started_at {sign} fromUnixTimestamp64Milli(%({name})s)")
                self.bound[name] = _ms(moment)
        if filters.tenant:
            self._of.append("tenant IN %(tenants)s")
            self.bound["tenants"] = _several(filters.tenant)
        for column, values in (("queue", filters.queue), ("agent", filters.agent)):
            if values:
                self.where.append(f"{column} IN %({column})s")
                self.bound[column] = _several(values)
        if filters.state is not None:
            self.where.append(f"ended_at IS {'NULL' if filters.state == 'live' else 'NOT NULL'}")
        if filters.category:
            self.where.append(
                f"{_CALL} IN (SELECT {_CALL} FROM call_categories FINAL WHERE {self.of()} AND category IN %(category)s)"
            )
            self.bound["category"] = _several(filters.category)
        if filters.score_below is not None:
            self.where.append(f"{_CALL} IN (SELECT {_CALL} FROM ({_scores(self.of())}) WHERE score < %(score_below)s)")
            self.bound["score_below"] = filters.score_below
        if filters.text:
            self.where.append(
                f"{_CALL} IN (SELECT tenant, pipeline_version, call_started_at, call_id FROM utterances_heard "
                f"WHERE {self.of('call_started_at')} AND {self.said(filters.text)})"
            )

    def said(self, text: str) -> str:
        """The condition on an utterance that has all of these words, and what is in double quotes just so.

        Raises Fault 422 for a text without words."""
        words = re.findall(r"[^\W_]+", text.lower())
        if not words:
            raise Fault(422, "words to look for: there are none; give letters or digits", "no_words")
        self.bound["words"] = " ".join(words)
        conditions = ["hasAllTokens(text, %(words)s)"]
        for number, phrase in enumerate(re.findall(r'"([^"]+)"', text)[:5]):
            self.bound[f"phrase{number}"] = phrase.strip()
            conditions.append(f"positionCaseInsensitiveUTF8(text, %(phrase{number})s) > 0")
        return " AND ".join(conditions)


_CALL: Final = "(tenant, pipeline_version, started_at, call_id)"
_BEST: Final = """pipeline_version = (SELECT argMax(pipeline_version, promoted_at) FROM promotions) DESC,
                    pipeline_version = %(live)s DESC, pipeline_version"""


def _scores(where: str) -> str:
    """The score of each call: by its metrics if it has ended, else by how far it has come."""
    return f"""
        SELECT tenant, pipeline_version, started_at, call_id, argMaxIf(one, ended, one IS NOT NULL) AS score
        FROM
        (
            SELECT tenant, pipeline_version, started_at, call_id, toFloat64(argMax(call_score, written_at)) AS one,
                0 AS ended
            FROM call_progress WHERE {where} AND call_score IS NOT NULL
            GROUP BY tenant, pipeline_version, started_at, call_id
            UNION ALL
            SELECT tenant, pipeline_version, started_at, call_id,
                sum(score * (negative + neutral + positive))
                    / nullIf(sumIf(negative + neutral + positive, score IS NOT NULL), 0) AS one,
                1 AS ended
            FROM call_metrics FINAL WHERE {where}
            GROUP BY tenant, pipeline_version, started_at, call_id
        )
        GROUP BY tenant, pipeline_version, started_at, call_id
    """


def _several(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000)


@dataclass(frozen=True, slots=True)
class Found:
    """A call that the caller may see."""

    row: Row
    versions: tuple[str, ...]
    """All that have heard it, the one that is shown by default first."""

    @property
    def bound(self) -> dict[str, Any]:
        """What `_OF_CALL` is bound to."""
        names = ("tenant", "pipeline_version", "started_at", "call_id")
        return {f"of_{name}": self.row[name] for name in names}

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.row["ended_at"] is not None


_OF_CALL: Final = (
    "tenant = %(of_tenant)s AND pipeline_version = %(of_pipeline_version)s AND {started} = %(of_started_at)s "
    "AND call_id = %(of_call_id)s"
)
OF_CALL: Final = _OF_CALL.format(started="started_at")
OF_UTTERANCE: Final = _OF_CALL.format(started="call_started_at")


def find(store: Store, who: Caller, call_id: str, version: str = "", tenant: str | None = None) -> Found:
    """A call. Raises Fault 404 when there is none that the caller may see, or not of this version; 409 when several
    tenants have one of that id."""
    asked = Asked(who, store)
    asked.bind(call_id=call_id, wanted=tenant or "")
    of_tenant = "tenant = %(wanted)s" if tenant is not None else "1"
    rows = store.rows(
        f"SELECT * FROM calls FINAL WHERE {asked.of()} AND {of_tenant} AND call_id = %(call_id)s ORDER BY {_BEST}",
        asked.bound,
    )
    tenants = sorted({row["tenant"] for row in rows})
    if len(tenants) > 1:
        raise Fault(
            409, f"several tenants have a call {call_id!r}; choose one by ?tenant=", details={"tenants": tenants}
        )
    if not rows:
        raise not_found("call", call_id)
    versions = tuple(row["pipeline_version"] for row in rows)
    row = next((row for row in rows if not version or row["pipeline_version"] == version), None)
    if row is None:
        raise Fault(
            404,
            f"version {version!r} has not heard this call; those that have are in details",
            "no_such_version",
            {"versions": versions},
        )
    return Found(row, versions)


def calls(store: Store, who: Caller, asked: CallsAsked) -> tuple[list[Row], str | None]:
    """A page of calls, the latest first, and the cursor of the next."""
    conditions = Asked(who, store, asked)
    if (place := from_cursor("calls", asked.cursor, int, str, str)) is not None:
        conditions.where.append(
            "(started_at, tenant, call_id) < (fromUnixTimestamp64Milli(%(at)s), %(at_tenant)s, %(at_call)s)"
        )
        conditions.bind(at=place[0], at_tenant=place[1], at_call=place[2])
    rows = store.rows(
        f"""
        SELECT *, toUnixTimestamp64Milli(started_at) AS started_ms
        FROM ({conditions.chosen()})
        ORDER BY started_at DESC, tenant DESC, call_id DESC
        LIMIT {asked.limit + 1}
        """,
        conditions.bound,
    )
    rows, last = _page(rows, asked)
    return rows, to_cursor("calls", int(last["started_ms"]), last["tenant"], last["call_id"]) if last else None


def _page(rows: list[Row], asked: Page) -> tuple[list[Row], Row | None]:
    """The rows of a page, and the last of them if there are more."""
    return rows[: asked.limit], rows[asked.limit - 1] if len(rows) > asked.limit else None


def beside(store: Store, rows: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
    """(tenant, version, call) → score, categories, alerts and language of these calls."""
    if not rows:
        return {}
    keys = tuple((row["tenant"], row["pipeline_version"], row["started_at"], row["call_id"]) for row in rows)
    of = f"{_CALL} IN %(keys)s"
    # Which language most was said in is known of one that has only one.
    mixed = tuple(key for key, row in zip(keys, rows, strict=True) if len(row["languages"]) != 1)
    languages = """
            UNION ALL
            SELECT tenant, pipeline_version, call_id, NULL, [], 0, topKIf(1)(language, language != '' AND text != '')[1]
            FROM utterances_heard
            WHERE (tenant, pipeline_version, call_started_at, call_id) IN %(mixed)s
            GROUP BY tenant, pipeline_version, call_id
    """
    found = store.rows(
        f"""
        SELECT tenant, pipeline_version, call_id, max(score) AS score, groupArrayArray(categories) AS categories,
            sum(alerts) AS alerts, max(language) AS language
        FROM
        (
            SELECT tenant, pipeline_version, call_id, score, [] AS categories, 0 AS alerts, '' AS language
            FROM ({_scores(of)})
            UNION ALL
            SELECT tenant, pipeline_version, call_id, NULL, arraySort(groupUniqArray(category)), 0, ''
            FROM call_categories FINAL WHERE {of} GROUP BY tenant, pipeline_version, call_id
            UNION ALL
            SELECT tenant, pipeline_version, call_id, NULL, [], count(), ''
            FROM alerts FINAL
            WHERE at >= %(since)s AND (tenant, pipeline_version, call_id) IN %(names)s
            GROUP BY tenant, pipeline_version, call_id
            {languages if mixed else ""}
        )
        GROUP BY tenant, pipeline_version, call_id
        """,
        {
            "keys": keys,
            "since": min(key[2] for key in keys),
            "names": tuple((tenant, version, call_id) for tenant, version, _, call_id in keys),
            "mixed": mixed,
        },
    )
    return {(row["tenant"], row["pipeline_version"], row["call_id"]): row for row in found}


def marks(store: Store, call: Found) -> list[Row]:
    """Alerts and categories of a call, in order of time."""
    return store.rows(
        f"""
        SELECT * FROM
        (
            SELECT 'alert' AS kind, category AS name, rule, severity, at_ms, text, utterances FROM alerts FINAL
            WHERE at >= %(of_started_at)s AND tenant = %(of_tenant)s AND pipeline_version = %(of_pipeline_version)s
                AND call_id = %(of_call_id)s
            UNION ALL
            SELECT 'category', category, rule, '', at_ms, '', utterances FROM call_categories FINAL WHERE {OF_CALL}
        )
        ORDER BY at_ms, kind, rule
        """,
        call.bound,
    )


def utterances(store: Store, call: Found, asked: Page) -> tuple[list[Row], str | None]:
    """A page of what was said, in order of time, and the cursor of the next."""
    place = from_cursor("utterances", asked.cursor, int, int)
    behind = "AND (start_ms, channel) > (%(after_ms)s, %(after_channel)s)" if place else ""
    rows = store.rows(
        f"""
        SELECT * FROM utterances WHERE {OF_UTTERANCE} {behind}
        ORDER BY start_ms, channel
        LIMIT {asked.limit + 1}
        """,
        call.bound | ({"after_ms": place[0], "after_channel": place[1]} if place else {}),
    )
    rows, last = _page(rows, asked)
    return rows, to_cursor("utterances", last["start_ms"], last["channel"]) if last else None


def said_in(store: Store, calls: Sequence[Row]) -> list[Row]:
    """What was said in all these calls, in order of time."""
    keys = tuple((row["tenant"], row["pipeline_version"], row["started_at"], row["call_id"]) for row in calls)
    return store.rows(
        "SELECT * FROM utterances WHERE (tenant, pipeline_version, call_started_at, call_id) IN %(keys)s"
        " ORDER BY start_ms, channel",
        {"keys": keys},
    )


def progress(store: Store, call: Found) -> list[Row]:
    """What the metrics stage has said last of each party."""
    # Those of its latest event: a speaker that was merged into another has an older row.
    return store.rows(
        f"""
        SELECT * FROM call_progress FINAL
        WHERE {OF_CALL} AND at_ms = (SELECT max(at_ms) FROM call_progress WHERE {OF_CALL})
        ORDER BY role, speaker
        """,
        call.bound,
    )


def metrics(store: Store, call: Found) -> list[Row]:
    """What is counted of each party once a call has ended."""
    return store.rows(f"SELECT * FROM call_metrics FINAL WHERE {OF_CALL} ORDER BY role, speaker", call.bound)


def insights(store: Store, call: Found) -> Row | None:
    """What the call was about; None: not known, or not yet."""
    return next(iter(store.rows(f"SELECT * FROM call_insights WHERE {OF_CALL} LIMIT 1", call.bound)), None)


def evaluations(store: Store, call: Found) -> list[Row]:
    """The forms that were filled for a call, by name."""
    return store.rows(f"SELECT * FROM evaluations FINAL WHERE {OF_CALL} ORDER BY form", call.bound)


def heard_ms(store: Store, call: Found) -> int:
    """Media time up to which a call that goes on has been heard."""
    (row,) = store.rows(
        f"""
        SELECT greatest(
            (SELECT max(at_ms) FROM call_progress WHERE {OF_CALL}),
            (SELECT max(end_ms) FROM utterances_heard WHERE {OF_UTTERANCE})
        ) AS heard
        """,
        call.bound,
    )
    return int(row["heard"])


def scored_ms(store: Store, call: Found) -> int:
    """When ClickHouse was told the last of its utterances, Unix milliseconds; 0: not known."""
    (row,) = store.rows(
        """
        SELECT toUnixTimestamp64Milli(max(scored_at)) AS at FROM utterances_heard
        WHERE tenant = %(of_tenant)s AND call_started_at = %(of_started_at)s AND call_id = %(of_call_id)s
        """,
        call.bound,
    )
    return int(row["at"])


def redacted(store: Store, call: Found) -> list[Row]:
    """Utterances of which any version may have taken something out: they hold a [NAME]."""
    return store.rows(
        """
        SELECT DISTINCT channel, start_ms, end_ms, words.text, words.start_ms, words.end_ms FROM utterances_heard
        WHERE tenant = %(of_tenant)s AND call_started_at = %(of_started_at)s AND call_id = %(of_call_id)s
            AND position(text, '[') > 0
        """,
        call.bound,
    )


def letters(store: Store, call: Found, stages: Sequence[str]) -> int:
    """Records of a call that these stages could not process, and that nobody has settled."""
    (row,) = store.rows(
        "SELECT count() AS n FROM dead_letters FINAL WHERE call_id = %(call)s AND settled = '' AND stage IN %(stages)s",
        {"call": call.row["call_id"], "stages": tuple(stages)},
    )
    return int(row["n"])


def search(store: Store, who: Caller, asked: SearchAsked) -> tuple[list[Row], str | None]:
    """A page of utterances with these words, the latest first, and the cursor of the next."""
    conditions = Asked(who, store, asked)
    said = conditions.said(asked.q)
    behind = "1"
    if (place := from_cursor("search", asked.cursor, int, str, str, int, int)) is not None:
        behind = (
            "(spoken_at, tenant, call_id, channel, start_ms) < "
            "(fromUnixTimestamp64Milli(%(at)s), %(at_tenant)s, %(at_call)s, %(at_channel)s, %(at_ms)s)"
        )
        names = ("at", "at_tenant", "at_call", "at_channel", "at_ms")
        conditions.bind(**dict(zip(names, place, strict=True)))
    rows = store.rows(
        f"""
        SELECT *, toUnixTimestamp64Milli(spoken_at) AS spoken_ms FROM utterances
        WHERE {conditions.of("call_started_at")} AND {said} AND {behind}
            AND (tenant, pipeline_version, call_started_at, call_id) IN (SELECT {_CALL} FROM ({conditions.chosen()}))
        ORDER BY spoken_at DESC, tenant DESC, call_id DESC, channel DESC, start_ms DESC
        LIMIT {asked.limit + 1}
        """,
        conditions.bound,
    )
    rows, last = _page(rows, asked)
    if not last:
        return rows, None
    return rows, to_cursor(
        "search", int(last["spoken_ms"]), last["tenant"], last["call_id"], last["channel"], last["start_ms"]
    )


def statistics(store: Store, who: Caller, asked: Filters, by: str) -> dict[str, list[Row]]:
    """Calls and what is counted of them: in all, by time (`by`: hour or day), queue and agent; and what was found."""
    conditions = Asked(who, store, asked)
    chosen = conditions.chosen()
    at = "toStartOfHour(started_at)" if by == "hour" else "toStartOfDay(started_at)"
    keys = f"SELECT {_CALL} FROM ({chosen})"
    groups = store.rows(
        f"""
        SELECT
            if(GROUPING(at) = 0, toString(at), '') AS time, if(GROUPING(queue) = 0, queue, '') AS of_queue,
            if(GROUPING(agent) = 0, agent, '') AS of_agent,
            multiIf(GROUPING(at) = 0, 'times', GROUPING(queue) = 0, 'queues', GROUPING(agent) = 0, 'agents', 'all')
                AS per,
            count() AS calls, countIf(ended_at IS NULL) AS live, sum(ifNull(duration_ms, 0)) AS duration_ms,
            sum(utterances) AS utterances, sum(words) AS words, sum(talk_ms) AS talk_ms, sum(silence_ms) AS silence_ms,
            sum(negative) AS negative, sum(neutral) AS neutral, sum(positive) AS positive,
            sum(score_sum) / nullIf(sum(score_n), 0) AS score,
            sum(customer_sum) / nullIf(sum(customer_n), 0) AS customer_score,
            sumMap(emotion_ms) AS emotion_ms
        FROM
        (
            SELECT tenant, pipeline_version, started_at, call_id, queue, agent, ended_at, duration_ms, {at} AS at
            FROM ({chosen})
        ) AS shown
        LEFT JOIN
        (
            SELECT
                tenant, pipeline_version, started_at, call_id, sum(utterances) AS utterances, sum(words) AS words,
                sum(talk_ms) AS talk_ms, max(silence_ms) AS silence_ms, sum(negative) AS negative,
                sum(neutral) AS neutral, sum(positive) AS positive,
                sumIf(negative + neutral + positive, score IS NOT NULL) AS score_n,
                sum(ifNull(score, 0) * (negative + neutral + positive)) AS score_sum,
                sumIf(negative + neutral + positive, score IS NOT NULL AND role = 'customer') AS customer_n,
                sumIf(ifNull(score, 0) * (negative + neutral + positive), role = 'customer') AS customer_sum,
                sumMap(CAST(emotion_ms, 'Map(String, UInt64)')) AS emotion_ms
            FROM call_metrics FINAL
            WHERE {_CALL} IN ({keys})
            GROUP BY tenant, pipeline_version, started_at, call_id
        ) AS counted USING (tenant, pipeline_version, started_at, call_id)
        GROUP BY GROUPING SETS ((), (at), (queue), (agent))
        ORDER BY calls DESC, time DESC, of_queue, of_agent
        LIMIT {GROUPS} BY per
        SETTINGS prefer_column_name_to_alias = 1
        """,
        conditions.bound,
    )
    found = store.rows(
        f"""
        SELECT * FROM
        (
            SELECT 'categories' AS per, category AS name, uniqExact(tenant, call_id) AS calls FROM call_categories FINAL
            WHERE {_CALL} IN ({keys}) GROUP BY category
            UNION ALL
            SELECT 'alerts', rule, count() FROM alerts FINAL
            WHERE (tenant, pipeline_version, call_id) IN (SELECT tenant, pipeline_version, call_id FROM ({chosen}))
            GROUP BY rule
            UNION ALL
            SELECT 'resolved', resolved, count() FROM call_insights WHERE {_CALL} IN ({keys}) AND state = 'ok'
            GROUP BY resolved
            UNION ALL
            SELECT 'topics', arrayJoin(topics) AS topic, count() FROM call_insights
            WHERE {_CALL} IN ({keys}) GROUP BY topic
            UNION ALL
            SELECT 'issues', arrayJoin(arrayDistinct(issues)) AS issue, count() FROM call_insights
            WHERE {_CALL} IN ({keys}) GROUP BY issue
        )
        ORDER BY calls DESC, name
        LIMIT 50 BY per
        """,
        conditions.bound,
    )
    forms = store.rows(
        f"""
        SELECT 'forms' AS per, form AS name, count() AS calls, avg(score) AS score FROM evaluations FINAL
        WHERE {_CALL} IN ({keys}) AND state = 'ok' GROUP BY form ORDER BY calls DESC, name
        """,
        conditions.bound,
    )
    tables: dict[str, list[Row]] = {}
    for row in (*groups, *found, *forms):
        tables.setdefault(row.pop("per"), []).append(row)
    return tables


def versions(store: Store, who: Caller) -> list[Row]:
    """The versions that have heard calls which the caller may see."""
    asked = Asked(who, store)
    return store.rows(
        f"""
        SELECT pipeline_version AS name, uniqExact(tenant, call_id) AS calls, min(started_at) AS first,
            max(started_at) AS last,
            pipeline_version = (SELECT argMax(pipeline_version, promoted_at) FROM promotions) AS promoted,
            pipeline_version = %(live)s AS live
        FROM calls WHERE {asked.of()}
        GROUP BY pipeline_version
        ORDER BY first, name
        """,
        asked.bound,
    )


def audited(store: Store, who: Caller, asked: Page) -> tuple[list[Row], str | None]:
    """A page of the audit log, the latest first."""
    conditions = Asked(who, store)
    behind = "1"
    if (place := from_cursor("audit", asked.cursor, int, str)) is not None:
        behind = "(at, id) < (fromUnixTimestamp64Milli(%(at)s), toUUID(%(at_id)s))"
        conditions.bind(at=place[0], at_id=place[1])
    rows = store.rows(
        f"""
        SELECT *, toUnixTimestamp64Milli(at) AS at_ms FROM audit
        WHERE {conditions.of()} AND {behind}
        ORDER BY at DESC, id DESC
        LIMIT {asked.limit + 1}
        """,
        conditions.bound,
    )
    rows, last = _page(rows, asked)
    return rows, to_cursor("audit", int(last["at_ms"]), last["id"]) if last else None
