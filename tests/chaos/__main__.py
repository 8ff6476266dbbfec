"""`make chaos`: the real chain, calls in both lanes, kill -9 of everything again and again, and then a comparison with
what an undisturbed chain makes of the same calls (docs/chaos.md).

A changer must know: nothing here may help the chain along. What dies is started again by the supervisor of
`calltide up`, and whatever is waited for here, the chain does by itself.
"""

import argparse
import contextlib
import http.client
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar, Final

from rich.console import Console
from rich.table import Table

from deploy.process import free_port
from schemas.errors import CalltideError
from schemas.topics import STAGES
from streams import stages
from streams.settings import Settings, load
from streams.supervisor import PORTS, Supervisor
from tests.chaos import comparison, models
from tests.chaos.comparison import Result
from tests.chaos.kills import EVERYTHING_ONCE, ONE_ROUND, Kill, Killer, plan
from tests.chaos.observers import Client, Rows, Topics, query, until
from tests.chaos.recordings import cut, hear
from tests.chaos.telephone import PATIENCE_S, Telephone

RECORDINGS: Final = 40
"""So many different ones at most: longer runs send them again."""
ROUND_S: Final = 100.0
"""A run has a round of kills for so many seconds, 50 kills, one in two seconds; a shorter one its part of them."""
SETTLE_S: Final = 120.0
"""Judgement: the last rows and tombstones are there so soon after the last call has ended, or never."""
RUNS: Final = 3
INSIDE: Final = "CHAOS_INSIDE"
"""Environment variable of the process that does the work."""
SHOWN: Final = 10
"""Differences that are printed."""

console = Console(highlight=False, width=110)


class Undaunted(Supervisor):
    """As `calltide up`, but it does not give up on what keeps dying."""

    RESTARTS: ClassVar[int] = 1_000_000
    RESTART_WINDOW_S: ClassVar[float] = 1.0


class WithSmallModels(Undaunted):
    """The stages as `tests.chaos.stage` runs them."""

    def commands(self) -> dict[str, list[str]]:
        return super().commands() | {row.name: ["-m", "tests.chaos.stage", row.name] for row in STAGES}


class Run:
    """One run, in the home of `settings`."""

    def __init__(self, options: argparse.Namespace, settings: Settings) -> None:
        self.options = options
        self.settings = settings
        self.begun = time.monotonic()
        self.results: list[Result] = []
        self.faults: list[str] = []
        """What is wrong beside losses and doubles."""
        self.twice_until_merged = 0
        supervisor = Undaunted if options.real_models else WithSmallModels
        self.supervisor = supervisor(settings, logging.getLogger("supervisor").info)
        rounds = options.minutes * 60 / ROUND_S
        rounds = int(rounds) if rounds >= 1 else rounds
        many = {part: max(1, round(rounds * times)) for part, times in ONE_ROUND.items()}
        kills = EVERYTHING_ONCE if options.real_models else many
        self.to_kill = sum(kills.values())
        pause_s = options.minutes * 60 / self.to_kill
        self.killer = Killer(self.supervisor, plan(kills, pause_s, options.seed))

    def say(self, text: str) -> None:
        """A line of progress."""
        console.print(f"[dim]{time.monotonic() - self.begun:6.1f} s[/]  {text}")

    def go(self) -> bool:
        """True if nothing was lost, doubled, changed or left behind."""
        options, settings = self.options, self.settings
        build = stages.build if options.real_models else models.build
        recordings = cut(settings.directory / "recordings", min(RECORDINGS, options.calls), options.seed)
        hear(recordings, lambda row: build(settings, row), settings.ingest.packet_ms)
        self.say(f"{len(recordings)} recordings, heard undisturbed")
        with self.supervisor:
            self.telephone = Telephone(settings, recordings, options.at_once, options.seed)
            self.client = Client(settings, self.killer.seen)
            observers = (
                self.client,
                Topics(settings, self.killer.seen, self.telephone.came_out),
                Rows(settings, self.killer.seen, self.killer.waiting_for),
            )
            for observer in observers:
                observer.start()
            self.client.connected.wait(60)
            self.say(f"everything runs, {self.to_kill} kills to come (seed {options.seed}); {settings.directory}")
            self._disturb()
            self._compare()
            for observer in observers:
                observer.close()
        self.faults += [f"{observer.name}: {error!r}" for observer in observers for error in observer.failures]
        self.faults += [f"an ingest ended: {error}" for error in self.telephone.failures]
        self.faults += [f"{kill.part} was not seen to work again" for kill in self.killer.kills if kill.works is None]
        self.faults += [f"the gateway told a client of a gap: {gap}" for gap in self.client.gaps]
        self._show()
        return not self.faults and all(result.good for result in self.results)

    def _disturb(self) -> None:
        """Calls and kills, until there were enough of both, and all calls have come out."""
        begun, told = time.monotonic(), 0
        self.telephone.start()

        def enough() -> bool:
            nonlocal told
            self.killer.tend()
            done = [kill for kill in self.killer.kills if kill.works is not None]
            for kill in sorted(done, key=lambda one: one.works or 0.0)[told:]:
                self._tell(kill, len(done))
            told = len(done)
            return (
                time.monotonic() - begun >= self.options.minutes * 60
                and len(self.telephone.calls) >= self.options.calls
                and told == self.to_kill
            )

        until(enough, self.options.minutes * 120 + PATIENCE_S, self.supervisor.tend)
        self.telephone.stop()
        self.say(f"{len(self.killer.kills)} kills done, {self.telephone.finished} calls have ended; now the rest")
        until(lambda: not self.telephone.busy, PATIENCE_S + SETTLE_S, self.supervisor.tend)

    def _tell(self, kill: Kill, done: int) -> None:
        self.say(
            f"kill -9 {kill.part:<11} works again after {kill.seconds:4.1f} s"
            f"  [dim]{done} of {self.to_kill} kills, {self.telephone.finished} calls[/]"
        )

    def _compare(self) -> None:
        """Wait for the last rows, messages and tombstones, then look at everything."""
        settings = self.settings
        sent = {call_id: one.recording.expected for call_id, one in self.telephone.calls.items()}

        def rows_are_in() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                sql = "SELECT count() FROM calls FINAL WHERE ended_at IS NOT NULL"
                return int(query(settings, sql)) >= len(sent)
            return False

        for arrived in (lambda: self.client.ended >= sent.keys(), rows_are_in):
            until(arrived, SETTLE_S, self.supervisor.tend)
        until(lambda: not comparison.open_states(settings), SETTLE_S, self.supervisor.tend)
        self.say(f"{len(sent)} calls sent, {self.telephone.finished} have ended; comparing")
        serving = (*self.supervisor.commands(), "broker")
        self.faults += [f"{name} does not serve" for name in serving if not self.supervisor.serves(name)]
        self.results.append(comparison.in_scores(settings, sent))
        self.results.append(comparison.at_the_client(sent, self.client.events))
        self.results += comparison.in_clickhouse(settings, sent)
        self.twice_until_merged = comparison.rows_twice(settings)
        self.faults += [f"state left behind: {one}" for one in comparison.open_states(settings)]
        self.faults += [f"dead letter: {one}" for one in comparison.dead_letters(settings)]

    def _show(self) -> None:
        options, kills = self.options, self.killer.kills
        how = "all real models" if options.real_models else "small models for ASR, emotion and sentiment"
        table = Table(
            title=f"{len(kills)} kills in {len(self.telephone.calls)} calls, {options.at_once} at a time; {how}",
            caption=f"seed {options.seed}; {self.client.connections} connections of the websocket client; "
            f"{self.twice_until_merged} rows twice in ClickHouse until it merges them",
            title_justify="left",
            caption_justify="left",
        )
        table.add_column("kill -9 of, and what came of it")
        for column in ("kills", "median s", "worst s", "records", "lost", "doubled", "different"):
            table.add_column(column, justify="right", no_wrap=True)
        for part in ONE_ROUND:
            of_part = [kill for kill in kills if kill.part == part]
            seconds = sorted(kill.seconds for kill in of_part if kill.seconds is not None)
            median = f"{statistics.median(seconds):.1f}" if seconds else ""
            worst = f"{seconds[-1]:.1f}" if len(seconds) == len(of_part) > 0 else "never"
            table.add_row(part, str(len(of_part)), median, worst, "", "", "", "")
        table.add_section()
        for result in self.results:
            counts = (result.records, result.lost, result.doubled, result.different)
            table.add_row(result.place, "", "", "", *map(str, counts), style="" if result.good else "bold red")
        console.print(table)
        details = self.faults + [detail for result in self.results for detail in result.details]
        for detail in details[:SHOWN]:
            console.print(detail, style="red", markup=False)
        if len(details) > SHOWN:
            console.print(f"and {len(details) - SHOWN} more", style="red")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Kill everything while calls are heard, and see what comes of it."
    )
    parser.add_argument("--minutes", type=float, default=None, help="how long calls and kills go on (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills and of the recordings")
    parser.add_argument("--calls", type=int, default=None, help="at least so many calls (default 40)")
    parser.add_argument("--at-once", type=int, default=None, help="calls at a time (default 8)")
    parser.add_argument(
        "--real-models",
        action="store_true",
        help="the chain as it is, every part killed once (default 1 minute, 12 calls, 3 at a time)",
    )
    parser.add_argument("--keep", action="store_true", help="keep topics, tables and logs; a run that fails does so")
    options = parser.parse_args(arguments)
    defaults = {"minutes": 1.0, "calls": 12, "at_once": 3} if options.real_models else {}
    for name, value in ({"minutes": 4.0, "calls": 40, "at_once": 8} | defaults).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.at_once < 2 or options.minutes <= 0:
        parser.error("--at-once is 2 or more, one for each lane, and --minutes above 0")
    return options


def _settings() -> Settings:
    """Those of the user, in a new home and on free ports: what this sets, the processes inherit."""
    users = load()
    if users.kafka.bootstrap_servers or users.clickhouse.url:
        raise CalltideError(
            "chaos kills its own Kafka and ClickHouse only; unset CALLTIDE_KAFKA__BOOTSTRAP_SERVERS and "
            "CALLTIDE_CLICKHOUSE__URL"
        )
    (users.directory / "chaos").mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="", dir=users.directory / "chaos"))
    (home / "kafka").mkdir()
    jars = users.directory / "kafka" / "jars"
    jars.mkdir(parents=True, exist_ok=True)
    (home / "kafka" / "jars").symlink_to(jars.resolve())
    os.environ |= {
        "CALLTIDE_HOME": str(home),
        # With less effort under load other words are heard, and say so; here they are to be the same.
        "CALLTIDE_RUNTIME__REDUCE_AT_LAG_S": "0",
        "OMP_NUM_THREADS": "1",
    }
    os.environ |= {port: str(free_port()) for port in PORTS}
    load.cache_clear()
    return load()


def _quiet(settings: Settings) -> Settings:
    """For what runs in this process: that a killed broker does not answer is no news here."""
    logging.getLogger("streams.kafka").setLevel("ERROR")
    kafka = settings.kafka.model_copy(update={"client": settings.kafka.client | {"log_level": "0"}})
    return settings.model_copy(update={"kafka": kafka})


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 if all is well."""
    options = _options(arguments)
    settings = _settings()
    (settings.directory / "logs").mkdir()
    logging.basicConfig(
        filename=settings.directory / "logs" / "chaos.log", level="INFO", format="%(asctime)s %(name)s %(message)s"
    )
    good = False
    try:
        good = Run(options, _quiet(settings)).go()
    finally:
        if good and not options.keep:
            shutil.rmtree(settings.directory)
        else:
            console.print(f"topics, tables and logs: {settings.directory}")
    return 0 if good else 1


def watched() -> int:
    """`main` in a process of its own, which its Kafka clients may crash when the broker dies (docs/chaos.md).

    A stage would be started again and go on, but what this program has seen is lost: it begins anew, and says so.
    """
    command, env = [sys.executable, "-m", "tests.chaos", *sys.argv[1:]], os.environ | {INSIDE: "1"}
    for _ in range(RUNS):
        code = subprocess.run(command, env=env, check=False).returncode
        if code != -signal.SIGSEGV:
            return code
        console.print("librdkafka crashed this program (its issue 5280), not the chain: all of it once more")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main() if INSIDE in os.environ else watched())
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
