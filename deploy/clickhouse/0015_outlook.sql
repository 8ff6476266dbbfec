-- What the metrics stage expects of the end of a call that goes on (docs/early-warning.md), beside its figures.
--
-- `call_progress_now` is what readers want: of each call the rows of its latest record. A party that turned out to be
-- another one, or of another role, keeps the row that it had in `call_progress`, which is left out here: the rows of one
-- record have one place in Kafka, and the rows of a later one are written later, or in the same insert from a later
-- offset. (Offsets alone would not tell: those of a replay begin anew.)

ALTER TABLE call_progress
    ADD COLUMN IF NOT EXISTS outlook Nullable(Float32)
        COMMENT 'of the whole call: chance that the customer''s last quarter is -1 or less; NULL: no model, too early, or ended'
        CODEC(ZSTD) AFTER hold_ms,
    ADD COLUMN IF NOT EXISTS outlook_model LowCardinality(String) COMMENT 'empty: none' AFTER outlook;

CREATE VIEW IF NOT EXISTS call_progress_now AS
SELECT * EXCEPT latest
FROM
(
    SELECT
        *,
        argMax((topic, partition, offset), (written_at, offset))
            OVER (PARTITION BY tenant, pipeline_version, started_at, call_id) AS latest
    FROM call_progress FINAL
)
WHERE (topic, partition, offset) = latest;
