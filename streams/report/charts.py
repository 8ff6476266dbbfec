"""The charts of the page, by matplotlib, as SVG.

A changer must know: names of tenants and queues are data: `parse_math` is off, or a `$` in one would be a formula and
perhaps an error; what XML does not allow is replaced by `tables.shown`. Figures are made without pyplot, which keeps
what it made. Text stays text (`svg.fonttype`), so that it can be searched, and is a fifth of the size.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from streams.report.figures import EMOTIONS, NEGATIVE, POSITIVE, Compared, Report
from streams.report.tables import shown

RED: Final = "#C4314B"
GREY: Final = "#8A8F98"
GREEN: Final = "#2F8F4E"
BLUE: Final = "#2F6DB5"
ORANGE: Final = "#D9730D"
EMOTION_COLOURS: Final = {
    "neutral": "#B8BCC4",
    "happiness": "#F2C230",
    "sadness": "#5794F2",
    "anger": RED,
    "fear": "#9B59B6",
    "surprise": "#F08A24",
}
ROLE_COLOURS: Final = {"customer": ORANGE, "agent": BLUE, "unknown": GREY}
LINES: Final = ("#2F6DB5", "#D9730D", "#2F8F4E", "#9B59B6", "#C4314B", "#17858F", "#8C6D31", "#555B66")
MARKS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
"""A line is told by its colour and its mark: not everybody sees colours."""
MOST_LINES: Final = len(LINES)
DIVERGING: Final = LinearSegmentedColormap.from_list("mood", [RED, "#F3D9DC", "#F4F4F4", "#D6EBDC", GREEN])
WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "calltide",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9AA0A8",
    "axes.grid": True,
    "grid.color": "#E6E8EB",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Chart:
    """An SVG document. `table`: of the table it stands beside; `alt`: what it shows, for who does not see it."""

    table: str
    title: str
    alt: str
    svg: bytes


def charts(report: Report) -> Iterator[Chart]:
    """Those for which there is something to draw."""
    if report.by_time:
        names = _series(report)
        lowest = min(report.by_time, key=lambda row: row["score"])
        alt = (
            f"Lines over time, one for each of {len(names)} queues. Lowest: {shown(lowest['name'])} of "
            f"{shown(lowest['tenant'])} with {lowest['score']:+.2f} at {lowest['time']:%Y-%m-%d %H:%M} UTC."
        )
        yield _chart("overview", "Sentiment over time, by queue", alt, lambda axes: _over_time(axes, report, names))
    if report.distribution:
        total = sum(report.distribution.values())
        negative = sum(count for tenth, count in report.distribution.items() if tenth < -2)
        alt = f"Columns: utterances by score, in tenths from −1 to 1. {negative / total:.0%} lie below −0.2."
        yield _chart("overview", "Distribution of scores", alt, lambda axes: _distribution(axes, report), width=4.6)
    if report.quarters:
        parts = "; ".join(
            f"{role} " + ", ".join("none" if value is None else f"{value:+.1f}" for value in values)
            for role, values in report.quarters.items()
        )
        yield _chart(
            "overview",
            "From start to end of a call",
            f"Mean sentiment in each quarter of the calls, −5 to 5: {parts}.",
            lambda axes: _quarters(axes, report),
            width=4.6,
        )
    if report.by_week:
        lowest = min(report.by_week, key=lambda row: row["score"])
        at = f"{WEEKDAYS[lowest['weekday'] - 1]} {lowest['of_day']:02}:00"
        alt = f"Map of weekdays and hours of day, in UTC. Lowest: {at} with {lowest['score']:+.2f}."
        yield _chart("overview", "By weekday and hour (UTC)", alt, lambda axes: _week(axes, report), height=2.6)
    for table, title, rows in (("queues", "Mood by queue", report.queues), ("agents", "Agents", report.agents)):
        if rows:
            alt = (
                f"A point and its 95 % interval for each of {len(rows)}, from {shown(rows[0].name)} with "
                f"{rows[0].score:+.2f} to {shown(rows[-1].name)} with {rows[-1].score:+.2f}; "
                "a hollow point is the period before. The table has all numbers."
            )
            height = 1.1 + 0.24 * len(rows)
            yield _chart(table, title, alt, partial(_intervals, rows=rows, report=report), height=height)
    if report.emotions_by_time:
        judged = sum(report.spoken.emotions.values())
        told = ", ".join(f"{name} {count / judged:.0%}" for name, count in report.spoken.emotions.items())
        alt = f"Share of each emotion over time, stacked. In all: {told}."
        yield _chart("emotions", "Emotions over time", alt, lambda axes: _emotions(axes, report))


def _chart(
    table: str, title: str, alt: str, draw: Callable[[Axes], None], width: float = 9.4, height: float = 3.0
) -> Chart:
    """`width`, `height`: inches."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A character that DejaVu Sans has not: the browser has a font for it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": shown(title)})
    return Chart(table, title, alt, file.getvalue())


def _series(report: Report) -> list[tuple[str, str]]:
    """Queues that get a line: those with most utterances."""
    said: dict[tuple[str, str], int] = {}
    for row in report.by_time:
        key = (row["tenant"], row["name"])
        said[key] = said.get(key, 0) + row["utterances_scored"]
    return sorted(said, key=lambda key: (-said[key], key))[:MOST_LINES]


def _label(tenant: str, name: str, length: int = 40) -> str:
    text = shown(f"{tenant} / {name}")
    return text if len(text) <= length else text[: length - 1] + "…"


def _thresholds(axes: Axes, line: Callable[..., Any]) -> None:
    for value, colour in ((NEGATIVE, RED), (POSITIVE, GREEN)):
        line(value, color=colour, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.7, zorder=1)


def _over_time(axes: Axes, report: Report, names: Sequence[tuple[str, str]]) -> None:
    for place, (tenant, name) in enumerate(names):
        points = [row for row in report.by_time if (row["tenant"], row["name"]) == (tenant, name)]
        axes.plot(
            [row["time"] for row in points],
            [row["score"] for row in points],
            color=LINES[place],
            marker=MARKS[place],
            markersize=3.2,
            linewidth=1.3,
            label=_label(tenant, name),
        )
    _thresholds(axes, axes.axhline)
    axes.set_ylim(-1, 1)
    axes.set_ylabel("mean sentiment")
    _dates(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _dates(axes: Axes) -> None:
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _distribution(axes: Axes, report: Report) -> None:
    tenths = list(report.distribution)
    colours = [RED if tenth < -2 else GREEN if tenth > 1 else GREY for tenth in tenths]
    axes.bar([tenth / 10 + 0.05 for tenth in tenths], list(report.distribution.values()), width=0.09, color=colours)
    axes.set_xlabel("score of an utterance")
    axes.set_ylabel("utterances")
    axes.grid(visible=False, axis="x")


def _quarters(axes: Axes, report: Report) -> None:
    for place, (role, values) in enumerate(report.quarters.items()):
        heard = [(quarter, value) for quarter, value in enumerate(values, 1) if value is not None]
        axes.plot(*zip(*heard, strict=True), color=ROLE_COLOURS.get(role, GREY), marker=MARKS[place], label=shown(role))
    axes.axhline(0, color="#9AA0A8", linewidth=0.8)
    axes.set_xticks([1, 2, 3, 4], ["1st", "2nd", "3rd", "4th"])
    axes.set_xlabel("quarter of the call")
    axes.set_ylabel("mean sentiment, −5 to 5")
    axes.legend()


def _week(axes: Axes, report: Report) -> None:
    field = [[float("nan")] * 24 for _ in WEEKDAYS]
    for row in report.by_week:
        field[row["weekday"] - 1][row["of_day"]] = row["score"]
    image = axes.imshow(field, cmap=DIVERGING, vmin=-0.6, vmax=0.6, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    axes.set_xticks(range(24), [f"{hour:02}" for hour in range(24)])
    axes.set_yticks(range(7), WEEKDAYS)
    axes.figure.colorbar(image, ax=axes, label="mean sentiment", extend="both", pad=0.01)


def _intervals(axes: Axes, rows: Sequence[Compared], report: Report) -> None:
    colours = {"better": GREEN, "worse": RED, "not shown to differ": GREY}
    for place, one in enumerate(rows):
        colour = colours[one.against_all]
        axes.errorbar(
            one.score, place, xerr=one.half, fmt="o", color=colour, markersize=4.5, capsize=2.5, linewidth=1.4
        )
        if one.before is not None:
            axes.plot(one.before, place, "o", markerfacecolor="none", markeredgecolor=colour, markersize=4.5, alpha=0.7)
    if report.mood is not None:
        axes.axvline(report.mood.score, color="#555B66", linewidth=0.9, label="all calls")
    axes.set_yticks(range(len(rows)), [_label(one.tenant, one.name) for one in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("mean sentiment of calls and its 95 % interval; hollow: the time before; line: all calls")
    axes.grid(visible=False, axis="y")


def _emotions(axes: Axes, report: Report) -> None:
    rows = report.emotions_by_time
    totals = [sum(row["by_emotion"].values()) for row in rows]
    times: list[Any] = [row["time"] for row in rows]
    width = report.scope.step_h / 24 * 0.92
    bottom = [0.0] * len(rows)
    for name in EMOTIONS:
        shares = [row["by_emotion"].get(name, 0) / total for row, total in zip(rows, totals, strict=True)]
        axes.bar(times, shares, width, bottom, align="edge", color=EMOTION_COLOURS[name], label=name)
        bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(visible=False, axis="x")
    _dates(axes)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))
