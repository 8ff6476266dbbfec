"""The one table of topics and stages.

A changer must know: all topics keyed by call id have the same partition count, and a stage writes to the partition it
read from, so one call stays in one partition of every topic from its first frame to its last score.
"""

from dataclasses import dataclass
from typing import Final, Literal

DEFAULT_PARTITIONS: Final = 8
"""Judgement: more workers a stage than one laptop or a small cluster runs; `kafka.partitions` changes it for all."""

DEFAULT_RETENTION_MS: Final = 7 * 24 * 3_600_000
"""Seven days of audio to replay from (design decision); `kafka.retention_hours` changes it."""

DEAD_LETTER_RETENTION_MS: Final = 30 * 24 * 3_600_000
"""Judgement: a month to notice and re-drive what a stage could not process."""


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
        return config


@dataclass(frozen=True, slots=True)
class Stage:
    """One stream processor: the module `processors.<name>`, its input and its output topic."""

    name: str
    reads: str
    writes: str
    batch: int = 500
    """Most records in one turn. Judgement: far more than arrives during a turn, and bounds memory when catching up."""

    @property
    def state_topic(self) -> str:
        """The compacted changelog that holds the stage's snapshots."""
        return f"{self.name}.state"


STAGES: Final = (
    Stage("vad", reads="audio.frames", writes="speech.segments"),
    Stage("diarization", reads="speech.segments", writes="speech.turns"),
    # Judgement: four decoded together share most of the work; a longer turn would hold back what is done already.
    Stage("asr", reads="speech.turns", writes="transcripts", batch=4),
    Stage("emotion", reads="transcripts", writes="emotions"),
    Stage("sentiment", reads="emotions", writes="scores"),
)
"""The chain, in order. A new stage is one file in processors/ and one row here."""

FRAMES: Final = STAGES[0].reads
SCORES: Final = STAGES[-1].writes
DEAD_LETTERS: Final = "dead.letters"

_OTHER_READERS: Final = {SCORES: ("gateway", "sink")}


def stage(name: str) -> Stage:
    """The row of a stage. Raises KeyError for a name that is not in the table."""
    return {row.name: row for row in STAGES}[name]


def topics(partitions: int = DEFAULT_PARTITIONS, retention_ms: int = DEFAULT_RETENTION_MS) -> tuple[Topic, ...]:
    """The table of topics, made from the table of stages."""
    written = {FRAMES: "ingest"} | {row.writes: row.name for row in STAGES}
    chain = tuple(
        Topic(
            name,
            partitions,
            retention_ms,
            "delete",
            written_by=writer,
            read_by=tuple(row.name for row in STAGES if row.reads == name) + _OTHER_READERS.get(name, ()),
        )
        for name, writer in written.items()
    )
    state = tuple(
        Topic(row.state_topic, partitions, -1, "compact", written_by=row.name, read_by=(row.name,)) for row in STAGES
    )
    dead = Topic(DEAD_LETTERS, partitions, DEAD_LETTER_RETENTION_MS, "delete", "every stage", ("people",))
    return (*chain, *state, dead)


TOPICS: Final = topics()
