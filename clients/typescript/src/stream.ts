// `Stream`: messages of the gateway for ever, over lost connections and restarts, none missed and none twice.
//
// A changer must know: the cursor of the last message that was handed out decides where to go on, and nothing else; what
// was received and not handed out comes again.

import type { Message, Subscription } from "./messages.js";

export type * from "./messages.js";

/** A key or a token, or what gives one: it is asked before each connection. */
export type Key = string | (() => string | Promise<string>);

/** The connection was lost; the stream connects again by itself. Once for each time that it was lost. */
export interface Disconnected {
  type: "disconnected";
  code: number;
  reason: string;
}

/** The gateway will not serve this, however often it is asked. `error` is which sort: invalid, unauthorized,
 * token_expired, bad_key, forbidden. */
export class Refused extends Error {
  constructor(
    readonly code: number,
    readonly error: string,
    message: string,
  ) {
    super(message);
    this.name = "Refused";
  }
}

const PAUSE_MS = [250, 5000] as const; // first and longest pause before connecting again; each is twice the one before
const SILENCE_MS = 40000; // the gateway speaks every 15 s: after so long without a word the connection is dead
const NAME = /^[\w!#$%&'*+.^`|~-]+$/; // what a subprotocol may be: a key of `calltide key` and any token are so

interface Closed {
  closed: true;
  code: number;
  reason: string;
}

/** Messages of the gateway at `url` (ws://host:8765/v1/scores): `for await (const message of stream)`.
 *
 * `key` goes into the handshake or the first message, never into the address; the rest of `options` is which events (call,
 * queue, agent, tenant, kinds, severity), history: "live", replay, from: cursor. Iterating throws `Refused` for what the
 * gateway does not serve, and Error when the first connection fails. */
export class Stream implements AsyncIterable<Message | Disconnected> {
  /** Where the last message was; it can be kept, and given as `from` to another stream. */
  cursor: string | null = null;
  #url: string;
  #key: Key | undefined;
  #wanted: Subscription;
  #changes: Subscription[] = []; // of which the gateway has not told yet that they hold
  #socket: WebSocket | null = null;
  #isOver = false;
  #wake: () => void = () => {};

  constructor(url: string, options: Subscription & { key?: Key } = {}) {
    const { key, ...wanted } = options;
    this.#url = url;
    this.#key = key;
    this.#wanted = wanted;
  }

  /** Another subscription in place of the one there is, without connecting anew. The message `subscribed` says from where
   * on it holds. What a lost connection did not take is sent again by the next one. */
  subscribe(fields: Subscription): void {
    this.#changes.push(fields);
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(asSent(fields)));
  }

  /** End it: the iteration ends, too. */
  close(): void {
    this.#isOver = true;
    this.#socket?.close();
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Message | Disconnected, void> {
    let [pause, wasConnected, hadExpired] = [PAUSE_MS[0] as number, false, false];
    try {
      while (!this.#isOver) {
        let refused: { error: string; message: string } | null = null;
        let [code, reason] = [1006, "the connection broke"];
        for await (const got of this.#connection()) {
          if ("closed" in got) {
            [code, reason] = [got.code, got.reason || reason];
          } else if (got.type === "error") {
            refused = got;
          } else {
            if (got.type === "hello") {
              [pause, wasConnected, hadExpired] = [PAUSE_MS[0], true, false];
              this.#begin();
            } else if (got.type === "subscribed") {
              const { replay } = this.#wanted;
              this.#wanted = { ...this.#changes.shift(), ...(replay && { replay }) };
            }
            if ("cursor" in got && got.cursor) this.cursor = got.cursor;
            yield got;
          }
        }
        if (this.#isOver) return;
        if (code === 1008 || (code >= 4400 && code < 4500)) {
          const error = refused?.error ?? "";
          // A token may run out; one that is given anew is tried once.
          if (error !== "token_expired" || hadExpired || typeof this.#key !== "function") {
            throw new Refused(code, error, refused?.message ?? reason);
          }
          hadExpired = true;
        } else if (!wasConnected && code === 1006) {
          throw new Error(`no gateway at ${this.#url}`);
        }
        if (pause === PAUSE_MS[0]) yield { type: "disconnected", code, reason };
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, pause * (0.8 + 0.4 * Math.random()));
          this.#wake = () => (clearTimeout(timer), resolve());
        });
        pause = Math.min(2 * pause, PAUSE_MS[1]);
      }
    } finally {
      this.#socket?.close();
      this.#socket = null;
    }
  }

  // What one connection brings, until it is closed.
  async *#connection(): AsyncGenerator<Message | Closed, void> {
    const key = typeof this.#key === "function" ? await this.#key() : this.#key;
    const isName = key !== undefined && NAME.test(key);
    const socket = new WebSocket(this.#address(), key && isName ? ["bearer", key] : []);
    const waiting: (Message | Closed)[] = [];
    let timer: ReturnType<typeof setTimeout>;
    let arrived: () => void = () => {};
    const put = (one: Message | Closed) => {
      waiting.push(one);
      arrived();
    };
    const listen = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        put({ closed: true, code: 1006, reason: `nothing came for ${SILENCE_MS / 1000} s` });
        socket.close();
      }, SILENCE_MS);
    };
    listen();
    socket.onopen = () => key && !isName && socket.send(JSON.stringify({ key }));
    socket.onmessage = ({ data }) => {
      listen();
      put(JSON.parse(data as string) as Message);
    };
    socket.onclose = ({ code, reason }) => put({ closed: true, code, reason });
    // Node 20 tells of a connection that could not be made in this way alone.
    socket.onerror = () => put({ closed: true, code: 1006, reason: "" });
    this.#socket = socket;
    this.#wake = () => put({ closed: true, code: 1000, reason: "" });
    try {
      while (true) {
        const one = waiting.shift();
        if (one === undefined) {
          await new Promise<void>((resolve) => (arrived = resolve));
          continue;
        }
        yield one;
        if ("closed" in one) return;
      }
    } finally {
      clearTimeout(timer!);
      socket.onmessage = socket.onclose = socket.onerror = null;
      socket.close();
    }
  }

  #begin(): void {
    this.#changes = this.#changes.slice(-1);
    for (const fields of this.#changes) this.#socket?.send(JSON.stringify(asSent(fields)));
  }

  #address(): string {
    const { history, ...rest } = this.#wanted;
    const fields = this.cursor ? { ...rest, from: this.cursor } : this.#wanted;
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(asSent(fields))) {
      for (const one of Array.isArray(value) ? value : [value]) query.append(name, one);
    }
    return `${this.#url}?${query}`;
  }
}

// An empty subscription would be none: the gateway would wait for another.
function asSent(fields: Subscription): Record<string, string | string[]> {
  const kinds = ["score", "correction", "call_started", "call_ended"];
  return { kinds, ...(fields as Record<string, string | string[]>) };
}
