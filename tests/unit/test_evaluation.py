"""`calltide eval` with the real models on small pieces of real data, and its default suite."""

import ast
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

pytest.importorskip("pyannote.metrics", reason="needs the extra eval")

from schemas.errors import CalltideError
from streams.evaluation import hearing, report, suite
from streams.evaluation.command import evaluate, measure
from streams.evaluation.manifest import Call, Turn
from streams.settings import Settings

ROOT = Path(__file__).parents[2]
QUIET = Console(quiet=True)


@pytest.mark.models
def test_a_call_a_clip_and_texts_through_the_real_models(test_data: Path, tmp_path: Path) -> None:
    calls = test_data / "calls"
    chat = suite._stm(calls / "phone-chat.stm")
    rows = [
        {"file": str(calls / "phone-chat.flac"), "turns": [turn.model_dump(mode="json") for turn in chat]},
        {"file": str(test_data / "emotion" / "ravdess" / "03-01-05-02-01-01-19.flac"), "emotion": "anger"},
        {"text": "This is wonderful, thank you so much!", "sentiment": "positive"},
        {"text": "This is terrible, I am very angry.", "sentiment": -0.9},
    ]
    manifest = tmp_path / "some.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    first = measure(Settings(), [manifest], None, ("wide", "narrow"), QUIET)
    value = {(figure.band, figure.measure): figure.value for figure in first.figures}
    # Wide bounds: the models get better, a mistake in the measuring makes it much worse.
    for band in ("wide", "narrow"):
        assert value[band, "wer"] < 0.6
        assert value[band, "der_0.25"] < 0.6 and value[band, "der_0.25"] <= value[band, "der_0"]
        parts = sum(value[band, f"{part}_0.25"] for part in ("missed", "false_alarm", "confusion"))
        assert parts == pytest.approx(value[band, "der_0.25"])
        assert value[band, "word_time_ms"] < 400
        assert value[band, "emotion_ua"] in (0.0, 1.0)
        assert value[band, "rtf"] > 0
    assert value["written", "sentiment_f1"] == value["spoken", "sentiment_f1"] == 1.0
    assert set(first.models) >= {"asr", "emotion", "sentiment"}
    assert [one.data for one in first.sets] == ["some"]
    report.table(first)
    assert report.falls(first, first) == []


@pytest.mark.parametrize(
    ("turn", "complaint"),
    [
        ({"start": 0, "end": 1, "speaker": "anna"}, "turn 0 names none of the two channels"),
        ({"start": 0, "end": 1, "channel": 2}, "turn 0 is on channel 2; the recording has the channels 0 and 1"),
        ({"start": 0, "end": 2_500, "channel": 0}, "turn 0 ends at 2500 s, the recording at 2.0 s"),
    ],
)
def test_turns_that_do_not_fit_the_recording_are_refused_before_it_is_heard(
    tmp_path: Path, turn: dict[str, object], complaint: str
) -> None:
    soundfile.write(tmp_path / "call.wav", np.zeros((16_000, 2), np.float32), 8_000)
    (tmp_path / "call.json").write_text(json.dumps([turn]))
    with pytest.raises(CalltideError, match=complaint):
        measure(Settings(), [tmp_path / "call.json"], None, ("narrow",), QUIET)
    fitting = Call(file=tmp_path / "call.wav", mix=True, turns=(Turn(start=0, end=2.3),))
    hearing.require_fitting(fitting)


@pytest.mark.models
def test_what_gives_no_figure_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(2_000, np.float32), 16_000)
    soundfile.write(tmp_path / "silent.wav", np.zeros((32_000, 2), np.float32), 16_000)
    rows = [
        {"file": "short.wav", "emotion": "anger"},
        {"file": "short.wav", "emotion": "disgust"},
        {"file": "silent.wav", "emotion": "fear"},
        {"file": "silent.wav", "text": ""},
        {"text": "!!!", "sentiment": "positive"},
    ]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "lost.json").write_text("[]")
    evaluate([tmp_path], band="wide", json=tmp_path / "made.json")
    told = capsys.readouterr()
    assert "no recording of that name beside it: lost.json" in told.err
    assert "some: left out: 1 of disgust; all of emotion are fear" in told.out
    assert "1 clips got no emotion and count nowhere" in told.out
    assert "heard for what was meant: some, wide" in told.out and "| fear |" in told.out
    assert "1 texts hold no word and count nowhere when spoken" in told.out
    found = {(figure.band, figure.measure): figure.value for figure in report.load(tmp_path / "made.json").figures}
    assert found["wide", "phantom_words"] == 0 and ("spoken", "sentiment_f1") not in found


def test_the_narrow_band_is_g711_at_8_khz(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (48_000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "wide.wav", noise, 48_000)
    (tmp_path / "out").mkdir()
    narrow = hearing.narrow(tmp_path / "wide.wav", tmp_path / "out")
    found = soundfile.info(narrow)
    assert (found.samplerate, found.channels, found.subtype, found.frames) == (8_000, 2, "ULAW", 8_000)
    assert hearing.narrow(narrow, tmp_path) == narrow
    assert hearing.bands_of(tmp_path / "wide.wav") == ("wide", "narrow")
    assert hearing.bands_of(narrow) == ("narrow",)


def test_spoken_is_without_case_and_marks() -> None:
    assert hearing.spoken("@anna I DON’T know… :-) https://x.y [NAME]!") == "i don't know"
    assert hearing.spoken("Schön_gut: 很好!") == "schön gut 很好"


def test_a_recording_has_one_name_however_its_path_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "tests")
    assert hearing.name_of(Path("a.wav")) == hearing.name_of(ROOT / "tests" / "a.wav")


def test_the_suite_keeps_to_the_speakers_that_training_leaves_out() -> None:
    source = (ROOT / "training" / "train_emotion.py").read_text()
    held_out = re.search(r"^HELD_OUT = (\(.*?\))", source, re.M | re.S)
    assert held_out and ast.literal_eval(held_out[1]) == suite.EMOTION_SPEAKERS


def test_the_suite_keeps_to_the_texts_that_training_leaves_out(test_data: Path) -> None:
    pytest.importorskip("safetensors", reason="training's own code needs the extra train")
    from training.train_sentiment import held_out

    folder = test_data / "text"
    ours = {
        "goemotions": suite._goemotions(folder / "goemotions-dev.tsv"),
        "tweets": suite._tweets(folder),
        "hutto-amazon": suite._hutto(folder / "hutto-amazon.tsv"),
        "hutto-tweets": suite._hutto(folder / "hutto-tweets.tsv"),
        "help-desk turns": suite._helpdesk(folder / "helpdesk-calls.jsonl"),
        "films (2 classes)": suite._films(folder / "sst2-train.tsv"),
    }
    theirs = held_out(folder, "test")
    for name, texts in ours.items():
        assert [text.text for text in texts] == [text.text for text in theirs[name]], name


def test_the_suites_turns_are_those_of_the_files(test_data: Path) -> None:
    calls = test_data / "calls"
    chat = suite._stm(calls / "phone-chat.stm")
    assert (len(chat), chat[0].speaker, chat[0].words[0].start, chat[-1].words[-1].end) == (13, "Diane", 6.68, 29.987)
    assert {turn.speaker for turn in suite._rttm(calls / "phone-chat.rttm")} == {"speaker90", "speaker91"}
    script = suite._contoso(calls / "contoso-account.txt")
    assert [turn.role for turn in script[:4]] == ["customer", "agent", "agent", "customer"]
    assert len({turn.name for turn in script}) == 2


def test_a_folder_without_the_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalltideError, match="set CALLTIDE_TEST_DATA"):
        suite.default(tmp_path, None)  # type: ignore[arg-type]


def test_where_figures_cannot_be_written_is_said_before_they_are_measured(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# A page of something else\n")
    for options, complaint in (
        ({"json": tmp_path}, "is a directory"),
        ({"json": tmp_path / "absent" / "made.json"}, "no directory"),
        ({"markdown": tmp_path / "page.md"}, "has no place for the figures"),
    ):
        with pytest.raises(CalltideError, match=complaint):
            evaluate([tmp_path / "nothing.jsonl"], **options)  # type: ignore[arg-type]


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    for module in ("metrics", "report"):
        monkeypatch.delitem(sys.modules, f"streams.evaluation.{module}", raising=False)
        monkeypatch.delattr(f"streams.evaluation.{module}", raising=False)
    with pytest.raises(CalltideError, match=r"needs the package jiwer, .* pip install 'calltide\[eval\]'"):
        evaluate()
