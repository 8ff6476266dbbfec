"""Old calls again, beside live work: the same to the last digit, each once, and nothing else touched."""

import os
import signal
from typing import Any

import psutil
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.topics import STAGES
from streams import samples
from streams.settings import load
from tests.chain.support import Stack, until
from tests.workers import Reader

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.slow]

HEARD = (
    "call_id, channel, start_ms, end_ms, speaker, role, text, words.text, words.start_ms, asr_confidence, emotion, "
    "emotions, sentiment, score, text_score, voice_score, call_score, party_score, flags"
)


@pytest.fixture(scope="module")
def calls(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two calls that were heard live, in real time: two channels over the telephone, and one channel of two voices."""
    paths = [samples.two_channel(tmp_path_factory.mktemp("calls")), samples.packaged()]
    ids = ["replayed-stereo", "replayed-mono"]
    running = [stack.begin("ingest", path, "--call-id", name) for path, name in zip(paths, ids, strict=True)]
    for process in running:
        assert process.wait(180) == 0
    until(lambda: len(ended(stack, ids, "v1")) == len(ids), "the end of the live calls in ClickHouse")
    return ids


def ended(stack: Stack, ids: list[str], version: str) -> list[dict[str, Any]]:
    names = ", ".join(f"'{name}'" for name in ids)
    where = f"call_id IN ({names}) AND pipeline_version = '{version}'"
    return stack.rows(
        f"SELECT call_id, duration_ms, end_reason, roles FROM calls FINAL WHERE {where} AND ended_at IS NOT NULL "
        "ORDER BY call_id"
    )


def utterances(stack: Stack, ids: list[str], version: str) -> list[dict[str, Any]]:
    names = ", ".join(f"'{name}'" for name in ids)
    return stack.rows(
        f"SELECT {HEARD} FROM utterances WHERE call_id IN ({names}) AND pipeline_version = '{version}' "
        "ORDER BY call_id, channel, start_ms"
    )


def bootstrap(stack: Stack) -> str:
    return f"127.0.0.1:{stack.ports['CALLTIDE_BROKER__PORT']}"


def live_offsets(stack: Stack) -> dict[tuple[str, int], int]:
    """What the live stages have committed."""
    admin = AdminClient({"bootstrap.servers": bootstrap(stack)})
    found = {}
    for row in STAGES:
        group = f"{load().kafka.group_prefix}.{row.id}"
        places = [TopicPartition(row.reads, number) for number in range(load().kafka.partitions)]
        asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])
        for place in asked[group].result().topic_partitions:
            found[row.name, place.partition] = place.offset
    return found


def topics(stack: Stack) -> set[str]:
    admin = AdminClient({"bootstrap.servers": bootstrap(stack)})
    return set(admin.list_topics(timeout=10).topics)


def test_killed_and_resumed_it_hears_what_was_heard_live(stack: Stack, calls: list[str]) -> None:
    """Live at 1× with packets as they came, against all at once, cut off in the middle by kill -9 of everything."""
    before, live = live_offsets(stack), utterances(stack, calls, "v1")
    running = stack.begin("replay", "--calls", ",".join(calls), "--version", "again")
    results = Reader(bootstrap(stack), "replay.again.scores", load().kafka.partitions)
    results.until(lambda: len(results.found) > 2, "the first results of the replay", 120)
    results.close()
    workers = psutil.Process(running.pid).children(recursive=True)
    os.kill(running.pid, signal.SIGKILL)
    for worker in workers:
        with_patience(worker)
    assert running.wait(10) == -signal.SIGKILL
    assert "again" in stack.calltide("replay", "list").stdout
    stack.calltide("replay", "resume", "again")
    assert utterances(stack, calls, "again") == live
    assert ended(stack, calls, "again") == ended(stack, calls, "v1")
    (doubled,) = stack.rows(
        "SELECT count() - uniqExact(call_id, channel, start_ms) AS more FROM utterances_heard "
        "WHERE pipeline_version = 'again'"
    )
    assert int(doubled["more"]) == 0
    assert utterances(stack, calls, "v1") == live, "live rows are as they were"
    assert live_offsets(stack) == before, "nobody of live work has read anything of it"
    assert not {name for name in topics(stack) if name.startswith("replay.")}


def with_patience(worker: psutil.Process) -> None:
    """kill -9 where the parent's death has not ended it yet."""
    try:
        worker.kill()
    except psutil.NoSuchProcess:
        return


def test_words_are_scored_again_without_audio(stack: Stack, calls: list[str]) -> None:
    done = stack.calltide(
        "replay", "--calls", calls[0], "--from-stage", "sentiment", "--version", "words",
        "--set", "sentiment.voice_weight=0",
    )  # fmt: skip
    assert done.stdout.startswith("replayed 1 calls")
    live, words = utterances(stack, calls[:1], "v1"), utterances(stack, calls[:1], "words")
    assert [one["text"] for one in words] == [one["text"] for one in live]
    assert all(one["score"] == one["text_score"] for one in words if one["score"] is not None)
    assert [one["score"] for one in words] != [one["score"] for one in live]


def test_a_dry_run_does_nothing(stack: Stack, calls: list[str]) -> None:
    before = topics(stack)
    said = stack.calltide("replay", "--calls", ",".join(calls), "--version", "dry", "--dry-run").stdout
    assert said.startswith("2 calls, ")
    assert topics(stack) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--version", "x"), "which calls? give --from"),
        (("--all",), "give --version NAME"),
        (("--all", "--version", "v1"), "live calls are written as version v1; give another"),
        (
            ("--all", "--version", "x", "--from", "2001-01-01", "--to", "2001-01-02"),
            "no call that has ended is in this",
        ),
        (("--calls", "nobody", "--version", "x"), "no call nobody in Kafka"),
        (("--all", "--version", "x", "--set", "asr.ears=2"), "--set asr.ears=2: no such setting"),
        (("--all", "--version", "x", "--speed", "fast"), "--speed fast: give max, or times real time"),
        (("--all", "--version", "x", "--from", "2026-02-01", "--to", "2026-01-01"), "--from is not before --to"),
        (("--all", "--version", "../x"), "is no name of a replay"),
    ],
)
def test_what_cannot_be_replayed_is_said(
    stack: Stack, calls: list[str], arguments: tuple[str, ...], words: str
) -> None:
    done = stack.calltide("replay", *arguments, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
