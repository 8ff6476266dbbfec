"""Calls made up for the tests of rules, and a run of the stage over them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processors.base import Record
from processors.rules.language import RuleSet, parse
from processors.rules.stage import Rules
from schemas.events import (
    Alert,
    CallEnded,
    CallEvent,
    CallInfo,
    CallStarted,
    Emotion,
    Progress,
    Role,
    RunningScore,
    Score,
    Sentiment,
)
from tests.unit.stage_records import STARTED_AT, call, event_of, record, run, utterance

STARTED_MS = round(STARTED_AT.timestamp() * 1_000)


class Letters:
    """A sentence means its letters: those with the same ones mean alike."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        vectors = np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Text:
    """Rules that the test writes, and writes anew."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._read: str | None = None

    def read(self) -> RuleSet:
        self._read = self.text
        return parse({"rules.yaml": self.text})

    def changed(self) -> bool:
        return self._read != self.text


def no_embedder() -> Letters:
    raise AssertionError("no rule asks for a meaning")


def stage(text: str | Text, embedder: Callable[[], Letters] = no_embedder) -> Rules:
    """The stage with these rules."""
    rules = Text(text) if isinstance(text, str) else text
    return Rules(rules.read, rules.changed, "v7", embedder)


def rule(when: str, name: str = "it", more: str = "alert: {cooldown_s: 0}") -> str:
    """A file of one rule; `when` in YAML's flow style."""
    return f"rules:\n  - name: {name}\n    {more}\n    when: {when}\n"


def at(event: CallEvent, at_ms: int) -> Record:
    """The event's record, stamped with the time of the call's audio."""
    return replace(record(event, in_value=True), timestamp_ms=STARTED_MS + at_ms)


class Call:
    """A call as it is told: what is said when, and how far it has been heard."""

    def __init__(self, *roles: Role, tenant: str = "default", call_id: str = "call-1") -> None:
        self.info: CallInfo = call(roles or ("agent", "customer"), call_id).model_copy(update={"tenant": tenant})
        self.records = [at(CallStarted(call=self.info), 0)]
        self.said = 0

    def say(
        self,
        start_s: float,
        text: str,
        role: Role = "customer",
        score: float | None = 0.0,
        *,
        length_s: float = 2,
        voice: dict[str, float] | None = None,
        uncertain: bool = False,
        **fields: Any,
    ) -> "Call":
        """An utterance; without a score there is no sentiment."""
        start_ms, length_ms = round(start_s * 1_000), round(length_s * 1_000)
        self.said += 1
        if score is not None:
            fields["sentiment"] = Sentiment(
                label="neutral", score=score, text_score=score, confidence=1, model="some-words"
            )
        if voice is not None:
            label = max(voice, key=lambda one: voice[one])
            found = {"label": label, "probabilities": voice, "model": "some-voice", "uncertain": uncertain}
            fields["emotion"] = Emotion.model_validate(found)
        channel = self.info.roles.index(role) if role in self.info.roles else 0
        event = utterance(
            Score,
            self.info,
            start_ms,
            length_ms,
            **{
                "channel": channel,
                "speaker": role,
                "role": role,
                "text": text,
                "running": RunningScore(score=0, party_score=0, utterances=self.said),
                "pipeline_version": "v1",
            }
            | fields,
        )
        self.records.append(at(event, start_ms + length_ms))
        return self

    def hear(self, until_s: float) -> "Call":
        """Progress, second by second where nothing says otherwise."""
        self.records.append(at(Progress(call=self.info, at_ms=round(until_s * 1_000)), round(until_s * 1_000)))
        return self

    def end(self, at_s: float) -> "Call":
        at_ms = round(at_s * 1_000)
        ended = CallEnded(call=self.info, duration_ms=at_ms, ended_at=STARTED_AT, reason="hangup")
        self.records.append(at(ended, at_ms))
        return self


def findings(rules: str | Rules, *calls: Call, kind: type[Any] = Alert) -> list[Any]:
    """What the rules find in calls, one after the other, read in one batch or one by one with restarts."""
    made = stage(rules) if isinstance(rules, str) else rules
    records = [one for told in calls for one in told.records]
    written, dead, _ = run("rules", made, records)
    assert not dead, dead[0].headers
    assert run("rules", made, records, [1], crash=True)[0] == written
    return [event for event in map(event_of, written) if isinstance(event, kind)]


def moments(rules: str | Rules, *calls: Call) -> list[float]:
    """The seconds of media time of the alerts."""
    return [alert.at_ms / 1_000 for alert in findings(rules, *calls)]
