"""The one table of topics and stages.

A changer must know: all topics keyed by call id have the same partition count, and a stage writes to the partition it
read from, so one call stays in one partition of every topic from its first frame to its last score.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

Lane = Literal["live", "batch"]
"""Calls that people wait for, and bulk work that may wait: each lane has topics of its own, the workers are shared."""
LANES: Final[tuple[Lane, ...]] = ("live", "batch")

DEFAULT_PARTITIONS: Final = 8
"""Judgement: more workers a stage than one laptop or a small cluster runs; `kafka.partitions` changes it for all."""

DEFAULT_RETENTION_MS: Final = 7 * 24 * 3_600_000
"""Seven days of audio to replay from (design decision); `kafka.retention_hours` changes it."""

DEAD_LETTER_RETENTION_MS: Final = 30 * 24 * 3_600_000
"""Judgement: a month to notice and re-drive what a stage could not process."""

INTERIM_RETENTION_MS: Final = 60_000
"""Judgement: what is provisional is of use for a second; a minute is for people who want to look at it."""


REPLAYED_RETENTION_MS: Final = 3_600_000
"""Judgement: who opens a page in the middle of a replayed call sees it from its beginning, if that is no longer ago."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One Kafka topic. `retention_ms` −1 keeps records for ever (compacted topics keep the latest of each key)."""

    name: str
    partitions: int
    retention_ms: int
    cleanup: Literal["delete", "compact"]
    written_by: str
    read_by: tuple[str, ...]

    @property
    def config(self) -> dict[str, str]:
        """Kafka's own topic settings for this row, as strings."""
        config = {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": "2097152",
        }
        if self.cleanup == "compact":
            # State is read to its end before a partition is served: compact early and in small segments.
            config |= {"segment.bytes": "16777216", "min.cleanable.dirty.ratio": "0.1"}
        elif 0 < self.retention_ms <= REPLAYED_RETENTION_MS:
            # Only segments that are closed are deleted.
            config |= {"segment.bytes": "16777216", "segment.ms": str(self.retention_ms)}
        return config


@dataclass(frozen=True, slots=True)
class Stage:
    """One stream processor: the module `processors.<name>`, its input and its output topic."""

    name: str
    reads: str
    writes: str
    batch: int = 500
    """Most records in one turn. Judgement: far more than arrives during a turn, and bounds memory when catching up."""
    lane: Lane = "live"
    reads_interim: str | None = None
    writes_interim: str | None = None
    """Topics of what is known of unfinished utterances, beside the chain and its transactions."""
    namespace: str = ""
    """What a replay puts before the names of its topics, groups and transactional ids; empty: the chain itself."""

    @property
    def id(self) -> str:
        """The stage in its lane and namespace, as consumer groups, transactional ids and the changelog name it: vad,
        batch.vad, replay.NAME.vad."""
        return self.namespace + (self.name if self.lane == "live" else f"{self.lane}.{self.name}")

    @property
    def dead_letters(self) -> str:
        """The topic of what the stage cannot process."""
        return self.namespace + DEAD_LETTERS

    @property
    def state_topic(self) -> str:
        """The compacted changelog that holds the stage's snapshots."""
        return f"{self.id}.state"

    def in_batch(self) -> "Stage":
        """The same stage in the batch lane. Finished utterances of both lanes end in the one topic of scores, so what
        reads that has no second lane."""
        writes = self.writes if self.writes == SCORES else f"batch.{self.writes}"
        # Judgement: a live record waits for at most one batch of the other lane, so that is a small one.
        return replace(
            self,
            reads=f"batch.{self.reads}",
            writes=writes,
            batch=max(1, self.batch // 4),
            lane="batch",
            reads_interim=None,  # nobody waits for it
            writes_interim=None,
        )

    def in_replay(self, name: str) -> "Stage":
        """The same stage, in the same lane, among the topics of a replay."""
        prefix = replay_namespace(name)
        return replace(
            self,
            reads=prefix + self.reads,
            writes=prefix + self.writes,
            reads_interim=None,  # nobody waits for it
            writes_interim=None,
            namespace=prefix,
        )


SCORES: Final = "scores"
CALL_METRICS: Final = "call.metrics"
ALERTS: Final = "alerts"
INSIGHTS: Final = "insights"
SCORES_REPLAYED: Final = "scores.replayed"
"""What replays send to the gateway, all of them; keyed by the replay, not by call (schemas/replayed.py)."""
SPEECH_INTERIM: Final = "speech.interim"
TRANSCRIPTS_INTERIM: Final = "transcripts.interim"
DEAD_LETTERS: Final = "dead.letters"
REPLAYS: Final = "replay."
"""What the names of all topics of replays begin with."""

STAGES: Final = (
    # Measured (docs/benchmarks.md, 200 calls): a commit costs 20 ms whatever is in it, and turns of 500 left no room.
    Stage(
        "vad",
        reads="audio.frames",
        writes="speech.segments",
        batch=2_000,
        reads_interim=TRANSCRIPTS_INTERIM,  # to see how much of what it writes is of use
        writes_interim=SPEECH_INTERIM,
    ),
    # Judgement, here and at emotion: bounds the audio in memory, 15 s in each record at most.
    Stage("diarization", reads="speech.segments", writes="speech.turns", batch=64),
    # Judgement: four decoded together share most of the work; a longer turn would hold back what is done already.
    Stage(
        "asr",
        reads="speech.turns",
        writes="transcripts",
        batch=4,
        reads_interim=SPEECH_INTERIM,
        writes_interim=TRANSCRIPTS_INTERIM,
    ),
    Stage("emotion", reads="transcripts", writes="emotions", batch=64),
    Stage("sentiment", reads="emotions", writes=SCORES),
    # What is made of the scores, each by itself.
    Stage("metrics", reads=SCORES, writes=CALL_METRICS),
    Stage("rules", reads=SCORES, writes=ALERTS),
    # Judgement: a call that ends takes half a second; a turn must end before Kafka takes its worker for dead.
    Stage("insights", reads=SCORES, writes=INSIGHTS, batch=50),
)
"""All stages: first the chain, in order, then what reads its scores. A new stage is one file in processors/ and one row
here."""

CHAIN: Final = tuple(row for row in STAGES if row.reads != SCORES)
"""From audio to scores."""

MADE_OF_SCORES: Final = tuple(row.writes for row in STAGES if row not in CHAIN)
"""What the stages beside it write."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A kind of event that is made of the scores, and where it goes: to clients of the gateway, and to ClickHouse."""

    kind: str
    topic: str
    table: str
    """In ClickHouse; its rows are made by `streams.rows`."""
    time: str
    """The column by which they grow old."""


FINDINGS: Final = (
    Finding("metrics", CALL_METRICS, "call_progress", "started_at"),
    Finding("alert", ALERTS, "alerts", "at"),
    Finding("category", ALERTS, "call_categories", "started_at"),
    Finding("insights", INSIGHTS, "insights", "started_at"),
    Finding("evaluation", INSIGHTS, "evaluations", "started_at"),
)
"""What is kept of a call and pushed, forgotten with it, and gone with its pipeline version, beside its utterances."""

FRAMES: Final = STAGES[0].reads
BATCH_FRAMES: Final = STAGES[0].in_batch().reads

_OTHER_READERS: Final = {
    SCORES: ("gateway", "sink", "serve"),
    CALL_METRICS: ("gateway", "sink"),
    ALERTS: ("gateway", "sink", "webhooks"),
    INSIGHTS: ("gateway", "sink", "webhooks", "llm"),
    TRANSCRIPTS_INTERIM: ("gateway", "serve"),
}


def stage(name: str) -> Stage:
    """The row of a stage. Raises KeyError for a name that is not in the table."""
    return {row.name: row for row in STAGES}[name]


def lanes(row: Stage) -> tuple[Stage, ...]:
    """A stage's row in every lane, the one that goes first first. Scores are one topic, and so a lane of their own."""
    return (row,) if row.reads == SCORES else (row, row.in_batch())


def replay_namespace(name: str) -> str:
    """What the names of a replay's topics begin with."""
    return f"{REPLAYS}{name}."


def replay_topics(rows: Sequence[Stage], partitions: int) -> tuple[Topic, ...]:
    """What the stages of a replay read and write, `rows` being theirs in every lane.

    Their records keep the times at which the audio was captured, so Kafka would delete them by any retention at once:
    they stay until the replay is done.
    """
    chain = dict.fromkeys(name for row in rows for name in (row.reads, row.writes))
    kept = [*chain, *dict.fromkeys(row.dead_letters for row in rows)]
    return (
        *(Topic(name, partitions, -1, "delete", "replay", ("replay",)) for name in kept),
        *(Topic(row.state_topic, partitions, -1, "compact", "replay", ("replay",)) for row in rows),
    )


def frames(lane: Lane) -> str:
    """The topic that takes the audio of a lane."""
    return lanes(STAGES[0])[LANES.index(lane)].reads


def topics(partitions: int = DEFAULT_PARTITIONS, retention_ms: int = DEFAULT_RETENTION_MS) -> tuple[Topic, ...]:
    """The table of topics, made from the table of stages."""
    rows = [row for lane in itertools.zip_longest(*map(lanes, STAGES)) for row in lane if row is not None]
    written: dict[str, str] = {}
    for row in rows:
        written |= ({row.reads: "ingest"} if row.name == STAGES[0].name else {}) | {row.writes: row.name}
    chain = tuple(
        Topic(
            name,
            partitions,
            retention_ms,
            "delete",
            written_by=writer,
            read_by=tuple(row.name for row in rows if row.reads == name) + _OTHER_READERS.get(name, ()),
        )
        for name, writer in written.items()
    )
    interim = tuple(
        Topic(
            row.writes_interim,
            partitions,
            INTERIM_RETENTION_MS,
            "delete",
            written_by=row.name,
            read_by=tuple(reader.name for reader in rows if reader.reads_interim == row.writes_interim)
            + _OTHER_READERS.get(row.writes_interim, ()),
        )
        for row in rows
        if row.writes_interim
    )
    replayed = Topic(SCORES_REPLAYED, partitions, REPLAYED_RETENTION_MS, "delete", "replay", ("gateway", "replay"))
    state = tuple(
        Topic(row.state_topic, partitions, -1, "compact", written_by=row.name, read_by=(row.name,)) for row in rows
    )
    dead = Topic(DEAD_LETTERS, partitions, DEAD_LETTER_RETENTION_MS, "delete", "every stage", ("sink", "people"))
    return (*chain, *interim, replayed, *state, dead)


TOPICS: Final = topics()
