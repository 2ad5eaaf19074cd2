// The session: its numbers, ten-minute bars stacked by class, its neighbours, its end, and what can be taken along.
import { classMark } from "./colours.js";
import { el, fill, put } from "./dom.js";
import { drawMark } from "./history.js";
import { outcomeWords, percent, timeWords } from "./words.js";

const LOOK_MS = 15000;
const CHART_PX = 180;
const rate = (value) => (value === null ? "-" : percent(value));

export function start(root, context) {
  return new Session(root, context);
}

class Session {
  constructor(root, { api, store, stream }) {
    Object.assign(this, { api, store, root, id: "latest" });
    const button = (words, run) => el("button", { type: "button", onclick: run }, words);
    this.title = el("h2", {});
    this.older = button("Previous", () => this.read(this.shown.previous));
    this.newer = button("Next", () => this.read(this.shown.next ?? "latest"));
    this.ends = button("End session", () => this.end());
    this.numbers = el("dl", { class: "numbers" });
    this.legend = el("ul", { class: "legend", "aria-label": "Classes" });
    this.chart = el("div", { class: "chart", "aria-hidden": "true" });
    this.table = el("table", {});
    this.exports = el("p", { class: "own-bar" });
    this.words = el("p", { role: "status" });
    fill(root, this.title, el("div", { class: "own-bar" }, this.older, this.newer, this.ends), this.words, this.numbers,
      this.legend, this.chart, el("details", {}, el("summary", {}, "These numbers as a table"), this.table), this.exports);
    new ResizeObserver(() => this.draw()).observe(this.chart);
    let due = 0;
    const later = () => {
      due ||= setTimeout(() => {
        due = 0;
        if (!document.hidden && root.getClientRects().length) this.read(this.id);
      }, LOOK_MS);
    };
    for (const kind of ["entry", "labels", "resync"]) stream.onEvent(kind, later);
    new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && this.read(this.id)).observe(root);
  }

  async read(id) {
    if (id === null || id === undefined) return;
    this.id = id;
    try {
      this.shown = await this.api.get(`/api/sessions/${id}`);
    } catch (error) {
      return put(this.words, error.status === 404 ? "No session yet." : `Cannot be read: ${error.message}`);
    }
    put(this.words, "");
    this.tell();
  }

  async end() {
    try {
      await this.api.post("/api/sessions/end", {});
      await this.read("latest");
      put(this.words, "The session has ended; the next micrograph begins a new one.");
    } catch (error) {
      put(this.words, `Not ended: ${error.message}`);
    }
  }

  tell() {
    const { shown } = this;
    put(this.title, `${timeWords(shown.start)} to ${shown.open ? "now" : timeWords(shown.end)}`);
    this.older.disabled = shown.previous === null;
    this.newer.disabled = shown.next === null;
    this.ends.disabled = !shown.open;
    const numbers = { files: shown.files, "files per hour": shown.files_per_hour === null ? "-" : Math.round(shown.files_per_hour),
      abstained: rate(shown.abstain_rate), corrected: rate(shown.corrected_rate) };
    for (const [outcome, n] of Object.entries(shown.outcomes)) if (n) numbers[outcomeWords(outcome)] = n;
    fill(this.numbers, Object.entries(numbers).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    const { labels } = shown.bins;
    fill(this.legend, labels.map((label) => el("li", {}, drawMark(el("span", { class: "mark" }), this.mark(label)), label)));
    const head = ["Class", "accepted", "abstained", "not gated", "corrected"].map((name) => el("th", { scope: "col" }, name));
    fill(this.table, el("thead", {}, el("tr", {}, head)), el("tbody", {}, shown.by_class.map((row) => el("tr", {},
      el("th", { scope: "row" }, row.label), ["accept", "abstain", "ungated", "corrected"].map((name) => el("td", {}, row[name]))))));
    fill(this.exports, [["summary.html", "Summary (print or save as PDF)"], ["entries.csv", "CSV"]].map(([name, words]) =>
      el("a", { href: `/api/sessions/${shown.id}/${name}`, target: name.endsWith("csv") ? null : "_blank", rel: "noopener" }, words)));
    this.draw();
  }

  mark(label) {
    return classMark(this.store.state.model?.labels ?? this.shown.bins.labels, label);
  }

  // Bars stand in front of each other: the first is the sum of all classes, the last the lowest class alone.
  draw() {
    const width = this.chart.clientWidth;
    if (!this.shown || !width || !globalThis.uPlot) return;
    const { labels, counts, minutes, start } = this.shown.bins;
    const step = minutes * 60;
    const from = Date.parse(start) / 1000;
    const times = counts.map((_, at) => from + (at + 0.5) * step);
    const sums = labels.map((_, top) => counts.map((bin) => bin.slice(0, top + 1).reduce((sum, n) => sum + n, 0))).reverse();
    const ink = getComputedStyle(this.root).color;
    const axis = { stroke: ink, grid: { stroke: "#444", width: 1 }, ticks: { stroke: "#444" } };
    const bars = globalThis.uPlot.paths.bars({ size: [0.85, 40] });
    const series = [...labels].reverse().map((label) => {
      const { colour } = this.mark(label);
      return { label, fill: colour, stroke: colour, width: 0, paths: bars, points: { show: false } };
    });
    this.plot?.destroy();
    this.plot = new globalThis.uPlot({
      width, height: CHART_PX, legend: { show: false }, cursor: { show: false }, series: [{}, ...series],
      axes: [axis, { ...axis, size: 40, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] }],
      scales: { x: { range: [from, from + Math.max(1, counts.length) * step] }, y: { range: (_, low, high) => [0, Math.max(1, high)] } },
    }, [times, ...sums], this.chart);
  }
}
