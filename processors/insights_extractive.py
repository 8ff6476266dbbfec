"""The offline engine of the insights: it quotes, and never writes a word of its own about what was said.

Sentences become vectors (`processors.models.embedding`). The summary are those closest to all others, the topics those
terms of the glossary that come closest to it; complaints, objections, promises and how it ended are found by patterns
(`processors.insights_phrases`); recommendations and questions are fixed texts that facts of the call fill.

The one thing a changer must know: every quote is a substring of the utterance that is cited with it
(`FinishedCall.evidence` refuses anything else), and ties are broken by the place in the call, so the same call leads to
the same bytes.
"""

import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from processors import insights_phrases as phrases
from processors.insights import Business, FinishedCall, Heard
from processors.models.embedding import SentenceModel, Vectors
from processors.models.glossary import Topics
from processors.models.sentiment import straight
from processors.utterances import rounded
from schemas.events import ActionItem, CallTopic, Finding, Findings, QuizQuestion, Resolution, Statement

MOST_SENTENCES: Final = 400
"""Sentences that become vectors, 2 s of CPU; a call of an hour has as many. Of a longer one, those with the most words
in each four-hundredth of it."""
FEWEST_WORDS: Final = 4
"""Of a sentence that can be a summary's."""
REDUNDANCY: Final = 0.3
"""What a sentence of the summary loses for being like one that is in it already (Carbonell & Goldstein 1998)."""
FULL_WORDS: Final = 10
"""Words from which a sentence of the summary has its full weight."""
FIRST: Final = 0.6
"""What the customer's first sentence is ahead in it: people say first what they want."""
FIRST_FADES: Final = 3.0
"""Of how many of his sentences that is: each later one is ahead by exp(−1/FIRST_FADES) of it."""
LATE: Final = 0.2
"""What the last sentence of the call is ahead in it, one in the middle half as much: the end tells what came of it."""
TOLD_OUTCOME: Final = 0.2
"""What a sentence is ahead that says that something is done or not. Chosen, as the five before it, on the part `dev` of
the help desk's calls: docs/insights.md."""
OPEN_END: Final = 0.5
"""What a question loses of it, and what breaks off."""
OPENING: Final = 8
"""Sentences of the customer in which he tells why he calls. Judgement."""
PRE_SUMMARY: Final = 8
"""Sentences that the topics are looked for in: a topic that the call is about is near its middle."""
CUSTOMER_BONUS: Final = 0.1
"""What the customer's sentences are ahead in it: agents ask the same questions in every call."""
TOPIC_SIMILARITY: Final = 0.5
"""Cosine from which a term counts. Measured: docs/insights.md."""
TOPIC_SUPPORT: Final = 0.5
"""Weight of a term's second closest sentence beside its closest: one word in passing is no topic."""
MOST: Final = 10
"""Issues, objections, promises and recommendations of a sort that are told. Judgement: more is not read."""

TALK_SHARE: Final = 0.7
"""Judgement: of both parties in a service call the agent has 40 to 60 %."""
TALK_FROM_MS: Final = 60_000
"""Judgement: shares of less talk say nothing."""
INTERRUPTIONS: Final = 2
DEAD_AIR_MS: Final = 10_000
MONOLOGUE_MS: Final = 60_000
PACE_WPM: Final = 220
"""Judgement. Of utterances alone, without the pauses between them, 180 is usual."""
NEGATIVE: Final = -0.3
"""Score from which an utterance counts as unhappy; two in a row are a run."""

ADVICE: Final[Mapping[str, str]] = {
    "talk_share": "Ask open questions and let the customer finish.",
    "interruptions": "Wait until the customer has finished before you speak.",
    "dead_air": "Say what you are doing before you go quiet, and how long it will take.",
    "monologue": "Stop after one or two points and ask whether they are clear.",
    "no_empathy": "Name what the customer feels before you go on to the solution.",
    "no_greeting": "Greet the customer and say who you are.",
    "no_closing_question": "Ask whether there is anything else before you say goodbye.",
    "too_fast": "Speak more slowly: short sentences, with pauses between them.",
    "no_next_step": "When a matter stays open, say who does what, and by when.",
}
"""What each recommendation comes to."""

_END_OF_SENTENCE: Final = re.compile(r"(?<=[.!?…])\s+")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of an utterance, in its own words."""

    heard: Heard
    text: str
    plain: str
    """With straight apostrophes."""
    at: int
    """Its number in the call."""
    customer: bool
    agent: bool

    @property
    def words(self) -> int:
        return len(self.text.split())

    @property
    def open_end(self) -> bool:
        """A question, or broken off."""
        return self.text.endswith(("?", "…", "..."))


class ExtractiveEngine:
    """Findings by embedding and pattern, for English. `topics` has the vectors of the glossary for each business."""

    name: str = "extractive"
    languages: frozenset[str] | None = frozenset({"en"})

    def __init__(
        self, embedder: SentenceModel, topics: Mapping[Business, Topics], summary_sentences: int, most_topics: int
    ) -> None:
        self.model = embedder.id
        self._embedder = embedder
        self._topics = topics
        self._summary_sentences = summary_sentences
        self._most_topics = most_topics

    def conclude(self, call: FinishedCall) -> Findings:
        said = sentences(call)
        kept = _thinned([one for one in said if one.words >= FEWEST_WORDS and not phrases.COURTESY.search(one.plain)])
        vectors = self._embedder.embed([one.text for one in kept])
        # How close each is to all that was said: the middle of the call (Radev et al. 2004).
        centrality = vectors @ vectors.mean(axis=0) if kept else np.zeros(0, np.float32)
        topics = self._topics[call.business]
        reason = _reason(kept, vectors, centrality, topics)
        outcome = _outcome(kept, centrality)
        anchors = [one for one in (reason, outcome) if one]
        summary = summarised(kept, vectors, centrality, self._summary_sentences, anchors)
        found = self._about(topics, kept, vectors, centrality, reason)
        issues = _found(call, said, phrases.ISSUES)
        objections = _found(call, said, phrases.OBJECTIONS)
        promises = _promises(call, said)
        resolution = _resolution(call, said)
        coaching = _coaching(call, said, resolution, promises)
        findings = Findings(
            engine=self.name,
            model=self.model,
            state="ok",
            summary=tuple(_quoted(call, one) for one in summary),
            reason=_quoted(call, reason) if reason else None,
            topics=tuple(
                CallTopic(
                    path=path, similarity=similarity, evidence=tuple(call.evidence(s.heard, s.text) for s in near)
                )
                for path, similarity, near in found
            ),
            glossary=topics.id,
            issues=issues,
            objections=objections,
            outcome=_quoted(call, outcome) if outcome else None,
            action_items=promises,
            resolution=resolution,
            coaching=coaching,
        )
        others = [" > ".join(term.path) for term in topics.terms]
        return findings.model_copy(update={"quiz": _quiz(call, said, reason, findings, others)})

    def _about(
        self,
        topics: Topics,
        kept: Sequence[Sentence],
        vectors: Vectors,
        centrality: Vectors,
        reason: Sentence | None,
    ) -> list[tuple[tuple[str, ...], float, list[Sentence]]]:
        """(path, similarity, the closest sentences) of the likeliest terms."""
        if not kept:
            return []
        rows = pre_summary(kept, centrality, reason)
        likeness = topics.likeness(vectors[rows])
        ranked = ranked_terms(likeness)
        found = []
        for term in ranked[: self._most_topics]:
            nearest = np.argsort(-likeness[term], kind="stable")[:2]
            similarity = float(likeness[term, nearest[0]])
            if similarity >= TOPIC_SIMILARITY:
                near = [kept[rows[i]] for i in nearest if likeness[term, i] >= TOPIC_SIMILARITY]
                found.append((topics.terms[term].path, rounded(similarity), near))
        return found


def sentences(call: FinishedCall) -> list[Sentence]:
    """What was said, sentence by sentence."""
    customers = call.customers()
    said: list[Sentence] = []
    for heard in call.utterances:
        for text in _END_OF_SENTENCE.split(heard.text):
            if text.strip():
                customer, agent = heard.role in customers, heard.role == "agent"
                said.append(Sentence(heard, text, straight(text), len(said), customer, agent))
    return said


def summarised(
    kept: Sequence[Sentence], vectors: Vectors, centrality: Vectors, most: int, anchors: Sequence[Sentence] = ()
) -> list[Sentence]:
    """The anchors, and of all others what is central, what the customer says first, and what tells of the end, if it is
    not like what is there already; in the order of the call. Both parties have a word."""
    chosen = [i for i, one in enumerate(kept) if any(one is anchor for anchor in anchors)][:most]
    # A fragment is like everything and tells nothing; a question is about what comes after it.
    weight = np.array([min(one.words / FULL_WORDS, 1) - OPEN_END * one.open_end for one in kept], np.float32)
    customers = np.cumsum([one.customer for one in kept]) - 1
    ahead = [
        FIRST * one.customer * math.exp(-customers[i] / FIRST_FADES)
        + LATE * i / max(len(kept) - 1, 1)
        + TOLD_OUTCOME * (phrases.OUTCOME.search(one.plain) is not None)
        for i, one in enumerate(kept)
    ]
    score = centrality * weight + np.array(ahead, np.float32)
    while len(chosen) < min(most, len(kept)):
        near = (vectors @ vectors[chosen].T).max(axis=1) if chosen else np.zeros(len(kept), np.float32)
        order = sorted(set(range(len(kept))) - set(chosen), key=lambda i: (-(score[i] - REDUNDANCY * near[i]), i))
        one_sided = chosen and len(chosen) == most - 1 and len({kept[i].customer for i in chosen}) == 1
        others = [i for i in order if kept[i].customer != kept[chosen[0]].customer] if one_sided else []
        chosen.append((others or order)[0])
    return [kept[i] for i in sorted(chosen)]


def pre_summary(kept: Sequence[Sentence], centrality: Vectors, reason: Sentence | None) -> list[int]:
    """Which sentences the topics are looked for in: the reason of the call, and the middle of it."""
    bonus = np.array([CUSTOMER_BONUS * one.customer + (one is reason) for one in kept], np.float32)
    return sorted(np.argsort(-(centrality + bonus), kind="stable")[:PRE_SUMMARY].tolist())


def ranked_terms(likeness: Vectors) -> list[int]:
    """The terms by how close the call comes to them: the closest sentence, and with less weight the second."""
    best = -np.sort(-likeness, axis=1)[:, :2]
    support = best[:, 1] if best.shape[1] > 1 else np.zeros(len(best), np.float32)
    ranked: list[int] = np.argsort(-(best[:, 0] + TOPIC_SUPPORT * support), kind="stable").tolist()
    return ranked


def _thinned(kept: list[Sentence]) -> list[Sentence]:
    if len(kept) <= MOST_SENTENCES:
        return kept
    bounds = np.linspace(0, len(kept), MOST_SENTENCES + 1).astype(int)
    return [max(kept[first:last], key=lambda one: (one.words, -one.at)) for first, last in pairwise(bounds)]


def _quoted(call: FinishedCall, one: Sentence) -> Statement:
    return Statement(text=one.text, evidence=(call.evidence(one.heard, one.text),))


def _reason(kept: Sequence[Sentence], vectors: Vectors, centrality: Vectors, topics: Topics) -> Sentence | None:
    """Of the first that the customer says: what sounds like a reason, near the middle of the call and near a topic."""
    opening = [i for i, one in enumerate(kept) if one.customer][:OPENING]
    opening += [i for i, one in enumerate(kept[:OPENING]) if one.agent and phrases.OUTBOUND.search(one.plain)]
    if not opening:
        return None
    likeness = topics.likeness(vectors[opening]).max(axis=0)
    weights = []
    for i, near in zip(opening, likeness, strict=True):
        one = kept[i]
        cue = (phrases.REASON if one.customer else phrases.OUTBOUND).search(one.plain) is not None
        wrong = one.customer and any(pattern.search(one.plain) for pattern in phrases.ISSUES.values())
        weights.append(float(centrality[i] + near) + 0.2 * cue + 0.15 * wrong - 0.3 * one.open_end)
    return kept[opening[int(np.argmax(weights))]]


def _found(call: FinishedCall, said: Sequence[Sentence], sorts: Mapping[str, re.Pattern[str]]) -> tuple[Finding, ...]:
    """What of these the customer says, each utterance once for a sort."""
    found: dict[tuple[str, int, int], Finding] = {}
    for one in said:
        if not one.customer or one.text.endswith("?") or one.words < 3:
            continue
        for name, pattern in sorts.items():
            if pattern.search(one.plain):
                quote = call.evidence(one.heard, one.text)
                key = name, one.heard.channel, one.heard.start_ms
                found.setdefault(key, Finding(name=name, text=one.text, evidence=(quote,)))
                break
    return tuple(found.values())[:MOST]


def _promises(call: FinishedCall, said: Sequence[Sentence]) -> tuple[ActionItem, ...]:
    items: dict[str, ActionItem] = {}
    for one in said:
        if one.text.endswith("?") or not phrases.PROMISE.search(one.plain) or phrases.IN_THE_CALL.search(one.plain):
            continue
        due = phrases.DUE.search(one.plain)
        item = ActionItem(
            text=one.text,
            evidence=(call.evidence(one.heard, one.text),),
            owner=one.heard.role,
            due=one.text[due.start() : due.end()] if due else "",
        )
        items.setdefault(one.plain.lower(), item)
    return tuple(items.values())[:MOST]


def _outcome(kept: Sequence[Sentence], centrality: Vectors) -> Sentence | None:
    """Of the last third: what tells of something done or not; the later and the nearer to the matter the better."""
    last = len(kept) - max(len(kept) // 3, min(len(kept), 6))
    told = [i for i in range(last, len(kept)) if phrases.OUTCOME.search(kept[i].plain) and not kept[i].open_end]
    best = max(told, key=lambda i: (float(centrality[i]) + 0.3 * (i - last) / (len(kept) - last), i), default=None)
    return None if best is None else kept[best]


def _resolution(call: FinishedCall, said: Sequence[Sentence]) -> Resolution:
    """What the customer says in the last half, the later the weightier, and what the agent could do or not."""
    total, evidence = 0.0, []
    first = len(said) // 2
    for one in said[first:]:
        late = 0.25 + 0.75 * (one.at - first + 1) / (len(said) - first)
        weights = [weight for pattern, weight in phrases.SETTLED if pattern.search(one.plain)]
        # An agent hopes that it works; that it goes on elsewhere, he knows.
        if not one.customer:
            weights = [-0.5] if phrases.LEFT_OPEN.search(one.plain) else [0.5] if phrases.DONE.search(one.plain) else []
        if weights and not one.text.endswith("?"):
            total += late * min(weights)
            evidence.append((min(weights), one))
    if abs(total) < RESOLVED_FROM:
        return Resolution()
    speaking = [one for weight, one in evidence if weight * total > 0][-3:]
    return Resolution(
        resolved="yes" if total > 0 else "no",
        evidence=tuple(call.evidence(one.heard, one.text) for one in speaking),
    )


RESOLVED_FROM: Final = 0.4
"""Weight of evidence from which it is decided. Judgement: one clear word at the end, or two faint ones."""


# Coaching


def _coaching(
    call: FinishedCall, said: Sequence[Sentence], resolution: Resolution, promises: Sequence[ActionItem]
) -> tuple[Finding, ...]:
    agents = [heard for heard in call.utterances if heard.role == "agent"]
    if not agents:
        return ()
    found: list[Finding] = []

    def advise(name: str, fact: str, moments: Iterable[Heard]) -> None:
        evidence = tuple(call.evidence(heard) for heard in list(moments)[:3])
        if evidence and sum(one.name == name for one in found) < 3:
            found.append(Finding(name=name, text=f"{fact} {ADVICE[name]}", evidence=evidence))

    def never(pattern: re.Pattern[str], heard: Iterable[Heard]) -> bool:
        return not any(pattern.search(straight(one.text)) for one in heard)

    tally = call.tally
    share = tally.talk_share("agent")
    if share is not None and share >= TALK_SHARE and tally.talk_ms() >= TALK_FROM_MS:
        longest = sorted(agents, key=lambda one: (one.start_ms - one.end_ms, one.start_ms))
        advise("talk_share", f"The agent spoke {share:.0%} of the time.", longest)
    names = {heard.speaker for heard in agents}
    cut_in = [one for one in tally.interruptions() or () if one.by in names]
    if len(cut_in) >= INTERRUPTIONS:
        starts = {one.start_ms for one in cut_in}
        advise(
            "interruptions",
            f"The agent began to speak {len(cut_in)} times while the customer spoke.",
            [heard for heard in agents if heard.start_ms in starts],
        )
    for silence in tally.silences()[3]:
        length_ms = silence.end_ms - silence.start_ms
        before = [heard for heard in call.utterances if heard.start_ms < silence.end_ms][-2:]
        if length_ms >= DEAD_AIR_MS and before and never(phrases.HOLD, before):
            advise("dead_air", f"Nobody spoke for {length_ms / 1_000:.0f} seconds.", before[-1:])
    for run in _runs(call.utterances):
        length_ms = run[-1].end_ms - run[0].start_ms
        if run[0].role == "agent" and length_ms >= MONOLOGUE_MS:
            advise("monologue", f"The agent spoke for {length_ms / 1_000:.0f} seconds without a break.", run)
    for run in _unhappy(call):
        after = [heard for heard in agents if heard.start_ms >= run[1].start_ms][:3]
        if after and never(phrases.EMPATHY, after):
            advise("no_empathy", "The customer was unhappy several times in a row, and no word met it.", run)
    if never(phrases.GREETING, agents[:2]):
        advise("no_greeting", "The call began without a greeting.", agents[:1])
    if never(phrases.CLOSING_QUESTION, agents[len(agents) // 2 :]):
        advise("no_closing_question", "The call ended without a question for further matters.", agents[-1:])
    for party in tally.parties():
        if party.role == "agent" and (party.words_per_minute or 0) >= PACE_WPM and party.talk_ms >= TALK_FROM_MS:
            mine = [heard for heard in agents if heard.speaker == party.speaker]
            quickest = sorted(mine, key=lambda one: (-_pace(one), one.start_ms))
            advise("too_fast", f"The agent spoke {party.words_per_minute:.0f} words a minute.", quickest)
    if resolution.resolved == "no" and not any(item.owner == "agent" for item in promises):
        ends = {one.identity for one in resolution.evidence}
        open_ = [heard for heard in call.utterances if call.evidence(heard).identity in ends]
        advise("no_next_step", "The matter was still open at the end, and nobody said what happens next.", open_)
    return tuple(found)


def _runs(utterances: Sequence[Heard]) -> list[list[Heard]]:
    """Utterances of one speaker with nobody else's between them."""
    runs: list[list[Heard]] = []
    for heard in utterances:
        if runs and (runs[-1][-1].channel, runs[-1][-1].speaker) == (heard.channel, heard.speaker):
            runs[-1].append(heard)
        else:
            runs.append([heard])
    return runs


def _unhappy(call: FinishedCall) -> list[list[Heard]]:
    """Runs of two and more of the customer's scored utterances that are clearly negative."""
    customers = call.customers()
    scored = [heard for heard in call.utterances if heard.role in customers and heard.score is not None]
    runs: list[list[Heard]] = [[]]
    for heard in scored:
        if heard.score is not None and heard.score <= NEGATIVE:
            runs[-1].append(heard)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _pace(heard: Heard) -> float:
    """Words a minute; utterances under two seconds count as slow, their times are too rough."""
    length_ms = heard.end_ms - heard.start_ms
    return len(heard.text.split()) * 60_000 / length_ms if length_ms >= 2_000 else 0.0


# Quiz

WRONG: Final = 3
"""Choices beside the right one."""
LONGEST_CHOICE: Final = 40
"""Words. A choice is to be read at a glance."""


def _quiz(
    call: FinishedCall,
    said: Sequence[Sentence],
    reason: Sentence | None,
    findings: Findings,
    terms: Sequence[str],
) -> tuple[QuizQuestion, ...]:
    """Questions whose right answers follow from the findings. Choices are quotes of the call, terms of the glossary, or
    recommendations."""
    asked: list[QuizQuestion] = []
    customers = [one for one in said if one.customer and FEWEST_WORDS <= one.words <= LONGEST_CHOICE]
    agents = [one for one in said if one.agent and FEWEST_WORDS <= one.words <= LONGEST_CHOICE]

    def ask(name: str, question: str, right: str, wrong: Iterable[str], evidence: Sequence[object]) -> None:
        choices = list(dict.fromkeys([right, *wrong]))[: WRONG + 1]
        if len(choices) < 2:
            return
        # Any fixed order will do that does not tell which one is right.
        mixed = sorted(choices, key=lambda choice: zlib.crc32(f"{call.info.call_id}/{name}/{choice}".encode()))
        fields = {"name": name, "question": question, "choices": mixed, "answer": mixed.index(right)}
        asked.append(QuizQuestion.model_validate(fields | {"evidence": evidence}))

    if reason and findings.reason:
        heard = {reason.heard.start_ms}
        others = [one.text for one in _spread(customers, lambda one: one.heard.start_ms not in heard)]
        ask("reason", "Which sentence tells why the customer calls?", reason.text, others, findings.reason.evidence)
    if findings.topics:
        best = findings.topics[0]
        paths = {" > ".join(topic.path) for topic in findings.topics}
        branches = {path.split(" > ")[0]: path for path in terms if path not in paths}
        near = [path for path in terms if path.split(" > ")[0] == best.path[0] and path not in paths]
        ask("topic", "What is the call about?", " > ".join(best.path), [*near[:1], *branches.values()], best.evidence)
    if items := [item for item in findings.action_items if item.owner == "agent"]:
        promised = {item.text for item in findings.action_items}
        others = [one.text for one in _spread(agents, lambda one: one.text not in promised)]
        ask("promise", "What did the agent promise?", items[0].text, others, items[0].evidence)
    if findings.objections:
        objection = findings.objections[0]
        raised = {one.name for one in findings.objections}
        sorts = [name.replace("_", " ") for name in phrases.OBJECTIONS if name not in raised]
        ask(
            "objection",
            "What speaks against it for the customer?",
            objection.name.replace("_", " "),
            sorts,
            objection.evidence,
        )
    if findings.resolution.evidence:
        right, wrong = ("Yes", "No") if findings.resolution.resolved == "yes" else ("No", "Yes")
        ask("resolved", "Was the matter settled at the end of the call?", right, [wrong], findings.resolution.evidence)
    for one in findings.coaching[:2]:
        told = {finding.name for finding in findings.coaching}
        fitting, others = ADVICE[one.name], [text for name, text in ADVICE.items() if name not in told]
        quote = one.evidence[0].text
        ask(f"coaching_{one.name}", f"What would have helped at this moment: “{quote}”?", fitting, others, one.evidence)
    return tuple(asked)


def _spread(of: Sequence[Sentence], fits: Callable[[Sentence], bool]) -> list[Sentence]:
    """As many as a question needs, from all over the call."""
    fitting = [one for one in of if fits(one)]
    return fitting[:: max(len(fitting) // WRONG, 1)][:WRONG]
