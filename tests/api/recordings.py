"""Recordings made for tests: in each format, and such as claim what is not so."""

from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

CODECS = {
    "wav": ("wav", "pcm_s16le", 8_000),
    "mp3": ("mp3", "libmp3lame", 16_000),
    "flac": ("flac", "flac", 16_000),
    "m4a": ("mp4", "aac", 16_000),
    "ogg": ("ogg", "libopus", 48_000),
    "webm": ("webm", "libopus", 48_000),
}
"""Container, codec and rate of each format that is taken."""


def encoded(kind: str, seconds: float) -> bytes:
    """Noise as a recording of that format."""
    container, codec, rate = CODECS[kind]
    file = BytesIO()
    samples = np.random.default_rng().uniform(-0.3, 0.3, (1, round(seconds * rate))).astype(np.float32)
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate)
        stream.layout = "mono"
        resampler = av.AudioResampler(
            stream.format.name, "mono", rate, frame_size=stream.codec_context.frame_size or 1_024
        )
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = rate
        for one in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(one))
        output.mux(stream.encode(None))
    return file.getvalue()


def endless(path: Path, hours: float, told: bool) -> Path:
    """Silence, some bytes a second of it; `told`: whether its header says how long it is."""
    with soundfile.SoundFile(path, "w", 8_000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(round(hours * 60)):
            file.write(np.zeros(8_000 * 60, np.int16))
    if not told:
        content = bytearray(path.read_bytes())
        # The last 36 of the 64 bits behind the frame sizes: how many samples there are; 0: not known (RFC 9639, 8.2).
        content[21] &= 0xF0
        content[22:26] = bytes(4)
        path.write_bytes(content)
    return path
