// Why an utterance was scored as it was (docs/explanations.md), in a dialog.

import { callPath, get } from "./api.js";
import { $, button, clock, element, percent, signed, stateOf, withChildren } from "./dom.js";
import t from "./en.js";

const MOSTLY = 3; // words that are named before all the others
let asked = null;

export async function explain(call, event) {
  const dialog = $("why-dialog");
  const { sentiment } = event;
  const label = sentiment && (t.feelings[sentiment.label] ?? sentiment.label);
  $("why-title").textContent = t.why.title(clock(event.start_ms), event.role === "unknown" ? event.speaker : t.why.party(t.roles[event.role]), label);
  $("why-text").textContent = event.text;
  $("why").replaceChildren();
  if (!dialog.open) dialog.showModal();
  asked?.abort();
  const own = (asked = new AbortController());
  stateOf($("why-state"), "loading", t.why.loading);
  try {
    const path = callPath(call.info.call_id, `/explanations/${event.channel}-${event.start_ms}`);
    const found = await get(path, { version: call.stored?.pipeline_version }, own.signal);
    stateOf($("why-state"), null);
    draw(found, event.sentiment);
  } catch (error) {
    if (error.name !== "AbortError") stateOf($("why-state"), "error", error.message, () => explain(call, event));
  }
}

function draw(found, sentiment) {
  const parts = [];
  const { words, voice, differences, missing, notes } = found;
  if (sentiment) {
    const voiced = sentiment.voice_score == null ? "" : signed(sentiment.voice_score);
    parts.push(element("p", "", t.why.whole(signed(sentiment.score), signed(sentiment.text_score), voiced)));
  }
  if (words) parts.push(...partOf(t.why.words(t.feelings[words.label] ?? words.label, signed(words.value)), words, t.why.wordsHint, ["positive", "negative"], { positive: 1, negative: -1 }[words.label]));
  if (voice) {
    parts.push(...partOf(t.why.voice(t.emotions[voice.label] ?? voice.label, percent(voice.value)), voice, t.why.voiceHint, ["more", "less"], 1));
    if (voice.unheard) parts.push(element("p", "quiet", t.why.unheard(voice.unheard)));
  }
  if (differences?.length) {
    const list = element("ul", "differences");
    for (const { name, unit, value, usual, deviations } of [...differences].sort((a, b) => Math.abs(b.deviations) - Math.abs(a.deviations)).slice(0, 6)) {
      list.append(element("li", "", t.why.difference(name, round(value), unit, round(usual), deviations)));
    }
    parts.push(element("h3", "", t.why.differences), list);
  }
  for (const [what, why] of Object.entries(missing ?? {})) parts.push(element("p", "quiet", t.why.missing(t.why.of[what] ?? what, why)));
  for (const note of notes ?? []) parts.push(element("p", "quiet", note));
  $("why").replaceChildren(...parts);
}

const round = (value) => Number(value.toPrecision(3));

// Each word with a bar to the left or the right: what it takes from, or adds to, the score. `side`: which of both made the
// label what it is.
function partOf(title, { parts, value, baseline, method }, hint, [more, less], side) {
  const most = Math.max(...parts.map(({ contribution }) => Math.abs(contribution)), 0.01);
  const table = element("table", "contributions");
  const head = element("tr");
  for (const name of [t.why.word, t.why.adds]) {
    const cell = element("th", "", name);
    cell.scope = "col";
    head.append(cell);
  }
  table.append(head);
  for (const { text, contribution } of parts) {
    const row = element("tr");
    const name = element("th", "", text);
    name.scope = "row";
    const track = element("span", "meter");
    const fill = element("span", `fill ${contribution < 0 ? less : more}`);
    const share = (50 * Math.abs(contribution)) / most;
    fill.style.left = `${contribution < 0 ? 50 - share : 50}%`;
    fill.style.width = `${share}%`;
    track.append(fill);
    row.append(name, withChildren(element("td"), track, element("span", "share", signed(contribution))));
    table.append(row);
  }
  const mostly = parts
    .filter(({ contribution }) => contribution * side > most / 4)
    .sort((one, other) => side * (other.contribution - one.contribution))
    .slice(0, MOSTLY);
  return [
    element("h3", "", title),
    ...(mostly.length ? [element("p", "mostly", t.why.mostly(mostly.map(({ text }) => text)))] : []),
    element("p", "quiet", `${hint} ${t.why.sum(signed(baseline), signed(value), method === "exact")}`),
    table,
  ];
}

$("why-close").onclick = () => $("why-dialog").close();
$("why-dialog").onclose = () => asked?.abort();
