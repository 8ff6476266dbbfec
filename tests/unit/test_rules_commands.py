"""What `calltide rules` says."""

from pathlib import Path

import pytest

from schemas.errors import CalltideError
from streams import rules_commands
from streams.settings import load
from tests.unit.rule_calls import Call, rule


def test_check_says_how_many_are_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(rule("{said: {exact: refund}}"))
    rules_commands.check(str(path))
    rules_commands.check("packaged")
    mine, packaged = capsys.readouterr().out.splitlines()
    assert mine.startswith(f"{path}: 1 rules are right, version ")
    assert packaged.startswith("packaged: 6 rules are right")


def test_check_names_every_fault(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(rule("{said: {regex: '(', nope: 1}}"))
    (tmp_path / "b.yaml").write_text("rules: [")
    with pytest.raises(CalltideError) as error:
        rules_commands.check(str(tmp_path))
    lines = str(error.value).split("\ncalltide: ")
    assert [line.split(": ")[0] for line in lines] == ["a.yaml:4", "a.yaml:4", "b.yaml:1"]


def test_list_shows_the_rules_in_effect(capsys: pytest.CaptureFixture[str]) -> None:
    rules_commands.list_rules()
    printed = capsys.readouterr().out
    assert "dead-air" in printed and "6 rules of packaged, version " in printed


def test_test_prints_moments_and_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(rule("{said: {exact: refund}}", "money"))
    told = Call().say(3, "A refund, please.").end(9)
    monkeypatch.setattr(rules_commands, "calls_of", lambda _settings, names, _of: [(names[0], "Kafka", told.records)])
    rules_commands.try_rules(str(path), ["call-1"])
    assert capsys.readouterr().out.splitlines() == [
        "call-1  (Kafka)",
        "  0:05.0            money: category money",
        "  0:05.0  warning   money: money: customer at 0:03: “refund”",
        "                    0:03.0 customer: A refund, please.",
        "money: 1 alerts, 1 of 1 calls",
    ]


def test_test_says_which_rules_are_not_for_the_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(
        "rules:\n"
        "  - {name: ours, when: {said: {exact: refund}}}\n"
        "  - {name: theirs, tenants: [acme], when: {said: {exact: refund}}}\n"
    )
    told = {tenant: Call(tenant=tenant).say(3, "A refund, please.").end(9).records for tenant in ("default", "acme")}
    monkeypatch.setattr(
        rules_commands, "calls_of", lambda _settings, names, _of: [(name, "Kafka", told[name]) for name in names]
    )
    rules_commands.try_rules(str(path), ["default,acme"])
    assert capsys.readouterr().out.splitlines() == [
        "default  (Kafka)",
        "  not for calls of tenant default: theirs",
        "  0:05.0            ours: category ours",
        "acme  (Kafka)",
        "  0:05.0            ours: category ours",
        "  0:05.0            theirs: category theirs",
        "ours: 0 alerts, 2 of 2 calls",
        "theirs: 0 alerts, 1 of 2 calls",
    ]


def test_a_record_that_cannot_be_processed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(rule("{said: {exact: refund}}"))
    told = Call().say(3, "A refund, please.")
    bad = told.records[1]
    records = [type(bad)(bad.call_id, bad.kind, bad.headers, b"{", bad.timestamp_ms)]
    with pytest.raises(CalltideError, match="a record of call call-1 cannot be processed"):
        list(rules_commands.findings(load(), str(path), records))
