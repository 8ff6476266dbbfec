"""Numbered SQL files bring a ClickHouse database up to date: `0001_….sql`, `0002_….sql`, each once, in order.

A changer must know: ClickHouse has no transactions over DDL. A file that was interrupted half-way is run again from its
first statement, so every statement must be one that may run twice (IF NOT EXISTS, ADD COLUMN IF NOT EXISTS, …). A file
that was applied anywhere is never edited; the next number changes what it made.
"""

import hashlib
import re
from pathlib import Path

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from deploy.sql import statements
from schemas.errors import CalltideError

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


def _first_line(error: ClickHouseError) -> str:
    return str(error).splitlines()[0][:300]
