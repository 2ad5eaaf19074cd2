// When a change of state is worth an alert: it has to hold, it is told once, and flickering tells nothing.

export const HOLD_MS = 10000;
export const CLEAR_MS = 30000;
export const SNOOZE_MS = 30 * 60000;
const CALM = ["working", "idle", "starting"];

/** Knows no clock: every call brings the time in ms. */
export class Alarm {
  raised = null; // the state that was alerted and has not cleared
  snoozedUntil = 0;
  #candidate = null;
  #since = 0;
  #owed = false; // something was raised in silence

  /** Take the state that holds now. Returns "raised" or "cleared" when that is to be told, else null. */
  step(state, now) {
    const candidate = CALM.includes(state) ? null : state;
    if (candidate !== this.#candidate) [this.#candidate, this.#since] = [candidate, now];
    const lasted = now - this.#since;
    const change = candidate !== this.raised && lasted >= (candidate ? HOLD_MS : CLEAR_MS);
    if (change) this.raised = candidate;
    return this.#told(change, now);
  }

  #told(change, now) {
    if (now < this.snoozedUntil) {
      this.#owed = this.raised !== null;
      return null;
    }
    const owed = this.#owed && this.raised;
    this.#owed = false;
    if (!change && !owed) return null;
    return this.raised ? "raised" : "cleared";
  }

  /** Tell nothing for half an hour; what then still holds is told. */
  snooze(now) {
    this.snoozedUntil = now + SNOOZE_MS;
    this.#owed = this.raised !== null;
  }

  /** End the snooze. */
  wake() {
    this.snoozedUntil = 0;
  }
}

/** "12 new: 9 round, 3 rod" for the rows that came since it was last said. */
export class Tally {
  #words = new Map();
  #total = 0;

  add(row, name) {
    this.#total += 1;
    this.#words.set(name, (this.#words.get(name) ?? 0) + 1);
  }

  /** What to say, or "" when there is nothing; forgets it. */
  take() {
    if (!this.#total) return "";
    const counts = [...this.#words].sort((one, other) => other[1] - one[1]).map(([name, count]) => `${count} ${name}`);
    const words = `${this.#total} new: ${counts.join(", ")}`;
    this.#total = 0;
    this.#words.clear();
    return words;
  }
}
