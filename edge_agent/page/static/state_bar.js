// The bar above everything: glyph, word and age; and what is spoken when that changes.

import { Alarm, Tally } from "./alerts.js";
import { el, fill, put } from "./dom.js";
import { onNewEntry, tick } from "./live.js";
import { settings } from "./settings.js";
import { store } from "./store.js";
import { outcomeWords, spanWords } from "./words.js";

const SPEAK_MS = 10000;
// One shape for each state: it is told by shape and word, not by colour.
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
const CALM = ["working", "idle"];
const BAD = ["no_contact", "model_refused", "watcher_unhealthy"];

/** Draw the bar into `root`, and speak in `#status-live` and `#alert-live`. */
export function start(root) {
  const parts = build(root);
  const alarm = new Alarm();
  const tally = new Tally();
  onNewEntry((row) => tally.add(row, spoken(row)));
  let said = 0;
  const turn = () => {
    const now = Date.now();
    tick(now);
    draw(parts, now, alarm);
    const told = alarm.step(stateNow().state, now);
    if (told) alert(told);
    if (now - said < SPEAK_MS) return;
    const words = tally.take();
    if (words) [said] = [now, put(document.getElementById("status-live"), words)];
  };
  parts.snooze.onclick = () => {
    if (alarm.snoozedUntil > Date.now()) alarm.wake();
    else alarm.snooze(Date.now());
    turn();
  };
  setInterval(turn, 1000);
  for (const [where, kind] of [[document, "visibilitychange"], [window, "focus"], [document, "resume"], [window, "online"]])
    where.addEventListener(kind, turn);
  store.subscribe((state, changed) => {
    if (["connection", "status", "rows"].some((name) => changed.has(name))) turn();
  });
}

function build(root) {
  const path = el("path", { "fill-rule": "evenodd" });
  const glyph = el("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", class: "glyph" }, path);
  const word = el("strong", { class: "state-word" });
  const age = el("span", { class: "age" });
  const detail = el("p", { class: "detail" });
  const command = el("code", { hidden: true });
  const also = el("ul", { class: "also", "aria-label": "Also" });
  const snooze = el("button", { hidden: true });
  root.append(el("h1", { class: "unseen" }, "scopewatch"), glyph, el("p", { class: "said-state" }, word, age), detail, command, also, snooze, settings());
  return { root, path, word, age, detail, command, also, snooze, icon: document.getElementById("favicon"), shown: "" };
}

const spoken = (row) =>
  row.outcome !== "classified" ? outcomeWords(row.outcome) : row.decision === "abstain" ? "abstained" : row.label;

/** The state to be shown: the agent's own, unless it is not heard from. */
function stateNow() {
  const { connection, status } = store.state;
  if (connection === "lost") return { state: "no_contact", words: "NO CONTACT", also: [], command: null, detail: "" };
  return status ?? { state: "starting", words: "STARTING", also: [], command: null, detail: "" };
}

function draw(parts, now, alarm) {
  const { root, path, word, age, detail, command, also, snooze, icon } = parts;
  const status = stateNow();
  document.documentElement.dataset.connection = store.state.connection;
  root.dataset.level = BAD.includes(status.state) ? "bad" : CALM.includes(status.state) ? "calm" : "warn";
  root.dataset.state = status.state;
  const shape = GLYPHS[status.state] ?? GLYPHS.starting;
  if (path.getAttribute("d") !== shape) path.setAttribute("d", shape);
  put(word, status.words);
  put(age, ageWords(status, now));
  put(detail, status.state === "no_contact" ? "What is shown is old. Is the agent running on its PC?" : status.detail);
  command.hidden = !status.command;
  put(command, status.command ?? "");
  drawAlso(parts, status.also ?? []);
  const left = alarm.snoozedUntil - now;
  snooze.hidden = !alarm.raised && left <= 0;
  put(snooze, left > 0 ? `Silent for ${Math.ceil(left / 60000)} min: end` : "Silence 30 min");
  const title = `${root.dataset.level === "calm" ? "" : "\u26a0 "}${status.words} \u2013 scopewatch`;
  if (document.title !== title) document.title = title;
  const source = `/static/icon-${root.dataset.level}.svg`;
  if (icon.getAttribute("href") !== source) icon.setAttribute("href", source);
}

function drawAlso(parts, also) {
  const shown = JSON.stringify(also);
  if (shown === parts.shown) return;
  parts.shown = shown;
  fill(parts.also, ...also.map((one) => el("li", { title: one.detail }, one.words)));
}

function ageWords(status, now) {
  const { heard, skew, rows } = store.state;
  if (status.state === "no_contact") return `for ${spanWords((now - heard) / 1000)}`;
  return rows.length ? `last image ${spanWords((now - skew - Date.parse(rows[0].at)) / 1000)} ago` : "no image yet";
}

function alert(told) {
  const status = stateNow();
  put(document.getElementById("alert-live"), told === "raised" ? `${status.words}. ${status.detail}` : `${status.words} again.`);
  if (told === "raised" && localStorage.tone === "on") beep();
}

function beep() {
  const audio = new AudioContext();
  const tone = audio.createOscillator();
  const volume = audio.createGain();
  volume.gain.setValueAtTime(0.08, audio.currentTime);
  volume.gain.exponentialRampToValueAtTime(0.0001, audio.currentTime + 0.4);
  tone.frequency.value = 660;
  tone.connect(volume).connect(audio.destination);
  tone.onended = () => audio.close();
  tone.start();
  tone.stop(audio.currentTime + 0.4);
}
