"""E-mail and postal addresses among words, as they are written and as they are spelled.

A changer must know: of postal addresses this finds what has a form (a house number and a street, or a state and a
postcode); it knows no town by its name. docs/redaction.md has what that finds.
"""

import re
from collections.abc import Sequence
from typing import Final

from processors.redaction_cues import (
    DOTS,
    NO_MAILBOX,
    NO_STREET,
    PROVIDERS,
    SIGNS,
    STATES,
    STREETS,
    TOP,
    UNITS,
    VAGUE_STREETS,
)
from processors.spoken_digits import Run

Spans = list[tuple[int, int]]
"""First and last word of each."""

_MAIL: Final = re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}")
_DOMAIN: Final = re.compile(r"[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,3}\.[a-z]{2,6}")
_MOST_MAILBOX: Final = 3
"""Plain words of a mailbox that nothing joins: "john smith at gmail dot com". Judgement."""
_MOST_OF_A_DOMAIN: Final = 4
"""Words of a domain before its first dot. Judgement."""

_MOST_OF_A_STREET: Final = 4
"""Words from the house number to "street". Judgement."""
_MOST_TO_A_STATE: Final = 8
"""Words from the street to the state, those of a flat among them. Judgement."""
_STATE_AND_ZIP: Final = re.compile(r"[a-z]{2}\d{5}(?:-\d{4})?")
_GERMAN_STREET: Final = re.compile(r"\w{2,40}(?:straße|strasse|weg|platz|allee|gasse|str\.?)")
_ENDS: Final = ".;:?!"


def mail(cores: Sequence[str], texts: Sequence[str], runs: Sequence[Run], awaited: bool) -> Spans:
    """E-mail addresses. One without a sign in it ("sarah at contoso dot com") must be `awaited`, or at a provider."""
    found: Spans = []
    for at, word in enumerate(cores):
        if "@" not in word and word != "at":
            continue
        if len(word) > 2:
            if _MAIL.search(word):
                found.append((at, at))
            continue
        behind, domain = _domain(cores, at + 1)
        if behind:
            first, sure = _mailbox(cores, texts, runs, at)
            if first < at and (sure or awaited or word == "@" or domain in PROVIDERS):
                found.append((first, behind - 1))
    return found


def _mailbox(cores: Sequence[str], texts: Sequence[str], runs: Sequence[Run], at: int) -> tuple[int, bool]:
    """(first word of what is a mailbox before "at", whether there are signs or single letters in it)."""
    first, plain, sure = at, 0, False
    while first > 0:
        one = cores[first - 1]
        joined = first < at and (cores[first] in SIGNS or one in SIGNS)
        spelled = len(one) == 1 or any(map(str.isdecimal, one))
        if one in SIGNS:
            sure = True
        elif spelled or any(run.first <= first - 1 <= run.last for run in runs):
            sure = sure or len(one) == 1
        elif one in NO_MAILBOX and not (joined and one not in ("is", "it's")):
            break
        elif not joined:
            plain += 1
            if plain > _MOST_MAILBOX or texts[first - 1][-1:] in ",.:;?!":
                break
        first -= 1
    while first < at and cores[first] in SIGNS:
        first += 1
    return first, sure


def _domain(cores: Sequence[str], at: int) -> tuple[int, str]:
    """(behind it, its first name) of a domain that begins at a word; 0 where there is none."""
    if at < len(cores) and _DOMAIN.fullmatch(cores[at]) and cores[at].rpartition(".")[2] in TOP:
        return at + 1, cores[at].partition(".")[0]
    for dot in range(at + 1, min(at + _MOST_OF_A_DOMAIN + 1, len(cores) - 1)):
        if cores[dot] in DOTS:
            end = dot
            while end + 1 < len(cores) and cores[end] in DOTS and cores[end + 1].isalnum():
                end += 2
                if cores[end - 1] in TOP and (end >= len(cores) or cores[end] not in DOTS):
                    return end, cores[at]
            return 0, ""
        if cores[dot] in NO_MAILBOX:
            return 0, ""
    return 0, ""


def postal(cores: Sequence[str], texts: Sequence[str], runs: Sequence[Run], awaited: bool) -> Spans:
    """Postal addresses; `awaited`: somebody has spoken of one, and five digits said one by one are a postcode."""
    found: Spans = []
    by_first = {run.first: run for run in runs}
    behind = 0
    for run in runs:
        if run.first < behind or not 1 <= len(run.digits) <= 5:
            continue
        if run.first and len(run.digits) <= 3 and _GERMAN_STREET.fullmatch(cores[run.first - 1]):
            found.append((run.first - 1, run.last))
            continue
        end = _street(cores, texts, run.last + 1, awaited)
        whole = _with_state(cores, texts, by_first, max(end, run.last + 2))
        if not end and not whole:
            continue
        behind = whole or _with_unit(cores, by_first, end)
        found.append((run.first, behind - 1))
    for run in runs:
        by_digit = awaited and len(run.groups) == 5
        if run.first >= behind and len(run.digits) in (5, 9) and (by_digit or _is_zip(cores, texts, run)):
            found.append((run.first, run.last))
    return found


def _street(cores: Sequence[str], texts: Sequence[str], at: int, awaited: bool) -> int:
    """Where a street that begins at a word is at its end; 0 where there is none."""
    for place in range(at, min(at + _MOST_OF_A_STREET + 1, len(cores))):
        word = cores[place]
        capitals = all(texts[one][:1].isupper() or texts[one][:1].isdigit() for one in range(at, place + 1))
        if word in STREETS and place > at and (word not in VAGUE_STREETS or awaited or capitals):
            return place + 1
        if word in NO_STREET or texts[place][-1:] in _ENDS:
            return 0
        if texts[place][-1:] == ",":
            return place + 1 if awaited and capitals and place > at else 0
    return 0


def _with_unit(cores: Sequence[str], by_first: dict[int, Run], end: int) -> int:
    """Where a street is at its end with the flat that is said behind it."""
    if end >= len(cores) or cores[end] not in UNITS:
        return end
    if end + 1 in by_first:
        return by_first[end + 1].last + 1
    numbered = end + 1 < len(cores) and (len(cores[end + 1]) <= 2 or any(map(str.isdecimal, cores[end + 1])))
    return end + 2 if numbered else end + 1


def _with_state(cores: Sequence[str], texts: Sequence[str], by_first: dict[int, Run], at: int) -> int:
    """Where an address ends whose state and postcode stand a few words behind `at`; 0 where they do not."""
    for place in range(at, min(at + _MOST_TO_A_STATE, len(cores))):
        zipped = by_first.get(place + 1)
        state = cores[place] in STATES or (len(cores[place]) == 2 and texts[place].strip(".,").isupper())
        if state and zipped and len(zipped.digits) in (5, 9):
            return zipped.last + 1
        if _STATE_AND_ZIP.fullmatch(cores[place]):
            return place + 1
        if (cores[place] in NO_STREET and cores[place] not in STATES) or texts[place][-1:] in "?!;":
            return 0
    return 0


def _is_zip(cores: Sequence[str], texts: Sequence[str], run: Run) -> bool:
    """Whether five or nine digits stand behind a state, or are called a postcode."""
    before = cores[max(run.first - 3, 0) : run.first]
    state = before and before[-1] in STATES and texts[run.first - 1][:1].isupper()
    return bool(state) or " ".join(before).endswith(("zip", "zipcode", "zip code", "zip code is", "zip is"))
