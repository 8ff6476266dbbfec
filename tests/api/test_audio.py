"""What is heard of a call and of what is explained: from the real Kafka and the archive, by ranges, and of no other
tenant."""

import io
import struct
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from confluent_kafka import Consumer, Producer, TopicPartition
from fastapi.testclient import TestClient

from processors.base import Record
from schemas.audio import AudioPacket
from schemas.events import CallEvent, CallInfo, Word, encode
from schemas.topics import CALL_METRICS, SCORES, frames
from streams import kafka
from streams.api.status import Watch
from streams.archive import Archive
from streams.settings import Settings
from streams.sink import connect
from tests.api.conftest import client_of, fill, told, with_section
from tests.api.test_problems import problem
from tests.scripted import Writer, call, ended, metrics, started

pytestmark = pytest.mark.kafka

BOSS = {"X-API-Key": "heard-boss"}
RATE = 8_000
NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=2)


@pytest.fixture(scope="module")
def settings(with_kafka: Settings) -> Settings:
    return with_kafka


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[TestClient]:
    with client_of(settings) as client:
        yield client


def sound(channel: int, at: int) -> bytes:
    """100 ms of a channel: a constant that tells which."""
    return np.full(RATE // 10, 1_000 * (channel + 1) + at, "<i2").tobytes()


def packets(of: CallInfo, count: int, first: int = 0) -> list[Record]:
    """The records of both channels' packets."""
    made = []
    for at in range(first, first + count):
        for channel in (0, 1):
            packet = AudioPacket(channel, "pcm_s16le", RATE, at * RATE // 10, at, sound(channel, at))
            headers, ms = dict(packet.headers()), round(of.started_at.timestamp() * 1_000) + 100 * (at + 1)
            made.append(Record(of.call_id, "audio", headers, packet.value, ms))
    return made


def mark(event: CallEvent, after_ms: int = 0) -> Record:
    headers, value = encode(event)
    at_ms = round(event.call.started_at.timestamp() * 1_000) + after_ms
    return Record(event.call.call_id, event.kind, dict(headers), value, at_ms)


def send(settings: Settings, *records: Record, lane: Any = "live") -> None:
    """Into the partition 0, where `fill` says that calls lie."""
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    for one in records:
        producer.produce(
            frames(lane), one.value, one.call_id, 0, headers=list(one.headers.items()), timestamp=one.timestamp_ms
        )
    assert producer.flush(30) == 0


def heard(settings: Settings, api: TestClient, name: str, tenant: str = "heard", **more: Any) -> CallInfo:
    """A call of a second that has ended, in ClickHouse and in Kafka."""
    of = call(name, NOW, tenant=tenant)
    fill(settings, started(of), *told(of, 0.1), ended(of, 1_000))
    send(settings, mark(started(of)), *packets(of, 10), mark(ended(of, 1_000), 1_000), **more)
    return of


def wav(content: bytes) -> tuple[np.ndarray[Any, Any], int]:
    return soundfile.read(io.BytesIO(content), dtype="int16", always_2d=True)


def new() -> str:
    return f"call-{uuid.uuid4().hex[:8]}"


@pytest.mark.parametrize("lane", ["live", "batch"])
def test_a_call_is_a_wav_of_its_channels(settings: Settings, api: TestClient, lane: str) -> None:
    name = new()
    heard(settings, api, name, lane=lane)
    answer = api.get(f"/api/v1/calls/{name}/audio", headers=BOSS)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "audio/wav"), answer.text
    samples, rate = wav(answer.content)
    assert (rate, samples.shape) == (RATE, (RATE, 2))
    assert [*samples[::800, 0]] == [*range(1_000, 1_010)] and [*samples[::800, 1]] == [*range(2_000, 2_010)]
    alone, _ = wav(api.get(f"/api/v1/calls/{name}/audio?channel=1", headers=BOSS).content)
    assert np.array_equal(alone[:, 0], samples[:, 1])
    problem(api.get(f"/api/v1/calls/{name}/audio?channel=2", headers=BOSS), 404, "no_such_channel")


@pytest.mark.parametrize(
    ("asked", "first", "behind"),
    [
        ("bytes=0-", 0, None),
        ("bytes=0-0", 0, 1),
        ("bytes=0-43", 0, 44),
        ("bytes=40-50", 40, 51),
        ("bytes=45-46", 45, 47),
        ("bytes=1001-20003", 1_001, 20_004),
        ("bytes=-7", -7, None),
        ("bytes=-999999", 0, None),
        ("bytes=32000-99999999", 32_000, None),
    ],
)
def test_ranges(settings: Settings, api: TestClient, ranged: str, asked: str, first: int, behind: int | None) -> None:
    path = f"/api/v1/calls/{ranged}/audio"
    whole = api.get(path, headers=BOSS)
    answer = api.get(path, headers=BOSS | {"Range": asked})
    part = whole.content[first:behind]
    assert (answer.status_code, answer.content) == (206, part)
    begin = first if first >= 0 else len(whole.content) + first
    assert answer.headers["Content-Range"] == f"bytes {begin}-{begin + len(part) - 1}/{len(whole.content)}"
    assert answer.headers["ETag"] == whole.headers["ETag"]


@pytest.fixture(scope="module")
def ranged(settings: Settings, api: TestClient) -> str:
    name = new()
    heard(settings, api, name)
    return name


def test_ranges_that_are_none_and_what_is_known(api: TestClient, ranged: str) -> None:
    path = f"/api/v1/calls/{ranged}/audio"
    whole = api.get(path, headers=BOSS)
    size, etag = len(whole.content), whole.headers["ETag"]
    for beyond in (f"bytes={size}-", "bytes=-0"):
        answer = api.get(path, headers=BOSS | {"Range": beyond})
        problem(answer, 416, "range_not_satisfiable")
        assert answer.headers["Content-Range"] == f"bytes */{size}"
    for ignored in ("bytes=0-1,5-6", "lines=1-2", "bytes=5-1", "bytes=a-b", "bytes=", "bytes=-", "bytes=１-２"):
        answer = api.get(path, headers=[(b"X-API-Key", b"heard-boss"), (b"Range", ignored.encode())])
        assert (answer.status_code, len(answer.content)) == (200, size), ignored
    assert api.get(path, headers=BOSS | {"Range": "bytes=0-1", "If-Range": etag}).status_code == 206
    assert api.get(path, headers=BOSS | {"Range": "bytes=0-1", "If-Range": '"old"'}).status_code == 200
    known = api.get(path, headers=BOSS | {"If-None-Match": etag})
    assert (known.status_code, known.content) == (304, b"")


def test_a_call_that_goes_on_is_heard_as_far_as_it_was_heard(settings: Settings, api: TestClient) -> None:
    of = call(new(), NOW, tenant="heard")
    path = f"/api/v1/calls/{of.call_id}/audio"
    fill(settings, started(of), metrics(of, 500))
    send(settings, mark(started(of)), *packets(of, 10))
    first = api.get(path, headers=BOSS)
    assert len(wav(first.content)[0]) == RATE // 2
    assert first.headers["Cache-Control"] == "no-store"
    send(settings, *packets(of, 10, first=10))
    fill(settings, metrics(of, 1_900))
    assert len(wav(api.get(path, headers=BOSS).content)[0]) == RATE * 19 // 10
    send(settings, mark(ended(of, 2_000), 2_000))
    fill(settings, ended(of, 2_000))
    samples, _ = wav(api.get(path, headers=BOSS).content)
    assert [*samples[::800, 0]] == [*range(1_000, 1_020)]


def test_what_was_taken_out_of_the_words_is_silent(settings: Settings, api: TestClient) -> None:
    of = call(new(), NOW, tenant="heard")
    word = Word(text="[CARD]", start_ms=600, end_ms=900, confidence=0.9)
    said = told(of, 0.1)[0].model_copy(
        update={"channel": 1, "start_ms": 200, "end_ms": 1_300, "text": "it is [CARD]", "words": (word,)}
    )
    fill(settings, started(of), said, ended(of, 2_000))
    send(settings, mark(started(of)), *packets(of, 20), mark(ended(of, 2_000), 2_000))
    whole = api.get(f"/api/v1/calls/{of.call_id}/audio", headers=BOSS)
    samples, _ = wav(whole.content)
    silent = np.flatnonzero(samples[:, 1] == 0)
    assert (silent[0], silent[-1], len(silent)) == (2_400, 9_599, 7_200)  # 300 ms more to each side
    assert (samples[:, 0] != 0).all()
    for first, behind in ((9_000, 9_700), (44 + 4 * 2_399, 44 + 4 * 2_402)):
        part = api.get(f"/api/v1/calls/{of.call_id}/audio", headers=BOSS | {"Range": f"bytes={first}-{behind - 1}"})
        assert part.content == whole.content[first:behind]


def test_while_it_is_not_known_what_is_personal_nothing_is_heard(settings: Settings, api: TestClient) -> None:
    name = new()
    heard(settings, api, name)
    with connect(settings) as client:
        client.command(
            "INSERT INTO dead_letters (dlq_topic, dlq_partition, dlq_offset, stage, call_id) "
            f"VALUES ('dead.letters', 0, 1, 'emotion', '{name}')"
        )
        problem(api.get(f"/api/v1/calls/{name}/audio", headers=BOSS), 409, "unheard")
        client.command(
            "INSERT INTO dead_letters (dlq_topic, dlq_partition, dlq_offset, settled) "
            "VALUES ('dead.letters', 0, 1, 'redriven')"
        )
    assert api.get(f"/api/v1/calls/{name}/audio", headers=BOSS).status_code == 200


def test_calls_of_one_name_of_two_tenants_are_not_mixed(settings: Settings, api: TestClient) -> None:
    name = new()
    other = call(name, NOW - timedelta(seconds=20), tenant="beta")
    fill(settings, started(other), ended(other, 300))
    send(settings, mark(started(other)), *packets(other, 3), mark(ended(other, 300), 300))
    heard(settings, api, name)
    lengths = {}
    for key in ("heard-boss", "beta-admin"):
        answer = api.get(f"/api/v1/calls/{name}/audio", headers={"X-API-Key": key})
        lengths[key] = len(wav(answer.content)[0])
    assert lengths == {"heard-boss": RATE, "beta-admin": RATE * 3 // 10}
    only = new()
    heard(settings, api, only)
    problem(api.get(f"/api/v1/calls/{only}/audio", headers={"X-API-Key": "beta-admin"}), 404, "not_found")


def test_what_kafka_has_no_more_comes_from_the_archive_of_the_same_tenant(settings: Settings, api: TestClient) -> None:
    of = call(new(), NOW - timedelta(days=40), tenant="heard")
    fill(settings, started(of), ended(of, 1_000))
    path = f"/api/v1/calls/{of.call_id}/audio"
    problem(api.get(path, headers=BOSS), 410, "audio_gone")
    records = [mark(started(of)), *packets(of, 10), mark(ended(of, 1_000), 1_000)]
    Archive(settings).put(records)
    samples, rate = wav(api.get(path, headers=BOSS).content)
    assert rate == RATE and [*samples[::800, 1]] == [*range(2_000, 2_010)]
    theirs = of.model_copy(update={"tenant": "beta"})
    fill(settings, started(theirs), ended(theirs, 1_000))
    problem(api.get(path, headers={"X-API-Key": "beta-admin"}), 410, "audio_gone")


def test_only_the_latest_are_kept_on_the_disk(settings: Settings) -> None:
    with client_of(with_section(settings, "api", audio_cache_mb=1)) as client:
        names = []
        for _ in range(3):
            of = call(new(), NOW, tenant="heard")
            fill(settings, started(of), ended(of, 20_000))
            send(settings, mark(started(of)), *packets(of, 200), mark(ended(of, 20_000), 20_000))
            names.append(of.call_id)
            answer = client.get(f"/api/v1/calls/{of.call_id}/audio", headers=BOSS)
            assert len(answer.content) == 44 + 4 * 20 * RATE
        kept = client.app.state.sounds._sounds  # type: ignore[attr-defined]
        assert [key[1] for key in kept] == names[-1:]
        assert not [*Path(settings.directory / "run").iterdir()]  # files without a name
        # The length that the header tells is that of what follows.
        assert struct.unpack("<I", answer.content[40:44])[0] == len(answer.content) - 44


def test_who_has_listened_is_written_down_once(settings: Settings, api: TestClient) -> None:
    name = new()
    heard(settings, api, name)
    for part in ("bytes=0-99", "bytes=100-199", "bytes=200-"):
        assert api.get(f"/api/v1/calls/{name}/audio", headers=BOSS | {"Range": part}).status_code == 206
    operator = {"X-API-Key": "operator"}
    assert api.get(f"/api/v1/calls/{name}/audio?tenant=heard", headers=operator).status_code == 200
    lines = [one for one in api.get("/api/v1/audit", headers=operator).json()["items"] if one["call_id"] == name]
    assert [(one["caller"], one["caller_tenant"], one["role"], one["action"]) for one in lines] == [
        ("operator", "", "admin", "audio"), ("listener", "heard", "supervisor", "audio"),
    ]  # fmt: skip
    assert all(one["tenant"] == "heard" and one["request_id"] for one in lines)
    theirs = api.get("/api/v1/audit", headers={"X-API-Key": "beta-admin"}).json()["items"]
    assert {one["tenant"] for one in theirs} <= {"beta"}
    first = api.get("/api/v1/audit?limit=1", headers=operator).json()
    second = api.get(f"/api/v1/audit?limit=1&cursor={first['next']}", headers=operator).json()
    assert [first["items"][0], second["items"][0]] == api.get("/api/v1/audit?limit=2", headers=operator).json()["items"]


def test_nothing_is_heard_that_cannot_be_written_down(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of(settings, "heard-boss") as client:
        name = new()
        heard(settings, client, name)
        with connect(settings) as clickhouse:
            clickhouse.command("RENAME TABLE audit TO audit_away")
            try:
                problem(client.get(f"/api/v1/calls/{name}/audio"), 503, "unavailable")
            finally:
                clickhouse.command("RENAME TABLE audit_away TO audit")
        assert client.get(f"/api/v1/calls/{name}/audio").status_code == 200


def test_status_knows_the_stages(settings: Settings, api: TestClient) -> None:
    of = call(new(), NOW, tenant="heard")
    Writer(settings.bootstrap_servers, SCORES).write(started(of), partition=0)
    status = api.get("/api/v1/status", headers=BOSS).json()
    assert status["kafka"] == "ok"
    stages = {(one["name"], one["lane"]): one for one in status["stages"]}
    assert stages["asr", "live"] == {"name": "asr", "lane": "live", "workers": 0, "lag": None}
    assert ("asr", "batch") in stages and ("sink", "live") in stages


def test_the_marks_of_transactions_are_no_lag(settings: Settings) -> None:
    group = f"g{new()}"
    own = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"group_prefix": group})})
    producer = Producer(kafka.producer(own, **{"transactional.id": group}))
    producer.init_transactions(30)
    last: list[int] = []

    def write(aborted: bool = False) -> None:
        producer.begin_transaction()
        producer.produce(CALL_METRICS, b"x", on_delivery=lambda _error, message: last.append(message.offset() or 0),
                         partition=3)  # fmt: skip
        producer.flush(10)
        if aborted:
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)

    def lag() -> int | None:
        watch = Watch(own)
        stages = watch.stages() or []
        watch.close()
        return next(one["lag"] for one in stages if one["name"] == "sink")

    write()
    reader = Consumer(kafka.consumer(own, **{"group.id": f"{group}.sink"}))
    reader.commit(offsets=[TopicPartition(CALL_METRICS, 3, last[-1] + 1)], asynchronous=False)
    reader.close()
    assert lag() == 0, "the mark behind the record is no record"
    write(aborted=True)
    assert lag() == 0, "nor is what was given up"
    write()
    assert (lag() or 0) >= 1


def test_an_utterance_is_explained_by_its_words(settings: Settings, api: TestClient) -> None:
    pytest.importorskip("shap")
    of = call(new(), NOW, tenant="heard")
    said = told(of, -0.5, text="this is terrible")[0].model_copy(
        update={"emotion": None, "emotion_skipped": "role_agent", "role": "customer", "speaker": "customer"}
    )
    fill(settings, started(of), said, ended(of))
    path = f"/api/v1/calls/{of.call_id}/explanations"
    problem(api.get(f"{path}/0-1", headers=BOSS), 404, "not_found")
    problem(api.get(f"{path}/0-0", headers={"X-API-Key": "acme-viewer"}), 403, "forbidden")
    problem(api.get(f"{path}/0-0", headers={"X-API-Key": "beta-admin"}), 404, "not_found")
    explained = api.get(f"{path}/0-0", headers=BOSS)
    assert explained.status_code == 200, explained.text
    content = explained.json()
    assert [part["text"] for part in content["words"]["parts"]] == ["this", "is", "terrible", "0"]
    assert content["missing"]["voice"]
    # By its id, and from what is kept.
    again = api.get(f"{path}/{of.call_id}%2F0%2F0", headers=BOSS | {"If-None-Match": explained.headers["ETag"]})
    assert again.status_code == 304


def test_without_the_extra_it_is_said_what_is_missing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "shap", None)
    with client_of(settings, "acme-boss") as client:
        content = problem(client.get("/api/v1/calls/acme-01/explanations/0-0"), 503, "not_installed")
    assert "explain" in content["message"]
