"""The file of the model of how calls end, which people make anew while the stage `metrics` runs.

A changer must know: like processors/rules/files.py it is asked between the turns of the loop alone.
"""

from pathlib import Path
from typing import Final

from processors.outlook import Model, parse
from schemas.errors import CalltideError

NONE: Final = "none"


class ModelFile:
    """A path, or NONE. A file that is not there is no fault: there is no outlook until somebody trains one."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser() if path not in ("", NONE) else None
        self._seen: object = None

    def changed(self) -> bool:
        """Whether the file has come, gone or been written since `read` was called last."""
        return self._signature() != self._seen

    def read(self) -> Model | None:
        """The model as it is now; None: there is none. Raises CalltideError for a file that is wrong."""
        self._seen = self._signature()
        if self._path is None or self._seen is None:
            return None
        try:
            return parse(self._path.read_text(encoding="utf-8"), str(self._path))
        except (OSError, UnicodeDecodeError) as error:
            raise CalltideError(f"cannot read {self._path} ({error}); mend it or remove it") from None

    def _signature(self) -> object:
        if self._path is None:
            return None
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
