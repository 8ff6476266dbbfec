"""Recordings kept on request."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from streams.ingestion.metrics import UNSAVED
from streams.ingestion.recordings import Recording
from streams.protocols.base import Audio, Began, Event

SOUND = np.random.default_rng(5).integers(-32_768, 32_767, 16_000, dtype="<i2")


def kept(folder: Path, call_id: str = "call-1", rate: int = 16_000) -> Path:
    """A second of sound, in ten messages, kept."""
    recording = Recording(folder)
    events: list[Event] = [Began(call_id, ("unknown",), "pcm_s16le", rate)]
    for block in np.split(SOUND, 10):
        recording.take([*events, Audio(0, block.tobytes())])
        events = []
    recording.close()
    recording.close()
    assert recording.path is not None
    return recording.path


def test_what_came_is_kept_bit_for_bit(tmp_path: Path) -> None:
    sound, rate = soundfile.read(kept(tmp_path / "recordings", rate=44_100), dtype="int16")
    assert rate == 44_100 and (sound == SOUND).all()


def test_a_call_that_goes_on_does_not_replace_what_is_there(tmp_path: Path) -> None:
    assert kept(tmp_path) != kept(tmp_path)
    assert all(path.name.startswith("call-1") for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", "ä" * 200, "x" * 200, "a\\b", "con:"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    path = kept(tmp_path / "recordings", name)
    assert path.resolve().parent == tmp_path / "recordings"
    assert [path.name for path in tmp_path.iterdir()] == ["recordings"]


def test_a_recording_that_cannot_be_kept_is_counted_and_the_call_goes_on(tmp_path: Path) -> None:
    (tmp_path / "recordings").write_text("a file where the folder should be")
    recording = Recording(tmp_path / "recordings")
    before = UNSAVED._value.get()
    recording.take([Began("call-1", ("unknown",), "pcm_s16le", 16_000), Audio(0, b"\0\0")])
    recording.take([Audio(0, b"\0\0")])
    recording.close()
    assert UNSAVED._value.get() == before + 1
