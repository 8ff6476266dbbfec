"""The embedded ClickHouse: chDB in one process that owns its directory and answers ClickHouse's HTTP protocol.

Clients (clickhouse-connect, Grafana, curl) connect as to a server. clickhouse_engine.py asks chDB, clickhouse_port.py
speaks HTTP, here they are a process: on loopback, where whoever comes reads and one user writes.
`python -m deploy.clickhouse --path DIR --port 8123` runs it in the foreground.
"""

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import uvicorn

from deploy.clickhouse_engine import Engine
from deploy.clickhouse_port import HOST, application
from deploy.process import free_port, holder_of_port, last_lines, spawn, stop
from schemas.errors import CalltideError

PASSWORD = "CALLTIDE_CLICKHOUSE__PASSWORD"
"""The setting; passed to the process as it is, not as an argument, which every user of the machine may read."""

START_SECONDS = 60.0
"""Judgement: it takes about a second on an idle machine, and several beside other work or with many parts to load."""


def serve(
    path: Path,
    port: int,
    stop: threading.Event,
    ready: Callable[[], None],
    *,
    user: str,
    password: str,
) -> None:
    """Own `path` and answer on `port` until `stop` is set; calls `ready` once it answers. Ends running queries first.

    Whoever comes reads, `user` may write; with a `password` everybody has to bring it.

    Raises CalltideError: port taken, directory held by another process or not writable.
    """
    try:
        listener = socket.create_server((HOST, port))
    except OSError:
        raise CalltideError(
            f"port {port} is taken{holder_of_port(port)}; stop that program or set CALLTIDE_CLICKHOUSE__PORT"
        ) from None
    engine = Engine(path)
    try:
        server = uvicorn.Server(
            uvicorn.Config(
                application(engine, user, password),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=10,
            )
        )
        # In a thread of its own, so that signals stay with the caller.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="clickhouse http")
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        ready()
        while thread.is_alive() and not stop.wait(0.5):
            pass
        server.should_exit = True
        thread.join()
    finally:
        engine.close()


class ClickHouse:
    """The embedded ClickHouse as a child of this process, that ends with it at the latest.

    `home`: directory for all it keeps. `port`: on 127.0.0.1, 0 picks a free one. `user` may write, everybody reads; a
    `password` is everybody's. Use as a context manager, or `start` and `stop`.
    """

    def __init__(self, home: Path, port: int = 8123, user: str = "calltide", password: str = "") -> None:
        self.directory = home / "clickhouse"
        self.port = port or free_port()
        self.user, self.password = user, password
        self.log = home / "logs" / "clickhouse.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`http://<user>:<password>@127.0.0.1:<port>`: for who writes."""
        password = f":{quote(self.password, safe='')}" if self.password else ""
        return f"http://{quote(self.user, safe='')}{password}@{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Of the process; None before `start`."""
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """The exit status once it has ended, None while it runs or before `start`."""
        return self._process.poll() if self._process else None

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start, and return when it answers. Raises CalltideError with what it said when it does not."""
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            arguments = ["--path", str(self.directory), "--port", str(self.port), "--user", self.user]
            command = [sys.executable, "-m", "deploy.clickhouse", *arguments]
            password = {PASSWORD: self.password}
            self._process = spawn(command, output=self.log, cwd=Path(__file__).parent.parent, env=password)
        except OSError as error:
            raise CalltideError(
                f"cannot write ClickHouse's files: {error.filename}: {error.strerror}; "
                "make room or set CALLTIDE_HOME to another directory"
            ) from error
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self.poll() is not None:
                raise CalltideError(self.failure())
            if time.monotonic() > deadline:
                self.stop()
                raise CalltideError(f"ClickHouse does not answer after {timeout:.0f} s: {self.failure()}")
            time.sleep(0.02)

    def stop(self, grace: float = 20.0) -> None:
        """End it cleanly: SIGTERM, then after `grace` seconds SIGKILL. Nothing happens if it does not run."""
        if self._process:
            stop(self._process, grace)

    def failure(self) -> str:
        """One line on why it ended: the last it printed."""
        return (last_lines(self.log, 1) or [f"ClickHouse ended and left no word (log: {self.log})"])[0].removeprefix(
            "calltide: "
        )

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=1)
        try:
            connection.request("GET", "/ping")
            # Its own answer: another program may hold the port, and then this one ends by itself.
            return connection.getresponse().read() == b"Ok.\n" and self.poll() is None
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m deploy.clickhouse")
    parser.add_argument("--path", type=Path, required=True, help="directory of the database")
    parser.add_argument("--port", type=int, required=True, help="port on loopback")
    parser.add_argument("--user", default="calltide", help=f"who may write (a password: {PASSWORD})")
    arguments = parser.parse_args()
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    serve(
        arguments.path,
        arguments.port,
        done,
        lambda: print(f"ClickHouse on {HOST}:{arguments.port}", flush=True),
        user=arguments.user,
        password=os.environ.get(PASSWORD, ""),
    )


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
