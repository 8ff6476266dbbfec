"""Old calls again, beside live work: the same to the last digit, each once, and nothing else touched."""

import base64
import contextlib
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from processors.audio import encode
from schemas.topics import FRAMES, STAGES, TOPICS
from streams import kafka, samples
from streams.settings import load
from tests.chain.support import Stack, until
from tests.workers import Reader

pytestmark = [pytest.mark.kafka, pytest.mark.models, pytest.mark.slow]

HEARD = (
    "call_id, channel, start_ms, end_ms, speaker, role, text, words.text, words.start_ms, asr_confidence, emotion, "
    "emotions, sentiment, score, text_score, voice_score, call_score, party_score, flags"
)


@pytest.fixture(scope="module")
def calls(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three calls that were heard live, in real time: two channels over the telephone, one channel of two voices, and
    two channels in packets of all lengths that come when they come."""
    paths = [samples.two_channel(tmp_path_factory.mktemp("calls")), samples.packaged()]
    ids = ["replayed-stereo", "replayed-mono", "replayed-jitter"]
    running = [stack.begin("ingest", path, "--call-id", name) for path, name in zip(paths, ids[:2], strict=True)]
    jittered(f"ws://127.0.0.1:{stack.ports['CALLTIDE_SERVE__PORT']}/twilio", ids[2], paths[0])
    for process in running:
        assert process.wait(180) == 0
    until(lambda: len(ended(stack, ids, "v1")) == len(ids), "the end of the live calls in ClickHouse")
    # What comes last of a call: behind it live work writes nothing more.
    made = "SELECT DISTINCT call_id FROM insights WHERE call_id LIKE 'replayed-%' AND pipeline_version = 'v1'"
    until(lambda: len(stack.rows(made)) == len(ids), "what is made of the live calls")
    return ids


def jittered(url: str, call_id: str, path: Path) -> None:
    """A stream of 20 s as Twilio sends it, but in packets of 10 to 400 ms, each up to half a second late."""
    sound, rate = soundfile.read(path, 20 * 8_000, dtype="float32", always_2d=True)
    tracks = {
        name: encode(np.ascontiguousarray(one), "mulaw")
        for name, one in zip(("inbound", "outbound"), sound.T, strict=True)
    }
    random = np.random.default_rng(7)

    with connect(url) as socket:

        def send(kind: str, fields: dict[str, Any]) -> None:
            socket.send(json.dumps({"event": kind, "sequenceNumber": "1", "streamSid": "MZ1", kind: fields}))

        form = {"encoding": "audio/x-mulaw", "sampleRate": rate, "channels": 1}
        named = {"accountSid": "AC1", "callSid": call_id}
        send("start", named | {"streamSid": "MZ1", "tracks": [*tracks], "mediaFormat": form, "customParameters": {}})
        begun, at = time.monotonic(), 0
        while at < len(sound):
            length = 80 * int(random.integers(1, 41))
            late_s = min(float(random.exponential(0.1)), 0.5)
            time.sleep(max(begun + (at + length) / rate + late_s - time.monotonic(), 0.0))
            for track, part in tracks.items():
                payload = base64.b64encode(part[at : at + length]).decode()
                send("media", {"track": track, "chunk": "1", "timestamp": str(at * 1_000 // rate), "payload": payload})
            at += length
        send("stop", named)
        with suppress(ConnectionClosed):
            while True:
                socket.recv(60)


def ended(stack: Stack, ids: list[str], version: str) -> list[dict[str, Any]]:
    names = ", ".join(f"'{name}'" for name in ids)
    where = f"call_id IN ({names}) AND pipeline_version = '{version}'"
    return stack.rows(
        f"SELECT call_id, duration_ms, end_reason, roles FROM calls FINAL WHERE {where} AND ended_at IS NOT NULL "
        "ORDER BY call_id"
    )


def utterances(stack: Stack, ids: list[str], version: str) -> list[dict[str, Any]]:
    names = ", ".join(f"'{name}'" for name in ids)
    return stack.rows(
        f"SELECT {HEARD} FROM utterances WHERE call_id IN ({names}) AND pipeline_version = '{version}' "
        "ORDER BY call_id, channel, start_ms"
    )


def bootstrap(stack: Stack) -> str:
    return f"127.0.0.1:{stack.ports['CALLTIDE_BROKER__PORT']}"


def live_offsets(stack: Stack) -> dict[tuple[str, int], int]:
    """What the live stages have committed."""
    own = load().kafka.model_copy(update={"bootstrap_servers": bootstrap(stack)})
    asking = kafka.Groups(load().model_copy(update={"kafka": own}))
    found = {}
    for row in STAGES:
        group = f"{load().kafka.group_prefix}.{row.id}"
        places = [TopicPartition(row.reads, number) for number in range(load().kafka.partitions)]
        for place in asking.committed(group, places, kafka.GROUP_ANSWER_S):
            found[row.name, place.partition] = place.offset
    asking.close()
    return found


def live_ends(stack: Stack) -> dict[tuple[str, int], int]:
    """Where the topics of live work end. Where they begin moves by itself: what is interim is kept for a minute."""
    admin = AdminClient({"bootstrap.servers": bootstrap(stack)})
    return {
        (topic.name, number): end
        for topic in TOPICS
        for number, (_, end) in kafka.ranges(admin, topic.name, range(topic.partitions), 30).items()
    }


def groups(stack: Stack) -> set[str]:
    admin = AdminClient({"bootstrap.servers": bootstrap(stack)})
    return {group.group_id for group in admin.list_consumer_groups().result(30).valid}


def topics(stack: Stack) -> set[str]:
    admin = AdminClient({"bootstrap.servers": bootstrap(stack)})
    return set(admin.list_topics(timeout=60).topics)


def test_killed_and_resumed_it_hears_what_was_heard_live(stack: Stack, calls: list[str]) -> None:
    """Live at 1× with packets as they came, against all at once, cut off in the middle by kill -9 of everything, and
    then of each worker."""
    before, live = (live_offsets(stack), live_ends(stack), groups(stack)), utterances(stack, calls, "v1")
    assert {one["call_id"] for one in live} == {*calls}
    running = stack.begin("replay", "--calls", ",".join(calls), "--version", "again")
    results = Reader(bootstrap(stack), "replay.again.scores", load().kafka.partitions)
    results.until(lambda: len(results.found) > 2, "the first results of the replay", 120)
    results.close()
    workers = psutil.Process(running.pid).children(recursive=True)
    os.kill(running.pid, signal.SIGKILL)
    for worker in workers:
        with_patience(worker)
    assert running.wait(60) == -signal.SIGKILL
    assert "again" in stack.calltide("replay", "list").stdout
    running = stack.begin("replay", "resume", "again")
    for worker in until_all_work(running.pid):
        with_patience(worker)
    assert "replay again is running" in stack.calltide("replay", "resume", "again", check=False).stderr
    out, err = running.communicate(timeout=240)
    assert (running.returncode, out.startswith("replayed 3 calls")) == (0, True), err
    assert utterances(stack, calls, "again") == live
    assert ended(stack, calls, "again") == ended(stack, calls, "v1")
    (doubled,) = stack.rows(
        "SELECT count() - uniqExact(call_id, channel, start_ms) AS more FROM utterances_heard "
        "WHERE pipeline_version = 'again'"
    )
    assert int(doubled["more"]) == 0
    assert utterances(stack, calls, "v1") == live, "live rows are as they were"
    (counted,) = stack.rows("SELECT sum(utterances) AS counted FROM utterance_hours WHERE pipeline_version = 'again'")
    assert int(counted["counted"]) == len(live), "counts are as exact as rows"
    assert live_offsets(stack) == before[0], "nobody of live work has read anything of it"
    assert live_ends(stack) == before[1], "nothing of it is in the topics of live work"
    left = groups(stack) - before[2]
    assert not {name for name in left if not name.startswith("calltide.replay.again.")}
    assert not {name for name in left if ".feed." in name}, "none has offsets in topics of live work"
    assert not {name for name in topics(stack) if name.startswith("replay.")}


def until_all_work(replay: int) -> list[psutil.Process]:
    """The workers of a replay that was just started, when there are those of all stages."""
    found: dict[tuple[str, str], psutil.Process] = {}

    def all_there() -> bool:
        for child in psutil.Process(replay).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                # A child that is still being started, or has ended, has another command line or none.
                match child.cmdline():
                    case [*_, "stage", name, "--slot", slot, "--nice", _, "--replay", _]:
                        found[name, slot] = child
        return {name for name, _ in found} == {one.name for one in STAGES}

    until(all_there, "the workers of the replay")
    return [*found.values()]


def with_patience(worker: psutil.Process) -> None:
    """kill -9 where the parent's death has not ended it yet."""
    try:
        worker.kill()
    except psutil.NoSuchProcess:
        return


def test_words_are_scored_again_without_audio(stack: Stack, calls: list[str]) -> None:
    done = stack.calltide(
        "replay", "--calls", calls[0], "--from-stage", "sentiment", "--version", "words",
        "--set", "sentiment.voice_weight=0",
    )  # fmt: skip
    assert done.stdout.startswith("replayed 1 calls")
    live, words = utterances(stack, calls[:1], "v1"), utterances(stack, calls[:1], "words")
    assert [one["text"] for one in words] == [one["text"] for one in live]
    assert all(one["score"] == one["text_score"] for one in words if one["score"] is not None)
    assert [one["score"] for one in words] != [one["score"] for one in live]
    compared = json.loads(stack.calltide("compare", "v1", "words", "--json").stdout)
    assert (compared["calls"]["both"], compared["words"]["wer"]) == (1, 0.0)
    assert compared["score"]["mean_absolute_difference"] > 0
    assert compared["latency_ms"]["a"]["p50"] > 0
    assert compared["latency_ms"]["b"]["p50"] is None, "a replay's scores are late by days"
    again = stack.calltide("replay", "--calls", calls[0], "--version", "words", check=False)
    assert f"version words has heard call {calls[0]} before, and would count twice" in again.stderr


def test_a_dry_run_does_nothing(stack: Stack, calls: list[str]) -> None:
    before = topics(stack)
    said = stack.calltide("replay", "--calls", ",".join(calls), "--version", "dry", "--dry-run").stdout
    assert said.startswith("3 calls, ")
    assert topics(stack) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--version", "x"), "which calls? give --from"),
        (("--all",), "give --version NAME"),
        (("--all", "--version", "v1"), "live calls are written as version v1; give another"),
        (
            ("--all", "--version", "x", "--from", "2001-01-01", "--to", "2001-01-02"),
            "no call that has ended is in this range; Kafka has whole calls from ",
        ),
        (("--all", "--version", "x", "--set", "kafka.partitions=3"), "a replay works where live work does"),
        (("--all", "--version", "x", "--name", "a.b"), "'a.b' is no name of a replay"),
        (("--all", "--version", "x", "--from-stage", "ears"), "no stage ears"),
        (("resume", "nobody"), "there is no replay nobody"),
        (("--calls", "nobody", "--version", "x"), "no call nobody of this time; Kafka has whole calls from "),
        (("--all", "--version", "x", "--set", "asr.ears=2"), "--set asr.ears=2: no such setting"),
        (("--all", "--version", "x", "--speed", "fast"), "--speed fast: give max, or times real time"),
        (("--all", "--version", "x", "--from", "2026-02-01", "--to", "2026-01-01"), "--from is not before --to"),
        (("--all", "--version", "-"), "is no name of a replay"),
    ],
)
def test_what_cannot_be_replayed_is_said(
    stack: Stack, calls: list[str], arguments: tuple[str, ...], words: str
) -> None:
    done = stack.calltide("replay", *arguments, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("compare", "v1", "nobody"), ("promote", "nobody"), ("drop-version", "nobody")])
def test_a_version_that_is_none_is_said(stack: Stack, calls: list[str], command: tuple[str, ...]) -> None:
    done = stack.calltide(*command, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("calltide: no call has version nobody; ")


def test_what_kafka_has_no_more_comes_from_the_archive_but_what_is_damaged(stack: Stack, calls: list[str]) -> None:
    """Last: it deletes the audio of all calls."""
    names = ",".join(calls[:2])
    assert stack.calltide("archive", "--calls", names).stdout.startswith("archived 2 calls, ")
    admin = AdminClient({"bootstrap.servers": bootstrap(stack)})
    ends = kafka.ranges(admin, FRAMES, range(load().kafka.partitions), 30)
    old = [TopicPartition(FRAMES, number, end) for number, (_, end) in ends.items()]
    for future in admin.delete_records(old).values():
        future.result(30)
    largest = max(stack.home.glob("archive/objects/*/*.flac"), key=lambda path: path.stat().st_size)  # of the mono call
    largest.write_bytes(largest.read_bytes()[:-1])
    done = stack.calltide("replay", "--calls", names, "--version", "kept", "--to-stage", "vad", "--keep", check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("replayed 1 calls")
    assert f"{calls[1]}: {largest} is damaged; restore it from a copy" in done.stderr
    assert "1 calls of the archive were left out" in done.stderr
    stack.calltide("replay", "drop", "kept")
    assert not {name for name in topics(stack) if name.startswith("replay.")}
