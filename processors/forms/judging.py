"""Forms held against whole calls: what each item has earned, and why.

A condition of a rule is asked at every moment of a call; here it is asked once, at its end, of the whole of it: what
was said counts wherever in its window it was said, a share is that of all talk, and who said what is taken as it is
known by then. It is true, false, or not to be judged: where nobody could have heard it, nobody knows who said it, or it
was said in a language that the form does not read.

A changer must know: what cannot be judged is None and leaves the denominator. A call is never marked down for what
Calltide does not know of it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Final

from processors.conversation import change
from processors.forms.language import Figure, FindingOf, Form, FormSet, Item, Section
from processors.insights import OPENING, FinishedCall, Heard
from processors.rules.language import (
    Condition,
    Interruption,
    Length,
    Missing,
    Occurrence,
    Said,
    Silence,
    TalkShare,
    Trend,
    Window,
)
from processors.rules.stage import clock, not_said
from processors.rules.words import Embedder, Matcher, Remembering
from processors.utterances import rounded
from schemas.events import Evaluation, EvaluationItem, EvaluationSection, Evidence, Findings, PartyMetrics, Role

LEAST_JUDGED: Final = 0.5
"""Judgement: a score of less than half of a form is one of another form."""
EVIDENCE: Final = 3
"""Most utterances that an item cites. Judgement: enough to see it; bounds the record."""
TEXT: Final = 300
"""Most letters of each."""
REASON: Final = 300
"""Most letters of what is said of an item."""
MEANINGS: Final = 400
"""Utterances of a call that are compared by meaning with one list of sentences: 2 s of CPU, as in the insights. What
comes behind them is not judged."""
FEW: Final = {"too_short", "no_customer_speech"}
"""States of the insights in which no form can be filled either."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What something comes to; `true` is None where it cannot be judged."""

    true: bool | None
    why: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A form, and where the texts of its conditions are in the matcher: those that are asked for, those that must not
    be there."""

    form: Form
    matcher: Matcher
    groups: dict[Said, tuple[int | None, int | None]]

    @classmethod
    def of(cls, form: Form, embedder: Embedder) -> "Prepared":
        """Makes the vectors of the sentences that conditions ask for by meaning."""
        words: list[Any] = []
        groups: dict[Said, tuple[int | None, int | None]] = {}
        for leaf in (one.leaf for item in form.items for asked in item.conditions for one in asked.walk()):
            if isinstance(leaf, Said) and leaf not in groups:
                places: list[int | None] = []
                for texts in (leaf if leaf.any_words else None, leaf.unless):
                    places.append(None if texts is None else len(words))
                    words += [] if texts is None else [texts]
                groups[leaf] = places[0], places[1]
        return cls(form, Matcher(words, embedder), groups)


class Forms:
    """The forms in effect. `read` reads them; `reload` asks it again when `changed` says so. `embedder` makes the model
    for conditions that ask for a meaning; without such conditions it is not made."""

    def __init__(
        self, read: Callable[[], FormSet], changed: Callable[[], bool], embedder: Callable[[], Embedder]
    ) -> None:
        self._read = read
        self._changed = changed
        self._embedder = Remembering(embedder)
        self._take(read())

    def _take(self, forms: FormSet) -> None:
        self._prepared = [Prepared.of(form, self._embedder) for form in forms.forms]
        self.version = forms.version

    def reload(self) -> bool:
        """Read the forms again if their files have changed; True when others are in effect from now on. Raises
        CalltideError when they are wrong: those before stay."""
        if not self._changed():
            return False
        forms = self._read()
        if forms.version == self.version:
            return False
        self._take(forms)
        return True

    def fill(self, call: FinishedCall, findings: Findings, pipeline_version: str) -> list[Evaluation]:
        """One evaluation for each form of the call's tenant, by the forms' names."""
        self._embedder.forget()
        return [
            _Filling(prepared, call, findings).evaluation(pipeline_version)
            for prepared in self._prepared
            if prepared.form.applies_to(call.info.tenant)
        ]


class _Filling:
    """One form, one call."""

    def __init__(self, prepared: Prepared, call: FinishedCall, findings: Findings) -> None:
        self.prepared, self.call, self.findings = prepared, call, findings
        form, tally = prepared.form, call.tally
        self.foreign = form.languages is not None and call.language not in form.languages
        texts = prepared.matcher.find
        self.texts = [{} if self.foreign else texts(heard.text, call.language) for heard in call.utterances]
        self.compared: dict[Said, int] = {}
        """How many utterances were compared by meaning."""
        said = call.utterances
        self.customers = call.customers()
        self.unheard = [] if tally.started else [(0, said[0].start_ms if said else call.duration_ms)]
        """Where something may have been said that is not known."""
        if call.unread:
            last = min(OPENING, len(said) - 1)
            self.unheard.append((said[last - 1].start_ms, said[last].start_ms))

    # The whole form

    def evaluation(self, pipeline_version: str) -> Evaluation:
        """The form filled."""
        call, form = self.call, self.prepared.form
        state, why = self._unfit()
        sections: list[EvaluationSection] = []
        weighed = judged = 0.0
        if not state:
            for section in form.sections:
                filled, applicable, known = self._section(section)
                sections.append(filled)
                weighed += section.weight * bool(applicable)
                judged += section.weight * known / (applicable or 1)
        share = min(judged / weighed, 1.0) if weighed else 0.0
        if not state and share < LEAST_JUDGED:
            state = "unsupported_language" if self.foreign else "too_little_judged"
            of = f", which was said in “{call.language}”" if self.foreign else ""
            why = f"{share:.0%} of the form could be judged in this call{of}; {LEAST_JUDGED:.0%} are needed"
        scores = [(one.weight, one.score) for one in sections if one.score is not None]
        total = sum(weight for weight, _ in scores)
        score = None if state else rounded(min(sum(weight * of for weight, of in scores) / total, 100))
        return Evaluation(
            call=call.info,
            ended_at=call.ended_at,
            duration_ms=call.duration_ms,
            language=call.language,
            form=form.name,
            form_version=form.version,
            state=state or "ok",
            why=why,
            score=score,
            judged=rounded(share),
            sections=tuple(sections),
            pipeline_version=pipeline_version,
        )

    def _unfit(self) -> tuple[str, str]:
        """Why there is no use in filling it: a state, and the same for people; empty: there is."""
        call = self.call
        if self.findings.state in FEW:
            return self.findings.state, self.findings.why
        if not any(heard.role == "agent" for heard in call.utterances):
            silent = "agent" in call.info.roles
            nothing = "nothing was understood of what the agent said"
            return "no_agent_speech", nothing if silent else "nobody in the call is known to be the agent"
        return "", ""

    def _section(self, section: Section) -> tuple[EvaluationSection, float, float]:
        """(the section, its points that apply to the call, those of them that could be judged)."""
        items: list[EvaluationItem] = []
        applicable = known = earned = 0.0
        for item in section.items:
            applies, verdict = self._item(item)
            got = None if verdict.true is None else item.points * verdict.true
            items.append(
                EvaluationItem(
                    name=item.name, points=item.points, earned=got, why=_short(verdict.why), evidence=verdict.evidence
                )
            )
            applicable += item.points * applies
            if got is not None:
                known, earned = known + item.points, earned + got
        score = rounded(min(100 * earned / known, 100)) if known else None
        return (
            EvaluationSection(name=section.name, weight=section.weight, score=score, items=tuple(items)),
            applicable,
            known,
        )

    def _item(self, item: Item) -> tuple[bool, Verdict]:
        """(whether the item applies to the call, what it comes to)."""
        about: tuple[Evidence, ...] = ()
        if item.only_if is not None:
            applies = self._condition(item.only_if)
            if not applies.true:
                known = applies.true is not None
                why = "does not apply" if known else "it is not known whether it applies"
                return not known, Verdict(None, f"{why}: {applies.why}")
            about = applies.evidence
        if item.when is not None:
            verdict = self._condition(item.when)
        elif item.figure is not None:
            verdict = self._figure(item.figure)
        else:
            verdict = self._finding(item.finding or FindingOf())
        if verdict.true is not None and not verdict.evidence:
            return True, Verdict(verdict.true, verdict.why, about)
        return True, verdict

    # Conditions

    def _condition(self, condition: Condition) -> Verdict:
        if condition.not_ is not None:
            verdict = self._condition(condition.not_)
            return Verdict(None if verdict.true is None else not verdict.true, verdict.why, verdict.evidence)
        if condition.parts:
            return _joined([self._condition(part) for part in condition.parts], deciding=condition.any is not None)
        asks = condition.leaf
        if isinstance(asks, Said):
            return self._said(asks)
        if isinstance(asks, Length):
            return Verdict(
                self.call.duration_ms >= asks.at_least_s * 1_000, f"the call lasts {clock(self.call.duration_ms)}"
            )
        if isinstance(asks, TalkShare):
            return self._talk_share(asks)
        if isinstance(asks, Trend):
            return self._trend(asks)
        if isinstance(asks, Silence):
            return self._silence(asks)
        if isinstance(asks, Interruption):
            return self._interruption(asks)
        raise AssertionError("a category, which no form is read with")

    def _said(self, asks: Said) -> Verdict:
        said = self._searched(asks)
        if isinstance(asks, Missing) and said.true is not None:
            return Verdict(not said.true, said.why, said.evidence)
        return said

    def _searched(self, asks: Said) -> Verdict:
        """Whether it was said."""
        window = asks.window
        if (blind := self._blind(asks)) is not None:
            return blind
        found: list[tuple[Heard, str]] = []
        possible = False
        for number, heard in self._within(window):
            sure = self._is(asks.by, heard.role)
            if not (sure or heard.role == "unknown") or not self._fits(asks, heard):
                continue
            text = self._text(asks, number)
            if text is None:
                continue
            if not sure:
                possible = True
                continue
            found.append((heard, text))
            if _often([one.start_ms for one, _ in found[-asks.times :]], asks) is not None:
                enough = found[-asks.times :]
                return Verdict(True, "; ".join(_quote(*one) for one in enough), self._cited(one for one, _ in enough))
        if possible:
            return Verdict(
                None, "somebody said it of whom nobody knows whether it was the " + " or ".join(asks.by or ())
            )
        if self._gap(window) or self.compared.get(asks, 0) > MEANINGS:
            return Verdict(None, "not all of what was said there is known")
        # What was said instead, where it was due.
        there = [heard for _, heard in self._within(window) if window is not None and self._is(asks.by, heard.role)]
        late = window is not None and (window.last_s is not None or window.last_percent is not None)
        there = [heard for heard, _ in found] or (there[-EVIDENCE:] if late else there)
        counted = f"{len(found)} of {asks.times} times; " if found else ""
        return Verdict(False, counted + not_said(asks), self._cited(there))

    def _blind(self, asks: Said) -> Verdict | None:
        """Why nobody can tell whether it was said."""
        call, window = self.call, asks.window
        others = asks.language is not None and call.language not in asks.language
        if others or (self.foreign and (asks.any_words or asks.unless is not None)):
            return Verdict(None, f"it was said in “{call.language}”, which this is not asked of")
        if window is not None and window.opens_ms(call.duration_ms) > call.duration_ms:
            return Verdict(None, "the call never came to that part")
        scored = asks.below is not None or asks.above is not None
        if scored and all(heard.score is None for heard in call.utterances):
            return Verdict(None, "no sentiment was computed")
        if asks.emotion is not None and not any(heard.emotion for heard in call.utterances):
            return Verdict(None, "no emotion was computed")
        return None

    def _text(self, asks: Said, number: int) -> str | None:
        """What of it the utterance has; None: nothing."""
        words, unless = self.prepared.groups[asks]
        texts, heard = self.texts[number], self.call.utterances[number]
        if unless in texts:
            return None
        if words is None:
            return heard.text
        if words in texts:
            return texts[words]
        if asks.meaning is None:
            return None
        self.compared[asks] = self.compared.get(asks, 0) + 1
        if self.compared[asks] > MEANINGS:
            return None
        return None if self.prepared.matcher.means(heard.text, words) is None else heard.text

    def _fits(self, asks: Said, heard: Heard) -> bool:
        """Whether everything that is asked of an utterance is so, but who says what."""
        if (asks.below is not None or asks.above is not None) and (
            heard.score is None or not _between(asks, heard.score)
        ):
            return False
        return asks.emotion is None or heard.emotion in asks.emotion

    def _trend(self, asks: Trend) -> Verdict:
        scored = [heard for _, heard in self._within(asks.window) if self._is(asks.by, heard.role)]
        scored = [heard for heard in scored if heard.score is not None]
        if not scored:
            return Verdict(None, "nothing of it was scored")
        rows: list[list[Heard]] = []
        for fits, several in groupby(scored, lambda heard: _between(asks, heard.score or 0.0)):
            run = list(several) if fits else []
            rows += (run[at : at + asks.utterances] for at in range(len(run) - asks.utterances + 1))
        side = " and ".join(
            f"{name} {limit:g}" for name, limit in (("below", asks.below), ("above", asks.above)) if limit is not None
        )
        who = " or ".join(asks.by) if asks.by else "anybody"
        told = f"{who} {side} in {asks.utterances} utterances in a row"
        if (at := _often([row[-1].start_ms for row in rows], asks)) is not None:
            return Verdict(True, told, self._cited(rows[at]))
        if self._gap(asks.window):
            return Verdict(None, "not all of what was said there is known")
        return Verdict(False, f"never {told}")

    def _silence(self, asks: Silence) -> Verdict:
        least_ms = round(asks.at_least_s * 1_000)
        found = [
            silence
            for silence in self.call.tally.silences()[3]
            if silence.end_ms - silence.start_ms >= least_ms and self._holds(asks.window, silence.start_ms + least_ms)
        ]
        told = f"nobody spoke for {asks.at_least_s:g} s"
        if (at := _often([one.start_ms + least_ms for one in found], asks)) is not None:
            some = found[at : at + asks.times]
            why = "; ".join(f"{told} from {clock(one.start_ms)}" for one in some)
            return Verdict(True, why, self._cited(self._before(one.start_ms) for one in some))
        return self._absent(asks.window, f"it never was that {told}")

    def _interruption(self, asks: Interruption) -> Verdict:
        told = self.call.tally.interruptions()
        if told is None:
            return Verdict(None, "the parties share a channel, on which nobody can be heard to interrupt")
        roles = {party.speaker: party.role for party in self.call.tally.parties()}
        found = [
            one
            for one in told
            if self._is(asks.by, roles.get(one.by, "unknown")) and self._holds(asks.window, one.start_ms)
        ]
        who = " or ".join(asks.by) if asks.by else "somebody"
        if (at := _often([one.start_ms for one in found], asks)) is not None:
            some = {(one.by, one.start_ms) for one in found[at : at + asks.times]}
            heard = [one for one in self.call.utterances if (one.speaker, one.start_ms) in some]
            return Verdict(True, f"{who} has interrupted {len(found)} times", self._cited(heard))
        return self._absent(asks.window, f"{who} has interrupted {len(found)} times")

    def _talk_share(self, asks: TalkShare) -> Verdict:
        call, tally = self.call, self.call.tally
        if not tally.started or call.duration_ms < asks.after_s * 1_000 or not tally.talk_ms():
            return Verdict(
                None, f"shares are known after {asks.after_s:g} s of a call that was heard from its beginning"
            )
        share = sum(tally.talk_ms(role) for role in self._roles(asks.by)) / tally.talk_ms()
        longest = sorted(
            (heard for heard in call.utterances if self._is(asks.by, heard.role)),
            key=lambda heard: (heard.start_ms - heard.end_ms, heard.start_ms),
        )
        return Verdict(
            _between(asks, share), f"{' and '.join(asks.by)} has {share:.0%} of the talk", self._cited(longest)
        )

    def _absent(self, window: Window | None, why: str) -> Verdict:
        """It did not happen; whether it could have been noticed is another question."""
        partial = not self.call.tally.started and self._gap(window)
        return Verdict(None, "the call was not heard from its beginning") if partial else Verdict(False, why)

    # Figures and findings

    def _figure(self, asks: Figure) -> Verdict:
        tally = self.call.tally
        if not tally.started:
            return Verdict(None, "the call was not heard from its beginning")
        party: PartyMetrics | None = None
        if asks.of == "call":
            value = self._of_call(asks.name)
        else:
            roles = self._roles((asks.of,))
            parties = [one for one in tally.parties() if one.role in roles]
            if not parties:
                return Verdict(None, f"the {asks.of} was not heard")
            party = max(parties, key=lambda one: one.talk_ms)
            value = getattr(party, asks.name)
        if value is None:
            apart = len(self.call.info.roles) > 1
            return Verdict(None, "it could not be measured" if apart else "it cannot be measured on a shared channel")
        true = (asks.at_least is None or value >= asks.at_least) and (asks.at_most is None or value <= asks.at_most)
        bounds = (("at least", asks.at_least), ("at most", asks.at_most))
        wanted = " and ".join(f"{name} {_measured(asks.name, limit)}" for name, limit in bounds if limit is not None)
        why = f"{asks.of}: {asks.name.removesuffix('_ms').replace('_', ' ')} {_measured(asks.name, value)} ({wanted})"
        return Verdict(true, why, self._cited(self._shown(asks.name, party, true)))

    def _of_call(self, name: str) -> float | None:
        call, tally = self.call, self.call.tally
        silences, silence_ms, longest_ms, _ = tally.silences()
        return {
            "change": change(tally.quarters()),
            "duration_ms": call.duration_ms,
            "longest_silence_ms": longest_ms,
            "score": tally.score(),
            "silence_ms": silence_ms,
            "silences": silences,
            "talk_ms": tally.talk_ms(),
        }[name]

    def _shown(self, name: str, party: PartyMetrics | None, well: bool) -> Iterable[Heard]:
        """The utterances that show a figure best, the best first."""
        tally, said = self.call.tally, self.call.utterances
        if "silence" in name:
            longest = sorted(tally.silences()[3], key=lambda one: (one.start_ms - one.end_ms, one.start_ms))
            return (self._before(one.start_ms) for one in longest[: 1 if name.startswith("longest") else EVIDENCE])
        mine = [heard for heard in said if party is None or heard.speaker == party.speaker]
        if name in ("interruptions", "interrupted", "overtalk_ms"):
            of = "of" if name == "interrupted" else "by"
            speaker = party.speaker if party else ""
            cut_ins = {(one.by, one.start_ms) for one in tally.interruptions() or () if getattr(one, of) == speaker}
            return (heard for heard in said if (heard.speaker, heard.start_ms) in cut_ins)
        if name in ("score", "change"):
            sign = -1 if well else 1
            scored = [heard for heard in mine if heard.score is not None]
            return sorted(scored, key=lambda heard: (sign * (heard.score or 0.0), heard.start_ms))
        if name == "response_ms":
            who = party.speaker if party else ""
            answers = [(b.start_ms - a.end_ms, b) for a, b in pairwise(said) if a.speaker != b.speaker == who]
            sign = 1 if well else -1
            return (heard for _, heard in sorted(answers, key=lambda one: (sign * one[0], one[1].start_ms)))
        if name == "longest_monologue_ms":
            runs = (list(several) for _, several in groupby(said, lambda heard: heard.speaker))
            own = [run for run in runs if party is not None and run[0].speaker == party.speaker]
            return max(own, key=lambda run: run[-1].end_ms - run[0].start_ms, default=[])
        return sorted(mine, key=lambda heard: (heard.start_ms - heard.end_ms, heard.start_ms))

    def _finding(self, asks: FindingOf) -> Verdict:
        findings = self.findings
        if findings.state != "ok":
            return Verdict(None, f"there are no insights: {findings.why}")
        if asks.resolved is not None:
            resolved = findings.resolution.resolved
            if resolved == "unknown":
                return Verdict(None, "whether the matter was settled could not be found out")
            evidence = findings.resolution.evidence
            return Verdict(resolved in asks.resolved, f"the matter was settled: {resolved}", _shortened(evidence))
        which = asks.present or asks.absent or ""
        known = getattr(findings, which)
        several: Sequence[Any] = known if isinstance(known, tuple) else () if known is None else (known,)
        found = [
            one
            for one in several
            if (asks.name is None or one.name in asks.name) and (asks.by is None or one.owner in asks.by)
        ]
        what = " or ".join(asks.name or (which,)).replace("_", " ")
        why = "; ".join(one.text for one in found) if found else f"{what}: none was found"
        evidence = tuple(evidence for one in found for evidence in one.evidence)
        return Verdict(bool(found) == (asks.present is not None), why, _shortened(evidence))

    # The call

    def _roles(self, by: Iterable[Role]) -> frozenset[Role]:
        roles = frozenset(by)
        return roles | self.customers if "customer" in roles else roles

    def _is(self, by: Iterable[Role] | None, role: Role) -> bool:
        return by is None or role in self._roles(by)

    def _holds(self, window: Window | None, at_ms: int) -> bool:
        return window is None or window.holds(at_ms, self.call.duration_ms)

    def _within(self, window: Window | None) -> Iterator[tuple[int, Heard]]:
        """The utterances that begin in a window, with their numbers."""
        return (
            (number, heard) for number, heard in enumerate(self.call.utterances) if self._holds(window, heard.start_ms)
        )

    def _gap(self, window: Window | None) -> bool:
        """Whether something may have been said in a window that is not known."""
        for since_ms, to_ms in self.unheard:
            opens_ms = window.opens_ms(self.call.duration_ms) if window else 0
            if self._holds(window, since_ms) or self._holds(window, to_ms) or since_ms <= opens_ms < to_ms:
                return True
        return False

    def _before(self, at_ms: int) -> Heard:
        """The last utterance that began before a moment, or the first of the call."""
        said = self.call.utterances
        return max((heard for heard in said if heard.start_ms < at_ms), key=lambda one: one.end_ms, default=said[0])

    def _cited(self, heard: Iterable[Heard]) -> tuple[Evidence, ...]:
        """The first of these as evidence, each once, in the order of time."""
        some: dict[tuple[int, int], Heard] = {}
        for one in heard:
            some.setdefault((one.start_ms, one.channel), one)
            if len(some) == EVIDENCE:
                break
        return tuple(self.call.evidence(one, one.text[:TEXT]) for _, one in sorted(some.items()))


def _often(moments: Sequence[int], asks: Occurrence) -> int | None:
    """From which of these moments, which are in order, there are as many as are asked for, near enough to each
    other."""
    for at in range(len(moments) - asks.times + 1):
        if asks.within_s is None or moments[at + asks.times - 1] - moments[at] <= asks.within_s * 1_000:
            return at
    return None


def _joined(verdicts: Sequence[Verdict], deciding: bool) -> Verdict:
    """Of `any` (one that is true decides) or `all` (one that is false does)."""
    decided = [one for one in verdicts if one.true is deciding]
    unknown = [one for one in verdicts if one.true is None]
    telling = decided or unknown or list(verdicts)
    true = deciding if decided else None if unknown else not deciding
    evidence = dict.fromkeys(evidence for one in telling for evidence in one.evidence)
    return Verdict(true, "; ".join(dict.fromkeys(one.why for one in telling)), tuple(evidence)[:EVIDENCE])


def _between(asks: Any, value: float) -> bool:
    return (asks.below is None or value < asks.below) and (asks.above is None or value > asks.above)


def _shortened(evidence: Sequence[Evidence]) -> tuple[Evidence, ...]:
    return tuple(one.model_copy(update={"text": one.text[:TEXT]}) for one in evidence[:EVIDENCE])


# For people


def _quote(heard: Heard, text: str) -> str:
    return f"{heard.role} at {clock(heard.start_ms)}: “{_short(text, 100)}”"


def _measured(name: str, value: float) -> str:
    if name.endswith("_ms"):
        return f"{value / 1_000:g} s"
    return f"{value:.0%}" if name == "talk_share" else f"{value:g}".replace("-", "−")


def _short(text: str, most: int = REASON) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
