"""Recordings kept because who brought the call asked for it (`/microphone?save=1`): one FLAC file a connection.

A changer must know: a call never fails because its recording does. What cannot be written is logged and counted, and
the recording ends there.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
from prometheus_client import Counter

log = logging.getLogger(__name__)

MOST_OF_ONE_NAME: Final = 1_000
"""Recordings under one call's name. Judgement: no connection breaks so often."""

FAILED = Counter("calltide_ingest_recordings_failed", "Recordings that could not be kept, or not to their end")


class Recording:
    """A file in `folder` for 16-bit little-endian samples of one channel at `rate` Hz. A file that is there stays."""

    def __init__(self, folder: Path, call_id: str, rate: int) -> None:
        self.path: Path | None = None
        self._file: soundfile.SoundFile | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = _free(folder, call_id)
            # FLAC: what was written before a power cut can be read, which the header of a WAV file does not allow.
            self._file = soundfile.SoundFile(self.path, "x", rate, 1, "PCM_16", format="FLAC")
        except (OSError, soundfile.LibsndfileError) as error:
            self._failed(error)

    def write(self, samples: bytes) -> None:
        """Add samples. Never raises."""
        if self._file is None:
            return
        try:
            self._file.write(np.frombuffer(samples, "<i2"))
        except (OSError, soundfile.LibsndfileError) as error:
            self._failed(error)

    def close(self) -> None:
        """The recording is whole. A second time does nothing. Never raises."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
        except (OSError, soundfile.LibsndfileError) as error:
            self._failed(error)
        else:
            log.info("recording kept", extra={"path": str(self.path)})

    def _failed(self, error: Exception) -> None:
        FAILED.inc()
        log.error("recording not kept", extra={"path": str(self.path), "reason": str(error)[:200]})
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except (OSError, soundfile.LibsndfileError):
                pass  # it is told already


def _free(folder: Path, call_id: str) -> Path:
    """A name that tells the call and that no file has. Raises OSError when there is none left."""
    name = re.sub(r"[^\w-]+", "-", call_id, flags=re.ASCII).strip("-")[:64]
    if name != call_id:
        # Two calls that look alike without what a file name cannot hold are still two.
        name = f"{name or 'call'}-{hashlib.sha256(call_id.encode()).hexdigest()[:8]}"
    for number in range(1, MOST_OF_ONE_NAME):
        path = folder / f"{name}{f'.{number}' if number > 1 else ''}.flac"
        if not path.exists():
            return path
    raise OSError(f"{MOST_OF_ONE_NAME} recordings of the call {name} are there; take some away")
