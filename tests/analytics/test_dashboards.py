"""Every ClickHouse query of every dashboard, on the generated month, on an empty database, and with hostile names.

What is run is the text that ClickHouse would get (tests/analytics/macros.py), with the variables as Grafana fills them:
those that are lists are asked of the database first. The planted facts must be seen where a dashboard is meant to show
them. That the JSON is what the code makes, and that every panel says what it shows, is tested in tests/unit.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from dashboards.emotions import GRANULAR as GRANULAR_OF_THE_DASHBOARD
from dashboards.files import Query, committed, panels, queries
from dashboards.query import PLUGIN
from processors.emotion_names import GRANULAR
from streams.analytics.findings import FORGETFUL_AGENT, RIVAL_RULE, SECTIONS, STUCK_TOPIC
from streams.analytics.traffic import (
    BEST_AGENT,
    LIVE_CALLS,
    RISE,
    RISE_DAYS,
    SOUR_HOURS,
    SOUR_QUEUE,
    SOUR_TENANT,
    SOUR_TERMS,
    TENANTS,
    VERSION,
    WORSE_VERSION,
)
from streams.sink import connect, migrate
from tests.analytics.conftest import Month, settings_for
from tests.analytics.macros import ALL, Value, Variable, View, expand

BOARDS = {board["uid"]: board for board in committed().values()}
QUERIES = [query for query in queries() if query.source == PLUGIN]

STEPS_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1_200, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)
"""What Grafana rounds a panel's interval to."""

HOSTILE = (r"\'; DROP TABLE calls; --", "'; DROP TABLE calls; --", '`"\\', "%27) OR 1=1 --$__toTime ${tenant}", "ü☎&=")
"""Names that are SQL, quotes, backslashes, a macro, a variable, and not ASCII."""


_FILLED: dict[tuple[object, ...], dict[str, Variable]] = {}


@dataclass(frozen=True)
class Opened:
    """A dashboard as somebody has opened it on a database."""

    client: Client
    uid: str
    until: datetime
    given: Mapping[str, Value]
    """Variables that were chosen otherwise than the dashboard has them at first."""
    since: datetime | None = None
    """None: as far back as the dashboard looks at first."""

    @cached_property
    def start(self) -> datetime:
        count, unit = re.fullmatch(r"now-(\d+)([mhd])", BOARDS[self.uid]["time"]["from"]).groups()  # type: ignore[union-attr]
        back = timedelta(**{{"m": "minutes", "h": "hours", "d": "days"}[unit]: int(count)})
        return self.since or self.until - back

    @cached_property
    def variables(self) -> dict[str, Variable]:
        """Asked of the database once a session for the same choice."""
        key = (id(self.client), self.uid, self.start, self.until, str(self.given))
        if key not in _FILLED:
            _FILLED[key] = self._fill()
        return _FILLED[key]

    def _fill(self) -> dict[str, Variable]:
        """In the dashboard's order, since a list may depend on what was chosen before."""
        # What a list may refer to that comes after it.
        made = {name: Variable(value) for name, value in self.given.items()}
        listed = {query.panel: query for query in QUERIES if query.kind == "variable" and query.dashboard == self.uid}
        for each in BOARDS[self.uid]["templating"]["list"]:
            name, options = each["name"], list[str]()
            if each["type"] == "query":
                rows = self.client.query(expand(listed[name].text, View(self.start, self.until, made))).result_rows
                options = [str(row[0]) for row in rows]
                # All where there is All, and else the first, or nothing where there is none.
                value: Value = [ALL] if each["includeAll"] else (options or [""])[0]
            else:
                value = each["current"]["value"]
            made[name] = Variable(self.given.get(name, value), options)
        return made

    def sql(self, query: Query) -> str:
        smallest = re.fullmatch(r"(\d+)([smhd])", query.interval)
        seconds = int(smallest[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[smallest[2]] if smallest else 1
        width = (self.until - self.start).total_seconds() / 1_000
        interval = max(seconds, next((step for step in STEPS_S if step >= width), STEPS_S[-1]))
        return expand(query.text, View(self.start, self.until, self.variables, timedelta(seconds=interval)))

    def run(self, query: Query) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
        """Columns (name, ClickHouse's type) and rows. Rows that time out count as an error."""
        result = self.client.query(self.sql(query))
        kinds = [(name, kind.name) for name, kind in zip(result.column_names, result.column_types, strict=True)]
        return kinds, list(result.named_results())

    def rows(self, panel: str, ref_id: str = "A") -> list[dict[str, Any]]:
        """The rows of a panel."""
        (query,) = (one for one in QUERIES if (one.dashboard, one.panel, one.ref_id) == (self.uid, panel, ref_id))
        return self.run(query)[1]


@pytest.fixture(scope="session")
def a_call(month: Month) -> dict[str, str]:
    """A call that has all there is to show: two parties, silences, an alert, a complaint, and that has ended."""
    row = month.client.query(
        """SELECT tenant, call_id FROM call_metrics FINAL
WHERE pipeline_version = {version:String} AND silences > 0
    AND (tenant, call_id) IN (SELECT tenant, call_id FROM alerts)
    AND (tenant, call_id) IN (SELECT tenant, call_id FROM insights WHERE notEmpty(issues) AND notEmpty(coaching))
GROUP BY tenant, call_id HAVING count() >= 2 ORDER BY call_id LIMIT 1""",
        {"version": VERSION},
    ).result_rows[0]
    return {"tenant": row[0], "call": row[1]}


def opened(month: Month, uid: str, **given: Value) -> Opened:
    """A dashboard on the month, opened at its end, the version the one that heard everything."""
    return Opened(month.client, uid, month.until, given)


def grafana_type(kind: str) -> str:
    """What the plugin makes of a ClickHouse type (pkg/converters/registry.go): time, number, string, bool or json."""
    for wrapper in ("LowCardinality", "Nullable"):
        if found := re.fullmatch(rf"{wrapper}\((.*)\)", kind):
            return grafana_type(found[1])
    if re.match(r"Date", kind):
        return "time"
    if re.fullmatch(r"U?Int\d+|Float\d+|Decimal.*", kind):
        return "number"
    return {"String": "string", "Bool": "bool"}.get(kind, "string" if kind.startswith("Enum") else "json")


def panel_of(query: Query) -> dict[str, Any]:
    """The panel that a query is of."""
    return next(panel for panel in panels(BOARDS[query.dashboard]) if panel["title"] == query.panel)


def is_nothing(value: object) -> bool:
    """What Grafana shows as no value, and counts of nothing."""
    return value in (None, 0, "", [])


# ---- On the generated month


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.id)
def test_a_query_answers_with_rows_of_the_right_columns_and_types(
    month: Month, a_call: dict[str, str], query: Query
) -> None:
    given: dict[str, Value] = {"search": SOUR_TERMS[0]} if query.dashboard == "calltide-words" else {}
    since = month.since if query.dashboard == "calltide-call" else None
    if query.dashboard == "calltide-call":
        given = {"tenant": [a_call["tenant"]], "call": a_call["call"]}
    board = replace(opened(month, query.dashboard, **given), since=since)
    kinds, rows = board.run(query)
    if not rows and query.ref_id != "A":
        return  # of several parties in one panel one may be missing
    assert rows, "no rows"
    names = [name for name, _ in kinds]
    assert len(set(names)) == len(names)
    types = {name: grafana_type(kind) for name, kind in kinds}
    assert "json" not in types.values(), "Grafana shows arrays, maps and tuples as JSON"
    for row in rows:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float)), "not a number"
    if query.kind == "variable":
        assert names[1:] == []
        return
    assert any(not is_nothing(value) for row in rows for value in row.values()), "nothing to show"
    if query.format == "timeseries":
        check_series(query, kinds, rows)
    else:
        check_table(query, names)


def check_series(query: Query, kinds: list[tuple[str, str]], rows: list[dict[str, Any]]) -> None:
    """What the plugin's backend asks of a time series (grafana-plugin-sdk-go, data.LongToWide)."""
    types = {name: grafana_type(kind) for name, kind in kinds}
    assert kinds[0][0] == "time"
    assert types["time"] == "time"
    assert "Nullable" not in kinds[0][1]
    times = [row["time"] for row in rows]
    assert times == sorted(times)
    labels = [name for name, kind in types.items() if kind in ("string", "bool")]
    values = [name for name, kind in types.items() if kind == "number"]
    assert len(values) + len(labels) + 1 == len(kinds)
    assert values
    points = [(row["time"], *(row[label] for label in labels)) for row in rows]
    assert len(set(points)) == len(points), "two values for one point"
    if labels and len(values) == 1:
        # Else the series is called `score billing`, and colours by name miss it (grafana-data, fieldState.ts).
        defaults = panel_of(query)["fieldConfig"]["defaults"]
        assert values == ["Value"] or defaults.get("displayName"), "call the column Value"


def check_table(query: Query, names: list[str]) -> None:
    """The columns that the panel speaks of are there: overrides, links, the names under bars."""
    panel = panel_of(query)
    if len(panel["targets"]) > 1:
        return
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["id"] == "byName":
            assert override["matcher"]["options"] in names
    spoken_of = set(re.findall(r"__data\.fields\.(\w+)", str(panel["fieldConfig"])))
    assert spoken_of <= set(names)
    if "xField" in panel.get("options", {}):
        assert panel["options"]["xField"] in names


# ---- On an empty database


@pytest.fixture(scope="session")
def empty(month: Month) -> Iterator[Client]:
    """A migrated database without a row, in the ClickHouse of the month."""
    settings = settings_for(month.url, "nothing")
    migrate(settings)
    with connect(settings) as client:
        yield client


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.id)
def test_an_empty_database_is_no_error(month: Month, empty: Client, query: Query) -> None:
    """A time series has no rows, and a table none or one of nothing: then Grafana shows the no-data text."""
    _, rows = Opened(empty, query.dashboard, month.until, {}).run(query)
    assert len(rows) <= (query.format == "table")
    assert all(is_nothing(value) for row in rows for value in row.values())


# ---- Names that are no friends


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.id)
def test_hostile_values_of_variables_find_nothing_and_break_nothing(month: Month, query: Query) -> None:
    given: dict[str, Value] = {
        each["name"]: HOSTILE if each.get("multi") else HOSTILE[(len(query.id) + place) % len(HOSTILE)]
        for place, each in enumerate(BOARDS[query.dashboard]["templating"]["list"])
    }
    _, rows = opened(month, query.dashboard, **given).run(query)
    if query.kind == "panel":
        assert all(is_nothing(value) for row in rows for value in row.values())


def test_the_tables_are_still_there(month: Month) -> None:
    """Runs after the test above, in this file's order."""
    held = month.client.query("SELECT count() FROM calls FINAL").result_rows[0]
    assert held[0] >= month.traffic.calls


@pytest.fixture(scope="session")
def hostile(month: Month) -> Iterator[Client]:
    """A database in which each of HOSTILE is the name of a tenant, a queue and an agent, who said that they are."""
    settings = settings_for(month.url, "hostile")
    migrate(settings)
    columns = "tenant, queue, agent, text, pipeline_version, call_started_at, call_id, spoken_at, captured_at, role"
    at = month.until - timedelta(hours=1)
    said = [(*[name] * 3, f"refund {name}") for name in HOSTILE] + [("plain", "", "", "refund")]
    with connect(settings) as client:
        for name in HOSTILE:
            who = {
                "tenant": name,
                "queue": name,
                "agent": name,
                "pipeline_version": VERSION,
                "call_id": f"call of {name}",
            }
            found = {
                "calls": {"started_at": at, "ended_at": at, "duration_ms": 1_000, "revision": 2},
                "call_categories": {"started_at": at, "category": name, "rule": name},
                "insights": {"started_at": at, "ended_at": at, "state": "ok", "topics": [name], "reason": name},
                "evaluations": {"started_at": at, "ended_at": at, "state": "ok", "form": name, "score": 10},
                "call_progress": {"started_at": at, "role": "agent", "speaker": name, "talk_share": 1},
            }
            for table, row in found.items():
                row = who | row
                client.insert(table, [list(row.values())], column_names=list(row))
        client.insert(
            "utterances_heard",
            [[*who, VERSION, at, f"call of {who[0]}", at, at, "customer"] for who in said],
            column_names=columns.split(", "),
        )
        yield client


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_found_by_their_names(month: Month, hostile: Client, name: str) -> None:
    given: dict[str, Value] = {"tenant": [name], "queue": [name], "agent": [name], "search": "refund"}
    words = Opened(hostile, "calltide-words", month.until, given)
    assert name in words.variables["tenant"].options
    assert words.variables["queue"].options == words.variables["agent"].options == [name]
    assert [(row["tenant"], row["text"]) for row in words.rows("Texts")] == [(name, f"refund {name}")]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_found_in_calls_may_have_any_name(month: Month, hostile: Client, name: str) -> None:
    given: dict[str, Value] = {"tenant": [name], "queue": [name], "agent": [name]}
    board = Opened(hostile, "calltide-coaching", month.until, given)
    assert [row["Topic"] for row in board.rows("Topics")] == [name]
    assert [row["Category"] for row in board.rows("Categories, against before")] == [name]
    assert [(row["Agent"], row["Form"]) for row in board.rows("Calls to practise on")] == [(name, name)]
    call = Opened(hostile, "calltide-call", month.until, {"tenant": [name], "call": f"call of {name}"})
    assert ("reason", name) in [(row["What"], row["Words"]) for row in call.rows("What it was about")]
    assert [(row["Category"], row["Rule"]) for row in call.rows("Categories")] == [(name, name)]
    assert [row["Section"] for row in call.rows("Score card")] == [name]
    assert [row["Party"] for row in call.rows("So far")] == [f"agent ({name})"]


def test_calls_without_queue_and_agent_can_be_chosen(month: Month, hostile: Client) -> None:
    given: dict[str, Value] = {"queue": ["(none)"], "agent": ["(none)"], "search": "refund"}
    words = Opened(hostile, "calltide-words", month.until, given)
    assert {"(none)"} < set(words.variables["queue"].options)
    assert [(row["tenant"], row["queue"], row["agent"]) for row in words.rows("Texts")] == [("plain", "", "")]


def test_a_tenant_with_a_quote_in_its_name_is_one_of_the_month(month: Month) -> None:
    (quoted,) = (tenant for tenant in TENANTS if "'" in tenant)
    board = opened(month, "calltide-words", tenant=[quoted], search="the")
    assert set(board.variables["queue"].options) == set(TENANTS[quoted])
    assert {row["tenant"] for row in board.rows("Most negative texts")} == {quoted}


# ---- The planted facts, where they are meant to be seen


def utc(moment: datetime) -> datetime:
    """A time that came from ClickHouse, which is UTC and does not say so."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def test_sentiment_over_time_shows_when_the_queue_turned_sour(month: Month) -> None:
    board = opened(month, "calltide-sentiment", tenant=[SOUR_TENANT])
    label = next(name for name in board.rows("Sentiment over time, by queue")[0] if name == "Queue")
    by_queue: dict[str, dict[datetime, float]] = {}
    for row in board.rows("Sentiment over time, by queue"):
        (value,) = (one for name, one in row.items() if name not in ("time", label))
        by_queue.setdefault(row[label], {})[utc(row["time"])] = value
    sour = {
        moment: value for moment, value in by_queue[SOUR_QUEUE].items() if month.sour_from <= moment < month.sour_to
    }
    # Office hours of the days before; at night an hour may have one call.
    before = [by_queue[SOUR_QUEUE].get(moment - timedelta(days=days)) for moment in sour for days in (3, 4, 5)]
    usual = [value for value in before if value is not None]
    assert len(sour) == SOUR_HOURS
    assert sum(sour.values()) / len(sour) < sum(usual) / len(usual) - 0.25
    for queue, values in by_queue.items():
        if queue != SOUR_QUEUE:
            same = [value for moment, value in values.items() if moment in sour]
            assert sum(same) / len(same) > sum(sour.values()) / len(sour) + 0.25


def test_the_floor_shows_the_queue_that_turns_sour_while_it_does(month: Month) -> None:
    at = month.sour_from + timedelta(hours=2)
    board = replace(opened(month, "calltide-floor", tenant=[SOUR_TENANT]), until=at)
    by_queue: dict[str, list[float]] = {}
    for row in board.rows("Sentiment per minute, by queue"):
        (value,) = (one for name, one in row.items() if name not in ("time", "Queue"))
        by_queue.setdefault(row["Queue"], []).append(value)
    means = {queue: sum(values) / len(values) for queue, values in by_queue.items()}
    assert min(means, key=means.__getitem__) == SOUR_QUEUE
    assert means[SOUR_QUEUE] < -0.2
    # And who stands behind the agents sees its calls first.
    assert board.rows("Worst calls now")[0]["Queue"] == SOUR_QUEUE
    assert board.rows("Calls going wrong")[0]["calls"] >= 1


def test_the_best_agent_is_first(month: Month) -> None:
    board = replace(opened(month, "calltide-sentiment", tenant=[SOUR_TENANT]), since=month.since)
    ranked = sorted(board.rows("By agent"), key=lambda row: -row["Sentiment"])
    assert len(ranked) >= 5
    assert ranked[0]["Agent"] == BEST_AGENT
    # Not by chance: its interval is clear of the mean of all.
    assert ranked[0]["Against all"] == "better"
    assert ranked[0]["From"] <= ranked[0]["Sentiment"] <= ranked[0]["To"]


def test_nobody_is_ranked_on_a_few_utterances(month: Month) -> None:
    board = opened(month, "calltide-sentiment", tenant=[SOUR_TENANT], minimum="100000")
    assert board.rows("By agent") == []


def test_the_floor_shows_how_calls_go_on_and_which_will_end_badly(month: Month) -> None:
    board = opened(month, "calltide-floor")
    now = board.rows("Talk and silence now")
    assert len(now) >= LIVE_CALLS
    assert board.rows("Likely to end badly")[0]["calls"] == sum((row["Ends badly"] or 0) >= 0.5 for row in now) >= 2
    chances = [row["Ends badly"] for row in now if row["Ends badly"] is not None]
    assert chances == sorted(chances, reverse=True)
    # The two that go wrong are the first, on both lists.
    assert {row["call_id"] for row in now[:2]} <= {row["call_id"] for row in board.rows("Worst calls now")[:4]}
    by_rule = board.rows("Alerts by rule")
    assert sum(row["Value"] for row in by_rule) == len(board.rows("Alerts of calls"))


def test_coaching_shows_the_topic_that_is_never_resolved(month: Month) -> None:
    topics = {row["Topic"]: row for row in opened(month, "calltide-coaching").rows("Topics")}
    assert topics[STUCK_TOPIC]["Resolved"] == 0
    assert topics[STUCK_TOPIC]["Calls"] > 100
    assert min(row["Resolved"] for name, row in topics.items() if name != STUCK_TOPIC) > 0.2
    resolved = opened(month, "calltide-coaching").rows("Resolved or not")
    (figures,) = opened(month, "calltide-coaching").rows("Key figures")
    assert (
        sum(sum(row[name] for name in ("resolved", "not clear", "not resolved")) for row in resolved)
        == (figures["Calls read"])
    )


def test_coaching_shows_the_category_that_rises(month: Month) -> None:
    board = replace(opened(month, "calltide-coaching"), since=month.until - timedelta(days=RISE_DAYS))
    first, *others = board.rows("Categories, against before")
    assert first["Category"] == RIVAL_RULE
    assert (first["Share"], first["Before"]) == pytest.approx(RISE, rel=0.3)
    assert first["z"] > 8
    assert all(abs(row["z"]) < 6 for row in others)
    # The two-proportion z-test, as textbooks have it.
    calls = month.client.query(
        "SELECT countIf(started_at >= {at:DateTime64(3)}), countIf(started_at < {at:DateTime64(3)}) FROM calls FINAL "
        "WHERE pipeline_version = {version:String} AND started_at >= {at:DateTime64(3)} - INTERVAL 7 DAY",
        {"at": board.start, "version": VERSION},
    ).result_rows[0]
    both = (first["Share"] * calls[0] + first["Before"] * calls[1]) / sum(calls)
    error = math.sqrt(both * (1 - both) * (1 / calls[0] + 1 / calls[1]))
    assert math.isclose(first["z"], (first["Share"] - first["Before"]) / error, rel_tol=1e-6)
    days = board.rows("Categories over time")
    assert sum(row["Value"] for row in days if row["label"] == RIVAL_RULE) == first["Calls"]


def test_coaching_shows_the_agent_who_never_says_goodbye(month: Month) -> None:
    board = opened(month, "calltide-coaching")
    weakest = board.rows("Sections in which an agent falls behind")[0]
    assert (weakest["Agent"], weakest["Section"], weakest["Score"]) == (FORGETFUL_AGENT, "closing", 0)
    told = board.rows("Recommendations by agent")[0]
    assert (told["Agent"], told["Recommendation"], told["Share"]) == (FORGETFUL_AGENT, "no_closing_question", 1)
    (ranked,) = (row for row in board.rows("By agent") if row["Agent"] == FORGETFUL_AGENT)
    assert ranked["Against all"] == "worse"
    alone = opened(month, "calltide-coaching", agent=[FORGETFUL_AGENT])
    assert {row["Section"]: row["Score"] for row in alone.rows("Sections")}["closing"] == 0
    assert {row["Item"]: row["Earned"] for row in alone.rows("Items that earn least")}["takes leave"] == 0
    assert [row["Agent"] for row in alone.rows("How agents talk")] == [FORGETFUL_AGENT]
    assert {row["Section"] for row in board.rows("Sections")} == set(SECTIONS)


def test_scores_are_told_of_enough_calls_only(month: Month) -> None:
    board = replace(opened(month, "calltide-coaching"), since=month.until - timedelta(hours=2))
    for panel in ("By agent", "Sections in which an agent falls behind", "How agents talk"):
        assert all(row["Calls"] >= 10 for row in board.rows(panel))
    weeks = opened(month, "calltide-coaching", tenant=[SOUR_TENANT]).rows("Score by week, of queues")
    assert {row["Queue"] for row in weeks} == set(TENANTS[SOUR_TENANT])
    assert len({row["time"] for row in weeks}) >= 4


def test_a_call_shows_what_was_found_in_it(month: Month, a_call: dict[str, str]) -> None:
    board = opened(month, "calltide-call", tenant=[a_call["tenant"]], call=a_call["call"])
    about = {row["What"]: row["Words"] for row in board.rows("What it was about")}
    assert about.keys() >= {"reason", "topic", "outcome", "resolved", "read by"}
    said = {row["Text"]: row["At"] for row in board.rows("Transcript")}
    assert about["reason"] in said
    moments = board.rows("Moments")
    assert {row["What"] for row in moments} >= {"issue", "practise"}
    for row in moments:
        if row["What"] != "practise":
            assert row["Words"] in said, "a quote"
    for row in board.rows("Categories"):
        assert row["Words"] in said
    card = board.rows("Score card")
    assert card[0]["Item"] == "the whole call"
    assert [row["Item"] for row in card[1:]] == [item for _, items in SECTIONS.values() for item in items]


def test_words_show_what_was_taken_out_and_where(month: Month) -> None:
    board = replace(opened(month, "calltide-words"), since=month.since)
    by_queue = board.rows("Taken out, by queue")
    assert {(row["Tenant"], row["Queue"]) for row in by_queue if row["Kind"] == "iban"} == {
        ("o'neill & sons", "returns")
    }
    over_time = board.rows("Taken out of what was said")
    assert sum(row["Value"] for row in over_time) == sum(row["Times"] for row in by_queue) > 500
    assert {row["label"] for row in over_time} == {"card", "cvv", "phone", "email", "iban"}


def test_emotions_show_the_anger_of_the_sour_queue(month: Month) -> None:
    board = replace(opened(month, "calltide-emotions"), since=month.sour_from, until=month.sour_to)
    by_queue = board.rows("By queue")
    assert by_queue[0]["name"] == f"{SOUR_TENANT} · {SOUR_QUEUE}"
    emotions = ("neutral", "happiness", "sadness", "anger", "fear", "surprise")
    share = [row["anger"] / sum(row[name] for name in emotions) for row in by_queue]
    assert share[0] > 1.5 * share[1]
    # Angry voices go with negative words, and happy ones with positive ones.
    lift = {row["words"]: row for row in board.rows("Words and voice, against chance")}
    assert lift["negative"]["anger"] > 1.2 > 1 > lift["positive"]["anger"]
    assert lift["positive"]["happiness"] > 1.2 > 1 > lift["negative"]["happiness"]


def test_transitions_are_shares_of_their_row(month: Month) -> None:
    for row in opened(month, "calltide-emotions").rows("From one utterance to the next"):
        assert math.isclose(sum(value for name, value in row.items() if name not in ("first", "steps")), 1)


def test_words_find_what_was_said_in_the_sour_hours_and_only_then(month: Month) -> None:
    board = replace(opened(month, "calltide-words", search=SOUR_TERMS[0].upper()), since=month.since)
    # A call that began in these hours may go on after them.
    hours = (month.sour_from - timedelta(hours=1), month.sour_to + timedelta(hours=2))
    said = board.rows("Said over time")
    assert all(hours[0] <= utc(row["time"]) <= hours[1] for row in said)
    texts = board.rows("Texts")
    assert {(row["tenant"], row["queue"]) for row in texts} == {(SOUR_TENANT, SOUR_QUEUE)}
    assert all(SOUR_TERMS[0] in row["text"].lower() for row in texts)
    (found,) = board.rows("Found")
    assert found["utterances"] == sum(row["Value"] for row in said)
    assert found["score"] < -0.3


def test_a_search_is_for_all_its_words_and_for_nothing_when_empty(month: Month) -> None:
    both = opened(month, "calltide-words", search=" ".join(SOUR_TERMS)).rows("Texts")
    assert all(term in row["text"].lower() for row in both for term in SOUR_TERMS)
    for nothing in ("", "  ", "xyzzy"):
        board = opened(month, "calltide-words", search=nothing)
        assert board.rows("Texts") == board.rows("Said over time") == board.rows("Found") == []


def test_words_that_came_up_are_those_of_the_sour_day(month: Month) -> None:
    board = replace(opened(month, "calltide-words"), since=month.sour_from, until=month.sour_to)
    came_up = {row["term"]: row for row in board.rows("Words that came up")}
    for term in SOUR_TERMS:
        assert came_up[term]["z"] > 3.29
        assert came_up[term]["other_share"] == 0
        assert came_up[term]["share"] > 0.03


def test_telling_words_are_told_by_the_published_formula(month: Month) -> None:
    board = opened(month, "calltide-words", tenant=[SOUR_TENANT])
    negative, positive = board.rows("Words of negative calls"), board.rows("Words of positive calls")
    assert set(SOUR_TERMS) <= {row["term"] for row in month_terms(month, board.start.date())}
    assert not {row["term"] for row in negative} & {row["term"] for row in positive}
    counts = {row["term"]: row for row in month_terms(month, board.start.date())}
    whole = counts[""]
    for rows, first, second in ((negative, "negative", "positive"), (positive, "positive", "negative")):
        assert [row["z"] for row in rows] == sorted((row["z"] for row in rows), reverse=True)
        for row in rows:
            # Monroe, Colaresi and Quinn (2008), equations 15 to 20, with a prior of 100 calls.
            word = counts[row["term"]]
            prior = 100 * word["calls"] / whole["calls"]
            odds = [(word[group] + prior, whole[group] - word[group] + 100 - prior) for group in (first, second)]
            (yes, no), (other_yes, other_no) = odds
            deviation = math.sqrt(1 / yes + 1 / no + 1 / other_yes + 1 / other_no)
            assert math.isclose(row["z"], (math.log(yes / no) - math.log(other_yes / other_no)) / deviation)
            assert math.isclose(row["share"], word[first] / whole[first])
            assert row["share"] > row["other_share"]


def month_terms(month: Month, since: date) -> list[dict[str, Any]]:
    """Calls by word of the sour tenant, counted without the dashboard's query."""
    return list(
        month.client.query(
            """SELECT term, sum(negative_calls) AS negative, sum(positive_calls) AS positive,
    sum(negative_calls + neutral_calls + positive_calls) AS calls
FROM call_terms
WHERE tenant = {tenant:String} AND pipeline_version = {version:String} AND role IN ('customer', 'unknown')
    AND day >= {since:Date} AND day <= {until:Date}
GROUP BY term""",
            {"tenant": SOUR_TENANT, "version": VERSION, "since": since, "until": month.until.date()},
        ).named_results()
    )


def test_models_show_the_worse_version(month: Month) -> None:
    board = replace(opened(month, "calltide-models", a=VERSION, b=WORSE_VERSION), since=month.since)
    (both,) = board.rows("Both on the same calls")
    assert both["calls"] > 100
    assert abs(both["difference"]) > both["margin"]
    assert math.isclose(both["difference"], both["b"] - both["a"], abs_tol=1e-6)
    (flips,) = board.rows("Labels that flip")
    assert flips["flips"] > 0.1
    assert flips["kappa"] < 0.8
    assert sum(row["calls"] for row in board.rows("How calls differ")) == both["calls"]
    for panel in ("Sentiment, A to B", "Emotion, A to B"):
        for row in board.rows(panel):
            assert math.isclose(sum(value for name, value in row.items() if name not in ("first", "utterances")), 1)
    furthest = board.rows("Furthest apart")
    distances = [abs(row["difference"]) for row in furthest]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.5
    for panel, worse_is_more in (("Latency, 95th percentile", True), ("Confidence of speech recognition", False)):
        values: dict[str, list[float]] = {}
        for row in board.rows(panel):
            values.setdefault(row["version"], []).append(row["Value"])
        a, b = (sum(values[name]) / len(values[name]) for name in "AB")
        assert (b > a) == worse_is_more


def test_a_version_against_itself_does_not_differ(month: Month) -> None:
    board = opened(month, "calltide-models", a=WORSE_VERSION, b=WORSE_VERSION)
    (both,) = board.rows("Both on the same calls")
    assert both["difference"] == 0
    (flips,) = board.rows("Labels that flip")
    assert (flips["flips"], flips["kappa"]) == (0, 1)


def test_version_b_is_another_one_than_a(month: Month) -> None:
    assert opened(month, "calltide-models").variables["a"].value == VERSION
    assert opened(month, "calltide-models").variables["b"].value == WORSE_VERSION


def test_finer_names_are_those_of_the_emotion_stage() -> None:
    of_the_stage = {label: (*names.primary, *names.secondary) for label, names in GRANULAR.items()}
    assert of_the_stage == GRANULAR_OF_THE_DASHBOARD
