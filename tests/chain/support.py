"""The whole of Calltide on this machine, started by its own command, for the tests of this directory."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import psutil
from websockets.sync.client import connect

from deploy.process import free_port
from streams.settings import load
from streams.sink import ask
from streams.supervisor import PORTS
from tests import waiting

ROOT = Path(__file__).parent.parent.parent
METRICS = 14
"""Ports for the metrics of `calltide up` and of all that it starts."""
RULES = "rules.yaml"
"""In the home: the starter rules, for tests to write others."""


def popen(env: dict[str, str], *arguments: str | Path, stderr: int | None = subprocess.PIPE) -> subprocess.Popen[str]:
    """A command of the command line, running."""
    return subprocess.Popen(
        [sys.executable, "-m", "streams", *map(str, arguments)],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


@dataclass
class Stack:
    """A running `calltide up`."""

    home: Path
    env: dict[str, str]
    process: subprocess.Popen[str]
    ports: dict[str, int]
    printed: list[str] = field(default_factory=list)
    """What it has printed until everything ran."""

    @property
    def scores_url(self) -> str:
        return f"ws://127.0.0.1:{self.ports['CALLTIDE_GATEWAY__PORT']}/v1/scores"

    def calltide(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line against this stack."""
        command = [sys.executable, "-m", "streams", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=self.env, text=True, capture_output=True, check=check, timeout=240)

    def begin(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """The same, without waiting for its end."""
        return popen(self.env, *arguments)

    def pid(self, *command: str) -> int | None:
        """The process that runs a subcommand, such as ("stage", "vad")."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = child.cmdline()
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            if "streams" in line and line[line.index("streams") + 1 :][: len(command)] == list(command):
                return child.pid
        return None

    def stop(self) -> None:
        """Ctrl-C; returns when it has ended in the right way."""
        self.process.send_signal(signal.SIGINT)
        try:
            assert self.process.wait(90) == 130
        finally:
            self.process.kill()

    def start_again(self) -> None:
        """In the same home, at the same ports; returns at once."""
        self.process = popen(self.env, "up", stderr=None)

    def kill(self, *command: str) -> None:
        """kill -9 of the process that runs a subcommand."""
        pid = self.pid(*command)
        assert pid is not None, f"{command} does not run"
        os.kill(pid, signal.SIGKILL)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query, as `calltide query` has them: asked here, since that takes a second to start."""
        base = load()
        own = base.clickhouse.model_copy(update={"port": self.ports["CALLTIDE_CLICKHOUSE__PORT"]})
        there = base.model_copy(update={"clickhouse": own})
        return [json.loads(line) for line in ask(there, sql, "JSONEachRow").splitlines()]


class Listener:
    """A websocket client in a thread; `events` grows while calls are heard."""

    def __init__(self, url: str, **fields: str) -> None:
        self.url = f"{url}?{urlencode(fields)}"
        self.messages: list[dict[str, Any]] = []
        self.hello = threading.Event()
        self.stopping = False
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with connect(self.url, max_size=None, open_timeout=60) as socket:
            while not self.stopping:
                try:
                    message = json.loads(socket.recv(timeout=0.2))
                except TimeoutError:
                    continue
                self.messages.append(message)
                self.hello.set()

    def __enter__(self) -> "Listener":
        self.thread.start()
        assert self.hello.wait(60), "no hello from the gateway"
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        self.thread.join(10)

    def events(self, kind: str, call_id: str) -> list[dict[str, Any]]:
        """The events of a kind of a call, as they came."""
        found = [message["event"] for message in self.messages if "event" in message]
        return [event for event in found if event["kind"] == kind and event["call"]["call_id"] == call_id]


def until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """`waiting.until` with the patience that a whole chain on a busy machine needs."""
    waiting.until(condition, what, seconds)


def get(port: int, path: str) -> tuple[int, Any]:
    """Status and body, as JSON where it is."""
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            status, body = answer.status, answer.read().decode()
    except HTTPError as answer:
        status, body = answer.code, answer.read().decode()
    return status, json.loads(body) if body.startswith("{") else body


def start(home: Path, metrics: int = 0) -> Stack:
    """`calltide up` in a home of its own on free ports, `metrics` the first of those for metrics; returns at once."""
    (home / "kafka").mkdir(parents=True, exist_ok=True)
    jars = load().directory / "kafka" / "jars"
    jars.mkdir(parents=True, exist_ok=True)
    if not (home / "kafka" / "jars").exists():
        (home / "kafka" / "jars").symlink_to(jars)
    ports = {name: free_port() for name in PORTS} | {"CALLTIDE_METRICS__PORT": metrics}
    # A slow machine must not make ASR hear with less effort: the tests compare to the last digit.
    own = {"CALLTIDE_HOME": str(home), "CALLTIDE_RUNTIME__REDUCE_AT_LAG_S": "0", "PYTHONUNBUFFERED": "1"}
    (home / RULES).write_text((ROOT / "processors" / "rules" / "starter.yaml").read_text())
    own["CALLTIDE_RULES__PATH"] = str(home / RULES)
    env = os.environ | own | {name: str(port) for name, port in ports.items()}
    return Stack(home, env, popen(env, "up", stderr=None), ports)


def wait_until_up(stack: Stack) -> None:
    """Returns when `calltide up` has said that everything runs."""
    stack.printed = []
    assert stack.process.stdout is not None
    for line in stack.process.stdout:
        stack.printed.append(line)
        if "Ctrl-C stops everything" in line:
            return
    raise AssertionError(f"calltide up ended with {stack.process.wait()}: {''.join(stack.printed)}")
