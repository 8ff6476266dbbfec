"""What is made of the scores of a call: figures, alerts by a rule that is written while it goes on, insights."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from streams import samples
from tests.chain.support import RULES, Listener, Stack, until

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.slow]

CALL = "made-of-scores"
RULE = """
rules:
  - name: new-jersey
    category: places
    alert: {severity: warning, message: Somebody speaks of New Jersey, cooldown_s: 600}
    when: {said: {exact: [new jersey]}}
"""


@pytest.fixture
def rules(stack: Stack) -> Iterator[Path]:
    """The file of rules of the stack, as it was before behind the test."""
    path = stack.home / RULES
    before = path.read_text()
    yield path
    path.write_text(before)


def test_a_call_is_counted_while_it_goes_on_and_a_rule_written_meanwhile_raises_an_alert(
    stack: Stack, rules: Path, tmp_path: Path
) -> None:
    kinds = "score,call_ended,metrics,alert,category,insights,evaluation"
    with Listener(stack.scores_url, call=CALL, kinds=kinds) as listener:
        ingest = stack.begin("ingest", samples.two_channel(tmp_path), "--call-id", CALL, "--speed", "2")
        until(lambda: listener.events("score", CALL), "the first score")
        rules.write_text(RULE)
        assert ingest.wait(180) == 0
        until(lambda: listener.events("insights", CALL), "the insights")
        until(lambda: listener.events("evaluation", CALL), "the score card")
        until(lambda: any(one["final"] for one in listener.events("metrics", CALL)), "the last figures")
        until(lambda: listener.events("alert", CALL), "the alert")
        found = {kind: listener.events(kind, CALL) for kind in kinds.split(",")}

    (alert,) = found["alert"]
    assert "New Jersey" in alert["message"]
    (evidence, *_) = alert["evidence"]
    assert "New Jersey" in evidence["text"]
    (score,) = [
        one for one in found["score"] if one["start_ms"] == evidence["start_ms"] and one["text"] == evidence["text"]
    ]
    assert score["channel"] == evidence["channel"]
    assert [one["category"] for one in found["category"]] == ["places"]

    running = [one for one in found["metrics"] if not one["final"]]
    assert len(running) > 5, "told while it goes on"
    assert [one["at_ms"] for one in running] == sorted(one["at_ms"] for one in running)
    (last,) = (one for one in found["metrics"] if one["final"])
    assert {party["role"] for party in last["parties"]} == {"agent", "customer"}
    assert sum(party["talk_share"] for party in last["parties"]) == pytest.approx(1, abs=1e-3)
    (insights,) = found["insights"]
    cited = [one["evidence"] for one in insights["summary"]]
    texts = {one["text"] for one in found["score"]}
    assert all(any(quote["text"] in text for text in texts) for quotes in cited for quote in quotes)

    (card,) = found["evaluation"]
    items = [item for section in card["sections"] for item in section["items"]]
    assert card["form"] == "service" and {item["earned"] is None for item in items} == {True, False}
    assert all(any(one["text"] in text for text in texts) for item in items for one in item["evidence"])

    where = f"FINAL WHERE call_id = '{CALL}'"
    until(lambda: stack.rows(f"SELECT 1 FROM call_progress {where} AND final"), "the figures in ClickHouse")
    until(lambda: stack.rows(f"SELECT 1 FROM insights {where}"), "the insights in ClickHouse")
    until(lambda: stack.rows(f"SELECT 1 FROM evaluations {where}"), "the score card in ClickHouse")
    (kept,) = stack.rows(f"SELECT state, form_version, sections.score AS scores FROM evaluations {where}")
    assert (kept["state"], kept["form_version"]) == (card["state"], card["form_version"])
    assert kept["scores"] == pytest.approx([section["score"] for section in card["sections"]], nan_ok=True)
    (row,) = stack.rows(f"SELECT rule, category, severity, role FROM alerts {where}")
    assert row == {"rule": "new-jersey", "category": "places", "severity": "warning", "role": evidence["role"]}
    assert stack.rows(f"SELECT category FROM call_categories {where}") == [{"category": "places"}]
    columns = ("role", "talk_ms", "turns")
    shown = stack.rows(f"SELECT {', '.join(columns)} FROM call_progress {where} ORDER BY role")
    told = [{name: party[name] for name in columns} for party in last["parties"]]
    assert shown == sorted(told, key=lambda one: str(one["role"]))

    # A rule that was written when the call was over.
    rules.write_text(RULE.replace("new-jersey", "yankee").replace("new jersey", "yankee").replace("places", "people"))
    before = stack.rows(f"SELECT count() AS n, max(scored_at) AS last FROM utterances_heard WHERE call_id = '{CALL}'")
    version = stack.rows(f"SELECT pipeline_version FROM calls {where}")[0]["pipeline_version"]
    done = stack.calltide("replay", "--calls", CALL, "--from-stage", "rules", "--version", version, "--name", "later")
    assert done.stdout.startswith("replayed 1 calls")
    found_later = stack.rows(f"SELECT rule, pipeline_version FROM alerts {where} ORDER BY rule")
    assert found_later == [{"rule": name, "pipeline_version": version} for name in ("new-jersey", "yankee")]
    again = f"SELECT count() AS n, max(scored_at) AS last FROM utterances_heard WHERE call_id = '{CALL}'"
    assert stack.rows(again) == before, "what was scored is as it was"
