// The entry that is shown: its answer at once, its picture and record as soon as they are there.

import { bitmap, get } from "./api.js";
import { classMark } from "./colours.js";
import { el, fill, put } from "./dom.js";
import { factsOf, recordOf } from "./facts.js";
import { follow } from "./live.js";
import { Picture } from "./picture.js";
import { store } from "./store.js";
import { abstentionWords, decisionWords, givenWords, outcomeWords, percent, reasonWords, rowWords } from "./words.js";

const ANEW_MS = 2000; // after this something that is missing is asked for again
const SLOW_MS = 800; // a load that took so long gives way to a newer entry
const LONG_LABEL = 15; // characters; a longer one has no room in large letters
const parts = {};

/** Draw into `root` what is wanted, from now on; what corrects it goes into `corrections`. Returns the picture. */
export function start(root, corrections) {
  const stage = el("div", { id: "stage", tabindex: "0", role: "group", "aria-label": "Micrograph" });
  const picture = new Picture(stage);
  const slide = ({ target }) => store.set({ opacity: Number(target.value) });
  Object.assign(parts, {
    root, picture,
    answer: el("div", { id: "answer" }),
    without: el("p", { id: "no-picture" }),
    pill: el("button", { id: "pill", onclick: follow, hidden: true }),
    facts: el("div", { id: "facts" }),
    record: el("dl"),
    legend: el("p", { class: "small" }),
    box: el("input", { id: "overlay", type: "checkbox", onchange: ({ target }) => store.set({ overlay: target.checked }) }),
    slider: el("input", { id: "opacity", type: "range", min: 0, max: 100, step: 10, oninput: slide }),
  });
  stage.append(parts.without, parts.pill);
  const map = el("div", { id: "map" }, el("label", {}, parts.box, "Map"), el("label", {}, "Colours", parts.slider), parts.legend);
  const title = el("h2", { class: "unseen" }, "Latest micrograph");
  root.append(title, parts.answer, stage, el("div", { id: "beside" }, parts.facts, map, parts.record), corrections);
  drawOverlay(store.state);
  store.subscribe(draw);
  document.addEventListener("visibilitychange", turn);
  return picture;
}

function draw(state, changed) {
  if (changed.has("overlay") || changed.has("opacity")) drawOverlay(state);
  if (changed.has("model") || changed.has("folders")) drawAnswer(current);
  if (changed.has("connection") && isMissing) anew();
  parts.pill.hidden = state.following;
  put(parts.pill, state.unseen ? `${state.unseen} new` : "Paused: follow");
  turn();
}

function drawOverlay(state) {
  const { box, slider, picture } = parts;
  [box.checked, slider.value] = [state.overlay, state.opacity];
  slider.setAttribute("aria-valuetext", state.opacity ? `${state.opacity} %` : "line only");
  picture.overlay = state;
}

let current = null;
let since = 0;
let ending = null; // ends what is loading
let drawn = ""; // entry and content of the picture on the stage
let isMissing = false; // something that the agent may have later
let timer = 0;

// In a burst the newest wins and nothing queues up: while one entry loads, only the last one that is wanted waits.
async function turn() {
  if (ending) {
    const isLate = !store.state.following || performance.now() - since > SLOW_MS;
    if (store.state.wanted !== current && isLate) ending.abort();
    return;
  }
  while (store.state.wanted !== current && !document.hidden) {
    [current, since, ending] = [store.state.wanted, performance.now(), new AbortController()];
    await load(current, ending.signal).catch(console.error);
    ending = null;
  }
}

function anew() {
  if (store.state.connection !== "live") return;
  [current, drawn] = [undefined, ""];
  turn();
}

function later({ status }) {
  if (status !== 0 && status !== 503) return;
  isMissing = true;
  timer = setTimeout(anew, ANEW_MS);
}

// A file that is saved again under its name keeps its number.
const pictureKey = (shown) => `${shown?.id} ${shown?.row?.content}`;

async function load(shown, signal) {
  clearTimeout(timer);
  isMissing = false;
  const isSame = drawn === pictureKey(shown);
  if (!isSame) {
    drawn = "";
    parts.picture.outdate();
    parts.root.classList.add("loading"); // the old picture goes, lest it pass for that of the new answer
  }
  drawAnswer(shown);
  await Promise.all([isSame || loadPicture(shown, signal), loadDetail(shown, signal)]);
}

async function loadPicture(shown, signal) {
  const { row } = shown ?? {};
  let [picture, words] = [null, shown ? rowWords(row ?? {}) : ""];
  if (shown && (!row || row.outcome === "classified" || shown.blind)) {
    const version = row?.content ? `?v=${row.content.slice(0, 16)}` : "";
    words = "";
    picture = await bitmap(`/api/entries/${shown.id}/picture.jpg${version}`, { signal }).catch((error) => {
      words = `No picture: ${error.message}`;
      if (!signal.aborted) later(error);
    });
  }
  if (signal.aborted) return picture?.close();
  parts.picture.draw(picture ?? null, shown?.id, picture ? `micrograph ${shown.blind ? "" : (row?.name ?? "")}` : "no picture");
  drawn = pictureKey(shown);
  put(parts.without, words);
  parts.root.classList.remove("loading");
}

async function loadDetail(shown, signal) {
  let [facts, record] = [[], []];
  if (shown && !shown.blind) {
    try {
      const detail = await get(`/api/entries/${shown.id}`, { signal });
      if (signal.aborted) return;
      if (!shown.row) learnRow(shown, detail.row);
      put(parts.legend, parts.picture.explain(detail));
      [facts, record] = [factsOf(detail), recordOf(detail)];
    } catch (error) {
      if (signal.aborted) return;
      later(error);
      facts = [`No record: ${error.message}`];
    }
  }
  fill(parts.facts, ...facts);
  fill(parts.record, ...record);
}

function learnRow(shown, row) {
  if (drawn === pictureKey(shown)) drawn = pictureKey({ ...shown, row });
  drawAnswer({ ...shown, row });
}

function drawAnswer(shown) {
  const { answer, root } = parts;
  const { row, blind, id } = shown ?? {};
  const [folder] = store.state.folders;
  const nothing = folder ? `Nothing yet. Save a micrograph into ${folder}` : "Nothing yet";
  answer.dataset.decision = blind ? "blind" : (row?.decision ?? "");
  if (blind) fill(answer, word("What do you see?"), el("p", { class: "small" }, "The answer is shown after yours."));
  else if (!row) fill(answer, word(shown ? "Loading" : nothing));
  else if (row.outcome !== "classified") fill(answer, word(outcomeWords(row.outcome)));
  else fill(answer, ...(row.decision === "abstain" ? abstention(row) : label(row)));
  root.dataset.id = id ?? "";
  store.set({ selected: id ?? null, content: row?.content ?? null });
}

const word = (text, ...classes) => el("p", { class: ["word", ...classes].join(" ") }, text);

// An abstention must not look like an answer: no large class, no colour of a class.
function abstention(row) {
  const why = `${row.reasons.map(reasonWords).join("; ")}. Leans to ${row.label} ${percent(row.probability)}`;
  return [
    el("span", { class: "chip none", "aria-hidden": "true" }, "?"),
    el("div", {}, word(abstentionWords(row.reasons), "abstained"), el("p", { class: "small" }, why), given(row)),
  ];
}

function label(row) {
  const name = row.label ?? "no label";
  const { letter, colour, ink } = classMark(store.state.model?.labels, row.label);
  return [
    el("span", { class: "chip", "aria-hidden": "true", style: { background: colour, color: ink } }, letter),
    el("p", { class: name.length > LONG_LABEL ? "label long" : "label" }, name),
    el(
      "div",
      {},
      el("p", { class: "probability" }, percent(row.probability)),
      el("p", { class: "decision" }, decisionWords(row.decision)),
      given(row),
    ),
  ];
}

const given = (row) => row.given && el("p", { class: "given" }, givenWords(row.given));
