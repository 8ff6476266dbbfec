"""The virtual environment of the Faust examples: faust-streaming wants older packages than Calltide.

It is made from requirements/examples-faust.txt on first use and kept under CALLTIDE_HOME. Used by compare.py and the
test; for app.py two commands do the same (docs/faust.md).
"""

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

from schemas.errors import CalltideError
from streams.settings import load

LOCK = Path(__file__).parents[2] / "requirements" / "examples-faust.txt"
INSTALL_S = 60.0
"""Judgement: it takes 14 s on two busy cores; a network that needs four times as long is not worth waiting for."""


@cache
def faust_python() -> Path:
    """The interpreter of the environment, made anew when the lock has changed.

    Raises CalltideError when it cannot be installed within `INSTALL_S` seconds.
    """
    home = load().directory / "faust-venv"
    python, stamp = home / "bin" / "python", home / "installed.sha256"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
        make: list[str | Path] = [sys.executable, "-m", "venv", "--clear", home]
        pip: list[str | Path] = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        try:
            for command in (make, [*pip, "--require-hashes", "-r", LOCK]):
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            reason = (str(error.stderr or "").strip().splitlines() or [str(error)])[-1]
            raise CalltideError(f"faust-streaming cannot be installed ({reason}); check the network") from error
        stamp.write_text(wanted)
    return python
