"""What all dashboards share: the selection, colours, thresholds, links, and panels that say what they show.

A changer must know how what a user selects gets into SQL. Grafana's own quoting (`:singlequote`, `:sqlstring`) escapes
quotes and not backslashes, which ClickHouse reads as escapes: a tenant called `x\\` would break the query, or worse. So
values come percent-encoded, in which neither quote nor backslash can occur, and ClickHouse decodes them: `chosen` for
one value, `selection` for those that may be several or All. Nothing else may put a variable into SQL.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import barchart, bargauge, gauge, piechart, stat, table, timeseries
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    CustomVariable,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    TextBoxVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    AxisPlacement,
    BarGaugeDisplayMode,
    BarGaugeValueMode,
    BigValueColorMode,
    BigValueGraphMode,
    DataSourceRef,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TableAutoCellOptions,
    TableBarGaugeCellOptions,
    TableCellBackgroundDisplayMode,
    TableColoredBackgroundCellOptions,
    TableColorTextCellOptions,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)

from dashboards.query import PLUGIN

TAG: Final = "calltide"
"""Every dashboard has it; the list at the top of each is the dashboards with it."""

NEGATIVE: Final = "#E02F44"
NEUTRAL: Final = "#8E8E8E"
POSITIVE: Final = "#56A64B"
WARNING: Final = "#FF9830"
PLAIN: Final = "#5794F2"
"""For figures that are neither good nor bad."""

SENTIMENT_COLOURS: Final = {"negative": NEGATIVE, "neutral": NEUTRAL, "positive": POSITIVE}
EMOTION_COLOURS: Final = {
    "neutral": NEUTRAL,
    "happiness": "#F2CC0C",
    "sadness": "#5794F2",
    "anger": NEGATIVE,
    "fear": "#B877D9",
    "surprise": WARNING,
}
ROLE_COLOURS: Final = {"customer": "#FF780A", "agent": "#3274D9", "unknown": NEUTRAL}
SEVERITY_COLOURS: Final = {"info": PLAIN, "warning": WARNING, "critical": NEGATIVE}

type_thresholds = Sequence[tuple[float | None, str]]
"""(from which value on, colour); the first value is None: from below."""

SENTIMENT: Final[type_thresholds] = [(None, NEGATIVE), (-0.2, NEUTRAL), (0.2, POSITIVE)]
"""Judgement: the same ±0.2 that makes a call negative or positive in `call_terms`."""

QUARTERS: Final[type_thresholds] = [(None, NEGATIVE), (-1, NEUTRAL), (1, POSITIVE)]
"""The same on the scale of −5 to 5."""

NO_THRESHOLDS: Final[type_thresholds] = [(None, PLAIN)]

NONE: Final = "(none)"
"""How calls without a queue or an agent are listed: Grafana cannot tell an empty value from no selection."""


# --- the selection in SQL ---------------------------------------------------------------------------------------------


def chosen(variable: str) -> str:
    """SQL: the text of a variable that has one value."""
    return f"decodeURLComponent('${{{variable}:percentencode}}')"


def number(variable: str) -> str:
    """SQL: the whole number in a text box; 0 for what is none."""
    return f"toUInt32OrZero({chosen(variable)})"


def among(variable: str, column: str) -> str:
    """SQL condition: the column's value is one of those selected; All is no condition, whatever exists by then."""
    value = "decodeURLComponent(arrayJoin(extractAll('${%s:customqueryparam}', '=([^&]*)')))" % variable  # noqa: UP031
    if variable in ("queue", "agent"):
        value = f"if(value = '{NONE}', '', value) FROM (SELECT {value} AS value)"
    return f"$__conditionalAll({column} IN (SELECT {value}), ${variable})"


def selection(*variables: str, table: str = "") -> str:
    """SQL condition of the variables `tenant`, `queue`, `agent`, `role` (each may be All) and `version`.

    The columns are called the same, but for `version`: pipeline_version. `table` is put before them.
    """
    prefix = f"{table}." if table else ""
    conditions = [
        f"{prefix}pipeline_version = {chosen('version')}" if name == "version" else among(name, prefix + name)
        for name in variables
    ]
    return " AND ".join(conditions)


def per_queue(table: str, time: str, where: str) -> str:
    """SQL: mean fused score by `time` and Queue, a column of a table of aggregates, as points of series.

    Queues of two tenants may be called the same: they are written `tenant / queue` as soon as there are several.
    """
    return f"""SELECT time, score,
    if(min(tenant) OVER () = max(tenant) OVER (), name, concat(tenant, ' / ', name)) AS Queue
FROM (
    SELECT $__timeInterval({time}) AS time, tenant, if(queue = '', '{NONE}', queue) AS name,
        sum(score_sum) / sum(score_n) AS score
    FROM {table}
    WHERE {where} AND $__timeFilter({time})
    GROUP BY time, tenant, name HAVING sum(score_n) > 0
)
ORDER BY time, Queue"""


# --- variables --------------------------------------------------------------------------------------------------------


def _source(kind: str, uid: str, name: str, label: str) -> DatasourceVariable:
    current = model.VariableOption(selected=True, text=label, value=uid)
    return DatasourceVariable(name).label("Data source").type(kind).current(current)


def datasource() -> DatasourceVariable:
    """Which ClickHouse."""
    return _source(PLUGIN, "calltide-clickhouse", "datasource", "Calltide")


def prometheus() -> DatasourceVariable:
    """Which Prometheus."""
    return _source("prometheus", "calltide-prometheus", "prometheus", "Prometheus")


def _listed(name: str, label: str, sql: str, description: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(DataSourceRef(type_val=PLUGIN, uid="${datasource}"))
        .query({"refId": name, "queryType": "sql", "rawSql": sql})
        .refresh(model.VariableRefresh.ON_DASHBOARD_LOAD)
        .sort(model.VariableSort.DISABLED)
    )


def _all(variable: QueryVariable | CustomVariable) -> Any:
    current = model.VariableOption(selected=True, text=["All"], value=["$__all"])
    return variable.multi(True).include_all(True).current(current)


def tenant() -> QueryVariable:
    sql = "SELECT DISTINCT tenant FROM utterance_hours ORDER BY tenant"
    return _all(_listed("tenant", "Tenant", sql, "Whose calls"))


def queue() -> QueryVariable:
    sql = f"""SELECT DISTINCT if(queue = '', '{NONE}', queue) AS name
FROM utterance_hours WHERE {selection("tenant")} ORDER BY name"""
    return _all(_listed("queue", "Queue", sql, "Which queues or campaigns"))


def agent() -> QueryVariable:
    sql = f"""SELECT DISTINCT if(agent = '', '{NONE}', agent) AS name
FROM utterance_hours WHERE {selection("tenant", "queue")} ORDER BY name"""
    return _all(_listed("agent", "Agent", sql, "Which agents"))


def role(*default: str) -> CustomVariable:
    """Which party; by default everybody but the agent, since a mixed recording may not tell who is the customer."""
    values = list(default or ("customer", "unknown"))
    return (
        CustomVariable("role")
        .label("Role")
        .description("Which party: the customer, the agent, or a voice of which it is not known")
        .values("customer,agent,unknown")
        .multi(True)
        .include_all(True)
        .current(model.VariableOption(selected=True, text=values, value=values))
    )


def version(
    name: str = "version", label: str = "Version", description: str = "Which pipeline heard it"
) -> QueryVariable:
    """One pipeline version; first the one that was promoted, then the one that heard most of the last week."""
    sql = """SELECT pipeline_version FROM utterance_hours GROUP BY pipeline_version
ORDER BY pipeline_version = (SELECT argMax(pipeline_version, promoted_at) FROM promotions) DESC,
    sumIf(utterances, hour > now() - INTERVAL 7 DAY) DESC, sum(utterances) DESC, pipeline_version"""
    return _listed(name, label, sql, description)


def minimum() -> TextBoxVariable:
    return text_box("minimum", "Minimum utterances", "Who has fewer is not shown in rankings", "20")


def text_box(name: str, label: str, description: str, default: str = "") -> TextBoxVariable:
    return (
        TextBoxVariable(name)
        .label(label)
        .description(description)
        .default_value(default)
        .current(model.VariableOption(selected=True, text=default, value=default))
    )


# --- links that carry the selection -----------------------------------------------------------------------------------

_CARRIED: Final = "${__url_time_range}&${__all_variables}"


def to(uid: str, title: str) -> DashboardLink:
    """To another dashboard, with all that is selected here: variables and time range."""
    return DashboardLink(title).type(model.DashboardLinkType.LINK).url(f"/d/{uid}?{_CARRIED}")


FLOOR: Final = ("calltide-floor", "Floor, live")
SENTIMENT_BOARD: Final = ("calltide-sentiment", "Sentiment over time")
CALL: Final = ("calltide-call", "One call")
EMOTIONS: Final = ("calltide-emotions", "Emotions")
WORDS: Final = ("calltide-words", "Words")
COACHING: Final = ("calltide-coaching", "Coaching")
MODELS: Final = ("calltide-models", "Models")
OPERATIONS: Final = ("calltide-operations", "Operations")


def row_link(uid: str, title: str, *kept: str, **fields: str) -> dict[str, str]:
    """A link of a table's cell: the time range, the variables `kept`, and `fields`: variable → column of the row."""
    parts = ["${__url_time_range}", "${datasource:queryparam}"]
    parts += [f"${{{name}:queryparam}}" for name in kept]
    parts += [f"var-{name}=${{__data.fields.{column}:percentencode}}" for name, column in fields.items()]
    return {"title": title, "url": f"/d/{uid}?{'&'.join(parts)}"}


CALL_COLUMNS: Final = """tenant, call_id,
    toString(toUnixTimestamp64Milli(started_at) - 10000) AS from_ms,
    toString(ifNull(toUnixTimestamp64Milli(ended_at), toUnixTimestamp64Milli(now64(3))) + 10000) AS to_ms"""
"""SQL of the columns that `call_link` needs, of a table with the call's `started_at` and `ended_at`."""


def call_link(version: str = "${version:queryparam}") -> dict[str, str]:
    """From a row with CALL_COLUMNS to that call, with the time range of the call."""
    return {
        "title": "Open this call",
        "url": "/d/calltide-call?${datasource:queryparam}&"
        + version
        + "&var-tenant=${__data.fields.tenant:percentencode}&var-call=${__data.fields.call_id:percentencode}"
        "&from=${__data.fields.from_ms}&to=${__data.fields.to_ms}",
    }


# --- panels -----------------------------------------------------------------------------------------------------------


def thresholds(steps: type_thresholds) -> ThresholdsConfig:
    return ThresholdsConfig().steps([model.Threshold(value=value, color=colour) for value, colour in steps])


def panel(
    kind: Any,
    title: str,
    description: str,
    *queries: Builder[Dataquery],
    unit: str,
    thresholds_at: type_thresholds,
    no_data: str,
    links: Sequence[tuple[str, str]],
    width: int,
    height: int = 8,
) -> Any:
    """`kind` (`lines()`, `rows()`, `figure()`, any builder of a panel) with all that a panel of ours must have.

    description: one line, what it shows and how to read it. unit: an id of Grafana's, such as `ms`, or `none`. no_data:
    what stands there when there is nothing. links: uid and title of the next dashboards, which get the selection.
    width: of 24. Returns the same builder.
    """
    if not (title and description and unit and thresholds_at and no_data and links and queries):
        raise ValueError(f"the panel {title!r} lacks something; give it all")
    targets: list[Any] = list(queries)
    for letter, query in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", targets, strict=False):
        query.ref_id(letter)
    return (
        kind.title(title)
        .description(description)
        .targets(targets)
        .datasource(targets[0].build().to_json()["datasource"])
        .unit(unit)
        .thresholds(thresholds(thresholds_at))
        .no_value(no_data)
        .links([to(*link) for link in links])
        .span(width)
        .height(height)
    )


def _legend(calcs: Sequence[str] = ()) -> VizLegendOptions:
    mode = LegendDisplayMode.TABLE if calcs else LegendDisplayMode.LIST
    return VizLegendOptions().show_legend(True).display_mode(mode).placement(LegendPlacement.BOTTOM).calcs(list(calcs))


def lines(*, low: float | None = None, high: float | None = None, calcs: Sequence[str] = ()) -> timeseries.Panel:
    """Series over time. low, high: the axis shows at least so much. calcs: columns of the legend, such as `mean`."""
    built = (
        timeseries.Panel()
        .draw_style(GraphDrawStyle.LINE)
        .line_width(2)
        .fill_opacity(0)
        .show_points(VisibilityMode.AUTO)
        .span_nulls(False)
        .legend(_legend(calcs))
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .thresholds_style(GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.OFF))
    )
    if low is not None:
        built = built.axis_soft_min(low)
    if high is not None:
        built = built.axis_soft_max(high)
    return built


def sentiment_lines(calcs: Sequence[str] = ("mean",)) -> timeseries.Panel:
    """Scores of −1 to 1 over time, with zero in the middle and the thresholds as dashed lines."""
    style = GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
    return lines(low=-1, high=1, calcs=calcs).axis_centered_zero(True).decimals(2).thresholds_style(style)


def stacked(*, share: bool = False) -> timeseries.Panel:
    """Counts over time on top of each other; `share`: as parts of the whole."""
    mode = StackingMode.PERCENT if share else StackingMode.NORMAL
    return (
        lines(low=0)
        .draw_style(GraphDrawStyle.BARS)
        .line_width(0)
        .fill_opacity(80)
        .show_points(VisibilityMode.NEVER)
        .stacking(StackingConfig().mode(mode))
    )


def rows() -> table.Panel:
    """A table."""
    return table.Panel().show_header(True)


def figure(*, sparkline: bool = False) -> stat.Panel:
    """Big numbers: the last value of each column."""
    return (
        stat.Panel()
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA if sparkline else BigValueGraphMode.NONE)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )


def dial(low: float, high: float) -> gauge.Panel:
    """One number between two ends."""
    return (
        gauge.Panel()
        .min(low)
        .max(high)
        .show_threshold_markers(True)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )


def columns(x: str, *, share: bool = False, beside: bool = False, horizontal: bool = False) -> barchart.Panel:
    """Bars over a column of names. Several number columns stand on each other, as `share` of the whole, or `beside`."""
    mode = StackingMode.NONE if beside else StackingMode.PERCENT if share else StackingMode.NORMAL
    return (
        barchart.Panel()
        .x_field(x)
        .orientation(VizOrientation.HORIZONTAL if horizontal else VizOrientation.VERTICAL)
        .stacking(mode)
        .show_value(VisibilityMode.NEVER)
        .fill_opacity(80)
        .line_width(0)
        .group_width(0.8)
        .bar_width(0.9)
        .legend(_legend())
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.NONE))
        .axis_placement(AxisPlacement.AUTO)
    )


def bars(*, by_row: bool = True) -> bargauge.Panel:
    """One bar a row (its first text column is the name), or one a column."""
    return (
        bargauge.Panel()
        .display_mode(BarGaugeDisplayMode.GRADIENT)
        .orientation(VizOrientation.HORIZONTAL)
        .value_mode(BarGaugeValueMode.TEXT)
        .show_unfilled(True)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(by_row))
    )


def pie() -> piechart.Panel:
    """Parts of a whole, one a row."""
    return piechart.Panel().reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(True))


def coloured(built: Any, colours: dict[str, str]) -> Any:
    """Fixed colours for the series or columns of these names."""
    for name, colour in colours.items():
        fixed = model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})
        built = built.override_by_name(name, [fixed])
    return built


def column(
    built: Any,
    name: str,
    *,
    title: str | None = None,
    unit: str | None = None,
    decimals: int | None = None,
    width: int | None = None,
    steps: type_thresholds | None = None,
    cell: str | None = None,
    low: float | None = None,
    high: float | None = None,
    mapping: dict[str, str] | None = None,
    links: Iterable[dict[str, str]] = (),
    wrap: bool = False,
    hidden: bool = False,
    pattern: bool = False,
) -> Any:
    """How a table or a panel of figures shows one column.

    pattern: all columns whose whole name matches the regular expression. steps: thresholds of its own. cell:
    `text` or `background` coloured by them, or `gauge` (from low to high). mapping: value → colour. wrap: long text in
    several lines. hidden: there for links only.
    """
    properties: dict[str, object] = {}
    if title is not None:
        properties["displayName"] = title
    if unit is not None:
        properties["unit"] = unit
    if decimals is not None:
        properties["decimals"] = decimals
    if width is not None:
        properties["custom.width"] = width
    if low is not None:
        properties["min"] = low
    if high is not None:
        properties["max"] = high
    if steps is not None:
        properties["thresholds"] = thresholds(steps).mode(model.ThresholdsMode.ABSOLUTE).build()
        properties["color"] = {"mode": "thresholds"}
    if mapping is not None:
        options = {value: model.ValueMappingResult(color=colour, text=value) for value, colour in mapping.items()}
        properties["mappings"] = [model.ValueMap(options=options)]
    if cell is not None:
        properties["custom.cellOptions"] = {
            "text": TableColorTextCellOptions(),
            "background": TableColoredBackgroundCellOptions(mode=TableCellBackgroundDisplayMode.BASIC),
            "gauge": TableBarGaugeCellOptions(
                mode=BarGaugeDisplayMode.BASIC, value_display_mode=BarGaugeValueMode.TEXT
            ),
        }[cell]
    if wrap:
        properties["custom.cellOptions"] = TableAutoCellOptions(wrap_text=True)
    if link_list := list(links):
        properties["links"] = link_list
    if hidden:
        properties["custom.hidden"] = True  # Grafana before 12.2
        properties["custom.hideFrom.viz"] = True
    values = [model.DynamicConfigValue(id_val=id_val, value=value) for id_val, value in properties.items()]
    return built.override_by_regexp(name, values) if pattern else built.override_by_name(name, values)


def call_row(built: Any, version: str = "${version:queryparam}") -> Any:
    """A table of calls: the call's id opens it, and the columns that only the link needs are hidden."""
    built = column(built, "call_id", title="Call", width=230, links=[call_link(version)])
    for name in ("from_ms", "to_ms"):
        built = column(built, name, hidden=True)
    return column(built, "tenant", title="Tenant", width=110)


def alert_table() -> Any:
    """A table of alerts: At, Severity, Rule, Why, and the call."""
    built = call_row(rows())
    built = column(built, "At", unit="dateTimeAsLocal", width=170)
    built = column(built, "Severity", cell="background", mapping=SEVERITY_COLOURS, width=100)
    return column(built, "Rule", width=190)


def board(
    uid: str,
    title: str,
    description: str,
    *,
    variables: Sequence[Builder[model.VariableModel]],
    sections: Sequence[tuple[str, Sequence[Any]]],
    time_from: str,
    refresh: str = "",
) -> model.Dashboard:
    """A dashboard: rows of panels, each with its title. refresh: such as 5s; empty: only when asked."""
    built = (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .time(time_from, "now")
        .refresh(refresh)
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables(list(variables))
        .annotations([])
        .link(
            DashboardLink("Calltide")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    for name, panels in sections:
        built = built.with_row(Row(name))
        for each in panels:
            built = built.with_panel(each)
    made = built.build()
    for number_, each in enumerate(made.panels or [], start=1):
        each.id_val = number_
    return made
