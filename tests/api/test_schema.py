"""Whatever is sent to any address of the OpenAPI document, the answer is one that the document names, and no 5xx."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.python import asgi
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from streams.api.app import create_app
from streams.settings import Settings

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
OPERATIONS = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]


@pytest.fixture(scope="module")
def session(with_kafka: Settings) -> Iterator[asgi.ASGIClient]:
    """The application over the real ClickHouse and Kafka."""
    with asgi.get_client(create_app(with_kafka)) as client:  # type: ignore[arg-type]
        yield client


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_answer_is_in_the_document(operation: APIOperation, session: asgi.ASGIClient) -> None:
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis.settings(
            max_examples=6, derandomize=True, database=None, suppress_health_check=[*hypothesis.HealthCheck]
        )
        def check(case: Case) -> None:
            case.call_and_validate(session=session, headers=KEY, checks=CHECKS)

        try:
            check()
        except hypothesis.errors.Unsatisfiable:
            assert mode == GenerationMode.NEGATIVE  # nothing of it can be wrong


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/calls", {}),
        ("/calls/{call_id}", {}),
        ("/calls/{call_id}/utterances", {"limit": 1}),
        ("/calls/{call_id}/metrics", {}),
        ("/calls/{call_id}/insights", {}),
        ("/calls/{call_id}/evaluations", {}),
        ("/search", {"q": "charged"}),
        ("/statistics", {"from": "2026-11-01T00:00:00Z"}),
        ("/status", {}),
        ("/audit", {}),
    ],
)
def test_what_the_examples_ask_for_is_there_and_as_described(
    path: str, more: dict[str, Any], session: asgi.ASGIClient
) -> None:
    named = {"call_id": "billing-4711"} if "{" in path else {}
    case = schema[f"/api/v1{path}"]["GET"].Case(path_parameters=named, query=more)
    assert case.call_and_validate(session=session, headers=KEY, checks=CHECKS).status_code == 200


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
