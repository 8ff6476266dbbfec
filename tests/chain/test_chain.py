"""Real audio through the real chain: what arrives everywhere is what `calltide analyze` hears in the same file."""

import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, TopicPartition

from schemas.events import EVENTS, Acoustics, CallEvent, Correction, Score, decode
from schemas.topics import SCORES, STAGES
from streams import samples
from streams.analyze import utterance
from streams.corrections import Corrections
from streams.settings import load
from tests.chain.support import Listener, Stack, until

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.slow]


def heard_by_analyze(stack: Stack, path: Path, *options: str) -> list[dict[str, Any]]:
    """The utterances of `calltide analyze --json`, in its order."""
    utterances = json.loads(stack.calltide("analyze", path, "--json", *options).stdout)["utterances"]
    assert len(utterances) >= 3, "the recording has speech"
    return list(utterances)


def in_order(utterances: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(utterances, key=lambda one: (one["start_ms"], one["channel"]))


def in_scores(stack: Stack, call_id: str) -> list[dict[str, Any]]:
    """The utterances of a call in the topic, as a read_committed reader sees them; doubles would show."""
    reader = Consumer(
        {
            "bootstrap.servers": f"127.0.0.1:{stack.ports['CALLTIDE_BROKER__PORT']}",
            "group.id": "test",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    partitions = range(load().kafka.partitions)
    reader.assign([TopicPartition(SCORES, partition, 0) for partition in partitions])
    found, left = list[CallEvent](), set(partitions)
    while left:
        for message in reader.consume(500, 1.0):
            if message.error():
                left.discard(message.partition())
            elif message.key() == call_id.encode():
                found.append(decode(dict(cast("list[tuple[str, bytes]]", message.headers())), message.value() or b""))
    reader.close()
    return corrected(found)


def corrected(events: Iterable[CallEvent]) -> list[dict[str, Any]]:
    """The utterances of a call, in order, as they are known at its end."""
    known, scores = Corrections(), list[Score]()
    for event in events:
        if isinstance(event, Correction):
            known.add(event)
        elif isinstance(event, Score):
            scores.append(event)
    return in_order([utterance(known.apply(score)) for score in scores])


def in_clickhouse(stack: Stack, call_id: str) -> list[dict[str, Any]]:
    """The rows of a call in the form of the public format."""
    of_call = f"WHERE call_id = '{call_id}'"
    rows = stack.rows(f"SELECT * FROM utterances {of_call} ORDER BY start_ms, channel")
    doubles = f"SELECT count() - {len(rows)} AS doubles FROM utterances_heard {of_call}"
    assert stack.rows(doubles) == [{"doubles": 0}], "the view would hide them"
    return [
        {
            "channel": row["channel"],
            "start_ms": row["start_ms"],
            "end_ms": row["end_ms"],
            "cut": row["cut"],
            "speaker": row["speaker"],
            "role": row["role"],
            "speaker_confidence": row["speaker_confidence"],
            "role_confidence": row["role_confidence"],
            "overlap_ms": row["overlap_ms"],
            "text": row["text"],
            "words": [
                dict(zip(("text", "start_ms", "end_ms", "confidence"), word, strict=True))
                for word in zip(
                    row["words.text"], row["words.start_ms"], row["words.end_ms"], row["words.confidence"], strict=True
                )
            ],
            "language": row["language"],
            "asr_confidence": row["asr_confidence"],
            "asr_model": row["asr_model"],
            "flags": row["flags"],
            "emotion": (
                {
                    "label": row["emotion"],
                    "probabilities": row["emotions"],
                    "model": row["emotion_model"],
                    "uncertain": row["emotion_uncertain"],
                    "granular": [
                        {"name": name, "base": base, "confidence": confidence}
                        for name, base, confidence in zip(
                            row["granular.name"], row["granular.base"], row["granular.confidence"], strict=True
                        )
                    ],
                    "complex": row["complex_emotion"] or None,
                }
                if row["emotion"]
                else None
            ),
            "emotion_skipped": row["emotion_skipped"] or None,
            "acoustics": ({name: row[name] for name in Acoustics.model_fields} if row["rms"] is not None else None),
            "sentiment": (
                {
                    "label": row["sentiment"],
                    "score": row["score"],
                    "text_score": row["text_score"],
                    "voice_score": row["voice_score"],
                    "confidence": row["confidence"],
                    "members": row["members"],
                    "model": row["sentiment_model"],
                    "disagree": row["disagree"],
                }
                if row["sentiment"]
                else None
            ),
            "running": {
                "score": row["call_score"],
                "party_score": row["party_score"],
                "utterances": row["call_utterances"],
            },
            "pipeline_version": row["pipeline_version"],
            "redacted": {},  # nothing personal is said here, and how much was is no column
        }
        for row in rows
    ]


def hear(stack: Stack, path: Path, call_id: str, *options: str, speed: str = "max") -> list[dict[str, Any]]:
    """Stream a call and return what a websocket client got until its end."""
    with Listener(stack.scores_url, call=call_id) as listener:
        stack.calltide("ingest", path, "--call-id", call_id, "--speed", speed, *options)
        until(lambda: listener.events("call_ended", call_id), f"end of {call_id} at the websocket")
        assert len(listener.events("call_started", call_id)) == 1
        events = [message["event"] for message in listener.messages if "event" in message]
        return corrected(EVENTS[event["kind"]].model_validate(event) for event in events)


def assert_the_same_everywhere(
    stack: Stack, call_id: str, pushed: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    assert pushed == expected
    assert in_scores(stack, call_id) == expected
    sql = f"SELECT count() AS n FROM calls FINAL WHERE call_id = '{call_id}' AND ended_at IS NOT NULL"
    until(lambda: stack.rows(sql) == [{"n": 1}], f"row of {call_id} in ClickHouse")
    assert in_clickhouse(stack, call_id) == expected


@pytest.fixture(scope="module")
def two_channels(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A recording, and what `calltide analyze` hears in it."""
    path = samples.two_channel(tmp_path_factory.mktemp("two-channels"))
    return path, heard_by_analyze(stack, path, "--roles", "agent,customer")


def test_scores_everywhere_are_those_of_analyze(stack: Stack, two_channels: tuple[Path, list[dict[str, Any]]]) -> None:
    path, expected = two_channels
    pushed = hear(stack, path, "two-channels", "--roles", "agent,customer")
    assert_the_same_everywhere(stack, "two-channels", pushed, expected)


def test_scores_of_both_parties_on_one_channel_are_those_of_analyze(stack: Stack) -> None:
    expected = heard_by_analyze(stack, samples.packaged())
    pushed = hear(stack, samples.packaged(), "mono mix")
    assert_the_same_everywhere(stack, "mono mix", pushed, expected)


@pytest.mark.chaos
def test_every_stage_killed_in_the_middle_of_a_call_changes_nothing(
    stack: Stack, two_channels: tuple[Path, list[dict[str, Any]]]
) -> None:
    path, expected = two_channels
    killed: list[str] = []

    def kill_all() -> None:
        for row in STAGES:
            time.sleep(1.5)
            stack.kill("stage", row.name)
            killed.append(row.name)
        stack.kill("sink")
        killed.append("sink")

    killer = threading.Thread(target=kill_all)
    killer.start()
    pushed = hear(stack, path, "killed", speed="3")
    killer.join()
    assert killed == [*(row.name for row in STAGES), "sink"]
    assert_the_same_everywhere(stack, "killed", pushed, expected)


def test_a_client_resumes_by_cursor_with_nothing_missed_and_nothing_repeated(stack: Stack, tmp_path: Path) -> None:
    path = samples.two_channel(tmp_path)
    everything = hear(stack, path, "resumed")
    with Listener(stack.scores_url, history="live") as listener:
        cursor = listener.messages[0]["cursor"]
    second = hear(stack, path, "resumed-2")
    with Listener(stack.scores_url, **{"from": cursor}) as listener:
        until(lambda: listener.events("call_ended", "resumed-2"), "the call that was missed")
        missed = [utterance(Score.model_validate(event)) for event in listener.events("score", "resumed-2")]
        assert listener.events("score", "resumed") == []
        half = [message for message in listener.messages if message.get("type") == "score"][len(missed) // 2]
    assert in_order(missed) == second
    assert [one["text"] for one in second] == [one["text"] for one in everything]
    with Listener(stack.scores_url, **{"from": half["cursor"]}) as listener:
        until(lambda: listener.events("call_ended", "resumed-2"), "the second half")
        rest = [utterance(Score.model_validate(event)) for event in listener.events("score", "resumed-2")]
    assert rest == missed[len(missed) // 2 + 1 :]
