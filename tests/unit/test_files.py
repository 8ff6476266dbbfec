"""Recordings as they come: what can be heard travels, and what cannot is refused in one line that says why."""

import itertools
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from processors.audio import decode as decode_audio
from schemas.audio import AudioPacket
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, CallStarted, decode
from streams import samples
from streams.files import open_audio
from streams.packets import packets, roles_for

SPEECH = "a name with spaces and ünïcödé — 通話.wav"


def tone(rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    return np.stack([wave * (1 - 0.5 * channel / max(channels, 1)) for channel in range(channels)], axis=1)


def written(path: Path, rate: int = 16_000, seconds: float = 1.0, channels: int = 1, **options: str) -> Path:
    soundfile.write(path, tone(rate, seconds, channels), rate, **options)
    return path


def encoded(path: Path, codec: str, rate: int = 44_100, seconds: float = 5.0) -> Path:
    """A file in a lossy codec, by FFmpeg."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        signal = (tone(rate, seconds)[:, 0] * 32_767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(signal[None, :], format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.codec_context.format.name, "mono", rate, stream.codec_context.frame_size)
        for piece in itertools.chain(resampler.resample(frame), resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def heard(path: Path, mix: bool = False) -> np.ndarray:
    return np.concatenate(list(open_audio(path, mix).blocks()))


def call(path: Path) -> CallInfo:
    return CallInfo(
        call_id="c", started_at=datetime(2026, 1, 1, tzinfo=UTC), roles=("agent", "customer"), source=path.name
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.wav", "no file"), ("directory", "is a directory"), ("empty.wav", "is empty"), ("text.wav", "not audio")],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is no audio " * 100)
    with pytest.raises(CalltideError, match=message):
        open_audio(tmp_path / name)


def test_a_header_without_samples_and_a_single_sample_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalltideError, match="no samples|nothing to hear"):
        open_audio(written(tmp_path / "none.wav", seconds=0))
    with pytest.raises(CalltideError, match="nothing to hear"):
        open_audio(written(tmp_path / "one.wav", seconds=1 / 16_000))


def test_a_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width = stream.height = 16
        stream.pix_fmt = "rgb24"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(CalltideError, match="no audio track|not audio"):
        open_audio(path)


def test_six_channels_are_refused_and_can_be_mixed(tmp_path: Path) -> None:
    path = written(tmp_path / "six.wav", channels=6)
    with pytest.raises(CalltideError, match="6 channels.*--mix"):
        open_audio(path)
    assert open_audio(path, mix=True).channels == 1
    assert np.allclose(heard(path, mix=True), tone(16_000, 1.0, 6).mean(axis=1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize(
    ("rate", "subtype", "travels_at"),
    [(96_000, "PCM_24", 16_000), (44_100, "PCM_16", 16_000), (8_000, "PCM_24", 8_000), (16_000, "FLOAT", 16_000)],
)
def test_rates_and_widths_keep_the_sound(tmp_path: Path, rate: int, subtype: str, travels_at: int) -> None:
    path = written(tmp_path / SPEECH, rate, 2.0, subtype=subtype)
    audio = open_audio(path)
    assert (audio.rate, audio.channels, audio.codec) == (travels_at, 1, "pcm_s16le")
    signal = heard(path)[:, 0]
    assert len(signal) == pytest.approx(travels_at * 2, abs=2)
    middle = signal[travels_at // 2 : travels_at * 3 // 2]
    strongest = np.argmax(np.abs(np.fft.rfft(middle))) * travels_at / len(middle)
    assert strongest == pytest.approx(440, abs=2)
    assert np.abs(middle).max() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.ogg", "libopus"), ("a.webm", "libopus")]
)
def test_compressed_files_are_heard(tmp_path: Path, name: str, codec: str) -> None:
    path = encoded(tmp_path / name, codec, rate=48_000)
    signal = heard(path)[:, 0]
    assert len(signal) == pytest.approx(5 * 16_000, rel=0.03)
    middle = signal[16_000:64_000]
    assert np.argmax(np.abs(np.fft.rfft(middle))) * 16_000 / len(middle) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
def test_telephone_codecs_travel_as_they_are(tmp_path: Path, subtype: str) -> None:
    path = written(tmp_path / "call.wav", 8_000, 1.0, 2, subtype=subtype)
    audio = open_audio(path)
    assert (audio.rate, audio.codec) == (8_000, {"ULAW": "mulaw", "ALAW": "alaw"}[subtype])
    expected, _ = soundfile.read(path, dtype="float32")
    sent = [
        AudioPacket.decode(dict(packet.headers), packet.value)
        for packet in packets(call(path), audio, 100)
        if dict(packet.headers)["kind"] == b"audio"
    ]
    for channel in (0, 1):
        value = b"".join(packet.value for packet in sent if packet.channel == channel)
        assert np.array_equal(decode_audio(value, audio.codec), expected[:, channel]), "re-encoding loses nothing"


def test_packets_tell_the_whole_call(tmp_path: Path) -> None:
    path = written(tmp_path / "call.wav", 16_000, 1.05, 2)
    first, *audio, last = packets(call(path), open_audio(path), 100)
    assert isinstance(decode(dict(first.headers), first.value), CallStarted)
    ended = decode(dict(last.headers), last.value)
    assert isinstance(ended, CallEnded)
    assert (ended.duration_ms, ended.reason) == (1_050, "hangup")
    sent = [AudioPacket.decode(dict(packet.headers), packet.value) for packet in audio]
    for channel in (0, 1):
        own = [packet for packet in sent if packet.channel == channel]
        assert [packet.sequence for packet in own] == list(range(11))
        assert [packet.sample for packet in own] == [1_600 * number for number in range(11)]
        assert sum(packet.samples for packet in own) == 16_800
    assert [packet.media_ms for packet in audio] == sorted(packet.media_ms for packet in audio)


def test_a_long_recording_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    path = written(tmp_path / "ten minutes.flac", 8_000, 600.0)
    tracemalloc.start()
    try:
        seconds = sum(1 for packet in packets(call(path), open_audio(path), 1_000) if packet.headers[0][1] == b"audio")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds == 600
    assert peak < 2_000_000, "its samples are 19.2 MB as they are decoded"


def test_a_truncated_file_is_heard_up_to_the_damage_and_said_to_be_damaged(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.flac", 16_000, 10.0)
    cut = tmp_path / "cut.flac"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    sent = []
    with pytest.raises(CalltideError, match="cut short|damaged"):
        for packet in packets(call(cut), open_audio(cut), 100):
            sent.append(packet)  # noqa: PERF402 - what came before the error must be kept
    ended = decode(dict(sent[-1].headers), sent[-1].value)
    assert isinstance(ended, CallEnded)
    assert ended.reason == "interrupted"
    assert 4_000 <= ended.duration_ms <= 6_000


def test_a_truncated_mp3_is_heard_up_to_the_damage(tmp_path: Path) -> None:
    whole = encoded(tmp_path / "whole.mp3", "libmp3lame")
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp3"
    cut.write_bytes(data[: len(data) // 2])
    received = 0
    with pytest.raises(CalltideError, match="cut short|damaged"):
        for block in open_audio(cut).blocks():
            received += len(block)
    assert 2.2 * 16_000 < received < 2.8 * 16_000


def test_roles_go_with_channels(tmp_path: Path) -> None:
    mono, stereo = (open_audio(written(tmp_path / f"{n}.wav", channels=n)) for n in (1, 2))
    assert roles_for(mono, None) == ("unknown",)
    assert roles_for(stereo, None) == ("agent", "customer")
    assert roles_for(mono, ("customer",)) == ("customer",)
    with pytest.raises(CalltideError, match="one channel and --roles names 2"):
        roles_for(mono, ("agent", "customer"))


def test_the_packaged_conversation_as_a_two_channel_call_keeps_each_party_on_its_side(tmp_path: Path) -> None:
    signal = heard(samples.two_channel(tmp_path))
    mono, rate = soundfile.read(samples.packaged(), dtype="float32")
    assert len(signal) / 8_000 == pytest.approx(len(mono) / rate, abs=0.01)
    for start, end, speaker in samples.packaged_turns()[2:4]:  # two turns that overlap nothing but each other's edges
        middle = slice(round((start + 0.3) * 8_000), round((end - 0.3) * 8_000))
        energy = (signal[middle] ** 2).mean(axis=0)
        assert (energy[0] > 50 * energy[1]) == (speaker == "speaker90")
