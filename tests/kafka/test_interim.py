"""Interim results on a real broker: who asks gets words before they are final, and nobody else notices."""

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from processors import asr
from processors.asr import SpeechRecognition
from processors.base import Processor
from processors.models.whisper import Recognition
from processors.vad import build as build_vad
from schemas.events import CallEvent, Interim, Transcript, Turn, decode
from schemas.topics import CHAIN, DEAD_LETTERS, FRAMES, SCORES, Stage, topics
from streams import samples
from streams.health import Health
from streams.ingest import Call, Ingest, prepare
from streams.interim import beside
from streams.runtime import StageWorker
from streams.settings import Runtime, Settings
from tests.topology.stand_ins import STAND_INS, Checksum
from tests.unit.stage_records import call, noise, record, utterance
from tests.workers import Found, OwnStage, Reader, everything, settings_for

pytestmark = [pytest.mark.kafka, pytest.mark.models]
PARTITIONS = 2
BEGIN_S, END_S = 10.2, 13.4
"""Of the recording: one party speaks without a pause, the other joins in."""


def event_of(found: Found) -> CallEvent:
    return decode(found.headers, found.value or b"")


def counted(stage: str, what: str) -> float:
    return REGISTRY.get_sample_value("calltide_interim_total", {"stage": stage, "what": what}) or 0.0


class Chain:
    """All stages with topics of a test's own."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self.bootstrap = bootstrap
        self.name = f"t{uuid.uuid4().hex[:8]}"
        self.settings = settings_for(bootstrap, self.name)
        self.rows = {row.name: self.own(row) for row in CHAIN}
        wanted = {topic for row in self.rows.values() for topic in (row.reads, row.writes, row.state_topic)}
        wanted |= {topic for row in self.rows.values() for topic in (row.reads_interim, row.writes_interim) if topic}
        new = [NewTopic(topic, PARTITIONS, 1) for topic in wanted]
        new.append(NewTopic(DEAD_LETTERS, topics()[-1].partitions, 1))
        admin = AdminClient({"bootstrap.servers": bootstrap})
        for future in admin.create_topics(new).values():
            try:
                future.result(60)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        sound, rate = soundfile.read(samples.two_channel(directory))
        self.recording = directory / "call.wav"
        soundfile.write(self.recording, sound[round(BEGIN_S * rate) : round(END_S * rate)], rate, subtype="ULAW")

    def own(self, row: Stage) -> OwnStage:
        def named(topic: str | None) -> str | None:
            return topic and f"{self.name}.{topic}"

        return OwnStage(
            row.name,
            f"{self.name}.{row.reads}",
            f"{self.name}.{row.writes}",
            row.batch,
            reads_interim=named(row.reads_interim),
            writes_interim=named(row.writes_interim),
        )

    @contextmanager
    def running(self, processors: Mapping[str, Processor], **runtime: Any) -> Iterator[None]:
        """These stages, ready, one worker each in a thread."""
        settings = self.settings.model_copy(update={"runtime": self.settings.runtime.model_copy(update=runtime)})
        stop = threading.Event()
        workers = [StageWorker(settings, [self.rows[name]], one) for name, one in processors.items()]
        healths = [Health() for _ in workers]
        threads = [
            threading.Thread(target=worker.run, args=(stop, health))
            for worker, health in zip(workers, healths, strict=True)
        ]
        try:
            for thread in threads:
                thread.start()
            assert all(health.serving.wait(60) for health in healths)
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)

    def call(self, call_id: str, **info: Any) -> Call:
        (made,) = prepare([self.recording])
        made.info = made.info.model_copy(update={"call_id": call_id, **info})
        return made

    def send(self, *calls: Call) -> None:
        """In real time."""
        ingest = Ingest(self.settings)
        ingest.topic = f"{self.name}.{FRAMES}"
        ingest.run(calls, 1.0, threading.Event())

    def events(self, topic: str) -> list[CallEvent]:
        found = everything(self.bootstrap, f"{self.name}.{topic}", PARTITIONS)
        return [event_of(one) for one in found.found]

    def until_ended(self, topic: str, *call_ids: str) -> None:
        reader = Reader(self.bootstrap, f"{self.name}.{topic}", PARTITIONS)
        ended = [("call_ended", call_id) for call_id in call_ids]
        reader.until(
            lambda: {(one.headers["kind"].decode(), one.key) for one in reader.found} >= {*ended}, f"the end of {ended}"
        )
        reader.close()


@pytest.fixture
def chain(kafka_bootstrap: str, tmp_path: Path) -> Chain:
    return Chain(kafka_bootstrap, tmp_path)


@pytest.fixture(scope="module")
def vad() -> Processor:
    return build_vad(Settings().vad, "v1")


class Noting(SpeechRecognition):
    """Notes what is done in which order."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.done: list[CallEvent] = []

    def process(self, batch: Any) -> Any:
        steps = super().process(batch)
        self.done += [decode(dict(out.headers), out.value) for step in steps for out in step.outputs]
        return steps

    def revise(self, batch: Any) -> list[Interim]:
        revised = super().revise(batch)
        self.done += revised
        return revised


def test_who_asks_gets_words_before_they_are_final(chain: Chain, vad: Processor) -> None:
    real = asr.build(asr.Config(), "v1")
    assert isinstance(real, SpeechRecognition)
    noting = Noting(*real._models, real._config, real._make_draft)
    others = {name: STAND_INS[name].build() for name in ("diarization", "emotion", "sentiment")}
    with chain.running({"vad": vad, "asr": noting, **others}):
        chain.send(chain.call("asks", interim=True), chain.call("does-not"))
        chain.until_ended(SCORES, "asks", "does-not")

    heard = {row.name: chain.events(row.writes) for row in CHAIN}
    assert all(event.kind != "interim" for found in heard.values() for event in found), "never in the chain"
    letters = everything(chain.bootstrap, DEAD_LETTERS, topics()[-1].partitions)
    assert not [one for one in letters.found if one.key in ("asks", "does-not")]

    told = [event for event in chain.events("transcripts.interim") if isinstance(event, Interim)]
    assert {event.call.call_id for event in told} == {"asks"}
    # The same calls, the same words: one that asks is heard as one that does not.
    final = {
        call_id: [
            (one.channel, one.start_ms, one.end_ms, one.text, one.words)
            for one in heard["asr"]
            if isinstance(one, Transcript) and one.call.call_id == call_id
        ]
        for call_id in ("asks", "does-not")
    }
    assert final["asks"] == final["does-not"]
    assert any(text for *_, text, _ in final["asks"])

    with_words = 0
    for transcript in (event for event in noting.done if isinstance(event, Transcript)):
        revisions = [event for event in told if event.identity == transcript.identity]
        numbers = [event.revision for event in revisions]
        assert numbers == sorted(set(numbers))
        before = noting.done[: noting.done.index(transcript)]
        with_words += any(event.words and event in before for event in revisions)
    assert with_words


class Careful(Checksum):
    """A model that takes its time for what is final."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def transcribe(self, audio: Sequence[NDArray[np.float32]], contexts: Sequence[str] = ()) -> list[Recognition]:
        threading.Event().wait(self.seconds)
        return super().transcribe(audio)


def test_while_asr_lags_it_finds_no_interim_words(chain: Chain, vad: Processor) -> None:
    backlog = [record(utterance(Turn, call(call_id="old"), 1_000 * i), noise(1_000)) for i in range(20)]
    reader = Ingest(chain.settings).producer
    # Not with the fixed date that they have: what is older than Kafka keeps would be deleted.
    minute_ago_ms = int(time.time() * 1_000) - 60_000
    for one in backlog:
        reader.produce(
            chain.rows["asr"].reads, one.value, "old", 0, headers=list(one.headers.items()), timestamp=minute_ago_ms
        )
    assert reader.flush(30) == 0
    noting = Noting(Careful(0.2), None, None, Checksum)
    with chain.running({"vad": vad, "asr": noting}):
        emitted = counted("vad", "emitted")
        chain.send(chain.call("asks", interim=True))
        assert counted("vad", "emitted") > emitted
    kinds = [event.kind for event in noting.done]
    assert kinds.count("transcript") == len(backlog)
    assert "interim" in kinds, "they come when nothing final is left"
    assert kinds.index("interim") > len(backlog) - 1 or "transcript" not in kinds[kinds.index("interim") :]


def test_without_asr_next_to_nothing_is_emitted(chain: Chain, vad: Processor) -> None:
    before = counted("vad", "emitted")
    with chain.running({"vad": vad}):
        chain.send(chain.call("asks", interim=True))
    assert 1 <= counted("vad", "emitted") - before <= 8, "a third of what is emitted to who answers"


def test_the_setting_may_ask_for_all_calls(chain: Chain, vad: Processor) -> None:
    with chain.running({"vad": vad, "asr": Noting(Checksum())}, interim="always"):
        chain.send(chain.call("a"))
        chain.until_ended(CHAIN[0].writes, "a")
    assert chain.events("transcripts.interim")


def test_the_setting_may_refuse_them_to_all_calls(chain: Chain, vad: Processor) -> None:
    never = chain.settings.model_copy(update={"runtime": Runtime(interim="never")})
    for row, processor in ((chain.rows["vad"], vad), (chain.rows["asr"], Noting(Checksum()))):
        assert beside(chain.settings, row, processor) is not None
        assert beside(never, row, processor) is None
        assert beside(chain.settings, replace(row, reads_interim=None, writes_interim=None), processor) is None


class Broken(Noting):
    """Fails at whatever is not final."""

    def revise(self, batch: Any) -> list[Interim]:
        raise RuntimeError("broken")


def test_what_fails_in_interim_work_does_not_hurt_the_chain(chain: Chain, vad: Processor) -> None:
    def failures() -> float:
        return REGISTRY.get_sample_value("calltide_interim_failures_total", {"stage": "asr"}) or 0.0

    before = failures()
    with chain.running({"vad": vad, "diarization": STAND_INS["diarization"].build(), "asr": Broken(Checksum())}):
        chain.send(chain.call("a", interim=True))
        chain.until_ended("transcripts", "a")
    assert failures() > before
    assert any(event.kind == "transcript" for event in chain.events("transcripts"))
    assert chain.events("transcripts.interim") == []
