"""The mood of each queue, minute by minute: a Faust application that reads `scores` beside Calltide.

Run it in an environment of its own (docs/faust.md): `python examples/faust/app.py worker -l warn`. Each utterance
prints the line of its queue and minute: how many were scored so far, and their mean fused sentiment.

A changer must know: Faust also reads records of transactions that were aborted, and reads again after a crash. A window
therefore keeps its utterances by identity (call, channel, start_ms), so that one that comes twice counts once.
"""

import os
from datetime import UTC, datetime
from statistics import mean

import faust

app = faust.App(
    "queue-mood",
    broker="kafka://" + os.environ.get("CALLTIDE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
    web_enabled=False,
)


class Utterance(faust.Record):
    """What the table needs of a score."""

    identity: str
    sentiment: float


scores = app.topic(os.environ.get("SCORES_TOPIC", "scores"), value_serializer="json")
utterances = app.topic("queue-mood-utterances", key_type=str, value_type=Utterance, internal=True)
minutes = app.Table("minutes", key_type=str, default=dict).tumbling(60.0, expires=3600.0)


@app.agent(scores)
async def route(records: faust.Stream) -> None:
    """Bring the utterances of a queue together (scores are keyed by call), at the time they were spoken."""
    async for record in records.events():
        score = record.value
        if record.headers.get("kind") != b"score" or score["sentiment"] is None:
            continue
        call = score["call"]
        await utterances.send(
            key=call["queue"] or "(none)",
            value=Utterance(f"{call['call_id']}/{score['channel']}/{score['start_ms']}", score["sentiment"]["score"]),
            timestamp=datetime.fromisoformat(score["captured_at"]).timestamp(),
        )


@app.agent(utterances)
async def count(records: faust.Stream) -> None:
    """Add each utterance to the window of its queue and minute."""
    async for record in records.events():
        heard = {**minutes[record.key].value(), record.value.identity: record.value.sentiment}
        minutes[record.key] = heard
        minute = datetime.fromtimestamp(record.message.timestamp // 60 * 60, UTC)
        print(f"{minute:%Y-%m-%d %H:%M} {len(heard):5} {mean(heard.values()):+.2f} {record.key}", flush=True)


if __name__ == "__main__":
    app.main()
