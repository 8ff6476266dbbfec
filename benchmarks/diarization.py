"""How well speakers are told apart and cross-talk is found: `python -m benchmarks.diarization [PART …]`.

The parts, all of them by default:
* `calls`: diarization error rate (pyannote.metrics) of mixed calls through the real VAD and the stage, as 16 kHz and as
  8 kHz mu-law audio, with the CPU time of the stage. Besides the calls of the test data: development calls, made anew
  with a seed. `tight` are the voices of calls/made in turns of 0.5 to 8 s that follow and overlap each other closely;
  `acted` are German sentences of EmoDB, neutral and bored, by two speakers in turn; `mixed` is the two-channel call
  auto-repair-40 as one channel, with what the VAD hears on its channels as the truth.
* `lengths`: what a longest segment of a mixed call costs: how long a turn waits for the end of its segment, error rates
  with a collar of 0.25 s on each side as in `calls`, and word errors of tiny.en with beam 1, in 8 kHz mu-law.
* `voices`: the speakers of reference turns at each threshold, and the slope of the confidence.
* `cross-talk`: a leak of −20, −28 and −35 dB, 0 to 200 ms late, through an echo and a telephone's band, planted into
  both channels of two-channel calls: how much of it is marked, and how much of the parties' own speech.
* `chance`: how similar unrelated stretches are, by length, to compare with the threshold of cross-talk.

The figures stand in processors/diarization.py, processors/cross_talk.py and docs/diarization.md.
"""

import json
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import combinations, pairwise, permutations
from pathlib import Path

import jiwer
import numpy as np
import soundfile
from numpy.typing import NDArray
from pyannote.core import Annotation, Timeline
from pyannote.core import Segment as Stretch
from pyannote.metrics.diarization import DiarizationErrorRate

from benchmarks.segmentation import PLAIN
from benchmarks.support import named_parts
from processors import audio, cross_talk, diarization, utterances, vad
from processors.base import Record
from processors.models.silero import SileroVad
from processors.models.speaker import RATE, CamPlusPlus
from processors.models.whisper import WhisperCt2
from schemas.audio import AudioPacket, Codec
from schemas.events import CallEnded, CallEvent, CallInfo, CallStarted, Correction, Role, Segment, Turn, decode, encode
from schemas.topics import CHAIN
from streams.memory import Chain
from streams.settings import load

Floats = NDArray[np.float32]
Spoken = tuple[float, float, str]
"""Start and end in seconds, speaker."""

THRESHOLDS = (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.62, 0.65, 0.7)
MAXIMA = (4_000, 6_000, 8_000, 15_000)
ERRORS = ("confusion", "missed detection", "false alarm")
LONGEST_S, BRIEF_S = 15.0, 0.5
AT = datetime(2026, 1, 1, tzinfo=UTC)
BANDS: tuple[tuple[int, Codec], ...] = ((16_000, "pcm_s16le"), (8_000, "mulaw"))
LEAKS = [(gain_db, delay_ms) for gain_db in (-20, -28, -35) for delay_ms in (0, 60, 200)]


# Calls


def real_and_made(folder: Path) -> Iterator[tuple[str, Floats, list[Spoken]]]:
    """(name, 16 kHz samples, truth) of the test data's mixed calls."""
    lines = [line.split() for line in (folder / "calls/phone-chat.rttm").read_text().splitlines()]
    truth = [(float(c[3]), float(c[3]) + float(c[4]), c[7]) for c in lines]
    yield "phone-chat", soundfile.read(folder / "calls/phone-chat.flac", dtype="float32")[0], truth
    for file in sorted((folder / "calls/made").glob("*.json")):
        turns = [(turn["start"], turn["end"], turn["speaker"]) for turn in json.loads(file.read_text())]
        yield file.stem, soundfile.read(file.with_suffix(".flac"), dtype="float32")[0], turns


def development(folder: Path) -> Iterator[tuple[str, Floats, list[Spoken]]]:
    """The calls on which the thresholds were chosen."""
    numbers = np.random.default_rng(11)
    said: dict[str, list[Floats]] = defaultdict(list)
    for _, samples, turns in list(real_and_made(folder))[1:]:
        for start, end, speaker in turns:
            first = max([start, *(e for s, e, _ in turns if s < start)])
            last = min([end, *(s for s, _, _ in turns if s > start)])
            said[speaker].append(samples[int(first * RATE) : int(last * RATE)])
    for number, pair in enumerate(combinations(sorted(said), 2)):
        lengths = numbers.choice([0.5, 0.8, 1.2, 2, 3, 5, 8], 60, p=[0.12, 0.13, 0.2, 0.2, 0.15, 0.12, 0.08])
        stretches, who = [], 0
        for length in lengths:
            sound = said[pair[who]][numbers.integers(len(said[pair[who]]))]
            size = min(len(sound), int(length * RATE))
            at = int(numbers.integers(0, len(sound) - size + 1))
            stretches.append(
                (sound[at : at + size], pair[who], float(numbers.choice([-0.5, -0.2, 0, 0.1, 0.2, 0.4, 0.8])))
            )
            who = 1 - who if numbers.random() < 0.9 else who
        yield f"tight-{number}", *conversation(stretches)
    acted: dict[str, list[str]] = defaultdict(list)
    for line in (folder / "emotion/index.jsonl").read_text().splitlines():
        clip = json.loads(line)
        if clip["file"].startswith("emodb") and Path(clip["file"]).stem[5] in "NL":
            acted[clip["speaker"]].append(clip["file"])
    people = sorted(acted)
    for number in range(len(people)):
        pair = people[number], people[(number + 3) % len(people)]
        clips = [numbers.permutation(acted[person]).tolist() for person in pair]
        stretches = []
        for one in range(2 * min(map(len, clips))):
            sound = soundfile.read(folder / "emotion" / clips[one % 2][one // 2], dtype="float32")[0]
            sound = sound * np.float32(0.06 / np.sqrt((sound**2).mean()))
            stretches.append((sound, pair[one % 2], float(numbers.choice([-0.3, 0, 0.1, 0.3, 0.6]))))
        yield f"acted-{number}", *conversation(stretches)
    channels = two_channels(folder / "calls/auto-repair-40.flac")
    heard = [
        decode(item.headers, item.value) for item in segments(list(channels), 8_000, "mulaw", ("agent", "customer"))
    ]
    truth = [(e.start_ms / 1e3 + 0.16, e.end_ms / 1e3 - 0.1, str(e.channel)) for e in heard if isinstance(e, Segment)]
    yield "mixed-0", audio.resample(channels.mean(0), 8_000, RATE), sorted(truth)


def conversation(stretches: Sequence[tuple[Floats, str, float]]) -> tuple[Floats, list[Spoken]]:
    """At most a minute of sounds after each other: (sound, speaker, seconds to the next one)."""
    mix, at_s, truth = np.zeros(75 * RATE, np.float32), 0.5, []
    for sound, speaker, gap_s in stretches:
        at = int(at_s * RATE)
        if at_s > 60:
            break
        mix[at : at + len(sound)] += sound[: len(mix) - at]
        truth.append((at_s, at_s + len(sound) / RATE, speaker))
        at_s = max(at_s + len(sound) / RATE + gap_s, at_s + 0.3)
    return mix[: int((at_s + 1) * RATE)], truth


def two_channels(path: Path) -> Floats:
    """8 kHz channels, float32 (channels, samples)."""
    samples, rate = soundfile.read(path, dtype="float32")
    return np.stack([audio.resample(np.ascontiguousarray(channel), rate, 8_000) for channel in samples.T])


def segments(
    channels: Sequence[Floats], rate: int, codec: Codec, roles: tuple[Role, ...], config: vad.Config | None = None
) -> list[Record]:
    """What the real VAD writes for a call."""
    call = CallInfo(call_id="benchmark", started_at=AT, roles=roles)
    start_ms, step, length = round(AT.timestamp() * 1_000), rate // 10, len(channels[0])

    def mark(event: CallEvent) -> Record:
        headers, value = encode(event)
        return Record("benchmark", event.kind, dict(headers), value, start_ms)

    packets = [mark(CallStarted(call=call))]
    for number, first in enumerate(range(0, length, step)):
        for channel, samples in enumerate(channels):
            value = audio.encode(samples[first : first + step], codec)
            headers = dict(AudioPacket(channel, codec, rate, first, number, value).headers())
            packets.append(Record("benchmark", "audio", headers, value, start_ms + (first + step) * 1_000 // rate))
    packets.append(mark(CallEnded(call=call, duration_ms=length * 1_000 // rate, ended_at=AT, reason="hangup")))
    return Chain(lambda _: vad.VoiceActivity(config or vad.Config(), SILERO), CHAIN[:1]).push(packets)


def through(stage: diarization.Diarization, records: Sequence[Record]) -> tuple[list[CallEvent], float]:
    """(what the stage writes, its CPU seconds)"""
    started = time.process_time()
    written = Chain(lambda _: stage, CHAIN[1:2]).push(records)
    return [decode(item.headers, item.value) for item in written], time.process_time() - started


# Parts


def annotated(turns: Sequence[Spoken]) -> Annotation:
    """As pyannote.metrics takes it."""
    annotation = Annotation()
    for number, (start, end, speaker) in enumerate(turns):
        annotation[Stretch(start, end), number] = speaker
    return annotation


def rate_of_errors(truth: Sequence[Spoken], said: Sequence[Spoken], seconds: float, collar: float) -> dict[str, float]:
    """The parts of the error rate. `collar`: seconds in all, half of them on each side of a boundary."""
    whole = Timeline([Stretch(0, seconds)])
    measure = DiarizationErrorRate(collar=collar)
    found: dict[str, float] = measure(annotated(truth), annotated(said), uem=whole, detailed=True)
    return found


def spoken(events: Sequence[CallEvent]) -> list[Spoken]:
    """The turns, each with the name that its speaker has in the end."""
    same = {event.speaker: event.same_as for event in events if isinstance(event, Correction)}
    found = []
    for turn in events:
        if isinstance(turn, Turn):
            speaker = turn.speaker
            while speaker in same:
                speaker = str(same[speaker])
            found.append((turn.start_ms / 1e3, turn.end_ms / 1e3, speaker))
    return found


def calls(folder: Path) -> None:
    """Diarization error rates, by call and by kind of call."""
    stage = diarizer()
    sums: dict[tuple[str, int], NDArray[np.float64]] = defaultdict(lambda: np.zeros(9))
    print("seconds of speech; % error, of it confused / missed / false, with a collar of 0.25 s on each side of a")
    print("reference boundary; error with a collar of 0.25 s in all, as `calltide eval` has it; without a collar")
    for name, samples, truth in [*real_and_made(folder), *development(folder)]:
        for rate, codec in BANDS:
            records = segments([audio.resample(samples, RATE, rate)], rate, codec, ("unknown",))
            events, cpu_s = through(stage, records)
            turns = [(t.start_ms / 1e3, t.end_ms / 1e3, t.speaker) for t in events if isinstance(t, Turn)]
            corrections = sum(isinstance(event, Correction) and event.same_as is not None for event in events)
            found, seconds = spoken(events), len(samples) / RATE
            strict, narrow, lenient, first = (
                rate_of_errors(truth, said, seconds, collar)
                for collar, said in ((0.0, found), (0.25, found), (0.5, found), (0.5, turns))
            )
            parts = [lenient[part] for part in ERRORS]
            before = sum(first[part] for part in ERRORS)
            wrong = [measured["diarization error rate"] * measured["total"] for measured in (narrow, strict)]
            row = np.array([lenient["total"], sum(parts), *parts, narrow["total"], strict["total"], *wrong])
            sums[kind_of(name), rate] += row
            print(
                f"{name:12s} {rate:6d} Hz {row[0]:6.1f} s {percent(row)}  {len(turns):3d} turns,"
                f" {len({speaker for *_, speaker in found})} speakers, {corrections} corrections"
                f" (before them {100 * before / row[0]:.1f}), CPU {1_000 * cpu_s / seconds:.0f} ms/s"
            )
    print("by kind")
    for (kind, rate), row in sums.items():
        print(f"{kind:12s} {rate:6d} Hz {row[0]:6.1f} s {percent(row)}")


def lengths(folder: Path) -> None:
    """What the longest segment of a mixed call costs."""
    stage, model = diarizer(), WhisperCt2("tiny.en", beam_size=1)
    recordings = [*real_and_made(folder), *development(folder)]
    texts = {file.stem: json.loads(file.read_text()) for file in sorted((folder / "calls/made").glob("*.json"))}
    truth_of = {name: " ".join(turn["text"] for turn in turns) for name, turns in texts.items()}
    stm = (folder / "calls/phone-chat.stm").read_text().splitlines()
    truth_of["phone-chat"] = " ".join(line.split(maxsplit=5)[5] for line in stm)
    for maximum_ms in MAXIMA:
        config = vad.Config(mixed_maximum_ms=maximum_ms)
        sums: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(3))
        waits, reference, hypothesis = [], [], []
        for name, samples, truth in recordings:
            records = segments([audio.resample(samples, RATE, 8_000)], 8_000, "mulaw", ("unknown",), config)
            heard = [decode(item.headers, item.value) for item in records]
            ends = [event.end_ms for event in heard if isinstance(event, Segment)]
            written = Chain(lambda _: stage, CHAIN[1:2]).push(records)
            events = [decode(item.headers, item.value) for item in written]
            # A turn is known when its segment is over: at its end, and after the hangover.
            waits += [
                min(end for end in ends if end >= event.end_ms) - event.end_ms
                for event in events
                if isinstance(event, Turn)
            ]
            errors = rate_of_errors(truth, spoken(events), len(samples) / RATE, 0.5)
            sums[kind_of(name)] += errors["total"], errors["confusion"], sum(errors[part] for part in ERRORS)
            if name in truth_of:
                turns = [
                    utterances.samples(event, item)
                    for event, item in zip(events, written, strict=True)
                    if isinstance(event, Turn)
                ]
                said = [found.text for turn in turns for found in model.transcribe([turn])]
                reference.append(truth_of[name])
                hypothesis.append(" ".join(said))
        words = 100 * jiwer.wer(reference, hypothesis, PLAIN, PLAIN)
        print(
            f"{maximum_ms / 1_000:4.0f} s: a turn waits {np.mean(waits) / 1e3:.1f} s (mean),"
            f" {np.quantile(waits, 0.95) / 1e3:.1f} s (p95), word errors {words:.1f} %; error, of it confused, %:"
            + ",".join(f" {kind} {100 * row[2] / row[0]:.1f} {100 * row[1] / row[0]:.1f}" for kind, row in sums.items())
        )


def diarizer() -> diarization.Diarization:
    """The stage with its models."""
    stage = diarization.build(diarization.Config(), "benchmark")
    assert isinstance(stage, diarization.Diarization)
    return stage


def kind_of(name: str) -> str:
    """What is summed up together."""
    return name if name == "phone-chat" else name.split("-")[0]


def percent(row: NDArray[np.float64]) -> str:
    error, confused, missed, false = 100 * row[1:5] / row[0]
    narrow, strict = 100 * row[7:9] / row[5:7]
    return f"{error:5.1f} {confused:5.1f} /{missed:5.1f} /{false:5.1f}  {narrow:5.1f}  {strict:5.1f}"


def leak(sound: Floats, gain_db: float, delay_ms: int, numbers: np.random.Generator) -> Floats:
    """What comes through: band-limited, with an echo that decays within 30 ms, quieter and late; 8 kHz."""
    taps = numbers.normal(0, 0.25, 240) * np.exp(-np.arange(240) / 64)
    taps[0] += 1
    through_echo = np.convolve(sound, taps)[: len(sound)]
    spectrum = np.fft.rfft(through_echo)
    frequencies = np.fft.rfftfreq(len(sound), 1 / 8_000)
    spectrum[(frequencies < 300) | (frequencies > 3_400)] = 0
    faint = np.fft.irfft(spectrum, len(sound))
    faint *= 10 ** (gain_db / 20) * np.sqrt((sound**2).mean() / (faint**2).mean())
    delay = 8 * delay_ms
    return np.concatenate([np.zeros(delay), faint])[: len(sound)].astype(np.float32)


def leaking(folder: Path) -> None:
    """How much of planted leaks is marked, and how much of what is none."""
    stage = diarization.Diarization(diarization.Config(), Ready(np.zeros((0, 192), np.float32)))
    files = [folder / "calls/auto-repair-40.flac", folder / "calls/stereo-10s.flac"]
    files += sorted((folder / "calls/made").glob("*-stereo.wav"))
    sums: dict[tuple[str, int], NDArray[np.float64]] = defaultdict(lambda: np.zeros(4))
    cpu_s = call_s = 0.0
    for number, path in enumerate(files):
        channels, numbers = two_channels(path), np.random.default_rng(number)
        made = "stereo.wav" in path.name
        planted = LEAKS[number % 3 :: 3] if made or path.stem.startswith("auto") else LEAKS
        truth: list[NDArray[np.bool_]] = []
        for rate, codec in BANDS:
            for gain_db, delay_ms in [(0, 0), *planted]:
                sound = channels
                if gain_db:
                    sound = channels + np.stack([leak(other, gain_db, delay_ms, numbers) for other in channels[::-1]])
                wide = [audio.resample(np.ascontiguousarray(channel), 8_000, rate) for channel in sound]
                events, spent_s = through(stage, segments(wide, rate, codec, ("agent", "customer")))
                turns = [event for event in events if isinstance(event, Turn)]
                length = channels.shape[1] // 80 + 100
                if not gain_db:
                    truth = [times(turns, channel, length) for channel in (0, 1)]
                row = np.zeros(4)
                for channel, own in enumerate(truth):
                    heard = times(turns, channel, length)
                    marked = times([turn for turn in turns if turn.flags], channel, length)
                    row += own.sum(), (own & marked).sum(), (heard & ~own).sum(), (marked & ~own).sum()
                sums["made" if made else path.stem, gain_db] += row / 100
                cpu_s, call_s = cpu_s + spent_s, call_s + channels.shape[1] / 8_000
    print("seconds of own speech, of it marked; leak heard by the VAD, of it marked")
    for (kind, gain_db), (own_s, lost_s, heard_s, found_s) in sorted(sums.items()):
        share = f"{100 * found_s / heard_s:.0f} %" if gain_db and heard_s else ""
        lost = f"{lost_s:5.2f} ({100 * lost_s / own_s:.2f} %)"
        print(f"{kind:16s} {gain_db:4d} dB: {own_s:6.1f} {lost}; {heard_s:6.1f} {found_s:6.1f} {share}")
    print(f"CPU {1_000 * cpu_s / call_s:.1f} ms a second of call")


def times(turns: Sequence[Turn], channel: int, length: int) -> NDArray[np.bool_]:
    """In which hundredths of a second these turns are."""
    found = np.zeros(length, bool)
    for turn in turns:
        if turn.channel == channel:
            found[turn.start_ms // 10 : turn.end_ms // 10] = True
    return found


def chance(folder: Path) -> None:
    """The similarity of stretches of one party with what another said at another time."""
    found: dict[int, list[float]] = defaultdict(list)
    for path in [folder / "calls/auto-repair-40.flac", *sorted((folder / "calls/made").glob("*-stereo.wav"))]:
        records = segments(list(two_channels(path)), 8_000, "mulaw", ("agent", "customer"))
        spoken = [
            (event, item.value) for item in records if isinstance(event := decode(item.headers, item.value), Segment)
        ]
        drawn = []
        for channel in (0, 1):
            value = b"".join(value for event, value in spoken if event.channel == channel)
            whole = next(event for event, _ in spoken if event.channel == channel).model_copy(update={"start_ms": 0})
            drawn.append(cross_talk.sketch(value, whole).decibels)
        for one, other in (drawn, drawn[::-1]):
            for frames in (25, 40, 60, 100, 200):
                for first in range(0, len(one) - frames, 5 * frames):
                    for shift in range(20, len(other) - frames - 20, 701):
                        stretch = cross_talk.Sketch(shift, one[first : first + frames])
                        found[frames].append(cross_talk.similarity(stretch, [cross_talk.Sketch(0, other)])[0])
    for frames, values in found.items():
        quantiles = ", ".join(f"{np.quantile(values, q):.2f}" for q in (0.5, 0.99, 0.999))
        threshold = cross_talk.threshold(frames)
        reached = 100 * np.mean(np.array(values) >= threshold)
        print(
            f"{frames * cross_talk.HOP_MS:5d} ms, {len(values)} pairs: 50, 99, 99.9 % below {quantiles}, most", end=" "
        )
        print(f"{max(values):.2f}; threshold {threshold:.2f}, {reached:.2f} % reach it")


# Reference turns


class Ready:
    """No model: the clustering alone is what varies."""

    id, dim = "ready", 192

    def __init__(self, embeddings: Floats) -> None:
        self.embeddings = embeddings

    def embed(self, audio: Sequence[Floats]) -> Floats:
        return self.embeddings


def parts(start: float, end: float, speaker: str) -> list[Spoken]:
    """A turn in parts no longer than VAD lets a segment be."""
    edges = np.linspace(start, end, int(np.ceil((end - start) / LONGEST_S)) + 1).tolist()
    return [(first, last, speaker) for first, last in pairwise(edges)]


def speakers(embeddings: Floats, seconds: Sequence[float], threshold: float) -> list[str]:
    """What the stage calls the speaker of each stretch."""
    stage = diarization.Diarization(diarization.Config(), Ready(embeddings))
    state, found = stage.open("benchmark"), []
    for embedding, length in zip(embeddings, seconds, strict=True):
        found.append(stage._cluster(state, [diarization.Voice(length, embedding)], threshold)[0][0].name)
    return found


def confusion(found: Sequence[str], truth: Sequence[str], seconds: Sequence[float]) -> float:
    """Share of the time given to the wrong speaker, under the best assignment of names."""
    labels, people = sorted(set(found)), sorted(set(truth))
    labels += [""] * (len(people) - len(labels))
    right = max(
        sum(s for f, t, s in zip(found, truth, seconds, strict=True) if mapping[t] == f)
        for mapping in (dict(zip(people, order, strict=True)) for order in permutations(labels, len(people)))
    )
    return 1 - right / sum(seconds)


def margins(embeddings: Floats, judged: Floats, turns: Sequence[Spoken]) -> Iterator[float]:
    """By how much `judged` are nearer to their own speaker than to the other; centroids without the judged turn."""
    people = sorted({speaker for _, _, speaker in turns})
    for i, (_, _, own) in enumerate(turns):
        cosine = {}
        for person in people:
            rest = [
                embedding * (end - start)
                for j, (embedding, (start, end, speaker)) in enumerate(zip(embeddings, turns, strict=True))
                if speaker == person and j != i and end - start >= diarization.SHORT_S
            ]
            centroid = np.sum(rest, axis=0)
            cosine[person] = float(judged[i] @ centroid / np.linalg.norm(centroid))
        yield cosine.pop(own) - max(cosine.values())


def slope(found: Sequence[float]) -> float:
    """The slope of the logistic curve under which these choices are likeliest."""
    slopes = np.arange(1, 60, 0.5)
    likelihood = [-np.log1p(np.exp(-k * np.array(found))).sum() for k in slopes]
    return float(slopes[int(np.argmax(likelihood))])


def voices(folder: Path) -> None:
    """Thresholds, short stretches and the slope of the confidence, on segments cut by the reference turns."""
    model = CamPlusPlus()
    for rate, default in ((16_000, diarization.WIDE_BAND), (8_000, diarization.TELEPHONE)):
        material = []
        for name, samples, truth in real_and_made(folder):
            turns = [part for turn in truth for part in parts(*turn)]
            sound = samples
            if rate == 8_000:
                sound = audio.decode(audio.encode(audio.resample(samples, RATE, rate), "mulaw"), "mulaw")
            sounds = [audio.resample(sound[int(start * rate) : int(end * rate)], rate, RATE) for start, end, _ in turns]
            brief = model.embed([one[: int(BRIEF_S * RATE)] for one in sounds])
            material.append((name, turns, [end - start for start, end, _ in turns], model.embed(sounds), brief))
        print(f"{rate} Hz, % of speech time confused: {', '.join(name for name, *_ in material)}")
        for threshold in THRESHOLDS:
            row = [
                confusion(speakers(embeddings, seconds, threshold), [t[2] for t in turns], seconds)
                for _, turns, seconds, embeddings, _ in material
            ]
            print(f"  threshold {threshold:.2f}:  {'  '.join(f'{100 * value:4.1f}' for value in row)}")
        for opens in (False, True):
            # A stretch of half a second comes first; called long, it opens a speaker.
            row = []
            for _, turns, seconds, embeddings, brief in material:
                for first in brief:
                    length = diarization.SHORT_S if opens else BRIEF_S
                    found = speakers(np.stack([first, *embeddings]), [length, *seconds], default)
                    row.append(confusion(found[1:], [turn[2] for turn in turns], seconds))
            may = "may" if opens else "may not"
            print(f"  a first word that {may} open a speaker, threshold {default}: {100 * np.mean(row):.1f} % confused")
        for what in ("turns", "first 0.5 s of turns"):
            nearer = [
                margin
                for _, turns, _, embeddings, brief in material
                for margin in margins(embeddings, embeddings if what == "turns" else brief, turns)
            ]
            wrong = 100 * np.mean(np.array(nearer) < 0)
            print(f"  {what}: {wrong:.1f} % of {len(nearer)} nearer to the wrong speaker, slope {slope(nearer):.1f}")


PARTS: dict[str, Callable[[Path], None]] = {
    "calls": calls,
    "lengths": lengths,
    "voices": voices,
    "cross-talk": leaking,
    "chance": chance,
}
SILERO = SileroVad()


def main() -> None:
    """Print the figures."""
    warnings.filterwarnings("ignore", module="pyannote")
    for part in named_parts("python -m benchmarks.diarization", "Who speaks, and what leaks.", PARTS):
        PARTS[part](load().test_data)


if __name__ == "__main__":
    main()
