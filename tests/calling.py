"""`calltide serve` in a test's own loop, a telephone system's side of it, and what came of a call in Kafka."""

import asyncio
import base64
import json
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import uvloop
from prometheus_client import REGISTRY
from websockets.asyncio.client import ClientConnection, connect

from deploy.topics import Topics
from schemas.events import CallEnded, CallStarted, decode
from schemas.topics import DEFAULT_PARTITIONS, FRAMES, SCORES, TOPICS, TRANSCRIPTS_INTERIM
from streams.health import Health
from streams.ingestion.server import Switchboard
from streams.settings import Serve, Settings
from tests.workers import Found, everything


def settings_for(bootstrap: str, home: Path) -> Settings:
    """Settings of a broker that has the topics of a server."""
    names = (FRAMES, SCORES, TRANSCRIPTS_INTERIM)
    Topics(bootstrap).create([topic for topic in TOPICS if topic.name in names])
    base = Settings()
    kafka = base.kafka.model_copy(update={"bootstrap_servers": bootstrap})
    return base.model_copy(update={"home": home, "kafka": kafka})


@asynccontextmanager
async def served(settings: Settings, **fields: object) -> AsyncIterator[Switchboard]:
    """A running server on free ports."""
    stop, health = threading.Event(), Health()
    serving = Serve.model_validate({"port": 0, "audiosocket_port": 0, **fields})
    switchboard = Switchboard(settings, serving, stop)
    running = asyncio.create_task(switchboard.run(health))
    ready = asyncio.create_task(asyncio.to_thread(health.serving.wait, 30))
    await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    try:
        yield switchboard
    finally:
        stop.set()
        await running


def run(test: Callable[[], Awaitable[None]]) -> None:
    """In the loop of the real process, with a limit: a test that hangs says so. Other modules run in asyncio's."""

    async def limited() -> None:
        async with asyncio.timeout(60):
            await test()

    uvloop.run(limited())


def call_of(settings: Settings, call_id: str) -> list[Found]:
    """The call's records, in order."""
    found = everything(settings.bootstrap_servers, FRAMES, DEFAULT_PARTITIONS).found
    return [record for record in found if record.key == call_id]


def sound(records: list[Found], channel: int = 0) -> bytes:
    """What was said on a channel."""
    return b"".join(record.value or b"" for record in records if record.headers.get("channel") == str(channel).encode())


def ending(records: list[Found]) -> CallEnded:
    """The call's end; there is one, and a start, and packets without a hole in their numbers."""
    events = [decode(record.headers, record.value or b"") for record in records if record.headers["kind"] != b"audio"]
    assert isinstance(events[0], CallStarted)
    assert sum(isinstance(event, CallEnded) for event in events) == 1
    assert isinstance(events[-1], CallEnded)
    return events[-1]


def counted(name: str, **labels: str) -> float:
    """A metric as it stands."""
    return REGISTRY.get_sample_value(f"calltide_ingest_{name}", labels) or 0.0


SOUND = np.random.default_rng(3).integers(0, 255, 8_000, dtype=np.uint8).tobytes()
"""A second of mu-law."""


class Twilio:
    """The client's side of a stream."""

    def __init__(self, socket: ClientConnection, call_id: str) -> None:
        self.socket = socket
        self.call_id = call_id
        self.stream = f"MZ{uuid.uuid4().hex}"

    async def start(self) -> None:
        """Both tracks."""
        start = {
            "accountSid": "AC1",
            "callSid": self.call_id,
            "streamSid": self.stream,
            "tracks": ["inbound", "outbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"queue": "billing"},
        }
        await self.socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        await self._send("start", start)

    async def media(self, at_ms: int, sound: bytes) -> None:
        """20 ms at a time, on both tracks."""
        for start in range(0, len(sound), 160):
            payload = base64.b64encode(sound[start : start + 160]).decode()
            for track in ("inbound", "outbound"):
                fields = {"track": track, "chunk": "1", "timestamp": str(at_ms + start // 8), "payload": payload}
                await self._send("media", fields)

    async def stop(self) -> None:
        """The call is over; the server closes."""
        await self._send("stop", {"accountSid": "AC1", "callSid": self.call_id})
        await self.socket.wait_closed()

    async def _send(self, kind: str, fields: object) -> None:
        await self.socket.send(
            json.dumps({"event": kind, "sequenceNumber": "1", "streamSid": self.stream, kind: fields})
        )


def twilio(switchboard: Switchboard, path: str = "/twilio", **options: object) -> connect:
    return connect(f"ws://127.0.0.1:{switchboard.port}{path}", **options)  # type: ignore[arg-type]
