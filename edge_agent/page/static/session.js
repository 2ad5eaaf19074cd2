// The session: its numbers, ten-minute bars stacked by class, its neighbours, its end, and what can be taken along.

import { classMark } from "./colours.js";
import { el, fill, put } from "./dom.js";
import { chip } from "./history.js";
import { share } from "./learning.js";
import { outcomeWords, timeWords } from "./words.js";

const LOOK_MS = 15000;
const CHART_PX = 180;
const LETTER_PX = 13;
// By night two reds take turns: their letters tell the classes apart.
const REDS = [{ colour: "#e87860", ink: "#000" }, { colour: "#701c10", ink: "#fff" }];
const DECISIONS = { accept: "accepted", abstain: "abstained", ungated: "not gated", corrected: "corrected" };

export function start(root, { api, store, stream }) {
  const button = (words, onclick) => el("button", { onclick }, words);
  const heading = (name) => el("th", { scope: "col" }, name);
  const [title, words, legend] = [el("h2", {}, "Session"), el("p", { role: "status" }), el("ul", { class: "bar" })];
  const [numbers, table] = [el("dl", {}), el("table", {})];
  const summary = el("a", { target: "_blank", rel: "noopener" }, "Summary (to print, or save as PDF)");
  const csv = el("a", {}, "CSV");
  const exports = el("p", { class: "bar", hidden: true }, summary, csv);
  const chart = el("div", { class: "chart", "aria-hidden": "true" });
  const older = button("Previous", () => read(shown.previous));
  const newer = button("Next", () => read(shown.next));
  const ends = button("End session", end);
  let [shown, plot, due, asked] = [null, null, 0, 0];
  const labels = () => store.state.model?.labels ?? shown.bins.labels;

  async function read(id) {
    const turn = ++asked;
    try {
      const found = await api.get(`/api/sessions/${id}`);
      if (turn !== asked) return; // somebody wanted another one since
      shown = found;
      put(words, "");
      tell();
    } catch (error) {
      put(words, error.status === 404 ? "There is no session yet." : `Cannot be read: ${error.message}`);
    }
  }

  async function end() {
    try {
      await api.post("/api/sessions/end");
      await read("latest");
      put(words, "Ended: the next micrograph begins a new session.");
    } catch (error) {
      put(words, `Not ended: ${error.message}`);
    }
  }

  function tell() {
    const { id, start: from, end: to, open, previous, next, outcomes, files, bins, by_class: rows } = shown;
    put(title, `${timeWords(from)} to ${open ? "now" : timeWords(to)}`);
    [older.disabled, newer.disabled, ends.disabled] = [previous === null, next === null, !open];
    const facts = [["files", files], ["files an hour", shown.files_per_hour === null ? "-" : Math.round(shown.files_per_hour)], ["abstained", share(shown.abstain_rate)],
      ["corrected", share(shown.corrected_rate)], ...Object.entries(outcomes).map(([outcome, n]) => [outcomeWords(outcome), n])];
    fill(numbers, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value || "0")]));
    fill(legend, ...bins.labels.map((label) => el("li", {}, chip(labels(), label), ` ${label}`)));
    fill(table, el("tr", {}, ["Class", ...Object.values(DECISIONS)].map(heading)), ...rows.map((row) => el("tr", {},
      el("th", { scope: "row" }, row.label), Object.keys(DECISIONS).map((name) => el("td", {}, row[name])))));
    // The same links with other addresses: whoever has the focus on one keeps it.
    [summary.href, csv.href, exports.hidden] = [`/api/sessions/${id}/summary.html`, `/api/sessions/${id}/entries.csv`, false];
    draw();
  }

  // Bars stand in front of each other: the first is the sum of all classes, the last one class alone.
  function draw() {
    const width = chart.clientWidth;
    if (!shown || !width || !window.uPlot) return;
    const { bins } = shown;
    const [step, from] = [bins.minutes * 60, Date.parse(bins.start) / 1000];
    const sum = (bin, top) => bin.slice(0, top + 1).reduce((all, n) => all + n, 0);
    const order = [...bins.labels.keys()].reverse();
    const data = [bins.counts.map((_, at) => from + (at + 0.5) * step), ...order.map((top) => bins.counts.map((bin) => sum(bin, top)))];
    const paths = window.uPlot.paths.bars({ size: [0.85, 40] });
    const isRed = document.documentElement.dataset.theme === "red";
    const marks = bins.labels.map((label, at) => ({ ...classMark(labels(), label), ...(isRed && REDS[at % 2]) }));
    const series = order.map((top) => ({ fill: marks[top].colour, width: 0, paths, points: { show: false } }));
    const letters = ({ ctx, valToPos }) => {
      const dense = devicePixelRatio;
      const place = (bin, at) => [valToPos(from + (bin + 0.5) * step, "x", true), ...[at - 1, at].map((top) => valToPos(sum(bins.counts[bin], top), "y", true))];
      const isWide = valToPos(from + step, "x") - valToPos(from, "x") > LETTER_PX;
      Object.assign(ctx, { font: `700 ${LETTER_PX * dense}px sans-serif`, textAlign: "center", textBaseline: "middle" });
      for (const bin of isWide ? bins.counts.keys() : []) for (const [at, { letter, ink }] of marks.entries()) {
        const [x, low, high] = place(bin, at);
        if (low - high < LETTER_PX * dense) continue;
        ctx.fillStyle = ink;
        ctx.fillText(letter, x, (low + high) / 2);
      }
    };
    const axis = { stroke: getComputedStyle(chart).color, grid: { stroke: "#444" }, ticks: { stroke: "#444" } };
    plot?.destroy();
    plot = new window.uPlot({
      width, height: CHART_PX, series: [{}, ...series], legend: { show: false }, cursor: { show: false },
      hooks: { draw: [letters] },
      axes: [{ ...axis, values: "{HH}:{mm}" }, { ...axis, size: 40 }],
      scales: { x: { range: [from, from + Math.max(1, bins.counts.length) * step] }, y: { range: (_, low, high) => [0, Math.max(1, high)] } },
    }, data, chart);
  }

  const details = el("details", {}, el("summary", {}, "By class, as a table"), table);
  root.append(title, el("div", { class: "bar" }, older, newer, ends), words, numbers, legend, chart, details, exports);
  new ResizeObserver(draw).observe(chart);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  const isLast = () => !shown || shown.next === null;
  const later = () => {
    due ||= setTimeout(() => {
      due = 0;
      if (chart.clientWidth && isLast()) read("latest");
    }, LOOK_MS);
  };
  for (const kind of ["entry", "labels", "resync", "open"]) stream.onEvent(kind, later);
  new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && isLast() && read("latest")).observe(root);
}
