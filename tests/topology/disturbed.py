"""One stage driven undisturbed and driven with accidents, and what must then be the same.

A changer must know: what is compared is all that a stage leaves behind: every output byte for byte, the dead letters,
and the changelog. Only the order in which outputs of different calls lie in the log is free.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

from hypothesis import strategies as st

from processors.base import Processor, Record
from schemas.topics import Stage
from streams.memory import Log, Worker

Accident = tuple[int, str]
"""A turn over at most so many records, and what becomes of it."""

ACCIDENTS = st.lists(
    st.tuples(
        st.integers(1, 7) | st.integers(1, 60),
        st.sampled_from(["commit", "commit", "late commit", "abort", "crash"]),
    ),
    max_size=40,
)

Written = dict[str, list[tuple[dict[str, bytes], bytes, int]]]


def worker(row: Stage, processor: Processor, records: Iterable[Record]) -> Worker:
    """A worker that has read nothing yet."""
    return Worker(row, processor, Log(list(records)), Log())


def drained(running: Worker) -> Worker:
    """The same worker after it has read and committed everything."""
    while not running.at_end:
        running.turn()
    running.turn()  # a commit without records frees what became redundant
    return running


def disturb(running: Worker, accidents: Iterable[Accident]) -> Worker:
    """The same worker after these turns; it may not have come to the end."""
    for most, then in accidents:
        running.turn(most, abort=then == "abort", commit=then != "late commit")
        if then == "crash":
            running.crash()
    return running


def by_call(log: Log) -> Written:
    """What was written for each call, in order: headers, value, timestamp."""
    written: Written = defaultdict(list)
    for record in log.records:
        written[record.call_id].append((dict(record.headers), record.value, record.timestamp_ms))
    return dict(written)


def without_traces(letters: Written) -> Written:
    """Dead letters without their stack traces: those name the lines of the driver, too."""
    return {
        call_id: [
            ({name: header for name, header in headers.items() if not name.endswith("stacktrace")}, value, at_ms)
            for headers, value, at_ms in found
        ]
        for call_id, found in letters.items()
    }


def kept(running: Worker) -> dict[str, tuple[bytes, dict[str, bytes]]]:
    """The changelog: each call's snapshot and those of its numbers that can make a difference.

    Time does so only where calls become idle. And a call without state may be forgotten before it comes back or after
    that, so of such a one only the outputs since its last cut count.
    """
    timed = running.processor.idle_timeout_ms is not None
    return {
        call_id: (
            snapshot,
            {
                name: number
                for name, number in numbers.items()
                if name == "emitted" or (snapshot and (name != "timestamp" or timed))
            },
        )
        for call_id, (numbers, snapshot) in running.changelog.items()
    }


def assert_same(disturbed: Worker, undisturbed: Worker) -> None:
    """Both have read everything: neither the log nor the changelog tells which of them had accidents."""
    assert by_call(disturbed.target) == by_call(undisturbed.target)
    assert without_traces(by_call(disturbed.dead_letters)) == without_traces(by_call(undisturbed.dead_letters))
    assert disturbed.checkpoint.divergences == 0
    assert kept(disturbed) == kept(undisturbed)
    assert disturbed.offset == undisturbed.offset


def interleaved(lines: Mapping[str, Sequence[Record]], pattern: Sequence[tuple[int, int]]) -> list[Record]:
    """The records of several calls mixed: so many of this call, so many of that one, over and over."""
    left = [list(line) for line in lines.values()]
    mixed: list[Record] = []
    for which, run in cycle(pattern):
        if not any(left[which % len(left)] for which, _ in pattern):
            break
        line = left[which % len(left)]
        mixed += line[:run]
        del line[:run]
    return mixed + [record for line in left for record in line]


PATTERNS: st.SearchStrategy[list[Any]] = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=12)
"""Of `interleaved`."""
