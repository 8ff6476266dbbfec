"""What each process of the chain costs: CPU seconds for a second of call, CPU when nothing is heard, memory."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

from benchmarks.support import Table
from schemas.topics import STAGES
from streams.supervisor import Supervisor

if TYPE_CHECKING:
    from benchmarks.latency import Run

CALLS: Final = 8
"""Concurrent calls of the run that is reported."""
BENCHMARK: Final = "ingest, client"


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds, user and system, and resident bytes of a process with its children."""

    cpu_s: float
    rss: int


def usage(supervisor: Supervisor) -> dict[str, Usage]:
    """Of every process since its start, by name."""
    pids = {service.name: service.process.pid for service in supervisor.services if service.process is not None}
    if supervisor.broker is not None and supervisor.broker.pid is not None:
        pids = {"broker": supervisor.broker.pid} | pids
    found = {name: _of([psutil.Process(pid), *psutil.Process(pid).children(True)]) for name, pid in pids.items()}
    return found | {BENCHMARK: _of([psutil.Process(os.getpid())])}


def _of(processes: Sequence[psutil.Process]) -> Usage:
    cpu_s, rss = 0.0, 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            cpu_s += times.user + times.system
            rss += process.memory_info().rss
    return Usage(cpu_s, rss)


def since(before: dict[str, Usage], after: dict[str, Usage], seconds: float) -> dict[str, Usage]:
    """CPU seconds for each of `seconds` between two looks, and the memory at the second."""
    return {name: Usage((now.cpu_s - before[name].cpu_s) / seconds, now.rss) for name, now in after.items()}


def tables(runs: Sequence["Run"]) -> list[Table]:
    """The cost of the run with CALLS calls."""
    (run,) = (run for run in runs if run.calls == CALLS)
    stages = [row.name for row in STAGES]
    names = [*stages, *(name for name in run.used if name not in stages)]
    rows: list[tuple[str, ...]] = [
        (
            name,
            f"{run.used[name].cpu_s * 1_000:.1f} ms",
            f"{run.idle[name].cpu_s:.1%}",
            f"{run.used[name].rss / 2**20:.0f}",
        )
        for name in names
    ]
    total = [sum(usage.cpu_s for name, usage in each.items() if name != BENCHMARK) for each in (run.used, run.idle)]
    memory = sum(usage.rss for name, usage in run.used.items() if name != BENCHMARK) / 2**20
    rows.append(("**all but the last**", f"**{total[0] * 1_000:.1f} ms**", f"**{total[1]:.1%}**", f"**{memory:.0f}**"))
    wall_s = run.done - run.began
    return [
        Table(
            f"CPU and memory with {CALLS} calls at once",
            ("process", "CPU for a second of call", "CPU of a core when idle", "memory, MB"),
            rows,
            [
                f"The {run.call_s:.0f} s of call took {wall_s:.0f} s; the chain kept "
                f"{total[0] * run.call_s / wall_s:.2f} cores busy."
            ],
            {
                "used": {n: (u.cpu_s, u.rss) for n, u in run.used.items()},
                "idle": {n: u.cpu_s for n, u in run.idle.items()},
            },
        )
    ]
