// The agent's events, once for all tabs: one of them, the leader, holds the stream and relays what comes.
//
// A browser allows six connections to a server; a seventh tab with a stream of its own would stall. The leader has
// the lock; when its tab goes, the next in the queue gets it. Whoever leads says `open` once it is connected.

const NAME = "scopewatch";
const KINDS = ["entry", "status", "labels", "model", "heartbeat", "resync"];
const BACK_OFF_MS = [300, 1000, 2000, 4000, 8000];
const listeners = new Map();
const channel = new BroadcastChannel(NAME);
let source = null;
let failures = 0;
let timer = 0;

export const stream = { start, stop, onEvent, takeOver, tell, leads: () => source !== null || timer !== 0 };

/**
 * Call `fn(data, id)` for each event of a kind, in every tab. `id` is "EPOCH-N".
 * Besides the agent's kinds: `open` (connected, also anew), `broken` (not, or no longer).
 */
function onEvent(kind, fn) {
  if (!listeners.has(kind)) listeners.set(kind, new Set());
  listeners.get(kind).add(fn);
  return () => listeners.get(kind).delete(fn);
}

/** Join the queue of those who may lead. */
function start() {
  channel.onmessage = (message) => deliver(message.data);
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  queue({});
}

/** Lead from now on, whoever does: for a visible tab that hears nothing, because the leader may be asleep. */
function takeOver() {
  if (stream.leads()) return;
  queue({ steal: true });
}

/** Hold no stream until `start` or `open` is told. */
function stop() {
  close();
}

/** Say something to all tabs, this one too. */
function tell(kind, data = null, id = null) {
  const message = { kind, data, id };
  channel.postMessage(message);
  deliver(message);
}

async function queue(options) {
  try {
    await navigator.locks.request(NAME, options, () => {
      open();
      return new Promise(() => {});
    });
  } catch {
    close(); // another tab took over
    queue({});
  }
}

function open() {
  close();
  source = new EventSource("/api/events");
  source.onopen = () => {
    failures = 0;
    tell("open");
  };
  source.onerror = again;
  for (const kind of KINDS) source.addEventListener(kind, (event) => tell(kind, event.data, event.lastEventId));
}

// The browser itself would try again every few seconds for ever, and after an answer like 503 not at all.
function again() {
  close();
  tell("broken");
  const wait = BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length - 1)];
  failures += 1;
  timer = setTimeout(open, wait * (0.75 + Math.random() / 2));
}

function close() {
  clearTimeout(timer);
  timer = 0;
  source?.close();
  source = null;
}

function deliver({ kind, data, id }) {
  const found = listeners.get(kind);
  if (!found) return;
  const parsed = data === null ? null : JSON.parse(data);
  for (const listener of found) listener(parsed, id);
}
