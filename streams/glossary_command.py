"""`calltide glossary`: whether a file of topics is right, and which of them a sentence comes close to."""

from pathlib import Path
from typing import Annotated

import typer


def glossary(
    file: Annotated[Path, typer.Argument(help=".csv or .xlsx, as docs/insights.md has it", show_default=False)],
    say: Annotated[
        list[str] | None, typer.Option(help="a sentence: its nearest terms, with their similarity", show_default=False)
    ] = None,
) -> None:
    """Look over a glossary of topics, and try sentences on it."""
    import numpy as np

    from processors.insights_extractive import TOPIC_SIMILARITY
    from processors.models.embedding import Embedder
    from processors.models.glossary import Topics, read_glossary

    found = read_glossary(file)
    branches = {term.path[0] for term in found.terms}
    typer.echo(f"{file}: {len(found.terms)} terms under {len(branches)} headings are right")
    if not say:
        return
    embedder = Embedder()
    likeness = Topics(found, embedder).likeness(embedder.embed(say))
    for sentence, column in zip(say, likeness.T, strict=True):
        typer.echo(f"\n{sentence}")
        for term in np.argsort(-column, kind="stable")[:3]:
            told = "" if column[term] >= TOPIC_SIMILARITY else f"  (below {TOPIC_SIMILARITY}: not told)"
            typer.echo(f"  {column[term]:.2f}  {' > '.join(found.terms[term].path)}{told}")
