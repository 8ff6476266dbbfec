"""How many frames a second the floor page keeps while hundreds of calls go on.

`python -m benchmarks.floor` takes a minute: a Chromium without a screen or a GPU opens the page, and a process of its
own speaks the gateway's protocol to it, a score and figures of each call every second, an alert of each every minute.

A changer must know: it is the page that is measured. What feeds it is not the gateway, which needs a broker whose work
would be measured with it; the messages are the models' own (schemas/events.py), of the size that calls have.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import random
import shutil
import sys
import threading
import time
from datetime import UTC, datetime
from itertools import pairwise
from multiprocessing.synchronize import Event
from typing import Any, Final

from rich.console import Console
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from benchmarks.support import Table, add_outputs, percentile, publish
from deploy.process import free_port
from schemas.errors import CalltideError
from schemas.events import (
    Alert,
    CallInfo,
    CallMetrics,
    CallStarted,
    Emotion,
    PartyMetrics,
    RunningScore,
    Score,
    Sentiment,
    Word,
)
from streams.settings import Settings
from streams.web import serve_until

COMMAND: Final = "python -m benchmarks.floor"
CALLS: Final = (100, 500)
UPDATES: Final = 2
"""Of each call, a second: a score and figures."""
AIM: Final = 30
WARM_S: Final = 8.0
MEASURED_S: Final = 20.0
TEXT: Final = "I have been waiting for two weeks and nobody could tell me where my order is"
WATCH: Final = """() => {
  window.frames_at = [];
  const frame = (at) => { window.frames_at.push(at); requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
  window.long_tasks = 0;
  new PerformanceObserver((list) => { window.long_tasks += list.getEntries().length; }).observe({type: 'longtask'});
}"""
HEARD: Final = """() => import('./live.js').then(
  ({calls}) => [...calls.values()].reduce((sum, {last}) => sum + (last?.running.utterances ?? 0), 0))"""


def _score(info: CallInfo, at_ms: int, count: int, mood: float) -> Score:
    customer = count % 2 == 1
    words = TEXT.split()
    polarity = max(-1.0, min(1.0, mood + random.gauss(0, 0.3)))
    emotions = dict.fromkeys(("happiness", "sadness", "fear", "surprise"), 0.1) | {"anger": 0.4, "neutral": 0.2}
    return Score(
        call=info, channel=int(customer), start_ms=max(0, at_ms - 900), end_ms=at_ms, cut="pause", codec="mulaw",
        rate=8_000, captured_at=datetime.now(UTC), speaker=info.roles[customer], role=info.roles[customer],
        speaker_confidence=1.0, text=TEXT,
        words=tuple(Word(text=word, start_ms=at_ms, end_ms=at_ms + 50, confidence=0.9) for word in words),
        language="en", asr_confidence=0.9, asr_model="made-up",
        emotion=Emotion.model_validate({"label": "anger", "probabilities": emotions, "model": "made-up"}),
        sentiment=Sentiment(
            label="negative" if polarity < 0 else "positive", score=polarity, text_score=polarity, voice_score=polarity,
            confidence=0.8, model="made-up",
        ),
        running=RunningScore(score=mood, party_score=mood, utterances=count), pipeline_version="v1",
    )  # fmt: skip


def _metrics(info: CallInfo, at_ms: int, count: int) -> CallMetrics:
    parties = tuple(
        PartyMetrics(
            role=role, speaker=role, utterances=count, words=15 * count, talk_ms=at_ms // 2, talk_share=0.5,
            words_per_minute=150.0, score=0.0, negative=count, neutral=0, positive=0, quarters=(0.0, -1.0, None, None),
            change=None, emotion_ms={"anger": at_ms // 2}, emotion_share={"anger": 1.0}, longest_monologue_ms=9_000,
            turns=count, responses=count, response_ms=700, interruptions=0, interrupted=0, overtalk_ms=0,
            loudness_lufs=-23.0, loudness_trend=None,
        )
        for role in info.roles
    )  # fmt: skip
    silent = random.choice((0, 0, 0, 6_000))
    return CallMetrics(
        call=info, at_ms=at_ms, final=False, partial=False, pipeline_version="v1", parties=parties, unheard=(),
        talk_ms=at_ms, score=0.0, quarters=(0.0, None, None, None), change=None, silences=1, silence_ms=6_000,
        longest_silence_ms=6_000, silence_now_ms=silent, dead_air=(), interruptions=(),
    )  # fmt: skip


def _alert(info: CallInfo, at_ms: int) -> Alert:
    return Alert(
        call=info, rule="angry-customer", category="angry-customer", at_ms=at_ms, raised_at=datetime.now(UTC),
        rules_version="1", pipeline_version="v1", severity=random.choice(("info", "warning", "critical")),
        message="The customer is angry",
    )  # fmt: skip


def _message(event: Any) -> str:
    head = json.dumps({"type": event.kind, "cursor": "scores~0:0", "pushed_at": datetime.now(UTC).isoformat()})
    return f'{head[:-1]},"event":{event.model_dump_json()}}}'


def feed(port: int, calls: int, stop: Event) -> None:
    """Speak the gateway's protocol to whoever comes, until `stop` is set."""

    async def talk(connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "hello", "cursor": "scores~0:0", "kafka": "ok"}))
        now = datetime.now(UTC)
        infos = [
            CallInfo(
                call_id=f"call-{number:04}", started_at=now, roles=("agent", "customer"), agent=f"agent-{number % 60}",
                queue=("billing", "sales", "support")[number % 3],
            )
            for number in range(calls)
        ]  # fmt: skip
        for info in infos:
            await connection.send(_message(CallStarted(call=info)))
        moods = [random.uniform(-0.6, 0.6) for _ in infos]
        step = 1 / (calls * UPDATES)
        begun, sent = time.monotonic(), 0
        while True:
            number, turn = sent % calls, sent // calls
            info, at_ms = infos[number], round((time.monotonic() - begun) * 1_000) + 1_000
            moods[number] = max(-0.95, min(0.95, moods[number] + random.gauss(0, 0.05)))
            if turn % UPDATES:
                event: Any = _metrics(info, at_ms, turn)
            else:
                event = _score(info, at_ms, turn // UPDATES + 1, moods[number])
            await connection.send(_message(event))
            if random.random() < 1 / (60 * UPDATES):
                await connection.send(_message(_alert(info, at_ms)))
            sent += 1
            await asyncio.sleep(max(0.0, begun + sent * step - time.monotonic()))

    async def until_closed(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await talk(connection)

    async def run() -> None:
        async with serve(until_closed, "127.0.0.1", port):
            while not stop.is_set():
                await asyncio.sleep(0.1)

    asyncio.run(run())


def frames(calls: int, pictures: str = "") -> tuple[list[float], int, float, float]:
    """(milliseconds between frames, tasks longer than 50 ms, updates a second that came, seconds measured) of the floor
    with so many calls."""
    from playwright.sync_api import sync_playwright

    base, port = Settings(), free_port()
    settings = base.model_copy(
        update={
            "web": base.web.model_copy(update={"port": free_port()}),
            "gateway": base.gateway.model_copy(update={"port": port}),
        }
    )
    context = multiprocessing.get_context("spawn")
    over = context.Event()
    feeder = context.Process(target=feed, args=(port, calls, over), daemon=True)
    stop, ready = threading.Event(), threading.Event()
    web = threading.Thread(target=serve_until, args=(settings, stop, ready.set))
    feeder.start()
    web.start()
    try:
        ready.wait(20)
        with sync_playwright() as playwright:
            names = ("chromium", "chromium-browser", "google-chrome")
            path = next((found for name in names if (found := shutil.which(name))), None)
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(f"http://127.0.0.1:{settings.web.port}/")
            page.wait_for_function(
                "calls => document.querySelectorAll('#floor .floor-row').length === calls", arg=calls, timeout=60_000
            )
            page.wait_for_timeout(WARM_S * 1_000)
            page.evaluate(WATCH)
            before = page.evaluate(HEARD)
            page.wait_for_timeout(MEASURED_S * 1_000)
            after = page.evaluate(HEARD)
            at, long_tasks = page.evaluate("[window.frames_at, window.long_tasks]")
            if pictures:
                page.screenshot(path=f"{pictures}/page-floor-full.png")
            browser.close()
    finally:
        over.set()
        stop.set()
        web.join(10)
        feeder.join(10)
        if feeder.is_alive():
            feeder.kill()
    seconds = (at[-1] - at[0]) / 1_000
    gaps = [later - sooner for sooner, later in pairwise(at)]
    return gaps, long_tasks, UPDATES * (after - before) / seconds, seconds


def measure(levels: list[int], pictures: str, console: Console) -> Table:
    """The table."""
    table = Table(
        f"The floor page, {UPDATES} updates a second of each call (aim: {AIM} frames a second)",
        (
            "calls",
            "updates a second",
            "frames a second",
            "95 % of frames within, ms",
            "longest, ms",
            "tasks over 50 ms",
        ),
        [],
        ["Chromium without a screen or a GPU, 1280 × 800, beside the process that feeds it."],
    )
    data = []
    for calls in levels:
        console.print(f"{calls} calls…")
        gaps, long_tasks, updates, seconds = frames(calls, pictures)
        rate = len(gaps) / seconds
        p95 = percentile(gaps, 0.95)
        data.append({"calls": calls, "updates": updates, "frames": rate, "p95_ms": p95, "max_ms": max(gaps)})
        table.rows.append(
            (str(calls), f"{updates:,.0f}", f"{rate:.1f}", f"{p95:.0f}", f"{max(gaps):.0f}", str(long_tasks))
        )
    table.data = data
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS, metavar="N", help="numbers of live calls")
    parser.add_argument("--pictures", default="", metavar="DIR", help="keep a picture of the page")
    add_outputs(parser)
    arguments, console = parser.parse_args(), Console()
    table = measure(list(arguments.calls), arguments.pictures, console)
    publish({COMMAND: [table]}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
