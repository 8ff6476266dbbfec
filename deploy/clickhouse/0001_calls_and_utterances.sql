-- One row a call and one an utterance, for each pipeline version that heard it.
-- ReplacingMergeTree: a record delivered twice is the same row twice; read with FINAL.

CREATE TABLE IF NOT EXISTS calls
(
    tenant           LowCardinality(String),
    call_id          String,
    pipeline_version LowCardinality(String),
    queue            LowCardinality(String),
    agent            LowCardinality(String),
    source           String,
    roles            Array(LowCardinality(String)),
    metadata         Map(String, String),
    started_at       DateTime64(3, 'UTC'),
    ended_at         Nullable(DateTime64(3, 'UTC')),
    duration_ms      Nullable(UInt32),
    end_reason       LowCardinality(String) DEFAULT '',
    missing_ms       UInt32 DEFAULT 0,
    dropped_packets  UInt32 DEFAULT 0,
    revision         UInt8 COMMENT '1: started, 2: ended; the higher one stays'
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, call_id, pipeline_version)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS utterances
(
    tenant             LowCardinality(String),
    call_id            String,
    pipeline_version   LowCardinality(String),
    channel            UInt8,
    start_ms           UInt32,
    end_ms             UInt32,
    spoken_at          DateTime64(3, 'UTC') COMMENT 'wall clock of start_ms',
    captured_at        DateTime64(3, 'UTC') COMMENT 'wall clock of end_ms',
    queue              LowCardinality(String),
    agent              LowCardinality(String),
    speaker            LowCardinality(String),
    role               LowCardinality(String),
    speaker_confidence Float64,
    cut                LowCardinality(String),
    text               String,
    words              Nested(text String, start_ms UInt32, end_ms UInt32, confidence Float64),
    language           LowCardinality(String),
    asr_confidence     Float64,
    asr_model          LowCardinality(String),
    flags              Array(LowCardinality(String)),
    emotion            LowCardinality(String) COMMENT 'empty when it was not computed',
    emotions           Map(LowCardinality(String), Float64),
    emotion_model      LowCardinality(String),
    emotion_skipped    String COMMENT 'why emotion was not computed',
    sentiment          LowCardinality(String) COMMENT 'empty when no words were recognised',
    score              Nullable(Float64) COMMENT 'words and voice fused, -1 to 1',
    text_score         Nullable(Float64),
    voice_score        Nullable(Float64),
    confidence         Nullable(Float64),
    members            Map(LowCardinality(String), Float64),
    sentiment_model    LowCardinality(String),
    call_score         Float64 COMMENT 'the call so far',
    party_score        Float64 COMMENT 'the speaker so far',
    call_utterances    UInt32 COMMENT 'scored utterances of the call so far',
    topic              LowCardinality(String),
    partition          UInt32,
    offset             UInt64
)
ENGINE = ReplacingMergeTree(offset)
PARTITION BY toYYYYMM(spoken_at)
ORDER BY (tenant, call_id, pipeline_version, channel, start_ms)
SETTINGS non_replicated_deduplication_window = 1000;
