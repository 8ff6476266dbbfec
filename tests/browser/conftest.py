"""A real Chromium, and the page served by the real web server.

Module scope, not session: while Playwright runs, the thread has an event loop, and tests of other modules use
`asyncio.run`.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from streams.settings import Settings
from streams.web import serve_until

expect.set_options(timeout=30_000)
"""Instead of 5 s: a browser on a busy machine has to wait for its turn, too."""

AXE = Path(__file__).with_name("vendor") / "axe.min.js"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A running browser; skips where there is none."""
    with sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        path = next((found for name in names if (found := shutil.which(name))), playwright.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("no Chromium here: `apt-get install chromium` or `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of its own; errors in it, and what its policy forbade, fail the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("dialog", lambda dialog: faults.append(f"dialog {dialog.message}"))
    opened.on(
        "console",
        # A gateway or a ClickHouse that is not there is an error to the browser, and expected here.
        lambda said: (
            faults.append(said.text)
            if said.type == "error" and "WebSocket" not in said.text and "/api/v1/" not in said.location["url"]
            else None
        ),
    )
    yield opened
    context.close()
    assert not faults


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Takes a picture of a page; PICTURES=docs/pictures keeps them for the documents."""
    kept = os.environ.get("PICTURES")

    def take(page: Page, name: str) -> None:
        if kept:
            page.screenshot(path=Path(kept) / f"{name}.png")

    return take


def serious(page: Page, *rules: str) -> list[str]:
    """What axe-core finds in a page that keeps somebody out: rule and place. Lesser findings are not counted. `rules`:
    these only."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{one['id']}: {node['target']} {node.get('failureSummary', '')}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@contextmanager
def serving_page(settings: Settings) -> Iterator[str]:
    """The web server in a thread; gives the page's address."""
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=serve_until, args=(settings, stop, ready.set), name="web")
    thread.start()
    try:
        assert ready.wait(90)
        yield f"http://{settings.web.host}:{settings.web.port}/"
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
