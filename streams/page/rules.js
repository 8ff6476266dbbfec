// Rules: read, changed, tried on old calls, kept; and how the system is.
//
// A changer must know: a rule is tried by the stage itself, so what is found here is what it will find (docs/rules.md).

import { get, send } from "./api.js";
import { $, callAddress, capital, clock, element, link, stateOf, withChildren, write } from "./dom.js";
import t from "./en.js";

const STATUS_MS = 5000;
let kept = null; // the rules as the server has them
let file = null; // the file that is edited
let asking = null;

// ---------------------------------------------------------------- rules

async function load() {
  stateOf($("rules-state"), "loading", t.rules.loading);
  try {
    take(await get("/rules"));
    stateOf($("rules-state"), kept.files.length ? null : "empty", t.rules.none);
  } catch (error) {
    stateOf($("rules-state"), "error", error.message, load);
  }
  $("rules-body").hidden = !kept?.files.length;
}

function take(found) {
  kept = found;
  const choice = $("rules-file");
  choice.replaceChildren(...found.files.map(({ name }) => new Option(name, name, false, name === file?.name)));
  choice.parentElement.hidden = found.files.length < 2;
  pick(choice.value);
  const rows = found.rules.map((rule) => {
    const row = element("tr");
    const name = element("th", "", rule.name);
    name.scope = "row";
    const severity = rule.severity ? element("span", `badge ${rule.severity}`, t.severities[rule.severity]) : element("span", "quiet", t.rules.noAlert);
    row.append(name, withChildren(element("td"), severity), element("td", "", rule.category), element("td", "", rule.description));
    return row;
  });
  $("rules-rows").replaceChildren(...rows);
  write($("rules-version"), t.rules.version(found.rules.length, found.path, found.version));
  faults(found.faults);
}

function pick(name) {
  file = kept.files.find((one) => one.name === name) ?? null;
  $("rules-text").value = file?.text ?? "";
  changed();
}

function changed() {
  const isChanged = file !== null && $("rules-text").value !== file.text;
  $("rules-keep").disabled = !isChanged || !kept.editable;
  $("rules-undo").disabled = !isChanged;
  write($("rules-hint"), kept.editable ? "" : t.rules.readOnly);
  faults([]);
}

function faults(list, said = "") {
  $("rules-faults").replaceChildren(...list.map((fault) => element("li", "", fault.message ?? fault)));
  $("rules-text").setAttribute("aria-invalid", String(list.length > 0));
  write($("rules-said"), said);
}

const body = () => ({ file: file.name, text: $("rules-text").value });

async function attempt(act) {
  faults([], t.rules.working);
  try {
    await act();
  } catch (error) {
    faults(error.details?.faults ?? [error.message]);
  }
}

const check = () =>
  attempt(async () => {
    const { rules, version } = await send("POST", "/rules/check", body());
    faults([], t.rules.right(rules.length, version));
  });

const keep = () =>
  attempt(async () => {
    take(await send("PUT", "/rules", { ...body(), version: kept.version }));
    faults([], t.rules.kept);
  });

const trial = () =>
  attempt(async () => {
    const calls = $("rules-calls").value.split(",").map((name) => name.trim()).filter(Boolean);
    if (!calls.length) {
      $("rules-calls").focus();
      return faults([t.rules.whichCalls]);
    }
    const tried = await send("POST", "/rules/test", { ...body(), calls });
    const parts = tried.calls.map(({ call_id, source, found }) => {
      const list = element("ul", "alerts");
      for (const one of found) {
        const row = element("li", one.severity ?? "");
        row.append(
          element("span", "severity", one.severity ? t.severities[one.severity] : t.rules.category),
          link("quiet", clock(one.at_ms), `${callAddress(call_id)}?at=${one.at_ms}`),
          element("span", "moment", `${one.rule}: ${one.message ?? one.category}`),
        );
        for (const { start_ms, speaker, text } of one.evidence ?? []) row.append(element("span", "moment quiet", `${clock(start_ms)} ${speaker}: ${text}`));
        list.append(row);
      }
      return withChildren(element("section"), withChildren(element("h4"), link("", call_id, callAddress(call_id)), " ", element("span", "quiet", source)), found.length ? list : element("p", "quiet", t.rules.nothing));
    });
    $("rules-found").replaceChildren(...parts);
    faults([], t.rules.tried(tried.calls.reduce((sum, { found }) => sum + found.length, 0), tried.calls.length));
  });

async function lastCalls() {
  try {
    const { items } = await get("/calls", { limit: 50 });
    $("rules-known").replaceChildren(...items.map(({ call_id }) => new Option(call_id, call_id)));
    if (!$("rules-calls").value) $("rules-calls").value = items.slice(0, 3).map(({ call_id }) => call_id).join(", ");
  } catch {
    // Names of calls can still be written.
  }
}

// ---------------------------------------------------------------- status

async function status() {
  clearTimeout(asking);
  try {
    const found = await get("/status");
    stateOf($("status-state"), null);
    const away = found.kafka !== "ok" || found.clickhouse !== "ok";
    const behind = Math.max(0, ...found.stages.map(({ lag }) => lag ?? 0));
    const silent = found.stages.filter(({ lane, workers }) => lane === "live" && !workers).map(({ name }) => name);
    const judged = (text, isGood) => element("span", isGood ? "positive" : "negative", text);
    const facts = [
      [t.status.state, judged(away ? t.status.away : silent.length ? t.status.silent(silent.join(", ")) : t.status.ok, !away && !silent.length)],
      ["Kafka", judged(t.status.states[found.kafka], found.kafka === "ok")],
      ["ClickHouse", judged(t.status.states[found.clickhouse], found.clickhouse === "ok")],
      [t.status.behind, t.status.records(behind)],
      [t.status.pipeline, found.pipeline_version],
      ["Calltide", found.calltide],
      [t.status.you, t.status.who(found.you)],
    ];
    $("status-facts").replaceChildren(...facts.map(([name, value]) => withChildren(element("div"), element("dt", "", name), withChildren(element("dd"), value))));
    const models = new Map(found.models.map(({ stage, model }) => [stage, model]));
    $("status-rows").replaceChildren(
      ...found.stages.map(({ name, lane, workers, lag }) => {
        const title = element("th", "", capital(t.stages[name] ?? name));
        title.scope = "row";
        return withChildren(element("tr", workers ? "" : "off"), title, element("td", "", t.status.lanes[lane] ?? lane), element("td", "number", String(workers)), element("td", "number", lag == null ? "–" : String(lag)), element("td", "", models.get(name) || "–"));
      }),
    );
    $("status-versions").replaceChildren(
      ...found.versions.map(({ name, calls, promoted, live }) => element("li", "", [t.status.version(name, calls), promoted && t.status.promoted, live && t.status.live].filter(Boolean).join(", "))),
    );
    $("status-body").hidden = false;
  } catch (error) {
    $("status-body").hidden = true;
    stateOf($("status-state"), "error", error.message, status);
  }
  if (!$("page-rules").hidden) asking = setTimeout(status, STATUS_MS);
}

export function open() {
  load();
  lastCalls();
  status();
}

export function close() {
  clearTimeout(asking);
}

$("rules-text").oninput = changed;
$("rules-file").onchange = ({ target }) => pick(target.value);
$("rules-check").onclick = check;
$("rules-try").onclick = trial;
$("rules-keep").onclick = keep;
$("rules-undo").onclick = () => pick(file.name);
