"""The archive in an object store, against a server of the S3 protocol on this machine.

Neither the client (s3fs) nor the server (moto) is among the project's own packages: docs/replay.md says how they are
installed, and without them these tests are skipped.
"""

import uuid
from collections.abc import Iterator

import pytest

from schemas.errors import CalltideError
from streams.archive import Archive, Damaged, Kept
from streams.settings import Settings
from tests.unit.test_archive import KEY, packets, records

WITHOUT = "needs packages of its own: pip install s3fs 'moto[server]' (docs/replay.md)"
pytest.importorskip("s3fs", reason=WITHOUT)
server = pytest.importorskip("moto.server", reason=WITHOUT)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server that forgets all at its end."""
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of the test's own, and the variables by which AWS's own clients find it."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"calls-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem().mkdir(name)
    return name


def archive(bucket: str, key: str = "") -> Archive:
    base = Settings()
    own = base.archive.model_copy(update={"url": f"s3://{bucket}/prefix", "key": key})
    return Archive(base.model_copy(update={"archive": own}))


@pytest.mark.parametrize("key", ["", KEY])
def test_every_record_comes_back_byte_for_byte(bucket: str, key: str) -> None:
    sent = records("one", packets(40))
    kept = archive(bucket, key).put(sent)
    again = archive(bucket, key)
    assert again.find("one") == kept
    assert again.find("two") is None
    assert again.records(kept) == sent
    assert [one.call.call_id for one in again.calls() if isinstance(one, Kept)] == ["one"]


def test_damage_is_named_and_a_call_is_removed(bucket: str) -> None:
    import s3fs

    store = archive(bucket)
    one, two = (store.put(records(name, packets(4, seed=at))) for at, name in enumerate(("one", "two")))
    files = s3fs.S3FileSystem()
    place = f"{bucket}/prefix/objects/{one.objects['0'][:2]}/{one.objects['0']}"
    files.pipe_file(place, files.cat_file(place)[:-10])
    with pytest.raises(Damaged, match=f"{one.objects['0']} is damaged"):
        archive(bucket).records(one)
    store.put(records("one", packets(4, seed=0)))
    assert archive(bucket).records(one) == records("one", packets(4, seed=0)), "archived again, it is whole again"
    store.remove(two)
    store.forget("two")
    assert archive(bucket).find("two") is None
    assert archive(bucket).forgotten()("two", two.call.started_at)
    assert not [name for name in files.find(bucket) if name.endswith(".part") or two.objects["0"] in name]


def test_a_bucket_that_is_none_is_said(bucket: str) -> None:
    store = archive("no-such-bucket")
    assert [*store.calls()] == []
    with pytest.raises(CalltideError, match="the archive s3://no-such-bucket/prefix cannot be written"):
        store.put(records("one", packets(2)))


def test_a_server_that_is_away_is_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()  # a client is used again, with the address that it was made with
    with pytest.raises(CalltideError, match=f"the archive s3://{bucket}/prefix cannot be"):
        archive(bucket).put(records("one", packets(2)))
