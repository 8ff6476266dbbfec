"""What is made of scores has one table, and everything that needs it follows."""

from deploy.migrations import KEPT_BY
from schemas.events import EVENTS
from schemas.topics import FINDINGS, MADE_OF_SCORES
from streams import archiving, gateway, sink, subscriptions, webhooks
from streams.replay import versions
from streams.rows import FINDING_ROWS
from streams.sink import MIGRATIONS


def test_every_finding_is_an_event_of_a_topic_and_has_rows_of_a_table() -> None:
    kinds = [one.kind for one in FINDINGS]
    assert len(set(kinds)) == len(kinds) >= 5
    assert set(kinds) <= EVENTS.keys()
    assert {one.topic for one in FINDINGS} == set(MADE_OF_SCORES)
    assert FINDING_ROWS.keys() == set(kinds)
    made = "".join(path.read_text(encoding="utf-8") for path in MIGRATIONS.glob("*.sql"))
    assert all(f"CREATE TABLE IF NOT EXISTS {one.table}\n" in made for one in FINDINGS)


def test_what_is_kept_is_pushed_forgotten_and_grows_old() -> None:
    for one in FINDINGS:
        assert one.kind in subscriptions.KINDS
        assert gateway.FINDINGS_TOPICS[one.kind] == webhooks.TOPICS[one.kind] == one.topic
        assert KEPT_BY[one.table] == one.time
        assert one.table in archiving.FORGOTTEN and one.table in versions.TABLES and one.table in sink.TABLES
