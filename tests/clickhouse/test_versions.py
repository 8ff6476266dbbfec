"""Pipeline versions in ClickHouse: listed, compared, promoted, removed."""

import uuid
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from clickhouse_connect.driver.client import Client

from dashboards import files
from schemas.errors import CalltideError
from streams.replay.compare import of_versions
from streams.replay.versions import TABLES, drop, heard_as, promote, versions
from streams.rows import call_row, utterance_row
from streams.settings import Settings
from streams.sink import _insert_rows, connect, migrate
from tests.scripted import call, ended, score

HOSTILE = "it's v2\\"


@pytest.fixture
def settings(clickhouse_url: str) -> Settings:
    """A migrated database of the test's own, in which live calls are version v1."""
    base = Settings()
    own = {"url": clickhouse_url, "database": f"c{uuid.uuid4().hex}"}
    settings = base.model_copy(update={"clickhouse": base.clickhouse.model_copy(update=own)})
    migrate(settings)
    return settings


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with connect(settings) as client:
        yield client


def hear(client: Client, version: str, *texts: tuple[str, float], call_id: str = "one", topic: str = "scores") -> None:
    """A call as the sink writes it, with an utterance of the customer every two seconds."""
    of = call(call_id, queue="billing")
    utterances = [
        utterance_row(
            score(of, at * 2_000, text, polarity=polarity, emotion="anger").model_copy(
                update={"pipeline_version": version}
            ),
            "scores",
            0,
            at,
        )
        for at, (text, polarity) in enumerate(texts)
    ]
    _insert_rows(client, "utterances_heard", utterances, f"{version}/{call_id}/u")
    _insert_rows(client, "calls", [call_row(ended(of), version)], f"{version}/{call_id}/c")


def held(client: Client, version: str) -> dict[str, int]:
    """Table → rows of a version, of those that have any."""
    counted = {
        table: client.query(
            f"SELECT count() FROM {table} WHERE pipeline_version = {{version:String}}", {"version": version}
        ).result_rows[0][0]
        for table in TABLES
    }
    return {table: rows for table, rows in counted.items() if rows}


def test_a_version_is_listed_with_what_it_heard(settings: Settings, client: Client) -> None:
    assert versions(settings) == []
    hear(client, "v1", ("good morning", 0.5), ("that is bad", -0.5))
    hear(client, HOSTILE, ("good morning", 0.5))
    assert [(one.name, one.calls, one.utterances, one.promoted) for one in versions(settings)] == [
        (HOSTILE, 1, 1, False),
        ("v1", 1, 2, False),
    ]


def test_the_promoted_version_is_the_first_that_dashboards_offer(settings: Settings, client: Client) -> None:
    hear(client, "v1", ("good morning", 0.5), ("that is bad", -0.5))
    hear(client, HOSTILE, ("good morning", 0.5))
    offers = {query.text for query in files.queries() if query.ref_id == "version" and "promotions" in query.text}
    (offered,) = offers
    assert client.query(offered).result_rows == [("v1",), (HOSTILE,)]
    promote(settings, HOSTILE)
    assert client.query(offered).result_rows == [(HOSTILE,), ("v1",)]
    promote(settings, "v1")
    assert client.query(offered).result_rows == [("v1",), (HOSTILE,)]
    assert [one.name for one in versions(settings) if one.promoted] == ["v1"]
    with pytest.raises(CalltideError, match="no call has version v9; there are: "):
        promote(settings, "v9")


def test_the_dashboard_of_models_sets_the_promoted_version_beside_another(settings: Settings, client: Client) -> None:
    """A is first the one that is shown; B is never A."""
    asked = {query.panel: query.text for query in files.queries() if query.id.startswith("calltide-models/")}
    hear(client, "v1", ("good morning", 0.5), ("that is bad", -0.5))
    hear(client, HOSTILE, ("good morning", 0.5))
    promote(settings, HOSTILE)
    assert client.query(asked["a"]).result_rows[0] == (HOSTILE,)
    for chosen, other in ((HOSTILE, "v1"), ("v1", HOSTILE)):
        offered = asked["b"].replace("${a:percentencode}", quote(chosen, safe=""))
        assert client.query(offered).result_rows == [(other,)]


def test_calls_that_a_version_has_heard_are_told(settings: Settings, client: Client) -> None:
    hear(client, HOSTILE, ("good morning", 0.5), call_id="it's one")
    hear(client, "v1", ("good morning", 0.5), call_id="two")
    asked = ["it's one", "two", *map(str, range(2_000))]
    assert heard_as(settings, HOSTILE, asked) == ["it's one"]
    assert heard_as(settings, "v9", asked) == []


def test_a_version_is_removed_from_everywhere_and_nothing_else(settings: Settings, client: Client) -> None:
    for version in ("v1", HOSTILE):
        hear(client, version, ("good morning", 0.5), ("that is bad", -0.5))
    before = held(client, "v1")
    assert before.keys() == held(client, HOSTILE).keys() >= {"calls", "call_metrics", "call_terms", "utterance_hours"}
    gone = drop(settings, HOSTILE)
    assert (gone.calls, gone.utterances) == (1, 2)
    assert held(client, HOSTILE) == {}
    assert held(client, "v1") == before
    with pytest.raises(CalltideError, match="live calls are written as version v1"):
        drop(settings, "v1")


def test_the_version_that_is_shown_is_not_removed(settings: Settings, client: Client) -> None:
    hear(client, "v2", ("good morning", 0.5))
    promote(settings, "v2")
    with pytest.raises(CalltideError, match="v2 is the one that is shown; `calltide promote` another"):
        drop(settings, "v2")
    assert held(client, "v2")


def test_two_versions_of_the_same_calls(settings: Settings, client: Client) -> None:
    hear(client, "v1", ("good morning", 0.5), ("that is bad", -0.5))
    hear(client, HOSTILE, ("good morning", 0.5), ("that is not bad", 0.3))
    hear(client, "v1", ("only here", 0.1), call_id="two")
    found = of_versions(settings, "v1", HOSTILE)
    assert (found.calls, found.calls_in_both, found.utterances_in_both) == ((2, 1), 1, 2)
    assert (found.flips, found.words, found.word_errors) == (1, 5, 1)
    assert of_versions(settings, "v1", HOSTILE, ["one"]).calls == (1, 1)
    with pytest.raises(CalltideError, match="no call has version v9"):
        of_versions(settings, "v1", "v9")
    with pytest.raises(CalltideError, match="no call of these calls has version it's"):
        of_versions(settings, "v1", HOSTILE, ["two"])
