"""The tus protocol: by its own Python client and by its JavaScript client where there is one, and by hand where neither
would do what is tested."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tusclient import client as tus
from tusclient.exceptions import TusCommunicationError

from streams.api.uploads import MB
from tests.api.feeding import Served, noise, serving

pytestmark = pytest.mark.kafka

VERSION = {"Tus-Resumable": "1.0.0"}
OCTETS = {"Content-Type": "application/offset+octet-stream"}


@pytest.fixture(scope="module")
def served(kafka_bootstrap: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        with serving(home, kafka_bootstrap, clickhouse_url, patch, CALLTIDE_UPLOADS__RESUMABLE_GB="1") as running:
            yield running


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(**VERSION) as one:
        yield one


def base64_of(**metadata: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items())


def begun(client: httpx.Client, length: int, **metadata: str) -> str:
    headers = {"Upload-Length": str(length), "Upload-Metadata": base64_of(**metadata)}
    answer = client.post("/uploads", headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"].removeprefix("/api/v1")


def patched(client: httpx.Client, place: str, offset: int, content: bytes, **headers: str) -> httpx.Response:
    return client.patch(place, content=content, headers={"Upload-Offset": str(offset), **OCTETS, **headers})


def test_tuspy_goes_on_where_it_was_broken_off(served: Served, tmp_path: Path) -> None:
    path = noise(tmp_path / "a call.wav", 65.0)
    url = f"{served.url}/api/v1/uploads"
    metadata = {"filename": "a call.wav", "queue": "billing", "metadata": '{"ticket": "1"}'}

    def uploader(at: str | None = None) -> Any:
        one = tus.TusClient(url).uploader(
            str(path), chunk_size=200_000, metadata=metadata, upload_checksum=True, url=at
        )
        if at:
            one.set_url(at)
        return one

    first = uploader()
    first.upload_chunk()
    first.upload_chunk()
    again = uploader(first.url)
    assert again.get_offset() == 400_000
    again.upload()
    upload_id = first.url.rsplit("/", 1)[1]
    with served.client() as client:
        told = client.get(f"/uploads/{upload_id}").json()
    assert told["offset"] == told["length"] == path.stat().st_size
    task = served.settled(told["task_id"])
    assert (task["file"], task["duration_ms"]) == ("a call.wav", 65_000)
    ((queue, metadata, digest),) = served.rows(
        "SELECT queue, metadata['ticket'], metadata['sha256'] FROM calls FINAL WHERE call_id = {c:String}",
        c=task["calls"][0],
    )
    assert (queue, metadata, digest) == ("billing", "1", hashlib.sha256(path.read_bytes()).hexdigest())
    assert not (served.settings.directory / "uploads" / "tus" / upload_id).exists()
    with pytest.raises(TusCommunicationError):
        tus.TusClient(url).uploader(str(noise(tmp_path / "b.wav", 1.0)), metadata={"roles": "boss"}).upload()


def test_what_the_server_can_do(client: httpx.Client) -> None:
    answer = client.options("/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) == {"creation", "checksum", "termination", "expiration"}
    assert answer.headers["tus-max-size"] == str(1_000 * MB)
    refused = httpx.post(str(client.base_url) + "uploads", headers={"Upload-Length": "1"})
    assert (refused.status_code, refused.headers["tus-version"]) == (412, "1.0.0")
    assert refused.headers["tus-resumable"] == "1.0.0"


def test_offsets_and_checksums_are_held(served: Served, client: httpx.Client, tmp_path: Path) -> None:
    content = noise(tmp_path / "one.wav", 2.0).read_bytes()
    place = begun(client, len(content), filename="one.wav")
    assert patched(client, place, 5, content).status_code == 409
    assert client.head(place).headers["upload-offset"] == "0"
    assert "upload-expires" in client.head(place).headers
    wrong = {"Upload-Checksum": "sha1 " + base64.b64encode(hashlib.sha1(b"another").digest()).decode()}
    assert patched(client, place, 0, content[:1_000], **wrong).status_code == 460
    assert client.head(place).headers["upload-offset"] == "0"
    assert patched(client, place, 0, b"", **{"Upload-Checksum": "crc7 eA=="}).status_code == 400
    right = {"Upload-Checksum": "sha256 " + base64.b64encode(hashlib.sha256(content[:1_000]).digest()).decode()}
    answer = patched(client, place, 0, content[:1_000], **right)
    assert (answer.status_code, answer.headers["upload-offset"]) == (204, "1000")
    assert client.patch(place, content=b"x", headers={"Upload-Offset": "1000"}).status_code == 415
    assert patched(client, place, 1_000, content).status_code == 413
    override = {"X-HTTP-Method-Override": "PATCH", "Upload-Offset": "1000", **OCTETS}
    last = client.post(place, content=content[1_000:], headers=override)
    assert last.status_code == 204, last.text
    assert served.settled(last.headers["calltide-task"])["state"] == "completed"
    assert client.head(place).headers["calltide-task"] == last.headers["calltide-task"]
    # The same again, in one part: the same task.
    place = begun(client, len(content), filename="two.wav")
    assert patched(client, place, 0, content).headers["calltide-task"] == last.headers["calltide-task"]


def test_what_is_no_recording_is_refused_and_removed(served: Served, client: httpx.Client) -> None:
    place = begun(client, 1_000, filename="call.wav")
    answer = patched(client, place, 0, b"PK\x03\x04" + bytes(996))
    assert (answer.status_code, answer.json()["error"]) == (415, "unsupported_media_type")
    assert client.head(place).status_code == 404
    for headers, status in (
        ({"Upload-Length": "0"}, 422),
        ({"Upload-Length": str(1_000 * MB + 1)}, 413),
        ({"Upload-Length": "-1"}, 422),
        ({}, 422),
        ({"Upload-Length": "9", "Upload-Metadata": "roles ???"}, 422),
        ({"Upload-Length": "9", "Upload-Metadata": "roles Ym9zcw=="}, 201),
        ({"Upload-Length": "9", "Upload-Metadata": "colour cmVk"}, 422),
    ):
        assert client.post("/uploads", headers=headers).status_code == status, headers
    for name in ("../../etc/passwd", "%2e%2e%2fpasswd", "0" * 31, "x" * 500):
        assert client.head(f"/uploads/{name}").status_code in (404, 405)


def test_an_upload_can_be_given_up_or_grows_old(served: Served, client: httpx.Client) -> None:
    place = begun(client, 1_000, filename="call.wav")
    assert client.delete(place).status_code == 204
    assert client.head(place).status_code == 404
    place = begun(client, 1_000, filename="call.wav")
    path = served.settings.directory / "uploads" / "tus" / place.rsplit("/", 1)[1]
    os.utime(path, (0, 0))
    assert client.head(place).status_code == 410
    assert client.head(place).status_code == 404
    assert not path.exists()


_SCRIPT = """
const tus = require("tus-js-client");
const file = require("fs").readFileSync(process.argv[3]);
const urls = [];
const begin = (size) => new Promise((resolve, reject) => {
  const upload = new tus.Upload(file, {
    endpoint: process.argv[2], chunkSize: 100000, metadata: { filename: "js.wav", filetype: "audio/wav" },
    uploadUrl: urls[0], retryDelays: null,
    onError: reject,
    onChunkComplete: (_size, accepted) => {
      if (size && accepted >= size) { urls.push(upload.url); upload.abort().then(() => resolve(accepted)); }
    },
    onSuccess: ({ lastResponse }) => resolve(lastResponse.getHeader("Calltide-Task")),
  });
  upload.start();
});
begin(200000).then(() => begin(0)).then((task) => console.log(JSON.stringify({ task })));
"""


def test_tus_js_client_goes_on_where_it_was_broken_off(served: Served, tmp_path: Path) -> None:
    modules = os.environ.get("TUS_JS_CLIENT", "")
    if not modules or shutil.which("node") is None:
        pytest.skip("needs Node.js and TUS_JS_CLIENT=DIRECTORY of `npm install tus-js-client`")
    path, script = noise(tmp_path / "js.wav", 30.0), tmp_path / "upload.js"
    script.write_text(_SCRIPT)
    command = ["node", str(script), f"{served.url}/api/v1/uploads", str(path)]
    env = os.environ | {"NODE_PATH": f"{modules}/node_modules"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    assert served.settled(json.loads(done.stdout)["task"])["duration_ms"] == 30_000
