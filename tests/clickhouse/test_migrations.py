"""Numbered migrations on the real engine: applied once, continued after an interruption, never edited."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from deploy.migrations import apply_migrations
from deploy.sql import bare, statements
from schemas.errors import CalltideError

FIRST = """-- a comment; with a semicolon
CREATE TABLE IF NOT EXISTS a (x Int8 COMMENT 'one; two') ENGINE = MergeTree ORDER BY x;
"""
SECOND = "ALTER TABLE a ADD COLUMN IF NOT EXISTS y Int8;\nCREATE TABLE IF NOT EXISTS b (z Int8) ENGINE = Memory"


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    parts = urlsplit(clickhouse_url)
    name = f"m{uuid.uuid4().hex}"
    with clickhouse_connect.get_client(host=parts.hostname, port=parts.port, username=parts.username) as admin:
        admin.command(f"CREATE DATABASE {name}")
    with clickhouse_connect.get_client(
        host=parts.hostname, port=parts.port, username=parts.username, database=name
    ) as client:
        yield client


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "0001_a.sql").write_text(FIRST)
    (tmp_path / "0002_b.sql").write_text(SECOND)
    return tmp_path


def columns(client: Client) -> list[tuple[str, str]]:
    found = client.query(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase() AND table IN ('a', 'b')"
    )
    return sorted(found.result_rows)  # type: ignore[arg-type]


def test_each_file_is_applied_once_in_order(client: Client, directory: Path) -> None:
    assert apply_migrations(client, directory) == ["0001_a.sql", "0002_b.sql"]
    assert columns(client) == [("a", "x"), ("a", "y"), ("b", "z")]
    assert apply_migrations(client, directory) == []
    (directory / "0003_c.sql").write_text("DROP TABLE IF EXISTS b")
    assert apply_migrations(client, directory) == ["0003_c.sql"]


def test_an_interrupted_file_is_completed_by_the_next_run(client: Client, directory: Path) -> None:
    (directory / "0002_b.sql").write_text(SECOND.replace("ENGINE = Memory", "ENGINE = Nothing"))
    with pytest.raises(CalltideError, match=r"0002_b\.sql, statement 2: .*Nothing"):
        apply_migrations(client, directory)
    assert columns(client) == [("a", "x"), ("a", "y")]
    (directory / "0002_b.sql").write_text(SECOND)
    assert apply_migrations(client, directory) == ["0002_b.sql"]
    assert columns(client) == [("a", "x"), ("a", "y"), ("b", "z")]


def test_a_file_that_was_applied_may_not_be_edited(client: Client, directory: Path) -> None:
    apply_migrations(client, directory)
    (directory / "0001_a.sql").write_text(FIRST + "\n")
    with pytest.raises(CalltideError, match=r"0001_a\.sql was edited after it was applied"):
        apply_migrations(client, directory)


def test_a_newer_database_is_left_alone(client: Client, directory: Path) -> None:
    apply_migrations(client, directory)
    (directory / "0002_b.sql").unlink()
    with pytest.raises(CalltideError, match=r"has had 0002_b\.sql, which this version does not know"):
        apply_migrations(client, directory)


@pytest.mark.parametrize(("name", "why"), [("0001_other.sql", "same number"), ("3_c.sql", "is no migration")])
def test_names_must_say_the_order(client: Client, directory: Path, name: str, why: str) -> None:
    (directory / name).write_text("SELECT 1")
    with pytest.raises(CalltideError, match=why):
        apply_migrations(client, directory)


def test_the_project_s_own_migrations_apply_and_are_idempotent(client: Client, tmp_path: Path) -> None:
    own = Path(__file__).parent.parent.parent / "deploy" / "clickhouse"
    names = sorted(path.name for path in own.glob("*.sql"))
    for name in names:
        (tmp_path / name).write_bytes((own / name).read_bytes())
        assert apply_migrations(client, tmp_path) == [name]
        # As if it had been interrupted at its last step.
        client.command("DELETE FROM schema_migrations WHERE name = {name:String}", {"name": name})
        assert apply_migrations(client, tmp_path) == [name]
    assert apply_migrations(client, own) == []


@pytest.mark.parametrize(
    ("sql", "parts"),
    [
        ("", []),
        (" ; -- nothing\n;", []),
        ("SELECT ';' ; SELECT 2;", ["SELECT ';'", "SELECT 2"]),
        ("SELECT 'it''s; \\'; ' /* ; */ , `a;b`, \"c;d\"", ["SELECT 'it''s; \\'; '   , `a;b`, \"c;d\""]),
        ("SELECT 4 / 2 - 1 --;\n; SELECT 1", ["SELECT 4 / 2 - 1", "SELECT 1"]),
        ("SELECT 'open ; SELECT 2", ["SELECT 'open", "SELECT 2"]),
    ],
)
def test_statements_are_split_outside_literals_and_comments(sql: str, parts: list[str]) -> None:
    assert statements(sql) == parts


def test_bare_sql_keeps_no_literal_and_no_comment() -> None:
    assert bare("SELECT 'INTO OUTFILE', `x` INTO/**/OUTFILE 'f' -- y").split() == ["SELECT", ",", "INTO", "OUTFILE"]
