"""A month of generated calls in a real embedded ClickHouse, loaded once a session, for whatever queries it.

Tests only read it: what a test writes, all others would see.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from clickhouse_connect.driver.client import Client

from deploy.clickhouse import ClickHouse
from streams.analytics.generate import generate
from streams.analytics.traffic import SOUR_HOURS, Traffic, sour_from
from streams.settings import Settings
from streams.sink import connect

UNTIL = datetime(2026, 11, 18, 15, 20, tzinfo=UTC)
"""A Wednesday afternoon."""


def settings_for(url: str, database: str) -> Settings:
    """Settings with this ClickHouse and this database."""
    base = Settings()
    return base.model_copy(update={"clickhouse": base.clickhouse.model_copy(update={"url": url, "database": database})})


@dataclass(frozen=True, slots=True)
class Month:
    """A database with a month of calls, and what is known of them."""

    client: Client
    settings: Settings
    url: str
    """`http://host:port` of its ClickHouse."""
    traffic: Traffic
    rows: dict[str, int]
    """Inserted, by table."""

    @property
    def since(self) -> datetime:
        """The first call starts after it."""
        return self.traffic.since

    @property
    def until(self) -> datetime:
        """The moment at which the month was loaded, as far as its calls know."""
        return self.traffic.until

    @property
    def sour_from(self) -> datetime:
        """When the queue SOUR_QUEUE of SOUR_TENANT turns sour."""
        return sour_from(self.traffic.until)

    @property
    def sour_to(self) -> datetime:
        """When it is over."""
        return self.sour_from + timedelta(hours=SOUR_HOURS)


@pytest.fixture(scope="session")
def month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Month]:
    """Thirty days before UNTIL: more than 5,000 calls and 500,000 utterances of v1, a tenth of them of v2 again."""
    traffic = Traffic(until=UNTIL, days=30, calls=5_200, seed=7)
    with ClickHouse(tmp_path_factory.mktemp("month"), port=0) as running:
        settings = settings_for(running.url, "month")
        rows = generate(settings, traffic)
        with connect(settings) as client:
            yield Month(client, settings, running.url, traffic, dict(rows))
