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
"""What a queue is compared with: its own week up to a day ago, which has every day of the week and hour of the day, and
in which a bad day is not at once what is usual."""
USUAL_CALLS: Final = 20
"""Judgement. A queue that had fewer in a week has no usual mood yet."""
CERTAIN: Final = 3
"""Standard deviations that hours of this many calls differ by on their own once in 700 times. The unit is the call: its
utterances are of one mood, and to count them singly would take a bad call for a bad hour."""
FEWEST_CALLS: Final = 3
FEWEST: Final = 4
"""Utterances of a call, below which it says nothing yet (judgement)."""
LONGEST_CALL: Final = "INTERVAL 4 HOUR"
"""Judgement. Keeps the rows to look at few."""
MOOD_DROP: Final = -0.2
"""On the scale of -1 to 1, below which a drop is a drop, however certain. Judgement: from neutral to negative."""
ANGRY_SHARE: Final = 0.2
"""Of what a customer says: more makes an angry call. Judgement."""
NO_AUDIO_S: Final = 1.0
"""Seconds of audio within ten minutes, below which a source is silent."""
BUSY: Final = 6
"""Seconds of audio a second, three calls with two parties each: a source that had so much at this time a week ago is
missed. With fewer calls ten minutes without any are nothing special (at three, one in ten thousand)."""

Boards = Mapping[str, Mapping[str, Any]]


_LATELY: Final = f"""call_started_at > $__fromTime - {LONGEST_CALL} AND $__timeFilter(spoken_at) AND role != 'agent'"""
_BEFORE: Final = f"""started_at >= $__fromTime - INTERVAL {USUAL_DAYS + 1} DAY
            AND started_at < $__fromTime - INTERVAL 1 DAY AND role != 'agent'"""


def _against_the_usual(call_usually: str, usually: str, call: str, spoken: str, lately: str, value: str) -> str:
    """SQL: a point for each queue in which at least FEWEST_CALLS customers spoke in the range.

    `call_usually`: condition on call_metrics; `usually`: its figures of the week before, over calls. `call`: figures of
    a call in the range, over its utterances that are `spoken`; `lately`: of these, over calls. `value`: of all of them.
    """
    return f"""WITH
    usual AS (
        SELECT tenant, queue, pipeline_version, {usually}
        FROM call_metrics FINAL
        WHERE {_BEFORE} AND {call_usually}
        GROUP BY tenant, queue, pipeline_version
        HAVING count() >= {USUAL_CALLS}
    ),
    calls_lately AS (
        SELECT tenant, queue, pipeline_version, call_id, {call}
        FROM utterances
        WHERE {_LATELY} AND {spoken}
        GROUP BY tenant, queue, pipeline_version, call_id
        HAVING count() >= {FEWEST}
    ),
    lately AS (
        SELECT tenant, queue, pipeline_version, count() AS calls, {lately}
        FROM calls_lately
        GROUP BY tenant, queue, pipeline_version
        HAVING calls >= {FEWEST_CALLS}
    )
SELECT $__toTime AS time, tenant, queue, pipeline_version AS version, {value} AS Value
FROM lately
INNER JOIN usual USING (tenant, queue, pipeline_version)
ORDER BY time"""


def _mood() -> str:
    """SQL: by how much the customers of a queue sound worse than the week before, below 0; 0 where that is chance."""
    return _against_the_usual(
        "score IS NOT NULL",
        "avg(score) AS usual_score, stddevSamp(score) AS spread",
        "avg(score) AS call_score",
        "score IS NOT NULL",
        "avg(call_score) AS late_score",
        f"if(late_score - usual_score < -{CERTAIN} * spread / sqrt(calls), late_score - usual_score, 0)",
    )


def _anger() -> str:
    """SQL: how many customers of a queue are angry; 0 where the usual share of angry calls explains it."""
    return _against_the_usual(
        "length(emotion_ms) > 0",
        f"avg(emotion_ms['anger'] > {ANGRY_SHARE} * arraySum(mapValues(emotion_ms))) AS share",
        f"sumIf(end_ms - start_ms, emotion = 'anger') > {ANGRY_SHARE} * sum(end_ms - start_ms) AS is_angry",
        "emotion != ''",
        "countIf(is_angry) AS angry",
        f"if(angry > calls * share + {CERTAIN} * sqrt(calls * share * (1 - share)), angry, 0)",
    )


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
    reduce = expr.TypeReduce().ref_id("B").datasource(by_expression).expression("A").reducer("last")
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
            fires=("lt", MOOD_DROP),
            pending="5m",
            no_data="OK",  # at night nobody calls
            severity="warning",
            summary=f"The mood of queue {queue} has dropped",
            description='Over the last hour its customers stood at {{ printf "%.2f" $values.B.Value }} against the '
            "week before, from -1 to 1 (version {{ $labels.version }}). Words shows what they talk about.",
            panel=_panel(boards, "floor", "Sentiment per minute, by queue"),
        ),
        _rule(
            "calltide-anger",
            "Angry customers surge",
            _clickhouse(_anger()),
            CLICKHOUSE,
            minutes=30,
            fires=("gt", FEWEST_CALLS - 1),
            pending="0s",  # half an hour is looked at already
            no_data="OK",
            severity="critical",
            summary=f"Many angry customers in queue {queue}",
            description='{{ printf "%.0f" $values.B.Value }} of its customers sounded angry in the last half hour, '
            "more than chance makes of the usual (version {{ $labels.version }}). Floor, live shows the calls.",
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
