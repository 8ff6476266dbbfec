"""Recordings that go straight to an S3-compatible store, by addresses that are signed for one file: the service sees
none of their bytes come, and takes what lies there as POST /calls takes a recording.

A changer must know: who has an address may send what he likes to it until it expires, so nothing is believed of an
object but what is read from it at the end.
"""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from schemas.events import UtcTime
from streams.api import stored
from streams.api.access import Caller
from streams.api.parameters import UploadId
from streams.api.problems import Fault, documented, not_found, unavailable
from streams.api.stored import Away, NotInstalled, Upload, Uploads
from streams.api.tasks import Feeder, Task, known, store_of
from streams.api.uploads import Brought, Details, plain_name, take
from streams.packets import now
from streams.settings import Settings

GB: Final = 1_000_000_000
_ID: Final = re.compile(r"[0-9a-f]{32}")

router = APIRouter(prefix="/uploads/presigned", tags=["uploads"])


class Wanted(Details):
    """A recording that is to be brought."""

    file: str = Field(min_length=1, max_length=1_000, description="its name", examples=["call.wav"])
    bytes: int = Field(ge=1, description="how large it is", examples=[345_600_044])


class Part(BaseModel):
    """What is to be sent by one request."""

    offset: int = Field(description="where it begins in the recording", examples=[0])
    bytes: int = Field(description="how many are to be sent, no fewer and no more", examples=[345_600_044])
    method: Literal["PUT"] = "PUT"
    url: str = Field(
        description="who has it may send this part, and needs no key for that",
        examples=["https://calls.s3.eu-central-1.amazonaws.com/new/0b9c2f4e6d8a4c3b9e1f2a3b4c5d6e7f?X-Amz-Signature=…"],
    )
    headers: dict[str, str] = Field(
        description="to be sent with it; HTTP clients do so by themselves",
        examples=[{"Content-Length": "345600044"}],
    )


class Begun(BaseModel):
    """An upload, and where to send what."""

    upload_id: str = Field(examples=["0b9c2f4e6d8a4c3b9e1f2a3b4c5d6e7f"])
    parts: list[Part] = Field(description="one; of what is larger than 5 GiB, several, which may be sent side by side")
    expires_at: UtcTime = Field(description="until when it has to be complete")


def _of(request: Request) -> Uploads:
    """The application's uploads. Raises Fault 404 where there is no store."""
    state = request.app.state
    if not state.settings.uploads.store:
        raise Fault(
            404, "there is no store to bring recordings to; send them to /api/v1/calls or /api/v1/uploads", "no_store"
        )
    if not hasattr(state, "presigned"):
        state.presigned = Uploads(state.settings)
    found: Uploads = state.presigned
    return found


@contextmanager
def _store() -> Iterator[None]:
    """Raises Fault 503 when the store is away."""
    try:
        yield
    except NotInstalled as error:
        raise unavailable("store", str(error), "not_installed") from None
    except Away as error:
        stored.log.warning("%s", error)
        raise unavailable("store") from None


@contextmanager
def _held(uploads: Uploads, who: Caller, upload_id: str) -> Iterator[Upload]:
    """What is known of an upload, which nobody else is at meanwhile. Raises Fault 404 for another tenant's, too; 410,
    423, 503."""
    upload = uploads.find(upload_id) if _ID.fullmatch(upload_id) else None
    if upload is None or who.tenant not in (None, upload.tenant):
        raise not_found("upload", upload_id)
    with uploads.alone(upload_id) as free, _store():
        if not free:
            raise Fault(423, "another request is at this upload; wait until it ends")
        upload = uploads.find(upload_id) or upload  # as that has left it
        if upload.ended or (upload.expires_at < now() and not upload.task_id):
            raise Fault(410, "the upload was given up, refused, or not finished in time; begin it again")
        yield upload


@router.post("", status_code=201, responses=documented(404, 413))
def begin_presigned(request: Request, response: Response, who: Feeder, wanted: Wanted) -> Begun:
    """Begin an upload straight to the store: send the parts of the recording by PUT to the addresses that are told,
    without a key, and say then that it is complete."""
    uploads = _of(request)
    settings: Settings = request.app.state.settings
    if wanted.bytes > settings.uploads.resumable_gb * GB:
        raise Fault(413, f"the recording is larger than {settings.uploads.resumable_gb} GB; cut it in parts")
    if wanted.tenant and who.tenant not in (None, wanted.tenant):
        raise Fault(403, "tenant: this key is for another tenant; leave it out")
    upload_id, created_at = uuid.uuid4().hex, now()
    lengths, url = stored.lengths(wanted.bytes), stored.url_of(settings, upload_id)
    with _store():
        upload = Upload(
            upload_id=upload_id,
            tenant=who.tenant,
            length=wanted.bytes,
            name=plain_name(wanted.file),
            details=wanted.model_dump(mode="json", exclude={"file", "bytes"}),
            created_at=created_at,
            expires_at=stored.expiry(settings, created_at),
            url=url,
            parts_id=stored.begin_parts(url) if len(lengths) > 1 else "",
        )
        uploads.keep(upload)
        addresses = stored.signed(upload)
    parts, offset = [], 0
    for length, address in zip(lengths, addresses, strict=True):
        headers = {"Content-Length": str(length)}
        parts.append(Part(offset=offset, bytes=length, url=address, headers=headers))
        offset += length
    response.headers["Location"] = f"{request.url.path}/{upload_id}"
    response.headers["Cache-Control"] = "no-store"  # who has an address may write
    return Begun(upload_id=upload_id, parts=parts, expires_at=upload.expires_at)


@router.post(
    "/{upload_id}/complete",
    status_code=202,
    responses={
        200: {"model": Task, "description": "it was complete before, or the recording was brought before: its task"},
        **documented(404, 409, 410, 413, 415, 423),
    },
)
def complete_presigned(request: Request, response: Response, who: Feeder, upload_id: UploadId) -> Task:
    """Every part is in the store: take the recording, as POST /calls does. It is read once for that, to its end."""
    uploads = _of(request)
    with _held(uploads, who, upload_id) as upload:
        if upload.task_id:
            response.status_code = 200
            return known(store_of(request), who, upload.task_id)[0]
        found = stored.look(upload.url)
        if found is None and upload.parts_id:
            there = stored.join(upload)
            found = stored.look(upload.url) if there == upload.length else None
        else:
            there = found.bytes if found else 0
        if found is None or there != upload.length:
            raise Fault(
                409, f"{there} of {upload.length} bytes are in the store; send what is missing, and say so again",
                "incomplete", {"bytes": there, "of": upload.length},
            )  # fmt: skip
        brought = Brought(Path(upload.name), upload.name, upload.length, stored=found)
        try:
            task, before = take(request, who, brought, Details.model_validate(upload.details))
        except Fault as fault:
            if fault.status < 500:
                uploads.end(upload)
            raise
        uploads.keep(upload.model_copy(update={"task_id": task.task_id}))
        if before:
            response.status_code = 200
        if not uploads.is_wanted(upload.url):
            stored.remove(upload.url)
    response.headers["Location"] = f"/api/v1/tasks/{task.task_id}"
    return task


@router.delete("/{upload_id}", status_code=204, responses=documented(404, 409, 410, 423))
def give_up_presigned(request: Request, who: Feeder, upload_id: UploadId) -> None:
    """Give up an upload: what came of it is removed."""
    uploads = _of(request)
    with _held(uploads, who, upload_id) as upload:
        if upload.task_id:
            raise Fault(409, f"the upload is complete; DELETE /tasks/{upload.task_id} cancels what became of it")
        uploads.end(upload)
