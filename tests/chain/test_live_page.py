"""A real call on its page, live, from audio to pixels. SCREENSHOT=FILE keeps a picture of it, in real time."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from streams import samples
from tests.chain.support import Listener, Stack, until

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.browser, pytest.mark.slow]


def test_the_page_shows_a_call_while_it_is_spoken(stack: Stack, chromium: Browser, tmp_path: Path) -> None:
    path = samples.two_channel(tmp_path)
    page = chromium.new_page(viewport={"width": 1280, "height": 860}, device_scale_factor=1.5)
    page.goto(f"http://127.0.0.1:{stack.ports['CALLTIDE_WEB__PORT']}/#/call/on-the-page")
    expect(page.locator("#connection")).to_have_text("Live", timeout=60_000)
    speed = "1" if os.environ.get("SCREENSHOT") else "4"
    turns = page.locator(".turn .text")
    picture = Path(os.environ.get("SCREENSHOT") or tmp_path / "page.png")
    with Listener(stack.scores_url, call="on-the-page") as listener:
        ingest = stack.begin(
            "ingest", path, "--call-id", "on-the-page", "--queue", "support", "--agent", "Diane", "--speed", speed
        )
        expect(turns.nth(6)).to_be_attached(timeout=60_000)
        expect(page.locator("#live .entry")).to_have_count(1)
        page.screenshot(path=picture)
        assert ingest.wait(180) == 0
        until(lambda: listener.events("call_ended", "on-the-page"), "the end of the call")
        scores = sorted(
            listener.events("score", "on-the-page"), key=lambda score: (score["start_ms"], score["channel"])
        )
    assert len(scores) >= 8
    expect(turns).to_have_count(len(scores))
    assert turns.all_text_contents() == [score["text"] or "no words recognised" for score in scores]
    assert picture.stat().st_size > 20_000
    page.close()
