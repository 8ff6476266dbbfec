"""Imports point one way, and processors compute without touching the world.

The table is the rule; the tests below it hold the tree to it, and hold the checks themselves to examples of what they
must find.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAY_IMPORT: dict[str, frozenset[str]] = {
    "schemas": frozenset({"schemas"}),
    "clients": frozenset({"clients"}),
    "processors": frozenset({"processors", "schemas"}),
    "streams": frozenset({"streams", "processors", "schemas", "deploy", "dashboards.files"}),
    "dashboards": frozenset({"dashboards", "schemas", "deploy"}),
    "deploy": frozenset({"deploy", "schemas", "streams.settings"}),
    "training": frozenset({"training", "streams", "processors", "schemas"}),
}
"""Folder → what of this repository it may import. Tests, benchmarks and examples may import anything.

Of dashboards/ the rest needs grafana-foundation-sdk, which is there in development only.
"""

FREE = frozenset({"tests", "benchmarks", "examples"})

OWN = frozenset(MAY_IMPORT) | FREE

# fmt: off
NO_WORLD = frozenset({
    "aiohttp", "asyncio", "boto3", "chdb", "clickhouse_connect", "confluent_kafka", "ctypes", "fastapi", "glob", "http",
    "httpx", "logging", "multiprocessing", "prometheus_client", "psutil", "random", "requests", "rich", "secrets",
    "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "typer",
    "urllib", "uuid", "uvicorn", "uvloop", "websockets",
})
# fmt: on
"""Modules of I/O, clocks, threads and randomness: nowhere in processors/."""

NO_FILES = frozenset({"importlib.metadata", "importlib.resources", "io", "os", "pathlib", "sys"})
"""Modules that reach files and the process: only in processors/models/, where constructors load weights."""

READ_BETWEEN_TURNS = frozenset({ROOT / "processors" / "rules" / "files.py", ROOT / "processors" / "outlook_file.py"})
"""Modules of what people change while a stage runs: a shell asks for it between turns (processors.base.Reloadable)."""

NO_CALLS = frozenset({"now", "utcnow", "today"})
"""Methods that read the clock, of whatever class."""

NO_FILE_CALLS = frozenset({"open", "print", "input", "exec", "eval"})


def python_files(folder: str) -> list[Path]:
    """Every module of a top-level folder."""
    return sorted((ROOT / folder).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import; `from a import b` counts as `a.b`, since b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(module: str, prefixes: frozenset[str]) -> bool:
    """Whether a dotted module is one of `prefixes` or inside one."""
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def wrong_direction(source: str, folder: str) -> list[str]:
    """Imports of this repository that `folder` may not make, as `line: module`."""
    return [
        f"{line}: {module}"
        for line, module in imports(ast.parse(source))
        if within(module, OWN) and not within(module, MAY_IMPORT[folder])
    ]


def is_seeded(call: ast.Call) -> bool:
    """Whether a call makes a generator with a written-out seed: the same numbers every time."""
    seeded = len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and call.args[0].value is not None
    return ast.unparse(call.func).endswith(".default_rng") and seeded


def impurities(source: str, *, loads_weights: bool = False) -> list[str]:
    """What in a processor's source touches the world, as `line: what`."""
    tree = ast.parse(source)
    modules = NO_WORLD if loads_weights else NO_WORLD | NO_FILES
    found = [f"{line}: {module}" for line, module in imports(tree) if within(module, modules)]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in NO_FILE_CALLS and not loads_weights:
            found.append(f"{node.lineno}: {called.id}()")
        elif isinstance(called, ast.Attribute) and called.attr in NO_CALLS:
            found.append(f"{node.lineno}: .{called.attr}()")
        elif ast.unparse(called).startswith(("np.random.", "numpy.random.")) and not is_seeded(node):
            found.append(f"{node.lineno}: {ast.unparse(called)}()")
    return found


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_imports_point_one_way(folder: str) -> None:
    files = python_files(folder)
    assert files
    wrong = [f"{file.relative_to(ROOT)}:{hit}" for file in files for hit in wrong_direction(file.read_text(), folder)]
    assert not wrong, f"{folder} may import {sorted(MAY_IMPORT[folder])} only"


def test_every_folder_of_code_has_a_rule() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/*.py") if not path.parent.name.startswith(".")}
    assert folders <= OWN, "add the new folder to MAY_IMPORT, or to FREE if nothing depends on it"


@pytest.mark.parametrize("file", python_files("processors"), ids=lambda file: str(file.relative_to(ROOT)))
def test_processors_do_not_touch_the_world(file: Path) -> None:
    reads_files = file.is_relative_to(ROOT / "processors" / "models") or file in READ_BETWEEN_TURNS
    assert not impurities(file.read_text(), loads_weights=reads_files)


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("schemas", "import processors.vad"),
        ("schemas", "from streams import settings"),
        ("processors", "from streams.settings import load"),
        ("processors", "def late():\n    import deploy.broker"),
        ("deploy", "from streams.runtime import run"),
        ("deploy", "import streams"),
        ("training", "from tests import conftest"),
        ("streams", "import benchmarks"),
        ("streams", "from dashboards import common"),
    ],
)
def test_a_wrong_import_is_found(folder: str, source: str) -> None:
    assert len(wrong_direction(source, folder)) == 1


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("deploy", "from streams.settings import Settings"),
        ("streams", "from schemas.topics import STAGES\nimport processors.base\nimport json"),
        ("streams", "from dashboards.files import committed"),
        ("processors", "from processors.models import silero"),
    ],
)
def test_a_right_import_passes(folder: str, source: str) -> None:
    assert not wrong_direction(source, folder)


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "import confluent_kafka.admin",
        "from random import choice",
        "from datetime import datetime\nx = datetime.now()",
        "import numpy as np\nx = np.random.rand(3)",
        "import numpy as np\nx = np.random.default_rng()",
        "import numpy as np\nx = np.random.default_rng(None)",
        "f = open('state.bin')",
        "from pathlib import Path",
        "print('here')",
    ],
)
def test_an_impurity_is_found(source: str) -> None:
    assert len(impurities(source)) == 1


def test_a_generator_with_a_written_seed_is_no_randomness() -> None:
    assert not impurities("import numpy as np\nx = np.random.default_rng(1)")


def test_models_may_read_weights_but_not_the_clock() -> None:
    assert not impurities("from pathlib import Path\nw = Path('w').read_bytes()", loads_weights=True)
    assert impurities("import time", loads_weights=True)
