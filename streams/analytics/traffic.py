"""Generated calls, as the rows that the sink would have written for them: seeded, in numpy, hundreds of calls at once.

Nothing here is heard or scored: a call has a mood that drifts, each utterance a feeling drawn round it, and words,
voice and scores follow from that by the formulas of the real stages (fusion, labels, finer names, the running score).
What metrics, rules, insights and forms find in the calls is made in findings.py.

A changer must know: the facts named below are planted, and tests look for them in every dashboard. The same `Traffic`
gives the same rows, in whatever order and on whatever machine: each block of calls has random numbers of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from processors.emotion_names import COMPLEX, DOMINANT, GRANULAR, PAIRS, SECONDARY_SHARE
from processors.sentiment import CLEAR_VOICE, CLEAR_WORDS, HALF_LIFE_WORDS, NO_LANGUAGE, VALENCE
from schemas.topics import DEFAULT_PARTITIONS, STAGES
from streams.analytics import findings, texts
from streams.analytics.arrow import (
    TIME,
    Bools,
    Floats,
    Ints,
    begins_of,
    constant,
    lists,
    maps,
    moments,
    named,
    nullable,
    offsets,
    ranges,
    small,
    unix_ms,
)

SOURCE: Final = "generated"
"""`calls.source` of every generated call: by it they are told from real ones."""

TENANTS: Final[dict[str, tuple[str, ...]]] = {
    "acme": ("billing", "support", "sales"),
    "globex": ("support", "claims"),
    "o'neill & sons": ("orders", "returns"),
}
"""Queues by tenant. The quote is there on purpose: names are data."""
TENANT_SHARES: Final = (0.5, 0.3, 0.2)
VERSION: Final = "v1"

SOUR_TENANT: Final = "acme"
SOUR_QUEUE: Final = "billing"
SOUR_HOURS: Final = 8
SOUR_TERMS: Final = ("overcharged", "duplicate")
"""Words that nobody says elsewhere or at another time."""
BEST_AGENT: Final = "agent-07"
"""Of SOUR_TENANT; the customers of this one are happier than those of all others."""
WORSE_VERSION: Final = "v2"
"""A candidate that ran beside the other on every TENTH call: flatter scores, less sure, slower."""
TENTH: Final = 10
LAG_HOURS: Final = 1
RISE_DAYS: Final = 7
RISE: Final = (0.14, 0.03)
"""Share of calls in which the customer names a competitor: in the last RISE_DAYS, and before."""

LIVE_CALLS: Final = 10
"""Calls that are running at `until`, at least; the first two of them go wrong."""
RECENT_CALLS: Final = 30
"""Calls of the last hour before `until`, whatever the time of day."""
BLOCK_CALLS: Final = 500
"""Calls made at once: about 50,000 utterances, 200 MB while they are made."""

MONO: Final = 0.04
GERMAN: Final = 0.02
NO_WORDS: Final = 0.02
LATENCY_MS: Final = {VERSION: 640, WORSE_VERSION: 1_150}
"""Medians."""
THRESHOLDS: Final = (-0.26, 0.34)
"""Below and above: negative and positive. The packaged sentiment model's own."""
LABELS: Final = ("neutral", "happiness", "sadness", "anger", "fear", "surprise")
MEMBERS: Final = {"minilm": 0.05, "vader": 0.2, "textblob": 0.3}
"""How far each of the text models strays from what they say together."""
SENTIMENTS: Final = ("negative", "neutral", "positive")
ROLES: Final = ("agent", "customer", "unknown")

HOURS: Final = np.array([.03, .02, .02, .02, .03, .06, .2, .5, 1.1, 1.6, 1.9, 1.7, 1.2, 1.3, 1.7, 1.6, 1.3, 1., .7, .5,
                         .3, .2, .1, .05])  # fmt: skip
"""Calls by hour of the day, UTC. Judgement: offices that are open from 8 to 18, with two peaks."""
WEEKDAYS: Final = np.array([1.3, 1.1, 1.05, 1.0, 0.95, 0.35, 0.15])
"""From Monday."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What to make: `calls` calls within `days` days before `until` (UTC)."""

    until: datetime
    days: int
    calls: int
    seed: int

    @property
    def since(self) -> datetime:
        """The first call starts after it."""
        return self.until - timedelta(days=self.days)

    @property
    def call_rows(self) -> int:
        """Rows of `calls`: every call once, and those of WORSE_VERSION again."""
        return self.calls + (self.calls + TENTH // 2 - 1) // TENTH

    @property
    def agents(self) -> int:
        """Judgement: 25 calls a working day each, and at least 30 of them, so that a ranking has something to rank."""
        return max(30, round(self.calls / (self.days * 5 / 7) / 25))


def _weekday_before(until: datetime, days: int, hour: int) -> datetime:
    day = until.astimezone(UTC).replace(hour=hour, minute=0, second=0, microsecond=0) - timedelta(days=days)
    while day.weekday() > 4:
        day -= timedelta(days=1)
    return day


def sour_from(until: datetime) -> datetime:
    """When SOUR_QUEUE turns sour, for SOUR_HOURS: 10:00 of the last weekday at least two days before `until`."""
    return _weekday_before(until, 2, 10)


def lag_from(until: datetime) -> datetime:
    """When scores come late and ASR does with less effort, for LAG_HOURS: 14:00 of a weekday of the week before."""
    return _weekday_before(until, 9, 14)


def rises_from(until: datetime) -> datetime:
    """Since when more customers name a competitor."""
    return until - timedelta(days=RISE_DAYS)


@dataclass(frozen=True, slots=True)
class Plan:
    """All calls, ordered by their start; one value a call. `started` in Unix milliseconds."""

    started: Ints
    tenant: Ints
    queue: Ints
    agent: Ints
    utterances: Ints
    mood: Floats
    """−1 to 1, about, of the customer in the middle of the call."""
    drift: Floats
    """How much better it ends than it begins."""
    sour: Bools
    mono: Bools
    german: Bools


QUEUES: Final = tuple(dict.fromkeys(queue for queues in TENANTS.values() for queue in queues))


def plan(traffic: Traffic) -> Plan:
    """Who calls when, how long, and in what mood."""
    rng = np.random.default_rng([traffic.seed, 0])
    until, since = unix_ms(traffic.until), unix_ms(traffic.since)
    count = traffic.calls
    live = min(LIVE_CALLS, count)
    recent = min(RECENT_CALLS, count - live)

    hour = np.arange(since // 3_600_000, until // 3_600_000 + 1)
    open_ms = np.minimum((hour + 1) * 3_600_000, until) - np.maximum(hour * 3_600_000, since)
    weights = HOURS[hour % 24] * WEEKDAYS[(hour // 24 + 3) % 7] * open_ms  # 1970 began with a Thursday
    cell = rng.choice(len(hour), count - live - recent, p=weights / weights.sum())
    usual = np.maximum(hour[cell] * 3_600_000, since) + (rng.random(len(cell)) * open_ms[cell]).astype(np.int64)
    # The last calls are those that are running, and the first two of them go wrong.
    late = until - rng.integers(8 * 60_000, 55 * 60_000, recent)
    running = until - rng.integers(60_000, 5 * 60_000, live)
    started = np.concatenate([usual, late, running])
    is_live = np.arange(count) >= count - live
    goes_wrong = is_live & (np.arange(count) < count - live + 2)

    tenant = rng.choice(len(TENANTS), count, p=TENANT_SHARES)
    names = list(TENANTS)
    home = np.array([[QUEUES.index(queues[at % len(queues)]) for at in range(6)] for queues in TENANTS.values()])
    queue = home[tenant, rng.choice(6, count, p=(0.3, 0.25, 0.15, 0.1, 0.1, 0.1))]
    sour_start = unix_ms(sour_from(traffic.until))
    in_window = (started >= sour_start) & (started < sour_start + SOUR_HOURS * 3_600_000)
    # Half of that day's callers have the one problem.
    rush = in_window & (rng.random(count) < 0.5)
    tenant[rush], queue[rush] = names.index(SOUR_TENANT), QUEUES.index(SOUR_QUEUE)
    sour = in_window & (tenant == names.index(SOUR_TENANT)) & (queue == QUEUES.index(SOUR_QUEUE))

    first, last = _agents_of(traffic.agents)
    agent = first[tenant] + (rng.random(count) * (last - first)[tenant]).astype(np.int64)
    skill = rng.normal(0, 0.05, traffic.agents)
    best = int(BEST_AGENT.removeprefix("agent-")) - 1
    skill[best] = 0.4
    busy = HOURS[started // 3_600_000 % 24]
    mood = 0.05 + skill[agent] - 0.06 * (busy - 1) + rng.normal(0, 0.27, count) - 0.75 * sour
    mood = np.where(goes_wrong, -0.7, mood)
    drift = np.where(goes_wrong, -0.5, rng.normal(0.15, 0.3, count) + 0.2 * (agent == best) - 0.15 * sour)

    # Median 82, mean 100; a call that is running has more to say than it will have said by now.
    said = np.clip(np.exp(rng.normal(np.log(82), 0.63, count)), 3, 600).astype(np.int64)
    made = Plan(
        started=started,
        tenant=tenant,
        queue=queue,
        agent=agent,
        utterances=np.where(is_live, 200, said),
        mood=mood,
        drift=drift,
        sour=sour,
        mono=(rng.random(count) < MONO) & ~is_live,
        german=(rng.random(count) < GERMAN) & (tenant == names.index("globex")) & ~is_live,
    )
    order = np.argsort(started, kind="stable")
    return Plan(**{name: getattr(made, name)[order] for name in Plan.__slots__})


def _agents_of(agents: int) -> tuple[Ints, Ints]:
    """First and behind-the-last agent of each tenant."""
    edges = np.round(np.cumsum((0, *TENANT_SHARES)) * agents).astype(np.int64)
    return edges[:-1], edges[1:]


Tables = dict[str, pa.Table]


def blocks(traffic: Traffic) -> Iterator[Tables]:
    """The rows, a block of calls of one version after the other, as one Arrow table for each table of the database.

    In the order in which to insert them: what is computed at the end of a call needs its utterances. A block may lack
    a table. What is found in calls beside their scores is told of VERSION only.
    """
    made = plan(traffic)
    for number, first in enumerate(range(0, traffic.calls, BLOCK_CALLS)):
        rng = np.random.default_rng([traffic.seed, 1 + number])
        yield from _Block(traffic, made, slice(first, first + BLOCK_CALLS), rng).tables()


# --- words -----------------------------------------------------------------------------------------------------------

_POOLS: Final[dict[str, Sequence[str]]] = {
    **{f"reason {queue}": phrases for queue, phrases in texts.REASONS.items()},
    "customer negative": texts.CUSTOMER_NEGATIVE,
    "customer neutral": texts.CUSTOMER_NEUTRAL,
    "customer positive": texts.CUSTOMER_POSITIVE,
    "agent negative": texts.AGENT_NEGATIVE,
    "agent neutral": texts.AGENT_NEUTRAL,
    "agent positive": texts.AGENT_POSITIVE,
    "opening": texts.AGENT_OPENING,
    "sour": texts.SOUR,
    "churn": texts.CHURN,
    "legal": texts.LEGAL,
    "german": texts.GERMAN,
    "rival": texts.RIVAL,
    **{f"redacted {kind}": texts.REDACTED_TEXTS[kind] for kind in texts.REDACTED},
}
_POOL: Final = {name: number for number, name in enumerate(_POOLS)}


@dataclass(frozen=True, slots=True)
class _Lexicon:
    """All phrases as numbers of words. A word is a row of `spelling`; a slot is a range of them."""

    words: pa.Array
    """Each spelling once."""
    word: Ints
    """Its place in `words`: what stands in a slot may stand elsewhere, too."""
    letters: NDArray[np.uint8]
    """All words one behind the other, each with a space before it."""
    spelling: Ints
    """Where the word begins in `letters`, its space left out."""
    length: Ints
    """Its bytes, without the space."""
    phrase: Ints
    """Where a phrase begins in `tokens`."""
    phrase_words: Ints
    tokens: Ints
    choices: Ints
    """How many words a token may become: itself and those behind it."""
    pool: Ints
    """Where a pool begins among the phrases."""
    pool_phrases: Ints


@cache
def _lexicon() -> _Lexicon:
    words: list[str] = []
    known: dict[str, tuple[int, int]] = {}

    def number(token: str) -> tuple[int, int]:
        if token not in known:
            head, _, rest = token.partition("{")
            slot, _, tail = rest.partition("}")
            spelled = [f"{head}{value}{tail}" for value in texts.SLOTS[slot]] if slot else [token]
            known[token] = len(words), len(spelled)
            words.extend(spelled)
        return known[token]

    phrases = [phrase.split() for pool in _POOLS.values() for phrase in pool]
    tokens = np.array([number(token) for phrase in phrases for token in phrase])
    sizes = np.array([len(phrase) for phrase in phrases])
    pools = np.array([len(pool) for pool in _POOLS.values()])
    encoded = [f" {word}".encode() for word in words]
    unique = {word: place for place, word in enumerate(dict.fromkeys(words))}
    lengths = np.array([len(word) for word in encoded])
    return _Lexicon(
        words=pa.array(unique),
        word=np.array([unique[word] for word in words]),
        letters=np.frombuffer(b"".join(encoded), np.uint8),
        spelling=begins_of(lengths) + 1,
        length=lengths - 1,
        phrase=begins_of(sizes),
        phrase_words=sizes,
        tokens=tokens[:, 0],
        choices=tokens[:, 1],
        pool=begins_of(pools),
        pool_phrases=pools,
    )


# --- a block ---------------------------------------------------------------------------------------------------------


class _Block:
    """The calls of one block. Arrays are one value an utterance, all calls' one behind the other, or `calls` long."""

    def __init__(self, traffic: Traffic, made: Plan, of: slice, rng: np.random.Generator) -> None:
        self.traffic, self.rng = traffic, rng
        self.until = unix_ms(traffic.until)
        self.plan = Plan(**{name: getattr(made, name)[of] for name in Plan.__slots__})
        self.first = of.start
        self.count = len(self.plan.started)
        self.number = np.arange(self.first, self.first + self.count)
        self.ids = pa.array([f"{SOURCE}-{traffic.seed}-{number:07}" for number in self.number])
        self.token: Ints
        """Words of the block's lexicon, of all utterances."""
        self.converse()

    def tables(self) -> Iterator[Tables]:
        """See `blocks`."""
        common = self.heard()
        usual = self.scored(VERSION)
        yield {
            "utterances_heard": pa.table({**common, **usual.columns}),
            "corrections": self.corrections(VERSION, np.arange(self.count)),
            **findings.tables(self.told(common, usual), np.random.default_rng([self.traffic.seed, 1 + self.first, 2])),
            "dead_letters": self.dead_letters(),
            "calls": self.calls(VERSION, np.arange(self.count)),
        }
        if len(also := np.flatnonzero(self.number % TENTH == TENTH // 2)):
            rows = pa.array(np.flatnonzero(np.isin(self.call, also)))
            yield {
                "utterances_heard": pa.table({**common, **self.scored(WORSE_VERSION).columns}).take(rows),
                "corrections": self.corrections(WORSE_VERSION, also),
                "calls": self.calls(WORSE_VERSION, also),
            }

    # What is said

    def converse(self) -> None:
        """Turns, feelings, phrases, words and times."""
        plan, rng = self.plan, self.rng
        said = plan.utterances
        self.call = call = np.repeat(np.arange(self.count), said)
        position = np.arange(len(call)) - np.repeat(begins_of(said), said)
        self.customer = self._turns(call, position)
        progress = position / np.maximum(said[call] - 1, 1)
        mood = (plan.mood + rng.normal(0, 0.02, self.count))[call] + plan.drift[call] * (progress - 0.5)
        feeling = np.where(
            self.customer, mood + rng.normal(0, 0.26, len(call)), 0.12 + 0.25 * mood + rng.normal(0, 0.18, len(call))
        )
        self.text_feeling = np.clip(1.35 * (feeling + rng.normal(0, 0.1, len(call))), -1, 1)
        self.voice_feeling = np.clip(1.3 * (feeling + rng.normal(0, 0.22, len(call))), -1, 1)
        # Who is polite and furious, or swears and laughs: words and voice say different things.
        odd = rng.random(len(call)) < 0.07
        self.voice_feeling[odd] *= -1

        words, pools = self._choose_words(call, position, said[call])
        self.alarm = np.select([pools == _POOL["churn"], pools == _POOL["legal"]], [1, 2], 0)
        self._speak(call, position, words)

        end = plan.started[call] + self.start + self.length
        # What is still to be said, or is not scored yet.
        keep = end < self.until - 1_500
        for name in ("call", "customer", "text_feeling", "voice_feeling", "alarm", "start", "length", "size"):
            setattr(self, name, getattr(self, name)[keep])
        self.position = position[keep]
        self.token = self.token[np.repeat(keep, words)]
        self.said = np.bincount(self.call, minlength=self.count)
        self.running = self.said < said
        self.words = self.said_words()
        self._plant()

    def _turns(self, call: Ints, position: Ints) -> Bools:
        """The agent begins; who speaks has more to say in four cases of ten."""
        change = (self.rng.random(len(call)) < 0.62) & (position > 0)
        turns = np.cumsum(change)
        at_start = np.maximum.accumulate(np.where(position == 0, turns, 0))
        return np.asarray((turns - at_start) % 2 == 1)

    def _choose_words(self, call: Ints, position: Ints, said: Ints) -> tuple[Ints, Ints]:
        """Sets `token` and `size`; returns the words of each utterance and the pool of its first phrase."""
        rng, lexicon, plan = self.rng, _lexicon(), self.plan
        rows = len(call)
        label = _label(self.text_feeling)
        pool = np.array([_POOL["agent negative"], _POOL["customer negative"]])[self.customer.astype(int)] + label
        reason = plan.queue[call] + _POOL[f"reason {QUEUES[0]}"]
        about = self.customer & (label == 1) & (rng.random(rows) < np.where(position < 6, 0.8, 0.25))
        complaint = self.customer & (label == 0) & plan.sour[call] & (rng.random(rows) < 0.6)
        bad = self.customer & (self.text_feeling < -0.55)
        chance = rng.random(rows)
        pool = np.select(
            [
                plan.german[call],
                position == 0,
                complaint,
                bad & (chance < 0.012),
                bad & (chance < 0.015),
                about,
            ],
            [_POOL["german"], _POOL["opening"], _POOL["sour"], _POOL["churn"], _POOL["legal"], reason],
            pool,
        )
        phrases = np.where(position == 0, 1, rng.choice((1, 2, 3), rows, p=(0.5, 0.35, 0.15)))
        # Behind the first, people go on in the same vein.
        pools = np.repeat(pool, phrases)
        behind = np.arange(len(pools)) != np.repeat(begins_of(phrases), phrases)
        vein = np.where(self.customer, _POOL["customer negative"], _POOL["agent negative"]) + label
        vein = np.where(plan.german[call], pool, vein)
        pools = np.where(behind, np.repeat(vein, phrases), pools)
        # Other phrases, too: a step that leads to the first one again neither once nor twice.
        choices = lexicon.pool_phrases[pools]
        step = np.arange(len(pools)) - np.repeat(begins_of(phrases), phrases)
        step *= 1 + (np.repeat(rng.random(rows), phrases) * ((choices - 1) // 2)).astype(np.int64)
        phrase = (
            lexicon.pool[pools] + ((np.repeat(rng.random(rows), phrases) * choices).astype(np.int64) + step) % choices
        )
        sizes = lexicon.phrase_words[phrase]
        at = ranges(lexicon.phrase[phrase], sizes)
        choice = lexicon.choices[at]
        self.token = lexicon.tokens[at] + (rng.random(len(at)) * choice).astype(np.int64)
        self.size = np.add.reduceat(sizes, begins_of(phrases))
        return self.size, pool

    def _speak(self, call: Ints, position: Ints, words: Ints) -> None:
        """Sets `start` and `length`, milliseconds of the call."""
        rng, rows = self.rng, len(call)
        rate = np.clip(rng.normal(2.7, 0.45, rows) + 0.35 * (np.abs(self.voice_feeling) > 0.6), 1.4, 4.5)
        self.length = np.maximum(words / rate * 1_000, 420).astype(np.int64) + rng.integers(150, 400, rows)
        before = np.concatenate([[0], self.length[:-1]])
        changes = np.concatenate([[True], self.customer[1:] != self.customer[:-1]])
        gap = np.where(changes, rng.normal(350, 550, rows), 400 + rng.exponential(700, rows))
        # Two may speak at a time, on two channels: but never so long that one party speaks twice at once.
        most = np.where(self.plan.mono[call] | ~changes, 0, -0.45 * np.minimum(before, self.length))
        gap = np.maximum(gap, most)
        hold = rng.random(rows) < 0.02
        gap = np.where(hold, rng.uniform(5_000, 40_000, rows), gap).astype(np.int64)
        gap[position == 0] = rng.integers(600, 1_800, int((position == 0).sum()))
        step = np.where(position == 0, 0, before) + gap
        total = np.cumsum(step)
        at_start = np.repeat((total - step)[position == 0], self.plan.utterances)
        self.start = total - at_start

    def said_words(self) -> Ints:
        """Words of each utterance; none were recognised in some."""
        self.no_words = (self.rng.random(len(self.call)) < NO_WORDS) & (self.position > 0)
        return np.where(self.no_words, 0, self.size)

    def _plant(self) -> None:
        """Puts phrases in the place of as many words of customers: the calls are what they were but for these words.

        Sets `rival`, whether an utterance names a competitor, and `redacted`, of which kind something was taken out of
        it: place in texts.REDACTED, −1: nothing.
        """
        rng, plan, lexicon = np.random.default_rng([self.traffic.seed, 1 + self.first, 1]), self.plan, _lexicon()
        rising = plan.started >= unix_ms(rises_from(self.traffic.until))
        names_rival = rng.random(self.count) < np.where(rising, *RISE)
        kinds = list(texts.REDACTED)
        given = rng.random((self.count, len(kinds))) < [
            [texts.REDACTED[kind].get(queue, 0) for kind in kinds] for queue in np.array(QUEUES)[plan.queue]
        ]
        self.rival, self.redacted = np.zeros(len(self.call), bool), np.full(len(self.call), -1)
        neutral = (_label(self.text_feeling) == 1) & self.customer & ~self.no_words & (self.position > 3)
        free = neutral & ~plan.german[self.call] & (self.alarm == 0)
        tokens, first = begins_of(self.size), np.searchsorted(self.call, np.arange(self.count + 1))
        for at in np.flatnonzero(names_rival | given.any(1)).tolist():
            for pool, kind in (("rival", None), *((f"redacted {kind}", kind) for kind in kinds)):
                if not (names_rival[at] if kind is None else given[at, kinds.index(kind)]):
                    continue
                phrases = lexicon.pool[_POOL[pool]] + np.arange(lexicon.pool_phrases[_POOL[pool]])
                sizes = lexicon.phrase_words[phrases]
                spots = first[at] + np.flatnonzero(
                    free[first[at] : first[at + 1]] & np.isin(self.size[first[at] : first[at + 1]], sizes)
                )
                if not len(spots):
                    continue
                spot = rng.choice(spots)
                phrase = rng.choice(phrases[sizes == self.size[spot]])
                words = lexicon.phrase[phrase] + np.arange(self.size[spot])
                choice = (rng.random(len(words)) * lexicon.choices[words]).astype(np.int64)
                self.token[tokens[spot] + np.arange(len(words))] = lexicon.tokens[words] + choice
                free[spot] = False
                if kind is None:
                    self.rival[spot] = True
                else:
                    self.redacted[spot] = kinds.index(kind)

    def told(self, common: dict[str, pa.Array], scored: "_Scored") -> findings.Told:
        """What findings are made of."""
        plan = self.plan
        return findings.Told(
            version=VERSION,
            source=SOURCE,
            call_id=self.ids.to_pylist(),
            tenant=[list(TENANTS)[one] for one in plan.tenant],
            queue=[QUEUES[one] for one in plan.queue],
            agent=[self.agent_names[one] for one in plan.agent],
            number=self.number,
            started=plan.started,
            duration=self.duration,
            running=self.running,
            mono=plan.mono,
            german=plan.german,
            call=self.call,
            customer=self.customer,
            position=self.position,
            start=self.start,
            length=self.length,
            words=self.words,
            text=common["text"].to_pylist(),
            score=scored.score,
            has_score=scored.has_score,
            emotion=scored.emotion,
            loudness=scored.loudness,
            party_score=scored.party,
            alarm=self.alarm * ~self.no_words,
            rival=self.rival,
        )

    # Rows

    def heard(self) -> dict[str, pa.Array]:
        """The columns of `utterances_heard` that all versions share."""
        plan, rng, call = self.plan, self.rng, self.call
        rows = len(call)
        lexicon = _lexicon()
        spoken = self.token[np.repeat(~self.no_words, self.size)]
        started = plan.started[call]
        captured = started + self.start + self.length

        # The words' times: in proportion to their letters, with a short pause before each.
        letters = lexicon.length[spoken] + 1
        ends = np.cumsum(letters)
        begins = begins_of(self.words)
        base = np.concatenate([[0], ends])[begins]
        of = np.repeat(np.arange(rows), self.words)
        whole = np.maximum(np.concatenate([ends, ends[-1:]])[np.maximum(begins + self.words - 1, 0)] - base, 1)
        scale = (self.length - 100) / whole
        word_end = self.start[of] + 60 + ((ends - base[of]) * scale[of]).astype(np.int64)
        word_start = self.start[of] + 60 + ((ends - letters - base[of]) * scale[of]).astype(np.int64)

        # Text: the words' letters, each but the first with its space.
        first = np.zeros(len(spoken), bool)
        first[begins[self.words > 0]] = True
        sizes = lexicon.length[spoken] + ~first
        text = lexicon.letters[ranges(lexicon.spelling[spoken] - ~first, sizes)]
        size = np.bincount(of, weights=sizes, minlength=rows).astype(np.int64)

        mono = plan.mono[call]
        # In a mixed call a third voice is sometimes heard first, and turns out to be the customer's (`corrections`).
        third = mono & self.customer & (self.position < 9) & self.split[call]
        speaker = np.where(mono, 2 + self.customer + third, self.customer)
        known = ~mono | (self.position >= self.found[call])
        self.role = np.where(known, self.customer.astype(int), 2)
        return {
            "tenant": named(plan.tenant[call], list(TENANTS)),
            "call_id": named(call, self.ids),
            "call_started_at": moments(started),
            "channel": pa.array((self.customer & ~mono).astype(np.uint8)),
            "start_ms": pa.array(self.start, pa.uint32()),
            "end_ms": pa.array(self.start + self.length, pa.uint32()),
            "spoken_at": moments(started + self.start),
            "captured_at": moments(captured),
            "queue": named(plan.queue[call], QUEUES),
            "agent": named(plan.agent[call], self.agent_names),
            "speaker": named(speaker, ("agent", "customer", "speaker-1", "speaker-2", "speaker-3")),
            "role": named(self.role, ROLES),
            "role_confidence": nullable(np.full(rows, 0.91), known & mono),
            "speaker_confidence": pa.array(np.where(mono, np.round(rng.uniform(0.6, 0.98, rows), 4), 1.0)),
            "overlap_ms": pa.array(np.where(mono & (rng.random(rows) < 0.06), 240, 0), pa.uint32()),
            "cut": named((rng.random(rows) < 0.02).astype(int), ("pause", "max_length")),
            "text": pa.StringArray.from_buffers(rows, pa.py_buffer(offsets(size).astype(np.int32)), pa.py_buffer(text)),
            "redacted": maps(
                (self.redacted >= 0).astype(np.int64),
                named(self.redacted[self.redacted >= 0], list(texts.REDACTED)),
                np.ones(int((self.redacted >= 0).sum()), np.uint32),
            ),
            "words.text": lists(self.words, named(lexicon.word[spoken], lexicon.words)),
            "words.start_ms": lists(self.words, pa.array(word_start, pa.uint32())),
            "words.end_ms": lists(self.words, pa.array(word_end, pa.uint32())),
            "language": named(plan.german[call].astype(int), ("en", "de")),
        }

    @property
    def agent_names(self) -> list[str]:
        return [f"agent-{number:02}" for number in range(1, self.traffic.agents + 1)]

    @property
    def duration(self) -> Ints:
        """Milliseconds of each call; of one that goes on, so far."""
        last = np.zeros(self.count, np.int64)
        np.maximum.at(last, self.call, self.start + self.length)
        return np.where(self.running, self.until - self.plan.started, last + 1_200 + self.number % 2_000)

    @property
    def found(self) -> Ints:
        """The utterance of a mixed call from which on it is known who is the agent."""
        return 8 + self.number % 9

    @property
    def split(self) -> Bools:
        """Whether a mixed call has a third voice that turns out to be none."""
        return self.plan.mono & (self.number % 3 == 0)

    def scored(self, version: str) -> "_Scored":
        """What `version` makes of it."""
        rng, rows, call = self.rng, len(self.call), self.call
        worse = version == WORSE_VERSION
        text_feeling, voice_feeling = self.text_feeling, self.voice_feeling
        if worse:
            # It misses what is bad: flatter, too friendly, and with more noise.
            text_feeling = np.clip(0.55 * text_feeling + 0.15 + rng.normal(0, 0.22, rows), -1, 1)
            voice_feeling = np.clip(0.6 * voice_feeling + rng.normal(0, 0.2, rows), -1, 1)
        text = np.round(np.clip(text_feeling, -0.99, 0.99), 4)
        text_confidence = np.clip(0.42 + 0.5 * np.abs(text) + rng.normal(0, 0.08, rows) - 0.12 * worse, 0.34, 0.97)

        # Voice
        everyone = self.plan.tenant[call] == list(TENANTS).index("globex")
        short = self.length < 400
        has_voice = ((self.role == 1) | everyone) & ~short & ~self.no_words
        shares = _emotions(voice_feeling, rng)
        voice = np.round(shares @ np.array([VALENCE[label] for label in LABELS]), 4)
        certainty = np.maximum(0, 1 + (shares * np.log(np.maximum(shares, 1e-9))).sum(1) / np.log(len(LABELS)))
        share = np.where(has_voice, 0.3 * certainty, 0)
        strongest = shares.argmax(1)
        uncertain = shares.max(1) < 0.5

        has_text = ~self.no_words & ~self.plan.german[call]
        score = np.round((1 - share) * text + share * voice, 4)
        confidence = text_confidence * (1 - share * np.abs(text - voice) / 2)
        clear = (np.abs(voice) >= CLEAR_VOICE) & ~uncertain & has_voice & (text_confidence >= CLEAR_WORDS)
        disagree = clear & has_text & (np.sign(voice) == -(_label(text) - 1))
        running, party = self._running(np.where(has_text, score, 0), np.where(has_text, self.words, 0))

        captured = self.plan.started[call] + self.start + self.length
        lag_start = unix_ms(lag_from(self.traffic.until))
        late = (captured >= lag_start) & (captured < lag_start + LAG_HOURS * 3_600_000)
        latency = LATENCY_MS[version] * np.exp(rng.normal(0, 0.35, rows)) + late * rng.uniform(3_000, 9_000, rows)
        reduced = rng.random(rows) < np.where(late, 0.6, 0.002)
        asr = np.where(self.no_words, 0, np.clip(rng.normal(0.87 - 0.07 * worse, 0.08, rows), 0.3, 0.995))
        word_confidence = np.clip(np.repeat(asr, self.words) + rng.normal(0, 0.09, self.words.sum()), 0.05, 1)

        flags, flag = np.zeros((rows, 3), bool), ("no_words", NO_LANGUAGE, "reduced_beam")
        flags[:, 0], flags[:, 1], flags[:, 2] = self.no_words, ~has_text & ~self.no_words, reduced
        measured, loudness = self._acoustics(has_voice, voice_feeling)
        skipped = np.select([~((self.role == 1) | everyone), short, self.no_words], [1, 2, 3], 0)
        partition = self.number[call] % DEFAULT_PARTITIONS
        spread = rng.normal(0, list(MEMBERS.values()), (has_text.sum(), len(MEMBERS)))
        columns = {
            "pipeline_version": constant(version, rows),
            "scored_at": moments(captured + latency.astype(np.int64)),
            "words.confidence": lists(self.words, pa.array(np.round(word_confidence, 4))),
            "asr_confidence": pa.array(np.round(asr, 4)),
            "asr_model": constant("base.en/int8" if worse else "tiny.en/int8", rows),
            "flags": lists(flags.sum(1), named(np.tile(np.arange(3), rows)[flags.ravel()], flag)),
            "emotion": named(np.where(has_voice, strongest + 1, 0), ("", *LABELS)),
            "emotions": maps(
                has_voice * len(LABELS),
                named(np.tile(np.arange(len(LABELS)), has_voice.sum()), LABELS),
                shares[has_voice].ravel(),
            ),
            "emotion_uncertain": pa.array(uncertain & has_voice),
            **_finer(shares, has_voice),
            "emotion_model": named(has_voice.astype(int), ("", "candidate-emotion" if worse else "packaged-emotion")),
            "emotion_skipped": named(
                skipped,
                (
                    "",
                    "role is not in emotion.roles (customer)",
                    "shorter than 400 ms",
                    "no words were recognised",
                ),
            ),
            **measured,
            "sentiment": named(np.where(has_text, _label(score) + 1, 0), ("", *SENTIMENTS)),
            "score": nullable(score, has_text),
            "text_score": nullable(text, has_text),
            "voice_score": nullable(voice, has_text & has_voice),
            "disagree": pa.array(disagree),
            "confidence": nullable(np.round(confidence, 4), has_text),
            "members": maps(
                has_text * len(MEMBERS),
                named(np.tile(np.arange(len(MEMBERS)), has_text.sum()), list(MEMBERS)),
                np.round(np.clip(text[has_text, None] + spread, -1, 1), 4).ravel(),
            ),
            "sentiment_model": named(has_text.astype(int), ("", "candidate-text" if worse else "packaged-text")),
            "call_score": pa.array(np.round(running, 4)),
            "party_score": pa.array(np.round(party, 4)),
            "call_utterances": pa.array(self._count(has_text), pa.uint32()),
            "topic": constant(SOURCE, rows),
            "partition": pa.array(partition, pa.uint32()),
            "offset": pa.array(self._offsets_of(version)[call] + self.position, pa.uint64()),
        }  # fmt: skip
        return _Scored(columns, score, has_text, np.where(has_voice, strongest, -1), loudness, party)

    def _offsets_of(self, version: str) -> Ints:
        """The offset at which a call's records begin; it has fewer than 1,000."""
        return (self.number * 2 + (version == WORSE_VERSION)) * 1_000

    def _count(self, counts: Bools) -> Ints:
        """Of those so far in the call that count."""
        total = np.cumsum(counts)
        begins = begins_of(self.said)
        before = np.concatenate([[0], total])[begins]
        return total - before[self.call]

    def _running(self, score: Floats, words: Ints) -> tuple[Floats, Floats]:
        """The running scores of the call and of the speaker (processors.sentiment.FusedSentiment)."""
        longest = int(self.said.max(initial=0))
        scores, keeps = np.zeros((2, longest, self.count))
        side = np.zeros((longest, self.count), np.int64)
        at = self.position, self.call
        scores[at], keeps[at], side[at] = score, 1 - 2.0 ** (-words / HALF_LIFE_WORDS), self.customer
        call, parties = np.zeros(self.count), np.zeros((2, self.count))
        running, party = np.zeros((2, longest, self.count))
        who = np.arange(self.count)
        for row in range(longest):
            call += (scores[row] - call) * keeps[row]
            speaker = side[row]
            parties[speaker, who] += (scores[row] - parties[speaker, who]) * keeps[row]
            running[row], party[row] = call, parties[speaker, who]
        return running[at], party[at]

    def _acoustics(self, there: Bools, feeling: Floats) -> tuple[dict[str, pa.Array], Floats]:
        """Plausible values, and the loudness in LUFS once more.

        Jitter, shimmer, formants and HNR are measured only by who has installed Praat.
        """
        rng, rows = self.rng, len(there)
        count = int(there.sum())
        voice = np.where(self.customer, 1, 0) + 2 * self.number[self.call]
        pitch = 115 + 95 * ((voice * 2_654_435_761 >> 7) % 2) + 25 * np.abs(feeling) + rng.normal(0, 12, rows)
        loudness = -25 + 4 * np.maximum(-feeling, 0) + rng.normal(0, 2, rows)
        mfcc = np.round(rng.normal(0, 1, (count, 13)) * np.linspace(40, 4, 13), 2)
        values = {
            "pitch_mean_hz": np.round(pitch, 1),
            "pitch_variance_hz2": np.round(rng.gamma(2, 400, rows), 1),
            "rms": np.round(10 ** (loudness / 20), 4),
            "loudness_lufs": np.round(loudness, 1),
            "speaking_rate_wps": np.round(self.words / self.length * 1_000, 2),
            "spectral_centroid_hz": np.round(rng.normal(1_350, 220, rows), 1),
            "zero_crossing_rate": np.round(np.clip(rng.normal(0.09, 0.025, rows), 0.01, 0.4), 4),
        }
        columns = {name: nullable(column, there) for name, column in values.items()}
        return columns | {"mfcc": lists(there * 13, pa.array(mfcc.ravel()))}, values["loudness_lufs"]

    def calls(self, version: str, of: Ints) -> pa.Table:
        """The rows of `calls`: the end of those that have ended, the start of the others."""
        plan, rng, rows = self.plan, self.rng, len(of)
        ended = ~self.running[of]
        duration = self.duration[of]
        mono = plan.mono[of]
        missing = np.where(ended & (self.number[of] % 33 == 0), self.number[of] % 4_700, 0)
        spoken = np.where(ended & (self.said[of] > 0), 1, 0)
        second = np.concatenate([[0] if one else [0, 1] for one in mono])
        about = [
            (f"+49 30 {10_000_000 + number * 7_919 % 89_999_999}", "in" if number % 6 else "out")
            for number in self.number[of].tolist()
        ]
        reason = np.where(ended, 1 + rng.choice(3, rows, p=(0.96, 0.03, 0.01)), 0)
        return pa.table(
            {
                "tenant": named(plan.tenant[of], list(TENANTS)),
                "call_id": self.ids.take(pa.array(of)),
                "pipeline_version": constant(version, rows),
                "queue": named(plan.queue[of], QUEUES),
                "agent": named(plan.agent[of], self.agent_names),
                "source": constant(SOURCE, rows),
                "channels": pa.array(np.where(mono, 1, 2), pa.uint8()),
                "roles": lists(np.where(mono, 1, 2), named(np.repeat(2 * mono, np.where(mono, 1, 2)) + second, ROLES)),
                "languages": lists(spoken, named(plan.german[of][spoken > 0].astype(int), ("en", "de"))),
                "metadata": pa.MapArray.from_arrays(
                    pa.array(np.arange(rows + 1) * 2, pa.int32()),
                    named(np.tile((0, 1), rows), ("caller", "direction")),
                    pa.array([part for pair in about for part in pair], pa.string()),
                ),
                "started_at": moments(plan.started[of]),
                "ended_at": nullable(plan.started[of] + duration, ended).cast(TIME),
                "duration_ms": pa.array(duration.astype(np.uint32), mask=~ended),
                "end_reason": named(reason, ("", "hangup", "idle", "interrupted")),
                "missing_ms": pa.array(missing, pa.uint32()),
                "dropped_packets": pa.array(missing // 100, pa.uint32()),
                "not_speech_ms": pa.array(np.where(ended & (self.number[of] % 5 == 0), duration // 20, 0), pa.uint32()),
                "revision": pa.array(np.where(ended, 2, 1), pa.uint8()),
            }
        )  # fmt: skip

    def corrections(self, version: str, of: Ints) -> pa.Table:
        """What became known of the voices of mixed calls."""
        rows = []
        for at in of[self.plan.mono[of]]:
            found = [("speaker-1", "", "agent"), ("speaker-2", "", "customer")]
            if self.split[at]:
                found.insert(0, ("speaker-3", "speaker-2", "unknown"))
            first = self._offsets_of(version)[at] + 900
            rows += [
                self._call(int(at))
                | {
                    "pipeline_version": version,
                    "started_at": int(self.plan.started[at]),
                    "speaker": speaker,
                    "same_as": same_as,
                    "role": role,
                    "role_confidence": None if same_as else 0.91,
                    "topic": SOURCE,
                    "partition": int(self.number[at] % DEFAULT_PARTITIONS),
                    "offset": int(first + step),
                }
                for step, (speaker, same_as, role) in enumerate(found)
            ]
        kinds = {"started_at": TIME, "role_confidence": pa.float64(), "partition": pa.uint32(), "offset": pa.uint64()}
        return small(rows, kinds)

    def _call(self, at: int) -> dict[str, Any]:
        return {"tenant": list(TENANTS)[self.plan.tenant[at]], "call_id": self.ids[at].as_py()}

    def dead_letters(self) -> pa.Table:
        """About one for 130 calls."""
        rows = []
        for at in np.flatnonzero(self.number % 131 == 17):
            number, started = int(self.number[at]), int(self.plan.started[at])
            stage, topic, error, message = _FAILURES[number // 131 % len(_FAILURES)]
            rows.append(
                self._call(int(at))
                | {
                    "stage": stage,
                    "topic": topic,
                    "partition": number % DEFAULT_PARTITIONS,
                    "offset": number * 40,
                    "error": error,
                    "message": message,
                    "failed_at": min(started + 30_000, self.until),
                    "dlq_topic": SOURCE,
                    "dlq_partition": 0,
                    "dlq_offset": number // 131,
                }
            )
        kinds: dict[str, pa.DataType] = dict.fromkeys(("partition", "dlq_partition"), pa.uint32())
        kinds |= dict.fromkeys(("offset", "dlq_offset"), pa.uint64())
        return small(rows, kinds | {"failed_at": TIME})


@dataclass(frozen=True, slots=True)
class _Scored:
    """What a version makes of the utterances of a block."""

    columns: dict[str, pa.Array]
    score: Floats
    has_score: Bools
    emotion: Ints
    """Place in LABELS; −1: not judged."""
    loudness: Floats
    """LUFS, where the voice was judged."""
    party: Floats
    """The speaker's running score."""


def _label(score: Floats) -> Ints:
    """0, 1, 2: negative, neutral, positive."""
    return (score >= THRESHOLDS[0]).astype(np.int64) + (score > THRESHOLDS[1])


def _emotions(feeling: Floats, rng: np.random.Generator) -> Floats:
    """(rows, 6) probabilities of LABELS in a voice of this feeling, −1 to 1, rounded as the stage does."""
    slope = np.array([0, 4.2, -2.6, -4.4, -1.6, 0.3])
    level = np.array([1.5, -0.9, -0.4, -0.7, -0.9, -0.8])
    logits = level + slope * feeling[:, None] + rng.gumbel(0, 0.6, (len(feeling), len(LABELS)))
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return np.round(shares / shares.sum(1, keepdims=True), 4)


_NAMES: Final = tuple(name for names in GRANULAR.values() for name in (*names.primary, *names.secondary))
"""Four names an emotion, in the order of LABELS."""
_COMPLEX: Final = tuple(PAIRS.values())
_NAMED: Final[Mapping[frozenset[Any], str]] = PAIRS
_PAIR: Final = np.array(
    [[("", *_COMPLEX).index(_NAMED.get(frozenset((one, other)), "")) for other in LABELS] for one in LABELS]
)
"""0, or the place of two emotions' common name behind it."""


def _finer(shares: Floats, there: Bools) -> dict[str, pa.Array]:
    """Granular and complex emotions: processors.emotion_names for many rows."""
    ranked = np.argsort(-shares, axis=1, kind="stable")
    share = np.take_along_axis(shares, ranked, 1)
    threshold = np.array([names.threshold for names in GRANULAR.values()])
    given = (share >= threshold[ranked]) & there[:, None]
    pronounced = (share[:, 0] < DOMINANT[0]) | (share[:, 0] > DOMINANT[1])
    # (rows, rank, primary, primary, secondary, secondary)
    has_name = np.repeat(given[:, :, None], 4, axis=2)
    has_name[:, 1:, 2:] = False
    has_name[:, 0, 2:] &= ~pronounced[:, None]
    name = ranked[:, :, None] * 4 + np.arange(4)
    lesser = np.round(share * SECONDARY_SHARE, 4)
    confidence = np.stack([share, share, lesser, lesser], axis=2)
    sizes = has_name.sum((1, 2))
    together = _PAIR[ranked[:, 0], ranked[:, 1]] * (share[:, :2].mean(1) > COMPLEX) * there
    return {
        "complex_emotion": named(together, ("", *_COMPLEX)),
        "granular.name": lists(sizes, named(name[has_name], _NAMES)),
        "granular.base": lists(sizes, named(name[has_name] // 4, LABELS)),
        "granular.confidence": lists(sizes, pa.array(confidence[has_name])),
    }


_READS: Final = {stage.name: stage.reads for stage in STAGES}
_FAILURES: Final = tuple(
    (stage, _READS[stage], error, message)
    for stage, error, message in (
        ("vad", "ValueError", "a packet of 0 samples"),
        ("asr", "RuntimeError", "decoder ran out of memory"),
        ("vad", "KeyError", "codec"),
        ("emotion", "ValueError", "audio of 3 samples is too short"),
        ("asr", "ValidationError", "event: start_ms is not a whole number"),
    )
)
"""Stage, the topic it reads, exception, message."""
