"""What both trainings rest on: parts that share no speaker, early stopping, figures, the card."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import CalltideError
from streams.training.common import Card, Patience, report, require_empty, require_enough, split, write_card


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("uvwxyz")), min_size=1), st.integers(0, 3))
def test_every_row_is_in_one_part_and_no_speaker_in_two(rows: list[tuple[str, str]], seed: int) -> None:
    labels, speakers = [label for label, _ in rows], [speaker for _, speaker in rows]
    parts = split(labels, speakers, group="speaker", item="clip", seed=seed)
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(len(rows)))
    assert parts.by == ("speaker" if len(set(speakers)) >= 3 else "clip")
    if parts.by == "speaker":
        heard = [{speakers[row] for row in part} for part in (parts.train, parts.validation, parts.test)]
        assert all(heard)
        assert sum(map(len, heard)) == len(set(speakers))
    again = split(labels, speakers, group="speaker", item="clip", seed=seed)
    assert all(np.array_equal(getattr(parts, name), getattr(again, name)) for name in ("train", "validation", "test"))


def test_the_parts_are_near_their_shares() -> None:
    labels, speakers = ["a", "b"] * 200, [f"speaker-{row % 20}" for row in range(400)]
    for groups in (speakers, [""] * 400):
        parts = split(labels, groups, group="speaker", item="clip")
        assert [len(part) for part in (parts.train, parts.validation, parts.test)] == pytest.approx(
            [280, 60, 60], abs=25
        )


def test_patience_keeps_the_best_round() -> None:
    patience = Patience(2)
    stopped = [patience.lost(loss, kept) for kept, loss in enumerate([3.0, 1.0, 2.0, 1.0])]
    assert stopped == [False, False, False, True]
    assert (patience.best, patience.loss, patience.round) == (1, 1.0, 2)


def test_figures() -> None:
    found = report(("a", "b", "c"), np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    assert found.accuracy == 0.75
    assert found.unweighted == pytest.approx((2 / 3 + 1) / 2)
    assert found.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found.figures()["confusion"] == {"a": [2, 1, 0], "b": [0, 1, 0], "c": [0, 0, 0]}
    assert found.figures()["chance"] == 0.5, "one of the three does not occur"


def test_too_little_to_train_on() -> None:
    require_enough(["a"] * 8 + ["b"] * 8, "clips")
    with pytest.raises(CalltideError, match="clips of one class only"):
        require_enough(["a"] * 8, "clips")
    with pytest.raises(CalltideError, match="b: 7"):
        require_enough(["a"] * 8 + ["b"] * 7, "clips")


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    require_empty(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(CalltideError, match="nothing can be written into"):
        require_empty(tmp_path / "file" / "model")


def test_the_card_and_whose_directory_it_is(tmp_path: Path) -> None:
    found = report(("a", "b"), np.array([0, 1]), np.array([0, 0]))
    require_empty(tmp_path)
    card = Card("m-1", "A model", "CALLTIDE_X__MODEL", {"clips": {"a": 1}}, {"seed": 0}, {"wide": found}, ("Acted.",))
    write_card(tmp_path, card)
    require_empty(tmp_path)
    facts = json.loads((tmp_path / "card.json").read_text())
    assert facts["held_out"]["wide"]["accuracy"] == 0.5
    page = (tmp_path / "README.md").read_text()
    assert f"export CALLTIDE_X__MODEL={tmp_path}" in page
    assert "| a | 100% | 0% | 1 |" in page
    assert "- They are of 2 examples: chance alone moves an accuracy by up to 69 points.\n- Acted." in page
    (tmp_path / "card.json").unlink()
    with pytest.raises(CalltideError, match="not empty"):
        require_empty(tmp_path)
    with pytest.raises(CalltideError, match="is a file"):
        require_empty(tmp_path / "README.md")
