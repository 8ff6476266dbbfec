"""The insights stage: what a call was about, once, when it has ended.

It keeps what was said until the end comes, sets right who said it, and hands the whole call to an `Engine`. Nothing is
emitted before that but the start of the call, which passes through as the end does. All that was said goes on, too, as
one `Conversation`, for engines that are no pure functions of it (streams/llm).

The one thing a changer must know: what is kept grows with the call, so its state is no cut at every record. It is cut
when as many bytes were read since the last cut as the state itself has: then the changelog is never written faster than
`scores` is read, and a worker that died reads again at most as much as the state of each of its calls.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from processors.base import Output, Processor, Record, Step
from processors.conversation import CROSS_TALK, Tally
from processors.utterances import FORGOTTEN_MS, WITHOUT_SPACES, each_but_idle, read
from schemas.events import (
    CallEnded,
    CallEvent,
    CallInfo,
    CallStarted,
    Conversation,
    Evidence,
    Findings,
    Insights,
    Role,
    Score,
    Spoken,
)

if TYPE_CHECKING:
    from processors.forms.judging import Forms
    from processors.models.glossary import Glossary

Business = Literal["b2b", "b2c"]
BUSINESSES: Final[tuple[Business, ...]] = ("b2b", "b2c")

KEPT_BYTES: Final = 800_000
"""Of what was said, most that is kept of a call. Measured: four hours of talk without a pause have 450 KB; a record may
have 2 MB."""
OPENING: Final = 200
"""First utterances that are kept in any case: of a call too long, what follows on them is left out, not its end."""
LONGEST_TEXT: Final = 2_000
"""Characters of an utterance that are kept. The VAD cuts at 15 s, in which nobody says a quarter of it."""
ROW_BYTES: Final = 80
"""What an utterance has beside its text: times, speaker, scores. Measured: 60 to 80."""
FEWEST_WORDS: Final = 20
"""Judgement: with less, a call is a wrong number or a line that broke; there is nothing to summarise."""


class Config(BaseModel):
    """Settings of the insights stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["extractive"] = Field(
        "extractive", description="who writes the insights; extractive: quotes and fixed phrases, nothing leaves here"
    )
    business: Business = Field(
        "b2c", description="whose glossary is read for a call without `business` (b2b or b2c) in its metadata"
    )
    b2b_glossary: str = Field("", description="CSV or XLSX file of topics for calls with companies; empty: the starter")
    b2c_glossary: str = Field("", description="the same for calls with consumers")
    summary_sentences: int = Field(4, ge=1, le=20, description="most sentences of the extractive summary")
    topics: int = Field(3, ge=1, le=20, description="most topics of a call")
    forms: str = Field(
        "",
        description="score cards: a YAML file or a directory of such; empty: the starter; none: no score cards",
    )


@dataclass(slots=True)
class Heard:
    """An utterance with words. Role and speaker are as they were recorded, in a `FinishedCall` as they are known."""

    channel: int
    start_ms: int
    end_ms: int
    speaker: str
    role: Role
    text: str
    score: float | None
    """Sentiment of words and voice, −1 to 1."""
    emotion: str
    """Empty when it was not computed."""


@dataclass(frozen=True, slots=True)
class FinishedCall:
    """All that is known of a call that has ended."""

    info: CallInfo
    ended_at: datetime
    duration_ms: int
    language: str
    """In which most words were said, without the country; empty: no words."""
    business: Business
    utterances: tuple[Heard, ...]
    """Those with words, in the order of time."""
    tally: Tally
    unread: int
    """Utterances that were left out since the call was too long to keep them."""

    def evidence(self, heard: Heard, text: str | None = None) -> Evidence:
        """An utterance as evidence, or some words of it. Raises ValueError for words that it does not have."""
        if text is None:
            text = heard.text
        elif text not in heard.text:
            raise ValueError(f"“{text}” is not in the utterance")
        return Evidence(
            identity=f"{self.info.call_id}/{heard.channel}/{heard.start_ms}",
            channel=heard.channel,
            start_ms=heard.start_ms,
            end_ms=heard.end_ms,
            speaker=heard.speaker,
            role=heard.role,
            text=text,
        )

    def customers(self) -> frozenset[Role]:
        """The roles that count as the customer: where nobody is known to be it, everybody who is not the agent."""
        known = any(heard.role == "customer" for heard in self.utterances)
        return frozenset({"customer"} if known else {"customer", "unknown"})


class Engine(Protocol):
    """Makes findings of a whole call. The same call must lead to the same findings, or the call be read only once."""

    name: str
    model: str
    languages: frozenset[str] | None
    """What it can read; None: any."""

    def conclude(self, call: FinishedCall) -> Findings:
        """What the call was about. Every item must cite utterances of it, in the words that they have."""
        ...


@dataclass(slots=True)
class Course:
    """One call so far."""

    heard: list[Heard] = field(default_factory=list)
    size: int = 0
    """Bytes of `heard`, about."""
    unread: int = 0
    words: dict[str, int] = field(default_factory=dict)
    """By language."""
    tally: Tally = field(default_factory=Tally)
    since: int = 0
    """Bytes read since the last cut."""

    def hear(self, event: CallEvent) -> None:
        """Take the next event of the call."""
        self.tally.hear(event)
        if not isinstance(event, Score) or not event.text or CROSS_TALK in event.flags:
            return
        language = event.language.lower().split("-")[0]
        self.words[language] = self.words.get(language, 0) + words_in(event.text, language)
        text = event.text[:LONGEST_TEXT]
        score = event.sentiment.score if event.sentiment else None
        emotion = event.emotion.label if event.emotion else ""
        row = Heard(event.channel, event.start_ms, event.end_ms, event.speaker, event.role, text, score, emotion)
        self.heard.append(row)
        self.size += _bytes(row)
        while self.size > KEPT_BYTES:
            self.size -= _bytes(self.heard.pop(min(OPENING, len(self.heard) - 1)))
            self.unread += 1

    def finished(self, event: CallEnded, default: Business) -> FinishedCall:
        """The whole call, with speakers and roles as they are known now."""
        known = []
        for heard in sorted(self.heard, key=lambda one: (one.start_ms, one.channel)):
            role, speaker = self.tally.known.party(heard.role, heard.speaker)
            known.append(Heard(**asdict(heard) | {"role": role, "speaker": speaker}))
        business = event.call.metadata.get("business", "").strip().lower()
        return FinishedCall(
            info=event.call,
            ended_at=event.ended_at,
            duration_ms=event.duration_ms,
            language=max(self.words, key=lambda language: (self.words[language], language), default=""),
            business=next((one for one in BUSINESSES if one == business), default),
            utterances=tuple(known),
            tally=self.tally,
            unread=self.unread,
        )

    def dump(self) -> bytes:
        """The snapshot."""
        rows = [[getattr(heard, name) for name in Heard.__slots__] for heard in self.heard]
        state = [rows, self.size, self.unread, self.words, self.tally.dump()]
        return zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 1)

    @classmethod
    def load(cls, snapshot: bytes) -> "Course":
        """The state of which this is the snapshot."""
        rows, size, unread, words, tally = json.loads(zlib.decompress(snapshot))
        return cls([Heard(*row) for row in rows], size, unread, words, Tally.load(tally))


class CallInsights(Processor):
    """Scores in; one `Insights`, one `Evaluation` for each form and one `Conversation` out at the end of each call,
    between its marks.

    What makes a call unfit to be read is said in `state` of the record, with `why` for people: too_short (less than
    FEWEST_WORDS), no_customer_speech, unsupported_language.
    """

    idle_timeout_ms: int | None = FORGOTTEN_MS

    def __init__(self, config: Config, pipeline_version: str, engine: Engine, forms: "Forms | None" = None) -> None:
        self._config = config
        self._pipeline_version = pipeline_version
        self._engine = engine
        self._forms = forms

    def reload(self) -> bool:
        """Read the forms again if their files have changed (processors.base.Reloadable)."""
        return self._forms is not None and self._forms.reload()

    def open(self, call_id: str) -> Course:
        return Course()

    def restore(self, call_id: str, snapshot: bytes) -> Course:
        return Course.load(snapshot)

    def process(self, batch: Sequence[tuple[Course, Record]]) -> list[Step]:
        return each_but_idle(batch, self._hear)

    def _hear(self, batch: Sequence[tuple[Course, Record]]) -> list[Step]:
        return [
            self._step(course, event, len(record.value))
            for event, (course, record) in zip(read(batch, Score), batch, strict=True)
        ]

    def _step(self, course: Course, event: CallEvent, size: int) -> Step:
        course.hear(event)
        course.since += size
        if isinstance(event, CallEnded):
            return Step([*map(Output.of, self._conclude(course, event)), Output.of(event)])
        outputs = [Output.of(event)] if isinstance(event, CallStarted) else []
        if course.since < course.size:
            return Step(outputs, None)
        course.since = 0
        return Step(outputs, course.dump())

    def _conclude(self, course: Course, event: CallEnded) -> list[CallEvent]:
        call = course.finished(event, self._config.business)
        unfit = self._unfit(call, sum(course.words.values()))
        findings = unfit or self._engine.conclude(call)
        of_both: dict[str, Any] = {
            "call": event.call,
            "ended_at": event.ended_at,
            "duration_ms": event.duration_ms,
            "language": call.language,
            "business": call.business,
            "unread": call.unread,
            "pipeline_version": self._pipeline_version,
        }
        insights = Insights(
            **{name: getattr(findings, name) for name in Findings.model_fields},
            **of_both,
            utterances=len(call.utterances) + call.unread,
        )
        evaluations = self._forms.fill(call, findings, self._pipeline_version) if self._forms else []
        if unfit and unfit.state != "unsupported_language":
            return [insights, *evaluations]
        spoken = tuple(Spoken(**asdict(heard)) for heard in call.utterances)
        return [insights, *evaluations, Conversation(**of_both, utterances=spoken)]

    def _unfit(self, call: FinishedCall, words: int) -> Findings | None:
        languages, customers = self._engine.languages, call.customers()
        if words < FEWEST_WORDS:
            state, why = "too_short", f"{words} words were understood in the call; {FEWEST_WORDS} are needed"
        elif not any(heard.role in customers for heard in call.utterances):
            state, why = "no_customer_speech", "nothing was understood of what the customer said"
        elif languages is not None and call.language not in languages:
            read = ", ".join(sorted(languages))
            state, why = "unsupported_language", f"most of it was said in “{call.language}”; {read} can be read"
        else:
            return None
        return Findings(engine=self._engine.name, model=self._engine.model, state=state, why=why)


def words_in(text: str, language: str) -> int:
    """How many words it has; in a language written without spaces two signs count as one (judgement)."""
    if language in WITHOUT_SPACES:
        return -(-sum(map(str.isalnum, text)) // 2)
    return len(text.split())


def _bytes(heard: Heard) -> int:
    return len(heard.text.encode()) + ROW_BYTES


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage with its engine, glossaries and forms read. Raises CalltideError when one of them is wrong, or weights
    cannot be had."""
    from processors.forms import FormFiles
    from processors.forms.judging import Forms
    from processors.insights_extractive import ExtractiveEngine
    from processors.models.embedding import Embedder
    from processors.models.glossary import Topics

    glossaries = {business: glossary_of(config, business) for business in BUSINESSES}
    embedder = Embedder()
    topics = {business: Topics(glossary, embedder) for business, glossary in glossaries.items()}
    engine = ExtractiveEngine(embedder, topics, config.summary_sentences, config.topics)
    files = FormFiles(config.forms)
    return CallInsights(config, pipeline_version, engine, Forms(files.read, files.changed, lambda: embedder))


def glossary_of(config: Config, business: Business) -> "Glossary":
    """The glossary that the settings name for a business, or the starter. Raises CalltideError when it is no good."""
    from processors.models.glossary import read_glossary, starter

    named = {"b2b": config.b2b_glossary, "b2c": config.b2c_glossary}[business]
    return read_glossary(named) if named else starter(business)
