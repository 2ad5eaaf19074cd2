// What stands beside the picture: every class with its probability, what people said, how it was acquired.

import { classMark } from "./colours.js";
import { el, fill } from "./dom.js";
import { store } from "./store.js";
import { givenWords, percent, spaced, timeWords } from "./words.js";

/** Draw the facts of an entry's detail; without one, `words` say why. */
export function drawFacts({ facts }, detail, words = "") {
  if (!detail) return fill(facts, words && el("p", {}, words));
  fill(facts, bars(detail), said(detail), el("dl", {}, ...rows(detail)));
}

// In the order of the manifest, never by value: what an eye has learned stays where it was.
function bars({ probabilities }) {
  if (!probabilities.length) return null;
  const labels = store.state.model?.labels;
  return el(
    "ul",
    { class: "bars", "aria-label": "Classes" },
    ...probabilities.map(({ label, probability }) => {
      const mark = classMark(labels?.includes(label) ? labels : probabilities.map((one) => one.label), label);
      return el(
        "li",
        {},
        el("span", { class: "chip", "aria-hidden": "true", style: { background: mark.colour, color: mark.ink } }, mark.letter),
        el("span", { class: "name" }, label),
        el("span", { class: "number" }, percent(probability)),
        el("span", { class: "track", "aria-hidden": "true" }, el("span", { style: { width: `${probability * 100}%`, background: mark.colour } })),
      );
    }),
  );
}

function said({ labels, row }) {
  const standing = labels.filter((event) => event.action !== "undo" && !event.void);
  const events = standing.length ? standing.slice(-3) : row.given ? [row.given] : [];
  return events.length ? el("ul", { class: "said", "aria-label": "What people said" }, ...events.map(saidLine)) : null;
}

const saidLine = (event) => el("li", {}, `${givenWords(event)}, ${timeWords(event.at)}`);

function rows(detail) {
  const { row, instrument, shape, pixel_size_nm: size, novelty, novelty_threshold: limit } = detail;
  const unit = (value, name) => (value === null || value === undefined ? null : `${value} ${name}`);
  const { voltage_kv, magnification, imaging_mode, signal, device } = instrument ?? {};
  const times = typeof magnification === "number" ? `${Math.round(magnification).toLocaleString("en")} \u00d7` : null;
  const facts = [
    ["File", row.name],
    ["Folder", row.folder],
    ["Acquired", timeWords(detail.acquired)],
    ["Instrument", [unit(voltage_kv, "kV"), times, spaced(imaging_mode), signal, device].filter(Boolean).join(", ")],
    ["Field", shape && [`${shape[1]} \u00d7 ${shape[0]} px`, pixelWords(size)].join(", ")],
    ["Novelty", typeof novelty === "number" && novelty.toFixed(2) + (limit ? ` (limit ${limit.toFixed(2)})` : "")],
    ["Model", detail.model && `${detail.model.name} ${detail.model.version}`],
  ];
  return facts.filter((fact) => fact[1]).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
}

function pixelWords(size) {
  if (!size) return "not calibrated";
  const [down, across] = size.map((nm) => `${Number(nm.toPrecision(4))} nm`);
  return down === across ? `${across} per pixel` : `${across} across, ${down} down per pixel`;
}
