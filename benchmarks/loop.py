"""The bare loop: what Kafka and the runtime cost when the stage computes nothing.

A processor that passes everything through runs in the real StageWorker, exactly-once, on an embedded broker, in
processes of their own as in production. Measured are records a second, the latency of one hop, and that of five in a
row.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any, Final

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.support import Table, percentile, temporary_home
from deploy.broker import Broker
from deploy.topics import Topics
from processors.base import Output, Record, Step
from schemas.errors import CalltideError
from schemas.topics import CHAIN, Stage
from streams import kafka
from streams.health import Health
from streams.runtime import StageWorker
from streams.settings import Settings

VALUE: Final = bytes(3_200)
"""A packet of 100 ms at 16 kHz, 16 bit."""
CALLS: Final = 64
RECORDS: Final = 120_000
WARM_UP_S: Final = 2.0
MEASURED_S: Final = 6.0
SINGLE: Final = 300
RATES: Final = ((4, 20.0), (40, 10.0))
"""Records a second through five stages, and for how many seconds."""
WAIT_S: Final = 60.0


class PassThrough:
    """A stage that writes what it reads."""

    idle_timeout_ms: int | None = None

    def open(self, call_id: str) -> None:
        return None

    def restore(self, call_id: str, snapshot: bytes) -> None:
        return None

    def process(self, batch: Sequence[tuple[Any, Record]]) -> list[Step]:
        return [Step([Output(list(record.headers.items()), record.value)]) for _, record in batch]


def _work(settings: Settings, row: Stage, ready: Event, stop: Event) -> None:
    health = Health()
    health.serving = ready  # type: ignore[assignment]  # an event that another process can wait for
    StageWorker(settings, [row], PassThrough()).run(stop, health)  # type: ignore[arg-type]


@contextmanager
def _stages(settings: Settings, rows: Sequence[Stage]) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    stop, readies = context.Event(), [context.Event() for _ in rows]
    processes = [
        context.Process(target=_work, args=(settings, row, ready, stop), daemon=True)
        for row, ready in zip(rows, readies, strict=True)
    ]
    for process in processes:
        process.start()
    try:
        for row, ready in zip(rows, readies, strict=True):
            if not ready.wait(WAIT_S):
                raise CalltideError(f"the worker of {row.name} did not start; run the benchmark again and see its log")
        yield
    finally:
        stop.set()
        for process in processes:
            process.join(WAIT_S)


def _send(producer: Producer, number: int, topic: str) -> None:
    key = f"call-{number % CALLS}".encode()
    headers: dict[str, str | bytes | None] = {"kind": b"audio", "number": str(number).encode()}
    while True:
        try:
            producer.produce(topic, VALUE, key, headers=headers)
            return
        except BufferError:
            producer.poll(0.1)


def throughput(settings: Settings) -> float:
    """Records a second of one worker that has a backlog to work off, once it is warm."""
    row = CHAIN[0]
    producer = Producer(kafka.producer(settings, **{"linger.ms": 20, "batch.size": 1_000_000}))
    for number in range(RECORDS):
        _send(producer, number, row.reads)
    producer.flush()
    # Reads what the worker has committed, and never joins its group.
    watcher = Consumer({"bootstrap.servers": settings.bootstrap_servers, "group.id": f"calltide.{row.name}"})
    partitions = [TopicPartition(row.reads, partition) for partition in range(settings.kafka.partitions)]

    def done() -> int:
        return sum(max(partition.offset, 0) for partition in watcher.committed(partitions, 10))

    before = done()
    with _stages(settings, [row]):
        _until(lambda: done() > before, "the first commit")
        time.sleep(WARM_UP_S)
        first, began = done(), time.monotonic()
        last, ended = first, began
        while ended < began + MEASURED_S:
            time.sleep(0.2)
            now = done()
            if now >= before + RECORDS:
                break
            last, ended = now, time.monotonic()
    watcher.close()
    if last == first:
        raise CalltideError(f"{RECORDS} records were too few for this machine; raise RECORDS in benchmarks/loop.py")
    return (last - first) / (ended - began)


def latencies(settings: Settings, rows: Sequence[Stage], rate: float | None, count: int) -> list[float]:
    """Milliseconds from `produce` to a read_committed consumer, for `count` records through the stages `rows`.

    `rate` records a second; None: each is sent when the one before has arrived.
    """
    producer = Producer(kafka.producer(settings))
    found: list[float] = []
    with _stages(settings, rows), Consumer(kafka.consumer(settings, **{"group.id": "benchmark"})) as consumer:
        ends = [TopicPartition(rows[-1].writes, partition) for partition in range(settings.kafka.partitions)]
        for end in ends:
            _, end.offset = consumer.get_watermark_offsets(end, timeout=WAIT_S)
        consumer.assign(ends)
        warm = 20
        sent: dict[int, float] = {}
        number = received = 0
        due = time.monotonic()
        while received < count + warm:
            now = time.monotonic()
            if number < count + warm and (received == number if rate is None else now >= due):
                sent[number] = now
                _send(producer, number, rows[0].reads)
                producer.poll(0)
                number += 1
                due += 1 / rate if rate else 0
                now = time.monotonic()
            if sent and now - sent[max(sent)] > WAIT_S:
                raise CalltideError("records did not come through the stages; see that the machine is not overloaded")
            waiting = number < count + warm and rate is not None
            message = consumer.poll(max(min(due - now, 0.1), 0) if waiting else 0.1)
            if message is None or message.error():
                continue
            arrived = int(dict(kafka.headers_of(message))["number"] or b"")
            received += 1
            if arrived >= warm:
                found.append((time.monotonic() - sent[arrived]) * 1_000)
        producer.flush()
    return found


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise CalltideError(f"not within {WAIT_S:.0f} s: {what}; see that the machine is not overloaded")
        time.sleep(0.1)


def run() -> list[Table]:
    """Measure everything on a broker of its own."""
    with (
        temporary_home() as settings,
        Broker(settings.directory, settings.broker.port, heap_mb=settings.broker.heap_mb),
    ):
        Topics(settings.bootstrap_servers).ensure(settings.topics)
        # The last stage alone first: the backlog of the throughput would reach it through the stages before.
        measured = {"one stage, one record at a time": latencies(settings, CHAIN[-1:], None, SINGLE)}
        for rate, seconds in RATES:
            name = f"five stages, {rate} records/s"
            measured[name] = latencies(settings, CHAIN, rate, round(rate * seconds))
        speed = throughput(settings)
    rows: list[tuple[str, ...]] = [
        (name, f"{len(values)}", *(f"{percentile(values, share):.0f} ms" for share in (0.5, 0.95, 1.0)))
        for name, values in measured.items()
    ]
    return [
        Table(
            "The loop without models",
            ("path", "records", "p50", "p95", "max"),
            rows,
            [f"One worker with a backlog: **{speed:,.0f} records/s**, {len(VALUE):,} bytes each, exactly-once."],
            {"records_per_s": round(speed), "latency_ms": measured},
        )
    ]
