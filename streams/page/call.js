// One call, live or finished: what is said, how it goes, what was made of it; and beside it the list of calls.
//
// A changer must know: a live call comes from the websocket alone. What ClickHouse has of it (its beginning, where this
// page knows it no more; figures and insights; sound) is asked for when the call is opened by name or has ended, and
// added to what is there, never instead of it.

import { callPath, get, Problem } from "./api.js";
import { compare } from "./compare.js";
import { $, button, callAddress, capital, clock, element, feeling, inNextFrame, percent, place, rowOf, signed, stateOf, svg, whenOf, withChildren, write } from "./dom.js";
import t from "./en.js";
import { explain } from "./explain.js";
import { calls, callOf, customerOf, factsOf, find, hear, inOrder, known, lengthOf, lowestOf, on, partyOf, REPLAY, shown, worstOf } from "./live.js";
import { drawMenu } from "./menu.js";
import { currentMs, openSound, playFrom } from "./player.js";
import { drawTimeline } from "./timeline.js";

const EMOTIONS = ["neutral", "happiness", "sadness", "anger", "fear", "surprise"];
const STORED_AFTER_MS = [2000, 4000, 10000]; // when an ended call is looked for in ClickHouse: the sink writes within seconds
const PAGE = 200; // utterances asked for at once: the most there may be

let visible = false;
let selected = null;
let chosen = false; // whether a person chose the call that is shown
let wanted = null; // the chosen call, after a jump in a replay
let atMs = null; // where the chosen call is to be shown, once it is there
const dirty = new Set();
const entries = new Map(); // call → its entry in the list
const drawSoon = inNextFrame(drawCall);
const listSoon = inNextFrame(drawList);
const timelineSoon = inNextFrame(() => visible && calls.has(selected) && drawTimeline(calls.get(selected), { seek: playAt, showNear }));

// ---------------------------------------------------------------- the list

function drawEntry(call) {
  let entry = entries.get(call);
  if (!entry) {
    const made = button("entry", undefined, () => {
      if (location.hash === callAddress(call.info.call_id)) open(call.info.call_id);
      else location.hash = callAddress(call.info.call_id);
    });
    for (const part of ["name", "time", "facts quiet", "mood", "last"]) made.append(element("span", part));
    entry = withChildren(element("li"), made);
    entries.set(call, entry);
    dirty.add(call);
  }
  const made = entry.firstChild;
  made.setAttribute("aria-current", String(call.info.call_id === selected));
  if (!dirty.delete(call)) return entry;
  const [name, time, facts, mood, last] = made.children;
  const customer = customerOf(call);
  name.textContent = call.info.call_id;
  time.textContent = clock(lengthOf(call));
  facts.textContent = [!call.ended && call.recorded && t.call.recording, factsOf(call.info) || call.info.source].filter(Boolean).join(" · ");
  mood.className = `mood ${customer ? feeling(customer.running.party_score) : "neutral"}`;
  mood.textContent = customer ? signed(customer.running.party_score) : "";
  mood.title = t.call.mood;
  last.textContent = call.ended ? "" : (call.last?.text ?? "");
  last.hidden = !last.textContent;
  const worst = worstOf(call);
  made.dataset.alert = worst ?? "";
  name.title = worst ? t.call.worst(call.alerts.size, t.severities[worst]) : "";
  return entry;
}

function drawList() {
  if (!visible) return;
  const all = [...calls.values()];
  const live = all.filter((call) => !call.ended);
  const ended = all.filter((call) => call.ended).reverse();
  place($("live"), live.map(drawEntry));
  place($("ended"), ended.map(drawEntry));
  for (const call of entries.keys()) if (calls.get(call.info.call_id) !== call) entries.delete(call);
  $("live-count").textContent = live.length;
  $("ended-count").textContent = ended.length;
  $("ended-section").hidden = !ended.length;
  $("no-calls").hidden = calls.size > 0 || !$("call-state").hidden;
}

// ---------------------------------------------------------------- which call

const turnOf = (key) => $("transcript").querySelector(`[data-key="${CSS.escape(key)}"]`);

function select(id) {
  selected = id;
  const call = calls.get(id);
  shown.call = call ?? null;
  $("call").hidden = !call;
  const log = $("transcript");
  quietly(() => {
    log.replaceChildren();
    if (call) inOrder(call).forEach((event) => showTurn(`${event.channel}/${event.start_ms}`, event, false));
    log.scrollTop = call?.ended ? 0 : log.scrollHeight;
    $("newest").hidden = true;
  });
  listSoon();
  openSound(call?.stored ? call : null, sounded);
  if (!call) return;
  $("timeline-details").open = Boolean(call.stored);
  drawCall();
  if ((call.trimmed || call.ended) && !call.stored) load(id);
  if (atMs !== null) showNear(atMs);
}

// Opens a call by name, or, without one, the call that a person looks at or the first live one.
export function open(id, at = null, version = "") {
  visible = true;
  atMs = at;
  $("layout").classList.toggle("open", Boolean(id));
  stateOf($("call-state"), null);
  for (const call of calls.values()) dirty.add(call);
  if (id) {
    chosen = true;
    wanted = null;
    const isShown = calls.has(id) && (!version || calls.get(id).stored?.pipeline_version === version);
    if (isShown) return select(id);
    if (!calls.has(id)) select(null);
    selected = id;
    return load(id, version);
  }
  chosen = chosen && calls.has(selected);
  if (calls.has(selected)) return select(selected);
  const first = [...calls.values()].find((call) => !call.ended) ?? [...calls.values()].at(-1);
  select(first?.info.call_id ?? null);
}

export function close() {
  visible = false;
  shown.call = null;
  openSound(null);
}

// What ClickHouse has of the call. `version`: of another pipeline than the promoted one.
let loading = null;
async function load(id, version = "", tries = 0) {
  loading?.abort();
  const asked = (loading = new AbortController());
  const isThere = calls.has(id);
  if (!isThere || version) stateOf($("call-state"), "loading", t.call.loading(id));
  if (!isThere) $("no-calls").hidden = true;
  try {
    const found = await get(callPath(id), { version }, asked.signal);
    const utterances = [];
    for (let next = ""; next !== null; ) {
      const page = await get(callPath(id, "/utterances"), { version, limit: PAGE, cursor: next }, asked.signal);
      utterances.push(...page.items);
      next = page.next;
    }
    const optional = (rest) => get(callPath(id, rest), { version }, asked.signal).catch((error) => {
      if (error.name === "AbortError" || error.status !== 404) throw error;
      return null;
    });
    const [metrics, insights, cards] = await Promise.all(["/metrics", "/insights", "/evaluations"].map(optional));
    if (asked.signal.aborted) return;
    if (version) calls.delete(id);
    take(found, utterances, { metrics, insights, cards });
    stateOf($("call-state"), null);
    const at = atMs;
    const place_ = $("transcript").scrollTop;
    const wasOpen = $("timeline-details").open;
    selected = id;
    shown.call = calls.get(id);
    redraw();
    if (!isThere || wasOpen || calls.get(id).ended) $("timeline-details").open = true;
    $("transcript").scrollTop = isThere && !version ? place_ : 0;
    if (at !== null) showNear(at);
    atMs = null;
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    if (calls.has(id) && !version) {
      // Live calls need none of it; of ended ones the sink may still be writing.
      const call = calls.get(id);
      if (call?.ended && error.status === 404 && tries < STORED_AFTER_MS.length) {
        setTimeout(() => selected === id && visible && load(id, version, tries + 1), STORED_AFTER_MS[tries]);
      }
      return;
    }
    if (version && error.status === 404 && tries < STORED_AFTER_MS.length) {
      // It was heard anew just now.
      setTimeout(() => selected === id && visible && load(id, version, tries + 1), STORED_AFTER_MS[tries]);
      return;
    }
    $("call").hidden = !calls.has(id);
    stateOf($("call-state"), "error", error.status === 404 ? t.call.unknown(id) : error.message, () => load(id, version));
  }
}

function redraw() {
  const call = calls.get(selected);
  $("call").hidden = !call;
  $("no-calls").hidden = true;
  quietly(() => {
    $("transcript").replaceChildren();
    inOrder(call).forEach((event) => showTurn(`${event.channel}/${event.start_ms}`, event, false));
    $("newest").hidden = true;
  });
  openSound(call, sounded);
  dirty.add(call);
  listSoon();
  drawCall();
}

// A stored call as the websocket would have told it.
function take(found, utterances, { metrics, insights, cards }) {
  const info = { roles: [], source: "", metadata: {}, ...found };
  const call = callOf(info);
  call.stored = found;
  call.ended ||= found.state !== "live";
  call.duration = Math.max(call.duration, found.duration_ms ?? 0);
  const means = new Map();
  const mean = (name, score) => {
    const sum = means.get(name) ?? [0, 0];
    if (score != null) means.set(name, [sum[0] + score, sum[1] + 1]);
    const [total, count] = means.get(name) ?? [0, 0];
    return count ? total / count : 0;
  };
  utterances.forEach((one, at) => {
    const running = {
      score: mean("", one.score),
      party_score: mean(`/${one.speaker}`, one.score),
      utterances: at + 1,
    };
    const event = {
      ...{ call: info, flags: [], overlap_ms: 0, role_confidence: null, asr_confidence: one.confidence ?? null },
      ...one,
      words: one.words ?? [],
      emotion: one.emotion
        ? { label: one.emotion, probabilities: one.emotions ?? {}, uncertain: one.emotion_uncertain, complex: one.complex_emotion, granular: [] }
        : null,
      sentiment:
        one.score == null
          ? null
          : { label: one.sentiment, score: one.score, text_score: one.text_score ?? one.score, voice_score: one.voice_score ?? null, disagree: one.disagree },
      running,
    };
    if (!call.utterances.has(`${one.channel}/${one.start_ms}`)) hear(call, event);
  });
  for (const { kind, rule, name, severity, at_ms, text, utterances: rests } of found.marks ?? []) {
    const evidence = rests.map((id) => id.split("/").slice(-2).map(Number)).map(([channel, start_ms]) => ({ channel, start_ms }));
    find(call, { kind, rule, category: name, severity, at_ms, message: text, evidence, call: info });
  }
  if (metrics && !call.metrics?.final) find(call, { ...metrics, kind: "metrics", call: info });
  if (insights) find(call, { ...insights, kind: "insights", call: info });
  for (const card of cards?.items ?? []) find(call, { ...card, kind: "evaluation", call: info });
}

// ---------------------------------------------------------------- what is said

// A reader of the screen is told what is said from now on, not all of it again.
function quietly(draw) {
  const log = $("transcript");
  log.setAttribute("aria-live", "off");
  draw();
  requestAnimationFrame(() => log.setAttribute("aria-live", "polite"));
}

// The words of the utterance in its text, each where it is spoken; what is between them stays as it is.
function wordsOf(event, playable) {
  const text = element("p", "text");
  if (!playable || !event.words?.length) {
    text.textContent = event.text;
    return text;
  }
  let rest = event.text;
  for (const { text: word, start_ms, end_ms } of event.words) {
    const at = rest.toLowerCase().indexOf(word.trim().toLowerCase());
    if (at < 0 || !word.trim()) continue;
    const made = element("span", "word", rest.slice(at, at + word.trim().length));
    made.dataset.from = start_ms;
    made.dataset.to = end_ms;
    text.append(rest.slice(0, at), made);
    rest = rest.slice(at + word.trim().length);
  }
  text.append(rest);
  return text;
}

function showTurn(key, heard, fresh) {
  const call = calls.get(selected);
  const event = known(call, heard);
  const log = $("transcript");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const turn = element("article", `turn ${partyOf(call, event).look}${fresh ? " fresh" : ""}`);
  turn.dataset.key = key;
  turn.dataset.start = event.start_ms;
  turn.dataset.channel = event.channel;
  const playable = Boolean(call.stored);
  const text = wordsOf(event, playable);
  const isCrossTalk = event.flags.includes("cross_talk");
  if (isCrossTalk) turn.classList.add("crosstalk");
  if (!event.text) {
    text.classList.add("wordless");
    const why = event.flags.filter((flag) => flag !== "no_words" && flag !== "cross_talk").join(", ").replaceAll("_", " ");
    text.textContent = t.call.wordless(why);
  } else if (event.asr_confidence != null) {
    text.title = t.call.recognised(percent(event.asr_confidence));
  }
  const about = element("p", "about");
  const isFound = event.role !== "unknown" && !event.speaker.startsWith(event.role);
  const speaker = element("span", "", isFound ? `${event.speaker}, ${t.roles[event.role]}` : event.speaker || t.roles[event.role]);
  const sure = event.role_confidence;
  if (isFound && sure != null) speaker.title = t.call.roleSure(t.roles[event.role], percent(sure));
  const time = playable ? button("play", clock(event.start_ms), () => playAt(event.start_ms)) : element("span", "", clock(event.start_ms));
  if (playable) time.setAttribute("aria-label", t.call.playFrom(clock(event.start_ms)));
  about.append(time, speaker);
  if (event.sentiment) {
    const label = t.feelings[event.sentiment.label] ?? event.sentiment.label;
    const feel = element("span", `feel ${event.sentiment.label}`, `${label} ${signed(event.sentiment.score)}`);
    const voice = event.sentiment.voice_score;
    feel.title = t.call.fused(signed(event.sentiment.text_score), voice === null ? "" : signed(voice));
    about.append(feel);
    if (event.sentiment.disagree) {
      turn.classList.add("disagrees");
      about.append(marked(t.call.disagree, t.call.disagreeing(feel.title)));
    }
  }
  if (event.overlap_ms) {
    about.append(marked(t.call.overlap, t.call.overlapping((event.overlap_ms / 1000).toFixed(1))));
  }
  if (isCrossTalk) about.append(marked(t.call.crossTalk, t.call.crossTalking));
  if (event.emotion) {
    const { label, probabilities, granular, complex } = event.emotion;
    const emotion = element("span", "emotion", `${emotionOf(event)} ${percent(probabilities[label] ?? 0)}`);
    emotion.title = [
      event.emotion.uncertain && t.call.uncertain,
      complex && t.call.complex(complex),
      granular?.length && t.call.granular(granular.map(({ name, confidence }) => `${name} ${percent(confidence)}`).join(", ")),
    ].filter(Boolean).join("; ");
    about.append(emotion);
  } else if (!isCrossTalk) {
    const unheard = t.call.unheard(event.emotion_skipped ?? t.call.noReason);
    if (event.role === "agent") speaker.title = [speaker.title, unheard].filter(Boolean).join("; ");
    else about.append(marked(t.call.noEmotion, unheard));
  }
  if (event.text && call.stored) {
    const why = button("why", t.call.why, () => explain(call, event));
    why.setAttribute("aria-label", t.call.whyOf(clock(event.start_ms)));
    about.append(why);
  }
  for (const alert of call.alerts.values()) {
    if (alert.evidence?.some(({ channel, start_ms }) => channel === event.channel && start_ms === event.start_ms)) {
      about.append(element("span", `badge ${alert.severity}`, alert.rule));
    }
  }
  turn.append(text, about);

  const old = turnOf(key);
  if (old) old.replaceWith(turn);
  else log.insertBefore(turn, [...log.children].reverse().reduce((later, other) => (isLater(other, event) ? other : later), null));
  if (atEnd && !call.ended) log.scrollTop = log.scrollHeight;
  else if (!old && !call.ended) $("newest").hidden = false;
}

// A word about an utterance, and what it means for who asks.
function marked(word, meaning) {
  const mark = element("span", "mark", word);
  mark.title = meaning;
  mark.tabIndex = 0;
  mark.setAttribute("role", "note");
  mark.setAttribute("aria-label", meaning);
  return mark;
}

const emotionOf = ({ emotion }) => (t.emotions[emotion.label] ?? emotion.label) + (emotion.uncertain ? "?" : "");

const isLater = ({ dataset }, event) =>
  dataset.start - event.start_ms > 0 || (dataset.start - event.start_ms === 0 && dataset.channel > event.channel);

function showAt(key) {
  const turn = turnOf(key);
  if (!turn) return;
  turn.scrollIntoView({ block: "center", behavior: "smooth" });
  turn.classList.add("shown");
  setTimeout(() => turn.classList.remove("shown"), 1500);
}

function showNear(ms) {
  const near = [...$("transcript").children].reduce(
    (best, turn) => (Math.abs(turn.dataset.start - ms) < Math.abs((best?.dataset.start ?? Infinity) - ms) ? turn : best),
    null,
  );
  if (near) showAt(near.dataset.key);
}

function playAt(ms) {
  showNear(ms);
  playFrom(ms);
}

// What is being played, in the words and on the axis.
let playing = [];
function sounded() {
  const ms = currentMs();
  for (const node of playing) node.classList.remove("playing");
  playing = ms === null ? [] : [...$("transcript").querySelectorAll(".word")].filter(({ dataset }) => dataset.from <= ms && ms < dataset.to);
  for (const node of playing) node.classList.add("playing");
  timelineSoon();
}

// ---------------------------------------------------------------- the selected call

function drawCall() {
  const call = calls.get(selected);
  if (!call || !visible) return;
  const { info } = call;
  const said = inOrder(call);
  const parties = partiesOf(call, said);
  $("call-name").textContent = info.call_id;
  const begun = call.stored ? whenOf(info.started_at) : new Date(info.started_at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  $("call-facts").textContent = [factsOf(info), info.source, call.stored ? begun : t.call.since(begun)].filter(Boolean).join(" · ");
  $("silence").hidden = said.length > 0;
  $("silence").textContent = call.ended ? t.call.nothingSaid : t.call.listening;
  $("parties").replaceChildren(...parties.slice(0, 2).map(({ name, look }) => element("span", look, name)));
  drawClock(call);
  drawLowest(call);
  $("scores").replaceChildren(
    scoreOf(call.ended ? t.call.atTheEnd : t.call.soFar, "", call.last?.running.score),
    ...parties.slice(0, 2).map(({ name, look, events }) => scoreOf(name, look, events.at(-1)?.running.party_score)),
    ...(call.metrics?.outlook ? [outlookOf(call.metrics.outlook)] : []),
  );
  $("chart").replaceChildren(chart(call, said, parties));
  const keys = parties.map(({ name, look }) => element("span", look, name));
  $("legend").replaceChildren(...keys, element("span", "", t.call.oneUtterance));
  drawEmotions(said);
  drawAlerts(call);
  drawTalk(call);
  drawInsights(call);
  drawCards(call);
  drawMenu(call, { reload: (version) => load(call.info.call_id, version), compare: () => compare(call) });
  timelineSoon();
}

// The parties in the order of their sides, each with its utterances that have a sentiment.
export function partiesOf(call, said) {
  const parties = new Map();
  for (const role of ["agent", "customer"]) {
    if (call.info.roles.includes(role)) parties.set(t.roles[role], { name: t.roles[role], look: role, events: [], all: [] });
  }
  for (const event of said) {
    const party = partyOf(call, event);
    if (!parties.has(party.name)) parties.set(party.name, { ...party, events: [], all: [] });
    parties.get(party.name).all.push(event);
    if (event.sentiment) parties.get(party.name).events.push(event);
  }
  return [...parties.values()];
}

function scoreOf(name, look, score) {
  const row = element("div", look);
  row.append(
    element("dt", "", capital(name)),
    element("dd", `score ${score === undefined ? "neutral" : feeling(score)}`, score === undefined ? "–" : signed(score)),
  );
  return row;
}

function drawClock(call) {
  const length = clock(lengthOf(call));
  $("call-clock").textContent = call.ended ? t.call.endedAfter(length) : call.recorded ? t.call.heardUpTo(length) : length;
}

// Leads to the moment that most people look for first.
function drawLowest(call) {
  const lowest = lowestOf(call);
  const made = $("lowest");
  const isKnown = call.ended && inOrder(call).some(({ role, sentiment }) => role !== "agent" && sentiment);
  made.hidden = !lowest && !isKnown;
  made.disabled = !lowest;
  if (!lowest) return write(made, t.call.neverNegative);
  const [at, score] = [clock(lowest.start_ms), signed(lowest.sentiment.score)];
  made.textContent = lowest.role === "customer" ? t.call.lowest(at, score) : t.call.lowestOf(lowest.speaker, at, score);
  made.title = call.stored ? t.call.lowestPlays : "";
  made.onclick = () => {
    showAt(`${lowest.channel}/${lowest.start_ms}`);
    playFrom(lowest.start_ms);
  };
}

function drawEmotions(said) {
  const heardIn = said.filter((event) => event.emotion).at(-1);
  const others = said.filter((event) => event.role !== "agent");
  const whose = (heardIn ?? others.at(-1))?.role;
  $("sounds").textContent = whose === "unknown" || whose === "agent" ? t.call.voiceSounds : t.call.customerSounds;
  $("no-emotion").textContent = heardIn
    ? t.call.fromVoice(heardIn.speaker || t.roles[heardIn.role], clock(heardIn.start_ms), heardIn.emotion.uncertain)
    : others.length
      ? t.call.notComputed(others.at(-1).emotion_skipped ?? t.call.noReason)
      : t.call.customerSilent;
  if (!heardIn) return $("emotions").replaceChildren();
  const ranked = EMOTIONS.map((name) => [name, heardIn.emotion.probabilities[name] ?? 0]).sort((a, b) => b[1] - a[1]);
  $("emotions").replaceChildren(
    ...ranked.map(([name, share], at) => {
      const row = element("li", ["top", "second"][at] ?? "");
      const track = element("span", "track");
      const fill = element("span", "fill");
      fill.style.width = `${100 * share}%`;
      track.append(fill);
      row.append(element("span", "", name === heardIn.emotion.label ? emotionOf(heardIn) : t.emotions[name]), track, element("span", "share", percent(share)));
      return row;
    }),
  );
}

// Each party's sentiment so far as a line, each utterance's own as a dot. Time runs to the right.
function chart(call, said, parties) {
  const length = lengthOf(call);
  const { clientWidth: width, clientHeight: height } = $("chart");
  const [left, edge, top, bottom] = [26, width - 6, 6, height - 20];
  const most = Math.max(length, 30000);
  const x = (ms) => left + ((edge - left) * ms) / most;
  const y = (score) => (top + bottom) / 2 - (score * (bottom - top)) / 2;
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  drawn.setAttribute("aria-label", t.call.chart(call.last ? signed(call.last.running.score) : "", said.length));
  for (const [score, label] of [[1, "+1"], [0, "0"], [-1, "−1"]]) {
    drawn.append(
      svg("line", { class: score ? "grid" : "zero", x1: left, x2: edge, y1: y(score), y2: y(score) }),
      svg("text", { x: left - 6, y: y(score) + 4, "text-anchor": "end" }, label),
    );
  }
  drawn.append(
    svg("text", { x: left, y: height - 4 }, "0:00"),
    svg("text", { x: edge, y: height - 4, "text-anchor": "end" }, clock(most)),
  );
  for (const { look, events } of parties) {
    if (!events.length) continue;
    const line = events.map((event) => `${x(event.end_ms).toFixed(1)} ${y(event.running.party_score).toFixed(1)}`);
    const [from, to] = [x(events[0].start_ms).toFixed(1), x(length).toFixed(1)];
    drawn.append(svg("path", { class: look, d: `M${from} ${y(0)} L${line.join(" L")} H${to}` }));
    for (const event of events) {
      const [cx, cy] = [x(event.end_ms).toFixed(1), y(event.sentiment.score).toFixed(1)];
      const dot = svg("circle", { class: look, cx, cy, r: 3 });
      dot.append(svg("title", {}, `${clock(event.start_ms)} ${event.speaker} ${signed(event.sentiment.score)}: ${event.text}`));
      dot.onclick = () => showAt(`${event.channel}/${event.start_ms}`);
      drawn.append(dot);
    }
  }
  return drawn;
}

// ---------------------------------------------------------------- what is made of the scores

// A moment of the call that can be gone to: the first utterance that it rests on, or what is closest to a time.
function momentOf(text, { evidence, at_ms }) {
  const first = evidence?.[0];
  return button("moment", text, () => (first ? showAt(`${first.channel}/${first.start_ms}`) : showNear(at_ms)));
}

function drawAlerts(call) {
  const alerts = [...call.alerts.values()].sort((a, b) => b.at_ms - a.at_ms);
  $("alerts-section").hidden = !alerts.length && !call.categories.size;
  place($("alerts"), alerts.map((alert) => rowOf($("alerts"), `${alert.rule}/${alert.at_ms}`, () => {
    const row = element("li", alert.severity);
    row.append(element("span", "severity", t.severities[alert.severity]), element("span", "quiet", clock(alert.at_ms)), momentOf(alert.message, alert));
    return row;
  })));
  $("categories").replaceChildren(
    ...[...call.categories].map(([category, event]) => momentOf(category, event)),
  );
}

// How a call that goes on will probably end, by a model of earlier calls, where there is one.
function outlookOf({ negative, model }) {
  const row = element("div", "outlook");
  row.title = t.call.outlookOf(model);
  row.append(element("dt", "", t.call.outlook), element("dd", `score ${negative < 0.5 ? "neutral" : "negative"}`, percent(negative)));
  return row;
}

function drawTalk(call) {
  const { metrics } = call;
  $("talk-section").hidden = !metrics?.parties.length;
  if (!metrics) return;
  const looks = metrics.parties.map((party) => partyOf(call, known(call, party)));
  $("talk").setAttribute("aria-label", metrics.parties.map((party, at) => `${looks[at].name} ${percent(party.talk_share)}`).join(", "));
  $("talk").replaceChildren(
    ...metrics.parties.map(({ talk_share }, at) => {
      const part = element("span", looks[at].look, talk_share > 0.15 ? percent(talk_share) : "");
      part.style.flexGrow = talk_share;
      return part;
    }),
  );
  const number = (value, unit = "", digits = 0) => (value == null ? "–" : `${value.toFixed(digits)}${unit}`);
  const rows = [
    [t.talk.pace, (party) => number(party.words_per_minute)],
    [t.talk.monologue, (party) => clock(party.longest_monologue_ms)],
    [t.talk.answers, (party) => number(party.response_ms == null ? null : party.response_ms / 1000, " s", 1)],
    [t.talk.interruptions, (party) => number(party.interruptions)],
    [t.talk.quarters, (party) => party.quarters.map((mean) => (mean == null ? "–" : signed(mean).slice(0, 4))).join(" ")],
  ];
  const head = element("tr");
  head.append(element("td"), ...looks.map(({ name, look }) => {
    const cell = element("th", look, name);
    cell.scope = "col";
    return cell;
  }));
  $("figures").replaceChildren(
    head,
    ...rows.map(([name, of]) => {
      const row = element("tr");
      const label = element("th", "", name);
      label.scope = "row";
      row.append(label, ...metrics.parties.map((party) => element("td", "", of(party))));
      return row;
    }),
  );
  const moments = metrics.dead_air.map(({ start_ms, end_ms }) => [start_ms, t.talk.silence(clock(start_ms), Math.round((end_ms - start_ms) / 1000))]);
  for (const { start_ms, by, of, overtalk_ms } of metrics.interruptions ?? []) {
    moments.push([start_ms, t.talk.interruption(clock(start_ms), by, of, (overtalk_ms / 1000).toFixed(1))]);
  }
  const gaps = moments.sort(([one], [other]) => one - other).map(([at_ms, text]) => withChildren(element("li"), momentOf(text, { at_ms })));
  if (!metrics.final && metrics.silence_now_ms >= 5000) {
    gaps.push(element("li", "now", t.talk.silentNow(Math.round(metrics.silence_now_ms / 1000))));
  }
  if (!gaps.length) gaps.push(element("li", "quiet", metrics.final ? t.talk.noSilence : t.talk.noSilenceYet));
  $("dead-air").replaceChildren(...gaps);
}

function drawInsights(call) {
  const { insights } = call;
  $("insights-section").hidden = !insights;
  // What somebody has answered in the quiz stays when something else changes.
  if (!insights || $("insights").drawn === insights) return;
  $("insights").drawn = insights;
  const parts = [];
  const list = (title, items, textOf) => {
    if (!items?.length) return;
    const rows = element("ul", "moments");
    rows.append(...items.map((item) => withChildren(element("li"), momentOf(textOf(item), item))));
    parts.push(element("h4", "", title), rows);
  };
  if (insights.state !== "ok") parts.push(element("p", "quiet", insights.why));
  const words = t.insights;
  list(words.topics, insights.topics, ({ path }) => path.join(" › "));
  list(words.reason, insights.reason && [insights.reason], ({ text }) => text);
  list(words.summary, insights.summary, ({ text }) => text);
  list(words.issues, [...(insights.issues ?? []), ...(insights.objections ?? [])], ({ text }) => text);
  list(words.outcome, insights.outcome && [insights.outcome], ({ text }) => text);
  list(words.promised, insights.action_items, ({ text, due }) => (due ? `${text} (${due})` : text));
  list(words.practise, insights.coaching, ({ text }) => text);
  if (insights.quiz?.length) parts.push(element("h4", "", words.quiz), ...insights.quiz.map(questionOf));
  parts.push(element("p", "quiet", words.madeBy(insights.engine)));
  $("insights").replaceChildren(...parts);
}

// How forms are filled for the call: what each item has earned, and the words that it rests on.
function drawCards({ cards }) {
  const told = [...cards.values()];
  const drawn = JSON.stringify(told.map(({ form, form_version, score, pipeline_version, call }) => [call.call_id, pipeline_version, form, form_version, score]));
  $("cards-section").hidden = !told.length;
  if ($("cards").drawn === drawn) return; // what somebody has opened stays open
  $("cards").drawn = drawn;
  $("cards").replaceChildren(...told.flatMap(({ form, score, why, sections }) => [
    element("h4", "", score == null ? t.cards.noScore(form) : t.cards.score(form, Math.round(score))),
    ...(why ? [element("p", "quiet", why)] : []),
    ...sections.map(sectionOf),
  ]));
}

function sectionOf({ name, score, items }) {
  const rows = element("ul", "moments");
  rows.append(...items.map((item) => {
    const text = t.cards.item(item.earned ?? "–", item.points, item.name, item.why);
    return withChildren(element("li"), item.evidence.length ? momentOf(text, item) : element("span", "quiet", text));
  }));
  return withChildren(element("details"), element("summary", "", `${name} ${score == null ? "–" : Math.round(score)}`), rows);
}

// A question for training: what is chosen is told at once, with the moment that it rests on.
function questionOf({ question, choices, answer, evidence }) {
  const made = element("fieldset", "quiz");
  const told = element("p", "quiet");
  told.setAttribute("role", "status");
  const buttons = choices.map((choice, at) =>
    button("choice", choice, () => {
      buttons.forEach((one, which) => {
        one.disabled = true;
        if (which === answer) one.classList.add("right");
        else if (which === at) one.classList.add("wrong");
      });
      told.replaceChildren(
        element("span", at === answer ? "positive" : "negative", at === answer ? t.insights.right : t.insights.wrong),
        " ",
        momentOf(t.insights.shows, { evidence }),
      );
    }),
  );
  made.append(element("legend", "", question), ...buttons, told);
  return made;
}

// ---------------------------------------------------------------- begin

on("changed", (call) => {
  dirty.add(call);
  listSoon();
  if (call.info.call_id === selected) drawSoon();
});
on("told", (call) => {
  if (!visible) return;
  const id = call.info.call_id;
  const isWanted = id === wanted;
  if (isWanted) wanted = null;
  if (id === selected && !shown.call) {
    // It was asked for by its name before anything was heard of it.
    stateOf($("call-state"), null);
    select(id);
  } else if (selected === null || isWanted || (!chosen && calls.get(selected)?.ended && !call.ended)) select(id);
  else if (call.ended && id === selected && !call.stored) setTimeout(() => selected === id && visible && load(id), STORED_AFTER_MS[0]);
});
on("heard", (call, key, event) => {
  if (visible && call.info.call_id === selected && call === shown.call) showTurn(key, event, true);
});
on("trimmed", (call, key) => {
  if (call.info.call_id === selected) turnOf(key)?.remove();
});
on("corrected", (call) => {
  if (call.info.call_id === selected) quietly(() => call.utterances.forEach((event, key) => showTurn(key, event, false)));
});
on("jumped", () => {
  if (chosen) wanted = selected;
});
on("forgot", () => {
  dirty.clear();
  for (const call of calls.values()) dirty.add(call);
  if (selected !== null && !calls.has(selected) && shown.call) select(null);
  listSoon();
});

$("back").onclick = () => {
  const entry = entries.get(calls.get(selected));
  $("layout").classList.remove("open");
  history.replaceState(null, "", "#/call");
  entry?.firstChild.focus();
};
$("newest").onclick = () => {
  $("transcript").scrollTop = $("transcript").scrollHeight;
  $("newest").hidden = true;
};
$("transcript").onscroll = ({ target }) => {
  if (target.scrollHeight - target.scrollTop - target.clientHeight < 60) $("newest").hidden = true;
};
$("transcript").onclick = ({ target }) => {
  if (target.classList.contains("word") && getSelection().isCollapsed) playFrom(Number(target.dataset.from));
};
$("timeline-details").ontoggle = ({ target }) => {
  $("call").classList.toggle("timed", target.open);
  drawSoon();
};
for (const list of [$("live"), $("ended")]) {
  list.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const all = [...document.querySelectorAll(".entry")];
    all[all.indexOf(document.activeElement) + step]?.focus();
    event.preventDefault();
  };
}
setInterval(() => {
  if (!visible) return;
  for (const [call, entry] of entries) if (!call.ended) entry.querySelector(".time").textContent = clock(lengthOf(call));
  const call = calls.get(selected);
  if (call && !call.ended) drawClock(call);
}, 1000);
new ResizeObserver(drawSoon).observe($("chart"));
if (REPLAY) $("live-title").textContent = t.call.replayed;
