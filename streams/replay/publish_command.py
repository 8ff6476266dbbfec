"""`calltide replay --publish` and `calltide replay control`: what they say and ask."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from schemas.errors import CalltideError

if TYPE_CHECKING:
    from rich.console import Console

    from schemas.replayed import ReplayPosition
    from streams.replay.plan import Plan
    from streams.settings import Settings

NAME: Final = "demo"
"""Of a replay that hears nothing anew, so that it has no version, when nobody gives one."""
OF_STAGES: Final = ("from_stage", "to_stage", "override", "workers")


def check(context: typer.Context, version: str | None, to_stage: str, pace: float | None) -> None:
    """Whether what goes with --publish fits together. Raises CalltideError."""
    from schemas.topics import CHAIN
    from streams.replay.plan import ALL

    if pace is None:
        raise CalltideError("--publish shows calls at a pace: give --speed 1, or any number of times real time")
    if version is None:
        for name in OF_STAGES:
            if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
                option = "set" if name == "override" else name.replace("_", "-")
                raise CalltideError(
                    f"--{option} hears the calls anew: give --version NAME, too; without both, what was heard is shown"
                )
    if to_stage not in (CHAIN[-1].name, ALL):
        raise CalltideError(f"--publish shows scores, which come out of {CHAIN[-1].name}; leave out --to-stage")


def show(settings: "Settings", plan: "Plan", console: "Console") -> None:
    """Send what is there of a plan's calls to the gateway. Raises CalltideError, also when a signal stops it."""
    import signal
    import threading

    from rich.progress import BarColumn, Progress, TextColumn

    from streams.replay.publish import Publication, line_of, place_of
    from streams.replay.run import locked

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    (settings.directory / "run").mkdir(parents=True, exist_ok=True)
    lock = locked(settings, plan.name)
    with console.status("reading what is to be shown"):
        shown = Publication(settings, plan, line_of(settings, plan), place_of(settings, plan) or 0)
    page = f"http://{settings.web.host}:{settings.web.port}/?replay={plan.name}"
    console.print(
        f"see {page} or `calltide listen --replay {plan.name}`; "
        f"`calltide replay control {plan.name} pause`, resume, seek +30s, speed 2, stop",
        highlight=False,
        soft_wrap=True,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"))
    with lock, Progress(*columns, console=console) as bar:
        task = bar.add_task(f"replay {plan.name}", total=shown.line.length_ms, facts="")
        shown.run(stop, lambda now: bar.update(task, completed=now.position_ms, facts=_said(now)))
    if stop.is_set():
        raise CalltideError(f"stopped; `calltide replay resume {plan.name}` goes on where it was")
    typer.echo(f"replay {plan.name}: {_said(shown.position())}")


def control(
    name: Annotated[str, typer.Argument(help="name of a replay that is shown")],
    order: Annotated[str, typer.Argument(help="pause, resume, seek, speed, stop or status")],
    value: Annotated[
        str | None, typer.Argument(help="where to seek, 90s from its start or +30s, -30s from here; or the speed")
    ] = None,
) -> None:
    """Pause, resume, seek or stop a replay that is shown (`calltide replay --publish`), from any machine."""
    from streams.replay import control as orders
    from streams.settings import load

    now = orders.send(load(), name, orders.command(order, value))
    typer.echo(f"replay {name}: {_said(now)}")


def _said(now: "ReplayPosition") -> str:
    at, of = (timedelta(seconds=ms // 1_000) for ms in (now.position_ms, now.of_ms))
    return f"{now.state} at {at} of {of}, {now.speed:g}×"
