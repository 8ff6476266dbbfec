"""Digits in what was said, however they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.spoken_digits import core, runs
from streams.evaluation.redaction import paired, spoken


def found(text: str, language: str = "en") -> list[str]:
    texts = text.split()
    return [run.digits for run in runs(texts, [core(word) for word in texts], language)]


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("four one double one oh", ["41110"]),
        ("4111 1111, 1111-1111", ["4111111111111111"]),
        ("four-one-one-one and then triple five", ["4111555"]),
        ("4-1-1-1, uh, 2222", ["41112222"]),
        ("forty-two eleven", ["4211"]),
        ("one hundred and twenty three", ["123"]),
        ("eight hundred five five five one two one two", ["8005551212"]),
        ("eight hundred five", ["805"]),
        ("four thousand one hundred and eleven", ["4111"]),
        ("nineteen eighty five", ["1985"]),
        ("oh, two of them", ["2"]),
        ("oh two oh seven", ["0207"]),
        ("four one for one", ["4141"]),
        ("send it for one", ["1"]),
        ("one, two? three", ["12", "3"]),
        ("call +1 (415) 555-2671", ["14155552671"]),
        ("415.555.2671 ext", ["4155552671"]),
        ("415-555-2671x204", ["4155552671"]),
        ("٤١١١ ４１１１", ["41114111"]),
        ("192.168.0.1 and 3.14 on 2024-05-05 at 12:30 for $450 or 50%", []),
        ("what is it double", []),
        ("", []),
    ],
)
def test_english(text: str, digits: list[str]) -> None:
    assert found(text) == digits


@pytest.mark.parametrize(
    ("language", "text", "digits"),
    [
        ("de", "vier eins eins zwo 5", ["41125"]),
        ("es", "cuatro uno uno dos", ["4112"]),
        ("fr", "quatre un un deux", ["4112"]),
        ("it", "quattro uno uno due", ["4112"]),
        ("nl", "vier één een twee", ["4112"]),
        ("pt", "quatro um uma dois meia", ["41126"]),
        ("ja", "four one 411 2", ["4112"]),
    ],
)
def test_other_languages_say_digits_one_by_one(language: str, text: str, digits: list[str]) -> None:
    assert found(text, language) == digits


@given(st.text("0123456789", min_size=2, max_size=20), st.randoms(use_true_random=False))
def test_what_is_spoken_is_read(digits: str, chance: object) -> None:
    assert "".join(found(spoken(digits, chance))) == digits  # type: ignore[arg-type]


@given(st.text("0123456789", min_size=2, max_size=20).filter(lambda text: len(text) % 2 == 0 and "00" not in text))
def test_what_is_spoken_in_pairs_is_read(digits: str) -> None:
    assert "".join(found(paired(digits))) == digits


_WORDS = "one oh to hundred thousand double forty 4 4,111 uh and 1-2 x2 ² ½ - + , ."


@given(st.lists(st.sampled_from(_WORDS.split())))
def test_whatever_comes_the_words_of_a_number_are_in_order(words: list[str]) -> None:
    at = -1
    for run in runs(words, [core(word) for word in words], "en"):
        for group in run.groups:
            assert at <= group.first <= group.last < len(words)
            at = group.last
        assert run.digits.isascii()
        assert run.digits.isdigit()
