"""A real recording through a websocket as Twilio sends it gives what `calltide analyze` hears in it."""

import asyncio
import uuid
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from deploy.topics import Topics
from processors.base import Record
from schemas.topics import DEFAULT_PARTITIONS, FRAMES, TOPICS
from streams.settings import load
from tests.telephony import Recording, served, twilio
from tests.workers import everything

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.slow]


def test_a_recording_gives_what_analyze_hears(kafka_bootstrap: str, test_data: Path, tmp_path: Path) -> None:
    recording = Recording(test_data, tmp_path, ("customer", "agent"))
    Topics(kafka_bootstrap).create([topic for topic in TOPICS if topic.name == FRAMES])
    base = load()
    settings = base.model_copy(update={"kafka": base.kafka.model_copy(update={"bootstrap_servers": kafka_bootstrap})})
    call = f"CA{uuid.uuid4().hex}"

    async def stream() -> None:
        async with (
            served(settings, results=False, keys={"twilio": {"acme": "a-key"}}) as address,
            connect(f"{address}/twilio/a-key") as socket,
        ):
            for message in twilio(recording, call):
                await socket.send(message)
            await asyncio.wait_for(socket.wait_closed(), 30)
            assert socket.close_code == 1000

    asyncio.run(stream())
    found = everything(kafka_bootstrap, FRAMES, DEFAULT_PARTITIONS).found
    records = [
        Record(one.key, one.headers["kind"].decode(), one.headers, one.value or b"", one.timestamp_ms)
        for one in found
        if one.key == call
    ]
    assert recording.heard(records) == recording.expected
