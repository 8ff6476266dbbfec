"""What the stages after VAD share: each of their records is either one utterance or a mark that passes through.

A changer must know: every record here is a cut (see `processors.base.Step`), so a stage must be able to go on after any
of them from its snapshot alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from processors import audio
from processors.base import IDLE, Record, Step
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallEvent, CallStarted, Correction, Progress, Segment, Stretch, decode

RATE: Final = 16_000
"""Samples a second of what all models after VAD hear."""

FORGOTTEN_MS: Final = 3_600_000
"""Silence after which a stage forgets a call of which the end never came, or an utterance came behind the end: one that
was redriven. Judgement: marks come once a second while a call goes on, and the VAD ends it long before."""

WITHOUT_SPACES: Final = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages that are written without spaces between words; faster-whisper takes their single signs for words."""

Utterance = TypeVar("Utterance", bound=Segment)
Item = TypeVar("Item", bound=tuple[Any, Record])


def read(batch: Sequence[tuple[Any, Record]], kind: type[Utterance]) -> list[Utterance | CallEvent]:
    """The events of a batch, in order: utterances of exactly this kind, and marks.

    Raises KeyError or pydantic.ValidationError for what is no event, CalltideError for an utterance of another stage.
    """
    events = [decode(record.headers, record.value) for _, record in batch]
    for event in events:
        if type(event) not in (kind, CallStarted, CallEnded, Progress, Correction):
            raise CalltideError(f"a {event.kind} came where a {kind.__name__} is read; mend what writes to the topic")
    return events


def each_but_idle(batch: Sequence[Item], hear: Callable[[list[Item]], list[Step]]) -> list[Step]:
    """A step for each record: `hear` makes those of the events. A call that is forgotten (`IDLE`) leaves nothing."""
    steps = iter(hear([item for item in batch if item[1].kind != IDLE]))
    return [Step() if record.kind == IDLE else next(steps) for _, record in batch]


def samples(segment: Stretch, record: Record) -> NDArray[np.float32]:
    """The audio of an utterance as the models want it: mono, float32 (n,) in [-1, 1), 16 kHz."""
    return audio.resample(audio.decode(record.value, segment.codec), segment.rate, RATE)


def promote(event: Segment, to: type[Utterance], **added: Any) -> Utterance:
    """The event as the next stage's kind, with the fields that this stage adds."""
    return to(**{name: value for name, value in event if name != "kind"} | added)


def rounded(value: float) -> float:
    """Four digits, like every number in an event; never −0."""
    return round(float(value), 4) + 0.0
