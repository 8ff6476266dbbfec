"""Pictures of an explanation, by matplotlib, as PNG: words, waveform, emotions, attention, voice beside its usual.

A changer must know: words are data, so `parse_math` is off, or a `$` in one would begin a formula; figures are made
without pyplot, which keeps what it made.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from processors.explanation import Explanation, TextParts, VoiceParts
from processors.utterances import RATE
from schemas.errors import CalltideError
from streams.report.charts import BLUE, DIVERGING, EMOTION_COLOURS, GREEN, GREY, RED
from streams.report.tables import shown

SHOWN_FEATURES: Final = 6
_STYLE: Final[Any] = {
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
Draw = Callable[[Explanation, NDArray[np.float32] | None], Figure | None]


def draw(folder: Path, explained: Explanation, samples: NDArray[np.float32] | None) -> list[Path]:
    """Write what can be drawn into the folder and return the files. `samples`: the utterance, 16 kHz, if it is there.

    Raises CalltideError when the folder cannot be written.
    """
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(_STYLE):
            for name, picture in PICTURES.items():
                if (figure := picture(explained, samples)) is not None:
                    path = folder / f"{explained.channel}-{explained.start_ms}-{name}.png"
                    figure.savefig(path, dpi=120, metadata={"Software": None})
                    made.append(path)
    except OSError as error:
        raise CalltideError(f"cannot write into {folder}: {error.strerror}; choose another --png") from None
    return made


def words(explained: Explanation, _samples: NDArray[np.float32] | None) -> Figure | None:
    """Contribution of each word, beside its LIME weight: of the voice and of the text."""
    both = [one for one in (explained.voice, explained.words) if one is not None]
    if not both:
        return None
    most = max(len(one.parts) for one in both)
    figure = Figure((4.8 * len(both), 1.4 + 0.24 * most), layout="constrained")
    for axes, one in zip(np.ravel(figure.subplots(1, len(both))), both, strict=True):
        places = np.arange(len(one.parts))
        values = [part.contribution for part in one.parts]
        axes.barh(places, values, 0.6, color=[GREEN if value >= 0 else RED for value in values])
        axes.plot([part.lime for part in one.parts], places, "D", color=GREY, markersize=4, label="linear fit (LIME)")
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_yticks(places, [shown(part.text) for part in one.parts])
        axes.invert_yaxis()
        axes.set_title(f"{_subject(one)}: {one.value:+.2f} from {one.baseline:+.2f}", fontsize=10)
        axes.set_xlabel("contribution")
        axes.legend(loc="lower right", fontsize=7)
    return figure


def waveform(explained: Explanation, samples: NDArray[np.float32] | None) -> Figure | None:
    """The audio, each word in the colour of what it adds to the emotion that was heard."""
    voice = explained.voice
    if voice is None or samples is None or not len(samples):
        return None
    figure = Figure((10, 2.8), layout="constrained")
    axes = figure.subplots()
    begin_s = explained.start_ms / 1_000
    seconds = begin_s + np.arange(len(samples)) / RATE
    axes.plot(seconds, samples, color=GREY, linewidth=0.4)
    height = float(np.abs(samples).max()) or 1.0
    scale = _scale([part.contribution for part in voice.parts])
    for part in voice.parts:
        if part.start_ms is None or part.end_ms is None:
            continue
        inside = (seconds >= part.start_ms / 1_000) & (seconds < part.end_ms / 1_000)
        colour = DIVERGING(scale(part.contribution))
        axes.axvspan(part.start_ms / 1_000, part.end_ms / 1_000, color=colour, alpha=0.6, linewidth=0)
        axes.plot(seconds[inside], samples[inside], color="#30343A", linewidth=0.4)
        middle = (part.start_ms + part.end_ms) / 2_000
        axes.text(middle, 1.08 * height, shown(part.text), ha="center", va="bottom", fontsize=7, rotation=35)
    axes.set_ylim(-1.1 * height, 1.1 * height)
    axes.set_xlim(seconds[0], seconds[-1])
    axes.set_xlabel("seconds of the call")
    axes.set_yticks([])
    bar = figure.colorbar(matplotlib.cm.ScalarMappable(scale, DIVERGING), ax=axes, pad=0.01)
    bar.set_label(f"to {voice.label}")
    return figure


def emotions(explained: Explanation, _samples: NDArray[np.float32] | None) -> Figure | None:
    """The six probabilities, and from where they come: the baseline and what each word adds."""
    if explained.emotion is None:
        return None
    figure = Figure((6, 2.8), layout="constrained")
    axes = figure.subplots()
    names = [*explained.emotion]
    places = np.arange(len(names))
    axes.bar(places, [*explained.emotion.values()], 0.7, color=[EMOTION_COLOURS[name] for name in names])
    if explained.voice:
        axes.axhline(explained.voice.baseline, color=GREY, linestyle=":", label="of nothing heard")
        axes.legend(fontsize=7)
    axes.set_xticks(places, names)
    axes.set_ylim(0, 1)
    axes.set_ylabel("probability")
    axes.set_title(shown(explained.text if len(explained.text) < 80 else f"{explained.text[:79]}…"), fontsize=9)
    return figure


def attention(explained: Explanation, _samples: NDArray[np.float32] | None) -> Figure | None:
    """Which words the networks mixed into which."""
    both = [one for one in (explained.voice, explained.words) if one is not None and one.attention]
    if not both:
        return None
    most = max(len(one.parts) for one in both)
    figure = Figure(((1.6 + 0.26 * most) * len(both), 1.6 + 0.26 * most), layout="constrained")
    for axes, one in zip(np.ravel(figure.subplots(1, len(both))), both, strict=True):
        labels = [shown(part.text) for part in one.parts]
        axes.imshow(np.array(one.attention), cmap="Blues", vmin=0)
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
        axes.set_title(f"attention, {_subject(one)}", fontsize=9)
    return figure


def differences(explained: Explanation, _samples: NDArray[np.float32] | None) -> Figure | None:
    """The acoustic features farthest from what is usual for the speaker."""
    rows = explained.differences[:SHOWN_FEATURES]
    if not rows:
        return None
    figure = Figure((6, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    axes.barh(places, [row.deviations for row in rows], 0.6, color=BLUE)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(places, [f"{row.name}, {row.value:,.4g} {row.unit} (usual {row.usual:,.4g})" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"deviations from usual ({explained.compared_with} utterances)")
    return figure


PICTURES: Final[dict[str, Draw]] = {
    "words": words,
    "waveform": waveform,
    "emotions": emotions,
    "attention": attention,
    "differences": differences,
}


def _subject(one: VoiceParts | TextParts) -> str:
    return f"voice, {one.label}" if isinstance(one, VoiceParts) else f"words, {one.label}"


def _scale(values: Sequence[float]) -> Normalize:
    most = max((abs(value) for value in values), default=0) or 1
    return Normalize(-most, most)
