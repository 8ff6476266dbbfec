"""Words and voice made one score, and the call's running score."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.base import Record
from processors.models.sentiment import SentimentModel, TextSentiment, label_of
from processors.sentiment import HALF_LIFE_WORDS, NO_LANGUAGE, NO_ROLE, VALENCE, Config, FusedSentiment, build
from processors.utterances import FORGOTTEN_MS
from schemas.errors import CalltideError
from schemas.events import CallInfo, Correction, Emotion, EmotionLabel, EmotionScored, Role, Score
from tests.unit.stage_records import call, event_of, marks, record, run, utterance

SURE: dict[EmotionLabel, float] = dict.fromkeys(VALENCE, 0.0)


class Plain:
    """Says what the text says: "-0.5 and so on" scores −0.5."""

    thresholds = (-0.2, 0.3)

    def __init__(self, name: str = "plain", confidence: float = 0.8) -> None:
        self.id = name
        self._confidence = confidence

    def score(self, texts: Sequence[str]) -> list[TextSentiment]:
        numbers = [float(text.split()[0]) for text in texts]
        return [
            TextSentiment(label_of(number, self.thresholds), number, self._confidence, {"plain": number})
            for number in numbers
        ]


def voice(*, uncertain: bool = False, **probabilities: float) -> Emotion:
    label = max(probabilities, key=probabilities.__getitem__)
    found = {"label": label, "probabilities": SURE | probabilities, "model": "some-voice", "uncertain": uncertain}
    return Emotion.model_validate(found)


def said(
    text: str,
    start_ms: int = 0,
    emotion: Emotion | None = None,
    speaker: str = "customer",
    info: CallInfo | None = None,
    role: Role = "customer",
    language: str = "en",
) -> Record:
    fields: dict[str, Any] = {"text": text, "emotion": emotion, "speaker": speaker, "role": role, "language": language}
    event = utterance(EmotionScored, info or call(), start_ms, **fields)
    return record(event, in_value=True)


def scores(
    records: Sequence[Record],
    config: Config | None = None,
    models: SentimentModel | Mapping[str, SentimentModel | None] | None = None,
) -> list[Score]:
    written, dead, _ = run("sentiment", FusedSentiment(config or Config(), "v7", models or Plain()), records)
    assert not dead
    assert all("event" not in item.headers for item in written)
    return [event_of(item) for item in written]


@pytest.mark.parametrize(
    ("score", "label"), [(-0.2, "neutral"), (-0.2001, "negative"), (0.3, "neutral"), (0.3001, "positive")]
)
def test_without_a_voice_the_words_alone_count(score: float, label: str) -> None:
    (result,) = scores([said(f"{score} it was")])
    assert result.pipeline_version == "v7"
    assert result.sentiment is not None
    assert (result.sentiment.score, result.sentiment.text_score) == (score, score)
    assert result.sentiment.voice_score is None
    assert (result.sentiment.label, result.sentiment.confidence) == (label, 0.8)
    assert (result.sentiment.model, result.sentiment.members) == ("plain", {"plain": score})


def test_a_sure_voice_counts_with_its_whole_weight() -> None:
    (result,) = scores([said("0.5 it was", emotion=voice(anger=1.0))])
    assert result.sentiment is not None
    assert result.sentiment.voice_score == VALENCE["anger"]
    assert result.sentiment.score == pytest.approx(0.7 * 0.5 + 0.3 * VALENCE["anger"], abs=1e-4)
    assert result.sentiment.label == "neutral"
    assert result.sentiment.text_score == 0.5
    assert result.sentiment.confidence == pytest.approx(0.8 * (1 - 0.3 * (0.5 - VALENCE["anger"]) / 2), abs=1e-4)


def test_a_voice_that_could_be_anything_does_not_count() -> None:
    shares: dict[str, float] = dict.fromkeys(VALENCE, round(1 / 6, 4))
    (result,) = scores([said("0.5 it was", emotion=voice(uncertain=True, **shares))])
    assert result.sentiment is not None
    assert result.sentiment.voice_score is not None
    assert result.sentiment.score == pytest.approx(0.5, abs=1e-3)
    assert result.sentiment.confidence == pytest.approx(0.8, abs=1e-3)


def test_a_half_sure_voice_counts_in_part() -> None:
    (result,) = scores([said("0 it was", emotion=voice(anger=0.5, sadness=0.5))], Config(voice_weight=1))
    share, heard = 1 - math.log(2) / math.log(6), (VALENCE["anger"] + VALENCE["sadness"]) / 2
    assert result.sentiment is not None
    assert result.sentiment.score == pytest.approx(share * heard, abs=1e-4)


@pytest.mark.parametrize(("weight", "score"), [(0.0, 0.5), (1.0, VALENCE["happiness"])])
def test_the_voice_weight_reaches_from_words_only_to_voice_only(weight: float, score: float) -> None:
    (result,) = scores([said("0.5 it was", emotion=voice(happiness=1.0))], Config(voice_weight=weight))
    assert result.sentiment is not None
    assert result.sentiment.score == score


def test_a_role_may_have_a_voice_weight_of_its_own() -> None:
    config = Config(voice_weights={"agent": 0.0})
    by_agent, by_customer = scores(
        [said("0.5 it was", emotion=voice(anger=1.0), role=role) for role in ("agent", "customer")], config
    )
    assert by_agent.sentiment is not None and by_customer.sentiment is not None
    assert by_agent.sentiment.score == 0.5 > by_customer.sentiment.score
    assert by_agent.sentiment.voice_score == VALENCE["anger"], "what the voice says is kept where it does not count"


@pytest.mark.parametrize(
    ("words", "confidence", "emotion", "disagree"),
    [
        ("0.8 lovely", 0.8, voice(anger=1.0), True),
        ("-0.8 awful", 0.8, voice(happiness=1.0), True),
        ("-0.8 awful", 0.8, voice(anger=1.0), False),
        ("0.1 so so", 0.8, voice(anger=1.0), False),
        ("0.8 lovely", 0.8, voice(neutral=1.0), False),
        ("0.8 lovely", 0.4, voice(anger=1.0), False),
        ("0.8 lovely", 0.8, voice(anger=0.4, neutral=0.6), False),
        ("0.8 lovely", 0.8, voice(uncertain=True, anger=1.0), False),
        ("0.8 lovely", 0.8, None, False),
    ],
)
def test_words_and_voice_disagree_when_both_are_clear_and_opposite(
    words: str, confidence: float, emotion: Emotion | None, disagree: bool
) -> None:
    (result,) = scores([said(words, emotion=emotion)], models=Plain(confidence=confidence))
    assert result.sentiment is not None
    assert result.sentiment.disagree is disagree


def test_the_closest_model_reads_and_a_text_that_none_can_read_says_so() -> None:
    english, german, agents = Plain("english"), Plain("german"), Plain("agents")
    models = {"*/en": english, "*/de": german, "agent/*": agents, "agent/de": english, "unknown/*": None}
    lines: list[tuple[Role, str]] = [
        ("customer", "en"),
        ("customer", "de-AT"),
        ("agent", "fr"),
        ("agent", "de"),
        ("customer", "fr"),
        ("unknown", "en"),
    ]
    found = scores(
        [said("0.9 so", 1_000 * i, None, r, None, r, lang) for i, (r, lang) in enumerate(lines)], None, models
    )
    assert [f.sentiment and f.sentiment.model for f in found] == ["english", "german", "agents", "english", None, None]
    assert [f.flags for f in found] == [(), (), (), (), (NO_LANGUAGE,), (NO_ROLE,)]
    assert found[-1].running.utterances == 4, "what has no sentiment does not count"
    (silent,) = scores([said("", language="fr")], None, models)
    assert silent.flags == (), "nothing was said: nothing is missing"


def test_parties_that_turn_out_to_be_one_have_one_course() -> None:
    twenty, ten = " ".join(["1"] * 20), " ".join(["-1"] * 10)
    heard = [said(twenty), said(ten, 5_000), said("1 more", 9_000)]
    *_, straight = scores(heard)
    split = [said(twenty, speaker="a"), said(ten, 5_000, speaker="b")]
    joined = record(Correction(call=call(), speaker="b", same_as="a"), in_value=True)
    written, dead, _ = run("sentiment", FusedSentiment(Config(), "v7", Plain()), [*split, joined, heard[2]], crash=True)
    assert not dead and written[2].kind == "correction"
    split_again = [*split, joined, said("1 more", 9_000, speaker="a")]
    *_, found = [event_of(r) for r in run("sentiment", FusedSentiment(Config(), "v7", Plain()), split_again)[0]]
    assert found.running == straight.running


@pytest.mark.parametrize("key", ["customers", "customer/german", "/de", "customer/"])
def test_a_key_that_names_no_party_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="models"):
        Config.model_validate({"models": {key: "packaged"}})


def test_the_running_score_halves_its_distance_every_so_many_words() -> None:
    text = " ".join(["1"] * HALF_LIFE_WORDS)
    first, second, brief = scores([said(text), said(text, 10_000), said("-1", 20_000)])
    assert (first.running.score, first.running.utterances) == (0.5, 1)
    assert (second.running.score, second.running.utterances) == (0.75, 2)
    assert brief.running.score == pytest.approx(0.75 - 1.75 * (1 - 2 ** (-1 / HALF_LIFE_WORDS)), abs=1e-4)


def test_where_words_are_not_spaced_two_signs_are_one() -> None:
    (japanese,) = scores([said("1 " + "話" * (2 * HALF_LIFE_WORDS - 1), language="ja")])
    assert japanese.running.score == 0.5


def test_each_party_has_its_own_course() -> None:
    text = " ".join(["1"] * HALF_LIFE_WORDS)
    records = [said(text), said("-" + text, 10_000, speaker="agent"), said(text, 20_000)]
    customer, agent, again = scores(records)
    assert (customer.running.party_score, agent.running.party_score, again.running.party_score) == (0.5, -0.5, 0.75)
    assert agent.running.score == -0.25


def test_without_words_there_is_no_sentiment_and_the_call_stays_where_it_was() -> None:
    records = [
        said("", emotion=voice(anger=1.0)),
        said("0.9 it was", 2_000),
        said("", 4_000),
        said("", 6_000, speaker="x"),
    ]
    silent, spoken, later, other = scores(records)
    assert silent.sentiment is None
    assert (silent.running.score, silent.running.utterances) == (0, 0)
    assert spoken.running.utterances == 1
    assert later.running == spoken.running
    assert (other.running.score, other.running.party_score) == (spoken.running.score, 0)


def test_state_is_kept_from_the_first_scored_utterance_to_the_end_of_the_call() -> None:
    started, progress, ended = (record(mark, in_value=True) for mark in marks(call()))
    stage = FusedSentiment(Config(), "v7", Plain())
    assert not run("sentiment", stage, [started, progress, said("")])[2]
    assert run("sentiment", stage, [started, said("1 it was"), progress])[2]
    assert not run("sentiment", stage, [started, said("1 it was"), progress, ended])[2]


words = st.tuples(
    st.sampled_from(["", "0.31 is what it is", "-0.7", "0.05 so so"]), st.sampled_from(["agent", "customer"])
)


@given(
    lines=st.lists(st.tuples(words, st.sampled_from(["call-1", "call-2"]), st.booleans()), max_size=12),
    batches=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    crash=st.booleans(),
)
def test_neither_batches_nor_restarts_change_a_byte(
    lines: list[tuple[tuple[str, str], str, bool]], batches: list[int], crash: bool
) -> None:
    records = [
        said(text, 1_000 * i, voice(fear=0.4, neutral=0.6) if heard else None, speaker, call(call_id=call_id))
        for i, ((text, speaker), call_id, heard) in enumerate(lines)
    ]
    records = [*records, *(record(mark, in_value=True) for mark in marks(call())), *records]
    stage = FusedSentiment(Config(), "v7", Plain())
    whole = run("sentiment", stage, records)[0]
    assert run("sentiment", stage, records, batches, crash=crash)[0] == whole
    again = [item for item in whole[len(lines) + 3 :] if item.call_id == "call-1"]
    assert again == [item for item in whole[: len(lines)] if item.call_id == "call-1"], (
        "the end of a call frees its state"
    )


def test_a_call_whose_end_never_comes_is_forgotten_by_the_time_of_the_others() -> None:
    other = call(call_id="call-2")
    late = replace(said("0.5 hello", info=other), timestamp_ms=said("0").timestamp_ms + FORGOTTEN_MS)
    written, dead, changelog = run("sentiment", FusedSentiment(Config(), "v7", Plain()), [said("-0.5 so"), late])
    assert not dead
    assert [event_of(item).call.call_id for item in written] == ["call-1", "call-2"], "it leaves without a word"
    assert list(changelog) == ["call-2"]


@pytest.mark.models
def test_the_real_model_in_any_batch() -> None:
    lines = [
        "I am so angry, this is the third time that you have lost my order!",
        "Let me pull up your account.",
        "Oh, that's wonderful, thank you so much for your help.",
    ]
    records = [said(text, 5_000 * i) for i, text in enumerate(lines)]
    stage = build(Config(), "test")
    whole = run("sentiment", stage, records)[0]
    assert run("sentiment", stage, records, [1], crash=True)[0] == whole
    found = [event_of(item) for item in whole]
    assert [score.sentiment.label for score in found] == ["negative", "neutral", "positive"]
    assert found[0].running.score < 0 < found[2].running.score - found[1].running.score


@pytest.mark.models
def test_the_real_model_reads_english_only_and_roles_can_be_left_out(tmp_path: Path) -> None:
    stage = build(Config(models={"agent": "none", "*/de": "none"}), "test")
    lines: list[tuple[Role, str]] = [("customer", "en"), ("customer", "es"), ("agent", "en"), ("customer", "de")]
    records = [said("this is wonderful", 1_000 * i, role=r, language=lang) for i, (r, lang) in enumerate(lines)]
    found = [event_of(item) for item in run("sentiment", stage, records)[0]]
    assert [f.sentiment is not None for f in found] == [True, False, False, False]
    assert [f.flags for f in found] == [(), (NO_LANGUAGE,), (NO_ROLE,), (NO_LANGUAGE,)]
    with pytest.raises(CalltideError, match="CALLTIDE_SENTIMENT__MODEL"):
        build(Config(model=str(tmp_path)), "test")
