"""A call as a PDF, fit to hand to a coach: what it was about, how it went, where it hurt, and every word.

A changer must know: whatever comes from a call goes through `_text`, for reportlab takes markup; fonts are matplotlib's
own DejaVu, which have Latin, Greek, Cyrillic and more, and a box for what they have not. matplotlib's settings are of
the whole process, so one PDF is drawn at a time.
"""

import io
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from reportlab.lib.colors import HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Image, KeepTogether, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from streams.api.export_forms import Whole, name_of
from streams.report.charts import EMOTION_COLOURS, GREEN, GREY, RED, ROLE_COLOURS, STYLE

FONT: Final = "DejaVu"
BOLD: Final = "DejaVu-Bold"
WIDTH: Final = A4[0] - 36 * mm
DPI: Final = 170
INCH: Final = 72.0
CLEAR: Final = 0.2
"""From here on a score is called negative or positive, as everywhere (docs/sentiment.md)."""
SEVERITIES: Final = {"critical": RED, "warning": "#B36B00", "info": GREY}
LONG_MS: Final = 180_000
"""From here on a chart counts minutes."""
ROWS: Final = 40
"""Of a table: reportlab divides a long one again and again. Judgement."""
_DRAWING: Final = threading.Lock()


@cache
def _fonts() -> None:
    directory = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pdfmetrics.registerFont(TTFont(FONT, directory / "DejaVuSans.ttf"))
    pdfmetrics.registerFont(TTFont(BOLD, directory / "DejaVuSans-Bold.ttf"))
    pdfmetrics.registerFontFamily(FONT, normal=FONT, bold=BOLD, italic=FONT, boldItalic=BOLD)


_PLAIN: Final = ParagraphStyle("plain", fontName=FONT, fontSize=8.5, leading=12, textColor=HexColor("#1d2126"))
_SMALL: Final = ParagraphStyle("small", _PLAIN, fontSize=7.5, leading=10.5)
_DIM: Final = ParagraphStyle("dim", _SMALL, textColor=HexColor("#5f6772"))
_RIGHT: Final = ParagraphStyle("right", _SMALL, alignment=TA_RIGHT)
_TITLE: Final = ParagraphStyle("title", _PLAIN, fontName=BOLD, fontSize=17, leading=22)
_HEADING: Final = ParagraphStyle(
    "heading", _PLAIN, fontName=BOLD, fontSize=11.5, leading=15, spaceBefore=9, spaceAfter=3
)
_BULLET: Final = ParagraphStyle("bullet", _PLAIN, leftIndent=10, bulletIndent=1)


def as_pdf(whole: Whole) -> bytes:
    """The document."""
    with _DRAWING:
        _fonts()
        file = io.BytesIO()
        call = whole.call
        document = SimpleDocTemplate(
            file,
            pagesize=A4,
            leftMargin=18 * mm,
            rightMargin=18 * mm,
            topMargin=15 * mm,
            bottomMargin=17 * mm,
            title=f"Call {call['call_id']}",
            author="Calltide",
            subject="call report",
            lang="en",
            invariant=1,
        )
        foot = f"{call['call_id']} · heard by version {call['pipeline_version']} · Calltide"

        def page(canvas: Any, at: Any) -> None:
            canvas.saveState()
            canvas.setFont(FONT, 7)
            canvas.setFillColor(HexColor("#5f6772"))
            canvas.drawString(18 * mm, 10 * mm, _shown(foot)[:120])
            canvas.drawRightString(A4[0] - 18 * mm, 10 * mm, str(at.page))
            canvas.restoreState()

        document.build([*_story(whole)], onFirstPage=page, onLaterPages=page)
        return file.getvalue()


def _shown(text: str) -> str:
    """Without what is no letter: a font has no shape for it, and a PDF no place."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _text(text: Any) -> str:
    return escape(_shown(str(text)))


def clock(ms: int) -> str:
    """m:ss, or h:mm:ss."""
    seconds = ms // 1_000
    if seconds < 3_600:
        return f"{seconds // 60}:{seconds % 60:02}"
    return f"{seconds // 3_600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _mood(score: float | None) -> str:
    """A score in its colour."""
    if score is None:
        return "–"
    colour = RED if score <= -CLEAR else GREEN if score >= CLEAR else "#4a515b"
    return f'<font color="{colour}">{score:+.2f}</font>'.replace(">-", ">−")


def _story(whole: Whole) -> Iterator[Flowable]:
    call = whole.call
    yield Paragraph(f"Call {_text(call['call_id'])}", _TITLE)
    facts = {
        "began": call["started_at"][:16].replace("T", " ") + " UTC",
        "length": clock(call["duration_ms"]) if call["duration_ms"] is not None else "goes on",
        "queue": call["queue"],
        "agent": call["agent"],
        "language": call["language"],
        "file": call["source"],
        "categories": ", ".join(call["categories"]),
    }
    line = " &nbsp; ".join(
        f'<font color="#5f6772">{name}</font> {_text(value)}' for name, value in facts.items() if value
    )
    yield Paragraph(f'{line} &nbsp; <font color="#5f6772">score</font> {_mood(call["score"])}', _PLAIN)
    yield from _about(whole)
    yield from _charts(whole)
    yield from _marks(whole)
    yield from _parties(whole)
    yield from _cards(whole)
    yield from _transcript(whole)


def _about(whole: Whole) -> Iterator[Flowable]:
    found = whole.insights or {}
    parts: list[tuple[str, Sequence[str]]] = [
        ("Summary", [_text(one["text"]) for one in found.get("summary", ())]),
        ("Why", [_text(one["text"]) for one in (found.get("reason"),) if one]),
        ("Outcome", [_outcome(found)] if found.get("outcome") or _resolved(found) else []),
        ("Topics", [_text(" › ".join(one["path"])) for one in found.get("topics", ())]),
        ("What was wrong", [_at(one) for one in found.get("issues", ())]),
        ("Objections", [_at(one) for one in found.get("objections", ())]),
        ("To be done", [_action(one) for one in found.get("action_items", ())]),
        ("For coaching", [_at(one) for one in found.get("coaching", ())]),
    ]
    if not any(lines for _, lines in parts):
        why = found.get("why") or "nothing is known yet"
        yield Paragraph("What it was about", _HEADING)
        yield Paragraph(_text(why), _DIM)
        return
    for title, lines in parts:
        if lines:
            bullets = [Paragraph(line, _BULLET, bulletText="•") for line in lines]
            yield KeepTogether([Paragraph(title, _HEADING), bullets[0]])
            yield from bullets[1:]


def _resolved(found: Mapping[str, Any]) -> str:
    resolved = (found.get("resolution") or {}).get("resolved", "unknown")
    return "" if resolved == "unknown" else f"resolved: {resolved}"


def _outcome(found: Mapping[str, Any]) -> str:
    text = _text(found["outcome"]["text"]) if found.get("outcome") else ""
    return " – ".join(part for part in (text, _resolved(found)) if part)


def _at(one: Mapping[str, Any]) -> str:
    moments = ", ".join(clock(evidence["start_ms"]) for evidence in one["evidence"][:3])
    return f"<b>{_text(one['name'].replace('_', ' '))}</b> ({moments}): {_text(one['text'])}"


def _action(one: Mapping[str, Any]) -> str:
    due = f", {_text(one['due'])}" if one.get("due") else ""
    return f"<b>{_text(one['owner'])}</b>{due} ({clock(one['evidence'][0]['start_ms'])}): {_text(one['text'])}"


def _charts(whole: Whole) -> Iterator[Flowable]:
    if any(said["score"] is not None for said in whole.utterances):
        yield KeepTogether([
            Paragraph("Sentiment by party", _HEADING),
            _chart(lambda axes: draw_sentiment(axes, whole), 7.0, 2.3),
            Paragraph("Each point an utterance, the line the mean of five; −1 to 1. Dashed: alerts.", _DIM),
        ])  # fmt: skip
    parties = whole.figures["parties"]
    if parties:
        height = 0.75 + 0.28 * len(parties)
        yield KeepTogether([
            Paragraph("Talk and emotions", _HEADING),
            _chart(lambda axes: _talk(axes, whole), 7.0, height),
            Paragraph("Talk of each party in seconds, by the emotion of the voice where it was computed.", _DIM),
        ])  # fmt: skip


def _chart(draw: Callable[[Axes], None], width: float, height: float) -> Image:
    """`width`, `height`: inches."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    file.seek(0)
    return Image(file, width=WIDTH, height=WIDTH * height / width)


def _parties_of(whole: Whole) -> dict[tuple[str, str], str]:
    """(role, speaker) → colour, in the order in which they speak."""
    found: dict[tuple[str, str], str] = {}
    others = iter(("#17858F", "#9B59B6", "#8C6D31", "#555B66") * 8)
    for said in whole.utterances:
        key = said["role"], said["speaker"]
        if key not in found:
            taken = ROLE_COLOURS[said["role"]]
            found[key] = taken if taken not in found.values() else next(others)
    return found


def draw_sentiment(axes: Axes, whole: Whole) -> None:
    """Sentiment by party, and the alerts, over seconds or, of a long call, minutes."""
    length_ms = whole.call["duration_ms"] or max((said["end_ms"] for said in whole.utterances), default=0)
    unit, name = (60_000, "minutes") if length_ms > LONG_MS else (1_000, "seconds")
    for (role, speaker), colour in _parties_of(whole).items():
        points = [
            ((said["start_ms"] + said["end_ms"]) / 2 / unit, said["score"])
            for said in whole.utterances
            if (said["role"], said["speaker"]) == (role, speaker) and said["score"] is not None
        ]
        if not points:
            continue
        times, scores = [x for x, _ in points], [y for _, y in points]
        means = [sum(near) / len(near) for n in range(len(scores)) if (near := scores[max(n - 2, 0) : n + 3])]
        axes.plot(times, scores, "o", color=colour, markersize=2.5, alpha=0.45)
        label = _shown(name_of({"role": role, "speaker": speaker}))[:30]
        axes.plot(times, means, color=colour, linewidth=1.6, label=label)
    for mark in whole.call["marks"]:
        if mark["kind"] == "alert":
            axes.axvline(
                mark["at_ms"] / unit, color=SEVERITIES.get(mark["severity"], GREY), linestyle="--", linewidth=1
            )
    axes.axhline(0, color="#9AA0A8", linewidth=0.8)
    axes.set_ylim(-1.05, 1.05)
    axes.set_xlim(0, max(length_ms / unit, 1))
    axes.set_xlabel(name)
    axes.legend(loc="upper right", ncols=3, fontsize=7)


def _talk(axes: Axes, whole: Whole) -> None:
    parties = [*reversed(whole.figures["parties"])]
    shown: set[str] = set()
    for place, party in enumerate(parties):
        left = 0.0
        emotions = {name: ms for name, ms in party["emotion_ms"].items() if ms}
        rest = max(party["talk_ms"] - sum(emotions.values()), 0)
        for name, ms in [*emotions.items(), *([("not computed", rest)] if rest else [])]:
            colour = EMOTION_COLOURS.get(name, "#E2E4E8")
            label = None if name in shown else name
            shown.add(name)
            axes.barh(place, ms / 1_000, left=left, color=colour, label=label, height=0.6)
            left += ms / 1_000
        share = f" {party['talk_share']:.0%}"
        axes.text(left, place, share, va="center", fontsize=8)
    axes.set_yticks(range(len(parties)), [_shown(name_of(party))[:30] for party in parties])
    axes.margins(x=0.1)
    axes.set_xlabel("seconds")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.0), ncols=7, fontsize=7).set_loc("lower left")


def _grid(rows: Sequence[Sequence[Any]], widths: Sequence[float], head: bool = True) -> Iterator[Flowable]:
    """A table, in parts; its first row heads each."""
    style = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("TOPPADDING", (0, 0), (-1, -1), 1.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
        ("LEFTPADDING", (0, 0), (-1, -1), 3),
        ("RIGHTPADDING", (0, 0), (-1, -1), 3),
        ("LINEBELOW", (0, 0), (-1, -1), 0.25, HexColor("#e6e8eb")),
    ]
    first = rows[:1] if head else []
    for at in range(len(first), len(rows), ROWS):
        part = [*(first if at == len(first) else []), *rows[at : at + ROWS]]
        headed = [("BACKGROUND", (0, 0), (-1, 0), HexColor("#f4f5f7"))] if head and at == len(first) else []
        yield Table(part, [WIDTH * width for width in widths], style=TableStyle(style + headed), splitInRow=1)


def _head(*names: str) -> list[Paragraph]:
    return [Paragraph(f"<b>{name}</b>", _SMALL) for name in names]


def _marks(whole: Whole) -> Iterator[Flowable]:
    marks = whole.call["marks"]
    if not marks:
        return
    yield Paragraph("Alerts and categories", _HEADING)
    rows: list[list[Any]] = [_head("at", "what", "severity", "why")]
    for mark in marks:
        severity = mark["severity"] or ""
        shown = f'<font color="{SEVERITIES.get(severity, GREY)}">{_text(severity)}</font>' if severity else "category"
        rows.append([
            Paragraph(clock(mark["at_ms"]), _SMALL), Paragraph(_text(mark["name"]), _SMALL),
            Paragraph(shown, _SMALL), Paragraph(_text(mark["text"] or mark["rule"]), _SMALL),
        ])  # fmt: skip
    yield from _grid(rows, (0.09, 0.22, 0.12, 0.57))


def _parties(whole: Whole) -> Iterator[Flowable]:
    if not whole.figures["parties"]:
        return
    yield Paragraph("Figures", _HEADING)
    rows: list[list[Any]] = [
        _head("party", "talk", "share", "words/min", "score", "change", "longest turn", "interrupts", "− / 0 / +")
    ]
    for party in whole.figures["parties"]:
        rate, change, interrupts = party["words_per_minute"], party["change"], party["interruptions"]
        cells = (
            _text(name_of(party)), clock(party["talk_ms"]), f"{party['talk_share']:.0%}",
            "–" if rate is None else f"{rate:.0f}", _mood(party["score"]), "–" if change is None else f"{change:+.1f}",
            clock(party["longest_monologue_ms"]), "–" if interrupts is None else str(interrupts),
            f"{party['negative']} / {party['neutral']} / {party['positive']}",
        )  # fmt: skip
        rows.append([Paragraph(cell, _SMALL) for cell in cells])
    yield from _grid(rows, (0.17, 0.09, 0.08, 0.12, 0.09, 0.1, 0.13, 0.11, 0.11))
    silence = whole.figures["silence_ms"]
    yield Paragraph(
        f"Silences of 5 s and more: {whole.figures['silences']}, {clock(silence)} in all, the longest "
        f"{clock(whole.figures['longest_silence_ms'])}. Change: the score of the last quarter less that of the first, "
        "−5 to 5.",
        _DIM,
    )


def _cards(whole: Whole) -> Iterator[Flowable]:
    """Score cards: a table for each form, a line for each item."""
    for card in whole.evaluations:
        score = "no score" if card["score"] is None else f"{card['score']:.0f} of 100"
        yield Paragraph(f"Score card {_text(card['form'])}: {score}", _HEADING)
        if card["why"]:
            yield Paragraph(_text(card["why"]), _DIM)
        rows: list[list[Any]] = [_head("section", "asked", "points", "why")]
        for section in card["sections"]:
            of = "–" if section["score"] is None else f"{section['score']:.0f}"
            for place, item in enumerate(section["items"]):
                earned = "–" if item["earned"] is None else f"{item['earned']:g}"
                colour = GREY if item["earned"] is None else GREEN if item["earned"] else RED
                moments = [clock(one["start_ms"]) for one in item["evidence"][:1]]
                at = "".join(f" ({moment})" for moment in moments if moment not in item["why"])
                rows.append([
                    Paragraph("" if place else f"<b>{_text(section['name'])}</b> {of}", _SMALL),
                    Paragraph(_text(item["name"]), _SMALL),
                    Paragraph(f'<font color="{colour}">{earned} of {item["points"]:g}</font>', _SMALL),
                    Paragraph(_text(item["why"]) + at, _SMALL),
                ])  # fmt: skip
        yield from _grid(rows, (0.17, 0.28, 0.11, 0.44))
        yield Paragraph(
            f"A section's score is what was earned of the points that could be judged; – could not be judged. "
            f"{card['judged']:.0%} of the form was. It tells where to listen, and is no judgement of a person.",
            _DIM,
        )


def _transcript(whole: Whole) -> Iterator[Flowable]:
    yield Paragraph("Transcript", _HEADING)
    rows: list[list[Any]] = [_head("at", "who", "what was said", "score", "voice")]
    colours = _parties_of(whole)
    for said in whole.utterances:
        text = _text(said["text"]) or '<font color="#5f6772">(no words)</font>'
        for alert in said["alerts"]:
            colour = SEVERITIES.get(alert["severity"], GREY)
            text += f'<br/><font color="{colour}">▲ {_text(alert["category"])}: {_text(alert["message"])}</font>'
        who = f'<font color="{colours[said["role"], said["speaker"]]}">{_text(name_of(said))}</font>'
        voice = said["emotion"] or "–"
        if said["disagree"]:
            voice += "<br/>voice ≠ words"
        rows.append([
            Paragraph(clock(said["start_ms"]), _SMALL), Paragraph(who, _SMALL), Paragraph(text, _SMALL),
            Paragraph(_mood(said["score"]), _RIGHT), Paragraph(voice, _SMALL),
        ])  # fmt: skip
    if len(rows) == 1:
        yield Paragraph("Nothing was said.", _DIM)
        return
    yield from _grid(rows, (0.08, 0.13, 0.58, 0.08, 0.13))
    yield Spacer(1, 4)
