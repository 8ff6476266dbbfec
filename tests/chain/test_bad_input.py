"""What people will do to the command line: each time one clear line, an exit code that is not 0, and nothing lost."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deploy.process import free_port
from streams import samples
from streams.supervisor import PORTS
from tests.chain.support import ROOT, Stack

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


def each_said(at_once: int, *expected: tuple[str, Sequence[str | Path], dict[str, str]]) -> None:
    """(words, arguments, environment): what each command says on stderr has its words. So many run beside each other.

    Most of a command's time goes into its start.
    """
    with ThreadPoolExecutor(at_once) as pool:
        results = pool.map(lambda one: calltide(*one[1], **one[2]), expected)
        for (words, _, _), result in zip(expected, results, strict=True):
            assert words in said(result)


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
    each_said(
        2,
        ("no file", [command, tmp_path / "absent.wav"], home),
        (of_a_directory[command], [command, tmp_path / "directory"], home),
        ("is empty", [command, tmp_path / "empty.wav"], home),
        ("not audio", [command, tmp_path / "text file ünïcödé.wav"], home),
        ("nothing to hear", [command, tmp_path / "one.wav"], home),
        ("6 channels", [command, tmp_path / "six.wav"], home),
    )


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
    each_said(
        2,
        ("unknown role 'boss'", ["analyze", path, "--roles", "boss"], {}),
        ("--emotion: unknown role 'boss'; use all", ["analyze", path, "--emotion", "agent,boss"], {}),
        ("one channel and --roles names 2", ["analyze", path, "--roles", "agent,customer"], {}),
        ("--speed fast is no speed", ["ingest", path, "--speed", "fast"], {}),
        ("did you mean CALLTIDE_ASR__MODEL?", ["analyze", path], {"CALLTIDE_ASR__MODLE": "base"}),
        ("CALLTIDE_ASR__BEAM_SIZE", ["analyze", path], {"CALLTIDE_ASR__BEAM_SIZE": "wide"}),
        ("no stage hearing", ["stage", "hearing"], {}),
        ("nothing to send", ["ingest"], {}),
        ("--watch goes on until it is stopped", ["ingest", "--watch", ROOT, "--dry-run"], {}),
        ("no protocol fax", ["load", "--protocol", "fax"], {}),
    )


def test_a_model_that_cannot_be_had() -> None:
    line = said(calltide("analyze", samples.packaged(), CALLTIDE_ASR__MODEL="no/such-model", HF_HUB_OFFLINE="1"))
    assert "no/such-model" in line


def test_kafka_and_clickhouse_out_of_reach() -> None:
    nowhere = {"CALLTIDE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9", "CALLTIDE_CLICKHOUSE__URL": "http://127.0.0.1:9"}
    # They wait for an answer, each for some seconds.
    each_said(
        6,
        ("no Kafka at 127.0.0.1:9", ["ingest", samples.packaged()], nowhere),
        ("no Kafka at 127.0.0.1:9", ["stage", "vad"], nowhere),
        ("no Kafka at 127.0.0.1:9", ["serve"], nowhere),
        ("no ClickHouse at 127.0.0.1:9", ["query", "SELECT 1"], nowhere),
        ("127.0.0.1:9", ["topics", "check"], nowhere),
        ("no gateway", ["listen"], {"CALLTIDE_GATEWAY__PORT": "9"}),
    )


def free_ports() -> dict[str, str]:
    """For all that is listened on, so that whatever else runs on this machine is not in the way."""
    return {name: str(free_port()) for name in PORTS}


@pytest.mark.parametrize("setting", PORTS)
def test_a_port_that_is_taken(setting: str, tmp_path: Path) -> None:
    ports = free_ports()
    with socket.create_server(("127.0.0.1", int(ports[setting]))):
        line = said(calltide("up", CALLTIDE_HOME=str(tmp_path), **ports))
    assert f"port {ports[setting]} is taken" in line
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
        assert "make room or set CALLTIDE_HOME" in said(
            calltide("up", CALLTIDE_HOME=str(tmp_path / "home"), **free_ports())
        )
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_two_on_one_home(stack: Stack) -> None:
    line = said(stack.calltide("up", check=False))
    assert f"already runs in {stack.home} (process {stack.process.pid})" in line


def test_a_statement_and_a_wrong_one(stack: Stack) -> None:
    assert stack.calltide("query", "SELECT 1 AS n", "--format", "JSONEachRow").stdout == '{"n":1}\n'
    assert "ClickHouse refuses" in said(stack.calltide("query", "SELEC 1", check=False))
