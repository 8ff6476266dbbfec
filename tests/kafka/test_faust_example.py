"""The Faust example as people run it: its real application, in its own environment, on the real broker."""

import os
import re
import subprocess
import threading
from datetime import timedelta
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest

from examples.faust.environment import faust_python
from schemas.errors import CalltideError
from schemas.events import Progress
from tests.scripted import EPOCH, Writer, call, ended, new_topic, score, started

APP = Path(__file__).parents[2] / "examples" / "faust" / "app.py"
WAIT_S = 120.0
LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d) +(\d+) ([+-]\d\.\d\d) (\S+)")
"""Minute, count, mean and queue; Faust prints them on its log."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return faust_python()
    except CalltideError as error:
        pytest.skip(str(error))


def test_each_queue_and_minute_has_its_count_and_mean(kafka_bootstrap: str, python: Path, tmp_path: Path) -> None:
    topic = new_topic(kafka_bootstrap)
    writer = Writer(kafka_bootstrap, topic)
    later = EPOCH + timedelta(minutes=1)
    billing, sales = call("a", queue="billing"), call("b", queue="sales")
    other, last = call("c", queue="billing", started_at=EPOCH), call("d", queue="sales", started_at=later)
    aborted = score(sales, 20_000, "never mind", polarity=-1.0)
    repeated = score(billing, 1_000, "this is wrong", polarity=-0.8)
    writer.write(started(billing), started(sales), Progress(call=billing, at_ms=500), repeated)
    writer.write(score(billing, 50_000, "thank you", polarity=0.4), score(sales, 2_000, "hello", polarity=0.1))
    writer.write(score(sales, 9_000, ""), repeated)
    writer.write(aborted, commit=False)
    writer.abort()
    writer.write(aborted, score(other, 3_000, "no", polarity=-0.2), score(billing, 61_000, "bye", polarity=0.5))
    writer.write(score(last, 100, "yes", polarity=0.3), score(last, 5_000, "right", polarity=0.9), ended(billing))
    expected = {
        ("2026-03-01 12:00", "billing"): ("3", "-0.20"),
        ("2026-03-01 12:00", "sales"): ("2", "-0.45"),
        ("2026-03-01 12:01", "billing"): ("1", "+0.50"),
        ("2026-03-01 12:01", "sales"): ("2", "+0.60"),
    }

    environment = os.environ | {"CALLTIDE_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap, "SCORES_TOPIC": topic}
    worker = subprocess.Popen(
        [python, APP, "--datadir", tmp_path / "data", "worker", "-l", "warn"],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in worker.stdout or ():
            lines.put(line)

    reader = threading.Thread(target=read)
    reader.start()
    table: dict[tuple[str, str], tuple[str, str]] = {}
    log, counted = "", 0
    try:
        # Eight scores have words; one of them came twice and one was also aborted: ten lines.
        while counted < 10:
            log += lines.get(timeout=WAIT_S)
            if line := LINE.search(log.splitlines()[-1]):
                minute, count, mean, queue = line.groups()
                table[minute, queue] = (count, mean)
                counted += 1
    except Empty:
        pytest.fail(f"nothing new for {WAIT_S:.0f} s after {counted} of 10 lines:\n{log}")
    finally:
        worker.terminate()
        worker.wait(WAIT_S)
        reader.join(WAIT_S)
    assert table == expected
