"""Manifests of users, right and wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from schemas.errors import CalltideError
from streams.evaluation import manifest
from streams.evaluation.manifest import Call, Clip, Text


def recording(path: Path) -> Path:
    soundfile.write(path, np.zeros(1_600, np.float32), 16_000)
    return path


def lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_a_directory_is_its_pairs_and_its_jsonl(tmp_path: Path) -> None:
    for name in ("one", "two"):
        recording(tmp_path / f"{name}.wav")
        (tmp_path / f"{name}.json").write_text('[{"start": 0, "end": 1, "speaker": "a", "text": "hi", "source": "x"}]')
    (tmp_path / "notes.json").write_text("{}")
    recording(tmp_path / "clip.flac")
    lines(
        tmp_path / "mixed.jsonl",
        {"file": "clip.flac", "emotion": "calm", "speaker": "s"},
        {"file": "clip.flac", "emotion": "disgust"},
        {"file": "clip.flac", "turns": "one.json", "roles": ["customer"]},
        {"text": "fine", "sentiment": 0.5},
    )
    clips, pairs = manifest.read([tmp_path])
    assert (pairs.name, [type(item) for item in pairs.items]) == (tmp_path.name, [Call, Call])
    assert [type(item) for item in clips.items] == [Clip, Call, Text]
    assert clips.left_out == {"disgust": 1}
    call = clips.items[1]
    assert isinstance(call, Call) and call.file == tmp_path / "clip.flac" and [t.text for t in call.spoken] == ["hi"]


def test_a_transcript_counts_in_place_of_the_turns_texts() -> None:
    call = Call.model_validate(
        {"file": "x", "turns": [{"start": 0, "end": 1, "text": "a"}], "transcript": [{"text": "b"}, {"text": "c"}]}
    )
    assert [turn.text for turn in call.spoken] == ["b", "c"]


@pytest.mark.parametrize(
    ("number", "label"), [(-0.2, "negative"), (0.125, "neutral"), (-0.125, "neutral"), (0.13, "positive")]
)
def test_a_number_is_neutral_near_zero(number: float, label: str) -> None:
    assert manifest.sentiment_of(number) == (label, number)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "line 2 is no JSON"),
        ([], "line 2 is no JSON object"),
        ({"speaker": "a"}, "line 2 holds nothing to compare"),
        ({"file": "absent.wav", "emotion": "fear"}, "line 2: no file"),
        ({"text": "x", "sentiment": "good"}, "line 2: sentiment"),
        ({"text": "x", "sentiment": 2}, "line 2: sentiment: 2 is none of negative, neutral, positive, nor a number"),
        ({"file": "a.wav", "emotion": "rage"}, "unknown emotion 'rage'"),
        ({"file": "a.wav", "turns": [{"start": 2, "end": 1}]}, "turn 0 has no start before its end"),
        ({"file": "a.wav", "turns": [{"start": 2}]}, "turn 0 has no start before its end"),
        ({"file": "a.wav", "turns": {"start": 2}}, "is no list of turns"),
        ({"file": "a.wav", "turns": "absent.json"}, "cannot be read"),
        ({"file": "a.wav", "turns": [{"role": "boss"}]}, "0.role"),
        ({"file": "a.wav", "turns": [{"text": "hi"}, {"speaker": "b"}]}, "turn 1 has no text and others have"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, row: object, complaint: str) -> None:
    recording(tmp_path / "a.wav")
    path = lines(tmp_path / "set.jsonl", {"text": "x", "sentiment": "positive"}, row)
    with pytest.raises(CalltideError, match=complaint.replace("[", r"\[")) as caught:
        manifest.read([path])
    assert "\n" not in str(caught.value)


def test_manifests_as_windows_and_other_programs_write_them(tmp_path: Path) -> None:
    recording(tmp_path / "a.WAV")
    turns = '[{"start": 0, "end": 1, "words": [{"text": "two"}, {"text": "words"}], "speaker": 7}]'
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + turns.encode())
    (tmp_path / "notes.json").write_text("{}")
    rows = ['{"text": "good\u2028day", "sentiment": "positive", "speaker": 3}', '{"file": "a.WAV", "emotion": "Angry"}']
    (tmp_path / "set.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode() + b"\r\n")
    lines_, pairs = manifest.read([tmp_path])
    text, clip = lines_.items
    assert isinstance(text, Text) and (text.text, text.speaker) == ("good\u2028day", "3")
    assert isinstance(clip, Clip) and clip.emotion == "anger"
    (call,) = pairs.items
    assert isinstance(call, Call) and call.turns
    assert (call.turns[0].text, call.turns[0].name) == ("two words", "7")
    assert manifest.without_recording(tmp_path) == [tmp_path / "notes.json"]


def test_of_a_clip_whose_emotion_is_none_of_ours_the_rest_is_kept(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav")
    rows = ({"file": "a.wav", "emotion": "disgust", "text": "so it is"}, {"file": "a.wav", "emotion": "disgust"})
    (one,) = manifest.read([lines(tmp_path / "set.jsonl", *rows)])
    (clip,) = one.items
    assert isinstance(clip, Clip) and (clip.text, clip.emotion, one.left_out) == ("so it is", None, {"disgust": 2})


def test_what_is_no_manifest_is_said(tmp_path: Path) -> None:
    (tmp_path / "alone.json").write_text("[]")
    with pytest.raises(CalltideError, match="holds no manifest"):
        manifest.read([tmp_path])
    for path, complaint in (
        (tmp_path / "none.jsonl", "no manifest"),
        (recording(tmp_path / "a.wav"), "is no manifest"),
        (tmp_path / "alone.json", "no recording beside"),
        (lines(tmp_path / "empty.jsonl"), "is empty"),
    ):
        with pytest.raises(CalltideError, match=complaint):
            manifest.read([path])
    (tmp_path / "other").mkdir()
    twice = [lines(folder / "a.jsonl", {"text": "x", "sentiment": 0}) for folder in (tmp_path, tmp_path / "other")]
    with pytest.raises(CalltideError, match="two data sets are called a"):
        manifest.read(twice)
