"""Cross-talk: a party that is heard on another party's channel, too, quieter and a little later, by a leak in the line.

A changer must know: what decides is not that a stretch is quiet, but that its spectrum over time is that of another
channel. Only quiet stretches are compared, and only those wait for the other channel's audio: see `Lines.take`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from processors import audio
from schemas.events import CallEnded, CallEvent, Progress, Segment

Decibels = NDArray[np.int8]

HOP_MS, WINDOW_MS = 20, 32
BANDS: Final = 10
EDGES_HZ: Final = np.geomspace(250, 3_600, BANDS + 1)
"""What telephones carry, without hum, in 16 kHz audio too: a leak has passed through a telephone."""

LAG_MS: Final = 320
"""Longest delay of a leak: an echo over a satellite takes longer, but is cancelled on the way. Judgement."""
AHEAD_MS: Final = 40
"""By how much a leak may come before its original: channels that are not quite aligned. Judgement."""

QUIETER_DB: Final = 10
"""By how much a leak is quieter than its original at least. Judgement: lines leak at −20 to −35 dB."""
ABSOLUTE_DB: Final = -40
"""Level, to full scale, below which a stretch is quiet while no other party was heard. Judgement."""
OWN_DB: Final = 6
"""What is less than this below the party's loudest speech so far does not wait: it is nearly always its own.
Judgement: it bounds how much waits."""

FLOOR_DB: Final = 25
"""What is so far below a band's maximum counts as silence: a leak's quiet parts are lost in the noise of the line.
Judgement."""
SIMILAR, SIMILAR_S = 0.55, 0.15
"""Correlation from which a stretch is a leak: so much, and so much more for each stretch of a second divided by its
length. benchmarks/diarization.py: 0.85 for half a second, which of some hundred unrelated stretches at most one
reaches by chance, and 0.6 for three seconds, which none does."""

SHORTEST_MS: Final = 500
"""Shorter quiet stretches are not looked at: SIMILAR would have to be above 0.85. Judgement, as are the four below."""
DIP_MS: Final = 400
"""A dip of so little is part of the speech around it."""
TURN_MS: Final = 300
"""Shortest turn that is cut off."""
ENOUGH_MS: Final = 200
"""So much of the end of a stretch may be missing of the other channel."""
LONGEST_MS: Final = 20_000
"""A stretch waits no longer than until its channel is so far on; the longest segment ends before."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """The level of each band over time; frame i begins at (first + i) * HOP_MS of the call."""

    first: int
    decibels: Decibels
    """(frames, BANDS), to full scale."""

    @property
    def end(self) -> int:
        return self.first + len(self.decibels)


@dataclass(slots=True)
class _Line:
    """One channel of a call."""

    known_ms: int = 0
    """Up to where it is known what was said."""
    loudest_db: float | None = None
    """The party's own loudest speech so far."""
    sketches: list[Sketch] = field(default_factory=list)


@dataclass(slots=True)
class Waiting:
    event: CallEvent
    value: bytes
    sketch: Sketch | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a segment, in milliseconds of the call."""

    start_ms: int
    end_ms: int
    leaked: bool


def sketch(value: bytes, segment: Segment) -> Sketch:
    """The sketch of a segment: frames of WINDOW_MS on a grid of HOP_MS, so that those of two channels fit together."""
    samples, per_ms = audio.decode(value, segment.codec), segment.rate // 1_000
    first = -(-segment.start_ms // HOP_MS)
    size, offset = WINDOW_MS * per_ms, (first * HOP_MS - segment.start_ms) * per_ms
    if len(samples) < offset + size:
        return Sketch(first, np.zeros((0, BANDS), np.int8))
    windows = np.lib.stride_tricks.sliding_window_view(samples[offset:], size)[:: HOP_MS * per_ms]
    window = np.hanning(size)
    power = np.abs(np.fft.rfft(windows * window)) ** 2 * (2 / size / (window**2).sum())
    edges = np.searchsorted(np.fft.rfftfreq(size, 1 / segment.rate), EDGES_HZ)
    bands = np.add.reduceat(power, edges, axis=1)[:, :BANDS]
    return Sketch(first, np.rint(10 * np.log10(bands + 1e-10)).astype(np.int8))


def level(decibels: Decibels) -> NDArray[np.float64]:
    """The level of each frame, all bands together."""
    found: NDArray[np.float64] = 10 * np.log10((10 ** (decibels / 10)).sum(1))
    return found


def loud(decibels: Decibels) -> float:
    """How loud a stretch is where it is loud: the level that a tenth of the frames exceed."""
    return float(np.quantile(level(decibels), 0.9)) if len(decibels) else -math.inf


def quiet(decibels: Decibels, below_db: float) -> list[tuple[int, int]]:
    """(first, end) of the frames of the stretches that are below a level and not shorter than SHORTEST_MS."""
    around = DIP_MS // HOP_MS // 2
    padded = np.pad(level(decibels), around, constant_values=-math.inf)
    smooth = np.lib.stride_tricks.sliding_window_view(padded, 2 * around + 1).max(1)
    runs = [(is_quiet, len(list(run))) for is_quiet, run in groupby((smooth < below_db).tolist())]
    ends = list(accumulate(length for _, length in runs))
    found = zip(runs, ends, strict=True)
    return [(end - n, end) for (is_quiet, n), end in found if is_quiet and n * HOP_MS >= SHORTEST_MS]


def leaked(stretch: Sketch, originals: Sequence[Sketch]) -> bool:
    """Whether a stretch is what another channel said."""
    similar, fainter_db = similarity(stretch, originals)
    return similar >= threshold(len(stretch.decibels)) and fainter_db >= QUIETER_DB


def threshold(frames: int) -> float:
    """The similarity from which so many frames are a leak."""
    return SIMILAR + SIMILAR_S * 1_000 / (frames * HOP_MS)


def similarity(stretch: Sketch, originals: Sequence[Sketch]) -> tuple[float, float]:
    """(correlation with another channel at the delay at which it is highest, by how many dB it is fainter)."""
    frames = len(stretch.decibels)
    best, fainter_db = -1.0, 0.0
    # Of the original counts only what is not covered by the noise in which its leak lies.
    depth = np.minimum(np.ptp(stretch.decibels.astype(np.float64), axis=0), FLOOR_DB)
    mine = _outline(stretch.decibels, depth)
    for lag in range(-AHEAD_MS // HOP_MS, LAG_MS // HOP_MS + 1):
        other = np.full((frames, BANDS), -128, np.int8)
        start = stretch.first - lag
        for original in originals:
            first, end = max(original.first, start), min(original.end, start + frames)
            if first < end:
                other[first - start : end - start] = original.decibels[first - original.first : end - original.first]
        heard = other[:, 0] > -128
        if heard.mean() < 0.5:
            continue
        theirs = _outline(other, depth)
        norm = math.sqrt((mine**2).sum() * (theirs**2).sum())
        similar = float((mine * theirs).sum() / norm) if norm else -1.0
        if similar > best:
            best, fainter_db = similar, loud(other[heard]) - loud(stretch.decibels)
    return best, fainter_db


def _outline(decibels: Decibels, depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rise and fall of each band: without its mean, which a line changes, and without what noise covers."""
    values = decibels.astype(np.float64)
    clipped = np.maximum(values, values.max(0) - depth)
    outline: NDArray[np.float64] = clipped - clipped.mean(0)
    return outline


@dataclass(slots=True)
class Lines:
    """The channels of a call, as far as another channel's leaks may still be compared with them.

    Records are given back in the order in which they came. A segment waits, and what came after it with it, while it
    has a quiet stretch and it is not known yet what the other channels said then: until their next segment, watermark,
    or the end of the call. What waits is not part of a snapshot.
    """

    lines: dict[int, _Line] = field(default_factory=dict)
    mark_ms: int = 0
    waiting: list[Waiting] = field(default_factory=list)
    channels: int = 0
    """How many the call has, by its latest record."""

    def take(self, event: CallEvent, value: bytes) -> Iterator[tuple[CallEvent, bytes, list[Piece]]]:
        """The next record of the call in, and out those that are decided: each with the pieces of a segment."""
        drawn = None
        self.channels = len(event.call.roles)
        if isinstance(event, Segment):
            drawn = sketch(value, event)
            line = self.lines.setdefault(event.channel, _Line())
            line.sketches.append(drawn)
            line.known_ms = max(line.known_ms, event.end_ms)
        elif isinstance(event, Progress):
            self.mark_ms = max(self.mark_ms, event.at_ms)
        self.waiting.append(Waiting(event, value, drawn))
        yield from self.decided(at_end=isinstance(event, CallEnded))

    def decided(self, at_end: bool) -> Iterator[tuple[CallEvent, bytes, list[Piece]]]:
        """What need not wait any more; `at_end`: whatever waits."""
        while self.waiting:
            first = self.waiting[0]
            pieces: list[Piece] = []
            if isinstance(first.event, Segment) and first.sketch is not None:
                found = self._pieces(first.event, first.sketch, at_end)
                if found is None:
                    return
                pieces = found
            del self.waiting[0]
            yield first.event, first.value, pieces
        self._forget()

    def _pieces(self, segment: Segment, drawn: Sketch, at_end: bool) -> list[Piece] | None:
        """The segment in pieces; None where that is not known yet."""
        line = self.lines[segment.channel]
        others = {channel: self.lines.get(channel, _Line()) for channel in self._others(segment.channel)}
        candidates = quiet(drawn.decibels, self._quiet_db(others))
        latest_ms = max(one.event.end_ms for one in self.waiting if isinstance(one.event, Segment))
        patient = not at_end and latest_ms < segment.end_ms + LONGEST_MS
        for first, end in candidates:
            own = line.loudest_db is not None and loud(drawn.decibels[first:end]) >= line.loudest_db - OWN_DB
            needed_ms = (drawn.first + end) * HOP_MS - ENOUGH_MS
            if patient and not own and self._known_ms(segment.channel) < needed_ms:
                return None
        leaks = [
            (first, end)
            for first, end in candidates
            if any(
                leaked(Sketch(drawn.first + first, drawn.decibels[first:end]), other.sketches)
                for other in others.values()
            )
        ]
        spoken = np.ones(len(drawn.decibels), bool)
        for first, end in leaks:
            spoken[first:end] = False
        if spoken.any():
            own_db = loud(drawn.decibels[spoken])
            line.loudest_db = own_db if line.loudest_db is None else max(own_db, line.loudest_db)
        return _cut(segment, drawn, leaks)

    def _quiet_db(self, others: dict[int, _Line]) -> float:
        """The level below which a stretch may be a leak of these channels."""
        known = [other.loudest_db for other in others.values() if other.loudest_db is not None]
        arrived = [
            loud(one.sketch.decibels)
            for one in self.waiting
            if one.sketch is not None and isinstance(one.event, Segment) and one.event.channel in others
        ]
        return max([*known, *arrived], default=ABSOLUTE_DB + QUIETER_DB) - QUIETER_DB

    def _forget(self) -> None:
        """Nothing waits: keep only what a leak that is still to come may be compared with."""
        for channel, line in self.lines.items():
            from_ms = self._known_ms(channel) - LAG_MS
            line.sketches = [one for one in line.sketches if one.end * HOP_MS + WINDOW_MS > from_ms]

    def _others(self, channel: int) -> list[int]:
        return [other for other in range(self.channels) if other != channel]

    def _known_ms(self, channel: int) -> int:
        """Up to where it is known what all channels but this one said."""
        known = (self.lines[other].known_ms if other in self.lines else 0 for other in self._others(channel))
        return min((max(known_ms, self.mark_ms) for known_ms in known), default=self.mark_ms)

    def snapshot(self) -> tuple[list[Any], bytes]:
        """(what JSON holds, the sketches). Nothing must wait."""
        header = [
            (channel, line.known_ms, line.loudest_db, [(one.first, len(one.decibels)) for one in line.sketches])
            for channel, line in self.lines.items()
        ]
        drawn = b"".join(one.decibels.tobytes() for line in self.lines.values() for one in line.sketches)
        return [self.mark_ms, header], drawn

    @classmethod
    def restore(cls, header: Sequence[Any], drawn: bytes) -> "Lines":
        """As it was when `snapshot` was taken."""
        mark_ms, lines = header
        found, at = cls(mark_ms=mark_ms), 0
        for channel, known_ms, loudest_db, sketches in lines:
            line = found.lines[channel] = _Line(known_ms, loudest_db)
            for first, frames in sketches:
                rows = np.frombuffer(drawn, np.int8, frames * BANDS, at).reshape(frames, BANDS)
                line.sketches.append(Sketch(first, rows))
                at += frames * BANDS
        return found


def _cut(segment: Segment, drawn: Sketch, leaks: Sequence[tuple[int, int]]) -> list[Piece]:
    """The segment in pieces, end to end, none of them shorter than TURN_MS; what is doubtful is the party's own."""
    pieces: list[Piece] = []
    at_ms = segment.start_ms
    for first, end in leaks:
        # A stretch that begins or ends with the segment takes what of it fills no frame.
        start_ms = segment.start_ms if first == 0 else max((drawn.first + first) * HOP_MS, at_ms + TURN_MS)
        whole = end == len(drawn.decibels)
        end_ms = segment.end_ms if whole else min((drawn.first + end) * HOP_MS, segment.end_ms - TURN_MS)
        if end_ms - start_ms < TURN_MS:
            continue
        if start_ms > at_ms:
            pieces.append(Piece(at_ms, start_ms, leaked=False))
        pieces.append(Piece(start_ms, end_ms, leaked=True))
        at_ms = end_ms
    if at_ms < segment.end_ms:
        pieces.append(Piece(at_ms, segment.end_ms, leaked=False))
    return pieces
