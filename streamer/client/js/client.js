// Follow nodes and jobs through any gateway, across lost connections: history, then live, each update once and in order.
//
// Theory of operation: each topic that is followed has a state, what the gateway has it in, and a wish, whether it should
// be subscribed to. Whatever happens, `Topic.step` sends what leads from the one to the other. A follow keeps the cursor
// that came last, and comes back with it: after a lost connection, and after it had more in memory than its consumer took.

const SUBPROTOCOL = "streamer.v1.json";

// Close codes (RFC 6455, section 7.4.1, and the gateway's own) after which another try would end the same way.
const FINAL = new Set([1002, 1003, 1007, 1008, 1009, 1010]);
const TOKEN_EXPIRED = 4004;
// Answers to a handshake that will be the same next time.
const REFUSALS = new Set([400, 401, 403, 404]);

// What a follow holds at the most before it leaves the topic until its consumer has taken half of it.
const MOST_WAITING_CHARACTERS = 4_000_000;

// A connection that says nothing for so long is asked, and given up if it stays silent as long again.
const SILENCE_MS = 20_000;
const CONNECT_MS = 10_000;

/** Something cannot be had; `message` is the reason, `code` the gateway's, if it gave one. */
export class StreamError extends Error {
  constructor(message, code) {
    super(message);
    this.name = new.target.name;
    this.code = code;
  }
}

/** Updates that were due are no longer kept: those among the indexes `from` to `to`. `cursor` is behind them. */
export class GapError extends StreamError {
  constructor({ from, to, cursor }) {
    super(`updates ${from} to ${to} are no longer kept; go on with { after: cursor }`, "gap");
    Object.assign(this, { from, to, cursor });
  }
}

/** The log was started anew, and what was seen is of the old one. `cursor` is before the first of the new one. */
export class ResetError extends StreamError {
  constructor({ cursor }) {
    super("the log was started anew; go on with { after: cursor }", "reset");
    this.cursor = cursor;
  }
}

/**
 * A client of one gateway, or of several that serve the same Redis.
 *
 * @param {string | URL | (string | URL)[]} url where they are, as ws://, wss://, http:// or https://; each try takes the next
 * @param {object} [options] see client.d.ts
 */
export function connect(url, options) {
  return new Client(url, options);
}

export class Client {
  #urls;
  #options;
  #topics = new Map();
  #socket = null;
  #open = false;
  #tries = 0;
  #timer = null;
  #connecting = false; // a token is fetched, before there is a socket
  #closed = false;
  #lastHeard = 0;
  #wake = () => this.#retryNow();

  constructor(url, options = {}) {
    const sockets = options.WebSocket ?? globalThis.WebSocket;
    if (!sockets) throw new TypeError("there is no WebSocket here: pass one, as { WebSocket } from the package ws");
    this.#urls = [url].flat().map(endpointOf);
    if (this.#urls.length === 0) throw new TypeError("give the URL of at least one gateway");
    this.#options = { ...options, WebSocket: sockets };
    globalThis.addEventListener?.("online", this.#wake);
  }

  /**
   * Follow a node, or a job of it. The connection is made with the first follow.
   *
   * @returns {Follow} for `for await`; leaving the loop ends it
   */
  follow(options) {
    const { node, job } = options ?? {};
    for (const [name, value] of Object.entries({ node, job })) {
      if (value !== undefined && typeof value !== "string") throw new TypeError(`${name} must be a string`);
    }
    if (node === undefined && job === undefined) throw new TypeError("give a node, a job or both to follow");
    if (options.after !== undefined && options.history !== undefined) {
      throw new TypeError("give either after or history: a cursor says already what comes first");
    }
    if (this.#closed) throw new StreamError("the client is closed");
    const key = keyOf(options);
    const topic = this.#topics.get(key) ?? new Topic(key, { node, job }, (message) => this.#send(message));
    if (topic.follow) throw new StreamError("this client follows that already: use the one, or another client");
    topic.follow = new Follow(options, () => this.#step(topic));
    this.#topics.set(key, topic);
    if (this.#socket) this.#step(topic);
    else if (!this.#timer && !this.#connecting) this.#connect();
    return topic.follow;
  }

  /** End all follows, and the connection. */
  close() {
    if (this.#closed) return;
    this.#closed = true;
    globalThis.removeEventListener?.("online", this.#wake);
    this.#endAll(null);
    this.#drop(this.#socket);
  }

  #say(status, reason) {
    this.#options.onstatus?.({ status, reason });
  }

  #send(message) {
    if (!this.#open) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  #step(topic) {
    topic.step();
    if (topic.idle) this.#topics.delete(topic.key);
  }

  #endAll(error) {
    for (const topic of this.#topics.values()) topic.follow?.finish(error);
    this.#topics.clear();
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  async #connect() {
    const url = this.#urls[this.#tries++ % this.#urls.length];
    const given = this.#options.token;
    this.#connecting = true;
    this.#say("connecting", url);
    let token;
    try {
      token = typeof given === "function" ? await given() : given;
    } catch (error) {
      this.#connecting = false;
      this.#later(`the token cannot be had: ${error?.message ?? error}`);
      return;
    }
    this.#connecting = false;
    if (this.#topics.size === 0) return;
    const protocols = token ? [SUBPROTOCOL, `bearer.${token}`] : [SUBPROTOCOL];
    let socket;
    try {
      socket = new this.#options.WebSocket(url, protocols);
    } catch (error) {
      this.#endAll(new StreamError(`${url} cannot be connected to: ${error.message}`));
      return;
    }
    this.#socket = socket;
    const mine = (act) => (event) => socket === this.#socket && act(event);
    const patience = setTimeout(mine(() => this.#lost("the gateway did not answer", url, token)), CONNECT_MS);
    socket.onopen = mine(() => {
      clearTimeout(patience);
      this.#opened(url);
    });
    socket.onmessage = mine(({ data }) => this.#take(data));
    socket.onclose = mine(({ code, reason }) => {
      clearTimeout(patience);
      this.#ended(code, reason, url, token);
    });
    socket.onerror = () => {}; // what matters comes with the close
  }

  #opened(url) {
    this.#open = true;
    this.#lastHeard = Date.now();
    this.#say("open", url);
    this.#watchSilence(this.#socket);
    for (const topic of this.#topics.values()) this.#step(topic);
  }

  /** A connection whose other end has gone says nothing, and nobody else would notice. */
  #watchSilence(socket) {
    let asked = false;
    const timer = setInterval(() => {
      if (socket !== this.#socket) {
        clearInterval(timer);
      } else if (Date.now() - this.#lastHeard < SILENCE_MS) {
        asked = false;
      } else if (!asked) {
        asked = this.#send({ op: "ping" });
      } else {
        clearInterval(timer);
        this.#lost("the gateway says nothing any more");
      }
    }, SILENCE_MS);
    timer.unref?.();
  }

  #take(data) {
    this.#lastHeard = Date.now();
    this.#tries = 0;
    const message = (this.#options.parse ?? JSON.parse)(data);
    const topic = message.id === undefined ? this.#topics.get(keyOf(message)) : this.#asked(message.id);
    if (topic) {
      topic.take(message, data.length);
      this.#step(topic);
    }
  }

  /** The topic that a request was about: an answer to one that the gateway could not read does not name it. */
  #asked(id) {
    for (const topic of this.#topics.values()) if (topic.id === id) return topic;
    return undefined;
  }

  #ended(code, reason, url, token) {
    const wasOpen = this.#open;
    if (FINAL.has(code) || (code === TOKEN_EXPIRED && typeof this.#options.token !== "function")) {
      this.#drop(this.#socket);
      this.#endAll(new StreamError(reason || `the gateway closed the connection with ${code}`, code));
    } else if (wasOpen) {
      this.#lost(reason || "the connection was lost");
    } else {
      this.#lost("the connection was refused", url, token);
    }
  }

  /** Try again, unless a gateway that refused the handshake gives a reason that will not change. */
  async #lost(reason, url, token) {
    this.#drop(this.#socket);
    const refusal = url && (await refusalOf(url, token));
    if (this.#socket || this.#timer || this.#connecting) return;
    if (refusal && !(refusal.code === 401 && typeof this.#options.token === "function" && this.#tries < 2)) {
      this.#endAll(refusal);
    } else {
      this.#later(refusal?.message ?? reason);
    }
  }

  #later(reason) {
    if (this.#topics.size === 0) return;
    const wait = waitAfter(this.#tries);
    this.#say("waiting", reason);
    this.#timer = setTimeout(() => this.#retryNow(), wait);
  }

  #retryNow() {
    if (this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#connect();
  }

  #drop(socket) {
    this.#socket = null;
    this.#open = false;
    for (const topic of this.#topics.values()) topic.lost();
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }
}

/** A topic on the connection: the state that the gateway has it in, and who follows it. */
class Topic {
  #state = "none"; // or subscribing, subscribed, unsubscribing
  #served = null; // the follow that it was subscribed for
  #refusals = 0;
  #waiting = null;

  static #count = 0;

  constructor(key, name, send) {
    const id = ++Topic.#count;
    Object.assign(this, { key, id, name, send: (op, fields) => send({ op, id, ...name, ...fields }), follow: null });
  }

  /** Whether nobody needs it any more. */
  get idle() {
    return !this.follow && this.#state === "none";
  }

  /** Send what leads to what is wished for, if it is this topic's turn to say something. */
  step() {
    if (this.follow?.done) this.follow = null;
    const wanted = this.follow && !this.follow.full && !this.#waiting;
    if (this.#state === "none" && wanted) {
      if (this.send("subscribe", this.follow.position)) {
        this.#state = "subscribing";
        this.#served = this.follow;
      }
    } else if (this.#state === "subscribed" && (!wanted || this.#served !== this.follow)) {
      if (this.send("unsubscribe")) this.#state = "unsubscribing";
    }
  }

  take(message, size) {
    const { op, re } = message;
    if (op === "error") this.#refused(message, re);
    else if (op === "subscribed") this.#state = "subscribed";
    else if (op === "unsubscribed") this.#state = "none";
    if (op !== "error" && this.#served === this.follow) {
      if (op === "updates") this.#refusals = 0;
      this.follow?.take(message, size);
    }
  }

  lost() {
    this.#state = "none";
    this.#served = null;
  }

  #refused({ message, code, temporary }, re) {
    if (re === "unsubscribe") {
      this.#state = "none"; // it had ended already
      return;
    }
    const mine = this.#served === this.follow;
    this.lost();
    if (!mine) return;
    if (re === "subscribe" && !temporary) {
      this.follow?.finish(new StreamError(message, code));
      return;
    }
    this.#waiting = setTimeout(() => {
      this.#waiting = null;
      this.step();
    }, waitAfter(++this.#refusals));
  }
}

/** The updates of a topic: an async iterator, for one loop. `cursor` is behind what the loop was given last. */
export class Follow {
  #after;
  #history;
  #events;
  #changed;
  #items = [];
  #size = 0;
  #takers = [];
  #error = null;

  constructor({ after, history, events = false }, changed) {
    this.cursor = this.#after = after === undefined ? undefined : String(after);
    this.#history = history;
    this.#events = events;
    this.#changed = changed;
    this.done = false;
    /** Whether it has more than it may hold: the topic is left until that was taken. */
    this.full = false;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    if (this.#items.length === 0 && !this.done) await new Promise((resolve) => this.#takers.push(resolve));
    const item = this.#items.shift();
    if (!item) {
      const error = this.#error;
      this.#error = null;
      if (error) throw error;
      return { done: true, value: undefined };
    }
    this.#size -= item.size;
    if (this.full && this.#size <= MOST_WAITING_CHARACTERS / 2) {
      this.full = false;
      this.#changed();
    }
    this.cursor = item.value.cursor;
    if (item.error) {
      this.finish(null);
      throw item.error;
    }
    return { done: false, value: item.value };
  }

  /** End it: as when a loop is left. */
  async return(value) {
    this.finish(null);
    return { done: true, value };
  }

  /** End it; what waits is given up. The next step of the loop ends, or throws the error. */
  finish(error) {
    if (this.done) return;
    this.done = true;
    this.#error = error;
    if (!error) this.#items = [];
    for (const taker of this.#takers.splice(0)) taker();
    this.#changed();
  }

  /** Where to subscribe from. */
  get position() {
    if (this.#after !== undefined) return { after: this.#after };
    return this.#history === undefined ? {} : { history: this.#history };
  }

  take(message, size) {
    const { op, cursor } = message;
    if (op === "updates") {
      const share = size / message.updates.length;
      for (const update of message.updates) this.#put(update, share);
    } else if (this.#events && (op === "gap" || op === "reset" || op === "rewind" || op === "live")) {
      const { op: type, ...fields } = message;
      this.#put({ type, ...fields }, 100);
    } else if (op === "gap" || op === "reset") {
      const error = op === "gap" ? new GapError(message) : new ResetError(message);
      this.#put(message, 100, error);
    }
    // That of `subscribed` counts only where there was none: the reset, rewind or gap behind it may still be to come.
    if (cursor !== undefined && (op !== "subscribed" || this.#after === undefined)) this.#after = cursor;
  }

  #put(value, size, error) {
    if (this.done) return;
    this.#items.push({ value, size, error });
    this.#size += size;
    if (this.#size > MOST_WAITING_CHARACTERS) this.full = true;
    this.#takers.shift()?.();
  }
}

const keyOf = ({ node, job }) => JSON.stringify([node ?? null, job ?? null]);

function endpointOf(url) {
  const base = globalThis.location?.href;
  const endpoint = new URL(url, base);
  endpoint.protocol = { "http:": "ws:", "https:": "wss:" }[endpoint.protocol] ?? endpoint.protocol;
  if (!/^wss?:$/.test(endpoint.protocol)) throw new TypeError(`${url} is no URL of a gateway: give ws:// or wss://`);
  endpoint.hash = "";
  endpoint.pathname = `${endpoint.pathname.replace(/\/+$/, "")}/ws`;
  return endpoint.href;
}

/** Full jitter over a bound that doubles: clients that lost the same gateway must not come back together. */
function waitAfter(tries) {
  return Math.min(10_000, 200 * 2 ** Math.min(tries, 10)) * (0.5 + Math.random() / 2);
}

/** Ask by HTTP why a handshake was refused, which a WebSocket does not tell; null where that may change, or is not told. */
async function refusalOf(url, token) {
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const signal = AbortSignal.timeout(CONNECT_MS);
    const answer = await fetch(url.replace(/^ws/, "http"), { headers, signal, cache: "no-store" });
    if (!REFUSALS.has(answer.status)) return null;
    const body = await answer.json().catch(() => null);
    return new StreamError(body?.error ?? `the gateway answered ${answer.status}`, answer.status);
  } catch {
    return null;
  }
}
