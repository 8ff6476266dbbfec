"""Coaching: what calls were about, what rules found in them, how score cards came out, and what to practise with whom.

A changer must know: of a call there may be findings of two engines, and a record of each form. `_read` takes of each
call what a language model says, where it could, and the extractive findings otherwise; scores of two forms, or of two
versions of one, are never put together.
"""

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards import common as c
from dashboards.query import ClickHouse
from dashboards.sentiment import FEWEST_CALLS, T_SQL
from dashboards.words import TELLING

NEXT: Final = (c.SENTIMENT_BOARD, c.WORDS, c.FLOOR)

NEWEST: Final = 2_000
"""Score cards whose items are read, for those are JSON: enough for a share that is right to two points of a hundred."""

FEWEST_TOLD: Final = 5
"""Calls with a recommendation, below which z says little: the usual rule for the normal approximation."""

SCORE: Final[c.type_thresholds] = [(None, c.NEGATIVE), (50, c.WARNING), (75, c.POSITIVE)]
"""Of 100. Judgement."""

RESOLVED: Final[c.type_thresholds] = [(None, c.NEGATIVE), (0.3, c.WARNING), (0.6, c.POSITIVE)]
"""Share of calls. Judgement."""

RESOLVED_COLOURS: Final = {"resolved": c.POSITIVE, "not clear": c.NEUTRAL, "not resolved": c.NEGATIVE}

_SELECTED: Final = c.selection("tenant", "queue", "agent", "version")
_CALLS: Final = f"{_SELECTED} AND $__timeFilter(started_at)"

_BEFORE: Final = "subtractSeconds($__fromTime, dateDiff('second', $__fromTime, $__toTime))"
"""SQL: the beginning of the time before, which is as long as the range."""


def _read(*columns: str) -> str:
    """SQL: one row a call with these columns of `insights`, called `call_…`."""
    best = "(state = 'ok', engine != 'extractive', ended_at)"
    picked = "".join(f",\n        argMax({column}, {best}) AS call_{column}" for column in columns)
    return f"""SELECT
        tenant, call_id, max(state = 'ok') AS is_read{picked}
    FROM insights FINAL
    WHERE {_CALLS}
    GROUP BY tenant, call_id"""


def _agents() -> object:
    """A table with a row an agent: Tenant, Agent, Calls."""
    link = c.row_link("calltide-coaching", "This agent only", "version", tenant="Tenant", agent="Agent")
    table = c.column(c.rows(), "Tenant", width=100)
    table = c.column(table, "Agent", width=110, links=[link])
    return c.column(table, "Calls", width=70)


def build() -> model.Dashboard:
    """The dashboard `calltide-coaching`."""
    return c.board(
        "calltide-coaching",
        "Coaching",
        "What calls were about, what rules found in them, how score cards came out, and what to practise with whom.",
        variables=[c.datasource(), c.tenant(), c.queue(), c.agent(), c.version()],
        sections=[
            ("What calls are about", _about()),
            ("What rules find", _rules()),
            ("Score cards", _score_cards()),
            ("What to practise", _practice()),
        ],
        time_from="now-30d",
    )


def _about() -> list[object]:
    tiles = c.column(c.figure(), "Resolved", unit="percentunit", decimals=0, steps=RESOLVED)
    for name in ("Not clear", "With an issue", "With an objection"):
        tiles = c.column(tiles, name, unit="percentunit", decimals=0, steps=c.NO_THRESHOLDS)
    nothing = "No call was read in this time: the stage insights reads calls when they have ended"
    key_figures = c.panel(
        tiles,
        "Key figures",
        "Calls that were read, and could not be; resolved: of those where that is clear; the rest: of those read.",
        ClickHouse(
            f"""SELECT countIf(is_read) AS "Calls read", countIf(NOT is_read) AS "Not read",
    countIf(call_resolved = 'yes') / nullIf(countIf(call_resolved IN ('yes', 'no')), 0) AS "Resolved",
    countIf(is_read AND call_resolved = 'unknown') / nullIf(countIf(is_read), 0) AS "Not clear",
    countIf(notEmpty(call_issues)) / nullIf(countIf(is_read), 0) AS "With an issue",
    countIf(notEmpty(call_objections)) / nullIf(countIf(is_read), 0) AS "With an objection"
FROM (
    {_read("resolved", "issues", "objections")}
)
HAVING count() > 0"""
        ),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=nothing,
        links=NEXT,
        width=24,
        height=5,
    )
    table = c.column(c.rows(), "Topic")
    table = c.column(table, "Calls", unit="short", width=80)
    table = c.column(table, "Share", unit="percentunit", decimals=1, width=80)
    table = c.column(
        table, "Resolved", unit="percentunit", decimals=0, cell="gauge", low=0, high=1, steps=RESOLVED, width=190
    )
    topics = c.panel(
        table,
        "Topics",
        "Terms of the glossary by the calls about them, a call may have several; resolved: where that is clear.",
        ClickHouse(
            f"""SELECT topic AS Topic, count() AS Calls, Calls / any(read) AS Share,
    countIf(call_resolved = 'yes') / nullIf(countIf(call_resolved IN ('yes', 'no')), 0) AS Resolved
FROM (
    SELECT call_topics, call_resolved, countIf(is_read) OVER () AS read
    FROM (
    {_read("topics", "resolved")}
    )
)
ARRAY JOIN call_topics AS topic
GROUP BY topic
ORDER BY Calls DESC, topic LIMIT 50"""
        ),
        unit="none",
        thresholds_at=RESOLVED,
        no_data=nothing,
        links=NEXT,
        width=14,
        height=12,
    )
    resolution = c.panel(
        c.coloured(c.stacked(share=True).interval("1d"), RESOLVED_COLOURS),
        "Resolved or not",
        "Share of the calls read whose matter was settled at the end, was not, or where that is not clear.",
        ClickHouse(
            f"""SELECT $__timeInterval(call_started_at) AS time, countIf(call_resolved = 'yes') AS resolved,
    countIf(call_resolved = 'unknown') AS "not clear", countIf(call_resolved = 'no') AS "not resolved"
FROM (
    {_read("started_at", "resolved")}
)
WHERE is_read
GROUP BY time ORDER BY time"""
        ).timeseries(),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=nothing,
        links=NEXT,
        width=10,
        height=12,
    )

    def sorts(title: str, description: str, column: str, name: str) -> object:
        return c.panel(
            c.bars(),
            title,
            description,
            ClickHouse(
                f"""SELECT sort AS {name}, count() AS Calls
FROM (
    {_read(column)}
)
ARRAY JOIN arrayDistinct(call_{column}) AS sort
GROUP BY sort
ORDER BY Calls DESC, sort LIMIT 15"""
            ),
            unit="short",
            thresholds_at=c.NO_THRESHOLDS,
            no_data="Nothing of the kind was said",
            links=NEXT,
            width=8,
            height=9,
        )

    table = c.call_row(c.rows())
    table = c.column(table, "Began", unit="dateTimeAsLocal", width=160)
    table = c.column(table, "Topic", width=260)
    table = c.column(table, "Resolved", width=90, cell="text", mapping={"yes": c.POSITIVE, "no": c.NEGATIVE})
    reasons = c.panel(
        table,
        "Why they call, and what comes of it",
        "The latest calls in words that were said in them, or a language model's; a click on the call opens it.",
        ClickHouse(
            f"""SELECT {c.CALL_COLUMNS}, started_at AS Began, arrayElement(topics, 1) AS Topic, reason AS Reason,
    outcome AS Outcome, resolved AS Resolved
FROM (
    SELECT tenant, call_id, engine, started_at, ended_at, topics, reason, outcome, resolved
    FROM insights FINAL
    WHERE {_CALLS} AND state = 'ok'
    ORDER BY started_at DESC LIMIT 200
)
ORDER BY started_at DESC, call_id, engine != 'extractive' DESC
LIMIT 1 BY tenant, call_id
LIMIT 50"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=nothing,
        links=NEXT,
        width=24,
        height=9,
    )
    return [
        key_figures,
        topics,
        resolution,
        sorts("What is wrong", "Calls in which the customer says that something is, by sort.", "issues", "Issue"),
        sorts(
            "What speaks against an offer",
            "Calls in which the customer does not want what is offered, by sort.",
            "objections",
            "Objection",
        ),
        sorts(
            "Recommendations",
            "Calls with a moment worth practising, by sort; below, with whom.",
            "coaching",
            "Recommendation",
        ),
        reasons,
    ]


def _rules() -> list[object]:
    no_rule = "No rule has found anything in this time"
    over_time = c.panel(
        c.stacked().interval("1d"),
        "Categories over time",
        "Calls that rules put into a category, by category; a call may be in several.",
        ClickHouse(
            f"""SELECT $__timeInterval(started_at) AS time, category AS label, uniqExact(tenant, call_id) AS Value
FROM call_categories
WHERE {_CALLS}
GROUP BY time, label ORDER BY time, label"""
        ).timeseries(),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=no_rule,
        links=NEXT,
        width=12,
        height=10,
    )
    table = c.column(c.rows(), "Category")
    table = c.column(table, "Calls", unit="short", width=80)
    for name in ("Share", "Before"):
        table = c.column(table, name, unit="percentunit", decimals=1, width=90)
    table = c.column(table, "z", title="How telling (z)", decimals=1, steps=TELLING, cell="text", width=130)
    both = f"{_SELECTED} AND started_at >= {_BEFORE} AND started_at <= $__toTime"
    rising = c.panel(
        table,
        "Categories, against before",
        "Share of all calls, here and in the time of the same length before; from z = 3.3 chance is not why it rose.",
        ClickHouse(
            f"""SELECT category AS Category, found AS Calls, found / calls AS Share,
    found_before / nullIf(calls_before, 0) AS Before,
    (Share - Before) / sqrt(nullIf(
        (found + found_before) / (calls + calls_before) * (1 - (found + found_before) / (calls + calls_before))
            * (1 / calls + 1 / nullIf(calls_before, 0)), 0)) AS z
FROM (
    SELECT category, uniqExactIf((tenant, call_id), started_at >= $__fromTime) AS found,
        uniqExactIf((tenant, call_id), started_at < $__fromTime) AS found_before
    FROM call_categories
    WHERE {both}
    GROUP BY category
) AS of_rules
CROSS JOIN (
    SELECT uniqExactIf((tenant, call_id), started_at >= $__fromTime) AS calls,
        uniqExactIf((tenant, call_id), started_at < $__fromTime) AS calls_before
    FROM calls
    WHERE {both}
) AS of_all
WHERE found > 0 AND calls > 0
ORDER BY z DESC NULLS LAST, Calls DESC, Category LIMIT 50"""
        ),
        unit="none",
        thresholds_at=TELLING,
        no_data=no_rule,
        links=NEXT,
        width=12,
        height=10,
    )
    counts = ", ".join(f"countIf(severity = '{one}') AS {one}" for one in c.SEVERITY_COLOURS)
    alerts = f"FROM alerts FINAL\nWHERE {_SELECTED} AND $__timeFilter(at)"
    by_rule = c.panel(
        c.coloured(c.columns("Rule", horizontal=True), c.SEVERITY_COLOURS),
        "Alerts by rule",
        "How often each rule has raised an alert, by severity: a rule that fires all day is one that nobody reads.",
        ClickHouse(
            f"""SELECT rule AS Rule, {counts}
{alerts}
GROUP BY rule ORDER BY count() DESC, rule LIMIT 30"""
        ),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No alerts in this time",
        links=NEXT,
        width=10,
        height=9,
    )
    over_days = c.panel(
        c.stacked().interval("1d"),
        "Alerts over time",
        "How many alerts each rule has raised.",
        ClickHouse(
            f"""SELECT $__timeInterval(at) AS time, rule AS label, count() AS Value
{alerts}
GROUP BY time, label ORDER BY time, label"""
        ).timeseries(),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No alerts in this time",
        links=NEXT,
        width=14,
        height=9,
    )
    return [over_time, rising, by_rule, over_days]


_TOO_FEW: Final = f"Nobody has {FEWEST_CALLS} calls with a score in this time"


def _score_cards() -> list[object]:
    trends = f"""FROM evaluation_trends
    WHERE {c.selection("tenant", "version")} AND level = 'queue' AND section = '' AND mean IS NOT NULL
        AND {c.among("queue", "name")}
        AND week >= toStartOfWeek(toTimeZone($__fromTime, 'UTC'), 1) AND week <= toTimeZone($__toTime, 'UTC')"""
    weeks = c.panel(
        c.lines(low=0, high=100, calcs=("mean",)).interval("7d").decimals(0).display_name("${__field.labels.Queue}"),
        "Score by week, of queues",
        f"Mean score, 0 to 100, of queues with {FEWEST_CALLS} calls or more in the week; weeks begin on Monday (UTC).",
        ClickHouse(
            f"""SELECT toDateTime(week, 'UTC') AS time,
    concat(
        if(min(tenant) OVER () = max(tenant) OVER (), '', concat(tenant, ' / ')), name,
        if(min(form) OVER () = max(form) OVER (), '', concat(' · ', form))
    ) AS Queue, mean AS score
FROM (
    SELECT week, tenant, name, form, mean
    {trends}
    ORDER BY calls DESC, form_version
    LIMIT 1 BY week, tenant, name, form
)
ORDER BY time, Queue"""
        ).timeseries(),
        unit="none",
        thresholds_at=SCORE,
        no_data=f"No queue has {FEWEST_CALLS} calls with a score in a week of this time",
        links=NEXT,
        width=14,
        height=9,
    )
    scored = f"FROM evaluations FINAL\n    WHERE {_CALLS} AND state = 'ok' AND score IS NOT NULL"
    sections = c.panel(
        c.bars().min(0).max(100).decimals(0),
        "Sections",
        "Mean score of each section of the forms, 0 to 100, where it could be judged; the lowest first.",
        ClickHouse(
            f"""SELECT if(min(form) OVER () = max(form) OVER (), name, concat(form, ' · ', name)) AS Section,
    average AS Score
FROM (
    SELECT form, name, avg(value) AS average
    FROM (
        SELECT form, sections.name AS names, sections.score AS values
        {scored}
    )
    ARRAY JOIN names AS name, values AS value
    WHERE value IS NOT NULL
    GROUP BY form, name
)
ORDER BY Score, Section LIMIT 20"""
        ),
        unit="none",
        thresholds_at=SCORE,
        no_data="No call was scored in this time",
        links=NEXT,
        width=10,
        height=9,
    )
    table = _agents()
    for name in ("Score", "From", "To"):
        table = c.column(table, name, decimals=0, cell="text", steps=SCORE, width=75)
    verdicts = {"better": c.POSITIVE, "worse": c.NEGATIVE, "not shown to differ": c.NEUTRAL}
    table = c.column(table, "Against all", cell="text", mapping=verdicts, width=140)
    agents = c.panel(
        table,
        "By agent",
        f"Of agents with {FEWEST_CALLS} calls or more: the mean, and from where to where it lies with 95 % confidence; "
        "of 20 who are alike, one stands out by chance.",
        ClickHouse(
            f"""SELECT tenant AS Tenant, name AS Agent, calls AS Calls, round(mean, 1) AS Score,
    round(greatest(mean - half, 0), 1) AS "From", round(least(mean + half, 100), 1) AS "To",
    multiIf(mean - half > everybody, 'better', mean + half < everybody, 'worse', 'not shown to differ')
        AS "Against all", form AS Form, form_version AS "Its version"
FROM (
    SELECT tenant, if(agent = '', '{c.NONE}', agent) AS name, form, form_version,
        count() AS calls, avg(score) AS mean, calls - 1 AS df, {T_SQL} * stddevSamp(score) / sqrt(calls) AS half,
        sum(sum(score)) OVER (PARTITION BY form, form_version)
            / sum(count()) OVER (PARTITION BY form, form_version) AS everybody
    {scored}
    GROUP BY tenant, name, form, form_version
)
WHERE calls >= {FEWEST_CALLS}
ORDER BY mean, tenant, name"""
        ),
        unit="none",
        thresholds_at=SCORE,
        no_data=_TOO_FEW,
        links=NEXT,
        width=14,
        height=11,
    )
    table = c.column(c.rows(), "Section", width=120)
    table = c.column(table, "Judged", width=80)
    table = c.column(
        table, "Earned", unit="percentunit", decimals=0, cell="gauge", low=0, high=1, steps=RESOLVED, width=150
    )
    items = c.panel(
        table,
        "Items that earn least",
        f"Mean part of its points that an item earns, where it could be judged, of the newest {NEWEST:,} score cards.",
        ClickHouse(
            f"""SELECT part.1 AS Section, item.1 AS Item, count() AS Judged, avg(item.3 / item.2) AS Earned
FROM (
    SELECT arrayJoin(JSONExtract(
        items, 'sections',
        'Array(Tuple(name String, items Array(Tuple(name String, points Float64, earned Nullable(Float64)))))'
    )) AS part
    FROM (
    SELECT items
    {scored}
    ORDER BY started_at DESC LIMIT {NEWEST}
    )
)
ARRAY JOIN part.2 AS item
WHERE item.3 IS NOT NULL AND item.2 > 0
GROUP BY Section, Item
HAVING Judged >= {FEWEST_CALLS}
ORDER BY Earned, Section, Item LIMIT 50"""
        ),
        unit="none",
        thresholds_at=RESOLVED,
        no_data="No call was scored in this time",
        links=NEXT,
        width=10,
        height=11,
    )
    return [weeks, sections, agents, items]


def _practice() -> list[object]:
    table = _agents()
    for name in ("Score", "All"):
        table = c.column(table, name, decimals=0, cell="text", steps=SCORE, width=75)
    weak = c.panel(
        table,
        "Sections in which an agent falls behind",
        f"Of agents with {FEWEST_CALLS} calls: where the mean lies below that of all agents, with 95 % confidence.",
        ClickHouse(
            f"""SELECT tenant AS Tenant, who AS Agent, part AS Section, calls AS Calls, round(mean, 1) AS Score,
    round(everybody, 1) AS "All", form AS Form
FROM (
    SELECT tenant, who, part, form, form_version, count() AS calls, avg(value) AS mean, calls - 1 AS df,
        {T_SQL} * stddevSamp(value) / sqrt(calls) AS half,
        sum(sum(value)) OVER (PARTITION BY form, form_version, part)
            / sum(count()) OVER (PARTITION BY form, form_version, part) AS everybody
    FROM (
        SELECT tenant, if(agent = '', '{c.NONE}', agent) AS who, form, form_version,
            sections.name AS names, sections.score AS values
        FROM evaluations FINAL
        WHERE {_CALLS} AND state = 'ok'
    )
    ARRAY JOIN names AS part, values AS value
    WHERE value IS NOT NULL
    GROUP BY tenant, who, part, form, form_version
)
WHERE calls >= {FEWEST_CALLS} AND mean + half < everybody
ORDER BY mean - everybody, Tenant, Agent, Section LIMIT 50"""
        ),
        unit="none",
        thresholds_at=SCORE,
        no_data=f"Nobody falls behind, or nobody has {FEWEST_CALLS} calls",
        links=NEXT,
        width=12,
        height=11,
    )
    table = _agents()
    for name in ("Share", "All"):
        table = c.column(table, name, unit="percentunit", decimals=0, width=75)
    table = c.column(table, "z", title="How telling (z)", decimals=1, steps=TELLING, cell="text", width=130)
    advice = c.panel(
        table,
        "Recommendations by agent",
        f"Of agents with {FEWEST_CALLS} calls read: the share of calls with a recommendation, of {FEWEST_TOLD} and "
        "more, where it is above that of all agents.",
        ClickHouse(
            f"""SELECT tenant AS Tenant, who AS Agent, advice AS Recommendation, given AS Calls, given / read AS Share,
    everybody AS "All", (Share - everybody) / sqrt(everybody * (1 - everybody) / read) AS z
FROM (
    SELECT tenant, who, read, advice, count() AS given,
        sum(count()) OVER (PARTITION BY advice) / any(all_read) AS everybody
    FROM (
        SELECT tenant, if(call_agent = '', '{c.NONE}', call_agent) AS who, call_coaching,
            count() OVER (PARTITION BY tenant, who) AS read, count() OVER () AS all_read
        FROM (
    {_read("agent", "coaching")}
        )
        WHERE is_read
    )
    ARRAY JOIN arrayDistinct(call_coaching) AS advice
    GROUP BY tenant, who, read, advice
)
WHERE read >= {FEWEST_CALLS} AND given >= {FEWEST_TOLD} AND everybody < 1 AND Share > everybody
ORDER BY z DESC, Tenant, Agent, Recommendation LIMIT 50"""
        ),
        unit="none",
        thresholds_at=TELLING,
        no_data=f"Nobody stands out, or nobody has {FEWEST_CALLS} calls that were read",
        links=NEXT,
        width=12,
        height=11,
    )
    table = _agents()
    table = c.column(table, "Share of talk", unit="percentunit", decimals=0, width=110)
    table = c.column(table, "Words a minute", decimals=0, width=120)
    for name in ("Answers after", "Longest monologue", "Dead air"):
        table = c.column(table, name, unit="ms", decimals=1, width=130)
    for name in ("Cuts in", "Is cut off"):
        table = c.column(table, name, decimals=1, width=90)
    talk = c.panel(
        table,
        "How agents talk",
        f"Means a call, of agents with {FEWEST_CALLS} calls that have ended; interruptions where each party has a "
        "channel; who cuts in most is first.",
        ClickHouse(
            f"""SELECT tenant AS Tenant, if(agent = '', '{c.NONE}', agent) AS Agent, count() AS Calls,
    avg(talk_share) AS "Share of talk", avg(words_per_minute) AS "Words a minute",
    avg(response_ms) AS "Answers after", avg(longest_monologue_ms) AS "Longest monologue",
    avg(silence_ms) AS "Dead air", avg(interruptions) AS "Cuts in", avg(interrupted) AS "Is cut off"
FROM call_progress FINAL
WHERE {_CALLS} AND role = 'agent' AND final
GROUP BY Tenant, Agent
HAVING Calls >= {FEWEST_CALLS}
ORDER BY "Cuts in" DESC NULLS LAST, Tenant, Agent LIMIT 100"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=_TOO_FEW.replace("with a score in", "that have ended in"),
        links=NEXT,
        width=24,
        height=10,
    )
    table = c.call_row(c.rows())
    table = c.column(table, "Began", unit="dateTimeAsLocal", width=160)
    table = c.column(table, "Score", decimals=0, cell="background", steps=SCORE, width=80)
    table = c.column(table, "Judged", unit="percentunit", decimals=0, width=80)
    calls = c.panel(
        table,
        "Calls to practise on",
        "The lowest scores, and the section that is the weakest; a click on the call opens it.",
        ClickHouse(
            f"""SELECT {c.CALL_COLUMNS}, started_at AS Began, if(queue = '', '{c.NONE}', queue) AS Queue,
    if(agent = '', '{c.NONE}', agent) AS Agent, form AS Form, score AS Score, judged AS Judged,
    arrayElement(arraySort((name, value) -> ifNull(value, 101), sections.name, sections.score), 1) AS Weakest
FROM evaluations FINAL
WHERE {_CALLS} AND state = 'ok' AND score IS NOT NULL
ORDER BY score, judged DESC, call_id LIMIT 30"""
        ),
        unit="none",
        thresholds_at=SCORE,
        no_data="No call was scored in this time",
        links=NEXT,
        width=24,
        height=9,
    )
    return [weak, advice, talk, calls]
