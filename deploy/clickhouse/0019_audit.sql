-- Who heard, exported or had explained what, over the API (docs/api.md): written before it is answered. Rows stay when a
-- call is forgotten or grows old: who has listened is asked later than that.

CREATE TABLE IF NOT EXISTS audit
(
    id            UUID DEFAULT generateUUIDv4(),
    at            DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta, ZSTD),
    tenant        LowCardinality(String) COMMENT 'of the call',
    call_id       String CODEC(ZSTD),
    caller        String COMMENT 'name of the key, or subject of the token' CODEC(ZSTD),
    caller_tenant LowCardinality(String) COMMENT 'empty: all tenants',
    role          LowCardinality(String),
    action        LowCardinality(String) COMMENT 'audio, explanation, export',
    detail        String COMMENT 'which utterance, which format' CODEC(ZSTD),
    request_id    String CODEC(ZSTD)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, at)
SETTINGS non_replicated_deduplication_window = 1000;
