"""`calltide eval`: arguments in, data sets through the product, figures out.

A changer must know: what the extra `eval` brings is imported inside the functions: the command line starts without it.
"""

import importlib
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeVar

import typer

from schemas.errors import CalltideError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from streams.evaluation.hearing import Band, Ears, Form
    from streams.evaluation.manifest import DataSet
    from streams.evaluation.metrics import Found
    from streams.evaluation.report import Report
    from streams.settings import Settings

PACKAGES: Final = ("jiwer", "pyannote", "scipy", "sklearn", "whisper_normalizer")
"""Modules that the extra `eval` brings."""

ALONE: Final = ("redaction",)
"""What is measured on data of its own: `calltide eval NAME` is `show` of `streams.evaluation.NAME`."""
FORMS: "Final[tuple[Form, ...]]" = ("written", "spoken")
INSIGHTS: Final = [Path("insights")]
"""Measured on data of its own, too, with figures like those of the others."""
T = TypeVar("T")
H = TypeVar("H")

Manifests = Annotated[
    list[Path] | None,
    typer.Argument(
        help="data sets: .json, .jsonl or directories (docs/evaluation.md); or redaction or insights, alone",
        show_default=False,
    ),
]


def evaluate(
    manifests: Manifests = None,
    suite: Annotated[
        Literal["default"] | None, typer.Option(help="the recordings of CALLTIDE_TEST_DATA, as in docs/models.md")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="write all figures to a file")] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="figures written by --json; exit code 1 when some are significantly worse now")
    ] = None,
    band: Annotated[
        Literal["wide", "narrow", "both"], typer.Option(help="as recorded, after G.711 at 8 kHz, or both")
    ] = "both",
    markdown: Annotated[Path | None, typer.Option(help="renew the figures in a page such as docs/models.md")] = None,
) -> None:
    """Measure the chain on recordings and texts whose truth is known."""
    from rich.console import Console

    from streams.settings import load

    if manifests and (name := str(manifests[0])) in ALONE and len(manifests) == 1:
        importlib.import_module(f"streams.evaluation.{name}").show(load().test_data)
        return
    try:
        from streams.evaluation import report as reports
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in PACKAGES:
            raise
        raise CalltideError(
            f"calltide eval needs the package {error.name}, which is not installed; run pip install 'calltide[eval]'"
        ) from None
    known = reports.load(baseline) if baseline else None
    if markdown:
        reports.place(markdown)
    for target in (json, markdown):
        if target is not None and not target.absolute().parent.is_dir():
            raise CalltideError(f"no directory {target.absolute().parent}; make it, or write elsewhere")
        if target is not None and target.is_dir():
            raise CalltideError(f"{target} is a directory; name a file")
    errors, console = Console(stderr=True), Console()
    if manifests == INSIGHTS:
        from streams.evaluation import insights

        with errors.status("reading calls and questions"):
            made = insights.measure(load())
    else:
        made = measure(load(), manifests or [], suite, ("wide", "narrow") if band == "both" else (band,), errors)
    # A table for people is as wide as it must be where it is not read on a terminal.
    console = console if console.is_terminal else Console(width=160)
    console.print(reports.table(made))
    if confused := reports.matrices(made.confusions):
        console.print("", *confused, sep="\n", markup=False, soft_wrap=True)
    told = [f"{one.data}: {'; '.join(notes)}" for one in made.sets if (notes := reports.notes(one))]
    models = "".join(f"; {stage}: {ids}" for stage, ids in made.models.items())
    for line in (*told, f"{made.date}, {made.machine}{models}"):
        console.print(line, markup=False, soft_wrap=True)
    if json:
        reports.save(made, json)
    if markdown:
        reports.renew(markdown, made)
    if known:
        absent = reports.missing(known, made)
        if absent:
            errors.print(f"in the baseline and not measured now: {', '.join(absent)}", markup=False, soft_wrap=True)
        worse = reports.falls(known, made)
        if worse:
            raise CalltideError(f"worse than {baseline} by more than chance: {'; '.join(worse)}")
        errors.print(f"nothing is worse than {baseline} by more than chance", markup=False, soft_wrap=True)


def measure(
    settings: "Settings",
    manifests: "list[Path]",
    suite: str | None,
    bands: "tuple[Band, ...]",
    console: "Console",
) -> "Report":
    """Everything about the data sets. Raises CalltideError where nothing can be measured."""
    from rich.progress import Progress

    from streams.evaluation import manifest, report
    from streams.evaluation import suite as suites
    from streams.evaluation.hearing import Ears, require_fitting

    for path in manifests:
        if path.is_dir() and not suites.applies(path) and (alone := manifest.without_recording(path)):
            names = ", ".join(file.name for file in alone)
            console.print(
                f"{path}: left out, no recording of that name beside it: {names}", markup=False, soft_wrap=True
            )
    folders = [path for path in manifests if suites.applies(path)]
    sets = manifest.read([path for path in manifests if path not in folders])
    for call in [item for one in sets for item in one.items if isinstance(item, manifest.Call)]:
        require_fitting(call)
    if suite or not manifests:
        folders.append(settings.test_data)
    with tempfile.TemporaryDirectory(prefix="calltide-eval-") as name:
        with console.status("loading models"):
            ears = Ears(settings, Path(name))
        with Progress(console=console, transient=True) as bar:
            for folder in folders:
                sets += suites.default(folder, ears)
            found, matrices, described = [], [], []
            for one in sets:
                notes: list[str] = []
                for condition, result in _of_set(one, ears, bands, bar).items():
                    found += report.figures(one.name, condition, result)
                    matrices += report.confusions(one.name, condition, result)
                    notes += result.notes
                described.append((one, notes))
        if not found:
            raise CalltideError(
                f"nothing to measure in {' or '.join(bands)} band; recordings at 8 kHz have no wide one"
            )
        return report.report(settings, ears.models(), described, found, matrices)


def _of_set(one: "DataSet", ears: "Ears", bands: "tuple[Band, ...]", bar: "Progress") -> "dict[str, Found]":
    """Band or form → figures of one data set."""
    from streams.evaluation import metrics
    from streams.evaluation.hearing import bands_of
    from streams.evaluation.manifest import Call, Clip, Text

    results: dict[str, metrics.Found] = {}

    def add(condition: str, result: metrics.Found) -> None:
        kept = results.setdefault(condition, metrics.Found())
        there = {measure.name for measure in kept.measures}
        # Of clips that are heard in two ways, the cost is that of the whole chain.
        kept.measures += [measure for measure in result.measures if measure.name not in there]
        kept.confusions |= result.confusions
        kept.notes += result.notes

    def each(items: "Sequence[T]", condition: str, hear: "Callable[[T], H]") -> "list[H]":
        what = f"{one.name} ({condition})"
        if not bar.console.is_terminal:
            bar.console.print(f"{what}: {len(items)}", highlight=False)
        return list(bar.track(map(hear, items), total=len(items), description=what))

    calls = [item for item in one.items if isinstance(item, Call)]
    clips = [item for item in one.items if isinstance(item, Clip)]
    texts = [item for item in one.items if isinstance(item, Text)]
    for band in bands:
        spoken = [c for c in clips if (c.text is not None or c.sentiment is not None) and band in bands_of(c.file)]
        shown = [clip for clip in clips if clip.emotion is not None and band in bands_of(clip.file)]
        there = [call for call in calls if band in bands_of(call.file)]
        if there:
            add(band, metrics.of_calls(each(there, band, partial(ears.call, band=band))))
        if spoken:
            add(band, metrics.of_spoken_clips(each(spoken, band, partial(ears.spoken_clip, band=band))))
        if shown:
            add(band, metrics.of_clips(each(shown, band, partial(ears.clip, band=band))))
    for form in FORMS if texts else ():
        heard = each(texts, form, partial(ears.text, form=form))
        result = metrics.of_texts([text for text in heard if text is not None])
        if empty := heard.count(None):
            result.notes.append(f"{empty} texts hold no word and count nowhere when {form}")
        add(form, result)
    return results
