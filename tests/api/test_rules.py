"""Rules over the API: read, checked, tried on calls, kept."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from streams.settings import Settings
from tests.api.conftest import client_of, with_section

RULES = """rules:
  - name: twice
    category: charges
    alert: {severity: warning, message: Something was charged twice}
    when: {said: {stem: [charged twice]}}
"""
OPERATOR = {"X-API-Key": "operator"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "rules.yaml"
    made.write_text(RULES)
    return made


@pytest.fixture
def api_of_rules(api_settings: Settings, path: Path) -> TestClient:
    return client_of(with_section(api_settings, "rules", path=str(path)), "operator")


def change(text: str, **more: object) -> dict[str, object]:
    return {"file": "rules.yaml", "text": text, **more}


def test_rules_are_shown_with_their_files(api_of_rules: TestClient) -> None:
    shown = api_of_rules.get("/api/v1/rules").json()
    assert shown["files"] == [{"name": "rules.yaml", "text": RULES}]
    assert shown["editable"]
    assert [rule["name"] for rule in shown["rules"]] == ["twice"]
    assert shown["rules"][0] | {"description": ""} == {
        "name": "twice", "category": "charges", "severity": "warning", "tenants": [],
        "description": "",
    }  # fmt: skip


def test_what_is_wrong_is_told_by_line_and_changes_nothing(api_of_rules: TestClient, path: Path) -> None:
    for method, to in (("POST", "/check"), ("POST", "/test"), ("PUT", "")):
        body = change(RULES.replace("said", "sayd"), calls=["acme-01"], version=version_of(api_of_rules))
        answer = api_of_rules.request(method, f"/api/v1/rules{to}", json=body)
        assert answer.status_code == 422, answer.text
        assert "rules.yaml:5" in answer.json()["details"]["faults"][0]
    assert path.read_text() == RULES
    assert api_of_rules.post("/api/v1/rules/check", json=change(RULES)).json()["version"] == version_of(api_of_rules)
    answer = api_of_rules.post("/api/v1/rules/check", json={"file": "../etc/passwd", "text": ""})
    assert answer.status_code == 404


def version_of(client: TestClient) -> str:
    return str(client.get("/api/v1/rules").json()["version"])


def test_a_changed_rule_is_tried_on_calls_of_before(api_of_rules: TestClient, path: Path) -> None:
    body = change(RULES.replace("warning", "critical"), calls=["acme-01", "acme-live"])
    answer = api_of_rules.post("/api/v1/rules/test", json=body)
    assert answer.status_code == 200, answer.text
    first, _second = answer.json()["calls"]
    assert (first["call_id"], first["source"]) == ("acme-01", "ClickHouse")
    alert = next(one for one in first["found"] if one["kind"] == "alert")
    assert (alert["severity"], alert["rule"]) == ("critical", "twice")
    assert "charged twice" in alert["evidence"][0]["text"]
    assert "call" not in alert
    assert path.read_text() == RULES
    answer = api_of_rules.post("/api/v1/rules/test", json=change(RULES, calls=[str(path)]))
    assert answer.status_code == 404, "a file of the server is no call"


def test_what_is_kept_is_in_effect_unless_somebody_was_faster(api_of_rules: TestClient, path: Path) -> None:
    version = version_of(api_of_rules)
    changed = RULES.replace("warning", "critical")
    answer = api_of_rules.put("/api/v1/rules", json=change(changed, version=version))
    assert answer.status_code == 200, answer.text
    assert path.read_text() == changed
    assert answer.json()["rules"][0]["severity"] == "critical"
    assert [one.name for one in path.parent.iterdir()] == ["rules.yaml"], "nothing else is left there"
    answer = api_of_rules.put("/api/v1/rules", json=change(RULES, version=version))
    assert (answer.status_code, answer.json()["error"]) == (409, "changed")
    assert path.read_text() == changed


def test_wrong_rules_that_lie_there_are_shown_with_their_faults_and_can_be_mended(
    api_of_rules: TestClient, path: Path
) -> None:
    path.write_text(RULES.replace("said", "sayd"))
    shown = api_of_rules.get("/api/v1/rules").json()
    assert (shown["version"], shown["rules"]) == ("", [])
    assert "rules.yaml:5" in shown["faults"][0]
    assert api_of_rules.put("/api/v1/rules", json=change(RULES, version="")).json()["faults"] == []
    assert path.read_text() == RULES


def test_who_sees_one_tenant_may_not_see_rules_and_packaged_ones_are_not_written(
    api: TestClient, api_settings: Settings
) -> None:
    assert api.get("/api/v1/rules", headers={"X-API-Key": "acme-viewer"}).status_code == 403
    assert api.get("/api/v1/rules", headers={"X-API-Key": "beta-admin"}).status_code == 403
    shown = api.get("/api/v1/rules", headers=OPERATOR).json()
    assert (shown["path"], shown["editable"]) == ("packaged", False)
    file = shown["files"][0]
    body = {"file": file["name"], "text": file["text"], "version": shown["version"]}
    assert api.put("/api/v1/rules", headers=OPERATOR, json=body).status_code == 409
    none = client_of(with_section(api_settings, "rules", path="none"), "operator").get("/api/v1/rules").json()
    assert none["files"] == none["rules"] == []
