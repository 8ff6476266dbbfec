"""Floor, live: what goes on at this moment, for who stands behind the agents."""

from grafana_foundation_sdk.models import dashboard as model

from dashboards import common as c
from dashboards.query import ClickHouse

NEXT = (c.SENTIMENT_BOARD, c.EMOTIONS)


def build() -> model.Dashboard:
    where = c.selection("tenant", "queue", "version")
    now = c.panel(
        c.figure(),
        "Calls now",
        "Calls that have begun and not ended.",
        ClickHouse(
            f"""SELECT count() AS calls FROM calls FINAL
WHERE {where} AND ended_at IS NULL AND started_at > now() - INTERVAL 4 HOUR"""
        ),
        unit="short",
        thresholds_at=c.NO_THRESHOLDS,
        no_data="No calls yet",
        links=NEXT,
        width=4,
        height=5,
    )
    return c.board(
        "calltide-floor",
        "Floor, live",
        "What goes on on the phones at this moment, and which calls need somebody.",
        variables=[c.datasource(), c.tenant(), c.queue(), c.role(), c.version()],
        sections=[("Now", [now])],
        time_from="now-30m",
        refresh="5s",
    )
