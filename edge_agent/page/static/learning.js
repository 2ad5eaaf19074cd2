// Whether training again is worth it: new labels of each class, how right the answers are, what a new model changed.

import { offer } from "./audit.js";
import { el, fill, put } from "./dom.js";

const LOOK_MS = 1000;
const MOST_SHOWN = 50;
const rateWords = (rate, low, high) => share(rate) + (typeof low === "number" ? ` (${share(low)} to ${share(high)})` : "");

/** A share that was counted: "0 %" is none. "" where there was nothing to count. */
export function share(part) {
  return typeof part === "number" ? `${Math.round(100 * part)} %` : "";
}

/** "Live accuracy 93 % (86 % to 97 %), from 88 answers labelled blind." An abstention is neither right nor wrong. */
export function accuracyWords({ given, right, low, high, abstained }) {
  const counted = (number, what) => `${number} ${what}${number === 1 ? "" : "s"} labelled blind.`;
  const apart = abstained?.given ? ` Beside them ${counted(abstained.given, "abstention")}` : "";
  if (given) return `Live accuracy ${rateWords(right / given, low, high)}, from ${counted(given, "answer")}${apart}`;
  return apart ? `No answer yet, only ${counted(abstained.given, "abstention")}` : "No label was given blind yet.";
}

export function start(root, context) {
  const { api, stream, show } = context;
  const [verdict, accuracy, command] = [el("p", {}), el("p", {}), el("code", {})];
  const [classes, flips] = [el("table", {}), el("div", {})];
  const compare = el("button", { hidden: true }, "What changed?");
  let told = ""; // of flips
  const heads = ["Class", "New labels", "Corrected"].map((name) => el("th", { scope: "col" }, name));
  root.append(el("h2", {}, "Worth retraining?"), verdict, classes, el("p", {}, "To train with these labels (RAW: the labelled micrographs you have, OUT: a new folder): ", command),
    el("h2", {}, "Blind check"), accuracy, offer(context), el("h2", {}, "After a new model"), compare, flips);

  async function read() {
    try {
      const found = await api.get("/api/learning");
      const { per_class: rows, worth_retraining: worth, enough, audit, not_in_list: none } = found;
      const strange = none ? ` ${none} not in the list of classes.` : "";
      put(verdict, `${worth.length ? `Yes, for ${worth.join(", ")}.` : `Not yet: no class has ${enough} new labels.`}${strange}`);
      fill(classes, el("tr", {}, heads), ...rows.map(({ label, new_labels: n, rate, low, high }) => el("tr", {},
        el("th", { scope: "row" }, label),
        el("td", {}, `${n} of ${enough} `, el("meter", { max: enough, value: Math.min(n, enough), "aria-hidden": "true" })),
        el("td", {}, rateWords(rate, low, high)))));
      put(command, found.command);
      put(accuracy, accuracyWords(audit));
      compare.hidden = !found.model;
      if (found.flips.at) tellFlips(found.flips);
    } catch (error) {
      put(verdict, `Cannot be read: ${error.message}`);
    }
  }

  async function look() {
    try {
      const found = await api.get("/api/flips");
      const { running, done, total } = found;
      if (!running) return tellFlips(found);
      told = "";
      fill(flips, el("progress", { max: total || 1, value: done, "aria-label": "Looking again" }), total ? ` ${done} of ${total}` : " being prepared");
      setTimeout(look, LOOK_MS);
    } catch (error) {
      failed(error);
    }
  }

  // Whoever goes from one to the next keeps the place while labels come in.
  function tellFlips(found) {
    const text = JSON.stringify(found);
    if (text !== told) fill(flips, ...flipsOf(found, show));
    told = text;
  }

  function failed(error) {
    put(flips, `Cannot be compared: ${error.message}`);
    told = "";
  }

  compare.onclick = () => api.post("/api/flips").then(look, failed);
  let due = 0;
  const later = () => {
    clearTimeout(due);
    due = setTimeout(read, LOOK_MS);
  };
  for (const kind of ["labels", "model", "resync", "open"]) stream.onEvent(kind, later);
  read();
}

function flipsOf({ before, after, fixed, broken, same, missing, error }, show) {
  if (error) return [`Not compared: ${error}`];
  if (!after) return ["Nothing to compare: no labelled micrograph was answered by an earlier model."];
  const name = (model) => (model?.name ? `${model.name} ${model.version}` : "an earlier model");
  const list = (title, found) => [
    el("h3", {}, `${title}: ${found.length}`),
    el("div", { class: "bar" }, found.slice(0, MOST_SHOWN).map((one) => {
      const id = one.id ?? one;
      return el("button", { onclick: () => show(id) }, one.name ?? `entry ${id}`);
    })),
  ];
  const words = `From ${name(before)} to ${name(after)}: ${same} as before, ${missing} not found.`;
  return [el("p", {}, words), ...list("Right now", fixed), ...list("Wrong now", broken)];
}
