"""One call: what was said, by whom, and how it sounded, from its start to its end.

A changer must know: everything here is filtered by the call's id and not by the time range, so a call is found whatever
range is chosen; only the axes of the timelines are the range's. Links to this dashboard set the range to the call's.
"""

from typing import Final

from grafana_foundation_sdk.builders import statetimeline
from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, VisibilityMode

from dashboards import common as c
from dashboards.query import ClickHouse

SILENCE_MS: Final = 5000
"""As in `call_metrics`: a gap of so much in which nobody speaks is a silence."""

_CALL: Final = f"{c.selection('tenant', 'version')} AND call_id = {c.chosen('call')}"
_SAID: Final = f"FROM utterances WHERE {_CALL}"
_PARTY: Final = "if(speaker IN ('', role), role, concat(role, ' (', speaker, ')'))"


_SECTIONS: Final = (
    "Array(Tuple(name String, score Nullable(Float64), items Array(Tuple("
    "name String, points Float64, earned Nullable(Float64), why String))))"
)
"""ClickHouse's type of what is read of the JSON of a score card."""


def _states(role: str, column: str, name: str) -> ClickHouse:
    """What a party's utterances were, as a row of blocks: a value where one begins and NULL where it ends."""
    return ClickHouse(
        f"""SELECT point.1 AS time, point.2 AS "{name}"
FROM (
    SELECT arrayJoin([
        (spoken_at, CAST({column}, 'Nullable(String)')), (captured_at, CAST(NULL, 'Nullable(String)'))
    ]) AS point
    {_SAID} AND role = '{role}' AND {column} != ''
)
ORDER BY time, isNull(point.2) DESC"""
    )


def build() -> model.Dashboard:
    """The dashboard."""
    onward = (c.SENTIMENT_BOARD, c.WORDS, c.FLOOR)
    none = "No such call: choose its tenant and version, and type its id"

    facts = c.rows()
    facts = c.column(
        facts,
        "Call",
        width=260,
        links=[
            {
                "title": "Set the time range to this call",
                "url": "/d/calltide-call?${__all_variables}&from=${__data.fields.from_ms}&to=${__data.fields.to_ms}",
            }
        ],
    )
    for name in ("Began", "Ended"):
        facts = c.column(facts, name, unit="dateTimeAsLocal", width=170)
    facts = c.column(facts, "Duration", unit="ms", width=110)
    for name in ("from_ms", "to_ms"):
        facts = c.column(facts, name, hidden=True)
    which = c.panel(
        facts,
        "Which call",
        "What is known of it; a click on its id sets the time range to the call.",
        ClickHouse(
            f"""SELECT call_id AS Call, tenant AS Tenant, if(queue = '', '{c.NONE}', queue) AS Queue,
    if(agent = '', '{c.NONE}', agent) AS Agent, started_at AS Began, ended_at AS Ended, duration_ms AS Duration,
    if(ended_at IS NULL, 'going on', end_reason) AS End, channels AS Channels,
    arrayStringConcat(languages, ', ') AS Languages, source AS Source, pipeline_version AS Version,
    toString(toUnixTimestamp64Milli(started_at) - 10000) AS from_ms,
    if(ended_at IS NULL, 'now', toString(ifNull(toUnixTimestamp64Milli(ended_at), 0) + 10000)) AS to_ms
FROM calls FINAL WHERE {_CALL}
ORDER BY started_at LIMIT 10"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=none,
        links=onward,
        width=24,
        height=4,
    )

    tiles = c.figure()
    for name in ("Customer", "Agent", "Call so far"):
        tiles = c.column(tiles, name, decimals=2, steps=c.SENTIMENT)
    few_or_many: c.type_thresholds = [(None, c.NEUTRAL), (5, c.WARNING), (15, c.NEGATIVE)]
    tiles = c.column(tiles, "Negative utterances", steps=few_or_many)
    tiles = c.column(tiles, "Words and voice disagree", steps=few_or_many)
    tiles = c.column(
        tiles,
        "Agent's share of talk",
        unit="percentunit",
        decimals=0,
        steps=[(None, c.NEUTRAL), (0.65, c.WARNING), (0.8, c.NEGATIVE)],
    )
    figures = c.panel(
        tiles,
        "Key figures",
        "Mean sentiment of both parties and the running score of the call, from −1 to 1; what stands out.",
        ClickHouse(
            f"""SELECT avgOrNullIf(score, role = 'customer') AS "Customer",
    avgOrNullIf(score, role = 'agent') AS "Agent",
    argMaxOrNull(call_score, call_utterances) AS "Call so far",
    sumIf(greatest(end_ms, start_ms) - start_ms, role = 'agent')
        / nullIf(sum(greatest(end_ms, start_ms) - start_ms), 0) AS "Agent's share of talk",
    countIf(sentiment = 'negative') AS "Negative utterances", countIf(disagree) AS "Words and voice disagree"
{_SAID}
HAVING count() > 0"""
        ),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data=none,
        links=onward,
        width=24,
        height=4,
    )

    sentiment = c.panel(
        c.coloured(
            c.sentiment_lines(calcs=("mean", "min")).span_nulls(True), {**c.ROLE_COLOURS, "call so far": "#FADE2A"}
        )
        .show_points(VisibilityMode.ALWAYS)
        .point_size(6),
        "Sentiment of both parties",
        "A point an utterance, from −1 to 1, words and voice fused, and the running score of the call.",
        ClickHouse(
            f"""SELECT spoken_at AS time,
    if(role = 'customer', score, NULL) AS customer,
    if(role = 'agent', score, NULL) AS agent,
    if(role = 'unknown', score, NULL) AS unknown,
    call_score AS "call so far"
{_SAID} AND score IS NOT NULL
ORDER BY time"""
        ).timeseries(),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data=none,
        links=onward,
        width=24,
        height=9,
    )
    mapping = {**c.EMOTION_COLOURS, **c.SENTIMENT_COLOURS}
    options = {value: model.ValueMappingResult(color=colour, text=value) for value, colour in mapping.items()}
    states = c.panel(
        statetimeline.Panel()
        .show_value(VisibilityMode.AUTO)
        .merge_values(False)
        .row_height(0.85)
        .line_width(0)
        .fill_opacity(80)
        .mappings([model.ValueMap(options=options)])
        .legend(
            VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .calcs([])
        ),
        "Who spoke when, and how",
        "Blocks are utterances: the sentiment of each party, and the emotion in the voice; gaps are silence.",
        _states("customer", "sentiment", "customer"),
        _states("customer", "emotion", "customer's voice"),
        _states("agent", "sentiment", "agent"),
        _states("agent", "emotion", "agent's voice"),
        _states("unknown", "sentiment", "unknown"),
        _states("unknown", "emotion", "unknown's voice"),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=none,
        links=onward,
        width=24,
        height=8,
    )
    names = ",\n    ".join(f"emotions['{name}'] AS {name}" for name in c.EMOTION_COLOURS)
    emotions = c.panel(
        c.coloured(c.lines(low=0, high=1).fill_opacity(10).span_nulls(True), c.EMOTION_COLOURS),
        "Emotions in the voice",
        "Probability of each emotion in what the customer, or a voice not known as the agent's, says.",
        ClickHouse(
            f"""SELECT spoken_at AS time,
    {names}
{_SAID} AND emotion != '' AND role != 'agent'
ORDER BY time"""
        ).timeseries(),
        unit="percentunit",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No emotion was computed for this call",
        links=(c.EMOTIONS, c.SENTIMENT_BOARD),
        width=24,
        height=8,
    )

    transcript_table = c.column(c.rows(), "At", unit="dthms", width=90)
    transcript_table = c.column(transcript_table, "Who", cell="text", mapping=c.ROLE_COLOURS, width=170)
    transcript_table = c.column(transcript_table, "Text", wrap=True)
    transcript_table = c.column(transcript_table, "Sentiment", cell="text", mapping=c.SENTIMENT_COLOURS, width=95)
    transcript_table = c.column(transcript_table, "Score", decimals=2, cell="background", steps=c.SENTIMENT, width=80)
    transcript_table = c.column(transcript_table, "Voice", cell="text", mapping=c.EMOTION_COLOURS, width=100)
    transcript_table = c.column(transcript_table, "Words sure", unit="percentunit", decimals=0, width=100)
    transcript = c.panel(
        transcript_table,
        "Transcript",
        "Every utterance in order: when in the call, who, what was said, and how it sounded.",
        ClickHouse(
            f"""SELECT start_ms / 1000 AS "At", {_PARTY} AS Who, text AS Text, sentiment AS Sentiment, score AS Score,
    emotion AS Voice, if(text = '', NULL, asr_confidence) AS "Words sure", arrayStringConcat(flags, ', ') AS Flags,
    arrayStringConcat(arrayMap((kind, times) -> if(times = 1, kind, concat(kind, ' ×', toString(times))),
        mapKeys(redacted), mapValues(redacted)), ', ') AS "Taken out"
{_SAID}
ORDER BY start_ms, channel LIMIT 5000"""
        ),
        unit="none",
        thresholds_at=c.SENTIMENT,
        no_data=none,
        links=onward,
        width=24,
        height=18,
    )

    talk = c.panel(
        c.pie(),
        "Share of talk",
        "How long each party talked, of all talk of the call.",
        ClickHouse(
            f"""SELECT {_PARTY} AS Party, sum(greatest(end_ms, start_ms) - start_ms) AS talk
{_SAID}
GROUP BY Party ORDER BY talk DESC"""
        ),
        unit="ms",
        thresholds_at=c.NO_THRESHOLDS,
        no_data=none,
        links=onward,
        width=6,
        height=9,
    )
    silence_table = c.column(c.rows(), "At", unit="dthms", width=100)
    silence_table = c.column(
        silence_table,
        "Length",
        unit="ms",
        cell="text",
        steps=[(None, c.NEUTRAL), (10_000, c.WARNING), (30_000, c.NEGATIVE)],
        width=110,
    )
    silences = c.panel(
        silence_table,
        "Silences",
        "Gaps of five seconds and more in which nobody speaks, and who spoke before and after.",
        ClickHouse(
            f"""SELECT until / 1000 AS "At", gap AS Length, spoke AS Before, Party AS After
FROM (
    SELECT
        {_PARTY} AS Party, toInt64(start_ms) AS begins,
        max(end_ms) OVER before AS until, argMax({_PARTY}, end_ms) OVER before AS spoke, begins - until AS gap
    {_SAID}
    WINDOW before AS (ORDER BY start_ms, channel ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
WHERE gap >= {SILENCE_MS}
ORDER BY until"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No silence of five seconds",
        links=onward,
        width=9,
        height=9,
    )
    alerts = c.panel(
        c.column(
            c.column(c.column(c.rows(), "At", unit="dateTimeAsLocal", width=170), "Rule", width=170),
            "Severity",
            cell="background",
            mapping=c.SEVERITY_COLOURS,
            width=95,
        ),
        "Alerts of this call",
        "What was noticed in it, and why.",
        ClickHouse(
            f"""SELECT at AS "At", severity AS Severity, rule AS Rule, text AS Why
FROM alerts FINAL WHERE {_CALL}
ORDER BY at"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No alerts in this call",
        links=onward,
        width=9,
        height=9,
    )

    so_far_table = c.column(c.rows(), "Party", width=170)
    for name in ("Share of talk", "Ends badly"):
        so_far_table = c.column(so_far_table, name, unit="percentunit", decimals=0, width=105)
    so_far_table = c.column(so_far_table, "Words a minute", decimals=0, width=115)
    for name in ("Answers after", "Silent now"):
        so_far_table = c.column(so_far_table, name, unit="ms", width=110)
    so_far_table = c.column(so_far_table, "Loudness", unit="dB", decimals=1, width=95)
    so_far_table = c.column(so_far_table, "A minute", title="… a minute", unit="dB", decimals=1, width=95)
    for name in ("1st", "2nd", "3rd", "4th"):
        so_far_table = c.column(so_far_table, name, decimals=1, cell="background", steps=c.QUARTERS, width=75)
    so_far_table = c.column(so_far_table, "Start → now", decimals=1, cell="text", steps=c.QUARTERS, width=100)
    so_far = c.panel(
        so_far_table,
        "So far",
        "What the metrics stage has said last, while the call goes on; quarters are of the call so far, from −5 to 5.",
        ClickHouse(
            f"""SELECT {_PARTY} AS Party, if(final, 'has ended', 'going on') AS "Call", talk_share AS "Share of talk",
    words_per_minute AS "Words a minute", response_ms AS "Answers after", interruptions AS "Cuts in",
    interrupted AS "Is cut off", quarters[1] AS "1st", quarters[2] AS "2nd", quarters[3] AS "3rd", quarters[4] AS "4th",
    change AS "Start → now", loudness_lufs AS "Loudness", loudness_trend AS "A minute",
    silences AS "Silences", silence_now_ms AS "Silent now", outlook AS "Ends badly"
FROM call_progress_now WHERE {_CALL}
ORDER BY talk_ms DESC"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="Nothing was said of it yet",
        links=onward,
        width=24,
        height=5,
    )
    party_table = c.column(c.rows(), "Party", width=190)
    for name in ("Sentiment", "Words", "Voice"):
        party_table = c.column(party_table, name, decimals=2, cell="text", steps=c.SENTIMENT, width=95)
    for name in ("1st", "2nd", "3rd", "4th", "Start → end"):
        party_table = c.column(party_table, name, decimals=1, cell="background", steps=c.QUARTERS, width=85)
    for name in ("Talk", "Longest monologue", "Overtalk", "Silence of the call"):
        party_table = c.column(party_table, name, unit="ms", width=130)
    party_table = c.column(party_table, "Share of talk", unit="percentunit", decimals=0, width=105)
    party_table = c.column(party_table, "Words a minute", decimals=0, width=115)
    parties = c.panel(
        party_table,
        "Parties",
        "Key figures of each party, known once the call has ended; quarters are of the call's duration, from −5 to 5.",
        ClickHouse(
            f"""SELECT {_PARTY} AS Party, score AS Sentiment, text_score AS Words, voice_score AS Voice,
    quarters[1] AS "1st", quarters[2] AS "2nd", quarters[3] AS "3rd", quarters[4] AS "4th", change AS "Start → end",
    talk_ms AS Talk, talk_share AS "Share of talk", words_per_minute AS "Words a minute", turns AS Turns,
    longest_monologue_ms AS "Longest monologue", interruptions AS Interruptions, overtalk_ms AS Overtalk,
    silences AS "Silences of the call", silence_ms AS "Silence of the call"
FROM call_metrics FINAL WHERE {_CALL}
ORDER BY talk_ms DESC"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="Known once the call has ended",
        links=onward,
        width=24,
        height=6,
    )

    read = f"""FROM insights FINAL
    WHERE {_CALL}
    ORDER BY state = 'ok' DESC, engine != 'extractive' DESC, ended_at DESC
    LIMIT 1"""
    about = c.panel(
        c.column(c.column(c.rows(), "What", width=130), "Words", wrap=True),
        "What it was about",
        "In words that were said in the call, or a language model's; known once the call has ended.",
        ClickHouse(
            f"""SELECT part.1 AS "What", part.2 AS "Words"
FROM (
    SELECT arrayJoin(arrayFilter(one -> one.2 != '', arrayConcat(
        if(state = 'ok', [], [('not read', replaceAll(state, '_', ' '))]),
        [('reason', reason)], arrayMap(one -> ('topic', toString(one)), topics),
        arrayMap(one -> ('summary', one), summary), [('outcome', outcome), ('resolved', toString(resolved))],
        [('read by', toString(engine))]
    ))) AS part
    FROM (
    SELECT *
    {read}
    )
)"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="Known once the call has ended",
        links=(c.COACHING, *onward),
        width=12,
        height=9,
    )
    moment_table = c.column(c.rows(), "At", unit="dthms", width=80)
    moment_table = c.column(moment_table, "What", width=115)
    moment_table = c.column(moment_table, "Sort", width=140)
    moments = c.panel(
        c.column(moment_table, "Words", wrap=True),
        "Moments",
        "Issues, objections, promises and recommendations, each with the moment of the call that it rests on.",
        ClickHouse(
            f"""SELECT moment.3[1].1 / 1000 AS "At", kind AS "What", replaceAll(moment.1, '_', ' ') AS "Sort",
    moment.2 AS "Words"
FROM (
    SELECT
        arrayJoin([
            ('issues', 'issue'), ('objections', 'objection'), ('action_items', 'promise'), ('coaching', 'practise')
        ]) AS kinds,
        kinds.2 AS kind,
        arrayJoin(JSONExtract(
            findings, kinds.1, 'Array(Tuple(name String, text String, evidence Array(Tuple(start_ms UInt32))))'
        )) AS moment
    FROM (
    SELECT findings
    {read}
    )
)
ORDER BY "At", "What", "Sort" """
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No such moment, or the call has not ended",
        links=(c.COACHING, *onward),
        width=12,
        height=9,
    )
    category_table = c.column(c.rows(), "At", unit="dthms", width=80)
    category_table = c.column(category_table, "Category", width=150)
    category_table = c.column(category_table, "Rule", width=150)
    categories = c.panel(
        c.column(category_table, "Words", wrap=True),
        "Categories",
        "Which rules put the call into which category, when in the call, and the words that it rests on.",
        ClickHouse(
            f"""SELECT at_ms / 1000 AS "At", category AS Category, rule AS Rule, text AS Words
FROM (
    SELECT at_ms, category, rule, utterances[1].channel AS channel, utterances[1].start_ms AS start_ms
    FROM call_categories FINAL WHERE {_CALL}
) AS found
LEFT JOIN (
    SELECT channel, start_ms, text
    {_SAID}
) AS said USING (channel, start_ms)
ORDER BY "At", Category, Rule"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No rule has put it into a category",
        links=(c.COACHING, *onward),
        width=10,
        height=10,
    )
    card_table = c.column(c.rows(), "Section", width=130)
    scores: c.type_thresholds = [(None, c.NEGATIVE), (50, c.WARNING), (75, c.POSITIVE)]
    card_table = c.column(card_table, "Score", decimals=0, cell="text", steps=scores, width=75)
    for name in ("Points", "Earned"):
        card_table = c.column(card_table, name, decimals=1, width=75)
    card = c.panel(
        c.column(card_table, "Why", wrap=True),
        "Score card",
        "Each form with its score, 0 to 100, and each item with what it earned and why; empty: could not be judged.",
        ClickHouse(
            f"""SELECT part.1 AS Section, part.2 AS Item, part.3 AS Score, part.4 AS Points, part.5 AS Earned,
    part.6 AS Why
FROM (
    SELECT form, arrayJoin(arrayConcat(
        [(toString(form), 'the whole call', CAST(score, 'Nullable(Float64)'), CAST(NULL, 'Nullable(Float64)'),
            CAST(NULL, 'Nullable(Float64)'), why)],
        arrayFlatten(arrayMap(section -> arrayMap(
            item -> (section.1, item.1, section.2, CAST(item.2, 'Nullable(Float64)'), item.3, item.4), section.3
        ), JSONExtract(items, 'sections', '{_SECTIONS}')))
    )) AS part
    FROM evaluations FINAL WHERE {_CALL}
    ORDER BY form
)"""
        ),
        unit="none",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="Known once the call has ended",
        links=(c.COACHING, *onward),
        width=14,
        height=10,
    )

    call_box = c.text_box("call", "Call", "The call's id; links from other dashboards fill it in")
    return c.board(
        "calltide-call",
        "One call",
        "What was said in one call, by whom, and how it sounded, from its start to its end.",
        variables=[c.datasource(), c.tenant(), c.version(), call_box],
        sections=[
            ("Key figures", [which, figures]),
            ("From start to end", [sentiment, states, emotions]),
            ("What was said", [transcript]),
            ("Talk and silence", [talk, silences, alerts, so_far, parties]),
            ("What it was about, and what to practise", [about, moments, categories, card]),
        ],
        time_from="now-24h",
    )
