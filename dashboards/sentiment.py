"""Sentiment over time: how customers felt, when, in which queues, and with whom.

A changer must know: utterances of a call are not independent, so whatever is compared has the call as its unit: a
call's figure is the mean of its chosen parties, and an interval says how far the mean of so many calls may be off.
"""

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards import common as c
from dashboards.query import ClickHouse

FEWEST_CALLS: Final = 10
"""Judgement: with fewer the interval is wider than what agents differ by, and its formula less exact."""

FEWEST_UTTERANCES: Final = 5
"""Judgement: scored utterances of a call, below which it is not listed among the worst and best."""

_ALL: Final = c.selection("tenant", "queue", "agent", "role", "version")
_HOURS: Final = f"""FROM utterance_hours
WHERE {_ALL} AND $__timeFilter(hour)"""

_CALLS: Final = f"""SELECT
        tenant, call_id, any(queue) AS call_queue, any(agent) AS call_agent,
        avg(score) AS call_score, avg(change) AS call_change, sum(utterances) AS said, sum(negative) AS said_negative
    FROM call_metrics FINAL
    WHERE {_ALL} AND $__timeFilter(started_at) AND score IS NOT NULL
    GROUP BY tenant, call_id"""
"""SQL: one row a call, of its chosen parties together."""

_WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_ZONE: Final = "if('${__timezone:percentencode}' = 'utc', 'UTC', decodeURLComponent('${__timezone:percentencode}'))"
"""SQL: the time zone that the dashboard is looked at in. Grafana writes utc small, ClickHouse does not know it so."""

T_SQL: Final = "(1.959964 + 2.372271 / df + 2.822499 / pow(df, 2) + 2.555850 / pow(df, 3) + 1.589534 / pow(df, 4))"
"""SQL: the 97.5 % quantile of Student's t with `df` degrees of freedom, Abramowitz and Stegun 26.7.5 at z = 1.959964.

Off by less than 0.00002 from 9 degrees of freedom on.
"""


def _compared(by: str, title: str, links: list[dict[str, str]]) -> tuple[object, ClickHouse]:
    """The table of a comparison of queues or agents, and its query."""
    sql = f"""SELECT
    tenant AS Tenant, name AS {title}, calls AS Calls, round(mean, 3) AS Sentiment,
    round(mean - half, 3) AS "From", round(mean + half, 3) AS "To",
    multiIf(mean - half > everybody, 'better', mean + half < everybody, 'worse', 'not shown to differ')
        AS "Against all",
    negative AS Negative, change AS Change
FROM (
    SELECT
        tenant, if(call_{by} = '', '{c.NONE}', call_{by}) AS name,
        count() AS calls, sum(said) AS utterances, avg(call_score) AS mean,
        calls - 1 AS df, {T_SQL} * stddevSamp(call_score) / sqrt(calls) AS half,
        sum(sum(call_score)) OVER () / sum(count()) OVER () AS everybody,
        sum(said_negative) / sum(said) AS negative, avg(call_change) AS change
    FROM (
    {_CALLS}
    )
    GROUP BY tenant, name
)
WHERE calls >= {FEWEST_CALLS} AND utterances >= {c.number("minimum")}
ORDER BY mean, tenant, name"""
    table = c.column(c.rows(), "Tenant", width=100)
    table = c.column(table, title, width=120, links=links)
    table = c.column(table, "Calls", width=70)
    for name in ("Sentiment", "From", "To"):
        table = c.column(table, name, decimals=2, cell="text", steps=c.SENTIMENT, width=85)
    verdicts = {"better": c.POSITIVE, "worse": c.NEGATIVE, "not shown to differ": c.NEUTRAL}
    table = c.column(table, "Against all", cell="text", mapping=verdicts, width=135)
    table = c.column(table, "Negative", unit="percentunit", decimals=0, width=100)
    table = c.column(table, "Change", title="Start → end", decimals=2, cell="text", steps=c.QUARTERS, width=110)
    return table, ClickHouse(sql)


def _calls(order: str) -> ClickHouse:
    return ClickHouse(
        f"""SELECT
    tenant, call_id,
    toString(toUnixTimestamp64Milli(begun) - 10000) AS from_ms,
    toString(toUnixTimestamp64Milli(ended) + 10000) AS to_ms,
    begun AS "Began", if(call_queue = '', '{c.NONE}', call_queue) AS Queue,
    if(call_agent = '', '{c.NONE}', call_agent) AS Agent, round(call_score, 2) AS Sentiment, call_change AS Change,
    share_negative AS Negative
FROM (
    SELECT
        tenant, call_id, any(started_at) AS begun, any(ended_at) AS ended, any(queue) AS call_queue,
        any(agent) AS call_agent, avg(score) AS call_score, avg(change) AS call_change,
        sum(negative) / sum(utterances) AS share_negative, sum(negative + neutral + positive) AS scored
    FROM call_metrics FINAL
    WHERE {_ALL} AND $__timeFilter(started_at) AND score IS NOT NULL
    GROUP BY tenant, call_id
    HAVING scored >= {FEWEST_UTTERANCES}
)
ORDER BY call_score {order}, call_id LIMIT 20"""
    )


def _call_table() -> object:
    table = c.call_row(c.rows())
    table = c.column(table, "Began", unit="dateTimeAsLocal", width=170)
    table = c.column(table, "Sentiment", decimals=2, cell="background", steps=c.SENTIMENT, width=95)
    table = c.column(table, "Change", title="Start → end", decimals=1, cell="text", steps=c.QUARTERS, width=100)
    return c.column(table, "Negative", unit="percentunit", decimals=0, width=90)


def build() -> model.Dashboard:
    """The dashboard."""
    onward = (c.EMOTIONS, c.WORDS, c.FLOOR)
    kept = ("version", "role", "minimum")
    nothing = "Nobody was scored in this time"

    tiles = c.column(c.figure(), "Sentiment of calls", decimals=2, steps=c.SENTIMENT)
    tiles = c.column(tiles, "Start → end", decimals=2, steps=c.QUARTERS)
    for name in ("Negative calls", "Calls that turned worse"):
        steps: c.type_thresholds = [(None, c.NEUTRAL), (0.2, c.WARNING), (0.4, c.NEGATIVE)]
        tiles = c.column(tiles, name, unit="percentunit", decimals=1, steps=steps)
    key_figures = c.panel(
        tiles,
        "Key figures",
        "Every call counts the same: its mean, −1 to 1, negative from −0.2 down; change, −5 to 5, worse from −1 down.",
        ClickHouse(
            f"""SELECT count() AS "Calls", sum(said) AS "Utterances", avg(call_score) AS "Sentiment of calls",
    countIf(call_score <= -0.2) / count() AS "Negative calls", avgOrNull(call_change) AS "Start → end",
    countIf(call_change <= -1) / nullIf(count(call_change), 0) AS "Calls that turned worse"
FROM (
    {_CALLS}
)
HAVING count() > 0"""
        ),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=nothing,
        links=onward,
        width=24,
        height=5,
    )

    by_role = c.panel(
        c.coloured(c.sentiment_lines().interval("1h"), c.ROLE_COLOURS),
        "Sentiment by role",
        "Mean sentiment of customers, agents and unknown voices, words and voice fused, from −1 to 1.",
        ClickHouse(
            f"""SELECT $__timeInterval(hour) AS time,
    sumIf(score_sum, role = 'customer') / nullIf(sumIf(score_n, role = 'customer'), 0) AS customer,
    sumIf(score_sum, role = 'agent') / nullIf(sumIf(score_n, role = 'agent'), 0) AS agent,
    sumIf(score_sum, role = 'unknown') / nullIf(sumIf(score_n, role = 'unknown'), 0) AS unknown
FROM utterance_hours
WHERE {c.selection("tenant", "queue", "agent", "version", table="utterance_hours")} AND $__timeFilter(hour)
GROUP BY time ORDER BY time"""
        ).timeseries(),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data=nothing,
        links=onward,
        width=12,
        height=9,
    )
    words_and_voice = c.panel(
        c.sentiment_lines().interval("1h").display_name("${__field.name}, ${__field.labels.Role}"),
        "Fused, words and voice, by role",
        "What the chosen parties said (words), how it sounded (voice), and both fused; where they part, see Emotions.",
        ClickHouse(
            f"""SELECT $__timeInterval(hour) AS time, role AS Role,
    sum(score_sum) / nullIf(sum(score_n), 0) AS fused,
    sum(text_sum) / nullIf(sum(text_n), 0) AS words,
    sum(voice_sum) / nullIf(sum(voice_n), 0) AS voice
{_HOURS}
GROUP BY time, Role ORDER BY time, Role"""
        ).timeseries(),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data=nothing,
        links=onward,
        width=12,
        height=9,
    )
    parts = c.panel(
        c.coloured(c.stacked(share=True).interval("1h"), c.SENTIMENT_COLOURS),
        "Negative, neutral, positive",
        "Share of utterances by label.",
        ClickHouse(
            f"""SELECT $__timeInterval(hour) AS time,
    sum(negative) AS negative, sum(neutral) AS neutral, sum(positive) AS positive
{_HOURS}
GROUP BY time ORDER BY time"""
        ).timeseries(),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=nothing,
        links=onward,
        width=12,
        height=9,
    )
    queues_over_time = c.panel(
        c.sentiment_lines().interval("1h").display_name("${__field.labels.Queue}"),
        "Sentiment over time, by queue",
        "Mean sentiment of the chosen parties, a line a queue, from −1 to 1.",
        ClickHouse(c.per_queue("utterance_hours", "hour", _ALL)).timeseries(),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data=nothing,
        links=onward,
        width=12,
        height=9,
    )

    trajectory = c.panel(
        c.coloured(c.columns("Quarter", beside=True).decimals(2), c.ROLE_COLOURS),
        "From start to end of a call",
        "Mean sentiment in each quarter of the calls' duration, from −5 to 5; change: last quarter less first.",
        ClickHouse(
            f"""SELECT
    ['1st quarter', '2nd quarter', '3rd quarter', '4th quarter', 'change'][place] AS Quarter,
    avgOrNullIf(value, role = 'customer') AS customer,
    avgOrNullIf(value, role = 'agent') AS agent,
    avgOrNullIf(value, role = 'unknown') AS unknown
FROM (
    SELECT role, place, arrayPushBack(quarters, change)[place] AS value
    FROM call_metrics FINAL
    ARRAY JOIN range(1, 6) AS place
    WHERE {_ALL} AND $__timeFilter(started_at)
)
WHERE value IS NOT NULL
GROUP BY place ORDER BY place"""
        ),
        unit="none",
        thresholds_at=c.QUARTERS,
        no_data="No call ended in this time",
        links=onward,
        width=8,
        height=9,
    )
    turned = c.panel(
        c.coloured(
            c.stacked(share=True).interval("1d"),
            {"worse": c.NEGATIVE, "about the same": c.NEUTRAL, "better": c.POSITIVE},
        ),
        "Calls that ended better or worse than they began",
        "Share of calls by the change from first to last quarter: by 1 or more of −5 to 5, or less.",
        ClickHouse(
            f"""SELECT $__timeInterval(started_at) AS time,
    countIf(change <= -1) AS worse, countIf(change > -1 AND change < 1) AS "about the same",
    countIf(change >= 1) AS better
FROM call_metrics FINAL
WHERE {_ALL} AND $__timeFilter(started_at) AND change IS NOT NULL
GROUP BY time ORDER BY time"""
        ).timeseries(),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No call ended in this time",
        links=onward,
        width=8,
        height=9,
    )
    distribution = c.panel(
        c.coloured(c.columns("Score"), c.SENTIMENT_COLOURS),
        "Distribution of scores",
        "Utterances by score in tenths, from −1 to 1: whether a mean near 0 is many neutral ones, or two camps.",
        ClickHouse(
            f"""SELECT toString(bin / 10) AS Score,
    if(bin < -2, n, NULL) AS negative, if(bin BETWEEN -2 AND 1, n, NULL) AS neutral, if(bin > 1, n, NULL) AS positive
FROM (
    SELECT arrayJoin(arrayMap(tenth -> toInt8(tenth), range(-10, 10))) AS bin, bins[bin] AS n
    FROM (SELECT sumMap(score_bins) AS bins {_HOURS} HAVING notEmpty(bins))
)
ORDER BY bin"""
        ),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=nothing,
        links=onward,
        width=8,
        height=9,
    )

    hours = ",\n    ".join(
        f"""sumIf(total, hour_of_day = {hour}) / nullIf(sumIf(n, hour_of_day = {hour}), 0) AS "{hour:02}\""""
        for hour in range(24)
    )
    heat = c.column(c.rows(), r"\d\d", pattern=True, decimals=2, cell="background", steps=c.SENTIMENT, width=52)
    names = ", ".join(f"'{name}'" for name in _WEEKDAYS)
    week = c.panel(
        c.column(heat, "Weekday", width=110),
        "By weekday and hour",
        "Mean sentiment of the chosen parties by the hour at which they spoke, in the time zone of the dashboard.",
        ClickHouse(
            f"""SELECT [{names}][weekday] AS Weekday,
    {hours}
FROM (
    SELECT toTimeZone(hour, {_ZONE}) AS local, toDayOfWeek(local) AS weekday, toHour(local) AS hour_of_day,
        sum(score_sum) AS total, sum(score_n) AS n
    {_HOURS}
    GROUP BY local
)
GROUP BY weekday ORDER BY weekday"""
        ),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data=nothing,
        links=onward,
        width=24,
        height=10,
    )

    interval = "the mean of its calls, and from where to where it lies with 95 % confidence (Student's t over calls)"
    queue_table, queue_query = _compared(
        "queue",
        "Queue",
        [c.row_link("calltide-sentiment", "This queue only", *kept, "agent", tenant="Tenant", queue="Queue")],
    )
    agent_table, agent_query = _compared(
        "agent",
        "Agent",
        [
            c.row_link("calltide-sentiment", "This agent only", *kept, "queue", tenant="Tenant", agent="Agent"),
            c.row_link("calltide-emotions", "Emotions with this agent", *kept, "queue", tenant="Tenant", agent="Agent"),
        ],
    )
    too_few = f"Nobody has {FEWEST_CALLS} calls and the minimum of utterances in this time"
    by_queue = c.panel(
        queue_table,
        "By queue",
        f"Of each queue with ten calls or more: {interval}.",
        queue_query,
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data=too_few,
        links=onward,
        width=12,
        height=12,
    )
    by_agent = c.panel(
        agent_table,
        "By agent",
        f"Of each agent with ten calls or more: {interval}; of 20 who are alike, one stands out by chance.",
        agent_query,
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data=too_few,
        links=onward,
        width=12,
        height=12,
    )

    def listed(title: str, description: str, order: str) -> object:
        return c.panel(
            _call_table(),
            title,
            description,
            _calls(order),
            unit="none",
            thresholds_at=c.SENTIMENT,
            no_data="No call ended in this time",
            links=onward,
            width=12,
            height=10,
        )

    return c.board(
        "calltide-sentiment",
        "Sentiment over time",
        "How customers felt: when, in which queues, from the start of a call to its end, and with whom.",
        variables=[c.datasource(), c.tenant(), c.queue(), c.agent(), c.role(), c.version(), c.minimum()],
        sections=[
            ("Key figures", [key_figures]),
            ("Over time", [by_role, words_and_voice, parts, queues_over_time]),
            ("Within a call", [trajectory, turned, distribution]),
            ("Over the week", [week]),
            ("Compared", [by_queue, by_agent]),
            (
                "Calls to listen to",
                [
                    listed(
                        "Most negative calls", "The lowest mean of the chosen parties; a click opens the call.", "ASC"
                    ),
                    listed(
                        "Most positive calls", "The highest mean of the chosen parties; a click opens the call.", "DESC"
                    ),
                ],
            ),
        ],
        time_from="now-7d",
    )
