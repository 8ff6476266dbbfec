"""The optional engine: a tiny CTC model, built here, is loaded from its directory by onnx-asr itself."""

import builtins
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from processors.asr import Config, build
from schemas.errors import CalltideError
from schemas.events import Turn
from tests.unit.stage_records import call, event_of, record, run, utterance

onnx = pytest.importorskip("onnx", reason="builds the model of this test: pip install onnx")
pytest.importorskip("onnx_asr", reason="the optional engine: pip install -e '.[onnx-asr]'")

from processors.models.onnx_asr import OnnxAsr  # noqa: E402

RATE = 16_000
VOCABULARY = ("▁low", "▁hi", "gh", "<blk>")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NeMo-style CTC model that hears a low tone as "low" and a high one as "high", and nothing else."""
    folder = tmp_path_factory.mktemp("tones")
    from onnx import TensorProto, helper, numpy_helper

    weights = np.zeros((80, len(VOCABULARY)), np.float32)
    weights[5:14, 0] = 1.0  # mel bands round 400 Hz
    weights[45:55, 1] = 0.4  # … and round 2 kHz, where the second half of the word comes with the third band
    weights[60:70, 2] = 1.0
    bias = np.array([0, 0, 0, 6.0], np.float32)
    shape: dict[str, Sequence[Any]] = {"audio_signal": ["B", 80, "T"], "length": ["B"], "logprobs": ["B", "S", 4]}
    constants = {"weights": weights, "bias": bias, "from": [0], "to": [2**31 - 1], "axis": [1], "step": [8]}
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["audio_signal"], ["frames"], perm=[0, 2, 1]),
            helper.make_node("Slice", ["frames", "from", "to", "axis", "step"], ["eighths"]),
            helper.make_node("MatMul", ["eighths", "weights"], ["logits"]),
            helper.make_node("Add", ["logits", "bias"], ["shifted"]),
            helper.make_node("LogSoftmax", ["shifted"], ["logprobs"], axis=-1),
        ],
        "tones",
        [
            helper.make_tensor_value_info("audio_signal", TensorProto.FLOAT, shape["audio_signal"]),
            helper.make_tensor_value_info("length", TensorProto.INT64, shape["length"]),
        ],
        [helper.make_tensor_value_info("logprobs", TensorProto.FLOAT, shape["logprobs"])],
        [
            numpy_helper.from_array(np.asarray(value, getattr(value, "dtype", np.int64)), name)
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    (folder / "vocab.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(VOCABULARY)))
    (folder / "config.json").write_text(json.dumps({"model_type": "nemo-conformer-ctc", "features_size": 80}))
    return folder


def tones(*hz: float) -> NDArray[np.float32]:
    """Half a second of each tone, half a second of silence before and behind."""
    time = np.arange(RATE // 2) / RATE
    parts = [
        np.zeros(len(time)),
        *(np.sin(2 * np.pi * frequency * time) * 0.3 for frequency in hz),
        np.zeros(len(time)),
    ]
    return np.concatenate(parts).astype(np.float32)


def test_words_times_and_confidences_come_from_the_model(directory: Path) -> None:
    low, high = OnnxAsr(str(directory)).transcribe([tones(400), tones(4_500)])
    assert (low.text, [word.text for word in low.words]) == ("low", ["low"])
    assert low.words[0].start_s == pytest.approx(0.5, abs=0.1)
    assert 0.5 < low.words[0].confidence <= 1 and 0.5 < low.confidence <= 1
    assert (low.language, low.rejected) == ("und", None)
    assert high.text == "gh"


def test_pieces_of_a_word_are_put_together() -> None:
    from onnx_asr.asr import TimestampedResult

    from processors.models.onnx_asr import _words

    result = TimestampedResult(
        "low high", [0.1, 0.4, 0.5], [" low", " hi", "gh"], [math.log(0.5), math.log(0.9), math.log(0.4)]
    )
    low, high = _words(result, 0.8)
    assert (low.text, low.start_s, low.end_s, low.confidence) == ("low", 0.1, 0.4, 0.5)
    assert (high.text, high.start_s, high.end_s, high.confidence) == ("high", 0.4, 0.8, 0.6)
    assert _words(TimestampedResult("low"), 1.0) == ()


def test_a_result_is_the_same_in_any_company(directory: Path) -> None:
    model = OnnxAsr(str(directory))
    audio = [tones(400), np.zeros(0, np.float32), tones(4_500, 400), tones(400)[:900]]
    alone = [model.transcribe([samples])[0] for samples in audio]
    assert model.transcribe(audio) == alone
    assert (alone[1].text, alone[1].rejected) == ("", "no_words")


def test_the_stage_runs_it(directory: Path) -> None:
    config = Config.model_validate({"engine": "onnx-asr", "model": str(directory), "language": "en"})
    turn = record(utterance(Turn, call(), 5_000, 1_500), tones(400))
    (written,) = run("asr", build(config, "test"), [turn])[0]
    transcript = event_of(written)
    assert (transcript.text, transcript.language) == ("low", "en")
    assert transcript.asr_model.startswith("onnx-asr-") and transcript.asr_model.endswith("-en")


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CalltideError, match=r"cannot be loaded by onnx-asr .*config\.json") as caught:
        OnnxAsr(str(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(CalltideError, match="no hotwords"):
        OnnxAsr.transcribe(OnnxAsr.__new__(OnnxAsr), [tones()], ["Acme"])
    for given in ({"prompt": "Hello."}, {"hotwords": {"acme": "Zybrotron"}}):
        with pytest.raises(CalltideError, match="HOTWORDS.*takes neither"):
            build(Config.model_validate({"engine": "onnx-asr", "model": str(tmp_path), **given}), "test")
    real = builtins.__import__

    def absent(name: str, *rest: Any, **named: Any) -> Any:
        if name == "onnx_asr":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(CalltideError, match=r"not installed; run `.venv/bin/pip install -e '\.\[onnx-asr\]'`"):
        OnnxAsr("nemo-parakeet-tdt-0.6b-v3")
