"""`calltide ingest` and `calltide load` as commands: their options, their progress and what they print.

A changer must know: as in streams/cli.py, what does the work is imported inside the commands.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from schemas.errors import CalltideError

if TYPE_CHECKING:
    from streams.ingestion.files_run import Check

MOST_FAULTS: Final = 20
"""Judgement: as many lines of errors are read; the results hold all."""


def ingest(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="recordings, directories or patterns: WAV, FLAC, MP3, M4A, OGG, Opus, WebM; one or two channels"
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="CSV of calls: path, and if you have them call_id, roles, tenant, queue, agent, metadata of your own"
        ),
    ] = None,
    watch: Annotated[Path | None, typer.Option(help="drop folder: send what is put there, until Ctrl-C")] = None,
    speed: Annotated[
        str, typer.Option(help="1: as it was spoken; N: N times faster; max: as fast as Kafka takes it")
    ] = "1",
    roles: Annotated[
        str | None, typer.Option(help="party on each channel: agent, customer or unknown, such as agent,customer")
    ] = None,
    mix: Annotated[
        bool, typer.Option("--mix", help="add all channels up to one and tell speakers apart by voice")
    ] = False,
    call_id: Annotated[str | None, typer.Option(help="name of the call (default: the file's name and digest)")] = None,
    queue: Annotated[str, typer.Option(help="queue the calls belong to")] = "",
    agent: Annotated[str, typer.Option(help="agent who takes the calls")] = "",
    tenant: Annotated[str, typer.Option(help="tenant the calls belong to")] = "default",
    stagger: Annotated[float, typer.Option(min=0, help="seconds between the starts of several calls")] = 0.0,
    bulk: Annotated[bool, typer.Option("--bulk", help="work that may wait: live calls are heard first")] = False,
    again: Annotated[bool, typer.Option("--again", help="send also what was sent before")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="read all files to their ends and report")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="wait until the calls have been heard, and count their utterances")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(help="directory for the run's results, JSON and CSV (default: HOME/ingest)")
    ] = None,
) -> None:
    """Send recordings as calls, each once."""
    from streams.ingestion import files_run
    from streams.packets import roles_of
    from streams.settings import load

    if not (files or manifest or watch):
        raise CalltideError("nothing to send; name files, or use --manifest or --watch")
    if watch and (wait or dry_run or call_id):
        raise CalltideError("--watch goes on until it is stopped; use it without --wait, --dry-run and --call-id")
    factor = files_run.speed_of(speed)
    common = files_run.Source(Path(), call_id, roles_of(roles), tenant, queue, agent)
    sources = files_run.gather(files or [], manifest, common)
    settings = load()
    if dry_run:
        with _bar() as shown:
            checks = files_run.dry_run(settings, sources, mix, shown)
        _report(checks)
        _fail([check.error for check in checks if check.error])
        return
    with _bar() as shown:
        run = files_run.FilesRun(
            settings,
            speed=factor,
            lane="batch" if bulk else "live",
            mix=mix,
            stagger_s=stagger,
            again=again,
            wait=wait,
            results=results,
            shown=shown,
        )
        _stopped_by_signals(run.stop)
        done = run.run(sources, (watch, common) if watch else None)
    for outcome in done.outcomes:
        state = "ended early" if outcome.status == "interrupted" else outcome.status
        heard = "" if outcome.utterances is None else f"  {outcome.utterances} utterances"
        typer.echo(f"{outcome.call_id or outcome.path}  {state}  {outcome.seconds:.1f} s{heard}")
    typer.echo(f"results: {done.path}.csv and .json")
    if run.stop.is_set() and not watch:
        raise KeyboardInterrupt
    bad = (*files_run.GOOD, "interrupted", "not begun")
    _fail([outcome.error for outcome in done.outcomes if outcome.status not in bad])


def load(
    protocol: Annotated[str, typer.Option(help="twilio, audiosocket, audiohook or listen")] = "twilio",
    calls: Annotated[int, typer.Option(min=1, help="calls at the same time")] = 100,
    minutes: Annotated[float, typer.Option(min=0.01, help="length of each call")] = 5.0,
    url: Annotated[
        str | None,
        typer.Option(
            help="ws://HOST:PORT/PATH, or HOST:PORT of AudioSocket (default: `calltide serve` on this machine)"
        ),
    ] = None,
    key: Annotated[str, typer.Option(help="API key or bearer token that the server asks for")] = "",
    recording: Annotated[
        Path | None, typer.Option(help="8 kHz recording of one or two channels to play (default: the packaged call)")
    ] = None,
    interim: Annotated[
        bool, typer.Option("--interim", help="listen: ask for words before their utterance is finished")
    ] = False,
) -> None:
    """Call a server as a phone system does, in real time, and say how it went."""
    import asyncio

    import uvloop

    from streams import samples
    from streams.ingestion import load as generator
    from streams.settings import load as load_settings

    if protocol not in generator.NAMES:
        raise CalltideError(f"no protocol {protocol}; there are {', '.join(generator.NAMES)}")
    if interim and protocol != "listen":
        raise CalltideError("interim results are listen's; use --interim with --protocol listen")
    settings = load_settings()
    address = url or generator.here(settings.serve, protocol)
    recording = recording or samples.two_channel(settings.directory / "samples")

    async def run() -> generator.Tally:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        tally = await generator.load(address, protocol, recording, calls, minutes * 60, key, stop, told, interim)
        stopped.extend([None] * stop.is_set())
        return tally

    def told(tally: generator.Tally, active: int) -> None:
        moment = f"{active} calls  {tally.frames} frames  {tally.late} late  {tally.disconnected} disconnected"
        typer.echo(f"\r{moment}", err=True, nl=False)

    stopped: list[None] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tally = runner.run(run())
    typer.echo("", err=True)
    typer.echo(f"calls         {tally.calls} begun, {tally.ended} ended, {tally.refused} refused")
    typer.echo(f"frames        {tally.frames} sent, {tally.audio_s / 60:.1f} minutes of call")
    typer.echo(
        f"late frames   {tally.late} by more than {generator.LATE_S * 1_000:.0f} ms; "
        f"the latest by {tally.worst_s * 1_000:.0f} ms"
    )
    if tally.words:
        early = sum(first < final for first, final in tally.words) / len(tally.words)
        first_s, final_s = zip(*tally.words, strict=True)
        before = f", {early:.0%} of them before their utterance was finished" if interim else ""
        typer.echo(f"words         {len(tally.words)} heard{before}")
        if interim:
            typer.echo(f"  first seen  {_percentiles(first_s)} after they were spoken")
        typer.echo(f"  final       {_percentiles(final_s)} after they were spoken")
    typer.echo(f"disconnects   {tally.disconnected}")
    for reason, number in sorted(tally.reasons.items()):
        typer.echo(f"  {number} times: {reason}")
    if stopped:
        raise KeyboardInterrupt
    if tally.refused or tally.disconnected:
        raise CalltideError(
            f"{tally.refused + tally.disconnected} of {calls} calls were refused or cut off; see the server's log"
        )


def _percentiles(seconds: Sequence[float]) -> str:
    import numpy as np

    half, most = np.percentile(seconds, [50, 95])
    return f"p50 {half:.2f} s, p95 {most:.2f} s"


def _stopped_by_signals(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _fail(errors: list[str]) -> None:
    """One line for each."""
    if errors:
        left = len(errors) - MOST_FAULTS
        more = [f"and {left} more, see the results"] if left > 0 else []
        raise CalltideError("\ncalltide: ".join([*errors[:MOST_FAULTS], *more]))


@contextmanager
def _bar() -> "Iterator[Callable[[int, int, float], None]]":
    """A progress bar on stderr, gone afterwards."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("files  {task.fields[audio]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, audio="")

        def shown(done: int, total: int, seconds: float) -> None:
            minutes, rest = divmod(int(seconds), 60)
            progress.update(task, completed=done, total=total, audio=f"{minutes}:{rest:02d} of audio")

        yield shown


def _report(checks: "list[Check]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "format", "length", "channels", "Hz", "silence", "", box=None, pad_edge=False)
    for check in checks:
        known = bool(check.format)
        table.add_row(
            check.path,
            check.format,
            f"{check.seconds:.1f} s" if known else "",
            str(check.channels) if known else "",
            str(check.rate) if known else "",
            " ".join(f"{share:.0%}" for share in check.silent),
            "damaged" if known and check.error else "no call" if check.error else check.warning or "good",
        )
    Console().print(table)
    bad = sum(1 for check in checks if check.error)
    seconds = sum(check.seconds for check in checks)
    typer.echo(f"{len(checks)} files, {seconds / 3600:.2f} hours of audio, {bad} of them not good")
