// What the page holds at most: a browser left open for a night must not fill its memory.
const MAX_ROWS = 5000;
const MAX_CHARACTERS = 16_000_000;
const ROWS_A_FRAME = 300;
const JOBS_SHOWN = 200;

const REFRESH_MS = 3000;
const STALE_MS = 60_000;
const QUIET_MS = 5000;
const LONGEST_WAIT_MS = 10_000;

const RESET = 4001;
const GAP = 4002;
const FINAL = new Set([1003, 1008]); // unsupported data, policy: another try would end the same way
const FINAL_HTTP = new Set([400, 401, 403, 404]);

const KINDS = [
  ["bad", /fail|error|crash|abort|kill|denied|refus|time.?out|timed.out|lost|fatal|panic|oom|unhealthy|incomplete/i],
  ["good", /(?<!not.|un|al)(finish|done|complet|succe|ready|healthy|passed|\bok\b)/i],
  ["still", /stop|cancel|idle|exit|paus|offline|skip|clear/i],
  ["wait", /pull|load|wait|queue|pend|prepar|init|schedul|boot|install|retry|not.ready/i],
  ["run", /run|start|work|progress|operat|train|exec|active|online|busy|live/i],
];
const kindOf = (status) => KINDS.find(([, words]) => words.test(status))?.[0] ?? "plain";

// ---- small things

const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Set an element's text, but leave it alone where it is the same: a selection in it would be lost. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const number = (value) => value.toLocaleString("en");
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const two = (value) => String(value).padStart(2, "0");
const time = (date) =>
  `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, "0")}`;
const dateOf = (timestamp) => new Date(typeof timestamp === "number" ? timestamp : NaN); // or else, too great to be exact
const day = new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long", year: "numeric" });

function ago(timestamp) {
  const seconds = Math.max(0, Math.round((Date.now() - timestamp) / 1000));
  if (seconds < 60) return seconds < 1 ? "now" : `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3600)} h ago` : `${Math.floor(seconds / 86_400)} d ago`;
}

const words = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
const hasAll = (text, wanted) => wanted.length === 0 || wanted.every((word) => text.toLowerCase().includes(word));

// A cut between the halves of a surrogate pair would show as a broken character.
const shorten = (text, most) => (text.length > most ? `${text.slice(0, most).replace(/[\ud800-\udbff]$/, "")}…` : text);

function parse(text) {
  if (JSON.rawJSON && /\d{16}/.test(text)) {
    // Integers beyond 2^53, such as ids, would be shown rounded.
    const exact = (_, value, { source }) =>
      Number.isInteger(value) && !Number.isSafeInteger(value) ? JSON.rawJSON(source) : value;
    try {
      return JSON.parse(text, exact);
    } catch {
      // Nested too deep for a reviver, which recurses; without one there is no such limit.
    }
  }
  return JSON.parse(text);
}

function compact(value) {
  try {
    return typeof value === "string" ? value : String(JSON.stringify(value));
  } catch {
    return "(nested too deep to show)";
  }
}

/** The JSON with line breaks, unless it is nested so deep that indentation would be most of it. */
function pretty(value) {
  const deep = (inner, levels) =>
    inner !== null && typeof inner === "object" && (levels === 0 || Object.values(inner).some((one) => deep(one, levels - 1)));
  return deep(value, 40) ? compact(value) : JSON.stringify(value, null, 2);
}

async function api(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(8000) }).catch(() => {
    throw new Error("the gateway cannot be reached");
  });
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  const sentence = body?.error ?? `the gateway answered ${response.status} without a reason`;
  throw Object.assign(new Error(sentence), { status: response.status });
}

const hashOf = (node, job) => `#${pathOf(node, job)}`;
const pathOf = (node, job) =>
  `/nodes/${encodeURIComponent(node)}` + (job === null ? "" : `/jobs/${encodeURIComponent(job)}`);

function topicOf(hash) {
  const match = /^#\/nodes\/([^/]+)(?:\/jobs\/([^/]+))?$/.exec(hash);
  try {
    return match && { node: decodeURIComponent(match[1]), job: match[2] ? decodeURIComponent(match[2]) : null };
  } catch {
    return null; // a malformed escape
  }
}

// ---- the updates, as rows

const updates = {
  list: $("updates"),
  rows: [], // oldest first: {text, update} or {text, note}
  undrawn: 0, // how many at the end have no element yet
  kept: 0, // how many are updates
  older: 0, // how many updates came before the first row, as far as is known
  characters: 0,
  newer: 0, // how many came since following ended
  following: true,
  wanted: [],
  day: "",

  clear() {
    Object.assign(this, { rows: [], undrawn: 0, kept: 0, older: 0, characters: 0, newer: 0, day: "" });
    this.list.replaceChildren();
    this.schedule();
  },

  add(update) {
    const { status, state, index, timestamp } = update;
    const date = dateOf(timestamp);
    const today = isNaN(date) ? this.day : day.format(date);
    if (today !== this.day) this.push({ note: today, kind: "day", text: "" });
    this.day = today;
    const pairs = Object.entries(Object(state)).map(([key, value]) => [key, compact(value)]);
    const text = `#${index} ${status} ${pairs.map((pair) => pair.join("=")).join(" ")}`;
    this.push({ update, date, pairs, text });
  },

  note(text) {
    this.push({ note: text, kind: "note", text: "" });
    put($("announce"), text);
  },

  /** Keep a row, within the bounds: at once, since a tab in the background may not draw for hours. */
  push(row) {
    this.rows.push(row);
    this.undrawn++;
    this.kept += row.update ? 1 : 0;
    this.characters += row.text.length;
    while (this.rows.length > MAX_ROWS || (this.characters > MAX_CHARACTERS && this.rows.length > 1)) {
      const gone = this.rows.shift();
      this.characters -= gone.text.length;
      this.kept -= gone.update ? 1 : 0;
      this.older += gone.update ? 1 : 0;
    }
    this.undrawn = Math.min(this.undrawn, this.rows.length);
    this.schedule();
  },

  /** Draw at the next frame, or by the timer where there are no frames: in the background. */
  schedule() {
    this.frame ??= requestAnimationFrame(() => this.draw());
    this.timer ??= setTimeout(() => this.draw(), 500);
  },

  draw() {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
    this.frame = this.timer = undefined;
    const first = this.rows.length - this.undrawn;
    const batch = this.rows.slice(first, first + ROWS_A_FRAME);
    for (const row of batch) row.element = this.element(row);
    this.list.append(...batch.map((row) => row.element));
    this.undrawn -= batch.length;
    const surplus = this.list.childElementCount - (this.rows.length - this.undrawn);
    for (let left = surplus; left > 0; left--) this.list.firstElementChild.remove();
    if (!this.following) this.newer += batch.filter((row) => row.update && !row.element.hidden).length;
    if (this.undrawn > 0) this.schedule();
    this.tell();
    if (this.following) this.list.scrollTop = this.list.scrollHeight;
  },

  element(row) {
    if (row.note) return make("li", { class: row.kind, "data-testid": row.kind }, row.note);
    const { status, index } = row.update;
    const job = row.pairs.find(([key]) => key === "job")?.[1] ?? "";
    const shown = row.pairs.filter(([key]) => key !== "job").slice(0, 24);
    const summary = make(
      "summary",
      { tabindex: -1, "data-kind": kindOf(status) },
      make("time", { title: row.date.toString() }, isNaN(row.date) ? "–" : time(row.date)),
      make("span", { class: "index" }, `#${index}`),
      make("bdi", { class: "job", title: shorten(job, 300) }, shorten(job, 80)),
      make("bdi", { class: "status", title: shorten(status, 300), "data-testid": "status" }, shorten(status, 80)),
      make("span", { class: "chips" }, ...shown.map(([key, value]) => this.chip(key, value))),
    );
    const item = make("li", { class: "update", "data-testid": "update", "data-index": index }, make("details", {}, summary));
    item.row = row;
    item.hidden = !hasAll(row.text, this.wanted);
    return item;
  },

  chip(key, value) {
    return make("span", { class: "chip" }, make("bdi", {}, `${shorten(key, 40)}=`), make("bdi", {}, shorten(value, 80)));
  },

  filter(wanted) {
    this.wanted = wanted;
    for (const row of this.rows) if (row.update && row.element) row.element.hidden = !hasAll(row.text, wanted);
    this.schedule();
  },

  follow(following) {
    this.following = following;
    this.newer = 0;
    this.schedule();
  },

  tell() {
    const matching = this.wanted.length && this.rows.filter((row) => row.element && row.update && !row.element.hidden).length;
    put($("count"), this.wanted.length ? `${number(matching)} of ${plural(this.kept, "update")}` : plural(this.kept, "update"));
    $("older").hidden = this.older === 0;
    const older = Number.isFinite(this.older) ? plural(this.older, "older update") : "Older updates";
    put($("older"), `${older} not shown: no longer kept, or more than the ${number(MAX_ROWS)} this page holds`);
    $("no-updates").hidden = this.rows.length > 0;
    $("follow").setAttribute("aria-pressed", this.following);
    $("newer").hidden = this.newer === 0;
    put($("newer"), `${number(this.newer)} new ↓`);
  },
};

// ---- the connection

class Feed {
  socket = null;
  timer = 0;
  failures = 0;
  cursor = ""; // of the last message, "" before the first
  index = -1; // of the last message
  highest = new Map(); // log and epoch → greatest index shown
  target = -1; // the index that ends the replay
  state = "closed";

  constructor(node, job) {
    this.node = node;
    this.job = job;
    this.connect();
  }

  stop() {
    this.stopped = true;
    this.drop();
  }

  /** Let go of the socket: what it still sends, or how it ends, is of no interest any more. */
  drop() {
    clearTimeout(this.timer);
    this.socket?.close();
    this.socket = null;
  }

  async connect() {
    clearTimeout(this.timer);
    this.show("connecting");
    // A URL parser takes these out of a path as steps, even when they are escaped.
    if ([this.node, this.job].some((name) => /^\.\.?$/.test(name))) {
      return this.show("closed", "a browser cannot ask for a name that is only dots");
    }
    this.target = Infinity;
    try {
      const about = await api(`/api${pathOf(this.node, null)}`);
      this.target = this.headOf(about);
    } catch (error) {
      if (!this.stopped && FINAL_HTTP.has(error.status)) return this.show("closed", error.message);
    }
    if (this.stopped) return;
    const url = new URL(pathOf(this.node, this.job), location.origin.replace(/^http/, "ws"));
    if (this.cursor) url.searchParams.set("after", this.cursor);
    else url.searchParams.set("history", MAX_ROWS);
    const socket = new WebSocket(url);
    this.socket = socket;
    const mine = (handle) => (event) => this.socket === socket && handle.call(this, event);
    socket.onopen = mine(this.opened);
    socket.onmessage = mine(this.received);
    socket.onclose = mine(this.closed);
  }

  headOf({ head, jobs }) {
    return this.job === null ? head : (jobs.find(({ job }) => job === this.job)?.index ?? -1);
  }

  opened() {
    this.show("replaying");
    this.heard = Date.now();
    this.settle();
  }

  received({ data }) {
    this.heard = Date.now();
    try {
      this.take(parse(data));
    } catch (error) {
      console.error(error);
      this.drop();
      this.show("closed", "the gateway sent something that is not an update");
    }
  }

  take(update) {
    const { cursor, index, previous, state } = update;
    const era = cursor.slice(0, cursor.lastIndexOf("."));
    if (index <= (this.highest.get(era) ?? -1)) return;
    const before = this.job === null ? index - 1 : previous;
    if (this.index < 0) updates.older = this.job === null || before < 0 ? before + 1 : Infinity; // a job's indexes have holes
    else if (index <= this.index) updates.note(`updates from ${index} on come again: the log moved to another server`);
    else if (before > this.index) updates.note(`updates between ${this.index} and ${index} are missing`);
    this.highest.set(era, index);
    Object.assign(this, { cursor, index, failures: 0 });
    updates.add(update);
    if (this.state === "live") fleet.touch(update, typeof state?.job === "string" ? state.job : null);
    this.settle();
  }

  settle() {
    if (this.state === "replaying" && this.index >= this.target) this.show("live");
  }

  closed({ code, reason }) {
    this.socket = null;
    const token = /after=(\S+)/.exec(reason)?.[1];
    if (FINAL.has(code)) return this.show("closed", reason || `the gateway refused the connection (${code})`);
    if (code === RESET) {
      Object.assign(this, { cursor: "", index: -1, highest: new Map() });
      updates.clear();
      updates.note("the log was started anew");
    } else if (code === GAP && token) {
      const dot = token.lastIndexOf(".");
      const last = Number(token.slice(dot + 1));
      updates.note(`updates ${this.index + 1} to ${last} are no longer kept`);
      this.highest.set(token.slice(0, dot), last);
      Object.assign(this, { cursor: token, index: last });
    }
    // Full jitter: the many clients of a gateway that died must not come back in step.
    const ceiling = Math.min(LONGEST_WAIT_MS, 500 * 2 ** this.failures++);
    const wait = ceiling * (0.1 + 0.9 * Math.random());
    this.due = Date.now() + wait;
    this.timer = setTimeout(() => this.connect(), wait);
    this.show("reconnecting", reason);
  }

  hurry() {
    if (this.state === "reconnecting" || this.state === "closed") this.connect();
  }

  tick() {
    if (this.state === "reconnecting") this.show("reconnecting", $("reason").textContent);
    // Where the head is not known, or expired between the question and the answer, silence says that it is reached.
    if (this.state === "replaying" && Date.now() - this.heard > QUIET_MS) this.show("live");
  }

  /**
   * Compare with the head as the list of nodes tells it. A connection that died without a word, as on a phone that
   * changed networks, would look live for minutes.
   */
  expect(about) {
    const head = this.headOf(about);
    const behind = this.state === "live" && head > this.index && head > this.target;
    if (behind && this.behindAt === this.index) {
      this.drop();
      this.closed({ code: 1006, reason: "the connection went silent" });
    }
    this.behindAt = behind ? this.index : null;
  }

  show(state, reason = "") {
    const seconds = Math.max(1, Math.ceil((this.due - Date.now()) / 1000));
    const text = state === "reconnecting" ? `reconnecting in ${seconds} s` : state;
    const kinds = { live: "good", connecting: "wait", replaying: "run", reconnecting: "wait", closed: "bad" };
    put($("connection"), text);
    Object.assign($("connection").dataset, { state, kind: kinds[state] });
    put($("reason"), reason);
    $("retry").hidden = state !== "reconnecting" && state !== "closed";
    // Said once per change, not at each second of a countdown or at each try.
    const news = state === "live" || state === "closed" || (state === "reconnecting" && this.failures === 1);
    if (news && state !== this.state) put($("announce"), `Connection ${text}. ${reason}`);
    this.state = state;
  }
}

// ---- the nodes, and the jobs of the chosen one

const fleet = {
  nodes: null,
  jobs: new Map(),
  chosen: null,

  async refresh() {
    clearTimeout(this.timer);
    const { chosen } = this;
    try {
      const [{ nodes }, about] = await Promise.all([api("/api/nodes"), chosen && api(`/api${pathOf(chosen.node, null)}`)]);
      this.nodes = nodes;
      if (about && chosen === this.chosen) this.know(about);
      put($("fleet-notice"), "");
    } catch (error) {
      put($("fleet-notice"), `The list is not up to date: ${error.message}.`);
    }
    this.draw();
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.refresh(), REFRESH_MS);
  },

  know(about) {
    const newer = [...this.jobs].filter(([, { index }]) => index > about.head); // live messages told them first
    this.jobs = new Map([...about.jobs.map((job) => [job.job, job]), ...newer]);
    feed?.expect(about);
  },

  choose(chosen) {
    if (chosen?.node !== this.chosen?.node) this.jobs = new Map();
    this.chosen = chosen;
    this.draw();
    this.refresh();
  },

  /** Take from a live update what it says about the chosen node and its job. */
  touch({ status, timestamp, index }, job) {
    const seen = { status, last_seen: timestamp, index };
    if (this.open && index > this.open.index) Object.assign(this.open, seen, { job });
    if (job === null) return;
    this.jobs.set(job, { job, ...seen });
    this.soon ??= setTimeout(() => this.draw(), 150);
  },

  draw() {
    clearTimeout(this.soon);
    this.soon = undefined;
    if (this.nodes === null) return;
    const { chosen } = this;
    const wanted = words($("fleet-filter"));
    this.open = this.nodes.find(({ node }) => node === chosen?.node);
    const jobs = [...this.jobs.values()].sort((one, other) => other.index - one.index);
    const whole = this.open && hasAll(this.open.node, wanted);
    const matching = whole ? jobs : jobs.filter(({ job, status }) => hasAll(`${job} ${status}`, wanted));
    const nodes = this.nodes.filter(
      (node) => hasAll(`${node.node} ${node.status} ${node.job ?? ""}`, wanted) || (node === this.open && matching.length),
    );
    const focused = document.activeElement;
    this.sync($("nodes"), nodes, "node", (item, node) => {
      const jobList = item.querySelector("ul");
      this.sync(jobList, node === this.open ? matching.slice(0, JOBS_SHOWN) : [], "job");
      jobList.hidden = !jobList.childElementCount;
      const more = node === this.open ? matching.length - JOBS_SHOWN : 0;
      item.lastElementChild.hidden = more <= 0;
      put(item.lastElementChild, `and ${plural(more, "older job")}`);
    });
    // An element that moves to another place in the list loses the focus.
    if (focused !== document.activeElement && $("nodes").contains(focused)) focused.focus();
    $("no-nodes").hidden = this.nodes.length > 0;
    $("no-match").hidden = nodes.length > 0 || this.nodes.length === 0;
    put($("fleet-count"), this.nodes.length ? plural(this.nodes.length, "node") : "");
  },

  /** Make the items of a list be those of the summaries, keeping the elements of those that stay. */
  sync(list, summaries, what, also = () => {}) {
    const gone = new Map([...list.children].map((item) => [item.name, item]));
    summaries.forEach((summary, place) => {
      const item = gone.get(summary[what]) ?? this.item(summary, what);
      gone.delete(summary[what]);
      if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
      this.describe(item.firstElementChild, summary, what);
      also(item, summary);
    });
    for (const item of gone.values()) item.remove();
  },

  item(summary, what) {
    const name = summary[what];
    const parts = ["dot", "name", "ago", "status"].map((part) => make(part === "dot" ? "span" : "bdi", { class: part }));
    if (what === "job") parts.push(parts.splice(2, 1)[0]);
    const href = what === "node" ? hashOf(name, null) : hashOf(this.chosen.node, name);
    const link = make("a", { href, title: name, "data-testid": what, [`data-${what}`]: name }, ...parts);
    const item = make("li", {}, link);
    if (what === "node") item.append(make("ul", { class: "jobs", "aria-label": "Jobs" }), make("p", { class: "more" }));
    item.name = name;
    put(link.querySelector(".name"), name);
    return item;
  },

  describe(link, { node, job, status, last_seen }, what) {
    const { chosen } = this;
    const current = what === "node" ? chosen?.node === node && chosen.job === null : chosen.job === job;
    link.toggleAttribute("aria-current", current);
    if (current) link.setAttribute("aria-current", "page");
    link.dataset.kind = kindOf(status);
    link.classList.toggle("stale", Date.now() - last_seen > STALE_MS);
    put(link.querySelector(".status"), shorten(status, 80));
    put(link.querySelector(".ago"), ago(last_seen));
  },
};

// ---- putting it together

let feed = null;

function route() {
  const topic = topicOf(location.hash);
  feed?.stop();
  feed = null;
  updates.clear();
  updates.follow(true);
  fleet.choose(topic);
  document.body.classList.toggle("choosing", !topic);
  $("fleet-toggle").setAttribute("aria-expanded", !topic);
  $("choose").hidden = topic !== null;
  $("stream").hidden = topic === null;
  $("topic").replaceChildren();
  document.title = "streamer";
  if (!topic) return;
  const { node, job } = topic;
  document.title = `${node}${job === null ? "" : ` / ${job}`} · streamer`;
  $("topic").append(make("a", { href: hashOf(node, null), title: node }, make("bdi", {}, node)));
  if (job !== null) $("topic").append(make("i", {}, "/"), make("bdi", { title: job }, job));
  $("stream").classList.toggle("one-job", job !== null);
  put($("no-updates"), "No updates yet. They appear here as soon as there are any.");
  feed = new Feed(node, job);
}

function listen() {
  const { list } = updates;
  let top = 0;
  list.addEventListener("scroll", () => {
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 2;
    if (updates.following ? !atEnd && list.scrollTop < top : atEnd && list.scrollTop > top) {
      updates.follow(!updates.following);
    }
    top = list.scrollTop;
  });
  // A smooth scroll begins with a step so small that the next update would pull it back.
  list.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && updates.following && updates.follow(false), { passive: true });

  list.addEventListener("toggle", ({ target }) => {
    target.querySelector("pre")?.remove();
    if (!target.open) return;
    target.append(make("pre", { tabindex: 0, "aria-label": "The whole update" }, pretty(target.parentElement.row.update)));
    updates.follow(false); // else the next update would push away what is being read
  }, true);

  list.addEventListener("keydown", (event) => {
    const shown = [...list.querySelectorAll(".update:not([hidden]) summary")];
    const at = shown.indexOf(document.activeElement);
    const last = shown.length - 1;
    const next = { ArrowUp: at < 0 ? last : Math.max(0, at - 1), ArrowDown: at < 0 ? last : Math.min(last, at + 1), Home: 0, End: last };
    if (event.key === "Escape") list.focus();
    if (!(event.key in next) || last < 0 || event.target.matches("pre")) return;
    event.preventDefault();
    if (next[event.key] < last) updates.follow(false);
    shown[next[event.key]].focus();
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input") || $("stream").hidden) return;
    event.preventDefault();
    $("filter").focus();
  });

  $("filter").addEventListener("input", () => updates.filter(words($("filter"))));
  $("follow").addEventListener("click", () => updates.follow(!updates.following));
  $("newer").addEventListener("click", () => updates.follow(true));
  $("retry").addEventListener("click", () => feed?.hurry());
  $("fleet-filter").addEventListener("input", () => fleet.draw());
  $("fleet-toggle").addEventListener("click", () => document.body.classList.add("choosing"));
  // On a phone the list lies over the updates: choosing what is chosen already must close it too.
  $("nodes").addEventListener("click", ({ target }) => {
    if (target.closest("a")?.hash === location.hash) document.body.classList.remove("choosing");
  });

  addEventListener("hashchange", route);
  addEventListener("online", () => feed?.hurry());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    if (feed?.state === "reconnecting") feed.hurry();
    fleet.refresh();
  });
  setInterval(() => {
    feed?.tick();
    if (!document.hidden) fleet.draw();
  }, 1000);
}

listen();
route();
