"""Ended calls to a language model: a real broker, a real HTTP server, and what goes wrong between them."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from deploy.topics import Topics
from schemas.errors import CalltideError
from schemas.events import Conversation, Insights, Spoken, decode
from schemas.topics import DEAD_LETTERS, INSIGHTS
from streams import kafka
from streams.health import Health
from streams.llm import engine, worker
from streams.settings import Llm, Settings
from tests import scripted
from tests.llm_endpoint import LanguageServer, language_server, says, silent, status, well
from tests.waiting import until
from tests.workers import Reader, settings_for

pytestmark = pytest.mark.kafka


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LanguageServer]:
    monkeypatch.setattr(engine, "PAUSE_S", (0.01, 0.05))
    monkeypatch.setattr(engine, "BUDGET_EVERY_S", 0.05)
    with language_server() as made:
        yield made


class Running:
    """A worker in a thread, and what it has written."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reader = Reader(settings.bootstrap_servers, INSIGHTS, settings.kafka.partitions)
        self.writer = scripted.Writer(settings.bootstrap_servers, INSIGHTS)
        self.stop, self.thread = threading.Event(), threading.Thread()

    def start(self) -> None:
        health = Health()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=worker.run, args=(self.settings, self.stop, health))
        self.thread.start()
        assert health.serving.wait(90)

    def end(self) -> None:
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join(90)
        assert not self.thread.is_alive()

    def insights(self, call_ids: list[str]) -> list[Insights]:
        """Those of the model, of each call in order; waits until each has one."""
        self.reader.until(lambda: set(call_ids) <= {one.call.call_id for one in self._found()}, "the insights")
        return sorted((one for one in self._found() if one.call.call_id in call_ids), key=lambda one: one.call.call_id)

    def _found(self) -> list[Insights]:
        read = [one for one in self.reader.found if one.headers["kind"] == b"insights"]
        events = [decode(one.headers, one.value or b"") for one in read]
        return [one for one in events if isinstance(one, Insights) and one.engine.startswith("llm:")]


@pytest.fixture
def running(
    kafka_bootstrap: str, request: pytest.FixtureRequest, server: LanguageServer
) -> Iterator[Callable[..., Running]]:
    """Begin to ask, with these settings; ended behind the test."""
    made: list[Running] = []

    def begin(start: bool = True, **more: Any) -> Running:
        settings = settings_for(kafka_bootstrap, request.node.name)
        Topics(kafka_bootstrap, {}).ensure(settings.topics)
        chosen = Llm(**{"url": server.url, "model": "small", "timeout_s": 0.5} | more)
        one = Running(settings.model_copy(update={"llm": chosen}))
        made.append(one)
        if start:
            one.start()
        return one

    yield begin
    for one in made:
        one.end()
        one.reader.close()


def conversation(call_id: str) -> Conversation:
    texts = ("Good morning, how can I help?", "I was charged twice for this month.", "I will send it back.")
    spoken = tuple(
        Spoken(channel=at % 2, start_ms=at * 5_000, end_ms=at * 5_000 + 4_000, speaker=role, role=role, text=text)
        for at, (role, text) in enumerate(zip(("agent", "customer", "agent"), texts, strict=True))
    )
    info = scripted.call(call_id)
    return Conversation(
        call=info, ended_at=info.started_at, duration_ms=20_000, language="en", business="b2c", utterances=spoken,
        unread=0, pipeline_version="v1",
    )  # fmt: skip


def extractive(call_id: str) -> Insights:
    info = scripted.call(call_id)
    return Insights(
        call=info, engine="extractive", state="ok", ended_at=info.started_at, duration_ms=1, pipeline_version="v1"
    )


def test_each_ended_call_gets_insights_beside_the_extractive_ones(
    running: Callable[..., Running], server: LanguageServer
) -> None:

    def together(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        """Answer no request before three have come at one time."""
        waited = time.monotonic() + 5
        while server.busiest < 3 and time.monotonic() < waited:
            time.sleep(0.01)
        well(handler, request)

    server.always = together
    one = running(concurrency=3, timeout_s=10.0)
    calls = [f"l-1-{number}" for number in range(9)]
    for call_id in calls:
        info = scripted.call(call_id)
        one.writer.write(
            scripted.started(info), extractive(call_id), conversation(call_id), scripted.ended(info), partition=-1
        )
    made = one.insights(calls)
    assert [(each.state, each.engine, each.model) for each in made] == [("ok", "llm:small", "small-0.1")] * 9
    places = {each.key: each.partition for each in one.reader.found if each.headers["kind"] == b"conversation"}
    assert all(places[each.key] == each.partition for each in one.reader.found if each.key in places)
    assert made[0].summary[0].evidence[0].identity == "l-1-0/0/0"
    assert server.busiest == 3


def test_an_endpoint_that_is_down_is_waited_for_and_the_calls_catch_up(
    running: Callable[..., Running], server: LanguageServer
) -> None:
    server.always = status(500)
    server.behaviour = [
        status(429, Retry_After="0"),
        silent,
        status(200, b"garbage"),
        says('{"cut', finish_reason="length"),
    ]
    one = running()
    calls = [f"l-2-{number}" for number in range(6)]
    one.writer.write(*map(conversation, calls))
    until(lambda: server.probes >= 2, "that it is asked whether it is there at all")
    assert server.busiest <= 2
    one.end()  # a restart meanwhile loses nothing
    one.start()
    server.always = well
    made = one.insights(calls)
    assert [each.state for each in made] == ["ok"] * 6


def test_what_the_model_cannot_tell_is_said_and_the_next_call_goes_on(
    running: Callable[..., Running], server: LanguageServer
) -> None:
    server.behaviour = [says("I'd rather not."), says("No!")]
    one = running(concurrency=1)
    one.writer.write(conversation("l-3"))
    (failed,) = one.insights(["l-3"])
    assert failed.state == "failed" and "no JSON object" in failed.why and failed.tokens_in == 2_000
    letters = Reader(one.settings.bootstrap_servers, DEAD_LETTERS, one.settings.kafka.partitions)
    letters.until(lambda: any(each.key == "l-3" for each in letters.found), "the dead letter")
    letters.close()
    (letter,) = [each for each in letters.found if each.key == "l-3"]
    assert letter.headers["__connect.errors.stage"] == b"llm"
    one.writer.write(conversation("l-3b"))
    assert one.insights(["l-3b"])[0].state == "ok"


def test_done_calls_are_not_asked_about_again_after_a_restart(
    running: Callable[..., Running], server: LanguageServer
) -> None:
    one = running()
    one.writer.write(conversation("l-4"))
    one.insights(["l-4"])
    (read,) = [each for each in one.reader.found if each.key == "l-4" and each.headers["kind"] == b"conversation"]
    until(lambda: committed(one.settings, read.partition) > read.offset, "the offset")
    one.end()
    one.writer.write(conversation("l-4b"))
    one.start()
    one.insights(["l-4b"])
    assert len(server.requests) == 2


def committed(settings: Settings, partition: int) -> int:
    """The group's offset."""
    consumer = Consumer(kafka.consumer(settings, **{"group.id": f"{settings.kafka.group_prefix}.llm"}))
    (place,) = consumer.committed([TopicPartition(INSIGHTS, partition)], 10)
    consumer.close()
    return place.offset


def test_a_days_budget_counts_what_was_used_before_a_restart(
    running: Callable[..., Running], server: LanguageServer
) -> None:
    one = running(start=False)
    used = sum(sum(pair) for pair in worker.used_since(one.settings, datetime.now(UTC)))
    limited = running(start=False, tokens_per_day=used + 1_000)
    limited.start()
    limited.writer.write(conversation("l-5"))
    limited.insights(["l-5"])
    limited.end()
    assert worker.used_since(one.settings, datetime.now(UTC)).count((1_000, 100)) >= 1
    limited.start()
    limited.writer.write(conversation("l-5b"))
    until(lambda: engine.WAITING.labels("budget")._value.get() == 1, "that it waits for another day")
    assert len(server.requests) == 1


def test_without_an_endpoint_it_says_what_to_set() -> None:
    with pytest.raises(CalltideError, match="CALLTIDE_LLM__URL"):
        worker.run(Settings(), threading.Event())
    priceless = Settings().model_copy(update={"llm": Llm(url="http://x/v1", model="m", cost_per_day=1)})
    with pytest.raises(CalltideError, match="PRICE_IN"):
        worker.run(priceless, threading.Event())


def test_an_endpoint_can_be_tried(server: LanguageServer) -> None:
    chosen = Settings().model_copy(update={"llm": Llm(url=server.url, model="small")})
    assert worker.test(chosen) == "llm:small answers"
    server.always = status(401, json.dumps({"error": {"message": "wrong key"}}).encode())
    with pytest.raises(CalltideError, match="401.*wrong key"):
        worker.test(chosen)
