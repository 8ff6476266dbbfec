"""`calltide report` on the generated month: the planted facts, what the dashboards say of the same, names that are HTML
or SQL, and the page in a real browser."""

import json
import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from typer.testing import CliRunner, Result

from schemas.errors import CalltideError
from streams.analytics.traffic import BEST_AGENT, SOUR_QUEUE, SOUR_TENANT, TENANTS, VERSION, WORSE_VERSION
from streams.cli import app
from streams.report.charts import charts
from streams.report.figures import Report, Scope, gather
from streams.report.page import page
from streams.report.tables import show
from streams.settings import Settings, load
from streams.sink import connect, migrate
from tests.analytics.conftest import Month, settings_for
from tests.analytics.test_dashboards import opened

HOSTILE = (
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    r"\'; DROP TABLE calls; --",
    "$\\frac$ \x1b[31m",
)
"""Names that are HTML, SQL, a formula that is none, and a terminal's escape."""


@pytest.fixture(scope="module")
def week(month: Month) -> Report:
    """The last seven days."""
    return gather(month.settings, Scope(month.until - timedelta(days=7), month.until))


@pytest.fixture(scope="module")
def hostile(month: Month) -> Iterator[Settings]:
    """The calls of one queue of the month, each of HOSTILE in place of its tenant, queue and agent."""
    settings = settings_for(month.url, "hostile_report")
    migrate(settings)
    names = "{names:Array(String)}[1 + cityHash64(call_id) % 4]"
    with connect(settings) as client:
        for table, more in (("utterances_heard", "call_started_at"), ("calls", "started_at"), ("alerts", "at")):
            client.command(
                f"INSERT INTO {table} SELECT * REPLACE ({names} AS tenant, {names} AS queue, {names} AS agent) FROM ("
                f"SELECT * FROM {month.client.database}.{table} WHERE tenant = 'globex' AND queue = 'claims'"
                f" AND pipeline_version = 'v1' AND {more} >= fromUnixTimestamp64Milli({{since:Int64}}))",
                {"names": list(HOSTILE), "since": round((month.until - timedelta(days=6)).timestamp() * 1000)},
            )
        yield settings


def run(settings: Settings, *arguments: str) -> Result:
    environment = {
        "CALLTIDE_CLICKHOUSE__URL": settings.clickhouse.url,
        "CALLTIDE_CLICKHOUSE__DATABASE": settings.clickhouse.database,
        "COLUMNS": "200",
    }
    load.cache_clear()
    try:
        return CliRunner().invoke(app, ["report", *arguments], env=environment, catch_exceptions=False)
    finally:
        load.cache_clear()


def printed(report: Report, width: int = 200) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    show(report, console)
    return console.export_text()


# ---- What it says


def test_the_sour_queue_is_the_worst_and_has_changed(week: Report) -> None:
    first = week.queues[0]
    assert (first.tenant, first.name, first.against_all) == (SOUR_TENANT, SOUR_QUEUE, "worse")
    assert first.since_before is not None and first.since_before_half is not None
    assert first.since_before + first.since_before_half < 0
    assert (week.angriest[0]["tenant"], week.angriest[0]["name"]) == (SOUR_TENANT, SOUR_QUEUE)
    assert {row["queue"] for row in week.worst} == {SOUR_QUEUE}


def test_the_best_agent_stands_out(week: Report) -> None:
    assert (week.agents[-1].name, week.agents[-1].against_all) == (BEST_AGENT, "better")


def test_counts_are_those_of_the_tables(month: Month, week: Report) -> None:
    (calls,) = month.client.query(
        "SELECT count() FROM calls FINAL WHERE pipeline_version = {v:String} AND started_at >= {since:DateTime64(3)}"
        " AND started_at < {until:DateTime64(3)}",
        {"v": VERSION, "since": month.until - timedelta(days=7), "until": month.until},
    ).result_rows[0]
    assert week.calls == calls > 0
    assert (week.version, week.versions) == (VERSION, [VERSION, WORSE_VERSION])
    labelled = week.spoken.negative + week.spoken.neutral + week.spoken.positive
    assert labelled == sum(week.distribution.values())
    assert 0 < labelled < week.spoken.utterances
    assert sum(row["alerts"] for row in week.alerts) > 0
    assert sum(row["letters"] for row in week.dead_letters) > 0


@pytest.mark.parametrize(("panel", "title"), [("By queue", "Queue"), ("By agent", "Agent")])
def test_a_comparison_is_the_dashboards(month: Month, week: Report, panel: str, title: str) -> None:
    rows = opened(month, "calltide-sentiment").rows(panel)
    told = week.queues if title == "Queue" else week.agents
    on_the_dashboard = {(row["Tenant"], row[title]): row for row in rows}
    assert {(one.tenant, one.name) for one in told} == set(on_the_dashboard)
    for one in told:
        row = on_the_dashboard[one.tenant, one.name]
        assert row["Calls"] == one.calls
        assert row["Sentiment"] == pytest.approx(one.score, abs=6e-4)
        assert row["From"] == pytest.approx(one.score - one.half, abs=6e-4)
        assert row["To"] == pytest.approx(one.score + one.half, abs=6e-4)
        assert row["Against all"] == one.against_all


def test_key_figures_are_the_dashboards(month: Month, week: Report) -> None:
    (row,) = opened(month, "calltide-sentiment").rows("Key figures")
    mood = week.mood
    assert mood is not None
    assert (row["Calls"], row["Utterances"]) == (mood.calls, mood.utterances)
    assert row["Sentiment of calls"] == pytest.approx(mood.score)
    assert row["Negative calls"] == pytest.approx(mood.negative)
    assert row["Start → end"] == pytest.approx(mood.change)
    assert row["Calls that turned worse"] == pytest.approx(mood.turned_worse)


def test_a_choice_holds_for_all_that_has_it(month: Month) -> None:
    (quoted,) = (name for name in TENANTS if "'" in name)
    queue = TENANTS[quoted][0]
    told = gather(
        month.settings, Scope(month.until - timedelta(days=7), month.until, tenants=(quoted,), queues=(queue,))
    )
    assert told.calls > 0
    assert [(one.tenant, one.name) for one in told.queues] == [(quoted, queue)]
    for rows in (told.worst, told.disagreements, told.angriest, told.by_time):
        assert {row["tenant"] for row in rows} == {quoted}


def test_the_other_version_is_told_when_asked_for(month: Month, week: Report) -> None:
    told = gather(month.settings, Scope(month.until - timedelta(days=7), month.until, version=WORSE_VERSION))
    assert told.version == WORSE_VERSION
    assert 0 < told.calls < week.calls


# ---- The command


def test_the_terminal_shows_every_table(month: Month) -> None:
    done = run(month.settings, "--until", month.until.isoformat())
    assert done.exit_code == 0
    for title in (
        "Key figures",
        "Mood by queue",
        "Agents",
        "Emotions",
        "Most negative calls",
        "Alerts",
        "Dead letters",
    ):
        assert title in done.output
    assert re.search(rf"{SOUR_TENANT} +{SOUR_QUEUE} .*worse", done.output)
    assert BEST_AGENT in done.output


def test_a_narrow_terminal_leaves_columns_out_and_no_number(week: Report) -> None:
    told = printed(week, 80)
    assert max(map(len, told.splitlines())) <= 80
    best = week.agents[-1]
    assert re.search(rf"{BEST_AGENT} +{best.calls} +\{best.score:+.2f} +\S+ +\S+ +better", told)
    assert "start → end" not in told.split("Agents", 1)[1].split("Angriest", 1)[0]


def test_json_is_the_same_and_nothing_else(month: Month, week: Report) -> None:
    done = run(month.settings, "--until", month.until.isoformat(), "--json")
    told = json.loads(done.stdout)
    assert told == json.loads(json.dumps(week.as_json()))
    assert told["queues"][0]["name"] == SOUR_QUEUE


@pytest.mark.parametrize("arguments", [(), ("--html", "report.html")])
def test_nothing_to_tell_is_one_line(month: Month, arguments: tuple[str, ...]) -> None:
    settings = settings_for(month.url, "nothing_to_report")
    migrate(settings)
    done = run(settings, *arguments)
    assert done.exit_code == 0
    assert re.fullmatch(r"no calls since \d{4}-\d\d-\d\d \d\d:\d\d UTC; `calltide generate` makes some\n", done.output)
    assert not Path("report.html").exists()


def test_a_choice_that_nobody_fits_is_one_line(month: Month) -> None:
    done = run(month.settings, "--until", month.until.isoformat(), "--tenant", r"\'; DROP TABLE calls; --")
    assert (done.exit_code, done.output.count("\n")) == (0, 1)
    assert "no calls of this choice since" in done.output


def test_a_clickhouse_that_is_away_is_said(month: Month) -> None:
    with pytest.raises(CalltideError, match=r"no ClickHouse at 127\.0\.0\.1:1 .*calltide up"):
        run(settings_for("http://127.0.0.1:1", "month"))


def test_a_database_without_tables_is_said(month: Month) -> None:
    with connect(settings_for(month.url, "bare"), create=True), pytest.raises(CalltideError, match="calltide migrate"):
        run(settings_for(month.url, "bare"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--since", "week"), "--since week is no time"),
        (("--until", "x"), "--until x is no time"),
        (("--since", "2026-11-18", "--until", "2026-11-17"), "is not before"),
        (("--until", "2026-11-18", "--html", "/no/such/place.html"), "cannot write"),
    ],
)
def test_a_mistake_is_one_line(month: Month, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(CalltideError, match=said):
        run(month.settings, *arguments)


# ---- Names, and the page


def test_hostile_names_are_shown_as_they_are(month: Month, hostile: Settings) -> None:
    told = gather(hostile, Scope(month.until - timedelta(days=5), month.until, minimum=0))
    assert {row["tenant"] for row in told.worst} <= set(HOSTILE)
    assert len({row["tenant"] for row in told.by_time}) == len(HOSTILE)
    for name in HOSTILE:
        one = gather(hostile, Scope(month.until - timedelta(days=5), month.until, tenants=(name,), queues=(name,)))
        assert {row["tenant"] for row in one.worst} == {name}
    assert "\x1b" not in printed(told)
    document = page(told)
    assert "<script" not in document
    assert "<img src=x" not in document
    assert "&lt;script&gt;" in document
    for chart in charts(told):
        assert ElementTree.fromstring(chart.svg).tag.endswith("svg")
        assert b"<script" not in chart.svg


def watched(page_shown: Page) -> tuple[list[str], list[str]]:
    """What goes wrong on it from now on, and the addresses that it asks for."""
    troubles, asked = list[str](), list[str]()
    page_shown.on("console", lambda message: troubles.append(message.text))
    page_shown.on("pageerror", lambda error: troubles.append(str(error)))
    page_shown.on("dialog", lambda dialog: troubles.append(dialog.message))
    page_shown.on("request", lambda request: asked.append(request.url))
    return troubles, asked


@pytest.mark.browser
def test_the_page_stands_alone(month: Month, week: Report, hostile: Settings, tmp_path: Path) -> None:
    """In a real Chromium: no request, no error, every chart is drawn and has its text for who does not see it."""
    told = gather(hostile, Scope(month.until - timedelta(days=5), month.until, minimum=0))
    with sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        path = next((found for name in names if (found := shutil.which(name))), playwright.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("no Chromium here: `apt-get install chromium` or `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, report in (("week", week), ("hostile", told)):
            file = tmp_path / f"{name}.html"
            file.write_text(page(report), encoding="utf-8")
            opened_page = browser.new_page()
            troubles, asked = watched(opened_page)
            opened_page.goto(file.as_uri())
            images = opened_page.evaluate(
                "() => [...document.images].map(one => [one.complete && one.naturalWidth > 100, one.alt.length > 20])"
            )
            assert len(images) >= 6
            assert all(drawn and told_of for drawn, told_of in images)
            assert troubles == []
            assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
            headings = opened_page.evaluate("() => [...document.querySelectorAll('h1, h2')].map(one => one.tagName)")
            assert headings == ["H1"] + ["H2"] * 9
            assert opened_page.evaluate("() => document.querySelectorAll('script').length") == 0
            assert opened_page.title().startswith("Calltide: ")
        browser.close()
