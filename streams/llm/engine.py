"""The findings of one call, asked of a language model.

A changer must know: nothing of a call leaves here but what `LanguageModel.asked` returns: roles, times, and texts out
of which the redactor has taken every kind of personal data that it knows, whatever the tenant's settings left in. No
ids, no names of agents and queues, no metadata.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from processors.insights import BUSINESSES, Business, glossary_of
from processors.redaction import KINDS, Config, Memory, Redactor
from schemas.errors import CalltideError
from schemas.events import Conversation, Findings, Insights
from streams.llm import answers, prompts
from streams.llm.answers import Check, Unusable
from streams.llm.endpoint import Away, Endpoint, Message, Refused, Reply
from streams.settings import Llm, Settings

PAUSE_S: Final = (1.0, 60.0)
"""First and longest pause between tries, with as much again by chance (judgement)."""
SUSPECT: Final = 5
"""Faults in a row after which the endpoint is asked whether it answers others: then it is this call that it cannot
take."""
BUDGET_EVERY_S: Final = 10.0
LEAST_ROOM: Final = 1_000
"""Tokens of a transcript: a minute or two of talk. Judgement."""

log = logging.getLogger(__name__)

REQUESTS = Counter("calltide_llm_requests_total", "requests to the language model", ["outcome"])
SECONDS = Histogram(
    "calltide_llm_request_seconds", "time of a request that was answered", buckets=(0.5, 1, 2, 5, 10, 20, 40, 80, 160)
)
TOKENS = Counter("calltide_llm_tokens_total", "tokens of answered requests", ["direction"])
COST = Counter("calltide_llm_cost_total", "cost of answered requests, in the currency of the prices")
CALLS = Counter("calltide_llm_calls_total", "calls that were read, or given up", ["state"])
UNCITED = Counter("calltide_llm_uncited_total", "statements dropped for want of a citation that holds")
WAITING = Gauge("calltide_llm_waiting", "calls in hand that wait, by what for", ["what"])


class Budget:
    """What was used up today (UTC), and whether there is more. Threads may share it."""

    def __init__(self, settings: Llm, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings, self._now = settings, now
        self._lock = threading.Lock()
        self._day = now().date()
        self._tokens, self._cost = 0, 0.0

    @property
    def limited(self) -> bool:
        """Whether anything is counted at all."""
        return bool(self._settings.tokens_per_day or self._settings.cost_per_day)

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """By the prices of the settings."""
        return (tokens_in * self._settings.price_in + tokens_out * self._settings.price_out) / 1e6

    def use(self, tokens_in: int, tokens_out: int) -> None:
        """So much was used."""
        with self._lock:
            self._turn()
            self._tokens += tokens_in + tokens_out
            self._cost += self.cost(tokens_in, tokens_out)

    def left(self) -> bool:
        """Whether another request may be made."""
        with self._lock:
            self._turn()
            settings = self._settings
            return not (
                (settings.tokens_per_day and self._tokens >= settings.tokens_per_day)
                or (settings.cost_per_day and self._cost >= settings.cost_per_day)
            )

    def _turn(self) -> None:
        if (today := self._now().date()) != self._day:
            self._day, self._tokens, self._cost = today, 0, 0.0


class _Failed(Exception):
    """No findings can be had of this call."""


@dataclass(slots=True)
class _Dialogue:
    """What was said to the model and what it has cost."""

    messages: list[Message]
    model: str
    tokens_in: int = 0
    tokens_out: int = 0


class LanguageModel:
    """Asks one endpoint. Threads may share it.

    Raises CalltideError for settings without a model, glossaries that cannot be read, and a context too small for the
    prompts.
    """

    def __init__(self, settings: Settings, budget: Budget) -> None:
        self._settings = settings.llm
        if not settings.llm.model:
            raise CalltideError("CALLTIDE_LLM__MODEL is not set; give the name by which the endpoint knows the model")
        self.name = f"llm:{settings.llm.model}"
        self.endpoint = Endpoint(settings.llm)
        self.budget = budget
        self._schema = answers.schema()
        glossaries = {business: glossary_of(settings.insights, business) for business in BUSINESSES}
        self._glossaries = {business: glossary.id for business, glossary in glossaries.items()}
        self._topics = {
            business: {" > ".join(term.path): term.path for term in glossary.terms}
            for business, glossary in glossaries.items()
        }
        redact = settings.asr.redact
        names = None
        if redact.names_model is not None:
            from processors.models.names import PresidioNames

            names = PresidioNames(redact.names_model)
        self._redactor = Redactor(Config(kinds={"*": KINDS}, regions=redact.regions), names)
        for business in BUSINESSES:
            if self._room(prompts.system(self._schema, "en", list(self._topics[business]))) < LEAST_ROOM:
                raise CalltideError(
                    f"CALLTIDE_LLM__CONTEXT_TOKENS={self._settings.context_tokens} leaves no room for a call beside "
                    f"the prompt, the {business} glossary and two answers; make it larger, or the glossary or "
                    "CALLTIDE_LLM__ANSWER_TOKENS smaller"
                )

    def _room(self, system: str) -> int:
        # Two answers: the second is asked for with the first in view.
        used = len(system.encode()) // prompts.BYTES_PER_TOKEN
        return self._settings.context_tokens - used - 2 * self._settings.answer_tokens

    def asked(self, conversation: Conversation) -> tuple[list[Message], list[str], list[int]]:
        """(what is sent, the texts of all utterances as they are sent, the numbers of those that are)."""
        memory = Memory()
        texts = [
            self._redactor.redact(
                one.text, (), conversation.language, conversation.call.tenant, memory, one.speaker, one.end_ms
            ).text
            for one in conversation.utterances
        ]
        system = prompts.system(self._schema, conversation.language, list(self._topics[self._business(conversation)]))
        call, given = prompts.call(conversation, texts, self._room(system))
        return [{"role": "system", "content": system}, {"role": "user", "content": call}], texts, given

    def _business(self, conversation: Conversation) -> Business:
        return next((one for one in BUSINESSES if one == conversation.business), BUSINESSES[-1])

    def insights(self, conversation: Conversation, cancelled: threading.Event) -> Insights | None:
        """What the model says of a call, `failed` and why where nothing can be had; None: cancelled before that.

        While the endpoint is away, or today's budget is used up, it waits.
        """
        messages, texts, given = self.asked(conversation)
        dialogue = _Dialogue(messages, self._settings.model)
        unread = len(conversation.utterances) - len(given)
        try:
            answer = self._answer(dialogue, cancelled)
            if answer is None:
                return None
            check = Check(conversation, texts, given)
            business = self._business(conversation)
            findings = check.findings(
                answer, self._topics[business], engine=self.name, glossary=self._glossaries[business]
            )
        except _Failed as error:
            findings = Findings(engine=self.name, state="failed", why=str(error))
        CALLS.labels(findings.state).inc()
        UNCITED.inc(findings.uncited)
        findings = findings.model_copy(
            update={
                "model": dialogue.model,
                "prompts": prompts.identity(),
                "tokens_in": dialogue.tokens_in,
                "tokens_out": dialogue.tokens_out,
            }
        )
        return Insights(
            **{name: getattr(findings, name) for name in Findings.model_fields},
            call=conversation.call,
            ended_at=conversation.ended_at,
            duration_ms=conversation.duration_ms,
            language=conversation.language,
            business=conversation.business,
            utterances=len(conversation.utterances) + conversation.unread,
            unread=conversation.unread + unread,
            pipeline_version=conversation.pipeline_version,
        )

    def _answer(self, dialogue: _Dialogue, cancelled: threading.Event) -> answers.Answer | None:
        """The answer, after one repair at most; None: cancelled. Raises _Failed."""
        for last in (False, True):
            reply = self._insist(dialogue, cancelled)
            if reply is None:
                return None
            try:
                if not reply.complete:
                    cut = {"length": f"it was cut off after {self._settings.answer_tokens} tokens; be briefer"}
                    raise Unusable(cut.get(reply.ended, f"it ended by {reply.ended}"))
                answer = answers.read(reply.text)
            except Unusable as error:
                REQUESTS.labels("unusable").inc()
                if last:
                    raise _Failed(f"the second answer cannot be used either: {error}") from None
                log.info("answer of the language model not usable: %s", error)
                shown = reply.text[: self._settings.answer_tokens * prompts.BYTES_PER_TOKEN]
                dialogue.messages += [
                    {"role": "assistant", "content": shown or "(nothing)"},
                    {"role": "user", "content": prompts.repair(str(error))},
                ]
            else:
                REQUESTS.labels("ok").inc()
                return answer
        raise AssertionError("unreachable")

    def _insist(self, dialogue: _Dialogue, cancelled: threading.Event) -> Reply | None:
        """The endpoint's reply, however long that takes; None: cancelled.

        Raises _Failed when it answers others, and not this.
        """
        faults, proven, (pause_s, longest_s) = 0, False, PAUSE_S
        while not cancelled.is_set():
            if not self.budget.left():
                with WAITING.labels("budget").track_inprogress():
                    cancelled.wait(BUDGET_EVERY_S)
                continue
            try:
                began = time.monotonic()
                reply = self.endpoint.ask(dialogue.messages)
            except Away as error:
                REQUESTS.labels("busy" if error.busy else "away").inc()
                faults += not error.busy
                suspect, why, wait_s = faults >= SUSPECT, str(error), error.wait_s
                proven = proven and not error.busy
            except Refused as error:
                REQUESTS.labels("refused").inc()
                suspect, why, wait_s = True, str(error), 0.0
            else:
                SECONDS.observe(time.monotonic() - began)
                self._count(dialogue, reply)
                return reply
            if proven:
                raise _Failed(f"the endpoint answers, but not to this call: {why}")
            if suspect:
                fault = self.endpoint.fault()
                if not fault:
                    # It may have come back just now: once more.
                    proven = True
                    continue
                faults, why = 0, fault
            log.warning("no answer of the language model: %s", why)
            with WAITING.labels("endpoint").track_inprogress():
                cancelled.wait(max(pause_s * (1 + random.random()), wait_s))
            pause_s = min(2 * pause_s, longest_s)
        return None

    def _count(self, dialogue: _Dialogue, reply: Reply) -> None:
        """What a reply has cost; where the endpoint does not say, by its length."""
        sent = sum(len(message["content"].encode()) for message in dialogue.messages)
        tokens_in = reply.tokens_in or sent // prompts.BYTES_PER_TOKEN
        tokens_out = reply.tokens_out or len(reply.text.encode()) // prompts.BYTES_PER_TOKEN
        dialogue.model = reply.model
        dialogue.tokens_in += tokens_in
        dialogue.tokens_out += tokens_out
        TOKENS.labels("in").inc(tokens_in)
        TOKENS.labels("out").inc(tokens_out)
        COST.inc(self.budget.cost(tokens_in, tokens_out))
        self.budget.use(tokens_in, tokens_out)
