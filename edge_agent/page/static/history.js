// The history: up to 100,000 entries in a list, filters, and what of it is selected. New entries come in while
// following; otherwise nothing moves what is being looked at.

import { classMark } from "./colours.js";
import { el, put } from "./dom.js";
import { showPicture } from "./drawing.js";
import { Filters } from "./filters.js";
import { keys } from "./keys.js";
import { Pages, VirtualList } from "./virtual_list.js";
import { percent, rowWords, timeWords } from "./words.js";

const ROW_PX = 48; // also in review.css
const LONGEST_RANGE = 2000;
const LONGEST_HEAD = 300;
const REFRESH_MS = 2000;
const SETTLED_MS = 120;
const FACETS_MS = 30000;

/** "1 entry", "12,345 entries" */
export const entriesWords = (n) => `${n.toLocaleString("en")} ${n === 1 ? "entry" : "entries"}`;

/** The letter of a class in its colour. */
export function chip(labels, label) {
  const { letter, colour, ink } = classMark(labels, label);
  return el("span", { class: "chip", "aria-hidden": "true", style: { background: colour, color: ink } }, letter);
}

/** The one history of the page, once it was started. */
export let entries = null;

export function start(root, context) {
  entries = new Entries(root, context);
}

class Entries {
  constructor(root, { store, api, stream, show }) {
    Object.assign(this, { store, api, stream, show, ids: new Set(), isWhole: false, anchor: -1, steps: 0, choices: 0, asked: 0 });
    this.pages = new Pages(
      (after, signal) => api.get(`/api/history?${this.filters.query({ limit: 100, ...(after && { after }) })}`, { signal }),
      (error) => this.loaded(error),
    );
    this.filters = new Filters(() => {
      store.set({ following: false });
      this.refresh();
    });
    this.words = el("p", { id: "history-total", class: "small" });
    this.trouble = el("p", { role: "status" });
    this.options = el("div", { class: "options" }, this.words, this.filters.clear);
    this.bar = el("div", { hidden: true }); // for several at once; below the list, which it must not move
    this.box = el("div", { class: "entries", role: "listbox", tabindex: 0, "aria-label": "Entries", "aria-multiselectable": "true" });
    root.append(this.filters.box, this.options, this.trouble, this.box, this.bar);
    this.list = new VirtualList(this.box, {
      height: ROW_PX,
      make: makeRow,
      draw: (node, position) => this.draw(node, position),
      moved: (first, last) => this.moved(first, last),
    });
    this.box.onclick = (event) => this.clicked(event);
    this.addKeys();
    this.listen();
    if (this.filters.isSet) store.set({ following: false });
    this.refresh();
  }

  listen() {
    let was = true;
    this.store.subscribe(({ following }, changed) => {
      if (following && !was) {
        this.box.scrollTop = 0;
        this.refresh();
      }
      was = following;
      if (changed.has("model")) this.list.later(true);
    });
    for (const kind of ["pointerenter", "focusin"]) this.filters.box.addEventListener(kind, () => this.readFacets());
    this.stream.onEvent("entry", ({ row, new: isNew }) => (isNew ? this.came(row) : this.cameAgain(row)));
    this.stream.onEvent("labels", ({ changes, many }) =>
      many ? this.reload() : this.change(new Map(changes.map(([id, given]) => [id, { given }]))),
    );
    const anew = () => (this.store.state.following || !this.pages.total ? this.refresh() : this.reload());
    this.stream.onEvent("resync", anew);
    this.stream.onEvent("open", () => this.isReading || anew()); // who knows what was missed
  }

  // Everything anew, from the top; unless somebody began to look at something meanwhile.
  async refresh() {
    clearTimeout(this.due);
    this.due = 0;
    const asked = ++this.asked;
    this.isReading = true;
    const { following } = this.store.state;
    try {
      const index = await this.api.get(`/api/history/index?${this.filters.query()}`);
      const top = index.total ? await this.pages.read(0, null, index) : []; // nothing on the screen goes until it is there
      if (asked !== this.asked) return;
      if (following && !this.store.state.following && this.pages.total) return this.reload();
      const since = this.filters.isSet ? [] : this.pages.head.filter(({ id }) => id > index.newest);
      this.pages.reset(index, top);
      this.pages.head = since;
      Object.assign(this, { steps: this.steps + 1, isGoing: false }); // who is on the way somewhere has lost the way
      this.list.active = -1;
      this.box.scrollTop = 0;
      this.choose([]);
      this.resized();
      this.list.later(true);
      this.readFacets();
    } catch (error) {
      if (asked !== this.asked) return;
      this.loaded(error);
      if (!error.status || error.status >= 500) this.due = setTimeout(() => this.refresh(), REFRESH_MS);
    } finally {
      if (asked === this.asked) this.isReading = false;
    }
  }

  // What one can choose from: days, sessions and classes get more.
  async readFacets() {
    if (performance.now() - (this.facetsAt ?? -FACETS_MS) < FACETS_MS) return;
    this.facetsAt = performance.now();
    try {
      this.filters.draw(await this.api.get("/api/history/facets"));
    } catch {
      this.facetsAt = null;
    }
  }

  // What stands at the places is read again.
  reload() {
    this.pages.doubt();
    this.list.later(true);
  }

  came(row) {
    const { head, index } = this.pages;
    if (!this.store.state.following || row.id <= index.newest || head.some(({ id }) => id === row.id)) return;
    if (this.filters.isSet || head.length >= LONGEST_HEAD) this.due ||= setTimeout(() => this.dueNow(), REFRESH_MS);
    if (this.filters.isSet) return;
    head.unshift(row);
    this.list.shift();
    this.resized();
    this.list.later(true);
  }

  // A file that was saved again: it belongs on top, once nobody looks at something else.
  cameAgain(row) {
    this.change(new Map([[row.id, row]]));
    if (this.store.state.following) this.due ||= setTimeout(() => this.dueNow(), REFRESH_MS);
  }

  dueNow() {
    this.due = 0;
    if (this.store.state.following) this.refresh();
  }

  resized() {
    const { total } = this.pages;
    this.list.resize(total);
    this.list.later();
    put(this.trouble, total ? "" : this.filters.isSet ? "No entry matches." : "No file was seen yet.");
    this.tell();
  }

  tell() {
    const { total } = this.pages;
    const chosen = this.isWhole ? total : this.ids.size;
    const found = `${entriesWords(total)}${this.filters.isSet ? " found" : ""}`;
    put(this.words, chosen ? `${found}, ${chosen.toLocaleString("en")} selected` : found);
    if (chosen < 2 && this.bar.contains(document.activeElement)) this.box.focus();
    this.bar.hidden = chosen < 2;
  }

  loaded(error) {
    put(this.trouble, error ? `The history cannot be read: ${error.message}` : "");
    this.list.later(true);
  }

  moved(first, last) {
    if (this.box.scrollTop > 4) this.store.set({ following: false });
    this.pages.want(first, last);
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.drawThumbs(), SETTLED_MS);
  }

  /** Change what is known of entries (id to what is new). Returns what was known before of those that are loaded. */
  change(changes) {
    const before = new Map();
    for (const row of this.pages.rows) {
      if (!changes.has(row.id)) continue;
      before.set(row.id, { ...row });
      Object.assign(row, changes.get(row.id));
    }
    if (before.size) this.list.later(true);
    return before;
  }

  draw(node, position) {
    const row = this.pages.at(position);
    const isActive = position === this.list.active;
    node.id = `entry-at-${position}`;
    node.setAttribute("aria-posinset", position + 1);
    node.setAttribute("aria-setsize", this.pages.total);
    node.setAttribute("aria-selected", String(Boolean(row && (this.isWhole || this.ids.has(row.id)))));
    node.classList.toggle("active", isActive);
    if (isActive) this.box.setAttribute("aria-activedescendant", node.id);
    drawRow(node, row, this.store.state.model?.labels);
  }

  // Pictures are fetched for what is looked at, not for what flies past.
  drawThumbs() {
    for (const [position, { thumb }] of this.list.nodes) {
      const row = this.pages.at(position);
      if (row?.outcome !== "classified" || thumb.hasAttribute("src")) continue;
      showPicture(thumb, `/api/entries/${row.id}/thumb.jpg?v=${(row.content ?? "").slice(0, 16)}`);
    }
  }

  // What is selected are ids, or all that the filters find.
  choose(ids, isWhole = false) {
    Object.assign(this, { ids: new Set(ids), isWhole, choices: this.choices + 1 });
    if (this.list.active < 0) this.box.removeAttribute("aria-activedescendant");
    this.tell();
    this.list.later(true);
  }

  async clicked({ target, ctrlKey, metaKey, shiftKey }) {
    const position = this.list.positionOf(target);
    if (position < 0) return;
    if (!ctrlKey && !metaKey) return this.go(position, shiftKey);
    const row = this.pages.at(position);
    if (!row) return;
    this.store.set({ following: false });
    await this.arrived; // what the click before selects
    const ids = new Set(this.isWhole ? [] : this.ids);
    if (!ids.delete(row.id)) ids.add(row.id);
    this.list.active = this.anchor = position;
    this.choose(ids);
  }

  /** Make an entry the active one, and select it, or all from where a range began. */
  go(...where) {
    this.arrived = this.goTo(...where);
    return this.arrived;
  }

  async goTo(wanted, isRange = false, isHeld = false) {
    const { pages, list, store } = this;
    if (!pages.total) return;
    const step = ++this.steps;
    this.isGoing = true; // what is shown is not what was asked for yet
    let position = Math.max(0, Math.min(wanted, pages.total - 1));
    if (!isRange || this.anchor < 0) this.anchor = position;
    const most = LONGEST_RANGE - 1;
    position = Math.max(this.anchor - most, Math.min(position, this.anchor + most));
    const [first, last] = [Math.min(this.anchor, position), Math.max(this.anchor, position)];
    store.set({ following: false });
    list.active = position;
    list.reveal(position);
    this.choose([]); // no key may reach what was selected before
    const { choices } = this;
    const rows = await pages.range(first, last).catch(() => []);
    if (step !== this.steps) return;
    if (choices === this.choices) this.choose(rows.map(({ id }) => id)); // not over what was chosen meanwhile
    clearTimeout(this.showing);
    const showNow = () => {
      const row = pages.at(position);
      if (row) this.show(row.id, { row });
      this.isGoing = false;
    };
    if (isHeld) this.showing = setTimeout(showNow, SETTLED_MS);
    else showNow();
  }

  /** To the next entry; behind the last one nothing is selected. */
  moveOn() {
    if (this.list.active + 1 < this.pages.total) this.step(1);
    else this.choose([]);
  }

  /** Go on by so many entries: from what is active, or in the picture from what is shown. */
  step(by, isRange, { target, repeat } = {}) {
    const shown = target?.closest("#latest") ? this.store.state.selected : null;
    const position = this.list.total && shown !== null ? this.placeOf(shown) : this.list.active;
    return this.go(position + by, isRange, repeat);
  }

  placeOf(id) {
    for (const place of [this.list.active, ...Array(100).keys()]) if (this.pages.at(place)?.id === id) return place;
    return this.list.active;
  }

  /** What is selected: {ids, count} or {filter, count}; null for nothing. */
  get target() {
    if (this.isWhole) return { filter: this.filters.chosen, count: this.pages.total };
    return this.ids.size ? { ids: [...this.ids], count: this.ids.size } : null;
  }

  addKeys() {
    const add = (names, text, run, area = "history") => keys.add(names, area, text, run, { repeats: true });
    add(["ArrowDown", "ArrowRight"], "next, older entry", (event) => this.step(1, false, event), "review");
    add(["ArrowUp", "ArrowLeft"], "previous, newer entry", (event) => this.step(-1, false, event), "review");
    add(["Shift+ArrowDown", "Shift+ArrowUp"], "selects one more", (event) => this.step(event.key === "ArrowUp" ? -1 : 1, true, event));
    add(["PageDown", "PageUp"], "a page on", (event) => this.step(event.key === "PageUp" ? -this.list.page : this.list.page, false, event));
    add(["Home", "Shift+Home"], "the first entry", ({ shiftKey }) => this.go(0, shiftKey));
    add(["End", "Shift+End"], "the last entry", ({ shiftKey }) => this.go(this.pages.total - 1, shiftKey));
    add("Ctrl+A", "selects all that the filters find", () => {
      this.store.set({ following: false });
      this.choose([], this.pages.total > 0);
    });
    add("Escape", "selects nothing", () => this.choose([]));
    add("/", "the filters", () => this.filters.selects[0].focus(), "review");
  }
}

function makeRow() {
  const node = el("div", { class: "entry", role: "option" });
  for (const name of ["letter", "answer", "given", "name", "when"]) node[name] = el("span", { class: name });
  node.thumb = el("img", { alt: "", width: 40, height: 40, decoding: "async", hidden: true });
  node.append(node.thumb, node.letter, el("span", { class: "line" }, node.answer, node.given), el("span", { class: "line small" }, node.name, node.when));
  return node;
}

function drawRow(node, row, labels) {
  const shown = `${row?.id} ${row?.content}`;
  if (node.shown !== shown) {
    node.thumb.removeAttribute("src");
    node.thumb.hidden = true;
  }
  node.shown = shown;
  node.dataset.id = row?.id ?? "";
  const { label, decision, given, name, at } = row ?? {};
  node.letter.replaceChildren(decision === "abstain" ? el("span", { class: "chip none", "aria-hidden": "true" }, "?") : label ? chip(labels, label) : "");
  put(node.answer, row ? answerWords(row) : "…");
  put(node.given, given ? ` → ${given.label ?? "not in the list"} (${given.by})` : "");
  node.given.classList.toggle("disagrees", Boolean(given && given.label !== label));
  put(node.name, name ?? "");
  put(node.when, timeWords(at));
}

// An abstention must not look like an answer.
function answerWords(row) {
  const words = rowWords(row);
  return row.decision === "abstain" ? `${words} (leans to ${row.label} ${percent(row.probability)})` : words;
}
