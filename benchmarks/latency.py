"""From the end of speech to the score at a websocket client: the whole chain with real models, calls in real time.

Every call is the packaged telephone conversation (8 kHz mu-law, a party a channel), repeated, begun at its own place in
it and at its own moment within a few seconds, both drawn with a fixed seed. A consumer beside the chain notes when each
utterance arrives on each topic, which tells the stages' parts and what waits where.

A changer must know: nothing is left out. A run ends when the end of every call has reached the client, however long
that takes, so an overloaded machine shows as latency and not as missing scores.
"""

import asyncio
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console

from benchmarks import cpu
from benchmarks.support import Table, percentile, temporary_home
from schemas.errors import CalltideError
from schemas.events import CallEnded, Score, Segment, decode
from schemas.topics import CHAIN
from streams import kafka, samples
from streams.ingest import MAXIMUM_SPEED, Call, Ingest, prepare
from streams.listen import subscribe
from streams.settings import Settings
from streams.supervisor import Supervisor

LEVELS: Final = (1, 8, 25)
"""Concurrent calls measured by default."""
LADDER: Final = (1, 2, 4, 8, 12, 16, 20, 25, 30, 40, 50, 60, 80, 100)
"""Concurrent calls among which the limit is searched."""
LIMIT_S: Final = 2.0
"""Judgement: a score that comes later than this after the words does not feel live."""
CALL_S: Final = 60
PHASE_S: Final = 4.0
IDLE_S: Final = 5.0
DRAIN_S: Final = 600.0
"""Longest wait for the last score after the last packet."""
SEED: Final = 1

CLIENT: Final = "client"
PATH: Final = (*(row.writes for row in CHAIN), CLIENT)
"""Where an utterance is seen, in order."""


@dataclass(slots=True)
class Run:
    """What was seen with a number of concurrent calls. Moments are Unix seconds."""

    calls: int
    began: float
    call_s: float
    """Length of all calls together."""
    sent: float = 0.0
    """When the last packet was sent."""
    done: float = 0.0
    """When the end of the last call was at the client."""
    captured: dict[str, float] = field(default_factory=dict)
    """Utterance → when its last sample was captured."""
    speech_s: float = 0.0
    seen: dict[str, dict[str, float]] = field(default_factory=lambda: {place: {} for place in PATH})
    """Place → utterance → when it was there."""
    ended: dict[str, dict[str, float]] = field(default_factory=lambda: {place: {} for place in PATH})
    """Place → call → when its end was there."""
    idle: dict[str, cpu.Usage] = field(default_factory=dict)
    used: dict[str, cpu.Usage] = field(default_factory=dict)

    @property
    def latencies(self) -> list[float]:
        """Seconds from the capture of the last sample to the client, an utterance each."""
        return [at - self.captured[utterance] for utterance, at in self.seen[CLIENT].items()]

    @property
    def p95(self) -> float:
        return percentile(self.latencies, 0.95)

    def hops(self) -> Iterator[tuple[str, list[float]]]:
        """(stage, seconds from the place before it to the place behind it); the first counts from the capture."""
        before = self.captured
        for name, place in zip((*(row.name for row in CHAIN), "gateway"), PATH, strict=True):
            after = self.seen[place]
            yield name, [at - before[utterance] for utterance, at in after.items()]
            before = after

    def waiting(self) -> dict[str, int]:
        """Utterances that had reached a stage and not left it when the last packet was sent."""

        def there(place: str) -> int:
            return sum(at <= self.sent for at in self.seen[place].values())

        return {row.name: there(row.reads) - there(row.writes) for row in CHAIN[1:]}


class Chain:
    """A running chain, and what is heard of it while calls are made."""

    def __init__(self, settings: Settings, supervisor: Supervisor, directory: Path) -> None:
        self.settings = settings
        self.supervisor = supervisor
        self.directory = directory
        conversation = samples.two_channel(directory)
        self.audio, self.rate = soundfile.read(conversation, dtype="float32")
        self.idle = self._warm_up(conversation)

    def _warm_up(self, conversation: Path) -> dict[str, cpu.Usage]:
        """One call as fast as it goes, then the cost of doing nothing."""
        calls = prepare([conversation])
        self._make(Run(1, time.time(), 0.0), calls, MAXIMUM_SPEED)
        time.sleep(1)
        before = cpu.usage(self.supervisor)
        time.sleep(IDLE_S)
        return cpu.since(before, cpu.usage(self.supervisor), IDLE_S)

    def measure(self, number: int) -> Run:
        """So many calls at once, to their end."""
        numbers = random.Random(SEED)
        calls: list[Call] = []
        for i in range(number):
            path = self.directory / f"{number}-calls-{i}.wav"
            start = numbers.randrange(len(self.audio))
            repeated = np.take(self.audio, range(start, start + CALL_S * self.rate), axis=0, mode="wrap")
            soundfile.write(path, repeated, self.rate, subtype="ULAW")
            (call,) = prepare([path])
            call.delay_s = numbers.uniform(0, PHASE_S)
            calls.append(call)
        run = Run(number, time.time(), number * CALL_S, idle=self.idle)
        restarts, before = self.supervisor.restarts, cpu.usage(self.supervisor)
        self._make(run, calls, 1.0)
        run.used = cpu.since(before, cpu.usage(self.supervisor), run.call_s)
        if self.supervisor.restarts != restarts:
            raise CalltideError("a process ended during the measurement; see its log and measure again")
        return run

    def _make(self, run: Run, calls: Sequence[Call], speed: float) -> None:
        """Stream the calls, and watch topics and client until everything has arrived."""
        stop, ready = threading.Event(), threading.Event()
        faults: list[BaseException] = []

        def guarded(work: Callable[[], None]) -> threading.Thread:
            def guard() -> None:
                try:
                    work()
                except BaseException as error:
                    faults.append(error)

            return threading.Thread(target=guard, daemon=True)

        def send() -> None:
            Ingest(self.settings).run(calls, speed, stop)
            run.sent = time.time()

        threads = [guarded(lambda: self._watch(run, stop, ready)), guarded(send)]
        threads[0].start()
        while not ready.wait(0.1) and not faults:
            pass

        async def listen() -> None:
            gateway = self.settings.gateway
            messages = subscribe(f"ws://{gateway.host}:{gateway.port}/v1/scores")
            await anext(messages)  # the hello: from here on nothing is missed
            threads[1].start()

            async def hear() -> None:
                async for message in messages:
                    at, event = time.time(), message.get("event")
                    if event and event["kind"] == "score":
                        run.seen[CLIENT][Score.model_validate(event).identity] = at
                    elif event and event["kind"] == "call_ended":
                        run.ended[CLIENT][event["call"]["call_id"]] = at

            hearing = asyncio.create_task(hear())
            names = {call.info.call_id for call in calls}
            while not all(names <= ended.keys() for ended in run.ended.values()):
                await asyncio.sleep(0.1)
                self.supervisor.tend()
                if hearing.done():
                    hearing.result()
                if faults:
                    raise faults[0]
                if run.sent and time.time() > run.sent + DRAIN_S:
                    raise CalltideError(f"not every score came within {DRAIN_S:.0f} s; see the logs of the stages")
            hearing.cancel()

        try:
            asyncio.run(listen())
        finally:
            stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        run.done = max(run.ended[CLIENT].values())

    def _watch(self, run: Run, stop: threading.Event, ready: threading.Event) -> None:
        """Note when what is committed arrives on the topics of the chain."""
        partitions = range(self.settings.kafka.partitions)
        with Consumer(kafka.consumer(self.settings, **{"group.id": "benchmark"})) as consumer:
            places = [TopicPartition(row.writes, partition) for row in CHAIN for partition in partitions]
            for place in places:
                _, place.offset = consumer.get_watermark_offsets(place, timeout=10)
            consumer.assign(places)
            ready.set()
            while not stop.is_set():
                message = consumer.poll(0.1)
                if message is None or message.error():
                    continue
                at, topic = time.time(), message.topic() or ""
                headers = {name: value or b"" for name, value in kafka.headers_of(message)}
                event = decode(headers, message.value() or b"")
                if isinstance(event, Segment):
                    run.seen[topic][event.identity] = at
                    if topic == CHAIN[0].writes:
                        run.captured[event.identity] = event.captured_at.timestamp()
                        run.speech_s += (event.end_ms - event.start_ms) / 1_000
                elif isinstance(event, CallEnded):
                    run.ended[topic][event.call.call_id] = at


@contextmanager
def _chain(console: Console) -> Iterator[Chain]:
    with (
        temporary_home() as settings,
        tempfile.TemporaryDirectory(prefix="calltide-benchmark-") as directory,
        Supervisor(settings, lambda text: console.print(f"  {text}", highlight=False)) as supervisor,
    ):
        yield Chain(settings, supervisor, Path(directory))


def measure(levels: Sequence[int], search: bool, console: Console) -> list[Run]:
    """One run for each of `levels`; with `search` also those of the ladder between which p95 passes the limit."""
    runs: dict[int, Run] = {}
    with _chain(console) as chain:

        def one(calls: int) -> None:
            console.print(f"  {calls} at once, in real time", highlight=False)
            runs[calls] = chain.measure(calls)
            console.print(f"    p95 {runs[calls].p95:.2f} s", highlight=False)

        for calls in levels:
            one(calls)
        while search and (rung := _next(runs)):
            one(rung)
    return [runs[calls] for calls in sorted(runs)]


def _next(runs: dict[int, Run]) -> int | None:
    """The number of calls to try next: halfway between the most that keep the limit and the fewest that do not."""
    low = max((calls for calls, run in runs.items() if run.p95 <= LIMIT_S), default=0)
    high = min((calls for calls, run in runs.items() if run.p95 > LIMIT_S and calls > low), default=LADDER[-1] + 1)
    rungs = [calls for calls in LADDER if low < calls < high]
    if high > LADDER[-1]:
        return rungs[0] if rungs else None
    return rungs[len(rungs) // 2] if rungs else None


def tables(runs: Sequence[Run]) -> list[Table]:
    """Latency by number of calls, where it goes, and what waits at the end."""
    whole = Table(
        "End of speech to score at a websocket client",
        ("calls at once", "scores", "p50", "p95", "max", "waiting when the last packet was sent", "all there after"),
        [],
        data=[],
    )
    parts = Table(
        "Where the time goes (p50 / p95 of each stage, from its input topic to its output topic, in ms)",
        ("calls at once", *(row.name for row in CHAIN), "gateway"),
        [],
        data=[],
    )
    for run in runs:
        found, waiting, hops = run.latencies, run.waiting(), dict(run.hops())
        behind = ", ".join(f"{name} {count}" for name, count in waiting.items() if count > 0) or "nothing"
        whole.rows.append(
            (
                f"{run.calls}",
                f"{len(found)}",
                *(f"{percentile(found, share):.2f} s" for share in (0.5, 0.95, 1.0)),
                behind,
                f"{run.done - run.sent:.1f} s",
            )
        )
        whole.data.append({"calls": run.calls, "latency_s": found, "waiting": waiting, "drain_s": run.done - run.sent})
        parts.rows.append(
            (
                f"{run.calls}",
                *(f"{percentile(v, 0.5) * 1_000:.0f} / {percentile(v, 0.95) * 1_000:.0f}" for v in hops.values()),
            )
        )
        parts.data.append({"calls": run.calls, "hops_s": hops})
    busiest = max(runs, key=lambda run: run.calls)
    utterances = len(busiest.captured) / busiest.call_s * 60
    whole.notes.append(_limit(runs))
    whole.notes.append(
        f"A call has {utterances:.0f} utterances a minute and {busiest.speech_s / busiest.call_s:.2f} s of speech a "
        f"second, both parties together; each lasts {CALL_S} s."
    )
    return [whole, parts]


def _limit(runs: Sequence[Run]) -> str:
    kept = max((run.calls for run in runs if run.p95 <= LIMIT_S), default=0)
    passed = min((run.calls for run in runs if run.p95 > LIMIT_S and run.calls > kept), default=None)
    if passed is None:
        return f"p95 stays below {LIMIT_S:.0f} s up to the {kept} calls that were tried."
    return f"p95 passes {LIMIT_S:.0f} s between **{kept} and {passed} calls**."
