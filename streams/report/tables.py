"""The figures as tables of text, which the terminal and the page both show, and `calltide report` on the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as Drawn
from rich.text import Text

from streams.report.figures import FEWEST_CALLS, NEGATIVE, POSITIVE, Compared, Mood, Report

Tone = Literal["", "bad", "good", "dim"]
LISTED: Final = 12
"""Agents on the terminal; of more, the first and the last of them. The page has all."""
WIDE: Final = 120
PIPED: Final = 160
"""Characters a line where there is no terminal."""
TIME: Final = "%Y-%m-%d %H:%M"


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and whether it is good or bad."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """A table with its title, and a sentence of how to read it. `name`: for links and charts."""

    name: str
    title: str
    note: str
    columns: Sequence[str]
    """A leading `>` aligns the column to the right: it is numbers."""
    rows: Sequence[Sequence[Cell]]
    nothing: str
    """What is said where there are no rows."""
    wide: Sequence[str] = ()
    """Columns that a terminal of less than WIDE characters leaves out."""


def shown(text: str) -> str:
    """Text of a call, one that ClickHouse gave, without what a terminal obeys and XML does not allow."""
    return "".join(one if one.isprintable() else " " if one.isspace() else "\ufffd" for one in text)


def heading(report: Report) -> str:
    """What is reported on, in one line."""
    scope = report.scope
    chosen = [*scope.tenants, *scope.queues, *scope.agents]
    others = [one for one in report.versions if one != report.version]
    parts = [f"{scope.since:{TIME}} to {scope.until:{TIME}} UTC", *map(shown, chosen)]
    parts.append(f"heard by {shown(report.version)}" + (f" (also: {', '.join(map(shown, others))})" if others else ""))
    return ", ".join(parts)


def tables(report: Report) -> list[Table]:
    """All of them, in the order of their importance."""
    return [
        _overview(report),
        _queues(report),
        _agents(report),
        _angriest(report),
        _emotions(report),
        _disagreements(report),
        _worst(report),
        _alerts(report),
        _dead_letters(report),
    ]


def _score(value: float | None, digits: int = 2, *, bad: float = NEGATIVE, good: float = POSITIVE) -> Cell:
    if value is None:
        return Cell("–", "dim")
    return Cell(f"{round(value, digits) + 0.0:+.{digits}f}", "bad" if value <= bad else "good" if value >= good else "")


def _turn(value: float | None) -> Cell:
    """Of the scale −5 to 5."""
    return _score(value, 1, bad=-1, good=1)


def _share(value: float | None, bad: float = 2.0) -> Cell:
    return Cell("–", "dim") if value is None else Cell(f"{value:.1%}", "bad" if value >= bad else "")


def _plus(value: float | None, half: float | None) -> Cell:
    """A difference with its interval: good or bad if the interval leaves 0 out."""
    if value is None or half is None:
        return Cell("–", "dim")
    tone: Tone = "bad" if value + half < 0 else "good" if value - half > 0 else "dim"
    return Cell(f"{value:+.2f} ± {half:.2f}", tone)


def _mean(mood: Mood | None) -> Cell:
    if mood is None:
        return Cell("–", "dim")
    cell = _score(mood.score)
    return Cell(cell.text + (f" ± {mood.half:.2f}" if mood.half is not None else ""), cell.tone)


def _overview(report: Report) -> Table:
    spoken, now, then = report.spoken, report.mood, report.mood_before
    labelled = spoken.negative + spoken.neutral + spoken.positive
    blank = Cell("")

    def row(name: str, value: Cell, before: Cell = blank) -> list[Cell]:
        return [Cell(name), value, before]

    def seconds(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f} s"

    return Table(
        "overview",
        "Key figures",
        "A call's sentiment is the mean of everybody in it who is not known to be the agent, from −1 to 1; "
        "± is the 95 % confidence interval over calls.",
        ("", ">in this time", ">the time before"),
        [
            row("calls", Cell(f"{report.calls:,}"), Cell(f"{report.calls_before:,}")),
            row("of them without an end", Cell(f"{report.running:,}")),
            row("hours of calls", Cell(f"{report.call_hours:,.1f}")),
            row("hours of speech", Cell(f"{spoken.speech_hours:,.1f}")),
            row("utterances", Cell(f"{spoken.utterances:,}")),
            row("words", Cell(f"{spoken.words:,}")),
            row("sentiment of calls", _mean(now), _mean(then)),
            row(
                "negative calls (−0.2 and less)",
                _share(now.negative if now else None, 0.4),
                _share(then.negative if then else None),
            ),
            row(
                "positive calls (0.2 and more)",
                _share(now.positive if now else None),
                _share(then.positive if then else None),
            ),
            row(
                "start to end of a call (−5 to 5)",
                _turn(now.change if now else None),
                _turn(then.change if then else None),
            ),
            row(
                "calls that turned worse",
                _share(now.turned_worse if now else None, 0.4),
                _share(then.turned_worse if then else None),
            ),
            row("negative utterances", _share(spoken.negative / labelled if labelled else None)),
            row("positive utterances", _share(spoken.positive / labelled if labelled else None)),
            row("words and voice disagree", _share(spoken.disagree / spoken.voiced if spoken.voiced else None, 0.1)),
            row(
                "latency: half, 95 %, 99 % of scores within",
                Cell(", ".join(map(seconds, (spoken.latency_p50_s, spoken.latency_p95_s, spoken.latency_p99_s)))),
            ),
            row("utterances heard with less effort", Cell(f"{spoken.degraded:,}")),
            row("alerts, without those for information", Cell(f"{_alerts_of(report):,}")),
            row(
                "dead letters that are open", Cell(f"{_open_letters(report):,}", "bad" if _open_letters(report) else "")
            ),
        ],
        "",
    )


def _alerts_of(report: Report) -> int:
    return sum(row["alerts"] for row in report.alerts if row["severity"] != "info")


def _open_letters(report: Report) -> int:
    return sum(row["open"] for row in report.dead_letters)


_VERDICTS: Final[dict[str, Tone]] = {"better": "good", "worse": "bad", "not shown to differ": "dim"}
_COMPARED: Final = (
    ">calls",
    ">sentiment",
    ">95 % from",
    ">to",
    "against all",
    ">negative",
    ">start → end",
    ">since the time before",
)


def _compared(one: Compared) -> list[Cell]:
    return [
        Cell(shown(one.tenant)),
        Cell(shown(one.name)),
        Cell(f"{one.calls:,}"),
        _score(one.score),
        Cell(f"{one.score - one.half:+.2f}"),
        Cell(f"{one.score + one.half:+.2f}"),
        Cell(one.against_all, _VERDICTS[one.against_all]),
        _share(one.negative),
        _turn(one.change),
        _plus(one.since_before, one.since_before_half),
    ]


def _queues(report: Report) -> Table:
    return Table(
        "queues",
        "Mood by queue",
        f"Queues with at least {FEWEST_CALLS} calls and {report.scope.minimum} utterances, the lowest first. "
        "A difference to the time before is marked where its interval leaves 0 out.",
        ("tenant", "queue", *_COMPARED),
        [_compared(one) for one in report.queues],
        "no queue has enough calls",
        (">95 % from", ">to", ">negative", ">start → end"),
    )


def _agents(report: Report) -> Table:
    return Table(
        "agents",
        "Agents",
        f"How their callers sound: agents with at least {FEWEST_CALLS} calls and {report.scope.minimum} utterances, "
        "the lowest first. Of 20 who are alike, one stands out by chance; who takes the hard queues looks worse.",
        ("tenant", "agent", *_COMPARED),
        [_compared(one) for one in report.agents],
        "no agent has enough calls",
        (">negative", ">start → end", ">since the time before"),
    )


def _angriest(report: Report) -> Table:
    return Table(
        "angriest",
        "Angriest queues",
        "Share of anger among the utterances whose voice was judged.",
        ("tenant", "queue", ">anger", ">judged"),
        [
            [
                Cell(shown(row["tenant"])),
                Cell(shown(row["name"])),
                _share(row["anger"], 0.3),
                Cell(f"{row['judged']:,}"),
            ]
            for row in report.angriest
        ],
        "no voice was judged",
    )


def _emotions(report: Report) -> Table:
    emotions = report.spoken.emotions
    judged = sum(emotions.values())
    return Table(
        "emotions",
        "Emotions",
        "How the voices sound: utterances whose voice was judged.",
        ("emotion", ">utterances", ">share"),
        [[Cell(name), Cell(f"{count:,}"), _share(count / judged)] for name, count in emotions.items()]
        if judged
        else [],
        "no voice was judged",
    )


def _disagreements(report: Report) -> Table:
    spoken = report.spoken
    return Table(
        "disagreements",
        "Words and voice disagree",
        f"{spoken.disagree:,} of {spoken.voiced:,} utterances with both say clearly different things; furthest:",
        ("when", "tenant", "call", "text", "voice", ">words", ">voice score"),
        [
            [
                Cell(_when(row["spoken_at"])),
                Cell(shown(row["tenant"])),
                Cell(shown(row["call_id"])),
                Cell(shown(row["text"])),
                Cell(shown(row["emotion"])),
                _score(row["text_score"]),
                _score(row["voice_score"]),
            ]
            for row in report.disagreements
        ],
        "nowhere",
        ("when", "tenant", "call"),
    )


def _worst(report: Report) -> Table:
    return Table(
        "worst",
        "Most negative calls",
        "To listen to: the lowest mean of the parties.",
        ("began", "tenant", "call", "queue", "agent", ">sentiment", ">negative", ">start → end"),
        [
            [
                Cell(_when(row["began"])),
                *(Cell(shown(row[name])) for name in ("tenant", "call_id", "queue", "agent")),
                _score(row["score"]),
                _share(row["negative"]),
                _turn(row["change"]),
            ]
            for row in report.worst
        ],
        "no call has ended",
        ("tenant", ">negative", ">start → end"),
    )


def _alerts(report: Report) -> Table:
    tones: dict[str, Tone] = {"critical": "bad", "info": "dim"}
    return Table(
        "alerts",
        "Alerts",
        "What was noticed in calls, and the latest of each.",
        ("severity", "rule", ">alerts", ">calls", "latest", "why"),
        [
            [
                Cell(shown(row["severity"]), tones.get(row["severity"], "")),
                Cell(shown(row["rule"])),
                Cell(f"{row['alerts']:,}"),
                Cell(f"{row['calls']:,}"),
                Cell(_when(row["latest"])),
                Cell(shown(row["latest_text"])),
            ]
            for row in report.alerts
        ],
        "none",
    )


def _dead_letters(report: Report) -> Table:
    return Table(
        "dead-letters",
        "Dead letters",
        "What a stage could not process (`calltide dead-letters list`); they know of no queue, agent or version.",
        ("stage", "error", ">letters", ">open", "latest audio"),
        [
            [
                Cell(shown(row["name"])),
                Cell(shown(row["error"])),
                Cell(f"{row['letters']:,}"),
                Cell(f"{row['open']:,}", "bad" if row["open"] else ""),
                Cell(_when(row["latest"])),
            ]
            for row in report.dead_letters
        ],
        "none",
    )


def _when(moment: datetime) -> str:
    return f"{moment:{TIME}}"


_STYLES: Final = {"": "", "bad": "red", "good": "green", "dim": "dim"}


def show(report: Report, console: Console) -> None:
    """The tables on a terminal."""
    console.print(Text(heading(report), style="bold"))
    for table in tables(report):
        console.print()
        console.print(_drawn(table, console.width))


def _drawn(table: Table, width: int) -> RenderableType:
    title = Text(table.title, style="bold")
    if not table.rows:
        return Group(title, Text(table.nothing, style="dim"))
    drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=any(table.columns))
    kept = [place for place, name in enumerate(table.columns) if width >= WIDE or name not in table.wide]
    for place in kept:
        number, name = table.columns[place].startswith(">"), table.columns[place].removeprefix(">")
        drawn.add_column(Text(name), justify="right" if number else "left", overflow="fold", no_wrap=number)
    rows = list(table.rows)
    left_out = len(rows) - LISTED if table.name == "agents" else 0
    if left_out > 0:
        rows = [*rows[: LISTED // 2], *rows[-LISTED // 2 :]]
    for place, row in enumerate(rows):
        if left_out > 0 and place == LISTED // 2:
            drawn.add_row(Text("…"), Text(f"{left_out} more", style="dim"))
        drawn.add_row(*(Text(row[column].text, style=_STYLES[row[column].tone]) for column in kept))
    return Group(title, Text(table.note, style="dim"), drawn)
