"""What arrived, against what an undisturbed chain makes of the same calls: everywhere, to the last digit and in order.

Left out of the comparison is what cannot be the same: wall clock, and the place in a topic.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from schemas.events import CallEnded, CallEvent, Correction, Score
from schemas.topics import DEAD_LETTERS, SCORES, STAGES, lanes
from streams.rows import call_row, correction_row, utterance_row
from streams.settings import Settings
from tests.chaos.observers import query
from tests.workers import everything

Fields = dict[str, Any]
Calls = Mapping[str, Sequence[Fields]]
"""By call id: events or rows as JSON has them."""

WALL_CLOCK: Final = frozenset({"call_started_at", "captured_at", "ended_at", "scored_at", "spoken_at", "started_at"})
PLACE: Final = frozenset({"topic", "partition", "offset"})


@dataclass(slots=True)
class Result:
    """How one place compares."""

    place: str
    records: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    """Of other content, in another order, or not to be expected at all."""
    details: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.different)


def _without_clock(record: Mapping[str, Any]) -> Fields:
    kept = {name: value for name, value in record.items() if name not in WALL_CLOCK | PLACE}
    if isinstance(call := kept.get("call"), Mapping):
        kept["call"] = {name: value for name, value in call.items() if name not in WALL_CLOCK}
    return kept


def _identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which event of its call it is, or which row; of a correction all that it says."""
    says = tuple(record[name] for name in ("speaker", "same_as", "role")) if "same_as" in record else ()
    return (*(record.get(name) for name in ("kind", "at_ms", "channel", "start_ms")), says)


def compare(place: str, expected: Calls, found: Calls) -> Result:
    """Every call by itself."""
    result = Result(place, records=sum(map(len, found.values())))
    for call_id in [*expected, *(found.keys() - expected.keys())]:
        wanted = [_without_clock(record) for record in expected.get(call_id, ())]
        had = [_without_clock(record) for record in found.get(call_id, ())]
        if wanted == had:
            continue
        wanted_ids, had_ids = Counter(map(_identity, wanted)), Counter(map(_identity, had))
        by_identity = {_identity(record): record for record in had}

        def note(what: str, identity: tuple[Any, ...], call_id: str = call_id) -> None:
            kind, at_ms, channel, start_ms, says = identity
            where = f"channel {channel} at {start_ms} ms" if channel is not None else f"at {at_ms} ms" if at_ms else ""
            which = f"{says}" if says else where
            result.details.append(f"{place}: {call_id}: {what} {kind or 'row'} {which}".rstrip())

        before = result.lost + result.doubled + result.different
        for identity, times in (wanted_ids - had_ids).items():
            result.lost += times
            note("lost", identity)
        for identity, times in (had_ids - wanted_ids).items():
            if identity in wanted_ids:
                result.doubled += times
                note("doubled", identity)
            else:
                result.different += times
                note("not to be expected:", identity)
        for record in wanted:
            other = by_identity.get(_identity(record), record)
            if other != record:
                result.different += 1
                fields = [name for name in record if other.get(name) != record[name]]
                note(
                    "; ".join(f"{name} is {other.get(name)!r:.80}, not {record[name]!r:.80}" for name in fields)
                    + " in",
                    _identity(record),
                )
        if result.lost + result.doubled + result.different == before:
            result.different += 1
            result.details.append(f"{place}: {call_id}: all there, in another order")
    return result


def _as_json(event: CallEvent, call_id: str) -> Fields:
    fields: Fields = json.loads(event.model_dump_json())
    fields["call"]["call_id"] = call_id
    return fields


def in_scores(settings: Settings, sent: Mapping[str, Sequence[CallEvent]]) -> Result:
    """The topic at the end of the chain, under read_committed. `sent`: what is expected of each call."""
    found: dict[str, list[Fields]] = {}
    reader = everything(settings.bootstrap_servers, SCORES, settings.kafka.partitions)
    for record in reader.found:
        found.setdefault(record.key, []).append(json.loads(record.value or b"{}"))
    return compare("scores, read_committed", _events(sent), found)


def at_the_client(sent: Mapping[str, Sequence[CallEvent]], found: Calls) -> Result:
    """What a websocket client was sent."""
    return compare("websocket client", _events(sent), found)


def _events(sent: Mapping[str, Sequence[CallEvent]]) -> dict[str, list[Fields]]:
    return {call_id: [_as_json(event, call_id) for event in events] for call_id, events in sent.items()}


def in_clickhouse(settings: Settings, sent: Mapping[str, Sequence[CallEvent]]) -> list[Result]:
    """Its rows, with FINAL, utterances as they were heard."""
    results = []
    for table in ("utterances_heard", "corrections", "calls"):
        expected = {call_id: list(_rows(settings, table, call_id, events)) for call_id, events in sent.items()}
        columns = set().union(*(row for rows in expected.values() for row in rows))
        order = {"utterances_heard": "start_ms, channel", "corrections": "offset", "calls": "started_at"}[table]
        answer = query(settings, f"SELECT * FROM {table} FINAL ORDER BY {order} FORMAT JSONEachRow")
        found: dict[str, list[Fields]] = {}
        for line in answer.splitlines():
            row = json.loads(line)
            found.setdefault(row["call_id"], []).append({name: row[name] for name in columns or row})
        results.append(compare(f"ClickHouse {table}, FINAL", expected, found))
    return results


def rows_twice(settings: Settings) -> int:
    """How many rows of utterances are there beside those that FINAL shows, until ClickHouse merges them away."""
    whole, final = (int(query(settings, f"SELECT count() FROM utterances_heard {form}")) for form in ("", "FINAL"))
    return whole - final


def _rows(settings: Settings, table: str, call_id: str, events: Sequence[CallEvent]) -> Iterable[Fields]:
    if table == "calls":
        rows = [call_row(event, settings.pipeline_version) for event in events if isinstance(event, CallEnded)]
    elif table == "corrections":
        corrections = [event for event in events if isinstance(event, Correction)]
        rows = [correction_row(event, settings.pipeline_version, "", 0, 0) for event in corrections]
    else:
        scores = sorted(
            (event for event in events if isinstance(event, Score)), key=lambda one: (one.start_ms, one.channel)
        )
        rows = [utterance_row(score, "", 0, 0) for score in scores]
    return [json.loads(json.dumps(row | {"call_id": call_id})) for row in rows]


def open_states(settings: Settings) -> list[str]:
    """`topic: call` for every call that a changelog still holds something of."""
    found = []
    for topic in (written.state_topic for row in STAGES for written in lanes(row)):
        reader = everything(settings.bootstrap_servers, topic, settings.kafka.partitions)
        found += [f"{topic}: {call_id}" for (_, call_id), value in reader.latest().items() if value is not None]
    return found


def dead_letters(settings: Settings) -> list[str]:
    """Each dead letter in one line."""
    reader = everything(settings.bootstrap_servers, DEAD_LETTERS, settings.kafka.partitions)
    about = ("stage", "topic", "partition", "offset", "exception.class.name", "exception.message")
    return [
        f"{record.key}: "
        + ", ".join(record.headers.get(f"__connect.errors.{name}", b"").decode(errors="replace") for name in about)
        for record in reader.found
    ]
