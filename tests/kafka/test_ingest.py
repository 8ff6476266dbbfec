"""Recordings into the real broker: every packet in its place and at its time, and what did not arrive is said."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deploy.broker import Broker
from deploy.topics import Topics
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallStarted, decode
from schemas.topics import DEFAULT_PARTITIONS, FRAMES, TOPICS
from streams import ingest as module
from streams.ingest import MAXIMUM_SPEED, Call, Ingest, prepare
from streams.packets import packets
from streams.settings import Settings
from tests.workers import Found, everything

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka_bootstrap: str) -> Settings:
    Topics(kafka_bootstrap).create([topic for topic in TOPICS if topic.name == FRAMES])
    base = Settings()
    return base.model_copy(
        update={"kafka": base.kafka.model_copy(update={"bootstrap_servers": kafka_bootstrap})},
    )


def recording(path: Path, seconds: float, channels: int = 2, **options: str) -> Path:
    """Noise, so that no two packets are alike."""
    samples = np.random.default_rng(7).uniform(-0.5, 0.5, (round(8_000 * seconds), channels))
    soundfile.write(path, samples, 8_000, **(options or {"subtype": "ULAW"}))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """2.05 s, two channels, 8 kHz mu-law: 21 packets a channel, the last one short."""
    return recording(tmp_path / "a call.wav", 2.05)


RECORDS = 2 + 2 * 21


def arrived(settings: Settings, call: Call) -> list[Found]:
    """The call's records in `audio.frames`, in order; they must lie in one partition."""
    frames = everything(settings.bootstrap_servers, FRAMES, DEFAULT_PARTITIONS).found
    found = [record for record in frames if record.key == call.info.call_id]
    assert len({record.partition for record in found}) <= 1
    return found


def assert_whole(found: list[Found], call: Call, speed: float) -> None:
    """Start, all packets in order with their headers, end; each at the time at which it was captured."""
    sent = list(packets(call.info, call.audio, 100))
    assert [(list(record.headers.items()), record.value) for record in found] == [
        (packet.headers, packet.value) for packet in sent
    ]
    started_ms = call.info.started_at.timestamp() * 1_000
    assert [record.timestamp_ms for record in found] == [round(started_ms + packet.media_ms / speed) for packet in sent]
    first, last = (decode(record.headers, record.value or b"") for record in (found[0], found[-1]))
    assert first == CallStarted(call=call.info)
    assert isinstance(last, CallEnded)
    assert call.records == len(sent)
    assert call.ended


def test_as_fast_as_kafka_takes_it(settings: Settings, path: Path) -> None:
    calls = prepare([path], call_id=f"abc-{uuid.uuid4().hex}", queue="billing", tenant="t")
    (call,) = calls
    before = time.time()
    Ingest(settings).run(calls, MAXIMUM_SPEED)
    assert before - 0.001 <= call.info.started_at.timestamp() <= time.time(), "the call starts when it is sent"
    found = arrived(settings, call)
    assert len(found) == RECORDS
    assert_whole(found, call, MAXIMUM_SPEED)
    end = decode(found[-1].headers, found[-1].value or b"")
    assert isinstance(end, CallEnded)
    assert (end.reason, end.duration_ms) == ("hangup", 2_050)
    assert end.ended_at == call.info.started_at + timedelta(milliseconds=2_050)
    assert (call.info.queue, call.info.tenant, call.info.source) == ("billing", "t", "a call.wav")
    assert found[1].headers == {
        "kind": b"audio",
        "channel": b"0",
        "codec": b"mulaw",
        "rate": b"8000",
        "sample": b"0",
        "sequence": b"0",
    }


def test_a_call_lies_where_kafka_s_own_partitioner_puts_it(settings: Settings, path: Path) -> None:
    # 479470107 is murmur2("abc") in Kafka's UtilsTest.
    calls = prepare([path], call_id="abc")
    Ingest(settings).run(calls, MAXIMUM_SPEED)
    assert {record.partition for record in arrived(settings, calls[0])} == {479470107 % DEFAULT_PARTITIONS}


def test_paced_a_packet_is_sent_when_its_last_sample_was_captured(settings: Settings, path: Path) -> None:
    calls = prepare([path])
    (call,) = calls
    early: list[float] = []

    def progress(one: Call) -> None:
        captured = one.info.started_at.timestamp() + one.sent_ms / 1_000 / 4
        early.append(captured - time.time())

    Ingest(settings).run(calls, 4.0, progress=progress)
    assert len(early) == RECORDS
    assert max(early) < 0.005, "started_at is rounded down to the millisecond, the two clocks differ by less"
    assert_whole(arrived(settings, call), call, 4.0)


def test_calls_begin_one_after_the_other_and_go_on_beside_each_other(settings: Settings, path: Path) -> None:
    calls = prepare([path, path], stagger_s=0.3)
    first, second = calls
    assert first.info.call_id != second.info.call_id
    order: list[int] = []
    Ingest(settings).run(calls, 2.0, progress=lambda call: order.append(calls.index(call)))
    assert second.info.started_at >= first.info.started_at + timedelta(milliseconds=290)
    changes = sum(one != other for one, other in pairwise(order))
    assert changes > 2, "both were sent in turn for a while"
    for call in calls:
        assert_whole(arrived(settings, call), call, 2.0)


@pytest.mark.parametrize("speed", [1.0, 20.0, MAXIMUM_SPEED])
def test_stop_ends_the_calls_that_have_begun_and_begins_no_other(settings: Settings, path: Path, speed: float) -> None:
    calls = prepare([path, path], stagger_s=60)
    first, second = calls
    stop = threading.Event()

    def progress(call: Call) -> None:
        if call.records == 9:
            stop.set()

    started = time.monotonic()
    Ingest(settings).run(calls, speed, stop, progress)
    assert time.monotonic() - started < 30
    found = arrived(settings, first)
    assert len(found) == 10
    end = decode(found[-1].headers, found[-1].value or b"")
    assert isinstance(end, CallEnded)
    assert (end.reason, end.duration_ms) == ("interrupted", 400)
    # An end from the future would make the partition's other calls look idle.
    assert found[-1].timestamp_ms == round(first.info.started_at.timestamp() * 1_000 + 400 / speed)
    assert first.ended
    assert (second.records, second.ended, arrived(settings, second)) == (0, False, [])


def test_a_damaged_recording_ends_its_call_and_no_other_and_is_named(
    settings: Settings, path: Path, tmp_path: Path
) -> None:
    whole = recording(tmp_path / "damaged.flac", 20.0, channels=1, subtype="PCM_16")
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    calls = prepare([whole, path])
    with pytest.raises(CalltideError, match=r"damaged\.flac"):
        Ingest(settings).run(calls, MAXIMUM_SPEED)
    found = arrived(settings, calls[0])
    end = decode(found[-1].headers, found[-1].value or b"")
    assert isinstance(end, CallEnded)
    assert end.reason == "interrupted"
    assert 5_000 < end.duration_ms < 15_000
    assert len(found) == 2 + -(-end.duration_ms // 100), "a packet for each 100 ms that could be read"
    assert_whole(arrived(settings, calls[1]), calls[1], MAXIMUM_SPEED)


@pytest.fixture
def broker_pid(broker: Broker) -> Iterator[int]:
    """The broker, which a test may freeze: nobody gets an answer until the test ends."""
    assert broker.pid
    yield broker.pid
    os.kill(broker.pid, signal.SIGCONT)


def test_what_did_not_reach_a_broker_that_went_away_is_counted(
    settings: Settings, broker_pid: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 1.0)
    ingest = Ingest(settings)
    calls = prepare([path, path])

    def progress(call: Call) -> None:
        if call is calls[1] and call.records == 10:
            assert ingest.producer.flush(30) == 0
            os.kill(broker_pid, signal.SIGSTOP)

    with pytest.raises(CalltideError, match=rf"^{RECORDS - 10} records did not reach Kafka .* ingest the calls again"):
        ingest.run(calls, MAXIMUM_SPEED, progress=progress)


def test_stop_ends_the_wait_for_a_broker_that_went_away(
    settings: Settings, broker_pid: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 0.5)
    small = settings.kafka.model_copy(update={"client": {"queue.buffering.max.messages": "5"}})
    ingest = Ingest(settings.model_copy(update={"kafka": small}))
    calls = prepare([path])
    stop = threading.Event()

    def progress(call: Call) -> None:
        if call.records == 10:
            assert ingest.producer.flush(30) == 0
            os.kill(broker_pid, signal.SIGSTOP)
        if call.records == 15:
            # The queue is full now: the next packet waits for room.
            threading.Timer(0.2, stop.set).start()

    started = time.monotonic()
    with pytest.raises(CalltideError, match="records did not reach Kafka") as caught:
        ingest.run(calls, MAXIMUM_SPEED, stop, progress)
    assert time.monotonic() - started < 20
    counted = int(str(caught.value).split()[0])
    assert counted == 5 + 2, "what is in the queue, the packet that found no room, and the end of the call"
