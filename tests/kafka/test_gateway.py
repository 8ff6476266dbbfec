"""The gateway against the real broker: what is pushed, what is not, and that a cursor loses and doubles nothing."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deploy.broker import Broker
from deploy.process import free_port
from deploy.topics import Topics
from schemas.errors import CalltideError
from schemas.events import CallInfo, Correction, Interim, Progress, encode
from schemas.topics import SCORES
from streams import gateway as module
from streams.gateway import Gateway
from streams.listen import latency_s, subscribe
from tests.conftest import JARS
from tests.scripted import Writer, alert, call, ended, new_topic, score, serving, settings_for, started, values
from tests.unit.stage_records import interim

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parent.parent.parent
SECONDS = 90


@pytest.fixture
def topic(kafka_bootstrap: str) -> str:
    return new_topic(kafka_bootstrap)


@pytest.fixture
def writer(kafka_bootstrap: str, topic: str) -> Writer:
    return Writer(kafka_bootstrap, topic)


@pytest.fixture
def gateway(kafka_bootstrap: str, topic: str) -> Iterator[Gateway]:
    with serving(settings_for(kafka_bootstrap), topic) as running:
        yield running


def within(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it; a message that never comes fails the test."""

    async def limited() -> Any:
        async with asyncio.timeout(SECONDS):
            return await work

    return asyncio.run(limited())


async def receive(client: ClientConnection) -> dict[str, Any]:
    return json.loads(await client.recv())


async def take(client: ClientConnection, events: int) -> list[dict[str, Any]]:
    """The next `events` messages that carry an event."""
    found: list[dict[str, Any]] = []
    while len(found) < events:
        message = await receive(client)
        if "event" in message:
            found.append(message)
    return found


async def until_live(client: ClientConnection) -> list[dict[str, Any]]:
    """Everything up to the `position` that says that history has been sent."""
    found = []
    while (message := await receive(client))["type"] != "position":
        found.append(message)
    return [message for message in found if message["type"] != "hello"]


async def rest(client: ClientConnection) -> tuple[list[dict[str, Any]], int | None, str]:
    """All that still comes, and the code and reason the gateway closes with."""
    found = []
    try:
        while True:
            found.append(await receive(client))
    except ConnectionClosed as error:
        assert error.rcvd
        return found, error.rcvd.code, error.rcvd.reason


def test_hello_comes_first_and_an_event_is_pushed_as_it_lies_in_the_topic(gateway: Gateway, writer: Writer) -> None:
    said = score(call("c1", queue="billing"), 500, 'say "hi" <b>&', emotion="anger", polarity=-0.5)

    async def work() -> None:
        async with connect(f"{gateway.address}?call=c1") as client:
            hello = await receive(client)
            assert hello["type"] == "hello"
            assert (hello["protocol"], hello["partitions"], hello["kafka"]) == (1, 3, "ok")
            assert (hello["slow_clients"], hello["queue"], hello["pipeline"]) == ("close", 1000, "v1")
            assert hello["subscription"] == {
                "call": ["c1"],
                "kinds": ["score", "correction", "call_started", "call_ended"],
            }
            assert hello["cursor"] == f"{writer.topic}~0:0,1:0,2:0"
            writer.write(said)
            (message,) = await take(client, 1)
            assert message["event"] == json.loads(encode(said)[1])
            assert message["type"] == "score"
            assert message["cursor"].startswith(f"{writer.topic}-")
            latency = latency_s(message)
            assert latency is not None

    within(work())


def test_only_committed_events_are_pushed(gateway: Gateway, kafka_bootstrap: str, writer: Writer) -> None:
    other = Writer(kafka_bootstrap, writer.topic)

    async def work() -> None:
        async with connect(f"{gateway.address}?kinds=score") as client:
            await receive(client)
            writer.write(score(call("open")), partition=0, commit=False)
            other.write(score(call("aborted")), partition=1, commit=False)
            other.abort()
            other.write(score(call("committed")), partition=1)
            assert values(await take(client, 1)) == [("committed", 0)]
            other.write(score(call("behind")), partition=0)
            other.write(score(call("elsewhere")), partition=2)
            assert values(await take(client, 1)) == [("elsewhere", 0)], "what is open holds its partition back"
            writer.commit()
            assert values(await take(client, 2)) == [("behind", 0), ("open", 0)]

    within(work())


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({}, ["a", "b", "c"]),
        ({"call": "a"}, ["a"]),
        ({"call": ["a", "c"]}, ["a", "c"]),
        ({"queue": "billing"}, ["a", "b"]),
        ({"queue": "billing", "agent": "kim"}, ["b"]),
        ({"tenant": "acme"}, ["c"]),
    ],
)
def test_a_subscription_by_query_and_one_by_first_message_give_the_same(
    gateway: Gateway, writer: Writer, fields: dict[str, Any], calls: list[str]
) -> None:
    infos = [call("a", queue="billing"), call("b", queue="billing", agent="kim"), call("c", tenant="acme")]
    query = "&".join(
        f"{name}={value}" for name, many in fields.items() for value in ([many] if isinstance(many, str) else many)
    )

    async def work() -> None:
        async with connect(f"{gateway.address}?{query}") as by_query, connect(gateway.address) as by_message:
            if fields:
                await by_message.send(json.dumps(fields))
            for client in (by_query, by_message):
                assert (await receive(client))["type"] == "hello"
            writer.write(*(score(info) for info in infos), *(ended(info) for info in infos))
            for client in (by_query, by_message):
                messages = await take(client, 2 * len(calls))
                assert values(messages) == [(name, 0) for name in calls]
                assert [m["type"] for m in messages].count("call_ended") == len(calls)

    within(work())


def test_kinds_are_chosen(gateway: Gateway, writer: Writer) -> None:
    info = call("c1")

    async def work() -> None:
        async with connect(f"{gateway.address}?kinds=progress&kinds=call_ended") as client:
            await receive(client)
            writer.write(started(info), score(info), Progress(call=info, at_ms=2000), ended(info))
            assert [message["type"] for message in await take(client, 2)] == ["progress", "call_ended"]

    within(work())


def test_a_correction_is_pushed_in_its_place_live_from_a_cursor_and_with_history(
    gateway: Gateway, writer: Writer
) -> None:
    info = call("c1")
    events = [
        score(info, 0),
        Correction(call=info, speaker="speaker-2", same_as="speaker-1"),
        score(info, 900),
        Correction(call=info, speaker="speaker-1", role="customer", role_confidence=0.97),
        score(info, 1800),
    ]
    said = [json.loads(encode(event)[1]) for event in events]

    async def work() -> None:
        async with connect(f"{gateway.address}?call=c1") as client:
            await receive(client)
            writer.write(*events)
            live = await take(client, 5)
        assert [message["event"] for message in live] == said
        assert live[1]["type"] == "correction"
        async with connect(f"{gateway.address}?call=c1&from={quote(live[1]['cursor'])}") as client:
            assert [message["event"] for message in await until_live(client)] == said[2:]
        for query in ("call=c1", "queue="):
            async with connect(f"{gateway.address}?history=live&{query}") as client:
                history = await until_live(client)
                assert [message["event"] for message in history] == said
        async with connect(f"{gateway.address}?from={quote(history[2]['cursor'])}") as client:
            assert [message["event"] for message in await until_live(client)] == said[3:]
        async with connect(f"{gateway.address}?history=live&kinds=score") as client:
            assert [message["type"] for message in await until_live(client)] == ["score"] * 3

    within(work())


def test_interim_results_come_to_who_asks_and_leave_cursors_as_they_are(
    kafka_bootstrap: str, topic: str, writer: Writer
) -> None:
    info = call("c1")
    interim_topic = new_topic(kafka_bootstrap)
    interim_writer = Writer(kafka_bootstrap, interim_topic)

    async def until_interim(client: ClientConnection) -> dict[str, Any]:
        """The gateway begins to read them when the first client asks: what was written before is not pushed."""
        revision = 1
        while True:
            interim_writer.write(interim(info, 5_900, revision * 100, "charged twice"))
            revision += 1
            try:
                async with asyncio.timeout(0.5):
                    return await receive(client)
            except TimeoutError:
                pass

    async def work(address: str) -> None:
        async with (
            connect(f"{address}?kinds=score,interim&call=c1") as asks,
            connect(f"{address}?kinds=interim&call=c2") as other,
            connect(address + "?queue=") as plain,
        ):
            for client in (asks, other, plain):
                await receive(client)
            writer.write(score(info, 0))
            (final,) = await take(asks, 1)
            told = await until_interim(asks)
            assert (told["type"], told["event"]["text"]) == ("interim", "charged twice")
            assert Interim.model_validate(told["event"]).identity == "c1/0/5900"
            writer.write(score(info, 5_900))
            while (message := await receive(asks))["type"] == "interim":
                told = message
            assert message["event"]["start_ms"] == 5_900
            assert [one["type"] for one in await take(plain, 2)] == ["score", "score"]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await other.recv()
        for cursor in (final["cursor"], told["cursor"]):
            async with connect(f"{address}?kinds=score,interim&call=c1&from={quote(cursor)}") as client:
                assert [one["event"]["start_ms"] for one in await until_live(client)] == [5_900]

    with serving(settings_for(kafka_bootstrap), topic, interim_topic) as gateway:
        within(work(gateway.address))


def test_alerts_come_to_who_asks_and_again_to_who_comes_back(kafka_bootstrap: str, topic: str, writer: Writer) -> None:
    info, over = call("c1"), call("c2")
    alerts = new_topic(kafka_bootstrap)
    alert_writer = Writer(kafka_bootstrap, alerts)
    for one in (info, over):
        writer.write(started(one), score(one, 0))
        alert_writer.write(alert(one, "angry", 100))
    writer.write(ended(over))

    async def work(address: str) -> None:
        async with (
            connect(f"{address}?kinds=score,alert") as asks,
            connect(f"{address}?kinds=alert&call=c2") as other,
            connect(address) as plain,
        ):
            for client in (asks, other, plain):
                assert (await receive(client))["type"] == "hello"
            alert_writer.write(alert(info, "angry", 5_000))
            (told,) = await take(asks, 1)
            assert (told["type"], told["event"]["at_ms"]) == ("alert", 5_000)
            writer.write(score(info, 6_000))
            (final,) = await take(plain, 1)
            assert final["type"] == "score", "who does not ask for alerts gets none"
            assert [one["type"] for one in await take(asks, 1)] == ["score"]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await other.recv()
        for start in (f"from={quote(told['cursor'])}", "history=live"):
            async with connect(f"{address}?kinds=score,alert&{start}") as client:
                await until_live(client)
                again = await take(client, 2)
            assert [one["event"]["at_ms"] for one in again] == [100, 5_000], "those of the call that goes on"
            assert all(one["history"] for one in again)

    with serving(settings_for(kafka_bootstrap), topic, findings={"alert": alerts}) as gateway:
        within(work(gateway.address))


def test_without_the_topic_of_interim_results_all_else_is_served(
    kafka_bootstrap: str, topic: str, writer: Writer
) -> None:
    async def work(address: str) -> None:
        async with connect(f"{address}?kinds=score,interim") as client:
            await receive(client)
            writer.write(score(call("c1"), 0))
            assert [one["type"] for one in await take(client, 1)] == ["score"]

    with serving(settings_for(kafka_bootstrap), topic, "no-such-topic") as gateway:
        within(work(gateway.address))


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("calls=a", "call, queue, agent, tenant, kinds, severity, from, history"),
        ("kinds=emotion", "score, correction, call_started, call_ended, progress"),
        ("from=scores-0-1~1:2", "malformed or not of the topic"),
        ("from=TOPIC~0:1:2", "malformed"),
        ("from=TOPIC-7-0&call=a", "partition 7"),
        ("from=TOPIC~0:1000", "ahead of"),
        ("from=TOPIC-0-0", "call=<id>"),
    ],
)
def test_what_cannot_be_is_said_and_closed_with_1008(gateway: Gateway, topic: str, query: str, word: str) -> None:
    async def work() -> None:
        async with connect(f"{gateway.address}?{query.replace('TOPIC', topic)}") as client:
            messages, code, reason = await rest(client)
            assert [message["type"] for message in messages] == ["error"]
            assert word in messages[0]["message"]
            assert code == 1008
            assert reason
            assert messages[0]["message"].startswith(reason)

    within(work())


def test_a_first_message_that_is_none_is_refused(gateway: Gateway) -> None:
    async def work() -> None:
        for sent in ("all", "[]", '{"queue": 7}', b"\xff"):
            async with connect(gateway.address) as client:
                await client.send(sent)
                messages, code, _ = await rest(client)
                assert (messages[0]["type"], code) == ("error", 1008)
                assert "JSON" in messages[0]["message"]

    within(work())


@pytest.mark.parametrize(
    ("path", "origin", "status"),
    [
        ("/v2/scores", None, 404),
        ("/v1/scores", "https://elsewhere.example", 403),
        ("/v1/scores", "null", 403),
        ("/v1/scores", "http://[", 403),
        ("/v1/scores", "http://localhost.elsewhere.example:8000", 403),
        ("/v1/scores", "http://127.0.0.1:8000", 101),
        ("/v1/scores", "http://localhost:8000", 101),
    ],
)
def test_pages_of_other_origins_are_not_let_in(gateway: Gateway, path: str, origin: Any, status: int) -> None:
    """Without this any page of the web could read the calls through the browser of whoever runs the gateway."""

    async def work() -> int:
        try:
            async with connect(gateway.address.replace("/v1/scores", path), origin=origin):
                return 101
        except InvalidStatus as error:
            return error.response.status_code

    assert within(work()) == status


def test_health_is_told_by_http(gateway: Gateway) -> None:
    import urllib.request

    with urllib.request.urlopen(gateway.address.replace("ws:", "http:").replace("/v1/scores", "/healthz")) as answer:
        assert json.load(answer) == {"kafka": "ok", "clients": 0}


def write_many(writer: Writer, calls: int, utterances: int, seed: int) -> list[tuple[str, int]]:
    """Utterances of several calls, interleaved, some transactions aborted; returns those that count."""
    chance = random.Random(seed)
    infos: list[CallInfo] = [call(f"call-{seed}-{number}") for number in range(calls)]
    kept = []
    for start_ms in range(utterances):
        batch = [score(info, start_ms, "a few words") for info in chance.sample(infos, chance.randint(1, calls))]
        if chance.random() < 0.15:
            writer.write(*batch, commit=False)
            writer.abort()
        else:
            writer.write(*batch)
            kept += [(event.call.call_id, event.start_ms) for event in batch]
    return sorted(kept)


def test_from_any_cursor_nothing_is_missed_and_nothing_repeated(
    kafka_bootstrap: str, topic: str, writer: Writer
) -> None:
    """Cut the stream after each message in turn, over a restart of the gateway, while more is being written."""
    settings = settings_for(kafka_bootstrap)
    with serving(settings, topic) as gateway:

        async def first() -> list[dict[str, Any]]:
            async with connect(f"{gateway.address}?kinds=score") as client:
                hello = await receive(client)
                writing = asyncio.create_task(asyncio.to_thread(write_many, writer, 5, 12, 1))
                expected = await writing
                messages = [hello, *await take(client, len(expected))]
                assert values(messages) == expected
                return messages

        live = within(first())
    # The second one reads no history: it stands behind the last transaction's marker, where no record ever was.
    with serving(settings_for(kafka_bootstrap, history_minutes=0), topic) as gateway:

        async def resumed(cut: int) -> list[dict[str, Any]]:
            async with connect(f"{gateway.address}?kinds=score&from={quote(live[cut]['cursor'])}") as client:
                return await take(client, len(live) + later - cut - 1)

        later = 0
        for cut in range(0, len(live), 4):
            messages = within(resumed(cut))
            assert values(live[: cut + 1] + messages) == values(live), f"after message {cut}"
            assert all(message["history"] for message in messages)

        # And while the stream goes on: what is read back, what was waiting and what is live fit together.
        done: list[list[tuple[str, int]]] = []
        busy = threading.Thread(target=lambda: done.append(write_many(writer, 5, 60, 2)))
        busy.start()

        async def through() -> list[dict[str, Any]]:
            async with connect(f"{gateway.address}?kinds=score&from={quote(live[0]['cursor'])}") as client:
                found = await until_live(client)
                await asyncio.to_thread(busy.join)
                return found + await take(client, len(values(live)) + len(done[0]) - len(found))

        messages = within(through())
        assert values(messages) == sorted(values(live) + done[0])
        of_one_call = [m["event"]["start_ms"] for m in messages if m["event"]["call"]["call_id"] == "call-2-0"]
        assert of_one_call == sorted(of_one_call), "events of one call keep their order"


def test_a_cursor_of_a_read_back_message_is_as_good_as_one_of_a_live_message(gateway: Gateway, writer: Writer) -> None:
    """A client that is cut off while it is being served from a cursor resumes from there."""
    expected = write_many(writer, 5, 12, 3)

    async def work() -> None:
        got: list[dict[str, Any]] = []
        cursor = f"{writer.topic}~0:0,1:0,2:0"
        while len(got) < len(expected):
            async with connect(f"{gateway.address}?kinds=score&from={quote(cursor)}", max_queue=None) as client:
                got += await take(client, min(5, len(expected) - len(got)))
                cursor = got[-1]["cursor"]
        assert values(got) == expected

    within(work())


def test_one_call_is_resumed_by_a_bare_cursor(gateway: Gateway, writer: Writer) -> None:
    one, other = call("one"), call("other")
    for start_ms in range(6):
        writer.write(score(one, start_ms), score(other, start_ms))

    async def work() -> None:
        async with connect(f"{gateway.address}?call=one&from={quote(writer.topic)}~0:0,1:0,2:0") as client:
            messages = await take(client, 6)
        assert all("~" not in message["cursor"] for message in messages)
        async with connect(f"{gateway.address}?call=one&from={messages[2]['cursor']}") as client:
            writer.write(score(one, 6))
            assert [m["event"]["start_ms"] for m in await take(client, 4)] == [3, 4, 5, 6]

    within(work())


def test_what_the_topic_no_longer_has_is_told_as_a_gap(
    gateway: Gateway, kafka_bootstrap: str, topic: str, writer: Writer
) -> None:
    for start_ms in range(10):
        writer.write(score(call("c1"), start_ms), partition=1)
    # A transaction of one record takes two offsets: the record's and its marker's.
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    first_kept = TopicPartition(topic, 1, 6)
    admin.delete_records([first_kept])[first_kept].result(10)

    async def work() -> None:
        async with connect(f"{gateway.address}?from={topic}~0:0,1:2,2:0") as client:
            gap, *messages = await until_live(client)
            assert (gap["type"], gap["partition"], gap["from_offset"], gap["to_offset"]) == ("gap", 1, 2, 6)
            assert "were not pushed" in gap["message"]
            assert gap["cursor"] == f"{topic}~0:0,1:6,2:0"
            assert [message["event"]["start_ms"] for message in messages] == list(range(3, 10))

    within(work())


def test_a_topic_made_anew_under_a_running_gateway_is_told_and_read_on(
    gateway: Gateway, kafka_bootstrap: str, topic: str, writer: Writer
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})

    def make_anew() -> None:
        admin.delete_topics([topic])[topic].result(10)
        while True:
            try:
                admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(10)
                return
            except KafkaException as error:
                # Deletion goes on for a while after it was confirmed.
                assert error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS

    async def work() -> None:
        async with connect(f"{gateway.address}?kinds=score") as client:
            await receive(client)
            for start_ms in range(5):
                writer.write(score(call("c1"), start_ms), partition=1)
            await take(client, 5)
            await asyncio.to_thread(make_anew)
            again = await asyncio.to_thread(Writer, kafka_bootstrap, topic)
            await asyncio.to_thread(again.write, score(call("c1"), 100), partition=1)
            while (message := await receive(client))["type"] != "gap":
                pass
            assert "made anew" in message["message"]
            (message,) = await take(client, 1)
            assert message["event"]["start_ms"] == 100
        async with connect(f"{gateway.address}?from={topic}~0:0,1:9,2:0") as client:
            messages, code, _ = await rest(client)
            assert code == 1008
            assert "made anew" in messages[0]["message"]

    within(work())


def test_history_gives_the_calls_running_now_and_then_what_comes(
    kafka_bootstrap: str, topic: str, writer: Writer
) -> None:
    running, over = call("running"), call("over")
    writer.write(started(running), started(over))
    for start_ms in range(5):
        writer.write(score(running, start_ms), score(over, start_ms))
    writer.write(ended(over))
    # Both from a gateway that saw them come and from one that was started later.
    for _ in range(2):
        with serving(settings_for(kafka_bootstrap), topic) as gateway:

            async def work(address: str) -> None:
                async with connect(f"{address}?history=live") as client:
                    messages = await until_live(client)
                    assert [message["type"] for message in messages] == ["call_started"] + ["score"] * 5
                    assert {message["event"]["call"]["call_id"] for message in messages} == {"running"}
                    assert all(message["history"] for message in messages)
                    start_ms = random.randint(10, 10**6)
                    writer.write(score(running, start_ms))
                    (live,) = await take(client, 1)
                    assert live["event"]["start_ms"] == start_ms
                    assert "history" not in live
                # Cut off in the middle of it: the cursor leads on, to what came since, of all calls.
                async with connect(f"{address}?kinds=score&from={quote(messages[2]['cursor'])}") as client:
                    resumed = values(await until_live(client))
                    assert set(resumed) >= {("running", start_ms), *(("running", at) for at in range(2, 5))}
                    assert not set(resumed) & {("running", 0), ("running", 1)}
                writer.write(ended(running), started(running), *(score(running, at) for at in range(5)))

            within(work(gateway.address))


def stalling(address: str) -> Any:
    """A client that takes in a few kilobytes and then nothing more."""
    return connect(address, max_queue=1, compression=None, max_size=None, ping_interval=None, close_timeout=0.1)


LONG = "word " * 20_000


def test_a_stalled_client_is_closed_with_1013_resumes_and_delays_nobody(
    kafka_bootstrap: str, topic: str, writer: Writer
) -> None:
    count = 300
    with serving(settings_for(kafka_bootstrap, queue=120), topic) as gateway:

        async def work() -> None:
            async with (
                stalling(f"{gateway.address}?kinds=score") as stalled,
                connect(f"{gateway.address}?kinds=score&call=small", max_size=None) as other,
            ):
                hello = await receive(stalled)
                await receive(other)

                def write() -> None:
                    for start_ms in range(count):
                        long = score(call("long"), start_ms).model_copy(update={"text": LONG})
                        writer.write(long, score(call("small"), start_ms))

                writing = asyncio.create_task(asyncio.to_thread(write))
                assert values(await take(other, count)) == [("small", at) for at in range(count)]
                await writing
                messages, code, reason = await rest(stalled)
                assert code == 1013
                assert reason == "too slow; resume with from=<cursor>"
                assert len(values(messages)) < 2 * count, "it must have stalled for this test to mean anything"
                cursor = messages[-1]["cursor"] if messages else hello["cursor"]
            async with connect(f"{gateway.address}?kinds=score&from={quote(cursor)}", max_size=None) as client:
                messages += await take(client, 2 * count - len(messages))
            assert values(messages) == sorted((name, at) for name in ("long", "small") for at in range(count))

        within(work())


def test_with_conflate_a_slow_client_gets_the_newest_and_the_count_of_what_it_missed(
    kafka_bootstrap: str, topic: str, writer: Writer
) -> None:
    count = 300
    with serving(settings_for(kafka_bootstrap, queue=10, slow_clients="conflate"), topic) as gateway:

        async def work() -> None:
            async with (
                stalling(f"{gateway.address}?kinds=score,call_ended") as slow,
                connect(f"{gateway.address}?kinds=call_ended") as other,
            ):
                await receive(slow)
                await receive(other)

                def write() -> None:
                    for start_ms in range(count):
                        long = score(call("long"), start_ms).model_copy(update={"text": LONG})
                        writer.write(long)
                    writer.write(ended(call("long")))

                await asyncio.to_thread(write)
                await take(other, 1)
                messages: list[dict[str, Any]] = []
                while not messages or messages[-1]["type"] != "call_ended":
                    messages += await take(slow, 1)
                skipped = sum(message.get("skipped", 0) for message in messages)
                assert skipped > 0
                assert len(messages) + skipped == count + 1
                numbers = [message["event"]["start_ms"] for message in messages[:-1]]
                assert numbers == sorted(numbers)
                assert numbers[-1] == count - 1, "the newest of a call is never skipped"

        within(work())


def test_more_than_the_backlog_can_be_resumed(kafka_bootstrap: str, topic: str, writer: Writer) -> None:
    """What is read back does not count against the backlog of a client."""
    expected = write_many(writer, 5, 40, 4)
    assert len(expected) > 50
    with serving(settings_for(kafka_bootstrap, queue=10), topic) as gateway:

        async def work() -> None:
            async with connect(f"{gateway.address}?kinds=score&from={topic}~0:0,1:0,2:0") as client:
                assert values(await take(client, len(expected))) == expected

        within(work())


def test_records_that_are_no_events_are_passed_over(gateway: Gateway, writer: Writer) -> None:
    async def work() -> None:
        async with connect(f"{gateway.address}?kinds=score") as client:
            await receive(client)
            no_events: list[tuple[dict[str, str | bytes | None], bytes]] = [
                ({}, b"{}"),
                ({"kind": b"score"}, b"{"),
                ({"kind": b"noise"}, b"\xff"),
            ]
            for headers, value in no_events:
                writer._producer.begin_transaction()
                writer._producer.produce(writer.topic, value, partition=0, headers=headers)
                writer.commit()
            writer.write(score(call("c1")), partition=0)
            assert values(await take(client, 1)) == [("c1", 0)]

    within(work())


def test_subscribe_goes_on_over_a_restart_of_the_gateway(kafka_bootstrap: str, topic: str, writer: Writer) -> None:
    info = call("c1")
    port = free_port()
    settings = settings_for(kafka_bootstrap, port=port)
    told: list[dict[str, Any]] = []

    async def listen(address: str, count: int, beginning: asyncio.Event) -> None:
        async for message in subscribe(address):
            told.append(message)
            beginning.set()
            if len(values(told)) == count:
                return

    async def work() -> None:
        beginning = asyncio.Event()
        listening: asyncio.Task[None] | None = None
        for number in range(3):
            context = serving(settings, topic)
            gateway = await asyncio.to_thread(context.__enter__)
            try:
                if listening is None:
                    listening = asyncio.create_task(listen(gateway.address, 9, beginning))
                    await beginning.wait()
                await asyncio.to_thread(writer.write, score(info, 3 * number), score(info, 3 * number + 1))
                while len(values(told)) < 3 * number + 2:
                    await asyncio.sleep(0.01)
            finally:
                await asyncio.to_thread(context.__exit__, None, None, None)
            await asyncio.to_thread(writer.write, score(info, 3 * number + 2))
        context = serving(settings, topic)
        await asyncio.to_thread(context.__enter__)
        assert listening
        await listening
        await asyncio.to_thread(context.__exit__, None, None, None)

    within(work())
    assert values(told) == [("c1", at) for at in range(9)]
    assert [message["type"] for message in told].count("disconnected") == 3


def test_subscribe_says_what_is_wrong(gateway: Gateway) -> None:
    async def first(url: str, **fields: str) -> None:
        await anext(subscribe(url, **fields))

    with pytest.raises(CalltideError, match="no gateway at ws://127"):
        within(first("ws://127.0.0.1:9/v1/scores"))
    with pytest.raises(CalltideError, match="unknown field 'calls'"):
        within(first(gateway.address, calls="c1"))


@pytest.mark.slow
def test_clients_stay_and_are_told_while_the_broker_is_away(tmp_path: Path) -> None:
    broker = Broker(tmp_path, port=0, jars=JARS)
    broker.start()
    try:
        topic = new_topic(broker.bootstrap_servers)
        with serving(settings_for(broker.bootstrap_servers), topic) as gateway:

            async def status(client: ClientConnection) -> str:
                while (message := await receive(client))["type"] != "status":
                    pass
                assert message["cursor"]
                return message["kafka"]

            async def work() -> None:
                async with connect(f"{gateway.address}?kinds=score") as client:
                    await receive(client)
                    broker.stop()
                    assert await status(client) == "unreachable"
                    async with connect(f"{gateway.address}?call=c1") as late:
                        assert (await receive(late))["kafka"] == "unreachable"
                    broker.start()
                    assert await status(client) == "ok"
                    writer = await asyncio.to_thread(Writer, broker.bootstrap_servers, topic)
                    await asyncio.to_thread(writer.write, score(call("c1")))
                    assert values(await take(client, 1)) == [("c1", 0)]

            asyncio.run(asyncio.wait_for(work(), 90))
    finally:
        broker.stop()


def refusal(settings: Any, topic: str) -> str:
    with pytest.raises(CalltideError) as told, serving(settings, topic):
        pass
    return str(told.value)


def test_a_start_that_cannot_be_says_why_in_one_line(
    kafka_bootstrap: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(settings_for(kafka_bootstrap, port=port), topic)
        assert f"127.0.0.1:{port}" in said
        assert "CALLTIDE_GATEWAY__PORT" in said
    assert "`calltide topics create`" in refusal(settings_for(kafka_bootstrap), "no-such-topic")
    monkeypatch.setattr(module, "KAFKA_SECONDS", 1.0)
    assert "CALLTIDE_KAFKA__BOOTSTRAP_SERVERS" in refusal(settings_for("127.0.0.1:9"), topic)


SERVE = """
import threading
from streams import service
from streams.gateway import serve_until
from streams.settings import load
service.run(load(), None, lambda stop, health: serve_until(load(), stop, lambda: print("ready", flush=True)))
"""


def test_sigterm_closes_with_1001_at_once_even_with_a_stalled_client(kafka_bootstrap: str) -> None:
    from streams.settings import load

    Topics(kafka_bootstrap).create([row for row in load().topics if row.name == SCORES])
    writer = Writer(kafka_bootstrap, SCORES)
    port = free_port()
    environment = {
        "CALLTIDE_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap,
        "CALLTIDE_GATEWAY__PORT": str(port),
        "CALLTIDE_GATEWAY__QUEUE": "100000",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE], env=os.environ | environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        name = f"stall-{os.getpid()}"

        async def work() -> float:
            address = f"ws://127.0.0.1:{port}/v1/scores?call={name}"
            async with stalling(address), connect(address, max_size=None) as client:
                await receive(client)
                for start_ms in range(80):
                    long = score(call(name), start_ms).model_copy(update={"text": LONG})
                    await asyncio.to_thread(writer.write, long)
                await take(client, 80)
                begun = time.monotonic()
                process.send_signal(signal.SIGTERM)
                _, code, _ = await rest(client)
                assert code == 1001
                assert await asyncio.to_thread(process.wait, 30) == 0
                return time.monotonic() - begun

        # STOP_SECONDS and the end of the process; a close handshake would be waited for for CLOSE_SECONDS.
        assert within(work()) < 8
    finally:
        process.kill()
        process.wait()


def run_example(command: list[str], address: str, say: Callable[[], None]) -> str:
    process = subprocess.Popen([*command, address], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        lines = [process.stdout.readline()]
        say()
        lines += [process.stdout.readline(), process.stdout.readline()]
        return "".join(lines)
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("example", ["subscribe.py", "subscribe.mjs"])
def test_the_examples_print_what_is_said(gateway: Gateway, writer: Writer, example: str) -> None:
    command = [sys.executable] if example.endswith("py") else node()
    info = call("c1")

    def say() -> None:
        writer.write(started(info), score(info, 500, "good morning", polarity=0.4), ended(info))

    printed = run_example([*command, f"examples/{example}"], gateway.address, say)
    assert "connected" in printed
    assert "customer" in printed
    assert "good morning" in printed
    assert "+0.40" in printed


def node() -> list[str]:
    """The command that runs JavaScript with a WebSocket of its own: from node 22, or 20 with a flag."""
    try:
        version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("no node here: the JavaScript example needs node 20.10 or later")
    major = int(version.removeprefix("v").partition(".")[0])
    if major < 20:
        pytest.skip(f"node {version.strip()} has no WebSocket: the JavaScript example needs node 20.10 or later")
    return ["node"] if major >= 22 else ["node", "--experimental-websocket"]
