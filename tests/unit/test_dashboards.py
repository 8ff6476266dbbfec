"""The dashboards as Grafana gets them: the committed JSON is what the code makes, and every panel says what it shows.

That their queries give the right rows is tested in tests/analytics.
"""

import re
from typing import Any

import pytest
from scipy.stats import t

from dashboards import build, common, sentiment
from dashboards.files import committed, panels, queries
from dashboards.query import PLUGIN

MADE = build.all_dashboards()
PANELS = [
    pytest.param(board, panel, id=f"{name}/{panel['title']}") for name, board in MADE.items() for panel in panels(board)
]


def test_committed_json_is_what_the_code_makes() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in build.JSON.glob("*.json")}
    assert texts == {name: build.text(board) for name, board in MADE.items()}, "run python -m dashboards"
    assert committed() == MADE


def test_every_dashboard_has_a_uid_of_its_own() -> None:
    uids = [board["uid"] for board in MADE.values()]
    assert len(set(uids)) == len(uids)
    assert all(uid == f"calltide-{name}" for name, uid in zip(MADE, uids, strict=True))


@pytest.mark.parametrize("board", MADE.values(), ids=MADE)
def test_ids_of_panels_differ_and_no_two_overlap(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in board["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert common.TAG in board["tags"]


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_says_what_it_shows(board: dict[str, Any], panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["title"] and defaults["unit"] and defaults["noValue"]
    assert panel["description"].endswith(".") and "\n" not in panel["description"]
    assert defaults["thresholds"]["steps"]
    assert panel["targets"]
    known = {each["uid"] for each in MADE.values()}
    assert panel["links"]
    for link in panel["links"]:
        target, carried = re.fullmatch(r"/d/([\w-]+)\?(.+)", link["url"]).groups()  # type: ignore[union-attr]
        assert target in known
        assert carried == "${__url_time_range}&${__all_variables}"


def links_of_cells(board: dict[str, Any]) -> list[str]:
    return [
        link["url"]
        for panel in panels(board)
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "links"
        for link in each["value"]
    ]


@pytest.mark.parametrize("board", MADE.values(), ids=MADE)
def test_links_of_cells_lead_to_a_dashboard_and_set_variables_it_has(board: dict[str, Any]) -> None:
    variables = {each["uid"]: {variable["name"] for variable in each["templating"]["list"]} for each in MADE.values()}
    for url in links_of_cells(board):
        uid = re.match(r"/d/([\w-]+)\?", url)[1]  # type: ignore[index]
        assert set(re.findall(r"var-(\w+)=", url)) | set(re.findall(r"\$\{(\w+):queryparam\}", url)) <= variables[uid]
        assert not re.search(r"\$\{__data\.fields\.\w+\}", re.sub(r"(from|to)=\$\{[^}]*\}", "", url)), "unescaped"


@pytest.mark.parametrize("query", [q for q in queries(MADE.values()) if q.source == PLUGIN], ids=lambda query: query.id)
def test_variables_come_into_sql_as_data_only(query: Any) -> None:
    """Percent-encoded, which can hold neither quotes nor backslashes; bare only as conditionalAll's second argument."""
    text = re.sub(r", \$(tenant|queue|agent|role)\)", ")", query.text)
    used = re.findall(r"\$(?:\{(\w+)(?::(\w+))?\}|(\w+))", text)
    wrong = [
        use
        for use in used
        if use[1] not in ("percentencode", "customqueryparam") and not (use[0] or use[2]).startswith("__")
    ]
    assert not wrong
    for name, form, _ in used:
        if form:
            assert re.search(rf"'\$\{{{name}:{form}\}}'", text), "in quotes"


def test_a_panel_that_lacks_something_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks something"):
        common.panel(
            common.rows(), "Calls", "", unit="none", thresholds_at=common.NO_THRESHOLDS, no_data="", links=(), width=4
        )


@pytest.mark.parametrize("df", [9, 10, 15, 30, 100, 5000])
def test_the_interval_of_an_agent_is_of_students_t(df: int) -> None:
    assert eval(sentiment.T_SQL, {"df": df, "pow": pow}) == pytest.approx(t.ppf(0.975, df), abs=2e-5)


def test_who_is_compared_has_calls_enough_for_it() -> None:
    assert sentiment.FEWEST_CALLS - 1 >= 9
