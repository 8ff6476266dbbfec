"""Models: two pipeline versions on the same calls: how their scores differ, which labels flip, and on what words.

A changer must know: the two are compared on calls that both heard, since a new version often hears only some of them.
Means and differences by call come from call_metrics and take in the whole range of time. Single utterances are too many
for that: they are those of the newest SAMPLE calls that both heard.
"""

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards import common as c
from dashboards.emotions import HOURS, SHARES
from dashboards.query import ClickHouse

NEXT: Final = (c.SENTIMENT_BOARD, c.EMOTIONS)

SAMPLE: Final = 250
"""Calls, about 12,500 utterances of the customer: a share of 10 % of these is then known to ± 0.5 points (95 %)."""

DIFFERENCE: Final[c.type_thresholds] = [
    (None, c.NEGATIVE),
    (-0.1, c.WARNING),
    (-0.03, c.NEUTRAL),
    (0.03, c.WARNING),
    (0.1, c.NEGATIVE),
]
"""Of two mean scores: a shift is a shift, whichever way. Judgement."""

FLIPS: Final[c.type_thresholds] = [(None, c.POSITIVE), (0.1, c.WARNING), (0.25, c.NEGATIVE)]
"""Share of utterances with another label. Judgement."""

KAPPA: Final[c.type_thresholds] = [(None, c.NEGATIVE), (0.6, c.WARNING), (0.8, c.POSITIVE)]
"""Landis and Koch, Biometrics 33 (1977): from 0.61 on substantial, from 0.81 on almost perfect."""

LATENCY: Final[c.type_thresholds] = [(None, c.POSITIVE), (1, c.WARNING), (2, c.NEGATIVE)]
"""Seconds from the end of an utterance to its score. Judgement: beyond 2 s a supervisor comes too late."""

CONFIDENCE: Final[c.type_thresholds] = [(None, c.NEGATIVE), (0.6, c.WARNING), (0.8, c.POSITIVE)]
"""Of speech recognition. Judgement."""

A: Final = c.chosen("a")
B: Final = c.chosen("b")

COLOURS: Final = {"A": c.PLAIN, "B": c.WARNING}

NOTHING: Final = "No call was heard by both versions: choose two that ran beside each other, or a longer range"


def build() -> model.Dashboard:
    """The dashboard `calltide-models`."""
    other = f"""SELECT pipeline_version FROM utterance_hours WHERE pipeline_version != {A}
GROUP BY pipeline_version ORDER BY max(hour) DESC, sum(utterances) DESC, pipeline_version"""
    return c.board(
        "calltide-models",
        "Models",
        "Two pipeline versions on the same calls: how their scores differ, which labels flip, and on what words.",
        variables=[
            c.version("a", "Version A", "What is compared with"),
            c.version("b", "Version B", "What is compared").query({"refId": "b", "queryType": "sql", "rawSql": other}),
            c.datasource(),
            c.tenant(),
            c.queue(),
            c.role(),
            c.minimum(),
        ],
        sections=[
            ("Calls that both heard", _by_call()),
            (f"Utterances of the newest {SAMPLE:,} calls that both heard", _by_utterance()),
            ("Each by itself", _each()),
        ],
        time_from="now-7d",
    )


MARGIN: Final = "1.96 * stddevSampStable(shift) / sqrt(count())"
"""SQL: half of the 95 % confidence interval of a mean of `shift`, calls taken as independent."""

PARTIES: Final = c.selection("tenant", "queue", "role")


def _by_call_table() -> str:
    """SQL of a table with a row a call that both heard: mean scores of the parties selected, `shift`: B's less A's."""
    return f"""
    SELECT tenant, started_at, call_id, any(queue) AS queue,
        sumIf(score * scored, pipeline_version = {A}) / sumIf(scored, pipeline_version = {A}) AS score_a,
        sumIf(score * scored, pipeline_version = {B}) / sumIf(scored, pipeline_version = {B}) AS score_b,
        score_b - score_a AS shift
    FROM
    (
        SELECT tenant, started_at, call_id, pipeline_version, queue, assumeNotNull(score) AS score,
            negative + neutral + positive AS scored
        FROM call_metrics FINAL
        WHERE pipeline_version IN ({A}, {B}) AND {PARTIES} AND $__timeFilter_ms(started_at) AND scored > 0
            AND (tenant, started_at, call_id) IN (
                SELECT tenant, started_at, call_id FROM call_metrics
                WHERE pipeline_version = {B} AND {PARTIES} AND $__timeFilter_ms(started_at)
            )
    )
    GROUP BY tenant, started_at, call_id
    HAVING countIf(pipeline_version = {A}) > 0 AND countIf(pipeline_version = {B}) > 0
"""


def _sample() -> str:
    """SQL: (tenant, call_started_at, call_id) of the newest SAMPLE calls that both heard.

    The set is made of the calls that B heard: it is usually the smaller one, and finds A's by the primary key.
    """
    heard = f"SELECT tenant, started_at, call_id FROM call_metrics WHERE {PARTIES} AND $__timeFilter_ms(started_at)"
    return f"""{heard}
                AND pipeline_version = {A} AND (tenant, started_at, call_id) IN
                ({heard} AND pipeline_version = {B})
            ORDER BY started_at DESC
            LIMIT 1 BY tenant, call_id
            LIMIT {SAMPLE}"""


def _pairs(*columns: str) -> str:
    """SQL of a table with a row an utterance that both heard, `columns` as tuples (of A, of B).

    An utterance is the same where call, channel and beginning are: versions that cut the speech differently share few.
    Grouping does for both what FINAL would do, and is the join as well.
    """
    of = ", ".join(
        f"(anyIf({name}, pipeline_version = {A}), anyIf({name}, pipeline_version = {B})) AS {name}_" for name in columns
    )
    return f"""
    SELECT tenant, call_id, channel, start_ms, any(call_started_at) AS started_at, {of}
    FROM utterances_heard
    WHERE pipeline_version IN ({A}, {B}) AND {PARTIES} AND $__timeFilter_ms(call_started_at)
        AND (tenant, call_started_at, call_id) IN (
        {_sample()}
        )
    GROUP BY tenant, call_id, channel, start_ms
    HAVING countIf(pipeline_version = {A}) > 0 AND countIf(pipeline_version = {B}) > 0
"""


def _by_call() -> list[object]:
    built = c.figure()
    for name, title, unit, steps in (
        ("calls", "Calls", "short", c.NO_THRESHOLDS),
        ("a", "Score, A", "none", c.SENTIMENT),
        ("b", "Score, B", "none", c.SENTIMENT),
        ("difference", "B less A", "none", DIFFERENCE),
        ("margin", "give or take (95 %)", "none", c.NO_THRESHOLDS),
    ):
        built = c.column(built, name, title=title, unit=unit, decimals=0 if name == "calls" else 3, steps=steps)
    figures = c.panel(
        built,
        "Both on the same calls",
        "Mean scores of the calls that both heard, and how sure their difference is.",
        ClickHouse(
            f"""SELECT count() AS calls, avg(score_a) AS a, avg(score_b) AS b, avg(shift) AS difference,
    {MARGIN} AS margin
FROM ({_by_call_table()})
HAVING calls > 1"""
        ),
        unit="none",
        thresholds_at=DIFFERENCE,
        no_data=NOTHING,
        links=NEXT,
        width=24,
        height=5,
    )
    over_time = c.panel(
        c.coloured(
            c.lines().interval("1d").decimals(3), {"difference": c.WARNING, "low": c.NEUTRAL, "high": c.NEUTRAL}
        ),
        "Difference over time",
        "Mean of B less A, day by day, between the ends of its 95 % confidence interval.",
        ClickHouse(
            f"""SELECT $__timeInterval(started_at) AS time, avg(shift) AS difference,
    difference - {MARGIN} AS low, difference + {MARGIN} AS high
FROM ({_by_call_table()})
GROUP BY time
HAVING count() > 1
ORDER BY time"""
        ).timeseries(),
        unit="none",
        thresholds_at=DIFFERENCE,
        no_data=NOTHING,
        links=NEXT,
        width=8,
        height=9,
    )
    spread = c.panel(
        c.columns("difference"),
        "How calls differ",
        "Calls by B less A, in steps of 0.05: a shift moves the hill, disagreement widens it.",
        ClickHouse(
            f"""SELECT toString(round(step / 20, 2)) AS difference, calls
FROM
(
    SELECT floor(shift * 20) AS step, count() AS calls
    FROM ({_by_call_table()})
    GROUP BY step
    ORDER BY step WITH FILL
)"""
        ),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=NOTHING,
        links=NEXT,
        width=8,
        height=9,
    )
    built = c.column(c.rows(), "name", title="Queue")
    built = c.column(built, "calls", title="Calls", unit="short", width=70)
    for name, title, steps in (
        ("a", "A", c.SENTIMENT),
        ("b", "B", c.SENTIMENT),
        ("difference", "B less A", DIFFERENCE),
    ):
        built = c.column(built, name, title=title, decimals=3, steps=steps, cell="text", width=85)
    built = c.column(built, "margin", title="± (95 %)", decimals=3, width=85)
    by_queue = c.panel(
        built,
        "By queue",
        "The same queue by queue, the largest difference first.",
        ClickHouse(
            f"""SELECT concat(tenant, ' · ', if(queue = '', '{c.NONE}', queue)) AS name, count() AS calls,
    avg(score_a) AS a, avg(score_b) AS b, avg(shift) AS difference, {MARGIN} AS margin
FROM ({_by_call_table()})
GROUP BY name
HAVING calls > 1
ORDER BY abs(difference) DESC
LIMIT 50"""
        ),
        unit="none",
        thresholds_at=DIFFERENCE,
        no_data=NOTHING,
        links=NEXT,
        width=8,
        height=9,
    )
    return [figures, over_time, spread, by_queue]


def _confusion(title: str, description: str, column: str, labels: dict[str, str], no_data: str, width: int) -> object:
    """A table of A's labels by B's, as shares of A's."""
    built = c.column(c.rows(), "first", title="A", mapping=labels, cell="text", width=100)
    built = c.column(built, "utterances", title="Utterances", unit="short", width=100)
    for label in labels:
        title_b = f"B: {label}"
        built = c.column(built, label, title=title_b, unit="percentunit", decimals=1, steps=SHARES, cell="background")
    shares = ", ".join(f"countIf({column}_.2 = '{label}') / utterances AS {label}" for label in labels)
    return c.panel(
        built,
        title,
        description,
        ClickHouse(
            f"""SELECT {column}_.1 AS first, count() AS utterances, {shares}
FROM ({_pairs(column)})
WHERE {column}_.1 != '' AND {column}_.2 != ''
GROUP BY first
ORDER BY first"""
        ),
        unit="none",
        thresholds_at=SHARES,
        no_data=no_data,
        links=NEXT,
        width=width,
        height=8,
    )


def _by_utterance() -> list[object]:
    built = c.figure()
    for name, title, unit, steps in (
        ("utterances", "Utterances", "short", c.NO_THRESHOLDS),
        ("flips", "Other sentiment", "percentunit", FLIPS),
        ("kappa", "Cohen's κ", "none", KAPPA),
        ("emotion_flips", "Other emotion", "percentunit", FLIPS),
        ("words", "Other words", "percentunit", FLIPS),
    ):
        decimals = {"short": 0, "percentunit": 1, "none": 2}[unit]
        built = c.column(built, name, title=title, unit=unit, decimals=decimals, steps=steps)
    # κ: agreement beyond what chance would give two versions that each use the labels as often as they do.
    chance = " + ".join(
        f"countIf(sentiment_.1 = '{label}') * countIf(sentiment_.2 = '{label}')" for label in c.SENTIMENT_COLOURS
    )
    figures = c.panel(
        built,
        "Labels that flip",
        "Share of the utterances that both scored for which B says something else; κ: 1 is agreement, 0 is chance.",
        ClickHouse(
            f"""SELECT utterances, 1 - agreed / utterances AS flips,
    (agreed / utterances - chance) / nullIf(1 - chance, 0) AS kappa,
    1 - agreed_emotions / nullIf(emotions, 0) AS emotion_flips, other_words / utterances AS words
FROM
(
    SELECT count() AS utterances, countIf(sentiment_.1 = sentiment_.2) AS agreed,
        ({chance}) / (utterances * utterances) AS chance,
        countIf(emotion_.1 != '' AND emotion_.2 != '') AS emotions,
        countIf(emotion_.1 != '' AND emotion_.1 = emotion_.2) AS agreed_emotions,
        countIf(text_.1 != text_.2) AS other_words
    FROM ({_pairs("sentiment", "emotion", "text")})
    WHERE sentiment_.1 != '' AND sentiment_.2 != ''
)
WHERE utterances > 0"""
        ),
        unit="none",
        thresholds_at=FLIPS,
        no_data=NOTHING,
        links=NEXT,
        width=24,
        height=5,
    )
    return [
        figures,
        _confusion(
            "Sentiment, A to B",
            "What B calls the utterances that A calls negative, neutral and positive, as shares of the row.",
            "sentiment",
            c.SENTIMENT_COLOURS,
            NOTHING,
            10,
        ),
        _confusion(
            "Emotion, A to B",
            "What B hears where A hears each emotion, as shares of the row.",
            "emotion",
            c.EMOTION_COLOURS,
            "No voice was judged by both versions",
            14,
        ),
        _apart(),
    ]


def _apart() -> object:
    built = c.call_row(c.rows(), "var-version=${b:percentencode}")
    built = c.column(built, "spoken_at", title="When", width=160)
    built = c.column(built, "text_a", title="Words, A")
    built = c.column(built, "text_b", title="Words, B")
    for name, title in (("label_a", "Label, A"), ("label_b", "Label, B")):
        built = c.column(built, name, title=title, mapping=c.SENTIMENT_COLOURS, cell="text", width=90)
    for name, title in (("score_a", "Score, A"), ("score_b", "Score, B")):
        built = c.column(built, name, title=title, decimals=2, steps=c.SENTIMENT, cell="text", width=85)
    built = c.column(built, "difference", title="B less A", decimals=2, steps=DIFFERENCE, cell="text", width=85)
    names = ("score", "sentiment", "text", "spoken_at", "captured_at")
    return c.panel(
        built,
        "Furthest apart",
        "The utterances whose scores differ most, with the words of both; the call's name opens it as B heard it.",
        ClickHouse(
            f"""SELECT spoken_at_.2 AS spoken_at, text_.1 AS text_a, if(text_.1 = text_.2, '〃', text_.2) AS text_b,
    sentiment_.1 AS label_a, sentiment_.2 AS label_b, score_.1 AS score_a, score_.2 AS score_b,
    score_b - score_a AS difference, tenant, call_id,
    toString(toUnixTimestamp64Milli(spoken_at_.2) - 30000) AS from_ms,
    toString(toUnixTimestamp64Milli(captured_at_.2) + 30000) AS to_ms
FROM ({_pairs(*names)})
WHERE score_.1 IS NOT NULL AND score_.2 IS NOT NULL
ORDER BY abs(difference) DESC, spoken_at DESC
LIMIT 100"""
        ),
        unit="none",
        thresholds_at=DIFFERENCE,
        no_data=NOTHING,
        links=NEXT,
        width=24,
        height=10,
    )


def _each() -> list[object]:
    versions = f"pipeline_version IN ({A}, {B}) AND {PARTIES} AND {HOURS}"
    which = f"if(pipeline_version = {A}, 'A', 'B')"
    latency = c.panel(
        c.coloured(c.lines(low=0, calcs=("mean",)).interval("1h"), COLOURS),
        "Latency, 95th percentile",
        "Seconds from the end of an utterance to its score, which 95 of 100 stay below; of live calls only.",
        ClickHouse(
            f"""SELECT time, version,
    arrayFirst((bin, below) -> below >= 0.95 * arraySum(counts), bins, arrayCumSum(counts)) / 10 AS Value
FROM
(
    SELECT $__timeInterval(hour) AS time, {which} AS version, mapSort(sumMap(latency_bins)) AS histogram,
        mapKeys(histogram) AS bins, mapValues(histogram) AS counts
    FROM utterance_hours
    WHERE {versions}
    GROUP BY time, version
)
WHERE notEmpty(bins)
ORDER BY time, version"""
        ).timeseries(),
        unit="s",
        thresholds_at=LATENCY,
        no_data="Neither version scored a live call",
        links=(c.OPERATIONS, *NEXT),
        width=9,
        height=9,
    )
    confidence = c.panel(
        c.coloured(c.lines(low=0, high=1, calcs=("mean",)).interval("1h"), COLOURS),
        "Confidence of speech recognition",
        "Mean of the utterances with words: what is heard with little confidence is scored with little.",
        ClickHouse(
            f"""SELECT $__timeInterval(hour) AS time, {which} AS version,
    sum(confidence_sum) / sum(confidence_n) AS Value
FROM utterance_hours
WHERE {versions} AND confidence_n > 0
GROUP BY time, version
ORDER BY time, version"""
        ).timeseries(),
        unit="percentunit",
        thresholds_at=CONFIDENCE,
        no_data="Neither version heard words",
        links=NEXT,
        width=9,
        height=9,
    )
    built = c.column(c.rows(), "version", title="", width=40, mapping=COLOURS, cell="text")
    built = c.column(built, "name", title="Version", width=110)
    built = c.column(built, "utterances", title="Utterances", unit="short", width=100)
    built = c.column(built, "score", title="Score", decimals=2, steps=c.SENTIMENT, cell="text", width=80)
    for name, title in (("negative", "Negative"), ("positive", "Positive")):
        built = c.column(built, name, title=title, unit="percentunit", decimals=1, width=90)
    whole = c.panel(
        built,
        "All that each heard",
        "Not the same calls: a new version often hears only some of them.",
        ClickHouse(
            f"""SELECT {which} AS version, pipeline_version AS name, sum(utterances) AS utterances,
    sum(score_sum) / nullIf(sum(score_n), 0) AS score, sum(negative) / nullIf(sum(score_n), 0) AS negative,
    sum(positive) / nullIf(sum(score_n), 0) AS positive
FROM utterance_hours
WHERE {versions}
GROUP BY pipeline_version
ORDER BY version"""
        ),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data="Neither version heard anything",
        links=NEXT,
        width=6,
        height=9,
    )
    return [latency, confidence, whole]
