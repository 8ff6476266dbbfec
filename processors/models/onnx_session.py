"""Opening an ONNX file so that its results are the same bit for bit, whenever and beside whatever they are computed.

A changer must know: one thread a session is both the fastest use of a machine that runs many workers and a condition of
reproducible sums; and sessions are fed one item at a time, because a batched matrix product may add up in another order
than a single one. Where a model takes several, a test holds that it does not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime

from schemas.errors import CalltideError

if TYPE_CHECKING:
    import onnx

WEIGHTS = Path(__file__).parent / "weights"


def open_session(
    path: Path, threads: int = 1, change: Callable[["onnx.ModelProto"], None] | None = None
) -> onnxruntime.InferenceSession:
    """A CPU session on the ONNX file `path`, after what `change` does to its graph.

    Raises CalltideError when the file is missing or not a model.
    """
    if not path.is_file():
        raise CalltideError(f"the model file {path} is missing; restore it (git checkout, or see training/README.md)")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that spins while it waits takes the core from the other stages.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        source: Path | bytes = path
        if change is not None:
            import onnx

            model = onnx.load(path)
            change(model)
            source = model.SerializeToString()
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise CalltideError(f"the model file {path} cannot be loaded ({error}); restore it (git checkout)") from error
