"""`calltide train sentiment` on texts of one's own."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from processors.models.sentiment import HEAD_FILE, SENTIMENTS, EnsembleSentiment, label_of
from processors.sentiment import Config, build
from schemas.errors import CalltideError
from streams.training.common import CARD
from streams.training.sentiment import GRID, grid_f1, logistic, read_examples, train_sentiment

DAYS = ("monday", "tuesday", "friday", "the first", "the ninth", "last week", "today", "in march", "in june", "at noon")
# What a trade means by its own words, which the packaged model cannot know.
TRADE = {
    "negative": ("the claim went to tier two {}", "we had a rollback {}", "the port was flapping {}"),
    "neutral": ("the claim was opened {}", "the port is number six {}", "we spoke {}"),
    "positive": ("the claim was closed at first contact {}", "all lights were green {}", "we had full bars {}"),
}


def write(file: Path, rows: list[dict[str, object]]) -> Path:
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n", "utf-8")
    return file


def quiet() -> Console:
    return Console(file=StringIO())


def trade() -> list[dict[str, object]]:
    return [
        {"text": phrase.format(day), "label": label, "group": f"call {day}"}
        for label, phrases in TRADE.items()
        for phrase in phrases
        for day in DAYS
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trade")
    write(folder / "calls.jsonl", trade())
    train_sentiment(folder, folder / "model", console=quiet())
    return folder / "model"


def test_it_learns_what_the_words_of_a_trade_mean(made: Path) -> None:
    card = json.loads((made / CARD).read_text("utf-8"))
    own, packaged = (card["held_out"][name]["macro_f1"] for name in ("this model", "the packaged model"))
    assert own > 0.8 and own > packaged + 0.2
    assert card["method"]["split by"] == "group"
    assert "CALLTIDE_SENTIMENT__MODEL" in (made / "README.md").read_text("utf-8")


def test_the_directory_is_a_model_for_the_setting(made: Path) -> None:
    model = EnsembleSentiment(made)
    assert model.id.startswith("model-") and model.id != EnsembleSentiment().id
    assert build(Config(models={"customer": str(made)}), "v1")
    assert model.score(["the port was flapping on sunday"])[0].label == "negative"


def test_the_same_texts_make_the_same_model(made: Path, tmp_path: Path) -> None:
    train_sentiment(write(tmp_path / "calls.jsonl", trade()), tmp_path / "model", console=quiet())
    assert (tmp_path / "model" / HEAD_FILE).read_bytes() == (made / HEAD_FILE).read_bytes()


def test_a_model_may_be_made_anew_but_nothing_else_is_overwritten(made: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(CalltideError, match="not empty"):
        train_sentiment(made.parent / "calls.jsonl", tmp_path, console=quiet())
    train_sentiment(made.parent / "calls.jsonl", made, console=quiet())


def test_texts_that_teach_nothing_leave_the_packaged_head(tmp_path: Path) -> None:
    """Labels at random: no round is better on the validation part than the first, or hardly."""
    rows = trade()
    shuffled = np.random.default_rng(1).permutation([str(row["label"]) for row in rows])
    noise = [{**row, "label": str(label)} for row, label in zip(rows, shuffled, strict=True)]
    train_sentiment(write(tmp_path / "a.jsonl", noise), tmp_path / "m", console=quiet())
    (usual,) = EnsembleSentiment(tmp_path / "m").score(["Thank you so much, you have been wonderful."])
    assert usual.label == "positive"


def test_every_form_of_a_table_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": "good", "score": 0.9, "group": "c1"}, {"text": "so so", "score": -0.05}])
    (tmp_path / "b.tsv").write_text('text\tlabel\nhe said "no\tnegative\ngood\tnegative\n', "utf-8")
    (tmp_path / "c.csv").write_text('text,score\n"well, well",0.0\n', "utf-8")
    (tmp_path / "notes.txt").write_text("not a table")
    found = read_examples(tmp_path)
    assert [(one.text, SENTIMENTS[one.label]) for one in found] == [
        ("good", "positive"),  # the first of two
        ("so so", "neutral"),
        ('he said "no', "negative"),
        ("well, well", "neutral"),
    ]
    assert found[0].group == "c1"
    assert found[1].target == pytest.approx((0.2, 0.8, 0.0))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "x", "label": "angry"}', r"a\.jsonl:1: the label angry is none of negative"),
        ("a.jsonl", '{"text": "x", "score": 3}', r"a\.jsonl:1 has neither a label nor a score"),
        ("a.jsonl", '{"text": "x"}', r"a\.jsonl:1 has neither"),
        ("a.jsonl", '\n{"label": "neutral"}', r"a\.jsonl:2 has no text"),
        ("a.jsonl", "text: x", r"a\.jsonl:1 is not JSON"),
        ("a.jsonl", "[1]", r"a\.jsonl:1 has no text"),
        ("a.tsv", "text\nhello", r"a\.tsv:2 has neither"),
        ("a.csv", "text;label\nhello;positive", r"a\.csv has no column text \(text;label\); .* separated by commas"),
        ("a.csv", "", r"a\.csv has no column text \(it is empty\)"),
        ("a.csv", "text,label\n" + 140_000 * "x", r"a\.csv:2 is no table row"),
        ("a.txt", "hello", r"has no texts; give a"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(CalltideError, match=said):
        read_examples(tmp_path / name)


def test_tables_as_windows_and_other_programs_write_them(tmp_path: Path) -> None:
    (tmp_path / "a.CSV").write_bytes(b"\xef\xbb\xbftext,label\r\ngood,positive\r\n")
    (tmp_path / "b.jsonl").write_bytes('\ufeff{"text": "bad\u2028day", "label": "negative"}\r\n'.encode())
    assert [one.text for one in read_examples(tmp_path)] == ["good", "bad\u2028day"]
    with pytest.raises(CalltideError, match="no file or directory"):
        read_examples(tmp_path / "nowhere")


def test_other_encodings_and_too_few_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\nschön,positive\n".encode("latin-1"))
    with pytest.raises(CalltideError, match="not UTF-8"):
        read_examples(tmp_path / "a.csv")
    few = write(tmp_path / "few.jsonl", [{"text": "good", "label": "positive"}, {"text": "bad", "label": "negative"}])
    with pytest.raises(CalltideError, match="too few texts"):
        train_sentiment(few, tmp_path / "m", console=quiet())


def test_the_table_of_f1_is_what_labels_give() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 200)
    score = np.clip(truth - 1 + generator.normal(0, 0.7, 200), -1, 1)
    table = grid_f1(truth, score)
    for low, high in ((0, 0), (5, 20), (34, 34)):
        guess = np.array([SENTIMENTS.index(label_of(s, (-float(GRID[low]), float(GRID[high])))) for s in score])
        f1 = [2 * np.sum((truth == c) & (guess == c)) / (np.sum(truth == c) + np.sum(guess == c)) for c in range(3)]
        assert table[low, high] == pytest.approx(np.mean(f1))


def test_logistic_regression_finds_the_weights_that_made_the_data() -> None:
    generator = np.random.default_rng(0)
    features = np.column_stack([generator.normal(size=20_000), np.ones(20_000)])
    hit = (generator.random(20_000) < 1 / (1 + np.exp(-features @ [2.0, -1.0]))).astype(float)
    assert logistic(features, hit) == pytest.approx([2.0, -1.0], abs=0.1)
    assert np.isfinite(logistic(features, np.ones(20_000))).all(), "always right"
