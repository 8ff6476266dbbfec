// What is said in the calls running now, from the gateway's websocket (docs/gateway.md), and what is known of each call.
//
// A changer must know: an utterance is (channel, start_ms): the same one twice replaces itself. Utterances are kept as
// they were heard and shown as `known` has them: a correction holds for those before it, too. Opened with ?replay=NAME
// it is that replay and no live call; a jump in it begins with `reset` and tells all anew. Nothing here draws: pages
// listen, and draw once a frame, since a thousand events may come in a second.

import { askKey, protocols } from "./api.js";
import { clock } from "./dom.js";
import t from "./en.js";

const KINDS = "score,correction,call_started,call_ended,metrics,alert,category,insights,evaluation";
const FINDINGS = ["metrics", "alert", "category", "insights", "evaluation"]; // what is made of the scores, beside the order of the rest
const RETRY_MS = [250, 5000]; // first and longest pause before connecting again
const SILENCE_MS = 40000; // the gateway speaks every 15 s: after so long without a word the connection is dead
const UNKNOWN = 4401; // close code: who asks?
const UNKNOWN_MS = 60000;
const ENDED_KEPT = 50;
const UTTERANCES_KEPT = 1000; // of a call
const ALL_UTTERANCES_KEPT = 50000; // of all calls together: a tab stays open for a week beside hundreds of calls
const FEWEST_KEPT = 50;
const MOODS_KEPT = 30;
const FORGET_MS = 60000; // how often it is looked for calls that have lost their ends
const LOST_MS = 3600000; // a call of which nothing came for so long has lost its end, as the gateway sees it, too
export const SEVERITIES = ["info", "warning", "critical"];
export const REPLAY = new URLSearchParams(location.search).get("replay");

export const calls = new Map(); // call id → what is known of it, see callOf
export const connection = { state: "connecting", text: t.connection.connecting, notice: "", delay: "" };
let delays = []; // seconds from speech to page of the last scores

// "changed" (call), "heard" (call, key, event), "trimmed" (call, key), "corrected" (call), "told" (call, message) after
// any event of a call, "forgot" (), "connection" (): who listens must be quick, and draw later.
const listeners = new Map();
export function on(name, listener) {
  listeners.set(name, [...(listeners.get(name) ?? []), listener]);
}
function emit(name, ...of) {
  for (const listener of listeners.get(name) ?? []) listener(...of);
}

// ---------------------------------------------------------------- connection

let config = null;
let cursor = null;
let socket = null;
let pause = RETRY_MS[0];
let retry = null;
let heard = 0;
let wasLive = false;
let dismissed = false;
export const shown = { call: null }; // the call that a person looks at: all of it is kept

export const configuration = async () => (config ??= await (await fetch("config.json")).json());

function connectionIs(state, text) {
  Object.assign(connection, { state, text });
  emit("connection");
}

export function notice(text) {
  connection.notice = text;
  emit("connection");
}

export async function connect() {
  clearTimeout(retry);
  let gateway;
  try {
    ({ gateway } = await configuration());
  } catch {
    return lost();
  }
  if (socket) return;
  const fields = new URLSearchParams({ kinds: KINDS, ...(cursor ? { from: cursor } : { history: "live" }) });
  if (REPLAY) fields.set("replay", REPLAY);
  const opened = new WebSocket(`${gateway}?${fields}`, protocols());
  socket = opened;
  heard = Date.now();
  let refused = "";
  opened.onmessage = ({ data }) => {
    if (socket !== opened) return;
    heard = Date.now();
    const message = JSON.parse(data);
    if (message.type === "error") refused = message.message;
    else receive(message);
  };
  opened.onclose = ({ code, reason }) => {
    if (socket !== opened) return;
    socket = null;
    if (code === 1008 && cursor) {
      // The topic was made anew: nothing of before can be resumed.
      cursor = null;
      forget();
      notice(t.connection.anew(refused || reason));
    }
    if (code === UNKNOWN) return unknown(refused || reason);
    lost();
  };
}

// No key, a wrong one, or one that is good no more. Who does not give one is not asked again by this.
async function unknown(why) {
  connectionIs("lost", t.connection.unknown(why));
  retry = setTimeout(connect, UNKNOWN_MS);
  if (!dismissed) dismissed = !(await askKey());
}

// Another key may show other calls.
addEventListener("key", () => {
  dismissed = false;
  const old = socket;
  socket = cursor = null;
  old?.close();
  forget();
  connect();
});

function forget(replay) {
  for (const [id, call] of calls) if (call.replay === replay && !call.stored) calls.delete(id);
  emit("forgot");
}

function lost() {
  connectionIs("lost", wasLive ? t.connection.lost : t.connection.none);
  retry = setTimeout(connect, pause * (0.8 + 0.4 * Math.random()));
  pause = Math.min(2 * pause, RETRY_MS[1]);
}

function receive(message) {
  cursor = message.cursor ?? cursor;
  if (message.type === "hello") {
    pause = RETRY_MS[0];
    kafkaIs(message.kafka);
    if (wasLive) notice("");
    wasLive = true;
  } else if (message.type === "status") {
    kafkaIs(message.kafka);
  } else if (message.type === "gap") {
    notice(t.connection.gap(message.message));
  } else if (FINDINGS.includes(message.type)) {
    const call = calls.get(message.event.call.call_id);
    if (call) find(call, message.event);
  } else if (message.type === "replay_position") {
    moved(message);
  } else if (message.event) {
    const call = callOf(message.event.call);
    call.replay = message.replay;
    call.touched = Date.now();
    if (message.type === "score") hear(call, message.event, message);
    else if (message.type === "correction") correct(call, message.event);
    else if (message.type === "call_ended") end(call, message.event);
    emit("changed", call);
    emit("told", call);
    if (message.skipped) notice(t.connection.skipped(message.skipped));
  }
}

// Where a replay is. After a jump the call that was chosen is shown again, if it runs there.
function moved({ replay, state, position_ms, of_ms, speed, reset }) {
  if (reset) {
    emit("jumped");
    forget(replay);
  }
  connection.delay = t.connection.position(clock(position_ms), clock(of_ms), speed);
  const said = t.connection.replay(replay, t.connection.states[state] ?? state);
  // A reader of the screen is told what changes, not every second.
  connectionIs(state === "playing" ? "live" : "paused", said);
}

function kafkaIs(state) {
  if (state === "ok") connectionIs("live", REPLAY ? t.connection.replay(REPLAY, t.connection.states.waiting) : t.connection.live);
  else connectionIs("lost", t.connection.kafka);
}

// A socket may be dead without a close; timers sleep in a hidden tab, so it is looked at when the tab is shown, too.
export function look() {
  if (socket?.readyState === WebSocket.OPEN && Date.now() - heard > SILENCE_MS) {
    const dead = socket;
    socket = null;
    dead.close();
    lost();
  }
}
addEventListener("online", () => socket ?? connect());
addEventListener("visibilitychange", look);

// ---------------------------------------------------------------- calls

export function callOf(info) {
  let call = calls.get(info.call_id);
  if (!call) {
    call = {
      ...{ info, utterances: new Map(), duration: 0, ended: false, trimmed: false },
      said: new Map(), // speaker → what was said last; in the order in which they were first heard
      merged: new Map(), // speaker → the earlier speaker whose voice it turned out to be
      roles: new Map(), // speaker → { role, role_confidence } that was found
      alerts: new Map(), // rule and moment → alert
      categories: new Map(), // category → the event that told it first
      cards: new Map(), // form → how it is filled
      ...{ metrics: null, insights: null, last: undefined },
      touched: Date.now(), // when something of it came last
      recorded: undefined, // whether it is a recording that is heard faster than it was spoken
      moods: [], // of who is not the agent: [media time, score so far, score of the utterance], the last of them
    };
    calls.set(info.call_id, call);
  }
  return call;
}

// Whether speech was captured while it was spoken. What is streamed faster (uploads, `calltide ingest --bulk`) bears the
// time at which its call began on all of its audio (streams/ingest.py): how long ago that is says nothing to anybody.
const inTime = ({ call, captured_at, end_ms }) => Date.parse(captured_at) - Date.parse(call.started_at) > end_ms / 2;

// Whether somebody speaks in it now. Of what comes from a file nobody knows that before its first words.
export const isLive = (call) => !call.ended && !(call.recorded ?? Boolean(call.info.metadata?.sha256));

export function hear(call, event, message = {}) {
  const key = `${event.channel}/${event.start_ms}`;
  const isNew = !call.utterances.has(key);
  call.utterances.set(key, event);
  call.duration = Math.max(call.duration, event.end_ms);
  if (event.running.utterances >= (call.last?.running.utterances ?? 0)) call.last = event;
  call.said.set(event.speaker, event);
  if (isNew && event.sentiment && known(call, event).role !== "agent") {
    call.moods.push([event.end_ms, event.running.party_score, event.sentiment.score]);
    if (call.moods.length > MOODS_KEPT) call.moods.shift();
  }
  const most = call === shown.call ? UTTERANCES_KEPT : Math.max(FEWEST_KEPT, Math.min(UTTERANCES_KEPT, ALL_UTTERANCES_KEPT / calls.size));
  while (call.utterances.size > most && !call.stored) {
    const first = call.utterances.keys().next().value;
    call.utterances.delete(first);
    call.trimmed = true;
    emit("trimmed", call, first);
  }
  if (event.captured_at) call.recorded = !inTime(event);
  if (message.pushed_at && !message.history && !REPLAY && !call.recorded) {
    delays.push((Date.parse(message.pushed_at) - Date.parse(event.captured_at)) / 1000);
    if (delays.length > 20) delays.shift();
    const middle = [...delays].sort((a, b) => a - b)[Math.floor(delays.length / 2)];
    connection.delay = middle < 0 || middle > 600 ? "" : t.connection.delay(middle);
    emit("delay");
  }
  emit("heard", call, key, event);
}

function correct(call, { speaker, same_as, role, role_confidence }) {
  if (same_as) call.merged.set(speaker, same_as);
  // One that merges nobody says what the role is, be it unknown again.
  if (!same_as || role !== "unknown") call.roles.set(same_as || speaker, { role, role_confidence });
  emit("corrected", call);
}

// Figures, alerts, categories, insights and score cards are told again after a lost connection: each replaces itself.
export function find(call, event) {
  if (event.kind === "metrics") call.metrics = event;
  else if (event.kind === "insights") call.insights = better(call.insights, event);
  else if (event.kind === "evaluation") call.cards.set(event.form, event);
  else if (event.kind === "category") call.categories.set(event.category, call.categories.get(event.category) ?? event);
  else call.alerts.set(`${event.rule}/${event.at_ms}`, event);
  emit("changed", call);
}

// Of the insights of several engines: those that have something to say, a language model's rather than quotes alone.
function better(one, other) {
  const rank = ({ state, engine }) => 2 * (state === "ok") + (engine !== "extractive");
  return one && rank(one) > rank(other) ? one : other;
}

function nameOf(call, speaker) {
  // As many steps as there are merges: more cannot be needed, and a ring ends.
  for (let step = 0; step < call.merged.size; step++) speaker = call.merged.get(speaker) ?? speaker;
  return speaker;
}

// An utterance with its speaker and role as they are known by now.
export function known(call, event) {
  const speaker = nameOf(call, event.speaker);
  const found = call.roles.get(speaker);
  return { ...event, speaker, ...(found && found.role !== event.role && found) };
}

export const speakersOf = (call) => [...new Set([...call.said.keys()].map((name) => nameOf(call, name)))];

export const inOrder = (call) =>
  [...call.utterances.values()].map((event) => known(call, event)).sort((a, b) => a.start_ms - b.start_ms || a.channel - b.channel);

// The moment at which the customer felt worst: null where nothing of what he said is negative.
export const lowestOf = (call) =>
  inOrder(call)
    .filter(({ role, sentiment }) => role !== "agent" && sentiment?.label === "negative")
    .reduce((worst, event) => (event.sentiment.score < (worst?.sentiment.score ?? 0) ? event : worst), null);

// What one who is not the agent said last.
export const customerOf = (call) =>
  [...call.said.values()]
    .map((event) => known(call, event))
    .filter(({ role }) => role !== "agent")
    .reduce((last, event) => (event.start_ms >= (last?.start_ms ?? 0) ? event : last), undefined);

function end(call, event) {
  call.ended = true;
  call.duration = event.duration_ms;
  forgetOld();
}

function forgetOld() {
  const all = [...calls.values()];
  const over = all.filter((one) => one.ended && one !== shown.call);
  // The oldest: beyond so many calls, or so many utterances, for a call that was opened by name is there as a whole.
  let utterances = over.reduce((sum, one) => sum + one.utterances.size, 0);
  const gone = over.filter((one, at) => {
    const isTooMany = over.length - at > ENDED_KEPT || utterances > ALL_UTTERANCES_KEPT;
    if (isTooMany) utterances -= one.utterances.size;
    return isTooMany;
  });
  const since = Date.now() - LOST_MS;
  gone.push(...all.filter((one) => !one.ended && one !== shown.call && one.touched < since));
  for (const old of gone) calls.delete(old.info.call_id);
  if (gone.length) emit("forgot");
  if (connection.delay && !REPLAY && !all.some(isLive)) {
    delays = [];
    connection.delay = "";
    emit("delay");
  }
}
setInterval(forgetOld, FORGET_MS);

// Who speaks, as is known by now, and as what it is drawn: parties by their role, else speakers in the order in which they
// were first heard.
export function partyOf(call, { role, speaker }) {
  if (role === "agent" || role === "customer") return { name: t.roles[role], look: role };
  return { name: speaker, look: speakersOf(call).indexOf(speaker) % 2 ? "second" : "first" };
}

// The wall clock tells how long a call lasts, unless it is streamed faster or was spoken long ago.
export function lengthOf(call) {
  if (call.ended || call.recorded || REPLAY) return call.duration;
  const wall = Date.now() - Date.parse(call.info.started_at);
  return wall - call.duration < 600000 ? Math.max(wall, call.duration, 0) : call.duration;
}

export function factsOf(info) {
  return [info.agent && t.call.agent(info.agent), info.queue, info.tenant !== "default" && info.tenant].filter(Boolean).join(" · ");
}

export const worstOf = (call) => SEVERITIES.findLast((severity) => [...call.alerts.values()].some((alert) => alert.severity === severity));
