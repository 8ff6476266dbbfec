"""Voice activity: audio packets in, stretches of speech out, with the call's start, end and watermarks around them.

A changer must know: everything is in media time and depends on the records of one call alone. A channel is heard in
windows of 32 ms on a grid of whole milliseconds, so a segment's audio is exactly [start_ms, end_ms), and the model is
stepped for many calls at once without any of them noticing.

How a segment comes about:
* It opens at the first window with a probability of `threshold` or more, and begins `pre_roll_ms` earlier, but never
  before the end of the segment before it. A window goes on being speech until its probability falls below `release`.
* It ends after `hangover_ms` without speech, TAIL_MS after the last window of speech. With less speech in it than
  `minimum_speech_ms`, or with speech that the model was never sure of (EVIDENCE), it was a noise: it is dropped and its
  length counted.
* Before it gets longer than `maximum_ms` (`mixed_maximum_ms` where all parties share a channel) it is cut in the middle
  of its weakest recent window, by the model's probability and by loudness, and the rest is the next segment; in a pause
  it just ends there.
* A call whose channels talk across each other for CUT_MS never stands at a point where its state is small. Then all
  open segments end where they are, or in a common pause of the last seconds before, and what goes on opens new ones.

What happens to audio that is not as it should be:
* Packets with a sequence number or samples that were heard already are dropped and counted; of a packet that overlaps,
  the new samples are taken.
* Samples that never came are taken as silence and counted. Of a gap longer than `hangover_ms` plus a second only so
  much is heard; then the channel starts anew, with a fresh model, where the audio goes on. So media time never drifts.
* A channel LAG_MS behind the others is taken to be silent, or its open segment and the watermark would wait for ever.
  Its packets that come later than that are dropped and counted: the channels of a call have to be sent side by side.
* A jump of more than JUMP_MS is a broken packet: an error.
* A channel begins where its first packet does. In a call with a start marker, what is missing before a packet that is
  not the channel's first is counted.
* A change of codec or rate ends the open segment like a pause and starts the channel anew.
* Packets without a start marker make up a call of unknown parties that grows with the channels heard. An end marker
  without an open call is the second end of a call that was ended for idleness, and is passed over.
* A second start marker (a reconnect) only adds metadata and lets sequence numbers begin again.
"""

import json
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from processors import audio
from processors.base import IDLE, Output, Processor, Record, Step, Unfinished
from schemas.audio import BYTES_PER_SAMPLE, AudioPacket, Codec
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, CallStarted, Interim, Mark, Progress, Segment, decode

Floats = NDArray[np.float32]
Cut = Literal["pause", "max_length", "end"]

WINDOW_MS: Final = 32
"""Length of a window. Fixed by the model."""
CONTEXT_MS: Final = 4
"""What the model also sees before a window. Fixed by the model."""
STATE: Final = (2, 128)
"""Shape of the model's state of a channel; zeros at the start."""

TAIL_MS: Final = 96
"""Audio kept after the last window of speech. Judgement: a fading consonant falls below the threshold early."""
EVIDENCE: Final = {8_000: 0.5, 16_000: 1.0}
"""Least sum, over a segment's windows, of what their probabilities are above `threshold`, by sample rate. Measured:
music, tones and noise that rise above the threshold stay below this, real speech does not (docs/vad.md)."""
SEARCH_MS: Final = 5_000
"""How far back a too long segment is searched for its weakest window; at most a third of `maximum_ms`. Judgement:
farther back there is a pause more often, and segments get shorter."""
_SMOOTHING: Final = (1, 2, 1)
"""Weights of the windows around one for how weak it is: a pause between words is longer than the closure before a "t".
Measured, as is _DB_OF_PROBABILITY, by the share of cuts that fall into a pause (docs/vad.md)."""
_DB_OF_PROBABILITY: Final = 5.0
"""Decibels less that make a window as weak as a probability of 0 instead of 1."""
_SILENCE_DB: Final = -70.0
"""Below this level of full scale nothing is weaker than another."""
CUT_MS: Final = 30_000
"""Longest media time without a point at which the state is small: what is read again after a crash. Judgement."""
PAUSE_FROM_MS: Final = 20_000
"""From here on a pause common to all channels is taken for that cut, so that it seldom falls into a word."""
LAG_MS: Final = 10_000
"""How far a channel may be behind the others. Judgement: network jitter and consumer lag shift all channels alike."""
CATCH_UP_MS: Final = 5_000
"""How far behind a channel is after it was taken to be silent."""
JUMP_MS: Final = 3_600_000
"""Farthest jump ahead of a packet. Judgement."""
MARK_MS: Final = 1_000
"""Media time between two watermarks, and between two snapshots in silence."""
CHANNELS: Final = 16
"""Most channels of a call that came without its start marker. Judgement."""
CHUNK: Final = 32
"""Most windows of a channel decoded at once: bounds the memory of a batch with long gaps in it."""

_VERSION: Final = 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(0.5, gt=0, lt=1, description="speech probability at which speech starts")
    release: float = Field(0.35, gt=0, lt=1, description="probability below which it pauses")
    hangover_ms: int = Field(384, ge=64, le=5000, description="pause that ends a segment")
    minimum_speech_ms: int = Field(96, ge=32, description="shorter bursts are not speech")
    # The ring of a 16 kHz channel is most of its snapshot, which has to stay below 8 KB.
    pre_roll_ms: int = Field(160, ge=0, le=160, description="audio kept before speech starts")
    maximum_ms: int = Field(15000, ge=1000, le=28000, description="longest segment")
    # Measured (docs/diarization.md): no more word errors than at 15 s, fewer confused speakers, and half the wait.
    mixed_maximum_ms: int = Field(
        6000, ge=1000, le=28000, description="the same where all parties share a channel: their turns wait for its end"
    )
    idle_timeout_ms: int = Field(30000, ge=1000, description="a call without frames for so long is ended")


class VadModel(Protocol):
    """The probability that a window is speech. A row's numbers must not depend on the rows beside it, bit for bit."""

    def step(self, rate: int, windows: Floats, states: Floats, contexts: Floats) -> tuple[Floats, Floats, Floats]:
        """One window of each of n channels at `rate` Hz.

        windows: float32 (n, WINDOW_MS of samples); states: float32 (n, *STATE); contexts: float32 (n, CONTEXT_MS of
        samples). Returns (probabilities (n,), states, contexts).
        """
        ...


@dataclass(slots=True)
class _Open:
    """A segment that is going on; it begins with the channel's audio."""

    probabilities: list[float]
    """Of each window since speech began; the last one ends at the channel's position."""
    speech: int
    """Number of windows of speech."""
    speech_end_ms: int
    evidence: float
    """Sum of what its probabilities are above the threshold."""
    continued: bool = False
    """Whether it is the rest of one that was too long."""


@dataclass(slots=True)
class _Channel:
    """What is kept of a channel. Between records no segment to come can begin before `audio` does."""

    number: int
    codec: Codec
    rate: int
    sequence: int = -1
    captured_ms: int = 0
    """Wall clock of media time 0, by the latest packet."""
    next_sample: int = 0
    position_ms: int = 0
    """Media time up to which the model has heard the channel."""
    audio_ms: int = 0
    """Media time of the first sample of `audio`."""
    audio: bytearray = field(default_factory=bytearray)
    """Source bytes up to `position_ms`; what does not fill a window yet is in `partial`."""
    partial: bytes = b""
    state: Floats = field(default_factory=lambda: np.zeros(STATE, np.float32))
    context: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    open: _Open | None = None

    @property
    def bytes_per_ms(self) -> int:
        return self.rate // 1000 * BYTES_PER_SAMPLE[self.codec]

    @property
    def heard_ms(self) -> int:
        return self.next_sample * 1000 // self.rate

    def restart(self, codec: Codec, rate: int, sample: int) -> None:
        """Begin anew at `sample`, or at the next one on a whole millisecond."""
        start_ms = -(-sample * 1000 // rate)
        self.codec, self.rate, self.next_sample = codec, rate, start_ms * rate // 1000
        self.position_ms = self.audio_ms = start_ms
        self.audio, self.partial, self.open = bytearray(), b"", None
        self.state, self.context = np.zeros(STATE, np.float32), np.zeros(CONTEXT_MS * rate // 1000, np.float32)

    def until(self, end_ms: int) -> bytes:
        """The audio up to `end_ms`."""
        size = (end_ms - self.audio_ms) * self.bytes_per_ms
        value = bytes(self.audio[:size])
        return value + self.partial[: size - len(value)]

    def trim(self, to_ms: int) -> None:
        """Forget the audio before `to_ms`."""
        if to_ms > self.audio_ms:
            del self.audio[: (to_ms - self.audio_ms) * self.bytes_per_ms]
            self.audio_ms = to_ms


@dataclass(slots=True)
class _Call:
    info: CallInfo | None = None
    """None until the first record that says something."""
    made_up: bool = False
    """Whether the call came without its start marker."""
    channels: dict[int, _Channel] = field(default_factory=dict)
    mark_ms: int = 0
    """The latest watermark."""
    cut_ms: int = 0
    """Media time at which no segment was open last."""
    snapshot_ms: int = 0
    captured_ms: int | None = None
    """Wall clock at the end of the latest packet."""
    missing_ms: int = 0
    dropped: int = 0
    not_speech_ms: int = 0
    """What rose above the threshold and was no speech, all channels."""
    heard_ms: int = 0
    """Media time of the channel that is farthest."""


_Hearing = Generator[tuple[_Channel, bytes], list[float], list[Output]]
"""Asks for the probabilities of the whole windows in some bytes of a channel, and returns what they led to."""


class VoiceActivity:
    """The stage: see the module's text for its rules and `processors.base.Processor` for the interface.

    Input of kinds `call_started`, `audio`, `call_ended` and `IDLE`. Output: CallStarted, Segment with its audio in the
    source codec, Progress and CallEnded. A Progress comes when the watermark has moved on by MARK_MS: it is the time
    before which no channel heard so far can still have a segment to come, so it stands still while a segment is open.
    `CallEnded` has the length heard here, and the counts of what was missing and dropped.

    A cut is a record after which no segment is open. It comes with a snapshot when something was emitted, else once in
    MARK_MS; a snapshot is below 8 KB a channel, besides the call's own description.
    """

    def __init__(self, config: Config, model: VadModel) -> None:
        self.idle_timeout_ms: int | None = config.idle_timeout_ms
        self._config = config
        self._model = model
        self._tail_ms = min(TAIL_MS, config.hangover_ms)

    def open(self, call_id: str) -> _Call:
        """The state of a call that has just appeared."""
        return _Call()

    def restore(self, call_id: str, snapshot: bytes) -> _Call:
        """The state as it was. Raises CalltideError for a snapshot of another version."""
        if snapshot[0] != _VERSION:
            raise CalltideError(
                f"the snapshot of call {call_id} has version {snapshot[0]}, this program reads {_VERSION};"
                " let the version that wrote it finish its calls"
            )
        start = 5 + int.from_bytes(snapshot[1:5], "big")
        header = json.loads(snapshot[5:start])
        call = _Call(CallInfo.model_validate(header["call"]), header["made_up"], mark_ms=header["mark_ms"])
        call.captured_ms, call.missing_ms, call.dropped = header["captured_ms"], header["missing_ms"], header["dropped"]
        call.not_speech_ms = header.get("not_speech_ms", 0)  # snapshots of 0.1.0 have none
        for *fields, n_audio, n_partial in header["channels"]:
            channel = _Channel(*fields)
            sizes = (4 * STATE[0] * STATE[1], 4 * CONTEXT_MS * channel.rate // 1000, n_audio, n_partial)
            ends = list(accumulate(sizes, initial=start))
            state, context, heard, channel.partial = (snapshot[first:last] for first, last in pairwise(ends))
            channel.state = np.frombuffer(state, "<f4").astype(np.float32).reshape(STATE)
            channel.context = np.frombuffer(context, "<f4").astype(np.float32)
            channel.audio = bytearray(heard)
            call.channels[channel.number] = channel
            start = ends[-1]
        call.cut_ms = call.snapshot_ms = call.heard_ms = header["heard_ms"]
        return call

    def process(self, batch: Sequence[tuple[_Call, Record]]) -> list[Step]:
        """One step a record. Calls go on side by side: each model call takes the next windows of all that have some.

        Raises CalltideError or pydantic.ValidationError for a record that is not what it should be.
        """
        steps = [Step() for _ in batch]
        turns: dict[str, list[int]] = {}
        for index, (_, record) in enumerate(batch):
            turns.setdefault(record.call_id, []).append(index)

        def follow(indices: list[int]) -> Generator[tuple[_Channel, bytes], list[float], None]:
            for index in indices:
                steps[index] = yield from self._handle(*batch[index])

        waiting = [(hearing, next(hearing, None)) for hearing in map(follow, turns.values())]
        asked = [(hearing, request) for hearing, request in waiting if request is not None]
        while asked:
            answers = self._listen([request for _, request in asked])
            following = []
            for (hearing, _), answer in zip(asked, answers, strict=True):
                try:
                    following.append((hearing, hearing.send(answer)))
                except StopIteration:
                    pass  # all records of this call are done
            asked = following
        return steps

    def provisional(self, state: _Call, due: Callable[[Unfinished], bool]) -> list[Output]:
        """As `processors.base.Provisional`: each open segment that is truly speech, as it would be if it ended here."""
        outputs = []
        for channel in state.channels.values():
            info, segment = state.info, channel.open
            if info is None or segment is None or not self._is_speech(channel, segment):
                continue
            heard_ms = channel.heard_ms
            end_ms = min(segment.speech_end_ms + self._tail_ms, heard_ms)
            captured_ms = channel.captured_ms + heard_ms
            one = Unfinished(info, channel.number, channel.audio_ms, end_ms, heard_ms, captured_ms)
            if due(one):
                interim = Interim(
                    call=info,
                    channel=channel.number,
                    start_ms=one.start_ms,
                    end_ms=end_ms,
                    codec=channel.codec,
                    rate=channel.rate,
                    captured_at=_EPOCH + timedelta(milliseconds=channel.captured_ms + end_ms),
                    revision=one.revision,
                )
                outputs.append(Output.of(interim, channel.until(end_ms)))
        return outputs

    def _listen(self, requests: list[tuple[_Channel, bytes]]) -> list[list[float]]:
        """The probabilities of the windows of each request; moves the channels' model states on."""
        answers: list[list[float]] = [[]] * len(requests)
        groups: dict[tuple[int, Codec], list[int]] = {}
        for i, (channel, _) in enumerate(requests):
            groups.setdefault((channel.rate, channel.codec), []).append(i)
        for (rate, codec), members in groups.items():
            # Most windows first: the channels that still have one in a round are then the first rows.
            members.sort(key=lambda i: -len(requests[i][1]))
            channels = [requests[i][0] for i in members]
            size = WINDOW_MS * channels[0].bytes_per_ms
            counts = np.array([len(requests[i][1]) // size for i in members])
            firsts = np.cumsum(counts) - counts
            samples = audio.decode(b"".join([requests[i][1] for i in members]), codec)
            windows = samples.reshape(-1, WINDOW_MS * rate // 1000)
            probabilities = np.empty(len(windows), np.float32)
            states = np.array([channel.state for channel in channels])
            contexts = np.array([channel.context for channel in channels])
            for turn in range(counts[0]):
                n = int(np.count_nonzero(counts > turn))
                rows = firsts[:n] + turn
                probabilities[rows], states[:n], contexts[:n] = self._model.step(
                    rate, windows[rows], states[:n], contexts[:n]
                )
            values = probabilities.tolist()
            for row, (i, channel) in enumerate(zip(members, channels, strict=True)):
                # Copies: a view would keep the states of the whole batch in memory.
                channel.state, channel.context = states[row].copy(), contexts[row].copy()
                answers[i] = values[firsts[row] : firsts[row] + counts[row]]
        return answers

    def _handle(self, call: _Call, record: Record) -> Generator[tuple[_Channel, bytes], list[float], Step]:
        match record.kind:
            case "audio":
                packet = AudioPacket.decode(record.headers, record.value)
                outputs = yield from self._packet(call, record, packet)
                return self._conclude(call, outputs)
            case "call_started":
                return self._conclude(call, self._start(call, record))
            case "call_ended":
                marker = decode(record.headers, record.value)
                assert isinstance(marker, CallEnded)
                return self._end(call, marker.ended_at, marker.reason, marker.marks)
            case kind if kind == IDLE:
                return self._end(call, None, "idle")
        raise CalltideError(f"a record of unknown kind {record.kind!r} in the audio frames; mend its producer")

    def _start(self, call: _Call, record: Record) -> list[Output]:
        marker = decode(record.headers, record.value)
        if marker.call.call_id != record.call_id:
            raise CalltideError(
                f"the start marker of call {marker.call.call_id} has the key {record.call_id}; mend its producer"
            )
        if call.info is None:
            call.info = marker.call
            return [Output.of(CallStarted(call=call.info), b"")]
        call.info = call.info.model_copy(update={"metadata": call.info.metadata | marker.call.metadata})
        for channel in call.channels.values():
            channel.sequence = -1
        return []

    def _packet(self, call: _Call, record: Record, packet: AudioPacket) -> _Hearing:
        at_ms = packet.sample * 1000 // packet.rate
        end_ms = (packet.sample + packet.samples) * 1000 // packet.rate
        info, outputs = self._described(call, record, packet, end_ms)
        if at_ms - call.heard_ms > JUMP_MS and (call.channels or not call.made_up):
            raise CalltideError(
                f"an audio packet of call {record.call_id} is {at_ms - call.heard_ms} ms ahead of all that was heard;"
                " mend its producer's sample index"
            )
        channel = call.channels.get(packet.channel)
        if channel is None:
            channel = call.channels[packet.channel] = _Channel(packet.channel, packet.codec, packet.rate)
            channel.restart(packet.codec, packet.rate, packet.sample)
            if packet.sequence and not call.made_up:
                call.missing_ms += at_ms
        elif packet.sequence <= channel.sequence:
            call.dropped += 1
            return outputs
        elif (packet.codec, packet.rate) != (channel.codec, channel.rate):
            heard_ms = channel.heard_ms
            outputs += self._close(call, info, channel, "pause", heard_ms)
            call.missing_ms += max(at_ms - heard_ms, 0)
            channel.restart(packet.codec, packet.rate, max(packet.sample, heard_ms * packet.rate // 1000))
        if packet.sample > channel.next_sample:
            outputs += yield from self._gap(call, info, channel, packet.sample)
        known = channel.next_sample - packet.sample
        if 0 < packet.samples <= known:
            # Its number does not count: behind a reconnect it may be one of the old sequence.
            call.dropped += 1
            return outputs
        channel.sequence = packet.sequence
        # Time in which nobody sent anything is quickly read again.
        call.cut_ms += max(at_ms - call.heard_ms, 0)
        channel.captured_ms = record.timestamp_ms - end_ms
        call.captured_ms = max(call.captured_ms or 0, record.timestamp_ms)
        outputs += yield from self._feed(call, info, channel, packet.value[known * BYTES_PER_SAMPLE[packet.codec] :])
        call.heard_ms = max(call.heard_ms, end_ms)
        for other in call.channels.values():
            if other.heard_ms < call.heard_ms - LAG_MS:
                to_sample = (call.heard_ms - CATCH_UP_MS) * other.rate // 1000
                outputs += yield from self._gap(call, info, other, to_sample)
        return outputs

    def _described(
        self, call: _Call, record: Record, packet: AudioPacket, end_ms: int
    ) -> tuple[CallInfo, list[Output]]:
        """The call that a packet belongs to, made up if need be. Raises CalltideError for a channel that it has not."""
        number, outputs = packet.channel, list[Output]()
        info, new = call.info, call.info is None
        if info is None:
            started_at = _EPOCH + timedelta(milliseconds=record.timestamp_ms - end_ms)
            info, call.made_up = CallInfo(call_id=record.call_id, started_at=started_at, roles=("unknown",)), True
        if call.made_up and len(info.roles) <= number < CHANNELS:
            info = info.model_copy(update={"roles": ("unknown",) * (number + 1)})
        if number >= len(info.roles):
            raise CalltideError(
                f"an audio packet of call {record.call_id} is for channel {number}, but the call has"
                f" {len(info.roles)}; name the role of each channel in the start marker"
            )
        call.info = info
        if new:
            outputs.append(Output.of(CallStarted(call=info), b""))
        return info, outputs

    def _gap(self, call: _Call, info: CallInfo, channel: _Channel, to_sample: int) -> _Hearing:
        """Silence up to `to_sample`, or so much of it that any segment has ended, and a new start there."""
        call.missing_ms += to_sample * 1000 // channel.rate - channel.heard_ms
        missing = to_sample - channel.next_sample
        filled = min(missing, (self._config.hangover_ms + MARK_MS) * channel.rate // 1000)
        outputs = yield from self._feed(call, info, channel, audio.silence(filled, channel.codec))
        if filled < missing:
            outputs += self._close(call, info, channel, "pause", channel.heard_ms)
            channel.restart(channel.codec, channel.rate, to_sample)
        return outputs

    def _feed(self, call: _Call, info: CallInfo, channel: _Channel, value: bytes) -> _Hearing:
        """Hear the next samples of a channel."""
        channel.next_sample += len(value) // BYTES_PER_SAMPLE[channel.codec]
        heard, size = channel.partial + value, WINDOW_MS * channel.bytes_per_ms
        whole = len(heard) // size * size
        channel.partial = heard[whole:]
        outputs: list[Output] = []
        for first in range(0, whole, CHUNK * size):
            windows = heard[first : min(first + CHUNK * size, whole)]
            probabilities = yield channel, windows
            channel.audio += windows
            outputs += self._segment(call, info, channel, probabilities)
        return outputs

    def _segment(self, call: _Call, info: CallInfo, channel: _Channel, probabilities: list[float]) -> list[Output]:
        config, outputs = self._config, []
        if channel.open is None and max(probabilities) < config.threshold:
            channel.position_ms += WINDOW_MS * len(probabilities)
            channel.trim(channel.position_ms - config.pre_roll_ms)
            return []
        for probability in probabilities:
            before_ms = channel.position_ms
            channel.position_ms = now_ms = before_ms + WINDOW_MS
            segment = channel.open
            if segment is None:
                if probability >= config.threshold:
                    channel.trim(before_ms - config.pre_roll_ms)
                    channel.open = _Open([probability], 1, now_ms, probability - config.threshold)
                continue
            segment.probabilities.append(probability)
            if probability >= config.threshold or (
                segment.speech_end_ms == before_ms and probability >= config.release
            ):
                segment.speech_end_ms = now_ms
                segment.speech += 1
                segment.evidence += max(probability - config.threshold, 0)
            elif now_ms - segment.speech_end_ms >= config.hangover_ms:
                outputs += self._close(call, info, channel, "pause", now_ms)
                continue
            if now_ms + WINDOW_MS - channel.audio_ms > self._maximum_ms(info):
                if segment.speech_end_ms < now_ms:
                    outputs += self._close_early(call, info, channel, segment)
                else:
                    outputs += self._split(call, info, channel, segment)
        if channel.open is None:
            channel.trim(channel.position_ms - config.pre_roll_ms)
        return outputs

    def _maximum_ms(self, info: CallInfo) -> int:
        config = self._config
        return min(config.mixed_maximum_ms, config.maximum_ms) if info.roles == ("unknown",) else config.maximum_ms

    def _split(self, call: _Call, info: CallInfo, channel: _Channel, segment: _Open) -> list[Output]:
        """Cut a segment in its weakest recent window (the last of several) and go on with the rest."""
        config = self._config
        end_ms = self._weakest(channel, segment, min(SEARCH_MS, self._maximum_ms(info) // 3) // WINDOW_MS)
        spoken = self._is_speech(channel, segment)
        outputs = [self._emit(info, channel, "max_length", end_ms)] if spoken else []
        if not spoken:
            call.not_speech_ms += end_ms - channel.audio_ms
            channel.trim(end_ms)
        segment.probabilities = segment.probabilities[(end_ms - channel.position_ms) // WINDOW_MS :]
        segment.speech = sum(value >= config.release for value in segment.probabilities)
        segment.evidence = sum(max(value - config.threshold, 0) for value in segment.probabilities)
        segment.continued = spoken
        return outputs

    def _close_early(self, call: _Call, info: CallInfo, channel: _Channel, segment: _Open) -> list[Output]:
        """End a segment that would have gone on, in its pause if it is in one. The model notices late: the pause began
        before its first window without speech, and the next word may have begun in the last. So the weakest of the
        windows that can be the pre-roll of what follows is taken: nothing between the two is lost."""
        end_ms, paused = channel.position_ms, (channel.position_ms - segment.speech_end_ms) // WINDOW_MS
        if paused:
            again = max(self._config.pre_roll_ms // WINDOW_MS, 1)
            end_ms = self._weakest(channel, segment, min(paused + 2, again, len(segment.probabilities) - 1))
        return self._close(call, info, channel, "max_length", end_ms)

    def _weakest(self, channel: _Channel, segment: _Open, n: int) -> int:
        """Media time of the middle of the weakest of the last `n` windows, the last of several."""
        size, values = WINDOW_MS * channel.bytes_per_ms, segment.probabilities[-n:]
        end = (channel.position_ms - channel.audio_ms) * channel.bytes_per_ms
        samples = audio.decode(bytes(channel.audio[end - n * size : end]), channel.codec)
        # Whole numbers: their sums are the same in whatever order they are added.
        powers = np.square(np.rint(samples * 32_768).astype(np.int64)).reshape(n, -1).mean(axis=1).tolist()
        floor = 10 ** (_SILENCE_DB / 10)
        # The model needs a window to notice a pause.
        late = [*values[1:], values[-1]]
        strength = [
            value + 10 * math.log10(power / 2**30 + floor) / _DB_OF_PROBABILITY
            for value, power in zip(late, powers, strict=True)
        ]
        around = len(_SMOOTHING) // 2
        padded = [strength[0]] * around + strength + [strength[-1]] * around
        smooth = [sum(weight * padded[i + k] for k, weight in enumerate(_SMOOTHING)) for i in range(n)]
        weakest = min(range(n), key=lambda i: (smooth[i], -i))
        return channel.position_ms - WINDOW_MS * (n - weakest) + WINDOW_MS // 2

    def _is_speech(self, channel: _Channel, segment: _Open) -> bool:
        enough = segment.speech * WINDOW_MS >= self._config.minimum_speech_ms
        return segment.continued or (enough and segment.evidence >= EVIDENCE[channel.rate])

    def _close(self, call: _Call, info: CallInfo, channel: _Channel, cut: Cut, heard_ms: int) -> list[Output]:
        """End the open segment, if there is one, at `heard_ms` at the latest."""
        segment, channel.open = channel.open, None
        if segment is None:
            return []
        if not self._is_speech(channel, segment):
            call.not_speech_ms += segment.speech_end_ms - channel.audio_ms
            return []
        return [self._emit(info, channel, cut, min(segment.speech_end_ms + self._tail_ms, heard_ms))]

    def _emit(self, info: CallInfo, channel: _Channel, cut: Cut, end_ms: int) -> Output:
        """The audio up to `end_ms` as a segment; it is forgotten here."""
        value = channel.until(end_ms)
        segment = Segment(
            call=info,
            channel=channel.number,
            start_ms=channel.audio_ms,
            end_ms=end_ms,
            cut=cut,
            codec=channel.codec,
            rate=channel.rate,
            captured_at=_EPOCH + timedelta(milliseconds=channel.captured_ms + end_ms),
        )
        channel.trim(end_ms)
        return Output.of(segment, value)

    def _conclude(self, call: _Call, outputs: list[Output]) -> Step:
        """After every record: the cut that is overdue, the watermark, and the snapshot if this is a cut."""
        info, heard_ms, channels = call.info, call.heard_ms, call.channels.values()
        assert info is not None
        opened = [(channel, channel.open) for channel in channels if channel.open is not None]
        since_ms = heard_ms - call.cut_ms
        if opened and (
            since_ms >= CUT_MS
            or (
                since_ms >= PAUSE_FROM_MS
                and all(segment.speech_end_ms < channel.position_ms for channel, segment in opened)
            )
        ):
            for channel, segment in opened:
                outputs += self._close_early(call, info, channel, segment)
                channel.trim(channel.position_ms - self._config.pre_roll_ms)
            opened = []
        mark_ms = min((channel.audio_ms for channel in channels), default=0)
        if mark_ms >= call.mark_ms + MARK_MS:
            call.mark_ms = mark_ms
            outputs.append(Output.of(Progress(call=info, at_ms=mark_ms), b""))
        if opened:
            return Step(outputs, None)
        call.cut_ms = heard_ms
        if not outputs and heard_ms - call.snapshot_ms < MARK_MS:
            return Step(outputs, None)
        call.snapshot_ms = heard_ms
        return Step(outputs, self._snapshot(call, info))

    def _end(
        self,
        call: _Call,
        ended_at: datetime | None,
        reason: Literal["hangup", "idle", "interrupted"],
        marks: tuple[Mark, ...] = (),
    ) -> Step:
        """Everything that is open, and the end. Without `ended_at` the call ended with its latest packet."""
        info = call.info
        if info is None:
            return Step()
        outputs: list[Output] = []
        for channel in sorted(call.channels.values(), key=lambda channel: (channel.audio_ms, channel.number)):
            outputs += self._close(call, info, channel, "end", channel.heard_ms)
        if ended_at is None:
            known = call.captured_ms is not None
            ended_at = _EPOCH + timedelta(milliseconds=call.captured_ms or 0) if known else info.started_at
        ended = CallEnded(
            call=info,
            duration_ms=call.heard_ms,
            ended_at=ended_at,
            reason=reason,
            missing_ms=call.missing_ms,
            dropped_packets=call.dropped,
            not_speech_ms=call.not_speech_ms,
            marks=marks,
        )
        return Step([*outputs, Output.of(ended, b"")])

    def _snapshot(self, call: _Call, info: CallInfo) -> bytes:
        """A byte of version, four of the header's length, the header as JSON, then each channel's arrays and audio."""
        channels, arrays = [], []
        for channel in call.channels.values():
            numbers = (
                channel.sequence,
                channel.captured_ms,
                channel.next_sample,
                channel.position_ms,
                channel.audio_ms,
            )
            sizes = (len(channel.audio), len(channel.partial))
            channels.append((channel.number, channel.codec, channel.rate, *numbers, *sizes))
            arrays += [channel.state.astype("<f4").tobytes(), channel.context.astype("<f4").tobytes()]
            arrays += [bytes(channel.audio), channel.partial]
        header = {
            "call": info.model_dump(mode="json"),
            "made_up": call.made_up,
            "heard_ms": call.heard_ms,
            "mark_ms": call.mark_ms,
            "captured_ms": call.captured_ms,
            "missing_ms": call.missing_ms,
            "dropped": call.dropped,
            "not_speech_ms": call.not_speech_ms,
            "channels": channels,
        }
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        return b"".join([bytes([_VERSION]), len(text).to_bytes(4, "big"), text, *arrays])


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage with the packaged Silero model. Raises CalltideError when its weights are not installed."""
    from processors.models.silero import SileroVad  # settings read Config without loading ONNX Runtime

    return VoiceActivity(config, SileroVad())
