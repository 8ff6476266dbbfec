"""What is chosen on a dashboard is data in its SQL, however it is called: ClickHouse runs what Grafana would send."""

from collections.abc import Iterator
from datetime import UTC, datetime

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from dashboards import common
from tests.analytics.macros import ALL, Value, Variable, View, expand

NAMES = [
    "acme",
    "o'neill & sons",
    "x\\",
    "\\' OR 1=1 --",
    "'; DROP TABLE calls; --",
    '"quoted" `ticks`',
    "a,b",
    "=a&b=c&",
    "100%27",
    "$__timeFilter(at) ${tenant} $tenant",
    "{braces} /* and */ -- comments",
    "größe 顧客 🙂",
    "line\nbreak\ttab",
    "+ plus",
    "$__all",
    "",
]


@pytest.fixture(scope="module")
def client(clickhouse_url: str) -> Iterator[Client]:
    with clickhouse_connect.get_client(dsn=clickhouse_url) as connected:
        yield connected


def names_left(client: Client, condition: str, name: str, value: Value, options: list[str]) -> list[str]:
    """Which of NAMES pass the condition when `value` is chosen for the variable `name`."""
    moment = datetime(2026, 11, 18, tzinfo=UTC)
    view = View(moment, moment, {name: Variable(value, options)})
    # The names come as a parameter, so that only the condition is put together as text.
    sql = f"SELECT {name} FROM (SELECT arrayJoin({{names:Array(String)}}) AS {name}) WHERE {expand(condition, view)}"
    return [row[0] for row in client.query(sql, parameters={"names": NAMES}).result_rows]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("", ALL)])
def test_a_chosen_name_finds_itself_and_nothing_else(client: Client, name: str) -> None:
    for variable in ("tenant", "queue"):
        condition = common.selection(variable)
        assert names_left(client, condition, variable, [name], NAMES) == [name]
        assert names_left(client, condition, variable, ["acme", name], NAMES) == list(dict.fromkeys(["acme", name]))


@pytest.mark.parametrize("name", [name for name in NAMES if name != ALL])
def test_the_one_value_of_a_box_is_itself(client: Client, name: str) -> None:
    assert names_left(client, f"call = {common.chosen('call')}", "call", name, []) == [name]


def test_all_is_no_condition(client: Client) -> None:
    assert names_left(client, common.selection("tenant"), "tenant", [ALL], ["acme"]) == NAMES


def test_calls_without_a_queue_can_be_chosen(client: Client) -> None:
    assert names_left(client, common.selection("queue"), "queue", [common.NONE], NAMES) == [""]
    assert names_left(client, common.selection("queue"), "queue", [common.NONE, "acme"], NAMES) == ["acme", ""]


@pytest.mark.parametrize(("typed", "number"), [("20", 20), ("", 0), ("many", 0), ("1 OR 1=1", 0), ("-3", 0)])
def test_a_number_is_typed_or_it_is_0(client: Client, typed: str, number: int) -> None:
    moment = datetime(2026, 11, 18, tzinfo=UTC)
    view = View(moment, moment, {"minimum": Variable(typed)})
    assert client.query(f"SELECT {expand(common.number('minimum'), view)}").result_rows == [(number,)]
