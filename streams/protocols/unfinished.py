"""Interim results on their way to a client, beside the finished ones: which of them still say something new.

They come by a topic of their own, so nothing orders them against what is finished. A changer must know: an utterance
ends what is interim of its segment and of all before it on its channel; where VAD took a segment for no speech after
all, none comes, and it is the watermark that passes it.
"""

import math

from schemas.events import Interim, Segment


class Unfinished:
    """The latest that is known of each channel of one call."""

    def __init__(self) -> None:
        self._latest: dict[int, tuple[int, float]] = {}
        """(start of the segment, revision), infinite once it is finished."""
        self._told: dict[int, Interim] = {}
        """What a client was told last and has to forget."""
        self._passed_ms = 0.0

    def is_news(self, event: Interim) -> bool:
        """Whether to tell it: it is newer than all that is known of its channel."""
        latest = event.start_ms, event.revision
        if event.start_ms < self._passed_ms or latest <= self._latest.get(event.channel, (-1, 0)):
            return False
        self._latest[event.channel] = latest
        self._told[event.channel] = event
        return True

    def finished(self, event: Segment) -> None:
        """A finished utterance is told."""
        latest = event.start_ms, math.inf
        self._latest[event.channel] = max(latest, self._latest.get(event.channel, latest))
        if (told := self._told.get(event.channel)) and told.start_ms <= event.start_ms:
            del self._told[event.channel]

    def passed(self, at_ms: float) -> list[Interim]:
        """All that was said before `at_ms`, infinite at the call's end, is finished and told: what was interim before
        it has come to nothing."""
        self._passed_ms = max(self._passed_ms, at_ms)
        gone = [event for _, event in sorted(self._told.items()) if event.start_ms < at_ms]
        for event in gone:
            del self._told[event.channel]
        return gone
