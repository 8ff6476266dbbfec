"""An utterance found again and its audio read back: from Kafka alone, and from ClickHouse and the archive."""

import uuid
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from deploy.topics import Topics
from processors.explanation import Explanation
from schemas.audio import AudioPacket
from schemas.errors import CalltideError
from schemas.events import Acoustics, Correction, Score, Transcript, encode
from schemas.topics import SCORES, stage
from streams import explain, sink
from streams.archive import Archive
from streams.cli import app
from streams.rows import utterance_row
from streams.settings import Settings
from tests.scripted import Writer, call, ended, score, started
from tests.unit.test_archive import records

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka_bootstrap: str, tmp_path: Path) -> Settings:
    """The broker with its topics, a ClickHouse where none is, and an empty archive."""
    base = Settings()
    found = base.model_copy(
        update={
            "kafka": base.kafka.model_copy(update={"bootstrap_servers": kafka_bootstrap}),
            "clickhouse": base.clickhouse.model_copy(update={"url": "http://127.0.0.1:9"}),
            "archive": base.archive.model_copy(update={"url": str(tmp_path / "archive")}),
        }
    )
    Topics(kafka_bootstrap).create(found.topics)
    return found


def said(call_id: str) -> list[Score]:
    of = call(call_id)
    acoustics = Acoustics(rms=0.1, pitch_mean_hz=200.0, mfcc=(1.0, 2.0))
    return [
        score(of, start, text, emotion="anger", polarity=-0.5).model_copy(
            update={"acoustics": acoustics, "speaker": speaker}
        )
        for start, text, speaker in ((300, "this is bad", "speaker-2"), (4_100, "very bad", "customer"))
    ]


def write(settings: Settings, scores: list[Score]) -> int:
    """Scores and a correction as the chain writes them; returns the partition."""
    of = scores[0].call
    partition = 3
    correction = Correction(call=of, speaker="speaker-2", same_as="customer", role="customer")
    Writer(settings.bootstrap_servers, SCORES).write(started(of), *scores, correction, ended(of), partition=partition)
    return partition


def test_a_call_is_found_on_the_topic_of_scores_when_clickhouse_is_away(settings: Settings) -> None:
    name = f"c-{uuid.uuid4().hex}"
    scores = said(name)
    partition = write(settings, scores)
    heard = explain.hear(settings, name)
    assert heard.partition == partition
    assert [one.start_ms for one in heard.scores] == [300, 4_100]
    assert {one.speaker for one in heard.scores} == {"customer"}
    assert heard.others(heard.find("1/300")) == [heard.scores[1]]
    with pytest.raises(CalltideError, match=r"nor are there scores"):
        explain.hear(settings, "unknown")


def test_audio_is_the_record_of_the_transcript_and_else_a_piece_of_the_archive(settings: Settings) -> None:
    name = f"c-{uuid.uuid4().hex}"
    scores = said(name)
    partition = write(settings, scores)
    first = scores[0]
    nothing = explain.read_audio(settings, first, partition)
    assert nothing.samples is None and "not in the archive" in nothing.why_not

    sound = np.random.default_rng(0).bytes(900 * 8)
    transcript = Transcript.model_validate(first.model_dump(exclude={"kind"}))
    headers, value = encode(transcript, sound)
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    at_ms = round(first.captured_at.timestamp() * 1_000)
    producer.produce(stage("emotion").reads, value, name, partition, headers=list(headers), timestamp=at_ms)
    assert producer.flush(30) == 0
    found = explain.read_audio(settings, first, partition)
    assert found.source == "Kafka" and found.samples is not None and len(found.samples) == 900 * 16

    packets = [AudioPacket(1, "mulaw", 8_000, 800 * at, at, np.random.default_rng(at).bytes(800)) for at in range(60)]
    Archive(settings).put(records(name, packets))
    archived = explain.read_audio(settings, scores[1], partition)
    assert archived.source == "archive" and archived.samples is not None and len(archived.samples) == 600 * 16


def test_a_call_is_found_in_clickhouse_as_it_was_scored(settings: Settings, clickhouse_url: str) -> None:
    name = f"c-{uuid.uuid4().hex}"
    scores = said(name)
    base = settings.clickhouse.model_copy(update={"url": clickhouse_url, "database": f"e{uuid.uuid4().hex[:8]}"})
    settings = settings.model_copy(update={"clickhouse": base})
    sink.migrate(settings)
    with sink.connect(settings) as client:
        for at, one in enumerate(scores):
            row = utterance_row(one, SCORES, 5, at)
            client.insert("utterances_heard", [[*row.values()]], column_names=[*row])
    heard = explain.hear(settings, name)
    assert heard.partition == 5
    for found, sent in zip(heard.scores, scores, strict=True):
        different = {"call", "codec", "rate"}
        assert found.model_dump(exclude=different) == sent.model_dump(exclude=different)
        assert found.identity == sent.identity and found.call.started_at == sent.call.started_at


def test_the_command_lists_explains_and_draws(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = f"c-{uuid.uuid4().hex}"
    write(settings, said(name))
    packets = [AudioPacket(1, "mulaw", 8_000, 800 * at, at, np.random.default_rng(at).bytes(800)) for at in range(60)]
    Archive(settings).put(records(name, packets))
    monkeypatch.setattr("streams.settings.load", lambda: settings)
    monkeypatch.setenv("COLUMNS", "150")
    run = CliRunner().invoke(app, ["explain", name])
    assert run.exit_code == 0 and "1/4100" in run.output and "very bad" in run.output
    run = CliRunner().invoke(app, ["explain", name, "0:04", "--png", str(tmp_path / "png")])
    assert run.exit_code == 0, run.output
    for shown in (
        "words: negative",
        "voice: anger",
        "linear fit",
        "bad",
        "differences: none, 1 other",
        "scripted gave",
    ):
        assert shown in run.output
    assert sum(path.suffix == ".png" for path in (tmp_path / "png").iterdir()) == 4
    run = CliRunner().invoke(app, ["explain", name, "2", "--json", "--no-voice"])
    explained = Explanation.model_validate_json(run.stdout)
    assert explained.voice is None and explained.words and explained.words.value < 0
