"""What tests of the API share: a database with a few calls of several tenants, and the application over it.

Tests only read these calls: what a test writes goes into calls of its own.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from deploy.topics import Topics
from schemas.events import (
    Alert,
    CallEnded,
    CallEvent,
    CallInfo,
    CallMetrics,
    CallStarted,
    Categorised,
    Evaluation,
    EvaluationItem,
    EvaluationSection,
    Evidence,
    Insights,
    Score,
    Statement,
)
from streams import rows as made
from streams.api.app import create_app
from streams.settings import ApiKey, Settings
from streams.sink import connect, migrate
from tests.scripted import call, ended, metrics, score, started

HOSTILE = "o'neill \"&\" \\'); DROP TABLE calls; --\n%(tenant)s {tenant:String}"
"""Name of a tenant, and of a call."""
KEYS = {
    "viewer": ApiKey(sha256=hashlib.sha256(b"acme-viewer").hexdigest(), tenant="acme", role="viewer"),
    "boss": ApiKey(sha256=hashlib.sha256(b"acme-boss").hexdigest(), tenant="acme", role="supervisor"),
    "listener": ApiKey(sha256=hashlib.sha256(b"heard-boss").hexdigest(), tenant="heard", role="supervisor"),
    "feeder": ApiKey(sha256=hashlib.sha256(b"acme-ingest").hexdigest(), tenant="acme", role="ingest"),
    "beta": ApiKey(sha256=hashlib.sha256(b"beta-admin").hexdigest(), tenant="beta", role="admin"),
    "hostile": ApiKey(sha256=hashlib.sha256(b"hostile-admin").hexdigest(), tenant=HOSTILE, role="admin"),
    # Tenants of tests that write.
    **{
        tenant: ApiKey(sha256=hashlib.sha256(f"{tenant}-admin".encode()).hexdigest(), tenant=tenant, role="admin")
        for tenant in ("moving", "promoted", "parties", "warned", "kept", "example")
    },
    "operator": ApiKey(sha256=hashlib.sha256(b"operator").hexdigest(), role="admin"),
}
"""By name; the key is TENANT-ROLE, and the operator's `operator`."""
BEGUN = datetime(2026, 11, 20, 9, tzinfo=UTC)


def with_section(settings: Settings, name: str, **values: Any) -> Settings:
    """The settings with other values in one section."""
    return settings.model_copy(update={name: getattr(settings, name).model_copy(update=values)})


def fill(settings: Settings, *events: CallEvent, version: str = "v1") -> None:
    """Events into ClickHouse as the sink writes them: ends of calls after what was said in them."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for offset, event in enumerate(events):
        place = ("scores", 0, offset)
        match event:
            case Score():
                tables.setdefault("utterances_heard", []).append(made.utterance_row(event, *place))
            case CallStarted() | CallEnded():
                row = made.call_row(event, version) | {"languages": ["en"] if isinstance(event, CallEnded) else []}
                tables.setdefault("calls", []).append(row)
            case CallMetrics():
                tables.setdefault("call_progress", []).extend(made.progress_rows(event, place))
            case Alert():
                tables.setdefault("alerts", []).append(made.alert_row(event, place))
            case Categorised():
                tables.setdefault("call_categories", []).append(made.category_row(event, place))
            case Insights():
                tables.setdefault("insights", []).append(made.insights_row(event, place))
            case Evaluation():
                tables.setdefault("evaluations", []).append(made.evaluation_row(event, place))
    with connect(settings) as client:
        for table in sorted(tables, key="calls".__eq__):
            block = "\n".join(json.dumps(row, ensure_ascii=False) for row in tables[table])
            client.raw_insert(table, insert_block=block, fmt="JSONEachRow")


def evidence(one: Score) -> Evidence:
    """An utterance as what something rests on."""
    return Evidence(
        identity=one.identity, channel=one.channel, start_ms=one.start_ms, end_ms=one.end_ms, speaker=one.speaker,
        role=one.role, text=one.text,
    )  # fmt: skip


def told(of: CallInfo, *polarities: float, text: str = "it was charged twice") -> list[Score]:
    """What was said: the agent first, then in turn."""
    return [
        score(
            of, 5_000 * at, f"{text} {at}", role="customer" if at % 2 else "agent", polarity=polarity, emotion="anger"
        )
        for at, polarity in enumerate(polarities)
    ]


def found(of: CallInfo, scores: Sequence[Score]) -> list[CallEvent]:
    """An alert, a category, insights and a score card that rest on the last of the scores."""
    rests_on = evidence(scores[-1])
    items = (
        EvaluationItem(name="greets", points=1, earned=1, why=f"“{rests_on.text}”", evidence=(rests_on,)),
        EvaluationItem(name="takes leave", points=1, earned=0, why="it was not said"),
        EvaluationItem(name="meets <anger>", points=2, earned=None, why="does not apply"),
    )
    common = {
        "call": of, "rule": "angry", "category": "complaint", "at_ms": rests_on.end_ms, "rules_version": "r1",
        "raised_at": scores[-1].captured_at, "evidence": (rests_on,), "pipeline_version": "v1",
    }  # fmt: skip
    return [
        Alert.model_validate(common | {"severity": "critical", "message": "the customer is angry"}),
        Categorised.model_validate(common),
        Insights(
            call=of, engine="extractive", state="ok", ended_at=ended(of).ended_at, duration_ms=60_000, language="en",
            business="b2c", utterances=len(scores), pipeline_version="v1",
            summary=(Statement(text=rests_on.text, evidence=(rests_on,)),),
        ),
        Evaluation(
            call=of, ended_at=ended(of).ended_at, duration_ms=60_000, language="en", form="service", form_version="f1",
            state="ok", score=50, judged=1, pipeline_version="v1",
            sections=(EvaluationSection(name="greeting", weight=1, score=50, items=items),),
        ),
    ]  # fmt: skip


def database(url: str) -> Settings:
    """Settings with a fresh database of this ClickHouse, keys, and no Kafka."""
    base = Settings()
    base = with_section(base, "clickhouse", url=url, database=f"a{uuid.uuid4().hex[:8]}")
    base = with_section(base, "kafka", bootstrap_servers="127.0.0.1:9", client={"log_level": "0"})
    base = with_section(base, "api", keys=KEYS)
    migrate(base)
    return base


@pytest.fixture(scope="session")
def api_settings(clickhouse_url: str) -> Settings:
    """A database of acme (25 calls of two queues, one live, one that v2 heard, too), beta and HOSTILE."""
    settings = database(clickhouse_url)
    events: list[CallEvent] = []
    for number in range(24):
        of = call(
            f"acme-{number:02}", BEGUN + timedelta(minutes=number // 2), tenant="acme",
            queue="billing" if number % 2 else "sales", agent=f"agent-{number % 3}", metadata={"crm": str(number)},
        )  # fmt: skip
        said = told(of, 0.2, -0.5 if number % 2 else 0.4, 0.0)
        events += [started(of), *said, *(found(of, said) if number % 4 == 1 else ()), ended(of)]
    live = call("acme-live", BEGUN + timedelta(hours=1), tenant="acme", queue="billing", agent="agent-0")
    events += [started(live), *told(live, -0.4, -0.6), metrics(live, 9_000, silence_now_ms=1_000)]
    for tenant in ("acme", "beta", HOSTILE):
        of = call("shared", BEGUN - timedelta(days=1), tenant=tenant, queue=tenant)
        events += [started(of), *told(of, 0.1, text=f"only {tenant} knows"), ended(of)]
    odd = call(HOSTILE, BEGUN - timedelta(days=2), tenant="acme", queue=HOSTILE, agent="a/b")
    slash = call("dir/sub call.wav", BEGUN - timedelta(days=3), tenant="acme")
    for of in (odd, slash):
        events += [started(of), *told(of, 0.3), ended(of)]
    # The call of the examples in the OpenAPI document.
    example = call("billing-4711", BEGUN, tenant="example", queue="billing", agent="diane")
    said = [score(example, 5_900, "charged twice", polarity=-0.55, emotion="anger")]
    events += [started(example), *said, metrics(example, 60_000, final=True), *found(example, said), ended(example)]
    fill(settings, *events)
    again = call("acme-00", BEGUN, tenant="acme", queue="sales", agent="agent-0")
    heard = [one.model_copy(update={"pipeline_version": "v2"}) for one in told(again, 0.9, 0.9)]
    fill(settings, started(again), *heard, ended(again), version="v2")
    return settings


def client_of(settings: Settings, key: str = "", **more: Any) -> TestClient:
    """A client on loopback, with a key."""
    headers = {"X-API-Key": key} if key else {}
    return TestClient(
        create_app(settings), base_url="http://127.0.0.1:8000", client=("127.0.0.1", 5), headers=headers,
        raise_server_exceptions=False, **more,
    )  # fmt: skip


@pytest.fixture(scope="session")
def api(api_settings: Settings) -> Iterator[TestClient]:
    """The application; each request names its key."""
    with client_of(with_section(api_settings, "api", requests_per_minute=0)) as client:
        yield client


@pytest.fixture(scope="session")
def with_kafka(api_settings: Settings, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The database and the broker with its topics, an empty archive, and no limit of requests."""
    home = tmp_path_factory.mktemp("home")
    found = with_section(api_settings, "kafka", bootstrap_servers=kafka_bootstrap)
    found = with_section(found, "archive", url=str(home / "archive"))
    found = with_section(found, "api", requests_per_minute=0)
    found = found.model_copy(update={"home": home})
    Topics(kafka_bootstrap).create(found.topics)
    return found
