"""Everything running, once for all tests of this directory."""

from collections.abc import Iterator

import pytest

from deploy.process import free_port
from tests.browser.conftest import chromium  # noqa: F401 - the fixture
from tests.chain.support import METRICS, Stack, start, wait_until_up


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything running, until the last test of this directory; each test uses calls of its own."""
    running = start(tmp_path_factory.mktemp("stack"), free_port(METRICS))
    try:
        wait_until_up(running)
        yield running
    finally:
        running.stop()
