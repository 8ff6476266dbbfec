// The sound of a stored call.
//
// A changer must know: who hears a call is written down by the server, so nothing of it is fetched before somebody
// asks to hear it.

import { address, callPath } from "./api.js";
import { $ } from "./dom.js";
import t from "./en.js";

const audio = $("audio");
let opened = null; // the call that can be heard
let told = () => {};

export function openSound(call, onTime = () => {}) {
  told = onTime;
  const id = call?.info.call_id ?? null;
  audio.hidden = !call;
  if (id === opened) return;
  audio.pause();
  opened = id;
  $("sound-state").textContent = "";
  if (id) audio.src = address(callPath(id, "/audio"));
  else audio.removeAttribute("src");
}

export async function playFrom(ms) {
  if (!opened) return;
  audio.currentTime = ms / 1000;
  // Refused where there is no sound to play: the error event tells that.
  await audio.play().catch(() => {});
}

// Where in the call the sound is; null: nothing was played.
export const currentMs = () => (opened && audio.currentTime > 0 ? audio.currentTime * 1000 : null);

audio.addEventListener("timeupdate", () => told());
audio.addEventListener("seeked", () => told());
audio.addEventListener("error", () => ($("sound-state").textContent = opened ? t.call.noSound : ""));
