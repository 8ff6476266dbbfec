-- Score cards (docs/forms.md): one row a call and form, made when the call has ended. `items` has every item with what it
-- earned, why, and the utterances that it rests on; the columns beside it are what is asked of many calls at once.
--
-- `evaluation_trends` is how an agent or a queue (a team) does from week to week, over the whole form (section '') and by
-- section. A mean of few calls says more of these calls than of the agent: below 10 of them there is none (judgement: a
-- score differs by some 20 points from call to call, so with 10 calls the mean is known to some 14 points either way, and
-- with fewer it tells nothing). `low` and `high` are where the mean is with 95 % confidence: Student's t, its quantile
-- approximated as in Abramowitz & Stegun (1964), 26.7.5, off by 0.01 at most from 10 calls on. Scores of two versions of a
-- form are not compared: each has rows of its own.

CREATE TABLE IF NOT EXISTS evaluations
(
    tenant           LowCardinality(String),
    pipeline_version LowCardinality(String),
    started_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    call_id          String CODEC(ZSTD),
    queue            LowCardinality(String),
    agent            LowCardinality(String),
    ended_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    duration_ms      UInt32 CODEC(ZSTD),
    language         LowCardinality(String),
    form             LowCardinality(String),
    form_version     LowCardinality(String) COMMENT 'a hash of what the form means',
    state            LowCardinality(String) COMMENT 'ok; why there is no score, otherwise',
    why              String COMMENT 'the state in words' CODEC(ZSTD),
    score            Nullable(Float32) COMMENT '0 to 100; NULL: there is none' CODEC(ZSTD),
    judged           Float32 COMMENT 'part of the form, by weight, that could be judged' CODEC(ZSTD),
    sections         Nested
    (
        name   LowCardinality(String),
        weight Float32,
        score  Nullable(Float32)
    ),
    items            String COMMENT 'JSON: {"sections": [{name, weight, score, items: [{name, points, earned, why, evidence}]}]}'
        CODEC(ZSTD),
    topic            LowCardinality(String),
    partition        UInt32,
    offset           UInt64 CODEC(Delta, ZSTD),
    written_at       DateTime64(3, 'UTC') DEFAULT now64(3)
        COMMENT 'the latest counts: offsets of a replay begin anew' CODEC(Delta, ZSTD)
)
ENGINE = ReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, pipeline_version, started_at, call_id, form)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE VIEW IF NOT EXISTS evaluation_trends AS
WITH
    scored AS
    (
        SELECT
            tenant, pipeline_version, form, form_version,
            toStartOfWeek(started_at, 1) AS week,
            arrayJoin([('agent', toString(agent)), ('queue', toString(queue))]) AS whose,
            arrayJoin(arrayConcat(
                [('', score)],
                arrayMap((name, score) -> (toString(name), score), sections.name, sections.score)
            )) AS part
        FROM evaluations FINAL
        WHERE state = 'ok'
    ),
    counted AS
    (
        SELECT
            tenant, pipeline_version, form, form_version, week,
            whose.1 AS level, whose.2 AS name, part.1 AS section,
            toUInt64(count(part.2)) AS calls,
            avg(part.2) AS average,
            stddevSamp(part.2) / sqrt(calls) AS standard_error,
            greatest(calls, 2) - 1 AS freedom
        FROM scored
        WHERE whose.2 != ''
        GROUP BY tenant, pipeline_version, form, form_version, week, level, name, section
    )
SELECT
    tenant, pipeline_version, form, form_version, week, level, name, section, calls,
    if(calls >= 10, average, NULL) AS mean,
    if(calls >= 10, greatest(average - t * standard_error, 0), NULL) AS low,
    if(calls >= 10, least(average + t * standard_error, 100), NULL) AS high
FROM
(
    SELECT *, 1.96 + 2.3724 / freedom + 2.8224 / (freedom * freedom) AS t
    FROM counted
);
