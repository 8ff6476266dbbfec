"""What comes back while a call goes on: `/v1/listen`, the microphone and Genesys' AudioHook of the real server, before
real stages on the real broker.
"""

import asyncio
import contextlib
import json
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from confluent_kafka import Producer
from deepgram import AsyncDeepgramClient, DeepgramClientEnvironment
from deepgram.core.api_error import ApiError
from deepgram.core.events import EventType
from deepgram.listen.v1.types import ListenV1Metadata, ListenV1Results, ListenV1SpeechStarted
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from deploy.topics import Topics
from schemas.events import CallEnded, CallEvent, CallInfo, Interim, RunningScore, Score, decode, encode
from schemas.topics import CHAIN, DEFAULT_PARTITIONS, SCORES, TOPICS, TRANSCRIPTS_INTERIM
from streams import kafka
from streams.analyze import Analyzer
from streams.runtime import StageWorker
from streams.settings import Settings, load
from tests import calling
from tests.telephony import Genesys, Recording, interleaved, said
from tests.unit.stage_records import call, interim, utterance
from tests.workers import Reader

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.slow]

KEY = "a-key-of-the-test"
KEYS = {"listen": {"acme": KEY}, "audiohook": {"acme": KEY}}


@pytest.fixture(scope="module")
def settings(kafka_bootstrap: str, analyzer: Analyzer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Topics, and all stages running, with the analyzer's models: one worker each, in threads of this process."""
    Topics(kafka_bootstrap).create([*TOPICS])
    base = load()
    own = {
        "kafka": base.kafka.model_copy(update={"bootstrap_servers": kafka_bootstrap}),
        # A slow machine must not make ASR hear with less effort: words are compared to the last letter.
        "runtime": base.runtime.model_copy(update={"reduce_at_lag_s": 0}),
    }
    settings = base.model_copy(update=own | {"home": tmp_path_factory.mktemp("home")})
    stop = threading.Event()
    processors = [worker.processor for worker in analyzer.chain.workers]
    workers = [StageWorker(settings, [row], one) for row, one in zip(CHAIN, processors, strict=True)]
    threads = [threading.Thread(target=worker.run, args=(stop,)) for worker in workers]
    for thread in threads:
        thread.start()
    yield settings
    stop.set()
    for thread in threads:
        thread.join(90)


@asynccontextmanager
async def served(settings: Settings, **fields: object) -> AsyncIterator[str]:
    """A running server on a free port; gives its address."""
    async with calling.served(settings, **{"keys": KEYS, **fields}) as switchboard:
        yield f"ws://127.0.0.1:{switchboard.port}"


def deepgram(address: str, key: str = KEY) -> AsyncDeepgramClient:
    here = DeepgramClientEnvironment(base=address, production=address, agent=address, agent_rest=address)
    return AsyncDeepgramClient(api_key=key, environment=here)


async def streamed(address: str, sound: np.ndarray, rate: int, pause_s: float = 0.0, **asked: Any) -> list[Any]:
    """What the library makes of the answers to a recording, sent as fast as it is taken or with pauses in between."""
    messages: list[Any] = []
    asked |= {"model": "nova-3", "encoding": "linear16", "sample_rate": rate}
    async with deepgram(address).listen.v1.connect(**asked) as connection:
        connection.on(EventType.MESSAGE, messages.append)
        listening = asyncio.create_task(connection.start_listening())
        data = sound.astype("<i2").tobytes()
        for at in range(0, len(data), 8_191):
            await connection.send_media(data[at : at + 8_191])
            await asyncio.sleep(pause_s)
        await connection.send_close_stream()
        await asyncio.wait_for(listening, 120)
    return messages


def test_a_recording_gives_what_analyze_hears(settings: Settings, analyzer: Analyzer, test_data: Path) -> None:
    path = test_data / "calls" / "stereo-10s.flac"
    analysis, damage = analyzer.hear(path)
    assert damage is None and any(score.text for score in analysis.scores)
    sound, rate = soundfile.read(path, dtype="int16", always_2d=True)

    async def test() -> list[Any]:
        async with served(settings) as address:
            extras = {"additional_query_parameters": {"scores": "inline", "queue": "sales"}}
            return await streamed(
                address, sound, rate, channels=2, multichannel=True, request_options=extras, interim_results=True
            )

    *results, metadata = asyncio.run(test())
    # What was interim is gone; how often there is any is as the stages have time.
    results = [result for result in results if result.is_final]
    assert isinstance(metadata, ListenV1Metadata)
    assert metadata.duration == round(len(sound) / rate, 3)
    warned = {warning["parameter"]: warning["message"] for warning in metadata.model_dump()["warnings"]}
    assert warned.keys() == {"model"}
    assert all(isinstance(result, ListenV1Results) for result in results)
    told = [
        (
            result.channel_index,
            round(result.start * 1_000),
            round((result.start + result.duration) * 1_000),
            result.channel.alternatives[0].transcript,
            [(word.punctuated_word, round(word.start * 1_000)) for word in result.channel.alternatives[0].words],
        )
        for result in results
    ]
    assert sorted(told) == sorted(
        ([score.channel, 2], score.start_ms, score.end_ms, score.text, [(w.text, w.start_ms) for w in score.words])
        for score in analysis.scores
    )
    scores = [Score.model_validate(result.model_dump()["score"]) for result in results]
    assert {(score.call.tenant, score.call.queue, score.call.source) for score in scores} == {
        ("acme", "sales", "listen")
    }
    assert sorted(score.emotion.label for score in scores if score.emotion) == sorted(
        score.emotion.label for score in analysis.scores if score.emotion
    )


def test_who_asks_gets_the_words_of_whoever_is_speaking(settings: Settings, test_data: Path) -> None:
    sound, rate = soundfile.read(test_data / "calls" / "stereo-10s.flac", dtype="int16", always_2d=True)

    async def test() -> list[Any]:
        async with served(settings) as address:
            # In real time: of what comes faster than it was spoken there are none.
            pause_s = 8_191 / (2 * rate)
            return await streamed(address, sound[: 6 * rate, 0], rate, pause_s, interim_results=True)

    for _ in range(10):
        # A busy machine may have no time for them.
        *results, metadata = asyncio.run(test())
        so_far = [result for result in results if not result.is_final]
        if so_far:
            break
    assert isinstance(metadata, ListenV1Metadata)
    words = [word for result in so_far for word in result.channel.alternatives[0].words]
    assert words and {type(word.model_dump()["stable"]) for word in words} == {bool}
    # Each is followed by what is final.
    for at, result in enumerate(results):
        assert result.is_final or any(later.is_final and later.start >= result.start for later in results[at:])


class Stages:
    """What the stages find, written by the test: when they do it themselves is a matter of the time they have."""

    def __init__(self, settings: Settings) -> None:
        self.producer = Producer(kafka.producer(settings))

    def so_far(self, event: Interim) -> None:
        self._write(TRANSCRIPTS_INTERIM, event)

    def finished(self, info: CallInfo, start_ms: int, length_ms: int, text: str) -> None:
        running = RunningScore(score=0, party_score=0, utterances=1)
        score = utterance(Score, info, start_ms, length_ms, text=text, running=running, pipeline_version="v1")
        self._write(SCORES, score)

    def _write(self, topic: str, event: CallEvent) -> None:
        headers, value = encode(event)
        self.producer.produce(topic, value, event.call.call_id, headers=[*headers])
        self.producer.flush(10)


async def what_is_said_so_far(settings: Settings, address: str) -> None:
    info = call(("unknown",), "so-far")
    stages = Stages(settings)
    answers: asyncio.Queue[Any] = asyncio.Queue()

    async def told() -> tuple[str, bool, list[bool]]:
        result = await asyncio.wait_for(answers.get(), 60)
        (alternative,) = result.channel.alternatives
        return alternative.transcript, result.is_final, [word.model_dump().get("stable") for word in alternative.words]

    asked: dict[str, Any] = {"model": "nova-3", "encoding": "linear16", "sample_rate": 16_000, "interim_results": True}
    extras = {"additional_query_parameters": {"call": info.call_id}}
    async with deepgram(address).listen.v1.connect(**asked, vad_events=True, request_options=extras) as connection:
        connection.on(EventType.MESSAGE, answers.put_nowait)
        listening = asyncio.create_task(connection.start_listening())
        await connection.send_media(bytes(16_000))
        # Until the server has begun the call nobody asks for its results.
        for length_ms in range(100, 1_900):  # for a minute and a half
            stages.so_far(interim(info, 500, length_ms, "Well"))
            await asyncio.sleep(0.05)
            if not answers.empty():
                break
        started = answers.get_nowait()
        assert (type(started), started.timestamp) == (ListenV1SpeechStarted, 0.5)
        stages.so_far(interim(info, 500, 10_000, "Well then", stable=1))
        while (said := await told()) != ("Well then", False, [True, False]):
            assert said == ("Well", False, [False])
        stages.finished(info, 500, 11_000, "Well then.")
        assert await told() == ("Well then.", True, [])
        # One that comes after its final one, and then the next utterance.
        stages.so_far(interim(info, 500, 11_000, "Well then"))
        stages.so_far(interim(info, 12_000, 300, "But"))
        started = await asyncio.wait_for(answers.get(), 60)
        assert (type(started), started.timestamp) == (ListenV1SpeechStarted, 12)
        assert await told() == ("But", False, [False])
        await connection.send_close_stream()
        # Nothing came of it: what was sent is half a second of silence.
        assert await told() == ("", True, [])
        assert isinstance(await asyncio.wait_for(answers.get(), 60), ListenV1Metadata)
        await asyncio.wait_for(listening, 60)


def test_words_come_before_their_utterance_is_finished(settings: Settings) -> None:
    async def test() -> None:
        async with served(settings) as address:
            await what_is_said_so_far(settings, address)

    asyncio.run(test())


def test_who_reads_slowly_misses_interim_results_and_no_final_one(settings: Settings) -> None:
    info, stages = call(("unknown",), "slow"), Stages(settings)
    long = "long" * 10_000
    query = f"token={KEY}&encoding=linear16&sample_rate=16000&interim_results=true&call={info.call_id}"

    def work() -> None:
        # More than sockets hold, of both.
        for at in range(200):
            stages.so_far(interim(info, 1_000 * at, 900, long))
            if at % 2:
                stages.finished(info, 1_000 * at, 900, f"{at} {long}")

    async def test() -> list[tuple[bool, str]]:
        async with served(settings) as address, connect(f"{address}/v1/listen?{query}", max_queue=1) as socket:
            await socket.send(bytes(3_200))
            first = asyncio.create_task(socket.recv())
            for length_ms in range(100, 1_900):  # for a minute and a half
                stages.so_far(interim(info, 0, length_ms))
                if (await asyncio.wait({first}, timeout=0.05))[0]:
                    break
            await asyncio.to_thread(work)
            await socket.send('{"type": "CloseStream"}')
            results = [json.loads(message) async for message in socket]
        return [
            (result["is_final"], result["channel"]["alternatives"][0]["transcript"])
            for result in results
            if result["type"] == "Results"
        ]

    told = asyncio.run(test())
    assert [text.split()[0] for is_final, text in told if is_final and text] == [str(at) for at in range(1, 200, 2)]
    assert 0 < sum(not is_final for is_final, _ in told) < 200


def test_who_says_nothing_is_sent_away_in_deepgrams_way(settings: Settings) -> None:
    async def test() -> None:
        query = f"token={KEY}&encoding=linear16&sample_rate=16000"
        async with served(settings, handshake_s=1) as address, connect(f"{address}/v1/listen?{query}") as alive:
            async with connect(f"{address}/v1/listen?{query}") as silent:
                # The other one waits for its call, and says so.
                while silent.close_code is None:
                    await alive.send('{"type": "KeepAlive"}')
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(silent.wait_closed(), 0.2)
                assert silent.close_code == 1011 and "NET-0001" in (silent.close_reason or "")
            await asyncio.sleep(0.3)
            assert alive.close_code is None

    asyncio.run(test())


def test_a_microphone_gives_what_analyze_hears(
    settings: Settings, analyzer: Analyzer, test_data: Path, tmp_path: Path
) -> None:
    sound, rate = soundfile.read(test_data / "calls" / "stereo-10s.flac", dtype="int16", always_2d=True)
    path = tmp_path / "microphone.wav"
    soundfile.write(path, sound[:, 0], rate)
    analysis, damage = analyzer.hear(path)
    assert damage is None and any(score.text for score in analysis.scores)

    async def test() -> list[dict[str, Any]]:
        async with served(settings) as address, connect(f"{address}/microphone?rate={rate}&save=1") as socket:
            data = np.ascontiguousarray(sound[:, 0]).astype("<i2").tobytes()
            for at in range(0, len(data), 3_200):
                await socket.send(data[at : at + 3_200])
            await socket.send('{"type": "stop"}')
            return [json.loads(message) async for message in socket]

    started, *scores, ended = asyncio.run(test())
    assert (started["type"], ended["type"]) == ("started", "call_ended")
    heard = [Score.model_validate(message["event"]) for message in scores if message["type"] == "score"]
    assert {score.call.call_id for score in heard} == {started["call"]}
    (recording,) = (settings.directory / "recordings").glob(f"{started['call']}*")
    kept, kept_rate = soundfile.read(recording, dtype="int16")
    assert kept_rate == rate and (kept == sound[:, 0]).all()
    assert [(one.start_ms, one.end_ms, one.text, one.words, one.speaker) for one in heard] == [
        (one.start_ms, one.end_ms, one.text, one.words, one.speaker) for one in analysis.scores
    ]


def test_a_wrong_key_or_parameter_is_refused_in_deepgrams_way(settings: Settings) -> None:
    async def test() -> None:
        async with served(settings) as address:
            asked: dict[str, Any] = {"model": "nova-3", "encoding": "linear16", "sample_rate": 16_000}
            for client, more, status in (
                (deepgram(address, "another"), {}, 401),
                (deepgram(address), {"callback": "https://example.com"}, 400),
                (deepgram(address), {"language": "fr"}, 400),
            ):
                with pytest.raises(ApiError) as refusal:
                    async with client.listen.v1.connect(**asked, **more):
                        pass
                assert refusal.value.status_code == status
            async with connect(f"{address}/v1/listen?token={KEY}&encoding=linear16&sample_rate=8000") as socket:
                assert socket.response is not None and uuid.UUID(socket.response.headers["dg-request-id"])
            with pytest.raises(InvalidStatus) as answer:
                async with connect(f"{address}/v1/listen?token={KEY}&encoding=opus"):
                    pass
            response = answer.value.response
            assert response.headers["dg-error"].startswith("The parameter 'encoding'")
            assert b'"err_code": "Bad Request"' in (response.body or b"")

    asyncio.run(test())


def test_genesys_gets_the_words_of_a_recording_and_the_chain_hears_what_analyze_hears(
    settings: Settings, recording: Recording
) -> None:
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
            served(settings) as address,
            connect(f"{address}/audiohook", additional_headers=headers) as socket,
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
