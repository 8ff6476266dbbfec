// The live page: what is said in the calls running now, from the gateway's websocket (docs/gateway.md).
//
// A changer must know: everything in an event comes from callers' mouths or other systems, so it enters the page by
// textContent and attributes only, never as HTML. An utterance is (channel, start_ms): the same one twice replaces itself.
// Utterances are kept as they were heard and drawn as `known` has them: a correction holds for those before it, too.
// Opened with ?replay=NAME it shows that replay and no live call; a jump in it begins with `reset` and tells all anew.

const KINDS = "score,correction,call_started,call_ended,metrics,alert,category,insights,evaluation";
const FINDINGS = ["metrics", "alert", "category", "insights", "evaluation"]; // what is made of the scores, beside the order of the rest
const RETRY_MS = [250, 5000]; // first and longest pause before connecting again
const SILENCE_MS = 40000; // the gateway speaks every 15 s: after so long without a word the connection is dead
const ENDED_KEPT = 50;
const UTTERANCES_KEPT = 1000;
const SEVERITIES = ["info", "warning", "critical"];
const REPLAY = new URLSearchParams(location.search).get("replay");
const EMOTIONS = ["neutral", "happiness", "sadness", "anger", "fear", "surprise"];

const $ = (id) => document.getElementById(id);
const calls = new Map(); // call id → what is known of it, see callOf
let selected = null;
let chosen = false; // whether a person chose the call that is shown
let wanted = null; // the chosen call, after a jump in a replay
let delays = []; // seconds from speech to page of the last scores

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function svg(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const clock = (ms) => {
  const seconds = Math.floor(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  const rest = String(seconds % 60).padStart(2, "0");
  return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
};
const signed = (score) => (score < 0 ? "−" : "+") + Math.abs(score).toFixed(2);
const percent = (share) => `${Math.round(share * 100)}\u00a0%`;
const feeling = (score) => (score > 0.1 ? "positive" : score < -0.1 ? "negative" : "neutral");
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const inOrder = (call) =>
  [...call.utterances.values()].map((event) => known(call, event)).sort((a, b) => a.start_ms - b.start_ms || a.channel - b.channel);

// ---------------------------------------------------------------- connection

let gateway = null;
let cursor = null;
let socket = null;
let pause = RETRY_MS[0];
let retry = null;
let heard = 0;
let wasLive = false;

function connectionIs(state, text) {
  $("connection").dataset.state = state;
  $("connection-text").textContent = text;
}

function notice(text) {
  $("notice-text").textContent = text;
  $("notice").hidden = !text;
}

async function connect() {
  clearTimeout(retry);
  try {
    gateway ??= (await (await fetch("config.json")).json()).gateway;
  } catch {
    return lost();
  }
  if (socket) return;
  const fields = new URLSearchParams({ kinds: KINDS, ...(cursor ? { from: cursor } : { history: "live" }) });
  if (REPLAY) fields.set("replay", REPLAY);
  const opened = new WebSocket(`${gateway}?${fields}`);
  socket = opened;
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
      notice(`Started anew: ${refused || reason}`);
    }
    lost();
  };
}

function forget(replay) {
  for (const [id, call] of calls) if (call.replay === replay) calls.delete(id);
  if (!calls.has(selected)) select(null);
  drawCalls();
}

function lost() {
  connectionIs("lost", wasLive ? "Connection lost, reconnecting…" : "No gateway yet, trying again…");
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
    notice(`Some events are missing: ${message.message}`);
  } else if (FINDINGS.includes(message.type)) {
    find(message.event);
  } else if (message.type === "replay_position") {
    moved(message);
  } else if (message.event) {
    const call = callOf(message.event.call);
    call.replay = message.replay;
    if (message.type === "score") hear(call, message.event, message);
    else if (message.type === "correction") correct(call, message.event);
    else if (message.type === "call_ended") end(call, message.event);
    drawCalls();
    const isWanted = call.info.call_id === wanted;
    if (isWanted) wanted = null;
    if (selected === null || isWanted || (!chosen && calls.get(selected)?.ended && !call.ended)) select(call.info.call_id);
    if (message.skipped) notice(`${message.skipped} events were skipped: this page was too slow for them`);
  }
}

// Where a replay is. After a jump the call that was chosen is shown again, if it runs there.
function moved({ replay, state, position_ms, of_ms, speed, reset }) {
  if (reset) {
    if (chosen) wanted = selected;
    forget(replay);
  }
  $("delay").textContent = `${clock(position_ms)} of ${clock(of_ms)}${speed === 1 ? "" : `, ${speed}×`}`;
  $("delay").hidden = false;
  const said = `Replay ${replay}: ${state}`;
  // A reader of the screen is told what changes, not every second.
  if ($("connection-text").textContent !== said) connectionIs(state === "playing" ? "live" : "paused", said);
}

function kafkaIs(state) {
  if (state === "ok") connectionIs("live", REPLAY ? `Replay ${REPLAY}: waiting` : "Live");
  else connectionIs("lost", "Waiting for Kafka…");
}

// A socket may be dead without a close; timers sleep in a hidden tab, so it is looked at when the tab is shown, too.
function look() {
  if (socket?.readyState === WebSocket.OPEN && Date.now() - heard > SILENCE_MS) {
    const dead = socket;
    socket = null;
    dead.close();
    lost();
  }
}

// ---------------------------------------------------------------- calls

function callOf(info) {
  let call = calls.get(info.call_id);
  if (!call) {
    call = {
      ...{ info, utterances: new Map(), duration: 0, ended: false, entry: null },
      said: new Map(), // speaker → what was said last; in the order in which they were first heard
      merged: new Map(), // speaker → the earlier speaker whose voice it turned out to be
      roles: new Map(), // speaker → { role, role_confidence } that was found
      alerts: new Map(), // rule and moment → alert
      categories: new Map(), // category → the event that told it first
      cards: new Map(), // form → how it is filled
      ...{ metrics: null, insights: null },
    };
    calls.set(info.call_id, call);
  }
  return call;
}

function hear(call, event, message) {
  const key = `${event.channel}/${event.start_ms}`;
  call.utterances.set(key, event);
  call.duration = Math.max(call.duration, event.end_ms);
  if (event.running.utterances >= (call.last?.running.utterances ?? 0)) call.last = event;
  call.said.set(event.speaker, event);
  if (call.utterances.size > UTTERANCES_KEPT) {
    const first = call.utterances.keys().next().value;
    call.utterances.delete(first);
    if (call.info.call_id === selected) turnOf(first)?.remove();
  }
  if (!message.history && !REPLAY) {
    delays = [...delays.slice(-19), (Date.parse(message.pushed_at) - Date.parse(event.captured_at)) / 1000];
    const middle = [...delays].sort((a, b) => a - b)[Math.floor(delays.length / 2)];
    $("delay").textContent = `${middle.toFixed(1)} s from the end of speech to here`;
    $("delay").hidden = middle < 0 || middle > 600;
  }
  if (call.info.call_id === selected) {
    showTurn(key, event, true);
    drawSoon();
  }
}

function correct(call, { speaker, same_as, role, role_confidence }) {
  if (same_as) call.merged.set(speaker, same_as);
  // One that merges nobody says what the role is, be it unknown again.
  if (!same_as || role !== "unknown") call.roles.set(same_as || speaker, { role, role_confidence });
  if (call.info.call_id === selected) {
    quietly(() => call.utterances.forEach((event, key) => showTurn(key, event, false)));
    drawSoon();
  }
}

// Figures, alerts, categories, insights and score cards are told again after a lost connection: each replaces itself.
function find(event) {
  const call = calls.get(event.call.call_id);
  if (!call) return;
  if (event.kind === "metrics") call.metrics = event;
  else if (event.kind === "insights") call.insights = better(call.insights, event);
  else if (event.kind === "evaluation") call.cards.set(event.form, event);
  else if (event.kind === "category") call.categories.set(event.category, call.categories.get(event.category) ?? event);
  else call.alerts.set(`${event.rule}/${event.at_ms}`, event);
  if (event.kind === "alert") drawCalls();
  if (event.call.call_id === selected) drawSoon();
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
function known(call, event) {
  const speaker = nameOf(call, event.speaker);
  const found = call.roles.get(speaker);
  return { ...event, speaker, ...(found && found.role !== event.role && found) };
}

const speakersOf = (call) => [...new Set([...call.said.keys()].map((name) => nameOf(call, name)))];

// What one who is not the agent said last.
const customerOf = (call) =>
  [...call.said.values()]
    .map((event) => known(call, event))
    .filter(({ role }) => role !== "agent")
    .reduce((last, event) => (event.start_ms >= (last?.start_ms ?? 0) ? event : last), undefined);

function end(call, event) {
  call.ended = true;
  call.duration = event.duration_ms;
  const over = [...calls.values()].filter((one) => one.ended && one.info.call_id !== selected);
  for (const old of over.slice(0, Math.max(0, over.length - ENDED_KEPT))) calls.delete(old.info.call_id);
  if (call.info.call_id === selected) drawSoon();
}

// Who speaks, as is known by now, and as what it is drawn: parties by their role, else speakers in the order in which they
// were first heard.
function partyOf(call, { role, speaker }) {
  if (role === "agent" || role === "customer") return { name: role, look: role };
  return { name: speaker, look: speakersOf(call).indexOf(speaker) % 2 ? "second" : "first" };
}

// The wall clock tells how long a call lasts, unless it is streamed faster or was spoken long ago.
function lengthOf(call) {
  if (call.ended || REPLAY) return call.duration;
  const wall = Date.now() - Date.parse(call.info.started_at);
  return wall - call.duration < 600000 ? Math.max(wall, call.duration, 0) : call.duration;
}

function factsOf(info) {
  return [info.agent && `Agent ${info.agent}`, info.queue, info.tenant !== "default" && info.tenant].filter(Boolean).join(" · ");
}

function drawEntry(call) {
  if (!call.entry) {
    const button = element("button", "entry");
    button.type = "button";
    for (const part of ["name", "time", "facts quiet", "mood", "last"]) button.append(element("span", part));
    button.onclick = () => {
      chosen = true;
      wanted = null;
      $("layout").classList.add("open");
      select(call.info.call_id);
    };
    call.entry = element("li");
    call.entry.append(button);
  }
  const button = call.entry.firstChild;
  const [name, time, facts, mood, last] = button.children;
  const customer = customerOf(call);
  name.textContent = call.info.call_id;
  time.textContent = clock(lengthOf(call));
  facts.textContent = factsOf(call.info) || call.info.source || "";
  mood.className = `mood ${customer ? feeling(customer.running.party_score) : "neutral"}`;
  mood.textContent = customer ? signed(customer.running.party_score) : "";
  mood.title = "the customer's sentiment so far, −1 to +1";
  last.textContent = call.ended ? "" : (call.last?.text ?? "");
  last.hidden = !last.textContent;
  const worst = SEVERITIES.findLast((severity) => [...call.alerts.values()].some((alert) => alert.severity === severity));
  button.dataset.alert = worst ?? "";
  name.title = worst ? `${call.alerts.size} alerts, the worst is ${worst}` : "";
  button.setAttribute("aria-current", String(call.info.call_id === selected));
  return call.entry;
}

function place(list, wanted) {
  // Moves only what is elsewhere, so that the focused entry keeps the focus.
  wanted.forEach((entry, at) => {
    if (list.children[at] !== entry) list.insertBefore(entry, list.children[at] ?? null);
  });
  while (list.children.length > wanted.length) list.lastChild.remove();
}

function drawCalls() {
  const live = [...calls.values()].filter((call) => !call.ended);
  const ended = [...calls.values()].filter((call) => call.ended).reverse();
  place($("live"), live.map(drawEntry));
  place($("ended"), ended.map(drawEntry));
  $("live-count").textContent = live.length;
  $("ended-count").textContent = ended.length;
  $("ended-section").hidden = !ended.length;
  $("no-calls").hidden = calls.size > 0;
  document.title = live.length ? `(${live.length}) Calltide` : "Calltide";
}

// ---------------------------------------------------------------- the selected call

const turnOf = (key) => $("transcript").querySelector(`[data-key="${CSS.escape(key)}"]`);

function select(id) {
  selected = id;
  const call = calls.get(id);
  $("call").hidden = !call;
  const log = $("transcript");
  quietly(() => {
    log.replaceChildren();
    call?.utterances.forEach((event, key) => showTurn(key, event, false));
    log.scrollTop = log.scrollHeight;
  });
  if (!call) return;
  drawCall();
  drawCalls();
}

// A reader of the screen is told what is said from now on, not all of it again.
function quietly(draw) {
  const log = $("transcript");
  log.setAttribute("aria-live", "off");
  draw();
  requestAnimationFrame(() => log.setAttribute("aria-live", "polite"));
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
  const text = element("p", "text", event.text);
  const isCrossTalk = event.flags.includes("cross_talk");
  if (isCrossTalk) turn.classList.add("crosstalk");
  if (!event.text) {
    text.classList.add("wordless");
    const why = event.flags.filter((flag) => flag !== "no_words" && flag !== "cross_talk").join(", ").replaceAll("_", " ");
    text.textContent = `no words recognised${why && ` (${why})`}`;
  } else {
    text.title = `recognised with ${percent(event.asr_confidence)} confidence`;
  }
  const about = element("p", "about");
  const isFound = event.role !== "unknown" && !event.speaker.startsWith(event.role);
  const speaker = element("span", "", isFound ? `${event.speaker}, ${event.role}` : event.speaker || event.role);
  const sure = event.role_confidence;
  if (isFound && sure != null) speaker.title = `the ${event.role} by what was said, ${percent(sure)} sure`;
  about.append(element("span", "", clock(event.start_ms)), speaker);
  if (event.sentiment) {
    const feel = element("span", `feel ${event.sentiment.label}`, `${event.sentiment.label} ${signed(event.sentiment.score)}`);
    const voice = event.sentiment.voice_score;
    feel.title = `words ${signed(event.sentiment.text_score)}${voice === null ? "" : `, voice ${signed(voice)}`}`;
    about.append(feel);
    if (event.sentiment.disagree) about.append(marked("words ≠ voice", `words and voice say different things: ${feel.title}`));
  }
  if (event.overlap_ms) {
    about.append(marked("overlap", `both speak for ${(event.overlap_ms / 1000).toFixed(1)} s`));
  }
  if (isCrossTalk) about.append(marked("cross-talk", "the party of the other channel, heard through"));
  if (event.emotion) {
    const { label, probabilities, granular, complex } = event.emotion;
    const emotion = element("span", "emotion", `${emotionOf(event)} ${percent(probabilities[label])}`);
    emotion.title = [
      event.emotion.uncertain && "too weak to be called by its name",
      complex && `the two strongest together: ${complex}`,
      granular?.length && `finer names: ${granular.map(({ name, confidence }) => `${name} ${percent(confidence)}`).join(", ")}`,
    ].filter(Boolean).join("; ");
    about.append(emotion);
  } else if (!isCrossTalk) {
    const unheard = `emotion not computed: ${event.emotion_skipped ?? "no reason given"}`;
    if (event.role === "agent") speaker.title = [speaker.title, unheard].filter(Boolean).join("; ");
    else about.append(marked("no emotion", unheard));
  }
  turn.append(text, about);

  const old = turnOf(key);
  if (old) old.replaceWith(turn);
  else log.insertBefore(turn, [...log.children].reverse().reduce((later, other) => (isLater(other, event) ? other : later), null));
  if (atEnd) log.scrollTop = log.scrollHeight;
  else if (!old) $("newest").hidden = false;
}

// A word about an utterance, and what it means for who asks.
function marked(word, meaning) {
  const mark = element("span", "mark", word);
  mark.title = meaning;
  mark.tabIndex = 0;
  mark.setAttribute("aria-label", meaning);
  return mark;
}

const emotionOf = ({ emotion }) => emotion.label + (emotion.uncertain ? "?" : "");

const isLater = ({ dataset }, event) =>
  dataset.start - event.start_ms > 0 || (dataset.start - event.start_ms === 0 && dataset.channel > event.channel);

let drawing = false;
function drawSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    drawCall();
  });
}

function drawCall() {
  const call = calls.get(selected);
  if (!call) return;
  const { info } = call;
  const said = inOrder(call);
  const parties = partiesOf(call, said);
  $("call-name").textContent = info.call_id;
  const begun = new Date(info.started_at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  $("call-facts").textContent = [factsOf(info), info.source, `since ${begun}`].filter(Boolean).join(" · ");
  $("silence").hidden = said.length > 0;
  $("silence").textContent = call.ended ? "Nothing was said." : "Listening… nothing has been said yet.";
  $("parties").replaceChildren(...parties.slice(0, 2).map(({ name, look }) => element("span", look, name)));
  drawClock(call);
  $("scores").replaceChildren(
    scoreOf("Call so far", "", call.last?.running.score),
    ...parties.slice(0, 2).map(({ name, look, events }) => scoreOf(name, look, events.at(-1)?.running.party_score)),
    ...(call.metrics?.outlook ? [outlookOf(call.metrics.outlook)] : []),
  );
  $("chart").replaceChildren(chart(call, said, parties));
  const keys = parties.map(({ name, look }) => element("span", look, name));
  $("legend").replaceChildren(...keys, element("span", "", "● one utterance"));
  drawEmotions(said);
  drawAlerts(call);
  drawTalk(call);
  drawInsights(call);
  drawCards(call);
}

// The parties in the order of their sides, each with its utterances that have a sentiment.
function partiesOf(call, said) {
  const parties = new Map();
  for (const role of ["agent", "customer"]) {
    if (call.info.roles.includes(role)) parties.set(role, { name: role, look: role, events: [] });
  }
  for (const event of said) {
    const party = partyOf(call, event);
    if (!parties.has(party.name)) parties.set(party.name, { ...party, events: [] });
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
  $("call-clock").textContent = call.ended ? `ended after ${clock(call.duration)}` : clock(lengthOf(call));
}

function drawEmotions(said) {
  const heardIn = said.filter((event) => event.emotion).at(-1);
  const others = said.filter((event) => event.role !== "agent");
  const whose = (heardIn ?? others.at(-1))?.role;
  $("sounds").textContent = whose === "unknown" || whose === "agent" ? "How the voice sounds" : "How the customer sounds";
  $("no-emotion").textContent = heardIn
    ? `${heardIn.speaker || heardIn.role} at ${clock(heardIn.start_ms)}, from the voice alone${heardIn.emotion.uncertain ? "; too weak to be sure" : ""}`
    : others.length
      ? `Not computed: ${others.at(-1).emotion_skipped ?? "no reason given"}.`
      : "The customer has not spoken yet.";
  if (!heardIn) return $("emotions").replaceChildren();
  const ranked = EMOTIONS.map((name) => [name, heardIn.emotion.probabilities[name] ?? 0]).sort((a, b) => b[1] - a[1]);
  $("emotions").replaceChildren(
    ...ranked.map(([name, share], at) => {
      const row = element("li", ["top", "second"][at] ?? "");
      const track = element("span", "track");
      const fill = element("span", "fill");
      fill.style.width = `${100 * share}%`;
      track.append(fill);
      row.append(element("span", "", name === heardIn.emotion.label ? emotionOf(heardIn) : name), track, element("span", "share", percent(share)));
      return row;
    }),
  );
}

// Each party's sentiment so far as a line, each utterance's own as a dot. Time runs to the right.
function chart(call, said, parties) {
  const length = lengthOf(call);
  const { clientWidth: width, clientHeight: height } = $("chart");
  const [left, edge, top, bottom] = [26, width - 6, 6, height - 20];
  const shown = Math.max(length, 30000);
  const x = (ms) => left + ((edge - left) * ms) / shown;
  const y = (score) => (top + bottom) / 2 - (score * (bottom - top)) / 2;
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const sum = call.last ? `${signed(call.last.running.score)} after ${said.length} utterances` : "nothing said yet";
  drawn.setAttribute("aria-label", `Sentiment over the call: ${sum}`);
  for (const [score, label] of [[1, "+1"], [0, "0"], [-1, "−1"]]) {
    drawn.append(
      svg("line", { class: score ? "grid" : "zero", x1: left, x2: edge, y1: y(score), y2: y(score) }),
      svg("text", { x: left - 6, y: y(score) + 4, "text-anchor": "end" }, label),
    );
  }
  drawn.append(
    svg("text", { x: left, y: height - 4 }, "0:00"),
    svg("text", { x: edge, y: height - 4, "text-anchor": "end" }, clock(shown)),
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

function showAt(key) {
  const turn = turnOf(key);
  if (!turn) return;
  turn.scrollIntoView({ block: "center", behavior: "smooth" });
  turn.classList.add("shown");
  setTimeout(() => turn.classList.remove("shown"), 1500);
}

// ---------------------------------------------------------------- what is made of the scores

// A moment of the call that can be gone to: the first utterance that it rests on, or what is closest to a time.
function momentOf(text, { evidence, at_ms }) {
  const button = element("button", "moment", text);
  button.type = "button";
  const first = evidence?.[0];
  button.onclick = () => (first ? showAt(`${first.channel}/${first.start_ms}`) : showNear(at_ms));
  return button;
}

function showNear(ms) {
  const near = [...$("transcript").children].reduce(
    (best, turn) => (Math.abs(turn.dataset.start - ms) < Math.abs((best?.dataset.start ?? Infinity) - ms) ? turn : best),
    null,
  );
  if (near) showAt(near.dataset.key);
}

function drawAlerts(call) {
  const alerts = [...call.alerts.values()].sort((a, b) => b.at_ms - a.at_ms);
  $("alerts-section").hidden = !alerts.length && !call.categories.size;
  place($("alerts"), alerts.map((alert) => rowOf($("alerts"), `${alert.rule}/${alert.at_ms}`, () => {
    const row = element("li", alert.severity);
    row.append(element("span", "severity", alert.severity), element("span", "quiet", clock(alert.at_ms)), momentOf(alert.message, alert));
    return row;
  })));
  $("categories").replaceChildren(
    ...[...call.categories].map(([category, event]) => momentOf(category, event)),
  );
}

// The row of a list that is there already, or a new one: what stays the same is not read aloud again.
function rowOf(list, key, make) {
  const there = [...list.children].find((row) => row.dataset.key === key);
  if (there) return there;
  const row = make();
  row.dataset.key = key;
  return row;
}

// How a call that goes on will probably end, by a model of earlier calls, where there is one.
function outlookOf({ negative, model }) {
  const row = element("div", "outlook");
  row.title = `chance that the customer's last quarter will be negative (${model})`;
  row.append(element("dt", "", "Ends badly"), element("dd", `score ${negative < 0.5 ? "neutral" : "negative"}`, percent(negative)));
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
    ["words a minute", (party) => number(party.words_per_minute)],
    ["longest monologue", (party) => clock(party.longest_monologue_ms)],
    ["answers after", (party) => number(party.response_ms == null ? null : party.response_ms / 1000, " s", 1)],
    ["interruptions", (party) => number(party.interruptions)],
    ["sentiment by quarter", (party) => party.quarters.map((mean) => (mean == null ? "–" : signed(mean).slice(0, 4))).join(" ")],
  ];
  const head = element("tr");
  head.append(element("th"), ...looks.map(({ name, look }) => element("th", look, name)));
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
  const gaps = metrics.dead_air.map(({ start_ms, end_ms }) => {
    const row = element("li");
    row.append(momentOf(`${clock(start_ms)} nobody speaks for ${Math.round((end_ms - start_ms) / 1000)} s`, { at_ms: start_ms }));
    return row;
  });
  if (!metrics.final && metrics.silence_now_ms >= 5000) {
    gaps.push(element("li", "now", `nobody has spoken for ${Math.round(metrics.silence_now_ms / 1000)} s`));
  }
  if (!gaps.length) gaps.push(element("li", "quiet", `no silence of 5 s${metrics.final ? "" : " so far"}`));
  $("dead-air").replaceChildren(...gaps);
}

function drawInsights(call) {
  const { insights } = call;
  $("insights-section").hidden = !insights;
  if (!insights) return;
  const parts = [];
  const list = (title, items, textOf) => {
    if (!items?.length) return;
    const rows = element("ul", "moments");
    rows.append(...items.map((item) => {
      const row = element("li");
      row.append(momentOf(textOf(item), item));
      return row;
    }));
    parts.push(element("h4", "", title), rows);
  };
  if (insights.state !== "ok") parts.push(element("p", "quiet", insights.why));
  list("Topics", insights.topics, ({ path }) => path.join(" › "));
  list("Reason", insights.reason && [insights.reason], ({ text }) => text);
  list("In short", insights.summary, ({ text }) => text);
  list("Issues", [...(insights.issues ?? []), ...(insights.objections ?? [])], ({ text }) => text);
  list("Promised", insights.action_items, ({ text }) => text);
  list("To practise", insights.coaching, ({ text }) => text);
  parts.push(element("p", "quiet", `made by ${insights.engine}${insights.engine === "extractive" ? ": quotes of the call and fixed phrases" : ""}`));
  $("insights").replaceChildren(...parts);
}

function drawCards({ cards }) {
  const drawn = [...cards.values()].map((card) => `${card.call.call_id} ${card.form} ${card.form_version} ${card.score}`).join();
  $("cards-section").hidden = !cards.size;
  if ($("cards").dataset.drawn === drawn) return; // what somebody has opened stays open
  $("cards").dataset.drawn = drawn;
  const outOf = (score) => (score == null ? "–" : Math.round(score));
  $("cards").replaceChildren(...[...cards.values()].flatMap((card) => {
    const title = element("h4", "", `${card.form}: ${card.score == null ? "no score" : `${outOf(card.score)} of 100`}`);
    const sections = card.sections.map(({ name, score, items }) => {
      const section = element("details");
      const rows = element("ul", "moments");
      rows.append(...items.map((item) => {
        const row = element("li");
        const text = `${item.earned ?? "–"} of ${item.points} ${item.name}: ${item.why}`;
        row.append(item.evidence.length ? momentOf(text, item) : element("span", "quiet", text));
        return row;
      }));
      section.append(element("summary", "", `${name} ${outOf(score)}`), rows);
      return section;
    });
    return [title, ...(card.why ? [element("p", "quiet", card.why)] : []), ...sections];
  }));
}

// ---------------------------------------------------------------- begin

$("notice-close").onclick = () => notice("");
$("back").onclick = () => {
  $("layout").classList.remove("open");
  calls.get(selected)?.entry?.firstChild.focus();
};
$("newest").onclick = () => {
  $("transcript").scrollTop = $("transcript").scrollHeight;
  $("newest").hidden = true;
};
$("transcript").onscroll = ({ target }) => {
  if (target.scrollHeight - target.scrollTop - target.clientHeight < 60) $("newest").hidden = true;
};
for (const list of [$("live"), $("ended")]) {
  list.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const entries = [...document.querySelectorAll(".entry")];
    entries[entries.indexOf(document.activeElement) + step]?.focus();
    event.preventDefault();
  };
}
setInterval(() => {
  look();
  for (const call of calls.values()) if (!call.ended && call.entry) call.entry.querySelector(".time").textContent = clock(lengthOf(call));
  const call = calls.get(selected);
  if (call && !call.ended) drawClock(call);
}, 1000);
addEventListener("online", () => socket ?? connect());
addEventListener("visibilitychange", look);
new ResizeObserver(drawSoon).observe($("chart"));
if (REPLAY) $("live-title").textContent = "Replayed now";
drawCalls();
connect();
