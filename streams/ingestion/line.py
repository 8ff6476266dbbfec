"""One call on its way into `audio.frames`: what its connections' decoders say → the records, in order.

A `Line` is a call, a `Leg` one connection's part in it: a call may have a connection for each channel, and one that
broke off may be followed by another. A changer must know: neither has a clock or a socket. Time is handed in, wall
clock in Unix milliseconds, and records are handed to `emit` at once, so the same events at the same times give the same
records bit for bit, however they were cut into pieces.

Where audio lies in the call:
* A packet's sample index is counted from the call's start. What the phone system counted and did not send is a hole
  in it, which VAD takes as silence (docs/ingest.md). What comes twice or too late is dropped and counted.
* Without a count of the phone system's own, audio follows on what came before it. On a live line it may not fall
  SILENT_MS behind the clock: then nobody sent anything for so long, and that is a hole.
* The count of a connection that continues a call begins where the call stands by the clock then.
* Where two connections send the same channel, the one that joined last is heard.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np
import soxr

from processors.audio import decode, silence
from processors.audio import encode as encode_audio
from processors.base import Record
from schemas.audio import BYTES_PER_SAMPLE, RATES, AudioPacket, Codec
from schemas.events import CallEnded, CallEvent, CallInfo, CallStarted, encode
from schemas.events import Mark as CallMark
from streams.ingestion import metrics
from streams.protocols.base import Audio, Began, Dtmf, Ended, Event, Fault, Mark, Paused, Resumed

Emit = Callable[[Record], None]
Reason = Literal["hangup", "idle", "interrupted"]

JITTER_MS: Final = 10
"""By so much a phone system's own count may differ from the samples that came. Judgement: counts are rounded to a
millisecond, and the shortest packet that can be lost has 10 ms."""
SILENT_MS: Final = 500
"""Judgement: longer than a network's jitter, shorter than a pause that matters."""
KEEP_MS: Final = 10_000
"""A call of which no audio comes says so often that it is still there: a third of VAD's idle timeout."""
FLUSH_MS: Final = 1_000
"""What does not fill a packet waits no longer than so for the rest. Judgement."""
BRIDGE_MS: Final = 1_800_000
"""A longer hole has a little silence in it so often: VAD takes a jump of more than an hour for a broken packet."""
LONGEST_MS: Final = 4 * 3_600_000
"""Longest call, where settings do not say otherwise."""
LONGEST_NAME: Final = 256
MOST_METADATA: Final = 8_192
"""Characters of a call's description in all. Judgement: it travels with every event of the call."""
MOST_MARKS: Final = 256
"""Keys, marks and pauses that a call's end tells of. Judgement: a few menus and card numbers; it is one record."""
PAUSED: Final = "paused"
RESUMED: Final = "resumed"
"""Marks of a pause of the audio that is meant. A call of several connections is in one while any of them is."""
LOWEST_RATE: Final = 4_000
HIGHEST_RATE: Final = 192_000
"""Samples a second that can be resampled to 16,000. Judgement: no telephone has less, AudioSocket has no more."""


class _Channel:
    """One channel. A *run* is audio without a hole, of one connection: it begins at `start`, in samples that go out."""

    def __init__(self, number: int, packet_ms: int) -> None:
        self.number = number
        self.leg: Leg | None = None
        """Who sends it."""
        self.sequence = 0
        self.sample = 0
        """Index of the first sample in `held`."""
        self.held = bytearray()
        """Samples that go out with the next packet."""
        self.start = 0
        self.heard = 0
        """Samples of the run that came in, at `rate_in`."""
        self.heard_at_ms = 0
        self.hole_ms = 0
        """Of a pause that is over: to be left before the next audio that does not say where it belongs."""
        self.packet_ms = packet_ms
        self.codec_in: Codec = "pcm_s16le"
        self.codec: Codec = "pcm_s16le"
        self.rate_in = self.rate = RATES[0]
        self.resampler: soxr.ResampleStream | None = None
        self._shape()

    @property
    def end(self) -> int:
        """Index of the sample that comes next, at `rate`."""
        if self.rate_in == self.rate:
            return self.start + self.heard
        return self.start + self.heard * self.rate // self.rate_in

    @property
    def end_ms(self) -> int:
        return self.end * 1_000 // self.rate

    def begin(self, leg: "Leg") -> None:
        """From here on `leg` sends the channel. Nothing may be held."""
        end, rate = self.end, self.rate
        self.leg = leg
        self.codec_in, self.rate_in = leg.codec, leg.rate
        resampled = leg.rate not in RATES
        self.codec, self.rate = ("pcm_s16le", RATES[-1]) if resampled else (leg.codec, leg.rate)
        self._shape()
        self.move(-(-end * self.rate // rate))

    def move(self, sample: int) -> None:
        """Begin a run at `sample`. Nothing may be held."""
        self.start = self.sample = sample
        self.heard = 0
        resampled = self.rate_in != self.rate
        self.resampler = soxr.ResampleStream(self.rate_in, self.rate, 1, dtype="float32") if resampled else None

    def converted(self, samples: bytes, last: bool = False) -> bytes:
        """What goes out for what came in and is resampled: what `samples` and those before them complete."""
        assert self.resampler is not None
        heard = decode(samples, self.codec_in) if samples else np.empty(0, np.float32)
        return encode_audio(self.resampler.resample_chunk(heard, last=last), self.codec)

    def _shape(self) -> None:
        self.width_in = BYTES_PER_SAMPLE[self.codec_in]
        self.width = BYTES_PER_SAMPLE[self.codec]
        self.size = self.rate * self.packet_ms // 1_000 * self.width
        self.jitter = self.rate * JITTER_MS // 1_000


class Leg:
    """One connection's part in a call; made by `Line.join`."""

    def __init__(self, line: "Line", began: Began, number: int, base_ms: int) -> None:
        self.line = line
        self.number = number
        """How many connections the call had before."""
        self.codec = began.codec
        self.rate = began.rate
        self.base_ms = base_ms
        """Where in the call the connection's own count begins."""
        self.said_end: Reason | None = None
        self.counts = False
        """Whether the phone system says where its audio belongs."""

    def take(self, events: Sequence[Event], now_ms: int) -> None:
        """What the decoder returned of a message that arrived at `now_ms`.

        Raises Fault for what cannot be: a second start, a channel that the call has not, audio that ends inside a
        sample or lies beyond the longest call, anything after the call's end. What came before it has been taken.
        """
        line = self.line
        if line.live and not self.counts:
            line._wake(self, events, now_ms)
        for event in events:
            if line.ended or self not in line.legs:
                raise Fault("the call is over", "ended", 1000)
            if isinstance(event, Audio):
                line._hear(self, event, now_ms)
            elif isinstance(event, Ended):
                self.said_end = "hangup" if event.reason == "hangup" else "interrupted"
                self.leave(now_ms)
            elif isinstance(event, Began):
                raise Fault("a second start on one connection", "twice")
            else:
                line._note(self, event, now_ms)

    def leave(self, now_ms: int) -> None:
        """The connection is no more. The call ends if one of its connections said so and none is left."""
        self.line._leave(self, now_ms)


class Line:
    """A call. It is announced by being made, and over when `ended`.

    `emit` takes each record in turn. `source`: the protocol's name. `live`: whether audio comes in real time, so that
    where nothing comes nothing was said; else it follows on what was there, whenever it comes. `tenant` is what a key
    proved, and goes before what the other side says. `started_ms`, `from_ms`: of a call that had ended and goes on, its
    start and how much of it there was.

    Raises Fault for a name or description that cannot be a call's.
    """

    def __init__(
        self,
        began: Began,
        now_ms: int,
        emit: Emit,
        *,
        source: str,
        tenant: str = "",
        live: bool = True,
        packet_ms: int = 100,
        longest_ms: int = LONGEST_MS,
        started_ms: int | None = None,
        from_ms: int = 0,
    ) -> None:
        self.live = live
        self.legs: set[Leg] = set()
        self.ended: Reason | None = None
        self.alone_since_ms: int | None = now_ms
        """Since when there is no connection; None: there is one."""
        self.gap_ms = 0
        """Audio that never came, all channels."""
        self.late_ms = 0
        """Audio that came twice or too late, all channels."""
        self._emit = emit
        self._source = source
        self._longest_ms = longest_ms
        self._packet_ms = packet_ms
        self._started_ms = now_ms if started_ms is None else started_ms
        self._from_ms = from_ms
        self._emitted_ms = now_ms
        self._joined = 0
        self._paused: dict[Leg, int] = {}
        self._pause_marked = False
        """A mark `paused` waits for its `resumed`."""
        self._marks: list[CallMark] = []
        self._audio, self._gaps, self._late = (
            counter.labels(source) for counter in (metrics.AUDIO, metrics.GAPS, metrics.LATE)
        )
        self.info = _described(began, self._started_ms, source, tenant)
        self._channels = [_Channel(number, packet_ms) for number in range(len(began.roles))]
        self._say(CallStarted(call=self.info), now_ms)

    @property
    def position_ms(self) -> int:
        """How much of the call there is, by the channel that is farthest."""
        return max(self._from_ms, *(channel.end_ms for channel in self._channels))

    def join(self, began: Began, now_ms: int) -> Leg:
        """A connection of this call. Raises Fault when it has channels that the call has not, or the call is over."""
        if self.ended:
            raise Fault("the call is over", "ended", 1000)
        if len(began.roles) > len(self._channels):
            raise Fault(f"{len(began.roles)} channels in a call of {len(self._channels)}", "channels")
        _check_rate(began)
        base_ms = max(now_ms - self._started_ms, self.position_ms, 0)
        leg = Leg(self, began, self._joined, base_ms)
        self._joined += 1
        self.legs.add(leg)
        self.alone_since_ms = None
        self._mark_resumed(now_ms)
        return leg

    def tick(self, now_ms: int) -> None:
        """To be called every second or so: what does not fill a packet is sent, and a silent call kept alive."""
        if self.ended:
            return
        for channel in self._channels:
            if channel.held and now_ms - channel.heard_at_ms >= FLUSH_MS:
                self._flush(channel, now_ms)
        if max(now_ms - self._started_ms, self.position_ms) > self._longest_ms:
            self.end("interrupted", now_ms)
        elif now_ms - self._emitted_ms >= KEEP_MS:
            # A second start marker says nothing new, and that the call is there.
            self._say(CallStarted(call=self.info), now_ms)

    def end(self, reason: Reason, now_ms: int) -> None:
        """The call is over, whoever is still connected. A second time does nothing."""
        if self.ended:
            return
        for channel in self._channels:
            self._flush(channel, now_ms)
        ended_at = datetime.fromtimestamp(now_ms / 1_000, UTC)
        self._say(
            CallEnded(
                call=self.info,
                duration_ms=self.position_ms,
                ended_at=ended_at,
                reason=reason,
                marks=tuple(self._marks),
            ),
            now_ms,
        )
        self.ended = reason
        self.legs.clear()
        metrics.ENDED.labels(self._source, reason).inc()

    def _leave(self, leg: Leg, now_ms: int) -> None:
        if leg not in self.legs:
            return
        self.legs.discard(leg)
        self._paused.pop(leg, None)
        for channel in self._channels:
            if channel.leg is leg:
                self._flush(channel, now_ms)
        if self.legs:
            self._mark_resumed(now_ms)
            return
        self.alone_since_ms = now_ms
        if leg.said_end:
            self.end(leg.said_end, now_ms)

    def _hear(self, leg: Leg, event: Audio, now_ms: int) -> None:
        channel = self._channel(leg, event.channel)
        if channel.leg is not leg and not self._take_over(channel, leg, now_ms):
            # A newer connection sends this channel.
            self._count_late(len(event.samples) * 1_000 // (leg.rate * BYTES_PER_SAMPLE[leg.codec]))
            return
        samples = event.samples
        n, odd = divmod(len(samples), channel.width_in)
        if odd:
            raise Fault(f"audio of {len(samples)} bytes ends inside a sample", "length")
        end = channel.end
        if event.at_ms is not None:
            leg.counts = True
            channel.hole_ms = 0
            target = (leg.base_ms + event.at_ms) * channel.rate // 1_000
            if target > end + channel.jitter:
                self._hole(channel, target, now_ms)
            elif target < end - channel.jitter:
                known = min((end - target) * channel.rate_in // channel.rate, n)
                self._count_late(known * 1_000 // channel.rate_in)
                samples, n = samples[known * channel.width_in :], n - known
        elif channel.hole_ms or end * 1_000 < leg.base_ms * channel.rate:
            at_ms = max(end * 1_000 // channel.rate + channel.hole_ms, leg.base_ms)
            channel.hole_ms = 0
            self._hole(channel, at_ms * channel.rate // 1_000, now_ms)
        channel.heard += n
        channel.heard_at_ms = now_ms
        held = channel.held
        held += samples if channel.rate_in == channel.rate else channel.converted(samples)
        while len(held) >= channel.size:
            self._packet(channel, channel.size, now_ms)

    def _channel(self, leg: Leg, number: int) -> _Channel:
        if not 0 <= number < len(self._channels):
            raise Fault(f"audio of channel {number} in a call of {len(self._channels)}", "channels")
        return self._channels[number]

    def _take_over(self, channel: _Channel, leg: Leg, now_ms: int) -> bool:
        """Whether `leg` sends the channel from here on: it joined later than the one that did, or that one has left."""
        sender = channel.leg
        if sender is not None and sender in self.legs and sender.number > leg.number:
            return False
        self._flush(channel, now_ms)
        channel.begin(leg)
        return True

    def _wake(self, leg: Leg, events: Sequence[Event], now_ms: int) -> None:
        """Leave a hole where audio without a count has fallen behind the clock. What arrives together belongs together,
        so a delay of the network's or of this process's makes none."""
        coming: dict[int, int] = {}
        for event in events:
            if isinstance(event, Audio) and event.at_ms is None:
                coming[event.channel] = coming.get(event.channel, 0) + len(event.samples)
        for number, size in coming.items():
            channel = self._channel(leg, number)
            if channel.leg is not leg or channel.hole_ms:
                continue  # it begins where its connection does, or behind a pause
            length_ms = size * 1_000 // (channel.rate_in * channel.width_in)
            behind_ms = now_ms - self._started_ms - channel.end_ms - length_ms
            if behind_ms > SILENT_MS:
                self._hole(channel, (channel.end_ms + behind_ms) * channel.rate // 1_000, now_ms)

    def _note(self, leg: Leg, event: Dtmf | Mark | Paused | Resumed, now_ms: int) -> None:
        """What comes beside audio is counted, and when keys were pressed, marks came and audio paused is told at the
        end. Which keys is not kept: people press the numbers of their cards."""
        metrics.EVENTS.labels(self._source, type(event).__name__.lower()).inc()
        if isinstance(event, Dtmf | Mark):
            self._mark(event.name if isinstance(event, Mark) else "", now_ms)
        elif isinstance(event, Paused):
            if not self._pause_marked:
                self._pause_marked = self._mark(PAUSED, now_ms)
            self._paused.setdefault(leg, now_ms)
            for channel in self._channels:
                if channel.leg is leg:
                    self._flush(channel, now_ms)
        elif (since_ms := self._paused.pop(leg, None)) is not None:
            missing_ms = now_ms - since_ms if event.missing_ms is None else event.missing_ms
            for channel in self._channels:
                if channel.leg is leg:
                    channel.hole_ms += max(missing_ms, 0)
            self._mark_resumed(now_ms)

    def _mark(self, name: str, now_ms: int) -> bool:
        """Keep this moment for the call's end; False: there are too many."""
        if len(self._marks) >= MOST_MARKS:
            return False
        self._marks.append(CallMark(at_ms=self._now_in_call(now_ms), name=_clean(name)))
        return True

    def _mark_resumed(self, now_ms: int) -> None:
        """The end of a pause, when no connection is in one. It has its place, however many marks there are."""
        if self._pause_marked and not self._paused:
            self._marks.append(CallMark(at_ms=self._now_in_call(now_ms), name=RESUMED))
            self._pause_marked = False

    def _now_in_call(self, now_ms: int) -> int:
        """Where in the call the present moment is, behind a pause that is over."""
        by_clock_ms = now_ms - self._started_ms if self.live else 0
        return max(self.position_ms, by_clock_ms, *(channel.end_ms + channel.hole_ms for channel in self._channels))

    def _hole(self, channel: _Channel, to_sample: int, now_ms: int) -> None:
        """Go on at `to_sample`, at the channel's rate; what lies before it never came."""
        end = channel.end
        if to_sample <= end:
            return
        rate = channel.rate
        if to_sample * 1_000 > self._longest_ms * rate:
            raise Fault(
                f"audio {to_sample // rate} s into the call; the longest has {self._longest_ms // 1_000}", "jump"
            )
        missing_ms = (to_sample - end) * 1_000 // rate
        if channel.sequence or channel.held:
            self.gap_ms += missing_ms
            self._gaps.inc(missing_ms / 1_000)
        self._flush(channel, now_ms)
        while to_sample - channel.end > BRIDGE_MS * rate // 1_000:
            channel.move(channel.end + BRIDGE_MS * rate // 1_000)
            quiet = silence(rate * JITTER_MS // 1_000, channel.codec)
            channel.held += quiet
            self._packet(channel, len(quiet), now_ms)
            channel.move(channel.sample)
        channel.move(to_sample)

    def _flush(self, channel: _Channel, now_ms: int) -> None:
        """Send all of the run, and begin another one behind it."""
        if channel.leg is None:
            return
        end = channel.end
        if channel.resampler is not None and channel.heard:
            rest = channel.converted(b"", last=True)
            # Rounded, what a run is resampled to may have a sample more or less than its share.
            room = max(end - channel.sample - len(channel.held) // channel.width, 0)
            channel.held += rest[: room * channel.width]
            while len(channel.held) >= channel.size:
                self._packet(channel, channel.size, now_ms)
        if channel.held:
            self._packet(channel, len(channel.held), now_ms)
        channel.move(end)

    def _packet(self, channel: _Channel, size: int, now_ms: int) -> None:
        value = bytes(channel.held[:size])
        del channel.held[:size]
        packet = AudioPacket(channel.number, channel.codec, channel.rate, channel.sample, channel.sequence, value)
        channel.sample += size // channel.width
        channel.sequence += 1
        self._emitted_ms = now_ms
        self._audio.inc(packet.samples / channel.rate)
        self._emit(Record(self.info.call_id, "audio", dict(packet.headers()), value, now_ms))

    def _say(self, event: CallEvent, now_ms: int) -> None:
        self._emitted_ms = now_ms
        headers, value = encode(event)
        self._emit(Record(self.info.call_id, event.kind, dict(headers), value, now_ms))

    def _count_late(self, late_ms: int) -> None:
        self.late_ms += late_ms
        self._late.inc(late_ms / 1_000)


def _described(began: Began, started_ms: int, source: str, tenant: str) -> CallInfo:
    """What is known of the call. Raises Fault for a name that is none, or too much of a description."""
    name = began.call_id
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise Fault(f"a call's name has 1 to {LONGEST_NAME} printable characters", "call_id")
    if not began.roles:
        raise Fault("a call without a channel", "channels")
    _check_rate(began)
    described = {_clean(key): _clean(value) for key, value in began.metadata.items()}
    fields = {field: _clean(getattr(began, field)) for field in ("tenant", "queue", "agent")}
    if sum(map(len, (*described, *described.values(), *fields.values()))) > MOST_METADATA:
        raise Fault(f"more than {MOST_METADATA} characters of metadata", "metadata")
    return CallInfo(
        call_id=name,
        started_at=datetime.fromtimestamp(started_ms / 1_000, UTC),
        roles=began.roles,
        tenant=tenant or fields["tenant"] or "default",
        queue=fields["queue"],
        agent=fields["agent"],
        source=source,
        metadata=described,
        interim=began.interim,
    )


def _check_rate(began: Began) -> None:
    if not LOWEST_RATE <= began.rate <= HIGHEST_RATE:
        raise Fault(f"{began.rate} samples a second", "rate")


def _clean(text: str) -> str:
    """What UTF-8 can hold: halves of surrogate pairs, which JSON may have, become question marks."""
    return text.encode("utf-8", "replace").decode()
