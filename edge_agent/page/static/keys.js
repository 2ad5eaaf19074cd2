// The one table of keys: what the list of keys shows is what works. A key acts only while the focus is inside its
// area and nobody is typing; keys without Ctrl that write a character can be switched off (WCAG 2.1.4).
import { el } from "./dom.js";

const AREAS = {
  review: ["#latest, #history", "picture and history"],
  latest: ["#latest", "picture"],
  history: ["#history", "history"],
  audit: ["#audit", "blind check"],
};
const SWITCH = "scopewatch.single_keys";
const FIELDS = "input:not([type=checkbox],[type=radio],[type=button]), textarea, select, [contenteditable]";
const PRESSED = "button, a, summary, input, [role=slider]";
const table = [];

export const keys = {
  // `names`: "R", "Ctrl+Z", "ArrowDown", "1-9", or several in an array; `run(event, name)` may return false: not used.
  add(names, area, text, run, { repeats = false } = {}) {
    const shown = [names].flat();
    const each = shown.flatMap((name) => (name === "1-9" ? [..."123456789"] : [name]));
    table.push({ shown, names: each, area, text, run, repeats });
  },
  get on() {
    return localStorage.getItem(SWITCH) !== "off";
  },
  set on(value) {
    localStorage.setItem(SWITCH, value ? "on" : "off");
  },
  list: openList,
};

function nameOf(event) {
  const { key, code } = event;
  const chosen = event.getModifierState("AltGraph");
  if ((event.altKey && !chosen) || event.isComposing) return "";
  const control = (event.ctrlKey || event.metaKey) && !chosen;
  let name = key.length === 1 ? key.toUpperCase() : key;
  // Letters of other alphabets and the digits' row of a French keyboard are known by their place.
  if (/^[^\x00-\x7f]$/.test(key) && /^Key[A-Z]$/.test(code)) name = code.at(-1);
  const isBound = table.some((row) => row.names.includes(name));
  if (!isBound && !chosen && !event.shiftKey && /^Digit\d$/.test(code)) name = code.at(-1);
  if (name === " ") name = "Space";
  const shift = event.shiftKey && (name.length > 1 || /[A-Z]/.test(name));
  return `${control ? "Ctrl+" : ""}${shift ? "Shift+" : ""}${name}`;
}

function pressed(event) {
  const { target } = event;
  if (event.defaultPrevented || target.closest(FIELDS)) return;
  const name = nameOf(event);
  const writes = name.length === 1 || name === "Space";
  if (!name || (writes && !keys.on)) return;
  if ((name === "Enter" || name === "Space") && target.closest(PRESSED)) return;
  for (const row of table) {
    if (!row.names.includes(name) || !target.closest(AREAS[row.area][0])) continue;
    if (event.repeat && !row.repeats) return event.preventDefault();
    if (row.run(event, name) !== false) return event.preventDefault();
  }
}
document.addEventListener("keydown", pressed);

function openList() {
  const on = el("input", { type: "checkbox", id: "single-keys" });
  on.checked = keys.on;
  on.addEventListener("change", () => (keys.on = on.checked));
  const close = el("button", { type: "button" }, "Close");
  const rows = table.map(({ shown, area, text }) =>
    el("tr", {}, el("td", {}, ...shown.flatMap((name, at) => [at ? " " : "", el("kbd", {}, name)])),
      el("td", {}, text), el("td", {}, AREAS[area][1])));
  const head = ["Key", "What it does", "Works in"].map((name) => el("th", { scope: "col" }, name));
  const dialog = el("dialog", { class: "keys", "aria-labelledby": "keys-title" },
    el("h2", { id: "keys-title" }, "Keys"),
    el("p", {}, "They act only while the focus is there, and never while you type."),
    el("label", { for: "single-keys" }, on, " Single keys (digits, letters, Space) act"),
    el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)), close);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.querySelector("#dialogs").append(dialog);
  dialog.showModal();
}
for (const area of ["review"]) keys.add("?", area, "shows this list", () => openList());
