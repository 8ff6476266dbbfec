"""Early warning end to end: history in ClickHouse, `calltide train outcome`, the stage, and the row it leads to."""

import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from processors.base import Output, Record
from processors.metrics import Config
from processors.outlook import FEATURES, Model, parse
from schemas.errors import CalltideError
from schemas.events import CallEvent, CallMetrics, CallStarted, Correction, Score, decode
from schemas.topics import stage as row_of
from streams import rows, stages
from streams.settings import Settings
from streams.sink import connect, migrate
from streams.training import outcome
from tests.analytics.conftest import Month, settings_for
from tests.unit.test_conversation import MONO, STEREO, said, until

CALLS = 1_200
"""Of the month, the newest: as few as still have 100 negative ends among those it is tried on."""


@pytest.fixture(scope="module")
def trained(month: Month, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str]:
    """Settings with a model trained on the month, and what the command printed."""
    home = tmp_path_factory.mktemp("outcome")
    settings = month.settings.model_copy(update={"home": home})
    printed = StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "MOST_CALLS", CALLS)
        patch.setattr(outcome, "progress", lambda items, _: iter(items))
        outcome.train_outcome(settings, None, console=Console(file=printed, width=160))
    return settings, printed.getvalue()


def test_generated_history_teaches_something(trained: tuple[Settings, str]) -> None:
    """The generator lets moods drift in straight lines, so that the beginning of a call tells something of its end."""
    settings, printed = trained
    model = parse(settings.outcome_model.read_text(), "")
    of_all = model.facts["before the last quarter"]["all"]
    assert of_all["skill"] > 0.05
    assert of_all["Brier score"] < min(of_all[name] for name in outcome.RIVALS)
    assert model.facts["calibration"]["slope"] == pytest.approx(1, abs=0.25)
    assert model.terms["customer_score"].weight < -0.5, "who is unhappy will be"
    assert model.facts["trained on"]["to"] <= model.facts["tried on"]["from"]
    assert model.facts["pipeline version"] == "v1"
    for shown in ("known after", "stays (learned)", "foretold", "customer_score", str(settings.outcome_model)):
        assert shown in printed


def told(settings: Settings, events: Sequence[CallEvent]) -> list[CallMetrics]:
    """What the stage of these settings writes of a call."""
    stage = stages.build(settings, row_of("metrics"))
    assert stage.reload()  # type: ignore[attr-defined]
    state, written = stage.open("call-1"), []
    for event in events:
        output = Output.of(event)
        (step,) = stage.process([(state, Record("call-1", event.kind, dict(output.headers), output.value, 0))])
        written += [decode(dict(one.headers), one.value) for one in step.outputs]
    return [event for event in written if isinstance(event, CallMetrics)]


def goes(score: float) -> list[CallEvent]:
    """The first minute of a call."""
    events: list[CallEvent] = [CallStarted(call=STEREO)]
    for at_ms in range(0, 60_000, 5_000):
        channel = at_ms // 5_000 % 2
        events += [said(channel, at_ms, at_ms + 4_000, score=score * channel), until(at_ms + 5_000)]
    return events


def shown(settings: Settings, records: Sequence[CallMetrics], sql: str) -> list[dict[str, object]]:
    """The rows of a query after these records were inserted, one insert a record, as a sink might do."""
    with connect(settings) as client:
        client.command("TRUNCATE TABLE call_progress")
        for offset, record in enumerate(records):
            block = "\n".join(json.dumps(row) for row in rows.progress_rows(record, ("call.metrics", 0, offset)))
            client.raw_insert(
                "call_progress",
                insert_block=block.encode(),
                fmt="JSONEachRow",
                settings={"input_format_import_nested_json": 0},
            )
        return [json.loads(line) for line in client.raw_query(sql, fmt="JSONEachRow").splitlines()]


def test_the_stage_warns_and_clickhouse_has_it(trained: tuple[Settings, str], month: Month) -> None:
    settings, _ = trained
    glad, angry = told(settings, goes(0.6)), told(settings, goes(-0.6))
    assert glad[-1].outlook
    assert angry[-1].outlook
    assert glad[-1].outlook.negative < 0.15
    assert angry[-1].outlook.negative > 0.6
    other = settings_for(month.url, "outlook")
    migrate(other)
    sql = "SELECT at_ms, role, outlook, outlook_model FROM call_progress_now ORDER BY role"
    last = {"at_ms": angry[-1].at_ms, "outlook": angry[-1].outlook.negative, "outlook_model": angry[-1].outlook.model}
    assert shown(other, angry, sql) == [{"role": role} | last for role in ("agent", "customer")]
    # Two speakers of a mixed call are one, and the role of the other becomes known: the rows of before are not shown.
    three = [
        said(0, at_ms, at_ms + 900, of=MONO, speaker=speaker)
        for at_ms, speaker in ((0, "speaker-1"), (1_000, "speaker-2"), (2_000, "speaker-3"))
    ]
    merged = Correction(call=MONO, speaker="speaker-3", same_as="speaker-2")
    found = Correction(call=MONO, speaker="speaker-1", role="agent")
    records = told(settings, [CallStarted(call=MONO), *three, merged, found, until(9_000, MONO)])
    by_now = "SELECT role, speaker, outlook, outlook_model FROM {} ORDER BY speaker"
    assert shown(other, records, by_now.format("call_progress_now")) == [
        {"role": "agent", "speaker": "speaker-1", "outlook": None, "outlook_model": ""},
        {"role": "unknown", "speaker": "speaker-2", "outlook": None, "outlook_model": ""},
    ]
    assert len(shown(other, records, by_now.format("call_progress FINAL"))) > 2, "which the table keeps"


def test_nothing_is_written_unless_it_is_worth_it(
    month: Month, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = month.settings.model_copy(update={"home": tmp_path})
    monkeypatch.setattr(outcome, "progress", lambda items, _: iter(items))
    monkeypatch.setattr(outcome, "MOST_CALLS", 60)
    with pytest.raises(CalltideError, match=r"^too little history: .* of each are needed; try again"):
        outcome.train_outcome(settings, None)
    no_such = settings.model_copy(update={"pipeline_version": "it's none"})
    with pytest.raises(CalltideError, match=r"^too little history: 0 calls"):
        outcome.train_outcome(no_such, None)
    assert not settings.outcome_model.exists()

    # A model that knows nothing, and one that does: the first is refused, the second one only shown.
    def history(*_: object) -> list[outcome.Heard]:
        calls = []
        for number in range(400):
            score = -1.0 if number % 2 else 0.5
            begin = (-0.1 if number % 2 else 0.1) if known else 0.1 * (number % 7)
            begins = [said(1, at, at + 900, score=begin) for at in (0, 9_000, 18_000)]
            last = said(1, 98_000, 99_000, score=score)
            events: list[tuple[int, CallEvent]] = [
                (one.end_ms, one) for one in (*begins, last) if isinstance(one, Score)
            ]
            calls.append(outcome.Heard(STEREO, 100_000, events))
        return calls

    monkeypatch.setattr(outcome, "history", history)
    monkeypatch.setattr(outcome, "FEWEST_TRIED", 50)
    settings.outcome_model.parent.mkdir()
    before = Model(id="before", bias=0, terms={}, facts={}).model_dump_json()
    settings.outcome_model.write_text(before)
    known = False
    with pytest.raises(
        CalltideError, match=r"^it is no better than 'base rate' .* nothing is written; .* stays as it is"
    ):
        outcome.train_outcome(settings, None, console=Console(file=StringIO()))
    known = True
    printed = StringIO()
    assert (
        outcome.train_outcome(settings, None, dry_run=True, console=Console(file=printed)).terms.keys()
        == FEATURES.keys()
    )
    assert "nothing is written (--dry-run)" in printed.getvalue()
    assert settings.outcome_model.read_text() == before
    blocked = tmp_path / "file" / "outcome.json"
    blocked.parent.write_text("")
    with pytest.raises(CalltideError, match=r"^cannot write .*; give another --out$"):
        outcome.train_outcome(settings, blocked, console=Console(file=StringIO()))
    other = tmp_path / "elsewhere" / "outcome.json"
    printed = StringIO()
    outcome.train_outcome(settings, other, console=Console(file=printed))
    assert f"CALLTIDE_CALL_METRICS__OUTLOOK={other}" in printed.getvalue()
    assert Config(outlook=str(other)).outlook == str(other)
    assert parse(other.read_text(), "").terms["customer_score"].weight < 0
