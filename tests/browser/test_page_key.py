"""The pages with keys: a real browser, the real web server and the real gateway, which both ask who is there."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from deploy.process import free_port
from streams.api.access import COOKIE
from streams.settings import Settings
from tests.browser.conftest import serving_page
from tests.kafka.test_gateway_access import keys, with_api
from tests.scripted import Writer, call, new_topic, score, serving, settings_for, started

pytestmark = [pytest.mark.browser, pytest.mark.kafka]


@pytest.fixture
def settings(kafka_bootstrap: str, tmp_path: Path) -> Iterator[Settings]:
    base = settings_for(kafka_bootstrap, port=free_port())
    base = base.model_copy(update={"web": base.web.model_copy(update={"port": free_port()})})
    yield with_api(base, tmp_path, keys=keys())


def test_the_page_sends_its_key_to_the_gateway_and_its_session_in_another_tab(
    kafka_bootstrap: str, settings: Settings, page: Page
) -> None:
    topic = new_topic(kafka_bootstrap)
    writer = Writer(kafka_bootstrap, topic)
    own, other = call("own", tenant="acme"), call("other", tenant="beta")
    writer.write(started(own), score(own, 0, "good morning"), started(other), score(other, 0, "a secret"))
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    with serving(settings, topic), serving_page(settings) as address:
        page.goto(f"{address}#/call")
        for key in ("wrong", "ann-key"):
            dialog = page.locator("#key-dialog")
            expect(dialog).to_be_visible(timeout=60_000)
            page.locator("#key").fill(key)
            page.locator("#key-use").click()
        expect(page.locator("#connection")).to_have_text("Live", timeout=60_000)
        expect(page.get_by_text("good morning").first).to_be_visible()
        assert page.get_by_text("a secret").count() == 0
        assert not any("key" in url for url in sockets)

        # Another tab has no key of its own, but the cookie.
        (cookie,) = [one for one in page.context.cookies() if one["name"] == COOKIE]
        assert cookie["httpOnly"] and cookie["expires"] > time.time()
        second = page.context.new_page()
        second.goto(f"{address}#/call")
        expect(second.locator("#connection")).to_have_text("Live", timeout=60_000)
        expect(second.get_by_text("good morning").first).to_be_visible()
