"""Diarization: who speaks. Where each party has a channel, the channel tells; on one mixed channel, the voice does.

A changer must know: a segment is given to one speaker as a whole. Segments in which the speaker changes are split by a
segmentation model in a later version; until then such a segment goes to whoever sounds through it most.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from processors.base import Output, Processor, Record, Step
from processors.utterances import FORGOTTEN_MS, each_but_idle, promote, read, rounded, samples
from schemas.errors import CalltideError
from schemas.events import CallEnded, Segment, Turn

if TYPE_CHECKING:
    from processors.models.speaker import SpeakerEmbedder

Centroids = list[NDArray[np.float32]]
"""A mixed call's speakers: for each the sum of its segments' embeddings, weighted by their seconds. Float32, so that
the bytes of a snapshot are the whole state."""

WIDE_BAND, TELEPHONE = 0.55, 0.62
"""Cosine from which two segments are one speaker, in 16 kHz and 8 kHz audio (benchmarks/diarization.py: two-party calls
are told apart from 0.35 and 0.45 on, up to 0.70; the middle of the upper half leaves room for two similar voices)."""

SHORT_S: Final = 0.8
"""A shorter segment neither opens a speaker nor moves one. benchmarks/diarization.py: the first half second of 22 % of
turns is nearer to the wrong speaker, and where one opened a speaker, 18 to 27 % of the call was confused, not 0.5 %."""

CERTAINTY, SHORT_CERTAINTY = 12.0, 7.0
"""Slope of the confidence over the similarity's margin: fitted by maximum likelihood in benchmarks/diarization.py."""


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="cosine from which two segments are one speaker; "
        f"none: {WIDE_BAND} in 16 kHz audio, {TELEPHONE} in 8 kHz",
    )
    maximum_speakers: int = Field(2, ge=1, le=10, description="most speakers told apart on one mixed channel")


class Diarization:
    """Segments in, turns out. Marks pass through.

    A channel whose role is known is the speaker `agent` or `customer` (`agent-0`, `agent-1` by channel where several
    have that role); one of several channels whose role is unknown is `channel-N`. Both with confidence 1.

    A single channel of unknown role is taken as a mix: its segments are clustered as they come into `speaker-1`,
    `speaker-2`, …, numbered by first appearance, all of role unknown. A segment joins the most similar speaker so far
    (cosine to the mean of the speaker's embeddings, weighted by duration) or, when that is below the threshold and
    fewer than `maximum_speakers` are known, opens a new one. Confidence is a logistic curve over the margin by which
    that choice beats the next best.
    """

    idle_timeout_ms: int | None = FORGOTTEN_MS

    def __init__(self, config: Config, embedder: "SpeakerEmbedder") -> None:
        self._config = config
        self._embedder = embedder

    def open(self, call_id: str) -> Centroids:
        return []

    def restore(self, call_id: str, snapshot: bytes) -> Centroids:
        return list(np.frombuffer(snapshot, "<f4").reshape(-1, self._embedder.dim))

    def process(self, batch: Sequence[tuple[Centroids, Record]]) -> list[Step]:
        return each_but_idle(batch, self._hear)

    def _hear(self, batch: Sequence[tuple[Centroids, Record]]) -> list[Step]:
        events = read(batch, Segment)
        mixed = [
            samples(event, record)
            for event, (_, record) in zip(events, batch, strict=True)
            if isinstance(event, Segment) and event.call.roles == ("unknown",)
        ]
        embeddings = iter(self._embedder.embed(mixed))
        steps = []
        for event, (speakers, record) in zip(events, batch, strict=True):
            if isinstance(event, Segment):
                if event.channel >= len(event.call.roles):
                    raise CalltideError(f"{event.identity}: the call has no role for this channel; mend the producer")
                if event.call.roles == ("unknown",):
                    speaker, confidence = self._cluster(speakers, event, next(embeddings))
                else:
                    speaker, confidence = _party(event), 1.0
                role = event.call.roles[event.channel]
                turn = promote(event, Turn, speaker=speaker, role=role, speaker_confidence=confidence)
                output = Output.of(turn, record.value)
            else:
                output = Output.of(event, b"")
            snapshot = b"" if isinstance(event, CallEnded) else b"".join(centroid.tobytes() for centroid in speakers)
            steps.append(Step([output], snapshot))
        return steps

    def _cluster(self, speakers: Centroids, segment: Segment, embedding: NDArray[np.float32]) -> tuple[str, float]:
        """(speaker, confidence) of a segment; `speakers` learns from it unless it is short."""
        seconds = (segment.end_ms - segment.start_ms) / 1_000
        short = seconds < SHORT_S
        options = [float(embedding @ centroid / np.linalg.norm(centroid)) for centroid in speakers]
        if short and not options:
            return "speaker-1", 0.5
        chosen = int(np.argmax(options)) if short else -1
        if len(speakers) < self._config.maximum_speakers:
            # To open a speaker is one more option, as good as the threshold.
            narrow = segment.rate == 8_000
            threshold = self._config.threshold
            options.append((TELEPHONE if narrow else WIDE_BAND) if threshold is None else threshold)
        if not short:
            chosen = int(np.argmax(options))
            weighted = embedding * np.float32(seconds)
            if chosen == len(speakers):
                speakers.append(weighted)
            else:
                speakers[chosen] = speakers[chosen] + weighted
        others = options[:chosen] + options[chosen + 1 :]
        if not others:
            return f"speaker-{chosen + 1}", 1.0
        margin = options[chosen] - max(others)
        confidence = 1 / (1 + math.exp(-(SHORT_CERTAINTY if short else CERTAINTY) * margin))
        return f"speaker-{chosen + 1}", rounded(confidence)


def _party(segment: Segment) -> str:
    """The speaker's name where each party has a channel of its own."""
    roles, channel = segment.call.roles, segment.channel
    role = roles[channel]
    if role == "unknown":
        return f"channel-{channel}"
    return role if roles.count(role) == 1 else f"{role}-{channel}"


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage with its real model."""
    from processors.models.speaker import CamPlusPlus

    return Diarization(config, CamPlusPlus())
