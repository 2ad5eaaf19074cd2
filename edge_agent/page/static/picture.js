// The micrograph on its canvas: how large it is drawn, the map over it, the scale bar.

import { cividis } from "./colours.js";
import { el, put } from "./dom.js";
import { contour, painted, roundLength, spread } from "./evidence.js";
import { lengthWords } from "./words.js";

const MOST_CANVAS_PX = 16.7e6; // browsers draw nothing on larger ones
const LINE_COLOUR = "#fdcf51"; // that of the heatmaps
const MOST_ZOOM = 16;
const ZOOM_STEP = 1.5;

/** A picture in `stage`: `draw(bitmap)`, `explain(detail)`, `clear()`, `overlay(on, opacity)`, `zoomBy(factor)`. */
export class Picture {
  #canvas = el("canvas", { id: "picture", role: "img", "aria-label": "no picture" });
  #bar = el("span", { class: "bar" });
  #length = el("span", { class: "length" });
  #scale = el("div", { id: "scale", hidden: true }, this.#bar, this.#length);
  #bitmap = null;
  #detail = null;
  #map = null; // {lines, colours, box} of the entry, box in parts of the picture
  #on = true;
  #opacity = 0;
  #view = { zoom: 1, x: 0.5, y: 0.5 }; // x and y are the part of the picture in the middle
  #frame = 0;
  #stage;

  constructor(stage) {
    this.#stage = stage;
    stage.append(this.#canvas, this.#scale);
    new ResizeObserver(() => this.#soon()).observe(stage, { box: "device-pixel-content-box" });
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.#drag(event));
  }

  /** Show a bitmap, which is closed when the next one comes. */
  draw(bitmap, id, words) {
    this.#bitmap?.close();
    this.#bitmap = bitmap;
    this.#view = { zoom: 1, x: 0.5, y: 0.5 };
    this.#canvas.dataset.id = id;
    this.#canvas.setAttribute("aria-label", words);
    this.#paint();
  }

  /** Learn what the agent recorded of the entry: map and calibration; null while that is not known. */
  explain(detail) {
    this.#detail = detail;
    this.#map = detail?.cam && detail.shape ? mapOf(detail.cam, detail.shape) : null;
    this.#soon();
    return this.#map;
  }

  /** Show nothing. */
  clear() {
    this.#bitmap?.close();
    this.#bitmap = null;
    delete this.#canvas.dataset.id;
    this.#canvas.setAttribute("aria-label", "no picture");
    this.explain(null);
  }

  /** Whether the map is drawn, and how strong its colours are (0..100 %; 0: the line alone). */
  overlay(on, opacity) {
    [this.#on, this.#opacity] = [on, opacity];
    this.#soon();
  }

  /** Enlarge around a point of the canvas in CSS pixels, by default its middle. */
  zoomBy(factor, x = this.#canvas.clientWidth / 2, y = this.#canvas.clientHeight / 2) {
    if (!this.#bitmap) return;
    const before = this.#placed();
    const zoom = Math.min(Math.max(this.#view.zoom * factor, 1), MOST_ZOOM);
    const [partX, partY] = [(x - before.left) / before.width, (y - before.top) / before.height];
    const width = (before.width / this.#view.zoom) * zoom;
    const height = (before.height / this.#view.zoom) * zoom;
    this.#view.zoom = zoom;
    this.#moveTo(partX + (this.#canvas.clientWidth / 2 - x) / width, partY + (this.#canvas.clientHeight / 2 - y) / height);
  }

  #moveTo(x, y) {
    const { width, height } = this.#placed();
    const held = (part, room, length) => {
      const half = Math.min(room / length, 1) / 2;
      return Math.min(Math.max(part, half), 1 - half);
    };
    this.#view.x = held(x, this.#canvas.clientWidth, width);
    this.#view.y = held(y, this.#canvas.clientHeight, height);
    this.#soon();
  }

  #wheel(event) {
    if (!this.#bitmap || !(event.ctrlKey || this.#stage.contains(document.activeElement))) return;
    event.preventDefault();
    const box = this.#canvas.getBoundingClientRect();
    this.zoomBy(event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP, event.clientX - box.left, event.clientY - box.top);
  }

  #drag(start) {
    if (start.target !== this.#canvas || this.#view.zoom === 1 || start.button !== 0) return;
    const from = { ...this.#view };
    const { width, height } = this.#placed();
    this.#canvas.setPointerCapture(start.pointerId);
    this.#canvas.onpointermove = (event) =>
      this.#moveTo(from.x - (event.clientX - start.clientX) / width, from.y - (event.clientY - start.clientY) / height);
    this.#canvas.onlostpointercapture = () => (this.#canvas.onpointermove = null);
  }

  #soon() {
    this.#frame ||= requestAnimationFrame(() => this.#paint());
  }

  // Where the picture lies on the canvas, in CSS pixels.
  #placed() {
    const [room, high] = [this.#canvas.clientWidth, this.#canvas.clientHeight];
    const { width: w, height: h } = this.#bitmap;
    const factor = Math.min(room / w, high / h) * this.#view.zoom;
    const [width, height] = [w * factor, h * factor];
    return { left: room / 2 - this.#view.x * width, top: high / 2 - this.#view.y * height, width, height };
  }

  #paint() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const canvas = this.#canvas;
    const [room, high] = [canvas.clientWidth, canvas.clientHeight];
    const most = Math.sqrt(MOST_CANVAS_PX / Math.max(room * high, 1));
    const density = Math.min(devicePixelRatio, most);
    const [width, height] = [Math.floor(room * density), Math.floor(high * density)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, room, high);
    this.#scale.hidden = true;
    if (!this.#bitmap || !room || !high) return;
    const at = this.#placed();
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.#bitmap, at.left, at.top, at.width, at.height);
    if (this.#on && this.#map?.lines) this.#paintMap(pen, at);
    this.#measure(at);
  }

  #paintMap(pen, at) {
    const { lines, colours, box } = this.#map;
    const left = at.left + box[0] * at.width;
    const top = at.top + box[1] * at.height;
    const [width, height] = [(box[2] - box[0]) * at.width, (box[3] - box[1]) * at.height];
    if (this.#opacity) {
      pen.globalAlpha = this.#opacity / 100;
      pen.drawImage(colours(), left, top, width, height);
      pen.globalAlpha = 1;
    }
    pen.beginPath();
    for (let index = 0; index < lines.length; index += 4) {
      pen.moveTo(left + lines[index] * width, top + lines[index + 1] * height);
      pen.lineTo(left + lines[index + 2] * width, top + lines[index + 3] * height);
    }
    pen.lineCap = "round";
    for (const [colour, thick] of [["rgb(0 0 0 / 75%)", 5], [LINE_COLOUR, 2]]) {
      Object.assign(pen, { strokeStyle: colour, lineWidth: thick });
      pen.stroke();
    }
  }

  // Pixels are drawn square; where they are not, the bar holds horizontally only, and says so (as on the heatmaps).
  #measure({ left, width }) {
    const { pixel_size_nm: size, shape } = this.#detail ?? {};
    if (!size || !shape) return;
    const nmPerPx = (size[1] * shape[1]) / width;
    const room = Math.min(width + Math.min(left, 0), this.#canvas.clientWidth);
    const length = roundLength(nmPerPx * Math.min(room, Math.max(60, 0.35 * room)));
    this.#bar.style.width = `${length / nmPerPx}px`;
    put(this.#length, lengthWords(length) + (Math.abs(size[0] / size[1] - 1) < 0.01 ? "" : " horizontally"));
    this.#scale.dataset.nm = length;
    this.#scale.style.left = `${Math.max(left, 0) + 10}px`;
    this.#scale.hidden = false;
  }
}

function mapOf(cam, [rows, columns]) {
  const map = spread(cam);
  const [x0, y0, x1, y1] = cam.box_px;
  if (!map.values) return { ...map, lines: null };
  let canvas = null;
  const colours = () => {
    if (!canvas) {
      canvas = el("canvas", { width: map.columns, height: map.rows });
      canvas.getContext("2d").putImageData(painted(map, cividis), 0, 0);
    }
    return canvas;
  };
  const box = [x0 / columns, y0 / rows, x1 / columns, y1 / rows];
  return { ...map, box, colours, lines: contour(map, [x0 > 0, y0 > 0, x1 < columns, y1 < rows]) };
}
