"""Whatever is sent to any address of the OpenAPI document, the answer is one that the document names, and no 5xx."""

from collections.abc import Iterator

import hypothesis
import pytest
import schemathesis
from schemathesis import Case
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from streams.api.app import create_app
from streams.settings import Settings
from tests.api.conftest import client_of

pytestmark = pytest.mark.kafka

KEY = {"X-API-Key": "example-admin"}
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


# The document is the same without any connection.
schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", create_app(Settings()))


@pytest.fixture(scope="module")
def session(with_kafka: Settings) -> Iterator[asgi.ASGIClient]:
    """The application over the real ClickHouse and Kafka."""
    with asgi.get_client(create_app(with_kafka)) as client:
        yield client


@schema.parametrize()
@hypothesis.settings(
    max_examples=6, deadline=None, derandomize=True, suppress_health_check=[*hypothesis.HealthCheck], database=None
)
def test_every_answer_is_in_the_document(case: Case, session: asgi.ASGIClient) -> None:
    case.call_and_validate(session=session, headers=KEY, checks=CHECKS)


def test_the_document_has_examples(with_kafka: Settings) -> None:
    """For every parameter that must be given, and of every body."""
    document = create_app(with_kafka).openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                if parameter["required"] and parameter["in"] == "path":
                    assert parameter["schema"].get("examples") or parameter.get("example"), (path, method, parameter)
            assert operation.get("summary") and operation.get("description", "x"), (path, method)
            assert {"401", "422", "503"} <= set(operation["responses"]), (path, method)


def test_what_the_examples_ask_for_is_there(with_kafka: Settings) -> None:
    with client_of(with_kafka, "example-admin") as api:
        for path in ("", "/utterances", "/metrics", "/insights"):
            assert api.get(f"/api/v1/calls/billing-4711{path}").status_code == 200, path
