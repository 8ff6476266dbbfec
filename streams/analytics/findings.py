"""What metrics, rules, insights and forms would have found in generated calls: figures, alerts, categories, insights,
score cards.

Figures are counted from the calls' utterances by the definitions of docs/metrics.md; a test holds them to the real
tally. What needs somebody to understand words (topics, whether a matter was settled, what a form asks) is drawn by how
the call went, and quotes its utterances.

A changer must know: the facts named below are planted, and tests look for them in the dashboards.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from processors.conversation import INTERRUPTION_MS, RESPONSE_MOST_MS, RESPONSE_STEP_MS, SILENCE_MS, TREND_FROM
from schemas.topics import DEFAULT_PARTITIONS
from streams.analytics.arrow import SPOTS, TIME, Bools, Floats, Ints, lists, maps, moments, nullable, small

FORGETFUL_AGENT: Final = "agent-05"
"""Never says goodbye."""
STUCK_TOPIC: Final = "Insurance > Claims > Status of a claim"
"""No call about it is ever resolved."""
RIVAL_RULE: Final = "competitor-named"
"""The category that rises in the last week (streams.analytics.traffic.RISE)."""
TOPICS: Final[dict[str, tuple[str, ...]]] = {
    "billing": (
        "Billing > Bill > Bill too high",
        "Billing > Bill > Copy of a bill",
        "Billing > Payment > Payment failed or late",
        "Billing > Payment > Change payment method",
    ),
    "support": (
        "Technical help > Devices > Device does not work",
        "Technical help > Devices > Set up a device",
        "Technical help > Internet > Internet slow or down",
        "Account > Access > Cannot log in",
    ),
    "sales": (
        "Contract > Changes > Change plan or tariff",
        "Contract > New > New contract",
        "Orders > Buying > Product information",
        "Orders > Buying > Price and discounts",
    ),
    "claims": (STUCK_TOPIC, "Insurance > Claims > Report a claim", "Insurance > Policy > Policy and cover"),
    "orders": (
        "Orders > Delivery > Where is my order",
        "Orders > Changes > Change an order",
        "Orders > Delivery > Delivery missed or lost",
    ),
    "returns": (
        "Orders > Returns > Return an item",
        "Orders > Returns > Refund",
        "Orders > Delivery > Damaged or wrong item",
    ),
}
"""Of the starter glossary for consumers, by queue: the likeliest first."""
ISSUES: Final = {
    "billing": "billing",
    "support": "not_working",
    "sales": "mistake",
    "claims": "waiting",
    "orders": "delivery",
    "returns": "delivery",
}
OBJECTIONS: Final = ("price", "later", "no_need", "terms")
ADVICE: Final = {
    "talk_share": "You talked for most of the call. Ask open questions, and wait for the answer.",
    "interruptions": "You cut in. Let the customer finish, then answer.",
    "dead_air": "Nobody spoke for a while. Say what you are doing before you go quiet.",
    "no_empathy": "The customer was upset, and nothing was said of it. Name it before you solve it.",
    "no_closing_question": "The call ended without a goodbye. Ask whether anything is open, and say goodbye.",
    "no_next_step": "The matter was open at the end, and nobody said what happens next.",
}
FORM: Final = "service"
FORM_VERSION: Final = "generated"
SECTIONS: Final[dict[str, tuple[float, tuple[str, ...]]]] = {
    "greeting": (10, ("greets", "says who speaks", "offers help or says why the call is made")),
    "verification": (15, ("asks who the customer is", "checks what was understood")),
    "empathy": (20, ("meets an unhappy customer", "does not cut in")),
    "resolution": (40, ("the matter is settled", "nobody leaves without a next step")),
    "closing": (15, ("asks for anything else", "takes leave")),
}
"""Weight and items of each section, as in the starter form; every item has one point here."""
EMOTIONS: Final = ("neutral", "happiness", "sadness", "anger", "fear", "surprise")
RULES_VERSION: Final = "generated"
OUTLOOK_MODEL: Final = "generated"
EARLY: Final = 12
"""Utterances before which nothing is said of how a call will end."""


@dataclass(frozen=True, slots=True)
class Told:
    """Calls of a block, as a version heard them. Arrays are one value a call or, from `call` on, one an utterance."""

    version: str
    source: str
    call_id: Sequence[str]
    tenant: Sequence[str]
    queue: Sequence[str]
    agent: Sequence[str]
    number: Ints
    started: Ints
    """Unix milliseconds."""
    duration: Ints
    """Milliseconds; of a call that goes on, so far."""
    running: Bools
    mono: Bools
    german: Bools
    call: Ints
    """Place of the utterance's call among these."""
    customer: Bools
    position: Ints
    start: Ints
    length: Ints
    words: Ints
    text: Sequence[str]
    score: Floats
    has_score: Bools
    emotion: Ints
    """Place in EMOTIONS; −1: not judged."""
    loudness: Floats
    """LUFS, where the emotion was judged."""
    party_score: Floats
    """The speaker's running score."""
    alarm: Ints
    """1: speaks of leaving, 2: of a lawyer."""
    rival: Bools
    """Names a competitor."""


def tables(told: Told, rng: np.random.Generator) -> dict[str, pa.Table]:
    """Rows of `call_progress`, `alerts`, `call_categories`, `insights` and `evaluations`."""
    figures = Figures(told)
    alerts, categories = _found(told)
    read = [_read(told, figures, at, rng) for at in np.flatnonzero(~told.running).tolist()]
    found = {"at": TIME, "started_at": TIME, "at_ms": pa.uint32(), "utterances": SPOTS} | _PLACE
    return {
        "call_progress": figures.table(),
        "alerts": small(alerts, found),
        "call_categories": small(categories, found),
        "insights": small([insights for insights, _ in read], _INSIGHTS),
        "evaluations": small([evaluation for _, evaluation in read], _EVALUATION),
    }


_PLACE: Final = {"partition": pa.uint32(), "offset": pa.uint64()}
_ENDED: Final = {"started_at": TIME, "ended_at": TIME, "duration_ms": pa.uint32()}
_TEXTS: Final = pa.list_(pa.string())
_INSIGHTS: Final = {
    **_PLACE,
    **_ENDED,
    **dict.fromkeys(("summary", "topics", "issues", "objections", "coaching"), _TEXTS),
    **dict.fromkeys(("utterances", "unread"), pa.uint32()),
    **dict.fromkeys(("action_items", "questions", "uncited"), pa.uint16()),
    "similarities": pa.list_(pa.float32()),
}
_EVALUATION: Final = {
    **_PLACE,
    **_ENDED,
    "score": pa.float32(),
    "judged": pa.float32(),
    "sections.name": _TEXTS,
    "sections.weight": pa.list_(pa.float32()),
    "sections.score": pa.list_(pa.float32()),
}


def _call(told: Told, at: int) -> dict[str, Any]:
    return {
        "tenant": told.tenant[at],
        "pipeline_version": told.version,
        "call_id": told.call_id[at],
        "queue": told.queue[at],
        "agent": told.agent[at],
    }


def _place(told: Told, at: int, offset: int) -> dict[str, Any]:
    """Of a record; a call has fewer than 1,000."""
    number = int(told.number[at])
    return {"topic": told.source, "partition": number % DEFAULT_PARTITIONS, "offset": number * 1_000 + offset}


# --- figures ----------------------------------------------------------------------------------------------------------


class Figures:
    """The figures of each party: arrays of two values a call, the agent's and the customer's."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.count = 2 * len(told.call_id)
        self.party = told.call * 2 + told.customer
        self.end = told.start + told.length
        self.first = told.position == 0
        # An utterance ends later than all before it: they overlap by less than half.
        before = np.concatenate([[0], self.end[:-1]])
        self.gap = told.start - np.where(self.first, 0, before)
        self.takes_floor = self.first | (self.party != np.concatenate([[-1], self.party[:-1]]))
        self.silent = np.maximum(self.gap, 0) >= SILENCE_MS

    def sums(self, values: NDArray[Any], of: Bools | slice = slice(None)) -> Floats:
        """By party."""
        return np.bincount(self.party[of], values[of], self.count).astype(float)

    @cached_property
    def talk(self) -> Floats:
        return self.sums(self.told.length)

    @cached_property
    def talk_share(self) -> Floats:
        return self.talk / np.maximum(np.repeat(self.talk[::2] + self.talk[1::2], 2), 1)

    @cached_property
    def overtalk(self) -> Ints:
        """Of each utterance: how long another party speaks, too, whom it has cut in on."""
        cuts_in = self.takes_floor & ~self.first & ~self.told.mono[self.told.call]
        return np.where(cuts_in, np.maximum(-self.gap, 0), 0)

    @cached_property
    def interruptions(self) -> Ints:
        return np.bincount(self.party[self.overtalk >= INTERRUPTION_MS], minlength=self.count)

    @cached_property
    def last_gap(self) -> Ints:
        """Of each call: how long nobody has spoken when it ends, or now."""
        last = np.zeros(len(self.told.call_id), np.int64)
        np.maximum.at(last, self.told.call, self.end)
        return self.told.duration - last

    @cached_property
    def silences(self) -> list[list[tuple[int, int]]]:
        """Of each call, as (start, end)."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.told.call_id]
        for at in np.flatnonzero(self.silent).tolist():
            start = int(self.told.start[at])
            found[self.told.call[at]].append((start - int(self.gap[at]), start))
        for one in np.flatnonzero(self.last_gap >= SILENCE_MS).tolist():
            end = int(self.told.duration[one])
            found[one].append((end - int(self.last_gap[one]), end))
        return found

    def quarters(self, party: Ints, parties: int) -> tuple[Floats, Bools]:
        """(parties, 4) mean scores, −5 to 5, and where there are any."""
        told = self.told
        quarter = np.minimum((told.start + self.end) * 2 // np.maximum(told.duration[told.call], 1), 3)
        key = (party * 4 + quarter)[told.has_score]
        n = np.bincount(key, minlength=parties * 4)
        means = 5 * np.bincount(key, told.score[told.has_score], parties * 4) / np.maximum(n, 1)
        return np.round(means, 4).reshape(-1, 4), (n > 0).reshape(-1, 4)

    def monologues(self) -> Ints:
        """Of each party: the longest stretch in which no other begins to speak."""
        turn = np.cumsum(self.takes_floor) - 1
        begins = self.told.start[self.takes_floor]
        longest = np.zeros(self.count, np.int64)
        np.maximum.at(longest, self.party, self.end - begins[turn])
        return longest

    def responses(self) -> tuple[Ints, Ints]:
        """Of each party: how often it answers, and the median of how long that takes."""
        answers = self.takes_floor & ~self.first & (self.gap > -INTERRUPTION_MS)
        steps = (np.clip(self.gap[answers], 0, RESPONSE_MOST_MS) + RESPONSE_STEP_MS // 2) // RESPONSE_STEP_MS
        party = self.party[answers]
        order = np.lexsort((steps, party))
        n = np.bincount(party, minlength=self.count)
        begins, steps = np.cumsum(n) - n, np.append(steps[order], 0)
        # Of an even number of them the mean of the two in the middle.
        lower, upper = (steps[np.minimum(begins + np.maximum(n - one, 0) // 2, len(steps) - 1)] for one in (1, 0))
        return n, (lower + upper) * RESPONSE_STEP_MS // 2

    def loudness(self) -> tuple[Floats, Floats, Ints]:
        """Of each party: mean, slope in dB a minute, and how many utterances they are of."""
        told = self.told
        there = told.emotion >= 0
        w, x = told.length.astype(float), ((told.start + self.end) // 100).astype(float)
        y = np.round(told.loudness * 100)
        n = np.bincount(self.party[there], minlength=self.count)
        sw, sx, sy, sxx, sxy = (self.sums(one, there) for one in (w, w * x, w * y, w * x * x, w * x * y))
        spread = sw * sxx - sx * sx
        slope = (sw * sxy - sx * sy) / np.where(spread > 0, spread, 1) * 12
        return sy / np.maximum(sw, 1) / 100, slope, np.where(spread > 0, n, 0)

    def outlook(self) -> Floats:
        """Of each call: the chance that it ends badly, as the customer's running score has it; NaN: none is told."""
        told = self.told
        chance = np.full(len(told.call_id), np.nan)
        for at in np.flatnonzero(told.customer & told.running[told.call] & (told.position >= EARLY)).tolist():
            chance[told.call[at]] = 1 / (1 + math.exp(6 * (told.party_score[at] + 0.25)))
        return chance

    def table(self) -> pa.Table:
        """Rows of `call_progress`, one a party that was heard."""
        told = self.told
        utterances = np.bincount(self.party, minlength=self.count)
        row = np.flatnonzero(utterances)
        call, customer = row // 2, row % 2
        n_scored, score = self.sums(told.has_score), self.sums(told.score, told.has_score)
        label = [self.sums(told.has_score & one) for one in _labels(told.score)]
        quarters, there = self.quarters(self.party, self.count)
        quarters, there = quarters[row], there[row]
        firsts, lasts = there.argmax(1), 3 - there[:, ::-1].argmax(1)
        spoke = np.arange(len(row))
        change = quarters[spoke, lasts] - quarters[spoke, firsts]
        judged = told.emotion >= 0
        felt = np.bincount(
            (self.party * len(EMOTIONS) + told.emotion)[judged], told.length[judged], self.count * len(EMOTIONS)
        ).reshape(-1, len(EMOTIONS))[row]
        responses, response = self.responses()
        apart = ~told.mono[call]
        other = row ^ 1
        loudness, trend, measured = self.loudness()
        n_call, of_call = n_scored.reshape(-1, 2).sum(1), score.reshape(-1, 2).sum(1)
        silences = [self.silences[one] for one in call.tolist()]
        lengths = [[end - start for start, end in one] for one in silences]
        outlook = self.outlook()[call]
        return pa.table(
            {
                "tenant": [told.tenant[one] for one in call.tolist()],
                "pipeline_version": [told.version] * len(row),
                "started_at": moments(told.started[call]),
                "call_id": [told.call_id[one] for one in call.tolist()],
                "role": np.where(customer, "customer", "agent"),
                "speaker": np.where(
                    apart, np.where(customer, "customer", "agent"), np.where(customer, "speaker-2", "speaker-1")
                ),
                "queue": [told.queue[one] for one in call.tolist()],
                "agent": [told.agent[one] for one in call.tolist()],
                "at_ms": pa.array(told.duration[call], pa.uint32()),
                "final": ~told.running[call],
                "utterances": pa.array(utterances[row], pa.uint32()),
                "words": pa.array(self.sums(told.words)[row].astype(np.uint32)),
                "talk_ms": pa.array(self.talk[row].astype(np.uint32)),
                "talk_share": pa.array(self.talk_share[row], pa.float32()),
                "words_per_minute": pa.array(self.sums(told.words)[row] * 60_000 / self.talk[row], pa.float32()),
                "score": nullable((score / np.maximum(n_scored, 1))[row].astype(np.float32), n_scored[row] > 0),
                **{
                    name: pa.array(one[row].astype(np.uint32))
                    for name, one in zip(("negative", "neutral", "positive"), label, strict=True)
                },
                "quarters": lists(np.full(len(row), 4), nullable(quarters.ravel().astype(np.float32), there.ravel())),
                "change": nullable(change.astype(np.float32), there.sum(1) > 1),
                "emotion_ms": maps(
                    (felt > 0).sum(1),
                    pa.array(np.tile(EMOTIONS, len(row))[(felt > 0).ravel()]),
                    felt[felt > 0].astype(np.uint32),
                ),
                "longest_monologue_ms": pa.array(self.monologues()[row], pa.uint32()),
                "turns": pa.array(np.bincount(self.party[self.takes_floor], minlength=self.count)[row], pa.uint32()),
                "responses": pa.array(responses[row], pa.uint32()),
                "response_ms": nullable(response[row].astype(np.uint32), responses[row] > 0),
                "interruptions": nullable(self.interruptions[row].astype(np.uint32), apart),
                "interrupted": nullable(self.interruptions[other].astype(np.uint32), apart),
                "overtalk_ms": nullable(self.sums(self.overtalk)[row].astype(np.uint32), apart),
                "loudness_lufs": nullable(loudness[row].astype(np.float32), measured[row] > 0),
                "loudness_trend": nullable(trend[row].astype(np.float32), measured[row] >= TREND_FROM),
                "call_score": nullable((of_call / np.maximum(n_call, 1))[call].astype(np.float32), n_call[call] > 0),
                "silences": pa.array([len(one) for one in lengths], pa.uint32()),
                "silence_ms": pa.array([sum(one) for one in lengths], pa.uint32()),
                "longest_silence_ms": pa.array([max(one, default=0) for one in lengths], pa.uint32()),
                "silence_now_ms": pa.array(np.maximum(self.last_gap[call], 0), pa.uint32()),
                "dead_air": pa.array(
                    [[{"start_ms": start, "end_ms": end} for start, end in one] for one in silences],
                    pa.list_(pa.struct([("start_ms", pa.uint32()), ("end_ms", pa.uint32())])),
                ),
                "outlook": nullable(np.nan_to_num(outlook).astype(np.float32), ~np.isnan(outlook)),
                "outlook_model": np.where(np.isnan(outlook), "", OUTLOOK_MODEL),
                "topic": [told.source] * len(row),
                "partition": pa.array(told.number[call] % DEFAULT_PARTITIONS, pa.uint32()),
                "offset": pa.array(told.number[call] * 1_000 + 990, pa.uint64()),
            }
        )


def _labels(score: Floats) -> tuple[Bools, Bools, Bools]:
    """Negative, neutral, positive: the packaged sentiment model's own thresholds."""
    negative, positive = score < -0.26, score > 0.34
    return negative, ~negative & ~positive, positive


# --- rules ------------------------------------------------------------------------------------------------------------

_RULES: Final = {
    "angry-customer": ("warning", "The customer is getting angry: the running score fell to {score:.2f}"),
    "cancellation": ("warning", "The customer speaks of leaving"),
    "legal-threat": ("critical", "The customer threatens with the law"),
    RIVAL_RULE: ("", ""),
}
"""Rule, which is the category, too; severity (empty: no alert) and message. The first three as in the starter set."""


def _found(told: Told) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Alerts: the first time a customer's mood falls, and each threat to leave or to sue; and categories."""
    low = told.customer & (told.party_score < -0.45) & (told.position > 12)
    _, first = np.unique(told.call[low], return_index=True)
    rules = list(_RULES)
    spots = [(int(spot), rules[0]) for spot in np.flatnonzero(low)[first]]
    spots += [(int(spot), rules[int(told.alarm[spot])]) for spot in np.flatnonzero(told.alarm)]
    spots += [(int(spot), RIVAL_RULE) for spot in np.flatnonzero(told.rival)]
    alerts, categories, known = [], [], set()
    for spot, rule in sorted(spots):
        at = int(told.call[spot])
        end = int(told.start[spot] + told.length[spot])
        severity, message = _RULES[rule]
        if severity and rule == rules[0] and told.party_score[spot] < -0.5:
            severity = "critical"
        row = {
            **_call(told, at),
            "rule": rule,
            "rules_version": RULES_VERSION,
            "category": rule,
            "at_ms": end,
            "utterances": [{"channel": int(not told.mono[at]), "start_ms": int(told.start[spot])}],
            **_place(told, at, int(told.position[spot])),
        }
        if severity:
            alerts.append(
                row
                | {
                    "at": int(told.started[at]) + end + 900,
                    "severity": severity,
                    "role": "customer",
                    "text": message.format(score=told.party_score[spot]),
                }
            )
        if (at, rule) not in known:
            known.add((at, rule))
            categories.append(row | {"started_at": int(told.started[at])})
    return alerts, categories


# --- insights and score cards -----------------------------------------------------------------------------------------


def _read(told: Told, figures: Figures, at: int, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of `insights` and `evaluations` for a call that has ended."""
    first, behind = np.searchsorted(told.call, (at, at + 1)).tolist()
    spots = [spot for spot in range(first, behind) if told.text[spot]]
    customers = [spot for spot in spots if told.customer[spot]]
    agents = [spot for spot in spots if not told.customer[spot]]
    state = "ok"
    if sum(int(told.words[spot]) for spot in spots) < 20:
        state = "too_short"
    elif told.german[at]:
        state = "unsupported_language"
    elif not customers or not agents:
        state = "no_customer_speech" if not customers else "no_agent_speech"
    duration, started = int(told.duration[at]), int(told.started[at])
    both = {
        **_call(told, at),
        "started_at": started,
        "ended_at": started + duration,
        "duration_ms": duration,
        "state": state,
        "language": "de" if told.german[at] else "en",
    }
    found = _Course(told, figures, at, customers, agents, rng) if state == "ok" else None
    return {**both, **_insights(told, found, spots, state), **_place(told, at, 991)}, {
        **both,
        **_evaluation(found, rng),
        **_place(told, at, 992),
    }


class _Course:
    """How a call went, for who has understood its words: drawn by its mood."""

    def __init__(
        self,
        told: Told,
        figures: Figures,
        at: int,
        customers: list[int],
        agents: list[int],
        rng: np.random.Generator,
    ) -> None:
        self.told, self.at, self.customers, self.agents = told, at, customers, agents
        queue = told.queue[at]
        topics = TOPICS[queue]
        likely = np.array([1 / (place + 1) for place in range(len(topics))])
        chosen = rng.choice(len(topics), 2, replace=False, p=likely / likely.sum())
        self.topics = [topics[place] for place in chosen[: 1 + (rng.random() < 0.3)]]
        last = [told.score[spot] for spot in customers[-max(len(customers) // 3, 1) :] if told.has_score[spot]]
        mood = float(np.mean(last)) if last else 0.0
        settled = mood + rng.normal(0, 0.15) > -0.05
        self.resolved = (
            "no" if STUCK_TOPIC in self.topics else "unknown" if rng.random() < 0.15 else "yes" if settled else "no"
        )
        worst = sorted((spot for spot in customers if told.score[spot] < -0.5), key=lambda spot: told.score[spot])[:3]
        self.upset = len(worst) > 1
        sorts = (ISSUES[queue], "service", "repeated_contact")
        self.issues = [(sorts[int(rng.choice(3, p=(0.7, 0.2, 0.1)))], spot) for spot in sorted(worst)]
        rivals = [spot for spot in customers if told.rival[spot]]
        self.objections = [("competitor", spot) for spot in rivals]
        if queue == "sales" and rng.random() < 0.35:
            self.objections.append((str(rng.choice(OBJECTIONS)), int(rng.choice(customers))))
        agent = 2 * at
        self.polite = told.agent[at] != FORGETFUL_AGENT and rng.random() > 0.12
        self.kind = not self.upset or rng.random() < 0.6
        self.next_step = self.resolved != "no" or rng.random() < 0.6
        wrong = {
            "talk_share": figures.talk_share[agent] >= 0.7 and figures.talk[agent : agent + 2].sum() >= 60_000,
            "interruptions": not told.mono[at] and figures.interruptions[agent] >= 2 and rng.random() < 0.2,
            "dead_air": any(end - start >= 10_000 for start, end in figures.silences[at]) and rng.random() < 0.5,
            "no_empathy": not self.kind,
            "no_closing_question": not self.polite,
            "no_next_step": not self.next_step,
        }
        self.coaching = [
            (name, agents[-1] if "no_" in name else agents[len(agents) // 2]) for name, is_so in wrong.items() if is_so
        ]
        self.promises = [agents[len(agents) * 2 // 3]] if self.next_step and rng.random() < 0.4 else []

    def evidence(self, spot: int) -> dict[str, Any]:
        """An utterance, as findings name it."""
        told, at = self.told, self.at
        who = "customer" if told.customer[spot] else "agent"
        channel = int(told.customer[spot] and not told.mono[at])
        start = int(told.start[spot])
        return {
            "identity": f"{told.call_id[at]}/{channel}/{start}",
            "channel": channel,
            "start_ms": start,
            "end_ms": start + int(told.length[spot]),
            "speaker": f"speaker-{1 + told.customer[spot]}" if told.mono[at] else who,
            "role": who,
            "text": told.text[spot],
        }

    def quotes(self, named: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
        """Findings whose text is what was said."""
        return [{"name": name, "text": self.told.text[spot], "evidence": [self.evidence(spot)]} for name, spot in named]


def _insights(told: Told, found: _Course | None, spots: list[int], state: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "engine": "extractive",
        "model": told.source,
        "business": "b2c",
        "glossary": told.source,
        "utterances": len(spots),
        "unread": 0,
        "summary": [],
        "reason": "",
        "outcome": "",
        "resolved": "unknown",
        "topics": [],
        "similarities": [],
        **dict.fromkeys(("issues", "objections", "coaching"), ()),
        **dict.fromkeys(("action_items", "questions", "uncited"), 0),
        "findings": json.dumps({"engine": "extractive", "state": state}),
    }
    if found is None:
        return row
    reason, outcome = found.customers[0], found.agents[-1]
    statements = {
        name: {"text": told.text[spot], "evidence": [found.evidence(spot)]}
        for name, spot in (("reason", reason), ("outcome", outcome))
    }
    return row | {
        "summary": [told.text[reason], told.text[outcome]],
        "reason": told.text[reason],
        "outcome": told.text[outcome],
        "resolved": found.resolved,
        "topics": found.topics,
        "similarities": [0.7, 0.6][: len(found.topics)],
        "issues": [name for name, _ in found.issues],
        "objections": [name for name, _ in found.objections],
        "coaching": [name for name, _ in found.coaching],
        "action_items": len(found.promises),
        "findings": json.dumps(
            {
                "engine": "extractive",
                "state": state,
                **statements,
                "issues": found.quotes(found.issues),
                "objections": found.quotes(found.objections),
                "action_items": [
                    {"text": told.text[spot], "owner": "agent", "evidence": [found.evidence(spot)]}
                    for spot in found.promises
                ],
                "coaching": [
                    {"name": name, "text": ADVICE[name], "evidence": [found.evidence(spot)]}
                    for name, spot in found.coaching
                ],
            }
        ),
    }


def _evaluation(found: _Course | None, rng: np.random.Generator) -> dict[str, Any]:
    earned: dict[str, list[float | None]] = {name: [None] * len(items) for name, (_, items) in SECTIONS.items()}
    if found is not None:
        greets, offers, asks, checks, waits = (float(yes) for yes in rng.random(5) < (0.93, 0.8, 0.85, 0.6, 0.8))
        earned = {
            "greeting": [greets, greets and float(rng.random() < 0.8), offers],
            "verification": [asks, checks],
            # Whom nothing upsets needs no comfort: that is not judged.
            "empathy": [float(found.kind) if found.upset else None, waits],
            "resolution": [{"yes": 1.0, "no": 0.0}.get(found.resolved), float(found.next_step)],
            "closing": [float(found.polite), float(found.polite)],
        }
    sections: list[dict[str, Any]] = []
    for name, (weight, items) in SECTIONS.items():
        judged = [points for points in earned[name] if points is not None]
        sections.append(
            {
                "name": name,
                "weight": weight,
                "score": 100 * sum(judged) / len(judged) if judged else None,
                "items": [
                    {
                        "name": item,
                        "points": 1,
                        "earned": points,
                        "why": "cannot be judged" if points is None else "found" if points else "not found",
                        "evidence": [],
                    }
                    for item, points in zip(items, earned[name], strict=True)
                ],
            }
        )
    counted = [one for one in sections if one["score"] is not None]
    weight = sum(one["weight"] for one in counted)
    return {
        "form": FORM,
        "form_version": FORM_VERSION,
        "why": "" if found else "the call cannot be read",
        "score": sum(one["weight"] * one["score"] for one in counted) / weight if counted else None,
        "judged": weight / sum(weight for weight, _ in SECTIONS.values()),
        "sections.name": [one["name"] for one in sections],
        "sections.weight": [one["weight"] for one in sections],
        "sections.score": [one["score"] for one in sections],
        "items": json.dumps({"sections": sections}),
    }
