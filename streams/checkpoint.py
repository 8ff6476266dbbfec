"""The state of the calls of a stage, and what of it the log already holds: the checkpoint protocol without Kafka.

The Kafka runtime and the in-memory driver both turn records into outputs through `Checkpoint.turn` and make them
durable with `Checkpoint.commit` and `Checkpoint.committed`; neither has a second copy of this logic. A changer must
know the invariant: after a crash, restoring the changelog and reading again from the committed offset yields exactly
the outputs that were not yet committed, and no other.
"""

import copy
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from processors.base import IDLE, NO_MORE, Output, Processor, Record, Step
from schemas.topics import Stage

log = logging.getLogger(__name__)

ENDING: Final = frozenset({"call_ended", IDLE})
"""Kinds after which a call's state is gone: a later record under the same key opens a new one."""


@dataclass(frozen=True, slots=True)
class Consumed:
    """One record as it was read. `key` and `raw_headers` are kept as they came, for dead letters."""

    partition: int
    offset: int
    record: Record
    key: bytes | None = None
    raw_headers: Sequence[tuple[str, bytes | None]] = ()


@dataclass(frozen=True, slots=True)
class Produced:
    """One record to write to `partition`; topic None is the stage's own output topic."""

    partition: int
    call_id: str
    output: Output
    timestamp_ms: int
    topic: str | None = None
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One record for the changelog; value None is a tombstone."""

    partition: int
    call_id: str
    headers: list[tuple[str, bytes]]
    value: bytes | None


@dataclass(slots=True)
class _Call:
    """A call's state in memory, and its last cut."""

    state: Any = None
    snapshot: bytes = b""
    covered: int = -1
    """Offset of the last record that the snapshot covers."""
    emitted: int = 0
    """Outputs since the cut that the log has, although their records will be read again after a crash."""
    made: int = 0
    """Outputs since the cut that were made in this life of the worker: the first `emitted` of them are swallowed."""
    oldest: int | None = None
    """First record after the cut: the partition's committed offset must not pass it."""
    alive: bool = False
    """Whether the call is open after the records admitted so far (its state may still be to come)."""
    timestamp_ms: int = 0
    """Latest timestamp of the records admitted since the call opened."""
    covered_timestamp_ms: int = 0
    """The same at the cut."""
    dirty: bool = False
    logged: bool = False
    """Whether the changelog holds a record of this call."""

    def redundant(self, watermark: int) -> bool:
        """True when reading again from the watermark would find the call as it is here without any changelog record."""
        return not self.snapshot and not self.emitted and self.covered < watermark

    def headers(self) -> list[tuple[str, bytes]]:
        numbers = {"covered": self.covered, "emitted": self.emitted, "timestamp": self.covered_timestamp_ms}
        return [(name, str(number).encode("ascii")) for name, number in numbers.items()]


@dataclass(slots=True)
class _Partition:
    calls: dict[str, _Call] = field(default_factory=dict)
    position: int = 0
    watermark: int = -1
    """The offset committed last."""
    next_expiry_ms: int = 0


class Checkpoint:
    """The calls of all partitions a worker holds."""

    def __init__(self, row: Stage, processor: Processor) -> None:
        self.row = row
        self.processor = processor
        self.partitions: dict[int, _Partition] = {}
        self.dead_letters = 0
        self.divergences = 0
        """Cuts that came with fewer outputs than the log holds: a processor that is not deterministic."""

    def assign(
        self, partition: int, position: int, changelog: Iterable[tuple[str, Mapping[str, bytes], bytes | None]]
    ) -> None:
        """Take over a partition: its changelog (call id, headers, value), oldest first, and the offset to read from."""
        calls: dict[str, _Call] = {}
        for call_id, headers, value in changelog:
            if value is None:
                calls.pop(call_id, None)
                continue
            numbers = {name: int(headers[name]) for name in ("covered", "emitted", "timestamp")}
            calls[call_id] = _Call(
                snapshot=value,
                covered=numbers["covered"],
                emitted=numbers["emitted"],
                timestamp_ms=numbers["timestamp"],
                covered_timestamp_ms=numbers["timestamp"],
                logged=True,
            )
        for call_id, call in calls.items():
            call.alive = bool(call.snapshot)
            call.state = self.processor.restore(call_id, call.snapshot) if call.alive else None
        self.partitions[partition] = _Partition(calls, position, position)

    def revoke(self, partition: int) -> None:
        """Forget a partition: memory must never be ahead of the log, so nothing is kept."""
        self.partitions.pop(partition, None)

    def calls(self) -> int:
        """Number of calls in memory."""
        return sum(len(partition.calls) for partition in self.partitions.values())

    def state_bytes(self) -> int:
        """Bytes of all snapshots."""
        return sum(len(call.snapshot) for partition in self.partitions.values() for call in partition.calls.values())

    def states(self) -> Iterator[tuple[int, str, Any]]:
        """(partition, call id, state) of the calls that are open: to look at, not to change."""
        for number, partition in self.partitions.items():
            for call_id, call in partition.calls.items():
                if call.state is not None:
                    yield number, call_id, call.state

    def turn(self, batch: Sequence[Consumed]) -> list[Produced]:
        """Process what was read; returns what is to be written.

        An exception of the processor comes through: states are then half-changed, so the caller drops and restores
        everything and comes back with `carefully`.
        """
        admitted = [item for consumed in batch for item in self._admit(consumed)]
        steps = self.processor.process(
            [(self._state(call, consumed), consumed.record) for call, consumed, _ in admitted]
        )
        return [
            produced
            for (call, consumed, timestamp_ms), step in zip(admitted, steps, strict=True)
            for produced in self._settle(call, consumed, timestamp_ms, step)
        ] + [produced for consumed in batch for produced in _passed_on(consumed)]

    def carefully(
        self, batch: Sequence[Consumed], before: Callable[[Consumed], None] = lambda _consumed: None
    ) -> list[Produced]:
        """As `turn`, but one by one: a record that makes the processor, or `before`, raise becomes a dead letter."""
        # Each is admitted when the one before it is done: a call that only a bad record opened was never open.
        return [
            out
            for consumed in batch
            for outs in (*(self._one(*item, before) for item in self._admit(consumed)), _passed_on(consumed))
            for out in outs
        ]

    def idle(self, partition: int, now_ms: int) -> list[Produced]:
        """End the calls of a quiet partition that have been silent for the idle timeout until `now_ms`, wall clock."""
        held = self.partitions[partition]
        return [out for item in self._expire(partition, now_ms, held.position) for out in self._one(*item)]

    def commit(self) -> tuple[dict[int, int], list[Change]]:
        """What a commit must hold beside the outputs: the offset of every partition that moves, and the changelog."""
        offsets: dict[int, int] = {}
        changes: list[Change] = []
        for number, partition in self.partitions.items():
            watermark = min(
                (call.oldest for call in partition.calls.values() if call.oldest is not None),
                default=partition.position,
            )
            if watermark != partition.watermark:
                offsets[number] = watermark
            for call_id, call in partition.calls.items():
                if call.redundant(watermark):
                    if call.logged:
                        changes.append(Change(number, call_id, [], None))
                elif call.dirty:
                    changes.append(Change(number, call_id, call.headers(), call.snapshot))
        return offsets, changes

    def committed(self, offsets: Mapping[int, int], changes: Sequence[Change]) -> None:
        """The commit is in the log: remember it, and free the calls that need no state any more."""
        for number, watermark in offsets.items():
            self.partitions[number].watermark = watermark
        for change in changes:
            call = self.partitions[change.partition].calls[change.call_id]
            call.dirty, call.logged = False, change.value is not None
        for partition in self.partitions.values():
            done = [
                call_id
                for call_id, call in partition.calls.items()
                if call.oldest is None and call.redundant(partition.watermark)
            ]
            for call_id in done:
                del partition.calls[call_id]

    def _admit(self, consumed: Consumed) -> list[tuple[_Call, Consumed, int]]:
        """The record with its call and the call's time, behind the idle records that the record's time brings about.

        If it is covered, those alone.
        """
        partition = self.partitions[consumed.partition]
        record = consumed.record
        admitted = self._expire(consumed.partition, record.timestamp_ms, consumed.offset)
        partition.position = consumed.offset + 1
        if record.kind == NO_MORE:
            return admitted
        call = partition.calls.setdefault(record.call_id, _Call())
        if consumed.offset <= call.covered:
            return admitted
        # The time of an earlier call of the same name, which may be forgotten or not, must not count.
        call.timestamp_ms = max(call.timestamp_ms, record.timestamp_ms) if call.alive else record.timestamp_ms
        call.alive = record.kind not in ENDING
        if self.processor.idle_timeout_ms is not None:
            expiry_ms = call.timestamp_ms + self.processor.idle_timeout_ms
            partition.next_expiry_ms = min(partition.next_expiry_ms, expiry_ms)
        return [*admitted, (call, consumed, call.timestamp_ms)]

    def _expire(self, number: int, now_ms: int, offset: int) -> list[tuple[_Call, Consumed, int]]:
        timeout = self.processor.idle_timeout_ms
        partition = self.partitions[number]
        if timeout is None or now_ms < partition.next_expiry_ms:
            return []
        expired = []
        for call_id, call in partition.calls.items():
            # A record that the snapshot covers has no say: it was read before the call came to what it is here.
            if call.alive and call.covered < offset and now_ms >= call.timestamp_ms + timeout:
                call.alive = False
                record = Record(call_id, IDLE, {}, b"", call.timestamp_ms + timeout)
                expired.append((call, Consumed(number, offset - 1, record), record.timestamp_ms))
        partition.next_expiry_ms = (
            min((call.timestamp_ms for call in partition.calls.values() if call.alive), default=now_ms) + timeout
        )
        return expired

    def _state(self, call: _Call, consumed: Consumed) -> Any:
        """The state for this record; a record that ends the call leaves none for the next."""
        state = self.processor.open(consumed.record.call_id) if call.state is None else call.state
        call.state = None if consumed.record.kind in ENDING else state
        return state

    def _one(
        self,
        call: _Call,
        consumed: Consumed,
        timestamp_ms: int,
        before: Callable[[Consumed], None] = lambda _consumed: None,
    ) -> list[Produced]:
        """Process one record alone; a failure becomes a dead letter and the call goes on as if it had not come."""
        kept = copy.deepcopy(call.state)
        try:
            if consumed.record.kind != IDLE:  # made up here, under the offset of another record
                before(consumed)
            (step,) = self.processor.process([(self._state(call, consumed), consumed.record)])
        except Exception as error:  # whatever a record does, its call must go on
            log.exception(
                "dead letter",
                extra={
                    "stage": self.row.id,
                    "call": consumed.record.call_id,
                    "partition": consumed.partition,
                    "offset": consumed.offset,
                },
            )
            call.state, call.alive = kept, kept is not None
            self.dead_letters += 1
            letter = self._dead_letter(consumed, error)
            # A call that stood at a cut stands at it still, one record further on.
            step = Step(snapshot=call.snapshot if call.oldest is None else None)
            return self._emit(call, [letter]) + self._settle(call, consumed, timestamp_ms, step)
        return self._settle(call, consumed, timestamp_ms, step)

    def _settle(self, call: _Call, consumed: Consumed, timestamp_ms: int, step: Step) -> list[Produced]:
        number, record = consumed.partition, consumed.record
        produced = self._emit(
            call, [Produced(number, record.call_id, output, record.timestamp_ms) for output in step.outputs]
        )
        if step.snapshot is None:
            call.oldest = consumed.offset if call.oldest is None else call.oldest
            return produced
        if call.made < call.emitted:
            self.divergences += 1
            log.error(
                "a call gave fewer outputs than before the restart: the processor is not deterministic",
                extra={"stage": self.row.id, "call": record.call_id, "fewer": call.emitted - call.made},
            )
        call.snapshot, call.covered = step.snapshot, consumed.offset
        call.covered_timestamp_ms = timestamp_ms
        call.oldest, call.emitted, call.made, call.dirty = None, 0, 0, True
        return produced

    def _emit(self, call: _Call, outputs: list[Produced]) -> list[Produced]:
        swallowed = min(max(call.emitted - call.made, 0), len(outputs))
        call.made += len(outputs)
        call.emitted = max(call.emitted, call.made)
        call.dirty = call.dirty or swallowed < len(outputs)
        return outputs[swallowed:]

    def _dead_letter(self, consumed: Consumed, error: Exception) -> Produced:
        about = {
            "topic": self.row.reads,
            "partition": consumed.partition,
            "offset": consumed.offset,
            "stage": self.row.name,
            "exception.class.name": f"{type(error).__module__}.{type(error).__qualname__}",
            "exception.message": str(error)[:1_000],
            "exception.stacktrace": "".join(traceback.format_exception(error))[-8_000:],
        }
        headers = [(name, value or b"") for name, value in consumed.raw_headers]
        headers += [(f"__connect.errors.{name}", str(value).encode()) for name, value in about.items()]
        return Produced(
            consumed.partition,
            consumed.record.call_id,
            Output(headers, consumed.record.value),
            consumed.record.timestamp_ms,
            topic=self.row.dead_letters,
            key=consumed.key,
        )


def _passed_on(consumed: Consumed) -> list[Produced]:
    """The end of a replay's partition goes through all stages, behind what came before it."""
    record = consumed.record
    if record.kind != NO_MORE:
        return []
    output = Output([*record.headers.items()], record.value)
    return [Produced(consumed.partition, record.call_id, output, record.timestamp_ms)]
