"""The API with a real broker, ClickHouse and sink, and stages that hear nothing and say how far they are: for tests of
what is fed over the API. Nothing here is imported by the product.
"""

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile
from confluent_kafka import Consumer, Producer

from deploy.process import free_port
from deploy.topics import Topics
from schemas.audio import AudioPacket
from schemas.events import CallEvent, CallInfo, Progress, RunningScore, Score, decode, encode
from schemas.topics import BATCH_FRAMES
from streams import kafka
from streams.api.feeder import WRITES
from streams.settings import Settings, load
from streams.sink import Sink, connect, migrate
from streams.web import serve_until

EVERY_MS = 10_000
"""Of media time, between two marks and two utterances of the stages."""


class Stages:
    """In the place of the stages of the batch lane: what they write of calls, all at once, in one thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.hold = threading.Event()
        """Set: what comes is left where it is."""

    def run(self, stop: threading.Event) -> None:
        consumer = Consumer(kafka.consumer(self.settings, **{"group.id": f"stages-{uuid.uuid4().hex}"}))
        consumer.subscribe([BATCH_FRAMES])
        producer = Producer(kafka.producer(self.settings))
        calls: dict[str, CallInfo] = {}
        heard: dict[str, int] = {}
        while not stop.is_set():
            if self.hold.is_set():
                stop.wait(0.05)
                continue
            for message in consumer.consume(1_000, 0.05):
                headers = {name: value or b"" for name, value in kafka.headers_of(message)}
                call_id = (message.key() or b"").decode()
                if headers["kind"] == b"audio":
                    packet = AudioPacket.decode(headers, message.value() or b"")
                    end_ms = (packet.sample + packet.samples) * 1_000 // packet.rate
                    before_ms = heard.get(call_id, 0)
                    heard[call_id] = max(before_ms, end_ms)
                    if end_ms // EVERY_MS > before_ms // EVERY_MS and (call := calls.get(call_id)):
                        self._write(producer, Progress(call=call, at_ms=end_ms), *WRITES)
                        self._write(producer, said(call, end_ms - EVERY_MS, self.settings), "scores")
                    continue
                event = decode(headers, message.value() or b"")
                calls[call_id] = event.call
                self._write(producer, event, *WRITES)
            producer.flush(10)
        consumer.close()

    def _write(self, producer: Producer, event: CallEvent, *topics: str) -> None:
        headers, value = encode(event)
        for topic in topics:
            kafka.put(producer, topic, key=event.call.call_id.encode(), value=value, headers=[*headers])


def said(call: CallInfo, start_ms: int, settings: Settings) -> Score:
    """An utterance of nine seconds."""
    return Score(
        call=call,
        channel=0,
        start_ms=start_ms,
        end_ms=start_ms + 9_000,
        codec="pcm_s16le",
        rate=8_000,
        captured_at=call.started_at,
        cut="pause",
        speaker="speaker-1",
        role="unknown",
        speaker_confidence=1.0,
        text=f"this was said at {start_ms}",
        words=(),
        language="en",
        asr_confidence=0.9,
        asr_model="none",
        running=RunningScore(score=0.0, party_score=0.0, utterances=1),
        pipeline_version=settings.pipeline_version,
    )


@dataclass
class Served:
    """A running service."""

    settings: Settings
    stages: Stages
    url: str
    threads: list[threading.Thread] = field(default_factory=list)

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=30)

    def task(self, task_id: str) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.get(f"/tasks/{task_id}").json())

    def settled(self, task_id: str, *states: str, seconds: float = 120) -> dict[str, Any]:
        """The task, once it is in one of these states."""
        deadline = time.monotonic() + seconds
        while (task := self.task(task_id))["state"] not in (states or ("completed",)):
            assert time.monotonic() < deadline, f"not {states} within {seconds} s: {task}"
            time.sleep(0.3)  # each look is two questions to ClickHouse, which has the work to do
        return task

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with connect(self.settings) as client:
            return [tuple(row) for row in client.query(sql, parameters).result_rows]


@contextmanager
def serving(home: Path, bootstrap: str, clickhouse: str, patch: Any, **more: str) -> Iterator[Served]:
    """The service, in the environment's own words, so that what it starts has the same settings. `patch`: a
    MonkeyPatch; `more`: further variables."""
    port = free_port()
    own = {
        "CALLTIDE_HOME": str(home),
        "CALLTIDE_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "CALLTIDE_KAFKA__GROUP_PREFIX": f"g{uuid.uuid4().hex[:8]}",
        "CALLTIDE_CLICKHOUSE__URL": clickhouse,
        "CALLTIDE_CLICKHOUSE__DATABASE": f"d{uuid.uuid4().hex[:8]}",
        "CALLTIDE_UPLOADS__CHUNK_S": "30",
        "CALLTIDE_WEB__PORT": str(port),
        **more,
    }
    for name, value in own.items():
        patch.setenv(name, value)
    load.cache_clear()
    settings = load()
    Topics(bootstrap).ensure(settings.topics)
    migrate(settings)
    stop, ready = threading.Event(), threading.Event()
    served = Served(settings, Stages(settings), f"http://127.0.0.1:{port}")
    works = (
        lambda: Sink(settings).run(stop),
        lambda: served.stages.run(stop),
        lambda: serve_until(settings, stop, ready.set),
    )
    served.threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in served.threads:
        thread.start()
    try:
        assert ready.wait(90)
        yield served
    finally:
        stop.set()
        for thread in served.threads:
            thread.join(60)
        load.cache_clear()


def noise(path: Path, seconds: float, channels: int = 1, rate: int = 8_000, **how: Any) -> Path:
    """A recording that is like no other."""
    samples = np.random.default_rng().uniform(-0.5, 0.5, (round(rate * seconds), channels))
    soundfile.write(path, samples, rate, **how)
    return path


def feeder_pid() -> int | None:
    """The process that works on uploads."""
    for child in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if child.cmdline()[-1:] == ["feeder"]:
                return child.pid
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return None
