"""Two pipeline versions of the same calls side by side: `calltide compare A B`.

A changer must know: an utterance of A and one of B are the same when their identity is (call, channel, start). Where
the versions cut speech differently there are few such pairs, so what is said of words is counted over whole channels.
"""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jiwer
import numpy as np
from clickhouse_connect.driver.exceptions import ClickHouseError

from schemas.errors import CalltideError
from streams.settings import Settings
from streams.sink import connect

if TYPE_CHECKING:
    from rich.console import Console

SHOWN: Final = 10
"""Pairs that differ most."""
EDGES: Final = (-2.0, -0.5, -0.2, -0.05, 0.05, 0.2, 0.5, 2.0001)
"""Classes of differences of score (judgement): a twentieth is no difference that anyone hears."""
NONE: Final = "none"
"""Label of an utterance without one: no words, or no emotion computed."""

_ROWS: Final = """
SELECT call_id, pipeline_version, channel, start_ms, end_ms, role, text, sentiment, score, emotion,
       if(latency_ms BETWEEN 0 AND 600000, latency_ms, NULL) AS latency
FROM utterances
WHERE pipeline_version IN ({a:String}, {b:String})
  AND call_id IN (SELECT call_id FROM calls WHERE pipeline_version = {a:String})
  AND call_id IN (SELECT call_id FROM calls WHERE pipeline_version = {b:String})
  AND (empty({calls:Array(String)}) OR call_id IN {calls:Array(String)})
ORDER BY tenant, call_id, channel, start_ms
"""
_CALLS: Final = """
SELECT uniqExactIf((tenant, call_id), pipeline_version = {a:String}),
       uniqExactIf((tenant, call_id), pipeline_version = {b:String}),
       uniqExact(pipeline_version)
FROM calls
WHERE pipeline_version IN ({a:String}, {b:String})
  AND (empty({calls:Array(String)}) OR call_id IN {calls:Array(String)})
"""


class Row(NamedTuple):
    """One utterance, as one version has it."""

    call_id: str
    version: str
    channel: int
    start_ms: int
    end_ms: int
    role: str
    text: str
    sentiment: str
    score: float | None
    emotion: str
    latency_ms: int | None
    """None: the score is a replay's, or one of bulk work, and says nothing of live calls."""


@dataclass(slots=True)
class Comparison:
    """What differs between versions `a` and `b`."""

    a: str
    b: str
    calls: tuple[int, int]
    """Calls of each."""
    calls_in_both: int = 0
    utterances: list[int] = field(default_factory=lambda: [0, 0])
    """Of the calls in both."""
    utterances_in_both: int = 0
    sentiments: Counter[tuple[str, str]] = field(default_factory=Counter)
    emotions: Counter[tuple[str, str]] = field(default_factory=Counter)
    differences: list[float] = field(default_factory=list)
    """Score of B less score of A, of utterances that both have scored."""
    words: int = 0
    """Of A."""
    word_errors: int = 0
    same_texts: int = 0
    latencies_ms: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    largest: list[tuple[float, Row, Row]] = field(default_factory=list)

    @property
    def flips(self) -> int:
        """Pairs whose sentiment has another label."""
        return sum(count for (one, other), count in self.sentiments.items() if one != other)

    def document(self) -> dict[str, Any]:
        """For programs."""
        differences = np.array(self.differences or [float("nan")])
        return {
            "a": self.a,
            "b": self.b,
            "calls": {"a": self.calls[0], "b": self.calls[1], "both": self.calls_in_both},
            "utterances": {"a": self.utterances[0], "b": self.utterances[1], "both": self.utterances_in_both},
            "sentiment": _table(self.sentiments),
            "emotion": _table(self.emotions),
            "flips": self.flips,
            "score": {
                "pairs": len(self.differences),
                "mean_difference": _number(float(differences.mean())),
                "mean_absolute_difference": _number(float(np.abs(differences).mean())),
                "standard_deviation": _number(float(differences.std())),
                "distribution": _distribution(self.differences),
            },
            "words": {
                "of_a": self.words,
                "changed": self.word_errors,
                "wer": _number(self.word_errors / self.words) if self.words else None,
                "texts_alike": self.same_texts,
            },
            "latency_ms": {
                name: {"p50": _percentile(found, 50), "p95": _percentile(found, 95)}
                for name, found in zip(("a", "b"), self.latencies_ms, strict=True)
            },
            "largest_differences": [
                {"call_id": a.call_id, "channel": a.channel, "start_ms": a.start_ms, "role": a.role}
                | {"a": {"text": a.text, "score": a.score}, "b": {"text": b.text, "score": b.score}}
                for _, a, b in self.largest
            ],
        }


def compare(rows: Iterable[Row], a: str, b: str, calls: tuple[int, int]) -> Comparison:
    """`rows`: the utterances of the calls that both versions have, call by call, by channel and start."""
    found = Comparison(a, b, calls)
    heap: list[tuple[float, int, Row, Row]] = []
    for _, of_call in groupby(rows, key=lambda row: row.call_id):
        found.calls_in_both += 1
        sides: tuple[dict[tuple[int, int], Row], dict[tuple[int, int], Row]] = ({}, {})
        for row in of_call:
            sides[row.version != a][row.channel, row.start_ms] = row
        for at, side in enumerate(sides):
            found.utterances[at] += len(side)
            found.latencies_ms[at].extend(row.latency_ms for row in side.values() if row.latency_ms is not None)
        for place in sides[0].keys() & sides[1].keys():
            _pair(found, heap, sides[0][place], sides[1][place])
        _words(found, *(list(side.values()) for side in sides))
    found.largest = [(gap, one, other) for gap, _, one, other in sorted(heap, key=lambda item: -item[0])]
    return found


def _pair(found: Comparison, heap: list[tuple[float, int, Row, Row]], a: Row, b: Row) -> None:
    found.utterances_in_both += 1
    found.sentiments[a.sentiment or NONE, b.sentiment or NONE] += 1
    found.emotions[a.emotion or NONE, b.emotion or NONE] += 1
    found.same_texts += a.text == b.text
    if a.score is None or b.score is None:
        return
    found.differences.append(b.score - a.score)
    item = abs(b.score - a.score), -found.utterances_in_both, a, b
    if item[0] > 0:
        (heapq.heappush if len(heap) < SHOWN else heapq.heappushpop)(heap, item)


def _words(found: Comparison, a: Sequence[Row], b: Sequence[Row]) -> None:
    plain = jiwer.Compose([jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()])
    for channel in sorted({row.channel for row in (*a, *b)}):
        one, other = (plain(" ".join(row.text for row in side if row.channel == channel)) for side in (a, b))
        found.words += len(one.split())
        if one:
            errors = jiwer.process_words(one, other)
            found.word_errors += errors.substitutions + errors.deletions + errors.insertions
        else:
            found.word_errors += len(other.split())


def of_versions(settings: Settings, a: str, b: str, calls: Sequence[str] = ()) -> Comparison:
    """Raises CalltideError when there is no such version, no call in both, or no ClickHouse."""
    with connect(settings) as client:
        given = {"a": a, "b": b, "calls": list(calls)}
        try:
            in_a, in_b, _ = client.query(_CALLS, parameters=given).result_rows[0]
            for version, count in ((a, in_a), (b, in_b)):
                if not count:
                    what = "of these calls has" if calls else "has"
                    raise CalltideError(f"no call {what} version {version}; `calltide versions` lists what there is")
            with client.query_rows_stream(_ROWS, parameters=given) as stream:
                found = compare(_typed(stream), a, b, (in_a, in_b))
        except ClickHouseError as error:
            raise CalltideError(f"ClickHouse: {str(error).splitlines()[0][:300]}") from error
    if not found.calls_in_both:
        raise CalltideError(f"versions {a} and {b} have no call in common; replay some as one of them first")
    return found


def _typed(rows: Iterable[Sequence[Any]]) -> Iterator[Row]:
    yield from (Row(*row) for row in rows)


def _table(pairs: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Label of A → label of B → pairs."""
    table: dict[str, dict[str, int]] = {}
    for (one, other), count in sorted(pairs.items()):
        table.setdefault(one, {})[other] = count
    return table


def _distribution(differences: Sequence[float]) -> dict[str, int]:
    counts, _ = np.histogram(differences, EDGES)
    names = [f"{low:+g} to {min(high, 2):+g}" for low, high in pairwise(EDGES)]
    return dict(zip(names, map(int, counts), strict=True))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def _percentile(found: Sequence[int], share: int) -> int | None:
    return round(float(np.percentile(found, share))) if found else None


def show(console: "Console", found: Comparison) -> None:
    """For people."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    facts = found.document()
    console.print(
        f"[bold]{found.a} and {found.b}[/bold]: {found.calls_in_both} calls in both ({found.calls[0]} and "
        f"{found.calls[1]} in all), {found.utterances_in_both} utterances in both ({found.utterances[0]} and "
        f"{found.utterances[1]})",
        highlight=False,
    )
    for title, pairs in (("sentiment", found.sentiments), ("emotion", found.emotions)):
        labels = sorted({label for pair in pairs for label in pair})
        if labels in ([], [NONE]):
            continue
        table = Table(title=f"{title}: {found.a} down, {found.b} across", box=SIMPLE_HEAD, title_justify="left")
        table.add_column("")
        for label in labels:
            table.add_column(label, justify="right")
        for one in labels:
            table.add_row(one, *(str(pairs[one, other] or "·") for other in labels))
        console.print(table)
    score, words, latency = facts["score"], facts["words"], facts["latency_ms"]
    share: Callable[[int], str] = lambda n: f"{n / max(found.utterances_in_both, 1):.1%}"  # noqa: E731
    lines = [f"another label of sentiment: {found.flips} utterances ({share(found.flips)})"]
    if score["pairs"]:
        lines.append(
            f"score of {found.b} less that of {found.a}: mean {score['mean_difference']:+.3f}, mean of the absolute "
            f"{score['mean_absolute_difference']:.3f}, standard deviation {score['standard_deviation']:.3f}"
        )
        lines.append("  " + ", ".join(f"{name}: {count}" for name, count in score["distribution"].items() if count))
    if words["of_a"]:
        lines.append(
            f"words: {words['changed']} of {words['of_a']} changed (WER of {found.b} against {found.a}: "
            f"{words['wer']:.1%})"
        )
    for name, version in (("a", found.a), ("b", found.b)):
        if latency[name]["p50"] is not None:
            lines.append(
                f"end of speech → score, {version}: p50 {latency[name]['p50'] / 1_000:,.2f} s, "
                f"p95 {latency[name]['p95'] / 1_000:,.2f} s"
            )
    console.print("\n".join(lines), highlight=False)
    if found.largest:
        table = Table(title="largest differences", box=SIMPLE_HEAD, title_justify="left")
        for name in ("call", "at", "role", found.a, found.b):
            table.add_column(name, overflow="fold")
        for _, a, b in found.largest:
            at = f"{a.start_ms // 60_000}:{a.start_ms % 60_000 / 1_000:04.1f}"
            table.add_row(a.call_id, at, a.role, *(f"{side.score:+.2f} {side.text}" for side in (a, b)))
        console.print(table)


def as_json(found: Comparison) -> str:
    """For programs."""
    return json.dumps(found.document(), ensure_ascii=False, indent=2)
