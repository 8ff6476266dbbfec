"""`python -m benchmarks.schema`: what the order of rows, the codecs and the corrections of `utterances_heard` cost.

Generated calls in the embedded ClickHouse; the same utterances in tables that differ in one thing each, each with a
view `utterances` of its own; the dashboards' kinds of questions to each of them, with the rows and bytes they read.

A changer must know: the tables are copied from the real one, so that a migration that changes it is measured at once.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from clickhouse_connect.driver.client import Client

from benchmarks.support import Table, add_outputs, publish, temporary_home
from deploy.clickhouse import ClickHouse
from schemas.errors import CalltideError
from streams.analytics.generate import generate
from streams.analytics.traffic import SOUR_TERMS, Traffic
from streams.settings import Settings
from streams.sink import connect

COMMAND: Final = "python -m benchmarks.schema"
CALLS: Final = 18_000
UNTIL: Final = datetime(2026, 11, 18, 15, 20, tzinfo=UTC)
PIECES: Final = 12
"""Parts of a table that comes in: measured with its merges stopped, so that all tables have the same."""
TRIES: Final = 5

BY_TENANT: Final = "tenant, pipeline_version, call_started_at, call_id, channel, start_ms"
BY_HOUR: Final = f"toStartOfHour(call_started_at), {BY_TENANT}"
BY_CALL: Final = "tenant, call_id, pipeline_version, channel, start_ms"


@dataclass(frozen=True, slots=True)
class Variant:
    """A table beside the real one: its order, its months, and what is replaced in the types of its columns."""

    name: str
    order: str = BY_HOUR
    month_of: str = "call_started_at"
    replace: tuple[tuple[str, str], ...] = ()


ORDERS: Final = (
    Variant("hour, tenant, version, call's start (as it is)"),
    Variant("tenant, version, call's start", BY_TENANT),
    Variant("tenant, call (until 0003)", BY_CALL, "spoken_at"),
)
CODECS: Final = (
    Variant("as it is"),
    Variant("no codecs (LZ4)", replace=((r" CODEC\([^\n]*?\)(?=,?\n)", ""),)),
    Variant("ZSTD(3)", replace=((r"ZSTD\(1\)", "ZSTD(3)"),)),
    Variant("Float32 for every Float64", replace=(("Float64", "Float32"),)),
    Variant(
        "Gorilla for every Float64",
        replace=(
            (
                r"(` (?:Nullable\(Float64\)|Float64)(?: COMMENT '.*')?) CODEC\(ZSTD\(1\)\)",
                r"\1 CODEC(Gorilla, ZSTD(1))",
            ),
        ),
    ),
    Variant("no text index", replace=((r"\n    INDEX by_words [^\n]*(?=,?\n)", ""), (r",\n\)", "\n)"))),
)

QUESTIONS: Final = {
    "one call": "SELECT * FROM {view} WHERE tenant = '{tenant}' AND call_id = '{call}' AND pipeline_version = 'v1' "
    "ORDER BY start_ms",
    "the last hour": "SELECT queue, role, avg(score) FROM {view} WHERE pipeline_version = 'v1' AND "
    "spoken_at >= toDateTime('{until}', 'UTC') - INTERVAL 1 HOUR GROUP BY ALL",
    "worst of a day": "SELECT call_id, text, score FROM {view} WHERE tenant = '{tenant}' AND pipeline_version = 'v1' "
    "AND spoken_at >= toDateTime('{until}', 'UTC') - INTERVAL 1 DAY ORDER BY score LIMIT 50",
    "30 days by role": "SELECT role, avg(score) FROM {view} WHERE pipeline_version = 'v1' GROUP BY role",
    "search, 30 days": "SELECT call_id, start_ms, text FROM {view} WHERE pipeline_version = 'v1' AND "
    "hasAllTokens(text, '{term}') ORDER BY spoken_at DESC LIMIT 100",
    "30 days by role, as heard": "SELECT role, avg(score) FROM {table} FINAL WHERE pipeline_version = 'v1' "
    "GROUP BY role",
}


def make(client: Client, variant: Variant, table: str) -> None:
    """The table of a variant with all utterances in PIECES parts, and its view, `<table>_view`."""
    ddl = client.raw_query("SHOW CREATE TABLE utterances_heard", fmt="TSVRaw").decode()
    ddl = re.sub(r"^CREATE TABLE \S+", f"CREATE TABLE {table}", ddl)
    ddl = re.sub(r"PARTITION BY toYYYYMM\(\w+\)", f"PARTITION BY toYYYYMM({variant.month_of})", ddl)
    ddl = re.sub(r"ORDER BY \([^\n]*\)\n", f"ORDER BY ({variant.order})\n", ddl)
    for pattern, by in variant.replace:
        ddl, found = re.subn(pattern, by, ddl)
        if not found and pattern != r",\n\)":
            raise CalltideError(f"{variant.name}: nothing of {pattern} in the table")
    client.command(ddl)
    client.command(f"SYSTEM STOP MERGES {table}")
    (row,) = client.query("SELECT min(call_started_at), max(call_started_at) FROM utterances_heard").result_rows
    step = (row[1] - row[0]) / PIECES
    for piece in range(PIECES):
        since, until = row[0] + step * piece, row[0] + step * (piece + 1)
        client.command(
            f"INSERT INTO {table} SELECT * FROM utterances_heard FINAL WHERE call_started_at >= '{since:%F %T.%f}' "
            f"AND call_started_at {'<=' if piece == PIECES - 1 else '<'} '{until:%F %T.%f}'"
        )
    ((select,),) = client.query("SELECT as_select FROM system.tables WHERE name = 'utterances'").result_rows
    client.command(f"CREATE VIEW {table}_view AS {select.replace('utterances_heard', table)}")


def asked(client: Client, sql: str) -> tuple[float, int, int]:
    """(milliseconds, rows read, bytes read) of the quickest of TRIES."""
    found = []
    for _ in range(TRIES):
        summary = client.query(sql).summary
        found.append((int(summary["elapsed_ns"]) / 1e6, int(summary["read_rows"]), int(summary["read_bytes"])))
    return min(found)


def orders(client: Client, facts: dict[str, Any]) -> Iterator[Table]:
    """A table for each question."""
    for number, variant in enumerate(ORDERS):
        make(client, variant, f"order_{number}")
    for question, sql in QUESTIONS.items():
        table = Table(question, ("order of rows", "ms", "rows read", "MB read"), [])
        for number, variant in enumerate(ORDERS):
            name = f"order_{number}"
            ms, rows, size = asked(client, sql.format(table=name, view=f"{name}_view", **facts))
            table.rows.append((variant.name, f"{ms:.0f}", f"{rows:,}", f"{size / 1e6:.1f}"))
        table.data = table.rows
        yield table
    for number in range(len(ORDERS)):
        client.command(f"DROP TABLE order_{number}_view")
        client.command(f"DROP TABLE order_{number}")


def codecs(client: Client, facts: dict[str, Any]) -> Iterator[Table]:
    """Bytes an utterance, merged into one part a month, and the time of the scan and of the search."""
    table = Table("Codecs and types", ("columns", "bytes an utterance", "30 days by role, ms", "search, ms"), [])
    for variant in CODECS:
        make(client, variant, "coded")
        client.command("SYSTEM START MERGES coded")
        client.command("OPTIMIZE TABLE coded FINAL")
        sql = "SELECT sum(bytes_on_disk) / sum(rows) FROM system.parts WHERE active AND table = 'coded'"
        ((size,),) = client.query(sql).result_rows
        times = [
            asked(client, QUESTIONS[question].format(table="coded", view="coded_view", **facts))[0]
            for question in ("30 days by role", "search, 30 days")
        ]
        table.rows.append((variant.name, f"{size:.0f}", *(f"{ms:.0f}" for ms in times)))
        client.command("DROP TABLE coded_view")
        client.command("DROP TABLE coded")
    table.data = table.rows
    yield table


def columns(client: Client) -> Table:
    """The columns that take most of the room."""
    sql = """
        SELECT column, round(sum(column_data_compressed_bytes) / sum(rows), 1) AS bytes
        FROM system.parts_columns WHERE active AND table = 'utterances_heard'
        GROUP BY column ORDER BY bytes DESC LIMIT 15"""
    table = Table("Largest columns", ("column", "bytes an utterance"), [])
    table.rows = [(name, str(size)) for name, size in client.query(sql).result_rows]
    table.data = table.rows
    return table


def measure(settings: Settings, calls: int) -> list[Table]:
    """All tables, of so many calls."""
    with ClickHouse(settings.directory, settings.clickhouse.port):
        generate(settings, Traffic(until=UNTIL, days=30, calls=calls, seed=7))
        with connect(settings) as client:
            sql = "SELECT tenant, call_id FROM calls WHERE pipeline_version = 'v1' ORDER BY started_at LIMIT 1 OFFSET"
            ((tenant, call),) = client.query(f"{sql} {calls // 2}").result_rows
            facts = {
                "tenant": tenant.replace("'", "''"),
                "call": call,
                "until": f"{UNTIL:%F %T}",
                "term": SOUR_TERMS[0],
            }
            ((rows, corrections),) = client.query(
                "SELECT (SELECT count() FROM utterances_heard), (SELECT count() FROM corrections)"
            ).result_rows
            tables = [*orders(client, facts), *codecs(client, facts), columns(client)]
    tables[0].notes.append(f"{rows:,} utterances of {calls:,} calls in {PIECES} parts; {corrections:,} corrections.")
    return tables


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N", help=f"calls (default: {CALLS})")
    add_outputs(parser)
    arguments = parser.parse_args()
    with temporary_home() as settings:
        tables = measure(settings, arguments.calls)
    publish({COMMAND: tables}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
