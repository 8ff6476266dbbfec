"""What is counted is told as 0 before the first."""

from prometheus_client import REGISTRY

from streams import metrics
from streams.ingestion import metrics as ingestion
from streams.ingestion.routes import AUDIOSOCKET, ROUTES


def test_a_lane_tells_0_of_what_it_counts_and_nothing_yet_of_what_it_measures() -> None:
    metrics.begin("a stage", "a lane")
    labels = {"stage": "a stage", "lane": "a lane"}
    told = {
        sample.name
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.labels.items() >= labels.items() and sample.value == 0
    }
    assert {"calltide_dead_letters_total", "calltide_aborts_total", "calltide_rejoins_total"} <= told
    assert {"calltide_records_total", "calltide_process_seconds_count", "calltide_reduced_utterances_total"} <= told
    assert not told & {"calltide_lag_seconds", "calltide_lag_records", "calltide_calls", "calltide_state_bytes"}


def test_interim_outcomes_are_told_from_the_beginning() -> None:
    metrics.begin_interim("a stage", ("transcribed", "old"))
    for what in ("transcribed", "old"):
        assert REGISTRY.get_sample_value("calltide_interim_total", {"stage": "a stage", "what": what}) == 0
    assert REGISTRY.get_sample_value("calltide_interim_failures_total", {"stage": "a stage"}) == 0


def test_every_protocol_is_told_before_its_first_connection() -> None:
    protocols = [route.name for route in (*ROUTES.values(), AUDIOSOCKET)]
    ingestion.begin(protocols)
    for name in ("calls", "audio_seconds_total", "gap_seconds_total", "overflow_packets_total"):
        told = [REGISTRY.get_sample_value(f"calltide_ingest_{name}", {"protocol": one}) for one in protocols]
        assert None not in told
    for one in protocols:
        assert REGISTRY.get_sample_value("calltide_ingest_refused_total", {"protocol": one, "why": "full"}) is not None
