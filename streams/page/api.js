// The HTTP API: requests, its one form of errors, the key of who uses the page.
//
// A changer must know: a key is sent in a header and kept for this tab alone; it never stands in an address, since those
// are logged. What the browser asks by itself (sound, downloads) goes by a session: a cookie that no script can read.

import { $ } from "./dom.js";
import t from "./en.js";

const ROOT = "api/v1";
const KEPT = "calltide-key";

export class Problem extends Error {
  constructor(status, error, message, details) {
    super(message);
    Object.assign(this, { status, error, details });
  }
}

export const key = () => sessionStorage.getItem(KEPT) ?? "";
export const address = (path, fields = {}) => {
  const query = new URLSearchParams(Object.entries(fields).filter(([, value]) => value !== "" && value != null));
  return `${ROOT}${path}${query.size ? `?${query}` : ""}`;
};
// A websocket takes no header: the key goes beside the name of a subprotocol. One with letters that may not stand there
// (none of `calltide key`, and no token) is known by its session.
export const protocols = () => (/^[\w!#$%&'*+.^`|~-]+$/.test(key()) ? ["bearer", key()] : []);
export const headers = () => (key() ? { Authorization: `Bearer ${key()}` } : {});

async function problemOf(response) {
  let told = {};
  try {
    told = await response.json();
  } catch {
    // A proxy's page, or nothing: the status says what there is to say.
  }
  return new Problem(response.status, told.error ?? "", told.message ?? t.problems.status(response.status), told.details ?? {});
}

// The answer to a request. Raises Problem, also when there is no server, and asks for a key when one is needed.
export async function request(path, { fields, ...options } = {}) {
  let response;
  try {
    response = await fetch(address(path, fields), { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", t.problems.unreachable, {});
  }
  if (response.ok) return response;
  if (response.status === 401 && (await askKey())) return request(path, { fields, ...options });
  throw await problemOf(response);
}

export const get = async (path, fields, signal) => (await request(path, { fields, signal })).json();
export const send = async (method, path, body, more = {}) => {
  const options = { method, headers: { ...more }, ...(body !== undefined && { body: JSON.stringify(body) }) };
  if (body !== undefined) options.headers["Content-Type"] = "application/json";
  const response = await request(path, options);
  return response.status === 204 ? null : response.json();
};
export const callPath = (id, rest = "") => `/calls/${encodeURIComponent(id)}${rest}`;

// Several requests may be refused at once: the person is asked once.
let asking = null;
export function askKey() {
  asking ??= new Promise((resolve) => {
    const dialog = $("key-dialog");
    $("key").value = "";
    dialog.onclose = () => {
      asking = null;
      const given = dialog.returnValue === "use" ? $("key").value.trim() : "";
      if (!given) return resolve(false);
      sessionStorage.setItem(KEPT, given);
      resolve(session().then(() => dispatchEvent(new Event("key"))));
    };
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asking;
}

// A new cookie for the key of this tab. That it is refused is told by the next request.
export async function session() {
  if (key()) await fetch(address("/session"), { method: "POST", headers: headers() }).catch(() => {});
}

// Gives the person a file to keep.
export function save(blob, name) {
  const made = document.createElement("a");
  made.href = URL.createObjectURL(blob);
  made.download = name;
  made.click();
  setTimeout(() => URL.revokeObjectURL(made.href), 60000);
}
