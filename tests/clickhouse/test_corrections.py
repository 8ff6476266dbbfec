"""Corrections of speakers in ClickHouse: the view `utterances`, and a database of before it."""

import json
import random
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

from deploy.migrations import apply_migrations
from schemas.events import Correction, Role, Score
from streams.corrections import Corrections
from streams.rows import correction_row, utterance_row
from streams.sink import MIGRATIONS, _insert_rows
from tests.scripted import call, score

VERSION = "v1"
WHO = "SELECT call_id, start_ms, speaker, role, role_confidence FROM utterances"


def insert(client: Client, *events: Score | Correction, first: int = 0) -> None:
    """Rows as the sink makes them, of one partition, from the offset `first` on."""
    for offset, event in enumerate(events, first):
        if isinstance(event, Score):
            table, row = "utterances_heard", utterance_row(event, "scores", 0, offset)
        else:
            table, row = "corrections", correction_row(event, VERSION, "scores", 0, offset)
        _insert_rows(client, table, [row], f"test/{offset}")


def who(client: Client, sql: str = WHO, **settings: Any) -> dict[tuple[str, int], tuple[str, str, float | None]]:
    """(call, start) → (speaker, role, role's confidence); nothing is there twice."""
    rows = client.query(sql, settings=settings).result_rows
    found = {(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}
    assert len(found) == len(rows)
    return found


def turn(call_id: str, start_ms: int, speaker: str, role: Role = "unknown", **more: Any) -> Score:
    return score(call(call_id, **more), start_ms).model_copy(update={"speaker": speaker, "role": role, "channel": 0})


def test_the_view_knows_speakers_and_roles_as_a_reader_of_the_topic_does(client: Client) -> None:
    """Chains, rings, roles found under an old name, found again, and before the speaker was heard: all at random."""
    apply_migrations(client, MIGRATIONS)
    chance = random.Random(5)
    names = [f"speaker-{number}" for number in range(1, 6)]
    heard: list[Score] = []
    corrections: list[Correction] = []
    expected: dict[tuple[str, int], tuple[str, str, float | None]] = {}
    for number in range(300):
        call_id, known = f"call-{number}", Corrections()
        for _ in range(chance.randrange(7)):
            correction = Correction(
                call=call(call_id),
                speaker=chance.choice(names),
                same_as=chance.choice([None, *names]),
                role=chance.choice(["agent", "customer", "unknown"]),
                role_confidence=chance.choice([None, 0.25, 0.75]),
            )
            corrections.append(correction)
            known.add(correction)
        said = [turn(call_id, at, name, chance.choice(["agent", "unknown"])) for at, name in enumerate(names)]
        heard += said
        for after in map(known.apply, said):
            expected[call_id, after.start_ms] = after.speaker, after.role, after.role_confidence
    utterances = [utterance_row(one, "scores", 0, 2 * offset) for offset, one in enumerate(heard)]
    rows = [correction_row(one, VERSION, "scores", 0, 2 * offset + 1) for offset, one in enumerate(corrections)]
    _insert_rows(client, "utterances_heard", utterances, "test/u")
    _insert_rows(client, "corrections", rows, "test/c")
    assert who(client) == expected
    assert len({speaker for speaker, _, _ in expected.values()}) == 5
    assert who(client, join_use_nulls=1) == expected
    assert who(client, f"{WHO} FINAL WHERE call_id = 'call-7'") == {
        key: value for key, value in expected.items() if key[0] == "call-7"
    }
    # Delivered once more, in another batch: nothing is there twice, nothing is known otherwise.
    _insert_rows(client, "utterances_heard", utterances[7:], "test/u7")
    _insert_rows(client, "corrections", rows[7:], "test/c7")
    assert who(client) == expected


def test_a_correction_holds_for_its_own_call_version_and_tenant_only(client: Client) -> None:
    apply_migrations(client, MIGRATIONS)
    other_version = turn("a", 1, "speaker-2").model_copy(update={"pipeline_version": "v2"})
    insert(
        client,
        *(turn("a", 0, "speaker-2"), turn("b", 0, "speaker-2"), other_version),
        Correction(call=call("a"), speaker="speaker-2", same_as="speaker-1", role="customer", role_confidence=0.5),
        turn("a", 2, "speaker-2"),
    )
    merged, untouched = ("speaker-1", "customer", 0.5), ("speaker-2", "unknown", None)
    assert who(client) == {("a", 0): merged, ("a", 1): untouched, ("a", 2): merged, ("b", 0): untouched}
    client.command("TRUNCATE TABLE corrections")
    insert(client, Correction(call=call("a", tenant="acme"), speaker="speaker-2", same_as="speaker-1"))
    assert set(who(client).values()) == {untouched}


def test_rows_of_before_stay_valid_and_are_corrected(client: Client, tmp_path: Path) -> None:
    first = MIGRATIONS / "0001_calls_and_utterances.sql"
    (tmp_path / first.name).write_bytes(first.read_bytes())
    apply_migrations(client, tmp_path)
    columns = [row[0] for row in client.query("DESCRIBE utterances").result_rows]
    said = [turn("a", 0, "speaker-1"), turn("a", 1, "speaker-2", "agent")]
    rows = [utterance_row(one, "scores", 0, offset) for offset, one in enumerate(said)]
    _insert_rows(client, "utterances", [{name: row[name] for name in columns} for row in rows], "before")
    select = f"SELECT {', '.join(f'`{name}`' for name in columns)} FROM utterances ORDER BY start_ms"
    before = client.raw_query(select, fmt="JSONEachRow")
    assert len(before.splitlines()) == 2

    assert len(apply_migrations(client, MIGRATIONS)) >= 2
    assert client.raw_query(select, fmt="JSONEachRow") == before
    row = json.loads(client.raw_query("SELECT * FROM utterances LIMIT 1", fmt="JSONEachRow"))
    new = {name: value for name, value in row.items() if name not in columns}
    assert new == {
        "call_started_at": row["spoken_at"],
        "scored_at": "1970-01-01 00:00:00.000",
        "latency_ms": None,
        "role_confidence": None,
        "overlap_ms": 0,
        "emotion_uncertain": False,
        "complex_emotion": "",
        "granular.name": [],
        "granular.base": [],
        "granular.confidence": [],
        "disagree": False,
        **dict.fromkeys(("pitch_mean_hz", "pitch_variance_hz2", "rms", "loudness_lufs", "speaking_rate_wps")),
        **dict.fromkeys(("spectral_centroid_hz", "zero_crossing_rate", "jitter", "shimmer", "hnr_db")),
        "mfcc": [],
        "formants_hz": [],
        "redacted": {},
    }
    # The same utterance delivered again by a sink of now, and what became known since.
    insert(client, said[1], Correction(call=call("a"), speaker="speaker-2", same_as="speaker-1"), first=1)
    assert who(client) == {("a", 0): ("speaker-1", "unknown", None), ("a", 1): ("speaker-1", "agent", None)}
