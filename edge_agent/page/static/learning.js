// Whether training again is worth it: new labels of each class, live accuracy, and what a new model answers otherwise.
import { offer } from "./audit.js";
import { el, fill, put } from "./dom.js";

const LOOK_MS = 1000;
const SHOWN_FLIPS = 50;
const share = (value) => (value === null || value === undefined ? "-" : `${Math.round(100 * value)} %`);
const rateWords = ({ rate, low, high }) => (low === null ? share(rate) : `${share(rate)} (${share(low)} to ${share(high)})`);

/** "Live accuracy 93 % (86 to 97 %), from 88 blind labels." */
export function accuracyWords({ given, right, low, high }) {
  if (!given) return "No blind label was given yet.";
  const rate = rateWords({ rate: right / given, low, high });
  return `Live accuracy ${rate}, from ${given} blind label${given === 1 ? "" : "s"}.`;
}

export function start(root, context) {
  const { api, stream, store, show } = context;
  const verdict = el("p", { class: "verdict" });
  const classes = el("tbody", {});
  const command = el("code", {});
  const accuracy = el("p", {});
  const flips = el("div", {});
  const ask = el("button", { type: "button", hidden: true }, "What changed?");
  const head = ["Class", "New labels", "Corrected (95 % interval)"].map((name) => el("th", { scope: "col" }, name));
  fill(root, el("h2", {}, "Worth retraining?"), verdict,
    el("table", {}, el("thead", {}, el("tr", {}, head)), classes),
    el("p", {}, "To train with these labels: ", command), el("h3", {}, "Blind check"), accuracy, offer(context),
    el("h3", {}, "After a model update"), ask, flips);

  async function read() {
    let found;
    try {
      found = await api.get("/api/learning");
    } catch (error) {
      return put(verdict, `Cannot be read: ${error.message}`);
    }
    const { per_class: rows, worth_retraining: worth, enough, audit } = found;
    put(verdict, worth.length ? `Yes: ${worth.join(", ")} (${enough} new labels or more).`
      : `Not yet: no class has ${enough} new labels.`);
    fill(classes, rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row.label),
      el("td", {}, `${row.new_labels} of ${enough}`, el("meter", { min: 0, max: enough, value: Math.min(row.new_labels, enough),
        "aria-label": `new labels of ${row.label}` })), el("td", {}, rateWords(row)))));
    put(command, found.command ?? `edge-trainer prepare RAW OUT --corrections ${store.state.folders[0] ?? "ROOT"}`);
    put(accuracy, accuracyWords(audit));
    ask.hidden = found.flips === null || found.flips === undefined;
  }

  async function compare(isAsked) {
    let found;
    try {
      if (isAsked) await api.post("/api/flips", {});
      found = await api.get("/api/flips");
    } catch (error) {
      return put(flips, `Cannot be compared: ${error.message}`);
    }
    if (found.running) {
      fill(flips, el("progress", { max: found.total || 1, value: found.done, "aria-label": "Looking again" }),
        ` ${found.done} of ${found.total}`);
      return setTimeout(compare, LOOK_MS);
    }
    drawFlips(flips, found, show);
  }

  ask.addEventListener("click", () => compare(true));
  let due = 0;
  for (const kind of ["labels", "model", "resync"])
    stream.onEvent(kind, () => {
      clearTimeout(due);
      due = setTimeout(read, LOOK_MS);
    });
  read();
}

function drawFlips(box, { before, after, fixed, broken, same }, show) {
  const list = (title, found) => [
    el("h4", {}, `${title}: ${found.length}`),
    el("ul", { class: "flips" }, found.slice(0, SHOWN_FLIPS).map((one) => {
      const id = one.id ?? one;
      return el("li", {}, el("button", { type: "button", onclick: () => show(id) }, one.name ?? `entry ${id}`));
    })),
  ];
  const name = (model) => (model ? `${model.name} ${model.version}` : "no model");
  fill(box, el("p", {}, `${name(before)} to ${name(after)}: ${same} answered as before.`),
    list("Now right", fixed ?? []), list("Now wrong", broken ?? []));
}
