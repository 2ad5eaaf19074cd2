// What is said in words: outcomes, decisions, reasons, times and numbers.

const WORDS = {
  not_an_image: "not a micrograph",
  accept: "accepted",
  abstain: "abstained",
  ungated: "not gated",
  confirm: "confirmed",
  correct: "corrected",
  not_in_list: "not in the list",
  // Reasons to abstain whose name says too little; see `decision.py`.
  blank: "blank: nothing but noise",
  drifted: "drifted: smeared along one direction",
  low_confidence: "no class is probable enough",
  novel: "novel: unlike the training micrographs",
  tiles_disagree: "parts of the field are answered differently",
  pixel_size_unknown: "the file has no pixel size, which the model needs",
  uncalibrated: "uncalibrated: the file has no pixel size",
};

/** A word of a record in plain words: "low_confidence" to "low confidence". */
export const spaced = (word) => String(word ?? "").replaceAll("_", " ");
const inWords = (word) => WORDS[word] ?? spaced(word);
export { inWords as outcomeWords, inWords as decisionWords, inWords as reasonWords };

// Right-to-left letters would pull what follows to their other side.
const isolated = (text) => (/[\u0590-\u08ff\ufb1d-\ufefc]/.test(text) ? `\u2068${text}\u2069` : text);

/** "ABSTAINED: novel, low confidence" */
export const abstentionWords = (reasons) => `ABSTAINED${reasons?.length ? `: ${reasons.map(spaced).join(", ")}` : ""}`;

/** "94 %", "> 99 %", "< 1 %", as on the heatmaps. */
export function percent(part) {
  if (typeof part !== "number") return "";
  if (part > 0.995) return "> 99 %";
  return part >= 0.005 ? `${Math.round(part * 100)} %` : "< 1 %";
}

/** "corrected to rod by ana"; "" where nobody said anything. */
export function givenWords(given) {
  if (!given) return "";
  return `${inWords(given.action)}${given.action === "correct" ? ` to ${isolated(given.label)}` : ""} by ${given.by}`;
}

/** An entry in a few words: "round 97 %, accepted", "abstained: novel", "unreadable: is cut off". */
export function rowWords({ outcome, reason, label, probability, decision, reasons }) {
  if (outcome !== "classified") return inWords(outcome) + (reason ? `: ${reason}` : "");
  if (decision === "abstain") return abstentionWords(reasons).toLowerCase();
  return `${isolated(label ?? "no label")} ${percent(probability)}, ${inWords(decision)}`;
}

/** A span: "4 s", "3 min", "2 h 5 min", "3 days". */
export function spanWords(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  return s < 172800 ? `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min` : `${Math.floor(s / 86400)} days`;
}

/** A moment by this PC's clock: "14:02:11" today, else "2026-11-30 14:02"; "" for none. */
export function timeWords(iso) {
  const at = new Date(iso ?? NaN);
  if (Number.isNaN(at.getTime())) return "";
  const [day, clock] = at.toLocaleString("sv").split(" "); // Swedish times are ISO 8601
  return at.toDateString() === new Date().toDateString() ? clock : `${day} ${clock.slice(0, 5)}`;
}

/** A length in the unit that suits it: "200 nm", "2 µm". */
export function lengthWords(nm) {
  const units = [["mm", 1e6], ["µm", 1e3], ["nm", 1], ["pm", 1e-3]];
  const [unit, size] = units.find((one) => nm >= one[1] * (1 - 1e-9)) ?? units[3];
  return `${Number((nm / size).toPrecision(4))} ${unit}`;
}
