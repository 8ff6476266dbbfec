"""Corrections of speakers, applied to the utterances of one call by who reads `scores`.

A changer must know: who is who is `processors.conversation.Known`; the view `utterances` in deploy/clickhouse does the
same in SQL, and the page in JavaScript; tests/clickhouse/test_corrections.py holds the view against this.
"""

from processors.conversation import Known
from schemas.events import Correction, Score


class Corrections:
    """What became known of the speakers of one call. It holds for all of its utterances, earlier and later."""

    def __init__(self) -> None:
        self._known = Known()
        self._confidence: dict[str, float | None] = {}

    def add(self, correction: Correction) -> None:
        """Take the next one, in the order of the topic."""
        if (speaker := self._known.add(correction)) is not None:
            self._confidence[speaker] = correction.role_confidence

    def name(self, speaker: str) -> str:
        """The speaker's name by now: speaker-3 is speaker-2, and that is speaker-1."""
        return self._known.name(speaker)

    def apply(self, score: Score) -> Score:
        """The utterance with its speaker and role as they are known by now; the same object when nothing is."""
        role, speaker = self._known.party(score.role, score.speaker)
        changed: dict[str, object] = {} if speaker == score.speaker else {"speaker": speaker}
        if role != score.role:
            changed |= {"role": role, "role_confidence": self._confidence[speaker]}
        return score.model_copy(update=changed) if changed else score
