"""What people read when a production model cannot be loaded: one line, and in it what to do."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from processors.models.hub import load_emotion, load_sentiment, not_loaded
from processors.models.speechbrain_models import load_embedder
from schemas.errors import CalltideError

LOADERS = {"emotion": load_emotion, "sentiment": load_sentiment}


def said(load: Any, *arguments: Any) -> str:
    with pytest.raises(CalltideError) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("stage", LOADERS)
def test_without_the_extra(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    words = said(LOADERS[stage], "owner/model", "cpu", 1)
    assert words.startswith(f"{stage}: the model owner/model needs transformers")
    assert "`.venv/bin/pip install -e '.[torch]'`" in words


@pytest.mark.parametrize("load", [*LOADERS.values(), load_embedder])
def test_a_name_that_is_no_model_is_told_before_the_extra_is_missed(
    load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("transformers", "speechbrain"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "there is no directory ./mine; name one" in said(load, "./mine", "cpu")
    assert f"the directory {tmp_path} has no" in said(load, str(tmp_path), "cpu")


def test_without_speechbrain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "speechbrain"] or ["speechbrain"]:
        monkeypatch.setitem(sys.modules, name, None)
    for words in (
        said(load_embedder, "speechbrain/spkrec-ecapa-voxceleb", "cpu"),
        said(load_emotion, "speechbrain/emotion-recognition-wav2vec2-IEMOCAP", "cpu", 1),
    ):
        assert "needs speechbrain" in words
        assert "pip install" in words


def test_packages_that_do_not_fit_each_other(tiny: Any) -> None:
    """As transformers raises it when it imports a network and torchaudio was built for another CUDA than torch."""
    try:
        try:
            raise RuntimeError("PyTorch and TorchAudio were compiled with different CUDA versions.")
        except RuntimeError as error:
            raise ModuleNotFoundError("Could not import module 'Wav2Vec2ForSequenceClassification'.") from error
    except ModuleNotFoundError as error:
        words = str(not_loaded("emotion", "/a/directory", error))
    assert "do not fit each other (PyTorch and TorchAudio were compiled" in words
    assert "pip install -e '.[torch]'" in words


@pytest.mark.parametrize("model", ["/no/such/folder", "./models/hubert", "~/hubert", "hubert", "a/b/c", "models/"])
def test_a_directory_that_is_not_there(model: str, tiny: Any) -> None:
    words = said(load_emotion, model, "cpu", 1)
    assert words == (
        f"CALLTIDE_EMOTION__MODEL: there is no directory {model}; name one with config.json, "
        "a hub id such as owner/name, or one made by `calltide train emotion`, or packaged"
    )


def test_a_directory_with_something_else(tiny: Any, tmp_path: Path) -> None:
    words = said(load_sentiment, str(tmp_path), "cpu", 1)
    assert words == (
        f"CALLTIDE_SENTIMENT__MODEL: the directory {tmp_path} has no config.json; name one that has, "
        "or one made by `calltide train sentiment`, or packaged"
    )


def test_a_copy_that_is_not_whole(tiny: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.roberta, tmp_path / "copy")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "check that the copy is whole" in said(load_sentiment, str(folder), "cpu", 1)
    weights.unlink()
    assert "check that the copy is whole" in said(load_sentiment, str(folder), "cpu", 1)


@pytest.mark.parametrize("stage", LOADERS)
def test_without_network(stage: str, tiny: Any, no_network: None) -> None:
    words = said(LOADERS[stage], "owner/model", "cpu", 1)
    assert "hub cannot be reached" in words
    assert (
        f"`hf download owner/model --local-dir DIR`, bring DIR here, and set CALLTIDE_{stage.upper()}__MODEL=DIR"
        in words
    )


def test_offline_by_choice(tiny: Any, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "`hf download owner/model --local-dir DIR`" in said(load_emotion, "owner/model", "cpu", 1)


def test_a_model_that_the_hub_does_not_have(tiny: Any, refusing_hub: Any) -> None:
    words = said(load_emotion, "owner/modle", "cpu", 1)
    assert "owner/modle is neither a directory nor on the hub; check its name" in words


def test_a_model_that_must_be_asked_for(tiny: Any, refusing_hub: Any) -> None:
    refusing_hub.status, refusing_hub.code = 403, "GatedRepo"
    words = said(load_sentiment, "owner/model", "cpu", 1)
    assert "given out on request" in words
    assert "`hf auth login`" in words


def test_a_repository_of_another_kind(tiny: Any, refusing_hub: Any) -> None:
    refusing_hub.code = "EntryNotFound"
    words = said(load_sentiment, "owner/data", "cpu", 1)
    assert "owner/data" in words and "take another" in words


def test_a_gpu_that_is_not_there(tiny: Any) -> None:
    import torch

    absent = f"cuda:{torch.cuda.device_count()}"
    words = said(load_emotion, str(tiny.hubert), absent, 1)
    assert words.startswith(f"CALLTIDE_EMOTION__DEVICE is {absent}, but PyTorch")
    assert "CALLTIDE_EMOTION__DEVICE=cpu" in words
    assert "allowed are auto, cpu, cuda" in said(load_emotion, str(tiny.hubert), "gpu", 1)


def test_speechbrain_without_network(speechbrain: None, tiny: Any, no_network: None) -> None:
    words = said(load_embedder, "speechbrain/spkrec-ecapa-voxceleb", "cpu")
    assert "`hf download speechbrain/spkrec-ecapa-voxceleb --local-dir DIR`" in words
    assert "CALLTIDE_DIARIZATION__EMBEDDER=DIR" in words
    assert "hub cannot be reached" in said(load_emotion, "speechbrain/emotion-recognition", "cpu", 1)


def test_a_speechbrain_model_that_the_hub_does_not_have(speechbrain: None, tiny: Any, refusing_hub: Any) -> None:
    assert "neither a directory nor on the hub" in said(load_embedder, "speechbrain/nothing", "cpu")


def test_speechbrain_from_anywhere_else(speechbrain: None, tiny: Any, tmp_path: Path) -> None:
    assert "read that code" in said(load_embedder, "owner/ecapa", "cpu")
    assert "has no hyperparams.yaml" in said(load_embedder, str(tmp_path), "cpu")
    assert "there is no directory" in said(load_embedder, "/no/such/folder", "cpu")
