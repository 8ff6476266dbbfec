"""What a language model answers: its form, and what of it is believed.

A changer must know: a statement stays only if each of its citations names an utterance that the model was given, with a
quote that is in it, word for word but for case, spaces and the shape of apostrophes. All else is dropped and counted.
That a quote proves the statement is not checked: no program can.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from processors.models.sentiment import straight
from schemas.events import (
    ActionItem,
    CallTopic,
    Conversation,
    Evidence,
    Finding,
    Findings,
    QuizQuestion,
    Resolution,
    Role,
    Statement,
)

MOST: Final = {"summary": 12, "topics": 3, "quiz": 5}
"""Judgement: more is not read. Of everything else there are MOST_OTHERS."""
MOST_OTHERS: Final = 10
FEWEST_WORDS: Final = 2
"""Of a quote, unless it is the whole utterance: a single "the" is everywhere. Judgement."""
SHOWN: Final = 8
"""Faults that the model is told of."""


class _Part(BaseModel):
    # Every field is required and no other allowed: what OpenAI's strict mode asks of a schema.
    model_config = ConfigDict(extra="forbid", frozen=True)


class Citation(_Part):
    """Words of an utterance."""

    utterance: int
    quote: str


class Cited(_Part):
    """What rests on citations."""

    citations: list[Citation]


class Claim(Cited):
    """A statement."""

    text: str


class Topic(Cited):
    """A topic of the list."""

    topic: str


class Sort(Claim):
    """A statement of a sort: one or two words, such as billing or price."""

    sort: str


class Action(Claim):
    """A promise."""

    owner: Literal["agent", "customer", "unknown"]
    due: str


class Settled(Cited):
    """Whether the matter was settled."""

    resolved: Literal["yes", "no", "unknown"]


class Question(Cited):
    """A question with choices; `answer` counts from 0."""

    question: str
    choices: list[str]
    answer: int


class Answer(_Part):
    """All that is asked for."""

    summary: list[Claim]
    reason: Claim | None
    topics: list[Topic]
    issues: list[Sort]
    objections: list[Sort]
    outcome: Claim | None
    action_items: list[Action]
    resolution: Settled
    coaching: list[Sort]
    quiz: list[Question]


class Unusable(Exception):
    """An answer that is none; the message says why, for the model and for people."""


def schema() -> dict[str, Any]:
    """The JSON Schema of an answer."""
    return Answer.model_json_schema()


def read(text: str) -> Answer:
    """The answer in what the model wrote, be it in a fence or behind its thoughts. Raises Unusable."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    first, last = text.find("{"), text.rfind("}")
    if first < 0 or last < first:
        raise Unusable("it has no JSON object")
    try:
        return Answer.model_validate_json(text[first : last + 1])
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'JSON'}: {fault['msg']}" for fault in error.errors()[:SHOWN]]
        raise Unusable("; ".join(faults)) from None


Made = TypeVar("Made")


class Check:
    """Makes findings of an answer. `uncited`: statements that were dropped."""

    def __init__(self, conversation: Conversation, texts: list[str], given: list[int]) -> None:
        """`texts`: those of all utterances, as they were sent; `given`: the numbers of those that were."""
        self._conversation = conversation
        self._texts = {number: texts[number] for number in given}
        self.uncited = 0

    def findings(self, answer: Answer, topics: Mapping[str, tuple[str, ...]], **of_engine: Any) -> Findings:
        """What is believed. `topics`: those that may be chosen, as they were given, and their paths."""
        reason, outcome = answer.reason, answer.outcome
        return Findings(
            state="ok",
            summary=self._all(answer.summary, self._statement, MOST["summary"]),
            reason=self._one(reason, self._statement) if reason else None,
            topics=self._all(answer.topics, lambda one, cited: self._topic(one, cited, topics), MOST["topics"]),
            issues=self._all(answer.issues, self._finding),
            objections=self._all(answer.objections, self._finding),
            outcome=self._one(outcome, self._statement) if outcome else None,
            action_items=self._all(answer.action_items, self._action),
            resolution=self._resolution(answer.resolution),
            coaching=self._all(answer.coaching, self._finding),
            quiz=self._all(answer.quiz, self._question, MOST["quiz"]),
            uncited=self.uncited,
            **of_engine,
        )

    def evidence(self, citation: Citation) -> Evidence | None:
        """The utterance and the words of it, as they were sent; None: they are not there."""
        text = self._texts.get(citation.utterance)
        words = straight(citation.quote).strip(' \t\n"“”„«»….').split()
        if text is None or not words:
            return None
        found = re.search(r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)", straight(text), re.IGNORECASE)
        if found is None or (len(words) < FEWEST_WORDS and len(text.split()) >= FEWEST_WORDS):
            return None
        heard = self._conversation.utterances[citation.utterance]
        return Evidence(
            identity=f"{self._conversation.call.call_id}/{heard.channel}/{heard.start_ms}",
            channel=heard.channel,
            start_ms=heard.start_ms,
            end_ms=heard.end_ms,
            speaker=heard.speaker,
            role=heard.role,
            text=text[found.start() : found.end()],
        )

    def _one(self, item: Any, make: Callable[[Any, tuple[Evidence, ...]], Made | None]) -> Made | None:
        evidence = [self.evidence(citation) for citation in item.citations]
        held = tuple(one for one in evidence if one is not None)
        made = make(item, held) if held and len(held) == len(evidence) else None
        self.uncited += made is None
        return made

    def _all(
        self, items: list[Any], make: Callable[[Any, tuple[Evidence, ...]], Made | None], most: int = MOST_OTHERS
    ) -> tuple[Made, ...]:
        return tuple(made for item in items if (made := self._one(item, make)) is not None)[:most]

    def _statement(self, item: Claim, evidence: tuple[Evidence, ...]) -> Statement:
        return Statement(text=item.text, evidence=evidence)

    def _topic(
        self, item: Topic, evidence: tuple[Evidence, ...], topics: Mapping[str, tuple[str, ...]]
    ) -> CallTopic | None:
        path = topics.get(item.topic)
        return CallTopic(path=path, similarity=None, evidence=evidence) if path else None

    def _finding(self, item: Sort, evidence: tuple[Evidence, ...]) -> Finding:
        sort = "_".join(re.findall(r"\w+", item.sort.lower()))[:40]
        return Finding(name=sort or "other", text=item.text, evidence=evidence)

    def _action(self, item: Action, evidence: tuple[Evidence, ...]) -> ActionItem:
        said = any(item.due.lower() in one.text.lower() for one in evidence)
        owner: Role = item.owner
        return ActionItem(text=item.text, evidence=evidence, owner=owner, due=item.due if said else "")

    def _resolution(self, item: Settled) -> Resolution:
        if item.resolved == "unknown":
            return Resolution()
        return self._one(item, lambda one, held: Resolution(resolved=one.resolved, evidence=held)) or Resolution()

    def _question(self, item: Question, evidence: tuple[Evidence, ...]) -> QuizQuestion | None:
        if not (len(set(item.choices)) == len(item.choices) >= 2 and 0 <= item.answer < len(item.choices)):
            return None
        return QuizQuestion(
            name="llm", question=item.question, choices=tuple(item.choices), answer=item.answer, evidence=evidence
        )
