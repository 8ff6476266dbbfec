"""Records that kill the process that processes them, such as by a segfault in a native library.

No exception can be caught then. So a worker writes down what it is about to process, in a file that outlives it; the
next start tries those records one by one, and a record that was alone at its death is a dead letter on the third start.

A changer must know: a worker also dies because people, the kernel or the machine end it, whatever it is processing
then. Only a fatal signal of its own (the interpreter's faulthandler writes those down) counts as the record's doing
after two deaths; any other death needs four in a row at the same record.
"""

import faulthandler
import itertools
import json
import logging
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

SIZE: Final = 16_384
"""Bytes of the file; a batch from 200 partitions needs a third of it."""
FATAL_DEATHS: Final = 2
DEATHS: Final = 4
"""Judgement: short of the five that make `calltide up` give up."""


class KilledItsProcess(Exception):
    """This record was being processed, alone, whenever the process died."""


Spans = dict[str, list[int]]
"""`topic/partition` → first and last offset."""


class CrashRecord:
    """The record of one worker slot. `directory` must outlive the process, or nothing is remembered."""

    def __init__(self, directory: Path, member: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._fatal = (directory / f"{member}.fatal").open("a+")
        path = directory / f"{member}.doing"
        with path.open("ab") as file:
            file.truncate(SIZE)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE)
        self._deaths: list[dict[str, Any]] = []
        """The deaths before this start, oldest first; each with something in its hands."""
        self._look_back(member)

    def catch_fatal_signals(self) -> None:
        """From here on a segfault and its like leave their stack trace in the record. One worker a process."""
        faulthandler.enable(self._fatal)

    def suspects(self) -> dict[tuple[str, int], int]:
        """(topic, partition) → the last offset that was in hand at the last death: up to there, one by one."""
        if not self._deaths:
            return {}
        spans: Spans = self._deaths[-1]["spans"]
        return {(place.rpartition("/")[0], int(place.rpartition("/")[2])): last for place, (_, last) in spans.items()}

    def enter(self, topic: str, spans: Mapping[int, tuple[int, int]]) -> None:
        """These offsets (partition → first and last) are about to be processed."""
        self._write({"spans": {f"{topic}/{partition}": list(span) for partition, span in spans.items()}})

    def enter_alone(self, topic: str, partition: int, offset: int) -> None:
        """This record is about to be processed alone. Raises KilledItsProcess if that has killed the worker before."""
        deaths = list(itertools.takewhile(lambda death: _holds(death, topic, partition, offset), self._deaths[::-1]))
        fatal = sum(death["fatal"] for death in deaths)
        alone = deaths and deaths[0]["spans"] == {f"{topic}/{partition}": [offset, offset]}
        if alone and (fatal >= FATAL_DEATHS or len(deaths) >= DEATHS):
            raise KilledItsProcess(f"the process died {len(deaths)} times in a row while it processed this record")
        self.enter(topic, {partition: (offset, offset)})

    def leave(self) -> None:
        """It is done, and nobody died."""
        self._write({})

    def _look_back(self, member: str) -> None:
        self._fatal.seek(0)
        trace = self._fatal.read()
        self._fatal.truncate(0)
        text = self._map[:].rstrip(b"\0").split(b"\n")[0]
        try:
            last = json.loads(text) if text else {}
        except ValueError:
            last = {}  # it died while it wrote this: nothing was in hand yet
        if last.get("spans"):
            self._deaths = [*last.get("deaths", []), {"spans": last["spans"], "fatal": bool(trace)}][-DEATHS:]
        if trace:
            log.error("the last run of this worker ended by a fatal signal", extra={"worker": member, "trace": trace})
        self.leave()

    def _write(self, doing: dict[str, Any]) -> None:
        line = json.dumps(doing | {"deaths": self._deaths}).encode() + b"\n"
        if len(line) <= SIZE:
            self._map[: len(line)] = line


def _holds(death: dict[str, Any], topic: str, partition: int, offset: int) -> bool:
    first, last = death["spans"].get(f"{topic}/{partition}", (0, -1))
    return bool(first <= offset <= last)
