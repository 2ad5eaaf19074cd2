// The micrograph on its canvas: how large it is drawn, the map over it, the scale bar.

import { cividis } from "./colours.js";
import { el, put } from "./dom.js";
import { contour, painted, roundLength, spread } from "./evidence.js";
import { lengthWords } from "./words.js";

const MOST_CANVAS_PX = 16.7e6; // browsers draw nothing on larger ones
const MOST_ZOOM = 16;
const ZOOM_STEP = 1.5;
const LINE = [["rgb(0 0 0 / 75%)", 5], ["#fdcf51", 2]]; // a dark rim, and the colour of the heatmaps

/** What `stage` shows, from `draw` to the next. */
export class Picture {
  #canvas = el("canvas", { role: "img", "aria-label": "no picture" });
  #bar = el("span", { class: "bar" });
  #length = el("span");
  #scale = el("p", { id: "scale", hidden: true }, this.#bar, this.#length);
  #bitmap = null;
  #detail = null;
  #map = null;
  #overlay = { overlay: true, opacity: 0 };
  #zoom = 1;
  #middle = [0.5, 0.5]; // the part of the picture that stands in the middle of the stage
  #frame = 0;

  constructor(stage) {
    const step = (words, sign, by) => el("button", { "aria-label": words, onclick: () => this.zoomBy(by) }, sign);
    const steps = el("div", { id: "zoom" }, step("Enlarge", "+", ZOOM_STEP), step("Reduce", "\u2212", 1 / ZOOM_STEP));
    stage.append(this.#canvas, this.#scale, steps);
    new ResizeObserver(() => this.#soon()).observe(stage, { box: "device-pixel-content-box" });
    this.#canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.#canvas.addEventListener("pointerdown", (event) => this.#drag(event));
  }

  /** Show a bitmap, or nothing (null), until the next call; `words` say what it is. */
  draw(bitmap, id, words) {
    this.#bitmap?.close();
    this.#bitmap = bitmap;
    [this.#zoom, this.#middle] = [1, [0.5, 0.5]];
    this.#canvas.setAttribute("aria-label", words);
    this.#paint();
    this.#canvas.dataset.drawn = bitmap ? id : "";
  }

  /** No longer what the page is about. */
  outdate() {
    this.#canvas.dataset.drawn = "";
    this.explain(null);
  }

  /** Learn map and calibration from what the agent recorded; null while that is not known. Returns words on the map. */
  explain(detail) {
    const { cam, shape } = detail ?? {};
    this.#detail = detail;
    this.#map = cam && shape ? mapOf(cam, shape) : null;
    this.#soon();
    if (!this.#map) return "No map";
    const { absence, method, isWeak } = this.#map;
    return absence || `${method}: evidence for ${cam.label}; the line is at ${isWeak ? "1.5 logits, the map is weak" : "half of the peak"}`;
  }

  /** Whether the map is drawn (`overlay`), and how strong its colours are (`opacity`, 0..100 %). */
  set overlay(state) {
    this.#overlay = state;
    this.#soon();
  }

  /** Enlarge around a point of the canvas in CSS pixels, by default its middle. */
  zoomBy(factor, x = this.#canvas.clientWidth / 2, y = this.#canvas.clientHeight / 2) {
    if (!this.#bitmap) return;
    const { left, top, width, height } = this.#place();
    const part = [(x - left) / width, (y - top) / height];
    this.#zoom = Math.min(Math.max(this.#zoom * factor, 1), MOST_ZOOM);
    const now = this.#place();
    this.#moveTo(part[0] + (this.#canvas.clientWidth / 2 - x) / now.width, part[1] + (this.#canvas.clientHeight / 2 - y) / now.height);
  }

  #moveTo(x, y) {
    if (!this.#bitmap) return;
    const { width, height } = this.#place();
    const held = (part, room, length) => {
      const half = Math.min(room / length, 1) / 2;
      return Math.min(Math.max(part, half), 1 - half);
    };
    this.#middle = [held(x, this.#canvas.clientWidth, width), held(y, this.#canvas.clientHeight, height)];
    this.#soon();
  }

  // The wheel scrolls the page, unless the picture has the focus.
  #wheel(event) {
    if (!event.ctrlKey && !this.#canvas.parentNode.contains(document.activeElement)) return;
    event.preventDefault();
    this.zoomBy(event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP, event.offsetX, event.offsetY);
  }

  #drag({ pointerId, clientX, clientY }) {
    if (this.#zoom === 1) return;
    const [x, y] = this.#middle;
    const { width, height } = this.#place();
    const canvas = this.#canvas;
    canvas.setPointerCapture(pointerId);
    canvas.onpointermove = (event) => this.#moveTo(x - (event.clientX - clientX) / width, y - (event.clientY - clientY) / height);
    canvas.onlostpointercapture = () => (canvas.onpointermove = null);
  }

  #soon() {
    this.#frame ||= requestAnimationFrame(() => this.#paint());
  }

  // Where the picture lies on the canvas, in CSS pixels.
  #place() {
    const { clientWidth: room, clientHeight: high } = this.#canvas;
    const { width: wide, height: tall } = this.#bitmap;
    const factor = Math.min(room / wide, high / tall) * this.#zoom;
    const [width, height] = [wide * factor, tall * factor];
    return { left: room / 2 - this.#middle[0] * width, top: high / 2 - this.#middle[1] * height, width, height };
  }

  #paint() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const canvas = this.#canvas;
    const { clientWidth: room, clientHeight: high } = canvas;
    const density = Math.min(devicePixelRatio, Math.sqrt(MOST_CANVAS_PX / (room * high || 1)));
    [canvas.width, canvas.height] = [Math.floor(room * density), Math.floor(high * density)]; // clears it, too
    this.#scale.hidden = true;
    if (!this.#bitmap || !room) return;
    const pen = canvas.getContext("2d");
    const at = this.#place();
    pen.scale(density, density);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.#bitmap, at.left, at.top, at.width, at.height);
    if (this.#overlay.overlay && this.#map?.line) this.#paintMap(pen, at);
    this.#measure(at);
  }

  #paintMap(pen, at) {
    const { line, colours, box } = this.#map;
    const [left, top] = [at.left + box[0] * at.width, at.top + box[1] * at.height];
    const [width, height] = [(box[2] - box[0]) * at.width, (box[3] - box[1]) * at.height];
    pen.globalAlpha = this.#overlay.opacity / 100;
    if (pen.globalAlpha) pen.drawImage(colours(), left, top, width, height);
    pen.globalAlpha = 1;
    pen.beginPath();
    for (let i = 0; i < line.length; i += 4) {
      pen.moveTo(left + line[i] * width, top + line[i + 1] * height);
      pen.lineTo(left + line[i + 2] * width, top + line[i + 3] * height);
    }
    for (const [strokeStyle, lineWidth] of LINE) {
      Object.assign(pen, { strokeStyle, lineWidth, lineCap: "round" });
      pen.stroke();
    }
  }

  // Pixels are drawn square; where they are not, the bar holds horizontally only, and says so, as on the heatmaps.
  #measure({ left, width }) {
    const { pixel_size_nm: size, shape } = this.#detail ?? {};
    if (!size || !shape) return;
    const nmPerPx = (size[1] * shape[1]) / width;
    const room = Math.min(width, this.#canvas.clientWidth);
    const length = roundLength(nmPerPx * Math.min(room, Math.max(60, 0.4 * room)));
    const isSquare = Math.abs(size[0] / size[1] - 1) < 0.01;
    this.#bar.style.width = `${length / nmPerPx}px`;
    put(this.#length, lengthWords(length) + (isSquare ? "" : " horizontally"));
    this.#scale.dataset.nm = length;
    this.#scale.style.left = `${Math.max(left, 0) + 10}px`;
    this.#scale.hidden = false;
  }
}

function mapOf(cam, [rows, columns]) {
  const map = spread(cam);
  if (!map.values) return map;
  const [x0, y0, x1, y1] = cam.box_px;
  let canvas = null;
  const colours = () => {
    if (canvas) return canvas;
    canvas = el("canvas", { width: map.columns, height: map.rows });
    canvas.getContext("2d").putImageData(painted(map, cividis), 0, 0);
    return canvas;
  };
  const box = [x0 / columns, y0 / rows, x1 / columns, y1 / rows];
  return { ...map, box, colours, line: contour(map, [x0 > 0, y0 > 0, x1 < columns, y1 < rows]) };
}
