"""Ended calls to a language model, and what it says of them back to Kafka: `calltide llm`.

It reads the conversations on the topic `insights` and writes an `Insights` of its own beside the extractive one, to the
same partition. Nothing waits for it: while the endpoint is away the calls wait in Kafka.

A changer must know: an offset is committed when the insights of every call before it are written. A call that is read
again after a crash is asked about again, and its insights have the same identity (tenant, version, call, engine), so
there is one row of them. The thread that polls Kafka never waits for the endpoint, or Kafka would take its partitions.
"""

import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.errors import CalltideError
from schemas.events import Conversation, Insights, decode, encode
from schemas.topics import DEAD_LETTERS, INSIGHTS
from streams import kafka
from streams.health import Health
from streams.llm.engine import Budget, LanguageModel
from streams.settings import Settings

STAGE: Final = "llm"
"""As dead letters name it."""
ANSWER_S: Final = 30.0

log = logging.getLogger(__name__)


class Failed(Exception):
    """What the dead letter of a call says of which the model gave nothing."""


@dataclass(slots=True)
class _Job:
    """A call that is being asked about, in a thread of its own."""

    message: Message
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    insights: Insights | None = None
    error: Exception | None = None

    def work(self, model: LanguageModel, conversation: Conversation) -> None:
        try:
            self.insights = model.insights(conversation, self.cancelled)
        except Exception as error:  # of this call; the others go on
            log.exception("a call could not be asked about", extra={"call": conversation.call.call_id})
            self.error = error
        self.done.set()


class Worker:
    """One member of the consumer group."""

    def __init__(self, settings: Settings, stop: threading.Event, health: Health) -> None:
        self._stop, self._health = stop, health
        self._concurrency = settings.llm.concurrency
        budget = Budget(settings.llm)
        self._model = LanguageModel(settings, budget)
        if budget.limited:
            for tokens_in, tokens_out in used_since(settings, datetime.now(UTC)):
                budget.use(tokens_in, tokens_out)
        self._jobs: list[_Job] = []
        self._ahead: deque[Message] = deque()
        """What came while there was enough to do."""
        self._positions: dict[int, int] = {}
        """Partition → the offset behind what was read of it."""
        self._committed: dict[int, int] = {}
        self._paused = False
        self._consumer = Consumer(
            kafka.consumer(
                settings,
                **{
                    "group.id": f"{settings.kafka.group_prefix}.llm",
                    "session.timeout.ms": settings.kafka.session_timeout_ms,
                },
            )
        )
        self._producer = Producer(kafka.producer(settings))

    def run(self) -> None:
        """Until `stop` is set. Raises KafkaException for what only a restart mends."""
        try:
            self._consumer.subscribe([INSIGHTS], on_assign=self._on_assign, on_revoke=self._on_revoke)
            while not self._stop.is_set():
                self._health.beat()
                self._write()
                self._commit()
                free = len(self._jobs) < self._concurrency
                self._pause(not free)
                message = self._ahead.popleft() if free and self._ahead else self._poll(0.05 if self._jobs else 0.2)
                if message is None:
                    continue
                if len(self._jobs) < self._concurrency:
                    self._take(message)
                else:
                    self._ahead.append(message)
        finally:
            for job in self._jobs:
                job.cancelled.set()
            self._consumer.close()

    def _on_assign(self, consumer: Consumer, held: list[TopicPartition]) -> None:
        places = kafka.from_now_on(consumer, held)
        self._positions = {place.partition: place.offset for place in places}
        self._committed = dict(self._positions)
        consumer.assign(places)
        self._paused = False
        self._health.ready(partitions=sorted(self._positions), engine=self._model.name)

    def _on_revoke(self, _consumer: Consumer, _lost: list[TopicPartition]) -> None:
        # Whoever gets them reads it again.
        for job in self._jobs:
            job.cancelled.set()
        self._jobs.clear()
        self._ahead.clear()
        self._positions.clear()
        self._committed.clear()

    def _pause(self, wanted: bool) -> None:
        if wanted != self._paused:
            change = self._consumer.pause if wanted else self._consumer.resume
            change(self._consumer.assignment())
            self._paused = wanted

    def _poll(self, wait_s: float) -> Message | None:
        message = self._consumer.poll(wait_s)
        if message is None or (error := message.error()) is None:
            return message
        if error.fatal() or error.code() in (*kafka.REFUSED, *kafka.FENCED):
            raise KafkaException(error)
        if error.code() != KafkaError._PARTITION_EOF:
            log.warning("kafka: %s", error.str())
        return None

    def _take(self, message: Message) -> None:
        """Begin with a call; all else that lies in the topic is passed over."""
        headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
        if headers.get("kind") == b"conversation":
            try:
                event = decode(headers, message.value() or b"")
                assert isinstance(event, Conversation)
            except ValueError as error:
                self._bury(message, error)
            else:
                job = _Job(message)
                self._jobs.append(job)
                # A daemon: at the end nobody waits for an endpoint that does not answer.
                threading.Thread(target=job.work, args=(self._model, event), name="llm", daemon=True).start()
        self._positions[kafka.partition_of(message)] = (message.offset() or 0) + 1

    def _write(self) -> None:
        """The insights of the calls that are done."""
        for job in [job for job in self._jobs if job.done.is_set()]:
            if job.error is not None:
                self._bury(job.message, job.error)
            elif job.insights is not None:
                headers, value = encode(job.insights)
                place = kafka.partition_of(job.message)
                kafka.produce(self._producer, INSIGHTS, value, job.message.key(), place, headers)
                if job.insights.state != "ok":
                    self._bury(job.message, Failed(job.insights.why))
            self._jobs.remove(job)

    def _commit(self) -> None:
        """The offset of the oldest call in hand of each partition, or what was read."""
        due = dict(self._positions)
        for message in [*(job.message for job in self._jobs), *self._ahead]:
            partition = kafka.partition_of(message)
            due[partition] = min(due[partition], message.offset() or 0)
        if moved := [TopicPartition(INSIGHTS, *one) for one in due.items() if self._committed[one[0]] != one[1]]:
            self._consumer.commit(offsets=moved, asynchronous=True)
            self._committed = due

    def _bury(self, message: Message, error: Exception) -> None:
        log.error("no insights by the language model: %s", error, extra={"offset": message.offset()})
        kafka.bury(self._producer, DEAD_LETTERS, message, STAGE, error)


def used_since(settings: Settings, now: datetime) -> list[tuple[int, int]]:
    """(tokens in, tokens out) of the insights that language models have written since midnight UTC.

    Raises KafkaException.
    """
    midnight_ms = int(now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp() * 1_000)
    more = {"group.id": f"{settings.kafka.group_prefix}.llm.used", "enable.partition.eof": True}
    consumer = Consumer(kafka.consumer(settings, **more))
    try:
        partitions = consumer.list_topics(INSIGHTS, timeout=ANSWER_S).topics[INSIGHTS].partitions
        asked = [TopicPartition(INSIGHTS, number, midnight_ms) for number in partitions]
        places = [place for place in consumer.offsets_for_times(asked, timeout=ANSWER_S) if place.offset >= 0]
        consumer.assign(places)
        used, left = [], {place.partition for place in places}
        while left:
            for message in consumer.consume(1_000, 1.0):
                error = message.error()
                if error is None:
                    headers = dict(kafka.headers_of(message))
                    value = message.value() or b""
                    if headers.get("kind") == b"insights" and b'"engine":"llm:' in value:
                        insights = Insights.model_validate_json(value)
                        used.append((insights.tokens_in, insights.tokens_out))
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(kafka.partition_of(message))
                else:
                    raise KafkaException(error)
        return used
    finally:
        consumer.close()


def _check(settings: Settings) -> None:
    if not settings.llm.url:
        raise CalltideError("no language model is set; give CALLTIDE_LLM__URL and CALLTIDE_LLM__MODEL (docs/llm.md)")
    limits = settings.llm
    if limits.cost_per_day and not (limits.price_in or limits.price_out):
        raise CalltideError("CALLTIDE_LLM__COST_PER_DAY needs CALLTIDE_LLM__PRICE_IN and CALLTIDE_LLM__PRICE_OUT")


def run(settings: Settings, stop: threading.Event, health: Health | None = None) -> None:
    """Ask about ended calls until `stop` is set. Raises CalltideError for settings that cannot be, and KafkaException
    for what only a restart mends."""
    _check(settings)
    Worker(settings, stop, health or Health()).run()


def test(settings: Settings) -> str:
    """Ask the endpoint once; what it is, in words. Raises CalltideError when it does not answer."""
    _check(settings)
    model = LanguageModel(settings, Budget(settings.llm))
    if fault := model.endpoint.fault():
        raise CalltideError(f"{settings.llm.url}: {fault}; see docs/llm.md")
    return f"{model.name} answers"
