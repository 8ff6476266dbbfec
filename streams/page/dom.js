// Small things all pages share: making elements, placing rows, and how numbers read.
//
// A changer must know: what callers said and what other systems sent enters the page through textContent and attributes
// only, never as HTML; nothing here parses markup.

import t from "./en.js";

export const $ = (id) => document.getElementById(id);

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function svg(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function button(className, text, onclick) {
  const made = element("button", className, text);
  made.type = "button";
  made.onclick = onclick;
  return made;
}

export function link(className, text, href) {
  const made = element("a", className, text);
  made.href = href;
  return made;
}

export function withChildren(parent, ...children) {
  parent.append(...children.filter((child) => child != null && child !== false));
  return parent;
}

// What is in the HTML as data-t="page.word" (text), data-label (name for screen readers), data-hint (placeholder).
export function translate(root) {
  const of = (path) => path.split(".").reduce((found, part) => found[part], t);
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = of(node.dataset.t);
  for (const node of root.querySelectorAll("[data-label]")) node.setAttribute("aria-label", of(node.dataset.label));
  for (const node of root.querySelectorAll("[data-hint]")) node.placeholder = of(node.dataset.hint);
}

export const clock = (ms) => {
  const seconds = Math.floor(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  const rest = String(seconds % 60).padStart(2, "0");
  return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
};
export const signed = (score) => (Number(score.toFixed(2)) < 0 ? "−" : "+") + Math.abs(score).toFixed(2);
export const percent = (share) => `${Math.round(share * 100)}\u00a0%`;
export const feeling = (score) => (score > 0.1 ? "positive" : score < -0.1 ? "negative" : "neutral");
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const whenOf = (iso) => new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
export const callAddress = (id) => `#/call/${encodeURIComponent(id)}`;

// A change of the text costs a layout even where the text stays the same.
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const move = Element.prototype.moveBefore ?? Element.prototype.insertBefore;

// Puts rows in the wanted order and takes away all others. Moves only what is elsewhere, and never with a loss of the focus.
export function place(list, wanted) {
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const stay = new Set(wanted);
  for (const child of [...list.children]) if (!stay.has(child)) child.remove();
  wanted.forEach((entry, at) => {
    const there = list.children[at] ?? null;
    if (there === entry) return;
    // One that goes down would else push all between its places up, one by one.
    if (there && list.children[at + 1] === entry) move.call(list, there, null);
    else if (entry.parentNode === list) move.call(list, entry, there);
    else list.insertBefore(entry, there);
  });
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

// The row of a list that is there already, or a new one: what stays the same is not read aloud again.
export function rowOf(list, key, make) {
  const there = [...list.children].find((row) => row.dataset.key === key);
  if (there) return there;
  const row = make();
  row.dataset.key = key;
  return row;
}

// Asks for one drawing in the next frame, however often it is called before.
export function inNextFrame(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}

// One of loading, empty, error or nothing, in a place of its own: `retry` gives the person something to do about an error.
export function stateOf(place, kind, text = "", retry = null) {
  place.hidden = !kind;
  place.dataset.state = kind ?? "";
  place.setAttribute("role", kind === "error" ? "alert" : "status");
  place.replaceChildren(element("p", "", text));
  if (retry) place.append(button("", t.again, retry));
}
