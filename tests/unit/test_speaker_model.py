"""CAM++ on a real telephone conversation: two people, separated by their reference turns."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from processors.models.speaker import RATE, CamPlusPlus
from schemas.errors import CalltideError

pytestmark = pytest.mark.models

Audio = NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> CamPlusPlus:
    return CamPlusPlus()


@pytest.fixture(scope="module")
def turns() -> dict[str, list[Audio]]:
    """The turns of at least 2 s of both speakers of the sample that comes with pyannote.audio."""
    try:
        folder = importlib.metadata.distribution("pyannote.audio").locate_file("pyannote/audio/sample")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pyannote.audio, whose sample recording is needed, is not installed; run make install")
    samples, rate = soundfile.read(Path(str(folder)) / "sample.wav", dtype="float32")
    assert rate == RATE
    found: dict[str, list[Audio]] = {}
    for line in (Path(str(folder)) / "sample.rttm").read_text().splitlines():
        start, length, speaker = (line.split()[column] for column in (3, 4, 7))
        if float(length) >= 2:
            first = int(float(start) * RATE)
            found.setdefault(speaker, []).append(samples[first : first + int(float(length) * RATE)])
    assert len(found) == 2
    return found


def test_embeddings_are_unit_vectors(model: CamPlusPlus, turns: dict[str, list[Audio]]) -> None:
    embeddings = model.embed([turn for own in turns.values() for turn in own])
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (sum(map(len, turns.values())), model.dim)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_a_voice_is_nearer_to_itself_than_to_the_other(model: CamPlusPlus, turns: dict[str, list[Audio]]) -> None:
    ours, theirs = (model.embed(own) for own in turns.values())
    same = [cosine for own in (ours, theirs) for cosine in (own @ own.T)[np.triu_indices(len(own), 1)]]
    other = (ours @ theirs.T).ravel()
    assert min(same) > max(other), (sorted(same), sorted(other))
    assert np.mean(same) > np.mean(other) + 0.2


def test_neither_neighbours_nor_repetition_change_a_bit(model: CamPlusPlus, turns: dict[str, list[Audio]]) -> None:
    pieces = [turn for own in turns.values() for turn in own][:4]
    together = model.embed(pieces)
    np.testing.assert_array_equal(together, np.concatenate([model.embed([piece]) for piece in pieces]))
    np.testing.assert_array_equal(together, model.embed(pieces[::-1])[::-1])
    np.testing.assert_array_equal(together, CamPlusPlus().embed(pieces))


@pytest.mark.parametrize("samples", [1, 399, 1600, 16_000 * 15])
def test_any_length_has_an_embedding(model: CamPlusPlus, samples: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    embedding = model.embed([noise])
    assert np.isfinite(embedding).all()
    assert np.linalg.norm(embedding) == pytest.approx(1, rel=1e-5)


def test_silence_has_an_embedding(model: CamPlusPlus) -> None:
    assert np.isfinite(model.embed([np.zeros(RATE, np.float32)])).all()


def test_no_audio(model: CamPlusPlus) -> None:
    nothing: Sequence[Audio] = []
    assert model.embed(nothing).shape == (0, model.dim)
    with pytest.raises(ValueError, match="empty"):
        model.embed([np.empty(0, np.float32)])


def test_weights_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(CalltideError, match="missing"):
        CamPlusPlus(tmp_path / "nothing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(CalltideError, match="cannot be loaded"):
        CamPlusPlus(tmp_path / "broken.onnx")
