"""Calls made up of events, written to a real topic, and a real gateway that serves them: for tests of readers.

Nothing here is imported by the product. A test makes a topic of its own, so tests do not see each other's calls.
"""

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import uvloop
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.events import (
    Alert,
    CallEnded,
    CallEvent,
    CallInfo,
    CallMetrics,
    CallStarted,
    Emotion,
    EmotionLabel,
    Role,
    RunningScore,
    Score,
    Sentiment,
    SentimentLabel,
    Word,
    encode,
)
from schemas.topics import SCORES_REPLAYED, TRANSCRIPTS_INTERIM
from streams.gateway import Gateway
from streams.settings import Settings

EPOCH = datetime(2026, 3, 1, 12, tzinfo=UTC)


def call(call_id: str, started_at: datetime = EPOCH, **more: Any) -> CallInfo:
    """A two-party call: the agent on channel 0, the customer on channel 1."""
    return CallInfo(call_id=call_id, started_at=started_at, roles=("agent", "customer"), **more)


def started(of: CallInfo) -> CallStarted:
    """The call's first event."""
    return CallStarted(call=of)


def ended(of: CallInfo, duration_ms: int = 60_000) -> CallEnded:
    """The call's last event."""
    ended_at = of.started_at + timedelta(milliseconds=duration_ms)
    return CallEnded(call=of, duration_ms=duration_ms, ended_at=ended_at, reason="hangup")


def score(
    of: CallInfo,
    start_ms: int = 0,
    text: str = "hello",
    *,
    role: Role = "customer",
    polarity: float = 0.0,
    emotion: EmotionLabel | None = None,
    running: float = 0.0,
    party: float = 0.0,
    utterances: int = 1,
    captured_at: datetime | None = None,
) -> Score:
    """An utterance of 300 ms a word. No `text`: no words and no sentiment; no `emotion`: it was not computed."""
    length_ms = 300 * max(1, len(text.split()))
    label: SentimentLabel = "neutral" if abs(polarity) < 0.1 else "positive" if polarity > 0 else "negative"
    rest = {name: 0.04 for name in ("neutral", "happiness", "sadness", "anger", "fear", "surprise") if name != emotion}
    heard = Emotion(label=emotion, probabilities={emotion: 0.8, **rest}, model="scripted") if emotion else None
    return Score(
        call=of,
        channel=0 if role == "agent" else 1,
        start_ms=start_ms,
        end_ms=start_ms + length_ms,
        cut="pause",
        codec="mulaw",
        rate=8000,
        captured_at=captured_at or of.started_at + timedelta(milliseconds=start_ms + length_ms),
        speaker=role,
        role=role,
        speaker_confidence=1.0,
        text=text,
        words=tuple(
            Word(text=word, start_ms=start_ms + 300 * at, end_ms=start_ms + 300 * at + 280, confidence=0.9)
            for at, word in enumerate(text.split())
        ),
        language="en",
        asr_confidence=0.9 if text else 0.0,
        asr_model="scripted",
        flags=() if text else ("no_words",),
        emotion=heard,
        emotion_skipped=None if heard else f"role_{role}",
        sentiment=Sentiment(
            label=label,
            score=polarity,
            text_score=polarity,
            voice_score=polarity if heard else None,
            confidence=0.8,
            model="scripted",
        )
        if text
        else None,
        running=RunningScore(score=running, party_score=party, utterances=utterances),
        pipeline_version="v1",
    )


def new_topic(bootstrap: str, partitions: int = 3) -> str:
    """A fresh topic, which keeps what it gets: times of tests may be older than any retention."""
    name = f"scores-test-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, partitions, 1, config={"retention.ms": "-1"})])[name].result(10)
    return name


class Writer:
    """Writes events as the last stage does: in transactions, keyed by call."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "transactional.id": f"test-{uuid.uuid4().hex[:8]}",
                "partitioner": "murmur2_random",
                "retry.backoff.ms": 5,
                "log_level": 0,
            }
        )
        self._producer.init_transactions(30)

    def write(self, *events: CallEvent, partition: int = -1, commit: bool = True) -> None:
        """One transaction; with `commit=False` it stays open until `commit` or `abort`."""
        self._producer.begin_transaction()
        for event in events:
            headers, value = encode(event)
            self._producer.produce(self.topic, value, event.call.call_id, partition, headers=list(headers))
        assert self._producer.flush(30) == 0
        if commit:
            self.commit()

    def commit(self) -> None:
        """Close the open transaction: its records become visible."""
        self._producer.commit_transaction(30)

    def abort(self) -> None:
        """Close the open transaction: nobody ever sees its records."""
        self._producer.abort_transaction(30)


def settings_for(bootstrap: str, **gateway: Any) -> Settings:
    """Settings of a gateway on a free port of loopback."""
    base = Settings()
    return base.model_copy(
        update={
            "kafka": base.kafka.model_copy(update={"bootstrap_servers": bootstrap}),
            "gateway": base.gateway.model_copy(update={"port": 0, **gateway}),
        }
    )


def metrics(info: CallInfo, at_ms: int, silence_now_ms: int = 0, final: bool = False) -> CallMetrics:
    """Figures of a call in which only the agent was heard."""
    party = {
        "role": "agent", "speaker": "agent", "utterances": 2, "words": 7, "talk_ms": 2_000, "talk_share": 1.0,
        "words_per_minute": 210.0, "score": -0.2, "negative": 1, "neutral": 1, "positive": 0,
        "quarters": [None, -1.0, None, None], "change": None, "emotion_ms": {"anger": 500},
        "emotion_share": {"anger": 1.0},
        "longest_monologue_ms": 1_500, "turns": 1, "responses": 0, "response_ms": None, "interruptions": 0,
        "interrupted": 1, "overtalk_ms": 0, "loudness_lufs": -23.5, "loudness_trend": None,
    }  # fmt: skip
    return CallMetrics.model_validate(
        {
            "call": info, "at_ms": at_ms, "final": final, "partial": False, "pipeline_version": "v1",
            "parties": [party], "unheard": ["customer"], "talk_ms": 2_000, "score": -0.2, "quarters": [None] * 4,
            "change": None, "silences": 1, "silence_ms": 6_000, "longest_silence_ms": 6_000,
            "silence_now_ms": silence_now_ms, "dead_air": [{"start_ms": 1_000, "end_ms": 7_000}], "interruptions": [],
        }
    )  # fmt: skip


def alert(info: CallInfo, rule: str = "angry", at_ms: int = 1_000, severity: str = "critical") -> Alert:
    """What a rule has found."""
    return Alert.model_validate(
        {
            "call": info, "rule": rule, "category": rule, "severity": severity, "at_ms": at_ms,
            "raised_at": datetime.now(UTC), "message": "it is so", "rules_version": "1", "pipeline_version": "v1",
        }
    )  # fmt: skip


@contextmanager
def serving(
    settings: Settings,
    topic: str,
    interim_topic: str = TRANSCRIPTS_INTERIM,
    replayed_topic: str = SCORES_REPLAYED,
    **more: Any,
) -> Iterator[Gateway]:
    """A gateway in a thread of its own, ready for clients inside the block; `address` says where."""
    gateway = Gateway(settings, topic, interim_topic=interim_topic, replayed_topic=replayed_topic, **more)
    ready = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            uvloop.run(gateway.run(ready.set))
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="gateway")
    thread.start()
    try:
        assert ready.wait(90)
        if failures:
            raise failures[0]
        yield gateway
    finally:
        gateway.stop.set()
        thread.join(60)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def values(messages: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """(call, start) of the scores among messages, sorted: what was pushed, however the partitions interleave."""
    return sorted((m["event"]["call"]["call_id"], m["event"]["start_ms"]) for m in messages if m["type"] == "score")
