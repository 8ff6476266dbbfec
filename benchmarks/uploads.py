"""A long recording over the API, by tus' own client, with the feeder killed in the middle: time, memory, and whether
Kafka has each sample of it once.

`python -m benchmarks.uploads [--hours 3]`; docs/uploads.md has the figures. It needs 1.2 GB of disk for three
hours, and 3 minutes. Nothing hears the call: what is measured is how it comes into Kafka.
"""

import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import pytest
import soundfile
import typer
from confluent_kafka.admin import AdminClient
from tusclient.client import TusClient

from deploy.broker import Broker
from deploy.clickhouse import ClickHouse
from schemas.audio import AudioPacket
from schemas.topics import BATCH_FRAMES, DEFAULT_PARTITIONS
from streams import history, kafka
from streams.settings import load
from tests.api.feeding import feeder_pid, serving
from tests.waiting import until

RATE = 8_000


def recording(path: Path, hours: float) -> Path:
    """Noise of two channels, written a minute at a time."""
    noise = np.random.default_rng(1)
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        for _ in range(round(hours * 60)):
            file.write(noise.uniform(-0.5, 0.5, (RATE * 60, 2)))
    return path


class Peak(threading.Thread):
    """The most memory that a process has had, MB."""

    def __init__(self, find: Any) -> None:
        super().__init__(daemon=True)
        self.find, self.most = find, 0.0
        self.start()

    def run(self) -> None:
        """Look ten times a second."""
        while True:
            try:
                if (pid := self.find()) is not None:
                    self.most = max(self.most, psutil.Process(pid).memory_info().rss / 1e6)
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.1)


def main(hours: Annotated[float, typer.Option(help="length of the recording")] = 3.0) -> None:
    """Upload, kill, look."""
    jars = load().directory / "kafka" / "jars"
    with (
        tempfile.TemporaryDirectory() as folder,
        Broker(Path(folder) / "broker", port=0, jars=jars) as broker,
        ClickHouse(Path(folder) / "clickhouse", port=0) as clickhouse,
        pytest.MonkeyPatch.context() as patch,
        serving(
            Path(folder) / "home", broker.bootstrap_servers, clickhouse.url, patch, CALLTIDE_UPLOADS__CHUNK_S="60"
        ) as served,
    ):
        served.stages.hold.set()
        path = recording(Path(folder) / "long.wav", hours)
        size = path.stat().st_size
        own_mb = psutil.Process().memory_info().rss / 1e6
        own, feeder = Peak(os.getpid), Peak(feeder_pid)
        begun = time.monotonic()
        url = f"{served.url}/api/v1/uploads"
        upload = TusClient(url).uploader(str(path), chunk_size=10_000_000, metadata={"filename": "long.wav"})
        upload.upload()
        uploaded = time.monotonic()
        memory = own.most - own_mb
        print(f"upload: {size / 1e6:,.0f} MB in {uploaded - begun:.1f} s, the service's memory +{memory:.0f} MB")
        with served.client() as client:
            task_id = client.get(f"/uploads/{str(upload.url).rsplit('/', 1)[1]}").json()["task_id"]
        (call_id,) = served.task(task_id)["calls"]
        chunks = round(hours * 60)

        def done() -> int:
            return sum(chunk["state"] == "completed" for chunk in served.task(task_id)["chunks"])

        until(lambda: done() >= chunks // 2, "half of it", 600)
        pid = feeder_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        killed, killed_at = done(), time.monotonic()
        until(lambda: done() > killed, "another chunk", 300)
        resumed = time.monotonic()
        until(lambda: done() == chunks, "all of it", 600)
        print(f"killed at chunk {killed} of {chunks}; the next was done {resumed - killed_at:.1f} s later")
        in_s = time.monotonic() - uploaded
        print(f"in Kafka {in_s:.1f} s after the upload; the feeder's memory {feeder.most:.0f} MB")
        samples, packets = heard(served.settings, call_id)
        whole = round(hours * 3_600) * RATE
        assert samples == {0: whole, 1: whole}, samples
        twice = packets - 2 * whole * 10 // RATE
        print(f"each of {whole:,} samples of both channels is in Kafka; {twice} packets came twice")


def heard(settings: Any, call_id: str) -> tuple[dict[int, int], int]:
    """(channel → samples without a gap from its beginning, packets) of a call."""
    ranges = kafka.ranges(
        AdminClient(kafka.client(settings)), BATCH_FRAMES, range(DEFAULT_PARTITIONS), history.ANSWER_S
    )
    ends: dict[int, int] = {}
    packets = 0
    for message in history.read(settings, BATCH_FRAMES, ranges):
        headers = {name: value or b"" for name, value in kafka.headers_of(message)}
        if message.key() != call_id.encode() or headers["kind"] != b"audio":
            continue
        packet = AudioPacket.decode(headers, message.value() or b"")
        packets += 1
        if packet.sample <= ends.get(packet.channel, 0):
            ends[packet.channel] = max(ends.get(packet.channel, 0), packet.sample + packet.samples)
    return ends, packets


if __name__ == "__main__":
    typer.run(main)
