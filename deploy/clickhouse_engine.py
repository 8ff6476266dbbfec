"""chDB as the one engine of its process: statements in, pieces of their results out.

A changer must know:

- One process may open a chDB directory. Inside it, every statement gets a chDB connection of its own (0.1 ms), so
  settings and the current database of one never reach another, and statements run beside each other in threads.
- A SELECT in a format without a head or an end (`_PIECEWISE`) comes from chDB block by block as it is fetched: memory
  stays flat however long the result is, and it is ten times as fast as chDB's whole results. Every other format and
  statement comes whole.
- A statement that nobody waits for any more is killed by its `log_comment`: chDB gives no query ids.
- Tables belong into a database of their own: `default` is chDB's overlay over the files of the machine, and closed
  (clickhouse/embedded.xml).
"""

import os
import re
import threading
import time
import uuid
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deploy import sql
from schemas.errors import CalltideError

CONFIG = Path(__file__).with_name("clickhouse") / "embedded.xml"

READER_LIMITS = {"max_execution_time": "60", "max_memory_usage": "4000000000"}
"""Judgement: what Grafana waits for a panel, and a share of a laptop's memory. A request may set others."""

WHOLE_RESULT_LIMIT = {"max_result_bytes": str(256 << 20)}
"""Judgement, for readers: bytes of a result in a format that is made whole; formats in `_PIECEWISE` have no limit."""

_PIECEWISE = frozenset({"CSV", "JSONCompactEachRow", "JSONEachRow", "Native", "RowBinary", "TSV", "TabSeparated"})

_READS = frozenset({"DESC", "DESCRIBE", "EXISTS", "EXPLAIN", "FROM", "SELECT", "SHOW", "WITH"})
"""First words of what a reader may say. `readonly` alone would let one kill the statements of others."""

# Possessive throughout (++, *+): a list of columns that no FORMAT follows must fail at once, not after every way to
# split its names.
_NAME = r"""(?:`(?:[^`\\]|\\.|``)*+`|"(?:[^"\\]|\\.)*+"|\w++)"""
_INSERT = re.compile(
    rf"""\s*+(?P<into>INSERT\s++INTO\s++(?:TABLE\s++)?{_NAME}(?:\s*+\.\s*+{_NAME})?
        (?:\s*+\((?:{_NAME}|[\s,.*])*+\))?
        (?:\s++SETTINGS\s(?:'(?:[^'\\]|\\.)*+'|[\w\s=,.-])*?)?)
        \s+FORMAT\s++(?P<format>\w++)[ \t\f]*+(?:\r?\n)?""".encode(),
    re.IGNORECASE | re.VERBOSE,
)
"""The head of an INSERT whose data follows it."""

_BEGINS_INSERT = re.compile(rb"\s*+INSERT\b", re.IGNORECASE)
_FIRST_WORD = re.compile(r"[\s(]*+(\w++)")
_FORMAT = re.compile(r"\bFORMAT\s++(\w++)", re.IGNORECASE)
_BEHIND_FORMAT = re.compile(r"\s*+(?:SETTINGS\b[^;]*+)?;?\s*+", re.IGNORECASE)
_MORE_THAN_ROWS = re.compile(r"\b(TOTALS|extremes|INSERT)\b", re.IGNORECASE)
"""Totals and extremes come behind the rows: chDB leaves them out of a result in pieces."""

_OUTSIDE = re.compile(r"\b(INTO\s++OUTFILE|FROM\s++INFILE)\b", re.IGNORECASE)
_ERROR = re.compile(r"Code: (?P<code>\d+)\..*?\((?P<name>[A-Z][A-Z0-9_]+)\)(?: \(version [^)]*\))?\s*$", re.DOTALL)

_BAD_REQUEST = frozenset({"BAD_ARGUMENTS", "CANNOT_DECOMPRESS", "INCORRECT_DATA", "SYNTAX_ERROR", "TYPE_MISMATCH"})
_STATUS = {
    "ACCESS_DENIED": 403,
    "AUTHENTICATION_FAILED": 403,
    "NOT_IMPLEMENTED": 501,
    "REQUIRED_PASSWORD": 401,
    "TIMEOUT_EXCEEDED": 408,
    "UNKNOWN_COMPRESSION_METHOD": 400,
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
        if self.name in _STATUS:
            return _STATUS[self.name]
        if self.name in _BAD_REQUEST or self.name.startswith("CANNOT_PARSE_"):
            return 400
        return 404 if self.name.startswith("UNKNOWN_") and self.code != 1002 else 500


_CANCELLED = QueryError("Code: 394. DB::Exception: Query was cancelled. (QUERY_WAS_CANCELLED)")


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
        self.connect = lambda: chdb.connect(f"{path.absolute()}?config-file={CONFIG}")
        try:
            # Stays open: the engine ends with its last connection.
            self._root = self.connect()
        except RuntimeError as error:
            raise CalltideError(f"cannot open ClickHouse's directory {path}: {QueryError(str(error)).text}") from error
        self.version, self.timezone, self.display_name = (
            self._root.query("SELECT version(), timezone(), displayName()", "TabSeparated").bytes().decode().split()
        )

    def close(self) -> None:
        """Write what is buffered and let go of the directory."""
        self._root.close()
        self._lock.release()


class Run:
    """One statement, with the data of an INSERT behind it, under settings of its own.

    It begins with the first `fetch`. `format` and `summary` are what is known after it: `format` is None when the
    statement has no result set, `summary` holds ClickHouse's figures as text. `fetch` and `close` are called one after
    the other, from whatever thread; `cancel` beside them.
    """

    def __init__(
        self,
        engine: Engine,
        statement: bytes,
        *,
        default_format: str | None = None,
        database: str | None = None,
        settings: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
        read_only: bool = False,
    ) -> None:
        self.format: str | None = None
        self.summary: dict[str, str] = {}
        self._engine = engine
        self._statement = statement
        self._default_format = default_format
        self._database = database
        self._settings = dict(settings or {})
        self._parameters = dict(parameters or {})
        self._read_only = read_only
        self._id = uuid.uuid4().hex
        self._reads = False
        self._cancelled = False
        self._ended = threading.Event()
        self._pieces = self._execute()

    def fetch(self) -> bytes | None:
        """The next piece of the result, None after the last. Raises QueryError."""
        if self._cancelled:
            raise _CANCELLED
        try:
            return next(self._pieces, None)
        except RuntimeError as error:
            raise QueryError(str(error)) from error

    def cancel(self) -> None:
        """Nobody waits for the result: a statement that reads is ended; returns when it is, or after `close`."""
        self._cancelled = True
        while self._reads and not self._ended.is_set():
            connection = self._engine.connect()
            try:
                connection.query(f"KILL QUERY WHERE Settings['log_comment'] = '{self._id}' ASYNC")
            finally:
                connection.close()
            self._ended.wait(0.2)  # it may not have been in the list of processes yet

    def close(self) -> None:
        """Let go of the statement and its connection, finished or not."""
        self._pieces.close()
        self._ended.set()

    def _execute(self) -> Generator[bytes, None, None]:
        if self._read_only and _BEGINS_INSERT.match(self._statement):
            raise _only_reads("INSERT")  # its data need not be text
        insert = None if self._read_only else _INSERT.match(self._statement)
        text = "" if insert else _text_statement(self._statement)
        bare = sql.bare(text)
        first = match[1].upper() if (match := _FIRST_WORD.match(bare)) else ""
        self._reads = first in _READS
        if self._cancelled:  # looked at after `_reads` is set, as `cancel` looks at `_reads` after it is set
            raise _CANCELLED
        if self._read_only and not self._reads:
            raise _only_reads(first)
        form = _format(bare) or self._default_format
        piecewise = (
            first in ("SELECT", "WITH", "FROM")
            and (form or "TSV") in _PIECEWISE
            and not _MORE_THAN_ROWS.search(bare)
            and "extremes" not in self._settings
        )
        connection = self._engine.connect()
        try:
            if self._database:
                connection.query(f"USE {_identifier(self._database)}")
            settings = self._limits(piecewise) | self._settings | {"log_comment": self._id}
            if self._read_only and settings.get("readonly") != "1":
                settings["readonly"] = "2"  # ClickHouse's own level for GET: settings may change, data not
            connection.query("SET " + ", ".join(f"{_setting(name)} = {_text(settings[name])}" for name in settings))
            if insert:
                data = self._statement[insert.end() :]
                self.summary = _insert(connection, insert["into"].decode(), insert["format"].decode(), data)
            elif piecewise:
                self.format = form or "TabSeparated"
                with connection.send_query(text, self.format, params=self._parameters) as stream:
                    for piece in stream:
                        self._count(piece)
                        yield piece.bytes()
            else:
                yield from self._whole(connection, text, form)
        finally:
            connection.close()

    def _limits(self, piecewise: bool) -> dict[str, str]:
        return {} if not self._read_only else READER_LIMITS if piecewise else READER_LIMITS | WHOLE_RESULT_LIMIT

    def _whole(self, connection: Any, text: str, form: str | None) -> Generator[bytes, None, None]:
        # With a result set there is at least the line of names, without one there is nothing: so they are told apart.
        answer = connection.query(text, form or "TabSeparatedWithNames", params=self._parameters)
        self._count(answer)
        body = answer.bytes() or b""
        if form is None and body:
            form, body = "TabSeparated", body[body.index(b"\n") + 1 :]
        self.format = form
        yield body

    def _count(self, answer: Any) -> None:
        """Figures of a result, or of one more piece of it."""
        figures = {
            "read_rows": answer.storage_rows_read(),
            "read_bytes": answer.storage_bytes_read(),
            "written_rows": answer.rows_written(),
            "written_bytes": answer.bytes_written(),
            "result_rows": answer.rows_read(),
            "elapsed_ns": int(answer.elapsed() * 1e9),
        }
        self.summary = {name: str(int(self.summary.get(name, 0)) + figure) for name, figure in figures.items()}


def _insert(connection: Any, into: str, form: str, data: bytes) -> dict[str, str]:
    inserter = connection.send_insert(into, form)
    inserter.append(data)
    written = inserter.finish()
    return {
        "written_rows": str(written.rows_written),
        "written_bytes": str(written.bytes_written),
        "elapsed_ns": str(int(written.elapsed * 1e9)),
    }


def _only_reads(first: str) -> QueryError:
    return QueryError(
        f"Code: 164. DB::Exception: {first or 'This'} begins no statement that only reads; who writes comes by POST as "
        "the user that CALLTIDE_CLICKHOUSE__USER names. (READONLY)"
    )


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


def _format(bare: str) -> str | None:
    """The format that a statement without its literals asks for at its end."""
    last = None
    for last in _FORMAT.finditer(bare):  # noqa: B007
        pass
    return last[1] if last and _BEHIND_FORMAT.fullmatch(bare, last.end()) else None


def _setting(name: str) -> str:
    if not name.isidentifier():
        raise QueryError(f"Code: 115. DB::Exception: {name!r} is no setting. (UNKNOWN_SETTING)")
    return name


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
