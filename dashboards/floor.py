"""Floor, live: what goes on at this moment, for who stands behind the agents.

A changer must know: "now" is the end of the time range, so the same dashboard shows how it was on Friday at three.
"""

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards import common as c
from dashboards.query import ClickHouse

LONGEST_CALL: Final = "INTERVAL 4 HOUR"
"""Judgement. A call that began earlier and never ended is one whose source died; it keeps the rows to look at few."""

LATELY: Final = "INTERVAL 5 MINUTE"
"""Judgement: long enough for a dozen utterances of a party, short enough to be about now."""

BADLY: Final = 0.5
OUTLOOK: Final[c.type_thresholds] = [(None, c.NEUTRAL), (0.3, c.WARNING), (BADLY, c.NEGATIVE)]
"""Chance that a call ends badly. Judgement, as the model is calibrated: more likely than not."""

FEWEST: Final = 4
"""Judgement: scored utterances within LATELY, below which a call is not said to go wrong."""


_LATELY: Final = f"""FROM utterance_minutes
WHERE {c.selection("tenant", "queue", "role", "version")}
    AND minute > $__toTime - {LATELY} AND minute <= $__toTime"""


def _running() -> str:
    """SQL: the calls that go on at the end of the range."""
    return f"""SELECT tenant, call_id, started_at, ended_at, queue, agent
    FROM calls FINAL
    WHERE {c.selection("tenant", "queue", "version")}
        AND started_at > $__toTime - {LONGEST_CALL} AND started_at <= $__toTime
        AND (ended_at IS NULL OR ended_at > $__toTime)"""


def _moods() -> str:
    """SQL: of each call that was spoken in, how the chosen parties sounded in the range and lately."""
    return f"""SELECT
        tenant, call_id,
        avg(score) AS mean,
        avgIf(score, spoken_at > $__toTime - {LATELY}) AS lately,
        countIf(score IS NOT NULL AND spoken_at > $__toTime - {LATELY}) AS scored_lately,
        countIf(sentiment = 'negative') AS said_negative,
        count() AS said,
        argMaxIf(emotion, spoken_at, emotion != '') AS last_emotion,
        argMax(text, spoken_at) AS last_words
    FROM utterances
    WHERE {c.selection("tenant", "queue", "role", "version")}
        AND call_started_at > $__fromTime - {LONGEST_CALL} AND $__timeFilter(spoken_at)
    GROUP BY tenant, call_id"""


def _told() -> str:
    """SQL: of each call that goes on what the metrics stage has said of it last; of one that has ended since, all."""
    return f"""SELECT
        tenant, call_id, avgOrNullIf(talk_share, role = 'agent') AS agent_share, max(silence_now_ms) AS silent_now,
        max(silences) AS silences_so_far, sumOrNullIf(interruptions, role = 'agent') AS agent_cuts_in,
        sumOrNullIf(interruptions, role != 'agent') AS others_cut_in, avgOrNullIf(change, role != 'agent') AS changed,
        max(outlook) AS outlook_now
    FROM call_progress_now
    WHERE {c.selection("tenant", "queue", "version")}
        AND started_at > $__toTime - {LONGEST_CALL} AND started_at <= $__toTime
    GROUP BY tenant, call_id"""


def build() -> model.Dashboard:
    """The dashboard."""
    onward = (c.SENTIMENT_BOARD, c.EMOTIONS)

    calls_now = c.panel(
        c.figure(),
        "Calls now",
        "Calls that have begun and not ended.",
        ClickHouse(f"SELECT count() AS calls FROM (\n    {_running()}\n)"),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No call yet",
        links=onward,
        width=3,
        height=6,
    )
    mood = c.panel(
        c.dial(-1, 1).decimals(2),
        "Mood of the floor",
        "Mean sentiment of the last five minutes, from −1 to 1: what the chosen parties said and how it sounded.",
        ClickHouse(f"SELECT sum(score_sum) / nullIf(sum(score_n), 0) AS mood\n{_LATELY}"),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data="Nobody spoke in the last five minutes",
        links=onward,
        width=5,
        height=6,
    )
    going_wrong = c.panel(
        c.figure(),
        "Calls going wrong",
        "Calls going on whose last five minutes are negative (mean of −0.2 or less, at least four utterances).",
        ClickHouse(
            f"""SELECT countIf(lately <= -0.2 AND scored_lately >= {FEWEST}) AS calls
FROM (
    {_running()}
) AS running
INNER JOIN (
    {_moods()}
) AS moods USING (tenant, call_id)"""
        ),
        unit="short",
        thresholds_at=[(None, c.POSITIVE), (1, c.WARNING), (5, c.NEGATIVE)],
        no_data="No call yet",
        links=onward,
        width=4,
        height=6,
    )
    tiles = c.column(c.figure(), "Negative utterances", steps=[(None, c.NEUTRAL), (0.3, c.WARNING), (0.5, c.NEGATIVE)])
    tiles = c.column(tiles, "Angry voices", steps=[(None, c.NEUTRAL), (0.15, c.WARNING), (0.3, c.NEGATIVE)])
    shares = c.panel(
        tiles.decimals(0),
        "The last five minutes",
        "Share of utterances that are negative, and of voices that sound angry where emotion was computed.",
        ClickHouse(
            f"""SELECT sum(negative) / nullIf(sum(negative + neutral + positive), 0) AS "Negative utterances",
    sum(emotions['anger']) / nullIf(sum(arraySum(mapValues(emotions))), 0) AS "Angry voices"
{_LATELY}"""
        ),
        unit="percentunit",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="Nobody spoke in the last five minutes",
        links=(c.EMOTIONS, c.SENTIMENT_BOARD),
        width=5,
        height=6,
    )
    alerts_now = c.panel(
        c.figure(),
        "Alerts",
        "Warnings and critical alerts of calls in the time range.",
        ClickHouse(
            f"""SELECT countIf(severity != 'info') AS alerts
FROM alerts FINAL WHERE {c.selection("tenant", "queue", "version")} AND $__timeFilter(at)"""
        ),
        unit="short",
        thresholds_at=[(None, c.POSITIVE), (1, c.WARNING), (10, c.NEGATIVE)],
        no_data="No alerts",
        links=onward,
        width=3,
        height=6,
    )

    outlook = c.panel(
        c.figure(),
        "Likely to end badly",
        "Calls going on whose customer is, by the trained model, more likely than not negative in the last quarter.",
        ClickHouse(
            f"""SELECT countIf(outlook_now >= {BADLY}) AS calls
FROM (
    {_running()}
) AS running
INNER JOIN (
    {_told()}
) AS told USING (tenant, call_id)
HAVING count(outlook_now) > 0"""
        ),
        unit="short",
        thresholds_at=[(None, c.POSITIVE), (1, c.WARNING), (5, c.NEGATIVE)],
        no_data="No forecast: no model is trained, or the calls have ended",
        links=onward,
        width=4,
        height=6,
    )
    by_queue = c.panel(
        c.sentiment_lines().interval("1m").span_nulls(300_000).display_name("${__field.labels.Queue}"),
        "Sentiment per minute, by queue",
        "Mean sentiment of the chosen parties, from −1 to 1; dashed: where negative and positive begin.",
        ClickHouse(
            c.per_queue("utterance_minutes", "minute", c.selection("tenant", "queue", "role", "version"))
        ).timeseries(),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data="Nobody spoke in this time",
        links=onward,
        width=12,
        height=9,
    )
    names = ",\n    ".join(f"sum(emotions['{name}']) AS {name}" for name in c.EMOTION_COLOURS)
    emotions = c.panel(
        c.coloured(c.stacked().interval("1m"), c.EMOTION_COLOURS),
        "Emotions per minute",
        "Utterances by how the voice sounds; computed for customers only, unless a setting says otherwise.",
        ClickHouse(
            f"""SELECT $__timeInterval(minute) AS time,
    {names}
FROM utterance_minutes
WHERE {c.selection("tenant", "queue", "role", "version")} AND $__timeFilter(minute)
GROUP BY time ORDER BY time"""
        ).timeseries(),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No emotion computed in this time",
        links=(c.EMOTIONS, c.SENTIMENT_BOARD),
        width=12,
        height=9,
    )

    worst = c.panel(
        _call_table(),
        "Worst calls now",
        "Calls going on, the most negative of the last five minutes first; a click on the call opens it.",
        ClickHouse(
            f"""SELECT
    tenant, call_id,
    toString(toUnixTimestamp64Milli(started_at) - 10000) AS from_ms,
    ifNull(toString(toUnixTimestamp64Milli(ended_at) + 10000), 'now') AS to_ms,
    if(queue = '', '{c.NONE}', queue) AS Queue, if(agent = '', '{c.NONE}', agent) AS Agent,
    dateDiff('second', started_at, toDateTime64($__toTime, 3)) AS Since,
    if(isNaN(lately), NULL, lately) AS Lately, mean AS Sentiment,
    said_negative / said AS Negative, last_emotion AS Voice, last_words AS "Last words"
FROM (
    {_running()}
) AS running
INNER JOIN (
    {_moods()}
) AS moods USING (tenant, call_id)
ORDER BY ifNull(Lately, mean), call_id LIMIT 20"""
        ),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data="No call is going on",
        links=onward,
        width=24,
        height=10,
    )
    talk_table = c.call_row(c.rows())
    talk_table = c.column(talk_table, "Since", unit="dtdurations", width=110)
    talk_table = c.column(
        talk_table, "Ends badly", unit="percentunit", decimals=0, steps=OUTLOOK, cell="background", width=110
    )
    talk_table = c.column(talk_table, "Agent talks", unit="percentunit", decimals=0, width=110)
    silent: c.type_thresholds = [(None, c.NEUTRAL), (5_000, c.WARNING), (15_000, c.NEGATIVE)]
    talk_table = c.column(talk_table, "Silent for", unit="ms", cell="text", steps=silent, width=110)
    talk_table = c.column(talk_table, "Start → now", decimals=1, cell="text", steps=c.QUARTERS, width=110)
    talk = c.panel(
        talk_table,
        "Talk and silence now",
        "Figures so far of calls going on, and how each will end, the likeliest to end badly first; of calls that have "
        "ended since, all of them.",
        ClickHouse(
            f"""SELECT
    tenant, call_id,
    toString(toUnixTimestamp64Milli(started_at) - 10000) AS from_ms,
    ifNull(toString(toUnixTimestamp64Milli(ended_at) + 10000), 'now') AS to_ms,
    if(queue = '', '{c.NONE}', queue) AS Queue, if(agent = '', '{c.NONE}', agent) AS Agent,
    dateDiff('second', started_at, toDateTime64($__toTime, 3)) AS Since, outlook_now AS "Ends badly",
    agent_share AS "Agent talks", silent_now AS "Silent for", silences_so_far AS "Silences",
    agent_cuts_in AS "Agent cuts in", others_cut_in AS "Customer cuts in", changed AS "Start → now"
FROM (
    {_running()}
) AS running
INNER JOIN (
    {_told()}
) AS told USING (tenant, call_id)
ORDER BY outlook_now DESC NULLS LAST, silent_now DESC, call_id LIMIT 20"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No call is going on",
        links=onward,
        width=24,
        height=9,
    )
    by_rule = c.panel(
        c.stacked().interval("1m"),
        "Alerts by rule",
        "When rules raised alerts, and which: one that fires all the time, or many calls at once.",
        ClickHouse(
            f"""SELECT $__timeInterval(at) AS time, rule AS label, count() AS Value
FROM alerts FINAL
WHERE {c.selection("tenant", "queue", "version")} AND $__timeFilter(at)
GROUP BY time, label ORDER BY time, label"""
        ).timeseries(),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No alerts in this time",
        links=onward,
        width=8,
        height=9,
    )
    alert_rows = c.panel(
        c.alert_table(),
        "Alerts of calls",
        "What was noticed in calls in the time range, the latest first; a click on the call opens it.",
        ClickHouse(
            f"""SELECT at AS "At", severity AS Severity, rule AS Rule, text AS Why,
    tenant, call_id, if(queue = '', '{c.NONE}', queue) AS Queue, if(agent = '', '{c.NONE}', agent) AS Agent,
    toString(toUnixTimestamp64Milli(at) - 1800000) AS from_ms, toString(toUnixTimestamp64Milli(at) + 1800000) AS to_ms
FROM alerts FINAL
WHERE {c.selection("tenant", "queue", "version")} AND $__timeFilter(at)
ORDER BY at DESC LIMIT 100"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No alerts in this time",
        links=onward,
        width=16,
        height=9,
    )
    return c.board(
        "calltide-floor",
        "Floor, live",
        "What goes on on the phones at this moment, and which calls need somebody.",
        variables=[c.datasource(), c.tenant(), c.queue(), c.role(), c.version()],
        sections=[
            ("Now", [calls_now, mood, going_wrong, shares, alerts_now, outlook]),
            ("The last minutes", [by_queue, emotions]),
            ("Which calls need somebody", [worst, talk, by_rule, alert_rows]),
        ],
        time_from="now-30m",
        refresh="5s",
    )


def _call_table() -> object:
    built = c.call_row(c.rows())
    built = c.column(built, "Since", unit="dtdurations", width=110)
    built = c.column(built, "Lately", decimals=2, cell="background", steps=c.SENTIMENT, width=90)
    built = c.column(built, "Sentiment", decimals=2, cell="text", steps=c.SENTIMENT, width=100)
    built = c.column(built, "Negative", unit="percentunit", decimals=0, width=100)
    built = c.column(built, "Voice", cell="text", mapping=c.EMOTION_COLOURS, width=110)
    return c.column(
        built,
        "Queue",
        width=140,
        links=[c.row_link("calltide-floor", "This queue only", "version", tenant="tenant", queue="Queue")],
    )
