"""What tests of the schema share: an empty database each."""

import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    """A client of an empty database of the test's own."""
    parts = urlsplit(clickhouse_url)
    name = f"c{uuid.uuid4().hex}"
    with clickhouse_connect.get_client(host=parts.hostname, port=parts.port, username=parts.username) as admin:
        admin.command(f"CREATE DATABASE {name}")
    with clickhouse_connect.get_client(
        host=parts.hostname,
        port=parts.port,
        username=parts.username,
        database=name,
        compress=False,
        autogenerate_session_id=False,
    ) as client:
        yield client
