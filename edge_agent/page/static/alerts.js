// When a change of state is worth an alert: it has to hold, it is told once, and flickering tells nothing.

export const HOLD_MS = 10000;
export const CLEAR_MS = 30000;
export const SNOOZE_MS = 30 * 60000;
const CALM = ["working", "idle", "starting", "signed_out"];

/** Knows no clock: every call brings the time in ms. */
export class Alarm {
  raised = null; // the state that was alerted and has not cleared
  snoozedUntil = 0;
  #candidate = null;
  #since = 0;
  #owed = false; // what is raised is still to be told

  /** Take the state that holds. Returns "raised" or "cleared" when that is to be told now, else null. */
  step(state, now) {
    const candidate = CALM.includes(state) ? null : state;
    if (candidate !== this.#candidate) [this.#candidate, this.#since] = [candidate, now];
    const isNew = candidate !== this.raised && now - this.#since >= (candidate ? HOLD_MS : CLEAR_MS);
    if (isNew) [this.raised, this.#owed] = [candidate, candidate !== null];
    if (now < this.snoozedUntil) return null;
    if (!this.#owed) return isNew ? "cleared" : null;
    this.#owed = false;
    return "raised";
  }

  /** Tell nothing for half an hour; what still holds then is told. A second call ends it. */
  snooze(now) {
    const isSnoozed = now < this.snoozedUntil;
    this.snoozedUntil = isSnoozed ? 0 : now + SNOOZE_MS;
    this.#owed = !isSnoozed && this.raised !== null;
  }
}

/** Counts what came, until it is said. */
export class Tally {
  #counts = new Map();

  add(word) {
    this.#counts.set(word, (this.#counts.get(word) ?? 0) + 1);
  }

  /** "12 new: 9 round, 3 rod", or "" for nothing; begins anew. */
  take() {
    const counts = [...this.#counts].sort((one, other) => other[1] - one[1]);
    this.#counts.clear();
    const total = counts.reduce((sum, [, count]) => sum + count, 0);
    return total ? `${total} new: ${counts.map(([word, count]) => `${count} ${word}`).join(", ")}` : "";
  }
}
