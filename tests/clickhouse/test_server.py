"""The embedded ClickHouse through its port: as clickhouse-connect uses it, and as nobody else may."""

import base64
import gzip
import http.client
import os
import signal
import socket
import struct
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import urlopen

import clickhouse_connect
import psutil
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from clickhouse_connect.driver.summary import QuerySummary

from deploy import native
from deploy.clickhouse import ClickHouse
from deploy.clickhouse_engine import _INSERT, QueryError
from schemas.errors import CalltideError
from tests.waiting import until

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


@pytest.fixture
def reader_url(clickhouse_url: str) -> str:
    """The port for a user that is not the one that writes."""
    return clickhouse_url.replace("//calltide@", "//grafana@")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO {}.utterances (call) VALUES ('x')",
        'INSERT INTO {}.utterances FORMAT JSONEachRow {{"call":"x"}}',
        "WITH 1 AS one INSERT INTO {}.utterances (start_ms) SELECT one",
        "DROP TABLE {}.utterances",
        "/* SELECT */ TRUNCATE TABLE {}.utterances",
        "KILL QUERY WHERE 1",
        "SET readonly = 0",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT 1 SETTINGS profile = 'default', readonly = 0",
    ],
)
def test_other_users_only_read(clickhouse_url: str, reader_url: str, database: str, statement: str) -> None:
    for url in (reader_url, reader_url.replace("grafana@", "")):
        answer, headers, body = ask(url, "POST", statement.format(database).encode())
        assert answer >= 400 and headers["x-clickhouse-exception-code"] == "164", body
    assert ask(reader_url, "POST", b"SELECT 1", readonly="0")[0] == 200, "a setting of the client lifts nothing"
    assert ask(reader_url, "POST", b"SELECT getSetting('readonly')", readonly="0")[2] == b"2\n"
    assert ask(reader_url, "POST", b"SELECT getSetting('readonly')", readonly="1")[2] == b"1\n"
    assert ask(clickhouse_url, query=f"SELECT count() FROM {database}.utterances")[2] == b"0\n"


def test_readers_have_limits_of_their_own(reader_url: str, clickhouse_url: str) -> None:
    limit = b"SELECT getSetting('max_execution_time')"
    assert ask(reader_url, "POST", limit)[2] == b"60\n"
    assert ask(reader_url, "POST", limit, max_execution_time="5")[2] == b"5\n"
    assert ask(clickhouse_url, "POST", limit)[2] == b"0\n"
    status, headers, _ = ask(reader_url, query="SELECT sleep(3)", max_execution_time="1")
    assert (status, headers["x-clickhouse-exception-code"]) == (408, "159")
    # A result in pieces may have any length, one that is made whole may not.
    large = "SELECT randomPrintableASCII(100) FROM numbers(4000000) FORMAT "
    status, headers, _ = ask(reader_url, query=large + "JSONCompact")
    assert (status, headers["x-clickhouse-exception-code"]) == (500, "396")


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_a_password_is_asked_of_everybody(tmp_path: Path) -> None:
    with ClickHouse(tmp_path, port=0, user="wri ter", password="pass:wörd/") as server:
        bare = f"http://127.0.0.1:{server.port}"
        create = b"CREATE DATABASE d"

        def code(method: str = "POST", headers: dict[str, str] | None = None, **parameters: str) -> str | None:
            return ask(bare, method, create, headers, **parameters)[1].get("x-clickhouse-exception-code")

        status, headers, _ = ask(bare, "POST", b"SELECT 1")
        assert (status, headers["x-clickhouse-exception-code"]) == (401, "194")
        assert headers["www-authenticate"].startswith("Basic ")
        assert ask(bare, "POST", b"SELECT 1", basic("wri ter", "pass"))[0] == 403
        for wrong in (
            basic("wri ter", ""),
            {"Authorization": "Bearer pass"},
            {"Authorization": "Basic !"},
            {"X-ClickHouse-User": "wri ter", "X-ClickHouse-Key": "pass"},
        ):
            assert code(headers=wrong) == "516", wrong
        assert code(user="wri ter", password="pass") == "516"
        assert code(headers=basic("grafana", "pass:wörd/")) == "164", "the password alone does not write"
        assert code("GET", headers=basic("wri ter", "pass:wörd/"), query="CREATE DATABASE d") == "164"
        assert ask(bare, "GET", b"", basic("grafana", "pass:wörd/"), query="SELECT 1")[2] == b"1\n"
        assert ask(bare, "GET", b"", None, query="SELECT 1", password="pass:wörd/")[2] == b"1\n"
        assert code(user="wri ter", password="pass:wörd/") is None
        password = unquote(urlsplit(server.url).password or "")
        assert connect(bare, username="wri ter", password=password).command("EXISTS DATABASE d") == 1
        assert http_get(f"{bare}/ping") == b"Ok.\n"
        command = psutil.Process(server.pid).cmdline()
        assert not any("wörd" in argument for argument in command), "every user of the machine may read it"


def http_get(url: str) -> bytes:
    with urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


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


@pytest.mark.parametrize(
    ("encoding", "decode"),
    [
        ("gzip", gzip.decompress),
        ("deflate", zlib.decompress),
        ("lz4", import_module("lz4.frame").decompress),
        ("zstd, gzip;q=0.5", import_module(native.ZSTD).decompress),
        ("identity", bytes),
        ("br", bytes),
    ],
)
def test_answers_are_compressed_as_the_client_takes_them(
    reader_url: str, encoding: str, decode: Callable[[bytes], bytes]
) -> None:
    for rows_asked in (1, 300_000):  # whole at once, and in pieces
        statement = f"SELECT number FROM numbers({rows_asked}) FORMAT TSV"
        status, headers, body = ask(reader_url, query=statement, headers={"Accept-Encoding": encoding})
        expected = encoding.partition(",")[0] if encoding not in ("identity", "br") else None
        assert (status, headers.get("content-encoding")) == (200, expected)
        assert decode(body) == b"".join(b"%d\n" % number for number in range(rows_asked))
        plain = ask(reader_url, query=statement, headers={"Accept-Encoding": encoding}, enable_http_compression="0")
        assert "content-encoding" not in plain[1]
    # Nothing is nothing, and an error is plain.
    assert ask(reader_url, query="SELECT 1 WHERE 0", headers={"Accept-Encoding": encoding})[2] == b""
    assert b"Code: 62." in ask(reader_url, query="SELECT (", headers={"Accept-Encoding": encoding})[2]


def test_clickhouse_s_own_compression(clickhouse_url: str, database: str) -> None:
    _, _, body = ask(clickhouse_url, query="SELECT number FROM numbers(500000) FORMAT RowBinary", compress="1")
    assert native.unframed(body) == struct.pack("<500000Q", *range(500_000))
    assert native.unframed(ask(clickhouse_url, query="SELECT (", compress="1")[2]).startswith(b"Code: 62.")
    rows_sent = b"".join(native.frames(b'{"call":"x"}\n' * 100_000))
    target = f"INSERT INTO {database}.utterances FORMAT JSONEachRow"
    assert ask(clickhouse_url, "POST", rows_sent, query=target, decompress="1")[0] == 200
    for damaged in (rows_sent[:-1], rows_sent[:40] + b"x" + rows_sent[41:], b"SELECT 1", rows_sent + b"\0"):
        status, headers, _ = ask(clickhouse_url, "POST", damaged, query=target, decompress="1")
        assert (status, headers["x-clickhouse-exception-code"]) == (400, "271")
    assert ask(clickhouse_url, query=f"SELECT count() FROM {database}.utterances")[2] == b"100000\n"


def test_a_long_result_takes_no_memory(tmp_path: Path) -> None:
    with ClickHouse(tmp_path, port=0) as server:
        process = psutil.Process(server.pid)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

        def read(numbers: int) -> int:
            connection.request("GET", f"/?query=SELECT+number+FROM+numbers({numbers})+FORMAT+Native")
            answer, size = connection.getresponse(), 0
            while piece := answer.read(1 << 20):
                size += len(piece)
            return size

        read(1_000_000)
        before = process.memory_info().rss
        assert read(30_000_000) > 240_000_000
        assert process.memory_info().rss - before < 80_000_000


BREAKS = "SELECT number, throwIf(number = 1500000) FROM numbers(2000000) SETTINGS max_threads = 1"


def test_a_result_that_breaks_off_is_no_result(reader_url: str) -> None:
    parts = urlsplit(reader_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.request("POST", "/", f"{BREAKS} FORMAT TSV".encode(), {"Accept-Encoding": "identity"})
    answer = connection.getresponse()
    assert answer.status == 200, "its first million came"
    with pytest.raises(http.client.IncompleteRead) as caught:
        answer.read()
    tag = answer.headers["X-ClickHouse-Exception-Tag"]
    _, message = caught.value.partial.split(f"\r\n__exception__\r\n{tag}\r\n".encode())
    text, _, end = message.rpartition(
        b"\n%d %b\r\n__exception__\r\n" % (message.rfind(b"\n", 0, -30) + 1, tag.encode())
    )
    assert text.startswith(b"Code: 395. DB::Exception: ") and end == b"", message
    for compress in (False, "lz4", "zstd", "gzip"):
        with connect(reader_url, compress=compress) as client, pytest.raises(ClickHouseError, match="throwIf"):
            client.query(BREAKS)
    # Who waits for the end is told by the status.
    status, headers, _ = ask(reader_url, "POST", BREAKS.encode(), wait_end_of_query="1")
    assert (status, headers["x-clickhouse-exception-code"]) == (500, "395")


ENDLESS = "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number, '{}'))"


def running(url: str, mark: str) -> int:
    return int(ask(url, query=f"SELECT count() FROM system.processes WHERE query LIKE '%, \\'{mark}\\')%'")[2])


@pytest.mark.parametrize(
    "statement", [ENDLESS, ENDLESS + " FORMAT JSON", "SELECT number, (1, '{}') FROM numbers(1000000000000)"]
)
def test_a_query_ends_with_its_client(reader_url: str, statement: str) -> None:
    mark = uuid.uuid4().hex
    connection = http.client.HTTPConnection(urlsplit(reader_url).hostname or "", urlsplit(reader_url).port, timeout=30)
    connection.request("POST", "/?max_execution_time=0", statement.format(mark).encode())
    until(lambda: running(reader_url, mark) == 1, "the query runs")
    connection.close()
    until(lambda: running(reader_url, mark) == 0, "it has ended")


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
        (b"INSERT INTO t (" + b"a_long_name, " * 1000 + b"b) SELECT 1", None, None),
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
