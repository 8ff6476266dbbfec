"""Which calls a replay takes, and how their records come into its topics. tests/chain/test_replay.py has the rest."""

import hashlib
import re
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition, murmur2
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
from streams.replay.command import _there_is
from streams.replay.feed import Feed
from streams.replay.plan import Plan, Survey, Wish
from streams.replay.run import Replay, locked, remove
from streams.rows import call_row, utterance_row
from streams.settings import Settings
from streams.sink import _insert_rows, connect, migrate
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

    def name_in(self, partition: int, beyond: int = 0) -> str:
        """A name, a number beyond that one, whose call comes into this partition."""
        return next(
            name for name in map(str, range(beyond, 10_000)) if partition_of(f"{name}-{self.tenant}") == partition
        )

    def call(
        self,
        name: str,
        ago_s: int,
        seconds: int = 10,
        *,
        ended: bool = True,
        queue: str = "",
        frames: str = FRAMES,
        idle: bool = False,
    ) -> str:
        """A call that began so long ago; returns its id. A mark and a packet for each second of it. `idle`: it fell
        silent, so that only the scores have an end."""
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
                ended_at=info.started_at + timedelta(seconds=seconds - idle),
                reason="idle" if idle else "hangup",
            )
            events.append((seconds * 1_000, Output.of(end)))
        for topic in (frames, SCORES):
            for at, output in events[:-1] if idle and topic == frames else events:
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
            "to_stage": "vad",
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
    Topics(kafka_bootstrap).create(
        [topic for topic in TOPICS if topic.name in (FRAMES, BATCH_FRAMES, SCORES, DEAD_LETTERS)]
    )
    base = Settings(home=tmp_path / "home")
    own = {"bootstrap_servers": kafka_bootstrap, "group_prefix": f"test-{uuid.uuid4().hex[:8]}"}
    return base.model_copy(update={"kafka": base.kafka.model_copy(update=own)})


@pytest.fixture
def history(settings: Settings) -> Iterator[History]:
    yield History(settings)


def partition_of(call_id: str) -> int:
    """Where the project's producers put a call: Kafka's own murmur2 of the key."""
    return murmur2(call_id.encode(), DEFAULT_PARTITIONS)


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


def test_recordings_read_in_later_lie_behind_newer_calls_and_are_found(history: History) -> None:
    """They have the times of their calls, so the times of a partition do not rise."""
    newer = history.call("newer", 3_000)
    name = history.name_in(partition_of(newer))
    read_in_later = history.call(name, 5_000)
    assert ids(history.survey(since_ms=ms_ago(7_200), until_ms=ms_ago(3_600))) == [read_in_later]


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
    plan = history.plan(history.survey(), to_stage="sentiment")
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


def test_what_the_archive_gives_is_not_taken_from_kafka_too(history: History, settings: Settings) -> None:
    """Kafka has the end of the call, and the archive all of it."""
    old = history.call("old", 9_000)
    other = history.call(history.name_in(partition_of(old)), 8_995)
    sent = as_sent(original(history, old))
    wish = Wish(tenants=frozenset({history.tenant}))
    archive(settings, wish)
    start = original(history, old)[0]
    cut_off(settings, start.partition, start.offset + 3)
    found = history.survey()
    plans.with_archive(settings, wish, found)
    assert (ids(found), found.archived) == ([old, other], {old: "live"})
    plan = history.plan(found)
    plans.save(settings, plan)
    copied = copy(history, plan)
    assert as_sent(copied[old]) == sent
    assert as_sent(copied[other]) == as_sent(original(history, other))


def test_damaged_audio_is_named_and_the_rest_fed(history: History, settings: Settings) -> None:
    old, bad = history.call("old", 9_000), history.call("bad", 8_900)
    wish = Wish(tenants=frozenset({history.tenant}))
    archive(settings, wish)
    for call_id in (old, bad):
        behead(history, settings, call_id)
    found = history.survey()
    plans.with_archive(settings, wish, found)
    plan = history.plan(found)
    plans.save(settings, plan)
    kept = Archive(settings).find(bad)
    assert kept is not None
    (path,) = (settings.directory / "archive").rglob(kept.objects["records"])
    path.write_bytes(path.read_bytes()[:-1])
    feed = Feed(settings, plan)
    Topics(settings.bootstrap_servers).create(plan.topics())
    feed.run(threading.Event())
    assert feed.done
    assert feed.damaged.keys() == {bad}
    assert f"{kept.objects['records']} is damaged" in feed.damaged[bad]
    assert {record.key for record in records_of(settings, plan.firsts[0].reads)} == {old, ""}


def cut_off(settings: Settings, partition: int, offset: int, topic: str = FRAMES) -> None:
    """Kafka deletes what lies before."""
    admin = AdminClient(kafka.client(settings))
    for future in admin.delete_records([TopicPartition(topic, partition, offset)]).values():
        future.result(30)


def delete_all(settings: Settings) -> None:
    """Kafka deletes the audio of all calls, those of other tests too."""
    for lane in (FRAMES, BATCH_FRAMES):
        numbers = range(DEFAULT_PARTITIONS)
        for number, (_, end) in kafka.ranges(AdminClient(kafka.client(settings)), lane, numbers, 30).items():
            cut_off(settings, number, end, lane)


def test_what_kafka_deletes_while_it_is_replayed_is_told(history: History, settings: Settings) -> None:
    """And what is deleted of other calls does not matter."""
    history.call(history.name_in(3), 9_000)
    one = history.call(history.name_in(3, 1_000), 500)
    plan = history.plan(history.survey(calls=frozenset({one})))
    place = plan.sources[FRAMES][plan.calls[0].partition]
    start = original(history, one)[0]
    earlier = plan.model_copy(
        update={"sources": {FRAMES: {start.partition: place._replace(first=max(start.offset - 5, 0))}}}
    )
    cut_off(settings, start.partition, start.offset)
    assert as_sent(copy(history, earlier)[one]) == as_sent(original(history, one))
    cut_off(settings, start.partition, start.offset + 3)
    again = plan.model_copy(update={"name": f"{plan.name}b", "created_at": datetime.now(UTC)})
    with pytest.raises(CalltideError, match=f"Kafka has deleted records of call {one} from audio.frames meanwhile"):
        copy(history, again)


def test_calls_of_one_name_are_replayed_together_or_as_the_time_says(history: History) -> None:
    """Whoever gives a name a second time: all of both, or all of one."""
    same = history.call("same", 8_900)
    neighbour = history.call(history.name_in(partition_of(same)), 9_000)
    history.call("same", 5_000, 20)
    found = history.survey()
    assert ids(found) == [neighbour, same]
    assert as_sent(copy(history, history.plan(found))[same]) == as_sent(original(history, same))
    found = history.survey(since_ms=ms_ago(5_400))
    assert [(call.call_id, call.duration_ms) for call in found.calls] == [(same, 20_000)]
    # Begun early for another call, it comes by the first one.
    wide = history.plan(history.survey(), calls=(history.survey(calls=frozenset({neighbour})).calls[0], found.calls[0]))
    assert as_sent(copy(history, wide)[same]) == as_sent(original(history, same)[11:])


def test_a_call_that_fell_silent_is_copied_and_marked_as_at_its_end(history: History, settings: Settings) -> None:
    silent = history.call("silent", 500, idle=True)
    found = history.survey()
    assert [(call.call_id, call.idle) for call in found.calls] == [(silent, True)]
    plan = history.plan(found)
    assert as_sent(copy(history, plan)[silent]) == as_sent(original(history, silent))
    marks = [record for record in records_of(settings, plan.firsts[0].reads) if record.headers["kind"] == b"no_more"]
    assert sorted(record.partition for record in marks) == [*range(DEFAULT_PARTITIONS)]


def test_a_paced_replay_begins_with_the_call_that_began_first(history: History) -> None:
    """Wherever it lies: calls of different partitions come as far from each other as they were."""
    first = history.call(history.name_in(5), 9_000)
    history.call(history.name_in(1), 300)
    found = history.survey()
    begun = copy(history, history.plan(found, speed=10.0), stop_after=1)
    assert {call for call, records in begun.items() if records} == {first}


def test_the_topics_of_a_replay_are_as_many_parts_as_what_it_reads(history: History, settings: Settings) -> None:
    """Whatever the settings say by now."""
    history.call("one", 100)
    plan = history.plan(history.survey())
    assert settings.kafka.partitions == DEFAULT_PARTITIONS
    fewer = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"partitions": 2})})
    found = plans.survey(fewer, Wish(tenants=frozenset({history.tenant})), stage("vad"))
    assert found.partitions == DEFAULT_PARTITIONS
    assert {topic.partitions for topic in plan.topics() if topic.name != plans.plan_topic(plan.name).name} == {
        DEFAULT_PARTITIONS
    }


def test_of_two_that_begin_one_replay_one_does(history: History, settings: Settings) -> None:
    history.call("one", 100)
    plan = history.plan(history.survey())
    said: list[str] = []

    def begin() -> None:
        try:
            plans.save(settings, plan)
        except CalltideError as error:
            said.append(str(error))

    both = [threading.Thread(target=begin) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [words.partition(";")[0] for words in said] == [f"there is a replay {plan.name}"]
    assert plans.find(settings, plan.name) == plan


def test_a_replay_that_runs_is_neither_resumed_nor_removed(history: History, settings: Settings) -> None:
    history.call("one", 100)
    plan = history.plan(history.survey())
    plans.save(settings, plan)
    (settings.directory / "run").mkdir(parents=True)
    lock = locked(settings, plan.name)
    with pytest.raises(CalltideError, match=f"replay {plan.name} is running; stop it by Ctrl-C"):
        remove(settings, plan.name)
    with pytest.raises(CalltideError, match=f"replay {plan.name} is running"), Replay(settings, plan):
        raise AssertionError("it runs twice")
    lock.release()
    remove(settings, plan.name)


def test_another_machine_that_goes_on_with_a_replay_takes_it_over(history: History, settings: Settings) -> None:
    history.call("one", 100)
    plan = history.plan(history.survey())
    Topics(settings.bootstrap_servers).create(plan.topics())
    stop, begun, taken = threading.Event(), threading.Event(), threading.Event()
    said: list[str] = []

    def hold() -> bool:
        begun.set()
        return not taken.is_set()

    def run() -> None:
        try:
            Feed(settings, plan).run(stop, hold)
        except CalltideError as error:
            said.append(str(error))

    first = threading.Thread(target=run)
    first.start()
    assert begun.wait(60)
    second = Feed(settings, plan)
    second.run(stop)
    taken.set()
    first.join(60)
    assert second.done
    assert said == [f"replay {plan.name} is run by another program now; leave it to that"]


def test_what_is_left_of_a_replay_that_is_being_removed_is_not_worked_with(
    history: History, settings: Settings
) -> None:
    history.call("one", 100)
    plan = history.plan(history.survey())
    plans.save(settings, plan)
    plans.end(settings, plan.name)
    with pytest.raises(CalltideError, match=f"replay {plan.name} is being removed; `calltide replay drop"):
        plans.find(settings, plan.name)
    remove(settings, plan.name)


def test_a_range_without_calls_is_told_from_when_on_there_are_some(history: History, settings: Settings) -> None:
    call_id = history.call("one", 9_000)
    archive(settings, Wish(tenants=frozenset({history.tenant})))
    begun = f"{NOW - timedelta(seconds=9_000):%Y-%m-%d %H:%M:%S} UTC"
    said = _there_is(settings, stage("vad"))
    held = f"the archive {settings.directory / 'archive'} has 1 calls that began from {begun} to {begun}"
    oldest = re.fullmatch(rf"Kafka has whole calls from (.*) UTC on; {re.escape(held)}", said)
    assert oldest
    assert datetime.fromisoformat(oldest[1]).replace(tzinfo=UTC) < NOW
    delete_all(settings)
    assert _there_is(settings, stage("vad")) == f"Kafka has no whole call; {held}"
    found = history.survey()
    assert (ids(found), found.beheaded, found.complete_since_ms) == ([], [call_id], None)


def test_a_dry_run_tells_how_much_there_is_to_read(history: History, settings: Settings) -> None:
    history.call("one", 100)
    found = history.survey()
    records, size = plans.size(settings, found)
    assert records >= 11
    assert size >= sum(len(record.value or b"") for record in original(history, ids(found)[0]))


def test_the_archive_is_not_asked_for_what_kafka_has(history: History, settings: Settings) -> None:
    """It may be large and far away."""
    delete_all(settings)
    for at in range(60):
        history.call(f"old-{at}", 9_000)
    history.call("new", 100)
    own = settings.archive.model_copy(update={"key": "whoever opens the archive hears that this is no key"})
    away = settings.model_copy(update={"archive": own})
    found = history.survey(since_ms=ms_ago(200))
    plans.with_archive(away, Wish(since_ms=ms_ago(200)), found)
    with pytest.raises(CalltideError, match="CALLTIDE_ARCHIVE__KEY is no key"):
        plans.with_archive(away, Wish(), found)


def test_a_call_is_forgotten(history: History, settings: Settings, clickhouse_url: str) -> None:
    own = {"url": clickhouse_url, "database": f"c{uuid.uuid4().hex}"}
    settings = settings.model_copy(update={"clickhouse": settings.clickhouse.model_copy(update=own)})
    migrate(settings)
    Topics(settings.bootstrap_servers).create([topic for topic in TOPICS if topic.name == DEAD_LETTERS])
    one, other = history.call("one", 500), history.call("other", 400)
    archive(settings, Wish(tenants=frozenset({history.tenant})))
    with connect(settings) as client:
        letter = {
            "dlq_topic": DEAD_LETTERS,
            "dlq_partition": 0,
            "dlq_offset": 1,
            "call_id": one,
            "message": "its words",
        }
        _insert_rows(client, "dead_letters", [letter], "letter")
        for call_id in (one, other):
            of = call(call_id, NOW)
            _insert_rows(client, "utterances_heard", [utterance_row(score(of, 0), "scores", 0, 1)], call_id)
            _insert_rows(client, "calls", [call_row(ended(of), "v1")], call_id)
        done = forget(settings, one)
        assert [words.split(" ", 1)[1] for words in done.removed] == [
            f"files of the archive {settings.directory / 'archive'}",
            "rows of dead_letters",
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
    found = history.survey()
    assert (ids(found), found.forgotten) == ([other], 1), "Kafka has it, and it is not replayed"
    wish = Wish(tenants=frozenset({history.tenant}))
    assert archive(settings, wish).calls == 0
    assert store.find(one) is None, "nor archived again"
    plan = history.plan(found)
    plans.save(settings, plan)
    assert (
        f"it is in the topics of replay {plan.name} until `calltide replay drop {plan.name}`"
        in forget(settings, other).left
    )
