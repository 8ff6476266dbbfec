"""Where segments begin and end, and what it costs in words and in waiting: `python -m benchmarks.segmentation [PART…]`.

The tables stand in docs/vad.md. The parts: `accuracy` against the truth of the made calls and the telephone chat,
`curve` of latency against word errors over hangover and maximum length, `cuts` of segments that are too long, `sounds`
that are no speech and the real speech that the guard against them costs.

A changer must know: Silero hears each recording once, and the stage then runs on these probabilities again and again
(`Replay`), so a setting costs milliseconds; ASR hears a segment of the same audio once.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from unittest import mock

import jiwer
import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks import not_speech
from benchmarks.support import Table, add_outputs, percentile, publish
from processors import audio, vad
from processors.base import Record
from processors.models.silero import CONTEXT, STATE, WINDOW, SileroVad
from processors.models.whisper import RATE, WhisperCt2
from schemas.audio import AudioPacket, Codec
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, CallStarted, Segment, decode, encode
from streams.settings import load

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Stretch = tuple[float, float]
"""From second, to second."""

PLAIN = jiwer.Compose(
    [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.Strip(), jiwer.ReduceToListOfListOfWords()]
)
HANGOVERS: Final = (192, 384, 768)
MAXIMA: Final = (6_000, 15_000, 28_000)
MINIMA: Final = (32, 96, 256)
PARTS: Final = ("accuracy", "curve", "cuts", "sounds")


@dataclass(slots=True)
class Channel:
    """One channel of a recording, with what is known of it."""

    name: str
    rate: int
    codec: Codec
    samples: Floats
    turns: list[Stretch] = field(default_factory=list)
    speech: Flags = field(default_factory=lambda: np.zeros(0, bool))
    """Of each 10 ms, whether somebody is heard."""
    text: str = ""
    value: bytes = b""
    probabilities: list[float] = field(default_factory=list)
    texts: dict[Stretch, str] = field(default_factory=dict)
    """What ASR heard in stretches of it."""

    def __post_init__(self) -> None:
        self.value = audio.encode(self.samples, self.codec)
        self.samples = audio.decode(self.value, self.codec)

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


class Replay:
    """The probabilities of one channel that were heard before, in order."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        self._left = iter(probabilities)

    def step(self, rate: int, windows: Floats, states: Floats, contexts: Floats) -> tuple[Floats, Floats, Floats]:
        return np.array([next(self._left)], np.float32), states, contexts


def listen(channels: Sequence[Channel], model: SileroVad) -> None:
    """Fill in the probabilities."""
    for rate, size in WINDOW.items():
        chosen = [channel for channel in channels if channel.rate == rate]
        for first in range(0, len(chosen), 16):
            group = chosen[first : first + 16]
            n = max(len(channel.samples) for channel in group) // size
            windows = np.zeros((len(group), n, size), np.float32)
            for row, channel in enumerate(group):
                whole = len(channel.samples) // size * size
                windows[row, : whole // size] = channel.samples[:whole].reshape(-1, size)
            states = np.zeros((len(group), *STATE), np.float32)
            contexts = np.zeros((len(group), CONTEXT[rate]), np.float32)
            heard = []
            for i in range(n):
                found, states, contexts = model.step(rate, windows[:, i], states, contexts)
                heard.append(found)
            for row, channel in enumerate(group):
                channel.probabilities = [float(each[row]) for each in heard[: len(channel.samples) // size]]


@dataclass(frozen=True, slots=True)
class Found:
    """A segment, and when it was known."""

    start: float
    end: float
    cut: str
    known: float


def segments(channel: Channel, config: vad.Config) -> list[Found]:
    """What the stage makes of a channel. Raises StopIteration when its model was asked more than it heard."""
    stage = vad.VoiceActivity(config, Replay(channel.probabilities))
    info = CallInfo(call_id="call", started_at=datetime(2026, 1, 1, tzinfo=UTC), roles=("unknown",))
    headers, _ = encode(CallStarted(call=info), b"")
    call, found = stage.open("call"), []
    records = [Record("call", "call_started", dict(headers), b"", 0)]
    size, width = WINDOW[channel.rate], len(channel.value) // len(channel.samples)
    for i in range(0, len(channel.samples), size):
        packet = AudioPacket(
            0, channel.codec, channel.rate, i, i // size, channel.value[i * width : (i + size) * width]
        )
        known_ms = min(i + size, len(channel.samples)) * 1_000 // channel.rate
        headers = packet.headers()
        records.append(Record("call", "audio", dict(headers), packet.value, known_ms))
    headers, _ = encode(CallEnded(call=info, duration_ms=1, ended_at=info.started_at, reason="hangup"), b"")
    records.append(Record("call", "call_ended", dict(headers), b"", records[-1].timestamp_ms))
    for record in records:
        (step,) = stage.process([(call, record)])
        for output in step.outputs:
            event = decode(dict(output.headers), output.value)
            if isinstance(event, Segment):
                found.append(
                    Found(event.start_ms / 1_000, event.end_ms / 1_000, event.cut, record.timestamp_ms / 1_000)
                )
    return found


# Recordings


def made_calls(folder: Path) -> list[Channel]:
    """The twelve parties of the made calls, 8 kHz mu-law. A turn's edges are where its sound begins and ends."""
    channels = []
    for file in sorted((folder / "made").glob("*.json")):
        samples, rate = soundfile.read(file.with_name(f"{file.stem}-stereo.wav"), dtype="float32")
        turns = json.loads(file.read_text())
        for number in range(2):
            own = [turn for turn in turns if turn["channel"] == number]
            column = np.ascontiguousarray(samples[:, number])
            speech = np.zeros(len(column) * 100 // rate, bool)
            edges = []
            for turn in own:
                loud = sound(column, rate, turn["start"], turn["end"])
                first, at = int(turn["start"] * 100), np.flatnonzero(loud)
                speech[first : first + len(loud)] = loud
                edges.append(((first + at[0]) / 100, (first + at[-1] + 1) / 100))
            text = " ".join(turn["text"] for turn in own)
            channels.append(Channel(f"{file.stem}/{number}", rate, "mulaw", column, edges, speech, text))
    return channels


def sound(samples: Floats, rate: int, start: float, end: float) -> Flags:
    """Which 10 ms of a stretch belong to 30 ms or more that stand 9 dB above its noise (the level that 10 % of it are
    below). The recordings that the calls are made from begin and end with a noisy silence."""
    levels = decibels(samples[int(start * rate) : int(end * rate)], rate)
    loud = levels > np.quantile(levels, 0.1) + 9
    firm = loud[:-2] & loud[1:-1] & loud[2:]
    return np.convolve(firm, [1, 1, 1]) > 0


def decibels(samples: Floats, rate: int) -> NDArray[np.float64]:
    """Level of each 10 ms, dB of full scale."""
    size = rate // 100
    frames = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float64)
    return 10 * np.log10(np.square(frames).mean(axis=1) + 1e-8)


def chat(folder: Path, rate: int, codec: Codec) -> Channel:
    """The telephone chat: anybody's speech."""
    samples, native = soundfile.read(folder / "phone-chat.flac", dtype="float32")
    speech = np.zeros(len(samples) * 100 // native, bool)
    for fields in map(str.split, (folder / "phone-chat.rttm").read_text().splitlines()):
        start, length = float(fields[3]), float(fields[4])
        speech[round(start * 100) : round((start + length) * 100)] = True
    return Channel("phone-chat", rate, codec, audio.resample(samples, native, rate), speech=speech)


def real_speech(data: Path) -> list[Channel]:
    """Everything that people say in the test data, at telephone quality."""
    calls = data / "calls"
    found = [*made_calls(calls), chat(calls, 8_000, "mulaw")]
    names = ("auto-repair-40.flac", "bank-agent.flac", "contoso-account.flac", "stereo-10s.flac")
    for name in names:
        samples, rate = soundfile.read(calls / name, dtype="float32", always_2d=True)
        columns = [audio.resample(np.ascontiguousarray(column), rate, 8_000) for column in samples.T]
        found += [Channel(name, 8_000, "mulaw", column) for column in columns]
    found += clips("prompts", sorted((data / "prompts").glob("*.flac")))
    for corpus in ("emodb", "ravdess"):
        found += clips(corpus, sorted((data / "emotion" / corpus).glob("**/*.flac"))[::5])
    return found


def clips(name: str, files: Sequence[Path], together: int = 20) -> list[Channel]:
    """Short recordings one after the other, with 0.7 s of silence between them."""
    found = []
    for first in range(0, len(files), together):
        pieces = []
        for file in files[first : first + together]:
            samples, rate = soundfile.read(file, dtype="float32")
            pieces += [audio.resample(samples, rate, 8_000), np.zeros(5_600, np.float32)]
        found.append(Channel(name, 8_000, "mulaw", np.concatenate(pieces)))
    return found


# Parts


def accuracy(calls: Sequence[Channel], others: Sequence[Channel], config: vad.Config) -> Table:
    """Edges of turns on channels of their own, and how much is missed or taken for speech."""
    starts, ends, known, missed = [], [], [], 0.0
    for channel in calls:
        found = segments(channel, config)
        for start, end in channel.turns:
            own = [one for one in found if one.start < end and one.end > start]
            if not own:
                missed += 1
                continue
            starts.append(1_000 * (own[0].start + config.pre_roll_ms / 1_000 - start))
            ends.append(1_000 * (own[-1].end - vad.TAIL_MS / 1_000 - end))
            known.append(1_000 * (own[-1].known - end))
    rows = []
    for name, values in (("start, without pre-roll", starts), ("end, without tail", ends), ("end known after", known)):
        size = [abs(value) for value in values]
        cells = (percentile(values, 0.5), percentile(size, 0.5), percentile(size, 0.95))
        rows.append((f"{name}, ms", *(f"{value:.0f}" for value in cells)))
    for name, group in (("made calls", calls), *((f"{one.name} {one.rate // 1000} kHz", [one]) for one in others)):
        rates = [coverage(channel, segments(channel, config)) for channel in group]
        lost, spoken, false, silent = map(sum, zip(*rates, strict=True))
        rows.append((f"{name}: speech missed, %", f"{100 * lost / spoken:.2f}", "", ""))
        rows.append((f"{name}: pause taken for speech, %", f"{100 * false / silent:.1f}", "", ""))
    note = f"{len(starts)} turns, {missed:.0f} of them without a segment. Positive: later than the truth."
    return Table("Edges against truth", ("", "median", "median size", "p95 size"), rows, [note], rows)


def coverage(channel: Channel, found: Sequence[Found]) -> tuple[float, ...]:
    """Seconds of speech missed, of speech, of pauses in segments (but for pre-roll and tail), of pauses; pauses
    between turns only where these are known."""
    speech, pause = channel.speech, ~channel.speech
    for start, end in channel.turns:
        pause[round(start * 100) : round(end * 100)] = False
    within, core = np.zeros_like(speech), np.zeros_like(speech)
    for one in found:
        within[round(one.start * 100) : round(one.end * 100)] = True
        core[round(one.start * 100) + 16 : round(one.end * 100) - 10] = True
    return tuple(float(np.sum(flags)) / 100 for flags in (speech & ~within, speech, pause & core, pause))


def curve(channels: Sequence[Channel], model: WhisperCt2) -> list[Table]:
    """Word errors and waiting over hangover, maximum and minimum."""
    usual = vad.Config()
    tables = []
    for name, values in (("hangover_ms", HANGOVERS), ("maximum_ms", MAXIMA), ("minimum_speech_ms", MINIMA)):
        rows: list[tuple[str, ...]] = []
        data = []
        for value in values:
            config = usual.model_copy(update={name: value})
            found = [segments(channel, config) for channel in channels]
            all_of_them = [one for each in found for one in each]
            lengths = [one.end - one.start for one in all_of_them]
            # From the last window of speech to the moment when the segment goes on to ASR.
            tail = min(vad.TAIL_MS, config.hangover_ms) / 1_000
            waits = [one.known - (one.end - tail) for one in all_of_them if one.cut == "pause"]
            # What is said at the beginning of a segment is known when all of it is.
            first = [one.known - one.start for one in all_of_them]
            errors = wer(channels, found, model)
            figures = {
                "value": value,
                "segments": len(all_of_them),
                "median_s": percentile(lengths, 0.5),
                "longest_s": max(lengths),
                "wait_ms": 1_000 * percentile(waits, 0.5),
                "first_p95_s": percentile(first, 0.95),
                "cut_at_maximum": sum(one.cut == "max_length" for one in all_of_them),
                "wer": errors,
            }
            data.append(figures)
            rows.append(
                (
                    f"**{value}**" if value == getattr(usual, name) else str(value),
                    f"{len(all_of_them)}",
                    f"{figures['median_s']:.1f}",
                    f"{figures['cut_at_maximum']}",
                    f"{figures['wait_ms']:.0f}",
                    f"{figures['first_p95_s']:.1f}",
                    f"{100 * errors:.1f}",
                )
            )
        head = (
            name,
            "segments",
            "median s",
            "cut at maximum",
            "end known after ms",
            "first word known after s, p95",
            "WER %",
        )
        tables.append(Table(f"`{name}`", head, rows, data=data))
    return tables


def wer(channels: Sequence[Channel], found: Sequence[Sequence[Found]], model: WhisperCt2) -> float:
    """Word error rate of each channel's whole text."""
    for channel, own in zip(channels, found, strict=True):
        new = [(one.start, one.end) for one in own if (one.start, one.end) not in channel.texts]
        heard = [
            audio.resample(channel.samples[round(start * channel.rate) : round(end * channel.rate)], channel.rate, RATE)
            for start, end in new
        ]
        for place, recognition in zip(new, model.transcribe(heard) if heard else (), strict=True):
            channel.texts[place] = recognition.text
    said = [channel.text for channel in channels]
    texts = [
        " ".join(channel.texts[one.start, one.end] for one in own) for channel, own in zip(channels, found, strict=True)
    ]
    return jiwer.wer(said, texts, reference_transform=PLAIN, hypothesis_transform=PLAIN)


@contextmanager
def by_probability_alone() -> Iterator[None]:
    """The least probability of one window decides on a cut: what the rule is compared with."""
    with mock.patch.multiple(vad, _SMOOTHING=(1,), _DB_OF_PROBABILITY=math.inf):
        yield


def cuts(channels: Sequence[Channel]) -> Table:
    """Whether segments that are too long are cut in pauses. A pause: 100 ms at least 25 dB below the loud speech."""
    rows: list[tuple[str, ...]] = []
    data = []
    for maximum_ms in (5_000, 8_000, 15_000):
        config = vad.Config(maximum_ms=maximum_ms)
        reach = min(vad.SEARCH_MS, maximum_ms // 3) / 1_000
        for name, rule in (("probability alone", by_probability_alone()), ("probability and loudness", nullcontext())):
            with rule:
                found = [segments(channel, config) for channel in channels]
            n = possible = hit = 0
            for channel, own in zip(channels, found, strict=True):
                levels = decibels(channel.samples, channel.rate)
                spoken = [level for one in own for level in levels[int(one.start * 100) : int(one.end * 100)]]
                quiet = levels < np.quantile(spoken, 0.9) - 25
                for one in own:
                    if one.cut != "max_length" or one.known - one.end > reach + 0.1:
                        continue
                    n += 1
                    searched = quiet[max(round((one.known - reach) * 100), 0) : round(one.known * 100)]
                    if longest(searched) >= 10:
                        possible += 1
                        at = round(one.end * 100)
                        hit += bool(quiet[at - 2 : at + 3].all())
            rows.append(
                (
                    f"{maximum_ms / 1_000:.0f}",
                    name,
                    str(n),
                    str(possible),
                    f"{hit} ({100 * hit / max(possible, 1):.0f} %)",
                )
            )
            data.append({"maximum_ms": maximum_ms, "rule": name, "cuts": n, "possible": possible, "hit": hit})
    head = ("maximum s", "rule", "cuts", "with a pause in reach", "cut in a pause")
    return Table("Cuts of segments that are too long", head, rows, data=data)


def longest(flags: Flags) -> int:
    """The longest run of true ones."""
    return int(np.diff(np.flatnonzero(np.concatenate(([True], ~flags, [True])))).max()) - 1


@contextmanager
def unguarded() -> Iterator[None]:
    """Whatever is long enough is speech."""
    with mock.patch.object(vad, "EVIDENCE", dict.fromkeys(vad.EVIDENCE, 0.0)):
        yield


def sounds(speech: Sequence[Channel], model: SileroVad, takes: Iterable[int]) -> Table:
    """Segments in what is no speech, and speech that the guard takes for none."""
    rows: list[tuple[str, ...]] = []
    data = []
    made: dict[tuple[str, int], list[Channel]] = {}
    for take in takes:
        kinds: tuple[tuple[int, Codec], ...] = ((8_000, "mulaw"), (16_000, "pcm_s16le"))
        for rate, codec in kinds:
            for group, name, samples in not_speech.kinds(rate, take):
                made.setdefault((group, rate), []).append(Channel(name, rate, codec, samples))
    groups = {f"{group}, {rate // 1_000} kHz": channels for (group, rate), channels in made.items()}
    for channel in speech:
        groups.setdefault(f"speech: {channel.name.split('/')[0].split('.')[0]}", []).append(channel)
    for name, channels in groups.items():
        listen(channels, model)
        with unguarded():
            before = [segments(channel, vad.Config()) for channel in channels]
        after = [segments(channel, vad.Config()) for channel in channels]
        minutes = sum(channel.seconds for channel in channels) / 60
        counts = [sum(map(len, found)) for found in (before, after)]
        lengths = [sum(one.end - one.start for own in found for one in own) for found in (before, after)]
        rows.append((name, f"{minutes:.1f}", *map(str, counts), *(f"{length:.1f}" for length in lengths)))
        data.append({"sound": name, "minutes": minutes, "segments": counts, "seconds": lengths})
    head = ("", "minutes", "segments without the guard", "with it", "seconds without", "with it")
    return Table("What is no speech, and what is", head, rows, data=data)


def main() -> None:
    """Print the tables of the parts named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.segmentation", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--takes", type=int, nargs="+", default=[0, 1], metavar="N", help="of the sounds (default 0 1)")
    add_outputs(parser)
    arguments = parser.parse_args()
    parts, data, model = arguments.parts or PARTS, load().test_data, SileroVad()
    calls = made_calls(data / "calls")
    chats = [chat(data / "calls", 8_000, "mulaw"), chat(data / "calls", 16_000, "pcm_s16le")]
    listen([*calls, *chats], model)
    tables: dict[str, list[Table]] = {}
    for part in parts:
        match part:
            case "accuracy":
                found = [accuracy(calls, chats, vad.Config())]
            case "curve":
                found = curve(calls, WhisperCt2(beam_size=1))
            case "cuts":
                speech = [each for each in real_speech(data) if each.name not in ("ravdess", "emodb")]
                listen(speech, model)
                found = [cuts(speech)]
            case _:
                found = [sounds(real_speech(data), model, arguments.takes)]
        tables[f"python -m benchmarks.segmentation {part}"] = found
    publish(tables, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
