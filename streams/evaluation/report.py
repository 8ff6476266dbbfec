"""Figures as a table, as JSON, as the page docs/models.md, and against a baseline.

A changer must know: a result is kept by (data set, band, measure), and its `draws` are those of a seeded bootstrap. Two
runs over the same units draw the same units, so their difference is that of pairs.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.table import Table

from schemas.errors import CalltideError
from streams.evaluation.manifest import DataSet
from streams.evaluation.metrics import DRAWS, Found
from streams.settings import Settings

BEGIN: Final = "<!-- figures: calltide eval -->"
END: Final = "<!-- end of figures -->"


class Kind(NamedTuple):
    """How a measure is shown: `better` is the direction that is guarded against a baseline, None: only shown."""

    title: str
    better: Literal["lower", "higher"] | None
    form: str


KINDS: Final[Mapping[str, Kind]] = {
    "wer": Kind("word error rate (WER)", "lower", "%"),
    "cp_wer": Kind("WER with the right speaker (cpWER)", "lower", "%"),
    "phantom_words": Kind("words heard where nobody speaks, a minute", "lower", "2"),
    "word_time_ms": Kind("word time error, mean", "lower", "ms"),
    "word_time_close": Kind("word times within 200 ms", None, "%"),
    "word_calibration": Kind("calibration error of word confidences", None, "%"),
    "der_0.25": Kind("diarization error rate (DER), collar 0.25 s", "lower", "%"),
    "missed_0.25": Kind("– missed", None, "%"),
    "false_alarm_0.25": Kind("– false alarm", None, "%"),
    "confusion_0.25": Kind("– confusion", "lower", "%"),
    "jer_0.25": Kind("Jaccard error rate (JER), collar 0.25 s", None, "%"),
    "der_0": Kind("DER, collar 0", "lower", "%"),
    "missed_0": Kind("– missed", None, "%"),
    "false_alarm_0": Kind("– false alarm", None, "%"),
    "confusion_0": Kind("– confusion", None, "%"),
    "jer_0": Kind("JER, collar 0", None, "%"),
    "role_accuracy": Kind("role right", "higher", "%"),
    "role_wrong": Kind("role wrong (the rest is unknown)", "lower", "%"),
    "emotion_ua": Kind("emotion, unweighted accuracy (UA)", "higher", "%"),
    "emotion_wa": Kind("emotion, weighted accuracy (WA)", None, "%"),
    "emotion_f1": Kind("emotion, macro-F1", "higher", "%"),
    "emotion_sure": Kind("emotion not marked uncertain", None, "%"),
    "emotion_sure_wa": Kind("– accuracy of these", None, "%"),
    "sentiment_f1": Kind("sentiment, macro-F1", "higher", "%"),
    "sentiment_wa": Kind("sentiment, accuracy", None, "%"),
    "sentiment_ua": Kind("sentiment, mean recall", None, "%"),
    "sentiment_correlation": Kind("sentiment, correlation of the score", "higher", "2"),
    "topic_names_top1": Kind("topic right, by names alone", "higher", "%"),
    "topic_names_top3": Kind("– among the first three", None, "%"),
    "topic_examples_top1": Kind("topic right, with five examples a topic", "higher", "%"),
    "topic_examples_top3": Kind("– among the first three", None, "%"),
    "topic_top1": Kind("topic of the call right", "higher", "%"),
    "topic_top3": Kind("– among the first three", "higher", "%"),
    "rouge_l": Kind("summary, ROUGE-L", "higher", "%"),
    "rouge_l_lead": Kind("– of the customer's first sentences", None, "%"),
    "rouge_l_drawn": Kind("– of sentences drawn at random", None, "%"),
    "summary_cosine": Kind("summary, cosine to the reference", "higher", "2"),
    "summary_cosine_lead": Kind("– of the customer's first sentences", None, "2"),
    "summary_cosine_drawn": Kind("– of sentences drawn at random", None, "2"),
    "resolved_decided": Kind("resolved or not: decided", None, "%"),
    "resolved_right": Kind("– right of these", "higher", "%"),
    "resolved_yes": Kind("– settled calls found", None, "%"),
    "resolved_no": Kind("– open calls found", None, "%"),
    "chatter_b2b": Kind("a topic told where there is none, b2b", "lower", "%"),
    "chatter_b2c": Kind("a topic told where there is none, b2c", "lower", "%"),
    "cpu_s_per_min": Kind("CPU seconds a minute of audio", None, "2"),
    "cpu_ms": Kind("CPU milliseconds each", None, "1"),
    "rtf": Kind("real-time factor", None, "3"),
}
"""In the order of the table. What is not guarded is a part of what is, or depends on the machine."""

BANDS: Final = {"wide": "wide", "narrow": "G.711", "written": "written", "spoken": "spoken"}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Figure(_Model):
    """One measure of one data set in one band."""

    data: str
    band: str
    measure: str
    value: float
    low: float | None
    high: float | None
    unit: str
    units: int
    digest: str
    draws: str = ""
    """Guarded measures only: the figure of each draw, so that a later run can be compared."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.data, self.band, self.measure


class Confusion(_Model):
    """What was heard for what was meant."""

    data: str
    band: str
    classes: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class About(_Model):
    """What a data set is, for the reader."""

    data: str
    items: int
    about: str
    limits: str
    left_out: dict[str, int]
    notes: tuple[str, ...]


class Report(_Model):
    """All that one run found."""

    date: str
    machine: str
    versions: dict[str, str]
    models: dict[str, str]
    settings: dict[str, Any]
    sets: tuple[About, ...]
    figures: tuple[Figure, ...]
    confusions: tuple[Confusion, ...]


def figures(data: str, band: str, found: Found) -> list[Figure]:
    """The measures of one data set in one band."""
    made = []
    for measure in found.measures:
        if not np.isfinite(measure.figure):  # of nothing: nobody spoke, nobody was sure
            continue
        # Draws of a calibration error are larger than it is: their noise counts as error, whatever its sign.
        interval = None if measure.name == "word_calibration" else measure.interval()
        guarded = KINDS[measure.name].better is not None and interval is not None
        made.append(
            Figure(
                data=data,
                band=band,
                measure=measure.name,
                value=measure.figure,
                low=interval[0] if interval else None,
                high=interval[1] if interval else None,
                unit=measure.unit,
                units=len(measure.units),
                digest=measure.digest,
                draws=" ".join(f"{draw:.5g}" for draw in measure.draws()) if guarded else "",
            )
        )
    return made


def confusions(data: str, band: str, found: Found) -> list[Confusion]:
    """Its confusion matrices."""
    return [
        Confusion(data=data, band=band, classes=name, labels=labels, counts=tuple(map(tuple, counts)))
        for name, (labels, counts) in found.confusions.items()
    ]


def report(
    settings: Settings,
    models: dict[str, str],
    sets: Sequence[tuple[DataSet, Iterable[str]]],
    found: Sequence[Figure],
    matrices: Sequence[Confusion],
) -> Report:
    """Everything, with the machine and the settings that are not the defaults."""
    chosen: dict[str, Any] = {}
    for name in ("vad", "diarization", "asr", "emotion", "sentiment"):
        section = getattr(settings, name)
        chosen |= {
            f"{name}.{key}": value for key, value in section.model_dump(mode="json", exclude_defaults=True).items()
        }
    packages = ("ctranslate2", "faster-whisper", "jiwer", "onnxruntime", "pyannote.metrics", "scikit-learn")
    return Report(
        date=datetime.now(UTC).date().isoformat(),
        machine=f"{os.cpu_count()} CPU cores ({_cpu()})",
        versions={"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
        models=models,
        settings=chosen,
        sets=tuple(
            About(
                data=one.name,
                items=len(one.items),
                about=one.about,
                limits=one.limits,
                left_out=one.left_out,
                notes=tuple(dict.fromkeys(notes)),
            )
            for one, notes in sets
        ),
        figures=tuple(found),
        confusions=tuple(matrices),
    )


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def shown(figure: Figure) -> tuple[str, str]:
    """(value, interval) as people read them."""
    form = KINDS[figure.measure].form

    def number(value: float) -> str:
        if np.isnan(value):
            return "–"
        if form == "%":
            return f"{100 * value:.1f}"
        return f"{value:.0f}" if form == "ms" else f"{value:.{form}f}"

    unit = {"%": " %", "ms": " ms"}.get(form, "")
    interval = "" if figure.low is None or figure.high is None else f"{number(figure.low)} – {number(figure.high)}"
    return number(figure.value) + unit, interval


def in_order(found: Iterable[Figure]) -> list[Figure]:
    """By data set as measured, measure, band."""
    found = list(found)
    sets, names, bands = list(dict.fromkeys(one.data for one in found)), list(KINDS), list(BANDS)
    return sorted(found, key=lambda f: (sets.index(f.data), bands.index(f.band), names.index(f.measure)))


def counted(figure: Figure) -> str:
    """Of what the interval is."""
    plural = "" if figure.unit.endswith(" s") or figure.units == 1 else "s"
    return f"{figure.units} × {figure.unit}" if figure.unit.endswith(" s") else f"{figure.units} {figure.unit}{plural}"


def table(made: Report) -> Table:
    """The one table."""
    shown_table = Table(header_style="bold")
    for title in ("data", "band", "measure"):
        shown_table.add_column(title)
    for title in ("value", "95 %", "drawn"):
        shown_table.add_column(title, justify="right", no_wrap=True)
    last = ("", "")
    for figure in in_order(made.figures):
        place = (figure.data, figure.band)
        if place != last and last != ("", ""):
            shown_table.add_section()
        value, interval = shown(figure)
        names = ("", "") if place == last else (figure.data, BANDS[figure.band])
        shown_table.add_row(*names, KINDS[figure.measure].title, value, interval, counted(figure))
        last = place
    return shown_table


def save(made: Report, path: Path) -> None:
    """As JSON, for `--baseline` and other programs. Raises CalltideError when it cannot be written."""
    try:
        path.write_text(json.dumps(made.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise CalltideError(f"cannot write {path} ({error.strerror}); give another --json") from None


def load(path: Path) -> Report:
    """A report that was saved. Raises CalltideError for what is none."""
    try:
        return Report.model_validate_json(path.read_text("utf-8"))
    except OSError as error:
        raise CalltideError(f"cannot read the baseline {path} ({error.strerror}); make one with --json") from None
    except (ValidationError, UnicodeDecodeError):
        raise CalltideError(f"{path} is no baseline; make one with `calltide eval … --json {path}`") from None


def falls(baseline: Report, made: Report) -> list[str]:
    """The guarded figures that are worse than in the baseline by more than chance, each in words.

    By more than chance: the 95 % interval of the difference lies on the worse side of 0. Over the same units the
    draws are pairs; otherwise they are taken as independent. Raises CalltideError when nothing can be compared.
    """
    before = {figure.key: figure for figure in baseline.figures if figure.draws}
    common = [(before[figure.key], figure) for figure in made.figures if figure.draws and figure.key in before]
    if not common and {figure.key for figure in baseline.figures} & {figure.key for figure in made.figures}:
        raise CalltideError("chance cannot be told from so little data as this baseline's; measure more items")
    if not common:
        raise CalltideError("the baseline measures none of this; give the one that was made of the same data sets")
    found = []
    for old, new in common:
        kind = KINDS[new.measure]
        first, second = (np.array(list(map(float, figure.draws.split()))) for figure in (old, new))
        if old.digest != new.digest:
            first = first[::-1]
        size = min(len(first), len(second), DRAWS)
        low, high = np.nanpercentile(second[:size] - first[:size], [2.5, 97.5])
        worse = low > 0 and new.value > old.value if kind.better == "lower" else high < 0 and new.value < old.value
        if worse:
            where = f"{new.data} ({BANDS[new.band]})"
            found.append(f"{kind.title.lstrip('– ')} of {where} is {shown(new)[0]} and was {shown(old)[0]}")
    return found


def missing(baseline: Report, made: Report) -> list[str]:
    """What the baseline has and this run has not: `data set (band)`, or one guarded figure of it."""
    here, keys = {(figure.data, figure.band) for figure in made.figures}, {figure.key for figure in made.figures}
    absent = []
    for figure in baseline.figures:
        where = f"{figure.data} ({BANDS[figure.band]})"
        if (figure.data, figure.band) not in here:
            absent.append(where)
        elif figure.draws and figure.key not in keys:
            absent.append(f"{KINDS[figure.measure].title.lstrip('– ')} of {where}")
    return list(dict.fromkeys(absent))


def notes(one: About) -> list[str]:
    """What to know of the figures of a data set: what counts nowhere, and how classes were taken."""
    left_out = ", ".join(f"{count} of {name}" for name, count in one.left_out.items())
    return [*([f"left out: {left_out}"] if left_out else []), *one.notes]


# --- the page ------------------------------------------------------------------------------------------------------

SECTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "Words": {
        "wer": "WER",
        "cp_wer": "cpWER",
        "word_time_ms": "word times off by",
        "word_time_close": "within 200 ms",
        "word_calibration": "confidence off by",
        "phantom_words": "phantom words a minute",
    },
    "Speakers, collar 0.25 s": {
        "der_0.25": "DER",
        "missed_0.25": "missed",
        "false_alarm_0.25": "false alarm",
        "confusion_0.25": "confusion",
        "jer_0.25": "JER",
    },
    "Speakers, collar 0": {
        "der_0": "DER",
        "missed_0": "missed",
        "false_alarm_0": "false alarm",
        "confusion_0": "confusion",
        "jer_0": "JER",
    },
    "Agent or customer, by what is said": {"role_accuracy": "right", "role_wrong": "wrong"},
    "Emotion": {
        "emotion_ua": "UA",
        "emotion_wa": "WA",
        "emotion_f1": "macro-F1",
        "emotion_sure": "not uncertain",
        "emotion_sure_wa": "accuracy of these",
    },
    "Sentiment": {
        "sentiment_f1": "macro-F1",
        "sentiment_wa": "accuracy",
        "sentiment_correlation": "correlation",
    },
    "Cost": {
        "cpu_s_per_min": "CPU s a minute of audio",
        "rtf": "real-time factor",
        "cpu_ms": "CPU ms each",
    },
    "Topics of calls": {
        "topic_names_top1": "by names alone",
        "topic_names_top3": "in the first three",
        "topic_examples_top1": "with examples",
        "topic_examples_top3": "in the first three",
        "topic_top1": "right",
        "topic_top3": "in the first three",
        "chatter_b2b": "told where there is none, b2b",
        "chatter_b2c": "b2c",
    },
    "Summaries of calls": {
        "rouge_l": "ROUGE-L",
        "rouge_l_lead": "of the first sentences",
        "rouge_l_drawn": "of drawn ones",
        "summary_cosine": "cosine",
        "summary_cosine_lead": "of the first sentences",
        "summary_cosine_drawn": "of drawn ones",
    },
    "Resolved or not": {
        "resolved_decided": "decided",
        "resolved_right": "right of these",
        "resolved_yes": "settled found",
        "resolved_no": "open found",
    },
}


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 2) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * left + "--:|" * (len(head) - left)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def markdown(made: Report) -> str:
    """The figures of docs/models.md: models, a table for each kind of figure, what was measured, where it ends."""
    machine = f"{made.date}, {made.machine}; " + ", ".join(f"{name} {v}" for name, v in made.versions.items())
    changed = ", ".join(f"{name}={value}" for name, value in made.settings.items()) or "the defaults"
    lines = [f"Measured {machine}. Settings: {changed}.", ""]
    lines += _markdown_table(("stage", "models"), made.models.items())
    keyed = {figure.key: figure for figure in made.figures}
    places = list(dict.fromkeys((figure.data, figure.band) for figure in in_order(made.figures)))
    for section, columns in SECTIONS.items():
        used = [name for name in columns if any(name == figure.measure for figure in made.figures)]
        if not used:
            continue
        rows = []
        for data, band in places:
            found = [keyed.get((data, band, name)) for name in used]
            if any(found):
                first = next(figure for figure in found if figure)
                cells = [_cell(figure) if figure else "" for figure in found]
                rows.append((data, BANDS[band], *cells, counted(first)))
        lines += [f"### {section}", ""]
        lines += _markdown_table(("data", "band", *(columns[name] for name in used), "drawn"), rows)
        if section == "Emotion":
            lines += matrices(made.confusions)
    described = [one for one in made.sets if one.about or notes(one)]
    if described:
        lines += ["### What was measured, and where it does not carry over", ""]
        rows = []
        for one in described:
            about = "; ".join(part for part in (one.about, *notes(one)) if part)
            rows.append((f"`{one.data}`", str(one.items), about, one.limits))
        lines += _markdown_table(("data", "items", "what it is", "where its figures do not carry over"), rows, left=4)
    return "\n".join(lines)


def matrices(confusions: Iterable[Confusion]) -> list[str]:
    """Lines of Markdown: the confusions of emotions, in shares of what was meant."""
    lines = []
    for matrix in confusions:
        if matrix.classes == "emotion":
            lines += [f"What was heard for what was meant: {matrix.data}, {BANDS[matrix.band]}", ""]
            rows = [
                (label, *(f"{count / sum(row):.0%}" for count in row), str(sum(row)))
                for label, row in zip(matrix.labels, matrix.counts, strict=True)
                if sum(row)
            ]
            lines += _markdown_table(("meant \\ heard", *matrix.labels, "clips"), rows, left=1)
    return lines


def _cell(figure: Figure) -> str:
    value, interval = shown(figure)
    return (f"**{value}**" if KINDS[figure.measure].better else value) + (f" ({interval})" if interval else "")


def place(page: Path) -> tuple[str, str]:
    """What stands before and after the figures of a page. Raises CalltideError when it has no place for them."""
    text = page.read_text("utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise CalltideError(f"{page} has no place for the figures; add the lines {BEGIN} and {END}")
    return before, after


def renew(page: Path, made: Report) -> None:
    """Put the figures between the marks of a page. Raises CalltideError when it has none."""
    before, after = place(page)
    page.write_text(f"{before}{BEGIN}\n\n{markdown(made)}\n{END}{after}", "utf-8")
