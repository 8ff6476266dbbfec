"""The figures of the stage metrics and those that ClickHouse counts of the same calls (`call_metrics`) are the same."""

import random
from datetime import timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from deploy.migrations import apply_migrations
from processors.base import Output, Record
from processors.metrics import Config, build
from schemas.events import (
    CallEnded,
    CallEvent,
    CallInfo,
    CallMetrics,
    CallStarted,
    Correction,
    EmotionLabel,
    Progress,
    Role,
    Score,
    decode,
)
from streams.rows import call_row, correction_row, utterance_row
from streams.sink import MIGRATIONS, _insert_rows
from tests.unit.stage_records import STARTED_AT
from tests.unit.test_conversation import said

VERSION = "v1"
OF_PARTY = (
    "utterances", "words", "talk_ms", "talk_share", "words_per_minute", "score", "negative", "neutral", "positive",
    "quarters", "change", "emotion_ms", "longest_monologue_ms", "turns", "interruptions", "overtalk_ms",
)  # fmt: skip
OF_CALL = ("silences", "silence_ms", "longest_silence_ms")
EMOTIONS: tuple[EmotionLabel | None, ...] = (None, "anger", "neutral", "happiness")


def drawn(chance: random.Random, call_id: str, roles: tuple[Role, ...]) -> list[CallEvent]:
    """A call as the chain tells it: utterances when they are finished, watermarks, corrections, and its end."""
    call = CallInfo(call_id=call_id, started_at=STARTED_AT, roles=roles)
    utterances = list[Score]()
    free_ms = [0] * len(roles)
    at_ms = chance.choice([0, 700, 6_000])
    for _ in range(chance.randint(0, 40)):
        channel = chance.randrange(len(roles))
        start_ms = max(at_ms, free_ms[channel])
        end_ms = start_ms + chance.choice([0, 120, 900, 2_400, 8_000, 14_000])
        speaker = f"channel-{channel}" if len(roles) > 1 else f"speaker-{chance.randint(1, 4)}"
        utterances.append(
            said(
                channel,
                start_ms,
                end_ms,
                of=call,
                words=chance.randint(0, 9),
                score=chance.choice([None, round(chance.uniform(-1, 1), 4)]),
                emotion=chance.choice(EMOTIONS),
                speaker=speaker if roles[channel] == "unknown" else roles[channel],
                flags=("cross_talk",) if chance.random() < 0.1 else (),
            )
        )
        free_ms[channel] = max(end_ms, start_ms + 1) + chance.choice([0, 260])
        at_ms = max(0, end_ms + chance.choice([-6_000, -1_500, -300, -299, 0, 200, 1_300, 4_999, 5_000, 9_000]))
    told: list[tuple[int, int, CallEvent]] = [(one.end_ms, 0, one) for one in utterances]
    last_ms = max((one.end_ms for one in utterances), default=0)
    for mark_ms in range(1_000, last_ms, 1_000):
        spoken = (one.start_ms for one in utterances if one.start_ms < mark_ms <= one.end_ms)
        told.append((mark_ms, 1, Progress(call=call, at_ms=min(spoken, default=mark_ms))))
    if len(roles) == 1:
        known = [
            Correction(call=call, speaker="speaker-3", same_as="speaker-2"),
            Correction(call=call, speaker="speaker-2", role="customer", role_confidence=0.7),
        ]
        told += [(chance.randint(0, last_ms), 2, one) for one in known if chance.random() < 0.7]
    told.sort(key=lambda one: one[:2])
    duration_ms = last_ms + chance.choice([0, 400, 5_000, 20_000])
    ended_at = STARTED_AT + timedelta(milliseconds=duration_ms)
    ended = CallEnded(call=call, duration_ms=duration_ms, ended_at=ended_at, reason="hangup")
    return [CallStarted(call=call), *(event for *_, event in told), ended]


def final(events: list[CallEvent]) -> CallMetrics:
    stage = build(Config(), VERSION)
    state = stage.open("call")
    records = [Record("call", event.kind, {"kind": event.kind.encode()}, Output.of(event).value, 0) for event in events]
    last = stage.process([(state, record) for record in records])[-1].outputs[0]
    event = decode(dict(last.headers), last.value)
    assert isinstance(event, CallMetrics)
    return event


def near(counted: Any, told: Any) -> bool:
    """As near as the four digits of an event and the 32 bits of a column allow."""
    if isinstance(told, tuple):
        return len(counted) == len(told) and all(map(near, counted, told))
    if told is None or isinstance(told, dict):
        return bool(counted == told)
    return bool(counted == pytest.approx(told, rel=1e-4, abs=1e-3))


@pytest.fixture(scope="module")
def calls() -> dict[str, list[CallEvent]]:
    chance = random.Random(9)
    kinds: list[tuple[Role, ...]] = [("agent", "customer"), ("unknown", "unknown"), ("unknown",)]
    return {f"call-{number}": drawn(chance, f"call-{number}", kinds[number % 3]) for number in range(120)}


def test_clickhouse_counts_the_same_of_a_call_that_has_ended(client: Client, calls: dict[str, list[CallEvent]]) -> None:
    apply_migrations(client, MIGRATIONS)
    rows: dict[str, list[dict[str, Any]]] = {"utterances_heard": [], "corrections": [], "calls": []}
    for offset, event in enumerate(event for events in calls.values() for event in events):
        if isinstance(event, Score):
            rows["utterances_heard"].append(utterance_row(event, "scores", 0, offset))
        elif isinstance(event, Correction):
            rows["corrections"].append(correction_row(event, VERSION, "scores", 0, offset))
        elif isinstance(event, CallStarted | CallEnded):
            row = call_row(event, VERSION) | {"topic": "scores", "partition": 0, "offset": offset}
            rows["calls"].append(row)
    for table, theirs in rows.items():  # the ends come last, as from the sink
        _insert_rows(client, table, theirs, "test")
    found = {
        (row["call_id"], row["role"], row["speaker"]): row
        for row in client.query("SELECT * FROM call_metrics FINAL").named_results()
    }
    expected = 0
    for call_id, events in calls.items():
        told = final(events)
        merged = any(isinstance(event, Correction) and event.same_as for event in events)
        for party in told.parties:
            row = found[call_id, party.role, party.speaker]
            ours = party.model_dump(include=set(OF_PARTY)) | told.model_dump(include=set(OF_CALL))
            if merged:
                # Two voices that were one after all were two while they spoke in turn.
                assert ours.pop("longest_monologue_ms") <= row["longest_monologue_ms"]
            for name, value in ours.items():
                assert near(row[name], value), (call_id, party.speaker, name, row[name], value)
            expected += 1
    assert len(found) == expected > 150
