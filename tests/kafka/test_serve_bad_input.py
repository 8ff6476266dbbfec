"""Everything a stranger may send, to one server, all at the same time, beside a call that nothing is wrong with.

Each connection ends in the way of its protocol and is counted; what it had said before is in Kafka; the good call
notices nothing. A changer must know: all cases run once, together (`outcomes`), and each test looks at its own.
"""

import asyncio
import base64
import json
import struct
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Frame, Opcode

from schemas.topics import DEFAULT_PARTITIONS, FRAMES
from streams.ingestion.server import Switchboard
from tests.calling import SOUND, Twilio, counted, ending, run, served, settings_for, sound, twilio
from tests.telephony import Genesys
from tests.workers import Found, everything

pytestmark = pytest.mark.kafka

LIMIT_S = 4.0
"""For who says nothing: longer than a loaded machine takes for all that is said."""
GOOD = SOUND[:4_000]
"""What each call says before it goes wrong: half a second or less, in whatever codec."""
DEEP = "[" * 60_000
NUMBER = "7" * 60_000
MANY = {f"k{number}": "v" for number in range(3_000)}


class Raw(bytes):
    """Bytes for the wire: no message, or none that a client's library would send."""


Sent = str | bytes


class Caller:
    """One protocol's client. `begun` makes a call with GOOD in it; `call_id` names it."""

    path = ""

    def __init__(self) -> None:
        self.call_id = str(uuid.uuid4())

    def begun(self) -> Iterator[Sent]:
        yield from ()


class OnTwilio(Caller):
    path = "/twilio"

    def message(self, kind: str, fields: Any) -> str:
        return json.dumps({"event": kind, "sequenceNumber": "1", "streamSid": "MZ1", kind: fields})

    def start(self, custom: dict[str, str] | None = None) -> str:
        form = {"encoding": "audio/x-mulaw", "sampleRate": 8_000, "channels": 1}
        names = {"accountSid": "AC1", "callSid": self.call_id, "streamSid": "MZ1"}
        custom = custom or {}
        return self.message("start", {**names, "tracks": ["inbound"], "mediaFormat": form, "customParameters": custom})

    def media(self, at_ms: int, samples: bytes = b"", **changes: Any) -> str:
        payload = base64.b64encode(samples).decode()
        fields = {"track": "inbound", "chunk": "1", "timestamp": str(at_ms), "payload": payload}
        return self.message("media", fields | changes)

    def begun(self) -> Iterator[Sent]:
        yield self.start()
        for at in range(0, len(GOOD), 160):
            yield self.media(at // 8, GOOD[at : at + 160])


class OnAudioHook(Caller):
    path = "/audiohook"

    def __init__(self) -> None:
        super().__init__()
        self.client = Genesys(str(uuid.uuid4()), str(uuid.uuid4()))

    def message(self, kind: str, parameters: Any = None, at_ms: int = 500, **changes: Any) -> str:
        return json.dumps(json.loads(self.client.message(kind, parameters or {}, at_ms)) | changes)

    def start(self) -> str:
        message = json.loads(self.client.open(self.call_id))
        message["parameters"]["media"] = message["parameters"]["media"][1:2]
        return json.dumps(message)

    def begun(self) -> Iterator[Sent]:
        yield self.start()
        yield GOOD


class OnListen(Caller):
    @property
    def path(self) -> str:  # type: ignore[override]
        return f"/v1/listen?encoding=mulaw&sample_rate=8000&call={self.call_id}"

    def begun(self) -> Iterator[Sent]:
        yield GOOD


class OnMicrophone(Caller):
    @property
    def path(self) -> str:  # type: ignore[override]
        return f"/microphone?call={self.call_id}"

    def begun(self) -> Iterator[Sent]:
        yield GOOD


def frame(kind: int, payload: bytes = b"", length: int | None = None) -> Raw:
    """A frame of AudioSocket."""
    return Raw(struct.pack(">BH", kind, len(payload) if length is None else length) + payload)


class OnAudioSocket(Caller):
    def identity(self) -> Raw:
        return frame(0x01, uuid.UUID(self.call_id).bytes)

    def begun(self) -> Iterator[Sent]:
        yield self.identity()
        for at in range(0, len(GOOD), 320):
            yield frame(0x10, GOOD[at : at + 320])


PROTOCOLS: dict[str, type[Caller]] = {
    "twilio": OnTwilio,
    "audiohook": OnAudioHook,
    "listen": OnListen,
    "microphone": OnMicrophone,
    "audiosocket": OnAudioSocket,
}


@dataclass(frozen=True)
class Case:
    """What a connection sends, after a call of its protocol has `begun` or as the first thing, and how it ends: the
    websocket's close code (TCP: it is just closed), and the word under which it is counted."""

    protocol: str
    name: str
    sent: Callable[[Any], Sequence[Sent]]
    code: int
    counted_as: str
    begun: bool = True
    aborted: bool = False
    """The client ends the connection in the middle of what it sends."""
    reason: str = "interrupted"
    """Why the call that had begun is over."""
    more: bytes = b""
    """Audio that is heard beside GOOD."""

    def __str__(self) -> str:
        return f"{self.protocol}: {self.name}"


@dataclass
class Outcome:
    """How a connection ended."""

    case: Case
    caller: Caller
    code: int | None = None
    answers: list[Any] = field(default_factory=list)


def text(message: Any) -> Callable[[Any], Sequence[Sent]]:
    return lambda _caller: [message]


def ws_frame(first: int, payload: bytes) -> Raw:
    """A short masked frame with any first byte."""
    return Raw(bytes([first, 0x80 | len(payload)]) + b"\0\0\0\0" + payload)


HUGE = Raw(b"\x81\xff" + struct.pack(">Q", 2**31) + b"\0\0\0\0")
"""The header of a text of 2 GiB, of which nothing comes."""
LONG = Raw(
    b"".join(Frame(Opcode.CONT if at else Opcode.TEXT, b"x" * 9_000, fin=False).serialize(mask=True) for at in range(8))
)
"""A message in pieces, none of which is too long."""
HALF = Raw(Frame(Opcode.TEXT, b'{"event": "media"').serialize(mask=True)[:-5])


def everywhere(protocol: str) -> Iterator[Case]:
    """What is wrong on any websocket."""
    for name, message, code, word in (
        ("JSON that breaks off", '{"type": "ping", "seq', 1007, "not_json"),
        ("a bomb of brackets", DEEP, 1007, "not_json"),
        ("a bomb of digits", NUMBER, 1007, "not_json"),
        ("a text that is too long", "x" * 70_000, 1009, "too_long"),
        ("binary that is too long", b"\0" * 70_000, 1009, "too_long"),
        ("a length of 2 GB", HUGE, 1009, "too_long"),
        ("a frame of an unknown kind", ws_frame(0x83, b"?"), 1002, "frame"),
        ("a frame that is not masked", Raw(b"\x81\x02{}"), 1002, "frame"),
        ("too many pieces", Raw(b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 2_000), 1009, "pieces"),
        ("pieces that are too long together", LONG, 1009, "too_long"),
        ("text that is not UTF-8", ws_frame(0x81, b"\xff\xfe"), 1007, "not_utf8"),
    ):
        for begun in (True, False):
            yield Case(protocol, f"{name}{'' if begun else ', at first'}", text(message), code, word, begun)
    yield Case(protocol, "a frame that breaks off", text(HALF), 1006, "", aborted=True)
    idle = 1011 if protocol == "listen" else 1008
    yield Case(protocol, "nothing", lambda _caller: [], idle, "handshake", begun=False)
    yield Case(protocol, "nothing any more", lambda _caller: [], idle, "idle", reason="idle")
    yield Case(protocol, "a frame that never ends", text(HALF), idle, "idle", reason="idle")


CASES = [
    *(case for protocol in PROTOCOLS if protocol != "audiosocket" for case in everywhere(protocol)),
    Case("twilio", "binary", text(b"\x00" * 160), 1003, "binary"),
    Case("twilio", "a bomb of members", lambda caller: [caller.start(MANY)], 1008, "metadata", begun=False),
    Case("twilio", "a message without an event", text("{}"), 1008, "malformed"),
    Case("twilio", "media before start", lambda caller: [caller.media(0, GOOD)], 1008, "early", begun=False),
    Case("twilio", "a second start", lambda caller: [caller.start()], 1008, "twice"),
    Case("twilio", "garbage for base64", lambda caller: [caller.media(500, payload="?" * 160)], 1007, "payload"),
    Case("twilio", "base64 that breaks off", lambda caller: [caller.media(500, payload="abc")], 1007, "payload"),
    Case("twilio", "a time in the past century", lambda caller: [caller.media(-1)], 1008, "timestamp"),
    Case("twilio", "a day that has not come", lambda caller: [caller.media(10**8)], 1008, "timestamp"),
    Case("twilio", "hours beyond the longest call", lambda caller: [caller.media(8 * 3_600_000, GOOD)], 1008, "jump"),
    Case(
        "twilio",
        "media twice and out of order, and kinds that nobody knows",
        lambda caller: [
            *(caller.media(at, GOOD[8 * at : 8 * at + 160]) for at in (480, 0, 100, 100)),
            caller.message("new in 2027", {}),
            caller.message("stop", {}),
        ],
        1000,
        "",
        reason="hangup",
    ),
    Case(
        "twilio",
        "silence for hours",
        lambda caller: [caller.media(3 * 3_600_000, SOUND[:160]), caller.message("stop", {})],
        1000,
        "",
        reason="hangup",
        # A little silence every half an hour, so that no listener takes the jump for a fault.
        more=b"\xff" * 80 * 5 + SOUND[:160],
    ),
    Case("audiohook", "sound before open", text(GOOD), 1008, "early", begun=False),
    Case(
        "audiohook", "a ping before open", lambda caller: [caller.message("ping", at_ms=0), GOOD], 1008, "early", False
    ),
    Case("audiohook", "a bomb of members", text(json.dumps(MANY)), 1008, "malformed", begun=False),
    Case(
        "audiohook",
        "sound that ends inside a sample",
        lambda caller: [caller.client.open(caller.call_id), b"abc"],
        1008,
        "length",
        begun=False,
    ),
    Case("audiohook", "a number twice", lambda caller: [caller.message("ping", seq=1)], 1008, "sequence"),
    Case("audiohook", "a number left out", lambda caller: [caller.message("ping", seq=9)], 1008, "sequence"),
    Case(
        "audiohook",
        "an answer that was not given",
        lambda caller: [caller.message("ping", serverseq=7)],
        1008,
        "sequence",
    ),
    Case("audiohook", "a position ahead", lambda caller: [caller.message("ping", at_ms=9_000)], 1008, "position"),
    Case(
        "audiohook",
        "a position that is none",
        lambda caller: [caller.message("ping", position="P1D")],
        1008,
        "position",
    ),
    Case(
        "audiohook",
        "silence for hours",
        lambda caller: [
            caller.message("discarded", {"start": "PT0.5S", "discarded": "PT10799.5S"}),
            SOUND[:160],
            caller.message("close", {"reason": "end"}, 3 * 3_600_000 + 20),
        ],
        1000,
        "",
        reason="hangup",
        more=b"\xff" * 80 * 5 + SOUND[:160],
    ),
    Case("audiohook", "a second open", lambda caller: [caller.message("open")], 1008, "twice"),
    Case("audiohook", "another session", lambda caller: [caller.message("ping", id="x")], 1008, "other_session"),
    Case("listen", "a message that nobody knows", text('{"type": "Sing"}'), 1008, "unknown_message"),
    Case("listen", "a file", text(b"OggS" + GOOD), 1008, "not_audio", begun=False),
    Case("microphone", "a message that nobody knows", text('{"type": "sing"}'), 1008, "unknown_message"),
    Case("audiosocket", "nothing", lambda _caller: [], 0, "handshake", begun=False),
    Case("audiosocket", "nothing any more", lambda _caller: [], 0, "idle", reason="idle"),
    Case("audiosocket", "a frame of which nothing comes", text(frame(0x10, length=65_534)), 0, "idle", reason="idle"),
    Case("audiosocket", "a frame that breaks off", text(frame(0x10, b"ab", 320)), 0, "truncated", aborted=True),
    Case("audiosocket", "a frame of an unknown kind", text(frame(0x77, b"", 65_535)), 0, "kind"),
    Case("audiosocket", "a web page", text(Raw(b"GET / HTTP/1.1\r\n\r\n")), 0, "kind", begun=False),
    Case("audiosocket", "half a sample", text(frame(0x10, b"abc")), 0, "length"),
    Case("audiosocket", "a short UUID", text(frame(0x01, b"abc")), 0, "length", begun=False),
    Case("audiosocket", "audio before the UUID", text(frame(0x10, GOOD)), 0, "order", begun=False),
    Case("audiosocket", "a second UUID", lambda caller: [caller.identity()], 0, "order"),
    Case("audiosocket", "another rate", text(frame(0x12, GOOD)), 0, "rate"),
    Case("audiosocket", "a key that no telephone has", text(frame(0x03, b"x")), 0, "dtmf"),
]


async def on_websocket(board: Switchboard, outcome: Outcome) -> None:
    case, caller = outcome.case, outcome.caller
    async with connect(f"ws://127.0.0.1:{board.port}{caller.path}", compression=None) as socket:
        for message in (*(caller.begun() if case.begun else ()), *case.sent(caller)):
            if isinstance(message, Raw):
                socket.transport.write(message)
            else:
                await socket.send(message)
        if case.aborted:
            socket.transport.close()
        try:
            async for answer in socket:
                outcome.answers.append(json.loads(answer))
        except ConnectionClosedError:
            pass
        outcome.code = socket.close_code


async def on_tcp(board: Switchboard, outcome: Outcome) -> None:
    case, caller = outcome.case, outcome.caller
    reader, writer = await asyncio.open_connection("127.0.0.1", board.audiosocket_port)
    for message in (*(caller.begun() if case.begun else ()), *case.sent(caller)):
        writer.write(bytes(message))
    if case.aborted:
        writer.write_eof()
    try:
        assert await reader.read() == b""
    except ConnectionResetError:
        pass  # it was closed before all had been read
    outcome.code = 0
    writer.close()


async def stranger(board: Switchboard, hello: bytes) -> bytes:
    """What is answered to somebody who is no websocket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", board.port)
    writer.write(hello)
    answer = await reader.read()
    writer.close()
    return answer


STRANGERS = {
    "silence": b"",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512),
    "half a request": b"GET /twilio HTTP/1.1\r\nHost: a\r\n",
    "a line without end": b"GET /" + b"x" * 20_000,
}


@dataclass
class Outcomes:
    """Of all cases together."""

    ended: dict[str, Outcome]
    faults: Counter[tuple[str, str]]
    """How much the metric rose."""
    strangers: dict[str, bytes]
    refused: float
    """Of strangers."""
    good: dict[str, bytes]
    """What the calls said that nothing was wrong with."""
    found: dict[str, list[Found]]
    """Records by call."""


@pytest.fixture(scope="module")
def outcomes(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    settings = settings_for(kafka_bootstrap, tmp_path_factory.mktemp("home"))
    ended = {str(case): Outcome(case, PROTOCOLS[case.protocol]()) for case in CASES}
    assert len(ended) == len(CASES)
    words = {(case.protocol, case.counted_as) for case in CASES}
    good: dict[str, bytes] = {}
    all_over = asyncio.Event()

    async def on_twilio(board: Switchboard) -> None:
        async with twilio(board) as socket:
            client = Twilio(socket, f"CA{uuid.uuid4().hex}")
            await client.start()
            said = b""
            for number in count():
                piece = SOUND[number * 160 % 8_000 :][:160]
                await client.media(number * 20, piece)
                said += piece
                await asyncio.sleep(0.02)
                if all_over.is_set():
                    break
            good[client.call_id] = said
            await client.stop()

    async def on_audiosocket(board: Switchboard) -> None:
        caller = OnAudioSocket()
        _, writer = await asyncio.open_connection("127.0.0.1", board.audiosocket_port)
        writer.write(caller.identity())
        said = b""
        for number in count():
            piece = SOUND[number * 320 % 8_000 :][:320]
            writer.write(frame(0x10, piece))
            said += piece
            await asyncio.sleep(0.02)
            if all_over.is_set():
                break
        good[caller.call_id] = said
        writer.write(frame(0x00))
        await writer.drain()
        writer.close()

    async def test() -> None:
        async with served(settings, handshake_s=LIMIT_S, idle_s=LIMIT_S, grace_s=0.5) as board:
            beside = [asyncio.create_task(one(board)) for one in (on_twilio, on_audiosocket)]
            tasks = {name: asyncio.create_task(stranger(board, hello)) for name, hello in STRANGERS.items()}
            async with asyncio.TaskGroup() as group:
                for one in ended.values():
                    talk = on_tcp if one.case.protocol == "audiosocket" else on_websocket
                    group.create_task(talk(board, one))
            strangers.update({name: await task for name, task in tasks.items()})
            all_over.set()
            await asyncio.gather(*beside)
            while len(board.calls):
                await asyncio.sleep(0.02)

    strangers: dict[str, bytes] = {}
    before = {word: fault_count(*word) for word in words}
    refused = counted("refused_total", protocol="none", why="handshake")
    run(test)
    found: dict[str, list[Found]] = {}
    for record in everything(kafka_bootstrap, FRAMES, DEFAULT_PARTITIONS).found:
        found.setdefault(record.key or "", []).append(record)
    return Outcomes(
        ended,
        Counter({word: round(fault_count(*word) - before[word]) for word in words}),
        strangers,
        counted("refused_total", protocol="none", why="handshake") - refused,
        good,
        found,
    )


def fault_count(protocol: str, word: str) -> float:
    return counted("faults_total", protocol=protocol, fault=word)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_wrong_ends_in_the_way_of_its_protocol(outcomes: Outcomes, case: Case) -> None:
    outcome = outcomes.ended[str(case)]
    assert outcome.code == case.code
    goodbyes = [answer["parameters"] for answer in outcome.answers if answer.get("type") == "disconnect"]
    # What the library refuses by its header gets no message any more.
    if case.protocol == "audiohook" and case.counted_as not in ("", "frame", "too_long"):
        (goodbye,) = goodbyes
        assert goodbye["reason"] == "error"
        assert goodbye["info"]
    else:
        assert not goodbyes


def test_each_is_counted_by_its_name(outcomes: Outcomes) -> None:
    wanted = Counter((case.protocol, case.counted_as) for case in CASES if case.counted_as)
    assert +outcomes.faults == wanted


@pytest.mark.parametrize("case", [case for case in CASES if case.begun], ids=str)
def test_what_came_before_is_not_lost(outcomes: Outcomes, case: Case) -> None:
    records = outcomes.found[outcomes.ended[str(case)].caller.call_id]
    assert sound(records) == GOOD + case.more
    assert ending(records).reason == case.reason


def test_no_other_call_notices(outcomes: Outcomes) -> None:
    assert len(outcomes.good) == 2
    for call_id, said in outcomes.good.items():
        assert len(said) > 160 * 50
        records = outcomes.found[call_id]
        assert sound(records) == said
        assert ending(records).reason == "hangup"


def test_who_is_no_websocket_is_sent_away(outcomes: Outcomes) -> None:
    assert outcomes.refused == len(STRANGERS)
    assert outcomes.strangers["silence"] == b""
    assert b" 101 " not in b"".join(outcomes.strangers.values())
