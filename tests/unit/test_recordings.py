"""Recordings kept on request."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from streams.ingestion.recordings import FAILED, Recording

SOUND = np.random.default_rng(5).integers(-32_768, 32_767, 16_000, dtype="<i2")


def test_what_was_written_is_kept_bit_for_bit(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "recordings", "call-1", 16_000)
    for block in np.split(SOUND, 10):
        recording.write(block.tobytes())
    recording.close()
    recording.close()
    recording.write(b"\0\0")
    assert recording.path == tmp_path / "recordings" / "call-1.flac"
    sound, rate = soundfile.read(recording.path, dtype="int16")
    assert rate == 16_000 and (sound == SOUND).all()


def test_a_call_that_goes_on_does_not_replace_what_is_there(tmp_path: Path) -> None:
    for _ in range(2):
        recording = Recording(tmp_path, "call-1", 16_000)
        recording.write(SOUND.tobytes())
        recording.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["call-1.2.flac", "call-1.flac"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", "", "ä" * 200, "x" * 200, "a\\b", "con:"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "recordings"
    recording = Recording(folder, name, 16_000)
    recording.close()
    assert recording.path is not None and recording.path.resolve().parent == folder
    assert len(recording.path.name) < 100
    assert [path.name for path in tmp_path.iterdir()] == ["recordings"]


def test_names_that_differ_only_in_what_a_file_cannot_hold_are_two(tmp_path: Path) -> None:
    paths = {Recording(tmp_path, name, 16_000).path for name in ("a/b", "a:b", "a-b")}
    assert len(paths) == 3


def test_what_cannot_be_written_is_counted_and_the_call_goes_on(tmp_path: Path) -> None:
    (tmp_path / "recordings").write_text("a file where the folder should be")
    before = FAILED._value.get()
    recording = Recording(tmp_path / "recordings", "call-1", 16_000)
    recording.write(b"\0\0")
    recording.close()
    assert FAILED._value.get() == before + 1
