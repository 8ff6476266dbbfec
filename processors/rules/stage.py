"""The stage: calls held against rules while they go on, and what the rules find.

How a rule works. Each of its leaves (`said`, `silence`, `length`, …) is true, false or not yet known. What happens at
moments (words said, a silence, an interruption, a trend) stays true once it has happened, for `within_s` or for good;
what is measured (talk share, length, a category) is true while it is. The rule is set off when its condition is true
and a leaf of it has just become so: by an utterance, by the watermark or by the call's end. So words that were said
once do not raise an alert every second, and words that are said again do, after the cool-down.

A changer must know: everything is decided by media time and by the records alone, so `Watch` is all there is of a call,
and it is small: of each leaf only as many occurrences are kept as it takes to decide. A rule that came while a call was
going on does not know what was said before: what it says is missing must not have been said since, or it keeps silent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Final, NamedTuple, get_args

from pydantic_core import from_json, to_json

from processors.base import Output, Record, Step
from processors.conversation import CROSS_TALK, SILENCE_MS, Tally
from processors.rules.language import (
    Condition,
    Interruption,
    Length,
    Missing,
    Occurrence,
    Rule,
    RuleSet,
    Said,
    Silence,
    TalkShare,
    Trend,
)
from processors.rules.words import Embedder, Matcher, Remembering
from processors.utterances import FORGOTTEN_MS, each_but_idle, read
from schemas.events import Alert, CallEnded, CallEvent, CallStarted, Categorised, Evidence, Progress, Role, Score

RECENT: Final = 2
"""Latest utterances that are kept to show what a silence or an interruption was about."""
EVIDENCE: Final = 10
"""Most utterances that a finding rests on, the latest. Judgement: more nobody reads."""
TEXT: Final = 500
"""Most letters of an utterance that are kept. An utterance of 15 s has some 300."""
REASONS: Final = 600
"""Most letters of the reasons in a message."""

NEVER: Final = 2**53
"""No call lasts so long, in milliseconds."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

ROLES: Final[tuple[Role, ...]] = get_args(Role)

Found = list[Any]
"""An occurrence as it is kept: at_ms, why (for people), utterances."""
MISSING, SAID, UNKNOWN = 1, 2, 3
"""What was decided of a `missing`."""


# Rules made ready


@dataclass(frozen=True, slots=True)
class Node:
    """A condition; `leaf` is the number of the leaf among those of its rule."""

    how: str
    parts: tuple["Node", ...] = ()
    leaf: int = -1
    at_end: bool = False
    """Whether something in it is known only when the call has ended."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf of a rule, and where its texts are among those of the matcher."""

    rule: int
    name: str
    """Of the rule."""
    version: str
    """Of the rule."""
    number: int
    asks: Any
    lenient: bool = False
    """It is asked for as absent: a party of which nobody knows the role may have said it."""
    words: int | None = None
    unless: int | None = None
    due_ms: int = 0
    """Media time at which a measure, or what is missing, may become known; until then it need not be asked."""


class _Numbered(NamedTuple):
    number: int
    name: str
    version: str


@dataclass(slots=True)
class Prepared:
    """A rule, its tree, and its leaves by number."""

    rule: Rule
    root: Node
    leaves: list[Leaf]
    forgets: bool
    """Whether no occurrence need be kept: each that comes sets the rule off by itself."""


class View:
    """The rules that hold for a call, and its leaves by what they wait for."""

    def __init__(self, rules: Sequence[Rule], embedder: Embedder) -> None:
        self.rules: list[Prepared] = []
        groups: list[Any] = []
        self.by_words: dict[int, Leaf] = {}
        """Group of the matcher → the leaf that asks for it."""
        self.by_meaning: list[Leaf] = []
        self.wordless: list[Leaf] = []
        self.trends: list[Leaf] = []
        self.missing: list[Leaf] = []
        self.silences: list[Leaf] = []
        self.interruptions: list[Leaf] = []
        self.measured: list[Leaf] = []
        self.at_end: list[Leaf] = []
        self.by_category: dict[str, list[Leaf]] = {}
        for number, rule in enumerate(rules):
            leaves: list[Leaf] = []
            of = _Numbered(number, rule.name, rule.version)
            root = self._tree(rule.when, of, leaves, groups, lenient=False)
            forgets = not any(one.all or one.not_ for one in rule.when.walk()) and not any(
                isinstance(leaf.asks, Missing | str)
                or (isinstance(leaf.asks, Occurrence) and (leaf.asks.times > 1 or _at_end(leaf.asks)))
                for leaf in leaves
            )
            self.rules.append(Prepared(rule, root, leaves, forgets))
        self.matcher = Matcher(groups, embedder)

    def _tree(
        self, condition: Condition, rule: _Numbered, leaves: list[Leaf], groups: list[Any], lenient: bool
    ) -> Node:
        asks = condition.leaf
        if asks is None:
            how = "all" if condition.all else "any" if condition.any else "not"
            opposite = lenient != (how == "not")
            parts = tuple(self._tree(part, rule, leaves, groups, opposite) for part in condition.parts)
            return Node(how, parts, at_end=any(part.at_end for part in parts))
        words = unless = None
        if isinstance(asks, Said):
            if asks.any_words:
                words = len(groups)
                groups.append(asks)
            if asks.unless is not None:
                unless = len(groups)
                groups.append(asks.unless)
        absent = lenient or isinstance(asks, Missing)
        leaf = Leaf(*rule, len(leaves), asks, absent, words, unless, _due_ms(asks))
        leaves.append(leaf)
        self._file(leaf)
        return Node("leaf", leaf=leaf.number, at_end=_at_end(asks))

    def _file(self, leaf: Leaf) -> None:
        asks = leaf.asks
        if isinstance(asks, Said):
            if leaf.words is None:
                self.wordless.append(leaf)
            else:
                self.by_words[leaf.words] = leaf
                if asks.meaning is not None:
                    self.by_meaning.append(leaf)
        places: dict[type[Any], list[Leaf]] = {
            Missing: self.missing,
            Trend: self.trends,
            Silence: self.silences,
            Interruption: self.interruptions,
            TalkShare: self.measured,
            Length: self.measured,
        }
        if type(asks) in places:
            places[type(asks)].append(leaf)
        if isinstance(asks, str):
            self.by_category.setdefault(asks, []).append(leaf)
        elif _at_end(asks) and not isinstance(asks, Missing):
            self.at_end.append(leaf)


def _due_ms(asks: Any) -> int:
    if isinstance(asks, TalkShare | Length):
        return round((asks.at_least_s if isinstance(asks, Length) else asks.after_s) * 1_000)
    closes_ms = asks.window.closes_ms if isinstance(asks, Missing) and asks.window else None
    return NEVER if closes_ms is None else closes_ms


def _at_end(asks: Any) -> bool:
    return isinstance(asks, Occurrence) and asks.window is not None and asks.window.at_end


# A call


@dataclass(slots=True, eq=False)
class Heard:
    """An utterance as it is kept. Many rules may rest on it; it is dumped once."""

    number: int
    """Of those of the call, in the order in which they came."""
    channel: int
    start_ms: int
    end_ms: int
    speaker: str
    role: Role
    text: str
    kept: bytes = b""

    def dump(self) -> bytes:
        """JSON."""
        if not self.kept:
            self.kept = to_json(
                [self.number, self.channel, self.start_ms, self.end_ms, self.speaker, self.role, self.text]
            )
        return self.kept


@dataclass(slots=True)
class Course:
    """What a rule knows of a call."""

    version: str
    alerted_ms: int = -1
    """Media time of the last alert; −1: none."""
    categorised: bool = False
    found: dict[int, list[Found]] = field(default_factory=dict)
    """By leaf: its occurrences, the oldest first."""
    mark: dict[int, int] = field(default_factory=dict)
    """By leaf: what it needs to see something new. The silence seen last, the interruptions so far, whether a measure
    was true, what was decided of a `missing`."""
    row: dict[int, list[Heard]] = field(default_factory=dict)
    """By leaf: the utterances of a trend so far."""
    kept: bytes = b""
    """As it was dumped last; empty when it has changed since: with many rules most have not."""
    rests_on: dict[int, Heard] = field(default_factory=dict)
    """By number, the utterances of which the dump has the numbers only."""

    def dump(self) -> bytes:
        """JSON."""
        if not self.kept:
            found = [(leaf, [_numbered(one) for one in several]) for leaf, several in self.found.items()]
            row = [(leaf, [one.number for one in several]) for leaf, several in self.row.items()]
            # JSON's objects have only strings for keys.
            self.kept = to_json([self.version, self.alerted_ms, self.categorised, found, list(self.mark.items()), row])
            utterances = (one for several in self.found.values() for _, _, heard in several for one in heard)
            self.rests_on = {one.number: one for one in chain(utterances, *self.row.values())}
        return self.kept

    @classmethod
    def load(cls, dumped: list[Any], heard: Mapping[int, Heard]) -> "Course":
        """The course as it was dumped, with the call's utterances by their numbers."""
        version, alerted_ms, categorised, found, mark, row = dumped
        return cls(
            version,
            alerted_ms,
            categorised,
            {leaf: [_known(one, heard) for one in several] for leaf, several in found},
            dict(mark),
            {leaf: [heard[number] for number in several] for leaf, several in row},
        )


def _numbered(found: Found) -> Found:
    at_ms, why, utterances = found
    return [at_ms, why, [one.number for one in utterances]]


def _known(found: Found, heard: Mapping[int, Heard]) -> Found:
    at_ms, why, numbers = found
    return [at_ms, why, [heard[number] for number in numbers]]


@dataclass(slots=True)
class Watch:
    """The state of a call."""

    tally: Tally
    version: str
    """Of the rules that it was last held against."""
    from_ms: int = -1
    """Media time from which on it was heard: 0 with its start; −1: nothing was heard yet."""
    since_ms: dict[str, int] = field(default_factory=dict)
    """For rules that came while the call was going on: when."""
    courses: dict[str, Course] = field(default_factory=dict)
    """By the rule's name; without one nothing of interest has happened."""
    heard: int = 0
    """Utterances so far."""
    recent: list[Heard] = field(default_factory=list)
    categories: dict[str, Found] = field(default_factory=dict)
    """The call's categories, each with what it was first found by."""
    asked_ms: int = -1
    """Media time at which all measures were asked last; −1: all must be, for the state or the rules are new here."""
    heard_ms: int = -1
    """Watermark up to which is decided what is missing; −1: all must be asked, as above."""
    cut_ins: dict[Role, int] = field(default_factory=dict)
    """Interruptions by role, as they were counted last."""
    kept: bytes = b""
    """`courses` and `categories` as they were dumped last; empty when any has changed since."""
    rests_on: dict[int, Heard] = field(default_factory=dict)
    """By number, the utterances of which that has the numbers only."""
    said: bytes = b""
    """These as they were dumped."""

    def dump(self) -> bytes:
        """JSON; docs/rules.md has its size."""
        if not self.kept:
            courses = b",".join([course.kept or course.dump() for course in self.courses.values()])
            rests_on = {
                number: one
                for course in self.courses.values()
                if course.rests_on
                for number, one in course.rests_on.items()
            }
            rests_on |= {one.number: one for _, _, utterances in self.categories.values() for one in utterances}
            self.rests_on = rests_on
            self.said = b",".join([rests_on[number].dump() for number in sorted(rests_on)])
            categories = {name: _numbered(found) for name, found in self.categories.items()}
            self.kept = b"%b,[%b]" % (to_json([list(self.courses), categories]), courses)
        rest = to_json([self.version, self.from_ms, self.since_ms, self.heard, [one.number for one in self.recent]])
        latest = [one.dump() for one in self.recent if one.number not in self.rests_on]
        said = b",".join([self.said, *latest] if self.said else latest)
        return b"[%b,%b,[%b],%b]" % (self.tally.dump().encode(), rest, said, self.kept)

    @classmethod
    def load(cls, snapshot: bytes) -> "Watch":
        """The state as it was dumped."""
        tally, rest, said, (names, categories), courses = from_json(snapshot)
        version, from_ms, since_ms, n, recent = rest
        heard = {one[0]: Heard(*one) for one in said}
        return cls(
            Tally.of(tally),
            version,
            from_ms,
            since_ms,
            {name: Course.load(course, heard) for name, course in zip(names, courses, strict=True)},
            n,
            [heard[number] for number in recent],
            {name: _known(found, heard) for name, found in categories.items()},
        )


Truth = bool | None
"""None: not known yet."""


@dataclass(slots=True)
class Verdict:
    """What a condition comes to at a moment."""

    true: Truth
    fresh: bool = False
    """Whether something of it has become true with this record."""
    found: list[Found] = field(default_factory=list)


class Rules:
    """Scores, marks and corrections in; categories and alerts, and the call's start and end, out.

    `rules` reads the rules; `reload` asks it again when `changed` says so. `embedder` makes the model for rules that
    ask for a meaning; without such rules it is not made.
    """

    idle_timeout_ms: int | None = FORGOTTEN_MS

    def __init__(
        self,
        rules: Callable[[], RuleSet],
        changed: Callable[[], bool],
        pipeline_version: str,
        embedder: Callable[[], Embedder],
    ) -> None:
        self._read = rules
        self._changed = changed
        self.pipeline_version = pipeline_version
        """What the findings say that they come from, beside the rules' version."""
        self._embedder = Remembering(embedder)
        self._known: dict[str, frozenset[str]] = {}
        """Version of a set of rules → its rules' own, of all sets that this process had."""
        self._take(rules())

    def _take(self, rules: RuleSet) -> None:
        views = {tenant: View(rules.of(tenant), self._embedder) for tenant in sorted(rules.tenants)}
        others = View([rule for rule in rules.rules if rule.tenants is None], self._embedder)
        self._views, self._others = views, others
        self.rules = rules
        """The rules in effect."""
        self.version = rules.version
        self._known[self.version] = frozenset(rule.version for rule in rules.rules)

    def reload(self) -> bool:
        """Read the rules again if their files have changed; True when other rules are in effect from now on. Raises
        CalltideError when they are wrong: those before stay."""
        if not self._changed():
            return False
        rules = self._read()
        if rules.version == self.version:
            return False
        self._take(rules)
        return True

    def open(self, call_id: str) -> Watch:
        return Watch(Tally(), self.version)

    def restore(self, call_id: str, snapshot: bytes) -> Watch:
        return Watch.load(snapshot)

    def process(self, batch: Sequence[tuple[Watch, Record]]) -> list[Step]:
        return each_but_idle(batch, self._hear)

    def _hear(self, batch: Sequence[tuple[Watch, Record]]) -> list[Step]:
        self._embedder.forget()
        return [
            self._step(watch, event, record) for event, (watch, record) in zip(read(batch, Score), batch, strict=True)
        ]

    def _step(self, watch: Watch, event: CallEvent, record: Record) -> Step:
        view = self._views.get(event.call.tenant, self._others)
        if watch.version != self.version:
            self._adopt(watch, view)
        found = Moment(self, view, watch, event, record).findings()
        outputs = [Output.of(one) for one in found]
        if isinstance(event, CallStarted):
            outputs.insert(0, Output.of(event))
        elif isinstance(event, CallEnded):
            return Step([*outputs, Output.of(event)], b"")
        return Step(outputs, watch.dump())

    def _adopt(self, watch: Watch, view: View) -> None:
        """Go on with other rules: what has not changed keeps what it knows, what is new knows nothing of before."""
        before = self._known.get(watch.version, frozenset())
        since_ms: dict[str, int] = {}
        courses: dict[str, Course] = {}
        for prepared in view.rules:
            rule = prepared.rule
            course = watch.courses.get(rule.name)
            if course is not None and course.version == rule.version:
                courses[rule.name] = course
            elif rule.version not in before:
                since_ms[rule.name] = watch.tally.now_ms
                continue
            if rule.name in watch.since_ms:
                since_ms[rule.name] = watch.since_ms[rule.name]
        watch.courses, watch.since_ms, watch.version = courses, since_ms, self.version
        watch.asked_ms, watch.heard_ms, watch.kept = -1, -1, b""
        watch.cut_ins.clear()


class Moment:
    """One record of a call, held against the rules."""

    def __init__(self, stage: Rules, view: View, watch: Watch, event: CallEvent, record: Record) -> None:
        self.stage, self.view, self.watch, self.event, self.record = stage, view, watch, event, record
        self.tally = watch.tally
        self.fresh: dict[int, set[int]] = {}
        """By rule: the leaves that have become true, or known."""
        self.now_ms = 0
        self.only_time = isinstance(event, Progress) and watch.asked_ms >= 0
        """Nothing but time has passed since all was asked."""
        self.talk_ms: dict[Role | None, int] = {}
        """What the tally says, asked once."""
        self.shares: dict[tuple[Role, ...], float] = {}

    def findings(self) -> list[Categorised | Alert]:
        """What the rules find; the call's state is that after the record."""
        event, tally, watch = self.event, self.tally, self.watch
        if watch.from_ms < 0:
            watch.from_ms = _heard_from(event)
        silent_since_ms = tally.silent_since_ms
        tally.hear(event, scores=False)
        self.now_ms = tally.now_ms
        if isinstance(event, Score) and CROSS_TALK not in event.flags:
            self._said(event)
        self._silences(silent_since_ms)
        self._interruptions()
        self._measures()
        self._missing()
        watch.asked_ms, watch.heard_ms = self.now_ms, tally.watermark_ms
        if isinstance(event, CallEnded):
            for leaf in self.view.at_end:
                self._sets_off(leaf)
        findings: list[Categorised | Alert] = []
        # Rules stand behind those whose categories they ask for, so what these find counts at once.
        while self.fresh:
            number = min(self.fresh)
            findings += self._judge(self.view.rules[number], self.fresh.pop(number))
        return findings

    # What happens

    def _course(self, leaf: Leaf) -> Course:
        """What the rule knows of the call, to be changed."""
        course = self.watch.courses.get(leaf.name)
        if course is None:
            course = self.watch.courses[leaf.name] = Course(leaf.version)
        course.kept = self.watch.kept = b""
        return course

    def _marked(self, leaf: Leaf) -> int:
        course = self.watch.courses.get(leaf.name)
        return -1 if course is None else course.mark.get(leaf.number, -1)

    def _sets_off(self, leaf: Leaf) -> None:
        self.fresh.setdefault(leaf.rule, set()).add(leaf.number)

    def _occurs(self, leaf: Leaf, at_ms: int, why: str, heard: list[Heard]) -> None:
        asks, course = leaf.asks, self._course(leaf)
        if isinstance(asks, Missing) and leaf.number in course.mark:
            return  # it has been decided
        found = course.found.setdefault(leaf.number, [])
        found.append([at_ms, why, heard])
        if len(found) > asks.times:
            del found[-1 if asks.window is not None and asks.window.first_percent is not None else 0]
        if not isinstance(asks, Missing):
            self._sets_off(leaf)

    def _said(self, score: Score) -> None:
        view = self.view
        number = self.watch.heard = self.watch.heard + 1
        text = score.text[:TEXT]
        heard = Heard(number, score.channel, score.start_ms, score.end_ms, score.speaker, score.role, text)
        self.watch.recent = [*self.watch.recent, heard][-RECENT:]
        if score.text:
            self._words(score, heard)
        for leaf in view.trends:
            self._trend(leaf, score, heard)

    def _words(self, score: Score, heard: Heard) -> None:
        view = self.view
        texts = view.matcher.find(score.text, score.language)
        for leaf in view.wordless:
            if leaf.unless not in texts and _fits(leaf, score):
                self._occurs(leaf, score.end_ms, _told(leaf.asks, score, None), [heard])
        for group, text in texts.items():
            leaf_of = view.by_words.get(group)
            if leaf_of is not None and leaf_of.unless not in texts and _fits(leaf_of, score):
                self._occurs(leaf_of, score.end_ms, _told(leaf_of.asks, score, text), [heard])
        for leaf in view.by_meaning:
            if leaf.words is None or leaf.words in texts or leaf.unless in texts or not _fits(leaf, score):
                continue
            if (like := view.matcher.means(score.text, leaf.words)) is not None:
                said = f"{_told(leaf.asks, score, score.text[:80])}, like “{like}”"
                self._occurs(leaf, score.end_ms, said, [heard])

    def _trend(self, leaf: Leaf, score: Score, heard: Heard) -> None:
        asks: Trend = leaf.asks
        if score.sentiment is None or not _by(asks.by, score.role, leaf.lenient):
            return
        if not _scored(asks, score) or not (asks.window is None or asks.window.holds(score.start_ms, None)):
            known = self.watch.courses.get(leaf.name)
            if known is not None and leaf.number in known.row:
                del self._course(leaf).row[leaf.number]
            return
        course = self._course(leaf)
        row = course.row[leaf.number] = [*course.row.get(leaf.number, []), heard][-asks.utterances :]
        if len(row) == asks.utterances:
            side = " and ".join(
                f"{name} {_number(limit)}" for name, limit in (("below", asks.below), ("above", asks.above))
                if limit is not None
            )  # fmt: skip
            who = "everybody" if asks.by is None else " or ".join(asks.by)
            self._occurs(leaf, score.end_ms, f"{who} {side} in {asks.utterances} utterances in a row", row)

    def _silences(self, before_ms: int) -> None:
        """`before_ms`: where the silence began of which was known before this record."""
        tally = self.tally
        if tally.watermark_ms - min(before_ms, tally.silent_since_ms) < SILENCE_MS:
            return
        for leaf in self.view.silences:
            least_ms = round(leaf.asks.at_least_s * 1_000)
            for since_ms in sorted({before_ms, tally.silent_since_ms}):
                if (
                    tally.watermark_ms - since_ms < least_ms
                    or max(self._marked(leaf) + 1, self.watch.from_ms) > since_ms
                ):
                    continue
                lasts_ms = tally.silence_now_ms
                if since_ms != tally.silent_since_ms:
                    # It is over by now, and the watermark has come past its end at once.
                    ends = [one.end_ms for one in tally.silences()[3] if one.start_ms == since_ms]
                    lasts_ms = max(ends, default=since_ms) - since_ms
                at_ms = since_ms + least_ms
                if lasts_ms < least_ms:
                    continue
                self._course(leaf).mark[leaf.number] = since_ms
                if leaf.asks.window is None or leaf.asks.window.holds(at_ms, None):
                    why = f"nobody has spoken for {leaf.asks.at_least_s:g} s since {clock(since_ms)}"
                    before = [one for one in self.watch.recent if one.end_ms <= since_ms]
                    self._occurs(leaf, at_ms, why, before[-1:])

    def _interruptions(self) -> None:
        # Time that passes makes no interruption.
        if not self.view.interruptions or self.only_time:
            return
        counts = self.tally.interruptions_by_role()
        if counts == self.watch.cut_ins:
            return
        self.watch.cut_ins = counts
        for leaf in self.view.interruptions:
            n = sum(counts.get(role, 0) for role in set(leaf.asks.by or ROLES))
            before = max(self._marked(leaf), 0)
            if n <= before:
                continue
            self._course(leaf).mark[leaf.number] = n
            now_ms = self.now_ms
            if leaf.asks.window is None or leaf.asks.window.holds(now_ms, None):
                who = "somebody" if leaf.asks.by is None else " or ".join(leaf.asks.by)
                for _ in range(min(n - before, leaf.asks.times)):
                    why = f"{who} has interrupted {n} times" if n > 1 else f"{who} has interrupted"
                    self._occurs(leaf, now_ms, why, self.watch.recent[-RECENT:])

    def _talk_ms(self, role: Role | None) -> int:
        if role not in self.talk_ms:
            self.talk_ms[role] = self.tally.talk_ms(role)
        return self.talk_ms[role]

    def _measures(self) -> None:
        asked_ms, now_ms = self.watch.asked_ms, self.now_ms
        for leaf in self.view.measured:
            # Silence changes no share, and a length is reached once.
            if leaf.due_ms > now_ms or (leaf.due_ms <= asked_ms and (self.only_time or isinstance(leaf.asks, Length))):
                continue
            true, was = bool(self._measure(leaf)), self._marked(leaf) > 0
            if true and not was:
                self._course(leaf).mark[leaf.number] = 1
                self._sets_off(leaf)
            elif was and not true:
                del self._course(leaf).mark[leaf.number]

    def _share(self, asks: TalkShare) -> float:
        if asks.by not in self.shares:
            self.shares[asks.by] = sum(map(self._talk_ms, set(asks.by))) / (self._talk_ms(None) or 1)
        return self.shares[asks.by]

    def _measure(self, leaf: Leaf) -> Truth:
        asks = leaf.asks
        if isinstance(asks, Length):
            return self.now_ms >= leaf.due_ms
        if self.watch.from_ms:
            return None  # not all of the talk was heard
        if self.now_ms < leaf.due_ms or not self._talk_ms(None):
            return False
        share = self._share(asks)
        return (asks.above is None or share > asks.above) and (asks.below is None or share < asks.below)

    def _measured(self, leaf: Leaf) -> Found:
        """What is to be said of a measure that is true."""
        if isinstance(leaf.asks, Length):
            return [leaf.due_ms, f"the call lasts {clock(leaf.due_ms)} and longer", []]
        return [self.now_ms, f"{' and '.join(leaf.asks.by)} has {self._share(leaf.asks):.0%} of the talk", []]

    def _missing(self) -> None:
        ended, watermark_ms = self.tally.ended, self.tally.watermark_ms
        for leaf in self.view.missing:
            # Up to the watermark of before all has been decided.
            if leaf.due_ms <= self.watch.heard_ms or (not ended and watermark_ms < leaf.due_ms):
                continue
            if self._marked(leaf) > 0:
                continue
            course = self._course(leaf)
            course.mark[leaf.number] = decided = self._decide(leaf, course)
            course.found.pop(leaf.number, None)
            if decided != UNKNOWN:
                self._sets_off(leaf)

    def _decide(self, leaf: Leaf, course: Course) -> int:
        window, watch = leaf.asks.window, self.watch
        length_ms = self.now_ms
        said = [
            one for one in course.found.get(leaf.number, ()) if window is None or window.holds(_begun(one), length_ms)
        ]
        if len(said) >= leaf.asks.times:
            return SAID
        opens_ms = max(window.opens_ms(length_ms) if window else 0, 0)
        heard_from_ms = max(watch.from_ms, watch.since_ms.get(leaf.name, 0))
        # Neither where nobody listened, nor in a part of the call that it never came to.
        return MISSING if heard_from_ms <= opens_ms <= length_ms else UNKNOWN

    # What it comes to

    def _judge(self, prepared: Prepared, fresh: set[int]) -> list[Categorised | Alert]:
        rule, watch = prepared.rule, self.watch
        course = watch.courses.get(rule.name) or self._course(prepared.leaves[0])
        verdict = self._verdict(prepared.root, prepared, course, fresh)
        findings: list[Categorised | Alert] = []
        if verdict.true and verdict.fresh:
            self._course(prepared.leaves[0])  # it changes
            at_ms = max((one[0] for one in verdict.found), default=self.now_ms)
            if self.tally.ended and prepared.root.at_end:
                at_ms = self.now_ms
            if not course.categorised:
                course.categorised = True
                findings.append(self._finding(Categorised, rule, at_ms, verdict.found))
                if rule.gives not in watch.categories:
                    heard = [one for _, _, utterances in verdict.found for one in utterances]
                    watch.categories[rule.gives] = [at_ms, f"category {rule.gives}", heard[-RECENT:]]
                    for leaf in self.view.by_category.get(rule.gives, ()):
                        self._sets_off(leaf)
            cooled_ms = at_ms - course.alerted_ms
            if rule.alert is not None and (
                course.alerted_ms < 0 or (cooled_ms > 0 and cooled_ms >= rule.alert.cooldown_s * 1_000)
            ):
                course.alerted_ms = at_ms
                message = _message(rule, verdict.found)
                findings.append(
                    self._finding(Alert, rule, at_ms, verdict.found, severity=rule.alert.severity, message=message)
                )
        if prepared.forgets:
            course.found.clear()
        return findings

    def _finding(
        self, kind: type[Categorised] | type[Alert], rule: Rule, at_ms: int, found: list[Found], **added: Any
    ) -> Any:
        call, event = self.event.call, self.event
        heard = {(one.channel, one.start_ms): one for _, _, utterances in found for one in utterances}
        latest = sorted(heard.values(), key=lambda one: (one.start_ms, one.channel))[-EVIDENCE:]
        raised_at = (
            event.captured_at if isinstance(event, Score) else _EPOCH + timedelta(milliseconds=self.record.timestamp_ms)
        )
        return kind(
            call=call,
            rule=rule.name,
            category=rule.gives,
            at_ms=at_ms,
            raised_at=raised_at,
            evidence=tuple(
                Evidence(
                    identity=f"{call.call_id}/{one.channel}/{one.start_ms}",
                    channel=one.channel,
                    start_ms=one.start_ms,
                    end_ms=one.end_ms,
                    speaker=one.speaker,
                    role=one.role,
                    text=one.text,
                )
                for one in latest
            ),
            rules_version=self.stage.version,
            pipeline_version=self.stage.pipeline_version,
            **added,
        )

    def _verdict(self, node: Node, prepared: Prepared, course: Course, fresh: set[int]) -> Verdict:
        if node.how == "leaf":
            return self._leaf(prepared.leaves[node.leaf], course, fresh)
        parts = [self._verdict(part, prepared, course, fresh) for part in node.parts]
        if node.how == "not":
            true = None if parts[0].true is None else not parts[0].true
            return Verdict(true, fresh=node.at_end and self.tally.ended)
        if node.how == "all":
            truths = [part.true for part in parts]
            all_true: Truth = False if False in truths else None if None in truths else True
            return Verdict(all_true, any(part.fresh for part in parts), [one for part in parts for one in part.found])
        holding = [part for part in parts if part.true]
        if not holding:
            return Verdict(None if any(part.true is None for part in parts) else False)
        new = [part for part in holding if part.fresh]
        return Verdict(True, bool(new), [one for part in new or holding for one in part.found])

    def _leaf(self, leaf: Leaf, course: Course, fresh: set[int]) -> Verdict:
        asks, new = leaf.asks, leaf.number in fresh
        if isinstance(asks, str):
            category = self.watch.categories.get(asks)
            return Verdict(category is not None, new, [] if category is None else [category])
        if isinstance(asks, TalkShare | Length):
            measured = self._measure(leaf)
            return Verdict(measured, new and bool(measured), [self._measured(leaf)] if measured else [])
        if isinstance(asks, Missing):
            decided = course.mark.get(leaf.number)
            if decided is None or decided == UNKNOWN:
                return Verdict(None)
            if decided == SAID:
                return Verdict(False)
            return Verdict(True, new, [[self._closed_ms(asks), not_said(asks), []]])
        return self._occurred(leaf, course, new)

    def _occurred(self, leaf: Leaf, course: Course, new: bool) -> Verdict:
        asks, ended, now_ms = leaf.asks, self.tally.ended, self.now_ms
        found = course.found.get(leaf.number, [])
        if _at_end(asks):
            if not ended:
                return Verdict(None)
            found = [one for one in found if asks.window.holds(_begun(one), now_ms)]
        if asks.within_s is not None:
            latest_ms = max((one[0] for one in found), default=0) if new else now_ms
            found = [one for one in found if one[0] >= latest_ms - asks.within_s * 1_000]
        true = len(found) >= asks.times
        return Verdict(true, new and true, found[-asks.times :] if true else [])

    def _closed_ms(self, asks: Missing) -> int:
        closes_ms = asks.window.closes_ms if asks.window else None
        return self.now_ms if closes_ms is None else min(closes_ms, self.now_ms)


def _heard_from(event: CallEvent) -> int:
    """Media time from which on a call is heard whose first event this is; −1: it does not tell."""
    if isinstance(event, CallStarted):
        return 0
    if isinstance(event, Score):
        return event.start_ms
    if isinstance(event, CallEnded):
        return event.duration_ms
    return event.at_ms if isinstance(event, Progress) else -1


def _begun(found: Found) -> int:
    """The moment by which an occurrence is in a window: the beginning of its last utterance, or its own time."""
    at_ms: int = found[0]
    utterances: list[Heard] = found[2]
    return utterances[-1].start_ms if utterances and utterances[-1].end_ms == at_ms else at_ms


def _by(roles: Sequence[Role] | None, role: Role, lenient: bool) -> bool:
    return roles is None or role in roles or (lenient and role == "unknown")


def _scored(asks: Any, score: Score) -> bool:
    value = 0.0 if score.sentiment is None else score.sentiment.score
    return (asks.below is None or value < asks.below) and (asks.above is None or value > asks.above)


def _fits(leaf: Leaf, score: Score) -> bool:
    """Whether everything that is asked of an utterance is so, but the words."""
    asks: Said = leaf.asks
    if not _by(asks.by, score.role, leaf.lenient):
        return False
    if asks.language is not None and score.language.lower().split("-")[0] not in asks.language:
        return False
    if (asks.below is not None or asks.above is not None) and (score.sentiment is None or not _scored(asks, score)):
        return False
    if asks.emotion is not None:
        emotion = score.emotion
        if emotion is None:
            return False
        if asks.emotion_at_least is None:
            if emotion.uncertain or emotion.label not in asks.emotion:
                return False
        elif sum(emotion.probabilities.get(label, 0.0) for label in set(asks.emotion)) < asks.emotion_at_least:
            return False
    return asks.window is None or asks.window.holds(score.start_ms, None)


# For people


def clock(milliseconds: int) -> str:
    seconds = milliseconds // 1_000
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _told(asks: Said, score: Score, text: str | None) -> str:
    who = f"{score.role} at {clock(score.start_ms)}"
    traits = []
    if score.sentiment is not None and (asks.below is not None or asks.above is not None):
        traits.append(f"scored {_number(score.sentiment.score)}")
    if score.emotion is not None and asks.emotion is not None:
        traits.append(f"sounds like {' or '.join(asks.emotion)}")
    if text is None:
        return f"{who} {', '.join(traits) or 'spoke'}"
    return f"{who}: “{text}”{''.join(f', {trait}' for trait in traits)}"


def not_said(asks: Said) -> str:
    window = asks.window
    when = "in the call"
    if window is not None:
        given = window.model_dump(exclude_none=True)
        names = {"first_s": "in the first {} s", "last_s": "in the last {} s"}
        names |= {"first_percent": "in the first {} % of the call", "last_percent": "in the last {} % of the call"}
        names |= {"from_s": "after {} s", "to_s": "before {} s"}
        when = " and ".join(names[name].format(f"{value:g}") for name, value in given.items())
    examples = [*(asks.exact or ()), *(asks.stem or ()), *(asks.meaning.like if asks.meaning else ())]
    # A regex is nothing for people to read.
    what = f"“{examples[0]}” or the like" if examples else "it" if asks.regex else "a word"
    return f"{what} was not said {when}" + (f" by the {' or '.join(asks.by)}" if asks.by else "")


def _message(rule: Rule, found: list[Found]) -> str:
    reasons = list(dict.fromkeys(why for _, why, _ in found if why))
    title = (rule.alert.message if rule.alert else "") or rule.name
    told = "; ".join(reasons)
    told = told if len(told) <= REASONS else f"{told[: REASONS - 1]}…"
    return f"{title}: {told}" if told else title
