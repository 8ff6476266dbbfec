"""ASR: what is said in a turn, with the time of each word in the call.

A changer must know: a turn in which nothing was recognised goes on with an empty text and a flag that says why. It is
never dropped: later stages and people must see that somebody made a sound there.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field

from processors.base import Effort, Output, Processor, Record, Step
from processors.utterances import promote, read, rounded, samples
from schemas.events import Transcript, Turn, Word

if TYPE_CHECKING:
    from processors.models.whisper import AsrModel, Recognition


REDUCED: Final = "reduced_beam"
"""Flag of a transcript that was decoded greedily because the stage lagged behind the calls."""


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("tiny.en", description="packaged tiny.en, a faster-whisper size or hub id, or a directory")
    beam_size: int = Field(5, ge=1, le=10, description="decoding beam; 1 costs a seventh less and hears worse")
    language: str | None = Field(None, description="language code; none: detect (multilingual models)")
    threads: int = Field(1, ge=1, description="CPU threads of the model")


class SpeechRecognition:
    """Turns in, transcripts out, with the same audio. Marks pass through. No state.

    Word times are milliseconds of the call, kept within the turn. Where the model recognises nothing, the text is empty
    and `flags` holds its reason: no_words, no_speech or repetition.

    When its worker lags, `quick` takes over (`processors.base.Adjustable`), then larger batches of it; such transcripts
    have REDUCED in their flags.
    """

    idle_timeout_ms: int | None = None

    def __init__(self, model: "AsrModel", quick: "AsrModel | None" = None) -> None:
        self._models = (model, quick or model)
        self.reduced: Sequence[Effort] = (Effort(REDUCED, batch=4), Effort(REDUCED, batch=8)) if quick else ()
        self.effort = 0

    def open(self, call_id: str) -> None:
        return None

    def restore(self, call_id: str, snapshot: bytes) -> None:
        return None

    def process(self, batch: Sequence[tuple[None, Record]]) -> list[Step]:
        events = read(batch, Turn)
        heard = [
            samples(event, record) for event, (_, record) in zip(events, batch, strict=True) if isinstance(event, Turn)
        ]
        model = self._models[self.effort > 0]
        recognitions = iter(model.transcribe(heard) if heard else ())
        steps = []
        for event, (_, record) in zip(events, batch, strict=True):
            if isinstance(event, Turn):
                output = Output.of(self._transcript(event, next(recognitions), model.id), record.value)
            else:
                output = Output.of(event, b"")
            steps.append(Step([output]))
        return steps

    def _transcript(self, turn: Turn, recognition: "Recognition", model_id: str) -> Transcript:
        def in_call(seconds: float) -> int:
            return min(max(turn.start_ms + round(seconds * 1_000), turn.start_ms), turn.end_ms)

        words = [
            Word(
                text=word.text,
                start_ms=in_call(word.start_s),
                end_ms=in_call(max(word.start_s, word.end_s)),
                confidence=rounded(word.confidence),
            )
            for word in recognition.words
        ]
        return promote(
            turn,
            Transcript,
            text=recognition.text,
            words=tuple(words),
            language=recognition.language,
            asr_confidence=rounded(recognition.confidence),
            asr_model=model_id,
            flags=(
                *turn.flags,
                *([recognition.rejected] if recognition.rejected else ()),
                *([REDUCED] if self.effort else ()),
            ),
        )


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage with its real model. Raises CalltideError when the model cannot be had."""
    from processors.models.whisper import WhisperCt2

    model = WhisperCt2(config.model, config.threads, config.beam_size, language=config.language)
    return SpeechRecognition(model, quick=model.with_beam(1) if config.beam_size > 1 else None)
