"""`calltide replay`: what it says and asks; the work is in its neighbours."""

import os
import re
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from schemas.errors import CalltideError
from streams.replay import publish_command as publishing
from streams.replay import which

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from schemas.topics import Stage
    from streams.replay.plan import Plan, Survey, Wish
    from streams.replay.run import Progress as State
    from streams.settings import Settings

app = typer.Typer(invoke_without_command=True, help="History again, through any stage, with any version.")
# `seek -30s` is no option.
app.command(context_settings={"ignore_unknown_options": True})(publishing.control)

START_S: Final = 8.0
"""Measured there: what start and end take together."""
NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")
"""Of a version, in the name of its replay."""
FIXED: Final = tuple(f"CALLTIDE_{name}" for name in ("HOME", "PIPELINE_VERSION", "KAFKA__", "BROKER__", "CLICKHOUSE__"))
"""Settings by which a replay finds what it reads, and where its rows go."""
RESERVED: Final = ("resume", "list", "drop", "control")


@app.callback()
def replay(
    context: typer.Context,
    since: which.Since = None,
    until: which.Until = None,
    calls: which.Calls = None,
    tenant: which.Tenant = None,
    queue: which.Queue = None,
    everything: Annotated[bool, typer.Option("--all", help="all calls that Kafka and the archive have")] = False,
    from_stage: Annotated[
        str,
        typer.Option(
            help="first stage: vad, diarization, asr, emotion, sentiment; or of scores metrics, rules, insights"
        ),
    ] = "vad",
    to_stage: Annotated[str, typer.Option(help="last stage; all: to the scores and what is made of them")] = "all",
    version: Annotated[str | None, typer.Option(help="pipeline version that its rows get")] = None,
    name: Annotated[str | None, typer.Option(help="name of the replay (default: the version)")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="a setting that differs: asr.beam_size=1 (may be given again)")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="workers of each stage (default: a core each for the costliest, one of the others)"),
    ] = None,
    speed: Annotated[
        str | None, typer.Option(help="max, or times real time: 1, 10 (default: max; 1 with --publish)")
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="show the calls on the live websocket; without --version as they were")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="leave its topics when it is done")] = False,
) -> None:
    """Hear or score old calls again, beside live work."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    from streams.replay import plan as plans
    from streams.replay.versions import heard_as
    from streams.settings import load

    chain = plans.between(from_stage, to_stage)
    if not (since or until or calls or tenant or queue or everything):
        raise CalltideError("which calls? give --from, --to, --calls, --tenant or --queue, or --all")
    pace = _speed(speed or ("1" if publish else "max"))
    if publish:
        publishing.check(context, version, to_stage, pace)
    elif version is None:
        raise CalltideError("give --version NAME: the pipeline version by which its scores are known")
    live = load()
    # What is made of old scores says no more than before: its rows may take the place of those of live work.
    if version == live.pipeline_version and chain[0] in plans.CHAIN:
        raise CalltideError(f"live calls are written as version {version}; give another --version")
    name = name or NOT_IN_A_NAME.sub("-", version or publishing.NAME)
    if not plans.NAME.fullmatch(name) or name in RESERVED:
        raise CalltideError(
            f"{name!r} is no name of a replay; use letters, digits, _ and -, 64 at most, or give --name"
        )
    overrides = dict(map(_override, override or ()))
    settings = _with(overrides, version) if version else live
    wish = which.wish(since, until, calls, tenant, queue)
    console = Console(stderr=True)
    with console.status("looking for the calls") as status:
        found = plans.survey(
            settings,
            wish,
            chain[0] if version else None,
            lambda done, of: status.update(f"looking for the calls: {done:,} of {of:,} records"),
        )
        if version and from_stage == plans.STAGES[0].name:
            plans.with_archive(settings, wish, found)
    if found.archived and pace is not None and not publish:
        raise CalltideError(
            f"{plans.named([*found.archived])}: from the archive they come at full speed only; leave out --speed"
        )
    _tell_of(console, settings, found, wish, chain[0] if version else None)
    seconds = sum(call.duration_ms for call in found.calls) / 1_000
    if dry_run:
        from streams.replay.publish import length_s

        if pace is None or publish:
            work_s = START_S + sum(seconds / plans.SPEED[row.name] for row in chain)
        else:
            work_s = START_S + length_s(found.calls) / pace
        records, size = plans.size(settings, found)
        typer.echo(
            f"{len(found.calls)} calls, {seconds:,.0f} s of audio, from at most {records:,} records of "
            f"{' and '.join(found.sources)}, {len(found.archived)} of them from the archive; "
            f"about {size / 1e6:,.1f} MB to read and {work_s if version else 0:,.0f} s of work"
            + (f", then {length_s(found.calls) / (pace or 1.0):,.0f} s to show" if publish else "")
        )
        return
    plan = plans.Plan(
        name=name,
        version=version or live.pipeline_version,
        from_stage=from_stage if version else "",
        to_stage=to_stage,
        overrides=overrides,
        speed=None if publish else pace,
        publish=pace if publish else None,
        workers=workers,
        keep=keep,
        created_at=datetime.now(UTC),
        partitions=found.partitions,
        calls=tuple(found.calls),
        archived=found.archived,
        sources=found.sources,
    )
    if version and plan.scores:
        if there := heard_as(settings, version, [call.call_id for call in found.calls]):
            raise CalltideError(
                f"version {version} has heard {plans.named(there)} before, and would count twice; give another "
                f"--version, or remove it by `calltide drop-version {version}`"
            )
    elif version and chain[-1] in plans.CHAIN and not keep:
        console.print(
            "only scores, and what is made of them, are written to ClickHouse; what comes out here goes with the "
            "replay's topics, unless you --keep them",
            style="yellow",
            highlight=False,
        )
    plans.save(settings, plan)
    _run(settings, plan, console, found.damaged)


@app.command()
def resume(name: Annotated[str, typer.Argument(help="name of the replay")]) -> None:
    """Go on with a replay that was stopped or killed."""
    from rich.console import Console

    from streams.replay import plan as plans
    from streams.settings import load

    plan = plans.find(load(), name)
    _run(_with(plan.overrides, plan.version), plan, Console(stderr=True))


@app.command("list")
def list_replays() -> None:
    """The replays that are not done, or whose topics were kept."""
    from confluent_kafka.admin import AdminClient

    from streams import kafka
    from streams.replay import plan as plans
    from streams.settings import load

    settings = load()
    kafka.check(settings)
    for name in plans.names(AdminClient(kafka.client(settings))):
        try:
            plan = plans.find(settings, name)
        except CalltideError as error:
            typer.echo(f"{name}: {error}")
            continue
        heard = f"version {plan.version}, {plan.from_stage} to {plan.to_stage}"
        what = heard if plan.from_stage else "shown as it was heard"
        typer.echo(
            f"{name}: {what}, {len(plan.calls)} calls, "
            f"{plan.audio_ms / 1_000:,.0f} s, begun {plan.created_at:%Y-%m-%d %H:%M} UTC"
        )


@app.command()
def drop(name: Annotated[str, typer.Argument(help="name of the replay")]) -> None:
    """Remove the topics of a replay. What it has written to ClickHouse stays."""
    from streams.replay.run import remove
    from streams.settings import load

    remove(load(), name)
    typer.echo(f"replay {name} is removed; its scores stay (`calltide drop-version` removes them)")


def _override(text: str) -> tuple[str, str]:
    """(variable, value) of `asr.beam_size=1`."""
    from streams.settings import DELIMITER, PREFIX, names

    key, equals, value = text.partition("=")
    variable = PREFIX + key.strip().replace(".", DELIMITER).upper()
    if not equals or variable not in names():
        raise CalltideError(
            f"--set {text}: no such setting; write it like asr.beam_size=1 (`calltide settings` has all)"
        )
    if variable.startswith(FIXED):
        raise CalltideError(f"--set {text}: a replay works where live work does; set {variable} for both")
    return variable, value.strip()


def _with(overrides: dict[str, str], version: str) -> "Settings":
    """The settings of a replay. They go into the environment, from where its workers have theirs."""
    from streams.settings import load

    os.environ.update(overrides)
    os.environ["CALLTIDE_PIPELINE_VERSION"] = version
    load.cache_clear()
    return load()


def _speed(text: str) -> float | None:
    from streams.replay.control import pace

    return None if text == "max" else pace(text, "--speed", "max, or ")


def _tell_of(console: "Console", settings: "Settings", found: "Survey", wish: "Wish", first: "Stage | None") -> None:
    """What was found is not all that was wished. Raises CalltideError when it is nothing."""
    from streams.replay.plan import goes_before, named

    if found.running:
        console.print(f"{named(found.running)}: not ended, left out", style="yellow", highlight=False)
    if found.beheaded:
        console.print(
            f"{named(found.beheaded)}: Kafka has deleted the beginning (CALLTIDE_KAFKA__RETENTION_HOURS), left out",
            style="yellow",
            highlight=False,
        )
    if found.forgotten:
        console.print(f"{found.forgotten} calls were forgotten (`calltide forget`), left out", style="yellow")
    for fault in found.damaged:
        console.print(f"in the archive, left out: {fault}", style="red", highlight=False)
    known = {call.call_id for call in found.calls} | {*found.running, *found.beheaded}
    if absent := sorted(wish.calls - known):
        raise CalltideError(
            f"no {named(absent)} of this time; {_there_is(settings, first)}; see that the names are right"
        )
    if not found.calls:
        raise CalltideError(f"no call that has ended is in this range; {_there_is(settings, first)}")
    earlier = wish.since_ms is not None and wish.since_ms < found.calls[0].start_ms
    if earlier and found.deleted and goes_before(wish, found):
        console.print(f"the range begins earlier: {_there_is(settings, first)}", style="yellow", highlight=False)


def _there_is(settings: "Settings", first: "Stage | None") -> str:
    """From when on there are calls in Kafka, and of when in the archive."""
    from streams.archive import Archive, Kept
    from streams.replay.plan import STAGES, oldest_call_ms

    def shown(moment: datetime) -> str:
        return f"{moment:%Y-%m-%d %H:%M:%S} UTC"

    oldest_ms = oldest_call_ms(settings, first)
    kafka_has = "has no whole call"
    if oldest_ms is not None:
        kafka_has = f"has whole calls from {shown(datetime.fromtimestamp(oldest_ms / 1_000, UTC))} on"
    store = Archive(settings)
    begun = sorted(kept.call.started_at for kept in store.calls() if isinstance(kept, Kept))
    held = f"has {len(begun)} calls that began from {shown(begun[0])} to {shown(begun[-1])}" if begun else "has none"
    if begun and first != STAGES[0]:
        held += f", for replays from stage {STAGES[0].name} on"
    return f"Kafka {kafka_has}; the archive {store.url} {held}"


def _rate(heard: "Sequence[tuple[float, int]]") -> float:
    """Times real time between the first of (monotonic seconds, milliseconds of audio) and the last."""
    seconds = heard[-1][0] - heard[0][0] if heard else 0.0
    return (heard[-1][1] - heard[0][1]) / 1_000 / seconds if seconds else 0.0


def _run(settings: "Settings", plan: "Plan", console: "Console", damaged: "Sequence[str]" = ()) -> None:
    """Work with a bar, then say what was done. `damaged`: what of the archive could not be read before it began."""
    import signal

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from streams.replay.plan import named
    from streams.replay.publish import place_of
    from streams.replay.run import Replay, remove

    if plan.publish is not None and (not plan.from_stage or place_of(settings, plan) is not None):
        # There is nothing to hear, or it was heard before it was stopped.
        publishing.show(settings, plan, console)
        if not plan.keep:
            remove(settings, plan.name)
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            replaying = stack.enter_context(Replay(settings, plan))
            bar = stack.enter_context(
                Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TextColumn("{task.percentage:3.0f} %  {task.fields[facts]}"),
                    TimeRemainingColumn(),
                    console=console,
                )
            )
            task = bar.add_task(f"replay {plan.name}", total=plan.audio_ms, facts="starting")
            heard: list[tuple[float, int]] = []

            def tell(now: "State") -> None:
                # First and last: what comes before and behind is start and end, and not how fast it works.
                if now.media_ms > (heard[-1][1] if heard else 0):
                    heard[1:] = [(time.monotonic(), now.media_ms)]
                rate = _rate(heard)
                faults = f", {now.dead} dead letters" if now.dead else ""
                faults += f", {now.restarts} restarts" if now.restarts else ""
                facts = f"{now.ended}/{now.of_calls} calls, {now.utterances} utterances, {rate:,.0f}× real time{faults}"
                bar.update(task, completed=now.media_ms, facts=facts)

            done = replaying.run(tell)
    except KeyboardInterrupt:
        raise CalltideError(f"stopped; `calltide replay resume {plan.name}` goes on where it was") from None
    seconds = time.monotonic() - began
    audio_s = plan.audio_ms / 1_000
    start_s = heard[0][0] - began if heard else seconds
    typer.echo(
        f"replayed {done.ended} calls, {audio_s:,.0f} s of audio, {done.utterances} utterances as version "
        f"{plan.version} in {seconds:,.1f} s ({audio_s / seconds:,.1f}× real time, start and end included; "
        f"{start_s:,.1f} s to the first result, {_rate(heard):,.0f}× from there to the last)"
    )
    if plan.publish is not None:
        publishing.show(settings, plan, console)
    if not plan.keep:
        remove(settings, plan.name)
    faults = [f"{call_id}: {why}" for call_id, why in done.damaged.items()]
    if left_out := len(faults) + len(damaged):
        faults.append(f"{left_out} calls of the archive were left out")
    if done.endless:
        faults.append(f"{named(done.endless)}: no end came out")
    if done.dead:
        where = f"; they are in {plan.dead_letters}" if plan.keep else ""
        faults.append(f"{done.dead} records could not be processed{where}")
    for fault in faults:
        sys.stderr.write(f"calltide: {fault}\n")
    if faults:
        raise typer.Exit(1)
