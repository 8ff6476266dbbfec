"""Numbers as they are wanted, with the times of what was said."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.text_format import Numbers, formatted
from schemas.events import Word


def words(text: str) -> tuple[Word, ...]:
    """Each word a tenth of a second, the later the less sure."""
    return tuple(
        Word(text=word, start_ms=100 * i, end_ms=100 * i + 90, confidence=round(0.99 - 0.01 * i, 2))
        for i, word in enumerate(text.split())
    )


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        ("I paid twenty five dollars and fifty cents, twice.", "I paid $25.50, twice."),
        ("It was 25 dollars.", "It was $25."),
        ("a hundred and one euros", "€101"),
        ("Call five five five one two three four, please.", "Call 5551234, please."),
        ("it is oh seven nine oh four", "it is 07904"),
        ("since nineteen eighty five.", "since 1985."),
        ("two point five percent", "2.5%"),
        ("Helena dot Smith at woodgrove dot com.", "helena.smith@woodgrove.com."),
        ("chris at contoso.com, yes", "chris@contoso.com, yes"),
        ("visit us at example dot com", "visit us at example dot com"),
        ("one of them, the first one", "one of them, the first one"),
        ("Twenty, thirty", "20, 30"),
        ("I was at home", "I was at home"),
    ],
)
def test_formatted(spoken: str, expected: str) -> None:
    text, new = formatted(spoken, words(spoken), "formatted", "en")
    assert text == expected == " ".join(word.text for word in new)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("It's $25.50, or $1.", "It's twenty-five dollars and fifty cents, or one dollar."),
        ("Call 555-1234, please.", "Call five five five one two three four, please."),
        ("In 1985, from 07944.", "In nineteen eighty-five, from zero seven nine four four."),
        ("2.5% at 10:30", "two point five percent at ten thirty"),
        ("July 4th, A12", "July fourth, A one two"),
        ("helena.s@woodgrove.com", "helena dot s at woodgrove dot com"),
        ("No number.", "No number."),
    ],
)
def test_spoken(written: str, expected: str) -> None:
    text, new = formatted(written, words(written), "spoken", "en")
    assert text == expected == " ".join(word.text for word in new)


def test_what_becomes_one_word_has_the_times_of_all() -> None:
    said = "about twenty five dollars now"
    _, new = formatted(said, words(said), "formatted", "en")
    assert [(word.text, word.start_ms, word.end_ms, word.confidence) for word in new] == [
        ("about", 0, 90, 0.99),
        ("$25", 100, 390, 0.96),
        ("now", 400, 490, 0.95),
    ]


def test_what_becomes_several_words_shares_its_time() -> None:
    _, new = formatted("$20 now", words("$20 now"), "spoken", "en")
    assert [(word.text, word.start_ms, word.end_ms) for word in new] == [
        ("twenty", 0, 41),
        ("dollars", 41, 90),
        ("now", 100, 190),
    ]


@pytest.mark.parametrize("written", ["$%s", "%s%%", "1.%s", "%sth", "1,%s"])
def test_numbers_that_nobody_says_are_spelled(written: str) -> None:
    text = written % ("999," * 110 + "999" if written == "1,%s" else "9" * 400)
    assert formatted(text, words(text), "spoken", "en")[0].split()[-2:-1] == ["nine"]


def test_other_languages() -> None:
    assert formatted("fünfundzwanzig Euro", words("fünfundzwanzig Euro"), "formatted", "de")[0] == "25 Euro"
    assert formatted("25 Euro", words("25 Euro"), "spoken", "de")[0] == "fünfundzwanzig Euro"
    assert formatted("25 ユーロ", words("25 ユーロ"), "spoken", "ja")[0] == "25 ユーロ"


@given(
    st.lists(
        st.sampled_from(
            ("one", "twenty", "five", "oh", "hundred", "and", "a", "at", "dot", "com", "dollars", "cents", "percent")
        )
        | st.sampled_from(("$5", "7", "12", "3rd", "1985,", "x.", "10:00", "@"))
        | st.text("abc19.,$@%-:é", min_size=1, max_size=6).filter(lambda text: not re.search(r"\s", text)),
        max_size=12,
    ),
    st.sampled_from(["as_heard", "formatted", "spoken"]),
)
def test_no_time_is_lost_whatever_is_said(parts: list[str], numbers: Numbers) -> None:
    text = " ".join(parts)
    before = words(text)
    new_text, new = formatted(text, before, numbers, "en")
    assert new_text == " ".join(word.text for word in new)
    if before:
        assert (new[0].start_ms, new[-1].end_ms) == (before[0].start_ms, before[-1].end_ms)
    times = [time for word in new for time in (word.start_ms, word.end_ms)]
    assert times == sorted(times)
    assert {word.confidence for word in new} <= {word.confidence for word in before}
