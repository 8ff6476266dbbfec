"""`python -m benchmarks.analytics`: the dashboards' queries on ten million generated utterances, what these take on
disk, and how fast the sink writes.

A changer must know: the queries are those of the committed dashboards, with the variables and macros filled in as
Grafana and its plugin do (tests/analytics), sent one at a time over HTTP to the embedded ClickHouse. Loading takes
about ten minutes; --home keeps the database, and a later run with the same directory measures it again.
"""

import argparse
import contextlib
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from clickhouse_connect.driver.client import Client
from confluent_kafka import Message
from rich.console import Console

from benchmarks.support import Table, add_outputs, publish
from dashboards.files import Query
from deploy.clickhouse import ClickHouse
from schemas.events import (
    Acoustics,
    CallEnded,
    CallEvent,
    CallInfo,
    Emotion,
    GranularEmotion,
    RunningScore,
    Score,
    Sentiment,
    Word,
    encode,
)
from streams.analytics.generate import generate
from streams.analytics.traffic import SOUR_TERMS, VERSION, Traffic, blocks
from streams.settings import Settings
from streams.sink import Sink, connect, migrate
from tests.analytics.test_dashboards import QUERIES, Opened

UNTIL: Final = datetime(2026, 11, 18, 15, 20, tzinfo=UTC)
DAYS: Final = 30
A_CALL: Final = 109
"""Utterances that are made of a call, those that the second version hears again included."""
RUNS: Final = 5
TARGET_MS: Final = {"search": 1_000, "": 200}
"""Text search, everything else."""
BATCHES: Final = (10_000, 20_000, 50_000, 100_000)
CACHES: Final = ("MARK", "UNCOMPRESSED", "INDEX MARK", "INDEX UNCOMPRESSED", "QUERY CONDITION", "MMAP")


@contextlib.contextmanager
def database(home: Path, name: str) -> Iterator[tuple[ClickHouse, Settings, Client]]:
    """The embedded ClickHouse of `home` and a database in it, brought up to date."""
    with ClickHouse(home, port=0) as running:
        base = Settings()
        section = base.clickhouse.model_copy(update={"url": running.url, "database": name})
        settings = base.model_copy(update={"clickhouse": section})
        migrate(settings)
        with connect(settings) as client:
            yield running, settings, client


def load(settings: Settings, client: Client, utterances: int, console: Console) -> Table | None:
    """Generate so many utterances, unless they are there; None then."""
    traffic = Traffic(until=UNTIL, days=DAYS, calls=max(utterances // A_CALL, 100), seed=7)
    if client.command("SELECT uniqExact(call_id) FROM calls WHERE source = 'generated'") == traffic.calls:
        return None
    began = time.monotonic()
    with console.status("") as status:
        rows = generate(
            settings,
            traffic,
            clear=True,
            progress=lambda done: status.update(f"{done:,} of {traffic.call_rows:,} calls"),
        )
    took = time.monotonic() - began
    heard = rows["utterances_heard"]
    return Table(
        "Loading, by `calltide generate`",
        ("utterances", "calls", "s", "utterances/s"),
        [(f"{heard:,}", f"{rows['calls']:,}", f"{took:.0f}", f"{heard / took:,.0f}")],
        data=dict(rows) | {"s": took},
    )


def settle(client: Client) -> None:
    """Wait until ClickHouse has merged what it wants to merge."""
    deadline = time.monotonic() + 1_200
    while client.command("SELECT count() FROM system.merges") and time.monotonic() < deadline:
        time.sleep(1)


# --- disk


def sizes(client: Client) -> list[Table]:
    """Bytes of each table, and of the columns of utterances_heard that take most."""
    tables = client.query(
        "SELECT table, sum(rows), count(), sum(bytes_on_disk) AS bytes, sum(data_uncompressed_bytes) FROM system.parts "
        "WHERE active AND database = currentDatabase() GROUP BY table ORDER BY bytes DESC"
    ).result_rows
    heard = next(rows for table, rows, *_ in tables if table == "utterances_heard")
    lines: list[tuple[str, ...]] = [
        (f"`{table}`", f"{rows:,}", f"{parts}", f"{size / 1e6:,.1f}", f"{size / heard:.2f}", f"{raw / size:.1f}")
        for table, rows, parts, size, raw in tables
    ]
    whole = sum(size for *_, size, _ in tables)
    lines.append(("together", "", "", f"{whole / 1e6:,.1f}", f"**{whole / heard:.0f}**", ""))
    columns = client.query(
        "SELECT column, sum(column_bytes_on_disk) AS bytes FROM system.parts_columns WHERE active AND "
        "database = currentDatabase() AND table = 'utterances_heard' GROUP BY column ORDER BY bytes DESC LIMIT 12"
    ).result_rows
    return [
        Table(
            "Disk",
            ("table", "rows", "parts", "MB", "bytes an utterance", "compressed by"),
            lines,
            data=[list(row) for row in tables],
        ),
        Table(
            "The columns of `utterances_heard` that take most",
            ("column", "MB", "bytes an utterance"),
            [(f"`{name}`", f"{size / 1e6:,.1f}", f"{size / heard:.1f}") for name, size in columns],
            data=[list(row) for row in columns],
        ),
    ]


# --- queries


@dataclass(frozen=True, slots=True)
class Time:
    """Of one query over one range of time."""

    cold_ms: float
    """Nothing in ClickHouse's caches, and no file of the database in the machine's memory."""
    warm_ms: float
    """Median of RUNS."""
    rows: int
    bytes: int


def forget(client: Client, home: Path) -> None:
    """Empty ClickHouse's caches and take the database's files out of the page cache."""
    for cache in CACHES:
        client.command(f"SYSTEM DROP {cache} CACHE")
    for folder, _, files in os.walk(home / "clickhouse"):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # merged meanwhile
                handle = os.open(Path(folder, name), os.O_RDONLY)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(handle)


def measure(client: Client, sql: str, home: Path) -> Time:
    """One query: once cold, then RUNS times."""

    def once() -> float:
        began = time.perf_counter()
        _ = client.query(sql).result_rows
        return (time.perf_counter() - began) * 1_000

    forget(client, home)
    cold = once()
    runs = [once() for _ in range(RUNS)]
    # What was read is known at the end, and told in the head of the answer: only where the answer waits for it.
    result = client.query(sql, settings={"wait_end_of_query": "1"})
    read = {name: int(result.summary.get(f"read_{name}", 0)) for name in ("rows", "bytes")}
    return Time(cold, statistics.median(runs), read["rows"], read["bytes"])


def a_call(client: Client) -> dict[str, Any]:
    """A long call with an alert, for the dashboard One call."""
    row = client.query(
        f"SELECT tenant, call_id FROM call_metrics FINAL WHERE pipeline_version = '{VERSION}' AND utterances > 100 AND "
        f"call_id IN (SELECT call_id FROM alerts) ORDER BY started_at LIMIT 1"
    ).result_rows[0]
    return {"tenant": [row[0]], "call": row[1]}


def target_of(query: Query) -> int:
    """Milliseconds that a query may take."""
    searches = any(sign in query.text for sign in ("${search", "$search"))
    return TARGET_MS["search" if searches else ""]


def queries(client: Client, home: Path, console: Console) -> list[Table]:
    """Every query, over the range that its dashboard opens with and over all the days."""
    call = a_call(client)
    lines, data, slow = [], [], []
    times: list[float] = []
    with console.status("") as status:
        for query in QUERIES:
            status.update(query.id)
            given = {"calltide-call": call, "calltide-words": {"search": SOUR_TERMS[0]}}.get(query.dashboard, {})
            board = Opened(client, query.dashboard, UNTIL, given)
            longest = replace(board, since=UNTIL - timedelta(days=DAYS))
            # Floor is about now; a call is found wherever it lies.
            opening = None if query.dashboard == "calltide-call" else measure(client, board.sql(query), home)
            whole = None if query.dashboard == "calltide-floor" else measure(client, longest.sql(query), home)
            target = target_of(query)
            for part, found in (("", opening), (f" ({DAYS} days)", whole)):
                times += [found.warm_ms] if found else []
                slow += [f"{query.id}{part}, {found.warm_ms:.0f} ms"] if found and found.warm_ms > target else []
            lines.append(
                (
                    query.dashboard.removeprefix("calltide-"),
                    query.panel if query.kind == "panel" else f"variable `{query.panel}`",
                    *_cells(opening),
                    *_cells(whole),
                )
            )
            data.append(
                {
                    "query": query.id,
                    "target_ms": target,
                    "opening": opening and asdict(opening),
                    "whole": whole and asdict(whole),
                }
            )
    figures = ("cold ms", "warm ms", "rows read", "MB read")
    columns = ("dashboard", "panel", *figures, *(f"{DAYS} days: {name}" for name in figures))
    notes = [
        f"{len(times) - len(slow)} of {len(times)} are within the target, warm ({TARGET_MS['']} ms, text search "
        f"{TARGET_MS['search']:,} ms); half take less than {statistics.median(times):.0f} ms. "
        + (f"Not within it: {'; '.join(slow)}." if slow else ""),
        "Cold: once, with ClickHouse's caches emptied and its files out of the machine's memory; warm: median of "
        f"{RUNS}. Both from the request to the last row in the client. Rows and bytes: what ClickHouse says it read.",
    ]
    return [Table("Queries of the dashboards", columns, lines, notes, data)]


def _cells(found: Time | None) -> tuple[str, ...]:
    if found is None:
        return ("",) * 4
    return f"{found.cold_ms:.0f}", f"{found.warm_ms:.0f}", f"{found.rows:,}", f"{found.bytes / 1e6:,.1f}"


# --- the sink


def score_of(row: dict[str, Any]) -> Score:
    """The event that a generated row of utterances_heard would have come from."""
    call = CallInfo(
        call_id=row["call_id"],
        started_at=row["call_started_at"],
        roles=("agent", "customer"),
        tenant=row["tenant"],
        queue=row["queue"],
        agent=row["agent"],
        source="generated",
    )
    words = [row[f"words.{name}"] for name in ("text", "start_ms", "end_ms", "confidence")]
    finer = [row[f"granular.{name}"] for name in ("name", "base", "confidence")]
    emotion = sentiment = None
    if row["emotion"]:
        emotion = Emotion(
            label=row["emotion"],
            probabilities=dict(row["emotions"]),
            model=row["emotion_model"],
            uncertain=row["emotion_uncertain"],
            granular=tuple(GranularEmotion(name=a, base=b, confidence=c) for a, b, c in zip(*finer, strict=True)),
            complex=row["complex_emotion"] or None,
        )
    if row["sentiment"]:
        fields = ("score", "text_score", "voice_score", "confidence", "disagree")
        sentiment = Sentiment(
            label=row["sentiment"],
            members=dict(row["members"]),
            model=row["sentiment_model"],
            **{name: row[name] for name in fields},
        )
    return Score(
        call=call,
        **{name: row[name] for name in _SAME},
        codec="mulaw",
        rate=8_000,
        words=tuple(Word(text=a, start_ms=b, end_ms=c, confidence=d) for a, b, c, d in zip(*words, strict=True)),
        emotion=emotion,
        emotion_skipped=row["emotion_skipped"] or None,
        acoustics=Acoustics(**{name: row[name] for name in Acoustics.model_fields if name in row}) if emotion else None,
        sentiment=sentiment,
        running=RunningScore(
            score=row["call_score"], party_score=row["party_score"], utterances=row["call_utterances"]
        ),
    )


_SAME: Final = ("channel", "start_ms", "end_ms", "captured_at", "cut", "speaker", "role", "role_confidence",
                "speaker_confidence", "overlap_ms", "flags", "text", "language", "asr_confidence", "asr_model",
                "pipeline_version")  # fmt: skip
"""Fields of a score that are columns of the same name."""


def records(utterances: int) -> list[Message]:
    """So many scores and the ends of their calls, as Kafka would give them to a sink with one partition."""
    found: list[tuple[int, CallEvent]] = []
    scores = 0
    for tables in blocks(Traffic(until=UNTIL, days=DAYS, calls=100 + utterances // 50, seed=11)):
        if "alerts" not in tables:
            continue
        rows = tables["utterances_heard"].to_pylist()[: utterances - scores]
        scores += len(rows)
        calls = {}
        for row in rows:
            score = score_of(row)
            found.append((int(score.captured_at.timestamp() * 1_000), score))
            calls[score.call.call_id] = score
        for last in calls.values():
            ended = last.captured_at + timedelta(seconds=1)
            duration = round((ended - last.call.started_at).total_seconds() * 1_000)
            end = CallEnded(call=last.call, duration_ms=duration, ended_at=ended, reason="hangup")
            found.append((int(ended.timestamp() * 1_000), end))
        if scores >= utterances:
            break
    found.sort(key=lambda one: one[0])
    messages = []
    for offset, (at, event) in enumerate(found):
        headers, value = encode(event)
        head: list[tuple[str, str | bytes | None]] = [*headers]
        stamp = (1, at)
        messages.append(Message("scores", 0, offset, event.call.call_id.encode(), value, head, None, stamp))
    return messages


def sink(settings: Settings, console: Console) -> Table:
    """Rows a second of one sink, by the number of records in an insert; without Kafka."""
    with console.status("records"):
        messages = records(max(BATCHES))
    lines: list[tuple[str, ...]] = []
    data = []
    for size in BATCHES:
        section = settings.clickhouse.model_copy(update={"database": f"sink_{size}"})
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
        own = settings.model_copy(update={"clickhouse": section, "kafka": kafka})
        migrate(own)
        writer = Sink(own)
        reading = inserting = 0.0
        with console.status(f"batches of {size:,}"):
            for first in range(0, len(messages), size):
                began = time.perf_counter()
                for message in messages[first : first + size]:
                    writer._add(message)
                read = time.perf_counter()
                writer._insert()
                writer.batch = type(writer.batch)()
                reading += read - began
                inserting += time.perf_counter() - read
        with connect(own) as client:
            kept = int(client.command("SELECT count() FROM utterances_heard"))  # type: ignore[arg-type]
            client.command(f"DROP DATABASE {section.database}")
        writer.consumer.close()
        assert kept == max(BATCHES), kept
        took = reading + inserting
        lines.append(
            (
                f"{size:,}",
                f"{len(messages) / took:,.0f}",
                f"{len(messages) / inserting:,.0f}",
                f"{reading:.1f}",
                f"{inserting:.1f}",
            )
        )
        data.append({"batch": size, "records": len(messages), "reading_s": reading, "inserting_s": inserting})
    return Table(
        "One sink",
        ("records a batch", "records/s", "of the inserts alone", "s to decode", "s to insert"),
        lines,
        [
            f"{max(BATCHES):,} scores and the ends of their calls through the sink's own code, from the record's bytes "
            "to ClickHouse's acknowledgement, with all materialized views; Kafka itself is left out."
        ],
        data,
    )  # fmt: skip


def main() -> None:
    # The sink's consumer finds no broker, which is as it should be.
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analytics", description=__doc__.split("\n\n")[0])
    parser.add_argument("--utterances", type=int, default=10_000_000, help="how many to generate (default 10 million)")
    parser.add_argument("--home", type=Path, help="keep the database in this directory (default: a temporary one)")
    add_outputs(parser)
    arguments, console = parser.parse_args(), Console()
    with tempfile.TemporaryDirectory(prefix="calltide-benchmark-") as temporary:
        home = arguments.home or Path(temporary)
        with database(home, "calltide") as (_, settings, client):
            console.print(f"{arguments.utterances:,} utterances", highlight=False)
            loaded = load(settings, client, arguments.utterances, console)
            settle(client)
            tables: Sequence[Table] = [
                *([loaded] if loaded else []),
                *sizes(client),
                *queries(client, home, console),
                sink(settings, console),
            ]
    publish({"python -m benchmarks.analytics": tables}, arguments)


if __name__ == "__main__":
    main()
