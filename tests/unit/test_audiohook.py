"""AudioHook's sessions: the documented course of one, another server's reading of it, and what no client would send.

tests/data/audiohook-session.jsonl is a session with the documented messages, one a line; a line with `binary` is a
binary message, of two tones, external left and internal right. tests/data/audiohook-reference-client.jsonl is what the
client of Genesys' reference implementation (purecloudlabs/audiohook-reference-implementation, options
--max-stream-duration 1.53 --language en-US --custom-config) sent to this decoder: a tone of 1 kHz.
"""

import asyncio
import base64
import json
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import metrics
from processors.audio import decode
from processors.base import Record
from schemas.events import CallInfo, CallMetrics, Transcript, Word
from schemas.events import decode as decode_event
from streams.ingestion.line import Line
from streams.protocols.audiohook import AudioHookDecoder
from streams.protocols.base import Audio, Began, Dtmf, Ended, Event, Fault, Paused, Resumed

DATA: Final = Path(__file__).parents[1] / "data"


def recorded(file: str) -> list[bytes | str]:
    lines = (DATA / file).read_text().splitlines()
    return [base64.b64decode(json.loads(line)["binary"]) if line.startswith('{"binary"') else line for line in lines]


RECORDED: Final = recorded("audiohook-session.jsonl")
SESSION: Final = "e160e428-53e2-487c-977d-96989bf5c99d"
ORGANIZATION: Final = "d7934305-0972-4844-938e-9060eef73d05"
CONVERSATION: Final = "090eaa2f-72fa-480a-83e0-8667ff89c0ec"
NOBODY: Final = "00000000-0000-0000-0000-000000000000"


class Client:
    """Numbers its messages and tells positions as Genesys does."""

    def __init__(self, decoder: AudioHookDecoder | None = None) -> None:
        self.decoder = decoder or AudioHookDecoder()
        self.seq = 0
        self.position = 0.0
        self.answers: list[dict[str, Any]] = []

    def text(self, kind: str, parameters: Any = None, **changes: Any) -> str:
        self.seq += 1
        message = {"version": "2", "id": SESSION, "type": kind, "seq": self.seq, "serverseq": len(self.answers)}
        message |= {"position": f"PT{self.position}S", "parameters": {} if parameters is None else parameters}
        return json.dumps(message | changes)

    def take(self, message: bytes | str) -> list[Event]:
        try:
            return list(self.decoder.receive(message))
        finally:
            assert all(isinstance(answer, str) for answer in self.decoder.outbox), "the server never sends sound"
            self.answers += [json.loads(answer) for answer in self.decoder.outbox]
            self.decoder.outbox.clear()
            assert [answer["seq"] for answer in self.answers] == list(range(1, len(self.answers) + 1))

    def send(self, kind: str, parameters: Any = None, **changes: Any) -> list[Event]:
        return self.take(self.text(kind, parameters, **changes))

    def open(self, **changes: Any) -> list[Event]:
        return self.send("open", opening(**changes))

    def sound(self, samples: int, width: int = 2) -> list[Event]:
        events = self.take(b"\xff" * samples * width)
        self.position += samples / 8_000
        return events


def media(*channels: str, format: Any = "PCMU", rate: Any = 8_000, type: Any = "audio") -> dict[str, Any]:
    return {"type": type, "format": format, "channels": list(channels), "rate": rate}


def opening(**changes: Any) -> dict[str, Any]:
    """The parameters of the recorded `open` with others."""
    assert isinstance(RECORDED[0], str)
    return json.loads(RECORDED[0])["parameters"] | changes


def read(messages: Sequence[bytes | str]) -> tuple[list[Event], Client, Fault | None]:
    """The events of messages up to a fault, who sent them, and the fault."""
    client = Client()
    events: list[Event] = []
    for message in messages:
        try:
            events += client.take(message)
        except Fault as fault:
            assert not client.decoder.finished, "it is the client that closes"
            assert client.answers[-1]["type"] == "disconnect"
            assert not fault.before
            return events, client, fault
    return events, client, None


def test_the_recorded_session() -> None:
    events, client, fault = read(RECORDED)
    assert fault is None
    assert client.decoder.finished
    assert events[0] == Began(
        CONVERSATION,
        ("customer", "agent"),
        "mulaw",
        8_000,
        queue="billing",
        metadata={
            "campaign": "spring",
            "session": SESSION,
            "organization": ORGANIZATION,
            "language": "en-US",
            "ani": "+1-555-555-1234",
            "aniName": "John Doe",
            "dnis": "+1-800-555-6789",
        },
    )
    assert [event for event in events[1:] if not isinstance(event, Audio)] == [
        Dtmf("5"),
        Paused(),
        Resumed(1_500),
        Ended(),
    ]
    for channel, hz in ((0, 440), (1, 880)):
        heard = [event for event in events if isinstance(event, Audio) and event.channel == channel]
        assert [event.at_ms for event in heard] == [0, 100, 1_700, 2_000]
        for event in heard:
            sound = decode(event.samples, "mulaw")
            assert np.abs(np.fft.rfft(sound)).argmax() == hz // 10
    assert [answer["type"] for answer in client.answers] == ["opened", "pong", "pong", "updated", "pong", "closed"]
    assert [answer["clientseq"] for answer in client.answers] == [1, 2, 3, 5, 7, 12]
    assert {answer["id"] for answer in client.answers} == {SESSION}
    assert client.answers[0]["parameters"] == {"startPaused": False, "media": [media("external", "internal")]}


def test_a_pause_is_a_hold_in_the_metrics_of_the_call() -> None:
    began, *events = read(RECORDED)[0]
    assert isinstance(began, Began)
    records: list[Record] = []
    line = Line(began, 0, records.append, source="audiohook", live=False)
    line.join(began, 0).take(events, 0)
    stage = metrics.build(metrics.Config(), "v1")
    (step,) = stage.process([(stage.open(CONVERSATION), records[-1])])
    last = decode_event(dict(step.outputs[0].headers), step.outputs[0].value)
    assert isinstance(last, CallMetrics)
    assert [(hold.start_ms, hold.end_ms) for hold in last.holds] == [(200, 1_700)]


def test_the_reference_implementations_client() -> None:
    events, client, fault = read(recorded("audiohook-reference-client.jsonl"))
    assert fault is None
    assert [answer["type"] for answer in client.answers] == ["opened", "pong", "pong", "closed"]
    began, *heard, ended = events
    assert isinstance(began, Began)
    assert (began.call_id, began.queue) == ("91166096-1f1f-4ca0-8dde-bbd6a59ee234", "billing")
    assert ended == Ended()
    for channel in (0, 1):
        sound = b"".join(one.samples for one in heard if isinstance(one, Audio) and one.channel == channel)
        assert len(sound) == round(1.53 * 8_000), "as long as the client's last position"
        assert np.abs(np.fft.rfft(decode(sound[:8_000], "mulaw"))).argmax() == 1_000


BOTH, LEFT, RIGHT = media("external", "internal"), media("external"), media("internal")
WIDE = media("external", "internal", format="L16")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([LEFT, BOTH, RIGHT], BOTH),
        ([RIGHT, LEFT], RIGHT),
        ([WIDE, BOTH], BOTH),
        ([LEFT, WIDE], WIDE),
        ([media("external", format="OPUS"), {}, 7, media("internal", "external"), media(), RIGHT], RIGHT),
    ],
)
def test_one_of_the_offered_media_is_taken(offered: list[Any], chosen: dict[str, Any]) -> None:
    client = Client()
    (began,) = client.open(media=offered)
    assert client.answers[0]["parameters"]["media"] == [chosen]
    assert isinstance(began, Began)
    assert began.codec == {"PCMU": "mulaw", "L16": "pcm_s16le"}[chosen["format"]]
    assert began.roles == tuple({"external": "customer", "internal": "agent"}[one] for one in chosen["channels"])


def test_wide_samples_are_taken_apart_whole() -> None:
    client = Client()
    client.open(media=[WIDE])
    assert client.take(np.array([[1, -2], [3, -4]], "<i2").tobytes()) == [
        Audio(0, np.array([1, 3], "<i2").tobytes(), 0),
        Audio(1, np.array([-2, -4], "<i2").tobytes(), 0),
    ]


def test_a_connection_probe_is_answered_and_leaves_no_call() -> None:
    client = Client()
    events = client.open(conversationId=NOBODY) + client.send("ping") + client.sound(800) + client.send("paused")
    events += client.send("resumed", {"start": "PT0.1S", "discarded": "PT0S"}) + client.send("dtmf", {"digit": "1"})
    assert events + client.send("close", {"reason": "end"}) == []
    assert [answer["type"] for answer in client.answers] == ["opened", "pong", "closed"]


def test_who_reconnects_ends_no_call() -> None:
    client = Client()
    client.open()
    assert client.send("close", {"reason": "reconnect"}) == []
    assert client.decoder.finished
    assert client.decoder.lost() == ()


def test_a_clients_error_is_the_end_it_closes_with() -> None:
    client = Client()
    client.open()
    assert client.send("error", {"code": 408, "message": "no pong"}) == []
    assert client.send("close", {"reason": "error"}) == [Ended("error", "408: 'no pong'")]
    assert client.take("anything") == [], "nothing is read after close"


def test_a_session_that_never_opened_is_closed_without_a_call() -> None:
    client = Client()
    assert client.send("ping") + client.send("close", {"reason": "error"}) == []
    assert [answer["type"] for answer in client.answers] == ["pong", "closed"]


def test_kinds_that_may_come_one_day_are_skipped() -> None:
    client = Client()
    assert client.send("weather") == []
    client.open()
    assert client.send("weather", {"rain": True}) == []
    assert len(client.sound(800)) == 2


def test_pausing_twice_is_pausing_once() -> None:
    client = Client()
    client.open()
    client.sound(8_000)
    assert client.send("paused") == [Paused()]
    assert client.send("paused") == []
    client.position = 4.0
    assert client.send("ping") == [], "positions run on through a pause"
    assert client.send("resumed", {"start": "PT1S", "discarded": "PT3S"}) == [Resumed(3_000)]
    assert client.send("resumed", {"start": "PT4S", "discarded": "PT0S"}) == []
    assert [event.at_ms for event in client.sound(80) if isinstance(event, Audio)] == [4_000, 4_000]


def test_time_does_not_run_back() -> None:
    client = Client()
    client.open()
    client.sound(8_000)
    assert client.send("discarded", {"start": "PT0.5S", "discarded": "PT0.1S"}) == []
    assert [event.at_ms for event in client.sound(80) if isinstance(event, Audio)] == [1_000, 1_000]


def test_a_session_is_ended_from_here_once() -> None:
    client = Client()
    client.decoder.disconnect("the server stops")
    client.decoder.disconnect("again")
    for message in (b"\xff" * 160, "{", "[]", client.text("ping"), client.text("open", opening())):
        assert client.take(message) == []
    (goodbye,) = client.answers
    assert client.send("close", {"reason": "disconnect"}) == []
    assert client.decoder.finished
    assert [answer["type"] for answer in client.answers] == ["disconnect", "closed"]
    assert client.answers[-1]["clientseq"] == client.seq
    assert goodbye["parameters"] == {"reason": "error", "info": "the server stops"}
    assert goodbye["id"] == NOBODY, "its id was never told"


def test_positions_may_begin_anywhere() -> None:
    client = Client()
    client.position = 600.0
    client.open()
    assert [event.at_ms for event in client.sound(80) if isinstance(event, Audio)] == [0, 0]
    assert client.send("ping") == []


def test_headers_and_messages_must_agree() -> None:
    client = Client(AudioHookDecoder(ORGANIZATION, SESSION))
    assert len(client.open()) == 1
    client = Client(AudioHookDecoder("another", SESSION))
    with pytest.raises(Fault, match="handshake"):
        client.open()
    assert client.answers[0]["parameters"]["reason"] == "unauthorized"
    client = Client(AudioHookDecoder(session=str(uuid.UUID(int=7))))
    with pytest.raises(Fault, match="another session"):
        client.open()


def late(kind: str, parameters: Any = None, seconds: float = 0.0, **changes: Any) -> list[bytes | str]:
    """An opened session with a tenth of a second of sound, and a message after it."""
    client = Client()
    messages: list[bytes | str] = [client.text("open", opening()), b"\xff" * 1_600]
    client.position = 0.1 + seconds
    return [*messages, client.text(kind, parameters, serverseq=1, **changes)]


def first(kind: str, parameters: Any = None, **changes: Any) -> list[bytes | str]:
    return [Client().text(kind, parameters, **changes)]


@pytest.mark.parametrize(
    ("messages", "counted_as", "code"),
    [
        (["{"], "not_json", 1007),
        ([str(RECORDED[0])[:100]], "not_json", 1007),
        (["[" * 60_000], "not_json", 1007),
        (["7" * 60_000], "not_json", 1007),
        ([" " * 70_000 + "{}"], "too_long", 1009),
        (["{}"], "malformed", 1008),
        (first("open", opening(), version="1"), "malformed", 1008),
        (first("open", opening(), version=2), "malformed", 1008),
        (first("open", opening(), type=["open"]), "malformed", 1008),
        (first("open", opening(), id="\ud800"), "malformed", 1008),
        (first("open", []), "malformed", 1008),
        (first("open", opening(conversationId=None)), "malformed", 1008),
        (first("open", opening(media=[])), "media_format", 1008),
        (first("open", opening(media={"0": BOTH})), "media_format", 1008),
        (first("open", opening(media=[media("external", format=["PCMU"])])), "media_format", 1008),
        (first("open", opening(media=[media("external", rate=16_000)])), "media_format", 1008),
        (first("paused"), "early", 1008),
        (first("dtmf", {"digit": "1"}), "early", 1008),
        ([b"\xff" * 160], "early", 1008),
        (first("open", opening(), seq=0), "sequence", 1008),
        (first("open", opening(), seq=2), "sequence", 1008),
        (first("open", opening(), seq="1"), "sequence", 1008),
        (first("open", opening(), seq=True), "sequence", 1008),
        (first("open", opening(), seq=1.0), "sequence", 1008),
        (first("open", opening(), seq=10**4_000), "sequence", 1008),
        (first("open", opening(), serverseq=1), "sequence", 1008),
        (first("open", opening(), serverseq=-1), "sequence", 1008),
        (first("open", opening(), serverseq="0"), "sequence", 1008),
        ([*late("ping"), late("ping")[-1]], "sequence", 1008),
        (first("open", opening(), position="1.5"), "position", 1008),
        (first("open", opening(), position="PT-1S"), "position", 1008),
        (first("open", opening(), position="PT1e9S"), "position", 1008),
        (first("open", opening(), position="PT\u0661S"), "position", 1008),
        (first("open", opening(), position="PT" + "9" * 5_000 + "S"), "position", 1008),
        (first("open", opening(), position=0), "position", 1008),
        (late("ping", seconds=1.1), "position", 1008),
        (late("ping", seconds=1.1, position="PT0S")[:-1] + late("dtmf", {"digit": "1"}, 1.1)[-1:], "position", 1008),
        (late("discarded", {"start": "PT3S", "discarded": "PT1S"}), "position", 1008),
        (late("discarded", {"start": "PT0.1S", "discarded": "PT86400S"}), "position", 1008),
        (late("discarded", {"start": "PT0.1S"}), "position", 1008),
        (late("resumed", {"start": None, "discarded": "PT1S"}), "position", 1008),
        (late("open", opening()), "twice", 1008),
        (late("dtmf", {"digit": "12"}), "dtmf", 1008),
        (late("ping", id=NOBODY), "other_session", 1008),
        ([*late("paused"), b"\xff" * 160], "early", 1008),
        ([*late("ping"), b"\xff" * 161], "length", 1008),
        ([*late("ping"), b"\xff" * 65_538], "too_long", 1009),
    ],
)
def test_faults_disconnect_with_a_reason(messages: list[bytes | str], counted_as: str, code: int) -> None:
    before, _, none = read(messages[:-1])
    assert none is None
    events, client, fault = read(messages)
    assert fault is not None
    assert (fault.counted_as, fault.close_code) == (counted_as, code)
    assert events == before
    assert client.answers[-1]["parameters"] == {"reason": "error", "info": str(fault)}
    assert client.take(messages[0]) == [], "nothing is read after a fault"
    assert client.send("close", {"reason": "disconnect"}) == []
    assert client.answers[-1]["type"] == "closed"
    assert client.decoder.finished


def heard(channel: int = 1, text: str = "hello there") -> Transcript:
    call = CallInfo(call_id=CONVERSATION, started_at=datetime(2026, 11, 21, tzinfo=UTC), roles=("customer", "agent"))
    words = (
        Word(text="hello", start_ms=1_200, end_ms=1_500, confidence=0.9),
        Word(text="there", start_ms=1_500, end_ms=2_000, confidence=0.7),
    )
    return Transcript(
        call=call, channel=channel, start_ms=1_150, end_ms=2_100, cut="pause", codec="mulaw", rate=8_000,
        captured_at=call.started_at, speaker="agent", role="agent", speaker_confidence=1.0, text=text,
        words=words if text else (), language="en", asr_confidence=0.8, asr_model="tiny.en",
    )  # fmt: skip


def word(text: str, confidence: float, offset: str, duration: str) -> dict[str, Any]:
    return {"type": "word", "value": text, "confidence": confidence, "offset": offset, "duration": duration}


def test_what_was_said_goes_back_as_an_event() -> None:
    client = Client()
    assert not client.decoder.transcript(heard()), "not before the session is open"
    client.open()
    assert client.decoder.transcript(heard())
    assert client.decoder.transcript(heard())
    assert not client.decoder.transcript(heard(text=""))
    assert not client.decoder.transcript(heard(channel=2))
    client.send("ping")
    _, one, again, pong = client.answers
    assert (one["type"], one["seq"], pong["type"], pong["seq"]) == ("event", 2, "pong", 4)
    assert one["parameters"] == again["parameters"]
    (entity,) = one["parameters"]["entities"]
    assert entity["type"] == "transcript"
    assert uuid.UUID(entity["data"].pop("id")).version == 5
    assert entity["data"] == {
        "channelId": 1,
        "isFinal": True,
        "offset": "PT1.150S",
        "duration": "PT0.950S",
        "alternatives": [
            {
                "confidence": 0.8,
                "interpretations": [
                    {
                        "type": "display",
                        "transcript": "hello there",
                        "tokens": [
                            word("hello", 0.9, "PT1.200S", "PT0.300S"),
                            word("there", 0.7, "PT1.500S", "PT0.500S"),
                        ],
                    }
                ],
            }
        ],
    }
    # Genesys' own reading of a duration, and of a position in it.
    assert all(re.fullmatch(r"PT(?:\d*\.)?\d+S", entity["data"][key]) for key in ("offset", "duration"))
    client.send("close", {"reason": "end"})
    assert not client.decoder.transcript(heard()), "not after it is over"


def test_an_event_names_the_channel_of_genesys() -> None:
    client = Client()
    client.open(media=[RIGHT])
    assert client.decoder.transcript(heard(channel=0))
    client.send("ping")
    assert client.answers[1]["parameters"]["entities"][0]["data"]["channelId"] == 1


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["open", "close", "PT0S", "PT9S", SESSION, NOBODY, "external", "5"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TEXTS: Final = [message for message in RECORDED if isinstance(message, str)]


@st.composite
def disturbed(draw: st.DrawFn) -> str:
    """A recorded message with one of its fields, at any depth, removed or made into anything."""
    message: Any = json.loads(draw(st.sampled_from(TEXTS)))
    place = message
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        if draw(st.booleans()):
            place[key] = draw(json_values)
        else:
            del place[key]
        return json.dumps(message)


@st.composite
def numbered(draw: st.DrawFn) -> list[bytes | str]:
    """Messages of a client that counts right and otherwise does what it likes."""
    client = Client()
    messages: list[bytes | str] = [client.text("open", opening())] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 12))):
        message = json.loads(draw(disturbed() | st.sampled_from(TEXTS)))
        text = client.text("", position=f"PT{draw(st.floats(0, 3))}S", serverseq=0)
        messages.append(json.dumps(json.loads(text) | {key: message.get(key) for key in ("type", "parameters")}))
        if draw(st.booleans()):
            messages.append(draw(st.binary(max_size=40).map(lambda some: some * 2)))
    return messages


strange = st.lists(disturbed() | st.sampled_from(RECORDED) | st.text() | st.binary() | json_values.map(json.dumps))


@settings(max_examples=400, deadline=None)
@given(strange | numbered(), st.integers(0, len(RECORDED)))
def test_whatever_comes_ends_in_events_or_a_fault(strange: list[bytes | str], at: int) -> None:
    messages = [*RECORDED[:at], *strange, *RECORDED[at:]]
    events, _, fault = read(messages)
    before, _, _ = read(RECORDED[:at])
    assert events[: len(before)] == before, "what was returned before stays true"
    kinds = [type(event) for event in events]
    assert kinds.count(Began) == (kinds[:1] == [Began])
    assert kinds.count(Ended) == (kinds[-1:] == [Ended])
    assert fault is None or Ended not in kinds
    paused = False
    last = 0
    for event in events:
        if isinstance(event, Began):
            channels = len(event.roles)
            assert event.call_id.encode()
        elif isinstance(event, Audio):
            assert not paused
            assert event.samples
            assert event.channel in range(channels)
            assert event.at_ms is not None
            assert last <= event.at_ms <= 24 * 3_600_000, "time does not run back"
            last = event.at_ms
        elif isinstance(event, Paused | Resumed):
            assert paused is isinstance(event, Resumed)
            paused = not paused


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([BOTH, LEFT, WIDE, media("internal", format="L16")]), st.lists(st.integers(1, 500), max_size=20))
def test_every_sample_arrives_in_its_place(offered: dict[str, Any], lengths: list[int]) -> None:
    client = Client()
    client.open(media=[offered])
    channels, kind = len(offered["channels"]), "u1" if offered["format"] == "PCMU" else "<i2"
    sent = np.random.default_rng(1).integers(0, 255, (sum(lengths), channels)).astype(kind)
    arrived: list[list[bytes]] = [[] for _ in range(channels)]
    at = 0
    for length in lengths:
        for event in client.take(sent[at : at + length].tobytes()):
            assert isinstance(event, Audio)
            assert event.at_ms == at // 8
            arrived[event.channel].append(event.samples)
        at += length
    assert [b"".join(one) for one in arrived] == [one.tobytes() for one in sent.T]


def test_another_server_reads_the_same() -> None:
    """pipecat-ai's, which was written apart from this one: same sound, keys and answers (tried with 1.14.0)."""
    pytest.importorskip("pipecat", reason="pipecat-ai is not installed: requirements/interop.txt")
    from pipecat.frames.frames import Frame, InputAudioRawFrame, InputDTMFFrame, OutputTransportMessageUrgentFrame
    from pipecat.serializers.genesys import GenesysAudioHookSerializer

    step: st.SearchStrategy[Any] = (
        st.integers(1, 400)
        | st.sampled_from("0123456789*#").map(lambda digit: ("dtmf", {"digit": digit}))
        | st.just(("ping", {}))
        | st.just(("playback_started", {}))
    )

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from([BOTH, LEFT]), st.lists(step, max_size=20), st.randoms())
    def same(offered: dict[str, Any], steps: list[Any], random: Any) -> None:
        other = GenesysAudioHookSerializer(GenesysAudioHookSerializer.InputParams(sample_rate=8_000))
        # Its rate is set where a pipeline starts; there is none here.
        other._sample_rate = 8_000
        client = Client()
        frames: list[Frame | None] = []
        events: list[Event] = []
        width = len(offered["channels"])
        for one in [("open", opening(media=[offered])), *steps, ("close", {"reason": "end"})]:
            message = random.randbytes(one * width) if isinstance(one, int) else client.text(*one)
            frames.append(asyncio.run(other.deserialize(message)))
            events += client.take(message)
            client.position += one / 8_000 if isinstance(one, int) else 0
        customer = [event.samples for event in events if isinstance(event, Audio) and event.channel == 0]
        pcm = [np.round(decode(one, "mulaw") * 32_768).astype("<i2").tobytes() for one in customer]
        assert pcm == [frame.audio for frame in frames if isinstance(frame, InputAudioRawFrame)]
        keys = [frame.button.value for frame in frames if isinstance(frame, InputDTMFFrame)]
        assert [event.digits for event in events if isinstance(event, Dtmf)] == keys
        theirs = [frame.message for frame in frames if isinstance(frame, OutputTransportMessageUrgentFrame)]
        fields = ("version", "type", "seq", "clientseq", "id")
        assert [[one[field] for field in fields] for one in client.answers] == [
            [one[field] for field in fields] for one in theirs
        ]
        assert client.answers[0]["parameters"] == theirs[0]["parameters"]

    same()
