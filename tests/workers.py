"""A small deterministic stage with topics of a test's own, and a process that runs it: for tests of the runtime.

Nothing here is imported by the product. One worker:
`python -m tests.workers BOOTSTRAP NAME SLOT SESSION_MS PAUSE_MS DIRECTORY`.
"""

import os
import signal
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from processors.base import IDLE, Output, Record, Step
from schemas.topics import Stage
from streams import kafka
from streams.memory import Log, Worker
from streams.settings import Settings

PARTITIONS = 3


@dataclass(frozen=True, slots=True)
class OwnStage(Stage):
    """A row of the table of stages with a changelog of its own, so that tests can share one broker."""

    @property
    def state_topic(self) -> str:
        """Compacted, as the real ones are."""
        return f"{self.writes}.state"


def stage_for(name: str) -> OwnStage:
    """The row for a test's name: the runtime knows it as `vad`, its topics are its own."""
    return OwnStage("vad", reads=f"{name}.in", writes=f"{name}.out")


def create_topics(bootstrap: str, row: Stage, partitions: int = PARTITIONS) -> None:
    """Input, output and changelog."""
    new = [NewTopic(row.reads, partitions, 1), NewTopic(row.writes, partitions, 1)]
    new.append(NewTopic(row.state_topic, partitions, 1, config={"cleanup.policy": "compact"}))
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics(new).values():
        future.result(30)


def settings_for(bootstrap: str, name: str, session_ms: int = 90_000) -> Settings:
    """Settings with a group prefix of the test's own. The long session makes a wait for it fail the test."""
    base = Settings()
    own = {"bootstrap_servers": bootstrap, "group_prefix": name, "session_timeout_ms": session_ms}
    return base.model_copy(update={"kafka": base.kafka.model_copy(update=own)})


class Sums:
    """Every second record of a call gives an output: how many there were, and a checksum over all of them, in order.

    A record that was lost, doubled or moved changes every later output of its call. It cuts at other places than it
    writes, as the VAD does when both parties speak at once. `pause_s` stands for the work of a model.
    """

    def __init__(self, idle_timeout_ms: int | None = None, pause_s: float = 0.0) -> None:
        self.idle_timeout_ms = idle_timeout_ms
        self.pause_s = pause_s

    def open(self, call_id: str) -> dict[str, int]:
        """Nothing was heard yet."""
        return {"count": 0, "sum": zlib.crc32(call_id.encode())}

    def restore(self, call_id: str, snapshot: bytes) -> dict[str, int]:
        """From `count sum`."""
        count, total = snapshot.split()
        return {"count": int(count), "sum": int(total)}

    def process(self, batch: Sequence[tuple[dict[str, int], Record]]) -> list[Step]:
        """One step a record. Raises ValueError for a record of value `poison`, its state half changed.

        A record of value `deadly` ends the process as a fault in a native library does.
        """
        return [self._one(state, record) for state, record in batch]

    def _one(self, state: dict[str, int], record: Record) -> Step:
        time.sleep(self.pause_s)
        state["count"] += 1
        if record.value == b"deadly":
            os.kill(os.getpid(), signal.SIGSEGV)
        if record.value == b"poison":
            raise ValueError("poison")
        state["sum"] = zlib.crc32(record.value, state["sum"])
        text = b"%d %d" % (state["count"], state["sum"])
        if record.kind in ("call_ended", IDLE):
            return Step([Output([("kind", record.kind.encode())], text)], b"")
        outputs = [Output([("kind", b"sum")], text)] if state["count"] % 2 == 0 else []
        return Step(outputs, text if state["count"] % 5 == 0 else None)


Sent = tuple[str, str, bytes]
"""Call id, kind and value of a record."""


def calls_of(number: int, length: int) -> list[Sent]:
    """Calls in turn, each with `length` records and an end."""
    names = [f"call-{at}" for at in range(number)]
    sent = [(name, "audio", b"%d" % at) for at in range(length) for name in names]
    return sent + [(name, "call_ended", b"") for name in names]


def expected(records: Iterable[Sent]) -> dict[str, list[tuple[str, bytes]]]:
    """Call id → (kind, value) of its outputs, as a worker in memory writes them when nothing disturbs it."""
    source = [Record(call_id, kind, {"kind": kind.encode()}, value, 0) for call_id, kind, value in records]
    worker = Worker(stage_for("memory"), Sums(), Log(source), Log())
    while not worker.at_end:
        worker.turn(100)
    found = defaultdict(list)
    for record in worker.target.records:
        found[record.call_id].append((record.kind, record.value))
    return dict(found)


class Writer:
    """Produces as `calltide ingest` does: by key, with the project's partitioner."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.topic = topic
        self.producer = Producer(kafka.producer(settings, log_level=0))
        self.refused: list[KafkaError] = []

    def write(self, records: Iterable[Sent], timestamp_ms: int | None = None) -> None:
        """Hand records over; `flush` waits for them."""
        for call_id, kind, value in records:
            at_ms = int(time.time() * 1_000) if timestamp_ms is None else timestamp_ms
            self.producer.produce(
                self.topic,
                value,
                call_id,
                headers=[("kind", kind.encode())],
                timestamp=at_ms,
                on_delivery=self._delivered,
            )
            self.producer.poll(0)

    def _delivered(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self.refused.append(error)

    def flush(self) -> None:
        """Wait until all were acknowledged."""
        assert self.producer.flush(60) == 0
        assert self.refused == []


@dataclass(frozen=True, slots=True)
class Found:
    """A committed record."""

    partition: int
    offset: int
    key: str
    headers: dict[str, bytes]
    value: bytes | None
    timestamp_ms: int


class Reader:
    """Reads a topic from its start as a read_committed consumer; `found` grows."""

    def __init__(self, bootstrap: str, topic: str, partitions: int = PARTITIONS, isolation: str = "read_committed"):
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "nobody",
                "isolation.level": isolation,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self.consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        self.found: list[Found] = []
        self.partitions = partitions
        self.at_end: set[int] = set()
        """Partitions that were read to their end as it was then."""

    def read(self, wait_s: float = 0.2) -> None:
        """Take what is there, waiting at most so long for the first of it."""
        for message in self.consumer.consume(1_000, wait_s):
            error, partition = message.error(), kafka.partition_of(message)
            if error is None:
                headers = {name: value or b"" for name, value in kafka.headers_of(message)}
                key = (message.key() or b"").decode()
                self.found.append(
                    Found(partition, message.offset() or 0, key, headers, message.value(), message.timestamp()[1])
                )
            elif error.code() == KafkaError._PARTITION_EOF:
                self.at_end.add(partition)

    def until(self, enough: Callable[[], object], what: str, seconds: float = 120) -> None:
        """Read until the condition holds; fail with words when it does not come."""
        deadline = time.monotonic() + seconds
        while not enough():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; {len(self.found)} records read"
            self.read()

    def by_call(self) -> dict[str, list[tuple[str, bytes]]]:
        """Call id → (kind, value) of its records, in order."""
        found = defaultdict(list)
        for record in self.found:
            found[record.key].append((record.headers["kind"].decode(), record.value or b""))
        return dict(found)

    def latest(self) -> dict[tuple[int, str], bytes | None]:
        """What compaction leaves of a changelog: the last value of each key, tombstones as None."""
        return {(record.partition, record.key): record.value for record in self.found}

    def close(self) -> None:
        """Leave."""
        self.consumer.close()


def everything(bootstrap: str, topic: str, partitions: int = PARTITIONS) -> Reader:
    """All that is committed now, from a reader of its own: a double behind the last record looked for would show."""
    reader = Reader(bootstrap, topic, partitions)
    reader.until(lambda: len(reader.at_end) == partitions, f"the end of {topic}")
    reader.close()
    return reader


def main(arguments: Sequence[str]) -> None:
    """Run one worker until SIGTERM."""
    from streams import service
    from streams.crashes import CrashRecord
    from streams.runtime import StageWorker

    bootstrap, name, slot, session_ms, pause_ms, directory = arguments
    settings: Any = settings_for(bootstrap, name, int(session_ms))
    crashes = CrashRecord(Path(directory), f"{name}.{slot}")
    crashes.catch_fatal_signals()
    processor = Sums(pause_s=float(pause_ms) / 1_000)
    service.run(settings, None, StageWorker(settings, [stage_for(name)], processor, int(slot), crashes).run)


if __name__ == "__main__":
    main(sys.argv[1:])
