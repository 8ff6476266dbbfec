"""Forms: what a file may say, what an item earns and why, and that nothing is lost for what nobody can know."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import insights
from processors.base import Reloadable
from processors.forms import FormFiles
from processors.forms.judging import EVIDENCE, MEANINGS, Forms
from processors.forms.language import FormError, FormSet, parse
from processors.insights import KEPT_BYTES, CallInsights, Config
from processors.rules.language import RuleSet
from schemas.errors import CalltideError
from schemas.events import Evaluation, EvaluationItem, Findings, Insights
from streams import forms_commands, rules_commands
from tests.unit.rule_calls import Call, Letters, Text
from tests.unit.stage_records import event_of, run
from tests.unit.test_insights_stage import Recital, offline

HELLO = "Hello, this is Anna, how can I help you with that today my friend?"
FILLER = "Well I have been thinking about it for a while and so has everybody else around here you know."


class Found:
    """An engine that has found what it is told to."""

    name = "found"
    model = ""
    languages: frozenset[str] | None = frozenset({"en"})

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def conclude(self, call: Any) -> Findings:
        first = call.evidence(call.utterances[0])
        texts = json.loads(json.dumps(self.fields).replace('"EVIDENCE"', first.model_dump_json()))
        return Findings.model_validate({"engine": "found", "state": "ok"} | texts)


def no_rules(path: str) -> RuleSet:
    raise AssertionError(f"no form asks for rules of {path}")


def form(*items: str, more: str = "", name: str = "f") -> str:
    """A form of one section; items in YAML's flow style, the first fields without braces."""
    lines = [
        f"forms:\n  - name: {name}\n    {more}\n    sections:\n      - name: all\n        weight: 1\n        items:"
    ]
    return "\n".join([*lines, *(f"          - {{name: i{at}, {item}}}" for at, item in enumerate(items))])


class Files(Text):
    """Forms that the test writes, and writes anew."""

    def read(self) -> Any:
        self._read = self.text
        return parse({"forms.yaml": self.text}, no_rules)


def stage(text: str | Files, engine: Any = None, embedder: Any = None) -> CallInsights:
    files = Files(text) if isinstance(text, str) else text

    def no_embedder() -> Letters:
        raise AssertionError("no form asks for a meaning")

    return CallInsights(Config(), "v7", engine or Found(), Forms(files.read, files.changed, embedder or no_embedder))


def evaluations(text: str | CallInsights, told: Call, engine: Any = None) -> list[Evaluation]:
    """What is made of a call, read at once or with a restart after each record."""
    made = stage(text, engine) if isinstance(text, str) else text
    written, dead, _ = run("insights", made, told.records)
    assert not dead, dead[0].headers
    course, outputs = made.open(told.info.call_id), []
    for one in told.records:
        (step,) = made.process([(course, one)])
        outputs += step.outputs
        course = made.restore(told.info.call_id, course.dump())
    assert [(dict(one.headers), one.value) for one in outputs] == [(one.headers, one.value) for one in written]
    return [event for event in map(event_of, written) if isinstance(event, Evaluation)]


def judged(text: str, told: Call, engine: Any = None) -> list[EvaluationItem]:
    (one,) = evaluations(text, told, engine=engine)
    return [item for section in one.sections for item in section.items]


def earned(item: str, told: Call, more: str = "", engine: Any = None) -> float | None:
    """What an item of one point earns; others keep the form judged."""
    return judged(form(item, more=more), told, engine)[0].earned


def talk(*roles: Any, end_s: float = 60, **fields: Any) -> Call:
    """Both parties say enough for a call, at 0 and at 10 s; the agent says HELLO."""
    told = Call(*roles, **fields).say(0, HELLO, "agent", length_s=5).say(10, FILLER, "customer", length_s=5)
    return told.hear(end_s - 1)


def faults(text: str) -> list[str]:
    with pytest.raises(FormError) as error:
        parse({"forms.yaml": text}, no_rules)
    return error.value.faults


# The language


def test_the_starter_form_is_right_and_weighs_what_its_documentation_says() -> None:
    (starter,) = FormFiles("").read().forms
    weights = [(section.name, section.weight) for section in starter.sections]
    assert weights == [
        ("greeting", 10), ("verification", 15), ("empathy", 20), ("resolution", 40), ("closing", 15),
    ]  # fmt: skip
    assert FormFiles("none").read() == FormSet(())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rules: [", "forms.yaml:1: this is no YAML"),
        ("- forms", "forms.yaml:1: a file of forms begins with `forms:`"),
        ("{}", "forms.yaml:1: forms: this field is missing"),
        (form("when: {said: {exact: x}}").replace("weight: 1", "weight: 0"), "weight: should be greater than 0"),
        (form("points: 0, when: {said: {exact: x}}"), "points: should be greater than 0"),
        (form("points: .inf, when: {said: {exact: x}}"), "points: should be less than or equal to 1000"),
        (form("points: .nan, when: {said: {exact: x}}"), "points: should be"),
        (form("when: {siad: {exact: x}}"), "when.siad: there is no field of this name; docs/forms.md lists them"),
        (form("when: {category: angry}"), "category angry: say in the form whose it is"),
        (form("when: {said: {emotion: anger, emotion_at_least: 0.5}}"), "emotion_at_least is not known"),
        (form(r"when: {said: {regex: '(a+)+\1'}}"), "RE2 does not take this regex"),
        (form("points: 2"), "an item is exactly one of when, figure, finding"),
        (form("when: {length: {at_least_s: 1}}, figure: {name: turns, at_least: 1}"), "exactly one of when, figure"),
        (form("figure: {name: charm, at_least: 1}"), "there is no figure charm of the agent; there are change, "),
        (form("figure: {name: turns, of: call, at_least: 1}"), "there is no figure turns of the call"),
        (form("figure: {name: turns}"), "give at_least or at_most"),
        (form("figure: {name: turns, at_least: 2, at_most: 1}"), "contradiction: nothing is at least 2 and at most 1"),
        (form("finding: {absent: coaching, name: rudeness}"), "coaching has no sort rudeness; there are talk_share"),
        (form("finding: {present: reason, name: x}"), "reason has no sort x; there are none"),
        (form("finding: {present: issues, by: agent}"), "by is for action_items"),
        (form("finding: {resolved: yes, present: issues}"), "exactly one of resolved, present, absent"),
        (
            form("only_if: {said: {exact: x}}, when: {missing: {exact: x}}"),
            "forms.yaml:8: forms[0].sections[0].items[0]: contradiction: the same missing is to be said and missing",
        ),
        (form("when: {said: {exact: x}}") + "\n          - {name: i0, points: 2, finding: {present: reason}}", "twice"),
        (form(*["when: {said: {exact: x}}"] * 101), "should have at most 100 items"),
        (form("when: {said: {exact: x}}", more="languages: English"), "languages[0]: String should match"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_place(text: str, fault: str) -> None:
    (found,) = faults(text)
    assert found.startswith("forms.yaml:") and fault in found


def test_names_are_once_for_a_tenant_and_every_fault_is_told() -> None:
    one, other = form("when: {said: {exact: x}}", more="tenants: [a]"), form("finding: {present: reason}")
    found = faults(one + other.removeprefix("forms:"))
    assert len(found) == 1 and "another form has this name (forms.yaml:2" in found[0]
    apart = parse({"a.yaml": one, "b.yaml": other.replace("name: f", "name: f\n    tenants: b")}, no_rules)
    assert [(form.name, form.tenants) for form in apart.forms] == [("f", ("a",)), ("f", ("b",))]
    with pytest.raises(CalltideError, match=r"and 1 more; `calltide forms check` lists them"):
        parse({"forms.yaml": form("points: 0, when: {said: {exact: x}}", "points: 1")}, no_rules)


def test_categories_are_the_conditions_of_the_rules_that_give_them(tmp_path: Path) -> None:
    rules, forms = tmp_path / "rules.yaml", tmp_path / "forms.yaml"
    rules.write_text(
        "rules:\n"
        "  - {name: bye, when: {said: {by: agent, exact: goodbye}}}\n"
        "  - {name: polite, category: kind, when: {all: [{category: bye}, {said: {exact: hello}}]}}\n"
        "  - {name: please, category: kind, tenants: [acme], when: {said: {exact: please}}}\n"
    )
    forms.write_text(form("when: {category: kind}", "when: {not: {category: bye}}", more=f"rules: {rules}"))
    files = FormFiles(str(forms))
    made = CallInsights(Config(), "v7", Found(), Forms(files.read, files.changed, Letters))
    told = talk().say(30, "Please, goodbye.", "agent").hear(59).end(60)
    items = evaluations(made, told)[0].sections[0].items
    assert [item.earned for item in items] == [1, 0] and "goodbye" in items[0].why
    rules.write_text(rules.read_text().replace("exact: goodbye", "exact: farewell"))
    assert made.reload(), "other rules are another form"
    assert [item.earned for item in evaluations(made, told)[0].sections[0].items] == [0, 1]
    rules.write_text(rules.read_text().replace("name: bye", "name: by"))
    with pytest.raises(FormError, match="no rule gives the category bye"):
        made.reload()
    forms.write_text(form("when: {category: please}", more="rules: packaged"))
    with pytest.raises(FormError, match="no rule of packaged gives the category please"):
        made.reload()
    forms.write_text(form("when: {not: {category: profanity}}", more="rules: packaged"))
    assert made.reload() and evaluations(made, told)[0].score == 100
    rules.unlink()
    forms.write_text(form("when: {category: kind}", more=f"rules: {rules}"))
    with pytest.raises(FormError, match="there are no rules at"):
        made.reload()


def test_a_version_is_what_a_form_means() -> None:
    def version(text: str) -> str:
        return parse({"forms.yaml": text}, no_rules).forms[0].version

    plain = version(form("when: {said: {exact: x}}"))
    assert version(form("when: {said: {exact: [x]}}, points: 1, description: so", more="description: x")) == plain
    assert version(form("when: {said: {exact: x}}, points: 2")) != plain


# What items earn


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("{said: {by: agent, exact: this is anna}}", 1),
        ("{said: {by: customer, exact: this is anna}}", 0),
        ("{missing: {by: agent, exact: this is anna}}", 0),
        ("{missing: {by: agent, exact: goodbye}}", 1),
        ("{said: {by: agent, stem: helps, window: {first_s: 1}}}", 1),
        ("{said: {by: agent, exact: hello, window: {last_percent: 50}}}", 0),
        ("{said: {by: agent, exact: hello, window: {from_s: 3600}}}", None),
        ("{said: {by: agent, exact: hello, unless: {regex: 'an+a'}}}", 0),
        ("{said: {by: agent, times: 2}}", 0),
        ("{not: {said: {by: agent, exact: goodbye}}}", 1),
        ("{all: [{said: {exact: hello}}, {said: {by: customer, exact: thinking}}]}", 1),
        ("{all: [{said: {exact: hello}}, {said: {exact: goodbye}}]}", 0),
        ("{any: [{said: {exact: goodbye}}, {said: {exact: hello}}]}", 1),
        ("{any: [{said: {exact: goodbye}}, {trend: {below: 0.1, window: {last_s: 5}}}]}", None),
        ("{all: [{said: {exact: goodbye}}, {trend: {below: 0.1, window: {last_s: 5}}}]}", 0),
        ("{not: {trend: {below: 0.1, window: {last_s: 5}}}}", None),
        ("{said: {emotion: anger}}", None),
        ("{silence: {at_least_s: 20}}", 1),
        ("{silence: {at_least_s: 50}}", 0),
        ("{silence: {at_least_s: 20, window: {first_s: 10}}}", 0),
        ("{interruption: {by: agent}}", 0),
        ("{talk_share: {by: agent, below: 0.6}}", 1),
        ("{talk_share: {by: agent, above: 0.6}}", 0),
        ("{talk_share: {by: agent, above: 0.6, after_s: 600}}", None),
        ("{length: {at_least_s: 60}}", 1),
        ("{length: {at_least_s: 61}}", 0),
    ],
)
def test_conditions_are_asked_of_the_whole_call(when: str, expected: float | None) -> None:
    assert earned(f"when: {when}", talk().end(60)) == expected


def test_so_often_within_so_long() -> None:
    told = talk()
    for at in (20, 30, 50):
        told.say(at, "a refund", "customer", -0.5)
    told.end(60)
    assert earned("when: {said: {exact: refund, times: 2, within_s: 10}}", told) == 1
    assert earned("when: {said: {exact: refund, times: 3, within_s: 30}}", told) == 1
    assert earned("when: {said: {exact: refund, times: 3, within_s: 29}}", told) == 0
    assert earned("when: {said: {by: customer, below: -0.4, times: 3}}", told) == 1
    assert earned("when: {trend: {by: customer, below: -0.4, utterances: 3}}", told) == 1
    assert earned("when: {trend: {by: customer, below: -0.4, utterances: 4}}", told) == 0
    item, *_ = judged(form("when: {said: {exact: refund, times: 4}}"), told)
    assert item.why.startswith("3 of 4 times; ") and len(item.evidence) == 3


def test_what_is_earned_and_what_is_lost_cites_utterances() -> None:
    told = talk().say(20, "No.", "customer", -0.9).say(30, "Oh", "agent", 0.1).hear(59).end(60)
    items = judged(
        form(
            "when: {said: {by: agent, exact: hello, window: {first_s: 10}}}",
            "when: {said: {by: agent, exact: goodbye, window: {last_s: 31}}}",
            "figure: {name: longest_silence_ms, of: call, at_most: 9000}",
            "figure: {name: score, of: customer, at_least: 0}",
            "finding: {resolved: yes}",
            "only_if: {said: {by: customer, below: -0.5}}, finding: {absent: coaching, name: no_empathy}",
        ),
        told,
        Found(resolution={"resolved": "no", "evidence": ["EVIDENCE"]}),
    )
    cited = [(item.earned, [one.text for one in item.evidence]) for item in items]
    assert cited == [
        (1, [HELLO]),
        (0, ["Oh"]),
        (0, ["Oh"]),
        (0, [FILLER, "No."]),
        (0, [HELLO]),
        (1, ["No."]),
    ]
    assert items[0].why == "agent at 0:00: “hello”"
    assert items[2].why == "call: longest silence 28 s (at most 9 s)"
    assert items[0].evidence[0].identity == "call-1/0/0"


def test_interruptions_are_judged_where_they_can_be_heard() -> None:
    def overlapping(*roles: Any) -> Call:
        told = talk(*roles)
        for at in (20, 30):
            told.say(at, "I was saying", "customer", length_s=4).say(at + 1, "no wait", "agent", length_s=2)
        return told.hear(59).end(60)

    text = form(
        "figure: {name: interruptions, at_most: 1}",
        "when: {interruption: {by: agent, times: 2, within_s: 11}}",
        "when: {interruption: {by: customer}}",
        "when: {said: {exact: hello}}", "when: {said: {exact: hello}}", "when: {said: {exact: hello}}",
    )  # fmt: skip
    items = judged(text, overlapping())
    assert [item.earned for item in items[:3]] == [0, 1, 0]
    assert {one.text for one in items[0].evidence} == {one.text for one in items[1].evidence} == {"no wait"}
    (mono,) = evaluations(text, overlapping("unknown"))
    assert [item.earned for item in mono.sections[0].items] == [None] * 3 + [1] * 3
    assert (mono.score, mono.judged, mono.state) == (100, 0.5, "ok")


def test_findings_of_the_insights() -> None:
    told = talk().end(60)
    finding = {"name": "dead_air", "text": "Nobody spoke.", "evidence": ["EVIDENCE"]}
    found = Found(
        coaching=[finding], issues=[finding | {"name": "billing"}],
        action_items=[{"text": "I will call", "owner": "agent", "evidence": ["EVIDENCE"]}],
    )  # fmt: skip
    for item, expected in {
        "{absent: coaching, name: dead_air}": 0,
        "{absent: coaching, name: [monologue, too_fast]}": 1,
        "{present: issues}": 1,
        "{present: issues, name: delivery}": 0,
        "{present: action_items, by: agent}": 1,
        "{present: action_items, by: customer}": 0,
        "{present: outcome}": 0,
        "{resolved: yes}": None,
    }.items():
        assert earned(f"finding: {item}", told, engine=found) == expected, item
    assert earned("finding: {resolved: [yes, no]}", told, engine=Found(resolution={"resolved": "no"})) == 1


def test_what_cannot_be_judged_leaves_the_denominator() -> None:
    """Weights 1, 1 and 2; of the first section half can be judged, of the second nothing, of the third all is lost."""
    text = """
forms:
  - name: f
    sections:
      - name: a
        weight: 1
        items:
          - {name: x, points: 3, when: {said: {exact: hello}}}
          - {name: y, points: 3, when: {said: {emotion: anger}}}
      - name: b
        weight: 1
        items: [{name: x, only_if: {length: {at_least_s: 600}}, when: {said: {exact: goodbye}}}]
      - name: c
        weight: 2
        items: [{name: x, when: {said: {exact: goodbye}}}]
"""
    (one,) = evaluations(text, talk().end(60))
    assert [section.score for section in one.sections] == [100, None, 0]
    assert one.score == pytest.approx(100 / 3, abs=0.001)
    assert one.judged == pytest.approx(2.5 / 3, abs=0.001), "what does not apply to a call is no part of its form"
    assert one.sections[1].items[0].why == "does not apply: the call lasts 1:00"


# Calls of which little is known


def test_a_call_without_an_agent_or_a_customer_has_no_score() -> None:
    text = form("when: {said: {exact: hello}}")
    states = {}
    for name, told in {
        "short": Call().say(0, "Hello.", "agent").end(60),
        "agent": Call().say(0, FILLER + FILLER, "agent").end(60),
        "customer": Call().say(0, FILLER + FILLER, "customer").end(60),
        "nobody known": Call("unknown").say(0, FILLER + FILLER, "unknown").end(60),
        "silent": Call().end(60),
    }.items():
        (one,) = evaluations(text, told)
        assert (one.score, one.judged, one.sections) == (None, 0, ()) and one.why
        states[name] = one.state
    assert states == {
        "short": "too_short", "agent": "no_customer_speech", "customer": "no_agent_speech",
        "nobody known": "no_agent_speech", "silent": "too_short",
    }  # fmt: skip


def test_a_language_that_the_form_does_not_read() -> None:
    words, figure = "when: {said: {by: agent, exact: guten tag}}", "figure: {name: turns, at_least: 1}"
    told = talk()
    told.records = told.records[:1]
    told.say(0, HELLO, "agent", language="de").say(10, FILLER, "customer", language="de-AT").hear(59).end(60)
    (one,) = evaluations(form(words, words, figure, more="languages: [en, fr]"), told)
    assert (one.state, one.language, one.score) == ("unsupported_language", "de", None)
    assert [item.earned for item in one.sections[0].items] == [None, None, 1] and "“de”" in one.why
    (half,) = evaluations(form(words, figure, more="languages: [en, fr]"), told)
    assert (half.state, half.score, half.judged) == ("ok", 100, 0.5)
    assert earned(words, told) == 0, "without languages a form reads any"
    assert earned("finding: {absent: issues}", told) is None, "the insights do not read it"


def test_what_an_unknown_party_said_is_not_held_against_the_agent() -> None:
    told = talk("unknown").say(20, "Goodbye.", "unknown").hear(59).end(60)
    told_of = form("when: {said: {by: agent, exact: goodbye}}", "when: {missing: {by: agent, exact: goodbye}}")
    (one,) = evaluations(told_of, told)
    assert [item.earned for item in one.sections[0].items] == [None, None]
    assert (one.state, one.score) == ("too_little_judged", None)
    # Where nobody is known to be the customer, who is not the agent is it.
    anonymous = Call("unknown").say(0, HELLO, "agent").say(10, FILLER, "unknown").hear(59).end(60)
    assert earned("when: {said: {by: customer, exact: thinking}}", anonymous) == 1


def test_roles_that_became_known_late_count_from_the_beginning() -> None:
    from schemas.events import Correction
    from tests.unit.rule_calls import at

    told = Call("unknown")
    told.say(0, HELLO, "unknown", speaker="speaker-1").say(10, FILLER, "unknown", speaker="speaker-2")
    correction = Correction(call=told.info, speaker="speaker-1", role="agent", role_confidence=1)
    told.records.append(at(correction, 20_000))
    told.hear(59).end(60)
    assert earned("when: {said: {by: agent, exact: hello}}", told) == 1


def test_a_call_of_which_the_beginning_was_not_heard() -> None:
    told = talk().say(30, "Goodbye.", "agent").hear(59).end(60)
    told.records = told.records[2:]  # its start and the greeting are gone
    told.say(40, FILLER, "customer").say(42, FILLER, "agent")
    told.records = [*told.records[:-3], *told.records[-2:], told.records[-3]]
    text = form(
        "when: {said: {by: agent, exact: hello, window: {first_s: 20}}}",
        "when: {missing: {by: agent, exact: hello}}",
        "when: {said: {by: agent, exact: goodbye}}",
        "when: {silence: {at_least_s: 50, window: {last_s: 30}}}",
        "when: {silence: {at_least_s: 50}}",
        "when: {talk_share: {by: agent, above: 0.5}}",
        "figure: {name: turns, at_least: 1}",
    )
    assert [item.earned for item in judged(text, told)] == [None, None, 1, 0, None, None, None]


def test_a_call_of_four_hours() -> None:
    """More words than are kept: what is missing may have been said in the part that was left out."""
    told = talk()
    for at in range(1_500):
        told.say(20 + 9 * at, f"{FILLER} {'and so on ' * 60}{at}", "customer" if at % 2 else "agent")
    told.say(14_000, "Goodbye.", "agent").hear(14_399).end(14_400)
    assert sum(len(record.value) for record in told.records) > 1.5 * KEPT_BYTES
    text = form(
        "when: {said: {by: agent, exact: hello}}",
        "when: {said: {by: agent, exact: goodbye, window: {last_s: 600}}}",
        "when: {said: {by: agent, exact: farewell, window: {last_s: 600}}}",
        "when: {said: {by: agent, exact: farewell}}",
        "when: {length: {at_least_s: 14400}}",
    )
    (one,) = [
        one for one in map(event_of, run("insights", stage(text), told.records)[0]) if isinstance(one, Evaluation)
    ]
    assert [item.earned for item in one.sections[0].items] == [1, 1, 0, None, 1]
    assert len(one.model_dump_json()) < 20_000


def test_an_utterance_is_compared_by_meaning_once_and_only_so_many_are() -> None:
    letters = Letters()
    like = "when: {said: {by: agent, meaning: {like: [good bye then], at_least: 0.99}}}"
    made = stage(
        form(like, "when: {missing: {by: agent, meaning: {like: [good bye now], at_least: 0.99}}}"),
        None,
        lambda: letters,
    )
    (one,) = evaluations(made, talk().say(20, "then bye good", "agent").hear(59).end(60))
    assert [item.earned for item in one.sections[0].items] == [1, 1]
    asked = letters.asked[2:]
    assert asked.count(HELLO) == asked.count("then bye good") == 2, "once a call; it was filled twice"
    told = talk()
    for at in range(MEANINGS + 10):
        told.say(20 + at, f"what about the number {at}", "agent", length_s=0.5)
    (many,) = [
        one
        for one in map(event_of, run("insights", made, told.hear(900).end(901).records)[0])
        if isinstance(one, Evaluation)
    ]
    assert many.sections[0].items[0].earned is None, "what comes behind so many is not known"


# The stage


def test_one_evaluation_for_each_form_of_the_tenant_behind_the_insights() -> None:
    text = form("finding: {present: reason}", name="b") + form("figure: {name: turns, at_least: 1}", name="a")[6:]
    text += form("figure: {name: turns, at_least: 1}", name="theirs", more="tenants: [acme]")[6:]
    written, _, left = run("insights", stage(text), talk().end(60).records)
    kinds = [one.kind for one in written]
    assert kinds == ["call_started", "insights", "evaluation", "evaluation", "conversation", "call_ended"] and not left
    assert [event_of(one).form for one in written[2:4]] == ["a", "b"]
    assert [one.form for one in evaluations(text, talk(tenant="acme").end(60))] == ["a", "b", "theirs"]


def test_forms_are_read_anew_while_calls_go_on() -> None:
    files = Files(form("when: {said: {exact: hello}}"))
    made = stage(files)
    assert isinstance(made, Reloadable) and not made.reload()
    before = made._forms and made._forms.version
    files.text += "  # the same"
    assert not made.reload(), "it means the same"
    files.text = form("points: 0, when: {said: {exact: hello}}")
    with pytest.raises(FormError):
        made.reload()
    assert not made.reload() and made._forms and made._forms.version == before
    files.text = form("when: {said: {exact: goodbye}}")
    assert made.reload()
    assert evaluations(made, talk().end(60))[0].score == 0
    assert not offline().reload(), "without forms there is nothing to read"


words = st.sampled_from(["Hello, this is Anna.", "goodbye now", "a refund", "I see, sorry", FILLER])
utterances = st.lists(
    st.tuples(
        st.integers(0, 55), st.sampled_from(["agent", "customer", "unknown"]), words, st.none() | st.floats(-1, 1)
    ),
    max_size=14,
)
conditions: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.sampled_from(
        [
            {"said": {"by": "agent", "exact": "hello"}},
            {"said": {"by": "agent", "regex": "sorry|bye", "window": {"last_s": 30}}},
            {"said": {"below": -0.2, "times": 2, "within_s": 20}},
            {"missing": {"by": "customer", "exact": "refund"}},
            {"trend": {"by": "customer", "below": 0, "utterances": 2}},
            {"silence": {"at_least_s": 10}},
            {"interruption": {"by": "agent"}},
            {"talk_share": {"by": "agent", "above": 0.5}},
            {"length": {"at_least_s": 30}},
        ]
    ),
    lambda parts: (
        st.builds(lambda several: {"all": several}, st.lists(parts, min_size=1, max_size=3))
        | st.builds(lambda several: {"any": several}, st.lists(parts, min_size=1, max_size=3))
        | st.builds(lambda part: {"not": part}, parts)
    ),
    max_leaves=6,
)
items: st.SearchStrategy[dict[str, Any]] = st.builds(lambda when: {"when": when}, conditions) | st.sampled_from(
    [
        {"figure": {"name": "interruptions", "at_most": 0}},
        {"figure": {"name": "score", "of": "customer", "at_least": 0}},
        {"figure": {"name": "silences", "of": "call", "at_most": 0}},
        {"figure": {"name": "response_ms", "at_most": 2_000}},
        {"finding": {"resolved": "yes"}},
        {"finding": {"absent": "coaching"}},
    ]
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), said=utterances, mono=st.booleans(), from_start=st.booleans())
def test_any_form_of_any_call(data: st.DataObject, said: Sequence[Any], mono: bool, from_start: bool) -> None:
    """The same wherever it is cut; scores are from 0 to 100, made of what was judged alone; evidence is of the call."""
    sections = data.draw(st.lists(st.lists(items, min_size=1, max_size=4), min_size=1, max_size=3))
    points = st.floats(0.001, 1_000)
    made = [
        {
            "name": f"s{i}",
            "weight": data.draw(points),
            "items": [{"name": f"i{j}", "points": data.draw(points)} | item for j, item in enumerate(its)],
        }
        for i, its in enumerate(sections)
    ]
    try:
        parse({"f": json.dumps({"forms": [{"name": "f", "sections": made}]})}, no_rules)
    except FormError as error:
        assert all("contradiction" in fault or "no call lasts" in fault for fault in error.faults)
        return
    told = talk("unknown") if mono else talk()
    for at, role, text, score in sorted(said, key=lambda one: one[0]):
        told.say(at, text, role, score)
    told.end(60)
    told.records = told.records if from_start else told.records[1:]
    (one,) = evaluations(json.dumps({"forms": [{"name": "f", "sections": made}]}), told, engine=Recital())
    texts = {
        f"{told.info.call_id}/{event.channel}/{event.start_ms}"
        for event in map(event_of, told.records)
        if event.kind == "score"
    }
    whole = total = 0.0
    for section in one.sections:
        known = [item for item in section.items if item.earned is not None]
        for item in section.items:
            assert item.why and len(item.evidence) <= EVIDENCE
            assert {evidence.identity for evidence in item.evidence} <= texts
            assert item.earned is None or item.earned in (0, item.points)
        assert (section.score is None) == (not known)
        if section.score is not None:
            share = sum(item.earned or 0 for item in known) / sum(item.points for item in known)
            assert section.score == pytest.approx(100 * share, abs=0.001) and 0 <= section.score <= 100
            whole, total = whole + section.weight, total + section.weight * section.score
    assert (one.score is None) == (one.state != "ok") == bool(one.why)
    assert one.score is None or (0 <= one.score <= 100 and one.score == pytest.approx(total / whole, abs=0.001))


# The command line


def test_check_says_what_is_in_a_form_or_all_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forms_commands.check("packaged")
    assert "verification 15%, empathy 20%, resolution 40%" in capsys.readouterr().out
    path = tmp_path / "forms.yaml"
    path.write_text(form("points: 0, when: {said: {exact: x}}", "points: 1"))
    with pytest.raises(CalltideError, match=r"(?s)points: should be greater.*\ncalltide: .*exactly one of when"):
        forms_commands.check(str(path))


def test_show_fills_a_form_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "forms.yaml"
    path.write_text(form("when: {said: {by: agent, exact: hello}}", "when: {said: {emotion: anger}}"))
    told = talk().end(60)
    monkeypatch.setattr(rules_commands, "calls_of", lambda _settings, names, _of: [(names[0], "Kafka", told.records)])
    monkeypatch.setattr(insights, "build", lambda config, _version: stage(Path(config.forms).read_text()))
    forms_commands.show("call-1", str(path))
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("f ") and shown.partition(": ")[2] == (
        f"100, 50% judged 100 all (weight 1) 1 of 1 i0: agent at 0:00: “hello” 0:00.0 agent: {HELLO} "
        "– of 1 i1: no emotion was computed"
    )


def test_insights_without_forms_are_as_they_were() -> None:
    written, _, _ = run("insights", CallInsights(Config(), "v7", Found()), talk().end(60).records)
    assert [one.kind for one in written] == ["call_started", "insights", "conversation", "call_ended"]
    assert isinstance(event_of(written[1]), Insights)
