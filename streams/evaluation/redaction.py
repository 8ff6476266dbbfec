"""`calltide eval redaction`: how much of what is personal is taken out of generated utterances, and how much else is.

The sentences are made with a fixed seed from templates, with numbers that have right check digits, as they are written
and as they are spoken, whole and in pieces over several utterances, beside as many that hold digits and nothing
personal. A changer must know: whoever wrote the rules wrote the templates, too, so the figures are an upper bound of
what real calls give; texts that were not written here are counted beside them (`false_alarms`).
"""

import csv
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from stdnum import luhn
from stdnum.de import idnr
from stdnum.iban import calc_check_digits
from stdnum.iso7064 import mod_11_10
from stdnum.us import ssn

from processors.redaction import KINDS, TAGS, Config, Kind, Memory, Redactor
from schemas.events import Word

SEED: Final = 20_261_122
MEASURED: Final[tuple[Kind, ...]] = ("card", "cvv", "iban", "ssn", "tax_id", "phone", "email", "address")
"""All kinds but names, which a model of the user's own finds, and `number`, which is whatever is left."""
_DIGIT: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS: Final = (
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS: Final = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


class Part(NamedTuple):
    """A piece of an utterance; `kind`: what it is, if it is personal."""

    text: str
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Utterances of one call, in order: who speaks, and what."""

    form: str
    turns: tuple[tuple[str, tuple[Part, ...]], ...]


@dataclass(slots=True)
class Tally:
    """Of one kind."""

    there: int = 0
    found: int = 0
    """Those of which every word was taken out under the name of their kind."""
    hidden: int = 0
    """Those of which every word was taken out, under whatever name."""
    taken: int = 0
    right: int = 0
    """Those of `taken` that have a word of such an entity in them."""

    @property
    def recall(self) -> float:
        """Share of what is there that was found."""
        return self.found / self.there if self.there else 1.0

    @property
    def precision(self) -> float:
        """Share of what was taken out that is what it was taken for."""
        return self.right / self.taken if self.taken else 1.0


@dataclass(slots=True)
class Result:
    """Figures over samples."""

    sentences: int = 0
    kinds: dict[Kind, Tally] = field(default_factory=lambda: defaultdict(Tally))
    forms: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Recall by the form of the sample."""
    missed: list[tuple[str, str, str]] = field(default_factory=list)
    """(form, as it was, as it is now) of samples that are not as they should be."""


def measure(samples: Iterable[Sample], kinds: Sequence[Kind] = MEASURED, redactor: Redactor | None = None) -> Result:
    """Redact all utterances and count whole entities; one that is partly left counts as missed."""
    redactor = redactor or Redactor(Config(kinds={"*": tuple(kinds)}))
    result = Result()
    for sample in samples:
        memory = Memory()
        for number, (speaker, parts) in enumerate(sample.turns):
            result.sentences += 1
            before, wrong, after = _turn(sample.form, number, speaker, parts, redactor, memory, set(kinds), result)
            if wrong:
                result.missed.append((sample.form, before, after))
    return result


def _turn(
    form: str,
    number: int,
    speaker: str,
    parts: Sequence[Part],
    redactor: Redactor,
    memory: Memory,
    kinds: set[Kind],
    result: Result,
) -> tuple[str, bool, str]:
    words: list[str] = []
    entities: list[tuple[Kind, range]] = []
    for part in parts:
        own = part.text.split()
        if part.kind in kinds:
            entities.append((part.kind, range(len(words), len(words) + len(own))))
        words += own
    text = " ".join(words)
    begin = number * 4_000
    timed = tuple(
        Word(text=word, start_ms=begin + 10 * at, end_ms=begin + 10 * at + 9, confidence=1)
        for at, word in enumerate(words)
    )
    left = redactor.redact(text, timed, "en", "", memory, speaker, begin + 10 * len(words))
    by_tag = {tag: kind for kind, tag in TAGS.items()}
    taken = [
        (by_tag[tag], range((word.start_ms - begin) // 10, (word.end_ms - begin) // 10 + 1))
        for word in left.words
        for tag in [word.text.strip(" .,;:!?'\"-")]
        if tag in by_tag
    ]
    wrong = False
    for kind, place in entities:
        same = {at for other, where in taken if other == kind for at in where}
        any_way = {at for _, where in taken for at in where}
        found, hidden = set(place) <= same, set(place) <= any_way
        for tally in (result.kinds[kind], result.forms[form]):
            tally.there += 1
            tally.found += found
            tally.hidden += hidden
        wrong = wrong or not found
    for kind, where in taken:
        right = any(other == kind and set(place) & set(where) for other, place in entities)
        result.kinds[kind].taken += 1
        result.kinds[kind].right += right
        wrong = wrong or not right
    return text, wrong, left.text


def samples(seed: int = SEED, times: int = 1) -> list[Sample]:
    """The generated set: some 1,700 sentences, and `times` as many of each."""
    chance = random.Random(seed)
    made: list[Sample] = []
    for _ in range(times):
        for make, number in (
            (_cards, 220),
            (_misheard, 60),
            (_codes, 60),
            (_ibans, 80),
            (_ssns, 80),
            (_tax_ids, 80),
            (_phones, 160),
            (_mails, 130),
            (_addresses, 120),
            (_dialogues, 110),
            (_nothing, 480),
        ):
            made += [make(chance) for _ in range(number)]
    return made


def one_of(chance: random.Random, *choices: str) -> str:
    return chance.choice(choices)


def spoken(digits: str, chance: random.Random) -> str:
    """Digits as a person says them one after the other: "four one double one oh"."""
    zero = chance.choice(("zero", "oh"))
    doubles = chance.random() < 0.3
    words: list[str] = []
    at = 0
    while at < len(digits):
        word = zero if digits[at] == "0" else _DIGIT[int(digits[at])]
        if doubles and digits[at : at + 2] == digits[at] * 2:
            words += ["double", word]
            at += 2
        else:
            words.append(word)
            at += 1
    return " ".join(words)


def paired(digits: str) -> str:
    """Digits two by two: "forty one eleven"; a pair that begins with 0 digit by digit."""
    words = []
    for at in range(0, len(digits), 2):
        pair = digits[at : at + 2]
        if len(pair) < 2 or pair[0] == "0":
            words += [_DIGIT[int(digit)] if digit != "0" else "oh" for digit in pair]
        elif pair[0] == "1":
            words.append(_TEENS[int(pair[1])])
        else:
            words.append(_TENS[int(pair[0])])
            if pair[1] != "0":
                words.append(_DIGIT[int(pair[1])])
    return " ".join(words)


def grouped(digits: str, lengths: Sequence[int], mark: str = " ") -> str:
    """Digits in groups of these lengths."""
    groups, at = [], 0
    for length in lengths:
        groups.append(digits[at : at + length])
        at += length
    return mark.join(groups)


def _said(digits: str, lengths: Sequence[int], chance: random.Random) -> tuple[str, str]:
    """(form, text) of a number as it may stand in a transcript."""
    form = chance.choice(("written", "written", "one word", "spoken", "spoken", "pairs", "hesitant", "digit by digit"))
    if form == "written":
        return form, grouped(digits, lengths, chance.choice((" ", "-", ", ")))
    if form == "one word":
        return form, digits
    if form == "spoken":
        return form, " ".join(spoken(group, chance) for group in grouped(digits, lengths).split())
    if form == "pairs" and all(length % 2 == 0 for length in lengths):
        return form, paired(digits)
    if form == "hesitant":
        pause = chance.choice((" uh ", " um ", ", ", " and then "))
        return form, pause.join(spoken(group, chance) for group in grouped(digits, lengths).split())
    return "digit by digit", chance.choice(("-", " ", ", ")).join(digits)


def _as_heard(parts: Sequence[Part], chance: random.Random) -> tuple[Part, ...]:
    """As a recogniser may write it: with capitals and points, or without."""
    if chance.random() < 0.5:
        return tuple(
            Part(
                part.text.lower().replace(",", "").replace("?", "").rstrip(".") if not part.kind else part.text,
                part.kind,
            )
            for part in parts
        )
    return tuple(parts)


def _sentence(template: str, entity: str, kind: Kind) -> list[Part]:
    before, _, behind = template.partition("*")
    # Punctuation belongs to the word before it.
    mark = behind[:1] if behind[:1] in ".,?!" else ""
    return [part for part in (Part(before), Part(entity + mark, kind), Part(behind[len(mark) :])) if part.text.strip()]


def _one(form: str, parts: Sequence[Part], chance: random.Random) -> Sample:
    return Sample(form, (("customer", _as_heard(parts, chance)),))


def card(chance: random.Random) -> tuple[str, tuple[int, ...]]:
    """(digits, how they are grouped) of a card's number with a right check digit."""
    prefix, length, groups = chance.choice(
        (
            ("4", 16, (4, 4, 4, 4)),
            ("4", 16, (4, 4, 4, 4)),
            (str(chance.randint(51, 55)), 16, (4, 4, 4, 4)),
            (str(chance.choice((34, 37))), 15, (4, 6, 5)),
            ("6011", 16, (4, 4, 4, 4)),
            ("2221", 16, (4, 4, 4, 4)),
        )
    )
    digits = prefix + "".join(chance.choices("0123456789", k=length - len(prefix) - 1))
    return digits + luhn.calc_check_digit(digits), groups


def _cards(chance: random.Random) -> Sample:
    digits, lengths = card(chance)
    form, text = _said(digits, lengths, chance)
    template = one_of(
        chance,
        "My card number is *.",
        "Yes, it's *.",
        "*",
        "Sure, the number on the card is *, and it expires next year.",
        "Okay so the Visa is * do you need the address too?",
        "I want to pay with my credit card, *.",
        "Let me read that back, * is that correct?",
        "The card ending in that is *, I think.",
        "can you charge * please",
        "You said * right?",
    )
    return _one(f"card, {form}", _sentence(template, text, "card"), chance)


def _misheard(chance: random.Random) -> Sample:
    """A card's number of which a digit was heard wrong, twice, or not at all: its check digit is wrong then."""
    digits, lengths = card(chance)
    at = chance.randrange(1, len(digits))
    digits = digits[:at] + chance.choice(("", digits[at] * 2, str((int(digits[at]) + 1) % 10))) + digits[at + 1 :]
    text = chance.choice((spoken(digits, chance), " ".join(digits), grouped(digits, (*lengths[:-1], lengths[-1] + 1))))
    for digit, sounds in (("four", "for"), ("two", "to"), ("one", "won"), ("eight", "ate")):
        if chance.random() < 0.2:
            text = text.replace(f"one {digit} ", f"one {sounds} ", 1)
    template = one_of(
        chance,
        "My card number is *.",
        "Sure, the number on the card is *, and it expires next year.",
        "I want to pay with my credit card, *.",
        "the long number is * okay",
        # Nobody says what it is: then it is as good as any number.
        "Sure, it's *, thank you.",
    )
    form = "card, misheard, unasked" if template.startswith("Sure, it's") else "card, misheard"
    return _one(form, _sentence(template, text, "card"), chance)


def _codes(chance: random.Random) -> Sample:
    digits = "".join(chance.choices("0123456789", k=chance.choice((3, 3, 3, 4))))
    text = chance.choice((digits, spoken(digits, chance)))
    template = one_of(
        chance,
        "The security code is *.",
        "My CVV is *",
        "and the three digits on the back are *.",
        "The card verification code would be *, okay?",
        "cvc * and that is all",
    )
    return _one("code", _sentence(template, text, "cvv"), chance)


_BANKS: Final = {
    "DE": (18, ""), "GB": (14, "NWBK"), "NL": (10, "ABNA"), "ES": (20, ""), "AT": (16, ""), "IE": (14, "AIBK"),
}  # fmt: skip


def iban(chance: random.Random) -> str:
    """An IBAN with right check digits; a bank's own may be wrong."""
    country = chance.choice(list(_BANKS))
    length, bank = _BANKS[country]
    account = bank + "".join(chance.choices("0123456789", k=length))
    return country + calc_check_digits(f"{country}00{account}") + account


def _ibans(chance: random.Random) -> Sample:
    code = iban(chance)
    form = chance.choice(("in fours", "one word", "spoken"))
    if form == "in fours":
        text = " ".join(code[at : at + 4] for at in range(0, len(code), 4))
    elif form == "one word":
        text = code
    else:
        text = " ".join(spoken(one, chance) if one.isdigit() else one for one in code)
    template = one_of(
        chance,
        "My IBAN is *.",
        "Please send it to *.",
        "the account is * with my bank",
        "*",
        "International bank account number * thank you.",
    )
    return _one(f"iban, {form}", _sentence(template, text, "iban"), chance)


def _ssns(chance: random.Random) -> Sample:
    while True:
        digits = "".join(chance.choices("0123456789", k=9))
        if ssn.is_valid(digits):
            break
    form, text = _said(digits, (3, 2, 4), chance)
    template = one_of(
        chance,
        "My social security number is *.",
        "Social is *",
        "my social is *",
        "the SSN on file should be *, correct?",
        "for my social security it is * yes",
    ).replace("Social is", "My social is")
    if form == "written" and "," not in text and chance.random() < 0.3:
        template = "It's *."
    return _one(f"ssn, {form}", _sentence(template, text, "ssn"), chance)


def _tax_ids(chance: random.Random) -> Sample:
    which = chance.choice(("itin", "ein", "nino", "idnr"))
    lengths: tuple[int, ...]
    if which == "nino":
        text = (
            chance.choice(("AB", "CE", "JK", "WM")) + "".join(chance.choices("0123456789", k=6)) + chance.choice("ABCD")
        )
        if chance.random() < 0.5:
            text = " ".join((text[:2], text[2:4], text[4:6], text[6:8], text[8]))
        template = one_of(chance, "My national insurance number is *.", "it is *", "NI number * please")
        return _one("tax_id, nino", _sentence(template, text, "tax_id"), chance)
    if which == "itin":
        digits, lengths = f"9{chance.randint(10, 99)}{chance.randint(70, 88)}{chance.randint(1000, 9999)}", (3, 2, 4)
    elif which == "ein":
        digits, lengths = f"{chance.choice((12, 20, 45, 81))}{chance.randint(1000000, 9999999)}", (2, 7)
    else:
        while True:
            digits, lengths = str(chance.randint(10**9, 10**10 - 1)), (2, 3, 3, 3)
            digits += mod_11_10.calc_check_digit(digits)
            if idnr.is_valid(digits):
                break
    form, text = _said(digits, lengths, chance)
    template = one_of(
        chance,
        "My tax id is *.",
        "the taxpayer identification number is * thanks",
        "Tax number *",
        "our EIN number is *.",
    )
    return _one(f"tax_id, {form}", _sentence(template, text, "tax_id"), chance)


_AREAS: Final = ("212", "415", "617", "312", "206", "713", "404", "303", "702", "503", "800", "888")


def phone(chance: random.Random) -> str:
    """Ten digits of a number in North America."""
    return f"{chance.choice(_AREAS)}{chance.randint(2, 9)}{chance.choice('023456789')}{chance.randint(10000, 99999)}"


def _phones(chance: random.Random) -> Sample:
    digits = phone(chance)
    form = chance.choice(("brackets", "points", "plus", "local", "abroad", "any", "any", "any", "any"))
    if form == "brackets":
        text = f"({digits[:3]}) {digits[3:6]}-{digits[6:]}"
    elif form == "points":
        text = grouped(digits, (3, 3, 4), ".")
    elif form == "plus":
        text = f"+1 {grouped(digits, (3, 3, 4), chance.choice(' -'))}"
    elif form == "abroad":
        text = one_of(chance, "+44 20 7946 0958", "+49 30 901820", "+33 1 42 68 53 00", "+61 2 9374 4000")
    elif form == "local":
        text = chance.choice((grouped(digits[3:], (3, 4), "-"), spoken(digits[3:], chance)))
    else:
        form, text = _said(digits, (3, 3, 4), chance)
    template = one_of(
        chance,
        "You can reach me at *.",
        "My phone number is *.",
        "call me back on * please",
        "the best number is * after five",
        "My cell is *",
        "what about the mobile number * is that still right?",
    )
    if form not in ("local", "spoken", "hesitant", "digit by digit", "pairs") and chance.random() < 0.4:
        template = one_of(chance, "It's *.", "*", "try * instead", "I'm at * today.")
    return _one(f"phone, {form}", _sentence(template, text, "phone"), chance)


_FIRST: Final = ("john", "maria", "ahmed", "helena", "chris", "wei", "olga", "pierre", "lucy", "sam")
_LAST: Final = ("smith", "garcia", "khan", "brown", "miller", "chen", "petrov", "dubois", "jones", "stone")


def _mails(chance: random.Random) -> Sample:
    first, last = chance.choice(_FIRST), chance.choice(_LAST)
    known = chance.random() < 0.7
    name, top = (
        (chance.choice(("gmail", "yahoo", "outlook", "hotmail")), "com")
        if known
        else (
            chance.choice(("contoso", "woodgrove", "fabrikam")),
            chance.choice(("com", "org", "co.uk", "net")),
        )
    )
    number = chance.choice(("", "", str(chance.randint(1, 99))))
    sign = chance.choice(("", ".", "_", "-"))
    mailbox = f"{first}{sign}{last}{number}"
    form = chance.choice(("written", "written", "at and point", "spoken", "spoken", "letters"))
    says = {".": " dot ", "_": " underscore ", "-": " dash ", "": " "}
    if form == "written":
        text = f"{mailbox}@{name}.{top}" if chance.random() < 0.7 else f"{mailbox.title()}@{name.title()}.{top}"
    elif form == "at and point":
        text = f"{mailbox} at {name}.{top}"
    elif form == "spoken":
        text = f"{first}{says[sign]}{last} {spoken(number, chance)} at {name} dot {top.replace('.', ' dot ')}"
    else:
        text = f"{' '.join(first)} {' '.join(last)} {spoken(number, chance)} at {name} dot {top.replace('.', ' dot ')}"
    text = " ".join(text.split())
    template = one_of(
        chance,
        "My email is *.",
        "Sure, it's *.",
        "you can send it to my e-mail address * okay",
        "The email address on the account is *.",
        "it is * thanks",
    )
    if form not in ("written",) and not known:
        template = "My email address is *."
    return _one(f"email, {form}", _sentence(template, text, "email"), chance)


_STREET: Final = (
    "Maple",
    "Oak",
    "Main",
    "Washington",
    "Elm",
    "Sunset",
    "Martin Luther King",
    "Lake View",
    "42nd",
    "Park",
)
_CITY: Final = (
    ("Springfield", "Illinois", "IL"), ("Portland", "Oregon", "OR"), ("Austin", "Texas", "TX"),
    ("Albany", "New York", "NY"),
)  # fmt: skip


def _addresses(chance: random.Random) -> Sample:
    house, street = str(chance.randint(2, 9999)), chance.choice(_STREET)
    kind = chance.choice(("Street", "Avenue", "Road", "Boulevard", "Lane", "Drive", "Court"))
    city, state, short = chance.choice(_CITY)
    code = str(chance.randint(10000, 99999))
    unit = chance.choice(("", "", f" apartment {chance.randint(1, 40)}", f", Suite {chance.randint(100, 900)}"))
    form = chance.choice(("whole", "whole", "street", "spoken"))
    if form == "street":
        text = f"{house} {street} {kind}{unit}"
    elif form == "whole":
        text = f"{house} {street} {kind}{unit}, {city}, {chance.choice((state, short))} {code}"
    else:
        number = paired(house) if len(house) == 4 and house[2] != "0" else spoken(house, chance)
        text = f"{number} {street.lower()} {kind.lower()} {city.lower()} {state.lower()} {spoken(code, chance)}"
    template = one_of(
        chance,
        "I live at *.",
        "My address is *.",
        "please ship it to * thank you",
        "The new billing address would be *, yes.",
        "Yes, it's *.",
    )
    if form == "spoken" and template.startswith("Yes"):
        template = "my address is *"
    return _one(f"address, {form}", _sentence(template, text, "address"), chance)


_SURE: Final = ("uh-huh", "Okay.", "mhm", "Go ahead.", "got it", "Yes?")


_BESIDE: Final = (
    "One moment, let me get my wallet.",
    "is it the blue one or the one from 2019",
    "I have 2 of them, one is in the car.",
    "Hold on, I had it here 5 minutes ago.",
    "it's one of those where the numbers are on the back",
    "yes i have been a customer for 10 years you know",
)
_AFTERWARDS: Final = (
    "Thank you. The total is 45 dollars and 20 cents.",
    "Great, that will be $1,250 for the 3 of you.",
    "Thanks, your appointment is at 10:30 on the 5th of May 2027.",
    "Okay, it will arrive in 5 to 7 business days.",
)


def _dialogues(chance: random.Random) -> Sample:
    """A number in pieces, one an utterance, with the other party between them."""
    what = chance.choice(("card", "card", "card", "card unasked", "phone", "ssn"))
    turns: list[tuple[str, tuple[Part, ...]]] = []
    kind: Kind
    if what.startswith("card"):
        kind = "card"
        digits, lengths = card(chance)
        question = one_of(
            chance,
            "Can I have your card number, please?",
            "What is the sixteen digit number on the front of your card?",
            "Go ahead with the credit card whenever you are ready.",
        )
    elif what == "phone":
        kind, digits, lengths = "phone", phone(chance), (3, 3, 4)
        question = one_of(chance, "What's the best phone number for you?", "And what number can we reach you at?")
        question = question.replace("what number can we reach you at", "your callback number")
    else:
        kind, lengths = "ssn", (3, 2, 4)
        digits = "536904399"
        question = one_of(chance, "What is your social security number?", "And your social, please?")
    if what != "card unasked":
        turns.append(("agent", (Part(question),)))
    if kind != "phone" and what != "card unasked" and chance.random() < 0.5:
        turns.append(("customer", (Part(chance.choice(_BESIDE)),)))
    pieces = grouped(digits, lengths).split()
    if what != "card unasked" and chance.random() < 0.3:
        # Pauses anywhere.
        cuts = [0, *sorted(chance.sample(range(1, len(digits)), chance.randint(2, 5))), len(digits)]
        pieces = [digits[first:behind] for first, behind in pairwise(cuts)]
    written = chance.random() < 0.4
    for number, piece in enumerate(pieces):
        text = piece if written else spoken(piece, chance)
        first = one_of(chance, "", "it's", "yes") if number == 0 else ""
        # The first piece of a card that nobody has asked for is like any other four digits.
        mark: Kind | None = None if what == "card unasked" and number == 0 else kind
        turns.append(("customer", tuple(part for part in (Part(first), Part(text, mark)) if part.text)))
        if chance.random() < 0.6:
            turns.append(("agent", (Part(chance.choice(_SURE)),)))
    turns.append(("agent", (Part(chance.choice(_AFTERWARDS)),)))
    if what == "card" and chance.random() < 0.5:
        turns.append(("agent", (Part("And the expiration date?"),)))
        turns.append(
            ("customer", (Part(one_of(chance, "oh five twenty seven", "05 27", "May 2027", "five twenty eight")),))
        )
        turns.append(("agent", (Part("And the three digits on the back?"),)))
        turns.append(("customer", (Part("it's"), Part(spoken(str(chance.randint(100, 999)), chance), "cvv"))))
    return Sample(f"pieces, {what}", tuple(turns))


def _nothing(chance: random.Random) -> Sample:
    """Digits that are nobody's."""
    n = lambda k: "".join(chance.choices("123456789", k=k))  # noqa: E731
    wrong, lengths = card(chance)
    wrong = wrong[:-1] + str((int(wrong[-1]) + chance.randint(1, 9)) % 10)
    make: Callable[[], str] = chance.choice(
        (
            lambda: f"My order number is {n(chance.choice((6, 8, 10, 12)))}.",
            lambda: f"The tracking number is 1Z{n(6)}{n(10)}.",
            lambda: f"The tracking number is {grouped(wrong, lengths)}.",
            lambda: f"your reference number is {spoken(n(8), chance)}",
            lambda: f"Ticket number {n(7)} was closed in {chance.randint(1990, 2026)}.",
            lambda: f"It was delivered on 05/{chance.randint(10, 28)}/2024 at {chance.randint(1, 12)}:30.",
            lambda: f"I bought it in {chance.randint(1990, 2026)} for ${chance.randint(1, 9)},{n(3)}.{n(2)}.",
            lambda: f"that was back in nineteen {paired(str(chance.randint(70, 99)))} i think",
            lambda: f"The address of the router is 192.168.{chance.randint(0, 255)}.{chance.randint(1, 254)}.",
            lambda: f"it is one of the two and {one_of(chance, 'three', 'four', 'five')} of them are broken",
            lambda: f"Call me at {one_of(chance, 'five', 'six thirty', '10', 'noon')} please.",
            lambda: f"I have waited for {chance.randint(2, 90)} minutes and called {chance.randint(2, 9)} times.",
            lambda: (
                f"we have {one_of(chance, 'two', 'nine')} hundred and {paired(str(chance.randint(21, 99)))} employees"
            ),
            lambda: f"the car has {chance.randint(10, 200)},{n(3)} miles on it",
            lambda: f"Error 0x800{n(5)} came up {chance.randint(2, 9)} times.",
            lambda: f"My flight is {one_of(chance, 'UA', 'BA', 'LH')} {n(4)} at gate {chance.randint(1, 60)}.",
            lambda: f"The last four of the card are {n(4)}.",
            lambda: f"the card ending in {spoken(n(4), chance)}",
            lambda: f"it expires {chance.randint(1, 12):02d} {chance.randint(26, 31)}",
            lambda: f"Visit us at {one_of(chance, 'example', 'contoso', 'fabrikam')} dot com.",
            lambda: f"I found it online at {one_of(chance, 'amazon', 'walmart', 'ebay')} dot com for {n(2)} dollars",
            lambda: f"we met at {one_of(chance, 'the store', 'work', 'the airport')} dot the i's later",
            lambda: f"It is {chance.randint(2, 9)} blocks down the street on the left.",
            lambda: f"we are open 24 hours a day all the way to {one_of(chance, 'friday', 'sunday')}",
            lambda: f"take exit {chance.randint(1, 90)} and drive {chance.randint(2, 30)} miles down the road",
            lambda: f"I was born on July {chance.randint(1, 28)}th, {chance.randint(1950, 2005)}.",
            lambda: f"the confirmation code is {n(6)}",
            lambda: (
                f"The model number is {one_of(chance, 'XR', 'TV', 'AB')}{n(5)} version {chance.randint(1, 9)}.{n(1)}."
            ),
            lambda: f"My credit card has a limit of {chance.randint(2, 20)} thousand dollars.",
            lambda: (
                f"My card arrived {chance.randint(2, 14)} days late and the fee was {chance.randint(10, 99)} euros."
            ),
            lambda: f"i have had this card for {_DIGIT[chance.randint(2, 9)]} years and paid {n(2)} dollars",
            lambda: f"The phone bill was {chance.randint(40, 200)} dollars and {n(2)} cents.",
            lambda: f"my phone has {_TENS[chance.randint(2, 9)]} percent battery and 256 gigabytes",
            lambda: "one two three testing can you hear me",
            lambda: f"it's nine to five monday to friday room {n(3)}",
            lambda: f"the population is {chance.randint(2, 9)},{n(3)},{n(3)} people",
            lambda: f"policy number {n(9)} renews in {chance.randint(2026, 2030)}",
            lambda: f"The serial number is {n(4)}-{n(4)}-{n(4)}.",
            lambda: f"extension {n(4)} or room number {n(3)}",
            lambda: f"I saw it on social media {chance.randint(2, 30)} times.",
        )
    )
    return _one("nothing", [Part(make())], chance)


def false_alarms(texts: Iterable[tuple[str, str]], kinds: Sequence[Kind] = MEASURED) -> tuple[int, dict[str, int]]:
    """(utterances, kind → how many were taken out) of (call, text) pairs in order."""
    redactor = Redactor(Config(kinds={"*": tuple(kinds)}))
    counts: Counter[str] = Counter()
    number, memory, call_before = 0, Memory(), ""
    for call, text in texts:
        if call != call_before:
            memory, call_before = Memory(), call
        counts.update(redactor.redact(text, (), "en", "", memory, "", 5_000 * number).counts)
        number += 1
    return number, dict(counts)


def helpdesk(file: Path) -> Iterator[tuple[str, str]]:
    """(call, what was said) of calls as in helpdesk-calls.jsonl."""
    for line in file.read_text().splitlines():
        call = json.loads(line)
        for turn in call["turns"]:
            yield call["id"], turn["text"]


def questions(file: Path) -> Iterator[tuple[str, str]]:
    """(its number, its text) of each question of BANKING77: each is a call of its own."""
    with file.open(newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            yield str(number), row["text"]


def made_calls(folder: Path) -> Iterator[tuple[str, str]]:
    """(call, what was said) of the calls that were put together from read books."""
    for file in sorted(folder.glob("made-*.json")):
        for turn in json.loads(file.read_text()):
            yield file.stem, turn["text"]


def show(data: Path) -> None:
    """Print all figures; `data` as CALLTIDE_TEST_DATA."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = console if console.is_terminal else Console(width=120)
    result = measure(samples())
    table = Table(title=f"{result.sentences:,} generated sentences, seed {SEED}")
    for name in ("kind", "there", "recall", "hidden", "taken out", "precision"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind in KINDS:
        if tally := result.kinds.get(kind):
            table.add_row(
                kind,
                f"{tally.there}",
                f"{tally.recall:.1%}",
                f"{tally.hidden / max(tally.there, 1):.1%}",
                f"{tally.taken}",
                f"{tally.precision:.1%}",
            )
    console.print(table)
    table = Table(title="Recall by form")
    for name in ("form", "there", "recall", "hidden"):
        table.add_column(name, justify="left" if name == "form" else "right")
    for form, tally in sorted(result.forms.items()):
        table.add_row(form, f"{tally.there}", f"{tally.recall:.1%}", f"{tally.hidden / tally.there:.1%}")
    console.print(table)
    table = Table(title="Taken out of texts with hardly anything personal in them")
    for name in ("texts", "utterances", "kinds that are on", "taken out"):
        table.add_column(name, justify="right" if name == "utterances" else "left")
    sets = (
        ("text/helpdesk-calls.jsonl", helpdesk),
        ("text/banking77-train.csv", questions),
        ("calls/made", made_calls),
    )
    for name, read in sets:
        if not (data / name).exists():
            console.print(f"{data / name} is not there: left out", markup=False, soft_wrap=True)
            continue
        for on, kinds in (("as delivered", Config().kinds["*"]), ("all", MEASURED)):
            number, counts = false_alarms(read(data / name), kinds)
            table.add_row(
                name, f"{number:,}", on, ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "0"
            )
    console.print(table)
