"""`python -m deploy.install base|dev`: a virtual environment in .venv with exactly what the locks say.

Runs on the system's Python, before anything is installed: standard library only. A changer must know: it does nothing
when the stamp in .venv holds the hash of the same lock files, so every file that decides what is installed must be in
that hash. dev.txt holds all of base.txt (a test says so), so an environment for tests serves the demo too.
"""

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = ROOT / "requirements"
LOCKS = {"base": ("base", "weights"), "dev": ("dev", "weights", "interop")}
NEWEST_LOCKED = (3, 14)
"""The newest Python for which every locked package has a wheel for Linux."""


class InstallError(Exception):
    """What failed and what to do, in one line."""


def lock_hash(level: str) -> str:
    """sha256 over the files that decide what is installed, and the environment's own description."""
    digest = hashlib.sha256()
    locks = (REQUIREMENTS / f"{lock}.txt" for lock in LOCKS[level])
    for file in (*locks, ROOT / "pyproject.toml", VENV / "pyvenv.cfg"):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def stamp(level: str) -> Path:
    """The file that holds the hash of what was installed last."""
    return VENV / f"installed-{level}.sha256"


def is_usable() -> bool:
    """Whether .venv is whole and of the Python that runs this."""
    if not (PYTHON.exists() and (VENV / "bin" / "pip").exists()):
        return False
    made_with = re.search(r"^version(?:_info)?\s*=\s*(\d+)\.(\d+)", (VENV / "pyvenv.cfg").read_text(), re.M)
    return made_with is not None and tuple(map(int, made_with.groups())) == sys.version_info[:2]


def is_current(level: str) -> bool:
    """Whether .venv already holds what the locks of `level` say."""
    return is_usable() and stamp(level).exists() and stamp(level).read_text() == lock_hash(level)


def run(what: str, command: Sequence[str | Path], remedy: str) -> None:
    """Run one step and print how long it took. Raises InstallError with `remedy` when it fails."""
    print(f"  {what} …", end=" ", flush=True)
    begun = time.monotonic()
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print("failed")
        print(done.stdout + done.stderr, file=sys.stderr)
        raise InstallError(f"{what} failed; {remedy}")
    print(f"{time.monotonic() - begun:.1f} s", flush=True)


def pip_install(*arguments: str | Path) -> list[str | Path]:
    """pip without dependency resolution: the locks are complete."""
    return [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *arguments]


def install(level: str) -> None:
    """Bring .venv to the state of the locks. Raises InstallError."""
    if is_current(level):
        return
    begun = time.monotonic()
    print(f"Installing into {VENV.name}", flush=True)
    if sys.version_info[:2] > NEWEST_LOCKED:
        print("  some packages may have no wheels for a Python this new; make PYTHON=python3.13 would choose another")
    if not is_usable():
        run(
            f"virtual environment of Python {sys.version.split()[0]}",
            [sys.executable, "-m", "venv", "--clear", VENV],
            "Python's venv and ensurepip are needed (on Debian and Ubuntu: apt install python3-venv)",
        )
    network = "check the network and run the same command again"
    for lock in LOCKS[level]:
        path = REQUIREMENTS / f"{lock}.txt"
        count = sum(line[0].isalnum() for line in path.read_text().splitlines() if line)
        run(f"{count} packages of {path.relative_to(ROOT)}", pip_install("--require-hashes", "-r", path), network)
    run("calltide itself", pip_install("--no-build-isolation", "--editable", ROOT), "see above")
    stamp(level).write_text(lock_hash(level))
    print(f"Installed in {time.monotonic() - begun:.1f} s", flush=True)


def main() -> int:
    """Install what the one argument names: `base` to run, `dev` to work on Calltide."""
    level = sys.argv[1]
    if level == "base" and is_current("dev"):
        return 0
    try:
        install(level)
    except InstallError as error:
        print(f"calltide: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ncalltide: installation stopped; the same command goes on with it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
