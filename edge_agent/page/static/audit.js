// The blind check: pictures drawn at random, shown without answer, map or name, so that nothing leads the label.

import { corrections } from "./corrections.js";
import { modal } from "./dialogs.js";
import { el, put } from "./dom.js";
import { showPicture } from "./drawing.js";
import { keys } from "./keys.js";
import { accuracyWords } from "./learning.js";

const LOOK_MS = 30000;
const MOST_SKIPPED = 50;
const LOOKED_MS = 300; // a key before that was meant for the picture before
let sitting = null;

/** The button that offers the check, while anything waits for it. */
export function offer({ api, stream, store }) {
  const button = el("button", { hidden: true });
  let looked = 0;
  const next = (skip = []) =>
    api.get(`/api/audit/next?${new URLSearchParams({ by: corrections.person || "-", skip: skip.slice(-MOST_SKIPPED) })}`);
  const look = async () => {
    looked = Date.now();
    const { left } = await next().catch(() => ({ left: 0 }));
    button.hidden = !left;
    put(button, `Blind check: ${left} waiting`);
  };
  button.onclick = async () => {
    if (await corrections.known()) sitting = new Sitting(store.state.model?.labels ?? [], api, next, look);
  };
  for (const kind of ["entry", "labels"]) stream.onEvent(kind, () => Date.now() - looked > LOOK_MS && look());
  stream.onEvent("open", look);
  look();
  return button;
}

class Sitting {
  constructor(labels, api, next, ended) {
    Object.assign(this, { labels, api, next, given: 0, skipped: [] });
    const button = (key, words, run) => el("button", { onclick: run }, words, key && el("kbd", {}, key));
    this.words = el("p", { role: "status" });
    this.picture = el("img", { alt: "A micrograph drawn at random", hidden: true });
    this.choices = el("div", { class: "bar" },
      labels.map((label, at) => button(at < 9 && `${at + 1}`, label, () => this.give("correct", label))),
      button("0", "not in the list", () => this.give("not_in_list", null)), button("S", "skip", () => this.skip()));
    const end = button("Esc", "Finish", () => dialog.close());
    const dialog = modal("Blind check", { id: "audit" }, this.words, this.picture, this.choices, end);
    dialog.addEventListener("close", () => {
      sitting = null;
      ended();
    });
    this.ask();
  }

  async ask() {
    this.entry = this.asked = null;
    this.picture.removeAttribute("src"); // the last one must not pass for the next
    this.picture.hidden = true;
    try {
      const { row, ticket, left } = await this.next(this.skipped);
      if (!row || this.skipped.includes(row.id)) return await this.finish();
      this.asked = row.id;
      const words = `What is this? ${left} waiting.`;
      put(this.words, words);
      showPicture(this.picture, `/api/entries/${row.id}/picture.jpg`, {
        shown: () => Object.assign(this, { entry: { id: row.id, ticket }, shownAt: performance.now() }),
        failed: () => put(this.words, `${words} Its picture cannot be drawn: skip it.`),
      });
    } catch (error) {
      put(this.words, `No picture: ${error.message}`);
    }
  }

  async give(action, label) {
    const { entry } = this; // none while its picture is not there
    if (!entry || performance.now() - this.shownAt < LOOKED_MS) return;
    this.entry = this.asked = null;
    const by = corrections.person;
    const body = { batch: crypto.randomUUID(), action, label, by, ids: [entry.id], count: 1, ticket: entry.ticket };
    if (await corrections.post({ path: "/api/labels", body })) this.given += 1;
    this.ask();
  }

  skip() {
    if (!this.asked) return;
    this.skipped.push(this.asked);
    this.ask();
  }

  async finish() {
    this.picture.remove();
    this.choices.remove();
    const { audit } = await this.api.get("/api/learning");
    put(this.words, `${this.given} labelled blind; nothing else waits. ${accuracyWords(audit)}`);
  }
}

keys.add("1-9", "audit", "the class with this number", (event, name) => {
  const label = sitting?.labels[name - 1];
  if (label !== undefined) sitting.give("correct", label);
});
keys.add("0", "audit", "not in the list of classes", () => sitting?.give("not_in_list", null));
keys.add("S", "audit", "skips this picture", () => sitting?.skip());
