"""The command line. Every command is thin: it reads settings and arguments and calls the module that does the work.

A changer must know: modules are imported inside the commands, so that `calltide --help` and the stages' processes start
fast; and errors are for people: a CalltideError is one line and exit code 1, `--debug` shows the traceback.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import CalltideError
from streams import archive_commands
from streams.analytics import command as analytics
from streams.api.feeder_command import feeder
from streams.api.key_command import key
from streams.dashboards import dashboards_app
from streams.evaluation.command import evaluate
from streams.explain_command import explain
from streams.forms_commands import forms_app
from streams.glossary_command import glossary
from streams.ingestion import command as ingestion
from streams.replay import version_commands
from streams.replay.command import app as replay_app
from streams.report.command import report
from streams.rules_commands import rules_app

if TYPE_CHECKING:
    from streams.dead_letters import Fate, Filter

# Before numpy is imported: OpenBLAS's second thread spins while the encoder works, which costs 50 to 100 ms of CPU for
# each utterance (docs/asr.md). More calls are carried by more worker processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Live voice analytics for call centres: calls in, scores out, while they are spoken.",
)
topics_app = typer.Typer(no_args_is_help=True, help="Kafka topics: create, compare with the table, mend.")
samples_app = typer.Typer(no_args_is_help=True, help="Recordings to try Calltide with.")
dead_letters_app = typer.Typer(no_args_is_help=True, help="What stages could not process: look, redrive, drop.")
train_app = typer.Typer(no_args_is_help=True, help="Models of your own, from labelled clips, texts or calls.")
app.add_typer(topics_app, name="topics")
app.add_typer(samples_app, name="samples")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(train_app, name="train")
app.add_typer(rules_app, name="rules")
app.add_typer(forms_app, name="forms")
app.add_typer(replay_app, name="replay")
app.add_typer(dashboards_app, name="dashboards")
app.command("eval")(evaluate)
app.command(hidden=True)(feeder)
app.command()(archive_commands.archive)
app.command()(archive_commands.forget)
app.command()(version_commands.versions)
app.command()(version_commands.compare)
app.command()(version_commands.promote)
app.command("drop-version")(version_commands.drop_version)
app.command()(ingestion.ingest)
app.command()(ingestion.load)
app.command()(analytics.generate)
app.command()(report)
app.command()(explain)
app.command()(key)
app.command()(glossary)

INTERRUPTED = 130
"""What typer makes of Ctrl-C, as shells do."""

Files = Annotated[list[Path], typer.Argument(help="recordings: WAV, FLAC, MP3, M4A, OGG, WebM; one or two channels")]
Roles = Annotated[
    str | None, typer.Option(help="party on each channel: agent, customer or unknown, such as agent,customer")
]
Mix = Annotated[bool, typer.Option("--mix", help="add all channels up to one and tell speakers apart by voice")]
CallId = Annotated[str | None, typer.Option(help="name of the call (default: made from the file's name)")]
Ready = Annotated[Path | None, typer.Option(hidden=True)]
OfStage = Annotated[str | None, typer.Option("--stage", help="only letters of this stage")]
OfCall = Annotated[str | None, typer.Option("--call", help="only letters of this call")]
Since = Annotated[str | None, typer.Option(help="only of audio captured since: 24h (s, m, h, d) or an ISO time in UTC")]
Letters = Annotated[list[str] | None, typer.Argument(help="letters as PARTITION:OFFSET", show_default=False)]
Out = Annotated[Path, typer.Option(help="directory to write the model and its card to")]
Seed = Annotated[int, typer.Option(help="which clips or texts are kept for the test")]
AllListed = Annotated[bool, typer.Option("--all-listed", help="all that `list` counts with the same options")]
Slot = Annotated[int, typer.Option(help="number of this worker among those of its stage, from 0")]


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False) -> None:
    """`main` looks for --debug itself: an error may come before typer has read it."""


def _interruptible() -> None:
    """From here on Ctrl-C is an exception: there is a display to close (see streams/__main__.py)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@app.command()
def analyze(
    files: Files,
    roles: Roles = None,
    mix: Mix = False,
    call_id: CallId = None,
    emotion: Annotated[str | None, typer.Option(help="parties whose emotion is computed: all, or roles")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON (docs/analyze.md)")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="print CSV, one line an utterance")] = False,
) -> None:
    """Hear recordings without Kafka and print who said what, and how it sounded."""
    from rich.console import Console
    from rich.progress import Progress

    from streams import analyze as analysis_of
    from streams.files import open_audio
    from streams.packets import roles_of
    from streams.settings import load

    _interruptible()
    if json and csv:
        raise CalltideError("--json and --csv exclude each other; choose one")
    if call_id is not None and len(files) > 1:
        raise CalltideError("--call-id names one call; give one file")
    parties = roles_of(roles)
    settings = load()
    if emotion is not None:
        heard = tuple(part.strip() for part in emotion.split(","))
        for part in heard:
            if part not in ("all", "agent", "customer", "unknown"):
                raise CalltideError(f"--emotion: unknown role {part!r}; use all, or some of agent,customer,unknown")
        settings = settings.model_copy(update={"emotion": settings.emotion.model_copy(update={"roles": heard})})
    faults = []
    good = []
    for path in files:
        try:
            open_audio(path, mix)
            good.append(path)
        except CalltideError as error:
            faults.append(str(error))
    console, analyses = Console(), []
    if good:
        errors = Console(stderr=True)
        with errors.status("loading models"):
            analyzer = analysis_of.Analyzer(settings)
        with Progress(console=errors, transient=True) as bar:
            for path in good:
                task = bar.add_task(path.name, total=1.0)
                try:
                    analysis, damage = analyzer.hear(
                        path,
                        roles=parties,
                        mix=mix,
                        call_id=call_id,
                        progress=lambda done, _so_far, task=task: bar.update(task, completed=done),  # type: ignore[misc]
                    )
                except CalltideError as error:
                    faults.append(str(error))
                    continue
                finally:
                    bar.remove_task(task)
                analyses.append(analysis)
                if damage:
                    faults.append(damage)
                elif not analysis.scores:
                    faults.append(f"no speech in {path}; is it the right recording, and loud enough?")
    if json and analyses:
        sys.stdout.write(analysis_of.as_json(analyses) + "\n")
    elif csv and analyses:
        sys.stdout.write(analysis_of.as_csv(analyses))
    else:
        for analysis in analyses:
            if analysis.scores:
                analysis_of.show(console, analysis)
    if faults:
        raise CalltideError("\ncalltide: ".join(faults))


@app.command()
def up() -> None:
    """Start broker, stages, gateway, sink, page and server for calls on this machine; Ctrl-C stops them all."""
    from streams.settings import load
    from streams.supervisor import Supervisor

    settings = load()
    with Supervisor(settings, typer.echo) as supervisor:
        typer.echo(f"web app     http://{settings.web.host}:{settings.web.port}")
        typer.echo(f"scores      {settings.scores_url}")
        serve = settings.serve
        typer.echo(f"calls       ws://{serve.host}:{serve.port}, AudioSocket {serve.host}:{serve.audiosocket_port}")
        typer.echo(f"ClickHouse  {settings.clickhouse_url}")
        typer.echo(f"Kafka       {settings.bootstrap_servers}")
        typer.echo(f"logs        {settings.directory / 'logs'}")
        typer.echo("try: calltide ingest FILE, calltide listen, calltide query 'SELECT …'; Ctrl-C stops everything")
        supervisor.watch()


@app.command()
def demo(
    calls: Annotated[Path | None, typer.Option(help="your own recordings: a file or a directory")] = None,
) -> None:
    """Start everything, stream real calls in real time and show them being heard."""
    from streams import demo as demonstration
    from streams.settings import load

    demonstration.run(load(), calls)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="vad, diarization, asr, emotion or sentiment")],
    slot: Slot = 0,
    ready: Ready = None,
    replay: Annotated[str, typer.Option(hidden=True, help="name of the replay that it works for")] = "",
    nice: Annotated[int, typer.Option(hidden=True, help="how far it makes way for live work then")] = 0,
) -> None:
    """Run one worker of one stage."""
    from schemas.topics import STAGES, Stage, lanes
    from schemas.topics import stage as row_of
    from streams import kafka, service
    from streams.crashes import CrashRecord
    from streams.replay import plan as plans
    from streams.replay.run import give_way
    from streams.runtime import StageWorker
    from streams.settings import load
    from streams.stages import build

    if name not in {row.name for row in STAGES}:
        raise CalltideError(f"no stage {name}; there are {', '.join(row.name for row in STAGES)}")
    if replay:
        give_way(nice)
    settings = load()
    kafka.check(settings)
    # The model is loaded before the group is joined: a stage that cannot work takes no records.
    processor = build(settings, row_of(name))
    rows: Sequence[Stage] = lanes(row_of(name))
    if replay:
        rows = [row for row in plans.find(settings, replay).stages if row.name == name]
    crashes = CrashRecord(settings.directory / "run", f"{rows[0].id}.{slot}")
    crashes.catch_fatal_signals()
    service.run(settings, ready, StageWorker(settings, rows, processor, slot, crashes).run)


@app.command()
def sink(slot: Slot = 0, ready: Ready = None) -> None:
    """Run the sink: scores to ClickHouse."""
    from streams import kafka, service
    from streams.settings import load
    from streams.sink import Sink

    settings = load()
    kafka.check(settings)
    service.run(settings, ready, Sink(settings, slot).run)


@app.command()
def gateway(ready: Ready = None) -> None:
    """Run the websocket gateway: pushes scores live."""
    from streams import gateway as gateways
    from streams import service
    from streams.settings import load

    settings = load()
    service.run(settings, ready, lambda stop, health: gateways.serve_until(settings, stop, health.ready))


@app.command()
def web(ready: Ready = None) -> None:
    """Serve the web app and the API."""
    from streams import service
    from streams import web as pages
    from streams.settings import load

    settings = load()
    service.run(settings, ready, lambda stop, health: pages.serve_until(settings, stop, health.ready))


@app.command()
def serve(ready: Ready = None) -> None:
    """Take calls from phone systems: Twilio, AudioSocket, AudioHook, Deepgram's clients, a browser's microphone."""
    from streams import kafka, service
    from streams.ingestion.routes import check_open
    from streams.ingestion.server import serve_until
    from streams.settings import load

    settings = load()
    check_open(settings.serve)
    kafka.check(settings)
    service.run(settings, ready, lambda stop, health: serve_until(settings, settings.serve, stop, health))


@app.command()
def webhooks(
    ready: Ready = None,
    test: Annotated[bool, typer.Option("--test", help="send one event of the kind test to every receiver")] = False,
) -> None:
    """Tell other systems of alerts and ended calls, by signed HTTP requests."""
    from streams import kafka, service
    from streams import webhooks as hooks
    from streams.settings import load

    settings = load()
    if test:
        answers = hooks.test(settings)
        for name, fault in answers:
            typer.echo(f"{name}: {fault or 'taken'}")
        raise typer.Exit(any(fault for _, fault in answers))
    kafka.check(settings)
    service.run(settings, ready, lambda stop, health: hooks.run(settings, stop, health))


@app.command()
def llm(
    ready: Ready = None,
    test: Annotated[bool, typer.Option("--test", help="ask the endpoint once, with these settings")] = False,
) -> None:
    """Ask a language model what ended calls were about (docs/llm.md)."""
    from streams import kafka, service
    from streams.llm import worker
    from streams.settings import load

    settings = load()
    if test:
        typer.echo(worker.test(settings))
        return
    kafka.check(settings)
    service.run(settings, ready, lambda stop, health: worker.run(settings, stop, health))


@app.command()
def clickhouse(ready: Ready = None) -> None:
    """Run the embedded ClickHouse."""
    from deploy import clickhouse as servers
    from streams import service
    from streams.settings import load

    settings = load()
    path, port = settings.directory / "clickhouse", settings.clickhouse.port
    user, password = settings.clickhouse.user, settings.clickhouse.password
    service.run(
        settings,
        ready,
        lambda stop, health: servers.serve(path, port, stop, health.ready, user=user, password=password),
    )


@app.command()
def listen(
    call: Annotated[list[str] | None, typer.Option(help="only this call (may be given again)")] = None,
    queue: Annotated[list[str] | None, typer.Option(help="only this queue (may be given again)")] = None,
    agent: Annotated[list[str] | None, typer.Option(help="only this agent (may be given again)")] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="only this tenant (may be given again)")] = None,
    replay: Annotated[
        list[str] | None, typer.Option(help="a replay that is shown (`calltide replay --publish`), no live calls")
    ] = None,
) -> None:
    """Watch calls being heard, here in the terminal, until Ctrl-C."""
    from rich.console import Console

    from streams import listen as listening
    from streams.settings import load

    _interruptible()
    settings = load()
    wanted = {"call": call, "queue": queue, "agent": agent, "tenant": tenant, "replay": replay}
    fields = {name: values for name, values in wanted.items() if values}
    listening.listen(settings.scores_url, Console(), settings.api.key, history="live", **fields)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="a statement in ClickHouse's SQL")],
    form: Annotated[str, typer.Option("--format", help="any format of ClickHouse")] = "PrettyCompactMonoBlock",
) -> None:
    """Ask ClickHouse."""
    from streams.settings import load
    from streams.sink import ask

    sys.stdout.write(ask(load(), sql, form))


@app.command()
def migrate(
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="count again what is counted as it comes; stop the sink meanwhile")
    ] = False,
) -> None:
    """Bring ClickHouse's schema up to date, and how long it keeps rows."""
    from streams import sink as sinks
    from streams.settings import load

    done = sinks.migrate(load()) or ["the schema is up to date"]
    typer.echo("\n".join(done + (sinks.count_again(load()) if rebuild else [])))


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="as the table of the README")] = False,
) -> None:
    """List all settings."""
    from streams.settings import names, table

    if markdown:
        sys.stdout.write(table())
        return
    for variable, (kind, default, description) in names().items():
        typer.echo(f"{variable} ({kind}, default {default or 'none'}): {description}")


@topics_app.command("create")
def topics_create() -> None:
    """Create the topics that are missing."""
    from deploy.topics import Topics
    from streams.settings import load

    chosen = load()
    created = Topics(chosen.bootstrap_servers, chosen.kafka.client).create(chosen.topics)
    typer.echo(f"created {', '.join(created)}" if created else "all topics are there")


@topics_app.command("check")
def topics_check() -> None:
    """Compare the topics with the table; exit code 1 if any differs."""
    from deploy.topics import Topics
    from streams.settings import load

    chosen = load()
    mismatches = Topics(chosen.bootstrap_servers, chosen.kafka.client).check(chosen.topics)
    if mismatches:
        raise CalltideError("; ".join(mismatch.advice for mismatch in mismatches))
    typer.echo("all topics are as the table says")


@topics_app.command("fix")
def topics_fix(names: Annotated[list[str] | None, typer.Argument(help="topics; none: all")] = None) -> None:
    """Mend the topics that differ from the table. Run it when no calls run: partitions may be added."""
    from deploy.topics import Topics
    from streams.settings import load

    chosen = load()
    rows = [row for row in chosen.topics if not names or row.name in names]
    for name in names or []:
        if name not in {row.name for row in rows}:
            raise CalltideError(
                f"no topic {name} in the table; there are {', '.join(row.name for row in chosen.topics)}"
            )
    for mended in Topics(chosen.bootstrap_servers, chosen.kafka.client).fix(rows):
        typer.echo(f"{mended.topic.name}: {mended.setting} is {mended.wanted} (was {mended.actual})")


def _filter(stage: str | None, call: str | None, since: str | None) -> "Filter":
    from datetime import UTC, datetime

    from streams.dead_letters import Filter
    from streams.history import moment

    return Filter(stage, call, None if since is None else moment(since, "--since", datetime.now(UTC)))


@dead_letters_app.command("list")
def dead_letters_list(
    stage: OfStage = None,
    call: OfCall = None,
    since: Since = None,
    everything: Annotated[bool, typer.Option("--all", help="also those that are settled, with their fate")] = False,
    json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """List the dead letters that are neither redriven nor dropped yet."""
    from json import dumps

    from rich.console import Console

    from streams import dead_letters
    from streams.settings import load

    _interruptible()
    chosen = _filter(stage, call, since)
    letters = sorted(filter(chosen, dead_letters.DeadLetters(load()).letters()), key=lambda letter: letter.timestamp_ms)
    shown = [letter for letter in letters if everything or not letter.settled]
    if json:
        for letter in shown:
            typer.echo(dumps(letter.document(), ensure_ascii=False))
        return
    if shown:
        Console().print(dead_letters.table(shown[-dead_letters.ROWS :]))
    if len(shown) > dead_letters.ROWS:
        typer.echo(f"only the latest {dead_letters.ROWS} are shown; choose by --stage, --call, --since, or use --json")
    settled = sum(letter.settled is not None for letter in letters)
    more = f", {settled} of them settled" if everything else f"; {settled} settled are hidden, --all shows them"
    typer.echo(f"{len(shown)} dead letter{'' if len(shown) == 1 else 's'}{more if settled else ''}")


@dead_letters_app.command("show")
def dead_letters_show(
    letter: Annotated[str, typer.Argument(help="a letter as PARTITION:OFFSET")],
    value: Annotated[Path | None, typer.Option(help="save the value, such as the audio, as this file")] = None,
) -> None:
    """Print everything about one dead letter."""
    from streams import dead_letters
    from streams.settings import load

    _interruptible()
    place = dead_letters.parse_id(letter)
    found, headers, content = dead_letters.DeadLetters(load()).find(place)
    typer.echo(dead_letters.describe(found, headers, content))
    if value is not None:
        try:
            value.write_bytes(content)
        except OSError as error:
            raise CalltideError(f"cannot write {value} ({error.strerror}); give another --value") from None


def _settle(fate: "Fate", names: list[str] | None, chosen: "Filter", all_listed: bool) -> None:
    from streams.dead_letters import DeadLetters, Filter, Letter, parse_id, printable
    from streams.settings import load

    _interruptible()
    if names and (all_listed or chosen != Filter()):
        raise CalltideError("letters by name and a selection exclude each other; give one of them")
    if not names and not all_listed:
        raise CalltideError(
            "no letters named; give PARTITION:OFFSET, or --all-listed for all that `calltide dead-letters list` counts "
            "with the same options"
        )
    done = 0

    def tell(letter: Letter) -> None:
        nonlocal done
        done += 1
        typer.echo(printable(f"{letter.id}  {fate}  {letter.source}  {letter.call}"))

    faults = DeadLetters(load()).settle(fate, [parse_id(name) for name in names] if names else chosen, tell)
    typer.echo(f"{done} {fate}")
    if faults:
        raise CalltideError("\ncalltide: ".join(map(printable, faults)))


@dead_letters_app.command("redrive")
def dead_letters_redrive(
    letters: Letters = None,
    stage: OfStage = None,
    call: OfCall = None,
    since: Since = None,
    all_listed: AllListed = False,
) -> None:
    """Write letters back to the topic and partition they came from, once (docs/dead-letters.md says when to)."""
    _settle("redriven", letters, _filter(stage, call, since), all_listed)


@dead_letters_app.command("drop")
def dead_letters_drop(
    letters: Letters = None,
    stage: OfStage = None,
    call: OfCall = None,
    since: Since = None,
    all_listed: AllListed = False,
) -> None:
    """Settle letters without redriving them; they stay in the topic until its retention."""
    _settle("dropped", letters, _filter(stage, call, since), all_listed)


@train_app.command("emotion")
def train_emotion(
    data: Annotated[Path, typer.Option(help="clips: a directory an emotion, or an index.jsonl (docs/emotion.md)")],
    out: Out,
    seed: Seed = 0,
) -> None:
    """An emotion model from labelled clips; CALLTIDE_EMOTION__MODEL=OUT uses it."""
    from streams.training import emotion

    emotion.train_emotion(data, out, seed=seed)


@train_app.command("sentiment")
def train_sentiment(
    data: Annotated[Path, typer.Option(help="texts: .jsonl, .tsv or .csv, or a directory of such (docs/sentiment.md)")],
    out: Out,
    seed: Seed = 0,
) -> None:
    """A sentiment model from labelled texts; CALLTIDE_SENTIMENT__MODEL=OUT uses it."""
    from streams.training import sentiment

    sentiment.train_sentiment(data, out, seed=seed)


@train_app.command("outcome")
def train_outcome(
    out: Annotated[Path | None, typer.Option(help="file for the model (default: where the stage looks for it)")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="train and try it, and write nothing")] = False,
) -> None:
    """How calls will end, from the calls in ClickHouse (docs/early-warning.md)."""
    from streams.settings import load
    from streams.training import outcome

    _interruptible()
    outcome.train_outcome(load(), out, dry_run=dry_run)


@samples_app.command("download")
def samples_download(
    directory: Annotated[Path | None, typer.Option(help="where to (default: samples in CALLTIDE_HOME)")] = None,
) -> None:
    """Fetch two customer calls (Apache-2.0, aws-samples/amazon-transcribe-live-call-analytics); needs internet."""
    from streams import samples
    from streams.settings import load

    target = directory or load().directory / "samples"
    samples.download(target, typer.echo)
    typer.echo(f"try: make demo CALLS={target}")


def main() -> None:
    """Run the command line; errors are one line for people."""
    debug = "--debug" in sys.argv
    # Libraries log what we say in a line of our own; long-running processes log as JSON (streams.service).
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        status = app(standalone_mode=False) or 0
        if status == INTERRUPTED:
            sys.stderr.write("calltide: stopped\n")
        sys.exit(status)
    except typer.TyperException as error:
        sys.stderr.write(f"calltide: {str(error).rstrip('.')}; `calltide --help` lists what there is\n")
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read our output has had enough.
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            # A lock that was just taken when the signal came: CPython reports a result together with an exception.
            sys.stderr.write("calltide: stopped\n")
            sys.exit(INTERRUPTED)
        if debug:
            raise
        expected = isinstance(error, CalltideError)
        what = str(error) if expected else f"{type(error).__name__}: {error}; run again with --debug for the details"
        sys.stderr.write(f"calltide: {what}\n")
        sys.exit(1)
