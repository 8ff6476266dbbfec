"""Corrections of speakers, applied to the utterances of one call by who reads `scores`.

A changer must know: the view `utterances` in deploy/clickhouse does the same in SQL, and the page in JavaScript;
tests/clickhouse/test_corrections.py holds the view against this.
"""

from schemas.events import Correction, Role, Score


class Corrections:
    """What became known of the speakers of one call. It holds for all of its utterances, earlier and later."""

    def __init__(self) -> None:
        self._merged: dict[str, str] = {}
        self._roles: dict[str, tuple[Role, float | None]] = {}

    def add(self, correction: Correction) -> None:
        """Take the next one, in the order of the topic."""
        if correction.same_as:
            self._merged[correction.speaker] = correction.same_as
        # One that merges nobody says what the role is, be it unknown again.
        if not correction.same_as or correction.role != "unknown":
            self._roles[correction.same_as or correction.speaker] = correction.role, correction.role_confidence

    def name(self, speaker: str) -> str:
        """The speaker's name by now: speaker-3 is speaker-2, and that is speaker-1."""
        # As many steps as there are merges: more cannot be needed, and a ring ends.
        for _ in self._merged:
            speaker = self._merged.get(speaker, speaker)
        return speaker

    def apply(self, score: Score) -> Score:
        """The utterance with its speaker and role as they are known by now; the same object when nothing is."""
        speaker = self.name(score.speaker)
        changed: dict[str, object] = {} if speaker == score.speaker else {"speaker": speaker}
        role, confidence = self._roles.get(speaker, (score.role, None))
        if role != score.role:
            changed |= {"role": role, "role_confidence": confidence}
        return score.model_copy(update=changed) if changed else score
