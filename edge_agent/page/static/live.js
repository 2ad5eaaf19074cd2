// What the agent says becomes the page's state. Only this module decides whether the agent is to be believed alive.

import { state as fetchState } from "./api.js";
import { store } from "./store.js";
import { stream } from "./stream.js";

export const NEWEST = 24;
/** So long without a sign of the agent, by this PC's clock, and there is no contact. */
const SILENCE_MS = 12000;
const STEAL_MS = 9000;
const MOST_WAITING = 512;
const entryListeners = new Set();
let seen = { epoch: null, number: 0 };
let fetching = null;
let waiting = [];
let stolen = 0;

/** Begin to listen, and fetch what the page starts from. */
export function start() {
  for (const [kind, fn] of Object.entries({ entry: onEntry, status: onStatus, labels: onLabels, model: onModel }))
    stream.onEvent(kind, (data, id) => take(id, () => fn(data)));
  stream.onEvent("heartbeat", onHeartbeat);
  for (const kind of ["open", "resync"]) stream.onEvent(kind, () => refresh());
  stream.onEvent("broken", () => refresh()); // also finds out that the key is no longer good
  stream.start();
  return refresh();
}

/** Call `fn(row)` for every new entry. */
export function onNewEntry(fn) {
  entryListeners.add(fn);
}

/** Judge the silence; to be called every second, and when the page is seen again. */
export function tick(now = Date.now()) {
  const { connection, heard } = store.state;
  if (connection === "signed_out") return;
  const silence = now - Math.min(heard, now);
  if (connection === "live" && silence > SILENCE_MS) store.set({ connection: "lost" });
  if (silence > STEAL_MS && now - stolen > 2 * SILENCE_MS && !document.hidden && heard) {
    stolen = now;
    stream.takeOver();
  }
}

/** Fetch the whole state anew; calls while that runs join it. */
export function refresh() {
  fetching ??= fetchAll().finally(() => (fetching = null));
  return fetching;
}

async function fetchAll() {
  try {
    const found = await fetchState();
    seen = { epoch: found.epoch, number: found.event };
    adopt(found);
    const late = waiting;
    waiting = [];
    for (const [id, work] of late) take(id, work, true);
  } catch (error) {
    waiting = [];
    if (error.status === 401) signOut();
    else if (!("status" in error)) throw error;
  }
}

function signOut() {
  stream.stop();
  store.set({ connection: "signed_out" });
}

function adopt(found) {
  const { rows, following, unseen, shown } = store.state;
  const news = rows.length ? found.recent.filter((row) => row.id > rows[0].id).length : 0;
  const now = Date.now();
  const model = store.state.model;
  store.set({
    connection: "live",
    heard: now,
    skew: now - Date.parse(found.now),
    epoch: found.epoch,
    status: found.status,
    // The same model is the same object: whoever depends on it need not draw again.
    model: JSON.stringify(model) === JSON.stringify(found.model) ? model : found.model,
    folders: found.folders,
    person: store.state.person || found.person || "",
    undo: found.undo,
    redo: found.redo,
    waiting_labels: found.waiting_labels,
    unseen: following ? 0 : unseen + news,
    shown: following ? newest(found.recent) : renewed(shown, found.recent),
    rows: found.recent,
  });
}

/** Take an event once and in order: what was missed makes everything be fetched anew. */
function take(id, work, late = false) {
  if (fetching && !late) {
    if (waiting.push([id, work]) > MOST_WAITING) waiting.shift();
    return;
  }
  const at = id?.lastIndexOf("-") ?? -1;
  const [epoch, number] = [id?.slice(0, at), Number(id?.slice(at + 1))];
  if (at > 0) {
    if (epoch === seen.epoch && number <= seen.number) return;
    if (epoch !== seen.epoch || number > seen.number + 1) return void refresh();
    seen.number = number;
  }
  hear();
  work();
}

function hear() {
  if (store.state.connection === "live") store.set({ heard: Date.now() });
  else if (store.state.connection !== "signed_out") refresh();
}

function onHeartbeat({ now }) {
  hear();
  if (store.state.connection === "live") store.set({ skew: Date.now() - Date.parse(now) });
}

function onEntry({ row, new: isNew }) {
  const { rows, following, unseen, shown } = store.state;
  const known = rows.some((one) => one.id === row.id);
  if (!known && !isNew && !(shown?.id === row.id)) return;
  const next = known ? rows.map((one) => (one.id === row.id ? row : one)) : isNew ? [row, ...rows].slice(0, NEWEST) : rows;
  store.set({
    rows: next,
    shown: following ? newest(next) : renewed(shown, [row]),
    unseen: following || known ? unseen : unseen + 1,
  });
  if (isNew) for (const listener of entryListeners) listener(row);
}

function onStatus(status) {
  store.set({ status });
}

function onModel(model) {
  store.set({ model });
  refresh();
}

function onLabels({ changes, many }) {
  if (many) return void refresh();
  const given = new Map(changes);
  const told = (row) => (row && given.has(row.id) ? { ...row, given: given.get(row.id) } : row);
  const { rows, shown } = store.state;
  const row = told(shown?.row);
  store.set({ rows: rows.map(told), shown: row === shown?.row ? shown : { ...shown, row } });
}

const newest = (rows) => (rows.length ? keep({ id: rows[0].id, row: rows[0], blind: false }) : null);

// What is shown stays the same object as long as it says the same.
function keep(next) {
  const { shown } = store.state;
  const same = shown && shown.id === next.id && shown.blind === next.blind;
  return same && JSON.stringify(shown.row) === JSON.stringify(next.row) ? shown : next;
}

function renewed(shown, rows) {
  const row = shown && rows.find((one) => one.id === shown.id);
  return row && !shown.blind ? keep({ ...shown, row }) : shown;
}

/** Show one entry and let newer ones wait. `row`, where it is known, spares a question; `blind` shows no answer. */
export function show(id, { row = null, blind = false } = {}) {
  const known = row ?? store.state.rows.find((one) => one.id === id) ?? null;
  store.set({ shown: { id, row: known, blind }, following: false });
}

/** Pause following: what is shown stays. */
export function pause() {
  if (store.state.following) store.set({ following: false, unseen: 0 });
}

/** Show the newest entry, from now on always. */
export function follow() {
  store.set({ shown: newest(store.state.rows), following: true, unseen: 0 });
}
