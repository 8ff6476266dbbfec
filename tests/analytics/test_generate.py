"""Generated calls: the same for the same seed, with the planted facts in them, by the formulas of the real stages."""

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from processors.conversation import Tally
from processors.emotion_names import complex_emotion, granular
from processors.sentiment import HALF_LIFE_WORDS, VALENCE
from schemas.errors import CalltideError
from schemas.events import Acoustics, CallEnded, CallInfo, CallStarted, Emotion, RunningScore, Score, Sentiment, Word
from streams.analytics.findings import FORGETFUL_AGENT, RIVAL_RULE, STUCK_TOPIC
from streams.analytics.generate import generate
from streams.analytics.texts import REDACTED
from streams.analytics.traffic import (
    BEST_AGENT,
    LIVE_CALLS,
    RISE,
    SOUR_QUEUE,
    SOUR_TENANT,
    SOUR_TERMS,
    SOURCE,
    TENANTS,
    VERSION,
    WORSE_VERSION,
    Tables,
    Traffic,
    blocks,
    lag_from,
    rises_from,
    sour_from,
)
from streams.settings import Settings
from streams.sink import connect, migrate
from tests.analytics.conftest import UNTIL, Month, settings_for

SMALL = Traffic(until=UNTIL, days=14, calls=700, seed=3)


@pytest.fixture(scope="module")
def small() -> list[Tables]:
    """Some calls, as tables: two blocks of each version."""
    return list(blocks(SMALL))


def rows(month: Month, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in month.client.query(sql).result_rows]


def test_same_seed_same_rows(small: list[Tables]) -> None:
    again = list(blocks(SMALL))
    assert [table.keys() for table in again] == [table.keys() for table in small]
    assert all(made[name].equals(before[name]) for made, before in zip(again, small, strict=True) for name in made)


def test_another_seed_makes_other_calls(small: list[Tables]) -> None:
    (other, *_) = blocks(Traffic(until=UNTIL, days=14, calls=700, seed=4))
    assert not set(other["calls"]["call_id"].to_pylist()) & set(small[0]["calls"]["call_id"].to_pylist())
    assert other["utterances_heard"]["text"].to_pylist() != small[0]["utterances_heard"]["text"].to_pylist()


def test_what_the_stages_compute_holds(small: list[Tables]) -> None:
    utterances = small[0]["utterances_heard"].slice(0, 4_000).to_pylist()
    running: dict[str, float] = {}
    spoken_until: dict[tuple[str, str], int] = {}
    for row in utterances:
        emotions = dict(row["emotions"])
        found = granular(emotions) if emotions else ()
        assert row["granular.name"] == [one.name for one in found]
        assert row["granular.base"] == [one.base for one in found]
        assert row["granular.confidence"] == pytest.approx([one.confidence for one in found], abs=2e-4)
        assert row["complex_emotion"] == ((complex_emotion(emotions) or "") if emotions else "")
        if row["voice_score"] is not None:
            voice = sum(VALENCE[label] * share for label, share in emotions.items())
            assert row["voice_score"] == pytest.approx(voice, abs=1e-3)
            low, high = sorted((row["text_score"], row["voice_score"]))
            assert low - 1e-3 <= row["score"] <= high + 1e-3
        elif row["score"] is not None:
            assert row["score"] == row["text_score"]
        # As processors.sentiment adds it up.
        call = row["call_id"]
        words = len(row["text"].split())
        if row["score"] is not None:
            before = running.get(call, 0.0)
            running[call] = before + (row["score"] - before) * (1 - 2 ** (-words / HALF_LIFE_WORDS))
        assert row["call_score"] == pytest.approx(running.get(call, 0.0), abs=1e-4)
        assert row["words.text"] == row["text"].split()
        assert len(row["words.start_ms"]) == words
        times = [row["start_ms"]]
        for begin, end in zip(row["words.start_ms"], row["words.end_ms"], strict=True):
            times += [begin, end]
        assert times == sorted(times) and times[-1] <= row["end_ms"]
        party = (call, row["speaker"])
        assert row["start_ms"] >= spoken_until.get(party, 0), "nobody speaks twice at a time"
        spoken_until[party] = row["end_ms"]
    assert {row["speaker"] for row in utterances} >= {"agent", "customer", "speaker-1", "speaker-2"}


def test_a_row_is_known_by_call_version_channel_and_start(small: list[Tables]) -> None:
    keys = [
        key
        for tables in small
        for key in zip(
            *(
                tables["utterances_heard"][name].to_pylist()
                for name in ("call_id", "pipeline_version", "channel", "start_ms")
            ),
            strict=True,
        )
    ]
    assert len(set(keys)) == len(keys)
    offsets = [
        place
        for tables in small
        for place in zip(
            *(tables["utterances_heard"][name].to_pylist() for name in ("partition", "offset")), strict=True
        )
    ]
    assert len(set(offsets)) == len(offsets)


def test_times_of_planted_facts() -> None:
    for hour in range(0, 24 * 7, 5):
        until = datetime(2026, 11, 14, tzinfo=UTC) + timedelta(hours=hour)
        assert timedelta(days=1) < until - sour_from(until) < timedelta(days=7)
        assert timedelta(days=8) < until - lag_from(until) < timedelta(days=14)
        assert sour_from(until).weekday() < 5 and sour_from(until).hour == 10


def test_counts(month: Month) -> None:
    ((calls, running, mono),) = rows(
        month,
        f"SELECT count(), countIf(ended_at IS NULL), countIf(channels = 1) FROM calls FINAL "
        f"WHERE pipeline_version = '{VERSION}'",
    )
    assert calls == month.traffic.calls and running >= LIVE_CALLS and mono > 100
    ((kept, of_version, latest),) = rows(
        month, f"SELECT count(), countIf(pipeline_version = '{VERSION}'), max(scored_at) FROM utterances"
    )
    assert kept == month.rows["utterances_heard"]
    assert of_version >= 500_000
    assert latest.replace(tzinfo=UTC) <= month.until + timedelta(seconds=10)
    found = ("call_progress", "call_categories", "insights", "evaluations")
    for table in ("calls", "corrections", "alerts", "dead_letters", *found):
        assert rows(month, f"SELECT count() FROM {table} FINAL") == [(month.rows[table],)], table
    by_queue = rows(month, "SELECT tenant, queue, uniqExact(agent) FROM calls GROUP BY tenant, queue")
    assert {(tenant, queue) for tenant, queue, _ in by_queue} == {
        (one, queue) for one in TENANTS for queue in TENANTS[one]
    }
    assert all(agents >= 5 for *_, agents in by_queue)
    assert rows(month, "SELECT count() FROM call_progress_now") == [(month.rows["call_progress"],)]
    # What is counted at the insert has counted each row once.
    assert rows(month, "SELECT sum(utterances) FROM utterance_minutes") == [(kept,)]
    assert rows(month, "SELECT sum(utterances) FROM utterance_hours") == [(kept,)]
    ended = "SELECT count() FROM calls FINAL WHERE ended_at IS NOT NULL"
    assert rows(month, "SELECT uniqExact(call_id, pipeline_version) FROM call_metrics FINAL") == rows(month, ended)


def test_working_hours(month: Month) -> None:
    ((weekday, weekend, day, night),) = rows(
        month,
        "SELECT countIf(toDayOfWeek(started_at) < 6) / 5, countIf(toDayOfWeek(started_at) > 5) / 2, "
        "countIf(toHour(started_at) BETWEEN 8 AND 17), countIf(toHour(started_at) NOT BETWEEN 6 AND 21) "
        "FROM calls FINAL",
    )
    assert weekday > 3 * weekend
    assert day > 10 * night > 0


CUSTOMERS = f"call_metrics FINAL WHERE role = 'customer' AND pipeline_version = '{VERSION}'"


def test_the_queue_turns_sour(month: Month) -> None:
    scores = dict(
        rows(
            month,
            f"SELECT multiIf(started_at < toDateTime64('{month.sour_from:%F %T}', 3, 'UTC'), 'before', "
            f"started_at < toDateTime64('{month.sour_to:%F %T}', 3, 'UTC'), 'sour', 'behind') AS part, avg(score) "
            f"FROM {CUSTOMERS} AND tenant = '{SOUR_TENANT}' AND queue = '{SOUR_QUEUE}' GROUP BY part",
        )
    )
    assert scores["sour"] < -0.3 < min(scores["before"], scores["behind"])


def test_words_of_the_sour_hours(month: Month) -> None:
    for term in SOUR_TERMS:
        ((count, first, last, queues),) = rows(
            month,
            "SELECT count(), min(spoken_at), max(call_started_at), groupUniqArray((tenant, queue)) FROM utterances "
            f"WHERE positionCaseInsensitive(text, '{term}') > 0",
        )
        assert count > 50 and queues == [(SOUR_TENANT, SOUR_QUEUE)]
        assert month.sour_from <= first.replace(tzinfo=UTC) and last.replace(tzinfo=UTC) < month.sour_to


def test_the_best_agent(month: Month) -> None:
    ranking = rows(
        month, f"SELECT agent, avg(score) AS mean, count() FROM {CUSTOMERS} GROUP BY agent ORDER BY mean DESC"
    )
    (best, score, calls), (_, second, _) = ranking[:2]
    assert best == BEST_AGENT and score > second + 0.1 and calls > 50
    assert rows(month, f"SELECT DISTINCT tenant FROM calls WHERE agent = '{BEST_AGENT}'") == [(SOUR_TENANT,)]


def test_the_other_version_is_worse(month: Month) -> None:
    found = rows(
        month,
        f"""
        SELECT count(), countIf(a.sentiment != b.sentiment) / count(), countIf(a.sentiment = 'negative'),
            countIf(b.sentiment = 'negative'), avg(b.confidence - a.confidence),
            avg(b.asr_confidence - a.asr_confidence), median(b.latency_ms) / median(a.latency_ms)
        FROM (SELECT * FROM utterances WHERE pipeline_version = '{VERSION}' AND score IS NOT NULL) AS a
        JOIN (SELECT * FROM utterances WHERE pipeline_version = '{WORSE_VERSION}' AND score IS NOT NULL) AS b
        USING (tenant, call_id, channel, start_ms)
        """,
    )
    ((count, flips, negative, other, confidence, asr, latency),) = found
    assert count > 40_000
    assert flips > 0.15
    assert other < 0.6 * negative
    assert confidence < -0.05 and asr < -0.05 and latency > 1.5


def test_scores_come_late_for_an_hour(month: Month) -> None:
    start = lag_from(month.until)
    ((late, usual, reduced),) = rows(
        month,
        f"SELECT quantileIf(0.5)(latency_ms, toStartOfHour(captured_at) = toDateTime('{start:%F %T}', 'UTC')), "
        f"quantileIf(0.5)(latency_ms, toStartOfHour(captured_at) != toDateTime('{start:%F %T}', 'UTC')), "
        f"countIf(has(flags, 'reduced_beam') AND toStartOfHour(captured_at) = toDateTime('{start:%F %T}', 'UTC')) "
        f"FROM utterances WHERE pipeline_version = '{VERSION}'",
    )
    assert late > 3_000 > 1_000 > usual
    assert reduced > 100


def test_negative_calls_have_words_of_their_own(month: Month) -> None:
    found = {
        term: (negative, positive)
        for term, negative, positive in rows(
            month,
            "SELECT term, sum(negative_calls), sum(positive_calls) FROM call_terms "
            f"WHERE role = 'customer' AND pipeline_version = '{VERSION}' GROUP BY term",
        )
    }
    negative, positive = found[""]
    assert negative > 300 and positive > 300
    for term, sign in (("ridiculous", 1), ("cheated", 1), ("brilliant", -1), ("fantastic", -1)):
        share = found[term][0] / negative - found[term][1] / positive
        assert share * sign > 0.1, term


def test_words_and_voice_disagree_at_times(month: Month) -> None:
    ((share,),) = rows(month, "SELECT avg(disagree) FROM utterances WHERE role = 'customer' AND emotion != ''")
    assert 0.005 < share < 0.1


def test_corrections_hold_for_mixed_calls(month: Month) -> None:
    (found,) = rows(
        month,
        "SELECT groupUniqArray(speaker), groupUniqArray(role), countIf(flags = []) FROM utterances "
        "WHERE (tenant, call_id) IN (SELECT tenant, call_id FROM calls WHERE channels = 1)",
    )
    assert set(found[0]) == {"speaker-1", "speaker-2"}
    assert set(found[1]) == {"agent", "customer"}


def test_something_happens_now(month: Month) -> None:
    going_wrong = rows(
        month,
        f"SELECT call_id, argMax(call_score, spoken_at) FROM utterances WHERE pipeline_version = '{VERSION}' AND "
        "(tenant, call_id) IN (SELECT tenant, call_id FROM calls FINAL WHERE ended_at IS NULL) GROUP BY call_id",
    )
    assert len(going_wrong) >= LIVE_CALLS
    assert sum(score < -0.2 for _, score in going_wrong) >= 2


def test_alerts_point_at_utterances(month: Month) -> None:
    missing = rows(
        month,
        """
        SELECT count()
        FROM (SELECT tenant, call_id, pipeline_version, arrayJoin(utterances) AS spot FROM alerts FINAL) AS alerted
        WHERE (tenant, call_id, pipeline_version, spot.channel, spot.start_ms)
            NOT IN (SELECT tenant, call_id, pipeline_version, channel, start_ms FROM utterances_heard)
        """,
    )
    assert missing == [(0,)]
    assert {severity for (severity,) in rows(month, "SELECT DISTINCT severity FROM alerts")} == {"warning", "critical"}


def test_findings_quote_utterances_of_their_call(small: list[Tables]) -> None:
    said = {
        (row["call_id"], row["channel"], row["start_ms"]): row["text"]
        for row in small[0]["utterances_heard"].select(["call_id", "channel", "start_ms", "text"]).to_pylist()
    }
    quoted = 0
    for row in small[0]["insights"].to_pylist():
        found = json.loads(row["findings"])
        assert [one["name"] for one in found.get("issues", [])] == row["issues"]
        for one in (*found.get("issues", []), *found.get("objections", []), *found.get("coaching", [])):
            for spot in one["evidence"]:
                identity = f"{row['call_id']}/{spot['channel']}/{spot['start_ms']}"
                assert spot["identity"] == identity
                assert said[row["call_id"], spot["channel"], spot["start_ms"]] == spot["text"]
                quoted += 1
    assert quoted > 500
    for row in small[0]["call_categories"].to_pylist():
        (spot,) = row["utterances"]
        assert (row["call_id"], spot["channel"], spot["start_ms"]) in said


def heard(call: CallInfo, row: dict[str, Any]) -> Score:
    """The event of a row of utterances_heard."""
    times = zip(row["words.text"], row["words.start_ms"], row["words.end_ms"], strict=True)
    emotion, sentiment = None, None
    if row["emotion"]:
        emotion = Emotion(label=row["emotion"], probabilities=dict(row["emotions"]), model="m")
    if row["score"] is not None:
        sentiment = Sentiment(
            label=row["sentiment"], score=row["score"], text_score=row["text_score"], confidence=0.5, model="m"
        )
    return Score(
        call=call,
        **{name: row[name] for name in ("channel", "start_ms", "end_ms", "cut", "text", "language", "asr_model")},
        codec="mulaw",
        rate=8_000,
        captured_at=row["captured_at"],
        # As it was corrected: generated voices are told apart by their order.
        speaker={"speaker-3": "speaker-2"}.get(row["speaker"], row["speaker"]),
        role="agent" if row["speaker"] in ("agent", "speaker-1") else "customer",
        speaker_confidence=1,
        words=tuple(Word(text=text, start_ms=start, end_ms=end, confidence=1) for text, start, end in times),
        asr_confidence=0.5,
        emotion=emotion,
        acoustics=Acoustics(loudness_lufs=row["loudness_lufs"]),
        sentiment=sentiment,
        running=RunningScore(score=0, party_score=0, utterances=0),
        pipeline_version=VERSION,
    )


def near(one: float | None, other: float | None, by: float = 2e-3) -> bool:
    """Both are absent, or about the same."""
    return one is other is None or (None not in (one, other) and one == pytest.approx(other, rel=by, abs=by))


COUNTED = (
    "utterances", "words", "talk_ms", "negative", "neutral", "positive", "turns", "longest_monologue_ms", "responses",
    "response_ms", "interruptions", "interrupted", "overtalk_ms",
)  # fmt: skip


def test_figures_are_those_of_the_real_tally(small: list[Tables]) -> None:
    said: dict[str, list[dict[str, Any]]] = defaultdict(list)
    columns = (
        "call_id channel start_ms end_ms cut text language asr_model captured_at speaker words.text words.start_ms "
        "words.end_ms emotion emotions sentiment score text_score loudness_lufs"
    )
    for row in small[0]["utterances_heard"].select(columns.split()).to_pylist():
        said[row["call_id"]].append(row)
    progress: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in small[0]["call_progress"].to_pylist():
        progress[row["call_id"]].append(row)
    calls = small[0]["calls"].to_pylist()
    mixed = [row for row in calls if row["channels"] == 1]
    for row in (*calls[:20], *mixed[:5]):
        info = CallInfo(call_id=row["call_id"], started_at=row["started_at"], roles=tuple(row["roles"]))
        tally = Tally()
        tally.hear(CallStarted(call=info))
        for one in said[row["call_id"]]:
            tally.hear(heard(info, one))
        tally.hear(CallEnded(call=info, duration_ms=row["duration_ms"], ended_at=row["ended_at"], reason="hangup"))
        parties = {party.role: party for party in tally.parties()}
        assert len(progress[row["call_id"]]) == len(parties) >= 1
        for figures in progress[row["call_id"]]:
            party = parties[figures["role"]]
            assert figures["speaker"] == party.speaker
            assert figures["final"] and figures["at_ms"] == row["duration_ms"]
            for name in COUNTED:
                assert figures[name] == getattr(party, name), (row["call_id"], figures["role"], name)
            assert dict(figures["emotion_ms"]) == party.emotion_ms
            for name in ("talk_share", "words_per_minute", "score", "change", "loudness_lufs"):
                assert near(figures[name], getattr(party, name)), name
            assert near(figures["loudness_trend"], party.loudness_trend, 0.02)
            assert all(near(one, other) for one, other in zip(figures["quarters"], party.quarters, strict=True))
            *counts, silences = tally.silences()
            assert [figures[name] for name in ("silences", "silence_ms", "longest_silence_ms")] == counts
            assert [(one["start_ms"], one["end_ms"]) for one in figures["dead_air"]] == [
                (one.start_ms, one.end_ms) for one in silences
            ]


def test_figures_of_every_call_are_those_that_clickhouse_counts(month: Month) -> None:
    names = [*COUNTED[:8], "interruptions", "silences", "silence_ms"]
    differ = ", ".join(f"countIf(told.{name} IS DISTINCT FROM counted.{name})" for name in names)
    (found,) = rows(
        month,
        f"""SELECT max(abs(told.score - counted.score)), max(abs(told.change - counted.change)), count(), {differ}
        FROM (SELECT * FROM call_progress FINAL WHERE final) AS told
        INNER JOIN (SELECT * FROM call_metrics FINAL) AS counted
            USING (tenant, pipeline_version, started_at, call_id, role, speaker)""",
    )
    assert max(found[:2]) < 1e-3
    assert (found[2],) == rows(month, "SELECT count() FROM call_progress FINAL WHERE final")[0] > (10_000,)
    assert not any(found[3:])


def test_one_agent_never_says_goodbye(month: Month) -> None:
    ((calls, closing, advised, others),) = rows(
        month,
        f"""SELECT countIf(agent = '{FORGETFUL_AGENT}'), maxIf(sections.score[5], agent = '{FORGETFUL_AGENT}'),
            (SELECT countIf(has(coaching, 'no_closing_question')) / count() FROM call_insights
                WHERE agent = '{FORGETFUL_AGENT}' AND state = 'ok'),
            avgIf(sections.score[5], agent != '{FORGETFUL_AGENT}')
        FROM evaluations FINAL WHERE state = 'ok' AND sections.name[5] = 'closing'""",
    )
    assert calls > 50 and closing == 0 and advised == 1 and others > 70
    assert rows(month, f"SELECT DISTINCT tenant FROM calls WHERE agent = '{FORGETFUL_AGENT}'") == [(SOUR_TENANT,)]


def test_one_topic_is_never_resolved(month: Month) -> None:
    found = dict(
        rows(
            month,
            "SELECT topic, countIf(resolved = 'yes') / count() FROM call_insights ARRAY JOIN topics AS topic "
            "GROUP BY topic HAVING count() > 50",
        )
    )
    assert found.pop(STUCK_TOPIC) == 0 and len(found) > 10 and min(found.values()) > 0.2


def test_a_category_rises(month: Month) -> None:
    since = f"started_at >= toDateTime64('{rises_from(month.until):%F %T}', 3, 'UTC')"
    ((late, early),) = rows(
        month,
        f"SELECT avgIf(in_it, {since}), avgIf(in_it, NOT ({since})) FROM (SELECT started_at, (tenant, call_id) IN "
        f"(SELECT tenant, call_id FROM call_categories WHERE rule = '{RIVAL_RULE}') AS in_it FROM calls FINAL "
        f"WHERE pipeline_version = '{VERSION}' AND ended_at IS NOT NULL)",
    )
    assert (late, early) == pytest.approx(RISE, rel=0.25)
    ((said, everywhere),) = rows(
        month,
        f"SELECT countIf(hasAnyTokens(text, ['provider', 'competitor'])), count() FROM utterances WHERE "
        f"(tenant, call_id, start_ms) IN (SELECT tenant, call_id, utterances[1].start_ms FROM call_categories "
        f"WHERE rule = '{RIVAL_RULE}') AND pipeline_version = '{VERSION}' AND role = 'customer'",
    )
    assert said == everywhere > 100


def test_personal_data_is_counted_where_it_was_taken_out(month: Month) -> None:
    counted = rows(
        month,
        "SELECT queue, kind, toUInt64(sum(times)) FROM (SELECT queue, sumMap(redacted) AS kinds FROM utterance_hours "
        "GROUP BY queue) ARRAY JOIN mapKeys(kinds) AS kind, mapValues(kinds) AS times GROUP BY ALL ORDER BY ALL",
    )
    assert counted == rows(
        month,
        "SELECT queue, kind, sum(times) FROM utterances ARRAY JOIN mapKeys(redacted) AS kind, mapValues(redacted) AS "
        "times GROUP BY ALL ORDER BY ALL",
    )
    assert {(queue, kind) for queue, kind, _ in counted} == {(one, kind) for kind in REDACTED for one in REDACTED[kind]}
    ((without,),) = rows(
        month,
        "SELECT countIf(position(text, concat('[', upper(mapKeys(redacted)[1]), ']')) = 0) FROM utterances "
        "WHERE notEmpty(redacted)",
    )
    assert without == 0


@pytest.fixture
def empty(clickhouse_url: str, request: pytest.FixtureRequest) -> Iterator[tuple[Settings, Client]]:
    """A database of the test's own, migrated."""
    settings = settings_for(clickhouse_url, request.node.name)
    migrate(settings)
    with connect(settings) as client:
        yield settings, client


TINY = Traffic(until=UNTIL, days=14, calls=100, seed=5)


def test_generated_calls_are_not_doubled(empty: tuple[Settings, Client]) -> None:
    settings, client = empty
    told: list[int] = []
    before = generate(settings, TINY, progress=told.append)
    assert told[-1] == TINY.call_rows == before["calls"]
    with pytest.raises(CalltideError, match="holds 100 generated calls already; --clear"):
        generate(settings, TINY, force=True)
    assert generate(settings, TINY, clear=True) == before
    assert client.command("SELECT count() FROM utterances_heard") == before["utterances_heard"]
    assert client.command("SELECT sum(utterances) FROM utterance_minutes") == before["utterances_heard"]


def test_other_calls_are_left_alone(empty: tuple[Settings, Client]) -> None:
    settings, client = empty
    client.command(
        "INSERT INTO calls (tenant, call_id, pipeline_version, started_at) VALUES ('a', 'b', 'v1', now64(3))"
    )
    with pytest.raises(
        CalltideError, match=f"{settings.clickhouse.database} holds 1 call that was not generated.*--force"
    ):
        generate(settings, TINY)
    with pytest.raises(CalltideError, match="can be cleared"):
        generate(settings, TINY, clear=True)
    assert client.command("SELECT count() FROM calls") == 1
    generate(settings, TINY, force=True)
    assert client.command(f"SELECT uniqExact(call_id) FROM calls WHERE source = '{SOURCE}'") == TINY.calls


def test_clickhouse_is_away() -> None:
    with pytest.raises(CalltideError, match="no ClickHouse at 127.0.0.1:1 .*calltide up"):
        generate(settings_for("http://127.0.0.1:1", "nowhere"), TINY)
