"""The converted segmentation model: frames, who speaks in them, and that a stretch is heard alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from processors.models.segmentation import PyannoteSegmentation
from schemas.errors import CalltideError

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def model() -> PyannoteSegmentation:
    return PyannoteSegmentation()


def two_voices(test_data: Path) -> NDArray[np.float32]:
    """Three seconds of one speaker and three of another, the middle second of the five both at once."""
    turns = json.loads((test_data / "calls/made/made-00.json").read_text())
    samples, rate = soundfile.read(test_data / "calls/made/made-00.flac", dtype="float32")
    one, other = (
        samples[round((turn["start"] + 1) * rate) : round((turn["start"] + 4) * rate)]
        for speaker in ("1688", "2033")
        for turn in [max((t for t in turns if t["speaker"] == speaker), key=lambda t: t["end"] - t["start"])]
    )
    sound = np.zeros(5 * rate, np.float32)
    sound[: 3 * rate] += one
    sound[2 * rate :] += other
    return sound


def test_a_change_of_speaker_and_an_overlap_are_found(model: PyannoteSegmentation, test_data: Path) -> None:
    sound = two_voices(test_data)
    active = model.voices([sound])[0]
    assert active.shape == ((len(sound) - model.field) // model.step + 1, 3)
    times = (np.arange(len(active)) * model.step + model.field / 2) / 16_000
    first, both, second = (active[(times > start) & (times < end)] for start, end in [(0, 1.8), (2, 3), (3.2, 5)])
    one, other = first.sum(0).argmax(), second.sum(0).argmax()
    assert one != other
    assert first[:, one].mean() > 0.8
    assert second[:, other].mean() > 0.5, "he pauses"
    assert both[:, [one, other]].all(1).mean() > 0.4
    assert max((first.sum(1) > 1).mean(), (second.sum(1) > 1).mean()) < 0.1


def test_what_a_stretch_gives_does_not_depend_on_the_others(model: PyannoteSegmentation, test_data: Path) -> None:
    sound = two_voices(test_data)
    stretches = [sound, sound[: model.field], sound[8_000:60_000], np.zeros(5_000, np.float32)]
    together = model.voices(stretches)
    for stretch, active in zip(stretches, together, strict=True):
        assert np.array_equal(active, model.voices([stretch])[0])
    assert len(together[1]) == 1
    assert not together[3].any(), "nobody speaks in silence"


def test_a_stretch_must_be_long_enough(model: PyannoteSegmentation) -> None:
    assert model.voices([]) == []
    with pytest.raises(ValueError, match="at least 991 samples"):
        model.voices([np.zeros(990, np.float32)])


def test_missing_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(CalltideError, match="is missing"):
        PyannoteSegmentation(tmp_path / "segmentation.onnx")
