"""Just enough of SQL's lexis to tell statements, literals and comments apart."""

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""(?P<literal>'(?:[^'\\]|\\.?)*+(?:'|\Z)|"(?:[^"\\]|\\.?)*+(?:"|\Z)|`(?:[^`\\]|\\.?)*+(?:`|\Z))
      | (?P<comment>--[^\n]*+|/\*(?:.*?\*/|.*+))
      | (?P<end>;)
      | (?P<other>[^'"`;/-]++|.)""",
    re.DOTALL | re.VERBOSE,
)
"""A doubled quote inside a literal reads as two literals side by side, which is the same for every use here. One that
is never closed goes to the end, as does such a comment: so every text is read in one pass."""


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    for match in _TOKEN.finditer(sql):
        yield match.lastgroup or "other", match.group()


def statements(sql: str) -> list[str]:
    """The statements of `sql`, without comments and the semicolons between them. Empty ones are left out."""
    found = [""]
    for kind, text in _tokens(sql):
        if kind == "end":
            found.append("")
        else:
            found[-1] += " " if kind == "comment" else text
    return [statement.strip() for statement in found if statement.strip()]


def bare(sql: str) -> str:
    """`sql` with every literal and comment replaced by a space: what is left are keywords, names, numbers and signs."""
    return "".join(" " if kind in ("literal", "comment") else text for kind, text in _tokens(sql))
