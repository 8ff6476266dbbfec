"""A replay at work: its topics, its feed, a process for each worker of its stages, and the sink; and its end.

A changer must know: whatever ends this program, nothing is lost and nothing doubled. The feed, the stages and the sink
each keep what they have done in Kafka, the plan lies there, too, and `resume` starts all of them again under the same
names. A replay is done when the mark behind the last record of every partition has come out of its last stage,
and the sink has written what came before it.
"""

import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Final, Self

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from filelock import BaseFileLock, FileLock, Timeout

from deploy.process import spawn, stop_all
from deploy.topics import Topics
from processors.base import NO_MORE
from schemas.errors import CalltideError
from schemas.topics import MADE_OF_SCORES, replay_namespace
from streams import history, kafka
from streams.replay.feed import Feed
from streams.replay.plan import Call, Plan, end, names, plan_topic
from streams.settings import Settings
from streams.sink import Sink
from streams.supervisor import STOP_S, last_words, refusal

DEATHS: Final = 5
"""Judgement: what dies so often will not live."""
AGAIN_S: Final = 1.0
"""Pause before a worker that died is started again."""
LOOK_S: Final = 1.0
AHEAD: Final = 200_000
"""Records that the feed may be ahead of the first stage. Judgement: 160 MB of telephone audio, minutes of work."""
ANSWER_S: Final = 30.0

Tell = Callable[["Progress"], None]


@dataclass(slots=True)
class Progress:
    """How far it is."""

    of_calls: int
    of_ms: int
    ended: int = 0
    media_ms: int = 0
    """Audio whose last result is there."""
    utterances: int = 0
    dead: int = 0
    """Records that a stage could not process."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Archived calls that could not be read, and why."""
    endless: list[str] = field(default_factory=list)
    """Calls whose end never came out."""
    restarts: int = 0
    copied: int = 0


@dataclass(slots=True)
class _Worker:
    name: str
    command: list[str]
    log: Path
    process: Popen[bytes] | None = None
    deaths: int = 0
    start_at: float = 0.0


def give_way(nice: int) -> None:
    """Let live work go first, also in threads that are started from now on. Linux shares the processor between sessions
    before it looks at processes, and a worker has a session of its own: there, what counts is the session's own value.
    """
    os.nice(nice)
    with contextlib.suppress(OSError):
        while True:
            try:
                Path("/proc/self/autogroup").write_text(str(nice))
                return
            except BlockingIOError:  # Linux takes one such order in 100 ms, of all processes but the root's
                time.sleep(random.uniform(0.1, 0.3))


class Replay:
    """Use as a context manager: its workers run inside the block."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        """`settings`: those of the replay, the plan's overrides and its version among them."""
        self.settings = settings
        self.plan = plan
        self.feed = Feed(settings, plan)
        made = {plan.namespace + topic for topic in MADE_OF_SCORES}
        self.sink = (
            Sink(settings, 0, plan.scores, plan.dead_letters, f"{plan.namespace}sink", others)
            if (others := [topic for topic in plan.outputs if topic in made]) or plan.scores
            else None
        )
        self.progress = Progress(len(plan.calls), plan.audio_ms)
        self.admin = AdminClient(kafka.client(settings))
        self.stop = threading.Event()
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._workers: list[_Worker] = []
        self._behind = False
        self._ended: set[str] = set()
        self._no_more: set[tuple[str, str, int]] = set()
        """Where all has come out: topic, what the mark of the end says, and its partition."""
        self._heard_ms: dict[str, int] = {}
        self._behind_last: dict[tuple[str, int], int] = {}
        """Topic and partition → the offset behind the last record that came out. Not the end: marks of transactions
        lie there, and nobody commits those."""
        self._last_look = 0.0
        self._watch: Consumer | None = None
        self._lock: BaseFileLock | None = None

    def __enter__(self) -> Self:
        for part in ("run", "logs"):
            (self.settings.directory / part).mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.settings, self.plan.name)
        topics = Topics(self.settings.bootstrap_servers, self.settings.kafka.client)
        topics.create(self.plan.topics())
        stages = dict.fromkeys(row.name for row in self.plan.stages)
        for name in stages:
            for slot in range(self.plan.workers_of(name, self.settings.kafka.partitions)):
                command = [sys.executable, "-m", "streams", "stage", name, "--slot", str(slot)]
                command += ["--nice", str(self.plan.nice), "--replay", self.plan.name]
                log = self.settings.directory / "logs" / f"{self.plan.namespace}{name}.{slot}.log"
                log.unlink(missing_ok=True)
                self._workers.append(_Worker(f"{name}.{slot}", command, log))
        self._watch = self._watching()
        self._start("feed", lambda: self.feed.run(self.stop, lambda: self._behind))
        if (sink := self.sink) is not None:
            self._start("sink", lambda: sink.run(self.stop))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        running = [one.process for one in self._workers if one.process is not None]
        stop_all(running, STOP_S)
        for thread in self._threads:
            thread.join(STOP_S)
        if self._watch is not None:
            self._watch.close()
        if self._lock is not None:
            self._lock.release()

    def run(self, tell: Tell = lambda _progress: None) -> Progress:
        """Work until all is done; `tell` hears of it several times a second.

        Raises CalltideError for a worker that keeps dying, and what the feed or the sink raise.
        """
        while not self._done():
            self._tend()
            self._read()
            if time.monotonic() - self._last_look >= LOOK_S:
                self._last_look = time.monotonic()
                self._look()
            tell(self.progress)
        for one in self._workers:
            if one.process is not None:
                one.process.kill()  # all is committed, and to leave in peace takes them seconds
        heard = self._ended | self.feed.damaged.keys()
        self.progress.endless = [call.call_id for call in self.plan.calls if call.call_id not in heard]
        return self.progress

    def _start(self, name: str, work: Callable[[], object]) -> None:
        def attempt() -> None:
            try:
                if sys.platform == "linux":  # elsewhere it is the whole process that has a priority
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self.plan.nice)
                work()
            except BaseException as error:  # the main thread says it
                self._failure = error

        thread = threading.Thread(target=attempt, name=f"replay {name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _tend(self) -> None:
        if self._failure is not None:
            raise self._failure
        for one in self._workers:
            if one.process is None:
                if time.monotonic() >= one.start_at:
                    one.process = spawn(
                        one.command,
                        output=one.log,
                        env={
                            **self.plan.overrides,
                            "CALLTIDE_HOME": str(self.settings.directory),
                            "CALLTIDE_PIPELINE_VERSION": self.plan.version,
                            "CALLTIDE_METRICS__PORT": "0",
                        },
                    )
            elif one.process.poll() is not None:
                self._died(one, one.process.returncode)

    def _died(self, one: _Worker, status: int) -> None:
        one.process, one.deaths, one.start_at = None, one.deaths + 1, time.monotonic() + AGAIN_S
        self.progress.restarts += 1
        # An error in plain words, twice: a setting or a model, and no new start mends it.
        if (said := refusal(one.log) if status == 1 else "") and one.deaths > 1:
            raise CalltideError(
                f"{one.name} does not start: {said}; `calltide replay drop {self.plan.name}` removes this replay"
            )
        if one.deaths >= DEATHS:
            raise CalltideError(f"{one.name} keeps dying: {last_words(one.log)}; {self._resume}")

    def _watching(self) -> Consumer:
        """A reader of what comes out, from the beginning: a replay that goes on must know what ended before."""
        group = f"{self.settings.kafka.group_prefix}.{self.plan.namespace}watch"
        consumer = Consumer(kafka.consumer(self.settings, **{"group.id": group}))
        topics = (*self.plan.outputs, self.plan.dead_letters)
        numbers = range(self.plan.partitions)
        consumer.assign([TopicPartition(topic, number, 0) for topic in topics for number in numbers])
        return consumer

    def _read(self) -> None:
        assert self._watch is not None
        for message in self._watch.consume(1_000, 0.1):
            if (error := message.error()) is not None:
                if error.fatal() or not error.retriable():
                    raise CalltideError(f"Kafka: {error.str()}; {self._resume}")
                continue
            topic, number = message.topic() or "", kafka.partition_of(message)
            if topic == self.plan.dead_letters:
                self.progress.dead += 1
                continue
            self._behind_last[topic, number] = (message.offset() or 0) + 1
            kind = dict(kafka.headers_of(message)).get("kind")
            if kind == NO_MORE.encode():
                self._no_more.add((topic, (message.value() or b"").decode(), number))
                continue
            if topic != self.plan.outputs[0]:
                continue  # what is made of the scores; those tell how far it is
            call = (message.key() or b"").decode(errors="replace")
            self._heard_ms[call] = max(self._heard_ms.get(call, 0), message.timestamp()[1])
            if kind == b"call_ended":
                self._ended.add(call)
            elif kind not in (b"call_started", b"progress", b"correction"):
                self.progress.utterances += 1
        progress = self.progress
        progress.copied = self.feed.copied
        progress.ended = len(self._ended)
        progress.damaged = self.feed.damaged
        progress.media_ms = sum(map(self._done_ms, self.plan.calls))

    def _done_ms(self, call: Call) -> int:
        if call.call_id in self._ended:
            return call.duration_ms
        heard_ms = self._heard_ms.get(call.call_id, 0) - call.start_ms
        return min(max(heard_ms, 0), call.duration_ms)

    @property
    def _resume(self) -> str:
        return f"`calltide replay resume {self.plan.name}` goes on where it stopped"

    def _look(self) -> None:
        """Hold the feed back while the first stage has enough to do, and free what every reader has read."""
        try:
            for at, row in enumerate(self.plan.stages):
                group = f"{self.settings.kafka.group_prefix}.{row.id}"
                read = self._committed(group, row.reads)
                ends = kafka.ranges(self.admin, row.reads, read, ANSWER_S)
                if at == 0:
                    self._behind = sum(end - read[number] for number, (_, end) in ends.items()) > AHEAD
                # Scores have several readers, of which this is one.
                if not self.plan.keep and row.reads not in self.plan.outputs:
                    self._free(row.reads, {n: offset for n, offset in read.items() if offset > ends[n][0]})
        except KafkaException as error:
            if error.args[0].fatal():
                raise CalltideError(f"Kafka: {error.args[0].str()}; {self._resume}") from error

    def _free(self, topic: str, before: dict[int, int]) -> None:
        old = [TopicPartition(topic, number, offset) for number, offset in before.items()]
        for future in (self.admin.delete_records(old) if old else {}).values():
            future.result(ANSWER_S)

    def _committed(self, group: str, topic: str) -> dict[int, int]:
        """Partition → committed offset, 0 where there is none."""
        places = [TopicPartition(topic, number) for number in range(self.plan.partitions)]
        asked = self.admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, places)], request_timeout=ANSWER_S
        )
        return {place.partition: max(place.offset, 0) for place in asked[group].result().topic_partitions}

    def _done(self) -> bool:
        marks = {
            (topic, f"{self.feed.run_id}/{lane}", number)
            for topic, lane in self.plan.ends
            for number in range(self.plan.partitions)
        }
        if not self.feed.done or not marks <= self._no_more:
            return False
        if self.sink is None:
            return True
        written = {topic: self._committed(self.sink.group, topic) for topic in self.plan.outputs}
        return all(written[topic][number] >= behind for (topic, number), behind in self._behind_last.items())


def locked(settings: Settings, name: str) -> BaseFileLock:
    """That this program alone works with a replay, on this machine; another machine's is fenced by Kafka.

    Raises CalltideError when another does. The lock goes with the program, however that ends.
    """
    lock = FileLock(settings.directory / "run" / f"{replay_namespace(name)}lock")
    try:
        return lock.acquire(blocking=False).lock
    except Timeout:
        raise CalltideError(f"replay {name} is running; stop it by Ctrl-C where it runs, or wait for its end") from None


def remove(settings: Settings, name: str) -> None:
    """Delete the topics and groups of a replay.

    Raises CalltideError when there is none, it is running, or Kafka refuses.
    """
    kafka.check(settings)
    admin = AdminClient(kafka.client(settings))
    if name not in names(admin):
        raise CalltideError(f"there is no replay {name}; `calltide replay list` shows what there is")
    (settings.directory / "run").mkdir(parents=True, exist_ok=True)
    lock = locked(settings, name)
    try:
        _remove(settings, admin, name)
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


def _remove(settings: Settings, admin: AdminClient, name: str) -> None:
    plan = plan_topic(name).name
    prefix = plan.removesuffix("plan")
    end(settings, name)
    topics = [topic for topic in admin.list_topics(timeout=ANSWER_S).topics if topic.startswith(prefix)]
    # The plan last: as long as it is there, what is left of the others can be found.
    for some in ([topic for topic in topics if topic != plan], [plan]):
        for future in (admin.delete_topics(some, operation_timeout=ANSWER_S) if some else {}).values():
            with _known(KafkaError.UNKNOWN_TOPIC_OR_PART):
                future.result(ANSWER_S)
    mark = f"{settings.kafka.group_prefix}.{prefix}"
    groups = [group.group_id for group in admin.list_consumer_groups().result(ANSWER_S).valid]
    mine = [group for group in groups if group.startswith(mark)]
    for future in (admin.delete_consumer_groups(mine) if mine else {}).values():
        # Workers are static members, which hold their group until their session ends. Its offsets went with the topics,
        # and Kafka forgets a group without either. The feed's, which has offsets in topics of live work, has no member.
        with _known(KafkaError.NON_EMPTY_GROUP, KafkaError.GROUP_ID_NOT_FOUND):
            future.result(ANSWER_S)
    deadline = time.monotonic() + history.ANSWER_S
    while any(topic.startswith(prefix) for topic in admin.list_topics(timeout=ANSWER_S).topics):
        if time.monotonic() > deadline:
            raise CalltideError(f"the topics {prefix}* do not go; see Kafka's log")
        time.sleep(0.05)


@contextlib.contextmanager
def _known(*codes: int) -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        if error.args[0].code() not in codes:
            raise CalltideError(f"Kafka: {error.args[0].str()}; try again") from error
