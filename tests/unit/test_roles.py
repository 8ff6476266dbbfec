"""Who of two strangers is the agent, by what they say."""

import json
import math
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.roles import MOST_OF_A_TURN, Parties, evidence, plain

GREETING = "Thank you for calling Acme, my name is Ben. How can I help you today?"
TROUBLE = "Hi, I'm calling about my order. It still hasn't arrived."
TALK = [
    GREETING,
    TROUBLE,
    "Well, you see.",
    "Could you please confirm your account number?",
    "Yes, I need it by Friday.",
]


def heard(*turns: tuple[str, str]) -> Parties:
    parties = Parties()
    for speaker, text in turns:
        parties.hear(speaker, text)
        parties.decide()
    return parties


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        (GREETING, 1),
        ("can i have your account number please", 1),
        ("is there anything else i can help you with", 1),
        ("I’ll transfer you to our billing department.", 1),
        (TROUBLE, -1),
        ("i'd like to cancel my subscription", -1),
        ("how long will it take", -1),
        ("It was raining in Chicago.", 0),
        ("", 0),
    ],
)
def test_phrases_lean_to_a_role(text: str, sign: int) -> None:
    assert evidence(text) * sign > 0 if sign else evidence(text) == 0
    assert evidence(text.upper().replace(",", "")) == evidence(text), "neither case nor punctuation matters"


def test_a_call_is_understood_and_the_order_of_speakers_does_not_matter() -> None:
    parties = heard(("speaker-1", TROUBLE), ("speaker-2", GREETING), ("speaker-1", "Yes."))
    assert parties.roles == {"speaker-1": "customer", "speaker-2": "agent"}
    for speaker in parties.odds:
        _, confidence = parties.role(speaker)
        assert confidence is not None and 0.95 <= confidence <= 1


def test_nobody_is_a_customer_before_somebody_sounds_like_an_agent() -> None:
    parties = heard(*[("speaker-1", TROUBLE), ("speaker-2", "Oh no, I can't find my keys either.")] * 4)
    assert parties.roles == {}
    assert parties.role("speaker-1") == ("unknown", None)


def test_friends_who_chat_have_no_roles(test_data: Path) -> None:
    lines = (test_data / "calls/phone-chat.stm").read_text().splitlines()
    parties = heard(*((line.split()[2], line.split(None, 5)[5]) for line in lines))
    assert len(parties.odds) == 2
    assert parties.roles == {}


def test_readers_of_novels_have_no_roles(test_data: Path) -> None:
    for file in sorted((test_data / "calls/made").glob("*.json")):
        parties = heard(*((turn["speaker"], turn["text"]) for turn in json.loads(file.read_text())))
        assert parties.roles == {}


def test_calls_of_the_held_out_third_are_told_apart(test_data: Path) -> None:
    lines = (test_data / "text/helpdesk-calls.jsonl").read_text().splitlines()[2::3]
    for line in lines:
        parties = heard(*((turn["role"], plain(turn["text"])) for turn in json.loads(line)["turns"]))
        assert parties.roles == {"agent": "agent", "customer": "customer"}


def test_a_role_is_given_once_and_withdrawn_when_it_was_wrong() -> None:
    parties = Parties()
    parties.hear("speaker-1", GREETING)
    assert parties.decide() == ["speaker-1"]
    assert parties.decide() == []
    for _ in range(3):
        parties.hear("speaker-1", TROUBLE)
    parties.hear("speaker-2", "Hello.")
    assert parties.decide() == ["speaker-1"]
    assert parties.role("speaker-1") == ("unknown", None)


def test_a_voice_that_was_split_brings_its_evidence_along() -> None:
    parties = heard(("speaker-1", GREETING), ("speaker-2", TROUBLE), ("speaker-3", TALK[3]))
    whole = heard(("speaker-1", GREETING), ("speaker-2", TROUBLE), ("speaker-1", TALK[3]))
    parties.merge("speaker-3", "speaker-1")
    parties.merge("speaker-9", "speaker-1")
    parties.decide()
    assert parties == whole


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(TALK)), max_size=12), st.integers(0, 12))
def test_a_snapshot_is_the_whole_state(turns: list[tuple[str, str]], at: int) -> None:
    restored = Parties.restore(heard(*turns[:at]).snapshot())
    for speaker, text in turns[at:]:
        restored.hear(speaker, text)
        restored.decide()
    assert restored == heard(*turns)
    assert len(restored.snapshot()) < 300


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=5))
def test_probabilities_are_the_sum_over_all_ways_to_give_out_roles(odds: list[float]) -> None:
    parties = Parties({f"s{i}": value for i, value in enumerate(odds)})
    ways: dict[tuple[bool, ...], float] = {}
    for way in product((True, False), repeat=len(odds)):
        weight = math.exp(sum(value for value, agent in zip(odds, way, strict=True) if agent))
        ways[way] = weight * (0.3 if len(set(way)) == 1 else 1)
    total = sum(ways.values())
    for i in range(len(odds)):
        found = parties.probabilities(f"s{i}")
        agent = sum(weight for way, weight in ways.items() if way[i]) / total
        assert found["agent"] == pytest.approx(agent, abs=1e-9)
        assert found["unknown"] == pytest.approx(ways[(False,) * len(odds)] / total, abs=1e-9)
        assert sum(found.values()) == pytest.approx(1)


@given(st.text(max_size=200))
def test_any_text_is_bounded_evidence(text: str) -> None:
    assert abs(evidence(text)) <= MOST_OF_A_TURN
