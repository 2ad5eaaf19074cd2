// Which entries the history shows: native controls, whose state stands in the address (`?label=rod&order=uncertain`).
import { el } from "./dom.js";
import { decisionWords, outcomeWords } from "./words.js";

const NAMES = ["label", "decision", "outcome", "day", "given", "session", "order"];
const LONGEST = 200;

export function filterOf(address = location.search) {
  const found = {};
  const given = new URLSearchParams(address);
  for (const name of NAMES) if (given.get(name)) found[name] = given.get(name).slice(0, LONGEST);
  return found;
}

export function queryOf(filter, more = {}) {
  return new URLSearchParams({ ...filter, ...more }).toString();
}

function choice(text, options) {
  const select = el("select", {});
  return { select, box: el("label", { class: "filter" }, el("span", {}, text), select), options };
}

// Fills a select and keeps what is chosen, even where it is no longer among the answers.
function fill({ select }, options, chosen) {
  const known = options.some(([value]) => value === chosen) ? options : [...options, [chosen, chosen]];
  select.replaceChildren(...known.map(([value, text]) => el("option", { value }, text)));
  select.value = chosen;
}

const ANSWERS = [
  ["", "any"],
  ...["accept", "abstain", "ungated"].map((one) => [`decision:${one}`, decisionWords(one)]),
  ...["not_an_image", "unreadable", "quarantined"].map((one) => [`outcome:${one}`, outcomeWords(one)]),
];
const GIVEN = [["", "any"], ["yes", "labelled"], ["no", "not labelled"], ["disagrees", "disagreeing"]];
const ORDERS = [["", "newest first"], ["uncertain", "most uncertain first"]];

export class Filters {
  constructor(changed) {
    this.value = filterOf();
    this.facets = { labels: [], days: [], sessions: [] };
    this.controls = {
      label: choice("Class"), answer: choice("Answer"), given: choice("Label given"), day: choice("Day"),
      session: choice("Session"), order: choice("Order"),
    };
    this.clear = el("button", { type: "button" }, "Show all");
    this.box = el("div", { class: "filters", role: "group", "aria-label": "Filter the history" },
      ...Object.values(this.controls).map(({ box }) => box), this.clear);
    const set = (value) => {
      this.value = value;
      this.toAddress();
      this.draw();
      changed();
    };
    this.box.addEventListener("change", () => set(this.read()));
    this.clear.addEventListener("click", () => {
      this.controls.label.select.focus();
      set({});
    });
    addEventListener("popstate", () => {
      this.value = filterOf();
      this.draw();
      changed();
    });
    this.draw();
  }

  get isSet() {
    return Object.keys(this.value).length > 0;
  }

  // What the server is asked to label: the order is none of its business.
  get chosen() {
    const { order, ...rest } = this.value;
    return rest;
  }

  read() {
    const { label, answer, given, day, session, order } = this.controls;
    const [kind, answered] = answer.select.value.split(":");
    const found = { label: label.select.value, [kind || "decision"]: answered ?? "", given: given.select.value,
      day: day.select.value, session: session.select.value, order: order.select.value };
    return Object.fromEntries(Object.entries(found).filter(([, value]) => value));
  }

  toAddress() {
    const query = queryOf(this.value);
    history.replaceState(history.state, "", `${location.pathname}${query && `?${query}`}`);
  }

  draw() {
    const { label, answer, given, day, session, order } = this.controls;
    const { labels, days, sessions } = this.facets;
    const { value } = this;
    const any = ["", "any"];
    const answered = value.outcome ? `outcome:${value.outcome}` : value.decision ? `decision:${value.decision}` : "";
    fill(label, [any, ...labels.map((one) => [one, one])], value.label ?? "");
    fill(answer, ANSWERS, answered);
    fill(given, GIVEN, value.given ?? "");
    fill(day, [any, ...days.map((one) => [one.day, `${one.day} (${one.count})`])], value.day ?? "");
    fill(session, [any, ...sessions.map((one) => [String(one.id), sessionWords(one)])], value.session ?? "");
    fill(order, ORDERS, value.order ?? "");
    this.clear.hidden = !this.isSet;
  }
}

function sessionWords({ start, files }) {
  const from = new Date(start);
  const day = from.toLocaleDateString(undefined, { day: "numeric", month: "short" });
  return `${day} ${from.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" })} (${files})`;
}
