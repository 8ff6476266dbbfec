"""The clients for Python and TypeScript against the real gateway."""

import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pytest
from calltide_client import Disconnected, Message, Refused, Stream

from deploy.process import free_port
from streams.asyncapi import WRITTEN, document
from streams.gateway import Gateway
from streams.settings import Settings
from tests.api.test_access import Issuer
from tests.kafka.test_gateway import within
from tests.kafka.test_gateway_access import issuer, keys, with_api
from tests.scripted import Writer, call, ended, new_topic, score, serving, settings_for, started, values

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"
__all__ = ["issuer"]


@pytest.fixture
def topic(kafka_bootstrap: str) -> str:
    return new_topic(kafka_bootstrap)


@pytest.fixture
def writer(kafka_bootstrap: str, topic: str) -> Writer:
    return Writer(kafka_bootstrap, topic)


@pytest.fixture
def settings(kafka_bootstrap: str, tmp_path: Path) -> Settings:
    """Of a gateway that asks for keys, at a port at which it comes back."""
    return with_api(settings_for(kafka_bootstrap, port=free_port()), tmp_path, keys=keys())


def test_what_is_committed_is_what_the_gateway_says() -> None:
    """Else: python -m streams.asyncapi."""
    assert json.loads(WRITTEN.read_text()) == json.loads(json.dumps(document("", "/v1/scores")))
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import generate, json; print(json.dumps({str(path): text for path, text in generate.written().items()}))",
        ],
        cwd=CLIENTS,
        capture_output=True,
        text=True,
        check=True,
    )
    for path, text in json.loads(found.stdout).items():
        assert Path(path).read_text() == text, path


class Restarting:
    """A gateway that can be stopped and started again at its port."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self.start()

    def start(self) -> None:
        self._context = serving(self._settings, self._topic)
        self.gateway: Gateway = self._context.__enter__()

    def stop(self) -> None:
        self._context.__exit__(None, None, None)


def conversation(writer: Writer, gateway: Restarting, next_: Callable[[], Any], subscribe: Callable[..., Any]) -> None:
    """What both clients have to hear: `next_` is the next message, `subscribe` sends another subscription."""

    def hear(*wanted: tuple[str, int]) -> None:
        got: list[Any] = []
        while len(values(got)) < len(wanted):
            got.append(next_())
            assert got[-1]["type"] != "disconnected"
        assert values(got) == sorted(wanted)

    billing, sales, other = (call(name, queue=name, tenant="acme") for name in ("billing", "sales", "other"))
    hello = next_()
    assert (hello["type"], hello["you"]["name"]) == ("hello", "ann")
    writer.write(*(started(info) for info in (billing, sales)), score(billing, 0), score(sales, 0), score(other, 0))
    hear(("billing", 0))
    subscribe(queue=["billing", "sales"], kinds="score", history="live")
    hear(("sales", 0))
    while next_()["type"] != "position":
        pass
    gateway.stop()
    assert next_()["type"] == "disconnected"
    # Sent to nobody, and said again; with the history of what it covers more.
    subscribe(queue=["billing", "sales", "other"], kinds=["score", "call_ended"], history="live")
    writer.write(score(billing, 1), score(sales, 1), score(other, 1))
    gateway.start()
    assert next_()["type"] == "hello"
    hear(("billing", 1), ("sales", 1), ("other", 0), ("other", 1))
    writer.write(score(other, 2), ended(other))
    hear(("other", 2))
    while (message := next_())["type"] != "call_ended":
        assert message["type"] == "position"


def test_the_client_for_python(settings: Settings, topic: str, writer: Writer) -> None:
    gateway = Restarting(settings, topic)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with Stream(gateway.gateway.address, key="ann-key", queue="billing") as stream:
            messages: AsyncIterator[Message | Disconnected] = aiter(stream)

            def wait(work: Any) -> Any:
                return asyncio.run_coroutine_threadsafe(work, loop).result(20)

            await asyncio.to_thread(
                conversation,
                writer,
                gateway,
                lambda: wait(anext(messages)),
                lambda **fields: wait(stream.subscribe(**fields)),
            )
            assert stream.cursor and stream.cursor.startswith(topic)

    try:
        within(work())
    finally:
        gateway.stop()


def test_the_client_for_python_says_what_is_refused_and_takes_another_token(
    settings: Settings, topic: str, writer: Writer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.gateway.LEEWAY_S", 0)
    settings = with_api(
        settings, settings.home, jwks_url=issuer.url, jwt_issuer="https://id.example", jwt_audience="calltide"
    )

    async def first(stream: Stream) -> Message | Disconnected:
        return await anext(aiter(stream))

    async def work(address: str) -> None:
        for fields, code, error in (
            ({"key": "wrong"}, 4401, "bad_key"),
            ({"key": "eve-key"}, 4403, "forbidden"),
            ({"key": "ann-key", "queues": "x"}, 1008, "invalid"),
        ):
            with pytest.raises(Refused) as refused:
                await first(Stream(address, **cast("Any", fields)))
            assert (refused.value.code, refused.value.error) == (code, error)
        with pytest.raises(OSError):
            await first(Stream("ws://127.0.0.1:9/v1/scores"))

        given: list[str] = []

        def token() -> str:
            given.append(issuer.token(exp=time.time() + (1 if not given else 60)))
            return given[-1]

        async with Stream(address, key=token, kinds="score") as stream:
            kinds = []
            async for message in stream:
                kinds.append(message["type"])
                if message["type"] == "disconnected":
                    assert message["code"] == 4401
                    writer.write(score(call("c1", tenant="acme")))
                if message["type"] == "score":
                    break
            assert [kind for kind in kinds if kind != "position"] == ["hello", "disconnected", "hello", "score"]
            assert len(given) == 2

    with serving(settings, topic) as gateway:
        within(work(gateway.address))


DRIVER = """
import { createInterface } from "node:readline";
import { Refused, Stream, type Message, type Subscription } from "./stream.js";

const [, , url = "", key = "", more = "{}"] = process.argv;
const stream = new Stream(url, { key, ...(JSON.parse(more) as Subscription) });
const lines = createInterface({ input: process.stdin });
lines.on("line", (line: string) => stream.subscribe(JSON.parse(line) as Subscription));
const textOf = (message: Message): string => (message.type === "score" ? message.event.text : message.type);
try {
  for await (const message of stream) {
    if (message.type !== "disconnected") textOf(message);
    console.log(JSON.stringify(message));
  }
} catch (error) {
  const told = error instanceof Refused ? { code: error.code, error: error.error } : {};
  console.log(JSON.stringify({ type: "ended", ...told }));
  process.exit(0);
}
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a program that prints what the TypeScript client hears, and takes subscriptions by the line."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("no node and npm here: the TypeScript client is not tested")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    major = int(version.removeprefix("v").partition(".")[0])
    if major < 20:
        pytest.skip(f"node {version.strip()} has no WebSocket: the TypeScript client needs node 20.10 or later")
    at = tmp_path_factory.mktemp("typescript")
    for name in ("package.json", "tsconfig.json"):
        shutil.copy(CLIENTS / "typescript" / name, at)
    shutil.copytree(CLIENTS / "typescript" / "src", at / "src")
    (at / "src" / "driver.ts").write_text(DRIVER)
    # Types of node's own modules are not what is tested.
    (at / "src" / "node.d.ts").write_text(
        'declare module "node:readline" { export const createInterface: any; }\ndeclare const process: any;\n'
    )
    install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    installed = subprocess.run(install, cwd=at, capture_output=True, text=True, timeout=120, check=False)
    if installed.returncode:
        pytest.skip(f"npm cannot fetch TypeScript here: {installed.stderr.strip()[-200:]}")
    built = subprocess.run(["npm", "run", "build"], cwd=at, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stdout
    flags = [] if major >= 22 else ["--experimental-websocket", "--no-warnings"]
    return ["node", *flags, str(at / "dist" / "driver.js")]


class Running:
    """The driver; `next` waits for its next line."""

    def __init__(self, command: list[str], *arguments: str) -> None:
        self._process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        # A message that never comes fails the test.
        self._timer = threading.Timer(20, self._process.kill)
        self._timer.start()

    def next(self) -> Any:
        line = cast("IO[str]", self._process.stdout).readline()
        assert line, "the client has ended"
        return json.loads(line)

    def subscribe(self, **fields: Any) -> None:
        told = cast("IO[str]", self._process.stdin)
        told.write(json.dumps(fields) + "\n")
        told.flush()

    def stop(self) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def run(*arguments: Any) -> Running:
        made.append(Running(*arguments))
        return made[-1]

    yield run
    for one in made:
        one.stop()


@pytest.mark.slow
def test_the_client_for_typescript(
    settings: Settings, topic: str, writer: Writer, driver: list[str], running: Callable[..., Running]
) -> None:
    gateway = Restarting(settings, topic)
    try:
        client = running(driver, gateway.gateway.address, "ann-key", '{"queue": "billing"}')
        conversation(writer, gateway, client.next, client.subscribe)
        for key, told in (
            ("wrong", {"type": "ended", "code": 4401, "error": "bad_key"}),
            ("no name of a subprotocol", {"type": "ended", "code": 4401, "error": "bad_key"}),
            ("eve-key", {"type": "ended", "code": 4403, "error": "forbidden"}),
        ):
            assert running(driver, gateway.gateway.address, key).next() == told
    finally:
        gateway.stop()
    assert running(driver, "ws://127.0.0.1:9/v1/scores", "").next() == {"type": "ended"}
