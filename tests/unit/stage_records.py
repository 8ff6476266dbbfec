"""Records of one call for the tests of single stages, and a run of a stage over them in batches of any size."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from processors import audio
from processors.base import Output, Processor, Record
from schemas.events import (
    CallEnded,
    CallEvent,
    CallInfo,
    CallStarted,
    Interim,
    InterimWord,
    Progress,
    Role,
    Segment,
    Stretch,
    decode,
)
from schemas.topics import stage
from streams.memory import Log, Worker

STARTED_AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
E = TypeVar("E", bound=Segment)


def call(roles: tuple[Role, ...] = ("agent", "customer"), call_id: str = "call-1") -> CallInfo:
    return CallInfo(call_id=call_id, started_at=STARTED_AT, roles=roles)


def marks(info: CallInfo) -> tuple[CallStarted, Progress, CallEnded]:
    ended = CallEnded(call=info, duration_ms=60_000, ended_at=STARTED_AT, reason="hangup")
    return CallStarted(call=info), Progress(call=info, at_ms=1_000), ended


def utterance(kind: type[E], info: CallInfo, start_ms: int = 0, length_ms: int = 1_000, **fields: Any) -> E:
    """An event of any kind from `Segment` to `EmotionScored`; what `fields` leaves out has a plain value."""
    fields = {"channel": 0, "cut": "pause", "codec": "pcm_s16le", "rate": 16_000, "captured_at": STARTED_AT} | fields
    fields = {"speaker": "customer", "role": "customer", "speaker_confidence": 1, "text": "well then"} | fields
    fields = {"language": "en", "asr_confidence": 0.9, "asr_model": "some-asr"} | fields
    return kind(call=info, start_ms=start_ms, end_ms=start_ms + length_ms, **fields)


def interim(
    info: CallInfo, start_ms: int, length_ms: int, text: str = "", stable: int = 0, channel: int = 0
) -> Interim:
    """The open segment so far and its words, one after the other; the first `stable` of them are."""
    words = text.split()
    step = length_ms // max(len(words), 1)
    return Interim(
        call=info,
        channel=channel,
        start_ms=start_ms,
        end_ms=start_ms + length_ms,
        codec="pcm_s16le",
        rate=16_000,
        captured_at=STARTED_AT,
        revision=length_ms // 100,
        text=text,
        words=tuple(
            InterimWord(
                text=word,
                start_ms=start_ms + at * step,
                end_ms=start_ms + (at + 1) * step,
                confidence=0.5,
                stable=at < stable,
            )
            for at, word in enumerate(words)
        ),
    )


def noise(length_ms: int, seed: int = 0) -> NDArray[np.float32]:
    samples = np.random.default_rng(seed).normal(0, 0.1, length_ms * 16)
    return samples.astype(np.float32)


def record(event: CallEvent, sound: NDArray[np.float32] | None = None, *, in_value: bool = False) -> Record:
    """`event` as it comes from the log, with 16 kHz `sound` in the event's codec and rate."""
    value = None if in_value else b""
    if isinstance(event, Stretch) and not in_value:
        heard = noise(event.end_ms - event.start_ms, event.start_ms) if sound is None else sound
        value = audio.encode(audio.resample(heard, 16_000, event.rate), event.codec)
    output = Output.of(event, value)
    return Record(event.call.call_id, event.kind, dict(output.headers), output.value, 1_700_000_000_000)


def event_of(written: Record) -> Any:
    return decode(written.headers, written.value)


def run(
    name: str, processor: Processor, records: Sequence[Record], batches: Sequence[int] = (500,), *, crash: bool = False
) -> tuple[list[Record], list[Record], dict[str, Any]]:
    """Drive the stage as the runtime does, with batch sizes in turn, and memory lost after every batch if `crash`.

    Returns what was written, the dead letters, and the changelog that remains.
    """
    worker = Worker(stage(name), processor, Log(list(records)), Log())
    turn = 0
    while not worker.at_end:
        worker.turn(batches[turn % len(batches)])
        turn += 1
        if crash:
            worker.crash()
    return worker.target.records, worker.dead_letters.records, worker.changelog
