"""examples/microphone.html, and the web app's page Microphone, in a real browser, whose microphone plays a recording,
against the decoder."""

import asyncio
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from playwright.sync_api import Browser, expect
from scipy.signal import correlate
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from deploy.process import free_port
from processors.audio import decode, resample
from schemas.events import CallEnded, CallEvent, RunningScore, Score
from streams.protocols.base import Audio, Began, Ended, Event
from streams.protocols.microphone import Microphone, options
from streams.settings import Settings
from tests.browser.conftest import serious, serving_page
from tests.unit.stage_records import STARTED_AT, call, interim, utterance

PAGE = Path(__file__).parent.parent.parent / "examples" / "microphone.html"
ENDED = CallEnded(call=call(), duration_ms=2_000, ended_at=STARTED_AT, reason="hangup")


def score(start_ms: int, text: str) -> Score:
    running = RunningScore(score=0, party_score=0, utterances=1)
    return utterance(Score, call(), start_ms, text=text, running=running, pipeline_version="v1")


@contextmanager
def served(events: list[Event], enough: threading.Event, results: deque[CallEvent]) -> Iterator[str]:
    """The page and the decoder behind one port; gives `host:port`. `enough` is set after 3 s of audio; what is put into
    `results` is told with the next audio."""

    def answer(_connection: ServerConnection, request: Request) -> Response | None:
        if urlsplit(request.path).path == "/microphone":
            return None
        return Response(200, "OK", Headers({"Content-Type": "text/html", "Connection": "close"}), PAGE.read_bytes())

    async def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        decoder = Microphone(options(urlsplit(connection.request.path).query), "call-1")
        async for message in connection:
            events.extend(decoder.receive(message))
            if sum(len(event.samples) for event in events if isinstance(event, Audio)) >= 3 * 2 * 16_000:
                enough.set()
            if isinstance(events[-1], Ended):
                results.append(ENDED)
            while results:
                decoder.heard(results.popleft())
            for text in decoder.outbox:
                await connection.send(text)
            decoder.outbox.clear()
            if decoder.finished:
                return

    ready = threading.Event()
    places: list[Any] = []

    async def run() -> None:
        async with serve(talk, "127.0.0.1", 0, process_request=answer) as server:
            places.extend((server.sockets[0].getsockname(), asyncio.get_running_loop(), asyncio.Event()))
            ready.set()
            await places[2].wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert ready.wait(90)
        yield "{}:{}".format(*places[0])
    finally:
        places[1].call_soon_threadsafe(places[2].set)
        thread.join(60)


def speaking(chromium: Browser, test_data: Path, folder: Path) -> tuple[NDArray[np.float32], int, Browser]:
    """(what the microphone hears, its rate, a browser with that microphone)."""
    sound, rate = soundfile.read(test_data / "calls" / "stereo-10s.flac", dtype="float32")
    recording = folder / "microphone.wav"
    soundfile.write(recording, sound[:, 0], rate, "PCM_16")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = chromium.browser_type.launch(
        executable_path=next((found for name in names if (found := shutil.which(name))), None),
        args=[
            "--no-sandbox",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={recording}%noloop",
        ],
    )
    return sound, rate, browser


@pytest.mark.timeout(60)
def test_the_page_sends_what_the_microphone_hears_and_shows_what_comes_back(
    chromium: Browser, test_data: Path, tmp_path: Path
) -> None:
    sound, rate, browser = speaking(chromium, test_data, tmp_path)
    events: list[Event] = []
    enough = threading.Event()
    results: deque[CallEvent] = deque()
    try:
        with served(events, enough, results) as address:
            page = browser.new_page()
            page.goto(f"http://{address}/?server=ws://{address}")
            page.get_by_role("button", name="Start").click()
            expect(page.get_by_role("status")).to_have_text("listening: call-1", timeout=60_000)
            assert enough.wait(90)
            so_far, finished = page.locator("#interim"), page.locator("li")
            for length_ms, text in ((400, "Well"), (900, "Well then")):
                results.append(interim(call(), 500, length_ms, text))
                expect(so_far).to_have_text(text, timeout=60_000)
            expect(so_far).to_have_css("color", "rgb(128, 128, 128)")
            expect(finished).to_have_count(0)
            results.append(score(500, "Well then."))
            expect(finished).to_have_text(["Well then."], timeout=60_000)
            expect(so_far).to_be_empty()
            # The next utterance has begun when another one is finished.
            results.append(interim(call(), 3_000, 200, "But"))
            expect(so_far).to_have_text("But", timeout=60_000)
            results.append(score(1_800, "Yes."))
            expect(finished).to_have_text(["Well then.", "Yes."], timeout=60_000)
            expect(so_far).to_have_text("But")
            page.get_by_role("button", name="Stop").click()
            expect(page.get_by_role("status")).to_have_text("ended", timeout=60_000)
            expect(so_far).to_be_empty()
    finally:
        browser.close()
    began = events[0]
    assert isinstance(began, Began) and isinstance(events[-1], Ended)
    heard = decode(b"".join(event.samples for event in events if isinstance(event, Audio)), "pcm_s16le")
    spoken = resample(np.ascontiguousarray(sound[:, 0]), rate, began.rate)
    assert 3 <= len(heard) / began.rate < 10
    # Where it fits best, it is the recording.
    at = int(np.argmax(correlate(spoken, heard, "full"))) - len(heard) + 1
    first, last = max(at, 0), min(at + len(heard), len(spoken))
    likeness = np.corrcoef(spoken[first:last], heard[first - at : last - at])[0, 1]
    assert likeness > 0.95


@pytest.mark.timeout(60)
def test_who_speaks_into_the_web_app_is_scored_and_can_save_what_was_said(
    chromium: Browser, test_data: Path, tmp_path: Path
) -> None:
    _, _, browser = speaking(chromium, test_data, tmp_path)
    events: list[Event] = []
    enough = threading.Event()
    results: deque[CallEvent] = deque()
    base = Settings()
    try:
        with served(events, enough, results) as address:
            port = int(address.rpartition(":")[2])
            settings = base.model_copy(
                update={
                    "web": base.web.model_copy(update={"port": free_port()}),
                    "gateway": base.gateway.model_copy(update={"port": free_port()}),
                    "serve": base.serve.model_copy(update={"port": port}),
                }
            )
            with serving_page(settings) as root:
                page = browser.new_page()
                page.goto(f"{root}#/microphone")
                state = page.locator("#mic-state")
                page.get_by_role("button", name="Start").click()
                expect(state).to_have_text("Listening: call-1", timeout=60_000)
                page.wait_for_function("() => document.getElementById('mic-level').value > 0", timeout=60_000)
                assert serious(page) == []
                assert enough.wait(90)
                results.append(interim(call(), 500, 400, "Well"))
                expect(page.locator("#mic-interim")).to_have_text("Well", timeout=60_000)
                results.append(score(500, "Well then."))
                expect(page.locator("#mic-words li")).to_contain_text(["Well then."], timeout=60_000)
                expect(page.locator("#mic-interim")).to_be_empty()
                expect(page.locator("#mic-score")).to_have_text("+0.00")
                page.get_by_role("button", name="Stop").click()
                expect(state).to_have_text("Ended.", timeout=60_000)
                with page.expect_download() as download:
                    page.get_by_role("button", name="Save the recording").click()
                assert download.value.suggested_filename == "call-1.wav"
                kept, rate = soundfile.read(download.value.path(), dtype="int16")
                expect(page.get_by_role("link", name="Open the call")).to_have_attribute("href", "#/call/call-1")
    finally:
        browser.close()
    sent = decode(b"".join(event.samples for event in events if isinstance(event, Audio)), "pcm_s16le")
    assert rate == 16_000
    assert len(kept) == len(sent), "what is saved is what was sent"
    assert np.abs(kept / 32_768 - sent).max() < 1e-4
