"""The stages without Kafka: logs in memory, and a worker that turns, commits, aborts and dies on command.

`calltide analyze` runs the chain on it, and the tests drive single stages with it. It uses the same `Checkpoint` as the
Kafka runtime; only reading and writing differ.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from processors.base import Processor, Record
from schemas.topics import CHAIN, Stage
from streams.checkpoint import Checkpoint, Consumed, Produced

PARTITION = 0


@dataclass(slots=True)
class Log:
    """One partition of one topic, committed records only. `base` is the offset of the first one that is kept."""

    records: list[Record] = field(default_factory=list)
    base: int = 0

    @property
    def end(self) -> int:
        """The offset that the next record will have."""
        return self.base + len(self.records)

    def read(self, start: int, stop: int) -> list[Record]:
        """The records at the offsets from `start` to before `stop`."""
        return self.records[start - self.base : stop - self.base]

    def trim(self, start: int) -> None:
        """Forget the records before an offset."""
        del self.records[: start - self.base]
        self.base = start


def record_of(produced: Produced) -> Record:
    """What a consumer would read of a record that was written."""
    headers = dict(produced.output.headers)
    kind = headers.get("kind", b"").decode()
    return Record(produced.call_id, kind, headers, produced.output.value, produced.timestamp_ms)


class Worker:
    """One worker of one stage over a log. `changelog` and `offset` outlive `crash()`, memory does not."""

    def __init__(self, row: Stage, processor: Processor, source: Log, target: Log) -> None:
        self.row = row
        self.processor = processor
        self.source = source
        self.target = target
        self.dead_letters = Log()
        self.changelog: dict[str, tuple[dict[str, bytes], bytes]] = {}
        self.offset = 0
        self.crash()

    def crash(self) -> None:
        """Lose the memory and restore it from what was committed."""
        self.checkpoint = Checkpoint(self.row, self.processor)
        changelog = [(call_id, headers, value) for call_id, (headers, value) in self.changelog.items()]
        self.checkpoint.assign(PARTITION, self.offset, changelog)
        self.position = self.offset

    @property
    def at_end(self) -> bool:
        """True when everything in the source was read."""
        return self.position >= self.source.end

    def turn(self, most: int | None = None, *, abort: bool = False, commit: bool = True, careful: bool = False) -> int:
        """Read at most so many records, process and commit them; returns how many were read.

        `abort` fails the transaction, so everything since the last commit is lost. `commit=False` stands for a turn
        that wrote nothing and left its commit to a later one: it is refused when there are outputs.
        """
        end = self.source.end if most is None else min(self.position + most, self.source.end)
        batch = [
            Consumed(PARTITION, offset, record, record.call_id.encode(), list(record.headers.items()))
            for offset, record in enumerate(self.source.read(self.position, end), start=self.position)
        ]
        try:
            produced = self.checkpoint.carefully(batch) if careful else self.checkpoint.turn(batch)
        except Exception:
            if careful:
                raise
            self.crash()
            while self.position < end:
                self.turn(end - self.position, careful=True)
            return len(batch)
        self.position = end
        if abort:
            self.crash()
        elif produced or commit:
            offsets, changes = self.checkpoint.commit()
            for change in changes:
                if change.value is None:
                    self.changelog.pop(change.call_id, None)
                else:
                    self.changelog[change.call_id] = (dict(change.headers), change.value)
            for record in produced:
                log = self.target if record.topic is None else self.dead_letters
                log.records.append(record_of(record))
            self.offset = offsets.get(PARTITION, self.offset)
            self.checkpoint.committed(offsets, changes)
        return len(batch)


class Chain:
    """The chain in one process, each stage reading what the one before wrote."""

    def __init__(self, build: Callable[[Stage], Processor], rows: Iterable[Stage] = CHAIN) -> None:
        rows = tuple(rows)
        self.logs = {rows[0].reads: Log()} | {row.writes: Log() for row in rows}
        self.workers = [Worker(row, build(row), self.logs[row.reads], self.logs[row.writes]) for row in rows]

    def push(self, records: Iterable[Record]) -> list[Record]:
        """Feed records to the first stage and run all stages to the end; returns the new records of the last topic."""
        self.workers[0].source.records.extend(records)
        for worker in self.workers:
            while not worker.at_end:
                worker.turn()
            # Memory stays flat however long the call: what is committed will not be read again.
            worker.source.trim(worker.offset)
        last = self.workers[-1].target
        finished = list(last.records)
        last.trim(last.end)
        return finished
