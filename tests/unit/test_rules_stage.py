"""What each condition of a rule means, by calls that are told in a few lines."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.base import Reloadable
from processors.rules import Config, build
from processors.rules.stage import EVIDENCE, Rules, Watch
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallStarted, Categorised, Correction
from tests.unit.rule_calls import Call, Letters, Text, at, findings, moments, rule, stage
from tests.unit.stage_records import STARTED_AT, event_of, run


def test_an_alert_says_what_where_and_why() -> None:
    told = Call().say(3, "Good morning.", "agent").say(8, "I want to CANCEL my plan!", score=-0.5)
    (alert,) = findings(
        rule(
            "{said: {by: customer, exact: cancel my plan}}", "leaving", "alert: {severity: critical, message: They go}"
        ),
        told,
    )
    assert (alert.rule, alert.category, alert.severity) == ("leaving", "leaving", "critical")
    assert alert.at_ms == 10_000
    assert alert.raised_at == STARTED_AT, "when the utterance's audio was captured"
    assert alert.message == "They go: customer at 0:08: “cancel my plan”"
    assert alert.pipeline_version == "v7"
    assert len(alert.rules_version) == 12
    (evidence,) = alert.evidence
    assert evidence.model_dump() == {
        "identity": "call-1/1/8000",
        "channel": 1,
        "start_ms": 8_000,
        "end_ms": 10_000,
        "speaker": "customer",
        "role": "customer",
        "text": "I want to CANCEL my plan!",
    }


def test_a_category_is_found_once_and_without_an_alert_nobody_is_told() -> None:
    told = Call().say(1, "refund").say(5, "refund").end(9)
    rules = rule("{said: {exact: refund}}", "money", "category: billing")
    assert findings(rules, told) == []
    (found,) = findings(rules, told, kind=Categorised)
    assert (found.rule, found.category, found.at_ms) == ("money", "billing", 3_000)


def test_start_and_end_pass_and_nothing_else_does() -> None:
    told = Call().say(1, "hello").hear(5)
    told.records.append(at(Correction(call=told.info, speaker="customer", role="customer"), 5_000))
    written = run("rules", stage("rules: []"), told.end(9).records)[0]
    assert [type(event_of(one)) for one in written] == [CallStarted, CallEnded]


def test_alerts_of_the_end_come_before_the_end() -> None:
    written = run("rules", stage(rule("{missing: {exact: goodbye}}")), Call().say(1, "hello").end(9).records)[0]
    assert [one.kind for one in written] == ["call_started", "category", "alert", "call_ended"]


# Words


@pytest.mark.parametrize(
    ("asks", "text", "true"),
    [
        ("exact: cancel", "Cancel, please", True),
        ("exact: cancel", "cancellation", False),
        ("exact: don't care", "I DON’T  care.", True),
        ("exact: my plan", "my old plan", False),
        ("exact: [no, 'your mother']", "Your mother?", True),
        ("exact: \u53d6\u308a\u6d88\u3057", "\u6ce8\u6587\u3092\u53d6\u308a\u6d88\u3057\u305f\u3044\u3067\u3059", True),
        ("stem: cancel my subscription", "cancelling my subscriptions", True),
        ("stem: cancel my subscription", "cancelled the subscription", False),
        (r"regex: '\bcancel\w*'", "cancellations", True),
        (r"regex: '^hello'", "well, hello", False),
        ("regex: 'straße'", "STRASSE", False),
        ("regex: 'straße'", "STRAßE", True),
        ("{exact: a, stem: b, regex: c}", "the letter c", True),
        ("{exact: cancel, unless: {exact: not cancel}}", "do not cancel it", False),
        ("{exact: cancel, unless: {regex: 'appointment'}}", "cancel my plan", True),
    ],
)
def test_words(asks: str, text: str, true: bool) -> None:
    asks = asks if asks.startswith("{") else f"{{{asks}}}"
    assert bool(findings(rule(f"{{said: {asks}}}"), Call().say(1, text))) is true


def test_stems_are_those_of_the_language_that_is_spoken_and_of_an_unknown_one_the_words_are_taken() -> None:
    rules = rule("{said: {stem: [kündigen, kundigung]}}")
    spoken = {"de": "Ich kündige", "de-AT": "Wir kündigen", "xx": "ich kündige", "tlh": "kündigen"}
    heard = {language: moments(rules, Call().say(1, text, language=language)) for language, text in spoken.items()}
    assert heard == {"de": [3], "de-AT": [3], "xx": [], "tlh": [3]}


def test_a_meaning_is_asked_for_only_where_all_else_is_true() -> None:
    letters = Letters()
    rules = stage(
        rule("{said: {by: customer, below: -0.3, meaning: {like: [stop the deal now], at_least: 0.95}}}"),
        lambda: letters,
    )
    told = (
        Call().say(1, "now deal the stop", score=-0.2).say(4, "now deal the stop", "agent", -0.9).say(7, "oh", score=-1)
    )
    assert findings(rules, told) == []
    assert letters.asked == ["stop the deal now"], "no utterance was"
    (alert,) = findings(rules, Call().say(1, "Now, the deal: stop.", score=-0.5).say(4, "quite another", score=-0.5))
    assert alert.message.endswith("customer at 0:01: “Now, the deal: stop.”, scored −0.5, like “stop the deal now”")


def test_the_model_of_meanings_is_made_once_and_reads_an_utterance_once_for_all_rules() -> None:
    made: list[Letters] = []

    def make() -> Letters:
        made.append(Letters())
        return made[-1]

    likes = ("stop the deal now", "i want my money", "where is the van")
    rules = [f" - {{name: r{n}, alert: {{}}, when: {{said: {{meaning: [{like}]}}}}}}" for n, like in enumerate(likes)]
    findings(stage("rules:\n" + "\n".join(rules), make), Call().say(1, "one two three").say(4, "four five six"))
    (model,) = made
    said = ["one two three", "four five six"]
    assert model.asked == [*likes, *said, *said], "read in one batch, and one by one"


def test_a_regex_that_explodes_elsewhere_takes_no_time() -> None:
    told = Call()
    for i in range(20):
        told.say(i * 3, "a" * 5_000 + "!")
    rules = rule(r"{any: [{said: {regex: '(a+)+$'}}, {said: {regex: '(a|aa)*b'}}, {said: {regex: '(.*a){20}c'}}]}")
    assert findings(rules, told) == []


@pytest.mark.parametrize("many", [40, 200])
def test_many_regexes_are_one_automaton_and_where_they_are_too_large_they_are_still_found(many: int) -> None:
    large = "\n".join(f"          - '(a|b)[a-z]{{{n},900}}[0-9a-f]{{700}}x{n}'" for n in range(1, many))
    rules = (
        f"rules:\n  - name: it\n    alert: {{}}\n    when:\n      said:\n        regex:\n{large}\n          - refund\n"
    )
    made = stage(rules)
    assert (made._others.matcher._set is None) is (many == 200)
    assert moments(made, Call().say(1, "a refund please")) == [3]


# Who, how


def test_who_said_it() -> None:
    rules = rule("{said: {by: [agent, unknown], exact: refund}}")
    told = Call("agent", "customer", "unknown").say(1, "refund").say(4, "refund", "agent").say(7, "refund", "unknown")
    assert moments(rules, told) == [6, 9]


def test_language_sentiment_and_emotion_of_the_same_utterance() -> None:
    rules = rule("{said: {exact: well, language: en, below: -0.3, emotion: [anger, fear]}}")
    angry = {"anger": 0.7, "neutral": 0.3}
    told = (
        Call()
        .say(1, "well", score=-0.3, voice=angry)
        .say(4, "well", score=-0.4)
        .say(7, "well", score=-0.4, voice={"anger": 0.4, "neutral": 0.6})
        .say(10, "well", score=-0.4, voice=angry, uncertain=True)
        .say(13, "well", score=None, voice=angry)
        .say(16, "well", score=-0.4, voice=angry, language="fr")
        .say(19, "well", score=-0.4, voice=angry)
    )
    (alert,) = findings(rules, told)
    assert alert.at_ms == 21_000
    assert alert.message == "it: customer at 0:19: “well”, scored −0.4, sounds like anger or fear"
    assert moments(rule("{said: {emotion: [anger, fear], emotion_at_least: 0.7}}"), told) == [3, 12, 15, 18, 21]


def test_what_another_channel_is_heard_through_is_not_said_by_its_party() -> None:
    assert moments(rule("{said: {exact: refund}}"), Call().say(1, "refund", flags=("cross_talk",))) == []


def test_an_utterance_without_words_says_nothing() -> None:
    assert moments(rule("{said: {by: customer}}"), Call().say(1, "", score=None).say(4, "yes")) == [6]


def test_how_often_and_within_what_time() -> None:
    told = Call().say(1, "no").say(10, "no").say(65, "no").say(71, "no").say(200, "no")
    assert moments(rule('{said: {exact: "no", times: 3}}'), told) == [67, 73, 202]
    assert moments(rule('{said: {exact: "no", times: 3, within_s: 63}}'), told) == [73]


def test_a_trend_is_of_utterances_in_a_row() -> None:
    rules = rule("{trend: {by: customer, below: -0.4, utterances: 3}}")
    told = (
        Call()
        .say(0, "one", score=-0.5)
        .say(3, "two", score=-0.6)
        .say(6, "sorry", "agent", -0.9)
        .say(9, "", score=None)
        .say(12, "three", score=-0.7)
        .say(15, "four", score=-0.41)
        .say(18, "five", score=-0.4)
        .say(21, "six", score=-0.9)
    )
    alerts = findings(rules, told)
    assert [alert.at_ms for alert in alerts] == [14_000, 17_000]
    assert [one.text for one in alerts[0].evidence] == ["one", "two", "three"]
    assert alerts[0].message == "it: customer below −0.4 in 3 utterances in a row"
    assert moments(rule("{trend: {by: agent, above: 0, utterances: 2}}"), told) == []


# The conversation


def test_a_silence_is_told_when_it_is_long_enough_and_once() -> None:
    told = Call().say(0, "one moment", "agent").hear(2)
    for second in range(3, 30):
        told.hear(second)
    told.say(30, "hello?").hear(31).hear(33).hear(45).end(50)
    alerts = findings(rule("{silence: {at_least_s: 10}}"), told)
    assert [alert.at_ms for alert in alerts] == [12_000, 42_000]
    assert alerts[0].message == "it: nobody has spoken for 10 s since 0:02"
    assert [one.text for one in alerts[0].evidence] == ["one moment"]
    assert alerts[0].raised_at == STARTED_AT + timedelta(seconds=12)


def test_a_silence_is_found_too_when_the_watermark_comes_past_its_end_at_once() -> None:
    told = Call().say(0, "one moment", "agent").hear(2).hear(11.5).say(13, "hello?", length_s=9).hear(22)
    assert moments(rule("{silence: {at_least_s: 10}}"), told) == [12]
    assert moments(rule("{silence: {at_least_s: 12}}"), told) == []


def test_a_silence_in_which_somebody_is_still_speaking_is_none() -> None:
    told = Call().say(0, "one", "agent").hear(2).say(2.5, "a long story", length_s=14).hear(16.5).hear(20)
    assert moments(rule("{silence: {}}"), told) == []


def test_a_call_that_is_not_heard_from_its_start_has_no_silence_before() -> None:
    told = Call()
    told.records.clear()
    told.hear(100).say(101, "hello").hear(103).hear(104)
    assert moments(rule("{silence: {}}"), told) == []


def test_interruptions_are_counted_by_who_cuts_in() -> None:
    told = Call()
    for at_s in (0, 20, 40):
        told.say(at_s, "let me explain", length_s=8).say(at_s + 5, "no no", "agent", length_s=6).hear(at_s + 12)
    rules = rule("{interruption: {by: agent, times: 2}}")
    alerts = findings(rules, told)
    assert [alert.at_ms for alert in alerts] == [31_000, 51_000]
    assert alerts[0].message == "it: agent has interrupted; agent has interrupted 2 times"
    assert {one.role for one in alerts[0].evidence} == {"agent", "customer"}
    assert moments(rule("{interruption: {by: customer}}"), told) == []
    mixed = Call("unknown")
    mixed.say(0, "let me", "agent", length_s=8).say(5, "no no", "customer", length_s=6).hear(12)
    assert moments(rule("{interruption: {}}"), mixed) == [], "one channel cannot tell"


def test_talk_share_is_asked_for_after_a_time() -> None:
    told = (
        Call().say(0, "a long story", "agent", length_s=15).hear(30).say(61, "yes", length_s=1).say(70, "and", "agent")
    )
    (alert,) = findings(rule("{talk_share: {by: agent, above: 0.8}}"), told)
    assert alert.at_ms == 62_000, "with the first record behind the minute, and once as long as it is so"
    assert alert.message == "it: agent has 94% of the talk"
    assert moments(rule("{talk_share: {by: customer, above: 0.8}}"), told) == []


def test_length() -> None:
    told = Call().say(0, "hello").hear(599).hear(601).hear(700).end(800)
    assert moments(rule("{length: {at_least_s: 600}}"), told) == [600]
    assert moments(rule("{length: {at_least_s: 900}}"), told) == []


# Windows


def test_windows() -> None:
    told = Call().say(5, "no").say(29, "no").say(31, "no").say(95, "no").end(100)
    no = 'exact: "no"'
    assert moments(rule(f"{{said: {{{no}, window: {{first_s: 30}}}}}}"), told) == [7, 31]
    assert moments(rule(f"{{said: {{{no}, window: {{from_s: 30, to_s: 90}}}}}}"), told) == [33]
    assert moments(rule(f"{{said: {{{no}, window: {{from_s: 30}}}}}}"), told) == [33, 97]
    assert moments(rule(f"{{said: {{{no}, window: {{last_s: 6}}}}}}"), told) == [100], "known at the end only"
    assert moments(rule(f"{{said: {{{no}, window: {{last_s: 4}}}}}}"), told) == []
    assert moments(rule(f"{{said: {{{no}, times: 3, window: {{first_percent: 31}}}}}}"), told) == [100]
    assert moments(rule(f"{{said: {{{no}, times: 3, window: {{first_percent: 30}}}}}}"), told) == []
    assert moments(rule(f"{{said: {{{no}, window: {{last_percent: 5}}}}}}"), told) == [100]
    assert moments(rule(f"{{said: {{{no}, times: 2, window: {{last_percent: 5}}}}}}"), told) == []


def test_what_is_missing_is_known_when_the_watermark_has_passed() -> None:
    rules = rule("{missing: {by: agent, exact: [is recorded, recorded line], window: {first_s: 30}}}")
    greeting = Call().say(2, "hello", "agent").hear(20)
    (alert,) = findings(rules, greeting.hear(29).say(31, "it is recorded", "agent").hear(33))
    assert alert.at_ms == 30_000
    assert alert.message == "it: “is recorded” or the like was not said in the first 30 s by the agent"
    late = Call().say(2, "hello", "agent").hear(29).say(29.5, "this call is recorded", "agent", length_s=6).hear(35.5)
    assert moments(rules, late) == [], "it begins in the window"
    assert moments(rules, Call().say(2, "this call is recorded", "customer").hear(31)) == [30]
    assert moments(rules, Call("unknown").say(2, "this call is recorded", "unknown").hear(31)) == [], (
        "it may be the agent"
    )
    assert moments(rules, Call().say(2, "hello", "agent").end(12)) == [12], "the call ends before"
    late_window = rule("{missing: {exact: well, window: {from_s: 30, to_s: 60}}}")
    assert moments(late_window, Call().say(2, "hello").end(12)) == [], "it never came to that"
    assert moments(late_window, Call().say(2, "hello").end(40)) == [40]


def test_what_is_missing_is_known_once_and_stays_known() -> None:
    rules = rule("{all: [{missing: {exact: hello, window: {first_s: 5}}}, {said: {exact: bye}}]}")
    assert moments(rules, Call().hear(6).say(7, "hello").say(10, "bye")) == [12]
    assert moments(rules, Call().say(1, "hello").hear(6).say(10, "bye")) == []


def test_a_rule_does_not_say_that_something_is_missing_where_it_was_not_listening() -> None:
    rules = rule("{missing: {exact: recorded, window: {first_s: 30}}}")
    told = Call()
    told.records.clear()
    assert moments(rules, told.say(12, "hello").hear(31)) == []
    anywhere = Call()
    anywhere.records.clear()
    assert moments(rule("{missing: {exact: recorded}}"), anywhere.say(12, "hello").end(31)) == []
    at_end = Call()
    at_end.records.clear()
    assert moments(rule("{missing: {exact: bye, window: {last_s: 10}}}"), at_end.say(12, "hello").end(31)) == [31]


# Together


def test_all_any_and_not() -> None:
    told = Call().say(1, "cancel").say(10, "a discount", "agent").say(20, "cancel").say(30, "thanks")
    cancel, offer = "{said: {by: customer, exact: cancel}}", "{said: {by: agent, exact: discount}}"
    assert moments(rule(f"{{all: [{cancel}, {offer}]}}"), told) == [12, 22], "in any order, whenever one is new"
    assert moments(rule(f"{{any: [{cancel}, {offer}]}}"), told) == [3, 12, 22]
    assert moments(rule(f"{{all: [{cancel}, {{not: {offer}}}]}}"), told) == [3]
    assert moments(rule(f"{{all: [{offer}, {{not: {cancel}}}]}}"), told) == []
    assert moments(rule(f"{{all: [{cancel}, {{not: {{not: {offer}}}}}]}}"), told) == [22]
    both = findings(rule(f"{{all: [{cancel}, {offer}]}}"), told)[0]
    assert [one.text for one in both.evidence] == ["cancel", "a discount"]
    assert both.message == "it: customer at 0:01: “cancel”; agent at 0:10: “discount”"


def test_what_is_known_at_the_end_only_is_waited_for() -> None:
    cancel, thanks = "{said: {exact: cancel}}", "{said: {exact: thanks, window: {last_s: 10}}}"
    told = Call().say(1, "cancel").say(20, "thanks")
    assert moments(rule(f"{{all: [{cancel}, {{not: {thanks}}}]}}"), told.end(25)) == []
    told.records.pop()
    assert moments(rule(f"{{all: [{cancel}, {{not: {thanks}}}]}}"), told.end(60)) == [60]


def test_a_rule_may_ask_for_the_category_of_another() -> None:
    rules = """
rules:
  - {name: a-lost, category: lost, alert: {}, when: {all: [{category: leaving}, {said: {exact: bye}}]}}
  - {name: z-leaving, category: leaving, when: {any: [{said: {exact: cancel}}, {category: angry}]}}
  - {name: angry, when: {said: {below: -0.5}}}
"""
    assert moments(rules, Call().say(1, "bye").say(5, "well", score=-0.9)) == [7], "at once, through two rules"
    found = findings(rules, Call().say(1, "bye", score=-0.9), kind=Categorised)
    assert [one.rule for one in found] == ["angry", "z-leaving", "a-lost"]


def test_cool_down_is_of_media_time_and_of_the_alert() -> None:
    told = Call()
    for at_s in range(0, 60, 10):
        told.say(at_s, "refund")
    assert moments(rule("{said: {exact: refund}}", more="alert: {cooldown_s: 25}"), told) == [2, 32]
    assert moments(rule("{said: {exact: refund}}", more="alert: {cooldown_s: 20}"), told) == [2, 22, 42]
    assert moments(rule("{said: {exact: refund}}"), told.say(50, "refund", "agent")) == [2, 12, 22, 32, 42, 52], (
        "two of one moment are one"
    )


# Tenants


def test_rules_are_of_tenants() -> None:
    rules = """
rules:
  - {name: ours, tenants: acme, alert: {}, when: {said: {exact: refund}}}
  - {name: theirs, tenants: [globex, "o'hare; DROP TABLE alerts"], alert: {}, when: {said: {exact: refund}}}
  - {name: everybody, alert: {}, when: {said: {exact: refund}}}
  - {name: twice, tenants: acme, alert: {}, when: {said: {exact: refund}}}
  - {name: twice, tenants: globex, alert: {}, when: {said: {exact: never}}}
"""
    of = {}
    for tenant in ("acme", "globex", "o'hare; DROP TABLE alerts", "default"):
        of[tenant] = [one.rule for one in findings(rules, Call(tenant=tenant).say(1, "refund"))]
    assert of == {
        "acme": ["everybody", "ours", "twice"],
        "globex": ["everybody", "theirs"],
        "o'hare; DROP TABLE alerts": ["everybody", "theirs"],
        "default": ["everybody"],
    }


# Reloading


def drive(made: Rules, told: Call, watch: Watch | None = None) -> tuple[Watch, list[str]]:
    """(the state, the rules that raised an alert) after the records of the call, which are forgotten."""
    watch = watch or made.open("call-1")
    steps = made.process([(watch, one) for one in told.records])
    told.records.clear()
    outputs = [dict(output.headers)["kind"] for step in steps for output in step.outputs]
    alerts = [json.loads(output.value) for step in steps for output in step.outputs]
    assert len(outputs) == len(alerts)
    return watch, [alert["rule"] for alert in alerts if alert["kind"] == "alert"]


def test_rules_written_during_a_call_are_held_against_it_and_know_nothing_of_before() -> None:
    text = Text(rule('{said: {exact: "no", times: 2}}', more="alert: {cooldown_s: 60}"))
    made, told = stage(text), Call().say(1, "no").say(5, "refund")
    assert isinstance(made, Reloadable)
    watch, alerts = drive(made, told)
    assert not alerts and not made.reload()
    before = made.version
    text.text += """
  - {name: new, alert: {}, when: {said: {exact: refund}}}
  - {name: greeting, alert: {}, when: {missing: {exact: hello, window: {first_s: 10}}}}
  - {name: goodbye, alert: {}, when: {missing: {exact: bye, window: {last_s: 10}}}}
  - {name: silent, alert: {}, when: {talk_share: {by: agent, below: 0.1, after_s: 0}}}
"""
    assert made.reload() and not made.reload()
    assert made.version != before
    watch, alerts = drive(made, told.say(8, "no").hear(12).say(14, "refund").end(30), watch)
    assert alerts == ["it", "silent", "new", "goodbye"], "the old one has kept what it knew"


def test_a_rule_that_has_changed_begins_anew_and_others_go_on() -> None:
    text = Text(
        rule('{said: {exact: "no"}}', "changed", "alert: {cooldown_s: 60}")
        + "  - {name: kept, alert: {cooldown_s: 60}, when: {said: {exact: 'no'}}}\n"
    )
    made, told = stage(text), Call().say(1, "no")
    watch, alerts = drive(made, told)
    assert alerts == ["changed", "kept"]
    text.text = "# a comment changes nothing\n" + text.text
    assert not made.reload()
    text.text = text.text.replace("cooldown_s: 60", "cooldown_s: 61", 1)
    assert made.reload()
    watch, alerts = drive(made, told.say(10, "no"), Watch.load(watch.dump()))
    assert alerts == ["changed"]
    text.text = "rules: []"
    assert made.reload()
    watch, alerts = drive(made, told.say(80, "no"), watch)
    assert alerts == [] and watch.courses == {}


def test_a_missing_sentence_is_still_known_when_another_rule_was_written_meanwhile() -> None:
    text = Text(rule("{missing: {exact: recorded, window: {first_s: 30}}}"))
    made, told = stage(text), Call().say(1, "hello")
    watch, _ = drive(made, told)
    text.text += "  - {name: other, when: {said: {exact: refund}}}\n"
    assert made.reload()
    assert drive(made, told.hear(31), watch)[1] == ["it"]


def test_rules_that_are_wrong_are_told_once_and_those_before_stay(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(rule("{said: {exact: refund}}"))
    made = build(Config(path=str(tmp_path)), "v7")
    assert isinstance(made, Rules)
    before = made.version
    path.write_text("rules: [{name: it, when: {said: {regex: '('}}}]")
    with pytest.raises(CalltideError, match=r"rules.yaml:1: rules\[0\].when.said.regex\[0\]: RE2 does not take"):
        made.reload()
    assert not made.reload() and made.version == before
    assert moments(made, Call().say(1, "refund")) == [3]
    path.unlink()
    (tmp_path / "other.yml").write_text(rule("{said: {exact: other}}"))
    (tmp_path / ".hidden.yaml").write_text("no rules")
    assert made.reload()
    assert moments(made, Call().say(1, "refund")) == []
    with pytest.raises(CalltideError, match="CALLTIDE_RULES__PATH"):
        build(Config(path=str(tmp_path / "nothing")), "v7")


def test_an_embedder_that_cannot_be_had_stops_no_rules_that_were_there() -> None:
    def gone() -> Letters:
        raise CalltideError("the weights are missing; restore them")

    text = Text(rule("{said: {exact: refund}}"))
    made = stage(text, gone)
    before = made.version
    text.text = rule("{said: {meaning: [give it back]}}")
    with pytest.raises(CalltideError, match="weights"):
        made.reload()
    assert made.version == before
    assert moments(made, Call().say(1, "refund")) == [3]


# State


def test_the_state_stays_small_in_a_call_of_four_hours() -> None:
    rules = """
rules:
  - {name: a, alert: {cooldown_s: 0}, when: {said: {exact: word, times: 20, within_s: 3600}}}
  - {name: b, alert: {}, when: {trend: {below: 0.5, utterances: 20}}}
  - {name: c, alert: {}, when: {all: [{said: {exact: word}}, {said: {stem: says, window: {last_s: 60}}}]}}
  - {name: d, alert: {}, when: {missing: {exact: goodbye, window: {last_percent: 5}}}}
  - {name: e, alert: {}, when: {all: [{silence: {times: 3}}, {not: {interruption: {}}}]}}
  - {name: f, alert: {}, when: {said: {exact: word, times: 20, window: {first_percent: 10}}}}
"""
    made, told = stage(rules), Call()
    watch = made.open("call-1")
    largest = raised = 0
    for number in range(3_600):
        told.say(4 * number, "every word that he says is one of many words", ("agent", "customer")[number % 2])
        told.hear(4 * number + 3)
        for step in made.process([(watch, one) for one in told.records]):
            largest = max(largest, len(step.snapshot or b""))
            raised += sum(dict(output.headers)["kind"] == b"alert" for output in step.outputs)
        told.records.clear()
    assert raised > 3_000
    assert largest < 20_000
    (step,) = made.process([(watch, told.end(14_400).records[0])])
    assert step.snapshot == b""
    kinds = [dict(output.headers)["kind"] for output in step.outputs]
    assert kinds == [b"category", b"alert"] * 3 + [b"call_ended"], "c, d and f are known now"
    assert all(len(json.loads(output.value)["evidence"]) <= EVIDENCE for output in step.outputs[:-1])


SAYS = st.tuples(
    st.sampled_from(["cancel", "refund", "hello", "", "my lawyer", "(customer is agent)", "(agent is unknown)"]),
    st.sampled_from(["agent", "customer", "unknown"]),
    st.floats(-1, 1).map(lambda value: round(value, 4)),
    st.integers(0, 12),
    st.booleans(),
)
EVERYTHING = """
rules:
  - {name: said, alert: {cooldown_s: 10}, when: {said: {by: customer, exact: [cancel, refund], times: 2, within_s: 40}}}
  - {name: trend, alert: {cooldown_s: 0}, when: {trend: {below: 0, utterances: 2, window: {from_s: 5}}}}
  - {name: silence, alert: {cooldown_s: 0}, when: {silence: {}}}
  - {name: share, alert: {}, when: {talk_share: {by: agent, above: 0.6, after_s: 10}}}
  - {name: length, alert: {}, when: {all: [{length: {at_least_s: 20}}, {not: {said: {exact: hello}}}]}}
  - {name: missing, category: rude, alert: {}, when: {missing: {by: agent, exact: hello, window: {first_s: 15}}}}
  - {name: worse, alert: {}, when: {all: [{category: rude}, {any: [{said: {regex: lawyer}}, {interruption: {}}]}]}}
  - {name: end, alert: {}, when: {any: [{said: {exact: refund, window: {last_s: 10}}}, {missing: {exact: cancel}}]}}
"""


@given(
    lines=st.lists(SAYS, max_size=14),
    batches=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    crash=st.booleans(),
    ends=st.booleans(),
)
def test_neither_batches_nor_restarts_change_a_byte(
    lines: list[tuple[str, str, float, int, bool]], batches: list[int], crash: bool, ends: bool
) -> None:
    told = [Call(call_id="call-1"), Call("unknown", call_id="call-2")]
    now_s = 0
    for number, (text, role, score, pause_s, progress) in enumerate(lines):
        now_s += pause_s
        if text.startswith("("):
            speaker, _, known = text.strip("()").split()
            same_as = known if score > 0 else None
            learnt = Correction(call=told[number % 2].info, speaker=speaker, role=known, same_as=same_as)
            told[number % 2].records.append(at(learnt, now_s * 1_000))
        else:
            told[number % 2].say(now_s, text, role, score, length_s=1.5)  # type: ignore[arg-type]
        if progress:
            told[number % 2].hear(now_s + 1.5)
    if ends:
        told[0].end(now_s + 5)
    mixed = [one for pair in zip(*(each.records for each in told), strict=False) for one in pair]
    made = stage(EVERYTHING)
    whole, dead, changelog = run("rules", made, mixed)
    assert not dead
    assert run("rules", made, mixed, batches, crash=crash) == (whole, [], changelog)
