// The bar above everything: glyph, word and age; and what is said aloud when that changes.

import { Alarm, Tally } from "./alerts.js";
import { el, fill, put } from "./dom.js";
import { tick } from "./live.js";
import { store } from "./store.js";
import { stream } from "./stream.js";
import { outcomeWords, spanWords } from "./words.js";

const SPEAK_MS = 10000;
// A state is told by shape and word, not by colour.
const GLYPHS = {
  working: "M12 4a8 8 0 1 0 0 16a8 8 0 1 0 0-16",
  idle: "M7 5h4v14H7zM13 5h4v14h-4z",
  starting: "M6 3h12l-5 9 5 9H6l5-9z",
  backlog: "M4 5h16v3H4zM4 10.5h16v3H4zM4 16h16v3H4z",
  disk_low: "M3 4h18v16H3zM6 7v7h12V7z",
  watcher_unhealthy: "M12 2 23 21H1zM11 9v6h2V9zM11 17v2h2v-2z",
  model_refused: "M8 2h8l6 6v8l-6 6H8l-6-6V8zM7 11v2h10v-2z",
  no_contact: "M5 3 12 10 19 3 21 5 14 12 21 19 19 21 12 14 5 21 3 19 10 12 3 5z",
};
const LEVELS = { working: "calm", idle: "calm", starting: "calm", signed_out: "calm", backlog: "warn", disk_low: "warn" };
const COLOURS = { calm: "#35c792", warn: "#e69f00", bad: "#ff8a5c" };
const OWN = {
  lost: { state: "no_contact", words: "NO CONTACT", detail: "What is shown is old. Does the agent run?", command: "edge-agent status" },
  signed_out: { state: "signed_out", words: "NOT SIGNED IN", detail: "" },
  starting: { state: "starting", words: "CONNECTING", detail: "" },
};
const parts = {};
const alarm = new Alarm();
const tally = new Tally();
let spoken = 0;
let audio = null;

/** Draw the bar into `root`, and say in the two live regions what is to be heard. */
export function start(root) {
  const pressed = (key, words, run) =>
    el("button", { "data-act": key, "aria-pressed": String(Boolean(localStorage[key])), onclick: (event) => run(toggle(event.target, key)) }, words);
  setTheme(localStorage.theme);
  Object.assign(parts, {
    root,
    path: el("path", { "fill-rule": "evenodd" }),
    word: el("strong"),
    age: el("span"),
    detail: el("span"),
    command: el("code"),
    also: el("ul", { class: "also", "aria-label": "Also" }),
    snooze: el("button", { "data-act": "snooze", onclick: () => turn(alarm.snooze(Date.now())) }),
  });
  root.append(
    el("h1", { class: "unseen" }, "scopewatch"),
    el("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, parts.path),
    el("p", { class: "state" }, parts.word, parts.age),
    el("p", { class: "detail" }, parts.detail, " ", parts.command),
    parts.also,
    parts.snooze,
    pressed("tone", "Tone", () => {}),
    pressed("theme", "Red", setTheme),
  );
  stream.onEvent("entry", ({ row, new: isNew }) => isNew && tally.add(heard(row)));
  store.subscribe(() => turn());
  setInterval(turn, 1000);
  for (const kind of ["visibilitychange", "resume"]) document.addEventListener(kind, () => turn());
  addEventListener("focus", () => turn());
  for (const kind of ["pointerup", "keyup"]) addEventListener(kind, wakeSound);
}

function toggle(button, key) {
  localStorage[key] = localStorage[key] ? "" : "on";
  button.setAttribute("aria-pressed", String(Boolean(localStorage[key])));
  return localStorage[key];
}

const setTheme = (isRed) => (document.documentElement.dataset.theme = isRed ? "red" : "dark");

function heard({ outcome, decision, label }) {
  if (outcome !== "classified") return outcomeWords(outcome);
  return decision === "abstain" ? "abstained" : label;
}

function turn() {
  const now = Date.now();
  tick(now);
  const { connection, status } = store.state;
  const shown = OWN[connection] ?? status ?? OWN.starting;
  draw(shown, now);
  const told = alarm.step(shown.state, now);
  if (told) put(document.getElementById("alert-live"), `${shown.words}. ${told === "raised" ? shown.detail : ""}`);
  if (told === "raised" && localStorage.tone) beep();
  if (now - spoken < SPEAK_MS) return;
  const words = tally.take();
  if (!words) return;
  spoken = now;
  const live = document.getElementById("status-live");
  put(live, words + (live.textContent === words ? "\u00a0" : "")); // the same words again are spoken as well
}

function draw(shown, now) {
  const { root, path, word, age, detail, command, also, snooze } = parts;
  const { connection } = store.state;
  const level = LEVELS[shown.state] ?? "bad";
  Object.assign(root.dataset, { state: shown.state, level });
  document.documentElement.dataset.connection = connection;
  document.getElementById("latest").toggleAttribute("data-stale", connection !== "live");
  path.setAttribute("d", GLYPHS[shown.state] ?? GLYPHS.starting);
  put(word, shown.words);
  put(age, ageWords(shown.state, now));
  put(detail, shown.detail);
  put(command, shown.command ?? "");
  const others = (shown.also ?? []).filter((one) => LEVELS[one.state] !== "calm").map((one) => `${one.words}: ${one.detail}`);
  if (also.textContent !== others.join("")) fill(also, ...others.map((text) => el("li", {}, text)));
  const left = Math.ceil((alarm.snoozedUntil - now) / 60000);
  snooze.hidden = !alarm.raised && left <= 0;
  put(snooze, left > 0 ? `Silent for ${left} min: end` : "Silence for 30 min");
  const title = `${level === "calm" ? "" : "\u26a0 "}${shown.words} \u2013 scopewatch`;
  if (document.title !== title) document.title = title;
  const source = iconOf(shown.state, level);
  const icon = document.getElementById("favicon");
  if (icon.getAttribute("href") !== source) icon.setAttribute("href", source);
}

// Made here: an agent that is gone cannot be asked for the icon that says so.
const icons = new Map();
function iconOf(state, level) {
  const drawing = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path fill="${COLOURS[level]}" fill-rule="evenodd" d="${GLYPHS[state] ?? GLYPHS.starting}"/></svg>`;
  if (!icons.has(drawing)) icons.set(drawing, URL.createObjectURL(new Blob([drawing], { type: "image/svg+xml" })));
  return icons.get(drawing);
}

function ageWords(state, now) {
  const { heard: last, skew, rows } = store.state;
  if (state === "no_contact") return ` for ${spanWords((now - last) / 1000)}`;
  return rows.length && state !== "signed_out" ? `, last image ${spanWords((now - skew - Date.parse(rows[0].at)) / 1000)} ago` : "";
}

// Browsers let a page sound only after somebody used it.
function wakeSound() {
  if (!localStorage.tone) return;
  audio ??= new AudioContext();
  audio.resume();
}

function beep() {
  if (audio?.state !== "running") return;
  const [tone, volume, end] = [audio.createOscillator(), audio.createGain(), audio.currentTime + 0.4];
  volume.gain.setValueAtTime(0.08, audio.currentTime);
  volume.gain.exponentialRampToValueAtTime(0.0001, end);
  tone.frequency.value = 660;
  tone.connect(volume).connect(audio.destination);
  tone.start();
  tone.stop(end);
}
