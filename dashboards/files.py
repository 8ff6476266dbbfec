"""The committed dashboards, and the queries in them. Needs nothing but the JSON in json/.

A changer must know: this is what `calltide dashboards` reads at run time, on machines without grafana-foundation-sdk.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

JSON: Final = Path(__file__).with_name("json")
"""The folder that Grafana's file provisioning reads: dashboards only, one a file."""

ALERTS: Final = Path(__file__).with_name("alerts.json")
"""Not in JSON: Grafana would take it for a dashboard."""


def committed() -> dict[str, dict[str, Any]]:
    """The dashboards by the name of their file, without `.json`."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(JSON.glob("*.json"))}


@dataclass(frozen=True)
class Query:
    """One query of a dashboard, with Grafana's and the plugin's macros still in it."""

    dashboard: str
    """uid"""
    panel: str
    """The panel's title; of a variable its name."""
    ref_id: str
    kind: Literal["panel", "variable"]
    source: str
    """Type of its data source: `grafana-clickhouse-datasource` or `prometheus`."""
    text: str
    """SQL or PromQL"""
    format: str
    """`timeseries`: a column `time`, ascending; text columns name the series. Empty for PromQL."""
    interval: str
    """The smallest `$__interval` that the panel allows, such as 1m; empty: none said."""

    @property
    def uses_range(self) -> bool:
        """Whether the answer depends on the dashboard's time range."""
        return any(macro in self.text for macro in ("$__timeFilter", "$__fromTime", "$__toTime", "$__timeInterval"))

    @property
    def id(self) -> str:
        """Names it in a test's output: `calltide-floor/Calls now/A`."""
        return f"{self.dashboard}/{self.panel}/{self.ref_id}"


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel but rows, those inside collapsed rows too."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels") or []
        else:
            yield panel


def queries(dashboards: Iterable[dict[str, Any]] | None = None) -> Iterator[Query]:
    """Every query of these dashboards, by default of all that are committed."""
    for dashboard in committed().values() if dashboards is None else dashboards:
        uid = dashboard["uid"]
        for panel in panels(dashboard):
            for target in panel.get("targets") or []:
                source = target["datasource"]["type"]
                text, form = (target["rawSql"], target["queryType"]) if "rawSql" in target else (target["expr"], "")
                interval = panel.get("interval") or ""
                yield Query(uid, panel["title"], target["refId"], "panel", source, text, form, interval)
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                query = variable["query"]
                text, ref_id = (query["rawSql"], query["refId"]) if "rawSql" in query else (query["query"], "A")
                form = "table" if "rawSql" in query else ""
                source = variable["datasource"]["type"]
                yield Query(uid, variable["name"], ref_id, "variable", source, text, form, "")
