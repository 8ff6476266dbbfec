// The floor: all live calls, who needs help first.
//
// A changer must know: five hundred calls with two events a second each must stay above 30 frames a second
// (python -m benchmarks.floor). So only rows that have changed are written, once a frame, each row is a world of its own
// for layout (`contain` in style.css), and the order is looked at once a second.

import { $, callAddress, clock, element, feeling, inNextFrame, link, percent, place, signed, svg, write } from "./dom.js";
import t from "./en.js";
import { calls, connection, customerOf, factsOf, isLive, lengthOf, on, worstOf } from "./live.js";

const ORDER_MS = 1000;
const HELD_MS = 1500; // after the pointer was moved over the list, nothing jumps away under it
const RECENT_MS = 300000; // of the call: an alert older than that weighs half. Judgement.
const WEIGHTS = { critical: 4, warning: 2, info: 0.5 };
const SILENCE_MS = 5000; // the least that docs/metrics.md calls a silence
const TREND = { width: 72, height: 22 };

const rows = new Map(); // call → its row
const dirty = new Set();
let shown = false;
let pointed = 0;
const drawSoon = inNextFrame(draw);

// How much a call needs somebody: what rules have found, how the customer feels, whether it gets worse, and silence.
// Judgement: one critical alert outweighs the worst mood.
export function need(call) {
  let sum = 0;
  for (const { severity, at_ms } of call.alerts.values()) sum += WEIGHTS[severity] * (call.duration - at_ms > RECENT_MS ? 0.5 : 1);
  return Math.min(sum, 8) + Math.max(0, -(call.mood ?? 0)) * 3 + Math.max(0, -trendOf(call)) + Math.min(silenceOf(call) / 20000, 1);
}

// How the last three utterances of the customer differ from all before: negative when it gets worse.
export function trendOf({ moods }) {
  if (moods.length < 2) return 0;
  const last = moods.slice(-3);
  return last.reduce((sum, [, , own]) => sum + own, 0) / last.length - moods.at(-1)[1];
}

const silenceOf = ({ metrics, ended }) => (metrics && !ended && metrics.silence_now_ms >= SILENCE_MS ? metrics.silence_now_ms : 0);

function rowFor(call) {
  const row = element("div", "floor-row");
  row.setAttribute("role", "row");
  const cells = {};
  for (const name of ["name", "mood", "trend", "outlook", "silence", "raised", "time", "last"]) {
    cells[name] = element("div", `cell ${name}`);
    cells[name].setAttribute("role", "cell");
    row.append(cells[name]);
  }
  const title = link("title", call.info.call_id, callAddress(call.info.call_id));
  cells.name.append(title, element("span", "quiet", factsOf(call.info) || call.info.source || ""));
  cells.mood.append(element("span", "value"), element("span", "meter"));
  cells.mood.lastChild.append(element("span", "fill"));
  const line = svg("svg", { viewBox: `0 0 ${TREND.width} ${TREND.height}`, "aria-hidden": "true" });
  line.append(svg("line", { x1: 0, x2: TREND.width, y1: TREND.height / 2, y2: TREND.height / 2 }), svg("path", { d: "" }));
  cells.trend.append(line, element("span", "arrow"));
  cells.outlook.append(element("span", "label", t.call.outlook), element("span", "value"));
  const made = { row, cells, path: line.lastChild, title, shown: {} };
  rows.set(call, made);
  return made;
}

function fill(call) {
  const { row, cells, path, shown: was } = rows.get(call) ?? rowFor(call);
  const customer = customerOf(call);
  const mood = customer?.running.party_score;
  call.mood = mood;
  const [value, meter] = cells.mood.children;
  write(value, mood === undefined ? "–" : signed(mood));
  const look = mood === undefined ? "neutral" : feeling(mood);
  if (was.look !== look) value.className = `value ${(was.look = look)}`;
  const share = Math.round(50 * Math.abs(mood ?? 0));
  const bar = `${mood < 0 ? 50 - share : 50}/${share}`;
  if (was.bar !== bar) {
    was.bar = bar;
    meter.firstChild.className = `fill ${look}`;
    meter.firstChild.style.left = `${mood < 0 ? 50 - share : 50}%`;
    meter.firstChild.style.width = `${share}%`;
  }
  if (was.moods !== call.moods.at(-1)) {
    was.moods = call.moods.at(-1);
    const step = TREND.width / Math.max(1, call.moods.length - 1);
    const points = call.moods.map(([, score], at) => `${(at * step).toFixed(1)} ${((TREND.height / 2) * (1 - score)).toFixed(1)}`);
    path.setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
    const trend = trendOf(call);
    const arrow = Math.abs(trend) < 0.1 ? "steady" : trend < 0 ? "worse" : "better";
    if (was.arrow !== arrow) {
      was.arrow = arrow;
      cells.trend.lastChild.className = `arrow ${arrow}`;
      write(cells.trend.lastChild, t.floor.trends[arrow]);
    }
  }
  const outlook = call.metrics?.outlook;
  if (was.outlook !== outlook) {
    was.outlook = outlook;
    cells.outlook.title = outlook ? t.call.outlookOf(outlook.model) : "";
    cells.outlook.lastChild.className = `value ${outlook?.negative >= 0.5 ? "negative" : "quiet"}`;
    write(cells.outlook.lastChild, outlook ? percent(outlook.negative) : "–");
    if (outlook) $("floor-table").classList.add("foretold");
  }
  const now = silenceOf(call);
  const longest = Math.max(call.metrics?.longest_silence_ms ?? 0, now);
  write(cells.silence, now ? t.floor.silent(clock(now)) : longest ? clock(longest) : "–");
  if (was.now !== now > 0) cells.silence.classList.toggle("now", (was.now = now > 0));
  const alerts = `${call.alerts.size}/${worstOf(call) ?? ""}`;
  if (was.alerts !== alerts) {
    was.alerts = alerts;
    const worst = worstOf(call);
    row.dataset.alert = worst ?? "";
    cells.raised.replaceChildren(
      ...(worst ? [element("span", `badge ${worst}`, t.floor.alerts(call.alerts.size, t.severities[worst]))] : [element("span", "quiet", "–")]),
    );
    cells.raised.title = [...call.alerts.values()].map(({ message }) => message).join("\n");
  }
  write(cells.time, clock(lengthOf(call)));
  write(cells.last, call.last?.text ?? "");
}

const wantedCalls = () => {
  const [queue, agent, words] = [$("floor-queue").value, $("floor-agent").value, $("floor-words").value.trim().toLowerCase()];
  return [...calls.values()].filter(
    (call) =>
      isLive(call) &&
      (!queue || call.info.queue === queue) &&
      (!agent || call.info.agent === agent) &&
      (!words || `${call.info.call_id} ${call.info.queue} ${call.info.agent} ${call.last?.text ?? ""}`.toLowerCase().includes(words)),
  );
};

function draw() {
  if (!shown) return;
  for (const call of dirty) if (isLive(call) && calls.has(call.info.call_id)) fill(call);
  dirty.clear();
}

// Who is there, and in which order.
function order() {
  if (!shown) return;
  const live = [...calls.values()].filter(isLive);
  const wanted = wantedCalls();
  for (const call of wanted) if (!rows.has(call)) fill(call);
  const held = Date.now() - pointed < HELD_MS;
  const needs = new Map(wanted.map((call) => [call, need(call)]));
  const place_of = new Map([...$("floor").children].map((row, at) => [row, at]));
  const at = (call) => place_of.get(rows.get(call).row) ?? Infinity;
  // While a pointer is over the list new calls come at its end.
  const sorted = held
    ? wanted.sort((a, b) => at(a) - at(b) || 0)
    : wanted.sort((a, b) => needs.get(b) - needs.get(a) || a.info.call_id.localeCompare(b.info.call_id));
  place($("floor"), sorted.map((call) => rows.get(call).row));
  for (const call of rows.keys()) if (!isLive(call) || calls.get(call.info.call_id) !== call) rows.delete(call);
  write($("floor-count"), wanted.length === live.length ? t.floor.count(live.length) : t.floor.countOf(wanted.length, live.length));
  const none = $("floor-none");
  none.hidden = wanted.length > 0;
  $("floor-table").hidden = !none.hidden;
  const waiting = connection.state === "connecting" || (connection.state === "lost" && !live.length);
  write(none.firstElementChild, live.length ? t.floor.noneOfFilter : waiting ? connection.text : t.floor.none);
  none.querySelector(".how").hidden = live.length > 0 || waiting;
  choices($("floor-queue"), live.map(({ info }) => info.queue), t.floor.allQueues);
  choices($("floor-agent"), live.map(({ info }) => info.agent), t.floor.allAgents);
}

// The values of a filter, with what is chosen among them even where no call has it now.
function choices(select, values, all) {
  const wanted = [...new Set([...values, select.value])].filter(Boolean).sort();
  if (wanted.join("\n") === select.dataset.values) return;
  select.dataset.values = wanted.join("\n");
  const chosen = select.value;
  select.replaceChildren(new Option(all, ""), ...wanted.map((value) => new Option(value, value)));
  select.value = chosen;
}

function tick() {
  if (!shown) return;
  for (const [call, { cells }] of rows) write(cells.time, clock(lengthOf(call)));
  order();
}

export function open() {
  shown = true;
  for (const call of calls.values()) dirty.add(call);
  draw();
  order();
}

export function close() {
  shown = false;
}

on("changed", (call) => {
  const isNew = !rows.has(call);
  dirty.add(call);
  if (!shown) return;
  drawSoon();
  if (isNew || !isLive(call)) orderSoon();
});
on("forgot", () => {
  for (const call of dirty) if (calls.get(call.info.call_id) !== call) dirty.delete(call);
  if (shown) orderSoon();
});
on("connection", () => shown && orderSoon());
const orderSoon = inNextFrame(order);
for (const id of ["floor-queue", "floor-agent", "floor-words"]) $(id).oninput = order;
$("floor").onpointermove = () => (pointed = Date.now());
$("floor").onpointerleave = () => (pointed = 0);
$("floor").onclick = ({ target }) => target.closest("a") ?? target.closest(".floor-row")?.querySelector("a").click();
$("floor").onkeydown = (event) => {
  const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  if (!step) return;
  event.target.closest(".floor-row")?.[step]?.querySelector("a").focus();
  event.preventDefault();
};
setInterval(tick, ORDER_MS);
