"""Which stages a replay runs, and where what comes out of it is to be seen."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.errors import CalltideError
from schemas.topics import CHAIN, STAGES
from streams.replay.plan import ALL, NICE, SPEED, Plan, Source, between

WHOLE = [row.name for row in CHAIN]


def plan(from_stage: str, to_stage: str, **more: Any) -> Plan:
    made: dict[str, Any] = {
        "name": "again", "version": "v2", "from_stage": from_stage, "to_stage": to_stage, "overrides": {},
        "speed": None, "workers": None, "keep": False, "created_at": datetime.now(UTC), "partitions": 2, "calls": (),
        "archived": {}, "sources": {},
    }  # fmt: skip
    return Plan.model_validate(made | more)


def sources(*topics: str) -> dict[str, Any]:
    return {"sources": {topic: {0: Source(0, 1, 1)} for topic in topics}}


@pytest.mark.parametrize(
    ("first", "last", "names"),
    [
        ("vad", "sentiment", WHOLE),
        ("asr", "emotion", ["asr", "emotion"]),
        ("sentiment", ALL, ["sentiment", "metrics", "rules", "insights"]),
        ("emotion", "rules", ["emotion", "sentiment", "rules"]),
        ("rules", ALL, ["rules"]),
        ("insights", "insights", ["insights"]),
    ],
)
def test_the_stages_from_one_to_another(first: str, last: str, names: list[str]) -> None:
    assert [row.name for row in between(first, last)] == names


@pytest.mark.parametrize(
    ("first", "last", "word"),
    [
        ("ears", ALL, "no stage ears"),
        ("vad", "ears", "no stage ears"),
        (ALL, ALL, "no stage all"),
        ("asr", "vad", "comes before"),
        ("rules", "metrics", "both read scores"),
        ("rules", "sentiment", "both read scores"),
    ],
)
def test_what_cannot_be_is_said(first: str, last: str, word: str) -> None:
    with pytest.raises(CalltideError, match=word):
        between(first, last)


def test_both_lanes_end_in_scores_and_in_all_that_is_made_of_them() -> None:
    both = plan("vad", ALL, **sources("audio.frames", "batch.audio.frames"))
    assert both.scores == "replay.again.scores"
    made = {f"replay.again.{row.writes}" for row in STAGES if row not in CHAIN}
    assert both.outputs[0] == both.scores and set(both.outputs) == {both.scores, *made}
    assert both.ends == {(topic, lane) for topic in both.outputs for lane in ("live", "batch")}
    assert [row.name for row in both.firsts] == ["vad", "vad"]


def test_rules_alone_make_no_scores_though_they_read_some() -> None:
    rules = plan("rules", ALL, **sources("scores"))
    assert (rules.scores, rules.outputs) == ("", ("replay.again.alerts",))
    assert rules.ends == {("replay.again.alerts", "live")}


def test_a_part_of_the_chain_ends_where_it_ends() -> None:
    part = plan("vad", "diarization", **sources("batch.audio.frames"))
    assert (part.scores, part.outputs) == ("", ("replay.again.batch.speech.turns",))
    assert part.ends == {("replay.again.batch.speech.turns", "batch")}


def test_a_dry_run_knows_the_speed_of_every_stage() -> None:
    assert set(SPEED) == {row.name for row in STAGES}


def test_its_workers_make_way_as_far_as_it_says() -> None:
    assert plan("asr", ALL).nice == NICE
    code = "import os; from streams.replay.run import give_way; give_way(10); print(os.nice(0))"
    # In a session of its own, as workers are: that of the tests stays as it is.
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, start_new_session=True
    )
    assert int(done.stdout) == min(os.nice(0) + 10, NICE)
