"""What was taken out of a call's words is silent in its archived audio, and what nobody knows is not archived."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer

from deploy.topics import Topics
from processors.base import Output
from schemas.audio import AudioPacket
from schemas.events import CallEvent, CallInfo
from schemas.topics import BATCH_FRAMES, DEAD_LETTERS, FRAMES, SCORES, TOPICS
from streams import archive_commands, kafka
from streams.archive import Archive, Kept
from streams.archiving import archive
from streams.dead_letters import ABOUT, DeadLetters, Filter
from streams.replay.plan import Wish
from streams.settings import Settings
from tests.scripted import call, ended, score, started

pytestmark = pytest.mark.kafka

LOUD = b"\x10" * 8
SILENT = b"\xff" * 8
"""A millisecond of mu-law."""


@pytest.fixture
def settings(kafka_bootstrap: str, tmp_path: Path) -> Settings:
    Topics(kafka_bootstrap).create(
        [topic for topic in TOPICS if topic.name in (FRAMES, BATCH_FRAMES, SCORES, DEAD_LETTERS)]
    )
    base = Settings(home=tmp_path / "home")
    own = {"bootstrap_servers": kafka_bootstrap, "group_prefix": f"test-{uuid.uuid4().hex[:8]}"}
    return base.model_copy(update={"kafka": base.kafka.model_copy(update=own)})


def live(settings: Settings, of: CallInfo, scores: Sequence[CallEvent]) -> None:
    """Two seconds of a call as live work leaves it, with these among its scores."""
    producer = Producer(kafka.producer(settings))
    begun_ms = round(of.started_at.timestamp() * 1_000)
    first, last = Output.of(started(of)), Output.of(ended(of, 2_000))

    def write(topic: str, output: Output, at_ms: int) -> None:
        producer.produce(topic, output.value, of.call_id, headers=[*output.headers], timestamp=begun_ms + at_ms)

    for topic in (FRAMES, SCORES):
        write(topic, first, 0)
    for at in range(20):
        for channel in (0, 1):
            packet = AudioPacket(channel, "mulaw", 8_000, at * 800, at, LOUD * 100)
            write(FRAMES, Output(packet.headers(), packet.value), at * 100)
    for event in scores:
        write(SCORES, Output.of(event), 1_500)
    for topic in (FRAMES, SCORES):
        write(topic, last, 2_000)
    assert producer.flush(30) == 0


def ago(seconds: int) -> datetime:
    """Before the calls of other tests on these topics: who reads a part of them expects that times rise."""
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=seconds)


def audio(settings: Settings, call_id: str, channel: int) -> bytes:
    store = Archive(settings)
    kept = store.find(call_id)
    assert isinstance(kept, Kept)
    packets = [
        AudioPacket.decode(record.headers, record.value) for record in store.records(kept) if record.kind == "audio"
    ]
    return b"".join(packet.value for packet in packets if packet.channel == channel)


def test_what_was_taken_out_is_silent_in_the_archive(settings: Settings) -> None:
    one, other = (call(f"{name}-{uuid.uuid4().hex[:8]}", ago(50_000)) for name in ("card", "plain"))
    # [CARD] lies from 900 to 1,180 ms of the call, and 300 ms to each side are silenced with it.
    said = score(one, 600, "yes [CARD] thanks").model_copy(update={"redacted": {"card": 1}})
    live(settings, one, [said])
    live(settings, other, [score(other, 600, "yes [CARD] thanks")])
    done = archive(settings, Wish(calls=frozenset({one.call_id, other.call_id})))
    assert (done.calls, done.silenced, done.failed) == (2, 1, {})
    assert audio(settings, one.call_id, said.channel) == LOUD * 600 + SILENT * 880 + LOUD * 520
    assert audio(settings, one.call_id, 1 - said.channel) == LOUD * 2_000
    assert audio(settings, other.call_id, said.channel) == LOUD * 2_000


def test_a_call_with_dead_letters_is_not_archived_before_they_are_settled(settings: Settings) -> None:
    one = call(f"dead-{uuid.uuid4().hex[:8]}", ago(50_000))
    live(settings, one, [])
    output = Output.of(score(one))
    about = {"stage": b"asr", "topic": b"speech.turns", "partition": b"0", "offset": b"0"}
    producer = Producer(kafka.producer(settings))
    headers = [*output.headers, *((f"{ABOUT}{name}", value) for name, value in about.items())]
    producer.produce(DEAD_LETTERS, output.value, one.call_id, headers=headers)  # type: ignore[arg-type]
    assert producer.flush(30) == 0
    wish = Wish(calls=frozenset({one.call_id}))
    done = archive(settings, wish)
    assert done.calls == 0
    assert "among the dead letters" in done.failed[one.call_id]
    off = settings.asr.redact.model_copy(update={"kinds": {"*": ()}})
    without = settings.model_copy(update={"asr": settings.asr.model_copy(update={"redact": off})})
    assert archive(without, wish).calls == 1, "nothing would be taken out, so nothing need be known"
    letters = [letter for letter in DeadLetters(settings).letters() if Filter(call=one.call_id)(letter)]
    assert [letter.stage for letter in letters] == ["asr"]


def test_a_call_of_which_letters_were_dropped_is_archived_counted_and_marked(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (call(f"{name}-{uuid.uuid4().hex[:8]}", ago(50_000)) for name in ("dropped", "whole"))
    live(settings, one, [])
    live(settings, other, [])
    producer = Producer(kafka.producer(settings))
    for start_ms in (200, 900):
        output = Output.of(score(one, start_ms))
        about = {"stage": b"asr", "topic": b"speech.turns", "partition": b"0", "offset": b"0"}
        headers = [*output.headers, *((f"{ABOUT}{name}", value) for name, value in about.items())]
        producer.produce(DEAD_LETTERS, output.value, one.call_id, headers=headers)  # type: ignore[arg-type]
    assert producer.flush(30) == 0
    assert DeadLetters(settings).settle("dropped", Filter(call=one.call_id)) == []
    monkeypatch.setattr("streams.settings.load", lambda: settings)
    archive_commands.archive(calls=[one.call_id, other.call_id])
    said = capsys.readouterr().out
    assert said.startswith("archived 2 calls") and "in 1 of them nobody looked for personal data" in said
    kept = {name: Archive(settings).find(name) for name in (one.call_id, other.call_id)}
    assert [isinstance(it, Kept) and it.unsearched for it in kept.values()] == [2, 0]
