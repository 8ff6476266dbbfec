"""The stage metrics: when it tells what, and that it goes on after a restart as though nothing had been."""

from collections.abc import Sequence

import pytest

from processors.base import IDLE, Output, Record
from processors.metrics import EVERY_MS, Config, build
from processors.utterances import FORGOTTEN_MS
from schemas.events import CallEnded, CallEvent, CallInfo, CallMetrics, CallStarted, Correction, Mark, Score, decode
from tests.unit.stage_records import STARTED_AT
from tests.unit.test_conversation import MONO, STEREO, day_long, end, heard, said, until


def told(*events: CallEvent, config: Config | None = None, restart: bool = True) -> list[CallEvent]:
    """What the stage writes; it is restored from its snapshot after each record."""
    stage, written, snapshot = build(config or Config(), "v1"), list[CallEvent](), b""
    state = stage.open("call-1")
    for event in events:
        output = Output.of(event)
        record = Record("call-1", event.kind, dict(output.headers), output.value, 0)
        if restart and snapshot:
            state = stage.restore("call-1", snapshot)
        (step,) = stage.process([(state, record)])
        assert step.snapshot is not None
        snapshot = step.snapshot
        written += [decode(dict(one.headers), one.value) for one in step.outputs]
    assert not isinstance(events[-1], CallEnded) or snapshot == b""
    return written


def metrics(written: Sequence[CallEvent]) -> list[CallMetrics]:
    return [event for event in written if isinstance(event, CallMetrics)]


def test_dead_air_is_told_each_second_and_a_call_once_more_at_its_end() -> None:
    events = [CallStarted(call=STEREO), *(until(at_ms) for at_ms in range(0, 5_400, 100)), said(0, 5_300, 7_000)]
    ended = end(7_500)
    written = told(*events, ended)
    assert written[0] == events[0]
    assert written[-1] == ended
    updates = metrics(written)
    assert [(one.at_ms, one.final) for one in updates] == [
        (5_000, False),
        (7_000, False),
        (7_500, True),
    ]
    assert [event.kind for event in written] == ["call_started", *["metrics"] * 3, "call_ended"]
    assert (updates[0].silences, updates[0].silence_now_ms, updates[0].unheard) == (1, 5_000, ("agent", "customer"))
    last = updates[-1]
    assert (last.silences, last.silence_ms, last.longest_silence_ms) == (1, 5_300, 5_300)
    assert (last.talk_ms, last.unheard, last.partial, last.pipeline_version) == (1_700, ("customer",), False, "v1")


def test_what_is_heard_is_told_once_a_second_at_most_and_not_forgotten() -> None:
    spoken = [said(number % 2, at_ms, at_ms + 300) for number, at_ms in enumerate(range(700, 3_500, 300))]
    written = metrics(told(CallStarted(call=STEREO), *spoken, *(until(at_ms) for at_ms in range(3_700, 7_000, 100))))
    assert [one.at_ms for one in written] == [1_000, 2_200, 3_400, 4_400]
    assert [sum(party.utterances for party in one.parties) for one in written] == [1, 5, 9, 10]
    seconds = [CallStarted(call=STEREO), *(until(at_ms) for at_ms in range(0, 8_000, 100))]
    assert [one.at_ms for one in metrics(told(*seconds))] == [5_000, 5_000 + EVERY_MS, 5_000 + 2 * EVERY_MS]


def test_whatever_is_read_again_is_told_again_the_same() -> None:
    events = [CallStarted(call=STEREO), *day_long()[:120], end(600_000)]
    assert told(*events) == told(*events, restart=False)


def test_an_empty_call_has_a_final_record() -> None:
    (only,) = metrics(told(CallStarted(call=STEREO), end(0)))
    assert (only.final, only.parties, only.at_ms, only.score, only.change) == (True, (), 0, None, None)
    assert (only.silences, only.dead_air, only.interruptions, only.hold_ms) == (0, (), (), None)


def test_a_mono_call_has_no_interruptions_rather_than_none() -> None:
    (last,) = metrics(told(CallStarted(call=MONO), said(0, 0, 500, of=MONO, speaker="speaker-1"), end(900, MONO)))
    assert (last.interruptions, last.parties[0].interruptions, last.parties[0].overtalk_ms) == (None, None, None)


def test_a_correction_holds_for_the_next_record() -> None:
    correction = Correction(call=MONO, speaker="speaker-1", role="agent", role_confidence=0.9)
    before, after = metrics(
        told(CallStarted(call=MONO), said(0, 0, 2_000, of=MONO, speaker="speaker-1"), correction, until(3_000, MONO))
    )
    assert [one.parties[0].role for one in (before, after)] == ["unknown", "agent"]


def test_a_call_whose_beginning_was_not_heard_says_so() -> None:
    (first, last) = metrics(told(said(1, 100_000, 101_000), end(110_000)))
    assert first.partial
    assert last.partial


@pytest.mark.parametrize(
    ("marks", "hold_ms", "holds"),
    [
        ([], None, []),
        ([(1_000, ""), (2_000, "transfer"), (3_000, "unhold")], None, []),
        ([(1_000, "Hold"), (4_000, "unhold")], 3_000, [(1_000, 4_000)]),
        (
            [(9_000, "resume"), (7_000, "on_hold"), (1_000, "hold"), (1_500, "hold"), (2_000, "hold_end")],
            3_000,
            [(1_000, 2_000), (7_000, 9_000)],
        ),
        ([(8_000, "hold_start")], 2_000, [(8_000, 10_000)]),
    ],
)
def test_holds_that_were_marked(
    marks: list[tuple[int, str]], hold_ms: int | None, holds: list[tuple[int, int]]
) -> None:
    ended = end(10_000).model_copy(update={"marks": tuple(Mark(at_ms=at_ms, name=name) for at_ms, name in marks)})
    (last,) = metrics(told(CallStarted(call=STEREO), ended))
    assert last.hold_ms == hold_ms
    assert [(one.start_ms, one.end_ms) for one in last.holds] == holds


def test_names_of_marks_are_a_setting() -> None:
    ended = end(10_000).model_copy(
        update={"marks": (Mark(at_ms=1_000, name="musik"), Mark(at_ms=4_000, name="weiter"))}
    )
    config = Config(hold=("musik",), unhold=("weiter",))
    (last,) = metrics(told(CallStarted(call=STEREO), ended, config=config))
    assert last.hold_ms == 3_000


def test_a_forgotten_call_leaves_nothing() -> None:
    stage = build(Config(), "v1")
    assert stage.idle_timeout_ms == FORGOTTEN_MS
    (step,) = stage.process([(stage.open("call-1"), Record("call-1", IDLE, {}, b"", 0))])
    assert (step.outputs, step.snapshot) == ([], b"")


def test_the_record_of_four_hours_is_small() -> None:
    stage, ended = build(Config(), "v1"), Output.of(end(4 * 3_600_000))
    snapshot = f"0 0 {heard(CallStarted(call=STEREO), *day_long()).dump()}".encode()
    assert len(snapshot) < 20_000
    record = Record("call-1", "call_ended", dict(ended.headers), ended.value, 0)
    (step,) = stage.process([(stage.restore("call-1", snapshot), record)])
    assert len(step.outputs[0].value) < 10_000


def test_a_call_with_three_parties() -> None:
    three = CallInfo(call_id="call-1", started_at=STARTED_AT, roles=("agent", "customer", "customer"))
    spoken: list[Score] = [
        said(0, 0, 1_000, of=three),
        said(1, 1_200, 2_000, of=three, speaker="customer-1"),
        said(2, 1_500, 3_000, of=three, speaker="customer-2"),
    ]
    (*_, last) = metrics(told(CallStarted(call=three), *spoken, end(3_000, three)))
    assert [(one.speaker, one.turns, one.interruptions) for one in last.parties] == [
        ("agent", 1, 0),
        ("customer-1", 1, 0),
        ("customer-2", 1, 1),
    ]
