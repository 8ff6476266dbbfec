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


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    for module in ("metrics", "report"):
        monkeypatch.delitem(sys.modules, f"streams.evaluation.{module}", raising=False)
        monkeypatch.delattr(f"streams.evaluation.{module}", raising=False)
    with pytest.raises(CalltideError, match=r"needs the package jiwer, .* pip install 'calltide\[eval\]'"):
        evaluate()
