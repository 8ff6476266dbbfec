"""The prompts: versioned files beside this one, and what a call looks like in them.

A changer must know: a record says by version and hash which words led to it. Whoever changes the words makes the next
version's folder and sets VERSION; the old ones stay, so that old records can be understood.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, Final

from schemas.events import Conversation

VERSION: Final = "v1"
BYTES_PER_TOKEN: Final = 3
"""Judgement, on the safe side: English has 4 to 5, digits and other scripts 1 to 3. The model's own tokenizer is not
known here."""
OPENING_SHARE: Final = 0.4
"""Of what fits, how much is of the call's beginning, where it is told what it is about; the rest is of its end."""


@cache
def _read() -> tuple[str, dict[str, Template]]:
    files = sorted((Path(__file__).parent / VERSION).glob("*.md"))
    texts = {file.stem: file.read_text(encoding="utf-8") for file in files}
    digest = hashlib.sha256("\0".join(f"{name}\0{text}" for name, text in texts.items()).encode()).hexdigest()
    return f"{VERSION} {digest[:12]}", {name: Template(text) for name, text in texts.items()}


def identity() -> str:
    """Version and hash of the prompts."""
    return _read()[0]


def system(schema: dict[str, Any], language: str, topics: list[str]) -> str:
    """What the model is told before the call. `language` as a code, empty: not known."""
    listed = "\n".join(f"- {topic}" for topic in topics)
    shown = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return _read()[1]["system"].substitute(schema=shown, language=language or "that of the transcript", topics=listed)


def repair(why: str) -> str:
    """What it is told when its answer cannot be used."""
    return _read()[1]["repair"].substitute(why=why)


def call(conversation: Conversation, texts: list[str], most_tokens: int) -> tuple[str, list[int]]:
    """(the call for the model, numbers of the utterances that are in it). `texts`: those of the utterances, to be sent.

    Of a call that does not fit into `most_tokens` (estimated) the middle is left out, and said to be.
    """
    lines = [
        f"[{number}] {_clock(one.start_ms)} {one.role if one.role != 'unknown' else one.speaker}: {text}"
        for number, (one, text) in enumerate(zip(conversation.utterances, texts, strict=True))
    ]
    room = most_tokens * BYTES_PER_TOKEN
    sizes = [len(line.encode()) + 1 for line in lines]
    kept = list(range(len(lines)))
    if sum(sizes) > room:
        first = _fitting(sizes, room * OPENING_SHARE)
        last = _fitting(sizes[:first:-1], room - sum(sizes[:first]))
        kept = [*range(first), *range(len(lines) - last, len(lines))]
        gap = f"(… {len(lines) - len(kept)} utterances are left out here …)"
        lines = [*lines[:first], gap, *lines[len(lines) - last :]]
    text = _read()[1]["call"].substitute(duration=_clock(conversation.duration_ms), transcript="\n".join(lines))
    return text, kept


def _fitting(sizes: list[int], room: float) -> int:
    """How many of the first fit."""
    for number, size in enumerate(sizes):
        room -= size
        if room < 0:
            return number
    return len(sizes)


def _clock(ms: int) -> str:
    return f"{ms // 60_000:02}:{ms // 1_000 % 60:02}"
