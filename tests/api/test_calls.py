"""The list of calls and what is known of each, from the real ClickHouse."""

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from schemas.events import Findings, Outlook
from streams.settings import Settings
from streams.sink import connect
from tests.api.conftest import BEGUN, HOSTILE, fill, found, told
from tests.scripted import call, ended, metrics, started


def get(api: TestClient, path: str, key: str = "acme-boss", status: int = 200, **parameters: Any) -> Any:
    """The answer of a request that must have this status."""
    answer = api.get(f"/api/v1{path}", params=parameters or None, headers={"X-API-Key": key})
    assert answer.status_code == status, answer.text
    return answer.json()


def names(answer: Any) -> list[str]:
    return [one["call_id"] for one in answer["items"]]


def pages(api: TestClient, path: str, key: str = "acme-boss", **parameters: Any) -> list[Any]:
    """All items, page by page."""
    items: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = get(api, path, key, cursor=cursor, **parameters)
        assert len(answer["items"]) <= parameters["limit"]
        items += answer["items"]
        cursor = answer["next"]
    return items


def test_calls_come_latest_first_and_each_once_over_all_pages(api: TestClient) -> None:
    at_once = get(api, "/calls", limit=200)
    assert at_once["next"] is None
    assert [one["call_id"] for one in pages(api, "/calls", limit=7)] == names(at_once)
    assert len(names(at_once)) == len(set(names(at_once))) == 28
    begun = [one["started_at"] for one in at_once["items"]]
    assert begun == sorted(begun, reverse=True)
    first = at_once["items"][0]
    assert first == {
        "call_id": "acme-live", "tenant": "acme", "queue": "billing", "agent": "agent-0",
        "started_at": "2026-11-20T10:00:00.000Z", "ended_at": None, "duration_ms": None, "state": "live",
        "pipeline_version": "v1", "score": -0.2, "categories": [], "alerts": 0, "language": "en", "channels": 2,
    }  # fmt: skip
    (other,) = [one for one in at_once["items"] if one["call_id"] == "acme-01"]
    assert (other["score"], other["categories"], other["alerts"], other["state"]) == (-0.1, ["complaint"], 1, "ended")


def test_a_page_is_not_moved_by_calls_that_come_meanwhile(api: TestClient, api_settings: Settings) -> None:
    calls = [call(f"c-{at}", BEGUN + timedelta(minutes=at), tenant="moving") for at in range(6)]
    fill(api_settings, *map(started, calls))
    first = get(api, "/calls", "moving-admin", limit=3)
    newer = call("c-new", BEGUN + timedelta(hours=1), tenant="moving")
    fill(api_settings, started(newer), ended(calls[1]))
    second = get(api, "/calls", "moving-admin", limit=3, cursor=first["next"])
    assert names(first) + names(second) == ["c-5", "c-4", "c-3", "c-2", "c-1", "c-0"]
    assert second["next"] is None


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"queue": "billing"}, 13),
        ({"queue": ["billing", "sales"]}, 25),
        ({"queue": "billing", "agent": "agent-0"}, 5),
        ({"queue": HOSTILE}, 1),
        ({"state": "live"}, 1),
        ({"state": "ended"}, 27),
        ({"category": "complaint"}, 6),
        ({"category": ["complaint", "none"], "agent": "agent-1"}, 2),
        ({"score_below": -0.05}, 13),
        ({"score_below": -0.15}, 1),
        ({"text": "charged twice"}, 27),
        ({"text": "twice CHARGED"}, 27),
        ({"text": '"twice charged"'}, 0),
        ({"text": '"charged twice"', "category": "complaint", "score_below": 0, "state": "ended"}, 6),
        ({"text": "knows"}, 1),
        ({"from": "2026-11-20T09:00:00Z"}, 25),
        ({"from": "2026-11-20T09:00:00", "to": "2026-11-20T10:30:00+01:00"}, 24),
        ({"from": "2026-11-20T09:05:00Z", "to": "2026-11-20T09:06:00Z"}, 2),
        ({"tenant": "acme"}, 28),
        ({"tenant": "beta"}, 0),
        ({"version": "v2"}, 1),
        ({"version": "v3"}, 0),
        ({"queue": ""}, 1),
    ],
)
def test_filters(api: TestClient, filters: dict[str, Any], wanted: int) -> None:
    assert len(get(api, "/calls", limit=200, **filters)["items"]) == wanted


def test_a_call_is_shown_as_the_promoted_version_heard_it(api: TestClient, api_settings: Settings) -> None:
    key = "promoted-admin"
    both, one = (call(name, BEGUN, tenant="promoted") for name in ("both", "one"))
    fill(api_settings, started(both), *told(both, 0.5), ended(both), started(one), *told(one, 0.5), ended(one))
    # A version that none of the other calls has.
    again = [said.model_copy(update={"pipeline_version": "v9", "text": "anew"}) for said in told(both, -0.5)]
    fill(api_settings, started(both), *again, ended(both), version="v9")
    shown = {one["call_id"]: one["pipeline_version"] for one in get(api, "/calls", key)["items"]}
    assert shown == {"both": "v1", "one": "v1"}
    with connect(api_settings) as client:
        client.insert("promotions", [["v9"]], column_names=["pipeline_version"])
    shown = {one["call_id"]: one["pipeline_version"] for one in get(api, "/calls", key)["items"]}
    assert shown == {"both": "v9", "one": "v1"}
    whole = get(api, "/calls/both", key)
    assert (whole["versions"], whole["score"]) == (["v9", "v1"], -0.5)
    assert get(api, "/calls/both", key, version="v1")["score"] == 0.5
    assert names(get(api, "/calls", key, text="anew")) == ["both"]
    assert len(get(api, "/search", key, q="charged")["items"]) == 1
    assert get(api, "/calls/one", key, 404, version="v9")["details"]["versions"] == ["v1"]


def test_a_call_as_a_whole(api: TestClient) -> None:
    whole = get(api, "/calls/acme-01")
    assert (whole["metadata"], whole["roles"], whole["end_reason"]) == ({"crm": "1"}, ["agent", "customer"], "hangup")
    alert, category = whole["marks"]
    assert alert == {
        "kind": "alert", "name": "complaint", "rule": "angry", "severity": "critical", "at_ms": 11_500,
        "text": "the customer is angry", "utterances": ["acme-01/0/10000"],
    }  # fmt: skip
    assert (category["kind"], category["severity"], category["utterances"]) == ("category", None, ["acme-01/0/10000"])


def test_what_was_said_comes_in_order_page_by_page(api: TestClient) -> None:
    items = pages(api, "/calls/acme-01/utterances", limit=1)
    assert [one["id"] for one in items] == ["acme-01/0/0", "acme-01/1/5000", "acme-01/0/10000"]
    first, last = items[0], items[-1]
    assert first["words"][1] == {"text": "was", "start_ms": 300, "end_ms": 580, "confidence": 0.9}
    assert (first["emotion"], first["emotions"]["anger"], first["score"], first["alerts"]) == ("anger", 0.8, 0.2, [])
    assert [one["rule"] for one in last["alerts"]] == ["angry"]


def test_figures_of_a_call_that_goes_on_and_of_one_that_has_ended(api: TestClient) -> None:
    going = get(api, "/calls/acme-live/metrics")
    assert (going["final"], going["at_ms"], going["silence_now_ms"], going["score"]) == (False, 9_000, 1_000, -0.2)
    assert going["dead_air"] == [{"start_ms": 1_000, "end_ms": 7_000}]
    assert [party["interrupted"] for party in going["parties"]] == [1]
    done = get(api, "/calls/acme-01/metrics")
    assert (done["final"], done["at_ms"], done["longest_silence_ms"]) == (True, 60_000, 48_500)
    assert {party["role"]: party["score"] for party in done["parties"]} == {"agent": 0.1, "customer": -0.5}


def test_what_the_stage_and_clickhouse_know_of_a_party_is_one(api: TestClient, api_settings: Settings) -> None:
    of = call("both", BEGUN, tenant="parties")
    fill(api_settings, started(of), *told(of, 0.2, -0.2, 0.2), metrics(of, 60_000, final=True), ended(of))
    parties = {one["role"]: one for one in get(api, "/calls/both/metrics", "parties-admin")["parties"]}
    assert set(parties) == {"agent", "customer"}
    assert (parties["agent"]["utterances"], parties["agent"]["loudness_lufs"]) == (2, -23.5)
    assert parties["agent"]["words"] == 10  # as counted, not as the stage has said last


def test_insights_are_findings_and_are_missed_in_words(api: TestClient) -> None:
    known = get(api, "/calls/acme-01/insights")
    findings = Findings.model_validate(known)
    assert findings.summary[0].evidence[0].identity == "acme-01/0/10000"
    missing = get(api, "/calls/acme-00/insights", status=404)
    assert missing["error"] == "no_insights" and "its stage" in missing["message"]
    assert "after its end" in get(api, "/calls/acme-live/insights", status=404)["message"]


def test_score_cards_say_what_each_item_rests_on(api: TestClient) -> None:
    (card,) = get(api, "/calls/acme-01/evaluations")["items"]
    assert (card["form"], card["state"], card["score"], card["judged"]) == ("service", "ok", 50, 1)
    (section,) = card["sections"]
    assert [item["earned"] for item in section["items"]] == [1, 0, None]
    assert section["items"][0]["evidence"][0]["identity"] == "acme-01/0/10000"
    assert get(api, "/calls/acme-00/evaluations") == {"items": [], "next": None}
    assert get(api, "/calls/acme-01/evaluations", "beta-admin", 404)["error"] == "not_found"


def test_how_a_call_will_probably_end_is_said_until_it_has_ended(api: TestClient, api_settings: Settings) -> None:
    of = call("warned", BEGUN, tenant="warned")
    expected = {"outlook": Outlook(negative=0.726, model="outcome-abc")}
    fill(api_settings, started(of), *told(of, 0.2, -0.2), metrics(of, 9_000).model_copy(update=expected))
    going = get(api, "/calls/warned/metrics", "warned-admin")
    assert going["outlook"] == {"negative": 0.726, "model": "outcome-abc"}
    assert all("outlook" not in party for party in going["parties"])
    fill(api_settings, ended(of))
    assert get(api, "/calls/warned/metrics", "warned-admin")["outlook"] is None


@pytest.mark.parametrize("name", [HOSTILE, "dir/sub call.wav"])
def test_ids_may_hold_quotes_newlines_and_slashes(api: TestClient, name: str) -> None:
    path = f"/calls/{quote(name, safe='')}"
    assert get(api, path)["call_id"] == name
    (said,) = get(api, f"{path}/utterances")["items"]
    assert said["id"] == f"{name}/0/0"
    assert get(api, f"{path}/metrics")["call_id"] == name


def test_search_finds_what_was_said(api: TestClient) -> None:
    hits = pages(api, "/search", q="charged TWICE", limit=20)
    assert len(hits) == 76
    spoken = [hit["spoken_at"] for hit in hits]
    assert spoken == sorted(spoken, reverse=True)
    assert len({hit["utterance"]["id"] for hit in hits}) == 76
    (only,) = get(api, "/search", q='"only acme"')["items"]
    assert (only["call"]["call_id"], only["utterance"]["text"]) == ("shared", "only acme knows 0")
    assert get(api, "/search", q="charged", category="complaint", queue="sales")["items"] == []
    assert get(api, "/search", status=422, q="?!")["error"] == "no_words"


def test_statistics_add_up(api: TestClient) -> None:
    counted = get(api, "/statistics?from=2026-11-01T00:00:00Z&to=2026-12-01T00:00:00Z")
    assert (counted["all"]["calls"], counted["all"]["live"]) == (28, 1)
    for group in ("times", "queues", "agents"):
        for field in ("calls", "utterances", "negative", "duration_ms"):
            assert sum(one[field] for one in counted[group]) == counted["all"][field], (group, field)
    billing = next(one for one in counted["queues"] if one["name"] == "billing")
    assert (billing["calls"], billing["score"], billing["customer_score"]) == (13, -0.1, -0.5)
    assert counted["categories"] == [{"name": "complaint", "calls": 6}]
    assert counted["alerts"] == [{"name": "angry", "calls": 6}]
    assert counted["resolved"] == [{"name": "unknown", "calls": 6}]
    assert counted["forms"] == [{"name": "service", "calls": 6, "score": 50}]
    by_hour = get(api, "/statistics?by=hour&from=2026-11-20T00:00:00Z&to=2026-11-21T00:00:00Z")
    assert [(one["at"], one["calls"]) for one in by_hour["times"]] == [
        ("2026-11-20T09:00:00Z", 24), ("2026-11-20T10:00:00Z", 1),
    ]  # fmt: skip
    nothing = get(api, "/statistics", queue="none")
    assert nothing["all"]["calls"] == 0 and nothing["all"]["score"] is None and nothing["times"] == []
    assert get(api, "/statistics?by=hour&from=2026-01-01T00:00:00Z", status=422)["error"] == "too_many"


def test_of_one_id_in_several_tenants_one_is_chosen(api: TestClient) -> None:
    several = get(api, "/calls/shared", "operator", 409)
    assert several["details"]["tenants"] == sorted(["acme", "beta", HOSTILE])
    assert get(api, "/calls/shared", "operator", tenant=HOSTILE)["queue"] == HOSTILE
    assert get(api, "/calls/shared", "acme-boss")["queue"] == "acme"
    assert len(get(api, "/calls", "operator", limit=200, tenant=["acme", HOSTILE])["items"]) == 29


def test_status_says_what_is_away(api: TestClient) -> None:
    status = get(api, "/status", "acme-viewer")
    assert (status["clickhouse"], status["kafka"], status["stages"]) == ("ok", "away", [])
    assert {one["name"]: (one["calls"], one["live"], one["promoted"]) for one in status["versions"]} == {
        "v1": (28, True, False), "v2": (1, False, False),
    }  # fmt: skip
    assert status["you"] == {"tenant": "acme", "role": "viewer", "name": "viewer"}


def test_answers_of_ended_calls_are_kept_and_those_of_live_ones_are_not(
    api: TestClient, api_settings: Settings
) -> None:
    live, done = (call(name, BEGUN, tenant="kept") for name in ("live", "done"))
    fill(api_settings, started(live), *told(live, 0.1), started(done), *told(done, 0.1), ended(done))
    paths = ("/calls/live/utterances", "/calls/done/utterances")
    assert [len(get(api, path, "kept-admin")["items"]) for path in paths] == [1, 1]
    fill(api_settings, told(live, 0.1, 0.2)[1], told(done, 0.1, 0.2)[1], *found(done, told(done, 0.1)))
    assert [len(get(api, path, "kept-admin")["items"]) for path in paths] == [2, 1]
    assert get(api, "/calls/done/insights", "kept-admin")["utterances"] == 1  # they come behind the end
