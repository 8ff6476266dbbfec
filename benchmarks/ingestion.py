"""How many calls of a phone system one `calltide serve` takes in: `python -m benchmarks.ingestion` takes 5 minutes.

Three processes share the machine: the server (decode, packet, produce), the broker, and a load generator that plays the
packaged conversation in real time, each call from its own place on. No stage runs. Every protocol has a broker of its
own. A changer must know: the generator's clock is what says whether a frame was late, and it needs about as much of the
machine as the server does.
"""

import argparse
import asyncio
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, cast

import psutil
import uvloop
from prometheus_client import REGISTRY

from benchmarks.support import START_S, Table, add_outputs, broker, cpu_s, publish, temporary_home
from schemas.errors import CalltideError
from streams import samples
from streams.health import Health
from streams.ingestion import load as generator
from streams.ingestion.server import Switchboard
from streams.settings import Serve, Settings, load

COMMAND: Final = "python -m benchmarks.ingestion"
CALLS: Final[Mapping[generator.Name, int]] = {"twilio": 500, "audiosocket": 1_000}
CHANNELS: Final[Mapping[generator.Name, int]] = {"twilio": 2, "audiosocket": 1, "audiohook": 2, "listen": 2}
SECONDS: Final = 120.0
ACKNOWLEDGED: Final = "calltide_ingest_acknowledged_seconds"


@dataclass(frozen=True, slots=True)
class Run:
    """One protocol at one load."""

    protocol: generator.Name
    calls: int
    seconds: float
    tally: generator.Tally
    used_s: dict[str, float]
    """CPU seconds by process, from before the first call until after the last."""
    buckets: list[tuple[float, float]]
    """(seconds, packets acknowledged within so many), growing."""
    audio_s: float
    """Put into packets, all channels."""
    lost: float
    """Packets dropped because there was no room, and records that Kafka did not take."""
    faults: float

    def within_s(self, share: float) -> float:
        """The time within which this share of packets was acknowledged, between the bounds of its bucket in a line."""
        wanted, below, before = share * self.buckets[-1][1], 0.0, 0.0
        for bound, number in self.buckets:
            if number >= wanted and number > before:
                return below + (min(bound, 2 * below) - below) * (wanted - before) / (number - before)
            below, before = bound, number
        return float("nan")


def _server(pipe: Connection) -> None:
    """The server's process: says its ports, and at its end what it counted."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    board = Switchboard(load(), Serve(port=0, audiosocket_port=0, calls=10_000), stop, results=False)

    async def run() -> None:
        serving = asyncio.create_task(board.run(Health()))
        while not board.audiosocket_port and not serving.done():
            await asyncio.sleep(0.01)
        pipe.send((board.port, board.audiosocket_port))
        await serving

    uvloop.run(run())
    found: dict[str, Any] = {"buckets": [], "audio": 0.0, "lost": 0.0, "faults": 0.0}
    sums = {
        "calltide_ingest_audio_seconds_total": "audio",
        "calltide_ingest_overflow_packets_total": "lost",
        "calltide_ingest_undelivered_total": "lost",
        "calltide_ingest_faults_total": "faults",
    }
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.name == f"{ACKNOWLEDGED}_bucket":
                found["buckets"].append((float(sample.labels["le"]), sample.value))
            elif sample.name in sums:
                found[sums[sample.name]] += sample.value
    pipe.send(found)


def _client(pipe: Connection, url: str, protocol: generator.Name, recording: Path, calls: int, seconds: float) -> None:
    """The generator's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tally = uvloop.run(generator.load(url, protocol, recording, calls, seconds))
    pipe.send(tally)
    # Its CPU time is asked for while it is still there.
    pipe.recv()


def _receive(pipe: Connection, process: Any, timeout_s: float) -> Any:
    """Raises CalltideError when the process ends without a word, or takes too long."""
    try:
        if pipe.poll(timeout_s):
            return pipe.recv()
    except EOFError:
        pass
    raise CalltideError(f"the {process.name} ended or hung; run it alone to see why")


def measure(settings: Settings, protocol: generator.Name, calls: int, seconds: float) -> Run:
    """So many calls, each of so many seconds, against a server and a broker of their own."""
    recording = samples.two_channel(settings.directory)
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        running = stack.enter_context(broker(settings))
        ours, theirs = spawn.Pipe()
        server = spawn.Process(target=_server, args=(theirs,), name="server", daemon=True)
        stack.callback(server.join, 10)
        stack.callback(server.terminate)
        server.start()
        port, audiosocket_port = _receive(ours, server, START_S)
        serve = Serve(port=port, audiosocket_port=audiosocket_port)
        mine, its = spawn.Pipe()
        arguments = (its, generator.here(serve, protocol), protocol, recording, calls, seconds)
        client = spawn.Process(target=_client, args=arguments, name="generator", daemon=True)
        stack.callback(client.join, 10)
        stack.callback(client.terminate)
        assert running.pid is not None and server.pid is not None
        processes = {"server": psutil.Process(server.pid), "broker": psutil.Process(running.pid)}
        before = {name: cpu_s(process) for name, process in processes.items()}
        client.start()
        assert client.pid is not None
        length_s = seconds + calls / generator.STARTS_PER_S + 4 * generator.ANSWER_S
        tally = cast(generator.Tally, _receive(mine, client, START_S + length_s))
        used = {name: cpu_s(process) - before[name] for name, process in processes.items()}
        used["generator"] = cpu_s(psutil.Process(client.pid))
        mine.send(None)
        server.terminate()
        found = _receive(ours, server, START_S)
    if not tally.frames:
        raise CalltideError(f"no call of {protocol} began: {tally.reasons}")
    return Run(
        protocol,
        calls,
        seconds,
        tally,
        used,
        found["buckets"],
        found["audio"],
        found["lost"],
        found["faults"],
    )


def tables(runs: list[Run]) -> list[Table]:
    """What became of the calls, and what they cost."""
    fate = Table(
        f"calltide serve, calls in real time for {runs[0].seconds:.0f} s each, no stages",
        ("protocol", "calls", "ended", "cut off", "frames", "late", "latest", "audio lost", "to broker ack p50", "p99"),
        [],
        data=[asdict(run) for run in runs],
    )
    cost = Table(
        "CPU for 100 calls, share of a core",
        ("protocol", "channels", "server", "broker", "generator"),
        [],
        data=[asdict(run) for run in runs],
    )
    for run in runs:
        tally, channels = run.tally, CHANNELS[run.protocol]
        missing_s = tally.audio_s * channels - run.audio_s
        fate.rows.append(
            (
                run.protocol,
                f"{run.calls:,}",
                f"{tally.ended:,}",
                f"{tally.disconnected + tally.refused:,}",
                f"{tally.frames * (channels if run.protocol == 'twilio' else 1):,}",
                f"{tally.late:,}",
                f"{tally.worst_s * 1_000:.0f} ms",
                f"{max(missing_s, 0):.1f} s",
                f"{run.within_s(0.5) * 1_000:.0f} ms",
                f"{run.within_s(0.99) * 1_000:.0f} ms",
            )
        )
        shares = [f"{run.used_s[name] / tally.audio_s * 100:.1%}" for name in ("server", "broker", "generator")]
        cost.rows.append((run.protocol, f"{channels}", *shares))
    fate.notes.append(
        f"Late: written more than {generator.LATE_S * 1_000:.0f} ms after it was due, or while the server did not read."
    )
    fate.notes.append(
        "To broker ack: from the arrival of a packet's last sample until the broker has acknowledged it; 20 ms of it "
        "are the producer's linger."
    )
    return [fate, cost]


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("protocols", nargs="*", metavar="PROTOCOL", help=f"of {', '.join(generator.NAMES)}")
    parser.add_argument("--calls", type=int, help=f"calls at once (default: {dict(CALLS)})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of each call (default: %(default)s)")
    add_outputs(parser)
    arguments = parser.parse_args()
    if unknown := set(arguments.protocols) - set(generator.NAMES):
        parser.error(f"no protocol {', '.join(sorted(unknown))}")
    runs = []
    for protocol in cast("list[generator.Name]", arguments.protocols or list(CALLS)):
        with temporary_home() as settings:
            began = time.monotonic()
            runs.append(measure(settings, protocol, arguments.calls or CALLS.get(protocol, 100), arguments.seconds))
            print(f"{protocol}: took {time.monotonic() - began:.0f} s {runs[-1].tally.reasons or ''}", flush=True)
    publish({COMMAND: tables(runs)}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
