"""What a person does who has never seen it: bring a recording, watch it being heard, find the moment, hear it, read
why, try a rule on it; in a real browser, with everything running. PICTURES=docs/pictures keeps the README's pictures.
"""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from streams import samples
from tests.chain.support import Stack

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.browser, pytest.mark.slow]


QUEUE = "claims"


def take(page: Page, name: str) -> None:
    """A picture, where pictures are wanted."""
    if kept := os.environ.get("PICTURES"):
        page.screenshot(path=Path(kept) / f"{name}.png")


def test_a_recording_is_brought_heard_found_played_explained_and_taken_away(
    stack: Stack, chromium: Browser, tmp_path: Path
) -> None:
    path = samples.two_channel(tmp_path)
    page = chromium.new_page(viewport={"width": 1280, "height": 860}, device_scale_factor=1.5)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    root = f"http://127.0.0.1:{stack.ports['CALLTIDE_WEB__PORT']}/"
    page.goto(f"{root}#/library")
    # Other tests have brought calls: those of a queue of its own are looked at.
    page.locator("#library-queue").fill(QUEUE)
    expect(page.locator("#library-state")).to_contain_text("No call fits", timeout=60_000)

    page.locator("#upload-queue").fill(QUEUE)
    page.locator("#upload-agent").fill("Diane")
    page.locator("#upload-files").set_input_files(path)
    job = page.locator("#uploads > li")
    expect(job.locator(".bar-of").first).to_be_visible(timeout=60_000)
    take(page, "web-upload")
    job.get_by_role("link", name="being heard").click()
    expect(page.locator(".turn").first).to_be_visible(timeout=120_000)
    page.go_back()
    expect(job.locator(".task")).to_have_attribute("data-state", "completed", timeout=180_000)
    expect(page.locator("#library-rows tr")).to_have_count(1, timeout=60_000)
    expect(page.locator(".days canvas")).to_be_visible(timeout=60_000)
    take(page, "web-library")

    call_id = str(page.locator("#library-rows .title").text_content())
    answer = page.request.get(f"{root}api/v1/calls/{call_id}/utterances").json()
    said = max((word["text"].strip(".,?!") for one in answer["items"] for word in one["words"]), key=len)
    page.get_by_label("Words that were said").fill(said)
    hits = page.locator("#library-rows .found")
    expect(hits.first).to_be_visible(timeout=60_000)
    hits.first.click()
    turns = page.locator(".turn")
    expect(turns.nth(5)).to_be_attached(timeout=60_000)
    expect(page.locator(".plot")).to_have_count(3)
    expect(page.locator(".turn .feel").first).to_be_attached()
    expect(page.locator("#lowest")).to_have_text(re.compile("Customer's lowest moment|never negative"))

    word = page.locator(".turn .word").nth(8)
    began = int(str(word.get_attribute("data-from"))) / 1_000
    word.click()
    page.wait_for_function(f"() => document.getElementById('audio').currentTime > {began} + 0.3", timeout=60_000)
    expect(page.locator(".word.playing")).not_to_have_count(0)
    page.evaluate("document.getElementById('audio').pause()")
    take(page, "web-call")
    page.locator(".why").nth(1).click()
    expect(page.locator("#why-state")).to_be_hidden(timeout=90_000)
    take(page, "web-why")
    page.get_by_role("button", name="Close").click()

    with page.expect_download(timeout=60_000) as download:
        page.locator("summary", has_text="Export").click()
        page.get_by_role("link", name="PDF report").click()
    assert download.value.path().read_bytes().startswith(b"%PDF")

    page.goto(f"{root}#/rules")
    page.get_by_label("Rules (YAML)").fill(
        "rules:\n  - name: anything\n    alert: {severity: info, cooldown_s: 0, message: Somebody has said something}\n"
        "    when: {said: {regex: ['.']}}\n"
    )
    expect(page.get_by_label("Calls to try on")).not_to_have_value(
        "", timeout=60_000
    )  # the last ones, asked of the API
    page.get_by_role("button", name="Try on calls").click()
    expect(page.locator("#rules-found")).to_contain_text("Somebody has said something", timeout=60_000)
    expect(page.locator("#status-facts")).to_contain_text("works", timeout=60_000)
    take(page, "web-rules")
    assert not faults
    page.close()
