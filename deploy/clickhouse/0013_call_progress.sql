-- What the metrics stage has said last of each party of a call: while the call goes on, and, where `final`, of all of it
-- (docs/metrics.md). call_metrics is counted here in ClickHouse when a call has ended, for all calls alike; this is
-- what a supervisor sees meanwhile, and what only the stage knows: responses, loudness, holds.

CREATE TABLE IF NOT EXISTS call_progress
(
    tenant               LowCardinality(String),
    pipeline_version     LowCardinality(String),
    started_at           DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    call_id              String CODEC(ZSTD),
    role                 LowCardinality(String),
    speaker              LowCardinality(String),
    queue                LowCardinality(String),
    agent                LowCardinality(String),
    at_ms                UInt32 COMMENT 'media time up to which anything is known' CODEC(ZSTD),
    final                Bool,
    partial              Bool COMMENT 'the beginning of the call was not heard',
    utterances           UInt32 CODEC(ZSTD),
    words                UInt32 CODEC(ZSTD),
    talk_ms              UInt32 CODEC(ZSTD),
    talk_share           Float32 COMMENT 'of all talk of the call' CODEC(ZSTD),
    words_per_minute     Nullable(Float32) COMMENT 'of talk' CODEC(ZSTD),
    score                Nullable(Float32) COMMENT 'mean of its utterances, words and voice fused' CODEC(ZSTD),
    negative             UInt32 COMMENT 'utterances' CODEC(ZSTD),
    neutral              UInt32 CODEC(ZSTD),
    positive             UInt32 CODEC(ZSTD),
    quarters             Array(Nullable(Float32))
        COMMENT 'mean score in each quarter of the call so far, -5 to 5; NULL: said nothing there' CODEC(ZSTD),
    change               Nullable(Float32) COMMENT 'last quarter less first; NULL: spoke in one at most' CODEC(ZSTD),
    emotion_ms           Map(LowCardinality(String), UInt32) COMMENT 'talk by emotion' CODEC(ZSTD),
    longest_monologue_ms UInt32 COMMENT 'longest stretch in which no other party begins to speak' CODEC(ZSTD),
    turns                UInt32 COMMENT 'how often it takes the floor' CODEC(ZSTD),
    responses            UInt32 COMMENT 'how often it answers another party' CODEC(ZSTD),
    response_ms          Nullable(UInt32) COMMENT 'median silence before it answers; NULL: it never does' CODEC(ZSTD),
    interruptions        Nullable(UInt32)
        COMMENT 'how often it begins while another speaks, and both go on for 0.3 s; NULL: all share a channel' CODEC(ZSTD),
    interrupted          Nullable(UInt32) COMMENT 'how often another party does so to it' CODEC(ZSTD),
    overtalk_ms          Nullable(UInt32) COMMENT 'how long both speak after it began so' CODEC(ZSTD),
    loudness_lufs        Nullable(Float32) COMMENT 'mean over its talk, where it was measured' CODEC(ZSTD),
    loudness_trend       Nullable(Float32) COMMENT 'dB a minute; NULL: too few utterances were measured' CODEC(ZSTD),
    call_score           Nullable(Float32) COMMENT 'of the whole call, as what follows: mean of all utterances' CODEC(ZSTD),
    silences             UInt32 COMMENT 'gaps of 5 s and more in which nobody speaks' CODEC(ZSTD),
    silence_ms           UInt32 COMMENT 'of these gaps' CODEC(ZSTD),
    longest_silence_ms   UInt32 COMMENT 'the longest gap, if of 5 s or more' CODEC(ZSTD),
    silence_now_ms       UInt32 COMMENT 'how long nobody has spoken by at_ms' CODEC(ZSTD),
    dead_air             Array(Tuple(start_ms UInt32, end_ms UInt32)) COMMENT 'the longest gaps, in order of time',
    hold_ms              Nullable(UInt32) COMMENT 'on hold; NULL: nobody marked it, or the call goes on' CODEC(ZSTD),
    topic                LowCardinality(String),
    partition            UInt32,
    offset               UInt64 CODEC(Delta, ZSTD),
    written_at           DateTime64(3, 'UTC') DEFAULT now64(3)
        COMMENT 'the latest counts: offsets of a replay begin anew' CODEC(Delta, ZSTD)
)
ENGINE = ReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, pipeline_version, started_at, call_id, role, speaker)
SETTINGS non_replicated_deduplication_window = 1000;
