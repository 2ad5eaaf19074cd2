// Keys that only change the view; the table of all keys is that of `keys.js`.

import { keys } from "./keys.js";
import { store } from "./store.js";

/** Register the keys of the latest micrograph. */
export function start(root, { follow, picture }) {
  const strengthen = (step) => store.set({ opacity: Math.min(100, Math.max(0, store.state.opacity + step)) });
  keys.add("O", "review", "map on or off", () => store.set({ overlay: !store.state.overlay }));
  keys.add("[", "review", "map colours weaker", () => strengthen(-10));
  keys.add("]", "review", "map colours stronger", () => strengthen(10));
  keys.add("Space", "review", "follow the newest again", follow);
  keys.add("+", "review", "enlarge", () => picture.zoomBy(1.5));
  keys.add("-", "review", "reduce", () => picture.zoomBy(1 / 1.5));
}
