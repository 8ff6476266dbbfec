"""The small version of `make chaos`: every part killed, stages twice, up to three at one time, in fewer calls."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.chaos
@pytest.mark.kafka
@pytest.mark.models
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_is_killed_nothing_is_lost_and_nothing_doubled() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--minutes", "0.7", "--calls", "16"]
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=840, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
