"""The sink from the real Kafka into the real ClickHouse: rows equal events, and nothing is lost or doubled."""

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.broker import Broker
from deploy.clickhouse import ClickHouse
from deploy.migrations import COUNTED, rebuild
from schemas.errors import CalltideError
from schemas.events import (
    Acoustics,
    Alert,
    CallEvent,
    CallInfo,
    Categorised,
    Correction,
    Emotion,
    Evaluation,
    Findings,
    GranularEmotion,
    Insights,
    Outlook,
    Progress,
    RunningScore,
    Score,
    Sentiment,
    Word,
    encode,
)
from schemas.topics import DEFAULT_PARTITIONS
from streams import kafka, sink
from streams.settings import Settings
from streams.sink import Sink, connect, migrate
from tests.conftest import JARS
from tests.scripted import Writer, call, ended, metrics, new_topic, score, started
from tests.waiting import until

pytestmark = pytest.mark.kafka

Headers = dict[str, str | bytes | None]
"""As a producer takes them."""


def settings_for(bootstrap: str, url: str, group: str = "", **limits: int) -> Settings:
    """Settings with a group and a database of the test's own. Batches are what came within 50 ms."""
    base = Settings()
    name = f"s{uuid.uuid4().hex[:8]}"
    kafka = {"bootstrap_servers": bootstrap, "group_prefix": group or name}
    return base.model_copy(
        update={
            "kafka": base.kafka.model_copy(update=kafka),
            "clickhouse": base.clickhouse.model_copy(update={"url": url, "database": name}),
            "sink": base.sink.model_copy(update={"batch_ms": 50, **limits}),
        }
    )


@pytest.fixture
def settings(kafka_bootstrap: str, clickhouse_url: str) -> Settings:
    return settings_for(kafka_bootstrap, clickhouse_url)


@pytest.fixture
def topic(kafka_bootstrap: str) -> str:
    return new_topic(kafka_bootstrap)


@pytest.fixture
def writer(kafka_bootstrap: str, topic: str) -> Writer:
    return Writer(kafka_bootstrap, topic)


@contextmanager
def sinking(running: Sink) -> Iterator[threading.Thread]:
    """The sink in a thread; it must not have failed behind the block."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            running.run(stop)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="sink")
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(90)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def rows(settings: Settings, sql: str) -> list[dict[str, Any]]:
    """The rows of a query as JSON has them; none while the tables are not there yet."""
    with connect(settings, create=True) as client:
        all_of_them = len(list(sink.MIGRATIONS.glob("*.sql")))
        there = client.command("EXISTS TABLE schema_migrations")
        if not there or client.command("SELECT uniq(number) FROM schema_migrations") != all_of_them:
            return []
        return [json.loads(line) for line in client.raw_query(sql, fmt="JSONEachRow").splitlines()]


def count(settings: Settings, table: str, final: bool = True) -> int:
    """How many rows; without `final` also those that ClickHouse has not merged yet."""
    if not final and table == "utterances":
        table = "utterances_heard"  # the view shows each utterance once
    found = rows(settings, f"SELECT count() AS n FROM {table} {'FINAL' if final else ''}")
    return int(found[0]["n"]) if found else 0


def committed(settings: Settings, topic: str) -> dict[int, int]:
    """Partition → committed offset of the sink's group."""
    groups = kafka.Groups(settings)
    places = [TopicPartition(topic, number) for number in range(DEFAULT_PARTITIONS)]
    found = groups.committed(f"{settings.kafka.group_prefix}.sink", places, kafka.GROUP_ANSWER_S)
    groups.close()
    return {held.partition: held.offset for held in found if held.offset >= 0}


def until_committed(settings: Settings, topic: str, partition: int, offset: int) -> None:
    """Wait until what lies before an offset is in ClickHouse and will not be read again."""
    until(lambda: committed(settings, topic).get(partition, 0) >= offset, f"offset {offset} committed")


INFO = CallInfo(
    call_id="Anruf 'ü' \"\\ 呼",
    started_at=datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC),
    roles=("agent", "customer"),
    tenant="o'neill & søn\\'); DROP TABLE calls; -- ",
    queue="billing\tqueue",
    agent='Zoë "Z"',
    source="a b/ñ.wav",
    metadata={"cli": "+49 30 'x'", "näme\n": '{"a": [1]}', "emoji": "😀"},
)
FULL = Score(
    call=INFO,
    channel=1,
    start_ms=61_234,
    end_ms=63_456,
    cut="max_length",
    codec="mulaw",
    rate=8_000,
    captured_at=INFO.started_at + timedelta(milliseconds=63_456),
    speaker="customer",
    role="customer",
    speaker_confidence=0.8125,
    role_confidence=0.9,
    overlap_ms=320,
    text="I'm \"very\" unhappy\n\t\\ – ça m'énerve, 怒 😡 '); DROP TABLE utterances; --",
    words=(
        Word(text="I'm", start_ms=61_300, end_ms=61_400, confidence=0.1),
        Word(text='"very"', start_ms=61_400, end_ms=61_700, confidence=1 / 3),
        Word(text="😡", start_ms=61_700, end_ms=63_400, confidence=1.0),
    ),
    language="en",
    asr_confidence=0.7000000000000001,
    asr_model="tiny.en/int8",
    redacted={"card": 1, "phone": 2},
    flags=("repetition", "no_speech"),
    emotion=Emotion(
        label="anger",
        probabilities={"anger": 0.7, "neutral": 0.1, "sadness": 0.2},
        model="head-1",
        uncertain=True,
        granular=(
            GranularEmotion(name="irritation", base="anger", confidence=0.49),
            GranularEmotion(name="gloom", base="sadness", confidence=1 / 3),
        ),
        complex="bitterness",
    ),
    emotion_skipped=None,
    acoustics=Acoustics(
        pitch_mean_hz=211.4,
        pitch_variance_hz2=1_234.5,
        rms=0.1,
        loudness_lufs=-23.7,
        speaking_rate_wps=3.3,
        spectral_centroid_hz=1_500.1,
        zero_crossing_rate=0.07,
        mfcc=tuple(number - 1 / 3 for number in range(13)),
        jitter=0.01,
        shimmer=0.05,
        formants_hz=(512.3, 1_489.9, 2_500.0),
        hnr_db=-1.5,
    ),
    sentiment=Sentiment(
        label="negative",
        score=-0.6543210987654321,
        text_score=-0.5,
        voice_score=-0.75,
        confidence=0.9,
        members={"vader": -0.4, "minilm": -0.6},
        model="ensemble-1",
        disagree=True,
    ),
    running=RunningScore(score=-0.1, party_score=-0.2, utterances=7),
    pipeline_version="v1",
)
BARE = Score(
    call=call("bare"),
    channel=0,
    start_ms=0,
    end_ms=100,
    cut="end",
    codec="pcm_s16le",
    rate=16_000,
    captured_at=call("bare").started_at + timedelta(milliseconds=100),
    speaker="S1",
    role="unknown",
    speaker_confidence=0.0,
    text="",
    language="en",
    asr_confidence=0.0,
    asr_model="",
    emotion_skipped="role_unknown",
    running=RunningScore(score=0.0, party_score=0.0, utterances=0),
    pipeline_version="v1",
)
ZERO = FULL.model_copy(
    update={
        "start_ms": 70_000,
        "sentiment": Sentiment(label="neutral", score=0.0, text_score=0.0, confidence=0.0, model="m"),
    }
)
"""A score of zero is a score, not an absent one; without a voice."""


def score_of(row: dict[str, Any], like: Score) -> Score:
    """The event of a row of `utterances`. What has no column there is taken from `like`."""
    info = like.call
    assert (row["tenant"], row["call_id"], row["queue"], row["agent"]) == (
        info.tenant,
        info.call_id,
        info.queue,
        info.agent,
    )
    spoken = datetime.fromisoformat(row["spoken_at"] + "Z")
    assert spoken == info.started_at + timedelta(milliseconds=like.start_ms)
    words = zip(row["words.text"], row["words.start_ms"], row["words.end_ms"], row["words.confidence"], strict=True)
    granular = zip(row["granular.name"], row["granular.base"], row["granular.confidence"], strict=True)
    heard = {
        "label": row["emotion"],
        "probabilities": row["emotions"],
        "model": row["emotion_model"],
        "uncertain": row["emotion_uncertain"],
        "granular": [{"name": name, "base": base, "confidence": sure} for name, base, sure in granular],
        "complex": row["complex_emotion"] or None,
    }
    acoustics = {name: row[name] for name in Acoustics.model_fields}
    names = {name: row[name] for name in ("score", "text_score", "voice_score", "confidence", "members", "disagree")}
    fields = (
        "channel start_ms end_ms cut speaker role role_confidence speaker_confidence overlap_ms text language "
        "asr_confidence asr_model redacted flags pipeline_version"
    )
    return Score.model_validate(
        {
            **{name: row[name] for name in fields.split()},
            "call": info,
            "codec": like.codec,
            "rate": like.rate,
            "captured_at": row["captured_at"] + "Z",
            "words": [
                {"text": text, "start_ms": start, "end_ms": end, "confidence": confidence}
                for text, start, end, confidence in words
            ],
            "emotion": heard if row["emotion"] else None,
            "emotion_skipped": row["emotion_skipped"] or None,
            "acoustics": acoustics if any(value not in (None, []) for value in acoustics.values()) else None,
            "sentiment": {"label": row["sentiment"], "model": row["sentiment_model"], **names}
            if row["sentiment"]
            else None,
            "running": {
                "score": row["call_score"],
                "party_score": row["party_score"],
                "utterances": row["call_utterances"],
            },
        }
    )


def test_a_row_is_its_event_field_by_field(settings: Settings, topic: str, writer: Writer) -> None:
    with sinking(Sink(settings, topic=topic)):
        writer.write(started(INFO), Progress(call=INFO, at_ms=1), FULL, ZERO, partition=1)
        writer.write(BARE, partition=2)
        until(lambda: count(settings, "utterances") == 3, "three rows")
    bare, full, zero = rows(settings, "SELECT * FROM utterances ORDER BY start_ms")
    assert score_of(full, FULL) == FULL
    assert score_of(zero, ZERO) == ZERO
    assert score_of(bare, BARE) == BARE
    assert (bare["score"], bare["confidence"], bare["emotion"], bare["words.text"]) == (None, None, "", [])
    assert zero["score"] == 0.0
    assert rows(settings, "SELECT sumMap(redacted) AS counts FROM utterance_hours") == [
        {"counts": {"card": 2, "phone": 4}}
    ]
    places = [(row["topic"], row["partition"], row["offset"]) for row in (full, zero, bare)]
    assert places == [(topic, 1, 2), (topic, 1, 3), (topic, 2, 0)]


def test_a_call_is_one_row_that_its_end_completes(settings: Settings, topic: str, writer: Writer) -> None:
    sql = "SELECT * FROM calls FINAL"
    with sinking(Sink(settings, topic=topic)):
        writer.write(started(INFO))
        until(lambda: count(settings, "calls") == 1, "the call's start")
        (row,) = rows(settings, sql)
        assert CallInfo.model_validate({**row, "started_at": row["started_at"] + "Z"}) == INFO
        assert (row["ended_at"], row["duration_ms"], row["end_reason"], row["revision"]) == (None, None, "", 1)
        writer.write(FULL)
        end = ended(INFO, 65_000).model_copy(update={"reason": "idle", "missing_ms": 20, "dropped_packets": 3})
        writer.write(end)
        until(lambda: rows(settings, sql)[0]["ended_at"], "the call's end")
    (row,) = rows(settings, sql)
    assert CallInfo.model_validate({**row, "started_at": row["started_at"] + "Z"}) == INFO
    assert datetime.fromisoformat(row["ended_at"] + "Z") == end.ended_at
    assert (row["duration_ms"], row["end_reason"], row["missing_ms"], row["dropped_packets"]) == (65_000, "idle", 20, 3)
    assert (row["channels"], row["languages"], row["topic"]) == (2, ["en"], topic)
    (party,) = rows(settings, "SELECT * FROM call_metrics FINAL")
    assert (party["tenant"], party["call_id"]) == (INFO.tenant, INFO.call_id)
    assert party["quarters"] == [None, None, None, pytest.approx(-3.2716055)]


EVERYTHING_COUNTED = " UNION ALL ".join(f"SELECT toJSONString(tuple(*)) AS row FROM {table} FINAL" for table in COUNTED)


class Forgetful(Sink):
    """Dies between each insert and its commit, as far as Kafka can tell."""

    def _commit(self, batch: sink._Batch) -> None:
        self.inserted = getattr(self, "inserted", 0) + batch.rows


EVENTS: list[CallEvent] = [
    started(call("c")),
    *(score(call("c"), start_ms=1_000 * at, text=f"utterance {at}") for at in range(20)),
    Correction(call=call("c"), speaker="customer", same_as="speaker-1", role="agent", role_confidence=0.75),
    ended(call("c")),
]


class Unaware(Forgetful):
    """Does not look what is there already."""

    def _leave_out(self, *_: object) -> None:
        pass


class Persistent(Unaware):
    """Hears nothing of its first insert, and tries once more."""

    def _insert(self) -> None:
        super()._insert()
        super()._insert()


def forget(settings: Settings, topic: str, batch_rows: int, kind: type[Forgetful] = Forgetful) -> None:
    """Insert all of EVENTS in batches of so many rows and commit nothing."""
    limits = settings.sink.model_copy(update={"batch_rows": batch_rows, "batch_ms": 1_000})
    running = kind(settings.model_copy(update={"sink": limits}), topic=topic)
    with sinking(running):
        until(lambda: getattr(running, "inserted", 0) == len(EVENTS), "all rows inserted")


def counted(settings: Settings) -> list[int]:
    """How many utterances the counts by minute and by hour hold, how many parties and how many calls."""
    (found,) = rows(
        settings,
        """SELECT (SELECT sum(utterances) FROM utterance_minutes) AS minutes,
            (SELECT sum(utterances) FROM utterance_hours) AS hours, (SELECT count() FROM call_metrics FINAL) AS parties,
            (SELECT sum(negative_calls + neutral_calls + positive_calls) FROM call_terms WHERE term = '') AS calls""",
    )
    return [int(number) for number in found.values()]


def test_a_batch_that_is_inserted_again_adds_nothing(settings: Settings, topic: str, writer: Writer) -> None:
    writer.write(*EVENTS, partition=0)
    forget(settings, topic, 4, Persistent)
    assert count(settings, "utterances", final=False) == 20
    assert count(settings, "calls", final=False) == 2, "the start and the end"
    assert count(settings, "corrections", final=False) == 1
    assert counted(settings) == [20, 20, 1, 1]
    assert committed(settings, topic) == {}


def test_other_batches_after_a_crash_double_nothing(settings: Settings, topic: str, writer: Writer) -> None:
    writer.write(*EVENTS, partition=0)
    for batch_rows in (3, 5, 1_000):
        forget(settings, topic, batch_rows)
        assert count(settings, "utterances", final=False) == 20
        assert counted(settings) == [20, 20, 1, 1]
    found = rows(settings, "SELECT start_ms, text, speaker, role, role_confidence FROM utterances ORDER BY start_ms")
    who = {"speaker": "speaker-1", "role": "agent", "role_confidence": 0.75}
    assert found == [{"start_ms": 1_000 * at, "text": f"utterance {at}", **who} for at in range(20)]
    assert count(settings, "corrections") == 1
    (row,) = rows(settings, "SELECT revision, languages FROM calls FINAL")
    assert row == {"revision": 2, "languages": ["en"]}
    with sinking(Sink(settings, topic=topic)):
        until_committed(settings, topic, 0, len(EVENTS))
    assert count(settings, "utterances") == 20
    assert counted(settings) == [20, 20, 1, 1]


def test_what_was_counted_twice_is_counted_anew(settings: Settings, topic: str, writer: Writer) -> None:
    """Two sinks with the same partition at one time, or a replay of the topic by other means."""
    writer.write(*EVENTS, partition=0)
    forget(settings, topic, 3, Unaware)
    once = rows(settings, f"SELECT row FROM ({EVERYTHING_COUNTED}) ORDER BY row")
    forget(settings, topic, 5, Unaware)
    assert count(settings, "utterances") == 20
    assert counted(settings) != [20, 20, 1, 1], "otherwise this test shows nothing"
    with connect(settings) as client:
        assert set(rebuild(client)) == set(COUNTED)
    assert counted(settings) == [20, 20, 1, 1]
    assert rows(settings, f"SELECT row FROM ({EVERYTHING_COUNTED}) ORDER BY row") == once
    writer.write(score(call("d")), partition=0)
    with sinking(Sink(settings, topic=topic)):
        until_committed(settings, topic, 0, len(EVENTS) + 1)
    assert counted(settings) == [21, 21, 1, 1], "the new tables are fed, too"


def test_a_restart_goes_on_where_the_last_one_was(settings: Settings, topic: str, writer: Writer) -> None:
    for total in (10, 20):
        writer.write(*(score(call("c"), start_ms=at) for at in range(total - 10, total)), partition=0)
        with sinking(Sink(settings, topic=topic)):
            until_committed(settings, topic, 0, total)
        assert count(settings, "utterances", final=False) == total


def test_offsets_that_come_again_for_other_rows_are_inserted(
    kafka_bootstrap: str, settings: Settings, topic: str, writer: Writer
) -> None:
    """As after the broker's directory was deleted, or with a second cluster: the same topic begins at 0 again."""
    writer.write(score(call("before")), partition=0)
    with sinking(Sink(settings, topic=topic)):
        until(lambda: count(settings, "utterances") == 1, "the first row")
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.delete_topics([topic])[topic].result(10)

    def made_anew() -> bool:
        try:
            admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(10)
        except KafkaException:
            return False  # it is still being deleted
        return True

    until(made_anew, "the topic anew")
    Writer(kafka_bootstrap, topic).write(score(call("after")), partition=0)
    later = settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"group_prefix": f"{settings.kafka.group_prefix}-2"})}
    )
    with sinking(Sink(later, topic=topic)):
        until_committed(later, topic, 0, 1)
    assert [row["call_id"] for row in rows(settings, "SELECT call_id FROM utterances ORDER BY call_id")] == [
        "after",
        "before",
    ]


@pytest.fixture(autouse=True)
def nobody_waits() -> None:
    """The gauge is the process's: what an earlier sink left there says nothing."""
    sink.WAITING.set(0)


def waits() -> bool:
    return bool(sink.WAITING._value.get() == 1)


def test_clickhouse_away_at_the_start_and_in_the_middle_loses_nothing(
    kafka_bootstrap: str, topic: str, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "RETRY_S", (0.1, 0.5))
    server = ClickHouse(tmp_path, port=0)
    settings = settings_for(kafka_bootstrap, server.url)
    events = [score(call(f"c{at % 5}"), start_ms=at) for at in range(60)]
    try:
        with sinking(Sink(settings, topic=topic)) as thread:
            writer.write(*events[:20])
            until(waits, "the sink waits at its start")
            assert thread.is_alive()
            server.start()
            until(lambda: count(settings, "utterances") == 20, "what came before ClickHouse")
            assert not waits()
            server.stop()
            writer.write(*events[20:30])
            until(waits, "the sink waits in the middle")
            writer.write(*events[30:40])
            server.start()
            until(lambda: count(settings, "utterances") == 40, "what came while ClickHouse was away")
            until(lambda: not waits(), "the sink works again")
            server.stop()
            writer.write(*events[40:])
            until(waits, "the sink waits again")
        server.start()
        with sinking(Sink(settings, topic=topic)):
            until(lambda: count(settings, "utterances") == 60, "what a sink had read that was stopped while it waited")
        assert count(settings, "utterances", final=False) == 60
    finally:
        server.stop()


def test_a_sink_that_waits_can_be_stopped(kafka_bootstrap: str, topic: str, writer: Writer) -> None:
    settings = settings_for(kafka_bootstrap, "http://127.0.0.1:9")
    writer.write(score(call("c")), partition=0)
    with sinking(Sink(settings, topic=topic)):
        until(waits, "the sink waits")
    assert committed(settings, topic) == {}


class Watched(Sink):
    """Counts how often it was given partitions."""

    assignments = 0

    def _assign(self, consumer: Consumer, held: list[TopicPartition]) -> None:
        self.assignments += 1
        super()._assign(consumer, held)


def test_a_sink_that_waits_keeps_its_partitions_and_says_so(
    kafka_bootstrap: str, topic: str, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than Kafka waits for a member that does not poll. Then another member takes partitions from its hands."""
    monkeypatch.setattr(sink, "RETRY_S", (0.1, 0.5))
    server = ClickHouse(tmp_path, port=0)
    base = settings_for(kafka_bootstrap, server.url)
    impatient = {"max.poll.interval.ms": "3000", "session.timeout.ms": "3000", "heartbeat.interval.ms": "500"}
    settings = base.model_copy(update={"kafka": base.kafka.model_copy(update={"client": impatient})})
    waiting = Watched(settings, topic=topic)
    try:
        server.start()
        with sinking(waiting):
            assert waiting.health.serving.wait(90)
            assert waiting.health.readiness() == (True, {"ready": True, "partitions": [0, 1, 2]})
            server.stop()
            writer.write(*(score(call(f"c{at % 5}"), start_ms=at) for at in range(40)))
            until(waits, "the sink waits")
            ready, facts = waiting.health.readiness()
            assert not ready
            assert "ClickHouse does not answer: " in facts["waiting"]
            until(lambda: sink.LAG._value.get() >= 40, "the lag of what came, with the marks of its transaction")
            began = time.monotonic()
            until(lambda: time.monotonic() - began > 5, "longer than max.poll.interval.ms")
            assert waiting.assignments == 1, "it was thrown out of the group"
            assert sink.LAG_SECONDS._value.get() > 3
            assert waiting.health.alive()[0]
            other = Consumer(kafka.consumer(settings, **{"group.id": f"{settings.kafka.group_prefix}.sink"}))
            other.subscribe([topic])
            until(lambda: other.poll(0.1) is None and other.assignment(), "another member got partitions")
            assert waiting.assignments == 2
            other.close()
            until(lambda: waiting.assignments == 3, "the sink has them all again")
            server.start()
            until(lambda: count(settings, "utterances") == 40, "what came while ClickHouse was away")
            assert waiting.health.serving.wait(90)
            assert waiting.health.readiness() == (True, {"ready": True, "partitions": [0, 1, 2]})
            until(lambda: sink.LAG_SECONDS._value.get() == 0, "nothing waits for its insert")
        assert count(settings, "utterances", final=False) == 40
    finally:
        server.stop()


def test_a_broker_killed_under_the_sink_loses_and_doubles_nothing(tmp_path: Path, clickhouse_url: str) -> None:
    with Broker(tmp_path, port=0, jars=JARS) as broker:
        settings = settings_for(broker.bootstrap_servers, clickhouse_url)
        own = new_topic(broker.bootstrap_servers)
        writer = Writer(broker.bootstrap_servers, own)
        with sinking(Sink(settings, topic=own)):
            writer.write(*(score(call("c"), start_ms=at) for at in range(20)), partition=0)
            until(lambda: count(settings, "utterances") == 20, "what came before")
            broker.kill()
            until(lambda: not broker.running, "the broker is dead")
            broker.restart()
            until(broker.answers, "the broker answers", 60)
            writer.write(*(score(call("c"), start_ms=at) for at in range(20, 40)), partition=0)
            until_committed(settings, own, 0, 40)
            until(lambda: sink.LAG._value.get() == 0, "nothing is left to read")
        assert count(settings, "utterances", final=False) == 40


READABLE = encode(score(call("c"), start_ms=2_000))[1]
UNREADABLE: list[tuple[list[tuple[str, bytes]], bytes | None]] = [
    ([], b"{}"),
    ([("kind", b"nonsense")], b"{}"),
    ([("kind", b"\xff\xfe")], b"{}"),
    ([("kind", b"score")], None),
    ([("kind", b"score")], b"{not json"),
    ([("kind", b"score")], b'"\\ud800"'),
    ([("kind", b"score")], READABLE.replace(b'"channel":1', b'"channel":-1')),
    ([("kind", b"score")], READABLE.replace(b"2026-03-01T12:00:00Z", b"9999-12-31T23:59:59Z")),
    # What ClickHouse would take as another number, or as another time.
    ([("kind", b"score")], READABLE.replace(b'"channel":1', b'"channel":257')),
    ([("kind", b"score")], READABLE.replace(b'"start_ms":2000', b'"start_ms":4294967297')),
    ([("kind", b"score")], READABLE.replace(b"2026-03-01T12:00:00Z", b"2290-03-01T12:00:00Z")),
    ([("kind", b"score")], READABLE.replace(b'"redacted":{}', b'"redacted":{"card":4294967297}')),
]
assert len({value for _, value in UNREADABLE[-6:]}) == 6, "each says something else"


def test_an_unreadable_record_is_counted_named_and_passed_over(
    settings: Settings, topic: str, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    for headers, value in UNREADABLE:
        producer.produce(topic, value, b"c", 1, headers=[*headers])
    assert producer.flush(30) == 0
    late = score(call("c"), start_ms=1)
    producer.produce(topic, encode(late)[1], b"c", 1, headers=[("kind", b"score")])
    assert producer.flush(30) == 0
    before = sink.SKIPPED._value.get()
    caplog.set_level(logging.ERROR, "streams.sink")
    with sinking(Sink(settings, topic=topic)):
        until(lambda: count(settings, "utterances") == 1, "the row behind what cannot be read")
        until_committed(settings, topic, 1, len(UNREADABLE) + 1)
    named = [vars(record) for record in caplog.records if record.name == "streams.sink"]
    assert [(one["topic"], one["partition"], one["offset"]) for one in named] == [
        (topic, 1, offset) for offset in range(len(UNREADABLE))
    ]
    assert sink.SKIPPED._value.get() - before == len(UNREADABLE)
    (row,) = rows(settings, "SELECT start_ms, offset FROM utterances")
    assert row == {"start_ms": 1, "offset": len(UNREADABLE)}


def test_dead_letters_are_rows_that_their_markers_settle(kafka_bootstrap: str, settings: Settings, topic: str) -> None:
    letters = new_topic(kafka_bootstrap)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    about = {
        "stage": "asr",
        "topic": "speech.turns",
        "partition": "4",
        "offset": "70000000000",
        "exception.class.name": "builtins.ValueError",
        "exception.message": "it's 'no' audio; DROP TABLE calls",
    }
    errors: Headers = {f"__connect.errors.{name}": value.encode() for name, value in about.items()}
    at_ms = round(INFO.started_at.timestamp() * 1_000)
    kind, value = encode(FULL)
    producer.produce(letters, value, INFO.call_id.encode(), 1, timestamp=at_ms, headers={**dict(kind), **errors})
    producer.produce(letters, b"?", b"other", 1, timestamp=at_ms, headers=[])
    for fate, offset in (("redriven", 0), ("dropped", 7)):
        settles: Headers = {"calltide.settled": fate.encode(), "calltide.settles": str(offset).encode()}
        producer.produce(letters, b"", INFO.call_id.encode(), 1, timestamp=at_ms + 60_000, headers=settles)
    assert producer.flush(30) == 0
    with sinking(Sink(settings, topic=topic, dead_letters=letters)):
        until(lambda: count(settings, "dead_letters") == 3, "two letters, and a marker of one that is gone")
    full, bare, marker = rows(settings, "SELECT * FROM dead_letters FINAL ORDER BY dlq_offset")
    assert full == {
        "dlq_topic": letters,
        "dlq_partition": 1,
        "dlq_offset": 0,
        "failed_at": "2026-03-01 12:00:00.123",
        "stage": "asr",
        "topic": "speech.turns",
        "partition": 4,
        "offset": 70_000_000_000,
        "tenant": INFO.tenant,
        "call_id": INFO.call_id,
        "kind": "score",
        "error": "builtins.ValueError",
        "message": "it's 'no' audio; DROP TABLE calls",
        "settled": "redriven",
        "settled_at": "2026-03-01 12:01:00.123",
    }
    assert (bare["call_id"], bare["stage"], bare["partition"], bare["settled"]) == ("other", "", None, "")
    assert (marker["dlq_offset"], marker["settled"]) == (7, "dropped")


def test_what_is_made_of_scores_has_tables_of_its_own(settings: Settings, topic: str, kafka_bootstrap: str) -> None:
    """The newest figures of each party, every alert and category. The marks of calls that pass there are no calls."""
    made = new_topic(kafka_bootstrap)
    found = {
        "call": INFO, "rule": "angry", "category": "angry customer", "at_ms": 4_000, "raised_at": INFO.started_at,
        "rules_version": "abc", "pipeline_version": "v1",
        "evidence": [
            {"identity": f"{INFO.call_id}/1/3000", "channel": 1, "start_ms": 3_000, "end_ms": 4_000,
             "speaker": "customer", "role": "customer", "text": "no!"}
        ],
    }  # fmt: skip
    alert = Alert.model_validate(found | {"severity": "critical", "message": "it's three times 'no'"})
    said = {"text": "it's 'no'; DROP TABLE calls", "evidence": found["evidence"]}
    insights = Insights.model_validate({
        "call": INFO, "engine": "extractive", "state": "ok", "ended_at": INFO.started_at, "duration_ms": 9_000,
        "summary": [said], "reason": said, "issues": [said | {"name": "billing"}], "utterances": 7,
        "topics": [{"path": ["Billing", "Bill too high"], "similarity": 0.75, "evidence": found["evidence"]}],
        "resolution": {"resolved": "no", "evidence": found["evidence"]}, "pipeline_version": "v1",
    })  # fmt: skip
    chosen = insights.topics[0].model_copy(update={"similarity": None})
    of_a_model = insights.model_copy(update={"engine": "llm:small", "topics": (chosen,), "tokens_in": 900})
    failed = Insights.model_validate(
        insights.model_dump(exclude=set(Findings.model_fields)) | {"engine": "llm:large", "state": "failed", "why": "?"}
    )
    item = {"points": 2, "why": "customer at 0:03: “it's 'no'”", "evidence": found["evidence"]}
    card = Evaluation.model_validate({
        "call": INFO, "ended_at": INFO.started_at, "duration_ms": 9_000, "language": "en", "form": "it's a form",
        "form_version": "abc", "state": "ok", "score": 87.5, "judged": 0.75, "pipeline_version": "v1",
        "sections": [
            {"name": "greeting", "weight": 10, "score": 87.5, "items": [item | {"name": "greets", "earned": 2}]},
            {"name": "closing", "weight": 5, "score": None, "items": [item | {"name": "leaves", "earned": None}]},
        ],
    })  # fmt: skip
    unfit = card.model_copy(update={"form": "b", "state": "too_short", "score": None, "judged": 0.0, "sections": ()})
    warned = metrics(call("warned"), 2_000).model_copy(update={"outlook": Outlook(negative=0.5, model="outcome-abc")})
    with sinking(Sink(settings, topic=topic, others=[made])):
        Writer(kafka_bootstrap, made).write(
            warned, card, unfit, card, started(INFO), metrics(INFO, 1_000, 300), metrics(INFO, 2_000, 1_300), alert,
            Categorised.model_validate(found), insights, of_a_model, failed, of_a_model,
            metrics(INFO, 9_000, 0, final=True), ended(INFO), partition=1,
        )  # fmt: skip
        until(lambda: rows(settings, "SELECT 1 FROM call_progress FINAL WHERE final"), "the last figures")
    expected, progress = rows(settings, "SELECT * FROM call_progress_now ORDER BY final")
    assert (expected["call_id"], expected["outlook"], expected["outlook_model"]) == ("warned", 0.5, "outcome-abc")
    assert (progress["outlook"], progress["outlook_model"]) == (None, "")
    assert (progress["at_ms"], progress["final"], progress["silence_now_ms"]) == (9_000, True, 0)
    assert (progress["quarters"], progress["emotion_ms"]) == ([None, -1.0, None, None], {"anger": 500})
    assert progress["dead_air"] == [{"start_ms": 1_000, "end_ms": 7_000}]
    assert (progress["response_ms"], progress["interrupted"], progress["hold_ms"]) == (None, 1, None)
    (row,) = rows(settings, "SELECT * FROM alerts FINAL")
    assert (row["severity"], row["text"], row["role"]) == ("critical", "it's three times 'no'", "customer")
    assert (row["at_ms"], row["at"], row["queue"]) == (4_000, "2026-03-01 12:00:00.123", INFO.queue)
    (category,) = rows(settings, "SELECT * FROM call_categories FINAL")
    assert category["utterances"] == row["utterances"] == [{"channel": 1, "start_ms": 3_000}]
    assert (category["category"], category["rules_version"]) == ("angry customer", "abc")
    assert rows(settings, "SELECT engine, similarities FROM insights FINAL ORDER BY engine") == [
        {"engine": "extractive", "similarities": [0.75]},
        {"engine": "llm:large", "similarities": []},
        {"engine": "llm:small", "similarities": [None]},
    ]
    (best,) = rows(settings, "SELECT * FROM call_insights")
    assert (best["engine"], best["state"]) == ("llm:small", "ok"), "a model's, where it could say something"
    (told,) = rows(settings, "SELECT * FROM insights FINAL WHERE engine = 'extractive'")
    assert (told["summary"], told["reason"], told["outcome"]) == ([said["text"]], said["text"], "")
    assert (told["topics"], told["similarities"], told["issues"]) == (["Billing > Bill too high"], [0.75], ["billing"])
    assert (told["resolved"], told["utterances"], told["action_items"]) == ("no", 7, 0)
    assert Findings.model_validate_json(told["findings"]).resolution == insights.resolution
    none, filled = rows(settings, "SELECT * FROM evaluations FINAL ORDER BY form")
    assert (none["state"], none["score"], none["sections.score"]) == ("too_short", None, [])
    assert (filled["form"], filled["form_version"], filled["score"]) == ("it's a form", "abc", 87.5)
    assert (filled["sections.name"], filled["sections.score"]) == (["greeting", "closing"], [87.5, None])
    assert (filled["agent"], filled["sections.weight"], filled["judged"]) == (INFO.agent, [10, 5], 0.75)
    assert json.loads(filled["items"]) == card.model_dump(mode="json", include={"sections"})
    assert count(settings, "calls") == 0


def test_migrations_are_applied_once(settings: Settings) -> None:
    assert migrate(settings) == [f"applied {path.name}" for path in sorted(sink.MIGRATIONS.glob("*.sql"))]
    assert migrate(settings) == []


def test_a_database_that_cannot_be_migrated_ends_the_sink(
    settings: Settings, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(settings)
    for path in sink.MIGRATIONS.glob("*.sql"):
        (tmp_path / path.name).write_text(path.read_text() + "\n")
    monkeypatch.setattr(sink, "MIGRATIONS", tmp_path)
    with pytest.raises(CalltideError, match="was edited after it was applied"):
        Sink(settings, topic=topic).run(threading.Event())
