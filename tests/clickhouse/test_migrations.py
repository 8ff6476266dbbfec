"""Numbered migrations on the real engine: applied once, continued after an interruption, never edited."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from deploy.migrations import KEPT_BY, apply_migrations, keep_for
from deploy.replicated import replicated
from deploy.sql import bare, statements
from schemas.errors import CalltideError

FIRST = """-- a comment; with a semicolon
CREATE TABLE IF NOT EXISTS a (x Int8 COMMENT 'one; two') ENGINE = MergeTree ORDER BY x;
"""
SECOND = "ALTER TABLE a ADD COLUMN IF NOT EXISTS y Int8;\nCREATE TABLE IF NOT EXISTS b (z Int8) ENGINE = Memory"


OWN = Path(__file__).parent.parent.parent / "deploy" / "clickhouse"
OLD = Path(__file__).parent.parent / "data" / "clickhouse-0001"
"""Six calls as the sink of version 1 wrote them: one goes on, one crosses into the next month, two utterances were
delivered twice."""


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
    names = sorted(path.name for path in OWN.glob("*.sql"))
    for name in names:
        (tmp_path / name).write_bytes((OWN / name).read_bytes())
        assert apply_migrations(client, tmp_path) == [name]
        # As if it had been interrupted at its last step.
        client.command("DELETE FROM schema_migrations WHERE name = {name:String}", {"name": name})
        assert apply_migrations(client, tmp_path) == [name]
    assert apply_migrations(client, OWN) == []


@pytest.mark.parametrize(
    ("sql", "parts"),
    [
        ("", []),
        (" ; -- nothing\n;", []),
        ("SELECT ';' ; SELECT 2;", ["SELECT ';'", "SELECT 2"]),
        ("SELECT 'it''s; \\'; ' /* ; */ , `a;b`, \"c;d\"", ["SELECT 'it''s; \\'; '   , `a;b`, \"c;d\""]),
        ("SELECT 4 / 2 - 1 --;\n; SELECT 1", ["SELECT 4 / 2 - 1", "SELECT 1"]),
        ("SELECT 'open ; SELECT 2", ["SELECT 'open ; SELECT 2"]),
    ],
)
def test_statements_are_split_outside_literals_and_comments(sql: str, parts: list[str]) -> None:
    assert statements(sql) == parts


def test_bare_sql_keeps_no_literal_and_no_comment() -> None:
    assert bare("SELECT 'INTO OUTFILE', `x` INTO/**/OUTFILE 'f' -- y").split() == ["SELECT", ",", "INTO", "OUTFILE"]


class Interrupted(Exception):
    """As if the process had been killed."""


def interrupt_each(client: Client) -> Callable[[], bool]:
    """Let every statement of the migrations be the last of a run once; returns whether there is one left."""
    command, seen = client.command, set[str]()

    def once(statement: str, *more: Any, **others: Any) -> Any:
        answer = command(statement, *more, **others)
        if statement not in seen:
            seen.add(statement)
            raise Interrupted
        return answer

    def run() -> bool:
        client.command = once  # type: ignore[assignment,method-assign]
        try:
            apply_migrations(client, OWN)
        except Interrupted:
            return True
        finally:
            client.command = command  # type: ignore[method-assign]
        return False

    return run


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_database_of_version_1_keeps_every_row_and_is_counted(
    client: Client, tmp_path: Path, interrupted: bool
) -> None:
    first = OWN / "0001_calls_and_utterances.sql"
    (tmp_path / first.name).write_bytes(first.read_bytes())
    apply_migrations(client, tmp_path)
    before = {}
    for table in ("calls", "utterances"):
        lines = (OLD / f"{table}.jsonl").read_bytes()
        client.raw_insert(table, insert_block=lines, fmt="JSONEachRow", settings={"input_format_import_nested_json": 0})
        names = ", ".join(f"`{name}`" for name, *_ in client.query(f"DESCRIBE {table}").result_rows)
        before[table] = f"SELECT {names} FROM {table} FINAL ORDER BY ALL"
    rows = {table: client.raw_query(sql, fmt="JSONEachRow") for table, sql in before.items()}
    assert [len(found.splitlines()) for found in rows.values()] == [6, 42]

    run, runs = interrupt_each(client), 0
    while interrupted and run():
        runs += 1
    assert runs >= 20 or not interrupted
    apply_migrations(client, OWN)

    assert {table: client.raw_query(sql, fmt="JSONEachRow") for table, sql in before.items()} == rows
    calls = "(SELECT * FROM calls FINAL) AS calls"
    begun = f"SELECT count() FROM utterances JOIN {calls} USING (tenant, call_id) WHERE started_at = call_started_at"
    assert client.query(begun).result_rows == [(42,)]
    sums = "SELECT sum(utterances), sum(words), round(sum(score_sum), 9), sum(score_n), sum(negative), sum(latency_n)"
    counts = """SELECT count(), sum(length(words.text)), round(sum(score), 9), count(score),
        countIf(sentiment = 'negative'), count(latency_ms) FROM utterances"""
    expected = client.query(counts).result_rows
    assert client.query(f"{sums} FROM utterance_minutes").result_rows == expected
    assert client.query(f"{sums} FROM utterance_hours").result_rows == expected
    parties = client.query("SELECT call_id, role, utterances, quarters[1] IS NULL FROM call_metrics FINAL ORDER BY ALL")
    assert len(parties.result_rows) == 9, (
        "two parties of four calls, one of the call on one channel, none while it goes on"
    )
    assert sum(row[2] for row in parties.result_rows) == 35
    of_calls = "SELECT sum(negative_calls + neutral_calls + positive_calls) FROM call_terms WHERE term = ''"
    assert client.query(of_calls).result_rows == [(9,)], "each call for each role that speaks in it"
    assert client.query("SELECT DISTINCT channels FROM calls ORDER BY channels").result_rows == [(1,), (2,)]
    assert not client.command("EXISTS TABLE utterances_heard_0003")


def test_rows_are_kept_as_long_as_is_said(client: Client) -> None:
    apply_migrations(client, OWN)
    assert keep_for(client, 0) == []
    assert set(keep_for(client, 400)) == set(KEPT_BY)
    assert keep_for(client, 400) == []
    old = "INSERT INTO calls (tenant, call_id, pipeline_version, started_at) VALUES ('t', 'c', 'v', '2020-01-01'), "
    client.command(f"{old} ('t', 'd', 'v', now())")
    client.command("OPTIMIZE TABLE calls FINAL")
    assert client.query("SELECT call_id FROM calls").result_rows == [("d",)]
    client.command("ALTER TABLE alerts MODIFY TTL toDateTime(at) + INTERVAL 1 YEAR DELETE WHERE severity = 'info'")
    assert set(keep_for(client, 30)) == set(KEPT_BY) - {"alerts"}, "what somebody wrote otherwise is theirs"
    assert set(keep_for(client, 0)) == set(KEPT_BY) - {"alerts"}
    assert keep_for(client, 0) == []


def test_the_schema_for_a_cluster_is_that_of_the_migrations(client: Client) -> None:
    apply_migrations(client, OWN)
    made, committed = replicated(client), Path(__file__).parent.parent.parent / "docs" / "clickhouse-replicated.sql"
    assert committed.read_text(encoding="utf-8").partition("\n\n")[2] == made, f"write this to {committed}:\n{made}"
    for statement in statements(made):
        client.query("SELECT formatQuery(%(sql)s)", {"sql": statement})
