"""examples/crm.py between Calltide's own sender of webhooks and a server that answers as HubSpot and Salesforce do."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

from examples.crm import server, to_hubspot, to_salesforce
from schemas.events import ActionItem, Evidence, Insights, Resolution, Statement
from streams.settings import Endpoint
from streams.webhooks import Refused, message_id, send
from tests.scripted import call

SECRET = f"whsec_{base64.b64encode(b'of the receiver and of nobody else').decode()}"
OTHER = f"whsec_{base64.b64encode(b'of somebody').decode()}"


class Crm:
    """Keeps what it is told by its unique field; `answers`: instead of that, one after the other."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, Any]] = []
        self.kept: dict[str, Any] = {}
        self.answers: list[int] = []

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if self.answers:
            return self.answers.pop(0), {"message": "no"}
        if method == "POST":
            (one,) = body["inputs"]
            assert one["properties"][one["idProperty"]] == one["id"]
            self.kept[one["id"]] = one["properties"]
            return 200, {"status": "COMPLETE", "results": [{"id": "512"}]}
        if method == "PATCH":
            key = unquote(path.rpartition("/")[2])
            there = key in self.kept
            self.kept[key] = body
            return (204, None) if there else (201, {"id": "00T1", "success": True})
        return 200, {}


@contextmanager
def running(made: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}"
    finally:
        made.shutdown()
        thread.join(10)
        made.server_close()


@pytest.fixture
def crm() -> Iterator[tuple[Crm, str]]:
    kept = Crm()

    class Handler(BaseHTTPRequestHandler):
        def any(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kept.asked.append((self.command, self.path, self.headers["Authorization"], body))
            status, content = kept.answer(self.command, self.path, body)
            sent = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "7")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_POST = do_PATCH = do_PUT = any

        def log_message(self, *_: Any) -> None:
            pass

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as address:
        yield kept, address


def event(**more: Any) -> Insights:
    """Insights of a call with a contact of the CRM."""
    of = call("billing/4711", tenant="acme").model_copy(update={"metadata": {"crm_contact": "003X"}})
    rests_on = (
        Evidence(identity="billing/4711/1/0", channel=1, start_ms=0, end_ms=900, speaker="customer", role="customer"),
    )
    return Insights(
        call=of, engine="extractive", state="ok", ended_at=of.started_at, duration_ms=64_500, pipeline_version="v1",
        reason=Statement(text="I was charged twice", evidence=rests_on),
        action_items=(ActionItem(text="I will refund it", owner="agent", due="today", evidence=rests_on),),
        resolution=Resolution(resolved="yes"),
    ).model_copy(update=more)  # fmt: skip


def told(address: str, of: Insights, secret: str = SECRET, at: datetime | None = None) -> Any:
    """What Calltide makes of the receiver's answer: None, that it has taken it."""
    endpoint = Endpoint(url=address, secret=secret, kinds=("insights",))
    identifier = message_id(of.kind, of.model_dump_json().encode())
    return send(endpoint, identifier, of.kind, of.model_dump(mode="json"), at or datetime.now(UTC))


def test_a_call_becomes_one_of_hubspot_s_and_belongs_to_its_contact(crm: tuple[Crm, str]) -> None:
    kept, address = crm
    with running(server(0, SECRET, [(to_hubspot, address, "t1")])) as receiver:
        assert told(receiver, event()) is None
        assert told(receiver, event()) is None, "an event may come twice"
    assert list(kept.kept) == ["acme/billing/4711"]
    properties = kept.kept["acme/billing/4711"]
    assert (properties["hs_call_duration"], properties["hs_call_status"]) == ("64500", "COMPLETED")
    assert properties["hs_call_body"] == (
        "Reason: I was charged twice\nPromised: agent: I will refund it today\nThe matter: settled"
    )
    assert [(method, path) for method, path, *_ in kept.asked[:2]] == [
        ("POST", "/crm/v3/objects/calls/batch/upsert"),
        ("PUT", "/crm/v4/objects/calls/512/associations/default/contacts/003X"),
    ]
    assert {token for _, _, token, _ in kept.asked} == {"Bearer t1"}


def test_a_call_becomes_a_task_of_salesforce_s(crm: tuple[Crm, str]) -> None:
    kept, address = crm
    with running(server(0, SECRET, [(to_salesforce, address, "t2")])) as receiver:
        assert told(receiver, event()) is None
        assert told(receiver, event()) is None
    ((method, path, token, task), _) = kept.asked
    assert (method, token) == ("PATCH", "Bearer t2")
    assert path == "/services/data/v62.0/sobjects/Task/Calltide_Call__c/acme%2Fbilling%2F4711"
    assert (task["WhoId"], task["CallDurationInSeconds"], task["Subject"]) == ("003X", 64, "Call: I was charged twice")
    assert list(kept.kept) == ["acme/billing/4711"]


def test_nobody_else_is_believed(crm: tuple[Crm, str]) -> None:
    kept, address = crm
    with running(server(0, SECRET, [(to_salesforce, address, "t2")])) as receiver:
        with pytest.raises(Refused, match="401"):
            told(receiver, event(), OTHER)
        with pytest.raises(Refused, match="401"):
            told(receiver, event(), at=datetime.now(UTC) - timedelta(minutes=10))
        assert told(receiver, event(state="too_short")) is None
    assert kept.asked == []


@pytest.mark.parametrize(("answers", "waits"), [([503], 0.0), ([429], 7.0)])
def test_a_crm_that_is_away_or_busy_is_told_again(crm: tuple[Crm, str], answers: list[int], waits: float) -> None:
    kept, address = crm
    kept.answers = answers
    with running(server(0, SECRET, [(to_hubspot, address, "t1")])) as receiver:
        failed = told(receiver, event())
        assert failed is not None
        assert failed.wait_s == waits
        assert told(receiver, event()) is None
    assert len(kept.kept) == 1


@pytest.mark.parametrize("answer", [400, 207, 302])
def test_a_crm_that_refuses_ends_it(crm: tuple[Crm, str], answer: int) -> None:
    kept, address = crm
    kept.answers = [answer]
    with running(server(0, SECRET, [(to_hubspot, address, "t1")])) as receiver, pytest.raises(Refused, match="422"):
        told(receiver, event())
