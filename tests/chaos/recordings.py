"""The recordings that are sent, and what an undisturbed chain in memory hears in each.

All are cut from the packaged conversation (streams.samples): other places, lengths, levels, rates and codecs, one party
a channel or both mixed, so that no two are the same. Some lose packets on the way and some have packets doubled.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from processors.base import Processor, Record
from schemas.events import CallEvent, CallInfo, Role, decode
from schemas.topics import Stage
from streams import samples
from streams.files import open_audio
from streams.memory import Chain
from streams.packets import now, records, roles_for

QUEUE: Final = "chaos"
"""The calls' queue."""
LENGTH_S: Final = (10.0, 20.0)
BLOCK: Final = 200
"""Records pushed into the chain at once."""


@dataclass(slots=True)
class Recording:
    """One recording, and what is to come of every call that sends it."""

    number: int
    path: Path
    roles: tuple[Role, ...] | None
    loses: bool
    doubles: bool
    expected: list[CallEvent] = field(default_factory=list)

    def copies(self, headers: Mapping[str, bytes]) -> int:
        """How often the packet with these headers is sent: 0, 1 or 2 times, each time the same."""
        if headers["kind"] != b"audio":
            return 1
        sequence = int(headers["sequence"]) + 3 * int(headers["channel"])
        if self.loses and sequence % 17 == 5:
            return 0
        return 2 if self.doubles and sequence % 11 == 4 else 1


def cut(directory: Path, count: int, seed: int) -> list[Recording]:
    """Write so many recordings into the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    parties, rate = soundfile.read(samples.two_channel(directory), dtype="float32")
    mixed, mixed_rate = soundfile.read(samples.packaged(), dtype="float32")
    forms: tuple[tuple[NDArray[np.float32], int, str, tuple[Role, ...] | None], ...] = (
        (parties, rate, "ULAW", None),
        (parties, rate, "PCM_16", None),
        (soxr.resample(parties, rate, 16_000), 16_000, "PCM_16", None),
        (mixed, mixed_rate, "PCM_16", None),
        (soxr.resample(mixed, mixed_rate, 8_000), 8_000, "ALAW", ("customer",)),
    )
    chance = random.Random(seed)
    recordings = []
    for number in range(count):
        audio, rate, subtype, roles = forms[number % len(forms)]
        length = round(chance.uniform(*LENGTH_S) * rate)
        start = chance.randrange(len(audio) - length)
        path = directory / f"{number:03}.wav"
        piece = audio[start : start + length] * chance.uniform(0.4, 1.0)
        soundfile.write(path, np.clip(piece, -1, 1), rate, format="WAV", subtype=subtype)
        recordings.append(Recording(number, path, roles, loses=number % 4 == 1, doubles=number % 4 == 2))
    return recordings


def hear(recordings: Sequence[Recording], build: Callable[[Stage], Processor], packet_ms: int) -> None:
    """Fill in what is expected of each recording: what the chain in memory makes of the same packets.

    Raises AssertionError when a recording gives nothing that a loss could be seen by.
    """
    chain = Chain(build)
    for recording in recordings:
        audio = open_audio(recording.path)
        roles = roles_for(audio, recording.roles)
        call = CallInfo(
            call_id=f"reference-{recording.number}",
            started_at=now(),
            roles=roles,
            source=recording.path.name,
            queue=QUEUE,
        )
        sent: list[Record] = []
        for record in records(call, audio, packet_ms):
            sent += [record] * recording.copies(record.headers)
        for start in range(0, len(sent), BLOCK):
            finished = chain.push(sent[start : start + BLOCK])
            recording.expected += [decode(record.headers, record.value) for record in finished]
        kinds = [event.kind for event in recording.expected]
        assert kinds[0] == "call_started" and kinds[-1] == "call_ended" and "score" in kinds, kinds
    assert not any(worker.dead_letters.records for worker in chain.workers)
