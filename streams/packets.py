"""A recording as the records of `audio.frames`: start marker, packets of all channels in turn, end marker.

`calltide ingest` writes them to Kafka and `calltide analyze` hands them to the in-process chain: the same records, so
the same utterances.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from processors.audio import encode as encode_audio
from processors.base import Record
from schemas.audio import BYTES_PER_SAMPLE, AudioPacket
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, CallStarted, Role, encode
from streams.files import AudioFile


@dataclass(frozen=True, slots=True)
class Packet:
    """One record of `audio.frames`; `media_ms` is the time in the call at which its last sample was spoken."""

    headers: list[tuple[str, bytes]]
    value: bytes
    media_ms: int


def roles_of(text: str | None) -> tuple[Role, ...] | None:
    """`agent,customer` (or with `;` or `|` between them) as roles. Raises CalltideError for a role there is not."""
    if not text:
        return None
    parts = tuple(part.strip() for part in re.split(r"[,;|]", text))
    for part in parts:
        if part not in get_args(Role):
            raise CalltideError(f"unknown role {part!r}; use agent, customer or unknown, one for each channel")
    return cast("tuple[Role, ...]", parts)


def roles_for(audio: AudioFile, roles: tuple[Role, ...] | None) -> tuple[Role, ...]:
    """The party on each channel: two channels are agent and customer unless said otherwise, one is unknown.

    Raises CalltideError when the number of roles is not the number of channels.
    """
    if roles is None:
        return ("agent", "customer") if audio.channels == 2 else ("unknown",)
    if len(roles) != audio.channels:
        what = "one channel" if audio.channels == 1 else f"{audio.channels} channels"
        raise CalltideError(f"{audio.path} has {what} and --roles names {len(roles)}; name one for each channel")
    return roles


def packets(call: CallInfo, audio: AudioFile, packet_ms: int, since_ms: int = 0) -> Iterator[Packet]:
    """The call as records. A damaged file ends the call properly (reason `interrupted`), then raises CalltideError.

    `since_ms`: the packets that end by then are left out; those that follow are what they always are.
    """
    yield Packet(*encode(CallStarted(call=call)), media_ms=0)
    size = audio.rate * packet_ms // 1_000
    sequence = sample = 0
    damage: CalltideError | None = None
    held = np.empty((0, audio.channels), np.float32)

    def cut(samples: NDArray[np.float32]) -> Iterator[Packet]:
        nonlocal sequence, sample
        if (sample + len(samples)) * 1_000 // audio.rate <= since_ms:
            sequence, sample = sequence + -(-len(samples) // size), sample + len(samples)
            return
        # Encoded at once: a call per packet would cost more than the encoding itself.
        encoded = [encode_audio(np.ascontiguousarray(column), audio.codec) for column in samples.T]
        width = BYTES_PER_SAMPLE[audio.codec]
        for start in range(0, len(samples), size):
            end = min(start + size, len(samples))
            end_ms = (sample + end - start) * 1_000 // audio.rate
            for channel, whole in enumerate(encoded if end_ms > since_ms else ()):
                value = whole[start * width : end * width]
                packet = AudioPacket(channel, audio.codec, audio.rate, sample, sequence, value)
                yield Packet(packet.headers(), value, end_ms)
            sequence, sample = sequence + 1, sample + end - start

    blocks = audio.blocks()
    while True:
        try:
            held = np.concatenate([held, next(blocks)])
        except StopIteration:
            break
        except CalltideError as error:
            damage = error
            break
        whole = len(held) - len(held) % size
        yield from cut(held[:whole])
        held = held[whole:]
    yield from cut(held)
    duration_ms = sample * 1_000 // audio.rate
    ended = CallEnded(
        call=call,
        duration_ms=duration_ms,
        ended_at=call.started_at + timedelta(milliseconds=duration_ms),
        reason="hangup" if damage is None else "interrupted",
    )
    yield Packet(*encode(ended), media_ms=duration_ms)
    if damage is not None:
        raise damage


def records(call: CallInfo, audio: AudioFile, packet_ms: int) -> Iterator[Record]:
    """The packets as a processor sees them, captured as if the call had been spoken at its start time."""
    start_ms = round(call.started_at.timestamp() * 1_000)
    for packet in packets(call, audio, packet_ms):
        headers = dict(packet.headers)
        yield Record(call.call_id, headers["kind"].decode(), headers, packet.value, start_ms + packet.media_ms)


def now() -> datetime:
    """Wall clock, UTC, to the millisecond: Kafka's own resolution."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)
