"""Who may read what the gateway pushes, changes of a subscription, and what it says of itself, with the real broker."""

import asyncio
import hashlib
import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from schemas.events import CallEvent, Progress
from streams import gateway as module
from streams.api.access import COOKIE, Access, Caller, Known
from streams.asyncapi import document
from streams.gateway import Gateway
from streams.settings import ApiKey, Settings
from tests.api.test_access import Issuer
from tests.kafka.test_gateway import receive, rest, take, until_live, within
from tests.scripted import (
    Writer,
    alert,
    call,
    ended,
    metrics,
    new_topic,
    score,
    serving,
    settings_for,
    started,
    values,
)
from tests.unit.stage_records import interim

pytestmark = pytest.mark.kafka

KEYS = {"ann": ("acme", "viewer"), "bob": ("beta", "supervisor"), "eve": ("acme", "ingest"), "ops": (None, "admin")}


def with_api(settings: Settings, home: Path, **api: Any) -> Settings:
    return settings.model_copy(update={"home": home, "api": settings.api.model_copy(update=api)})


def keys() -> dict[str, ApiKey]:
    """By name; the key is NAME-key."""
    return {
        name: ApiKey.model_validate(
            {"sha256": hashlib.sha256(f"{name}-key".encode()).hexdigest(), "tenant": tenant, "role": role}
        )
        for name, (tenant, role) in KEYS.items()
    }


@pytest.fixture
def topic(kafka_bootstrap: str) -> str:
    return new_topic(kafka_bootstrap)


@pytest.fixture
def writer(kafka_bootstrap: str, topic: str) -> Writer:
    return Writer(kafka_bootstrap, topic)


@pytest.fixture
def settings(kafka_bootstrap: str, tmp_path: Path) -> Settings:
    return with_api(settings_for(kafka_bootstrap), tmp_path, keys=keys())


@pytest.fixture
def guarded(settings: Settings, topic: str) -> Iterator[Gateway]:
    with serving(settings, topic) as running:
        yield running


@pytest.fixture
def gateway(kafka_bootstrap: str, topic: str) -> Iterator[Gateway]:
    with serving(settings_for(kafka_bootstrap), topic) as running:
        yield running


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.server.shutdown()
    issuer.server.server_close()


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}-key"}


async def refusal(address: str, first: str = "", **more: Any) -> tuple[int | None, str]:
    """The close code, and the sort of error told before it."""
    async with connect(address, **more) as client:
        if first:
            await client.send(first)
        messages, code, _ = await rest(client)
        assert [message["type"] for message in messages] == ["error"]
        return code, messages[0]["error"]


def test_a_key_comes_by_header_subprotocol_first_message_or_session(
    guarded: Gateway, settings: Settings, writer: Writer
) -> None:
    session, _ = Access(settings).session_of(Known(Caller("acme", "viewer", "ann")))
    infos = [call("own", tenant="acme"), call("other", tenant="beta")]

    async def work() -> None:
        address = guarded.address
        ways: list[tuple[str, dict[str, Any], str]] = [
            (f"{address}?kinds=score", {"additional_headers": bearer("ann")}, ""),
            (f"{address}?kinds=score", {"additional_headers": {"X-API-Key": "ann-key"}}, ""),
            (f"{address}?kinds=score", {"subprotocols": ["bearer", "ann-key"], "origin": "http://127.0.0.1:8000"}, ""),
            (f"{address}?kinds=score", {"additional_headers": {"Cookie": f"{COOKIE}={session}"}}, ""),
            (f"{address}?kinds=score", {}, '{"key": "ann-key"}'),
            (address, {}, '{"key": "ann-key", "kinds": "score", "tenant": "acme"}'),
        ]
        clients = [await connect(url, **more) for url, more, _ in ways]
        try:
            for client, (_, more, first) in zip(clients, ways, strict=True):
                if first:
                    await client.send(first)
                hello = await receive(client)
                assert hello["you"] == {"tenant": "acme", "role": "viewer", "name": "ann"}
                assert hello["subscription"] == {"tenant": ["acme"], "kinds": ["score"]}
                # A browser goes away unless one of the names that it offers is taken.
                assert client.subprotocol == ("bearer" if "subprotocols" in more else None)
            writer.write(*(score(info) for info in infos), *(score(info, 900) for info in infos))
            for client in clients:
                assert values(await take(client, 2)) == [("own", 0), ("own", 900)]
        finally:
            for client in clients:
                await client.close()

    within(work())


def test_no_way_leads_to_calls_of_another_tenant(
    kafka_bootstrap: str, settings: Settings, topic: str, writer: Writer
) -> None:
    """History, a cursor, findings, interim results, another subscription: what is not one's own does not come."""
    alerts, interims = new_topic(kafka_bootstrap), new_topic(kafka_bootstrap)
    alert_writer, interim_writer = Writer(kafka_bootstrap, alerts), Writer(kafka_bootstrap, interims)
    infos = [call("own", tenant="acme"), call("other", tenant="beta")]
    for info in infos:
        writer.write(started(info), score(info, 0))
        alert_writer.write(alert(info, at_ms=1))

    async def work(address: str) -> None:
        got: list[dict[str, Any]] = []

        async def until_last(client: ClientConnection) -> None:
            """All up to the end of its call."""
            while not got or got[-1]["type"] != "call_ended":
                got.append(await receive(client))

        kinds = "kinds=score,call_started,call_ended,alert,interim"
        async with (
            connect(f"{address}?history=live&{kinds}", additional_headers=bearer("ann")) as with_history,
            connect(f"{address}?from={topic}~0:0,1:0,2:0&{kinds}", additional_headers=bearer("ann")) as with_cursor,
            connect(f"{address}?call=other", additional_headers=bearer("ann")) as changes,
            connect(f"{address}?{kinds}", additional_headers=bearer("ops")) as everything,
        ):
            await changes.send(json.dumps({"call": "other", "history": "live", "kinds": kinds.partition("=")[2]}))
            await changes.send(json.dumps({"history": "live", "kinds": kinds.partition("=")[2]}))
            while "call" in (await receive(changes)).get("subscription", {"call": []}):
                pass
            for info in infos:
                alert_writer.write(alert(info, at_ms=2))
                interim_writer.write(interim(info, 0, 100, "charged"))
                writer.write(score(info, 5), ended(info))
            for client in (with_history, with_cursor, changes):
                got.clear()
                await until_last(client)
                events = [message["event"] for message in got if "event" in message]
                assert {event["call"]["tenant"] for event in events} == {"acme"}
                assert {event["kind"] for event in events} >= {"score", "call_ended"}
            assert {one["event"]["call"]["tenant"] for one in await take(everything, 6)} == {"acme", "beta"}

    with serving(settings, topic, interims, findings={"alert": alerts}) as gateway:
        within(work(gateway.address))


def test_who_may_not_is_told_why_by_code_and_words(guarded: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEY_SECONDS", 0.3)

    async def work() -> None:
        address = guarded.address + "?kinds=score"
        assert await refusal(address) == (4401, "unauthorized")
        assert await refusal(address, "{}") == (4401, "unauthorized")
        assert await refusal(address, additional_headers=bearer("nobody")) == (4401, "bad_key")
        assert await refusal(address, subprotocols=["bearer", "x"]) == (4401, "bad_key")
        assert await refusal(address, '{"key": "x"}') == (4401, "bad_key")
        assert await refusal(address, additional_headers={"Cookie": f"{COOKIE}=forged.x"}) == (4401, "unauthorized")
        assert await refusal(address, additional_headers=bearer("eve")) == (4403, "forbidden")
        assert await refusal(address + "&tenant=beta", additional_headers=bearer("ann")) == (4403, "forbidden")
        for name in ("key", "token", "api_key"):
            assert await refusal(f"{address}&{name}=ann-key", additional_headers=bearer("ann")) == (4400, "key_in_url")
        assert await refusal(address, '{"key": "ann-key", "queue": "x"}') == (1008, "invalid")

    within(work())


def test_who_guesses_is_slowed_down(kafka_bootstrap: str, topic: str, tmp_path: Path) -> None:
    settings = with_api(settings_for(kafka_bootstrap), tmp_path, keys=keys(), requests_per_minute=3)

    async def work(address: str) -> None:
        told = [await refusal(address, additional_headers=bearer(f"guess-{at}")) for at in range(5)]
        assert [code for code, _ in told] == [4401] * 3 + [4429] * 2
        # Who has a key may come as often as his connection breaks.
        for _ in range(5):
            async with connect(f"{address}?kinds=score", additional_headers=bearer("ann")) as client:
                assert (await receive(client))["type"] == "hello"

    with serving(settings, topic) as gateway:
        within(work(gateway.address))


def test_without_keys_only_programs_and_pages_of_this_machine_read(
    kafka_bootstrap: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEY_SECONDS", 0.3)

    async def work() -> None:
        with serving(settings_for(kafka_bootstrap), topic) as own:
            async with connect(f"{own.address}?kinds=score", origin=Origin("http://localhost:8000")) as client:
                assert (await receive(client))["you"] == {"tenant": None, "role": "admin", "name": "local"}
            proxied = {"X-Forwarded-For": "203.0.113.7"}
            assert await refusal(f"{own.address}?kinds=score", additional_headers=proxied) == (4401, "unauthorized")
        with serving(settings_for(kafka_bootstrap, host="0.0.0.0"), topic) as everywhere:
            address = everywhere.address.replace("0.0.0.0", "127.0.0.1")
            assert await refusal(f"{address}?kinds=score") == (4401, "unauthorized")

    within(work())


def test_a_token_that_expires_in_the_middle_ends_the_connection_unless_another_comes_in_time(
    kafka_bootstrap: str, topic: str, writer: Writer, tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEEWAY_S", 0)
    settings = with_api(
        settings_for(kafka_bootstrap),
        tmp_path,
        jwks_url=issuer.url,
        jwt_issuer="https://id.example",
        jwt_audience="calltide",
    )

    def token(seconds: float, **claims: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {issuer.token(exp=time.time() + seconds, **claims)}"}

    async def work(address: str) -> None:
        address += "?kinds=score"
        assert await refusal(address, additional_headers=token(-60)) == (4401, "token_expired")
        async with (
            connect(address, additional_headers=token(1)) as expires,
            connect(address, additional_headers=token(1)) as renewed,
            connect(address, additional_headers=token(60)) as changes,
        ):
            for client in (expires, renewed, changes):
                assert (await receive(client))["you"]["name"] == "ann"
            await renewed.send(json.dumps({"key": issuer.token()}))
            told = await receive(renewed)
            assert (told["type"], told["subscription"]["tenant"]) == ("subscribed", ["acme"])
            await changes.send(json.dumps({"key": issuer.token(tenant="beta")}))
            assert (await rest(changes))[1] == 4403
            writer.write(score(call("c1", tenant="acme")))
            messages, code, reason = await rest(expires)
            assert [message["type"] for message in messages] == ["score", "error"]
            assert (code, messages[-1]["error"]) == (4401, "token_expired")
            assert reason == "the token has expired; get a new one and resume with from=<cursor>"
            writer.write(score(call("c1", tenant="acme"), 900))
            assert values(await take(renewed, 2)) == [("c1", 0), ("c1", 900)]

    with serving(settings, topic) as gateway:
        within(work(gateway.address))


def test_a_subscription_is_changed_without_connecting_anew(kafka_bootstrap: str, topic: str, writer: Writer) -> None:
    a, b, c = call("a", queue="billing"), call("b", queue="sales"), call("c", queue="sales", agent="kim")

    writer.write(*(event for info in (a, b, c) for event in (started(info), score(info))))

    async def work(address: str) -> None:
        async with connect(f"{address}?queue=billing&kinds=score&history=live") as client:
            assert values(await until_live(client)) == [("a", 0)]
            await client.send(json.dumps({"queue": ["billing", "sales"], "kinds": "score", "history": "live"}))
            told = await receive(client)
            assert (told["type"], told["subscription"]) == (
                "subscribed",
                {"queue": ["billing", "sales"], "kinds": ["score"]},
            )
            history = await until_live(client)
            assert values(history) == [("b", 0), ("c", 0)], "what the old one had is not sent twice"
            assert all(message["history"] for message in history)

            writer.write(score(a, 1), score(b, 1))
            assert values(await take(client, 2)) == [("a", 1), ("b", 1)]
            await client.send(json.dumps({"agent": "kim", "kinds": ["score", "call_ended"]}))
            assert (await receive(client))["type"] == "subscribed"
            writer.write(score(a, 2), score(b, 2), score(c, 2), ended(c))
            messages = await take(client, 2)
            assert [(m["type"], m["event"]["call"]["call_id"]) for m in messages] == [
                ("score", "c"),
                ("call_ended", "c"),
            ]

            # One call, whose cursors are short, then another one: what was told with the change is good for it.
            await client.send(json.dumps({"call": "a"}))
            assert (await receive(client))["subscription"]["call"] == ["a"]
            await client.send(json.dumps({"call": "b"}))
            cursor = (await receive(client))["cursor"]
        writer.write(score(a, 3), score(b, 3))
        async with connect(f"{address}?call=b&from={quote(cursor)}") as client:
            assert values(await take(client, 1)) == [("b", 3)]

    with serving(settings_for(kafka_bootstrap), topic) as gateway:
        within(work(gateway.address))


def test_a_change_while_history_is_read_waits_for_its_turn(kafka_bootstrap: str, topic: str, writer: Writer) -> None:
    info = call("a")
    writer.write(*(score(info, at) for at in range(200)))

    async def work(address: str) -> None:
        async with connect(f"{address}?kinds=score&from={topic}~0:0,1:0,2:0") as client:
            await client.send(json.dumps({"kinds": "call_ended"}))
            assert values(await until_live(client)) == [("a", at) for at in range(200)]
            assert (await receive(client))["type"] == "subscribed"
            writer.write(score(info, 500), ended(info))
            assert (await receive(client))["type"] == "call_ended"

    with serving(settings_for(kafka_bootstrap), topic) as gateway:
        within(work(gateway.address))


def test_alerts_are_chosen_by_their_severity(kafka_bootstrap: str, topic: str) -> None:
    alerts = new_topic(kafka_bootstrap)
    alert_writer = Writer(kafka_bootstrap, alerts)

    async def work(address: str) -> None:
        async with connect(f"{address}?kinds=alert&severity=warning,critical") as client:
            await receive(client)
            info = call("c1")
            alert_writer.write(*(alert(info, one, 1, one) for one in ("info", "warning", "critical")))
            assert [one["event"]["severity"] for one in await take(client, 2)] == ["warning", "critical"]
            await client.send(json.dumps({"kinds": "alert", "severity": "info", "history": "live"}))
            assert (await receive(client))["subscription"]["severity"] == ["info"]

    with serving(settings_for(kafka_bootstrap), topic, findings={"alert": alerts}) as gateway:
        within(work(gateway.address))


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("all", "JSON"),
        ('{"queues": "a"}', "unknown field 'queues'"),
        ('{"severity": "bad"}', "info, warning, critical"),
        ('{"from": "x"}', "connect again"),
        ('{"replay": "x"}', "connect again"),
        (json.dumps({"call": [str(at) for at in range(10_000)]}), "more than 1000 values"),
    ],
)
def test_a_change_that_cannot_be_ends_the_connection(gateway: Gateway, message: str, word: str) -> None:
    async def work() -> None:
        async with connect(f"{gateway.address}?kinds=score") as client:
            await receive(client)
            await client.send(message)
            messages, code, _ = await rest(client)
            assert (messages[-1]["error"], code) == ("invalid", 1008)
            assert word in messages[-1]["message"]

    within(work())


def test_ten_thousand_subscriptions_in_one_connection_are_refused_or_follow_each_other(
    gateway: Gateway, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No value is too long, no list too big, no flood too fast to harm others: memory and time are bounded."""
    monkeypatch.setattr(module, "CHANGE_SECONDS", 0.01)

    async def work() -> None:
        async with connect(f"{gateway.address}?kinds=score") as client:
            await receive(client)
            await client.send(json.dumps({"call": ["x" * 30 + str(at) for at in range(10_000)]}))
            assert (await rest(client))[1] == 1009
        async with connect(f"{gateway.address}?kinds=score") as flood, connect(f"{gateway.address}?call=c1") as other:
            await receive(flood)
            await receive(other)

            async def send() -> None:
                calls = [f"a call of the hundreds of one subscription, number {at}" for at in range(500)]
                for at in range(10_000):
                    await flood.send(json.dumps({"call": [*calls, str(at)], "history": "live"}))

            sending = asyncio.create_task(send())
            assert (await receive(flood))["type"] == "subscribed"
            begun = time.monotonic()
            for at in range(20):
                writer.write(score(call("c1"), at))
                await take(other, 1)
            assert time.monotonic() - begun < 15
            assert not sending.done(), "who sends faster than it is taken is made to wait"
            sending.cancel()

    within(work())


@pytest.mark.parametrize("compression", [True, False])
def test_messages_are_compressed_where_that_is_set(
    kafka_bootstrap: str, topic: str, writer: Writer, compression: bool
) -> None:
    async def work(address: str) -> None:
        async with connect(f"{address}?kinds=score") as client:
            await receive(client)
            writer.write(score(call("c1"), text="word " * 2_000))
            assert values(await take(client, 1)) == [("c1", 0)]
            names = [extension.name for extension in client.protocol.extensions]
            assert names == (["permessage-deflate"] if compression else [])

    with serving(settings_for(kafka_bootstrap, compression=compression), topic) as gateway:
        within(work(gateway.address))


def strict(schema: Any) -> Any:
    """The same schema, in which no object has a field more than it says."""
    if isinstance(schema, dict):
        changed = {name: strict(value) for name, value in schema.items()}
        return changed | {"additionalProperties": False} if "properties" in schema else changed
    return [strict(one) for one in schema] if isinstance(schema, list) else schema


def test_what_is_sent_is_what_the_asyncapi_document_says(
    kafka_bootstrap: str, topic: str, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts, interims = new_topic(kafka_bootstrap), new_topic(kafka_bootstrap)
    alert_writer, interim_writer = Writer(kafka_bootstrap, alerts), Writer(kafka_bootstrap, interims)
    info = call("c1", queue="billing", metadata={"crm": "4711"})
    told: list[dict[str, Any]] = []

    def events() -> list[CallEvent]:
        heard = score(info, 0, "charged twice", emotion="anger", polarity=-0.5)
        return [started(info), heard, score(info, 900, ""), Progress(call=info, at_ms=2_000)]

    async def work(gateway: Gateway) -> None:
        address = gateway.address
        kinds = "kinds=score,call_started,call_ended,progress,alert,metrics,interim"
        async with connect(f"{address}?history=live&{kinds}") as client:
            told.extend([await receive(client), await receive(client)])
            writer.write(*events())
            alert_writer.write(alert(info), metrics(info, 1_000))
            told.extend(await take(client, 6))
            # They are read from the moment on at which somebody asks.
            while told[-1]["type"] != "interim":
                interim_writer.write(interim(info, 5_900, 100, "charged"))
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.3):
                        told.append(await receive(client))
            await client.send(json.dumps({"queue": "billing", "history": "live"}))
            while told[-1]["type"] != "subscribed":
                told.append(await receive(client))
            await client.send("{")
            told.extend((await rest(client))[0])
        async with connect(f"{address}?from={topic}~0:0,1:0,2:0") as client:
            told.extend([await receive(client), *await until_live(client)])

    # What is read back of a topic from which records were deleted, and Kafka away: made by the same functions.
    with serving(
        settings_for(kafka_bootstrap), topic, interims, findings={"alert": alerts, "metrics": alerts}
    ) as gateway:
        within(work(gateway))
        with urllib.request.urlopen(gateway.address.replace("ws:", "http:").replace("scores", "asyncapi.json")) as got:
            described = json.load(got)
            assert got.headers["Content-Type"] == "application/json"
    host = gateway.address.removeprefix("ws://").partition("/")[0]
    assert described == json.loads(json.dumps(document(host, "/v1/scores")))
    schemas = strict(described["components"]["schemas"])
    by_type = {
        schemas[name]["properties"]["type"]["const"]: name
        for name in (one["$ref"].rpartition("/")[2] for one in described["operations"]["push"]["messages"])
    }
    for message in told:
        whole = {"$ref": f"#/components/schemas/{by_type[message['type']]}", "components": {"schemas": schemas}}
        Draft202012Validator(whole).validate(message)
    assert {message["type"] for message in told} >= {
        "hello", "position", "subscribed", "error", "score", "call_started", "progress", "alert", "metrics", "interim",
    }  # fmt: skip


def test_a_connection_that_is_gone_is_not_waited_for(gateway: Gateway) -> None:
    """A change for a client that has gone away leaves nothing behind."""

    async def work() -> None:
        client = await connect(f"{gateway.address}?kinds=score")
        await receive(client)
        await client.send('{"kinds": "score", "history": "live"}')
        client.transport.abort()
        with pytest.raises(ConnectionClosed):
            while True:
                await client.recv()
        health = gateway.address.replace("ws:", "http:").replace("/v1/scores", "/healthz")
        while json.loads(await asyncio.to_thread(lambda: urllib.request.urlopen(health).read()))["clients"]:
            await asyncio.sleep(0.01)

    within(work())
