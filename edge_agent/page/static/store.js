// What the page knows, in one plain object; whoever draws is told once a frame, and not at all while hidden.

export const store = {
  state: {
    connection: "starting", // starting | live | lost | signed_out
    heard: 0, // when the agent was last heard from, by this PC's clock, in ms
    skew: 0, // this PC's clock minus the agent's, in ms
    epoch: null,
    status: null,
    model: null,
    folders: [],
    rows: [], // the newest 24, newest first
    shown: null, // what is to be shown: {id, row, blind}; row is null until it is known
    selected: null, // its id
    following: true,
    unseen: 0,
    person: "",
    undo: null,
    redo: null,
    waiting_labels: null,
    theme: "dark",
    overlay: true,
    opacity: 0, // of the map's colours, 0..100 %
  },
  subscribe,
  set,
};

const listeners = new Set();
let changed = new Set();
let frame = 0;

/** Call `fn(state, changed)` once a frame in which something changed; `changed` is the set of names. Returns its end. */
function subscribe(fn) {
  listeners.add(fn);
  return () => listeners.delete(fn);
}

function set(patch) {
  if ("shown" in patch) patch.selected = patch.shown?.id ?? null;
  for (const [name, value] of Object.entries(patch)) {
    if (store.state[name] === value) continue;
    store.state[name] = value;
    changed.add(name);
  }
  if (changed.size && !frame) frame = requestAnimationFrame(tell);
}

function tell() {
  const now = changed;
  changed = new Set();
  frame = 0;
  for (const listener of listeners) {
    try {
      listener(store.state, now);
    } catch (error) {
      console.error(error); // one part that fails keeps no other from drawing
    }
  }
}
