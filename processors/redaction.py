"""Card numbers and other personal data out of what was said, before it leaves the recogniser.

What has been emitted cannot be taken back, and numbers are dictated piece by piece. So what a number is, is told by
what was asked for: a cue ("your card number?") by either party opens a window of `WINDOW_MS` in which pieces are
replaced as they come; without a cue a number is told by its form: check digits, country codes, area codes
(docs/redaction.md).

A changer must know: what is kept between the utterances of a call is what is expected and how many digits came, never a
digit: it is written to Kafka. `Redactor` is pure: the same words and the same state give the same result.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, Self, get_args

from pydantic import BaseModel, ConfigDict, Field
from stdnum import iban, luhn
from stdnum.br import cpf
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.it import codicefiscale
from stdnum.us import itin, ssn

from processors import addresses
from processors.redaction_cues import (
    ACKNOWLEDGED,
    CUE_BEGINNINGS,
    CUE_WORDS,
    CUES,
    MEASURES,
    SIGNS,
)
from processors.spoken_digits import EDGES, Run, core, runs
from processors.utterances import WITHOUT_SPACES
from schemas.errors import CalltideError
from schemas.events import Word

Kind = Literal["card", "cvv", "iban", "ssn", "tax_id", "phone", "email", "address", "name", "number"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
TAGS: Final = {kind: f"[{kind.upper()}]" for kind in KINDS}
"""What stands for what was said, by its kind."""

WINDOW_MS: Final = 20_000
"""So long after a cue, or after a piece of what was asked for, its next piece is awaited. Judgement: people look for
their card, and read it slowly."""
PAUSE_MS: Final = 15_000
"""A number of which nothing came for so long is not gone on with. Judgement."""

MARGIN_MS: Final = 300
"""What is silenced before and behind what was taken out: so far the edges of a word may move between two hearings of it
(`processors.asr.AGREED_MS`)."""


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    # PCI DSS 4.0 forbids to keep a card's security code (3.3.1), and its number in the clear (3.5.1).
    kinds: dict[str, tuple[Kind, ...]] = Field(
        {"*": ("card", "cvv")},
        description="what is replaced by [CARD] and so on, by tenant, or * for all others: card, cvv, iban, ssn, "
        'tax_id, phone, email, address, name, number (any other of 6 digits or more); {"*": []}: nothing',
    )
    regions: tuple[str, ...] = Field(
        ("US",), description="countries, as two letters, whose phone numbers are known without their country code"
    )
    names_model: str | None = Field(
        None, description="spaCy pipeline, package or directory, that finds the names of people; needs extra redaction"
    )


class Names(Protocol):
    """Finds the names of people."""

    def find(self, text: str, language: str) -> list[tuple[int, int]]:
        """(first character, character behind the last) of each name in `text`."""
        ...


Expected = Kind | Literal["other"]
"""What is asked for; `other`: something with digits that is none of the kinds, such as an order number."""

_SHORTEST_CARD: Final = 13
_NUMERIC: Final = frozenset({"card", "cvv", "iban", "ssn", "tax_id", "phone", "number"})
_CARD: Final = re.compile(
    r"4\d{15}|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}|(?:2131|1800)\d{11}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14}|220[0-4]\d{12}"
)
"""Numbers of Visa, Mastercard, American Express, Diners Club, JCB, Discover, UnionPay and Mir (ISO/IEC 7812 ranges, as
the schemes publish them)."""
_RARE_CARD: Final = re.compile(r"4(?:\d{12}|\d{18})|62\d{15,17}|(?:50|5[6-9]|6\d)\d{11,17}")
"""Of other lengths, and Maestro's: a tenth of all numbers that begin like them have a right check digit."""
_LENGTHS_OF_CARDS: Final = (16, 15, 14)
_MOST_BEFORE_CARD: Final = 12
"""Groups of digits at which a card's number is looked for. Judgement: each is a chance of one that is none."""
_MAY_BEGIN_CARD: Final = re.compile(r"[3-6]|2[2-7]?$|2[2-7]")

_NINO: Final = re.compile(r"[abceghj-prstw-z][abceghj-nprstw-z]\d{6}[a-d]")
"""A UK national insurance number (HMRC, NIM39110)."""
_LETTERED_IDS: Final[tuple[tuple[int, Callable[[str], bool]], ...]] = (
    (9, lambda text: bool(_NINO.fullmatch(text)) and text[:2] not in {"bg", "gb", "kn", "nk", "nt", "tn", "zz"}),
    (9, lambda text: bool(dni.is_valid(text) or nie.is_valid(text))),
    (16, lambda text: bool(codicefiscale.is_valid(text))),
)
_PHONE_GROUPS: Final = ((3, 3, 4), (1, 3, 3, 4))
_SEPARATED: Final = re.compile(r"\d{3}[).-]+ ?\d{3}[.-]\d{4}")
"""As telephone numbers are written in North America, and little else is."""
_LONGEST_CODE: Final = 34
"""Characters of the longest IBAN (ISO 13616)."""


@dataclass(slots=True)
class Memory:
    """What is known of a call's numbers: what is awaited, and how much came. No digit of them."""

    awaited: Expected | None = None
    until_ms: int = 0
    begun: dict[str, list[int]] = field(default_factory=dict)
    """Speaker → digits of the number that he dictates, whether it may be a card's, and when its last piece ended."""

    @classmethod
    def restore(cls, kept: Any) -> Self:
        """As `dump` gave it."""
        return cls(kept["awaited"], kept["until_ms"], kept["begun"]) if kept else cls()

    def dump(self) -> dict[str, Any] | None:
        """For a snapshot; None when nothing is awaited."""
        if self.awaited is None and not self.begun:
            return None
        return {"awaited": self.awaited, "until_ms": self.until_ms, "begun": self.begun}

    def at(self, at_ms: int) -> None:
        """Forget what is too long ago at this time of the call."""
        if self.awaited is not None and at_ms > self.until_ms:
            self.awaited = None
        if self.begun:
            self.begun = {who: one for who, one in self.begun.items() if at_ms - one[2] <= PAUSE_MS}


@dataclass(frozen=True, slots=True)
class Redacted:
    """What is left of an utterance."""

    text: str
    words: tuple[Word, ...]
    """Words of one entity are one, from the first's start to the last's end, as unsure as the least sure."""
    counts: dict[str, int]
    """Kind → how many."""


@dataclass(slots=True)
class _Heard:
    """An utterance while it is looked through."""

    texts: Sequence[str]
    cores: Sequence[str]
    runs: list[Run]
    marks: list[Kind | None]
    """The kind of each word."""
    starts: set[int] = field(default_factory=set)
    """Words at which an entity begins."""

    def mark(self, first: int, last: int, kind: Kind) -> None:
        """Words `first` to `last` are one entity, but for those that are marked."""
        begun = False
        for at in range(first, last + 1):
            if self.marks[at] is None:
                self.marks[at] = kind
                if not begun:
                    self.starts.add(at)
                begun = True
            else:
                begun = False

    def free(self, run: Run) -> bool:
        return self.marks[run.first] is None


class Redactor:
    """Takes out what the tenants' settings name. Without `names` no names are found.

    Raises CalltideError for a region that is none.
    """

    def __init__(self, config: Config, names: Names | None = None) -> None:
        import phonenumbers  # here, since it costs every command of the command line a tenth of a second

        self._phones = phonenumbers
        self._kinds = {tenant: frozenset(kinds) for tenant, kinds in config.kinds.items()}
        self._regions = config.regions
        self._names = names
        for region in config.regions:
            if region not in phonenumbers.SUPPORTED_REGIONS:
                raise CalltideError(
                    f"CALLTIDE_ASR__REDACT__REGIONS: {region} is no country; give two capital letters, such as US or GB"
                )
            # Reads the country's table now, and not in the first call.
            phonenumbers.PhoneMetadata.metadata_for_region(region)

    def kinds(self, tenant: str) -> frozenset[Kind]:
        """What is taken out of a tenant's calls."""
        return self._kinds.get(tenant, self._kinds.get("*", frozenset()))

    def redact(
        self,
        text: str,
        words: tuple[Word, ...],
        language: str,
        tenant: str,
        memory: Memory,
        speaker: str = "",
        end_ms: int = 0,
    ) -> Redacted:
        """An utterance without personal data; `memory` hears of it. `end_ms`: its end in the call."""
        kinds = self.kinds(tenant)
        if not kinds or not text:
            return Redacted(text, words, {})
        memory.at(end_ms)
        timed = _are_of(words, text)
        texts = [word.text for word in words] if timed else text.split()
        apart = Memory(memory.awaited)
        heard = self._marked(texts, language, kinds, memory, speaker, end_ms, text)
        counts = _counts(heard)
        joint = "" if language in WITHOUT_SPACES else " "
        if timed:
            kept = _replaced(words, heard) if counts else words
            return Redacted(joint.join(word.text for word in kept) if counts else text, kept, counts)
        if words:
            # The words are not those of the text: each is looked through for itself.
            own = self._marked([word.text for word in words], language, kinds, apart, speaker, 0, text)
            words = _replaced(words, own)
            counts = {kind: max(counts.get(kind, 0), number) for kind, number in (counts | _counts(own)).items()}
        left = joint.join(word.text for word in _replaced(_untimed(texts), heard)) if heard.starts else text
        return Redacted(left, words, counts)

    def provisional(self, text: str, words: tuple[Word, ...], language: str, tenant: str) -> Redacted:
        """An utterance that is going on, by itself: what may become a number is none to be seen yet, and is [NUMBER]
        until it is finished. So is the rest of it, [EMAIL], once an e-mail address is being spelled."""
        kinds = self.kinds(tenant)
        if not kinds or not text:
            return Redacted(text, words, {})
        # Words that are not those of the text are not shown: the finished utterance will have them.
        timed = _are_of(words, text)
        shown = words if timed else _untimed(text.split())
        texts = [word.text for word in shown]
        heard = self._marked(texts, language, kinds, Memory(), "", 0, text)
        if kinds & _NUMERIC:
            dictated = _dictated(heard)
            for run in heard.runs:
                if heard.free(run) and len(run.digits) >= (2 if dictated else 4) and not _measured(heard, run):
                    heard.mark(run.first, run.last, "number")
        if "email" in kinds:
            last = next(
                (at for at in reversed(range(len(texts))) if heard.cores[at] in ("email", "e-mail", "mail")), -1
            )
            rest = range(last + 2, len(texts))
            if last >= 0 and any(heard.cores[at] in SIGNS or heard.cores[at] == "at" for at in rest):
                heard.mark(rest[0], rest[-1], "email")
        if heard.starts:
            shown = _replaced(shown, heard)
            text = ("" if language in WITHOUT_SPACES else " ").join(word.text for word in shown)
        return Redacted(text, shown if timed else (), {})

    def _marked(
        self,
        texts: Sequence[str],
        language: str,
        kinds: frozenset[Kind],
        memory: Memory,
        speaker: str,
        end_ms: int,
        text: str,
    ) -> _Heard:
        cores = [core(one) for one in texts]
        numbers = runs(texts, cores, language)
        heard = _Heard(texts, cores, numbers, [None] * len(texts))
        cues = _cues(cores)
        asked = {memory.awaited, *(cue for _, cue in cues)}
        if "email" in kinds:
            for first, last in addresses.mail(cores, texts, numbers, "email" in asked):
                heard.mark(first, last, "email")
        if numbers or any(map(str.isdecimal, "".join(cores))):
            if kinds & {"iban", "tax_id"}:
                self._mark_codes(heard, kinds, cues, memory)
            self._mark_cards(heard, kinds, cues, memory, end_ms)
            # A house number is none of a card, whether or not addresses are taken out.
            places = addresses.postal(cores, texts, numbers, "address" in asked)
            if "address" in kinds:
                for first, last in places:
                    heard.mark(first, last, "address")
            house = {at for first, last in places for at in range(first, last + 1)}
            self._mark_runs(heard, kinds, cues, memory, speaker, end_ms, house)
        elif speaker in memory.begun and len([one for one in cores if one not in ACKNOWLEDGED]) > 3:
            del memory.begun[speaker]
        for _, cue in cues:
            awaited = _after(memory.awaited, cue)
            if awaited != memory.awaited:
                memory.begun.clear()
            if awaited is not None and cue != "aside":
                memory.awaited, memory.until_ms = awaited, end_ms + WINDOW_MS
        if "name" in kinds and self._names is not None and text:
            self._mark_names(heard, language)
        return heard

    def _mark_codes(self, heard: _Heard, kinds: frozenset[Kind], cues: list[tuple[int, str]], memory: Memory) -> None:
        """What has letters among its digits, spelled or written: IBANs, and the tax numbers of some countries."""
        cores = heard.cores
        spoken = {group.first: group for run in heard.runs for group in run.groups}
        for first, word in enumerate(cores):
            if not word[:1].isalpha() or len(word) > _LONGEST_CODE or heard.marks[first] or first in spoken:
                continue
            if len(word) > 2 and not any(map(str.isdecimal, word)):
                continue  # a word, and no country's two letters
            code, at = "", first
            while at < len(cores) and len(code) < _LONGEST_CODE:
                group = spoken.get(at)
                one = cores[at].replace("-", "")
                if group is not None and not group.cardinal:
                    code, at = code + group.digits, group.last + 1
                elif one.isalnum() and (
                    len(one) == 1 or any(map(str.isdecimal, one)) or (len(one) <= 4 and heard.texts[at].isupper())
                ):
                    code, at = code + one, at + 1
                elif one in ("", "dash", "uh", "um") and code:
                    at += 1
                    continue
                else:
                    break
                if "iban" in kinds and 15 <= len(code) <= _LONGEST_CODE and _is_iban(code):
                    heard.mark(first, at - 1, "iban")
                    break
                if "tax_id" in kinds and any(len(code) == n and valid(code) for n, valid in _LETTERED_IDS):
                    heard.mark(first, at - 1, "tax_id")
                    break
            # With a digit misheard the check fails, and most of the number is there.
            looks_like_one = len(code) >= 12 and code[:2].isalpha() and code[2:4].isdecimal()
            if looks_like_one and "iban" in kinds and _awaited(first, cues, memory) == "iban":
                heard.mark(first, at - 1, "iban")

    def _mark_cards(
        self, heard: _Heard, kinds: frozenset[Kind], cues: list[tuple[int, str]], memory: Memory, end_ms: int
    ) -> None:
        """Whole numbers of cards: their check digit says what they are."""
        for run in heard.runs:
            if "card" in kinds and heard.free(run) and _has_card(run, _awaited(run.first, cues, memory)):
                heard.mark(run.first, run.last, "card")
                memory.awaited, memory.until_ms = "card", end_ms + WINDOW_MS

    def _mark_runs(
        self,
        heard: _Heard,
        kinds: frozenset[Kind],
        cues: list[tuple[int, str]],
        memory: Memory,
        speaker: str,
        end_ms: int,
        house: set[int],
    ) -> None:
        """All other numbers but those of `house`, and what is dictated so far."""
        dictated = _dictated(heard)
        for run in heard.runs:
            if not heard.free(run) or run.first in house:
                continue
            awaited = _awaited(run.first, cues, memory)
            before = memory.begun.get(speaker)
            kind = self._kind(heard, run, kinds, awaited, dictated, before)
            so_far = (before[0] if before else 0) + len(run.digits)
            card = bool(before[1]) if before else bool(_MAY_BEGIN_CARD.match(run.digits))
            if kind:
                heard.mark(run.first, run.last, kind)
                if kind in _NUMERIC and kind != "number" and (awaited is None or awaited == kind):
                    memory.awaited, memory.until_ms = kind, end_ms + WINDOW_MS
                elif awaited not in (None, "other"):
                    memory.until_ms = end_ms + WINDOW_MS
            if dictated or _is_last(heard, run):
                memory.begun[speaker] = [so_far, int(card and _like_a_card(so_far)), end_ms]
        if not dictated and heard.runs and not _is_last(heard, heard.runs[-1]):
            memory.begun.pop(speaker, None)

    def _kind(
        self,
        heard: _Heard,
        run: Run,
        kinds: frozenset[Kind],
        awaited: Expected | None,
        dictated: bool,
        before: list[int] | None,
    ) -> Kind | None:
        """What a number is, if it is to be taken out."""
        digits = run.digits
        length = len(digits)
        quantity = _measured(heard, run) or (len(run.groups) == 1 and run.groups[0].cardinal)
        if "ssn" in kinds and length == 9 and awaited != "other" and run.lengths == (3, 2, 4) and ssn.is_valid(digits):
            return "ssn"
        if "tax_id" in kinds and (awaited == "tax_id" or awaited is None) and _is_tax_id(run, awaited):
            return "tax_id"
        asked_for = awaited in ("card", "cvv", "iban", "ssn", "tax_id")
        if "phone" in kinds and not asked_for and not quantity and self._is_phone(heard, run, awaited):
            return "phone"
        if awaited == "cvv" and length > 4 and "card" in kinds and not quantity:
            return "card"
        if awaited in kinds and awaited in _FEWEST and not quantity:
            fewest = _FEWEST[awaited]
            if dictated:
                fewest = 1 if before else 2
            if awaited == "card" and (run.plus or _is_written_as_phone(heard, run)):
                return None
            year = length == 4 and digits[:2] in ("19", "20") and not dictated and awaited != "cvv"
            if fewest <= length <= (4 if awaited == "cvv" else 24) and not year:
                return awaited
        if "card" in kinds and awaited is None and not quantity:
            if dictated and before and before[1] and before[0] >= 4 and _like_a_card(before[0] + length):
                return "card"
            # Read out in pieces, it is one of which a digit was misheard.
            if 15 <= length <= 17 and len(run.groups) >= 4 and _MAY_BEGIN_CARD.match(digits):
                return "card"
            cut_off = 11 <= length < 16 and _MAY_BEGIN_CARD.match(digits) and _is_last(heard, run)
            if cut_off and not self._valid_phone(digits, run.plus):
                return "card"
        if "number" in kinds and not quantity and (length >= 6 or (dictated and length >= 4)):
            return "number"
        return None

    def _is_phone(self, heard: _Heard, run: Run, awaited: Expected | None) -> bool:
        length = len(run.digits)
        if not 6 <= length <= 15:
            return False
        if run.plus:
            return self._valid_phone(run.digits, plus=True)
        if awaited == "phone":
            return True
        if _is_written_as_phone(heard, run) and run.digits[-10] not in "01":
            return True
        if awaited == "other" and run.lengths not in _PHONE_GROUPS:
            return False
        return length >= 9 and self._valid_phone(run.digits, plus=False)

    def _valid_phone(self, digits: str, plus: bool) -> bool:
        plus, digits = plus or digits.startswith("00"), digits.removeprefix("00")
        for region in (None,) if plus else self._regions:
            try:
                number = self._phones.parse(f"+{digits}" if plus else digits, region)
            except self._phones.NumberParseException:
                continue
            if self._phones.is_valid_number(number):
                return True
        return False

    def _mark_names(self, heard: _Heard, language: str) -> None:
        assert self._names is not None
        line = " ".join(heard.texts)
        found = self._names.find(line, language)
        at = 0
        for number, word in enumerate(heard.texts):
            end = at + len(word)
            for first, behind in found:
                if at < behind and first < end and heard.marks[number] is None:
                    heard.marks[number] = "name"
                    if first >= at:
                        heard.starts.add(number)
            at = end + 1


_FEWEST: Final = {"card": 4, "cvv": 3, "ssn": 4, "tax_id": 5, "phone": 6, "iban": 6}
"""Digits from which a number is taken for what is awaited. Judgement; docs/redaction.md has what comes of it."""


def _are_of(words: tuple[Word, ...], text: str) -> bool:
    """Whether the words with times are those of the text."""
    return bool(words) and "".join("".join(word.text.split()) for word in words) == "".join(text.split())


def _untimed(texts: Sequence[str]) -> tuple[Word, ...]:
    return tuple(Word(text=one, start_ms=0, end_ms=0, confidence=0) for one in texts)


def _counts(heard: _Heard) -> dict[str, int]:
    return dict(sorted(Counter(str(heard.marks[at]) for at in heard.starts).items()))


def _cues(cores: Sequence[str]) -> list[tuple[int, str]]:
    """(word at which it ends, what it asks for) of each cue, in order."""
    if CUE_WORDS.isdisjoint(cores) and not any(word.startswith(CUE_BEGINNINGS) for word in cores):
        return []
    line = " ".join(cores).replace("'", "")
    # Of two that end together the last is believed: "card verification code" is not any verification code.
    found = [
        (match.end(), kind not in ("code", "other"), kind) for kind, pattern in CUES for match in pattern.finditer(line)
    ]
    # One may end with the space before the number that it asks for.
    return [(line.count(" ", 0, end - 1), kind) for end, _, kind in sorted(found)]


def _awaited(at: int, cues: list[tuple[int, str]], memory: Memory) -> Expected | None:
    """What is awaited at a word: by the last cue before it, or before the utterance, or by the next one behind it
    ("4111 … is my card number")."""
    awaited, aside = memory.awaited, False
    for place, cue in cues:
        if place >= at:
            break
        awaited, aside = _after(awaited, cue), cue == "aside"
    if aside:
        return "other"
    if awaited is None:
        asked = next((cue for place, cue in cues if place >= at), "other")
        return None if asked in ("other", "aside", "code") else _after(None, asked)
    return awaited


def _after(awaited: Expected | None, cue: str) -> Expected | None:
    """What is awaited behind a cue."""
    if cue == "code":
        return "cvv" if awaited == "card" else awaited
    return awaited if cue == "aside" else cue  # type: ignore[return-value]


def _dictated(heard: _Heard) -> bool:
    """Whether an utterance is nothing but digits and what is said beside them."""
    if not heard.runs:
        return False
    inside = {at for run in heard.runs for at in range(run.first, run.last + 1)}
    return all(at in inside or not one or one in ACKNOWLEDGED for at, one in enumerate(heard.cores))


def _is_last(heard: _Heard, run: Run) -> bool:
    """Whether a number may go on in the next utterance."""
    return all(not one or one in ACKNOWLEDGED for one in heard.cores[run.last + 1 :])


def _measured(heard: _Heard, run: Run) -> bool:
    return heard.cores[run.last + 1 : run.last + 2] != [] and heard.cores[run.last + 1] in MEASURES


def _is_written_as_phone(heard: _Heard, run: Run) -> bool:
    written = " ".join(heard.texts[run.first : run.last + 1])
    return run.lengths in _PHONE_GROUPS and bool(_SEPARATED.search(written))


def _like_a_card(digits: int) -> bool:
    """Whether a card's number may be cut after so many digits: 4-4-4-4, or American Express' 4-6-5."""
    return digits in (4, 8, 10, 12, 15, 16)


def _has_card(run: Run, awaited: Expected | None) -> bool:
    """Whether a card's number begins with one of the groups; before it, or behind it, others may stand."""
    digits = run.digits
    if len(digits) < _SHORTEST_CARD:
        return False
    if awaited != "other" and _RARE_CARD.fullmatch(digits) and luhn.is_valid(digits):
        return True
    at = 0
    for group in run.groups[:_MOST_BEFORE_CARD]:
        for length in _LENGTHS_OF_CARDS:
            number = digits[at : at + length]
            if _CARD.fullmatch(number) and luhn.is_valid(number):
                return True
        at += len(group.digits)
    return False


def _is_tax_id(run: Run, awaited: Expected | None) -> bool:
    digits = run.digits
    if awaited == "tax_id" and 8 <= len(digits) <= 15:
        return True
    if len(digits) == 9:
        return run.lengths == (3, 2, 4) and bool(itin.is_valid(digits))
    if len(digits) == 11:
        return (run.lengths == (2, 3, 3, 3) and bool(idnr.is_valid(digits))) or (
            run.lengths == (3, 3, 3, 2) and bool(cpf.is_valid(digits))
        )
    return len(digits) == 15 and bool(nir.is_valid(digits))


def _is_iban(code: str) -> bool:
    return code[:2].isalpha() and code[2:4].isdecimal() and bool(iban.is_valid(code, check_country=False))


def _replaced(words: tuple[Word, ...], heard: _Heard) -> tuple[Word, ...]:
    """The words with those of each entity as one."""
    kept: list[Word] = []
    at = 0
    while at < len(words):
        kind = heard.marks[at]
        if kind is None:
            kept.append(words[at])
            at += 1
            continue
        end = at + 1
        while end < len(words) and heard.marks[end] == kind and end not in heard.starts:
            end += 1
        first, last = words[at], words[end - 1]
        before = first.text[: len(first.text) - len(first.text.lstrip(EDGES))]
        behind = last.text[len(last.text.rstrip(EDGES)) :]
        kept.append(
            first.model_copy(
                update={
                    "text": f"{before.strip('([{')}{TAGS[kind]}{behind.strip(')]}')}",
                    "end_ms": last.end_ms,
                    "confidence": min(word.confidence for word in words[at:end]),
                }
            )
        )
        at = end
    return tuple(kept)


def hidden(words: Sequence[Word], start_ms: int, end_ms: int) -> list[tuple[int, int]]:
    """Where an utterance's audio is silenced, in milliseconds of the call, in order and apart: the words that stand for
    what was taken out, MARGIN_MS more to each side; all of it where no word says where."""
    tags = frozenset(TAGS.values())
    found: list[tuple[int, int]] = []
    for word in words:
        if word.text.strip(_OUTSIDE) in tags:
            first, behind = max(word.start_ms - MARGIN_MS, start_ms), min(word.end_ms + MARGIN_MS, end_ms)
            if found and first <= found[-1][1]:
                first, behind = found.pop()[0], max(behind, first)
            found.append((first, behind))
    return found or [(start_ms, end_ms)]


_OUTSIDE: Final = EDGES.replace("[", "").replace("]", "")
