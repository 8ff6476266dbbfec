"""`calltide dead-letters`: what the stages could not process: listed, shown, written back, dropped.

A changer must know: nothing can be deleted from `dead.letters`, so a letter is *settled* by a marker behind it in its
partition, and what is redriven is written in the same transaction as its marker. Nobody settles a letter twice because
everybody settles under one transactional id, and looks at what is settled only once that id is theirs alone.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from schemas.audio import BYTES_PER_SAMPLE, AudioPacket
from schemas.errors import CalltideError
from schemas.events import Segment, decode
from schemas.topics import DEAD_LETTERS, LANES, frames
from streams import history, kafka
from streams.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

Fate = Literal["redriven", "dropped"]
Headers = list[tuple[str, bytes | None]]

ABOUT: Final = "__connect.errors."
"""Prefix of the headers that a stage adds to the record's own (streams.checkpoint)."""
SETTLED: Final = "calltide.settled"
"""Header of a marker: the fate of the letter at the offset that its header SETTLES names."""
SETTLES: Final = "calltide.settles"
REDRIVEN: Final = "calltide.redriven"
"""Header of a redriven record: the letter it comes from. A reader of history meets it twice."""

HEARD_IN_ORDER: Final = frozenset(map(frames, LANES))
"""Topics into which nothing is redriven. A packet of a call that goes on would be late and dropped; one of a call that
has ended would make up a new one under its name."""

TRANSACTIONAL_ID: Final = "calltide.dead-letters"
"""Whoever settles next fences whoever settles now. Without the group prefix: all prefixes share the topic."""
ANSWER_S: Final = 30.0
TRANSACTION_MS: Final = 10_000
"""If this program is killed, stages that read what it was writing wait for so long."""
OVERTAKEN: Final = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
"""What a producer hears when another has taken its transactional id, from the coordinator or from a partition."""
QUIET: Final[dict[str, Any]] = {"log_level": 0}
"""What librdkafka has to say comes as one of our own errors."""
BATCH_BYTES: Final = 8_000_000
BATCH_LETTERS: Final = 200
"""Judgement: most of a transaction; bounds memory and what an interruption leaves to be done again."""
ROWS: Final = 500
"""Judgement: more than anyone reads; 20,000 rows take half a minute to lay out."""
LINE: Final = 200
"""Most characters of an error in the table."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a letter, and when (Unix milliseconds)."""

    fate: Fate
    at_ms: int


@dataclass(slots=True)
class Letter:
    """One dead letter without its value. What its headers do not say, or say wrongly, is None."""

    partition: int
    offset: int
    timestamp_ms: int
    """Of the record: when its audio was captured, not when the stage failed."""
    call: str
    kind: str
    size: int
    stage: str | None
    topic: str | None
    topic_partition: int | None
    topic_offset: int | None
    exception: str | None
    message: str | None
    settled: Settlement | None = None

    @property
    def id(self) -> str:
        """`PARTITION:OFFSET` in dead.letters."""
        return f"{self.partition}:{self.offset}"

    @property
    def source(self) -> str:
        """`topic/partition/offset` of the original, a question mark for what is not known."""
        parts = (self.topic, self.topic_partition, self.topic_offset)
        return "/".join("?" if part is None else str(part) for part in parts)

    def document(self) -> dict[str, Any]:
        """For programs."""
        settled = self.settled
        return {
            "id": self.id,
            "at": _moment(self.timestamp_ms),
            "stage": self.stage,
            "call": self.call,
            "kind": self.kind,
            "topic": self.topic,
            "partition": self.topic_partition,
            "offset": self.topic_offset,
            "exception": self.exception,
            "message": self.message,
            "bytes": self.size,
            "settled": settled and settled.fate,
            "settled_at": settled and _moment(settled.at_ms),
        }


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters: of a stage, of a call, of records captured since (Unix milliseconds)."""

    stage: str | None = None
    call: str | None = None
    since_ms: int | None = None

    def __call__(self, letter: Letter) -> bool:
        return (
            self.stage in (None, letter.stage)
            and self.call in (None, letter.call)
            and (self.since_ms is None or letter.timestamp_ms >= self.since_ms)
        )


def parse_id(text: str) -> tuple[int, int]:
    """(partition, offset). Raises CalltideError."""
    partition, _, offset = text.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise CalltideError(f"{text} is no letter; give PARTITION:OFFSET as `calltide dead-letters list` shows it")
    return int(partition), int(offset)


@contextmanager
def _plainly() -> Iterator[None]:
    """Kafka's errors in words."""
    try:
        yield
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        if reason.fatal() or reason.code() in OVERTAKEN:
            raise CalltideError(
                "somebody else began to settle dead letters and took over: what was not reported as done here was not "
                "done here; look at `calltide dead-letters list` and run it again"
            ) from error
        raise CalltideError(
            f"Kafka: {reason.str()}; `calltide dead-letters list` shows how far it came, run it again"
        ) from error


class DeadLetters:
    """The topic dead.letters. Every method raises CalltideError when Kafka does not answer or refuses."""

    def __init__(self, settings: Settings) -> None:
        kafka.check(settings)
        self._settings = settings
        self._admin = AdminClient(kafka.client(settings, **QUIET))

    @_plainly()
    def letters(self) -> list[Letter]:
        """All that retention has left, settled or not, by partition and offset."""
        letters: dict[tuple[int, int], Letter] = {}
        for message in self._read():
            partition, offset, headers = *_place(message), kafka.headers_of(message)
            marker = read_marker(headers)
            if marker is None:
                letters[partition, offset] = read_letter(message, headers)
            # Where there are two, the first counts; and a letter may be gone before its marker.
            elif (settled := letters.get((partition, marker[1]))) and settled.settled is None:
                settled.settled = Settlement(marker[0], message.timestamp()[1])
        return [letters[place] for place in sorted(letters)]

    @_plainly()
    def find(self, place: tuple[int, int]) -> tuple[Letter, Headers, bytes]:
        """A letter with its headers and its value. Raises CalltideError if there is none."""
        found = {(letter.partition, letter.offset): letter for letter in self.letters()}
        if place not in found:
            raise CalltideError(_absent(place))
        for message in self._read([place]):
            return found[place], kafka.headers_of(message), message.value() or b""
        raise CalltideError(_absent(place))

    @_plainly()
    def settle(
        self,
        fate: Fate,
        choose: Filter | Sequence[tuple[int, int]],
        tell: Callable[[Letter], None] = lambda letter: None,
    ) -> list[str]:
        """Redrive or drop the letters that `choose` names, or all that it lets through and that are not settled yet.

        `tell` hears of each letter once it is settled for good. Returns, in words, what of it could not be done.

        1. The transactional id is taken: whoever else was settling is fenced, and what they had begun is committed or
           aborted, here and in every partition it touched.
        2. Only now the topic is read, to its high watermark: everything that they settled is seen.
        3. In the order of the letters, one transaction for so many of them: the original records, each to the topic and
           partition where it lay, with its own key, headers and time; and a marker for each behind its letter.
        4. Somebody who takes the id meanwhile fences this run: the transaction that is open then is void, and every
           letter is either settled and redriven or neither.
        """
        producer = Producer(
            kafka.producer(
                self._settings,
                **{"transactional.id": TRANSACTIONAL_ID, "transaction.timeout.ms": TRANSACTION_MS, **QUIET},
            )
        )
        producer.init_transactions(ANSWER_S)
        chosen, faults = _choose(self.letters(), choose)
        if fate == "redriven":
            obstacles = self._obstacles(chosen)
            faults += [
                f"{letter.id} cannot be redriven: {obstacles[letter.id]}" for letter in chosen if letter.id in obstacles
            ]
            chosen = [letter for letter in chosen if letter.id not in obstacles]
        by_place = {(letter.partition, letter.offset): letter for letter in chosen}
        batch: list[tuple[Letter, Message]] = []
        size = 0
        for message in self._read(by_place) if chosen else ():
            batch.append((by_place.pop(_place(message)), message))
            size += batch[-1][0].size
            if size >= BATCH_BYTES or len(batch) >= BATCH_LETTERS:
                _transact(producer, fate, batch, tell)
                batch, size = [], 0
        if batch:
            _transact(producer, fate, batch, tell)
        return faults + [_absent(place) for place in by_place]

    def _read(self, places: Iterable[tuple[int, int]] | None = None) -> Iterator[Message]:
        """The committed records up to the high watermark as it is now, or those at these (partition, offset)."""
        wanted = None if places is None else set(places)
        ranges = self._ranges()
        if wanted is not None:
            limits = {number: [offset for partition, offset in wanted if partition == number] for number in ranges}
            ranges = {
                number: (max(ranges[number][0], min(offsets)), min(ranges[number][1], max(offsets) + 1))
                for number, offsets in limits.items()
                if offsets
            }
        for message in history.read(self._settings, DEAD_LETTERS, ranges, **QUIET):
            if wanted is None or _place(message) in wanted:
                yield message

    def _ranges(self) -> dict[int, tuple[int, int]]:
        """Partition → (first offset, high watermark)."""
        return kafka.ranges(self._admin, DEAD_LETTERS, history.partitions(self._admin, DEAD_LETTERS), ANSWER_S)

    def _obstacles(self, letters: Sequence[Letter]) -> dict[str, str]:
        """Letter's id → why it cannot be redriven."""
        topics = self._admin.list_topics(timeout=ANSWER_S).topics
        names = sorted({letter.topic for letter in letters if letter.topic in topics})
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        described = self._admin.describe_configs(resources) if resources else {}
        retention = {
            resource.name: int(future.result(ANSWER_S)["retention.ms"].value) for resource, future in described.items()
        }
        now_ms = time.time() * 1_000
        found = {}
        for letter in letters:
            topic, number = letter.topic, letter.topic_partition
            if topic is None or number is None:
                found[letter.id] = "its headers do not say where it came from; see `calltide dead-letters show`"
            elif topic in HEARD_IN_ORDER:
                found[letter.id] = "audio is heard in order and cannot come later; ingest the recording again"
            elif topic not in topics:
                found[letter.id] = f"topic {topic} is gone; create it with `calltide topics create`"
            elif number not in topics[topic].partitions:
                found[letter.id] = f"topic {topic} has no partition {number} any more"
            elif 0 <= retention[topic] < now_ms - letter.timestamp_ms:
                found[letter.id] = (
                    f"it is older than what {topic} keeps, so Kafka might delete it unread; raise "
                    f"CALLTIDE_KAFKA__RETENTION_HOURS and run `calltide topics fix {topic}`"
                )
        return found


def _transact(
    producer: Producer, fate: Fate, batch: Sequence[tuple[Letter, Message]], tell: Callable[[Letter], None]
) -> None:
    producer.begin_transaction()
    try:
        for letter, message in batch:
            if fate == "redriven":
                own = [
                    (name, value)
                    for name, value in kafka.headers_of(message)
                    if not name.startswith(ABOUT) and name != REDRIVEN
                ]
                producer.produce(
                    cast(str, letter.topic),
                    message.value(),
                    message.key(),
                    cast(int, letter.topic_partition),
                    timestamp=letter.timestamp_ms,
                    headers=[*own, (REDRIVEN, letter.id.encode())],
                )
            producer.produce(
                DEAD_LETTERS,
                b"",
                message.key(),
                letter.partition,
                headers=[(SETTLED, fate.encode()), (SETTLES, str(letter.offset).encode())],
            )
        producer.commit_transaction(ANSWER_S)
    except BaseException as error:
        # Ctrl-C, too: an open transaction holds up the stages that read these partitions.
        try:
            producer.abort_transaction(ANSWER_S)
        except KafkaException as end:
            # The first error may only hint at what this one says: somebody else has taken over.
            if isinstance(error, KafkaException) and end.args[0].fatal():
                raise
        raise
    for letter, _ in batch:
        tell(letter)


def _choose(letters: Sequence[Letter], choose: Filter | Sequence[tuple[int, int]]) -> tuple[list[Letter], list[str]]:
    """The letters to settle, and in words why others are none."""
    if isinstance(choose, Filter):
        return [letter for letter in letters if letter.settled is None and choose(letter)], []
    there = {(letter.partition, letter.offset): letter for letter in letters}
    chosen, faults = [], []
    for place in sorted(set(choose)):
        letter = there.get(place)
        if letter is None:
            faults.append(_absent(place))
        elif letter.settled is not None:
            faults.append(f"{letter.id} was {letter.settled.fate} already, at {_moment(letter.settled.at_ms)}")
        else:
            chosen.append(letter)
    return chosen, faults


def _absent(place: tuple[int, int]) -> str:
    return f"there is no dead letter {place[0]}:{place[1]}; `calltide dead-letters list` shows what there is"


def _place(message: Message) -> tuple[int, int]:
    offset = message.offset()
    return kafka.partition_of(message), -1 if offset is None else offset


def read_marker(headers: Headers) -> tuple[Fate, int] | None:
    """(fate, offset of the letter) of a marker. A letter may have been a marker's copy: then it has errors, too."""
    if any(name.startswith(ABOUT) for name, _ in headers):
        return None
    fields = dict(headers)
    fate, offset = fields.get(SETTLED), _number(fields.get(SETTLES))
    if fate not in (b"redriven", b"dropped") or offset is None:
        return None
    return cast(Fate, fate.decode()), offset


def read_letter(message: Message, headers: Headers) -> Letter:
    """The letter of a record of dead.letters."""
    fields = dict(headers)
    about = {name: fields.get(ABOUT + name) for name in ("stage", "topic", "exception.class.name", "exception.message")}
    stage, topic, exception, text = (None if value is None else _text(value) for value in about.values())
    partition, offset = _place(message)
    return Letter(
        partition,
        offset,
        timestamp_ms=message.timestamp()[1],
        call=_text(message.key() or b""),
        kind=_text(fields.get("kind") or b""),
        size=len(message.value() or b""),
        stage=stage,
        topic=topic,
        topic_partition=_number(fields.get(f"{ABOUT}partition")),
        topic_offset=_number(fields.get(f"{ABOUT}offset")),
        exception=exception,
        message=text,
    )


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None


def _moment(at_ms: int) -> str:
    """UTC. A time that no clock shows, which others may have written, as the number it is."""
    try:
        moment = datetime.fromtimestamp(at_ms / 1_000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def table(letters: Iterable[Letter]) -> "Table":
    """For people."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("id", "time (UTC)", "stage"):
        shown.add_column(name, no_wrap=True)
    for name in ("call", "from", "error"):
        shown.add_column(name, overflow="fold")
    for letter in letters:
        name = (letter.exception or "?").rpartition(".")[2]
        first, *_ = (letter.message or "").splitlines() or [""]
        cells = [letter.id, _moment(letter.timestamp_ms)[:19].replace("T", " "), letter.stage or "?", letter.call]
        cells += [letter.source, f"{name}: {first[:LINE]}" if first else name]
        if letter.settled:
            cells[-1] = f"[{letter.settled.fate}] {cells[-1]}"
        shown.add_row(*(Text(printable(cell)) for cell in cells), style="dim" if letter.settled else None)
    return shown


def describe(letter: Letter, headers: Headers, value: bytes) -> str:
    """Everything about a letter but the bytes of its audio, for people."""
    fields = {name: content for name, content in headers if content is not None}
    what, event = _inside(fields, value)
    settled = letter.settled
    rows = {
        "letter": letter.id,
        "settled": f"{settled.fate} at {_moment(settled.at_ms)}" if settled else "no",
        "stage": letter.stage or "?",
        "from": letter.source,
        "time": _moment(letter.timestamp_ms),
        "call": letter.call,
        "error": f"{letter.exception or '?'}: {letter.message or ''}",
        "value": what,
    }
    # What is said above or below is left out here.
    own = [
        (name, content) for name, content in headers if not name.startswith(ABOUT) and (name != "event" or not event)
    ]
    lines = [f"{name:<9}{text}" for name, text in rows.items()]
    lines += ["headers", *(f"  {name}: {_readable(content)}" for name, content in own)]
    if event:
        lines += ["event", event]
    if trace := fields.get(f"{ABOUT}exception.stacktrace"):
        lines += ["stack trace", _text(trace).rstrip()]
    return "\n".join(printable(line, keep="\n\t") for line in lines)


def _inside(fields: dict[str, bytes], value: bytes) -> tuple[str, str]:
    """(what the value is, the event as JSON or nothing)."""
    size = f"{len(value)} bytes"
    try:
        if fields.get("kind") == b"audio":
            packet = AudioPacket.decode(fields, value)
            return f"{size}: {packet.samples / packet.rate:.3f} s of {packet.codec} at {packet.rate} Hz", ""
        event = decode(fields, value)
    except (CalltideError, KeyError, ValueError) as error:
        return f"{size} that do not decode ({type(error).__name__}: {error})", ""
    if isinstance(event, Segment) and "event" in fields and event.rate > 0:
        seconds = len(value) / BYTES_PER_SAMPLE[event.codec] / event.rate
        size += f": {seconds:.3f} s of {event.codec} at {event.rate} Hz"
    return size, event.model_dump_json(indent=2)


def _readable(content: bytes | None) -> str:
    """Text as text, anything else as Python writes bytes."""
    try:
        return str(content) if content is None else content.decode()
    except UnicodeDecodeError:
        return repr(content)


def printable(text: str, keep: str = "") -> str:
    """Without what a terminal would obey: others write these records."""
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )
