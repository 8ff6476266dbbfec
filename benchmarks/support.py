"""What the benchmarks share: a temporary home with a broker of its own, the machine in words, tables, percentiles.

A changer must know: a benchmark measures this machine with the embedded parts, never somebody's cluster, so a
configured Kafka or ClickHouse is refused.
"""

import contextlib
import importlib.metadata
import math
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import confluent_kafka
import psutil

from deploy.broker import KAFKA_VERSION
from deploy.process import free_port
from schemas.errors import CalltideError
from streams.settings import Settings, load

ROOT = Path(__file__).parent.parent


@dataclass(slots=True)
class Table:
    """One table of a report; `data` is what it was made from, for JSON."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)
    data: Any = None

    def markdown(self) -> str:
        """The table with its title above and its notes below."""
        lines = [f"**{self.title}**", "", "| " + " | ".join(self.columns) + " |"]
        lines += ["|" + "---|" * len(self.columns), *("| " + " | ".join(row) + " |" for row in self.rows)]
        return "\n".join([*lines, "", *(f"{note}\n" for note in self.notes)])


@contextlib.contextmanager
def temporary_home() -> Iterator[Settings]:
    """The settings of an installation that is gone afterwards, on free ports; child processes see them too.

    The broker's jars are those of the user's home. Raises CalltideError when a Kafka or a ClickHouse is configured.
    """
    usual = load()
    if usual.kafka.bootstrap_servers or usual.clickhouse.url:
        raise CalltideError(
            "benchmarks measure this machine with the embedded broker and ClickHouse; unset "
            "CALLTIDE_KAFKA__BOOTSTRAP_SERVERS and CALLTIDE_CLICKHOUSE__URL"
        )
    jars = usual.directory / "kafka" / "jars"
    jars.mkdir(parents=True, exist_ok=True)
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="calltide-benchmark-") as name:
        home = Path(name)
        (home / "kafka").mkdir()
        (home / "kafka" / "jars").symlink_to(jars)
        os.environ["CALLTIDE_HOME"] = name
        # What a client says while a fresh broker settles is no news here.
        os.environ["CALLTIDE_KAFKA__CLIENT"] = '{"log_level": "3"}'
        for part in ("BROKER", "CLICKHOUSE", "GATEWAY", "WEB"):
            os.environ[f"CALLTIDE_{part}__PORT"] = str(free_port())
        load.cache_clear()
        try:
            yield load()
        finally:
            os.environ.clear()
            os.environ.update(before)
            load.cache_clear()


def machine() -> dict[str, str]:
    """What the figures depend on: hardware, versions, commit, day."""
    versions = [f"Python {platform.python_version()}", f"Kafka {KAFKA_VERSION}"]
    versions.append(f"librdkafka {confluent_kafka.libversion()[0]}")
    packages = ("confluent-kafka", "onnxruntime", "ctranslate2", "faster-whisper", "chdb")
    versions += [f"{package} {importlib.metadata.version(package)}" for package in packages]
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True, capture_output=True, check=False
    )
    return {
        "machine": f"{psutil.cpu_count()} CPU cores ({_cpu_model()}), {psutil.virtual_memory().total / 2**30:.0f} GB",
        "versions": ", ".join(versions),
        "commit": git.stdout.strip() or "none",
        "date": datetime.now(UTC).date().isoformat(),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed; NaN when there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]
