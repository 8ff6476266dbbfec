"""What every long-running process says of itself over HTTP and in its log, asked of real processes by a real client."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from deploy.process import free_port
from tests.chain.support import ROOT, until

# Does what it is told on stdin, and says when it has.
PROCESS = """
import sys, threading
from pathlib import Path
from prometheus_client import Counter
from schemas.errors import CalltideError
from streams import health as healths, service
from streams.settings import load

healths.STALL_S = 0.5
orders = []

def obey():
    for line in sys.stdin:
        orders.append(line.strip())

def work(stop, health):
    Counter("calltide_test_total", "for a test").inc()
    threading.Thread(target=obey, daemon=True).start()
    print("works", flush=True)
    while not stop.wait(0.01):
        order, _, rest = (orders.pop(0) if orders else "").partition(" ")
        if order == "ready":
            health.ready(partitions=[int(rest)])
        elif order == "wait":
            health.waiting(rest)
        elif order == "hang":
            threading.Event().wait()
        elif order == "raise":
            raise {"refusal": CalltideError, "bug": ValueError}[rest]("no good")
        elif order == "thread":
            threading.Thread(target=int, args=("x",), name="helper").start()
        if order:
            print("done", flush=True)
        health.beat()

try:
    service.run(load(), Path(sys.argv[1]), work)
except CalltideError as error:
    sys.exit(f"calltide: {error}")
"""


class Process:
    """A process of `service.run`, its port and its ready file."""

    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self.ready = directory / "ready"
        self.log: IO[bytes] = (directory / "log").open("w+b")
        self.popen = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(self.ready)],
            cwd=ROOT,
            env=os.environ | {"CALLTIDE_METRICS__PORT": str(port)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        self.said = self.popen.stdout.readline() if self.popen.stdout else ""

    def tell(self, order: str, answer: str = "done\n") -> None:
        """Give an order and wait until it was carried out."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(order + "\n")
        self.popen.stdin.flush()
        assert self.popen.stdout.readline() == answer

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as answer:
            return answer.code, answer.read().decode()

    def lines(self) -> list[str]:
        """Its log."""
        self.log.seek(0)
        return self.log.read().decode().splitlines()


@contextmanager
def running(directory: Path, port: int = 0) -> Iterator[Process]:
    """A process that is gone behind the block."""
    process = Process(directory, port or free_port())
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.wait()
        process.log.close()


def test_ready_only_while_it_serves_and_alive_until_it_hangs(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        status, body = process.get("/readyz")
        assert (status, json.loads(body)) == (503, {"ready": False, "waiting": "starting"})
        assert process.get("/healthz")[0] == 200
        assert not process.ready.exists()
        process.tell("ready 3")
        status, body = process.get("/readyz")
        assert (status, json.loads(body)) == (200, {"ready": True, "partitions": [3]})
        assert process.ready.exists()
        process.tell("wait ClickHouse does not answer")
        status, body = process.get("/readyz")
        assert (status, json.loads(body)) == (503, {"ready": False, "waiting": "ClickHouse does not answer"})
        assert not process.ready.exists()
        process.tell("ready 4")
        assert process.get("/readyz")[0] == 200
        assert process.ready.exists()
        status, body = process.get("/metrics")
        assert status == 200
        assert "calltide_test_total 1.0" in body
        assert process.get("/healthz")[0] == 200
        assert process.popen.stdin is not None
        process.popen.stdin.write("hang\n")
        process.popen.stdin.flush()
        until(lambda: process.get("/healthz")[0] == 503, "it is seen that it hangs")
        facts = json.loads(process.get("/healthz")[1])
        assert not facts["alive"]
        assert facts["seconds_since_the_last_turn"] >= 0.5


def test_a_signal_ends_it(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(60) == 0


def test_a_metrics_port_that_is_taken_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with running(tmp_path, port) as process:
            assert process.popen.wait(60) == 1
            (line,) = process.lines()
    assert line.startswith(f"calltide: port {port} is taken")
    assert "CALLTIDE_METRICS__PORT" in line


@pytest.mark.parametrize(("kind", "status"), [("bug", 70), ("refusal", 1)])
def test_an_exception_is_a_json_line_and_a_refusal_is_in_words(kind: str, status: int, tmp_path: Path) -> None:
    with running(tmp_path) as process:
        process.tell("thread")
        process.tell(f"raise {kind}", answer="")
        assert process.popen.wait(60) == status
        lines = process.lines()
    ended = json.loads(lines.pop(0))
    assert (ended["level"], ended["message"]) == ("critical", "the thread helper ended by an exception")
    assert ended["exception"].strip().endswith("ValueError: invalid literal for int() with base 10: 'x'")
    if kind == "bug":
        (line,) = map(json.loads, lines)
        assert (line["level"], line["message"]) == ("critical", "ended by an exception")
        assert line["exception"].strip().endswith("ValueError: no good")
    else:
        assert lines == ["calltide: no good"]
