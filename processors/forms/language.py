"""The language of form files: what a form may ask of a call, and what of it makes no sense.

Conditions are those of rules (processors.rules.language), meant of the whole call as it is known at its end.

A changer must know: people write these files by hand, so whatever is wrong is told with its line and field; and a
form's version is a hash of what it means, so that scores of two versions are never taken for comparable by mistake.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from processors.insights_extractive import ADVICE
from processors.insights_phrases import ISSUES, OBJECTIONS
from processors.rules.language import (
    Condition,
    Document,
    Model,
    Name,
    Rule,
    RuleError,
    RuleSet,
    Said,
    Several,
    digest,
    impossible,
)
from schemas.errors import CalltideError
from schemas.events import Role

FORMS: Final = 20
"""Most forms. Judgement: each is a record more at the end of every call of its tenants."""
ITEMS: Final = 100
"""Most items of a form. Judgement: more nobody reads, and a record has 2 MB."""
PARTY_FIGURES: Final = (
    "change", "interrupted", "interruptions", "longest_monologue_ms", "loudness_lufs", "overtalk_ms", "response_ms",
    "score", "talk_ms", "talk_share", "turns", "words", "words_per_minute",
)  # fmt: skip
"""Fields of `PartyMetrics` that an item may ask for."""
CALL_FIGURES: Final = ("change", "duration_ms", "longest_silence_ms", "score", "silence_ms", "silences", "talk_ms")
"""What it may ask of the call as a whole."""
FINDINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "reason": (),
    "outcome": (),
    "action_items": (),
    "issues": tuple(ISSUES),
    "objections": tuple(OBJECTIONS),
    "coaching": tuple(ADVICE),
}
"""Findings of the extractive engine, and which sorts there are of each."""

Weight = Annotated[float, Field(gt=0, le=1_000)]
Kind = Literal["reason", "outcome", "action_items", "issues", "objections", "coaching"]


class Figure(Model):
    """A figure of the metrics within bounds, both of which may be reached."""

    name: str
    of: Literal["agent", "customer", "call"] = "agent"
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _known_and_bounded(self) -> "Figure":
        known = CALL_FIGURES if self.of == "call" else PARTY_FIGURES
        if self.name not in known:
            raise ValueError(f"there is no figure {self.name} of the {self.of}; there are {', '.join(known)}")
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least or at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"contradiction: nothing is at least {self.at_least:g} and at most {self.at_most:g}")
        return self


class FindingOf(Model):
    """What the insights have found, or have not."""

    resolved: Several[Literal["yes", "no"]] | None = None
    present: Kind | None = None
    absent: Kind | None = None
    name: Several[str] | None = None
    by: Several[Role] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "FindingOf":
        if sum(one is not None for one in (self.resolved, self.present, self.absent)) != 1:
            raise ValueError("a finding is exactly one of resolved, present, absent")
        which = self.present or self.absent or "resolved"
        known = FINDINGS.get(which, ())
        if unknown := [name for name in self.name or () if name not in known]:
            raise ValueError(f"{which} has no sort {unknown[0]}; there are {', '.join(known) or 'none'}")
        if self.by is not None and which != "action_items":
            raise ValueError("by is for action_items: whose they are")
        return self


class Item(Model):
    """What is asked, and how many points there are for it."""

    name: Name
    description: str = ""
    points: Weight = 1
    when: Condition | None = None
    figure: Figure | None = None
    finding: FindingOf | None = None
    only_if: Condition | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Item":
        if sum(one is not None for one in (self.when, self.figure, self.finding)) != 1:
            raise ValueError("an item is exactly one of when, figure, finding")
        return self

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Those that it has."""
        return tuple(one for one in (self.only_if, self.when) if one is not None)


class Section(Model):
    """Items that are weighed together."""

    name: Name
    weight: Weight
    items: Annotated[tuple[Item, ...], Field(min_length=1, max_length=ITEMS)]


class Form(Model):
    """A score card."""

    name: Name
    description: str = ""
    enabled: bool = True
    tenants: Several[Annotated[str, Field(min_length=1)]] | None = None
    languages: Several[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] | None = None
    rules: Annotated[str, Field(min_length=1)] | None = None
    sections: Annotated[tuple[Section, ...], Field(min_length=1, max_length=ITEMS)]

    @cached_property
    def version(self) -> str:
        """A hash of what it means: 12 hexadecimal digits."""
        texts: Any = {
            "description": True,
            "rules": True,
            "sections": {"__all__": {"items": {"__all__": {"description"}}}},
        }
        return digest(self.model_dump(mode="json", by_alias=True, exclude=texts))

    @property
    def items(self) -> Iterator[Item]:
        """Of all sections, in order."""
        return (item for section in self.sections for item in section.items)

    def applies_to(self, tenant: str) -> bool:
        """Whether it is filled for calls of this tenant."""
        return self.tenants is None or tenant in self.tenants


class FormFile(Model):
    """A file of forms."""

    tenants: Several[Annotated[str, Field(min_length=1)]] | None = None
    forms: Annotated[tuple[Form, ...], Field(max_length=FORMS)]


class FormError(RuleError):
    """What is wrong with form files. `faults` has one line for each fault, with file, line and field."""

    lister = "calltide forms check"


@dataclass(frozen=True)
class FormSet:
    """The forms in effect: every one that is enabled, by name."""

    forms: tuple[Form, ...]

    @cached_property
    def version(self) -> str:
        """A hash of what the forms mean: 12 hexadecimal digits."""
        return digest([(form.name, form.version) for form in self.forms])


def parse(texts: Mapping[str, str], rules: Callable[[str], RuleSet]) -> FormSet:
    """The forms of these files, text by name; `rules` reads those that a form names. Raises FormError with every fault
    that is found."""
    faults: list[str] = []
    found: list[Form] = []
    places: dict[str, list[tuple[Form, str]]] = {}
    for name in sorted(texts):
        try:
            document = Document(texts[name], name)
            read = document.as_a(FormFile, "forms")
        except RuleError as error:
            faults += error.faults
            continue
        for at, form in enumerate(read.forms if read else ()):
            own = (
                form if form.tenants is not None or read is None else form.model_copy(update={"tenants": read.tenants})
            )
            if own.enabled:
                place = document.place(("forms", at))
                try:
                    own = _with_rules(own, rules) if own.rules else own
                except CalltideError as error:
                    faults.append(f"{place}: {error}")
                faults += _contradictions(own, document, at)
                faults += (
                    f"{place}: another form has this name ({elsewhere}); names are how score cards are told apart"
                    for other, elsewhere in places.setdefault(own.name, [])
                    if own.tenants is None or other.tenants is None or set(own.tenants) & set(other.tenants)
                )
                places[own.name].append((own, place))
                found.append(own)
    if len(found) > FORMS:
        faults.append(f"{len(found)} forms are more than {FORMS}; each is a record more at the end of every call")
    if faults:
        raise FormError(faults)
    return FormSet(tuple(sorted(found, key=lambda form: (form.name, form.tenants or ()))))


def _with_rules(form: Form, rules: Callable[[str], RuleSet]) -> Form:
    """The form with the conditions of rules in the place of the categories that it asks for. Raises CalltideError:
    there are no such rules."""
    found = rules(form.rules or "")

    def whole(condition: Condition) -> Condition:
        if condition.category is None:
            if condition.not_ is not None:
                return condition.model_copy(update={"not_": whole(condition.not_)})
            joined = {"all": condition.all, "any": condition.any}
            return condition.model_copy(update={how: of and tuple(map(whole, of)) for how, of in joined.items()})
        givers = [rule for rule in found.rules if rule.gives == condition.category and _holds(rule, form)]
        if not givers:
            raise CalltideError(
                f"no rule of {form.rules} gives the category {condition.category} to all calls that this form is for"
            )
        return Condition(any=tuple(whole(rule.when) for rule in givers))

    def of_item(item: Item) -> Item:
        asked = {"when": item.when, "only_if": item.only_if}
        return item.model_copy(update={name: one and whole(one) for name, one in asked.items()})

    sections = tuple(
        section.model_copy(update={"items": tuple(map(of_item, section.items))}) for section in form.sections
    )
    return form.model_copy(update={"sections": sections})


def _holds(rule: Rule, form: Form) -> bool:
    """Whether a rule is for all calls that a form is for."""
    return rule.tenants is None or (form.tenants is not None and set(form.tenants) <= set(rule.tenants))


# What makes no sense


def _contradictions(form: Form, document: Document, at: int) -> Iterator[str]:
    if sum(1 for _ in form.items) > ITEMS:
        yield f"{document.place(('forms', at))}: more than {ITEMS} items"
    names: set[str] = set()
    for i, section in enumerate(form.sections):
        where = ("forms", at, "sections", i)
        if section.name in names:
            yield f"{document.place(where)}: the section {section.name} is there twice"
        names.add(section.name)
        its: set[str] = set()
        for j, item in enumerate(section.items):
            place = document.place((*where, "items", j))
            if item.name in its:
                yield f"{place}: the item {item.name} is there twice"
            its.add(item.name)
            yield from (f"{place}: {why}" for why in _senseless(item))


def _senseless(item: Item) -> Iterator[str]:
    for leaf in (one.leaf for condition in item.conditions for one in condition.walk()):
        if isinstance(leaf, str):
            yield f"category {leaf}: say in the form whose it is: `rules: packaged`, or the path of your rules"
        elif isinstance(leaf, Said) and leaf.emotion_at_least is not None:
            yield "emotion_at_least is not known at a call's end; ask for emotion alone: the likeliest one"
    if item.conditions:
        yield from (f"contradiction: {why}" for why in impossible(Condition(all=item.conditions)))
