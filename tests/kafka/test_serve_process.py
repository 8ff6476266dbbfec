"""`calltide serve` as the process that it is: what SIGTERM in the middle of a call leaves behind."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from deploy.process import free_port
from deploy.topics import Topics
from schemas.events import CallEnded, CallStarted, decode
from schemas.topics import DEFAULT_PARTITIONS, FRAMES, TOPICS
from tests.waiting import still_there
from tests.workers import everything

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parent.parent.parent
SOUND = np.random.default_rng(5).integers(0, 255, (2, 8_000), dtype=np.uint8)
"""A second of mu-law on each track."""


def message(kind: str, fields: object) -> str:
    """One of Twilio's."""
    return json.dumps({"event": kind, "sequenceNumber": "1", "streamSid": "MZ1", kind: fields})


def test_sigterm_in_the_middle_of_a_call_ends_it_and_loses_nothing(kafka_bootstrap: str, tmp_path: Path) -> None:
    Topics(kafka_bootstrap).create(TOPICS)
    call_id, ready, log = f"CA{uuid.uuid4().hex}", tmp_path / "ready", tmp_path / "log"
    websockets, audiosocket = free_port(), free_port()
    environment = {
        "CALLTIDE_HOME": str(tmp_path / "home"),
        "CALLTIDE_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap,
        "CALLTIDE_SERVE__PORT": str(websockets),
        "CALLTIDE_SERVE__AUDIOSOCKET_PORT": str(audiosocket),
        "CALLTIDE_SERVE__KEYS": '{"twilio": {"acme": "a-key"}}',
    }
    command = [sys.executable, "-m", "streams", "serve", "--ready", str(ready)]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=os.environ | environment, cwd=ROOT, stderr=output)
    try:
        while not ready.exists():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        with connect(f"ws://127.0.0.1:{websockets}/twilio/a-key") as client:
            tracks = ("inbound", "outbound")
            form = {"encoding": "audio/x-mulaw", "sampleRate": 8_000, "channels": 1}
            named = {"accountSid": "AC1", "callSid": call_id, "streamSid": "MZ1"}
            client.send(message("start", {**named, "tracks": tracks, "mediaFormat": form}))
            for start in range(0, SOUND.shape[1], 160):
                for track, samples in zip(tracks, SOUND, strict=True):
                    payload = base64.b64encode(samples[start : start + 160].tobytes()).decode()
                    media = {"track": track, "chunk": "1", "timestamp": str(start // 8), "payload": payload}
                    client.send(message("media", media))
            # Its answer says that all before it has been read.
            assert client.ping().wait(30)
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                client.recv(60)
            assert client.close_code == 1001
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    records = [one for one in everything(kafka_bootstrap, FRAMES, DEFAULT_PARTITIONS).found if one.key == call_id]
    for channel, samples in enumerate(SOUND):
        heard = [one.value or b"" for one in records if one.headers.get("channel") == b"%d" % channel]
        assert b"".join(heard) == samples.tobytes()
    first, last = (decode(one.headers, one.value or b"") for one in (records[0], records[-1]))
    assert isinstance(first, CallStarted) and isinstance(last, CallEnded)
    assert (last.reason, last.duration_ms, last.call.tenant) == ("interrupted", 1_000, "acme")
    assert still_there(children) == []
    assert not ready.exists()
    assert [line for line in log.read_text().splitlines() if json.loads(line)["level"] in ("error", "critical")] == []
    for port in (websockets, audiosocket):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
