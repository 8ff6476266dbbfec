"""Emotions: how the voices sound, how that changes within a call, and where words and voice say different things."""

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards import common as c
from dashboards.query import ClickHouse

NEXT: Final = (c.SENTIMENT_BOARD, c.WORDS)

LABELS: Final = tuple(c.EMOTION_COLOURS)

GRANULAR: Final = {
    "neutral": ("calm", "attentiveness", "reserve", "indifference"),
    "happiness": ("joy", "enthusiasm", "satisfaction", "amusement"),
    "sadness": ("sorrow", "disappointment", "discouragement", "regret"),
    "anger": ("outrage", "frustration", "irritation", "impatience"),
    "fear": ("alarm", "anxiety", "worry", "nervousness"),
    "surprise": ("astonishment", "disbelief", "confusion", "curiosity"),
}
"""The finer names of each emotion: those of processors/emotion_names.py, which dashboards may not import."""

SHARES: Final[c.type_thresholds] = [
    (None, "transparent"),
    (0.1, "#5794F233"),
    (0.25, "#5794F266"),
    (0.5, "#5794F2B3"),
]
"""How strongly a cell of a matrix is tinted. Judgement."""

LIFT: Final[c.type_thresholds] = [(None, "#5794F280"), (0.8, "transparent"), (1.25, "#FF983080"), (2, "#E02F4480")]
"""Less often than by chance, about as often, more often, twice as often and more. Judgement."""

DISAGREE: Final[c.type_thresholds] = [(None, c.PLAIN), (0.05, c.WARNING), (0.1, c.NEGATIVE)]
"""Share of utterances. Judgement: one of twenty is worth a look, one of ten says that one of the two models is off."""

NEWEST: Final = 2_000
"""Utterances at odds that are looked through. Measured on ten million (docs/analytics-benchmarks.md): to sort all of a
month took 460 ms; the newest are at the end of the table."""

HOURS: Final = "hour >= toStartOfHour(toTimeZone($__fromTime, 'UTC')) AND hour <= $__toTime"
"""SQL condition: the range of time, with the whole of the hour in which it begins."""


def _each(template: str) -> str:
    """`template` for each emotion, as a list of columns; `{}` is its name."""
    return ", ".join(template.format(label) for label in LABELS)


def build() -> model.Dashboard:
    """The dashboard `calltide-emotions`."""
    parties = c.selection("tenant", "queue", "agent", "version")
    where = f"{parties} AND {c.among('role', 'role')}"
    over_time = c.panel(
        c.coloured(c.stacked(share=True).interval("1h"), c.EMOTION_COLOURS),
        "Emotions over time",
        "Share of each emotion among the utterances whose voice was judged.",
        ClickHouse(
            f"""SELECT $__timeInterval(hour) AS time, emotion, sum(said) AS Value
FROM
(
    SELECT hour, sumMap(emotions) AS by_emotion
    FROM utterance_hours
    WHERE {where} AND {HOURS}
    GROUP BY hour
)
ARRAY JOIN mapKeys(by_emotion) AS emotion, mapValues(by_emotion) AS said
GROUP BY time, emotion
ORDER BY time, emotion"""
        ).timeseries(),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No voice was judged here: by default only customers are",
        links=NEXT,
        width=16,
        height=9,
    )
    by_role = c.panel(
        c.coloured(c.columns("party", share=True), c.EMOTION_COLOURS),
        "By party",
        "The same for agents, customers and voices of whom it is not known; the filter by role does not count here.",
        ClickHouse(
            f"""SELECT role AS party, {_each("by_emotion['{0}'] AS {0}")}
FROM
(
    SELECT role, sumMap(emotions) AS by_emotion
    FROM utterance_hours
    WHERE {parties} AND {HOURS}
    GROUP BY role
)
WHERE notEmpty(by_emotion)
ORDER BY party"""
        ),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No voice was judged here",
        links=NEXT,
        width=8,
        height=9,
    )
    by_queue = c.panel(
        c.coloured(c.columns("name", share=True, horizontal=True), c.EMOTION_COLOURS),
        "By queue",
        "Share of each emotion, queue by queue; the one with most anger is first.",
        ClickHouse(
            f"""SELECT concat(tenant, ' · ', if(queue = '', '{c.NONE}', queue)) AS name,
    {_each("by_emotion['{0}'] AS {0}")}
FROM
(
    SELECT tenant, queue, sumMap(emotions) AS by_emotion, arraySum(mapValues(by_emotion)) AS judged
    FROM utterance_hours
    WHERE {where} AND {HOURS}
    GROUP BY tenant, queue
)
WHERE judged >= greatest({c.number("minimum")}, 1)
ORDER BY by_emotion['anger'] / judged DESC, name
LIMIT 30"""
        ),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No queue has enough utterances whose voice was judged",
        links=NEXT,
        width=8,
        height=10,
    )
    names = [name for label in LABELS for name in GRANULAR[label]]
    bases = [label for label in LABELS for _ in GRANULAR[label]]
    granular = c.panel(
        c.coloured(c.columns("name", horizontal=True), c.EMOTION_COLOURS),
        "Finer names",
        "Share of the judged utterances that get each name, in its emotion's colour. The names are a convention.",
        ClickHouse(
            f"""SELECT name, {_each("if(base = '{0}', share, NULL) AS {0}")}
FROM
(
    SELECT named.1 AS name, transform(name, {names}, {bases}, 'neutral') AS base, named.2 / judged AS share
    FROM
    (
        SELECT arrayJoin(sumMap(granular)) AS named, sum(arraySum(mapValues(emotions))) AS judged
        FROM utterance_hours
        WHERE {where} AND {HOURS}
    )
)
ORDER BY share DESC
LIMIT 24"""
        ),
        unit="percentunit",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No voice was clear enough for a finer name",
        links=NEXT,
        width=8,
        height=10,
    )
    both = c.panel(
        c.bars().min(0),
        "Two at once",
        "Share of the judged utterances whose two strongest emotions have a name together.",
        ClickHouse(
            f"""SELECT named.1 AS name, named.2 / judged AS share
FROM
(
    SELECT arrayJoin(sumMap(complex)) AS named, sum(arraySum(mapValues(emotions))) AS judged
    FROM utterance_hours
    WHERE {where} AND {HOURS}
)
ORDER BY share DESC"""
        ),
        unit="percentunit",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No two emotions were strong together",
        links=NEXT,
        width=8,
        height=10,
    )
    return c.board(
        "calltide-emotions",
        "Emotions",
        "How the voices sound, how that changes within a call, and where words and voice say different things.",
        variables=[c.datasource(), c.tenant(), c.queue(), c.agent(), c.role(), c.version(), c.minimum()],
        sections=[
            ("Which emotions", [over_time, by_role, by_queue, granular, both]),
            ("How they change within a call", [_transitions(where), _turned(where)]),
            ("What the words say to it", [_together(where), _lift(where), *_disagreements(where)]),
        ],
        time_from="now-7d",
    )


def _transitions(where: str) -> object:
    built = c.rows()
    built = c.column(built, "first", title="From", mapping=c.EMOTION_COLOURS, cell="text", width=110)
    built = c.column(built, "steps", title="Steps", unit="short", width=90)
    for label in LABELS:
        built = c.column(
            built, label, title=f"to {label}", unit="percentunit", decimals=1, steps=SHARES, cell="background"
        )
    return c.panel(
        built,
        "From one utterance to the next",
        "In which emotion a party speaks next, as a share of the row; of calls that have ended.",
        ClickHouse(
            f"""SELECT first, sum(said) AS steps, {_each("sumIf(said, second = '{0}') / steps AS {0}")}
FROM
(
    SELECT arrayJoin(sumMap(transitions)) AS step, step.2 AS said,
        splitByChar('>', step.1)[1] AS first, splitByChar('>', step.1)[2] AS second
    FROM call_metrics FINAL
    WHERE {where} AND $__timeFilter(started_at)
)
GROUP BY first
ORDER BY steps DESC"""
        ),
        unit="none",
        thresholds_at=SHARES,
        no_data="No party said two things whose voice was judged",
        links=NEXT,
        width=12,
        height=9,
    )


def _turned(where: str) -> object:
    built = c.call_row(c.rows())
    built = c.column(built, "started_at", title="Began", width=160)
    for name, title in (("queue", "Queue"), ("agent", "Agent"), ("role", "Who")):
        built = c.column(built, name, title=title, width=90)
    built = c.column(built, "turns", title="Turns to anger", unit="short", width=120)
    built = c.column(built, "angry", title="Angry talk", unit="percentunit", decimals=0, cell="gauge", low=0, high=1)
    built = c.column(built, "score", title="Score", decimals=2, steps=c.SENTIMENT, cell="text", width=80)
    return c.panel(
        built,
        "Calls that turned angry",
        "Parties whose voice went into anger from something else most often.",
        ClickHouse(
            f"""SELECT started_at, {c.CALL_COLUMNS}, queue, agent, role,
    arraySum(arrayMap((step, said) -> if(endsWith(step, '>anger') AND step != 'anger>anger', said, 0),
        mapKeys(transitions), mapValues(transitions))) AS turns,
    emotion_ms['anger'] / arraySum(mapValues(emotion_ms)) AS angry, score
FROM call_metrics FINAL
WHERE {where} AND $__timeFilter(started_at) AND turns > 0
ORDER BY turns DESC, angry DESC
LIMIT 50"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No voice turned angry",
        links=(c.FLOOR, *NEXT),
        width=12,
        height=9,
    )


def _pairs(where: str) -> str:
    """SQL of a table (words, emotion, said): utterances by what their words and their voice say."""
    return f"""SELECT splitByChar('+', pair.1)[1] AS words, splitByChar('+', pair.1)[2] AS emotion, pair.2 AS said
    FROM (SELECT arrayJoin(sumMap(pairs)) AS pair FROM utterance_hours WHERE {where} AND {HOURS})"""


def _together(where: str) -> object:
    return c.panel(
        c.coloured(c.columns("words", share=True), c.EMOTION_COLOURS),
        "How negative, neutral and positive words are spoken",
        "Emotions of the voice by what the words alone say (text score to −0.2, between, from 0.2 on).",
        ClickHouse(
            f"""SELECT words, {_each("sumIf(said, emotion = '{0}') AS {0}")}
FROM
(
    {_pairs(where)}
)
GROUP BY words
ORDER BY words"""
        ),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No utterance has both words and a voice that was judged",
        links=NEXT,
        width=12,
        height=9,
    )


def _lift(where: str) -> object:
    built = c.rows()
    built = c.column(built, "words", title="Words", mapping=c.SENTIMENT_COLOURS, cell="text", width=110)
    built = c.column(built, "utterances", title="Utterances", unit="short", width=110)
    for label in LABELS:
        built = c.column(built, label, title=label, decimals=2, steps=LIFT, cell="background")
    return c.panel(
        built,
        "Words and voice, against chance",
        "How often an emotion goes with such words, divided by how often by chance: 1 if they were independent.",
        ClickHouse(
            f"""SELECT words, sum(said) AS utterances,
    {_each("sumIf(said, emotion = '{0}') * max(everything) / nullIf(utterances * max(all_{0}), 0) AS {0}")}
FROM
(
    SELECT words, emotion, said, sum(said) OVER () AS everything,
        {_each("sumIf(said, emotion = '{0}') OVER () AS all_{0}")}
    FROM
    (
    {_pairs(where)}
    )
)
GROUP BY words
ORDER BY words"""
        ),
        unit="none",
        thresholds_at=LIFT,
        no_data="No utterance has both words and a voice that was judged",
        links=NEXT,
        width=12,
        height=9,
    )


def _disagreements(where: str) -> list[object]:
    over_time = c.panel(
        c.coloured(c.lines(low=0).interval("1h"), c.ROLE_COLOURS),
        "Words and voice at odds",
        "Share of the utterances whose words are clearly negative and whose voice clearly positive, or the reverse.",
        ClickHouse(
            f"""SELECT $__timeInterval(hour) AS time, role, sum(disagreements) / nullIf(sum(voice_n), 0) AS Value
FROM utterance_hours
WHERE {where} AND {HOURS}
GROUP BY time, role
HAVING sum(voice_n) > 0
ORDER BY time, role"""
        ).timeseries(),
        unit="percentunit",
        thresholds_at=DISAGREE,
        no_data="No utterance has both words and a voice that was judged",
        links=NEXT,
        width=8,
        height=10,
    )
    built = c.call_row(c.rows())
    built = c.column(built, "spoken_at", title="When", width=160)
    built = c.column(built, "text", title="Words")
    built = c.column(built, "role", title="Who", width=90)
    built = c.column(built, "emotion", title="Voice", mapping=c.EMOTION_COLOURS, cell="text", width=100)
    for name, title in (("text_score", "Text"), ("voice_score", "Voice score")):
        built = c.column(built, name, title=title, decimals=2, steps=c.SENTIMENT, cell="text", width=100)
    examples = c.panel(
        built,
        "What was said so",
        f"Of the newest {NEWEST:,} such utterances those furthest apart: irony, a brave face, or a model that errs.",
        ClickHouse(
            f"""SELECT * EXCEPT (channel, start_ms)
FROM
(
    SELECT spoken_at, text, role, emotion, text_score, voice_score, tenant, call_id, channel, start_ms,
        toString(toUnixTimestamp64Milli(spoken_at) - 30000) AS from_ms,
        toString(toUnixTimestamp64Milli(captured_at) + 30000) AS to_ms
    FROM utterances_heard
    WHERE {where} AND $__timeFilter_ms(call_started_at) AND disagree
    ORDER BY toStartOfHour(call_started_at) DESC
    LIMIT {NEWEST} WITH TIES
)
ORDER BY abs(text_score - voice_score) DESC, spoken_at DESC
LIMIT 1 BY tenant, call_id, channel, start_ms
LIMIT 100"""
        ),
        unit="none",
        thresholds_at=DISAGREE,
        no_data="Nowhere do words and voice say clearly different things",
        links=NEXT,
        width=16,
        height=10,
    )
    return [over_time, examples]
