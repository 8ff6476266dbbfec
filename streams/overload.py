"""When a stage does with less effort because it lags, and when it goes back.

A changer must know: this only decides. The processor says what its efforts are (`processors.base.Adjustable`), marks
what it did in each utterance, and the runtime counts it: nothing is skipped in silence.
"""

from typing import Final

PATIENCE_S: Final = 5.0
"""Judgement: so long a worker that was restarted may take to catch up, and so long a step takes to show in the lag."""
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
        self._high_since: float | None = None
        self._low_since: float | None = None

    def look(self, lag_s: float, now_s: float) -> bool:
        """Note the lag at a time (monotonic seconds); True if the step has changed.

        One step less effort when the lag was over the threshold for PATIENCE_S, and again after each further
        PATIENCE_S; one step back whenever it was below RECOVERED of the threshold for RECOVERY_S.
        """
        if lag_s >= self._lag_s:
            self._low_since = None
            self._high_since = now_s if self._high_since is None else self._high_since
            if self.step < self._last and now_s - self._high_since >= PATIENCE_S:
                self.step, self._high_since = self.step + 1, now_s
                return True
            return False
        self._high_since = None
        if lag_s >= self._lag_s * RECOVERED:
            self._low_since = None
            return False
        self._low_since = now_s if self._low_since is None else self._low_since
        if self.step and now_s - self._low_since >= RECOVERY_S:
            self.step, self._low_since = self.step - 1, now_s
            return True
        return False
