"""Glossaries: what a file must be, and what is said of one that is not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from openpyxl import Workbook
from typer.testing import CliRunner

from processors.insights import BUSINESSES
from processors.models.embedding import Vectors
from processors.models.glossary import LONGEST, Glossary, Term, Topics, read_glossary, starter
from schemas.errors import CalltideError
from streams.cli import app

HEADER = "level1,level2,term,synonyms,examples\n"
ROWS = (
    ("level1", "level2", "term", "synonyms", "examples"),
    ("Bank", "Card", "Lost card", "stolen card|missing card", "I lost my card."),
    ("Bank", "", "Balance", None, ""),
)
TERMS = (
    Term(("Bank", "Card", "Lost card"), ("Lost card", "stolen card", "missing card", "I lost my card.")),
    Term(("Bank", "Balance"), ("Balance",)),
)


def written(folder: Path, content: str | bytes, name: str = "topics.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def workbook(folder: Path) -> Path:
    book = Workbook()
    for row in ROWS:
        book.worksheets[0].append(row)
    book.save(folder / "topics.xlsx")
    return folder / "topics.xlsx"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_as_a_spreadsheet_writes_it(tmp_path: Path, delimiter: str) -> None:
    lines = [delimiter.join(cell or "" for cell in row) for row in ROWS]
    path = written(tmp_path, "\ufeff" + "\r\n".join([*lines, delimiter * 4, ""]))
    assert read_glossary(path).terms == TERMS


def test_a_workbook_says_the_same(tmp_path: Path) -> None:
    glossary = read_glossary(str(workbook(tmp_path)))
    assert glossary.terms == TERMS
    assert glossary.id.startswith("topics.xlsx ")


def test_columns_may_come_in_any_order_and_be_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, "Term, LEVEL1\nLost card,Bank\n")
    assert read_glossary(path).terms == (Term(("Bank", "Lost card"), ("Lost card",)),)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("Bank,Card,Lost card,,\nBank,Card,lost  card,,\n", "rows 2 and 3 both have “bank > card > lost card”"),
        ("Bank,Card,A,stolen,\nBank,Card,B,Stolen|x,\n", "rows 2 and 3 both have “stolen”"),
        ("Bank,,A,,no money\nShop,,B,no money,\n", "rows 2 and 3 both have “no money”"),
        (",Card,Lost card,,\n", "row 2 has no level1"),
        (",,,x,\n", "row 2 has no level1 and no term"),
        ("Bank,Card,Lost card,,,more\n", "row 2 has more cells than the header"),
        (f"Bank,,A,{'x' * (LONGEST + 1)},\n", f"row 2: longer than {LONGEST} characters"),
        ("", "it has no terms"),
        ("\n".join(f",,{n},," for n in range(9)), "row 6 has no level1 and 4 more; mend the file"),
        ('Bank,Card,"Lost,,\n', "is no CSV"),
    ],
)
def test_rows_that_are_wrong_are_named(tmp_path: Path, rows: str, said: str) -> None:
    with pytest.raises(CalltideError) as raised:
        read_glossary(written(tmp_path, HEADER + rows))
    assert said in str(raised.value) and "topics.csv" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("level1,level2,name", "missing: term; unknown: name"),
        ("term", "missing: level1"),
        ("level1,term,term", "double: term"),
        ("", "missing: level1, term"),
        ("level1,,term", "unknown: (none)"),
    ],
)
def test_columns_that_are_wrong_are_named(tmp_path: Path, header: str, said: str) -> None:
    with pytest.raises(CalltideError) as raised:
        read_glossary(written(tmp_path, f"{header}\n"))
    assert said in str(raised.value) and "level1, level2, term, synonyms, examples" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("topics.csv", HEADER.encode() + b"Bank,,Caf\xe9,,\n", r"not UTF-8 \(line 2\); save it as CSV UTF-8"),
        ("topics.xlsx", b"level1,term", "is no workbook"),
        ("topics.txt", b"", "neither .csv nor .xlsx"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(CalltideError, match=said):
        read_glossary(written(tmp_path, content, name))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CalltideError, match="cannot be read"):
        read_glossary(tmp_path / "none.csv")


@pytest.mark.parametrize("business", BUSINESSES)
def test_the_starters_are_hierarchies(business: str) -> None:
    terms = starter(business).terms
    assert len(terms) > 40
    assert {len(term.path) for term in terms} == {3}
    assert all(len(term.phrases) > 1 for term in terms), "a term that is only its name is found by chance"


class Letters:
    """A text is how often each letter is in it."""

    id = "letters"

    def embed(self, texts: Sequence[str]) -> Vectors:
        counts = np.array([[text.count(letter) for letter in "abc"] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_a_term_is_as_close_as_the_closest_of_its_phrases() -> None:
    glossary = Glossary("g", (Term(("x",), ("a", "b")), Term(("y",), ("c",)), Term(("z",), ("ab", "bc", "ca"))))
    likeness = Topics(glossary, Letters()).likeness(Letters().embed(["aa", "c", "ab"]))
    half = 0.5**0.5
    assert likeness == pytest.approx(np.array([[1, 0, half], [0, 1, 0], [half, half, 1]]))


@pytest.mark.models
def test_sentences_are_tried_on_a_glossary(tmp_path: Path) -> None:
    path = workbook(tmp_path)
    result = CliRunner().invoke(app, ["glossary", str(path), "--say", "My credit card was stolen.", "--say", "Hello"])
    assert result.exit_code == 0, result.output
    assert f"{path}: 2 terms under 1 headings are right" in result.output
    stolen, hello = result.output.split("\n\n")[1:]
    assert stolen.splitlines()[1].endswith("Bank > Card > Lost card")
    assert all(line.endswith("(below 0.5: not told)") for line in hello.splitlines()[1:])
