"""`calltide serve`: the sockets of all protocols, in one process and one event loop.

What a connection says goes through its decoder into its call's line and from there into the feed, all of it at once and
without waiting (`Session`). A changer must know: nothing in that path may block or await, and whatever a connection
sends ends in events, or in a Fault that ends this connection alone.
"""

import asyncio
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

import uvloop
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Frame, Opcode, apply_mask
from websockets.http11 import Request as Handshake
from websockets.http11 import Response

from schemas.errors import CalltideError
from schemas.topics import frames
from streams.api.access import ALLOWED, Access
from streams.api.problems import Fault as Refusal
from streams.health import Health
from streams.ingestion import metrics
from streams.ingestion.auth import Keys, Networks, Signatures, presented, subprotocol
from streams.ingestion.calls import Call, Calls
from streams.ingestion.feed import Feed
from streams.ingestion.line import Leg
from streams.ingestion.recordings import Recording
from streams.ingestion.results import Results
from streams.ingestion.routes import AUDIOSOCKET, ROUTES, Request, Route, check_open
from streams.ingestion.signatures import Handshake as Signed
from streams.protocols.base import Began, Ended, Event, Fault
from streams.settings import Serve, Settings

log = logging.getLogger(__name__)

PUMP_S: Final = 0.02
"""How often what Kafka acknowledged is heard. Judgement: the producer's own linger."""
TICK_S: Final = 0.25
"""How often time-outs are looked at."""
SEND_S: Final = 10.0
"""A client that takes nothing of what it is told for so long is cut off. Judgement."""
BYE_S: Final = 1.0
"""How long a client that was told that its session ends may take to close it in its protocol's way. Judgement."""
CLOSE_S: Final = 5.0
"""How long a client may take to answer the closing handshake."""
RESULTS_S: Final = 60.0
"""How long a connection whose call is over waits for the last results. Judgement: twice VAD's idle timeout."""
STOP_S: Final = 1.5
"""How long connections may take to close when the process stops, before what is left of the flush."""
FLUSH_S: Final = 5.0
"""How long Kafka may take to acknowledge the last records; with STOP_S under what `calltide up` allows a process."""
UNSENT: Final = 262_144
"""Bytes that may wait for a client that does not read. Judgement: some times what the library lets wait of answers;
what is more are its pongs to who pings and does not read."""
PIECES: Final = 1_024
"""Most fragments of one message. Judgement: clients send one; without a limit, empty ones would go on for ever."""
UNREAD: Final = 4_096
"""Answers that may wait for a websocket client that goes on asking and does not read. Judgement: more than any client
asks at once, and less than a megabyte."""


def now_ms() -> int:
    """Wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Session:
    """One connection of whatever kind: what it says, and how long ago that was."""

    def __init__(self, switchboard: "Switchboard", route: Route, request: Request, tenant: str) -> None:
        """Raises Fault for a request that asks for what cannot be."""
        self.route = route
        self.request = request
        self.decoder = route.make(request)
        self._recording = Recording(switchboard.recordings) if route.keeps(self.decoder) else None
        self.leg: Leg | None = None
        self.call: Call | None = None
        self.fault: Fault | None = None
        self.over = False
        """Nothing that still comes is heard."""
        self.begun_at = self.heard_at = time.monotonic()
        self.ended_at: float | None = None
        """When the other side said that its call is over."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when there may be something to send, or the connection is to be closed."""
        self.on_begin: Callable[[str], None] = lambda _call_id: None
        self._switchboard = switchboard
        self._tenant = tenant

    def receive(self, message: bytes | str) -> None:
        """Take a message. Never raises: what is wrong is the session's `fault`."""
        if self.over and not self.leaving:
            return
        self.heard_at = time.monotonic()
        try:
            events = self.decoder.receive(message)
            if not self.over:
                self._take(events)
        except Fault as fault:
            self._fail(fault)
        except Exception:
            # A mistake of ours costs one connection, and is told.
            log.exception("a connection ended by a mistake", extra={"protocol": self.route.name})
            self._fail(Fault("a mistake of the server's", "internal", CloseCode.INTERNAL_ERROR))
        if len(self.decoder.outbox) > UNREAD:
            self._fail(Fault("the answers are not read", "slow"))
        if self.decoder.outbox or self.decoder.finished:
            self.on_change()

    @property
    def leaving(self) -> bool:
        """Whether the other side was told that the session ends, and has not closed it yet."""
        return self.fault is not None and self.route.bye is not None and not self.decoder.finished

    @property
    def must_wait(self) -> bool:
        """Whether who sends faster than Kafka takes it is to be made to wait."""
        return self.call is not None and not self.route.live and self.call.ring.full

    def lost(self) -> None:
        """The connection is no more. A second time does nothing."""
        if not self.over:
            try:
                self._take(self.decoder.lost())
            except Fault as fault:
                self._fail(fault)
        self._leave()

    def end(self, fault: Fault) -> None:
        """Close the connection for a reason of our own."""
        self._fail(fault)

    def tell(self, event: object) -> None:
        """Hand the decoder what became of its call."""
        assert self.route.tell is not None
        self.route.tell(self.decoder, event)  # type: ignore[arg-type]
        self.on_change()

    def _fail(self, fault: Fault) -> None:
        if self.over:
            return
        try:
            self._take(fault.before)
        except Fault:
            pass  # the first one is what the other side is told
        self.fault = fault
        if self.route.bye is not None:
            self.route.bye(self.decoder, fault)
        metrics.FAULTS.labels(self.route.name, fault.counted_as).inc()
        log.info("connection ended: %s", fault, extra={"protocol": self.route.name, "peer": self.request.peer})
        self._leave()
        self.on_change()

    def _take(self, events: Sequence[Event]) -> None:
        if not events:
            return
        at_ms = now_ms()
        said = events
        if self.leg is None or self.call is None:
            began, *rest = events
            if not isinstance(began, Began):
                raise Fault("something of a call before its start", "early")
            self.leg, self.call = self._switchboard.calls.join(began, self.route, self._tenant, at_ms)
            self.on_begin(self.call.line.info.call_id)
            events = rest
        if self._recording is not None:
            self._recording.take(said)
        try:
            self.leg.take(events, at_ms)
        finally:
            if events and isinstance(events[-1], Ended):
                self.ended_at = self.heard_at
            if self.call.line.ended:
                self._switchboard.calls.forget_ended(self.call)

    def _leave(self) -> None:
        self.over = True
        if self._recording is not None:
            self._recording.close()
        if self.leg is not None and self.call is not None:
            self.leg.leave(now_ms())
            self._switchboard.calls.forget_ended(self.call)

    def overdue(self, now: float, settings: Serve) -> Fault | None:
        """Why the connection has to go: it began no call, said nothing, its call is over or too long."""
        if self.over:
            return None
        if self.ended_at is not None:
            if now - self.ended_at > RESULTS_S:
                return Fault("the call is over and its last results did not come", "no_results", 1011)
            return None
        if self.call is not None and self.call.line.ended:
            return Fault("the call is longer than may be", "too_long", 1000)
        code, why = self.route.idle
        # On a line that is not live a client may wait for its call, as long as it says that it is still there.
        since = self.begun_at if self.route.live else self.heard_at
        if self.leg is None and now - since > settings.handshake_s:
            return Fault(why, "handshake", code)
        if now - self.heard_at > settings.idle_s:
            if self.leg is not None:
                self.leg.said_end = "idle"
            return Fault(why, "idle", code)
        return None


class Socket(ServerConnection):
    """A websocket whose messages go to its session as they come in, not by way of a queue and a task of its own.

    On a live line whole, short, masked messages are not even shown to the library: 50,000 a second is what 500 calls
    send. It sees control frames, and from the first frame that is anything else on all of them.
    """

    limit = 0
    """Longest message, bytes."""
    _tail = b""
    """The beginning of a frame whose end is still to come."""
    _plain = True
    """Whether nothing but plain frames has come so far."""

    session: Session | None = None
    _pieces: list[bytes] | None = None
    _text = False
    _held: deque[Frame] | None = None
    """What had arrived already when the client was made to wait: one read of the socket at most."""
    _refused_as = "handshake"
    """Why the connection ends, if it ends before its handshake is answered."""

    def __init__(self, switchboard: "Switchboard", *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._switchboard = switchboard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is there, who may never say what for: of those there are no more than so many."""
        super().connection_made(transport)
        if self._switchboard.has_room_for_strangers:
            self._switchboard.strangers.add(self)
        else:
            self._refused_as = "full"
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Any piece of the stream; before the handshake is answered it is the library's."""
        session = self.session
        if session is None or not self._plain or not session.route.live or self.response is None:
            super().data_received(data)
            return
        if self._tail:
            data, self._tail = self._tail + data, b""
        at, size = 0, len(data)
        while size - at >= 2:
            opcode, length, head = data[at], data[at + 1] & 0x7F, at + 6
            if length == 126:
                head = at + 8
                if size < head:
                    break
                length = data[at + 2] << 8 | data[at + 3]
            end = head + length
            if opcode not in _PLAIN or not data[at + 1] & 0x80 or length > self.limit or data[at + 1] == 0xFF:
                self._plain = False
                super().data_received(data[at:])
                return
            if size < end:
                break
            if opcode & 0x08:
                super().data_received(data[at:end])
            else:
                payload = apply_mask(data[head:end], data[head - 4 : head])
                self._say(payload, opcode == 0x81)
            at = end
        self._tail = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Not even a handshake came, or what came was none."""
        self._switchboard.strangers.discard(self)
        if self.response is None:
            metrics.REFUSED.labels("none", self._refused_as).inc()
        super().connection_lost(exc)

    def send_data(self) -> None:
        """Of the library: what it or the process has to say goes to the transport."""
        super().send_data()
        if self.transport.get_write_buffer_size() > UNSENT and self.session is not None:
            self.session.end(Fault("what is answered is not read", "slow"))
            self.transport.abort()

    def process_event(self, event: object) -> None:
        """One frame, or the handshake."""
        if self.session is None or not isinstance(event, Frame) or event.opcode not in _DATA:
            super().process_event(event)  # type: ignore[arg-type]
        elif self._held is not None:
            self._held.append(event)
        else:
            self._hear(event)
            if self.session.must_wait:
                self._held = deque()
                self.transport.pause_reading()

    @property
    def waits(self) -> bool:
        """Whether the client is made to wait."""
        return self._held is not None

    def go_on(self) -> None:
        """Hear what was held, and more of it, as far as there is room."""
        assert self.session is not None and self._held is not None
        while self._held and not self.session.must_wait:
            self._hear(self._held.popleft())
        if not self._held and not self.session.must_wait:
            self._held = None
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def hear_held(self) -> None:
        """The connection ends: what has arrived is heard, room or not."""
        while self._held:
            self._hear(self._held.popleft())

    def _hear(self, event: Frame) -> None:
        assert self.session is not None
        data = bytes(event.data)
        if event.opcode is not Opcode.CONT:
            self._text = event.opcode is Opcode.TEXT
        if not event.fin or event.opcode is Opcode.CONT:
            self._pieces = self._pieces or []
            self._pieces.append(data)
            if not event.fin:
                if len(self._pieces) > PIECES:
                    self._pieces = None
                    self.session.end(Fault("a message in too many pieces", "pieces", CloseCode.MESSAGE_TOO_BIG))
                return
            data, self._pieces = b"".join(self._pieces), None
        self._say(data, self._text)

    def _say(self, data: bytes, is_text: bool) -> None:
        assert self.session is not None
        if not is_text:
            self.session.receive(data)
            return
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.session.end(Fault("text that is not UTF-8", "not_utf8", CloseCode.INVALID_DATA))
            return
        self.session.receive(text)


_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_BROKEN: Final = {1002: "frame", 1007: "not_utf8", 1009: "too_long"}
"""Close codes with which the library ends a connection by itself, as they are counted."""
_PLAIN: Final = frozenset({0x81, 0x82, 0x88, 0x89, 0x8A})
"""First bytes of whole frames: text, binary, close, ping, pong."""


class Stream(asyncio.Protocol):
    """A TCP connection of AudioSocket."""

    def __init__(self, switchboard: "Switchboard") -> None:
        self._switchboard = switchboard
        self._session: Session | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in, or not."""
        # uvloop's are no subclass of it.
        self._transport = transport = cast(asyncio.Transport, transport)
        peer = str((transport.get_extra_info("peername") or ("",))[0])
        why = self._switchboard.refuses(AUDIOSOCKET, peer)
        if why:
            metrics.REFUSED.labels(AUDIOSOCKET.name, why).inc()
            transport.abort()
            return
        request = Request(peer, role=self._switchboard.audiosocket_role)
        session = Session(self._switchboard, AUDIOSOCKET, request, "")
        session.on_change = self._changed
        self._session = session
        self._switchboard.add(session)

    def data_received(self, data: bytes) -> None:
        """Any piece of the stream."""
        if self._session is not None:
            self._session.receive(data)

    def eof_received(self) -> bool:
        """No more comes; what is to be answered is."""
        if self._session is not None:
            self._session.lost()
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        """It is no more."""
        if self._session is not None:
            self._session.lost()
            self._switchboard.discard(self._session)

    def _changed(self) -> None:
        assert self._session is not None
        decoder, transport = self._session.decoder, self._transport
        for message in decoder.outbox:
            transport.write(message.encode() if isinstance(message, str) else message)
        decoder.outbox.clear()
        if transport.get_write_buffer_size() > UNSENT:
            metrics.FAULTS.labels(AUDIOSOCKET.name, "slow").inc()
            transport.abort()
        elif self._session.over or decoder.finished:
            transport.close()


class Switchboard:
    """The process: listens while `run` runs, until `stop` is set. Port 0 of the settings: a free one; `port` and
    `audiosocket_port` say which."""

    def __init__(self, settings: Settings, serving: Serve, stop: threading.Event, results: bool = True) -> None:
        """`results`: whether calls' results are read back, for the protocols that answer with them.

        Raises CalltideError for keys or networks that are none, and where anyone could bring calls and nobody said
        that this is meant.
        """
        self.port = self.audiosocket_port = 0
        self._settings = settings
        self._serve = serving
        self._stop = stop
        check_open(serving)
        self._keys = Keys(serving.keys)
        self._signatures = Signatures(serving.audiohook_secrets, serving.twilio_auth_token)
        asks = settings.api.keys or settings.api.jwks_url
        self._access = Access(settings, serving.host) if asks else None
        self._networks = Networks(serving.audiosocket_networks)
        self._feed = Feed(settings, frames("live"))
        journal = settings.directory / "run" / "serve.calls"
        try:
            self.calls = Calls(serving, settings.ingest.packet_ms, self._feed, journal, now_ms())
        except OSError as error:
            raise CalltideError(f"cannot write to {journal} ({error.strerror}); set CALLTIDE_HOME to another") from None
        self._results = Results(settings) if results else None
        self._sessions: set[Session] = set()
        self._sockets: set[Socket] = set()
        """Of protocols whose clients can be made to wait."""
        self.strangers: set[Socket] = set()
        """Connections whose handshake has not come yet."""
        self._languages = settings.asr.languages
        self._draining = False
        self._most = 2 * serving.calls + 100
        """Connections that there may be. Judgement: two for each call, and some that have not begun theirs."""
        self.recordings = settings.directory / "recordings"
        self.audiosocket_role = serving.audiosocket_role

    def refuses(self, route: Route, peer: str) -> str:
        """A word for why no connection of this kind is let in now; empty: it is."""
        if self._draining:
            return "stopping"
        if self.calls.full or len(self._sessions) >= self._most:
            return "full"
        if route is AUDIOSOCKET and peer not in self._networks:
            return "network"
        return ""

    @property
    def has_room_for_strangers(self) -> bool:
        """Whether one more connection may take its time to say what it is."""
        return len(self.strangers) < self._most

    def add(self, session: Session) -> None:
        """A connection is there."""
        self._sessions.add(session)
        metrics.CONNECTIONS.labels(session.route.name).inc()

    def discard(self, session: Session) -> None:
        """It is no more."""
        if session in self._sessions:
            self._sessions.discard(session)
            metrics.CONNECTIONS.labels(session.route.name).dec()

    async def run(self, health: Health | None = None) -> None:
        """Serve. Raises CalltideError: a port is taken, Kafka refuses or did not take the last records."""
        metrics.begin(route.name for route in (*ROUTES.values(), AUDIOSOCKET))
        if self._results is not None:
            await self._results.start()
        websockets, tcp = await self._listen()
        # What a message makes is freed by its reference count; to look for cycles among all there is, many times a
        # second, costs a tenth of the work.
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        health = health or Health()
        stopping = asyncio.create_task(asyncio.to_thread(self._stop.wait))
        try:
            ticked = 0.0
            while not stopping.done():
                await asyncio.wait({stopping}, timeout=PUMP_S)
                self._feed.pump()
                for socket in self._sockets:
                    if socket.waits:
                        socket.go_on()
                if time.monotonic() - ticked >= TICK_S:
                    ticked = time.monotonic()
                    self._tick(ticked)
                    health.beat()
                    if self._feed.answers:
                        health.ready(calls=len(self.calls), connections=len(self._sessions))
                    else:
                        health.waiting("Kafka does not answer; calls are kept as long as there is room")
        finally:
            self._draining = True
            self._stop.set()
            await stopping
            health.waiting("stopping")
            await self._drain(websockets, tcp)
            await asyncio.to_thread(self._feed.close, FLUSH_S)

    def _tick(self, now: float) -> None:
        self.calls.tick(now_ms())
        for session in list(self._sessions):
            if fault := session.overdue(now, self._serve):
                session.end(fault)

    async def _listen(self) -> tuple[Server, asyncio.Server]:
        serving = self._serve
        try:
            websockets = await serve(
                self._converse,
                serving.host,
                serving.port,
                process_request=self._admit,
                process_response=_granted,
                select_subprotocol=subprotocol,
                # It may be anything that makes one; it is typed as a class.
                create_connection=cast("type[Socket]", partial(Socket, self)),
                compression=None,
                max_size=serving.message_kb * 1_024,
                open_timeout=serving.handshake_s,
                close_timeout=CLOSE_S,
            )
        except OSError as error:
            raise _taken(serving.host, serving.port, "PORT", error) from None
        try:
            loop = asyncio.get_running_loop()
            tcp = await loop.create_server(lambda: Stream(self), serving.host, serving.audiosocket_port)
        except OSError as error:
            websockets.close()
            raise _taken(serving.host, serving.audiosocket_port, "AUDIOSOCKET_PORT", error) from None
        self.port = websockets.sockets[0].getsockname()[1]
        self.audiosocket_port = tcp.sockets[0].getsockname()[1]
        log.info("ready", extra={"port": self.port, "audiosocket_port": self.audiosocket_port})
        return websockets, tcp

    async def _drain(self, websockets: Server, tcp: asyncio.Server) -> None:
        """Let nobody in, end every call properly, say goodbye."""
        tcp.close()
        for socket in self._sockets:
            socket.hear_held()
        for session in list(self._sessions):
            session.end(Fault("the server stops; connect again", "stopping", CloseCode.GOING_AWAY))
        self.calls.end_all(now_ms())
        try:
            async with asyncio.timeout(STOP_S):
                # Each says goodbye in its protocol's way; to close the server would come before it.
                while self._sessions:
                    await asyncio.sleep(PUMP_S)
        except TimeoutError:
            for connection in tuple(websockets.all_connections):
                connection.transport.abort()
        websockets.close(code=CloseCode.GOING_AWAY, reason="the server stops; connect again")
        await websockets.wait_closed()
        if self._results is not None:
            await self._results.close()

    # A websocket

    async def _admit(self, connection: ServerConnection, handshake: Handshake) -> Response | None:
        """The opening handshake: the path, the key, room for one more, and what the query asks for."""
        assert isinstance(connection, Socket)
        self.strangers.discard(connection)
        path, _, query = handshake.path.partition("?")
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "ok\n")
        found = _route(path)
        if found is None:
            metrics.REFUSED.labels("none", "path").inc()
            return connection.respond(HTTPStatus.NOT_FOUND, f"calls are taken at {', '.join(ROUTES)}\n")
        route, rest = found
        headers = {name.lower(): value for name, value in handshake.headers.raw_items()}
        peer = str((connection.remote_address or ("",))[0])
        request = Request(peer, path=path, query=query, headers=headers, languages=self._languages)
        shown = presented(headers, request.fields, rest)
        tenant = self._keys.tenant(route.name, shown)
        if route.name == "microphone" and shown and self._access is not None:
            # Who speaks into the web app's microphone has its key.
            tenant = await asyncio.to_thread(_tenant_of, self._access, shown[0], tenant)
        if tenant is None or (rest and not self._keys.guards(route.name)):
            return _refusal(route, request, 401, "unauthorized", "no valid key")
        if not self._signatures.hold(route.name, Signed(handshake.path, headers)):
            return _refusal(route, request, 401, "unsigned", "not signed as it has to be")
        if why := self.refuses(route, peer):
            return _refusal(route, request, 503, why, "no more calls can be taken now; try again later")
        try:
            session = Session(self, route, request, tenant)
        except Fault as fault:
            return _refusal(route, request, 400, fault.counted_as, str(fault))
        connection.session = session
        connection.limit = self._serve.message_kb * 1_024
        return None

    async def _converse(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Socket) and connection.session is not None
        session = connection.session
        self.add(session)
        changed = asyncio.Event()
        sent = asyncio.Event()
        telling: list[asyncio.Task[None]] = []

        def on_begin(call_id: str) -> None:
            if session.route.tell is not None and self._results is not None:
                telling.append(asyncio.create_task(self._tell(session, call_id, sent)))

        session.on_change, session.on_begin = changed.set, on_begin
        if session.call is not None:
            on_begin(session.call.line.info.call_id)
        if not session.route.live:
            self._sockets.add(connection)
        closed = asyncio.create_task(connection.wait_closed())
        changed.set()
        try:
            while not closed.done():
                waiting = asyncio.create_task(changed.wait())
                await asyncio.wait({waiting, closed}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                changed.clear()
                await _answer(connection, session)
                sent.set()
                if session.fault is not None:
                    deadline = time.monotonic() + BYE_S
                    while session.leaving and not closed.done() and time.monotonic() < deadline:
                        await asyncio.sleep(PUMP_S)
                    await _answer(connection, session)
                    await connection.close(session.fault.close_code, _reason(str(session.fault)))
                elif session.decoder.finished:
                    await connection.close()
        except TimeoutError:
            if session.fault is None:
                metrics.FAULTS.labels(session.route.name, "slow").inc()
            connection.transport.abort()
        except ConnectionClosed:
            pass
        finally:
            connection.hear_held()
            websocket = connection.protocol
            said = None if session.fault or websocket.close_rcvd_then_sent else websocket.close_sent
            if said is not None and (word := _BROKEN.get(said.code)):
                metrics.FAULTS.labels(session.route.name, word).inc()
            session.lost()
            self.discard(session)
            self._sockets.discard(connection)
            for task in (closed, *telling):
                task.cancel()
            await asyncio.gather(closed, *telling, return_exceptions=True)

    async def _tell(self, session: Session, call_id: str, sent: asyncio.Event) -> None:
        assert self._results is not None
        async for event in self._results.results(call_id):
            sent.clear()
            session.tell(event)
            # What a slow client has no room for waits where there is an order of what to drop.
            await sent.wait()
        if session.decoder.finished or self._draining:
            return
        metrics.UNTOLD.labels(session.route.name).inc()
        # A telephone call goes on without; to the others the results are what they connected for.
        if not session.route.live:
            session.end(Fault("too slow for the results, or they end here", "results_lost", 1013))


def _granted(connection: ServerConnection, _handshake: Handshake, response: Response) -> None:
    assert isinstance(connection, Socket)
    if connection.session is not None:
        response.headers.update(connection.session.route.granted(connection.session.request.id))


async def _answer(connection: ServerConnection, session: Session) -> None:
    """Send what the decoder has to say. Raises TimeoutError for a client that does not read."""
    while session.decoder.outbox:
        answers = session.decoder.outbox[:]
        session.decoder.outbox.clear()
        for answer in answers:
            async with asyncio.timeout(SEND_S):
                await connection.send(answer)


def _route(path: str) -> tuple[Route, str] | None:
    """The protocol of a path, and what stands behind it."""
    for known, route in ROUTES.items():
        if path == known or path == known + "/":
            return route, ""
        if path.startswith(known + "/"):
            return route, path[len(known) + 1 :]
    return None


def _refusal(route: Route, request: Request, status: int, why: str, message: str) -> Response:
    metrics.REFUSED.labels(route.name, why).inc()
    headers, body = route.refused(status, message, request.id)
    more = {"Content-Length": str(len(body)), "Connection": "close"}
    if status == 401:
        more["WWW-Authenticate"] = "Bearer"
    if status == 503:
        more["Retry-After"] = "5"
    return Response(status, HTTPStatus(status).phrase, Headers(headers | more), body)


def _tenant_of(access: Access, key: str, otherwise: str | None) -> str | None:
    """The tenant of a key or token of the API that may bring calls, "" where it is of all; or else `otherwise`."""
    try:
        who = access.of(key).who
    except Refusal:
        return otherwise
    return (who.tenant or "") if who.role in ALLOWED["ingest"] else otherwise


def _reason(text: str) -> str:
    """A close frame has room for 123 bytes."""
    return text.encode()[:120].decode(errors="ignore")


def _taken(host: str, port: int, name: str, error: OSError) -> CalltideError:
    return CalltideError(
        f"cannot listen on {host}:{port} ({error.strerror or error}); stop the program that does, or set "
        f"CALLTIDE_SERVE__{name} or CALLTIDE_SERVE__HOST"
    )


def serve_until(settings: Settings, serving: Serve, stop: threading.Event, health: Health) -> None:
    """Take calls until `stop` is set. Raises CalltideError as `Switchboard.run`."""
    # The library tells each connection it opens and closes, and each handshake that was none.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    uvloop.run(Switchboard(settings, serving, stop).run(health))
