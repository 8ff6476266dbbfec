"""What a worker remembers of its deaths."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streams.crashes import DEATHS, CrashRecord, KilledItsProcess

TOPIC = "speech.turns"
ROOT = Path(__file__).parent.parent.parent
BY_ITSELF, BY_OTHERS = signal.SIGSEGV, signal.SIGKILL

DIES = """
import os, pathlib, sys
from streams.crashes import CrashRecord, KilledItsProcess
record = CrashRecord(pathlib.Path(sys.argv[1]), "asr.0")
record.catch_fatal_signals()
suspects = record.suspects()
for offset in map(int, sys.argv[4:]):
    if offset <= suspects.get(("speech.turns", 3), -1):
        record.enter_alone("speech.turns", 3, offset)
    else:
        record.enter("speech.turns", {3: (offset, int(sys.argv[-1])), 5: (1, 1)})
    if offset == int(sys.argv[3]):
        os.kill(os.getpid(), int(sys.argv[2]))
    record.leave()
"""


def die(directory: Path, how: signal.Signals, at: int, *offsets: int) -> None:
    """A worker that reads these offsets of partition 3, one by one where it must, and dies at one of them."""
    arguments = [str(part) for part in (directory, int(how), at, *offsets)]
    command = [sys.executable, "-c", DIES, *arguments]
    died = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert died.returncode == -how, died.stderr


def start(directory: Path) -> CrashRecord:
    return CrashRecord(directory, "asr.0")


def test_who_dies_with_nothing_in_hand_suspects_nothing(tmp_path: Path) -> None:
    first = start(tmp_path)
    first.enter(TOPIC, {3: (10, 20)})
    first.leave()
    assert start(tmp_path).suspects() == {}


def test_what_was_in_hand_is_tried_one_by_one(tmp_path: Path) -> None:
    die(tmp_path, BY_ITSELF, 10, 10, 20)
    record = start(tmp_path)
    assert record.suspects() == {(TOPIC, 3): 20, (TOPIC, 5): 1}
    record.enter_alone(TOPIC, 3, 10)  # one death, in company: not yet


def test_a_record_that_was_alone_at_the_second_fatal_signal_is_not_tried_again(tmp_path: Path) -> None:
    die(tmp_path, BY_ITSELF, 10, 10, 20)
    die(tmp_path, BY_ITSELF, 12, 10, 11, 12)
    record = start(tmp_path)
    record.enter_alone(TOPIC, 3, 11)
    record.enter_alone(TOPIC, 3, 13)
    with pytest.raises(KilledItsProcess, match="2 times in a row"):
        record.enter_alone(TOPIC, 3, 12)


def test_deaths_by_other_hands_need_more_of_them(tmp_path: Path) -> None:
    die(tmp_path, BY_OTHERS, 10, 10, 20)
    for _ in range(DEATHS - 1):
        die(tmp_path, BY_OTHERS, 12, 10, 11, 12)
    with pytest.raises(KilledItsProcess):
        start(tmp_path).enter_alone(TOPIC, 3, 12)


def test_two_deaths_by_other_hands_are_nobody_s_fault(tmp_path: Path) -> None:
    die(tmp_path, BY_OTHERS, 10, 10, 20)
    die(tmp_path, BY_OTHERS, 12, 10, 11, 12)
    start(tmp_path).enter_alone(TOPIC, 3, 12)


def test_another_record_s_death_in_between_clears_it(tmp_path: Path) -> None:
    die(tmp_path, BY_ITSELF, 12, 12)
    die(tmp_path, BY_ITSELF, 30, 30)
    die(tmp_path, BY_ITSELF, 12, 12)
    start(tmp_path).enter_alone(TOPIC, 3, 12)
