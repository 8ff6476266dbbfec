"""Ended calls outside Kafka, for longer than its topics keep them: audio as FLAC, everything else as JSON.

A changer must know: what comes out are the very records that went in, byte for byte. Samples go into FLAC, which loses
none of them; how they lay in packets goes into JSON; and a packet whose bytes the samples would not give back (mu-law
has two zeros; a packet that came twice may have had other samples) is kept there whole. Objects are named by the
SHA-256 of what is stored, so what is damaged is noticed, and what is there already is not written again.
"""

import base64
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import fsspec
import numpy as np
import soundfile
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from processors.audio import decode as samples_of
from processors.audio import encode as bytes_of
from processors.base import Record
from schemas.audio import BYTES_PER_SAMPLE, AudioPacket, Codec
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, CallStarted, decode
from streams.settings import Settings

FORM: Final = 1
"""Of the JSON."""
NONCE: Final = 12
"""Bytes before an encrypted object: AES-GCM's own size (NIST SP 800-38D, 8.2)."""
LONGEST_S: Final = 24 * 3_600
"""Judgement: a packet further on is damaged, and would fill the disk with silence."""


class Damaged(CalltideError):
    """An object is not what was stored."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A call in the archive."""

    call: CallInfo
    duration_ms: int
    lane: str
    ended_at: datetime | None
    reason: str
    objects: dict[str, str]
    """Channel, or `records` → name of the object."""
    bytes: int


@dataclass(slots=True)
class _Channel:
    codec: Codec
    rate: int
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    """First sample and bytes of each packet."""


class Archive:
    """A directory or an object store. Every method raises CalltideError when it cannot be read or written."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.archive.url or str(settings.directory / "archive")
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise CalltideError(
                f"the archive {self.url} cannot be opened ({error}); mend CALLTIDE_ARCHIVE__URL"
            ) from None
        self._cipher = AESGCM(_key(settings.archive.key)) if settings.archive.key else None

    def put(self, records: Sequence[Record], lane: str = "live") -> Kept:
        """Store an ended call: its records from start to end, in order. The same call again replaces it."""
        channels: dict[int, _Channel] = {}
        call: CallInfo | None = None
        ended: CallEnded | None = None
        for record in records:
            if record.kind == "audio":
                packet = AudioPacket.decode(record.headers, record.value)
                one = channels.setdefault(packet.channel, _Channel(packet.codec, packet.rate))
                if (packet.codec, packet.rate) == (one.codec, one.rate) and packet.sample < LONGEST_S * packet.rate:
                    one.pieces.append((packet.sample, record.value))
                continue
            event = decode(record.headers, record.value)
            call = event.call if isinstance(event, CallStarted | CallEnded) else call
            ended = event if isinstance(event, CallEnded) else ended
        if call is None:
            raise CalltideError("records without the start of a call cannot be archived")
        joined = {channel: _joined(one) for channel, one in channels.items()}
        audio = {channel: samples for channel, samples in joined.items() if len(samples)}
        objects, size = {}, 0
        for channel, samples in audio.items():
            sound = io.BytesIO()
            soundfile.write(sound, samples, channels[channel].rate, format="FLAC", subtype="PCM_16")
            objects[str(channel)], stored = self._store(sound.getvalue(), ".flac")
            size += stored
        entries = [_entry(record, channels, audio) for record in records]
        objects["records"], stored = self._store(json.dumps(entries, separators=(",", ":")).encode(), ".json")
        last_ms = max((record.timestamp_ms for record in records), default=0)
        duration_ms = ended.duration_ms if ended else last_ms - round(call.started_at.timestamp() * 1_000)
        kept = Kept(
            call, max(duration_ms, 0), lane, ended.ended_at if ended else None, ended.reason if ended else "idle",
            objects, size + stored,
        )  # fmt: skip
        facts = {
            "form": FORM,
            "call": call.model_dump(mode="json"),
            "duration_ms": kept.duration_ms,
            "lane": lane,
            "ended_at": kept.ended_at.isoformat() if kept.ended_at else None,
            "reason": kept.reason,
            "channels": {str(number): {"codec": one.codec, "rate": one.rate} for number, one in channels.items()},
            "objects": objects,
            "bytes": kept.bytes,
        }
        self._write(self._place(call.call_id), self._sealed(json.dumps(facts, ensure_ascii=False, indent=1).encode()))
        return kept

    def calls(self) -> Iterator[Kept | Damaged]:
        """All that is there, in no order; what cannot be read is among it as its error."""
        for path in self._listed():
            try:
                yield self._kept(json.loads(self._opened(self._read(path), path)))
            except Damaged as error:
                yield error
            except (KeyError, ValueError, TypeError) as error:
                yield Damaged(f"{path} is no call ({error}); restore it, or remove it")

    def find(self, call_id: str) -> Kept | None:
        """A call, if it is there. Raises Damaged."""
        path = self._place(call_id)
        if not self._files.exists(path):
            return None
        return self._kept(json.loads(self._opened(self._read(path), path)))

    def records(self, kept: Kept) -> list[Record]:
        """The records that were stored. Raises Damaged."""
        entries = json.loads(self._load(kept.objects["records"]))
        audio: dict[int, tuple[NDArray[np.int16], int]] = {}
        for name, path in kept.objects.items():
            if name.isdecimal():
                audio[int(name)] = soundfile.read(io.BytesIO(self._load(path)), dtype="int16")
        return [_record(entry, kept.call.call_id, audio) for entry in entries]

    def remove(self, kept: Kept) -> int:
        """Delete a call; returns how many files that were. Objects of the same content in other calls stay."""
        shared = {
            path
            for other in self.calls()
            if isinstance(other, Kept) and other.call.call_id != kept.call.call_id
            for path in other.objects.values()
        }
        gone = [self._place(kept.call.call_id), *(self._path(name) for name in {*kept.objects.values()} - shared)]
        for path in gone:
            if self._files.exists(path):
                self._files.rm_file(path)
        return len(gone)

    def _kept(self, facts: dict[str, Any]) -> Kept:
        if facts["form"] != FORM:
            raise Damaged(f"a call of form {facts['form']} was archived by a newer version; update Calltide")
        ended_at = facts["ended_at"]
        return Kept(
            CallInfo.model_validate(facts["call"]),
            facts["duration_ms"],
            facts["lane"],
            datetime.fromisoformat(ended_at) if ended_at else None,
            facts["reason"],
            facts["objects"],
            facts["bytes"],
        )

    def _place(self, call_id: str) -> str:
        # A call's id may tell who called, or hold what no file's name may.
        name = hashlib.sha256(call_id.encode()).hexdigest()
        return f"{self._root}/calls/{name[:2]}/{name}.json"

    def _path(self, name: str) -> str:
        return f"{self._root}/objects/{name[:2]}/{name}"

    def _listed(self) -> list[str]:
        try:
            found: list[str] = self._files.find(f"{self._root}/calls")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CalltideError(f"the archive {self.url} cannot be read: {error}") from error
        return [path for path in found if path.endswith(".json")]

    def _store(self, content: bytes, ending: str) -> tuple[str, int]:
        """(name, bytes) of the object."""
        sealed = self._sealed(content)
        name = f"{hashlib.sha256(sealed).hexdigest()}{ending}"
        if self._cipher or not self._files.exists(self._path(name)):
            self._write(self._path(name), sealed)
        return name, len(sealed)

    def _load(self, name: str) -> bytes:
        sealed = self._read(self._path(name))
        if hashlib.sha256(sealed).hexdigest() != name.partition(".")[0]:
            raise Damaged(f"{self._path(name)} is damaged; restore it from a copy")
        return self._opened(sealed, self._path(name))

    def _sealed(self, content: bytes) -> bytes:
        if self._cipher is None:
            return content
        nonce = os.urandom(NONCE)
        return nonce + self._cipher.encrypt(nonce, content, None)

    def _opened(self, sealed: bytes, path: str) -> bytes:
        if self._cipher is None:
            return sealed
        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], None)
        except (InvalidTag, ValueError):
            raise Damaged(f"{path} does not open with this CALLTIDE_ARCHIVE__KEY, or is damaged") from None

    def _read(self, path: str) -> bytes:
        try:
            content: bytes = self._files.cat_file(path)
        except FileNotFoundError:
            raise Damaged(f"{path} is gone; restore it from a copy") from None
        except OSError as error:
            raise CalltideError(f"the archive {self.url} cannot be read: {error}") from error
        return content

    def _write(self, path: str, content: bytes) -> None:
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            # Under another name first: who reads meanwhile, or after a crash, finds all of it or nothing.
            self._files.pipe_file(f"{path}.part", content)
            self._files.mv(f"{path}.part", path)
        except OSError as error:
            raise CalltideError(
                f"the archive {self.url} cannot be written: {error}; make room or mend the address"
            ) from error


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise CalltideError("CALLTIDE_ARCHIVE__KEY is no key: 32 bytes in base64 (`openssl rand -base64 32` makes one)")
    return key


def _joined(one: _Channel) -> NDArray[np.int16]:
    """The channel's samples, int16 (n,); 0 where no packet was."""
    width = BYTES_PER_SAMPLE[one.codec]
    whole = np.zeros(max((first + len(value) // width for first, value in one.pieces), default=0), np.int16)
    for first, value in one.pieces:
        whole[first : first + len(value) // width] = _integers(value, one.codec)
    return whole


def _integers(value: bytes, codec: Codec) -> NDArray[np.int16]:
    return (samples_of(value, codec) * 32_768).astype(np.int16)


def _value(samples: NDArray[np.int16], codec: Codec) -> bytes:
    return bytes_of(samples.astype(np.float32) / np.float32(32_768), codec)


def _entry(record: Record, channels: dict[int, _Channel], audio: dict[int, NDArray[np.int16]]) -> Any:
    """[time, channel, codec, rate, sequence, first sample, samples] of a packet that its samples give back; of
    anything else all there is."""
    if record.kind == "audio":
        packet = AudioPacket.decode(record.headers, record.value)
        plain = [packet.channel, packet.codec, packet.rate, packet.sequence, packet.sample, packet.samples]
        own = channels[packet.channel]
        same = (packet.codec, packet.rate) == (own.codec, own.rate) and [*record.headers.items()] == packet.headers()
        held = audio.get(packet.channel, np.zeros(0, np.int16))[packet.sample : packet.sample + packet.samples]
        if same and packet.channel in audio and _value(held, packet.codec) == record.value:
            return [record.timestamp_ms, *plain]
    return {
        "at": record.timestamp_ms,
        "headers": [[name, base64.b64encode(value).decode()] for name, value in record.headers.items()],
        "value": base64.b64encode(record.value).decode(),
    }


def _record(entry: Any, call_id: str, audio: dict[int, tuple[NDArray[np.int16], int]]) -> Record:
    if isinstance(entry, dict):
        headers = {name: base64.b64decode(value) for name, value in entry["headers"]}
        kind = headers.get("kind", b"").decode(errors="replace")
        return Record(call_id, kind, headers, base64.b64decode(entry["value"]), entry["at"])
    at, channel, codec, rate, sequence, first, length = entry
    value = _value(audio[channel][0][first : first + length], codec)
    packet = AudioPacket(channel, codec, rate, first, sequence, value)
    return Record(call_id, "audio", dict(packet.headers()), value, at)
