"""Metrics: what has happened in a call, once a second while it goes on and once more when it has ended.

A changer must know: the figures are those of `processors.conversation`, which other stages share; here is only when
they are told. That is decided by media time, so the same records come however fast the call is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from processors.base import Output, Processor, Record, Step
from processors.conversation import SILENCE_MS, Tally, change
from processors.outlook import Model
from processors.outlook_file import ModelFile
from processors.utterances import FORGOTTEN_MS, each_but_idle, read
from schemas.events import CallEnded, CallEvent, CallInfo, CallMetrics, CallStarted, Correction, Mark, Score, Silence

EVERY_MS: Final = 1_000
"""Least media time between two records of a call that goes on: as often as the VAD marks how far it has heard."""


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    hold: tuple[str, ...] = Field(
        ("hold", "hold_start", "on_hold", "paused"),
        description="names of the marks that put a call on hold, in small letters",
    )
    unhold: tuple[str, ...] = Field(
        ("unhold", "hold_end", "off_hold", "resume", "resumed"),
        description="names of the marks that take it off hold",
    )
    outlook: str = Field(
        "",
        description="how calls will end: a file of `calltide train outcome`; none: not told; empty: models/outcome.json"
        " in CALLTIDE_HOME, once it is there",
    )


@dataclass(slots=True)
class Account:
    """The state of a call."""

    tally: Tally
    told_ms: int = 0
    """Media time of the last record."""
    news: bool = False
    """Something was heard since."""


class Metrics:
    """Scores, marks and corrections in; records of kind `metrics`, and the call's start and end, out.

    A record is written with the first event by which the call is known EVERY_MS beyond the last record, if an utterance
    or a correction has come since or there is dead air; and with the call's end, before it, a final one. Where there is
    a model of how calls end, records before the end say what it expects.
    """

    idle_timeout_ms: int | None = FORGOTTEN_MS

    def __init__(self, config: Config, pipeline_version: str) -> None:
        self._config = config
        self._pipeline_version = pipeline_version
        self._file = ModelFile(config.outlook)
        self._model: Model | None = None

    def reload(self) -> bool:
        """Read the model of how calls end if its file has changed; True when another one, or none, is in effect. Raises
        CalltideError when it is wrong: the one before stays."""
        if not self._file.changed():
            return False
        before, self._model = self._model, self._file.read()
        return self._model != before

    def open(self, call_id: str) -> Account:
        return Account(Tally())

    def restore(self, call_id: str, snapshot: bytes) -> Account:
        told_ms, news, tally = snapshot.decode().split(" ", 2)
        return Account(Tally.load(tally), int(told_ms), news == "1")

    def process(self, batch: Sequence[tuple[Account, Record]]) -> list[Step]:
        return each_but_idle(batch, self._hear)

    def _hear(self, batch: Sequence[tuple[Account, Record]]) -> list[Step]:
        return [self._step(account, event) for event, (account, _) in zip(read(batch, Score), batch, strict=True)]

    def _step(self, account: Account, event: CallEvent) -> Step:
        tally = account.tally
        tally.hear(event)
        if isinstance(event, CallEnded):
            return Step([Output.of(self._metrics(tally, event)), Output.of(event)], b"")
        outputs = [Output.of(event)] if isinstance(event, CallStarted) else []
        account.news = account.news or isinstance(event, Score | Correction)
        now_ms = tally.now_ms
        if now_ms >= account.told_ms + EVERY_MS and (account.news or tally.silence_now_ms >= SILENCE_MS):
            account.told_ms, account.news = now_ms, False
            outputs.append(Output.of(self._metrics(tally, event)))
        return Step(outputs, f"{account.told_ms} {account.news:d} {tally.dump()}".encode())

    def _metrics(self, tally: Tally, event: CallEvent) -> CallMetrics:
        holds = self._holds(event.marks, event.duration_ms) if isinstance(event, CallEnded) else None
        metrics = measured(tally, event.call, self._pipeline_version, holds)
        outlook = self._model and self._model.outlook(metrics)
        return metrics.model_copy(update={"outlook": outlook}) if outlook else metrics

    def _holds(self, marks: Sequence[Mark], duration_ms: int) -> list[Silence] | None:
        """The holds that were marked, one that nobody ended up to the call's end; None: there is no such mark."""
        holds: list[Silence] | None = None
        since_ms: int | None = None
        for mark in sorted(marks, key=lambda mark: mark.at_ms):
            at_ms, name = mark.at_ms, mark.name.lower()
            if name in self._config.hold:
                holds = holds or []
                since_ms = at_ms if since_ms is None else since_ms
            elif name in self._config.unhold and holds is not None and since_ms is not None:
                holds.append(Silence(start_ms=since_ms, end_ms=at_ms))
                since_ms = None
        if holds is not None and since_ms is not None:
            holds.append(Silence(start_ms=since_ms, end_ms=max(duration_ms, since_ms)))
        return holds


def measured(
    tally: Tally, call: CallInfo, pipeline_version: str, holds: Sequence[Silence] | None = None
) -> CallMetrics:
    """What a tally says by now, as a record has it; `holds`: those that were marked, None: none was."""
    silences, silence_ms, longest_ms, dead_air = tally.silences()
    quarters = tally.quarters()
    return CallMetrics(
        call=call,
        at_ms=tally.now_ms,
        final=tally.ended,
        partial=not tally.started,
        pipeline_version=pipeline_version,
        parties=tally.parties(),
        unheard=tally.unheard(),
        talk_ms=tally.talk_ms(),
        score=tally.score(),
        quarters=quarters,
        change=change(quarters),
        silences=silences,
        silence_ms=silence_ms,
        longest_silence_ms=longest_ms,
        silence_now_ms=tally.silence_now_ms,
        dead_air=dead_air,
        interruptions=tally.interruptions(),
        hold_ms=None if holds is None else sum(hold.end_ms - hold.start_ms for hold in holds),
        holds=tuple(holds or ()),
        late=tally.late,
    )


def build(config: Config, pipeline_version: str) -> Processor:
    """The stage; it has no model."""
    return Metrics(config, pipeline_version)
