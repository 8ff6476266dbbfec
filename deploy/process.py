"""Child processes that end with the program that started them.

`calltide up` and the embedded servers start their children here. Three things hold for each child:

- it has a session of its own, so Ctrl-C in a terminal reaches the parent alone, which stops its children in order;
- it does not outlive its parent, not even one killed with -9. On Linux the kernel sends it SIGTERM then
  (PR_SET_PDEATHSIG). Elsewhere nothing can be asked of the kernel: the pid files of the embedded servers let the next
  start find and end what was left behind (`end_orphan`);
- what it writes to stdout and stderr goes to a file.

A changer must know: PR_SET_PDEATHSIG fires when the *thread* that forked ends, not the process. That is why every child
has a thread of its own here that starts it and waits for it.
"""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import psutil

PORTS = range(20_000, 32_768)
"""Those that `free_port` gives."""
_given: set[int] = set()

# Runs in the child and becomes the program: prctl(PR_SET_PDEATHSIG, SIGTERM) survives exec. Not a preexec_fn, which
# runs Python between fork and exec and may hang when another thread held a lock at the fork.
_TIE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)  # the parent went before the call: no signal will come
os.execv(sys.argv[2], sys.argv[2:])
"""


def spawn(
    command: Sequence[str | Path], *, output: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `command`, tied to this process, with stdout and stderr at the end of the file `output`.

    The first part of `command` is an absolute path. `env` is added to the environment. Raises OSError when the program
    or the file cannot be opened.
    """
    arguments = [str(part) for part in command]
    if sys.platform == "linux":
        arguments = [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *arguments]
    started: Future[subprocess.Popen[bytes]] = Future()

    def run() -> None:
        try:
            with output.open("ab") as out:
                process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env={**os.environ, **(env or {})},
                    start_new_session=True,
                )
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(process)
        process.wait()

    threading.Thread(target=run, name=f"child {Path(command[0]).name}", daemon=True).start()
    try:
        return started.result()
    except KeyboardInterrupt:
        # Ctrl-C in just this moment: nobody would know of the child.
        started.result().kill()
        raise


def stop(process: subprocess.Popen[bytes], grace: float) -> int:
    """SIGTERM, wait `grace` seconds, then kill. Returns the exit status (negative: the signal that ended it)."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def stop_all(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> None:
    """SIGTERM to all of them at once, then as `stop`: they share the `grace` seconds."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    deadline = time.monotonic() + grace
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_orphan(pid_file: Path, mark: str, grace: float) -> None:
    """End the process named in `pid_file` if it still runs and `mark` is in its command line (pids are reused).

    For a child left behind by a parent that was killed. The caller holds the lock of the directory, so nobody else
    can be its rightful owner.
    """
    try:
        orphan = psutil.Process(int(pid_file.read_text()))
        if not any(mark in part for part in orphan.cmdline()):
            return
        orphan.terminate()
        try:
            orphan.wait(grace)
        except psutil.TimeoutExpired:
            orphan.kill()
            orphan.wait(grace)
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return


def free_port(row: int = 1) -> int:
    """A port on loopback that nobody listens on now, and that this process was not given before; with `row`, the first
    of so many that lie one after the other.

    Below those that the kernel gives to outgoing connections (from 32768 on Linux, 49152 elsewhere). A broker that was
    killed comes back to its port, and a client that keeps trying to reach it meanwhile might be given that port as its
    own: it would be connected to itself, and the broker could not start.
    """
    while True:
        first = PORTS.start + secrets.randbelow(len(PORTS) - row + 1)
        ports = range(first, first + row)
        if _given.isdisjoint(ports) and all(map(_is_free, ports)):
            _given.update(ports)
            return first


def keep_free(port: int) -> None:
    """`free_port` is not to give this port to anybody: something else is meant to have it."""
    _given.add(port)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def holder_of_port(port: int) -> str:
    """` by process 4711 (java)` for the process that listens on `port`; empty where that may not be read."""
    try:
        for connection in psutil.net_connections("tcp"):
            here = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
            if here and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        pass
    return ""


def last_lines(path: Path, count: int, since: int = 0) -> list[str]:
    """The last `count` lines of a log file (of its last 64 KiB, after byte `since`); none if it is not there."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(since if since <= size else 0, size - 65536))  # smaller than `since`: begun anew
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
