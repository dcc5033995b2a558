// What colours the patches: the layer of the pane in use, its look, and the marks over the slide. Nothing but the
// first choice of a layer asks the server.

import * as api from "./api.js";
import {
  MAPS,
  categoryColour,
  categoryColours,
  descending,
  rgbColours,
  scalarColours,
  shares,
  table,
} from "./colours.js";
import { byId, count, el, fill, say, share } from "./words.js";

const BINS = 64;
const BY_RANK = ["attention", "prediction", "maps"]; // skewed, or of a model's own unit

export class Layers {
  constructor(app) {
    this.app = app;
    this.marks = { opacity: 0.5, smooth: false, grid: false, tissue: true };
    this.map = MAPS[0];
    fill(byId("map"), ...MAPS.map((name) => el("option", { value: name }, name)));
    byId("layer").onchange = (event) => this.choose(event.target.value);
    byId("map").onchange = (event) => {
      this.map = event.target.value;
      this.paint();
    };
    for (const [id, byRank] of [
      ["by-rank", true],
      ["by-value", false],
    ])
      byId(id).onchange = () => this.set({ byRank, from: -Infinity });
    byId("from").oninput = (event) => this.set({ from: this.valueAt(event.target.value / 1000) });
    for (const end of ["low", "high"])
      byId(end).onchange = (event) =>
        this.set({ [end]: event.target.value === "" ? null : Number(event.target.value) });
    byId("opacity").oninput = (event) => this.mark("opacity", event.target.value / 100);
    for (const name of ["smooth", "grid", "tissue"])
      byId(name).onchange = (event) => this.mark(name, event.target.checked);
    byId("save-layer").onclick = () => this.app.regions.saveShown(this.chosen, this.limits());
  }

  // Of a slide that was just opened; `wanted` is a layer's id, or its name.
  open(info, wanted) {
    this.info = info;
    this.data = new Map(); // id of a layer -> what `loaded` gives
    const groups = [...new Set(info.layers.map((layer) => layer.group))];
    fill(
      byId("layer"),
      el("option", { value: "" }, "Nothing: the slide alone"),
      ...groups.map((group) =>
        el(
          "optgroup",
          { label: group },
          ...info.layers
            .filter((layer) => layer.group === group)
            .map((layer) => el("option", { value: layer.id }, layer.name)),
        ),
      ),
    );
    fill(byId("notes"), ...info.notes.map((note) => el("li", {}, note)));
    const named = info.layers.find((layer) => layer.id === wanted || layer.name === wanted);
    const first = info.layers[0]?.group === "attention" ? info.layers[0].id : "";
    return named ? named.id : wanted === "" ? "" : first;
  }

  get pane() {
    return this.app.pane;
  }
  get chosen() {
    return this.layerOf(this.pane);
  }
  get now() {
    return this.data?.get(this.pane.layer);
  }
  layerOf(pane) {
    return this.info?.layers.find((layer) => layer.id === pane.layer);
  }

  async choose(id, pane = this.pane) {
    pane.layer = id;
    const layer = this.layerOf(pane),
      info = this.info;
    try {
      if (layer && !this.data.has(id)) this.data.set(id, loaded(layer, await api.values(info.id, layer)));
    } catch (error) {
      if (info !== this.info) return;
      pane.layer = "";
      this.app.warn(`${layer.name}: ${error.message}`);
    }
    if (info === this.info && (pane.layer === id || !pane.layer)) this.paint(pane);
  }

  set(change) {
    if (!this.now) return;
    Object.assign(this.now.look, change);
    for (const pane of this.app.panes) if (pane.layer === this.pane.layer) this.paint(pane);
  }

  mark(name, value) {
    this.marks[name] = value;
    for (const pane of this.app.panes) {
      pane.overlay.look = { ...this.marks };
      pane.overlay.redraw();
    }
    this.show();
  }

  // What is drawn of a scalar layer: shares of ranks or values, between low and high, from `from` on.
  limits({ look, least, greatest } = this.now) {
    if (look.byRank) return { low: 0, high: 1, from: look.from };
    return { low: look.low ?? least, high: look.high ?? greatest, from: look.from };
  }

  drawn(data) {
    return data.look.byRank ? (data.shares ??= shares(data.values, data.order)) : data.values;
  }

  paint(pane = this.pane) {
    const layer = this.layerOf(pane),
      data = this.data?.get(pane.layer);
    if (!data) pane.overlay.setColours(null);
    else if (layer.kind === "colour") pane.overlay.setColours(rgbColours(data.values));
    else if (layer.kind === "category") pane.overlay.setColours(categoryColours(data.values, data.look.hidden));
    else pane.overlay.setColours(scalarColours(this.drawn(data), { map: this.map, ...this.limits(data) }));
    if (pane === this.pane) this.show();
  }

  // --- The panel ------------------------------------------------------------------------------------

  show() {
    const layer = this.chosen,
      data = this.now,
      scalar = layer?.kind === "scalar" && data;
    byId("layer").value = this.pane.layer;
    byId("layer-note").textContent = layer?.note || "";
    byId("scalar").hidden = !scalar;
    byId("legend").hidden = !(layer?.kind === "category" && data);
    byId("opacity").value = Math.round(100 * this.marks.opacity);
    byId("opacity-said").textContent = `${byId("opacity").value} %`;
    for (const name of ["smooth", "grid", "tissue"]) byId(name).checked = this.marks[name];
    if (scalar) this.showScalar(data);
    if (!byId("legend").hidden) this.showLegend(layer, data);
    this.app.showRanked();
  }

  valueAt(part) {
    // of the slider
    const { look, least, greatest } = this.now;
    if (part <= 0) return -Infinity;
    return look.byRank ? part : least + part * (greatest - least);
  }

  showScalar(data) {
    const { look, least, greatest, order } = data,
      { low, high, from } = this.limits(data),
      values = this.drawn(data);
    byId("map").value = this.map;
    byId("by-rank").checked = look.byRank;
    byId("by-value").checked = !look.byRank;
    byId("range").hidden = look.byRank;
    if (document.activeElement !== byId("low")) byId("low").value = +low.toPrecision(4);
    if (document.activeElement !== byId("high")) byId("high").value = +high.toPrecision(4);
    const part = from === -Infinity ? 0 : look.byRank ? from : (from - least) / (greatest - least || 1);
    byId("from").value = Math.round(1000 * part);
    let shown = order.length;
    while (shown && values[order[shown - 1]] < from) shown--;
    byId("from-said").textContent = from === -Infinity ? "all" : look.byRank ? `top ${share(1 - from)}` : say(from);
    byId("shown").textContent =
      `${count(shown)} of ${count(data.values.length)} patches coloured` +
      (order.length < data.values.length ? `, ${count(data.values.length - order.length)} have no value` : "");
    byId("least").textContent = say(least);
    byId("greatest").textContent = say(greatest);
    this.showHistogram(data, { low, high, from });
  }

  showHistogram({ look, bins, least, greatest, order }, { low, high, from }) {
    const canvas = byId("histogram"),
      c = canvas.getContext("2d"),
      colours = table(this.map);
    const tallest = Math.sqrt(Math.max(...bins, 1)),
      wide = canvas.width / BINS;
    c.clearRect(0, 0, canvas.width, canvas.height);
    let below = 0;
    bins.forEach((n, i) => {
      const middle = look.byRank ? (below + n / 2) / order.length : least + ((i + 0.5) / BINS) * (greatest - least);
      below += n;
      const at = high > low ? (middle - low) / (high - low) : 0.5,
        colour = colours[Math.max(0, Math.min(255, Math.floor(256 * at)))];
      c.fillStyle =
        middle < from
          ? "rgb(128 128 128 / 0.35)"
          : `rgb(${colour & 255} ${(colour >> 8) & 255} ${(colour >> 16) & 255})`;
      const tall = n ? Math.max(2, (Math.sqrt(n) / tallest) * canvas.height) : 0;
      c.fillRect(i * wide, canvas.height - tall, wide - 1, tall);
    });
  }

  showLegend(layer, { look, counts }) {
    const names = layer.categories || [];
    fill(
      byId("legend"),
      ...counts.map((n, i) => {
        const swatch = el("span", { class: "swatch" });
        swatch.style.backgroundColor = categoryColour(i);
        const box = el("input", { type: "checkbox", checked: !look.hidden.has(i) });
        box.onchange = () => {
          box.checked ? look.hidden.delete(i) : look.hidden.add(i);
          this.app.panes.forEach((pane) => this.paint(pane));
        };
        return el(
          "li",
          {},
          el(
            "label",
            {},
            box,
            swatch,
            el("span", { class: "name" }, names[i] ?? String(i)),
            el("span", { class: "number" }, count(n)),
          ),
        );
      }),
    );
  }
}

// A column, with what is asked of it again and again.
function loaded(layer, values) {
  const look = {
    byRank: BY_RANK.includes(layer.group),
    low: layer.low,
    high: layer.high,
    from: -Infinity,
    hidden: new Set(),
  };
  if (layer.kind === "category") {
    const counts = new Array(layer.categories?.length || 0).fill(0);
    for (const v of values) if (v >= 0) counts[v] = (counts[v] || 0) + 1;
    return { values, look, counts: Array.from(counts, (n) => n || 0) };
  }
  if (layer.kind === "colour") return { values, look };
  const order = descending(values);
  const [greatest, least] = order.length ? [values[order[0]], values[order[order.length - 1]]] : [1, 0];
  const bins = new Array(BINS).fill(0);
  for (const row of order)
    bins[Math.min(BINS - 1, Math.floor(((values[row] - least) / (greatest - least || 1)) * BINS))]++;
  return { values, look, order, least, greatest, bins };
}
