"""Each stage gives the same output and the same state, byte for byte, however its batches fall and wherever it dies."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain as joined
from itertools import cycle, zip_longest
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from processors import audio, vad
from processors.base import Processor, Record, Step, Unfinished
from processors.models.silero import SileroVad
from processors.vad import MARK_MS, Config, VoiceActivity
from schemas.audio import BYTES_PER_SAMPLE, AudioPacket
from schemas.events import (
    CallEnded,
    CallEvent,
    CallInfo,
    CallStarted,
    Interim,
    Segment,
    Turn,
    decode,
)
from schemas.topics import CHAIN, STAGES, Stage, stage
from streams import samples
from streams.files import open_audio
from streams.memory import Log, Worker
from streams.packets import records as packets_of
from streams.packets import roles_for
from tests.topology.disturbed import (
    ACCIDENTS,
    PATTERNS,
    Accident,
    assert_same,
    by_call,
    disturb,
    drained,
    interleaved,
    worker,
)
from tests.topology.stand_ins import (
    FORMATS,
    STAND_INS,
    STARTED_AT,
    TELEPHONE,
    VAD_CONFIG,
    WITHOUT_AUDIO,
    Format,
    Restless,
    Said,
    StandIn,
    Telephone,
    cut,
    end,
    packet_record,
    record,
    sound,
    utterance,
)

# To make a failing example small may take hypothesis five minutes.
pytestmark = pytest.mark.timeout(600)

EACH_STAGE = pytest.mark.parametrize("row", STAGES, ids=lambda row: row.name)
VAD = stage("vad")


def examples(n: int) -> settings:
    return settings(
        max_examples=n,
        print_blob=True,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,  # `brief` is the same for all examples
        ],
    )


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the VAD does after ten to thirty seconds it does here after one or two, so that short calls come to it."""
    for name, after_ms in {"CUT_MS": 2_000, "PAUSE_FROM_MS": 1_200, "LAG_MS": 1_000, "CATCH_UP_MS": 500}.items():
        monkeypatch.setattr(vad, name, after_ms)


def stand_in(row: Stage) -> StandIn:
    if row.name not in STAND_INS:
        pytest.fail(f"stage {row.name} is not tested here: add it to STAND_INS in tests/topology/stand_ins.py", False)
    return STAND_INS[row.name]


def patient(processor: Processor) -> Processor:
    """The same stage, but that no call is ever idle."""
    processor.idle_timeout_ms = None
    return processor


@EACH_STAGE
@examples(150)
@given(data=st.data())
@pytest.mark.usefixtures("brief")
def test_accidents_change_nothing(row: Stage, data: st.DataObject) -> None:
    made = stand_in(row)
    calls = data.draw(made.calls, label="calls")
    lines = calls.lines()
    # In time, or each with its own idea of time.
    in_time = isinstance(calls, Telephone) and data.draw(st.booleans(), label="in time")
    records = calls.in_time() if in_time else interleaved(lines, data.draw(PATTERNS, label="pattern"))
    accidents = data.draw(ACCIDENTS, label="accidents")
    undisturbed = drained(worker(row, made.build(), records))
    disturbed = drained(disturb(worker(row, made.build(), records), accidents))
    assert_same(disturbed, undisturbed)
    assert not undisturbed.dead_letters.records
    last_ms = max((one.timestamp_ms for one in records), default=0)
    for running in (disturbed, undisturbed):
        running.source.records += [end(call_id, last_ms, in_value=made.reads in WITHOUT_AUDIO) for call_id in lines]
        drained(running)
        assert running.changelog == {}, "what ended leaves nothing"
        assert running.offset == running.source.end
    assert_same(disturbed, undisturbed)


@EACH_STAGE
@examples(40)
@given(data=st.data())
@pytest.mark.usefixtures("brief")
def test_calls_do_not_notice_each_other(row: Stage, data: st.DataObject) -> None:
    made = stand_in(row)
    lines = data.draw(made.calls, label="calls").lines()
    pattern = data.draw(PATTERNS, label="pattern")
    mixed = drained(worker(row, patient(made.build()), interleaved(lines, pattern)))
    in_turn = drained(worker(row, patient(made.build()), interleaved(lines, [])))
    assert by_call(mixed.target) == by_call(in_turn.target)


# A record that cannot be processed


def poison(row: Stage, reads: type[Segment] | None, what: str, call_id: str, at_ms: int) -> Record:
    """A record on which the stage raises, whatever the call has been through."""
    call = CallInfo(call_id=call_id, started_at=STARTED_AT, roles=("unknown",))
    if reads is None:
        packet = packet_record(call_id, AudioPacket(0, "pcm_s16le", 8_000, 0, 0, b"\1\0" * 80))
        bad = {
            "undecodable": replace(packet, headers={"kind": b"audio", "codec": b"mulaw"}),
            "wrong kind": replace(packet, kind="video", headers=dict(packet.headers) | {"kind": b"video"}),
            "truncated": replace(packet, value=packet.value[:-1]),
        }
    else:
        good = utterance(reads, call, 0, Said("speech"))
        (*_, other) = (kind for kind in (Turn, Segment) if kind is not reads)
        bad = {
            "undecodable": replace(good, headers=dict(good.headers) | {"event": good.value[:7] or b"{"}),
            "wrong kind": utterance(other, call, 0, Said("speech")),
            "truncated": replace(good, value=good.value[:-1]),
        }
    return replace(bad[what], timestamp_ms=at_ms)


@EACH_STAGE
@examples(40)
@given(data=st.data())
@pytest.mark.usefixtures("brief")
def test_a_record_that_cannot_be_processed_is_one_dead_letter(row: Stage, data: st.DataObject) -> None:
    made = stand_in(row)
    calls = data.draw(made.calls, label="calls")
    records = interleaved(calls.lines(), data.draw(PATTERNS, label="pattern"))
    # Where the audio has ended there is none to be truncated.
    kinds = ["undecodable", "wrong kind", *(["truncated"] if made.reads not in WITHOUT_AUDIO else [])]
    at = data.draw(st.integers(0, len(records)), label="at")
    what, call_id = data.draw(st.sampled_from(kinds), label="what"), data.draw(st.sampled_from("abc"), label="of")
    at_ms = records[at - 1].timestamp_ms if at else 0
    bad = poison(row, made.reads, what, call_id, at_ms)
    poisoned = [*records[:at], bad, *records[at:]]
    accidents = data.draw(ACCIDENTS, label="accidents")
    disturbed = drained(disturb(worker(row, patient(made.build()), poisoned), accidents))
    assert_same(disturbed, drained(worker(row, patient(made.build()), poisoned)))
    (letter,) = disturbed.dead_letters.records
    assert (letter.call_id, letter.value, letter.timestamp_ms) == (call_id, bad.value, at_ms)
    assert bad.headers.items() <= letter.headers.items()
    assert letter.headers["__connect.errors.offset"] == b"%d" % at
    without = drained(worker(row, patient(made.build()), records))
    assert by_call(disturbed.target) == by_call(without.target), "its call goes on as if it had not come"


# The whole chain


def chain(records: Sequence[Record]) -> list[Worker]:
    workers: list[Worker] = []
    for row in CHAIN:
        source = workers[-1].target if workers else Log(list(records))
        workers.append(Worker(row, stand_in(row).build(), source, Log()))
    return workers


@examples(50)
@given(
    calls=TELEPHONE,
    accidents=st.lists(st.tuples(st.integers(0, len(CHAIN) - 1), ACCIDENTS), max_size=8),
)
@pytest.mark.usefixtures("brief")
def test_accidents_in_any_stage_do_not_change_a_score(
    calls: Telephone, accidents: list[tuple[int, list[Accident]]]
) -> None:
    records = calls.in_time()
    records += [end(call_id, records[-1].timestamp_ms) for call_id in calls.calls]
    undisturbed, disturbed = chain(records), chain(records)
    for running in undisturbed:
        drained(running)
    for which, turns in accidents:
        disturb(disturbed[which], turns)
    for running in disturbed:
        drained(running)
        assert running.checkpoint.divergences == 0
        assert not running.dead_letters.records
        assert running.changelog == {}
    assert by_call(disturbed[-1].target) == by_call(undisturbed[-1].target)


# Packets that are late, doubled or missing


@dataclass(frozen=True, slots=True)
class Delivery:
    """One channel of a call and what the network did to its packets."""

    format: Format
    stretches: tuple[tuple[int, float], ...]
    packet_ms: tuple[int, ...]
    lost: tuple[tuple[int, int], ...]
    """So many packets from this one on."""
    doubled: tuple[tuple[int, int], ...]
    """This packet comes again so many later."""
    late: tuple[tuple[int, int], ...]
    """This packet comes so many later."""
    reconnected: int | None
    """From this packet on sequence numbers begin again."""
    marked: bool
    """Whether another start marker says so; without one they are taken for numbers that were heard already."""

    def packets(self, channel: int) -> list[AudioPacket | None]:
        """As they arrive; None is the start marker of a reconnect."""
        whole = cut(sound(self.stretches, *self.format, channel), channel, *self.format, self.packet_ms)
        arriving: list[tuple[float, AudioPacket | None]] = []
        gone = {number for first, n in self.lost for number in range(first, first + n)}
        late = dict(self.late)
        again = len(whole) if self.reconnected is None else self.reconnected
        if again < len(whole) and self.marked:
            arriving.append((again - 0.5, None))
        for number, packet in enumerate(whole):
            if number >= again:
                packet = replace(packet, sequence=number - again)
            if number not in gone:
                arriving.append((number + late.get(number, 0), packet))
        for number, later in self.doubled:
            arriving += [(number + later, packet) for at, packet in arriving if packet is not None and at == number]
        return [packet for _, packet in sorted(arriving, key=lambda arrival: arrival[0])]


def delivery() -> st.SearchStrategy[Delivery]:
    runs = st.lists(st.tuples(st.integers(0, 25), st.integers(1, 4) | st.integers(1, 15)), max_size=4).map(tuple)
    return st.builds(
        Delivery,
        format=FORMATS,
        stretches=st.lists(
            st.tuples(st.integers(50, 900), st.sampled_from([0.0, 0.05, 0.6, 0.9])), min_size=1, max_size=10
        ).map(tuple),
        packet_ms=st.lists(st.integers(20, 300), min_size=1, max_size=3).map(tuple),
        lost=runs,
        doubled=runs,
        late=runs,
        reconnected=st.none() | st.integers(1, 12),
        marked=st.booleans(),
    )


def ms(packet: AudioPacket, n_samples: int) -> int:
    return n_samples * 1_000 // packet.rate


def truth(arriving: Sequence[AudioPacket | None]) -> tuple[list[list[AudioPacket]], int, int]:
    """(pieces of sound without a hole, missing ms, dropped packets): what should be heard of these packets.

    Short holes are filled with packets of silence; at a long one, of which the VAD hears only a beginning, a new piece
    begins.
    """
    longest_ms = VAD_CONFIG.hangover_ms + MARK_MS
    pieces: list[list[AudioPacket]] = []
    missing_ms = dropped = 0
    sequence = -1
    for packet in arriving:
        if packet is None:
            sequence = -1
            continue
        if not pieces:
            missing_ms += ms(packet, packet.sample) if packet.sequence else 0
            pieces.append([])
        else:
            last = pieces[-1][-1]
            hole = packet.sample - last.sample - last.samples
            if packet.sequence <= sequence or packet.sample < last.sample + last.samples:
                dropped += 1
                continue
            missing_ms += ms(packet, hole)
            if hole:
                filled = min(hole, longest_ms * packet.rate // 1_000)
                silence = audio.silence(filled, packet.codec)
                pieces[-1].append(replace(last, sample=last.sample + last.samples, value=silence))
                if filled < hole:
                    pieces.append([])
        sequence = packet.sequence
        pieces[-1].append(packet)
    return pieces, missing_ms, dropped


def events(written: Log) -> list[tuple[CallEvent, bytes]]:
    return [(decode(one.headers, one.value), one.value) for one in written.records]


def segments(written: Log) -> list[tuple[Segment, bytes]]:
    return [(event, value) for event, value in events(written) if isinstance(event, Segment)]


def in_order(found: list[tuple[Segment, bytes]]) -> list[tuple[Segment, bytes]]:
    return sorted(found, key=lambda one: (one[0].channel, one[0].start_ms))


QUIET = Delivery(("pcm_s16le", 8_000), ((2_400, 0.0),), (100,), (), (), (), 11, marked=False)


@examples(100)
@given(
    channels=st.lists(delivery(), min_size=1, max_size=2),
    accidents=ACCIDENTS,
)
# A crash at a snapshot, then numbers that were heard before it; a packet of before a reconnect that comes after it.
@example(channels=[QUIET], accidents=[(12, "crash")])
@example(channels=[replace(QUIET, marked=True, doubled=((9, 4),))], accidents=[])
def test_media_time_does_not_drift_whatever_happens_to_packets(
    channels: list[Delivery], accidents: list[Accident]
) -> None:
    call = CallInfo(call_id="a", started_at=STARTED_AT, roles=("agent", "customer"))
    start = record(CallStarted(call=call), None, 0)
    # The channels are sent side by side, and a reconnect is one of both.
    delivered = [one.packets(channel) for channel, one in enumerate(channels)]
    absent = object()
    together = joined.from_iterable(zip_longest(*delivered, fillvalue=absent))
    arriving = [packet for packet in together if packet is None or isinstance(packet, AudioPacket)]
    expected: list[tuple[Segment, bytes]] = []
    missing_ms = dropped = heard_ms = 0
    for channel in range(len(channels)):
        own = [packet for packet in arriving if packet is None or packet.channel == channel]
        pieces, missing_here_ms, dropped_here = truth(own)
        missing_ms, dropped = missing_ms + missing_here_ms, dropped + dropped_here
        for piece in pieces:
            heard_ms = max(heard_ms, ms(piece[-1], piece[-1].sample + piece[-1].samples))
            smooth = [packet_record("a", replace(packet, sequence=i)) for i, packet in enumerate(piece)]
            alone = drained(worker(VAD, patient(stand_in(VAD).build()), [start, *smooth, end("a", 60_000)]))
            expected += segments(alone.target)
    records = [start, *(start if packet is None else packet_record("a", packet) for packet in arriving)]
    records.append(end("a", 60_000))
    running = drained(disturb(worker(VAD, patient(stand_in(VAD).build()), records), accidents))
    assert_same(running, drained(worker(VAD, patient(stand_in(VAD).build()), records)))
    assert in_order(segments(running.target)) == in_order(expected)
    ended, _ = events(running.target)[-1]
    assert isinstance(ended, CallEnded)
    assert (ended.missing_ms, ended.dropped_packets, ended.duration_ms) == (missing_ms, dropped, heard_ms)


# Interim results


@examples(120)
@given(
    calls=TELEPHONE,
    pattern=PATTERNS,
    accidents=ACCIDENTS,
    asked=st.lists(st.booleans(), min_size=1, max_size=9),
)
@pytest.mark.usefixtures("brief")
def test_looking_at_open_segments_changes_nothing(
    calls: Telephone, pattern: list[tuple[int, int]], accidents: list[Accident], asked: list[bool]
) -> None:
    records = interleaved(calls.lines(), pattern)
    processor = VoiceActivity(VAD_CONFIG, Restless())
    running, answers, told = worker(VAD, processor, records), cycle(asked), list[tuple[Interim, bytes]]()

    def look() -> None:
        for _, _, state in running.checkpoint.states():
            wanted: list[Unfinished] = []

            def due(one: Unfinished, wanted: list[Unfinished] = wanted) -> bool:
                wanted += [one] if (yes := next(answers)) else []
                return yes

            outputs = processor.provisional(state, due)
            assert len(outputs) == len(wanted)
            for one, output in zip(wanted, outputs, strict=True):
                event = decode(dict(output.headers), output.value)
                assert isinstance(event, Interim)
                assert (event.start_ms, event.end_ms, event.revision) == (one.start_ms, one.end_ms, one.revision)
                told.append((event, output.value))

    for accident in accidents:
        disturb(running, [accident])
        look()
    while not running.at_end:
        running.turn(5)
        look()
    undisturbed = drained(worker(VAD, stand_in(VAD).build(), records))
    assert_same(drained(running), undisturbed)
    last_ms = max((one.timestamp_ms for one in records), default=0)
    for one in (running, undisturbed):
        one.source.records += [end(call_id, last_ms) for call_id in calls.lines()]
    assert_same(drained(running), drained(undisturbed))
    finished: dict[str, list[bytes]] = defaultdict(list)
    for segment, value in segments(undisturbed.target):
        finished[segment.identity].append(value)
    for event, value in told:
        # What is told begins as what comes of it does; that may be shorter, where it is cut at its longest.
        assert any(value.startswith(whole[: len(value)]) for whole in finished[event.identity])
        assert len(value) == (event.end_ms - event.start_ms) * event.rate // 1_000 * BYTES_PER_SAMPLE[event.codec]


# The real VAD on real speech


class Measured(VoiceActivity):
    """Remembers the longest snapshot, in bytes a channel."""

    longest = 0

    def process(self, batch: Sequence[tuple[Any, Record]]) -> list[Step]:
        steps = super().process(batch)
        for (call, _), step in zip(batch, steps, strict=True):
            self.longest = max(self.longest, len(step.snapshot or b"") // max(len(call.channels), 1))
        return steps


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    """The same real conversation as 16 kHz PCM in one channel, and as 8 kHz mu-law with a channel for each party."""
    calls = {}
    for path in (samples.packaged(), samples.two_channel(tmp_path_factory.mktemp("samples"))):
        recording = open_audio(path)
        call = CallInfo(call_id=path.stem, started_at=STARTED_AT, roles=roles_for(recording, None))
        calls[path.stem] = list(packets_of(call, recording, 100))
    return calls


@pytest.fixture(scope="module")
def silero() -> SileroVad:
    return SileroVad()


@pytest.fixture(scope="module")
def undisturbed(conversations: dict[str, list[Record]], silero: SileroVad) -> Log:
    """What the real VAD writes for one conversation after the other."""
    running = drained(worker(VAD, patient(VoiceActivity(Config(), silero)), interleaved(conversations, [])))
    assert len(segments(running.target)) > 10
    return running.target


@pytest.mark.models
@examples(12)
@given(
    pattern=PATTERNS,
    accidents=st.lists(
        st.tuples(st.integers(1, 150), st.sampled_from(["commit", "commit", "late commit", "abort", "crash"])),
        max_size=25,
    ),
)
def test_the_real_vad_on_real_speech_whatever_happens(
    conversations: dict[str, list[Record]],
    silero: SileroVad,
    undisturbed: Log,
    pattern: list[tuple[int, int]],
    accidents: list[Accident],
) -> None:
    measured = Measured(Config(), silero)
    records = interleaved(conversations, pattern)
    running = drained(disturb(worker(VAD, patient(measured), records), accidents))
    assert by_call(running.target) == by_call(undisturbed)
    assert running.changelog == {}
    assert running.checkpoint.divergences == 0
    assert 1_000 < measured.longest < 8_192
