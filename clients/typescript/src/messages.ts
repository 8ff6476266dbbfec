// What the gateway sends and takes. Generated from clients/asyncapi.json by clients/generate.py: do not edit.

/** What can be measured of a voice. Absent where there was too little voice to measure it. */
export interface Acoustics {
  pitch_mean_hz: number | null;
  pitch_variance_hz2: number | null;
  /** root mean square of the samples, 0 to 1 */
  rms: number | null;
  loudness_lufs: number | null;
  /** words a second */
  speaking_rate_wps: number | null;
  spectral_centroid_hz: number | null;
  /** share of samples at which the sign changes */
  zero_crossing_rate: number | null;
  /** means over time of 13 mel-frequency cepstral coefficients */
  mfcc: number[];
  /** local, a share of the period */
  jitter: number | null;
  /** local, a share of the amplitude */
  shimmer: number | null;
  /** means of F1, F2, F3 over voiced frames */
  formants_hz: number[];
  /** harmonics-to-noise ratio */
  hnr_db: number | null;
}

/** An utterance, or some words of it, that a statement about the call rests on. */
export interface Evidence {
  /** of the utterance: call/channel/start_ms */
  identity: string;
  channel: number;
  /** of the utterance */
  start_ms: number;
  /** of the utterance */
  end_ms: number;
  speaker: string;
  role: "agent" | "customer" | "unknown";
  /** words of the utterance, as the transcript has them */
  text: string;
}

/** What somebody said that he would do. */
export interface ActionItem {
  text: string;
  evidence: Evidence[];
  owner: "agent" | "customer" | "unknown";
  /** when, in the words of the utterance; empty: nothing was said */
  due: string;
}

/** What is known of a call from its start. It travels with every event, so that each record can be read alone. */
export interface CallInfo {
  call_id: string;
  started_at: string;
  /** the party on each channel, in the channels' order */
  roles: ("agent" | "customer" | "unknown")[];
  tenant: string;
  queue: string;
  agent: string;
  /** where the audio comes from: a file name, a protocol, a trunk */
  source: string;
  metadata: Partial<Record<string, string>>;
  /** whether somebody wants the words before an utterance is finished */
  interim: boolean;
}

/** Something that somebody should look at now. */
export interface Alert {
  kind: "alert";
  call: CallInfo;
  rule: string;
  category: string;
  /** media time at which the rule's condition was met */
  at_ms: number;
  /** wall clock at which the last audio was captured that this rests on */
  raised_at: string;
  /** the utterances that it rests on, oldest first */
  evidence: Evidence[];
  /** which set of rules it comes from: a hash of the rules */
  rules_version: string;
  pipeline_version: string;
  severity: "info" | "warning" | "critical";
  /** what has happened and why it was noticed, for people */
  message: string;
}

/** Something that somebody should look at now. */
export interface AlertMessage {
  type: "alert";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  /** of which replay, in place of a cursor */
  replay?: string;
  /** when the gateway sent it */
  pushed_at: string;
  /** read back, not live */
  history?: true;
  /** events before it that were left out: too slow */
  skipped?: number;
  event: Alert;
}

/** A moment that the phone system told of. Which key was pressed is not kept: people type the numbers of cards. */
export interface Mark {
  at_ms: number;
  /** what the phone system calls the moment; empty: a key was pressed */
  name: string;
}

/** The last event of a call: its state can be freed. */
export interface CallEnded {
  kind: "call_ended";
  call: CallInfo;
  duration_ms: number;
  ended_at: string;
  /** hangup: the source said so; idle: no frame came for the idle timeout; interrupted: ingest stopped */
  reason: "hangup" | "idle" | "interrupted";
  /** audio that never arrived and was taken as silence, all channels */
  missing_ms: number;
  /** packets that came twice or too late */
  dropped_packets: number;
  /** sound that rose like speech and was taken for none (music, tones), all channels */
  not_speech_ms: number;
  /** keys that were pressed and marks, the first of them */
  marks: Mark[];
}

/** The last event of a call: its state can be freed. */
export interface CallEndedMessage {
  type: "call_ended";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  /** of which replay, in place of a cursor */
  replay?: string;
  /** when the gateway sent it */
  pushed_at: string;
  /** read back, not live */
  history?: true;
  /** events before it that were left out: too slow */
  skipped?: number;
  event: CallEnded;
}

/** What one party has done in the call; docs/metrics.md has the definitions. */
export interface PartyMetrics {
  role: "agent" | "customer" | "unknown";
  speaker: string;
  utterances: number;
  words: number;
  talk_ms: number;
  /** of all talk of the call */
  talk_share: number;
  /** of talk; absent: no talk */
  words_per_minute: number | null;
  /** mean of its utterances, words and voice fused; absent: none scored */
  score: number | null;
  /** utterances */
  negative: number;
  neutral: number;
  positive: number;
  /** mean score in each quarter of the call so far, −5 to 5; absent: nothing scored there */
  quarters: (number | null)[];
  /** last quarter less first; absent: scored in one at most */
  change: number | null;
  /** talk by emotion, where it was computed */
  emotion_ms: Partial<Record<"neutral" | "happiness" | "sadness" | "anger" | "fear" | "surprise", number>>;
  /** of the talk whose emotion was computed */
  emotion_share: Partial<Record<"neutral" | "happiness" | "sadness" | "anger" | "fear" | "surprise", number>>;
  /** longest stretch in which no other party begins to speak */
  longest_monologue_ms: number;
  /** how often it takes the floor */
  turns: number;
  /** how often it answers another party */
  responses: number;
  /** median silence before it answers; absent: it never does */
  response_ms: number | null;
  /** how often it begins while another speaks, and both go on for 0.3 s; absent: all share a channel */
  interruptions: number | null;
  /** how often another party does so to it */
  interrupted: number | null;
  /** how long both speak after it began so */
  overtalk_ms: number | null;
  /** mean over its talk, where it was measured */
  loudness_lufs: number | null;
  /** dB a minute; absent: too few utterances were measured */
  loudness_trend: number | null;
}

/** A stretch in which nobody speaks. */
export interface Silence {
  start_ms: number;
  end_ms: number;
}

/** One party begins while another speaks, and both go on. */
export interface Interruption {
  start_ms: number;
  /** how long both go on */
  overtalk_ms: number;
  /** the speaker who begins */
  by: string;
  /** the speaker who spoke already */
  of: string;
}

/** How a call will probably end (docs/early-warning.md). */
export interface Outlook {
  /** that the customer's last quarter will be negative, −1 or less on −5 to 5 */
  negative: number;
  /** which model says so */
  model: string;
}

/** What has happened in the call so far, or, once it has ended, in all of it. */
export interface CallMetrics {
  kind: "metrics";
  call: CallInfo;
  /** media time up to which anything is known; the call's length at its end */
  at_ms: number;
  /** the call has ended, and this is its last record */
  final: boolean;
  /** the beginning of the call was not heard here */
  partial: boolean;
  pipeline_version: string;
  /** those that were heard */
  parties: PartyMetrics[];
  /** roles with a channel of their own that were not heard */
  unheard: ("agent" | "customer" | "unknown")[];
  /** of all parties */
  talk_ms: number;
  /** mean of all utterances; absent: none scored */
  score: number | null;
  /** of all parties, as in each party's */
  quarters: (number | null)[];
  change: number | null;
  /** gaps of 5 s and more in which nobody speaks */
  silences: number;
  /** of these gaps */
  silence_ms: number;
  /** the longest gap, if of 5 s or more */
  longest_silence_ms: number;
  /** how long nobody has spoken by now, be it short */
  silence_now_ms: number;
  /** the longest gaps, in order of time */
  dead_air: Silence[];
  /** the longest, in order of time; absent: all parties share a channel */
  interruptions: Interruption[] | null;
  /** on hold; absent: nobody marked it, or not the end */
  hold_ms: number | null;
  /** the holds that were marked */
  holds: Silence[];
  /** utterances that came too late to have a part in turns and the like */
  late: number;
  /** absent: no model is trained, it is too early to say, or the call has ended */
  outlook: Outlook | null;
}

/** What has happened in the call so far, or, once it has ended, in all of it. */
export interface CallMetricsMessage {
  type: "metrics";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  /** of which replay, in place of a cursor */
  replay?: string;
  /** when the gateway sent it */
  pushed_at: string;
  /** read back, not live */
  history?: true;
  /** events before it that were left out: too slow */
  skipped?: number;
  event: CallMetrics;
}

/** The first event of a call. */
export interface CallStarted {
  kind: "call_started";
  call: CallInfo;
}

/** The first event of a call. */
export interface CallStartedMessage {
  type: "call_started";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  /** of which replay, in place of a cursor */
  replay?: string;
  /** when the gateway sent it */
  pushed_at: string;
  /** read back, not live */
  history?: true;
  /** events before it that were left out: too slow */
  skipped?: number;
  event: CallStarted;
}

/** A topic of the glossary that the call is about. */
export interface CallTopic {
  /** from the widest level to the term */
  path: string[];
  /** cosine of the closest sentence to the term, its synonyms or examples; absent: chosen by an llm */
  similarity: number | null;
  evidence: Evidence[];
}

/** A call belongs to a category from now on: once a call and rule. */
export interface Categorised {
  kind: "category";
  call: CallInfo;
  rule: string;
  category: string;
  /** media time at which the rule's condition was met */
  at_ms: number;
  /** wall clock at which the last audio was captured that this rests on */
  raised_at: string;
  /** the utterances that it rests on, oldest first */
  evidence: Evidence[];
  /** which set of rules it comes from: a hash of the rules */
  rules_version: string;
  pipeline_version: string;
}

/** A call belongs to a category from now on: once a call and rule. */
export interface CategorisedMessage {
  type: "category";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  /** of which replay, in place of a cursor */
  replay?: string;
  /** when the gateway sent it */
  pushed_at: string;
  /** read back, not live */
  history?: true;
  /** events before it that were left out: too slow */
  skipped?: number;
  event: Categorised;
}

/** What has become known of a speaker of a mixed channel and holds for all of the call's utterances so far, too. */
export interface Correction {
  kind: "correction";
  call: CallInfo;
  speaker: string;
  /** the earlier speaker whose voice this one turned out to be */
  same_as: string | null;
  role: "agent" | "customer" | "unknown";
  role_confidence: number | null;
}

/** What has become known of a speaker of a mixed channel and holds for all of the call's utterances so far, too. */
export interface CorrectionMessage {
  type: "correction";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  /** of which replay, in place of a cursor */
  replay?: string;
  /** when the gateway sent it */
  pushed_at: string;
  /** read back, not live */
  history?: true;
  /** events before it that were left out: too slow */
  skipped?: number;
  event: Correction;
}

/** A finer name for an emotion: a naming convention over the six probabilities, not a measurement of its own. */
export interface GranularEmotion {
  name: string;
  base: "neutral" | "happiness" | "sadness" | "anger" | "fear" | "surprise";
  confidence: number;
}

/** How the voice sounds. */
export interface Emotion {
  label: "neutral" | "happiness" | "sadness" | "anger" | "fear" | "surprise";
  probabilities: Partial<Record<"neutral" | "happiness" | "sadness" | "anger" | "fear" | "surprise", number>>;
  model: string;
  /** the strongest is too weak to be called by its name */
  uncertain: boolean;
  granular: GranularEmotion[];
  /** the name of the two strongest together, if they have one */
  complex: string | null;
}

/** Why the connection is closed next. */
export interface ErrorMessage {
  type: "error";
  /** which sort, for programs: invalid, unauthorized, token_expired… */
  error: string;
  /** what and what to do, for people */
  message: string;
}

/** One item of a form, and what a call has earned for it. */
export interface EvaluationItem {
  name: string;
  /** most that it can earn */
  points: number;
  /** absent: it could not be judged, and counts nowhere */
  earned: number | null;
  /** what it rests on, or why it could not be judged, for people */
  why: string;
  /** the utterances that it rests on, where there are */
  evidence: Evidence[];
}

/** A section of a form. */
export interface EvaluationSection {
  name: string;
  /** beside those of the other sections */
  weight: number;
  /** points earned of those that could be judged, in percent; absent: none could */
  score: number | null;
  items: EvaluationItem[];
}

/** A form filled for a call, once, when it has ended. Its identity is (call, form). */
export interface Evaluation {
  kind: "evaluation";
  call: CallInfo;
  ended_at: string;
  duration_ms: number;
  /** in which most words were said; empty: no words */
  language: string;
  form: string;
  /** a hash of what the form means */
  form_version: string;
  /** ok, too_short, no_agent_speech, no_customer_speech, unsupported_language, too_little_judged: only ok has a score */
  state: string;
  /** the state in a sentence for people, unless it is ok */
  why: string;
  /** mean of the sections' scores by their weights; absent: there is none */
  score: number | null;
  /** the part of the form, by weight, that could be judged */
  judged: number;
  sections: EvaluationSection[];
  pipeline_version: string;
}

/** A form filled for a call, once, when it has ended. Its identity is (call, form). */
export interface EvaluationMessage {
  type: "evaluation";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  /** of which replay, in place of a cursor */
  replay?: string;
  /** when the gateway sent it */
  pushed_at: string;
  /** read back, not live */
  history?: true;
  /** events before it that were left out: too slow */
  skipped?: number;
  event: Evaluation;
}

/** A complaint, an objection, or a moment worth practising. */
export interface Finding {
  text: string;
  evidence: Evidence[];
  /** which sort, such as not_working, price or dead_air */
  name: string;
}

/** What the cursor asked for is no longer there; what follows is. */
export interface Gap {
  type: "gap";
  /** where to go on: send it back as `from`, as it was received */
  cursor: string;
  partition: number;
  from_offset: number;
  /** not included */
  to_offset: number;
  message: string;
}

/** Who the gateway takes you for. */
export interface You {
  /** null: all tenants */
  tenant: string | null;
  role: "viewer" | "supervisor" | "admin";
  name: string;
}

/** The fields that restrict a subscription. */
export interface Wanted {
  call?: string[];
  queue?: string[];
  agent?: string[];
  tenant?: string[];
  severity?: ("info" | "warning" | "critical")[];
  replay?: string[];
  kinds: ("score" | "correction" | "call_started" | "call_ended" | "progress" | "interim" | "metrics" | "alert" | "category" | "insights" | "evaluation")[];
}

/** The first message. */
export interface Hello {
  type: "hello";
  /** absent while history is still to come, and in a replay */
  cursor?: string;
  protocol: number;
  calltide: string;
  pipeline: string;
  topic: string;
  partitions: number;
  kafka: "ok" | "unreachable";
  /** messages that may wait for you */
  queue: number;
  slow_clients: "close" | "conflate";
  you: You;
  subscription: Wanted;
}

/** Something that is said about a call, and what it rests on. An extractive engine's text is its evidence's. */
export interface Statement {
  text: string;
  evidence: Evidence[];
}

/** Whether the customer's matter was settled when the call ended. */
export interface Resolution {
  resolved: "yes" | "no" | "unknown";
  evidence: Evidence[];
}

/** A question for training about the call. */
export interface QuizQuestion {
  /** which sort, such as reason or promise */
  name: string;
  question: string;
  choices: string[];
  /** index of the right choice */
  answer: number;
  /** what the answer rests on */
  evidence: Evidence[];
}

/** What a call was about, what went wrong and what to practise: once, when it has ended. */
export interface Insights {
  kind: "insights";
  call: CallInfo;
  /** extractive: nothing but words of the call and fixed phrases; or llm:MODEL */
  engine: string;
  /** of the engine */
  model: string;
  /** ok, too_short, no_customer_speech, unsupported_language, failed: only ok has content */
  state: string;
  /** the state in a sentence for people, unless it is ok */
  why: string;
  summary: Statement[];
  /** why the customer calls, or is called */
  reason: Statement | null;
  /** the likeliest first */
  topics: CallTopic[];
  /** whose topics they are: its name and a hash of its content */
  glossary: string;
  /** what is wrong, as the customer says it */
  issues: Finding[];
  /** why the customer does not want what is offered */
  objections: Finding[];
  /** what came of the call */
  outcome: Statement | null;
  action_items: ActionItem[];
  resolution: Resolution;
  /** recommendations for the agent, tied to moments */
  coaching: Finding[];
  quiz: QuizQuestion[];
  /** statements that were left out since they cited no utterance */
  uncited: number;
  /** of an llm: the prompts' version and a hash of what they say */
  prompts: string;
  /** that an llm has read, over all tries */
  tokens_in: number;
  /** that an llm has written, over all tries */
  tokens_out: number;
  ended_at: string;
  duration_ms: number;
  /** in which most words were said; empty: no words */
  language: string;
  /** whose glossary was read: b2b or b2c */
  business: string;
  /** with words, in the call */
  utterances: number;
  /** of these, left out because the call was too long to keep them */
  unread: number;
  pipeline_version: string;
}

/** What a call was about, what went wrong and what to practise: once, when it has ended. */
export interface InsightsMessage {
  type: "insights";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  /** of which replay, in place of a cursor */
  replay?: string;
  /** when the gateway sent it */
  pushed_at: string;
  /** read back, not live */
  history?: true;
  /** events before it that were left out: too slow */
  skipped?: number;
  event: Insights;
}

/** A word of an utterance that is still going on. */
export interface InterimWord {
  text: string;
  start_ms: number;
  end_ms: number;
  confidence: number;
  /** whether the revision before had it, too */
  stable: boolean;
}

/** The open segment so far, and the words in it once they are known: for who waits, never scored or stored. Its identity is that of the segment to come; the highest `revision` of an identity is the latest, and the finished utterance of that identity, or a later one of the channel, puts an end to it. */
export interface Interim {
  kind: "interim";
  call: CallInfo;
  channel: number;
  start_ms: number;
  end_ms: number;
  codec: "pcm_s16le" | "mulaw" | "alaw";
  /** samples a second of the audio that travels with it */
  rate: number;
  /** wall clock at which the last sample of the speech was captured */
  captured_at: string;
  /** length of the audio so far in steps of 100 ms */
  revision: number;
  text: string;
  words: InterimWord[];
}

/** The open segment so far, and the words in it once they are known: for who waits, never scored or stored. Its identity is that of the segment to come; the highest `revision` of an identity is the latest, and the finished utterance of that identity, or a later one of the channel, puts an end to it. */
export interface InterimMessage {
  type: "interim";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  /** of which replay, in place of a cursor */
  replay?: string;
  /** when the gateway sent it */
  pushed_at: string;
  /** read back, not live */
  history?: true;
  /** events before it that were left out: too slow */
  skipped?: number;
  event: Interim;
}

/** Where you are: when all history has been sent, and whenever nothing was pushed for 15 s. */
export interface Position {
  type: "position";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
}

/** A watermark: the call has been heard up to `at_ms` and nothing before it is still to come. */
export interface Progress {
  kind: "progress";
  call: CallInfo;
  at_ms: number;
}

/** A watermark: the call has been heard up to `at_ms` and nothing before it is still to come. */
export interface ProgressMessage {
  type: "progress";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  /** of which replay, in place of a cursor */
  replay?: string;
  /** when the gateway sent it */
  pushed_at: string;
  /** read back, not live */
  history?: true;
  /** events before it that were left out: too slow */
  skipped?: number;
  event: Progress;
}

/** Where a replay is. */
export interface ReplayPosition {
  type: "replay_position";
  /** when the gateway sent it */
  pushed_at: string;
  replay: string;
  begun_at: string;
  state: "playing" | "paused" | "ended" | "stopped";
  position_ms: number;
  of_ms: number;
  /** times real time */
  speed: number;
  /** forget all of this replay: what follows tells it anew */
  reset: boolean;
}

/** The sentiment of the call so far. */
export interface RunningScore {
  /** this call, all parties */
  score: number;
  /** this utterance's speaker */
  party_score: number;
  /** scored utterances so far, this one included */
  utterances: number;
}

/** One word with its times in the call. */
export interface Word {
  text: string;
  start_ms: number;
  end_ms: number;
  confidence: number;
}

/** The sentiment of one utterance; scores run from −1 (negative) to 1 (positive). */
export interface Sentiment {
  label: "negative" | "neutral" | "positive";
  /** words and voice fused */
  score: number;
  text_score: number;
  /** absent when emotion was not computed */
  voice_score: number | null;
  confidence: number;
  /** the text models' own scores */
  members: Partial<Record<string, number>>;
  model: string;
  /** words and voice say clearly different things */
  disagree: boolean;
}

/** The finished utterance: what goes to ClickHouse and to the websocket. */
export interface Score {
  kind: "score";
  call: CallInfo;
  channel: number;
  start_ms: number;
  end_ms: number;
  codec: "pcm_s16le" | "mulaw" | "alaw";
  /** samples a second of the audio that travels with it */
  rate: number;
  /** wall clock at which the last sample of the speech was captured */
  captured_at: string;
  /** why it ends: a pause, the longest length a segment may have, or the end of the call */
  cut: "pause" | "max_length" | "end";
  speaker: string;
  role: "agent" | "customer" | "unknown";
  speaker_confidence: number;
  /** how sure a role is that was found by what was said; absent: the channel tells */
  role_confidence: number | null;
  /** how much of it another speaker of the same mixed channel speaks, too */
  overlap_ms: number;
  /** what a reader must know: no_words, no_speech, repetition, cross_talk, … */
  flags: string[];
  text: string;
  words: Word[];
  language: string;
  asr_confidence: number;
  asr_model: string;
  /** what was taken out of text, words and audio: kind of personal data → how often */
  redacted: Partial<Record<string, number>>;
  emotion: Emotion | null;
  emotion_skipped: string | null;
  acoustics: Acoustics | null;
  /** absent when no words were recognised */
  sentiment: Sentiment | null;
  running: RunningScore;
  pipeline_version: string;
}

/** The finished utterance: what goes to ClickHouse and to the websocket. */
export interface ScoreMessage {
  type: "score";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  /** of which replay, in place of a cursor */
  replay?: string;
  /** when the gateway sent it */
  pushed_at: string;
  /** read back, not live */
  history?: true;
  /** events before it that were left out: too slow */
  skipped?: number;
  event: Score;
}

/** Kafka became unreachable, or answers again. */
export interface Status {
  type: "status";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  kafka: "ok" | "unreachable";
  message: string;
}

/** The subscription is another one from here on. */
export interface Subscribed {
  type: "subscribed";
  /** where to go on: send it back as `from`, as it was received */
  cursor?: string;
  subscription: Wanted;
}

/** Which events are wanted; call, queue, agent, tenant: any of the values, all of the fields. */
export interface Subscription {
  /** calls by their ids */
  call?: string | string[];
  /** calls of queues; an empty one: calls without */
  queue?: string | string[];
  /** of agents */
  agent?: string | string[];
  /** of tenants; a key of one tenant sees that one alone */
  tenant?: string | string[];
  /** kinds of events */
  kinds?: "score" | "correction" | "call_started" | "call_ended" | "progress" | "interim" | "metrics" | "alert" | "category" | "insights" | "evaluation" | ("score" | "correction" | "call_started" | "call_ended" | "progress" | "interim" | "metrics" | "alert" | "category" | "insights" | "evaluation")[];
  /** alerts as severe as one of these */
  severity?: "info" | "warning" | "critical" | ("info" | "warning" | "critical")[];
  /** a cursor: all since then (at the beginning alone) */
  from?: string | string[];
  /** first the events of the calls running now */
  history?: "live" | "live"[];
  /** a replay, or * (at the beginning alone) */
  replay?: string | string[];
}

/** Whatever the gateway sends, told apart by `type`. */
export type Message = Hello | Subscribed | Position | Status | Gap | ErrorMessage | ReplayPosition | ScoreMessage | CorrectionMessage | CallStartedMessage | CallEndedMessage | ProgressMessage | InterimMessage | CallMetricsMessage | AlertMessage | CategorisedMessage | InsightsMessage | EvaluationMessage;
