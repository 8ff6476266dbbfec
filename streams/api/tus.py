"""Recordings in parts, by the tus protocol 1.0.0 (https://tus.io/protocols/resumable-upload): core, creation, checksum,
termination, expiration. When the last byte is there, it is taken as POST /calls takes a recording.

A changer must know: an upload is two files in `<home>/uploads/tus`, its bytes and what is known of it; its offset is
the length of the first, so nothing that was acknowledged is lost in a crash. One request at a time writes to it (423).
"""

import base64
import binascii
import hashlib
import re
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from schemas.events import UtcTime
from streams.api.access import Caller
from streams.api.parameters import UploadId
from streams.api.problems import Fault, documented, not_found
from streams.api.tasks import Feeder, Queue
from streams.api.uploads import BUFFER, Brought, Details, disk, plain_name, room_for, take
from streams.packets import now
from streams.settings import Settings

VERSION: Final = "1.0.0"
EXTENSIONS: Final = ("creation", "checksum", "termination", "expiration")
ALGORITHMS: Final = ("sha1", "sha256", "sha512", "md5")
GB: Final = 1_000_000_000
METADATA_BYTES: Final = 16 * 1024
PASSED_OVER: Final = ("name", "filetype", "type", "relativePath")
"""Of metadata: what clients send of themselves. The type is told by the content."""
TASK: Final = "Calltide-Task"
"""The header that names the task of an upload that is whole."""
_ID: Final = re.compile(r"[0-9a-f]{32}")


class Upload(BaseModel):
    """What is known of an upload, as it lies beside its bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    upload_id: str
    tenant: str | None
    """Of who began it; None: he sees all tenants."""
    length: int
    metadata: str = ""
    """As the protocol has it."""
    name: str = ""
    details: Details = Details()
    created_at: UtcTime
    task_id: str = ""
    """Once it is whole."""


class Progress(BaseModel):
    """How much of an upload there is."""

    upload_id: str = Field(examples=["0b9c2f4e6d8a4c3b9e1f2a3b4c5d6e7f"])
    offset: int
    length: int
    expires_at: UtcTime
    task_id: str | None = Field(None, description="once it is whole")


class Uploads:
    """The uploads of this machine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.directory = Queue(settings).uploads / "tus"
        self.limit = settings.uploads.resumable_gb * GB
        self._busy: set[str] = set()
        self._digests: dict[str, tuple[int, Any]] = {}
        """Upload → how many of its bytes are in the digest; where it is not of all, the file is read again."""

    def place(self, upload_id: str) -> Path:
        """Its bytes; what is known of it lies beside them, in `.json`."""
        return self.directory / upload_id

    def begin(self, upload: Upload) -> None:
        """A new one. Raises Fault 507."""
        self.directory.mkdir(parents=True, exist_ok=True)
        room_for(self.settings, upload.length)
        with disk():
            self.place(upload.upload_id).touch()
            self.keep(upload)
        self._digests[upload.upload_id] = 0, hashlib.sha256()

    def keep(self, upload: Upload) -> None:
        """Write down what is known of it."""
        new = self.place(upload.upload_id).with_suffix(".new")
        new.write_text(upload.model_dump_json())
        new.replace(new.with_suffix(".json"))

    def find(self, who: Caller, upload_id: str) -> tuple[Upload, int]:
        """(what is known of it, how much of it there is). Raises Fault 404 for another tenant's, too, and 410."""
        try:
            if not _ID.fullmatch(upload_id):
                raise FileNotFoundError
            upload = Upload.model_validate_json(self.place(upload_id).with_suffix(".json").read_text())
            offset = upload.length if upload.task_id else self.place(upload_id).stat().st_size
        except FileNotFoundError:
            raise not_found("upload", upload_id) from None
        if who.tenant is not None and upload.tenant != who.tenant:
            raise not_found("upload", upload_id)
        if self.expires_at(upload) < now():
            self.remove(upload_id)
            raise Fault(410, "the upload was not finished in time; begin it again")
        return upload, offset

    def expires_at(self, upload: Upload) -> datetime:
        """Until when it may be finished: so long after its latest byte."""
        try:
            changed = datetime.fromtimestamp(self.place(upload.upload_id).stat().st_mtime, UTC)
        except FileNotFoundError:
            changed = upload.created_at
        return changed + timedelta(hours=self.settings.uploads.keep_hours)

    def remove(self, upload_id: str) -> None:
        """It is given up."""
        self.place(upload_id).unlink(missing_ok=True)
        self.place(upload_id).with_suffix(".json").unlink(missing_ok=True)
        self._digests.pop(upload_id, None)

    @contextmanager
    def alone(self, upload_id: str) -> Iterator[None]:
        """Nobody else writes to it meanwhile. Raises Fault 423."""
        if upload_id in self._busy:
            raise Fault(423, "another request writes to this upload; wait until it ends", "locked")
        self._busy.add(upload_id)
        try:
            yield
        finally:
            self._busy.discard(upload_id)

    async def write(self, request: Request, upload: Upload, offset: int, wanted: tuple[str, bytes] | None) -> int:
        """The body of a request, behind what there is; returns the offset then. `wanted`: algorithm and checksum.

        Raises Fault 413 when it is more than was told, 460 when the checksum is another's: what came is given up then.
        """
        path = self.place(upload.upload_id)
        begun, checksum = offset, hashlib.new(wanted[0]) if wanted else None
        counted, digest = self._digests.pop(upload.upload_id, (0, hashlib.sha256()))
        whole = False
        with path.open("r+b", buffering=BUFFER) as file:
            file.seek(offset)
            try:
                with disk():
                    async for data in request.stream():
                        if offset + len(data) > upload.length:
                            raise Fault(413, f"more came than the {upload.length} bytes that were told")
                        file.write(data)
                        if checksum is not None:
                            checksum.update(data)
                        if counted == offset:
                            digest.update(data)
                            counted += len(data)
                        offset += len(data)
                whole = True
            except ClientDisconnect:
                pass  # what came is there, and the client will ask how much that is
            finally:
                good = not wanted or (whole and checksum is not None and checksum.digest() == wanted[1])
                path.with_suffix(".json").touch()  # both grow old together
                if not good:
                    file.flush()
                    file.truncate(begun)
                elif counted == offset:
                    self._digests[upload.upload_id] = counted, digest
        if whole and not good:
            raise Fault(460, "the checksum is not that of what came; send this part again", "checksum_mismatch")
        return offset if good else begun

    def digest(self, upload: Upload) -> str:
        """SHA-256 of its bytes, in hexadecimal; read again where they were not seen from the first to the last."""
        counted, digest = self._digests.pop(upload.upload_id, (0, hashlib.sha256()))
        if counted == upload.length:
            return str(digest.hexdigest())
        with self.place(upload.upload_id).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def of(request: Request) -> Uploads:
    """The application's."""
    state = request.app.state
    if not hasattr(state, "uploads"):
        state.uploads = Uploads(state.settings)
    found: Uploads = state.uploads
    return found


def metadata_of(text: str) -> dict[str, str]:
    """`name bmFtZQ==,queue …` as names and texts. Raises Fault 422."""
    if len(text) > METADATA_BYTES:
        raise Fault(413, f"Upload-Metadata is longer than {METADATA_BYTES} bytes; say less")
    found = {}
    for pair in filter(None, (one.strip() for one in text.split(","))):
        key, _, value = pair.partition(" ")
        try:
            found[key] = base64.b64decode(value.strip(), validate=True).decode("utf-8")
        except (ValueError, binascii.Error):
            raise Fault(422, f"Upload-Metadata: the value of {key[:100]} is no text in base64") from None
    return found


def _headers(uploads: Uploads, upload: Upload | None = None, offset: int | None = None) -> dict[str, str]:
    headers = {"Tus-Resumable": VERSION, "Cache-Control": "no-store"}
    if offset is not None:
        headers["Upload-Offset"] = str(offset)
    if upload is not None and not upload.task_id:
        headers["Upload-Expires"] = format_datetime(uploads.expires_at(upload), usegmt=True)
    if upload is not None and upload.task_id:
        headers[TASK] = upload.task_id
    return headers


def speaks(tus_resumable: Annotated[str, Header(description="1.0.0")] = "") -> None:
    """Raises Fault 412 for another version of the protocol."""
    if tus_resumable != VERSION:
        raise Fault(412, f"Tus-Resumable: {VERSION} is spoken here", headers={"Tus-Version": VERSION})


class _Route(APIRoute):
    """Errors name the protocol's version, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Fault as fault:
                fault.headers.setdefault("Tus-Resumable", VERSION)
                raise

        return handled


router = APIRouter(prefix="/uploads", tags=["uploads"], route_class=_Route)
_SPOKEN: Final = [Depends(speaks)]


@router.options("", status_code=204)
def discover(request: Request) -> Response:
    """What this server can do of the tus protocol."""
    uploads = of(request)
    capable = {
        "Tus-Version": VERSION,
        "Tus-Extension": ",".join(EXTENSIONS),
        "Tus-Max-Size": str(uploads.limit),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }
    return Response(status_code=204, headers=_headers(uploads) | capable)


@router.post("", status_code=201, dependencies=_SPOKEN, responses=documented(412, 413))
def create(
    request: Request,
    who: Feeder,
    upload_length: Annotated[int, Header(ge=0, description="bytes of the recording")],
    upload_metadata: Annotated[
        str, Header(description="tus: `filename` and the fields of POST /calls, each in base64")
    ] = "",
) -> Response:
    """Begin an upload; its address is in `Location`."""
    uploads = of(request)
    if not upload_length:
        raise Fault(422, "the recording is empty (0 bytes); record or copy it again", "empty")
    if upload_length > uploads.limit:
        raise Fault(413, f"the recording is larger than {uploads.settings.uploads.resumable_gb} GB; cut it in parts")
    metadata = metadata_of(upload_metadata)
    name = metadata.pop("filename", "") or metadata.pop("name", "")
    metadata = {
        key: value for key, value in metadata.items() if key not in ("name", "filetype", "type", "relativePath")
    }
    upload = Upload(
        upload_id=uuid.uuid4().hex,
        tenant=who.tenant,
        length=upload_length,
        metadata=upload_metadata,
        name=plain_name(name),
        details=Details.of(metadata),
        created_at=now(),
    )
    uploads.begin(upload)
    location = f"{request.url.path}/{upload.upload_id}"
    return Response(status_code=201, headers=_headers(uploads, upload, 0) | {"Location": location})


@router.head("/{upload_id}", dependencies=_SPOKEN, responses=documented(404, 410, 412))
async def offset_of(request: Request, who: Feeder, upload_id: UploadId) -> Response:
    """How much of an upload there is."""
    uploads = of(request)
    with uploads.alone(upload_id):
        upload, offset = uploads.find(who, upload_id)
        if offset == upload.length and not upload.task_id:  # ClickHouse was away, or the service died, at its last byte
            upload = await _finished(request, who, uploads, upload)
    headers = _headers(uploads, upload, offset) | {"Upload-Length": str(upload.length)}
    if upload.metadata:
        headers["Upload-Metadata"] = upload.metadata
    return Response(headers=headers)


@router.get("/{upload_id}", responses=documented(404, 410))
def get_upload(request: Request, who: Feeder, upload_id: UploadId) -> Progress:
    """The same, and the task once it is whole; for who does not speak tus."""
    uploads = of(request)
    upload, offset = uploads.find(who, upload_id)
    return Progress(
        upload_id=upload_id,
        offset=offset,
        length=upload.length,
        expires_at=uploads.expires_at(upload),
        task_id=upload.task_id or None,
    )


@router.patch("/{upload_id}", status_code=204, dependencies=_SPOKEN, responses=documented(404, 409, 410, 412, 413, 415))
async def append(
    request: Request,
    who: Feeder,
    upload_id: UploadId,
    upload_offset: Annotated[int, Header(ge=0)],
    content_type: Annotated[str, Header()] = "",
    upload_checksum: Annotated[str, Header(description="such as `sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=`")] = "",
) -> Response:
    """The next part. With the last one the upload becomes a task, named in `Calltide-Task`."""
    uploads = of(request)
    if content_type != "application/offset+octet-stream":
        raise Fault(415, "Content-Type: send application/offset+octet-stream")
    wanted = _wanted(upload_checksum)
    with uploads.alone(upload_id):
        upload, offset = uploads.find(who, upload_id)
        if upload_offset != offset:
            raise Fault(
                409, f"the upload is at {offset}; go on there", "wrong_offset", {"offset": offset},
                _headers(uploads, upload, offset),
            )  # fmt: skip
        if not upload.task_id:
            offset = await uploads.write(request, upload, offset, wanted)
            if offset == upload.length:
                upload = await _finished(request, who, uploads, upload)
    return Response(status_code=204, headers=_headers(uploads, upload, offset))


@router.delete("/{upload_id}", status_code=204, dependencies=_SPOKEN, responses=documented(404, 410, 412))
def terminate(request: Request, who: Feeder, upload_id: UploadId) -> Response:
    """Give up an upload. Its task, if it is whole, goes on: DELETE /tasks/{id} cancels that."""
    uploads = of(request)
    with uploads.alone(upload_id):
        uploads.find(who, upload_id)
        uploads.remove(upload_id)
    return Response(status_code=204, headers=_headers(uploads))


def _wanted(header: str) -> tuple[str, bytes] | None:
    """Algorithm and checksum. Raises Fault 400."""
    if not header:
        return None
    name, _, value = header.partition(" ")
    try:
        if name not in ALGORITHMS:
            raise ValueError
        return name, base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise Fault(400, f"Upload-Checksum: give one of {', '.join(ALGORITHMS)}, and its value in base64") from None


async def _finished(request: Request, who: Caller, uploads: Uploads, upload: Upload) -> Upload:
    """Make a task of what is whole. Raises Fault; what is no recording that is taken is removed, and what cannot be
    taken now stays, to be asked for again by HEAD."""

    def finish() -> Upload:
        path = uploads.place(upload.upload_id)
        brought = Brought(path, upload.name, upload.length, uploads.digest(upload))
        try:
            task, _ = take(request, who, brought, upload.details)
        except Fault as fault:
            if fault.status < 500:
                uploads.remove(upload.upload_id)
            raise
        whole = upload.model_copy(update={"task_id": task.task_id})
        uploads.keep(whole)
        path.unlink(missing_ok=True)
        return whole

    return await anyio.to_thread.run_sync(finish)


@router.post("/{upload_id}", dependencies=_SPOKEN, include_in_schema=False)
async def overridden(
    request: Request, who: Feeder, upload_id: UploadId, x_http_method_override: Annotated[str, Header()] = ""
) -> Response:
    """PATCH and DELETE, for who cannot send them."""
    match x_http_method_override:
        case "DELETE":
            return terminate(request, who, upload_id)
        case "PATCH":
            headers = request.headers
            try:
                offset = int(headers.get("upload-offset", ""))
            except ValueError:
                raise Fault(422, "Upload-Offset: give the offset at which this part begins") from None
            checksum = headers.get("upload-checksum", "")
            return await append(request, who, upload_id, offset, headers.get("content-type", ""), checksum)
    raise HTTPException(405)
