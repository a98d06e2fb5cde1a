// What the page holds at most: a browser left open for a night must not fill its memory.
const MAX_UPDATES = 5000;
const MAX_CHARACTERS = 16_000_000;
const ROWS_A_FRAME = 80;
// Of one update: what is longer is shown shortened, with its size, since a mebibyte of text stalls any browser.
const MAX_WHOLE_CHARACTERS = 50_000;
const HUGE_CHARACTERS = 10_000;

const REFRESH_MS = 3000;
const STALE_MS = 60_000;
const MOST_WAIT_MS = 10_000;

// Close codes of the gateway.
const RESET = 4001;
const GAP = 4002;
// Another try would end the same way: unsupported data, policy; a bad request, one that may not be made, nothing there.
const FINAL = new Set([1003, 1008, 400, 401, 403, 404]);

// What a status means, by its words: the first that fits.
const KINDS = [
  ["bad", /fail|error|crash|abort|kill|lost/i],
  ["good", /(?<!not.|un|in)(finish|done|complet|succe|ready)/i],
  ["still", /stop|cancel|idle|exit/i],
  ["wait", /pull|load|wait|queue/i],
  ["run", /run|start|work|train|progress/i],
];
const kindOf = (status) => KINDS.find(([, words]) => words.test(status.slice(0, 300)))?.[0] ?? "plain";

// ---- small things

const $ = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Set an element's text, but leave it alone where it is the same: a selection in it would be lost. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Characters that nobody sees are shown by their numbers: some turn the writing direction of the text around them, others
// make two names look alike. But the one that joins emoji stays.
const escaped = (mark) => {
  const hex = mark.codePointAt(0).toString(16);
  return hex.length > 4 ? `\\u{${hex}}` : `\\u${hex.padStart(4, "0")}`;
};
const plain = (text) => text.replace(/(?!\u200d)[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, escaped);
const shorten = (text, most) => plain(text.length > most ? `${text.slice(0, most)}…` : text);

const number = (value) => value.toLocaleString("en");
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

/** The time of an update to the millisecond, or with its day where that is not today. */
function time(date) {
  if (isNaN(date)) return "–";
  return date.toDateString() === new Date().toDateString()
    ? `${clock.format(date)}.${String(date.getMilliseconds()).padStart(3, "0")}`
    : `${day.format(date)} ${clock.format(date)}`;
}

function ago(timestamp) {
  const seconds = Math.max(0, Math.floor((Date.now() - timestamp) / 1000));
  if (seconds < 60) return seconds < REFRESH_MS / 1000 ? "now" : `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3600)} h ago` : `${Math.floor(seconds / 86_400)} d ago`;
}

const words = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
const hasAll = (text, wanted) => wanted.length === 0 || wanted.every((word) => text.toLowerCase().includes(word));

function parse(text) {
  // Integers beyond 2^53, such as ids, would be shown rounded.
  const exact = (_, value, { source }) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) ? JSON.rawJSON(source) : value;
  return JSON.rawJSON && /\d{16}/.test(text) ? JSON.parse(text, exact) : JSON.parse(text);
}

const pathOf = (node, job = null) =>
  `/nodes/${encodeURIComponent(node)}${job === null ? "" : `/jobs/${encodeURIComponent(job)}`}`;

function topicOf(hash) {
  const match = /^#\/nodes\/([^/]+)(?:\/jobs\/([^/]+))?$/.exec(hash);
  try {
    return match && { node: decodeURIComponent(match[1]), job: match[2] ? decodeURIComponent(match[2]) : null };
  } catch {
    return null; // a malformed escape
  }
}

// ---- the token, which says who asks: given as #token=… or into the form; gone when the tab is closed

const token = {
  get value() {
    return sessionStorage.getItem("token") ?? "";
  },

  keep(text) {
    sessionStorage.setItem("token", text.replace(/[^\w.-]/g, "")); // what else is pasted with it is none of it
  },

  /** Take it out of the address, which people share, and the browser remembers. */
  takeFromAddress() {
    const [, given, rest = ""] = /^#token=([^/&]+)(.*)$/.exec(location.hash) ?? [];
    if (!given) return;
    this.keep(given);
    history.replaceState(null, "", rest ? `#${rest}` : location.pathname);
  },

  get headers() {
    return this.value ? { Authorization: `Bearer ${this.value}` } : {};
  },

  get protocols() {
    return this.value ? ["streamer.plain", `bearer.${this.value}`] : [];
  },
};

const get = (path) => {
  const options = { cache: "no-store", signal: AbortSignal.timeout(5000), headers: token.headers };
  return fetch(path, options).catch(() => null);
};

async function api(path) {
  const response = await get(`/api${path}`);
  if (!response) throw new Error("The gateway does not answer");
  const { ok, status } = response;
  const body = await response.json().catch(() => null);
  if (ok && body) return body;
  const reason = status === 503 ? "The log cannot be read now" : body?.error;
  throw Object.assign(new Error(reason ?? `The gateway answered ${status}`), { status });
}

// ---- the updates, as rows

const updates = {
  list: $("updates"),
  wanted: [],

  clear() {
    // rows: oldest first, {text, shown, update, pairs} or {text, shown, note}; undrawn: how many at the end have no
    // element yet; older: whether updates came before the first row
    Object.assign(this, { rows: [], undrawn: 0, characters: 0, older: false });
    this.list.replaceChildren();
    this.follow(true);
  },

  add(update) {
    const { index, status, state } = update;
    const show = (value) => (typeof value === "string" ? value : JSON.stringify(value));
    const pairs = Object.entries(Object(state)).map(([key, value]) => [key, show(value)]);
    const text = `#${index} ${status} ${pairs.map((pair) => pair.join("=")).join(" ")}`;
    this.push({ update, pairs, text, shown: hasAll(text, this.wanted) });
  },

  note(text) {
    this.push({ note: text, text, shown: true });
    put($("announce"), text);
  },

  /** Keep a row, within the bounds: at once, since a tab in the background draws nothing for hours. */
  push(row) {
    const { rows } = this;
    rows.push(row);
    this.undrawn++;
    this.characters += row.text.length;
    while (rows.length > 1 && (rows.length > MAX_UPDATES || this.characters > MAX_CHARACTERS)) {
      const { element, text } = rows.shift();
      if (element) element.remove();
      else this.undrawn--;
      this.characters -= text.length;
      this.older = true;
    }
    this.schedule();
  },

  schedule() {
    this.frame ??= requestAnimationFrame(() => this.draw());
  },

  draw() {
    this.frame = undefined;
    const first = this.rows.length - this.undrawn;
    const batch = this.rows.slice(first, first + ROWS_A_FRAME);
    for (const row of batch) row.element = this.element(row);
    this.list.append(...batch.map(({ element }) => element));
    this.undrawn -= batch.length;
    if (this.undrawn > 0) this.schedule();
    this.tell();
    if (this.following) this.list.scrollTop = this.list.scrollHeight;
  },

  element({ note, update, pairs, text, shown }) {
    if (note) return make("li", { class: "note", "data-testid": "note" }, note);
    const { index, status, timestamp } = update;
    const date = new Date(timestamp);
    const job = pairs.find(([key]) => key === "job")?.[1] ?? "";
    const size = text.length > HUGE_CHARACTERS
      ? [make("span", { class: "chip size", "data-testid": "size" }, plural(text.length, "character"))] : [];
    const chips = pairs.filter(([key]) => key !== "job").slice(0, 24).map(([key, value]) =>
      make("span", { class: "chip" }, make("bdi", {}, shorten(key, 40)), "=", make("bdi", {}, shorten(value, 80))));
    const summary = make(
      "summary",
      { tabindex: -1, "data-kind": kindOf(status) },
      make("time", { title: date }, time(date)),
      make("span", { class: "index" }, `#${index}`),
      make("bdi", { class: "job", title: shorten(job, 300) }, shorten(job, 80)),
      make("bdi", { class: "status", title: shorten(status, 300), "data-testid": "status" }, shorten(status, 80)),
      make("span", { class: "chips" }, ...size, ...chips),
    );
    const attributes = { class: "update", "data-testid": "update", "data-index": index };
    const item = make("li", attributes, make("details", {}, summary));
    return Object.assign(item, { update, hidden: !shown });
  },

  filter(wanted) {
    this.wanted = wanted;
    for (const row of this.rows.filter(({ update }) => update)) {
      row.shown = hasAll(row.text, wanted);
      if (row.element) row.element.hidden = !row.shown;
    }
    this.schedule();
  },

  follow(following) {
    this.following = following;
    this.schedule();
  },

  tell() {
    const kept = this.rows.filter(({ update }) => update);
    const shown = kept.filter((row) => row.shown).length;
    put($("count"), `${this.wanted.length ? `${number(shown)} of ` : ""}${plural(kept.length, "update")}`);
    const name = shorten(feed?.job ?? feed?.node ?? "", 80);
    const silence = `“${name}” has not reported yet. Its updates appear here as soon as it does.`;
    put($("nothing"), kept.length ? "No update matches." : silence);
    $("nothing").hidden = shown > 0 || (!kept.length && (this.rows.length > 0 || feed?.state !== "live"));
    this.list.hidden = !$("nothing").hidden;
    $("older").hidden = !this.older;
    $("follow").setAttribute("aria-pressed", this.following);
  },
};

// ---- the connection

class Feed {
  cursor = ""; // of the last message, "" before the first
  index = -1; // of the last message
  failures = 0;
  state = "connecting";
  reason = "";

  constructor({ node, job }) {
    Object.assign(this, { node, job });
    this.connect();
  }

  /** Let go of the socket: what it still sends, or how it ends, is of no interest any more. */
  stop() {
    clearTimeout(this.timer);
    this.socket?.close();
    this.socket = null;
  }

  connect() {
    this.stop();
    this.tell();
    const query = new URLSearchParams(this.cursor ? { after: this.cursor } : { history: MAX_UPDATES });
    const url = `${location.origin.replace("http", "ws")}${pathOf(this.node, this.job)}?${query}`;
    const socket = new WebSocket(url, token.protocols);
    this.socket = socket;
    socket.onopen = () => {
      if (socket !== this.socket) return;
      socket.wasOpen = true;
      this.show("live");
    };
    socket.onmessage = ({ data }) => socket === this.socket && this.take(parse(data));
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.socket) return;
      this.closed(code, reason);
      if (!socket.wasOpen && !fleet.away) this.askWhy();
    };
  }

  /** Find out why there was no WebSocket: that is hidden from scripts, but not from a plain request. */
  async askWhy() {
    const response = await get(pathOf(this.node, this.job));
    if (feed !== this || this.state === "live" || !FINAL.has(response?.status)) return;
    const body = await response.json().catch(() => null);
    this.closed(response.status, body?.error);
    askForToken(response.status);
  }

  take(update) {
    const { cursor, index, previous } = update;
    const eraOf = (token) => token.slice(0, token.lastIndexOf(".")); // the log and its epoch
    if (eraOf(cursor) === eraOf(this.cursor) && index <= this.index) return;
    const before = this.job === null ? index - 1 : previous;
    if (this.index < 0) updates.older = before >= 0;
    else if (index <= this.index) updates.note(`updates from ${index} on come again: the log moved to another server`);
    else if (before > this.index) updates.note(`updates between ${this.index} and ${index} are missing`);
    updates.add(update);
    Object.assign(this, { cursor, index, failures: 0 });
  }

  closed(code, reason) {
    this.stop();
    if (FINAL.has(code)) return this.show("closed", reason || `The gateway refused the connection (${code}).`);
    const [, cursor, last] = /after=(\S+\.(\d+))/.exec(reason) ?? [];
    if (code === RESET) {
      Object.assign(this, { cursor: "", index: -1 });
      updates.clear();
      updates.note("the log was started anew");
    } else if (code === GAP && cursor) {
      updates.note(`updates ${this.index + 1} to ${last} are no longer kept`);
      Object.assign(this, { cursor, index: Number(last) });
    }
    // Full jitter: the many clients of a gateway that died must not come back in step.
    const wait = Math.min(MOST_WAIT_MS, 500 * 2 ** this.failures++) * (0.1 + 0.9 * Math.random());
    this.timer = setTimeout(() => this.connect(), wait);
    this.show("reconnecting", reason.split("; ")[0]);
  }

  /** Compare with what the list of nodes says: a connection may die without a word and look live for minutes. */
  expect(head) {
    const behind = this.state === "live" && head > this.index;
    if (behind && this.behindAt === this.index) this.closed(1006, "The connection went silent.");
    this.behindAt = behind ? this.index : null;
  }

  show(state, reason = "") {
    Object.assign(this, { state, reason });
    this.tell();
    updates.schedule();
  }

  tell() {
    const state = this.state === "live" && fleet.away ? "waiting" : this.state;
    const kind = { live: "good", closed: "bad" }[state] ?? "wait";
    put($("connection"), state);
    Object.assign($("connection").dataset, { state, kind });
    put($("reason"), fleet.away || this.reason);
  }
}

// ---- the nodes, and the jobs of the chosen one

const fleet = {
  nodes: null, // until the first answer
  jobs: [], // of the chosen node
  chosen: null,
  away: "", // why nothing can be learnt now: a live connection may wait for a log that the gateway cannot read

  async refresh() {
    const { chosen } = this;
    let problem = null;
    try {
      this.nodes = (await api("/nodes")).nodes;
      const about = chosen && (await api(pathOf(chosen.node)));
      if (about && chosen === this.chosen) this.know(about);
    } catch (error) {
      problem = error;
    }
    const final = FINAL.has(problem?.status);
    this.away = problem && !final ? `${problem.message}. Updates go on by themselves.` : "";
    put($("fleet-notice"), problem ? `This list is not up to date. ${problem.message}.` : "");
    askForToken(problem?.status);
    if (final && feed?.state !== "live") feed?.closed(problem.status, problem.message);
    feed?.tell();
    this.draw();
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.refresh(), REFRESH_MS);
    if (this.nodes?.length && !location.hash && WIDE.matches) location.replace(`#${pathOf(this.nodes[0].node)}`);
  },

  know({ head, jobs }) {
    // New jobs come on top and known ones stay where they are: parallel jobs would swap places under the pointer.
    const latest = new Map(jobs.map((job) => [job.job, job]));
    const known = this.jobs.map(({ job }) => latest.get(job)).filter(Boolean);
    this.jobs = [...jobs.filter((job) => !known.includes(job)), ...known];
    feed?.expect(feed.job === null ? head : (latest.get(feed.job)?.index ?? -1));
  },

  draw() {
    if (this.nodes === null) return;
    const wanted = words($("fleet-filter"));
    const open = this.chosen?.node;
    // The node that is open stays, whatever the filter says: its jobs stand below it.
    const rows = this.nodes
      .flatMap((summary) => [
        { ...summary, job: null },
        ...(summary.node === open ? this.jobs.map((job) => ({ ...job, node: open })) : []),
      ])
      .filter(({ node, job, status }) =>
        (node === open && job === null) || hasAll(`${node} ${job ?? ""} ${status}`, wanted));
    this.place(rows);
    $("no-nodes").hidden = this.nodes.length > 0;
    $("no-match").hidden = rows.length > 0 || this.nodes.length === 0;
    $("legend").hidden = !$("nodes").querySelector(".stale");
    $("choose").hidden = this.chosen !== null || this.nodes.length === 0;
    put($("fleet-count"), this.nodes.length ? plural(this.nodes.length, "node") : "");
    updates.schedule();
  },

  /** Make the list's items be those of the rows, keeping the elements of those that stay, and with them the focus. */
  place(rows) {
    const list = $("nodes");
    const old = new Map(Array.from(list.children, (item) => [item.path, item]));
    const items = new Set(rows.map((row) => this.describe(old.get(pathOf(row.node, row.job)) ?? this.item(row), row)));
    for (const item of old.values()) if (!items.has(item)) item.remove();
    [...items].forEach((item, at) => {
      if (list.children[at] !== item) list.insertBefore(item, list.children[at] ?? null);
    });
  },

  item({ node, job }) {
    const path = pathOf(node, job);
    const [what, name] = job === null ? ["node", node] : ["job", job];
    const link = make(
      "a",
      { href: `#${path}`, "data-testid": what, [`data-${what}`]: name },
      make("span", { class: "dot" }),
      make("bdi", { class: "name" }, plain(name)),
      make("bdi", { class: "status" }),
      make("span", { class: "ago" }),
    );
    return Object.assign(make("li", { class: what }, link), { path });
  },

  describe(item, { node, job, status, last_seen }) {
    const link = item.firstElementChild;
    const [, , state, seen] = link.children;
    link.ariaCurrent = this.chosen?.node === node && this.chosen.job === job ? "page" : null;
    link.dataset.kind = kindOf(status);
    link.title = `${plain(job ?? node)}: ${shorten(status, 300)}, ${ago(last_seen)}`;
    link.classList.toggle("stale", Date.now() - last_seen > STALE_MS);
    put(state, shorten(status, 80));
    put(seen, ago(last_seen));
    return item;
  },
};

// ---- putting it together

const WIDE = matchMedia("(min-width: 761px)"); // as in the style sheet: else the nodes lie over the updates
let feed = null;

/** Show the form for a token where the gateway wants another one, and hide it once it wants none. */
function askForToken(status) {
  $("sign-in").hidden = status !== 401;
}

/** Go on with another token, from where it was. */
function signIn(event) {
  event.preventDefault();
  token.keep($("token").value);
  $("token").value = "";
  if (feed && feed.state !== "live") feed.connect();
  fleet.refresh();
}

function route() {
  token.takeFromAddress();
  const topic = topicOf(location.hash);
  feed?.stop();
  feed = null;
  updates.clear();
  if (topic?.node !== fleet.chosen?.node) fleet.jobs = [];
  fleet.chosen = topic;
  fleet.draw();
  fleet.refresh();
  document.body.classList.toggle("choosing", topic === null);
  $("stream").hidden = topic === null;
  $("stream").classList.toggle("one-job", topic?.job != null);
  const names = topic ? [topic.node, topic.job].filter((name) => name !== null) : [];
  document.title = [names.map(plain).join(" / "), "streamer"].filter(Boolean).join(" · ");
  $("topic").replaceChildren(...names.map((name, place) =>
    make("a", { href: place ? location.hash : `#${pathOf(name)}`, title: plain(name) }, make("bdi", {}, plain(name)))));
  feed = topic && new Feed(topic);
}

/** An update as JSON, or as much of it as a browser shows without a stall. */
function whole(update) {
  const line = JSON.stringify(update);
  const json = line.length > MAX_WHOLE_CHARACTERS ? line : JSON.stringify(update, null, 2);
  const shown = json.slice(0, MAX_WHOLE_CHARACTERS).split("\n").map(plain).join("\n");
  return json.length > MAX_WHOLE_CHARACTERS ? `${shown}…\n\n${plural(line.length, "character")} altogether` : shown;
}

/** Arrow keys, Home and End: the list is one tab stop, since 5,000 would be too many. */
function moveThroughRows(event) {
  const rows = [...updates.list.querySelectorAll(".update:not([hidden]) summary")];
  const at = rows.indexOf(document.activeElement);
  const above = rows[(at < 0 ? rows.length : at) - 1];
  const next = { ArrowUp: above, ArrowDown: rows[at + 1], Home: rows[0], End: rows.at(-1) }[event.key];
  if (!next || event.target.matches("pre")) return;
  event.preventDefault();
  updates.follow(next === rows.at(-1));
  next.focus();
}

function listenToRows(list) {
  let top = 0;
  list.addEventListener("scroll", () => {
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 2;
    const moved = list.scrollTop - top;
    top = list.scrollTop;
    if (updates.following ? !atEnd && moved < 0 : atEnd && moved > 0) updates.follow(!updates.following);
  });
  // A smooth scroll begins with a step so small that the next update would pull it back.
  const letGo = ({ deltaY }) => deltaY < 0 && list.scrollTop > 0 && updates.follow(false);
  list.addEventListener("wheel", letGo, { passive: true });
  list.addEventListener("keydown", moveThroughRows);
  list.addEventListener("toggle", ({ target }) => {
    target.querySelector("pre")?.remove();
    if (!target.open) return;
    target.append(make("pre", { tabindex: 0, "aria-label": "The whole update" }, whole(target.parentElement.update)));
    target.scrollIntoView({ block: "nearest" });
    updates.follow(false); // else the next update would push away what is being read
  }, true);
  new ResizeObserver(() => updates.schedule()).observe(list);
}

listenToRows(updates.list);
$("filter").addEventListener("input", () => updates.filter(words($("filter"))));
$("follow").addEventListener("click", () => updates.follow(!updates.following));
$("sign-in").addEventListener("submit", signIn);
$("skip").addEventListener("click", () => $("filter").focus());
$("fleet-filter").addEventListener("input", () => fleet.draw());
$("fleet-toggle").addEventListener("click", () => document.body.classList.add("choosing"));
// On a phone the list lies over the updates: choosing what is chosen already must close it too.
$("nodes").addEventListener("click", ({ target }) => {
  if (target.closest("a")?.hash === location.hash) document.body.classList.remove("choosing");
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  if (feed?.state === "reconnecting") feed.connect();
  fleet.refresh();
});
addEventListener("hashchange", route);
route();
