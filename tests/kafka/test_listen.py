"""`calltide listen`: what a terminal shows, what a file or pipe gets, and how it ends."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from schemas.events import CallEvent, Correction, Role, Score, encode
from streams.listen import View, bar, latency_s
from tests.scripted import Writer, alert, call, ended, metrics, new_topic, score, serving, settings_for, started

ROOT = Path(__file__).parent.parent.parent
LISTEN = (
    # Who is started in the background inherits to ignore Ctrl-C.
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from rich.console import Console; from streams.listen import listen; listen(sys.argv[1], Console())"
)


def message(event: CallEvent, **more: Any) -> dict[str, Any]:
    return {"type": event.kind, "cursor": "scores-0-1", "pushed_at": "2026-03-01T12:00:02.000Z", **more} | {
        "event": json.loads(encode(event)[1])
    }


def test_without_a_terminal_each_event_is_a_line() -> None:
    out = io.StringIO()
    info = call("call-7")
    with View(Console(file=out, width=40)) as view:
        view.add({"type": "hello", "kafka": "ok"})
        view.add(message(started(info)))
        view.add(message(score(info, 61_200, "I was charged twice \x1b[31m", polarity=-0.5, emotion="anger")))
        view.add(message(score(info, 63_000, "")))
        view.add({"type": "disconnected", "reason": "the gateway stops"})
        view.add({"type": "status", "kafka": "unreachable", "message": "Kafka does not answer"})
        view.add(message(ended(info, 65_000), skipped=3))
    assert out.getvalue().splitlines() == [
        "call-7  -- call begins (agent, customer)",
        "call-7   1:01.2 customer   I was charged twice  [31m  negative -0.50  anger 80%",
        "call-7   1:03.0 customer   (no_words)",
        "-- connection lost (the gateway stops), connecting again",
        "-- Kafka does not answer",
        "call-7  -- call ends after 1:05.0 (hangup)",
        "-- 3 events were skipped: this terminal was too slow",
    ]


def test_alerts_and_figures_are_told_once() -> None:
    out = io.StringIO()
    info = call("call-7")
    with View(Console(file=out, width=40)) as view:
        for event in (alert(info, at_ms=62_000), metrics(info, 63_000), alert(info, at_ms=62_000)):
            view.add(message(event))
        view.add(message(metrics(info, 65_000, final=True)))
    assert out.getvalue().splitlines() == [
        "call-7   1:02.0 critical: it is so",
        "call-7  -- talk: agent 100%; 0 interruptions; 1 silence of 5 s and more",
    ]


def test_a_terminal_shows_alerts_above_what_was_said() -> None:
    console = Console(file=io.StringIO(), width=120, height=20, force_terminal=True, color_system=None)
    view = View(console)
    info = call("call-7")
    for number in range(5):
        view.add(message(alert(info, f"rule-{number}", 1_000)))
    for event in (score(info, 0, "hello there"), metrics(info, 1_000)):
        view.add(message(event))
    with console.capture() as captured:
        console.print(view._render())
    lines = captured.get().splitlines()
    at = [index for index, one in enumerate(lines) if "critical: it is so" in one]
    assert len(at) == 3, "the last three"
    assert at[-1] < next(index for index, one in enumerate(lines) if "hello there" in one)
    assert any("agent 100%" in one for one in lines)


def test_a_terminal_shows_the_calls_and_the_last_utterances_in_its_height() -> None:
    console = Console(file=io.StringIO(), width=110, height=20, force_terminal=True, color_system=None)
    view = View(console)
    for number in range(30):
        info = call(f"call-{number}", agent="kim", queue="billing")
        view.add(message(started(info)))
        view.add(message(score(info, 0, "hello there", polarity=-0.8, party=-0.8, emotion="anger")))
    with console.capture() as captured:
        console.print(view._render())
    lines = captured.get().splitlines()
    assert len(lines) <= 20
    assert any(re.search(r"call-29 .*kim / billing.*·····│·····.*·████│·····.*anger 80%", line) for line in lines)
    assert any("more calls" in line for line in lines)
    assert "hello there" in lines[-2]
    assert "call-29" in lines[-2], "the newest comes last"


def mixed(start_ms: int, speaker: str, text: str, role: Role = "unknown", **heard: Any) -> Score:
    """An utterance of a mono call."""
    return score(call("call-7"), start_ms, text, role=role, **heard).model_copy(update={"speaker": speaker})


CORRECTIONS = [
    Correction(call=call("call-7"), speaker="speaker-2", same_as="speaker-1"),
    Correction(call=call("call-7"), speaker="speaker-1", role="agent", role_confidence=0.97),
]


def test_corrections_are_told_and_hold_for_what_comes_after() -> None:
    out = io.StringIO()
    with View(Console(file=out, width=40)) as view:
        for event in (mixed(0, "speaker-2", "hello"), *CORRECTIONS, mixed(1_000, "speaker-2", "how can I help")):
            view.add(message(event))
        view.add(message(CORRECTIONS[1].model_copy(update={"role": "unknown"})))
    assert out.getvalue().splitlines() == [
        "call-7   0:00.0 speaker-2  hello  neutral +0.00",
        "call-7  -- speaker-2 is speaker-1",
        "call-7  -- speaker-1 is the agent, 97% sure",
        "call-7   0:01.0 speaker-1  how can I help  neutral +0.00",
        "call-7  -- speaker-1 is of an unknown role again",
    ]


def test_a_terminal_corrects_what_it_shows_already() -> None:
    console = Console(file=io.StringIO(), width=110, height=20, force_terminal=True, color_system=None)
    view = View(console)

    def shown() -> list[str]:
        with console.capture() as captured:
            console.print(view._render())
        return captured.get().splitlines()

    for event in (
        mixed(0, "speaker-1", "I was charged twice", polarity=-0.8, party=-0.8, emotion="anger"),
        mixed(2_000, "speaker-2", "how can I help", polarity=0.8, party=0.8, emotion="happiness"),
    ):
        view.add(message(event))
    assert any("speaker-2" in one and "how can I help" in one for one in shown())
    assert any("happiness 80%" in one for one in shown())
    view.add(message(Correction(call=call("call-7"), speaker="speaker-2", same_as="speaker-9")))
    view.add(message(Correction(call=call("call-7"), speaker="speaker-9", role="agent")))
    view.add(message(ended(call("call-7"))))
    assert any("speaker-9" in one and "how can I help" in one for one in shown())
    assert any("anger 80%" in one for one in shown()), "the customer is the other one"
    view._calls.clear()  # as 20 s after the call's end
    assert any("speaker-9" in one and "how can I help" in one for one in shown())


@pytest.mark.parametrize(
    ("polarity", "drawn"), [(-1.0, "███│···"), (0.0, "···│···"), (0.4, "···│█··"), (1.0, "···│███")]
)
def test_a_bar_shows_which_way_and_how_far(polarity: float, drawn: str) -> None:
    assert bar(polarity, 3).plain == drawn


def test_latency_is_counted_for_live_scores_only() -> None:
    said = score(call("c1"), 0, "three words here")  # captured 0.9 s after the call's start at 12:00:00
    assert latency_s(message(said)) == pytest.approx(1.1)
    assert latency_s(message(said, history=True)) is None
    assert latency_s(message(started(call("c1")))) is None
    assert latency_s({"type": "position", "cursor": "scores~0:1"}) is None


@pytest.mark.kafka
@pytest.mark.parametrize("terminal", [True, False])
def test_it_ends_cleanly_on_ctrl_c(kafka_bootstrap: str, terminal: bool) -> None:
    topic = new_topic(kafka_bootstrap)
    writer = Writer(kafka_bootstrap, topic)
    info = call("call-7")
    writer.write(started(info), score(info, 500, "said before"))
    with serving(settings_for(kafka_bootstrap), topic) as gateway:
        reader, output = pty.openpty() if terminal else os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-c", LISTEN, gateway.address],
            cwd=ROOT,
            env=os.environ | {"TERM": "xterm", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
        )
        os.close(output)
        shown = ""

        def until(text: str) -> None:
            nonlocal shown
            deadline = time.monotonic() + 60
            while text not in shown:
                assert select.select([reader], [], [], max(0, deadline - time.monotonic()))[0], shown
                shown += os.read(reader, 65536).decode(errors="replace")

        try:
            until("said before")
            writer.write(score(info, 1500, "said now"))
            until("said now")
            process.send_signal(signal.SIGINT)
            until("2 utterances")
            assert process.wait(60) == 0
            assert process.stderr
            assert process.stderr.read() == b""
        finally:
            process.kill()
            process.wait()
            os.close(reader)
