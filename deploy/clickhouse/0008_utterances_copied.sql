-- The rows of before into the new tables; the materialized views of 0006 and 0007 count them on their way.
-- May run twice: the same utterances once more are the same utterances, and what was counted is counted anew.
-- insert_deduplicate: a block that comes again must be counted again, for its counts are gone.

TRUNCATE TABLE IF EXISTS utterance_minutes;
TRUNCATE TABLE IF EXISTS utterance_hours;
TRUNCATE TABLE IF EXISTS call_metrics;
TRUNCATE TABLE IF EXISTS call_terms;

INSERT INTO utterances_heard
SELECT
    tenant, pipeline_version, subtractMilliseconds(spoken_at, start_ms), call_id, channel, start_ms, end_ms,
    spoken_at, captured_at, toDateTime64(0, 3), queue, agent, speaker, role, role_confidence, speaker_confidence,
    overlap_ms, cut, text, words.text, words.start_ms, words.end_ms, words.confidence, language, asr_confidence,
    asr_model, flags, emotion, emotions, emotion_uncertain, complex_emotion, granular.name, granular.base,
    granular.confidence, emotion_model, emotion_skipped, pitch_mean_hz, pitch_variance_hz2, rms, loudness_lufs,
    speaking_rate_wps, spectral_centroid_hz, zero_crossing_rate, mfcc, jitter, shimmer, formants_hz, hnr_db,
    sentiment, score, text_score, voice_score, disagree, confidence, members, sentiment_model, call_score,
    party_score, call_utterances, topic, partition, offset
FROM utterances_heard_0003 FINAL
SETTINGS insert_deduplicate = 0;

-- A call's metrics are made when its end comes, so the ends come once more, a few calls at a time.
INSERT INTO calls
SELECT * FROM calls FINAL WHERE revision = 2 ORDER BY started_at
SETTINGS
    insert_deduplicate = 0, max_block_size = 10000, min_insert_block_size_rows = 10000, min_insert_block_size_bytes = 0;

SELECT throwIf(
    (SELECT count() FROM utterances_heard_0003 FINAL) > (SELECT count() FROM utterances_heard FINAL),
    'not every utterance was copied: utterances_heard_0003 has them all, and is kept'
);
