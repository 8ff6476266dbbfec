"""A head of one's own, from clips that anybody can make: what is read, what comes out, and that the stage takes it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from processors.emotion import Config, VoiceEmotion, build
from processors.models.emotion import EMOTIONS, RATE, onto_six
from schemas.errors import CalltideError
from streams.training import emotion
from streams.training.emotion import Clip, balance, fit, principal_directions, read_clips, train_emotion

Audio = NDArray[np.float32]


def voice(kind: str, seed: int) -> Audio:
    """Half a second that an encoder can tell apart: anger flutters high, disgust buzzes low, calm is a hiss."""
    generator, time = np.random.default_rng(seed), np.arange(RATE // 2) / RATE
    pitch = {"anger": 300.0, "disgust": 100.0, "calm": 0.0}[kind] * generator.uniform(0.9, 1.1)
    tone = np.sign(np.sin(2 * np.pi * pitch * time)) * (1 + np.sin(2 * np.pi * 8 * time) * (kind == "anger"))
    return np.asarray(0.05 * tone + generator.normal(0, 0.01, len(time)), np.float32)


def write(data: Path, speakers: int = 4, clips: int = 2) -> None:
    for speaker in range(speakers):
        for number, kind in enumerate(("anger", "disgust", "calm")):
            folder = data / kind / f"speaker-{speaker}"
            folder.mkdir(parents=True)
            for clip in range(clips):
                seed = 100 * speaker + 10 * number + clip
                soundfile.write(folder / f"{clip}.wav", voice(kind, seed), RATE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    pytest.importorskip("onnx", reason="the package onnx (the extra train) is not installed")
    folder = tmp_path_factory.mktemp("custom")
    write(folder / "data")
    said: list[str] = []
    train_emotion(folder / "data", folder / "head", say=said.append)
    return folder / "head", said


def test_the_stage_takes_the_directory(trained: tuple[Path, list[str]]) -> None:
    head, said = trained
    stage = build(Config(model=str(head), acoustics=False), "test")
    assert isinstance(stage, VoiceEmotion)
    model = stage._model
    assert model is not None
    assert model.id == "custom-head"
    assert model.labels == EMOTIONS
    rows = model.predict([voice("anger", 900), voice("calm", 901)])
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
    assert [EMOTIONS[i] for i in rows.argmax(1)] == ["anger", "neutral"], "calm counts as neutral"
    assert not rows[:, [EMOTIONS.index("happiness"), EMOTIONS.index("fear")]].any(), "classes it has not learned"
    assert f"CALLTIDE_EMOTION__MODEL={head}" in said[-1]


def test_a_setting_says_what_disgust_counts_as(trained: tuple[Path, list[str]]) -> None:
    stage = build(Config(model=str(trained[0]), meant_as={"disgust": "fear"}, acoustics=False), "test")
    assert isinstance(stage, VoiceEmotion)
    assert stage._model is not None
    assert EMOTIONS[int(stage._model.predict([voice("disgust", 902)]).argmax())] == "fear"


def test_the_card_tells_what_was_held_out(trained: tuple[Path, list[str]]) -> None:
    card = json.loads((trained[0] / "card.json").read_text())
    assert card["trained_on"]["clips"] == {"anger": 8, "calm": 8, "disgust": 8}
    assert card["trained_on"]["speakers"] == 4
    assert card["trained_on"]["split"] == "by speaker: train 12, validation 6, test 6"
    assert card["held_out"]["wide"]["examples"] == 6
    assert card["held_out"]["wide"]["unweighted_accuracy"] > 1 / 3
    assert "| condition |" in (trained[0] / "README.md").read_text()


def test_the_same_clips_give_the_same_bytes(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    head = trained[0]
    train_emotion(head.parent / "data", tmp_path / "head", say=lambda _: None)
    assert (tmp_path / "head" / "emotion.onnx").read_bytes() == (head / "emotion.onnx").read_bytes()


def test_clips_of_an_index_and_of_folders(tmp_path: Path) -> None:
    write(tmp_path, speakers=1, clips=1)
    assert read_clips(tmp_path) == [
        Clip(tmp_path / kind / "speaker-0" / "0.wav", kind, "speaker-0") for kind in ("anger", "calm", "disgust")
    ]
    row = {"file": "anger/speaker-0/0.wav", "emotion": "Angry", "text": "ignored"}
    (tmp_path / "index.jsonl").write_text(json.dumps(row))
    assert read_clips(tmp_path) == [Clip(tmp_path / "anger" / "speaker-0" / "0.wav", "anger")]


def test_an_index_as_windows_and_other_programs_write_it(tmp_path: Path) -> None:
    write(tmp_path, speakers=1, clips=2)
    rows = ({"file": f"anger/speaker-0/{number}.wav", "emotion": "anger", "speaker": number} for number in (0, 1))
    (tmp_path / "index.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(row).encode() for row in rows))
    assert [clip.speaker for clip in read_clips(tmp_path)] == ["0", "1"]
    (tmp_path / "index.jsonl").write_bytes('{"speaker": "é"}'.encode("latin-1"))
    with pytest.raises(CalltideError, match="not UTF-8"):
        read_clips(tmp_path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"file": "a.wav", "emotion": "rage"}', "line 1: unknown emotion 'rage'; known are neutral"),
        ('{"file": "a.wav"}', "line 1 is not as expected"),
        ('{"file": "a.wav", "emotion": "anger"}', "which is missing"),
        ("nonsense", "line 1 is not as expected"),
        (2 * '{"file": "index.jsonl", "emotion": "anger"}\n', "line 2 names .* as line 1 does; take one"),
        ("", "no clips in"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "index.jsonl").write_text(line)
    with pytest.raises(CalltideError, match=told):
        read_clips(tmp_path)
    with pytest.raises(CalltideError, match="no directory"):
        read_clips(tmp_path / "nowhere")


def test_a_broken_recording_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the package onnx (the extra train) is not installed")
    write(tmp_path)
    broken = tmp_path / "anger" / "speaker-0" / "0.wav"
    broken.write_bytes(b"no audio")
    with pytest.raises(CalltideError, match=r"0\.wav"):
        train_emotion(tmp_path, tmp_path / "head")
    assert not (tmp_path / "head").exists()


def test_what_is_missing_is_said_before_anything_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CalltideError, match=r"pip install 'calltide\[train\]'"):
        train_emotion(tmp_path, tmp_path / "head")


def test_a_class_that_the_six_do_not_know() -> None:
    assert onto_six(("anger", "boredom"), {"boredom": "sadness"})[1].tolist() == [0, 0, 1, 0, 0, 0]
    assert onto_six(("frustration",), {"frustration": "anger"})[0, EMOTIONS.index("anger")] == 1
    with pytest.raises(CalltideError, match=r"class frustration; say in emotion\.meant_as"):
        onto_six(("anger", "frustration"), {})


def test_rare_classes_weigh_as_much_as_frequent_ones() -> None:
    label = np.array([0] * 9 + [2], np.intp)
    weight = balance(label, 3)
    assert (weight * np.bincount(label, minlength=3)).tolist() == pytest.approx([5, 0, 5])


def test_principal_directions_are_those_of_the_spread() -> None:
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(200, 3)) @ generator.normal(size=(3, 30)) + 5).astype(np.float32)
    mean, directions = principal_directions(x, 3)
    reduced = (x - mean) @ directions
    assert reduced.std() == pytest.approx(1, rel=1e-4)
    back = reduced @ np.linalg.lstsq(reduced, x - mean, rcond=None)[0]
    np.testing.assert_allclose(back, x - mean, atol=1e-3)


def test_a_net_learns_what_is_no_straight_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emotion, "NETS", 1)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(600, 1, 6)).astype(np.float32)
    label = (x[:, 0, 0] * x[:, 0, 1] > 0).astype(np.intp)
    head = fit(("a", "b"), x[:500], label[:500], (x[500:], label[500:]))
    assert (head.logits(x[500:, 0]).argmax(1) == label[500:]).mean() > 0.7, "a linear one finds half"
