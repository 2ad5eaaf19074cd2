// The entry that is shown: its answer at once, its picture and record as soon as they are there.

import { bitmap, get } from "./api.js";
import { classMark } from "./colours.js";
import { el, fill, put } from "./dom.js";
import { drawFacts } from "./facts.js";
import { follow } from "./live.js";
import { Picture } from "./picture.js";
import { store } from "./store.js";
import { abstentionWords, decisionWords, outcomeWords, percent, reasonMeaning, rowWords } from "./words.js";

const SLOW_MS = 800; // a load that took so long gives way to a newer entry

/** Draw into #latest whatever `store.state.shown` is. */
export function start(root) {
  const view = build(root);
  const loader = new Loader(view);
  store.subscribe((state, changed) => {
    if (changed.has("shown") || changed.has("model")) loader.want(state.shown);
    if (changed.has("overlay") || changed.has("opacity")) view.overlay(state);
    if (changed.has("following") || changed.has("unseen")) drawPill(view.pill, state);
    if (changed.has("folders") && !state.shown) drawAnswer(view, null);
  });
  return view.picture;
}

function build(root) {
  const stage = el("div", { id: "stage", tabindex: "0", role: "group", "aria-label": "Micrograph" });
  const picture = new Picture(stage);
  const answer = el("div", { id: "answer" });
  const without = el("p", { id: "no-picture", hidden: true });
  const pill = el("button", { id: "pill", onclick: follow, hidden: true });
  const facts = el("div", { id: "facts" });
  const zoom = el(
    "div",
    { id: "zoom" },
    el("button", { "aria-label": "Enlarge", onclick: () => picture.zoomBy(1.5) }, "+"),
    el("button", { "aria-label": "Reduce", onclick: () => picture.zoomBy(1 / 1.5) }, "\u2212"),
  );
  stage.append(without, zoom, pill);
  const slider = el("input", { id: "opacity", type: "range", min: 0, max: 100, step: 10, oninput: (e) => store.set({ opacity: Number(e.target.value) }) });
  const box = el("input", { id: "overlay", type: "checkbox", onchange: (e) => store.set({ overlay: e.target.checked }) });
  const legend = el("p", { id: "map-words" });
  const map = el("div", { id: "map" }, el("label", {}, box, "Map"), el("label", {}, "Colours", slider), legend);
  root.append(el("h2", { class: "unseen" }, "Latest micrograph"), answer, stage, el("div", { id: "beside" }, facts, map));
  const overlay = ({ overlay: on, opacity }) => {
    [box.checked, slider.value] = [on, opacity];
    slider.setAttribute("aria-valuetext", opacity ? `${opacity} %` : "outline only");
    picture.overlay(on, opacity);
  };
  overlay(store.state);
  return { root, picture, answer, without, pill, facts, legend, overlay };
}

// In a burst the newest wins and nothing queues up: while one entry loads, only the last that was asked for waits.
class Loader {
  #view;
  #wanted = null;
  #current = null;
  #since = 0;
  #end = null; // aborts what is loading

  constructor(view) {
    this.#view = view;
  }

  want(shown) {
    this.#wanted = shown;
    if (!this.#end) this.#go();
    else if (!store.state.following || performance.now() - this.#since > SLOW_MS) this.#end.abort();
  }

  async #go() {
    while (this.#wanted !== this.#current) {
      this.#current = this.#wanted;
      this.#since = performance.now();
      this.#end = new AbortController();
      await load(this.#view, this.#current, this.#end.signal);
      this.#end = null;
    }
  }
}

async function load(view, shown, signal) {
  const sameEntry = view.root.dataset.id === String(shown?.id ?? "");
  view.root.dataset.id = shown?.id ?? "";
  if (!sameEntry) {
    view.picture.explain(null);
    view.root.classList.add("loading"); // the old picture goes, lest it pass for that of the new answer
  }
  if (shown?.row || !shown) drawAnswer(view, shown);
  await Promise.all([
    sameEntry ? null : loadPicture(view, shown, signal),
    shown && !shown.blind ? loadDetail(view, shown, signal) : drawFacts(view, null),
  ]);
}

async function loadPicture(view, shown, signal) {
  const row = shown?.row;
  let words = "";
  try {
    if (!shown) words = "";
    else if (row && row.outcome !== "classified") words = rowWords(row);
    else {
      const version = row?.content ? `?v=${row.content.slice(0, 16)}` : "";
      const picture = await bitmap(`/api/entries/${shown.id}/picture.jpg${version}`, { signal });
      if (signal.aborted) return picture.close();
      view.picture.draw(picture, shown.id, row ? `${row.name}: ${shown.blind ? "" : rowWords(row)}` : "micrograph");
    }
  } catch (error) {
    if (signal.aborted) return;
    words = `No picture: ${error.text ?? error.message}`;
  }
  view.root.classList.remove("loading");
  if (words || !shown) view.picture.clear();
  view.without.hidden = !words;
  put(view.without, words);
}

async function loadDetail(view, shown, signal) {
  try {
    const detail = await get(`/api/entries/${shown.id}`, { signal });
    if (signal.aborted) return;
    if (!shown.row) drawAnswer(view, { ...shown, row: detail.row });
    const map = view.picture.explain(detail);
    put(view.legend, mapWords(detail, map));
    drawFacts(view, detail);
  } catch (error) {
    if (!signal.aborted) drawFacts(view, null, `No record: ${error.text ?? error.message}`);
  }
}

function mapWords({ cam }, map) {
  if (!cam || !map) return "no map";
  return map.absence || `${map.method}: evidence for ${cam.label}, line at half the peak`;
}

function drawAnswer({ answer }, shown) {
  const row = shown?.row;
  if (!row) return fill(answer, el("p", { class: "word" }, shown ? "Loading" : emptyWords()));
  answer.dataset.decision = shown.blind ? "blind" : row.outcome === "classified" ? row.decision : "none";
  fill(answer, ...(shown.blind ? blindWords() : answerNodes(row)));
}

const blindWords = () => [
  el("p", { class: "word" }, "What do you see?"),
  el("p", { class: "small" }, "Blind: the answer of the network is shown after yours."),
];

function emptyWords() {
  const [folder] = store.state.folders;
  return folder ? `Nothing yet. Save a micrograph into ${folder}` : "Nothing yet";
}

function answerNodes(row) {
  if (row.outcome !== "classified") return [el("p", { class: "word" }, outcomeWords(row.outcome))];
  return row.decision === "abstain" ? abstentionNodes(row) : labelNodes(row);
}

// An abstention must not look like an answer: no large class, no colour of a class.
function abstentionNodes(row) {
  return [
    el("span", { class: "chip none", "aria-hidden": "true" }, "?"),
    el(
      "div",
      {},
      el("p", { class: "word abstained" }, abstentionWords(row.reasons)),
      el("p", { class: "small" }, row.reasons.map(reasonMeaning).join("; ")),
      el("p", { class: "small" }, `leans to ${row.label} ${percent(row.probability)}`),
    ),
  ];
}

function labelNodes(row) {
  const mark = classMark(store.state.model?.labels, row.label);
  return [
    el("span", { class: "chip", "aria-hidden": "true", style: { background: mark.colour, color: mark.ink } }, mark.letter),
    el("p", { class: "label" }, row.label),
    el("div", { class: "verdict" }, el("p", { class: "probability" }, percent(row.probability)), el("p", { class: "decision" }, decisionWords(row.decision))),
  ];
}

function drawPill(pill, { following, unseen }) {
  pill.hidden = following;
  put(pill, unseen ? `${unseen} new` : "Follow again");
}
