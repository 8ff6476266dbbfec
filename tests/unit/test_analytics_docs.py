"""docs/analytics.md names every panel of every dashboard, and shows a picture of each."""

import re

import pytest

from benchmarks.pictures import DOCUMENT, LARGEST, OUT, PICTURES, with_lists, written
from dashboards.files import committed, panels

TEXT = DOCUMENT.read_text(encoding="utf-8")


def test_the_lists_are_those_of_the_dashboards() -> None:
    assert with_lists(TEXT) == TEXT, "python -m benchmarks.pictures --lists"
    assert set(re.findall(r"<!-- panels: (\w+) -->", TEXT)) == set(committed())


@pytest.mark.parametrize("name", [*PICTURES, "report"])
def test_there_is_a_small_picture_of_each(name: str) -> None:
    (alt,) = re.findall(rf"!\[([^\]]+)\]\(pictures/{name}\.png\)", TEXT)
    assert len(alt) > 40, "what the picture shows, for who does not see it"
    assert 10_000 < (OUT / f"{name}.png").stat().st_size <= LARGEST


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_drawn_is_on_the_dashboard(name: str) -> None:
    titles = {panel["title"] for panel in panels(committed()[name])}
    assert set(PICTURES[name].panels) <= titles


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (None, "short", None, "–"),
        (12345, "short", None, "12,345"),
        (-0.126, "none", 2, "-0.13"),
        (0.5, "percentunit", 0, "50 %"),
        (61, "s", None, "61.00 s"),
        (125_000, "ms", None, "2:05 min"),
        ("happy", "none", None, "happy"),
    ],
)
def test_values_are_written_with_their_units(value: object, unit: str, decimals: int | None, text: str) -> None:
    assert written(value, unit, decimals) == text


def test_an_unknown_unit_is_an_error() -> None:
    with pytest.raises(ValueError, match="furlong"):
        written(1.0, "furlong", None)
