"""Everything running, once for all tests of this directory."""

import signal
import subprocess
from collections.abc import Iterator

import pytest

from streams.settings import Settings
from streams.supervisor import Supervisor
from tests.browser.conftest import chromium  # noqa: F401 - the fixture
from tests.chain.support import Stack, free_ports, start, wait_until_up


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything running, one for all tests; each test uses calls of its own."""
    metrics = free_ports(len(Supervisor(Settings(), print).commands()) + 1)
    running = start(tmp_path_factory.mktemp("stack"), CALLTIDE_METRICS__PORT=str(metrics))
    try:
        wait_until_up(running)
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        try:
            running.process.wait(30)
        except subprocess.TimeoutExpired:
            running.process.kill()
            raise
