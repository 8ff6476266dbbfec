-- `utterances` is what everybody reads: each utterance once, its speaker and its role as they are known by now.
-- The rows as they were heard are in utterances_heard (ReplacingMergeTree: read it with FINAL). FINAL behind the view's
-- name is allowed and changes nothing.
--
-- A correction holds for all utterances of its call and pipeline version, earlier and later, also for one that was
-- redriven long after. A speaker that was merged into another is that one, over any number of steps (speaker-3 is
-- speaker-2, speaker-2 is speaker-1). A role holds for all who are one speaker, under whichever of their names it was
-- found; of several the last one. streams/corrections.py does the same for readers of `scores`.
-- A migration that adds a column to utterances_heard makes this view anew: its columns are those of its making.

CREATE VIEW IF NOT EXISTS utterances AS
WITH
    merges AS
    (
        SELECT
            tenant, call_id, pipeline_version,
            CAST((groupArray(name), groupArray(into)), 'Map(String, String)') AS merged
        FROM
        (
            SELECT tenant, call_id, pipeline_version, toString(speaker) AS name, toString(argMax(same_as, offset)) AS into
            FROM corrections
            WHERE same_as != ''
            GROUP BY tenant, call_id, pipeline_version, name
        )
        GROUP BY tenant, call_id, pipeline_version
    ),
    named AS
    (
        SELECT
            tenant, call_id, pipeline_version, speaker, role, role_confidence, offset, name,
            -- As many steps as there are merges: more cannot be needed, and a ring ends.
            arrayFold((at, step) -> if(mapContains(merged, at), merged[at], at), mapKeys(merged), name) AS final_name
        FROM corrections
        LEFT JOIN merges USING (tenant, call_id, pipeline_version)
        ARRAY JOIN arrayFilter(one -> one != '', [toString(speaker), toString(same_as)]) AS name
    ),
    known AS
    (
        SELECT
            tenant, call_id, pipeline_version, final_name,
            groupUniqArray(name) AS names,
            argMaxIf(toString(role), offset, role != 'unknown' AND name = speaker) AS found_role,
            argMaxIf(tuple(role_confidence), offset, role != 'unknown' AND name = speaker).1 AS found_confidence
        FROM named
        GROUP BY tenant, call_id, pipeline_version, final_name
    ),
    known_names AS
    (
        SELECT tenant, call_id, pipeline_version, name AS speaker, final_name, found_role, found_confidence
        FROM known
        ARRAY JOIN names AS name
    )
SELECT
    heard.* REPLACE
    (
        -- Without a correction the joined columns are empty, or NULL for who has set join_use_nulls.
        if(ifNull(now.final_name, '') = '', toString(heard.speaker), assumeNotNull(now.final_name)) AS speaker,
        if(ifNull(now.found_role, '') = '', toString(heard.role), assumeNotNull(now.found_role)) AS role,
        if(ifNull(now.found_role, '') = '', heard.role_confidence, now.found_confidence) AS role_confidence
    )
FROM (SELECT * FROM utterances_heard FINAL) AS heard
LEFT JOIN known_names AS now USING (tenant, call_id, pipeline_version, speaker);
