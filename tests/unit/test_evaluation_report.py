"""Figures kept, shown and compared."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyannote.metrics", reason="needs the extra eval")

from schemas.errors import CalltideError
from streams.evaluation import metrics, report
from streams.evaluation.manifest import Text, data_set
from streams.settings import Settings

TEXTS = data_set("texts", [Text(text="x", sentiment=0)], "what it is", "where it ends")


def errors(wrong: list[int], of: int = 10, names: str = "call") -> metrics.Measure:
    """WER of calls with so many words, and so many of them wrong in each."""
    rows = [(f"{names}-{number:02}", "", (count, of)) for number, count in enumerate(wrong)]
    return metrics.grouped("wer", rows, metrics.ratio, "call/call")


def made(*measures: metrics.Measure, band: str = "wide") -> report.Report:
    found = metrics.Found(list(measures), {"emotion": (("anger", "fear"), [[3, 1], [0, 0]])})
    sets = [(TEXTS, ["a note"])]
    figures, matrices = report.figures("texts", band, found), report.confusions("texts", band, found)
    return report.report(Settings(), {"asr": "some-model"}, sets, figures, matrices)


BEFORE = [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]


def test_the_same_is_no_fall_and_better_is_none() -> None:
    assert report.falls(made(errors(BEFORE)), made(errors(BEFORE))) == []
    assert report.falls(made(errors(BEFORE)), made(errors([count - 1 for count in BEFORE]))) == []


def test_a_little_worse_in_every_call_is_a_fall_where_the_calls_are_the_same() -> None:
    after = [count + (number % 3 > 0) for number, count in enumerate(BEFORE)]
    (fall,) = report.falls(made(errors(BEFORE)), made(errors(after)))
    assert fall == "word error rate (WER) of texts (wide) is 26.7 % and was 20.0 %"
    # Of other calls, the spread between calls hides it.
    assert report.falls(made(errors(BEFORE)), made(errors(after, names="other"))) == []


def test_much_worse_is_a_fall_of_other_calls_too() -> None:
    assert report.falls(made(errors(BEFORE)), made(errors([9] * 12, names="other")))


def test_a_baseline_of_something_else_is_refused() -> None:
    with pytest.raises(CalltideError, match="measures none of this"):
        report.falls(made(errors(BEFORE)), made(errors(BEFORE), band="narrow"))


def test_too_little_to_compare_is_said() -> None:
    with pytest.raises(CalltideError, match="chance cannot be told"):
        report.falls(made(errors([1])), made(errors([9])))


def test_what_only_the_baseline_has_is_named() -> None:
    assert report.missing(made(errors(BEFORE)), made(errors(BEFORE), band="narrow")) == ["texts (wide)"]
    other = metrics.grouped("cp_wer", [("a", "", (1, 2)), ("b", "", (1, 2))], metrics.ratio, "call/call")
    assert report.missing(made(errors(BEFORE)), made(other)) == ["word error rate (WER) of texts (wide)"]


def test_every_measure_has_a_place_in_table_and_page() -> None:
    in_sections = {name for columns in report.SECTIONS.values() for name in columns}
    assert in_sections | {"sentiment_ua"} == set(report.KINDS)
    source = Path(metrics.__file__).read_text()
    assert all(re.search(rf'"{name}"', source) for name in ("wer", "cp_wer", "word_time_ms", "role_wrong"))


def test_saved_and_loaded(tmp_path: Path) -> None:
    before = made(errors(BEFORE))
    report.save(before, tmp_path / "before.json")
    assert report.load(tmp_path / "before.json") == before
    (tmp_path / "other.json").write_text('{"figures": 1}')
    for name, complaint in (("other.json", "is no baseline"), ("absent.json", "cannot read the baseline")):
        with pytest.raises(CalltideError, match=complaint):
            report.load(tmp_path / name)
    with pytest.raises(CalltideError, match="cannot write"):
        report.save(before, tmp_path / "absent" / "x.json")


def test_the_page_keeps_what_is_around_its_figures(tmp_path: Path) -> None:
    page = tmp_path / "models.md"
    page.write_text(f"# Models\n\n{report.BEGIN}\nold\n{report.END}\n\nThe end.\n")
    clips = [(str(n), "", row) for n, row in enumerate([(1, 0, 0, 0)] * 3 + [(0, 1, 0, 0)])]
    emotion = metrics.grouped("emotion_wa", clips, metrics.weighted_accuracy, "speaker/clip")
    report.renew(page, made(errors(BEFORE), emotion))
    text = page.read_text()
    assert text.startswith("# Models\n") and text.endswith("The end.\n") and "old" not in text
    assert re.search(r"\| texts \| wide \| \*\*20.0 %\*\* \(1\d\.\d – 2\d\.\d\) \| 12 calls \|", text)
    assert "| anger | 75% | 25% | 4 |" in text
    assert "| `texts` | 1 | what it is; a note | where it ends |" in text
    page.write_text("# Models\n")
    with pytest.raises(CalltideError, match="no place for the figures"):
        report.renew(page, made(errors(BEFORE)))


def test_a_figure_without_interval_is_shown_alone() -> None:
    figure = report.figures("texts", "wide", metrics.Found([errors([3])]))[0]
    assert report.shown(figure) == ("30.0 %", "")
    assert figure.draws == "" and np.isclose(figure.value, 0.3)
