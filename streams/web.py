"""`calltide web`: the API, static pages from `page/`, `/config.json` with the gateway's address, `/healthz`.

A changer must know: what the page shows comes from callers' mouths and other systems' metadata. The policy below
forbids scripts and styles from anywhere but `page/`, and connections to anywhere but here, the gateway and
who takes the microphone.
"""

import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import CalltideError
from streams.api import app as api
from streams.api.uploads import MB
from streams.gateway import PATH
from streams.settings import Settings

PAGE: Final = Path(__file__).with_name("page")
EVERYWHERE: Final = ("0.0.0.0", "::", "")
MICROPHONE: Final = "/microphone"
STOP_SECONDS: Final = 1
LONGEST_HEAD: Final = 2**20
"""Bytes of a request before its body: so many filters are refused in words, not by a connection that closes."""
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")


def gateway_address(settings: Settings, host: str) -> str:
    """Where a page loaded from `host` finds the gateway: a gateway that listens everywhere, at the same host."""
    return (settings.web.sockets or _address(settings.gateway.host, settings.gateway.port, host)) + PATH


def microphone_address(settings: Settings, host: str) -> str:
    """Where a page loaded from `host` sends what its microphone hears, likewise."""
    return (settings.web.sockets or _address(settings.serve.host, settings.serve.port, host)) + MICROPHONE


def _address(own: str, port: int, host: str) -> str:
    if own in EVERYWHERE:
        own = host if _HOST.fullmatch(host) else "127.0.0.1"
    elif ":" in own:
        own = f"[{own}]"
    return f"ws://{own}:{port}"


def create_app(settings: Settings) -> FastAPI:
    """The API, and beside it the pages, which hold no state and read no data of calls."""
    app = api.create_app(settings)

    def sockets_for(request: Request) -> tuple[str, str]:
        host = request.url.hostname or ""
        host = f"[{host}]" if ":" in host else host
        return gateway_address(settings, host), microphone_address(settings, host)

    @app.get("/config.json", include_in_schema=False)
    async def config(request: Request) -> dict[str, str | int]:
        gateway, microphone = sockets_for(request)
        largest = settings.uploads.max_mb * MB
        return {"gateway": gateway, "microphone": microphone, "pipeline": settings.pipeline_version, "largest": largest}

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    app.frontend("/", directory=PAGE, fallback=None)
    app.add_middleware(_Harden, sockets_for=sockets_for)
    return app


class _Harden:
    """ASGI middleware: the headers that keep what callers say from becoming a script."""

    def __init__(self, app: ASGIApp, sockets_for: Callable[[Request], tuple[str, str]]) -> None:
        self._app = app
        self._sockets_for = sockets_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        gateway, microphone = self._sockets_for(Request(scope))
        sockets = f"{gateway.removesuffix(PATH)} {microphone.removesuffix(MICROPHONE)}"

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault(  # streams/api/docs_page.py has one of its own
                    "Content-Security-Policy",
                    f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; "
                    f"connect-src 'self' {sockets}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
                )
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        await self._app(scope, receive, hardened)


class _Server(uvicorn.Server):
    """uvicorn that also stops when `stop` is set, and says when it serves."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stop.is_set()


def serve_until(settings: Settings, stop: threading.Event, ready: Callable[[], None]) -> None:
    """Serve until `stop` is set; `ready` is called once it serves. Raises CalltideError when the port is taken."""
    host, port = settings.web.host, settings.web.port
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Listening at once: another program on the same port is noticed here, not later.
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise CalltideError(
            f"cannot listen on {host}:{port} ({error.strerror}); stop the program that does, or set CALLTIDE_WEB__PORT "
            "or CALLTIDE_WEB__HOST"
        ) from None
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        h11_max_incomplete_event_size=LONGEST_HEAD,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    with listener:
        _Server(config, stop, ready).run(sockets=[listener])
