"""Old calls through the live websocket: marked, for who asks alone, with pause and seek from another process."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY
from websockets.asyncio.client import ClientConnection, connect

from deploy.topics import Topics
from schemas.errors import CalltideError
from schemas.events import CallEvent, Score, encode
from schemas.replayed import ReplayPosition
from schemas.topics import DEFAULT_PARTITIONS, SCORES, SCORES_REPLAYED, TOPICS
from streams import kafka
from streams.gateway import Gateway
from streams.replay import plan as plans
from streams.replay.control import command, send
from streams.replay.plan import Plan, Wish
from streams.replay.publish import Publication, line_of, place_of
from streams.replay.run import remove
from streams.settings import Settings
from tests.scripted import Writer, call, ended, new_topic, score, serving, settings_for, started

pytestmark = pytest.mark.kafka
SECONDS = 90
HOUR_MS = 3_600_000
BEGUN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)


@pytest.fixture(scope="module")
def settings(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    Topics(kafka_bootstrap).create([topic for topic in TOPICS if topic.name in (SCORES, SCORES_REPLAYED)])
    return settings_for(kafka_bootstrap).model_copy(update={"home": tmp_path_factory.mktemp("home")})


@pytest.fixture(scope="module")
def live_topic(kafka_bootstrap: str) -> str:
    """Of live calls, nobody else's."""
    return new_topic(kafka_bootstrap)


@pytest.fixture(scope="module")
def gateway(settings: Settings, live_topic: str) -> Iterator[Gateway]:
    with serving(settings, live_topic) as running:
        yield running


def heard(settings: Settings, *scores: tuple[int, str], length_ms: int) -> str:
    """A call as live work has left it on the topic of scores; returns its name."""
    of = call(f"call-{uuid.uuid4().hex[:8]}", BEGUN)
    events: list[tuple[int, CallEvent]] = [(0, started(of))]
    events += [(start_ms + 300 * len(text.split()), score(of, start_ms, text)) for start_ms, text in scores]
    events.append((length_ms, ended(of, length_ms)))
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers, "partitioner": "murmur2_random"})
    for at_ms, event in events:
        headers, value = encode(event)
        begun_ms = round(of.started_at.timestamp() * 1_000)
        producer.produce(SCORES, value, of.call_id, headers=[*headers], timestamp=begun_ms + at_ms)
    assert producer.flush(30) == 0
    return of.call_id


def planned(settings: Settings, *calls: str, speed: float) -> Plan:
    """A replay that shows these calls as they were heard."""
    found = plans.survey(settings, Wish(calls=frozenset(calls)), None)
    fields = {
        "name": f"r{uuid.uuid4().hex[:8]}",
        "version": "v1",
        "from_stage": "",
        "to_stage": "sentiment",
        "overrides": {},
        "speed": None,
        "workers": 1,
        "keep": False,
        "created_at": datetime.now(UTC),
        "partitions": found.partitions,
        "calls": tuple(found.calls),
        "archived": {},
        "sources": found.sources,
        "publish": speed,
    }
    plan = Plan.model_validate(fields)
    plans.save(settings, plan)
    return plan


class Shown:
    """A replay that is shown by a thread."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self.publication = Publication(settings, plan, line_of(settings, plan), place_of(settings, plan) or 0)
        self.stop = threading.Event()
        self.failure: CalltideError | None = None
        self._begun = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert self._begun.wait(SECONDS)

    def _run(self) -> None:
        try:
            self.publication.run(self.stop, lambda _position: self._begun.set())
        except CalltideError as error:
            self.failure = error
        finally:
            self._begun.set()

    def end(self) -> None:
        """It has ended by itself."""
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


@contextmanager
def showing(settings: Settings, plan: Plan) -> Iterator[Shown]:
    shown = Shown(settings, plan)
    try:
        yield shown
    finally:
        shown.stop.set()
        shown.end()


def within(work: Coroutine[Any, Any, Any]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(SECONDS):
            return await work

    return asyncio.run(limited())


async def receive(client: ClientConnection) -> dict[str, Any]:
    return json.loads(await client.recv())


async def until(client: ClientConnection, kind: str, **fields: Any) -> list[dict[str, Any]]:
    """All messages up to one of this type with these fields, which is the last."""
    found = []
    while True:
        found.append(await receive(client))
        if found[-1]["type"] == kind and fields.items() <= found[-1].items():
            return found


async def hello(client: ClientConnection) -> None:
    assert (await receive(client))["type"] == "hello"


def words(messages: list[dict[str, Any]]) -> list[str]:
    return [message["event"]["text"] for message in messages if message["type"] == "score"]


def order(settings: Settings, plan: Plan, verb: str, value: str | None = None) -> ReplayPosition:
    return send(settings, plan.name, command(verb, value))


def ends(settings: Settings) -> dict[int, tuple[int, int]]:
    return kafka.ranges(AdminClient(kafka.client(settings)), SCORES, range(DEFAULT_PARTITIONS), 30)


def groups(settings: Settings) -> set[str]:
    admin = AdminClient(kafka.client(settings))
    return {group.group_id for group in admin.list_consumer_groups().result(30).valid}


def counted() -> list[float | None]:
    names = ("calltide_gateway_events_pushed_total", "calltide_end_to_end_seconds_count")
    return [REGISTRY.get_sample_value(name) for name in names]


def test_calls_are_shown_in_the_order_of_their_time_to_who_asks_and_to_nobody_else(
    settings: Settings, gateway: Gateway, live_topic: str, kafka_bootstrap: str
) -> None:
    one = heard(settings, (0, "one"), (20_000, "three"), length_ms=40_000)
    other = heard(settings, (10_000, "two"), (30_000, "four"), length_ms=50_000)
    plan = planned(settings, one, other, speed=1_000)
    before, groups_before, counted_before = ends(settings), groups(settings), counted()

    async def work() -> None:
        address = f"{gateway.address}?kinds=score"
        async with (
            connect(f"{gateway.address}?replay={plan.name}") as watches,
            connect(f"{address}&replay=*&call={other}") as watches_one,
            connect(f"{address}&replay=another") as watches_another,
            connect(f"{address}&history=live") as live,
        ):
            for client in (watches, watches_one, watches_another, live):
                await hello(client)
            await until(live, "position")
            with showing(settings, plan) as shown:
                messages = await until(watches, "replay_position", state="ended")
                shown.end()
            assert words(messages) == ["one", "two", "three", "four"], "two calls, as their times interleave"
            events = [message for message in messages if "event" in message]
            assert [message["type"] for message in events].count("call_ended") == 2
            assert {message["replay"] for message in messages} == {plan.name}
            assert not any("cursor" in message or "history" in message for message in messages)
            said = Score.model_validate(next(m["event"] for m in events if m["type"] == "score"))
            assert said.call.call_id == one, "the event is as it was"
            first, last = messages[0], messages[-1]
            assert (first["type"], first["reset"], first["position_ms"]) == ("replay_position", True, 0)
            assert last["position_ms"] == last["of_ms"] == 50_000
            assert words(await until(watches_one, "replay_position", state="ended")) == ["two", "four"]
            Writer(kafka_bootstrap, live_topic).write(score(call("live-call"), 0, "live"))
            assert (await receive(live))["event"]["text"] == "live", "nothing of the replay came before it"
            for client in (watches, watches_another):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await client.recv()

    within(work())
    assert place_of(settings, plan) == 0, "one that has ended begins again"
    assert ends(settings) == before, "nothing was written among live scores"
    assert groups(settings) <= groups_before, "no group was joined"
    counted_after = counted()
    assert [now - (then or 0) for now, then in zip(counted_after, counted_before, strict=True) if now] == [1, 1]
    remove(settings, plan.name)


def test_pause_holds_the_clock_and_seek_shows_what_lies_before_the_place(settings: Settings, gateway: Gateway) -> None:
    """At 1×, with hours between what is said: nothing of it is due unless somebody jumps there."""
    name = heard(settings, (0, "begin"), (HOUR_MS, "first hour"), (2 * HOUR_MS, "second hour"), length_ms=3 * HOUR_MS)
    plan = planned(settings, name, speed=1)

    async def work() -> None:
        async with connect(f"{gateway.address}?replay={plan.name}") as client:
            await hello(client)
            with showing(settings, plan) as shown:
                assert words(await until(client, "score")) == ["begin"]
                paused = await asyncio.to_thread(order, settings, plan, "pause")
                assert (paused.state, paused.of_ms) == ("paused", 3 * HOUR_MS)
                await until(client, "replay_position", state="paused")
                beat = (await until(client, "replay_position", state="paused"))[-1]
                assert beat["position_ms"] == paused.position_ms, "the clock stands"
                assert (await asyncio.to_thread(order, settings, plan, "status")).position_ms == paused.position_ms

                # Paused, forward: what lies before the place comes at once, the clock still stands.
                at = await asyncio.to_thread(order, settings, plan, "seek", "3600s")
                assert (at.state, at.position_ms, at.reset) == ("paused", HOUR_MS, True)
                jumped = await until(client, "replay_position", reset=True)
                assert words(jumped) == []
                come = [await receive(client) for _ in range(2)]
                assert [one["type"] for one in come] == ["call_started", "score"]
                assert [one["history"] for one in come] == [True, True]
                at = await asyncio.to_thread(order, settings, plan, "seek", "+1s")
                assert at.position_ms == HOUR_MS + 1_000
                await until(client, "replay_position", reset=True)
                come = [await receive(client) for _ in range(3)]
                assert words(come) == ["begin", "first hour"]

                # And back: what lies behind the place is said when its time comes again.
                at = await asyncio.to_thread(order, settings, plan, "seek", "-10s")
                assert at.position_ms == HOUR_MS - 9_000
                await until(client, "replay_position", reset=True)
                assert words([await receive(client) for _ in range(2)]) == ["begin"]
                assert (await asyncio.to_thread(order, settings, plan, "speed", "100")).speed == 100
                going = await asyncio.to_thread(order, settings, plan, "resume")
                assert going.state == "playing"
                again = await until(client, "score")
                assert words(again) == ["first hour"]
                assert "history" not in again[-1]

                # Who comes now sees the call so far, and of live calls nothing.
                async with connect(f"{gateway.address}?replay={plan.name}&history=live") as late:
                    await hello(late)
                    seen = await until(late, "position")
                    assert (seen[0]["type"], seen[0]["reset"]) == ("replay_position", True)
                    assert words(seen) == ["begin", "first hour"]
                    assert all(message["history"] for message in seen if "event" in message)
                stopped = await asyncio.to_thread(order, settings, plan, "stop")
                assert stopped.state == "stopped"
                await until(client, "replay_position", state="stopped")
                shown.end()

    within(work())
    remove(settings, plan.name)


def test_one_that_was_stopped_goes_on_near_where_it_was_and_a_second_program_takes_over(settings: Settings) -> None:
    name = heard(settings, (0, "begin"), (HOUR_MS, "first hour"), length_ms=2 * HOUR_MS)
    plan = planned(settings, name, speed=1)
    assert place_of(settings, plan) is None
    with showing(settings, plan):
        order(settings, plan, "seek", "30m")
    with pytest.raises(CalltideError, match=f"replay {plan.name} does not answer: nobody shows it now"):
        send(settings, plan.name, command("pause", None), patience_s=0.5)
    with showing(settings, plan) as first:
        place = order(settings, plan, "status").position_ms
        assert HOUR_MS // 2 <= place < HOUR_MS // 2 + SECONDS * 1_000
        with showing(settings, plan):
            order(settings, plan, "status")
            first.end()
            assert first.failure is not None
            assert f"another program shows replay {plan.name}" in str(first.failure)
    remove(settings, plan.name)


def test_orders_for_what_is_not_shown_are_refused(settings: Settings) -> None:
    with pytest.raises(CalltideError, match="there is no replay nothing; shown are: "):
        send(settings, "nothing", command("pause", None))
    name = heard(settings, (0, "begin"), length_ms=1_000)
    plan = planned(settings, name, speed=1)
    with pytest.raises(CalltideError, match=f"replay {plan.name} is not shown: it was begun without --publish"):
        send(settings, plan.name, command("pause", None))
    remove(settings, plan.name)


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    own = {"CALLTIDE_HOME": str(settings.directory), "CALLTIDE_KAFKA__BOOTSTRAP_SERVERS": settings.bootstrap_servers}
    return {**os.environ, **own}


@pytest.fixture
def begin(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command line; what still runs at the end is killed."""
    begun: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "streams", *arguments]
        begun.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


async def output(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it wrote until its end, which must come soon."""
    return await asyncio.to_thread(process.communicate, timeout=SECONDS)


def test_the_command_shows_calls_and_takes_orders_and_goes_on_after_a_kill(
    settings: Settings, gateway: Gateway, begin: Callable[..., subprocess.Popen[str]]
) -> None:
    call_id, name = heard(settings, (0, "begin"), (HOUR_MS, "first hour"), length_ms=2 * HOUR_MS), "shown-by-command"

    async def work() -> None:
        async with connect(f"{gateway.address}?replay={name}") as client:
            await hello(client)
            running = begin("replay", "--calls", call_id, "--publish", "--name", name)
            assert words(await until(client, "score")) == ["begin"]
            said, faults = await output(begin("replay", "control", name, "seek", "+30m"))
            assert said.startswith(f"replay {name}: playing at 0:30:")
            assert faults == ""
            await until(client, "replay_position", reset=True)
            running.kill()
            await output(running)
            resumed = begin("replay", "resume", name)
            (*_, jumped) = await until(client, "replay_position", reset=True)
            assert jumped["position_ms"] >= HOUR_MS // 2
            assert (await output(begin("replay", "control", name, "stop")))[1] == ""
            said, _ = await output(resumed)
            assert said.startswith(f"replay {name}: stopped at 0:30:")
            assert resumed.returncode == 0

    within(work())
    topics = AdminClient(kafka.client(settings)).list_topics(timeout=10).topics
    assert not [topic for topic in topics if topic.startswith(f"replay.{name}.")], "its topics went with it"
