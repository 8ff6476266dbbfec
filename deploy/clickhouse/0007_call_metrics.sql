-- What is known of a call once it has ended: a row for each party, and the words of it for each role.
-- Made by materialized views when the end of a call is inserted into `calls`, from its utterances with the corrections
-- that are known by then: the sink inserts both before the end. `calltide migrate --rebuild` makes them again, for
-- utterances that were redriven after the end.
--
-- A changer must know: what feeds such a view is the leftmost table of its query, which must therefore be `calls`; it
-- then stands for the rows inserted, wherever it is named.

CREATE TABLE IF NOT EXISTS call_metrics
(
    tenant               LowCardinality(String),
    pipeline_version     LowCardinality(String),
    started_at           DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    call_id              String CODEC(ZSTD),
    role                 LowCardinality(String),
    speaker              LowCardinality(String),
    queue                LowCardinality(String),
    agent                LowCardinality(String),
    ended_at             DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    duration_ms          UInt32 CODEC(ZSTD),
    utterances           UInt32 CODEC(ZSTD),
    words                UInt32 CODEC(ZSTD),
    talk_ms              UInt32 CODEC(ZSTD),
    talk_share           Float32 COMMENT 'of all talk of the call' CODEC(ZSTD),
    words_per_minute     Nullable(Float32) COMMENT 'of talk' CODEC(ZSTD),
    score                Nullable(Float32) COMMENT 'mean of its utterances, words and voice fused' CODEC(ZSTD),
    text_score           Nullable(Float32) CODEC(ZSTD),
    voice_score          Nullable(Float32) CODEC(ZSTD),
    negative             UInt32 COMMENT 'utterances' CODEC(ZSTD),
    neutral              UInt32 CODEC(ZSTD),
    positive             UInt32 CODEC(ZSTD),
    quarters             Array(Nullable(Float32))
        COMMENT 'mean score in each quarter of the call, -5 to 5; NULL: said nothing there' CODEC(ZSTD),
    change               Nullable(Float32) COMMENT 'last quarter less first; NULL: spoke in one at most' CODEC(ZSTD),
    emotion_ms           Map(LowCardinality(String), UInt32) COMMENT 'talk by emotion' CODEC(ZSTD),
    transitions          Map(LowCardinality(String), UInt32)
        COMMENT 'from the emotion of one utterance to that of the next: anger>neutral' CODEC(ZSTD),
    disagreements        UInt32 COMMENT 'utterances whose words and voice say clearly different things' CODEC(ZSTD),
    longest_monologue_ms UInt32 COMMENT 'longest stretch in which no other party begins to speak' CODEC(ZSTD),
    turns                UInt32 COMMENT 'how often it takes the floor' CODEC(ZSTD),
    silences             UInt32 COMMENT 'gaps of 5 s and more in which nobody speaks, of the whole call' CODEC(ZSTD),
    silence_ms           UInt32 COMMENT 'of these gaps' CODEC(ZSTD),
    longest_silence_ms   UInt32 COMMENT 'the longest gap, if of 5 s or more' CODEC(ZSTD),
    interruptions        Nullable(UInt32)
        COMMENT 'how often it begins while the other party speaks, and both go on for 0.3 s; NULL: not two channels' CODEC(ZSTD),
    overtalk_ms          Nullable(UInt32) COMMENT 'how long both speak after it began so' CODEC(ZSTD)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, pipeline_version, started_at, call_id, role, speaker)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS call_metrics_feed TO call_metrics AS
WITH
    ended AS
    (
        SELECT
            tenant, pipeline_version, started_at, call_id, assumeNotNull(ended_at) AS ended_at,
            assumeNotNull(duration_ms) AS duration_ms, queue, agent, channels
        FROM calls
        WHERE revision = 2 AND ended_at IS NOT NULL AND duration_ms IS NOT NULL
    ),
    said AS
    (
        SELECT *
        FROM ended
        INNER JOIN
        (
            SELECT
                tenant, pipeline_version, call_started_at AS started_at, call_id, channel, start_ms, end_ms, role,
                speaker, length(words.text) AS word_count, score AS fused, text_score AS by_text,
                voice_score AS by_voice, sentiment, emotion, disagree
            FROM utterances
            WHERE (tenant, pipeline_version, call_started_at, call_id) IN
                (SELECT tenant, pipeline_version, started_at, call_id FROM ended)
        ) AS utterance USING (tenant, pipeline_version, started_at, call_id)
    ),
    -- Beside each utterance what was said before it in its call.
    in_order AS
    (
        SELECT
            *,
            toInt64(greatest(end_ms, start_ms)) - start_ms AS talk,
            row_number() OVER call = 1 OR (role, speaker) != any((role, speaker)) OVER just_before AS takes_floor,
            greatest(toInt64(start_ms) - max(end_ms) OVER before, 0) AS gap,
            max(if(channel = 0, end_ms, 0)) OVER before AS first_until,
            max(if(channel = 0, 0, end_ms)) OVER before AS second_until,
            any(emotion) OVER (
                PARTITION BY tenant, pipeline_version, started_at, call_id, role, speaker, emotion = ''
                ORDER BY start_ms, channel ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING
            ) AS emotion_before
        FROM said
        WINDOW
            call AS (PARTITION BY tenant, pipeline_version, started_at, call_id ORDER BY start_ms, channel),
            before AS (
                PARTITION BY tenant, pipeline_version, started_at, call_id ORDER BY start_ms, channel
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ),
            just_before AS (
                PARTITION BY tenant, pipeline_version, started_at, call_id ORDER BY start_ms, channel
                ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING
            )
    ),
    in_turns AS
    (
        SELECT
            *,
            countIf(takes_floor) OVER (
                PARTITION BY tenant, pipeline_version, started_at, call_id ORDER BY start_ms, channel
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS turn,
            greatest(toInt64(least(end_ms, if(channel = 0, second_until, first_until))) - start_ms, 0) AS overtalk,
            sum(talk) OVER whole AS all_talk,
            greatest(toInt64(duration_ms) - max(end_ms) OVER whole, 0) AS last_gap,
            countIf(gap >= 5000) OVER whole + (last_gap >= 5000) AS all_silences,
            sumIf(gap, gap >= 5000) OVER whole + if(last_gap >= 5000, last_gap, 0) AS all_silence,
            greatest(maxIf(gap, gap >= 5000) OVER whole, if(last_gap >= 5000, last_gap, 0)) AS longest_silence
        FROM in_order
        WINDOW whole AS (PARTITION BY tenant, pipeline_version, started_at, call_id)
    ),
    in_monologues AS
    (
        SELECT
            *,
            toInt64(max(end_ms) OVER one) - min(start_ms) OVER one AS monologue,
            least(intDiv((toUInt64(start_ms) + end_ms) * 2, greatest(duration_ms, 1)), 3) AS quarter
        FROM in_turns
        WINDOW one AS (PARTITION BY tenant, pipeline_version, started_at, call_id, turn)
    )
SELECT
    tenant, pipeline_version, started_at, call_id, role, speaker,
    any(queue) AS queue,
    any(agent) AS agent,
    any(ended_at) AS ended_at,
    any(duration_ms) AS duration_ms,
    count() AS utterances,
    sum(word_count) AS words,
    sum(talk) AS talk_ms,
    if(any(all_talk) = 0, 0, talk_ms / any(all_talk)) AS talk_share,
    if(talk_ms = 0, NULL, words * 60000 / talk_ms) AS words_per_minute,
    avg(fused) AS score,
    avg(by_text) AS text_score,
    avg(by_voice) AS voice_score,
    countIf(sentiment = 'negative') AS negative,
    countIf(sentiment = 'neutral') AS neutral,
    countIf(sentiment = 'positive') AS positive,
    [
        avgOrNullIf(fused, quarter = 0) * 5, avgOrNullIf(fused, quarter = 1) * 5,
        avgOrNullIf(fused, quarter = 2) * 5, avgOrNullIf(fused, quarter = 3) * 5
    ] AS quarters,
    if(
        arrayCount(one -> one IS NOT NULL, quarters) < 2,
        NULL,
        arrayLast(one -> one IS NOT NULL, quarters) - arrayFirst(one -> one IS NOT NULL, quarters)
    ) AS change,
    sumMapIf(map(emotion, toUInt32(talk)), emotion != '') AS emotion_ms,
    sumMapIf(map(concat(emotion_before, '>', emotion), toUInt32(1)), emotion != '' AND emotion_before != '')
        AS transitions,
    countIf(disagree) AS disagreements,
    max(monologue) AS longest_monologue_ms,
    countIf(takes_floor) AS turns,
    any(all_silences) AS silences,
    any(all_silence) AS silence_ms,
    any(longest_silence) AS longest_silence_ms,
    if(any(channels) = 2, countIf(overtalk >= 300), NULL) AS interruptions,
    if(any(channels) = 2, sum(overtalk), NULL) AS overtalk_ms
FROM in_monologues
GROUP BY tenant, pipeline_version, started_at, call_id, role, speaker;

CREATE TABLE IF NOT EXISTS call_terms
(
    tenant           LowCardinality(String),
    pipeline_version LowCardinality(String),
    day              Date CODEC(Delta, ZSTD),
    queue            LowCardinality(String),
    role             LowCardinality(String),
    term             String
        COMMENT 'in small letters, of three letters at least; empty: the row counts the calls' CODEC(ZSTD),
    negative_calls   SimpleAggregateFunction(sum, UInt64)
        COMMENT 'calls in which the role says it, whose customer is at −0.2 and below on average' CODEC(ZSTD),
    neutral_calls    SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD),
    positive_calls   SimpleAggregateFunction(sum, UInt64) COMMENT 'at 0.2 and above' CODEC(ZSTD)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (tenant, pipeline_version, day, queue, role, term)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS call_terms_feed TO call_terms AS
WITH
    ended AS
    (
        SELECT tenant, pipeline_version, started_at, call_id, queue
        FROM calls
        WHERE revision = 2 AND ended_at IS NOT NULL
    ),
    said AS
    (
        SELECT tenant, pipeline_version, call_started_at AS started_at, call_id, role, text, score
        FROM utterances
        WHERE (tenant, pipeline_version, call_started_at, call_id) IN
            (SELECT tenant, pipeline_version, started_at, call_id FROM ended)
    ),
    -- Where nobody is known to be the customer, everybody counts who is not known to be the agent, or just everybody.
    moods AS
    (
        SELECT
            tenant, pipeline_version, started_at, call_id,
            coalesce(avgOrNullIf(score, role = 'customer'), avgOrNullIf(score, role != 'agent'), avg(score)) AS mood
        FROM said
        GROUP BY tenant, pipeline_version, started_at, call_id
        HAVING mood IS NOT NULL
    ),
    spoken AS
    (
        SELECT
            tenant, pipeline_version, started_at, call_id, role,
            arrayPushBack(
                arrayDistinct(arrayFlatten(groupArray(
                    extractAll(lowerUTF8(text), '\\p{L}[\\p{L}\\p{M}\'’]+[\\p{L}\\p{M}]')
                ))),
                ''
            ) AS terms
        FROM said
        GROUP BY tenant, pipeline_version, started_at, call_id, role
    )
SELECT
    tenant, pipeline_version, toDate(started_at) AS day, queue, role, term,
    countIf(mood <= -0.2) AS negative_calls,
    countIf(mood > -0.2 AND mood < 0.2) AS neutral_calls,
    countIf(mood >= 0.2) AS positive_calls
FROM ended
INNER JOIN moods USING (tenant, pipeline_version, started_at, call_id)
INNER JOIN spoken USING (tenant, pipeline_version, started_at, call_id)
ARRAY JOIN terms AS term
GROUP BY tenant, pipeline_version, day, queue, role, term;
