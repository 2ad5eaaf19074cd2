// Keys that only change the view; the table of all keys is `keys.js`.

import { keys } from "./keys.js";
import { store } from "./store.js";

/** Let keys act on the picture. */
export function start(picture, { follow }) {
  const strengthen = (step) => store.set({ overlay: true, opacity: Math.min(100, Math.max(0, store.state.opacity + step)) });
  const add = (name, text, run, options) => keys.add(name, "review", text, run, options);
  add("O", "map on or off", () => store.set({ overlay: !store.state.overlay }));
  add("[", "colours of the map weaker", () => strengthen(-10), { repeats: true });
  add("]", "colours of the map stronger", () => strengthen(10), { repeats: true });
  add("+", "enlarge the picture", () => picture.zoomBy(1.5));
  add("-", "reduce the picture", () => picture.zoomBy(1 / 1.5));
  add("Space", "follow the newest again", () => follow());
}
