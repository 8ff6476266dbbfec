"""Items of a data set as the product hears them.

Calls, and clips whose words or sentiment are known, go through the chain of `calltide analyze`, model by model as the
settings say. A clip's emotion and a text go to their stage alone, as the records that the stage would read. A changer
must know: only the time inside the chain or the stage is counted, not that of reading truth or making the narrow band.
"""

import re
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from processors.audio import encode, resample
from processors.base import Output, Record
from schemas.audio import Codec
from schemas.errors import CalltideError
from schemas.events import (
    CallInfo,
    Emotion,
    EmotionScored,
    Role,
    Score,
    Sentiment,
    Transcript,
    decode,
)
from streams.analyze import Analyzer
from streams.evaluation.manifest import Call, Clip, Text, Turn
from streams.files import open_audio
from streams.settings import Settings

Band = Literal["wide", "narrow"]
Form = Literal["written", "spoken"]
NARROW_RATE: Final = 8_000
NO_MODEL: Final = "none"
"""Name of the recogniser of words that were given."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What hearing took: seconds of audio, of all processors together, and of the clock."""

    audio_s: float
    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class HeardCall:
    """A call and what came out of the chain, in order of time."""

    truth: Call
    name: str
    scores: tuple[Score, ...]
    duration_s: float
    cost: Cost
    clip: Clip | None = None
    """Where the call was a clip."""


@dataclass(frozen=True, slots=True)
class HeardClip:
    """A clip and its emotion; None where the stage gave none, `why` says the reason."""

    truth: Clip
    emotion: Emotion | None
    why: str | None
    cost: Cost


@dataclass(frozen=True, slots=True)
class HeardText:
    """A text and its sentiment."""

    truth: Text
    sentiment: Sentiment
    cost: Cost


@dataclass(slots=True)
class _Clock:
    cpu: float = field(default_factory=time.process_time)
    wall: float = field(default_factory=time.perf_counter)

    def cost(self, audio_s: float) -> Cost:
        return Cost(audio_s, time.process_time() - self.cpu, time.perf_counter() - self.wall)


def name_of(recording: Path) -> str:
    """The recording's name with its two nearest folders: the same however the path to them is written."""
    return "/".join(recording.absolute().with_suffix("").parts[-3:])


def bands_of(recording: Path) -> tuple[Band, ...]:
    """A recording at less than 16 kHz has no wide band."""
    return ("wide", "narrow") if open_audio(recording, mix=True).source_rate >= 16_000 else ("narrow",)


def require_fitting(call: Call) -> None:
    """Raises CalltideError where turns are on a channel that the recording has not, on none of two, or after its end.

    Each would make figures that look like the product's mistakes.
    """
    audio = open_audio(call.file, mix=call.mix)
    for what, turns in (("turn", call.turns), ("transcript, turn", call.transcript)):
        for number, turn in enumerate(turns or ()):
            where = f"{call.file}: {what} {number}"
            if audio.channels > 1 and "channel" not in turn.model_fields_set:
                raise CalltideError(f'{where} names none of the two channels; give "channel", or the call "mix": true')
            if audio.channels > 1 and turn.channel >= audio.channels:
                raise CalltideError(f"{where} is on channel {turn.channel}; the recording has the channels 0 and 1")
            # Turns may overhang a little: annotators round.
            if audio.duration_ms is not None and (turn.end or 0) * 1_000 > audio.duration_ms + 1_000:
                seconds = audio.duration_ms / 1_000
                raise CalltideError(f"{where} ends at {turn.end:g} s, the recording at {seconds:.1f} s; mend the times")


def samples_of(recording: Path) -> tuple[NDArray[np.float32], int]:
    """(float32 (samples, channels), rate 8,000 or 16,000) as the chain would read them."""
    audio = open_audio(recording)
    blocks = list(audio.blocks())
    return (np.concatenate(blocks) if blocks else np.empty((0, audio.channels), np.float32)), audio.rate


def narrow(recording: Path, folder: Path) -> Path:
    """The recording as a telephone line gives it, 8 kHz G.711 mu-law, in `folder`; itself where it is that already."""
    if open_audio(recording, mix=False).codec in ("mulaw", "alaw"):
        return recording
    samples, rate = samples_of(recording)
    columns = [resample(np.ascontiguousarray(column), rate, NARROW_RATE) for column in samples.T]
    path = folder / f"{recording.stem}.wav"
    soundfile.write(path, np.stack(columns, axis=1), NARROW_RATE, subtype="ULAW")
    return path


def spoken(text: str) -> str:
    """The text as a recogniser without punctuation gives it: no case, marks, emoji, names of users, links."""
    text = re.sub(r"\[\w+\]|@\w+|https?://\S+", " ", text.lower().replace("’", "'"))
    return " ".join(re.sub(r"[^\w' ]|_", " ", text).split())


class Ears:
    """The product with its models loaded once. Emotion is taken for the customer's, as it is by default."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """`folder`: where recordings in the narrow band are kept meanwhile."""
        self.analyzer = Analyzer(settings)
        self.folder = folder
        self.stages = {worker.row.name: worker.processor for worker in self.analyzer.chain.workers}
        roles = settings.emotion.roles
        self.emotion_role: Role = "customer" if "all" in roles or "customer" in roles else roles[0]  # type: ignore[assignment]
        self._number = 0
        self._used: dict[str, set[str]] = {name: set() for name in self.stages}

    def models(self) -> dict[str, str]:
        """Stage → ids of the models behind the results so far."""
        for stage in ("vad", "diarization") if self._number else ():  # their events name no model
            self._used[stage] |= {
                model.id for model in vars(self.stages[stage]).values() if isinstance(getattr(model, "id", None), str)
            }
        return {stage: ", ".join(sorted(ids)) for stage, ids in self._used.items() if ids}

    def _remember(self, heard: Transcript) -> None:
        if isinstance(heard, Score) and heard.sentiment is not None:
            self._used["sentiment"].add(heard.sentiment.model)
        if isinstance(heard, EmotionScored) and heard.emotion is not None:
            self._used["emotion"].add(heard.emotion.model)
        if heard.asr_model != NO_MODEL:
            self._used["asr"].add(heard.asr_model)

    def call(self, truth: Call, band: Band) -> HeardCall:
        """A call through the whole chain. Raises CalltideError where the recording is damaged."""
        path = narrow(truth.file, self.folder) if band == "narrow" else truth.file
        self._number += 1
        clock = _Clock()
        analysis, damage = self.analyzer.hear(
            path,
            roles=truth.roles,
            mix=truth.mix,
            call_id=f"{truth.file.stem}-{self._number}",
        )
        duration_s = analysis.ended.duration_ms / 1_000 if analysis.ended else 0.0
        cost = clock.cost(duration_s)
        if damage:
            raise CalltideError(damage)
        for score in analysis.scores:
            self._remember(score)
        return HeardCall(truth, name_of(truth.file), tuple(analysis.in_order), duration_s, cost)

    def spoken_clip(self, clip: Clip, band: Band) -> HeardCall:
        """A clip as a call of one turn. Its voice counts for the sentiment only where that is known."""
        role = "agent" if clip.sentiment is None else self.emotion_role
        turn = Turn(text=clip.text, speaker=clip.speaker, sentiment=clip.sentiment)
        # One person, so both channels of a stereo clip hold the same.
        call = Call(file=clip.file, roles=(role,), mix=open_audio(clip.file).channels > 1, transcript=(turn,))
        return replace(self.call(call, band), clip=clip)

    def clip(self, truth: Clip, band: Band) -> HeardClip:
        """A clip's emotion, by the emotion stage alone, as one utterance of the customer."""
        samples, rate = samples_of(narrow(truth.file, self.folder) if band == "narrow" else truth.file)
        codec: Codec = "mulaw" if band == "narrow" else "pcm_s16le"
        mono = np.ascontiguousarray(samples.mean(axis=1))
        seconds = len(mono) / rate
        event = Transcript.model_validate(
            _utterance(truth.file.stem, self.emotion_role, truth.text or "…", round(seconds * 1_000), codec, rate)
        )
        clock = _Clock()
        heard = self._alone("emotion", event, encode(mono, codec))
        if not isinstance(heard, EmotionScored):
            raise CalltideError(f"the emotion stage gave no utterance for {truth.file}")
        return HeardClip(truth, heard.emotion, heard.emotion_skipped, clock.cost(seconds))

    def text(self, truth: Text, form: Form) -> HeardText | None:
        """A text's sentiment, by the sentiment stage alone; None when nothing is left of it in this form."""
        text = spoken(truth.text) if form == "spoken" else truth.text
        if not text:
            return None
        event = EmotionScored.model_validate(_utterance("text", "customer", text, 1_000, "pcm_s16le", 16_000))
        clock = _Clock()
        heard = self._alone("sentiment", event)
        if not isinstance(heard, Score) or heard.sentiment is None:
            raise CalltideError(f"the sentiment stage gave no sentiment for {text!r}")
        return HeardText(truth, heard.sentiment, clock.cost(0.0))

    def _alone(self, stage: str, event: Transcript, audio: bytes | None = None) -> object:
        """What a stage makes of one utterance of a call that it has not met before."""
        processor, output = self.stages[stage], Output.of(event, audio)
        call_id = event.call.call_id
        record = Record(call_id, event.kind, dict(output.headers), output.value, 0)
        (step,) = processor.process([(processor.open(call_id), record)])
        for output in step.outputs:
            heard = decode(dict(output.headers), output.value)
            if isinstance(heard, Transcript):
                self._remember(heard)
                return heard
        return None


def _utterance(name: str, role: Role, text: str, length_ms: int, codec: Codec, rate: int) -> dict[str, Any]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return {
        "call": CallInfo(call_id=name, started_at=start, roles=(role,)),
        "channel": 0,
        "start_ms": 0,
        "end_ms": length_ms,
        "cut": "end",
        "codec": codec,
        "rate": rate,
        "captured_at": start,
        "speaker": role,
        "role": role,
        "speaker_confidence": 1.0,
        "text": text,
        "language": "en",
        "asr_confidence": 1.0,
        "asr_model": NO_MODEL,
    }
