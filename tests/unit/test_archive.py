"""Calls in the archive: what comes out is what went in, and what is damaged is told."""

import base64
import os
import resource
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from processors.base import Output, Record
from schemas.audio import BYTES_PER_SAMPLE, AudioPacket, Codec
from schemas.errors import CalltideError
from streams.archive import Archive, Damaged, Kept
from streams.settings import Settings
from tests.scripted import call, ended, started

KEY = base64.b64encode(bytes(range(32))).decode()


def archive(directory: Path, key: str = "") -> Archive:
    base = Settings()
    own = base.archive.model_copy(update={"url": str(directory), "key": key})
    return Archive(base.model_copy(update={"archive": own}))


def records(call_id: str, packets: Sequence[AudioPacket], *, end: bool = True) -> list[Record]:
    of = call(call_id)
    start_ms = round(of.started_at.timestamp() * 1_000)

    def record(output: Output, at_ms: int) -> Record:
        headers = dict(output.headers)
        return Record(call_id, headers["kind"].decode(), headers, output.value, at_ms)

    sound = [Record(call_id, "audio", dict(one.headers()), one.value, start_ms + at) for at, one in enumerate(packets)]
    last = [record(Output.of(ended(of)), start_ms + 60_000)] if end else []
    return [record(Output.of(started(of)), start_ms), *sound, *last]


def packets(count: int = 20, codec: Codec = "mulaw", rate: int = 8_000, seed: int = 1) -> list[AudioPacket]:
    """Two channels of noise, 100 ms a packet."""
    chance = np.random.default_rng(seed)
    length = rate // 10
    return [
        AudioPacket(channel, codec, rate, at * length, at, chance.bytes(length * BYTES_PER_SAMPLE[codec]))
        for at in range(count)
        for channel in (0, 1)
    ]


@pytest.mark.parametrize(("codec", "rate"), [("mulaw", 8_000), ("alaw", 8_000), ("pcm_s16le", 16_000)])
@pytest.mark.parametrize("key", ["", KEY])
def test_every_record_comes_back_byte_for_byte(tmp_path: Path, codec: Codec, rate: int, key: str) -> None:
    sent = records("one", packets(codec=codec, rate=rate))
    store = archive(tmp_path, key)
    kept = store.put(sent, "batch")
    found = store.find("one")
    assert found == kept
    assert (kept.lane, kept.reason, kept.duration_ms) == ("batch", "hangup", 60_000)
    assert store.records(kept) == sent


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.integers(0, 3_000),
            st.integers(0, 50),
            st.binary(max_size=60),
            st.sampled_from(["mulaw", "mulaw", "alaw", "pcm_s16le"]),
        ),
        max_size=12,
    )
)
def test_lost_doubled_late_and_odd_packets_come_back(
    tmp_path: Path, given_packets: list[tuple[int, int, int, bytes, Codec]]
) -> None:
    """Samples of two packets may lie over each other, and a codec may change within a call."""
    sent = records(
        "one",
        [
            AudioPacket(channel, codec, 8_000, sample, sequence, value[: len(value) // 2 * 2])
            for channel, sample, sequence, value, codec in given_packets
        ],
    )
    store = archive(tmp_path)
    assert store.records(store.put(sent)) == sent


def test_audio_is_flac_that_any_player_plays(tmp_path: Path) -> None:
    tone = (8_000 * np.sin(np.arange(8_000) * 0.2)).astype("<i2")
    sent = [
        AudioPacket(0, "pcm_s16le", 8_000, at, at // 800, tone[at : at + 800].tobytes()) for at in range(0, 8_000, 800)
    ]
    kept = archive(tmp_path).put(records("one", sent))
    (path,) = tmp_path.rglob("*.flac")
    samples, rate = soundfile.read(path, dtype="int16")
    assert (rate, path.name) == (8_000, kept.objects["0"])
    assert np.array_equal(samples, tone)
    assert kept.bytes < sum(len(one.value) for one in sent)


def test_a_call_that_fell_silent_has_no_end(tmp_path: Path) -> None:
    kept = archive(tmp_path).put(records("one", packets(), end=False))
    assert (kept.ended_at, kept.reason, kept.duration_ms) == (None, "idle", 39)


def test_the_same_call_again_adds_nothing(tmp_path: Path) -> None:
    store = archive(tmp_path)
    sent = records("one", packets())
    first = store.put(sent)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("objects/*/*")}
    assert store.put(sent) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("objects/*/*")} == files
    assert [one.call.call_id for one in store.calls() if isinstance(one, Kept)] == ["one"]


def test_nothing_of_a_call_can_be_read_without_the_key(tmp_path: Path) -> None:
    sent = records("secret-caller", packets())
    kept = archive(tmp_path, KEY).put(sent)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"secret-caller" not in stored
    assert b"fLaC" not in stored
    assert not [path for path in tmp_path.rglob("*") if "secret" in path.name]
    other = base64.b64encode(os.urandom(32)).decode()
    with pytest.raises(Damaged, match="does not open with this CALLTIDE_ARCHIVE__KEY"):
        archive(tmp_path, other).find("secret-caller")
    assert archive(tmp_path, KEY).records(kept) == sent


def test_what_is_damaged_or_gone_is_named(tmp_path: Path) -> None:
    store = archive(tmp_path)
    kept = store.put(records("one", packets()))
    (first, _) = sorted(tmp_path.rglob("*.flac"))
    content = bytearray(first.read_bytes())
    content[100] ^= 1
    first.write_bytes(content)
    with pytest.raises(Damaged, match=f"{first.name} is damaged; restore it"):
        store.records(kept)
    first.unlink()
    with pytest.raises(Damaged, match=f"{first.name} is gone"):
        store.records(kept)
    (manifest,) = tmp_path.glob("calls/*/*.json")
    manifest.write_text("{}")
    (fault,) = store.calls()
    assert isinstance(fault, Damaged)
    assert manifest.name in str(fault)
    with pytest.raises(Damaged, match=f"{manifest.name} is no call"):
        store.find("one")
    store.put(records("one", packets()))
    text = manifest.read_text()
    manifest.write_text(text.replace("hangup", "hangdn"))
    with pytest.raises(Damaged, match=f"{manifest.name} is damaged; restore it"):
        store.find("one")


@pytest.mark.parametrize("key", ["", KEY])
def test_what_was_cut_short_is_written_again(tmp_path: Path, key: str) -> None:
    """As a machine that loses power may leave it."""
    store = archive(tmp_path, key)
    sent = records("one", packets())
    kept = store.put(sent)
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    for path in files:
        path.write_bytes(path.read_bytes()[:-7])
    assert store.put(sent) == kept
    assert store.records(kept) == sent
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == files, "nothing is left that nobody finds"


def test_another_call_of_the_same_name_replaces_it_and_leaves_nothing(tmp_path: Path) -> None:
    store = archive(tmp_path)
    store.put(records("one", packets(seed=1)))
    kept = store.put(records("one", packets(seed=2)))
    stored = {path.name for path in tmp_path.rglob("*") if path.is_file() and "objects" in path.parts}
    assert stored == {*kept.objects.values()}


def test_a_full_disk_is_said_and_nothing_half_is_taken_for_a_call(tmp_path: Path) -> None:
    """Every file may have so many bytes: what is written beyond is refused in the middle, as on a full disk."""
    store = archive(tmp_path)
    sent = records("one", packets(100))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(CalltideError, match=f"the archive {tmp_path} cannot be written: .*; make room or mend"):
            store.put(sent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.find("one") is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "what was written fills the disk no longer"
    assert store.records(store.put(sent)) == sent


def test_a_forgotten_call_stays_forgotten_and_a_later_one_of_its_name_does_not(tmp_path: Path) -> None:
    store = archive(tmp_path)
    now = datetime.now(UTC)
    assert not store.forgotten()("one", now)
    store.forget("one")
    asked = store.forgotten()
    assert asked("one", now - timedelta(days=1))
    assert not asked("one", now + timedelta(minutes=1))
    assert not asked("two", now - timedelta(days=1))


def test_a_call_is_removed_and_what_others_share_stays(tmp_path: Path) -> None:
    store = archive(tmp_path)
    same = packets()
    one, two = store.put(records("one", same)), store.put(records("two", same))
    assert one.objects["0"] == two.objects["0"], "content has one name"
    assert store.remove(one) == 2, "the call and its records"
    assert store.find("one") is None
    assert store.records(two) == records("two", same)
    store.remove(two)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("key", ["short", "!!!", base64.b64encode(bytes(16)).decode()])
def test_a_key_that_is_none_is_said(tmp_path: Path, key: str) -> None:
    with pytest.raises(CalltideError, match="CALLTIDE_ARCHIVE__KEY is no key: 32 bytes in base64"):
        archive(tmp_path, key)


def test_an_address_that_is_none_is_said() -> None:
    base = Settings()
    own = base.archive.model_copy(update={"url": "nowhere://x"})
    with pytest.raises(CalltideError, match="the archive nowhere://x cannot be opened"):
        Archive(base.model_copy(update={"archive": own}))
