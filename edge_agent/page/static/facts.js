// What stands beside the picture: every class with its probability, what people said, how it was acquired.

import { classMark } from "./colours.js";
import { el } from "./dom.js";
import { store } from "./store.js";
import { givenWords, percent, spaced, timeWords } from "./words.js";

/** What the network and people said of an entry. */
export function factsOf({ labels, probabilities }) {
  const said = labels.filter((event) => event.action !== "undo" && !event.void).slice(-4);
  const lines = said.map((event) => el("li", {}, `${givenWords(event)}, ${timeWords(event.at)}`));
  return [
    probabilities.length > 0 && el("ul", { class: "bars", "aria-label": "Classes" }, ...bars(probabilities)),
    lines.length > 0 && el("ul", { class: "said", "aria-label": "What people said" }, ...lines),
  ];
}

/** Where an entry comes from, as names and values of a list. */
export const recordOf = (detail) =>
  factLines(detail).filter((line) => line[1]).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);

// In the order of the manifest, never by value: what an eye has learned stays where it was.
function bars(probabilities) {
  const own = probabilities.map((one) => one.label);
  const known = store.state.model?.labels ?? own;
  return probabilities.map(({ label, probability }) => {
    const { letter, colour, ink } = classMark(known.includes(label) ? known : own, label);
    return el(
      "li",
      { "data-label": label },
      el("span", { class: "chip", "aria-hidden": "true", style: { background: colour, color: ink } }, letter),
      el("span", {}, label),
      el("span", { class: "number" }, percent(probability)),
      el("span", { class: "track" }, el("span", { style: { width: `${probability * 100}%`, background: colour } })),
    );
  });
}

function factLines({ row, instrument, shape, pixel_size_nm: size, acquired, novelty, novelty_threshold: limit, model }) {
  const { voltage_kv: kv, magnification, imaging_mode: mode, signal, device } = instrument ?? {};
  const times = magnification && `${Math.round(magnification).toLocaleString("en")} \u00d7`;
  return [
    ["File", row.name],
    ["Folder", row.folder],
    ["Acquired", timeWords(acquired)],
    ["Answered", timeWords(row.at)],
    ["Instrument", [kv && `${kv} kV`, times, spaced(mode), signal, device].filter(Boolean).join(", ")],
    ["Field", shape && `${shape[1]} \u00d7 ${shape[0]} px, ${pixelWords(size)}`],
    ["Novelty", typeof novelty === "number" && novelty.toFixed(2) + (limit ? ` (limit ${limit.toFixed(2)})` : "")],
    ["Model", model && `${model.name} ${model.version}`],
  ];
}

function pixelWords(size) {
  if (!size) return "not calibrated";
  const [down, across] = size.map((nm) => `${Number(nm.toPrecision(4))} nm`);
  return down === across ? `${across} per pixel` : `pixels ${across} wide, ${down} high`;
}
