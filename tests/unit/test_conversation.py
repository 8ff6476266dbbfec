"""The running tally of a call: each figure by an example, and what holds for every call."""

import json
import math
import random
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
from call_ai_metrics import CallAnalyzer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from processors.conversation import INSTANCES, POINTS, RESPONSE_STEP_MS, WAITING, Tally
from schemas.events import (
    Acoustics,
    CallEnded,
    CallEvent,
    CallInfo,
    CallStarted,
    Correction,
    Emotion,
    EmotionLabel,
    Interruption,
    PartyMetrics,
    Progress,
    Role,
    RunningScore,
    Score,
    Sentiment,
    Silence,
    Word,
)
from tests.unit.stage_records import STARTED_AT, call

STEREO = call()
MONO = call(("unknown",))
BOTH: tuple[Role, Role] = ("agent", "customer")


def said(
    channel: int,
    start_ms: int,
    end_ms: int,
    *,
    words: int = 2,
    score: float | None = 0.0,
    emotion: EmotionLabel | None = None,
    lufs: float | None = None,
    speaker: str = "",
    role: Role | None = None,
    of: CallInfo = STEREO,
    **fields: Any,
) -> Score:
    """An utterance as the topic has it; where no role is given, it is the channel's."""
    role = role or of.roles[channel]
    sentiment = None
    if score is not None:
        label = "neutral" if abs(score) < 0.3 else "positive" if score > 0 else "negative"
        sentiment = Sentiment.model_validate(
            {"label": label, "score": score, "text_score": score, "confidence": 1, "model": "some"}
        )
    return Score(
        call=of,
        channel=channel,
        start_ms=start_ms,
        end_ms=end_ms,
        cut="pause",
        codec="mulaw",
        rate=8_000,
        captured_at=STARTED_AT + timedelta(milliseconds=end_ms),
        speaker=speaker or role,
        role=role,
        speaker_confidence=1,
        text="word " * words,
        words=(Word(text="word", start_ms=start_ms, end_ms=end_ms, confidence=1),) * words,
        language="en",
        asr_confidence=1,
        asr_model="some",
        emotion=Emotion(label=emotion, probabilities={emotion: 1}, model="some") if emotion else None,
        acoustics=None if lufs is None else Acoustics(loudness_lufs=lufs),
        sentiment=sentiment,
        running=RunningScore(score=0, party_score=0, utterances=0),
        pipeline_version="v1",
        **fields,
    )


def until(at_ms: int, of: CallInfo = STEREO) -> Progress:
    return Progress(call=of, at_ms=at_ms)


def end(duration_ms: int, of: CallInfo = STEREO) -> CallEnded:
    ended_at = STARTED_AT + timedelta(milliseconds=duration_ms)
    return CallEnded(call=of, duration_ms=duration_ms, ended_at=ended_at, reason="hangup")


def heard(*events: CallEvent) -> Tally:
    tally = Tally()
    for event in events:
        tally.hear(event)
    return tally


def whole(utterances: Iterable[Score], duration_ms: int, of: CallInfo = STEREO) -> Tally:
    """A call as the chain tells it: utterances as they are finished, a watermark each second where nobody speaks."""
    told: list[tuple[int, int, CallEvent]] = [(one.end_ms, 0, one) for one in utterances]
    spoken = [(one.start_ms, one.end_ms) for *_, one in told if isinstance(one, Score)]
    for at_ms in range(1_000, duration_ms, 1_000):
        open_since = min((start for start, end in spoken if start < at_ms < end), default=at_ms)
        told.append((at_ms, 1, until(open_since, of)))
    told.sort(key=lambda one: one[:2])
    return heard(CallStarted(call=of), *(event for *_, event in told), end(duration_ms, of))


def by_role(tally: Tally) -> dict[Role, PartyMetrics]:
    parties = tally.parties()
    assert len({party.role for party in parties}) == len(parties)
    return {party.role: party for party in parties}


# Each figure


def test_talk_words_and_pace_of_each_party() -> None:
    tally = whole([said(0, 0, 6_000, words=20), said(1, 6_500, 8_500, words=3), said(0, 9_000, 9_000)], 10_000)
    agent, customer = tally.parties()
    assert (agent.role, agent.utterances, agent.words, agent.talk_ms) == ("agent", 2, 22, 6_000)
    assert (agent.words_per_minute, customer.words_per_minute) == (220, 90)
    assert (agent.talk_share, customer.talk_share, tally.talk_share("customer")) == (0.75, 0.25, 0.25)
    assert (tally.talk_ms(), tally.talk_ms("agent"), tally.talk_ms("unknown")) == (8_000, 6_000, 0)


def test_turns_and_monologues_are_told_by_who_begins() -> None:
    # The customer's word in between ends the agent's turn, though the agent speaks on.
    spoken = [
        said(0, 0, 4_000),
        said(0, 4_200, 9_000),
        said(1, 5_000, 5_200),
        said(0, 9_500, 12_000),
        said(1, 12_500, 13_000),
    ]
    agent, customer = whole(spoken, 14_000).parties()
    assert (agent.turns, customer.turns) == (2, 2)
    assert (agent.longest_monologue_ms, customer.longest_monologue_ms) == (9_000, 500)


def test_a_response_is_the_silence_before_another_party_speaks() -> None:
    spoken = [
        said(0, 0, 2_000),
        said(1, 2_480, 3_000),  # 480 ms: 10 steps
        said(0, 4_000, 6_000),  # 1,000 ms
        said(1, 5_000, 5_200),  # inside the other's speech: none
        said(0, 6_500, 8_000),  # goes on: none
        said(1, 7_800, 9_000),  # a little early: 0
        said(0, 8_000, 9_500),  # cuts in: none
        said(1, 12_500, 13_000),  # 3 s
    ]
    agent, customer = by_role(whole(spoken, 14_000)).values()
    assert (agent.responses, agent.response_ms) == (1, 1_000)
    assert (customer.responses, customer.response_ms) == (3, 500)
    two = by_role(whole(spoken[:6], 14_000))["customer"]
    assert (two.responses, two.response_ms) == (2, 250), "of two, the middle between them"


def test_who_cuts_in_on_whom_and_for_how_long() -> None:
    spoken = [
        said(0, 0, 10_000),
        said(1, 8_000, 12_000),  # 2 s: cuts in on the agent
        said(0, 11_700, 13_000),  # exactly 0.3 s
        said(1, 12_701, 14_000),  # 0.299 s: not quite
        said(0, 14_000, 15_000),  # not at all
    ]
    tally = whole(spoken, 16_000)
    agent, customer = tally.parties()
    assert (agent.interruptions, agent.interrupted, agent.overtalk_ms) == (1, 1, 300)
    assert (customer.interruptions, customer.interrupted, customer.overtalk_ms) == (1, 1, 2_299)
    assert tally.interruptions() == (
        Interruption(start_ms=8_000, overtalk_ms=2_000, by="customer", of="agent"),
        Interruption(start_ms=11_700, overtalk_ms=300, by="agent", of="customer"),
    )
    assert tally.interruptions_by_role() == {"customer": 1, "agent": 1}


def test_of_three_channels_the_one_is_cut_in_on_that_speaks_longest() -> None:
    three = call(("agent", "customer", "unknown"))
    spoken = [
        said(0, 0, 5_000, of=three),
        said(1, 4_000, 9_000, of=three),
        said(2, 4_500, 6_000, of=three, speaker="channel-2"),
    ]
    found = whole(spoken, 10_000, three).interruptions()
    assert found == (
        Interruption(start_ms=4_000, overtalk_ms=1_000, by="customer", of="agent"),
        Interruption(start_ms=4_500, overtalk_ms=1_500, by="channel-2", of="customer"),
    )


@pytest.mark.parametrize("roles", [("unknown",), ("customer",)])
def test_in_one_channel_nobody_knows_who_cuts_in(roles: tuple[Role, ...]) -> None:
    mono = call(roles)
    spoken = [
        said(0, 0, 5_000, of=mono, speaker="speaker-1"),
        said(0, 3_000, 6_000, of=mono, speaker="speaker-2", overlap_ms=2_000),
    ]
    tally = whole(spoken, 7_000, mono)
    assert tally.interruptions() is None
    assert tally.interruptions_by_role() == {}
    for party in tally.parties():
        assert (party.interruptions, party.interrupted, party.overtalk_ms) == (None, None, None)
        assert party.turns == 1


def test_silences_before_between_and_after() -> None:
    tally = whole([said(0, 5_000, 6_000), said(1, 10_999, 12_000), said(0, 18_000, 19_000)], 30_000)
    assert tally.silences() == (
        3,
        5_000 + 6_000 + 11_000,
        11_000,
        tuple(Silence(start_ms=since, end_ms=to) for since, to in [(0, 5_000), (12_000, 18_000), (19_000, 30_000)]),
    )


def test_a_silence_counts_while_it_goes_on_and_stands_still_while_somebody_speaks() -> None:
    tally = heard(CallStarted(call=STEREO), said(0, 0, 2_000), until(2_000))
    assert (tally.silence_now_ms, tally.silences()) == (0, (0, 0, 0, ()))
    tally.hear(until(6_000))
    assert (tally.silence_now_ms, tally.silences()[0]) == (4_000, 0)
    tally.hear(until(7_000))
    assert (tally.silent_since_ms, tally.silence_now_ms) == (2_000, 5_000)
    assert tally.silences() == (1, 5_000, 5_000, (Silence(start_ms=2_000, end_ms=7_000),))
    tally.hear(said(1, 7_300, 9_000))  # the watermark is where it was: something may have begun at 7.1 s
    assert tally.silences() == (1, 5_000, 5_000, (Silence(start_ms=2_000, end_ms=7_000),))
    assert tally.now_ms == 9_000
    tally.hear(until(9_000))
    assert tally.silences() == (1, 5_300, 5_300, (Silence(start_ms=2_000, end_ms=7_300),))
    assert tally.silence_now_ms == 0


def test_an_utterance_that_began_earlier_and_ended_later_has_its_place() -> None:
    """The long one comes last, and so no silence was there, nor was it the agent who cut in."""
    tally = heard(CallStarted(call=STEREO), said(0, 6_000, 7_000))
    assert tally.silences()[0] == 0, "the watermark has not come so far"
    agent = by_role(tally)["agent"]
    assert (agent.interruptions, agent.turns) == (0, 1)
    tally.hear(said(1, 500, 9_000))
    tally.hear(until(9_000))
    assert tally.silences()[0] == 0
    agent, customer = by_role(tally)["agent"], by_role(tally)["customer"]
    assert (agent.interruptions, customer.interruptions) == (1, 0)
    assert (agent.turns, customer.turns, customer.longest_monologue_ms) == (1, 1, 8_500)
    assert tally.late == 0


def test_what_comes_behind_the_watermark_is_counted_and_told() -> None:
    tally = heard(said(0, 6_000, 7_000), until(8_000), said(1, 1_000, 6_500, words=9, score=-1), until(20_000))
    agent, customer = by_role(tally)["agent"], by_role(tally)["customer"]
    assert (tally.late, customer.words, customer.talk_ms, customer.score) == (1, 9, 5_500, -1)
    assert (customer.turns, agent.interruptions, tally.silences()[0]) == (0, 0, 2)


def test_without_watermarks_the_oldest_are_settled() -> None:
    tally = heard(*(said(at % 2, 1_000 * at, 1_000 * at + 900) for at in range(3 * WAITING)))
    assert len(json.loads(tally.dump())[4]) == WAITING
    assert sum(party.turns for party in tally.parties()) == 3 * WAITING


def test_quarters_are_of_the_call_so_far_then_of_the_whole() -> None:
    tally = heard(CallStarted(call=STEREO), said(1, 0, 1_000, score=-0.5), said(1, 3_000, 4_000, score=0.5))
    assert by_role(tally)["customer"].quarters == (-2.5, None, None, 2.5)
    assert by_role(tally)["customer"].change == 5
    tally.hear(said(0, 4_500, 5_000, score=1))
    tally.hear(until(16_000))
    assert tally.quarters() == (mean([-2.5, 2.5]), 5, None, None)
    tally.hear(said(1, 15_000, 16_000, score=None))
    tally.hear(end(16_000))
    agent, customer = by_role(tally)["agent"], by_role(tally)["customer"]
    assert (customer.quarters, customer.change, customer.score) == ((0, None, None, None), None, 0)
    assert (agent.quarters, agent.change) == ((None, 5, None, None), None)
    assert (customer.negative, customer.neutral, customer.positive) == (1, 0, 1)
    assert tally.score() == pytest.approx(1 / 3, abs=1e-4)


def test_emotions_are_weighed_by_time() -> None:
    spoken = [
        said(1, 0, 3_000, emotion="anger"),
        said(1, 3_000, 4_000, emotion="neutral"),
        said(1, 4_000, 9_000),
        said(1, 9_000, 10_000, emotion="anger"),
    ]
    (customer,) = whole(spoken, 10_000).parties()
    assert customer.emotion_ms == {"anger": 4_000, "neutral": 1_000}
    assert customer.emotion_share == {"anger": 0.8, "neutral": 0.2}


def test_loudness_and_its_trend() -> None:
    rising = [said(1, at, at + 2_000, lufs=-30 + at / 10_000) for at in range(0, 60_000, 10_000)]
    (customer,) = whole(rising, 60_000).parties()
    assert customer.loudness_lufs == pytest.approx(-27.5)
    assert customer.loudness_trend == pytest.approx(6), "6 dB a minute"
    (few,) = whole(rising[:4], 60_000).parties()
    assert (few.loudness_lufs, few.loudness_trend) == (-28.5, None)
    (none,) = whole([said(0, 0, 1_000)], 2_000).parties()
    assert (none.loudness_lufs, none.loudness_trend) == (None, None)


def test_what_leaks_from_another_channel_is_nobodys_talk() -> None:
    tally = whole([said(0, 0, 5_000), said(1, 1_000, 4_900, flags=("cross_talk",))], 5_000)
    (agent,) = tally.parties()
    assert (agent.role, agent.interrupted, tally.unheard()) == ("agent", 0, ("customer",))


def test_a_call_in_which_nobody_speaks() -> None:
    tally = whole([], 7_000)
    assert (tally.parties(), tally.talk_share("agent"), tally.score(), tally.unheard()) == ((), None, None, BOTH)
    assert tally.silences() == (1, 7_000, 7_000, (Silence(start_ms=0, end_ms=7_000),))
    assert (tally.quarters(), tally.interruptions(), tally.now_ms) == ((None,) * 4, (), 7_000)
    nothing = Tally()
    assert (nothing.now_ms, nothing.parties(), nothing.unheard(), nothing.silence_now_ms) == (0, (), (), 0)


# Who is who


def test_speakers_who_turn_out_to_be_one_are_one_party_from_the_beginning() -> None:
    spoken = [
        said(0, 0, 2_000, of=MONO, speaker="speaker-1", score=-1, words=4),
        said(0, 2_500, 4_000, of=MONO, speaker="speaker-2"),
        said(0, 4_500, 6_000, of=MONO, speaker="speaker-3", score=1),
        said(0, 6_500, 9_000, of=MONO, speaker="speaker-1", score=1),
    ]
    merge = Correction(call=MONO, speaker="speaker-3", same_as="speaker-1")
    agent = Correction(call=MONO, speaker="speaker-1", role="agent", role_confidence=0.9)
    tally = heard(CallStarted(call=MONO), *spoken, until(9_000, MONO), merge, agent)
    one, two = tally.parties()
    assert (one.role, one.speaker, two.role, two.speaker) == ("agent", "speaker-1", "unknown", "speaker-2")
    assert (one.utterances, one.words, one.talk_ms, one.score) == (3, 8, 6_000, pytest.approx(1 / 3, abs=1e-4))
    assert (one.turns, two.turns) == (2, 1), "from speaker-3 to speaker-1 nobody else took the floor"
    assert (one.responses, one.response_ms, two.responses) == (1, 500, 1)
    assert tally.talk_share("agent") == 6 / 7.5
    tally.hear(said(0, 9_200, 9_500, of=MONO, speaker="speaker-3"))
    tally.hear(end(10_000, MONO))
    assert tally.parties()[0].turns == 2, "what comes later is known at once"


def test_a_role_may_be_taken_back() -> None:
    agent = Correction(call=MONO, speaker="speaker-1", role="agent", role_confidence=0.9)
    nobody = Correction(call=MONO, speaker="speaker-1", role_confidence=0.5)
    tally = heard(said(0, 0, 2_000, of=MONO, speaker="speaker-1"), agent)
    assert tally.talk_ms("agent") == 2_000
    tally.hear(nobody)
    assert (tally.talk_ms("agent"), tally.talk_ms("unknown")) == (0, 2_000)


# What holds for every call


utterances = st.tuples(
    st.integers(0, 1),
    st.integers(0, 60_000),
    st.integers(0, 9_000),
    st.integers(1, 3),
    st.none() | st.floats(-1, 1).map(lambda one: round(one, 4)),
    st.none() | st.sampled_from(["anger", "neutral"]),
    st.none() | st.floats(-60, 0),
)
CALLS = st.lists(utterances, max_size=25, unique_by=lambda one: one[:2])


def made(drawn: Sequence[Any], of: CallInfo) -> list[Score]:
    return [
        said(
            channel % len(of.roles),
            start_ms,
            start_ms + length_ms,
            speaker=f"speaker-{speaker}" if len(of.roles) < 2 else "",
            score=score,
            emotion=emotion,
            lufs=lufs,
            of=of,
        )
        for channel, start_ms, length_ms, speaker, score, emotion, lufs in drawn
    ]


@settings(max_examples=150)
@given(CALLS, st.sampled_from([STEREO, MONO]), st.integers(0, 80_000), st.lists(st.booleans(), min_size=1, max_size=9))
def test_a_tally_goes_on_from_what_was_kept_as_though_nothing_had_been(
    drawn: list[Any], of: CallInfo, duration_ms: int, restarts: list[bool]
) -> None:
    events: list[CallEvent] = [CallStarted(call=of)]
    for number, score in enumerate(made(drawn, of)):
        events.append(score)
        if number % 3 == 0:
            events.append(until(score.start_ms, of))
        if number % 5 == 4:
            events.append(Correction(call=of, speaker=f"speaker-{number % 3 + 1}", same_as="speaker-1", role="agent"))
    events.append(end(duration_ms, of))
    straight, restarted = Tally(), Tally()
    for number, event in enumerate(events):
        straight.hear(event)
        if restarts[number % len(restarts)]:
            restarted = Tally.load(restarted.dump())
        restarted.hear(event)
        assert restarted.dump() == straight.dump()
        assert restarted.parties() == straight.parties()
        assert (restarted.silences(), restarted.now_ms) == (straight.silences(), straight.now_ms)


@settings(max_examples=150)
@given(CALLS, st.randoms(use_true_random=False))
@example([(0, 0, 0, 1, None, None, None)], random.Random(1))
def test_the_order_in_which_utterances_were_finished_does_not_matter(drawn: list[Any], chance: random.Random) -> None:
    in_order = made(drawn, STEREO)
    mixed = in_order.copy()
    chance.shuffle(mixed)
    one, other = heard(*in_order, end(70_000)), heard(*mixed, end(70_000))
    assert {party.role: party for party in one.parties()} == {party.role: party for party in other.parties()}
    assert (one.silences(), one.interruptions()) == (other.silences(), other.interruptions())


@settings(max_examples=150)
@given(CALLS)
def test_figures_fit_together(drawn: list[Any]) -> None:
    tally = whole(made(drawn, STEREO), 70_000)
    parties = tally.parties()
    assert math.isclose(sum(party.talk_share for party in parties), 1 if tally.talk_ms() else 0, abs_tol=2e-4)
    assert sum(party.talk_ms for party in parties) == tally.talk_ms()
    assert sum(party.interruptions or 0 for party in parties) == sum(party.interrupted or 0 for party in parties)
    n, all_ms, longest_ms, instances = tally.silences()
    assert (n, all_ms) == (len(instances), sum(one.end_ms - one.start_ms for one in instances))
    assert longest_ms == max((one.end_ms - one.start_ms for one in instances), default=0)
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(instances))
    turns = [party.turns for party in parties]
    assert max(turns, default=0) - min(turns, default=0) <= 1 or len(turns) < 2


# Long calls


@cache
def day_long() -> tuple[Score, ...]:
    """Four hours, more than 2,500 utterances."""
    chance, at_ms, spoken = random.Random(4), 0, []
    while at_ms < 4 * 3_600_000:
        length_ms = chance.randint(300, 9_000)
        drift = at_ms / (4 * 3_600_000)
        spoken.append(
            said(chance.randint(0, 1), at_ms, at_ms + length_ms, score=round(chance.uniform(-1, 1) * drift, 4))
        )
        at_ms += max(length_ms + chance.randint(-700, 800), 1) if chance.random() < 0.98 else length_ms + 9_000
    return tuple(spoken)


def test_a_call_of_four_hours_is_kept_small_and_its_quarters_are_right() -> None:
    spoken = day_long()
    assert len(spoken) > 2_500
    tally = whole(spoken, 4 * 3_600_000)
    assert 4_000 < len(tally.dump()) < 20_000
    for channel, party in enumerate(by_role(tally)[role] for role in BOTH):
        theirs = [one for one in spoken if one.channel == channel]
        exact: list[list[float]] = [[], [], [], []]
        for one in theirs:
            assert one.sentiment is not None
            exact[min((one.start_ms + one.end_ms) * 2 // (4 * 3_600_000), 3)].append(one.sentiment.score)
        assert len(theirs) > 4 * POINTS
        assert party.score == pytest.approx(mean(score for quarter in exact for score in quarter), abs=1e-4)
        assert party.quarters == pytest.approx([5 * mean(quarter) for quarter in exact], abs=0.02)
    n, all_ms, _, instances = tally.silences()
    assert (n > len(instances) == INSTANCES) and all_ms > sum(one.end_ms - one.start_ms for one in instances)


# Truth, and what others make of it


def test_talk_of_the_made_calls_is_that_of_their_truth(test_data: Path) -> None:
    files = sorted((test_data / "calls/made").glob("*.json"))
    assert files
    for file in files:
        turns = json.loads(file.read_text())
        spoken = [said(turn["channel"], round(turn["start"] * 1_000), round(turn["end"] * 1_000)) for turn in turns]
        tally = whole(spoken, max(one.end_ms for one in spoken) + 1_000)
        talk = [sum(turn["end"] - turn["start"] for turn in turns if turn["channel"] == channel) for channel in (0, 1)]
        for channel, role in enumerate(BOTH):
            assert tally.talk_share(role) == pytest.approx(talk[channel] / sum(talk), abs=1e-3)
        # Ten turns by turns, the other beginning 0.4 s early at times: that is what was planted.
        early = [round(1_000 * (after["start"] - before["end"])) for before, after in pairwise(turns)]
        assert sum(party.interruptions or 0 for party in tally.parties()) == early.count(-400)
        assert [party.turns for party in tally.parties()] == [5, 5]


def planted(seed: int) -> list[Score]:
    """A made call: turns by turns, with pauses, dead air, replies that come early, and words put in."""
    chance, at_ms, spoken, channel = random.Random(seed), 0, [], 0
    for _ in range(40):
        length_ms = chance.randint(2_500, 8_000)
        spoken.append(said(channel, at_ms, at_ms + length_ms, words=length_ms // 400))
        if length_ms > 4_000 and chance.random() < 0.4:  # inside the other's: longer than the floor, or shorter
            inside_ms = chance.choice([200, 900])
            spoken.append(said(1 - channel, at_ms + 1_600, at_ms + 1_600 + inside_ms, words=1))
        gap_ms = chance.choice([-1_200, -500, -200, -100, 0, 150, 420, 900, 2_500, 7_000])
        at_ms += length_ms + gap_ms
        channel = 1 - channel
    return spoken


@pytest.mark.parametrize("seed", range(20))
def test_an_independent_implementation_finds_the_same(seed: int) -> None:
    spoken = planted(seed)
    until_ms = max(one.end_ms for one in spoken)
    tally = whole(spoken, until_ms)
    rows = [(one.start_ms / 1_000, one.end_ms / 1_000, one.role, one.text) for one in spoken]
    # More than its grace is an interruption there, as much as ours here.
    report = CallAnalyzer(grace_s=0.2999, max_turn_pause_s=3_600).analyze(rows, speakers=list(BOTH))
    parties = by_role(tally)
    for role in BOTH:
        ours, theirs = parties[role], report[role]
        assert ours.talk_ms == pytest.approx(theirs.talk_time_s * 1_000, abs=1e-3)
        assert ours.talk_share == pytest.approx(theirs.talk_share, abs=1e-4)
        assert ours.words == theirs.words
        assert ours.words_per_minute == pytest.approx(theirs.words_per_minute, rel=1e-4)
        assert (ours.interruptions, ours.interrupted) == (theirs.interruptions, theirs.interrupted)
    found = tally.interruptions()
    assert found is not None
    assert [(one.start_ms, one.by, one.of) for one in found] == [
        (round(event.time_s * 1_000), event.by, event.of) for event in report.interruption_events
    ]
    _, _, longest_ms, instances = tally.silences()
    assert longest_ms == (round(report.longest_silence_s * 1_000) if report.longest_silence_s >= 5 else 0)
    if instances:
        assert round(report.longest_silence_at_s * 1_000) in [one.start_ms for one in instances]


@pytest.mark.parametrize("seed", range(20))
def test_turns_and_responses_are_theirs_where_nobody_speaks_inside_the_others_speech(seed: int) -> None:
    """They leave out of the turns what is said inside another's speech, and take a reply that cuts in as one after
    0 ms; so the calls for this have neither."""
    chance, at_ms, spoken = random.Random(seed), 0, []
    for number in range(41):
        length_ms = chance.randint(1_500, 8_000)
        spoken.append(said(number % 2, at_ms, at_ms + length_ms))
        at_ms += length_ms + chance.choice([-200, -100, 0, 150, 420, 900, 2_500, 7_000])
    tally = whole(spoken, at_ms)
    rows = [(one.start_ms / 1_000, one.end_ms / 1_000, one.role) for one in spoken]
    report = CallAnalyzer(grace_s=0.2999, max_turn_pause_s=3_600).analyze(rows, speakers=list(BOTH))
    for party in tally.parties():
        theirs = report[party.role]
        assert (party.turns, party.responses) == (theirs.turns, theirs.replies)
        assert party.longest_monologue_ms == pytest.approx(theirs.longest_monologue_s * 1_000, abs=1)
        assert theirs.response_latency_s is not None
        assert party.response_ms == pytest.approx(theirs.response_latency_s * 1_000, abs=RESPONSE_STEP_MS / 2)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 29_000), min_size=1, max_size=30))
def test_the_median_response_is_off_by_half_a_step_at_most(gaps: list[int]) -> None:
    spoken, at_ms = [said(0, 0, 1_000)], 1_000
    for gap_ms in gaps:
        spoken += [said(1, at_ms + gap_ms, at_ms + gap_ms + 500), said(0, at_ms + gap_ms + 500, at_ms + gap_ms + 900)]
        at_ms += gap_ms + 900
    (_, customer) = heard(*spoken, end(at_ms)).parties()
    assert customer.responses == len(gaps)
    assert customer.response_ms is not None
    assert abs(customer.response_ms - median(gaps)) <= RESPONSE_STEP_MS / 2
