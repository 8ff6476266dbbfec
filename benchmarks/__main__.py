"""`python -m benchmarks [NAME…]`: measure this machine, print tables, write them into docs/benchmarks.md.

A changer must know: docs/benchmarks.md holds the tables of NAME between `<!-- figures: python -m benchmarks NAME -->`
and `<!-- end of figures -->`; a run replaces what it measured and leaves the rest.
"""

import argparse
import sys
import time

from rich.console import Console

from benchmarks import cpu, latency, loop, overhead
from benchmarks.support import Table, add_outputs, publish
from schemas.errors import CalltideError

NAMES = {
    "loop": "records a second and latency of the loop without models",
    "latency": "end of speech to score at a websocket client, by number of concurrent calls",
    "cpu": f"CPU by process for a second of call, and memory, with {cpu.CALLS} calls",
    "overhead": "CPU of the chain beside that of the bare model calls",
}


def _arguments() -> argparse.Namespace:
    names = "\n".join(f"  {name:8} {what}" for name, what in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measure this machine. Without a name, all:\n{names}",
        epilog="The models' own: python -m benchmarks.asr, .diarization, .vad, .segmentation, .stages, "
        ".alerts, .explain, .production_models, .redaction, .floor (1 minute), .gateway (2), .uploads (3)\n"
        "Longer ones: python -m benchmarks.vad_load (6 minutes), .ingestion (5), .rebalance (6), .interim (6),\n"
        ".replay (20), .analytics (30), .memory (30 or more)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--list", action="store_true", help="only list the names")
    parser.add_argument(
        "--calls", type=int, nargs="+", default=latency.LEVELS, metavar="N", help="numbers of concurrent calls"
    )
    parser.add_argument(
        "--search",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"look for the number of calls at which p95 passes {latency.LIMIT_S:.0f} s (default: yes)",
    )
    add_outputs(parser)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if min(arguments.calls) < 1:
        parser.error("--calls takes numbers above 0")
    return arguments


def main() -> None:
    arguments, console = _arguments(), Console()
    names = arguments.names or list(NAMES)
    if arguments.list:
        for name, what in NAMES.items():
            console.print(f"{name:8} {what}", highlight=False)
        return
    began = time.monotonic()
    tables: dict[str, list[Table]] = {}
    if "loop" in names:
        console.print("the loop", highlight=False)
        tables["loop"] = loop.run()
    if {"latency", "cpu"} & set(names):
        console.print("the whole chain", highlight=False)
        levels = set(arguments.calls) if "latency" in names else set()
        runs = latency.measure(
            sorted(levels | ({cpu.CALLS} if "cpu" in names else set())),
            arguments.search and "latency" in names,
            console,
        )
        tables |= {name: module.tables(runs) for name, module in (("latency", latency), ("cpu", cpu)) if name in names}
    if "overhead" in names:
        console.print("the chain and its models alone", highlight=False)
        tables["overhead"] = overhead.tables(overhead.measure())
    publish({f"python -m benchmarks {name}": found for name, found in tables.items()}, arguments)
    console.print(f"took {time.monotonic() - began:.0f} s", highlight=False)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
