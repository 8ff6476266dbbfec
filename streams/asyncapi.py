"""What the websocket gateway sends and takes, as an AsyncAPI document: `/v1/asyncapi.json` of the gateway, and
clients/asyncapi.json, from which the clients' types are made (`python -m streams.asyncapi` writes both).

A changer must know: the messages themselves are written by hand (streams/subscriptions.py, streams/gateway.py);
tests/kafka/test_gateway_access.py holds what a real gateway sends to this document, with no field more or less.
"""

import json
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from schemas.events import EVENTS, Milliseconds, Severity, UtcTime
from schemas.replayed import ReplayState
from streams.subscriptions import FIELDS, FILTERS, KINDS, MOST_VALUES, SEVERITIES

VERSION: Final = "3.0.0"
"""Of AsyncAPI."""
WRITTEN: Final = Path(__file__).parents[1] / "clients" / "asyncapi.json"

Cursor = Annotated[str, Field(description="where to go on: send it back as `from`, as it was received")]
Kind = Literal[KINDS]  # type: ignore[valid-type]
Kafka = Literal["ok", "unreachable"]
PushedAt = Annotated[UtcTime, Field(description="when the gateway sent it")]


class Wanted(TypedDict):
    """The fields that restrict a subscription."""

    call: NotRequired[list[str]]
    queue: NotRequired[list[str]]
    agent: NotRequired[list[str]]
    tenant: NotRequired[list[str]]
    severity: NotRequired[list[Severity]]
    replay: NotRequired[list[str]]
    kinds: list[Kind]


class You(TypedDict):
    """Who the gateway takes you for."""

    tenant: Annotated[str | None, Field(description="null: all tenants")]
    role: Literal["viewer", "supervisor", "admin"]
    name: str


class Hello(TypedDict):
    """The first message."""

    type: Literal["hello"]
    cursor: NotRequired[Annotated[str, Field(description="absent while history is still to come, and in a replay")]]
    protocol: int
    calltide: str
    pipeline: str
    topic: str
    partitions: int
    kafka: Kafka
    queue: Annotated[int, Field(description="messages that may wait for you")]
    slow_clients: Literal["close", "conflate"]
    you: You
    subscription: Wanted


class Subscribed(TypedDict):
    """The subscription is another one from here on."""

    type: Literal["subscribed"]
    cursor: NotRequired[Cursor]
    subscription: Wanted


class Position(TypedDict):
    """Where you are: when all history has been sent, and whenever nothing was pushed for 15 s."""

    type: Literal["position"]
    cursor: NotRequired[Cursor]


class Status(TypedDict):
    """Kafka became unreachable, or answers again."""

    type: Literal["status"]
    cursor: NotRequired[Cursor]
    kafka: Kafka
    message: str


class Gap(TypedDict):
    """What the cursor asked for is no longer there; what follows is."""

    type: Literal["gap"]
    cursor: Cursor
    partition: int
    from_offset: int
    to_offset: Annotated[int, Field(description="not included")]
    message: str


class ErrorMessage(TypedDict):
    """Why the connection is closed next."""

    type: Literal["error"]
    error: Annotated[str, Field(description="which sort, for programs: invalid, unauthorized, token_expired…")]
    message: Annotated[str, Field(description="what and what to do, for people")]


class ReplayPosition(TypedDict):
    """Where a replay is."""

    type: Literal["replay_position"]
    pushed_at: PushedAt
    replay: str
    begun_at: UtcTime
    state: ReplayState
    position_ms: Milliseconds
    of_ms: Milliseconds
    speed: Annotated[float, Field(description="times real time")]
    reset: Annotated[bool, Field(description="forget all of this replay: what follows tells it anew")]


OWN: Final = (Hello, Subscribed, Position, Status, Gap, ErrorMessage, ReplayPosition)


def _event_message(kind: str) -> Any:
    """The message that carries an event of this kind."""
    made = TypedDict(  # type: ignore[misc]  # noqa: UP013
        f"{EVENTS[kind].__name__}Message",
        {
            "type": Literal[kind],
            "cursor": NotRequired[Cursor],
            "replay": NotRequired[Annotated[str, Field(description="of which replay, in place of a cursor")]],
            "pushed_at": PushedAt,
            "history": NotRequired[Annotated[Literal[True], Field(description="read back, not live")]],
            "skipped": NotRequired[Annotated[int, Field(description="events before it that were left out: too slow")]],
            "event": EVENTS[kind],
        },
    )
    made.__doc__ = EVENTS[kind].__doc__
    return made


def _subscription() -> dict[str, Any]:
    """What a client sends: the first message where there is no query, and any message later."""
    said = {
        "call": "calls by their ids", "queue": "calls of queues; an empty one: calls without", "agent": "of agents",
        "tenant": "of tenants; a key of one tenant sees that one alone", "kinds": "kinds of events",
        "severity": "alerts as severe as one of these", "from": "a cursor: all since then (at the beginning alone)",
        "history": "first the events of the calls running now", "replay": "a replay, or * (at the beginning alone)",
    }  # fmt: skip
    items: dict[str, dict[str, Any]] = {name: {"type": "string"} for name in FIELDS}
    items["kinds"] = {"type": "string", "enum": list(KINDS)}
    items["severity"] = {"type": "string", "enum": list(SEVERITIES)}
    items["history"] = {"const": "live"}
    fields = {
        name: {"description": said[name], "anyOf": [one, {"type": "array", "items": one, "maxItems": MOST_VALUES}]}
        for name, one in items.items()
    }
    key = {"type": "string", "description": "an API key or a token, for who could not send it in a header"}
    return {
        "title": "Subscription",
        "description": f"Which events are wanted; {', '.join(FILTERS)}: any of the values, all of the fields.",
        "type": "object",
        "properties": fields | {"key": key},
        "additionalProperties": False,
    }


@cache
def _schemas() -> tuple[dict[str, Any], tuple[str, ...]]:
    """All schemas by name, and which of them are messages of the gateway."""
    messages = [*OWN, *map(_event_message, KINDS)]
    inputs = [(model.__name__, "serialization", TypeAdapter(model)) for model in messages]
    _, made = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    found: dict[str, Any] = made["$defs"]
    names = tuple(model.__name__ for model in messages)
    for name, schema in found.items():
        if name not in (*names, "Wanted") and "properties" in schema:
            # A default is for readers of what was written before there was the field: it is always written.
            schema["required"] = list(schema["properties"])
    return found, names


def document(host: str, path: str) -> dict[str, Any]:
    """The AsyncAPI document of the gateway at `host` (host:port), whose messages are at `path`."""
    schemas, names = _schemas()
    message = {
        name: {"payload": {"$ref": f"#/components/schemas/{name}"}, "contentType": "application/json"}
        for name in (*names, "Subscription")
    }
    channel = "#/channels/scores"
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "Calltide's gateway",
            "version": version("calltide"),
            "description": "What is said in calls, as it is scored. Ignore types and fields that you do not know.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": host or "127.0.0.1:8765",
                "protocol": "ws",
                "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("key", "bearer")],
            }
        },
        "channels": {
            "scores": {
                "address": path,
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in message},
                "bindings": {"ws": {"query": {"type": "object", "properties": _subscription()["properties"]}}},
            }
        },
        "operations": {
            "push": {
                "action": "send",
                "channel": {"$ref": channel},
                "messages": [{"$ref": f"{channel}/messages/{name}"} for name in names],
            },
            "subscribe": {
                "action": "receive",
                "channel": {"$ref": channel},
                "messages": [{"$ref": f"{channel}/messages/Subscription"}],
            },
        },
        "components": {
            "messages": message,
            "schemas": schemas | {"Subscription": _subscription()},
            "securitySchemes": {
                "key": {"type": "httpApiKey", "name": "X-API-Key", "in": "header"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def main() -> None:
    """Write the document and the types of the clients anew."""
    WRITTEN.write_text(json.dumps(document("", "/v1/scores"), indent=1, ensure_ascii=False) + "\n")
    subprocess.run([sys.executable, WRITTEN.with_name("generate.py")], check=True)


if __name__ == "__main__":
    main()
