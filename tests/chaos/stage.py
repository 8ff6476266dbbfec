"""One worker of one stage with the models of this directory: `calltide stage` otherwise."""

import argparse
from pathlib import Path

from schemas.topics import STAGES, lanes
from schemas.topics import stage as row_of
from streams import kafka, service
from streams.runtime import StageWorker
from streams.settings import load
from tests.chaos.models import build


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.stage")
    parser.add_argument("name", choices=[row.name for row in STAGES])
    parser.add_argument("--slot", type=int, default=0)
    parser.add_argument("--ready", type=Path)
    arguments = parser.parse_args()
    settings, row = load(), row_of(arguments.name)
    kafka.check(settings)
    worker = StageWorker(settings, lanes(row), build(settings, row), arguments.slot)
    service.run(settings, arguments.ready, worker.run)


if __name__ == "__main__":
    main()
