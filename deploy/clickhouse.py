"""The embedded ClickHouse: chDB in one process that owns its directory and answers ClickHouse's HTTP protocol.

Clients (clickhouse-connect, Grafana, curl) connect as to a server. A changer must know:

- One process may open a chDB directory. Inside it, every request gets a chDB connection of its own (0.1 ms), so
  settings and the current database of one never reach another, and requests run beside each other in threads.
- There is no password. What keeps others out: the address (127.0.0.1), the refusal of whatever a web page sends
  (Origin, Sec-Fetch-Site, a foreign Host: a page's request to 127.0.0.1 is otherwise a request like any other), GET
  being read-only, and grants without files, URLs or other servers (clickhouse/embedded.xml).
- chDB writes the format Native as of revision 0. `client_protocol_version` is ignored: clickhouse-connect notices.

- Tables belong into a database of their own: `default` is chDB's overlay over the files of the machine, and closed.

Not here: sessions (`session_id` is accepted and ignored), ClickHouse's own block compression (`compress=1`), forms.
`python -m deploy.clickhouse --path DIR --port 8123` runs it in the foreground.
"""

import argparse
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread
import uvicorn
from filelock import FileLock, Timeout
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from deploy import sql
from deploy.process import free_port, holder_of_port, last_lines, spawn, stop
from schemas.errors import CalltideError

HOST = "127.0.0.1"
CONFIG = Path(__file__).with_name("clickhouse") / "embedded.xml"

START_SECONDS = 60.0
"""Judgement: it takes about a second on an idle machine, and several beside other work or with many parts to load."""

CONCURRENT_QUERIES = 8
"""Judgement: the panels of one dashboard and the sink; more wait."""

_TRANSPORT = frozenset(
    {
        "buffer_size", "client_protocol_version", "compress", "database", "decompress", "default_format", "password",
        "query", "query_id", "quota_key", "role", "session_check", "session_id", "session_timeout", "stacktrace",
        "user", "wait_end_of_query",
    }
)  # fmt: skip
"""URL parameters of the protocol itself; every other one is a setting, or `param_x` for the query's {x:Type}."""

_NAME = r"""(?:`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.)*"|\w+)"""
_INSERT = re.compile(
    rf"""\s*(?P<into>INSERT\s+INTO\s+(?:TABLE\s+)?{_NAME}(?:\s*\.\s*{_NAME})?
        (?:\s*\((?:{_NAME}|[\s,.*])*\))?
        (?:\s+SETTINGS\s+(?:'(?:[^'\\]|\\.)*'|[\w\s=,.-])*?)?)
        \s+FORMAT\s+(?P<format>\w+)[ \t\f]*(?:\r?\n)?""".encode(),
    re.IGNORECASE | re.VERBOSE,
)
"""The head of an INSERT whose data follows it."""

_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_OUTSIDE = re.compile(r"\b(INTO\s+OUTFILE|FROM\s+INFILE)\b", re.IGNORECASE)
_ERROR = re.compile(r"Code: (?P<code>\d+)\..*?\((?P<name>[A-Z][A-Z0-9_]+)\)(?: \(version [^)]*\))?\s*$", re.DOTALL)

_BAD_REQUEST = frozenset({"BAD_ARGUMENTS", "INCORRECT_DATA", "SYNTAX_ERROR", "TYPE_MISMATCH"})

_DECOMPRESSORS = {
    "gzip": "gzip",
    "lz4": "lz4.frame",
    "zstd": "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
}
"""What clickhouse-connect sends, and the modules it brings for that: not lz4 on Python 3.14."""

_CONTENT_TYPES = {
    "CSV": "text/csv; charset=UTF-8",
    "CSVWithNames": "text/csv; charset=UTF-8",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
}


class QueryError(Exception):
    """ClickHouse's own error: text with code and name, as its HTTP port would give it."""

    def __init__(self, text: str) -> None:
        start = text.find("Code: ")
        self.text = text[max(start, 0) :].strip()
        match = _ERROR.match(self.text)
        self.code, self.name = (int(match["code"]), match["name"]) if match else (1002, "UNKNOWN_EXCEPTION")
        super().__init__(self.text)

    @property
    def status(self) -> int:
        """The HTTP status that ClickHouse gives to this error."""
        if self.name in _BAD_REQUEST or self.name.startswith("CANNOT_PARSE_"):
            return 400
        if self.name.startswith("UNKNOWN_") and self.code != 1002:
            return 404
        return {"ACCESS_DENIED": 403, "NOT_IMPLEMENTED": 501, "TIMEOUT_EXCEEDED": 408}.get(self.name, 500)


@dataclass(frozen=True, slots=True)
class Result:
    """What one statement gave. `format` is None when the statement has no result set."""

    body: bytes
    format: str | None
    summary: dict[str, str]


class Engine:
    """The one chDB of this process. Raises CalltideError when another process holds `path` or it cannot be written."""

    def __init__(self, path: Path) -> None:
        # Times without a zone mean UTC everywhere in Calltide; ClickHouse takes the zone of the process.
        os.environ["TZ"] = "UTC"
        time.tzset()
        os.environ["CLICKHOUSE_USERS"] = str(CONFIG)  # read by the file itself: it must name itself as an absolute path
        import chdb  # 200 MB of library: only the process that owns the directory loads it

        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / "calltide.lock")
            self._lock.acquire(timeout=0)
            pid_file = path / "calltide.pid"
            pid_file.write_text(f"{os.getpid()}\n")
        except Timeout:
            holder = (path / "calltide.pid").read_text().strip()
            raise CalltideError(
                f"ClickHouse's directory {path} is held by process {holder}; stop it, or set CALLTIDE_HOME to another "
                "directory"
            ) from None
        except OSError as error:
            raise CalltideError(
                f"cannot write ClickHouse's files: {error.filename or path}: {error.strerror}; make room or set "
                "CALLTIDE_HOME to another directory"
            ) from error
        self._connect = lambda: chdb.connect(f"{path.absolute()}?config-file={CONFIG}")
        try:
            # Stays open: the engine ends with its last connection.
            self._root = self._connect()
        except RuntimeError as error:
            raise CalltideError(f"cannot open ClickHouse's directory {path}: {QueryError(str(error)).text}") from error
        self.version, self.timezone, self.display_name = (
            self._root.query("SELECT version(), timezone(), displayName()", "TabSeparated").bytes().decode().split()
        )

    def close(self) -> None:
        """Write what is buffered and let go of the directory."""
        self._root.close()
        self._lock.release()

    def run(
        self,
        statement: bytes,
        *,
        default_format: str | None = None,
        database: str | None = None,
        settings: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
        read_only: bool = False,
    ) -> Result:
        """One statement with the data of an INSERT behind it, under settings of its own. Raises QueryError."""
        set_statements = [f"USE {_identifier(database)}"] if database else []
        if settings:
            set_statements.append("SET " + ", ".join(f"{_setting(key)} = {_text(settings[key])}" for key in settings))
        if read_only:
            set_statements.append("SET readonly = 2")  # ClickHouse's own level for GET: settings may change, data not
        connection = self._connect()
        try:
            for set_statement in set_statements:
                connection.query(set_statement)
            if (insert := _INSERT.match(statement)) and not read_only:
                return _insert(
                    connection, insert["into"].decode(), insert["format"].decode(), statement[insert.end() :]
                )
            return _query(connection, _text_statement(statement), default_format, dict(parameters or {}))
        except RuntimeError as error:
            raise QueryError(str(error)) from error
        finally:
            connection.close()


def _insert(connection, into: str, form: str, data: bytes) -> Result:
    inserter = connection.send_insert(into, form)
    inserter.append(data)
    written = inserter.finish()
    summary = {"written_rows": str(written.rows_written), "written_bytes": str(written.bytes_written)}
    return Result(b"", None, summary | {"elapsed_ns": str(int(written.elapsed * 1e9))})


def _query(connection, statement: str, default_format: str | None, parameters: dict[str, str]) -> Result:
    explicit = _FORMAT.search(statement)
    form = explicit[1] if explicit else default_format
    # A statement with a result set gives at least the line of names, one without gives nothing: so they are told apart.
    answer = connection.query(statement, form or "TabSeparatedWithNames", params=parameters)
    body = answer.bytes() or b""
    if form is None and body:
        form, body = "TabSeparated", body[body.index(b"\n") + 1 :]
    summary = {
        "read_rows": str(answer.storage_rows_read()),
        "read_bytes": str(answer.storage_bytes_read()),
        "written_rows": str(answer.rows_written()),
        "written_bytes": str(answer.bytes_written()),
        "result_rows": str(answer.rows_read()),
        "elapsed_ns": str(int(answer.elapsed() * 1e9)),
    }
    return Result(body, form, summary)


def _text_statement(statement: bytes) -> str:
    """One statement that stays inside the database; raises QueryError for anything else, as a server would."""
    try:
        text = statement.decode()
    except UnicodeDecodeError:
        raise QueryError("Code: 62. DB::Exception: The statement is not UTF-8. (SYNTAX_ERROR)") from None
    if _OUTSIDE.search(sql.bare(text)):
        raise QueryError("Code: 48. DB::Exception: Files of the server are out of reach. (NOT_IMPLEMENTED)")
    if len(sql.statements(text)) > 1:
        raise QueryError("Code: 62. DB::Exception: Multi-statements are not allowed. (SYNTAX_ERROR)")
    return text


def _setting(name: str) -> str:
    if not name.isidentifier():
        raise QueryError(f"Code: 115. DB::Exception: {name!r} is no setting. (UNKNOWN_SETTING)")
    return name


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _decompressed(body: bytes, encoding: str | None) -> bytes:
    """A request's body as sent with Content-Encoding. Raises whatever the decompressor raises, and ValueError."""
    if encoding in (None, "", "identity"):
        return body
    if encoding not in _DECOMPRESSORS:
        raise ValueError(f"Content-Encoding {encoding} is not known here; use one of {', '.join(_DECOMPRESSORS)}")
    module = import_module(_DECOMPRESSORS[encoding])
    # A body is a frame for each block of rows. `decompress` of lz4 reads the first alone, its file object reads all.
    return module.open(io.BytesIO(body)).read() if encoding == "lz4" else module.decompress(body)


def _refusal(headers: Headers) -> str | None:
    """Why this request is none of a program on this machine."""
    host = headers.get("host", "").partition(":")[0]
    if host not in (HOST, "localhost"):
        return f"Host {host!r}: this port answers as {HOST} and localhost only"
    if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
        return "this port does not answer web pages"
    return None


def application(engine: Engine) -> Starlette:
    """ClickHouse's HTTP protocol in front of `engine`."""
    limiter = anyio.CapacityLimiter(CONCURRENT_QUERIES)
    common = {"X-ClickHouse-Server-Display-Name": engine.display_name, "X-ClickHouse-Timezone": engine.timezone}

    async def ping(request: Request) -> Response:
        return Response("Ok.\n", media_type="text/html; charset=UTF-8")

    async def query(request: Request) -> Response:
        if refusal := _refusal(request.headers):
            return Response(f"{refusal}\n", 403)
        parameters = dict(request.query_params)
        headers = common | {"X-ClickHouse-Query-Id": parameters.get("query_id") or str(uuid.uuid4())}
        if parameters.get("compress") == "1" or parameters.get("decompress") == "1":
            return Response("compress=1 is not known here; use Content-Encoding\n", 501, headers)
        try:
            body = _decompressed(await request.body(), request.headers.get("content-encoding"))
        except ClientDisconnect:
            raise
        except Exception as error:  # each decompressor has errors of its own
            return Response(f"The body cannot be decompressed: {error}\n", 400, headers)
        in_url = parameters.get("query", "").encode()
        statement = b"\n".join(part for part in (in_url, body) if part)
        if not statement.strip():
            return await ping(request)
        form = parameters.get("default_format") or request.headers.get("x-clickhouse-format")
        try:
            result = await anyio.to_thread.run_sync(
                lambda: engine.run(
                    statement,
                    default_format=form,
                    database=parameters.get("database") or request.headers.get("x-clickhouse-database"),
                    settings={
                        key: value
                        for key, value in parameters.items()
                        if key not in _TRANSPORT and not key.startswith("param_")
                    },
                    parameters={key[6:]: value for key, value in parameters.items() if key.startswith("param_")},
                    read_only=request.method in ("GET", "HEAD"),
                ),
                limiter=limiter,
            )
        except QueryError as error:
            headers |= {"X-ClickHouse-Exception-Code": str(error.code)}
            version = "" if "(version " in error.text else f" (version {engine.version})"
            return Response(f"{error.text}{version}\n", error.status, headers)
        headers |= {"X-ClickHouse-Summary": json.dumps(result.summary)}
        if result.format:
            headers |= {"X-ClickHouse-Format": result.format}
        return Response(
            result.body, 200, headers, media_type=_CONTENT_TYPES.get(result.format or "", "text/plain; charset=UTF-8")
        )

    return Starlette(
        routes=[
            Route("/", query, methods=["GET", "POST"]),
            Route("/ping", ping, methods=["GET"]),
            Route("/replicas_status", ping, methods=["GET"]),
        ]
    )


def serve(path: Path, port: int, stop: threading.Event, ready: Callable[[], None]) -> None:
    """Own `path` and answer on `port` until `stop` is set; calls `ready` once it answers. Ends running queries first.

    Raises CalltideError: port taken, directory held by another process or not writable.
    """
    try:
        listener = socket.create_server((HOST, port))
    except OSError:
        raise CalltideError(
            f"port {port} is taken{holder_of_port(port)}; stop that program or set CALLTIDE_CLICKHOUSE__PORT"
        ) from None
    engine = Engine(path)
    try:
        server = uvicorn.Server(
            uvicorn.Config(
                application(engine), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=10
            )
        )
        # In a thread of its own, so that signals stay with the caller.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="clickhouse http")
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        ready()
        while thread.is_alive() and not stop.wait(0.5):
            pass
        server.should_exit = True
        thread.join()
    finally:
        engine.close()


class ClickHouse:
    """The embedded ClickHouse as a child of this process, that ends with it at the latest.

    `home`: directory for all it keeps. `port`: on 127.0.0.1, 0 picks a free one. Use as a context manager, or `start`
    and `stop`.
    """

    def __init__(self, home: Path, port: int = 8123) -> None:
        self.directory = home / "clickhouse"
        self.port = port or free_port()
        self.log = home / "logs" / "clickhouse.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`"""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Of the process; None before `start`."""
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """The exit status once it has ended, None while it runs or before `start`."""
        return self._process.poll() if self._process else None

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start, and return when it answers. Raises CalltideError with what it said when it does not."""
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            arguments = ["--path", str(self.directory), "--port", str(self.port)]
            command = [sys.executable, "-m", "deploy.clickhouse", *arguments]
            self._process = spawn(command, output=self.log, cwd=Path(__file__).parent.parent)
        except OSError as error:
            raise CalltideError(
                f"cannot write ClickHouse's files: {error.filename}: {error.strerror}; "
                "make room or set CALLTIDE_HOME to another directory"
            ) from error
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self.poll() is not None:
                raise CalltideError(self.failure())
            if time.monotonic() > deadline:
                self.stop()
                raise CalltideError(f"ClickHouse does not answer after {timeout:.0f} s: {self.failure()}")
            time.sleep(0.02)

    def stop(self, grace: float = 20.0) -> None:
        """End it cleanly: SIGTERM, then after `grace` seconds SIGKILL. Nothing happens if it does not run."""
        if self._process:
            stop(self._process, grace)

    def failure(self) -> str:
        """One line on why it ended: the last it printed."""
        return (last_lines(self.log, 1) or [f"ClickHouse ended and left no word (log: {self.log})"])[0].removeprefix(
            "calltide: "
        )

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=1)
        try:
            connection.request("GET", "/ping")
            # Its own answer: another program may hold the port, and then this one ends by itself.
            return connection.getresponse().read() == b"Ok.\n" and self.poll() is None
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m deploy.clickhouse")
    parser.add_argument("--path", type=Path, required=True, help="directory of the database")
    parser.add_argument("--port", type=int, required=True, help="port on loopback")
    arguments = parser.parse_args()
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    serve(arguments.path, arguments.port, done, lambda: print(f"ClickHouse on {HOST}:{arguments.port}", flush=True))


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
