"""Trends of score cards: how an agent or a team does from week to week, told only of as many calls as it takes."""

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from statistics import mean, stdev
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from deploy.migrations import apply_migrations
from schemas.errors import CalltideError
from schemas.events import Evaluation
from streams import forms_commands
from streams.rows import evaluation_row
from streams.settings import Settings
from streams.sink import MIGRATIONS, _insert_rows, connect, migrate
from tests.scripted import call

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
LEAST = 10
STUDENT = {10: 2.262, 11: 2.228, 12: 2.201, 40: 2.023}
"""97.5 % quantiles of Student's t, by the number of calls, as tables have them."""


def card(number: int, score: float | None, **fields: Any) -> dict[str, Any]:
    """A row as the sink writes it, of Monday's first hours or the moment given."""
    at = fields.pop("at", MONDAY + timedelta(minutes=number))
    return {
        "tenant": "acme", "pipeline_version": "v1", "started_at": f"{at:%Y-%m-%d %H:%M:%S}.000",
        "call_id": f"call-{number}", "queue": "billing", "agent": "ann", "form": "service", "form_version": "a1",
        "state": "too_short" if score is None else "ok", "score": score, "judged": 1, "items": "{}",
        "sections.name": ["greeting"], "sections.weight": [1], "sections.score": [100],
    } | fields  # fmt: skip


def insert(client: Client, rows: Sequence[dict[str, Any]]) -> None:
    block = "\n".join(map(json.dumps, rows)).encode()
    settings = {"input_format_import_nested_json": 0}
    client.raw_insert("evaluations", insert_block=block, fmt="JSONEachRow", settings=settings)


def trends(client: Client, where: str) -> list[tuple[Any, ...]]:
    """(calls, mean, low, high) of the rows that are asked for."""
    sql = f"SELECT calls, mean, low, high FROM evaluation_trends WHERE {where} ORDER BY week, form_version"
    return list(map(tuple, client.query(sql).result_rows))


def test_there_is_no_mean_of_too_few_calls(client: Client) -> None:
    apply_migrations(client, MIGRATIONS)
    scores = {agent: [50.0 + 7 * (at % 6) for at in range(n)] for agent, n in (("ann", 9), ("bob", 10), ("cem", 11))}
    rows = [
        card(number, score, agent=agent, call_id=f"{agent}-{number}")
        for agent, its in scores.items()
        for number, score in enumerate(its)
    ]
    # Calls without a score, of another week, of nobody, and the same call again make no sample.
    rows += [card(50 + at, None, agent="ann") for at in range(5)]
    rows += [card(70, 60.0, agent="ann", at=MONDAY - timedelta(minutes=1)), card(80, 60.0, agent="")]
    rows += rows[:3]
    insert(client, rows)
    of = "level = 'agent' AND section = '' AND name ="
    assert trends(client, f"{of} 'ann'") == [(1, None, None, None), (9, None, None, None)]
    for agent in ("bob", "cem"):
        its = scores[agent]
        ((calls, middle, low, high),) = trends(client, f"{of} '{agent}'")
        error = STUDENT[len(its)] * stdev(its) / len(its) ** 0.5
        assert (calls, middle) == (len(its), pytest.approx(mean(its)))
        assert (low, high) == (pytest.approx(mean(its) - error, rel=0.01), pytest.approx(mean(its) + error, rel=0.01))
    everybody = [score for its in scores.values() for score in its] + [60.0]
    ((_, *unknown), (calls, middle, *_)) = trends(client, "level = 'queue' AND section = ''")
    assert unknown == [None] * 3 and (calls, middle) == (len(everybody), pytest.approx(mean(everybody)))
    weeks = client.query("SELECT DISTINCT week FROM evaluation_trends ORDER BY week").result_columns[0]
    assert list(weeks) == [date(2026, 11, 9), date(2026, 11, 16)]
    assert not trends(client, "name = ''")


def test_sections_versions_of_a_form_and_tenants_are_apart(client: Client) -> None:
    apply_migrations(client, MIGRATIONS)
    sections = {"sections.name": ["greeting", "closing"], "sections.weight": [1, 2]}
    rows = [card(at, 50.0, **sections, **{"sections.score": [100, None if at < 3 else 25]}) for at in range(12)]
    rows += [card(at, 90.0, form_version="b2", call_id=f"new-{at}") for at in range(10)]
    rows += [card(at, 10.0, tenant="other", call_id=f"other-{at}") for at in range(10)]
    insert(client, rows)
    mine = "tenant = 'acme' AND level = 'agent'"
    assert trends(client, f"{mine} AND section = ''") == [(12, 50, 50, 50), (10, 90, 90, 90)]
    assert trends(client, f"{mine} AND section = 'greeting' AND form_version = 'a1'") == [(12, 100, 100, 100)]
    assert trends(client, f"{mine} AND section = 'closing'") == [(9, None, None, None)], "where it could be judged"
    assert trends(client, "tenant = 'other' AND level = 'queue' AND section = ''") == [(10, 10, 10, 10)]


def test_what_was_filled_is_shown(clickhouse_url: str) -> None:
    base = Settings()
    own = {"url": clickhouse_url, "database": f"c{uuid.uuid4().hex}"}
    settings = base.model_copy(update={"clickhouse": base.clickhouse.model_copy(update=own)})
    migrate(settings)
    items = [{"name": "greets", "points": 2, "earned": 0, "why": "nothing was said"}]
    filled = Evaluation.model_validate({
        "call": call("it's one"), "ended_at": MONDAY, "duration_ms": 9_000, "form": "service", "form_version": "a1",
        "state": "ok", "score": 12.5, "judged": 0.75, "pipeline_version": "v1",
        "sections": [{"name": "greeting", "weight": 3, "score": 12.5, "items": items}],
    })  # fmt: skip
    with connect(settings) as client:
        _insert_rows(client, "evaluations", [evaluation_row(filled, ("insights", 0, 1))], "first")
    ((title, state, ((name, weight, score, shown),)),) = forms_commands._kept(settings, "it's one")
    assert (title, state) == ("service a1, pipeline v1: 12, 75% judged", "")
    assert (name, weight, score, shown) == ("greeting", 3, 12.5, filled.sections[0].items)
    with pytest.raises(CalltideError, match="no form was filled for call other; `--form packaged`"):
        list(forms_commands._kept(settings, "other"))


def test_bounds_stay_within_scores(client: Client) -> None:
    apply_migrations(client, MIGRATIONS)
    insert(client, [card(at, 100.0 if at else 0.0) for at in range(LEAST)])
    ((_, middle, low, high),) = trends(client, "level = 'agent' AND section = ''")
    assert middle == 90 and 60 < low < 70 and high == 100
