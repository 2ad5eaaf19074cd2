// A list of up to 300,000 rows of one height, of which only those in view exist, and the pages they come from.
// Neither knows what a row says.

const OVERSCAN = 4;
const KEPT_CHUNKS = 40;
const SETTLED_MS = 80;
const AGAIN_MS = 3000;

// Rows by position: what came in since (`head`), then chunks of a frozen index. Only what is in view is asked for, once
// the view has stayed for a moment, and no longer once it has left.
export class Pages {
  constructor(fetchPage, changed) {
    this.fetchPage = fetchPage;
    this.changed = changed;
    this.reset({ total: 0, chunk: 100, anchors: [], newest: 0 });
  }

  reset(index) {
    this.index = index;
    this.head = [];
    this.first = new Map();
    this.forget();
  }

  // The places stay, what stands there is asked for again.
  forget() {
    for (const flight of this.flights?.values() ?? []) flight.abort();
    clearTimeout(this.timer);
    this.chunks = new Map();
    this.flights = new Map();
    this.wanted = [];
    this.moved = 0;
  }

  get total() {
    return this.head.length + this.index.total;
  }

  at(position) {
    const below = position - this.head.length;
    if (below < 0) return this.head[position];
    return this.chunks.get(Math.floor(below / this.index.chunk))?.[below % this.index.chunk];
  }

  *rows() {
    yield* this.head;
    for (const chunk of this.chunks.values()) yield* chunk;
  }

  numbers(first, last) {
    const found = [];
    const at = (position) => Math.floor(Math.max(0, position - this.head.length) / this.index.chunk);
    if (this.index.total && last >= this.head.length)
      for (let k = at(first); k <= at(Math.min(last, this.total - 1)); k++) found.push(k);
    return found;
  }

  want(first, last) {
    const wanted = this.numbers(first, last);
    if (wanted.join() === this.wanted.join()) return;
    this.wanted = wanted;
    for (const [k, flight] of this.flights) if (!wanted.includes(k)) flight.abort();
    clearTimeout(this.timer);
    const isJumping = performance.now() - this.moved < 2 * SETTLED_MS;
    this.moved = performance.now();
    this.timer = setTimeout(() => this.loadWanted(), isJumping ? SETTLED_MS : 0);
  }

  loadWanted() {
    for (const k of this.wanted) this.load(k).catch(() => {});
  }

  async load(k) {
    const kept = this.chunks.get(k);
    this.chunks.delete(k);
    if (kept) return this.chunks.set(k, kept); // the one used last is dropped last
    if (this.flights.has(k)) return;
    const flight = new AbortController();
    const { flights, chunks } = this;
    flights.set(k, flight);
    try {
      const rows = await this.read(k, flight.signal);
      if (flight.signal.aborted) return;
      chunks.set(k, rows);
      if (rows.length) this.first.set(k, rows[0].id);
      for (const old of chunks.keys()) {
        if (chunks.size <= KEPT_CHUNKS) break;
        if (!this.wanted.includes(old)) chunks.delete(old);
      }
      this.changed(null);
    } catch (error) {
      if (flight.signal.aborted) return;
      this.changed(error);
      this.timer = setTimeout(() => this.loadWanted(), AGAIN_MS);
      throw error;
    } finally {
      if (flights.get(k) === flight) flights.delete(k);
    }
  }

  // What came in after the index was made is left out: it would move everything below it.
  async read(k, signal) {
    const { anchors, chunk, total, newest } = this.index;
    const size = Math.min(chunk, total - k * chunk);
    let rows = [];
    let cursor = anchors[k];
    for (let tries = 0; rows.length < size && tries < 20; tries++) {
      const page = await this.fetchPage(cursor, chunk, signal);
      rows = rows.concat(page.rows.filter((row) => row.id <= newest));
      cursor = page.next;
      if (!cursor) break;
    }
    const next = rows.findIndex((row) => row.id === this.first.get(k + 1));
    return rows.slice(0, next < 0 ? size : Math.min(size, next));
  }

  // All rows of a range, in order; raises what loading raises.
  async range(first, last) {
    const { index } = this;
    for (const k of this.numbers(first, last)) while (!this.chunks.has(k)) {
      const waits = this.flights.has(k);
      await (waits ? new Promise((done) => setTimeout(done, 30)) : this.load(k));
      if (index !== this.index) return [];
    }
    const found = [];
    for (let position = first; position <= last; position++) found.push(this.at(position));
    return found.filter(Boolean);
  }
}

export class VirtualList {
  constructor(box, { height, make, draw, moved }) {
    Object.assign(this, { box, height, make, draw, moved, total: 0, active: -1 });
    this.nodes = new Map();
    this.sizer = document.createElement("div");
    this.sizer.setAttribute("role", "presentation");
    box.append(this.sizer);
    box.addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => {
      this.shown = box.clientHeight;
      this.later();
    }).observe(box);
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.render(false);
      this.moved(this.first, this.last);
    });
  }

  setTotal(total) {
    this.total = total;
    this.sizer.style.height = `${total * this.height}px`;
  }

  // One more row on top: every node keeps its row and moves down by one.
  shift() {
    this.nodes = new Map([...this.nodes].map(([position, node]) => [position + 1, node]));
    for (const [position, node] of this.nodes) node.style.transform = `translateY(${position * this.height}px)`;
  }

  get top() {
    return this.box.scrollTop;
  }

  set top(value) {
    this.box.scrollTop = value;
  }

  get page() {
    return Math.max(1, Math.floor((this.shown ?? 0) / this.height) - 1);
  }

  reveal(position) {
    const y = position * this.height;
    if (y < this.top) this.top = y;
    else if (y + this.height > this.top + this.shown) this.top = y + this.height - this.shown;
  }

  // The active row stays in the document wherever it is: aria-activedescendant points at it.
  positions() {
    const { top, height, total, active } = this;
    this.first = Math.max(0, Math.floor(top / height) - OVERSCAN);
    this.last = Math.min(total - 1, Math.ceil((top + (this.shown ?? 0)) / height) + OVERSCAN);
    const found = [];
    if (active >= 0 && active < this.first) found.push(active);
    for (let position = this.first; position <= this.last; position++) found.push(position);
    if (active > this.last && active < total) found.push(active);
    return found;
  }

  render(all = true) {
    const wanted = this.positions();
    const stay = new Set(wanted);
    const spare = [];
    for (const [position, node] of this.nodes)
      if (!stay.has(position)) {
        this.nodes.delete(position);
        spare.push(node);
      }
    let place = this.sizer.firstChild;
    for (const position of wanted) {
      const known = this.nodes.get(position);
      const node = known ?? spare.pop() ?? this.make();
      if (node === place) place = place.nextSibling;
      else this.sizer.insertBefore(node, place);
      if (!known) node.style.transform = `translateY(${position * this.height}px)`;
      this.nodes.set(position, node);
      if (all || !known) this.draw(node, position);
    }
    for (const node of spare) node.remove();
  }

  positionOf(target) {
    for (const [position, node] of this.nodes) if (node.contains(target)) return position;
    return -1;
  }
}
