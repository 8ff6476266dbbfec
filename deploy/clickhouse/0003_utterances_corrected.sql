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
    names AS
    (
        SELECT
            tenant, call_id, pipeline_version, merged AS speaker,
            -- As many steps as there are merges: more cannot be needed, and a ring ends.
            arrayFold((at, step) -> if(mapContains(steps, at), steps[at], at), mapKeys(steps), merged) AS final_name
        FROM
        (
            SELECT
                tenant, call_id, pipeline_version,
                CAST((groupArray(name), groupArray(into)), 'Map(String, String)') AS steps
            FROM
            (
                SELECT
                    tenant, call_id, pipeline_version,
                    CAST(speaker, 'String') AS name, CAST(argMax(same_as, offset), 'String') AS into
                FROM corrections
                WHERE same_as != ''
                GROUP BY tenant, call_id, pipeline_version, name
            )
            GROUP BY tenant, call_id, pipeline_version
        )
        ARRAY JOIN mapKeys(steps) AS merged
    ),
    roles AS
    (
        SELECT
            tenant, call_id, pipeline_version,
            CAST(if(same_as = '', speaker, same_as), 'String') AS known_as,
            CAST(argMax(role, offset), 'String') AS found_role,
            argMax(tuple(role_confidence), offset).1 AS found_confidence
        FROM corrections
        WHERE same_as = '' OR role != 'unknown'
        GROUP BY tenant, call_id, pipeline_version, known_as
    ),
    heard AS
    (
        -- What is not joined is '', or NULL for who has set join_use_nulls.
        SELECT utterances_heard.*, ifNull(nullIf(final_name, ''), CAST(speaker, 'String')) AS known_as
        FROM utterances_heard FINAL
        LEFT JOIN names USING (tenant, call_id, pipeline_version, speaker)
    )
SELECT
    heard.* EXCEPT (known_as) REPLACE
    (
        known_as AS speaker,
        ifNull(nullIf(found_role, ''), CAST(heard.role, 'String')) AS role,
        if(ifNull(found_role, '') IN ('', heard.role), heard.role_confidence, found_confidence) AS role_confidence
    )
FROM heard
LEFT JOIN roles USING (tenant, call_id, pipeline_version, known_as);
