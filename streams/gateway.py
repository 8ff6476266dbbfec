"""The websocket gateway: pushes what is committed to the topic `scores`, live or from a cursor (docs/gateway.md). Who
asks for it also gets interim results as they come; those cannot be had again, so they move no cursor. Nor does what is
made of the scores (figures, alerts, insights): who comes back is told what there is of the running calls. Who asks for
a replay gets that and nothing of the live calls.

One thread reads Kafka and hands each batch to the event loop, waiting until it is dispatched. It goes at once to all
clients that have taken in what was sent before (`_Client.at_rest`); to the others, one task a client sends from its
bounded backlog, so a stalled client delays nobody. A client with a cursor is first served by a reader of its
own, up to the live position. Who asks is known by the keys, tokens and sessions of the API (streams/api/access.py).

A changer must know: `_dispatch` runs in the event loop, and a client joins there with no await between reading the live
position and joining. That is why what it reads by itself and what is pushed to it fit without a hole or an overlap.
A subscription is bound to its client's tenant (`_bound`) before anything else sees it: nothing behind that asks again.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pydantic
import uvloop
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec
from prometheus_client import Counter, Gauge, Histogram
from starlette.requests import Request as Asking
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from deploy.topics import LEADERLESS
from schemas.errors import CalltideError
from schemas.events import Score, decode
from schemas.replayed import ReplayPosition
from schemas.topics import FINDINGS, SCORES, SCORES_REPLAYED, TRANSCRIPTS_INTERIM
from streams import asyncapi, kafka
from streams.api.access import ALLOWED, COOKIE, LEEWAY_S, Access, Known
from streams.api.problems import Fault
from streams.ingestion.auth import presented, subprotocol
from streams.replayed import Replayed, Replays
from streams.settings import Settings
from streams.subscriptions import (
    FOUND,
    Backlog,
    Cursor,
    Findings,
    Positions,
    Record,
    RunningCalls,
    Subscription,
    event_message,
    notice,
    subject,
)

FINDINGS_TOPICS: Final = {one.kind: one.topic for one in FINDINGS}

PROTOCOL: Final = 1
PATH: Final = "/v1/scores"
DESCRIPTION: Final = "/v1/asyncapi.json"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

FIRST_MESSAGE_SECONDS: Final = 1.0
"""How long a client without a query may take to send its subscription. Judgement: round trips round the world."""

KEY_SECONDS: Final = 5.0
"""How long a client without a key may take to send one. Judgement: as above, and a person's phone on a bad line."""

STRANGERS: Final = 1_000
"""Clients at one time that have sent no key yet. Judgement: 20 MB; more are told to come again."""

CHANGE_SECONDS: Final = 0.1
"""Shortest time between two changes of a subscription. Judgement: a person changes a filter less often, and to look for
what there is for one with history may take as long."""

MESSAGE_BYTES: Final = 2**18
"""Longest message of a client: a subscription with far more values than it may have is refused in words."""

IDLE_SECONDS: Final = 15.0
"""A client to which nothing was pushed for so long is told the position: a page sees no pings, a cursor stays young."""

UNSENT_BYTES: Final = 2**15
"""With so much that the network has not taken a client is behind. The library's own mark of when a writer waits."""

STALL_SECONDS: Final = 60.0
"""A client that takes no byte for so long is cut off. Judgement: longer than a phone's change of network."""

CLOSE_SECONDS: Final = 15.0
"""How long a client may take to answer the closing handshake."""

STOP_SECONDS: Final = 1.0
"""The same when the gateway stops."""

KAFKA_SECONDS: Final = 5.0
"""Longest wait for an answer of Kafka's before it counts as unreachable."""

BATCH: Final = 500
"""Records read at once. Judgement: dispatching so many takes milliseconds, no client waits longer for its turn."""

READERS: Final = 4
"""Clients that are served from a cursor at one time; more wait. Judgement: enough to fill two cores after a restart."""

log = logging.getLogger(__name__)

CLIENTS = Gauge("calltide_gateway_clients", "Websocket clients that are live now")
PUSHED = Counter("calltide_gateway_events_pushed", "Events put into clients' backlogs")
SLOW = Counter("calltide_gateway_slow_clients", "Clients closed because they were too slow")
UNREADABLE = Counter("calltide_gateway_unreadable_records", "Records of the topic that are no event")
MISSED = Counter("calltide_gateway_missed_interim", "Interim results that clients did not get because they are slow")
LATENCY = Histogram(
    "calltide_end_to_end_seconds",
    "From the capture of an utterance's last sample to the push of its score",
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10, 30),
)


class _Refused(CalltideError):
    """What a client asked for cannot be: it is told, and closed with `code`."""

    def __init__(self, message: str, error: str = "invalid", code: int = CloseCode.POLICY_VIOLATION) -> None:
        super().__init__(message)
        self.error = error
        self.code = code


def _refused(fault: Fault) -> _Refused:
    """The same for what the API would answer with a status: 4401 is its 401."""
    again = fault.status == HTTPStatus.SERVICE_UNAVAILABLE
    return _Refused(fault.message, fault.error, CloseCode.TRY_AGAIN_LATER if again else 4_000 + fault.status)


class _TopicLog:
    """The topic in Kafka, read without a group. Every call blocks, so it is for threads.

    Raises CalltideError when Kafka does not answer or the topic is not there.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        # What goes wrong is raised where it was asked for.
        self._admin = AdminClient(kafka.client(settings, error_cb=lambda error: None))

    def partitions(self) -> int:
        """How many the topic has."""
        try:
            found = self._admin.list_topics(self._topic, timeout=KAFKA_SECONDS).topics[self._topic]
        except KafkaException as error:
            raise self._unreachable(error) from None
        if found.error:
            raise CalltideError(
                f"no topic {self._topic} on Kafka at {self._settings.bootstrap_servers} ({found.error.str()}); "
                "`calltide topics create` makes it"
            )
        return len(found.partitions)

    def offsets(self, partitions: Iterable[int], spec: OffsetSpec) -> Positions:
        """Offset by partition, of committed records only; −1 where none fits."""
        wanted = {TopicPartition(self._topic, partition): spec for partition in partitions}
        deadline = time.monotonic() + KAFKA_SECONDS
        while True:
            futures = self._admin.list_offsets(
                wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=KAFKA_SECONDS
            )
            try:
                return {place.partition: future.result().offset for place, future in futures.items()}
            except KafkaException as error:
                # A partition changes its leader, or has none yet: unlike reading, asking is not repeated by the client.
                if error.args[0].code() not in LEADERLESS or time.monotonic() > deadline:
                    raise self._unreachable(error) from None
            time.sleep(0.05)

    def consumer(self, positions: Mapping[int, int], on_error: Callable[[KafkaError], None] | None = None) -> Consumer:
        """A consumer of committed records from `positions` on; it also tells when it reaches a partition's end."""
        more: dict[str, Any] = {
            # Never joined and never committed to: the client library insists on a name.
            "group.id": f"{self._settings.kafka.group_prefix}.gateway",
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
        consumer = Consumer(kafka.consumer(self._settings, **more | ({"error_cb": on_error} if on_error else {})))
        self.assign(consumer, positions)
        return consumer

    def assign(self, consumer: Consumer, positions: Mapping[int, int]) -> None:
        """Read on from `positions`."""
        consumer.assign([TopicPartition(self._topic, partition, offset) for partition, offset in positions.items()])

    def _unreachable(self, error: KafkaException) -> CalltideError:
        return CalltideError(
            f"no Kafka at {self._settings.bootstrap_servers} ({error.args[0].str()}); start it with `calltide up`, or "
            "set CALLTIDE_KAFKA__BOOTSTRAP_SERVERS"
        )


def _read(consumer: Consumer, timeout: float) -> list[Message]:
    """What is there; waits for the first only. Messages with an error are among it."""
    first = consumer.poll(timeout)
    return [] if first is None else [first, *consumer.consume(BATCH - 1, 0)]


def _at_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def _is_gone(message: Message) -> bool:
    """Whether the offset asked for is not, or no more, in the topic."""
    error = message.error()
    return error is not None and error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


def _record(message: Message) -> Record | None:
    """The event of a message. What is none is counted and logged, and not pushed: no subscription can ask for it."""
    partition, offset, value = kafka.partition_of(message), message.offset() or 0, message.value() or b""
    try:
        headers = {name: content for name, content in kafka.headers_of(message) if content is not None}
        return Record(partition, offset, decode(headers, value), value.decode())
    except (KeyError, UnicodeDecodeError, pydantic.ValidationError) as error:
        UNREADABLE.inc()
        log.warning("record is no event", extra={"partition": partition, "offset": offset, "reason": repr(error)[:200]})
        return None


def _replayed(message: Message) -> Replayed | None:
    """The same for a record of a replay, which may also be where that is."""
    headers = {name: content for name, content in kafka.headers_of(message) if content is not None}
    what: Record | ReplayPosition | None
    try:
        if headers.get("kind") == b"replay_position":
            what = ReplayPosition.model_validate_json(message.value() or b"")
        else:
            what = _record(message)
        return Replayed.of(headers, message.timestamp()[1] / 1_000, what) if what else None
    except (KeyError, pydantic.ValidationError) as error:
        UNREADABLE.inc()
        log.warning("record is of no replay", extra={"offset": message.offset(), "reason": repr(error)[:200]})
        return None


async def _end(connection: ServerConnection, code: int, reason: str, last: str | None = None) -> None:
    """Close, after one `last` message; a client that does not answer in time is cut off."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            if last:
                await connection.send(last)
            # A close frame has room for 123 bytes.
            await connection.close(code, reason.encode()[:120].decode(errors="ignore"))
    except TimeoutError:
        connection.transport.abort()
    except ConnectionClosed:
        pass


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _fields(message: str | bytes) -> dict[str, list[str]]:
    """A subscription sent as JSON: each field a text or a list of texts. Raises CalltideError for anything else."""
    try:
        fields = json.loads(message)
        lists = {name: [value] if isinstance(value, str) else value for name, value in fields.items()}
        if all(isinstance(value, list) and all(isinstance(one, str) for one in value) for value in lists.values()):
            return lists
    except (ValueError, AttributeError):
        pass
    raise CalltideError('a message must be a subscription in JSON, such as {"queue": ["billing", "sales"]}')


def _asking(connection: ServerConnection) -> Asking:
    """The handshake, as the API knows requests. Which pages may ask is for `_admit`: they lie at another port."""
    assert connection.request
    path, _, query = connection.request.path.partition("?")
    headers = [(name.lower(), value) for name, value in connection.request.headers.raw_items()]
    return Asking(
        {
            "type": "http", "method": "GET", "scheme": "ws", "path": path, "query_string": query.encode(),
            "client": connection.remote_address[:2], "headers": [
                (name.encode("latin-1"), value.encode("latin-1", "replace"))
                for name, value in headers if name not in ("origin", "sec-fetch-site")
            ],
        }
    )  # fmt: skip


@dataclass(slots=True)
class _Change:
    """A new subscription of a running connection, whose turn comes when all before it has been sent."""

    text: str
    """The message that says so."""
    place: Cursor | None
    history: bool
    running: Sequence[tuple[Record, str]] = ()
    found: Sequence[Record] = ()
    shown: Sequence[str] = ()
    """Texts of replays."""
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when all of it has been sent."""


class _Client:
    """A subscribed connection."""

    def __init__(self, connection: ServerConnection, known: Known, wanted: Subscription, backlog: Backlog) -> None:
        self.connection = connection
        self.known = known
        self.wanted = wanted
        self.backlog = backlog
        self.change: _Change | None = None
        self.live = asyncio.Event()
        """Set when all that was to be read back for it has been sent."""
        self.filled = asyncio.Event()
        self.waits = False
        """All that was put was sent, and its task waits for more."""
        self.pushed = time.monotonic()
        """When it was last sent something."""
        # Where its cursor was ahead of this gateway, having come from another one: what lies below was pushed there.
        self.ahead: Positions = {}
        self.gone = threading.Event()

    def positions(self, live: Positions) -> Positions:
        """Its own position while the gateway's is `live`."""
        return {partition: max(offset, self.ahead.get(partition, 0)) for partition, offset in live.items()}

    def cursor(self, whole: str) -> str:
        """What to send with a record: a client of one call needs the place in its partition only."""
        return whole.partition("~")[0] if self.wanted.one_call else whole

    @property
    def seconds_left(self) -> float | None:
        """How long its key is good for; None: as long as the gateway runs. Clocks may differ, as of requests."""
        return None if self.known.until is None else max(0.0, self.known.until + LEEWAY_S - time.time())

    @property
    def at_rest(self) -> bool:
        """Whether nothing is before a new message: it can be sent past the backlog."""
        return self.waits and self.connection.transport.get_write_buffer_size() < UNSENT_BYTES

    def put(self, text: str, key: tuple[str, ...] | None = None) -> bool:
        """Let it wait its turn. False: too much waits already."""
        self.waits = False
        self.filled.set()
        return self.backlog.put(text, key)

    async def send(self, text: str) -> None:
        """Send now. Raises TimeoutError when the client takes nothing for too long."""
        async with asyncio.timeout(STALL_SECONDS):
            await self.connection.send(text)


class Gateway:
    """One gateway on `settings.gateway.host:port` (port 0: a free one; `address` says which) that reads `topic`.

    It serves while `run()` runs, until `stop` is set.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str = SCORES,
        stop: threading.Event | None = None,
        interim_topic: str = TRANSCRIPTS_INTERIM,
        replayed_topic: str = SCORES_REPLAYED,
        findings: Mapping[str, str] = FINDINGS_TOPICS,
    ) -> None:
        """`findings`: kind → topic of what is made of the scores."""
        self.stop = stop or threading.Event()
        self.address = ""
        self._settings = settings
        self._topic = topic
        self._interim_topic = interim_topic
        self._interim: threading.Thread | None = None
        """Reads interim results, once somebody has asked for them."""
        self._findings_topics = findings
        self._findings = Findings()
        self._following: dict[str, threading.Thread] = {}
        """Topic → who reads findings there, once somebody has asked for them."""
        self._findings_known: dict[str, asyncio.Event] = {}
        """Topic → set when what is in it is known."""
        self._replayed_topic = replayed_topic
        self._replaying: threading.Thread | None = None
        """The same for replays."""
        self._replays = Replays()
        self._replays_known = asyncio.Event()
        self._access = Access(settings, settings.gateway.host)
        # Its own threads: who waits for an issuer of tokens keeps nobody from reading.
        self._asking = ThreadPoolExecutor(2, thread_name_prefix="access")
        self._strangers = 0
        self._log = _TopicLog(settings, topic)
        self._positions: Positions = {}
        self._unread: Positions = {}
        self._calls = RunningCalls()
        self._clients: set[_Client] = set()
        self._watchers: set[_Client] = set()
        """Clients that have asked for a replay."""
        self._endings: set[asyncio.Task[None]] = set()
        self._readers = asyncio.Semaphore(READERS)
        self._reachable = True
        self._live = asyncio.Event()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve; `ready` is called when the calls running now are known and clients are let in.

        Raises CalltideError: port taken, Kafka out of reach at the start, topic not there.
        """
        server = await self._bind()
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"ws://{f'[{host}]' if ':' in host else host}:{port}{PATH}"
        reader = asyncio.create_task(asyncio.to_thread(self._follow, asyncio.get_running_loop()))
        live = asyncio.create_task(self._live.wait())
        try:
            await asyncio.wait({reader, live}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                await server.start_serving()
                log.info("ready", extra={"address": self.address, "running_calls": len(self._calls)})
                ready()
            await asyncio.shield(reader)
        finally:
            live.cancel()
            self.stop.set()
            await self._close(server)
            # A cancelled run still waits for its threads, which end within a poll.
            await asyncio.wait({reader})
            for thread in (self._interim, self._replaying, *self._following.values()):
                if thread is not None:
                    await asyncio.to_thread(thread.join)
            self._asking.shutdown(wait=False)

    async def _bind(self) -> Server:
        gateway = self._settings.gateway
        try:
            # Bound, not yet listening: a taken port is told at once, and no client is let in before history is read.
            return await serve(
                self._serve,
                gateway.host,
                gateway.port,
                process_request=self._admit,
                select_subprotocol=subprotocol,
                compression="deflate" if gateway.compression else None,
                max_size=MESSAGE_BYTES,
                max_queue=4,
                close_timeout=CLOSE_SECONDS,
                start_serving=False,
            )
        except OSError as error:
            raise CalltideError(
                f"cannot listen on {gateway.host}:{gateway.port} ({error.strerror or error}); stop the program that "
                "does, or set CALLTIDE_GATEWAY__PORT or CALLTIDE_GATEWAY__HOST"
            ) from None

    async def _close(self, server: Server) -> None:
        server.close(code=CloseCode.GOING_AWAY, reason="the gateway stops; resume with from=<cursor>")
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.shield(server.wait_closed())
        except TimeoutError:
            for connection in tuple(server.all_connections):
                connection.transport.abort()
            await server.wait_closed()

    # From Kafka: in the reader's thread, but what `in_loop` is given runs in the event loop.

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read from `history_minutes` ago on until stopped."""

        def in_loop(function: Callable[..., None], *arguments: Any) -> None:
            async def call() -> None:
                function(*arguments)

            # Waiting for it is the backpressure: the thread is one batch ahead at most.
            asyncio.run_coroutine_threadsafe(call(), loop).result()

        partitions = range(self._log.partitions())
        # The end is asked first, so that a record that comes between the two answers is not passed over.
        ends = self._log.offsets(partitions, OffsetSpec.latest())
        since = time.time() - self._settings.gateway.history_minutes * 60
        begins = self._log.offsets(partitions, OffsetSpec.for_timestamp(int(since * 1000)))
        start = {at: begins[at] if 0 <= begins[at] < ends[at] else ends[at] for at in partitions}
        in_loop(self._begin, start, ends)

        down = threading.Event()

        def on_error(error: KafkaError) -> None:
            # Every attempt to connect is one of these: the log has the first and the last, by `_tell_reachable`.
            log.debug("kafka: %s", error.str())
            if error.code() == KafkaError._ALL_BROKERS_DOWN:
                down.set()

        consumer = self._log.consumer(start, on_error)
        try:
            while not self.stop.is_set():
                messages = _read(consumer, 0.2)
                for message in messages:
                    if (error := message.error()) and not _at_end(message):
                        log.warning("kafka: %s", error.str(), extra={"partition": kafka.partition_of(message)})
                records = [record for message in messages if not message.error() and (record := _record(message))]
                ended = [kafka.partition_of(message) for message in messages if _at_end(message)]
                if records or ended:
                    in_loop(self._dispatch, records, ended)
                gone = [kafka.partition_of(message) for message in messages if _is_gone(message)]
                if gone:
                    in_loop(self._skip, self._log.offsets(gone, OffsetSpec.earliest()))
                    self._log.assign(consumer, self._positions)
                if down.is_set():
                    answers = self._answers(consumer)
                    if answers:
                        down.clear()
                    if answers != self._reachable:
                        in_loop(self._tell_reachable, answers)
        finally:
            consumer.close()

    def _follow_interim(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read interim results from now on until stopped. Without them the gateway does all else."""
        log_ = _TopicLog(self._settings, self._interim_topic)
        try:
            consumer = log_.consumer(dict.fromkeys(range(log_.partitions()), OFFSET_END))
        except CalltideError as error:
            log.warning("no interim results: %s", error)
            return
        try:
            while not self.stop.is_set():
                messages = _read(consumer, 0.2)
                records = [record for message in messages if not message.error() and (record := _record(message))]
                if records:
                    loop.call_soon_threadsafe(self._offer_interim, records)
        finally:
            consumer.close()

    def _follow_findings(self, loop: asyncio.AbstractEventLoop, topic: str, known: asyncio.Event) -> None:
        """Read what is made of scores from `history_minutes` ago on until stopped. Without it all else is done."""
        log_ = _TopicLog(self._settings, topic)
        try:
            partitions = range(log_.partitions())
            ends = log_.offsets(partitions, OffsetSpec.latest())
            since = time.time() - self._settings.gateway.history_minutes * 60
            begins = log_.offsets(partitions, OffsetSpec.for_timestamp(int(since * 1000)))
            start = {at: begins[at] if 0 <= begins[at] < ends[at] else ends[at] for at in partitions}
            consumer = log_.consumer(start)
        except CalltideError as error:
            log.warning("nothing of %s: %s", topic, error)
            loop.call_soon_threadsafe(known.set)
            return

        async def offer(records: list[Record]) -> None:
            self._offer_findings(records)

        left = set(partitions)
        try:
            while not self.stop.is_set():
                messages = _read(consumer, 0.2)
                records = [record for message in messages if not message.error() and (record := _record(message))]
                if found := [record for record in records if record.event.kind in FOUND]:
                    # Waiting for it is the backpressure here, too.
                    asyncio.run_coroutine_threadsafe(offer(found), loop).result()
                if left:
                    left -= {kafka.partition_of(message) for message in messages if _at_end(message)}
                    if not left:
                        loop.call_soon_threadsafe(known.set)
        finally:
            # Whatever ended it, nobody is to wait for it.
            loop.call_soon_threadsafe(known.set)
            consumer.close()

    def _follow_replays(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read what replays have sent lately, then what they send, until stopped. Without them all else is done."""
        log_ = _TopicLog(self._settings, self._replayed_topic)
        try:
            left = set(range(log_.partitions()))
            consumer = log_.consumer(dict.fromkeys(left, OFFSET_BEGINNING))
        except CalltideError as error:
            log.warning("no replays: %s", error)
            loop.call_soon_threadsafe(self._replays_known.set)
            return

        async def offer(found: list[Replayed]) -> None:
            self._offer_replayed(found)

        try:
            while not self.stop.is_set():
                messages = _read(consumer, 0.2)
                if found := [one for message in messages if not message.error() and (one := _replayed(message))]:
                    # Waiting for it is the backpressure here, too.
                    asyncio.run_coroutine_threadsafe(offer(found), loop).result()
                if left:
                    left -= {kafka.partition_of(message) for message in messages if _at_end(message)}
                    if not left:
                        loop.call_soon_threadsafe(self._replays_known.set)
        finally:
            consumer.close()

    def _answers(self, consumer: Consumer) -> bool:
        try:
            consumer.list_topics(self._topic, timeout=1.0)
        except KafkaException:
            return False
        return True

    # In the event loop

    def _begin(self, start: Positions, ends: Positions) -> None:
        self._positions = start
        self._unread = {partition: end for partition, end in ends.items() if start[partition] < end}
        self._dispatch([], [])

    def _dispatch(self, records: Sequence[Record], ended: Sequence[int]) -> None:
        """Offer records to all clients. `ended`: partitions of which the last record has been read."""
        now = datetime.now(UTC)
        for record in records:
            self._positions[record.partition] = record.offset + 1
            cursor = str(Cursor(self._topic, self._positions, record.partition))
            self._calls.add(record, cursor, time.monotonic())
            self._offer(record, cursor, now)
            if self._unread.get(record.partition, record.offset + 2) <= record.offset + 1:
                del self._unread[record.partition]
            if self._live.is_set() and isinstance(record.event, Score):
                LATENCY.observe((now - record.event.captured_at).total_seconds())
        for partition in ended:
            self._unread.pop(partition, None)
        if not self._unread:
            self._live.set()

    def _offer(self, record: Record, whole: str, now: datetime) -> None:
        event = record.event
        texts: dict[str, str] = {}
        # By text: it is made into bytes once for all of them, and no task is woken for it.
        at_once: dict[str, list[_Client]] = {}
        slow = []
        for client in self._clients:
            if not client.wanted.wants(event) or record.offset < client.ahead.get(record.partition, 0):
                continue
            cursor = client.cursor(whole)
            if client.ahead:
                client.ahead = {at: offset for at, offset in client.ahead.items() if offset > self._positions[at]}
                cursor = client.cursor(str(Cursor(self._topic, client.positions(self._positions), record.partition)))
            if cursor not in texts:
                texts[cursor] = event_message(record, cursor, now)
            PUSHED.inc()
            if client.at_rest:
                at_once.setdefault(texts[cursor], []).append(client)
            elif not client.put(texts[cursor], subject(event)):
                slow.append(client)
        for text, clients in at_once.items():
            broadcast((client.connection for client in clients), text)
            pushed = time.monotonic()
            for client in clients:
                client.pushed = pushed
        self._end_slow(slow)

    def _offer_interim(self, records: Sequence[Record]) -> None:
        """To who asks for it, with the cursor where the client is; not to a client that has much waiting for it."""
        now = datetime.now(UTC)
        for record in records:
            for client in self._clients:
                if not client.wanted.wants(record.event):
                    continue
                if len(client.backlog) > self._settings.gateway.queue // 2:
                    MISSED.inc()
                    continue
                cursor = str(Cursor(self._topic, client.positions(self._positions)))
                client.put(event_message(record, cursor, now), subject(record.event))
                PUSHED.inc()

    def _offer_findings(self, records: Sequence[Record]) -> None:
        """With the cursor where the client is. Where much waits figures are left out: newer ones come in a second."""
        now, slow = datetime.now(UTC), []
        for record in records:
            self._findings.add(record, self._calls, time.monotonic())
            for client in self._clients:
                if not client.wanted.wants(record.event):
                    continue
                if record.event.kind == "metrics" and len(client.backlog) > self._settings.gateway.queue // 2:
                    MISSED.inc()
                    continue
                PUSHED.inc()
                if not client.put(event_message(record, str(self._place(client)), now), subject(record.event)):
                    slow.append(client)
        self._end_slow(slow)

    async def _know_findings(self, wanted: Subscription) -> None:
        """Have those of a client's kinds read, and wait until those that are there are known. Where Kafka does not
        answer, the client gets all else, and these when they come."""
        loop = asyncio.get_running_loop()
        for topic in {self._findings_topics[kind] for kind in FOUND if kind in wanted.kinds}:
            if topic not in self._following or not self._following[topic].is_alive():
                known = self._findings_known[topic] = asyncio.Event()
                thread = threading.Thread(
                    target=self._follow_findings, args=(loop, topic, known), name=topic, daemon=True
                )
                self._following[topic] = thread
                thread.start()
            with suppress(TimeoutError):
                async with asyncio.timeout(KAFKA_SECONDS):
                    await self._findings_known[topic].wait()

    def _offer_replayed(self, found: Sequence[Replayed]) -> None:
        """To who watches it. Nothing of it is counted: it says nothing of live calls."""
        now, known = datetime.now(UTC), self._replays_known.is_set()
        for one in found:
            tenants = self._replays.add(one)
            text = one.text(now) if self._watchers else ""
            watching = [client for client in self._watchers if known and one.wanted(client.wanted, tenants)]
            self._end_slow([client for client in watching if not client.put(text, one.key)])

    def _place(self, client: _Client) -> Cursor | None:
        """Where a client is, unless it watches a replay."""
        return None if client.wanted.replay else Cursor(self._topic, client.positions(self._positions))

    def _tell(self, clients: Iterable[_Client], kind: str, **fields: Any) -> None:
        """A message of the gateway's own."""
        self._end_slow([client for client in clients if not client.put(notice(kind, self._place(client), **fields))])

    def _tell_reachable(self, answers: bool) -> None:
        self._reachable = answers
        everybody = [*self._clients, *self._watchers]
        if answers:
            self._tell(everybody, "status", kafka="ok", message="Kafka answers again")
        else:
            message = "Kafka does not answer; events come when it does"
            self._tell(everybody, "status", kafka="unreachable", message=message)
        log.warning("Kafka answers again" if answers else "Kafka does not answer")

    def _skip(self, firsts: Positions) -> None:
        """Records were deleted before they could be read."""
        for partition, first in firsts.items():
            gap = self._gap(partition, self._positions[partition], first)
            log.warning("%s", gap["message"])
            self._positions[partition] = first
            self._tell(self._clients, "gap", **gap)

    def _gap(self, partition: int, old: int, new: int) -> dict[str, Any]:
        if new > old:
            text = (
                f"offsets {old} to {new - 1} of partition {partition} are no longer in the topic: they were not pushed"
            )
        else:
            text = f"partition {partition} was made anew, it ended before offset {old}: what it lost was not pushed"
        return {"partition": partition, "from_offset": old, "to_offset": new, "message": text}

    def _end_slow(self, slow: Iterable[_Client]) -> None:
        for client in slow:
            SLOW.inc()
            self._leave(client)
            again = "connect again" if client.wanted.replay else "resume with from=<cursor>"
            ending = asyncio.create_task(_end(client.connection, CloseCode.TRY_AGAIN_LATER, f"too slow; {again}"))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    def _join(self, client: _Client, positions: Positions) -> None:
        client.ahead = {at: offset for at, offset in positions.items() if offset > self._positions[at]}
        self._clients.add(client)
        self._know_interim(client.wanted)
        CLIENTS.set(len(self._clients) + len(self._watchers))

    def _know_interim(self, wanted: Subscription) -> None:
        """Have interim results read from now on, if they are wanted."""
        if "interim" in wanted.kinds and (self._interim is None or not self._interim.is_alive()):
            # Not one of the event loop's threads: those are as many as read from cursors at one time.
            loop = asyncio.get_running_loop()
            self._interim = threading.Thread(target=self._follow_interim, args=(loop,), name="interim", daemon=True)
            self._interim.start()

    async def _watch(self, client: _Client) -> list[str]:
        """Join as one who watches replays; returns what there is to be seen already."""
        if self._replaying is None or not self._replaying.is_alive():
            loop = asyncio.get_running_loop()
            self._replays_known.clear()
            self._replaying = threading.Thread(target=self._follow_replays, args=(loop,), name="replays", daemon=True)
            self._replaying.start()
        await self._replays_known.wait()
        self._watchers.add(client)
        CLIENTS.set(len(self._clients) + len(self._watchers))
        return self._replays.so_far(client.wanted, datetime.now(UTC)) if client.wanted.history else []

    def _leave(self, client: _Client) -> None:
        self._clients.discard(client)
        self._watchers.discard(client)
        CLIENTS.set(len(self._clients) + len(self._watchers))

    # One connection

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """The opening handshake: the path, and which pages may read it.

        A browser lets any page of the web open a websocket to loopback, so its Origin is checked: loopback, or the host
        by which the gateway itself is addressed, where that alone lets nobody in (any name can be made to mean this
        machine), or one of the settings. Programs send no Origin.
        """
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, json.dumps({"kafka": self._kafka, "clients": len(self._clients)}))
        if path == DESCRIPTION:
            described = await asyncio.get_running_loop().run_in_executor(
                self._asking, asyncapi.document, request.headers.get("Host", ""), PATH
            )
            response = connection.respond(HTTPStatus.OK, json.dumps(described))
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        if path != PATH:
            return connection.respond(HTTPStatus.NOT_FOUND, f"the scores are at {PATH}\n")
        origin, here = request.headers.get("Origin"), _host("//" + request.headers.get("Host", ""))
        if here is None:
            return connection.respond(HTTPStatus.BAD_REQUEST, "the header Host names no host\n")
        if origin is not None:
            page = _host(origin)
            meant = page in LOOPBACK or origin in self._settings.api.cors_origins
            if not meant and (page != here or self._access.open):
                return connection.respond(HTTPStatus.FORBIDDEN, "pages of this origin may not read the scores\n")
        return None

    @property
    def _kafka(self) -> str:
        return "ok" if self._reachable else "unreachable"

    async def _serve(self, connection: ServerConnection) -> None:
        try:
            await self._converse(connection)
        except ConnectionClosed:
            pass
        except TimeoutError:
            log.info("client stalled and was cut off", extra={"seconds": STALL_SECONDS})
            connection.transport.abort()
        except CalltideError as error:
            if not isinstance(error, _Refused):
                error = _Refused(str(error), "unavailable", CloseCode.TRY_AGAIN_LATER)
            told = {"type": "error", "error": error.error, "message": str(error)}
            await _end(connection, error.code, str(error), json.dumps(told))

    async def _converse(self, connection: ServerConnection) -> None:
        gateway = self._settings.gateway
        known, wanted = await self._enter(connection)
        log.info("client", extra={"caller": known.who.name, "tenant": known.who.tenant})
        client = _Client(connection, known, wanted, Backlog(gateway.queue, conflate=gateway.slow_clients == "conflate"))
        tasks = {asyncio.create_task(self._push(client)), asyncio.create_task(self._listen(client))}
        try:
            for task in (await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))[0]:
                task.result()
        finally:
            self._leave(client)
            client.gone.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _enter(self, connection: ServerConnection) -> tuple[Known, Subscription]:
        """Who asks, and for what: by the handshake, and what that does not say by the first message, if it comes in
        time."""
        assert connection.request
        fields: dict[str, list[str]] = parse_qs(connection.request.path.partition("?")[2], keep_blank_values=True)
        shown = presented(_asking(connection).headers, {}, "")
        known: Known | None = None
        try:
            known = await self._known(connection, shown[0] if shown else None)
        except _Refused as refused:
            if shown or refused.code != 4_401:
                raise
            unknown = refused
        if known is None or not fields:
            first = await self._first_message(connection, stranger=known is None)
            if key := first.pop("key", None):
                known = await self._known(connection, key[0])
            if known is None:
                raise unknown
            if first and fields:
                raise _Refused("the query has a subscription: the first message can bring a key, and nothing else")
            fields = fields or first
        try:
            return known, self._bound(Subscription.parse(fields, self._topic, len(self._positions)), known)
        except CalltideError as error:
            raise error if isinstance(error, _Refused) else _Refused(str(error)) from None

    async def _first_message(self, connection: ServerConnection, *, stranger: bool) -> dict[str, list[str]]:
        """Its fields; none if it does not come in time."""
        if stranger and self._strangers >= STRANGERS:
            raise _Refused("too many clients without a key wait here; try again", "busy", CloseCode.TRY_AGAIN_LATER)
        self._strangers += stranger
        try:
            async with asyncio.timeout(KEY_SECONDS if stranger else FIRST_MESSAGE_SECONDS):
                return self._fields(await connection.recv())
        except TimeoutError:
            return {}
        finally:
            self._strangers -= stranger

    @staticmethod
    def _fields(message: str | bytes) -> dict[str, list[str]]:
        try:
            return _fields(message)
        except CalltideError as error:
            raise _Refused(str(error)) from None

    async def _known(self, connection: ServerConnection, key: str | None) -> Known:
        """Who asks, by a key or token, or else by what the handshake has. Raises _Refused."""
        asking, loop = _asking(connection), asyncio.get_running_loop()
        try:
            try:
                known = await loop.run_in_executor(
                    self._asking, self._access.known, asking, key, asking.cookies.get(COOKIE)
                )
            except Fault:
                if key:
                    self._access.guessed(asking)
                raise
        except Fault as fault:
            raise _refused(fault) from None
        if known.who.role not in ALLOWED["viewer"]:
            raise _Refused(f"the role {known.who.role} may not see what is said in calls", "forbidden", 4_403)
        return known

    @staticmethod
    def _bound(wanted: Subscription, known: Known) -> Subscription:
        """The subscription with the calls of the client's tenant alone."""
        tenant = known.who.tenant
        if tenant is None:
            return wanted
        if wanted.tenant - {tenant}:
            raise _Refused(f"this key is for calls of the tenant {tenant} alone", "forbidden", 4_403)
        return replace(wanted, tenant=frozenset({tenant}))

    async def _listen(self, client: _Client) -> None:
        """Take messages of a running connection, for as long as its key is good."""
        while True:
            try:
                async with asyncio.timeout(client.seconds_left):
                    message = await client.connection.recv()
                    await self._change(client, self._fields(message))
                    await asyncio.sleep(CHANGE_SECONDS)
            except TimeoutError:
                again = "connect again" if client.wanted.replay else "resume with from=<cursor>"
                raise _Refused(f"the token has expired; get a new one and {again}", "token_expired", 4_401) from None

    async def _change(self, client: _Client, fields: dict[str, list[str]]) -> None:
        """Another subscription in place of the one there is, or another key, or both. It is told in its place among the
        events: those before it are of the old one, those behind it of the new one."""
        if key := fields.pop("key", None):
            known = await self._known(client.connection, key[0])
            if known.who.tenant != client.known.who.tenant:
                raise _Refused("this key is of another tenant; connect again with it", "forbidden", 4_403)
            client.known = known
        wanted = client.wanted
        if fields:
            if {"from", "replay"} & fields.keys():
                raise _Refused("'from' and 'replay' are for the beginning of a connection; connect again with them")
            try:
                wanted = Subscription.parse(fields, self._topic, len(self._positions))
            except CalltideError as error:
                raise _Refused(str(error)) from None
            wanted = replace(self._bound(wanted, client.known), replay=client.wanted.replay)
        await self._until(client.live, client.connection)
        if not wanted.replay:
            await self._know_findings(wanted)
            self._know_interim(wanted)
        # From here on without an await.
        before, client.wanted = client.wanted, wanted
        place = self._place(client)
        text = notice("subscribed", place, subscription=wanted.describe())
        change = client.change = _Change(text, place, history=wanted.history and bool(fields))
        if change.history and wanted.replay:
            change.shown = self._replays.so_far(wanted, datetime.now(UTC))
        elif change.history:
            # What the old one covered was sent, or waits to be.
            running, found = self._calls.events(wanted), self._findings.events(wanted, self._calls)
            change.running = [one for one in running if not before.wants(one[0].event)]
            change.found = [record for record in found if not before.wants(record.event)]
        if not client.put(change.text):
            self._end_slow([client])
        await self._until(change.told, client.connection)

    @staticmethod
    async def _until(event: asyncio.Event, connection: ServerConnection) -> None:
        """Wait for it, or for the end of the connection."""
        waits = [asyncio.create_task(event.wait()), asyncio.create_task(connection.wait_closed())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    async def _push(self, client: _Client) -> None:
        """All that one client gets."""
        if client.wanted.replay:
            await self._push_replays(client)
        else:
            await self._push_live(client)
        client.live.set()
        while True:
            client.filled.clear()
            for text in client.backlog:
                await client.send(text)
                if client.change and text is client.change.text:
                    await self._push_change(client, client.change)
            client.pushed = time.monotonic()
            while not client.filled.is_set():
                client.waits = client.backlog.told
                try:
                    async with asyncio.timeout(client.pushed + IDLE_SECONDS - time.monotonic()):
                        await client.filled.wait()
                except TimeoutError:
                    if time.monotonic() >= client.pushed + IDLE_SECONDS and not client.filled.is_set():
                        client.pushed, client.waits = time.monotonic(), False
                        await client.send(notice("position", self._place(client)))

    async def _push_change(self, client: _Client, change: _Change) -> None:
        """What there is already for a new subscription."""
        now = datetime.now(UTC)
        for record, whole in change.running:
            await client.send(event_message(record, client.cursor(whole), now, history=True))
        for text in change.shown:
            await client.send(text)
        if change.history:
            await client.send(notice("position", change.place))
        for record in change.found:
            await client.send(event_message(record, str(change.place), now, history=True))
        client.change = None
        change.told.set()

    async def _push_replays(self, client: _Client) -> None:
        """What a client that watches replays gets until it waits for more."""
        shown = await self._watch(client)
        hello = {"type": "hello", **self._versions(client)}
        for text in (json.dumps(hello), *shown):
            await client.send(text)
        if client.wanted.history:
            await client.send(notice("position", None))

    async def _push_live(self, client: _Client) -> None:
        """What any other client gets until it waits for more."""
        wanted = client.wanted
        start = dict(wanted.start.positions) if wanted.start else {}
        positions = self._positions | start
        running = self._calls.events(wanted) if wanted.history else []
        await self._refuse_future(positions)
        await self._know_findings(wanted)
        # Without a cursor while history is to come: who is cut off before it has none of it, and starts anew.
        hello = {} if running else {"cursor": str(Cursor(self._topic, positions))}
        await client.send(json.dumps({"type": "hello", **hello, **self._versions(client)}))
        now = datetime.now(UTC)
        for record, whole in running:
            await client.send(event_message(record, client.cursor(whole), now, history=True))
        near, found = False, []
        while not near:
            live = dict(self._positions)
            # Close to it: what comes from now on waits in the backlog while the last stretch is read.
            near = sum(max(0, live[at] - positions[at]) for at in live) <= self._settings.gateway.queue // 2
            if near:
                self._join(client, positions)
                found = self._findings.events(wanted, self._calls)
            await self._catch_up(client, positions, live)
        if wanted.start or wanted.history:
            cursor = Cursor(self._topic, positions)
            await client.send(notice("position", cursor))
            # Not by the backlog: of many calls there may be more than that holds.
            now = datetime.now(UTC)
            for record in found:
                await client.send(event_message(record, str(cursor), now, history=True))

    async def _refuse_future(self, positions: Positions) -> None:
        ahead = [at for at, offset in positions.items() if offset > self._positions[at]]
        if ahead:  # of this gateway: is it ahead of the topic, too?
            ends = await asyncio.to_thread(self._log.offsets, ahead, OffsetSpec.latest())
            for at, end in ends.items():
                if positions[at] > end:
                    raise _Refused(
                        f"the cursor is ahead of {self._topic}: partition {at} ends before offset {end}; the topic was "
                        "made anew or the cursor is from elsewhere, subscribe without 'from'"
                    )

    async def _catch_up(self, client: _Client, positions: Positions, live: Positions) -> None:
        """Push what lies between `positions`, which moves along, and `live`; events of one call keep their order."""
        while todo := {at: end for at, end in live.items() if positions[at] < end}:
            if not self._reachable:
                raise CalltideError("Kafka does not answer; connect again with the same cursor")
            async with self._readers:
                firsts = await asyncio.to_thread(self._log.offsets, todo, OffsetSpec.earliest())
                for at, first in firsts.items():
                    if positions[at] < first:
                        gap = self._gap(at, positions[at], first)
                        positions[at] = first
                        await client.send(notice("gap", Cursor(self._topic, positions), **gap))
                todo = {at: end for at, end in todo.items() if positions[at] < end}
                if todo:
                    loop = asyncio.get_running_loop()
                    await asyncio.to_thread(self._read_range, client, positions, todo, loop)

    def _read_range(
        self, client: _Client, positions: Positions, todo: Positions, loop: asyncio.AbstractEventLoop
    ) -> None:
        """In a thread: read each partition up to `todo`, or until the client or a record has gone."""
        consumer = self._log.consumer({at: positions[at] for at in todo})
        try:
            heard = time.monotonic()
            while todo and not client.gone.is_set():
                messages = _read(consumer, 0.2)
                if messages:
                    heard = time.monotonic()
                elif time.monotonic() > heard + KAFKA_SECONDS:
                    raise CalltideError("Kafka does not answer; connect again with the same cursor")
                records, finished = [], {}
                for message in messages:
                    at, offset = kafka.partition_of(message), message.offset() or 0
                    if _is_gone(message):
                        return
                    if at not in todo or (message.error() and not _at_end(message)):
                        continue
                    if not message.error() and offset < todo[at] and (record := _record(message)):
                        records.append(record)
                    if _at_end(message) or offset + 1 >= todo[at]:
                        finished[at] = todo.pop(at)
                push = self._push_range(client, positions, records, finished)
                asyncio.run_coroutine_threadsafe(push, loop).result()
        finally:
            consumer.close()

    async def _push_range(
        self, client: _Client, positions: Positions, records: Sequence[Record], finished: Positions
    ) -> None:
        for record in records:
            positions[record.partition] = record.offset + 1
            if client.wanted.wants(record.event):
                cursor = client.cursor(str(Cursor(self._topic, positions, record.partition)))
                await client.send(event_message(record, cursor, datetime.now(UTC), history=True))
        positions.update(finished)

    def _versions(self, client: _Client) -> dict[str, Any]:
        gateway = self._settings.gateway
        try:
            calltide = version("calltide")
        except PackageNotFoundError:
            calltide = "not installed"
        return {
            "protocol": PROTOCOL,
            "calltide": calltide,
            "pipeline": self._settings.pipeline_version,
            "topic": self._topic,
            "partitions": len(self._positions),
            "kafka": self._kafka,
            "queue": gateway.queue,
            "slow_clients": gateway.slow_clients,
            "you": asdict(client.known.who),
            "subscription": client.wanted.describe(),
        }


def serve_until(settings: Settings, stop: threading.Event, ready: Callable[[], None]) -> None:
    """Serve until `stop` is set; `ready` is called when clients are let in. Raises CalltideError as `Gateway.run`."""
    # The library tells each connection it opens and closes.
    logging.getLogger("websockets").setLevel(logging.WARNING)
    uvloop.run(Gateway(settings, stop=stop).run(ready))
