"""Early warning: what a model may look at, what it is worth, and that the stage says nothing without one."""

import json
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from processors.base import Output, Record
from processors.metrics import Config, Metrics, build, measured
from processors.outlook import FEATURES, FROM_MS, LEAST, PRIOR, Model, Term, ended_negative, features, parse
from schemas.errors import CalltideError
from schemas.events import CallEvent, CallMetrics, CallStarted, Correction, Score, decode
from schemas.topics import stage as row_of
from streams import stages
from streams.settings import Settings
from streams.training import outcome
from streams.training.outcome import MOMENTS_S, Heard, Row, calibration, foretold, naive, reliability, tried, watched
from tests.unit.test_conversation import MONO, STEREO, end, said, until
from tests.unit.test_conversation import heard as heard_by


def spoken(seed: int, duration_ms: int = 400_000, mood: float = 0.0, drift: float = 0.0) -> list[Score]:
    """A call of two channels; the customer's score goes from mood − drift/2 to mood + drift/2, about."""
    draw = random.Random(seed)
    utterances, at_ms = [], 500
    while (end_ms := at_ms + draw.randrange(600, 6_000)) < duration_ms:
        feeling = mood + drift * (at_ms / duration_ms - 0.5) + draw.gauss(0, 0.3)
        score = None if draw.random() < 0.05 else round(max(-1.0, min(feeling, 1.0)), 4)
        utterances.append(said(int(draw.random() < 0.5), at_ms, end_ms, score=score))
        at_ms = end_ms + draw.choice((-500, 100, 400, 900, 900, 7_000))
        at_ms = max(at_ms, max((one.end_ms for one in utterances[-2:]), default=0) - 400)
    return utterances


def heard(utterances: Sequence[Score], duration_ms: int = 400_000) -> Heard:
    return Heard(STEREO, duration_ms, [(one.end_ms, one) for one in sorted(utterances, key=lambda one: one.end_ms)])


def told(stage: Metrics, *events: CallEvent, restart: bool = False) -> list[bytes]:
    """The records of kind metrics that the stage writes; `restart`: it goes on from its snapshot each time."""
    state, written = stage.open("call-1"), []
    for event in events:
        output = Output.of(event)
        (step,) = stage.process([(state, Record("call-1", event.kind, dict(output.headers), output.value, 0))])
        written += [one.value for one in step.outputs if dict(one.headers)["kind"] == b"metrics"]
        if restart and step.snapshot:
            state = stage.restore("call-1", step.snapshot)
    return written


def live(utterances: Sequence[Score], duration_ms: int) -> list[CallEvent]:
    """As the chain tells it: utterances as they are finished, and a watermark each second, which waits for speech."""
    marks = [
        (at_ms, 1, until(min((one.start_ms for one in utterances if one.start_ms < at_ms < one.end_ms), default=at_ms)))
        for at_ms in range(1_000, duration_ms, 1_000)
    ]
    order = sorted([*((one.end_ms, 0, one) for one in utterances), *marks], key=lambda one: one[:2])
    return [CallStarted(call=STEREO), *(event for *_, event in order), end(duration_ms)]


def read(written: Sequence[bytes]) -> list[CallMetrics]:
    return [event for one in written if isinstance(event := decode({"kind": b"metrics"}, one), CallMetrics)]


def term(weight: float = 0.0, **fields: float) -> Term:
    return Term.model_validate({"weight": weight, "mean": 0, "scale": 1, "low": -10, "high": 10} | fields)


def model(bias: float = 0.0, **weights: float) -> Model:
    terms = {name: term(weights.get(name, 0.0)) for name in FEATURES}
    return Model(id="outcome-test", bias=bias, terms=terms, facts={})


# What it looks at


def test_what_is_known_of_a_call_at_a_moment() -> None:
    utterances = [
        said(0, 0, 9_000, score=0.5), said(1, 9_000, 19_000, score=-0.8), said(1, 19_500, 20_500, score=-0.4),
        said(1, 28_000, 29_000, score=0.3),
    ]  # fmt: skip
    tally = heard_by(CallStarted(call=STEREO), *utterances, until(30_000))
    known = features(measured(tally, STEREO, "v1"))
    assert known == {
        "customer_score": pytest.approx(-0.3 * 3 / (3 + PRIOR)),
        "customer_latest_quarter": 1.5,
        "customer_change": 1.5 - -4.0,
        "customer_negative_share": pytest.approx(2 / (3 + PRIOR)),
        "customer_talk_share": pytest.approx(12 / 21, abs=1e-4),
        "interruptions_a_minute": 0,
        "silence_share": pytest.approx(7.5 / 30),
        "agent_score": pytest.approx(0.5 / (1 + PRIOR)),
        "log_minutes": pytest.approx(np.log(0.5)),
    }


def test_nothing_is_said_too_early_or_of_a_call_that_is_not_known() -> None:
    stage = Metrics(Config(), "v1")
    three = [said(1, at_ms, at_ms + 900, score=-0.5) for at_ms in (0, 1_000, 2_000)]
    (*_, early) = read(told(stage, CallStarted(call=STEREO), *three, until(FROM_MS - 1_000)))
    (*_, few) = read(told(stage, CallStarted(call=STEREO), *three[: LEAST - 1], until(FROM_MS)))
    (*_, partial) = read(told(stage, *three, until(FROM_MS)))
    of_agent = [one.model_copy(update={"channel": 0, "role": "agent", "speaker": "agent"}) for one in three]
    (*_, without) = read(told(stage, CallStarted(call=STEREO), *of_agent, until(FROM_MS)))
    (*_, enough) = read(told(stage, CallStarted(call=STEREO), *three, until(FROM_MS)))
    assert [features(one) for one in (early, few, partial, without)] == [None] * 4
    assert features(enough) is not None


def test_a_mixed_recording_says_nothing_of_interruptions() -> None:
    told_of = [Correction(call=MONO, speaker="speaker-1", role="customer")]
    three = [said(0, at, at + 900, score=-0.5, of=MONO, speaker="speaker-1") for at in (0, 1_000, 2_000)]
    stage = Metrics(Config(), "v1")
    (*_, last) = read(told(stage, CallStarted(call=MONO), *three, *told_of, until(FROM_MS, MONO)))
    known = features(last)
    assert known is not None
    assert known["interruptions_a_minute"] is None
    assert known["agent_score"] is None
    assert model(interruptions_a_minute=5, agent_score=5).chance(known) == 0.5


def test_training_sees_what_the_stage_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the stage tells something at a watermark, training would have noted the same."""
    monkeypatch.setattr(outcome, "MOMENTS_S", range(20, 400))
    compared = 0
    for seed in range(3):
        utterances = spoken(seed)
        by_time = {one.at_ms: one for one in read(told(Metrics(Config(), "v1"), *live(utterances, 400_000)))}
        rows, negative = watched(heard(utterances))
        assert negative == ended_negative(by_time[400_000])
        for row in rows:
            if (record := by_time.get(row.moment_s * 1_000)) is not None:
                known = features(record)
                assert known is not None
                assert tuple(known.values()) == row.known
                compared += 1
    assert compared > 30


@pytest.mark.parametrize("seed", range(5))
def test_what_comes_later_changes_nothing_that_was_known(seed: int) -> None:
    utterances = spoken(seed)
    before, _ = watched(heard(utterances))
    for moment_s in MOMENTS_S[:4]:
        moment_ms = moment_s * 1_000
        # Of who speaks at that moment only the beginning is known; all else of it, and what follows, is another thing.
        other = [
            one
            if one.end_ms <= moment_ms
            else one.model_copy(update={"sentiment": said(1, 0, 1, score=-1).sentiment, "role": "customer"})
            for one in utterances
            if one.start_ms < moment_ms or one.channel
        ]
        turned = heard([*other, said(1, 398_500, 399_500, score=-1)])
        correction = Correction(call=STEREO, speaker="agent", same_as="customer")
        events = [*turned.events, (moment_ms + 1, correction)]
        after, negative = watched(Heard(STEREO, 400_000, events))
        assert negative
        known = {row.moment_s: (row.known, row.now, row.ahead) for row in after if row.moment_s <= moment_s}
        assert known == {row.moment_s: (row.known, row.now, row.ahead) for row in before if row.moment_s <= moment_s}
    assert len({row.known for row in before}) >= 3


def test_a_call_whose_customer_is_silent_at_the_end_teaches_nothing() -> None:
    utterances = [one for one in spoken(1) if one.end_ms < 200_000]
    assert watched(heard(utterances)) == ([], None)


def test_how_a_call_ends_is_its_customers_last_quarter() -> None:
    stage = Metrics(Config(), "v1")
    for score, negative in ((-0.2, True), (-0.19, False)):
        utterances = [said(1, 0, 900, score=-1), said(1, 8_000, 9_000, score=score), said(0, 9_000, 9_500, score=-1)]
        (*_, last) = read(told(stage, CallStarted(call=STEREO), *utterances, end(10_000)))
        assert ended_negative(last) is negative


# The model


def test_a_chance_is_a_logistic_curve_over_what_is_known() -> None:
    known = dict.fromkeys(FEATURES, 0.0) | {"customer_score": -0.5, "log_minutes": 99.0}
    one = model(-1.0, customer_score=-2.0)
    assert one.chance(known) == round(1 / (1 + np.exp(1 - 1)), 4)
    assert one.chance(known | {"customer_score": None}) == round(1 / (1 + np.exp(1)), 4)
    # Beyond what it was trained on it says no more, and never more than certain.
    beyond = model(0.0, log_minutes=0.1)
    assert beyond.chance(known) == beyond.chance(known | {"log_minutes": 10.0})
    assert model(1e9).chance(known) == 1
    assert model(-1e9).chance(known) == 0


def test_a_file_is_read_as_it_was_written() -> None:
    one = model(0.25, customer_score=-1.5)
    assert parse(one.model_dump_json(), "outcome.json") == one


@pytest.mark.parametrize(
    ("change", "said_of_it"),
    [
        (lambda content: content[:-20], "Invalid JSON"),
        (lambda _: "[]", "holds no model"),
        (lambda content: content.replace('"bias":0.0', '"bias":"nan"'), "bias: Input should be a finite number"),
        (lambda content: content.replace("outcome 1", "outcome 2"), "format"),
        (lambda content: content.replace("customer_score", "customer_mood"), "other features; train again"),
    ],
)
def test_a_wrong_file_is_told_in_a_line(change: Callable[[str], str], said_of_it: str) -> None:
    with pytest.raises(CalltideError, match=rf"^outcome\.json .*{said_of_it}.*`calltide train outcome`$"):
        parse(change(model().model_dump_json()), "outcome.json")


# The stage


def staged(path: Path | str) -> Metrics:
    stage = build(Config(outlook=str(path)), "v1")
    assert isinstance(stage, Metrics)
    stage.reload()
    return stage


def test_without_a_model_there_is_no_outlook(tmp_path: Path) -> None:
    events = live(spoken(3, 90_000), 90_000)
    (tmp_path / "outcome.json").write_text(model().model_dump_json())
    without = [told(staged(path), *events) for path in ("", "none", tmp_path / "other.json")]
    assert all(one.outlook is None for written in without for one in read(written))
    assert any(one.outlook for one in read(told(staged(tmp_path / "outcome.json"), *events)))


def test_a_call_that_goes_on_has_an_outlook_and_one_that_has_ended_none(tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    path.write_text(model(-1, customer_score=-4).model_dump_json())
    events = live(spoken(4, 120_000, mood=-0.5), 120_000)
    written = told(staged(path), *events)
    *running, last = read(written)
    assert last.outlook is None
    assert [one.outlook is not None for one in running] == [features(one) is not None for one in running]
    assert not running[0].outlook
    assert running[-1].outlook
    assert running[-1].outlook.model == "outcome-test"
    assert running[-1].outlook.negative > 0.5
    assert told(staged(path), *events, restart=True) == written, "the same after a restart at any record"


def test_the_model_may_come_change_and_go_while_calls_go_on(tmp_path: Path) -> None:
    path = tmp_path / "models" / "outcome.json"
    stage = staged(path)
    assert not stage.reload()
    path.parent.mkdir()
    path.write_text(model().model_dump_json())
    assert stage.reload()
    assert not stage.reload()
    path.write_text("{}")
    with pytest.raises(CalltideError, match="holds no model of how calls end"):
        stage.reload()
    assert not stage.reload(), "told once"
    (*_, running, _) = read(told(stage, *live(spoken(3, 90_000), 90_000)))
    assert running.outlook, "what was there before stays"
    path.unlink()
    assert stage.reload()
    assert not any(one.outlook for one in read(told(stage, *live(spoken(3, 90_000), 90_000))))


def test_the_stage_looks_for_the_model_where_training_writes_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.outcome_model == tmp_path / "models" / "outcome.json"
    settings.outcome_model.parent.mkdir()
    settings.outcome_model.write_text(model().model_dump_json())
    events = live(spoken(3, 90_000), 90_000)
    for path, there in (("", True), ("none", False), (str(tmp_path / "other.json"), False)):
        chosen = settings.model_copy(update={"call_metrics": Config(outlook=path)})
        stage = stages.build(chosen, row_of("metrics"))
        assert isinstance(stage, Metrics)
        assert stage.reload() is there
        assert any(one.outlook for one in read(told(stage, *events))) is there
    assert chosen.outcome_model == tmp_path / "other.json"


# Training


def rows_of(chances: np.ndarray, seed: int, first: int = 0) -> list[Row]:
    """A row a call, whose customer's score makes it end negative with these chances."""
    draw = np.random.default_rng(seed)
    names = list(FEATURES)
    rows = []
    for number, chance in enumerate(chances):
        known: list[float | None] = draw.normal(0, 1, len(names)).tolist()
        known[names.index("customer_score")] = float(np.log(chance / (1 - chance)) / -2)
        known[names.index("interruptions_a_minute")] = None if number % 3 else 1.0
        row = Row(first + number, 60, True, bool(chance > 0.5), tuple(known), bool(draw.random() < chance))
        rows.append(row)
    return rows


def test_chances_are_those_by_which_the_data_were_made() -> None:
    chances = np.random.default_rng(1).uniform(0.02, 0.8, 8_000)
    older, newer = rows_of(chances[:5_000], 2), rows_of(chances[5_000:], 3, 5_000)
    trained = outcome.model_of(older, {})
    found = foretold(trained, newer)
    assert np.abs(found - chances[5_000:]).mean() < 0.02
    intercept, slope = calibration(newer, found)
    assert abs(intercept) < 0.12
    assert slope == pytest.approx(1, abs=0.1)
    for one in reliability(newer, found):
        assert one.came == pytest.approx(one.foretold, abs=4 * (0.25 / one.rows) ** 0.5)
    trial = tried("60 s", newer, found, naive(older, newer))
    truth = np.array([row.negative for row in newer])
    assert trial.brier == pytest.approx(float(((chances[5_000:] - truth) ** 2).mean()), abs=0.003), "as good as can be"
    assert trial.skill > 0.05
    assert trial.errors > 1.96
    too_sure = np.clip(found * 2 - 0.4, 0.01, 0.99)
    assert calibration(newer, too_sure)[1] < 0.7


def test_what_cannot_be_foretold_is_not() -> None:
    """The data of a coin: no better than the base rate, and training says so by its standard errors."""
    better = 0
    for seed in range(20):
        older, newer = rows_of(np.full(600, 0.3), 2 * seed), rows_of(np.full(400, 0.3), 2 * seed + 1, 600)
        trial = tried("all", newer, foretold(outcome.model_of(older, {}), newer), naive(older, newer))
        better += trial.errors > outcome.BEYOND_CHANCE
    assert better <= 2


def test_naive_forecasts() -> None:
    def row(call: int, moment_s: int, now: bool, negative: bool) -> Row:
        return Row(call, moment_s, True, now, (0.0,) * len(FEATURES), negative)

    older = [row(0, 30, True, True), row(1, 30, False, False), row(2, 30, False, True), row(3, 30, False, False)]
    newer = [row(4, 30, True, False), row(5, 30, False, True), row(6, 60, True, True)]
    assert {name: chances.tolist() for name, chances in naive(older, newer).items()} == {
        "base rate": [0.5, 0.5, 0.5],
        "stays": [1, 0, 1],
        "stays (learned)": [1, pytest.approx(1 / 3), 0.5],
    }
    trial = tried("all", newer, np.array([0.0, 1.0, 1.0]), naive(older, newer))
    assert (trial.brier, trial.best, trial.skill, trial.calls) == (0, "base rate", 1, 3)


def history(calls: int) -> list[Heard]:
    """Calls of which the mood drifts, one an hour."""
    draw = random.Random(5)
    made = []
    for number in range(calls):
        info = STEREO.model_copy(update={"started_at": STEREO.started_at + timedelta(hours=number)})
        mood, drift = draw.gauss(-0.2, 0.35), draw.gauss(0, 0.4)
        one = heard(spoken(number, 150_000, mood, drift), 150_000)
        made.append(Heard(info, one.duration_ms, [(at_ms, event) for at_ms, event in one.events]))
    return made


def test_older_calls_teach_and_newer_ones_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "FEWEST_TRIED", 20)
    calls = history(360)
    found = outcome.train(calls, {"pipeline version": "v1"})
    facts = found.model.facts
    assert facts["trained on"]["to"] < facts["tried on"]["from"]
    assert (
        facts["trained on"]["calls"]
        + facts["tried on"]["calls"]
        + facts["left out"]["customer silent in the last quarter"]
        == 360
    )
    assert [one.moment for one in found.trials] == ["30 s", "60 s", "all"], "the last quarter begins after 112 s"
    assert found.trials[-1].skill > 0
    assert facts["before the last quarter"]["all"]["Brier score"] == round(found.trials[-1].brier, 4)
    again = outcome.train(calls, {"pipeline version": "v1"})
    assert again == found, "the same calls make the same model"
    # What the newer calls were like changes nothing of the model.
    worst = said(1, 0, 1, score=-1).sentiment
    turned = [
        Heard(
            one.call,
            one.duration_ms,
            [(at_ms, event.model_copy(update={"sentiment": worst})) for at_ms, event in one.events],
        )
        for one in calls
    ]
    mixed = outcome.train([*calls[:-60], *turned[-60:]], {})
    assert mixed.model.terms == found.model.terms
    assert mixed.trials != found.trials
    content = json.loads(found.model.model_dump_json())
    assert (content["facts"]["pipeline version"], list(content["terms"])) == ("v1", list(FEATURES))


def test_too_little_history_is_no_history() -> None:
    with pytest.raises(CalltideError, match=r"^too little history: 40 calls.* 90 of each are needed; try again"):
        outcome.train(history(40), {})
    with pytest.raises(CalltideError, match=r"^too little history: 0 calls"):
        outcome.train([], {})
