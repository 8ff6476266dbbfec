-- What was taken out of utterances as personal data (docs/redaction.md): how often each kind, never what it was. Of a
-- call in `utterances`, of many in `utterance_hours`, counted as they come like everything else there.

ALTER TABLE utterances_heard
    ADD COLUMN IF NOT EXISTS redacted Map(LowCardinality(String), UInt32)
        COMMENT 'what was taken out of text, words and audio: kind of personal data, how often' CODEC(ZSTD) AFTER text;

ALTER TABLE utterance_hours
    ADD COLUMN IF NOT EXISTS redacted SimpleAggregateFunction(sumMap, Map(String, UInt64))
        COMMENT 'what was taken out of texts and audio, by kind of personal data' CODEC(ZSTD);

-- As in 0006, and the last column.
ALTER TABLE utterance_hours_feed MODIFY QUERY
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
    countIf(has(flags, 'reduced_beam')) AS degraded,
    sumMap(CAST(redacted, 'Map(String, UInt64)')) AS redacted
FROM utterances_heard
GROUP BY tenant, pipeline_version, hour, queue, agent, role;

-- As in 0005, which says what it does: its columns are those of its making. Replaced at once, for a call may just end.
CREATE OR REPLACE VIEW utterances AS
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
