"""Whatever goes wrong is said in one form; what is known already is not sent again."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from fastapi.testclient import TestClient

from streams.settings import Settings
from tests.api.conftest import client_of, with_section
from tests.api.serving import served_at

BOSS = {"X-API-Key": "acme-boss"}


def problem(answer: Any, status: int, error: str) -> Any:
    """The problem of an answer, which has the form of all of them."""
    assert answer.status_code == status, answer.text
    content = answer.json()
    assert set(content) == {"error", "message", "details"}
    assert content["error"] == error and content["message"] and "\n" not in content["message"]
    assert content["details"]["request_id"] == answer.headers["X-Request-Id"]
    return content


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/api/v1/nothing", 404, "not_found"),
        ("/api/nothing", 404, "not_found"),
        ("/api/v1/calls/none", 404, "not_found"),
        ("/api/v1/calls/none/utterances", 404, "not_found"),
        ("/api/v1/calls/acme-00/explanations/9-9?version=v9", 404, "no_such_version"),
        ("/api/v1/calls/acme-00/explanations/x", 404, "not_found"),
        ("/api/v1/calls?limit=0", 422, "invalid"),
        ("/api/v1/calls?limit=201", 422, "invalid"),
        ("/api/v1/calls?queues=billing", 422, "invalid"),
        ("/api/v1/calls?from=yesterday", 422, "invalid"),
        ("/api/v1/calls?to=9999-12-31T00:00:00Z", 422, "invalid"),
        ("/api/v1/calls?score_below=nan", 422, "invalid"),
        ("/api/v1/calls?state=dead", 422, "invalid"),
        ("/api/v1/calls?text=%27%27", 422, "no_words"),
        ("/api/v1/calls?cursor=x", 422, "bad_cursor"),
        ("/api/v1/calls?cursor=W10", 422, "bad_cursor"),
        ("/api/v1/calls?cursor=WyJjYWxscyIsLTEsIiIsIiJd", 422, "bad_cursor"),
        ("/api/v1/search?q=hello&cursor=WyJjYWxscyIsMSwiIiwiIl0", 422, "bad_cursor"),
        ("/api/v1/search", 422, "invalid"),
        ("/api/v1/calls?access_token=secret", 400, "key_in_url"),
    ],
)
def test_every_error_has_one_form(api: TestClient, path: str, status: int, error: str) -> None:
    problem(api.get(path, headers=BOSS), status, error)


def test_a_method_that_is_not_taken_is_told_with_those_that_are(api: TestClient) -> None:
    answer = api.delete("/api/v1/search", headers=BOSS)
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET"


def test_what_was_wrong_is_named_without_its_value(api: TestClient) -> None:
    content = problem(api.get("/api/v1/calls?limit=sekret&foo=1", headers=BOSS), 422, "invalid")
    assert [(one["in"], one["name"]) for one in content["details"]["faults"]] == [("query", "limit"), ("query", "foo")]
    assert "sekret" not in str(content)


def test_a_part_that_is_away_is_503_without_its_address(api_settings: Settings) -> None:
    away = with_section(api_settings, "clickhouse", url="http://user:pa55word@127.0.0.1:9")
    with client_of(away, "acme-boss") as api:
        answer = api.get("/api/v1/calls")
        content = problem(answer, 503, "unavailable")
        assert content["details"]["part"] == "clickhouse" and int(answer.headers["Retry-After"])
        assert "127.0.0.1" not in answer.text and "pa55word" not in answer.text
        assert api.get("/api/v1/status").json()["clickhouse"] == "away"
    without_tables = with_section(api_settings, "clickhouse", database="default")
    with client_of(without_tables, "acme-boss") as api:
        problem(api.get("/api/v1/calls"), 503, "unavailable")


def test_what_nobody_expected_is_logged_and_not_told(
    api_settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("streams.api.queries.calls", fail)
    with client_of(api_settings, "acme-boss") as api:
        content = problem(api.get("/api/v1/calls"), 500, "internal")
    assert "secret" not in str(content)
    assert "a secret" in caplog.text


def test_what_is_known_is_not_sent_again(api: TestClient) -> None:
    first = api.get("/api/v1/calls/acme-01", headers=BOSS)
    etag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "private, no-cache"
    for known in (etag, f'W/{etag}, "other"', "*"):
        again = api.get("/api/v1/calls/acme-01", headers=BOSS | {"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag)
    assert api.get("/api/v1/calls/acme-01", headers=BOSS | {"If-None-Match": '"other"'}).status_code == 200
    assert api.get("/api/v1/calls/acme-02", headers=BOSS | {"If-None-Match": etag}).status_code == 200


def test_a_request_has_the_id_that_it_brings_or_one_of_its_own(api: TestClient) -> None:
    assert api.get("/api/v1/calls", headers=BOSS | {"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    for odd in ("a" * 65, "a b", 'a"', ""):
        found = api.get("/api/v1/calls", headers=BOSS | {"X-Request-Id": odd}).headers["X-Request-Id"]
        assert re.fullmatch(r"[0-9a-f]{32}", found)


def test_pages_from_elsewhere_may_ask_where_it_is_set(api: TestClient, api_settings: Settings) -> None:
    asked = {"Origin": "https://desk.example", "Access-Control-Request-Method": "GET"}
    assert "Access-Control-Allow-Origin" not in api.get("/api/v1/calls", headers=BOSS | asked).headers
    with client_of(with_section(api_settings, "api", cors_origins=("https://desk.example",))) as open_to_it:
        answer = open_to_it.options("/api/v1/calls", headers=asked | {"Access-Control-Request-Headers": "x-api-key"})
        assert answer.headers["Access-Control-Allow-Origin"] == "https://desk.example"
        answer = open_to_it.get("/api/v1/calls", headers=BOSS | {"Origin": "https://desk.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "https://desk.example"
        answer = open_to_it.get("/api/v1/calls", headers=BOSS | {"Origin": "https://other.example"})
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.fixture(scope="module")
def served(api_settings: Settings) -> Iterator[str]:
    """The address of the application behind its real server."""
    with served_at(api_settings) as address:
        yield address


def test_ten_thousand_filters_are_refused_and_a_hundred_long_ones_are_not(served: str) -> None:
    many = requests.get(
        f"{served}/calls", params={"queue": [f"q{at}" for at in range(10_000)]}, headers=BOSS, timeout=30
    )
    problem(many, 422, "invalid")
    long = [f"{at:03}" + "'\\\n\"" * 120 for at in range(100)]
    answer = requests.get(f"{served}/calls", params={"queue": long, "agent": ["x"]}, headers=BOSS, timeout=30)
    assert (answer.status_code, answer.json()["items"]) == (200, [])


def test_slashes_within_an_id_reach_the_real_server(served: str) -> None:
    answer = requests.get(f"{served}/calls/dir%2Fsub%20call.wav", headers=BOSS, timeout=30)
    assert answer.json()["call_id"] == "dir/sub call.wav"
    assert requests.get(f"{served}/calls/dir/sub%20call.wav", headers=BOSS, timeout=30).status_code == 404
