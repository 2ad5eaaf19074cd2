// The last 24 files, newest left, in slots that never move.

import { classMark } from "./colours.js";
import { el, fill } from "./dom.js";
import { showPicture } from "./drawing.js";
import { NEWEST, show } from "./live.js";
import { store } from "./store.js";
import { givenWords, rowWords, timeWords } from "./words.js";

const PACE_MS = 250; // a burst is drawn so often at most
const REST_MS = 3000; // so long after a pointer moved here, nothing moves below it

/** Draw the strip into `root`, and keep it so. */
export function start(root) {
  const slots = Array.from({ length: NEWEST }, slot);
  root.append(el("ol", {}, ...slots.map(({ button }) => el("li", {}, button))));
  let drawn = 0;
  let timer = 0;
  let pointed = -REST_MS;
  const draw = () => {
    timer = 0;
    if (document.hidden) return;
    drawn = performance.now();
    slots.forEach((one, index) => drawSlot(one, store.state.rows[index]));
  };
  root.addEventListener("pointermove", () => (pointed = performance.now()));
  root.addEventListener("pointerleave", () => (pointed = -REST_MS));
  document.addEventListener("visibilitychange", draw);
  store.subscribe((_, changed) => {
    const isMoving = changed.has("rows");
    if (timer || !(isMoving || changed.has("selected") || changed.has("model"))) return;
    const wait = isMoving ? Math.max(drawn + PACE_MS, pointed + REST_MS) - performance.now() : 0;
    if (wait > 0) timer = setTimeout(draw, wait);
    else draw();
  });
}

function slot() {
  const image = el("img", { alt: "", hidden: true });
  const marks = el("span", { class: "marks" });
  const one = { image, marks, row: null, told: "" };
  one.button = el("button", { disabled: true, "aria-label": "empty", onclick: () => show(one.row.id, one) }, image, marks);
  return one;
}

function drawSlot(one, row) {
  const { button, image, marks } = one;
  const { selected, model } = store.state;
  button.setAttribute("aria-current", String(Boolean(row) && row.id === selected));
  const told = JSON.stringify([row, model]);
  if (told === one.told) return;
  Object.assign(one, { row, told });
  button.disabled = !row;
  button.dataset.id = row?.id ?? "";
  button.title = row ? [row.name, rowWords(row), givenWords(row.given), timeWords(row.at)].filter(Boolean).join(", ") : "empty";
  button.setAttribute("aria-label", button.title);
  const version = row?.content ? `?v=${row.content.slice(0, 16)}` : "";
  const source = row?.outcome === "classified" ? `/api/entries/${row.id}/thumb.jpg${version}` : "";
  if (source !== (image.getAttribute("src") ?? "")) {
    image.hidden = true; // until it is there
    if (source) showPicture(image, source);
    else image.removeAttribute("src");
  }
  fill(marks, row && marksOf(row, model?.labels));
}

// The letter of the class: a person's word comes first, with a sign that one spoke.
function marksOf({ outcome, decision, label, given }, labels) {
  const chip = ({ letter, colour, ink }) => el("span", { class: "chip", style: { background: colour, color: ink } }, letter);
  if (given) return [chip(classMark(labels, given.label)), given.action === "confirm" ? "\u2713" : "\u270e"];
  if (outcome !== "classified") return el("span", { class: "chip none" }, "\u2013");
  return decision === "abstain" ? el("span", { class: "chip none abstained" }, "?") : chip(classMark(labels, label));
}
