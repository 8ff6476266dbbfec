-- What one channel picks up of another party is counted there and not here, as the metrics stage has it (docs/metrics.md).
-- Calls that ended before keep their rows until `calltide migrate --rebuild` counts them again.

ALTER TABLE call_metrics_feed MODIFY QUERY
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
                AND NOT has(flags, 'cross_talk')
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
