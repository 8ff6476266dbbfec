"""`calltide replay control`: orders to a replay that is shown, over Kafka, so from any machine.

A changer must know: the answer to a command is the next position that the replay sends, with the command's id. No
answer means that nobody shows a replay of that name, whatever topics there are.
"""

import re
import time
import uuid
from collections.abc import Iterable
from typing import Final, Literal

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import BaseModel, ConfigDict

from schemas.errors import CalltideError
from schemas.replayed import ANSWERS, ReplayPosition
from schemas.topics import SCORES_REPLAYED, Topic, replay_namespace
from streams import history, kafka
from streams.replay.plan import names
from streams.settings import Settings

PATIENCE_S: Final = 10.0
"""Judgement: a replay answers within a fraction of a second, also one that sends the beginning of many calls."""
SPEEDS: Final = (0.01, 1_000.0)
VERBS: Final = ("pause", "resume", "seek", "speed", "stop", "status")
_TIME: Final = re.compile(r"([+-]?)(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, None: 1_000}
_SUFFIX: Final = ".control"


class Command(BaseModel):
    """One order. `value`: milliseconds from the start of `seek`, by which to `skip`, or the `speed`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    verb: Literal["pause", "resume", "seek", "skip", "speed", "stop", "status"]
    value: float = 0.0


def command(verb: str, value: str | None) -> Command:
    """Of what was typed: `seek 90s` and `seek +30s`, `speed 2`. Raises CalltideError."""
    if verb not in VERBS:
        raise CalltideError(f"no order {verb!r}; there are {', '.join(VERBS)}")
    fields: dict[str, object] = {"id": uuid.uuid4().hex, "verb": verb}
    if verb == "seek":
        found = _TIME.fullmatch(value or "")
        if not found:
            raise CalltideError("seek to where? give the time since its start, or from here: seek 90s, +30s, -30s, 2m")
        sign, number, unit = found.groups()
        by = float(number) * _UNITS_MS[unit]
        fields |= {"verb": "skip" if sign else "seek", "value": -by if sign == "-" else by}
    elif verb == "speed":
        fields["value"] = pace(value or "", "speed")
    elif value is not None:
        raise CalltideError(f"{verb} takes nothing more; leave out {value}")
    return Command.model_validate(fields)


def pace(text: str, option: str, also: str = "") -> float:
    """Times real time. Raises CalltideError, which names the option."""
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not SPEEDS[0] <= factor <= SPEEDS[1]:
        raise CalltideError(f"{option} {text}".rstrip() + f": give {also}times real time from 0.01 to 1000")
    return factor


def control_topic(name: str) -> Topic:
    """Where the orders for a replay lie."""
    return Topic(f"{replay_namespace(name)}control", 1, -1, "delete", "replay", ("replay",))


def position_in(message: Message) -> ReplayPosition | None:
    """The position that a record of the topic `scores.replayed` tells; None: it tells something else."""
    if dict(kafka.headers_of(message)).get("kind") != b"replay_position":
        return None
    return ReplayPosition.model_validate_json(message.value() or b"")


def send(settings: Settings, name: str, order: Command, patience_s: float = PATIENCE_S) -> ReplayPosition:
    """Give an order; returns where the replay is with it. Raises CalltideError when none of that name is shown."""
    kafka.check(settings)
    admin = AdminClient(kafka.client(settings))
    try:
        topic = control_topic(name).name
        if topic not in (topics := admin.list_topics(timeout=history.ANSWER_S).topics):
            raise _not_shown(name, admin, topics)
        ranges = kafka.ranges(admin, SCORES_REPLAYED, history.partitions(admin, SCORES_REPLAYED), history.ANSWER_S)
        options = {"group.id": f"{settings.kafka.group_prefix}.replay.control"}
        consumer = Consumer(kafka.consumer(settings, **{"fetch.wait.max.ms": 50}, **options))
        try:
            consumer.assign([TopicPartition(SCORES_REPLAYED, number, end) for number, (_, end) in ranges.items()])
            # An idempotent producer asks for its number first, which takes half a second.
            producer = Producer(kafka.producer(settings, **{"enable.idempotence": False, "retries": 0}))
            producer.produce(topic, order.model_dump_json().encode(), partition=0)
            deadline = time.monotonic() + patience_s
            producer.flush(patience_s)
            while time.monotonic() < deadline:
                message = consumer.poll(0.1)
                if message is None or message.error() is not None:
                    continue
                if dict(kafka.headers_of(message)).get(ANSWERS) == order.id.encode() and (at := position_in(message)):
                    return at
        finally:
            consumer.close()
    except KafkaException as error:
        raise CalltideError(f"Kafka: {error.args[0].str()}; see that it runs and try again") from error
    raise CalltideError(
        f"replay {name} does not answer: nobody shows it now; `calltide replay resume {name}` goes on with it"
    )


def _not_shown(name: str, admin: AdminClient, topics: Iterable[str]) -> CalltideError:
    if name in names(admin):
        return CalltideError(
            f"replay {name} is not shown: it was begun without --publish, or is still at work before that"
        )
    prefix = replay_namespace("").removesuffix(".")
    shown = sorted(one.removeprefix(prefix).removesuffix(_SUFFIX) for one in topics if one.endswith(_SUFFIX))
    return CalltideError(f"there is no replay {name}; shown are: {', '.join(shown) or 'none'}")
