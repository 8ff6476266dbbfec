"""ClickHouse's HTTP protocol in front of the engine, as clickhouse-connect, clickhouse-go (Grafana) and curl speak it.

A changer must know:

- Whoever comes only reads, but the one user that may write, by POST, with the password where one is set.
- What keeps web pages out: the refusal of whatever a browser sends for one (Origin, Sec-Fetch-Site, a foreign Host; a
  page's request to 127.0.0.1 is otherwise a request like any other).
- The status is sent when the first `_HELD_BACK` bytes of the result or all of it are there. What fails later ends the
  answer with ClickHouse's `__exception__` block and a connection closed before its end, so that no client takes what
  it has for the whole.

docs/clickhouse-port.md says what is answered and what not.
"""

import base64
import binascii
import hmac
import io
import json
import secrets
import uuid
import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from deploy import native
from deploy.clickhouse_engine import Engine, QueryError, Run

HOST = "127.0.0.1"

CONCURRENT_QUERIES = 8
"""Judgement, each for readers and for writers: the panels of one dashboard; more wait, and the sink not behind them."""

_HELD_BACK = 1 << 20
"""Bytes; ClickHouse's `buffer_size` of the same purpose."""

_TRANSPORT = frozenset(
    {
        "buffer_size", "client_protocol_version", "compress", "database", "decompress", "default_format", "log_comment",
        "password", "query", "query_id", "quota_key", "role", "session_check", "session_id", "session_timeout",
        "stacktrace", "user", "wait_end_of_query",
    }
)  # fmt: skip
"""URL parameters of the protocol itself; every other one is a setting, or `param_x` for the query's {x:Type}."""

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


class _Compressor(Protocol):
    """Bytes in, compressed bytes out; `flush` gives the end."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _Framed(_Plain):
    """ClickHouse's own compression (`compress=1`)."""

    def compress(self, data: bytes) -> bytes:
        return b"".join(native.frames(data))


def _lz4() -> _Compressor:
    frame = import_module("lz4.frame").LZ4FrameCompressor()
    head = frame.begin()

    class Lz4(_Plain):
        def compress(self, data: bytes) -> bytes:
            nonlocal head
            begun, head = head, b""
            return begun + frame.compress(data)

        def flush(self) -> bytes:
            return head + frame.flush()

    return Lz4()


# The quickest levels: nothing here leaves the machine.
_COMPRESSORS: dict[str, Callable[[], _Compressor]] = {
    "zstd": lambda: import_module(native.ZSTD).ZstdCompressor(level=1),
    **({"lz4": _lz4} if find_spec("lz4") else {}),  # clickhouse-connect brings it, but not on Python 3.14
    "gzip": lambda: zlib.compressobj(1, wbits=31),
    "deflate": lambda: zlib.compressobj(1),
}
"""Content-Encoding → what makes it, the best first."""

_DECOMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: zlib.decompress(body, wbits=31),
    "deflate": zlib.decompress,
    # A body is a frame for each block of rows. `decompress` of lz4 reads the first alone, its file object reads all.
    "lz4": lambda body: import_module("lz4.frame").open(io.BytesIO(body)).read(),
    "zstd": lambda body: import_module(native.ZSTD).decompress(body),
}


def _refusal(headers: Headers) -> str | None:
    """Why this request is none of a program on this machine."""
    host = headers.get("host", "").partition(":")[0]
    if host not in (HOST, "localhost"):
        return f"Host {host!r}: this port answers as {HOST} and localhost only"
    if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
        return "this port does not answer web pages"
    return None


def _credentials(request: Request) -> tuple[str, str | None]:
    """User and password (None: none was given) from ClickHouse's headers, else basic authentication, else the URL."""
    headers, parameters = request.headers, request.query_params
    if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        return headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key")
    if "authorization" in headers:
        scheme, _, given = headers["authorization"].partition(" ")
        try:
            if scheme.lower() != "basic":
                raise ValueError
            user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            raise QueryError(
                "Code: 516. DB::Exception: Authentication failed: Authorization takes Basic with user and password "
                "here. (AUTHENTICATION_FAILED)"
            ) from None
        return user, password
    return parameters.get("user", ""), parameters.get("password")


def _decoded(body: bytes, encoding: str | None, framed: bool) -> bytes:
    """A request's body as it was before Content-Encoding and `decompress=1`."""
    if encoding not in (None, "", "identity"):
        if encoding not in _DECOMPRESSORS:
            raise QueryError(
                f"Code: 89. DB::Exception: Content-Encoding {encoding} is not known here; use one of "
                f"{', '.join(_DECOMPRESSORS)}. (UNKNOWN_COMPRESSION_METHOD)"
            )
        try:
            body = _DECOMPRESSORS[encoding](body)
        except Exception as error:  # each decompressor has errors of its own
            raise _undecodable(error) from None
    try:
        return native.unframed(body) if framed else body
    except native.BadFrame as error:
        raise _undecodable(error) from None


def _undecodable(error: Exception) -> QueryError:
    return QueryError(f"Code: 271. DB::Exception: The body cannot be decompressed: {error}. (CANNOT_DECOMPRESS)")


class Port:
    """The ASGI application of `/`: one statement a request. `user` may write; a `password` is everybody's."""

    def __init__(self, engine: Engine, user: str, password: str) -> None:
        self._engine = engine
        self._user = user
        self._password = password
        self._readers = anyio.CapacityLimiter(CONCURRENT_QUERIES)
        self._writers = anyio.CapacityLimiter(CONCURRENT_QUERIES)
        self._common = {
            "X-ClickHouse-Server-Display-Name": engine.display_name,
            "X-ClickHouse-Timezone": engine.timezone,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if refusal := _refusal(request.headers):
            await Response(f"{refusal}\n", 403)(scope, receive, send)
            return
        parameters = request.query_params
        headers = self._common | {"X-ClickHouse-Query-Id": parameters.get("query_id") or str(uuid.uuid4())}
        try:
            reader = self._only_reads(request)
            statement = await self._statement(request)
        except QueryError as error:
            await self._failure(error, request, headers)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        if not statement.strip():
            await (await ping(request))(scope, receive, send)
            return
        run = Run(
            self._engine,
            statement,
            default_format=parameters.get("default_format") or request.headers.get("x-clickhouse-format"),
            database=parameters.get("database") or request.headers.get("x-clickhouse-database"),
            settings={
                key: value
                for key, value in parameters.items()
                if key not in _TRANSPORT and not key.startswith("param_")
            },
            parameters={key[6:]: value for key, value in parameters.items() if key.startswith("param_")},
            read_only=reader,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(_cancel_when_gone, receive, run)
            try:
                await self._answer(request, run, headers, self._readers if reader else self._writers, send)
            finally:
                run.close()
                group.cancel_scope.cancel()

    def _only_reads(self, request: Request) -> bool:
        user, password = _credentials(request)
        if self._password:
            if password is None:
                raise QueryError("Code: 194. DB::Exception: A password is needed here. (REQUIRED_PASSWORD)")
            if not hmac.compare_digest(password.encode(), self._password.encode()):
                raise QueryError(
                    f"Code: 516. DB::Exception: {user or 'default'}: Authentication failed: password is incorrect. "
                    "(AUTHENTICATION_FAILED)"
                )
        return user != self._user or request.method != "POST"

    async def _statement(self, request: Request) -> bytes:
        """What the URL and the body say together."""
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise QueryError("Code: 48. DB::Exception: Forms and external tables are not known here. (NOT_IMPLEMENTED)")
        body = await request.body()
        framed = request.query_params.get("decompress") == "1"
        body = await anyio.to_thread.run_sync(_decoded, body, request.headers.get("content-encoding"), framed)
        return b"\n".join(part for part in (request.query_params.get("query", "").encode(), body) if part)

    async def _answer(
        self, request: Request, run: Run, headers: dict[str, str], limiter: anyio.CapacityLimiter, send: Send
    ) -> None:
        parameters = request.query_params
        encoding, compressor = self._compressor(request)
        version = parameters.get("client_protocol_version", "0")
        revision = int(version) if version.isdecimal() else 0

        begun, empty = bytearray(), True
        data: bytes | None

        def piece() -> bytes | None:
            nonlocal empty
            data = run.fetch()
            if data is not None and run.format == "Native" and revision >= native.CUSTOM_SERIALIZATION:
                try:
                    data = native.at_revision(data)
                except native.NoEnd as error:
                    raise QueryError(
                        f"Code: 48. DB::Exception: Column {error.column} of type {error.type} cannot be sent here to a "
                        "client of this kind; make it text with toString or toJSONString, or name its parts. "
                        "(NOT_IMPLEMENTED)"
                    ) from error
            empty = empty and not data
            return compressor.compress(data) if data else data

        async def fetch() -> bytes | None:
            return await anyio.to_thread.run_sync(piece, limiter=limiter)

        most = None if parameters.get("wait_end_of_query") == "1" else _HELD_BACK
        try:
            while (data := await fetch()) is not None and (most is None or len(begun) < most):
                begun += data
        except QueryError as error:
            await self._failure(error, request, headers)(request.scope, request.receive, send)
            return
        headers |= {"X-ClickHouse-Summary": json.dumps(run.summary)}
        if parameters.get("send_progress_in_http_headers") == "1":
            headers |= {"X-ClickHouse-Progress": json.dumps(run.summary)}
        if run.format:
            headers |= {"X-ClickHouse-Format": run.format}
        headers["Content-Type"] = _CONTENT_TYPES.get(run.format or "", "text/plain; charset=UTF-8")
        if encoding and not empty:
            headers["Content-Encoding"] = encoding
        if data is None:
            if not empty:
                begun += compressor.flush()
            await Response(bytes(begun), 200, headers)(request.scope, request.receive, send)
            return
        tag = secrets.token_hex(8)
        headers["X-ClickHouse-Exception-Tag"] = tag
        fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        piece_of_body: bytes | None = bytes(begun + data)
        try:
            while piece_of_body is not None:
                await send({"type": "http.response.body", "body": piece_of_body, "more_body": True})
                piece_of_body = await fetch()
        except QueryError as error:
            block = compressor.compress(_exception_block(error, tag)) + compressor.flush()
            await send({"type": "http.response.body", "body": block, "more_body": True})
            return  # without an end: uvicorn closes the connection
        await send({"type": "http.response.body", "body": compressor.flush(), "more_body": False})

    def _compressor(self, request: Request) -> tuple[str | None, _Compressor]:
        if request.query_params.get("compress") == "1":
            return None, _Framed()
        accepted = {part.partition(";")[0].strip() for part in request.headers.get("accept-encoding", "").split(",")}
        if request.query_params.get("enable_http_compression", "1") != "0":
            for encoding, make in _COMPRESSORS.items():
                if encoding in accepted:
                    return encoding, make()
        return None, _Plain()

    def _failure(self, error: QueryError, request: Request, headers: dict[str, str]) -> Response:
        headers = headers | {"X-ClickHouse-Exception-Code": str(error.code)}
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        version = "" if "(version " in error.text else f" (version {self._engine.version})"
        body = f"{error.text}{version}\n".encode()
        if request.query_params.get("compress") == "1":  # errors too: clickhouse-go reads nothing else then
            body = b"".join(native.frames(body))
        return Response(body, error.status, headers, media_type="text/plain; charset=UTF-8")


async def _cancel_when_gone(receive: Receive, run: Run) -> None:
    """Ends `run` when the client has closed its connection; also returns when the answer is complete."""
    while (await receive())["type"] != "http.disconnect":
        pass
    await anyio.to_thread.run_sync(run.cancel)


def _exception_block(error: QueryError, tag: str) -> bytes:
    """What ClickHouse writes into an answer that breaks off (WriteBufferFromHTTPServerResponse.cpp)."""
    message = f"{error.text}\n".encode()
    return b"\r\n__exception__\r\n%b\r\n%b%d %b\r\n__exception__\r\n" % (
        tag.encode(), message, len(message), tag.encode()
    )  # fmt: skip


async def ping(request: Request) -> Response:
    """Alive, whoever asks."""
    return Response("Ok.\n", media_type="text/html; charset=UTF-8")


def application(engine: Engine, user: str, password: str) -> Starlette:
    """ClickHouse's HTTP protocol in front of `engine`. `user` may write; an empty `password` is not asked for."""
    return Starlette(
        routes=[
            Route("/", Port(engine, user, password), methods=["GET", "POST"]),
            Route("/ping", ping, methods=["GET"]),
            Route("/replicas_status", ping, methods=["GET"]),
        ]
    )
