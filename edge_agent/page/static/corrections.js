// What people say of entries: by keys and buttons, shown at once, sent in order, and sent again under the same number
// until the agent has answered; what it refuses is taken back and said.
import { classMark } from "./colours.js";
import { el, put } from "./dom.js";
import { drawMark, entries, entriesWords } from "./history.js";
import { keys } from "./keys.js";

const OUTBOX = "scopewatch.outbox";
const REPEATED = "scopewatch.repeated";
const BY = "scopewatch.by";
const MOVES_ON = "scopewatch.moves_on";
const CONFIRMED_ABOVE = 200;
const JUST_CAME_MS = 700;
const TOAST_MS = 12000;
const WAITS_MS = [500, 1000, 2000, 4000, 8000];
// No answer, signed out, a token of before a restart, an agent between two services: nothing is lost by asking again.
const AGAIN = [0, 401, 403, 429, 500, 502, 503, 504];

/** The one giver of labels of the page, once it was started. */
export let corrections = null;

export function start(root, context) {
  corrections = new Corrections(root, context);
  return corrections;
}

class Corrections {
  constructor(root, context) {
    Object.assign(this, context);
    this.outbox = JSON.parse(sessionStorage.getItem(OUTBOX) ?? "[]");
    this.bars = [this.makeBar("latest", root), this.makeBar("history", entries.bar)];
    this.makeOwnBar(root);
    this.makeToast();
    this.addKeys();
    this.cameAt = 0;
    this.store.subscribe((state, changed) => {
      if (changed.has("selected") && state.following) this.cameAt = performance.now();
      if (changed.has("model")) for (const bar of this.bars) this.drawBar(bar);
      if (changed.has("person")) this.by.placeholder = state.person;
    });
    this.pump();
  }

  get labels() {
    return this.store.state.model?.labels ?? [];
  }

  get person() {
    return this.by.value.trim() || this.store.state.person;
  }

  makeBar(from, root) {
    const box = el("div", { class: "label-bar", role: "group", "aria-label": from === "latest" ? "Label the picture"
      : "Label what is selected" });
    root.append(box);
    const bar = { box, from };
    this.drawBar(bar);
    return bar;
  }

  drawBar({ box, from }) {
    const button = (key, words, run, mark) =>
      el("button", { type: "button", onclick: run }, mark ?? "", words, key ? el("kbd", {}, key) : "");
    const { labels } = this;
    box.replaceChildren(
      ...labels.map((label, at) => button(at < 9 ? String(at + 1) : "", label, () => this.give("correct", label, from),
        drawMark(el("span", { class: "mark", "aria-hidden": "true" }), classMark(labels, label)))),
      button("0", "not in the list", () => this.give("not_in_list", null, from)),
      button("Enter", "confirm", () => this.give("confirm", null, from)),
      button("R", "repeat", () => this.repeat(from)),
    );
  }

  makeOwnBar(root) {
    const button = (words, run) => el("button", { type: "button", onclick: run }, words);
    this.by = el("input", { maxlength: "40", autocomplete: "off", spellcheck: "false", size: "6" });
    this.by.value = localStorage.getItem(BY) ?? "";
    this.by.addEventListener("change", () => localStorage.setItem(BY, this.by.value.trim()));
    const movesOn = el("input", { type: "checkbox" });
    movesOn.checked = this.movesOn;
    movesOn.addEventListener("change", () => localStorage.setItem(MOVES_ON, movesOn.checked ? "yes" : "no"));
    root.append(el("div", { class: "own-bar" }, button("Undo", () => this.undo("undo")),
      button("Redo", () => this.undo("redo")), button("Keys", () => keys.list()),
      el("label", {}, "By ", this.by), el("label", {}, movesOn, " in the history, move on after a label")));
  }

  get movesOn() {
    return localStorage.getItem(MOVES_ON) !== "no";
  }

  makeToast() {
    this.words = el("p", { role: "status" });
    const back = () => {
      this.undo("undo");
      this.lastPlace?.focus(); // the button goes
    };
    document.addEventListener("focusin", ({ target }) => target.closest("#latest, #history") && (this.lastPlace = target));
    this.back = el("button", { type: "button", onclick: back }, "Undo");
    this.toast = el("div", { class: "toast", hidden: true }, this.back);
    document.body.append(el("div", { class: "toasts" }, this.words, this.toast));
  }

  say(text, canUndo = false) {
    put(this.words, text);
    this.toast.hidden = !canUndo;
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      if (this.toast.contains(document.activeElement)) return;
      put(this.words, "");
      this.toast.hidden = true;
    }, TOAST_MS);
  }

  addKeys() {
    const from = (event) => (event.target.closest("#history") ? "history" : "latest");
    keys.add("1-9", "review", "this class, in the order of the model", (event, name) => {
      const label = this.labels[name - 1];
      if (label !== undefined) this.give("correct", label, from(event));
      else this.say(`There is no class ${name}.`);
    });
    keys.add("0", "review", "not in the list of classes", (event) => void this.give("not_in_list", null, from(event)));
    keys.add("Enter", "review", "the answer is right", (event) => void this.give("confirm", null, from(event)));
    keys.add("R", "review", "the last action again", (event) => void this.repeat(from(event)));
    keys.add("Ctrl+Z", "review", "takes the last action back", () => void this.undo("undo"));
    keys.add(["Ctrl+Shift+Z", "Ctrl+Y"], "review", "does it again", () => void this.undo("redo"));
  }

  targetOf(from) {
    if (from === "history") return entries.target;
    const { selected } = this.store.state;
    return selected === null ? null : { ids: [selected], count: 1 };
  }

  repeat(from) {
    const last = JSON.parse(localStorage.getItem(REPEATED) ?? "null");
    if (!last) return this.say("Nothing was done yet that could be repeated.");
    return this.give(last.action, last.label, from);
  }

  async give(action, label, from) {
    const target = this.targetOf(from);
    if (!target) return this.say("Nothing is selected.");
    if (from === "latest" && performance.now() - this.cameAt < JUST_CAME_MS)
      return this.say("A new micrograph has just come in: look again, then press again.");
    const by = this.person || (await this.askPerson());
    if (!by) return;
    if (target.count > CONFIRMED_ABOVE && !(await this.askCount(target.count, action, label))) return;
    localStorage.setItem(REPEATED, JSON.stringify({ action, label }));
    this.send(action, label, by, target);
    if (from === "history" && target.count === 1 && this.movesOn) entries.step(1);
  }

  send(action, label, by, target) {
    const item = { path: "/api/labels", words: wordsOf(action, label, target.count), body: { batch: crypto.randomUUID(),
      action, label, by, ticket: null, ...target } };
    item.before = this.foresee(item.body);
    this.post(item);
    this.say(`${item.words}.`, true);
  }

  // Shows what will have been said, and returns what is to be shown again should the agent refuse.
  foresee({ action, label, by, ...target }) {
    const at = new Date().toISOString();
    const rows = entries.rowsOf(target).filter((row) => action !== "confirm" || row.label);
    const given = (row) => ({ action, label: action === "confirm" ? row.label : label, by, at });
    return [...entries.change(new Map(rows.map((row) => [row.id, { given: given(row) }])))].map(([id, row]) => [
      id, { given: row.given }]);
  }

  // Puts it behind what still waits; the promise tells how the agent answered.
  post(item) {
    const answered = new Promise((done) => (item.done = done));
    this.outbox.push(item);
    this.keep();
    this.pump();
    return answered;
  }

  keep() {
    sessionStorage.setItem(OUTBOX, JSON.stringify(this.outbox));
  }

  async pump() {
    if (this.isSending) return;
    this.isSending = true;
    for (let tries = 0; this.outbox.length; ) {
      const [item] = this.outbox;
      try {
        const answer = await this.api.post(item.path, item.body);
        tries = 0;
        this.answered(item, answer);
      } catch (error) {
        if (AGAIN.includes(error.status)) {
          this.say(`${error.message}: ${this.outbox.length} kept here, to be sent again.`);
          await new Promise((done) => setTimeout(done, WAITS_MS[Math.min(tries++, WAITS_MS.length - 1)]));
          continue;
        }
        this.refused(item, error);
      }
      this.outbox.shift();
      this.keep();
    }
    this.isSending = false;
  }

  answered(item, answer) {
    item.done?.(answer);
    if (item.path !== "/api/labels") return this.say(`${item.words}: ${answer.what}.`, item.path === "/api/redo");
    const skipped = answer.skipped ? `; ${answer.skipped} without an answer left out` : "";
    if (!item.body.ticket) this.say(`${wordsOf(item.body.action, item.body.label, answer.count)}${skipped}.`, true);
  }

  refused(item, error) {
    if (item.before?.length) entries.change(new Map(item.before));
    item.done?.(null);
    const { action, label, by, filter, count } = item.body;
    if (error.status === 409 && filter) return this.askAgain(action, label, by, filter, error.body.count, count);
    this.say(item.path === "/api/labels" ? `Not labelled: ${error.message}` : `${error.message}.`);
  }

  async askAgain(action, label, by, filter, count, before) {
    const agreed = await this.askCount(count, action, label, `Now ${entriesWords(count)} match, not ${before}.`);
    if (agreed) this.send(action, label, by, { filter, count });
    else this.say("Nothing was labelled.");
  }

  undo(which) {
    const body = { by: this.person, request: crypto.randomUUID() };
    this.post({ path: `/api/${which}`, body, words: which === "undo" ? "Undone" : "Done again" });
  }

  // Asked once where the agent runs as a service and knows nobody.
  async askPerson() {
    const typed = await ask("Who labels?", "Your initials stand beside every label you give.", "Initials", (text) => text);
    if (!typed) return "";
    this.by.value = typed;
    localStorage.setItem(BY, typed);
    return typed;
  }

  askCount(count, action, label, before = "") {
    const text = `${before} This is about ${entriesWords(count)}: ${wordsOf(action, label, count)}. Type the number to go on.`;
    return ask("So many at once?", text.trim(), `${count}`, (typed) => typed.replace(/\D/g, "") === String(count));
  }
}

function wordsOf(action, label, count) {
  const many = entriesWords(count);
  if (action === "confirm") return `${many} confirmed`;
  return `${many} labelled ${action === "correct" ? label : "not in the list"}`;
}

// A dialog with one field; resolves to what was typed once `fits`, or to "" when it is closed.
function ask(title, text, name, fits) {
  const field = el("input", { autocomplete: "off", maxlength: "40" });
  const good = el("button", { type: "button", disabled: true }, "Go on");
  const bad = el("button", { type: "button" }, "Cancel");
  const dialog = el("dialog", { "aria-labelledby": "ask-title" }, el("h2", { id: "ask-title" }, title), el("p", {}, text),
    el("label", {}, `${name} `, field), el("div", { class: "own-bar" }, good, bad));
  document.querySelector("#dialogs").append(dialog);
  const end = () => dialog.close(field.value.trim());
  field.addEventListener("input", () => (good.disabled = !fits(field.value.trim())));
  field.addEventListener("keydown", (event) => event.key === "Enter" && !good.disabled && end());
  good.addEventListener("click", end);
  bad.addEventListener("click", () => dialog.close(""));
  dialog.addEventListener("cancel", () => (dialog.returnValue = ""));
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => {
    dialog.remove();
    done(dialog.returnValue);
  }));
}
