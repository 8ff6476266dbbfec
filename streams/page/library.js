// The library: calls that were heard, found by words and filters; recordings brought in; figures over all of them.
//
// A changer must know: recordings larger than WHOLE go in pieces by the tus protocol, so a broken connection costs one
// piece and not the file; smaller ones go in one request.

import { address, callPath, get, headers, Problem, request, send } from "./api.js";
import { $, button, callAddress, clock, element, feeling, link, percent, signed, stateOf, whenOf, withChildren, write } from "./dom.js";
import t from "./en.js";
import { configuration } from "./live.js";
import { axisLook, color, plotting } from "./plots.js";
import { follow } from "./tasks.js";

const PAGE = 50;
const WHOLE = 50 * 2 ** 20; // and no more than the server takes in one request
const PIECE = 8 * 2 ** 20;
const CARDS = 3; // forms whose mean score is among the figures
const AT_ONCE = 2; // files that are sent at one time
const TRIES = 5; // of a piece
const PASSING = [409, 423, 429]; // another place, still written to by the broken request, too many requests
const SUFFIXES = /\.(wav|mp3|flac|m4a|mp4|ogg|oga|opus|webm)$/i;

let asked = null; // the question that is being answered
let next = null; // cursor of what follows
let opened = false;

// ---------------------------------------------------------------- calls

const filters = () => {
  const value = (id) => $(id).value.trim();
  return {
    ...{ queue: value("library-queue"), agent: value("library-agent"), category: value("library-category") },
    from: value("library-from") && new Date(`${value("library-from")}T00:00`).toISOString(),
    to: value("library-to") && new Date(`${value("library-to")}T23:59:59.999`).toISOString(),
  };
};

async function find(more = false) {
  asked?.abort();
  const own = (asked = new AbortController());
  const words = $("library-words").value.trim();
  const rows = $("library-rows");
  if (!more) {
    next = null;
    stateOf($("library-state"), "loading", t.library.loading);
  }
  $("library-more").disabled = true;
  try {
    const fields = { ...filters(), limit: PAGE, cursor: more ? next : "" };
    const found = await get(words ? "/search" : "/calls", words ? { q: words, ...fields } : fields, own.signal);
    if (!more) rows.replaceChildren();
    rows.append(...found.items.map((item) => rowOf(item.utterance ? item.call : item, item.utterance)));
    next = found.next;
    const isFiltered = words || Object.values(filters()).some(Boolean);
    stateOf($("library-state"), rows.childElementCount ? null : "empty", isFiltered ? t.library.noneFound : t.library.none);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!more) rows.replaceChildren();
    stateOf($("library-state"), "error", error.message, () => find(more));
  }
  $("library-table").hidden = !rows.childElementCount;
  $("library-more").hidden = !next;
  $("library-more").disabled = false;
}

function rowOf(call, utterance) {
  const row = element("tr");
  const cell = (className, ...children) => withChildren(element("td", className), ...children);
  const name = element("th");
  name.scope = "row";
  const at = utterance ? `?at=${utterance.start_ms}` : "";
  name.append(link("title", call.call_id, callAddress(call.call_id) + at));
  if (utterance) {
    const said = utterance.speaker || utterance.role;
    name.append(link("found", t.library.said(clock(utterance.start_ms), said, utterance.text), callAddress(call.call_id) + at));
  }
  // Of what was found by words, that utterance's.
  const value = (utterance ?? call).score;
  const score = element("span", value == null ? "quiet" : feeling(value), value == null ? "–" : signed(value));
  const verbs = ["transcribe", "analyze"].map((verb) => {
    const made = button("", t.menu[verb], async () => {
      made.disabled = true;
      try {
        jobs(followedBy(await send("POST", callPath(call.call_id, `/${verb}`))), `${t.menu[verb]}: ${call.call_id}`);
      } catch (error) {
        jobs(element("p", "negative", error.message), `${t.menu[verb]}: ${call.call_id}`);
      }
      made.disabled = false;
    });
    made.setAttribute("aria-label", t.library.verbOf(t.menu[verb], call.call_id));
    return made;
  });
  row.append(
    name,
    cell("", call.started_at ? whenOf(call.started_at) : "–"),
    cell("", [call.queue, call.agent].filter(Boolean).join(" · ") || "–"),
    cell("number", call.state === "live" ? element("span", "badge info", t.library.live) : call.duration_ms == null ? "–" : clock(call.duration_ms)),
    cell("number", score),
    cell("number", call.alerts ? element("span", "badge warning", String(call.alerts)) : "–"),
    cell("tags", ...(call.categories ?? utterance.alerts.map(({ category }) => category)).map((category) => element("span", "tag", category))),
    cell("verbs", ...verbs),
  );
  return row;
}

// ---------------------------------------------------------------- recordings brought in

function jobs(content, title) {
  const item = element("li");
  const head = element("p", "job-title", title);
  item.append(head, content);
  $("uploads").prepend(item);
  $("uploads-section").hidden = false;
  return item;
}

const waiting = [];
let sending = 0;

function bring(files) {
  for (const file of files) {
    const state = element("p", "task-state");
    state.setAttribute("role", "status");
    const bar = element("progress");
    bar.max = 1;
    bar.value = 0;
    bar.setAttribute("aria-label", t.library.uploadOf(file.name));
    const stop = new AbortController();
    const cancel = button("", t.tasks.cancel, () => stop.abort());
    const box = withChildren(element("div", "task"), state, bar, cancel);
    const item = jobs(box, t.library.file(file.name, size(file.size)));
    const job = { file, state, bar, cancel, box, item, stop };
    if (!file.size) {
      fail(job, t.library.emptyFile);
    } else {
      write(state, SUFFIXES.test(file.name) ? t.library.waits : t.library.oddName);
      waiting.push(job);
    }
  }
  sendNext();
}

function fail({ state, bar, cancel, box }, why) {
  write(state, why);
  box.dataset.state = "failed";
  bar.hidden = cancel.hidden = true;
}

async function sendNext() {
  if (sending >= AT_ONCE || !waiting.length) return;
  const job = waiting.shift();
  sending++;
  sendNext();
  try {
    if (job.stop.signal.aborted) throw new DOMException("", "AbortError");
    const meta = { queue: $("upload-queue").value.trim(), agent: $("upload-agent").value.trim() };
    const progress = (sent, isBroken = false) => {
      const share = percent(sent / job.file.size);
      job.bar.value = sent / job.file.size;
      write(job.state, isBroken ? t.library.broken(share) : t.library.sent(share));
    };
    progress(0);
    const task = await (job.file.size > (await largest()) ? inPieces : whole)(job.file, meta, progress, job.stop.signal);
    job.box.replaceWith(followedBy(task));
  } catch (error) {
    fail(job, error.name === "AbortError" ? t.library.stopped : error.message);
    if (error.name !== "AbortError") {
      job.box.append(button("", t.again, () => {
        job.item.remove();
        bring([job.file]);
      }));
    }
  } finally {
    sending--;
    sendNext();
  }
}

const largest = async () => Math.min(WHOLE, (await configuration().catch(() => ({}))).largest ?? WHOLE);

// In one request. fetch does not tell how much was sent, XMLHttpRequest does.
function whole(file, meta, progress, signal) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    for (const [name, value] of Object.entries(meta)) if (value) form.append(name, value);
    form.append("file", file, file.name);
    const sent = new XMLHttpRequest();
    sent.open("POST", address("/calls"));
    for (const [name, value] of Object.entries(headers())) sent.setRequestHeader(name, value);
    sent.upload.onprogress = ({ loaded }) => progress(Math.min(loaded, file.size));
    sent.onload = () => {
      let told = {};
      try {
        told = JSON.parse(sent.responseText);
      } catch {
        // A proxy's page: the status says what there is to say.
      }
      if (sent.status < 300) resolve(told);
      else reject(new Problem(sent.status, told.error ?? "", told.message ?? t.problems.status(sent.status), told.details ?? {}));
    };
    sent.onerror = () => reject(new Problem(0, "unreachable", t.problems.unreachable, {}));
    sent.onabort = () => reject(new DOMException("", "AbortError"));
    signal.onabort = () => sent.abort();
    sent.send(form);
  });
}

// In pieces (tus 1.0.0). After a broken connection the server says how much it has.
async function inPieces(file, meta, progress, signal) {
  const tus = { "Tus-Resumable": "1.0.0" };
  const coded = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));
  const metadata = Object.entries({ filename: file.name, ...meta }).filter(([, value]) => value);
  const made = await request("/uploads", {
    method: "POST",
    headers: { ...tus, "Upload-Length": file.size, "Upload-Metadata": metadata.map(([name, value]) => `${name} ${coded(value)}`).join(",") },
    signal,
  });
  const place = new URL(made.headers.get("Location"), made.url).pathname.replace(/^.*\/api\/v1/, "");
  let [offset, tries, last] = [0, 0, made];
  signal.addEventListener("abort", () => request(place, { method: "DELETE", headers: tus }).catch(() => {}));
  const piece = Math.min(PIECE, await largest());
  while (offset < file.size) {
    try {
      last = await request(place, {
        method: "PATCH",
        headers: { ...tus, "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream" },
        body: file.slice(offset, offset + piece),
        signal,
      });
      offset = Number(last.headers.get("Upload-Offset"));
      tries = 0;
      progress(offset);
    } catch (error) {
      if (error.name === "AbortError" || (error.status >= 400 && error.status < 500 && !PASSING.includes(error.status)) || ++tries >= TRIES) throw error;
      progress(offset, true);
      await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** tries));
      const found = await request(place, { method: "HEAD", headers: tus, signal }).catch(() => null);
      if (!found) continue;
      offset = Number(found.headers.get("Upload-Offset"));
      last = found; // of one that is whole it names the task
    }
  }
  const task_id = last.headers.get("Calltide-Task") ?? place.split("/").pop();
  return { task_id, state: "pending", calls: [], progress: {}, chunks: [], error: null };
}

const size = (bytes) => (bytes < 2 ** 20 ? t.library.kilobytes(Math.ceil(bytes / 1024)) : t.library.megabytes((bytes / 2 ** 20).toFixed(1)));

// What is still being done, also for who comes back to the page.
const followed = new Set();

function followedBy(task) {
  followed.add(task.task_id);
  return follow(task, { done: ({ state }) => state === "completed" && opened && (find(), statistics()) });
}

async function goingOn() {
  for (const state of ["processing", "pending"]) {
    const { items } = await get("/tasks", { state }).catch(() => ({ items: [] }));
    for (const task of items) {
      if (!followed.has(task.task_id)) jobs(followedBy(task), task.file || task.calls.join(", "));
    }
  }
}

// ---------------------------------------------------------------- figures over all calls

let plot = null;

async function statistics() {
  const place = $("statistics");
  try {
    const found = await get("/statistics", filters());
    const { calls, utterances, duration_ms, score, emotion_ms } = found.all;
    stateOf($("statistics-state"), calls ? null : "empty", t.library.noFigures);
    place.hidden = !calls;
    if (!calls) return;
    const facts = [
      [t.library.calls, String(calls)],
      [t.library.utterances, String(utterances)],
      [t.library.talk, clock(duration_ms)],
      [t.library.mean, score == null ? "–" : signed(score)],
      ...found.forms.slice(0, CARDS).map((form) => [t.library.card(form.name), t.library.cardScore(Math.round(form.score))]),
    ];
    $("statistics-facts").replaceChildren(...facts.map(([name, value]) => withChildren(element("div"), element("dt", "", name), element("dd", "", value))));
    const heard = Object.values(emotion_ms).reduce((sum, ms) => sum + ms, 0);
    $("statistics-emotions").replaceChildren(...bars(Object.entries(emotion_ms).map(([name, ms]) => [t.emotions[name] ?? name, ms / heard, percent(ms / heard)])));
    const most = Math.max(1, ...found.categories.map((one) => one.calls));
    $("statistics-categories").replaceChildren(...bars(found.categories.slice(0, 6).map((one) => [one.name, one.calls / most, String(one.calls)])));
    $("statistics-who").replaceChildren(
      ...[...found.queues.map((one) => [one.name || t.library.noQueue, one]), ...found.agents.map((one) => [one.name || t.library.noAgent, one])]
        .slice(0, 12)
        .map(([name, one]) => withChildren(element("li"), element("span", "", name), element("span", "share", t.library.count(one.calls)), element("span", `share ${one.score == null ? "quiet" : feeling(one.score)}`, one.score == null ? "–" : signed(one.score)))),
    );
    await drawDays(found.times);
  } catch (error) {
    place.hidden = true;
    stateOf($("statistics-state"), "error", error.message, statistics);
  }
}

// Names with bars: the widest is all there is.
function bars(rows) {
  return rows.sort(([, one], [, other]) => other - one).map(([name, share, text]) => {
    const fill = element("span", "fill");
    fill.style.width = `${100 * share}%`;
    return withChildren(element("li"), element("span", "", name), withChildren(element("span", "track"), fill), element("span", "share", text));
  });
}

async function drawDays(days) {
  const uPlot = await plotting();
  plot?.destroy();
  const box = $("statistics-days");
  box.setAttribute("aria-label", t.library.days(days.length));
  plot = new uPlot(
    {
      width: Math.max(box.clientWidth, 200),
      height: 180,
      legend: { show: true, live: false },
      cursor: { drag: { x: false, y: false } },
      scales: { x: { time: true }, score: { range: [-1, 1] }, calls: { range: (_, __, most) => [0, Math.max(1, most)] } },
      axes: [axisLook({}), axisLook({ scale: "calls", size: 44 }), axisLook({ scale: "score", side: 1, size: 40, grid: { show: false } })],
      series: [
        {},
        { label: t.library.calls, scale: "calls", stroke: color("agent"), fill: color("agent-soft"), paths: uPlot.paths.bars({ size: [0.7, 40] }), points: { show: false } },
        { label: t.library.mean, scale: "score", stroke: color("customer"), width: 2, spanGaps: true, points: { show: true, size: 5 } },
      ],
    },
    [days.map(({ at }) => Date.parse(at) / 1000), days.map(({ calls }) => calls), days.map(({ score }) => score)],
    box,
  );
}

// ---------------------------------------------------------------- begin

export function open() {
  opened = true;
  find();
  goingOn();
  statistics();
}

export function close() {
  opened = false;
  asked?.abort();
}

let typing = null;
$("library-filters").oninput = ({ target }) => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    find();
    if (target.id !== "library-words") statistics();
  }, 250);
};
$("library-filters").onsubmit = (event) => event.preventDefault();
$("library-more").onclick = () => find(true);
$("library-clear").onclick = () => {
  $("library-filters").reset();
  find();
  statistics();
};
$("upload-files").onchange = ({ target }) => {
  bring([...target.files]);
  target.value = "";
};
const drop = $("drop");
drop.ondragover = (event) => {
  event.preventDefault();
  drop.classList.add("over");
};
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  bring([...event.dataTransfer.files]);
};
// A file that misses the place would be opened by the browser, and the page be gone.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
new ResizeObserver(() => {
  const width = $("statistics-days").clientWidth;
  if (plot && width > 0 && plot.width !== width) plot.setSize({ width, height: 180 });
}).observe($("statistics-days"));
