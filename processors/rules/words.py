"""Which of many texts are in an utterance: words as they are, by stem, by regex and by meaning, all in one pass.

A changer must know: how long it takes must not grow with the number of rules. Words and stems are looked up by their
first word, the regexes are one automaton (RE2's Set), and only texts by meaning cost something each: one embedding for
the utterance, made when a rule that asks for a meaning may still be true.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import re2
import snowballstemmer
from numpy.typing import NDArray

from processors.rules.language import Words, pattern_options

# fmt: off
STEMMERS: Final = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "eo": "esperanto", "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish",
    "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch", "no": "norwegian", "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "st": "sesotho", "sv": "swedish",
    "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}
# fmt: on
"""Language of an utterance → algorithm of Snowball. In any other language words are compared as they are."""

STEMS_KEPT: Final = 50_000
"""Stems that are remembered of a language. Judgement: the words of a call centre; 5 MB."""

SHORTEST: Final = 3
"""Utterances of fewer words have no meaning of their own: “yes”, “all right”. Judgement."""

_TOKEN: Final = re.compile(
    # Where no spaces are written (Thai, Lao, Burmese, Khmer, Japanese, Chinese) each sign is a word.
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\\W_]+(?:'[^\\W_]+)*"
)

Group = int
"""The number of a `Words` in the order in which they were given."""
Embedding = NDArray[np.float32]


class Embedder(Protocol):
    """What makes vectors of sentences."""

    def embed(self, texts: Sequence[str]) -> Embedding:
        """float32 (n, d), each of unit length; a text's vector does not depend on the others."""
        ...


class Remembering:
    """An embedder that is made when it is asked first, and asked for each text once until it is told to forget."""

    def __init__(self, make: Callable[[], Embedder]) -> None:
        self._make = make
        self._made: Embedder | None = None
        self._known: dict[str, Embedding] = {}

    def forget(self) -> None:
        """Keep no text any longer: there is no end to what people say."""
        self._known.clear()

    def embed(self, texts: Sequence[str]) -> Embedding:
        """float32 (n, d), as the embedder has it."""
        if self._made is None:
            self._made = self._make()
        for text in texts:
            if text not in self._known:
                self._known[text] = self._made.embed([text])
        return np.concatenate([self._known[text] for text in texts])


def tokens(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation; “don’t” is one."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).replace("’", "'").lower())


class _Phrases:
    """Sequences of words, found by their first one."""

    def __init__(self) -> None:
        self._by_first: dict[str, list[tuple[tuple[str, ...], Group, str]]] = {}

    def add(self, words: Sequence[str], group: Group, said: str) -> None:
        if words:
            self._by_first.setdefault(words[0], []).append((tuple(words), group, said))

    def find(self, words: list[str], found: dict[Group, str]) -> None:
        """Put the first phrase of each group that is in these words into `found`."""
        for at, word in enumerate(words):
            for phrase, group, said in self._by_first.get(word, ()):
                if group not in found and (len(phrase) == 1 or tuple(words[at : at + len(phrase)]) == phrase):
                    found[group] = said


class Matcher:
    """Many `Words`, each of which is a group: an utterance has it when it has any of its texts."""

    def __init__(self, groups: Sequence[Words], embedder: Embedder) -> None:
        self._exact = _Phrases()
        self._stem_phrases: list[tuple[str, Group]] = []
        self._stems: dict[str, _Phrases] = {}
        """By language."""
        self._regexes: list[tuple[Any, Group]] = []
        self._meanings: dict[Group, tuple[Embedding, float, tuple[str, ...]]] = {}
        for group, words in enumerate(groups):
            for phrase in words.exact or ():
                self._exact.add(tokens(phrase), group, phrase)
            self._stem_phrases += [(phrase, group) for phrase in words.stem or ()]
            self._regexes += [(re2.compile(pattern, pattern_options()), group) for pattern in words.regex or ()]
            if words.meaning is not None:
                like = words.meaning.like
                # One by one, so that a sentence has the same vector in whatever rule it stands.
                vectors = np.concatenate([embedder.embed([one]) for one in like])
                self._meanings[group] = (vectors, words.meaning.at_least, like)
        self._embedder = embedder
        self._set = self._automaton()

    def _automaton(self) -> Any:
        """All regexes as one, the last of which is always found: where it is not, RE2 has run out of memory."""
        if not self._regexes:
            return None
        options = pattern_options()
        options.max_mem = 64 << 20
        automaton = re2.Set.SearchSet(options)
        try:
            for regex, _ in self._regexes:
                automaton.Add(regex.pattern)
            automaton.Add("")
            automaton.Compile()
        except re2.error:
            return None  # too large together; they are tried one by one
        return automaton

    def find(self, text: str, language: str) -> dict[Group, str]:
        """The groups that are in an utterance as words, stems or regexes, each with the text: as the rule has it or, of
        a regex, as it was said."""
        found: dict[Group, str] = {}
        words = tokens(text)
        self._exact.find(words, found)
        if self._stem_phrases:
            code = language.lower().split("-")[0]
            code = code if code in STEMMERS else ""
            self._of(code).find(_stems(code, words), found)
        for number in self._matching(text):
            regex, group = self._regexes[number]
            if group not in found and (match := regex.search(text)):
                found[group] = match.group().strip() or text
        return found

    def _matching(self, text: str) -> Iterable[int]:
        if self._set is None:
            return range(len(self._regexes))
        numbers = self._set.Match(text) or []
        if len(self._regexes) not in numbers:
            return range(len(self._regexes))
        return sorted(number for number in numbers if number < len(self._regexes))

    def means(self, text: str, group: Group) -> str | None:
        """The sentence of a group that an utterance is most like, if it is like enough."""
        if group not in self._meanings or len(tokens(text)) < SHORTEST:
            return None
        vectors, at_least, like = self._meanings[group]
        alike = vectors @ self._embedder.embed([text])[0]
        closest = int(np.argmax(alike))
        return like[closest] if float(alike[closest]) >= at_least else None

    def _of(self, code: str) -> _Phrases:
        if code not in self._stems:
            phrases = self._stems[code] = _Phrases()
            for phrase, group in self._stem_phrases:
                phrases.add(_stems(code, tokens(phrase)), group, phrase)
        return self._stems[code]


_STEMMERS: dict[str, Any] = {}
_STEMS: dict[str, dict[str, str]] = {}
"""By language, then by word."""


def _stems(code: str, words: list[str]) -> list[str]:
    if not code:
        return words
    known = _STEMS.setdefault(code, {})
    return [known.get(word) or _stem(code, word, known) for word in words]


def _stem(code: str, word: str, known: dict[str, str]) -> str:
    if code not in _STEMMERS:
        _STEMMERS[code] = snowballstemmer.stemmer(STEMMERS[code])
    if len(known) >= STEMS_KEPT:
        known.clear()
    stem = known[word] = str(_STEMMERS[code].stemWord(word))
    return stem
