// The web app: which page is shown, and what all pages have (connection, notices, key).
//
// A changer must know: the address after # names the page: #/floor, #/call/NAME, #/library, #/microphone, #/rules. Nothing
// in it is secret and nothing in it is run. A page's module is fetched when the page is opened for the first time.

import { askKey, session } from "./api.js";
import { $, translate } from "./dom.js";
import t from "./en.js";
import { calls, connect, connection, isLive, look, notice, on, REPLAY } from "./live.js";

const PAGES = {
  floor: () => import("./floor.js"),
  call: () => import("./call.js"),
  library: () => import("./library.js"),
  microphone: () => import("./microphone.js"),
  rules: () => import("./rules.js"),
};
let current = null; // [name, module]

async function route() {
  // Addresses of before the app had pages: #call=NAME, and a replay, which is there to be watched.
  const old = /^#call=(.+)$/.exec(location.hash);
  const hash = old ? "#/call" : location.hash.startsWith("#/") ? location.hash : REPLAY ? "#/call" : "#/floor";
  const [path, query = ""] = hash.slice(2).split("?");
  const [wanted, ...rest] = path.split("/");
  const name = wanted in PAGES ? wanted : "floor";
  let module;
  try {
    module = await PAGES[name]();
  } catch {
    notice(t.connection.noPage);
    return;
  }
  if (current && current[0] !== name) current[1].close();
  for (const page of Object.keys(PAGES)) $(`page-${page}`).hidden = page !== name;
  for (const link of document.querySelectorAll(".pages a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const isOther = current && current[0] !== name;
  current = [name, module];
  const fields = new URLSearchParams(query);
  const at = fields.get("at");
  module.open(rest.length ? decodeURIComponent(rest.join("/")) : null, at === null ? null : Number(at), fields.get("version") ?? "");
  // Who hears the page is told where he is.
  if (isOther) $(`page-${name}`).focus({ preventScroll: true });
  titled();
}

function titled() {
  const live = [...calls.values()].filter(isLive).length;
  const title = live ? `(${live}) Calltide` : "Calltide";
  if (document.title !== title) document.title = title;
}

function connected() {
  $("connection").dataset.state = connection.state;
  if ($("connection-text").textContent !== connection.text) $("connection-text").textContent = connection.text;
  $("notice-text").textContent = connection.notice;
  $("notice").hidden = !connection.notice;
  delayed();
}

function delayed() {
  if ($("delay").textContent !== connection.delay) $("delay").textContent = connection.delay;
  $("delay").hidden = !connection.delay;
}

translate(document);
document.documentElement.lang = t.language;
on("connection", connected);
on("delay", delayed);
let counting = null;
on("changed", () => (counting ??= setTimeout(() => titled((counting = null)), 100)));
on("forgot", titled);
$("notice-close").onclick = () => notice("");
$("key-button").onclick = askKey;
$("key-use").onclick = () => $("key-dialog").close("use");
$("key-cancel").onclick = () => $("key-dialog").close("");
$("key").onkeydown = ({ key: pressed }) => pressed === "Enter" && $("key-dialog").close("use");
$("skip").onclick = (event) => {
  event.preventDefault();
  $(`page-${current[0]}`).focus();
};
addEventListener("hashchange", route);
setInterval(look, 1000);
connected();
session();
await route();
connect();
