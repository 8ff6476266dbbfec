"""What is wrong with a file of rules is told with its line and field; and what rules mean has a version."""

import re
from pathlib import Path

import pytest
import yaml

from processors.rules.files import RuleFiles
from processors.rules.language import RULES, RuleError, RuleSet, parse
from processors.rules.stage import Rules
from tests.unit.rule_calls import Call, findings, no_embedder


def read(text: str, name: str = "f.yaml") -> RuleSet:
    return parse({name: text})


def faults(text: str) -> list[str]:
    with pytest.raises(RuleError) as error:
        read(text)
    return error.value.faults


def rules(*when: str) -> str:
    """A rule a line, from line 2 on, named a, b, c, …"""
    lines = (f" - {{name: {chr(97 + number)}, when: {one}}}\n" for number, one in enumerate(when))
    return f"rules:\n{''.join(lines)}"


SAID = "{said: {exact: x}}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rules: [", "f.yaml:1: this is no YAML"),
        ("a\nb: c", "f.yaml:2: this is no YAML"),
        ("just a text", "f.yaml:1: a file of rules begins with `rules:`"),
        ("rules: []\nrule: []", "f.yaml:2: rule: there is no field of this name"),
        ("rules: []\nrules: []", "f.yaml:2: rules is given twice"),
        ("rules: []\n1: 2", "f.yaml:2: 1 is no name of a field"),
        ("rules: [\x07]", "f.yaml:1: this is no YAML"),
        ("rules: [" + "[" * 50 + "]" * 51, "f.yaml:1: more than 200,000 values, or nested deeper than 30"),
        ("[" * 5_000, "f.yaml:1: this cannot be read"),
        ("rules: &a [*a]", "f.yaml:1: more than 200,000 values, or nested deeper than 30"),
        ("rules:\n - {when: {said: {exact: x}}}", "f.yaml:2: rules[0].name: this field is missing"),
        ("rules:\n - name: a", "f.yaml:2: rules[0].when: this field is missing"),
        (f"rules:\n - {{name: '', when: {SAID}}}", "f.yaml:2: rules[0].name: String should match"),
        (rules("{said: {exact: 1}}"), "f.yaml:2: rules[0].when.said.exact[0]: should be a text; numbers"),
        (rules(SAID, "{said: {regex: [ok, '(?=a)']}}"), "f.yaml:3: rules[1].when.said.regex[1]: RE2 does not take"),
        (rules(r"{said: {unless: {regex: '(a)\1'}}}"), "f.yaml:2: rules[0].when.said.unless.regex[0]: RE2 does not"),
        (rules("{said: {regex: '(x{900}){900}'}}"), "f.yaml:2: rules[0].when.said.regex[0]: RE2 does not take"),
        (rules("{said: {meaning: {like: []}}}"), "f.yaml:2: rules[0].when.said.meaning.like: Value should have"),
        (rules("{said: {by: boss}}"), "f.yaml:2: rules[0].when.said.by[0]: should be 'agent', 'customer'"),
        (rules("{said: {emotion_at_least: 0.5}}"), "f.yaml:2: rules[0].when.said: emotion_at_least needs emotion"),
        (rules("{silence: {at_least_s: 2}}"), "f.yaml:2: rules[0].when.silence.at_least_s: should be greater than"),
        (rules("{said: {times: 21}}"), "f.yaml:2: rules[0].when.said.times: should be less than"),
        (rules("{trend: {by: customer}}"), "f.yaml:2: rules[0].when.trend: give below or above"),
        (rules("{talk_share: {by: agent}}"), "f.yaml:2: rules[0].when.talk_share: give above or below"),
        (rules("{said: {window: {}}}"), "f.yaml:2: rules[0].when.said.window: give from_s and to_s, or one of"),
        (rules("{said: {window: {first_s: 3, last_s: 3}}}"), "f.yaml:2: rules[0].when.said.window: give from_s"),
        (rules("{all: []}"), "f.yaml:2: rules[0].when.all: Tuple should have at least 1 item"),
        (rules("{}"), "f.yaml:2: rules[0].when: a condition is exactly one of all, any, not, said"),
        (
            "rules:\n- name: a\n  when:\n    all:\n    - said: {exact: x}\n      silence: {}",
            "f.yaml:5: rules[0].when.all[0]: a condition is exactly one of",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_field(text: str, fault: str) -> None:
    (found,) = faults(text)
    assert found.startswith(fault), found


def test_every_fault_of_every_file_is_told() -> None:
    with pytest.raises(RuleError) as error:
        parse({"b.yaml": rules("{said: {nope: 1, by: me}}"), "a.yaml": "rules: ["})
    assert [fault.split(": ")[0] for fault in error.value.faults] == ["a.yaml:1", "b.yaml:2", "b.yaml:2"]
    assert str(error.value).endswith("(and 2 more; `calltide rules check` lists them)")


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ("{said: {below: -0.4, above: -0.2}}", "contradiction: no score is above -0.2 and below -0.4"),
        ("{trend: {below: 0, above: 0}}", "contradiction: no score is above 0 and below 0"),
        ("{talk_share: {by: agent, above: 0.8, below: 0.2}}", "contradiction: no share is above 0.8 and below 0.2"),
        ("{said: {window: {from_s: 30, to_s: 10}}}", "nothing is after 30 s and before 10 s"),
        (f"{{not: {SAID}}}", "it says only what must not be"),
        (f"{{any: [{{not: {SAID}}}, {{all: [{{not: {SAID}}}]}}]}}", "it says only what must not be"),
        (f"{{all: [{SAID}, {{all: [{{not: {SAID}}}]}}]}}", "contradiction: the same said and not the same said"),
        ("{all: [{said: {exact: x}}, {missing: {exact: x}}]}", "contradiction: the same missing is to be said and"),
        (
            "{all: [{length: {at_least_s: 600}}, {not: {length: {at_least_s: 300}}}]}",
            "contradiction: no call lasts 600 s and not 300 s",
        ),
        (
            "{any: [{all: [{talk_share: {by: agent, above: 0.8}}, {talk_share: {by: agent, below: 0.5}}]}]}",
            "contradiction: no talk share of agent is above 0.8 and below 0.5",
        ),
        ("{category: nobody}", "no rule gives the category nobody"),
        ("{category: a}", "rules go in a circle by the categories that they ask for: a → a"),
    ],
)
def test_contradictions_are_refused(when: str, why: str) -> None:
    found = faults(rules(when))
    assert any(
        why in fault and fault.startswith("f.yaml:2: ") and ("rule a" in fault or "[0]" in fault) for fault in found
    )


def test_a_circle_of_rules_is_refused_with_their_names() -> None:
    asks = "{{any: [{{category: {}}}, {{said: {{exact: x}}}}]}}"
    (found,) = faults(rules(asks.format("b"), asks.format("c"), asks.format("a"), asks.format("c")))
    assert found.endswith("rules go in a circle by the categories that they ask for: a → b → c → a")


def test_rules_of_one_name_are_refused_unless_no_tenant_has_both() -> None:
    def two(one: str, other: str) -> str:
        return f"rules:\n - {{name: a{one}, when: {SAID}}}\n - {{name: a{other}, when: {SAID}}}\n"

    (found,) = faults(two("", ", tenants: acme"))
    assert found.startswith("f.yaml:3: rule a: another rule has this name (f.yaml:2: rule a)")
    assert len(read(two(", tenants: globex", ", tenants: acme")).rules) == 2
    assert len(read(two("", ", enabled: false")).rules) == 1, "one that is off is none"


def test_a_category_must_come_from_a_rule_of_the_same_tenants() -> None:
    text = f"rules:\n - {{name: a, tenants: acme, when: {SAID}}}\n - {{name: b, tenants: WHOSE, when: {{category: a}}}}"
    assert "no rule gives the category a" in faults(text.replace("WHOSE", "globex"))[0]
    assert [rule.name for rule in read(text.replace("WHOSE", "[globex, acme]")).rules] == ["a", "b"]


def test_rules_stand_behind_those_whose_categories_they_ask_for() -> None:
    made = read(rules("{category: b}", "{category: c}", SAID))
    assert [rule.name for rule in made.rules] == ["c", "b", "a"]


def test_many_rules_in_a_row_are_ordered_and_too_many_refused() -> None:
    line = "".join(f" - {{name: r{i:04}, when: {{category: r{i + 1:04}}}}}\n" for i in range(RULES - 1))
    last = f" - {{name: r{RULES - 1:04}, when: {SAID}}}\n"
    made = read(f"rules:\n{line}{last}")
    assert [rule.name for rule in made.rules] == sorted((rule.name for rule in made.rules), reverse=True)
    (found,) = faults(f"rules:\n{line}{last} - {{name: more, when: {SAID}}}\n")
    assert found.startswith("f.yaml:1: rules: Tuple should have at most 1000 items")


def test_a_file_names_tenants_for_its_rules() -> None:
    text = f"tenants: acme\nrules:\n - {{name: a, when: {SAID}}}\n - {{name: b, tenants: [globex], when: {SAID}}}\n"
    made = read(text)
    assert [rule.tenants for rule in made.rules] == [("acme",), ("globex",)]
    assert made.tenants == {"acme", "globex"}
    assert [rule.name for rule in made.of("acme")] == ["a"]


def test_the_version_is_of_what_rules_mean() -> None:
    text = rules("{said: {exact: [x], times: 1}}", "{silence: {at_least_s: 10}}")
    version = read(text).version
    assert read(f"# so\n{text}").version == version
    assert read(rules("{said: {exact: x}}", "{silence: {at_least_s: 10.0}}")).version == version
    assert read(text, "g.yaml").version == version
    one, other = rules("{said: {exact: x}}"), "rules:\n - {name: b, when: {silence: {at_least_s: 10}}}"
    assert parse({"1.yaml": other, "2.yaml": one}).version == version, "nor does it matter where they stand"
    assert read(text.replace("10", "11")).version != version
    assert read(text.replace("name: a", "name: c")).version != version
    assert read(text.replace("name: a", "name: a, alert: {}")).version != version
    assert read(text.replace("name: a", "name: a, description: why")).version == version


def test_yes_and_no_are_words() -> None:
    (rule,) = read(rules("{said: {exact: [yes, no, on, off, y]}}")).rules
    assert rule.when.said is not None
    assert rule.when.said.exact == ("yes", "no", "on", "off", "y")


def test_an_empty_file_has_no_rules() -> None:
    assert read("").rules == read("# nothing\n").rules == ()
    assert RuleFiles("none").read().rules == ()


def test_the_starter_set_is_in_order() -> None:
    made = RuleFiles("packaged").read()
    assert {rule.name for rule in made.rules} == {
        *("angry-customer", "cancellation", "dead-air", "legal-threat", "profanity", "supervisor-requested")
    }
    assert all(rule.alert is not None and rule.alert.message and rule.description for rule in made.rules)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("I'd like to speak to a supervisor, please.", "supervisor-requested"),
        ("Can you put me through to your manager?", "supervisor-requested"),
        ("Get me the manager!", "supervisor-requested"),
        ("Can I talk to the device manager?", None),
        ("I put it in the task manager.", None),
        ("My manager said so.", None),
        ("I want to cancel.", "cancellation"),
        ("Please close my account.", "cancellation"),
        ("I'm going to a different provider.", "cancellation"),
        ("I want to cancel a transfer.", None),
        ("I do not want to cancel my account.", None),
        ("You'll hear from my lawyer.", "legal-threat"),
        ("Then I'll see you in small claims court.", "legal-threat"),
        ("There was a legal notice in the letter.", None),
        ("This is bullshit.", "profanity"),
        ("I live in Scunthorpe.", None),
    ],
)
def test_what_the_starter_set_hears(text: str, rule: str | None) -> None:
    made = Rules(RuleFiles("packaged").read, lambda: False, "v7", no_embedder)
    assert [one.rule for one in findings(made, Call().say(1, text, score=None))] == ([rule] if rule else [])


def test_a_text_that_yaml_makes_is_the_one_that_was_meant() -> None:
    text = yaml.safe_dump({"rules": [{"name": "a", "when": {"said": {"exact": ["no", "1", "a: b", "“x”\n"]}}}]})
    (rule,) = read(text).rules
    assert rule.when.said is not None
    assert rule.when.said.exact == ("no", "1", "a: b", "“x”\n")


def test_the_examples_of_the_docs_are_right() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "rules.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"```yaml\n(.*?)```", page, re.S)
    version = read(first).version
    assert f"my-rules.yaml: 1 rules are right, version {version}" in page
    assert all(read(f"rules:\n{text.removeprefix('rules:')}").rules for text in others)
