"""The chain with its models, loaded once for all tests of this directory, and what it hears in a recording."""

from pathlib import Path

import pytest

from streams.analyze import Analyzer
from streams.settings import load
from tests.telephony import Recording


@pytest.fixture(scope="session")
def analyzer() -> Analyzer:
    """The chain in this process."""
    return Analyzer(load())


@pytest.fixture(scope="session")
def recording(analyzer: Analyzer, test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A call as a phone system has it: the customer comes first."""
    return Recording(analyzer, test_data, tmp_path_factory.mktemp("recording"), ("customer", "agent"))
