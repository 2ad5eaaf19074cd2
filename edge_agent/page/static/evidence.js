// Where the network found its evidence, as a line and as colours. The rules are those of `evidence.py`: positive
// evidence only, on a scale that ends at its peak but never below 3 logits, spread by cubic convolution.

const FLAT_FRACTION = 0.05;
const WEAKEST_SCALE_LOGITS = 3;
const LEVEL = 0.5;
const FULL_COLOUR_FROM = 0.4;
const FINENESS = 8; // samples a cell
const MOST_SAMPLES = 320; // along one side
const METHODS = { cam: "CAM", gradcam: "Grad-CAM", hirescam: "HiResCAM" };
// Edges (0 top, 1 right, 2 bottom, 3 left) that the line crosses, by the corners above the level (8 4 2 1, clockwise).
const LINES = ["", "32", "21", "31", "01", "3021", "02", "30", "30", "02", "0132", "01", "31", "21", "32", ""];
const SADDLES = { 5: "0132", 10: "3021" }; // where the middle is below the level

/**
 * Spread a map over its box: {values, rows, columns, method, absence, isWeak}. `values` are parts of the scale, row by
 * row; null where there is nothing to draw, and `absence` says why. `isWeak`: the scale ends above its peak.
 */
export function spread({ label, method, grid, values }) {
  const all = values.flat();
  const peak = Math.max(...all);
  const none = { values: null, method: METHODS[method] ?? method };
  const isFlat = peak - Math.min(...all) <= FLAT_FRACTION * Math.max(...all.map(Math.abs));
  if (isFlat) return { ...none, absence: `no localised evidence for ${label}` };
  if (peak <= 0) return { ...none, absence: `no evidence for ${label} anywhere` };
  const scale = method === "cam" || method === "hirescam" ? Math.max(peak, WEAKEST_SCALE_LOGITS) : peak;
  const [rows, columns] = grid.map((count) => Math.max(count, Math.min(count * FINENESS, MOST_SAMPLES)));
  const across = taps(columns, grid[1]);
  const part = values.map((row) => across.map((cells) => sum(cells, (cell) => Math.max(row[cell], 0) / scale)));
  const out = taps(rows, grid[0]).flatMap((cells) => across.map((_, x) => sum(cells, (cell) => part[cell][x])));
  return { ...none, values: Float32Array.from(out, (value) => Math.min(1, Math.max(0, value))), rows, columns, absence: "", isWeak: scale > peak };
}

const sum = (cells, value) => cells.reduce((total, [cell, weight]) => total + weight * value(cell), 0);

// The four cells around each sample, with weights (Keys 1981, a = -1/2); the outermost cells continue.
function taps(count, cells) {
  return Array.from({ length: count }, (_, index) => {
    const at = ((index + 0.5) / count) * cells - 0.5;
    const first = Math.floor(at) - 1;
    return [0, 1, 2, 3].map((step) => [Math.min(Math.max(first + step, 0), cells - 1), cubic(Math.abs(at - first - step))]);
  });
}

const cubic = (d) => (d < 1 ? (1.5 * d - 2.5) * d * d + 1 : d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0);

/**
 * The line of half the scale: [x0, y0, x1, y1, ...] in parts of the box. `inside`: whether the picture goes on to
 * the [left, top, right, bottom] of it; there the line closes along the side.
 */
export function contour({ values, rows, columns }, inside) {
  const [xs, ys] = [columns, rows].map((count) => [0, ...Array.from({ length: count }, (_, i) => (i + 0.5) / count), 1]);
  const at = (x, y) => {
    const isOut = (x < 0 && inside[0]) || (y < 0 && inside[1]) || (x >= columns && inside[2]) || (y >= rows && inside[3]);
    return isOut ? 0 : values[Math.min(Math.max(y, 0), rows - 1) * columns + Math.min(Math.max(x, 0), columns - 1)];
  };
  const line = [];
  for (let y = 0; y <= rows; y += 1)
    for (let x = 0; x <= columns; x += 1)
      cross(line, [at(x - 1, y - 1), at(x, y - 1), at(x, y), at(x - 1, y)], [xs[x], ys[y], xs[x + 1], ys[y + 1]]);
  return line;
}

function cross(line, [a, b, c, d], [left, top, right, bottom]) {
  const above = (a >= LEVEL) * 8 + (b >= LEVEL) * 4 + (c >= LEVEL) * 2 + (d >= LEVEL);
  const between = (from, to, p, q) => from + ((to - from) * (LEVEL - p)) / (q - p);
  for (const edge of (a + b + c + d < 4 * LEVEL && SADDLES[above]) || LINES[above]) {
    if (edge === "0") line.push(between(left, right, a, b), top);
    else if (edge === "1") line.push(right, between(top, bottom, b, c));
    else if (edge === "2") line.push(between(left, right, d, c), bottom);
    else line.push(left, between(top, bottom, a, d));
  }
}

/** The map in colours, clear where there is no evidence and full from 0.4 of the scale on. */
export function painted({ values, rows, columns }, colourAt) {
  const pixels = new Uint8ClampedArray(rows * columns * 4);
  values.forEach((value, i) => pixels.set([...colourAt(value), 255 * Math.min(value / FULL_COLOUR_FROM, 1)], i * 4));
  return new ImageData(pixels, columns, rows);
}

/** The largest of 1, 2, 5 times a power of ten that is not above `longest`. */
export function roundLength(longest) {
  const power = 10 ** Math.floor(Math.log10(longest));
  return [5, 2, 1].map((digit) => digit * power).find((length) => length <= longest * (1 + 1e-9));
}
