// What the page holds at most: a browser left open for a night must not fill its memory.
const MAX_UPDATES = 5000;
const MAX_CHARACTERS = 16_000_000;
const ROWS_A_FRAME = 250;
const JOBS_SHOWN = 200;

const REFRESH_MS = 3000;
const STALE_MS = 60_000;
const QUIET_MS = 5000;
const MOST_WAIT_MS = 10_000;

const RESET = 4001;
const GAP = 4002;
// Another try would end the same way: unsupported data, policy; a bad request, one that may not be made, nothing there.
const FINAL = new Set([1003, 1008, 400, 401, 403, 404]);

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

const number = (value) => value.toLocaleString("en");
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const day = new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const time = (date) => `${clock.format(date)}.${String(date.getMilliseconds()).padStart(3, "0")}`;

function ago(timestamp) {
  const seconds = Math.max(0, Math.floor((Date.now() - timestamp) / 1000));
  if (seconds < 60) return seconds < 1 ? "now" : `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3600)} h ago` : `${Math.floor(seconds / 86_400)} d ago`;
}

const words = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
const hasAll = (text, wanted) => wanted.length === 0 || wanted.every((word) => text.toLowerCase().includes(word));

// A cut between the halves of a surrogate pair would show as a broken character.
const shorten = (text, most) =>
  text.length > most ? `${text.slice(0, most).replace(/[\ud800-\udbff]$/, "")}…` : text;

function parse(text) {
  const plain = JSON.parse(text);
  if (!JSON.rawJSON || !/\d{16}/.test(text)) return plain;
  // Integers beyond 2^53, such as ids, would be shown rounded.
  const exact = (_, value, { source }) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) ? JSON.rawJSON(source) : value;
  try {
    return JSON.parse(text, exact);
  } catch {
    return plain; // nested too deep for a reviver, which recurses
  }
}

function compact(value) {
  try {
    return typeof value === "string" ? value : JSON.stringify(value);
  } catch {
    return "(nested too deep to show)";
  }
}

/** The JSON with line breaks, unless it is nested so deep that indentation would be most of it. */
function pretty(value) {
  const deep = (inner, levels) =>
    typeof inner === "object" && inner && (levels === 0 || Object.values(inner).some((one) => deep(one, levels - 1)));
  const text = deep(value, 40) ? compact(value) : JSON.stringify(value, null, 2);
  // Marks that turn the writing direction would reorder the text around them.
  const escaped = (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, escaped);
}

const pathOf = (node, job = null) =>
  `/nodes/${encodeURIComponent(node)}${job === null ? "" : `/jobs/${encodeURIComponent(job)}`}`;

function topicOf(hash) {
  const match = /^#\/nodes\/([^/]+)(?:\/jobs\/([^/]+))?$/.exec(hash);
  // A URL takes dots out of a path as steps, even when they are escaped: no browser can ask for these names.
  if (!match || match.slice(1).some((part) => /^(\.|%2e){1,2}$/i.test(part))) return null;
  try {
    return { node: decodeURIComponent(match[1]), job: match[2] ? decodeURIComponent(match[2]) : null };
  } catch {
    return null; // a malformed escape
  }
}

async function api(path) {
  const response = await fetch(`/api${path}`, { cache: "no-store", signal: AbortSignal.timeout(8000) }).catch(() => {
    throw new Error("the gateway cannot be reached");
  });
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  throw Object.assign(new Error(body?.error ?? `the gateway answered ${response.status}`), { status: response.status });
}

// ---- the updates, as rows

const updates = {
  list: $("updates"),
  following: true,
  wanted: [],

  clear() {
    // rows: oldest first, {text, update, …} or {text, note}; undrawn: how many at the end have no element yet;
    // older: how many updates came before the first row, Infinity if nobody knows; newer: since following ended
    Object.assign(this, { rows: [], leaving: [], undrawn: 0, kept: 0, older: 0, newer: 0, characters: 0, day: "" });
    this.list.replaceChildren();
    this.schedule();
  },

  add(update) {
    const { status, state, index, timestamp } = update;
    const date = new Date(typeof timestamp === "number" ? timestamp : NaN); // not a number: too great for a date
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
    const { rows } = this;
    rows.push(row);
    this.undrawn++;
    this.kept += row.update ? 1 : 0;
    this.characters += row.text.length;
    const full = () =>
      this.kept > MAX_UPDATES || rows.length > MAX_UPDATES + 100 || this.characters > MAX_CHARACTERS;
    while (this.kept > 1 && full()) {
      // The day stays above the first of its updates.
      const [gone] = rows.splice(rows[0].kind === "day" && rows[1].kind !== "day" ? 1 : 0, 1);
      if (gone.element) this.leaving.push(gone.element);
      else this.undrawn--;
      this.characters -= gone.text.length;
      this.kept -= gone.update ? 1 : 0;
      this.older += gone.update ? 1 : 0;
    }
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
    this.list.append(...batch.map(({ element }) => element));
    this.undrawn -= batch.length;
    if (this.leaving.some((element) => element.contains(document.activeElement))) this.list.focus();
    for (const element of this.leaving.splice(0)) element.remove();
    if (!this.following) this.newer += batch.filter(({ update, element }) => update && !element.hidden).length;
    if (this.undrawn > 0) this.schedule();
    this.tell();
    if (this.following) this.list.scrollTop = this.list.scrollHeight;
  },

  element({ note, kind, update, date, pairs, text }) {
    if (note) return make("li", { class: kind, "data-testid": kind }, note);
    const { status, index } = update;
    const job = pairs.find(([key]) => key === "job")?.[1] ?? "";
    const chips = pairs.filter(([key]) => key !== "job").slice(0, 24).map(([key, value]) =>
      make("span", { class: "chip" }, make("bdi", {}, `${shorten(key, 40)}=`), make("bdi", {}, shorten(value, 80))));
    const summary = make(
      "summary",
      { tabindex: -1, "data-kind": kindOf(status) },
      make("time", { title: date.toString() }, isNaN(date) ? "–" : time(date)),
      make("span", { class: "index" }, `#${index}`),
      make("bdi", { class: "job", title: shorten(job, 300) }, shorten(job, 80)),
      make("bdi", { class: "status", title: shorten(status, 300), "data-testid": "status" }, shorten(status, 80)),
      make("span", { class: "chips" }, ...chips),
    );
    const attributes = { class: "update", "data-testid": "update", "data-index": index };
    const item = make("li", attributes, make("details", {}, summary));
    item.update = update;
    item.hidden = !hasAll(text, this.wanted);
    return item;
  },

  filter(wanted) {
    this.wanted = wanted;
    for (const { update, text, element } of this.rows) if (update && element) element.hidden = !hasAll(text, wanted);
    this.schedule();
  },

  follow(following) {
    this.following = following;
    this.newer = 0;
    this.schedule();
  },

  tell() {
    const shown = () => this.rows.filter(({ update, element }) => update && element && !element.hidden).length;
    put($("count"), `${this.wanted.length ? `${number(shown())} of ` : ""}${plural(this.kept, "update")}`);
    const older = Number.isFinite(this.older) ? plural(this.older, "older update") : "Older updates";
    put($("older"), `${older} not shown: no longer kept, or more than this page holds (${number(MAX_UPDATES)}, or 16 MB)`);
    $("older").hidden = this.older === 0;
    $("no-updates").hidden = this.rows.length > 0;
    $("follow").setAttribute("aria-pressed", this.following);
    put($("newer"), `${number(this.newer)} new ↓`);
    $("newer").hidden = this.newer === 0;
  },
};

// ---- the connection

class Feed {
  cursor = ""; // of the last message, "" before the first
  index = -1; // of the last message
  highest = new Map(); // log and epoch → greatest index shown
  failures = 0;

  constructor({ node, job }) {
    Object.assign(this, { node, job });
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
    this.drop();
    this.show("connecting");
    this.target = Infinity; // the index that ends the replay
    try {
      this.target = this.headOf(await api(pathOf(this.node)));
    } catch ({ status, message }) {
      if (!this.stopped && FINAL.has(status)) return this.show("closed", message);
    }
    if (this.stopped) return;
    const query = new URLSearchParams(this.cursor ? { after: this.cursor } : { history: MAX_UPDATES });
    const socket = new WebSocket(`${location.origin.replace("http", "ws")}${pathOf(this.node, this.job)}?${query}`);
    this.socket = socket;
    socket.onopen = () => socket === this.socket && this.opened();
    socket.onmessage = ({ data }) => socket === this.socket && this.received(data);
    socket.onclose = ({ code, reason }) => socket === this.socket && this.closed(code, reason);
  }

  headOf({ head, jobs }) {
    return this.job === null ? head : (jobs.find(({ job }) => job === this.job)?.index ?? -1);
  }

  opened() {
    this.heard = Date.now();
    this.show("replaying");
    this.settle();
  }

  received(data) {
    this.heard = Date.now();
    try {
      this.take(parse(data));
    } catch (error) {
      console.error(error);
      this.drop();
      this.show("closed", "the gateway sent something that is not an update");
    }
    this.settle();
  }

  take(update) {
    const { cursor, index, previous, state } = update;
    const era = cursor.slice(0, cursor.lastIndexOf("."));
    if (index <= (this.highest.get(era) ?? -1)) return;
    const before = this.job === null ? index - 1 : previous;
    // How many came before is known of a node; a job's indexes have holes.
    if (this.index < 0) updates.older = this.job === null || before < 0 ? before + 1 : Infinity;
    else if (index <= this.index) updates.note(`updates from ${index} on come again: the log moved to another server`);
    else if (before > this.index) updates.note(`updates between ${this.index} and ${index} are missing`);
    updates.add(update);
    this.highest.set(era, index);
    Object.assign(this, { cursor, index, failures: 0 });
    if (this.state === "live") fleet.touch(update, typeof state?.job === "string" ? state.job : null);
  }

  settle() {
    if (this.state === "replaying" && this.index >= this.target) this.show("live");
  }

  closed(code, reason) {
    this.socket = null;
    if (FINAL.has(code)) return this.show("closed", reason || `the gateway refused the connection (${code})`);
    const [, era, last] = /after=(\S+)\.(\d+)/.exec(reason) ?? [];
    if (code === RESET) {
      Object.assign(this, { cursor: "", index: -1, highest: new Map() });
      updates.clear();
      updates.note("the log was started anew");
    } else if (code === GAP && era) {
      updates.note(`updates ${this.index + 1} to ${last} are no longer kept`);
      Object.assign(this, { cursor: `${era}.${last}`, index: Number(last) });
      this.highest.set(era, this.index);
    }
    // Full jitter: the many clients of a gateway that died must not come back in step.
    const wait = Math.min(MOST_WAIT_MS, 500 * 2 ** this.failures++) * (0.1 + 0.9 * Math.random());
    this.due = Date.now() + wait;
    this.timer = setTimeout(() => this.connect(), wait);
    this.show("reconnecting", reason.split("; ")[0]);
  }

  tick() {
    if (this.state === "reconnecting") this.show("reconnecting", $("reason").textContent);
    // Where the head is not known, or is no longer kept, silence says that it is reached.
    if (this.state === "replaying" && Date.now() - this.heard > QUIET_MS) this.show("live");
  }

  /** Compare with what the list of nodes says: a connection may die without a word and look live for minutes. */
  expect(about) {
    const head = this.headOf(about);
    const behind = this.state === "live" && head > this.index && head > this.target;
    if (behind && this.behindAt === this.index) {
      this.drop();
      this.closed(1006, "the connection went silent");
    }
    this.behindAt = behind ? this.index : null;
  }

  show(state, reason = "") {
    const seconds = Math.max(1, Math.ceil((this.due - Date.now()) / 1000));
    const text = state === "reconnecting" ? `reconnecting in ${seconds} s` : state;
    const kind = { live: "good", connecting: "wait", replaying: "run", reconnecting: "wait", closed: "bad" }[state];
    put($("connection"), text);
    Object.assign($("connection").dataset, { state, kind });
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
    const { chosen } = this;
    try {
      const [{ nodes }, about] = await Promise.all([api("/nodes"), chosen && api(pathOf(chosen.node))]);
      this.nodes = nodes;
      if (about && chosen === this.chosen) this.know(about);
      put($("fleet-notice"), "");
    } catch ({ message }) {
      put($("fleet-notice"), `This list is not up to date: ${message}.`);
    }
    this.draw();
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.refresh(), REFRESH_MS);
  },

  know(about) {
    // Live messages may have told of jobs that the answer does not know yet.
    const newer = [...this.jobs].filter(([, { index }]) => about.log === this.log && index > about.head);
    this.log = about.log;
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
    if (job !== null) this.jobs.set(job, { job, ...seen });
    this.soon ??= setTimeout(() => this.draw(), 150);
  },

  draw() {
    clearTimeout(this.soon);
    this.soon = undefined;
    if (this.nodes === null) return;
    const wanted = words($("fleet-filter"));
    this.open = this.nodes.find(({ node }) => node === this.chosen?.node);
    const whole = this.open && hasAll(this.open.node, wanted);
    const jobs = [...this.jobs.values()]
      .filter(({ job, status }) => whole || hasAll(`${job} ${status}`, wanted))
      .sort((one, other) => other.index - one.index);
    const nodes = this.nodes.filter((node) =>
      hasAll(`${node.node} ${node.status} ${node.job ?? ""}`, wanted) || (node === this.open && jobs.length));
    const focused = document.activeElement;
    this.sync($("nodes"), nodes, "node");
    for (const { children: [, list, more], name } of $("nodes").children) {
      const mine = name === this.open?.node ? jobs : [];
      this.sync(list, mine.slice(0, JOBS_SHOWN), "job");
      list.hidden = mine.length === 0;
      put(more, mine.length > JOBS_SHOWN ? `and ${plural(mine.length - JOBS_SHOWN, "older job")}` : "");
    }
    // An element that moves to another place in the list loses the focus.
    if (focused !== document.activeElement && $("nodes").contains(focused)) focused.focus();
    $("no-nodes").hidden = this.nodes.length > 0;
    $("choose").hidden = this.chosen !== null;
    put($("choose"), this.nodes.length ? "Choose a node to see its updates." : "A node appears once it has published.");
    $("no-match").hidden = nodes.length > 0 || this.nodes.length === 0;
    put($("fleet-count"), this.nodes.length ? plural(this.nodes.length, "node") : "");
  },

  /** Make the items of a list be those of the summaries, keeping the elements of those that stay. */
  sync(list, summaries, what) {
    const gone = new Map(Array.from(list.children, (item) => [item.name, item]));
    summaries.forEach((summary, place) => {
      const item = gone.get(summary[what]) ?? this.item(summary[what], what);
      gone.delete(summary[what]);
      if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
      this.describe(item.firstElementChild, summary, what);
    });
    for (const item of gone.values()) item.remove();
  },

  item(name, what) {
    const path = what === "node" ? pathOf(name) : pathOf(this.chosen.node, name);
    const link = make(
      "a",
      { href: `#${path}`, "data-testid": what, [`data-${what}`]: name },
      make("span", { class: "dot" }),
      make("bdi", { class: "name" }, name),
      make("bdi", { class: "status" }),
      make("span", { class: "ago" }),
    );
    const item = make("li", {}, link);
    const jobs = { class: "jobs", role: "list", "aria-label": "Jobs" };
    if (what === "node") item.append(make("ul", jobs), make("p", { class: "more" }));
    item.name = name;
    return item;
  },

  describe(link, { node, job, status, last_seen }, what) {
    const { chosen } = this;
    const current = what === "job" ? chosen.job === job : chosen?.node === node && chosen.job === null;
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    link.dataset.kind = kindOf(status);
    link.title = `${what === "job" ? job : node}: ${shorten(status, 300)}, ${ago(last_seen)}`;
    link.classList.toggle("stale", Date.now() - last_seen > STALE_MS);
    put(link.children[2], shorten(status, 80));
    put(link.children[3], ago(last_seen));
  },
};

// ---- putting it together

let feed = null;

function route() {
  const topic = topicOf(location.hash);
  feed?.stop();
  updates.clear();
  updates.follow(true);
  fleet.choose(topic);
  document.body.classList.toggle("choosing", topic === null);
  $("connection").dataset.state = "closed";
  $("stream").hidden = topic === null;
  $("stream").classList.toggle("one-job", topic?.job != null);
  const names = topic ? [topic.node, topic.job].filter((name) => name !== null) : [];
  document.title = names.length ? `${names.join(" / ")} · streamer` : "streamer";
  $("topic").replaceChildren(...names.map((name, place) =>
    make("a", { href: place ? location.hash : `#${pathOf(name)}`, title: name }, make("bdi", {}, name))));
  feed = topic && new Feed(topic);
}

function moveThroughRows(event) {
  const rows = [...updates.list.querySelectorAll(".update:not([hidden]) summary")];
  const last = rows.length - 1;
  const at = rows.indexOf(document.activeElement);
  const step = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: last }[event.key];
  if (event.key === "Escape") updates.list.focus();
  if (step === undefined || last < 0 || event.target.matches("pre")) return;
  event.preventDefault();
  const next = at < 0 && event.key !== "Home" ? last : Math.min(last, Math.max(0, step));
  if (next < last) updates.follow(false);
  rows[next].focus();
}

function listen() {
  const { list } = updates;
  let top = 0;
  list.addEventListener("scroll", () => {
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 2;
    const moved = list.scrollTop - top;
    top = list.scrollTop;
    if (updates.following ? !atEnd && moved < 0 : atEnd && moved > 0) updates.follow(!updates.following);
  });
  // A smooth scroll begins with a step so small that the next update would pull it back.
  const letGo = ({ deltaY }) => deltaY < 0 && list.scrollTop > 0 && updates.following && updates.follow(false);
  list.addEventListener("wheel", letGo, { passive: true });
  list.addEventListener("keydown", moveThroughRows);
  list.addEventListener("toggle", ({ target }) => {
    target.querySelector("pre")?.remove();
    if (!target.open) return;
    target.append(make("pre", { tabindex: 0, "aria-label": "The whole update" }, pretty(target.parentElement.update)));
    target.scrollIntoView({ block: "nearest" });
    updates.follow(false); // else the next update would push away what is being read
  }, true);
  new ResizeObserver(() => updates.schedule()).observe(list);

  $("filter").addEventListener("input", () => updates.filter(words($("filter"))));
  $("follow").addEventListener("click", () => updates.follow(!updates.following));
  $("newer").addEventListener("click", () => updates.follow(true));
  $("retry").addEventListener("click", () => feed?.connect());
  $("fleet-filter").addEventListener("input", () => fleet.draw());
  $("fleet-toggle").addEventListener("click", () => document.body.classList.add("choosing"));
  // On a phone the list lies over the updates: choosing what is chosen already must close it too.
  $("nodes").addEventListener("click", ({ target }) => {
    if (target.closest("a")?.hash === location.hash) document.body.classList.remove("choosing");
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input") || !feed) return;
    event.preventDefault();
    $("filter").focus();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    if (feed?.state === "reconnecting") feed.connect();
    fleet.refresh();
  });
  addEventListener("online", () => feed?.state === "reconnecting" && feed.connect());
  addEventListener("hashchange", route);
  setInterval(() => {
    feed?.tick();
    if (!document.hidden) fleet.draw();
  }, 1000);
}

listen();
route();
