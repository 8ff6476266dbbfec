"""A tab that is left open, in a real browser with a gateway of a few lines in the page itself: what it keeps of
thousands of calls, which calls it takes for live ones, and what a dead connection costs.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from deploy.process import free_port
from schemas.events import CallEvent, Outlook
from streams.settings import Settings
from tests.browser.canned import Api
from tests.browser.conftest import serious, serving_page
from tests.scripted import alert, call, ended, metrics, score, started

pytestmark = pytest.mark.browser

GATEWAY = """() => {
  window.sockets = [];
  window.WebSocket = class {
    static OPEN = 1;
    readyState = 1;
    constructor(url) {
      this.url = url;
      sockets.push(this);
      setTimeout(() => this.onmessage({data: JSON.stringify({type: 'hello', cursor: 'scores~0:0', kafka: 'ok'})}));
    }
    send() {}
    close() { this.readyState = 3; }
  };
  window.push = (type, event, more = {}) =>
    sockets.at(-1).onmessage({data: JSON.stringify({type, event, cursor: 'scores~0:1', ...more})});
}"""
"""In the place of the websocket: what is pushed goes the way that a gateway's messages go."""
BEGIN_AND_END = """async ([events, from, to, running]) => {
  const of = (number, event) => ({
    ...event, call: {...event.call, call_id: `call-${number}`, agent: `agent-${number % 40}`}
  });
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  for (let number = from; number < to; number++) {
    for (const [type, event] of events.filter(([type]) => type !== 'call_ended')) push(type, of(number, event));
    const end = events.find(([type]) => type === 'call_ended')[1];
    if (number >= running) push('call_ended', of(number - running, end));
    if (number % 50 === 49) await frame();
  }
  await frame();
  await frame();
}"""
RUNNING = 40
KEPT = """async () => {
  const { calls } = await import('./live.js');
  const all = [...calls.values()];
  return {calls: all.length, live: all.filter(({ended}) => !ended).length,
    utterances: all.reduce((sum, {utterances}) => sum + utterances.size, 0)};
}"""


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    """Where the pages are."""
    base = Settings()
    ports = {name: getattr(base, name).model_copy(update={"port": free_port()}) for name in ("web", "gateway", "serve")}
    with serving_page(base.model_copy(update=ports)) as address:
        yield address


@pytest.fixture
def page(page: Page) -> Page:
    page.add_init_script(f"({GATEWAY})()")
    Api(page)
    return page


def as_json(event: CallEvent) -> Any:
    return json.loads(event.model_dump_json())


def push(page: Page, event: CallEvent, **more: str) -> None:
    page.evaluate("([type, event, more]) => push(type, event, more)", [event.kind, as_json(event), more])


def held(page: Page) -> dict[str, int]:
    """Calls and utterances that are kept; nodes, those that nothing shows any more included; bytes of the heap."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    found = page.evaluate(KEPT) | {"nodes": session.send("Memory.getDOMCounters")["nodes"]}
    found["bytes"] = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    return found


def test_thousands_of_calls_that_begin_and_end_leave_no_more_behind_than_hundreds(root: str, page: Page) -> None:
    info = call("made-up", datetime.now(UTC), queue="billing")
    text = "I have been waiting for two weeks"
    said = [score(info, 2_000 * at, text, emotion="anger", utterances=at) for at in range(3)]
    told: list[CallEvent] = [started(info), *said, alert(info), metrics(info, 6_000), ended(info, 8_000)]
    events = [(event.kind, as_json(event)) for event in told]
    page.goto(f"{root}#/floor")
    expect(page.locator("#connection")).to_have_text("Live")
    for address in ("call", "floor"):
        # Both pages have drawn, and neither is shown all the time.
        page.goto(f"{root}#/{address}")
    page.evaluate(BEGIN_AND_END, [events, 0, 500, RUNNING])
    before = held(page)
    for at, address in enumerate(("call", "library", "floor")):
        page.goto(f"{root}#/{address}")
        page.evaluate(BEGIN_AND_END, [events, 500 + 1_500 * at, 2_000 + 1_500 * at, RUNNING])
    after = held(page)
    assert after["live"] == RUNNING
    assert after["calls"] <= RUNNING + 51, "50 ended ones, and the one that a person looks at"
    assert after["utterances"] == 3 * after["calls"]
    assert page.locator("#floor .floor-row").count() == RUNNING
    expect(page).to_have_title(f"({RUNNING}) Calltide")
    assert after["nodes"] < 1.5 * before["nodes"] + 500, (before, after)
    assert after["bytes"] < before["bytes"] + 4_000_000, (before, after)

    # Calls whose ends were lost, and a connection that died without a word.
    page.evaluate("() => { const now = Date.now; Date.now = () => now() + 2 * 3600000; }")
    page.wait_for_function("() => sockets.length === 2")
    assert "from=scores" in page.evaluate("sockets[1].url")
    expect(page.locator("#connection")).to_have_text("Live")
    late = call("late", datetime.now(UTC))
    push(page, started(late))
    push(page, ended(late))
    assert page.evaluate(KEPT)["live"] == 0
    expect(page.locator("#floor-none")).to_contain_text("No calls are running now.")


def test_only_what_is_spoken_now_is_on_the_floor_and_has_a_delay(root: str, page: Page) -> None:
    now = datetime.now(UTC)
    upload = call("upload", now - timedelta(seconds=60), metadata={"sha256": "0f"})
    live = call("live", now, queue="billing")
    page.goto(f"{root}#/floor")
    expect(page.locator("#connection")).to_have_text("Live")
    push(page, started(upload))
    # As streams/ingest.py sends what is faster than speech: all of it is of the moment at which the call began.
    heard = score(upload, 12_000, "I was charged twice", captured_at=upload.started_at)
    push(page, heard, pushed_at=now.isoformat())
    expect(page.locator("#floor-none")).to_contain_text("No calls are running now.")
    expect(page.locator("#delay")).to_be_hidden()

    push(page, started(live))
    said = score(live, 0, "good morning")
    push(page, said, pushed_at=(said.captured_at + timedelta(seconds=0.8)).isoformat())
    row = page.locator("#floor .floor-row")
    expect(row.locator(".title")).to_have_text("live")
    expect(page.locator("#delay")).to_have_text("live calls: here 0.8 s after it was said")
    expect(page.locator("#floor-table .outlook").first).to_be_hidden()
    push(page, metrics(live, 2_000).model_copy(update={"outlook": Outlook(negative=0.726, model="outcome-abc")}))
    expect(row.locator(".outlook .value")).to_have_text("73\u00a0%")
    expect(page.get_by_role("columnheader", name="Ends badly")).to_be_visible()
    assert serious(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    expect(row.locator(".outlook")).to_have_text("Ends badly73\u00a0%")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360

    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{root}#/call/upload")
    expect(page.locator("#call-clock")).to_have_text("heard up to 0:13")
    expect(page.locator("#live .facts").first).to_contain_text("a recording, being heard")
    push(page, ended(live))
    expect(page.locator("#delay")).to_be_hidden()
