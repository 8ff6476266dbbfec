"""A call's line: where each sample comes to lie, whatever the connections do."""

from itertools import pairwise

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from processors.audio import decode, encode
from processors.base import Record
from processors.vad import JUMP_MS
from schemas.audio import AudioPacket
from schemas.events import CallEnded, CallStarted
from schemas.events import decode as decode_event
from streams.ingestion.line import BRIDGE_MS, KEEP_MS, MOST_MARKS, MOST_METADATA, Line
from streams.protocols.base import Audio, Began, Dtmf, Ended, Fault, Mark, Paused, Resumed

NOW = 1_700_000_000_000
SOUND = np.random.default_rng(5).integers(0, 255, 80_000, dtype=np.uint8).tobytes()
"""Ten seconds of mu-law without silence in it."""


def began(**fields: object) -> Began:
    return Began(**({"call_id": "c", "roles": ("customer",), "codec": "mulaw", "rate": 8_000} | fields))  # type: ignore[arg-type]


class Desk:
    """A line and what it emits."""

    def __init__(self, first: Began | None = None, **options: object) -> None:
        self.records: list[Record] = []
        self.first = first or began()
        self.line = Line(self.first, NOW, self.records.append, source="test", **options)  # type: ignore[arg-type]
        self.leg = self.line.join(self.first, NOW)

    def packets(self, channel: int = 0) -> list[AudioPacket]:
        found = [AudioPacket.decode(one.headers, one.value) for one in self.records if one.kind == "audio"]
        found = [packet for packet in found if packet.channel == channel]
        assert [packet.sequence for packet in found] == list(range(len(found)))
        for one, other in pairwise(found):
            if one.rate == other.rate:
                assert other.sample >= one.sample + one.samples
        return found

    def heard(self, channel: int = 0, length: int | None = None) -> bytes:
        """The channel as a listener has it: holes are filled with zeros, which the sound has not."""
        heard = b""
        for packet in self.packets(channel):
            width = len(packet.value) // packet.samples
            heard = heard.ljust(packet.sample * width, b"\0") + packet.value
        return heard

    def end(self) -> CallEnded:
        event = decode_event(self.records[-1].headers, self.records[-1].value)
        assert isinstance(event, CallEnded)
        return event

    def starts(self) -> list[CallStarted]:
        found = [decode_event(one.headers, one.value) for one in self.records if one.kind == "call_started"]
        return [event for event in found if isinstance(event, CallStarted)]


def ms(start: int, end: int) -> bytes:
    return SOUND[start * 8 : end * 8]


def test_a_call_from_start_to_end() -> None:
    desk = Desk(began(roles=("customer", "agent"), queue="billing", metadata={"trunk": "7"}), tenant="acme")
    for at in range(0, 1_050, 50):
        desk.leg.take([Audio(0, ms(at, at + 50), at), Audio(1, ms(at, at + 50), at)], NOW + at + 50)
    desk.leg.take([Ended()], NOW + 1_100)
    assert desk.heard(0) == desk.heard(1) == ms(0, 1_050)
    assert [packet.samples for packet in desk.packets()] == [800] * 10 + [400]
    assert [one.timestamp_ms for one in desk.records if one.kind == "audio"][::2] == [
        *range(NOW + 100, NOW + 1_100, 100),
        NOW + 1_100,
    ]
    (start,) = desk.starts()
    assert (start.call.tenant, start.call.queue, start.call.source) == ("acme", "billing", "test")
    assert start.call.metadata == {"trunk": "7"}
    assert start.call.started_at.timestamp() * 1_000 == NOW
    assert (desk.end().reason, desk.end().duration_ms) == ("hangup", 1_050)
    assert (desk.line.gap_ms, desk.line.late_ms, desk.line.ended) == (0, 0, "hangup")
    with pytest.raises(Fault, match="over"):
        desk.leg.take([Audio(0, ms(0, 20))], NOW + 1_200)


@given(st.lists(st.integers(1, 900), max_size=40), st.booleans())
def test_pieces_of_any_size_make_the_same_packets(cuts: list[int], counted: bool) -> None:
    desk, at = Desk(live=False), 0
    for cut in [*(8 * cut for cut in cuts), len(SOUND)]:
        desk.leg.take([Audio(0, SOUND[at : at + cut], at // 8 if counted else None)], NOW)
        at = min(at + cut, len(SOUND))
    desk.line.end("hangup", NOW)
    assert desk.heard() == SOUND
    assert {packet.samples for packet in desk.packets()} == {800}


@pytest.mark.parametrize("rate", [12_000, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000])
def test_other_rates_are_resampled_as_if_in_one_piece(rate: int) -> None:
    pcm = np.random.default_rng(6).integers(-9_000, 9_000, 2 * rate + 77, dtype="<i2").tobytes()
    desks = [Desk(began(codec="pcm_s16le", rate=rate), live=False) for _ in range(2)]
    for desk, size in zip(desks, (rate // 50 * 2, 1_234), strict=True):
        for at in range(0, len(pcm), size):
            desk.leg.take([Audio(0, pcm[at : at + size])], NOW)
        desk.line.end("hangup", NOW)
    whole = encode(soxr.resample(decode(pcm, "pcm_s16le"), rate, 16_000), "pcm_s16le")
    assert desks[0].records == desks[1].records
    assert desks[0].packets()[0].rate == 16_000
    heard = desks[0].heard()
    assert 0 <= len(whole) - len(heard) <= 2, "at most the last sample, by rounding"
    assert whole.startswith(heard)


def test_what_was_counted_and_never_came_is_a_hole() -> None:
    desk = Desk()
    desk.leg.take([Audio(0, ms(0, 130), 0), Audio(0, ms(150, 300), 150)], NOW + 300)
    desk.line.end("hangup", NOW + 300)
    assert desk.heard() == ms(0, 130) + b"\0" * 160 + ms(150, 300)
    assert desk.line.gap_ms == 20


def test_a_count_that_is_rounded_makes_no_hole() -> None:
    desk = Desk()
    for at, jitter in zip(range(0, 200, 20), (0, 3, -3, 9, -9, 0, 5, 1, -1, 0), strict=True):
        desk.leg.take([Audio(0, ms(at, at + 20), max(at + jitter, 0))], NOW + at)
    desk.line.end("hangup", NOW)
    assert desk.heard() == ms(0, 200)
    assert (desk.line.gap_ms, desk.line.late_ms) == (0, 0)


def test_what_comes_twice_or_late_is_dropped_and_counted() -> None:
    desk = Desk()
    desk.leg.take([Audio(0, ms(0, 100), 0), Audio(0, ms(0, 100), 0), Audio(0, ms(60, 160), 60)], NOW)
    desk.line.end("hangup", NOW)
    assert desk.heard() == ms(0, 160)
    assert desk.line.late_ms == 140


def test_silence_on_a_live_line_is_told_by_the_clock() -> None:
    desk = Desk()
    desk.leg.take([Audio(0, ms(0, 100))], NOW + 100)
    desk.leg.take([Audio(0, ms(100, 200))], NOW + 600)
    assert desk.heard() == ms(0, 200), "jitter"
    desk.leg.take([Audio(0, ms(200, 300))], NOW + 5_000)
    assert desk.heard() == ms(0, 200) + b"\0" * 8 * 4_700 + ms(200, 300), "it ends now"


def test_what_was_held_up_and_comes_together_is_no_silence() -> None:
    desk = Desk()
    desk.leg.take([Audio(0, ms(0, 100))], NOW + 100)
    desk.leg.take([Audio(0, ms(at, at + 20)) for at in range(100, 3_000, 20)], NOW + 3_000)
    desk.line.end("hangup", NOW + 3_000)
    assert desk.heard() == ms(0, 3_000)


def test_on_a_line_that_is_not_live_audio_follows_on_what_came() -> None:
    desk = Desk(live=False)
    desk.leg.take([Audio(0, ms(0, 100))], NOW + 100)
    desk.leg.take([Audio(0, ms(100, 200))], NOW + 50_000)
    assert desk.heard() == ms(0, 200)


@pytest.mark.parametrize(("missing_ms", "expected"), [(None, 2_000), (1_500, 1_500)])
def test_a_pause_is_a_hole(missing_ms: int | None, expected: int) -> None:
    desk = Desk(live=False)
    desk.leg.take([Audio(0, ms(0, 130)), Paused()], NOW + 130)
    assert desk.heard() == ms(0, 130), "what was heard does not wait for the end of the pause"
    desk.leg.take([Resumed(missing_ms), Audio(0, ms(130, 230))], NOW + 2_130)
    assert desk.heard() == ms(0, 130) + b"\0" * 8 * expected + ms(130, 230)


def test_another_connection_goes_on_with_the_call_where_the_clock_stands() -> None:
    desk = Desk()
    desk.leg.take([Audio(0, ms(0, 250), 0)], NOW + 250)
    desk.leg.leave(NOW + 250)
    assert desk.heard() == ms(0, 250)
    assert desk.line.alone_since_ms == NOW + 250
    leg = desk.line.join(desk.first, NOW + 3_000)
    assert desk.line.legs == {leg}
    leg.take([Audio(0, ms(250, 350), 0), Audio(0, ms(350, 450), 100), Ended()], NOW + 3_200)
    assert desk.heard() == ms(0, 250) + b"\0" * 8 * 2_750 + ms(250, 450)
    assert desk.end().reason == "hangup"
    assert len(desk.starts()) == 1


def test_another_connection_may_have_another_format() -> None:
    desk = Desk(began(codec="pcm_s16le", rate=48_000))
    desk.leg.take([Audio(0, b"\1\2" * 4_800, 0)], NOW + 100)
    desk.leg.leave(NOW + 100)
    leg = desk.line.join(began(), NOW + 1_000)
    leg.take([Audio(0, ms(0, 100), 0), Ended()], NOW + 1_100)
    first, last = desk.packets()
    assert (first.rate, first.sample, first.samples) == (16_000, 0, 1_600)
    assert (last.rate, last.sample, last.value) == (8_000, 8_000, ms(0, 100))


def test_the_channels_of_a_call_may_have_connections_of_their_own() -> None:
    desk = Desk(began(roles=("customer", "agent")))
    other = desk.line.join(desk.first, NOW + 40)
    desk.leg.take([Audio(0, ms(0, 200))], NOW + 200)
    other.take([Audio(1, ms(0, 160))], NOW + 200)
    desk.leg.take([Ended()], NOW + 210)
    assert desk.line.ended is None
    other.take([Audio(1, ms(160, 200)), Ended()], NOW + 240)
    assert desk.heard(0) == ms(0, 200)
    assert desk.heard(1) == b"\0" * 8 * 40 + ms(0, 200)
    assert desk.end().duration_ms == 240


def test_of_two_connections_with_the_same_channel_the_later_is_heard() -> None:
    desk = Desk()
    desk.leg.take([Audio(0, ms(0, 100), 0)], NOW + 100)
    later = desk.line.join(desk.first, NOW + 100)
    later.take([Audio(0, ms(100, 200), 0)], NOW + 200)
    desk.leg.take([Audio(0, ms(500, 600), 200)], NOW + 200)
    later.take([Audio(0, ms(200, 300), 100), Ended()], NOW + 300)
    assert not desk.line.ended
    desk.leg.leave(NOW + 300)
    desk.line.end("interrupted", NOW + 300)
    assert desk.heard() == ms(0, 300)
    assert desk.line.late_ms == 100


def test_a_call_that_had_ended_goes_on_in_its_own_time() -> None:
    desk = Desk(started_ms=NOW - 60_000)
    desk.leg.take([Audio(0, ms(0, 100), 0)], NOW + 100)
    assert desk.packets()[0].sample == 60_000 * 8
    assert desk.starts()[0].call.started_at.timestamp() * 1_000 == NOW - 60_000


def test_a_call_that_had_ended_faster_than_it_was_spoken_goes_on_behind_it() -> None:
    desk = Desk(started_ms=NOW - 1_000, from_ms=5_000, live=False)
    desk.leg.take([Audio(0, ms(0, 100))], NOW + 100)
    assert desk.packets()[0].sample == 5_000 * 8


def test_hours_of_silence_do_not_make_the_next_packet_a_broken_one() -> None:
    desk = Desk(longest_ms=24 * 3_600_000)
    desk.leg.take([Audio(0, ms(0, 100), 0), Audio(0, ms(100, 200), 10 * 3_600_000)], NOW)
    ends = [(packet.sample + packet.samples) // 8 for packet in desk.packets()]
    starts = [packet.sample // 8 for packet in desk.packets()]
    assert all(start - end <= BRIDGE_MS < JUMP_MS for end, start in zip(ends, starts[1:], strict=False))
    assert starts[-1] == 10 * 3_600_000


def test_a_silent_call_is_kept_alive_and_nothing_waits_for_ever() -> None:
    desk = Desk()
    desk.leg.take([Audio(0, ms(0, 130), 0)], NOW + 130)
    desk.line.tick(NOW + 500)
    assert desk.heard() == ms(0, 100)
    desk.line.tick(NOW + 1_200)
    assert desk.heard() == ms(0, 130)
    for later in range(1_200, 60_000, 250):
        desk.line.tick(NOW + later)
    assert len(desk.starts()) == 1 + 58_550 // KEEP_MS
    assert all(start == desk.starts()[0] for start in desk.starts())


def test_a_call_has_a_longest_length() -> None:
    desk = Desk(longest_ms=60_000)
    with pytest.raises(Fault, match="longest"):
        desk.leg.take([Audio(0, ms(0, 100), 0), Audio(0, ms(100, 200), 10**15)], NOW)
    assert not desk.line.ended
    desk.line.tick(NOW + 60_001)
    assert desk.heard() == ms(0, 100), "what came before the fault is kept"
    assert desk.end().reason == "interrupted"


def test_the_end_tells_when_keys_were_pressed_and_marks_came_and_not_which_keys() -> None:
    desk = Desk()
    desk.leg.take([Audio(0, ms(0, 100)), Dtmf("4")], NOW + 100)
    desk.leg.take([Dtmf("1"), Mark("menu\ud800")], NOW + 3_000)
    desk.leg.take([Ended()], NOW + 3_100)
    marks = desk.end().marks
    assert [(mark.at_ms, mark.name) for mark in marks] == [(100, ""), (3_000, ""), (3_000, "menu?")]


def test_no_call_tells_of_more_marks_than_a_record_holds() -> None:
    desk = Desk()
    desk.leg.take([*(Dtmf("4") for _ in range(MOST_MARKS + 9)), Ended()], NOW)
    assert len(desk.end().marks) == MOST_MARKS


def paused(desk: Desk) -> list[tuple[int, str]]:
    return [(mark.at_ms, mark.name) for mark in desk.end().marks]


@pytest.mark.parametrize(("live", "resumed_at_ms"), [(True, 2_000), (False, 1_630)])
def test_the_end_tells_of_pauses(live: bool, resumed_at_ms: int) -> None:
    desk = Desk(live=live)
    desk.leg.take([Audio(0, ms(0, 130), 0), Paused(), Paused()], NOW + 130)
    desk.leg.take([Resumed(1_500), Audio(0, ms(130, 230), 1_630), Resumed(10), Ended()], NOW + 2_000)
    assert paused(desk) == [(130, "paused"), (resumed_at_ms, "resumed")]


def test_a_call_is_paused_while_any_of_its_connections_is() -> None:
    desk = Desk(began(roles=("customer", "agent")))
    other = desk.line.join(desk.first, NOW)
    desk.leg.take([Paused()], NOW + 100)
    other.take([Paused()], NOW + 200)
    desk.leg.take([Resumed()], NOW + 300)
    other.leave(NOW + 400)
    desk.leg.take([Ended()], NOW + 500)
    assert paused(desk) == [(100, "paused"), (400, "resumed")]


def test_a_pause_lasts_until_another_connection_goes_on_with_the_call_or_it_ends() -> None:
    desk = Desk()
    desk.leg.take([Paused()], NOW + 100)
    desk.leg.leave(NOW + 200)
    leg = desk.line.join(desk.first, NOW + 900)
    leg.take([Paused()], NOW + 1_000)
    leg.take([Ended()], NOW + 1_200)
    assert paused(desk) == [(100, "paused"), (900, "resumed"), (1_000, "paused")]


def test_a_pause_that_is_told_has_an_end_however_many_keys_are_pressed() -> None:
    desk = Desk()
    desk.leg.take([Paused(), *(Dtmf("4") for _ in range(MOST_MARKS)), Resumed(), Paused(), Ended()], NOW)
    assert [name for _, name in paused(desk) if name] == ["paused", "resumed"]


def test_what_became_of_the_audio_is_counted_by_protocol() -> None:
    desk = Desk(began(roles=("customer", "agent")))
    metrics = {
        "audio_seconds_total": {},
        "gap_seconds_total": {},
        "late_seconds_total": {},
        **{f"events_total {event}": {"event": event} for event in ("dtmf", "mark", "paused", "resumed")},
        "calls_ended_total": {"reason": "hangup"},
    }

    def counted() -> dict[str, float]:
        values = {
            name: REGISTRY.get_sample_value(f"calltide_ingest_{name.split()[0]}", {"protocol": "test", **labels})
            for name, labels in metrics.items()
        }
        return {name: value or 0.0 for name, value in values.items()}

    before = counted()
    desk.leg.take([Audio(0, ms(0, 200), 0), Audio(1, ms(0, 300), 0), Audio(1, ms(100, 200), 100)], NOW + 300)
    desk.leg.take([Dtmf("4"), Dtmf("2"), Mark("menu"), Paused(), Resumed(), Audio(0, ms(500, 600), 500)], NOW + 600)
    desk.leg.take([Ended()], NOW + 600)
    rise = {name: round(value - before[name], 6) for name, value in counted().items()}
    assert rise == {
        "audio_seconds_total": 0.6,
        "gap_seconds_total": 0.3,
        "late_seconds_total": 0.1,
        "events_total dtmf": 2,
        "events_total mark": 1,
        "events_total paused": 1,
        "events_total resumed": 1,
        "calls_ended_total": 1,
    }


@pytest.mark.parametrize(
    "events",
    [
        [began()],
        [Audio(1, b"\xff" * 160)],
        [Audio(-1, b"\xff" * 160)],
    ],
)
def test_what_cannot_be_is_a_fault(events: list[Began | Audio]) -> None:
    desk = Desk()
    with pytest.raises(Fault):
        desk.leg.take(events, NOW)
    desk.leg.take([Audio(0, ms(0, 100)), Ended()], NOW + 100)
    assert desk.heard() == ms(0, 100)


def test_audio_that_ends_inside_a_sample_is_a_fault() -> None:
    desk = Desk(began(codec="pcm_s16le"))
    with pytest.raises(Fault, match="inside a sample"):
        desk.leg.take([Audio(0, b"\0" * 321)], NOW)


@pytest.mark.parametrize(
    "fields",
    [
        {"call_id": ""},
        {"call_id": "a\nb"},
        {"call_id": "x" * 257},
        {"roles": ()},
        {"rate": 1},
        {"rate": 10**9},
        {"metadata": {"k": "x" * MOST_METADATA}},
    ],
)
def test_a_description_that_is_none_is_a_fault(fields: dict[str, object]) -> None:
    with pytest.raises(Fault):
        Desk(began(**fields))


def test_texts_that_utf8_cannot_hold_are_mended() -> None:
    desk = Desk(began(queue="\ud800", metadata={"a": "\udfff"}))
    assert (desk.starts()[0].call.queue, desk.starts()[0].call.metadata) == ("?", {"a": "?"})
