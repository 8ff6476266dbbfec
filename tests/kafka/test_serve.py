"""`calltide serve` with real sockets and the real broker: what arrives is in Kafka. What is wrong is for
test_serve_bad_input.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import socket as socket_module
import struct
import uuid
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from confluent_kafka import Producer
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from deploy.broker import Broker
from schemas.events import CallEnded, CallEvent, Score, decode, encode
from schemas.topics import SCORES
from streams import kafka
from streams.ingestion import server as module
from streams.settings import ApiKey, Settings
from tests.calling import SOUND, Twilio, call_of, counted, ending, run, served, settings_for, sound, twilio
from tests.telephony import Genesys, signed

pytestmark = pytest.mark.kafka

NOBODY = "00000000-0000-0000-0000-000000000000"
"""The conversation of Genesys' connection probe."""


@pytest.fixture(scope="module")
def settings(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_for(kafka_bootstrap, tmp_path_factory.mktemp("home"))


def test_a_call_over_a_websocket_is_in_kafka_whole(settings: Settings) -> None:
    call_id = f"CA{uuid.uuid4().hex}"

    async def test() -> None:
        async with served(settings) as switchboard, twilio(switchboard) as socket:
            client = Twilio(socket, call_id)
            await client.start()
            await client.media(0, SOUND)
            await client.stop()
            assert socket.close_code == 1000
            assert len(switchboard.calls) == 0

    run(test)
    records = call_of(settings, call_id)
    assert sound(records, 0) == sound(records, 1) == SOUND
    end = ending(records)
    assert (end.reason, end.duration_ms) == ("hangup", 1_000)
    assert end.call.roles == ("customer", "agent")
    assert (end.call.queue, end.call.source) == ("billing", "twilio")


def test_frames_may_be_cut_anywhere_and_come_in_pieces(settings: Settings) -> None:
    """The stream in bytes of odd numbers, with a ping and a message of three fragments in it."""
    call_id = f"CA{uuid.uuid4().hex}"

    async def test() -> None:
        async with served(settings) as switchboard, twilio(switchboard) as socket:
            client = Twilio(socket, call_id)
            await client.start()
            media = [
                json.dumps(
                    {
                        "event": "media",
                        "streamSid": client.stream,
                        "media": {
                            "track": "inbound",
                            "timestamp": str(at // 8),
                            "payload": base64.b64encode(SOUND[at : at + 160]).decode(),
                        },
                    }
                ).encode()
                for at in range(0, 4_800, 160)
            ]
            frames = [Frame(Opcode.TEXT, message) for message in media]
            pieces = (media[20][:50], media[20][50:51], media[20][51:])
            frames[20:21] = [
                Frame(Opcode.TEXT, pieces[0], fin=False),
                Frame(Opcode.CONT, pieces[1], fin=False),
                Frame(Opcode.CONT, pieces[2]),
            ]
            frames.insert(10, Frame(Opcode.PING, b"there?"))
            stream = b"".join(frame.serialize(mask=True) for frame in frames)
            for at in range(0, len(stream), 37):
                socket.transport.write(stream[at : at + 37])
                await asyncio.sleep(0)
            await client.stop()

    run(test)
    records = call_of(settings, call_id)
    assert sound(records) == SOUND[:4_800]
    assert ending(records).reason == "hangup"


def test_a_call_over_tcp_is_in_kafka_whole(settings: Settings) -> None:
    call_id = uuid.uuid4()
    pcm = np.random.default_rng(4).integers(-3_000, 3_000, 8_000, dtype="<i2").tobytes()

    async def test() -> None:
        async with served(settings, audiosocket_role="agent") as switchboard:
            reader, writer = await asyncio.open_connection("127.0.0.1", switchboard.audiosocket_port)
            writer.write(struct.pack(">BH", 1, 16) + call_id.bytes)
            for start in range(0, len(pcm), 320):
                writer.write(struct.pack(">BH", 0x10, 320) + pcm[start : start + 320])
            writer.write(struct.pack(">BH", 0, 0))
            assert await reader.read() == b""
            writer.close()

    run(test)
    records = call_of(settings, str(call_id))
    assert sound(records) == pcm
    end = ending(records)
    assert (end.reason, end.call.roles) == ("hangup", ("agent",))


def test_a_connection_that_comes_back_goes_on_with_the_call(settings: Settings) -> None:
    call_id = f"CA{uuid.uuid4().hex}"

    async def test() -> None:
        before = counted("reconnects_total", protocol="twilio")
        async with served(settings) as switchboard:
            async with twilio(switchboard) as socket:
                client = Twilio(socket, call_id)
                await client.start()
                await client.media(0, SOUND)
                socket.transport.abort()
            async with twilio(switchboard) as socket:
                client = Twilio(socket, call_id)
                await client.start()
                await client.media(0, SOUND)
                await client.stop()
        assert counted("reconnects_total", protocol="twilio") == before + 1

    run(test)
    records = call_of(settings, call_id)
    assert sound(records) == SOUND + SOUND
    sequences = [int(record.headers["sequence"]) for record in records if record.headers.get("channel") == b"0"]
    assert sequences == list(range(len(sequences)))
    assert ending(records).reason == "hangup"


def test_a_call_goes_on_in_its_own_time_after_a_restart(settings: Settings) -> None:
    call_id = f"CA{uuid.uuid4().hex}"

    async def test() -> None:
        for _ in range(2):
            async with served(settings) as switchboard, twilio(switchboard) as socket:
                client = Twilio(socket, call_id)
                await client.start()
                await client.media(0, SOUND)
                await client.stop()

    run(test)
    records = call_of(settings, call_id)
    starts = [decode(one.headers, one.value or b"") for one in records if one.headers["kind"] == b"call_started"]
    assert len({event.call.started_at for event in starts}) == 1
    spans = [
        (int(one.headers["sample"]), int(one.headers["sample"]) + len(one.value or b""))
        for one in records
        if one.headers.get("channel") == b"0"
    ]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)), "no place is taken twice"


def test_a_connection_that_does_not_come_back_ends_the_call(settings: Settings) -> None:
    call_id = f"CA{uuid.uuid4().hex}"

    async def test() -> None:
        async with served(settings, grace_s=0.1) as switchboard:
            async with twilio(switchboard) as socket:
                client = Twilio(socket, call_id)
                await client.start()
                await client.media(0, SOUND[:1_000])
                socket.transport.abort()
            while len(switchboard.calls):
                await asyncio.sleep(0.02)

    run(test)
    records = call_of(settings, call_id)
    assert sound(records) == SOUND[:1_000]
    assert ending(records).reason == "interrupted"


def test_stopping_ends_the_calls_properly(settings: Settings) -> None:
    call_id = f"CA{uuid.uuid4().hex}"

    async def test() -> None:
        async with served(settings) as switchboard:
            socket = await twilio(switchboard)
            client = Twilio(socket, call_id)
            await client.start()
            await client.media(0, SOUND)
            await socket.ping()
            while not len(switchboard.calls):
                await asyncio.sleep(0.01)
        await socket.wait_closed()
        assert socket.close_code == 1001

    run(test)
    records = call_of(settings, call_id)
    assert ending(records).reason == "interrupted"
    assert SOUND.startswith(sound(records))


def test_no_more_calls_than_may_be(settings: Settings) -> None:
    async def test() -> None:
        async with served(settings, calls=1) as switchboard, twilio(switchboard) as first, twilio(switchboard) as late:
            await Twilio(first, f"CA{uuid.uuid4().hex}").start()
            await first.ping()
            while not len(switchboard.calls):
                await asyncio.sleep(0.01)
            await Twilio(late, f"CA{uuid.uuid4().hex}").start()
            await late.wait_closed()
            assert late.close_code == 1013
            with pytest.raises(InvalidStatus) as refused:
                await twilio(switchboard)
            assert refused.value.response.status_code == 503

    run(test)


def test_keys_open_their_own_source_and_name_the_tenant(settings: Settings) -> None:
    call_id = f"CA{uuid.uuid4().hex}"
    keys = {"twilio": {"acme": "secret"}, "listen": {"acme": "other"}}

    async def test() -> None:
        async with served(settings, keys=keys) as switchboard:
            for path, headers in (
                ("/twilio", {}),
                ("/twilio/wrong", {}),
                ("/twilio", {"Authorization": "Bearer other"}),
                ("/microphone/secret", {}),
            ):
                with pytest.raises(InvalidStatus) as refused:
                    await twilio(switchboard, path, additional_headers=headers)
                assert refused.value.response.status_code == 401
            with pytest.raises(InvalidStatus) as refused:
                await twilio(switchboard, "/other")
            assert refused.value.response.status_code == 404
            for path, options in (
                ("/twilio", {"additional_headers": {"Authorization": "Bearer secret"}}),
                ("/twilio", {"additional_headers": {"X-API-KEY": "secret"}}),
                ("/twilio?token=secret", {}),
                ("/twilio", {"subprotocols": ["token", "secret"]}),
            ):
                async with twilio(switchboard, path, **options):
                    pass
            async with twilio(switchboard, "/twilio/secret") as socket:
                client = Twilio(socket, call_id)
                await client.start()
                await client.stop()

    run(test)
    assert ending(call_of(settings, call_id)).call.tenant == "acme"


def test_a_microphone_takes_keys_of_the_api_and_is_of_their_tenant(settings: Settings) -> None:
    keys = {
        name: ApiKey.model_validate(
            {"sha256": hashlib.sha256(f"{name}-key".encode()).hexdigest(), "tenant": "acme", "role": role}
        )
        for name, role in (("ann", "supervisor"), ("eve", "viewer"))
    }
    guarded = settings.model_copy(update={"api": settings.api.model_copy(update={"keys": keys})})
    call_id = f"mic-{uuid.uuid4().hex}"

    async def test() -> None:
        async with served(guarded, keys={"microphone": {"beta": "own"}}) as switchboard:
            address = f"ws://127.0.0.1:{switchboard.port}/microphone?call={call_id}"
            for key in ("", "wrong", "eve-key"):
                with pytest.raises(InvalidStatus) as refused:
                    await connect(address, subprotocols=[Subprotocol("bearer"), Subprotocol(key)] if key else None)
                assert refused.value.response.status_code == 401
            for key in ("own", "ann-key"):
                async with connect(address, subprotocols=[Subprotocol("bearer"), Subprotocol(key)]) as socket:
                    assert socket.subprotocol == "bearer"
                    if key == "ann-key":
                        await socket.send(bytes(32_000))
                        await socket.send('{"type": "stop"}')
                        assert json.loads(await socket.recv())["type"] == "started"

    run(test)
    assert ending(call_of(settings, call_id)).call.tenant == "acme"


def test_a_stream_must_be_signed_where_an_auth_token_is_set(settings: Settings) -> None:
    async def test() -> None:
        async with served(settings, twilio_auth_token="token") as switchboard:
            url = f"wss://127.0.0.1:{switchboard.port}/twilio"
            good = base64.b64encode(hmac.digest(b"token", url.encode(), "sha1")).decode()
            async with twilio(switchboard, additional_headers={"X-Twilio-Signature": good}):
                pass
            for headers in ({}, {"X-Twilio-Signature": good[::-1]}):
                with pytest.raises(InvalidStatus) as refused:
                    await twilio(switchboard, additional_headers=headers)
                assert refused.value.response.status_code == 401

    run(test)


def test_a_session_of_audiohook_must_be_signed_where_its_key_has_a_secret(settings: Settings) -> None:
    key, secret = "a-key", b"a secret of Genesys"
    secrets = {key: base64.b64encode(secret).decode()}

    async def test() -> None:
        async with served(settings, keys={"audiohook": {"acme": key}}, audiohook_secrets=secrets) as switchboard:
            here = f"127.0.0.1:{switchboard.port}"
            names = ("Audiohook-Organization-Id", "Audiohook-Session-Id", "Audiohook-Correlation-Id")
            headers = {"Host": here, **{name: str(uuid.uuid4()) for name in names}, "X-API-KEY": key}
            good = signed(f"https://{here}/audiohook", headers, key, secret)
            del good["Host"], headers["Host"]
            before = counted("refused_total", protocol="audiohook", why="unsigned")
            for wrong in (headers, good | {"Audiohook-Session-Id": str(uuid.uuid4())}):
                with pytest.raises(InvalidStatus) as refused:
                    await twilio(switchboard, "/audiohook", additional_headers=wrong)
                assert refused.value.response.status_code == 401
            assert counted("refused_total", protocol="audiohook", why="unsigned") == before + 2
            client = Genesys(good["Audiohook-Session-Id"], good["Audiohook-Organization-Id"])
            async with twilio(switchboard, "/audiohook", additional_headers=good) as socket:
                await socket.send(client.open(NOBODY))
                assert json.loads(await socket.recv())["type"] == "opened"
                client.answers = 1
                await socket.send(SOUND)
                await socket.send(client.message("ping", {}, 500))
                assert json.loads(await socket.recv())["type"] == "pong"
                assert len(switchboard.calls) == 0, "a connection probe is no call"
                client.answers = 2
                await socket.send(client.message("close", {"reason": "end"}, 500))
                assert json.loads(await socket.recv())["type"] == "closed"
                await socket.wait_closed()
                assert socket.close_code == 1000

    run(test)
    assert call_of(settings, NOBODY) == []


def test_audiosocket_takes_calls_from_its_networks_only(settings: Settings) -> None:
    async def test() -> None:
        async with served(settings, audiosocket_networks=("10.0.0.0/8",)) as switchboard:
            before = counted("refused_total", protocol="audiosocket", why="network")
            reader, writer = await asyncio.open_connection("127.0.0.1", switchboard.audiosocket_port)
            assert await reader.read() == b""
            assert counted("refused_total", protocol="audiosocket", why="network") == before + 1
            writer.close()

    run(test)


def test_who_never_begins_the_handshake_takes_no_room_from_those_who_call(settings: Settings) -> None:
    call_id = f"CA{uuid.uuid4().hex}"

    async def test() -> None:
        async with served(settings, calls=1) as switchboard, twilio(switchboard) as good:
            client = Twilio(good, call_id)
            await client.start()
            await client.media(0, SOUND[:4_000])
            before = counted("refused_total", protocol="none", why="full")
            here = ("127.0.0.1", switchboard.port)
            silent = [await asyncio.open_connection(*here) for _ in range(102)]
            reader, writer = await asyncio.open_connection(*here)
            assert await reader.read() == b"", "one too many is closed at once"
            assert counted("refused_total", protocol="none", why="full") == before + 1
            await client.media(500, SOUND[4_000:])
            await client.stop()
            for _, one in (*silent, (reader, writer)):
                one.close()
            while switchboard.strangers:
                await asyncio.sleep(0.01)
            async with twilio(switchboard):
                pass

    run(test)
    assert sound(call_of(settings, call_id)) == SOUND


@pytest.mark.parametrize("protocol", ["listen", "audiohook", "twilio", "microphone"])
def test_a_client_that_never_reads_is_cut_off(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    monkeypatch.setattr(module, "SEND_S", 0.5)
    client = Genesys(str(uuid.uuid4()), str(uuid.uuid4()))
    path = "/v1/listen?encoding=linear16&sample_rate=8000" if protocol == "listen" else f"/{protocol}"

    async def ask(socket: ClientConnection) -> None:
        """What is answered; of Twilio's and a microphone's messages none is, so it is the websocket's own ping."""
        if protocol in ("twilio", "microphone"):
            socket.transport.write(Frame(Opcode.PING, b"?" * 120).serialize(mask=True))
        else:
            await socket.send(json.dumps({"type": "Configure"}) if protocol == "listen" else client.message("ping", {}))

    async def test() -> None:
        async with served(settings) as switchboard:
            before = counted("faults_total", protocol=protocol, fault="slow")
            small = socket_module.socket()
            small.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_RCVBUF, 4_096)
            small.connect(("127.0.0.1", switchboard.port))
            socket = await twilio(switchboard, path, sock=small)
            socket.transport.pause_reading()
            while counted("faults_total", protocol=protocol, fault="slow") == before:
                for _ in range(100):
                    await ask(socket)
                # Else the server, in the same loop, reads nothing until all buffers are full.
                await asyncio.sleep(0)
            while counted("connections", protocol=protocol):
                await asyncio.sleep(0.02)
            assert counted("faults_total", protocol=protocol, fault="slow") == before + 1
            socket.transport.abort()

    run(test)


async def goodbye(socket: ClientConnection, client: Genesys, polite: bool = True) -> dict[str, str]:
    """What a session of AudioHook is told at its end; who is `polite` closes it then, as Genesys does."""
    told = []
    async for text in socket:
        told.append(json.loads(text))
        if told[-1]["type"] == "disconnect" and polite:
            await socket.send(client.message("close", {"reason": "disconnect"}))
    assert [message["type"] for message in told] == ["opened", "disconnect", *(["closed"] if polite else [])]
    return dict(told[1]["parameters"])


def test_audiohook_is_told_why_its_session_ends(settings: Settings) -> None:
    """Though nobody has made an error: the process stops, and the call is as long as a call may be."""
    stopped, too_long = (Genesys(str(uuid.uuid4()), str(uuid.uuid4())) for _ in range(2))
    call_id = str(uuid.uuid4())

    async def test() -> None:
        async with served(settings, call_minutes=1) as switchboard:
            async with twilio(switchboard, "/audiohook") as socket:
                await socket.send(too_long.open(str(uuid.uuid4())))
                await socket.send(too_long.message("discarded", {"start": "PT0S", "discarded": "PT59.9S"}))
                await socket.send(SOUND)
                told = await goodbye(socket, too_long)
                assert told == {"reason": "completed", "info": "the call is longer than may be"}
                assert socket.close_code == 1000
            socket = await twilio(switchboard, "/audiohook")
            await socket.send(stopped.open(call_id))
            await socket.send(SOUND)
            while not len(switchboard.calls):
                await asyncio.sleep(0.01)
        told = await goodbye(socket, stopped, polite=False)
        assert told == {"reason": "completed", "info": "the server stops; connect again"}
        assert socket.close_code == 1001

    run(test)
    records = call_of(settings, call_id)
    assert SOUND[::2].startswith(sound(records))
    assert ending(records).reason == "interrupted"


def test_a_slow_broker_costs_audio_and_no_call(settings: Settings, broker: Broker) -> None:
    """With the broker frozen and room for 100 records, a call keeps its newest second and its end."""
    call_id = f"CA{uuid.uuid4().hex}"
    small = settings.kafka.model_copy(update={"client": {"queue.buffering.max.messages": "4"}})
    assert broker.pid

    async def test() -> None:
        frozen = settings.model_copy(update={"kafka": small})
        async with served(frozen, buffer_s=1.0) as switchboard, twilio(switchboard) as socket:
            before = counted("overflow_packets_total", protocol="twilio")
            client = Twilio(socket, call_id)
            await client.start()
            assert broker.pid
            await asyncio.sleep(0.2)
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                await client.media(0, SOUND * 4)
                await client.stop()
                assert counted("overflow_packets_total", protocol="twilio") - before >= 2 * 40 - 2 * 10 - 4
            finally:
                os.kill(broker.pid, signal.SIGCONT)

    run(test)
    records = call_of(settings, call_id)
    assert (SOUND * 4).endswith(sound(records)[-8_000:])
    assert ending(records).duration_ms == 4_000


def score_of(call_id: str, started_at: str) -> Score:
    """An utterance as the last stage writes it."""
    return Score.model_validate(
        {
            "call": {"call_id": call_id, "started_at": started_at, "roles": ["unknown"]},
            "channel": 0,
            "start_ms": 100,
            "end_ms": 900,
            "cut": "pause",
            "codec": "pcm_s16le",
            "rate": 8_000,
            "captured_at": started_at,
            "speaker": "S1",
            "role": "unknown",
            "speaker_confidence": 1.0,
            "text": "Good morning.",
            "words": [{"text": "Good", "start_ms": 100, "end_ms": 300, "confidence": 0.9}],
            "language": "en",
            "asr_confidence": 0.9,
            "asr_model": "m",
            "running": {"score": 0, "party_score": 0, "utterances": 1},
            "pipeline_version": "v1",
        }
    )


def test_a_connection_is_told_what_became_of_its_call_and_of_no_other(settings: Settings) -> None:
    call_id = f"call-{uuid.uuid4().hex}"
    started_at = "2026-01-01T00:00:00Z"
    producer = Producer(kafka.producer(settings, log_level=0))

    def write(event: CallEvent) -> None:
        headers, value = encode(event)
        producer.produce(SCORES, value, event.call.call_id, headers=list(headers))
        assert producer.flush(30) == 0

    async def test() -> None:
        async with served(settings) as switchboard:
            path = f"/v1/listen?encoding=linear16&sample_rate=8000&call={call_id}"
            async with twilio(switchboard, path) as socket:
                await socket.send(b"\1\0" * 8_000)
                while not len(switchboard.calls):
                    await asyncio.sleep(0.01)
                await socket.send(json.dumps({"type": "CloseStream"}))
                while len(switchboard.calls):
                    await asyncio.sleep(0.01)
                write(score_of("another", started_at))
                mine = score_of(call_id, started_at)
                write(mine)
                write(CallEnded(call=mine.call, duration_ms=1_000, ended_at=mine.captured_at, reason="hangup"))
                told = [json.loads(message) async for message in socket]
                assert socket.close_code == 1000
            texts = [one["channel"]["alternatives"][0]["transcript"] for one in told if one["type"] == "Results"]
            assert texts == ["Good morning."]
            assert told[-1]["type"] == "Metadata"

    run(test)
    assert ending(call_of(settings, call_id)).reason == "hangup"


def test_who_can_wait_is_made_to_wait_and_loses_nothing(settings: Settings) -> None:
    """A minute as fast as the socket takes it, with room for a second of it before Kafka."""
    call_id = f"call-{uuid.uuid4().hex}"
    sound_sent = SOUND * 60
    small = settings.kafka.model_copy(update={"client": {"queue.buffering.max.messages": "10"}})

    async def test() -> None:
        tight = settings.model_copy(update={"kafka": small})
        async with served(tight, buffer_s=1.0) as switchboard:
            before = counted("calls_ended_total", protocol="listen", reason="hangup")
            path = f"/v1/listen?encoding=mulaw&sample_rate=8000&call={call_id}"
            async with twilio(switchboard, path) as socket:
                for start in range(0, len(sound_sent), 8_000):
                    await socket.send(sound_sent[start : start + 8_000])
                await socket.send(json.dumps({"type": "CloseStream"}))
                while counted("calls_ended_total", protocol="listen", reason="hangup") == before:
                    await asyncio.sleep(0.01)

    run(test)
    assert sound(call_of(settings, call_id)) == sound_sent


def test_a_recording_is_kept_when_it_is_asked_for(settings: Settings, tmp_path: Path) -> None:
    pcm = np.random.default_rng(8).integers(-9_000, 9_000, 16_000, dtype="<i2").tobytes()

    async def test() -> None:
        async with served(settings.model_copy(update={"home": tmp_path})) as switchboard:
            for query in ("", "&save=1"):
                before = counted("calls_ended_total", protocol="microphone", reason="hangup")
                async with twilio(switchboard, f"/microphone?call=../a%20call{query}") as socket:
                    for start in range(0, len(pcm), 3_200):
                        await socket.send(pcm[start : start + 3_200])
                    await socket.send(json.dumps({"type": "stop"}))
                    while counted("calls_ended_total", protocol="microphone", reason="hangup") == before:
                        await asyncio.sleep(0.01)

    run(test)
    (path,) = (tmp_path / "recordings").iterdir()
    assert path.name.startswith("a-call-")
    samples, rate = soundfile.read(path, dtype="int16")
    assert (samples.tobytes(), rate) == (pcm, 16_000)
