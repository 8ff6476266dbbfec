"""The language of rule files: what a rule may say, and what of it makes no sense.

A changer must know: people write these files by hand, so whatever is wrong is told with its line and field; and the
version of a set of rules is a hash of what the rules mean, not of how they are written: comments, order of the files
and defaults that are spelled out do not change it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Final, TypeVar

import re2
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from processors.conversation import SILENCE_MS
from schemas.errors import CalltideError
from schemas.events import EmotionLabel, Polarity, Probability, Role, Severity

RULES: Final = 1_000
"""Most rules. Judgement: ten times what the speed is promised for (benchmarks/intelligence.py)."""
NODES: Final = 200_000
"""Most values in a file, aliases counted wherever they stand: a small file can stand for a huge one."""
DEPTH: Final = 30
"""Deepest nesting of a file."""
TIMES: Final = 20
"""Most occurrences that a condition may ask for: they are kept for each call. Judgement."""


def _one_or_more(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


T = TypeVar("T")
Several = Annotated[tuple[T, ...], BeforeValidator(_one_or_more), Field(min_length=1, max_length=1_000)]
Phrase = Annotated[str, Field(min_length=1, max_length=500)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]
Name = Annotated[str, Field(pattern=r"^[\w][\w .:/-]*$", max_length=100)]


def pattern_options() -> re2.Options:
    """How all regexes of rules are read: by RE2, in time linear in the text, large and small letters alike."""
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    return options


def _readable(pattern: str) -> str:
    try:
        re2.compile(pattern, pattern_options())
    except re2.error as error:
        why = error.args[0]
        found = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
        raise ValueError(
            f"RE2 does not take this regex: {found} (no look-ahead, no back-references, at most 1,000 repetitions)"
        ) from None
    return pattern


Regex = Annotated[Phrase, AfterValidator(_readable)]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, coerce_numbers_to_str=False)


class Meaning(Model):
    """Sentences that mean something like these."""

    like: Several[Phrase]
    at_least: Annotated[float, Field(gt=0, le=1)] = 0.55


class Words(Model):
    """Texts, of which one is enough."""

    exact: Several[Phrase] | None = None
    stem: Several[Phrase] | None = None
    regex: Several[Regex] | None = None
    meaning: Meaning | None = None

    @model_validator(mode="before")
    @classmethod
    def _meaning_is_a_list_or_more(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("meaning"), str | list):
            return value | {"meaning": {"like": value["meaning"]}}
        return value

    @property
    def any_words(self) -> bool:
        """Whether any text is asked for."""
        return any((self.exact, self.stem, self.regex, self.meaning))


class Unless(Words):
    """Texts of which none may be in the utterance."""

    meaning: None = None


class Window(Model):
    """A part of the call. An utterance is in it when it begins in it."""

    from_s: Seconds | None = None
    to_s: Seconds | None = None
    first_s: Seconds | None = None
    last_s: Seconds | None = None
    first_percent: Annotated[float, Field(gt=0, lt=100)] | None = None
    last_percent: Annotated[float, Field(gt=0, lt=100)] | None = None

    @model_validator(mode="after")
    def _one_part(self) -> "Window":
        between = self.from_s is not None or self.to_s is not None
        others = sum(one is not None for one in (self.first_s, self.last_s, self.first_percent, self.last_percent))
        if between + others != 1:
            raise ValueError("give from_s and to_s, or one of first_s, last_s, first_percent, last_percent")
        if self.from_s is not None and self.to_s is not None and self.from_s >= self.to_s:
            raise ValueError(f"nothing is after {self.from_s:g} s and before {self.to_s:g} s")
        return self

    @property
    def at_end(self) -> bool:
        """Whether it is known only when the call has ended what is in it."""
        return self.last_s is not None or self.first_percent is not None or self.last_percent is not None

    @property
    def closes_ms(self) -> int | None:
        """Media time at which it is over; None: with the call."""
        closes_s = self.to_s if self.first_s is None else self.first_s
        return None if closes_s is None else round(closes_s * 1_000)

    def opens_ms(self, length_ms: int) -> float:
        """Media time at which it begins in a call of this length."""
        if self.last_s is not None:
            return length_ms - self.last_s * 1_000
        if self.last_percent is not None:
            return length_ms * (100 - self.last_percent) / 100
        return (self.from_s or 0) * 1_000

    def holds(self, at_ms: int, length_ms: int | None) -> bool:
        """Whether a moment is in it; `length_ms` of the call, None while it goes on: true for what may yet be in it."""
        if self.at_end and length_ms is None:
            return True
        if self.first_percent is not None:
            return at_ms * 100 <= (length_ms or 0) * self.first_percent
        closes_ms = self.closes_ms
        return self.opens_ms(length_ms or 0) <= at_ms and (closes_ms is None or at_ms < closes_ms)


class Occurrence(Model):
    """Something that happens at moments of a call."""

    times: Annotated[int, Field(ge=1, le=TIMES)] = 1
    within_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    window: Window | None = None


class _Scored(Model):
    below: Polarity | None = None
    above: Polarity | None = None

    @model_validator(mode="after")
    def _a_score_can_be_both(self) -> Any:
        if self.below is not None and self.above is not None and self.above >= self.below:
            raise ValueError(f"contradiction: no score is above {self.above:g} and below {self.below:g}")
        return self


class Said(Words, _Scored, Occurrence):
    """An utterance of which all of this is true."""

    by: Several[Role] | None = None
    unless: Unless | None = None
    language: Several[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] | None = None
    emotion: Several[EmotionLabel] | None = None
    emotion_at_least: Probability | None = None

    @model_validator(mode="after")
    def _of_an_emotion(self) -> Any:
        if self.emotion_at_least is not None and self.emotion is None:
            raise ValueError("emotion_at_least needs emotion: which one")
        return self


class Missing(Said):
    """What was not said."""

    within_s: None = None


class Trend(_Scored, Occurrence):
    """So many utterances in a row of which each is scored so."""

    by: Several[Role] | None = None
    utterances: Annotated[int, Field(ge=2, le=TIMES)] = 3

    @model_validator(mode="after")
    def _of_a_score(self) -> Any:
        if self.below is None and self.above is None:
            raise ValueError("give below or above: a score from -1 to 1")
        return self


class Silence(Occurrence):
    """Nobody speaks."""

    at_least_s: Annotated[float, Field(ge=SILENCE_MS / 1_000, le=86_400)] = SILENCE_MS / 1_000


class Interruption(Occurrence):
    """A party begins while another one speaks, and both go on."""

    by: Several[Role] | None = None


class TalkShare(Model):
    """A party's part of all talk so far."""

    by: Several[Role]
    above: Annotated[float, Field(ge=0, lt=1)] | None = None
    below: Annotated[float, Field(gt=0, le=1)] | None = None
    after_s: Seconds = 60

    @model_validator(mode="after")
    def _a_share_can_be_both(self) -> Any:
        if self.above is None and self.below is None:
            raise ValueError("give above or below: a share from 0 to 1")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"contradiction: no share is above {self.above:g} and below {self.below:g}")
        return self


class Length(Model):
    """The call has lasted so long."""

    at_least_s: Annotated[float, Field(gt=0, le=86_400)]


class Condition(Model):
    """One of these."""

    all: Annotated[tuple["Condition", ...], Field(min_length=1, max_length=100)] | None = None
    any: Annotated[tuple["Condition", ...], Field(min_length=1, max_length=100)] | None = None
    not_: "Condition | None" = Field(None, alias="not")
    said: Said | None = None
    missing: Missing | None = None
    trend: Trend | None = None
    silence: Silence | None = None
    interruption: Interruption | None = None
    talk_share: TalkShare | None = None
    length: Length | None = None
    category: Name | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Condition":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(field.alias or name for name, field in type(self).model_fields.items())
            found = " and ".join(name.rstrip("_") for name in given) or "nothing"
            raise ValueError(f"a condition is exactly one of {names}, here is {found}; join several by all or any")
        return self

    @property
    def leaf(self) -> "Leaf | None":
        """What it asks for, where it is not made of other conditions."""
        given = (self.said, self.missing, self.trend, self.silence, self.interruption, self.talk_share, self.length)
        return next((one for one in given if one is not None), self.category)

    @property
    def parts(self) -> tuple["Condition", ...]:
        """The conditions that it is made of."""
        return self.all or self.any or ((self.not_,) if self.not_ else ())

    def walk(self) -> Iterator["Condition"]:
        """This one and all that it is made of, in order."""
        yield self
        for part in self.parts:
            yield from part.walk()


Leaf = Said | Trend | Silence | Interruption | TalkShare | Length | str


class AlertOf(Model):
    """How somebody is told."""

    severity: Severity = "warning"
    cooldown_s: Seconds = 300
    message: Annotated[str, Field(max_length=300)] = ""


class Rule(Model):
    """When a call belongs to a category, and whether somebody is told."""

    name: Name
    description: str = ""
    enabled: bool = True
    tenants: Several[Annotated[str, Field(min_length=1)]] | None = None
    category: Name | None = None
    alert: AlertOf | None = None
    when: Condition

    @property
    def gives(self) -> str:
        """The category of the calls that it finds: its name where it says no other."""
        return self.category or self.name

    @cached_property
    def version(self) -> str:
        """A hash of what it means: 12 hexadecimal digits."""
        means = self.model_dump(mode="json", by_alias=True, exclude={"description"})
        return digest(means | {"category": self.gives})

    @cached_property
    def needs(self) -> frozenset[str]:
        """The categories that it asks for."""
        return frozenset(one.category for one in self.when.walk() if one.category is not None)

    def applies_to(self, tenant: str) -> bool:
        """Whether calls of this tenant are held against it."""
        return self.tenants is None or tenant in self.tenants


class RuleFile(Model):
    """A file of rules."""

    tenants: Several[Annotated[str, Field(min_length=1)]] | None = None
    rules: Annotated[tuple[Rule, ...], Field(max_length=RULES)]


class RuleError(CalltideError):
    """What is wrong with rule files. `faults` has one line for each fault, with file, line and field."""

    lister = "calltide rules check"

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        more = f" (and {len(faults) - 1} more; `{self.lister}` lists them)" if len(faults) > 1 else ""
        super().__init__(f"{faults[0]}{more}")


@dataclass(frozen=True)
class RuleSet:
    """The rules in effect: every one that is enabled, those that others ask for before them."""

    rules: tuple[Rule, ...]

    @cached_property
    def version(self) -> str:
        """A hash of what the rules mean: 12 hexadecimal digits."""
        return digest(sorted((rule.name, rule.version) for rule in self.rules))

    @cached_property
    def tenants(self) -> frozenset[str]:
        """The tenants that any rule names."""
        return frozenset(tenant for rule in self.rules for tenant in rule.tenants or ())

    def of(self, tenant: str) -> tuple[Rule, ...]:
        """The rules that hold for a tenant, in order."""
        return tuple(rule for rule in self.rules if rule.applies_to(tenant))


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# Reading

Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML in which yes, no, on and off are words, as in YAML 1.2: people say them."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (as it is declared there)
        letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool") or letter in "tTfF"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class Document:
    """A YAML document as plain values, and the line of each of them."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.lines: dict[Path, int] = {(): 1}
        self._left = NODES
        try:
            node = yaml.compose(text, Loader=_Loader)
            self._loader = _Loader("")
            self.value = None if node is None else self._value(node, ())
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            what = " ".join(part for part in (error.context, error.problem) if part)
            raise RuleError([f"{name}:{line}: this is no YAML: {what}"]) from None
        except yaml.YAMLError as error:
            raise RuleError([f"{name}:1: this is no YAML: {str(error).splitlines()[0]}"]) from None
        except (RecursionError, ValueError) as error:
            raise RuleError([f"{name}:1: this cannot be read: {error}"]) from None

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._left -= 1
        line = node.start_mark.line + 1
        if self._left < 0 or len(path) > DEPTH:
            raise RuleError([f"{self.name}:{line}: more than {NODES:,} values, or nested deeper than {DEPTH}"])
        self.lines[path] = line
        if isinstance(node, yaml.SequenceNode):
            return [self._value(one, (*path, at)) for at, one in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            found: dict[Any, Any] = {}
            for key, value in node.value:
                name = self._loader.construct_object(key)
                key_line = key.start_mark.line + 1
                if not isinstance(name, str):
                    raise RuleError([f"{self.name}:{key_line}: {name!r} is no name of a field; put it in quotes"])
                if name in found:
                    raise RuleError([f"{self.name}:{key_line}: {name} is given twice"])
                found[name] = self._value(value, (*path, name))
                self.lines[(*path, name)] = key_line
            return found
        return self._loader.construct_object(node)

    def place(self, path: Iterable[str | int]) -> str:
        """FILE:LINE: FIELD of a value, or of the closest around it that is there."""
        known: Path = ()
        for part in path:
            if (*known, part) not in self.lines:
                break
            known = (*known, part)
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        return f"{self.name}:{self.lines[known]}: {field or 'file'}"

    def as_a(self, model: type[M], what: str) -> M | None:
        """The document as a file of rules or the like; None: it is empty. `what`: its first word, and the name of its
        page in the docs. Raises RuleError with every fault."""
        if self.value is None:
            return None
        if not isinstance(self.value, dict):
            raise RuleError([f"{self.name}:1: a file of {what} begins with `{what}:`"])
        try:
            return model.model_validate(self.value)
        except ValidationError as error:
            faults = []
            places = [fault["loc"] for fault in error.errors()]
            for fault in error.errors():
                place = fault["loc"]
                # A list of which a part is wrong is also found too short.
                if any(len(other) > len(place) and other[: len(place)] == place for other in places):
                    continue
                path = [part for part in fault["loc"] if not isinstance(part, str) or part.isidentifier()]
                faults.append(f"{self.place(path)}: {_in_words(fault['msg'], fault['type'], what)}")
            raise RuleError(list(dict.fromkeys(faults))) from None


def parse(texts: Mapping[str, str]) -> RuleSet:
    """The rules of these files, text by name. Raises RuleError with every fault that is found."""
    faults: list[str] = []
    found: list[tuple[Rule, str]] = []
    for name in sorted(texts):
        try:
            found += _read(name, texts[name])
        except RuleError as error:
            faults += error.faults
    if not faults:
        faults = list(_contradictions(found))
    if faults:
        raise RuleError(faults)
    return RuleSet(tuple(_in_order(rule for rule, _ in found if rule.enabled)))


def _read(name: str, text: str) -> Iterator[tuple[Rule, str]]:
    """(rule, its place) of one file."""
    document = Document(text, name)
    if (read := document.as_a(RuleFile, "rules")) is None:
        return
    for at, rule in enumerate(read.rules):
        own = rule if rule.tenants is not None else rule.model_copy(update={"tenants": read.tenants})
        yield own, f"{name}:{document.lines[('rules', at)]}: rule {rule.name}"


def _in_words(message: str, kind: str, what: str) -> str:
    if kind == "extra_forbidden":
        return f"there is no field of this name; docs/{what}.md lists them"
    if kind == "missing":
        return "this field is missing"
    if kind == "string_type":
        return "should be a text; numbers, dates, true and false are none unless they stand in quotes"
    return message.removeprefix("Value error, ").replace("Input should", "should")


# What makes no sense


def _contradictions(found: list[tuple[Rule, str]]) -> Iterator[str]:
    active = [(rule, place) for rule, place in found if rule.enabled]
    by_name: dict[str, list[tuple[Rule, str]]] = {}
    for rule, place in active:
        for other, elsewhere in by_name.setdefault(rule.name, []):
            if rule.tenants is None or other.tenants is None or set(rule.tenants) & set(other.tenants):
                yield f"{place}: another rule has this name ({elsewhere}); names are how alerts are told apart"
        by_name[rule.name].append((rule, place))
        if not _can_fire(rule.when):
            yield f"{place}: it says only what must not be, so nothing can set it off; use missing for what is not said"
        yield from (f"{place}: contradiction: {why}" for why in impossible(rule.when))
    for rule, place in active:
        for category in sorted(rule.needs):
            givers = [other for other, _ in active if other.gives == category]
            if not any(_share_a_tenant(rule, other) for other in givers):
                yield f"{place}: no rule gives the category {category} to the calls that this one is for"
    if circle := _circle([rule for rule, _ in active]):
        place = next(place for rule, place in active if rule is circle[0])
        names = " → ".join(rule.name for rule in circle)
        yield f"{place}: rules go in a circle by the categories that they ask for: {names}"


def _share_a_tenant(one: Rule, other: Rule) -> bool:
    return one.tenants is None or other.tenants is None or bool(set(one.tenants) & set(other.tenants))


def _can_fire(condition: Condition) -> bool:
    """Whether anything can set it off: the absence of a thing never does."""
    if condition.not_ is not None:
        return False
    return condition.leaf is not None or any(map(_can_fire, condition.parts))


def impossible(condition: Condition) -> Iterator[str]:
    """What in it can never be true at one time."""
    if condition.all is None:
        for part in condition.parts:
            yield from impossible(part)
        return
    together = list(_together(condition))
    denied = [one.not_ for one in together if one.not_ is not None]
    for one in together:
        if one in denied:
            yield f"{_told(one)} and not {_told(one)} are asked for together"
        if one.missing is not None and any(
            other.said is not None and other.said.model_dump() == one.missing.model_dump() for other in together
        ):
            yield f"{_told(one)} is to be said and missing"
    lengths = [one.length.at_least_s for one in together if one.length]
    shorter = [one.length.at_least_s for one in denied if one.length]
    if lengths and shorter and max(lengths) >= min(shorter):
        yield f"no call lasts {max(lengths):g} s and not {min(shorter):g} s"
    shares: dict[tuple[Role, ...], list[TalkShare]] = {}
    for one in together:
        if one.talk_share is not None:
            shares.setdefault(tuple(sorted(set(one.talk_share.by))), []).append(one.talk_share)
    for by, several in shares.items():
        above = max((one.above for one in several if one.above is not None), default=0.0)
        below = min((one.below for one in several if one.below is not None), default=1.0)
        if len(several) > 1 and above >= below:
            yield f"no talk share of {' and '.join(by)} is above {above:g} and below {below:g}"
    for one in together:
        if one.all is None:
            for part in one.parts:
                yield from impossible(part)


def _together(condition: Condition) -> Iterator[Condition]:
    """The conditions that must be true at one time, through `all` within `all`."""
    for part in condition.all or ():
        if part.all is None:
            yield part
        else:
            yield from _together(part)


def _told(condition: Condition) -> str:
    name = next(name for name in type(condition).model_fields if getattr(condition, name) is not None).rstrip("_")
    return f"category {condition.category}" if condition.category else f"the same {name}"


def _givers(rules: Sequence[Rule]) -> dict[int, list[int]]:
    """For each rule those whose categories it asks for, by their numbers."""
    by_category: dict[str, list[int]] = {}
    for number, rule in enumerate(rules):
        by_category.setdefault(rule.gives, []).append(number)
    return {
        number: [
            giver
            for category in sorted(rule.needs)
            for giver in by_category.get(category, ())
            if _share_a_tenant(rule, rules[giver])
        ]
        for number, rule in enumerate(rules)
    }


def _circle(rules: Sequence[Rule]) -> list[Rule]:
    """Rules that ask for each other's categories, the first of them again at the end; none where there are none."""
    try:
        TopologicalSorter(_givers(rules)).prepare()
    except CycleError as error:
        # It comes with each behind the one that asks for it.
        return [rules[number] for number in reversed(error.args[1])]
    return []


def _in_order(rules: Iterable[Rule]) -> list[Rule]:
    """Each behind those whose categories it asks for, else by name."""
    rules = sorted(rules, key=lambda rule: (rule.name, rule.tenants or ()))
    return [rules[number] for number in TopologicalSorter(_givers(rules)).static_order()]
