"""What `calltide serve` counts, for Prometheus (docs/ingestion.md says what to watch)."""

from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

LABELS: Final = ("protocol",)

CONNECTIONS = Gauge("calltide_ingest_connections", "connections that are open", LABELS)
CALLS = Gauge("calltide_ingest_calls", "calls that are going on, those that wait for a reconnect included", LABELS)
ENDED = Counter("calltide_ingest_calls_ended_total", "calls that ended", (*LABELS, "reason"))
RECONNECTS = Counter("calltide_ingest_reconnects_total", "connections that went on with a call", LABELS)
AUDIO = Counter("calltide_ingest_audio_seconds_total", "audio put into packets, all channels", LABELS)
EVENTS = Counter("calltide_ingest_events_total", "what came beside audio: keys, marks, pauses", (*LABELS, "event"))
GAPS = Counter("calltide_ingest_gap_seconds_total", "audio that was counted or awaited and never came", LABELS)
LATE = Counter("calltide_ingest_late_seconds_total", "audio that came twice or too late and was dropped", LABELS)
OVERFLOWS = Counter("calltide_ingest_overflow_packets_total", "packets dropped because Kafka was too slow", LABELS)
FAULTS = Counter("calltide_ingest_faults_total", "connections ended for what they sent or did not", (*LABELS, "fault"))
REFUSED = Counter("calltide_ingest_refused_total", "connections refused before they said anything", (*LABELS, "why"))
UNTOLD = Counter("calltide_ingest_untold_total", "connections that were too slow to be told all results", LABELS)
INTERIM_SKIPPED = Counter(
    "calltide_ingest_interim_skipped_total", "interim results replaced by newer ones before a slow client took them"
)
UNDELIVERED = Counter("calltide_ingest_undelivered_total", "records that Kafka did not take in time")
UNSAVED = Counter("calltide_ingest_unsaved_total", "recordings that could not be kept or not to their end")
WAITING = Gauge("calltide_ingest_waiting_calls", "calls whose packets wait for room in the producer's queue")
ACKNOWLEDGED = Histogram(
    "calltide_ingest_acknowledged_seconds",
    "from the arrival of a packet's last sample to the broker's acknowledgement",
    buckets=(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)


def begin(protocols: Iterable[str]) -> None:
    """Tell 0 of all that is counted by protocol, before the first connection; of what has a reason, of the gravest.

    A series that begins with its first event stands at 1 from then on, and `increase()` of it says 0.
    """
    for protocol in protocols:
        for metric in (CONNECTIONS, CALLS, RECONNECTS, AUDIO, GAPS, LATE, OVERFLOWS, UNTOLD):
            metric.labels(protocol)
        FAULTS.labels(protocol, "internal")
        for why in ("full", "unauthorized"):
            REFUSED.labels(protocol, why)
