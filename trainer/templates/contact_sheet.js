"use strict";
// Text from the data set only ever enters the page as text (textContent, attributes), never as markup.
const byId = (id) => document.getElementById(id);
const state = JSON.parse(byId("state").textContent);
const cards = [...document.querySelectorAll(".card")];
const cardOf = new Map(cards.map((card) => [card.dataset.id, card]));
const values = new Map(cards.map((card) => [card, card.dataset.values.split(" ").map(Number)]));
const texts = new Map(cards.map((card) => {
  const { file, group, reason, note, near, label } = card.dataset;
  return [card, [file, group, reason, note, near, label].join("\n").toLowerCase()];
}));
const sections = [...document.querySelectorAll("section")];
const filters = ["class", "part", "state", "kind", "near", "text", "sort"];

// --- what a person decided: crop id -> {decision, label, by, note} ---------------------------------
const place = "scopewatch.contact-sheet." + state.fingerprint;
const given = JSON.stringify(state.decided);
let marks = new Map(Object.entries(state.decided));
let saved = true;
const past = [];

function recall(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}
function remember(key, text) {
  try { localStorage.setItem(key, text); return true; } catch { return false; }
}
function restore() {
  let found = null;
  try { found = JSON.parse(recall(place) || "null"); } catch { found = null; }
  if (!found || typeof found.marks !== "object") return;
  // An overrides file read since then is newer than what this browser knows; what it does not say is kept.
  marks = new Map(Object.entries(found.given === given ? found.marks : { ...found.marks, ...state.decided }));
  for (const id of marks.keys()) if (!cardOf.has(id)) marks.delete(id);
  saved = found.saved === true;
}
function keepMarks() {
  const kept = remember(place, JSON.stringify({ given, saved, marks: Object.fromEntries(marks) }));
  if (!kept) byId("unsaved").title = "this browser does not let a page from a folder remember anything";
  byId("n-marks").textContent = String(marks.size);
  byId("unsaved").textContent = saved ? "" : " · not saved yet";
  byId("undo").disabled = past.length === 0;
}

function show(card) {
  const mark = marks.get(card.dataset.id);
  const kept = card.dataset.kept === "yes";
  const keptNow = mark ? mark.decision === "keep" : kept;
  card.classList.toggle("marked", Boolean(mark));
  card.classList.toggle("same", Boolean(mark) && keptNow === kept);
  card.classList.toggle("dropped-now", !keptNow);
  let words = "";
  if (mark) {
    words = mark.decision + (mark.label && mark.label !== card.dataset.label ? " as " + mark.label : "");
    if (mark.by) words += " (" + mark.by + ")";
    words = "→ " + words;
  }
  card.querySelector(".decided").textContent = words;
}

function change(ids, decide) {
  const before = ids.map((id) => [id, marks.get(id)]);
  for (const id of ids) {
    const mark = decide(cardOf.get(id), marks.get(id));
    if (mark) marks.set(id, mark); else marks.delete(id);
    show(cardOf.get(id));
  }
  past.push(before);
  saved = false;
  keepMarks();
  inspect();
}
function undo() {
  const before = past.pop();
  if (!before) return;
  for (const [id, mark] of before) {
    if (mark) marks.set(id, mark); else marks.delete(id);
    show(cardOf.get(id));
  }
  saved = false;
  keepMarks();
  inspect();
}
function act(name, label, ids) {
  const able = ids.filter((id) => name !== "keep" || cardOf.get(id).dataset.keepable === "yes");
  if (!able.length) return;
  if (able.length > 200 && !confirm("Overrule " + able.length + " crops at once?")) return;
  const by = byId("by").value.trim();
  change(able, (card, mark) => {
    if (name === "clear") return null;
    const other = label === undefined ? (name === "keep" && mark ? mark.label : "") : label;
    const next = { decision: name, label: other === card.dataset.label ? "" : other, by, note: mark ? mark.note : "" };
    const again = mark && mark.decision === next.decision && mark.label === next.label;
    return again && able.length === 1 ? null : next;
  });
}

// --- choosing -----------------------------------------------------------------------------------------
let chosen = [];
let anchor = null;
const visible = () => cards.filter((card) => !card.classList.contains("filtered-out"));
const inOrder = () => [...document.querySelectorAll(".card:not(.filtered-out)")];

function choose(list, focus) {
  for (const card of chosen) { card.classList.remove("chosen"); card.tabIndex = -1; }
  chosen = list;
  for (const card of chosen) card.classList.add("chosen");
  const last = chosen[chosen.length - 1];
  if (last) {
    last.tabIndex = 0;
    if (focus) { last.focus({ preventScroll: true }); last.scrollIntoView({ block: "nearest" }); }
  }
  inspect();
}
function clicked(card, event) {
  if (event.shiftKey && anchor) {
    const order = inOrder();
    const ends = [order.indexOf(anchor), order.indexOf(card)].sort((a, b) => a - b);
    choose(ends[0] < 0 ? [card] : order.slice(ends[0], ends[1] + 1), true);
  } else if (event.ctrlKey || event.metaKey) {
    choose(chosen.includes(card) ? chosen.filter((one) => one !== card) : [...chosen, card], true);
    anchor = card;
  } else {
    choose([card], true);
    anchor = card;
  }
}
function move(key) {
  const order = inOrder();
  if (!order.length) return;
  const from = order.indexOf(chosen[chosen.length - 1]);
  let to = 0;
  if (from >= 0) {
    if (key === "ArrowLeft") to = Math.max(0, from - 1);
    else if (key === "ArrowRight") to = Math.min(order.length - 1, from + 1);
    else to = below(order, from, key === "ArrowDown" ? 1 : -1);
  }
  anchor = order[to];
  choose([order[to]], true);
}
function below(order, from, step) {
  const here = order[from].getBoundingClientRect();
  for (let index = from + step; index >= 0 && index < order.length; index += step) {
    const there = order[index].getBoundingClientRect();
    if (Math.abs(there.left - here.left) < 8 && there.top !== here.top) return index;
  }
  return step > 0 ? order.length - 1 : 0;
}

function fact(list, name, text) {
  if (!text) return;
  const term = document.createElement("dt");
  const said = document.createElement("dd");
  term.textContent = name;
  said.textContent = text;
  list.append(term, said);
}
function inspect() {
  const card = chosen[chosen.length - 1];
  const many = chosen.length > 1;
  byId("i-acts").hidden = !card;
  byId("i-hint").hidden = Boolean(card);
  byId("i-facts").replaceChildren();
  byId("big").replaceChildren();
  if (!card) { byId("i-name").textContent = "No crop chosen"; return; }
  const data = card.dataset;
  byId("big").append(card.querySelector(".picture").firstElementChild.cloneNode(true));
  byId("i-name").textContent = many ? chosen.length + " crops chosen" : card.querySelector(".name").textContent;
  const mark = marks.get(data.id);
  for (const button of byId("i-acts").querySelectorAll("button")) {
    const label = button.dataset.label;
    let on = mark !== undefined && mark.decision === button.dataset.act;
    if (label !== undefined) on = mark && mark.decision === "keep" ? (mark.label || data.label) === label : data.label === label;
    button.setAttribute("aria-pressed", String(Boolean(on)));
    const needsPixels = button.dataset.act === "keep";
    button.disabled = needsPixels && chosen.every((one) => one.dataset.keepable === "no");
  }
  byId("i-note").value = mark ? mark.note : "";
  byId("i-note").disabled = !mark;
  if (many) return;
  const list = byId("i-facts");
  fact(list, "file", data.file);
  fact(list, "class", data.label);
  fact(list, "prepared", data.kept === "yes" ? "kept, " + data.part : "dropped");
  fact(list, "reason", data.reason);
  fact(list, "note", data.note);
  fact(list, "unusual", data.unusual);
  fact(list, "size", data.size);
  fact(list, "pixel size", data.scale);
  fact(list, "box", data.box);
  fact(list, "group", data.group);
  fact(list, "near-dupl.", data.near);
  if (data.values) state.measures.forEach((name, index) => {
    fact(list, name.replaceAll("_", " "), shortNumber(values.get(card)[index]));
  });
  if (data.keepable === "no") fact(list, "", "There are no pixels of it: it cannot be kept.");
}
const shortNumber = (value) => String(Number(value.toPrecision(3)));

// --- filters and order ------------------------------------------------------------------------------
const wanted = () => Object.fromEntries(filters.map((name) => [name, byId("f-" + name).value]));
function passes(card, want) {
  const data = card.dataset;
  const mark = marks.get(data.id);
  if (want.class && data.label !== want.class && !(mark && mark.label === want.class)) return false;
  if (want.part && data.part !== want.part) return false;
  if (want.kind && data.kind !== want.kind) return false;
  if (want.near && (want.near === "*" ? !data.near : data.near !== want.near)) return false;
  if (want.state === "overruled" && !mark) return false;
  if (want.state === "flagged" && !(data.note || data.unusual)) return false;
  if (want.state === "kept" && data.kept !== "yes") return false;
  if (want.state === "dropped" && data.kept !== "no") return false;
  return !want.text || texts.get(card).includes(want.text);
}
function filter() {
  const want = wanted();
  want.text = want.text.trim().toLowerCase();
  for (const card of cards) card.classList.toggle("filtered-out", !passes(card, want));
  let all = 0;
  for (const section of sections) {
    const mine = section.querySelectorAll(".card:not(.filtered-out)").length;
    const total = section.querySelectorAll(".card").length;
    section.querySelector(".count").textContent = mine === total ? String(total) : mine + " of " + total;
    section.hidden = mine === 0;
    all += mine;
  }
  byId("shown").textContent = all === cards.length ? all + " crops" : all + " of " + cards.length + " crops";
  byId("nothing").hidden = all > 0;
  const left = chosen.filter((card) => !card.classList.contains("filtered-out"));
  if (left.length !== chosen.length) choose(left, false);
}
function order(sort) {
  const measure = Math.abs(Number(sort));
  const sign = sort.startsWith("-") ? -1 : 1;
  const compare = (a, b) => {
    if (sort === "") return a.dataset.rank - b.dataset.rank;
    if (sort === "file") return a.dataset.file < b.dataset.file ? -1 : a.dataset.file > b.dataset.file ? 1 : 0;
    const [x, y] = [values.get(a)[measure], values.get(b)[measure]];
    return (x === undefined || !a.dataset.values) - (y === undefined || !b.dataset.values) || sign * (x - y);
  };
  for (const section of sections) {
    const grid = section.querySelector(".grid");
    grid.append(...[...grid.children].sort(compare));
  }
}

// --- the file -----------------------------------------------------------------------------------------
function cell(text) {
  return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}
function table() {
  const files = new Map();
  for (const card of cards) {
    if (!files.has(card.dataset.file)) files.set(card.dataset.file, []);
    files.get(card.dataset.file).push(card);
  }
  const rows = [state.columns, ...state.others];
  for (const [file, mine] of [...files].sort((a, b) => (a[0] < b[0] ? -1 : 1))) {
    const said = mine.map((card) => marks.get(card.dataset.id));
    const alike = said.every((mark) => mark && JSON.stringify(mark) === JSON.stringify(said[0]));
    // A file whose crops all share one fate is named as a whole: that still holds when it is cut otherwise.
    const each = alike ? [["", said[0]]] : mine.map((card, index) => [card.dataset.box, said[index]]);
    for (const [box, mark] of each) {
      if (mark) rows.push([file, box, mark.decision, mark.label, mark.by, mark.note]);
    }
  }
  return "\ufeff" + rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
}
function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "overrides.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  saved = true;
  keepMarks();
}

// --- wiring -------------------------------------------------------------------------------------------
state.labels.forEach((label, index) => {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.act = "keep";
  button.dataset.label = label;
  button.textContent = label + " ";
  if (index < 9) {
    const key = document.createElement("kbd");
    key.textContent = String(index + 1);
    button.append(key);
  }
  byId("i-labels").append(button);
});
document.querySelector("main").addEventListener("click", (event) => {
  const card = event.target.closest(".card");
  if (!card) return;
  const button = event.target.closest("button");
  if (!button) { clicked(card, event); return; }
  if (!chosen.includes(card) || chosen.length === 1) { choose([card], false); anchor = card; }
  act(button.dataset.act, undefined, chosen.map((one) => one.dataset.id));
});
byId("i-acts").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) act(button.dataset.act, button.dataset.label, chosen.map((card) => card.dataset.id));
});
byId("i-note").addEventListener("change", () => {
  const note = byId("i-note").value.trim();
  const ids = chosen.map((card) => card.dataset.id).filter((id) => marks.has(id));
  if (ids.length) change(ids, (card, mark) => ({ ...mark, note }));
});
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { byId("f-text").focus(); event.preventDefault(); return; }
  // Letters act only while a crop has the focus, so that nobody overrules by typing elsewhere.
  const ids = document.activeElement.closest(".card") ? chosen.map((card) => card.dataset.id) : [];
  const key = event.key.toLowerCase();
  if (event.key.startsWith("Arrow") && (ids.length || document.activeElement === document.body)) move(event.key);
  else if (key === "k" && ids.length) act("keep", undefined, ids);
  else if (key === "d" && ids.length) act("drop", undefined, ids);
  else if (key === "u" && ids.length) act("clear", undefined, ids);
  else if (key === "z" && ids.length) undo();
  else if (/^[1-9]$/.test(key) && ids.length && state.labels[key - 1] !== undefined) act("keep", state.labels[key - 1], ids);
  else return;
  event.preventDefault();
});
for (const name of filters) {
  byId("f-" + name).addEventListener("input", () => {
    if (name === "sort") order(byId("f-sort").value); else filter();
  });
}
byId("clear").addEventListener("click", () => {
  for (const name of filters) byId("f-" + name).value = "";
  order("");
  filter();
});
for (const [attribute, name] of [["setClass", "class"], ["setKind", "kind"]]) {
  document.querySelector("header").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button || button.dataset[attribute] === undefined) return;
    byId("f-" + name).value = button.dataset[attribute];
    filter();
    document.querySelector(".bar").scrollIntoView();
  });
}
byId("f-size").addEventListener("input", () => {
  document.documentElement.style.setProperty("--side", byId("f-size").value + "px");
});
if (byId("f-measures")) byId("f-measures").addEventListener("input", () => {
  document.body.classList.toggle("with-measures", byId("f-measures").checked);
});
byId("all").addEventListener("click", () => choose(inOrder(), false));
byId("undo").addEventListener("click", undo);
byId("save").addEventListener("click", save);
byId("by").value = recall("scopewatch.by") || "";
byId("by").addEventListener("input", () => remember("scopewatch.by", byId("by").value.trim()));
restore();
cards.forEach(show);
keepMarks();
filter();
