"""Numbers, money and e-mail addresses in a transcript: formatted ("$25", "5551234") or spelled out as they are spoken.

Numbers are read by text2num and written by num2words, in the languages that both know; money, percent, digits said one
by one and e-mail addresses in English. In other languages the text stays as it is.

A changer must know: words keep their times. Several words that become one reach from the first's start to the last's
end, with the confidence of the least sure; one that becomes several is divided by their letters.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, Literal

from num2words import num2words
from text_to_num import find_numbers

from schemas.events import Word

Numbers = Literal["as_heard", "formatted", "spoken"]
Words = list[Word]

_LANGUAGES: Final = frozenset({"en", "de", "es", "fr", "it", "nl", "pt"})
_EDGES: Final = re.compile(r"^([^\w$€£@]*)(.*?)([^\w%]*)$")
"""Punctuation before a word, the word, punctuation behind it."""
_OH: Final = frozenset({"oh", "o"})
_HUNDREDS: Final = ("hundred", "thousand", "million", "billion")
_FEWEST_DIGITS: Final = 3
"""Digits said one by one are written together from so many on: a telephone number, not "one, two". Judgement."""
_UNITS: Final = {"dollar": "$", "dollars": "$", "euro": "€", "euros": "€"}
_NAMES: Final = {"$": ("dollar", "dollars", "cent"), "€": ("euro", "euros", "cent"), "£": ("pound", "pounds", "pence")}
_SIGNS: Final = {"dot": ".", "underscore": "_", "dash": "-", "hyphen": "-"}
_SPOKEN_SIGNS: Final = {"@": "at", ".": "dot", "_": "underscore", "-": "dash"}
_DOMAIN: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,6}")
_NO_MAILBOX: Final = frozenset(
    {
        "look",
        "us",
        "me",
        "is",
        "are",
        "it",
        "online",
        "here",
        "out",
        "you",
        "be",
        "him",
        "them",
        "up",
        "was",
        "or",
        "and",
    }
)
"""What stands before "at" in "visit us at example dot com"."""


def formatted(text: str, words: tuple[Word, ...], numbers: Numbers, language: str) -> tuple[str, tuple[Word, ...]]:
    """(text, words) with numbers as they are wanted. Without word times the text stays as it is."""
    if numbers == "as_heard" or language not in _LANGUAGES or not words:
        return text, words
    new = list(words)
    if numbers == "formatted":
        new = _numbers(new, language)
        if language == "en":
            new = _addresses(_money(_digits(new)))
    else:
        new = [part for word in new for part in _spoken(word, language)]
    return " ".join(word.text for word in new), tuple(new)


def _core(word: Word) -> str:
    match = _EDGES.match(word.text)
    return match[2] if match else word.text


def _one(words: Sequence[Word], core: str) -> Word:
    """One word for several, with the punctuation that stood round them."""
    before, behind = _EDGES.match(words[0].text), _EDGES.match(words[-1].text)
    return Word(
        text=f"{before[1] if before else ''}{core}{behind[3] if behind else ''}",
        start_ms=words[0].start_ms,
        end_ms=words[-1].end_ms,
        confidence=min(word.confidence for word in words),
    )


def _runs_on(words: Sequence[Word]) -> bool:
    """Whether there is no punctuation between the words."""
    return all(_EDGES.sub(r"\3", word.text) == "" for word in words[:-1])


class _Heard:
    """A word as text2num wants it."""

    def __init__(self, word: Word, separated: bool) -> None:
        self._text, self._separated = _core(word), separated

    def text(self) -> str:
        return self._text

    def nt_separated(self, previous: "_Heard") -> bool:
        return self._separated

    def not_a_number_part(self) -> bool:
        return False


def _numbers(words: Words, language: str) -> Words:
    tokens = [_Heard(word, not _runs_on(pair)) for pair in pairwise([words[0], *words]) for word in pair[1:]]
    new: Words = []
    at = 0
    for found in find_numbers(tokens, language):
        start = found.start
        article = start > at and _core(words[start - 1]).lower() == "a" and language == "en"
        if article and _core(words[start]).lower().startswith(_HUNDREDS):
            start -= 1
        new += [*words[at:start], _one(words[start : found.end], found.text)]
        at = found.end
    return new + words[at:]


def _digits(words: Words) -> Words:
    """Digits that were said one by one, in one word: "oh" is a zero among them; "nineteen eighty five" is a year."""
    new: Words = []
    at = 0
    while at < len(words):
        end = at
        while end < len(words) and (re.fullmatch(r"\d", _core(words[end])) or (_core(words[end]).lower() in _OH)):
            end += 1
            if not _runs_on(words[end - 1 : end + 1]):
                break
        run = words[at:end]
        pair = words[at : at + 2]
        if len(run) >= _FEWEST_DIGITS and any(_core(word).isdigit() for word in run):
            core = "".join("0" if _core(word).lower() in _OH else _core(word) for word in run)
            new.append(_one(run, core))
            at = end
        elif len(pair) == 2 and _runs_on(pair) and re.fullmatch(r"(19|20) \d\d", " ".join(map(_core, pair))):
            new.append(_one(pair, "".join(map(_core, pair))))
            at += 2
        else:
            new.append(words[at])
            at += 1
    return new


def _money(words: Words) -> Words:
    """Dollars, euros and percent by their signs."""
    new: Words = []
    at = 0
    while at < len(words):
        cores = [_core(word).lower() for word in words[at : at + 5]] + [""] * 5
        if re.fullmatch(r"\d[\d,.]*", cores[0]) and _runs_on(words[at : at + 2]):
            if sign := _UNITS.get(cores[1]):
                skip = cores[2] == "and"
                cents, unit = cores[2 + skip : 4 + skip]
                if re.fullmatch(r"\d\d?", cents) and unit in ("cent", "cents") and "." not in cores[0]:
                    end = at + 4 + skip
                    new.append(_one(words[at:end], f"{sign}{cores[0]}.{int(cents):02d}"))
                else:
                    end = at + 2
                    new.append(_one(words[at:end], f"{sign}{cores[0]}"))
                at = end
                continue
            if cores[1] == "percent":
                new.append(_one(words[at : at + 2], f"{cores[0]}%"))
                at += 2
                continue
        new.append(words[at])
        at += 1
    return new


def _addresses(words: Words) -> Words:
    """E-mail addresses that were spelled: a mailbox, "at", and a domain."""
    cores = [_core(word).lower() for word in words]
    new: Words = []
    at = 0
    for i in range(1, len(words) - 1):
        if i < at or cores[i] != "at":
            continue
        start, end = i - 1, i + 2
        while start - 2 >= at and cores[start - 1] in _SIGNS:
            start -= 2
        while end + 1 < len(words) and cores[end] in _SIGNS and _runs_on(words[end - 1 : end + 1]):
            end += 2
        mailbox, domain = (
            "".join(_SIGNS.get(core, core) for core in part) for part in (cores[start:i], cores[i + 1 : end])
        )
        fits = re.fullmatch(r"[a-z0-9._-]+", mailbox) and _DOMAIN.fullmatch(domain) and start >= at
        if fits and cores[i - 1] not in _NO_MAILBOX and _runs_on(words[start : i + 1]):
            new += [*words[at:start], _one(words[start:end], f"{mailbox}@{domain}")]
            at = end
    return new + words[at:]


def _spoken(word: Word, language: str) -> Words:
    """The words with which `word` is spoken; itself when there is neither digit nor sign in it."""
    match = _EDGES.match(word.text)
    core = match[2] if match else ""
    if not any(character.isdigit() or character in "@$€£%" for character in core):
        return [word]
    parts = (_spoken_english(core) if language == "en" else _cardinal(core, language)).split()
    if not parts or not match:
        return [word]
    parts[0], parts[-1] = match[1] + parts[0], parts[-1] + match[3]
    letters = [0]
    for part in parts:
        letters.append(letters[-1] + len(part))
    times = [word.start_ms + (word.end_ms - word.start_ms) * n // letters[-1] for n in letters]
    return [
        Word(text=part, start_ms=start, end_ms=end, confidence=word.confidence)
        for part, (start, end) in zip(parts, pairwise(times), strict=True)
    ]


def _cardinal(number: str, language: str) -> str:
    """A plain whole number in words; anything else as it is."""
    return str(num2words(int(number), lang=language)) if re.fullmatch(r"\d{1,9}", number) else number


def _said(match: re.Match[str]) -> str:
    """A sum of money."""
    one, many, hundredth = _NAMES[match[1]]
    whole = int(match[2].replace(",", ""))
    said = f"{num2words(whole)} {one if whole == 1 else many}"
    if cents := int(match[3] or 0):
        said += f" and {num2words(cents)} {hundredth}{'s' if hundredth == 'cent' and cents != 1 else ''}"
    return said


def _one_by_one(digits: str) -> str:
    return " ".join(num2words(int(digit)) for digit in digits if digit.isdigit())


# No number is read that nobody says: a recogniser's loop may write one of hundreds of digits.
_ENGLISH: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = tuple(
    (re.compile(pattern), said)
    for pattern, said in (
        (r"([$€£])(\d[\d,]{0,20})(?:\.(\d\d))?", _said),
        (r"(\d{1,20})(?:st|nd|rd|th)", lambda match: num2words(int(match[1]), to="ordinal")),
        (r"(1[1-9]|20)\d\d", lambda match: num2words(int(match[0]), to="year")),
        (
            r"(\d{1,2}):(\d\d)",
            lambda match: f"{num2words(int(match[1]))} {num2words(int(match[2])) if int(match[2]) else ''}",
        ),
        (r"(\d[\d,]{0,20}(?:\.\d{1,20})?)%", lambda match: f"{num2words(float(match[1].replace(',', '')))} percent"),
        (r"0\d+|\d{5,}|\d+(?:-\d+)+", lambda match: _one_by_one(match[0])),
        (r"\d{1,3}(?:,\d{3}){0,6}|\d{4}", lambda match: num2words(int(match[0].replace(",", "")))),
        (r"\d{1,20}\.\d{1,20}", lambda match: num2words(float(match[0]))),
    )
)


def _spoken_english(core: str) -> str:
    if "@" in core:
        return re.sub(r"[@._-]", lambda sign: f" {_SPOKEN_SIGNS[sign[0]]} ", core)
    for pattern, said in _ENGLISH:
        if match := pattern.fullmatch(core):
            return said(match)
    # Codes and the like: letters as they are, digits one by one.
    return re.sub(r"\d+", lambda digits: f" {_one_by_one(digits[0])} ", core)
