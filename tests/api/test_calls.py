"""The list of calls and what is known of each, from the real ClickHouse."""

from typing import Any
from urllib.parse import quote

from fastapi.testclient import TestClient

from tests.api.conftest import HOSTILE

BOSS = {"X-API-Key": "acme-boss"}


def get(api: TestClient, path: str, key: str = "acme-boss", status: int = 200, **parameters: Any) -> Any:
    """The answer of a request that must have this status."""
    answer = api.get(f"/api/v1{path}", params=parameters, headers={"X-API-Key": key})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a(api: TestClient) -> None:
    print(get(api, "/calls", limit=3))
    print(get(api, "/calls/acme-01"))
    print(get(api, "/calls/acme-01/utterances", limit=1))
    print(get(api, "/calls/acme-01/metrics"))
    print(get(api, "/calls/acme-live/metrics"))
    print(get(api, "/calls/acme-01/insights"))
    print(get(api, "/search", q="charged", limit=2))
    print(get(api, "/statistics", **{"from": "2026-11-01T00:00:00Z"}))
    print(get(api, "/status"))
    print(get(api, "/audit", "beta-admin"))
    print(get(api, "/calls/" + quote(HOSTILE, safe="")))
    print(get(api, "/calls/" + quote("dir/sub call.wav", safe="")))
    print(
        get(api, "/calls", category="complaint", score_below=0.1, text="charged twice", state="ended", queue="billing")[
            "items"
        ]
    )
