"""Recordings that are brought straight to a store of the S3 protocol, with the real broker, ClickHouse, sink and
feeder, and a real server of that protocol on this machine.

Neither its client (s3fs) nor the server (moto) is among the project's own packages: docs/uploads.md says how they are
installed, and without them these tests are skipped, but for the one of what is said then.
"""

import importlib.util
import os
import signal
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zipfile import ZipFile

import httpx
import numpy as np
import pytest

from deploy.process import free_port
from schemas.errors import CalltideError
from streams.api import stored
from streams.api.uploads import Brought, sniff
from streams.files import open_audio
from streams.settings import Settings
from tests.api.conftest import client_of, with_section
from tests.api.feeding import Served, feeder_pid, noise, serving
from tests.api.recordings import CODECS, encoded
from tests.api.test_uploads import arrived, bring
from tests.waiting import until

INSTALLED = all(importlib.util.find_spec(name) for name in ("s3fs", "moto"))
needed = pytest.mark.skipif(
    not INSTALLED, reason="needs packages of its own: pip install s3fs 'moto[server]' (docs/uploads.md)"
)
pytestmark = pytest.mark.kafka
MB = 1_000_000


class Server:
    """A server of the S3 protocol, on one port, which can be away for a while."""

    def __init__(self) -> None:
        self.port = free_port()
        self.begin()

    def begin(self) -> None:
        """What it has outlives its end."""
        self._running = importlib.import_module("moto.server").ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._running.start()

    def end(self) -> None:
        self._running.stop()


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    server = Server()
    yield server
    server.end()


@pytest.fixture(scope="module")
def served(
    store: Server,
    api_settings: Settings,  # made before the variables below are set
    kafka_bootstrap: str,
    clickhouse_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    import s3fs

    with pytest.MonkeyPatch.context() as patch:
        more = {
            "CALLTIDE_UPLOADS__STORE": f"s3://calls-{uuid.uuid4().hex[:8]}/new/",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }
        for name, value in more.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # a client is used again, with the address that it was made with
        s3fs.S3FileSystem().mkdir(urlsplit(more["CALLTIDE_UPLOADS__STORE"]).netloc)
        home = tmp_path_factory.mktemp("home")
        with serving(home, kafka_bootstrap, clickhouse_url, patch, **more) as running:
            yield running
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as one:
        yield one


def objects(served: Served) -> list[str]:
    """What lies in the bucket."""
    import s3fs

    files = s3fs.S3FileSystem(use_listings_cache=False)
    return [str(name) for name in files.find(urlsplit(served.settings.uploads.store).netloc)]


def begun(client: httpx.Client, path: Path, **more: Any) -> dict[str, Any]:
    answer = client.post("/uploads/presigned", json={"file": path.name, "bytes": path.stat().st_size, **more})
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


def put(upload: dict[str, Any], content: bytes) -> None:
    """As a client without a key does."""
    for part in upload["parts"]:
        piece = content[part["offset"] : part["offset"] + part["bytes"]]
        httpx.request(part["method"], part["url"], content=piece, headers=part["headers"]).raise_for_status()


def brought(client: httpx.Client, path: Path, **more: Any) -> httpx.Response:
    upload = begun(client, path, **more)
    put(upload, path.read_bytes())
    return client.post(f"/uploads/presigned/{upload['upload_id']}/complete")


@needed
def test_a_recording_goes_straight_to_the_store_and_is_heard_from_there(
    served: Served, client: httpx.Client, tmp_path: Path
) -> None:
    path = noise(tmp_path / "a call.wav", 100.0, channels=2)
    upload = begun(client, path, file="../../etc/a call.wav", queue="billing", metadata={"ticket": "4711"})
    (part,) = upload["parts"]
    address = urlsplit(part["url"])
    query = parse_qs(address.query)
    assert f"http://{address.netloc}" == os.environ["AWS_ENDPOINT_URL"]
    assert "content-length" in query["X-Amz-SignedHeaders"][0], "no more may come than was told"
    assert "etc" not in address.path
    lasts_s = (datetime.fromisoformat(upload["expires_at"]) - datetime.now(UTC)).total_seconds()
    assert lasts_s == pytest.approx(24 * 3_600, abs=60)
    assert int(query["X-Amz-Expires"][0]) == 24 * 3_600
    complete = f"/uploads/presigned/{upload['upload_id']}/complete"
    assert client.post(complete).json()["details"]["bytes"] == 0
    put(upload, path.read_bytes())
    answer = client.post(complete)
    assert answer.status_code == 202, answer.text
    task = answer.json()
    assert answer.headers["location"] == f"/api/v1/tasks/{task['task_id']}"
    assert (task["file"], task["duration_ms"], task["bytes"]) == ("a call.wav", 100_000, path.stat().st_size)
    done = served.settled(task["task_id"])
    assert [chunk["state"] for chunk in done["chunks"]] == ["completed"] * 4
    ((queue, source, metadata, duration_ms),) = served.rows(
        "SELECT queue, source, metadata, duration_ms FROM calls FINAL WHERE call_id = {c:String}", c=done["calls"][0]
    )
    assert (queue, source, metadata["ticket"], duration_ms) == ("billing", "a call.wav", "4711", 100_000)
    assert objects(served) == [], "as other recordings it goes when its task is done"
    again = client.post(complete)
    assert (again.status_code, again.json()["task_id"]) == (200, task["task_id"])
    assert client.delete(f"/uploads/presigned/{upload['upload_id']}").status_code == 409
    # The same recording in another way, and once more in this.
    assert bring(client, path).json()["duplicate"]
    once_more = brought(client, path)
    assert (once_more.status_code, once_more.json()["duplicate"]) == (200, True)
    assert objects(served) == []


@needed
def test_what_is_large_goes_in_parts(
    served: Served, client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smallest = 5 * 1024**2  # that S3 takes, but for the last
    monkeypatch.setattr(stored, "ONE_PUT", smallest)
    monkeypatch.setattr(stored, "PART", smallest)
    path = noise(tmp_path / "large.wav", 200.0, channels=2)
    upload = begun(client, path)
    assert [part["bytes"] for part in upload["parts"]] == [smallest, path.stat().st_size - smallest]
    complete = f"/uploads/presigned/{upload['upload_id']}/complete"
    put({"parts": upload["parts"][1:]}, path.read_bytes())
    missing = client.post(complete)
    assert (missing.status_code, missing.json()["error"]) == (409, "incomplete")
    assert missing.json()["details"] | {"request_id": ""} == {
        "bytes": path.stat().st_size - smallest, "of": path.stat().st_size, "request_id": "",
    }  # fmt: skip
    put({"parts": upload["parts"][:1]}, path.read_bytes())
    task = client.post(complete)
    assert task.status_code == 202, task.text
    assert served.settled(task.json()["task_id"])["duration_ms"] == 200_000
    given_up = begun(client, path)
    put({"parts": given_up["parts"][:1]}, path.read_bytes())
    assert client.delete(f"/uploads/presigned/{given_up['upload_id']}").status_code == 204
    with pytest.raises(httpx.HTTPStatusError):
        put({"parts": given_up["parts"][1:]}, path.read_bytes())
    assert objects(served) == []


@needed
def test_what_is_no_recording_is_refused_and_removed(served: Served, client: httpx.Client, tmp_path: Path) -> None:
    archive = BytesIO()
    with ZipFile(archive, "w") as zipped:
        zipped.writestr("call.wav", b"\0" * 1_000)
    path = tmp_path / "call.wav"
    path.write_bytes(archive.getvalue())
    upload = begun(client, path)
    put(upload, path.read_bytes())
    complete = f"/uploads/presigned/{upload['upload_id']}/complete"
    answer = client.post(complete)
    assert (answer.status_code, "a zip archive" in answer.json()["message"]) == (415, True)
    assert objects(served) == []
    assert client.post(complete).status_code == 410
    for wanted, status, word in (
        ({"file": "a.wav", "bytes": 0}, 422, "bytes"),
        ({"file": "a.wav"}, 422, "bytes"),
        ({"file": "a.wav", "bytes": 10, "colour": "red"}, 422, "colour"),
        ({"file": "a.wav", "bytes": 200_000 * MB}, 413, "100 GB"),
    ):
        answer = client.post("/uploads/presigned", json=wanted)
        assert (answer.status_code, word in answer.json()["message"]) == (status, True), answer.text
    for unknown in ("0" * 32, "no", "..%2f..%2fserver"):
        assert client.post(f"/uploads/presigned/{unknown}/complete").status_code == 404
    # The size that was told is the size that is taken.
    whole = noise(tmp_path / "whole.wav", 2.0)
    upload = begun(client, whole, bytes=whole.stat().st_size + 1)
    httpx.put(upload["parts"][0]["url"], content=whole.read_bytes()).raise_for_status()
    short = client.post(f"/uploads/presigned/{upload['upload_id']}/complete")
    client.delete(f"/uploads/presigned/{upload['upload_id']}").raise_for_status()
    assert (short.status_code, short.json()["error"]) == (409, "incomplete")


@needed
def test_tenants_and_roles_are_told_apart(api_settings: Settings, served: Served, tmp_path: Path) -> None:
    chosen = with_section(api_settings, "uploads", store=served.settings.uploads.store)
    chosen = chosen.model_copy(update={"home": tmp_path})
    wanted = {"file": "a.wav", "bytes": 10}
    with client_of(chosen) as client:

        def ask(key: str, path: str = "", **body: Any) -> Any:
            return client.post(f"/api/v1/uploads/presigned{path}", headers={"X-API-Key": key}, json=wanted | body)

        assert client.post("/api/v1/uploads/presigned", json=wanted).status_code == 401
        assert ask("acme-viewer").status_code == 403
        assert ask("acme-ingest", tenant="beta").status_code == 403
        upload = ask("acme-ingest")
        assert upload.status_code == 201, upload.text
        place = f"/{upload.json()['upload_id']}/complete"
        assert ask("beta-admin", place).status_code == 404
        assert ask("acme-ingest", place).status_code == 409


@needed
def test_what_died_in_the_middle_goes_on_and_waits_for_a_store_that_is_away(
    served: Served, client: httpx.Client, store: Server, tmp_path: Path
) -> None:
    task_id = brought(client, noise(tmp_path / "long.wav", 900.0, channels=2)).json()["task_id"]
    log = served.settings.directory / "logs" / "feeder.log"

    def completed() -> int:
        return sum(chunk["state"] == "completed" for chunk in served.task(task_id)["chunks"])

    def halted(at_least: int, how: signal.Signals) -> int:
        until(lambda: completed() >= at_least, "some chunks")
        pid = feeder_pid()
        assert pid is not None
        os.kill(pid, how)
        return pid

    halted(2, signal.SIGKILL)
    killed_at = completed()
    pid = halted(killed_at + 3, signal.SIGSTOP)
    away_at = completed()
    assert 2 <= killed_at < away_at < 20
    store.end()
    try:
        os.kill(pid, signal.SIGCONT)
        until(lambda: "trying again: the store of" in log.read_text(), "the store to be missed")
    finally:
        store.begin()
    task = served.settled(task_id)
    assert [chunk["state"] for chunk in task["chunks"]] == ["completed"] * 30
    found = arrived(served, task["calls"][0])
    starts = [number for number, record in enumerate(found) if record.headers["kind"] == b"call_started"]
    assert len(starts) >= 3
    first_ms = [int(found[number + 1].headers["sample"]) // 8 for number in starts]
    # Each time at the first chunk that was not completed, and all of it is there in the end.
    assert [ms % 30_000 for ms in first_ms] == [0] * len(starts)
    assert first_ms[0] == 0
    assert first_ms[1] >= killed_at * 30_000
    assert first_ms[2] >= away_at * 30_000
    samples = {(one.headers["channel"], one.headers["sample"]) for one in found if one.headers["kind"] == b"audio"}
    assert len(samples) == 2 * 9_000
    assert objects(served) == []


@needed
def test_an_object_is_read_as_it_was_when_it_was_taken(served: Served, client: httpx.Client, tmp_path: Path) -> None:
    path = noise(tmp_path / "one.wav", 300.0, channels=2)
    upload = begun(client, path)
    put(upload, path.read_bytes())
    url = stored.url_of(served.settings, upload["upload_id"])
    as_it_was = stored.look(url)
    assert as_it_was is not None
    with as_it_was.open() as file:
        assert file.read(1_000) == path.read_bytes()[:1_000]
        put(upload, noise(path, 300.0, channels=2).read_bytes())
        with pytest.raises(stored.Away):
            file.seek(-1_000, os.SEEK_END)
            file.read(1_000)
    with pytest.raises(CalltideError, match="is another than the one that was taken"):
        as_it_was.open()
    assert client.delete(f"/uploads/presigned/{upload['upload_id']}").status_code == 204
    with pytest.raises(CalltideError, match="is not in the store any more"):
        as_it_was.open()


@needed
@pytest.mark.parametrize("kind", CODECS)
def test_each_format_is_decoded_from_the_store_as_from_the_disk(served: Served, tmp_path: Path, kind: str) -> None:
    import s3fs

    path = tmp_path / "call"
    path.write_bytes(encoded(kind, 3.0))
    url = stored.url_of(served.settings, kind)
    s3fs.S3FileSystem().pipe_file(url, path.read_bytes())
    there = stored.look(url)
    assert there is not None
    container = sniff(Brought(path, "call"))
    local, remote = (open_audio(path, container=container, opener=opener) for opener in (None, there.open))
    assert np.array_equal(np.concatenate([*local.blocks()]), np.concatenate([*remote.blocks()]))
    stored.remove(url)


@needed
def test_what_nobody_finishes_or_comes_too_late_is_removed_when_its_address_expires(
    served: Served, client: httpx.Client, tmp_path: Path
) -> None:
    path = noise(tmp_path / "late.wav", 2.0)
    unfinished, given_up = begun(client, path), begun(client, path)
    put(unfinished, path.read_bytes())
    client.delete(f"/uploads/presigned/{given_up['upload_id']}").raise_for_status()
    put(given_up, path.read_bytes())
    uploads = stored.Uploads(served.settings)
    assert len(objects(served)) == 2
    hour_s = 3_600
    assert {unfinished["upload_id"], given_up["upload_id"]}.isdisjoint(uploads.tidy(time.time() + 23 * hour_s))
    assert {unfinished["upload_id"], given_up["upload_id"]} <= {*uploads.tidy(time.time() + 25 * hour_s)}
    assert objects(served) == []
    assert client.post(f"/uploads/presigned/{unfinished['upload_id']}/complete").status_code == 404


@needed
def test_a_store_that_is_away_is_said(served: Served, client: httpx.Client, store: Server) -> None:
    upload = client.post("/uploads/presigned", json={"file": "a.wav", "bytes": 10}).json()
    store.end()
    try:
        answer = client.post(f"/uploads/presigned/{upload['upload_id']}/complete")
    finally:
        store.begin()
    assert (answer.status_code, answer.json()["details"]["part"]) == (503, "store")
    assert "127.0.0.1" not in answer.text


@pytest.mark.skipif(INSTALLED, reason="the store's client is installed")
def test_a_client_that_is_not_installed_is_said(api_settings: Settings, tmp_path: Path) -> None:
    chosen = with_section(api_settings, "uploads", store="s3://bucket/new").model_copy(update={"home": tmp_path})
    with client_of(chosen, "acme-ingest") as client:
        answer = client.post("/api/v1/uploads/presigned", json={"file": "a.wav", "bytes": 10})
    assert (answer.status_code, answer.json()["error"]) == (503, "not_installed")
    assert "pip install s3fs" in answer.json()["message"]


def test_without_a_store_the_other_ways_are_named(api_settings: Settings) -> None:
    with client_of(with_section(api_settings, "uploads", store=""), "acme-ingest") as client:
        answer = client.post("/api/v1/uploads/presigned", json={"file": "a.wav", "bytes": 10})
    assert (answer.status_code, answer.json()["error"]) == (404, "no_store")
    assert "/api/v1/uploads" in answer.json()["message"]
