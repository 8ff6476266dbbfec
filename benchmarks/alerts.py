"""How long after a score an alert about it is at a websocket client.

`python -m benchmarks.alerts` takes a minute: calls in real time through a whole `calltide up`, and a rule that finds
every utterance with words, so that each score has an alert to wait for. One client hears both.

A changer must know: the score leaves by its own way while the rule is held against it, so the figure is the alert's own
way less the score's, as whoever watches both sees it.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.support import Table, add_outputs, percentile, publish, temporary_home
from schemas.errors import CalltideError
from streams import samples
from streams.ingest import Ingest, prepare
from streams.listen import subscribe
from streams.settings import load
from streams.supervisor import Supervisor

COMMAND: Final = "python -m benchmarks.alerts"
CALLS: Final = (1, 4)
AIM_S: Final = 0.1
WAIT_S: Final = 120.0
"""Judgement: the conversation takes 30 s, the rest is for a machine that is busy."""
RULES: Final = """
rules:
  - name: anything
    alert: {severity: info, cooldown_s: 0, message: Somebody has said something}
    when: {said: {regex: ['.']}}
"""


async def _listen(url: str, begin: threading.Thread, names: set[str]) -> tuple[dict[str, float], dict[str, float]]:
    """(identity → when its score came, identity → when the alert came that rests on it), monotonic seconds."""
    scores: dict[str, float] = {}
    alerts: dict[str, float] = {}
    ended: set[str] = set()
    messages = subscribe(url, kinds="score,alert,call_ended")
    await anext(messages)  # the hello: from here on nothing is missed
    begin.start()
    async with asyncio.timeout(WAIT_S):
        async for message in messages:
            at, event = time.monotonic(), message.get("event")
            if not event:
                continue
            call_id = event["call"]["call_id"]
            if event["kind"] == "score" and event["text"]:
                scores[f"{call_id}/{event['channel']}/{event['start_ms']}"] = at
            elif event["kind"] == "alert":
                alerts[event["evidence"][-1]["identity"]] = at
            elif event["kind"] == "call_ended":
                ended.add(call_id)
            if names <= ended and scores.keys() <= alerts.keys():
                break
    return scores, alerts


def measure(numbers: Sequence[int], console: Console) -> Table:
    """The table."""
    table = Table(
        f"From a score to the alert about it, at a websocket client (aim: {AIM_S * 1_000:.0f} ms)",
        ("calls at once", "alerts", "p50", "p95", "max"),
        [],
    )
    found: dict[int, list[float]] = {}
    with temporary_home(), tempfile.TemporaryDirectory(prefix="calltide-benchmark-") as directory:
        rules = Path(directory) / "rules.yaml"
        rules.write_text(RULES)
        os.environ["CALLTIDE_RULES__PATH"] = str(rules)
        load.cache_clear()
        settings = load()
        conversation = samples.two_channel(Path(directory))
        with Supervisor(settings, lambda text: console.print(f"  {text}", highlight=False)):
            for number in numbers:
                calls = [call for at in range(number) for call in prepare([conversation], call_id=f"{number}-{at}")]
                stop = threading.Event()
                sender = threading.Thread(target=partial(Ingest(settings).run, calls, 1.0, stop), daemon=True)
                names = {call.info.call_id for call in calls}
                scores, alerts = asyncio.run(_listen(settings.scores_url, sender, names))
                sender.join()
                found[number] = waits = [alerts[name] - at for name, at in scores.items()]
                shares = [f"{percentile(waits, share) * 1_000:.0f} ms" for share in (0.5, 0.95, 1.0)]
                table.rows.append((str(number), str(len(waits)), *shares))
    table.data = found
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    add_outputs(parser)
    arguments = parser.parse_args()
    publish({COMMAND: [measure(CALLS, Console())]}, arguments)


if __name__ == "__main__":
    try:
        main()
    except CalltideError as error:
        sys.exit(f"calltide: {error}")
