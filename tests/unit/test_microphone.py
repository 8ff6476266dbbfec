"""The microphone of a browser."""

import json
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import CallEnded, Progress, RunningScore, Score
from streams.protocols.base import Audio, Began, Ended, Event, Fault
from streams.protocols.microphone import Microphone, options
from tests.unit.stage_records import STARTED_AT, call, interim, utterance

STOP = '{"type": "stop"}'


def microphone(**asked: str) -> Microphone:
    return Microphone(options(urlencode(asked)), "call-1")


def answers(decoder: Microphone) -> list[dict[str, Any]]:
    messages = [json.loads(text) for text in decoder.outbox]
    decoder.outbox.clear()
    return messages


def test_a_recording_from_its_first_sample_to_its_end() -> None:
    decoder = microphone(save="1", roles="agent", queue="sales", agent="diane")
    assert decoder.options.save
    began = Began("call-1", ("agent",), "pcm_s16le", 16_000, queue="sales", agent="diane", interim=True)
    assert list(decoder.receive(b"\1\2\3")) == [began, Audio(0, b"\1\2")]
    assert list(decoder.receive(b"\4")) == [Audio(0, b"\3\4")]
    assert answers(decoder) == [{"type": "started", "call": "call-1"}]
    assert decoder.receive(STOP) == (Ended(),) and decoder.receive(STOP) == ()
    assert decoder.receive(b"late") == ()

    score = utterance(
        Score, call(("agent",)), running=RunningScore(score=0, party_score=0, utterances=1), pipeline_version="v1"
    )
    ended = CallEnded(call=call(("agent",)), duration_ms=2_000, ended_at=STARTED_AT, reason="hangup")
    for event in (score, Progress(call=score.call, at_ms=1_500), ended, score):
        decoder.heard(event)
    said = answers(decoder)
    assert [message["type"] for message in said] == ["score", "call_ended"] and decoder.finished
    assert said[1]["late_bytes"] == 4
    assert Score.model_validate(said[0]["event"]) == score


def test_the_words_so_far_come_until_they_are_finished_or_come_to_nothing() -> None:
    decoder = microphone()
    info = call(("unknown",))
    finished = utterance(
        Score, info, 500, running=RunningScore(score=0, party_score=0, utterances=1), pipeline_version="v1"
    )
    for event in (
        *(interim(info, 500, 600, "Well"), interim(info, 500, 900, "Well then", stable=1)),
        *(interim(info, 500, 600, "Well"), finished, interim(info, 500, 1_000, "Well then")),
        *(interim(info, 2_000, 300, "Ta"), Progress(call=info, at_ms=1_800), Progress(call=info, at_ms=3_000)),
    ):
        decoder.heard(event)
    said = answers(decoder)
    assert [(message["type"], message["event"]["text"]) for message in said] == [
        *(("interim", "Well"), ("interim", "Well then"), ("score", finished.text)),
        *(("interim", "Ta"), ("interim", "")),
    ]
    assert [word["stable"] for word in said[1]["event"]["words"]] == [True, False]


@settings(deadline=None)
@given(st.binary(max_size=100), st.lists(st.integers(0, 100)))
def test_messages_may_end_anywhere_in_a_sample(data: bytes, cuts: list[int]) -> None:
    decoder = microphone()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    events = [event for a, b in pairwise(places) for event in decoder.receive(data[a:b])]
    assert b"".join(event.samples for event in events if isinstance(event, Audio)) == data[: len(data) // 2 * 2]
    assert [isinstance(event, Began) for event in events].count(True) == (len(data) > 1)


def test_a_browser_that_cannot_convert_sends_at_its_own_rate() -> None:
    began, _audio = microphone(rate="44100", call="mine").receive(b"\0\0")
    assert isinstance(began, Began) and (began.rate, began.call_id) == (44_100, "mine")


def test_nothing_said_leaves_no_call() -> None:
    decoder = microphone()
    assert decoder.receive(b"") == () and decoder.receive(STOP) == () and decoder.finished and not decoder.outbox


def test_a_lost_connection_ends_a_call_that_nobody_can_continue() -> None:
    decoder, named, silent = microphone(), microphone(call="mine"), microphone()
    decoder.receive(b"\0\0")
    named.receive(b"\0\0")
    assert [type(event) for event in decoder.lost()] == [Ended]
    assert decoder.lost() == () and named.lost() == () and silent.lost() == ()


@pytest.mark.parametrize("asked", [{"rate": "7999"}, {"save": "maybe"}, {"roles": "a"}, {"encoding": "opus"}])
def test_what_cannot_be_granted_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(Fault, match=next(iter(asked))):
        options(urlencode(asked))


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=9), st.text(max_size=20), st.sampled_from([STOP, "[]", '{"type": []}']))))
def test_no_message_does_anything_but_events_and_faults(messages: list[bytes | str]) -> None:
    decoder = microphone()
    events: list[Event] = []
    for message in messages:
        try:
            events += decoder.receive(message)
        except Fault:
            break
    events += decoder.lost()
    order = [type(event) for event in events if not isinstance(event, Audio)]
    assert order in ([], [Began, Ended])
    assert not events or isinstance(events[0], Began)
