"""Diarization: who speaks. Where each party has a channel, the channel tells; on one mixed channel, the voice does.

A changer must know: a segment of a mixed channel becomes one turn or several, which lie end to end and cover it, so
(call, channel, start_ms) stays the identity of a turn. A name once given is never given to another speaker; one that
turns out to be an earlier speaker's is taken back by a `Correction`, for all turns at once.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations, pairwise, product
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from processors.base import IDLE, Output, Processor, Record, Step
from processors.cross_talk import Lines, Piece
from processors.utterances import FORGOTTEN_MS, RATE, promote, read, rounded, samples
from schemas.audio import BYTES_PER_SAMPLE
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallEvent, Correction, Segment, Turn

if TYPE_CHECKING:
    from processors.models.segmentation import Segmenter
    from processors.models.speaker import SpeakerEmbedder

Floats = NDArray[np.float32]

WIDE_BAND, TELEPHONE = 0.55, 0.62
"""Cosine from which two stretches are one speaker, in 16 kHz and 8 kHz audio. benchmarks/diarization.py: by reference
turns two-party calls are told apart from 0.35 and 0.45 on, up to 0.70; the middle of the upper half leaves room for two
similar voices."""

SPEECHBRAIN: Final = 0.25
"""The same for an embedder of SpeechBrain: the threshold of its own speaker verification. Not measured on calls."""

SHORT_S: Final = 0.8
"""A shorter stretch does not move a speaker. benchmarks/diarization.py: the first half second of 22 % of turns is
nearer to the wrong speaker, and where one opened a speaker, 18 to 27 % of the call was confused, not 0.5 %."""

TURN_MS: Final = 300
"""A shorter turn joins its neighbours: nothing that comes after can make something of it. Judgement."""

PAUSE_S, LONG_S = 0.1, 4.0
"""A pause at which a voice is heard anew, and the longest stretch heard as one. benchmarks/diarization.py: where the
segmentation takes two similar voices for one, the embeddings of stretches of 3 to 4 s still tell them apart; those of
2 s tear one voice in two."""

OTHER: Final = 0.15
"""What the segmentation's word that two stretches are of two voices is worth, as a cosine; 0.05 to 0.3 do as well."""

MOST: Final = 3
"""Most speakers in one segment; the segmentation knows no more."""

TOGETHER: Final = 0.2
"""What it costs, as a cosine, to give two voices of one segment to one speaker; 0.05 to 0.5 do about as well."""

ALIKE: Final = 0.2
"""How far above the threshold two speakers' means must be to be one speaker. Means of many stretches are all somewhat
alike: at 0.1 some of the development calls lost one of their two speakers."""

STRANGE, STRANGE_S = 0.15, 1.5
"""Where all speakers are taken, a stretch of so many seconds that is so far below the threshold to each is somebody
else: then two that are nearer to each other, by NEARER, were one. Chosen on the development calls, as
all that is here."""
NEARER: Final = 0.1

CERTAINTY, SHORT_CERTAINTY = 12.0, 7.0
"""Slope of the confidence over the similarity's margin: fitted by maximum likelihood in benchmarks/diarization.py."""

_VERSION: Final = 2


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="cosine from which two segments are one speaker; "
        f"none: {WIDE_BAND} in 16 kHz audio, {TELEPHONE} in 8 kHz; {SPEECHBRAIN} with an embedder of SpeechBrain",
    )
    embedder: str = Field("campplus", description="speaker embedding: campplus, or an id or directory of SpeechBrain's")
    device: str = Field("auto", description="where an embedder of SpeechBrain runs: auto, cpu, cuda, cuda:1, …")
    maximum_speakers: int = Field(2, ge=1, le=10, description="most speakers told apart on one mixed channel")
    cross_talk: bool = Field(True, description="find what leaks from one party's channel into another's")


@dataclass(slots=True)
class _Speaker:
    """A speaker of a mixed channel. Without seconds: somebody of whom only short stretches were heard so far."""

    number: int
    seconds: float
    total: Floats
    """Sum of the embeddings, weighted by seconds. Float32, so that the bytes of a snapshot are the whole state."""

    @property
    def name(self) -> str:
        return f"speaker-{self.number}"

    @property
    def mean(self) -> Floats:
        mean: Floats = self.total / np.linalg.norm(self.total)
        return mean


Merger = tuple[_Speaker, _Speaker]
"""A speaker that was split off too early, and the earlier one that it is."""


@dataclass(slots=True)
class _Call:
    speakers: list[_Speaker] = field(default_factory=list)
    """In the order in which they came up."""
    named: int = 0
    """Names given so far."""
    lines: Lines = field(default_factory=Lines)
    """The channels of a call that has several."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A stretch in which one voice speaks alone, in frames of the segmentation."""

    first: int
    end: int
    voice: int


@dataclass(frozen=True, slots=True)
class Voice:
    """How somebody sounds in a segment."""

    seconds: float
    embedding: Floats


@dataclass(frozen=True, slots=True)
class _Heard:
    """What the models hear in a segment."""

    active: NDArray[np.bool_]
    """Who speaks: (frames, voices). No frames where the segment is too short to be more than one turn."""
    units: list[Unit]
    voices: list[Voice]
    """Of each unit."""


def units(active: NDArray[np.bool_], pause: int, longest: int) -> list[Unit]:
    """The stretches of one voice alone, from pause to pause and of at most `longest` frames.

    `active`: bool (frames, voices). Between parts of one unit lie fewer than `pause` frames.
    """
    runs: list[Unit] = []
    for first, end, voice in _runs(_alone(active)):
        last = runs[-1] if runs else None
        if last is not None and last.voice == voice and first - last.end < pause:
            runs[-1] = Unit(last.first, end, voice)
        elif voice >= 0:
            runs.append(Unit(first, end, voice))
    found = []
    for run in runs:
        length = run.end - run.first
        parts = -(-length // longest)
        edges = [run.first + length * part // parts for part in range(parts + 1)]
        found += [Unit(first, end, run.voice) for first, end in pairwise(edges)]
    return found


def group(stretches: Sequence[Unit], voices: Sequence[Voice], threshold: float) -> list[int]:
    """Which of the stretches are of one speaker: a number for each, by first appearance.

    The two groups that are most alike become one as long as the cosine of their means reaches `threshold` or there are
    more than MOST. Stretches of which the segmentation says that they are of two voices count as less alike by OTHER.
    Short ones go with the longest group of their voice.
    """
    groups = [[i] for i, voice in enumerate(voices) if voice.seconds >= SHORT_S]

    def alike(one: list[int], other: list[int]) -> float:
        different = sum(
            voices[i].seconds * voices[j].seconds
            for i in one
            for j in other
            if stretches[i].voice != stretches[j].voice
        )
        both = sum(voices[i].seconds for i in one) * sum(voices[j].seconds for j in other)
        return float(_mean(voices, one) @ _mean(voices, other)) - OTHER * different / both

    while len(groups) > 1:
        pairs = combinations(range(len(groups)), 2)
        cosine, one, other = max((alike(groups[i], groups[j]), -i, -j) for i, j in pairs)
        if cosine < threshold and len(groups) <= MOST:
            break
        groups[-one] += groups.pop(-other)
    for i, voice in enumerate(voices):
        if voice.seconds < SHORT_S:
            same = [sum(voices[j].seconds for j in g if stretches[j].voice == stretches[i].voice) for g in groups]
            if max(same, default=0) > 0 or len(groups) == MOST:
                groups[int(np.argmax(same))].append(i)
            else:
                groups.append([i])
    numbers = {i: number for number, members in enumerate(sorted(groups, key=min)) for i in members}
    return [numbers[i] for i in range(len(voices))]


def turns(label: NDArray[np.int64], shortest: int) -> list[tuple[int, int, int]]:
    """(first frame, end, speaker) of the turns in a stretch, end to end.

    `label`: the speaker who speaks alone in each frame, or -1; one of them at least is somebody. Frames of nobody or of
    several go to the nearest turn, so two turns meet in the middle of a pause or an overlap. A turn of fewer than
    `shortest` frames goes to its neighbours, the shortest first.
    """
    alone, frames = label.copy(), np.arange(len(label))
    while True:
        known = np.flatnonzero(alone >= 0)
        after = known[np.searchsorted(known, frames).clip(0, len(known) - 1)]
        before = known[(np.searchsorted(known, frames, "right") - 1).clip(0)]
        found = _runs(alone[np.where(abs(after - frames) < abs(frames - before), after, before)])
        first, end, _ = min(found, key=lambda turn: turn[1] - turn[0])
        if len(found) == 1 or end - first >= shortest:
            return found
        alone[first:end] = -1


def _alone(active: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The voice that speaks alone in each frame, or -1."""
    return np.where(active.sum(1) == 1, active.argmax(1), -1)


def _runs(label: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(first, end, value) of the runs of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(label)) + 1).tolist(), len(label)]
    return [(first, end, int(label[first])) for first, end in pairwise(edges)]


def _mean(voices: Sequence[Voice], members: Sequence[int]) -> Floats:
    """The mean of the members' embeddings, weighted by seconds, as a unit vector."""
    total = np.sum([voices[i].embedding * np.float32(voices[i].seconds) for i in members], 0)
    mean: Floats = total / np.linalg.norm(total)
    return mean


class Diarization:
    """Segments in, turns out. Marks pass through.

    A channel whose role is known is the speaker `agent` or `customer` (`agent-0`, `agent-1` by channel where several
    have that role); one of several channels whose role is unknown is `channel-N`. Both with confidence 1.

    A single channel of unknown role is taken as a mix. The segmentation says where the speaker changes within a segment
    and where several speak; the stretches in between are grouped by voice, and the segment is split where the voice
    changes. `overlap_ms` of a turn is how long somebody else speaks in it, too. Without a segmenter a segment is one
    turn.

    The voices are clustered as they come into `speaker-1`, `speaker-2`, …, numbered by first appearance, all of role
    unknown. A voice joins the most similar speaker so far (cosine to the mean of the speaker's embeddings, weighted by
    duration) or, when that is below the threshold and fewer than `maximum_speakers` are known, opens a new one; two
    voices of one segment are two speakers unless they sound much alike. Confidence is a logistic curve over the margin
    by which a choice beats the next best.

    Two speakers who have become alike, or who turn out to be one when somebody comes who is neither, are made one: the
    later name is taken back with a `Correction`, written before the turns of the segment that brought it about.
    """

    idle_timeout_ms: int | None = FORGOTTEN_MS

    def __init__(self, config: Config, embedder: "SpeakerEmbedder", segmenter: "Segmenter | None" = None) -> None:
        self._config = config
        self._embedder = embedder
        self._segmenter = segmenter if config.maximum_speakers > 1 else None

    def open(self, call_id: str) -> _Call:
        return _Call()

    def restore(self, call_id: str, snapshot: bytes) -> _Call:
        """The state as it was. Raises CalltideError for a snapshot of another version."""
        header, _, arrays = snapshot.partition(b"\n")
        try:
            version, named, speakers, lines = json.loads(header)
        except ValueError:
            version = 1
        if version != _VERSION:
            raise CalltideError(
                f"the snapshot of call {call_id} has version {version}, this program reads {_VERSION};"
                " let the version that wrote it finish its calls"
            )
        size = len(speakers) * self._embedder.dim
        rows = np.frombuffer(arrays, "<f4", size).astype(np.float32).reshape(-1, self._embedder.dim)
        known = [_Speaker(number, seconds, row) for (number, seconds), row in zip(speakers, rows, strict=True)]
        return _Call(known, named, Lines.restore(lines, arrays[4 * size :]))

    def process(self, batch: Sequence[tuple[_Call, Record]]) -> list[Step]:
        """One step a record. Raises CalltideError, ValueError or pydantic.ValidationError for a broken record."""
        arrived = [item for item in batch if item[1].kind != IDLE]
        events = read(arrived, Segment)
        mixed = [
            samples(event, record)
            for event, (_, record) in zip(events, arrived, strict=True)
            if isinstance(event, Segment) and event.call.roles == ("unknown",)
        ]
        heard, following = iter(self._listen(mixed)), iter(events)
        steps = []
        for call, record in batch:
            if record.kind == IDLE:
                steps.append(_forget(call))
                continue
            event = next(following)
            if isinstance(event, Segment) and event.channel >= len(event.call.roles):
                raise CalltideError(f"{event.identity}: the call has no role for this channel; mend the producer")
            if isinstance(event, Segment) and event.call.roles == ("unknown",):
                outputs = self._turns(call, event, record.value, next(heard))
            elif self._config.cross_talk and len(event.call.roles) > 1:
                decided = call.lines.take(event, record.value)
                outputs = [output for one in decided for output in _of_channel(*one)]
            else:
                outputs = list(_of_channel(event, record.value, []))
            steps.append(Step(outputs, b"" if isinstance(event, CallEnded) else _snapshot(call)))
        return steps

    def _listen(self, audio: Sequence[Floats]) -> list[_Heard]:
        """What the models hear in each segment; they hear those of all calls together."""
        segmenter = self._segmenter
        # What is shorter than two turns is one.
        several = [segmenter is not None and len(sound) >= 2 * TURN_MS * RATE // 1_000 for sound in audio]
        long = [sound for sound, may_split in zip(audio, several, strict=True) if may_split]
        segmented = iter(segmenter.voices(long) if segmenter is not None and long else [])
        found: list[tuple[NDArray[np.bool_], list[Unit], list[Floats]]] = []
        for sound, may_split in zip(audio, several, strict=True):
            active, whole = np.zeros((0, 1), bool), [Unit(0, 0, 0)]
            if may_split:
                active = next(segmented)
                cut = units(active, self._frames(PAUSE_S), self._frames(LONG_S))
                if cut:
                    found.append(
                        (active, cut, [sound[self._sample(unit.first) : self._sample(unit.end)] for unit in cut])
                    )
                    continue
            found.append((active, whole, [sound]))
        embeddings = iter(self._embedder.embed([sound for *_, sounds in found for sound in sounds]))
        return [
            _Heard(active, stretches, [Voice(len(sound) / RATE, next(embeddings)) for sound in sounds])
            for active, stretches, sounds in found
        ]

    def _frames(self, seconds: float) -> int:
        """So many seconds in frames of the segmentation, rounded up."""
        return math.ceil(seconds * RATE / self._segmenter.step) if self._segmenter is not None else 1

    def _sample(self, frame: int) -> int:
        """The sample at which a frame begins: two frames meet in the middle of what both see."""
        assert self._segmenter is not None
        return (self._segmenter.field - self._segmenter.step) // 2 + self._segmenter.step * frame

    def _overlap_ms(self, active: NDArray[np.bool_]) -> int:
        """How long several speak."""
        step = self._segmenter.step if self._segmenter is not None else 0
        return int((active.sum(1) > 1).sum()) * step * 1_000 // RATE

    def _turns(self, call: _Call, segment: Segment, value: bytes, heard: _Heard) -> list[Output]:
        """The turns of a segment of a mixed channel, and before them the corrections that it led to."""
        threshold = self._config.threshold
        if threshold is None and self._config.embedder != "campplus":
            threshold = SPEECHBRAIN
        elif threshold is None:
            threshold = TELEPHONE if segment.rate == 8_000 else WIDE_BAND
        numbers = group(heard.units, heard.voices, threshold)
        voices = []
        for number in range(max(numbers) + 1):
            members = [i for i, other in enumerate(numbers) if other == number]
            voices.append(Voice(sum(heard.voices[i].seconds for i in members), _mean(heard.voices, members)))
        speakers, confidences, mergers = self._cluster(call, voices, threshold)
        outputs = [
            Output.of(Correction(call=segment.call, speaker=later.name, same_as=earlier.name), b"")
            for later, earlier in mergers
        ]
        named = [
            {"speaker": speaker.name, "role": "unknown", "speaker_confidence": confidence}
            for speaker, confidence in zip(speakers, confidences, strict=True)
        ]
        alone = _alone(heard.active) >= 0
        if not alone.any():
            overlap_ms = self._overlap_ms(heard.active)
            return [*outputs, Output.of(promote(segment, Turn, overlap_ms=overlap_ms, **named[0]), value)]
        label = np.full(len(heard.active), -1)
        for unit, number in zip(heard.units, numbers, strict=True):
            label[unit.first : unit.end] = speakers.index(speakers[number])
        label[~alone] = -1
        found = turns(label, self._frames(TURN_MS / 1_000))
        # Whole milliseconds, so that no sample is cut in two.
        inner = [segment.start_ms + self._sample(first) * 1_000 // RATE for first, *_ in found[1:]]
        for (first, end, speaker), (start_ms, end_ms) in zip(
            found, pairwise([segment.start_ms, *inner, segment.end_ms]), strict=True
        ):
            overlap_ms = self._overlap_ms(heard.active[first:end])
            outputs.append(_part(segment, value, start_ms, end_ms, overlap_ms=overlap_ms, **named[speaker]))
        return outputs

    def _cluster(
        self, call: _Call, voices: Sequence[Voice], threshold: float
    ) -> tuple[list[_Speaker], list[float], list[Merger]]:
        """The speaker of each voice of a segment, how sure that is, and the speakers that turned out to be one.

        The speakers learn from the voices that are not short.
        """
        mergers = self._make_room(call, voices, threshold)
        speakers, known = call.speakers, len(call.speakers)
        # To open a speaker is one more option, as good as the threshold.
        room = min(len(voices), self._config.maximum_speakers - known)
        scores, options = [], []
        for voice in voices:
            similar = [float(voice.embedding @ one.mean) if one.seconds else threshold for one in speakers]
            scores.append(similar + [threshold] * room)
            # What is short opens a speaker only beside somebody else, or where there is nobody.
            opens = voice.seconds >= SHORT_S or len(voices) > 1 or not known
            options.append(range(known + room if opens else known))
        choices = max(product(*options), key=lambda choice: _worth(choice, voices, scores))
        chosen: list[_Speaker] = []
        opened = {}
        for voice, choice in zip(voices, choices, strict=True):
            if choice >= known and choice not in opened:
                call.named += 1
                opened[choice] = _Speaker(call.named, 0.0, np.zeros(self._embedder.dim, np.float32))
                speakers.append(opened[choice])
            speaker = opened[choice] if choice >= known else speakers[choice]
            chosen.append(speaker)
            if voice.seconds >= SHORT_S:
                speaker.total = speaker.total + voice.embedding * np.float32(voice.seconds)
                speaker.seconds += voice.seconds
        confidences = [
            _confidence(voice, row[: known + min(room, 1)], min(choice, known))
            for voice, row, choice in zip(voices, scores, choices, strict=True)
        ]
        for later, earlier in self._merge(call, threshold + ALIKE):
            mergers.append((later, earlier))
            chosen = [earlier if speaker is later else speaker for speaker in chosen]
        return chosen, confidences, mergers

    def _make_room(self, call: _Call, voices: Sequence[Voice], threshold: float) -> list[Merger]:
        """Where all speakers are taken and a voice is none of them, make one of the two that are most alike."""
        if len(call.speakers) < self._config.maximum_speakers or not all(one.seconds for one in call.speakers):
            return []
        similar = [
            max(float(voice.embedding @ speaker.mean) for speaker in call.speakers)
            for voice in voices
            if voice.seconds >= STRANGE_S
        ]
        strangest = min(similar, default=1.0)
        if strangest >= threshold - STRANGE:
            return []
        return self._merge(call, max(strangest + NEARER, threshold - STRANGE))

    def _merge(self, call: _Call, from_cosine: float) -> list[Merger]:
        """Make one of the two speakers that are most alike, if they are alike enough."""
        heard = [speaker for speaker in call.speakers if speaker.seconds]
        pairs = [(float(one.mean @ other.mean), one, other) for one, other in combinations(heard, 2)]
        cosine, earlier, later = max(pairs, key=lambda pair: pair[0], default=(-1.0, None, None))
        if earlier is None or later is None or cosine < from_cosine:
            return []
        earlier.total = earlier.total + later.total
        earlier.seconds += later.seconds
        call.speakers.remove(later)
        return [(later, earlier)]


def _worth(choice: Sequence[int], voices: Sequence[Voice], scores: Sequence[Sequence[float]]) -> float:
    """How well these speakers fit the voices of one segment: similarities by seconds; to share a speaker costs."""
    fit = sum(voice.seconds * row[option] for voice, row, option in zip(voices, scores, choice, strict=True))
    shared = sum(
        min(voices[one].seconds, voices[other].seconds)
        for one, other in combinations(range(len(choice)), 2)
        if choice[one] == choice[other]
    )
    return fit - TOGETHER * shared


def _confidence(voice: Voice, scores: Sequence[float], choice: int) -> float:
    """How sure a choice among these scores is."""
    short = voice.seconds < SHORT_S
    others = [*scores[:choice], *scores[choice + 1 :]]
    if not others:
        return 0.5 if short else 1.0
    slope = SHORT_CERTAINTY if short else CERTAINTY
    return rounded(1 / (1 + math.exp(-slope * (scores[choice] - max(others)))))


def _snapshot(call: _Call) -> bytes | None:
    """A line of JSON, the speakers' sums and the channels' sketches; None while something waits."""
    if call.lines.waiting:
        return None
    if not call.named and not call.lines.lines and not call.lines.mark_ms:
        return b""
    lines, sketches = call.lines.snapshot()
    header = [_VERSION, call.named, [(speaker.number, speaker.seconds) for speaker in call.speakers], lines]
    totals = [speaker.total.astype("<f4").tobytes() for speaker in call.speakers]
    return b"".join([json.dumps(header).encode(), b"\n", *totals, sketches])


def _forget(call: _Call) -> Step:
    """A call of which nothing more comes leaves nothing."""
    return Step([output for one in call.lines.decided(at_end=True) for output in _of_channel(*one)])


def _of_channel(event: CallEvent, value: bytes, pieces: Sequence[Piece]) -> Iterator[Output]:
    """A mark, or a segment of a channel that is a party's own: its turns."""
    if not isinstance(event, Segment):
        yield Output.of(event, b"")
        return
    party = {"speaker": _party(event), "role": event.call.roles[event.channel], "speaker_confidence": 1.0}
    if len(pieces) < 2:
        flags = ("cross_talk",) if pieces and pieces[0].leaked else ()
        yield Output.of(promote(event, Turn, flags=flags, **party), value)
        return
    for piece in pieces:
        flags = ("cross_talk",) if piece.leaked else ()
        yield _part(event, value, piece.start_ms, piece.end_ms, flags=flags, **party)


def _part(segment: Segment, value: bytes, start_ms: int, end_ms: int, **added: Any) -> Output:
    """The turn from one time to another of a segment, with its audio."""
    per_ms = segment.rate // 1_000 * BYTES_PER_SAMPLE[segment.codec]
    last = end_ms == segment.end_ms
    turn = promote(
        segment,
        Turn,
        start_ms=start_ms,
        end_ms=end_ms,
        # It ends because the speaker changes: for what comes after, that is a pause.
        cut=segment.cut if last else "pause",
        captured_at=segment.captured_at - timedelta(milliseconds=segment.end_ms - end_ms),
        **added,
    )
    to = None if last else (end_ms - segment.start_ms) * per_ms
    return Output.of(turn, value[(start_ms - segment.start_ms) * per_ms : to])


def _party(segment: Segment) -> str:
    """The speaker's name where each party has a channel of its own."""
    roles, channel = segment.call.roles, segment.channel
    role = roles[channel]
    if role == "unknown":
        return f"channel-{channel}"
    return role if roles.count(role) == 1 else f"{role}-{channel}"


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage with its real models. Raises CalltideError when one cannot be loaded."""
    from processors.models.segmentation import PyannoteSegmentation
    from processors.models.speaker import CamPlusPlus, SpeakerEmbedder

    embedder: SpeakerEmbedder
    if config.embedder == "campplus":
        embedder = CamPlusPlus()
    else:
        from processors.models.speechbrain_models import load_embedder

        embedder = load_embedder(config.embedder, config.device)
    return Diarization(config, embedder, PyannoteSegmentation())
