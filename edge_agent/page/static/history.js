// The history: a list of up to 100,000 entries, filters, and what of it is selected. New entries come in only while
// following; otherwise nothing moves what is being looked at.
import { classMark } from "./colours.js";
import { el, put } from "./dom.js";
import { Filters, queryOf } from "./filters.js";
import { keys } from "./keys.js";
import { Pages, VirtualList } from "./virtual_list.js";
import { decisionWords, outcomeWords, percent, timeWords } from "./words.js";

const ROW_PX = 48;
const LONGEST_RANGE = 2000;
const LONGEST_HEAD = 300;
const REFRESH_MS = 2000;
const THUMB_MS = 120;
const number = new Intl.NumberFormat();

/** "1 entry", "12,345 entries". */
export const entriesWords = (n) => `${number.format(n)} ${n === 1 ? "entry" : "entries"}`;

/** The one history of the page, once it was started. */
export let entries = null;

export function start(root, context) {
  entries = new Entries(root, context);
  return entries;
}

class Entries {
  constructor(root, context) {
    Object.assign(this, context, { ids: new Set(), whole: false, anchor: -1, steps: 0, told: new Set() });
    this.pages = new Pages(
      (after, limit, signal) => this.api.get(this.path("/api/history", { ...(after && { after }), limit }), { signal }),
      (error) => this.came(error),
    );
    this.filters = new Filters(() => {
      this.store.set({ following: false });
      this.refresh();
    });
    this.count = el("p", { class: "count" });
    this.nothing = el("p", { class: "nothing" });
    this.bar = el("div", { class: "selected-bar" });
    this.box = el("div", { class: "entries", role: "listbox", tabindex: "0", "aria-label": "History",
      "aria-multiselectable": "true" });
    root.append(this.filters.box, this.count, this.bar, this.nothing, this.box);
    this.list = new VirtualList(this.box, {
      height: ROW_PX, make: makeRow, draw: (node, position) => this.draw(node, position),
      moved: (first, last) => this.moved(first, last),
    });
    this.box.addEventListener("click", (event) => this.clicked(event));
    this.addKeys();
    this.listen();
    if (this.filters.isSet) this.store.set({ following: false });
    this.refresh();
    this.readFacets();
  }

  path(place, more) {
    const query = queryOf(this.filters.value, more);
    return query ? `${place}?${query}` : place;
  }

  listen() {
    let was = this.store.state.following;
    this.store.subscribe(({ following }, changed) => {
      if (following && !was) this.refresh();
      was = following;
      if (changed.has("model")) this.list.render();
    });
    this.stream.onEvent("entry", ({ row, new: isNew }) => (isNew ? this.arrived(row) : this.change(new Map([[row.id, row]]))));
    this.stream.onEvent("labels", ({ changes, many }) => {
      if (many) return this.reload();
      this.change(new Map(changes.map(([id, given]) => [id, { given }])));
    });
    this.stream.onEvent("resync", () => (this.store.state.following ? this.refresh() : this.reload()));
  }

  // Everything anew, from the top.
  async refresh() {
    clearTimeout(this.due);
    this.due = null;
    const ticket = (this.ticket = (this.ticket ?? 0) + 1);
    let index;
    try {
      index = await this.api.get(this.path("/api/history/index"));
    } catch (error) {
      if (ticket !== this.ticket) return;
      this.nothing.textContent = `The history cannot be read: ${error.message}`;
      this.due = setTimeout(() => this.refresh(), REFRESH_MS);
      return;
    }
    if (ticket !== this.ticket) return;
    this.pages.reset(index);
    this.list.active = -1;
    this.list.top = 0;
    this.choose([]);
    this.resized();
  }

  // The places stay; what stands there is read again.
  reload() {
    this.pages.forget();
    this.list.later();
  }

  async readFacets() {
    try {
      this.filters.facets = await this.api.get("/api/history/facets");
      this.filters.draw();
    } catch {
      setTimeout(() => this.readFacets(), REFRESH_MS);
    }
  }

  arrived(row) {
    if (!this.store.state.following || this.pages.at(0)?.id === row.id) return;
    if (this.filters.isSet || this.pages.head.length > LONGEST_HEAD) {
      this.due ??= setTimeout(() => this.refresh(), REFRESH_MS);
      if (this.filters.isSet) return;
    }
    this.pages.head.unshift(row);
    this.list.shift();
    this.resized(false);
  }

  resized(all = true) {
    const { total } = this.pages;
    this.list.setTotal(total);
    this.box.hidden = !total;
    this.nothing.textContent = total ? "" : this.filters.isSet ? "No entry matches." : "No micrograph was seen yet.";
    this.tell();
    if (all) this.list.render();
    this.list.later();
  }

  tell() {
    const { total } = this.pages;
    const chosen = this.whole ? total : this.ids.size;
    const found = `${entriesWords(total)}${this.filters.isSet ? (total === 1 ? " matches" : " match") : ""}`;
    put(this.count, chosen ? `${found}, ${this.whole ? "all" : number.format(chosen)} selected` : found);
    this.bar.hidden = !chosen;
  }

  came(error) {
    this.nothing.textContent = error ? `These entries cannot be read: ${error.message}` : "";
    this.list.render();
  }

  moved(first, last) {
    if (this.list.top > 4 && this.store.state.following) this.store.set({ following: false });
    this.pages.want(first, last);
    clearTimeout(this.thumbs);
    this.thumbs = setTimeout(() => this.drawThumbs(), THUMB_MS);
  }

  // Changes what is known of entries, and returns what was known before.
  change(changes) {
    const before = new Map();
    for (const row of this.pages.rows()) {
      const change = changes.get(row.id);
      if (!change) continue;
      before.set(row.id, { ...row });
      Object.assign(row, change);
    }
    if (before.size) this.list.render();
    return before;
  }

  isChosen(row) {
    return this.whole || this.ids.has(row.id);
  }

  draw(node, position) {
    const row = this.pages.at(position);
    const { labels = [] } = this.store.state.model ?? {};
    node.id = `entry-at-${position}`;
    node.setAttribute("aria-posinset", position + 1);
    node.setAttribute("aria-setsize", this.pages.total);
    node.setAttribute("aria-selected", String(Boolean(row && this.isChosen(row))));
    node.classList.toggle("active", position === this.list.active);
    if (position === this.list.active) this.box.setAttribute("aria-activedescendant", node.id);
    drawRow(node, row, labels);
  }

  drawThumbs() {
    for (const [position, { thumb }] of this.list.nodes) {
      const row = this.pages.at(position);
      const src = row ? `/api/entries/${row.id}/thumb.jpg?v=${(row.content ?? "").slice(0, 16)}` : "";
      if (!src || thumb.getAttribute("src") === src) continue;
      thumb.src = src;
      thumb.hidden = false;
    }
  }

  // Selection: by ids, or all that the filter finds.
  choose(rows, whole = false) {
    this.ids = new Set(rows.map((row) => row.id));
    this.whole = whole;
    if (this.list.active < 0) this.box.removeAttribute("aria-activedescendant");
    this.tell();
    this.list.render();
  }

  clicked(event) {
    const position = this.list.positionOf(event.target);
    const row = this.pages.at(position);
    if (!row) return;
    if (!event.ctrlKey && !event.metaKey) return this.go(position, event.shiftKey);
    this.store.set({ following: false });
    const rows = this.whole ? [] : [...this.ids].map((id) => ({ id }));
    const others = rows.filter(({ id }) => id !== row.id);
    this.list.active = this.anchor = position;
    this.choose(others.length === rows.length ? [...rows, row] : others);
  }

  // Makes an entry the active one and selects it, or everything from where a range began.
  async go(target, extend = false, isHeld = false) {
    const { pages, list } = this;
    if (!pages.total) return;
    const ticket = ++this.steps;
    let position = Math.max(0, Math.min(target, pages.total - 1));
    if (!extend || this.anchor < 0) this.anchor = position;
    const far = this.anchor + Math.sign(position - this.anchor) * (LONGEST_RANGE - 1);
    if (Math.abs(position - this.anchor) >= LONGEST_RANGE) position = far;
    this.store.set({ following: false });
    list.active = position;
    list.reveal(position);
    const first = Math.min(this.anchor, position);
    const last = Math.max(this.anchor, position);
    if (!pages.at(first) || !pages.at(last)) this.choose([]); // a key must not reach what was selected before
    let rows;
    try {
      rows = await pages.range(first, last);
    } catch {
      return;
    }
    if (ticket !== this.steps) return;
    this.choose(rows);
    const row = pages.at(position);
    clearTimeout(this.showing);
    if (row && !isHeld) this.show(row.id);
    else if (row) this.showing = setTimeout(() => this.show(row.id), THUMB_MS);
  }

  // The place of what is shown large, else of what is active.
  get current() {
    const { selected } = this.store.state;
    for (let position = 0; position < Math.min(this.pages.total, 200); position++)
      if (this.pages.at(position)?.id === selected) return position;
    return this.list.active;
  }

  step(by, extend, event) {
    const from = event?.target.closest("#latest") ? this.current : this.list.active;
    return this.go(from + by, extend, event?.repeat);
  }

  // What a key or button in the history is about: {ids} or {filter}, and how many.
  get target() {
    if (this.whole) return { filter: this.filters.chosen, count: this.pages.total };
    return this.ids.size ? { ids: [...this.ids], count: this.ids.size } : null;
  }

  rowsOf({ ids, filter }) {
    const asked = filter ? null : new Set(ids);
    return [...this.pages.rows()].filter((row) => !asked || asked.has(row.id));
  }

  addKeys() {
    const held = { repeats: true };
    const add = (names, text, run, area = "history") => keys.add(names, area, text, run, held);
    add(["ArrowDown", "ArrowRight"], "next (older) entry", (event) => void this.step(1, false, event), "review");
    add(["ArrowUp", "ArrowLeft"], "previous (newer) entry", (event) => void this.step(-1, false, event), "review");
    add("Shift+ArrowDown", "selects the next one too", (event) => void this.step(1, true, event));
    add("Shift+ArrowUp", "selects the previous one too", (event) => void this.step(-1, true, event));
    add("PageDown", "a page down", (event) => void this.step(this.list.page, false, event));
    add("PageUp", "a page up", (event) => void this.step(-this.list.page, false, event));
    add(["Home", "Shift+Home"], "first entry", (event) => void this.go(0, event.shiftKey));
    add(["End", "Shift+End"], "last entry", (event) => void this.go(this.pages.total - 1, event.shiftKey));
    add("Ctrl+A", "selects everything that the filter finds", () => {
      this.store.set({ following: false });
      this.choose([], this.pages.total > 0);
    });
    add("Escape", "selects nothing", () => this.choose([]));
    add("/", "goes to the filters", () => this.filters.controls.label.select.focus(), "review");
  }
}

function makeRow() {
  const part = (name, kind = "span") => el(kind, { class: name });
  const node = el("div", { class: "entry", role: "option" });
  Object.assign(node, { thumb: el("img", { class: "thumb", alt: "", width: "40", height: "40", decoding: "async" }),
    mark: part("mark"), answer: part("answer"), given: part("given"), name: part("name"), when: part("when") });
  node.mark.setAttribute("aria-hidden", "true");
  node.thumb.addEventListener("error", () => (node.thumb.hidden = true));
  node.append(node.thumb, node.mark, el("span", { class: "line" }, node.answer, node.given),
    el("span", { class: "line dim" }, node.name, node.when));
  return node;
}

function drawRow(node, row, labels) {
  if (node.row !== row?.id) node.thumb.removeAttribute("src");
  node.row = row?.id;
  node.thumb.hidden = !node.thumb.hasAttribute("src");
  const mark = row?.label ? classMark(labels, row.label) : null;
  drawMark(node.mark, mark);
  node.answer.textContent = row ? answerOf(row) : "…";
  node.given.textContent = row?.given ? ` → ${givenShort(row.given)}` : "";
  node.given.classList.toggle("disagrees", Boolean(row?.given && row.given.label !== row.label));
  node.name.textContent = row?.name ?? "";
  node.when.textContent = row ? timeWords(row.at) : "";
}

/** Shows the letter and colour of a class; null: neither. */
export function drawMark(node, mark) {
  node.textContent = mark?.letter ?? "";
  node.style.backgroundColor = mark?.colour ?? "transparent";
  node.style.color = mark?.ink ?? "inherit";
  return node;
}

function answerOf({ label, probability, decision, outcome }) {
  if (!label) return outcomeWords(outcome);
  return `${label} ${percent(probability)}${decision ? `, ${decisionWords(decision)}` : ""}`;
}

/** "rod (AB)" */
export function givenShort({ action, label, by }) {
  return `${action === "not_in_list" ? "not in the list" : label} (${by})`;
}
