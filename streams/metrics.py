"""What a stage's worker counts, for Prometheus (docs/operations.md says what to watch).

A changer must know: what is counted is told as 0 before the first (`begin`, `begin_interim`). A series that appears
with its first error stands at 1 from its beginning, so that `increase()` of it, which alerts ask for, says 0.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from processors.redaction import KINDS

LABELS: Final = ("stage", "lane")
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 500)
SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

RECORDS = Counter("calltide_records_total", "records read", LABELS)
BYTES = Counter("calltide_bytes_total", "bytes read", LABELS)
OUTPUTS = Counter("calltide_outputs_total", "records written and committed", LABELS)
BATCH = Histogram(
    "calltide_batch_records", "records in a batch", LABELS, buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500)
)
PROCESS = Histogram("calltide_process_seconds", "time in the processor, its models above all", LABELS, buckets=SECONDS)
TRANSACTION = Histogram("calltide_transaction_seconds", "time of one transaction", LABELS, buckets=SECONDS)
ABORTS = Counter("calltide_aborts_total", "transactions that did not come to their end", LABELS)
REJOINS = Counter("calltide_rejoins_total", "times the state was dropped and restored", LABELS)
DEAD = Counter("calltide_dead_letters_total", "records sent to dead.letters", LABELS)
CALLS = Gauge("calltide_calls", "calls in memory", LABELS)
STATE = Gauge("calltide_state_bytes", "bytes of all calls' snapshots", LABELS)
LAG = Gauge("calltide_lag_records", "records that are there and not read", LABELS)
LAG_SECONDS = Gauge(
    "calltide_lag_seconds",
    "seconds of audio between what is processed and now, in the partition furthest behind; 0: all is read",
    LABELS,
)
DELAY = Histogram(
    "calltide_capture_to_output_seconds",
    "from the last sample of an utterance to its record in the stage's output; of sentiment: to its score",
    LABELS,
    buckets=(0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0),
)
PAUSED = Gauge("calltide_lane_paused", "1 while the lane waits because the other one has work", LABELS)
EFFORT = Gauge("calltide_effort", "0: full; each step up is less work for an utterance, because of lag", LABELS)
REDUCED = Counter("calltide_reduced_utterances_total", "utterances processed with less than full effort", LABELS)
RELOADS = Counter(
    "calltide_reloads_total", "files that people changed and a stage works by: taken or refused", ("stage", "what")
)
REDACTED = Counter("calltide_redacted_total", "what was taken out of words and audio as personal", ("lane", "kind"))
INTERIM = Counter(
    "calltide_interim_total",
    "revisions of unfinished utterances: emitted, dropped, transcribed, or skipped (superseded, finished, old)",
    ("stage", "what"),
)
INTERIM_FAILURES = Counter("calltide_interim_failures_total", "what went wrong in interim results", ("stage",))
INTERIM_PROCESS = Histogram(
    "calltide_interim_process_seconds", "time in the processor for interim results", ("stage",), buckets=SECONDS
)
INTERIM_DELAY = Histogram(
    "calltide_capture_to_interim_seconds",
    "from the last sample of an unfinished utterance to the record of its words",
    ("stage",),
    buckets=(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0),
)


def begin(stage: str, lane: str) -> None:
    """Tell 0 of all that is counted in a lane. What is measured (lag, calls, state) is told once it is known."""
    counted = (RECORDS, BYTES, OUTPUTS, BATCH, PROCESS, TRANSACTION, ABORTS, REJOINS, DEAD, DELAY, REDUCED)
    for metric in (*counted, PAUSED, EFFORT):
        metric.labels(stage, lane)
    for kind in KINDS if stage == "asr" else ():
        REDACTED.labels(lane, kind)


def begin_interim(stage: str, outcomes: Iterable[str]) -> None:
    """Tell 0 of all that is counted of interim results. `outcomes`: what may become of a revision in this stage."""
    for what in outcomes:
        INTERIM.labels(stage, what)
    INTERIM_FAILURES.labels(stage)
    INTERIM_DELAY.labels(stage)
