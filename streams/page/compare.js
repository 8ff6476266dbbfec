// Two versions of a call side by side: what another model, or another setting, made of the same words.

import { callPath, get } from "./api.js";
import { $, clock, element, signed, stateOf } from "./dom.js";
import t from "./en.js";

async function allOf(id, version) {
  const items = [];
  for (let next = ""; next !== null; ) {
    const page = await get(callPath(id, "/utterances"), { version, limit: 200, cursor: next });
    items.push(...page.items);
    next = page.next;
  }
  return items;
}

export function compare(call) {
  const versions = call.stored.versions ?? [];
  const own = call.stored.pipeline_version ?? versions[0];
  for (const [select, chosen] of [[$("compare-one"), own], [$("compare-other"), versions.find((name) => name !== own)]]) {
    select.replaceChildren(...versions.map((name) => new Option(name, name, false, name === chosen)));
    select.onchange = () => draw(call.info.call_id);
  }
  $("compare-dialog").showModal();
  draw(call.info.call_id);
}

async function draw(id) {
  const names = [$("compare-one").value, $("compare-other").value];
  $("compare").replaceChildren();
  $("compare-sum").textContent = "";
  stateOf($("compare-state"), "loading", t.compare.loading);
  let both;
  try {
    both = await Promise.all(names.map((name) => allOf(id, name)));
  } catch (error) {
    return stateOf($("compare-state"), "error", error.message, () => draw(id));
  }
  stateOf($("compare-state"), null);
  const rows = new Map();
  both.forEach((items, side) => {
    for (const one of items) {
      const key = `${one.channel}/${one.start_ms}`;
      rows.set(key, Object.assign(rows.get(key) ?? [null, null], { [side]: one }));
    }
  });
  const sorted = [...rows.values()].sort((a, b) => (a[0] ?? a[1]).start_ms - (b[0] ?? b[1]).start_ms);
  const head = element("tr");
  for (const name of [t.compare.time, ...names, t.compare.difference]) {
    const cell = element("th", "", name);
    cell.scope = "col";
    head.append(cell);
  }
  let [changed, flipped, words] = [0, 0, 0];
  const made = sorted.map(([one, other]) => {
    const row = element("tr");
    const difference = one?.score != null && other?.score != null ? other.score - one.score : null;
    const isOther = one?.text !== other?.text;
    const isFlipped = one?.sentiment !== other?.sentiment || one?.emotion !== other?.emotion;
    if (isOther) words++;
    if (isFlipped) flipped++;
    if (isOther || isFlipped || Math.abs(difference ?? 1) >= 0.005) {
      changed++;
      row.className = "changed";
    }
    row.append(element("td", "", clock((one ?? other).start_ms)), cellOf(one), cellOf(other), element("td", "", difference === null ? "–" : signed(difference)));
    return row;
  });
  $("compare").replaceChildren(head, ...made);
  $("compare-sum").textContent = t.compare.sum(sorted.length, changed, flipped, words);
}

function cellOf(one) {
  const cell = element("td");
  if (!one) {
    cell.append(element("span", "quiet", t.compare.absent));
    return cell;
  }
  cell.append(element("p", "", one.text || t.call.wordless("")));
  const feel = [one.score == null ? "" : signed(one.score), one.emotion ? (t.emotions[one.emotion] ?? one.emotion) : ""].filter(Boolean).join(" · ");
  cell.append(element("p", `quiet ${one.sentiment ?? ""}`, feel));
  return cell;
}

$("compare-close").onclick = () => $("compare-dialog").close();
