-- What rules found in calls beside the alerts: categories, one row a call and rule. `rules_version` says which set of
-- rules it comes from (docs/rules.md).

CREATE TABLE IF NOT EXISTS call_categories
(
    tenant           LowCardinality(String),
    pipeline_version LowCardinality(String),
    started_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    call_id          String CODEC(ZSTD),
    category         LowCardinality(String),
    rule             LowCardinality(String),
    rules_version    LowCardinality(String),
    queue            LowCardinality(String),
    agent            LowCardinality(String),
    at_ms            UInt32 COMMENT 'when the condition was first met' CODEC(ZSTD),
    utterances       Array(Tuple(channel UInt8, start_ms UInt32)) COMMENT 'what it rests on',
    topic            LowCardinality(String),
    partition        UInt32,
    offset           UInt64 CODEC(Delta, ZSTD),
    written_at       DateTime64(3, 'UTC') DEFAULT now64(3)
        COMMENT 'the latest counts: offsets of a replay begin anew' CODEC(Delta, ZSTD)
)
ENGINE = ReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, pipeline_version, started_at, call_id, category, rule)
SETTINGS non_replicated_deduplication_window = 1000;

ALTER TABLE alerts
    ADD COLUMN IF NOT EXISTS rules_version LowCardinality(String) AFTER rule,
    ADD COLUMN IF NOT EXISTS at_ms UInt32 COMMENT 'media time, milliseconds from the start of the call' AFTER at;
