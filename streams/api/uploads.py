"""Recordings that are brought: POST /calls (docs/uploads.md), and what every way of bringing one shares.

A changer must know: what is brought comes from strangers. Its name is shown and never opened, its type is told by its
first bytes and FFmpeg may take it for nothing else (some formats name other files and addresses to read), it goes to
the disk as it comes, and how long it is counts, not how large: a megabyte of FLAC may be a year of silence.
"""

import contextlib
import errno
import hashlib
import io
import json
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final

import anyio
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from schemas.errors import CalltideError
from schemas.events import CallInfo, UtcTime
from streams.api.access import Caller
from streams.api.feeding import feeding_of, lifespan
from streams.api.problems import Fault, documented
from streams.api.stored import Stored
from streams.api.tasks import Feeder, Order, Queue, Task, Tasks, store_of, upload_id
from streams.files import open_audio
from streams.ingestion.files_run import SHA256, Source, call_id_of
from streams.packets import now, roles_for, roles_of
from streams.settings import Settings

DEFAULT_TENANT: Final = "default"
MB: Final = 1_000_000
BUFFER: Final = 1 << 20
MOST_FILES: Final = 100
"""In one request. Judgement: as many as somebody drags into a window at once."""
FIELD_BYTES: Final = 64 * 1024
"""Of all fields of a request together that are no files."""
RATES: Final = (4_000, 384_000)
"""Judgement: Hz of sound that people make recordings with; what is far below would grow a thousandfold when it is made
16 kHz."""
FUTURE: Final = timedelta(minutes=1)
"""Judgement: so far two clocks may be from each other."""

_MAGIC: Final = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"#!AMR", "AMR, which is not taken"),
)

router = APIRouter(tags=["uploads"], lifespan=lifespan)
_CLAIM: Final = threading.Lock()
"""Two people may bring the same recording at once: one of them makes the task."""


class Details(BaseModel):
    """What is said of a recording."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    call_id: str = Field("", max_length=200, description="id of the call; empty: made of the name and the content")
    tenant: str = Field("", max_length=200, description="whose call it is; empty: the caller's, or `default`")
    queue: str = Field("", max_length=200)
    agent: str = Field("", max_length=200)
    roles: str = Field(
        "", max_length=200, description="who is on each channel: `agent,customer`; empty: that for two, unknown for one"
    )
    started_at: UtcTime | None = Field(None, description="when the call began; absent: that it ended just now")
    metadata: dict[str, str] = Field({}, description="whatever else is to be known of it: a JSON object of texts")

    @field_validator("call_id", "tenant", "queue", "agent")
    @classmethod
    def _is_text(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError("must not have control characters")
        return text.strip()

    @field_validator("started_at", mode="before")
    @classmethod
    def _or_none(cls, value: Any) -> Any:
        return value or None

    @field_validator("metadata", mode="before")
    @classmethod
    def _is_object(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value or "{}")
        except (ValueError, RecursionError):
            raise ValueError('is no JSON object: write {"ticket": "4711"}') from None

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> "Details":
        """Of the fields of a form. Raises Fault 422."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            faults = [
                {"in": "body", "name": ".".join(map(str, one["loc"])), "message": one["msg"]} for one in error.errors()
            ]
            first = faults[0]
            raise Fault(422, f"{first['name']}: {first['message']}", details={"faults": faults}) from None


@dataclass(slots=True)
class Brought:
    """A recording on the disk, in `Queue.incoming`, or `stored` in an object store."""

    path: Path
    name: str
    bytes: int = 0
    sha256: str = ""
    """Of what is stored it is asked for once it is known to be a recording."""
    stored: Stored | None = None

    def open(self) -> io.RawIOBase | io.BufferedReader:
        """Its bytes."""
        return self.stored.open() if self.stored else self.path.open("rb")


def plain_name(name: str) -> str:
    """A file's name to show: without the directories that it may come with, and what is no text."""
    last = re.split(r"[\\/]", name)[-1]
    return "".join(letter for letter in last if letter.isprintable()).strip(" .")[:200] or "recording"


def sniff(brought: Brought) -> str:
    """FFmpeg's name of a recording's format, by its first bytes. Raises CalltideError for one that is not taken."""
    with brought.open() as file:
        head = file.read(16)
        if head[:3] == b"ID3":
            # A tag before the audio; its length is in four times seven bits.
            file.seek(10 + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(head[6:10]))))
            return "flac" if file.read(4) == b"fLaC" else "mp3"
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[4:8] == b"ftyp":
        return "mp4"
    # MPEG audio: eleven bits that are set, a version and a layer that there are, and a bit rate.
    first, second, third = (*head, 0, 0, 0)[:3]
    sync = first == 0xFF and second & 0xE0 == 0xE0
    if sync and second & 0x18 != 0x08 and second & 0x06 and third & 0xF0 != 0xF0 and third & 0x0C != 0x0C:
        return "mp3"
    what = next((what for magic, what in _MAGIC if head.startswith(magic)), "something else")
    raise CalltideError(f"is no recording: its content is {what}; bring WAV, MP3, FLAC, M4A, OGG or WebM")


@contextlib.contextmanager
def disk() -> Iterator[None]:
    """Writing to the disk. Raises Fault 507 when it is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Fault(507, "there is no room for it now; try again later, or tell the operator", "no_room") from None
        raise


def room_for(settings: Settings, size: int) -> None:
    """Raises Fault 507 when so many bytes do not fit on the disk."""
    directory = Queue(settings).incoming
    directory.mkdir(parents=True, exist_ok=True)
    if size > shutil.disk_usage(directory).free:
        raise Fault(507, "there is no room for it now; try again later, or tell the operator", "no_room")


def take(request: Request, who: Caller, brought: Brought, details: Details) -> tuple[Task, bool]:
    """Make a task of a recording: (the task, whether it was there before). Its file is moved if it is to be heard.

    Raises Fault: 415 or 422 for what is no recording that is taken, 403 for another's tenant, 409 for an id that is
    another call's; and what the store raises.
    """
    settings: Settings = request.app.state.settings
    tenant = _tenant(who, details)
    order = _order(settings, who, tenant, brought, details)
    store, queue = store_of(request), Queue(settings)
    with _CLAIM:
        known = store.find(tenant, order.task_id)
        if known is not None:
            task, _, attempt = known
            if task.state not in ("failed", "cancelled"):
                return task.model_copy(update={"duplicate": True}), True
            order = _as_before(settings, order, details, task.created_at, attempt + 1)
        if _heard_before(store.calls(order.call_id), order) and known is None:
            return store.put(order, "completed", {"ingest": 1.0}).model_copy(update={"duplicate": True}), True
        with disk():
            queue.add(order, None if brought.stored else brought.path)
        task = store.put(order, "pending")
    feeding_of(request).wake()
    return task, False


def _tenant(who: Caller, details: Details) -> str:
    if who.tenant is None:
        return details.tenant or DEFAULT_TENANT
    if details.tenant not in ("", who.tenant):
        raise Fault(403, "tenant: this key is for another tenant; leave it out")
    return who.tenant


def _order(settings: Settings, who: Caller, tenant: str, brought: Brought, details: Details) -> Order:
    """What is to be done. Raises Fault for what is no recording that is taken."""
    name = brought.name
    if not brought.bytes:
        raise Fault(422, f"{name} is empty (0 bytes); record or copy it again", "empty")
    try:
        container = sniff(brought)
    except CalltideError as error:
        raise Fault(415, f"{name} {error}", details={"file": name}) from None
    try:
        opener = brought.stored.open if brought.stored else None
        audio = open_audio(brought.path, container=container, opener=opener)
        roles = roles_for(audio, roles_of(details.roles))
    except CalltideError as error:
        text = str(error).replace(str(brought.path), name).replace("--roles names", "roles names")
        raise Fault(422, text, details={"file": name}) from None
    if not RATES[0] <= audio.source_rate <= RATES[1]:
        raise Fault(
            422, f"{name} has {audio.source_rate} samples a second; bring one of {RATES[0]} to {RATES[1]}", "bad_rate"
        )
    hours = settings.uploads.longest_hours
    if (audio.duration_ms or 0) > hours * 3_600_000:
        raise Fault(422, f"{name} is longer than {hours:g} h; cut it in parts", "too_long", {"hours": hours})
    if not brought.sha256:
        with brought.open() as file:
            brought.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    # Ids are known to Kafka without their tenants: two may bring the same file.
    mark = brought.sha256
    if tenant != DEFAULT_TENANT:
        mark = hashlib.sha256(f"{tenant}\0{mark}".encode()).hexdigest()
    call_id = call_id_of(Source(Path(name), details.call_id or None), mark)
    created_at = now()
    info = CallInfo(
        call_id=call_id,
        started_at=_started_at(settings, details, created_at, audio.duration_ms),
        roles=roles,
        tenant=tenant,
        queue=details.queue,
        agent=details.agent,
        source=name,
        metadata={**details.metadata, SHA256: brought.sha256},
    )
    return Order(
        task_id=upload_id(tenant, brought.sha256),
        tenant=tenant,
        kind="upload",
        call_id=call_id,
        pipeline_version=settings.pipeline_version,
        created_at=created_at,
        asked_by=who.name,
        source=name,
        sha256=brought.sha256,
        bytes=brought.bytes,
        duration_ms=audio.duration_ms,
        info=info,
        container=container,
        stored=brought.stored.url if brought.stored else "",
        etag=brought.stored.etag if brought.stored else "",
    )


def _started_at(settings: Settings, details: Details, created_at: datetime, duration_ms: int | None) -> datetime:
    given = details.started_at
    if given is None:
        return created_at - timedelta(milliseconds=duration_ms or 0)
    # Kafka deletes by the time of a record, which is that of its call: what is nearly gone goes while it is heard.
    oldest = created_at - timedelta(hours=settings.kafka.retention_hours / 2)
    if given < oldest:
        raise Fault(
            422,
            f"started_at: Kafka keeps calls for {settings.kafka.retention_hours} h, so one that began before "
            f"{oldest:%Y-%m-%d %H:%M} UTC would be gone while it is heard; leave it out, and give its date in metadata",
            "too_old",
        )
    if given > created_at + FUTURE:
        raise Fault(422, "started_at: lies in the future; give when the call began", "in_future")
    return given.replace(microsecond=given.microsecond // 1_000 * 1_000).astimezone(UTC)


def _as_before(settings: Settings, order: Order, details: Details, created_at: datetime, attempt: int) -> Order:
    """An order that comes again: at the time that it had, so that what is heard again is what was heard, unless that is
    long ago."""
    info = order.info
    if info is None or created_at < order.created_at - timedelta(hours=settings.kafka.retention_hours / 2):
        return order.model_copy(update={"attempt": attempt})
    started_at = _started_at(settings, details, created_at, order.duration_ms)
    info = info.model_copy(update={"started_at": started_at})
    return order.model_copy(update={"attempt": attempt, "created_at": created_at, "info": info})


def _heard_before(calls: list[tuple[str, str, str, datetime, str]], order: Order) -> bool:
    """Whether this recording was ingested in another way. Raises Fault 409 for an id that is another call's."""
    for tenant, sha256, reason, _, version in calls:
        if tenant != order.tenant or sha256 != order.sha256:
            raise Fault(409, f"call_id: {order.call_id} is another call's; give another", "call_id_taken")
        if reason == "hangup" and version == order.pipeline_version:
            return True
    return False


# multipart/form-data


@dataclass(slots=True)
class _Part:
    name: str = ""
    file: Brought | None = None
    value: bytearray = field(default_factory=bytearray)


class Form:
    """multipart/form-data as it comes: files to the disk, each no larger than `limit` bytes."""

    def __init__(self, directory: Path, boundary: bytes, limit: int) -> None:
        self.files: list[Brought] = []
        self.fields: dict[str, str] = {}
        self.ended = False
        self._directory = directory
        self._limit = limit
        self._part = _Part()
        self._header: tuple[bytearray, bytearray] = bytearray(), bytearray()
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._field_bytes = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._head,
                "on_headers_finished": self._open,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._whole,
            },
        )

    def write(self, data: bytes) -> None:
        """The next bytes of the body. Raises Fault 413, 422, 507."""
        try:
            with disk():
                self._parser.write(data)
        except MultipartParseError as error:
            raise Fault(422, f"the body is no multipart/form-data: {error}") from None

    def close(self, keep: bool) -> None:
        """Nothing more comes. Without `keep` its files are removed."""
        if self._file is not None:
            self._file.close()
        for one in [*self.files, *([self._part.file] if self._part.file else [])]:
            if not keep:
                one.path.unlink(missing_ok=True)

    def _begin(self) -> None:
        self._part = _Part()

    def _head(self) -> None:
        name, value = bytes(self._header[0]).lower(), bytes(self._header[1])
        self._header = bytearray(), bytearray()
        if name != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
        if (given := options.get(b"filename")) is not None:
            self._part.file = Brought(self._directory / uuid.uuid4().hex, plain_name(given.decode("utf-8", "replace")))

    def _open(self) -> None:
        if self._part.file is None:
            return
        if len(self.files) >= MOST_FILES:
            raise Fault(413, f"more than {MOST_FILES} files in one request; send several requests")
        self._digest = hashlib.sha256()
        self._file = self._part.file.path.open("wb", buffering=BUFFER)

    def _data(self, data: bytes, start: int, end: int) -> None:
        part, piece = self._part, memoryview(data)[start:end]
        if part.file is None or self._file is None:
            self._field_bytes += len(piece)
            if self._field_bytes > FIELD_BYTES:
                raise Fault(413, f"the fields are larger than {FIELD_BYTES} bytes together; say less")
            part.value += piece
            return
        part.file.bytes += len(piece)
        if part.file.bytes > self._limit:
            raise too_large(part.file.name, self._limit)
        self._digest.update(piece)
        self._file.write(piece)

    def _end(self) -> None:
        part = self._part
        if part.file is None:
            self.fields[part.name] = part.value.decode("utf-8", "replace")
            return
        if self._file is not None:
            self._file.close()
            self._file = None
        part.file.sha256 = self._digest.hexdigest()
        self.files.append(part.file)
        self._part = _Part()

    def _whole(self) -> None:
        self.ended = True


def too_large(name: str, limit: int) -> Fault:
    """That a recording is larger than one may be."""
    return Fault(
        413,
        f"{name} is larger than {limit / MB:,.0f} MB; send it by the tus protocol to /api/v1/uploads",
        details={"bytes": limit},
    )


async def received(request: Request) -> Form:
    """The files and fields of a request. Raises Fault 413, 415, 422, 507."""
    settings: Settings = request.app.state.settings
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Fault(415, "send multipart/form-data with the recording in a field `file`")
    limit = settings.uploads.max_mb * MB
    await anyio.to_thread.run_sync(room_for, settings, int(request.headers.get("content-length") or 0))
    form = Form(Queue(settings).incoming, options[b"boundary"], limit)
    whole = False
    try:
        async for data in request.stream():
            form.write(data)
        if not form.ended:
            raise Fault(422, "the body ends in the middle of a part; send it again")
        whole = True
    finally:
        form.close(whole)
    return form


BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "WAV, MP3, FLAC, M4A, OGG or WebM; one or several",
                        },
                        **{
                            name: {"type": "string", "description": about.description or name}
                            for name, about in Details.model_fields.items()
                        },
                    },
                },
                "encoding": {"file": {"contentType": "audio/*"}},
            }
        },
    }
}

ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": Task, "description": "the recording was brought before: its task"},
    **documented(409, 413, 415),
}


@router.post(
    "/calls",
    status_code=202,
    response_model=Task | Tasks,
    responses=ANSWERS,
    openapi_extra=BODY,
)
async def upload_calls(request: Request, response: Response, who: Feeder) -> Task | Tasks:
    """Bring one recording or several, each a call. Of one, its task; of several, a list of them, in their order.

    A recording that was brought before is not heard again: its task is told, with `duplicate`. Of several, one that is
    not taken is told as a task that failed, and stops no other.
    """
    form = await received(request)
    try:
        if not form.files:
            raise Fault(422, "no recording came: send one in a field `file`", "no_file")
        details = Details.of(form.fields)
        if details.call_id and len(form.files) > 1:
            raise Fault(422, "call_id: names one call; send one recording")
        if len(form.files) == 1:
            task, before = await anyio.to_thread.run_sync(take, request, who, form.files[0], details)
            response.headers["Location"] = f"/api/v1/tasks/{task.task_id}"
            if before:
                response.status_code = 200
            return task
        return Tasks(items=[await anyio.to_thread.run_sync(_one_of, request, who, one, details) for one in form.files])
    finally:
        form.close(keep=False)


def _one_of(request: Request, who: Caller, brought: Brought, details: Details) -> Task:
    try:
        return take(request, who, brought, details)[0]
    except Fault as fault:
        if fault.status >= 500:
            raise
        at = now()
        return Task(
            task_id="", state="failed", calls=[], file=brought.name, bytes=brought.bytes, progress={},
            error=fault.message, created_at=at, updated_at=at,
        )  # fmt: skip
