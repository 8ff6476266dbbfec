-- Utterances in the order of the hours in which their calls started: a stretch of time is a stretch of the table, what
-- comes is merged with what came just before and not with a whole month, and FINAL compares hours that two parts share
-- and no others. docs/analytics-schema.md has the measurements.
-- A duplicate has the same call_started_at, so it is in the same partition, and FINAL need not look across partitions.

CREATE TABLE IF NOT EXISTS utterances_heard
(
    tenant               LowCardinality(String),
    pipeline_version     LowCardinality(String),
    call_started_at      DateTime64(3, 'UTC') DEFAULT subtractMilliseconds(spoken_at, start_ms)
        COMMENT 'the same for every utterance of a call' CODEC(Delta, ZSTD),
    call_id              String CODEC(ZSTD),
    channel              UInt8 CODEC(ZSTD),
    start_ms             UInt32 CODEC(Delta, ZSTD),
    end_ms               UInt32 CODEC(Delta, ZSTD),
    spoken_at            DateTime64(3, 'UTC') COMMENT 'wall clock of start_ms' CODEC(Delta, ZSTD),
    captured_at          DateTime64(3, 'UTC') COMMENT 'wall clock of end_ms' CODEC(Delta, ZSTD),
    scored_at            DateTime64(3, 'UTC')
        COMMENT 'when the sink read the score; 1970: not known' CODEC(Delta, ZSTD),
    latency_ms           Nullable(Int64)
        ALIAS if(toUnixTimestamp64Milli(scored_at) = 0, NULL, dateDiff('millisecond', captured_at, scored_at)),
    queue                LowCardinality(String),
    agent                LowCardinality(String),
    speaker              LowCardinality(String),
    role                 LowCardinality(String),
    role_confidence      Nullable(Float64)
        COMMENT 'how sure a role is that was found by what was said; NULL: the channel tells' CODEC(ZSTD),
    speaker_confidence   Float64 CODEC(ZSTD),
    overlap_ms           UInt32
        COMMENT 'how much of it another speaker of the same mixed channel speaks, too' CODEC(ZSTD),
    cut                  LowCardinality(String),
    text                 String CODEC(ZSTD),
    `words.text`         Array(String) CODEC(ZSTD),
    `words.start_ms`     Array(UInt32) CODEC(Delta, ZSTD),
    `words.end_ms`       Array(UInt32) CODEC(Delta, ZSTD),
    `words.confidence`   Array(Float64) CODEC(ZSTD),
    language             LowCardinality(String),
    asr_confidence       Float64 CODEC(ZSTD),
    asr_model            LowCardinality(String),
    flags                Array(LowCardinality(String)),
    emotion              LowCardinality(String) COMMENT 'empty when it was not computed',
    emotions             Map(LowCardinality(String), Float64) CODEC(ZSTD),
    emotion_uncertain    Bool COMMENT 'the strongest emotion is too weak to be called by its name' CODEC(ZSTD),
    complex_emotion      LowCardinality(String) COMMENT 'the name of the two strongest together; empty: they have none',
    `granular.name`      Array(LowCardinality(String))
        COMMENT 'finer names: a convention over the six probabilities, not a measurement' CODEC(ZSTD),
    `granular.base`      Array(LowCardinality(String)) CODEC(ZSTD),
    `granular.confidence` Array(Float64) CODEC(ZSTD),
    emotion_model        LowCardinality(String),
    emotion_skipped      LowCardinality(String) COMMENT 'why emotion was not computed',
    pitch_mean_hz        Nullable(Float64) COMMENT 'acoustics: NULL where there was too little voice' CODEC(ZSTD),
    pitch_variance_hz2   Nullable(Float64) CODEC(ZSTD),
    rms                  Nullable(Float64) COMMENT 'root mean square of the samples, 0 to 1' CODEC(ZSTD),
    loudness_lufs        Nullable(Float64) CODEC(ZSTD),
    speaking_rate_wps    Nullable(Float64) COMMENT 'words a second' CODEC(ZSTD),
    spectral_centroid_hz Nullable(Float64) CODEC(ZSTD),
    zero_crossing_rate   Nullable(Float64) COMMENT 'share of samples at which the sign changes' CODEC(ZSTD),
    mfcc                 Array(Float64)
        COMMENT 'means over time of 13 mel-frequency cepstral coefficients; empty: not measured' CODEC(ZSTD),
    jitter               Nullable(Float64) COMMENT 'local, a share of the period' CODEC(ZSTD),
    shimmer              Nullable(Float64) COMMENT 'local, a share of the amplitude' CODEC(ZSTD),
    formants_hz          Array(Float64) COMMENT 'means of F1, F2, F3; empty: not measured' CODEC(ZSTD),
    hnr_db               Nullable(Float64) COMMENT 'harmonics-to-noise ratio' CODEC(ZSTD),
    sentiment            LowCardinality(String) COMMENT 'empty when no words were recognised',
    score                Nullable(Float64) COMMENT 'words and voice fused, -1 to 1' CODEC(ZSTD),
    text_score           Nullable(Float64) CODEC(ZSTD),
    voice_score          Nullable(Float64) CODEC(ZSTD),
    disagree             Bool COMMENT 'words and voice say clearly different things' CODEC(ZSTD),
    confidence           Nullable(Float64) CODEC(ZSTD),
    members              Map(LowCardinality(String), Float64) CODEC(ZSTD),
    sentiment_model      LowCardinality(String),
    call_score           Float64 COMMENT 'the call so far' CODEC(ZSTD),
    party_score          Float64 COMMENT 'the speaker so far' CODEC(ZSTD),
    call_utterances      UInt32 COMMENT 'scored utterances of the call so far' CODEC(Delta, ZSTD),
    topic                LowCardinality(String),
    partition            UInt32 CODEC(ZSTD),
    offset               UInt64 CODEC(Delta, ZSTD),
    INDEX by_call call_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_time spoken_at TYPE minmax GRANULARITY 1,
    INDEX by_offset offset TYPE minmax GRANULARITY 1,
    INDEX by_words text TYPE text(tokenizer = splitByNonAlpha, preprocessor = lowerUTF8(text))
)
ENGINE = ReplacingMergeTree(offset)
PARTITION BY toYYYYMM(call_started_at)
ORDER BY (toStartOfHour(call_started_at), tenant, pipeline_version, call_started_at, call_id, channel, start_ms)
SETTINGS non_replicated_deduplication_window = 1000;

ALTER TABLE calls
    ADD COLUMN IF NOT EXISTS channels UInt8 DEFAULT length(roles) AFTER roles,
    ADD COLUMN IF NOT EXISTS languages Array(LowCardinality(String))
        COMMENT 'heard in it; known once it has ended' AFTER channels,
    ADD COLUMN IF NOT EXISTS topic LowCardinality(String) COMMENT 'where its latest event came from',
    ADD COLUMN IF NOT EXISTS partition UInt32,
    ADD COLUMN IF NOT EXISTS offset UInt64;

CREATE TABLE IF NOT EXISTS alerts
(
    tenant           LowCardinality(String),
    call_id          String CODEC(ZSTD),
    pipeline_version LowCardinality(String),
    at               DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    rule             LowCardinality(String),
    category         LowCardinality(String),
    severity         LowCardinality(String) COMMENT 'info, warning or critical',
    queue            LowCardinality(String),
    agent            LowCardinality(String),
    role             LowCardinality(String),
    text             String COMMENT 'why, for people' CODEC(ZSTD),
    utterances       Array(Tuple(channel UInt8, start_ms UInt32)) COMMENT 'what it rests on',
    topic            LowCardinality(String),
    partition        UInt32,
    offset           UInt64 CODEC(Delta, ZSTD)
)
ENGINE = ReplacingMergeTree(offset)
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, at, call_id, pipeline_version, rule)
SETTINGS non_replicated_deduplication_window = 1000;

-- A letter and the marker that settles it are two records, which come at different times: each fills its own columns of
-- the row, whichever comes first. No partitions, for the two are of different months, perhaps, and letters are few.
CREATE TABLE IF NOT EXISTS dead_letters
(
    dlq_topic     LowCardinality(String),
    dlq_partition UInt32,
    dlq_offset    UInt64,
    failed_at     SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
        COMMENT 'time of the record, which is when its audio was captured',
    stage         SimpleAggregateFunction(max, String) COMMENT 'empty: its headers do not say',
    topic         SimpleAggregateFunction(max, String) COMMENT 'of the record that failed',
    partition     SimpleAggregateFunction(max, Nullable(UInt32)),
    offset        SimpleAggregateFunction(max, Nullable(UInt64)),
    tenant        SimpleAggregateFunction(max, String) COMMENT 'empty: the record cannot be read',
    call_id       SimpleAggregateFunction(max, String),
    kind          SimpleAggregateFunction(max, String),
    error         SimpleAggregateFunction(max, String) COMMENT 'class of the exception',
    message       SimpleAggregateFunction(max, String),
    settled       SimpleAggregateFunction(max, String) COMMENT 'redriven or dropped; empty: neither yet',
    settled_at    SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT '1970: not settled'
)
ENGINE = AggregatingMergeTree
ORDER BY (dlq_topic, dlq_partition, dlq_offset);

-- `utterances` is what everybody reads: each utterance once, its speaker and its role as they are known by now.
-- The rows as they were heard are in utterances_heard (ReplacingMergeTree: read it with FINAL). FINAL behind the view's
-- name is allowed and changes nothing.
--
-- A correction holds for all utterances of its call and pipeline version, earlier and later, also for one that was
-- redriven long after. A speaker that was merged into another is that one, over any number of steps (speaker-3 is
-- speaker-2, speaker-2 is speaker-1). A correction that merges nobody says what the speaker's role is, be it unknown
-- again; of several the last one holds. streams/corrections.py does the same for readers of `scores`.
--
-- A migration that adds a column to utterances_heard makes this view anew: its columns are those of its making.

CREATE VIEW IF NOT EXISTS utterances AS
WITH
    -- What was told of the speakers of each call, in order: (offset, speaker, same_as, role, confidence).
    calls_told AS
    (
        SELECT
            tenant, call_id, pipeline_version,
            arraySort(groupArray((
                offset, CAST(speaker, 'String'), CAST(same_as, 'String'), CAST(role, 'String'), role_confidence
            ))) AS told,
            arrayFilter(one -> one.3 != '', told) AS merged
        FROM corrections
        GROUP BY tenant, call_id, pipeline_version
    ),
    -- Every name that was told of, and who that is by now. As many steps as there are merges: more cannot be needed,
    -- and a ring ends.
    names AS
    (
        SELECT
            cityHash64(tenant, call_id, pipeline_version, name) AS key,
            arrayFold(
                (at, step) -> ifNull(nullIf(arrayLast(one -> one.2 = at, merged).3, ''), at),
                arrayDistinct(merged.2), name
            ) AS final_name,
            arrayLast(
                one -> if(one.3 = '', one.2, one.3) = final_name AND (one.3 = '' OR one.4 != 'unknown'), told
            ) AS found,
            found.4 AS found_role,
            found.5 AS found_confidence
        FROM calls_told
        ARRAY JOIN arrayDistinct(arrayConcat(told.2, merged.3)) AS name
    )
SELECT
    heard.* REPLACE
    (
        -- What is not joined is '', or NULL for who has set join_use_nulls.
        ifNull(nullIf(final_name, ''), CAST(heard.speaker, 'String')) AS speaker,
        ifNull(nullIf(found_role, ''), CAST(heard.role, 'String')) AS role,
        if(ifNull(found_role, '') IN ('', heard.role), heard.role_confidence, found_confidence) AS role_confidence
    ),
    latency_ms
FROM utterances_heard AS heard FINAL
-- By one number: four texts would be compared for every utterance of calls of which nothing was told, too.
LEFT ANY JOIN names ON cityHash64(heard.tenant, heard.call_id, heard.pipeline_version, heard.speaker) = names.key;
