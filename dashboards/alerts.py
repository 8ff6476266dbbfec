"""Grafana's alert rules: what somebody is to be told of without looking. Each is query → reduce → threshold.

Two ask ClickHouse about moods, three ask Prometheus whether calls come and are kept up with. What Prometheus can watch
alone, such as a process that is down, is in deploy/prometheus/rules.yml. docs/operations.md says what to do about each.

A changer must know: Grafana runs a rule without a dashboard, so there are no variables. A rule asks about all tenants
and queues at once, and gives a series for each: every text column, or Prometheus label, becomes a label of the alert.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from grafana_foundation_sdk.builders import alerting, expr
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery as AnyQuery
from grafana_foundation_sdk.models.alerting import RelativeTimeRange
from grafana_foundation_sdk.models.common import DataSourceRef

from dashboards.operations import LAG_TARGET_S
from dashboards.query import ClickHouse

CLICKHOUSE: Final = "calltide-clickhouse"
PROMETHEUS: Final = "calltide-prometheus"
EVERY_S: Final = 60

USUAL_DAYS: Final = 7
"""What a queue is compared with: its own last week, so that every hour of the day and day of the week is in it."""
USUAL_UTTERANCES: Final = 300
"""Judgement: some dozen calls. A queue that had fewer in a week has no usual mood yet."""
PIECE_MIN: Final = 15
"""Minutes that make one point. Points with too few utterances are left out, not guessed."""
FEWEST: Final = 10
"""Scored utterances of a point. Judgement: their mean is within ±0.15 of the truth for the usual spread of 0.25."""
MOOD_DROP: Final = -0.25
"""On the scale of −1 to 1, mean of an hour. Judgement: more than twice what a queue's hours differ by on their own."""
ANGRY: Final = 5
"""Angry utterances of a point, below which it is counted as none: one caller who shouts is no surge."""
ANGER_RISE: Final = 3.0
"""Times the usual share. Judgement."""
NO_AUDIO_S: Final = 1.0
"""Seconds of audio within ten minutes, below which a source is silent."""
BUSY: Final = 6
"""Seconds of audio a second, three calls with two parties each: a source that had so much at this time a week ago is
missed. With fewer calls ten minutes without any are nothing special (at three, one in ten thousand)."""

Reducer = Literal["mean", "last"]
Boards = Mapping[str, Mapping[str, Any]]


def _usual(columns: str) -> str:
    """SQL: figures of each queue over USUAL_DAYS up to the hour that is looked at. Agents' moods are left out."""
    return f"""SELECT tenant, queue, pipeline_version, {columns}
    FROM utterance_hours
    WHERE hour >= $__fromTime - INTERVAL {USUAL_DAYS} DAY AND hour < toStartOfHour($__fromTime) AND role != 'agent'
    GROUP BY tenant, queue, pipeline_version"""


def _mood() -> str:
    """SQL: by how much the customers of a queue sound worse than in its last week. Below 0: worse."""
    return f"""WITH usual AS (
    {_usual("sum(score_sum) / sum(score_n) AS usually")}
    HAVING sum(score_n) >= {USUAL_UTTERANCES}
)
SELECT
    toStartOfInterval(minute, INTERVAL {PIECE_MIN} MINUTE) AS time,
    tenant, queue, pipeline_version AS version,
    sum(score_sum) / sum(score_n) - any(usually) AS Value
FROM utterance_minutes
INNER JOIN usual USING (tenant, queue, pipeline_version)
WHERE $__timeFilter(minute) AND role != 'agent'
GROUP BY time, tenant, queue, version
HAVING sum(score_n) >= {FEWEST}
ORDER BY time"""


def _anger() -> str:
    """SQL: how many times the usual share of a queue's customers sound angry."""
    return f"""WITH usual AS (
    {_usual("(sum(emotions['anger']) + 1) / (sum(arraySum(mapValues(emotions))) + 1) AS usually")}
    HAVING sum(arraySum(mapValues(emotions))) >= {USUAL_UTTERANCES}
)
SELECT
    toStartOfInterval(minute, INTERVAL {PIECE_MIN} MINUTE) AS time,
    tenant, queue, pipeline_version AS version,
    if(
        sum(emotions['anger']) < {ANGRY},
        0,
        sum(emotions['anger']) / sum(arraySum(mapValues(emotions))) / any(usually)
    ) AS Value
FROM utterance_minutes
INNER JOIN usual USING (tenant, queue, pipeline_version)
WHERE $__timeFilter(minute) AND role != 'agent'
GROUP BY time, tenant, queue, version
HAVING sum(arraySum(mapValues(emotions))) >= {FEWEST}
ORDER BY time"""


AUDIO: Final = "calltide_ingest_audio_seconds_total"
BUSY_BEFORE: Final = f"sum by (protocol) (rate({AUDIO}[30m] offset 1w))"
NO_AUDIO: Final = f"""(sum by (protocol) (increase({AUDIO}[10m])) or 0 * {BUSY_BEFORE})
and on (protocol) (
  min_over_time(sum by (protocol) (calltide_ingest_calls)[10m:1m]) > 0
  or {BUSY_BEFORE} > {BUSY}
)"""
"""PromQL: seconds of audio of the last ten minutes by protocol, of those from which there should be some: calls were
connected all the while, or it was BUSY at this time a week ago. That also misses a server that is gone altogether."""


def _clickhouse(sql: str) -> Any:
    return ClickHouse(sql).timeseries().source(CLICKHOUSE)


def _prometheus(promql: str) -> Any:
    source = DataSourceRef(type_val="prometheus", uid=PROMETHEUS)
    return Dataquery().datasource(source).expr(promql).range().interval("15s")


def _query(letter: str, source: str, model: Builder[AnyQuery], minutes: int) -> alerting.Query:
    return (
        alerting.Query(letter)
        .datasource_uid(source)
        .relative_time_range(RelativeTimeRange(from_val=minutes * 60, to=0))
        .model(model)
    )


def _rule(
    uid: str,
    title: str,
    query: Any,
    source: str,
    *,
    minutes: int,
    reducer: Reducer,
    fires: tuple[Literal["gt", "lt"], float],
    pending: str,
    no_data: Literal["OK", "NoData"],
    severity: Literal["warning", "critical"],
    summary: str,
    description: str,
    panel: tuple[str, int],
) -> alerting.Rule:
    """A rule: the query A over the last `minutes`, B its series reduced to a number, C whether that `fires`.

    pending: for how long it must do so before anybody is told. no_data: what no series at all means: OK, or an alert of
    its own (NoData). A query that fails is always an alert of its own: a rule that cannot look must not seem content.
    panel: uid and panel's id of what to look at.
    """
    by_expression = DataSourceRef(type_val="__expr__", uid="__expr__")
    reduce = expr.TypeReduce().ref_id("B").datasource(by_expression).expression("A").reducer(reducer)
    # A histogram without observations gives NaN, which is no number to be held against anything.
    reduce = reduce.settings(expr.ExprTypeReduceSettings().mode("dropNN"))
    kind, limit = fires
    evaluator = expr.ExprTypeThresholdConditionsEvaluator().type(kind).params([limit])
    threshold = (
        expr.TypeThreshold()
        .ref_id("C")
        .datasource(by_expression)
        .expression("B")
        .conditions([expr.ExprTypeThresholdConditions().evaluator(evaluator)])
    )
    board, panel_id = panel
    return (
        alerting.Rule(title)
        .uid(uid)
        .condition("C")
        .with_query(_query("A", source, query.ref_id("A"), minutes))
        .with_query(_query("B", "__expr__", reduce, minutes))
        .with_query(_query("C", "__expr__", threshold, minutes))
        .for_val(pending)
        .no_data_state(no_data)
        .exec_err_state("Error")
        .labels({"source": "calltide", "severity": severity})
        .annotations(
            {
                "summary": summary,
                "description": description,
                "__dashboardUid__": board,
                "__panelId__": str(panel_id),
            }
        )
        .is_paused(False)
    )


def _moods(boards: Boards) -> list[alerting.Rule]:
    queue = "{{ $labels.queue }} of {{ $labels.tenant }}"
    return [
        _rule(
            "calltide-queue-mood",
            "Mood of a queue drops",
            _clickhouse(_mood()),
            CLICKHOUSE,
            minutes=60,
            reducer="mean",
            fires=("lt", MOOD_DROP),
            pending="5m",
            no_data="OK",  # at night nobody calls
            severity="warning",
            summary=f"The mood of queue {queue} has dropped",
            description='Its customers stand at {{ printf "%.2f" $values.B.Value }} against its last week, over the last '
            "hour and on a scale of -1 to 1 (version {{ $labels.version }}). Words shows what they talk about.",
            panel=_panel(boards, "floor", "Sentiment per minute, by queue"),
        ),
        _rule(
            "calltide-anger",
            "Angry customers surge",
            _clickhouse(_anger()),
            CLICKHOUSE,
            minutes=30,
            reducer="mean",
            fires=("gt", ANGER_RISE),
            pending="0s",  # half an hour is looked at already
            no_data="OK",
            severity="critical",
            summary=f"Many angry customers in queue {queue}",
            description='Over the last half hour {{ printf "%.1f" $values.B.Value }} times as many utterances sounded '
            "angry as in its last week (version {{ $labels.version }}). Floor, live shows the calls.",
            panel=_panel(boards, "floor", "Emotions per minute"),
        ),
    ]


def _operations(boards: Boards) -> list[alerting.Rule]:
    return [
        _rule(
            "calltide-lag",
            "Lag above target",
            _prometheus('max by (stage) (calltide_lag_seconds{lane="live"})'),
            PROMETHEUS,
            minutes=5,
            reducer="last",
            fires=("gt", LAG_TARGET_S),
            pending="2m",  # a worker that was restarted catches up in seconds
            no_data="NoData",  # no stage tells anything: none runs, or Prometheus does not reach them
            severity="critical",
            summary="Stage {{ $labels.stage }} is behind the live calls",
            description='By {{ printf "%.0f" $values.B.Value }} seconds of audio, for two minutes. Start another '
            "worker of it; the dashboard Operations shows whether it is busy or waits.",
            panel=_panel(boards, "operations", "Lag by stage, live calls"),
        ),
        _rule(
            "calltide-dead-letters",
            "Dead letters",
            _prometheus("sum by (stage) (increase(calltide_dead_letters_total[10m]))"),
            PROMETHEUS,
            minutes=5,
            reducer="last",
            fires=("gt", 0),
            pending="0s",  # one is enough
            no_data="OK",  # the rule about lag tells that
            severity="warning",
            summary="Stage {{ $labels.stage }} has set records aside",
            description='About {{ printf "%.0f" $values.B.Value }} in ten minutes could not be processed. '
            "`calltide dead-letters list` says what and why, `redrive` sends them through again.",
            panel=_panel(boards, "operations", "Dead letters"),
        ),
        _rule(
            "calltide-no-audio",
            "No audio from a source",
            _prometheus(NO_AUDIO),
            PROMETHEUS,
            minutes=5,
            reducer="last",
            fires=("lt", NO_AUDIO_S),
            pending="1m",
            no_data="OK",  # no source is expected to bring any now
            severity="critical",
            summary="No audio from {{ $labels.protocol }}",
            description="For ten minutes, though calls are connected or it was busy at this time a week ago. Look at "
            "the phone system, then at the faults and refusals on the dashboard Operations.",
            panel=_panel(boards, "operations", "Audio, by protocol"),
        ),
    ]


def _panel(boards: Boards, name: str, title: str) -> tuple[str, int]:
    """uid of a dashboard, and the id of the last panel of that title: the first may be a bare number."""
    *_, found = (panel["id"] for panel in boards[name]["panels"] if panel["title"] == title)
    return boards[name]["uid"], found


def groups(boards: Boards) -> list[dict[str, Any]]:
    """The groups of rules as Grafana's provisioning API takes them, but for what says into which folder they go.

    boards: the dashboards by name, as `dashboards.build.all_dashboards` gives them.
    """
    made = []
    for title, rules in (("Calltide: moods", _moods(boards)), ("Calltide: operations", _operations(boards))):
        group = json.loads(JSONEncoder().encode(alerting.RuleGroup(title).interval(EVERY_S).rules(list(rules)).build()))
        for rule in group["rules"]:
            for name in ("folderUID", "ruleGroup", "orgID"):
                del rule[name]
        made.append(group)
    return made
