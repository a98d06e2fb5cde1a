/** An update, as the node made it. */
export interface Update<State = Record<string, unknown>> {
  status: string;
  state: State;
  /** Milliseconds since 1970, by the node's clock. */
  timestamp: number;
  /** The update's number in its node's log, from 0, without holes. */
  index: number;
  /** The index of the update before it in the same job, -1 if there is none. */
  previous: number;
  /** What `after` takes to go on behind this update. */
  cursor: string;
}

/** What a follow with `events: true` gives beside updates. They have a `type`, which updates have not. */
export type FollowEvent =
  /** All that there was has come; from here on updates come as they happen. Comes again after a lost connection. */
  | { type: "live"; cursor: string }
  /** Updates that were due are no longer kept: those among the indexes `from` to `to`. */
  | { type: "gap"; from: number; to: number; cursor: string }
  /** A failover lost what stood behind `index`: forget it. What the log has instead follows. */
  | { type: "rewind"; index: number; cursor: string }
  /** The log was started anew: forget all of the topic. */
  | { type: "reset"; cursor: string };

export interface ConnectOptions {
  /** A token, or what gives one; it is asked again for each connection, so that an expired one can be replaced. */
  token?: string | (() => string | Promise<string>);
  /** The class to use where there is no global one, as in Node before version 22: that of the package `ws`. */
  WebSocket?: unknown;
  /** Reads a message; by default JSON.parse. */
  parse?: (text: string) => unknown;
  /** Is told how the connection is doing, for those who show it. `reason` is a URL, or why it waits. */
  onstatus?: (change: { status: "connecting" | "open" | "waiting"; reason: string }) => void;
}

export interface FollowOptions {
  node?: string;
  /** A job; left out for all of the node. */
  job?: string;
  /** Go on behind this cursor. */
  after?: string | number;
  /** Without `after`: how much comes first. The default is all that is kept. */
  history?: "all" | "none" | number;
}

/**
 * The updates of a topic, for one `for await` loop; leaving the loop ends it. A loop that is slow loses nothing.
 *
 * Without `events`, a gap throws GapError and a reset ResetError, and what a failover replaced comes again.
 */
export class Follow<Item> implements AsyncIterableIterator<Item> {
  private constructor();
  /** Behind what the loop was given last: keep it, and pass it as `after` to go on there. */
  readonly cursor: string | undefined;
  [Symbol.asyncIterator](): this;
  next(): Promise<IteratorResult<Item, undefined>>;
  return(value?: unknown): Promise<IteratorResult<Item, undefined>>;
}

/** Any number of follows on one connection, which is made again whenever it is lost. */
export class Client {
  constructor(url: string | URL | (string | URL)[], options?: ConnectOptions);
  follow<State = Record<string, unknown>>(
    options: FollowOptions & { events: true },
  ): Follow<Update<State> | FollowEvent>;
  follow<State = Record<string, unknown>>(options: FollowOptions & { events?: false }): Follow<Update<State>>;
  /** End all follows, and the connection. */
  close(): void;
}

/** A client of one gateway, or of several that serve the same Redis: each try takes the next. */
export function connect(url: string | URL | (string | URL)[], options?: ConnectOptions): Client;

/** Something cannot be had. */
export class StreamError extends Error {
  /** The gateway's code of the error, an HTTP status or a close code. */
  readonly code?: string | number;
}
export class GapError extends StreamError {
  readonly from: number;
  readonly to: number;
  readonly cursor: string;
}
export class ResetError extends StreamError {
  readonly cursor: string;
}
