"""Which calls a replay takes, and how their records come into its topics. tests/chain/test_replay.py has the rest."""

import hashlib
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.topics import Topics
from processors.base import Output
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, CallStarted, Progress
from schemas.topics import BATCH_FRAMES, DEAD_LETTERS, DEFAULT_PARTITIONS, FRAMES, SCORES, TOPICS, stage
from streams import kafka
from streams.archive import Archive
from streams.archiving import archive, forget
from streams.dead_letters import REDRIVEN
from streams.replay import feed as feeds
from streams.replay import plan as plans
from streams.replay.feed import Feed
from streams.replay.plan import Plan, Survey, Wish
from streams.replay.run import remove
from streams.settings import Settings
from streams.sink import _insert_rows, call_row, connect, migrate, utterance_row
from tests.scripted import call, ended, score
from tests.workers import Found, everything

pytestmark = pytest.mark.kafka

NOW = datetime.now(UTC).replace(microsecond=0)


class History:
    """Calls of a tenant of its own, as live work has left them on the topics of audio and of scores."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tenant = f"tenant-{uuid.uuid4().hex[:8]}"
        self.producer = Producer(kafka.producer(settings))

    def call(
        self, name: str, ago_s: int, seconds: int = 10, *, ended: bool = True, queue: str = "", frames: str = FRAMES
    ) -> str:
        """A call that began so long ago; returns its id. A mark and a packet for each second of it."""
        info = CallInfo(
            call_id=f"{name}-{self.tenant}",
            started_at=NOW - timedelta(seconds=ago_s),
            roles=("customer",),
            tenant=self.tenant,
            queue=queue,
        )
        begun_ms = round(info.started_at.timestamp() * 1_000)
        events = [(0, Output.of(CallStarted(call=info)))]
        events += [(at, Output.of(Progress(call=info, at_ms=at))) for at in range(1_000, seconds * 1_000, 1_000)]
        if ended:
            end = CallEnded(
                call=info,
                duration_ms=seconds * 1_000,
                ended_at=info.started_at + timedelta(seconds=seconds),
                reason="hangup",
            )
            events.append((seconds * 1_000, Output.of(end)))
        for topic in (frames, SCORES):
            for at, output in events:
                headers: list[tuple[str, str | bytes | None]] = [*output.headers]
                self.producer.produce(topic, output.value, info.call_id, headers=headers, timestamp=begun_ms + at)
        assert self.producer.flush(30) == 0
        return info.call_id

    def survey(self, **wish: object) -> Survey:
        """Of this tenant."""
        return plans.survey(self.settings, Wish(tenants=frozenset({self.tenant}), **wish), stage("vad"))  # type: ignore[arg-type]

    def plan(self, found: Survey, **more: object) -> Plan:
        """A replay of what was found."""
        fields: dict[str, object] = {
            "name": f"r{uuid.uuid4().hex[:8]}",
            "version": "v2",
            "from_stage": "vad",
            "to_stage": "sentiment",
            "overrides": {},
            "speed": None,
            "workers": 1,
            "keep": False,
            "created_at": datetime.now(UTC),
            "partitions": found.partitions,
            "calls": tuple(found.calls),
            "archived": found.archived,
            "sources": found.sources,
        }
        return Plan.model_validate(fields | more)


@pytest.fixture
def settings(kafka_bootstrap: str, tmp_path: Path) -> Settings:
    Topics(kafka_bootstrap).create([topic for topic in TOPICS if topic.name in (FRAMES, BATCH_FRAMES, SCORES)])
    base = Settings(home=tmp_path / "home")
    own = {"bootstrap_servers": kafka_bootstrap, "group_prefix": f"test-{uuid.uuid4().hex[:8]}"}
    return base.model_copy(update={"kafka": base.kafka.model_copy(update=own)})


@pytest.fixture
def history(settings: Settings) -> Iterator[History]:
    yield History(settings)


def ids(found: Survey) -> list[str]:
    return [call.call_id for call in found.calls]


def ms_ago(seconds: int) -> int:
    return round((NOW - timedelta(seconds=seconds)).timestamp() * 1_000)


def test_calls_over_the_edges_of_the_time_are_taken_whole(history: History) -> None:
    history.call("before", 9_000)
    over_start = history.call("over-start", 7_210, 20)
    inside = history.call("inside", 5_000)
    over_end = history.call("over-end", 3_610, 20)
    history.call("after", 3_000)
    found = history.survey(since_ms=ms_ago(7_200), until_ms=ms_ago(3_600))
    assert ids(found) == [over_start, inside, over_end]
    assert [call.duration_ms for call in found.calls] == [20_000, 10_000, 20_000]
    copied = copy(history, history.plan(found))
    assert {call: len(records) for call, records in copied.items()} == {over_start: 21, inside: 11, over_end: 21}


def test_a_call_that_goes_on_is_named_and_left_out(history: History) -> None:
    ended, running = history.call("ended", 100), history.call("running", 100, ended=False)
    found = history.survey()
    assert (ids(found), found.running) == ([ended], [running])
    assert history.survey(until_ms=ms_ago(200)).running == []


def test_calls_by_name_and_queue(history: History) -> None:
    sales, billing = history.call("one", 100, queue="sales"), history.call("two", 100, queue="billing")
    assert ids(history.survey(queues=frozenset({"sales"}))) == [sales]
    assert ids(history.survey(calls=frozenset({billing}))) == [billing]


def test_a_call_whose_beginning_is_gone_is_named_and_left_out(history: History, settings: Settings) -> None:
    old, new = history.call("old", 9_000), history.call("new", 500)
    (place,) = {record.partition for record in records_of(settings, FRAMES) if record.key == old}
    start = next(record.offset for record in records_of(settings, FRAMES) if record.key == old)
    admin = AdminClient(kafka.client(settings))
    for future in admin.delete_records([TopicPartition(FRAMES, place, start + 1)]).values():
        future.result(30)
    found = history.survey()
    assert (ids(found), found.beheaded) == ([new], [old])


def test_a_call_of_bulk_work_has_its_beginning_in_the_other_lane(history: History, settings: Settings) -> None:
    """A topic whose oldest records are gone says nothing of calls that lie in another."""
    bulk = history.call("bulk", 8_000, frames=BATCH_FRAMES)
    live = history.call("live", 100)
    admin = AdminClient(kafka.client(settings))
    for number in range(DEFAULT_PARTITIONS):
        last = [record.offset for record in records_of(settings, FRAMES) if record.partition == number]
        if last and live not in {record.key for record in records_of(settings, FRAMES) if record.partition == number}:
            for future in admin.delete_records([TopicPartition(FRAMES, number, last[-1] + 1)]).values():
                future.result(30)
    found = history.survey()
    assert (ids(found), found.beheaded) == ([bulk, live], [])
    plan = history.plan(found)
    assert {row.lane for row in plan.stages} == {"live", "batch"}
    assert set(copy(history, plan)) == {bulk, live}


def records_of(settings: Settings, topic: str) -> list[Found]:
    return everything(settings.bootstrap_servers, topic, DEFAULT_PARTITIONS).found


def copy(history: History, plan: Plan, stop_after: int | None = None) -> dict[str, list[Found]]:
    """Feed until all is copied, or so much; call id → its records in the topics of the replay."""
    topics = plan.topics()
    Topics(history.settings.bootstrap_servers).create(topics)
    stop, feed = threading.Event(), Feed(history.settings, plan)

    def enough() -> bool:
        if stop_after is not None and feed.copied >= stop_after:
            stop.set()
        return False

    feed.run(stop, enough)
    assert feed.done == (stop_after is None)
    found: dict[str, list[Found]] = {}
    for row in {row.reads: row for row in plan.stages if row.name == plan.from_stage}.values():
        for record in records_of(history.settings, row.reads):
            if record.headers.get("kind") == b"no_more":
                continue
            found.setdefault(record.key, []).append(record)
    return found


def original(history: History, call_id: str) -> list[Found]:
    return [record for record in records_of(history.settings, FRAMES) if record.key == call_id]


def as_sent(records: list[Found]) -> list[tuple[int, int, dict[str, bytes], bytes | None]]:
    return [(record.partition, record.timestamp_ms, record.headers, record.value) for record in records]


def test_a_copy_has_the_records_of_its_calls_alone_in_order_and_time(history: History) -> None:
    wanted = [history.call("one", 900), history.call("two", 890)]
    history.call("not-wanted", 895)
    copied = copy(history, history.plan(history.survey(calls=frozenset(wanted))))
    assert sorted(copied) == sorted(wanted)
    for call_id in wanted:
        assert as_sent(copied[call_id]) == as_sent(original(history, call_id))


@pytest.mark.parametrize("speed", [None, 500.0])
def test_a_copy_that_was_stopped_goes_on_where_it_was(
    history: History, monkeypatch: pytest.MonkeyPatch, speed: float | None
) -> None:
    monkeypatch.setattr(feeds, "MOST", 7)
    names = [history.call(f"call-{number}", 900 - number) for number in range(5)]
    plan = history.plan(history.survey(), speed=speed)
    begun = copy(history, plan, stop_after=20)
    assert 20 <= sum(map(len, begun.values())) < 55, "it was stopped in the middle"
    copied = copy(history, plan)
    for call_id in names:
        assert as_sent(copied[call_id]) == as_sent(original(history, call_id))


def test_what_a_dead_letter_was_redriven_to_is_not_replayed_twice(history: History, settings: Settings) -> None:
    call_id = history.call("one", 100)
    last = original(history, call_id)[-1]
    headers: list[tuple[str, str | bytes | None]] = [*last.headers.items(), (REDRIVEN, b"0:1")]
    history.producer.produce(FRAMES, last.value, call_id, headers=headers, timestamp=last.timestamp_ms)
    assert history.producer.flush(30) == 0
    copied = copy(history, history.plan(history.survey()))
    assert as_sent(copied[call_id]) == as_sent(original(history, call_id)[:-1])


def test_a_plan_is_found_again_and_its_name_is_taken_until_it_is_removed(
    history: History, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "PIECE", 100)
    history.call("one", 100)
    plan = history.plan(history.survey())
    plans.save(settings, plan)
    assert plans.find(settings, plan.name) == plan
    with pytest.raises(CalltideError, match=f"there is a replay {plan.name}; go on with it by `calltide replay resume"):
        plans.save(settings, plan)
    remove(settings, plan.name)
    with pytest.raises(CalltideError, match=f"there is no replay {plan.name}; of what was not removed"):
        plans.find(settings, plan.name)
    with pytest.raises(CalltideError, match=f"there is no replay {plan.name}; `calltide replay list`"):
        remove(settings, plan.name)


def test_a_replay_touches_no_topic_and_no_group_of_live_work(history: History) -> None:
    history.call("one", 100)
    plan = history.plan(history.survey())
    live = {topic.name for topic in TOPICS}
    assert not live & {topic.name for topic in plan.topics()}
    for row in plan.stages:
        own = (row.id, row.reads, row.writes, row.state_topic, row.dead_letters)
        assert all(name.startswith(f"replay.{plan.name}.") for name in own)
    assert all(topic.retention_ms == -1 for topic in plan.topics()), "old records would be deleted"


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [("ears", "sentiment", "no stage ears"), ("asr", "vad", "vad comes before asr")],
)
def test_stages_that_are_none_are_said(first: str, last: str, words: str) -> None:
    with pytest.raises(CalltideError, match=words):
        plans.between(first, last)


def behead(history: History, settings: Settings, call_id: str) -> None:
    """Kafka deletes what it has of a call, and what lies before it."""
    records = original(history, call_id)
    admin = AdminClient(kafka.client(settings))
    place = TopicPartition(FRAMES, records[0].partition, records[-1].offset + 1)
    for future in admin.delete_records([place]).values():
        future.result(30)


def test_what_kafka_has_no_more_comes_from_the_archive(history: History, settings: Settings) -> None:
    old, new = history.call("old", 9_000), history.call("new", 500)
    sent = as_sent(original(history, old))
    wish = Wish(tenants=frozenset({history.tenant}))
    done = archive(settings, wish)
    assert (done.calls, done.before, done.failed) == (2, 0, {})
    again = archive(settings, wish)
    assert (again.calls, again.before) == (0, 2)
    behead(history, settings, old)
    found = history.survey()
    assert (ids(found), found.beheaded) == ([new], [old])
    plans.with_archive(settings, wish, found)
    assert (ids(found), found.beheaded, found.archived) == ([old, new], [], {old: "live"})
    plan = history.plan(found)
    plans.save(settings, plan)
    assert as_sent(copy(history, plan)[old]) == sent
    assert as_sent(copy(history, plan)[old]) == sent, "a replay that goes on feeds no call twice"


def test_what_is_damaged_in_the_archive_is_named_and_the_rest_replayed(history: History, settings: Settings) -> None:
    old, bad = history.call("old", 9_000), history.call("bad", 8_900)
    wish = Wish(tenants=frozenset({history.tenant}))
    archive(settings, wish)
    for call_id in (old, bad):
        behead(history, settings, call_id)
    name = hashlib.sha256(bad.encode()).hexdigest()
    (path,) = (settings.directory / "archive").rglob(f"{name}.json")
    path.write_text("[]")
    found = history.survey()
    plans.with_archive(settings, wish, found)
    assert ids(found) == [old]
    assert [name in fault for fault in found.damaged] == [True]


def test_a_call_is_forgotten(history: History, settings: Settings, clickhouse_url: str) -> None:
    own = {"url": clickhouse_url, "database": f"c{uuid.uuid4().hex}"}
    settings = settings.model_copy(update={"clickhouse": settings.clickhouse.model_copy(update=own)})
    migrate(settings)
    Topics(settings.bootstrap_servers).create([topic for topic in TOPICS if topic.name == DEAD_LETTERS])
    one, other = history.call("one", 500), history.call("other", 400)
    archive(settings, Wish(tenants=frozenset({history.tenant})))
    with connect(settings) as client:
        for call_id in (one, other):
            of = call(call_id, NOW)
            _insert_rows(client, "utterances_heard", [utterance_row(score(of, 0), "scores", 0, 1)], call_id)
            _insert_rows(client, "calls", [call_row(ended(of), "v1")], call_id)
        done = forget(settings, one)
        assert [words.split(" ", 1)[1] for words in done.removed] == [
            f"files of the archive {settings.directory / 'archive'}",
            "rows of call_metrics",
            "rows of utterances_heard",
            "rows of calls",
        ]
        assert any("Kafka's topics until" in words for words in done.left)
        assert any("`calltide migrate --rebuild`" in words for words in done.left)
        for table in ("calls", "utterances_heard", "call_metrics"):
            assert client.query(f"SELECT DISTINCT call_id FROM {table}").result_rows == [(other,)]
    store = Archive(settings)
    assert store.find(one) is None
    assert store.find(other) is not None
    with pytest.raises(CalltideError, match="nothing is known of a call"):
        forget(settings, one)
