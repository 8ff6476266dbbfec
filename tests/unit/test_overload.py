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
    assert taken[0] == 1
    assert taken.index(2) == PATIENCE_S
    assert max(taken) == 2


def test_it_goes_back_step_by_step_when_the_lag_has_been_gone_for_long() -> None:
    ladder = Ladder(3, lag_s=4.0)
    steps(ladder, [10.0] * 10)
    taken = steps(ladder, [0.0] * 40, begin_s=10)
    assert taken.index(1) == RECOVERY_S
    assert taken.index(0) == 2 * RECOVERY_S


def test_it_stays_where_it_is_while_the_lag_is_neither_high_nor_gone() -> None:
    ladder = Ladder(2, lag_s=4.0)
    assert set(steps(ladder, [5.0] + [3.0] * 60)) == {1}
    assert set(steps(ladder, [0.0, 0.0, 3.0] * 20, begin_s=61)) == {1}, "a lag that comes again starts the wait anew"


def test_it_says_when_it_changes() -> None:
    ladder = Ladder(2, lag_s=4.0)
    assert [ladder.look(lag_s, second) for second, lag_s in enumerate([1.0, 4.0, 9.0])] == [False, True, False]
