// The one table of keys: what the list shows is what works. A key acts only while the focus is inside its area and
// nobody is typing; those that write a character can be switched off (WCAG 2.1.4).

import { modal } from "./dialogs.js";
import { el } from "./dom.js";

const AREAS = {
  review: ["#latest, #history", "picture, history"],
  history: ["#history", "history"],
  audit: ["#audit", "blind check"],
};
const SWITCH = "scopewatch.single_keys";
const FIELDS = "input:not([type=checkbox], [type=radio]), textarea, select";
const PRESSED = "button, a, summary, input";
const table = [];

export const keys = {
  /** `names`: "R", "Ctrl+Z", "1-9", or several. `repeats`: also while held down. */
  add(names, area, text, run, { repeats = false } = {}) {
    const shown = [names].flat();
    const all = shown.flatMap((name) => (name === "1-9" ? [..."123456789"] : name));
    table.push({ shown, all, area, text, run, repeats });
  },
  list,
};

function nameOf(event) {
  const { key, code, altKey, ctrlKey, metaKey, shiftKey } = event;
  const isThirdLevel = event.getModifierState("AltGraph");
  if (event.isComposing || (altKey && !isThirdLevel)) return "";
  let name = key === " " ? "Space" : key.length === 1 ? key.toUpperCase() : key;
  // Letters of other alphabets, and the row of digits of a French keyboard, are known by their place.
  if (/^[^\x00-\x7f]$/.test(key) && code.startsWith("Key")) name = code.at(-1);
  const isFree = !isThirdLevel && !shiftKey && !table.some(({ all }) => all.includes(name));
  if (isFree && code.startsWith("Digit")) name = code.at(-1);
  const shift = shiftKey && (name.length > 1 || /[A-Z]/.test(name)) ? "Shift+" : "";
  return ((ctrlKey || metaKey) && !isThirdLevel ? "Ctrl+" : "") + shift + name;
}

document.addEventListener("keydown", (event) => {
  const { target } = event;
  if (event.repeat && event.key === "Enter" && target.closest("button")) return event.preventDefault(); // held: one click
  const name = nameOf(event);
  const writes = name.length === 1 || name === "Space";
  if (!name || event.defaultPrevented || target.closest(FIELDS)) return;
  if (writes && localStorage.getItem(SWITCH) === "off") return;
  if ((name === "Enter" || name === "Space") && target.closest(PRESSED)) return;
  const row = table.find(({ all, area }) => all.includes(name) && target.closest(AREAS[area][0]));
  if (!row) return;
  event.preventDefault();
  if (!event.repeat || row.repeats) row.run(event, name);
});

function list() {
  const on = el("input", { type: "checkbox", id: "keys-on", checked: localStorage.getItem(SWITCH) !== "off" });
  on.onchange = () => localStorage.setItem(SWITCH, on.checked ? "on" : "off");
  const rows = table.map(({ shown, area, text }) =>
    el("tr", {}, el("td", {}, shown.map((name) => el("kbd", {}, name))), el("td", {}, text), el("td", {}, AREAS[area][1])));
  const heads = ["Key", "What it does", "Where"].map((name) => el("th", { scope: "col" }, name));
  const dialog = modal("Keys", {}, el("p", {}, "They act while the focus is there, and never while you type."),
    el("label", {}, on, "Digits, letters and other characters act"), el("table", {}, el("tr", {}, heads), rows),
    el("button", { onclick: () => dialog.close() }, "Close"));
}
keys.add("?", "review", "this list", list);
