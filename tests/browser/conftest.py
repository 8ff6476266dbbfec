"""A real Chromium, and the page served by the real web server.

Module scope, not session: while Playwright runs, the thread has an event loop, and tests of other modules use
`asyncio.run`.
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from streams.settings import Settings
from streams.web import serve_until


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


@contextmanager
def serving_page(settings: Settings) -> Iterator[str]:
    """The web server in a thread; gives the page's address."""
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=serve_until, args=(settings, stop, ready.set), name="web")
    thread.start()
    try:
        assert ready.wait(20)
        yield f"http://{settings.web.host}:{settings.web.port}/"
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
