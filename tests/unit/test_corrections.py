"""What a reader of the topic makes of corrections."""

import itertools

from schemas.events import Correction, Role, Score
from streams.corrections import Corrections
from tests.scripted import call, score

CALL = call("c")


def said(speaker: str, role: Role = "unknown") -> Score:
    return score(CALL, 0).model_copy(update={"speaker": speaker, "role": role, "role_confidence": None})


def after(speaker: str, *corrections: Correction, role: Role = "unknown") -> tuple[str, str, float | None]:
    known = Corrections()
    for correction in corrections:
        known.add(correction)
    score = known.apply(said(speaker, role))
    return score.speaker, score.role, score.role_confidence


def test_merges_are_followed_to_their_end_in_whatever_order_they_came() -> None:
    merges = [Correction(call=CALL, speaker=f"speaker-{at}", same_as=f"speaker-{at - 1}") for at in (2, 3, 4)]
    for order in itertools.permutations(merges):
        assert [after(f"speaker-{at}", *order)[0] for at in (1, 2, 3, 4, 5)] == ["speaker-1"] * 4 + ["speaker-5"]


def test_a_role_is_the_last_one_found_of_whom_the_speaker_is_and_may_be_taken_back() -> None:
    merge = Correction(call=CALL, speaker="speaker-2", same_as="speaker-1")
    agent = Correction(call=CALL, speaker="speaker-1", role="agent", role_confidence=0.75)
    withdrawn = Correction(call=CALL, speaker="speaker-1", role_confidence=0.5)
    other = Correction(call=CALL, speaker="speaker-2", role="customer", role_confidence=1.0)
    assert after("speaker-2", other, agent, merge) == ("speaker-1", "agent", 0.75)
    assert after("speaker-2", agent, other, merge) == ("speaker-1", "agent", 0.75)
    assert after("speaker-1", agent, withdrawn, role="customer") == ("speaker-1", "unknown", 0.5)
    assert after("speaker-1", agent, role="agent") == ("speaker-1", "agent", None), "it is as it was heard"
    assert after("speaker-2", merge, role="agent") == ("speaker-1", "agent", None), "of the role nothing was said"


def test_what_nothing_is_known_of_stays_the_same_object() -> None:
    known = Corrections()
    known.add(Correction(call=CALL, speaker="speaker-2", same_as="speaker-1"))
    alone = said("speaker-1")
    assert known.apply(alone) is alone
