"""Alerts, and what else is known of calls, to people's own systems: signed HTTP requests (docs/webhooks.md).

Each endpoint is a consumer group of its own, so one that is away holds up nobody else. What comes is sent in order, and
each at least once: the identifier in its header is made of the event alone, so a receiver that sees one twice knows it.

A changer must know: an offset is committed when the receiver has answered with 2xx or the event lies in `dead.letters`,
never before. While a receiver is away the consumer goes on polling, or Kafka would take its partitions.
"""

import hashlib
import json
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import requests
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from prometheus_client import Counter, Gauge
from standardwebhooks import Webhook

from schemas.errors import CalltideError
from schemas.events import CallEvent, decode
from schemas.topics import ALERTS, DEAD_LETTERS, FINDINGS
from streams import kafka
from streams.health import Health
from streams.retry_after import retry_after_s
from streams.settings import Endpoint, Settings

TOPICS: Final = {"call_ended": ALERTS} | {one.kind: one.topic for one in FINDINGS}
"""Kind of event → the topic that has it. The rules' topic has the marks of the calls' ends, too, behind all alerts."""
SEVERITIES: Final = ("info", "warning", "critical")
PAUSE_S: Final = (1.0, 60.0)
"""First and longest pause between tries, with as much again by chance (judgement)."""
AGAIN: Final = frozenset({408, 425, 429})
"""Of the answers 4xx, those that another try may change."""
ANSWER_S: Final = 30.0
CALLTIDE: Final = "calltide-webhooks"

log = logging.getLogger(__name__)

SENT = Counter("calltide_webhooks_sent_total", "events that a receiver has taken", ["endpoint"])
FAILED = Counter("calltide_webhooks_failed_tries_total", "tries that failed", ["endpoint"])
DEAD = Counter("calltide_webhooks_dead_total", "events given up, now in dead.letters", ["endpoint"])
AWAY = Gauge("calltide_webhooks_away", "1 while a receiver does not take what it is sent", ["endpoint"])


class Refused(Exception):
    """No further try would help."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a try failed, and what the receiver asks to wait, in seconds."""

    why: str
    wait_s: float = 0.0


def message_id(kind: str, value: bytes) -> str:
    """What the receiver knows an event by: the same whenever it is sent, also when a dead letter is redriven."""
    return f"msg_{hashlib.sha256(kind.encode() + b'/' + value).hexdigest()[:32]}"


def send(endpoint: Endpoint, identifier: str, kind: str, data: Mapping[str, Any], at: datetime) -> Failure | None:
    """One try; None: it was taken. `at`: now, in UTC; receivers refuse signatures that are minutes old.

    Raises Refused when no further try would help.
    """
    body = json.dumps({"type": kind, "timestamp": at.isoformat(), "data": data}, ensure_ascii=False)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": CALLTIDE,
        "webhook-id": identifier,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(endpoint.secret).sign(identifier, at, body),
    }
    try:
        # A redirect would carry customers' words to where nobody said they may go.
        # What it says beside its status is not read: there may be no end of it.
        with requests.post(
            endpoint.url, body.encode(), headers=headers, timeout=endpoint.timeout_s, allow_redirects=False, stream=True
        ) as answer:
            status = answer.status_code
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise Refused(f"{type(error).__name__}: its URL is none; mend CALLTIDE_WEBHOOKS__ENDPOINTS") from error
    except requests.RequestException as error:
        return Failure(f"{type(error).__name__}: no answer from the receiver")
    if 200 <= status < 300:
        return None
    if status >= 500 or status in AGAIN:
        return Failure(f"it answers {status}", retry_after_s(answer.headers))
    raise Refused(f"it answers {status}")


class _Courier(threading.Thread):
    """Sends what one endpoint wants, until `stop`. `failure`: what ended it before."""

    def __init__(self, settings: Settings, name: str, endpoint: Endpoint, stop: threading.Event) -> None:
        super().__init__(name=f"webhook {name}", daemon=True)
        self.settings, self.endpoint, self.stop = settings, endpoint, stop
        self.endpoint_name = name
        self.failure: BaseException | None = None
        self.assigned = False
        self._ahead: deque[Message] = deque()
        """What came while the receiver was away."""
        self._random = random.Random()
        group = f"{settings.kafka.group_prefix}.webhooks.{name}"
        self._consumer = Consumer(
            kafka.consumer(
                settings,
                **{
                    "group.id": group,
                    "session.timeout.ms": settings.kafka.session_timeout_ms,
                },
            )
        )
        self._producer = Producer(kafka.producer(settings))

    def run(self) -> None:
        try:
            topics = sorted({TOPICS[kind] for kind in self.endpoint.kinds})
            self._consumer.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke)
            while not self.stop.is_set():
                message = self._ahead.popleft() if self._ahead else self._poll(0.2)
                if message is not None and self._deliver(message):
                    self._commit(message)
        except BaseException as error:  # the main thread says it
            self.failure = error
        finally:
            self._consumer.close()

    def _on_assign(self, consumer: Consumer, held: list[TopicPartition]) -> None:
        # Who connects a system wants to hear what comes, not the alerts of last week.
        consumer.assign(kafka.from_now_on(consumer, held))
        self.assigned = True

    def _on_revoke(self, _consumer: Consumer, _lost: list[TopicPartition]) -> None:
        # Whoever gets them reads it again.
        self._ahead.clear()

    def _poll(self, wait_s: float) -> Message | None:
        message = self._consumer.poll(wait_s)
        if message is None or (error := message.error()) is None:
            return message
        if error.fatal() or error.code() in (*kafka.REFUSED, *kafka.FENCED):
            raise KafkaException(error)
        if error.code() != KafkaError._PARTITION_EOF:
            log.warning("kafka: %s", error.str())
        return None

    def _deliver(self, message: Message) -> bool:
        """Send, again and again; False: stopped before it was sent."""
        headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
        value = message.value() or b""
        try:
            event = decode(headers, value)
        except (KeyError, ValueError) as error:
            self._bury(message, error)
            return True
        if not self._wants(event):
            return True
        identifier = message_id(event.kind, value)
        pause_s, longest_s = PAUSE_S
        while not self.stop.is_set():
            try:
                failure = send(self.endpoint, identifier, event.kind, event.model_dump(mode="json"), datetime.now(UTC))
            except Refused as error:
                self._bury(message, error)
                return True
            if failure is None:
                SENT.labels(self.endpoint_name).inc()
                AWAY.labels(self.endpoint_name).set(0)
                return True
            FAILED.labels(self.endpoint_name).inc()
            AWAY.labels(self.endpoint_name).set(1)
            about = {"endpoint": self.endpoint_name, "call": event.call.call_id, "message_id": identifier}
            log.warning("webhook not taken: %s", failure.why, extra=about)
            if time.time() - message.timestamp()[1] / 1_000 > self.endpoint.give_up_s:
                self._bury(message, TimeoutError(f"{failure.why}; given up after {self.endpoint.give_up_s:.0f} s"))
                return True
            self._wait(max(pause_s * (1 + self._random.random()), failure.wait_s))
            pause_s = min(2 * pause_s, longest_s)
        return False

    def _wants(self, event: CallEvent) -> bool:
        wanted = self.endpoint
        severity = getattr(event, "severity", None)
        return (
            event.kind in wanted.kinds
            and (not wanted.tenants or event.call.tenant in wanted.tenants)
            and (severity is None or SEVERITIES.index(severity) >= SEVERITIES.index(wanted.severity))
        )

    def _wait(self, seconds: float) -> None:
        """Be patient, and stay a member of the group."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self.stop.is_set():
            self._consumer.pause(self._consumer.assignment())
            if (message := self._poll(min(left, 0.2))) is not None:
                self._ahead.append(message)
        if not self.stop.is_set():
            self._consumer.resume(self._consumer.assignment())

    def _bury(self, message: Message, error: Exception) -> None:
        """Into dead.letters, from where `calltide dead-letters redrive` sends it again."""
        DEAD.labels(self.endpoint_name).inc()
        log.error("webhook given up: %s", error, extra={"endpoint": self.endpoint_name, "offset": message.offset()})
        kafka.bury(self._producer, DEAD_LETTERS, message, f"webhook.{self.endpoint_name}", error)

    def _commit(self, message: Message) -> None:
        try:
            self._consumer.commit(message=message, asynchronous=False)
        except KafkaException as error:
            # It was sent; whoever reads it again sends it again, under the same identifier.
            log.warning("offset not committed: %s", error.args[0].str())


def _endpoints(settings: Settings) -> dict[str, Endpoint]:
    if not settings.webhooks.endpoints:
        raise CalltideError("no webhook is set; give CALLTIDE_WEBHOOKS__ENDPOINTS (docs/webhooks.md)")
    return settings.webhooks.endpoints


def run(settings: Settings, stop: threading.Event, health: Health | None = None) -> None:
    """Send until `stop` is set. Raises CalltideError without endpoints, and what ends a courier."""
    endpoints = _endpoints(settings)
    health = health or Health()
    couriers = [_Courier(settings, name, endpoint, stop) for name, endpoint in endpoints.items()]
    for courier in couriers:
        courier.start()
    try:
        while not stop.wait(0.1):
            health.beat()
            if all(courier.assigned for courier in couriers):
                health.ready(endpoints=sorted(endpoints))
            for courier in couriers:
                if courier.failure is not None:
                    raise courier.failure
    finally:
        stop.set()
        for courier in couriers:
            courier.join(ANSWER_S)


def test(settings: Settings) -> list[tuple[str, str]]:
    """Send one event of the kind `test` to every endpoint: (name, "" or what is wrong with it).

    Raises CalltideError without endpoints.
    """
    found = []
    for name, endpoint in _endpoints(settings).items():
        now = datetime.now(UTC)
        try:
            failure = send(endpoint, message_id("test", now.isoformat().encode()), "test", {"endpoint": name}, now)
        except Refused as error:
            failure = Failure(str(error))
        found.append((name, failure.why if failure else ""))
    return found
