"""ASR: what is said in a turn, with the time of each word in the call, and who of two strangers is the agent.

A changer must know: a turn in which nothing was recognised goes on with an empty text and a flag that says why. It is
never dropped: later stages and people must see that somebody made a sound there. What is personal is taken out of the
words, and of the audio that goes on, here (`processors.redaction`). The state is what speakers whose role no channel
tells have said so far, and which number is being dictated.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from processors import audio, redaction, roles
from processors.base import Effort, Output, Processor, Record, Step
from processors.preprocessing import Step as Preprocessing
from processors.preprocessing import prepare
from processors.redaction import Memory, Redactor
from processors.roles import Parties
from processors.text_format import Numbers, formatted
from processors.utterances import FORGOTTEN_MS, each_but_idle, promote, read, rounded, samples
from schemas.errors import CalltideError
from schemas.events import (
    CallEnded,
    CallEvent,
    Correction,
    Interim,
    InterimWord,
    Progress,
    Stretch,
    Transcript,
    Turn,
    Word,
    decode,
)

if TYPE_CHECKING:
    from processors.models.whisper import AsrModel, Recognition


REDUCED: Final = "reduced_beam"
"""Flag of a transcript that was decoded greedily because the stage lagged behind the calls."""
CROSS_TALK: Final = "cross_talk"
"""Flag, set by diarization, of a turn that is another channel's voice leaking in: it is not transcribed twice."""
UNCERTAIN_LANGUAGE: Final = "uncertain_language"
"""Flag of a transcript whose language was detected with a probability below `SURE_OF_LANGUAGE`."""
SURE_OF_LANGUAGE: Final = 0.5
"""Judgement: below it another language, or none, is as likely; the words are then often those of a wrong one."""
AGREED_MS: Final = 300
"""Judgement: so far the edges of a word may move between two hearings of it; the next one is seldom nearer."""
UNDETERMINED: Final = "und"
"""Language of what was not heard: ISO 639-2's code for it."""


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["whisper", "onnx-asr"] = Field(
        "whisper", description="whisper: CTranslate2; onnx-asr: Parakeet, Canary, Zipformer and others (extra onnx-asr)"
    )
    model: str = Field(
        "tiny.en",
        description="packaged tiny.en, a faster-whisper size or hub id, or a directory; "
        "for onnx-asr one of its model names, a hub id, or a directory",
    )
    beam_size: int = Field(5, ge=1, le=10, description="decoding beam; 1 costs a seventh less and hears worse")
    language: str | None = Field(
        None,
        description="language code, or several with commas to choose among for each turn; "
        "none: any that the model knows",
    )
    threads: int = Field(1, ge=1, description="CPU threads of the model")
    device: Literal["cpu", "cuda", "auto"] = Field("cpu", description="where the model runs; auto: CUDA where there is")
    compute_type: str | None = Field(
        None, description="CTranslate2's int8, int8_float16, float16, float32 …; none: int8 on a CPU, float16 on CUDA"
    )
    hotwords: dict[str, str] = Field(
        {}, description="by tenant, or * for all others: names and terms to be expected; Whisper only"
    )
    prompt: str = Field("", description="a sentence in the style that is wanted, put before every turn; Whisper only")
    numbers: Numbers = Field(
        "as_heard", description="numbers, money, e-mail addresses as the model writes them, formatted, or spelled out"
    )
    preprocess: tuple[Preprocessing, ...] = Field(
        (), description="what is done to the audio first: band, denoise, trim, normalise"
    )
    role_certainty: float = Field(
        roles.CERTAINTY, gt=0.5, le=1, description="probability from which a role found by what is said is believed"
    )

    redact: redaction.Config = redaction.Config()

    @property
    def languages(self) -> tuple[str, ...] | None:
        """Codes of those that can be heard, as far as the settings tell; None: any that the model knows."""
        if self.language:
            return tuple(code.strip() for code in self.language.split(","))
        # So Whisper's models of English alone are named.
        return ("en",) if self.engine == "whisper" and self.model.endswith(".en") else None


@dataclass(slots=True)
class Known:
    """State of a call."""

    parties: Parties = field(default_factory=Parties)
    numbers: Memory = field(default_factory=Memory)

    @classmethod
    def restore(cls, snapshot: bytes) -> Self:
        """As it was when `snapshot` was taken."""
        kept = json.loads(snapshot or b"{}")
        numbers = Memory.restore(kept.pop("numbers", None))
        return cls(Parties(**kept), numbers)

    def snapshot(self) -> bytes:
        """All of it; b"" when nothing is known."""
        numbers = self.numbers.dump()
        if numbers is None:
            return self.parties.snapshot()
        kept = json.loads(self.parties.snapshot() or b"{}")
        return json.dumps(kept | {"numbers": numbers}, separators=(",", ":")).encode()


class SpeechRecognition:
    """Turns in, transcripts out, with the same audio. Marks pass through.

    What the tenant's settings name is [CARD] or the like in text and words, counted in `redacted`, and silence in the
    audio that goes on, MARGIN_MS to each side: word times are not that exact.

    Word times are milliseconds of the call, kept within the turn. Where the model recognises nothing, the text is empty
    and `flags` holds its reason: no_words, no_speech, phantom or repetition; cross-talk is not even heard.

    A turn of unknown role gets the role that its speaker's words tell, once they do (`processors.roles`). Whenever a
    speaker's role becomes known, or is withdrawn, a Correction follows that holds for the earlier utterances, too.

    When its worker lags, `quick` takes over (`processors.base.Adjustable`), then larger batches of it; such transcripts
    have REDUCED in their flags.
    """

    idle_timeout_ms: int | None = FORGOTTEN_MS

    def __init__(
        self,
        model: "AsrModel",
        quick: "AsrModel | None" = None,
        config: Config | None = None,
        draft: "Callable[[], AsrModel] | None" = None,
        names: redaction.Names | None = None,
    ) -> None:
        """`draft` makes the model of `revise`, when it is needed first; `names` finds those of people."""
        self._models = (model, quick or model)
        self._make_draft = draft or (lambda: quick or model)
        self._draft: AsrModel | None = None
        self._config = config or Config()
        self._redactor = Redactor(self._config.redact, names)
        self.reduced: Sequence[Effort] = (Effort(REDUCED, batch=4), Effort(REDUCED, batch=8)) if quick else ()
        self.effort = 0

    def open(self, call_id: str) -> Known:
        return Known()

    def restore(self, call_id: str, snapshot: bytes) -> Known:
        return Known.restore(snapshot)

    def process(self, batch: Sequence[tuple[Known, Record]]) -> list[Step]:
        return each_but_idle(batch, self._hear)

    def revise(self, batch: Sequence[tuple[Interim | None, Record]]) -> list[Interim]:
        """As `processors.base.Revising`, by `draft`: it may run beside `process`. Where nothing is recognised the event
        has no words.

        Words with which the revision before it began, too, are stable: the same in plain text, their times less than
        AGREED_MS apart. Raises CalltideError for a record of another kind.
        """
        events: list[Interim] = []
        for _, record in batch:
            event = decode(record.headers, record.value)
            if not isinstance(event, Interim):
                raise CalltideError(f"a {event.kind} came where interim audio is read; mend what writes to the topic")
            events.append(event)
        heard = [(event, record) for event, (_, record) in zip(events, batch, strict=True)]
        revisions = []
        self._draft = self._draft or self._make_draft()
        found = self._recognise(self._draft, heard)
        for event, (before, _), recognition in zip(events, batch, found, strict=True):
            found_text, found_words = self._words(event, *recognition)
            language, tenant = recognition[0].language, event.call.tenant
            left = self._redactor.provisional(found_text, found_words, language, tenant)
            text, words = formatted(left.text, left.words, self._config.numbers, language)
            same = before.words if before is not None and before.start_ms == event.start_ms else ()
            agreed = list(takewhile(lambda pair: _agree(*pair), zip(words, same, strict=False)))
            interim = tuple(InterimWord(**dict(word), stable=i < len(agreed)) for i, word in enumerate(words))
            revisions.append(event.model_copy(update={"text": text, "words": interim}))
        return revisions

    def _hear(self, batch: Sequence[tuple[Known, Record]]) -> list[Step]:
        events = read(batch, Turn)
        model = self._models[self.effort > 0]
        heard = [
            (event, record)
            for event, (_, record) in zip(events, batch, strict=True)
            if isinstance(event, Turn) and CROSS_TALK not in event.flags
        ]
        recognitions = iter(self._recognise(model, heard))
        steps = []
        for event, (known, record) in zip(events, batch, strict=True):
            parties = known.parties
            if isinstance(event, Turn):
                if CROSS_TALK in event.flags:
                    transcript = promote(
                        event, Transcript, text="", language=UNDETERMINED, asr_confidence=0, asr_model=model.id
                    )
                else:
                    transcript = self._transcript(event, *next(recognitions), model.id, known.numbers)
                if event.role == "unknown":
                    transcript, corrections = self._with_role(parties, transcript)
                else:
                    corrections = []
                outputs = [Output.of(transcript, silenced(transcript, record.value)), *corrections]
            else:
                outputs = [Output.of(event, b"")]
                if isinstance(event, Progress):
                    known.numbers.at(event.at_ms)
                if isinstance(event, Correction) and event.same_as:
                    parties.merge(event.speaker, event.same_as)
                    outputs += self._corrections(parties, event)
            steps.append(Step(outputs, b"" if isinstance(event, CallEnded) else known.snapshot()))
        return steps

    def _recognise(
        self, model: "AsrModel", heard: Sequence[tuple[Stretch, Record]]
    ) -> list[tuple["Recognition", float]]:
        """(what `model` hears, seconds that were cut off at its beginning) of each."""
        if not heard:
            return []
        prepared = [prepare(samples(event, record), self._config.preprocess) for event, record in heard]
        contexts = [self._context(event.call.tenant) for event, _ in heard]
        # Models that take no context need not know of it.
        found = model.transcribe([sound for sound, _ in prepared], *([contexts] if any(contexts) else []))
        return [(recognition, cut_s) for recognition, (_, cut_s) in zip(found, prepared, strict=True)]

    def _context(self, tenant: str) -> str:
        hotwords = self._config.hotwords
        return f"{hotwords.get(tenant, hotwords.get('*', ''))} {self._config.prompt}".strip()

    def _with_role(self, parties: Parties, transcript: Transcript) -> tuple[Transcript, list[Output]]:
        parties.hear(transcript.speaker, transcript.text)
        corrections = self._corrections(parties, transcript)
        role, confidence = parties.role(transcript.speaker)
        return transcript.model_copy(update={"role": role, "role_confidence": confidence}), corrections

    def _corrections(self, parties: Parties, event: CallEvent) -> list[Output]:
        outputs = []
        for speaker in parties.decide(self._config.role_certainty):
            role, confidence = parties.role(speaker)
            correction = Correction(call=event.call, speaker=speaker, role=role, role_confidence=confidence)
            outputs.append(Output.of(correction, b""))
        return outputs

    def _words(self, event: Stretch, recognition: "Recognition", cut_s: float) -> tuple[str, tuple[Word, ...]]:
        """(text, words) with the words' times in the call."""

        def in_call(seconds: float) -> int:
            return min(max(event.start_ms + round((seconds + cut_s) * 1_000), event.start_ms), event.end_ms)

        words = tuple(
            Word(
                text=word.text,
                start_ms=in_call(word.start_s),
                end_ms=in_call(max(word.start_s, word.end_s)),
                confidence=rounded(word.confidence),
            )
            for word in recognition.words
        )
        return recognition.text, words

    def _transcript(
        self, turn: Turn, recognition: "Recognition", cut_s: float, model_id: str, numbers: Memory
    ) -> Transcript:
        text, words = self._words(turn, recognition, cut_s)
        language = recognition.language
        left = self._redactor.redact(text, words, language, turn.call.tenant, numbers, turn.speaker, turn.end_ms)
        text, words = formatted(left.text, left.words, self._config.numbers, language)
        return promote(
            turn,
            Transcript,
            text=text,
            words=words,
            language=language,
            redacted=left.counts,
            asr_confidence=rounded(recognition.confidence),
            asr_model=model_id,
            flags=(
                *turn.flags,
                *([recognition.rejected] if recognition.rejected else ()),
                *([UNCERTAIN_LANGUAGE] if recognition.language_probability < SURE_OF_LANGUAGE else ()),
                *([REDUCED] if self.effort else ()),
            ),
        )


def silenced(event: Transcript, value: bytes) -> bytes:
    """The utterance's audio without what was taken out of its words."""
    if not event.redacted:
        return value
    width = len(audio.silence(1, event.codec))
    quiet = bytearray(value)
    for start_ms, end_ms in redaction.hidden(event.words, event.start_ms, event.end_ms):
        first, behind = (
            min((at - event.start_ms) * event.rate // 1_000, len(value) // width) for at in (start_ms, end_ms)
        )
        quiet[first * width : behind * width] = audio.silence(behind - first, event.codec)
    return bytes(quiet)


def _agree(one: Word, other: Word) -> bool:
    """Whether two revisions mean the same word of the same place."""
    apart_ms = max(abs(one.start_ms - other.start_ms), abs(one.end_ms - other.end_ms))
    return apart_ms < AGREED_MS and plain(one.text) == plain(other.text)


def plain(text: str) -> str:
    """A word without case and punctuation."""
    return "".join(character for character in text.casefold() if character.isalnum())


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage with its real model. Raises CalltideError when the model cannot be had."""
    if config.engine == "onnx-asr":
        from processors.models.onnx_asr import OnnxAsr

        if config.prompt or any(config.hotwords.values()):
            raise CalltideError(
                "CALLTIDE_ASR__HOTWORDS, CALLTIDE_ASR__PROMPT: the engine onnx-asr takes neither; unset them, or set "
                "CALLTIDE_ASR__ENGINE=whisper"
            )

        def onnx() -> OnnxAsr:
            return OnnxAsr(config.model, config.threads, config.language, config.device)

        return SpeechRecognition(onnx(), config=config, draft=onnx, names=_names(config.redact))
    from processors.models.whisper import WhisperCt2

    def whisper(beam_size: int) -> WhisperCt2:
        return WhisperCt2(config.model, config.threads, beam_size, config.compute_type, config.language, config.device)

    model = whisper(config.beam_size)
    quick = model.with_beam(1) if config.beam_size > 1 else None
    return SpeechRecognition(model, quick, config, lambda: whisper(1).draft(), _names(config.redact))


def _names(config: redaction.Config) -> redaction.Names | None:
    """What finds names, if a tenant's settings ask for them. Raises CalltideError when it cannot be had."""
    if not any("name" in kinds for kinds in config.kinds.values()):
        return None
    if config.names_model is None:
        raise CalltideError(
            "CALLTIDE_ASR__REDACT__KINDS has name, and no model finds names; set CALLTIDE_ASR__REDACT__NAMES_MODEL to "
            "a spaCy pipeline, or leave name out"
        )
    from processors.models.names import PresidioNames

    return PresidioNames(config.names_model)
