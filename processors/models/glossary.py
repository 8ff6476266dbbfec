"""Glossaries of topics, from CSV or XLSX, and which of their terms some sentences are about.

A file has the columns of COLUMNS, each row a term: two levels above it, and what else people call it, several things in
one cell parted by "|". The one thing a changer must know: a term is as close to a sentence as the closest of its
phrases (its name, synonyms and examples), so one good example does more than ten synonyms that say the same.
"""

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from processors.models.embedding import SentenceModel, Vectors
from schemas.errors import CalltideError

COLUMNS: Final = ("level1", "level2", "term", "synonyms", "examples")
REQUIRED: Final = ("level1", "term")
STARTERS: Final = Path(__file__).parent / "glossaries"
LONGEST: Final = 300
"""Characters of a phrase. Judgement: what is longer is a pasted text, not a phrase."""
MOST_TERMS: Final = 5_000
"""Judgement: at 5 ms a phrase the stage would take minutes to start with more."""
SHOWN: Final = 5
"""Faults that are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class Term:
    """A topic: its place in the hierarchy, widest level first, and the phrases that stand for it."""

    path: tuple[str, ...]
    phrases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Glossary:
    """Terms and where they come from: the file's name with a hash of its content."""

    id: str
    terms: tuple[Term, ...]


def starter(business: str) -> Glossary:
    """The glossary that comes with Calltide: b2b or b2c."""
    return read_glossary(STARTERS / f"{business}.csv")


def read_glossary(name: str | Path) -> Glossary:
    """The glossary in a .csv or .xlsx file.

    Raises CalltideError with the row numbers, counted as a spreadsheet does, of what is empty, double or too long, and
    for columns that are missing or unknown.
    """
    path = Path(name).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CalltideError(
            f"the glossary {path} cannot be read ({error.strerror}); name a .csv or .xlsx file"
        ) from None
    if path.suffix.lower() == ".xlsx":
        rows = _xlsx(path, content)
    elif path.suffix.lower() == ".csv":
        rows = _csv(path, content)
    else:
        raise CalltideError(f"the glossary {path} is neither .csv nor .xlsx; save it as one of them")
    digest = hashlib.sha256(content).hexdigest()[:12]
    return Glossary(f"{path.name} {digest}", _terms(path, rows))


def _csv(path: Path, content: bytes) -> list[list[str]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CalltideError(f"the glossary {path} is not UTF-8 (line {line}); save it as CSV UTF-8") from None
    # Spreadsheets write what the country is used to between the cells.
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise CalltideError(f"the glossary {path} is no CSV ({error}); save it anew from a spreadsheet") from None


def _xlsx(path: Path, content: bytes) -> list[list[str]]:
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        sheet = book.worksheets[0]
        return [["" if cell is None else str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    except (InvalidFileException, zipfile.BadZipFile, KeyError, IndexError, ValueError) as error:
        raise CalltideError(f"the glossary {path} is no workbook ({error}); save it anew as .xlsx or .csv") from None


def _terms(path: Path, rows: Sequence[Sequence[str]]) -> tuple[Term, ...]:
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    while header and not header[-1]:
        header.pop()
    missing = [name for name in REQUIRED if name not in header]
    unknown = [name or "(none)" for name in header if name not in COLUMNS]
    double = sorted({name for name in header if header.count(name) > 1})
    if missing or unknown or double:
        wrong = (("missing", missing), ("unknown", unknown), ("double", double))
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in wrong if names)
        raise CalltideError(f"the glossary {path} has other columns ({said}); it needs {', '.join(COLUMNS)}")
    faults: list[str] = []
    terms: list[Term] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        cells = dict.fromkeys(COLUMNS, "") | {
            name: " ".join(cell.split()) for name, cell in zip(header, row, strict=False)
        }
        if any(cell.strip() for cell in row[len(header) :]):
            faults.append(f"row {number} has more cells than the header")
            continue
        if empty := [name for name in REQUIRED if not cells[name]]:
            faults.append(f"row {number} has no {' and no '.join(empty)}")
            continue
        levels = tuple(cells[name] for name in ("level1", "level2", "term") if cells[name])
        phrases = [cells["term"], *_parts(cells["synonyms"]), *_parts(cells["examples"])]
        faults += [f"row {number}: longer than {LONGEST} characters: {p[:30]}…" for p in phrases if len(p) > LONGEST]
        # The same words for two terms would make it chance which of them is found; a term may come under two branches
        # only if it is told from the other by what else is said of it.
        for phrase in dict.fromkeys([" > ".join(levels).lower(), *(p.lower() for p in phrases[1:])]):
            if (first := seen.setdefault(phrase, number)) != number:
                faults.append(f"rows {first} and {number} both have “{phrase}”")
        terms.append(Term(levels, tuple(dict.fromkeys(phrases))))
    if not terms and not faults:
        faults.append("it has no terms")
    if len(terms) > MOST_TERMS:
        faults.append(f"it has {len(terms)} terms, more than {MOST_TERMS}")
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise CalltideError(f"the glossary {path}: {'; '.join(faults[:SHOWN])}{more}; mend the file")
    return tuple(terms)


def _parts(cell: str) -> Iterable[str]:
    return [part for part in (part.strip() for part in cell.split("|")) if part]


class Topics:
    """A glossary whose phrases have become vectors."""

    def __init__(self, glossary: Glossary, embedder: SentenceModel) -> None:
        self.id = glossary.id
        self.terms = glossary.terms
        self._vectors = embedder.embed([phrase for term in self.terms for phrase in term.phrases])
        counts = [len(term.phrases) for term in self.terms]
        self._starts = np.cumsum([0, *counts[:-1]])

    def likeness(self, sentences: Vectors) -> npt.NDArray[np.float32]:
        """float32 [terms, n]: how close each of n sentences (unit vectors) comes to each term, −1 to 1."""
        likeness: npt.NDArray[np.float32] = np.maximum.reduceat(self._vectors @ sentences.T, self._starts, axis=0)
        return likeness
