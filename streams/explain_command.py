"""The command `calltide explain`; streams/explain.py does the work.

A changer must know: the command line imports this module at its start, so models, ClickHouse and matplotlib come later.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from processors.explanation import Explanation
    from streams.explain import Heard

SHOWN: int = 5
"""Acoustic features in the table."""


def explain(
    call: Annotated[str, typer.Argument(help="the call's id")],
    utterance: Annotated[
        str | None, typer.Argument(help="CHANNEL/START_MS, its number, or a time such as 1:23; none: list them")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON (docs/explanations.md)")] = False,
    png: Annotated[Path | None, typer.Option(help="write pictures into this directory")] = None,
    voice: Annotated[bool, typer.Option(help="--no-voice: only the words")] = True,
    text: Annotated[bool, typer.Option(help="--no-text: only the voice")] = True,
    version: Annotated[str, typer.Option(help="pipeline version (default: the promoted one, or the latest)")] = "",
    tenant: Annotated[str, typer.Option(help="tenant, where several have a call of that id")] = "",
) -> None:
    """Say why an utterance was scored as it was: what each word adds (docs/explanations.md)."""
    from rich.console import Console

    from streams import explain as explaining
    from streams.settings import load

    settings = load()
    heard = explaining.hear(settings, call, version, tenant)
    terminal = Console()
    if utterance is None:
        _list(terminal, heard)
        return
    score = heard.find(utterance)
    explainer = explaining.Explainer(settings)
    wanted = voice and score.emotion is not None
    sound = explaining.read_audio(settings, score, heard.partition) if wanted else explaining.Audio(None)
    explained = explainer.explain(score, heard.others(score), sound, voice=voice, words=text)
    if json:
        typer.echo(explained.model_dump_json(indent=2))
    else:
        _show(terminal, explained)
    if png is not None:
        from streams.explain_pictures import draw

        for path in draw(png, explained, sound.samples):
            typer.echo(f"wrote {path}", err=json)


def _list(terminal: "Console", heard: "Heard") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name, justify in (("#", "right"), ("at", "right"), ("id", "left"), ("who", "left"), ("emotion", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("score", justify="right")
    table.add_column("text", overflow="fold")
    for number, score in enumerate(heard.scores, 1):
        seconds = score.start_ms // 1_000
        table.add_row(
            str(number),
            f"{seconds // 60}:{seconds % 60:02}",
            f"{score.channel}/{score.start_ms}",
            Text(score.speaker),
            score.emotion.label if score.emotion else "",
            f"{score.sentiment.score:+.2f}" if score.sentiment else "",
            Text(score.text),
        )
    terminal.print(table)


def _show(terminal: "Console", explained: "Explanation") -> None:
    from rich.table import Table
    from rich.text import Text

    seconds = explained.start_ms // 1_000
    terminal.print(
        Text(
            f"{explained.call_id} {explained.channel}/{explained.start_ms} ({seconds // 60}:{seconds % 60:02}), "
            f"{explained.speaker}: “{explained.text}”"
        )
    )
    for name, one in (("voice", explained.voice), ("words", explained.words)):
        if one is None:
            continue
        terminal.print(
            Text(
                f"\n{name}: {one.label} {one.value:+.3f} = {one.baseline:+.3f} of nothing "
                f"{one.value - one.baseline:+.3f} of the parts ({one.method}, {one.questions} questions, {one.model})",
                style="bold",
            )
        )
        table = Table(box=None, pad_edge=False)
        table.add_column("part", overflow="fold")
        for column in ("adds", "", "linear fit", "attention"):
            table.add_column(column, justify="left" if not column else "right")
        most = max(abs(part.contribution) for part in one.parts) or 1.0
        for part in one.parts:
            bar = "█" * round(10 * abs(part.contribution) / most)
            table.add_row(
                Text(part.text),
                f"{part.contribution:+.3f}",
                Text(bar, style="green" if part.contribution > 0 else "red"),
                f"{part.lime:+.3f}",
                "" if part.attention is None else f"{part.attention:.0%}",
            )
        terminal.print(table)
    if explained.voice and explained.voice.unheard:
        terminal.print(Text(f"not heard by the voice model: {explained.voice.unheard}"))
    if explained.differences:
        terminal.print(
            Text(f"\nthe voice beside the speaker's {explained.compared_with} other utterances", style="bold")
        )
        table = Table(box=None, pad_edge=False)
        for column in ("feature", "here", "usual", "deviations"):
            table.add_column(column, justify="left" if column == "feature" else "right")
        for row in explained.differences[:SHOWN]:
            table.add_row(
                row.name,
                f"{row.value:,.4g} {row.unit}",
                f"{row.usual:,.4g} ± {row.spread:,.3g}",
                f"{row.deviations:+.1f}",
            )
        terminal.print(table)
    for what, why in explained.missing.items():
        terminal.print(Text(f"{what}: none, {why}"))
    for note in explained.notes:
        terminal.print(Text(note))
