"""`python -m benchmarks.pictures`: docs/pictures/, the main panels of each dashboard, drawn from their own queries.

It also writes the lists of panels into docs/analytics.md (`--lists` does only that).

They are no screenshots of Grafana: matplotlib draws what the committed dashboards say (queries, units, thresholds,
colours, places) with what ClickHouse answers on the generated month, as tests/analytics fill in variables and macros.
Operations asks a Prometheus, which is given by --prometheus and has to have scraped a running chain.

A changer must know: a kind of panel or a unit that no dashboard has yet is an error here, not a blank.
"""

import argparse
import io
import itertools
import logging
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import matplotlib
import requests
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, Wedge
from matplotlib.ticker import FuncFormatter
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from benchmarks.analytics import UNTIL, database, load
from dashboards.files import Query, committed, panels, queries
from streams.analytics.traffic import SOUR_QUEUE, SOUR_TENANT, SOUR_TERMS, VERSION, sour_from
from streams.report.figures import Scope, gather
from streams.report.page import page
from streams.settings import Settings
from tests.analytics.macros import Value
from tests.analytics.test_dashboards import Opened

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "analytics.md"
OUT: Final = DOCUMENT.parent / "pictures"
UTTERANCES: Final = 566_000
"""As in the tests."""
COLUMN: Final = 0.5
ROW: Final = 0.36
"""Inches of Grafana's grid of 24 columns."""
DPI: Final = 96
LARGEST: Final = 120_000
"""Bytes of a picture."""
LINES: Final = ("#3274D9", "#FF780A", "#56A64B", "#B877D9", "#E02F44", "#37B7C3", "#8C6D31", "#F2CC0C")
STYLE: Final[Any] = {
    "font.size": 7.5,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#B8BCC4",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ECEEF1",
    "xtick.color": "#4A515B",
    "ytick.color": "#4A515B",
    "legend.frameon": False,
    "legend.fontsize": 6.8,
}

type_row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """A dashboard as somebody has opened it, and the panels of it that are shown."""

    panels: Sequence[str]
    until: datetime = UNTIL
    since: datetime | None = None
    given: Mapping[str, Value] = field(default_factory=dict)


SOUR: Final = sour_from(UNTIL) + timedelta(hours=3)

PICTURES: Final[dict[str, Picture]] = {
    "floor": Picture(
        (
            "Calls now",
            "Mood of the floor",
            "Calls going wrong",
            "The last five minutes",
            "Alerts",
            "Sentiment per minute, by queue",
            "Emotions per minute",
            "Worst calls now",
        ),
        until=SOUR,
        given={"tenant": [SOUR_TENANT]},
    ),
    "sentiment": Picture(
        (
            "Key figures",
            "Negative, neutral, positive",
            "Sentiment over time, by queue",
            "From start to end of a call",
            "Calls that ended better or worse than they began",
            "Distribution of scores",
            "By weekday and hour",
            "By queue",
            "By agent",
        ),
        given={"tenant": [SOUR_TENANT]},
    ),
    "call": Picture(
        ("Which call", "Key figures", "Sentiment of both parties", "Who spoke when, and how", "Transcript", "Parties")
    ),
    "emotions": Picture(
        (
            "Emotions over time",
            "By party",
            "By queue",
            "Finer names",
            "Two at once",
            "From one utterance to the next",
            "Calls that turned angry",
            "How negative, neutral and positive words are spoken",
            "Words and voice, against chance",
        )
    ),
    "words": Picture(
        (
            "Found",
            "Said over time",
            "Texts",
            "Words of negative calls",
            "Words of positive calls",
            "Negative utterances by queue",
            "Words that came up",
        ),
        given={"tenant": [SOUR_TENANT], "search": SOUR_TERMS[0]},
    ),
    "coaching": Picture(
        (
            "Key figures",
            "Topics",
            "Resolved or not",
            "Categories over time",
            "Categories, against before",
            "Score by week, of queues",
            "Sections",
            "Sections in which an agent falls behind",
            "Recommendations by agent",
        ),
        since=UNTIL - timedelta(days=7),
    ),
    "models": Picture(
        (
            "Both on the same calls",
            "Difference over time",
            "How calls differ",
            "By queue",
            "Labels that flip",
            "Sentiment, A to B",
            "Emotion, A to B",
        )
    ),
    "operations": Picture(
        (
            "Processes down",
            "Furthest behind",
            "Score latency, p95",
            "Calls now",
            "Dead letters",
            "Restarts",
            "Lag by stage, live calls",
            "Lag by stage, recorded calls",
            "Records that wait",
            "From the last word to the push of its score",
            "From the last word to each stage's output, p95",
            "Less effort, and waiting",
            "Records in a batch, p95",
            "Model time of a batch, p95",
            "Share of the time in the models",
        )
    ),
}


# ---- What a panel says of a column


@dataclass(frozen=True)
class Column:
    """How a column of an answer is shown."""

    name: str
    title: str
    unit: str
    decimals: int | None
    steps: Sequence[dict[str, Any]]
    mapping: dict[str, str]
    colour: str
    cell: str
    hidden: bool
    width: float

    def text(self, value: Any) -> str:
        return written(value, self.unit, self.decimals)

    def tint(self, value: Any) -> str:
        """The colour of a value: by its mapping or the thresholds; empty: none."""
        if isinstance(value, str):
            return self.mapping.get(value, "")
        if value is None or isinstance(value, datetime):
            return ""
        return [step["color"] for step in self.steps if step["value"] is None or value >= step["value"]][-1]


def column(panel: Mapping[str, Any], name: str) -> Column:
    """What defaults and overrides of a panel say of the column `name`."""
    config = panel["fieldConfig"]
    found: dict[str, Any] = {key: config["defaults"].get(key) for key in ("unit", "decimals", "thresholds", "mappings")}
    for override in config["overrides"]:
        matcher = override["matcher"]
        by_name = matcher["id"] == "byName" and matcher["options"] == name
        if by_name or (matcher["id"] == "byRegexp" and re.fullmatch(matcher["options"].strip("/"), name)):
            found |= {one["id"]: one["value"] for one in override["properties"]}
    mapping = {
        value: result["color"]
        for one in found.get("mappings") or []
        for value, result in one["options"].items()
        if result.get("color")
    }
    return Column(
        name,
        found.get("displayName") or name,
        found["unit"],
        found["decimals"],
        found["thresholds"]["steps"],
        mapping,
        (found.get("color") or {}).get("fixedColor", ""),
        (found.get("custom.cellOptions") or {}).get("type", ""),
        bool(found.get("custom.hidden")),
        found.get("custom.width") or 0,
    )


def written(value: Any, unit: str, decimals: int | None) -> str:
    """A value as people read it."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value:%m-%d %H:%M:%S}"
    if isinstance(value, str):
        return value
    if unit in ("ms", "s", "dtdurations", "dthms"):
        seconds = value / 1000 if unit == "ms" else value
        if unit == "dthms" or seconds >= 90:
            return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"
        return f"{seconds:.{2 if decimals is None else decimals}f} s"
    if unit == "percentunit":
        return f"{value * 100:.{1 if decimals is None else decimals}f} %"
    if unit == "dB":
        return f"{value:.{1 if decimals is None else decimals}f} dB"
    if unit not in ("none", "short", "reqps", "ops", "cps", "rowsps", "wps", "Bps"):
        raise ValueError(f"the unit {unit} is not known here")
    if decimals is None:
        decimals = 0 if float(value).is_integer() else 2
    return f"{value:,.{decimals}f}"


# ---- Kinds of panels


def series(panel: Mapping[str, Any], answers: Sequence[Sequence[type_row]]) -> dict[str, list[tuple[datetime, float]]]:
    """A time series panel's answers as Grafana names them: by labels, or by the column of the value."""
    made: dict[str, list[tuple[datetime, float]]] = {}
    template = panel["fieldConfig"]["defaults"].get("displayName") or ""
    for rows in answers:
        for row in rows:
            labels = {name: value for name, value in row.items() if isinstance(value, str)}
            for name, value in row.items():
                if name == "time" or name in labels:
                    continue
                shown = " ".join(labels.values()) if labels else name
                if template:
                    shown = template.replace("${__field.name}", name)
                    for label, text in labels.items():
                        shown = shown.replace(f"${{__field.labels.{label}}}", text)
                made.setdefault(shown, []).append((row["time"], float("nan") if value is None else value))
    return made


def draw_timeseries(axes: Axes, panel: Mapping[str, Any], answers: Sequence[Sequence[type_row]]) -> None:
    lines = series(panel, answers)
    custom = panel["fieldConfig"]["defaults"].get("custom") or {}
    stacking = (custom.get("stacking") or {}).get("mode", "none")
    free = iter(LINES * 9)
    colours = {name: column(panel, name).colour or next(free) for name in lines}
    if stacking != "none":
        times = sorted({at for points in lines.values() for at, _ in points})
        heights = {name: [dict(points).get(at, 0.0) for at in times] for name, points in lines.items()}
        if stacking == "percent":
            total = [sum(values[place] for values in heights.values()) or 1 for place in range(len(times))]
            heights = {
                name: [value / all_of for value, all_of in zip(values, total, strict=True)]
                for name, values in heights.items()
            }
        step = min((b - a for a, b in itertools.pairwise(times)), default=timedelta(hours=1))
        low = [0.0] * len(times)
        for name, values in heights.items():
            axes.bar(times, values, step, low, align="edge", color=colours[name], label=name, linewidth=0)  # type: ignore[arg-type]
            low = [bottom + value for bottom, value in zip(low, values, strict=True)]
        axes.set_ylim(0, 1 if stacking == "percent" else None)
    else:
        for name, points in lines.items():
            if custom.get("spanNulls"):
                points = [point for point in points if point[1] == point[1]]
            if not points:
                continue
            mark = "o" if len(points) < 80 or custom.get("showPoints") == "always" else ""
            axes.plot(*zip(*points, strict=True), color=colours[name], label=name, lw=1.1, marker=mark, ms=2)
        if (custom.get("thresholdsStyle") or {}).get("mode") == "dashed":
            for step_at in column(panel, "").steps[1:]:
                axes.axhline(step_at["value"], color="#9AA0A8", linewidth=0.7, linestyle="--")
        low_at, high_at = custom.get("axisSoftMin"), custom.get("axisSoftMax")
        if low_at is not None or high_at is not None:
            bottom, top = axes.get_ylim()
            axes.set_ylim(
                bottom if low_at is None else min(bottom, low_at), top if high_at is None else max(top, high_at)
            )
    unit = panel["fieldConfig"]["defaults"]["unit"] if stacking != "percent" else "percentunit"
    decimals = 0 if stacking == "percent" else None
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(round(value, 6), unit, decimals)))
    locator = AutoDateLocator(minticks=3, maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    legend(axes, len(lines))


def legend(axes: Axes, entries: int) -> None:
    """Below the axes, as the dashboards have it; of many the first."""
    wide = axes.get_window_extent().width > 500
    columns = min(max(entries, 1), 6 if wide else 3)
    handles, labels = axes.get_legend_handles_labels()
    most = 2 * columns
    if len(labels) > most:
        labels[most - 1] = f"… {len(labels) - most + 1} more"
    axes.legend(
        handles[:most],
        [cut(label, 18) for label in labels[:most]],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=columns,
        columnspacing=1,
        handlelength=1.2,
    )


def draw_barchart(axes: Axes, panel: Mapping[str, Any], answers: Sequence[Sequence[type_row]]) -> None:
    rows, options = answers[0], panel["options"]
    names = [str(row[options["xField"]]) for row in rows]
    values = [name for name in rows[0] if name != options["xField"]]
    across, stacking = options["orientation"] == "horizontal", options.get("stacking", "none")
    free = iter(LINES)
    low, width = [0.0] * len(rows), 0.8 if stacking != "none" else 0.8 / len(values)
    totals = [sum(row[name] or 0 for name in values) or 1 for row in rows]
    for place, name in enumerate(values):
        heights = [
            (row[name] or 0) / (total if stacking == "percent" else 1) for row, total in zip(rows, totals, strict=True)
        ]
        if not any(heights):
            continue
        shift = 0 if stacking != "none" else (place - (len(values) - 1) / 2) * width
        at = [one + shift for one in range(len(rows))]
        colour = column(panel, name).colour or next(free)
        if across:
            axes.barh(at, heights, width, low, color=colour, label=name)
        else:
            axes.bar(at, heights, width, low, color=colour, label=name)
        if stacking != "none":
            low = [bottom + height for bottom, height in zip(low, heights, strict=True)]
    unit = "percentunit" if stacking == "percent" else panel["fieldConfig"]["defaults"]["unit"]
    form = FuncFormatter(lambda value, _: written(round(value, 6), unit, 0 if unit == "percentunit" else None))
    if across:
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(form)
        axes.grid(visible=False, axis="y")
    else:
        room = axes.get_window_extent().width / 6.5
        every = max(1, math.ceil(sum(len(name) + 1 for name in names) / room))
        axes.set_xticks(range(0, len(rows), every), names[::every])
        axes.yaxis.set_major_formatter(form)
        axes.grid(visible=False, axis="x")
    if len(values) > 1:
        legend(axes, len(values))


def draw_bargauge(axes: Axes, panel: Mapping[str, Any], answers: Sequence[Sequence[type_row]]) -> None:
    rows = answers[0]
    name, value = rows[0]
    shown = column(panel, value)
    axes.barh(range(len(rows)), [row[value] for row in rows], color=[shown.tint(row[value]) for row in rows])
    for place, row in enumerate(rows):
        axes.text(row[value], place, f" {shown.text(row[value])}", va="center")
    axes.set_yticks(range(len(rows)), [row[name] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, max(row[value] for row in rows) * 1.18)
    axes.set_xticks([])
    axes.grid(visible=False)


def draw_stat(axes: Axes, panel: Mapping[str, Any], answers: Sequence[Sequence[type_row]]) -> None:
    axes.axis("off")
    last = answers[0][-1]
    shown = [(column(panel, name), value) for name, value in last.items() if not isinstance(value, datetime | str)]
    for place, (one, value) in enumerate(shown):
        middle = (place + 0.5) / len(shown)
        colour = one.tint(value) or "#1D2126"
        axes.text(middle, 0.42, one.text(value), ha="center", va="center", fontsize=17, color=colour, weight="bold")
        if len(shown) > 1:
            axes.text(middle, 0.9, one.title, ha="center", va="center", color="#4A515B")


def draw_gauge(axes: Axes, panel: Mapping[str, Any], answers: Sequence[Sequence[type_row]]) -> None:
    ((name, value),) = answers[0][0].items()
    shown, limits = column(panel, name), panel["fieldConfig"]["defaults"]
    share = (value - limits["min"]) / (limits["max"] - limits["min"])
    axes.add_patch(Wedge((0, 0), 1, 0, 180, width=0.28, color="#ECEEF1"))
    axes.add_patch(Wedge((0, 0), 1, 180 - 180 * share, 180, width=0.28, color=shown.tint(value)))
    axes.text(0, 0.1, shown.text(value), ha="center", fontsize=15, weight="bold", color=shown.tint(value))
    axes.set(xlim=(-1.1, 1.1), ylim=(-0.1, 1.1), aspect="equal")
    axes.axis("off")


def draw_piechart(axes: Axes, panel: Mapping[str, Any], answers: Sequence[Sequence[type_row]]) -> None:
    rows = answers[0]
    name, value = rows[0]
    colours = [column(panel, row[name]).colour or LINES[place % len(LINES)] for place, row in enumerate(rows)]
    values = [row[value] for row in rows]
    axes.pie(values, colors=colours, autopct="%.0f %%", startangle=90, radius=0.9)
    for place, row in enumerate(rows):
        axes.plot([], [], "s", color=colours[place], label=f"{row[name]} {column(panel, value).text(row[value])}")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.06), ncols=2)


def draw_table(axes: Axes, panel: Mapping[str, Any], answers: Sequence[Sequence[type_row]]) -> None:
    axes.axis("off")
    width, height = panel["gridPos"]["w"] * COLUMN * 96, panel["gridPos"]["h"] * ROW
    rows = answers[0][: max(int((height - 0.75) / 0.19), 1)]
    columns = [
        one for name in rows[0] if not (one := column(panel, name)).hidden and one.name not in ("from_ms", "to_ms")
    ]
    # As Grafana does: widths that are given are kept, the other columns share what is left.
    needs = {one.name: [len(one.title) + 1, *(len(one.text(row[one.name])) for row in rows)] for one in columns}
    wanted = [max(one.width, 6 * needs[one.name][0] + 8) if one.width else 0 for one in columns]
    free = [0 if one.width else 6 * min(max(needs[one.name]), 70) + 10 for one in columns]
    left_over = max(width - 16 - sum(wanted), 0.3 * width)
    wanted = [space or left_over * part / sum(free) for space, part in zip(wanted, free, strict=True)]
    scale = (width - 16) / sum(wanted)
    tall = axes.get_window_extent().height / DPI
    step, left = min(1 / (len(rows) + 1), 0.27 / tall), 0.0
    for one, space in zip(columns, wanted, strict=True):
        share = space * scale / (width - 16)
        fits = max(int(space * scale / 5.4), 4)
        numbers = all(not isinstance(row[one.name], str | datetime) for row in rows)
        x, side = (left + share - 0.004, "right") if numbers else (left + 0.004, "left")
        axes.text(
            x,
            1 - step / 2,
            cut(one.title, int(space * scale / 6.3)),
            ha=side,
            va="center",
            weight="bold",
            color="#1F5FAE",
        )
        for place, row in enumerate(rows, 1):
            value, tint = row[one.name], one.tint(row[one.name])
            colour = "#1D2126"
            if one.cell == "color-background" and tint and tint != "transparent" and value is not None:
                axes.add_patch(Rectangle((left, 1 - step * (place + 1)), share, step, color=tint, alpha=0.55, lw=0))
            elif one.cell == "color-text" and tint:
                colour = tint
            axes.text(x, 1 - step * (place + 0.5), cut(one.text(value), fits), ha=side, va="center", color=colour)
        left += share
    for place in range(1, len(rows) + 1):
        axes.axhline(1 - step * place, color="#E6E8EB", linewidth=0.6)
    axes.set(xlim=(0, 1), ylim=(0, 1))


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def draw_state_timeline(axes: Axes, panel: Mapping[str, Any], answers: Sequence[Sequence[type_row]]) -> None:
    names: list[str] = []
    for rows in answers:
        if not rows:
            continue
        (name,) = (one for one in rows[0] if one != "time")
        shown = column(panel, name)
        blocks: dict[str, list[tuple[datetime, timedelta]]] = {}
        for now, then in itertools.pairwise(rows):
            if now[name] is not None:
                blocks.setdefault(now[name], []).append((now["time"], then["time"] - now["time"]))
        for value, spans in blocks.items():
            axes.broken_barh(spans, (len(names) - 0.4, 0.8), color=shown.mapping.get(value, "#B8BCC4"))  # type: ignore[arg-type]
        names.append(name)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    locator = AutoDateLocator(minticks=3, maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    used = dict(column(panel, names[0]).mapping.items())
    for value, colour in used.items():
        axes.barh([0], [0], left=axes.get_xlim()[0], color=colour, label=value)
    legend(axes, len(used))


DRAW: Final = {
    "timeseries": draw_timeseries,
    "barchart": draw_barchart,
    "bargauge": draw_bargauge,
    "stat": draw_stat,
    "gauge": draw_gauge,
    "piechart": draw_piechart,
    "table": draw_table,
    "state-timeline": draw_state_timeline,
}


# ---- A picture


def paint(title: str, chosen: Sequence[tuple[dict[str, Any], list[list[type_row]]]]) -> bytes:
    """A PNG: the panels and their answers at the places that the dashboard gives them, without gaps."""
    tops: dict[int, float] = {}
    at = 0.42
    for y in sorted({panel["gridPos"]["y"] for panel, _ in chosen}):
        tops[y] = at
        at += max(panel["gridPos"]["h"] for panel, _ in chosen if panel["gridPos"]["y"] == y) * ROW
    wide = 24 * COLUMN
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(wide, at + 0.08), dpi=DPI, facecolor="#F4F5F7")
        figure.text(0.008, 1 - 0.26 / (at + 0.08), title, fontsize=12, weight="bold", color="#1D2126")
        for panel, answers in chosen:
            place = panel["gridPos"]
            left, top = place["x"] * COLUMN + 0.04, tops[place["y"]] + 0.04
            width, height = place["w"] * COLUMN - 0.08, place["h"] * ROW - 0.08

            def box(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
                return x / wide, 1 - (y + h) / (at + 0.08), w / wide, h / (at + 0.08)

            x0, y0, w0, h0 = box(left, top, width, height)
            figure.add_artist(
                Rectangle((x0, y0), w0, h0, transform=figure.transFigure, fc="white", ec="#DDE0E4", zorder=-1)
            )
            figure.text(
                x0 + 0.006, y0 + h0 - 0.2 / at, cut(panel["title"], int(width * 12)), fontsize=8.2, weight="bold"
            )
            kind, many = panel["type"], sum(len(rows) for rows in answers)
            margins = {"timeseries": (0.55, 0.55), "barchart": (0.5, 0.5), "state-timeline": (1.05, 0.62)}
            before, below = margins.get(kind, (0.12, 0.06))
            if kind == "bargauge" or (kind == "barchart" and panel["options"]["orientation"] == "horizontal"):
                before = 1.25
            if kind == "barchart" and panel["gridPos"]["w"] <= 8:
                below += 0.12
            axes = figure.add_axes(box(left + before, top + 0.32, width - before - 0.15, height - 0.36 - below))
            if many:
                DRAW[kind](axes, panel, answers)
            else:
                axes.axis("off")
                axes.text(0.5, 0.5, panel["fieldConfig"]["defaults"]["noValue"], ha="center", va="center")
        raw = io.BytesIO()
        figure.savefig(raw, format="png")
    return smaller(raw.getvalue())


def of_clickhouse(opened: Opened, asked: Sequence[Query]) -> list[list[type_row]]:
    return [opened.run(query)[1] for query in asked]


def of_prometheus(
    url: str, until: datetime, minutes: int, asked: Sequence[Query], panel: Mapping[str, Any]
) -> list[list[type_row]]:
    """The range of each query, as rows of time, the labels by which series differ, and Value."""
    made = []
    for target, query in zip(panel["targets"], asked, strict=True):
        expression = query.text.replace("$__rate_interval", "1m").replace("$__range", f"{minutes}m")
        expression = re.sub(r"\$\{?\w+(:\w+)?\}?", ".*", expression)
        answer = requests.get(
            f"{url}/api/v1/query_range",
            params={
                "query": expression,
                "start": str(until.timestamp() - 60 * minutes),
                "end": str(until.timestamp()),
                "step": "5",
            },
            timeout=30,
        )
        answer.raise_for_status()
        rows: list[type_row] = []
        for one in answer.json()["data"]["result"]:
            name = re.sub(
                r"\{\{\s*(\w+)\s*\}\}", lambda f, one=one: one["metric"].get(f[1], ""), target.get("legendFormat") or ""
            )
            rows += [
                {"time": datetime.fromtimestamp(at, UTC), "name": name or query.panel, "Value": float(value)}
                for at, value in one["values"]
                if value != "NaN"
            ]
        made.append(sorted(rows, key=lambda row: row["time"]))
    return made


def a_call(opened: Opened) -> Picture:
    """A call of the hours in which the queue was sour, with silences and an alert."""
    row = opened.client.query(
        """SELECT tenant, call_id, min(started_at), max(ended_at) FROM call_metrics FINAL
WHERE tenant = {tenant:String} AND queue = {queue:String} AND pipeline_version = {version:String} AND silences > 0
    AND started_at BETWEEN {since:DateTime64(3)} AND {since:DateTime64(3)} + INTERVAL 7 HOUR
    AND duration_ms BETWEEN 200000 AND 420000 AND (tenant, call_id) IN (SELECT tenant, call_id FROM alerts)
GROUP BY tenant, call_id HAVING count() = 2 ORDER BY call_id LIMIT 1""",
        {"tenant": SOUR_TENANT, "queue": SOUR_QUEUE, "version": VERSION, "since": sour_from(UNTIL)},
    ).result_rows[0]
    begun, ended = (moment.replace(tzinfo=UTC) for moment in row[2:4])
    margin = timedelta(seconds=10)
    return Picture(PICTURES["call"].panels, ended + margin, begun - margin, {"tenant": [row[0]], "call": row[1]})


def listed(board: dict[str, Any]) -> str:
    """Markdown: each panel and what it shows; of a dashboard with dozens of them (Operations) by section."""
    every = list(panels(board))
    if len(every) <= 30:
        return "".join(f"- **{one['title']}.** {one['description']}\n" for one in every)
    lines: list[list[str]] = []
    for one in board["panels"]:
        if one["type"] == "row":
            lines.append([f"- **{one['title']}.**", *(inner["title"] for inner in one.get("panels") or [])])
        else:
            lines[-1].append(one["title"])
    return "".join(f"{head} {'; '.join(titles)}.\n" for head, *titles in lines)


def with_lists(text: str) -> str:
    """docs/analytics.md with the panels as they are now."""
    boards = committed()

    def one(found: re.Match[str]) -> str:
        return f"<!-- panels: {found[1]} -->\n{listed(boards[found[1]])}<!-- end of panels -->"

    return re.sub(r"<!-- panels: (\w+) -->\n.*?<!-- end of panels -->", one, text, flags=re.DOTALL)


def report_page(settings: Settings) -> bytes:
    """The top of the page of `calltide report --html`, as Chromium shows it."""
    document = page(gather(settings, Scope(UNTIL - timedelta(days=7), UNTIL)))
    with tempfile.TemporaryDirectory() as made, chromium() as browser:
        file = Path(made) / "report.html"
        file.write_text(document, encoding="utf-8")
        shown = browser.new_page(viewport={"width": 1000, "height": 1650})
        shown.goto(file.as_uri())
        raw = shown.screenshot()
    return smaller(raw)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser that is installed, else Playwright's own."""
    with sync_playwright() as playwright:
        found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
        path = next(filter(None, found), playwright.chromium.executable_path)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def smaller(png: bytes) -> bytes:
    """With 128 colours."""
    made = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128).save(made, format="png", optimize=True)
    return made.getvalue()


def keep(directory: Path, name: str, png: bytes, console: Console) -> None:
    """Write it. Raises SystemExit when it is too large for the repository."""
    if len(png) > LARGEST:
        raise SystemExit(f"{name}.png has {len(png):,} bytes: show fewer panels")
    (directory / f"{name}.png").write_bytes(png)
    console.print(f"{directory / name}.png, {len(png):,} bytes")


@contextmanager
def home_of(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
    else:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)


def main() -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, help="keep the database here, for the next time")
    parser.add_argument("--out", type=Path, default=OUT, help="where to (default: docs/pictures)")
    parser.add_argument("--prometheus", help="address of a Prometheus that scrapes a running chain, for Operations")
    parser.add_argument("--minutes", type=int, default=10, help="how far back Operations looks")
    parser.add_argument("--lists", action="store_true", help="draw nothing, only bring docs/analytics.md up to date")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PICTURES)}, report (default: all)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    DOCUMENT.write_text(with_lists(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    if options.lists:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    boards, console = committed(), Console()
    every = list(queries())
    drawable = [name for name in (*PICTURES, "report") if name != "operations" or options.prometheus]
    wanted = options.names or drawable
    if not set(wanted) <= set(drawable):
        parser.error(f"choose of {', '.join(drawable)}; Operations needs --prometheus")
    with home_of(options.home) as home, database(home, "month") as (_, settings, client):
        if wanted != ["operations"]:
            load(settings, client, UTTERANCES, console)
        for name in wanted:
            if name == "report":
                keep(options.out, name, report_page(settings), console)
                continue
            board, picture = boards[name], PICTURES[name]
            if name == "call":
                picture = a_call(Opened(client, board["uid"], UNTIL, {}))
            opened = Opened(client, board["uid"], picture.until, dict(picture.given), picture.since)
            chosen: list[tuple[dict[str, Any], list[list[type_row]]]] = []
            for panel in panels(board):
                # Two panels may have one title: the first is meant.
                if panel["title"] not in picture.panels or panel["title"] in {one["title"] for one, _ in chosen}:
                    continue
                asked = [one for one in every if (one.dashboard, one.panel) == (board["uid"], panel["title"])]
                asked = asked[: len(panel["targets"])]
                if name == "operations":
                    answers = of_prometheus(options.prometheus, datetime.now(UTC), options.minutes, asked, panel)
                else:
                    answers = of_clickhouse(opened, asked)
                chosen.append((panel, answers))
            keep(options.out, name, paint(board["title"], chosen), console)


if __name__ == "__main__":
    main()
