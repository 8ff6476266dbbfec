"""What becomes of a call, for the connection that brought it: one consumer for the whole process, of `scores` and of
the words of unfinished utterances.

A changer must know: it reads from the moment at which the process began, without a group, and hands each event to those
who asked for its call. Whoever does not take them is cut off at QUEUE, so nobody else waits. What is interim takes no
room of that: only the newest of each channel waits, behind all that is finished.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import pydantic
from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.errors import CalltideError
from schemas.events import CallEvent, Interim, decode
from schemas.topics import SCORES, TRANSCRIPTS_INTERIM
from streams import kafka
from streams.ingestion import metrics
from streams.settings import Settings

log = logging.getLogger(__name__)

TOPICS: Final = (SCORES, TRANSCRIPTS_INTERIM)
QUEUE: Final = 1_000
"""Finished events that wait for one connection. Judgement: an hour of talk."""
LEADERS_S: Final = 30.0
"""How long new topics may take until they can be read. Judgement: half a second, and 10 s on a machine that is busy."""
KAFKA_S: Final = 5.0
"""Longest wait for an answer of Kafka's."""


class Results:
    """The events of calls as they become known. `start` and `close` once each, in the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked: dict[str, set[_Waiting]] = {}
        self._stop = threading.Event()
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read from here on. Raises CalltideError when a topic is not there or Kafka does not answer."""
        consumer = await asyncio.to_thread(self._consumer)
        self._reader = asyncio.create_task(asyncio.to_thread(self._read, consumer, asyncio.get_running_loop()))

    async def close(self) -> None:
        """End all of it."""
        self._stop.set()
        for waiting in self._asked.values():
            for one in waiting:
                one.end()
        if self._reader is not None:
            await self._reader

    async def results(self, call_id: str, asked: Callable[[], None] = lambda: None) -> AsyncIterator[CallEvent]:
        """The events of a call, up to its `CallEnded` or the end of the process. `asked` is called once it listens."""
        waiting = _Waiting()
        self._asked.setdefault(call_id, set()).add(waiting)
        asked()
        try:
            while (event := await waiting.next()) is not None:
                yield event
                if event.kind == "call_ended":
                    return
        finally:
            everyone = self._asked[call_id]
            everyone.discard(waiting)
            if not everyone:
                del self._asked[call_id]

    def _consumer(self) -> Consumer:
        consumer = Consumer(
            kafka.consumer(
                self._settings,
                # Never joined and never committed to: the client library insists on a name.
                **{"group.id": f"{self._settings.kafka.group_prefix}.serve", "fetch.wait.max.ms": 50},
            )
        )
        deadline = time.monotonic() + LEADERS_S
        while True:
            try:
                consumer.assign([place for topic in TOPICS for place in self._ends(consumer, topic)])
                return consumer
            except KafkaException as error:
                # A topic that was just made has no leaders yet.
                if time.monotonic() > deadline:
                    raise CalltideError(
                        f"Kafka does not answer ({error.args[0].str()}); see that the broker runs"
                    ) from None
            time.sleep(0.05)

    def _ends(self, consumer: Consumer, topic: str) -> Iterator[TopicPartition]:
        """Where its partitions end now: OFFSET_END would be where they end when the first fetch comes to it."""
        found = consumer.list_topics(topic, timeout=KAFKA_S).topics[topic]
        if found.error:
            raise CalltideError(f"no topic {topic} ({found.error.str()}); `calltide topics create` makes it")
        for partition in found.partitions:
            place = TopicPartition(topic, partition)
            place.offset = consumer.get_watermark_offsets(place, timeout=KAFKA_S)[1]
            yield place

    def _read(self, consumer: Consumer, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while not self._stop.is_set():
                message = consumer.poll(0.2)
                if message is None or not self._asked:
                    continue
                if error := message.error():
                    log.warning("kafka: %s", error.str())
                    continue
                call_id = (message.key() or b"").decode(errors="replace")
                if call_id not in self._asked:
                    continue
                headers = {name: content for name, content in kafka.headers_of(message) if content is not None}
                try:
                    event = decode(headers, message.value() or b"")
                except (KeyError, UnicodeDecodeError, pydantic.ValidationError) as fault:
                    log.warning("record is no event", extra={"reason": repr(fault)[:200]})
                    continue
                loop.call_soon_threadsafe(self._offer, call_id, event)
        finally:
            consumer.close()

    def _offer(self, call_id: str, event: CallEvent) -> None:
        for waiting in self._asked.get(call_id, ()):
            waiting.put(event)


class _Waiting:
    """What one connection has still to take."""

    def __init__(self) -> None:
        self._finished: deque[CallEvent] = deque()
        self._interim: dict[int, Interim] = {}
        """The newest of each channel."""
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, event: CallEvent) -> None:
        """One more; with QUEUE of them there is an end."""
        if isinstance(event, Interim):
            if event.channel in self._interim:
                metrics.INTERIM_SKIPPED.inc()
            self._interim[event.channel] = event
        elif len(self._finished) < QUEUE and not self._ended:
            self._finished.append(event)
        else:
            self._ended = True
        self._changed.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.set()

    async def next(self) -> CallEvent | None:
        """What comes next; None: nothing will."""
        while not self._finished:
            if self._ended:
                return None
            if self._interim:
                return self._interim.pop(next(iter(self._interim)))
            self._changed.clear()
            await self._changed.wait()
        return self._finished.popleft()
