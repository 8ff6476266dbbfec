"""`calltide archive` and `calltide forget`: ended calls out of Kafka, and one call out of everywhere.

A changer must know: nothing can be deleted from the middle of a topic. What `forget` cannot delete expires, and it says
when. What ASR took out of a call's words is silenced in its archived audio; where that was is found on the topic of
scores, so a call of which an utterance did not get there is not archived.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import KafkaException, Message
from confluent_kafka.admin import AdminClient

from processors import audio
from processors.base import Record
from processors.redaction import hidden
from schemas.audio import BYTES_PER_SAMPLE, AudioPacket
from schemas.errors import CalltideError
from schemas.events import Score, decode
from schemas.topics import CHAIN, DEAD_LETTER_RETENTION_MS, FINDINGS, LANES, SCORES, STAGES, Lane, frames
from streams import history, kafka
from streams.archive import Archive, Damaged
from streams.dead_letters import DeadLetters, Filter, Letter
from streams.replay import plan as plans
from streams.replay.plan import SLACK_MS, Call, Survey, Wish, survey
from streams.settings import Settings
from streams.sink import MIGRATION_S, connect

FORGOTTEN: Final = (
    "calls", "utterances_heard", "corrections", "call_metrics", *(one.table for one in FINDINGS), "dead_letters",
    "tasks", "task_chunks",
)  # fmt: skip
"""Tables with rows of single calls. Counts by minute, hour and word are of many calls together."""


@dataclass(slots=True)
class Archived:
    """What was done."""

    calls: int = 0
    bytes: int = 0
    silenced: int = 0
    """Those of `calls` in which something personal was silenced."""
    unsearched: int = 0
    """Those of `calls` of which utterances were dropped as dead letters: nobody looked for what is personal in them."""
    before: int = 0
    """Calls that were in the archive already."""
    failed: dict[str, str] = field(default_factory=dict)
    """Call → why it is not in the archive."""


def archive(
    settings: Settings, wish: Wish, tell: Callable[[Archived, int], None] = lambda _done, _of: None
) -> Archived:
    """Store the calls that have ended; `tell` hears of each, and of how many.

    Raises CalltideError when Kafka does not answer or the archive cannot be written.
    """
    store = Archive(settings)
    found = survey(settings, wish, STAGES[0])
    done = Archived()
    wanted = {call.call_id: call for call in found.calls if not _is_there(store, call.call_id, call.started_at)}
    done.before = len(found.calls) - len(wanted)
    dropped: Counter[str] = Counter()
    if wanted and any(settings.asr.redact.kinds.values()):
        for letter in _unheard(settings, wanted):
            if letter.settled is None:
                done.failed[letter.call] = (
                    "some of it is among the dead letters, and may be personal; redrive or drop them, then try again"
                )
            elif letter.settled.fate == "dropped":
                dropped[letter.call] += 1
        for call_id in done.failed:
            del wanted[call_id]
    # Whatever the settings say now: what was taken out then is not to come back.
    silent = _silent(settings, wanted)
    left = dict(wanted)
    for lane in LANES:
        for call_id, records in _whole_calls(settings, found, lane, wanted):
            if left.pop(call_id, None) is None:
                done.failed[call_id] = "it came in both lanes; what came in the live one is archived"
                continue
            try:
                done.bytes += store.put(silenced(records, silent.get(call_id, {})), lane, dropped[call_id]).bytes
                done.calls += 1
                done.silenced += call_id in silent
                done.unsearched += call_id in dropped
            except Damaged as error:
                done.failed[call_id] = str(error)
            tell(done, len(wanted))
    lost = {call_id for call_id in found.beheaded if not _is_there(store, call_id)} | left.keys()
    done.failed |= dict.fromkeys(sorted(lost), "Kafka has deleted its beginning")
    return done


def _is_there(store: Archive, call_id: str, started_at: datetime | None = None) -> bool:
    """`started_at`: of the call that is meant; one of the same name is another."""
    try:
        kept = store.find(call_id)
    except Damaged:
        return False  # it is stored anew, as long as Kafka has it
    return kept is not None and started_at in (None, kept.call.started_at)


def _whole_calls(
    settings: Settings, found: Survey, lane: Lane, wanted: dict[str, Call]
) -> Iterator[tuple[str, list[Record]]]:
    """Each call of a lane with all its records, as soon as its last has come. Holds the calls that are under way."""
    topic = frames(lane)
    going: dict[str, list[Record]] = {}
    ranges = {number: (source.first, source.end) for number, source in found.sources.get(topic, {}).items()}
    left = {number: {call.call_id for call in wanted.values() if call.partition == number} for number in ranges}
    position: dict[int, int] = {}
    marks: Counter[str] = Counter()

    def enough(number: int) -> bool:
        return not left[number] and position[number] >= found.sources[topic][number].likely

    try:
        # What is deleted meanwhile is told: to go on behind it would cut calls in two.
        for message in history.read(settings, topic, ranges, enough=enough, **{"auto.offset.reset": "error"}):
            position[kafka.partition_of(message)] = (message.offset() or 0) + 1
            record = _record(message)
            if record.call_id not in wanted or (record.kind != "call_started" and record.call_id not in going):
                continue
            going.setdefault(record.call_id, []).append(record)
            marks[record.call_id] += record.kind == "call_ended"
            last = wanted[record.call_id].ends_with(
                record.kind.encode(), record.timestamp_ms, marks[record.call_id], audio=True
            )
            if last:
                left[kafka.partition_of(message)].discard(record.call_id)
                yield record.call_id, going.pop(record.call_id)
    except KafkaException as error:
        raise CalltideError(f"Kafka: {error.args[0].str()}; run it again, what is archived is kept") from error
    # Those whose last record is not as the scores have told: what there is of them.
    yield from going.items()


Silent = dict[int, list[tuple[int, int]]]
"""Channel → (start, end) of what is silenced, in milliseconds of the call."""


def _unheard(settings: Settings, wanted: dict[str, Call]) -> list[Letter]:
    """The dead letters of these calls that ASR did not see, or of which nobody heard what it took out."""
    after_vad = {row.name for row in CHAIN[1:]}
    return [letter for letter in DeadLetters(settings).letters() if letter.call in wanted and letter.stage in after_vad]


def _silent(settings: Settings, wanted: dict[str, Call]) -> dict[str, Silent]:
    """What ASR took out of each call, where it took out any."""
    found: dict[str, Silent] = {}
    if not wanted:
        return found
    admin = AdminClient(kafka.client(settings))
    since_ms = min(round(call.started_at.timestamp() * 1_000) for call in wanted.values()) - SLACK_MS
    try:
        numbers = sorted({call.partition for call in wanted.values()})
        ranges = kafka.ranges(admin, SCORES, numbers, history.ANSWER_S)
        first = history.offsets_at(admin, SCORES, numbers, since_ms)
        ranges = {
            number: (high if first[number] is None else max(low, first[number] or 0), high)
            for number, (low, high) in ranges.items()
        }
        for message in history.read(settings, SCORES, ranges):
            record = _record(message)
            # Most utterances have nothing personal in them, and need not be decoded to be told so.
            if record.call_id not in wanted or record.kind != "score" or b'"redacted":{}' in record.value:
                continue
            event = decode(record.headers, record.value)
            if isinstance(event, Score) and event.redacted:
                places = found.setdefault(record.call_id, {}).setdefault(event.channel, [])
                places += hidden(event.words, event.start_ms, event.end_ms)
    except KafkaException as error:
        raise CalltideError(f"Kafka: {error.args[0].str()}; run it again, what is archived is kept") from error
    return found


def silenced(records: list[Record], silent: Silent) -> list[Record]:
    """The records of a call with silence in these places of its audio."""
    if not silent:
        return records
    quiet = []
    for record in records:
        if record.kind != "audio":
            quiet.append(record)
            continue
        packet = AudioPacket.decode(record.headers, record.value)
        value, width = bytearray(record.value), BYTES_PER_SAMPLE[packet.codec]
        for start_ms, end_ms in silent.get(packet.channel, ()):
            first, behind = (
                min(max(at * packet.rate // 1_000 - packet.sample, 0), packet.samples) for at in (start_ms, end_ms)
            )
            value[first * width : behind * width] = audio.silence(behind - first, packet.codec)
        quiet.append(replace(record, value=bytes(value)))
    return quiet


def _record(message: Message) -> Record:
    headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
    call_id = (message.key() or b"").decode(errors="replace")
    kind = headers.get("kind", b"").decode(errors="replace")
    return Record(call_id, kind, headers, message.value() or b"", message.timestamp()[1])


@dataclass(slots=True)
class Forgotten:
    """What was removed of a call, and what is left, in words."""

    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def forget(settings: Settings, call_id: str) -> Forgotten:
    """Remove a call from the archive and from ClickHouse, and keep what Kafka still has of it out of both.

    Raises CalltideError when it is nowhere, or something does not answer: then it is to be run again.
    """
    kafka.check(settings)
    done = Forgotten()
    store = Archive(settings)
    kept = store.find(call_id)
    ended: datetime | None = None
    if kept is not None:
        files = store.remove(kept)
        done.removed.append(f"{files} files of the archive {store.url}")
        ended = kept.call.started_at + timedelta(milliseconds=kept.duration_ms)
    with connect(settings, answer_s=MIGRATION_S) as client:
        try:
            last = client.query(
                "SELECT max(captured_at), count() FROM utterances_heard WHERE call_id = {call:String}",
                {"call": call_id},
            ).result_rows[0]
            begun = client.query(
                "SELECT max(started_at), count() FROM calls WHERE call_id = {call:String}", {"call": call_id}
            ).result_rows[0]
            for table in reversed(FORGOTTEN):
                where = "call_id = {call:String}"
                rows = client.query(f"SELECT count() FROM {table} WHERE {where}", {"call": call_id}).result_rows[0][0]
                if rows:
                    client.command(
                        f"ALTER TABLE {table} DELETE WHERE {where}",
                        parameters={"call": call_id},
                        settings={"mutations_sync": 2},
                    )
                    done.removed.append(f"{rows} rows of {table}")
        except ClickHouseError as error:
            raise CalltideError(f"ClickHouse: {str(error).splitlines()[0][:300]}; run it again") from error
    moments = [moment for moment, rows in (last, begun) if rows]
    ended = max([moment.replace(tzinfo=UTC) for moment in moments] + ([ended] if ended else []), default=None)
    letters = [letter for letter in DeadLetters(settings).letters() if Filter(call=call_id)(letter)]
    replays = _replays_of(settings, call_id)
    if not done.removed and not letters and not replays:
        raise CalltideError(f"nothing is known of a call {call_id}; see that the name is right")
    store.forget(call_id)
    if ended is not None:
        gone = ended + timedelta(hours=settings.kafka.retention_hours)
        if gone > datetime.now(UTC):
            done.left.append(
                f"its audio, words and scores are in Kafka's topics until {gone:%Y-%m-%d %H:%M} UTC at least; until "
                "then it is neither archived nor replayed again"
            )
    if any(row[1] for row in (last, begun)):
        done.left.append(
            "it is counted in utterance_minutes, utterance_hours and call_terms (numbers, and words by the day); "
            "`calltide migrate --rebuild` counts without it"
        )
    if letters:
        gone = datetime.fromtimestamp(max(letter.timestamp_ms for letter in letters) / 1_000, UTC)
        gone += timedelta(milliseconds=DEAD_LETTER_RETENTION_MS)
        done.left.append(f"{len(letters)} dead letters of it are in Kafka until {gone:%Y-%m-%d %H:%M} UTC at least")
    done.left += [f"it is in the topics of replay {name} until `calltide replay drop {name}`" for name in replays]
    return done


def _replays_of(settings: Settings, call_id: str) -> list[str]:
    """The replays whose topics may have records of a call."""
    found = []
    for name in plans.names(AdminClient(kafka.client(settings))):
        try:
            calls = plans.find(settings, name).calls
        except CalltideError:
            continue  # it is being removed, or was never begun
        if any(call.call_id == call_id for call in calls):
            found.append(name)
    return found
