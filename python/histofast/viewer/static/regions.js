// Rectangles and polygons drawn on the slide, GeoJSON for QuPath and from it. Corners are level-0 px; a file counts
// from the slide's origin, as QuPath does.

import * as api from "./api.js";
import { pathOf } from "./overlay.js";
import { byId, count, el, fill, plural, say } from "./words.js";

const NEAR_PX = 10; // a click this close to the first corner closes a polygon

const shifted = (ring, [x, y], by) => ring.map((p) => [p[0] + by * x, p[1] + by * y]);
const closed = (ring) => [...ring, ring[0]];

function areaOf(ring) {
  // px squared
  return (
    Math.abs(
      ring.reduce((sum, [x, y], i) => sum + x * ring[(i + 1) % ring.length][1] - y * ring[(i + 1) % ring.length][0], 0),
    ) / 2
  );
}

export class Regions {
  constructor(app) {
    this.app = app;
    this.kind = null; // while drawing: "rectangle" or "polygon"
    for (const kind of ["rectangle", "polygon"])
      byId(kind).onclick = () => (this.kind === kind ? this.discard() : this.start(kind));
    byId("region-form").onsubmit = (event) => {
      event.preventDefault();
      this.save();
    };
    byId("download").onclick = () => this.download();
    byId("discard").onclick = () => this.discard();
    byId("import").onchange = (event) => this.read(event.target);
  }

  clear() {
    // another slide
    this.files = [];
    this.saved = 0;
    this.showFiles();
    this.discard();
  }

  start(kind) {
    if (!this.app.pane.item) return;
    this.discard();
    this.app.makeRoom();
    this.kind = kind;
    this.ring = [];
    byId(kind).setAttribute("aria-pressed", "true");
    this.app.announce(
      kind === "rectangle"
        ? "drag a rectangle; or Space sets a corner in the middle of the view, twice"
        : "click corners, the first again or Enter closes; Space sets a corner in the middle of the view",
    );
    for (const pane of this.app.panes) this.listen(pane);
    byId("drawing").hidden = false;
    byId("drawing").textContent =
      kind === "rectangle"
        ? "Drag a rectangle (Esc: stop)"
        : "Click corner after corner, the first one again to close (Esc: stop)";
  }

  listen(pane) {
    const canvas = pane.overlay.canvas;
    canvas.classList.add("drawing");
    const at = (event) => {
      const box = canvas.getBoundingClientRect(),
        p = pane.under(event.clientX - box.left, event.clientY - box.top);
      return [p.x, p.y];
    };
    canvas.onpointerdown = (event) => {
      event.stopPropagation();
      canvas.setPointerCapture(event.pointerId);
      if (this.kind === "rectangle") this.from = at(event);
      else this.corner(at(event), NEAR_PX / pane.zoom(true));
    };
    canvas.onpointermove = (event) => {
      event.stopPropagation();
      if (this.kind === "rectangle" && this.from) this.show(box(this.from, at(event)));
      else if (this.kind === "polygon" && this.ring.length) this.show([...this.ring, at(event)]);
    };
    canvas.onpointerup = (event) => {
      event.stopPropagation();
      if (this.kind === "rectangle" && this.from) this.finish(box(this.from, at(event)));
    };
  }

  corner(point, near) {
    const [first] = this.ring;
    if (first && this.ring.length > 2 && Math.hypot(point[0] - first[0], point[1] - first[1]) <= near)
      return this.finish(this.ring);
    this.ring.push(point);
    if (this.kind === "rectangle" && this.ring.length === 2) return this.finish(box(...this.ring));
    this.show(this.ring);
  }

  cornerInTheMiddle() {
    const { x, y } = this.app.pane.centre(true);
    this.corner([x, y], 0);
  }
  enter() {
    if (this.kind === "polygon" && this.ring.length > 2) this.finish(this.ring);
  }

  wholeView() {
    if (!this.app.pane.item) return;
    this.discard();
    const { clientWidth, clientHeight } = this.app.pane.overlay.canvas,
      a = this.app.pane.under(0, 0),
      b = this.app.pane.under(clientWidth, clientHeight);
    this.finish(box([a.x, a.y], [b.x, b.y]));
  }

  finish(ring) {
    const { info } = this.app,
      within = (v, most) => Math.max(0, Math.min(most, Math.round(v)));
    ring = ring.map(([x, y]) => [within(x, info.width), within(y, info.height)]);
    const area = areaOf(ring);
    if (!area) return this.discard();
    this.stop();
    this.app.makeRoom();
    this.ring = ring;
    this.show(ring);
    const um2 = info.mpp && area * info.mpp ** 2;
    byId("region-said").textContent =
      `${plural(ring.length, "corner")}, ${um2 ? (um2 >= 1e5 ? `${say(um2 / 1e6)} mm²` : `${say(um2)} µm²`) : `${count(area)} px²`}`;
    byId("region-form").hidden = false;
    byId("save-region").hidden = !this.app.session.can_export;
    byId("region-name").value = `${info.name} region ${this.saved + 1}`;
    byId("region-name").select();
    byId("region-name").focus();
  }

  show(ring) {
    for (const pane of this.app.panes) {
      pane.overlay.region = ring;
      pane.overlay.redraw();
    }
  }

  stop() {
    this.kind = this.from = null;
    byId("drawing").hidden = true;
    for (const kind of ["rectangle", "polygon"]) byId(kind).setAttribute("aria-pressed", "false");
    for (const {
      overlay: { canvas },
    } of this.app.panes) {
      canvas.classList.remove("drawing");
      canvas.onpointerdown = canvas.onpointermove = canvas.onpointerup = null;
    }
  }

  discard() {
    this.stop();
    this.ring = [];
    this.show(null);
    byId("region-form").hidden = true;
  }

  // --- Out ------------------------------------------------------------------------------------------

  get name() {
    return byId("region-name").value.trim() || "region";
  }

  async save() {
    if (!this.app.session.can_export) return this.download();
    if (await this.write({ slide: this.app.info.id, name: this.name, polygon: this.ring })) this.keep();
  }

  async write(region) {
    // whether it was written
    try {
      const { file, objects } = await api.write(region);
      this.app.tell(`written: ${file}, ${plural(objects, "object")}`);
      return true;
    } catch (error) {
      this.app.warn(error.message);
      return false;
    }
  }

  download() {
    offer(this.name, [this.feature([[closed(shifted(this.ring, this.app.info.origin, -1))]], this.name)]);
    this.keep();
  }

  feature(polygons, name) {
    const geometry =
      polygons.length === 1
        ? { type: "Polygon", coordinates: polygons[0] }
        : { type: "MultiPolygon", coordinates: polygons };
    return {
      type: "Feature",
      id: crypto.randomUUID?.() ?? String(Date.now()),
      geometry,
      properties: { objectType: "annotation", name },
    };
  }

  keep() {
    // what was saved stays in sight
    this.saved++;
    this.add(this.name, [{ rings: [this.ring], colour: "#b02a00" }]);
    this.discard();
  }

  // The patches of a scalar layer that are coloured now.
  saveShown(layer, { from }) {
    const { overlay } = this.app.pane,
      data = this.app.layers.now,
      values = this.app.layers.drawn(data);
    const rows = data.order.filter((row) => values[row] >= from),
      name = `${layer.name} shown`;
    if (!rows.length) return this.app.warn("no patch is coloured: lower the threshold");
    if (this.app.session.can_export) {
      const low = data.values[rows[rows.length - 1]],
        high = data.values[rows[0]];
      return this.write({ slide: this.app.info.id, name, layer: layer.id, low, high });
    }
    const square = (row) => {
      const x = overlay.xy[2 * row],
        y = overlay.xy[2 * row + 1];
      return [closed(shifted(box([x, y], [x + overlay.side, y + overlay.side]), this.app.info.origin, -1))];
    };
    offer(name, [this.feature(Array.from(rows, square), name)]);
  }

  // --- In: nothing is sent ----------------------------------------------------------------------------

  async read(input) {
    const [file] = input.files;
    if (!file) return;
    try {
      const objects = polygonsOf(JSON.parse(await file.text()), this.app.info.origin);
      if (!objects.length) throw new Error("it holds no polygons");
      this.add(file.name, objects);
    } catch (error) {
      this.app.warn(`${file.name}: ${error instanceof SyntaxError ? "it is no GeoJSON" : error.message}`);
    }
    input.value = "";
  }

  add(name, objects) {
    this.files.push({
      name,
      n: objects.length,
      marks: objects.map(({ rings, colour }) => ({ path: pathOf(rings), colour })),
    });
    this.showFiles();
  }

  showFiles() {
    for (const pane of this.app.panes) {
      pane.overlay.imports = this.files.flatMap((file) => file.marks);
      pane.overlay.redraw();
    }
    fill(
      byId("files"),
      ...this.files.map((file) =>
        el(
          "li",
          {},
          el("span", { class: "name" }, file.name),
          el("span", { class: "number" }, count(file.n)),
          el(
            "button",
            {
              "aria-label": `remove ${file.name}`,
              onclick: () => {
                this.files = this.files.filter((f) => f !== file);
                this.showFiles();
              },
            },
            "×",
          ),
        ),
      ),
    );
  }
}

const box = ([x0, y0], [x1, y1]) => [
  [Math.min(x0, x1), Math.min(y0, y1)],
  [Math.max(x0, x1), Math.min(y0, y1)],
  [Math.max(x0, x1), Math.max(y0, y1)],
  [Math.min(x0, x1), Math.max(y0, y1)],
];

// Polygons of QuPath's GeoJSON (a collection, a list, or one feature), with the colour of their class.
function polygonsOf(content, origin) {
  const features = content?.features ?? (Array.isArray(content) ? content : [content]);
  return features.flatMap((feature) => {
    const { type, coordinates } = feature?.geometry ?? {},
      polygons = type === "Polygon" ? [coordinates] : type === "MultiPolygon" ? coordinates : [];
    const rgb = feature?.properties?.classification?.color ?? feature?.properties?.color;
    const colour =
      Array.isArray(rgb) && rgb.length === 3 ? `rgb(${rgb.map((v) => Number(v) & 255).join(" ")})` : "#0b57d0";
    return polygons.map((rings) => ({
      colour,
      rings: rings.map((ring) =>
        shifted(
          ring.map(([x, y]) => [Number(x), Number(y)]),
          origin,
          1,
        ),
      ),
    }));
  });
}

function offer(name, features) {
  const url = URL.createObjectURL(
    new Blob([JSON.stringify({ type: "FeatureCollection", features })], { type: "application/geo+json" }),
  );
  el("a", { href: url, download: `${name}.geojson` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
