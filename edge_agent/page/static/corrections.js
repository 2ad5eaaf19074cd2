// What people say of entries, by keys and buttons: shown at once, sent in order, sent again under the same number until
// the agent has answered. What it refuses is taken back, and said.

import { ask } from "./dialogs.js";
import { el, put } from "./dom.js";
import { chip, entries, entriesWords } from "./history.js";
import { keys } from "./keys.js";

const OUTBOX = "scopewatch.outbox";
const BY = "scopewatch.by";
const STAYS = "scopewatch.stays";
const COUNTED_ABOVE = 200;
const JUST_CAME_MS = 700;
const TOAST_MS = 12000;
const LONGEST_WAIT_MS = 8000;
const MOST_FAILURES = 5;
// No answer, signed out, the token of an earlier run, an agent between two services: asking again may help.
const AGAIN = [0, 401, 403, 429, 500, 502, 503, 504];

/** The one giver of labels of the page, once it was started. */
export let corrections = null;

export function start(root, context) {
  corrections = new Corrections(root, context);
}

class Corrections {
  constructor(root, { store, api }) {
    Object.assign(this, { store, api, last: null, cameAt: 0, seen: { ...store.state }, outbox: JSON.parse(sessionStorage.getItem(OUTBOX) ?? "[]") });
    const bars = { latest: el("div", { class: "bar" }), history: el("div", { class: "bar" }) };
    this.by = el("input", { id: "person", maxlength: 40, autocomplete: "off", spellcheck: "false", size: 6 });
    this.by.value = localStorage.getItem(BY) ?? "";
    this.by.onchange = () => localStorage.setItem(BY, this.by.value.trim());
    this.stays = el("input", { type: "checkbox", checked: localStorage.getItem(STAYS) === "yes" });
    this.stays.onchange = () => localStorage.setItem(STAYS, this.stays.checked ? "yes" : "no");
    root.append(bars.latest);
    document.getElementById("beside").append(el("div", { class: "bar" }, el("button", { onclick: () => this.undo("undo") }, "Undo"),
      el("button", { onclick: keys.list }, "Keys"), el("label", {}, "By", this.by)));
    entries.bar.append(bars.history);
    entries.options.append(el("label", {}, this.stays, "stay after a label"));
    this.makeToast();
    this.addKeys();
    const draw = () => {
      for (const [from, bar] of Object.entries(bars)) bar.replaceChildren(...this.buttons(from));
      this.by.placeholder = store.state.person;
    };
    store.subscribe((state, changed) => {
      this.look(state);
      if (changed.has("model") || changed.has("person")) draw();
    });
    draw();
    addEventListener("beforeunload", (event) => this.isWaiting && event.preventDefault()); // labels would be lost
    this.pump();
  }

  get labels() {
    return this.store.state.model?.labels ?? [];
  }

  get person() {
    return this.by.value.trim() || this.store.state.person;
  }

  /** The person, asked for once where the agent runs as a service and knows nobody; "" where none is given. */
  async known() {
    if (!this.person) {
      this.by.value = await ask("Who labels?", "Your initials stand beside each label that you give.", "Initials", Boolean);
      this.by.onchange();
    }
    return this.person;
  }

  buttons(from) {
    const button = (key, words, run, mark) =>
      el("button", { onclick: ({ detail }) => detail > 1 || run() }, mark, words, key && el("kbd", {}, key)); // no double click
    return [
      ...this.labels.map((label, at) =>
        button(at < 9 && `${at + 1}`, label, () => this.give("correct", label, from), chip(this.labels, label))),
      button("0", "not listed", () => this.give("not_in_list", null, from)),
      button("\u21b5", "confirm", () => this.give("confirm", null, from)),
      button("R", "repeat", () => this.repeat(from)),
    ];
  }

  makeToast() {
    this.words = el("p", { role: "status" });
    this.back = el("button", { hidden: true });
    this.back.onclick = () => {
      this.undo(this.turn);
      this.back.hidden = true; // a double click is one undo
      this.place?.focus(); // the button goes
    };
    document.body.append(el("div", { class: "toast" }, this.words, this.back));
    document.addEventListener("focusin", ({ target }) => {
      if (target.closest("#latest, #history")) this.place = target;
    });
  }

  // `turn`: "undo" or "redo", where that can be done now.
  say(text, turn = "") {
    put(this.words, text);
    this.turn = turn;
    this.back.hidden = !turn;
    put(this.back, turn === "redo" ? "Redo" : "Undo");
    clearTimeout(this.silence);
    if (text) this.silence = setTimeout(() => this.back === document.activeElement || this.say(""), TOAST_MS);
  }

  addKeys() {
    const add = (names, text, run) =>
      keys.add(names, "review", text, (event, name) => run(event.target.closest("#history") ? "history" : "latest", name));
    add("1-9", "the class with this number", (from, name) => {
      const label = this.labels[name - 1];
      if (label === undefined) this.say(`No class has the number ${name}.`);
      else this.give("correct", label, from);
    });
    add("0", "not in the list of classes", (from) => this.give("not_in_list", null, from));
    add("Enter", "the answer is right", (from) => this.give("confirm", null, from));
    add("R", "the last label again", (from) => this.repeat(from));
    add("Ctrl+Z", "takes the last action back", () => this.undo("undo"));
    add(["Ctrl+Shift+Z", "Ctrl+Y"], "does it again", () => this.undo("redo"));
  }

  repeat(from) {
    if (this.last) this.give(...this.last, from);
    else this.say("There is no label yet to repeat.");
  }

  async give(action, label, from) {
    const { selected } = this.store.state;
    const target = from === "history" ? entries.target : selected !== null && { ids: [selected], count: 1 };
    if (!target) return this.say("Nothing is selected.");
    const why = from === "latest" && this.whyNotSeen();
    if (why) return this.say(why);
    const by = this.person || (await this.known());
    if (!by || (target.count > COUNTED_ABOVE && !(await this.askCount(action, label, target.count)))) return;
    this.last = [action, label];
    this.send({ action, label, by, ...target, ...this.seenOf(target, from) });
    if (from === "history" && target.count === 1 && !this.stays.checked) entries.moveOn();
  }

  // By its beginning, the content of each entry as the person saw it: a file saved again meanwhile is not labelled.
  seenOf({ ids }, from) {
    if (!ids) return {};
    const contents = new Map(from === "latest" ? [[ids[0], this.seen.content]] : entries.pages.rows.map((row) => [row.id, row.content]));
    return { contents: ids.map((id) => contents.get(id)?.slice(0, 16) ?? null) };
  }

  // What came by itself, a new entry or new bytes of the same, is seen only after a moment.
  look({ selected, content, following }) {
    const { seen } = this;
    this.seen = { selected, content };
    if (seen.selected !== selected) this.cameAt = following ? performance.now() : -JUST_CAME_MS;
    else if (seen.content && seen.content !== content) this.cameAt = performance.now();
  }

  // A label is for what the person has seen.
  whyNotSeen() {
    const { selected, content, wanted } = this.store.state;
    const isDrawn = this.seen.selected === selected && this.seen.content === content;
    if (entries.isGoing || !isDrawn || (wanted && wanted.id !== selected)) return "It is not shown yet: look, then press again.";
    const isNew = performance.now() - this.cameAt < JUST_CAME_MS;
    return isNew ? "A new micrograph has just come: look again, then press again." : "";
  }

  send(order) {
    const body = { batch: crypto.randomUUID(), ...order, ticket: null };
    this.post({ path: "/api/labels", body, before: this.foresee(order) });
    this.say(`${wordsOf(order)}.`, "undo");
  }

  // Shows what is said before the agent knows it; returns what is shown again should it refuse.
  foresee({ action, label, by, ids }) {
    const asked = ids && new Set(ids);
    const changes = new Map();
    for (const row of entries.pages.rows) {
      const given = action === "confirm" ? row.label : label;
      if ((asked && !asked.has(row.id)) || (action === "confirm" && !given)) continue;
      changes.set(row.id, { given: { action, label: given, by, at: new Date().toISOString() } });
    }
    return [...entries.change(changes)].map(([id, { given }]) => [id, { given }]);
  }

  /** Put it behind what still waits; resolves to the agent's answer, null where it refused. */
  post(item) {
    return new Promise((done) => {
      this.outbox.push({ ...item, done });
      this.keep();
      this.pump();
    });
  }

  keep() {
    try {
      sessionStorage.setItem(OUTBOX, JSON.stringify(this.outbox));
    } catch (error) {
      console.warn(error); // full: what waits is sent all the same, but does not survive a reload
    }
  }

  async pump() {
    if (this.isSending) return;
    this.isSending = true;
    try {
      while (this.outbox.length) await this.sendFirst();
    } finally {
      this.isSending = false;
    }
  }

  async sendFirst() {
    const [item] = this.outbox;
    const [answer, refusal] = await this.answerTo(item);
    this.outbox.shift();
    this.isWaiting = false;
    this.keep();
    if (refusal) this.refused(item, refusal);
    else this.done(item, answer);
  }

  async answerTo({ path, body }) {
    for (let tries = 0; ; tries++) {
      try {
        return [await this.api.post(path, body), null];
      } catch (error) {
        if (!AGAIN.includes(error.status) || (error.status === 500 && tries >= MOST_FAILURES)) return [null, error];
        this.isWaiting = true;
        this.say(`${error.message}: ${this.outbox.length} kept here, to be sent again`);
      }
      do await new Promise((done) => setTimeout(done, Math.min(500 * 2 ** tries, LONGEST_WAIT_MS)));
      while (this.store.state.connection === "signed_out");
    }
  }

  done({ path, body, done }, { count, skipped, what }) {
    done?.({ count });
    if (body.ticket) return;
    if (path === "/api/undo") return this.say(`Taken back: ${what}.`, "redo");
    if (path === "/api/redo") return this.say(`Done again: ${what}.`, "undo");
    const left = skipped ? `; ${skipped} left out, without an answer or a file` : "";
    this.say(`${wordsOf({ ...body, count })}${left}.`, count ? "undo" : "");
  }

  refused({ body, before, done }, error) {
    done?.(null);
    entries.change(new Map(before));
    if (error.status === 409 && error.body?.count !== undefined) this.askAgain(body, error.body.count);
    else this.say(`${body.action ? "Not labelled: " : ""}${error.message}.`);
  }

  async askAgain({ action, label, by, filter, count: before }, count) {
    const agreed = await this.askCount(action, label, count, `By now ${entriesWords(count)} match, no longer ${before}. `);
    if (agreed) this.send({ action, label, by, filter, count });
    else this.say("Nothing was labelled.");
  }

  askCount(action, label, count, before = "") {
    const text = `${before}${wordsOf({ action, label, count })}? Type the number to go on.`;
    return ask("So many at once?", text, `${count}`, (typed) => typed.replace(/\D/g, "") === `${count}`);
  }

  async undo(which) {
    const by = await this.known();
    if (by) this.post({ path: `/api/${which}`, body: { by, request: crypto.randomUUID() } });
  }
}

function wordsOf({ action, label, count }) {
  if (action === "confirm") return `${entriesWords(count)} confirmed`;
  return `${entriesWords(count)} labelled ${label ?? "not in the list"}`;
}
