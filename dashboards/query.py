"""A query of Grafana's ClickHouse plugin, for which grafana-foundation-sdk has no builder.

The fields are those of the plugin's `CHSqlQuery` (grafana/clickhouse-datasource, src/types/sql.ts, version 4.20.0).
A changer must know: `format` decides what Grafana gets. A time series needs a column `time`, rows in order of time,
any number of text columns (each combination of their values is a series) and number columns; the plugin turns that
into one frame a series and leaves out what is NULL. A table is passed on as it is.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import DataSourceRef

PLUGIN: Final = "grafana-clickhouse-datasource"
PLUGIN_VERSION: Final = "4.20.0"
"""The version whose model this is: the plugin migrates queries that were saved by an older one."""


class Format(IntEnum):
    """What the plugin makes of the rows, as numbered by its backend (grafana/sqlds)."""

    TIMESERIES = 0
    TABLE = 1


@dataclass
class ClickHouseQuery(Dataquery):
    """The JSON model: what stands in a panel's `targets`."""

    sql: str
    format: Format
    source: DataSourceRef
    ref_id: str = "A"

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref_id,
            "datasource": self.source,
            "editorType": "sql",
            "queryType": self.format.name.lower(),
            "format": int(self.format),
            "rawSql": self.sql,
            "pluginVersion": PLUGIN_VERSION,
            "meta": {},
        }


class ClickHouse(Builder[ClickHouseQuery]):
    """`ClickHouse(sql)`: a table of the data source that the dashboard's variable `datasource` names."""

    def __init__(self, sql: str) -> None:
        source = DataSourceRef(type_val=PLUGIN, uid="${datasource}")
        self._internal = ClickHouseQuery(sql.strip(), Format.TABLE, source)

    def build(self) -> ClickHouseQuery:
        return self._internal

    def timeseries(self) -> Self:
        """Rows are points of series."""
        self._internal.format = Format.TIMESERIES
        return self

    def source(self, uid: str) -> Self:
        """Ask this data source, whatever is selected: alert rules have no variables."""
        self._internal.source = DataSourceRef(type_val=PLUGIN, uid=uid)
        return self

    def ref_id(self, ref_id: str) -> Self:
        """The query's letter in its panel: A if there is no other."""
        self._internal.ref_id = ref_id
        return self
