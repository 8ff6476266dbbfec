-- What was asked of Calltide over its API and how far it is: a recording that was uploaded, or a call that is to be heard
-- again (docs/uploads.md). One row a task, and one a chunk of a recording: how much of it Kafka has taken.
--
-- The highest revision stays: a later attempt before an earlier one, an end before what was still under way when it came,
-- and then the later word.

CREATE TABLE IF NOT EXISTS tasks
(
    tenant           LowCardinality(String),
    task_id          String CODEC(ZSTD),
    kind             LowCardinality(String) COMMENT 'upload, transcribe or analyze',
    state            LowCardinality(String) COMMENT 'pending, processing, completed, failed or cancelled',
    call_id          String CODEC(ZSTD),
    pipeline_version LowCardinality(String) COMMENT 'of what comes of it',
    source           String COMMENT 'name of the file, as it was given' CODEC(ZSTD),
    asked_by         LowCardinality(String),
    sha256           String COMMENT 'of its bytes, in hexadecimal' CODEC(ZSTD),
    bytes            UInt64 CODEC(ZSTD),
    duration_ms      Nullable(UInt32) COMMENT 'NULL: not known yet' CODEC(ZSTD),
    progress         Map(LowCardinality(String), Float32) COMMENT 'share of the recording that a stage has written' CODEC(ZSTD),
    error            String COMMENT 'what happened and what to do, for people' CODEC(ZSTD),
    created_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    updated_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    attempt          UInt16 DEFAULT 1,
    revision         UInt64 CODEC(ZSTD)
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (tenant, task_id)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS task_chunks
(
    tenant     LowCardinality(String),
    task_id    String CODEC(ZSTD),
    number     UInt32 CODEC(Delta, ZSTD),
    call_id    String CODEC(ZSTD),
    state      LowCardinality(String) COMMENT 'pending, processing, completed or failed',
    start_ms   UInt32 CODEC(Delta, ZSTD),
    end_ms     UInt32 CODEC(Delta, ZSTD),
    error      String CODEC(ZSTD),
    created_at DateTime64(3, 'UTC') COMMENT 'of the task' CODEC(Delta, ZSTD),
    revision   UInt64 CODEC(ZSTD)
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (tenant, task_id, number)
SETTINGS non_replicated_deduplication_window = 1000;
