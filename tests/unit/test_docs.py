"""What the documents name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_and_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    functions = {
        name for path in ROOT.glob("tests/**/*.py") for name in re.findall(r"^ *def (\w+)", path.read_text(), re.M)
    }
    assert set(re.findall(r"`(test_\w+)`", text)) <= functions
    folders = "benchmarks|dashboards|deploy|docs|examples|processors|schemas|streams|tests|training"
    for named in re.findall(rf"`((?:{folders})/[\w./-]+\.\w+)(?:::\w+)?`", text):
        assert (ROOT / named).exists(), named
    for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


def test_the_rule_in_the_tour_is_the_one_that_its_pictures_show() -> None:
    source = (ROOT / "benchmarks" / "intelligence_tour.py").read_text()
    (rule,) = re.findall(r'^RULE: Final = """\n(.*?)"""', source, re.M | re.S)
    assert f"```yaml\n{rule}```" in (ROOT / "docs" / "intelligence.md").read_text()
