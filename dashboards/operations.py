"""Operations: whether all processes keep up with the calls, for who is on call. The one dashboard of Prometheus.

A changer must know: its metrics are those of docs/operations.md, scraped as job `calltide` with a label `process`
(deploy/prometheus/). tests/analytics/test_operations.py runs every query here against a Prometheus that scrapes a
running chain, and wants an answer of each.
"""

from typing import Any, Final

from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.statetimeline import Panel as StateTimeline
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import DataSourceRef

from dashboards import common as c

LAG_TARGET_S: Final = 5
"""Seconds of audio that a stage may be behind: where ASR begins to hear with less effort, by default
(CALLTIDE_RUNTIME__REDUCE_AT_LAG_S)."""

LAG: Final[c.type_thresholds] = [(None, c.POSITIVE), (LAG_TARGET_S / 2, c.WARNING), (LAG_TARGET_S, c.NEGATIVE)]
DELAY: Final[c.type_thresholds] = [(None, c.POSITIVE), (1.5, c.WARNING), (3, c.NEGATIVE)]
"""Seconds. Judgement: after one and a half a supervisor feels a score as late, after three the talk has gone on."""
NEVER: Final[c.type_thresholds] = [(None, c.POSITIVE), (1e-9, c.NEGATIVE)]
"""Of what should not happen at all."""
SHARE: Final[c.type_thresholds] = [(None, c.POSITIVE), (0.7, c.WARNING), (0.9, c.NEGATIVE)]
"""Of the time there is. Judgement: above nine tenths every burst makes a queue."""
ROOM: Final[c.type_thresholds] = [(None, c.NEGATIVE), (5e9, c.WARNING), (20e9, c.POSITIVE)]
"""Bytes. Judgement: time enough to make room before the broker's disk is full."""
UP: Final[c.type_thresholds] = [(None, c.NEGATIVE), (1, c.POSITIVE)]

LIVE: Final = '{lane="live"}'
OURS: Final = '{job="calltide"}'


def _query(expr: str, legend: str, *, now: bool = False) -> Dataquery:
    """PromQL. legend: the name of the series, with labels in {{}}. now: one value, at the end of the range."""
    source = DataSourceRef(type_val="prometheus", uid="${prometheus}")
    built = Dataquery().datasource(source).expr(expr).legend_format(legend)
    return built.instant() if now else built.range()


def _by(*labels: str) -> str:
    return f"by ({', '.join(labels)}) " if labels else ""


def _legend(*labels: str) -> str:
    return ", ".join(f"{{{{{label}}}}}" for label in labels)


def _each(function: str, metric: str, *by: str, legend: str = "") -> Dataquery:
    """A gauge, by labels."""
    return _query(f"{function} {_by(*by)}({metric})", legend or _legend(*by))


def _rate(metric: str, *by: str, legend: str = "") -> Dataquery:
    """How much a counter grows in a second, by labels."""
    return _query(f"sum {_by(*by)}(rate({metric}[$__rate_interval]))", legend or _legend(*by))


def _new(metric: str, *by: str, legend: str = "") -> Dataquery:
    """How much a counter grew, by labels. Also one whose labels come with its first event, which `increase` misses."""
    grown = f"({metric} unless {metric} offset $__rate_interval) or increase({metric}[$__rate_interval])"
    return _query(f"sum {_by(*by)}({grown})", legend or _legend(*by))


def _quantile(q: float, metric: str, *by: str, where: str = "", legend: str = "") -> Dataquery:
    """Of a histogram, by labels."""
    buckets = f"sum {_by('le', *by)}(rate({metric}_bucket{where}[$__rate_interval]))"
    return _query(f"histogram_quantile({q}, {buckets})", legend or _legend(*by))


def _panel(title: str, description: str, *queries: Any, unit: str, no_data: str, **more: Any) -> Any:
    """A panel of this board: lines from zero, a third of the width, unless `more` says otherwise."""
    given: dict[str, Any] = {"thresholds_at": c.NO_THRESHOLDS, "links": (c.FLOOR, c.MODELS), "width": 8} | more
    kind = given.pop("kind", None) or c.lines(low=0)
    return c.panel(kind, title, description, *queries, unit=unit, no_data=no_data, **given)


def _figure(title: str, description: str, expr: str, *, unit: str, at: c.type_thresholds, no_data: str) -> Any:
    """One number."""
    query = _query(expr, title, now=True)
    shape: dict[str, Any] = {"kind": c.figure(), "width": 4, "height": 5}
    return _panel(title, description, query, unit=unit, thresholds_at=at, no_data=no_data, **shape)


def _at_a_glance() -> list[Any]:
    nothing = "Prometheus scrapes nothing under the job calltide"
    return [
        _figure(
            "Processes down",
            "Targets that did not answer Prometheus' last scrape.",
            f"count(up{OURS} == 0) or 0 * count(up{OURS})",
            unit="short",
            at=NEVER,
            no_data=nothing,
        ),
        _figure(
            "Furthest behind",
            "Seconds of audio that the slowest stage is behind the live calls.",
            f"max(calltide_lag_seconds{LIVE})",
            unit="s",
            at=LAG,
            no_data="No stage tells its lag",
        ),
        _figure(
            "Score latency, p95",
            "Over the whole range, from an utterance's last sample to the push of its score.",
            "histogram_quantile(0.95, sum by (le) (increase(calltide_end_to_end_seconds_bucket[$__range])))",
            unit="s",
            at=DELAY,
            no_data="No score in this range",
        ),
        _figure(
            "Calls now",
            "Calls that the first stage has in memory, live and recorded ones.",
            'sum(calltide_calls{stage="vad"})',
            unit="short",
            at=c.NO_THRESHOLDS,
            no_data="No VAD stage answers",
        ),
        _figure(
            "Dead letters",
            "Records of the whole range that were set aside because they could not be processed.",
            "round(sum(increase(calltide_dead_letters_total[$__range])))",
            unit="short",
            at=NEVER,
            no_data="No stage answers",
        ),
        _figure(
            "Restarts",
            "Processes that were started again in the range, wherever they run.",
            f"sum(changes(process_start_time_seconds{OURS}[$__range]))",
            unit="short",
            at=NEVER,
            no_data=nothing,
        ),
    ]


def _lag_and_latency() -> list[Any]:
    behind = "Nothing told its lag in this range"
    return [
        _panel(
            "Lag by stage, live calls",
            "Seconds of audio between what a stage processes and now; 0 when it has read all there is.",
            _each("max", f"calltide_lag_seconds{LIVE}", "stage"),
            _query("max(calltide_sink_lag_seconds)", "sink"),
            unit="s",
            thresholds_at=LAG,
            no_data=behind,
        ),
        _panel(
            "Lag by stage, recorded calls",
            "The same in the batch lane, which waits for as long as live calls have work.",
            _each("max", 'calltide_lag_seconds{lane="batch"}', "stage"),
            unit="s",
            no_data=behind,
        ),
        _panel(
            "Records that wait",
            "Records in front of each stage, and of the sink, that are not read yet.",
            _each("sum", "calltide_lag_records", "stage", "lane"),
            _query("sum(calltide_sink_lag_records)", "sink"),
            unit="short",
            no_data=behind,
        ),
        _panel(
            "From the last word to the push of its score",
            "So soon after an utterance's last sample 50, 95 and 99 of a hundred scores are pushed.",
            *(_quantile(q, "calltide_end_to_end_seconds", legend=f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)),
            unit="s",
            thresholds_at=DELAY,
            no_data="No score was pushed in this range",
        ),
        _panel(
            "From the last word to each stage's output, p95",
            "Where the time goes: a stage adds what its line is above the line of the stage before it.",
            _quantile(0.95, "calltide_capture_to_output_seconds", "stage", where=LIVE),
            unit="s",
            thresholds_at=DELAY,
            no_data="No utterance in this range",
        ),
        _panel(
            "Less effort, and waiting",
            "Steps by which ASR hears with less effort because of lag; 1 while the batch lane waits for live calls.",
            _each("max", f"calltide_effort{LIVE}", "stage", legend="effort of {{stage}}"),
            _each("max", 'calltide_lane_paused{lane="batch"}', "stage", legend="batch lane waits in {{stage}}"),
            unit="short",
            thresholds_at=NEVER,
            no_data="No stage answers",
        ),
    ]


def _throughput() -> list[Any]:
    no_data = "No record in this range"
    return [
        _panel(
            "Records read",
            "Records a second, by stage.",
            _rate("calltide_records_total", "stage"),
            unit="cps",
            no_data=no_data,
        ),
        _panel(
            "Bytes read",
            "Bytes a second, by stage: audio up to the emotion stage, text after it.",
            _rate("calltide_bytes_total", "stage"),
            unit="Bps",
            no_data=no_data,
        ),
        _panel(
            "Utterances",
            "Utterances a second that each stage has finished.",
            _rate("calltide_capture_to_output_seconds_count", "stage"),
            unit="cps",
            no_data=no_data,
        ),
        _panel(
            "Records in a batch, p95",
            "What one call of a model gets at once; it grows with lag, up to the stage's limit.",
            _quantile(0.95, "calltide_batch_records", "stage"),
            unit="short",
            no_data=no_data,
        ),
        _panel(
            "Model time of a batch, p95",
            "Time in the processor, its models above all, for one batch.",
            _quantile(0.95, "calltide_process_seconds", "stage"),
            unit="s",
            no_data=no_data,
        ),
        _panel(
            "Share of the time in the models",
            "Of one worker's time, by stage; near 100 % the stage needs another worker.",
            _query(
                "sum by (stage) (rate(calltide_process_seconds_sum[$__rate_interval]))"
                f" / count by (stage) (calltide_process_seconds_count{LIVE})",
                "{{stage}}",
            ),
            unit="percentunit",
            thresholds_at=SHARE,
            no_data=no_data,
        ),
        _panel(
            "Calls in memory",
            "Calls of which a stage keeps state; where they differ, ends of calls have not come through.",
            _each("sum", "calltide_calls", "stage"),
            unit="short",
            no_data="No stage answers",
            width=12,
        ),
        _panel(
            "Size of the calls' snapshots",
            "Bytes that a stage writes to its changelog for the calls it has, and reads when it takes over.",
            _each("sum", "calltide_state_bytes", "stage"),
            unit="bytes",
            no_data="No stage answers",
            width=12,
        ),
    ]


def _errors() -> list[Any]:
    return [
        _panel(
            "Dead letters",
            "Records set aside because they could not be processed; calltide dead-letters list says why.",
            _new("calltide_dead_letters_total", "stage"),
            unit="short",
            thresholds_at=NEVER,
            no_data="No stage answers",
            width=6,
        ),
        _panel(
            "Transactions that failed, states restored",
            "A failed transaction is repeated from what was committed; nothing is lost, but it takes time.",
            _new("calltide_aborts_total", "stage", legend="aborted in {{stage}}"),
            _new("calltide_rejoins_total", "stage", legend="restored in {{stage}}"),
            unit="short",
            thresholds_at=NEVER,
            no_data="No stage answers",
            width=6,
        ),
        _panel(
            "Unreadable records",
            "Records of scores that are no event: something else writes to the topic. The log names each.",
            _new("calltide_sink_unreadable_total", legend="sink"),
            _new("calltide_gateway_unreadable_records_total", legend="gateway"),
            unit="short",
            thresholds_at=NEVER,
            no_data="Neither sink nor gateway answers",
            width=6,
        ),
        _panel(
            "Restarts",
            "Processes that were started again, by name.",
            _query(f"sum by (process) (changes(process_start_time_seconds{OURS}[$__rate_interval]))", "{{process}}"),
            unit="short",
            thresholds_at=NEVER,
            no_data="Prometheus scrapes nothing under the job calltide",
            width=6,
        ),
    ]


def _broker_and_sink() -> list[Any]:
    return [
        _panel(
            "Transaction, p95",
            "Time that the broker takes for one transaction of a stage: some milliseconds; it pays for every hop.",
            _quantile(0.95, "calltide_transaction_seconds", "stage"),
            unit="s",
            no_data="No transaction in this range",
            width=6,
        ),
        _panel(
            "Packets acknowledged, p95",
            "From the arrival of a packet's last sample to the broker's word that it has it.",
            _quantile(0.95, "calltide_ingest_acknowledged_seconds", legend="serve"),
            unit="s",
            no_data="No packet from a phone system in this range",
            width=6,
        ),
        _panel(
            "Broker up",
            "1 while the embedded broker answers; a cluster of your own has metrics of its own.",
            _query('max(calltide_process_ready{process="broker"})', "broker"),
            unit="short",
            thresholds_at=UP,
            no_data="No embedded broker, or calltide up does not answer",
            width=6,
        ),
        _panel(
            "Room on the disk",
            "Bytes left where the embedded broker, ClickHouse and the logs write.",
            _each("min", "calltide_home_free_bytes", legend="CALLTIDE_HOME"),
            unit="bytes",
            thresholds_at=ROOM,
            no_data="No calltide up answers",
            width=6,
        ),
        _panel(
            "Rows inserted",
            "Rows a second that the sink writes to ClickHouse, by table.",
            _rate("calltide_sink_rows_total", "table"),
            unit="cps",
            no_data="No sink answers",
        ),
        _panel(
            "Insert, p95",
            "Time of one insert of all tables.",
            _quantile(0.95, "calltide_sink_insert_seconds", legend="sink"),
            unit="s",
            no_data="No insert in this range",
        ),
        _panel(
            "Sink waits for ClickHouse",
            "1 while ClickHouse does not answer; scores stay in Kafka meanwhile.",
            _each("max", "calltide_sink_waiting", legend="sink"),
            unit="short",
            thresholds_at=NEVER,
            no_data="No sink answers",
        ),
    ]


def _ingestion() -> list[Any]:
    no_data = "No calltide serve answers"
    return [
        _panel(
            "Calls, by protocol",
            "Calls from phone systems that go on, those that wait for a broken connection included.",
            _each("sum", "calltide_ingest_calls", "protocol"),
            unit="short",
            no_data=no_data,
        ),
        _panel(
            "Audio, by protocol",
            "Seconds of audio a second, all channels: two for each call with two.",
            _rate("calltide_ingest_audio_seconds_total", "protocol"),
            unit="short",
            no_data=no_data,
        ),
        _panel(
            "Ends of calls, by reason",
            "How calls ended: a hang-up is normal, a time-out is a connection that never came back.",
            _new("calltide_ingest_calls_ended_total", "protocol", "reason"),
            unit="short",
            no_data="No call ended in this range",
        ),
        _panel(
            "Refused",
            "Connections that were not let in, by reason: full, unauthorized and so on.",
            _new("calltide_ingest_refused_total", "protocol", "why"),
            unit="short",
            thresholds_at=NEVER,
            no_data=no_data,
        ),
        _panel(
            "Disconnects",
            "Connections ended for what they sent or did not, by fault; and those that came back to their call.",
            _new("calltide_ingest_faults_total", "protocol", "fault"),
            _new("calltide_ingest_reconnects_total", "protocol", legend="{{protocol}}, came back"),
            unit="short",
            thresholds_at=NEVER,
            no_data=no_data,
        ),
        _panel(
            "Gaps",
            "Seconds of audio that were counted or awaited and never came, and that came twice or too late.",
            _new("calltide_ingest_gap_seconds_total", "protocol", legend="{{protocol}}, never came"),
            _new("calltide_ingest_late_seconds_total", "protocol", legend="{{protocol}}, too late"),
            unit="s",
            thresholds_at=NEVER,
            no_data=no_data,
        ),
        _panel(
            "Kafka too slow for it",
            "Packets dropped, and records that Kafka did not take in time.",
            _new("calltide_ingest_overflow_packets_total", "protocol", legend="{{protocol}}, dropped"),
            _new("calltide_ingest_undelivered_total", legend="not taken"),
            _each("sum", "calltide_ingest_waiting_calls", legend="calls that wait"),
            unit="short",
            thresholds_at=NEVER,
            no_data=no_data,
            width=12,
        ),
        _panel(
            "Results not delivered",
            "Connections that were too slow to be told all results, interim results skipped, recordings not kept.",
            _new("calltide_ingest_untold_total", "protocol", legend="{{protocol}}, too slow"),
            _new("calltide_ingest_interim_skipped_total", legend="interim skipped"),
            _new("calltide_ingest_unsaved_total", legend="recordings not kept"),
            unit="short",
            thresholds_at=NEVER,
            no_data=no_data,
            width=12,
        ),
    ]


def _interim_and_gateway() -> list[Any]:
    return [
        _panel(
            "Interim results",
            "Revisions of unfinished utterances a second, by what became of them.",
            _rate("calltide_interim_total", "stage", "what"),
            unit="cps",
            no_data="Interim results are switched off",
            width=6,
        ),
        _panel(
            "From the last sample to interim words",
            "So soon the words of an unfinished utterance are there, of 50 and of 95 in a hundred.",
            *(_quantile(q, "calltide_capture_to_interim_seconds", legend=f"p{q * 100:.0f}") for q in (0.5, 0.95)),
            unit="s",
            thresholds_at=DELAY,
            no_data="Nobody asked for interim results in this range",
            width=6,
        ),
        _panel(
            "Interim results that failed",
            "Finished work goes on; the log says why.",
            _new("calltide_interim_failures_total", "stage"),
            unit="short",
            thresholds_at=NEVER,
            no_data="Interim results are switched off",
            width=6,
        ),
        _panel(
            "Gateway: clients",
            "Websocket clients that are live.",
            _each("sum", "calltide_gateway_clients", legend="clients"),
            unit="short",
            no_data="No gateway answers",
            width=6,
        ),
        _panel(
            "Gateway: events pushed",
            "Events a second, each counted for every client that gets it.",
            _rate("calltide_gateway_events_pushed_total", legend="events"),
            unit="cps",
            no_data="No gateway answers",
            width=12,
        ),
        _panel(
            "Gateway: too slow",
            "Clients that were closed, and interim results that were left out, because somebody reads too slowly.",
            _new("calltide_gateway_slow_clients_total", legend="closed"),
            _new("calltide_gateway_missed_interim_total", legend="interim left out"),
            unit="short",
            thresholds_at=NEVER,
            no_data="No gateway answers",
            width=12,
        ),
    ]


def _processes() -> list[Any]:
    no_data = "Prometheus scrapes nothing under the job calltide"
    return [
        _panel(
            "Answers",
            "Whether each process answered Prometheus.",
            _query(f"min by (process) (up{OURS})", "{{process}}"),
            unit="short",
            thresholds_at=UP,
            no_data=no_data,
            kind=StateTimeline(),
            width=24,
        ),
        _panel(
            "Processor time",
            "Cores that each process keeps busy.",
            _rate(f"process_cpu_seconds_total{OURS}", "process"),
            unit="short",
            no_data=no_data,
        ),
        _panel(
            "Memory",
            "Resident memory of each process.",
            _each("sum", f"process_resident_memory_bytes{OURS}", "process"),
            unit="bytes",
            no_data=no_data,
        ),
        _panel(
            "Open files",
            "Share of the files and sockets that a process may have open; serve needs one for each call.",
            _query(
                f"max by (process) (process_open_fds{OURS} / process_max_fds{OURS})",
                "{{process}}",
            ),
            unit="percentunit",
            thresholds_at=SHARE,
            no_data=no_data,
        ),
    ]


def build() -> model.Dashboard:
    """The dashboard."""
    return c.board(
        "calltide-operations",
        "Operations",
        "Whether every process keeps up with the calls: lag, latency, throughput, errors, broker, sink, phone systems.",
        variables=[c.prometheus()],
        sections=[
            ("At a glance", _at_a_glance()),
            ("Lag and latency", _lag_and_latency()),
            ("Throughput and models", _throughput()),
            ("Errors", _errors()),
            ("Broker and sink", _broker_and_sink()),
            ("Phone systems", _ingestion()),
            ("Interim results and gateway", _interim_and_gateway()),
            ("Processes", _processes()),
        ],
        time_from="now-1h",
        refresh="10s",
    )
