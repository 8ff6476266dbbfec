"""A real recording through the socket of a phone system, or as a file, gives what `calltide analyze` hears in it.

What comes back over the connection is for test_serve_results, whose tests are of the same.
"""

import asyncio
import struct
import uuid
from pathlib import Path

import numpy as np
import pytest
import soundfile
from websockets.asyncio.client import connect

from processors.audio import decode
from processors.base import Record
from schemas.topics import DEFAULT_PARTITIONS, FRAMES
from streams.ingest import MAXIMUM_SPEED
from streams.ingestion.files_run import FilesRun, Source
from streams.settings import Settings
from tests.calling import served, settings_for
from tests.telephony import RATE, Recording, twilio, utterances
from tests.workers import everything

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.slow]


@pytest.fixture(scope="module")
def settings(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_for(kafka_bootstrap, tmp_path_factory.mktemp("home"))


def records_of(settings: Settings, call_id: str) -> list[Record]:
    """What a stage reads of the call."""
    found = everything(settings.bootstrap_servers, FRAMES, DEFAULT_PARTITIONS).found
    return [
        Record(one.key, one.headers["kind"].decode(), one.headers, one.value or b"", one.timestamp_ms)
        for one in found
        if one.key == call_id
    ]


def test_twilio(settings: Settings, recording: Recording) -> None:
    call_id = f"CA{uuid.uuid4().hex}"

    async def stream() -> None:
        async with (
            served(settings, keys={"twilio": {"acme": "a-key"}}) as board,
            connect(f"ws://127.0.0.1:{board.port}/twilio/a-key") as socket,
        ):
            for message in twilio(recording, call_id):
                await socket.send(message)
            await asyncio.wait_for(socket.wait_closed(), 30)
            assert socket.close_code == 1000

    asyncio.run(stream())
    assert recording.heard(records_of(settings, call_id)) == recording.expected


def test_audiosocket(settings: Settings, recording: Recording, tmp_path: Path) -> None:
    """Both parties on the one channel, as Asterisk sends a call that it listens to."""
    call_id = uuid.uuid4()
    mixed = np.mean([decode(one.tobytes(), "mulaw") for one in recording.channels], axis=0)
    samples = np.round(mixed * 32_767).astype("<i2")
    path = tmp_path / "mixed.wav"
    soundfile.write(path, samples, RATE)
    analysis, damage = recording.analyzer.hear(path)
    assert damage is None and len(analysis.scores) >= 3

    async def stream() -> None:
        async with served(settings) as board:
            reader, writer = await asyncio.open_connection("127.0.0.1", board.audiosocket_port)
            writer.write(struct.pack(">BH", 0x01, 16) + call_id.bytes)
            for start in range(0, len(samples), 160):
                piece = samples[start : start + 160].tobytes()
                writer.write(struct.pack(">BH", 0x10, len(piece)) + piece)
                await writer.drain()
            writer.write(struct.pack(">BH", 0x00, 0))
            assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()

    asyncio.run(stream())
    assert recording.heard(records_of(settings, str(call_id))) == utterances(analysis)


def test_a_file(settings: Settings, recording: Recording) -> None:
    call_id = str(uuid.uuid4())
    source = Source(recording.path, call_id, ("customer", "agent"))
    (outcome,) = FilesRun(settings, speed=MAXIMUM_SPEED).run([source]).outcomes
    assert (outcome.status, outcome.error) == ("sent", "")
    assert recording.heard(records_of(settings, call_id)) == recording.expected
