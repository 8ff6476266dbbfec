"""The runtime against the real broker: whatever dies, every call's outputs are there once and in order."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY

from deploy.broker import Broker
from deploy.topics import Topics
from processors.base import IDLE, Effort, Record, Step
from schemas.errors import CalltideError
from schemas.topics import DEAD_LETTERS, Stage, topics
from streams.checkpoint import Produced
from streams.health import Health
from streams.runtime import StageWorker, _Life
from tests.conftest import JARS
from tests.workers import (
    PARTITIONS,
    Found,
    OwnStage,
    Reader,
    Sent,
    Sums,
    Writer,
    calls_of,
    create_topics,
    everything,
    expected,
    settings_for,
    stage_for,
)

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parent.parent.parent

MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}
"""Key → murmur2 as Kafka's own UtilsTest.testMurmur2 has it; the partition is (hash & 0x7fffffff) % partitions."""


class Bench:
    """Topics, a writer and a reader of a test's own on a broker."""

    def __init__(self, bootstrap: str, session_ms: int = 90_000, topics: bool = True) -> None:
        self.bootstrap = bootstrap
        self.name = f"t{uuid.uuid4().hex[:8]}"
        self.row: OwnStage = stage_for(self.name)
        self.settings = settings_for(bootstrap, self.name, session_ms)
        if topics:
            create_topics(bootstrap, self.row)
        self.writer = Writer(self.settings, self.row.reads)
        self.outputs = Reader(bootstrap, self.row.writes)
        self.written = 0
        self.changes = 0
        self.directory = Path(tempfile.mkdtemp(prefix="calltide-"))

    def close(self) -> None:
        self.outputs.close()
        shutil.rmtree(self.directory)

    def command(self, slot: int, pause_ms: float) -> list[str]:
        session_ms = self.settings.kafka.session_timeout_ms
        arguments = (self.bootstrap, self.name, slot, session_ms, pause_ms, self.directory)
        return [sys.executable, "-m", "tests.workers", *map(str, arguments)]

    def write(self, records: Iterable[Sent], timestamp_ms: int | None = None) -> None:
        for record in records:
            self.writer.write([record], timestamp_ms)
            self.written += 1

    def ended(self) -> int:
        return sum(record.headers["kind"] == b"call_ended" for record in self.outputs.found)

    def assert_exactly_once(self, sent: list[Sent]) -> None:
        assert everything(self.bootstrap, self.row.writes).by_call() == expected(sent)

    def wait_for_an_empty_changelog(self) -> None:
        """Tombstones follow within the commit interval. Calls that ended within one batch never had a state there."""
        reader = Reader(self.bootstrap, self.row.state_topic)
        reader.until(
            lambda: len(reader.at_end) == PARTITIONS and all(value is None for value in reader.latest().values()),
            "an empty changelog",
            30,
        )
        reader.close()
        self.changes = len(reader.found)


@pytest.fixture
def bench(kafka_bootstrap: str) -> Iterator[Bench]:
    made = Bench(kafka_bootstrap)
    yield made
    made.close()


class Thread:
    """A worker in a thread."""

    def __init__(self, bench: Bench, processor: Sums, slot: int = 0, rows: Sequence[Stage] = ()) -> None:
        self.stopping = threading.Event()
        self.health = Health()
        self.failure: BaseException | None = None
        self.worker = StageWorker(bench.settings, rows or [bench.row], processor, slot)
        self.thread = threading.Thread(target=self._run, name=f"worker {slot}")
        self.thread.start()

    def _run(self) -> None:
        try:
            self.worker.run(self.stopping, self.health)
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


@contextmanager
def working(bench: Bench, processor: Sums | None = None, slot: int = 0) -> Iterator[Thread]:
    """A worker that is ready inside the block, and must not have failed behind it."""
    running = Thread(bench, processor or Sums(), slot)
    try:
        assert running.health.serving.wait(60), "the worker was not assigned its partitions"
        yield running
    finally:
        running.stop()
    if running.failure:
        raise running.failure


@pytest.mark.parametrize("partitions", [3, 8])
def test_a_call_lies_in_the_partition_that_java_s_client_would_choose(kafka_bootstrap: str, partitions: int) -> None:
    row = stage_for(f"t{uuid.uuid4().hex[:8]}")
    create_topics(kafka_bootstrap, row, partitions)
    writer = Writer(settings_for(kafka_bootstrap, "nobody"), row.reads)
    writer.write([(key, "audio", b"") for key in MURMUR2])
    writer.flush()
    found = everything(kafka_bootstrap, row.reads, partitions).found
    assert {record.key: record.partition for record in found} == {
        key: (value & 0x7FFFFFFF) % partitions for key, value in MURMUR2.items()
    }


def test_outputs_have_partition_key_and_time_of_their_input(bench: Bench) -> None:
    sent = calls_of(12, 4)
    # An hour ago: not now, and not so long ago that retention takes the records away.
    then_ms = int(time.time() * 1_000) - 3_600_000
    with working(bench):
        bench.write(sent[: len(sent) // 2], then_ms)
        bench.write(sent[len(sent) // 2 :], then_ms + 123)
        bench.outputs.until(lambda: bench.ended() == 12, "the ends of 12 calls")
        bench.wait_for_an_empty_changelog()
    bench.assert_exactly_once(sent)
    inputs = everything(bench.bootstrap, bench.row.reads).found
    homes = {record.key: record.partition for record in inputs}
    assert set(homes.values()) == set(range(PARTITIONS))
    for record in bench.outputs.found:
        assert record.partition == homes[record.key]
        # The n-th record of a call caused it.
        count = int((record.value or b"").split()[0])
        cause = [one for one in inputs if one.key == record.key][count - 1]
        assert record.timestamp_ms == cause.timestamp_ms


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_loses_and_doubles_nothing_and_the_next_start_is_quick(bench: Bench, seed: int) -> None:
    dice = random.Random(seed)
    sent = calls_of(20, 60)
    outputs = sum(map(len, expected(sent).values()))
    goals = sorted(dice.sample(range(1, outputs * 3 // 4), 4))
    left = iter(sent)
    command = bench.command(0, pause_ms=3)

    def outputs_reach(number: int) -> Callable[[], bool]:
        def reached() -> bool:
            # Records come as the worker gets on, so that its batches are small and many and the kills fall among them.
            ahead = 2 * len(bench.outputs.found) + 60 - bench.written
            bench.write(islice(left, max(0, ahead)))
            return len(bench.outputs.found) >= number

        return reached

    for goal in goals:
        started = time.monotonic()
        before = len(bench.outputs.found)
        worker = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        bench.outputs.until(outputs_reach(before + 1), "the first output after a start")
        assert time.monotonic() - started < 60, "a static member need not wait for its ghost's session of 90 s"
        bench.outputs.until(outputs_reach(goal), f"{goal} outputs")
        time.sleep(dice.uniform(0, 0.1))  # any moment of the loop: in process(), in a transaction, between them
        worker.kill()
        worker.wait()
    worker = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    bench.outputs.until(outputs_reach(outputs), "all outputs")
    bench.wait_for_an_empty_changelog()
    assert bench.changes > 0
    worker.terminate()
    assert worker.wait(90) == 0
    bench.assert_exactly_once(sent)


def everything_of(bench: Bench, sent: list[Sent]) -> list[Found]:
    """Write these and read them back."""
    bench.write(sent)
    bench.writer.flush()
    return everything(bench.bootstrap, bench.row.reads).found


def assigned(bench: Bench) -> dict[str, set[int]]:
    """Static member → its partitions, as the group's coordinator has them."""
    admin = AdminClient({"bootstrap.servers": bench.bootstrap})
    group = f"{bench.name}.{bench.row.name}"
    described = admin.describe_consumer_groups([group])[group].result(10)
    return {
        member.group_instance_id.rsplit(".", 1)[1]: {held.partition for held in member.assignment.topic_partitions}
        for member in described.members
    }


def eventually(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """The group's coordinator tells nobody of a change: ask until it is there."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def test_two_workers_share_the_partitions_and_one_that_leaves_hands_over(kafka_bootstrap: str) -> None:
    bench = Bench(kafka_bootstrap, session_ms=1_500)
    sent = calls_of(15, 60)
    third = len(sent) // 3
    pause_s = 0.001
    with working(bench, Sums(pause_s=pause_s), slot=0):
        bench.write(sent[: third // 2])
        with working(bench, Sums(pause_s=pause_s), slot=1):
            eventually(lambda: all(assigned(bench).get(slot) for slot in "01"), "partitions for both")
            shares = assigned(bench)
            assert shares["0"] | shares["1"] == set(range(PARTITIONS))
            assert not shares["0"] & shares["1"]
            bench.write(sent[third // 2 : 2 * third])
            before = len(bench.outputs.found)
            bench.outputs.until(lambda: len(bench.outputs.found) > before + 50, "outputs of both")
        bench.write(sent[2 * third :])
        bench.outputs.until(lambda: bench.ended() == 15, "the ends of 15 calls")
        assert assigned(bench) == {"0": set(range(PARTITIONS))}
        bench.wait_for_an_empty_changelog()
    bench.assert_exactly_once(sent)
    bench.close()


def test_a_worker_without_partitions_waits_and_takes_over(kafka_bootstrap: str) -> None:
    bench = Bench(kafka_bootstrap, session_ms=1_500)
    sent = calls_of(6, 20)
    last = Thread(bench, Sums(), slot=PARTITIONS)
    with working(bench, slot=0), working(bench, slot=1), working(bench, slot=2):
        eventually(lambda: len(assigned(bench)) == PARTITIONS + 1, "one worker more than partitions")
        eventually(lambda: sum(map(len, assigned(bench).values())) == PARTITIONS, "all partitions assigned")
        bench.write(sent[:60])
        bench.outputs.until(lambda: len(bench.outputs.found) >= 10, "outputs")
    bench.write(sent[60:])
    bench.outputs.until(lambda: bench.ended() == 6, "the ends of 6 calls")
    last.stop()
    assert last.failure is None
    bench.assert_exactly_once(sent)
    bench.close()


def test_a_poisoned_record_goes_to_the_dead_letters_and_its_call_goes_on(bench: Bench) -> None:
    Topics(bench.bootstrap).create([topic for topic in topics() if topic.name == DEAD_LETTERS])
    names = [f"{bench.name}-{at}" for at in range(4)]
    good = [(name, "audio", b"%d" % at) for at in range(30) for name in names]
    ends = [(name, "call_ended", b"") for name in names]
    sent = [*good[:50], (names[1], "audio", b"poison"), *good[50:], *ends]
    with working(bench):
        bench.write(sent)
        bench.outputs.until(lambda: bench.ended() == 4, "the ends of 4 calls")
        bench.wait_for_an_empty_changelog()
    bench.assert_exactly_once([*good, *ends])
    letters = Reader(bench.bootstrap, DEAD_LETTERS, 8)
    letters.until(lambda: len(letters.at_end) == 8, "the end of dead.letters")
    letters.close()
    (letter,) = [record for record in letters.found if record.key in names]
    (cause,) = [one for one in everything(bench.bootstrap, bench.row.reads).found if one.value == b"poison"]
    assert (letter.key, letter.value, letter.timestamp_ms) == (names[1], b"poison", cause.timestamp_ms)
    about = {name.removeprefix("__connect.errors."): value for name, value in letter.headers.items()}
    assert (about["kind"], about["stage"], about["partition"]) == (b"audio", b"vad", b"%d" % cause.partition)
    assert about["offset"] == b"%d" % cause.offset
    assert about["exception.class.name"] == b"builtins.ValueError"
    assert about["exception.message"] == b"poison"
    assert b"in _one" in about["exception.stacktrace"]


def test_wall_clock_ends_a_call_in_a_quiet_partition(bench: Bench) -> None:
    now_ms = int(time.time() * 1_000)
    with working(bench, Sums(idle_timeout_ms=1_000)):
        bench.write([("quiet", "audio", b"1"), ("quiet", "audio", b"2"), ("quiet", "audio", b"3")], now_ms)
        bench.outputs.until(lambda: len(bench.outputs.found) == 2, "the idle end")
        ended_ms = time.time() * 1_000
        bench.wait_for_an_empty_changelog()
    first, second = bench.outputs.found
    assert first.headers["kind"] == b"sum"
    assert second.headers["kind"] == IDLE.encode()
    assert second.timestamp_ms == now_ms + 1_000, "the end carries the time at which the call became idle"
    assert ended_ms >= now_ms + 1_000


def test_what_a_ghost_left_open_is_never_seen_and_holds_nobody_up(bench: Bench) -> None:
    ghost = Producer({"bootstrap.servers": bench.bootstrap, "transactional.id": f"{bench.name}.vad.0", "log_level": 0})
    ghost.init_transactions(30)
    ghost.begin_transaction()
    for partition in range(PARTITIONS):
        ghost.produce(bench.row.writes, b"of a ghost", "call-0", partition, headers=[("kind", b"sum")])
        ghost.produce(
            bench.row.state_topic,
            b"7 7",
            "call-0",
            partition,
            headers=[("covered", b"1000"), ("emitted", b"0"), ("timestamp", b"0")],
        )
    assert ghost.flush(30) == 0
    started = time.monotonic()
    sent = calls_of(5, 10)
    with working(bench):
        assert time.monotonic() - started < 50, (
            "the ghost's transaction is ended at once, not after its timeout of 60 s"
        )
        with pytest.raises(KafkaException) as fenced:
            ghost.commit_transaction(30)
        assert fenced.value.args[0].fatal()
        bench.write(sent)
        bench.outputs.until(lambda: bench.ended() == 5, "the ends of 5 calls")
    bench.assert_exactly_once(sent)


def test_a_producer_that_is_fenced_alone_comes_back(kafka_bootstrap: str) -> None:
    """As after a transaction that timed out while the machine slept: the place in the group is still this worker's."""
    bench = Bench(kafka_bootstrap, session_ms=3_000)
    sent = calls_of(5, 40)
    with working(bench):
        bench.write(sent[:50])
        bench.outputs.until(lambda: len(bench.outputs.found) >= 10, "outputs before")
        Producer({"bootstrap.servers": bench.bootstrap, "transactional.id": f"{bench.name}.vad.0"}).init_transactions(
            30
        )
        bench.write(sent[50:])
        bench.outputs.until(lambda: bench.ended() == 5, "the ends of 5 calls")
    bench.assert_exactly_once(sent)
    bench.close()


def aborts() -> float:
    """Transactions of all workers of this process that did not come to their end."""
    return REGISTRY.get_sample_value("calltide_aborts_total", {"stage": "vad", "lane": "live"}) or 0.0


def test_work_may_take_longer_than_a_transaction(kafka_bootstrap: str) -> None:
    """All of it is done before the transaction begins, or the broker would end it: here after 1.5 s."""
    bench = Bench(kafka_bootstrap, session_ms=1_500)
    sent = calls_of(1, 3)
    before = aborts()
    with working(bench, Sums(pause_s=1.0)):
        bench.write(sent)
        bench.outputs.until(lambda: bench.ended() == 1, "the end of the call")
    bench.assert_exactly_once(sent)
    assert aborts() == before
    bench.close()


@pytest.mark.chaos
def test_a_worker_that_slept_through_its_session_commits_nothing_and_comes_back(kafka_bootstrap: str) -> None:
    bench = Bench(kafka_bootstrap, session_ms=1_500)
    sent = calls_of(12, 60)
    sleeper = subprocess.Popen(bench.command(0, pause_ms=1), cwd=ROOT, stderr=subprocess.DEVNULL)
    eventually(lambda: assigned(bench).get("0"), "partitions for the first")
    with working(bench, Sums(pause_s=0.001), slot=1):
        eventually(lambda: all(assigned(bench).get(slot) for slot in "01"), "partitions for both")
        bench.write(sent[:300])
        bench.outputs.until(lambda: len(bench.outputs.found) >= 20, "outputs of both")
        sleeper.send_signal(signal.SIGSTOP)
        eventually(lambda: assigned(bench) == {"1": set(range(PARTITIONS))}, "all partitions with the other")
        bench.write(sent[300:])
        bench.outputs.until(lambda: bench.ended() >= 6, "ends of half of the calls")
        sleeper.send_signal(signal.SIGCONT)
        eventually(lambda: all(assigned(bench).get(slot) for slot in "01"), "partitions for both again")
        bench.outputs.until(lambda: bench.ended() == 12, "the ends of 12 calls")
    sleeper.terminate()
    assert sleeper.wait(90) == 0
    bench.assert_exactly_once(sent)
    bench.close()


@pytest.mark.chaos
def test_workers_come_go_and_die_under_load(kafka_bootstrap: str) -> None:
    dice = random.Random(5)
    bench = Bench(kafka_bootstrap, session_ms=2_000)
    sent = calls_of(15, 120)
    left = iter(sent)
    running: dict[int, subprocess.Popen[bytes]] = {}

    def outputs_grow(by: int) -> None:
        goal = min(len(bench.outputs.found) + by, sum(map(len, expected(sent).values())))

        def grown() -> bool:
            bench.write(islice(left, max(0, 2 * len(bench.outputs.found) + 120 - bench.written)))
            return len(bench.outputs.found) >= goal

        bench.outputs.until(grown, f"{goal} outputs")

    def start(slot: int) -> None:
        running[slot] = subprocess.Popen(bench.command(slot, pause_ms=1), cwd=ROOT, stderr=subprocess.DEVNULL)

    start(0)
    outputs_grow(20)
    for action in ("add", "add", "kill", "remove", "add", "kill", "add", "remove"):
        if action == "add":
            start(min({0, 1, 2} - set(running)))
        else:
            gone = running.pop(dice.choice(sorted(running)))
            gone.kill() if action == "kill" else gone.terminate()
            gone.wait(90)
        outputs_grow(60)
    bench.write(left)
    bench.outputs.until(lambda: bench.ended() == 15, "the ends of 15 calls")
    for worker in running.values():
        worker.terminate()
        assert worker.wait(90) == 0
    bench.assert_exactly_once(sent)
    bench.close()


@pytest.mark.chaos
def test_a_record_that_kills_its_process_is_a_dead_letter_on_the_third_start(bench: Bench) -> None:
    Topics(bench.bootstrap).create([topic for topic in topics() if topic.name == DEAD_LETTERS])
    names = [f"{bench.name}-{at}" for at in range(4)]
    good = [(name, "audio", b"%d" % at) for at in range(30) for name in names]
    ends = [(name, "call_ended", b"") for name in names]
    bench.write([*good[:50], (names[1], "audio", b"deadly"), *good[50:], *ends])
    deaths = 0
    while True:
        worker = subprocess.Popen(bench.command(0, pause_ms=0), cwd=ROOT, stderr=subprocess.DEVNULL)
        bench.outputs.until(lambda worker=worker: bench.ended() == 4 or worker.poll() is not None, "the end")  # type: ignore[misc]
        if worker.poll() is None:
            break
        assert worker.returncode == -signal.SIGSEGV
        deaths += 1
    assert deaths == 2
    worker.terminate()
    assert worker.wait(90) == 0
    bench.assert_exactly_once([*good, *ends])
    letters = Reader(bench.bootstrap, DEAD_LETTERS, 8)
    letters.until(lambda: len(letters.at_end) == 8, "the end of dead.letters")
    letters.close()
    (letter,) = [record for record in letters.found if record.key in names]
    assert letter.value == b"deadly"
    assert letter.headers["__connect.errors.exception.class.name"] == b"streams.crashes.KilledItsProcess"


class Watched(Sums):
    """Notes which calls it was given, in order."""

    def __init__(self) -> None:
        super().__init__(pause_s=0.001)
        self.seen: list[str] = []

    def process(self, batch: Sequence[tuple[dict[str, int], Record]]) -> list[Step]:
        self.seen += [record.call_id for _, record in batch]
        return super().process(batch)


def test_live_calls_go_before_bulk_work(bench: Bench) -> None:
    bulk_row = replace(bench.row, reads=f"{bench.name}.bulk", writes=f"{bench.name}.bulk.out", batch=10, lane="batch")
    create_topics(bench.bootstrap, bulk_row)
    bulk = Writer(bench.settings, bulk_row.reads)
    sent, waiting = calls_of(10, 100), [(f"bulk-{call}", kind, value) for call, kind, value in calls_of(10, 50)]
    watched = Watched()
    running = Thread(bench, watched, rows=[bench.row, bulk_row])
    assert running.health.serving.wait(60)
    bulk.write(waiting)
    bulk.flush()
    eventually(lambda: len(watched.seen) > 50, "bulk work while no live call waits")
    bench.write(sent)
    bench.outputs.until(lambda: bench.ended() == 10, "the ends of 10 calls")
    done = Reader(bench.bootstrap, bulk_row.writes)
    done.until(lambda: sum(one.headers["kind"] == b"call_ended" for one in done.found) == 10, "the end of bulk work")
    done.close()
    running.stop()
    assert running.failure is None
    bench.assert_exactly_once(sent)
    assert everything(bench.bootstrap, bulk_row.writes).by_call() == expected(waiting)
    live = [at for at, call in enumerate(watched.seen) if not call.startswith("bulk")]
    between = live[-1] - live[0] + 1 - len(live)
    # Whenever the live topic is empty for an instant, a batch of the other lane may slip in.
    assert between < len(waiting) // 4, f"{between} of {len(waiting)} bulk records were done between the live ones"


class Tiring(Sums):
    """Has two ways to do with less, and says in its outputs which one it took."""

    reduced = (Effort("less", 5), Effort("least", 10))

    def __init__(self) -> None:
        super().__init__(pause_s=0.02)
        self.effort = 0
        self.taken: list[int] = []

    def process(self, batch: Sequence[tuple[dict[str, int], Record]]) -> list[Step]:
        self.taken.append(self.effort)
        return super().process(batch)


def test_a_lag_makes_a_stage_work_with_less_effort_until_it_is_gone(bench: Bench) -> None:
    tiring = Tiring()
    sent = calls_of(10, 40)
    bench.row = replace(bench.row, batch=20)
    with working(bench, tiring):
        # Captured a minute ago: so long is the lag while they wait.
        bench.write(sent, int(time.time() * 1_000) - 60_000)
        bench.outputs.until(lambda: bench.ended() == 10, "the ends of 10 calls")
    bench.assert_exactly_once(sent)
    assert tiring.taken[0] == 0
    assert max(tiring.taken) >= 1


def test_a_restore_waits_for_what_another_worker_left_open_in_the_changelog(bench: Bench) -> None:
    """The offsets of a transaction may be stable before its changelog is: both are there, or the call starts anew."""
    (home,) = {one.partition for one in everything_of(bench, [("call-0", "audio", b"1")])}
    other = Producer({"bootstrap.servers": bench.bootstrap, "transactional.id": f"{bench.name}.other"})
    other.init_transactions(30)
    other.begin_transaction()
    covered: list[tuple[str, str | bytes | None]] = [("covered", b"0"), ("emitted", b"0"), ("timestamp", b"0")]
    other.produce(bench.row.state_topic, b"40 7", "call-0", home, headers=covered)
    assert other.flush(30) == 0
    running = Thread(bench, Sums())
    assert not running.health.serving.wait(2), "the changelog has no end yet"
    other.commit_transaction(30)
    assert running.health.serving.wait(90)
    bench.write([("call-0", "audio", b"2"), ("call-0", "audio", b"3")])
    bench.outputs.until(lambda: bench.outputs.found, "an output")
    running.stop()
    assert (bench.outputs.found[0].value or b"").split()[0] == b"42", "it went on from the snapshot"


def test_partitions_that_cannot_be_taken_over_yet_are_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.runtime.TRANSACTION_S", 1.0)
    other = Producer({"bootstrap.servers": bench.bootstrap, "transactional.id": f"{bench.name}.other"})
    other.init_transactions(30)
    other.begin_transaction()
    group = Consumer({"bootstrap.servers": bench.bootstrap, "group.id": f"{bench.name}.vad"}).consumer_group_metadata()
    other.send_offsets_to_transaction([TopicPartition(bench.row.reads, 0, 1)], group, 30)
    running = Thread(bench, Sums())
    eventually(lambda: "Timed out" in str(running.health.readiness()[1].get("waiting")), "a failure that is told")
    other.abort_transaction(30)
    assert running.health.serving.wait(90)
    running.stop()
    assert running.failure is None


class Hanging(Sums):
    """Stands still in the middle of its work until it is let go, as a paused machine does."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()
        self.go_on = threading.Event()

    def process(self, batch: list[tuple[dict[str, int], Record]]) -> list[Step]:  # type: ignore[override]
        if not self.hangs.is_set():
            self.hangs.set()
            assert self.go_on.wait(60)
        return super().process(batch)


def test_a_worker_that_comes_back_after_another_took_its_slot_writes_nothing_and_ends(bench: Bench) -> None:
    sent = calls_of(5, 10)
    hanging = Hanging()
    ghost = Thread(bench, hanging)
    assert ghost.health.serving.wait(60)
    bench.write(sent[:20])
    assert hanging.hangs.wait(60)
    with working(bench):
        bench.write(sent[20:])
        bench.outputs.until(lambda: bench.ended() == 5, "the ends of 5 calls")
        hanging.go_on.set()
        ghost.thread.join(90)
        assert not ghost.thread.is_alive(), "two that fence each other in turn would do so for ever"
        with pytest.raises(CalltideError, match=r"another worker .* slot 0\b.*--slot"):
            raise ghost.failure or AssertionError("no failure")
    bench.assert_exactly_once(sent)


def test_a_rebalance_while_a_worker_is_busy_leaves_no_partition_without_an_owner(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that came too late for its generation makes the worker join again before it gave anything away."""
    bench = Bench(kafka_bootstrap, session_ms=6_000)
    hanging = Hanging()
    commit, refused = _Life._commit, threading.Event()

    def commit_too_late(life: _Life, produced: list[Produced]) -> None:
        if hanging.go_on.is_set() and not refused.is_set():
            refused.set()
            raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION))
        commit(life, produced)

    monkeypatch.setattr(_Life, "_commit", commit_too_late)
    with working(bench, hanging, slot=0):
        sent = [("call-0", "audio", b"1"), ("call-0", "audio", b"2"), ("call-0", "call_ended", b"")]
        bench.write(sent)
        assert hanging.hangs.wait(90)
        second = Thread(bench, Sums(), slot=1)
        eventually(lambda: "1" in assigned(bench), "the second worker in the group")
        hanging.go_on.set()
        eventually(
            lambda: sorted(number for held in assigned(bench).values() for number in held) == [*range(PARTITIONS)],
            "each partition with one owner",
        )
        bench.outputs.until(lambda: bench.ended() == 1, "the end of the call")
        second.stop()
    assert refused.is_set()
    assert second.failure is None
    bench.assert_exactly_once(sent)
    bench.close()


@pytest.mark.chaos
def test_a_broker_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    broker = Broker(tmp_path, port=0, jars=JARS)
    broker.start()
    bench = Bench(broker.bootstrap_servers)
    sent = calls_of(10, 100)
    half = len(sent) // 2
    try:
        with working(bench, Sums(pause_s=0.001)):
            bench.write(sent[:half])
            bench.outputs.until(lambda: len(bench.outputs.found) > 20, "outputs before the kill")
            assert broker.pid
            os.kill(broker.pid, signal.SIGKILL)
            bench.write(sent[half:])
            broker.stop()
            broker.start()
            bench.writer.flush()
            bench.outputs.until(lambda: bench.ended() == 10, "the ends of 10 calls")
            bench.wait_for_an_empty_changelog()
        bench.assert_exactly_once(sent)
    finally:
        bench.close()
        broker.stop()


def test_a_worker_that_starts_before_its_topics_waits_for_them(kafka_bootstrap: str) -> None:
    bench = Bench(kafka_bootstrap, topics=False)
    sent = calls_of(3, 10)
    worker = Thread(bench, Sums())
    assert not worker.health.serving.wait(1)
    create_topics(kafka_bootstrap, bench.row)
    assert worker.health.serving.wait(60)
    bench.write(sent)
    bench.outputs.until(lambda: bench.ended() == 3, "the ends of 3 calls")
    worker.stop()
    assert worker.failure is None
    bench.assert_exactly_once(sent)
    bench.close()
