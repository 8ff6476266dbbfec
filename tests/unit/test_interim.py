"""How often open segments are sent, which revisions are transcribed, and which of their words are stable."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.base import Record, Unfinished
from schemas.events import Interim
from streams.interim import OLD_S, TOGETHER, WINDOW, Newest, Pace, Waiting
from tests.unit.stage_records import STARTED_AT, call, interim

EVERY_MS = 300
NOW = STARTED_AT.timestamp()


def growing(end_ms: int, start_ms: int = 0, heard_ms: int | None = None, call_id: str = "a") -> Unfinished:
    heard_ms = end_ms if heard_ms is None else heard_ms
    return Unfinished(call(call_id=call_id), 0, start_ms, end_ms, heard_ms, captured_ms=heard_ms)


def answer(one: Unfinished) -> Interim:
    return interim(one.call, one.start_ms, one.end_ms - one.start_ms)


def sent(pace: Pace, until_ms: int, answered_after_ms: int | None) -> list[int]:
    """When a segment of one channel that grows in real time is sent, ms; each revision is answered so much later."""
    due: list[int] = []
    waiting: list[tuple[int, Unfinished]] = []
    for now_ms in range(100, until_ms, 100):
        while waiting and waiting[0][0] <= now_ms:
            pace.answered(answer(waiting.pop(0)[1]), now_ms / 1_000)
        one = growing(now_ms)
        if pace.due(one, now_ms / 1_000):
            due.append(now_ms)
            if answered_after_ms is not None:
                waiting.append((now_ms + answered_after_ms, one))
    return due


def test_a_segment_is_sent_at_once_and_then_every_so_often() -> None:
    assert sent(Pace(EVERY_MS), 2_000, 200) == [100, 400, 700, 1_000, 1_300, 1_600, 1_900]


def test_answers_may_take_as_long_as_a_revision_is_of_use() -> None:
    assert sent(Pace(EVERY_MS), 2_000, 800) == [100, 400, 700, 1_000, 1_300, 1_600, 1_900]


def test_without_answers_next_to_nothing_is_sent() -> None:
    due = sent(Pace(EVERY_MS), 60_000, None)
    assert due == pytest.approx([100, 400, 700, 1_300, 2_500, 4_900, 9_700, 19_300, 38_500], abs=500)


def test_an_answer_brings_it_back() -> None:
    pace = Pace(EVERY_MS)
    sent(pace, 20_000, None)
    assert not pace.due(growing(20_000), 20.0)
    pace.answered(answer(growing(19_300)), 20.0)
    assert pace.due(growing(20_100), 20.1)


def test_a_new_call_is_sent_whatever_became_of_others() -> None:
    pace = Pace(EVERY_MS)
    sent(pace, 20_000, None)
    assert pace.due(growing(100, call_id="b"), 20.0)


def test_what_does_not_grow_is_not_sent_and_a_pause_is_told_once() -> None:
    pace = Pace(EVERY_MS)
    assert pace.due(growing(1_000), 1.0)
    assert not pace.due(growing(1_099, heard_ms=1_600), 1.6)
    assert not pace.due(growing(1_200, heard_ms=1_299), 1.3)
    assert pace.due(growing(1_200, heard_ms=1_300), 1.3)
    assert not pace.due(growing(1_200, heard_ms=1_700), 1.7)


def test_a_new_segment_is_sent_at_once() -> None:
    pace = Pace(EVERY_MS)
    assert pace.due(growing(1_000), 1.0)
    assert pace.due(growing(1_200, start_ms=1_050), 1.2)


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=60))
def test_nothing_is_sent_in_vain_but_a_window(steps: list[tuple[int, bool]]) -> None:
    pace, now_ms, unanswered, silent_since_ms = Pace(EVERY_MS), 0, 0, 0
    latest: Unfinished | None = None
    for packets, is_answered in steps:
        for _ in range(packets):
            now_ms += 100
            if pace.due(growing(now_ms), now_ms / 1_000):
                latest, unanswered = growing(now_ms), unanswered + 1
        if is_answered and latest is not None:
            pace.answered(answer(latest), now_ms / 1_000)
            unanswered, silent_since_ms = 0, now_ms
        in_vain = max(unanswered - WINDOW, 0)
        assert 2**in_vain * EVERY_MS <= now_ms - silent_since_ms + EVERY_MS or not in_vain


# Which are transcribed


def waiting(length_ms: int, start_ms: int = 0, age_s: float = 0.1, **fields: Any) -> Waiting:
    event = interim(call(**fields), start_ms, length_ms)
    event = event.model_copy(update={"captured_at": STARTED_AT - timedelta(seconds=age_s)})
    return Waiting(event, 0, Record(event.call.call_id, "interim", {}, b"", 0))


def test_only_the_newest_revision_of_a_segment_is_taken() -> None:
    newest = Newest()
    old, new = waiting(500), waiting(800)
    for one in (old, new):
        newest.add(one, NOW)
    assert newest.take(NOW) == [(None, new)]
    assert newest.take(NOW) == []
    assert newest.skipped == {"superseded": 1}


def test_what_is_too_old_is_skipped_and_counted() -> None:
    newest = Newest()
    newest.add(waiting(500, age_s=OLD_S + 0.1), NOW)
    assert newest.take(NOW) == []
    assert newest.skipped["old"] == 1


def test_what_was_finished_meanwhile_is_skipped_and_counted() -> None:
    newest = Newest()
    newest.finished(waiting(900, start_ms=1_000).event, NOW)
    newest.add(waiting(900, start_ms=1_000), NOW)
    assert newest.take(NOW) == []
    assert newest.skipped["finished"] == 1
    newest.add(waiting(900, start_ms=2_000), NOW)
    assert len(newest.take(NOW)) == 1


def test_each_comes_with_what_was_made_of_the_one_before_it() -> None:
    newest = Newest()
    newest.add(waiting(500), NOW)
    newest.take(NOW)
    words = interim(call(), 0, 500, "well then")
    assert newest.revised(words, NOW)
    newest.add(waiting(800), NOW)
    assert [before for before, _ in newest.take(NOW)] == [words]


def test_what_was_finished_while_it_was_transcribed_is_of_no_use() -> None:
    newest = Newest()
    newest.add(waiting(500), NOW)
    ((_, one),) = newest.take(NOW)
    newest.finished(one.event, NOW)
    assert not newest.revised(one.event, NOW)


def test_who_has_waited_longest_comes_first() -> None:
    newest = Newest()
    names = [f"call-{number}" for number in range(TOGETHER + 2)]
    served: list[str] = []
    for turn in range(3):
        for name in names:
            newest.add(waiting(500 + turn, call_id=name), NOW + turn / 10)
        served += [one.record.call_id for _, one in newest.take(NOW + turn / 10)]
    assert sorted(served[: len(names)]) == names, "each once before any of them twice"


def test_a_channel_that_is_silent_for_long_is_forgotten() -> None:
    newest = Newest()
    newest.finished(waiting(900).event, NOW)
    newest.forget(NOW + 3_600)
    newest.add(replace(waiting(900)), NOW)
    assert len(newest.take(NOW)) == 1
