"""The gateway under load: clients that all get every event, clients that get none, and one that takes nothing in.

`python -m benchmarks.gateway` (3 minutes) fills the table of docs/benchmarks.md with `--markdown docs/benchmarks.md`.

A changer must know: clients are plain sockets in one process of their own that read frames and nothing in them, so that
it is the gateway that is measured; all share this machine's cores with it, and with the broker. An event's way is
measured from before it is written, so Kafka's commit is part of it.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final, cast

import psutil
import uvloop
from rich.console import Console

from benchmarks.support import START_S, Table, add_outputs, broker, percentile, publish, temporary_home
from deploy.process import last_lines, spawn, stop
from schemas.errors import CalltideError
from schemas.topics import SCORES
from streams.settings import Settings
from tests.scripted import Writer, call, score

NAME: Final = "gateway"
EVENTS_A_SECOND: Final = 20
SAMPLED: Final = 20
"""Of so many frames the time is kept of one: to keep all of them would be work of the clients' own."""
WARM_S: Final = 3.0
TEXT: Final = "i was charged twice for the same month and nobody has called me back since last week"


class _Reader(asyncio.Protocol):
    """One client: counts frames of the server."""

    def __init__(self, number: int, path: str, host: str, deflate: bool, arrivals: list[tuple[int, float]]) -> None:
        self.number, self.arrivals = number, arrivals
        self.frames = self.bytes = 0
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else ""
        self._hello = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extension}\r\n"
        ).encode()
        self._rest = b""
        self._skip = 0
        """Bytes of the frame whose beginning was read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by name.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._hello)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed before it was open"))

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self.bytes += len(data)
        data = self._rest + data
        if not self.opened.done():
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._rest = head
                return
            if b" 101 " not in head[:20]:
                self.opened.set_exception(ConnectionError(head.decode(errors="replace")))
                return
            self.opened.set_result(None)
        at = self._skip
        while len(data) >= at + 10 or (len(data) >= at + 2 and data[at + 1] < 126):
            length, size = data[at + 1], 2
            if length == 126:
                length, size = int.from_bytes(data[at + 2 : at + 4]), 4
            elif length == 127:
                length, size = int.from_bytes(data[at + 2 : at + 10]), 10
            if data[at] & 0x0F == 9:  # a ping: a masked pong with the same bytes, as it must be answered
                payload = data[at + size : at + size + length]
                self.transport.write(bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
            else:
                if (self.frames + self.number) % SAMPLED == 0:
                    self.arrivals.append((self.frames, now))
                self.frames += 1
            at += size + length
        self._rest, self._skip = (b"", at - len(data)) if at >= len(data) else (data[at:], 0)


def _itself(one: _Reader) -> _Reader:
    return one


async def _listen(port: int, count: int, query: str, deflate: bool, stalled: bool, pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    arrivals: list[tuple[int, float]] = []
    path, host = f"/v1/scores?{query}", f"127.0.0.1:{port}"
    readers = []
    for first in range(0, count, 50):
        made = [_Reader(number, path, host, deflate, arrivals) for number in range(first, min(first + 50, count))]
        await asyncio.gather(*(loop.create_connection(partial(_itself, one), "127.0.0.1", port) for one in made))
        await asyncio.gather(*(one.opened for one in made))
        readers += made
    if stalled:
        # Small buffers, so that it is soon felt at the other end.
        lazy = socket.create_connection(("127.0.0.1", port))
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        lazy.sendall(_Reader(0, path, host, False, [])._hello)
    while not all(one.frames for one in readers):
        await asyncio.sleep(0.05)
    own = psutil.Process()
    pipe.send("ready")
    await asyncio.to_thread(pipe.recv)
    before = [one.bytes for one in readers]
    await asyncio.to_thread(pipe.recv)
    pipe.send(
        {
            "arrivals": arrivals,
            "frames": [one.frames for one in readers],
            "bytes": sum(one.bytes for one in readers) - sum(before),
            "cpu": sum(own.cpu_times()[:2]),
        }
    )


def _clients(pipe: Connection, port: int, count: int, query: str, deflate: bool, stalled: bool) -> None:
    uvloop.run(_listen(port, count, query, deflate, stalled, pipe))


@contextmanager
def _gateway(settings: Settings, compression: bool) -> Iterator[psutil.Process]:
    ready, log = settings.directory / "gateway.ready", settings.directory / "gateway.log"
    ready.unlink(missing_ok=True)
    process: subprocess.Popen[bytes] = spawn(
        [sys.executable, "-m", "streams", "gateway", "--ready", str(ready)],
        output=log,
        env={"CALLTIDE_GATEWAY__COMPRESSION": str(compression), "CALLTIDE_METRICS__PORT": "0"},
    )
    try:
        deadline = time.monotonic() + START_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise CalltideError(f"the gateway does not serve: {' '.join(last_lines(log, 1))}")
            time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        stop(process, 10)


def measure(
    settings: Settings,
    clients: int,
    seconds: float,
    compression: bool = False,
    stalled: bool = False,
    idle: bool = False,
) -> dict[str, Any]:
    """One run. `idle`: the clients ask for a queue in which nothing is said."""
    pipe, theirs = multiprocessing.get_context("spawn").Pipe()
    with _gateway(settings, compression) as gateway:
        empty = gateway.memory_info().rss
        query = "queue=nobody&kinds=score" if idle else "kinds=score"
        process = multiprocessing.get_context("spawn").Process(
            target=_clients, args=(theirs, settings.gateway.port, clients, query, compression, stalled), daemon=True
        )
        process.start()
        try:
            assert pipe.poll(START_S), "the clients do not get in"
            pipe.recv()
            if idle:
                time.sleep(WARM_S)
            writer, written = Writer(settings.bootstrap_servers, SCORES), []
            begun, last = time.monotonic(), WARM_S + seconds
            cpu = taken = 0.0
            number = 0
            while (now := time.monotonic() - begun) < last:
                if not taken and now >= WARM_S:
                    pipe.send("begin")
                    cpu, taken = sum(gateway.cpu_times()[:2]), now
                written.append(time.time())
                info = call(f"load-{number % 50}", queue="billing", agent="kim", metadata={"crm": "4711"})
                writer.write(score(info, number, f"{TEXT} {number}", emotion="anger", polarity=-0.4), partition=0)
                number += 1
                time.sleep(max(0.0, begun + number / EVENTS_A_SECOND - time.monotonic()))
            cpu, over = sum(gateway.cpu_times()[:2]) - cpu, time.monotonic() - begun - taken
            time.sleep(1.0)
            memory = gateway.memory_info().rss
            pipe.send("end")
            told = pipe.recv()
        finally:
            process.kill()
            process.join()
        first = round(WARM_S * EVENTS_A_SECOND)
        # The first frame is hello.
        took = [at - written[frame - 1] for frame, at in told["arrivals"] if first < frame <= len(written)]
        got = [frames - 1 for frames in told["frames"]]
        return {
            "clients": clients, "compression": compression, "stalled": stalled, "idle": idle, "seconds": over,
            "p50_ms": percentile(took, 0.5) * 1_000, "p99_ms": percentile(took, 0.99) * 1_000,
            "lost": 0 if idle else sum(len(written) - one for one in got),
            "pushes_s": statistics.fmean(got) * clients / (over + WARM_S), "cores": cpu / over,
            "mb_s": told["bytes"] / over / 1e6, "kb_a_client": (memory - empty) / clients / 1_000,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description="Measure the gateway.")
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--idle", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    add_outputs(parser)
    arguments = parser.parse_args()
    wanted = arguments.idle + 1_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise CalltideError(f"{wanted} open files are needed, {hard} are allowed; ulimit -n {wanted}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    console, runs = Console(), []
    with temporary_home() as settings, broker(settings):
        # Not looked at: a broker that has just been started compiles what it does for the first time.
        measure(settings, arguments.clients, arguments.seconds)
        for more in ({}, {"stalled": True}, {"compression": True}, {"idle": True}):
            clients = arguments.idle if "idle" in more else arguments.clients
            runs.append(measure(settings, clients, arguments.seconds, **more))
            console.print(json.dumps(runs[-1]), highlight=False)
    rows: list[tuple[str, ...]] = [
        (
            f"{run['clients']:,}" + (", idle" if run["idle"] else "") + (", one stalled" if run["stalled"] else ""),
            "yes" if run["compression"] else "no",
            f"{run['pushes_s']:,.0f}",
            "" if run["idle"] else f"{run['p50_ms']:.0f}",
            "" if run["idle"] else f"{run['p99_ms']:.0f}",
            str(run["lost"]),
            f"{run['cores']:.2f}",
            f"{run['mb_s']:.1f}",
            f"{run['kb_a_client']:.0f}",
        )
        for run in runs
    ]
    columns = (
        "clients", "compressed", "messages a second", "p50, ms", "p99, ms", "missed", "cores of the gateway",
        "MB a second", "KB a client",
    )  # fmt: skip
    title = (
        f"The gateway: {EVENTS_A_SECOND} events a second to every client; from before an event is written to a client"
    )
    publish({f"python -m benchmarks.{NAME}": [Table(title, columns, rows, data=runs)]}, arguments)


if __name__ == "__main__":
    main()
