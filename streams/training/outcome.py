"""`calltide train outcome`: from calls of before, what says early how a call will end.

Every call that ClickHouse has is heard again by the stage's own tally, and at a few MOMENTS it is noted what was known.
Older calls are trained on, newer ones tell whether it is of any use. A changer must know: at a moment nothing may be
known that was not known then, so utterances count from their end on, corrections of speakers from where they stood
among them, and the watermark waits for whoever is speaking. Only the end is taken from the whole call.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from processors.conversation import CROSS_TALK, Tally
from processors.metrics import measured
from processors.outlook import FEATURES, NEGATIVE, Model, Term, ended_negative, features
from schemas.errors import CalltideError
from schemas.events import (
    CallEnded,
    CallEvent,
    CallInfo,
    CallStarted,
    Correction,
    Progress,
    Score,
    Sentiment,
)
from streams.settings import Settings
from streams.sink import connect
from streams.training.common import logistic, progress

Array = NDArray[np.float64]

MOMENTS_S: Final = (30, 60, 120, 300, 600)
"""When it is noted what is known of a call that goes on: of a live one, too, it is not known how long it will last."""
NEWER: Final = 0.4
"""Share of the calls that are not trained on, the newest."""
FEWEST_TRIED: Final = 100
"""Calls of each end that a trial needs. Published: with fewer its figures are too uncertain to validate a model by
(Vergouwe et al. 2005, J. Clin. Epidemiol. 58:475; Collins et al. 2016, Stat. Med. 35:214)."""
FEWEST_A_FEATURE: Final = 10
"""Calls of each end for each feature that training needs. Published: with fewer the weights of a logistic regression
are biased and unsteady (Peduzzi et al. 1996, J. Clin. Epidemiol. 49:1373)."""
MOST_CALLS: Final = 10_000
"""Newest calls that are read. Judgement: more do not move a dozen weights."""
BEYOND_CHANCE: Final = 1.96
"""Standard errors by which it must be better than the best naive forecast: one chance in 40 that it is none."""
PULL: Final = 1.0
"""Of the ridge, in squared scales. Judgement: as much as a few calls say."""
BINS: Final = np.linspace(0, 1, 11)

Rival = Literal["base rate", "stays", "stays (learned)"]
RIVALS: Final[tuple[Rival, ...]] = get_args(Rival)
"""Naive forecasts: the share of negative ends among the calls trained on that lasted as long; whether the customer's
latest quarter is negative now; and the share of negative ends among those of which the same was true then."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A call that has ended."""

    call: CallInfo
    duration_ms: int
    events: Sequence[tuple[int, CallEvent]]
    """(media time from which on it is known, utterance or correction), in the order of the topic."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was known of a call at a moment, and how it ended."""

    call: int
    """Its number among the calls, in order of time."""
    moment_s: int
    ahead: bool
    """Whether its last quarter had not begun."""
    now: bool
    """Whether the customer's latest quarter so far is negative."""
    known: tuple[float | None, ...]
    """In the order of FEATURES."""
    negative: bool
    """How the call ended."""


def watched(heard: Heard, number: int = 0) -> tuple[list[Row], bool | None]:
    """A row for each moment at which there is something to say, and how the call ended; None: the customer said nothing
    in its last quarter, and there are no rows."""
    tally = Tally()
    tally.hear(CallStarted(call=heard.call))
    events = sorted(heard.events, key=lambda one: one[0])
    # For each event, where the earliest begins of it and those behind it: where the watermark waits while it is spoken.
    waits = list(accumulate((_begun(event) for _, event in reversed(events)), min, initial=heard.duration_ms))[::-1]
    at, noted = 0, []
    for moment_s in MOMENTS_S:
        moment_ms = moment_s * 1_000
        if moment_ms >= heard.duration_ms:
            break
        while at < len(events) and events[at][0] <= moment_ms:
            known_ms, event = events[at]
            at += 1
            tally.hear(event)
            tally.hear(Progress.model_construct(call=heard.call, at_ms=min(known_ms, waits[at])))
        tally.hear(Progress.model_construct(call=heard.call, at_ms=min(moment_ms, waits[at])))
        figures = measured(tally, heard.call, "")
        if (known := features(figures)) is not None:
            noted.append((moment_s, moment_ms * 4 <= heard.duration_ms * 3, _is_negative(known), known))
    for _, event in events[at:]:
        tally.hear(event)
    tally.hear(_ended(heard))
    negative = ended_negative(measured(tally, heard.call, ""))
    if negative is None:
        return [], None
    rows = [
        Row(number, moment_s, ahead, now, tuple(known[name] for name in FEATURES), negative)
        for moment_s, ahead, now, known in noted
    ]
    return rows, negative


def _begun(event: CallEvent) -> int:
    return event.start_ms if isinstance(event, Score) else 2**53


def _is_negative(known: Mapping[str, float | None]) -> bool:
    latest = known["customer_latest_quarter"]
    return latest is not None and latest <= NEGATIVE


def _ended(heard: Heard) -> CallEnded:
    at = heard.call.started_at + timedelta(milliseconds=heard.duration_ms)
    return CallEnded(call=heard.call, duration_ms=heard.duration_ms, ended_at=at, reason="hangup")


# --- what ClickHouse has ---------------------------------------------------------------------------------------------

CALLS: Final = """
SELECT tenant, call_id, started_at, assumeNotNull(duration_ms), roles
FROM calls FINAL
WHERE pipeline_version = {version:String} AND duration_ms IS NOT NULL AND end_reason != 'interrupted'
ORDER BY started_at DESC, tenant, call_id
LIMIT {most:UInt32}
"""
SAID: Final = """
SELECT
    tenant, call_id,
    groupArray((
        offset, start_ms, end_ms, channel, CAST(role, 'String'), speaker, score, CAST(sentiment, 'String')
    ))
FROM utterances_heard FINAL
WHERE pipeline_version = {version:String} AND call_started_at >= {day:Date} AND call_started_at < {day:Date} + 1
    AND NOT has(flags, {cross_talk:String})
GROUP BY tenant, call_id, call_started_at
"""
CORRECTED: Final = """
SELECT tenant, call_id, groupArray((offset, CAST(speaker, 'String'), CAST(same_as, 'String'), CAST(role, 'String')))
FROM corrections FINAL
WHERE pipeline_version = {version:String} AND started_at >= {day:Date} AND started_at < {day:Date} + 1
GROUP BY tenant, call_id, started_at
"""


def history(client: Client, version: str) -> Iterator[Heard]:
    """The newest MOST_CALLS calls of a pipeline version that have ended, the oldest first, day by day.

    Raises CalltideError when ClickHouse refuses.
    """
    try:
        asked = client.query(CALLS, {"version": version, "most": MOST_CALLS}).result_rows
        days: dict[Any, list[Any]] = defaultdict(list)
        for row in reversed(asked):
            days[row[2].date()].append(row)
        for day, calls in progress(list(days.items()), "hearing calls"):
            of_day = {"version": version, "day": day, "cross_talk": CROSS_TALK}
            said, told = (
                {(tenant, call_id): items for tenant, call_id, items in client.query(sql, of_day).result_rows}
                for sql in (SAID, CORRECTED)
            )
            for tenant, call_id, started_at, duration_ms, roles in calls:
                info = CallInfo(call_id=call_id, tenant=tenant, started_at=started_at.replace(tzinfo=UTC), roles=roles)
                key = tenant, call_id
                yield Heard(info, duration_ms, _in_order(info, said.get(key, ()), told.get(key, ())))
    except (ClickHouseError, OSError) as error:
        raise CalltideError(
            f"ClickHouse refuses: {str(error).splitlines()[0][:300]}; `calltide migrate` brings its schema up to date"
        ) from error


def _in_order(info: CallInfo, said: Sequence[Any], told: Sequence[Any]) -> list[tuple[int, CallEvent]]:
    events: list[tuple[int, CallEvent]] = [(offset, _score(info, row)) for offset, *row in said]
    for offset, speaker, same_as, role in told:
        events.append((offset, Correction(call=info, speaker=speaker, same_as=same_as or None, role=role)))
    events.sort(key=lambda one: one[0])
    known, now_ms = [], 0
    for _, event in events:
        now_ms = max(now_ms, event.end_ms) if isinstance(event, Score) else now_ms
        known.append((event.end_ms if isinstance(event, Score) else now_ms, event))
    return known


def _score(info: CallInfo, said: Sequence[Any]) -> Score:
    """As much of an utterance as FEATURES go by; it was valid when it was written, and there may be millions."""
    start_ms, end_ms, channel, role, speaker, score, label = said
    fields = {"start_ms": start_ms, "end_ms": end_ms, "channel": channel, "role": role, "speaker": speaker}
    scored: dict[str, Any] = {"score": score, "label": label}
    sentiment = None if score is None else Sentiment.model_construct(**scored)
    return Score.model_construct(call=info, flags=(), emotion=None, acoustics=None, sentiment=sentiment, **fields)


# --- training and trial ----------------------------------------------------------------------------------------------


def fit(rows: Sequence[Row]) -> tuple[float, dict[str, Term]]:
    """Bias and terms, of rows of both ends."""
    table = np.array([row.known for row in rows], np.float64)  # None becomes NaN
    hit = np.array([row.negative for row in rows], np.float64)
    columns, found = [np.ones(len(rows))], []
    for name, column in zip(FEATURES, table.T, strict=True):
        there = column[~np.isnan(column)]
        low, high = np.quantile(there, (0.01, 0.99)).tolist() if len(there) else (0.0, 0.0)
        clipped = np.clip(column, low, high)
        mean = float(np.nanmean(clipped)) if len(there) else 0.0
        # What is always the same has no weight, whatever its scale.
        scale = (float(np.nanstd(clipped)) if len(there) else 0.0) or 1.0
        columns.append(np.nan_to_num((clipped - mean) / scale))
        found.append((name, mean, scale, low, high))
    bias, *weights = logistic(np.column_stack(columns), hit, PULL)
    return bias, {
        name: Term(weight=weight, mean=mean, scale=scale, low=low, high=high)
        for weight, (name, mean, scale, low, high) in zip(weights, found, strict=True)
    }


def model_of(rows: Sequence[Row], facts: Mapping[str, Any]) -> Model:
    """A model trained on these rows; its id is a hash of its numbers."""
    bias, terms = fit(rows)
    numbers = json.dumps([bias, {name: term.model_dump() for name, term in terms.items()}])
    digest = hashlib.sha256(numbers.encode()).hexdigest()[:12]
    return Model(id=f"outcome-{digest}", bias=bias, terms=terms, facts=dict(facts))


def foretold(model: Model, rows: Sequence[Row]) -> Array:
    """(n,) chances of a negative end."""
    return np.array([model.chance(dict(zip(FEATURES, row.known, strict=True))) for row in rows])


def naive(older: Sequence[Row], rows: Sequence[Row]) -> dict[Rival, Array]:
    """What each of RIVALS says of these rows, (n,) each; the shares are those of the older ones."""
    ends: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    for row in older:
        for key in (row.moment_s, (row.moment_s, row.now), None):
            ends[key][0] += row.negative
            ends[key][1] += 1

    def share(*keys: Any) -> float:
        negative, n = next(ends[key] for key in (*keys, None) if key in ends)
        return negative / n

    return {
        "base rate": np.array([share(row.moment_s) for row in rows]),
        "stays": np.array([float(row.now) for row in rows]),
        "stays (learned)": np.array([share((row.moment_s, row.now), row.moment_s) for row in rows]),
    }


@dataclass(frozen=True, slots=True)
class Trial:
    """How forecasts of some rows did."""

    moment: str
    calls: int
    negative: float
    """Share that ended so."""
    brier: float
    rivals: dict[Rival, float]
    """Brier scores of the naive ones."""
    errors: float
    """How many standard errors it is better than the best of them; calls count, not rows."""

    @property
    def best(self) -> Rival:
        return min(RIVALS, key=lambda one: self.rivals[one])

    @property
    def skill(self) -> float:
        """Part of the best naive forecast's Brier score that it takes away; below 0 it is worse."""
        return 1 - self.brier / self.rivals[self.best] if self.rivals[self.best] else 0.0


def tried(moment: str, rows: Sequence[Row], chances: Array, said: Mapping[Rival, Array]) -> Trial:
    """Of rows of one moment, or of several."""
    truth = np.array([row.negative for row in rows], np.float64)
    calls = np.array([row.call for row in rows])
    squares = {name: (chance - truth) ** 2 for name, chance in said.items()}
    own = (chances - truth) ** 2
    best = min(RIVALS, key=lambda one: squares[one].mean())
    # Rows of one call hang together, so each call is one draw.
    _, of = np.unique(calls, return_inverse=True)
    gains = np.bincount(of, squares[best] - own)
    spread = gains.std() * len(gains) ** 0.5
    return Trial(
        moment=moment,
        calls=len(gains),
        negative=float(truth.mean()),
        brier=float(own.mean()),
        rivals={name: float(square.mean()) for name, square in squares.items()},
        errors=float(gains.sum() / spread) if spread else 0.0,
    )


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of about the same chance."""

    rows: int
    foretold: float
    came: float


def reliability(rows: Sequence[Row], chances: Array) -> list[Bin]:
    """What came of what was foretold, in steps of 0.1; steps without rows are left out."""
    truth = np.array([row.negative for row in rows], np.float64)
    bins = np.clip(np.digitize(chances, BINS) - 1, 0, len(BINS) - 2)
    return [
        Bin(int(here.sum()), float(chances[here].mean()), float(truth[here].mean()))
        for number in range(len(BINS) - 1)
        if (here := bins == number).any()
    ]


def calibration(rows: Sequence[Row], chances: Array) -> tuple[float, float]:
    """Intercept and slope of a logistic regression of what came on the logit of what was foretold: 0 and 1 are right, a
    slope below 1 says that it was too sure (Cox 1958)."""
    truth = np.array([row.negative for row in rows], np.float64)
    kept = np.clip(chances, 1e-4, 1 - 1e-4)
    slope, intercept = logistic(np.column_stack([np.log(kept / (1 - kept)), np.ones(len(kept))]), truth)
    return intercept, slope


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a training."""

    model: Model
    trials: list[Trial]
    """Of each moment, of calls whose last quarter had not begun; the last one is of all moments."""
    bins: list[Bin]
    calibration: tuple[float, float]


def train(calls: Iterable[Heard], facts: Mapping[str, Any]) -> Outcome:
    """A model of the older calls (in order of time) and its trial on the newer ones.

    Raises CalltideError when there are too few calls of either end.
    """
    rows: list[Row] = []
    starts: list[datetime] = []
    left_out = 0
    for heard in calls:
        found, negative = watched(heard, len(starts))
        left_out += negative is None
        if found:
            rows += found
            starts.append(heard.call.started_at)
    border = round(len(starts) * (1 - NEWER))
    older, newer = ([row for row in rows if (row.call >= border) is late] for late in (False, True))
    _require_enough(older, newer, len(starts), left_out)
    ends = Counter((row.call >= border, row.negative) for row in {row.call: row for row in rows}.values())
    model = model_of(older, {})
    chances, said = foretold(model, newer), naive(older, newer)
    trials = []
    for moment_s in (*MOMENTS_S, None):
        here = np.array([row.ahead and moment_s in (row.moment_s, None) for row in newer])
        if here.any():
            part = [row for row, wanted in zip(newer, here, strict=True) if wanted]
            of_part = {name: chance[here] for name, chance in said.items()}
            trials.append(tried(f"{moment_s} s" if moment_s else "all", part, chances[here], of_part))
    bins, (intercept, slope) = reliability(newer, chances), calibration(newer, chances)
    parts = {
        name: {
            "from": f"{starts[first]:%Y-%m-%dT%H:%MZ}",
            "to": f"{starts[last]:%Y-%m-%dT%H:%MZ}",
            "calls": last - first + 1,
            "ended negative": ends[late, True],
        }
        for name, late, first, last in (
            ("trained on", False, 0, border - 1),
            ("tried on", True, border, len(starts) - 1),
        )
    }
    told = {
        **facts,
        "negative": f"the mean of the customer's last quarter is {NEGATIVE:g} or less, -5 to 5",
        **parts,
        "left out": {"customer silent in the last quarter": left_out},
        "before the last quarter": {
            one.moment: {
                "calls": one.calls,
                "ended negative": round(one.negative, 4),
                "Brier score": round(one.brier, 4),
                **{name: round(brier, 4) for name, brier in one.rivals.items()},
                "skill": round(one.skill, 4),
                "standard errors": round(one.errors, 1),
            }
            for one in trials
        },
        "reliability": [
            {"rows": one.rows, "foretold": round(one.foretold, 4), "came": round(one.came, 4)} for one in bins
        ],
        "calibration": {"intercept": round(intercept, 4), "slope": round(slope, 4)},
    }
    return Outcome(model.model_copy(update={"facts": told}), trials, bins, (intercept, slope))


def _require_enough(older: Sequence[Row], newer: Sequence[Row], calls: int, left_out: int) -> None:
    for rows, needed, what in (
        (older, FEWEST_A_FEATURE * len(FEATURES), "older calls, to train on"),
        (newer, FEWEST_TRIED, "newer calls, to try it on"),
    ):
        ends = Counter({row.call: row.negative for row in rows if row.ahead or rows is older}.values())
        if min(ends[True], ends[False]) < needed:
            silent = f" ({left_out:,} more had a silent customer in the last quarter)" if left_out else ""
            raise CalltideError(
                f"too little history: {calls:,} calls{silent}; among the {what}, {ends[True]:,} ended negative and "
                f"{ends[False]:,} did not, and {needed} of each are needed; try again when there are more"
            )


# --- the command -----------------------------------------------------------------------------------------------------


def train_outcome(
    settings: Settings, out: Path | None, *, dry_run: bool = False, console: Console | None = None
) -> Model:
    """Train on the calls of `settings.pipeline_version`, say how it did, and write `out`, unless `dry_run`.

    Without `out` it is written where the stage looks for it.

    Raises CalltideError when ClickHouse is away or refuses, there is too little history, the model is no better than a
    naive forecast, or `out` cannot be written; then what was there before stays.
    """
    console = console or Console()
    target = out or settings.outcome_model
    version = settings.pipeline_version
    with connect(settings) as client:
        found = train(history(client, version), {"made": f"{datetime.now(UTC):%Y-%m-%d}", "pipeline version": version})
    show(console, found)
    of_all = found.trials[-1]
    if of_all.errors < BEYOND_CHANCE:
        stays = f"; {target} stays as it is" if target.exists() else ""
        raise CalltideError(
            f"it is no better than {of_all.best!r} (Brier score {of_all.brier:.4f}, {of_all.rivals[of_all.best]:.4f}), "
            f"so nothing is written{stays}; try again with more calls"
        )
    if dry_run:
        console.print("nothing is written (--dry-run)")
        return found.model
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        beside.write_text(found.model.model_dump_json(indent=1) + "\n", "utf-8")
        beside.replace(target)  # at once: the stage reads it when it changes
    except OSError as error:
        raise CalltideError(f"cannot write {target} ({error.strerror}); give another --out") from None
    setting = f"CALLTIDE_CALL_METRICS__OUTLOOK={target.absolute()}"
    use = "" if target == settings.outcome_model else f"; use it with {setting}"
    console.print(f"{found.model.id} written to {target}{use}", markup=False, soft_wrap=True)
    return found.model


def show(console: Console, found: Outcome) -> None:
    """What it was trained and tried on, how it did, and what it goes by."""
    facts = found.model.facts
    for part in ("trained on", "tried on"):
        told = facts[part]
        ends = f"{told['ended negative']:,} of them ended negative"
        console.print(
            f"{part} {told['calls']:,} calls, {told['from']} to {told['to']}; {ends}", highlight=False, soft_wrap=True
        )
    table = Table("known after", "calls", "ended negative", "Brier score", *RIVALS, "skill", box=None)
    for one in found.trials:
        rivals = (f"{one.rivals[name]:.4f}" for name in RIVALS)
        table.add_row(
            one.moment, f"{one.calls:,}", f"{one.negative:.1%}", f"{one.brier:.4f}", *rivals, f"{one.skill:.1%}"
        )
    console.print("\nnewer calls whose last quarter had not begun:", table)
    bins = Table("foretold", "came", "times", box=None)
    for bin in found.bins:
        bins.add_row(f"{bin.foretold:.1%}", f"{bin.came:.1%}", f"{bin.rows:,}")
    intercept, slope = found.calibration
    console.print(f"\nreliability (intercept {intercept:.2f}, slope {slope:.2f}):", bins)
    weights = Table("what it goes by", "weight", box=None)
    for name, term in sorted(found.model.terms.items(), key=lambda one: -abs(one[1].weight)):
        weights.add_row(name, f"{term.weight:+.2f}")
    console.print("", weights)
