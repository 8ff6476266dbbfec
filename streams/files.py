"""Recordings as streams of audio: any container and codec PyAV reads, in constant memory whatever the length.

What comes out is what the chain takes: one or two channels at 8 or 16 kHz. Telephone recordings stay as they are (8
kHz, and mu-law or A-law where the file has it); everything else becomes 16 kHz, 16 bit.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np
import soxr
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from schemas.audio import RATES, Codec
from schemas.errors import CalltideError

MAXIMUM_CHANNELS: Final = 2
"""A telephone call has one channel or one for each party."""
MINIMUM_MS: Final = 100
"""Judgement: the shortest word is about as long; less holds nothing to hear."""

_G711: Final[dict[str, Codec]] = {"pcm_mulaw": "mulaw", "pcm_alaw": "alaw"}


@dataclass(frozen=True, slots=True)
class AudioFile:
    """What a file holds. `blocks()` reads it; `rate` and `channels` are those of the blocks."""

    path: Path
    rate: int
    channels: int
    codec: Codec
    duration_ms: int | None
    """None where the container does not say."""
    source_rate: int
    mix: bool
    container: str | None = None
    """FFmpeg's name of the format that it is read as; None: whatever FFmpeg takes it for."""
    opener: Callable[[], io.RawIOBase | io.BufferedReader] | None = None
    """Opens it where it is no file of this machine; `path` is only its name then."""

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Samples in [−1, 1], shape (n, channels), n as the decoder gives them.

        Raises CalltideError where the file is damaged: the blocks before it have been given and stay valid.
        """
        resampler = (
            soxr.ResampleStream(self.source_rate, self.rate, self.channels, dtype="float32")
            if self.source_rate != self.rate
            else None
        )
        read = 0
        try:
            with av.open(self.opener() if self.opener else str(self.path), "r", format=self.container) as container:
                stream = container.streams.audio[0]
                for frame in container.decode(stream):
                    samples = _samples(frame)
                    read += len(samples)
                    if self.mix:
                        samples = samples.mean(axis=1, keepdims=True)
                    if resampler is not None:
                        samples = resampler.resample_chunk(samples).reshape(-1, self.channels)
                    if len(samples):
                        yield samples
        except (av.FFmpegError, ValueError) as error:
            reason = error.strerror if isinstance(error, av.FFmpegError) else error
            raise CalltideError(
                f"{self.path} is damaged after {read / self.source_rate:.1f} s ({reason}); what came before was used: "
                "convert the file again from its source"
            ) from error
        if resampler is not None:
            tail = resampler.resample_chunk(np.empty((0, self.channels), np.float32), last=True)
            if len(tail):
                yield tail.reshape(-1, self.channels)
        if self.duration_ms is not None and read * 1_000 < self.source_rate * (self.duration_ms - 1_000):
            raise CalltideError(
                f"{self.path} is cut short: it says {self.duration_ms / 1_000:.1f} s and holds "
                f"{read / self.source_rate:.1f}; what is there was used, copy it again for the rest"
            )


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    """Shape (samples, channels), float32 in [−1, 1], of a frame in any of FFmpeg's sample formats."""
    array = frame.to_ndarray()
    channels = len(frame.layout.channels)
    array = array.T if frame.format.is_planar else array.reshape(-1, channels)
    if np.issubdtype(array.dtype, np.floating):
        return np.clip(array, -1.0, 1.0).astype(np.float32)
    if array.dtype == np.uint8:
        return ((array.astype(np.float32) - 128.0) / 128.0).astype(np.float32)
    return (array.astype(np.float64) / float(2 ** (8 * array.dtype.itemsize - 1))).astype(np.float32)


def open_audio(
    path: Path,
    mix: bool = False,
    container: str | None = None,
    opener: Callable[[], io.RawIOBase | io.BufferedReader] | None = None,
) -> AudioFile:
    """Look at a file and decide how it will travel. `mix` adds all channels up to one; `container` is the only format
    that it may have, for files of strangers: FFmpeg knows some that name other files and addresses to read. `opener`
    opens what lies elsewhere; what it and its reads raise is raised as it is.

    Raises CalltideError for what is no file, no audio, too short, or has more channels than a call.
    """
    if opener is None:
        if path.is_dir():
            raise CalltideError(f"{path} is a directory; name the files in it")
        if not path.exists():
            raise CalltideError(f"no file {path}; check the name")
        if path.stat().st_size == 0:
            raise CalltideError(f"{path} is empty (0 bytes); record or copy it again")
    try:
        with av.open(opener() if opener else str(path), "r", format=container) as file:
            if not file.streams.audio:
                raise CalltideError(f"{path} has no audio track; name a recording")
            stream = file.streams.audio[0]
            codec, rate = stream.codec_context.name, stream.codec_context.sample_rate
            channels = len(stream.codec_context.layout.channels)
            duration = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            first = next((len(_samples(frame)) for frame in file.decode(stream)), 0)
    except av.FFmpegError as error:
        raise CalltideError(
            f"{path} is not audio that can be read ({error.strerror}); give WAV, FLAC, MP3, M4A, OGG or WebM"
        ) from error
    except PermissionError as error:
        raise CalltideError(f"{path} may not be read; change its permissions") from error
    if not first or not rate:
        raise CalltideError(f"{path} holds no samples; record or copy it again")
    if duration is not None and duration * 1_000 < MINIMUM_MS:
        raise CalltideError(
            f"{path} is {duration * 1_000:.1f} ms long; there is nothing to hear in less than {MINIMUM_MS} ms"
        )
    if channels > MAXIMUM_CHANNELS and not mix:
        raise CalltideError(
            f"{path} has {channels} channels; a call has one or two: use --mix, or keep the parties' two"
        )
    target = rate if rate in RATES else 16_000
    return AudioFile(
        path=path,
        rate=target,
        channels=1 if mix else channels,
        codec=_G711.get(codec, "pcm_s16le") if rate == target and not mix else "pcm_s16le",
        duration_ms=None if duration is None else round(duration * 1_000),
        source_rate=rate,
        mix=mix,
        container=container,
        opener=opener,
    )
