"""Runs of `calltide ingest` into the real broker: each recording once, whatever fails beside it."""

import csv
import json
import os
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deploy.topics import Topics
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, CallStarted, decode, encode
from schemas.topics import DEFAULT_PARTITIONS, FRAMES, SCORES, TOPICS
from streams import kafka
from streams.ingest import MAXIMUM_SPEED
from streams.ingestion import files_run as module
from streams.ingestion.files_run import FilesRun, Source, gather, sha256_of
from streams.settings import Settings
from tests.workers import Found, everything

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka_bootstrap: str, tmp_path: Path) -> Settings:
    Topics(kafka_bootstrap).create([topic for topic in TOPICS if topic.name in (FRAMES, SCORES)])
    base = Settings(home=tmp_path / "home")
    return base.model_copy(
        update={
            "kafka": base.kafka.model_copy(update={"bootstrap_servers": kafka_bootstrap}),
            "clickhouse": base.clickhouse.model_copy(update={"url": "http://127.0.0.1:9"}),
        },
    )


def noise(path: Path, seconds: float = 1.0, channels: int = 1) -> Path:
    """No two recordings alike: what a test sends is known by its call id."""
    samples = np.random.default_rng().uniform(-0.5, 0.5, (round(8_000 * seconds), channels))
    soundfile.write(path, samples, 8_000)
    return path


def arrived(settings: Settings) -> dict[str, list[Found]]:
    calls: dict[str, list[Found]] = {}
    for record in everything(settings.bootstrap_servers, FRAMES, DEFAULT_PARTITIONS).found:
        calls.setdefault(record.key or "", []).append(record)
    return calls


def ingested(settings: Settings, *paths: Path, **options: object) -> module.Results:
    sources = gather(paths, None, Source(Path()))
    return FilesRun(settings, **{"speed": MAXIMUM_SPEED, **options}).run(sources)  # type: ignore[arg-type]


def states(results: module.Results) -> dict[str, str]:
    return {Path(outcome.path).name: outcome.status for outcome in results.outcomes}


def test_the_same_file_again_adds_nothing(settings: Settings, tmp_path: Path) -> None:
    path = noise(tmp_path / "a call.wav", 2.0, channels=2)
    first = ingested(settings, path)
    (one,) = first.outcomes
    assert (one.status, one.seconds, one.error) == ("sent", 2.0, "")
    (sent,) = [found for call_id, found in arrived(settings).items() if call_id == one.call_id]
    assert len(sent) == 2 + 2 * 20
    began = decode(sent[0].headers, sent[0].value or b"")
    assert isinstance(began, CallStarted)
    assert began.call.metadata == {"sha256": sha256_of(path)}
    assert began.call.roles == ("agent", "customer")
    (again,) = ingested(settings, path).outcomes
    assert (again.status, again.call_id, again.seconds) == ("sent before", one.call_id, 2.0)
    copy = tmp_path / "elsewhere" / "a call.wav"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    assert states(ingested(settings, copy, path)) == {"a call.wav": "sent before"}
    assert len(arrived(settings)[one.call_id]) == len(sent)
    assert states(ingested(settings, path, again=True)) == {"a call.wav": "sent"}
    assert len(arrived(settings)[one.call_id]) == 2 * len(sent)


def test_one_bad_file_stops_no_other_and_the_results_say_why(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    folder.mkdir()
    for number in range(12):
        noise(folder / f"{number:02}.wav", 0.5)
    (folder / "empty.wav").touch()
    cut = folder / "cut.flac"
    noise(cut, 20.0)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    told: list[tuple[int, int, float]] = []
    results = ingested(settings, folder, results=tmp_path / "results", shown=lambda *progress: told.append(progress))
    assert Counter(outcome.status for outcome in results.outcomes) == {"sent": 12, "failed": 1, "damaged": 1}
    assert told[-1][:2] == (14, 14)
    assert told[-1][2] == pytest.approx(sum(outcome.seconds for outcome in results.outcomes))
    whole = json.loads(results.path.with_suffix(".json").read_text())
    assert whole["kafka"] == settings.bootstrap_servers
    rows = list(csv.DictReader(results.path.with_suffix(".csv").open()))
    assert [row["path"] for row in rows] == [row["path"] for row in whole["results"]]
    by_name = {Path(row["path"]).name: row for row in whole["results"]}
    assert "is empty" in by_name["empty.wav"]["error"]
    assert by_name["cut.flac"]["status"] == "damaged"
    assert 5 < by_name["cut.flac"]["seconds"] < 15
    assert results.path.parent == tmp_path / "results"
    again = ingested(settings, folder)
    assert Counter(outcome.status for outcome in again.outcomes) == {"sent before": 12, "failed": 1, "damaged": 1}


def test_an_id_that_is_another_recording_s_is_refused(settings: Settings, tmp_path: Path) -> None:
    first, second = noise(tmp_path / "1.wav"), noise(tmp_path / "2.wav")
    call_id = f"named-{os.urandom(4).hex()}"
    FilesRun(settings, speed=MAXIMUM_SPEED).run([Source(first, call_id)])
    (refused,) = FilesRun(settings, speed=MAXIMUM_SPEED).run([Source(second, call_id)]).outcomes
    assert refused.status == "failed"
    assert "another recording's" in refused.error
    assert len(arrived(settings)[call_id]) == 12


def test_a_stop_ends_what_was_begun_and_the_next_run_sends_it_whole(settings: Settings, tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{number}.wav", 20.0) for number in range(2)]
    sources = gather(paths, None, Source(Path()))
    run = FilesRun(settings, speed=1.0, stagger_s=60)
    run.shown = lambda _done, _all, seconds: run.stop.set() if seconds >= 0.5 else None
    results = run.run(sources)
    assert states(results) == {"0.wav": "interrupted", "1.wav": "not begun"}
    assert 0.5 <= results.outcomes[0].seconds < 20
    found = arrived(settings)[results.outcomes[0].call_id]
    end = decode(found[-1].headers, found[-1].value or b"")
    assert isinstance(end, CallEnded)
    assert end.reason == "interrupted"
    assert states(ingested(settings, *paths)) == {"0.wav": "sent", "1.wav": "sent"}


def test_a_drop_folder_gives_each_file_once_it_is_written(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED_S", 1.5)  # many times what lies between two writes here
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    folder = tmp_path / "drop"
    folder.mkdir()
    noise(folder / "there.wav")
    done = threading.Event()
    run = FilesRun(settings, speed=MAXIMUM_SPEED)

    def shown(number: int, _all: int, _seconds: float) -> None:
        if number == 3:
            done.set()

    run.shown = shown
    found: list[module.Results] = []
    thread = threading.Thread(target=lambda: found.append(run.run([], (folder, Source(Path(), queue="drop")))))
    thread.start()
    try:
        data = noise(tmp_path / "slow.wav", 4.0).read_bytes()
        with (folder / "slow.wav").open("wb") as file:
            for at in range(0, len(data), len(data) // 6):
                file.write(data[at : at + len(data) // 6])
                file.flush()
                time.sleep(0.1)  # a copy that takes its time is the point
        (folder / "empty.opus").touch()
        (folder / "notes.txt").touch()
        assert done.wait(90)
    finally:
        run.stop.set()
        thread.join(90)
    (results,) = found
    assert states(results) == {"there.wav": "sent", "slow.wav": "sent", "empty.opus": "failed"}
    slow = next(outcome for outcome in results.outcomes if outcome.path.endswith("slow.wav"))
    assert slow.seconds == 4.0
    began = decode(arrived(settings)[slow.call_id][0].headers, arrived(settings)[slow.call_id][0].value or b"")
    assert isinstance(began, CallStarted)
    assert began.call.queue == "drop"
    with pytest.raises(CalltideError, match="no directory"):
        run.run([], (tmp_path / "absent", Source(Path())))


def test_utterances_are_counted_when_the_calls_come_out(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 20.0)
    path, unheard = noise(tmp_path / "1.wav"), noise(tmp_path / "2.wav")
    call_id = module.call_id_of(Source(path), sha256_of(path))

    def sink_of_a_stage(_done: int, _all: int, _seconds: float) -> None:
        """As the last stage does: a call without utterances ends."""
        if not ended.is_set():
            ended.set()
            from confluent_kafka import Producer

            call = CallInfo(call_id=call_id, started_at=module.now(), roles=("unknown",))
            event = CallEnded(call=call, duration_ms=1_000, ended_at=module.now(), reason="hangup")
            headers, value = encode(event)
            producer = Producer(kafka.producer(settings))
            producer.produce(SCORES, key=call_id.encode(), value=value, headers=[*headers])
            producer.flush(10)
            monkeypatch.setattr(module, "QUIET_S", 1.0)

    ended = threading.Event()
    results = ingested(settings, path, unheard, wait=True, shown=sink_of_a_stage)
    counted = {Path(outcome.path).name: outcome.utterances for outcome in results.outcomes}
    assert counted == {"1.wav": 0, "2.wav": None}
    rows = {Path(row["path"]).name: row for row in csv.DictReader(results.path.with_suffix(".csv").open())}
    assert (rows["1.wav"]["utterances"], rows["2.wav"]["utterances"]) == ("0", "")


def test_without_kafka_nothing_is_written(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "ANSWER_S", 1.0)
    nowhere = settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:9"})}
    )
    with pytest.raises(CalltideError, match="no Kafka at"):
        ingested(nowhere, noise(tmp_path / "1.wav"))
    assert not settings.directory.exists()
