"""The embedded ClickHouse as Grafana's plugin uses it: clickhouse-go of the plugin's version in its HTTP mode.

The program in go_client reads a table of every type that Calltide's tables have through Go's values and writes them
back; it asks what the plugin's pages ask, meets errors, and goes away in the middle of a query.
"""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

CLIENT = Path(__file__).parent / "go_client"
ROWS = 70_000
"""More than a block has."""

TYPES = """
(n UInt32, text String, queue LowCardinality(String), maybe LowCardinality(Nullable(String)), score Nullable(Float32),
mean Float64, flag Bool, label Enum8('not one (x' = 1, 'b' = 2), code FixedString(4), day Date,
at DateTime64(3, 'UTC'), minute DateTime('UTC'), emotions Map(LowCardinality(String), Float32),
languages Array(LowCardinality(String)), quarters Array(Nullable(Float32)), pair Tuple(a UInt8, b String),
utterances Array(Tuple(channel UInt8, start_ms UInt32)), `words.text` Array(String),
nested Nested(x UInt32, y String), total SimpleAggregateFunction(sum, UInt64),
counts SimpleAggregateFunction(sumMap, Map(String, UInt64)), id UUID, money Decimal(10, 2), bins Map(Int8, UInt64),
wide Int64)
ENGINE = MergeTree ORDER BY n SETTINGS flatten_nested = 0
"""

VALUES = f"""
SELECT number, repeat('é', number % 200), 'q' || toString(number % 7), if(number % 3, toString(number % 300), NULL),
    if(number % 2, NULL, number / 3), number / 7, number % 2, number % 2 + 1, leftPad(toString(number % 1000), 4),
    toDate('2026-01-01') + number % 300, toDateTime64('2026-01-01 00:00:00.123', 3, 'UTC') + number,
    toDateTime('2026-01-01', 'UTC') + number, if(number % 5, map('joy', number / 9, 'anger', 1), map()),
    arrayMap(x -> toString(x), range(number % 4)), [NULL, number / 2], (number % 256, toString(number)),
    arrayMap(x -> (x, x + number), range(number % 3)), arrayMap(x -> toString(x), range(number % 2)),
    arrayMap(x -> (x, 'y' || toString(x)), range(number % 3)), number, map('a', number, 'b', 1), generateUUIDv4(),
    number / 100, map(number % 20 - 10, 1), -number
FROM numbers({ROWS})
"""

ALL = "SELECT * REPLACE (mapSort(emotions) AS emotions, mapSort(counts) AS counts) FROM"
"""Go's maps have no order."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed: clickhouse-go is not tried")
    local = {**os.environ, "GOTOOLCHAIN": "local"}
    loaded = subprocess.run(
        [go, "mod", "download"], cwd=CLIENT, env=local, capture_output=True, text=True, timeout=120, check=False
    )
    if loaded.returncode:
        pytest.skip(f"clickhouse-go cannot be had here: {loaded.stderr.strip()[-200:]}")
    built = tmp_path_factory.mktemp("go") / "client"
    subprocess.run([go, "build", "-o", built, "."], cwd=CLIENT, env=local, check=True, timeout=400)
    return built


@pytest.fixture(scope="module")
def client(clickhouse_url: str) -> Iterator[Client]:
    """A client of a database with the table `types` and an empty one like it."""
    parts, name = urlsplit(clickhouse_url), f"g{uuid.uuid4().hex}"
    where: dict[str, Any] = {"host": parts.hostname, "port": parts.port, "username": parts.username}
    with clickhouse_connect.get_client(**where) as admin:
        admin.command(f"CREATE DATABASE {name}")
    with clickhouse_connect.get_client(**where, database=name) as client:
        for table in ("types", "copied"):
            client.command(f"CREATE TABLE {table} {TYPES}")
        client.command(f"INSERT INTO types {VALUES}")
        client.command("OPTIMIZE TABLE types FINAL")
        yield client


def seen(program: Path, client: Client, url: str, *, user: str, compression: str) -> dict[str, Any]:
    """What the program saw. The user `calltide` writes."""
    database, parts = str(client.database), urlsplit(url)
    client.command("TRUNCATE TABLE copied")
    command: list[str | Path] = [program, f"{parts.hostname}:{parts.port}", user, "", database, compression]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_clickhouse_go_reads_and_writes_every_type(
    program: Path, client: Client, clickhouse_url: str, compression: str
) -> None:
    found = seen(program, client, clickhouse_url, user="calltide", compression=compression)
    assert str(client.command("SELECT version()")).rpartition(".")[0] in found["version"]
    declared = client.query(
        "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = 'types'"
    )
    renamed = {"DateTime('UTC')": "DateTime", "Nested(x UInt32, y String)": "Array(Tuple(x UInt32, y String))"}
    assert [tuple(column) for column in found["types"]] == [(n, renamed.get(t, t)) for n, t in declared.result_rows]
    assert (found["read"], found["write"]["text"], found["drop"]["text"]) == (ROWS, "", "")
    different = f"SELECT count() FROM (({ALL} types) EXCEPT ({ALL} copied))"
    assert client.command(f"SELECT (SELECT count() FROM copied), ({different})") == [str(ROWS), "0"]
    assert found["none"] == 0
    assert found["named"] == found["bound"] == ["it's 'é", 7]
    assert (found["setting"], found["null"]) == (123, True)


def test_clickhouse_go_as_grafana_s_user(program: Path, client: Client, clickhouse_url: str) -> None:
    found = seen(program, client, clickhouse_url, user="grafana", compression="gzip")
    assert found["read"] == ROWS
    for refused in (found["write"], found["drop"]):
        assert "Code: 164. DB::Exception" in refused["text"], "it only reads"
    assert "[HTTP 404]" in found["unknown"]["text"] and "Code: 47. DB::Exception" in found["unknown"]["text"]
    assert "throwIf" in found["broken"]["text"] and 0 < found["before_broken"] < 600_000
    assert "deadline exceeded" in found["cancelled"]["text"] and found["cancelled_ms"] < 5_000
    assert found["failures"] == [""] * len(found["asked"])
    version, *pages = found["asked"]
    assert version == 1 and all(pages), found["asked"]
