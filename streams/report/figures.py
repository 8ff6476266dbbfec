"""What `calltide report` tells: the key figures of a range of time, asked of ClickHouse.

A changer must know: a figure means what it means on the dashboards (dashboards/sentiment.py, dashboards/emotions.py);
tests/analytics/test_report.py compares them. The parties are those that a dashboard chooses at first: everybody who is
not known to be the agent. Whatever a user gives reaches ClickHouse as a parameter of the query, never as text of it.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from schemas.errors import CalltideError
from streams.settings import Settings
from streams.sink import connect

NONE: Final = "(none)"
"""How calls without a queue or an agent are listed, and chosen."""
NEGATIVE: Final = -0.2
POSITIVE: Final = 0.2
"""Judgement: the same that makes a call negative or positive on the dashboards."""
FEWEST_CALLS: Final = 10
"""As on the dashboard: with fewer, the interval is wider than what agents differ by, and its formula less exact."""
FEWEST_UTTERANCES: Final = 5
"""As on the dashboard: scored utterances of a call, below which it is not listed among the worst."""
EMOTIONS: Final = ("neutral", "happiness", "sadness", "anger", "fear", "surprise")
WORST: Final = 10
EXAMPLES: Final = 5
POINTS: Final = 30
"""At most so many points of time on a chart. Judgement: with more, a point is of a few calls and jumps."""
THIN: Final = 0.25
"""Points with less than this share of the utterances of an average one are left out: two calls at night say nothing."""
STEPS_H: Final = (1, 2, 3, 6, 12, 24, 48, 168, 336, 672)
"""Hours between two points."""


@dataclass(frozen=True)
class Scope:
    """What is reported on: [since, until) in UTC; no tenants, queues or agents: all of them."""

    since: datetime
    until: datetime
    tenants: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    version: str = ""
    """Empty: the one that was promoted, or else the one that heard most calls."""
    minimum: int = 20
    """Utterances: who has fewer is not compared."""

    @property
    def before(self) -> "Scope":
        """The same length of time just before."""
        return Scope(**{**asdict(self), "since": self.since - (self.until - self.since), "until": self.since})

    @property
    def step_h(self) -> int:
        """Hours between two points of a chart."""
        hours = (self.until - self.since) / timedelta(hours=1)
        return next((step for step in STEPS_H if hours / step <= POINTS), STEPS_H[-1])


@dataclass(frozen=True)
class Mood:
    """How calls went: the unit is the call, whose score is the mean of its parties (not the agent), from −1 to 1."""

    calls: int
    utterances: int
    score: float
    half: float | None
    """Half of the 95 % confidence interval of `score`, Student's t over calls; None: too few calls."""
    negative: float
    """Share of calls with a score of −0.2 or less."""
    positive: float
    change: float | None
    """Mean change from the first quarter of a call to its last, −5 to 5."""
    turned_worse: float | None
    """Share of calls whose change is −1 or less."""


@dataclass(frozen=True)
class Compared:
    """A queue or an agent."""

    tenant: str
    name: str
    calls: int
    utterances: int
    score: float
    half: float
    against_all: str
    """better, worse, or not shown to differ: whether the mean of all calls lies outside of the interval."""
    negative: float
    """Share of utterances."""
    change: float | None
    """Within calls, from first to last quarter, −5 to 5."""
    before: float | None = None
    """Score of the period before; None: too few calls then."""
    since_before: float | None = None
    """Difference to it."""
    since_before_half: float | None = None
    """Half of the 95 % confidence interval of that difference, both taken as independent."""


@dataclass(frozen=True)
class Spoken:
    """From utterance_hours: whole hours, of which the first may have begun before the range."""

    utterances: int
    words: int
    speech_hours: float
    negative: int
    neutral: int
    positive: int
    """Utterances of the parties by label."""
    emotions: dict[str, int]
    """Utterances of the parties whose voice was judged."""
    disagree: int
    voiced: int
    """Utterances whose words and voice say clearly different things, of those with both."""
    live: int
    """Scores that came within ten minutes."""
    latency_mean_s: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    """Seconds, at most: upper ends of the bins that ClickHouse counts in."""
    latency_p99_s: float | None
    degraded: int
    """Heard with less effort, because a stage was behind."""


@dataclass(frozen=True)
class Report:
    """All that is told. Rows of tables are dicts, by column."""

    scope: Scope
    version: str
    versions: list[str]
    """All that heard calls in the range."""
    calls: int
    running: int
    call_hours: float
    calls_before: int
    mood: Mood | None
    mood_before: Mood | None
    spoken: Spoken
    queues: list[Compared] = field(default_factory=list)
    agents: list[Compared] = field(default_factory=list)
    angriest: list[dict[str, Any]] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    disagreements: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    dead_letters: list[dict[str, Any]] = field(default_factory=list)
    by_time: list[dict[str, Any]] = field(default_factory=list)
    """tenant, name (queue), time, score, utterances_scored"""
    emotions_by_time: list[dict[str, Any]] = field(default_factory=list)
    by_week: list[dict[str, Any]] = field(default_factory=list)
    """weekday 1 (Monday) to 7, of_day (hour), score, utterances_scored; in UTC"""
    quarters: dict[str, list[float | None]] = field(default_factory=dict)
    """Role → mean score in each quarter of a call, −5 to 5."""
    distribution: dict[int, int] = field(default_factory=dict)
    """Tenths of the score (−10 to 9, rounded down) → utterances."""

    def as_json(self) -> dict[str, Any]:
        """For `--json`: times as ISO text, keys of dicts as text."""
        made: dict[str, Any] = _plain(asdict(self))
        return made


def gather(settings: Settings, scope: Scope) -> Report:
    """Ask for everything. Raises CalltideError: ClickHouse is away, or has not the schema."""
    with connect(settings) as client:
        try:
            return _gather(client, scope)
        except (ClickHouseError, OSError) as error:
            told = str(error).splitlines()[0][:300]
            raise CalltideError(
                f"ClickHouse does not answer the report: {told}; `calltide migrate` brings the schema up to date"
            ) from None


def t_975(df: int) -> float:
    """The 97.5 % quantile of Student's t with `df` ≥ 1 degrees of freedom, as dashboards/sentiment.py has it.

    Abramowitz and Stegun 26.7.5 at z = 1.959964; off by less than 0.00002 from 9 degrees of freedom on.
    """
    return 1.959964 + 2.372271 / df + 2.822499 / df**2 + 2.555850 / df**3 + 1.589534 / df**4


_RANGE: Final = (
    "{0} >= fromUnixTimestamp64Milli({{since:Int64}}, 'UTC') AND {0} < fromUnixTimestamp64Milli({{until:Int64}}, 'UTC')"
)
_HOURS: Final = (
    "hour >= toStartOfHour(fromUnixTimestamp64Milli({since:Int64}, 'UTC'))"
    " AND hour < fromUnixTimestamp64Milli({until:Int64}, 'UTC')"
)
_PARTIES: Final = "role IN ('customer', 'unknown')"


@dataclass(frozen=True)
class _Asked:
    """A client, what every query is filtered by, and the values of it as parameters."""

    client: Client
    scope: Scope
    version: str

    def where(self, *columns: str, version: bool = True) -> str:
        """SQL condition: the version, and of `columns` (tenant, queue, agent) those of which something was chosen."""
        values = {"tenant": self.scope.tenants, "queue": self.scope.queues, "agent": self.scope.agents}
        conditions = ["pipeline_version = {version:String}"] if version else []
        conditions += [f"{name} IN {{{name}:Array(String)}}" for name in columns if values[name]]
        return " AND ".join(conditions) or "1"

    @property
    def all(self) -> str:
        return self.where("tenant", "queue", "agent")

    def rows(self, sql: str, **more: Any) -> list[dict[str, Any]]:
        """The answer; `more`: further parameters."""
        scope = self.scope
        parameters = {
            "since": _ms(scope.since),
            "until": _ms(scope.until),
            "version": self.version,
            "tenant": list(scope.tenants),
            "queue": ["" if name == NONE else name for name in scope.queues],
            "agent": ["" if name == NONE else name for name in scope.agents],
            **more,
        }
        return list(
            self.client.query(sql, {name: v for name, v in parameters.items() if f"{{{name}:" in sql}).named_results()
        )


def _gather(client: Client, scope: Scope) -> Report:
    any_version = _Asked(client, scope, "")
    heard = any_version.rows(
        f"""SELECT pipeline_version AS version FROM calls
WHERE {_RANGE.format("started_at")} AND {any_version.where("tenant", "queue", "agent", version=False)}
GROUP BY version
ORDER BY version = (SELECT argMax(pipeline_version, promoted_at) FROM promotions) DESC,
    uniqExact(tenant, call_id) DESC, version"""
    )
    versions = [row["version"] for row in heard]
    asked = _Asked(client, scope, scope.version or next(iter(versions), ""))
    before = _Asked(client, scope.before, asked.version)
    count = f"""SELECT count() AS calls, countIf(ended_at IS NULL) AS running, sum(duration_ms) / 3.6e6 AS hours
FROM calls FINAL WHERE {asked.all} AND {_RANGE.format("started_at")}"""
    held, held_before = asked.rows(count)[0], before.rows(count)[0]
    return Report(
        scope=scope,
        version=asked.version,
        versions=versions,
        calls=held["calls"],
        running=held["running"],
        call_hours=held["hours"] or 0.0,
        calls_before=held_before["calls"],
        mood=_mood(asked),
        mood_before=_mood(before),
        spoken=_spoken(asked),
        queues=_with_before(_compared(asked, "queue"), _compared(before, "queue")),
        agents=_with_before(_compared(asked, "agent"), _compared(before, "agent")),
        angriest=_angriest(asked),
        worst=_worst(asked),
        disagreements=_disagreements(asked),
        alerts=_alerts(asked),
        dead_letters=_dead_letters(asked),
        by_time=_by_time(asked),
        emotions_by_time=_emotions_by_time(asked),
        by_week=_by_week(asked),
        quarters=_quarters(asked),
        distribution=_distribution(asked),
    )


def _calls(asked: _Asked) -> str:
    """SQL: one row a call, of its parties together."""
    return f"""SELECT
        tenant, call_id, any(queue) AS call_queue, any(agent) AS call_agent, any(started_at) AS began,
        avg(score) AS call_score, avg(change) AS call_change, sum(utterances) AS said, sum(negative) AS said_negative,
        sum(negative + neutral + positive) AS scored
    FROM call_metrics FINAL
    WHERE {asked.all} AND {_PARTIES} AND {_RANGE.format("started_at")} AND score IS NOT NULL
    GROUP BY tenant, call_id"""


def _mood(asked: _Asked) -> Mood | None:
    (row,) = asked.rows(
        f"""SELECT count() AS calls, sum(said) AS utterances, avg(call_score) AS score,
    stddevSamp(call_score) AS deviation,
    countIf(call_score <= {NEGATIVE}) / count() AS negative, countIf(call_score >= {POSITIVE}) / count() AS positive,
    avgOrNull(call_change) AS change, countIf(call_change <= -1) / nullIf(count(call_change), 0) AS turned_worse
FROM (
    {_calls(asked)}
)"""
    )
    deviation = row.pop("deviation")
    if not row["calls"]:
        return None
    return Mood(**row, half=_half(row["calls"], deviation) if row["calls"] >= FEWEST_CALLS else None)


def _half(calls: int, deviation: float) -> float:
    return t_975(calls - 1) * deviation / math.sqrt(calls)


def _compared(asked: _Asked, by: str) -> list[Compared]:
    """Every queue or agent with enough calls, the lowest score first."""
    rows = asked.rows(
        f"""SELECT
    tenant, call_{by} AS name, count() AS calls, sum(said) AS utterances, avg(call_score) AS score,
    stddevSamp(call_score) AS deviation, sum(sum(call_score)) OVER () / sum(count()) OVER () AS everybody,
    sum(said_negative) / sum(said) AS negative, avgOrNull(call_change) AS change
FROM (
    {_calls(asked)}
)
GROUP BY tenant, name
ORDER BY score, tenant, name"""
    )
    made = []
    for row in rows:
        everybody, deviation = row.pop("everybody"), row.pop("deviation")
        if row["calls"] < FEWEST_CALLS or row["utterances"] < asked.scope.minimum:
            continue
        half = _half(row["calls"], deviation)
        verdict = "not shown to differ"
        if row["score"] - half > everybody:
            verdict = "better"
        elif row["score"] + half < everybody:
            verdict = "worse"
        made.append(Compared(**{**row, "name": row["name"] or NONE}, half=half, against_all=verdict))
    return made


def _with_before(now: Sequence[Compared], before: Sequence[Compared]) -> list[Compared]:
    """`now` with what the same queues or agents had in the period before."""
    known = {(one.tenant, one.name): one for one in before}
    made = []
    for one in now:
        if then := known.get((one.tenant, one.name)):
            change, half = one.score - then.score, math.hypot(one.half, then.half)
            one = Compared(**{**asdict(one), "before": then.score, "since_before": change, "since_before_half": half})
        made.append(one)
    return made


def _spoken(asked: _Asked) -> Spoken:
    (row,) = asked.rows(
        f"""SELECT sum(utterances) AS utterances, sum(words) AS words, sum(speech_ms) / 3.6e6 AS speech_hours,
    sumIf(negative, {_PARTIES}) AS negative, sumIf(neutral, {_PARTIES}) AS neutral,
    sumIf(positive, {_PARTIES}) AS positive, sumMapIf(emotions, {_PARTIES}) AS emotions,
    sumIf(disagreements, {_PARTIES}) AS disagree, sumIf(voice_n, {_PARTIES}) AS voiced,
    sum(latency_n) AS live, sum(latency_sum_ms) AS latency_ms, sumMap(latency_bins) AS bins, sum(degraded) AS degraded
FROM utterance_hours
WHERE {asked.all} AND {_HOURS}"""
    )
    bins, latency_ms = sorted(row.pop("bins").items()), row.pop("latency_ms")
    return Spoken(
        **{**row, "emotions": {name: row["emotions"].get(name, 0) for name in EMOTIONS}},
        latency_mean_s=latency_ms / row["live"] / 1000 if row["live"] else None,
        latency_p50_s=_quantile(bins, 0.5),
        latency_p95_s=_quantile(bins, 0.95),
        latency_p99_s=_quantile(bins, 0.99),
    )


def _quantile(bins: Sequence[tuple[int, int]], share: float) -> float | None:
    """Seconds that `share` of the scores stay below; `bins`: (tenths of a second at most, scores), ascending."""
    wanted, seen = share * sum(count for _, count in bins), 0
    for tenths, count in bins:
        seen += count
        if seen >= wanted:
            return tenths / 10
    return None


def _angriest(asked: _Asked) -> list[dict[str, Any]]:
    return asked.rows(
        f"""SELECT tenant, if(queue = '', '{NONE}', queue) AS name, judged,
    by_emotion['anger'] / judged AS anger
FROM (
    SELECT tenant, queue, sumMap(emotions) AS by_emotion, arraySum(mapValues(by_emotion)) AS judged
    FROM utterance_hours
    WHERE {asked.all} AND {_PARTIES} AND {_HOURS}
    GROUP BY tenant, queue
)
WHERE judged >= greatest({{minimum:UInt32}}, 1)
ORDER BY anger DESC, tenant, name
LIMIT {WORST}""",
        minimum=asked.scope.minimum,
    )


def _worst(asked: _Asked) -> list[dict[str, Any]]:
    return asked.rows(
        f"""SELECT tenant, call_id, began, if(call_queue = '', '{NONE}', call_queue) AS queue,
    if(call_agent = '', '{NONE}', call_agent) AS agent, call_score AS score, call_change AS change,
    said_negative / said AS negative
FROM (
    {_calls(asked)}
)
WHERE scored >= {FEWEST_UTTERANCES}
ORDER BY call_score, call_id
LIMIT {WORST}"""
    )


def _disagreements(asked: _Asked) -> list[dict[str, Any]]:
    return asked.rows(
        f"""SELECT tenant, call_id, spoken_at, role, text, emotion, text_score, voice_score
FROM utterances_heard
WHERE {asked.all} AND {_PARTIES} AND {_RANGE.format("call_started_at")} AND disagree
ORDER BY abs(text_score - voice_score) DESC, spoken_at DESC
LIMIT 1 BY tenant, call_id, channel, start_ms
LIMIT {EXAMPLES}"""
    )


def _alerts(asked: _Asked) -> list[dict[str, Any]]:
    return asked.rows(
        f"""SELECT severity, rule, count() AS alerts, uniqExact(tenant, call_id) AS calls, max(at) AS latest,
    argMax(text, at) AS latest_text
FROM alerts FINAL
WHERE {asked.all} AND {_RANGE.format("at")}
GROUP BY severity, rule
ORDER BY indexOf(['critical', 'warning', 'info'], severity), alerts DESC, rule"""
    )


def _dead_letters(asked: _Asked) -> list[dict[str, Any]]:
    """They have a tenant if they can be read, and neither queue, agent nor version."""
    return asked.rows(
        f"""SELECT if(stage = '', '{NONE}', stage) AS name, error, count() AS letters, countIf(settled = '') AS open,
    max(failed_at) AS latest
FROM dead_letters FINAL
WHERE {asked.where("tenant", version=False)} AND {_RANGE.format("failed_at")}
GROUP BY name, error
ORDER BY open DESC, letters DESC, name, error
LIMIT 20"""
    )


_POINT: Final = "toStartOfInterval(hour, INTERVAL {step:UInt32} HOUR, 'UTC') AS time"


def _thick(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    average = sum(row["utterances_scored"] for row in rows) / len(rows) if rows else 0
    return [row for row in rows if row["utterances_scored"] >= THIN * average]


def _by_time(asked: _Asked) -> list[dict[str, Any]]:
    rows = asked.rows(
        f"""SELECT tenant, if(queue = '', '{NONE}', queue) AS name, {_POINT},
    sum(score_sum) / sum(score_n) AS score, sum(score_n) AS utterances_scored
FROM utterance_hours
WHERE {asked.all} AND {_PARTIES} AND {_HOURS}
GROUP BY tenant, name, time HAVING utterances_scored >= greatest({{minimum:UInt32}}, 1)
ORDER BY tenant, name, time""",
        step=asked.scope.step_h,
        minimum=asked.scope.minimum,
    )
    return _thick(rows)


def _emotions_by_time(asked: _Asked) -> list[dict[str, Any]]:
    return asked.rows(
        f"""SELECT {_POINT}, sumMap(emotions) AS by_emotion
FROM utterance_hours
WHERE {asked.all} AND {_PARTIES} AND {_HOURS}
GROUP BY time HAVING notEmpty(by_emotion)
ORDER BY time""",
        step=asked.scope.step_h,
    )


def _by_week(asked: _Asked) -> list[dict[str, Any]]:
    rows = asked.rows(
        f"""SELECT toDayOfWeek(hour) AS weekday, toHour(hour) AS of_day, sum(score_sum) / sum(score_n) AS score,
    sum(score_n) AS utterances_scored
FROM utterance_hours
WHERE {asked.all} AND {_PARTIES} AND {_HOURS}
GROUP BY weekday, of_day HAVING utterances_scored >= greatest({{minimum:UInt32}}, 1)
ORDER BY weekday, of_day""",
        minimum=asked.scope.minimum,
    )
    return _thick(rows)


def _quarters(asked: _Asked) -> dict[str, list[float | None]]:
    rows = asked.rows(
        f"""SELECT role, place, avgOrNull(quarters[place]) AS value
FROM call_metrics FINAL
ARRAY JOIN range(1, 5) AS place
WHERE {asked.all} AND {_RANGE.format("started_at")}
GROUP BY role, place ORDER BY role, place"""
    )
    made: dict[str, list[float | None]] = {}
    for row in rows:
        made.setdefault(row["role"], []).append(row["value"])
    return {role: values for role, values in made.items() if any(value is not None for value in values)}


def _distribution(asked: _Asked) -> dict[int, int]:
    (row,) = asked.rows(
        f"SELECT sumMap(score_bins) AS bins FROM utterance_hours WHERE {asked.all} AND {_PARTIES} AND {_HOURS}"
    )
    return {tenth: row["bins"].get(tenth, 0) for tenth in range(-10, 10)} if row["bins"] else {}


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
        case dict():
            return {str(name): _plain(one) for name, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case float():
            return round(value, 4) if math.isfinite(value) else None
    return value
