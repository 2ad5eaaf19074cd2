// Colours that the colour-blind tell apart, each with a letter: nothing is said by colour alone.

// Those of Okabe and Ito without black, in an order that suits a dark page; orange last: it marks abstentions.
const OKABE_ITO = ["#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#e69f00"];
const UNKNOWN = { letter: "?", colour: "#9a9a9a", ink: "#000" };
let kept = { labels: [], marks: new Map() };

/** Colour, its letter's colour and the letter of a class: {colour, ink, letter}; `labels` are the manifest's. */
export function classMark(labels, label) {
  if (kept.labels !== labels) kept = { labels, marks: marksOf(labels ?? []) };
  return kept.marks.get(label) ?? UNKNOWN;
}

function marksOf(labels) {
  const taken = new Set();
  return new Map(labels.map((label, index) => {
    const colour = OKABE_ITO[index % OKABE_ITO.length];
    // The first letter of the label that no class before it has: faceted F, rod R, round O. No digits: those are keys.
    const letters = `${label}ABCDEFGHIJKLMNOPQRSTUVWXYZΓΔΘΛΞΠΣΦΨΩ`.toUpperCase().match(/\p{L}/gu);
    const letter = letters.find((sign) => !taken.has(sign)) ?? "+";
    taken.add(letter);
    return [label, { letter, colour, ink: colour === "#0072b2" ? "#fff" : "#000" }];
  }));
}

// 17 colours of cividis (Nuñez, Anderton and Renslow 2018) at equal distances.
const CIVIDIS = `00224e 002e6a 1a386f 32436d 434e6c 535a6d 61656f 6f7073 7d7c78 8c8878 9b9476 aba072 bcae6c cdbb63
  dec958 f0d846 fee838`.split(/\s+/).map((code) => [0, 2, 4].map((at) => parseInt(code.slice(at, at + 2), 16)));

/** Cividis at 0..1: [red, green, blue], 0..255. */
export function cividis(value) {
  const low = Math.min(Math.floor(value * 16), 15);
  return CIVIDIS[low].map((from, channel) => from + (CIVIDIS[low + 1][channel] - from) * (value * 16 - low));
}
