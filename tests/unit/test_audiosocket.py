"""AudioSocket's decoder: the same events however the stream is cut, nothing but `Fault` whatever comes, and what the
library of the protocol's author writes is read as it was meant.

A changer must know: `data/audiosocket-cycore-0.3.0.bin` is what the program in audiosocket_client wrote to a socket
for the first 0.5 s of `recording()`; a test builds it anew where Go is installed.
"""

import asyncio
import itertools
import os
import shutil
import struct
import subprocess
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from streams import samples
from streams.protocols.audiosocket import MOST_KEYS_BEFORE_AUDIO, RATES, AudioSocket
from streams.protocols.base import Audio, Began, Dtmf, Ended, Event, Fault

CLIENT = Path(__file__).parent / "audiosocket_client"
RECORDED = Path(__file__).parent.parent / "data" / "audiosocket-cycore-0.3.0.bin"
CALL = UUID("0b6c3f0e-59f3-4d4c-9d0a-0f5f3c1d7a11")
BEGAN = Began(str(CALL), ("unknown",), "pcm_s16le", 8_000)

Heard = tuple[list[Event], str | None]
"""Events, and the word of the fault that ended them."""


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BH", kind, len(payload)) + payload


FIRST = frame(0x01, CALL.bytes)
VOICE = frame(0x10, bytes(range(256)) + bytes(64))


def recording(seconds: float) -> bytes:
    """The packaged conversation as Asterisk has it: 8 kHz, 16 bit."""
    mono, rate = soundfile.read(samples.packaged(), dtype="float32")
    narrow = soxr.resample(mono, rate, 8_000)[: round(8_000 * seconds)]
    return (np.clip(narrow, -1, 1) * 32_767).astype("<i2").tobytes()


def heard(pieces: list[bytes]) -> Heard:
    """All that a connection says; what it says after a fault would be in the events."""
    decoder, fault = AudioSocket(), None
    events: list[Event] = []
    for piece in [*pieces, None]:
        try:
            events += decoder.lost() if piece is None else decoder.receive(piece)
        except Fault as found:
            assert fault is None
            events += found.before
            fault = found.counted_as
    assert decoder.finished
    assert not decoder.outbox
    return events, fault


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


frames = st.one_of(
    st.builds(frame, st.sampled_from([*RATES]), st.binary(max_size=40).map(lambda audio: audio[: len(audio) & ~1])),
    st.builds(frame, st.just(0x10), st.binary(min_size=320, max_size=320)),
    st.sampled_from(b"0123456789*#ABCD").map(lambda key: frame(0x03, bytes([key]))),
    st.builds(frame, st.integers(0, 255), st.binary(max_size=20)),
    st.sampled_from([frame(0x00), frame(0xFF), frame(0xFF, b"\x01"), FIRST]),
)
streams = st.builds(
    lambda first, rest, tail: first + b"".join(rest) + tail,
    st.sampled_from([FIRST, FIRST, FIRST, b""]),
    st.lists(frames, max_size=12),
    st.binary(max_size=3),
)


@given(streams, st.lists(st.integers(0, 4_000), max_size=20))
def test_any_cutting_of_a_stream_gives_the_same(stream: bytes, places: list[int]) -> None:
    whole = heard([stream])
    assert heard(cut(stream, places)) == whole
    assert heard([stream[place : place + 1] for place in range(len(stream))]) == whole


@given(st.lists(st.one_of(st.binary(max_size=200), st.text(max_size=5), frames), max_size=10), st.booleans())
def test_whatever_comes_it_raises_nothing_but_faults(pieces: list[bytes | str], named: bool) -> None:
    decoder = AudioSocket()
    try:
        for piece in [FIRST, *pieces] if named else pieces:
            decoder.receive(piece)
        decoder.lost()
    except Fault as fault:
        assert fault.counted_as
    assert decoder.finished
    assert decoder.receive(FIRST + VOICE) == ()


@given(st.lists(st.sampled_from([VOICE, frame(0x03, b"7"), frame(0x10)]), max_size=8), st.binary(max_size=30))
def test_what_came_before_a_fault_is_kept(before: list[bytes], garbage: bytes) -> None:
    good, _ = heard([FIRST, VOICE, *before])
    events, _ = heard([FIRST + VOICE + b"".join(before) + garbage])
    assert events[: len(good) - 1] == good[:-1]


def test_a_call() -> None:
    assert heard([FIRST, VOICE, frame(0x03, b"#"), VOICE, frame(0x00), VOICE]) == (
        [BEGAN, Audio(0, VOICE[3:]), Dtmf("#"), Audio(0, VOICE[3:]), Ended("hangup")],
        None,
    )


@pytest.mark.parametrize(("kind", "rate"), RATES.items())
def test_the_rate_is_that_of_the_first_audio(kind: int, rate: int) -> None:
    events, _ = heard([FIRST, frame(0x03, b"1"), frame(kind), frame(kind, b"ab")])
    assert events == [Began(str(CALL), ("unknown",), "pcm_s16le", rate), Dtmf("1"), Audio(0, b"ab"), Ended("hangup")]


def test_the_party_of_the_channel_is_what_the_source_says() -> None:
    assert AudioSocket("customer").receive(FIRST + VOICE)[0] == Began(str(CALL), ("customer",), "pcm_s16le", 8_000)


def test_a_closed_socket_hangs_up_as_asterisk_does_it() -> None:
    assert heard([FIRST, VOICE]) == ([BEGAN, Audio(0, VOICE[3:]), Ended("hangup")], None)
    assert heard([FIRST]) == ([BEGAN, Ended("hangup")], None)
    assert heard([]) == ([], None)


@pytest.mark.parametrize(
    ("payload", "ended"),
    [
        (b"\x01", Ended("hangup")),
        (b"\x02", Ended("error", "a frame could not be forwarded")),
        (b"\x04", Ended("error", "out of memory")),
        (b"", Ended("error", "code none")),
        (b"\x99", Ended("error", "code 99")),
    ],
)
def test_an_error_ends_the_call(payload: bytes, ended: Ended) -> None:
    assert heard([FIRST, VOICE, frame(0xFF, payload)]) == ([BEGAN, Audio(0, VOICE[3:]), ended], None)


@pytest.mark.parametrize(
    ("stream", "word"),
    [
        (VOICE, "order"),
        (frame(0x03, b"1"), "order"),
        (FIRST + FIRST, "order"),
        (b"\x02\x00\x00", "kind"),
        (FIRST + b"\x19\xff\xff", "kind"),
        (b"\x01\x00\x0f", "length"),
        (FIRST + b"\x10\x00\x03", "length"),
        (FIRST + VOICE + b"\x10\xff\xff", "length"),
        (FIRST + b"\x03\x00\x02", "length"),
        (FIRST + b"\x00\x00\x01", "length"),
        (FIRST + frame(0x03, b"x"), "dtmf"),
        (FIRST + frame(0x03, b"1") * (MOST_KEYS_BEFORE_AUDIO + 1), "dtmf"),
        (FIRST + VOICE + frame(0x12, b"ab"), "rate"),
        (FIRST + VOICE[:-1], "truncated"),
        (FIRST[:7], "truncated"),
        (b"GET / HTTP/1.1\r\n\r\n", "kind"),
    ],
)
def test_what_breaks_the_protocol_is_named(stream: bytes, word: str) -> None:
    assert heard([stream])[1] == word


def test_what_is_wrong_is_refused_before_its_payload_comes() -> None:
    decoder = AudioSocket()
    decoder.receive(FIRST)
    with pytest.raises(Fault, match="unknown kind 0x42"):
        decoder.receive(b"\x42\xff\xff")


def test_text_is_refused() -> None:
    with pytest.raises(Fault) as fault:
        AudioSocket().receive("hello")
    assert fault.value.counted_as == "text"


def said(events: list[Event]) -> tuple[list[Event], bytes]:
    """All but the audio, and the audio as one."""
    audio = b"".join(event.samples for event in events if isinstance(event, Audio))
    return [event for event in events if not isinstance(event, Audio)], audio


def test_a_stream_of_the_authors_library_as_recorded() -> None:
    events, fault = heard([RECORDED.read_bytes()])
    assert fault is None
    assert said(events) == ([BEGAN, Dtmf("5"), Ended("hangup")], recording(0.5))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that uses the author's library. Go keeps what it has built, so only the first time takes long."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed; the recorded stream was read instead")
    modules = subprocess.run(
        [go, "mod", "download"], cwd=CLIENT, capture_output=True, text=True, timeout=60, check=False
    )
    if modules.returncode:
        pytest.skip(f"Go's modules cannot be fetched ({modules.stderr.strip()[:100]}); the recorded stream was read")
    built = tmp_path_factory.mktemp("go") / "client"
    subprocess.run([go, "build", "-o", built, "."], cwd=CLIENT, check=True, timeout=240)
    return built


@pytest.mark.timeout(300)
def test_a_call_of_the_authors_library_over_a_socket(client: Path, tmp_path: Path) -> None:
    (tmp_path / "audio").write_bytes(recording(0.5))
    pieces: list[bytes] = []

    async def call() -> None:
        done = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while piece := await reader.read(1_000):
                pieces.append(piece)
            writer.close()
            done.set()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            program = await asyncio.create_subprocess_exec(
                client, f"127.0.0.1:{port}", str(CALL), tmp_path / "audio", env=dict(os.environ)
            )
            assert await program.wait() == 0
            await done.wait()

    asyncio.run(asyncio.wait_for(call(), 60))
    assert b"".join(pieces) == RECORDED.read_bytes()
    events, fault = heard(pieces)
    assert fault is None
    assert said(events) == ([BEGAN, Dtmf("5"), Ended("hangup")], recording(0.5))
