// Which entries the history shows: native controls, whose state stands in the address (`?label=rod&order=uncertain`).

import { el, fill } from "./dom.js";
import { decisionWords, outcomeWords, timeWords } from "./words.js";

const ANY = ["", "any"];
const same = (values, words = String) => values.map((value) => [value, words(value)]);
const CHOICES = {
  label: ["Class", ({ labels }) => [ANY, ...same(labels)]],
  decision: ["Answer", () => [ANY, ...same(["accept", "abstain", "ungated"], decisionWords)]],
  given: ["Label", () => [ANY, ["yes", "given"], ["no", "not given"], ["disagrees", "disagrees"]]],
  day: ["Day", ({ days }) => [ANY, ...days.map(({ day, count }) => [day, `${day} (${count})`])]],
  session: ["Session", ({ sessions }) => [ANY, ...sessions.map(({ id, start, files }) => [`${id}`, `${timeWords(start)} (${files})`])]],
  outcome: ["File", () => [ANY, ...same(["classified", "not_an_image", "unreadable", "quarantined", "refused"], outcomeWords)]],
  order: ["Order", () => [["", "newest first"], ["uncertain", "most uncertain first"]]],
};
const LONGEST = 200;

export class Filters {
  constructor(changed) {
    this.selects = Object.keys(CHOICES).map((name) => el("select", { name, id: `filter-${name}` }));
    const clear = () => {
      this.selects[0].focus(); // the button goes
      this.set({}, changed);
    };
    this.clear = el("button", { onclick: clear }, "Show all");
    const controls = this.selects.map((one) => el("div", {}, el("label", { for: one.id }, CHOICES[one.name][0]), one));
    this.box = el("div", { class: "filters", role: "group", "aria-label": "Filters" }, controls);
    this.box.onchange = () => this.set(Object.fromEntries(this.selects.map(({ name, value }) => [name, value])), changed);
    this.read();
    this.draw({ labels: [], days: [], sessions: [] });
    addEventListener("popstate", () => {
      this.read();
      this.draw();
      changed();
    });
  }

  read() {
    const given = new URLSearchParams(location.search);
    this.value = {};
    for (const name in CHOICES) if (given.get(name)) this.value[name] = given.get(name).slice(0, LONGEST);
  }

  set(value, changed) {
    this.value = Object.fromEntries(Object.entries(value).filter(([, chosen]) => chosen));
    history.replaceState(history.state, "", location.pathname + (this.isSet ? `?${this.query()}` : ""));
    this.draw();
    changed();
  }

  get isSet() {
    return Object.keys(this.value).length > 0;
  }

  query(more = {}) {
    return String(new URLSearchParams({ ...this.value, ...more }));
  }

  /** What is labelled when all of it is: in an order of answers, only what has one. */
  get chosen() {
    const { order, ...chosen } = this.value;
    return order && !chosen.outcome ? { ...chosen, outcome: "classified" } : chosen;
  }

  draw(facets = this.facets) {
    this.facets = facets;
    for (const select of this.selects) {
      const options = CHOICES[select.name][1](facets);
      const chosen = this.value[select.name] ?? "";
      if (select === document.activeElement && select.value === chosen) continue; // it may be open
      // What is chosen stays, even where nothing has it any more.
      if (!options.some(([value]) => value === chosen)) options.push([chosen, chosen]);
      fill(select, ...options.map(([value, text]) => el("option", { value }, text)));
      select.value = chosen;
    }
    this.clear.hidden = !this.isSet;
  }
}
