-- Which pipeline version dashboards and reports show when nobody chooses one: the one that was promoted last.

CREATE TABLE IF NOT EXISTS promotions
(
    pipeline_version LowCardinality(String),
    promoted_at      DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta, ZSTD)
)
ENGINE = MergeTree
ORDER BY promoted_at
SETTINGS non_replicated_deduplication_window = 1000;
