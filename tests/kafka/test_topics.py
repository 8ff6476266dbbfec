"""Topics against a real broker: made, compared, mended, and what is said of each difference."""

import dataclasses
import socket
import time
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from deploy import topics as module
from deploy.topics import Topics, _same
from schemas.errors import CalltideError
from schemas.topics import Topic, topics

pytestmark = pytest.mark.kafka


def named(prefix: str, partitions: int = 2) -> tuple[Topic, ...]:
    """The real table under names of one test's own."""
    return tuple(dataclasses.replace(topic, name=f"{prefix}.{topic.name}") for topic in topics(partitions))


@pytest.fixture
def cluster(kafka_bootstrap: str) -> Topics:
    return Topics(kafka_bootstrap)


@pytest.fixture
def unanswered() -> Iterator[int]:
    """A port that nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def change(bootstrap: str, topic: str, **settings: str) -> None:
    wanted = {key.replace("_", "."): value for key, value in settings.items()}
    entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in wanted.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(10)
    while {key: admin.describe_configs([resource])[resource].result(10)[key].value for key in wanted} != wanted:
        pass  # the controller has it, the broker hears of it a moment later


def test_the_whole_table_is_made_once_and_found_as_wanted(cluster: Topics) -> None:
    wanted = named("made")
    assert cluster.ensure(wanted) == [topic.name for topic in wanted]
    assert cluster.ensure(wanted) == []


def test_a_missing_topic_is_named_with_the_command(cluster: Topics) -> None:
    wanted = named("missing")
    assert [mismatch.actual for mismatch in cluster.check(wanted)] == [None] * len(wanted)
    assert cluster.check(wanted)[0].advice == "topic missing.audio.frames is missing: run `calltide topics create`"


def test_a_wrong_retention_is_an_error_that_names_the_command_which_mends_it(
    cluster: Topics, kafka_bootstrap: str
) -> None:
    wanted = named("retention")
    cluster.ensure(wanted)
    change(kafka_bootstrap, "retention.scores", retention_ms="3600000", cleanup_policy="compact")
    with pytest.raises(CalltideError) as caught:
        cluster.ensure(wanted)
    assert str(caught.value) == (
        "topic retention.scores has cleanup.policy compact, not delete: run `calltide topics fix retention.scores`; "
        "topic retention.scores has retention.ms 3600000, not 604800000: run `calltide topics fix retention.scores`"
    )
    assert len(cluster.fix(topic for topic in wanted if topic.name == "retention.scores")) == 2
    assert cluster.ensure(wanted) == []


def test_too_few_partitions_are_grown_by_fix_only(cluster: Topics) -> None:
    cluster.ensure(named("grown", partitions=2))
    wanted = named("grown", partitions=3)
    with pytest.raises(CalltideError, match=r"has partitions 2, not 3: set CALLTIDE_KAFKA__PARTITIONS=2, or, when no"):
        cluster.ensure(wanted)
    assert len(cluster.fix(wanted)) == len(wanted)
    assert cluster.ensure(wanted) == []


def test_too_many_partitions_cannot_be_mended_and_nothing_is_changed(cluster: Topics) -> None:
    cluster.ensure(named("many", partitions=3))
    wanted = named("many", partitions=2)
    before = cluster.check(wanted)
    with pytest.raises(CalltideError, match="set CALLTIDE_KAFKA__PARTITIONS=3"):
        cluster.fix(wanted)
    assert cluster.check(wanted) == before


def test_no_broker_is_one_clear_line_within_seconds(unanswered: int) -> None:
    begun = time.monotonic()
    with pytest.raises(CalltideError, match=rf"no answer from Kafka at 127\.0\.0\.1:{unanswered} \(.*refused.*SERVERS"):
        Topics(f"127.0.0.1:{unanswered}").ensure(topics())
    assert time.monotonic() - begun < 10


def test_client_settings_reach_the_connection(kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    with pytest.raises(CalltideError, match="no answer from Kafka"):
        Topics(kafka_bootstrap, {"security.protocol": "ssl"}).check(topics())


@pytest.mark.parametrize(
    ("wanted", "actual", "same"),
    [
        ("604800000", "604800000", True),
        ("0.1", "0.10", True),
        ("604800000", "6048000000", False),
        ("compact,delete", "delete,compact", True),
        ("compact", "delete", False),
        ("delete", None, False),
    ],
)
def test_settings_are_compared_by_what_they_mean(wanted: str, actual: str | None, same: bool) -> None:
    assert _same(wanted, actual) is same
