"""What `calltide up` does when something dies, does not start or does not end.

Mostly with small processes in the chain's place; the broker is the real one. tests/chain/test_bad_input.py has what
people do to `calltide up`.
"""

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml
from confluent_kafka import Consumer, Producer, TopicPartition

from deploy.process import free_port
from schemas.errors import CalltideError
from streams import supervisor
from streams.settings import Settings
from streams.supervisor import Supervisor
from tests.chain.support import ROOT, get, until
from tests.conftest import JARS
from tests.waiting import still_there

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

# Behaves as it is told, then serves until SIGTERM. `--ready FILE` comes last.
STAND_IN = """
import os, signal, socket, sys, time
from pathlib import Path
behaviour, ready = sys.argv[1], Path(sys.argv[-1])
print("metrics at", os.environ["CALLTIDE_METRICS__PORT"], flush=True)
starts = ready.with_suffix(".starts")
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
first = starts.read_text() == "x"
if behaviour == "refuses" or behaviour == "refuses once" and first:
    sys.exit("calltide: wrong setting CALLTIDE_ASR__MODEL; choose another")
if behaviour == "dies once" and first:
    os.abort()
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if behaviour == "late":
    while not ready.with_suffix(".let").exists():
        time.sleep(0.02)
broker = None
if behaviour.startswith("clings to "):
    broker = socket.create_connection(("127.0.0.1", int(behaviour.split()[-1])))
ready.touch()
if behaviour == "keeps dying":
    print('{"message": "ended", "exception": "Traceback\\\\n  File x\\\\nValueError: the reason\\\\n"}')
    sys.exit(70)
while broker is None or broker.recv(1):
    time.sleep(0.05)
sys.exit(70)
"""


class Standing(Supervisor):
    """Small processes in the chain's place: name → behaviour."""

    def __init__(self, settings: Settings, **behaviours: str) -> None:
        self.said: list[str] = []
        super().__init__(settings, self.said.append)
        self.behaviours = behaviours

    def commands(self) -> dict[str, list[str]]:
        return {name: ["-c", STAND_IN, behaviour] for name, behaviour in self.behaviours.items()}


class Strict(Standing):
    """Gives up at the third death."""

    RESTARTS = 3


def settings_for(home: Path, bootstrap: str | None = None, metrics_port: int = 0) -> Settings:
    """On ports of its own, with the broker that runs already or an embedded one."""
    base = Settings()
    ports = {
        name: getattr(base, name).model_copy(update={"port": free_port()})
        for name in ("broker", "clickhouse", "gateway", "web")
    }
    ports["serve"] = base.serve.model_copy(update={"port": free_port(), "audiosocket_port": free_port()})
    more = {
        "home": home,
        "kafka": base.kafka.model_copy(update={"bootstrap_servers": bootstrap}),
        "metrics": base.metrics.model_copy(update={"port": metrics_port}),
    }
    return base.model_copy(update=ports | more)


@pytest.fixture
def settings(tmp_path: Path, kafka_bootstrap: str) -> Settings:
    return settings_for(tmp_path, kafka_bootstrap)


@pytest.fixture
def embedded(tmp_path: Path) -> Settings:
    """With an embedded broker, whose jars are there."""
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "jars").symlink_to(JARS)
    return settings_for(tmp_path)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process outlives its test."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    assert [child for child in still_there(psutil.Process().children(recursive=True)) if child.pid not in before] == []


def kill(standing: Supervisor, name: str) -> None:
    """kill -9 of a process, by its name."""
    pid = standing.pid(name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def started_and_serving(standing: Supervisor, name: str, starts: int) -> bool:
    """Whether it was started so often, and serves."""
    return standing.started(name) == starts and standing.serves(name)


def tend_until(standing: Supervisor, condition: Callable[[], object], what: str) -> None:
    """Supervise until the condition holds."""

    def done() -> bool:
        standing.tend()
        return bool(condition())

    until(done, what, 60)


def test_what_dies_once_at_its_start_does_not_end_everything(settings: Settings) -> None:
    with Standing(settings, asr="dies once", sink="refuses once", web="serves") as standing:
        assert (standing.started("asr"), standing.started("sink"), standing.started("web")) == (2, 2, 1)
        assert all(standing.serves(name) for name in ("asr", "sink", "web"))
        assert standing.restarts == 2
    assert any("asr ended with status -6; it is started again" in line for line in standing.said)


def test_a_refusal_in_plain_words_ends_it_at_the_second_time(settings: Settings) -> None:
    began = time.monotonic()
    with pytest.raises(CalltideError) as refused, Standing(settings, vad="serves", asr="refuses"):
        pass
    assert time.monotonic() - began < 60
    words = "asr does not start: wrong setting CALLTIDE_ASR__MODEL; choose another (log: "
    assert str(refused.value).startswith(words)


def test_what_keeps_dying_ends_everything_with_its_last_words(settings: Settings) -> None:
    with Standing(settings, asr="serves", vad="keeps dying") as standing:
        with pytest.raises(CalltideError, match="vad keeps dying: .*ended ValueError: the reason"):
            tend_until(standing, lambda: False, "the end of patience")
        assert standing.started("vad") == Supervisor.RESTARTS


def test_metrics_and_health_of_the_whole(settings: Settings, tmp_path: Path) -> None:
    port = free_port(3)
    own = settings_for(tmp_path, settings.kafka.bootstrap_servers, port)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vad.let").touch()
    with Standing(own, vad="late", asr="serves") as standing:
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/readyz") == (200, {"ready": True, "processes": ["vad", "asr"]})
        before = get(port, "/metrics")[1]
        assert 'calltide_process_ready{process="vad"} 1.0' in before
        assert 'calltide_restarts_total{process="asr"} ' in before, "told before the first"
        free = float(before.split("\ncalltide_home_free_bytes ")[1].split()[0])
        assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
        (tmp_path / "run" / "vad.let").unlink()
        kill(standing, "vad")
        tend_until(standing, lambda: standing.started("vad") == 2, "it is started again")
        standing.tend()
        assert get(port, "/readyz") == (503, {"ready": False, "waiting": "not ready: vad"})
        after = get(port, "/metrics")[1]
        assert 'calltide_process_ready{process="vad"} 0.0' in after
        assert 'calltide_process_up{process="asr"} 1.0' in after
        restarts = 'calltide_restarts_total{process="vad"} '
        assert float(after.split(restarts)[1].split()[0]) >= 1
        (tmp_path / "run" / "vad.let").touch()
        tend_until(standing, lambda: standing.serves("vad"), "it serves again")
        assert get(port, "/readyz")[0] == 200
    assert f"metrics: all processes {port}, vad {port + 1}, asr {port + 2}" in standing.said
    assert (tmp_path / "logs" / "asr.log").read_text() == f"metrics at {port + 2}\n"


def test_the_example_for_prometheus_reads_every_process_at_its_port() -> None:
    (job,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "up.yml").read_text())["scrape_configs"]
    read = {one["labels"]["process"]: one["targets"] for one in job["static_configs"]}
    names = ["up", *Supervisor(Settings(), print).commands()]
    assert read == {name: [f"127.0.0.1:{9400 + at}"] for at, name in enumerate(names)}


@pytest.mark.parametrize("above", [0, 2])
def test_a_metrics_port_that_is_taken_is_named(settings: Settings, tmp_path: Path, above: int) -> None:
    first = free_port(3)
    own = settings_for(tmp_path, settings.kafka.bootstrap_servers, first)
    with (
        socket.create_server(("127.0.0.1", first + above)),
        pytest.raises(CalltideError, match=rf"port {first + above} is taken.*set CALLTIDE_METRICS__PORT"),
        Standing(own, vad="serves", asr="serves"),
    ):
        pass


def test_a_broker_that_dies_comes_back_and_one_that_keeps_dying_ends_everything(
    embedded: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What dies of the broker's death is not held responsible: vad's third death is, its third of its own would be."""
    monkeypatch.setattr(supervisor, "STOP_S", 2.0)
    with Strict(embedded, vad=f"clings to {embedded.broker.port}", web="stubborn") as standing:
        producer = Producer({"bootstrap.servers": embedded.bootstrap_servers, "log_level": 0})
        producer.produce("scores", b"kept", partition=0)
        assert producer.flush(30) == 0
        for starts in (2, 3):
            kill(standing, "vad")
            tend_until(standing, partial(started_and_serving, standing, "vad", starts), "vad is there again")
        kill(standing, "broker")
        tend_until(standing, lambda: not standing.serves("broker"), "it is seen that the broker died")
        tend_until(standing, lambda: standing.started("vad") == 4, "vad is started again")
        assert standing.serves("broker"), "nothing is started while there is no broker"
        tend_until(standing, lambda: standing.serves("vad"), "vad serves again")
        assert (standing.started("broker"), standing.started("web")) == (2, 1)
        reader = Consumer({"bootstrap.servers": embedded.bootstrap_servers, "group.id": "test", "log_level": 0})
        reader.assign([TopicPartition("scores", 0, 0)])
        until(lambda: (message := reader.poll(0.2)) and message.value() == b"kept", "what it had is kept")
        reader.close()
        with pytest.raises(CalltideError, match="the broker keeps dying: SIGKILL"):
            while True:
                if standing.pid("broker"):
                    # Its end may just not have been noticed yet.
                    with contextlib.suppress(ProcessLookupError):
                        kill(standing, "broker")
                standing.tend()
        assert standing.started("broker") == 3
        stubborn = psutil.Process(standing.pid("web"))
        began = time.monotonic()
    took = time.monotonic() - began
    assert supervisor.STOP_S <= took < supervisor.STOP_S + 7, "the stubborn one was given its time, and no more"
    assert still_there([stubborn]) == []
    assert [path.name for path in (tmp_path / "run").iterdir() if path.suffix in (".pid", ".ready")] == []
