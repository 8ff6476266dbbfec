"""`calltide eval insights`: the offline engine against questions of bank customers and calls of a help desk.

A changer must know: thresholds are chosen on the part `dev` of the help-desk calls, the figures are those of `test`;
but the first patterns were written when scripts of both had been read (docs/insights.md). The calls are variants of a
few scripts, so a variant is the unit that intervals draw, and none is in both parts. Their labels were made by a
machine, not by people who heard the calls.
"""

import csv
import json
import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from processors import insights
from processors.conversation import Tally
from processors.insights import FinishedCall, Heard
from processors.insights_extractive import ExtractiveEngine, sentences
from processors.models.embedding import Embedder
from processors.models.glossary import Glossary, Term, Topics
from schemas.errors import CalltideError
from schemas.events import CallEnded, CallInfo, CallStarted, Findings, Progress, Role
from streams.evaluation import report as reports
from streams.evaluation.manifest import DataSet
from streams.evaluation.metrics import Found, Measure, grouped, plain, ratio
from streams.settings import Settings

Part = Literal["dev", "test"]

EXAMPLES: Final = 5
"""Questions of each intent that the glossary is given in the second form of the task. Judgement: what a person writes
into a glossary in an afternoon."""
ASKED: Final = 20
"""Questions of each intent that are asked; none of them is in the glossary."""
TOP: Final = 3
CHATTER: Final = 100
"""Calls about nothing that the glossary knows, made of comments from the internet."""
COMMENTS: Final = 12
"""In each of them."""
WORD_MS: Final = 400

MATTERS: Final[dict[str, tuple[str, ...]]] = {
    "password": ("Password reset",),
    "shared drives": ("Shared drives and permissions",),
    "wi-fi": ("Wi-Fi and network",),
    "windows update": ("Update fails",),
    "operating system": ("Operating system errors", "Update fails"),
    "laptop performance": ("Slow computer",),
    "printer": ("Printer and scanner",),
    "monitor": ("Monitor, keyboard and mouse",),
    "peripheral": ("Set up a new computer", "Monitor, keyboard and mouse"),
    "keyboard and mouse": ("Monitor, keyboard and mouse",),
}
"""Words in a call's own label → terms of the starter glossary that mean it. Judgement; the first that fits counts."""


def measure(settings: Settings, part: Part = "test") -> reports.Report:
    """All figures. Raises CalltideError where the texts are missing or a glossary of the settings is no good."""
    folder = settings.test_data / "text"
    for name in ("banking77-train.csv", "helpdesk-calls.jsonl", "goemotions-dev.tsv"):
        if not (folder / name).is_file():
            raise CalltideError(f"no {folder / name}; set CALLTIDE_TEST_DATA to the folder of the test data")
    embedder = Embedder()
    config = insights.Config()
    topics = {one: Topics(insights.glossary_of(config, one), embedder) for one in insights.BUSINESSES}
    engine = ExtractiveEngine(embedder, topics, config.summary_sentences, config.topics)
    found = [
        _of_questions(folder / "banking77-train.csv", embedder),
        _of_calls(folder / "helpdesk-calls.jsonl", engine, embedder, topics["b2b"], part),
        _of_chatter(folder / "goemotions-dev.tsv", engine),
    ]
    return reports.report(
        settings,
        {"insights": f"{engine.name}, {engine.model}"},
        [(data, result.notes) for data, result in found],
        [figure for data, result in found for figure in reports.figures(data.name, "written", result)],
        [],
    )


def _hits(name: str, rows: Iterable[tuple[str, str, bool]], kinds: str) -> Measure:
    return grouped(name, [(group, unit, (float(hit), 1.0)) for group, unit, hit in rows], ratio, kinds)


def _means(name: str, rows: Iterable[tuple[str, str, float]], kinds: str) -> Measure:
    return grouped(name, [(group, unit, (value, 1.0)) for group, unit, value in rows], ratio, kinds)


# --- questions -----------------------------------------------------------------------------------------------------


def _of_questions(file: Path, embedder: Embedder) -> tuple[DataSet, Found]:
    """BANKING77: a glossary of the 77 intents, and which of its terms a question is closest to."""
    by_intent: dict[str, list[str]] = defaultdict(list)
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            by_intent[row["category"]].append(" ".join(row["text"].split()))
    for intent, texts in by_intent.items():
        random.Random(intent).shuffle(texts)
    asked = [(intent, text) for intent, texts in by_intent.items() for text in texts[EXAMPLES : EXAMPLES + ASKED]]
    vectors = embedder.embed([text for _, text in asked])
    result = Found()
    for form, examples in (("names", 0), ("examples", EXAMPLES)):
        terms = tuple(
            Term((intent,), (intent.replace("_", " ").strip("?"), *texts[:examples]))
            for intent, texts in by_intent.items()
        )
        likeness = Topics(Glossary("banking77", terms), embedder).likeness(vectors)
        order = np.argsort(-likeness, axis=0, kind="stable")
        for top in (1, TOP):
            rows = [
                (intent, str(number), intent in {terms[i].path[0] for i in order[:top, number]})
                for number, (intent, _) in enumerate(asked)
            ]
            result.measures.append(_hits(f"topic_{form}_top{top}", rows, "intent/question"))
    result.notes.append(
        f"{len(by_intent)} intents, chance is {1 / len(by_intent):.1%}; "
        f"{ASKED} questions of each at most are asked, {EXAMPLES} others of each are the examples"
    )
    return (
        DataSet(
            "banking77",
            tuple(asked),  # type: ignore[arg-type]
            "questions of bank customers, each with one of 77 intents: the nearest term of a glossary of the intents",
            "single written questions, no calls; many intents differ by a word; the task is that of the glossary, not "
            "of a whole call",
            {},
        ),
        result,
    )


# --- calls ---------------------------------------------------------------------------------------------------------


def read_calls(file: Path, part: Part) -> list[tuple[str, dict[str, Any]]]:
    """(variant, call) of one part: variants are told by the customer's second turn, as training does."""
    calls = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    keyed = [(zlib.crc32(call["turns"][3]["text"].encode()), call) for call in calls]
    return [(f"{key:08x}", call) for key, call in keyed if (key % 3 == 0) == (part == "test")]


def finished(name: str, turns: Iterable[tuple[Role, str]], business: insights.Business) -> FinishedCall:
    """A call of two channels in which these turns were said one after the other."""
    info = CallInfo(call_id=name, started_at=datetime(2026, 1, 1, tzinfo=UTC), roles=("agent", "customer"))
    said, tally, at_ms = [], Tally(), 0
    tally.hear(CallStarted(call=info))
    for role, text in turns:
        end_ms = at_ms + WORD_MS * len(text.split())
        said.append(Heard(int(role == "customer"), at_ms, end_ms, role, role, text, None, ""))
        at_ms = end_ms + WORD_MS
    ended = info.started_at + timedelta(milliseconds=at_ms)
    tally.hear(Progress(call=info, at_ms=at_ms))
    tally.hear(CallEnded(call=info, duration_ms=at_ms, ended_at=ended, reason="hangup"))
    return FinishedCall(info, ended, at_ms, "en", business, tuple(said), tally, 0)


def _of_calls(
    file: Path, engine: ExtractiveEngine, embedder: Embedder, topics: Topics, part: Part
) -> tuple[DataSet, Found]:
    found: list[tuple[str, str, dict[str, Any], FinishedCall, Findings]] = []
    for number, (variant, row) in enumerate(read_calls(file, part)):
        call = finished(row["id"], [(turn["role"], turn["text"]) for turn in row["turns"]], "b2b")
        found.append((variant, str(number), row, call, engine.conclude(call)))
    result = Found()

    def add(name: str, value: Callable[[dict[str, Any], FinishedCall, Findings], float | None]) -> None:
        rows = [(variant, n, value(row, call, made)) for variant, n, row, call, made in found]
        known = [(variant, n, one) for variant, n, one in rows if one is not None]
        if known:
            result.measures.append(_means(name, known, "variant/call"))

    def told(row: dict[str, Any], made: Findings, most: int) -> bool:
        return bool({topic.path[-1] for topic in made.topics[:most]} & set(_meant(row["topic"])))

    add("topic_top1", lambda row, call, made: told(row, made, 1))
    add("topic_top3", lambda row, call, made: told(row, made, TOP))
    add("rouge_l", lambda row, call, made: rouge_l(row["summary"], [one.text for one in made.summary]))
    add("rouge_l_lead", lambda row, call, made: rouge_l(row["summary"], _lead(call, len(made.summary))))
    add("rouge_l_drawn", lambda row, call, made: rouge_l(row["summary"], _drawn(call, len(made.summary))))

    def likeness(summary: str, parts: Sequence[str]) -> float:
        one, other = embedder.embed([summary, " ".join(parts)])
        return float(one @ other)

    add("summary_cosine", lambda row, call, made: likeness(row["summary"], [one.text for one in made.summary]))
    add("summary_cosine_lead", lambda row, call, made: likeness(row["summary"], _lead(call, len(made.summary))))
    add("summary_cosine_drawn", lambda row, call, made: likeness(row["summary"], _drawn(call, len(made.summary))))
    add("resolved_decided", lambda row, call, made: made.resolution.resolved != "unknown")
    add(
        "resolved_right",
        lambda row, call, made: (
            None if made.resolution.resolved == "unknown" else made.resolution.resolved == row["satisfied"].lower()
        ),
    )
    for answer in ("yes", "no"):
        add(
            f"resolved_{answer}",
            lambda row, call, made, answer=answer: (  # type: ignore[misc]
                made.resolution.resolved == answer if row["satisfied"].lower() == answer else None
            ),
        )
    satisfied = sum(row["satisfied"] == "Yes" for _, _, row, _, _ in found)
    result.notes += [
        f"{len({variant for variant, *_ in found})} variants; topics by the starter glossary b2b ({len(topics.terms)} "
        "terms), a label's words mapped to its terms",
        f"satisfied, by the label: {satisfied} of {len(found)}; who always says yes has {satisfied / len(found):.0%}",
    ]
    return (
        DataSet(
            "help-desk",
            tuple(row for _, _, row, _, _ in found),  # type: ignore[misc]
            "calls of an IT help desk in text, those of the scripts on which no threshold was chosen",
            "written by a machine and labelled by a machine; the summaries are in the third person, so no quote can be "
            "like them word for word; whether a customer is satisfied stands for whether the matter is settled",
            {},
        ),
        result,
    )


def _meant(label: str) -> tuple[str, ...]:
    return next((terms for words, terms in MATTERS.items() if words in label.lower()), ())


def _lead(call: FinishedCall, count: int) -> list[str]:
    """The first sentences of the customer: what a reader takes who has no time."""
    return [one.text for one in sentences(call) if one.customer][:count]


def _drawn(call: FinishedCall, count: int) -> list[str]:
    """Sentences drawn at random (seeded)."""
    said = [one.text for one in sentences(call)]
    return random.Random(call.info.call_id).sample(said, min(count, len(said)))


def rouge_l(reference: str, parts: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), 0 to 1."""
    one, other = plain(reference), plain(" ".join(parts))
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for at, token in enumerate(other):
            row.append(before[at] + 1 if word == token else max(before[at + 1], row[at]))
    return 2 * row[-1] / (len(one) + len(other)) if one and other else 0.0


# --- chatter -------------------------------------------------------------------------------------------------------


def _of_chatter(file: Path, engine: ExtractiveEngine) -> tuple[DataSet, Found]:
    """Comments from the internet as calls: how often a topic is told where there is none."""
    comments = [line.split("\t")[0] for line in file.read_text("utf-8").splitlines()]
    random.Random(0).shuffle(comments)
    result = Found()
    for business in insights.BUSINESSES:
        rows = []
        for number in range(CHATTER):
            texts = comments[number * COMMENTS : (number + 1) * COMMENTS]
            roles: tuple[Role, Role] = ("agent", "customer")
            call = finished(str(number), [(roles[i % 2], text) for i, text in enumerate(texts)], business)
            rows.append((str(number), "", bool(engine.conclude(call).topics)))
        result.measures.append(_hits(f"chatter_{business}", rows, "call/call"))
    return (
        DataSet(
            "chatter",
            tuple(range(CHATTER)),  # type: ignore[arg-type]
            f"{CHATTER} calls put together from {COMMENTS} comments of GoEmotions each: no matters of a call centre",
            "comments are not speech; some do speak of deliveries, money or computers",
            {},
        ),
        result,
    )
