"""`calltide demo`: real recordings through the whole chain in real time, watched in the terminal, with a summary.

Latency is measured where a user feels it: from the wall clock at which an utterance's last sample was captured to the
moment its score arrives at a websocket client.
"""

import asyncio
import statistics
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from schemas.errors import CalltideError
from streams import samples
from streams.files import open_audio
from streams.ingest import Call, Ingest, prepare
from streams.listen import WATCHED, View, subscribe
from streams.settings import Settings
from streams.sink import ask
from streams.supervisor import Supervisor

STAGGER_S: Final = 4.0
SETTLE_S: Final = 20.0
"""Judgement: longest wait for the last scores once the last sample was sent."""
SUFFIXES: Final = {".wav", ".flac", ".mp3", ".m4a", ".mp4", ".ogg", ".opus", ".webm"}
CALLS_AT_MOST: Final = 8
"""The target of two cores is 8 calls at once (docs/benchmarks.md)."""


@dataclass(slots=True)
class Heard:
    """What came over the websocket."""

    scores: int = 0
    latencies_s: list[float] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    summed_up: set[str] = field(default_factory=set)
    """Calls whose last figures have come."""

    def add(self, message: dict[str, Any]) -> None:
        """Take one message of the gateway."""
        event = message.get("event")
        if not event:
            return
        if event["kind"] == "score":
            self.scores += 1
            captured = datetime.fromisoformat(event["captured_at"])
            self.latencies_s.append((datetime.now(UTC) - captured).total_seconds())
        elif event["kind"] == "call_ended":
            self.ended.add(event["call"]["call_id"])
        elif event["kind"] == "metrics" and event["final"]:
            self.summed_up.add(event["call"]["call_id"])

    def percentile(self, share: float) -> float:
        """Latency in seconds that `share` of the scores kept to."""
        return statistics.quantiles(self.latencies_s, n=100, method="inclusive")[round(share * 100) - 1]


def recordings(path: Path | None, settings: Settings) -> tuple[list[Call], str]:
    """The calls to stream and what they are. Raises CalltideError for a path without recordings."""
    if path is None:
        stereo, mono = samples.two_channel(settings.directory / "samples"), samples.packaged()
        run = uuid.uuid4().hex[:4]
        calls = [
            *prepare([stereo], call_id=f"two-channels-{run}", queue="support", agent="diane"),
            *prepare([mono], call_id=f"mono-mix-{run}", queue="sales"),
            *prepare(
                [stereo],
                call_id=f"swapped-{run}",
                roles=("customer", "agent"),
                queue="support",
                agent="sheila",
            ),
        ]
        return (
            calls,
            "a real telephone conversation of 30 s, as a two-channel call, as a mono mix, and with parties swapped",
        )
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise CalltideError(f"no recordings in {path}; it takes {', '.join(sorted(SUFFIXES))}")
    chosen = files[:CALLS_AT_MOST]
    for file in chosen:
        open_audio(file)
    left = f" (the first {CALLS_AT_MOST} of {len(files)})" if len(files) > len(chosen) else ""
    return prepare(chosen), f"{len(chosen)} of your recordings{left}"


def run(settings: Settings, path: Path | None) -> None:
    """Start everything, stream, show, sum up, stop. Raises CalltideError when a part does not come up."""
    console = Console()
    begun = time.monotonic()
    calls, what = recordings(path, settings)
    for number, call in enumerate(calls):
        call.delay_s = number * STAGGER_S
    with Supervisor(settings, lambda text: console.print(f"  {text}", highlight=False, soft_wrap=True)) as supervisor:
        console.print(f"[bold]everything runs after {time.monotonic() - begun:.1f} s[/bold]", highlight=False)
        console.print(f"web app: [bold]http://{settings.web.host}:{settings.web.port}[/bold]")
        console.print(f"streaming {len(calls)} calls in real time: {what}\n", highlight=False, soft_wrap=True)
        heard = _stream(settings, supervisor, calls, console)
        _sum_up(settings, console, calls, heard, time.monotonic() - begun)


def _stream(settings: Settings, supervisor: Supervisor, calls: Sequence[Call], console: Console) -> Heard:
    stop, done = threading.Event(), threading.Event()
    faults: list[CalltideError] = []

    def send() -> None:
        try:
            Ingest(settings).run(calls, 1.0, stop)
        except CalltideError as error:
            faults.append(error)
        finally:
            done.set()

    heard = Heard()
    sender = threading.Thread(target=send, name="ingest")

    async def watch() -> None:
        with View(console) as view:
            messages = subscribe(settings.scores_url, settings.api.key, kinds=WATCHED)
            # The first message is the gateway's hello: from here on nothing is missed.
            view.add(await anext(messages))
            sender.start()

            async def listen() -> None:
                async for message in messages:
                    heard.add(message)
                    view.add(message)

            listening = asyncio.create_task(listen())
            deadline: float | None = None
            while not {call.info.call_id for call in calls} <= heard.ended & heard.summed_up:
                await asyncio.sleep(0.2)
                supervisor.tend()
                if listening.done():
                    listening.result()
                if done.is_set() and deadline is None:
                    deadline = time.monotonic() + SETTLE_S
                if deadline is not None and time.monotonic() > deadline:
                    break
            listening.cancel()

    try:
        asyncio.run(watch())
    finally:
        stop.set()
        if sender.ident is not None:
            sender.join()
    if faults:
        raise faults[0]
    return heard


def _sum_up(settings: Settings, console: Console, calls: Sequence[Call], heard: Heard, took_s: float) -> None:
    names = ", ".join("'" + call.info.call_id.replace("'", "") + "'" for call in calls)
    counted = (
        f"SELECT (SELECT count() FROM calls FINAL WHERE call_id IN ({names})), "
        f"(SELECT count() FROM utterances FINAL WHERE call_id IN ({names}))"
    )
    # The sink inserts in batches: give the last one time to arrive, then tell what is there.
    deadline = time.monotonic() + SETTLE_S
    while (rows := ask(settings, counted, "TSV").split()) != [str(len(calls)), str(heard.scores)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    console.print(
        f"\n[bold]{len(heard.ended)} of {len(calls)} calls heard to their end, {heard.scores} utterances scored[/bold]"
    )
    if len(heard.latencies_s) > 1:
        console.print(
            f"end of speech → score at the client: p50 {heard.percentile(0.5):.2f} s, "
            f"p95 {heard.percentile(0.95):.2f} s",
            highlight=False,
        )
    console.print(
        f"in ClickHouse: {rows[0]} calls, {rows[1]} utterances; the demo took {took_s:.0f} s", highlight=False
    )
    console.print(
        "\nnext:\n"
        "  make up                                  everything stays up; then, in another terminal:\n"
        "  .venv/bin/calltide ingest CALL.wav       stream a recording of yours (agent left, customer right)\n"
        "  .venv/bin/calltide listen                watch it here, or in the web app\n"
        "  .venv/bin/calltide query 'SELECT spoken_at, speaker, text, sentiment FROM utterances FINAL'\n"
        "  .venv/bin/calltide analyze CALL.wav      the same without Kafka",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if len(heard.ended) < len(calls) or len(heard.summed_up) < len(calls):
        raise CalltideError(
            f"not every call was heard and summed up to its end; see the logs in {settings.directory / 'logs'}"
        )
