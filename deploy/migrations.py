"""Numbered SQL files bring a ClickHouse database up to date: `0001_….sql`, `0002_….sql`, each once, in order.

Beside them: how long rows are kept (`keep_for`), and counting again what is counted as it comes (`rebuild`).

A changer must know: ClickHouse has no transactions over DDL. A file that was interrupted half-way is run again from its
first statement, so every statement must be one that may run twice (IF NOT EXISTS, ADD COLUMN IF NOT EXISTS, …). A file
that was applied anywhere is never edited; the next number changes what it made.
"""

import hashlib
import re
from pathlib import Path
from typing import Final

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from deploy.sql import statements
from schemas.errors import CalltideError
from schemas.topics import FINDINGS

_VERSIONS = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    number     UInt32,
    name       String,
    sha256     FixedString(64),
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY number
"""


def apply_migrations(client: Client, directory: Path) -> list[str]:
    """Apply every file of `directory` that the client's database has not had; returns their names.

    Raises CalltideError: a file's statement is refused, a file was edited after it was applied, two files have one
    number, or the database is newer than these files.
    """
    files: dict[int, Path] = {}
    for path in sorted(directory.glob("*.sql")):
        if not (match := re.match(r"(\d{4})_\w+\.sql$", path.name)):
            raise CalltideError(f"{path} is no migration: name it like 0002_what_it_does.sql")
        if (number := int(match[1])) in files:
            raise CalltideError(f"{path.name} and {files[number].name} have the same number; renumber the newer one")
        files[number] = path
    try:
        client.command(_VERSIONS)
        rows = client.query("SELECT number, name, sha256 FROM schema_migrations FINAL ORDER BY number").result_rows
    except ClickHouseError as error:
        raise CalltideError(f"cannot read which migrations the database has had: {_first_line(error)}") from error
    done = {number: (name, bytes(digest).decode()) for number, name, digest in rows}
    if newer := [name for number, (name, _) in done.items() if number not in files]:
        raise CalltideError(f"the database has had {newer[-1]}, which this version does not know; update Calltide")
    applied = []
    for number, path in files.items():
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if number in done:
            if done[number][1] != digest:
                raise CalltideError(
                    f"{path.name} was edited after it was applied; restore it and write the next number"
                )
            continue
        for position, statement in enumerate(statements(content.decode()), 1):
            try:
                client.command(statement)
            except ClickHouseError as error:
                raise CalltideError(f"{path.name}, statement {position}: {_first_line(error)}") from error
        client.insert("schema_migrations", [[number, path.name, digest]], column_names=["number", "name", "sha256"])
        applied.append(path.name)
    return applied


COUNTED: Final = {
    "utterance_minutes": ("utterances_heard", "call_started_at"),
    "utterance_hours": ("utterances_heard", "call_started_at"),
    "call_metrics": ("calls", "started_at"),
    "call_terms": ("calls", "started_at"),
}
"""Tables that a materialized view of their name and `_feed` fills: what it reads, and the time of that by which it is
read in parts."""


def rebuild(client: Client) -> dict[str, int]:
    """Count again everything that is counted as it comes; returns table → rows.

    What is inserted meanwhile may be missing in it: no sink should run.

    Each table is made beside the old one, day by day, and put in its place at once: an interruption leaves the old one.
    Raises CalltideError when a statement is refused.
    """
    rows = {}
    try:
        database, engine = client.query(
            "SELECT database, engine FROM system.tables WHERE database = currentDatabase() AND name = 'calls'"
        ).result_rows[0]
        if engine.startswith("Replicated"):
            raise CalltideError(
                "tables are exchanged on one server only; docs/analytics-schema.md says it for a cluster"
            )
        for table, (source, time) in COUNTED.items():
            of_feed = "SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = {name:String}"
            ((select,),) = client.query(of_feed, {"name": f"{table}_feed"}).result_rows
            days = client.query(
                f"SELECT DISTINCT toString(toDate({time})) AS day FROM {source} ORDER BY day"
            ).result_rows
            client.command(f"DROP TABLE IF EXISTS {table}_anew")
            client.command(f"CREATE TABLE {table}_anew AS {table}")
            for (day,) in days:
                part = f"FROM (SELECT * FROM {source} FINAL WHERE toDate({time}) = '{day}') AS {source}"
                client.command(
                    f"INSERT INTO {table}_anew {select.replace(f'FROM {database}.{source}', part)}",
                    settings={"asterisk_include_alias_columns": 1},
                )
            client.command(f"EXCHANGE TABLES {table} AND {table}_anew")
            client.command(f"DROP TABLE {table}_anew")
            rows[table] = client.query(f"SELECT count() FROM {table} FINAL").result_rows[0][0]
    except ClickHouseError as error:
        raise CalltideError(f"cannot count again: {_first_line(error)}; run it again") from error
    return rows


KEPT_BY: Final = {
    "utterances_heard": "call_started_at",
    "corrections": "started_at",
    "calls": "started_at",
    "call_metrics": "started_at",
    "call_terms": "day",
    "utterance_minutes": "minute",
    "utterance_hours": "hour",
    **{one.table: one.time for one in FINDINGS},
    "dead_letters": "greatest(failed_at, settled_at)",
    "tasks": "created_at",
    "task_chunks": "created_at",
}
"""Tables, and the time by which their rows grow old."""


def keep_for(client: Client, days: int) -> list[str]:
    """Have ClickHouse delete rows that are older than so many days; 0: none. Returns the tables for which that is new.

    A TTL that somebody wrote in another form, such as one that moves old parts to another disk, is left alone.
    """
    changed = []
    try:
        sql = "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()"
        engines: dict[str, str] = dict(map(tuple, client.query(sql).result_rows))
        for table, time in KEPT_BY.items():
            ttl = re.search(r" TTL (.+?)(?: SETTINGS |$)", engines[table])
            own = ttl and re.fullmatch(rf"toDateTime\({re.escape(time)}\) \+ toIntervalDay\((\d+)\)", ttl[1])
            if (ttl and not own) or days == (int(own[1]) if own else 0):
                continue
            new = f"MODIFY TTL toDateTime({time}) + toIntervalDay({days})" if days else "REMOVE TTL"
            client.command(f"ALTER TABLE {table} {new}")
            changed.append(table)
    except ClickHouseError as error:
        raise CalltideError(f"cannot set how long rows are kept: {_first_line(error)}") from error
    return changed


def _first_line(error: ClickHouseError) -> str:
    return str(error).splitlines()[0][:300]
