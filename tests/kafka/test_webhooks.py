"""Alerts to people's systems: a real broker, a real HTTP server, and what goes wrong between them."""

import base64
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from confluent_kafka import Producer
from standardwebhooks import Webhook, WebhookVerificationError

from deploy.topics import Topics
from schemas.errors import CalltideError
from schemas.events import Alert, CallEnded, CallEvent, CallInfo, encode
from schemas.topics import ALERTS, DEAD_LETTERS
from streams import kafka, webhooks
from streams.health import Health
from streams.settings import Endpoint, Settings, Webhooks
from tests import scripted
from tests.waiting import until
from tests.workers import Reader, settings_for

pytestmark = pytest.mark.kafka

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes....").decode()


class Receiver:
    """Somebody's system: answers what it is told to, in turn, then 204; keeps what it took."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.tries: list[tuple[str, int]] = []
        """Identifier and answer, in order."""
        self.taken: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, more = receiver.answers.pop(0) if receiver.answers else (204, {})
                try:
                    event = Webhook(SECRET).verify(body, dict(self.headers.items()))
                except WebhookVerificationError:
                    status, event = 401, None
                receiver.tries.append((self.headers["webhook-id"], status))
                if status == 204:
                    receiver.taken.append(event)
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hooks"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def running(
    kafka_bootstrap: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Settings]]:
    """Begin to send, to one receiver with these settings; ended behind the test."""
    stop, threads = threading.Event(), []
    monkeypatch.setattr(webhooks, "PAUSE_S", (0.01, 0.05))

    def begin(url: str, **more: Any) -> Settings:
        settings = settings_for(kafka_bootstrap, request.node.name)
        Topics(kafka_bootstrap, {}).ensure(settings.topics)
        endpoint = Endpoint(url=url, secret=SECRET, **more)
        settings = settings.model_copy(update={"webhooks": Webhooks(endpoints={"ops": endpoint})})
        health = Health()
        thread = threading.Thread(target=webhooks.run, args=(settings, stop, health))
        thread.start()
        threads.append(thread)
        assert health.serving.wait(90)
        return settings

    yield begin
    stop.set()
    for thread in threads:
        thread.join()


def call(call_id: str, tenant: str = "acme") -> CallInfo:
    return CallInfo(call_id=call_id, started_at=datetime(2026, 1, 1, tzinfo=UTC), roles=("agent",), tenant=tenant)


def alert(call_id: str, severity: str = "warning", tenant: str = "acme") -> Alert:
    return scripted.alert(call(call_id, tenant), severity=severity)


def produce(settings: Settings, *events: CallEvent, value: bytes | None = None) -> None:
    producer = Producer(kafka.producer(settings))
    for event in events:
        kind, body = encode(event)
        headers: dict[str, str | bytes | None] = {**dict(kind)}
        producer.produce(ALERTS, body if value is None else value, event.call.call_id.encode(), headers=headers)
    assert producer.flush(10) == 0


def letters(settings: Settings, call_id: str) -> list[Any]:
    reader = Reader(settings.bootstrap_servers, DEAD_LETTERS, settings.kafka.partitions)
    reader.until(lambda: any(one.key == call_id for one in reader.found), f"the dead letter of {call_id}")
    reader.close()
    return [one for one in reader.found if one.key == call_id]


def test_what_is_wanted_comes_signed_once_and_in_order(running: Callable[..., Settings], receiver: Receiver) -> None:
    settings = running(receiver.url, kinds=("alert", "call_ended"), tenants=("acme",), severity="warning")
    ended = CallEnded(call=call("w-1"), duration_ms=5_000, ended_at=datetime.now(UTC), reason="hangup")
    produce(
        settings, alert("w-1", "info"), alert("w-1", "critical"), alert("w-1", tenant="globex"), alert("w-1"), ended
    )
    until(lambda: len(receiver.taken) == 3, "three requests")
    assert [(one["type"], one["data"].get("severity")) for one in receiver.taken] == [
        ("alert", "critical"),
        ("alert", "warning"),
        ("call_ended", None),
    ]
    assert receiver.taken[0]["data"]["call"]["call_id"] == "w-1"


def test_a_receiver_that_is_away_gets_it_later_under_the_same_name(
    running: Callable[..., Settings], receiver: Receiver
) -> None:
    receiver.answers = [(503, {}), (429, {"Retry-After": "0"}), (500, {})]
    settings = running(receiver.url)
    produce(settings, alert("w-2"), alert("w-2", "critical"))
    until(lambda: len(receiver.taken) == 2, "both, in spite of the faults")
    names = [name for name, _ in receiver.tries]
    assert len(set(names[:4])) == 1, "the first is tried until it is taken"
    assert [status for _, status in receiver.tries] == [503, 429, 500, 204, 204]
    assert names[4] != names[0]


@pytest.mark.parametrize("status", [400, 410, 302])
def test_what_is_refused_is_a_dead_letter(running: Callable[..., Settings], receiver: Receiver, status: int) -> None:
    receiver.answers = [(status, {"Location": "http://127.0.0.1:1/"})]
    settings = running(receiver.url)
    produce(settings, alert(f"w-3-{status}"))
    (letter,) = letters(settings, f"w-3-{status}")
    produce(settings, alert("w-3-next"))
    until(lambda: len(receiver.taken) == 1, "the next one")
    assert [one["data"]["call"]["call_id"] for one in receiver.taken] == ["w-3-next"]
    assert letter.headers["__connect.errors.stage"] == b"webhook.ops"
    assert str(status).encode() in letter.headers["__connect.errors.exception.message"]


def test_what_grows_too_old_is_given_up_after_a_try(running: Callable[..., Settings], receiver: Receiver) -> None:
    receiver.answers = [(500, {})]
    settings = running(receiver.url, give_up_s=0)
    produce(settings, alert("w-4"))
    (letter,) = letters(settings, "w-4")
    assert b"given up" in letter.headers["__connect.errors.exception.message"]
    assert [status for _, status in receiver.tries] == [500]


def test_what_is_no_event_is_a_dead_letter_and_the_rest_comes(
    running: Callable[..., Settings], receiver: Receiver
) -> None:
    settings = running(receiver.url)
    produce(settings, alert("w-5"), value=b"{")
    produce(settings, alert("w-6"))
    until(lambda: len(receiver.taken) == 1, "the event behind it")
    assert letters(settings, "w-5")


def test_what_comes_while_the_process_is_away_is_sent_when_it_is_back(kafka_bootstrap: str, receiver: Receiver) -> None:
    settings = settings_for(kafka_bootstrap, "webhooks-away")
    Topics(kafka_bootstrap, {}).ensure(settings.topics)
    endpoint = Endpoint(url=receiver.url, secret=SECRET)
    settings = settings.model_copy(update={"webhooks": Webhooks(endpoints={"ops": endpoint})})
    for call_id in ("", "w-7"):
        stop, health = threading.Event(), Health()
        thread = threading.Thread(target=webhooks.run, args=(settings, stop, health))
        thread.start()
        assert health.serving.wait(90)
        if call_id:
            until(lambda: len(receiver.taken) == 1, "what came meanwhile")
        stop.set()
        thread.join()
        if not call_id:
            produce(settings, alert("w-7"))
    assert receiver.taken[0]["data"]["call"]["call_id"] == "w-7"


def test_without_a_receiver_it_says_what_to_set() -> None:
    with pytest.raises(CalltideError, match="CALLTIDE_WEBHOOKS__ENDPOINTS"):
        webhooks.run(Settings(), threading.Event())


@pytest.mark.parametrize("wrong", [{"url": "ftp://x", "secret": SECRET}, {"url": "https://x", "secret": "no base64!"}])
def test_wrong_settings_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        Endpoint.model_validate(wrong)
