"""Twilio's messages: the documented ones, another decoder's reading of them, and what no phone system would send.

tests/data/twilio-two-tracks.jsonl is a stream as the documentation shows it, a message a line, with tones as sound.
"""

import asyncio
import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.audio import decode
from streams.protocols.base import Audio, Began, Dtmf, Ended, Event, Fault, Mark
from streams.protocols.twilio import TwilioDecoder

RECORDED: Final = (Path(__file__).parents[1] / "data" / "twilio-two-tracks.jsonl").read_text().splitlines()
STREAM: Final = "MZ18ad3ab5a668481ce02b83e7395059f0"


def read(messages: Sequence[bytes | str]) -> tuple[list[Event], Fault | None]:
    """The events of messages up to a fault, and the fault."""
    decoder = TwilioDecoder()
    events: list[Event] = []
    for message in messages:
        try:
            events += decoder.receive(message)
        except Fault as fault:
            assert decoder.finished
            events += fault.before
            return events, fault
    assert not decoder.outbox
    return events, None


def started(**changes: Any) -> str:
    """The recorded start message with other fields in `start`."""
    message = json.loads(RECORDED[1])
    message["start"] |= changes
    return json.dumps(message)


def media(payload: bytes | str, track: Any = "inbound", timestamp: Any = "0", **changes: Any) -> str:
    encoded = payload if isinstance(payload, str) else base64.b64encode(payload).decode()
    body = {"track": track, "chunk": "1", "timestamp": timestamp, "payload": encoded}
    return json.dumps({"event": "media", "sequenceNumber": "2", "media": body, "streamSid": STREAM} | changes)


def test_the_recorded_stream() -> None:
    events, fault = read(RECORDED)
    assert fault is None
    assert events[0] == Began(
        "CAffd3df7cf0f74f1cbd4b3b9f5e2a7c10",
        ("customer", "agent"),
        "mulaw",
        8_000,
        tenant="acme",
        queue="billing",
        agent="kim",
        metadata={"campaign": "spring", "account": "AC0123456789abcdef0123456789abcdef", "stream": STREAM},
    )
    for channel, hz in ((0, 440), (1, 880)):
        heard = [event for event in events if isinstance(event, Audio) and event.channel == channel]
        assert [event.at_ms for event in heard] == list(range(5, 205, 20))
        sound = decode(b"".join(event.samples for event in heard), "mulaw")
        assert np.abs(np.fft.rfft(sound)).argmax() == hz * 1_600 // 8_000
    assert [event for event in events if isinstance(event, Dtmf | Mark | Ended)] == [
        Dtmf("1", 0),
        Mark("greeting played"),
        Ended(),
    ]


def test_nothing_is_read_after_stop() -> None:
    decoder = TwilioDecoder()
    for message in RECORDED:
        decoder.receive(message)
    assert decoder.finished
    assert [decoder.receive(message) for message in (RECORDED[-1], RECORDED[2], RECORDED[1], "{")] == [(), (), (), ()]
    assert decoder.lost() == ()


def test_custom_parameters_name_the_parties() -> None:
    events, _ = read([started(customParameters={"inbound": "agent", "outbound": "unknown"})])
    assert isinstance(events[0], Began)
    assert events[0].roles == ("agent", "unknown")
    assert set(events[0].metadata) == {"account", "stream"}


@pytest.mark.parametrize(
    ("tracks", "roles"),
    [(["outbound"], ("agent",)), (["inbound"], ("customer",)), (["outbound", "inbound"], ("customer", "agent"))],
)
def test_channels_are_the_tracks_always_in_one_order(tracks: list[str], roles: tuple[str, ...]) -> None:
    events, _ = read([started(tracks=tracks), *(media(b"\xff", track) for track in tracks)])
    assert isinstance(events[0], Began)
    assert events[0].roles == roles
    channels = [event.channel for event in events if isinstance(event, Audio)]
    assert channels == [sorted(tracks).index(track) for track in tracks]


def test_kinds_that_may_come_one_day_are_skipped() -> None:
    unknown = json.dumps({"event": "weather", "sequenceNumber": "9", "streamSid": STREAM})
    assert read([unknown, *RECORDED[:2], unknown, *RECORDED[2:]]) == read(RECORDED)


def test_what_comes_twice_or_late_keeps_its_place_in_time() -> None:
    events, fault = read([RECORDED[1], *(media(b"\x01", timestamp=at) for at in ("40", "0", "40"))])
    assert fault is None
    assert [event.at_ms for event in events if isinstance(event, Audio)] == [40, 0, 40]


@pytest.mark.parametrize("numbers", [("3", "3", "2"), ("9", "1", "5"), (None, 7, "x"), ([], {}, -1.5)])
def test_the_numbers_of_messages_are_not_looked_at(numbers: tuple[Any, ...]) -> None:
    """A websocket loses and reorders nothing; where sound belongs its timestamp says."""
    sent = [media(b"\x01", timestamp=str(20 * at), sequenceNumber=number) for at, number in enumerate(numbers)]
    events, fault = read([RECORDED[1], *sent, RECORDED[-1]])
    assert fault is None
    assert events[1:] == [*(Audio(0, b"\x01", at_ms) for at_ms in (0, 20, 40)), Ended()]


def test_a_message_without_sound_is_no_audio() -> None:
    events, fault = read([RECORDED[1], media(b"")])
    assert fault is None
    assert len(events) == 1


START = RECORDED[1]


@pytest.mark.parametrize(
    ("messages", "counted_as", "code"),
    [
        ([b"\x00\x01"], "binary", 1003),
        (["{"], "not_json", 1007),
        ([RECORDED[1][:200]], "not_json", 1007),
        (["[]"], "not_json", 1007),
        (["[" * 60_000], "not_json", 1007),
        (['{"event":' * 6_000], "not_json", 1007),
        (["9" * 60_000], "not_json", 1007),
        (["{}" + " " * 70_000], "too_long", 1009),
        (['{"event": 1}'], "malformed", 1008),
        ([RECORDED[2]], "early", 1008),
        ([RECORDED[-1]], "early", 1008),
        ([START, START], "twice", 1008),
        ([started(tracks=[])], "tracks", 1008),
        ([started(tracks=["inbound", "inbound"])], "tracks", 1008),
        ([started(tracks="inbound")], "tracks", 1008),
        ([started(tracks=["both"])], "tracks", 1008),
        ([started(mediaFormat={"encoding": "audio/opus", "sampleRate": 8_000, "channels": 1})], "media_format", 1008),
        ([started(mediaFormat=None)], "media_format", 1008),
        ([started(callSid="")], "malformed", 1008),
        ([started(callSid="CA\ud800")], "malformed", 1008),
        ([started(callSid="C" * 300)], "malformed", 1008),
        ([started(customParameters={"inbound": "boss"})], "role", 1008),
        ([started(customParameters={"a": {}})], "malformed", 1008),
        ([START, media("AAA")], "payload", 1007),
        ([START, media("A\u0660==")], "payload", 1007),
        ([START, media("//8= //8=")], "payload", 1007),
        ([START, media(b"", media={"track": "inbound", "timestamp": "0", "payload": 1})], "payload", 1008),
        ([START, media(b"\x01", track="both")], "tracks", 1008),
        ([START, media(b"\x01", track=["inbound"])], "tracks", 1008),
        ([START, media(b"\x01", timestamp=None)], "timestamp", 1008),
        ([START, media(b"\x01", timestamp="-1")], "timestamp", 1008),
        ([START, media(b"\x01", timestamp="1_0")], "timestamp", 1008),
        ([START, media(b"\x01", timestamp="\u0661")], "timestamp", 1008),
        ([START, media(b"\x01", timestamp="9" * 5_000)], "timestamp", 1008),
        ([START, media(b"\x01", timestamp="86400001")], "timestamp", 1008),
        ([START, media(b"\x01", streamSid="MZ0")], "other_stream", 1008),
        ([START, media(b"\x01", media=[])], "malformed", 1008),
        ([START, RECORDED[2], RECORDED[10].replace('"digit": "1"', '"digit": "11"')], "dtmf", 1008),
    ],
)
def test_faults(messages: list[bytes | str], counted_as: str, code: int) -> None:
    before, none = read(messages[:-1])
    assert none is None
    events, fault = read(messages)
    assert fault is not None
    assert (fault.counted_as, fault.close_code) == (counted_as, code)
    assert events == before


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["inbound", "media", "start", "stop", STREAM, "0", "99999999999", "AAAA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def disturbed(draw: st.DrawFn) -> str:
    """A recorded message with one of its fields, at any depth, removed or made into anything."""
    message = place = json.loads(draw(st.sampled_from([*RECORDED[:4], RECORDED[10], RECORDED[17], RECORDED[-1]])))
    while True:
        key = draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        if draw(st.booleans()):
            place[key] = draw(json_values)
        else:
            del place[key]
        return json.dumps(message)


messages = disturbed() | st.sampled_from(RECORDED) | st.text() | st.binary() | json_values.map(json.dumps)


@settings(max_examples=300, deadline=None)
@given(st.lists(messages, max_size=12), st.integers(0, len(RECORDED)))
def test_whatever_comes_ends_in_events_or_a_fault(strange: list[bytes | str], at: int) -> None:
    events, fault = read([*RECORDED[:at], *strange, *RECORDED[at:]])
    before, _ = read(RECORDED[:at])
    assert events[: len(before)] == before, "what was returned before stays true"
    kinds = [type(event) for event in events]
    assert kinds.count(Began) == (kinds[:1] == [Began])
    assert kinds.count(Ended) == (kinds[-1:] == [Ended])
    assert fault is None or Ended not in kinds
    channels = len(next((event.roles for event in events if isinstance(event, Began)), ()))
    for event in events:
        if isinstance(event, Audio):
            assert event.samples
            assert event.at_ms is not None
            assert 0 <= event.at_ms <= 24 * 3_600_000
            assert event.channel in range(channels)
        if isinstance(event, Began):
            assert event.call_id.encode()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["inbound", "outbound"]), st.binary(min_size=1, max_size=400)), max_size=20))
def test_every_byte_of_sound_arrives(sent: list[tuple[str, bytes]]) -> None:
    events, fault = read([START, *(media(payload, track, str(20 * at)) for at, (track, payload) in enumerate(sent))])
    assert fault is None
    assert events[1:] == [
        Audio(("inbound", "outbound").index(track), payload, 20 * at) for at, (track, payload) in enumerate(sent)
    ]


def test_another_decoder_hears_the_same() -> None:
    """pipecat-ai's, which was written apart from this one: same samples, same keys (tried with 1.14.0)."""
    pytest.importorskip("pipecat", reason="pipecat-ai is not installed: requirements/interop.txt")
    from pipecat.frames.frames import InputAudioRawFrame, InputDTMFFrame
    from pipecat.serializers.twilio import TwilioFrameSerializer

    options = TwilioFrameSerializer.InputParams(sample_rate=8_000, auto_hang_up=False)
    other = TwilioFrameSerializer(STREAM, params=options)
    # Its rate is set where a pipeline starts; there is none here.
    other._sample_rate = 8_000

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.binary(min_size=1, max_size=400).map(media)
            | st.sampled_from("0123456789*#").map(
                lambda digit: json.dumps({"event": "dtmf", "streamSid": STREAM, "dtmf": {"digit": digit}})
            )
            | st.sampled_from([*RECORDED[2:-1], '{"event": "weather"}']),
            max_size=20,
        )
    )
    def same(messages: list[str]) -> None:
        theirs = [frame for message in messages if (frame := asyncio.run(other.deserialize(message))) is not None]
        events, fault = read([START, *messages])
        assert fault is None
        ours = [event for event in events if isinstance(event, Audio | Dtmf)]
        assert len(ours) == len(theirs)
        for event, frame in zip(ours, theirs, strict=True):
            if isinstance(event, Audio):
                assert isinstance(frame, InputAudioRawFrame)
                pcm = np.round(decode(event.samples, "mulaw") * 32_768).astype("<i2").tobytes()
                assert (frame.audio, frame.sample_rate, frame.num_channels) == (pcm, 8_000, 1)
            else:
                assert isinstance(frame, InputDTMFFrame)
                assert frame.button.value == event.digits

    same()
