"""Sentence embeddings: like meanings lie close, and a text's numbers are its own."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from processors.models.embedding import DIM, ENCODER_FILE, MAX_TOKENS, Embedder
from processors.models.onnx_session import WEIGHTS
from schemas.errors import CalltideError

TEXTS = ("I want to cancel my contract.", "Please terminate my subscription.", "The sky is blue over the lake today.")

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


def test_like_meanings_lie_close(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (3, DIM) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    likeness = vectors @ vectors.T
    # What the published encoder gives in float32 (training.convert_minilm.embed).
    assert [likeness[0, 1], likeness[0, 2], likeness[1, 2]] == pytest.approx([0.4967, 0.0051, 0.0348], abs=0.01)


def test_a_vector_does_not_depend_on_its_neighbours(embedder: Embedder) -> None:
    together = embedder.embed(TEXTS)
    fresh = Embedder()
    alone = np.concatenate([fresh.embed([text]) for text in reversed(TEXTS)])[::-1]
    assert together.tobytes() == alone.tobytes()
    assert embedder.embed(TEXTS).tobytes() == together.tobytes()  # from the cache
    assert embedder.embed([]).shape == (0, DIM)


def test_a_long_text_is_read_up_to_its_limit(embedder: Embedder) -> None:
    assert len(embedder.tokens("word " * 1_000)) == MAX_TOKENS
    assert np.isfinite(embedder.embed(["word " * 1_000, "", "…"])).all()


def test_the_tables_are_those_that_the_file_was_made_for() -> None:
    [entry] = [e for e in json.loads((WEIGHTS / "MANIFEST.json").read_text("utf-8")) if e["file"] == ENCODER_FILE]
    for name, expected in entry["needs"].items():
        assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == expected, (
            "run training.convert_embedding again"
        )


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    shutil.copy(WEIGHTS / ENCODER_FILE, tmp_path)
    with pytest.raises(CalltideError, match=r"minilm\.onnx is missing; restore it"):
        Embedder(tmp_path)
