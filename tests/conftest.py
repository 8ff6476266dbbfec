"""What every test may use: the running broker and the recordings.

The broker runs once a session, on a free port and in a fresh home; tests tell their work apart by topic names. Its jars
are kept in the user's home between runs.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.broker import Broker
from streams.settings import load

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
def test_data() -> Path:
    """The recordings with truth (setting CALLTIDE_TEST_DATA)."""
    path = (Path(__file__).parent.parent / load().test_data).resolve()
    if not path.is_dir():
        pytest.skip(f"no recordings at {path}: set CALLTIDE_TEST_DATA")
    return path
