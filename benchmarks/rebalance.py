"""How long a partition is silent after `kill -9`, by group protocol and kind of membership, with the real VAD on real
audio: `python -m benchmarks.rebalance` takes 6 minutes.

Telephone calls (the packaged conversation, over and over) go through VAD workers in real time, all partitions busy. Two
ways of dying, several tries each: the only worker is killed and started again at once; one of two is killed for good,
and the other one takes its partitions over. A worker that is a dynamic member is this program's own: the product has
static ones only.

A changer must know what silence is: the longest time that anything in a partition took from the capture of the sample
that caused it to its committed record. What was captured just after the kill waits longest, so it ends only when the
partition has caught up; without any kill it is some 20 ms. "Produces again" is the partition's first record after the
kill, which besides waits for a record to be due: a partition has several a second.
"""

import argparse
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Consumer, TopicPartition

from benchmarks.support import (
    Arrival,
    Table,
    Watch,
    Worker,
    add_outputs,
    broker,
    looped,
    publish,
    telephone,
    temporary_home,
)
from deploy.broker import PROPERTIES
from processors.base import Record
from schemas.errors import CalltideError
from schemas.events import Segment, decode
from schemas.topics import STAGES
from streams import kafka, runtime
from streams.ingest import Ingest
from streams.memory import Log
from streams.memory import Worker as InMemory
from streams.settings import Settings
from streams.stages import build

COMMAND: Final = "python -m benchmarks.rebalance"
VAD: Final = STAGES[0]
CALLS: Final = 40
"""About five a partition, each with a record of VAD a second or so."""
CASE: Final = "REBALANCE_CASE"
"""Environment variable of the workers: protocol, and whether membership is static."""
TRIES: Final = 3
SETTLE_S: Final = 4.0
"""Between two tries, so that nothing of the one is seen in the other."""
WAIT_S: Final = 120.0
PROMISED_AFTER_START_S: Final = 1.0
PROMISED_AFTER_SESSION_S: Final = 2.0
SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Case:
    """A way of being a member, and of dying."""

    protocol: str
    static: bool
    for_good: bool

    def __str__(self) -> str:
        member = "static" if self.static else "dynamic"
        protocol = "KIP-848" if self.protocol == "consumer" else self.protocol
        return f"{member}, {protocol}"


CASES: Final = (
    *(Case(protocol, static, False) for static in (True, False) for protocol in ("classic", "consumer")),
    *(Case(protocol, True, True) for protocol in ("classic", "consumer")),
)


@dataclass(slots=True)
class Try:
    """One kill. Seconds."""

    again_s: float
    """From the kill until every partition that the worker held had a record again."""
    silence_s: float
    starts: int
    """How often the worker was started until it served: as `calltide up` does, whatever it ends with."""


@dataclass(slots=True)
class Result:
    """What became of a case."""

    case: Case
    start_s: float
    """An undisturbed start: from the spawn until it serves."""
    usual_s: float
    """The longest delay of a partition's record when nobody was killed."""
    tries: list[Try] = field(default_factory=list)
    segments: int = 0
    doubled: int = 0
    lost: int = 0

    def kept(self, session_s: float) -> bool:
        """Whether every try kept what the runtime promises to this kind of death."""
        allowed = session_s + PROMISED_AFTER_SESSION_S if self.case.for_good else self.start_s + PROMISED_AFTER_START_S
        return all(one.again_s <= allowed for one in self.tries)


class _Listener:
    """Keeps what arrives in VAD's topic."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.arrivals: list[Arrival] = []

    def during(self, seconds: float) -> list[Arrival]:
        """What comes in so many seconds."""
        first, until = len(self.arrivals), time.time() + seconds
        while (left := until - time.time()) > 0:
            self.arrivals += self.watch.read(min(left, 0.1))
        return self.arrivals[first:]

    def until_all(self, partitions: Set[int], since: float, survivors: Sequence[Worker]) -> float:
        """When the last of the partitions had a record that was caused after the moment `since`."""
        missing = set(partitions)
        deadline = time.time() + WAIT_S
        last = since
        while missing:
            for survivor in survivors:
                _ = survivor.running
            if time.time() > deadline:
                raise CalltideError(f"partitions {sorted(missing)} stay silent for {WAIT_S:.0f} s")
            found = self.watch.read(0.05)
            self.arrivals += found
            for arrival in found:
                if arrival.partition in missing and arrival.caused_at > since:
                    missing.discard(arrival.partition)
                    last = arrival.at
        return last


def _worst(arrivals: Sequence[Arrival]) -> float:
    """The longest time from a record's cause to its arrival."""
    return max((arrival.at - arrival.caused_at for arrival in arrivals), default=0.0)


@contextmanager
def _calls(settings: Settings, number: int) -> Iterator[None]:
    """Calls in real time until the block ends; then each is ended properly."""
    stop, faults = threading.Event(), list[BaseException]()
    calls = looped(telephone(settings.directory), number, 3_600.0, SEED, phase_s=2.0)

    def send() -> None:
        try:
            Ingest(settings).run(calls, 1.0, stop)
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if faults:
        raise faults[0]


def measure(case: Case, number: int, tries: int) -> Result:
    """A broker, calls and workers of its own for one case."""
    os.environ[CASE] = f"{case.protocol} {case.static}"
    try:
        with ExitStack() as stack:
            settings = stack.enter_context(temporary_home())
            stack.enter_context(broker(settings))
            workers = [
                stack.enter_context(Worker(settings, VAD.name, slot, "benchmarks.rebalance"))
                for slot in range(1 + case.for_good)
            ]
            start_s = max(_start(worker) for worker in workers)
            listener = _Listener(stack.enter_context(Watch(settings, [VAD.writes])))
            with _calls(settings, number):
                _settled(settings, workers)
                usual = listener.during(SETTLE_S * 3)
                # Chance may leave a partition without a call.
                busy = {arrival.partition for arrival in usual}
                result = Result(case, start_s, _worst(usual[len(usual) // 2 :]))
                for _ in range(tries):
                    result.tries.append(_kill(listener, workers, case, busy))
                    _settled(settings, workers)
                    listener.during(SETTLE_S)
            _count(settings, listener, result)
            return result
    finally:
        del os.environ[CASE]


def _start(worker: Worker) -> float:
    began = time.monotonic()
    worker.start().wait()
    return time.monotonic() - began


def _settled(settings: Settings, workers: Sequence[Worker]) -> None:
    """Every worker has its share of the partitions."""
    share, deadline = settings.kafka.partitions // len(workers), time.monotonic() + WAIT_S
    while any(len(worker.partitions()) < share for worker in workers):
        if time.monotonic() > deadline:
            raise CalltideError(f"the group does not share its partitions within {WAIT_S:.0f} s")
        time.sleep(0.1)


def _kill(listener: _Listener, workers: Sequence[Worker], case: Case, busy: Set[int]) -> Try:
    """The last worker dies; where another is left, it is started again only when that one has taken over."""
    victim = workers[-1]
    held = busy & set(victim.partitions())
    first = len(listener.arrivals)
    victim.ready.unlink()
    victim.kill()
    killed = time.time()
    starts: list[float] = []
    """When the worker was started again."""

    def restart() -> None:
        while not victim.ready.exists() and time.time() < killed + WAIT_S:
            starts.append(time.time())
            with suppress(CalltideError):
                _start(victim)

    starting = threading.Thread(target=restart)
    if not case.for_good:
        starting.start()
    again = listener.until_all(held, killed, workers[:-1])
    if case.for_good:
        starting.start()
    listener.during(1.0)  # what waited comes out
    silence_s = _worst([arrival for arrival in listener.arrivals[first:] if arrival.partition in held])
    while starting.is_alive():
        listener.during(0.1)
    starting.join()
    _ = victim.running
    return Try(again - killed, silence_s, len(starts))


def _count(settings: Settings, listener: _Listener, result: Result) -> None:
    """Compare the segments with what the same records give in memory."""
    sent = _sent(settings)
    ends = sum(record.kind == "call_ended" for records in sent.values() for record in records)
    deadline = time.monotonic() + WAIT_S
    while sum(arrival.kind == "call_ended" for arrival in listener.arrivals) < ends:
        if time.monotonic() > deadline:
            break
        listener.during(0.5)
    listener.during(1.0)
    heard: dict[str, int] = defaultdict(int)
    for arrival in listener.arrivals:
        if arrival.kind == "segment":
            heard[_identity(arrival.headers, arrival.value)] += 1
    target, processor = Log(), build(settings, VAD)
    for records in sent.values():  # apart, because a partition's time ends calls that have gone silent
        memory = InMemory(VAD, processor, Log(records), target)
        while not memory.at_end:
            memory.turn(VAD.batch)
    wanted = {_identity(record.headers, record.value) for record in target.records if record.kind == "segment"}
    result.segments = len(wanted)
    result.doubled = sum(count - 1 for count in heard.values()) + len(heard.keys() - wanted)
    result.lost = len(wanted - heard.keys())


def _identity(headers: Mapping[str, bytes], value: bytes) -> str:
    event = decode(headers, value)
    assert isinstance(event, Segment)
    return event.identity


def _sent(settings: Settings) -> dict[int, list[Record]]:
    """All that ingest has written, by partition."""
    sent: dict[int, list[Record]] = defaultdict(list)
    ends = {}
    with Consumer(kafka.consumer(settings, **{"group.id": "benchmark.sent"})) as consumer:
        for number in range(settings.kafka.partitions):
            _, end = consumer.get_watermark_offsets(TopicPartition(VAD.reads, number), timeout=10)
            if end:
                ends[number] = end
        consumer.assign([TopicPartition(VAD.reads, number, 0) for number in ends])
        while any(len(sent[number]) < end for number, end in ends.items()):
            for message in consumer.consume(1_000, 0.2):
                assert message.error() is None
                headers = {name: value or b"" for name, value in kafka.headers_of(message)}
                key, kind = (message.key() or b"").decode(), headers["kind"].decode()
                record = Record(key, kind, headers, message.value() or b"", message.timestamp()[1])
                sent[kafka.partition_of(message)].append(record)
    return sent


def tables(results: Sequence[Result], settings: Settings) -> list[Table]:
    """One row a case."""
    session_s = settings.kafka.session_timeout_ms / 1_000
    broker_s = int(PROPERTIES["group.consumer.session.timeout.ms"]) / 1_000
    tries = max(len(result.tries) for result in results)
    table = Table(
        f"Silence of a partition after kill -9 of its VAD worker, worst partition, {tries} tries each",
        ("member", "then", "produces again after", "silence", "own start-up", "starts", "promised", "doubled", "lost"),
        [],
        [
            f"Session timeout: {session_s:.0f} s, in the classic protocol the setting "
            f"CALLTIDE_KAFKA__SESSION_TIMEOUT_MS; with KIP-848 it is the broker's `group.consumer.session.timeout.ms`: "
            f"{broker_s:.0f} s in the embedded broker, 45 s by default elsewhere. Own start-up: from the spawn of an "
            f"undisturbed worker until it serves. Starts: a static member of KIP-848 "
            f"that was killed is refused, and its process ends, until its session has run out; whoever watches it "
            f"starts it again. Promised: own start-up and {PROMISED_AFTER_START_S:.0f} s, or the "
            f"session timeout and {PROMISED_AFTER_SESSION_S:.0f} s. Without a kill nothing took longer than "
            f"{max(result.usual_s for result in results):.2f} s. Doubled and lost: of "
            f"{sum(result.segments for result in results):,} segments, against the same audio in memory."
        ],
        [
            {"case": str(result.case), "for_good": result.case.for_good, "start_s": result.start_s}
            | {"tries": [(one.again_s, one.silence_s, one.starts) for one in result.tries]}
            for result in results
        ],
    )
    for result in results:
        promised = "kept" if result.kept(session_s) else "**broken**"
        table.rows.append(
            (
                str(result.case),
                "another takes over" if result.case.for_good else "started again",
                " ".join(f"{one.again_s:.1f}" for one in result.tries) + " s",
                f"{max(one.silence_s for one in result.tries):.1f} s",
                f"{result.start_s:.1f} s",
                f"{max(one.starts for one in result.tries)}",
                promised if result.case.static else f"({promised})",
                f"{result.doubled}",
                f"{result.lost}",
            )
        )
    return [table]


def _stage() -> None:
    """Be the `streams` program, with the kind of membership that the case wants."""
    from streams.__main__ import main as streams

    protocol, static = os.environ[CASE].split()
    ours = runtime.group_config

    def theirs(settings: Settings, group: str, member: str) -> dict[str, object]:
        config = ours(settings, group, member) | {"group.protocol": protocol}
        absent = set() if static == "True" else {"group.instance.id"}
        if protocol == "consumer":
            # The broker's to say.
            absent |= {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"}
        return {name: value for name, value in config.items() if name not in absent}

    class Incremental(Consumer):
        """KIP-848 knows cooperative rebalances only, and they are told otherwise."""

        def assign(self, partitions: list[TopicPartition]) -> None:
            self.incremental_assign(partitions)

    runtime.group_config = theirs
    if protocol == "consumer":
        runtime.Consumer = Incremental  # type: ignore[misc]
    streams()


def main() -> None:
    """Measure, print."""
    if sys.argv[1:2] == ["stage"]:
        _stage()
        return
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N", help=f"calls at once (default: {CALLS})")
    parser.add_argument("--tries", type=int, default=TRIES, metavar="N", help=f"kills a case (default: {TRIES})")
    add_outputs(parser)
    arguments = parser.parse_args()
    print(f"{len(CASES)} cases; takes about {len(CASES) * (20 + arguments.tries * 13) / 60:.0f} minutes")
    results = []
    for case in CASES:
        print(f"{case}, {'killed for good' if case.for_good else 'started again'}", file=sys.stderr)
        results.append(measure(case, arguments.calls, arguments.tries))
    with temporary_home() as settings:
        found = tables(results, settings)
    publish({COMMAND: found}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
