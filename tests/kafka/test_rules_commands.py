"""`calltide rules test`: a call is held against rules the same, be it in Kafka or in rows when Kafka has it no more."""

import uuid
from pathlib import Path

import pytest
from confluent_kafka import Producer

from deploy.topics import Topics
from schemas.errors import CalltideError
from schemas.events import Alert, CallEnded, Score
from schemas.topics import SCORES, TOPICS
from streams import kafka, rules_commands
from streams.rows import call_row, utterance_row
from streams.settings import Settings
from streams.sink import _insert_rows, connect, migrate
from tests.unit.rule_calls import Call
from tests.unit.stage_records import event_of

pytestmark = pytest.mark.kafka

FILE = """
rules:
  - {name: refund, alert: {}, when: {said: {by: customer, stem: refunds}}}
  - {name: silence, alert: {}, when: {silence: {at_least_s: 10}}}
  - {name: greeting, alert: {}, when: {missing: {by: agent, exact: hello, window: {first_s: 30}}}}
  - {name: goodbye, alert: {}, when: {missing: {exact: goodbye, window: {last_s: 30}}}}
"""


def made() -> Call:
    told = (
        Call(call_id=f"call-{uuid.uuid4().hex[:8]}").say(1, "good morning", "agent").hear(4).say(5, "a refund please")
    )
    for at_s in range(8, 41):
        told.hear(at_s)
    return told.say(42, "bye").hear(45).end(60)


@pytest.fixture
def settings(kafka_bootstrap: str, clickhouse_url: str) -> Settings:
    Topics(kafka_bootstrap).create([topic for topic in TOPICS if topic.name == SCORES])
    base = Settings()
    own_kafka = {"bootstrap_servers": kafka_bootstrap, "group_prefix": f"test-{uuid.uuid4().hex[:8]}"}
    own_rows = {"url": clickhouse_url, "database": f"r{uuid.uuid4().hex}"}
    return base.model_copy(
        update={
            "kafka": base.kafka.model_copy(update=own_kafka),
            "clickhouse": base.clickhouse.model_copy(update=own_rows),
        }
    )


def write(settings: Settings, told: Call) -> None:
    producer = Producer(kafka.producer(settings))
    for one in told.records:
        # With the time of now: Kafka deletes what is older than the topic keeps, and these calls have a fixed date.
        producer.produce(SCORES, one.value, one.call_id, headers=[*one.headers.items()])
    assert producer.flush(30) == 0


def insert(settings: Settings, told: Call) -> None:
    migrate(settings)
    with connect(settings) as client:
        for offset, event in enumerate(map(event_of, told.records)):
            if isinstance(event, Score):
                _insert_rows(client, "utterances_heard", [utterance_row(event, SCORES, 0, offset)], uuid.uuid4().hex)
            elif isinstance(event, CallEnded):
                _insert_rows(client, "calls", [call_row(event, "v1")], uuid.uuid4().hex)


def test_what_rules_would_have_found(settings: Settings, tmp_path: Path) -> None:
    path, in_kafka, in_rows = tmp_path / "rules.yaml", made(), made()
    path.write_text(FILE)
    write(settings, in_kafka)
    insert(settings, in_rows)
    names = [in_kafka.info.call_id, in_rows.info.call_id]
    found = {}
    for name, source, records in rules_commands.calls_of(settings, names, "default"):
        alerts = [one for one in rules_commands.findings(settings, str(path), records) if isinstance(one, Alert)]
        found[name] = source, [(one.rule, one.at_ms, one.message, len(one.evidence)) for one in alerts]
    assert [source for source, _ in found.values()] == ["Kafka", "ClickHouse"]
    one, other = (alerts for _, alerts in found.values())
    assert [alert[:2] for alert in one] == [
        ("refund", 7_000),
        ("silence", 17_000),
        ("greeting", 30_000),
        ("goodbye", 60_000),
    ]
    # In rows silence is known when it is over.
    assert sorted(other, key=lambda alert: alert[1]) == one


def test_a_call_that_is_nowhere_is_named(settings: Settings) -> None:
    insert(settings, made())
    with pytest.raises(
        CalltideError, match="call nobody cannot be had: the topic scores does not have it from its start"
    ):
        list(rules_commands.calls_of(settings, ["nobody"], "default"))
