"""The pages of live calls in a real browser, fed by a real gateway from a real topic."""

import json
import re
import socket
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer
from playwright.sync_api import Browser, Page, expect
from pydantic import ValidationError

from deploy.process import free_port
from schemas.errors import CalltideError
from schemas.events import (
    CallEvent,
    CallInfo,
    Correction,
    Evaluation,
    Evidence,
    GranularEmotion,
    Insights,
    Outlook,
    Score,
    encode,
)
from schemas.replayed import REPLAY, ReplayPosition
from streams.settings import Settings
from streams.web import PAGE, gateway_address, microphone_address, serve_until
from tests.browser.conftest import serious, serving_page
from tests.scripted import Writer, alert, call, ended, metrics, new_topic, score, serving, settings_for, started

pytestmark = [pytest.mark.browser, pytest.mark.kafka]

HOSTILE = '<img src=x onerror="document.title=1"><script>alert(1)</script> & "quotes"'


@pytest.fixture
def topic(kafka_bootstrap: str) -> str:
    return new_topic(kafka_bootstrap)


@pytest.fixture
def writer(kafka_bootstrap: str, topic: str) -> Writer:
    return Writer(kafka_bootstrap, topic)


@pytest.fixture
def settings(kafka_bootstrap: str) -> Settings:
    base = settings_for(kafka_bootstrap, port=free_port())
    return base.model_copy(update={"web": base.web.model_copy(update={"port": free_port()})})


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    """Of the page of one call, which shows the first live one."""
    with serving_page(settings) as page_address:
        yield f"{page_address}#/call"


def said(page: Page) -> list[str]:
    return page.locator(".turn .text").all_text_contents()


def conversation(call_id: str = "call-1", **more: str) -> list[Score]:
    """Two parties, one utterance without words, markup in the words."""
    info = call(call_id, datetime.now(UTC), **more)
    return [
        score(info, 0, "thank you for calling", role="agent", polarity=0.4, running=0.3, party=0.4),
        score(
            info, 2000, "I was charged twice", polarity=-0.6, emotion="anger", running=-0.1, party=-0.6, utterances=2
        ),
        score(info, 4000, HOSTILE, polarity=-0.7, emotion="anger", running=-0.3, party=-0.6, utterances=3),
        score(info, 6000, "", running=-0.3, party=-0.6, utterances=4),
        score(info, 7000, "I am refunding it now", role="agent", polarity=0.5, running=0.2, party=0.5, utterances=5),
    ]


def test_the_page_shows_what_is_said_as_it_is_said(
    settings: Settings, topic: str, writer: Writer, address: str, page: Page
) -> None:
    events = conversation(agent="Diane", queue="billing")
    info = events[0].call
    with serving(settings, topic):
        page.goto(address)
        expect(page.locator("#connection")).to_have_text("Live")
        expect(page.locator("#no-calls").get_by_text("calltide ingest FILE")).to_be_visible()
        writer.write(started(info))
        expect(page.locator("#live .entry")).to_have_count(1)
        expect(page.get_by_text("nothing has been said yet")).to_be_visible()
        for number, event in enumerate(events, 1):
            writer.write(event)
            expect(page.locator(".turn")).to_have_count(number)
        assert said(page) == [event.text or "no words recognised" for event in events]
        assert page.locator(".turn img, .turn script").count() == 0, "what is said is text, never markup"
        assert page.title() == "(1) Calltide"

        assert page.locator(".turn.agent .text").count() == 2
        left = page.locator(".turn.agent").first.bounding_box()
        right = page.locator(".turn.customer").first.bounding_box()
        assert left
        assert right
        assert left["x"] + left["width"] < right["x"] + right["width"], "the agent left, the customer right"
        expect(page.locator(".turn").nth(1)).to_contain_text("negative −0.60")
        expect(page.locator(".turn").nth(1)).to_contain_text("anger 80 %")
        wordless = page.locator(".turn").nth(3)
        expect(wordless.locator(".wordless")).to_be_visible()
        expect(wordless.get_by_text("no emotion")).to_have_attribute("title", "emotion not computed: role_customer")
        expect(page.locator("#scores")).to_contain_text("+0.20")
        expect(page.locator("#emotions li").first).to_contain_text("anger")
        assert page.locator("#chart circle").count() == 4, "one dot for each utterance with a sentiment"
        expect(page.locator("#call-facts")).to_contain_text("Agent Diane · billing")
        assert page.locator("#live .mood").inner_text() == "−0.60"

        writer.write(ended(info, 9000))
        expect(page.locator("#ended .entry")).to_have_count(1)
        expect(page.locator("#live .entry")).to_have_count(0)
        expect(page.locator("#call-clock")).to_have_text("ended after 0:09")


def test_utterances_come_in_any_order_and_twice_and_are_shown_in_order_and_once(
    settings: Settings, topic: str, writer: Writer, address: str, page: Page
) -> None:
    events = conversation()
    with serving(settings, topic):
        page.goto(address)
        expect(page.locator("#connection")).to_have_text("Live")
        writer.write(*(events[at] for at in (2, 0, 4, 1, 3, 1)))
        expect(page.locator(".turn")).to_have_count(5)
        assert said(page) == [event.text or "no words recognised" for event in events]


def mono(info: CallInfo, start_ms: int, speaker: str, text: str, **more: float) -> Score:
    """An utterance of a mixed channel."""
    said = score(info, start_ms, text, **more)  # type: ignore[arg-type]
    return said.model_copy(update={"speaker": speaker, "role": "unknown", "channel": 0})


def test_corrections_hold_for_what_is_shown_already_and_for_who_opens_the_page_later(
    settings: Settings, topic: str, writer: Writer, address: str, page: Page
) -> None:
    info = call("mono", datetime.now(UTC)).model_copy(update={"roles": ("unknown",)})
    writer.write(
        started(info),
        mono(info, 0, "speaker-1", "how can I help", party=0.2),
        mono(info, 2000, "speaker-2", "I was charged twice", polarity=-0.6, party=-0.6, utterances=2),
        mono(info, 4000, "speaker-3", "let me look", party=0.3, utterances=3),
    )
    with serving(settings, topic):
        page.goto(address)
        turns = page.locator(".turn")
        expect(turns).to_have_count(3)
        expect(turns.nth(2)).to_contain_text("speaker-3")
        assert page.locator("#live .mood").inner_text() == "+0.30"
        writer.write(
            Correction(call=info, speaker="speaker-3", same_as="speaker-1"),
            Correction(call=info, speaker="speaker-1", role="agent", role_confidence=0.97),
            Correction(call=info, speaker="speaker-2", role="customer", role_confidence=0.97),
        )
        expect(turns.nth(1)).to_contain_text("speaker-2, customer")
        for _ in ("as it happened", "opened later"):
            expect(turns).to_have_count(3)
            for at in (0, 2):
                expect(turns.nth(at)).to_have_class("turn agent")
                expect(turns.nth(at).get_by_text("speaker-1, agent")).to_have_attribute(
                    "title", "the agent by what was said, 97\u00a0% sure; emotion not computed: role_customer"
                )
            expect(turns.nth(1)).to_have_class("turn customer")
            assert page.locator("#parties").inner_text().split() == ["AGENT", "CUSTOMER"]
            assert page.locator("#live .mood").inner_text() == "−0.60", "the customer's"
            page.reload()
        writer.write(mono(info, 6000, "speaker-3", "it is refunded", utterances=4))
        expect(turns.nth(3)).to_contain_text("speaker-1, agent")
        writer.write(Correction(call=info, speaker="speaker-1"))
        expect(turns.nth(3)).not_to_contain_text("agent")


def test_what_is_uncertain_disagrees_overlaps_or_is_cross_talk_is_marked(
    settings: Settings, topic: str, writer: Writer, address: str, page: Page
) -> None:
    doubtful = conversation()[1]
    assert doubtful.emotion
    assert doubtful.sentiment
    finer = (GranularEmotion(name="frustration", base="anger", confidence=0.8),)
    doubtful = doubtful.model_copy(
        update={
            "overlap_ms": 800,
            "emotion": doubtful.emotion.model_copy(
                update={"uncertain": True, "granular": finer, "complex": "bitterness"}
            ),
            "sentiment": doubtful.sentiment.model_copy(update={"voice_score": 0.5, "disagree": True}),
        }
    )
    far = score(doubtful.call, 4000, "").model_copy(update={"flags": ("cross_talk",)})
    writer.write(started(doubtful.call), doubtful, far)
    with serving(settings, topic):
        page.goto(address)
        turns = page.locator(".turn")
        expect(turns).to_have_count(2)
        expect(turns.first.locator(".emotion")).to_have_text("anger? 80\u00a0%")
        expect(turns.first.locator(".emotion")).to_have_attribute(
            "title",
            "too weak to be called by its name; the two strongest together: bitterness; "
            "finer names: frustration 80\u00a0%",
        )
        expect(turns.first.get_by_text("words ≠ voice")).to_have_attribute(
            "title", "words and voice say different things: words −0.60, voice +0.50"
        )
        expect(turns.first.get_by_text("overlap")).to_have_attribute("title", "both speak for 0.8 s")
        expect(turns.nth(1)).to_have_class(re.compile(r"\bcrosstalk\b"))
        expect(turns.nth(1).get_by_text("cross-talk")).to_be_visible()
        expect(page.locator("#emotions li").first).to_contain_text("anger?")
        expect(page.locator("#no-emotion")).to_contain_text("too weak to be sure")


def test_a_page_opened_in_the_middle_shows_what_was_said_and_the_reader_chooses_the_call(
    settings: Settings, topic: str, writer: Writer, address: str, page: Page
) -> None:
    first, second = conversation("<i>first</i>"), conversation("second")
    writer.write(started(first[0].call), *first[:3], started(second[0].call), *second[:2])
    with serving(settings, topic):
        page.goto(address)
        expect(page.locator("#live .entry")).to_have_count(2)
        expect(page.locator("#call-name")).to_have_text("<i>first</i>")
        expect(page.locator(".turn")).to_have_count(3)
        # By keyboard alone: the first entry has the focus after the skip link.
        page.locator("#live .entry").first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("#call-name")).to_have_text("second")
        expect(page.locator("#live .entry").nth(1)).to_have_attribute("aria-current", "true")
        expect(page.locator(".turn")).to_have_count(2)
        writer.write(first[3], second[2])
        expect(page.locator(".turn")).to_have_count(3)
        assert said(page) == [event.text for event in second[:3]]
        assert page.locator("#transcript").get_attribute("aria-live") == "polite"


def test_a_call_that_is_asked_for_before_it_begins_is_shown_when_it_does(
    settings: Settings, topic: str, writer: Writer, address: str, page: Page
) -> None:
    events = conversation()
    with serving(settings, topic):
        page.goto(f"{address}/call-1")
        expect(page.locator("#connection")).to_have_text("Live")
        expect(page.locator("#call-state")).to_have_attribute("data-state", "error")
        writer.write(started(events[0].call), *events)
        expect(page.locator(".turn")).to_have_count(5)
        expect(page.locator("#call-state")).to_be_hidden()


def test_alerts_figures_and_insights_lead_to_the_words_they_rest_on(
    page: Page, settings: Settings, address: str, topic: str, writer: Writer, kafka_bootstrap: str
) -> None:
    made = new_topic(kafka_bootstrap)
    findings = Writer(kafka_bootstrap, made)
    info = call("call-1", datetime.now(UTC))
    rests_on = {
        "identity": "call-1/1/2000", "channel": 1, "start_ms": 2_000, "end_ms": 3_000, "speaker": "customer",
        "role": "customer", "text": "I was charged twice",
    }  # fmt: skip
    words = alert(info, at_ms=3_000)
    hostile = words.model_copy(update={"message": HOSTILE, "evidence": (Evidence.model_validate(rests_on),)})
    about = {
        "call": info, "engine": "extractive", "state": "ok", "ended_at": info.started_at, "duration_ms": 9_000,
        "pipeline_version": "v1", "reason": {"text": "I was charged twice", "evidence": [rests_on]},
        "topics": [{"path": ["billing", "charged twice"], "similarity": 0.7, "evidence": [rests_on]}],
    }  # fmt: skip
    item = {"points": 1, "why": HOSTILE, "evidence": [rests_on]}
    card = Evaluation.model_validate({
        "call": info, "ended_at": info.started_at, "duration_ms": 9_000, "form": "service", "form_version": "a1",
        "state": "ok", "score": 50, "judged": 1, "pipeline_version": "v1",
        "sections": [{"name": "greeting", "weight": 1, "score": 50, "items": [item | {"name": "greets", "earned": 1}]}],
    })  # fmt: skip
    with serving(
        settings, topic, findings=dict.fromkeys(("metrics", "alert", "category", "insights", "evaluation"), made)
    ):
        page.goto(address)
        expect(page.locator("#connection-text")).to_have_text("Live")
        writer.write(started(info), *conversation())
        expect(page.locator(".turn")).to_have_count(5)
        expect(page.locator("#talk-section")).to_be_hidden()
        warned = metrics(info, 9_000, silence_now_ms=6_000)
        findings.write(hostile, warned)
        moment = page.locator("#alerts .moment")
        expect(moment).to_have_text(HOSTILE)
        expect(page.locator(".entry")).to_have_attribute("data-alert", "critical")
        moment.click()
        expect(page.locator(".turn.shown .text")).to_have_text("I was charged twice")
        expect(page.locator("#talk")).to_have_attribute("aria-label", "agent 100\u00a0%")
        expect(page.locator("#dead-air .now")).to_have_text("nobody has spoken for 6 s")
        expect(page.locator("#figures")).to_contain_text("– −1.0 – –")
        expect(page.locator("#scores .outlook")).to_have_count(0)
        findings.write(warned.model_copy(update={"outlook": Outlook(negative=0.726, model="outcome-abc")}))
        expect(page.locator("#scores .outlook dd")).to_have_text("73\u00a0%")
        expect(page.locator("#scores .outlook dd.negative")).to_have_count(1)
        writer.write(ended(info))
        findings.write(metrics(info, 9_000, final=True), Insights.model_validate(about))
        expect(page.locator("#insights")).to_contain_text("billing › charged twice")
        expect(page.locator("#insights")).to_contain_text("quotes of the call")
        expect(page.locator("#cards-section")).to_be_hidden()
        findings.write(card)
        expect(page.locator("#cards h4")).to_have_text("service: 50 of 100")
        page.locator("#cards summary").click()
        page.locator("#cards .moment").click()
        expect(page.locator(".turn.shown .text")).to_have_text("I was charged twice")
        expect(page.locator("#scores .outlook")).to_have_count(0)
        expect(page.locator("#dead-air .now")).to_have_count(0)
        findings.write(metrics(info, 9_000, final=True).model_copy(update={"dead_air": ()}))
        expect(page.locator("#dead-air li")).to_have_text("no silence of 5 s")
        findings.write(hostile)
        expect(page.locator("#alerts li")).to_have_count(1)


def test_the_floor_shows_all_calls_and_who_needs_help_comes_first(
    page: Page, settings: Settings, address: str, topic: str, writer: Writer, kafka_bootstrap: str
) -> None:
    made = new_topic(kafka_bootstrap)
    findings = Writer(kafka_bootstrap, made)
    calm, sad, loud = (
        conversation(call_id, queue=queue, agent=agent)
        for call_id, queue, agent in (
            ("calm", "sales", "omar"),
            ("sad", "billing", "diane"),
            ("loud", "billing", "omar"),
        )
    )
    names = page.locator("#floor .title")
    with serving(
        settings, topic, findings=dict.fromkeys(("metrics", "alert", "category", "insights", "evaluation"), made)
    ):
        page.goto(address.replace("#/call", ""))
        expect(page.locator("#floor-none")).to_contain_text("No calls are running now.")
        for events in (calm, sad, loud):
            writer.write(started(events[0].call))
        writer.write(calm[0], score(sad[0].call, 0, HOSTILE, polarity=-0.9, running=-0.9, party=-0.9), loud[0])
        expect(names).to_have_count(3)
        expect(names.first).to_have_text("sad")
        expect(page.locator("#floor-count")).to_have_text("3 calls")
        row = page.locator("#floor .floor-row", has=page.locator("a", has_text="sad"))
        expect(row.locator(".mood .value")).to_have_text("−0.90")
        expect(row.locator(".last")).to_have_text(HOSTILE)

        findings.write(alert(loud[0].call, at_ms=100), metrics(loud[0].call, 9_000, silence_now_ms=6_000))
        expect(names.first).to_have_text("loud")
        first = page.locator("#floor .floor-row").first
        expect(first.locator(".badge")).to_have_text("critical")
        expect(first.locator(".silence")).to_have_text("0:06 now")

        page.locator("#floor-queue").select_option("sales")
        expect(names).to_have_text(["calm"])
        expect(page.locator("#floor-count")).to_have_text("1 of 3 calls")
        page.locator("#floor-queue").select_option("")
        page.locator("#floor-agent").select_option("omar")
        expect(names).to_have_text(["loud", "calm"])
        page.locator("#floor-words").fill("nowhere")
        expect(page.locator("#floor-none")).to_contain_text("No running call fits the filters.")
        page.locator("#floor-words").fill("")
        assert serious(page) == []

        names.first.focus()
        page.keyboard.press("ArrowDown")
        expect(names.nth(1)).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#call-name")).to_have_text("calm")
        page.go_back()
        writer.write(ended(loud[0].call))
        expect(names).to_have_text(["calm"])
    expect(page.locator("#connection")).to_have_text("Connection lost, reconnecting…")
    expect(names).to_have_text(["calm"])
    with serving(settings, topic):
        expect(page.locator("#connection")).to_have_text("Live", timeout=15_000)


def test_over_a_restart_of_the_gateway_nothing_is_missed_or_doubled(
    settings: Settings, topic: str, writer: Writer, address: str, page: Page
) -> None:
    info = call("call-1", datetime.now(UTC))
    texts = [f"sentence number {number}" for number in range(12)]
    events = [score(info, 1000 * number, text) for number, text in enumerate(texts)]
    received: list[str] = []
    page.on("websocket", lambda made: made.on("framereceived", lambda frame: received.append(str(frame))))
    with serving(settings, topic):
        page.goto(address)
        expect(page.locator("#connection")).to_have_text("Live")
        writer.write(started(info), *events[:4])
        expect(page.locator(".turn")).to_have_count(4)
    expect(page.locator("#connection")).to_have_text("Connection lost, reconnecting…")
    assert said(page) == texts[:4], "what was said stays to be read"
    writer.write(*events[4:8])
    with serving(settings, topic):
        expect(page.locator("#connection")).to_have_text("Live", timeout=15_000)
        expect(page.locator(".turn")).to_have_count(8)
        writer.write(*events[8:])
        expect(page.locator(".turn")).to_have_count(12)
    assert said(page) == texts
    told = [json.loads(frame) for frame in received]
    pushed = [message["event"]["text"] for message in told if message["type"] == "score"]
    assert sorted(pushed) == sorted(texts), "each was pushed once: the page has nothing to hide"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(
    settings: Settings, topic: str, writer: Writer, address: str, chromium: Browser, scheme: str
) -> None:
    events = conversation("a-call-with-a-rather-long-name-" + "x" * 60)
    writer.write(started(events[0].call), *events)
    with serving(settings, topic):
        context = chromium.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(address)
        entry = page.locator("#live .entry")
        expect(entry).to_be_visible()
        expect(page.locator("#transcript")).to_be_hidden()
        entry.click()
        expect(page.locator(".turn").last).to_be_in_viewport()
        expect(page.locator("#chart circle").first).to_be_visible()
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 22, 28)"
        assert dark == (scheme == "dark")
        page.locator("#back").click()
        expect(entry).to_be_focused()
        context.close()


def test_a_replay_is_shown_as_one_and_a_jump_shows_it_anew(
    settings: Settings, topic: str, writer: Writer, address: str, page: Page
) -> None:
    replayed = new_topic(settings.bootstrap_servers)
    producer, name = Producer({"bootstrap.servers": settings.bootstrap_servers}), f"r{uuid.uuid4().hex[:8]}"
    begun_at = datetime.now(UTC)

    def send(*events: CallEvent) -> None:
        for event in events:
            headers, value = encode(event)
            producer.produce(replayed, value, name, headers=[*headers, (REPLAY, name.encode())])
        assert producer.flush(20) == 0

    def move(state: str, position_ms: int, *, reset: bool = False) -> None:
        fields = {"replay": name, "begun_at": begun_at, "of_ms": 90_000, "speed": 1.0}
        fields |= {"state": state, "position_ms": position_ms, "reset": reset}
        headers: dict[str, str | bytes | None] = {"kind": b"replay_position", REPLAY: name.encode()}
        value = ReplayPosition.model_validate(fields).model_dump_json()
        producer.produce(replayed, value, name, headers=headers)
        assert producer.flush(20) == 0

    events = conversation("old-call")
    info = events[0].call
    with serving(settings, topic, replayed_topic=replayed):
        page.goto(address.replace("#/call", f"?replay={name}"))
        expect(page.locator("#connection")).to_have_text(f"Replay {name}: waiting")
        writer.write(*conversation("live-call"))
        move("playing", 0, reset=True)
        send(started(call("other")), started(info), *events[:2])
        expect(page.locator("#live .entry")).to_have_count(2)
        expect(page.get_by_text("Replayed now")).to_be_visible()
        page.locator("#live .entry", has_text="old-call").click()
        expect(page.locator(".turn")).to_have_count(2)
        move("paused", 61_000)
        expect(page.locator("#connection")).to_have_text(f"Replay {name}: paused")
        expect(page.locator("#delay")).to_have_text("1:01 of 1:30")
        move("paused", 1_000, reset=True)
        send(started(call("other")), started(info), events[0])
        expect(page.locator(".turn")).to_have_count(1)
        expect(page.locator("#call-name")).to_have_text("old-call")
        expect(page.locator("#live .entry")).to_have_count(2)
        page.reload()
        expect(page.locator("#connection")).to_have_text(f"Replay {name}: paused")
        expect(page.locator("#live .entry")).to_have_count(2)
        page.locator("#live .entry", has_text="old-call").click()
        expect(page.locator(".turn")).to_have_count(1)


def test_the_policy_forbids_all_but_the_page_and_the_gateway(settings: Settings, address: str) -> None:
    root = address.partition("#")[0]
    with urllib.request.urlopen(root) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    microphone = f"ws://127.0.0.1:{settings.serve.port}"
    assert f"connect-src 'self' ws://127.0.0.1:{settings.gateway.port} {microphone};" in policy
    assert "unsafe" not in policy
    with urllib.request.urlopen(f"{root}config.json") as answer:
        told = json.load(answer)
    assert told["gateway"] == f"ws://127.0.0.1:{settings.gateway.port}/v1/scores"
    assert told["microphone"] == f"{microphone}/microphone"
    with urllib.request.urlopen(f"{root}healthz") as answer:
        assert json.load(answer) == {"status": "ok"}


@pytest.mark.parametrize(
    ("own", "host", "address"),
    [
        ("127.0.0.1", "localhost", "ws://127.0.0.1:8765/v1/scores"),
        ("0.0.0.0", "calls.example", "ws://calls.example:8765/v1/scores"),
        ("::", "[fd00::1]", "ws://[fd00::1]:8765/v1/scores"),
        ("0.0.0.0", "x; script-src *", "ws://127.0.0.1:8765/v1/scores"),
        ("::1", "localhost", "ws://[::1]:8765/v1/scores"),
    ],
)
def test_the_page_finds_the_gateway_where_it_listens(own: str, host: str, address: str) -> None:
    base = Settings()
    chosen = base.model_copy(update={"gateway": base.gateway.model_copy(update={"host": own, "port": 8765})})
    assert gateway_address(chosen, host) == address


def test_behind_a_proxy_the_page_finds_all_sockets_where_the_setting_says() -> None:
    base = Settings()
    chosen = base.model_copy(update={"web": base.web.model_copy(update={"sockets": "wss://calls.example"})})
    assert gateway_address(chosen, "calls.example") == "wss://calls.example/v1/scores"
    assert microphone_address(chosen, "calls.example") == "wss://calls.example/microphone"
    with pytest.raises(ValidationError):
        type(base.web)(sockets="wss://calls.example; script-src *")


def test_a_taken_port_is_told_with_its_setting() -> None:
    base = Settings()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        chosen = base.model_copy(update={"web": base.web.model_copy(update={"port": port})})
        with pytest.raises(CalltideError, match=rf"127\.0\.0\.1:{port}.*CALLTIDE_WEB__PORT"):
            serve_until(chosen, threading.Event(), lambda: None)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    for file in sorted(path for path in PAGE.iterdir() if path.is_file()):
        assert "http" not in file.read_text().replace("http://www.w3.org/2000/svg", ""), f"{file.name} is not offline"
