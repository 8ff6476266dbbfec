"""`python -m benchmarks.intelligence_tour`: a real call, live, as those who watch it see it; docs/intelligence.md.

`calltide up` runs in a fresh home. A recorded call of four minutes is streamed as fast as it was spoken, and while it
goes on a rule is written. In the middle of the call and at its end, what the websocket says, what the page shows, what
ClickHouse has and what the dashboards' own queries find there are held against each other, and pictures are taken.

A changer must know: a check that fails ends the program, and nothing is written into the documents. What is said in
the call decides what the rules find: RULE is in time for words that come a minute later.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from clickhouse_connect.driver.client import Client
from playwright.sync_api import Page
from rich.console import Console

from benchmarks.pictures import OUT, chromium, keep, of_clickhouse, paint, smaller
from benchmarks.support import Table, add_outputs, publish
from dashboards.files import committed, panels, queries
from schemas.errors import CalltideError
from streams.settings import load
from streams.sink import connect
from tests.analytics.test_dashboards import Opened
from tests.chain.support import RULES, Listener, Stack, start, until, wait_until_up

COMMAND: Final = "python -m benchmarks.intelligence_tour"
RECORDING: Final = Path("calls/auto-repair-40.flac")
"""In the test data: left the agent, right the customer, 245 s. Apache-2.0."""
CALL: Final = "auto-repair"
WRITTEN_MS: Final = 112_000
"""How much of the call was heard when RULE is written; what it finds is said from 146 s on."""
KINDS: Final = "score,call_ended,metrics,alert,category,insights,evaluation"
BEFORE: Final = """
  - name: warning-light
    category: warning light
    when: {said: {by: customer, stem: [service light, warning light, check engine]}}

  - name: appointment
    category: appointment
    when: {said: {stem: [schedule an appointment, make an appointment, book an appointment]}}
"""
"""With the starter rules, from the beginning."""
RULE: Final = """
  - name: rental-car
    category: rental car
    alert:
      severity: warning
      message: A rental car is promised, see that one is free
    when:
      said: {by: agent, stem: [rental car, courtesy car, loaner]}
"""
SHOWN: Final = """() => {
  const texts = (selector) => [...document.querySelectorAll(selector)].map((one) => one.textContent);
  return {
    talk: document.querySelector("#talk").getAttribute("aria-label"),
    figures: Object.fromEntries(
      [...document.querySelectorAll("#figures tr")].map(({ children: [name, ...cells] }) =>
        [name.textContent, cells.map((cell) => cell.textContent)])),
    silences: texts("#dead-air li"),
    alerts: texts("#alerts .moment"),
    categories: texts("#categories .moment"),
    insights: texts("#insights .moment"),
    cards: texts("#cards h4, #cards summary"),
    cut: [...document.querySelectorAll(".insight *")]
      .filter((one) => one.clientWidth && one.scrollWidth > one.clientWidth + 1)
      .map((one) => one.id || one.className || one.tagName),
  };
}"""
"""What the page says."""
LIVE: Final[Sequence[str]] = (
    "Key figures",
    "Sentiment of both parties",
    "Share of talk",
    "Silences",
    "Alerts of this call",
    "So far",
    "Categories",
)
"""Panels of the dashboard *One call* while it goes on,"""
ENDED: Final[Sequence[str]] = (
    "Which call",
    "Who spoke when, and how",
    "Parties",
    "What it was about",
    "Moments",
    "Score card",
)
"""and when it has ended."""

QUARTERS: Final = ("1st", "2nd", "3rd", "4th")

type_event = dict[str, Any]
Answers = dict[str, list[list[type_event]]]
Drawing = list[tuple[dict[str, Any], list[list[type_event]]]]


# ---- What the page makes of an event (streams/page/call.js)


def percent(share: float) -> str:
    return f"{math.floor(share * 100 + 0.5)}\u00a0%"


def whole(score: float | None) -> str:
    return "–" if score is None else f"{math.floor(score + 0.5)}"


def quarter(mean: float | None) -> str:
    return "–" if mean is None else f"{'−' if mean < 0 else '+'}{abs(mean):.2f}"[:4]


def of_page(event: type_event) -> dict[str, Any]:
    """What the page should say of a record of metrics."""
    parties = event["parties"]
    return {
        "talk": ", ".join(f"{party['role']} {percent(party['talk_share'])}" for party in parties),
        "quarters": [" ".join(map(quarter, party["quarters"])) for party in parties],
        "interruptions": [str(party["interruptions"]) for party in parties],
        "silences": event["silences"],
    }


def on_page(shown: dict[str, Any]) -> dict[str, Any]:
    """The same as the page has it."""
    figures = shown["figures"]
    return {
        "talk": shown["talk"],
        "quarters": figures.get("sentiment by quarter"),
        "interruptions": figures.get("interruptions"),
        "silences": sum("speaks for" in text for text in shown["silences"]),
    }


# ---- The call


@dataclass
class Tour:
    """What is running, and what has come of it so far."""

    stack: Stack
    listener: Listener
    page: Page
    client: Client

    def events(self, kind: str) -> list[type_event]:
        return self.listener.events(kind, CALL)

    @property
    def heard_ms(self) -> int:
        return max((event["at_ms"] for event in self.events("metrics")), default=0)

    def rows(self, sql: str) -> list[type_event]:
        """Of this call; `sql` ends before WHERE."""
        return list(self.client.query(f"{sql} WHERE call_id = '{CALL}'").named_results())

    def agreed(self, found: Callable[[], Any], wanted: Callable[[Any], Any], what: str) -> Any:
        """What `found` gives, once it equals what `wanted` makes of the newest record of metrics; both go on
        meanwhile."""
        pair: list[Any] = []

        def agree() -> bool:
            newest = self.events("metrics")[-1]
            pair[:] = [found(), wanted(newest)]
            return bool(pair[0] == pair[1])

        try:
            until(agree, what, 30)
        except AssertionError:
            raise AssertionError(f"{what}: {pair[0]} is not {pair[1]}") from None
        return pair[0]

    def opened(self) -> Opened:
        """The dashboard of this call, its axes from a little before it to a little behind what was heard."""
        begun = datetime.fromisoformat(self.events("metrics")[-1]["call"]["started_at"])
        margin = timedelta(seconds=5)
        ended = begun + timedelta(milliseconds=self.heard_ms)
        given = {"tenant": ["default"], "call": CALL}
        return Opened(self.client, committed()["call"]["uid"], ended + margin, given, begun - margin)


@contextmanager
def running(speed: str, console: Console) -> Iterator[Tour]:
    """Everything, and the call on its way."""
    recording = load().test_data / RECORDING
    if not recording.exists():
        raise CalltideError(f"no recording at {recording}; set CALLTIDE_TEST_DATA")
    with tempfile.TemporaryDirectory(prefix="calltide-tour-") as directory:
        stack = start(Path(directory))
        try:
            wait_until_up(stack)
            console.print("everything runs", highlight=False)
            rules = stack.home / RULES
            rules.write_text(rules.read_text() + BEFORE)
            clickhouse = f"http://127.0.0.1:{stack.ports['CALLTIDE_CLICKHOUSE__PORT']}"
            settings = load().model_copy(
                update={"clickhouse": load().clickhouse.model_copy(update={"url": clickhouse})}
            )
            with (
                chromium() as browser,
                connect(settings) as client,
                Listener(stack.scores_url, call=CALL, kinds=KINDS) as listener,
            ):
                page = browser.new_page(viewport={"width": 1280, "height": 1000})
                page.goto(f"http://127.0.0.1:{stack.ports['CALLTIDE_WEB__PORT']}/#/call/{CALL}")
                page.wait_for_selector('#connection[data-state="live"]')
                ingest = stack.begin(
                    "ingest", recording, "--call-id", CALL, "--queue", "service", "--agent", "Michelle",
                    "--speed", speed,
                )  # fmt: skip
                yield Tour(stack, listener, page, client)
                assert ingest.wait(60) == 0
        finally:
            stack.stop()


# ---- What is held against what


def figures(tour: Tour) -> list[tuple[str, ...]]:
    """Talk share, silences and sentiment by quarter, wherever they are seen, now."""
    shown = tour.agreed(lambda: on_page(tour.page.evaluate(SHOWN)), of_page, "the figures on the page")
    columns = ("role", "at_ms", "final", "talk_share", "quarters", "silences", "longest_silence_ms")

    def stored(event: type_event) -> list[type_event]:
        rows = [{name: (event | party)[name] for name in columns} for party in event["parties"]]
        return sorted(map(single, rows), key=str)

    def kept() -> list[type_event]:
        return sorted(map(single, tour.rows(f"SELECT {', '.join(columns)} FROM call_progress FINAL")), key=str)

    rows = tour.agreed(kept, stored, "the figures in ClickHouse")
    everywhere = "websocket, page, ClickHouse"
    return [
        ("talk share", str(shown["talk"]), everywhere),
        (
            "sentiment by quarter, −5 to 5",
            "; ".join(f"{row['role']} {' '.join(map(quarter, row['quarters']))}" for row in rows),
            everywhere,
        ),
        ("silences of 5 s and more", str(shown["silences"]), everywhere),
    ]


def findings(tour: Tour, wanted: set[str], written_ms: int) -> list[tuple[str, ...]]:
    """Categories, and the alert of the rule that was written in the call."""
    told = {event["category"] for event in tour.events("category")}
    assert told == wanted, told
    until(lambda: set(tour.page.evaluate(SHOWN)["categories"]) == wanted, "the categories on the page", 10)
    until(
        lambda: {row["category"] for row in tour.rows("SELECT category FROM call_categories FINAL")} == wanted,
        "the categories in ClickHouse",
        10,
    )
    (alert,) = tour.events("alert")
    until(lambda: tour.page.evaluate(SHOWN)["alerts"] == [alert["message"]], "the alert on the page", 10)
    until(lambda: bool(tour.rows("SELECT rule FROM alerts FINAL")), "the alert in ClickHouse", 10)
    (row,) = tour.rows("SELECT rule, severity, at_ms, text, rules_version FROM alerts FINAL")
    assert row == {name: alert[name] for name in ("rule", "severity", "at_ms", "rules_version")} | {
        "text": alert["message"]
    }
    everywhere = "websocket, page, ClickHouse"
    return [
        ("categories", ", ".join(sorted(wanted)), everywhere),
        (f"alert of the rule `{alert['rule']}`, written at {clock(written_ms)}", alert["message"], everywhere),
    ]


def insights(tour: Tour) -> list[tuple[str, ...]]:
    """What is said of the call at its end, and the quotes it rests on."""
    (event,) = tour.events("insights")
    assert event["state"] == "ok", event["why"]
    said = {(score["channel"], score["start_ms"]): score["text"] for score in tour.events("score")}
    items = [event["reason"], *event["summary"], *event["topics"], *event["action_items"], *event["coaching"]]
    quotes = [quote for item in items if item for quote in item["evidence"]]
    assert len(quotes) >= len(event["summary"]) > 0
    assert all(quote["text"] in said[quote["channel"], quote["start_ms"]] for quote in quotes)
    texts = [item["text"] for item in (event["reason"], *event["summary"]) if item]
    texts += [" › ".join(topic["path"]) for topic in event["topics"]]
    until(lambda: set(texts) <= set(tour.page.evaluate(SHOWN)["insights"]), "the insights on the page", 10)
    until(lambda: bool(tour.rows("SELECT call_id FROM call_insights")), "the insights in ClickHouse", 10)
    (row,) = tour.rows("SELECT summary, reason, topics, resolved FROM call_insights")
    assert row == {
        "summary": [one["text"] for one in event["summary"]],
        "reason": event["reason"]["text"] if event["reason"] else "",
        "topics": [" > ".join(one["path"]) for one in event["topics"]],
        "resolved": event["resolution"]["resolved"],
    }
    everywhere = "websocket, page, ClickHouse, dashboard"
    return [
        ("reason", row["reason"], everywhere),
        ("topics", "; ".join(row["topics"]), everywhere),
        ("resolved", row["resolved"], "websocket, ClickHouse, dashboard"),
        ("statements with quotes, each in the words of its utterance", str(len(items)), "websocket"),
    ]


def score_card(tour: Tour) -> list[tuple[str, ...]]:
    """The form that is filled at the end."""
    (event,) = tour.events("evaluation")
    assert event["state"] == "ok", event["why"]
    until(lambda: bool(tour.rows("SELECT form FROM evaluations FINAL")), "the score card in ClickHouse", 10)
    (row,) = tour.rows("SELECT form, score, sections.name AS names, sections.score AS scores FROM evaluations FINAL")
    assert row["form"] == event["form"]
    assert same(row["score"], event["score"])
    assert row["names"] == [section["name"] for section in event["sections"]]
    assert all(map(same, row["scores"], (section["score"] for section in event["sections"])))
    parts = [f"{section['name']} {whole(section['score'])}" for section in event["sections"]]
    wanted = [f"{event['form']}: {whole(event['score'])} of 100", *parts]
    until(lambda: tour.page.evaluate(SHOWN)["cards"] == wanted, "the score card on the page", 10)
    value = f"{whole(event['score'])} ({', '.join(parts)})"
    return [("score card, 0 to 100", value, "websocket, page, ClickHouse, dashboard")]


def dashboard(tour: Tour, titles: Sequence[str], wanted: Callable[[Answers], object]) -> Drawing:
    """What the panels of the dashboard *One call* find, once it is what is `wanted`."""
    board, opened, every = committed()["call"], tour.opened(), list(queries())
    chosen = [panel for panel in panels(board) if panel["title"] in titles]
    assert len(chosen) == len(titles)
    asked = {title: [one for one in every if (one.dashboard, one.panel) == (board["uid"], title)] for title in titles}
    answers: Answers = {}

    def found() -> object:
        answers.update({title: of_clickhouse(opened, asked[title]) for title in titles})
        return wanted(answers)

    until(found, "the panels of the dashboard", 30)
    return [(panel, answers[panel["title"]]) for panel in chosen]


def live(tour: Tour) -> Callable[[Answers], object]:
    """The panels say what the newest record of metrics does, and have the alert and the categories."""

    def wanted(answers: Answers) -> object:
        newest, (alert,) = tour.events("metrics")[-1], tour.events("alert")
        rows = {row["Party"]: row for row in answers["So far"][0]}
        return (
            all(
                same(rows[party["role"]]["Share of talk"], party["talk_share"])
                and all(map(same, (rows[party["role"]][name] for name in QUARTERS), party["quarters"]))
                and rows[party["role"]]["Silences"] == len(answers["Silences"][0]) == newest["silences"]
                for party in newest["parties"]
            )
            and [(row["Rule"], row["Why"]) for row in answers["Alerts of this call"][0]]
            == [(alert["rule"], alert["message"])]
            and {row["Category"] for row in answers["Categories"][0]}
            == {event["category"] for event in tour.events("category")}
        )

    return wanted


def ended(tour: Tour) -> Callable[[Answers], object]:
    """The panels say what the last record of metrics and the insights do."""

    def wanted(answers: Answers) -> object:
        last, (event,) = tour.events("metrics")[-1], tour.events("insights")
        rows = {row["Party"]: row for row in answers["Parties"][0]}
        told = {(row["What"], row["Words"]) for row in answers["What it was about"][0]}
        should = {("summary", one["text"]) for one in event["summary"]}
        should |= {("topic", " > ".join(one["path"])) for one in event["topics"]}
        should |= {("reason", one["text"]) for one in [event["reason"]] if one}
        should.add(("resolved", event["resolution"]["resolved"]))
        moments = sum(len(event[name]) for name in ("issues", "objections", "action_items", "coaching"))
        return (
            rows.keys() == {party["role"] for party in last["parties"]}
            and all(
                same(rows[party["role"]]["Share of talk"], party["talk_share"])
                # Counted by ClickHouse from the utterances, not by the stage.
                and all(map(same, (rows[party["role"]][name] for name in QUARTERS), party["quarters"]))
                for party in last["parties"]
            )
            and should <= told
            and len(answers["Moments"][0]) == moments
            and same(answers["Score card"][0][0]["Score"], tour.events("evaluation")[0]["score"])
        )

    return wanted


def same(value: float | None, wanted: float | None) -> bool:
    """To a hundredth."""
    if value is None or wanted is None:
        return value is wanted
    return abs(value - wanted) <= 0.01


def single(row: type_event) -> type_event:
    """With single precision, as ClickHouse keeps it."""
    quarters = [None if mean is None else float(np.float32(mean)) for mean in row["quarters"]]
    return row | {"talk_share": float(np.float32(row["talk_share"])), "quarters": quarters}


def on_dashboard(row: tuple[str, ...]) -> tuple[str, ...]:
    """A row of the table, of which the panels say the same."""
    *before, where = row
    return (*before, f"{where}, dashboard")


def clock(ms: int) -> str:
    return f"{ms // 60_000}:{ms // 1_000 % 60:02}"


def picture(tour: Tour, height: int) -> bytes:
    """The page as it is, scrolled to the newest words and to the end of what stands beside them."""
    tour.page.set_viewport_size({"width": 1280, "height": height})
    tour.page.evaluate("for (const one of document.querySelectorAll('#transcript, .insight')) one.scrollTop = 1e6")
    time.sleep(0.5)  # the chart is drawn anew for its new size
    shown = tour.page.evaluate(SHOWN)
    assert not shown["cut"], shown["cut"]
    return smaller(tour.page.screenshot())


def tour(speed: str, console: Console) -> tuple[list[Table], dict[str, bytes]]:
    """The tables, and the pictures by their names. Raises AssertionError for what does not agree."""
    before = {rule["category"] for rule in yaml.safe_load(f"rules:{BEFORE}")["rules"]}
    (rule,) = yaml.safe_load(f"rules:{RULE}")["rules"]
    categories = before | {rule["category"]}
    board = committed()["call"]["title"]
    pictures: dict[str, bytes] = {}
    with running(speed, console) as made:
        until(lambda: made.heard_ms >= WRITTEN_MS, "the call up to where the rule is written", 300)
        versions = {event["rules_version"] for event in made.events("category")}
        file = made.stack.home / RULES
        file.write_text(file.read_text() + RULE)
        written_ms = made.heard_ms
        console.print(f"{clock(written_ms)}: the rule is written", highlight=False)
        until(lambda: made.events("alert"), "the alert of the rule that was written", 120)
        (alert,) = made.events("alert")
        assert alert["rule"] == rule["name"]
        assert alert["rules_version"] not in versions
        assert alert["at_ms"] > written_ms
        console.print(f"{clock(made.heard_ms)}: {alert['message']}", highlight=False)
        middle = [*findings(made, categories, written_ms), *figures(made)]
        pictures["intelligence-live"] = picture(made, 1_260)
        at_ms = made.heard_ms
        drawing = dashboard(made, LIVE, live(made))
        middle = list(map(on_dashboard, middle))
        assert not made.events("call_ended"), "the middle was not the end"
        assert not made.events("insights")
        pictures["intelligence-dashboard-live"] = paint(board, drawing)
        until(lambda: made.events("insights") and made.events("evaluation"), "the insights", 180)
        until(lambda: made.events("metrics")[-1]["final"], "the last figures", 30)
        talk, quarters, silences = figures(made)
        end = [*findings(made, categories, written_ms), *map(on_dashboard, (talk, quarters)), silences]
        end += [*insights(made), *score_card(made)]
        pictures["intelligence-end"] = picture(made, 1_160)
        pictures["intelligence-dashboard"] = paint(board, dashboard(made, ENDED, ended(made)))
        length_ms = made.heard_ms
    columns = ("what", "value", "the same at")
    return [
        Table(f"At {clock(at_ms)} of the call", columns, middle, data=middle),
        Table(f"At its end, {clock(length_ms)}", columns, end, data=end),
    ], pictures


def main() -> None:
    """Stream the call, look, and draw."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="where pictures go (default: docs/pictures)")
    parser.add_argument("--speed", default="1", help="times as fast as it was spoken (default: 1)")
    add_outputs(parser)
    arguments = parser.parse_args()
    console = Console()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tables, pictures = tour(arguments.speed, console)
    for name, png in pictures.items():
        keep(arguments.out, name, png, console)
    publish({COMMAND: tables}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
