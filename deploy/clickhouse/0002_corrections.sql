-- Corrections of speakers, and the finer fields of an utterance.
-- The rows of utterances are kept as they were heard, in utterances_heard; 0003 makes `utterances` again, corrected.
-- In two files, because a rename can run twice only as long as nothing has the old name again.

ALTER TABLE calls
    ADD COLUMN IF NOT EXISTS not_speech_ms UInt32
        COMMENT 'sound that rose like speech and was taken for none, all channels' AFTER dropped_packets;

RENAME TABLE IF EXISTS utterances TO utterances_heard;

ALTER TABLE utterances_heard
    ADD COLUMN IF NOT EXISTS role_confidence Nullable(Float64)
        COMMENT 'how sure a role is that was found by what was said; NULL: the channel tells' AFTER role,
    ADD COLUMN IF NOT EXISTS overlap_ms UInt32
        COMMENT 'how much of it another speaker of the same mixed channel speaks, too' AFTER speaker_confidence,
    ADD COLUMN IF NOT EXISTS emotion_uncertain Bool
        COMMENT 'the strongest emotion is too weak to be called by its name' AFTER emotions,
    ADD COLUMN IF NOT EXISTS granular Nested(name LowCardinality(String), base LowCardinality(String), confidence Float64)
        COMMENT 'finer names: a convention over the six probabilities, not a measurement' AFTER emotion_uncertain,
    ADD COLUMN IF NOT EXISTS complex_emotion LowCardinality(String)
        COMMENT 'the name of the two strongest together; empty: they have none' AFTER emotion_uncertain,
    ADD COLUMN IF NOT EXISTS disagree Bool
        COMMENT 'words and voice say clearly different things' AFTER voice_score,
    ADD COLUMN IF NOT EXISTS pitch_mean_hz Nullable(Float64) COMMENT 'acoustics: NULL where there was too little voice'
        AFTER emotion_skipped,
    ADD COLUMN IF NOT EXISTS pitch_variance_hz2 Nullable(Float64) AFTER pitch_mean_hz,
    ADD COLUMN IF NOT EXISTS rms Nullable(Float64) COMMENT 'root mean square of the samples, 0 to 1'
        AFTER pitch_variance_hz2,
    ADD COLUMN IF NOT EXISTS loudness_lufs Nullable(Float64) AFTER rms,
    ADD COLUMN IF NOT EXISTS speaking_rate_wps Nullable(Float64) COMMENT 'words a second' AFTER loudness_lufs,
    ADD COLUMN IF NOT EXISTS spectral_centroid_hz Nullable(Float64) AFTER speaking_rate_wps,
    ADD COLUMN IF NOT EXISTS zero_crossing_rate Nullable(Float64)
        COMMENT 'share of samples at which the sign changes' AFTER spectral_centroid_hz,
    ADD COLUMN IF NOT EXISTS mfcc Array(Float64)
        COMMENT 'means over time of 13 mel-frequency cepstral coefficients; empty: not measured' AFTER zero_crossing_rate,
    ADD COLUMN IF NOT EXISTS jitter Nullable(Float64) COMMENT 'local, a share of the period' AFTER mfcc,
    ADD COLUMN IF NOT EXISTS shimmer Nullable(Float64) COMMENT 'local, a share of the amplitude' AFTER jitter,
    ADD COLUMN IF NOT EXISTS formants_hz Array(Float64) COMMENT 'means of F1, F2, F3; empty: not measured' AFTER shimmer,
    ADD COLUMN IF NOT EXISTS hnr_db Nullable(Float64) COMMENT 'harmonics-to-noise ratio' AFTER formants_hz;

-- What became known of speakers of mixed channels, one row a record of `scores`: a record delivered twice is the same
-- row twice. They are few: a call has one when two voices turn out to be one, or when it is found who is the agent.
CREATE TABLE IF NOT EXISTS corrections
(
    tenant           LowCardinality(String),
    call_id          String,
    pipeline_version LowCardinality(String),
    started_at       DateTime64(3, 'UTC') COMMENT 'of the call',
    speaker          LowCardinality(String),
    same_as          LowCardinality(String) COMMENT 'the earlier speaker whose voice it is; empty: says nothing of that',
    role             LowCardinality(String) COMMENT 'the role found; unknown: says nothing of that',
    role_confidence  Nullable(Float64),
    topic            LowCardinality(String),
    partition        UInt32,
    offset           UInt64
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, call_id, pipeline_version, offset, topic, partition)
SETTINGS non_replicated_deduplication_window = 1000;
