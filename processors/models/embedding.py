"""What a sentence means, as a vector: all-MiniLM-L6-v2 (Reimers & Gurevych 2019; Wang et al. 2020) on the CPU.

Vectors of sentences that mean alike point the same way. It is the published encoder, not the one of
`processors.models.sentiment`, which was trained on until its vectors tell good from bad.

The one thing a changer must know: each text runs through the network alone and unpadded, so that its vector is the same
bit for bit whatever is asked beside it. `minilm-sentences.onnx` reads its embedding tables from `minilm.onnx` beside it
(training/convert_embedding.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from processors.models.onnx_session import WEIGHTS, open_session
from processors.models.sentiment import ENCODER_FILE as TABLES_FILE
from processors.models.sentiment import TOKENIZER_FILE, straight
from schemas.errors import CalltideError

ENCODER_FILE: Final = "minilm-sentences.onnx"
MODEL_ID: Final = "all-minilm-l6-v2"
DIM: Final = 384
MAX_TOKENS: Final = 256
"""As published: about 190 words; what comes behind them is not read."""
CACHED: Final = 4_096
"""Texts whose vectors are kept, the latest: 6 MB. Judgement: the glossaries, and the openings that all calls share."""

Vectors = npt.NDArray[np.float32]


class SentenceModel(Protocol):
    """Makes vectors of sentences, each for itself."""

    id: str

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, d], each row of length 1."""
        ...


class Embedder:
    """Sentences to vectors. `folder` is where the weights lie; without it, the committed ones are taken.

    Raises CalltideError when a file is missing.
    """

    id: str = MODEL_ID

    def __init__(self, folder: Path = WEIGHTS, threads: int = 1) -> None:
        for name in (TABLES_FILE, TOKENIZER_FILE):
            if not (folder / name).is_file():
                raise CalltideError(f"{folder / name} is missing; restore it with `git checkout -- {WEIGHTS}`")
        self._session = open_session(folder / ENCODER_FILE, threads)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._cache: dict[str, Vectors] = {}

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, DIM], each row of length 1: the dot product of two is their cosine similarity."""
        vectors = np.empty((len(texts), DIM), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._one(text)
        return vectors

    def tokens(self, text: str) -> list[int]:
        """The token ids that the network reads of a text."""
        ids: list[int] = self._tokenizer.encode(straight(text)).ids
        return ids

    def _one(self, text: str) -> Vectors:
        vector = self._cache.pop(text, None)
        if vector is None:
            mean = self._session.run(None, {"ids": np.array([self.tokens(text)], np.int64)})[0][0]
            vector = (mean / np.linalg.norm(mean)).astype(np.float32)
            if len(self._cache) >= CACHED:
                del self._cache[next(iter(self._cache))]
        self._cache[text] = vector  # at the end: the first is the one that was asked for longest ago
        return vector
