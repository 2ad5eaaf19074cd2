// What the agent says becomes the page's state. Only this module decides whether the agent counts as alive.

import { state as fetchState } from "./api.js";
import { store } from "./store.js";
import { stream } from "./stream.js";

export const NEWEST = 24;
const SILENCE_MS = 12000; // so long without a sign of the agent, and there is no contact
const RESCUE_MS = 9000; // the stream is at fault, perhaps
const MOST_WAITING = 512;
let seen = { epoch: "", number: 0 }; // the last event
let fetching = null;
let waiting = []; // events that came while the state was fetched
let rescued = 0;

/** Listen to the agent, and fetch what the page starts from. */
export function start() {
  for (const [kind, fn] of Object.entries({ entry: onEntry, status: onStatus, labels: onLabels, model: refresh, heartbeat: onHeartbeat }))
    stream.onEvent(kind, (data, id) => take(kind, id, () => fn(data)));
  // `broken` also to find out that the key is no longer good.
  for (const kind of ["open", "resync", "broken"]) stream.onEvent(kind, refresh);
  stream.onEvent("signed_in", () => {
    store.set({ heard: Date.now() });
    refresh();
  });
  stream.start();
  return refresh();
}

/** Judge the silence, at `now` in ms. */
export function tick(now) {
  const { connection, heard } = store.state;
  const silence = now - heard;
  if (connection === "signed_out") return;
  if (silence > SILENCE_MS) store.set({ connection: "lost" });
  if (document.hidden || silence < RESCUE_MS || now - rescued < 2 * SILENCE_MS) return;
  rescued = now;
  stream.takeOver();
}

/** Fetch the whole state anew; who asks while that runs waits for the same. */
export function refresh() {
  fetching ??= fetchAll().finally(() => (fetching = null));
  return fetching;
}

async function fetchAll() {
  const held = () => waiting.splice(0);
  try {
    const found = await fetchState();
    seen = { epoch: found.epoch, number: found.event };
    adopt(found);
    for (const event of held()) take(...event, true);
  } catch (error) {
    held();
    if (error.status === 401) {
      stream.signOut();
      store.set({ connection: "signed_out" });
    } else if (error.status === undefined) throw error;
  }
}

function adopt(found) {
  const { rows, following, unseen, wanted, model, person, heard } = store.state;
  const { status, folders, undo, redo, waiting_labels, recent } = found;
  const known = new Set(rows.map(({ id, at }) => `${id} ${at}`));
  const news = rows.length ? recent.filter(({ id, at }) => !known.has(`${id} ${at}`)).length : 0;
  const now = Date.now();
  store.set({
    status, folders, undo, redo, waiting_labels, rows: recent,
    // That it answers is not enough: it stops its heartbeat when the watching is stuck.
    connection: now - heard > SILENCE_MS ? "lost" : "live",
    skew: now - Date.parse(found.now),
    model: found.model ? kept(model, found.model) : model, // an agent that starts has none yet
    person: person || found.person || "",
    unseen: following ? 0 : unseen + news,
    wanted: following || !wanted ? newest(recent) : renewed(wanted, recent),
  });
}

/** Take an event once and in order; where one was missed, all is fetched anew. */
function take(kind, id, work, isLate = false) {
  if (!isLate) store.set({ heard: Date.now() });
  if (fetching && !isLate) {
    if (waiting.push([kind, id, work]) > MOST_WAITING) waiting.shift();
    return;
  }
  const at = id.lastIndexOf("-");
  const number = Number(id.slice(at + 1));
  const isNext = number <= seen.number + (kind !== "heartbeat"); // a heartbeat has the number of the last event
  if (id.slice(0, at) !== seen.epoch || !isNext || store.state.connection !== "live") return void refresh();
  if (kind === "heartbeat") return work();
  if (number > seen.number) [seen.number] = [number, work()];
}

function onHeartbeat({ now }) {
  store.set({ skew: Date.now() - Date.parse(now) });
}

function onEntry({ row, new: isNew }) {
  const { rows, following, unseen, wanted } = store.state;
  const isFirst = isLatest(row, isNew, rows);
  const before = isFirst
    ? [row, ...rows.filter((one) => one.id !== row.id)].slice(0, NEWEST)
    : rows.map((one) => (one.id === row.id ? row : one));
  store.set({
    rows: before,
    wanted: following ? newest(before) : renewed(wanted, [row]),
    unseen: unseen + (!following && isFirst),
  });
}

// Whether it was finished just now: a new file, or one that was saved again under its name.
function isLatest(row, isNew, rows) {
  const known = rows.find(({ id }) => id === row.id);
  if (known) return known.at !== row.at;
  return isNew || Date.parse(row.at) > Date.parse(rows[0]?.at ?? 0);
}

const onStatus = (status) => store.set({ status });

function onLabels({ changes, many }) {
  if (many) return void refresh();
  const given = new Map(changes);
  const told = (row) => (row && given.has(row.id) ? { ...row, given: given.get(row.id) } : row);
  const { rows, wanted } = store.state;
  store.set({ rows: rows.map(told), wanted: wanted && kept(wanted, { ...wanted, row: told(wanted.row) }) });
}

// What says the same stays the same object: nobody draws it again.
const kept = (old, next) => (JSON.stringify(old) === JSON.stringify(next) ? old : next);

const newest = ([row]) => (row ? kept(store.state.wanted, { id: row.id, row, blind: false }) : null);

function renewed(wanted, rows) {
  const row = wanted && !wanted.blind && rows.find((one) => one.id === wanted.id);
  return row ? kept(wanted, { ...wanted, row }) : wanted;
}

/** Show one entry and let newer ones wait. `row`, where it is known, spares a question; `blind` shows no answer. */
export function show(id, { row, blind = false } = {}) {
  const known = row ?? store.state.rows.find((one) => one.id === id) ?? null;
  store.set({ wanted: kept(store.state.wanted, { id, row: known, blind }), following: false });
}

/** Show the newest entry, from now on always. */
export function follow() {
  store.set({ following: true, unseen: 0, wanted: newest(store.state.rows) });
}
