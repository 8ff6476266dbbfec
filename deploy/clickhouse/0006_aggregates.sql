-- What the dashboards show most, counted as it comes: one row a minute, and one an hour and agent, of each queue and
-- role.
-- Fed by materialized views on utterances_heard, so the role is the one that was heard: call_metrics has the corrected
-- one.
-- Read them with sum() and sumMap() and GROUP BY: rows of the same key are added up when ClickHouse merges them.
-- `calltide migrate --rebuild` counts them again from utterances_heard.

CREATE TABLE IF NOT EXISTS utterance_minutes
(
    tenant           LowCardinality(String),
    pipeline_version LowCardinality(String),
    minute           DateTime('UTC') CODEC(Delta, ZSTD),
    queue            LowCardinality(String),
    role             LowCardinality(String),
    utterances       SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    speech_ms        SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    words            SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    score_n          SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    score_sum        SimpleAggregateFunction(sum, Float64) CODEC(ZSTD),
    score_sq         SimpleAggregateFunction(sum, Float64) CODEC(ZSTD),
    text_n           SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    text_sum         SimpleAggregateFunction(sum, Float64) CODEC(ZSTD),
    voice_n          SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    voice_sum        SimpleAggregateFunction(sum, Float64) CODEC(ZSTD),
    negative         SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    neutral          SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    positive         SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    disagreements    SimpleAggregateFunction(sum, UInt64)
        COMMENT 'words and voice say clearly different things' CODEC(ZSTD),
    emotions         SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'utterances by emotion' CODEC(ZSTD),
    granular         SimpleAggregateFunction(sumMap, Map(String, UInt64))
        COMMENT 'by finer name: an utterance has several, or none' CODEC(ZSTD),
    complex          SimpleAggregateFunction(sumMap, Map(String, UInt64))
        COMMENT 'by the name of the two strongest' CODEC(ZSTD),
    pairs            SimpleAggregateFunction(sumMap, Map(String, UInt64))
        COMMENT 'by what the words (from ±0.2 on) and the voice say: negative+anger' CODEC(ZSTD),
    score_bins       SimpleAggregateFunction(sumMap, Map(Int8, UInt64))
        COMMENT 'by tenths of score, rounded down: -10 to 9' CODEC(ZSTD),
    confidence_n     SimpleAggregateFunction(sum, UInt64) COMMENT 'utterances with words' CODEC(ZSTD),
    confidence_sum   SimpleAggregateFunction(sum, Float64) COMMENT 'how sure speech recognition is of them' CODEC(ZSTD),
    latency_n        SimpleAggregateFunction(sum, UInt64)
        COMMENT 'scores that came within ten minutes of the voice: the others are of no live call' CODEC(ZSTD),
    latency_sum_ms   SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    latency_bins     SimpleAggregateFunction(sumMap, Map(UInt16, UInt64))
        COMMENT 'by latency, at most so many tenths of a second' CODEC(ZSTD),
    degraded         SimpleAggregateFunction(sum, UInt64)
        COMMENT 'heard with less effort, because the stage was behind' CODEC(ZSTD)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (tenant, pipeline_version, minute, queue, role)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS utterance_minutes_feed TO utterance_minutes AS
SELECT
    tenant, pipeline_version, toStartOfMinute(spoken_at) AS minute, queue, role,
    count() AS utterances,
    sum(toUInt64(greatest(end_ms, start_ms) - start_ms)) AS speech_ms,
    sum(length(words.text)) AS words,
    count(score) AS score_n,
    sum(ifNull(score, 0)) AS score_sum,
    sum(ifNull(score * score, 0)) AS score_sq,
    count(text_score) AS text_n,
    sum(ifNull(text_score, 0)) AS text_sum,
    count(voice_score) AS voice_n,
    sum(ifNull(voice_score, 0)) AS voice_sum,
    countIf(sentiment = 'negative') AS negative,
    countIf(sentiment = 'neutral') AS neutral,
    countIf(sentiment = 'positive') AS positive,
    countIf(disagree) AS disagreements,
    sumMapIf(map(emotion, toUInt64(1)), emotion != '') AS emotions,
    sumMap(mapFromArrays(granular.name, arrayMap(name -> toUInt64(1), granular.name))) AS granular,
    sumMapIf(map(complex_emotion, toUInt64(1)), complex_emotion != '') AS complex,
    sumMapIf(
        map(
            concat(multiIf(text_score <= -0.2, 'negative', text_score >= 0.2, 'positive', 'neutral'), '+', emotion),
            toUInt64(1)
        ),
        text_score IS NOT NULL AND emotion != ''
    ) AS pairs,
    sumMapIf(map(toInt8(least(floor(ifNull(score, 0) * 10), 9)), toUInt64(1)), score IS NOT NULL) AS score_bins,
    countIf(text != '') AS confidence_n,
    sumIf(asr_confidence, text != '') AS confidence_sum,
    countIf(latency_ms BETWEEN 0 AND 600000) AS latency_n,
    sumIf(toUInt64(ifNull(latency_ms, 0)), latency_ms BETWEEN 0 AND 600000) AS latency_sum_ms,
    sumMapIf(
        map(
            toUInt16(-roundDown(
                -intDiv(ifNull(latency_ms, 0) + 99, 100),
                [
                    -65535, -6000, -3000, -1200, -600, -300, -200, -150, -100, -75, -60, -50, -40, -35, -30, -25, -20, -18,
                    -16, -14, -12, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1, 0
                ]
            )),
            toUInt64(1)
        ),
        latency_ms BETWEEN 0 AND 600000
    ) AS latency_bins,
    countIf(has(flags, 'reduced_beam')) AS degraded
FROM utterances_heard
GROUP BY tenant, pipeline_version, minute, queue, role;

CREATE TABLE IF NOT EXISTS utterance_hours
(
    tenant           LowCardinality(String),
    pipeline_version LowCardinality(String),
    hour             DateTime('UTC') CODEC(Delta, ZSTD),
    queue            LowCardinality(String),
    agent            LowCardinality(String),
    role             LowCardinality(String),
    utterances       SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    speech_ms        SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    words            SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    score_n          SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    score_sum        SimpleAggregateFunction(sum, Float64) CODEC(ZSTD),
    score_sq         SimpleAggregateFunction(sum, Float64) CODEC(ZSTD),
    text_n           SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    text_sum         SimpleAggregateFunction(sum, Float64) CODEC(ZSTD),
    voice_n          SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    voice_sum        SimpleAggregateFunction(sum, Float64) CODEC(ZSTD),
    negative         SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    neutral          SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    positive         SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    disagreements    SimpleAggregateFunction(sum, UInt64)
        COMMENT 'words and voice say clearly different things' CODEC(ZSTD),
    emotions         SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'utterances by emotion' CODEC(ZSTD),
    granular         SimpleAggregateFunction(sumMap, Map(String, UInt64))
        COMMENT 'by finer name: an utterance has several, or none' CODEC(ZSTD),
    complex          SimpleAggregateFunction(sumMap, Map(String, UInt64))
        COMMENT 'by the name of the two strongest' CODEC(ZSTD),
    pairs            SimpleAggregateFunction(sumMap, Map(String, UInt64))
        COMMENT 'by what the words (from ±0.2 on) and the voice say: negative+anger' CODEC(ZSTD),
    score_bins       SimpleAggregateFunction(sumMap, Map(Int8, UInt64))
        COMMENT 'by tenths of score, rounded down: -10 to 9' CODEC(ZSTD),
    confidence_n     SimpleAggregateFunction(sum, UInt64) COMMENT 'utterances with words' CODEC(ZSTD),
    confidence_sum   SimpleAggregateFunction(sum, Float64) COMMENT 'how sure speech recognition is of them' CODEC(ZSTD),
    latency_n        SimpleAggregateFunction(sum, UInt64)
        COMMENT 'scores that came within ten minutes of the voice: the others are of no live call' CODEC(ZSTD),
    latency_sum_ms   SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    latency_bins     SimpleAggregateFunction(sumMap, Map(UInt16, UInt64))
        COMMENT 'by latency, at most so many tenths of a second' CODEC(ZSTD),
    degraded         SimpleAggregateFunction(sum, UInt64)
        COMMENT 'heard with less effort, because the stage was behind' CODEC(ZSTD)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (tenant, pipeline_version, hour, queue, agent, role)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS utterance_hours_feed TO utterance_hours AS
SELECT
    tenant, pipeline_version, toStartOfHour(spoken_at) AS hour, queue, agent, role,
    count() AS utterances,
    sum(toUInt64(greatest(end_ms, start_ms) - start_ms)) AS speech_ms,
    sum(length(words.text)) AS words,
    count(score) AS score_n,
    sum(ifNull(score, 0)) AS score_sum,
    sum(ifNull(score * score, 0)) AS score_sq,
    count(text_score) AS text_n,
    sum(ifNull(text_score, 0)) AS text_sum,
    count(voice_score) AS voice_n,
    sum(ifNull(voice_score, 0)) AS voice_sum,
    countIf(sentiment = 'negative') AS negative,
    countIf(sentiment = 'neutral') AS neutral,
    countIf(sentiment = 'positive') AS positive,
    countIf(disagree) AS disagreements,
    sumMapIf(map(emotion, toUInt64(1)), emotion != '') AS emotions,
    sumMap(mapFromArrays(granular.name, arrayMap(name -> toUInt64(1), granular.name))) AS granular,
    sumMapIf(map(complex_emotion, toUInt64(1)), complex_emotion != '') AS complex,
    sumMapIf(
        map(
            concat(multiIf(text_score <= -0.2, 'negative', text_score >= 0.2, 'positive', 'neutral'), '+', emotion),
            toUInt64(1)
        ),
        text_score IS NOT NULL AND emotion != ''
    ) AS pairs,
    sumMapIf(map(toInt8(least(floor(ifNull(score, 0) * 10), 9)), toUInt64(1)), score IS NOT NULL) AS score_bins,
    countIf(text != '') AS confidence_n,
    sumIf(asr_confidence, text != '') AS confidence_sum,
    countIf(latency_ms BETWEEN 0 AND 600000) AS latency_n,
    sumIf(toUInt64(ifNull(latency_ms, 0)), latency_ms BETWEEN 0 AND 600000) AS latency_sum_ms,
    sumMapIf(
        map(
            toUInt16(-roundDown(
                -intDiv(ifNull(latency_ms, 0) + 99, 100),
                [
                    -65535, -6000, -3000, -1200, -600, -300, -200, -150, -100, -75, -60, -50, -40, -35, -30, -25, -20, -18,
                    -16, -14, -12, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1, 0
                ]
            )),
            toUInt64(1)
        ),
        latency_ms BETWEEN 0 AND 600000
    ) AS latency_bins,
    countIf(has(flags, 'reduced_beam')) AS degraded
FROM utterances_heard
GROUP BY tenant, pipeline_version, hour, queue, agent, role;
