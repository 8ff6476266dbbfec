"""`Stream`: messages of the gateway for ever, over lost connections and restarts, none missed and none twice.

A changer must know: the cursor of the last message that was handed out decides where to go on, and nothing else; what
was received and not handed out comes again.
"""

import asyncio
import inspect
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Literal, Self, TypedDict, Unpack, cast
from urllib.parse import urlencode, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from calltide_client.messages import ErrorMessage, Message, Subscription

Key = str | Callable[[], str | Awaitable[str]]
"""A key or a token, or what gives one: it is asked before each connection."""

PAUSE_S: Final = (0.25, 5.0)
"""First and longest pause before connecting again; each is twice the one before, give or take a fifth."""
SILENCE_S: Final = 40.0
"""The gateway speaks every 15 s: after so long without a word the connection is dead."""
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
KINDS: Final = "score,correction,call_started,call_ended"
"""What the gateway sends unless others are asked for."""


class Disconnected(TypedDict):
    """The connection was lost; the stream connects again by itself. Once for each time that it was lost."""

    type: Literal["disconnected"]
    code: int
    reason: str


class Refused(Exception):
    """The gateway will not serve this, however often it is asked. `error` is which sort: invalid, unauthorized,
    token_expired, bad_key, forbidden."""

    def __init__(self, code: int, error: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.error = error


class Stream:
    """Messages of the gateway at `url` (ws://host:8765/v1/scores): `async with Stream(…) as stream: async for …`.

    `key` goes into a header, never into the address. `fields`: which events (call, queue, agent, tenant, kinds,
    severity), history="live", replay, `**{"from": cursor}`. Iterating raises `Refused` for what the gateway does not
    serve; when the first connection fails, OSError or websockets' InvalidHandshake.
    """

    def __init__(self, url: str, *, key: Key | None = None, **fields: Unpack[Subscription]) -> None:
        self.cursor: str | None = None
        """Where the last message was; it can be kept, and given as `from` to another stream."""
        self._url = url
        self._key = key
        self._proxy: Literal[True] | None = None if urlsplit(url).hostname in LOOPBACK else True
        self._wanted: dict[str, Any] = {"kinds": KINDS, **fields}
        self._connection: ClientConnection | None = None
        self._changes: deque[dict[str, Any]] = deque()
        """Other subscriptions of which the gateway has not told yet that they hold."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def subscribe(self, **fields: Unpack[Subscription]) -> None:
        """Another subscription in place of the one there is, without connecting anew. The message `subscribed` says
        from where on it holds. What a lost connection did not take is sent again by the next one."""
        self._changes.append({"kinds": KINDS, **fields})
        if self._connection is not None:
            with suppress(ConnectionClosed):
                await self._connection.send(json.dumps(self._changes[-1]))

    async def __aiter__(self) -> AsyncIterator[Message | Disconnected]:
        first, longest = PAUSE_S
        pause, was_connected, expired = first, False, False
        while True:
            reason, code = "the gateway closed the connection", 1006
            try:
                headers = await self._headers()
                async with connect(
                    self._address(), additional_headers=headers, max_size=None, proxy=self._proxy
                ) as opened:
                    async for message in self._messages(opened):
                        if message["type"] == "hello":
                            was_connected, pause, expired = True, first, False
                            await self._begin(opened)
                        yield message
                code, reason = opened.close_code or code, opened.close_reason or reason
            except Refused as refused:
                # A token may run out; one that is given anew is tried once.
                if refused.error != "token_expired" or expired or not callable(self._key):
                    raise
                expired, code, reason = True, refused.code, str(refused)
            except (OSError, InvalidHandshake, ConnectionClosed) as error:
                if not was_connected:
                    raise
                reason = str(error) or f"nothing came for {SILENCE_S:.0f} s"
            finally:
                self._connection = None
            if pause == first:
                yield {"type": "disconnected", "code": code, "reason": reason}
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, longest)

    async def _messages(self, opened: ClientConnection) -> AsyncIterator[Message]:
        refused: ErrorMessage | None = None
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    message = cast("Message", json.loads(await opened.recv()))
                if message["type"] == "error":
                    refused = message
                    continue
                if message["type"] == "subscribed":
                    self._wanted = {**self._changes.popleft(), "replay": self._wanted.get("replay", [])}
                self.cursor = cast("str | None", message.get("cursor", self.cursor))
                yield message
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            if code == 1008 or 4_400 <= code < 4_500:
                reason = closed.rcvd.reason if closed.rcvd else ""
                error, said = (refused["error"], refused["message"]) if refused else ("", reason)
                raise Refused(code, error, said) from None

    async def _begin(self, opened: ClientConnection) -> None:
        if self._changes:
            self._changes = deque([self._changes[-1]])
            await opened.send(json.dumps(self._changes[-1]))
        self._connection = opened

    def _address(self) -> str:
        fields = dict(self._wanted)
        if self.cursor is not None:
            fields.pop("history", None)
            fields["from"] = self.cursor
        return f"{self._url}?{urlencode(fields, doseq=True)}"

    async def _headers(self) -> dict[str, str]:
        key = self._key() if callable(self._key) else self._key
        if inspect.isawaitable(key):
            key = await key
        return {"Authorization": f"Bearer {key}"} if key else {}
