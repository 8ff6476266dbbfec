"""For each stage: small models in place of the real ones, and calls made up for it.

A changer must know: the stand-ins depend on every byte that they hear and on all the state they carry, so that a byte
lost or swapped anywhere shows in what the stage writes. What hypothesis draws are descriptions; the records are made
from them, so that a failing example can be read.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, Literal, get_args

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from processors import asr, audio, diarization, emotion, insights, metrics, sentiment, vad
from processors.base import Output, Processor, Record
from processors.models.sentiment import TextSentiment
from processors.models.whisper import Recognition, Word
from processors.rules.language import parse
from processors.rules.stage import Rules
from schemas.audio import AudioPacket, Codec
from schemas.events import (
    CallEnded,
    CallEvent,
    CallInfo,
    CallStarted,
    Emotion,
    EmotionLabel,
    EmotionScored,
    Findings,
    Progress,
    Role,
    RunningScore,
    Score,
    Segment,
    Sentiment,
    Statement,
    Transcript,
    Turn,
)
from schemas.events import Word as SaidWord

Floats = NDArray[np.float32]
Format = tuple[Codec, int]

STARTED_AT: Final = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
START_MS: Final = round(STARTED_AT.timestamp() * 1_000)
LABELS: Final[tuple[EmotionLabel, ...]] = get_args(EmotionLabel)
WITHOUT_AUDIO: Final[tuple[type[Segment], ...]] = (EmotionScored, Score)
"""Utterances that are the value of their records."""


def check(samples: Floats) -> int:
    """A number, 32 bits, that depends on every bit of the samples and their order."""
    return zlib.crc32(np.ascontiguousarray(samples).tobytes())


class Restless:
    """Loud windows are mostly speech and quiet ones never; how much is decided by all that was heard before, too."""

    def step(self, rate: int, windows: Floats, states: Floats, contexts: Floats) -> tuple[Floats, Floats, Floats]:
        probabilities, new_states = np.empty(len(windows), np.float32), np.empty_like(states)
        for row, (window, state, context) in enumerate(zip(windows, states, contexts, strict=True)):
            heard = zlib.crc32(state.tobytes() + context.tobytes() + window.tobytes())
            chance = heard / 2**32
            probabilities[row] = 0.25 + 0.75 * chance if np.abs(window).max() > 0.1 else 0.3 * chance
            new_states[row] = np.random.default_rng(heard).random(state.shape, np.float32)
        return probabilities, new_states, windows[:, -contexts.shape[1] :].copy()


class Angles:
    """A voice is the angle that its level stands for; every other bit moves it a little."""

    id = "angles"
    dim = 3

    def embed(self, audio: Sequence[Floats]) -> Floats:
        rows = np.zeros((len(audio), self.dim), np.float32)
        for row, samples in zip(rows, audio, strict=True):
            angle = 4 * float(np.abs(samples).max(initial=0))
            row[:] = np.cos(angle), np.sin(angle), 0.2 * check(samples) / 2**32
            row /= np.linalg.norm(row)
        return rows


class Changes:
    """Who speaks in each quarter of a second is a checksum of it: nobody, one of three, or two."""

    id, step, field = "changes", 160, 160
    classes = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0))

    def voices(self, audio: Sequence[Floats]) -> list[NDArray[np.bool_]]:
        found = []
        for samples in audio:
            quarters = [self.classes[check(samples[i : i + 4_000]) % 5] for i in range(0, len(samples), 4_000)]
            found.append(np.repeat(np.array(quarters, bool), 25, axis=0)[: len(samples) // self.step])
        return found


class Checksum:
    """The words are a checksum of the audio; some of it has none, some asks for a number, some dictates one."""

    id = "checksum"

    def transcribe(self, audio: Sequence[Floats], contexts: Sequence[str] = ()) -> list[Recognition]:
        return [self._one(samples) for samples in audio]

    def _one(self, samples: Floats) -> Recognition:
        number = check(samples)
        if number % 5 == 0:
            return Recognition("", (), "en", 0.1, 0.9, "no_words")
        text = f"{len(samples)} {number >> 16:04x} {number & 0xFFFF:04x}"
        if number % 5 == 1:
            text = f"your card number {number:x}"
        elif number % 5 == 2:
            text = f"{number % 10_000:04}"  # a piece of a card's number, if one was asked for
        confidence = (number & 0xFF) / 0x100
        words = tuple(Word(word, 0.1 * i, 0.1 * i + confidence, confidence) for i, word in enumerate(text.split()))
        return Recognition(text, words, "en", confidence, 0.0, None)


class Shares:
    """The probabilities are the digits of a checksum of the audio."""

    id = "shares"
    labels: tuple[str, ...] = LABELS

    def predict(self, audio: Sequence[Floats]) -> Floats:
        digits = [[1 + (check(samples) >> 5 * i & 31) for i in range(len(LABELS))] for samples in audio]
        shares = np.array(digits, np.float32).reshape(-1, len(LABELS))
        return shares / shares.sum(1, keepdims=True)


class Lottery:
    """The score is a checksum of the text."""

    id = "lottery"
    thresholds = (-0.2, 0.3)

    def score(self, texts: Sequence[str]) -> list[TextSentiment]:
        scores = [round(zlib.crc32(text.encode()) / 2**31 - 1, 4) for text in texts]
        return [TextSentiment("neutral", score, 0.8, {"lottery": score}) for score in scores]


@cache
def noise(rate: int) -> Floats:
    """Ten seconds of noise between −1 and 1."""
    return np.random.default_rng(rate).uniform(-1, 1, 10 * rate).astype(np.float32)


def sound(stretches: Sequence[tuple[int, float]], codec: Codec, rate: int, seed: int = 0) -> bytes:
    """Noise, for so many milliseconds at this level, and so on."""
    levels = np.concatenate([np.full(ms * rate // 1_000, level, np.float32) for ms, level in stretches])
    return audio.encode(levels * np.resize(np.roll(noise(rate), -977 * seed), len(levels)), codec)


def info(call_id: str, roles: tuple[Role, ...]) -> CallInfo:
    return CallInfo(call_id=call_id, started_at=STARTED_AT, roles=roles)


def record(event: CallEvent, value: bytes | None, at_ms: int) -> Record:
    """`event` as it comes from the log."""
    output = Output.of(event, value)
    return Record(event.call.call_id, event.kind, dict(output.headers), output.value, START_MS + at_ms)


def end(call_id: str, at_ms: int, in_value: bool = False) -> Record:
    """The end of a call, as it comes from the log."""
    at = STARTED_AT + timedelta(milliseconds=at_ms)
    event = CallEnded(call=info(call_id, ("unknown",)), duration_ms=at_ms, ended_at=at, reason="hangup")
    return record(event, None if in_value else b"", at_ms)


FORMATS: st.SearchStrategy[Format] = st.sampled_from(
    [("mulaw", 8_000), ("alaw", 8_000), ("pcm_s16le", 8_000), ("pcm_s16le", 16_000)]
)
ROLES: st.SearchStrategy[tuple[Role, ...]] = st.sampled_from(
    [("unknown",), ("unknown",), ("agent", "customer"), ("customer",), ("unknown", "customer")]
)


# Calls as packets


@dataclass(frozen=True, slots=True)
class Spoken:
    """A call from its start to its end, or to its end for idleness, as it is delivered."""

    formats: tuple[Format, ...]
    """Of each channel."""
    stretches: tuple[tuple[tuple[int, float], ...], ...]
    """Of each channel: milliseconds and level."""
    packet_ms: tuple[int, ...]
    """Lengths of the packets, over and over."""
    before_ms: int = 0
    """Time since the call of the same name that was before."""
    start: bool = True
    end: bool = True
    mishaps: tuple[tuple[str, int], ...] = ()
    """What becomes of the packet of this number."""

    def length_ms(self) -> int:
        return max(sum(ms for ms, _ in channel) for channel in self.stretches)

    def records(self, call_id: str, from_ms: int, seed: int) -> Iterator[Record]:
        roles: tuple[Role, ...] = ("agent", "customer") if len(self.formats) == 2 else ("unknown",)
        start = record(CallStarted(call=info(call_id, roles)), None, from_ms)
        packets = []
        for channel, ((codec, rate), stretches) in enumerate(zip(self.formats, self.stretches, strict=True)):
            value = sound(stretches, codec, rate, seed + channel)
            packets += cut(value, channel, codec, rate, self.packet_ms)
        packets.sort(key=lambda packet: (packet.sample / packet.rate, packet.channel))
        line = [packet_record(call_id, packet, from_ms) for packet in packets]
        for what, number in self.mishaps:
            number %= len(line)
            match what:
                case "lose" if len(line) > 1:
                    del line[number]
                case "double":
                    line.insert(number, line[number])
                case "late":
                    line.insert(number + 3, line.pop(number))
                case "start":
                    line.insert(number, start)
        yield from [start][: self.start] + line
        if self.end:
            yield record(
                CallEnded(call=info(call_id, roles), duration_ms=1, ended_at=STARTED_AT, reason="hangup"),
                None,
                from_ms + self.length_ms(),
            )


def cut(value: bytes, channel: int, codec: Codec, rate: int, packet_ms: Sequence[int]) -> list[AudioPacket]:
    """A channel's audio in packets of these lengths, over and over."""
    packets: list[AudioPacket] = []
    sample, width = 0, 2 if codec == "pcm_s16le" else 1
    while sample * width < len(value):
        n = packet_ms[len(packets) % len(packet_ms)] * rate // 1_000
        piece = value[sample * width : (sample + n) * width]
        packets.append(AudioPacket(channel, codec, rate, sample, len(packets), piece))
        sample += n
    return packets


def packet_record(call_id: str, packet: AudioPacket, from_ms: int = 0) -> Record:
    end_ms = (packet.sample + packet.samples) * 1_000 // packet.rate
    return Record(call_id, "audio", dict(packet.headers()), packet.value, START_MS + from_ms + end_ms)


@st.composite
def spoken(draw: st.DrawFn, channels: int) -> Spoken:
    stretch = st.tuples(st.integers(1, 700), st.sampled_from([0.0, 0.05, 0.6, 0.9]))
    return Spoken(
        formats=tuple(draw(FORMATS) for _ in range(channels)),
        stretches=tuple(tuple(draw(st.lists(stretch, min_size=1, max_size=6))) for _ in range(channels)),
        packet_ms=tuple(draw(st.lists(st.integers(20, 300), min_size=1, max_size=3))),
        before_ms=draw(st.sampled_from([0, 100, 900, 2_500])),
        start=draw(st.sampled_from([True, True, True, False])),
        end=draw(st.booleans()),
        mishaps=tuple(
            draw(
                st.lists(
                    st.tuples(st.sampled_from(["lose", "double", "late", "start"]), st.integers(0, 30)), max_size=3
                )
            )
        ),
    )


@dataclass(frozen=True, slots=True)
class Telephone:
    """Calls by id; under each id one call after the other."""

    calls: dict[str, tuple[Spoken, ...]]

    def lines(self) -> dict[str, list[Record]]:
        """The records of each call id, in the order of their arrival."""
        lines: dict[str, list[Record]] = {}
        for number, (call_id, lives) in enumerate(self.calls.items()):
            line, at_ms = lines.setdefault(call_id, []), 0
            for life, one in enumerate(lives):
                at_ms += one.before_ms
                line += one.records(call_id, at_ms, 10 * number + 3 * life)
                at_ms += one.length_ms()
        return lines

    def in_time(self) -> list[Record]:
        """All records as they arrive when everybody's clock goes right."""
        arrivals = []
        for line in self.lines().values():
            now_ms = 0
            for one in line:
                now_ms = max(now_ms, one.timestamp_ms)
                arrivals.append((now_ms, one))
        return [one for _, one in sorted(arrivals, key=lambda arrival: arrival[0])]


# Under one id all calls have the same channels: a packet for another one would be an error.
TELEPHONE: st.SearchStrategy[Telephone] = st.builds(
    Telephone,
    st.dictionaries(
        st.sampled_from("abc"),
        st.integers(1, 2).flatmap(lambda n: st.lists(spoken(n), min_size=1, max_size=3).map(tuple)),
        min_size=1,
        max_size=3,
    ),
)


# Calls as events


@dataclass(frozen=True, slots=True)
class Said:
    """One record of a call behind the VAD."""

    what: Literal["start", "mark", "end", "speech"]
    channel: int = 0
    length_ms: int = 1_000
    level: float = 0.5
    format: Format = ("pcm_s16le", 16_000)
    wordless: bool = False


@dataclass(frozen=True, slots=True)
class Talk:
    """Calls by id: the parties, and the records in order."""

    kind: type[Segment] = field(repr=False)
    calls: dict[str, tuple[tuple[Role, ...], tuple[Said, ...]]]

    def lines(self) -> dict[str, list[Record]]:
        """The records of each call id, in order."""
        return {
            call_id: [self._record(info(call_id, roles), number, one) for number, one in enumerate(line)]
            for call_id, (roles, line) in self.calls.items()
        }

    def _record(self, call: CallInfo, number: int, one: Said) -> Record:
        in_value, at_ms = self.kind in WITHOUT_AUDIO, 1_000 * number
        match one.what:
            case "start":
                return record(CallStarted(call=call), None if in_value else b"", at_ms)
            case "mark":
                return record(Progress(call=call, at_ms=at_ms), None if in_value else b"", at_ms)
            case "end":
                return end(call.call_id, at_ms, in_value)
        return utterance(self.kind, call, number, one)


def utterance(kind: type[Segment], call: CallInfo, number: int, one: Said) -> Record:
    """A record of speech as the stage that reads `kind` gets it."""
    channel, (codec, rate) = one.channel % len(call.roles), one.format
    value = sound([(one.length_ms, one.level)], codec, rate, number)
    fields: dict[str, Any] = {
        "call": call,
        "channel": channel,
        "start_ms": 1_000 * number,
        "end_ms": 1_000 * number + one.length_ms,
        "cut": "pause",
        "codec": codec,
        "rate": rate,
        "captured_at": STARTED_AT,
    }
    if kind is not Segment:
        role = call.roles[channel]
        fields |= {"speaker": f"{role}-{one.length_ms % 2}", "role": role, "speaker_confidence": 1}
    if kind not in (Segment, Turn):
        text = "" if one.wordless else f"said {zlib.crc32(value):x} so"
        fields |= {"text": text, "language": "en", "asr_confidence": 0.9, "asr_model": "some-asr"}
    if kind in WITHOUT_AUDIO and one.level > 0.5:
        shares = Shares().predict([audio.decode(value, codec)])[0].round(4).tolist()
        probabilities = dict(zip(LABELS, shares, strict=True))
        fields["emotion"] = Emotion(label="neutral", probabilities=probabilities, model="some-voice")
    if kind is Score:
        start_ms, end_ms = fields["start_ms"], fields["end_ms"]
        words = fields["text"].split()
        fields["words"] = [SaidWord(text=word, start_ms=start_ms, end_ms=end_ms, confidence=0.9) for word in words]
        score = round(zlib.crc32(value) / 2**31 - 1, 4)
        if words:
            fields["sentiment"] = Sentiment(label="neutral", score=score, text_score=score, confidence=1, model="some")
        running = RunningScore(score=score, party_score=score, utterances=number)
        fields |= {"running": running, "pipeline_version": "v1"}
    return record(kind(**fields), None if kind in WITHOUT_AUDIO else value, 1_000 * number + one.length_ms)


SAID: st.SearchStrategy[Said] = st.builds(
    Said,
    what=st.sampled_from(["speech", "speech", "speech", "speech", "start", "mark", "end"]),
    channel=st.integers(0, 1),
    length_ms=st.integers(300, 1_800),
    level=st.floats(0.1, 0.7),
    format=FORMATS,
    wordless=st.booleans(),
)


def talk(kind: type[Segment]) -> st.SearchStrategy[Talk]:
    line = st.tuples(ROLES, st.lists(SAID, max_size=12).map(tuple))
    return st.builds(Talk, st.just(kind), st.dictionaries(st.sampled_from("abc"), line, min_size=1, max_size=3))


# Stages


IDLE_MS: Final = 1_000
VAD_CONFIG: Final = vad.Config(hangover_ms=100, maximum_ms=1_500, pre_roll_ms=70, idle_timeout_ms=IDLE_MS)


@dataclass(frozen=True, slots=True)
class StandIn:
    """How a stage is tested without its model."""

    build: Callable[[], Processor]
    calls: st.SearchStrategy[Any]
    """`Telephone` or `Talk`."""
    reads: type[Segment] | None = None
    """The utterances that the stage reads; None: packets."""


RULES: Final = """
rules:
  - {name: said, alert: {cooldown_s: 3}, when: {said: {by: customer, regex: '[0-7]', times: 2, within_s: 9}}}
  - {name: trend, alert: {cooldown_s: 0}, when: {trend: {below: 0.5, utterances: 2}}}
  - {name: meant, alert: {}, when: {said: {meaning: {like: said so, at_least: 0.6}, window: {last_s: 4}}}}
  - {name: silence, alert: {}, when: {any: [{silence: {}}, {interruption: {}}, {length: {at_least_s: 6}}]}}
  - {name: missing, category: odd, when: {missing: {by: agent, regex: 'a', window: {first_s: 3}}}}
  - {name: both, alert: {}, when: {all: [{category: odd}, {not: {talk_share: {by: agent, above: 0.6, after_s: 1}}}]}}
"""


class Checksums:
    """The vector of a text is its checksum."""

    def embed(self, texts: Sequence[str]) -> Floats:
        rows = np.array([[1, zlib.crc32(text.encode()) / 2**32] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Recital:
    """Says all that it was given."""

    name = "recital"
    model = ""
    languages: frozenset[str] | None = None

    def conclude(self, call: insights.FinishedCall) -> Findings:
        said = tuple(Statement(text=one.text, evidence=(call.evidence(one),)) for one in call.utterances)
        return Findings(engine=self.name, state="ok", why=call.tally.dump(), summary=said)


STAND_INS: Final[dict[str, StandIn]] = {
    "vad": StandIn(lambda: vad.VoiceActivity(VAD_CONFIG, Restless()), TELEPHONE),
    "diarization": StandIn(
        lambda: diarization.Diarization(diarization.Config(maximum_speakers=3), Angles(), Changes()),
        talk(Segment),
        Segment,
    ),
    "asr": StandIn(lambda: asr.SpeechRecognition(Checksum()), talk(Turn), Turn),
    "emotion": StandIn(
        lambda: emotion.VoiceEmotion(emotion.Config(roles=("customer", "unknown")), Shares()),
        talk(Transcript),
        Transcript,
    ),
    "sentiment": StandIn(
        lambda: sentiment.FusedSentiment(sentiment.Config(), "v1", Lottery()), talk(EmotionScored), EmotionScored
    ),
    "metrics": StandIn(lambda: metrics.Metrics(metrics.Config(), "v1"), talk(Score), Score),
    "rules": StandIn(
        lambda: Rules(lambda: parse({"rules.yaml": RULES}), lambda: False, "v1", Checksums), talk(Score), Score
    ),
    "insights": StandIn(lambda: insights.CallInsights(insights.Config(), "v1", Recital()), talk(Score), Score),
}
"""By the stage's name in `schemas.topics.STAGES`."""
