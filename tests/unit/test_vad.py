"""The VAD stage: where segments begin and end, what bad audio does; neither batches nor restarts change anything."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from processors import audio
from processors.base import IDLE, Output, Record, Step
from processors.models.packages import packaged_file
from processors.models.silero import CONTEXT, STATE, WINDOW, SileroVad
from processors.vad import CONTEXT_MS, WINDOW_MS, Config, VoiceActivity
from processors.vad import STATE as VAD_STATE
from schemas import events
from schemas.audio import BYTES_PER_SAMPLE, AudioPacket, Codec
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallEvent, CallInfo, CallStarted, Mark, Progress, Segment

Floats = NDArray[np.float32]
START_MS = 1_790_000_000_000
STARTED_AT = datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC)
Stretch = tuple[int, float]
"""So many milliseconds at this level."""


class Loudness:
    """The probability is the window's highest level: where it speaks is known to the millisecond."""

    windows = 0

    def step(self, rate: int, windows: Floats, states: Floats, contexts: Floats) -> tuple[Floats, Floats, Floats]:
        assert windows.shape[1] == WINDOW_MS * rate // 1000
        assert contexts.shape[1] == CONTEXT_MS * rate // 1000
        self.windows += len(windows)
        return np.abs(windows).max(1), states, windows[:, -contexts.shape[1] :].copy()


class Fading(Loudness):
    """What it heard fades slowly, and the contexts leave a trace in the state: whatever is lost shows."""

    def step(self, rate: int, windows: Floats, states: Floats, contexts: Floats) -> tuple[Floats, Floats, Floats]:
        states = states.copy()
        states[:, 0, 7] = states[:, 0, 7] / 2 + contexts.mean(1)
        loudness, states, contexts = super().step(rate, windows, states, contexts)
        states[:, 1, 5] = np.maximum(states[:, 1, 5] * np.float32(0.7), loudness)
        return states[:, 1, 5].copy(), states, contexts


def call_info(call_id: str = "call", channels: int = 2) -> CallInfo:
    return CallInfo(call_id=call_id, started_at=STARTED_AT, roles=("agent", "customer")[:channels])


def started(info: CallInfo) -> Record:
    headers, value = events.encode(CallStarted(call=info))
    return Record(info.call_id, "call_started", dict(headers), value, START_MS)


def ended(info: CallInfo, at_ms: int) -> Record:
    at = STARTED_AT + timedelta(milliseconds=at_ms)
    headers, value = events.encode(CallEnded(call=info, duration_ms=1, ended_at=at, reason="hangup"))
    return Record(info.call_id, "call_ended", dict(headers), value, START_MS + at_ms)


def idle(at_ms: int) -> Record:
    return Record("call", IDLE, {}, b"", START_MS + at_ms)


def sound(*stretches: Stretch, codec: Codec = "pcm_s16le", rate: int = 8_000) -> bytes:
    levels = [np.full(ms * rate // 1000, level, np.float32) for ms, level in stretches]
    return audio.encode(np.concatenate(levels), codec)


def record_of(packet: AudioPacket, call_id: str = "call") -> Record:
    end_ms = (packet.sample + packet.samples) * 1000 // packet.rate
    headers = dict(packet.headers())
    return Record(call_id, headers.pop("kind").decode(), headers, packet.value, START_MS + end_ms)


def packets(
    value: bytes, channel: int = 0, codec: Codec = "pcm_s16le", rate: int = 8_000, sizes: Sequence[int] = (100,)
) -> list[AudioPacket]:
    """`value` in packets of `sizes` milliseconds, over and over."""
    result: list[AudioPacket] = []
    sample, width = 0, BYTES_PER_SAMPLE[codec]
    while sample * width < len(value):
        n = sizes[len(result) % len(sizes)] * rate // 1000
        result.append(
            AudioPacket(channel, codec, rate, sample, len(result), value[sample * width : (sample + n) * width])
        )
        sample += n
    return result


def by_time(*channels: Iterable[AudioPacket]) -> list[AudioPacket]:
    return sorted((packet for channel in channels for packet in channel), key=lambda p: (p.sample / p.rate, p.channel))


def call_of(channels: Iterable[AudioPacket], info: CallInfo | None = None, at_ms: int = 60_000) -> list[Record]:
    info = info or call_info()
    return [started(info), *(record_of(packet, info.call_id) for packet in channels), ended(info, at_ms)]


def feed(stage: VoiceActivity, records: Iterable[Record], state: Any = None) -> list[Step]:
    """One record at a time."""
    state = state or stage.open("call")
    return [step for record in records for step in stage.process([(state, record)])]


def read(outputs: Iterable[Output]) -> list[CallEvent]:
    return [events.decode(dict(output.headers), output.value) for output in outputs]


def heard(steps: Iterable[Step]) -> list[CallEvent]:
    return read(output for step in steps for output in step.outputs)


def spoken(steps: Iterable[Step]) -> list[tuple[Segment, bytes]]:
    outputs = [output for step in steps for output in step.outputs]
    return [(event, out.value) for event, out in zip(read(outputs), outputs, strict=True) if isinstance(event, Segment)]


def times(steps: Iterable[Step]) -> list[tuple[int, int, int, str]]:
    return [(segment.channel, segment.start_ms, segment.end_ms, segment.cut) for segment, _ in spoken(steps)]


def end_of(steps: Sequence[Step]) -> CallEnded:
    last = heard(steps)[-1]
    assert isinstance(last, CallEnded)
    return last


def not_speech_ms(snapshot: bytes) -> int:
    """The count that a snapshot carries on."""
    return int(json.loads(snapshot[5 : 5 + int.from_bytes(snapshot[1:5], "big")])["not_speech_ms"])


def counted(steps: Iterable[Step]) -> int:
    """Milliseconds that were no speech, by the last snapshot."""
    return [not_speech_ms(step.snapshot) for step in steps if step.snapshot][-1]


def plain(**changes: Any) -> VoiceActivity:
    return VoiceActivity(Config(**changes), Loudness())


# Where segments begin and end


@pytest.mark.parametrize(("codec", "rate"), [("pcm_s16le", 8_000), ("pcm_s16le", 16_000), ("mulaw", 8_000)])
def test_a_segment_has_its_pre_roll_its_tail_and_exactly_its_audio(codec: Codec, rate: int) -> None:
    value = sound((320, 0), (320, 0.9), (640, 0), codec=codec, rate=rate)
    steps = feed(plain(), call_of(packets(value, codec=codec, rate=rate)))
    ((segment, carried),) = spoken(steps)
    assert (segment.start_ms, segment.end_ms, segment.cut) == (320 - 160, 640 + 96, "pause")
    assert (segment.channel, segment.codec, segment.rate) == (0, codec, rate)
    width = rate // 1000 * BYTES_PER_SAMPLE[codec]
    assert carried == value[160 * width : 736 * width]
    assert segment.captured_at == STARTED_AT + timedelta(milliseconds=736)
    kinds = [[event.kind for event in read(step.outputs)] for step in steps]
    # The pause of 384 ms is over at 1024 ms: inside the eleventh packet.
    assert kinds == [["call_started"], *[[]] * 10, ["segment"], ["progress"], [], ["call_ended"]]


def test_pre_roll_ends_at_the_segment_before() -> None:
    value = sound((320, 0.9), (128, 0), (320, 0.9), (320, 0))
    assert times(feed(plain(hangover_ms=128), call_of(packets(value)))) == [
        (0, 0, 416, "pause"),
        (0, 416, 864, "pause"),
    ]


def test_a_short_pause_does_not_end_a_segment() -> None:
    value = sound((320, 0.9), (352, 0), (320, 0.9), (640, 0))
    assert times(feed(plain(), call_of(packets(value)))) == [(0, 0, 992 + 96, "pause")]


def test_bursts_are_dropped_and_counted() -> None:
    for length_ms, expected, n_ms in ((64, [], 160 + 64), (96, [(0, 352, 512 + 192, "pause")], 0)):
        value = sound((512, 0), (length_ms, 0.9), (2_000, 0))
        steps = feed(plain(), call_of(packets(value)))
        assert (times(steps), counted(steps)) == (expected, n_ms)


@pytest.mark.parametrize(("rate", "n_windows"), [(8_000, 6), (16_000, 11)])
def test_what_the_model_is_never_sure_of_is_dropped_and_counted(rate: int, n_windows: int) -> None:
    """At 0.6 each window is worth 0.1."""
    for n, expected in ((n_windows - 2, []), (n_windows, [(0, 352, 512 + 32 * n_windows + 96, "pause")])):
        value = sound((512, 0), (32 * n, 0.6), (2_000, 0), rate=rate)
        steps = feed(plain(), call_of(packets(value, rate=rate)))
        assert times(steps) == expected
        assert counted(steps) == (0 if expected else 160 + 32 * n)
    # However long it is.
    steps = feed(plain(maximum_ms=2_000), call_of(packets(sound((10_016, 0.501), (2_000, 0), rate=rate), rate=rate)))
    assert times(steps) == []
    assert counted(steps) == 10_016


def test_the_rest_of_a_long_segment_is_speech_however_short_and_weak() -> None:
    value = sound((4_992, 0.9), (32, 0.55), (2_000, 0))
    found = times(feed(plain(maximum_ms=5_000), call_of(packets(value))))
    assert [cut for *_, cut in found] == ["max_length", "pause"]
    assert found[0][2] == found[1][1]
    assert found[1][2] == 5_024 + 96


def test_speech_starts_at_the_threshold_and_goes_on_down_to_the_release() -> None:
    value = sound((320, 0.45), (96, 0.9), (320, 0.4), (640, 0.3))
    assert times(feed(plain(), call_of(packets(value)))) == [(0, 160, 736 + 96, "pause")]


def test_a_long_segment_is_cut_where_it_is_weakest() -> None:
    value = sound((13_600, 0.9), (32, 0.6), (5_000, 0.9), (640, 0))
    steps = feed(plain(), call_of(packets(value)))
    assert times(steps) == [(0, 0, 13_616, "max_length"), (0, 13_616, 18_752, "pause")]
    assert b"".join(carried for _, carried in spoken(steps)) == value[: 18_752 * 16]
    # Where no window is weaker than another the last one is taken.
    flat = feed(plain(maximum_ms=5_000), call_of(packets(sound((11_008, 0.9), (640, 0)))))
    assert times(flat) == [
        (0, 0, 4_976, "max_length"),
        (0, 4_976, 9_936, "max_length"),
        (0, 9_936, 11_104, "pause"),
    ]


def test_where_all_parties_share_a_channel_segments_are_shorter() -> None:
    value, shared = packets(sound((7_008, 0.9), (640, 0))), call_info().model_copy(update={"roles": ("unknown",)})
    assert [cut for *_, cut in times(feed(plain(), call_of(value)))] == ["pause"]
    (_, start_ms, end_ms, cut), (_, *_, rest) = times(feed(plain(), call_of(value, shared)))
    assert (start_ms, cut, rest) == (0, "max_length", "pause")
    assert 6_000 - 2 * WINDOW_MS <= end_ms <= 6_000
    # Never longer than what a channel of one party may have.
    both = plain(maximum_ms=2_000, mixed_maximum_ms=3_000)
    assert all(end_ms - start_ms <= 2_000 for _, start_ms, end_ms, _ in times(feed(both, call_of(value, shared))))


def test_a_segment_too_long_in_a_pause_ends_there() -> None:
    value = sound((896, 0.9), (320, 0), (320, 0.9), (640, 0))
    assert times(feed(plain(maximum_ms=1_000), call_of(packets(value)))) == [
        (0, 0, 976, "max_length"),
        (0, 1_056, 1_632, "pause"),
    ]


def test_the_end_closes_what_is_open_to_the_last_sample() -> None:
    value = sound((320, 0), (330, 0.9)) + b"\1\0" * 3
    steps = feed(plain(), call_of(packets(value), at_ms=700))
    ((segment, carried),) = spoken(steps)
    assert (segment.start_ms, segment.end_ms, segment.cut) == (160, 650, "end")
    assert carried == value[160 * 16 : 650 * 16]
    last = end_of(steps)
    assert (last.duration_ms, last.reason, last.missing_ms, last.dropped_packets) == (650, "hangup", 0, 0)
    assert last.ended_at == STARTED_AT + timedelta(milliseconds=700)
    assert steps[-1].snapshot == b""


def test_an_idle_call_ends_with_its_last_packet() -> None:
    records = [started(call_info()), *map(record_of, packets(sound((640, 0.9)))), idle(30_640)]
    steps = feed(plain(), records)
    assert times(steps) == [(0, 0, 640, "end")]
    assert (end_of(steps).reason, end_of(steps).ended_at) == ("idle", STARTED_AT + timedelta(milliseconds=640))
    silent = feed(plain(), [started(call_info()), idle(30_000)])
    assert (end_of(silent).duration_ms, end_of(silent).ended_at) == (0, STARTED_AT)


# Watermarks and cuts


def marks(steps: Iterable[Step]) -> list[int]:
    return [event.at_ms for event in heard(steps) if isinstance(event, Progress)]


def test_silence_is_marked_once_a_second_and_speech_not_at_all() -> None:
    value = sound((4_000, 0), (3_008, 0.9), (2_000, 0))
    found = marks(feed(plain(), call_of(packets(value))))
    # Each mark is the earliest time at which a segment could still begin after that packet; at 3840 ms one does.
    assert found == [1_024, 2_112, 3_136, 7_232, 8_320]


def test_no_segment_begins_before_a_mark() -> None:
    rng = np.random.default_rng(4)
    channels = [
        packets(sound(*((int(rng.integers(100, 1500)), float(i % 2)) for i in range(60))), channel)
        for channel in range(2)
    ]
    at_ms, n_segments = 0, 0
    for event in heard(feed(plain(), call_of(by_time(*channels)))):
        if isinstance(event, Progress):
            assert event.at_ms >= at_ms + 1_000
            at_ms = event.at_ms
        elif isinstance(event, Segment):
            n_segments += 1
            assert event.start_ms >= at_ms
    assert at_ms > 20_000 and n_segments > 20


def test_the_mark_waits_for_the_slower_channel_but_not_for_one_that_never_comes() -> None:
    first, second = packets(sound((6_000, 0))), packets(sound((2_000, 0)), 1)
    assert marks(feed(plain(), call_of([*second, *first]))) == [1_024]
    assert marks(feed(plain(), call_of(first)))[-1] == 5_312


def test_a_channel_that_stops_within_a_word_is_ended_and_holds_nothing_up() -> None:
    talker, stopped = packets(sound((30_000, 0))), packets(sound((640, 0), (960, 0.9)), 1)
    steps = feed(plain(), call_of(by_time(talker, stopped)))
    assert times(steps) == [(1, 480, 1_696, "pause")]
    assert end_of(steps).missing_ms == 22_000 - 1_600  # from 10 s behind to 5 s behind, over and over
    assert marks(steps)[-1] >= 20_000
    late = packets(sound((30_000, 0)), 1)[100]
    assert end_of(feed(plain(), call_of([*by_time(talker, stopped), late]))).dropped_packets == 1


def test_channels_that_talk_across_each_other_are_cut_after_thirty_seconds() -> None:
    first = packets(sound(*[(3_200, 0.9), (800, 0)] * 12))
    second = packets(sound((1_600, 0), *[(3_200, 0.9), (800, 0)] * 12), 1)
    records = call_of(by_time(first, second))
    steps = feed(plain(), records)
    cuts = [index for index, step in enumerate(steps) if step.snapshot]
    longest = max(after - before for before, after in pairwise(cuts))
    assert 540 < longest <= 601  # two records for each 100 ms
    assert "max_length" in {cut for *_, cut in times(steps)}
    for channel in range(2):
        found = [(start, end) for number, start, end, _ in times(steps) if number == channel]
        assert all(end <= start for (_, end), (start, _) in pairwise(found))
        # Nothing of what was said is lost at the cuts.
        covered = np.zeros(50_000, bool)
        for start, end in found:
            covered[start:end] = True
        at = np.arange(50_000) - 1_600 * channel
        assert covered[(at >= 0) & (at < 48_000) & (at % 4_000 < 3_200)].all()


def test_a_call_with_pauses_is_never_cut_for_its_length() -> None:
    value = sound(*[(3_200, 0.9), (800, 0)] * 20)
    assert {cut for *_, cut in times(feed(plain(), call_of(packets(value))))} == {"pause"}


# Audio that is not as it should be


def test_a_short_gap_is_silence_of_its_length() -> None:
    whole = packets(sound((992, 0.9), (1_008, 0)))
    steps = feed(plain(), call_of(whole[:4] + whole[6:]))
    ((segment, carried),) = spoken(steps)
    assert (segment.start_ms, segment.end_ms) == (0, 1_088)
    assert carried[400 * 16 : 600 * 16] == bytes(200 * 16)
    assert carried[600 * 16 : 992 * 16] == sound((392, 0.9))
    assert end_of(steps).missing_ms == 200 and end_of(steps).duration_ms == 2_000


def test_a_long_gap_costs_little_and_does_not_move_the_time() -> None:
    whole = packets(sound((640, 0.9), (600_000, 0), (960, 0.9)))
    model = Loudness()
    steps = feed(VoiceActivity(Config(), model), call_of([*whole[:6], whole[-1]]))
    assert times(steps) == [(0, 0, 608 + 96, "pause"), (0, 601_500, 601_600, "end")]
    assert end_of(steps).missing_ms == 601_500 - 600
    assert model.windows < 100


def test_doubled_late_and_overlapping_packets_change_nothing() -> None:
    whole = packets(sound((512, 0), (320, 0.9), (1_000, 0)))
    reference = feed(plain(), call_of(whole))
    doubled = feed(plain(), call_of([whole[0], *(packet for packet in whole for _ in range(2))]))
    assert spoken(doubled) == spoken(reference)
    assert end_of(doubled).dropped_packets == len(whole) + 1
    overlapping = [
        replace(packet, sample=packet.sample - 80, value=before.value[-160:] + packet.value)
        for before, packet in pairwise(whole)
    ]
    assert spoken(feed(plain(), call_of([whole[0], *overlapping]))) == spoken(reference)
    swapped = [*whole[:2], whole[3], whole[2], *whole[4:]]
    last = end_of(feed(plain(), call_of(swapped)))
    assert (last.dropped_packets, last.missing_ms) == (1, 100)


def test_a_first_packet_that_never_came_is_missing_but_a_late_channel_is_not() -> None:
    whole = packets(sound((2_000, 0.9)))
    assert end_of(feed(plain(), call_of(whole[2:]))).missing_ms == 200
    late = [replace(packet, sequence=packet.sequence - 2) for packet in whole[2:]]
    steps = feed(plain(), call_of(late))
    assert end_of(steps).missing_ms == 0 and times(steps) == [(0, 200, 2_000, "end")]


def test_a_change_of_codec_ends_the_segment_and_starts_anew() -> None:
    before = packets(sound((1_010, 0.9)))
    after = packets(sound((3_000, 0.9), codec="pcm_s16le", rate=16_000), rate=16_000)[10:]
    steps = feed(plain(), call_of([*before, *(replace(packet, sequence=packet.sequence + 1) for packet in after)]))
    (first, old), (second, new) = spoken(steps)
    assert (first.start_ms, first.end_ms, first.cut, first.rate) == (0, 1_010, "pause", 8_000)
    assert (second.start_ms, second.end_ms, second.cut, second.rate) == (1_010, 3_000, "end", 16_000)
    assert len(old) == 1_010 * 16 and len(new) == 1_990 * 32
    assert end_of(steps).missing_ms == 0
    steps = feed(plain(), call_of([*before, *(replace(packet, sequence=packet.sequence + 1) for packet in after[2:])]))
    assert times(steps) == [(0, 0, 1_010, "pause"), (0, 1_200, 3_000, "end")]
    assert end_of(steps).missing_ms == 190


def test_frames_without_a_start_marker_make_up_their_call() -> None:
    channels = [packets(sound((5_000, 0.9)), channel)[40:] for channel in range(2)]
    steps = feed(plain(), [*map(record_of, by_time(*channels)), idle(40_000)])
    first, *_, last = heard(steps)
    assert isinstance(first, CallStarted) and isinstance(last, CallEnded)
    assert first.call == CallInfo(call_id="call", started_at=STARTED_AT, roles=("unknown",))
    assert last.call.roles == ("unknown", "unknown")
    assert times(steps) == [(0, 4_000, 5_000, "end"), (1, 4_000, 5_000, "end")]
    assert (last.missing_ms, last.duration_ms) == (0, 5_000)


def test_a_second_start_marker_adds_metadata_and_resets_the_sequence() -> None:
    whole = packets(sound((2_000, 0.9)))
    again = call_info().model_copy(update={"metadata": {"trunk": "b"}, "queue": "other"})
    resumed = [replace(packet, sequence=packet.sequence - 10) for packet in whole[10:]]
    records = [
        started(call_info()),
        *map(record_of, whole[:10]),
        started(again),
        *map(record_of, resumed),
        idle(40_000),
    ]
    steps = feed(plain(), records)
    assert sum(isinstance(event, CallStarted) for event in heard(steps)) == 1
    assert times(steps) == [(0, 0, 2_000, "end")]
    assert end_of(steps).call == call_info().model_copy(update={"metadata": {"trunk": "b"}})


def test_a_packet_of_before_a_reconnect_does_not_stop_the_new_sequence() -> None:
    whole = packets(sound((2_000, 0.9)))
    resumed = [replace(packet, sequence=packet.sequence - 10) for packet in whole[10:]]
    again = started(call_info())
    records = [again, *map(record_of, whole[:10]), again, *map(record_of, [whole[9], *resumed]), idle(40_000)]
    steps = feed(plain(), records)
    assert times(steps) == [(0, 0, 2_000, "end")]
    assert (end_of(steps).dropped_packets, end_of(steps).missing_ms) == (1, 0)


def test_what_the_end_marker_tells_of_the_call_is_passed_on() -> None:
    info = call_info()
    marks = (Mark(at_ms=40), Mark(at_ms=90, name="menu"))
    headers, value = events.encode(
        CallEnded(call=info, duration_ms=1, ended_at=STARTED_AT, reason="interrupted", marks=marks)
    )
    *_, last = feed(plain(), [started(info), Record(info.call_id, "call_ended", dict(headers), value, START_MS)])
    (end,) = read(last.outputs)
    assert isinstance(end, CallEnded)
    assert (end.ended_at, end.reason, end.marks) == (STARTED_AT, "interrupted", marks)


def test_the_end_of_a_call_that_is_not_open_says_nothing() -> None:
    assert feed(plain(), [ended(call_info(), 100)]) == [Step()]
    assert feed(plain(), [idle(100)]) == [Step()]


BAD: dict[str, tuple[Record, type[Exception], str]] = {
    "channel": (record_of(AudioPacket(2, "mulaw", 8_000, 0, 0, b"\xff" * 800)), CalltideError, "channel 2"),
    "jump": (record_of(AudioPacket(0, "mulaw", 8_000, 8_000 * 3_700, 9, b"\xff" * 800)), CalltideError, "3700000 ms"),
    "header": (Record("call", "audio", {"codec": b"mulaw"}, b"", START_MS), CalltideError, "missing or malformed"),
    "kind": (Record("call", "video", {}, b"", START_MS), CalltideError, "unknown kind 'video'"),
    "key": (replace(started(call_info("other")), call_id="call"), CalltideError, "other has the key call"),
    "marker": (replace(started(call_info()), value=b"{}"), ValidationError, "call"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_is_wrong_is_an_error(name: str) -> None:
    record, error, message = BAD[name]
    with pytest.raises(error, match=message):
        feed(plain(), [started(call_info()), record])


def test_a_made_up_call_has_a_bounded_number_of_channels() -> None:
    with pytest.raises(CalltideError, match="channel 16"):
        feed(plain(), [record_of(AudioPacket(16, "mulaw", 8_000, 0, 0, b"\xff" * 800))])


# The same whatever happens to batches and workers


STRETCHES = st.lists(st.tuples(st.integers(1, 900), st.sampled_from([0.0, 0.0, 0.42, 0.9])), min_size=1, max_size=12)
FORMATS: st.SearchStrategy[tuple[Codec, int]] = st.sampled_from(
    [("mulaw", 8_000), ("alaw", 8_000), ("pcm_s16le", 8_000), ("pcm_s16le", 16_000)]
)
CONFIG = Config(hangover_ms=100, maximum_ms=1_500, pre_roll_ms=70)


@st.composite
def random_calls(draw: Callable[..., Any], n: int = 3) -> list[Record]:
    """Calls of two channels in packets of any length; some are lost, doubled, swapped; the calls' records are mixed."""
    lines: list[list[Record]] = []
    for number in range(draw(st.integers(1, n))):
        info, channels = call_info(f"call-{number}"), []
        for channel in range(draw(st.integers(1, 2))):
            codec, rate = draw(FORMATS)
            value = sound(*draw(STRETCHES), codec=codec, rate=rate)
            sizes = draw(st.lists(st.integers(1, 400), min_size=1, max_size=5))
            line = packets(value, channel, codec, rate, sizes)
            for index in draw(st.lists(st.integers(0, len(line) - 1), max_size=3)):
                match draw(st.sampled_from(["lose", "double", "swap", "keep"])):
                    case "lose" if len(line) > 1:
                        del line[min(index, len(line) - 1)]
                    case "double":
                        line.insert(index, line[min(index, len(line) - 1)])
                    case "swap" if len(line) > 1:
                        index %= len(line) - 1
                        line[index], line[index + 1] = line[index + 1], line[index]
            channels.append(line)
        records = call_of(
            by_time(*channels) if draw(st.booleans()) else [packet for line in channels for packet in line], info
        )
        lines.append(records[draw(st.integers(0, 1)) :])
    order = draw(st.permutations([i for i, line in enumerate(lines) for _ in line]))
    left = [iter(line) for line in lines]
    return [next(left[i]) for i in order]


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_batches_and_other_calls_and_restarts_change_nothing(data: st.DataObject) -> None:
    records = data.draw(random_calls())
    stage = VoiceActivity(CONFIG, Fading())
    alone: dict[str, list[Step]] = {}
    for call_id in {record.call_id for record in records}:
        alone[call_id] = feed(stage, [record for record in records if record.call_id == call_id])

    states: dict[str, Any] = {}
    mixed: dict[str, list[Step]] = {call_id: [] for call_id in alone}
    cuts = sorted(data.draw(st.sets(st.integers(0, len(records)), max_size=8)) | {0, len(records)})
    for first, last in pairwise(cuts):
        batch = [
            (states.setdefault(record.call_id, stage.open(record.call_id)), record) for record in records[first:last]
        ]
        for (_, record), step in zip(batch, stage.process(batch), strict=True):
            mixed[record.call_id].append(step)
    assert mixed == alone

    for call_id, steps in alone.items():
        own = [record for record in records if record.call_id == call_id]
        for index, step in enumerate(steps):
            if step.snapshot and data.draw(st.integers(0, 3)) == 0:
                again = feed(stage, own[index + 1 :], stage.restore(call_id, step.snapshot))
                assert again == steps[index + 1 :]


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(calls=random_calls(n=1))
def test_segments_never_overlap_and_carry_exactly_their_time(calls: list[Record]) -> None:
    steps = feed(VoiceActivity(CONFIG, Fading()), calls)
    until = {0: 0, 1: 0}
    for segment, carried in spoken(steps):
        assert until[segment.channel] <= segment.start_ms < segment.end_ms
        until[segment.channel] = segment.end_ms
        assert segment.end_ms - segment.start_ms <= CONFIG.maximum_ms
        width = BYTES_PER_SAMPLE[segment.codec] * segment.rate // 1000
        assert len(carried) == (segment.end_ms - segment.start_ms) * width
    last = end_of(steps)
    assert last.duration_ms >= max(until.values())
    assert sum(isinstance(event, CallStarted) for event in heard(steps)) == 1


@settings(max_examples=60)
@given(stretches=STRETCHES, sizes=st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_segments_do_not_depend_on_the_packets(stretches: list[Stretch], sizes: list[int]) -> None:
    value = sound(*stretches)
    stage = VoiceActivity(CONFIG, Fading())
    segments = [
        [(segment.start_ms, segment.end_ms, segment.cut, carried) for segment, carried in spoken(feed(stage, records))]
        for records in (call_of(packets(value)), call_of(packets(value, sizes=sizes)))
    ]
    assert segments[0] == segments[1]


def test_a_snapshot_of_another_version_is_refused() -> None:
    (step,) = feed(plain(), [started(call_info())])
    assert step.snapshot
    with pytest.raises(CalltideError, match="version 9"):
        plain().restore("call", b"\x09" + step.snapshot[1:])


# The real model on real speech


def sample(codec: Codec, rate: int) -> bytes:
    """30 s of a telephone conversation."""
    file = packaged_file("pyannote.audio", "pyannote/audio/sample/sample.wav")
    samples, native = soundfile.read(file, dtype="float32")
    return audio.encode(audio.resample(samples, native, rate), codec)


@pytest.fixture(scope="module")
def silero() -> SileroVad:
    return SileroVad()


REAL = pytest.mark.parametrize(("codec", "rate"), [("mulaw", 8_000), ("pcm_s16le", 8_000), ("pcm_s16le", 16_000)])


@pytest.mark.models
def test_the_stage_and_the_model_agree_on_sizes() -> None:
    assert {rate: WINDOW_MS * rate // 1000 for rate in WINDOW} == WINDOW
    assert {rate: CONTEXT_MS * rate // 1000 for rate in CONTEXT} == CONTEXT
    assert VAD_STATE == STATE


@pytest.mark.models
@REAL
def test_real_speech_gives_the_same_segments_in_any_batches_and_after_restarts(
    silero: SileroVad, codec: Codec, rate: int
) -> None:
    stage, value, rng = VoiceActivity(Config(), silero), sample(codec, rate), np.random.default_rng(11)
    width = BYTES_PER_SAMPLE[codec] * rate // 1000
    lines = []
    for number in range(5):
        # The parties take turns of 3 s, with a second of silence after each.
        channels = [bytearray(audio.silence(30_000 * rate // 1000, codec)) for _ in range(2)]
        for turn, at_ms in enumerate(range(0, 30_000, 4_000)):
            said = slice(at_ms * width, min(at_ms + 3_000, 30_000) * width)
            channels[turn % 2][said] = value[number * 300 * width :][said]
        both = [packets(bytes(channel), i, codec, rate) for i, channel in enumerate(channels)]
        lines.append(call_of(by_time(*both), call_info(f"call-{number}")))
    alone = {line[0].call_id: feed(stage, line) for line in lines}
    for steps in alone.values():
        assert len(times(steps)) >= 6
        assert sum(bool(step.snapshot) for step in steps) >= 10

    for largest in (7, 60, 400):
        states = {line[0].call_id: stage.open(line[0].call_id) for line in lines}
        mixed: dict[str, list[Step]] = {call_id: [] for call_id in states}
        left = [iter(line) for line in lines]
        waiting = [next(left[i]) for i in rng.permutation([i for i, line in enumerate(lines) for _ in line])]
        while waiting:
            size = int(rng.integers(1, largest))
            batch, waiting = [(states[record.call_id], record) for record in waiting[:size]], waiting[size:]
            for (_, record), step in zip(batch, stage.process(batch), strict=True):
                mixed[record.call_id].append(step)
            call_id = f"call-{rng.integers(5)}"
            if mixed[call_id] and (snapshot := mixed[call_id][-1].snapshot):
                states[call_id] = stage.restore(call_id, snapshot)
        assert mixed == alone

    snapshots = [step.snapshot for steps in alone.values() for step in steps if step.snapshot]
    assert max(map(len, snapshots)) < 2 * 8_192


@pytest.mark.models
@REAL
def test_nearly_all_real_speech_is_in_segments(silero: SileroVad, codec: Codec, rate: int) -> None:
    steps = feed(VoiceActivity(Config(), silero), call_of(packets(sample(codec, rate), 0, codec, rate)))
    found = np.zeros(30_000, bool)
    for _, start, end, _ in times(steps):
        found[start:end] = True
    speech = np.zeros(30_000, bool)
    reference = packaged_file("pyannote.audio", "pyannote/audio/sample/sample.rttm").read_text()
    for fields in map(str.split, reference.splitlines()):
        speech[int(float(fields[3]) * 1000) : int((float(fields[3]) + float(fields[4])) * 1000)] = True
    assert found[speech].mean() > 0.98
    assert found[~speech].mean() < 0.6  # pre-roll, tail and the pauses within


@pytest.mark.models
@REAL
def test_long_segments_are_cut_between_words(silero: SileroVad, test_data: Path, codec: Codec, rate: int) -> None:
    """Short announcements with 150 ms of faint noise between them, and a real pause after each 15 s."""
    noise, pieces, gaps, at, paused = np.random.default_rng(6), [], [], 0, 0
    for file in sorted((test_data / "prompts").glob("*.flac")):
        said, native = soundfile.read(file, dtype="float32")
        loud = np.flatnonzero(np.abs(said) > 0.02)
        if loud[-1] - loud[0] > 3 * native:
            continue
        said = audio.resample(said[loud[0] : loud[-1]], native, rate)
        gap_ms = 150
        if at + len(said) - paused > 15 * rate:
            gap_ms, paused = 1_000, at + len(said)
        pieces += [said, noise.normal(0, 0.001, gap_ms * rate // 1000).astype(np.float32)]
        at += len(said) + len(pieces[-1])
        gaps.append(((at - len(pieces[-1])) * 1000 / rate, at * 1000 / rate))
    value = audio.encode(np.concatenate(pieces), codec)
    line = packets(value, 0, codec, rate)
    found = times(feed(VoiceActivity(Config(maximum_ms=10_000), silero), call_of(line, at_ms=100_000)))
    cuts = [end for *_, end, cut in found if cut == "max_length"]
    assert len(cuts) >= 3
    levels = np.array(
        [np.mean(np.square(audio.decode(value, codec)[i : i + rate // 100])) for i in range(0, at, rate // 100)]
    )
    for cut in cuts:
        between = any(start - 10 <= cut <= end + 10 for start, end in gaps)
        # An announcement has pauses of its own.
        assert between or 10 * np.log10(levels[cut // 10 - 2 : cut // 10 + 3].max() + 1e-9) < -40


@pytest.mark.models
def test_a_snapshot_is_below_eight_kilobytes_a_channel(silero: SileroVad) -> None:
    value = sample("pcm_s16le", 16_000)
    sizes = [50, 31, 100, 37]
    channels = [packets(value, channel, "pcm_s16le", 16_000, sizes) for channel in range(2)]
    steps = feed(VoiceActivity(Config(pre_roll_ms=160), silero), call_of(by_time(*channels)))
    lengths = [len(step.snapshot) for step in steps if step.snapshot]
    assert len(lengths) > 5
    assert max(lengths) < 2 * 8_192
