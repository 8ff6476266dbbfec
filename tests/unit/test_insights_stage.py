"""The insights stage: nothing that nobody said, the same bytes however it is read, and a clear word where there is
nothing to say."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from processors.base import Record
from processors.insights import BUSINESSES, FEWEST_WORDS, KEPT_BYTES, OPENING, CallInsights, Config, FinishedCall, build
from processors.insights_extractive import ADVICE, MOST_SENTENCES, ExtractiveEngine
from processors.models.embedding import Vectors
from processors.models.glossary import Glossary, Term, Topics
from schemas.errors import CalltideError
from schemas.events import (
    CallEvent,
    CallInfo,
    Correction,
    Evidence,
    Findings,
    Insights,
    Role,
    RunningScore,
    Score,
    Sentiment,
    Statement,
)
from tests.unit.stage_records import call, event_of, marks, record, run, utterance

BILL: tuple[tuple[Role, str], ...] = (
    ("agent", "Thank you for calling Blue River, my name is Anna. How can I help you?"),
    ("customer", "Hi, I have a problem with my last bill. I was charged twice for the same month."),
    ("agent", "I'm sorry to hear that. Could you give me your customer number, please?"),
    ("customer", "It's four five six two. I already called you last week about this, and nobody called me back."),
    ("agent", "I apologise for that. I can see both payments here. May I offer you our premium plan instead?"),
    ("customer", "No, that is too expensive for me, and I don't need it."),
    ("agent", "I understand. I’ve refunded the second payment, and I will send you a confirmation by Friday."),
    ("customer", "Great, that's everything I needed. Thank you."),
    ("agent", "Is there anything else I can do for you? Have a nice day."),
)


def said(
    number: int,
    role: Role,
    text: str,
    score: float | None = None,
    info: CallInfo | None = None,
    after_ms: int = 0,
    **fields: Any,
) -> Score:
    sentiment = Sentiment(label="neutral", score=score, text_score=score, confidence=1, model="m") if score else None
    given = {
        "channel": int(role != "agent"), "speaker": role, "role": role, "text": text, "sentiment": sentiment,
        "running": RunningScore(score=0, party_score=0, utterances=1), "pipeline_version": "v0",
    }  # fmt: skip
    return utterance(Score, info or call(), number * 6_000 + after_ms, 5_000, **given | fields)


def records(scores: Iterable[Any], info: CallInfo | None = None) -> list[Record]:
    """A whole call, with a mark after each utterance."""
    start, progress, end = marks(info or call())
    events: list[CallEvent] = [start]
    for event in scores:
        now = {"at_ms": event.end_ms} if isinstance(event, Score) else {}
        events += [event, progress.model_copy(update=now)]
    return [record(event, in_value=True) for event in [*events, end]]


def talk(turns: Sequence[tuple[Role, str]], info: CallInfo | None = None, **fields: Any) -> list[Score]:
    return [said(number, role, text, info=info, **fields) for number, (role, text) in enumerate(turns)]


class Recital:
    """Tells what it was given, and whether it was asked at all."""

    name = "recital"
    model = ""
    languages: frozenset[str] | None = None

    def __init__(self) -> None:
        self.calls: list[FinishedCall] = []

    def conclude(self, call: FinishedCall) -> Findings:
        self.calls.append(call)
        said = tuple(Statement(text=one.text, evidence=(call.evidence(one),)) for one in call.utterances)
        return Findings(engine=self.name, state="ok", summary=said)


class Checksums:
    """The vector of a text is made of its checksum."""

    id = "checksums"

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows = [np.frombuffer(zlib.crc32(text.encode()).to_bytes(4, "big"), np.uint8) for text in texts]
        vectors = np.array(rows, np.float32).reshape(-1, 4) + 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def offline(config: Config | None = None) -> CallInsights:
    """The extractive engine without its network."""
    terms = tuple(Term((name, f"{name} {number}"), (f"{name} {number}",)) for name in "ab" for number in range(3))
    topics = dict.fromkeys(BUSINESSES, Topics(Glossary("made up", terms), Checksums()))
    config = config or Config()
    return CallInsights(config, "v1", ExtractiveEngine(Checksums(), topics, config.summary_sentences, config.topics))


def insights_of(stage: Any, scores: Iterable[Any], info: CallInfo | None = None) -> Insights:
    written, letters, left = run("insights", stage, records(scores, info))
    assert not letters and not left
    kinds = [one.kind for one in written if one.kind not in ("conversation", "evaluation")]
    assert kinds == ["call_started", "insights", "call_ended"]
    event = event_of(written[1])
    assert isinstance(event, Insights)
    return event


def evidence_in(value: Any) -> Iterator[Evidence]:
    if isinstance(value, Evidence):
        yield value
    elif isinstance(value, BaseModel):
        for _, inner in value:
            yield from evidence_in(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from evidence_in(inner)


def assert_nothing_is_made_up(made: Insights, scores: Sequence[Score]) -> None:
    """Every quote is in the utterance it cites, and every statement is a quote or one of the fixed texts."""
    texts = {score.identity: score.text for score in scores}
    for one in evidence_in(made):
        assert one.text and one.text in texts[one.identity]
    for statement in (*made.summary, made.reason, made.outcome, *made.issues, *made.objections, *made.action_items):
        if statement is not None:
            assert [statement.text] == [one.text for one in statement.evidence]
    for item in made.action_items:
        assert item.due in item.text
    for advice in made.coaching:
        assert advice.text.endswith(ADVICE[advice.name])
    for question in made.quiz:
        assert 0 <= question.answer < len(question.choices) == len(set(question.choices))


@pytest.fixture(scope="module")
def stage() -> Any:
    return build(Config(), "v1")


@pytest.mark.models
def test_a_complaint_about_a_bill(stage: Any) -> None:
    scores = talk(BILL)
    made = insights_of(stage, scores)
    assert_nothing_is_made_up(made, scores)
    assert (made.state, made.engine, made.language, made.utterances, made.unread) == ("ok", "extractive", "en", 9, 0)
    assert (made.business, made.glossary.split()[0], made.pipeline_version) == ("b2c", "b2c.csv", "v1")
    assert made.reason and made.reason.text == "Hi, I have a problem with my last bill."
    assert made.topics[0].path[0] == "Billing" and (made.topics[0].similarity or 0) > 0.5
    assert made.reason.text in [one.text for one in made.summary]
    assert {one.evidence[0].role for one in made.summary} == {"agent", "customer"}
    assert [one.name for one in made.issues] == ["billing", "waiting"]
    assert [one.name for one in made.objections] == ["price"]
    assert made.outcome and made.outcome.text.startswith("I’ve refunded the second payment")
    (promise,) = made.action_items
    assert (promise.owner, promise.due) == ("agent", "by Friday")
    assert made.resolution.resolved == "yes"
    assert "that's everything I needed" in " ".join(one.text for one in made.resolution.evidence)
    assert made.coaching == ()
    assert [one.name for one in made.quiz] == ["reason", "topic", "promise", "objection", "resolved"]
    assert made.quiz[0].choices[made.quiz[0].answer] == made.reason.text


@pytest.mark.models
def test_a_matter_that_stays_open_and_what_the_agent_can_learn(stage: Any) -> None:
    turns: tuple[tuple[Role, str, float], ...] = (
        ("agent", "Yes?", 0.0),
        ("customer", "My internet is not working, and it has been down for three days now.", -0.6),
        ("agent", "What is your account number?", 0.0),
        ("customer", "This is ridiculous, I called twice already and nothing happens.", -0.9),
        ("agent", "The account number, please.", 0.0),
        ("customer", "One two three. It still does not work, I am really angry.", -0.8),
        ("agent", "There is nothing that we can fix from here.", 0.0),
        ("customer", "So it is still broken and you did not help me at all.", -0.8),
        ("agent", "Right.", 0.0),
    )
    scores = [said(number, role, text, score) for number, (role, text, score) in enumerate(turns)]
    made = insights_of(stage, scores)
    assert_nothing_is_made_up(made, scores)
    assert made.resolution.resolved == "no"
    assert ("Technical help", "Internet", "Internet slow or down") in [topic.path for topic in made.topics]
    assert {one.name for one in made.issues} == {"not_working", "repeated_contact"}
    names = [one.name for one in made.coaching]
    assert names == ["no_empathy", "no_greeting", "no_closing_question", "no_next_step"]
    moment = next(one for one in made.coaching if one.name == "no_empathy")
    assert {one.role for one in moment.evidence} == {"customer"}
    assert any(question.name == "coaching_no_empathy" for question in made.quiz)


@pytest.mark.models
def test_figures_of_the_call_become_advice(stage: Any) -> None:
    agent = "and then there is one more thing that I would like to explain to you about our tariff"
    scores = [said(n, "agent", f"Hello, {agent} {n}.") for n in range(12)]
    # 80 s of silence before the customer says something, and an agent who speaks as soon as he does.
    scores += [said(25, "customer", "I only wanted to change my address."), said(35, "customer", "Can I do that now?")]
    scores += [said(n, "agent", "Let us first go on with the tariff.", after_ms=2_000) for n in (25, 35)]
    scores.sort(key=lambda score: score.start_ms)
    made = insights_of(stage, scores)
    assert_nothing_is_made_up(made, scores)
    found = {one.name: one for one in made.coaching}
    assert set(found) == {"talk_share", "interruptions", "dead_air", "monologue", "no_closing_question"}
    assert found["talk_share"].text.startswith("The agent spoke 88% of the time.")
    assert found["interruptions"].evidence[0].start_ms == 152_000
    assert found["dead_air"].evidence and "seconds" in found["dead_air"].text
    assert found["monologue"].evidence[0].start_ms == 0


@pytest.mark.models
def test_the_glossary_of_the_business_that_the_call_says(stage: Any) -> None:
    info = call().model_copy(update={"metadata": {"business": "B2B"}})
    turns: list[tuple[Role, str]] = [
        ("agent", "Service desk, hello."),
        ("customer", "Hello, I forgot my password and I cannot log in to my computer any more, can you reset it?"),
        ("agent", "Yes, I will send you a new password to your phone shortly."),
    ]
    made = insights_of(stage, talk(turns, info), info)
    assert (made.business, made.topics[0].path) == ("b2b", ("IT support", "Access", "Password reset"))


@pytest.mark.models
def test_however_it_is_read_the_bytes_are_the_same(stage: Any) -> None:
    line = records(talk(BILL))
    expected, _, _ = run("insights", stage, line)
    # A worker that died before each cut would never come to one: so batches of it are longer than what lies between.
    for batches, crash in (((1,), False), ((3, 1, 7), False), ((9, 13), True)):
        written, letters, left = run("insights", stage, line, batches, crash=crash)
        assert [(one.headers, one.value) for one in written] == [(one.headers, one.value) for one in expected]
        assert not letters and not left


@given(
    turns=st.lists(
        st.tuples(
            st.sampled_from(["agent", "customer", "unknown"]),
            st.text(min_size=1, max_size=60)
            | st.lists(
                st.sampled_from(
                    ["I’ll send it tomorrow.", "it's still not working…", "That is too expensive!", "İ can’t log in",
                     "Perfect, it works now.", "I'm calling because", "Is there anything else?", "  ", "charged twice"]
                ),
                max_size=6,
            ).map(" ".join),
        ),
        max_size=12,
    )
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_nothing_is_made_up_of_whatever_is_said(turns: list[tuple[Role, str]]) -> None:
    scores = talk([*turns, ("agent", "word " * FEWEST_WORDS), ("customer", "hello there")])
    made = insights_of(offline(), scores)
    assert made.state == "ok"
    assert_nothing_is_made_up(made, scores)


@pytest.mark.parametrize(
    ("scores", "state", "why"),
    [
        ([], "too_short", "0 words were understood"),
        (talk([("customer", "Sorry, wrong number.")]), "too_short", "3 words were understood in the call; 20 are"),
        (talk([("agent", "well " * 30)]), "no_customer_speech", "nothing was understood of what the customer said"),
        (talk([("customer", "wort " * 30)], language="de-DE"), "unsupported_language", "said in “de”; en can be read"),
        (talk([("customer", "言葉" * 30)], language="ja"), "unsupported_language", "said in “ja”"),
    ],
)
def test_a_call_that_cannot_be_read_says_why(scores: list[Score], state: str, why: str) -> None:
    made = insights_of(offline(), scores)
    assert (made.state, made.engine) == (state, "extractive")
    assert why in made.why
    assert not list(evidence_in(made)) and made.quiz == ()


def test_a_call_in_two_languages_is_read_in_that_of_most_words() -> None:
    scores = [*talk([("customer", "word " * 30)]), said(5, "agent", "wort " * 29, language="de")]
    made = insights_of(offline(), scores)
    assert (made.state, made.language) == ("ok", "en")


def test_where_no_channel_tells_everybody_may_be_the_customer() -> None:
    made = insights_of(offline(), talk([("unknown", "I was charged twice for it and I want my money back. " * 3)]))
    assert made.state == "ok"
    assert [one.name for one in made.issues] == ["billing"]
    assert made.coaching == ()


def test_what_becomes_known_late_holds_for_all_that_was_said() -> None:
    engine, info = Recital(), call(("unknown",))
    one, two = "one thing and another " * 3, "two things and more " * 3
    line = [
        said(0, "unknown", one, info=info, speaker="speaker-1", channel=0),
        said(1, "unknown", two, info=info, speaker="speaker-2", channel=0),
        Correction(call=info, speaker="speaker-1", role="agent", role_confidence=0.9),
        said(2, "unknown", one, info=info, speaker="speaker-3", channel=0),
        Correction(call=info, speaker="speaker-3", same_as="speaker-2"),
        Correction(call=info, speaker="speaker-2", role="customer", role_confidence=0.9),
    ]
    made = insights_of(CallInsights(Config(), "v1", engine), line, info)
    cited = [statement.evidence[0] for statement in made.summary]
    assert [(one.speaker, one.role) for one in cited] == [
        ("speaker-1", "agent"),
        ("speaker-2", "customer"),
        ("speaker-2", "customer"),
    ]


def test_the_other_channel_heard_on_this_one_is_left_out() -> None:
    engine = Recital()
    scores = [*talk(BILL), said(20, "customer", "How can I help you?", flags=("cross_talk",))]
    assert insights_of(CallInsights(Config(), "v1", engine), scores).utterances == len(BILL)


def test_utterances_come_in_the_order_in_which_they_began() -> None:
    engine = Recital()
    scores = talk(BILL)
    insights_of(CallInsights(Config(), "v1", engine), [scores[1], scores[0], *reversed(scores[2:])])
    assert [one.start_ms for one in engine.calls[0].utterances] == [score.start_ms for score in scores]


def test_words_that_nobody_said_are_no_evidence() -> None:
    engine = Recital()
    insights_of(CallInsights(Config(), "v1", engine), talk(BILL))
    (finished,) = engine.calls
    with pytest.raises(ValueError, match="is not in the utterance"):
        finished.evidence(finished.utterances[0], "I never said that")


@pytest.mark.models
def test_four_hours(stage: Any) -> None:
    """The state is bounded, and is not written more often than the scores are read."""
    text = "and so I told them that the parcel number {} had not come to my house in all these weeks of waiting"
    scores = [said(n, "agent" if n % 3 else "customer", text.format(n)) for n in range(2_400)]
    line = records(scores)
    course, snapshots, since = stage.open("call-1"), [], 0
    longest = 0
    for one in line[:-1]:
        (step,) = stage.process([(course, one)])
        since += len(one.value)
        if step.snapshot is not None:
            snapshots.append(len(step.snapshot))
            longest, since = max(longest, since), 0
    assert max(snapshots) < 100_000
    assert sum(snapshots) < sum(len(one.value) for one in line)
    assert longest < course.size + 5_000, "what is read again after a crash"
    restored = stage.restore("call-1", course.dump())
    (step,) = stage.process([(restored, line[-1])])
    (again,) = stage.process([(course, line[-1])])
    assert step == again
    made = event_of(Record("call-1", "insights", dict(step.outputs[0].headers), step.outputs[0].value, 0))
    assert_nothing_is_made_up(made, scores)
    assert (made.state, made.utterances, made.unread) == ("ok", 2_400, 0)
    assert len(step.outputs[0].value) < 50_000
    assert len(scores) > MOST_SENTENCES


def test_of_a_call_too_long_the_beginning_and_the_end_are_read() -> None:
    engine = Recital()
    scores = talk([("customer", f"{n} {'word ' * 300}") for n in range(700)])
    made = insights_of(CallInsights(Config(), "v1", engine), scores)
    kept = [int(one.text.split()[0]) for one in engine.calls[0].utterances]
    assert made.utterances == 700 and made.unread == 700 - len(kept) > 0
    assert kept[:OPENING] == list(range(OPENING)) and kept[-1] == 699
    assert sum(len(one.text) for one in engine.calls[0].utterances) <= KEPT_BYTES


def test_a_call_of_which_the_end_never_comes_leaves_nothing() -> None:
    line = records(talk(BILL))[:-1]
    later = record(marks(call(call_id="call-2"))[0], in_value=True)
    far = Record("call-2", later.kind, later.headers, later.value, later.timestamp_ms + 4_000_000)
    written, _, left = run("insights", CallInsights(Config(), "v1", Recital()), [*line, far], (1,))
    assert [one.kind for one in written] == ["call_started", "call_started"]
    assert "call-1" not in left


def test_a_glossary_that_is_no_good_stops_the_stage(tmp_path: Any) -> None:
    file = tmp_path / "own.csv"
    file.write_text("level1,term\nBank,Card\nBank,card\n")
    with pytest.raises(CalltideError, match=r"own\.csv: rows 2 and 3 both have"):
        build(Config(b2c_glossary=str(file)), "v1")
