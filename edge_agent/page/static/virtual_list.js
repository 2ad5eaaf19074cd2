// A long list of rows of one height, of which only those in view exist, and the pages they come from. Neither knows
// what a row says.

const OVERSCAN = 4;
const KEPT_CHUNKS = 40;
const SETTLED_MS = 80;
const AGAIN_MS = 3000;

/**
 * Rows by position: those that came since (`head`), then the chunks of an index, which stays as it is. Only what is in
 * view is asked for, once the view has stayed for a moment, and no longer when it has left.
 */
export class Pages {
  constructor(fetchPage, changed) {
    Object.assign(this, { fetchPage, changed, flights: new Map() });
    this.reset({ total: 0, chunk: 100, anchors: [], newest: 0 });
  }

  /** Start from an index, and from its first rows where they were read. */
  reset(index, top) {
    Object.assign(this, { index, head: [], first: new Map(), chunks: new Map() });
    this.doubt();
    if (top?.length) this.keep(0, top);
  }

  keep(k, rows) {
    this.chunks.set(k, rows);
    this.stale.delete(k);
    if (rows.length) this.first.set(k, rows[0].id);
  }

  /** The places stay; what stands there is asked for again, and shown as it was until then. */
  doubt() {
    for (const flight of this.flights.values()) flight.abort();
    clearTimeout(this.timer);
    Object.assign(this, { stale: new Set(this.chunks.keys()), flights: new Map(), wanted: [], moved: 0 });
  }

  get total() {
    return this.head.length + this.index.total;
  }

  at(position) {
    const below = position - this.head.length;
    if (below < 0) return this.head[position];
    return this.chunks.get(Math.floor(below / this.index.chunk))?.[below % this.index.chunk];
  }

  /** All rows that are known. */
  get rows() {
    return [this.head, ...this.chunks.values()].flat();
  }

  numbers(first, last) {
    const [from, to] = [first, last].map((at) => Math.floor((at - this.head.length) / this.index.chunk));
    const found = [];
    for (let k = Math.max(0, from); k <= Math.min(to, this.index.anchors.length - 1); k++) found.push(k);
    return this.index.total ? found : [];
  }

  want(first, last) {
    const wanted = this.numbers(first, last);
    if (wanted.join() === this.wanted.join()) return;
    this.wanted = wanted;
    for (const [k, flight] of this.flights) if (!wanted.includes(k)) flight.abort();
    const isMoving = performance.now() - this.moved < 2 * SETTLED_MS;
    this.moved = performance.now();
    this.later(isMoving ? SETTLED_MS : 0);
  }

  later(wait) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.wanted.forEach((k) => this.load(k).catch(() => this.later(AGAIN_MS))), wait);
  }

  async load(k) {
    const { flights, chunks, stale } = this;
    const kept = !stale.has(k) && chunks.get(k);
    if (kept) {
      chunks.delete(k); // the one used last is dropped last
      chunks.set(k, kept);
    }
    if (kept || flights.has(k)) return;
    const flight = new AbortController();
    flights.set(k, flight);
    try {
      const rows = await this.read(k, flight.signal);
      if (flight.signal.aborted) return;
      this.keep(k, rows);
      const old = [...chunks.keys()].filter((one) => !this.wanted.includes(one));
      for (const one of old.slice(0, Math.max(0, chunks.size - KEPT_CHUNKS))) chunks.delete(one);
      this.changed(null);
    } catch (error) {
      if (flight.signal.aborted) return;
      this.changed(error);
      throw error;
    } finally {
      if (flights.get(k) === flight) flights.delete(k);
    }
  }

  // What came after the index was made is left out: it would move everything below it.
  async read(k, signal, index = this.index) {
    const { anchors, chunk, total, newest } = index;
    const size = Math.min(chunk, total - k * chunk);
    let [rows, cursor] = [[], anchors[k]];
    do {
      const page = await this.fetchPage(cursor, signal);
      rows = rows.concat(page.rows.filter(({ id }) => id <= newest));
      cursor = page.next;
    } while (rows.length < size && cursor);
    const below = index === this.index ? this.first.get(k + 1) : null;
    const next = rows.findIndex(({ id }) => id === below);
    return rows.slice(0, next < 0 ? size : Math.min(size, next));
  }

  /** The rows of a range, in order. Raises what loading raises. */
  async range(first, last) {
    const { index } = this;
    for (const k of this.numbers(first, last))
      while (index === this.index && (this.stale.has(k) || !this.chunks.has(k))) {
        await this.load(k);
        if (this.flights.has(k)) await new Promise((done) => setTimeout(done, 20)); // it was already on its way
      }
    const found = [];
    for (let position = first; position <= last; position++) found.push(this.at(position));
    return found.filter(Boolean);
  }
}

export class VirtualList {
  constructor(box, parts) {
    Object.assign(this, { box, total: 0, active: -1, shown: 0, nodes: new Map() }, parts); // height, make, draw, moved
    this.sizer = document.createElement("div");
    this.sizer.setAttribute("role", "presentation");
    box.append(this.sizer);
    box.addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => {
      this.shown = box.clientHeight;
      this.later();
    }).observe(box);
  }

  /** Draw in the next frame. */
  later(all = false) {
    this.isStale ||= all;
    this.frame ||= requestAnimationFrame(() => {
      this.render();
      this.moved(this.first, this.last);
    });
  }

  resize(total) {
    this.total = total;
    this.sizer.style.height = `${total * this.height}px`;
  }

  /** One more row on top: every node keeps its row and moves down. */
  shift() {
    this.nodes = new Map([...this.nodes].map(([position, node]) => [position + 1, node]));
    for (const [position, node] of this.nodes) this.place(node, position);
  }

  place(node, position) {
    node.style.transform = `translateY(${position * this.height}px)`;
  }

  get page() {
    return Math.max(1, Math.floor(this.shown / this.height) - 1);
  }

  reveal(position) {
    const { box, height, shown } = this;
    box.scrollTop = Math.min(position * height, Math.max(box.scrollTop, (position + 1) * height - shown));
  }

  // The active row stays in the document wherever it is: aria-activedescendant points at it.
  positions() {
    const { height, total, active, shown } = this;
    const top = this.box.scrollTop;
    this.first = Math.max(0, Math.floor(top / height) - OVERSCAN);
    this.last = Math.min(total - 1, Math.ceil((top + shown) / height) + OVERSCAN);
    const found = [];
    for (let position = this.first; position <= this.last; position++) found.push(position);
    if (active >= 0 && active < this.first) found.unshift(active);
    if (active > this.last && active < total) found.push(active);
    return found;
  }

  render() {
    const wanted = this.positions();
    const spare = [];
    for (const [position, node] of this.nodes)
      if (!wanted.includes(position)) {
        this.nodes.delete(position);
        spare.push(node);
      }
    let before = this.sizer.firstChild;
    for (const position of wanted) {
      const known = this.nodes.get(position);
      const node = known ?? spare.pop() ?? this.make();
      if (node === before) before = before.nextSibling;
      else this.sizer.insertBefore(node, before);
      if (!known) this.place(node, position);
      this.nodes.set(position, node);
      if (!known || this.isStale) this.draw(node, position);
    }
    for (const node of spare) node.remove();
    [this.frame, this.isStale] = [0, false];
  }

  positionOf(target) {
    for (const [position, node] of this.nodes) if (node.contains(target)) return position;
    return -1;
  }
}
