// Where the network found its evidence, as a line and as colours. The rules are those of `evidence.py`: positive
// evidence only, on a scale that ends at its peak but never below 3 logits, spread by cubic convolution.

const FLAT_FRACTION = 0.05;
const WEAKEST_SCALE_LOGITS = 3;
const IN_LOGITS = ["cam", "hirescam"];
const LEVEL = 0.5;
const FULL_COLOUR_FROM = 0.4;
const FINENESS = 8; // samples a cell
const MOST_SAMPLES = 320; // along one side
const METHODS = { cam: "CAM", gradcam: "Grad-CAM", hirescam: "HiResCAM", occlusion: "occlusion" };
// Which edges (0 top, 1 right, 2 bottom, 3 left) a line crosses, by the corners above the level (8 4 2 1, clockwise).
const LINES = ["", "32", "21", "31", "01", "3021", "02", "30", "30", "02", "0132", "01", "31", "21", "32", ""];
const OTHER_SADDLE = { 5: "0132", 10: "3021" };

/**
 * Spread a map: {values, rows, columns, absence, method}. `values` (0..1 of the scale, by rows) cover the map's
 * box; they are null where there is nothing to draw, and `absence` says why.
 */
export function spread({ label, method, grid, values }) {
  const cells = values.map((row) => row.map((value) => (Number.isFinite(value) ? value : 0)));
  const all = cells.flat();
  const peak = Math.max(...all);
  const size = Math.max(...all.map(Math.abs));
  const result = { values: null, rows: 0, columns: 0, absence: "", method: METHODS[method] ?? method };
  if (peak - Math.min(...all) <= FLAT_FRACTION * size) return { ...result, absence: `no localised evidence for ${label}` };
  if (peak <= 0) return { ...result, absence: `no evidence for ${label} anywhere` };
  const scale = IN_LOGITS.includes(method) ? Math.max(peak, WEAKEST_SCALE_LOGITS) : peak;
  const [rows, columns] = grid.map((count) => Math.min(count * FINENESS, Math.max(MOST_SAMPLES, count)));
  const down = weights(rows, grid[0]);
  const across = weights(columns, grid[1]);
  const part = cells.map((row) => across.map((taps) => sum(taps, (cell) => Math.max(row[cell], 0) / scale)));
  const out = new Float32Array(rows * columns);
  for (let y = 0; y < rows; y += 1)
    for (let x = 0; x < columns; x += 1)
      out[y * columns + x] = Math.min(1, Math.max(0, sum(down[y], (cell) => part[cell][x])));
  return { ...result, values: out, rows, columns };
}

const sum = (taps, value) => taps.reduce((total, [cell, weight]) => total + weight * value(cell), 0);

// For each sample the four cells around it, with their weights (Keys 1981, a = -1/2); the outermost cells continue.
function weights(count, cells) {
  return Array.from({ length: count }, (_, index) => {
    const at = ((index + 0.5) / count) * cells - 0.5;
    const first = Math.floor(at);
    return [-1, 0, 1, 2].map((step) => [Math.min(Math.max(first + step, 0), cells - 1), cubic(Math.abs(at - first - step))]);
  });
}

function cubic(distance) {
  if (distance < 1) return (1.5 * distance - 2.5) * distance ** 2 + 1;
  return distance < 2 ? ((-0.5 * distance + 2.5) * distance - 4) * distance + 2 : 0;
}

/**
 * The line of half the scale, as [x0, y0, x1, y1, ...] in parts of the box. `inside` says for [left, top, right,
 * bottom] whether the picture goes on beyond that side: there the line closes along it.
 */
export function contour({ values, rows, columns }, inside) {
  const xs = places(columns);
  const ys = places(rows);
  const at = (x, y) => {
    const beyond = [x < 0, y < 0, x >= columns, y >= rows];
    if (beyond.some((out, side) => out && inside[side])) return 0;
    return values[Math.min(Math.max(y, 0), rows - 1) * columns + Math.min(Math.max(x, 0), columns - 1)];
  };
  const lines = [];
  for (let y = -1; y < rows; y += 1)
    for (let x = -1; x < columns; x += 1)
      cross(lines, [at(x, y), at(x + 1, y), at(x + 1, y + 1), at(x, y + 1)], xs, ys, x + 1, y + 1);
  return lines;
}

// Centres of samples in parts of the side, with the two ends.
const places = (count) => [0, ...Array.from({ length: count }, (_, index) => (index + 0.5) / count), 1];

function cross(lines, corners, xs, ys, x, y) {
  const above = corners.reduce((bits, value) => bits * 2 + (value >= LEVEL), 0);
  if (above === 0 || above === 15) return;
  const high = corners[0] + corners[1] + corners[2] + corners[3] >= 4 * LEVEL;
  const edges = !high && OTHER_SADDLE[above] ? OTHER_SADDLE[above] : LINES[above];
  const [left, right, top, bottom] = [xs[x], xs[x + 1], ys[y], ys[y + 1]];
  const between = (from, to, a, b) => from + ((to - from) * (LEVEL - a)) / (b - a || 1);
  const [a, b, c, d] = corners;
  for (const edge of edges) {
    if (edge === "0") lines.push(between(left, right, a, b), top);
    else if (edge === "1") lines.push(right, between(top, bottom, b, c));
    else if (edge === "2") lines.push(between(left, right, d, c), bottom);
    else lines.push(left, between(top, bottom, a, d));
  }
}

/** The map's colours, [rows x columns] RGBA: clear where there is no evidence, full from 0.4 of the scale on. */
export function painted({ values, rows, columns }, colourAt) {
  const pixels = new Uint8ClampedArray(rows * columns * 4);
  values.forEach((value, index) => {
    pixels.set([...colourAt(value), 255 * Math.min(value / FULL_COLOUR_FROM, 1)], index * 4);
  });
  return new ImageData(pixels, columns, rows);
}

/** The largest of 1, 2, 5 times a power of ten that is not above `longest`. */
export function roundLength(longest) {
  const power = 10 ** Math.floor(Math.log10(longest));
  return Math.max(...[1, 2, 5].map((digit) => digit * power).filter((length) => length <= longest * (1 + 1e-9)));
}
