"""Waiting for what tells nobody when it changes: a counter, a table, a topic.

Patience costs nothing where it is not needed: what is waited for comes within seconds, but on a busy machine of a third
of the speed.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil


def until(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Ask until it holds; fail with words when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def still_there(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended. One may be gone between any two questions about it."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
