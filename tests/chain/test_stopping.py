"""Ctrl-C at any moment: nothing is left behind, nothing is lost, and the next start goes on."""

import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from streams import samples
from streams.supervisor import BROKER_STOP_S, STOP_S
from tests.chain.support import METRICS, Stack, get, start, until, wait_until_up
from tests.waiting import still_there

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def test_ctrl_c_in_an_ingest_ends_the_call(stack: Stack) -> None:
    ingest = stack.begin("ingest", samples.packaged(), "--call-id", "stopped")
    until(
        lambda: stack.rows("SELECT count() AS n FROM calls WHERE call_id = 'stopped'") == [{"n": 1}], "the call began"
    )
    ingest.send_signal(signal.SIGINT)
    output, errors = ingest.communicate(timeout=90)
    assert ingest.returncode == 130
    assert "ended early" in output
    assert errors.strip().splitlines()[-1] == "calltide: stopped"
    sql = "SELECT end_reason, duration_ms FROM calls FINAL WHERE call_id = 'stopped' AND ended_at IS NOT NULL"
    until(lambda: stack.rows(sql), "the call was ended")
    (row,) = stack.rows(sql)
    assert row["end_reason"] == "interrupted"
    assert 0 < row["duration_ms"] < 30_000


@pytest.mark.parametrize("seconds", [1.0, 3.0, 8.0])
def test_ctrl_c_while_everything_starts_leaves_nothing_behind(seconds: float, tmp_path: Path) -> None:
    running = start(tmp_path / "home")
    time.sleep(seconds)  # the moment is the point of the test: any will do
    children = psutil.Process(running.process.pid).children(recursive=True)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(90) == 130
    assert still_there(children) == []


@pytest.mark.models
def test_ctrl_c_in_the_middle_of_work_ends_everything_and_the_next_start_goes_on(stack: Stack) -> None:
    port = int(stack.env["CALLTIDE_METRICS__PORT"])
    (line,) = (line for line in stack.printed if line.startswith("metrics: all processes"))
    ports = [int(part.split()[-1]) for part in line.removeprefix("metrics: all processes ").split(", ")]
    assert ports == list(range(port, port + METRICS))
    for one in ports:
        assert (get(one, "/healthz")[0], get(one, "/readyz")[0]) == (200, 200), one
        assert "process_cpu_seconds_total" in get(one, "/metrics")[1]
    assert get(stack.ports["CALLTIDE_SERVE__PORT"], "/healthz") == (200, "ok\n"), "it takes calls"
    told = stack.calltide("load", "--protocol", "audiosocket", "--calls", "2", "--minutes", "0.05").stdout
    assert re.fullmatch(
        r"calls +2 begun, 2 ended, 0 refused\nframes +300 sent, 0\.1 minutes of call\n"
        r"late frames +\d+ by more than 20 ms; the latest by \d+ ms\ndisconnects +0\n",
        told,
    )
    stack.calltide("ingest", samples.packaged(), "--call-id", "stopped-in-the-middle", "--speed", "max")
    children = psutil.Process(stack.process.pid).children(recursive=True)
    began = time.monotonic()
    stack.stop()
    # What does not end is killed by then; the rest is for a machine that is busy with other things.
    assert time.monotonic() - began < STOP_S + BROKER_STOP_S + 7
    assert still_there(children) == []
    stack.start_again()
    wait_until_up(stack)
    of_it = "FINAL WHERE call_id = 'stopped-in-the-middle'"
    sql = f"SELECT duration_ms FROM calls {of_it} AND ended_at IS NOT NULL"
    until(lambda: stack.rows(sql), "the call is heard to its end")
    assert stack.rows(f"SELECT count() >= 3 AS heard FROM utterances {of_it}") == [{"heard": 1}]
