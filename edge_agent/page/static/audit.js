// The blind check: pictures drawn at random, shown without answer, map or name, so that no label is led by them.
import { corrections } from "./corrections.js";
import { el, put } from "./dom.js";
import { keys } from "./keys.js";
import { accuracyWords } from "./learning.js";

const LOOK_MS = 300000;
let sitting = null;

/** Make the button that offers the check; hidden while nothing waits. */
export function offer(context) {
  const button = el("button", { type: "button", hidden: true });
  let looked = 0;
  async function look() {
    looked = Date.now();
    const { left } = await next(context, []).catch(() => ({ left: 0 }));
    button.hidden = !left;
    put(button, `Blind check (${left} waiting)`);
  }
  button.addEventListener("click", () => (sitting = new Sitting(context, look)));
  context.stream.onEvent("entry", () => Date.now() - looked > LOOK_MS && look());
  look();
  return button;
}

function next({ api, store }, skipped) {
  const query = new URLSearchParams({ by: corrections?.person ?? store.state.person });
  if (skipped.length) query.set("skip", skipped.slice(-50).join());
  return api.get(`/api/audit/next?${query}`);
}

class Sitting {
  constructor(context, ended) {
    Object.assign(this, { context, given: 0, skipped: [], labels: context.store.state.model?.labels ?? [] });
    const button = (key, words, run) => el("button", { type: "button", onclick: run }, words, el("kbd", {}, key));
    this.picture = el("img", { alt: "A micrograph drawn at random" });
    this.words = el("p", { role: "status" });
    this.choices = el("div", { class: "label-bar" },
      ...this.labels.map((label, at) => button(at < 9 ? String(at + 1) : "", label, () => this.give("correct", label))),
      button("0", "not in the list", () => this.give("not_in_list", null)), button("S", "skip", () => this.skip()));
    this.dialog = el("dialog", { id: "audit", "aria-labelledby": "audit-title" },
      el("h2", { id: "audit-title" }, "Blind check"), this.words, this.picture, this.choices,
      el("button", { type: "button", onclick: () => this.dialog.close() }, "Finish", el("kbd", {}, "Esc")));
    this.dialog.addEventListener("close", () => {
      sitting = null;
      this.dialog.remove();
      ended();
    });
    document.querySelector("#dialogs").append(this.dialog);
    this.dialog.showModal();
    this.ask();
  }

  async ask() {
    this.entry = null;
    let found;
    try {
      found = await next(this.context, this.skipped);
    } catch (error) {
      return put(this.words, `No picture: ${error.message}`);
    }
    const { row, ticket, left } = found;
    if (!row || this.skipped.includes(row.id)) return this.finish();
    this.entry = { id: row.id, ticket };
    this.picture.src = `/api/entries/${row.id}/picture.jpg`;
    put(this.words, `What is this? ${left} left.`);
  }

  async give(action, label) {
    if (!this.entry) return;
    const { id, ticket } = this.entry;
    this.entry = null;
    const by = corrections.person || (await corrections.askPerson());
    if (!by) return this.ask();
    put(this.words, "Keeping it.");
    const body = { batch: crypto.randomUUID(), action, label, by, ids: [id], count: 1, ticket };
    if (await corrections.post({ path: "/api/labels", body })) this.given++;
    this.ask();
  }

  skip() {
    if (this.entry) this.skipped.push(this.entry.id);
    this.ask();
  }

  async finish() {
    this.picture.hidden = this.choices.hidden = true;
    const learning = await this.context.api.get("/api/learning").catch(() => null);
    const live = learning ? ` ${accuracyWords(learning.audit)}` : "";
    put(this.words, `${this.given} labelled blind, nothing else waits.${live}`);
  }
}

keys.add("1-9", "audit", "this class", (event, name) => {
  const label = sitting?.labels[name - 1];
  if (label !== undefined) sitting.give("correct", label);
});
keys.add("0", "audit", "not in the list of classes", () => void sitting?.give("not_in_list", null));
keys.add("S", "audit", "skips this picture", () => void sitting?.skip());
