"""Ended calls outside Kafka, for longer than its topics keep them: audio as FLAC, everything else as JSON.

A changer must know: what comes out are the very records that went in, byte for byte. Samples go into FLAC, which loses
none of them; how they lay in packets goes into JSON; and a packet whose bytes the samples would not give back (mu-law
has two zeros; a packet that came twice may have had other samples) is kept there whole. Objects are named by the
SHA-256 of what is stored, so what is damaged is noticed, and what is there already is not written again.
"""

import base64
import contextlib
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import fsspec
import numpy as np
import soundfile
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
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
NONCE: Final = bytes(12)
"""Always the same, which AES-GCM-SIV bears (RFC 8452, section 9): all that shows is whether two files are alike. So
what is archived again is the same object, and none is left behind that `calltide forget` would not find."""
OBJECT_STORES: Final = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "r2"})
"""Where an object is there whole or not at all, and there are no directories to make."""
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
    unsearched: int = 0
    """Utterances in which nobody looked for what is personal: they were dead letters, and dropped."""


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
        self._at_once = not OBJECT_STORES.isdisjoint(_protocols(self._files))
        self._cipher = AESGCMSIV(_key(settings.archive.key)) if settings.archive.key else None

    def put(self, records: Sequence[Record], lane: str = "live", unsearched: int = 0) -> Kept:
        """Store an ended call: its records from start to end, in order. The same call again replaces it.

        `unsearched`: as in `Kept`.
        """
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
            if isinstance(event, CallStarted | CallEnded):
                begun = min(call.started_at, event.call.started_at) if call else event.call.started_at
                call = event.call.model_copy(update={"started_at": begun})
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
            objects, size + stored, unsearched,
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
        if unsearched:
            facts["unsearched"] = unsearched
        replaced = self._replaced(call.call_id)
        facts |= {"sha256": _digest(facts)}
        self._write(self._place(call.call_id), self._sealed(json.dumps(facts, ensure_ascii=False, indent=1).encode()))
        if replaced and replaced.objects != objects:
            self._remove(replaced, {*objects.values()})
        return kept

    def _replaced(self, call_id: str) -> Kept | None:
        try:
            return self.find(call_id)
        except Damaged:
            return None

    def calls(self) -> Iterator[Kept | Damaged]:
        """All that is there, in no order; what cannot be read is among it as its error."""
        for path in self._listed("calls"):
            if not path.endswith(".json"):
                continue  # a rest of what could not be written
            try:
                yield self._kept(path)
            except Damaged as error:
                yield error

    def named(self, call_ids: Sequence[str]) -> Iterator[Kept | Damaged]:
        """Those of these calls that are there; what cannot be read is among them as its error."""
        for call_id in call_ids:
            try:
                if kept := self.find(call_id):
                    yield kept
            except Damaged as error:
                yield error

    def find(self, call_id: str) -> Kept | None:
        """A call, if it is there. Raises Damaged."""
        path = self._place(call_id)
        return self._kept(path) if self._there(path) is not None else None

    def records(self, kept: Kept) -> list[Record]:
        """The records that were stored. Raises Damaged."""
        entries = json.loads(self._load(kept.objects["records"]))
        audio: dict[int, tuple[NDArray[np.int16], int]] = {}
        for name, path in kept.objects.items():
            if name.isdecimal():
                audio[int(name)] = soundfile.read(io.BytesIO(self._load(path)), dtype="int16")
        return [_record(entry, kept.call.call_id, audio) for entry in entries]

    def audio(self, kept: Kept) -> Iterator[tuple[int, soundfile.SoundFile]]:
        """Each channel and its samples, opened. Raises Damaged."""
        for name, path in kept.objects.items():
            if name.isdecimal():
                with soundfile.SoundFile(io.BytesIO(self._load(path))) as sound:
                    yield int(name), sound

    def remove(self, kept: Kept) -> int:
        """Delete a call; returns how many files that were. Objects of the same content in other calls stay."""
        # The call last: as long as it is there, what is left of it can be found by doing this again.
        gone = self._remove(kept)
        self._delete(self._place(kept.call.call_id))
        return gone + 1

    def forget(self, call_id: str) -> None:
        """Calls of this name that have begun by now are neither archived nor replayed, however long Kafka has them."""
        name = f"{hashlib.sha256(call_id.encode()).hexdigest()}.{time.time():.0f}"
        self._write(f"{self._root}/forgotten/{name}", b"")

    def forgotten(self) -> Callable[[str, datetime], bool]:
        """Whether a call, by its name and when it began, was forgotten."""
        until: dict[str, int] = {}
        for path in self._listed("forgotten"):
            name, _, at_s = path.rpartition("/")[2].partition(".")
            if at_s.isdecimal():
                until[name] = max(until.get(name, 0), int(at_s))

        def asked(call_id: str, started_at: datetime) -> bool:
            return started_at.timestamp() <= until.get(hashlib.sha256(call_id.encode()).hexdigest(), 0)

        return asked if until else lambda _call_id, _started_at: False

    def _remove(self, kept: Kept, needed: AbstractSet[str] = frozenset()) -> int:
        """Delete the objects of a call that no other has; `needed`: nor what has these."""
        shared = {
            name
            for other in self.calls()
            if isinstance(other, Kept) and other.call.call_id != kept.call.call_id
            for name in other.objects.values()
        }
        gone = {*kept.objects.values()} - shared - needed
        for name in gone:
            self._delete(self._path(name))
        return len(gone)

    def _delete(self, path: str) -> None:
        try:
            self._files.rm_file(path)
        except FileNotFoundError:
            pass  # it was deleted before
        except Exception as error:
            raise CalltideError(f"{path} cannot be deleted: {error}; run it again") from error

    def _kept(self, path: str) -> Kept:
        content = self._opened(self._read(path), path)
        try:
            facts = json.loads(content)
            if facts["form"] != FORM:
                raise Damaged(f"{path} was archived by a newer version (form {facts['form']}); update Calltide")
            if facts.pop("sha256") != _digest(facts):
                raise Damaged(f"{path} is damaged; restore it from a copy")
            return self._call(facts)
        except (KeyError, ValueError, TypeError) as error:
            raise Damaged(f"{path} is no call ({type(error).__name__}); restore it from a copy") from error

    def _call(self, facts: dict[str, Any]) -> Kept:
        ended_at = facts["ended_at"]
        return Kept(
            CallInfo.model_validate(facts["call"]),
            facts["duration_ms"],
            facts["lane"],
            datetime.fromisoformat(ended_at) if ended_at else None,
            facts["reason"],
            facts["objects"],
            facts["bytes"],
            facts.get("unsearched", 0),
        )

    def _place(self, call_id: str) -> str:
        # A call's id may tell who called, or hold what no file's name may.
        name = hashlib.sha256(call_id.encode()).hexdigest()
        return f"{self._root}/calls/{name[:2]}/{name}.json"

    def _path(self, name: str) -> str:
        return f"{self._root}/objects/{name[:2]}/{name}"

    def _listed(self, part: str) -> list[str]:
        try:
            found: list[str] = self._files.find(f"{self._root}/{part}")
        except FileNotFoundError:
            return []
        except Exception as error:
            raise CalltideError(f"the archive {self.url} cannot be read: {error}") from error
        return found

    def _store(self, content: bytes, ending: str) -> tuple[str, int]:
        """(name, bytes) of the object."""
        sealed = self._sealed(content)
        name = f"{hashlib.sha256(sealed).hexdigest()}{ending}"
        if self._there(self._path(name)) != len(sealed):  # what a crash of the machine has cut short is written again
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
        return self._cipher.encrypt(NONCE, content, None)

    def _opened(self, sealed: bytes, path: str) -> bytes:
        if self._cipher is None:
            return sealed
        try:
            return self._cipher.decrypt(NONCE, sealed, None)
        except (InvalidTag, ValueError):
            raise Damaged(f"{path} does not open with this CALLTIDE_ARCHIVE__KEY, or is damaged") from None

    def _there(self, path: str) -> int | None:
        """Bytes of a file; None: it is not there."""
        try:
            size: int = self._files.info(path)["size"]
        except FileNotFoundError:
            return None
        except Exception as error:
            raise CalltideError(f"the archive {self.url} cannot be read: {error}") from error
        return size

    def _read(self, path: str) -> bytes:
        try:
            content: bytes = self._files.cat_file(path)
        except FileNotFoundError:
            raise Damaged(f"{path} is gone; restore it from a copy") from None
        except Exception as error:
            raise CalltideError(f"the archive {self.url} cannot be read: {error}") from error
        return content

    def _write(self, path: str, content: bytes) -> None:
        try:
            if self._at_once:
                self._files.pipe_file(path, content)
                return
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            # Under another name first: who reads meanwhile, or after a crash, finds all of it or nothing.
            self._files.pipe_file(f"{path}.part", content)
            self._files.mv(f"{path}.part", path)
        except Exception as error:  # each store's package has errors of its own
            if not self._at_once:
                with contextlib.suppress(OSError):
                    self._files.rm_file(f"{path}.part")  # it may be what fills the disk
            raise CalltideError(
                f"the archive {self.url} cannot be written: {error}; make room or mend the address"
            ) from error


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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
