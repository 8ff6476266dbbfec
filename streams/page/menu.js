// What can be done with a stored call: take it away in a format, hear or score it anew, look at another version.

import { address, callPath, send } from "./api.js";
import { $, button, element, link, withChildren } from "./dom.js";
import t from "./en.js";
import { follow } from "./tasks.js";

const FORMATS = ["pdf", "json", "csv", "srt", "vtt", "pca"];
let drawn = null;

export function drawMenu(call, { reload, compare }) {
  const menu = $("call-actions");
  menu.hidden = !call.stored;
  if (!call.stored || drawn === call.stored) return;
  drawn = call.stored;
  const id = call.info.call_id;
  const versions = call.stored.versions ?? [];
  const version = call.stored.pipeline_version ?? "";
  const told = $("call-told");
  if (told.dataset.call !== id) told.replaceChildren();
  told.dataset.call = id;
  const formats = element("details", "menu");
  formats.append(element("summary", "", t.menu.export));
  const list = element("ul");
  for (const format of FORMATS) {
    const fields = { format, version: versions.length > 1 ? version : "" };
    const made = link("", t.menu.formats[format], address(callPath(id, "/export"), fields));
    made.download = `${id}.${format === "pca" ? "json" : format}`;
    // Later: of a link that is hidden at once nothing is fetched.
    made.onclick = () => setTimeout(() => (formats.open = false), 100);
    list.append(withChildren(element("li"), made));
  }
  formats.append(list);
  formats.onkeydown = ({ key: pressed }) => {
    if (pressed !== "Escape") return;
    formats.open = false;
    formats.firstChild.focus();
  };
  const again = ["transcribe", "analyze"].map((verb) =>
    button("", t.menu[verb], async ({ currentTarget: made }) => {
      made.disabled = true;
      try {
        const task = await send("POST", callPath(id, `/${verb}`));
        const done = ({ state, version }) => {
          if (state !== "completed") return;
          told.append(element("p", "quiet", t.menu.heardAnew(version)));
          reload(version);
        };
        told.replaceChildren(follow(task, { done }));
      } catch (error) {
        told.replaceChildren(element("p", "negative", error.message));
      } finally {
        made.disabled = false;
      }
    }),
  );
  again.forEach((made, at) => (made.title = t.menu[["transcribing", "analyzing"][at]]));
  menu.replaceChildren(formats, ...again);
  if (versions.length > 1) {
    const choice = element("select");
    choice.setAttribute("aria-label", t.menu.version);
    choice.append(...versions.map((name) => new Option(t.menu.versionOf(name), name, false, name === version)));
    choice.onchange = () => reload(choice.value);
    menu.append(choice, button("", t.menu.compare, compare));
  }
}

addEventListener("click", ({ target }) => {
  for (const open of document.querySelectorAll("details.menu[open]")) if (!open.contains(target)) open.open = false;
});
