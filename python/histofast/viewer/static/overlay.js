// One canvas above the slide. Patches are cells of a small picture, made anew when colours change and drawn scaled when
// the view moves: any number of patches costs the same. `_l0` is level-0 pixels, css px are the screen's.

const MOST_CELLS = 4e6;
const PATCH_OUTLINE_PX = 24; // outlines of patches show from this width on

// Which patch each cell shows. A regular grid has one cell for each; patches that lie anyhow are put on a fine raster,
// where the later row wins.
export function cellsOf(xy, side, step) {
  const n = xy.length / 2;
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < n; i++) {
    left = Math.min(left, xy[2 * i]);
    right = Math.max(right, xy[2 * i]);
    top = Math.min(top, xy[2 * i + 1]);
    bottom = Math.max(bottom, xy[2 * i + 1]);
  }
  return (n && onGrid(xy, n, step, left, top, right, bottom, side)) || onRaster(xy, n, side, left, top, right, bottom);
}

function onGrid(xy, n, step, left, top, right, bottom, side) {
  const columns = Math.round((right - left) / step) + 1,
    rows = Math.round((bottom - top) / step) + 1;
  if (!(step > 0) || columns * rows > MOST_CELLS) return null;
  const patch = new Int32Array(columns * rows).fill(-1);
  for (let i = 0; i < n; i++) {
    const dx = xy[2 * i] - left,
      dy = xy[2 * i + 1] - top,
      c = Math.round(dx / step),
      r = Math.round(dy / step);
    // Corners were rounded to whole pixels.
    if (Math.abs(dx - c * step) > 1.01 || Math.abs(dy - r * step) > 1.01 || patch[r * columns + c] >= 0) return null;
    patch[r * columns + c] = i;
  }
  const margin = (side - step) / 2; // a cell lies in the middle of its patch
  return { regular: true, patch, columns, rows, cell: step, left: left + margin, top: top + margin };
}

function onRaster(xy, n, side, left, top, right, bottom) {
  if (!n) return { regular: true, patch: new Int32Array(1).fill(-1), columns: 1, rows: 1, cell: 1, left: 0, top: 0 };
  const width = right - left + side,
    height = bottom - top + side;
  const cell = Math.max(side / 8, Math.sqrt((width * height) / MOST_CELLS) * 1.01, 1);
  const columns = Math.ceil(width / cell) + 1,
    rows = Math.ceil(height / cell) + 1;
  const patch = new Int32Array(columns * rows).fill(-1),
    wide = Math.max(1, Math.round(side / cell));
  for (let i = 0; i < n; i++) {
    const c = Math.round((xy[2 * i] - left) / cell),
      r = Math.round((xy[2 * i + 1] - top) / cell);
    for (let y = r; y < Math.min(r + wide, rows); y++)
      patch.fill(i, y * columns + c, y * columns + Math.min(c + wide, columns));
  }
  return { regular: false, patch, columns, rows, cell, left, top };
}

// The rows of the patches over a point, the one whose middle is nearest first.
export function patchesAt(xy, side, x, y) {
  const found = [];
  for (let i = 0; i < xy.length / 2; i++) {
    const dx = x - xy[2 * i],
      dy = y - xy[2 * i + 1];
    if (dx >= 0 && dy >= 0 && dx < side && dy < side) found.push([Math.hypot(dx - side / 2, dy - side / 2), i]);
  }
  return found.sort((a, b) => a[0] - b[0]).map(([, row]) => row);
}

export const pathOf = (rings) => {
  // level-0 rings -> Path2D
  const path = new Path2D();
  for (const ring of rings) {
    ring.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
};

export class Overlay {
  constructor(viewer) {
    this.viewer = viewer;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "overlay";
    viewer.canvas.append(this.canvas); // within OpenSeadragon's: what we do not take of the pointer is its
    this.context = this.canvas.getContext("2d");
    this.picture = document.createElement("canvas");
    this.look = { opacity: 0.5, smooth: false, grid: false, tissue: true };
    viewer.addHandler("update-viewport", () => this.draw());
    viewer.addHandler("resize", () => this.redraw());
    this.clear();
  }

  clear() {
    Object.assign(this, {
      xy: null,
      cells: null,
      coloured: false,
      tissue: null,
      imports: [],
      selected: -1,
      near: [],
      region: null,
    });
    this.redraw();
  }

  setPatches(xy, side, step, cells) {
    Object.assign(this, { xy, side, cells: cells || cellsOf(xy, side, step) });
    this.picture.width = this.cells.columns;
    this.picture.height = this.cells.rows;
  }

  setColours(colours) {
    // (n,) packed, or null: no layer
    this.coloured = Boolean(colours && this.cells);
    if (this.coloured) {
      const { patch, columns, rows } = this.cells,
        data = new ImageData(columns, rows),
        to = new Uint32Array(data.data.buffer);
      for (let i = 0; i < patch.length; i++) if (patch[i] >= 0) to[i] = colours[patch[i]];
      this.picture.getContext("2d").putImageData(data, 0, 0);
    }
    this.redraw();
  }

  redraw() {
    this.waiting ??= requestAnimationFrame(() => {
      this.draw();
    });
  }

  // Where level 0 lies on the screen: css px = scale * x_l0 + (left, top).
  place() {
    const item = this.viewer.world.getItemAt(0);
    if (!item) return null;
    const a = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const b = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(item.source.width, 0));
    return { scale: (b.x - a.x) / item.source.width, left: a.x, top: a.y };
  }

  draw() {
    if (this.waiting) cancelAnimationFrame(this.waiting);
    this.waiting = null;
    const ratio = window.devicePixelRatio || 1,
      { clientWidth: w, clientHeight: h } = this.canvas,
      c = this.context;
    const [width, height] = [Math.round(w * ratio), Math.round(h * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, width, height);
    const at = this.place();
    if (!at) return;
    const view = {
      left: -at.left / at.scale,
      top: -at.top / at.scale,
      right: (w - at.left) / at.scale,
      bottom: (h - at.top) / at.scale,
    };
    c.setTransform(ratio * at.scale, 0, 0, ratio * at.scale, ratio * at.left, ratio * at.top);
    const px = 1 / at.scale; // one css px, in level-0 px
    if (this.coloured) this.drawCells(c, view, at.scale * ratio);
    if (this.look.grid && this.cells && this.side * at.scale >= PATCH_OUTLINE_PX) this.drawGrid(c, view, px);
    if (this.look.tissue && this.tissue) this.stroke(c, this.tissue, px, "#00796b", 1.5);
    for (const { path, colour } of this.imports) this.stroke(c, path, px, colour, 2);
    for (const row of this.near) this.box(c, row, px, "#ffffff", 1);
    if (this.selected >= 0 && this.xy) this.box(c, this.selected, px, "#ffd400", 3);
    if (this.region) this.drawRegion(c, px);
  }

  drawCells(c, view, deviceScale) {
    const { cell, left, top, columns, rows } = this.cells,
      { smooth, opacity } = this.look;
    const within = (v, most) => Math.max(0, Math.min(most, v));
    const c0 = within(Math.floor((view.left - left) / cell) - 1, columns),
      c1 = within(Math.ceil((view.right - left) / cell) + 1, columns);
    const r0 = within(Math.floor((view.top - top) / cell) - 1, rows),
      r1 = within(Math.ceil((view.bottom - top) / cell) + 1, rows);
    if (c1 <= c0 || r1 <= r0) return;
    c.globalAlpha = opacity;
    c.imageSmoothingEnabled = smooth || cell * deviceScale < 1; // below a pixel, cells are averaged, not left out
    c.imageSmoothingQuality = cell * deviceScale < 1 ? "medium" : "low";
    c.drawImage(
      this.picture,
      c0,
      r0,
      c1 - c0,
      r1 - r0,
      left + c0 * cell,
      top + r0 * cell,
      (c1 - c0) * cell,
      (r1 - r0) * cell,
    );
    c.globalAlpha = 1;
  }

  drawGrid(c, view, px) {
    c.beginPath();
    for (let i = 0; i < this.xy.length; i += 2) {
      const [x, y] = [this.xy[i], this.xy[i + 1]];
      if (x < view.right && y < view.bottom && x + this.side > view.left && y + this.side > view.top)
        c.rect(x, y, this.side, this.side);
    }
    c.lineWidth = px;
    c.strokeStyle = "rgb(20 30 60 / 0.55)";
    c.stroke();
  }

  stroke(c, path, px, colour, width) {
    // a light line under the coloured one: seen on any stain
    c.lineJoin = "round";
    [
      [width + 2, "rgb(255 255 255 / 0.75)"],
      [width, colour],
    ].forEach(([wide, style]) => {
      c.lineWidth = wide * px;
      c.strokeStyle = style;
      c.stroke(path);
    });
  }

  box(c, row, px, colour, width) {
    const side = Math.max(this.side, 11 * px); // small ones are to be found from afar
    const [x, y] = [0, 1].map((i) => this.xy[2 * row + i] + (this.side - side) / 2);
    c.lineWidth = (width + 1.5) * px;
    c.strokeStyle = "rgb(0 0 0 / 0.7)";
    c.strokeRect(x, y, side, side);
    c.lineWidth = width * px;
    c.strokeStyle = colour;
    c.strokeRect(x, y, side, side);
  }

  drawRegion(c, px) {
    const path = pathOf([this.region]);
    c.fillStyle = "rgb(255 212 0 / 0.15)";
    c.fill(path);
    this.stroke(c, path, px, "#b02a00", 2);
    c.fillStyle = "#b02a00";
    for (const [x, y] of this.region) c.fillRect(x - 3 * px, y - 3 * px, 6 * px, 6 * px);
  }
}
