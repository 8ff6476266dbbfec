"""Recordings to try Calltide with: what comes with its packages, and what people with internet can fetch.

The packaged one is a real telephone conversation of 30 s, two speakers mixed into one channel, with reference turns; it
lies in the wheel of pyannote.audio (MIT), which is installed for this file alone and never imported.
"""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr

from schemas.errors import CalltideError

_WHEEL_FOLDER: Final = "pyannote/audio/sample"

_SOURCE: Final = (
    "https://raw.githubusercontent.com/aws-samples/amazon-transcribe-live-call-analytics/"
    "b375717d375b2b286f7338435afadd13eeed6e5d/lca-chimevc-stack/asterisk-test-scripts/recordings/"
)
_CALLS: Final = {
    "auto-repair-40": {
        "Auto_Repairs_40_UTC_agent.wav": "b541cebf5ed3fbc0596c107eb29a931d5a762b2370592d0bc1d0ad432f8ce114",
        "Auto_Repairs_40_UTC_caller.wav": "c8bc4607ceaec27668d95e3d567231febfa5851a2f539d2b5f4bf701454f7fb2",
    },
    "auto-repair-49": {
        "Auto_Repairs_49_UTC_agent.wav": "fe9bf300c9e9e721863aee6fa049d8c85ca3aa9d9b97015d9c02ccb78e990dfa",
        "Auto_Repairs_49_UTC_caller.wav": "7ee5ebc08a626e958997fa459d6f5e18e70b988ba60d5bfc9989c7ef990bd3fd",
    },
}
"""Apache-2.0, aws-samples/amazon-transcribe-live-call-analytics: call → agent's and caller's channel with sha256."""


def packaged() -> Path:
    """The packaged conversation: mono, 16 kHz, 30 s. Raises CalltideError when its package is not installed."""
    return _in_wheel("sample.wav")


def packaged_turns() -> list[tuple[float, float, str]]:
    """Its reference turns: (start, end) in seconds and the speaker, in order of start. They may overlap."""
    turns = []
    for row in _in_wheel("sample.rttm").read_text().splitlines():
        _, _, _, start, length, _, _, speaker, *_ = row.split()
        turns.append((float(start), float(start) + float(length), speaker))
    return sorted(turns)


def two_channel(directory: Path) -> Path:
    """The packaged conversation as a telephone call: 8 kHz mu-law, one party a channel, cut by the reference turns.

    The first to speak is on the first channel. Written once into `directory`.
    """
    path = directory / "phone-chat-two-channel.wav"
    if path.exists():
        return path
    mono, rate = soundfile.read(packaged(), dtype="float32")
    turns = packaged_turns()
    speakers = list(dict.fromkeys(speaker for _, _, speaker in turns))
    channels = np.zeros((len(mono), len(speakers)), np.float32)
    for start, end, speaker in turns:
        span = slice(round(start * rate), round(end * rate))
        channels[span, speakers.index(speaker)] = mono[span]
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    soundfile.write(unfinished, soxr.resample(channels, rate, 8_000), 8_000, format="WAV", subtype="ULAW")
    unfinished.replace(path)
    return path


def download(directory: Path, report: Callable[[str], None]) -> list[Path]:
    """Fetch the two-channel customer calls of a public sample (Apache-2.0) and check them.

    Raises CalltideError without internet, and for a file that is not what it should be.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, parts in _CALLS.items():
        path = directory / f"{name}.wav"
        paths.append(path)
        if path.exists():
            report(f"{path} is there already")
            continue
        channels = []
        for file, digest in parts.items():
            report(f"fetching {file}")
            part = directory / file
            part.write_bytes(_fetch(_SOURCE + file, digest))
            samples, rate = soundfile.read(part, dtype="int16")
            part.unlink()
            channels.append(samples)
        length = min(map(len, channels))
        soundfile.write(path, np.stack([samples[:length] for samples in channels], axis=1), rate, subtype="PCM_16")
        report(f"{path}: agent left, caller right")
    return paths


def _fetch(url: str, digest: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            data = bytes(answer.read())
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise CalltideError(
            f"cannot fetch {url} ({getattr(error, 'reason', error)}); this needs internet, `calltide demo` does not"
        ) from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise CalltideError(f"{url} is not the recording it should be (its sha256 differs); nothing was kept")
    return data


def _in_wheel(name: str) -> Path:
    try:
        path = Path(str(distribution("pyannote.audio").locate_file(f"{_WHEEL_FOLDER}/{name}")))
    except PackageNotFoundError:
        path = None
    if path is None or not path.exists():
        raise CalltideError("the packaged recording is not installed; run `make install`")
    return path
