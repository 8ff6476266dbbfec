-- What each call was about (docs/insights.md): one row a call and engine, made when it has ended. `findings` has all of it,
-- with the utterances that each statement rests on; the columns beside it are what is asked of many calls at once.
--
-- `call_insights` is what readers of calls want: of each call what a language model says, where one has read it and could
-- say something, and the extractive findings otherwise.

CREATE TABLE IF NOT EXISTS insights
(
    tenant           LowCardinality(String),
    pipeline_version LowCardinality(String),
    started_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    call_id          String CODEC(ZSTD),
    queue            LowCardinality(String),
    agent            LowCardinality(String),
    ended_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    duration_ms      UInt32 CODEC(ZSTD),
    engine           LowCardinality(String) COMMENT 'extractive: quotes and fixed phrases only; or llm:MODEL',
    model            LowCardinality(String),
    state            LowCardinality(String) COMMENT 'ok; why there is nothing, otherwise',
    language         LowCardinality(String),
    business         LowCardinality(String) COMMENT 'whose glossary was read: b2b or b2c',
    glossary         LowCardinality(String) COMMENT 'name and hash',
    utterances       UInt32 COMMENT 'with words' CODEC(ZSTD),
    unread           UInt32 COMMENT 'of these, left out of a call too long' CODEC(ZSTD),
    summary          Array(String) COMMENT 'its statements, in order' CODEC(ZSTD),
    reason           String COMMENT 'why the customer calls' CODEC(ZSTD),
    outcome          String CODEC(ZSTD),
    resolved         LowCardinality(String) COMMENT 'yes, no, unknown',
    topics           Array(LowCardinality(String)) COMMENT 'paths, "IT support > Access > Password reset", likeliest first',
    similarities     Array(Nullable(Float32)) COMMENT 'of the topics; NULL: chosen by an llm' CODEC(ZSTD),
    issues           Array(LowCardinality(String)) COMMENT 'sorts, in order of time',
    objections       Array(LowCardinality(String)),
    coaching         Array(LowCardinality(String)),
    action_items     UInt16 CODEC(ZSTD),
    questions        UInt16 COMMENT 'of the quiz' CODEC(ZSTD),
    uncited          UInt16 COMMENT 'statements left out since they cited nothing' CODEC(ZSTD),
    findings         String COMMENT 'JSON' CODEC(ZSTD),
    topic            LowCardinality(String),
    partition        UInt32,
    offset           UInt64 CODEC(Delta, ZSTD),
    written_at       DateTime64(3, 'UTC') DEFAULT now64(3)
        COMMENT 'the latest counts: offsets of a replay begin anew' CODEC(Delta, ZSTD)
)
ENGINE = ReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, pipeline_version, started_at, call_id, engine)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE VIEW IF NOT EXISTS call_insights AS
SELECT *
FROM insights FINAL
WHERE (tenant, pipeline_version, started_at, call_id, engine) IN
(
    SELECT
        tenant, pipeline_version, started_at, call_id,
        argMax(engine, (state = 'ok', engine != 'extractive', ended_at, written_at))
    FROM insights
    GROUP BY tenant, pipeline_version, started_at, call_id
);
