"""One party's voice on another's channel is found and marked; who talks at the same time is not."""

from collections.abc import Sequence
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from processors import audio, vad
from processors.base import IDLE, Record
from processors.cross_talk import ABSOLUTE_DB, HOP_MS, QUIETER_DB, SHORTEST_MS, Sketch, leaked, level, quiet, sketch
from processors.diarization import Config, Diarization
from processors.models.silero import SileroVad
from schemas.audio import AudioPacket
from schemas.events import CallStarted, Progress, Role, Segment, Turn
from schemas.topics import CHAIN
from streams.memory import Chain, Log, Worker
from tests.unit.stage_records import call, event_of, marks, record, run, utterance

Floats = NDArray[np.float32]
PARTIES: tuple[Role, ...] = ("agent", "customer")


class Nobody:
    """No voice is asked for where each party has a channel."""

    id, dim = "nobody", 3

    def embed(self, audio: Sequence[Floats]) -> Floats:
        assert not audio
        return np.zeros((0, self.dim), np.float32)


@cache
def babble(length_ms: int, seed: int) -> Floats:
    """16 kHz noise of which the level changes as that of speech does, in each of eight bands by itself; RMS 0.1."""
    numbers, n = np.random.default_rng(seed), length_ms * 16
    spectrum = np.fft.rfft(numbers.normal(0, 1, n))
    edges = np.searchsorted(np.fft.rfftfreq(n, 1 / 16_000), np.geomspace(200, 4_000, 9))
    sound = np.zeros(n)
    for first, end in pairwise(edges):
        band = np.zeros_like(spectrum)
        band[first:end] = spectrum[first:end]
        steps = numbers.uniform(-1.5, 0, length_ms // 80 + 2)
        sound += np.fft.irfft(band, n) * 10 ** np.interp(np.arange(n) / 1_280, np.arange(len(steps)), steps)
    return np.asarray(0.1 * sound / np.sqrt((sound**2).mean()), np.float32)


def spoken(channel: int, start_ms: int, sound: Floats, **fields: Any) -> Record:
    segment = utterance(Segment, call(PARTIES), start_ms, len(sound) // 16, channel=channel, **fields)
    return record(segment, sound)


def mark(at_ms: int) -> Record:
    return record(Progress(call=call(PARTIES), at_ms=at_ms))


def heard(records: Sequence[Record], config: Config | None = None) -> list[Any]:
    written, dead, _ = run("diarization", Diarization(config or Config(), Nobody()), records)
    assert not dead
    return [event_of(item) for item in written]


def crossing(found: Sequence[Any]) -> list[tuple[int, int, int]]:
    """(channel, start, end) of the turns that are said to be leaks."""
    return [(e.channel, e.start_ms, e.end_ms) for e in found if isinstance(e, Turn) and "cross_talk" in e.flags]


SAID, FAINT = babble(4_000, 1), np.float32(10 ** (-25 / 20))


@pytest.mark.parametrize("fields", [{}, {"codec": "mulaw", "rate": 8_000}, {"codec": "alaw", "rate": 8_000}])
@pytest.mark.parametrize("delay_ms", [0, 70, 200, 300])
@pytest.mark.parametrize("first", ["leak", "original"])
def test_a_leak_is_marked_whichever_comes_first(fields: dict[str, Any], delay_ms: int, first: str) -> None:
    leak, original = spoken(1, 1_000 + delay_ms, SAID * FAINT, **fields), spoken(0, 1_000, SAID, **fields)
    records = [leak, original] if first == "leak" else [original, leak]
    found = heard([*records, mark(6_000)])
    assert crossing(found) == [(1, 1_000 + delay_ms, 5_000 + delay_ms)]
    assert [event.kind for event in found] == ["turn", "turn", "progress"]
    assert [event.channel for event in found[:2]] == [1, 0] if first == "leak" else [0, 1], "the order is kept"
    assert crossing(heard([*records, mark(6_000)], Config(cross_talk=False))) == []


@pytest.mark.parametrize("other", [np.float32(0.56) * SAID, babble(4_000, 2) * FAINT, babble(4_000, 2)])
def test_who_talks_at_the_same_time_is_not_suppressed(other: Floats) -> None:
    """Too loud for a leak; quiet, but somebody else; both."""
    assert crossing(heard([spoken(0, 1_000, SAID), spoken(1, 1_100, other), mark(6_000)])) == []


def test_an_echo_of_what_was_said_long_before_is_not_taken_for_a_leak() -> None:
    assert crossing(heard([spoken(0, 1_000, SAID), spoken(1, 6_000, SAID * FAINT), mark(11_000)])) == []


def test_a_leak_before_or_after_the_party_s_own_words_is_cut_off() -> None:
    own = babble(2_000, 3)
    written, dead, _ = run(
        "diarization",
        Diarization(Config(), Nobody()),
        [
            spoken(0, 1_000, SAID),
            answer := spoken(1, 1_060, np.concatenate([SAID * FAINT, own, SAID * FAINT])),
            spoken(0, 7_000, SAID),
            mark(12_000),
        ],
    )
    assert not dead
    pieces = [item for item in written if item.kind == "turn" and event_of(item).channel == 1]
    found = [event_of(item) for item in pieces]
    assert [turn.flags for turn in found] == [("cross_talk",), (), ("cross_talk",)]
    assert b"".join(item.value for item in pieces) == answer.value
    assert [one.end_ms for one in found[:2]] == [other.start_ms for other in found[1:]]
    assert abs(found[0].end_ms - 5_060) <= 250
    assert abs(found[1].end_ms - 7_060) <= 250
    assert found[0].end_ms < 5_060 < 7_060 < found[1].end_ms, "the own words are whole"


def test_a_quiet_segment_waits_until_the_others_are_known_and_all_behind_it() -> None:
    faint = spoken(1, 1_000, SAID * FAINT)
    stage = Diarization(Config(), Nobody())
    state = stage.open("call-1")

    def step(item: Record) -> tuple[list[str], bytes | None]:
        (done,) = stage.process([(state, item)])
        return [dict(output.headers)["kind"].decode() for output in done.outputs], done.snapshot

    assert step(faint) == ([], None), "no cut: it is not in the snapshot"
    assert step(mark(4_000)) == ([], None)
    kinds, snapshot = step(mark(5_000))
    assert kinds == ["turn", "progress", "progress"]
    assert snapshot
    assert step(spoken(1, 6_000, SAID * FAINT))[0] == ["turn"], "by now this is how the party speaks"
    assert step(spoken(1, 11_000, SAID * FAINT * np.float32(0.25))) == ([], None)
    (idle,) = stage.process([(state, Record("call-1", IDLE, {}, b"", 0))])
    assert len(idle.outputs) == 1, "nothing is lost with a call of which the end never comes"


def test_a_quiet_segment_does_not_wait_for_ever() -> None:
    records = [spoken(1, 1_000, SAID * FAINT), spoken(1, 24_000, SAID), spoken(1, 29_000, SAID)]
    assert [event.start_ms for event in heard(records)] == [1_000, 24_000, 29_000]


def test_the_end_of_the_call_decides() -> None:
    started, _, ended = (record(event) for event in marks(call(PARTIES)))
    found = heard([started, spoken(1, 1_000, SAID * FAINT), spoken(0, 900, SAID[:16_000]), ended])
    assert [event.kind for event in found] == ["call_started", "turn", "turn", "call_ended"]
    assert isinstance(found[0], CallStarted)


def test_what_is_kept_for_comparison_is_small_and_soon_forgotten() -> None:
    stage = Diarization(Config(), Nobody())
    state = stage.open("call-1")
    (step,) = stage.process([(state, spoken(0, 1_000, babble(15_000, 4)))])
    assert step.snapshot is not None
    assert len(step.snapshot) < 8_192
    for at_ms in range(2_000, 20_000, 1_000):
        (step,) = stage.process([(state, mark(at_ms))])
    assert step.snapshot is not None
    assert len(step.snapshot) < 200


def test_a_sketch_has_the_level_of_the_sound() -> None:
    tone = np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000).astype(np.float32) * np.float32(0.1)
    item = spoken(0, 1_007, tone)
    drawn = sketch(item.value, event_of(item))
    assert drawn.first == 51, "the first frame that lies whole in the segment"
    assert len(drawn.decibels) == (1_000 - 13 - 32) // HOP_MS + 1
    assert np.allclose(level(drawn.decibels), 20 * np.log10(0.1 / np.sqrt(2)), atol=1)
    assert not len(sketch(b"", event_of(item)).decibels)


def test_quiet_stretches_are_long_and_end_where_it_is_loud() -> None:
    def faint(*lengths: int) -> list[tuple[int, int]]:
        loudness = np.concatenate([np.full(n, -60 if i % 2 else -20) for i, n in enumerate(lengths)])
        return quiet(np.tile(loudness[:, None] - 10, (1, 10)).astype(np.int8), ABSOLUTE_DB)

    enough = SHORTEST_MS // HOP_MS
    assert faint(0, enough) == [(0, enough)]
    assert faint(0, enough - 1) == []
    assert faint(20, 60, 20) == [(30, 70)]
    assert faint(0, 60, 20) == [(0, 50)]
    assert faint(20, 10, 20) == []


def test_a_leak_must_be_quieter() -> None:
    item = spoken(0, 1_000, SAID)
    drawn = sketch(item.value, event_of(item))
    for down, expected in ((QUIETER_DB - 1, False), (QUIETER_DB + 1, True)):
        assert leaked(Sketch(drawn.first, drawn.decibels - np.int8(down)), [drawn]) is expected


@settings(max_examples=25)
@given(
    said=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.integers(1, 4),
            st.sampled_from([1.0, 0.5, 0.05]),
            st.sampled_from([500, 1_500, 3_000]),
        ),
        max_size=10,
    ),
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    crashes=st.lists(st.integers(1, 6), max_size=4),
    ended=st.booleans(),
)
def test_neither_batches_nor_crashes_change_a_byte(
    said: list[tuple[int, int, float, int]], batches: list[int], crashes: list[int], ended: bool
) -> None:
    at = [0, 0]
    records = []
    for channel, seed, gain, length_ms in said:
        records.append(spoken(channel, at[channel], babble(length_ms, seed) * np.float32(gain)))
        at[channel] += length_ms + 100
        if length_ms == 500:
            records.append(mark(min(at)))
    # Without an end something may wait still.
    records.append(record(marks(call(PARTIES))[2]) if ended else mark(max(at) + 5_000))
    stage = Diarization(Config(), Nobody())
    whole, dead, _ = run("diarization", stage, records)
    assert not dead
    # While something waits there is no cut: a worker that dies again and again there would never get on.
    worker = Worker(CHAIN[1], stage, Log(records), Log())
    for turn in count():
        if worker.at_end:
            break
        worker.turn(batches[turn % len(batches)])
        if crashes and turn % crashes[-1] == 0:
            crashes.pop()
            worker.crash()
    assert worker.target.records == whole
    assert [item.kind for item in whole if item.kind != "turn"] == [r.kind for r in records if r.kind != "segment"]
    for channel in (0, 1):
        mine = [item for item in whole if item.kind == "turn" and event_of(item).channel == channel]
        given_ = [item for item in records if item.kind == "segment" and event_of(item).channel == channel]
        assert b"".join(item.value for item in mine) == b"".join(item.value for item in given_)
        assert len({event_of(item).start_ms for item in mine}) == len(mine)


def through_vad(channels: Floats, silero: SileroVad) -> list[Record]:
    """Two 8 kHz channels, as mu-law through the VAD."""
    info = call(PARTIES)
    packets = [record(CallStarted(call=info), in_value=True)]
    for number, start in enumerate(range(0, channels.shape[1], 800)):
        for channel, samples in enumerate(channels):
            value = audio.encode(samples[start : start + 800], "mulaw")
            packet = AudioPacket(channel, "mulaw", 8_000, start, number, value)
            packets.append(Record(info.call_id, "audio", dict(packet.headers()), value, 1_700_000_000_000))
    packets.append(record(marks(info)[2], in_value=True))
    return Chain(lambda _: vad.VoiceActivity(vad.Config(), silero), CHAIN[:1]).push(packets)


@pytest.mark.models
def test_real_calls_with_and_without_a_leak(test_data: Path) -> None:
    silero = SileroVad()
    sound, rate = soundfile.read(test_data / "calls/auto-repair-40.flac", dtype="float32", frames=90 * 8_000)
    assert rate == 8_000
    channels = sound.T.copy()
    clean = through_vad(channels, silero)
    assert crossing(heard(clean)) == []
    own = sum(event_of(item).end_ms - event_of(item).start_ms for item in clean if item.kind == "segment")
    for delay_ms, gain_db in ((0, -20), (130, -28)):
        late = np.roll(channels[::-1], 8 * delay_ms, axis=1) * np.float32(10 ** (gain_db / 20))
        found = heard(through_vad(channels + late, silero))
        all_ms = sum(event.end_ms - event.start_ms for event in found if isinstance(event, Turn))
        suppressed_ms = sum(end - start for _, start, end in crossing(found))
        assert all_ms - own > 20_000, "the VAD hears the leak"
        assert 0.9 < suppressed_ms / (all_ms - own) < 1.1
