"""What a stage is: the contract between a processor and whatever drives it.

Three shells drive the same object: the Kafka runtime, the in-process chain of `calltide analyze`, and the in-memory
driver of the tests. A changer must know: for every call, the outputs must depend on the records of that call alone
and on their order, never on how they fall into batches, and they must be the same byte for byte when a record is read
again. The runtime's exactly-once rests on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from schemas.events import CallEvent, CallInfo, Interim, encode

IDLE: Final = "idle"
"""Kind of the record that the shell makes up when a call has been silent for `idle_timeout_ms` of stream time."""

NO_MORE: Final = "no_more"
"""Kind of the record behind the last one of a partition of a replay. No processor sees it: each stage passes it on when
all before it is done, so where it comes out everything has come out."""

REVISION_MS: Final = 100
"""Step of the revision numbers of `Interim`: the length of a packet."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a call as a processor sees it."""

    call_id: str
    kind: str
    headers: Mapping[str, bytes]
    value: bytes
    timestamp_ms: int
    """Wall clock of the event, Unix milliseconds: when the audio was captured. It stays the same through the chain."""


@dataclass(frozen=True, slots=True)
class Output:
    """One record to write, to the partition of the input and under the same key."""

    headers: list[tuple[str, bytes]]
    value: bytes

    @classmethod
    def of(cls, event: CallEvent, audio: bytes | None = None) -> "Output":
        """`audio` as in `schemas.events.encode`: None puts the event into the value, bytes put it into a header."""
        return cls(*encode(event, audio))


@dataclass(slots=True)
class Step:
    """What one record led to.

    `snapshot` is the call's state after this record, small enough to be kept in the changelog: this point is a *cut*,
    and nothing before it need be read again. b"" says the same and that there is no state to keep (a stateless stage,
    or the call has ended). None: not a cut, the records since the last one will be read again after a crash.
    """

    outputs: list[Output] = field(default_factory=list)
    snapshot: bytes | None = b""


class Processor(Protocol):
    """A stage. The state is the processor's own type; a shell only stores it and hands it back."""

    idle_timeout_ms: int | None
    """After so many milliseconds of stream time without a record of the call, the shell passes an `IDLE` record."""

    def open(self, call_id: str) -> Any:
        """The state of a call that has just appeared."""
        ...

    def restore(self, call_id: str, snapshot: bytes) -> Any:
        """The state as it was when `snapshot` was taken."""
        ...

    def process(self, batch: Sequence[tuple[Any, Record]]) -> list[Step]:
        """One step a record, in order. States are changed in place; a call may come several times in a batch.

        Raises whatever a bad record makes it raise: the shell drops the touched states, restores them and finds the
        record that is to blame by trying one by one.
        """
        ...


@dataclass(frozen=True, slots=True)
class Effort:
    """A way for a stage to do its work with less than it would like."""

    flag: str
    """What the reader of a score is told: it goes into the utterance's flags."""
    batch: int
    """Most records in one turn."""


@runtime_checkable
class Adjustable(Protocol):
    """A processor that can do with less when its worker lags behind the calls.

    What it does then is no longer a function of its input alone: an utterance heard with less effort says so.
    """

    reduced: Sequence[Effort]
    """The steps down from full effort."""
    effort: int
    """Steps down that are taken, 0 for full effort; the shell sets it before `process`."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A segment that is going on, as far as it would reach if it ended here."""

    call: CallInfo
    channel: int
    start_ms: int
    end_ms: int
    heard_ms: int
    """Media time up to which the channel was heard: beyond `end_ms` while the speaker pauses."""
    captured_ms: int
    """Wall clock at `heard_ms`, Unix milliseconds."""

    @property
    def revision(self) -> int:
        """The number that an `Interim` of it has."""
        return (self.end_ms - self.start_ms) // REVISION_MS


@runtime_checkable
class Provisional(Protocol):
    """A processor that can tell, at any moment, what it would emit if the calls ended now.

    When it is asked depends on how busy the machine is, so what it tells is outside of `process`, snapshots and
    transactions, and asking changes nothing: the outputs and snapshots of `process` are the same with and without.
    """

    def provisional(self, state: Any, due: Callable[[Unfinished], bool]) -> list[Output]:
        """An `Interim` with its audio for each open segment of a call of which `due` wants one now."""
        ...


@runtime_checkable
class Revising(Protocol):
    """A processor that finds the words of `Interim` records, outside of `process` as in `Provisional`. One thread may
    do so while another is in `process`."""

    def revise(self, batch: Sequence[tuple[Interim | None, Record]]) -> list[Interim]:
        """For each record its event with words, in order, beside what was made of the revision before it, if any."""
        ...


@runtime_checkable
class Reloadable(Protocol):
    """A processor that works by files which people edit while it runs, and says in each output which version it used.

    The shell asks between turns, once a second at most, never within one: a turn is all of one version. Calls that are
    open go on with their states.
    """

    def reload(self) -> bool:
        """Read what has changed since; True when another version is in effect from now on.

        Raises CalltideError, once for each change, for files that are wrong: the version before stays in effect.
        """
        ...
