"""G.711 against FFmpeg's, and what every stage relies on: exact round trips and deterministic resampling."""

from typing import Literal

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from processors import audio
from schemas.audio import BYTES_PER_SAMPLE, Codec

G711: list[tuple[Codec, str]] = [("mulaw", "pcm_mulaw"), ("alaw", "pcm_alaw")]
CODECS: tuple[Codec, ...] = ("pcm_s16le", "mulaw", "alaw")
EVERY_PCM = np.arange(-32_768, 32_768).astype(np.int16)


def ffmpeg(codec: str, mode: Literal["r", "w"]) -> av.AudioCodecContext:
    context = av.CodecContext.create(codec, mode)
    assert isinstance(context, av.AudioCodecContext)
    context.sample_rate, context.layout, context.format = 8_000, "mono", "s16"
    return context


def ffmpeg_decode(value: bytes, codec: str) -> NDArray[np.int16]:
    return np.concatenate([frame.to_ndarray()[0] for frame in ffmpeg(codec, "r").decode(av.Packet(value))])


def ffmpeg_encode(pcm: NDArray[np.int16], codec: str) -> bytes:
    frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = 8_000
    context = ffmpeg(codec, "w")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


@pytest.mark.parametrize(("codec", "reference"), G711)
def test_every_g711_code_decodes_as_ffmpeg_does(codec: Codec, reference: str) -> None:
    value = bytes(range(256))
    np.testing.assert_array_equal(audio.decode(value, codec) * 32_768, ffmpeg_decode(value, reference))


@pytest.mark.parametrize(("codec", "reference"), G711)
def test_every_sample_encodes_to_the_level_ffmpeg_takes_or_its_neighbour(codec: Codec, reference: str) -> None:
    """Where the step doubles, G.711's border is not the middle of the two levels; FFmpeg's encoder takes the middle."""
    levels = np.unique(ffmpeg_decode(bytes(range(256)), reference))
    ours = ffmpeg_decode(audio.encode((EVERY_PCM / 32_768).astype(np.float32), codec), reference)
    theirs = ffmpeg_decode(ffmpeg_encode(EVERY_PCM, reference), reference)
    assert np.max(np.abs(np.searchsorted(levels, ours) - np.searchsorted(levels, theirs))) <= 1
    assert np.mean(ours != theirs) < 0.015
    assert np.max(np.abs(ours - EVERY_PCM.astype(int))) <= np.max(np.abs(theirs - EVERY_PCM.astype(int)))


@given(value=st.binary(max_size=400), codec=st.sampled_from(CODECS))
def test_encoding_what_was_decoded_gives_the_same_bytes(value: bytes, codec: Codec) -> None:
    value = value[: len(value) - len(value) % BYTES_PER_SAMPLE[codec]]
    samples = audio.decode(value, codec)
    assert samples.dtype == np.float32
    assert len(samples) * BYTES_PER_SAMPLE[codec] == len(value)
    assert np.all((samples >= -1) & (samples < 1))
    expected = value.replace(b"\x7f", b"\xff") if codec == "mulaw" else value
    assert audio.encode(samples, codec) == expected


@given(value=st.binary(min_size=2, max_size=400), cut=st.integers(0, 400), codec=st.sampled_from(CODECS))
def test_decoding_in_packets_is_decoding_at_once(value: bytes, cut: int, codec: Codec) -> None:
    value = value[: len(value) // 2 * 2]
    cut = min(cut, len(value)) // 2 * 2
    pieces = [audio.decode(value[:cut], codec), audio.decode(value[cut:], codec)]
    np.testing.assert_array_equal(np.concatenate(pieces), audio.decode(value, codec))


@pytest.mark.parametrize("codec", CODECS)
def test_samples_out_of_range_are_clipped_not_wrapped(codec: Codec) -> None:
    low, high = audio.decode(audio.encode(np.array([-7.0, 7.0], np.float32), codec), codec)
    assert low < -0.97
    assert high > 0.97


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_no_number_is_silence(codec: Codec) -> None:
    broken = np.array([0.5, np.nan, -0.5, np.inf], np.float32)
    assert audio.encode(broken, codec) == audio.encode(np.array([0.5, 0, -0.5, 7], np.float32), codec)


@pytest.mark.parametrize("codec", CODECS)
def test_silence_is_silent(codec: Codec) -> None:
    samples = audio.decode(audio.silence(160, codec), codec)
    assert len(samples) == 160
    assert np.max(np.abs(samples)) <= (8 / 32_768 if codec == "alaw" else 0)


def test_pcm_cut_inside_a_sample_is_an_error() -> None:
    with pytest.raises(ValueError, match="multiple of element size"):
        audio.decode(b"\x00\x01\x02", "pcm_s16le")


@given(n=st.integers(0, 4_000))
def test_resampling_doubles_the_samples_and_keeps_the_tone(n: int) -> None:
    tone = np.sin(2 * np.pi * 440 / 8_000 * np.arange(n)).astype(np.float32) * np.float32(0.5)
    wide = audio.resample(tone, 8_000, 16_000)
    assert wide.dtype == np.float32
    assert len(wide) == 2 * n
    np.testing.assert_array_equal(wide, audio.resample(tone.copy(), 8_000, 16_000))
    inner = slice(400, 2 * n - 400)  # away from the ends, where the filter sees nothing
    expected = np.sin(2 * np.pi * 440 / 16_000 * np.arange(2 * n)) * 0.5
    np.testing.assert_allclose(wide[inner], expected[inner], atol=2e-3)
    assert audio.resample(tone, 8_000, 8_000) is tone
