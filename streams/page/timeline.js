// A call on one axis of time: its waveform with what happened in it, sentiment and emotion of the parties.
//
// A changer must know: three plots share one axis, so all have the same room at the left for their own; the plots are
// pictures to who cannot see them, and every moment on them is also a button or an utterance of the page.

import { callPath, get } from "./api.js";
import { $, clock, element } from "./dom.js";
import t from "./en.js";
import { inOrder, known, lengthOf, lowestOf, partyOf } from "./live.js";
import { currentMs } from "./player.js";
import { axisLook as axis, color, plotting } from "./plots.js";

const POINTS = 1200; // of the waveform: about one a pixel
const LEFT = 40;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600]; // seconds between the marks of the axis
const HEIGHTS = { wave: 60, sentiment: 88, emotion: 104 };
const FEELINGS = ["anger", "sadness", "fear", "surprise", "happiness"];
const DASHES = [[], [6, 4], [2, 3], [8, 3, 2, 3], []];

let uPlot = null;
let plots = [];
let drawn = ""; // what the plots were made for
let filled = ""; // what they show
let wave = { id: null, found: null };
let whose = null; // the party whose emotions are shown
let acts = {}; // what clicks do
let again = () => {}; // draws the same call anew

const LOOKS = { agent: "agent", customer: "customer", first: "accent", second: "neutral" };

function partiesOf(call, said) {
  const parties = new Map();
  for (const event of said) {
    const party = partyOf(call, event);
    if (!parties.has(party.name)) parties.set(party.name, { ...party, events: [], channels: new Set() });
    parties.get(party.name).events.push(event);
    parties.get(party.name).channels.add(event.channel);
  }
  return [...parties.values()];
}

export async function drawTimeline(call, { seek, showNear }) {
  acts = { seek: call.stored ? seek : showNear };
  again = () => drawTimeline(call, { seek, showNear });
  if (!$("timeline-details").open) return;
  try {
    uPlot = await plotting();
  } catch {
    $("timeline").replaceChildren(element("p", "empty", t.timeline.missing));
    return;
  }
  if (wave.id !== call.info.call_id) askWave(call);
  const said = inOrder(call);
  const parties = partiesOf(call, said);
  const heard = parties.filter(({ events }) => events.some(({ emotion }) => emotion));
  if (!heard.some(({ name }) => name === whose)) whose = (heard.find(({ look }) => look === "customer") ?? heard[0])?.name ?? null;
  const channels = Math.max(wave.found?.channels.length ?? 0, call.info.roles.length, 1);
  const made = JSON.stringify([call.info.call_id, parties.map(({ name, look }) => [name, look]), channels, whose, color("ink")]);
  if (made !== drawn) {
    drawn = made;
    filled = "";
    make(call, parties, heard, channels);
  }
  const length = lengthOf(call);
  const fill = [call.utterances.size, call.alerts.size, call.categories.size, call.merged.size, call.metrics?.at_ms, Boolean(wave.found), call.ended ? length : Math.round(length / 2000)].join();
  if (fill !== filled) {
    filled = fill;
    setData(call, parties, said, channels, Math.max(length, 1000) / 1000);
  }
  const ms = currentMs();
  const at = ms !== null && plots[0] ? plots[0].valToPos(ms / 1000, "x") : -1;
  $("playhead").hidden = at < 0;
  $("playhead").style.transform = `translateX(${LEFT + at}px)`;
}

async function askWave(call) {
  const asked = (wave = { id: call.stored ? call.info.call_id : null, found: null });
  if (!call.stored) return;
  try {
    const found = await get(callPath(call.info.call_id, "/waveform"), { points: POINTS });
    if (wave !== asked) return;
    wave.found = found;
    again();
  } catch {
    // Without it, who speaks when is drawn in its place.
  }
}

function make(call, parties, heard, channels) {
  for (const plot of plots) plot.destroy();
  plots = [];
  $("timeline").replaceChildren();
  const times = axis({ size: 22, space: 70, incrs: STEPS, values: (_, splits) => splits.map((at) => clock(at * 1000)) });
  const common = (height, label, more) => {
    const box = element("div", "plot");
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", label);
    $("timeline").append(box);
    const plot = new uPlot(
      {
        width: Math.max($("timeline").clientWidth, 200),
        height,
        padding: [6, 18, 6, 0],
        legend: { show: false },
        cursor: { sync: { key: "call" }, drag: { x: false, y: false }, y: false, points: { show: false } },
        ...more,
        scales: { x: { time: false }, y: { range: more.range } },
      },
      [[0]],
      box,
    );
    plot.over.onclick = () => acts.seek?.(Math.max(0, plot.posToVal(plot.cursor.left, "x") * 1000));
    plots.push(plot);
  };
  const paths = uPlot.paths.stepped({ align: 1 });
  const colorOf = (channel) => color(LOOKS[parties.find((party) => party.channels.has(channel))?.look ?? "first"]);
  common(HEIGHTS.wave, t.timeline.wave(clock(lengthOf(call)), call.alerts.size), {
    range: [-1, 1],
    axes: [{ ...times, show: false }, axis({ size: LEFT, values: () => [], grid: { show: false } })],
    series: [
      {},
      ...[0, 1].map((at) => {
        const tint = colorOf(channels > 1 ? at : 0);
        return { stroke: tint, fill: tint, fillTo: 0, width: 0.5, points: { show: false }, paths };
      }),
    ],
    hooks: { drawClear: [(u) => drawSilences(u, call)], draw: [(u) => drawMarks(u, call)] },
  });
  common(HEIGHTS.sentiment, t.timeline.sentiment, {
    range: [-1, 1],
    axes: [{ ...times, show: false }, axis({ size: LEFT, values: () => ["−1", "", "0", "", "+1"], splits: () => [-1, -0.5, 0, 0.5, 1] })],
    series: [
      {},
      ...parties.flatMap(({ look }) => [
        { stroke: color(LOOKS[look]), width: 2, spanGaps: true, dash: look === "agent" || look === "second" ? [6, 4] : [], points: { show: false } },
        { stroke: color(LOOKS[look]), width: 0, paths: () => null, points: { show: true, size: 6, fill: color(LOOKS[look]) } },
      ]),
    ],
    hooks: { draw: [(u) => drawDisagreements(u, call)] },
  });
  common(HEIGHTS.emotion, t.timeline.emotion(whose ?? ""), {
    range: [0, 1],
    axes: [times, axis({ size: LEFT, values: (_, splits) => splits.map((share) => `${Math.round(100 * share)}%`), splits: () => [0, 0.5, 1] })],
    series: [
      {},
      ...FEELINGS.map((name, at) => ({ label: name, stroke: color(`feel-${name}`), width: 1.75, dash: DASHES[at], spanGaps: true, points: { show: true, size: 4 } })),
    ],
  });
  const head = element("span", "playhead");
  head.id = "playhead";
  head.hidden = true;
  $("timeline").append(head);
  keys(parties, heard);
}

// What the lines are; and, where emotions of several were heard, whose are shown.
function keys(parties, heard) {
  const list = $("timeline-keys");
  list.replaceChildren(...parties.map(({ name, look }) => element("span", look, name)));
  list.append(...[...t.timeline.marks, t.timeline.dots, t.timeline.disagree].map((text) => element("span", "other", text)));
  if (!heard.length) return list.append(element("span", "other", t.timeline.noEmotion));
  const choice = element("select");
  choice.setAttribute("aria-label", t.timeline.whose);
  choice.append(...heard.map(({ name }) => new Option(t.timeline.emotionOf(name), name, name === whose, name === whose)));
  choice.onchange = () => {
    whose = choice.value;
    drawn = "";
    again();
  };
  list.append(choice, ...FEELINGS.map((name) => element("span", `feeling ${name}`, t.emotions[name])));
}

function setData(call, parties, said, channels, end) {
  if (!plots.length) return;
  const range = { min: 0, max: end };
  const put = (plot, data) => plot.batch(() => {
    plot.setData(data, false);
    plot.setScale("x", range);
  });
  put(plots[0], waveData(call, said, channels, end));
  const times = [...new Set(said.map(({ end_ms }) => end_ms))].sort((a, b) => a - b);
  const at = new Map(times.map((ms, place) => [ms, place]));
  const seconds = [...times.map((ms) => ms / 1000)];
  const column = () => new Array(times.length).fill(null);
  const sentiment = parties.flatMap(({ events }) => {
    const [line, dots] = [column(), column()];
    for (const event of events.filter((one) => one.sentiment)) {
      line[at.get(event.end_ms)] = event.running.party_score;
      dots[at.get(event.end_ms)] = event.sentiment.score;
    }
    return [line, dots];
  });
  put(plots[1], [seconds, ...sentiment]);
  const emotions = FEELINGS.map(() => column());
  for (const event of parties.find(({ name }) => name === whose)?.events ?? []) {
    if (event.emotion) FEELINGS.forEach((name, which) => (emotions[which][at.get(event.end_ms)] = event.emotion.probabilities[name] ?? 0));
  }
  put(plots[2], [seconds, ...emotions]);
}

// The first channel up, the second down; of one alone both sides are the same. Without a waveform: who speaks when.
function waveData(call, said, channels, end) {
  const found = wave.found;
  if (found) {
    const [up, down] = [found.channels[0], found.channels[1] ?? found.channels[0]];
    const most = Math.max(...up, ...down, 0.02);
    const step = found.duration_ms / 1000 / up.length;
    return [up.map((_, at) => at * step), up.map((peak) => peak / most), down.map((peak) => -peak / most)];
  }
  const count = 600;
  const spoken = [new Array(count).fill(0), new Array(count).fill(0)];
  for (const { channel, start_ms, end_ms } of said) {
    const side = channels > 1 ? Math.min(channel, 1) : 0;
    const [from, to] = [start_ms, end_ms].map((ms) => Math.min(count - 1, Math.floor((ms / 1000 / end) * count)));
    spoken[side].fill(0.5, from, to + 1);
  }
  const other = channels > 1 ? spoken[1] : spoken[0];
  return [Array.from({ length: count }, (_, at) => (at * end) / count), spoken[0], other.map((height) => -height)];
}

function drawSilences(plot, { metrics }) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.fillStyle = color("line");
  for (const { start_ms, end_ms } of metrics?.dead_air ?? []) {
    const [from, to] = [start_ms, end_ms].map((ms) => plot.valToPos(ms / 1000, "x", true));
    ctx.fillRect(from, bbox.top, Math.max(1, to - from), bbox.height);
  }
  ctx.restore();
}

function drawMarks(plot, call) {
  const { alerts, categories, metrics } = call;
  const { ctx, bbox } = plot;
  const mark = (ms, tint, width, dash, sign) => {
    const x = Math.round(plot.valToPos(ms / 1000, "x", true)) + 0.5;
    ctx.strokeStyle = ctx.fillStyle = tint;
    ctx.lineWidth = width * devicePixelRatio;
    ctx.setLineDash(dash.map((part) => part * devicePixelRatio));
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.fillText(sign, x + 3 * devicePixelRatio, bbox.top + 10 * devicePixelRatio);
  };
  ctx.save();
  for (const { start_ms } of metrics?.interruptions ?? []) mark(start_ms, color("quiet"), 1, [1, 3], "⤫");
  for (const { at_ms } of categories.values()) mark(at_ms, color("accent"), 1, [3, 3], "◆");
  const lowest = lowestOf(call);
  if (lowest) mark(lowest.start_ms, color("customer"), 1, [], "▼");
  for (const { at_ms, severity } of alerts.values()) mark(at_ms, color({ critical: "negative", warning: "warn", info: "accent" }[severity]), 2, [], "▲");
  ctx.restore();
}

// Where words and voice say different things: from what the words say to what the voice says.
function drawDisagreements(plot, call) {
  const { ctx } = plot;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = color("warn");
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.font = `bold ${12 * devicePixelRatio}px system-ui, sans-serif`;
  for (const event of call.utterances.values()) {
    const { sentiment, end_ms } = known(call, event);
    if (!sentiment?.disagree || sentiment.voice_score == null) continue;
    const x = plot.valToPos(end_ms / 1000, "x", true);
    const [words, voice] = [sentiment.text_score, sentiment.voice_score].map((score) => plot.valToPos(score, "y", true));
    ctx.beginPath();
    ctx.moveTo(x, words);
    ctx.lineTo(x, voice);
    ctx.stroke();
    ctx.beginPath();
    ctx.arc(x, voice, 3.5 * devicePixelRatio, 0, 2 * Math.PI);
    ctx.stroke();
    ctx.fillText("≠", x + 5 * devicePixelRatio, (words + voice) / 2 + 4 * devicePixelRatio);
  }
  ctx.restore();
}

new ResizeObserver(() => {
  const width = $("timeline").clientWidth;
  if (width > 0) for (const plot of plots) if (plot.width !== width) plot.setSize({ width, height: plot.height });
}).observe($("timeline"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  drawn = "";
  again();
});
