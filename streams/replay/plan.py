"""What a replay will do, decided before its first record: which calls, from which offsets, with which settings.

Calls are found on the topic of scores: the marks of a call's start and end travel the whole chain, and there they lie
among few other records. A changer must know: a call is replayed whole or not at all, so one that overlaps the wished
time is taken from its start to its end, and one that has not ended, or of which Kafka has deleted the beginning, is
left out and named.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from pydantic import BaseModel, ConfigDict

from deploy.topics import Topics
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, decode
from schemas.topics import (
    CHAIN,
    DEAD_LETTERS,
    LANES,
    REPLAYS,
    SCORES,
    STAGES,
    Lane,
    Stage,
    Topic,
    lanes,
    replay_namespace,
    replay_topics,
)
from streams import history, kafka
from streams.archive import Archive, Damaged
from streams.settings import Settings

SLACK_MS: Final = 60_000
"""Judgement: so far a record's time may be from that of its neighbours: the clocks of several machines feed a topic."""
PIECE: Final = 1_000_000
"""Bytes of a plan in one record."""
PIECE_OF: Final = "piece"
"""Header of a piece of the plan: which of how many."""
FED: Final = "fed"
"""Header of the mark of an archived call that was fed."""
ENDED: Final = "ended"
"""Header of the mark that the replay is being removed: what is left of its topics is not to be worked with."""
ALL: Final = "all"
"""As the last stage: to the scores, and all that is made of them."""
SPEED: Final = {
    "vad": 180.0,
    "diarization": 2_500.0,
    "asr": 30.0,
    "emotion": 260.0,
    "sentiment": 1_480.0,
    "metrics": 1_000.0,
    "rules": 1_000.0,
    "insights": 300.0,
}
"""Times real time of each stage alone, on two cores, with tiny.en and two channels: what a dry run reckons with.
Measured on an hour of calls (python -m benchmarks.replay); the last three are a judgement."""
NICE: Final = 19
"""The least that a process can ask for: where live work wants a core, 1.5 % of it are due to each worker of a replay.
With 10 it would be a tenth each, and there are several."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""What may stand in the name of a topic, and is short enough for one. No dot: the topics of `a` are all that begin with
`replay.a.`, and those of `a.b` would be among them."""
SHOWN: Final = 5
"""Names in a line."""
SAMPLE: Final = 200
"""Records of a partition by which the size of the others is told. Judgement: audio packets are alike."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(NamedTuple):
    """A stretch of a partition."""

    first: int
    """No record of the calls lies before it."""
    likely: int
    """None lies behind it if times rise in the partition, which they do but for clocks and bulk work."""
    end: int
    """None lies behind it: the end of the partition when the plan was made."""


class Call(_Frozen):
    """A call to be replayed."""

    call_id: str
    partition: int
    started_at: datetime
    ended_at: datetime
    duration_ms: int
    ends: int = 1
    """How often it was taken for ended: it may have fallen silent and gone on, or its name may have come again."""
    marks: int = 1
    """Of these ends, those that its source has told."""
    idle: bool = False
    """Whether its last end came about because nothing more came of it."""

    @property
    def start_ms(self) -> int:
        """Of its first record, Unix milliseconds."""
        return round(self.started_at.timestamp() * 1_000)

    def ends_with(self, kind: bytes | None, at_ms: int, marks: int, audio: bool) -> bool:
        """Whether a record is its last, `marks` marks of an end having come with it. `audio`: it lies among the audio,
        where no mark tells that a call fell silent; it was then taken to end with its latest packet."""
        if audio and self.idle:
            return at_ms >= round(self.ended_at.timestamp() * 1_000)
        return kind == b"call_ended" and marks >= (self.marks if audio else self.ends)

    @property
    def last_ms(self) -> int:
        """None of its records is later: one that was sent faster than it was spoken has a short time, or a long one."""
        return max(round(self.ended_at.timestamp() * 1_000), self.start_ms + self.duration_ms)


class Plan(_Frozen):
    """A replay, as it is kept in its topic `replay.NAME.plan`."""

    name: str
    version: str
    from_stage: str
    """Empty: no stage works, what was heard is shown."""
    to_stage: str
    overrides: dict[str, str]
    """Settings that are not as in live work, by the names of their variables."""
    speed: float | None
    """Times real time; None: as fast as it goes."""
    workers: int | None
    """Of each stage; None: see `workers_of`."""
    keep: bool
    """Whether its topics stay when it is done."""
    created_at: datetime
    partitions: int
    """Of each of its topics: as many as those have that it reads."""
    calls: tuple[Call, ...]
    archived: dict[str, Lane]
    """Those of the calls that come from the archive, and the lane in which they were heard."""
    sources: dict[str, dict[int, "Source"]]
    """Topic → partition → where its calls lie."""
    publish: float | None = None
    """Times real time at which its scores are shown by the gateway; None: they are not."""
    nice: int = NICE
    """How far its workers make way for live work, as `nice` counts."""

    @property
    def namespace(self) -> str:
        """What the names of its topics begin with."""
        return replay_namespace(self.name)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The rows of its stages, in order, in each lane of which there is something to read."""
        if not self.from_stage:
            return ()
        chain = between(self.from_stage, self.to_stage)
        used = {
            row.lane for row in lanes(chain[0]) if self.sources.get(row.reads) or row.lane in self.archived.values()
        }
        # What reads scores has one row for all lanes.
        rows = [row for first in chain for row in lanes(first) if row.lane in used or first not in CHAIN]
        return tuple(row.in_replay(self.name) for row in rows)

    def workers_of(self, name: str, partitions: int) -> int:
        """How many workers a stage has: as many as cores of the costliest one, one of the others."""
        costliest = min({row.name for row in self.stages}, key=SPEED.__getitem__)
        # Two a core would even out partitions, but begin so late that they cost more (measured on 15 minutes).
        at_work = os.cpu_count() or 1
        return self.workers or (min(at_work, partitions) if name == costliest else 1)

    @property
    def scores(self) -> str:
        """The topic of the scores that it makes; empty: it makes none."""
        topic = self.namespace + SCORES
        return topic if any(row.writes == topic for row in self.stages) else ""

    @property
    def dead_letters(self) -> str:
        """The topic of what its stages cannot process."""
        return self.namespace + DEAD_LETTERS

    @property
    def audio_ms(self) -> int:
        """Length of its calls."""
        return sum(call.duration_ms for call in self.calls)

    @property
    def firsts(self) -> tuple[Stage, ...]:
        """The rows of the first stage, one a lane."""
        return tuple(row for row in self.stages if row.name == self.from_stage)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The topics of what comes out of it: the scores first, if it makes any."""
        read = {row.reads for row in self.stages} - {self.namespace + SCORES}
        return tuple(dict.fromkeys(row.writes for row in self.stages if row.writes not in read))

    @property
    def ends(self) -> frozenset[tuple[str, str]]:
        """Topic of what comes out, and each lane of which the end is to be seen there."""
        return frozenset((topic, row.lane) for topic in self.outputs for row in self.firsts)

    def topics(self) -> tuple[Topic, ...]:
        """Its topics, the one of the plan among them."""
        return (*replay_topics(self.stages, self.partitions), plan_topic(self.name))


def between(first: str, last: str) -> tuple[Stage, ...]:
    """The stages from one to another: of the chain, and of what reads its scores.

    Raises CalltideError for names that are none, or that stand in the wrong order.
    """
    names = [row.name for row in STAGES]
    chain = [row.name for row in CHAIN]
    for name, known in ((first, names), (last, [*names, ALL])):
        if name not in known:
            raise CalltideError(f"no stage {name}; there are {', '.join(names)}")
    if first not in chain:
        if last not in (first, ALL):
            raise CalltideError(f"{first} and {last} do not follow each other: both read scores; replay one of them")
        return (STAGES[names.index(first)],)
    beside = [row for row in STAGES if row not in CHAIN and last in (row.name, ALL)]
    if beside:
        return (*CHAIN[chain.index(first) :], *beside)
    if chain.index(first) > chain.index(last):
        raise CalltideError(f"{last} comes before {first}; the order is {', '.join(chain)}")
    return CHAIN[chain.index(first) : chain.index(last) + 1]


def plan_topic(name: str) -> Topic:
    """Where the plan of a replay is kept."""
    return Topic(f"{replay_namespace(name)}plan", 1, -1, "delete", "replay", ("replay",))


@dataclass(frozen=True, slots=True)
class Wish:
    """Which calls: those of the time from `since` to `until` (Unix milliseconds; None: all that there is), and of them
    those of these names, tenants and queues (empty: any)."""

    since_ms: int | None = None
    until_ms: int | None = None
    calls: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()

    def wants(self, call: CallInfo) -> bool:
        """Whether it is one of them, its time aside."""
        return (
            (not self.calls or call.call_id in self.calls)
            and (not self.tenants or call.tenant in self.tenants)
            and (not self.queues or call.queue in self.queues)
        )

    def covers(self, start_ms: int, end_ms: int) -> bool:
        """Whether a call overlaps the time."""
        return (self.since_ms is None or end_ms > self.since_ms) and (self.until_ms is None or start_ms < self.until_ms)


@dataclass(slots=True)
class Survey:
    """What history has of the wished calls."""

    calls: list[Call] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    """Calls that have not ended."""
    sources: dict[str, dict[int, Source]] = field(default_factory=dict)
    beheaded: list[str] = field(default_factory=list)
    """Calls of which Kafka has deleted the beginning, and that the archive does not have."""
    archived: dict[str, Lane] = field(default_factory=dict)
    """Calls that the archive has and Kafka has not, and the lane in which they were heard."""
    damaged: list[str] = field(default_factory=list)
    """What of the archive cannot be read, and why."""
    forgotten: int = 0
    """Calls that are there and are not to be replayed (`calltide forget`)."""
    archived_bytes: int = 0
    """Of the calls from the archive, as they lie there."""
    partitions: int = 1
    """Most partitions of a topic that the first stage reads."""
    deleted: bool = False
    """Whether Kafka has had more than it has."""
    complete_since_ms: int | None = None
    """Kafka has all calls that began from then on, Unix milliseconds; None: it has none."""


def survey(
    settings: Settings, wish: Wish, first: Stage | None, tell: Callable[[int, int], None] = lambda _done, _of: None
) -> Survey:
    """Find the calls, and where stage `first` would read them; None: where their scores are.

    `tell` hears how many records were seen, of how many. Raises CalltideError when Kafka does not answer.
    """
    kafka.check(settings)
    admin = AdminClient(kafka.client(settings))
    try:
        found, running = _calls(settings, admin, wish, tell)
        survey = Survey(running=sorted(running))
        oldest: dict[str, dict[int, int]] = {}
        for topic in read_by(first):
            numbers = history.partitions(admin, topic)
            ranges = kafka.ranges(admin, topic, numbers, history.ANSWER_S)
            survey.partitions = max(survey.partitions, len(numbers))
            survey.deleted |= any(low > 0 for low, _ in ranges.values())
            survey.sources[topic] = _source(admin, topic, ranges, found)
            oldest[topic] = {
                kafka.partition_of(message): message.timestamp()[1]
                for message in history.read(settings, topic, ranges, enough=lambda _number: True)
            }
        survey.complete_since_ms = max((at_ms for topic in oldest.values() for at_ms in topic.values()), default=None)
        survey.beheaded = sorted(_beheaded(settings, admin, survey.sources, oldest, found))
    except KafkaException as error:
        raise CalltideError(f"Kafka: {error.args[0].str()}; see that it runs and try again") from error
    forgotten = Archive(settings).forgotten()
    gone = {call.call_id for call in found if forgotten(call.call_id, call.started_at)}
    survey.forgotten = len(gone)
    survey.beheaded = [call_id for call_id in survey.beheaded if call_id not in gone]
    gone.update(survey.beheaded)
    survey.calls = [call for call in found if call.call_id not in gone]
    return survey


def read_by(first: Stage | None) -> list[str]:
    """The topics that a replay reads which begins with this stage; None: one that shows the scores."""
    return [row.reads for row in lanes(first)] if first else [SCORES]


def oldest_call_ms(settings: Settings, first: Stage | None) -> int | None:
    """When the oldest call began of which Kafka has the beginning, as `survey` reads it; None: it has no call.

    Raises CalltideError when Kafka does not answer.
    """
    begun: list[int] = []
    try:
        admin = AdminClient(kafka.client(settings))
        for topic in read_by(first):
            ranges = kafka.ranges(admin, topic, history.partitions(admin, topic), history.ANSWER_S)
            seen: set[int] = set()
            for message in history.read(settings, topic, ranges, enough=seen.__contains__):
                if dict(kafka.headers_of(message)).get("kind") == b"call_started":
                    seen.add(kafka.partition_of(message))
                    begun.append(message.timestamp()[1])
    except KafkaException as error:
        raise CalltideError(f"Kafka: {error.args[0].str()}; see that it runs and try again") from error
    return min(begun, default=None)


def goes_before(wish: Wish, found: Survey) -> bool:
    """Whether the wished time may begin before all that Kafka has."""
    whole = found.complete_since_ms
    return wish.since_ms is None or whole is None or wish.since_ms < whole + SLACK_MS


def size(settings: Settings, found: Survey) -> tuple[int, int]:
    """(records, bytes) that are at most to be read for these calls, the bytes by a sample. Raises KafkaException."""
    records, total = 0, found.archived_bytes
    for topic, source in found.sources.items():
        seen: Counter[int] = Counter()
        sampled: Counter[int] = Counter()

        def enough(number: int, seen: Counter[int] = seen) -> bool:
            return seen[number] >= SAMPLE

        where = {number: (one.first, one.likely) for number, one in source.items()}
        for message in history.read(settings, topic, where, enough=enough):
            seen[kafka.partition_of(message)] += 1
            sampled[kafka.partition_of(message)] += len(message.value() or b"")
        for number, (low, high) in where.items():
            records += high - low
            total += round(sampled[number] / max(seen[number], 1) * (high - low))
    return records, total


def with_archive(settings: Settings, wish: Wish, found: Survey) -> None:
    """Add the calls that Kafka has no more, or not whole, and the archive has. Raises CalltideError."""
    there = {call.call_id for call in found.calls} | {*found.running}
    if wish.calls <= there and wish.calls:
        return
    if not wish.calls and not found.beheaded and not goes_before(wish, found):
        return  # Kafka has all of that time, and the archive may be large and far away
    store = Archive(settings)
    for kept in store.named(sorted(wish.calls - there)) if wish.calls else store.calls():
        if isinstance(kept, Damaged):
            found.damaged.append(str(kept))
            continue
        start_ms = round(kept.call.started_at.timestamp() * 1_000)
        if (
            kept.call.call_id in there
            or not wish.wants(kept.call)
            or not wish.covers(start_ms, start_ms + kept.duration_ms)
        ):
            continue
        found.archived[kept.call.call_id] = LANES[LANES.index(kept.lane)] if kept.lane in LANES else LANES[0]
        found.calls.append(
            Call(
                call_id=kept.call.call_id,
                partition=-1,
                started_at=kept.call.started_at,
                ended_at=kept.ended_at or kept.call.started_at + timedelta(milliseconds=kept.duration_ms),
                duration_ms=kept.duration_ms,
            )
        )
        found.archived_bytes += kept.bytes
    found.calls.sort(key=lambda call: (call.started_at, call.call_id))
    found.beheaded = [call_id for call_id in found.beheaded if call_id not in found.archived]


def named(calls: Sequence[str]) -> str:
    """Names of calls, as many as fit in a line."""
    more = f" and {len(calls) - SHOWN} more" if len(calls) > SHOWN else ""
    return f"{'call' if len(calls) == 1 else f'{len(calls)} calls'} {', '.join(calls[:SHOWN])}{more}"


def _calls(
    settings: Settings, admin: AdminClient, wish: Wish, tell: Callable[[int, int], None]
) -> tuple[list[Call], set[str]]:
    """(calls that have ended, names of those that have not) of the wished time."""
    numbers = history.partitions(admin, SCORES)
    ranges = dict(kafka.ranges(admin, SCORES, numbers, history.ANSWER_S))
    if wish.since_ms is not None:
        for number, offset in history.offsets_at(admin, SCORES, numbers, wish.since_ms - SLACK_MS).items():
            low, high = ranges[number]
            ranges[number] = (high if offset is None else max(low, offset), high)
    total = sum(high - low for low, high in ranges.values())
    open_calls: dict[str, CallInfo] = {}
    found: dict[str, Call] = {}
    # To the end, whatever `until` is: recordings that were read in later have older times than what lies before them.
    for done, message in enumerate(history.read(settings, SCORES, ranges)):
        if done % 1_000 == 0:
            tell(done, total)
        number, at_ms = kafka.partition_of(message), message.timestamp()[1]
        later = wish.until_ms is not None and at_ms >= wish.until_ms + SLACK_MS
        headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
        call_id = (message.key() or b"").decode(errors="replace")
        # Two marks tell all there is to know; what lies between them is read only of calls that began before.
        if headers.get("kind") != b"call_ended" and (call_id in open_calls or later):
            continue
        try:
            event = decode(headers, message.value() or b"")
        except (KeyError, ValueError):
            continue  # what is no event was told by those who read it live
        call = event.call
        # What goes on after it was taken for ended is a call of the same name of which nothing else is known.
        if not wish.wants(call) and call_id not in found:
            continue
        if not isinstance(event, CallEnded):
            open_calls[call.call_id] = call
            continue
        open_calls.pop(call.call_id, None)
        start_ms, end_ms = (round(moment.timestamp() * 1_000) for moment in (call.started_at, event.ended_at))
        if before := found.get(call_id):
            found[call_id] = before.model_copy(
                update={
                    "started_at": min(before.started_at, call.started_at),
                    "ended_at": max(before.ended_at, event.ended_at),
                    "duration_ms": max(before.duration_ms, event.duration_ms),
                    "ends": before.ends + 1,
                    "marks": before.marks + (event.reason != "idle"),
                    "idle": event.reason == "idle",
                }
            )
        elif wish.covers(start_ms, end_ms):
            found[call_id] = Call(
                call_id=call_id,
                partition=number,
                started_at=call.started_at,
                ended_at=event.ended_at,
                duration_ms=event.duration_ms,
                marks=int(event.reason != "idle"),
                idle=event.reason == "idle",
            )
    tell(total, total)
    running = {
        name
        for name, call in open_calls.items()
        if name in found or wish.until_ms is None or call.started_at.timestamp() * 1_000 < wish.until_ms
    }
    ended = [call for name, call in found.items() if name not in running]
    return sorted(ended, key=lambda call: (call.started_at, call.call_id)), running


def _source(
    admin: AdminClient, topic: str, ranges: Mapping[int, tuple[int, int]], calls: Sequence[Call]
) -> dict[int, Source]:
    """Where the calls' records lie, partition by partition: from the first call's start to the last one's end."""
    source: dict[int, Source] = {}
    for number, (low, high) in ranges.items():
        here = [call for call in calls if call.partition == number]
        if not here:
            continue
        from_ms = min(call.start_ms for call in here) - SLACK_MS
        to_ms = max(call.last_ms for call in here) + SLACK_MS
        first = history.offsets_at(admin, topic, [number], from_ms)[number]
        behind = history.offsets_at(admin, topic, [number], to_ms)[number]
        if first is not None:
            # Records of later times may lie before them: of bulk work, or where a clock was wrong.
            likely = behind if behind is not None and behind > first else high
            source[number] = Source(max(first, low), max(likely, low), high)
    return source


def _beheaded(
    settings: Settings,
    admin: AdminClient,
    sources: Mapping[str, Mapping[int, Source]],
    oldest: Mapping[str, Mapping[int, int]],
    calls: Sequence[Call],
) -> set[str]:
    """Calls of which the beginning is in none of the topics any more. `oldest`: topic → partition → time of what is
    the first record there."""
    doubtful: dict[int, set[str]] = {}
    for topic in sources:
        numbers = sorted({call.partition for call in calls} & {*history.partitions(admin, topic)})
        ranges = kafka.ranges(admin, topic, numbers, history.ANSWER_S)
        cut = {number for number, (low, _) in ranges.items() if low > 0}
        for call in calls:
            first_ms = oldest[topic].get(call.partition, call.start_ms)
            if call.partition in cut and call.start_ms <= first_ms + SLACK_MS:
                doubtful.setdefault(call.partition, set()).add(call.call_id)
    if not doubtful:
        return set()
    missing = {name for names in doubtful.values() for name in names}
    for topic, source in sources.items():
        where = {number: (source[number].first, source[number].end) for number in doubtful if number in source}
        for message in history.read(settings, topic, where):
            if dict(kafka.headers_of(message)).get("kind") == b"call_started":
                missing.discard((message.key() or b"").decode(errors="replace"))
    return missing


def save(settings: Settings, plan: Plan) -> None:
    """Write it to a topic of its own. Raises CalltideError when there is a replay of that name, or Kafka fails."""
    topics = Topics(settings.bootstrap_servers, settings.kafka.client)
    if plan_topic(plan.name).name not in topics.create([plan_topic(plan.name)]):
        raise CalltideError(
            f"there is a replay {plan.name}; go on with it by `calltide replay resume {plan.name}`, remove it with "
            f"`calltide replay drop {plan.name}`, or give another --name"
        )
    text = plan.model_dump_json().encode()
    pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    producer = Producer(kafka.producer(settings))
    for number, piece in enumerate(pieces, 1):
        headers: list[tuple[str, str | bytes | None]] = [(PIECE_OF, b"%d/%d" % (number, len(pieces)))]
        producer.produce(plan_topic(plan.name).name, piece, partition=0, headers=headers)
    if producer.flush(history.ANSWER_S):
        raise CalltideError("Kafka did not take the plan; see that it runs and try again")


def find(settings: Settings, name: str) -> Plan:
    """The plan of a replay.

    Raises CalltideError when there is none, it was not written to its end, or the replay is being removed.
    """
    kept = [*_kept(settings, name)]
    if any(ENDED in headers for headers, _ in kept):
        raise CalltideError(f"replay {name} is being removed; `calltide replay drop {name}` removes what is left of it")
    pieces = [(headers[PIECE_OF], value) for headers, value in kept if PIECE_OF in headers]
    if not pieces or pieces[-1][0] != b"%d/%d" % (len(pieces), len(pieces)):
        raise CalltideError(f"the plan of replay {name} is not whole; remove it with `calltide replay drop {name}`")
    return Plan.model_validate_json(b"".join(value for _, value in pieces))


def end(settings: Settings, name: str) -> None:
    """From now on it is not to be worked with: it is being removed. Raises CalltideError when Kafka fails."""
    producer = Producer(kafka.producer(settings))
    producer.produce(plan_topic(name).name, b"", partition=0, headers=[(ENDED, b"1")])
    if producer.flush(history.ANSWER_S):
        raise CalltideError("Kafka did not take the mark of the end; see that it runs and try again")


def mark(call_id: str) -> dict[str, Any]:
    """The record in the topic of the plan that says that an archived call was fed."""
    return {"value": call_id.encode(), "partition": 0, "headers": [(FED, b"1")]}


def marks_of(settings: Settings, name: str) -> list[str]:
    """The archived calls that were fed."""
    return [value.decode() for headers, value in _kept(settings, name) if FED in headers]


def _kept(settings: Settings, name: str) -> Iterator[tuple[dict[str, bytes | None], bytes]]:
    """Headers and value of what is in the topic of a plan."""
    kafka.check(settings)
    topic = plan_topic(name).name
    admin = AdminClient(kafka.client(settings))
    if topic not in admin.list_topics(timeout=history.ANSWER_S).topics:
        known = ", ".join(names(admin)) or "none"
        raise CalltideError(f"there is no replay {name}; of what was not removed there is: {known}")
    for message in history.read(settings, topic, kafka.ranges(admin, topic, [0], history.ANSWER_S)):
        yield dict(kafka.headers_of(message)), message.value() or b""


def names(admin: AdminClient) -> list[str]:
    """The replays that there are."""
    prefix, suffix = REPLAYS, ".plan"
    topics: Iterable[str] = admin.list_topics(timeout=history.ANSWER_S).topics
    return sorted(
        topic.removeprefix(prefix).removesuffix(suffix)
        for topic in topics
        if topic.startswith(prefix) and topic.endswith(suffix)
    )
