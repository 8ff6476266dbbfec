"""The contracts: what is written can be read back, and no change slips in that an old reader cannot take."""

import copy
import itertools
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import generate
from schemas.audio import BYTES_PER_SAMPLE, RATES, AudioPacket, Codec
from schemas.errors import CalltideError
from schemas.events import EVENTS, CallEnded, CallInfo, CallStarted, Progress, Segment, decode, encode
from schemas.topics import CHAIN, DEAD_LETTERS, LANES, SCORES, STAGES, TOPICS, Lane, frames, lanes, topics

INFO = CallInfo(call_id="a", started_at=datetime(2026, 1, 1, tzinfo=UTC), roles=("agent", "customer"))
SEGMENT = Segment(
    call=INFO, channel=1, start_ms=20, end_ms=1_020, cut="pause", codec="mulaw", rate=8_000, captured_at=INFO.started_at
)

ENDED = CallEnded(call=INFO, duration_ms=5, ended_at=INFO.started_at, reason="idle")

packets = st.builds(
    lambda channel, codec, rate, sample, sequence, samples: AudioPacket(
        channel, codec, rate, sample, sequence, b"\1" * samples * BYTES_PER_SAMPLE[codec]
    ),
    st.integers(0, 9),
    st.sampled_from(get_args(Codec)),
    st.sampled_from(RATES),
    st.integers(0, 2**40),
    st.integers(0, 2**31),
    st.integers(0, 3_200),
)


@given(packets)
def test_a_packet_comes_back_as_it_was(packet: AudioPacket) -> None:
    assert AudioPacket.decode(dict(packet.headers()), packet.value) == packet


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("codec", b"opus"),
        ("codec", b"\xff"),
        ("rate", b"44100"),
        ("rate", b"fast"),
        ("sample", b"-1"),
        ("channel", b""),
        ("sequence", None),
    ],
)
def test_a_wrong_packet_is_refused_in_words(header: str, value: bytes | None) -> None:
    headers = dict(AudioPacket(0, "mulaw", 8_000, 0, 0, b"").headers())
    headers.pop(header)
    with pytest.raises(CalltideError, match="packet"):
        AudioPacket.decode(headers if value is None else headers | {header: value}, b"")


def test_a_packet_that_ends_inside_a_sample_is_refused() -> None:
    headers = dict(AudioPacket(0, "pcm_s16le", 8_000, 0, 0, b"").headers())
    with pytest.raises(CalltideError, match="inside a sample"):
        AudioPacket.decode(headers, b"123")


@pytest.mark.parametrize("audio", [None, b"", b"\0\1"])
@pytest.mark.parametrize(
    "event",
    [
        CallStarted(call=INFO),
        Progress(call=INFO, at_ms=5),
        SEGMENT,
        ENDED,
    ],
)
def test_an_event_comes_back_from_the_header_or_the_value(event: CallStarted, audio: bytes | None) -> None:
    headers, value = encode(event, audio)
    assert decode(dict(headers), value) == event
    assert dict(headers)["kind"] == event.kind.encode()
    assert value == audio or audio is None


def test_times_are_utc_on_the_wire() -> None:
    paris = timezone(timedelta(hours=1))
    call = CallInfo(call_id="a", started_at=datetime(2026, 1, 1, 13, 0, tzinfo=paris), roles=("unknown",))
    assert b'"started_at":"2026-01-01T12:00:00Z"' in encode(CallStarted(call=call))[1]
    with pytest.raises(ValidationError, match="needs its zone"):
        CallInfo(call_id="a", started_at=datetime.fromisoformat("2026-01-01T00:00:00"), roles=("unknown",))


def test_unknown_fields_are_ignored_so_that_newer_writers_can_be_read() -> None:
    headers, value = encode(SEGMENT)
    assert decode(dict(headers), value.replace(b'{"kind"', b'{"added_later":1,"kind"', 1)) == SEGMENT


@pytest.mark.parametrize("kind", EVENTS)
def test_committed_schemas_are_those_of_the_models(kind: str) -> None:
    committed = (generate.DIRECTORY / f"{kind}.json").read_text()
    assert committed == generate.text(generate.generated()[kind]), "run python -m schemas.generate"


def test_no_schema_of_a_kind_that_is_gone() -> None:
    assert {path.stem for path in generate.DIRECTORY.glob("*.json")} == set(EVENTS)


def _without_text(schema: dict[str, Any]) -> None:
    del schema["properties"]["text"]


def _new_without_default(schema: dict[str, Any]) -> None:
    schema["properties"]["loudness"] = {"type": "number"}


def _other_type(schema: dict[str, Any]) -> None:
    schema["properties"]["start_ms"]["type"] = "number"


def _wider_enum(schema: dict[str, Any]) -> None:
    schema["properties"]["role"]["enum"].append("bot")


def _nested(schema: dict[str, Any]) -> None:
    del schema["$defs"]["Word"]["properties"]["confidence"]


def _lost_default(schema: dict[str, Any]) -> None:
    del schema["properties"]["flags"]["default"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_text, "text is gone"),
        (_new_without_default, "loudness is new and has no default"),
        (_other_type, "start_ms was integer and is number"),
        (_wider_enum, "role could be"),
        (_nested, r"words\[\].confidence is gone"),
        (_lost_default, "flags has lost its default"),
    ],
)
def test_a_change_that_breaks_a_reader_is_found(change: Callable[[dict[str, Any]], None], words: str) -> None:
    old = generate.generated()["score"]
    new = copy.deepcopy(old)
    change(new)
    assert any(re.search(words, fault) for fault in generate.breaks(old, new)), generate.breaks(old, new)


def test_a_field_added_with_a_default_breaks_nobody() -> None:
    old = generate.generated()["score"]
    new = copy.deepcopy(old)
    new["properties"]["loudness"] = {"type": "number", "default": 0}
    assert generate.breaks(old, new) == []
    assert generate.breaks(old, old) == []


@pytest.mark.parametrize("lane", LANES)
def test_the_table_of_topics_is_the_chain(lane: Lane) -> None:
    by_name = {topic.name: topic for topic in TOPICS}
    chain = [lanes(row)[LANES.index(lane)] for row in CHAIN]
    assert frames(lane) == chain[0].reads
    for before, after in itertools.pairwise(chain):
        assert before.writes == after.reads
        assert by_name[before.writes].written_by == before.name
        assert by_name[before.writes].read_by == (after.name,)
    assert chain[-1].writes == SCORES, "whoever reads scores reads both lanes"
    assert by_name[chain[0].state_topic].cleanup == "compact"
    assert {topic.partitions for topic in topics(24)} == {24}, "one call is one partition of every topic"


def test_what_reads_the_scores_reads_both_lanes_at_once() -> None:
    by_name = {topic.name: topic for topic in TOPICS}
    beside = [row for row in STAGES if row not in CHAIN]
    assert {row.name for row in beside} == {"metrics", "rules", "insights"}
    for row in beside:
        assert lanes(row) == (row,)
        assert row.reads == SCORES and row.name in by_name[SCORES].read_by
        assert by_name[row.writes].written_by == row.name
        assert by_name[row.state_topic].cleanup == "compact"


def test_the_lanes_share_nothing_but_the_scores() -> None:
    live, batch = (
        {name for row in rows for name in (row.reads, row.writes, row.state_topic, row.id)}
        for rows in zip(*map(lanes, CHAIN), strict=True)
    )
    assert live & batch == {SCORES}
    compacted = {topic.name for topic in TOPICS if topic.cleanup == "compact"}
    assert compacted == {row.state_topic for rows in map(lanes, STAGES) for row in rows}
    assert {topic.name: topic.read_by for topic in TOPICS}[DEAD_LETTERS] == ("sink", "people")
