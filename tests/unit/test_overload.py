"""When a stage works with less effort, and when it goes back."""

from streams.overload import PATIENCE_S, RECOVERY_S, Ladder


def steps(ladder: Ladder, lags: list[float], begin_s: float = 0.0) -> list[int]:
    """The step after each second's lag."""
    found = []
    for second, lag_s in enumerate(lags):
        ladder.look(lag_s, begin_s + second)
        found.append(ladder.step)
    return found


def test_it_goes_down_one_step_at_a_time_and_no_further_than_the_last() -> None:
    taken = steps(Ladder(3, lag_s=4.0), [10.0] * 20)
    assert taken.index(1) == PATIENCE_S
    assert taken.index(2) == 2 * PATIENCE_S
    assert max(taken) == 2


def test_a_lag_that_is_soon_caught_up_with_changes_nothing() -> None:
    assert set(steps(Ladder(3, lag_s=4.0), ([10.0] * int(PATIENCE_S) + [3.0]) * 10)) == {0}


def test_it_goes_back_step_by_step_when_the_lag_has_been_gone_for_long() -> None:
    ladder = Ladder(3, lag_s=4.0)
    steps(ladder, [10.0] * 20)
    taken = steps(ladder, [0.0] * 40, begin_s=20)
    assert taken.index(1) == RECOVERY_S
    assert taken.index(0) == 2 * RECOVERY_S


def test_it_stays_where_it_is_while_the_lag_is_neither_high_nor_gone() -> None:
    ladder = Ladder(2, lag_s=4.0)
    assert steps(ladder, [5.0] * 10 + [3.0] * 60)[10:] == [1] * 60
    assert set(steps(ladder, [0.0, 0.0, 3.0] * 20, begin_s=70)) == {1}, "a lag that comes again starts the wait anew"


def test_it_says_when_it_changes() -> None:
    ladder = Ladder(2, lag_s=4.0)
    assert [ladder.look(4.0, at_s) for at_s in (0, 4.9, 5, 6)] == [False, False, True, False]
