"""Topics as the table in schemas/topics.py wants them: made, compared with what a cluster has, and mended.

A changer must know: growing a topic's partitions sends later records of a running call to another partition, so it is
never done by itself, only by `fix`, which people call when no calls run.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from schemas.errors import CalltideError
from schemas.topics import Topic

ANSWER_SECONDS = 5.0
"""Judgement: a cluster that does not answer a metadata request for so long is not there."""
LEADERS_SECONDS = 60.0
"""Judgement: so long may pass until one more partition has a leader. The embedded broker takes half a second for all of
the table's; more than 20 s until the first was seen on a machine that was very busy."""
RENEW_SECONDS = 2.0
"""Judgement: so long without one more leader, and another client asks."""
LEADERLESS = (
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._NOENT,
    KafkaError._TIMED_OUT,
)
"""What is said of a partition that is about to have a leader, or another one. Asking for offsets is not repeated by the
client, unlike reading."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One property of one topic that is not as the table says. `actual` is None when the topic is missing."""

    topic: Topic
    setting: str
    wanted: str
    actual: str | None

    @property
    def advice(self) -> str:
        """What is wrong and the command or setting that mends it, as one clause."""
        if self.actual is None:
            return f"topic {self.topic.name} is missing: run `calltide topics create`"
        fault = f"topic {self.topic.name} has {self.setting} {self.actual}, not {self.wanted}"
        if self.setting == "partitions" and int(self.actual) > self.topic.partitions:
            return f"{fault}: set CALLTIDE_KAFKA__PARTITIONS={self.actual} (Kafka cannot take partitions away)"
        if self.setting == "partitions":
            return (
                f"{fault}: set CALLTIDE_KAFKA__PARTITIONS={self.actual}, or, when no calls run, "
                f"`calltide topics fix {self.topic.name}`"
            )
        return f"{fault}: run `calltide topics fix {self.topic.name}`"


class _Exists(CalltideError):
    """There is a topic of that name."""


class Topics:
    """The topics of one cluster. `client`: further librdkafka settings, such as SASL and TLS.

    Every method raises CalltideError, within seconds, when the cluster does not answer or refuses.
    """

    def __init__(self, bootstrap_servers: str, client: Mapping[str, str] | None = None) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._reasons: dict[str, str] = {}
        self._client: dict[str, Any] = {
            **(client or {}),
            "bootstrap.servers": bootstrap_servers,
            "error_cb": self._note,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
        }
        self._admin = AdminClient(self._client)

    def ensure(self, topics: Iterable[Topic]) -> list[str]:
        """Create what is missing, then compare all. Returns the names created.

        Raises CalltideError that names every mismatch and the command that mends it.
        """
        wanted = tuple(topics)
        created = self.create(wanted)
        if mismatches := self.check(wanted):
            raise CalltideError("; ".join(mismatch.advice for mismatch in mismatches))
        return created

    def create(self, topics: Iterable[Topic]) -> list[str]:
        """Create those that are missing, and wait until they can be used. Returns the names of those created: of two
        programs that create a topic at one time, one alone is told its name."""
        present = self._partitions()
        missing = [topic for topic in topics if topic.name not in present]
        # Replication factor −1: as the cluster's default says; the embedded broker's is 1.
        new = [NewTopic(topic.name, topic.partitions, -1, config=topic.config) for topic in missing]
        created = [topic.name for topic in missing]
        for name, future in (self._admin.create_topics(new) if new else {}).items():
            try:
                self._result(future, f"create topic {name}")
            except _Exists:
                created.remove(name)  # another process has made it meanwhile: `check` will look at it
        self._lead(missing)
        return created

    def check(self, topics: Iterable[Topic]) -> list[Mismatch]:
        """What differs from the table: missing topics, partition counts and settings."""
        wanted = tuple(topics)
        present = self._partitions()
        mismatches = [
            Mismatch(topic, "partitions", str(topic.partitions), None) for topic in wanted if topic.name not in present
        ]
        there = {topic.name: topic for topic in wanted if topic.name in present}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in there]
        for resource, future in (self._admin.describe_configs(resources) if resources else {}).items():
            topic = there[resource.name]
            if present[topic.name] != topic.partitions:
                mismatches.append(Mismatch(topic, "partitions", str(topic.partitions), str(present[topic.name])))
            actual = self._result(future, f"read the settings of topic {topic.name}")
            mismatches += [
                Mismatch(topic, key, value, actual[key].value)
                for key, value in topic.config.items()
                if not _same(value, actual[key].value)
            ]
        return mismatches

    def fix(self, topics: Iterable[Topic]) -> list[Mismatch]:
        """Create, set and grow until these topics are as the table says. Returns what was changed.

        Raises CalltideError for what cannot be mended: partitions cannot be taken away.
        """
        wanted = tuple(topics)
        mismatches = self.check(wanted)
        if beyond := [m for m in mismatches if m.setting == "partitions" and int(m.actual or 0) > m.topic.partitions]:
            raise CalltideError("; ".join(mismatch.advice for mismatch in beyond))
        self.create(wanted)
        for mismatch in mismatches:
            name = mismatch.topic.name
            if mismatch.actual is None:
                continue
            if mismatch.setting == "partitions":
                change = self._admin.create_partitions([NewPartitions(name, mismatch.topic.partitions)])[name]
            else:
                entry = ConfigEntry(mismatch.setting, mismatch.wanted, incremental_operation=AlterConfigOpType.SET)
                resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
                change = self._admin.incremental_alter_configs([resource])[resource]
            self._result(change, f"set {mismatch.setting} of topic {name}")
        self._until(lambda: not self.check(wanted), "do not show the changed settings of their topics")
        return mismatches

    def _lead(self, topics: Sequence[Topic]) -> None:
        """Wait until every partition has a leader. A busy broker takes its time, but always comes on with one more."""
        fewest, deadline = math.inf, time.monotonic() + LEADERS_SECONDS
        admin, renewed = self._admin, time.monotonic()
        while left := self._leaderless(topics, admin):
            if left < fewest:
                fewest, deadline = left, time.monotonic() + LEADERS_SECONDS
            elif time.monotonic() > renewed + RENEW_SECONDS:
                # A client that asked too early may hold on to what it was told for minutes (librdkafka's issue 4620).
                admin, renewed = AdminClient(self._client), time.monotonic()
            if time.monotonic() > deadline:
                raise CalltideError(
                    f"the brokers at {self._bootstrap_servers} give {left} partitions of the new topics no leader; "
                    "see their logs"
                )
            time.sleep(0.02)

    def _leaderless(self, topics: Iterable[Topic], admin: AdminClient) -> int:
        """How many partitions cannot be read and written yet: a leader is announced before it has taken over."""
        end = OffsetSpec.latest()
        places = {TopicPartition(topic.name, number): end for topic in topics for number in range(topic.partitions)}
        asked = admin.list_offsets(places, request_timeout=ANSWER_SECONDS) if places else {}
        left = 0
        for place, future in asked.items():
            try:
                future.result(ANSWER_SECONDS * 2)
            except KafkaException as error:
                if error.args[0].code() in LEADERLESS:
                    left += 1
                    continue
                raise CalltideError(
                    f"Kafka at {self._bootstrap_servers} would not tell of topic {place.topic}: {error.args[0].str()}"
                ) from error
        return left

    def _partitions(self) -> dict[str, int]:
        """Name → partition count of every topic."""
        try:
            found = self._admin.list_topics(timeout=ANSWER_SECONDS).topics
        except KafkaException as error:
            self._admin.poll(0)  # runs `_note`
            why = "; ".join(self._reasons.values()) or error.args[0].str()
            raise CalltideError(
                f"no answer from Kafka at {self._bootstrap_servers} ({why}); start it (`calltide up` has one built in) "
                "or set CALLTIDE_KAFKA__BOOTSTRAP_SERVERS"
            ) from error
        return {name: len(topic.partitions) for name, topic in found.items()}

    def _until(self, done: Callable[[], bool], fault: str) -> None:
        """Wait for a change to spread from the controller to the brokers: it does so by itself, unannounced."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise CalltideError(f"the brokers at {self._bootstrap_servers} {fault}; see their logs")
            time.sleep(0.02)

    def _note(self, error: KafkaError) -> None:
        # "All brokers down" follows from the others and explains nothing.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._reasons[error.name()] = error.str().split(": ", 1)[-1]

    def _result(self, future: Future[Any], action: str) -> Any:
        try:
            return future.result(ANSWER_SECONDS * 2)
        except KafkaException as error:
            kind = _Exists if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS else CalltideError
            raise kind(f"Kafka at {self._bootstrap_servers} would not {action}: {error.args[0].str()}") from error


def _same(wanted: str, actual: str | None) -> bool:
    """Kafka writes numbers and lists its own way: 0.1 is 0.10, and the order of cleanup policies means nothing."""
    if actual is None:
        return False
    try:
        return Decimal(wanted) == Decimal(actual)
    except InvalidOperation:
        return {part.strip() for part in wanted.split(",")} == {part.strip() for part in actual.split(",")}
