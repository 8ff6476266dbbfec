"""The embedded ClickHouse through its port: as clickhouse-connect uses it, and as nobody else may."""

import gzip
import http.client
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.summary import QuerySummary

from deploy.clickhouse import ClickHouse
from deploy.clickhouse_engine import _INSERT, QueryError
from schemas.errors import CalltideError

TABLE = """
CREATE TABLE utterances
(call String, start_ms UInt32, at DateTime64(3), score Nullable(Float64), tags Map(String, Float64))
ENGINE = MergeTree ORDER BY (call, start_ms) SETTINGS non_replicated_deduplication_window = 100
"""


def connect(url: str, database: str | None = None, **options: Any) -> Client:
    parts = urlsplit(url)
    options = {"username": parts.username, "password": parts.password or ""} | options
    return clickhouse_connect.get_client(host=parts.hostname, port=parts.port, database=database, **options)


def create(url: str, database: str) -> None:
    """A database with the table."""
    connect(url).command(f"CREATE DATABASE {database}")
    connect(url, database).command(TABLE)


@pytest.fixture
def database(clickhouse_url: str) -> str:
    """A database of the test's own."""
    name = f"d{uuid.uuid4().hex}"
    create(clickhouse_url, name)
    return name


@pytest.fixture
def client(clickhouse_url: str, database: str) -> Iterator[Client]:
    with connect(clickhouse_url, database, compress=False, autogenerate_session_id=False) as client:
        yield client


def ask(
    url: str, method: str = "GET", body: bytes = b"", headers: dict[str, str] | None = None, **parameters: str
) -> tuple[int, dict[str, str], bytes]:
    """One bare HTTP request as the user of `url` → status, headers in lower case, body."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    named = {"X-ClickHouse-User": parts.username} if parts.username else {}
    connection.request(method, f"/?{urlencode(parameters)}", body, named | (headers or {}))
    answer = connection.getresponse()
    result = answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    connection.close()
    return result


def rows(count: int, start: int = 0) -> list[list[object]]:
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    return [["it's\n\t\\ é", start + number, at, None if number % 2 else 0.5, {"joy": 0.25}] for number in range(count)]


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_what_is_inserted_is_read_back_equal(clickhouse_url: str, database: str, compress: bool | str) -> None:
    with connect(clickhouse_url, database, compress=compress, tz_mode="aware") as client:
        assert client.insert("utterances", rows(1000)).written_rows == 1000
        assert client.query("SELECT * FROM utterances ORDER BY start_ms").result_rows == [
            tuple(row) for row in rows(1000)
        ]


def test_an_insert_of_many_blocks_arrives_whole(clickhouse_url: str, database: str) -> None:
    """Each block is a compressed frame of its own."""
    with connect(clickhouse_url, database, compress="lz4") as client:
        text = [["x" * 10_000, number] for number in range(2000)]
        client.insert("utterances", text, column_names=["call", "start_ms"])
        assert client.command("SELECT count(), sum(length(call)) FROM utterances") == ["2000", "20000000"]


def test_rows_as_json_with_parameters_and_settings(client: Client) -> None:
    block = b'{"call":"c FORMAT x","start_ms":1,"at":"2026-01-02 03:04:05.678"}\n{"call":"d","start_ms":2}\n'
    client.raw_insert("utterances", insert_block=block, fmt="JSONEachRow", column_names=["call", "start_ms", "at"])
    found = client.query(
        "SELECT start_ms, toString(at, 'UTC') FROM utterances WHERE call = {call:String}", {"call": "c FORMAT x"}
    )
    assert found.result_rows == [(1, "2026-01-02 03:04:05.678")]
    assert client.query("SELECT {s:String}", {"s": "it's\n\t\\ 'é"}).result_rows == [("it's\n\t\\ 'é",)]
    assert client.query("SELECT getSetting('max_threads')", settings={"max_threads": 1}).result_rows == [(1,)]
    assert client.query("SELECT getSetting('max_threads')").result_rows != [(1,)], (
        "a setting must not outlive its query"
    )


def test_results_without_rows_and_statements_without_results(client: Client) -> None:
    assert client.query("SELECT call FROM utterances").result_rows == []
    assert client.query("SELECT call, start_ms FROM utterances LIMIT 0").column_names == ("call", "start_ms")
    assert client.command("SELECT call FROM utterances") == ""
    assert client.command("SELECT count() FROM utterances") == 0
    written = client.command("INSERT INTO utterances (call, start_ms) VALUES ('a FORMAT b', 1), ('x', 2)")
    assert isinstance(written, QuerySummary) and written.written_rows == 2
    assert client.command("SELECT count(), max(start_ms) FROM utterances") == ["2", "2"]
    assert client.raw_query("SELECT 1 AS x FORMAT JSONEachRow") == b'{"x":1}\n'


@pytest.mark.parametrize(
    ("statement", "status", "code"),
    [
        ("SELECT nothing", 404, 47),
        ("SELECT * FROM nowhere", 404, 60),
        ("SELEC 1", 400, 62),
        ("SELECT 1; SELECT 2", 400, 62),
        ('INSERT INTO utterances FORMAT JSONEachRow {"start_ms":"x"}', 400, 27),
        ("SELECT throwIf(1)", 500, 395),
    ],
)
def test_errors_have_clickhouse_s_code_and_status(
    clickhouse_url: str, database: str, statement: str, status: int, code: int
) -> None:
    answer, headers, body = ask(clickhouse_url, "POST", statement.encode(), database=database)
    assert (answer, headers["x-clickhouse-exception-code"]) == (status, str(code)), body
    assert body.decode().startswith(f"Code: {code}. DB::Exception: ")
    with pytest.raises(DatabaseError) as caught:
        connect(clickhouse_url, database).command(statement)
    assert caught.value.code == code


def test_headers_and_formats_of_a_bare_request(clickhouse_url: str) -> None:
    assert ask(clickhouse_url) == (200, ask(clickhouse_url)[1], b"Ok.\n")
    status, headers, body = ask(clickhouse_url, query="SELECT 1 AS x, 'a' AS y", query_id="mine")
    assert (status, body) == (200, b"1\ta\n")
    assert headers["x-clickhouse-format"] == "TabSeparated"
    assert headers["x-clickhouse-query-id"] == "mine"
    assert headers["x-clickhouse-timezone"] == "UTC"
    assert headers["content-type"].startswith("text/tab-separated-values")
    assert ask(clickhouse_url, query="SELECT 1 AS x", default_format="JSONEachRow")[2] == b'{"x":1}\n'
    assert ask(clickhouse_url, query="SELECT 1 AS x", headers={"X-ClickHouse-Format": "CSV"})[2] == b"1\n"
    # The statement in the URL, its end in the body.
    assert ask(clickhouse_url, "POST", b"+ 1", query="SELECT 1")[2] == b"2\n"
    assert ask(clickhouse_url, "POST", gzip.compress(b"SELECT 3"), {"Content-Encoding": "gzip"})[2] == b"3\n"
    assert ask(clickhouse_url, "POST", b"not gzip", {"Content-Encoding": "gzip"})[0] == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "rebound.example.org"},
        {"Host": "rebound.example.org:8123"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_web_page_is_refused(clickhouse_url: str, headers: dict[str, str], method: str) -> None:
    assert ask(clickhouse_url, method, b"SELECT 1", headers)[0] == 403


def test_get_cannot_write(clickhouse_url: str, database: str) -> None:
    for statement in (
        f"INSERT INTO {database}.utterances (call) VALUES ('x')",
        f'INSERT INTO {database}.utterances FORMAT JSONEachRow {{"call":"x"}}',
        f"DROP TABLE {database}.utterances",
    ):
        assert ask(clickhouse_url, query=statement)[1]["x-clickhouse-exception-code"] == "164"
    assert ask(clickhouse_url, query=f"SELECT count() FROM {database}.utterances")[2] == b"0\n"


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("SELECT * FROM file('/etc/hostname', 'LineAsString')", 497),
        ("SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'x Int8')", 497),
        ("INSERT INTO FUNCTION file('{path}', 'CSV', 'x Int8') VALUES (1)", 497),
        ("INSERT INTO FUNCTION file('{path}', 'CSV', 'x Int8') FORMAT CSV 1", 497),
        ("SELECT 1 INTO OUTFILE '{path}'", 48),
        ("SELECT 1 INTO /* well */ outfile '{path}'", 48),
        ("INSERT INTO d FROM INFILE '/etc/hostname' FORMAT CSV", 48),
    ],
)
def test_nothing_outside_the_database_is_in_reach(
    clickhouse_url: str, tmp_path: Path, statement: str, code: int
) -> None:
    target = tmp_path / "written"
    _, headers, body = ask(clickhouse_url, "POST", statement.format(path=target).encode())
    assert headers.get("x-clickhouse-exception-code") == str(code), body
    assert not target.exists()


def test_a_repeated_token_inserts_once_also_after_a_restart(tmp_path: Path) -> None:
    server = ClickHouse(tmp_path, port=0)
    with server:
        create(server.url, "kept")
        with connect(server.url, "kept") as client:
            for token in ("scores-0-10", "scores-0-10", "scores-0-20"):
                client.insert("utterances", rows(2), settings={"insert_deduplication_token": token})
            assert client.command("SELECT count() FROM utterances") == 4
    assert server.poll() == 0
    with server, connect(server.url, "kept") as client:
        client.insert("utterances", rows(2), settings={"insert_deduplication_token": "scores-0-20"})
        assert client.command("SELECT count() FROM utterances") == 4
        client.insert("utterances", rows(2), settings={"insert_deduplication_token": "scores-0-30"})
        assert client.command("SELECT count() FROM utterances") == 6


def test_no_acknowledged_row_is_lost_by_a_kill(tmp_path: Path) -> None:
    server = ClickHouse(tmp_path, port=0)
    server.start()
    create(server.url, "kept")
    acknowledged = 0
    for _ in range(2):
        client = connect(server.url, "kept", compress=False)
        killer = threading.Timer(0.5, os.kill, (server.pid, signal.SIGKILL))
        killer.start()
        while True:
            try:
                client.insert("utterances", rows(1, start=acknowledged))
                acknowledged += 1
            except (DatabaseError, OSError):
                break
        killer.join()
        server.stop()
        server.start()
    found = connect(server.url, "kept").query("SELECT start_ms FROM utterances ORDER BY start_ms").result_columns[0]
    server.stop()
    assert acknowledged > 0
    # One more may be there: written, and killed before it was acknowledged.
    assert set(range(acknowledged)) <= set(found) <= set(range(acknowledged + 1))


def test_readers_and_a_writer_beside_each_other(client: Client, clickhouse_url: str, database: str) -> None:
    done = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            with connect(clickhouse_url, database) as own:
                last = 0
                while not done.is_set():
                    count = own.command("SELECT count() FROM utterances")
                    assert isinstance(count, int) and count >= last and count % 10 == 0, "an insert is seen whole"
                    last = count
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for batch in range(50):
        client.insert("utterances", rows(10, start=batch * 10))
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert client.command("SELECT count() FROM utterances") == 500


def test_a_second_process_on_one_directory_is_told_who_holds_it(tmp_path: Path) -> None:
    with ClickHouse(tmp_path, port=0) as first:
        second = ClickHouse(tmp_path, port=0)
        with pytest.raises(CalltideError, match=rf"held by process {first.pid}; .*CALLTIDE_HOME"):
            second.start()
        assert connect(first.url).command("SELECT 1") == 1


def test_a_taken_port_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CalltideError, match=rf"port {port} is taken .*CALLTIDE_CLICKHOUSE__PORT"):
            ClickHouse(tmp_path, port=port).start()


def test_a_home_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "clickhouse").touch()
    with pytest.raises(CalltideError, match=r"cannot write ClickHouse's files: .*CALLTIDE_HOME"):
        ClickHouse(tmp_path, port=0).start()


@pytest.mark.parametrize(
    ("statement", "into", "data"),
    [
        (b"INSERT INTO t FORMAT JSONEachRow\n{}", b"INSERT INTO t", b"{}"),
        (b"insert into `a b`.`c``d` (`x`, y.z) format CSV 1", b"insert into `a b`.`c``d` (`x`, y.z)", b"1"),
        (
            b"INSERT INTO t SETTINGS a='FORMAT CSV', b=1 FORMAT CSV\r\n\n1",
            b"INSERT INTO t SETTINGS a='FORMAT CSV', b=1",
            b"\n1",
        ),
        (b"INSERT INTO format FORMAT CSV\n", b"INSERT INTO format", b""),
        (b"INSERT INTO t VALUES ('x FORMAT CSV\n')", None, None),
        (b"INSERT INTO t SELECT 1 FORMAT CSV\n", None, None),
        (b"INSERT INTO t (a) VALUES (1)", None, None),
    ],
)
def test_the_head_of_an_insert_ends_where_its_data_begins(
    statement: bytes, into: bytes | None, data: bytes | None
) -> None:
    match = _INSERT.match(statement)
    assert (match and match["into"], match and statement[match.end() :]) == (into, data)


def test_an_error_without_a_code_is_kept_as_it_is() -> None:
    error = QueryError("something broke")
    assert (error.text, error.code, error.status) == ("something broke", 1002, 500)
