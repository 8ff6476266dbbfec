"""`calltide generate`: a month of made-up calls in ClickHouse, so that dashboards have something to show.

A changer must know: the rows come in as the sink's do, utterances and corrections of a call before its end, because the
materialized views read what is there by then. The aggregates cannot forget a single call, so generated calls are
removed all at once and only where nothing else is.
"""

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from schemas.errors import CalltideError
from streams.analytics.traffic import SOURCE, Tables, Traffic, blocks
from streams.settings import Settings
from streams.sink import connect, migrate

EMPTIED: Final = (
    "calls", "utterances_heard", "corrections", "call_metrics", "call_terms", "utterance_minutes", "utterance_hours",
    "alerts", "call_progress", "call_categories", "insights", "evaluations", "dead_letters",
)  # fmt: skip
"""All tables that generated calls are in."""

INSERTS: Final = 2
"""Blocks on their way at one time. Measured: ClickHouse spends one core on a block, four times what making it takes."""


def generate(
    settings: Settings,
    traffic: Traffic,
    *,
    force: bool = False,
    clear: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Counter[str]:
    """Bring the schema up to date and insert `traffic`; returns the number of rows by table.

    `progress` is told how many rows of `calls` are in. `force`: also beside calls that were not generated. `clear`:
    remove the generated calls that are there first. Raises CalltideError: ClickHouse is away or refuses, the database
    holds other calls, or generated ones already.
    """
    migrate(settings)
    with connect(settings) as client:
        if clear:
            remove(client)
        _refuse(client, force)
        rows: Counter[str] = Counter()

        def finish(one: Future[Counter[str]]) -> None:
            rows.update(one.result())
            progress(rows["calls"])

        with ThreadPoolExecutor(INSERTS, "insert") as pool:
            going: deque[Future[Counter[str]]] = deque()
            for tables in blocks(traffic):
                if len(going) == INSERTS:
                    finish(going.popleft())
                going.append(pool.submit(_insert, client, tables))
            for one in going:
                finish(one)
    return rows


def _insert(client: Client, tables: Tables) -> Counter[str]:
    try:
        for table, made in tables.items():
            if made.num_rows:
                client.insert_arrow(table, made)
    except (ClickHouseError, OSError) as error:
        raise CalltideError(f"ClickHouse refuses the rows: {str(error).splitlines()[0][:300]}") from error
    return Counter({table: made.num_rows for table, made in tables.items()})


def remove(client: Client) -> None:
    """Empty all tables. Raises CalltideError where there are calls that were not generated."""
    _refuse_others(client, "only a database of nothing but generated calls can be cleared of them")
    for table in EMPTIED:
        client.command(f"TRUNCATE TABLE {table}")


def _refuse(client: Client, force: bool) -> None:
    if not force:
        _refuse_others(client, "set CALLTIDE_CLICKHOUSE__DATABASE to another one, or give --force to mix them")
    if held := _count(client, "="):
        raise CalltideError(
            f"the database {client.database} holds {held:,} generated calls already; --clear removes them first"
        )


def _refuse_others(client: Client, what_to_do: str) -> None:
    if held := _count(client, "!="):
        are = "1 call that was" if held == 1 else f"{held:,} calls that were"
        raise CalltideError(f"the database {client.database} holds {are} not generated; {what_to_do}")


def _count(client: Client, sign: str) -> int:
    return int(client.command(f"SELECT uniqExact(tenant, call_id) FROM calls WHERE source {sign} '{SOURCE}'"))  # type: ignore[arg-type]
