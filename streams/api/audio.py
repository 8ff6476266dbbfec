"""What was spoken in a call, as one WAV: read from Kafka, or else from the archive, and answered by ranges.

A changer must know: packets of Kafka do not say whose they are, only the mark of the call's start does, so nothing is
taken that does not lie behind a mark of this very call and tenant. The samples are kept as they came, in files without
a name that end with the process; what is personal is silenced in each answer, by what is known then, and of a call that
goes on nothing is answered that has not been heard yet.
"""

import hashlib
import logging
import os
import struct
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Final

import numpy as np
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray

from processors.audio import decode
from processors.redaction import hidden
from schemas.audio import AudioPacket
from schemas.errors import CalltideError
from schemas.events import CallStarted, Word
from schemas.events import decode as decode_event
from schemas.topics import CHAIN, LANES, frames
from streams import history, kafka
from streams.api import queries
from streams.api.problems import Fault
from streams.api.queries import Found, Store
from streams.archive import Archive
from streams.replay.plan import SLACK_MS
from streams.settings import Settings

log = logging.getLogger(__name__)

HEADER: Final = 44
PIECE: Final = 1 << 18
"""Bytes that are read and sent at one time."""
LONGEST_S: Final = 24 * 3_600
"""As the archive's: a packet further on is damaged, and would fill the disk with silence."""
SAME_MS: Final = 1_000
"""Judgement: marks of one call's start are no further apart."""
WIDTH: Final = 2
AFTER_VAD: Final = tuple(row.name for row in CHAIN[1:])


@dataclass(slots=True)
class Sound:
    """The samples of a call as far as they were read: int16, the channels of each moment side by side."""

    file: IO[bytes]
    channels: int
    rate: int = 0
    """0: nothing has come."""
    frames: int = 0
    whole: bool = False
    """Whether nothing more comes."""
    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    """Topic and partition → the offset behind what was read."""
    begun: bool = False
    """Whether a mark of its start was seen."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __del__(self) -> None:
        # Not when it is no longer kept: somebody may be reading it.
        self.file.close()

    @property
    def bytes(self) -> int:
        """On the disk."""
        return self.frames * self.channels * WIDTH

    def write(self, channel: int, rate: int, first: int, samples: NDArray[np.int16]) -> None:
        """Samples of a channel from `first` on. Nothing of what is beyond LONGEST_S or no channel of the call."""
        self.rate = self.rate or rate
        if rate != self.rate:  # 8 and 16 kHz in one call: a channel of another source
            samples, first = (samples[::2], first // 2) if rate > self.rate else (np.repeat(samples, 2), first * 2)
        if channel >= self.channels or first + len(samples) > LONGEST_S * self.rate:
            log.warning("audio beyond the call", extra={"channel": channel, "sample": first})
            return
        step = self.channels * WIDTH
        held = os.pread(self.file.fileno(), len(samples) * step, first * step)
        mixed = np.zeros((len(samples), self.channels), "<i2")
        mixed.reshape(-1)[: len(held) // WIDTH] = np.frombuffer(held, "<i2")
        mixed[:, channel] = samples
        os.pwrite(self.file.fileno(), mixed.tobytes(), first * step)
        self.frames = max(self.frames, first + len(samples))


Silent = dict[int, list[tuple[int, int]]]
"""Channel → (start, end) of what is silenced, in milliseconds of the call."""


class Sounds:
    """The sounds of calls that were asked for, the latest of them kept."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._most = settings.api.audio_cache_mb * 2**20
        self._lock = threading.Lock()
        self._sounds: OrderedDict[tuple[str, ...], Sound] = OrderedDict()

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            self._sounds.clear()

    def answer(self, request: Request, store: Store, call: Found, channel: int | None) -> Response:
        """The WAV, or the part of it that the request asks for.

        Raises Fault 404 for a channel that there is none of, 409 when it is not known what in it is personal, 410 when
        its audio is nowhere any more, 416 for a range beyond it.
        """
        return _ranged(request, self.wav(store, call, channel), call.ended)

    def wav(self, store: Store, call: Found, channel: int | None = None) -> "Wav":
        """The WAV. Raises what `answer` does, but for ranges."""
        channels = int(call.row["channels"]) or 1
        if channel is not None and channel >= channels:
            raise Fault(404, f"the call has no channel {channel}; it has {channels}", "no_such_channel")
        if any(self._settings.asr.redact.kinds.values()) and queries.letters(store, call, AFTER_VAD):
            raise Fault(
                409,
                "some of it is among the dead letters, and may be personal; have them redriven or dropped",
                "unheard",
            )
        # Before the samples: what is heard by then has its places to silence.
        heard_ms = None if call.ended else queries.heard_ms(store, call)
        silent = _silent(store, call)
        file, rate, samples = self._read(store, call, channels)
        if heard_ms is not None:
            samples = min(samples, heard_ms * rate // 1_000)
        return Wav(file, rate, samples, channels, channel, silent)

    def _read(self, store: Store, call: Found, channels: int) -> tuple[IO[bytes], int, int]:
        """A file of one's own of the samples, their rate and how many there are of each channel."""
        with self._lock:
            sound = self._sounds.get(key := (call.row["tenant"], call.row["call_id"], call.row["started_at"]))
            if sound is None:
                folder = self._settings.directory / "run"
                folder.mkdir(parents=True, exist_ok=True)
                sound = self._sounds[key] = Sound(tempfile.TemporaryFile(dir=folder), channels)  # noqa: SIM115
            self._sounds.move_to_end(key)
        try:
            with sound.lock:
                if not sound.whole:
                    self._fetch(store, call, sound)
                if not sound.rate:
                    raise Fault(410, "its audio is neither in Kafka nor in the archive any more", "audio_gone")
                found = os.fdopen(os.dup(sound.file.fileno()), "rb"), sound.rate, sound.frames
        except BaseException:
            with self._lock:
                if self._sounds.get(key) is sound and not sound.frames:
                    del self._sounds[key]
            raise
        self._forget()
        return found

    def _forget(self) -> None:
        with self._lock:
            while len(self._sounds) > 1 and sum(sound.bytes for sound in self._sounds.values()) > self._most:
                self._sounds.popitem(last=False)

    def _fetch(self, store: Store, call: Found, sound: Sound) -> None:
        try:
            kafka.check(self._settings)
            for lane in LANES:
                self._from_kafka(store, call, sound, frames(lane))
        except (CalltideError, KafkaException):
            if sound.begun or not self._from_archive(call, sound):
                raise
        if not sound.begun:
            self._from_archive(call, sound)
        sound.whole = sound.whole or call.ended

    def _from_kafka(self, store: Store, call: Found, sound: Sound, topic: str) -> None:
        """What has come since the last time, of the partition in which the call lies."""
        number = int(call.row["partition"])
        place = (topic, number)
        admin = AdminClient(kafka.client(self._settings))
        if number not in history.partitions(admin, topic):
            return
        low, high = kafka.ranges(admin, topic, [number], history.ANSWER_S)[number]
        started_ms = _unix_ms(call.row["started_at"])
        if place not in sound.positions:
            first = history.offsets_at(admin, topic, [number], started_ms - SLACK_MS)[number]
            sound.positions[place] = high if first is None else max(first, low)
        if call.ended:
            # Recordings have times of long ago and lie behind newer calls, but before what came when they were scored.
            last_ms = max(
                _unix_ms(call.row["ended_at"]), started_ms + call.row["duration_ms"], queries.scored_ms(store, call)
            )
            behind = history.offsets_at(admin, topic, [number], last_ms + SLACK_MS)[number]
            high = high if behind is None else min(behind, high)
        ended = threading.Event()
        for message in history.read(
            self._settings,
            topic,
            {number: (sound.positions[place], high)},
            enough=lambda _number: ended.is_set(),
        ):
            sound.positions[place] = (message.offset() or 0) + 1
            if message.key() != call.row["call_id"].encode():
                continue
            headers = {name: value for name, value in kafka.headers_of(message) if value is not None}
            kind = headers.get("kind")
            if kind == b"call_started":
                sound.begun = self._is_of(call, headers, message.value() or b"", started_ms)
            elif kind == b"audio" and sound.begun:
                packet = AudioPacket.decode(headers, message.value() or b"")
                sound.write(packet.channel, packet.rate, packet.sample, _int16(decode(packet.value, packet.codec)))
            elif kind == b"call_ended" and sound.begun and call.ended:
                ended.set()

    @staticmethod
    def _is_of(call: Found, headers: dict[str, bytes], value: bytes, started_ms: int) -> bool:
        try:
            event = decode_event(headers, value)
        except (KeyError, ValueError):
            return False
        return (
            isinstance(event, CallStarted)
            and event.call.tenant == call.row["tenant"]
            and abs(event.call.started_at.timestamp() * 1_000 - started_ms) <= SAME_MS
        )

    def _from_archive(self, call: Found, sound: Sound) -> bool:
        """Whether it is there."""
        archive = Archive(self._settings)
        kept = archive.find(call.row["call_id"])
        started_ms = _unix_ms(call.row["started_at"])
        if (
            kept is None
            or kept.call.tenant != call.row["tenant"]
            or abs(kept.call.started_at.timestamp() * 1_000 - started_ms) > SAME_MS
        ):
            return False
        for channel, flac in archive.audio(kept):
            first = 0
            for block in flac.blocks(PIECE, dtype="int16"):
                sound.write(channel, flac.samplerate, first, block)
                first += len(block)
        sound.begun = sound.whole = True
        return True


def _int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    return (samples * 32_768).astype(np.int16)


def _unix_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


def _silent(store: Store, call: Found) -> Silent:
    """Where anything was taken out of the words."""
    found: Silent = {}
    for row in queries.redacted(store, call):
        timed = zip(row["words.text"], row["words.start_ms"], row["words.end_ms"], strict=True)
        words = [Word(text=text, start_ms=start, end_ms=end, confidence=0) for text, start, end in timed]
        found.setdefault(row["channel"], []).extend(hidden(words, row["start_ms"], row["end_ms"]))
    return found


class Wav:
    """A WAV file of which any part can be read."""

    def __init__(
        self, file: IO[bytes], rate: int, samples: int, channels: int, channel: int | None, silent: Silent
    ) -> None:
        self._file = file
        self._held = channels
        self._channel = channel
        self.rate = rate
        self.channels = channels if channel is None else 1
        self._silent = [
            (number, start * rate // 1_000, -(-end * rate // 1_000))
            for number, places in silent.items()
            if number < channels
            for start, end in places
        ]
        step = self.channels * WIDTH
        data = samples * step
        self.size = HEADER + data
        # Longer than 4 GiB, which no WAV can say, is said to be that.
        riff, data = min(data + HEADER - 8, 2**32 - 1), min(data, 2**32 - 1)
        self._header = struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, self.channels, rate, rate * step, step, 8 * WIDTH, b"data", data,
        )  # fmt: skip
        known = repr((samples, rate, channels, channel, sorted(self._silent)))
        self.etag = f'"{hashlib.sha256(known.encode()).hexdigest()[:32]}"'

    def read(self, first: int, behind: int) -> Iterator[bytes]:
        """The bytes from `first` to before `behind`; the file is closed then."""
        with self._file:
            if first < HEADER:
                yield self._header[first:behind]
            step = self.channels * WIDTH
            at = max(first - HEADER, 0)
            while at < behind - HEADER:
                frame = at // step
                count = min(PIECE // step, -(-(behind - HEADER) // step) - frame)
                piece = self._frames(frame, count)
                yield piece[at - frame * step : behind - HEADER - frame * step]
                at = (frame + count) * step

    def _frames(self, first: int, count: int) -> bytes:
        step = self._held * WIDTH
        held = os.pread(self._file.fileno(), count * step, first * step)
        frames = np.zeros((count, self._held), "<i2")
        frames.reshape(-1)[: len(held) // WIDTH] = np.frombuffer(held, "<i2")
        for channel, start, end in self._silent:
            frames[max(start - first, 0) : max(end - first, 0), channel] = 0
        return (frames if self._channel is None else frames[:, [self._channel]]).tobytes()


def _ranged(request: Request, wav: Wav, ended: bool) -> Response:
    """The answer by RFC 9110: the one range that is asked for, all of it, or that it is known."""
    headers: dict[str, str] = {
        "Accept-Ranges": "bytes",
        "ETag": wav.etag,
        "Cache-Control": "private, no-cache" if ended else "no-store",
    }
    if wav.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    first, behind, status = 0, wav.size, 200
    asked = _range(request.headers.get("range", ""), wav.size)
    if asked and request.headers.get("if-range", wav.etag) == wav.etag:
        first, behind = asked
        if first >= behind:
            raise Fault(416, "that range is beyond the end", headers={"Content-Range": f"bytes */{wav.size}"})
        status = 206
        headers["Content-Range"] = f"bytes {first}-{behind - 1}/{wav.size}"
    headers["Content-Length"] = str(behind - first)
    return StreamingResponse(wav.read(first, behind), status, headers, media_type="audio/wav")


def _range(header: str, size: int) -> tuple[int, int] | None:
    """(first, behind the last) of a header Range; None: there is none, or one that may be passed over (several ranges,
    another unit, no range at all)."""
    unit, _, text = header.partition("=")
    begin, dash, end = text.strip().partition("-")
    if unit.strip().lower() != "bytes" or not dash or not (begin + end).isdecimal() or not (begin + end).isascii():
        return None
    if not begin:
        return max(size - int(end), 0), size
    if end and int(end) < int(begin):
        return None
    return int(begin), min(int(end) + 1 if end else size, size)
