"""Recordings in an S3-compatible store, brought straight there by presigned addresses: what is begun and not taken yet,
and the store itself. streams/api/presigned.py has the endpoints.

A changer must know: an address goes on working after the recording was taken, given up or removed, until it expires.
So an object is taken as it was then, by its ETag, and is never read as another; and what is known of an upload
(`<home>/uploads/presigned/ID.json`) stays until then, so that what comes late is removed, too.
"""

import io
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import fsspec
from pydantic import BaseModel, ConfigDict

from schemas.errors import CalltideError
from schemas.events import UtcTime
from streams.api.tasks import Queue
from streams.settings import Settings

log = logging.getLogger(__name__)

ONE_PUT: Final = 5 * 1024**3
"""Bytes: the most that S3 takes in one request (Amazon S3 User Guide, "Multipart upload limits")."""
PART: Final = 64 * 1024**2
"""Smallest part of what is larger. Judgement: what is sent again when a line breaks."""
MOST_PARTS: Final = 1_000
"""S3 takes 10,000, and lists so many at one time."""
LONGEST_S: Final = 7 * 24 * 3_600
"""The longest that an address of Signature Version 4 may work."""
BLOCK: Final = 4 * 1024**2
"""Bytes that are asked for at one time. Judgement: what is read of a recording is one piece after the other."""
_CLIENT: Final = {
    "signature_version": "s3v4",  # the older one does not sign how much may come
    "request_checksum_calculation": "when_required",  # other makers' stores do not know those of today's botocore
    "response_checksum_validation": "when_required",
}


class Away(OSError):
    """The store does not answer, or refuses."""


class NotInstalled(CalltideError):
    """There is no client of the store's protocol."""


class Upload(BaseModel):
    """What is known of an upload."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    upload_id: str
    tenant: str | None
    """Of who began it; None: he sees all tenants."""
    length: int
    name: str
    details: dict[str, Any]
    created_at: UtcTime
    expires_at: UtcTime
    url: str
    """Of its object: s3://bucket/prefix/ID."""
    parts_id: str = ""
    """S3's id of an upload in parts."""
    task_id: str = ""
    """Once it is taken."""
    ended: bool = False
    """Whether it was given up, or refused."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it was when it was complete."""

    url: str
    etag: str
    bytes: int

    def open(self) -> io.RawIOBase:
        """Its bytes, as they are asked for. Raises CalltideError when it is gone or another by now; this and every
        read raise Away."""
        with _asking(self.url):
            files = _files()
            try:
                file = files.open(_path(self.url), "rb", block_size=BLOCK, cache_type="readahead")
            except FileNotFoundError:
                raise CalltideError("the recording is not in the store any more; bring it again") from None
        if file.details["ETag"] != self.etag:
            file.close()
            raise CalltideError("the recording in the store is another than the one that was taken; bring it again")
        return _Object(file, self.url)


class _Object(io.RawIOBase):
    """A file of fsspec, whose faults are all Away: each store's client has errors of its own, and a decoder would take
    some of them for damage."""

    def __init__(self, file: Any, url: str) -> None:
        self._file = file
        self._url = url

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        with _asking(self._url):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go there."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Where it is."""
        return int(self._file.tell())


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """Raises Away for whatever the store's client raises."""
    try:
        yield
    except CalltideError:
        raise
    except Exception as error:
        raise Away(f"the store of {url} does not answer as it should: {error or type(error).__name__}") from error


def _files() -> Any:
    """The store's client. Raises NotInstalled."""
    try:
        return fsspec.filesystem("s3", config_kwargs=_CLIENT)
    except ImportError:
        raise NotInstalled(
            "CALLTIDE_UPLOADS__STORE needs a package that is not installed: pip install s3fs (docs/uploads.md)"
        ) from None


def _path(url: str) -> str:
    return url.removeprefix("s3://")


def _named(url: str) -> dict[str, str]:
    bucket, _, key = _path(url).partition("/")
    return {"Bucket": bucket, "Key": key}


def url_of(settings: Settings, upload_id: str) -> str:
    """Where an upload's object is to lie."""
    return f"{settings.uploads.store.rstrip('/')}/{upload_id}"


def lengths(size: int) -> list[int]:
    """Bytes of each part in which so many are to be sent."""
    if size <= ONE_PUT:
        return [size]
    part = max(PART, -(-size // MOST_PARTS))
    return [min(part, size - first) for first in range(0, size, part)]


def begin_parts(url: str) -> str:
    """S3's id of an upload in parts. Raises Away, NotInstalled."""
    with _asking(url):
        return str(_files().call_s3("create_multipart_upload", **_named(url))["UploadId"])


def signed(upload: Upload) -> list[str]:
    """The address to send each part to, good for just as many bytes. Raises Away, NotInstalled."""
    seconds = round((upload.expires_at - upload.created_at).total_seconds())
    with _asking(upload.url):
        files, found = _files(), []
        for number, length in enumerate(lengths(upload.length), 1):
            asked: dict[str, Any] = {"client_method": "put_object"}
            if upload.parts_id:
                asked = {"client_method": "upload_part", "UploadId": upload.parts_id, "PartNumber": number}
            found.append(str(files.url(_path(upload.url), expires=seconds, ContentLength=length, **asked)))
        return found


def join(upload: Upload) -> int:
    """Make one object of its parts, if all are there; returns how many bytes there are. Raises Away, NotInstalled."""
    with _asking(upload.url):
        files, named = _files(), _named(upload.url) | {"UploadId": upload.parts_id}
        try:
            parts = files.call_s3("list_parts", **named, MaxParts=MOST_PARTS).get("Parts", [])
        except FileNotFoundError:  # they were joined before
            return upload.length
        if (size := sum(part["Size"] for part in parts)) == upload.length:
            wanted = [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in parts]
            files.call_s3("complete_multipart_upload", **named, MultipartUpload={"Parts": wanted})
        return int(size)


def look(url: str) -> Stored | None:
    """An object as it is now; None: there is none. Raises Away, NotInstalled."""
    with _asking(url):
        try:
            found = _files().info(_path(url), refresh=True)
        except FileNotFoundError:
            return None
    return Stored(url, found["ETag"], found["size"]) if found["type"] == "file" else None


def remove(url: str, parts_id: str = "") -> None:
    """Remove an object, or its parts. Raises Away, NotInstalled."""
    with _asking(url):
        files = _files()
        if parts_id:
            try:
                files.call_s3("abort_multipart_upload", **_named(url), UploadId=parts_id)
            except FileNotFoundError:
                pass  # they were joined, or removed
        # S3 answers alike whether there was one or not.
        files.call_s3("delete_object", **_named(url))


class Uploads:
    """What is known of the uploads of this machine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.directory = Queue(settings).uploads / "presigned"
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    def find(self, upload_id: str) -> Upload | None:
        """One that was begun, by an id of the form that they have."""
        try:
            return Upload.model_validate_json((self.directory / f"{upload_id}.json").read_text())
        except FileNotFoundError:
            return None

    def keep(self, upload: Upload) -> None:
        """Write down what is known of it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        new = self.directory / f"{upload.upload_id}.new"
        new.write_text(upload.model_dump_json())
        new.replace(new.with_suffix(".json"))

    def end(self, upload: Upload) -> None:
        """It is given up, or refused. Raises Away, NotInstalled."""
        self.keep(upload.model_copy(update={"ended": True}))
        remove(upload.url, upload.parts_id)

    @contextmanager
    def alone(self, upload_id: str) -> Iterator[bool]:
        """Whether nobody else is at it now; others are kept from it meanwhile."""
        with self._lock:
            free = upload_id not in self._busy
            self._busy.add(upload_id)
        try:
            yield free
        finally:
            if free:
                self._busy.discard(upload_id)

    def is_wanted(self, url: str) -> bool:
        """Whether an object is the recording of a task that is still to be done."""
        return any(order.stored == url for order in Queue(self.settings).orders())

    def tidy(self, at: float | None = None) -> list[str]:
        """Remove what lies in the store of uploads whose addresses have expired; returns their ids. `at`: Unix seconds;
        None: now. Raises Away, NotInstalled."""
        moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
        gone = []
        for path in self.directory.glob("*.json"):
            upload = Upload.model_validate_json(path.read_text())
            if upload.expires_at < moment and not self.is_wanted(upload.url):
                remove(upload.url, upload.parts_id)
                path.unlink(missing_ok=True)
                gone.append(upload.upload_id)
        return gone


def expiry(settings: Settings, created_at: datetime) -> datetime:
    """Until when an upload that begins then may be finished."""
    return created_at + min(timedelta(hours=settings.uploads.keep_hours), timedelta(seconds=LONGEST_S))
