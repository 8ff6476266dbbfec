"""Words: who says what, which words tell a bad call from a good one, and what is said where a curve jumps."""

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards import common as c
from dashboards.emotions import HOURS
from dashboards.query import ClickHouse

NEXT: Final = (c.SENTIMENT_BOARD, c.EMOTIONS)

PRIOR_CALLS: Final = 100
"""How many calls the prior of the log-odds ratio is worth. Judgement: fewer, and rare words come first by chance."""

DAYS_BEFORE: Final = 28
"""What the words of a range of time are compared with: four whole weeks, so that every weekday is in it as often."""

TELLING: Final[c.type_thresholds] = [(None, c.NEUTRAL), (1.96, c.WARNING), (3.29, c.NEGATIVE)]
"""z: beyond these a word is said more often by chance alone in 1 of 20 and 1 of 1,000 cases (two-sided), if only one
word were looked at."""

FOUND: Final = f"{c.chosen('search')} != '' AND hasAllTokens(text, {c.chosen('search')})"
"""SQL condition: all words of the search are in the text, in any order, in small or capital letters."""

FIRST_DAY: Final = "toDate($__fromTime, 'UTC')"
LAST_DAY: Final = "toDate($__toTime, 'UTC')"

TEXT: Final = """spoken_at, text, role, queue, agent, sentiment, emotion, score, tenant, call_id,
    toString(toUnixTimestamp64Milli(spoken_at) - 30000) AS from_ms,
    toString(toUnixTimestamp64Milli(captured_at) + 30000) AS to_ms"""
"""Columns of a table of utterances, with those that lead to the call just there."""

ONCE: Final = "LIMIT 1 BY tenant, call_id, channel, start_ms"
"""An utterance that was delivered twice stands in the table twice until ClickHouse merges."""


def build() -> model.Dashboard:
    """The dashboard `calltide-words`."""
    said = c.selection("tenant", "queue", "agent", "role", "version")
    terms = c.selection("tenant", "queue", "role", "version")
    return c.board(
        "calltide-words",
        "Words",
        "Who says what, which words tell a bad call from a good one, and what is said where a curve jumps.",
        variables=[
            c.text_box("search", "Search", "Utterances with all of these words, in any order"),
            c.datasource(),
            c.tenant(),
            c.queue(),
            c.agent(),
            c.role(),
            c.version(),
            c.minimum(),
        ],
        sections=[
            ("Search", _search(f"{said} AND $__timeFilter_ms(call_started_at) AND {FOUND}")),
            ("Telling words", _telling(terms)),
            ("Behind a spike: drag over it to zoom in", _spike(said, terms)),
            ("Personal data", _redacted(c.selection("tenant", "queue", "agent", "version"))),
        ],
        time_from="now-7d",
    )


def _texts() -> object:
    built = c.call_row(c.rows())
    built = c.column(built, "spoken_at", title="When", width=160)
    built = c.column(built, "text", title="Words")
    for name, title in (("role", "Who"), ("queue", "Queue"), ("agent", "Agent")):
        built = c.column(built, name, title=title, width=90)
    built = c.column(built, "sentiment", title="Sentiment", mapping=c.SENTIMENT_COLOURS, cell="text", width=90)
    built = c.column(built, "emotion", title="Voice", mapping=c.EMOTION_COLOURS, cell="text", width=90)
    return c.column(built, "score", title="Score", decimals=2, steps=c.SENTIMENT, cell="text", width=70)


def _search(where: str) -> list[object]:
    built = c.figure()
    for name, title, unit in (("utterances", "Utterances", "short"), ("calls", "Calls", "short")):
        built = c.column(built, name, title=title, unit=unit, steps=c.NO_THRESHOLDS)
    built = c.column(built, "score", title="Mean score", decimals=2)
    nothing = "Nobody said it here, or there is nothing in the search box"
    figures = c.panel(
        built,
        "Found",
        "Utterances with all words of the search, the calls they are in, and their mean score.",
        ClickHouse(
            f"""SELECT uniqExact(tenant, call_id, channel, start_ms) AS utterances, uniqExact(tenant, call_id) AS calls,
    avgOrNull(score) AS score
FROM utterances_heard
WHERE {where}
HAVING utterances > 0"""
        ),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data=nothing,
        links=NEXT,
        width=6,
        height=7,
    )
    over_time = c.panel(
        c.coloured(c.stacked(), c.SENTIMENT_COLOURS),
        "Said over time",
        "How often, by the sentiment of the utterance.",
        ClickHouse(
            f"""SELECT $__timeInterval(spoken_at) AS time, if(sentiment = '', 'not scored', sentiment) AS label,
    uniqExact(tenant, call_id, channel, start_ms) AS Value
FROM utterances_heard
WHERE {where}
GROUP BY time, label
ORDER BY time, label"""
        ).timeseries(),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=nothing,
        links=NEXT,
        width=18,
        height=7,
    )
    found = c.panel(
        _texts(),
        "Texts",
        "What was said, the latest first; the call's name opens the call at that moment.",
        ClickHouse(
            f"""SELECT {TEXT}
FROM utterances_heard
WHERE {where}
ORDER BY spoken_at DESC
{ONCE}
LIMIT 200"""
        ),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data=nothing,
        links=NEXT,
        width=24,
        height=9,
    )
    return [figures, over_time, found]


def log_odds(first: str, second: str, where: str) -> str:
    """SQL: words that are said in more of the `first` calls than of the `second`, the most telling first.

    first, second: sums over rows of call_terms, the number of calls with a word. The measure is Monroe, Colaresi and
    Quinn, "Fightin' Words" (Political Analysis 16, 2008), equations 15 to 20: the log-odds ratio of the two groups
    under an informative Dirichlet prior, divided by its standard deviation. What is counted here is calls and not
    tokens, so n is a group's number of calls; the prior is a word's share of all calls, worth PRIOR_CALLS of them.
    """
    return f"""SELECT term, z, first / all_first AS share, second / all_second AS other_share, calls
FROM
(
    SELECT term, first, second, calls,
        maxIf(first, term = '') OVER () AS all_first, maxIf(second, term = '') OVER () AS all_second,
        {PRIOR_CALLS} * calls / maxIf(calls, term = '') OVER () AS prior,
        [first + prior, all_first - first + {PRIOR_CALLS} - prior] AS odds_first,
        [second + prior, all_second - second + {PRIOR_CALLS} - prior] AS odds_second,
        (log(odds_first[1] / odds_first[2]) - log(odds_second[1] / odds_second[2]))
            / sqrt(1 / odds_first[1] + 1 / odds_first[2] + 1 / odds_second[1] + 1 / odds_second[2]) AS z
    FROM
    (
        SELECT term, {first} AS first, {second} AS second, sum(negative_calls + neutral_calls + positive_calls) AS calls
        FROM call_terms
        WHERE {where}
        GROUP BY term
    )
)
WHERE term != '' AND first >= {c.number("minimum")} AND all_second > 0 AND prior < {PRIOR_CALLS} AND z > 0
ORDER BY z DESC, term
LIMIT 25"""


def _terms(share: str, other: str, steps: c.type_thresholds) -> object:
    again = c.row_link(
        "calltide-words", "Texts with it", "tenant", "queue", "agent", "role", "version", "minimum", search="term"
    )
    built = c.column(c.rows(), "term", title="Word", links=[again])
    built = c.column(built, "z", title="How telling (z)", decimals=1, steps=steps, cell="gauge", low=0, width=190)
    for name, title in (("share", share), ("other_share", other)):
        built = c.column(built, name, title=title, unit="percentunit", decimals=1, width=130)
    return c.column(built, "calls", title="Calls", unit="short", width=80)


def _telling(where: str) -> list[object]:
    days = f"day >= {FIRST_DAY} AND day <= {LAST_DAY}"
    negative, positive = "sum(negative_calls)", "sum(positive_calls)"
    panels = []
    for title, description, first, second, names in (
        (
            "Words of negative calls",
            "Said in more negative calls (customer's mean score to −0.2) than positive; a word opens its texts.",
            negative,
            positive,
            ("Negative calls", "Positive calls"),
        ),
        (
            "Words of positive calls",
            "Said in more positive calls (customer's mean score from 0.2 on) than negative; a word opens its texts.",
            positive,
            negative,
            ("Positive calls", "Negative calls"),
        ),
    ):
        steps = TELLING if first == negative else [*TELLING[:1], (1.96, c.POSITIVE)]
        panels.append(
            c.panel(
                _terms(*names, steps),
                title,
                description,
                ClickHouse(log_odds(first, second, f"{where} AND {days}")),
                unit="none",
                thresholds_at=steps,
                no_data="No word is in so many calls: make the range longer, or the minimum smaller",
                links=NEXT,
                width=12,
                height=11,
            )
        )
    return panels


def _spike(said: str, terms: str) -> list[object]:
    over_time = c.panel(
        c.stacked().interval("1h"),
        "Negative utterances by queue",
        "How many utterances an hour are negative: a queue that stands out has something to tell.",
        ClickHouse(
            f"""SELECT $__timeInterval(hour) AS time, concat(tenant, ' · ', if(queue = '', '{c.NONE}', queue)) AS name,
    sum(negative) AS Value
FROM utterance_hours
WHERE {said} AND {HOURS}
GROUP BY time, name
ORDER BY time, name"""
        ).timeseries(),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="Nothing was said here",
        links=NEXT,
        width=12,
        height=10,
    )
    every_call = "negative_calls + neutral_calls + positive_calls"
    here = f"day >= {FIRST_DAY}"
    before = f"day >= {FIRST_DAY} - {DAYS_BEFORE} AND day <= {LAST_DAY}"
    new = c.panel(
        _terms("Calls of these days", "Before", TELLING),
        "Words that came up",
        f"Said in more calls of the days shown (whole, UTC) than of the {DAYS_BEFORE} before; a word opens its texts.",
        ClickHouse(
            log_odds(f"sumIf({every_call}, {here})", f"sumIf({every_call}, NOT {here})", f"{terms} AND {before}")
        ),
        unit="none",
        thresholds_at=TELLING,
        no_data="No word came up, or there are no calls before to compare with",
        links=NEXT,
        width=12,
        height=10,
    )
    worst = c.panel(
        _texts(),
        "Most negative texts",
        "The lowest scores of the range; the call's name opens the call at that moment.",
        ClickHouse(
            f"""SELECT * EXCEPT (channel, start_ms)
FROM
(
    SELECT {TEXT}, channel, start_ms
    FROM utterances_heard
    WHERE {said} AND $__timeFilter_ms(call_started_at) AND score < 0
    ORDER BY score, spoken_at
    LIMIT 200
)
{ONCE}
LIMIT 100"""
        ),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data="Nobody said anything negative",
        links=NEXT,
        width=24,
        height=10,
    )
    return [over_time, new, worst]


def _redacted(where: str) -> list[object]:
    counted = f"""FROM utterance_hours
    WHERE {where} AND {HOURS}"""
    over_time = c.panel(
        c.stacked().interval("1h"),
        "Taken out of what was said",
        "How often personal data of each kind was replaced and silenced, of all parties: counts only, never the data.",
        ClickHouse(
            f"""SELECT $__timeInterval(hour) AS time, kind AS label, sum(times) AS Value
FROM (
    SELECT hour, sumMap(redacted) AS kinds
    {counted}
    GROUP BY hour
)
ARRAY JOIN mapKeys(kinds) AS kind, mapValues(kinds) AS times
GROUP BY time, label
ORDER BY time, label"""
        ).timeseries(),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="Nothing was taken out: which kinds are is a setting of each tenant",
        links=NEXT,
        width=14,
        height=9,
    )
    built = c.column(c.rows(), "Tenant", width=120)
    built = c.column(built, "Times", unit="short", width=90)
    built = c.column(built, "Share", title="Of all utterances", unit="percentunit", decimals=2, width=130)
    by_queue = c.panel(
        built,
        "Taken out, by queue",
        "Where callers are asked for what should not be said aloud, or say it all the same.",
        ClickHouse(
            f"""SELECT tenant AS Tenant, if(name = '', '{c.NONE}', name) AS Queue, kind AS Kind, times AS Times,
    times / said AS Share
FROM (
    SELECT tenant, queue AS name, sumMap(redacted) AS kinds, sum(utterances) AS said
    {counted}
    GROUP BY tenant, name
)
ARRAY JOIN mapKeys(kinds) AS kind, mapValues(kinds) AS times
ORDER BY times DESC, Tenant, Queue, Kind LIMIT 100"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="Nothing was taken out",
        links=NEXT,
        width=10,
        height=9,
    )
    return [over_time, by_queue]
