"""What people will do to the command line: each time one clear line, an exit code that is not 0, and nothing lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from streams import samples
from streams.supervisor import PORTS
from tests.chain.support import ROOT, Stack, start, until

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def calltide(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streams", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | env, text=True, capture_output=True, timeout=120, check=False
    )


def said(result: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr; fails for a traceback, several lines or success."""
    assert result.returncode != 0, result.stdout
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("calltide: ")
    assert "Traceback" not in result.stderr
    return lines[0]


@pytest.mark.parametrize("command", ["analyze", "ingest"])
def test_what_is_no_recording(command: str, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text file ünïcödé.wav").write_text("no audio\n" * 1_000)
    soundfile.write(tmp_path / "one.wav", np.zeros(1), 16_000)
    soundfile.write(tmp_path / "six.wav", np.zeros((16_000, 6)), 16_000)
    (tmp_path / "directory").mkdir()
    # Where the results of an ingest lie.
    home = {"CALLTIDE_HOME": str(tmp_path / "home")}
    of_a_directory = {"analyze": "is a directory", "ingest": "no recordings in"}
    assert "no file" in said(calltide(command, tmp_path / "absent.wav", **home))
    assert of_a_directory[command] in said(calltide(command, tmp_path / "directory", **home))
    assert "is empty" in said(calltide(command, tmp_path / "empty.wav", **home))
    assert "not audio" in said(calltide(command, tmp_path / "text file ünïcödé.wav", **home))
    assert "nothing to hear" in said(calltide(command, tmp_path / "one.wav", **home))
    assert "6 channels" in said(calltide(command, tmp_path / "six.wav", **home))


def test_a_directory_of_bad_recordings_is_a_line_for_each_and_a_row_in_the_results(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / "calls" / "2026").mkdir(parents=True, exist_ok=True)
        (tmp_path / "calls" / "2026" / name).touch()
    result = calltide("ingest", tmp_path / "calls", CALLTIDE_HOME=str(tmp_path / "home"))
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 2 and all(line.startswith("calltide: ") and "is empty" in line for line in lines)
    (results,) = (tmp_path / "home" / "ingest").glob("*.csv")
    assert [row.split(",")[2] for row in results.read_text().splitlines()] == ["status", "failed", "failed"]


@pytest.mark.models
def test_silence_only(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(48_000), 16_000)
    assert "no speech" in said(calltide("analyze", tmp_path / "silence.wav"))


@pytest.mark.models
def test_a_damaged_recording_is_heard_up_to_the_damage_and_the_others_whole(tmp_path: Path) -> None:
    mono, rate = soundfile.read(samples.packaged(), dtype="float32")
    whole = tmp_path / "whole and ünïcödé.flac"
    soundfile.write(whole, mono, rate, subtype="PCM_24")
    cut = tmp_path / "cut.flac"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    result = calltide("analyze", cut, whole)
    assert "cut.flac" in said(result)
    first, second = result.stdout.split("whole and ünïcödé.flac")
    assert "Hello" in first, "what came before the damage was heard"
    assert "New Jersey" in second


def test_wrong_options_and_settings() -> None:
    path = samples.packaged()
    assert "unknown role 'boss'" in said(calltide("analyze", path, "--roles", "boss"))
    assert "--emotion: unknown role 'boss'; use all" in said(calltide("analyze", path, "--emotion", "agent,boss"))
    assert "one channel and --roles names 2" in said(calltide("analyze", path, "--roles", "agent,customer"))
    assert "--speed fast is no speed" in said(calltide("ingest", path, "--speed", "fast"))
    assert "did you mean CALLTIDE_ASR__MODEL?" in said(calltide("analyze", path, CALLTIDE_ASR__MODLE="base"))
    assert "CALLTIDE_ASR__BEAM_SIZE" in said(calltide("analyze", path, CALLTIDE_ASR__BEAM_SIZE="wide"))
    assert "no stage hearing" in said(calltide("stage", "hearing"))
    assert "nothing to send" in said(calltide("ingest"))
    assert "--watch goes on until it is stopped" in said(calltide("ingest", "--watch", ROOT, "--dry-run"))
    assert "no protocol fax" in said(calltide("load", "--protocol", "fax"))


def test_a_model_that_cannot_be_had() -> None:
    line = said(calltide("analyze", samples.packaged(), CALLTIDE_ASR__MODEL="no/such-model", HF_HUB_OFFLINE="1"))
    assert "no/such-model" in line


def test_kafka_and_clickhouse_out_of_reach() -> None:
    nowhere = {"CALLTIDE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9", "CALLTIDE_CLICKHOUSE__URL": "http://127.0.0.1:9"}
    assert "no Kafka at 127.0.0.1:9" in said(calltide("ingest", samples.packaged(), **nowhere))
    assert "no Kafka at 127.0.0.1:9" in said(calltide("stage", "vad", **nowhere))
    assert "no Kafka at 127.0.0.1:9" in said(calltide("serve", **nowhere))
    assert "no ClickHouse at 127.0.0.1:9" in said(calltide("query", "SELECT 1", **nowhere))
    assert "127.0.0.1:9" in said(calltide("topics", "check", **nowhere))
    line = said(calltide("listen", CALLTIDE_GATEWAY__PORT="9"))
    assert "no gateway" in line


@pytest.mark.parametrize("setting", PORTS)
def test_a_port_that_is_taken(setting: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = calltide("up", CALLTIDE_HOME=str(tmp_path), **{setting: port})
    line = said(result)
    assert f"port {port} is taken" in line
    assert setting in line


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "CALLTIDE_HOME" in said(calltide("up", CALLTIDE_HOME=str(tmp_path / "file" / "home")))


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a full disk can be made only by root with the right to mount")
    try:
        assert "make room or set CALLTIDE_HOME" in said(calltide("up", CALLTIDE_HOME=str(tmp_path / "home")))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_two_on_one_home(stack: Stack) -> None:
    line = said(stack.calltide("up", check=False))
    assert f"already runs in {stack.home} (process {stack.process.pid})" in line


def test_a_wrong_statement(stack: Stack) -> None:
    assert "ClickHouse refuses" in said(stack.calltide("query", "SELEC 1", check=False))


def test_ctrl_c_in_an_ingest_ends_the_call(stack: Stack) -> None:
    ingest = stack.begin("ingest", samples.packaged(), "--call-id", "stopped")
    until(
        lambda: stack.rows("SELECT count() AS n FROM calls WHERE call_id = 'stopped'") == [{"n": 1}], "the call began"
    )
    ingest.send_signal(signal.SIGINT)
    output, errors = ingest.communicate(timeout=30)
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
    assert running.process.wait(30) == 130
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
