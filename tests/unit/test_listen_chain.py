"""A recording through Deepgram's own library, the decoder, the line and the chain: what `calltide analyze` hears."""

import asyncio
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from deepgram import AsyncDeepgramClient, DeepgramClientEnvironment
from deepgram.core.events import EventType
from deepgram.listen.v1.types import ListenV1Metadata, ListenV1Results
from websockets.asyncio.server import ServerConnection, serve

from processors.base import Record
from schemas.events import decode
from streams.analyze import Analyzer
from streams.ingestion.line import Leg, Line
from streams.protocols.base import Began
from streams.protocols.listen import Listen, options
from streams.settings import load

pytestmark = [pytest.mark.models, pytest.mark.slow]


async def _streamed(analyzer: Analyzer, sound: np.ndarray, rate: int) -> list[Any]:
    """What the library makes of the answers."""

    async def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        asked = options(urlsplit(connection.request.path).query)
        decoder = Listen(asked, str(uuid.uuid4()), datetime.now(UTC))
        spoken: list[Record] = []
        leg: Leg | None = None
        async for message in connection:
            for event in decoder.receive(message):
                if isinstance(event, Began):
                    # Faster than real time: one sample follows on the other, whatever the clock says.
                    line = Line(event, 0, spoken.append, source="listen", live=False)
                    leg = line.join(event, 0)
                else:
                    assert leg is not None
                    leg.take([event], 0)
            for record in analyzer.chain.push(spoken):
                decoder.heard(decode(record.headers, record.value))
            spoken.clear()
            for answer in decoder.outbox:
                await connection.send(answer)
            decoder.outbox.clear()
            if decoder.finished:
                return

    messages: list[Any] = []
    async with serve(talk, "127.0.0.1", 0) as server:
        address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        here = DeepgramClientEnvironment(base=address, production=address, agent=address, agent_rest=address)
        client = AsyncDeepgramClient(api_key="some-key", environment=here)
        channels = sound.shape[1]
        asked: dict[str, Any] = {
            "encoding": "linear16",
            "sample_rate": rate,
            "channels": channels,
            "multichannel": True,
        }
        async with client.listen.v1.connect(model="nova-3", diarize=True, **asked) as connection:
            connection.on(EventType.MESSAGE, messages.append)
            listening = asyncio.create_task(connection.start_listening())
            data = sound.astype("<i2").tobytes()
            # No whole number of samples, and as much as clients of the real API send.
            for at in range(0, len(data), 8_191):
                await connection.send_media(data[at : at + 8_191])
            await connection.send_close_stream()
            await asyncio.wait_for(listening, 120)
    return messages


def test_a_recording_streamed_by_deepgrams_library_gives_what_analyze_hears(test_data: Path) -> None:
    path = test_data / "calls" / "phone-chat.flac"
    analyzer = Analyzer(load())
    analysis, damage = analyzer.hear(path)
    assert damage is None and any(score.text for score in analysis.scores)
    sound, rate = soundfile.read(path, dtype="int16", always_2d=True)
    *results, metadata = asyncio.run(_streamed(analyzer, sound, rate))
    assert isinstance(metadata, ListenV1Metadata) and metadata.duration == round(len(sound) / rate, 3)
    assert all(isinstance(result, ListenV1Results) for result in results)
    told = [
        (
            result.channel_index[0],
            round(result.start * 1_000),
            round((result.start + result.duration) * 1_000),
            result.channel.alternatives[0].transcript,
            [round(word.start * 1_000) for word in result.channel.alternatives[0].words],
        )
        for result in results
    ]
    assert told == [
        (score.channel, score.start_ms, score.end_ms, score.text, [word.start_ms for word in score.words])
        for score in analysis.scores
    ]
    speakers = {word.speaker for result in results for word in result.channel.alternatives[0].words}
    assert speakers == {0, 1}
