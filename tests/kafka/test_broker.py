"""The embedded broker, run for real: its jars, its start and end, and what is said when it cannot start."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from deploy import broker as module
from deploy.broker import Broker, cluster_id, fetch_jars
from deploy.process import holder_of_port, spawn
from schemas.errors import CalltideError
from tests.conftest import JARS
from tests.waiting import still_there

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parent.parent.parent


def write(bootstrap: str, topic: str, values: list[bytes]) -> None:
    """Produce and wait for every acknowledgement."""
    refused: list[KafkaError] = []

    def acknowledged(error: KafkaError | None, _: Message) -> None:
        if error:
            refused.append(error)

    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "log_level": 0})
    for value in values:
        producer.produce(topic, value, partition=0, on_delivery=acknowledged)
    assert producer.flush(30) == 0
    assert refused == []


def read(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    """The first `count` values of partition 0, within 30 s."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages = consumer.consume(count, timeout=30)
    consumer.close()
    return [message.value() for message in messages]


def create(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(10)


@pytest.fixture(scope="module")
def jars() -> list[Path]:
    return fetch_jars(JARS / module.KAFKA_VERSION)


@pytest.fixture
def copied(jars: list[Path], tmp_path: Path) -> Path:
    """A directory of links to the fetched jars, for tests that break one."""
    for jar in jars:
        (tmp_path / jar.name).symlink_to(jar)
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a download finds nobody there."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")


def test_jars_that_are_there_need_no_network(copied: Path, no_network: None) -> None:
    assert len(fetch_jars(copied)) == len(json.loads(module.LOCK.read_text())["jars"])


@pytest.mark.parametrize("damage", ["one byte", "truncated"])
def test_a_tampered_jar_is_refused_by_name(copied: Path, damage: str) -> None:
    jar = next(copied.glob("kafka-clients-*.jar"))
    content = bytearray(jar.read_bytes())
    if damage == "one byte":
        content[len(content) // 2] ^= 1
    else:
        del content[-1:]
    jar.unlink()
    jar.write_bytes(content)
    with pytest.raises(CalltideError, match=rf"{jar} is damaged or was changed .*; delete it and start again"):
        fetch_jars(copied)


def test_a_missing_jar_without_network_is_one_clear_line(copied: Path, no_network: None) -> None:
    next(copied.glob("slf4j-api-*.jar")).unlink()
    with pytest.raises(CalltideError, match=r"cannot fetch org\.slf4j:slf4j-api:.* check the network"):
        fetch_jars(copied)
    assert not list(copied.glob(".fetch-*"))


def test_a_fetched_jar_that_is_not_the_locked_one_is_not_installed(
    copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    jar = next(copied.glob("slf4j-api-*.jar"))
    jar.unlink()
    lock = json.loads(module.LOCK.read_text())
    for row in lock["jars"]:
        if "slf4j-api" in row["coordinate"]:
            row["sha256"] = "0" * 64
    other = tmp_path_factory.mktemp("lock") / "jars.json"
    other.write_text(json.dumps(lock))
    monkeypatch.setattr(module, "LOCK", other)
    with pytest.raises(CalltideError, match=r"is not the file that jars\.json names"):
        fetch_jars(copied)
    assert not jar.exists()


def test_an_id_of_a_cluster_never_looks_like_an_option() -> None:
    ids = [cluster_id() for _ in range(500)]
    assert len({*ids}) == 500
    assert [one for one in ids if one.startswith("-") or len(one) != 22] == []


def test_ctrl_c_while_the_storage_is_made_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(spawn(*arguments, **options))
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        return started[-1]

    monkeypatch.setattr(module, "spawn", interrupted)
    # Who is started in the background inherits to ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Broker(tmp_path, port=0, jars=JARS).start()
    finally:
        signal.signal(signal.SIGINT, before)
    (making,) = started
    assert making.poll() is not None


def test_records_survive_a_stop_and_a_kill(tmp_path: Path) -> None:
    broker = Broker(tmp_path, port=0, jars=JARS)
    broker.start()
    create(broker.bootstrap_servers, "kept")
    write(broker.bootstrap_servers, "kept", [b"1", b"2"])
    broker.stop()
    assert broker.poll() in (0, 143)

    broker.start()
    write(broker.bootstrap_servers, "kept", [b"3"])
    assert broker.pid
    os.kill(broker.pid, signal.SIGKILL)
    assert broker._process and broker._process.wait(60) == broker.poll() == -signal.SIGKILL
    broker.stop()

    with broker:
        write(broker.bootstrap_servers, "kept", [b"4"])
        assert read(broker.bootstrap_servers, "kept", 4) == [b"1", b"2", b"3", b"4"]


def test_the_broker_listens_on_loopback_only(broker: Broker) -> None:
    listening = [c.laddr.ip for c in psutil.Process(broker.pid).net_connections("tcp") if c.status == "LISTEN"]
    assert len(listening) == 2
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_ctrl_c_in_the_terminal_does_not_reach_the_broker(broker: Broker) -> None:
    assert broker.pid
    assert os.getsid(broker.pid) == broker.pid != os.getsid(0)


def test_a_second_broker_on_one_home_is_told_who_holds_it(broker: Broker) -> None:
    second = Broker(broker.directory.parent, port=0, jars=JARS)
    with pytest.raises(CalltideError, match=rf"a broker already runs on .* \(process {broker.pid}\); .*CALLTIDE_HOME"):
        second.start()
    assert broker.poll() is None
    assert broker._pid_file.read_text().strip() == str(broker.pid)


def test_a_taken_port_is_named_with_its_setting(tmp_path: Path, jars: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(os.getpid()) in holder_of_port(port)
        with pytest.raises(CalltideError, match=rf"port {port} is taken .*CALLTIDE_BROKER__PORT"):
            Broker(tmp_path, port=port, jars=JARS).start()


def test_a_home_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CalltideError, match=r"cannot write the broker's files: .*file.*CALLTIDE_HOME"):
        Broker(tmp_path / "file", port=0, jars=JARS).start()


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_FREE_BYTES", 2**62)
    with pytest.raises(CalltideError, match=r"only \d+ MB are free at .*CALLTIDE_HOME"):
        Broker(tmp_path, port=0, jars=JARS).start()
    monkeypatch.undo()
    Broker(tmp_path, port=0, jars=JARS)._lock.acquire(timeout=0)  # nothing is left locked


def test_a_broker_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.PROPERTIES, "num.io.threads", "0")
    with pytest.raises(CalltideError, match=r"num\.io\.threads.*\(log: .*broker\.log\)"):
        Broker(tmp_path, port=0, jars=JARS).start()


def test_the_broker_ends_when_its_parent_is_killed_and_the_next_one_starts(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from deploy.broker import Broker\n"
        f"broker = Broker(Path({str(tmp_path)!r}), port=0, jars=Path({str(JARS)!r}), report=lambda line: None)\n"
        "broker.start(); print(broker.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    orphan = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    # At once: whether the orphan has gone by itself or not, its home can be used again.
    with Broker(tmp_path, port=0, jars=JARS) as broker:
        assert still_there([orphan]) == []
        assert broker.pid != orphan.pid
