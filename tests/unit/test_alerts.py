"""The alert rules as Grafana gets them: query → reduce → threshold, with words for a human and a panel to look at.

That they fire when they should is tested in tests/analytics/test_alerts.py, on a month of calls.
"""

import json
import re
from typing import Any

import pytest
import yaml

from dashboards import alerts, build
from dashboards.files import ALERTS, panels

BOARDS = build.all_dashboards()
GROUPS = alerts.groups(BOARDS)
RULES = [pytest.param(rule, id=rule["uid"]) for group in GROUPS for rule in group["rules"]]


def test_committed_json_is_what_the_code_makes() -> None:
    assert ALERTS.read_text(encoding="utf-8") == build.text(GROUPS), "run python -m dashboards"


def test_every_rule_is_there_once() -> None:
    uids = [rule["uid"] for group in GROUPS for rule in group["rules"]]
    wanted = ["calltide-queue-mood", "calltide-anger", "calltide-lag", "calltide-dead-letters", "calltide-no-audio"]
    assert uids == wanted
    titles = [rule["title"] for group in GROUPS for rule in group["rules"]]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group["title"])
def test_a_group_is_asked_every_minute(group: dict[str, Any]) -> None:
    assert group.keys() == {"title", "interval", "rules"}
    assert group["interval"] == 60


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_query_reduce_threshold(rule: dict[str, Any]) -> None:
    query, reduce, threshold = rule["data"]
    assert [one["refId"] for one in rule["data"]] == [one["model"]["refId"] for one in rule["data"]] == ["A", "B", "C"]
    assert query["datasourceUid"] == query["model"]["datasource"]["uid"] in (alerts.CLICKHOUSE, alerts.PROMETHEUS)
    assert [one["datasourceUid"] for one in (reduce, threshold)] == ["__expr__", "__expr__"]
    assert (reduce["model"]["type"], reduce["model"]["expression"]) == ("reduce", "A")
    assert (threshold["model"]["type"], threshold["model"]["expression"]) == ("threshold", "B")
    assert rule["condition"] == "C"
    assert all(one["relativeTimeRange"]["to"] == 0 < one["relativeTimeRange"]["from"] for one in rule["data"])
    text = query["model"].get("rawSql") or query["model"]["expr"]
    assert not re.search(r"\$(?!__)", text), "there are no variables outside a dashboard"


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_says_when_what_and_where_to_look(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9-]{1,40}", rule["uid"])
    assert re.fullmatch(r"\d+[sm]", rule["for"])
    assert rule["execErrState"] == "Error", "a rule that cannot look must not seem content"
    assert rule["noDataState"] in ("OK", "NoData")
    assert rule["labels"]["severity"] in ("warning", "critical")
    notes = rule["annotations"]
    assert notes["summary"] and notes["description"].endswith(".")
    (board,) = (board for board in BOARDS.values() if board["uid"] == notes["__dashboardUid__"])
    assert int(notes["__panelId__"]) in {panel["id"] for panel in panels(board)}


@pytest.mark.parametrize("rule", GROUPS[1]["rules"], ids=lambda rule: rule["uid"])
def test_words_for_a_human_name_labels_that_prometheus_gives(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    given = set(re.findall(r"sum by \((\w+)\)|max by \((\w+)\)", rule["data"][0]["model"]["expr"]).pop()) - {""}
    assert named == given


def test_the_docs_say_what_to_do_about_each_alert() -> None:
    root = ALERTS.parents[1]
    page = (root / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| .+ \| (Grafana|Prometheus), (warning|critical) \|.*\| .{15,} \|$", page, re.M)
    ours = [(rule["title"], "Grafana", rule["labels"]["severity"]) for group in GROUPS for rule in group["rules"]]
    groups = yaml.safe_load((root / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert rows == ours + [(rule["alert"], "Prometheus", rule["labels"]["severity"]) for rule in rules]
