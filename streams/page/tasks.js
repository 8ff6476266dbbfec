// A task of the server's, from when it waits to its end: a bar for each stage, chunks of a long file, its calls.

import { get, send } from "./api.js";
import { button, callAddress, capital, clock, element, link, percent, withChildren, write } from "./dom.js";
import t from "./en.js";

const ASK_MS = 700;
const LONGEST_MS = 5000; // between two questions when the server does not answer

// What was heard anew is a version of its own.
const addressOf = (id, { kind, version }) => callAddress(id) + (kind === "upload" || !version ? "" : `?version=${encodeURIComponent(version)}`);

// An element that follows the task until it ends; `done` is told its last state.
export function follow(task, { done = () => {} } = {}) {
  const box = element("div", "task");
  const said = element("p", "task-state");
  said.setAttribute("role", "status");
  const bars = element("div", "bars");
  const chunks = element("p", "chunks quiet");
  const links = element("p", "task-calls");
  const cancel = button("", t.tasks.cancel, async () => {
    cancel.disabled = true;
    await send("DELETE", `/tasks/${encodeURIComponent(task.task_id)}`).catch((error) => write(said, error.message));
  });
  box.append(said, bars, chunks, links, cancel);
  let pause = ASK_MS;

  const draw = (now) => {
    box.dataset.state = now.state;
    const state = t.tasks.states[now.state] ?? now.state;
    // Only the answer that made the task says that it was there.
    const before = task.duplicate && (task.kind === "upload" ? t.tasks.duplicate(state) : t.tasks.asked(state));
    write(said, now.error ? t.tasks.failed(now.error) : before || state);
    for (const [stage, share] of Object.entries(now.progress)) {
      let bar = [...bars.children].find(({ dataset }) => dataset.stage === stage);
      if (!bar) {
        bar = element("label", "bar-of");
        bar.dataset.stage = stage;
        const meter = element("progress");
        meter.max = 1;
        bar.append(element("span", "", capital(t.stages[stage] ?? stage)), meter, element("span", "share"));
        bars.append(bar);
      }
      bar.children[1].value = share;
      write(bar.children[2], percent(share));
    }
    const cut = now.chunks;
    const over = cut.filter(({ state }) => state === "completed").length;
    const running = cut.find(({ state }) => state === "processing");
    write(chunks, cut.length > 1 ? t.tasks.chunks(over, cut.length, running ? clock(running.start_ms) : "") : "");
    if (links.childElementCount !== now.calls.length) links.replaceChildren(...now.calls.map((id) => link("", "", addressOf(id, now))));
    const isOver = ["completed", "failed", "cancelled"].includes(now.state);
    [...links.children].forEach((made, at) => write(made, now.kind === "upload" && !isOver ? t.tasks.watch(now.calls[at]) : t.tasks.open(now.calls[at])));
    cancel.hidden = isOver;
  };

  const ask = async () => {
    try {
      const now = await get(`/tasks/${encodeURIComponent(task.task_id)}`);
      pause = ASK_MS;
      draw(now);
      if (cancel.hidden) return done(now);
    } catch (error) {
      write(said, error.message);
      if (error.status === 404) {
        cancel.hidden = true;
        return;
      }
      pause = Math.min(2 * pause, LONGEST_MS);
    }
    setTimeout(ask, pause);
  };
  draw(task);
  setTimeout(ask, ASK_MS / 2);
  return box;
}
