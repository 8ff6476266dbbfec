"""A real recording through a websocket as Genesys sends it, before real stages on the real broker: what is scored is
what `calltide analyze` hears, and what was said comes back while the call goes on."""

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from deploy.topics import Topics
from schemas.events import CallEnded, Score, decode
from schemas.topics import DEFAULT_PARTITIONS, SCORES, STAGES, TOPICS
from streams.runtime import StageWorker
from streams.settings import Settings, load
from tests.calling import served
from tests.telephony import Genesys, Recording, interleaved, said
from tests.workers import Reader

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.slow]

KEY = "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh"


@pytest.fixture(scope="module")
def recording(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return Recording(test_data, tmp_path_factory.mktemp("recording"), ("customer", "agent"))


@pytest.fixture(scope="module")
def settings(kafka_bootstrap: str, recording: Recording) -> Iterator[Settings]:
    """Topics, and all stages running: one worker each, in threads of this process."""
    Topics(kafka_bootstrap).create([*TOPICS])
    base = load()
    settings = base.model_copy(update={"kafka": base.kafka.model_copy(update={"bootstrap_servers": kafka_bootstrap})})
    stop = threading.Event()
    processors = [worker.processor for worker in recording.analyzer.chain.workers]
    workers = [StageWorker(settings, [row], one) for row, one in zip(STAGES, processors, strict=True)]
    threads = [threading.Thread(target=worker.run, args=(stop,)) for worker in workers]
    for thread in threads:
        thread.start()
    yield settings
    stop.set()
    for thread in threads:
        thread.join(30)


def test_a_recording_gives_what_analyze_hears(settings: Settings, recording: Recording) -> None:
    conversation = str(uuid.uuid4())
    client = Genesys(str(uuid.uuid4()), str(uuid.uuid4()))
    headers = {
        "Audiohook-Organization-Id": client.organization,
        "Audiohook-Session-Id": client.session,
        "Audiohook-Correlation-Id": str(uuid.uuid4()),
        "X-API-KEY": KEY,
    }
    # The last words of all are known when the call is over, and then there is nobody to tell.
    told_of = [one for one in recording.expected if one["cut"] != "end" and one["text"]]
    assert told_of
    told: list[dict[str, Any]] = []

    async def answer(socket: ClientConnection) -> dict[str, Any]:
        message = json.loads(await asyncio.wait_for(socket.recv(), 60))
        client.answers = message["seq"]
        if message["type"] == "event":
            told.append(message["parameters"]["entities"][0]["data"])
        return dict(message)

    async def stream() -> None:
        async with (
            served(settings, keys={"audiohook": {"acme": KEY}}) as switchboard,
            connect(f"ws://127.0.0.1:{switchboard.port}/audiohook", additional_headers=headers) as socket,
        ):
            await socket.send(client.open(conversation))
            opened = await answer(socket)
            assert opened["type"] == "opened"
            assert opened["parameters"]["media"][0]["channels"] == ["external", "internal"]
            end_ms = 0
            for at_ms, channels in recording.blocks(200):
                await socket.send(interleaved(channels))
                end_ms = at_ms + len(channels[0]) // 8
            await socket.send(client.message("ping", {}, end_ms))
            types = []
            while len(told) < len(told_of):
                types.append((await answer(socket))["type"])
            assert set(types) == {"pong", "event"}
            await socket.send(client.message("close", {"reason": "end"}, end_ms))
            while (await answer(socket))["type"] != "closed":
                pass
            await asyncio.wait_for(socket.wait_closed(), 30)

    asyncio.run(stream())
    assert sorted(
        (one["channelId"], one["offset"], one["alternatives"][0]["interpretations"][0]["transcript"]) for one in told
    ) == sorted((one["channel"], f"PT{one['start_ms'] / 1_000:.3f}S", one["text"]) for one in told_of)

    scores: list[Score] = []
    ended: list[CallEnded] = []
    reader = Reader(settings.bootstrap_servers, SCORES, DEFAULT_PARTITIONS)

    def over() -> bool:
        events = [decode(one.headers, one.value or b"") for one in reader.found if one.key == conversation]
        scores[:] = [event for event in events if isinstance(event, Score)]
        ended[:] = [event for event in events if isinstance(event, CallEnded)]
        return bool(ended)

    reader.until(over, "the end of the call")
    reader.close()
    assert [said(one) for one in sorted(scores, key=lambda one: (one.start_ms, one.channel))] == recording.expected
    assert (ended[0].reason, ended[0].missing_ms, ended[0].call.tenant) == ("hangup", 0, "acme")
