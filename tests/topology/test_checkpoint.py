"""The checkpoint protocol in memory: whatever the batches, aborts and crashes, the log ends up the same."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from processors.base import IDLE, NO_MORE, Output, Record, Step
from schemas.topics import stage
from streams.memory import Worker
from tests.topology import disturbed
from tests.topology.disturbed import ACCIDENTS, Accident, assert_same, by_call, disturb, drained

ROW = stage("vad")


class Pairs:
    """Emits each pair of values of a call joined, and cuts only where a pair is complete and its second value is even.

    So outputs come between cuts, as they do when both parties of a call speak at once.
    """

    idle_timeout_ms: int | None = 1_000

    def open(self, call_id: str) -> dict[str, Any]:
        return {"held": b"", "pairs": 0}

    def restore(self, call_id: str, snapshot: bytes) -> dict[str, Any]:
        return {"held": b"", "pairs": int(snapshot)}

    def process(self, batch: Sequence[tuple[dict[str, Any], Record]]) -> list[Step]:
        return [self._one(state, record) for state, record in batch]

    def _one(self, state: dict[str, Any], record: Record) -> Step:
        if record.value == b"poison":
            state["held"] = b"half changed"
            raise ValueError("poison")
        if record.kind in ("call_ended", IDLE):
            text = b"%d:%s:%s" % (state["pairs"], state["held"], record.kind.encode())
            return Step([Output([("kind", b"end")], text)], b"")
        held = state["held"]
        if not held:
            state["held"] = record.value
            return Step([], None)
        state["held"] = b""
        state["pairs"] += 1
        outputs = [Output([("kind", b"pair")], b"%d:%s+%s" % (state["pairs"], held, record.value))]
        return Step(outputs, str(state["pairs"]).encode() if int(record.value) % 2 == 0 else None)


def audio(call: str, value: int | bytes, at_ms: int = 0) -> Record:
    return Record(call, "audio", {"kind": b"audio"}, value if isinstance(value, bytes) else b"%d" % value, at_ms)


def end(call: str, at_ms: int = 0) -> Record:
    return Record(call, "call_ended", {"kind": b"call_ended"}, b"", at_ms)


class Patient(Pairs):
    """No call is ever idle."""

    idle_timeout_ms = None


def worker(records: Sequence[Record], processor: Pairs | None = None) -> Worker:
    return disturbed.worker(ROW, processor or Pairs(), records)


@st.composite
def histories(draw: st.DrawFn) -> list[Record]:
    """Calls interleaved at random, with pauses that make some idle, clocks that go back, ends, and calls that come
    back after their end."""
    at_ms, records = 1_000_000, []  # clocks that go back do not come to 1970
    for call, value, pause_ms in draw(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.integers(-1, 9), st.sampled_from([0, 10, 400, 1_500, -300, -2_000])),
            max_size=60,
        )
    ):
        at_ms += pause_ms
        records.append(end(call, at_ms) if value < 0 else audio(call, value, at_ms))
    return records


@settings(max_examples=300, print_blob=True)
@given(records=histories(), accidents=ACCIDENTS)
def test_outputs_do_not_depend_on_batches_aborts_and_crashes(records: list[Record], accidents: list[Accident]) -> None:
    assert_same(drained(disturb(worker(records), accidents)), drained(worker(records)))


@settings(max_examples=150, print_blob=True)
@given(records=histories(), at=st.integers(0, 60), accidents=ACCIDENTS)
def test_a_poisoned_record_goes_to_the_dead_letters_once_and_its_call_goes_on(
    records: list[Record], at: int, accidents: list[Accident]
) -> None:
    at %= len(records) + 1
    at_ms = records[min(at, len(records) - 1)].timestamp_ms if records else 0
    poisoned = [*records[:at], audio("a", b"poison", at_ms), *records[at:]]
    running = drained(disturb(worker(poisoned), accidents))
    assert_same(running, drained(worker(poisoned)))
    (letter,) = running.dead_letters.records
    without = drained(worker(records, Patient()))
    assert by_call(drained(worker(poisoned, Patient())).target) == by_call(without.target)
    assert letter.value == b"poison"
    assert letter.headers["__connect.errors.exception.message"] == b"poison"
    assert letter.headers["__connect.errors.topic"] == ROW.reads.encode()
    assert letter.headers["kind"] == b"audio"


def test_the_committed_offset_is_the_oldest_record_no_snapshot_covers() -> None:
    running = worker([audio("a", 1), audio("b", 1), audio("b", 2), audio("a", 3)])
    running.turn(3)
    assert running.offset == 0, "call a is between cuts since record 0"
    running.turn()
    assert running.offset == 0, "1+3 is a pair but no cut"
    assert running.changelog["a"][0]["emitted"] == b"1", "so its output is counted in the changelog"
    assert running.changelog["b"] == ({"covered": b"2", "emitted": b"0", "timestamp": b"0"}, b"1")


def test_outputs_between_cuts_are_swallowed_after_a_crash() -> None:
    running = worker([audio("a", 1), audio("a", 3), audio("a", 5)])
    running.turn()
    assert [record.value for record in running.target.records] == [b"1:1+3"]
    running.crash()
    running.source.records += [audio("a", 6)]
    drained(running)
    assert [record.value for record in running.target.records] == [b"1:1+3", b"2:5+6"]


def test_an_ended_call_is_not_raised_from_the_dead_by_an_older_watermark() -> None:
    # Call b holds the watermark at its first record; a lives and ends behind it.
    running = worker([audio("b", 1), audio("a", 1), audio("a", 3), end("a")])
    running.turn()
    assert running.offset == 0
    running.crash()
    drained(running)
    assert [record.value for record in running.target.records if record.call_id == "a"] == [b"1:1+3", b"1::call_ended"]
    running.source.records += [end("b")]
    drained(running)
    assert running.changelog == {}, "what ended leaves nothing in the changelog once the watermark has passed it"


def test_a_silent_call_is_ended_by_the_time_of_the_others() -> None:
    running = drained(worker([audio("a", 1, 0), audio("b", 1, 900), audio("b", 3, 1_000)]))
    assert by_call(running.target)["a"] == [({"kind": b"end"}, b"0:1:idle", 1_000)]
    assert running.offset == 1, "only b holds the watermark"


def test_a_late_record_at_a_cut_does_not_bring_the_idle_end_forward_after_a_crash() -> None:
    running = worker([audio("a", 0, 10), audio("a", 0, -290)])
    running.turn()
    running.crash()
    running.source.records += [audio("b", 0, 1_210)]
    drained(running)
    assert by_call(running.target)["a"][-1][2] == 1_010


def test_a_record_of_before_a_snapshot_does_not_end_the_call_after_a_crash() -> None:
    # Call b holds the watermark with a clock that is ahead of a's.
    running = worker([audio("b", 1, 5_000), audio("a", 1), audio("a", 2), audio("a", 3)])
    running.turn(3)
    running.crash()
    running.turn(1)
    assert [record.value for record in running.target.records] == [b"1:1+2"]


def test_a_call_that_comes_back_after_its_end_is_opened_anew() -> None:
    running = drained(worker([audio("a", 1), audio("a", 2), end("a"), audio("a", 4), audio("a", 6)]))
    assert [record.value for record in running.target.records] == [b"1:1+2", b"1::call_ended", b"1:4+6"]


@settings(max_examples=100, print_blob=True)
@given(records=histories(), accidents=ACCIDENTS, careful=st.booleans())
def test_the_mark_behind_the_last_record_comes_out_behind_all_outputs(
    records: list[Record], accidents: list[Accident], careful: bool
) -> None:
    """So the end of a replay is known: who fell silent has ended by then, whatever broke down on the way."""
    later_ms = max((record.timestamp_ms for record in records), default=0) + 10_000
    mark = Record("", NO_MORE, {"kind": NO_MORE.encode()}, b"run/live", later_ms)
    running = disturb(worker([*records, mark]), accidents)
    while not running.at_end:
        running.turn(careful=careful)
    out = running.target.records
    last = max(at for at, record in enumerate(out) if record.kind != NO_MORE) if len(out) > 1 else -1
    marks = [at for at, record in enumerate(out) if record.kind == NO_MORE]
    assert marks, "it came out"
    assert min(marks) > last
    assert {out[at].value for at in marks} == {b"run/live"}
    # A record of another call lets the time pass, too.
    other = drained(worker([*records, audio("other", 1, later_ms)]))
    found, expected = (sorted(r.call_id for r in log if r.kind == "end") for log in (out, other.target.records))
    assert found == expected
