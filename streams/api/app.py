"""The application that `calltide web` serves: the API under /api/v1; streams/web.py adds the pages.

A changer must know: a router is included here by one line. `Requests` is around everything: it gives each request its
id, each answer that came at once its ETag, and logs one line without the query, where names and words stand.
"""

import hashlib
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams.api import (
    access,
    again,
    aliases,
    audio,
    calls,
    docs_page,
    exports,
    presigned,
    problems,
    rules,
    search,
    status,
    tasks,
    tus,
    uploads,
    waveform,
)
from streams.api.parameters import SLASH
from streams.api.queries import Store
from streams.settings import Settings

log = logging.getLogger(__name__)

PREFIX: Final = "/api/v1"
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SLASH: Final = re.compile(rb"%2f", re.IGNORECASE)


class Requests:
    """ASGI middleware: request ids, ETags, the log, and what nobody expected."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        request.state.request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        api = scope["path"].startswith("/api/")
        if api and (raw := scope.get("raw_path")):
            kept = _SLASH.sub(SLASH.encode(), raw.partition(b"?")[0])
            scope["path"] = unquote_to_bytes(kept).decode("utf-8", "replace")
        sender = _Sender(send, request)
        begun = time.monotonic()
        try:
            await self._app(scope, receive, sender)
        except Exception as error:
            if sender.status:
                raise  # half of an answer is out: the server ends the connection
            await problems.answer(request, problems.fault_of(error))(scope, receive, sender)
        if api:
            who = getattr(request.state, "caller", None)
            plain = request.method == "GET" and sender.status < 400  # pages ask every few seconds
            log.log(
                logging.DEBUG if plain else logging.INFO,
                "%s %s%s",
                request.method,
                PREFIX,
                getattr(scope.get("route"), "path", " (no such address)"),
                extra={
                    "status": sender.status,
                    "ms": round((time.monotonic() - begun) * 1_000, 1),
                    "request_id": request.state.request_id,
                    "caller": who.name if who else "",
                },
            )


class _Sender:
    """`send`, which makes a 304 of an answer that the caller has."""

    def __init__(self, send: Send, request: Request) -> None:
        self._send = send
        self._request = request
        self._start: Message | None = None
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._request.state.request_id
            self.status = message["status"]
            if (
                self.status == 200
                and self._request.method == "GET"
                and headers.get("content-type", "").startswith("application/json")
                and "etag" not in headers
            ):
                self._start = message
                return
        elif message["type"] == "http.response.body" and self._start is not None:
            start, self._start = self._start, None
            if not message.get("more_body"):
                await self._whole(start, message)
                return
            await self._send(start)
        await self._send(message)

    async def _whole(self, start: Message, body: Message) -> None:
        headers = MutableHeaders(scope=start)
        etag = f'"{hashlib.sha256(body.get("body", b"")).hexdigest()[:32]}"'
        headers["ETag"] = etag
        headers.setdefault("Cache-Control", "private, no-cache")
        known = re.split(r"\s*,\s*", self._request.headers.get("if-none-match", "").replace("W/", "").strip())
        if etag in known or known == ["*"]:
            self.status = start["status"] = 304
            for name in ("content-length", "content-type"):
                del headers[name]
            body = {"type": "http.response.body", "body": b""}
        await self._send(start)
        await self._send(body)


def _describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with what holds for all."""
    described = FastAPI.openapi(app)
    for path in described["paths"].values():
        answers = path.get("get", {}).get("responses", {})
        if "application/json" in answers.get("200", {}).get("content", {}):
            answers.setdefault("304", {"description": "what you have (If-None-Match) is what there is"})
    return described


def create_app(settings: Settings) -> FastAPI:
    """The API. It opens no connection before it is asked something."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.store.close()
        app.state.sounds.close()
        app.state.watch.close()

    app = FastAPI(
        title="Calltide",
        version=version("calltide"),
        description="Calls, heard while they are spoken. Every error is `{error, message, details}`.",
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{PREFIX}/openapi.json",
        redirect_slashes=False,
        responses=problems.COMMON,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.access = access.Access(settings)
    app.state.store = Store(settings)
    app.state.kept = calls.Kept()
    app.state.sounds = audio.Sounds(settings)
    app.state.explaining = calls.Explaining(settings)
    app.state.watch = status.Watch(settings)
    problems.install(app)
    app.include_router(docs_page.router, prefix=PREFIX)
    app.include_router(access.router, prefix=PREFIX)
    app.include_router(calls.router, prefix=PREFIX)
    app.include_router(waveform.router, prefix=PREFIX)
    app.include_router(rules.router, prefix=PREFIX)
    app.include_router(search.router, prefix=PREFIX)
    app.include_router(status.router, prefix=PREFIX)
    app.include_router(tasks.router, prefix=PREFIX)
    app.include_router(uploads.router, prefix=PREFIX)
    app.include_router(presigned.router, prefix=PREFIX)  # before tus, which takes any /uploads/NAME for an upload's
    app.include_router(tus.router, prefix=PREFIX)
    app.include_router(exports.router, prefix=PREFIX)
    app.include_router(again.router, prefix=PREFIX)
    app.include_router(aliases.router, prefix=PREFIX)
    if settings.api.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.api.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    app.add_middleware(Requests)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]
    return app
