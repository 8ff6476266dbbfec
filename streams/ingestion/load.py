"""`calltide load`: many calls at once, as a phone system sends them, from a real recording in real time.

It works against any server of the protocol, and says what a capacity test wants to know: frames sent, frames that were
late, calls that were refused or cut off. A changer must know: at 1,000 calls the generator shares the machine with
what it measures, so one ticker serves all calls, each call writes once a frame, and websocket frames are masked with
zeros, which costs nothing and is as valid as any mask.
"""

import asyncio
import base64
import contextlib
import json
import ssl
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, cast, get_args
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from processors.audio import encode
from schemas.errors import CalltideError
from streams.files import open_audio
from streams.settings import Serve

Name = Literal["twilio", "audiosocket", "audiohook", "listen"]
NAMES: Final[tuple[Name, ...]] = get_args(Name)

RATE: Final = 8_000
TICK_S: Final = 0.005
"""Judgement: frames that are due within so long are written together, as by a telephone's own clock."""
LATE_S: Final = 0.02
"""A frame is late when it is written so long (20 ms) after it was due, or while the server does not read."""
STARTS_PER_S: Final = 50
"""Judgement: calls begin one after the other; a thousand handshakes at one moment measure something else."""
ANSWER_S: Final = 10.0
"""Judgement: how long a server may take to answer the beginning and the end of a call."""
FINE: Final = (None, 1000, 1001, 1005, 1006)
"""Close codes of a call that has said its goodbye; 1006 is a connection that was closed without one."""
PING_EVERY_S: Final = 5.0
"""As Genesys does."""
SAME_S: Final = 0.5
"""An interim word is a finished one that reads alike if they begin no further apart. Judgement, as in
benchmarks/interim.py."""


@dataclass(slots=True)
class Tally:
    """What came of a run."""

    calls: int = 0
    """Begun: the server took the connection and whatever the protocol says at first."""
    refused: int = 0
    ended: int = 0
    """To their end, by both sides."""
    disconnected: int = 0
    """By the server, before their end."""
    frames: int = 0
    late: int = 0
    worst_s: float = 0.0
    """The latest frame."""
    audio_s: float = 0.0
    """Seconds of call sent."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why calls were refused or cut off, and how often."""
    words: list[tuple[float, float]] = field(default_factory=list)
    """Of each finished word: seconds from its end, as it was sent, to the first result that had it, interim or final,
    and to the final one."""

    def because(self, reason: str) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


@dataclass(frozen=True, slots=True)
class Recorded:
    """What all calls play, over and over: one or two channels, 8 kHz, mu-law and 16 bit."""

    mulaw: NDArray[np.uint8]
    """Shape (samples, channels)."""
    linear: NDArray[np.int16]
    """Shape (samples,): all channels added up."""

    @classmethod
    def read(cls, path: Path) -> "Recorded":
        """Raises CalltideError for what is no recording of a telephone, 8 kHz."""
        audio = open_audio(path)
        if audio.rate != RATE:
            raise CalltideError(f"{path} has {audio.source_rate} Hz; name a telephone recording, 8000 Hz")
        samples = np.concatenate(list(audio.blocks()))
        # Whole frames of any protocol, so that it can be played in a circle.
        samples = samples[: len(samples) // 800 * 800]
        columns = [np.frombuffer(encode(np.ascontiguousarray(column), "mulaw"), np.uint8) for column in samples.T]
        mixed = np.clip(samples.sum(axis=1), -1, 1) * 32_767
        return cls(np.stack(columns, axis=1), mixed.astype("<i2"))


def frame(opcode: Opcode, payload: bytes) -> bytes:
    """A client's websocket frame, masked with zeros."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65_536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload


def _text(message: Mapping[str, Any]) -> bytes:
    return frame(Opcode.TEXT, json.dumps(message).encode())


class Speaker:
    """One call of a protocol: what it says, as bytes for the wire, and what it makes of the answers."""

    websocket: ClassVar[bool] = True
    frame_ms: ClassVar[int] = 20

    interim = False
    """Whether to ask for words before their utterance is finished."""

    def __init__(self, recorded: Recorded, first: int) -> None:
        """`first`: the frame of the recording at which this call begins."""
        self.recorded = recorded
        self.first = first
        self.words: list[tuple[float, float]] = []
        """As `Tally.words`."""
        self.ready = True
        """Whether audio may be sent."""
        self.done = False
        """Whether the server has said its goodbye."""
        self.size = RATE * self.frame_ms // 1_000

    def target(self, url: str) -> tuple[str, dict[str, str]]:
        """The address with what the protocol adds to it, and headers of the handshake."""
        return url, {}

    def opening(self) -> bytes:
        return b""

    def audio(self, number: int) -> bytes:
        """The frame of this number, from 0 on."""
        raise NotImplementedError

    def closing(self, frames: int) -> bytes:
        """What is said after so many frames."""
        return b""

    def hear(self, message: bytes | str, at_s: float) -> bytes:
        """The answer to a message of the server; `at_s`: seconds since the first frame was due."""
        return b""

    def piece(self, number: int, samples: NDArray[Any]) -> NDArray[Any]:
        start = (self.first + number) * self.size % len(samples)
        return samples[start : start + self.size]


class AudioSocketSpeaker(Speaker):
    websocket = False

    def __init__(self, recorded: Recorded, first: int) -> None:
        super().__init__(recorded, first)
        self.call = uuid.uuid4()

    def opening(self) -> bytes:
        return b"\x01\x00\x10" + self.call.bytes

    def audio(self, number: int) -> bytes:
        return b"\x10\x01\x40" + self.piece(number, self.recorded.linear).tobytes()

    def closing(self, frames: int) -> bytes:
        return b"\x00\x00\x00"


class TwilioSpeaker(Speaker):
    def __init__(self, recorded: Recorded, first: int) -> None:
        super().__init__(recorded, first)
        self.stream, self.call, self.account = (f"{kind}{uuid.uuid4().hex}" for kind in ("MZ", "CA", "AC"))
        # The agent is the first channel of a recording, the customer the second.
        tracks = ("outbound", "inbound") if recorded.mulaw.shape[1] == 2 else ("inbound",)
        self.tracks = tuple(enumerate(tracks))
        self.sequence = 1

    def opening(self) -> bytes:
        connected = {"event": "connected", "protocol": "Call", "version": "1.0.0"}
        start = {
            "accountSid": self.account,
            "streamSid": self.stream,
            "callSid": self.call,
            "tracks": [track for _, track in self.tracks],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": RATE, "channels": 1},
            "customParameters": {},
        }
        return _text(connected) + _text(
            {"event": "start", "sequenceNumber": "1", "start": start, "streamSid": self.stream}
        )

    def audio(self, number: int) -> bytes:
        both, said = self.piece(number, self.recorded.mulaw), b""
        for channel, track in self.tracks:
            self.sequence += 1
            payload = base64.b64encode(both[:, channel].tobytes()).decode()
            # By hand: this is most of what the generator does.
            said += frame(
                Opcode.TEXT,
                (
                    f'{{"event":"media","sequenceNumber":"{self.sequence}","media":{{"track":"{track}",'
                    f'"chunk":"{number + 1}","timestamp":"{number * 20}","payload":"{payload}"}},'
                    f'"streamSid":"{self.stream}"}}'
                ).encode(),
            )
        return said

    def closing(self, frames: int) -> bytes:
        stop = {"accountSid": self.account, "callSid": self.call}
        message = {"event": "stop", "sequenceNumber": str(self.sequence + 1), "stop": stop, "streamSid": self.stream}
        self.done = True
        return _text(message)


class AudioHookSpeaker(Speaker):
    frame_ms = 100

    def __init__(self, recorded: Recorded, first: int) -> None:
        super().__init__(recorded, first)
        self.ready = False
        self.session, self.organization = str(uuid.uuid4()), str(uuid.uuid4())
        self.sent = self.seen = 0
        self.channels = ["external", "internal"][: recorded.mulaw.shape[1]]
        self.pinged = 0

    def target(self, url: str) -> tuple[str, dict[str, str]]:
        return url, {
            "Audiohook-Organization-Id": self.organization,
            "Audiohook-Session-Id": self.session,
            "Audiohook-Correlation-Id": str(uuid.uuid4()),
        }

    def _say(self, kind: str, frames: int, parameters: Mapping[str, Any]) -> bytes:
        self.sent += 1
        return _text(
            {
                "version": "2",
                "id": self.session,
                "type": kind,
                "seq": self.sent,
                "serverseq": self.seen,
                "position": f"PT{frames * self.frame_ms / 1_000:.1f}S",
                "parameters": parameters,
            }
        )

    def opening(self) -> bytes:
        media = {"type": "audio", "format": "PCMU", "channels": self.channels, "rate": RATE}
        who = {"id": str(uuid.uuid4()), "ani": "+15550100", "aniName": "load", "dnis": "+15550199"}
        parameters = {
            "organizationId": self.organization,
            "conversationId": str(uuid.uuid4()),
            "participant": who,
            "media": [media],
        }
        return self._say("open", 0, parameters)

    def audio(self, number: int) -> bytes:
        # The customer is external and comes first, the agent is the first channel of a recording.
        said = frame(Opcode.BINARY, self.piece(number, self.recorded.mulaw)[:, ::-1].tobytes())
        if (number + 1) * self.frame_ms % (PING_EVERY_S * 1_000) == 0:
            said += self._say("ping", number + 1, {})
        return said

    def closing(self, frames: int) -> bytes:
        return self._say("close", frames, {"reason": "end"})

    def hear(self, message: bytes | str, at_s: float) -> bytes:
        said = json.loads(message)
        self.seen = int(said["seq"])
        if said["type"] == "opened":
            self.ready = True
        self.done = said["type"] in ("closed", "disconnect")
        return b""


class ListenSpeaker(Speaker):
    def __init__(self, recorded: Recorded, first: int) -> None:
        super().__init__(recorded, first)
        self.shown: dict[int, list[tuple[str, float, float]]] = {}
        """By channel, of each interim word: what it is, its start in the call, and when it came first, seconds."""

    def target(self, url: str) -> tuple[str, dict[str, str]]:
        channels = self.recorded.mulaw.shape[1]
        query = {
            "encoding": "mulaw",
            "sample_rate": RATE,
            "channels": channels,
            "multichannel": str(channels > 1).lower(),
        } | ({"interim_results": "true"} if self.interim else {})
        parts = urlsplit(url)
        return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(query)))))), {}

    def audio(self, number: int) -> bytes:
        return frame(Opcode.BINARY, self.piece(number, self.recorded.mulaw).tobytes())

    def closing(self, frames: int) -> bytes:
        return _text({"type": "CloseStream"})

    def hear(self, message: bytes | str, at_s: float) -> bytes:
        said = json.loads(message)
        if said["type"] != "Results":
            return b""
        words = [(word["word"], word["start"], word["end"]) for word in said["channel"]["alternatives"][0]["words"]]
        shown = self.shown.setdefault(said["channel_index"][0], [])

        def first_s(text: str, start_s: float) -> float:
            alike = (came_s for one, begins_s, came_s in shown if one == text and abs(begins_s - start_s) <= SAME_S)
            return min(alike, default=at_s)

        if not said["is_final"]:
            shown += [(text, start_s, at_s) for text, start_s, _ in words if first_s(text, start_s) == at_s]
            return b""
        for text, start_s, end_s in words:
            sent_s = round(end_s * 1_000) // self.frame_ms * self.frame_ms / 1_000
            self.words.append((first_s(text, start_s) - sent_s, at_s - sent_s))
        until_s = said["start"] + said["duration"]
        shown[:] = [word for word in shown if word[1] >= until_s]
        return b""


SPEAKERS: Final[Mapping[Name, type[Speaker]]] = {
    "twilio": TwilioSpeaker,
    "audiosocket": AudioSocketSpeaker,
    "audiohook": AudioHookSpeaker,
    "listen": ListenSpeaker,
}
PATHS: Final[Mapping[Name, str]] = {"twilio": "/twilio", "audiohook": "/audiohook", "listen": "/v1/listen"}
"""Of `calltide serve`."""
KEY_HEADERS: Final[Mapping[Name, Callable[[str], dict[str, str]]]] = {
    "twilio": lambda key: {"Authorization": f"Bearer {key}"},
    "audiosocket": lambda _key: {},
    "audiohook": lambda key: {"X-API-KEY": key},
    "listen": lambda key: {"Authorization": f"Token {key}"},
}


def here(serve: Serve, protocol: Name) -> str:
    """The address of `calltide serve` on this machine."""
    host = "127.0.0.1" if serve.host in ("0.0.0.0", "::") else serve.host
    return (
        f"{host}:{serve.audiosocket_port}"
        if protocol == "audiosocket"
        else f"ws://{host}:{serve.port}{PATHS[protocol]}"
    )


class _Connection(asyncio.Protocol):
    """One call on its wire."""

    def __init__(
        self,
        speaker: Speaker,
        tally: Tally,
        url: str,
        headers: Mapping[str, str],
        length: int,
        fresh: "list[_Connection]",
    ) -> None:
        """`length`: of the call, frames. `fresh`: to which it adds itself when its audio may begin."""
        self.speaker, self.tally, self.length, self.fresh = speaker, tally, length, fresh
        self.transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.began, self.said, self.over = loop.create_future(), loop.create_future(), loop.create_future()
        """When audio may be sent, when all is said, and when the connection is gone."""
        self.begun_at = 0.0
        """When its first frame is due, monotonic seconds."""
        self.frames = 0
        self.paused = False
        self.fault = ""
        self.websocket: ClientProtocol | None = None
        if speaker.websocket:
            address, more = speaker.target(url)
            self.websocket = ClientProtocol(parse_uri(address), max_size=None)
            self.request = self.websocket.connect()
            for name, value in {**headers, **more}.items():
                self.request.headers[name] = value

    # From asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclass of asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        if self.websocket is not None:
            self.websocket.send_request(self.request)
            self._flush()
        else:
            self._open()

    def data_received(self, data: bytes) -> None:
        if self.websocket is None:
            return
        self.websocket.receive_data(data)
        for event in self.websocket.events_received():
            if isinstance(event, Response):
                if self.websocket.state is State.OPEN:
                    self._open()
            elif isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY):
                message = bytes(event.data)
                heard = message.decode() if event.opcode is Opcode.TEXT else message
                self._write(self.speaker.hear(heard, time.monotonic() - self.begun_at))
                self._start()
                if self.speaker.done and self.said.done():
                    self._goodbye()
        self._flush()

    def eof_received(self) -> bool:
        if self.websocket is not None:
            self.websocket.receive_eof()
        return False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def connection_lost(self, error: Exception | None) -> None:
        self.over.set_result(None)
        self.tally.words += self.speaker.words
        code = self.websocket.close_code if self.websocket else None
        if self.said.done() and not self.fault and code in FINE:
            self.tally.ended += 1
            return
        self.tally.because(self.fault or self._why(error))
        if self.began.done():
            self.tally.disconnected += 1
        else:
            self.tally.refused += 1

    def _why(self, error: Exception | None) -> str:
        if self.websocket is not None:
            if self.websocket.handshake_exc is not None:
                return str(self.websocket.handshake_exc)
            if self.websocket.close_code not in (None, 1006):
                return f"close code {self.websocket.close_code} {self.websocket.close_reason or ''}".strip()
        return str(error) if error else "the server closed the connection"

    # From the ticker.

    def due(self, now: float) -> bool:
        """Write the frames that are due; a call that fell behind catches up at once. Returns whether more will be."""
        frame_s, tally = self.speaker.frame_ms / 1_000, self.tally
        while not self.over.done() and self.frames < self.length:
            late_s = now - self.begun_at - self.frames * frame_s
            if late_s < 0:
                return True
            tally.frames += 1
            tally.audio_s += frame_s
            tally.late += late_s > LATE_S or self.paused
            tally.worst_s = max(tally.worst_s, late_s)
            self._write(self.speaker.audio(self.frames))
            self.frames += 1
        self.end()
        return False

    def end(self) -> None:
        """Say goodbye, as the protocol does it."""
        if self.said.done() or self.over.done():
            return
        self.said.set_result(None)
        self._write(self.speaker.closing(self.frames))
        if self.websocket is None or self.speaker.done:
            self._goodbye()

    def give_up(self, fault: str) -> None:
        """The server does not do its part."""
        self.fault = fault
        if self.transport is not None:
            self.transport.abort()

    def _open(self) -> None:
        self._write(self.speaker.opening())
        self._start()

    def _start(self) -> None:
        if self.speaker.ready and not self.began.done():
            self.began.set_result(None)
            self.tally.calls += 1
            self.fresh.append(self)

    def _goodbye(self) -> None:
        if self.websocket is not None:
            if self.websocket.state is State.OPEN:
                self.websocket.send_close(1000)
                self._flush()
        elif self.transport is not None:
            self.transport.close()

    def _write(self, data: bytes) -> None:
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def _flush(self) -> None:
        assert self.websocket is not None and self.transport is not None
        for data in self.websocket.data_to_send():
            if data:
                self._write(data)
            elif self.transport.can_write_eof() and not self.transport.is_closing():
                self.transport.write_eof()


async def load(
    url: str,
    protocol: Name,
    recording: Path,
    calls: int,
    seconds: float,
    key: str = "",
    stop: asyncio.Event | None = None,
    told: Callable[[Tally, int], None] = lambda _tally, _active: None,
    interim: bool = False,
) -> Tally:
    """Hold so many calls at the same time, each of so many seconds, and hang up; `stop` hangs up at once.

    `url`: ws:// or wss:// with its path, or host:port for audiosocket. `told` is given the tally and the number of
    calls under way once a second. `interim`: of listen, whether interim results are asked for. Raises CalltideError for
    an address that is none.
    """
    kind, recorded, tally = SPEAKERS[protocol], Recorded.read(recording), Tally()
    host, port, tls = _address(url, kind.websocket)
    loop, stop = asyncio.get_running_loop(), stop or asyncio.Event()
    headers = KEY_HEADERS[protocol](key) if key else {}
    frame_s = kind.frame_ms / 1_000
    circle = round(len(recorded.linear) / RATE / frame_s)
    fresh: list[_Connection] = []

    async def call(number: int) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), number / STARTS_PER_S)
            return
        # Each at another place of the recording.
        speaker = kind(recorded, number * 37 % circle)
        speaker.interim = interim
        connection = _Connection(speaker, tally, url, headers, round(seconds / frame_s), fresh)
        try:
            await asyncio.wait_for(loop.create_connection(lambda: connection, host, port, ssl=tls), ANSWER_S)
        except (OSError, TimeoutError) as error:
            tally.refused += 1
            tally.because(str(error) or type(error).__name__)
            return
        over = connection.over
        await asyncio.wait((connection.began, over), timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        if not connection.began.done() and not over.done():
            connection.give_up("the server did not answer")
        await asyncio.wait((connection.said, over), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((over,), timeout=ANSWER_S)
        if not over.done():
            connection.give_up("the server did not end the call")
            await over

    started = told_at = time.monotonic()
    everything = asyncio.gather(*map(call, range(calls)))
    # Calls by the tick of their frames: with 1,000 of them, one look at each every 5 ms would cost more than sending.
    slots: list[list[_Connection]] = [[] for _ in range(round(frame_s / TICK_S))]
    served = -1
    while not everything.done():
        now = time.monotonic()
        tick = int((now - started) / TICK_S)
        for late in range(max(served + 1, tick - len(slots) + 1), tick + 1):
            slot = slots[late % len(slots)]
            slot[:] = [connection for connection in slot if connection.due(now)]
        served = tick
        while fresh:
            connection = fresh.pop()
            connection.begun_at = started + (tick + 1) * TICK_S
            slots[(tick + 1) % len(slots)].append(connection)
        if stop.is_set():
            for slot in slots:
                while slot:
                    slot.pop().end()
        if now - told_at >= 1:
            told_at = now
            told(tally, sum(map(len, slots)))
        await asyncio.sleep(started + (tick + 1) * TICK_S - time.monotonic())
    await everything
    return tally


def _address(url: str, websocket: bool) -> tuple[str, int, ssl.SSLContext | None]:
    parts = urlsplit(url if "//" in url else f"tcp://{url}")
    try:
        port = parts.port
    except ValueError:
        port = None
    schemes = ("ws", "wss") if websocket else ("tcp",)
    if parts.scheme not in schemes or not parts.hostname or (port is None and not websocket):
        form = "ws://HOST:PORT/PATH" if websocket else "HOST:PORT"
        raise CalltideError(f"{url} is no address for this protocol; write {form}")
    tls = ssl.create_default_context() if parts.scheme == "wss" else None
    return parts.hostname, port or (443 if tls else 80), tls
