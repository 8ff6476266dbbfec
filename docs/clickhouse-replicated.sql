-- For a cluster of ClickHouse servers with ClickHouse Keeper and the macros {cluster}, {shard} and {replica}: run it
-- once, before Calltide. One shard: a call's metrics are made where its utterances are. See analytics-schema.md.

CREATE DATABASE IF NOT EXISTS calltide ON CLUSTER '{cluster}';

CREATE TABLE IF NOT EXISTS calltide.utterances_heard ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `call_started_at` DateTime64(3, 'UTC') DEFAULT subtractMilliseconds(spoken_at, start_ms) COMMENT 'the same for every utterance of a call' CODEC(Delta(8), ZSTD(1)),
    `call_id` String CODEC(ZSTD(1)),
    `channel` UInt8 CODEC(ZSTD(1)),
    `start_ms` UInt32 CODEC(Delta(4), ZSTD(1)),
    `end_ms` UInt32 CODEC(Delta(4), ZSTD(1)),
    `spoken_at` DateTime64(3, 'UTC') COMMENT 'wall clock of start_ms' CODEC(Delta(8), ZSTD(1)),
    `captured_at` DateTime64(3, 'UTC') COMMENT 'wall clock of end_ms' CODEC(Delta(8), ZSTD(1)),
    `scored_at` DateTime64(3, 'UTC') COMMENT 'when the sink read the score; 1970: not known' CODEC(Delta(8), ZSTD(1)),
    `latency_ms` Nullable(Int64) ALIAS if(toUnixTimestamp64Milli(scored_at) = 0, NULL, dateDiff('millisecond', captured_at, scored_at)),
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `speaker` LowCardinality(String),
    `role` LowCardinality(String),
    `role_confidence` Nullable(Float64) COMMENT 'how sure a role is that was found by what was said; NULL: the channel tells' CODEC(ZSTD(1)),
    `speaker_confidence` Float64 CODEC(ZSTD(1)),
    `overlap_ms` UInt32 COMMENT 'how much of it another speaker of the same mixed channel speaks, too' CODEC(ZSTD(1)),
    `cut` LowCardinality(String),
    `text` String CODEC(ZSTD(1)),
    `redacted` Map(LowCardinality(String), UInt32) COMMENT 'what was taken out of text, words and audio: kind of personal data, how often' CODEC(ZSTD(1)),
    `words.text` Array(String) CODEC(ZSTD(1)),
    `words.start_ms` Array(UInt32) CODEC(Delta(4), ZSTD(1)),
    `words.end_ms` Array(UInt32) CODEC(Delta(4), ZSTD(1)),
    `words.confidence` Array(Float64) CODEC(ZSTD(1)),
    `language` LowCardinality(String),
    `asr_confidence` Float64 CODEC(ZSTD(1)),
    `asr_model` LowCardinality(String),
    `flags` Array(LowCardinality(String)),
    `emotion` LowCardinality(String) COMMENT 'empty when it was not computed',
    `emotions` Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
    `emotion_uncertain` Bool COMMENT 'the strongest emotion is too weak to be called by its name' CODEC(ZSTD(1)),
    `complex_emotion` LowCardinality(String) COMMENT 'the name of the two strongest together; empty: they have none',
    `granular.name` Array(LowCardinality(String)) COMMENT 'finer names: a convention over the six probabilities, not a measurement' CODEC(ZSTD(1)),
    `granular.base` Array(LowCardinality(String)) CODEC(ZSTD(1)),
    `granular.confidence` Array(Float64) CODEC(ZSTD(1)),
    `emotion_model` LowCardinality(String),
    `emotion_skipped` LowCardinality(String) COMMENT 'why emotion was not computed',
    `pitch_mean_hz` Nullable(Float64) COMMENT 'acoustics: NULL where there was too little voice' CODEC(ZSTD(1)),
    `pitch_variance_hz2` Nullable(Float64) CODEC(ZSTD(1)),
    `rms` Nullable(Float64) COMMENT 'root mean square of the samples, 0 to 1' CODEC(ZSTD(1)),
    `loudness_lufs` Nullable(Float64) CODEC(ZSTD(1)),
    `speaking_rate_wps` Nullable(Float64) COMMENT 'words a second' CODEC(ZSTD(1)),
    `spectral_centroid_hz` Nullable(Float64) CODEC(ZSTD(1)),
    `zero_crossing_rate` Nullable(Float64) COMMENT 'share of samples at which the sign changes' CODEC(ZSTD(1)),
    `mfcc` Array(Float64) COMMENT 'means over time of 13 mel-frequency cepstral coefficients; empty: not measured' CODEC(ZSTD(1)),
    `jitter` Nullable(Float64) COMMENT 'local, a share of the period' CODEC(ZSTD(1)),
    `shimmer` Nullable(Float64) COMMENT 'local, a share of the amplitude' CODEC(ZSTD(1)),
    `formants_hz` Array(Float64) COMMENT 'means of F1, F2, F3; empty: not measured' CODEC(ZSTD(1)),
    `hnr_db` Nullable(Float64) COMMENT 'harmonics-to-noise ratio' CODEC(ZSTD(1)),
    `sentiment` LowCardinality(String) COMMENT 'empty when no words were recognised',
    `score` Nullable(Float64) COMMENT 'words and voice fused, -1 to 1' CODEC(ZSTD(1)),
    `text_score` Nullable(Float64) CODEC(ZSTD(1)),
    `voice_score` Nullable(Float64) CODEC(ZSTD(1)),
    `disagree` Bool COMMENT 'words and voice say clearly different things' CODEC(ZSTD(1)),
    `confidence` Nullable(Float64) CODEC(ZSTD(1)),
    `members` Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
    `sentiment_model` LowCardinality(String),
    `call_score` Float64 COMMENT 'the call so far' CODEC(ZSTD(1)),
    `party_score` Float64 COMMENT 'the speaker so far' CODEC(ZSTD(1)),
    `call_utterances` UInt32 COMMENT 'scored utterances of the call so far' CODEC(Delta(4), ZSTD(1)),
    `topic` LowCardinality(String),
    `partition` UInt32 CODEC(ZSTD(1)),
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    INDEX by_call call_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_time spoken_at TYPE minmax GRANULARITY 1,
    INDEX by_offset offset TYPE minmax GRANULARITY 1,
    INDEX by_words text TYPE text(tokenizer = splitByNonAlpha, preprocessor = lowerUTF8(text)) GRANULARITY 100000000
)
ENGINE = ReplicatedReplacingMergeTree(offset)
PARTITION BY toYYYYMM(call_started_at)
ORDER BY (toStartOfHour(call_started_at), tenant, pipeline_version, call_started_at, call_id, channel, start_ms)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.alerts ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `call_id` String CODEC(ZSTD(1)),
    `pipeline_version` LowCardinality(String),
    `at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `at_ms` UInt32 COMMENT 'media time, milliseconds from the start of the call',
    `rule` LowCardinality(String),
    `rules_version` LowCardinality(String),
    `category` LowCardinality(String),
    `severity` LowCardinality(String) COMMENT 'info, warning or critical',
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `role` LowCardinality(String),
    `text` String COMMENT 'why, for people' CODEC(ZSTD(1)),
    `utterances` Array(Tuple(
        channel UInt8,
        start_ms UInt32)) COMMENT 'what it rests on',
    `topic` LowCardinality(String),
    `partition` UInt32,
    `offset` UInt64 CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(offset)
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, at, call_id, pipeline_version, rule)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.audit ON CLUSTER '{cluster}'
(
    `id` UUID DEFAULT generateUUIDv4(),
    `at` DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta(8), ZSTD(1)),
    `tenant` LowCardinality(String) COMMENT 'of the call',
    `call_id` String CODEC(ZSTD(1)),
    `caller` String COMMENT 'name of the key, or subject of the token' CODEC(ZSTD(1)),
    `caller_tenant` LowCardinality(String) COMMENT 'empty: all tenants',
    `role` LowCardinality(String),
    `action` LowCardinality(String) COMMENT 'audio, explanation, export',
    `detail` String COMMENT 'which utterance, which format' CODEC(ZSTD(1)),
    `request_id` String CODEC(ZSTD(1))
)
ENGINE = ReplicatedMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, at)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.call_categories ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `started_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `call_id` String CODEC(ZSTD(1)),
    `category` LowCardinality(String),
    `rule` LowCardinality(String),
    `rules_version` LowCardinality(String),
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `at_ms` UInt32 COMMENT 'when the condition was first met' CODEC(ZSTD(1)),
    `utterances` Array(Tuple(
        channel UInt8,
        start_ms UInt32)) COMMENT 'what it rests on',
    `topic` LowCardinality(String),
    `partition` UInt32,
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `written_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'the latest counts: offsets of a replay begin anew' CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, pipeline_version, started_at, call_id, category, rule)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.call_metrics ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `started_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `call_id` String CODEC(ZSTD(1)),
    `role` LowCardinality(String),
    `speaker` LowCardinality(String),
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `ended_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `duration_ms` UInt32 CODEC(ZSTD(1)),
    `utterances` UInt32 CODEC(ZSTD(1)),
    `words` UInt32 CODEC(ZSTD(1)),
    `talk_ms` UInt32 CODEC(ZSTD(1)),
    `talk_share` Float32 COMMENT 'of all talk of the call' CODEC(ZSTD(1)),
    `words_per_minute` Nullable(Float32) COMMENT 'of talk' CODEC(ZSTD(1)),
    `score` Nullable(Float32) COMMENT 'mean of its utterances, words and voice fused' CODEC(ZSTD(1)),
    `text_score` Nullable(Float32) CODEC(ZSTD(1)),
    `voice_score` Nullable(Float32) CODEC(ZSTD(1)),
    `negative` UInt32 COMMENT 'utterances' CODEC(ZSTD(1)),
    `neutral` UInt32 CODEC(ZSTD(1)),
    `positive` UInt32 CODEC(ZSTD(1)),
    `quarters` Array(Nullable(Float32)) COMMENT 'mean score in each quarter of the call, -5 to 5; NULL: said nothing there' CODEC(ZSTD(1)),
    `change` Nullable(Float32) COMMENT 'last quarter less first; NULL: spoke in one at most' CODEC(ZSTD(1)),
    `emotion_ms` Map(LowCardinality(String), UInt32) COMMENT 'talk by emotion' CODEC(ZSTD(1)),
    `transitions` Map(LowCardinality(String), UInt32) COMMENT 'from the emotion of one utterance to that of the next: anger>neutral' CODEC(ZSTD(1)),
    `disagreements` UInt32 COMMENT 'utterances whose words and voice say clearly different things' CODEC(ZSTD(1)),
    `longest_monologue_ms` UInt32 COMMENT 'longest stretch in which no other party begins to speak' CODEC(ZSTD(1)),
    `turns` UInt32 COMMENT 'how often it takes the floor' CODEC(ZSTD(1)),
    `silences` UInt32 COMMENT 'gaps of 5 s and more in which nobody speaks, of the whole call' CODEC(ZSTD(1)),
    `silence_ms` UInt32 COMMENT 'of these gaps' CODEC(ZSTD(1)),
    `longest_silence_ms` UInt32 COMMENT 'the longest gap, if of 5 s or more' CODEC(ZSTD(1)),
    `interruptions` Nullable(UInt32) COMMENT 'how often it begins while the other party speaks, and both go on for 0.3 s; NULL: not two channels' CODEC(ZSTD(1)),
    `overtalk_ms` Nullable(UInt32) COMMENT 'how long both speak after it began so' CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, pipeline_version, started_at, call_id, role, speaker)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.call_progress ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `started_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `call_id` String CODEC(ZSTD(1)),
    `role` LowCardinality(String),
    `speaker` LowCardinality(String),
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `at_ms` UInt32 COMMENT 'media time up to which anything is known' CODEC(ZSTD(1)),
    `final` Bool,
    `partial` Bool COMMENT 'the beginning of the call was not heard',
    `utterances` UInt32 CODEC(ZSTD(1)),
    `words` UInt32 CODEC(ZSTD(1)),
    `talk_ms` UInt32 CODEC(ZSTD(1)),
    `talk_share` Float32 COMMENT 'of all talk of the call' CODEC(ZSTD(1)),
    `words_per_minute` Nullable(Float32) COMMENT 'of talk' CODEC(ZSTD(1)),
    `score` Nullable(Float32) COMMENT 'mean of its utterances, words and voice fused' CODEC(ZSTD(1)),
    `negative` UInt32 COMMENT 'utterances' CODEC(ZSTD(1)),
    `neutral` UInt32 CODEC(ZSTD(1)),
    `positive` UInt32 CODEC(ZSTD(1)),
    `quarters` Array(Nullable(Float32)) COMMENT 'mean score in each quarter of the call so far, -5 to 5; NULL: said nothing there' CODEC(ZSTD(1)),
    `change` Nullable(Float32) COMMENT 'last quarter less first; NULL: spoke in one at most' CODEC(ZSTD(1)),
    `emotion_ms` Map(LowCardinality(String), UInt32) COMMENT 'talk by emotion' CODEC(ZSTD(1)),
    `longest_monologue_ms` UInt32 COMMENT 'longest stretch in which no other party begins to speak' CODEC(ZSTD(1)),
    `turns` UInt32 COMMENT 'how often it takes the floor' CODEC(ZSTD(1)),
    `responses` UInt32 COMMENT 'how often it answers another party' CODEC(ZSTD(1)),
    `response_ms` Nullable(UInt32) COMMENT 'median silence before it answers; NULL: it never does' CODEC(ZSTD(1)),
    `interruptions` Nullable(UInt32) COMMENT 'how often it begins while another speaks, and both go on for 0.3 s; NULL: all share a channel' CODEC(ZSTD(1)),
    `interrupted` Nullable(UInt32) COMMENT 'how often another party does so to it' CODEC(ZSTD(1)),
    `overtalk_ms` Nullable(UInt32) COMMENT 'how long both speak after it began so' CODEC(ZSTD(1)),
    `loudness_lufs` Nullable(Float32) COMMENT 'mean over its talk, where it was measured' CODEC(ZSTD(1)),
    `loudness_trend` Nullable(Float32) COMMENT 'dB a minute; NULL: too few utterances were measured' CODEC(ZSTD(1)),
    `call_score` Nullable(Float32) COMMENT 'of the whole call, as what follows: mean of all utterances' CODEC(ZSTD(1)),
    `silences` UInt32 COMMENT 'gaps of 5 s and more in which nobody speaks' CODEC(ZSTD(1)),
    `silence_ms` UInt32 COMMENT 'of these gaps' CODEC(ZSTD(1)),
    `longest_silence_ms` UInt32 COMMENT 'the longest gap, if of 5 s or more' CODEC(ZSTD(1)),
    `silence_now_ms` UInt32 COMMENT 'how long nobody has spoken by at_ms' CODEC(ZSTD(1)),
    `dead_air` Array(Tuple(
        start_ms UInt32,
        end_ms UInt32)) COMMENT 'the longest gaps, in order of time',
    `hold_ms` Nullable(UInt32) COMMENT 'on hold; NULL: nobody marked it, or the call goes on' CODEC(ZSTD(1)),
    `outlook` Nullable(Float32) COMMENT 'of the whole call: chance that the customer\'s last quarter is -1 or less; NULL: no model, too early, or ended' CODEC(ZSTD(1)),
    `outlook_model` LowCardinality(String) COMMENT 'empty: none',
    `topic` LowCardinality(String),
    `partition` UInt32,
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `written_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'the latest counts: offsets of a replay begin anew' CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, pipeline_version, started_at, call_id, role, speaker)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.call_terms ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `day` Date CODEC(Delta(2), ZSTD(1)),
    `queue` LowCardinality(String),
    `role` LowCardinality(String),
    `term` String COMMENT 'in small letters, of three letters at least; empty: the row counts the calls' CODEC(ZSTD(1)),
    `negative_calls` SimpleAggregateFunction(sum, UInt64) COMMENT 'calls in which the role says it, whose customer is at −0.2 and below on average' CODEC(ZSTD(1)),
    `neutral_calls` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `positive_calls` SimpleAggregateFunction(sum, UInt64) COMMENT 'at 0.2 and above' CODEC(ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (tenant, pipeline_version, day, queue, role, term)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.calls ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `call_id` String,
    `pipeline_version` LowCardinality(String),
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `source` String,
    `roles` Array(LowCardinality(String)),
    `channels` UInt8 DEFAULT length(roles),
    `languages` Array(LowCardinality(String)) COMMENT 'heard in it; known once it has ended',
    `metadata` Map(String, String),
    `started_at` DateTime64(3, 'UTC'),
    `ended_at` Nullable(DateTime64(3, 'UTC')),
    `duration_ms` Nullable(UInt32),
    `end_reason` LowCardinality(String) DEFAULT '',
    `missing_ms` UInt32 DEFAULT 0,
    `dropped_packets` UInt32 DEFAULT 0,
    `not_speech_ms` UInt32 COMMENT 'sound that rose like speech and was taken for none, all channels',
    `revision` UInt8 COMMENT '1: started, 2: ended; the higher one stays',
    `topic` LowCardinality(String) COMMENT 'where its latest event came from',
    `partition` UInt32,
    `offset` UInt64
)
ENGINE = ReplicatedReplacingMergeTree(revision)
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, call_id, pipeline_version)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.corrections ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `call_id` String,
    `pipeline_version` LowCardinality(String),
    `started_at` DateTime64(3, 'UTC') COMMENT 'of the call',
    `speaker` LowCardinality(String),
    `same_as` LowCardinality(String) COMMENT 'the earlier speaker whose voice it is; empty: says nothing of that',
    `role` LowCardinality(String) COMMENT 'the role found; unknown: says nothing of that',
    `role_confidence` Nullable(Float64),
    `topic` LowCardinality(String),
    `partition` UInt32,
    `offset` UInt64
)
ENGINE = ReplicatedReplacingMergeTree
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, call_id, pipeline_version, offset, topic, partition)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.dead_letters ON CLUSTER '{cluster}'
(
    `dlq_topic` LowCardinality(String),
    `dlq_partition` UInt32,
    `dlq_offset` UInt64,
    `failed_at` SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'time of the record, which is when its audio was captured',
    `stage` SimpleAggregateFunction(max, String) COMMENT 'empty: its headers do not say',
    `topic` SimpleAggregateFunction(max, String) COMMENT 'of the record that failed',
    `partition` SimpleAggregateFunction(max, Nullable(UInt32)),
    `offset` SimpleAggregateFunction(max, Nullable(UInt64)),
    `tenant` SimpleAggregateFunction(max, String) COMMENT 'empty: the record cannot be read',
    `call_id` SimpleAggregateFunction(max, String),
    `kind` SimpleAggregateFunction(max, String),
    `error` SimpleAggregateFunction(max, String) COMMENT 'class of the exception',
    `message` SimpleAggregateFunction(max, String),
    `settled` SimpleAggregateFunction(max, String) COMMENT 'redriven or dropped; empty: neither yet',
    `settled_at` SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT '1970: not settled'
)
ENGINE = ReplicatedAggregatingMergeTree
ORDER BY (dlq_topic, dlq_partition, dlq_offset);

CREATE TABLE IF NOT EXISTS calltide.evaluations ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `started_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `call_id` String CODEC(ZSTD(1)),
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `ended_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `duration_ms` UInt32 CODEC(ZSTD(1)),
    `language` LowCardinality(String),
    `form` LowCardinality(String),
    `form_version` LowCardinality(String) COMMENT 'a hash of what the form means',
    `state` LowCardinality(String) COMMENT 'ok; why there is no score, otherwise',
    `why` String COMMENT 'the state in words' CODEC(ZSTD(1)),
    `score` Nullable(Float32) COMMENT '0 to 100; NULL: there is none' CODEC(ZSTD(1)),
    `judged` Float32 COMMENT 'part of the form, by weight, that could be judged' CODEC(ZSTD(1)),
    `sections.name` Array(LowCardinality(String)),
    `sections.weight` Array(Float32),
    `sections.score` Array(Nullable(Float32)),
    `items` String COMMENT 'JSON: {"sections": [{name, weight, score, items: [{name, points, earned, why, evidence}]}]}' CODEC(ZSTD(1)),
    `topic` LowCardinality(String),
    `partition` UInt32,
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `written_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'the latest counts: offsets of a replay begin anew' CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, pipeline_version, started_at, call_id, form)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.insights ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `started_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `call_id` String CODEC(ZSTD(1)),
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `ended_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `duration_ms` UInt32 CODEC(ZSTD(1)),
    `engine` LowCardinality(String) COMMENT 'extractive: quotes and fixed phrases only; or llm:MODEL',
    `model` LowCardinality(String),
    `state` LowCardinality(String) COMMENT 'ok; why there is nothing, otherwise',
    `language` LowCardinality(String),
    `business` LowCardinality(String) COMMENT 'whose glossary was read: b2b or b2c',
    `glossary` LowCardinality(String) COMMENT 'name and hash',
    `utterances` UInt32 COMMENT 'with words' CODEC(ZSTD(1)),
    `unread` UInt32 COMMENT 'of these, left out of a call too long' CODEC(ZSTD(1)),
    `summary` Array(String) COMMENT 'its statements, in order' CODEC(ZSTD(1)),
    `reason` String COMMENT 'why the customer calls' CODEC(ZSTD(1)),
    `outcome` String CODEC(ZSTD(1)),
    `resolved` LowCardinality(String) COMMENT 'yes, no, unknown',
    `topics` Array(LowCardinality(String)) COMMENT 'paths, "IT support > Access > Password reset", likeliest first',
    `similarities` Array(Nullable(Float32)) COMMENT 'of the topics; NULL: chosen by an llm' CODEC(ZSTD(1)),
    `issues` Array(LowCardinality(String)) COMMENT 'sorts, in order of time',
    `objections` Array(LowCardinality(String)),
    `coaching` Array(LowCardinality(String)),
    `action_items` UInt16 CODEC(ZSTD(1)),
    `questions` UInt16 COMMENT 'of the quiz' CODEC(ZSTD(1)),
    `uncited` UInt16 COMMENT 'statements left out since they cited nothing' CODEC(ZSTD(1)),
    `findings` String COMMENT 'JSON' CODEC(ZSTD(1)),
    `topic` LowCardinality(String),
    `partition` UInt32,
    `offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `written_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'the latest counts: offsets of a replay begin anew' CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(started_at)
ORDER BY (tenant, pipeline_version, started_at, call_id, engine)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.promotions ON CLUSTER '{cluster}'
(
    `pipeline_version` LowCardinality(String),
    `promoted_at` DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplicatedMergeTree
ORDER BY promoted_at
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.schema_migrations ON CLUSTER '{cluster}'
(
    `number` UInt32,
    `name` String,
    `sha256` FixedString(64),
    `applied_at` DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplicatedReplacingMergeTree
ORDER BY number;

CREATE TABLE IF NOT EXISTS calltide.task_chunks ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `task_id` String CODEC(ZSTD(1)),
    `number` UInt32 CODEC(Delta(4), ZSTD(1)),
    `call_id` String CODEC(ZSTD(1)),
    `state` LowCardinality(String) COMMENT 'pending, processing, completed or failed',
    `start_ms` UInt32 CODEC(Delta(4), ZSTD(1)),
    `end_ms` UInt32 CODEC(Delta(4), ZSTD(1)),
    `error` String CODEC(ZSTD(1)),
    `created_at` DateTime64(3, 'UTC') COMMENT 'of the task' CODEC(Delta(8), ZSTD(1)),
    `revision` UInt64 CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(revision)
ORDER BY (tenant, task_id, number)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.tasks ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `task_id` String CODEC(ZSTD(1)),
    `kind` LowCardinality(String) COMMENT 'upload, transcribe or analyze',
    `state` LowCardinality(String) COMMENT 'pending, processing, completed, failed or cancelled',
    `call_id` String CODEC(ZSTD(1)),
    `pipeline_version` LowCardinality(String) COMMENT 'of what comes of it',
    `source` String COMMENT 'name of the file, as it was given' CODEC(ZSTD(1)),
    `asked_by` LowCardinality(String),
    `sha256` String COMMENT 'of its bytes, in hexadecimal' CODEC(ZSTD(1)),
    `bytes` UInt64 CODEC(ZSTD(1)),
    `duration_ms` Nullable(UInt32) COMMENT 'NULL: not known yet' CODEC(ZSTD(1)),
    `progress` Map(LowCardinality(String), Float32) COMMENT 'share of the recording that a stage has written' CODEC(ZSTD(1)),
    `error` String COMMENT 'what happened and what to do, for people' CODEC(ZSTD(1)),
    `created_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `updated_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `attempt` UInt16 DEFAULT 1,
    `revision` UInt64 CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(revision)
ORDER BY (tenant, task_id)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.utterance_hours ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `hour` DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `role` LowCardinality(String),
    `utterances` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `speech_ms` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `words` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `score_n` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `score_sum` SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    `score_sq` SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    `text_n` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `text_sum` SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    `voice_n` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `voice_sum` SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    `negative` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `neutral` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `positive` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `disagreements` SimpleAggregateFunction(sum, UInt64) COMMENT 'words and voice say clearly different things' CODEC(ZSTD(1)),
    `emotions` SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'utterances by emotion' CODEC(ZSTD(1)),
    `granular` SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'by finer name: an utterance has several, or none' CODEC(ZSTD(1)),
    `complex` SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'by the name of the two strongest' CODEC(ZSTD(1)),
    `pairs` SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'by what the words (from ±0.2 on) and the voice say: negative+anger' CODEC(ZSTD(1)),
    `score_bins` SimpleAggregateFunction(sumMap, Map(Int8, UInt64)) COMMENT 'by tenths of score, rounded down: -10 to 9' CODEC(ZSTD(1)),
    `confidence_n` SimpleAggregateFunction(sum, UInt64) COMMENT 'utterances with words' CODEC(ZSTD(1)),
    `confidence_sum` SimpleAggregateFunction(sum, Float64) COMMENT 'how sure speech recognition is of them' CODEC(ZSTD(1)),
    `latency_n` SimpleAggregateFunction(sum, UInt64) COMMENT 'scores that came within ten minutes of the voice: the others are of no live call' CODEC(ZSTD(1)),
    `latency_sum_ms` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `latency_bins` SimpleAggregateFunction(sumMap, Map(UInt16, UInt64)) COMMENT 'by latency, at most so many tenths of a second' CODEC(ZSTD(1)),
    `degraded` SimpleAggregateFunction(sum, UInt64) COMMENT 'heard with less effort, because the stage was behind' CODEC(ZSTD(1)),
    `redacted` SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'what was taken out of texts and audio, by kind of personal data' CODEC(ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (tenant, pipeline_version, hour, queue, agent, role)
SETTINGS replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS calltide.utterance_minutes ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `minute` DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    `queue` LowCardinality(String),
    `role` LowCardinality(String),
    `utterances` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `speech_ms` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `words` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `score_n` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `score_sum` SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    `score_sq` SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    `text_n` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `text_sum` SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    `voice_n` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `voice_sum` SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    `negative` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `neutral` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `positive` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `disagreements` SimpleAggregateFunction(sum, UInt64) COMMENT 'words and voice say clearly different things' CODEC(ZSTD(1)),
    `emotions` SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'utterances by emotion' CODEC(ZSTD(1)),
    `granular` SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'by finer name: an utterance has several, or none' CODEC(ZSTD(1)),
    `complex` SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'by the name of the two strongest' CODEC(ZSTD(1)),
    `pairs` SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'by what the words (from ±0.2 on) and the voice say: negative+anger' CODEC(ZSTD(1)),
    `score_bins` SimpleAggregateFunction(sumMap, Map(Int8, UInt64)) COMMENT 'by tenths of score, rounded down: -10 to 9' CODEC(ZSTD(1)),
    `confidence_n` SimpleAggregateFunction(sum, UInt64) COMMENT 'utterances with words' CODEC(ZSTD(1)),
    `confidence_sum` SimpleAggregateFunction(sum, Float64) COMMENT 'how sure speech recognition is of them' CODEC(ZSTD(1)),
    `latency_n` SimpleAggregateFunction(sum, UInt64) COMMENT 'scores that came within ten minutes of the voice: the others are of no live call' CODEC(ZSTD(1)),
    `latency_sum_ms` SimpleAggregateFunction(sum, UInt64) CODEC(ZSTD(1)),
    `latency_bins` SimpleAggregateFunction(sumMap, Map(UInt16, UInt64)) COMMENT 'by latency, at most so many tenths of a second' CODEC(ZSTD(1)),
    `degraded` SimpleAggregateFunction(sum, UInt64) COMMENT 'heard with less effort, because the stage was behind' CODEC(ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (tenant, pipeline_version, minute, queue, role)
SETTINGS replicated_deduplication_window = 1000;

CREATE VIEW IF NOT EXISTS calltide.call_insights ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `started_at` DateTime64(3, 'UTC'),
    `call_id` String,
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `ended_at` DateTime64(3, 'UTC'),
    `duration_ms` UInt32,
    `engine` LowCardinality(String),
    `model` LowCardinality(String),
    `state` LowCardinality(String),
    `language` LowCardinality(String),
    `business` LowCardinality(String),
    `glossary` LowCardinality(String),
    `utterances` UInt32,
    `unread` UInt32,
    `summary` Array(String),
    `reason` String,
    `outcome` String,
    `resolved` LowCardinality(String),
    `topics` Array(LowCardinality(String)),
    `similarities` Array(Nullable(Float32)),
    `issues` Array(LowCardinality(String)),
    `objections` Array(LowCardinality(String)),
    `coaching` Array(LowCardinality(String)),
    `action_items` UInt16,
    `questions` UInt16,
    `uncited` UInt16,
    `findings` String,
    `topic` LowCardinality(String),
    `partition` UInt32,
    `offset` UInt64,
    `written_at` DateTime64(3, 'UTC')
)
AS SELECT *
FROM calltide.insights
FINAL
WHERE (tenant, pipeline_version, started_at, call_id, engine) IN (
    SELECT
        tenant,
        pipeline_version,
        started_at,
        call_id,
        argMax(engine, (state = 'ok', engine != 'extractive', ended_at, written_at))
    FROM calltide.insights
    GROUP BY
        tenant,
        pipeline_version,
        started_at,
        call_id
);

CREATE VIEW IF NOT EXISTS calltide.call_progress_now ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `started_at` DateTime64(3, 'UTC'),
    `call_id` String,
    `role` LowCardinality(String),
    `speaker` LowCardinality(String),
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `at_ms` UInt32,
    `final` Bool,
    `partial` Bool,
    `utterances` UInt32,
    `words` UInt32,
    `talk_ms` UInt32,
    `talk_share` Float32,
    `words_per_minute` Nullable(Float32),
    `score` Nullable(Float32),
    `negative` UInt32,
    `neutral` UInt32,
    `positive` UInt32,
    `quarters` Array(Nullable(Float32)),
    `change` Nullable(Float32),
    `emotion_ms` Map(LowCardinality(String), UInt32),
    `longest_monologue_ms` UInt32,
    `turns` UInt32,
    `responses` UInt32,
    `response_ms` Nullable(UInt32),
    `interruptions` Nullable(UInt32),
    `interrupted` Nullable(UInt32),
    `overtalk_ms` Nullable(UInt32),
    `loudness_lufs` Nullable(Float32),
    `loudness_trend` Nullable(Float32),
    `call_score` Nullable(Float32),
    `silences` UInt32,
    `silence_ms` UInt32,
    `longest_silence_ms` UInt32,
    `silence_now_ms` UInt32,
    `dead_air` Array(Tuple(
        start_ms UInt32,
        end_ms UInt32)),
    `hold_ms` Nullable(UInt32),
    `outlook` Nullable(Float32),
    `outlook_model` LowCardinality(String),
    `topic` LowCardinality(String),
    `partition` UInt32,
    `offset` UInt64,
    `written_at` DateTime64(3, 'UTC')
)
AS SELECT * EXCEPT latest
FROM
(
    SELECT
        *,
        argMax((topic, partition, offset), (written_at, offset)) OVER (PARTITION BY tenant, pipeline_version, started_at, call_id) AS latest
    FROM calltide.call_progress
    FINAL
)
WHERE (topic, partition, offset) = latest;

CREATE VIEW IF NOT EXISTS calltide.evaluation_trends ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `form` LowCardinality(String),
    `form_version` LowCardinality(String),
    `week` Date,
    `level` String,
    `name` LowCardinality(String),
    `section` String,
    `calls` UInt64,
    `mean` Nullable(Float64),
    `low` Nullable(Float64),
    `high` Nullable(Float64)
)
AS WITH
    scored AS
    (
        SELECT
            tenant,
            pipeline_version,
            form,
            form_version,
            toStartOfWeek(started_at, 1) AS week,
            arrayJoin([('agent', toString(agent)), ('queue', toString(queue))]) AS whose,
            arrayJoin(arrayConcat([('', score)], arrayMap((name, score) -> (toString(name), score), sections.name, sections.score))) AS part
        FROM calltide.evaluations
        FINAL
        WHERE state = 'ok'
    ),
    counted AS
    (
        SELECT
            tenant,
            pipeline_version,
            form,
            form_version,
            week,
            whose.1 AS level,
            whose.2 AS name,
            part.1 AS section,
            toUInt64(count(part.2)) AS calls,
            avg(part.2) AS average,
            stddevSamp(part.2) / sqrt(calls) AS standard_error,
            greatest(calls, 2) - 1 AS freedom
        FROM scored
        WHERE (whose.2) != ''
        GROUP BY
            tenant,
            pipeline_version,
            form,
            form_version,
            week,
            level,
            name,
            section
    )
SELECT
    tenant,
    pipeline_version,
    form,
    form_version,
    week,
    level,
    name,
    section,
    calls,
    if(calls >= 10, average, NULL) AS mean,
    if(calls >= 10, greatest(average - (t * standard_error), 0), NULL) AS low,
    if(calls >= 10, least(average + (t * standard_error), 100), NULL) AS high
FROM
(
    SELECT
        *,
        (1.96 + (2.3724 / freedom)) + (2.8224 / (freedom * freedom)) AS t
    FROM counted
);

CREATE VIEW IF NOT EXISTS calltide.utterances ON CLUSTER '{cluster}'
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `call_started_at` DateTime64(3, 'UTC'),
    `call_id` String,
    `channel` UInt8,
    `start_ms` UInt32,
    `end_ms` UInt32,
    `spoken_at` DateTime64(3, 'UTC'),
    `captured_at` DateTime64(3, 'UTC'),
    `scored_at` DateTime64(3, 'UTC'),
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `speaker` String,
    `role` String,
    `role_confidence` Nullable(Float64),
    `speaker_confidence` Float64,
    `overlap_ms` UInt32,
    `cut` LowCardinality(String),
    `text` String,
    `redacted` Map(LowCardinality(String), UInt32),
    `words.text` Array(String),
    `words.start_ms` Array(UInt32),
    `words.end_ms` Array(UInt32),
    `words.confidence` Array(Float64),
    `language` LowCardinality(String),
    `asr_confidence` Float64,
    `asr_model` LowCardinality(String),
    `flags` Array(LowCardinality(String)),
    `emotion` LowCardinality(String),
    `emotions` Map(LowCardinality(String), Float64),
    `emotion_uncertain` Bool,
    `complex_emotion` LowCardinality(String),
    `granular.name` Array(LowCardinality(String)),
    `granular.base` Array(LowCardinality(String)),
    `granular.confidence` Array(Float64),
    `emotion_model` LowCardinality(String),
    `emotion_skipped` LowCardinality(String),
    `pitch_mean_hz` Nullable(Float64),
    `pitch_variance_hz2` Nullable(Float64),
    `rms` Nullable(Float64),
    `loudness_lufs` Nullable(Float64),
    `speaking_rate_wps` Nullable(Float64),
    `spectral_centroid_hz` Nullable(Float64),
    `zero_crossing_rate` Nullable(Float64),
    `mfcc` Array(Float64),
    `jitter` Nullable(Float64),
    `shimmer` Nullable(Float64),
    `formants_hz` Array(Float64),
    `hnr_db` Nullable(Float64),
    `sentiment` LowCardinality(String),
    `score` Nullable(Float64),
    `text_score` Nullable(Float64),
    `voice_score` Nullable(Float64),
    `disagree` Bool,
    `confidence` Nullable(Float64),
    `members` Map(LowCardinality(String), Float64),
    `sentiment_model` LowCardinality(String),
    `call_score` Float64,
    `party_score` Float64,
    `call_utterances` UInt32,
    `topic` LowCardinality(String),
    `partition` UInt32,
    `offset` UInt64,
    `latency_ms` Nullable(Int64)
)
AS WITH
    calls_told AS
    (
        SELECT
            tenant,
            call_id,
            pipeline_version,
            arraySort(groupArray((offset, CAST(speaker, 'String'), CAST(same_as, 'String'), CAST(role, 'String'), role_confidence))) AS told,
            arrayFilter(one -> ((one.3) != ''), told) AS merged
        FROM calltide.corrections
        GROUP BY
            tenant,
            call_id,
            pipeline_version
    ),
    names AS
    (
        SELECT
            cityHash64(tenant, call_id, pipeline_version, name) AS key,
            arrayFold((at, step) -> ifNull(nullIf((arrayLast(one -> ((one.2) = at), merged)).3, ''), at), arrayDistinct(merged.2), name) AS final_name,
            arrayLast(one -> ((if((one.3) = '', one.2, one.3) = final_name) AND (((one.3) = '') OR ((one.4) != 'unknown'))), told) AS found,
            found.4 AS found_role,
            found.5 AS found_confidence
        FROM calls_told
        ARRAY JOIN arrayDistinct(arrayConcat(told.2, merged.3)) AS name
    )
SELECT
    heard.* REPLACE (ifNull(nullIf(final_name, ''), CAST(heard.speaker, 'String')) AS speaker, ifNull(nullIf(found_role, ''), CAST(heard.role, 'String')) AS role, if((ifNull(found_role, '') IN ('', heard.role)), heard.role_confidence, found_confidence) AS role_confidence),
    latency_ms
FROM calltide.utterances_heard AS heard
FINAL
ANY LEFT JOIN names ON cityHash64(heard.tenant, heard.call_id, heard.pipeline_version, heard.speaker) = names.key;

CREATE MATERIALIZED VIEW IF NOT EXISTS calltide.call_metrics_feed ON CLUSTER '{cluster}' TO calltide.call_metrics
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `started_at` DateTime64(3, 'UTC'),
    `call_id` String,
    `role` String,
    `speaker` String,
    `queue` String,
    `agent` String,
    `ended_at` DateTime64(3, 'UTC'),
    `duration_ms` UInt32,
    `utterances` UInt64,
    `words` UInt64,
    `talk_ms` Int64,
    `talk_share` Float64,
    `words_per_minute` Nullable(Float64),
    `score` Nullable(Float64),
    `text_score` Nullable(Float64),
    `voice_score` Nullable(Float64),
    `negative` UInt64,
    `neutral` UInt64,
    `positive` UInt64,
    `quarters` Array(Nullable(Float64)),
    `change` Nullable(Float64),
    `emotion_ms` Map(String, UInt64),
    `transitions` Map(String, UInt64),
    `disagreements` UInt64,
    `longest_monologue_ms` Int64,
    `turns` UInt64,
    `silences` UInt64,
    `silence_ms` Int64,
    `longest_silence_ms` Int64,
    `interruptions` Nullable(UInt64),
    `overtalk_ms` Nullable(Int64)
)
AS WITH
    ended AS
    (
        SELECT
            tenant,
            pipeline_version,
            started_at,
            call_id,
            assumeNotNull(ended_at) AS ended_at,
            assumeNotNull(duration_ms) AS duration_ms,
            queue,
            agent,
            channels
        FROM calltide.calls
        WHERE (revision = 2) AND (ended_at IS NOT NULL) AND (duration_ms IS NOT NULL)
    ),
    said AS
    (
        SELECT *
        FROM ended
        INNER JOIN
        (
            SELECT
                tenant,
                pipeline_version,
                call_started_at AS started_at,
                call_id,
                channel,
                start_ms,
                end_ms,
                role,
                speaker,
                length(words.text) AS word_count,
                score AS fused,
                text_score AS by_text,
                voice_score AS by_voice,
                sentiment,
                emotion,
                disagree
            FROM calltide.utterances
            WHERE ((tenant, pipeline_version, call_started_at, call_id) IN (
                SELECT
                    tenant,
                    pipeline_version,
                    started_at,
                    call_id
                FROM ended
            )) AND (NOT has(flags, 'cross_talk'))
        ) AS utterance USING (tenant, pipeline_version, started_at, call_id)
    ),
    in_order AS
    (
        SELECT
            *,
            toInt64(greatest(end_ms, start_ms)) - start_ms AS talk,
            (row_number() OVER call = 1) OR ((role, speaker) != any((role, speaker)) OVER just_before) AS takes_floor,
            greatest(toInt64(start_ms) - max(end_ms) OVER before, 0) AS gap,
            max(if(channel = 0, end_ms, 0)) OVER before AS first_until,
            max(if(channel = 0, 0, end_ms)) OVER before AS second_until,
            any(emotion) OVER (PARTITION BY tenant, pipeline_version, started_at, call_id, role, speaker, emotion = '' ORDER BY start_ms ASC, channel ASC ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING) AS emotion_before
        FROM said
        WINDOW
            call AS (PARTITION BY tenant, pipeline_version, started_at, call_id ORDER BY start_ms ASC, channel ASC),
            before AS (PARTITION BY tenant, pipeline_version, started_at, call_id ORDER BY start_ms ASC, channel ASC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
            just_before AS (PARTITION BY tenant, pipeline_version, started_at, call_id ORDER BY start_ms ASC, channel ASC ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING)
    ),
    in_turns AS
    (
        SELECT
            *,
            countIf(takes_floor) OVER (PARTITION BY tenant, pipeline_version, started_at, call_id ORDER BY start_ms ASC, channel ASC ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS turn,
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
    tenant,
    pipeline_version,
    started_at,
    call_id,
    role,
    speaker,
    any(queue) AS queue,
    any(agent) AS agent,
    any(ended_at) AS ended_at,
    any(duration_ms) AS duration_ms,
    count() AS utterances,
    sum(word_count) AS words,
    sum(talk) AS talk_ms,
    if(any(all_talk) = 0, 0, talk_ms / any(all_talk)) AS talk_share,
    if(talk_ms = 0, NULL, (words * 60000) / talk_ms) AS words_per_minute,
    avg(fused) AS score,
    avg(by_text) AS text_score,
    avg(by_voice) AS voice_score,
    countIf(sentiment = 'negative') AS negative,
    countIf(sentiment = 'neutral') AS neutral,
    countIf(sentiment = 'positive') AS positive,
    [avgOrNullIf(fused, quarter = 0) * 5, avgOrNullIf(fused, quarter = 1) * 5, avgOrNullIf(fused, quarter = 2) * 5, avgOrNullIf(fused, quarter = 3) * 5] AS quarters,
    if(arrayCount(one -> (one IS NOT NULL), quarters) < 2, NULL, arrayLast(one -> (one IS NOT NULL), quarters) - arrayFirst(one -> (one IS NOT NULL), quarters)) AS change,
    sumMapIf(map(emotion, toUInt32(talk)), emotion != '') AS emotion_ms,
    sumMapIf(map(concat(emotion_before, '>', emotion), toUInt32(1)), (emotion != '') AND (emotion_before != '')) AS transitions,
    countIf(disagree) AS disagreements,
    max(monologue) AS longest_monologue_ms,
    countIf(takes_floor) AS turns,
    any(all_silences) AS silences,
    any(all_silence) AS silence_ms,
    any(longest_silence) AS longest_silence_ms,
    if(any(channels) = 2, countIf(overtalk >= 300), NULL) AS interruptions,
    if(any(channels) = 2, sum(overtalk), NULL) AS overtalk_ms
FROM in_monologues
GROUP BY
    tenant,
    pipeline_version,
    started_at,
    call_id,
    role,
    speaker;

CREATE MATERIALIZED VIEW IF NOT EXISTS calltide.call_terms_feed ON CLUSTER '{cluster}' TO calltide.call_terms
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `day` Date,
    `queue` LowCardinality(String),
    `role` String,
    `term` String,
    `negative_calls` UInt64,
    `neutral_calls` UInt64,
    `positive_calls` UInt64
)
AS WITH
    ended AS
    (
        SELECT
            tenant,
            pipeline_version,
            started_at,
            call_id,
            queue
        FROM calltide.calls
        WHERE (revision = 2) AND (ended_at IS NOT NULL)
    ),
    said AS
    (
        SELECT
            tenant,
            pipeline_version,
            call_started_at AS started_at,
            call_id,
            role,
            text,
            score
        FROM calltide.utterances
        WHERE (tenant, pipeline_version, call_started_at, call_id) IN (
            SELECT
                tenant,
                pipeline_version,
                started_at,
                call_id
            FROM ended
        )
    ),
    moods AS
    (
        SELECT
            tenant,
            pipeline_version,
            started_at,
            call_id,
            coalesce(avgOrNullIf(score, role = 'customer'), avgOrNullIf(score, role != 'agent'), avg(score)) AS mood
        FROM said
        GROUP BY
            tenant,
            pipeline_version,
            started_at,
            call_id
        HAVING mood IS NOT NULL
    ),
    spoken AS
    (
        SELECT
            tenant,
            pipeline_version,
            started_at,
            call_id,
            role,
            arrayPushBack(arrayDistinct(arrayFlatten(groupArray(extractAll(lowerUTF8(text), '\\p{L}[\\p{L}\\p{M}\'’]+[\\p{L}\\p{M}]')))), '') AS terms
        FROM said
        GROUP BY
            tenant,
            pipeline_version,
            started_at,
            call_id,
            role
    )
SELECT
    tenant,
    pipeline_version,
    toDate(started_at) AS day,
    queue,
    role,
    term,
    countIf(mood <= -0.2) AS negative_calls,
    countIf((mood > -0.2) AND (mood < 0.2)) AS neutral_calls,
    countIf(mood >= 0.2) AS positive_calls
FROM ended
INNER JOIN moods USING (tenant, pipeline_version, started_at, call_id)
INNER JOIN spoken USING (tenant, pipeline_version, started_at, call_id)
ARRAY JOIN terms AS term
GROUP BY
    tenant,
    pipeline_version,
    day,
    queue,
    role,
    term;

CREATE MATERIALIZED VIEW IF NOT EXISTS calltide.utterance_hours_feed ON CLUSTER '{cluster}' TO calltide.utterance_hours
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `hour` DateTime('UTC'),
    `queue` LowCardinality(String),
    `agent` LowCardinality(String),
    `role` LowCardinality(String),
    `utterances` UInt64,
    `speech_ms` UInt64,
    `words` UInt64,
    `score_n` UInt64,
    `score_sum` Float64,
    `score_sq` Float64,
    `text_n` UInt64,
    `text_sum` Float64,
    `voice_n` UInt64,
    `voice_sum` Float64,
    `negative` UInt64,
    `neutral` UInt64,
    `positive` UInt64,
    `disagreements` UInt64,
    `emotions` Map(String, UInt64),
    `granular` Map(String, UInt64),
    `complex` Map(String, UInt64),
    `pairs` Map(String, UInt64),
    `score_bins` Map(Int8, UInt64),
    `confidence_n` UInt64,
    `confidence_sum` Float64,
    `latency_n` UInt64,
    `latency_sum_ms` UInt64,
    `latency_bins` Map(UInt16, UInt64),
    `degraded` UInt64,
    `redacted` Map(String, UInt64)
)
AS SELECT
    tenant,
    pipeline_version,
    toStartOfHour(spoken_at) AS hour,
    queue,
    agent,
    role,
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
    sumMapIf(map(concat(multiIf(text_score <= -0.2, 'negative', text_score >= 0.2, 'positive', 'neutral'), '+', emotion), toUInt64(1)), (text_score IS NOT NULL) AND (emotion != '')) AS pairs,
    sumMapIf(map(toInt8(least(floor(ifNull(score, 0) * 10), 9)), toUInt64(1)), score IS NOT NULL) AS score_bins,
    countIf(text != '') AS confidence_n,
    sumIf(asr_confidence, text != '') AS confidence_sum,
    countIf((latency_ms >= 0) AND (latency_ms <= 600000)) AS latency_n,
    sumIf(toUInt64(ifNull(latency_ms, 0)), (latency_ms >= 0) AND (latency_ms <= 600000)) AS latency_sum_ms,
    sumMapIf(map(toUInt16(-roundDown(-intDiv(ifNull(latency_ms, 0) + 99, 100), [-65535, -6000, -3000, -1200, -600, -300, -200, -150, -100, -75, -60, -50, -40, -35, -30, -25, -20, -18, -16, -14, -12, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1, 0])), toUInt64(1)), (latency_ms >= 0) AND (latency_ms <= 600000)) AS latency_bins,
    countIf(has(flags, 'reduced_beam')) AS degraded,
    sumMap(CAST(redacted, 'Map(String, UInt64)')) AS redacted
FROM calltide.utterances_heard
GROUP BY
    tenant,
    pipeline_version,
    hour,
    queue,
    agent,
    role;

CREATE MATERIALIZED VIEW IF NOT EXISTS calltide.utterance_minutes_feed ON CLUSTER '{cluster}' TO calltide.utterance_minutes
(
    `tenant` LowCardinality(String),
    `pipeline_version` LowCardinality(String),
    `minute` DateTime('UTC'),
    `queue` LowCardinality(String),
    `role` LowCardinality(String),
    `utterances` UInt64,
    `speech_ms` UInt64,
    `words` UInt64,
    `score_n` UInt64,
    `score_sum` Float64,
    `score_sq` Float64,
    `text_n` UInt64,
    `text_sum` Float64,
    `voice_n` UInt64,
    `voice_sum` Float64,
    `negative` UInt64,
    `neutral` UInt64,
    `positive` UInt64,
    `disagreements` UInt64,
    `emotions` Map(String, UInt64),
    `granular` Map(String, UInt64),
    `complex` Map(String, UInt64),
    `pairs` Map(String, UInt64),
    `score_bins` Map(Int8, UInt64),
    `confidence_n` UInt64,
    `confidence_sum` Float64,
    `latency_n` UInt64,
    `latency_sum_ms` UInt64,
    `latency_bins` Map(UInt16, UInt64),
    `degraded` UInt64
)
AS SELECT
    tenant,
    pipeline_version,
    toStartOfMinute(spoken_at) AS minute,
    queue,
    role,
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
    sumMapIf(map(concat(multiIf(text_score <= -0.2, 'negative', text_score >= 0.2, 'positive', 'neutral'), '+', emotion), toUInt64(1)), (text_score IS NOT NULL) AND (emotion != '')) AS pairs,
    sumMapIf(map(toInt8(least(floor(ifNull(score, 0) * 10), 9)), toUInt64(1)), score IS NOT NULL) AS score_bins,
    countIf(text != '') AS confidence_n,
    sumIf(asr_confidence, text != '') AS confidence_sum,
    countIf((latency_ms >= 0) AND (latency_ms <= 600000)) AS latency_n,
    sumIf(toUInt64(ifNull(latency_ms, 0)), (latency_ms >= 0) AND (latency_ms <= 600000)) AS latency_sum_ms,
    sumMapIf(map(toUInt16(-roundDown(-intDiv(ifNull(latency_ms, 0) + 99, 100), [-65535, -6000, -3000, -1200, -600, -300, -200, -150, -100, -75, -60, -50, -40, -35, -30, -25, -20, -18, -16, -14, -12, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1, 0])), toUInt64(1)), (latency_ms >= 0) AND (latency_ms <= 600000)) AS latency_bins,
    countIf(has(flags, 'reduced_beam')) AS degraded
FROM calltide.utterances_heard
GROUP BY
    tenant,
    pipeline_version,
    minute,
    queue,
    role;

INSERT INTO calltide.schema_migrations (number, name, sha256) VALUES
    (1, '0001_calls_and_utterances.sql', '3dd6f57379346ec24b411996cf6cc8866111a5ac247ff01b9ba77a2982f4762e'),
    (2, '0002_corrections.sql', '23ab9ae7742f2ce2b16f6f0e64aad26262d9809516992d6c7b2c02a7aa559d16'),
    (3, '0003_utterances_corrected.sql', '0fac86c7eb768824ac1dcf34a4b5a9314390c799095fa778434fd9b3ad57b860'),
    (4, '0004_utterances_by_time_begun.sql', '9969d8006673b9c33f91300d56aee8109a346d5e3d6ee227be84db4dafecc1e1'),
    (5, '0005_utterances_by_time.sql', '2285392a684e01129ad866b977abeeed9b04899a06acff2b2419465e883d379a'),
    (6, '0006_aggregates.sql', '724e362a27d20ca44fbe8fd34a071c0d0acc51936a98dbf1703bd638a81a4ddc'),
    (7, '0007_call_metrics.sql', '69b3d6a6742b4d885a8c7579c570c5a3d4b02f07af923eeccd7b71497e2fa985'),
    (8, '0008_utterances_copied.sql', 'fe40ea4fdb946d3dfc9d60bb1baa79334fad7ec03f0c62b5a44efd9269014429'),
    (9, '0009_utterances_copied_end.sql', '15d0361276555feed618e869da730fbd5d1e2d31a5f2d1d12764859db9f4439f'),
    (10, '0010_promotions.sql', 'c3857ac22c06e3480b68d11f9a8108ed48c3eefed79d4e25d687d9dfdf3f0463'),
    (11, '0011_categories.sql', '5d1d7020bd4d91b3f118822b0c3f5ecde9a4e0312ffce0aaedebe86a6ffb4c63'),
    (12, '0012_insights.sql', '2ca1db9277b997aceaf86ad9e9041b8151f77d213a848aa7729559dc51ee704a'),
    (13, '0013_call_progress.sql', '5b0409fbab4a1a28230c4465cd8c7837185179aa8e048fb659cd4890fa7c27ae'),
    (14, '0014_evaluations.sql', '5aef91cd6a6dac2160690191344dccdc1a242b9d12744f80a267d028d6ee7bef'),
    (15, '0015_outlook.sql', '4e57d457c23422872e2bcba054a3b337acf1cb58e81da300530d0927e3f587bb'),
    (16, '0016_redacted.sql', '5560d9364fc7336bb8997a317b47275a839195c82044ebd005294815d411a489'),
    (17, '0017_cross_talk.sql', 'bcfe422af898eefa6b24c0dbf83125530e15204d84dcc635e26f181b4f0334fc'),
    (18, '0018_tasks.sql', '0c0ad224ae0ed98ae0dca0f6571999ca0b6c3f71ad7e3379a7d6fac3717a59cb'),
    (19, '0019_audit.sql', '03e3fefd092d40b4b00ecb30a78ad436e55294c0cec230b7d041508716e39d70');
