// What is said in words: outcomes, decisions and reasons, times and numbers.

const OUTCOMES = {
  classified: "classified",
  not_an_image: "not a micrograph",
  unreadable: "unreadable",
  quarantined: "quarantined",
};
const DECISIONS = { accept: "accepted", abstain: "abstained", ungated: "not gated" };
const ACTIONS = { confirm: "confirmed", correct: "corrected", not_in_list: "not in the list" };
// What `decision.py` says of each.
const REASONS = {
  too_small: "too few pixels to show a shape",
  blank: "nothing but noise, or constant",
  saturated: "too many pixels stand at the largest value",
  pixel_size_unknown: "the model cuts a fixed field of view, and the file has no pixel size",
  uncalibrated: "the file has no pixel size, unlike every training micrograph",
  pixel_size_out_of_range: "pixel size outside that of the training micrographs",
  field_of_view_out_of_range: "field of view outside that of the training micrographs",
  voltage_out_of_range: "acceleration voltage outside that of the training micrographs",
  detector_unlike_training: "another detector than in training",
  polarity_unlike_training: "bright where training micrographs are dark, or the other way round",
  blurred: "too blurred",
  drifted: "smeared along one direction: the specimen drifted",
  looks_like_diffraction: "looks like a diffraction pattern or a Fourier transform",
  tiles_disagree: "parts of the field are answered differently",
  novel: "unlike the training micrographs, to the network",
  low_confidence: "no class is probable enough",
  unusual_and_unsure: "rather novel and rather unsure: one of both would pass, not both",
};

/** A word of a record in plain words: "low_confidence" to "low confidence". */
export const spaced = (word) => String(word ?? "").replaceAll("_", " ");

export const outcomeWords = (outcome) => OUTCOMES[outcome] ?? spaced(outcome);
export const decisionWords = (decision) => DECISIONS[decision] ?? spaced(decision);
export const reasonWords = (reason) => spaced(reason);
export const reasonMeaning = (reason) => REASONS[reason] ?? spaced(reason);

/** "ABSTAINED: novel, low confidence" */
export const abstentionWords = (reasons) =>
  `ABSTAINED${reasons.length ? `: ${reasons.map(reasonWords).join(", ")}` : ""}`;

/** "94 %", "> 99 %", "< 1 %" as on the heatmaps. */
export function percent(probability) {
  if (typeof probability !== "number" || Number.isNaN(probability)) return "";
  if (probability > 0.995) return "> 99 %";
  return probability >= 0.005 ? `${Math.round(probability * 100)} %` : "< 1 %";
}

/** What a person said of an entry: "corrected to rod by ana"; "" where nobody did. */
export function givenWords(given) {
  if (!given) return "";
  const to = given.action === "correct" ? ` to ${given.label}` : "";
  return `${ACTIONS[given.action] ?? spaced(given.action)}${to} by ${given.by}`;
}

/** An entry in a few words: "round 97 %, accepted", "abstained: novel", "unreadable: is cut off". */
export function rowWords(row) {
  if (row.outcome !== "classified") return outcomeWords(row.outcome) + (row.reason ? `: ${row.reason}` : "");
  if (row.decision === "abstain") return abstentionWords(row.reasons ?? []).toLowerCase();
  return `${row.label} ${percent(row.probability)}, ${decisionWords(row.decision)}`;
}

/** A span of seconds: "4 s", "3 min", "2 h 5 min", "3 days". */
export function spanWords(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

/** A moment on this PC's clock: "14:02:11" today, "2026-11-30 14:02" before. */
export function timeWords(iso) {
  const at = new Date(iso ?? NaN);
  if (Number.isNaN(at.getTime())) return "";
  const two = (number) => String(number).padStart(2, "0");
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}`;
  if (at.toDateString() === new Date().toDateString()) return `${clock}:${two(at.getSeconds())}`;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock}`;
}

/** A length in the unit that suits it: "200 nm", "2 µm". */
export function lengthWords(nm) {
  const units = [["m", 1e9], ["mm", 1e6], ["µm", 1e3], ["nm", 1]];
  const [unit, size] = units.find((one) => nm >= one[1] * (1 - 1e-9)) ?? ["pm", 1e-3];
  return `${Number((nm / size).toPrecision(4))} ${unit}`;
}
