"""Cursors, subscriptions, the calls running now and a slow client's backlog: the gateway's core without sockets."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import CalltideError
from schemas.events import (
    Alert,
    CallEnded,
    CallEvent,
    CallInfo,
    CallStarted,
    Correction,
    Insights,
    Progress,
    RunningScore,
    Score,
    encode,
)
from streams.subscriptions import (
    ENDED_SECONDS,
    FORGET_SECONDS,
    HISTORY_UTTERANCES,
    MOST_VALUES,
    Backlog,
    Cursor,
    Findings,
    Record,
    RunningCalls,
    Subscription,
    event_message,
    notice,
    subject,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)


def info(call_id: str = "c1", **more: str) -> CallInfo:
    return CallInfo(call_id=call_id, started_at=NOW, roles=("agent", "customer"), **more)


def started(call_id: str = "c1", **more: str) -> CallStarted:
    return CallStarted(call=info(call_id, **more))


def score(call_id: str = "c1", start_ms: int = 0, text: str = "hello") -> Score:
    return Score(
        call=info(call_id),
        channel=1,
        start_ms=start_ms,
        end_ms=start_ms + 900,
        cut="pause",
        codec="mulaw",
        rate=8000,
        captured_at=NOW,
        speaker="customer",
        role="customer",
        speaker_confidence=1.0,
        text=text,
        language="en",
        asr_confidence=0.9,
        asr_model="tiny.en",
        running=RunningScore(score=0.0, party_score=0.0, utterances=1),
        pipeline_version="v1",
    )


def ended(call_id: str = "c1") -> CallEnded:
    return CallEnded(call=info(call_id), duration_ms=1000, ended_at=NOW, reason="hangup")


def corrected(speaker: str, call_id: str = "c1", **found: Any) -> Correction:
    return Correction(call=info(call_id), speaker=speaker, **found)


def record(event: CallEvent, partition: int = 0, offset: int = 0) -> Record:
    return Record(partition, offset, event, encode(event)[1].decode())


topics = st.sampled_from(["scores", "scores-2", "a.b-3-4", "x"])
positions = st.dictionaries(st.integers(0, 200), st.integers(1, 2**62), min_size=1, max_size=20)


@given(topics, positions, st.data())
def test_a_cursor_reads_back_as_it_was_written(topic: str, at: dict[int, int], data: st.DataObject) -> None:
    own = data.draw(st.none() | st.sampled_from(sorted(at)))
    cursor = Cursor(topic, at, own)
    assert Cursor.parse(str(cursor), topic) == cursor


@given(st.text(max_size=60) | st.from_regex(r"scores[-~:,0-9]*", fullmatch=True))
def test_any_text_is_a_cursor_or_refused_in_one_line(text: str) -> None:
    try:
        cursor = Cursor.parse(text, "scores")
    except CalltideError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert cursor.positions
        assert str(cursor) == text or len(cursor.positions) > 1  # partitions may be named in another order


def test_what_a_cursor_looks_like() -> None:
    assert str(Cursor("scores", {0: 17, 3: 121, 1: 44}, own=3)) == "scores-3-120~0:17,1:44"
    assert str(Cursor("scores", {0: 17, 1: 44})) == "scores~0:17,1:44"
    assert str(Cursor("scores", {3: 121}, own=3, whole=False)) == "scores-3-120"
    assert Cursor.parse("scores-0-5~", "scores").whole, "one partition in all: nothing follows the ~"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "scores",
            "scores~",
            "scores-3",
            "scores-3-x",
            "scores-3-120~0",
            "scores-03-1",
            "scores--1-1",
            "other-3-1",
        ),
        *(
            "scores-3-120~3:5",
            "scores~0:1,0:2",
            "scores-3-120~0:1,",
            "-3-120",
            "scores-3-٣",
            "scores-3-1 ",
            "scores3-1",
        ),
    ],
)
def test_malformed_cursors_are_refused(text: str) -> None:
    with pytest.raises(CalltideError):
        Cursor.parse(text, "scores")


def subscription(**fields: list[str]) -> Subscription:
    return Subscription.parse({name.rstrip("_"): values for name, values in fields.items()}, "scores", 8)


def test_fields_restrict_any_within_all_across() -> None:
    wanted = subscription(queue=["billing", "sales"], tenant=["t1"])
    assert wanted.wants(started(queue="sales", tenant="t1"))
    assert not wanted.wants(started(queue="sales", tenant="t2"))
    assert not wanted.wants(started(queue="support", tenant="t1"))
    assert subscription(queue=[""]).wants(started()), "an empty value asks for calls without a queue"


def test_severity_is_of_alerts_alone_and_values_are_not_without_end() -> None:
    of_rule = {"rule": "angry", "category": "angry", "message": "", "rules_version": "1", "pipeline_version": "v1"}
    alerts = [
        Alert.model_validate(of_rule | {"call": info(), "at_ms": 0, "raised_at": NOW, "severity": severity})
        for severity in ("info", "warning", "critical")
    ]
    wanted = subscription(kinds=["alert,score"], severity=["warning", "critical"])
    assert [wanted.wants(event) for event in (*alerts, score())] == [False, True, True, True]
    assert wanted.describe()["severity"] == ["critical", "warning"]
    subscription(call=[str(at) for at in range(MOST_VALUES)])
    with pytest.raises(CalltideError, match="more than 1000 values"):
        subscription(call=[str(at) for at in range(MOST_VALUES)], queue=["billing"])


def test_kinds_default_to_all_but_progress_and_interim_results() -> None:
    progress = Progress(call=info(), at_ms=1000)
    events = (started(), score(), corrected("speaker-2"), ended(), progress)
    assert [subscription().wants(event) for event in events] == [True, True, True, True, False]
    assert [subscription(kinds=["progress,score"]).wants(event) for event in (started(), score(), progress)] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"calls": ["c1"]}, "call, queue, agent, tenant, kinds, severity, from, history"),
        ({"severity": ["bad"]}, "info, warning, critical"),
        ({"kinds": ["scores"]}, "score, correction, call_started, call_ended, progress"),
        ({"history": ["all"]}, "live"),
        ({"from_": ["scores~0:1"], "history": ["live"]}, "not several"),
        ({"from_": ["scores-3-120"]}, "call=<id>"),
        ({"from_": ["scores-3-120"], "call": ["a", "b"]}, "call=<id>"),
        ({"from_": ["scores-8-120"], "call": ["a"]}, "0 to 7"),
        ({"from_": ["scores~0:1,99:5"]}, "0 to 7"),
    ],
)
def test_what_cannot_be_subscribed_is_said(fields: dict[str, list[str]], word: str) -> None:
    with pytest.raises(CalltideError, match=word):
        subscription(**fields)


def test_where_a_subscription_starts() -> None:
    bare = subscription(call=["c1"], from_=["scores-3-120"]).start
    assert bare
    assert dict(bare.positions) == {3: 121}
    older = subscription(from_=["scores-0-4~1:7"]).start
    assert older, "partitions 2 to 7 were added since"
    assert dict(older.positions) == {0: 5, 1: 7, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0}


def test_a_message_carries_the_event_as_it_lies_in_the_topic() -> None:
    told = record(score(text='"quoted" <b>é</b>\u2028'), partition=3, offset=120)
    message = json.loads(event_message(told, "scores-3-120~0:17", NOW))
    assert message == {
        "type": "score",
        "cursor": "scores-3-120~0:17",
        "pushed_at": "2026-03-01T12:00:00.123Z",
        "event": json.loads(told.body),
    }
    assert json.loads(event_message(told, "c", NOW, history=True))["history"] is True
    assert told.body in event_message(told, "c", NOW)


def test_running_calls_are_told_in_the_order_they_came() -> None:
    calls = RunningCalls()
    came = [
        started("a"),
        started("b"),
        score("a", 0),
        score("b", 10),
        score("a", 20),
        Progress(call=info("b"), at_ms=1),
    ]
    for offset, event in enumerate(came):
        calls.add(record(event, offset=offset), f"cursor {offset}", now=0.0)
    assert [(kept.offset, cursor) for kept, cursor in calls.events(Subscription())] == [
        (offset, f"cursor {offset}") for offset in range(5)
    ]
    assert [kept.offset for kept, _ in calls.events(Subscription(call=frozenset("b")))] == [1, 3]
    calls.add(record(ended("a"), offset=6), "cursor 6", now=0.0)
    assert [kept.offset for kept, _ in calls.events(Subscription())] == [1, 3]


def test_running_calls_stay_bounded() -> None:
    calls = RunningCalls()
    for start_ms in range(HISTORY_UTTERANCES + 10):
        calls.add(record(score("long", start_ms)), "cursor", now=0.0)
    assert len(calls.events(Subscription())) == HISTORY_UTTERANCES
    calls.add(record(started("new")), "cursor", now=FORGET_SECONDS + 1)
    assert [kept.event.call.call_id for kept, _ in calls.events(Subscription())] == ["new"], "its end was lost"


def found(call_id: str = "c1", at_ms: int = 0, engine: str = "", state: str = "ok") -> Alert | Insights:
    of_call: dict[str, Any] = {"call": info(call_id), "pipeline_version": "v1"}
    if engine:
        return Insights(**of_call, engine=engine, state=state, ended_at=NOW, duration_ms=1)
    of_rule = {"rule": "angry", "category": "angry", "severity": "info", "message": "", "rules_version": "1"}
    return Alert.model_validate(of_call | of_rule | {"at_ms": at_ms, "raised_at": NOW})


def test_findings_are_told_of_running_calls_and_do_not_gather() -> None:
    calls, findings = RunningCalls(), Findings()
    calls.add(record(started("runs")), "cursor", now=0.0)
    wanted = Subscription(kinds=frozenset({"alert"}))
    for offset, event in enumerate([found("runs", 1), found("over"), found("runs", 2), found("runs", 1)]):
        findings.add(record(event, offset=offset), calls, now=0.0)
    assert [kept.offset for kept in findings.events(wanted, calls)] == [2, 3], "the same again replaces itself"
    for number in range(1_000):
        findings.add(record(found(f"over-{number}")), calls, now=float(number))
    assert [kept.offset for kept in findings.events(wanted, calls)] == [2, 3]
    assert len(findings) <= ENDED_SECONDS + 2


def test_insights_of_one_engine_do_not_replace_those_of_another() -> None:
    quotes, failed = found(engine="extractive"), found(engine="llm:some", state="failed")
    assert subject(quotes) != subject(failed)


def test_running_calls_keep_what_became_known_of_each_speaker() -> None:
    """However long ago: a merge is told with the utterances that it is of. Of what is found anew the newest."""
    calls = RunningCalls()
    merged, agent = corrected("speaker-2", same_as="speaker-1"), corrected("speaker-1", role="agent")
    newer = corrected("speaker-1", role="customer")
    more = [score("c1", start_ms) for start_ms in range(2 * HISTORY_UTTERANCES)]
    for offset, event in enumerate([score(start_ms=9_000), merged, agent, *more, newer]):
        calls.add(record(event, offset=offset), f"cursor {offset}", now=0.0)
    told = calls.events(Subscription())
    assert [kept.event for kept, _ in told] == [merged, *more[-HISTORY_UTTERANCES:], newer]
    assert [cursor for _, cursor in told] == [f"cursor {kept.offset}" for kept, _ in told]
    assert not calls.events(Subscription(kinds=frozenset({"progress"})))


def drain(backlog: Backlog) -> list[dict[str, Any]]:
    return [json.loads(text) for text in backlog]


def message(number: int) -> str:
    return notice("score", Cursor("scores", {0: number}), number=number)


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=40))
def test_a_closing_backlog_gives_all_in_order_until_it_refuses(limit: int, puts: list[bool]) -> None:
    backlog = Backlog(limit, conflate=False)
    put, taken = 0, 0
    for number, is_put in enumerate(puts):
        if is_put:
            if not backlog.put(message(number), ("c", "score")):
                assert put - taken == limit
                return
            put += 1
        elif len(backlog):
            next(iter(backlog))
            taken += 1


@given(st.integers(1, 6), st.lists(st.integers(0, 3) | st.none(), max_size=60))
def test_a_conflating_backlog_keeps_the_newest_of_each_call_and_counts_the_rest(
    limit: int, steps: list[int | None]
) -> None:
    """Steps: a call's number puts a message of it, None takes one."""
    backlog = Backlog(limit, conflate=True)
    put: list[tuple[int, int]] = []
    got: list[dict[str, Any]] = []
    for number, call in enumerate(steps):
        if call is None:
            text = next(iter(backlog), None)
            if text:
                got.append(json.loads(text))
        elif backlog.put(message(number), (f"call {call}", "score")):
            put.append((number, call))
        else:
            assert len({call for _, call in put}) >= limit, "refused only if not even one of each call has room"
            return
        assert len(backlog) <= limit
    got += drain(backlog)
    numbers = [told["number"] for told in got]
    assert numbers == sorted(numbers)
    assert sum(told.get("skipped", 0) for told in got) == len(put) - len(got), "what was skipped is told"
    newest = {call: number for number, call in put}
    assert set(newest.values()) <= set(numbers), "the newest of each call is never skipped"


def test_a_correction_is_conflated_with_a_newer_one_of_the_same_only() -> None:
    backlog = Backlog(4, conflate=True)
    events = [
        *(corrected("speaker-2", same_as="speaker-1"), corrected("speaker-3", same_as="speaker-1")),
        *(corrected("speaker-1", role="agent"), score(), score(start_ms=900), corrected("speaker-1", role="customer")),
    ]
    for number, event in enumerate(events):
        assert backlog.put(message(number), subject(event))
    assert [told["number"] for told in drain(backlog)] == [0, 1, 4, 5]


def test_the_gateways_own_messages_are_not_conflated() -> None:
    backlog = Backlog(3, conflate=True)
    assert backlog.put(notice("status", Cursor("scores", {0: 1}), kafka="unreachable"))
    assert all(backlog.put(message(number), ("c", "score")) for number in range(10))
    told = drain(backlog)
    assert [(one["type"], one.get("number"), one.get("skipped")) for one in told] == [
        ("status", None, None),
        ("score", 9, 9),
    ]
