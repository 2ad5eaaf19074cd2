// What the page knows, in one plain object; who draws is told once a frame, and while the page is hidden not at all.

const listeners = new Set();
let changed = new Set();

export const store = {
  state: {
    connection: "starting", // then live, lost or signed_out
    heard: Date.now(), // when the agent was last heard of, by this PC's clock, in ms
    skew: 0, // this PC's clock minus the agent's, in ms
    status: null,
    model: null,
    folders: [],
    rows: [], // the newest 24, newest first
    wanted: null, // what is to be shown: {id, row, blind}; row is null until it is known
    selected: null, // id of the entry whose answer is shown
    content: null, // and the name of its bytes: a file may be saved again
    following: true,
    unseen: 0, // entries that came while not following
    person: "",
    undo: null,
    redo: null,
    waiting_labels: null,
    overlay: true, // whether the map is drawn
    opacity: 0, // of its colours, 0..100 %; 0 leaves the line
  },

  /** Call `fn(state, changed)` once a frame in which something changed; `changed` is a set of names. */
  subscribe(fn) {
    listeners.add(fn);
    return () => listeners.delete(fn);
  },

  set(patch) {
    const before = changed.size;
    for (const [name, value] of Object.entries(patch)) {
      if (store.state[name] !== value) changed.add(name);
      store.state[name] = value;
    }
    if (!before && changed.size) requestAnimationFrame(tell);
  },
};

function tell() {
  const names = changed;
  changed = new Set();
  for (const listener of listeners) {
    try {
      listener(store.state, names);
    } catch (error) {
      console.error(error); // a part that fails keeps no other from drawing
    }
  }
}
