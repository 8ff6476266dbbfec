"""Recordings over the API, with the real broker, ClickHouse, sink and feeder: once each, whatever is brought."""

import os
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from confluent_kafka import Producer

from processors.base import Record
from processors.vad import Config, Floats, VoiceActivity
from schemas.events import CallEnded, Segment, decode, encode
from schemas.topics import BATCH_FRAMES, DEFAULT_PARTITIONS, STAGES
from streams import kafka
from streams.api.feeder import TELL_S
from streams.api.feeding import tidy
from streams.files import open_audio
from streams.memory import Chain
from streams.packets import packets
from tests.api.feeding import EVERY_MS, Served, feeder_pid, noise, serving
from tests.api.recordings import encoded, endless
from tests.waiting import until
from tests.workers import Found, everything

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def served(kafka_bootstrap: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        with serving(home, kafka_bootstrap, clickhouse_url, patch) as running:
            yield running


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as one:
        yield one


def arrived(served: Served, call_id: str) -> list[Found]:
    """What Kafka has of a call."""
    found = everything(served.settings.bootstrap_servers, BATCH_FRAMES, DEFAULT_PARTITIONS).found
    return [record for record in found if record.key == call_id]


def bring(client: httpx.Client, path: Path, name: str = "", **fields: str) -> httpx.Response:
    with path.open("rb") as file:
        return client.post("/calls", files={"file": (name or path.name, file)}, data=fields)


def test_a_recording_is_a_task_whose_progress_is_what_the_stages_have_written(
    served: Served, client: httpx.Client, tmp_path: Path
) -> None:
    path = noise(tmp_path / "a call.wav", 100.0, channels=2)
    served.stages.hold.set()
    answer = bring(client, path, "../../etc/a call.wav", queue="billing", agent="diane", metadata='{"ticket": "4711"}')
    assert answer.status_code == 202
    task = answer.json()
    assert answer.headers["location"] == f"/api/v1/tasks/{task['task_id']}"
    assert (task["state"], task["file"], task["duration_ms"]) == ("pending", "a call.wav", 100_000)
    until(lambda: served.task(task["task_id"])["progress"].get("ingest") == 1.0, "all of it in Kafka")
    waiting = served.task(task["task_id"])
    assert waiting["state"] == "processing"
    assert set(waiting["progress"]) == {"ingest"}
    assert [(chunk["number"], chunk["state"], chunk["start_ms"], chunk["end_ms"]) for chunk in waiting["chunks"]] == [
        (0, "completed", 0, 30_000),
        (1, "completed", 30_000, 60_000),
        (2, "completed", 60_000, 90_000),
        (3, "completed", 90_000, 100_000),
    ]
    served.stages.hold.clear()
    done = served.settled(task["task_id"])
    assert done["progress"] == dict.fromkeys(
        ("ingest", "vad", "diarization", "asr", "emotion", "sentiment", "metrics", "rules", "insights"), 1.0
    )
    (call_id,) = done["calls"]
    ((queue, agent, source, metadata, started_at, duration_ms),) = served.rows(
        "SELECT queue, agent, source, metadata, started_at, duration_ms FROM calls FINAL WHERE call_id = {c:String}",
        c=call_id,
    )
    assert (queue, agent, source, duration_ms) == ("billing", "diane", "a call.wav", 100_000)
    assert metadata["ticket"] == "4711"
    # It ended just now, as far as anybody knows.
    assert abs(started_at.replace(tzinfo=UTC) + timedelta(seconds=100) - datetime.now(UTC)) < timedelta(seconds=60)
    said = "SELECT start_ms FROM utterances WHERE call_id = {c:String} ORDER BY start_ms"
    assert [start for (start,) in served.rows(said, c=call_id)] == [*range(0, 100_000, EVERY_MS)]
    assert not [*(served.settings.directory / "uploads" / "tasks").iterdir()]
    assert client.get("/tasks", params={"state": "completed", "limit": 1}).json()["items"][0]["calls"] == [call_id]


def test_the_same_recording_again_is_told_its_task(served: Served, client: httpx.Client, tmp_path: Path) -> None:
    path = noise(tmp_path / "one.wav", 2.0)
    answers: list[httpx.Response] = []

    def bring_it(name: str) -> None:
        with served.client() as another:
            answers.append(bring(another, path, name))

    both = [threading.Thread(target=bring_it, args=(name,)) for name in ("one.wav", "two.wav")]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(answer.status_code for answer in answers) == [200, 202]
    assert sorted(answer.json()["duplicate"] for answer in answers) == [False, True]
    (task_id,) = {answer.json()["task_id"] for answer in answers}
    served.settled(task_id)
    again = bring(client, path)
    assert (again.status_code, again.json()["task_id"], again.json()["state"]) == (200, task_id, "completed")
    assert len(arrived(served, again.json()["calls"][0])) == 2 + 20


def test_what_is_no_recording_is_told_apart_by_its_content(client: httpx.Client, tmp_path: Path) -> None:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("call.wav", b"\0" * 100_000)
    wide = noise(tmp_path / "six.wav", 1.0, channels=6)
    slow = tmp_path / "slow.wav"
    soundfile.write(slow, np.zeros(4_000), 100)
    playlist = b"ID3\x04\x00\x00\x00\x00\x00\x00#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n"
    for name, content, status, word in (
        ("zip.wav", archive.getvalue(), 415, "a zip archive"),
        ("empty.wav", b"", 422, "0 bytes"),
        ("page.mp3", b"<html></html>" * 100, 415, "something else"),
        ("list.mp3", playlist + b"x" * 5_000, 422, "not audio that can be read"),
        ("head.wav", b"RIFF\x00\x00\x00\x00WAVE", 422, "not audio that can be read"),
        ("six.wav", wide.read_bytes(), 422, "6 channels"),
        ("slow.wav", slow.read_bytes(), 422, "100 samples a second"),
    ):
        answer = client.post("/calls", files={"file": (name, content)})
        assert (answer.status_code, answer.json()["details"].get("file", name)) == (status, name), answer.text
        assert word in answer.json()["message"]
        assert str(tmp_path.root + "uploads") not in answer.text
        assert answer.json()["message"].startswith(name)


def test_formats_are_told_by_content(served: Served, client: httpx.Client, tmp_path: Path) -> None:
    tasks = []
    for kind in ("wav", "mp3", "flac", "m4a", "ogg", "webm"):
        answer = client.post("/calls", files={"file": ("call.bin", encoded(kind, 3.0))})
        assert answer.status_code == 202, (kind, answer.text)
        tasks.append((kind, answer.json()["task_id"]))
    for kind, task_id in tasks:
        done = served.settled(task_id, "completed", "failed")
        assert done["state"] == "completed", (kind, done["error"])
        assert done["duration_ms"] == pytest.approx(3_000, abs=150), kind


def test_several_at_once_and_one_that_is_bad_stops_no_other(client: httpx.Client, tmp_path: Path) -> None:
    files = [("file", (f"{n}.wav", noise(tmp_path / f"{n}.wav", 1.0).read_bytes())) for n in range(3)]
    answer = client.post("/calls", files=[*files, ("file", ("bad.wav", b"bad"))], data={"queue": "q"})
    assert answer.status_code == 202
    items = answer.json()["items"]
    assert [one["file"] for one in items] == ["0.wav", "1.wav", "2.wav", "bad.wav"]
    assert [one["state"] for one in items] == ["pending"] * 3 + ["failed"]
    assert "no recording" in items[3]["error"]
    assert client.post("/calls", files=files, data={"call_id": "one"}).status_code == 422


def test_fields_that_are_wrong_are_named(client: httpx.Client, tmp_path: Path) -> None:
    path = noise(tmp_path / "one.wav", 1.0)
    long_ago = (datetime.now(UTC) - timedelta(days=30)).isoformat()
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for fields, word in (
        ({"roles": "boss"}, "unknown role 'boss'"),
        ({"roles": "agent,customer"}, "roles names 2"),
        ({"metadata": "{"}, "metadata"),
        ({"metadata": '{"a": {"b": 1}}'}, "metadata"),
        ({"started_at": "yesterday"}, "started_at"),
        ({"started_at": long_ago}, "would be gone"),
        ({"started_at": tomorrow}, "future"),
        ({"call_id": "a\nb"}, "control characters"),
        ({"colour": "red"}, "colour"),
    ):
        answer = bring(client, path, **fields)
        assert answer.status_code == 422, fields
        assert word in answer.json()["message"], answer.text
    assert client.post("/calls", content=b"x").status_code == 415
    assert client.post("/calls", files={"call": ("", b"")}).status_code == 422
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    cut = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF'
    for body in (b"", b"--x\r\nnonsense", cut):
        assert client.post("/calls", content=body, headers=broken).status_code == 422, body


def test_an_id_that_is_another_call_s_is_refused(served: Served, client: httpx.Client, tmp_path: Path) -> None:
    first = bring(client, noise(tmp_path / "1.wav", 1.0), call_id="mine/4711")
    served.settled(first.json()["task_id"])
    taken = bring(client, noise(tmp_path / "2.wav", 1.0), call_id="mine/4711")
    assert (taken.status_code, taken.json()["error"]) == (409, "call_id_taken")
    other = bring(client, tmp_path / "1.wav", call_id="mine/4711", tenant="another")
    assert other.status_code == 409
    # The same file of another tenant is another call.
    assert bring(client, tmp_path / "1.wav", tenant="another").json()["calls"] != first.json()["calls"]


def test_a_recording_longer_than_it_says_ends_at_the_limit(
    kafka_bootstrap: str, clickhouse_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"CALLTIDE_UPLOADS__LONGEST_HOURS": "0.05", "CALLTIDE_UPLOADS__MAX_MB": "1"}
    with serving(tmp_path / "home", kafka_bootstrap, clickhouse_url, monkeypatch, **more) as served:
        with served.client() as client:
            honest = bring(client, endless(tmp_path / "long.flac", 0.1, told=True))
            assert (honest.status_code, honest.json()["error"]) == (422, "too_long")
            bomb = endless(tmp_path / "bomb.flac", 0.1, told=False)
            assert bomb.stat().st_size < 1_000_000
            answer = bring(client, bomb)
            assert answer.status_code == 202, answer.text
            assert answer.json()["duration_ms"] is None
            large = client.post("/calls", files={"file": ("large.wav", b"RIFF" + b"\0" * 1_000_000)})
            assert (large.status_code, "tus" in large.json()["message"]) == (413, True)
        task = served.settled(answer.json()["task_id"], "failed", seconds=60)
        assert "longer than 0.05 h" in task["error"]
        assert not [*(served.settings.directory / "uploads" / "incoming").iterdir()]


def test_a_damaged_recording_is_heard_up_to_there(served: Served, client: httpx.Client, tmp_path: Path) -> None:
    path = noise(tmp_path / "cut.flac", 40.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    task = served.settled(bring(client, path).json()["task_id"], "failed")
    assert task["error"].startswith("cut.flac is ")
    call = decode({"kind": b"call_ended"}, arrived(served, task["calls"][0])[-1].value or b"")
    assert isinstance(call, CallEnded)
    assert call.reason == "interrupted"
    assert 15_000 < call.duration_ms < 25_000


class Loud:
    """Takes for speech what is loud."""

    def step(self, rate: int, windows: Floats, states: Floats, contexts: Floats) -> tuple[Floats, Floats, Floats]:
        return (np.abs(windows).mean(axis=1) > 0.05).astype(np.float32), states, contexts


def heard(records: list[Record]) -> list[Any]:
    """What the VAD stage makes of the records of a call."""
    chain = Chain(lambda row: VoiceActivity(Config(), Loud()), (STAGES[0],))
    events = [decode(record.headers, record.value) for record in chain.push(records)]
    ended = [event.duration_ms for event in events if isinstance(event, CallEnded)]
    segments = [event for event in events if isinstance(event, Segment)]
    return [*((one.channel, one.start_ms, one.end_ms, one.cut, one.captured_at) for one in segments), *ended]


def test_what_died_in_the_middle_goes_on_at_the_first_chunk_that_is_not_completed(
    served: Served, client: httpx.Client, tmp_path: Path
) -> None:
    rate = 8_000
    loud = np.arange(240 * rate) // rate % 6 < 4
    path = tmp_path / "long.wav"
    soundfile.write(path, np.random.default_rng().uniform(-0.5, 0.5, (len(loud), 2)) * loud[:, None], rate)
    task_id = bring(client, path).json()["task_id"]

    def completed() -> int:
        return sum(chunk["state"] == "completed" for chunk in served.task(task_id)["chunks"])

    until(lambda: completed() >= 2, "some chunks")
    pid = feeder_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    done_by_then = completed()
    assert 2 <= done_by_then < 8
    task = served.settled(task_id)
    assert [chunk["state"] for chunk in task["chunks"]] == ["completed"] * 8
    (call_id,) = task["calls"]
    found = arrived(served, call_id)
    starts = [number for number, record in enumerate(found) if record.headers["kind"] == b"call_started"]
    assert len(starts) == 2
    # Not from the beginning: at a chunk that was not completed.
    again = int(found[starts[1] + 1].headers["sample"]) * 1_000 // rate
    assert again % 30_000 == 0
    assert again >= done_by_then * 30_000
    records = [
        Record(call_id, one.headers["kind"].decode(), one.headers, one.value or b"", one.timestamp_ms) for one in found
    ]
    call = decode(found[0].headers, found[0].value or b"").call
    whole = []
    for packet in packets(call, open_audio(path), served.settings.ingest.packet_ms):
        headers = dict(packet.headers)
        whole.append(Record(call_id, headers["kind"].decode(), headers, packet.value, found[0].timestamp_ms))
    assert len(whole) < len(records)
    expected = heard(whole)
    assert heard(records) == expected
    assert len(expected) == 2 * 40 + 1
    ((calls, utterances),) = served.rows(
        "SELECT (SELECT count() FROM calls FINAL WHERE call_id = {c:String}),"
        " (SELECT count() FROM utterances WHERE call_id = {c:String})",
        c=call_id,
    )
    assert (calls, utterances) == (1, 24)


def test_a_call_that_was_ended_for_idleness_is_sent_from_its_beginning(
    served: Served, client: httpx.Client, tmp_path: Path
) -> None:
    task_id = bring(client, noise(tmp_path / "idle.wav", 450.0)).json()["task_id"]
    until(lambda: any(chunk["state"] == "completed" for chunk in served.task(task_id)["chunks"]), "a chunk")
    pid = feeder_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    (call_id,) = served.task(task_id)["calls"]
    begun = decode({"kind": b"call_started"}, arrived(served, call_id)[0].value or b"")
    producer = Producer(kafka.producer(served.settings))
    event = CallEnded(call=begun.call, duration_ms=30_000, ended_at=begun.call.started_at, reason="idle")
    headers, value = encode(event)
    kafka.put(producer, "batch.speech.segments", key=call_id.encode(), value=value, headers=[*headers])
    assert producer.flush(10) == 0
    os.kill(pid, signal.SIGCONT)
    task = served.settled(task_id)
    assert [chunk["state"] for chunk in task["chunks"]] == ["completed"] * 15
    found = arrived(served, call_id)
    starts = [number for number, record in enumerate(found) if record.headers["kind"] == b"call_started"]
    assert [found[number + 1].headers["sample"] for number in starts] == [b"0", b"0"]


def test_a_task_can_be_cancelled_and_brought_again(served: Served, client: httpx.Client, tmp_path: Path) -> None:
    path = noise(tmp_path / "cancel.wav", 450.0)
    task_id = bring(client, path).json()["task_id"]
    until(lambda: any(chunk["state"] == "completed" for chunk in served.task(task_id)["chunks"]), "a chunk")
    pid = feeder_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert client.delete(f"/tasks/{task_id}").json()["state"] == "cancelled"
    time.sleep(TELL_S)  # so often it looks
    os.kill(pid, signal.SIGCONT)
    until(lambda: not (served.settings.directory / "uploads" / "tasks" / task_id).exists(), "the recording to go")
    task = served.task(task_id)
    assert task["state"] == "cancelled"
    last = arrived(served, task["calls"][0])[-1]
    event = decode(last.headers, last.value or b"")
    assert isinstance(event, CallEnded)
    assert event.reason == "interrupted"
    assert event.duration_ms < 450_000
    again = bring(client, path)
    assert (again.status_code, again.json()["task_id"]) == (202, task_id)
    served.settled(task_id)
    ((began, ends),) = served.rows(
        "SELECT uniqExact(started_at), count() FROM calls FINAL WHERE call_id = {c:String}", c=task["calls"][0]
    )
    assert (began, ends) == (1, 1)
    assert client.delete(f"/tasks/{task_id}").status_code == 409
    assert client.delete("/tasks/0").status_code == 404


def test_what_nobody_finishes_is_removed_after_a_day(served: Served) -> None:
    uploads = served.settings.directory / "uploads"
    for place in ("incoming", "tus"):
        (uploads / place).mkdir(parents=True, exist_ok=True)
        for age_h in (25, 23):
            path = uploads / place / f"{age_h}"
            path.touch()
            os.utime(path, (time.time() - age_h * 3_600,) * 2)
    assert sorted(f"{path.parent.name}/{path.name}" for path in tidy(served.settings)) == ["incoming/25", "tus/25"]
    assert {path.name for path in (uploads / "tus").iterdir()} == {"23"}


def test_a_request_that_breaks_off_leaves_nothing(served: Served) -> None:
    incoming = served.settings.directory / "uploads" / "incoming"

    def body() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF' + bytes(100_000)
        until(lambda: any(incoming.iterdir()), "the beginning of it")
        raise ConnectionError

    before = {*incoming.iterdir()}
    with served.client() as client, pytest.raises(ConnectionError):
        client.post("/calls", content=body(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    until(lambda: {*incoming.iterdir()} <= before, "the beginning of it to go")
