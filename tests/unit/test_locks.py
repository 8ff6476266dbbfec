"""The locks are whole, hashed, free of addresses, and what pyproject.toml asks for."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import install

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]


def pins(lock: str) -> dict[str, str]:
    """Package → pinned version."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.M)}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_pin_has_hashes_and_nothing_names_a_host_or_a_path(path: Path) -> None:
    entries = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    pinned = [number for number, line in enumerate(entries) if not line.startswith(" ")]
    assert pinned
    for number in pinned:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+", entries[number])
        assert entries[number + 1].startswith("    --hash=sha256:")
    assert "/" not in path.read_text()


def test_what_runs_the_tests_also_runs_the_demo() -> None:
    assert pins("base").items() <= pins("dev").items()


def test_what_is_installed_for_tests_alone_changes_nothing_else() -> None:
    assert not pins("interop").keys() & pins("dev").keys()


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("base", PROJECT["project"]["dependencies"]),
        ("base", PROJECT["build-system"]["requires"]),
        ("dev", EXTRAS["dev"]),
    ],
    ids=["dependencies", "build", "dev"],
)
def test_the_lock_has_what_the_project_asks_for(lock: str, wanted: list[str]) -> None:
    pinned = pins(lock)
    asked = [Requirement(line) for line in wanted]
    # The project's own extras stand for what they ask for.
    own = [requirement for requirement in asked if requirement.name == PROJECT["project"]["name"]]
    asked += [Requirement(line) for requirement in own for extra in requirement.extras for line in EXTRAS[extra]]
    for requirement in asked:
        if requirement in own:
            continue
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}: run `make lock`"


DISTRIBUTIONS = {
    "dotenv": "python-dotenv",
    "jwt": "PyJWT",
    "parselmouth": "praat-parselmouth",
    "re2": "google-re2",
    "stdnum": "python-stdnum",
    "yaml": "PyYAML",
    "pyannote": "pyannote-metrics",
    "sklearn": "scikit-learn",
    "text_to_num": "text2num",
}
"""Packages that are imported by another name than they are installed by."""


def test_what_is_imported_is_what_is_declared() -> None:
    own = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    imported = set()
    for file in (file for package in own for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(own) - sys.stdlib_module_names
    others = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in foreign}
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    optional = {
        canonicalize_name(Requirement(line).name)
        for extra, lines in EXTRAS.items()
        if extra not in ("dev", "train")
        for line in lines
    }
    assert others - optional == declared


@pytest.mark.parametrize("name", ["weights", "train-weights", "interop", "examples-faust"])
def test_the_lock_has_what_its_list_asks_for(name: str) -> None:
    lines = (ROOT / "requirements" / f"{name}.in").read_text().splitlines()
    for requirement in (Requirement(line) for line in lines if not line.startswith("#")):
        assert requirement.specifier.contains(pins(name)[canonicalize_name(requirement.name)])


def test_an_environment_is_current_only_for_the_locks_it_was_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, requirements = tmp_path / ".venv", tmp_path / "requirements"
    (venv / "bin").mkdir(parents=True)
    requirements.mkdir()
    for file in (venv / "bin" / "python", venv / "bin" / "pip", tmp_path / "pyproject.toml"):
        file.touch()
    (venv / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {sys.version.split()[0]}\n")
    for lock in ("base", "weights"):
        (requirements / f"{lock}.txt").write_text("first==1\n")
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "VENV", venv)
    monkeypatch.setattr(install, "PYTHON", venv / "bin" / "python")
    monkeypatch.setattr(install, "REQUIREMENTS", requirements)
    assert not install.is_current("base")
    install.stamp("base").write_text(install.lock_hash("base"))
    assert install.is_current("base")
    (requirements / "weights.txt").write_text("first==2\n")
    assert not install.is_current("base")
    (requirements / "weights.txt").write_text("first==1\n")
    (venv / "pyvenv.cfg").write_text("version = 3.9.1\n")
    install.stamp("base").write_text(install.lock_hash("base"))
    assert not install.is_current("base")
