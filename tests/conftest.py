"""What every test may use: the running broker, the running ClickHouse, and the recordings.

Both servers run once a session, on free ports and in fresh homes; tests tell their work apart by topic and database
names. The broker's jars are kept in the user's home between runs.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from deploy import process
from deploy.broker import Broker
from deploy.clickhouse import ClickHouse
from streams.settings import load

# How long an example takes says something about the machine, not about the code.
hypothesis.settings.register_profile("calltide", deadline=None)
hypothesis.settings.load_profile("calltide")

SHARED = {"analytics": "analytics", "browser": "browser", "chain": "chain", "chaos": "chain", "grafana": "analytics"}
"""Directory → group: tests that share what is costly to make, or that start every process there is, stay together where
several workers run."""


def pytest_configure() -> None:
    """Each worker's free ports are of a range of its own: one that waits for what is to listen on it would be given to
    a test of another worker, too."""
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if worker:
        share, at = len(process.PORTS) // workers, int(worker.removeprefix("gw"))
        process.PORTS = process.PORTS[at * share :][:share]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, the tests of a file, or of a group of SHARED, run in one worker, in their order.

    Not by the marks of `--dist loadgroup`: pytest-xdist 3.8 finds no marks with pytest 9.2 (its issue 1386), and says
    nothing.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByGroup(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return SHARED.get(Path(file).parent.name, file)

    return ByGroup(config, log)


JARS = load().directory / "kafka" / "jars"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker without topics."""
    with Broker(tmp_path_factory.mktemp("broker"), port=0, jars=JARS) as running:
        yield running


@pytest.fixture(scope="session")
def kafka_bootstrap(broker: Broker) -> str:
    """`host:port` of the running broker."""
    return broker.bootstrap_servers


@pytest.fixture(scope="session")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`http://host:port` of a running embedded ClickHouse without tables."""
    with ClickHouse(tmp_path_factory.mktemp("clickhouse"), port=0) as running:
        yield running.url


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The recordings with truth (setting CALLTIDE_TEST_DATA)."""
    path = (Path(__file__).parent.parent / load().test_data).resolve()
    if not path.is_dir():
        pytest.skip(f"no recordings at {path}: set CALLTIDE_TEST_DATA")
    return path
