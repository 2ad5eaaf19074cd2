// The agent's events, once for all tabs: one of them, the leader, holds the stream and relays what comes.
//
// A browser allows six connections to a server; a seventh tab with a stream of its own would stall. The leader has
// the lock; when its tab goes, the next in the queue gets it.

const NAME = "scopewatch";
const KINDS = ["entry", "status", "labels", "model", "heartbeat", "resync"];
const BACK_OFF_MS = [300, 1000, 2000, 4000, 8000];
const listeners = new Map();
const channel = new BroadcastChannel(NAME);
let source = null;
let failures = 0;
let timer = 0;
let leads = false;
let place = null; // in the queue, to be given up
let isOut = false; // signed out

export const stream = {
  /**
   * Call `fn(data, id)` in every tab for each event of a kind; `id` is "EPOCH-N". Besides the agent's kinds there
   * are `open` (connected, also anew) and `broken` (not, or no longer).
   */
  onEvent(kind, fn) {
    if (!listeners.has(kind)) listeners.set(kind, new Set());
    listeners.get(kind).add(fn);
    return () => listeners.get(kind).delete(fn);
  },

  /** Join the queue of those who may lead. */
  start() {
    channel.onmessage = (message) => deliver(message.data);
    addEventListener("pagehide", close);
    queue();
  },

  /** For a visible tab that hears nothing: connect anew, or lead from now on, as the leader may be asleep. */
  takeOver() {
    if (leads) return open();
    place.abort();
    hold({ steal: true });
  },

  /** Ask for no events until somebody has signed in. */
  signOut() {
    isOut = true;
    close();
  },

  /** Say something in all tabs, in this one too: "signed_in" is said by the page itself. */
  tell,
};

stream.onEvent("signed_in", () => {
  isOut = false;
  if (leads) open();
});

function queue() {
  place = new AbortController();
  hold({ signal: place.signal });
}

async function hold(options) {
  try {
    await navigator.locks.request(NAME, options, () => {
      leads = true;
      if (!isOut) open();
      return new Promise(() => {});
    });
  } catch {
    if (!leads) return; // the place in the queue was given up
    leads = false; // another tab took over
    close();
    queue();
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

// The browser itself would not come back after an answer like 503, and never wait longer than at first.
function again() {
  close();
  const wait = BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length - 1)];
  failures += 1;
  if (!isOut) timer = setTimeout(open, wait * (0.75 + Math.random() / 2));
  tell("broken");
}

function close() {
  clearTimeout(timer);
  timer = 0;
  source?.close();
  source = null;
}

function tell(kind, data = null, id = "") {
  const message = { kind, data, id };
  channel.postMessage(message);
  deliver(message);
}

function deliver({ kind, data, id }) {
  const parsed = JSON.parse(data);
  for (const listener of listeners.get(kind) ?? []) {
    try {
      listener(parsed, id);
    } catch (error) {
      console.error(error); // a part that fails keeps no other from hearing
    }
  }
}
