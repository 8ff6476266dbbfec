"""Digits in what was said, however they are written: "4111 1111", "4-1-1-1", "four one double one", "forty-two".

A run is what may be one number: digits and number words in a row, with nothing between them but hesitation. Digits may
be written in any script; number words are known in English, and single digits in the other languages of `_DIGITS`.

A changer must know: this runs on every word of every call. A word costs one look into a dictionary, and no regular
expression but for words that hold a digit; those are linear (no nested repetition).
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

EDGES: Final = " \t\n.,;:!?\"'“”‘’„«»()[]{}<>…—–-*#·|"
"""Punctuation round a word."""
_BREAKS: Final = frozenset("?!;:")
"""A number does not go on behind these."""

_UNITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS: Final = (
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

Piece = tuple[str, str]
"""What a word is in a number: u(nit), t(een), T(en), h(undred), k (thousand), x (double), o (oh), s(ounds like a
digit), f(iller), d(igits as written), c (digits with commas, a quantity); and its digits."""

_ENGLISH: Final[dict[str, Piece]] = {
    **{word: ("u", str(value)) for value, word in enumerate(_UNITS)},
    **{word: ("t", str(value + 10)) for value, word in enumerate(_TEENS)},
    **{word: ("T", str(10 * value + 20)) for value, word in enumerate(_TENS)},
    "fourty": ("T", "40"),
    "niner": ("u", "9"),
    "nought": ("u", "0"),
    "naught": ("u", "0"),
    "hundred": ("h", ""),
    "thousand": ("k", ""),
    "double": ("x", "2"),
    "triple": ("x", "3"),
    "treble": ("x", "3"),
    "quadruple": ("x", "4"),
    "oh": ("o", "0"),
    "o": ("o", "0"),
    # What recognisers write for a digit in the middle of others.
    "to": ("s", "2"),
    "too": ("s", "2"),
    "for": ("s", "4"),
    "fore": ("s", "4"),
    "ate": ("s", "8"),
    "won": ("s", "1"),
    "sex": ("s", "6"),
}
_FILLERS: Final[dict[str, Piece]] = dict.fromkeys(
    ("", "uh", "um", "er", "erm", "hmm", "mm", "ah", "and", "then", "dash", "hyphen", "minus", "space", "-"), ("f", "")
)
_DIGITS: Final[dict[str, tuple[str, ...]]] = {
    "de": ("null", "eins", "zwei/zwo", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    "it": ("zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"),
    "nl": ("nul", "een/één", "twee", "drie", "vier", "vijf", "zes", "zeven", "acht", "negen"),
    "pt": ("zero", "um/uma", "dois/duas", "três", "quatro", "cinco", "seis/meia", "sete", "oito", "nove"),
}
_KNOWN: Final[dict[str, dict[str, Piece]]] = {
    "en": _ENGLISH | _FILLERS,
    **{
        # Where English hesitates Portuguese has a one: "um".
        language: _FILLERS | {word: ("u", str(value)) for value, words in enumerate(table) for word in words.split("/")}
        for language, table in _DIGITS.items()
    },
}
_MOST_FILLERS: Final = 2
"""Between two parts of a number. Judgement: after three "uh"s it is a new one, which hardly ever matters."""

_DATE: Final = re.compile(r"\d{4}-\d\d?-\d\d?|\d\d?-\d\d?-(?:19|20)\d\d")
_DOTTED: Final = re.compile(r"\d{2,4}(?:\.\d{2,4}){2,5}")
_ADDRESS_OF_A_MACHINE: Final = re.compile(r"(?:(?:1?\d?\d|2[0-4]\d|25[0-5])\.){3}(?:1?\d?\d|2[0-4]\d|25[0-5])")
_NUMERALS: Final = frozenset("0123456789")
_EXTENSION: Final = re.compile(r"x\d{1,6}$")
_THOUSANDS: Final = re.compile(r"\d{1,3}(?:,\d{3})+")


class Group(NamedTuple):
    """Digits that were said or written together: "4111", "forty-two", "double five"."""

    digits: str
    first: int
    """Index of its first word."""
    last: int
    cardinal: bool
    """Whether it is a quantity, with a hundred or a thousand in it, rather than digits."""


@dataclass(frozen=True, slots=True)
class Run:
    """What may be one number."""

    groups: tuple[Group, ...]
    plus: bool
    """Whether a plus sign stands before it, as before an international phone number."""

    @property
    def digits(self) -> str:
        """All of them."""
        return "".join(group.digits for group in self.groups)

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many digits each group has."""
        return tuple(len(group.digits) for group in self.groups)

    @property
    def first(self) -> int:
        """Index of its first word."""
        return self.groups[0].first

    @property
    def last(self) -> int:
        """Index of its last word."""
        return self.groups[-1].last


class _Part(NamedTuple):
    kind: str
    digits: str
    token: int


def core(text: str) -> str:
    """A word in lower case without the punctuation round it, its digits those of ASCII."""
    bare = text.strip(EDGES).lower()
    if bare.isascii():
        return bare
    return "".join(str(unicodedata.decimal(one)) if one.isdecimal() else one for one in bare.replace("’", "'"))


def runs(texts: Sequence[str], cores: Sequence[str], language: str) -> list[Run]:
    """The numbers among words; `cores` are the words' cores."""
    known = _KNOWN.get(language, _FILLERS)
    found: list[Run] = []
    parts: list[_Part] = []
    plus = False
    numeric = False
    for at, word in enumerate(cores):
        piece = known.get(word)
        pieces: Sequence[Piece] | None
        if piece is not None:
            # "Oh, two of them": no zero.
            pieces = None if piece[0] == "o" and texts[at][-1:] in ",." and not numeric else (piece,)
            if piece[0] == "s" and at and texts[at - 1][-1:] in ",.":
                pieces = None
        elif not _NUMERALS.isdisjoint(word):
            pieces = _written(word)
        elif "-" in word:
            split = [known.get(part) for part in word.split("-")]
            pieces = None if None in split else [part for part in split if part]
        else:
            pieces = None
        if pieces is None:
            if numeric:
                found += _read(parts, plus)
            parts, plus, numeric = [], False, False
            continue
        if word[:1] == "+" or texts[at][:1] == "+":
            if numeric:
                found += _read(parts, plus)
            parts, plus, numeric = [], True, False
        # One "oh" is none, two are zeros.
        numeric = numeric or any(kind not in "fso" for kind, _ in pieces)
        numeric = numeric or (pieces[0][0] == "o" and bool(parts) and parts[-1].kind == "o")
        parts += [_Part(kind, digits, at) for kind, digits in pieces]
        if texts[at][-1:] in _BREAKS:
            if numeric:
                found += _read(parts, plus)
            parts, plus, numeric = [], False, False
    if numeric:
        found += _read(parts, plus)
    return found


def _written(word: str) -> Sequence[Piece] | None:
    """The digits of a word that has some; None: it is no part of a number (a date, a time, money, a code)."""
    bare = _EXTENSION.sub("", word.lstrip("+"))
    if _NUMERALS.issuperset(bare) and bare:
        return (("d", bare),)
    if bare.strip("0123456789()-.,") or _DATE.fullmatch(bare):
        return None
    if "." in bare and (not _DOTTED.fullmatch(bare) or _ADDRESS_OF_A_MACHINE.fullmatch(bare)):
        return None
    if _THOUSANDS.fullmatch(bare):
        return (("c", bare.replace(",", "")),)
    return [("d", part) for part in re.split(r"[^0-9]+", bare) if part] or None


def _read(parts: list[_Part], plus: bool) -> list[Run]:
    """The numbers in words that are all digits, number words and hesitation."""
    found = []
    groups: list[Group] = []
    fillers = 0
    at = 0
    while at < len(parts):
        if parts[at].kind == "f":
            fillers += 1
            at += 1
            continue
        if fillers > _MOST_FILLERS and groups:
            found.append(Run(tuple(groups), plus))
            groups, plus = [], False
        group, behind = _group(parts, at, groups)
        fillers = 0
        if group:
            groups.append(group)
        elif groups:
            found.append(Run(tuple(groups), plus))
            groups, plus = [], False
        at = behind
    return [*found, Run(tuple(groups), plus)] if groups else found


def _group(parts: list[_Part], at: int, before: list[Group]) -> tuple[Group | None, int]:
    """(what begins at `at`, where the next one begins); `before` it stand these digits."""
    kind, digits, token = parts[at]
    following = parts[at + 1].kind if at + 1 < len(parts) else ""
    if kind == "x":
        if following and (following in "uo" or (following == "d" and len(parts[at + 1].digits) == 1)):
            return Group(parts[at + 1].digits * int(digits), token, parts[at + 1].token, False), at + 2
        return None, at + 1
    if kind == "s":
        # Only between two digits: "four one for one".
        ahead = next((part for part in parts[at + 1 : at + 3] if part.kind != "s"), None)
        single = ahead is not None and (ahead.kind in "uo" or (ahead.kind == "d" and len(ahead.digits) == 1))
        within = single and bool(before) and len(before[-1].digits) <= 2
        return (Group(digits, token, token, False) if within else None), at + 1
    if kind == "o":
        zero = bool(before) or (following != "" and following in "udotTx")
        return (Group(digits, token, token, False) if zero else None), at + 1
    if kind in "dc":
        return Group(digits, token, token, kind == "c"), at + 1
    if kind in "hk":
        return None, at + 1
    value, behind = _below_hundred(parts, at)
    if behind < len(parts) and parts[behind].kind in "hk":
        number, behind = _cardinal(parts, int(value), behind)
        return Group(str(number), token, parts[behind - 1].token, True), behind
    return Group(value, token, parts[behind - 1].token, False), behind


def _below_hundred(parts: list[_Part], at: int) -> tuple[str, int]:
    """("42", behind it) of "forty two"; ("4", behind it) of "four"."""
    if parts[at].kind == "T" and at + 1 < len(parts) and parts[at + 1].kind == "u" and parts[at + 1].digits != "0":
        return parts[at].digits[0] + parts[at + 1].digits, at + 2
    return parts[at].digits, at + 1


def _cardinal(parts: list[_Part], value: int, at: int) -> tuple[int, int]:
    """A number with "hundred" or "thousand" at `at`, and where the next begins.

    "Eight hundred five five five" is 800 and three digits; "eight hundred five" is 805.
    """
    total = 0
    while at < len(parts) and parts[at].kind in "hk":
        if parts[at].kind == "k":
            total, value = (total + value) * 1_000, 0
        else:
            value *= 100
        at += 1
        ahead = at + 1 if at + 1 < len(parts) and parts[at].kind == "f" else at
        if ahead < len(parts) and parts[ahead].kind in "utT":
            more, behind = _below_hundred(parts, ahead)
            next_kind = parts[behind].kind if behind < len(parts) else ""
            if next_kind in ("h", "k") and parts[at - 1].kind == "k":
                value, at = int(more), behind
                continue
            if not (parts[ahead].kind == "u" and next_kind in ("u", "d", "o", "x")) and next_kind not in ("h", "k"):
                value += int(more)
                at = behind
    return total + value, at
