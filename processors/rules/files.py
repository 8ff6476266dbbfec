"""Files of rules and the like on disk: which they are, and whether they have changed.

A changer must know: this is the one module of a stage that reads files after its start, so it is asked by `reload`
alone, between the turns of the loop, and never while records are processed.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final, Generic, TypeVar

from processors.rules.language import RuleSet, parse
from schemas.errors import CalltideError

PACKAGED: Final = "packaged"
NONE: Final = "none"
BYTES: Final = 4_000_000
"""Largest file. Judgement: more than a thousand long rules."""

T = TypeVar("T")


class YamlFiles(Generic[T]):
    """What a file says, or all `*.yaml` and `*.yml` of a directory together; PACKAGED: `starter.yaml` of the package;
    NONE: no text at all.

    `what` they are, for people, and the `setting` that names them.
    """

    def __init__(
        self, path: str, parse: Callable[[Mapping[str, str]], T], package: str, what: str, setting: str
    ) -> None:
        self._path = path
        self._parse = parse
        self._package = package
        self._what = what
        self._setting = setting
        self._seen: object = None

    def read(self) -> T:
        """What they say now. Raises CalltideError: there is no such file, or it is wrong."""
        self._seen = self._signature()
        return self._parse(self.texts())

    def texts(self) -> dict[str, str]:
        """File → what is in it now. Raises CalltideError: there is no such file, or it cannot be read."""
        if self._path == NONE:
            return {}
        if self._path == PACKAGED:
            return {"starter.yaml": (files(self._package) / "starter.yaml").read_text(encoding="utf-8")}
        root, texts = Path(self._path).expanduser(), {}
        for path in self.paths():
            try:
                if path.stat().st_size > BYTES:
                    raise CalltideError(f"{path} has more than {BYTES:,} bytes; cut it into several files")
                texts[path.name if root.is_dir() else str(path)] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise CalltideError(f"cannot read the {self._what} of {path} ({error}); mend it or remove it") from None
        return texts

    def changed(self) -> bool:
        """Whether files have come, gone or been written since `read` was called last."""
        return self._signature() != self._seen

    def paths(self) -> list[Path]:
        """The files. Raises CalltideError: there are none at that place."""
        root = Path(self._path).expanduser()
        if root.is_file():
            return [root]
        if not root.is_dir():
            raise CalltideError(
                f"there are no {self._what} at {self._path}; {self._setting} names a YAML file, a directory of such, "
                f"{PACKAGED} or {NONE}"
            )
        found = (path for pattern in ("*.yaml", "*.yml") for path in root.glob(pattern))
        return sorted(path for path in found if path.is_file() and not path.name.startswith("."))

    def _signature(self) -> object:
        if self._path in (PACKAGED, NONE):
            return None
        try:
            return tuple(self._stats())
        except (OSError, CalltideError) as error:
            return str(error)

    def _stats(self) -> Iterator[tuple[str, int, int, int]]:
        for path in self.paths():
            stat = path.stat()
            yield path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino


class RuleFiles(YamlFiles[RuleSet]):
    """Rules; PACKAGED: the starter set."""

    def __init__(self, path: str) -> None:
        super().__init__(path, parse, "processors.rules", "rules", "CALLTIDE_RULES__PATH")
