"""The load generator against small servers that read with the project's own decoders: what is played is what is heard.

A changer must know: calls run in real time, so each is short.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve

from schemas.errors import CalltideError
from schemas.events import CallEvent, CallInfo, RunningScore, Score
from streams import samples
from streams.ingestion.load import NAMES, Name, Recorded, Tally, load
from streams.protocols.audiohook import AudioHookDecoder
from streams.protocols.audiosocket import AudioSocket
from streams.protocols.base import Audio, Began, Decoder, Ended, Event
from streams.protocols.listen import Listen, options
from streams.protocols.twilio import TwilioDecoder
from tests.unit.stage_records import call, utterance
from tests.unit.stage_records import interim as unfinished

Calls = list[list[Event]]


def spoken(info: CallInfo, text: str) -> Score:
    """An utterance on the second channel: two words from 100 ms on, of 200 ms each."""
    words = [
        {"text": word, "start_ms": 100 + at * 200, "end_ms": 300 + at * 200, "confidence": 1}
        for at, word in enumerate(text.split())
    ]
    running = RunningScore(score=0, party_score=0, utterances=1)
    return utterance(Score, info, 100, 500, channel=1, text=text, words=words, running=running, pipeline_version="v1")


def decoder_for(protocol: Name, path: str) -> Decoder:
    if protocol == "twilio":
        return TwilioDecoder()
    if protocol == "audiohook":
        return AudioHookDecoder()
    return Listen(options(path.partition("?")[2]), "request", datetime(2026, 1, 1, tzinfo=UTC))


@asynccontextmanager
async def server(protocol: Name, calls: Calls, headers: list[dict[str, str]] | None = None) -> AsyncIterator[str]:
    """A server of the protocol; `calls` gets the events of each connection, in the order of their beginning."""

    async def socket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = AudioSocket()
        events: list[Event] = []
        calls.append(events)
        while not decoder.finished:
            piece = await reader.read(4_096)
            events.extend(decoder.receive(piece) if piece else decoder.lost())
        writer.close()

    async def websocket(connection: ServerConnection) -> None:
        assert connection.request is not None
        if headers is not None:
            headers.append(dict(connection.request.headers.raw_items()))
        decoder = decoder_for(protocol, connection.request.path)
        events: list[Event] = []
        calls.append(events)
        async for message in connection:
            events.extend(decoder.receive(message))
            while decoder.outbox:
                await connection.send(decoder.outbox.pop(0))
            # /v1/listen is not finished before the last words are heard, and nobody hears them here.
            if decoder.finished or Ended() in events[-1:]:
                break

    if protocol == "audiosocket":
        async with await asyncio.start_server(socket, "127.0.0.1", 0) as running:
            yield f"127.0.0.1:{running.sockets[0].getsockname()[1]}"
    else:
        async with serve(websocket, "127.0.0.1", 0) as listening:
            yield f"ws://127.0.0.1:{next(iter(listening.sockets)).getsockname()[1]}/there"


def run(test: Callable[[], Coroutine[Any, Any, Tally]]) -> Tally:
    # On the loop that the command uses.
    return uvloop.run(asyncio.wait_for(test(), 60))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.two_channel(tmp_path_factory.mktemp("samples"))


def played(recorded: Recorded, protocol: Name, number: int, frames: int) -> dict[int, bytes]:
    """What the call of this number plays in so many frames, by channel."""
    frame_ms = 100 if protocol == "audiohook" else 20
    first = number * 37 * frame_ms * 8
    if protocol == "audiosocket":
        line = np.concatenate([recorded.linear, recorded.linear])
        return {0: line[first : first + frames * 160].tobytes()}
    both = np.concatenate([recorded.mulaw, recorded.mulaw])[first : first + frames * frame_ms * 8]
    # The second channel is the customer, who comes first with Twilio and Genesys.
    order = (0, 1) if protocol == "listen" else (1, 0)
    return {channel: both[:, column].tobytes() for channel, column in enumerate(order)}


@pytest.mark.parametrize("protocol", NAMES)
def test_what_is_played_is_what_is_heard(protocol: Name, recording: Path) -> None:
    calls: Calls = []
    headers: list[dict[str, str]] = []

    async def test() -> Tally:
        async with server(protocol, calls, headers) as url:
            return await load(url, protocol, recording, 3, 0.6, key="secret")

    tally = run(test)
    frames = 6 if protocol == "audiohook" else 30
    assert (tally.calls, tally.ended, tally.refused, tally.disconnected, tally.reasons) == (3, 3, 0, 0, {})
    assert tally.frames == 3 * frames
    assert tally.audio_s == pytest.approx(1.8)
    recorded = Recorded.read(recording)
    for number, events in enumerate(calls):
        heard: dict[int, bytes] = {}
        for event in events:
            if isinstance(event, Audio):
                heard[event.channel] = heard.get(event.channel, b"") + event.samples
        assert heard == played(recorded, protocol, number, frames)
        began, *_, ended = events
        assert isinstance(began, Began)
        assert ended == Ended()
        if protocol in ("twilio", "audiohook"):
            assert began.roles == ("customer", "agent")
    ids = [events[0].call_id for events in calls if isinstance(events[0], Began)]
    # The server names the calls of /v1/listen.
    assert len(set(ids)) == (1 if protocol == "listen" else 3)
    for given in headers:
        sent = {name.lower(): value for name, value in given.items()}
        assert "secret" in sent.get("authorization", "") or sent.get("x-api-key") == "secret"


@pytest.mark.parametrize("interim", [True, False])
def test_the_delay_of_words_is_taken_from_their_end(interim: bool, recording: Path) -> None:
    info = call(("agent", "customer"))

    async def test() -> Tally:
        async def talk(connection: ServerConnection) -> None:
            assert connection.request is not None
            decoder = Listen(
                options(urlsplit(connection.request.path).query), "request", datetime(2026, 1, 1, tzinfo=UTC)
            )
            heard = 0
            said: list[tuple[int, CallEvent]] = [
                (300, unfinished(info, 100, 200, "Well", channel=1)),
                (600, unfinished(info, 100, 500, "Well", channel=1)),
                (800, spoken(info, "Well, then.")),
            ]
            async for message in connection:
                events = decoder.receive(message)
                for event in events:
                    heard += isinstance(event, Audio) and event.channel == 0 and len(event.samples) // 8
                while said and heard >= said[0][0]:
                    decoder.heard(said.pop(0)[1])
                for answer in decoder.outbox:
                    await connection.send(answer)
                decoder.outbox.clear()
                if Ended() in events:
                    break

        async with serve(talk, "127.0.0.1", 0) as running:
            url = f"ws://127.0.0.1:{next(iter(running.sockets)).getsockname()[1]}/there"
            return await load(url, "listen", recording, 1, 1.0, interim=interim)

    well, then = run(test).words
    # "Well" is over at 300 ms and comes with the 15th frame, "then." at 500 ms; both are final with the 40th.
    assert 0.28 <= then[1] < 10
    assert well[1] - then[1] == pytest.approx(0.2)
    assert then[0] == then[1]
    # 25 frames lie between, at their pace: 0.5 s, more or less by what else a machine does; from the second time it is
    # sent it would be 0.2 s.
    assert 0.3 < well[1] - well[0] < 10 if interim else well[1] == well[0]


def test_frames_come_at_the_pace_of_speech(recording: Path) -> None:
    moments: list[float] = []

    async def test() -> Tally:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(19)
            while await reader.read(323):
                moments.append(asyncio.get_running_loop().time())
            writer.close()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as running:
            return await load(f"127.0.0.1:{running.sockets[0].getsockname()[1]}", "audiosocket", recording, 1, 1.0)

    # A busy machine holds frames up, and those that were held up come together: one run of some goes by without that.
    for _ in range(5):
        moments.clear()
        tally = run(test)
        assert tally.frames == 50
        assert moments[-1] - moments[0] > 0.9
        pace_s = np.median([later - earlier for earlier, later in itertools.pairwise(moments)])
        if pace_s == pytest.approx(0.02, abs=0.008):
            break
    assert pace_s == pytest.approx(0.02, abs=0.008)


def test_frames_that_are_late_are_sent_and_counted(recording: Path) -> None:
    async def test() -> Tally:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(19 + 10 * 323)
            # The generator waits with it: they have one thread.
            time.sleep(0.3)
            while await reader.read(65_536):
                pass
            writer.close()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as running:
            return await load(f"127.0.0.1:{running.sockets[0].getsockname()[1]}", "audiosocket", recording, 1, 1.0)

    tally = run(test)
    assert (tally.frames, tally.disconnected) == (50, 0)
    assert tally.late >= 12
    assert tally.worst_s > 0.25


def test_calls_that_are_cut_off_are_counted_and_why(recording: Path) -> None:
    async def test() -> Tally:
        async def handler(connection: ServerConnection) -> None:
            for _ in range(10):
                await connection.recv()
            await connection.close(1013, "too busy")

        async with serve(handler, "127.0.0.1", 0) as running:
            url = f"ws://127.0.0.1:{next(iter(running.sockets)).getsockname()[1]}/"
            return await load(url, "twilio", recording, 2, 5)

    tally = run(test)
    assert (tally.calls, tally.ended, tally.disconnected) == (2, 0, 2)
    assert tally.reasons == {"close code 1013 too busy": 2}


def test_calls_that_are_refused_are_counted_and_why(recording: Path) -> None:
    async def test() -> Tally:
        async with serve(
            lambda _connection: asyncio.sleep(0),
            "127.0.0.1",
            0,
            process_request=lambda connection, _request: connection.respond(401, "no key\n"),
        ) as running:
            url = f"ws://127.0.0.1:{next(iter(running.sockets)).getsockname()[1]}/"
            return await load(url, "listen", recording, 2, 5)

    tally = run(test)
    assert (tally.calls, tally.refused, tally.frames) == (0, 2, 0)
    assert list(tally.reasons.values()) == [2]
    assert "401" in next(iter(tally.reasons))


def test_nobody_there_is_a_refusal(recording: Path) -> None:
    tally = run(lambda: load("127.0.0.1:9", "audiosocket", recording, 2, 5))
    assert (tally.calls, tally.refused) == (0, 2)


def test_a_stop_hangs_up(recording: Path) -> None:
    calls: Calls = []

    async def test() -> Tally:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, stop.set)
        async with server("audiohook", calls) as url:
            return await load(url, "audiohook", recording, 2, 60, stop=stop)

    tally = run(test)
    assert (tally.calls, tally.ended) == (2, 2)
    assert all(events[-1] == Ended() for events in calls)
    assert 0 < tally.audio_s < 40


@pytest.mark.parametrize(
    ("url", "protocol"), [("localhost", "audiosocket"), ("http://x/", "twilio"), ("x:1", "listen")]
)
def test_a_wrong_address_is_said(url: str, protocol: Name, recording: Path) -> None:
    with pytest.raises(CalltideError, match="is no address for this protocol"):
        run(lambda: load(url, protocol, recording, 1, 1))
