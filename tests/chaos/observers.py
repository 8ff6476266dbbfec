"""Who looks on while the chain runs: at the topics, at ClickHouse, and as a client of the gateway.

A changer must know: they say when a killed part works again, so they must be quick; and they share two cores with the
chain, so they must be cheap. What is compared at the end is read anew (`tests.chaos.comparison`), except for what the
websocket client was sent: that cannot be had twice.
"""

import asyncio
import contextlib
import http.client
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import urlencode

from confluent_kafka import Consumer, TopicPartition

from schemas.topics import SCORES, STAGES, lanes
from streams import kafka
from streams.listen import subscribe
from streams.settings import Settings

Seen = Callable[[str], None]
"""Told the name of a part when it has done something."""

WRITTEN_BY: Final = {written.writes: row.name for row in STAGES for written in lanes(row)}


class _Observer(threading.Thread):
    """A thread that looks until `close`; `failures` holds what ended it before."""

    def __init__(self, name: str, seen: Seen) -> None:
        super().__init__(name=name, daemon=True)
        self.seen = seen
        self.failures: list[BaseException] = []
        self.closing = threading.Event()

    def run(self) -> None:
        try:
            self.look()
        except BaseException as error:
            self.failures.append(error)

    @abstractmethod
    def look(self) -> None:
        """Until `closing` is set."""

    def close(self) -> None:
        self.closing.set()
        self.join(10)


class Topics(_Observer):
    """Reads what all stages commit; a new record is seen as its stage's work, and one of `scores` as the broker's."""

    def __init__(self, settings: Settings, seen: Seen, came_out: Callable[[str], None]) -> None:
        super().__init__("topics", seen)
        self.came_out = came_out
        self.records = 0
        self.consumer = Consumer(kafka.consumer(settings, **{"group.id": "chaos.observer", "fetch.wait.max.ms": 100}))
        partitions = range(settings.kafka.partitions)
        self.consumer.assign([TopicPartition(topic, number, 0) for topic in WRITTEN_BY for number in partitions])

    def look(self) -> None:
        while not self.closing.is_set():
            for message in self.consumer.consume(500, 0.05):
                if message.error():
                    continue
                topic = message.topic() or ""
                self.seen(WRITTEN_BY[topic])
                self.records += 1
                if topic == SCORES:
                    self.seen("broker")
                    if dict(kafka.headers_of(message)).get("kind") == b"call_ended":
                        self.came_out((message.key() or b"").decode())
        self.consumer.close()


class Client(_Observer):
    """A program at the gateway that wants everything and goes on by cursor; an event is the gateway's work."""

    def __init__(self, settings: Settings, seen: Seen) -> None:
        super().__init__("client", seen)
        self.settings = settings
        self.connected = threading.Event()
        self.connections = 0
        self.gaps: list[dict[str, Any]] = []
        """Messages that say that something is gone."""
        self.events: dict[str, list[dict[str, Any]]] = {}
        """By call id, in the order of their coming."""
        self.ended: set[str] = set()

    def look(self) -> None:
        asyncio.run(self._look())

    async def _look(self) -> None:
        task = asyncio.create_task(self._subscribe())
        while not (self.closing.is_set() or task.done()):
            await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _subscribe(self) -> None:
        kinds = "score,correction,call_started,call_ended,progress"
        async with aclosing(subscribe(self.settings.scores_url, kinds=kinds)) as messages:
            async for message in messages:
                if event := message.get("event"):
                    call_id = event["call"]["call_id"]
                    self.events.setdefault(call_id, []).append(event)
                    if event["kind"] == "call_ended":
                        self.ended.add(call_id)
                    self.seen("gateway")
                elif message["type"] == "hello":
                    self.connections += 1
                    self.connected.set()
                elif message["type"] == "gap":
                    self.gaps.append(message)


class Rows(_Observer):
    """Asks ClickHouse how far the rows go while somebody waits for new ones: the sink's work, and ClickHouse's own."""

    PAUSE_S: Final = 0.25
    SQL: Final = "SELECT sum(last) FROM (SELECT max(offset) AS last FROM utterances_heard GROUP BY partition)"

    def __init__(self, settings: Settings, seen: Seen, waiting_for: Callable[[], set[str]]) -> None:
        super().__init__("rows", seen)
        self.settings = settings
        self.waiting_for = waiting_for
        self.last = -1

    def look(self) -> None:
        while not self.closing.wait(self.PAUSE_S):
            if not self.waiting_for() & {"sink", "clickhouse"}:
                self.last = -1
                continue
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                found = int(query(self.settings, self.SQL))
                if 0 <= self.last < found:
                    self.seen("sink")
                    self.seen("clickhouse")
                self.last = found


def query(settings: Settings, sql: str) -> str:
    """ClickHouse's answer in its plainest form. Raises OSError or HTTPException while it is away."""
    connection = http.client.HTTPConnection("127.0.0.1", settings.clickhouse.port, timeout=5)
    try:
        connection.request("GET", "/?" + urlencode({"query": sql, "database": settings.clickhouse.database}))
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise http.client.HTTPException(text[:200])
        return text
    finally:
        connection.close()


def until(done: Callable[[], object], seconds: float, tend: Callable[[], object]) -> bool:
    """Wait for a condition while everything is tended; False when it did not come in time."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        tend()
        time.sleep(0.1)
    return True
