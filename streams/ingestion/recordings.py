"""A call that is to be kept, as a WAV file: what its connection sent, as it came (16 bit, one channel).

A changer must know: it is written in the event loop, into the page cache, and a disk that is full or slow to open costs
the recording and never the call.
"""

import logging
import re
import uuid
import wave
from collections.abc import Sequence
from pathlib import Path

from streams.ingestion import metrics
from streams.protocols.base import Audio, Began, Event

log = logging.getLogger(__name__)


class Recording:
    """The file of one connection, in `directory`; it is there with the first sample and whole once `close` was called.

    It is named by the call and has a name of its own, so that a reconnect overwrites nothing.
    """

    def __init__(self, directory: Path) -> None:
        self.path: Path | None = None
        self._directory = directory
        self._file: wave.Wave_write | None = None

    def take(self, events: Sequence[Event]) -> None:
        """What a message meant."""
        try:
            for event in events:
                if isinstance(event, Began):
                    self._open(event)
                elif isinstance(event, Audio) and self._file is not None:
                    self._file.writeframesraw(event.samples)
        except OSError as error:
            self._failed(error)

    def close(self) -> None:
        """Finish the file. A second time does nothing."""
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            self._failed(error)
        self._file = None

    def _open(self, began: Began) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.-]+", "-", began.call_id, flags=re.ASCII).strip("-.")[:80]
        self.path = self._directory / f"{name}-{uuid.uuid4().hex[:8]}.wav"
        self._file = wave.open(str(self.path), "wb")  # noqa: SIM115  kept open for the length of the call
        self._file.setnchannels(1)
        self._file.setsampwidth(2)
        self._file.setframerate(began.rate)

    def _failed(self, error: OSError) -> None:
        self._file = None
        metrics.UNSAVED.inc()
        log.error("a recording is not kept: %s", error, extra={"path": str(self.path)})
