"""The month of traffic, for Grafana's queries."""

from tests.analytics.conftest import month  # noqa: F401 - the fixture
