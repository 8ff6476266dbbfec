"""When a stage does with less effort because it lags, and when it goes back.

A changer must know: this only decides. The processor says what its efforts are (`processors.base.Adjustable`), marks
what it did in each utterance, and the runtime counts it: nothing is skipped in silence.
"""

from typing import Final

PATIENCE_S: Final = 5.0
"""Judgement: a step's effect shows in the lag after some utterances; sooner would overshoot."""
RECOVERY_S: Final = 15.0
"""Judgement: a lag that has just gone is not yet proof of room; going back too soon would swing to and fro."""
RECOVERED: Final = 0.5
"""Judgement: the lag must fall below this share of the threshold before a step back."""


class Ladder:
    """Steps from full effort (0) to least (`steps` − 1), with hysteresis."""

    def __init__(self, steps: int, lag_s: float) -> None:
        self.step = 0
        self._last = steps - 1
        self._lag_s = lag_s
        self._changed_at = float("-inf")
        self._low_since: float | None = None

    def look(self, lag_s: float, now_s: float) -> bool:
        """Note the lag at a time (monotonic seconds); True if the step has changed.

        Down in effort while the lag is over the threshold, once in PATIENCE_S; back by one step after RECOVERY_S below
        RECOVERED of it.
        """
        if lag_s >= self._lag_s:
            self._low_since = None
            if self.step < self._last and now_s - self._changed_at >= PATIENCE_S:
                self.step, self._changed_at = self.step + 1, now_s
                return True
        elif lag_s < self._lag_s * RECOVERED:
            self._low_since = now_s if self._low_since is None else self._low_since
            if self.step and now_s - self._low_since >= RECOVERY_S:
                self.step, self._changed_at, self._low_since = self.step - 1, now_s, now_s
                return True
        else:
            self._low_since = None
        return False
