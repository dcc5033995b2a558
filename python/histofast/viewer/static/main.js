// The page: which slide, which pane is in use, what is written beside it. Each part has its module.

import * as api from "./api.js";
import { Inspector } from "./inspect.js";
import { keys } from "./keys.js";
import { Layers } from "./layers.js";
import { cellsOf, pathOf, patchesAt } from "./overlay.js";
import { Regions } from "./regions.js";
import { SlideList } from "./slides.js";
import { Place } from "./place.js";
import { Pane, together, zoomOf } from "./viewer.js";
import { byId, count, el, fill, plural, say } from "./words.js";

const OBJECTIVES = [5, 10, 20, 40];
const NARROW = 900; // css px, as in app.css: panels lie over the lower half of the slide
const LOOK_MPP = 0.5; // at which a patch is shown that was jumped to, where the slide has a scale

class App {
  constructor(session, slides) {
    Object.assign(this, { session, slides, info: null, turn: 0, drawn: 0 });
    this.panes = [new Pane(byId("pane"), { navigator: true })];
    this.pane = this.panes[0];
    this.place = new Place(this);
    this.layers = new Layers(this);
    this.inspector = new Inspector(this);
    this.regions = new Regions(this);
    this.list = new SlideList(slides, (id) => this.open(id));
    this.watch(this.pane);
    this.buttons();
    keys(this);
    document.title = session.title || "histofast view";
    new ResizeObserver(() => this.align()).observe(document.querySelector("main"));
    addEventListener("hashchange", () => this.followLink());
    this.pane.viewer.addHandler("tile-load-failed", () => this.missed());
    this.followLink();
  }

  buttons() {
    fill(
      byId("objectives"),
      el(
        "button",
        { id: "fit", title: "the whole slide (0)", onclick: () => this.pane.item && this.pane.whole() },
        "Fit",
      ),
      ...OBJECTIVES.map((m) =>
        el(
          "button",
          { class: "objective", "data-objective": m, onclick: () => this.pane.zoomTo(zoomOf(m, this.info.mpp)) },
          `${m}×`,
        ),
      ),
      el(
        "button",
        {
          id: "one",
          title: "one pixel of the slide on one of the screen (1)",
          onclick: () => this.pane.item && this.pane.zoomTo(1 / devicePixelRatio),
        },
        "1:1",
      ),
    );
    byId("most").onclick = () => this.goRanked(0);
    byId("before").onclick = () => this.stepRanked(-1);
    byId("after").onclick = () => this.stepRanked(1);
    byId("compare").onclick = () => this.compare();
    byId("help-button").onclick = () => byId("help").showModal();
    byId("help-close").onclick = () => byId("help").close();
    byId("told").onclick = () => (byId("told").hidden = true);
    for (const tab of document.querySelectorAll("[data-tab]"))
      tab.onclick = () => this.tab(document.body.dataset.panel === tab.dataset.tab ? "" : tab.dataset.tab);
    for (const radio of document.querySelectorAll("[name=pane]"))
      radio.onchange = () => this.use(this.panes[Number(radio.value)]);
  }

  // The slide begins on a whole pixel of the screen, whatever the size of letters: else 1:1 is a blur.
  align() {
    const { style } = byId("stage");
    style.margin = "0";
    const { left, top, right, bottom } = byId("stage").getBoundingClientRect(),
      ratio = devicePixelRatio;
    const rest = (v) => Math.ceil(v * ratio - 1e-3) / ratio - v,
      beyond = (v) => v - Math.floor(v * ratio + 1e-3) / ratio;
    style.margin = `${rest(top)}px ${beyond(right)}px ${beyond(bottom)}px ${rest(left)}px`;
    byId("panes").style.columnGap = `${2 + (Math.round(byId("stage").clientWidth * ratio) % 2) / ratio}px`;
  }

  tab(name) {
    // narrow screens show one panel at a time
    document.body.dataset.panel = name;
    for (const tab of document.querySelectorAll("[data-tab]"))
      tab.setAttribute("aria-pressed", tab.dataset.tab === name);
  }

  makeRoom() {
    if (innerWidth < NARROW) this.tab("");
  } // for what happens on the slide

  // --- Slides ---------------------------------------------------------------------------------------

  followLink() {
    const link = new URLSearchParams(location.hash.slice(1)),
      [name, layer] = [link.get("slide"), link.get("layer")];
    const [x, y, zoom, row] = ["x", "y", "zoom", "patch"].map((key) => (link.has(key) ? Number(link.get(key)) : NaN));
    const slide =
      name === null
        ? (this.list.sorted.find((s) => !s.error) ?? this.list.sorted[0])
        : this.slides.find((s) => s.name === name);
    if (!slide) return this.message(name === null ? "There are no slides here." : `No slide is called ${name}.`);
    this.open(slide.id, { x, y, zoom, row, layer: layer ?? undefined });
  }

  async open(id, { x, y, zoom, row = NaN, layer = this.layers.info ? this.pane.layer : undefined } = {}) {
    const turn = ++this.turn,
      entry = this.slides.find((slide) => slide.id === id);
    this.list.mark(id);
    this.info = null;
    this.inspector.clear();
    this.panes.forEach((pane) => pane.close());
    byId("title").textContent = entry.name;
    byId("facts").textContent = "";
    byId("announced").textContent = "";
    this.makeRoom();
    this.message(entry.error || "Opening …");
    if (entry.error) return this.closed();
    try {
      const info = await api.slide(id);
      if (turn !== this.turn) return;
      if (info.error) {
        this.list.learn(id, { error: info.error });
        throw new api.Refused(info.error);
      }
      this.info = info;
      await Promise.all(this.panes.map((pane) => pane.open(info)));
    } catch (error) {
      if (turn === this.turn) {
        this.message(error.message);
        this.closed();
      }
      return;
    }
    if (turn !== this.turn) return;
    this.message("");
    this.opened(entry);
    const wanted = this.layers.open(this.info, layer);
    if (Number.isFinite(x) && Number.isFinite(y))
      this.pane.goTo({ x, y, zoom: Number.isFinite(zoom) && zoom > 0 ? zoom : this.pane.zoom() }, true);
    await this.patches(turn, wanted, row, !Number.isFinite(x));
    if (turn === this.turn) this.drawn = turn;
  }

  closed() {
    // nothing to see: what needs a slide waits
    this.layers.open({ layers: [], notes: [] });
    this.layers.choose("");
    this.regions.clear();
    this.place.show();
  }

  opened(entry) {
    const { width, height, mpp, objective, patches } = this.info;
    this.regions.clear();
    if (patches) this.list.learn(entry.id, { patches: patches.n });
    byId("facts").textContent = [
      `${count(width)} × ${count(height)} px`,
      mpp ? `${+mpp.toFixed(4)} µm/px` : "no scale stated",
      objective && `${say(objective)}×`,
      patches
        ? [
            plural(patches.n, "patch"),
            patches.patch_px && `of ${patches.patch_px} px`,
            patches.mpp && `at ${+patches.mpp.toFixed(4)} µm/px`,
            patches.encoder && `by ${patches.encoder}`,
          ]
            .filter(Boolean)
            .join(" ")
        : "no features",
      entry.label !== null && `label ${entry.label}`,
    ]
      .filter(Boolean)
      .join(" · ");
    byId("facts").title = byId("facts").textContent;
    for (const button of document.querySelectorAll(".objective")) {
      const zoom = mpp && zoomOf(Number(button.dataset.objective), mpp);
      button.disabled = !zoom || zoom > 2.01;
      button.title = !mpp
        ? "the slide states no scale"
        : zoom > 2.01
          ? "more than the slide's pixels hold"
          : `${10 / button.dataset.objective} µm on a pixel of the screen`;
    }
    this.pane.viewer.world.getItemAt(0).addOnceHandler("fully-loaded-change", () => this.list.pictures());
    for (const pane of this.panes) pane.overlay.look = { ...this.layers.marks };
    this.place.show();
  }

  async patches(turn, layer, row, go) {
    const { info } = this;
    api.tissue(info.id).then(
      (polygons) => {
        if (turn !== this.turn) return;
        this.tissue = pathOf(polygons.flatMap(({ outer, holes }) => [outer, ...(holes || [])]));
        for (const pane of this.panes) {
          pane.overlay.tissue = this.tissue;
          pane.overlay.redraw();
        }
      },
      (error) => turn === this.turn && this.warn(`tissue: ${error.message}`),
    );
    this.tissue = this.xy = null;
    this.layers.choose("");
    if (!info.patches) return;
    try {
      const xy = await api.patches(info.id);
      if (turn !== this.turn) return;
      this.xy = xy;
      this.cells = cellsOf(xy, info.patches.side_l0, info.patches.step_l0);
    } catch (error) {
      return void (turn === this.turn && this.warn(error.message));
    }
    this.panes.forEach((pane) => this.dress(pane));
    await Promise.all(this.panes.map((pane) => this.layers.choose(pane === this.pane ? layer : pane.layer, pane)));
    if (turn === this.turn && row >= 0 && row < info.patches.n) this.pick(row, { go });
  }

  dress(pane) {
    pane.overlay.look = { ...this.layers.marks };
    pane.overlay.tissue = this.tissue;
    if (this.xy) pane.overlay.setPatches(this.xy, this.info.patches.side_l0, this.info.patches.step_l0, this.cells);
  }

  step(by) {
    const id = this.list.neighbour(this.info?.id, by);
    if (id !== undefined) this.open(id);
  }

  // --- Patches --------------------------------------------------------------------------------------

  pick(row, { go = false } = {}) {
    for (const pane of this.panes) {
      Object.assign(pane.overlay, { selected: row, near: [] });
      pane.overlay.redraw();
    }
    this.inspector.pick(this.info, row);
    this.showRanked();
    if (go) this.lookAt(row);
    if (innerWidth < NARROW) this.tab("patch");
    this.place.remember();
  }

  lookAt(row) {
    const half = this.info.patches.side_l0 / 2,
      most = this.info.mpp ? this.info.mpp / LOOK_MPP : 1;
    // Closer only when one is far, so that a walk from patch to patch keeps its scale.
    const zoom = Math.max(this.pane.zoom(), Math.min(1, most)),
      covered = innerWidth < NARROW ? this.pane.viewer.canvas.clientHeight / 4 / zoom : 0;
    this.pane.goTo({ x: this.xy[2 * row] + half, y: this.xy[2 * row + 1] + half + covered, zoom });
  }

  showNear(rows) {
    for (const pane of this.panes) {
      pane.overlay.near = rows;
      pane.overlay.redraw();
    }
  }

  jump(id, row) {
    if (id === this.info.id) this.pick(row, { go: true });
    else this.open(id, { row });
  }

  pickAt({ x, y }) {
    const [row] = this.xy ? patchesAt(this.xy, this.info.patches.side_l0, x, y) : [];
    if (row === undefined) this.announce(this.xy ? "no patch lies here" : "this slide has no patches");
    else this.pick(row);
  }

  pickMiddle() {
    this.pickAt(this.pane.centre(true));
  }

  async goRanked(place) {
    if (this.layers.chosen?.kind !== "scalar") {
      const first = this.info?.layers.find((layer) => layer.kind === "scalar");
      if (!first || !this.xy) return;
      await this.layers.choose(first.id);
    }
    const order = this.layers.now?.order;
    if (order?.length) this.pick(order[Math.max(0, Math.min(order.length - 1, place))], { go: true });
  }

  stepRanked(by) {
    const at = this.layers.now?.order ? this.layers.now.order.indexOf(this.inspector.row) : -1;
    this.goRanked(at < 0 ? 0 : at + by);
  }

  showRanked() {
    const layer = this.layers.chosen,
      order = this.layers.now?.order,
      at = order ? order.indexOf(this.inspector.row) : -1;
    const possible = Boolean(this.xy && this.info?.layers.some((l) => l.kind === "scalar"));
    byId("most").disabled = !possible;
    byId("most").textContent =
      !layer || layer.kind !== "scalar" || layer.group === "attention" ? "Most attended" : "Highest";
    if (possible && !this.info.layers.some((l) => l.group === "attention")) byId("most").textContent = "Highest";
    byId("most").title = possible
      ? `the patch where ${layer?.kind === "scalar" ? layer.name : "the first layer"} is highest (m)`
      : "no layer of this slide has values to rank";
    byId("rank").textContent = at < 0 ? "" : `${count(at + 1)} of ${count(order.length)}`;
    byId("before").disabled = at <= 0;
    byId("after").disabled = !possible || !order || at === order.length - 1;
  }

  // --- Panes ----------------------------------------------------------------------------------------

  watch(pane) {
    const { viewer } = pane;
    viewer.addHandler("canvas-press", () => this.use(pane));
    viewer.addHandler(
      "canvas-click",
      (event) => event.quick && pane.item && this.pickAt(pane.under(event.position.x, event.position.y)),
    );
    viewer.addHandler("viewport-change", () => pane === this.pane && this.place.show());
    viewer.addHandler("resize", () => this.place.show());
    pane.element.addEventListener("pointermove", (event) => {
      const box = pane.element.getBoundingClientRect();
      this.place.pointer = pane.item && pane.under(event.clientX - box.left, event.clientY - box.top);
      this.place.showPointer();
    });
    pane.element.addEventListener("pointerleave", () => {
      this.place.pointer = null;
      this.place.showPointer();
    });
  }

  use(pane) {
    if (pane === this.pane) return;
    this.pane = pane;
    this.panes.forEach((p, i) => {
      p.element.classList.toggle("used", p === pane);
      byId(`use-${i}`).checked = p === pane;
    });
    this.layers.show();
  }

  async compare() {
    const on = this.panes.length === 1;
    byId("compare").setAttribute("aria-pressed", on);
    byId("which").hidden = !on;
    byId("panes").classList.toggle("two", on);
    if (!on) {
      const [first, second] = this.panes;
      this.use(first);
      this.panes = [first];
      first.element.classList.remove("used");
      second.viewer.destroy();
      return byId("pane-2").remove();
    }
    const element = el("div", { id: "pane-2", class: "pane" }),
      [first] = this.panes;
    byId("panes").append(element);
    const second = new Pane(element);
    this.panes.push(second);
    this.watch(second);
    if (this.info) {
      await second.open(this.info);
      second.isWhole = first.isWhole;
      this.dress(second);
      Object.assign(second.overlay, {
        selected: first.overlay.selected,
        near: first.overlay.near,
        imports: first.overlay.imports,
      });
    }
    together(first, second);
    if (!this.info) return;
    if (first.isWhole) first.whole();
    else first.goTo(first.centre(), true);
    this.use(second); // where the next layer chosen goes
    second.overlay.redraw();
  }

  // --- Said -----------------------------------------------------------------------------------------

  message(text) {
    byId("message").textContent = text;
    byId("message").hidden = !text;
  }
  announce(text) {
    byId("announced").textContent = text;
  }
  tell(text, kind = "") {
    Object.assign(byId("told"), { textContent: text, className: kind, hidden: false });
  }
  warn(text) {
    this.tell(text, "warning");
  }
  missed() {
    this.warn("some tiles of this slide could not be read: they stay empty");
  }

  // --- What keys ask for ------------------------------------------------------------------------------

  heat() {
    // off and on again
    const { layer } = this.pane;
    if (layer) this.lastLayer = layer;
    this.layers.choose(
      layer ? "" : (this.info?.layers.find((l) => l.id === this.lastLayer)?.id ?? this.info?.layers[0]?.id ?? ""),
    );
  }

  find() {
    this.tab("slides");
    byId("search").focus();
    byId("search").select();
  }
  chooseLayer() {
    this.tab("layers");
    byId("layer").focus();
  }

  escape() {
    this.regions.discard();
    byId("told").hidden = true;
    this.tab("");
    this.pane.viewer.canvas.focus();
  }
}

const asked = new URLSearchParams(location.search);
if (asked.has("t")) {
  // the cookie has it: not to be seen, copied or kept in a history
  asked.delete("t");
  history.replaceState(null, "", `${location.pathname}${asked.size ? `?${asked}` : ""}${location.hash}`);
}
try {
  const [session, slides] = await Promise.all([api.session(), api.slides()]);
  window.histofastView = new App(session, slides); // for tests, and whoever looks at it in the browser's console
} catch (error) {
  byId("message").textContent = error.message;
  byId("message").hidden = false;
  if (!(error instanceof api.Refused)) throw error;
}
