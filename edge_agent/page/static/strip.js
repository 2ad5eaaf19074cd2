// The last 24 files, newest left, in slots that never move.

import { classMark } from "./colours.js";
import { el, fill } from "./dom.js";
import { NEWEST, show } from "./live.js";
import { store } from "./store.js";
import { givenWords, rowWords, timeWords } from "./words.js";

const PACE_MS = 250; // a burst is drawn so often at most
const REST_MS = 3000; // while a pointer moves here nothing moves below it

/** Draw the strip into `root`, and keep it so. */
export function start(root) {
  const slots = Array.from({ length: NEWEST }, () => new Slot());
  root.append(el("ol", {}, ...slots.map((slot) => slot.node)));
  let drawn = 0;
  let timer = 0;
  let pointed = -REST_MS;
  const draw = () => {
    timer = 0;
    if (document.hidden) return;
    drawn = performance.now();
    const { rows, selected, model } = store.state;
    slots.forEach((slot, index) => slot.draw(rows[index], selected, model));
  };
  root.addEventListener("pointermove", () => (pointed = performance.now()));
  root.addEventListener("pointerleave", () => (pointed = -REST_MS));
  store.subscribe((state, changed) => {
    if (timer || !["rows", "selected", "model"].some((name) => changed.has(name))) return;
    const now = performance.now();
    const wait = changed.has("rows") ? Math.max(drawn + PACE_MS, pointed + REST_MS) - now : 0;
    if (wait > 0) timer = setTimeout(draw, wait);
    else draw();
  });
  document.addEventListener("visibilitychange", draw);
}

class Slot {
  #image = el("img", { alt: "", width: 48, height: 48, hidden: true, onerror: () => (this.#image.hidden = true) });
  #mark = el("span", { class: "mark" });
  #button = el("button", { disabled: true, onclick: () => show(this.#row.id, { row: this.#row }) }, this.#image, this.#mark);
  #row = null;
  #said = "";
  node = el("li", {}, this.#button);

  draw(row, selected, model) {
    if (row) this.#button.toggleAttribute("aria-current", row.id === selected);
    if (row && row.id === selected) this.#button.setAttribute("aria-current", "true");
    const said = JSON.stringify([row, model?.sha256]);
    if (said === this.#said) return;
    this.#said = said;
    this.#row = row ?? null;
    this.#button.disabled = !row;
    const source = row?.outcome === "classified" ? thumbnail(row) : "";
    this.#image.hidden = !source;
    if (source && this.#image.getAttribute("src") !== source) this.#image.setAttribute("src", source);
    if (!source) this.#image.removeAttribute("src");
    fill(this.#mark, row && marks(row, model?.labels));
    this.#button.setAttribute("aria-label", row ? describe(row) : "empty");
    this.#button.title = row ? describe(row) : "";
  }
}

const thumbnail = ({ id, content }) => `/api/entries/${id}/thumb.jpg${content ? `?v=${content.slice(0, 16)}` : ""}`;

function describe(row) {
  return [row.name, rowWords(row), givenWords(row.given), timeWords(row.at)].filter(Boolean).join(", ");
}

// Letter of the class (of the person's, where one spoke), then what was decided or said.
function marks(row, labels) {
  if (row.outcome !== "classified") return [el("span", { class: "chip none" }, "\u2013")];
  const { given } = row;
  if (given) return [chip(labels, given.action === "not_in_list" ? null : given.label), el("span", { class: "did" }, given.action === "confirm" ? "\u2713" : "\u270e")];
  if (row.decision === "abstain") return [el("span", { class: "chip none abstained" }, "?")];
  return [chip(labels, row.label)];
}

function chip(labels, label) {
  const { letter, colour, ink } = classMark(labels, label);
  return el("span", { class: "chip", style: { background: colour, color: ink } }, letter);
}
