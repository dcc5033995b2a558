// Where one is: scale bar, zoom, pointer, the address that leads here again, and what screen readers are told.

import { objectiveOf, scaleBar } from "./viewer.js";
import { byId, count, say, share } from "./words.js";

const SETTLED_MS = 350; // without moving, after which the address and screen readers are told

export class Place {
  constructor(app) {
    this.app = app;
  }

  // At the next frame, however often it is asked for.
  show() {
    this.placing ??= requestAnimationFrame(() => {
      this.placing = null;
      this.draw();
    });
  }

  draw() {
    const there = this.app.info && this.app.pane.item,
      bar = byId("scale");
    bar.hidden = !there;
    byId("zoom").textContent = "";
    if (!there) return;
    const zoom = this.app.pane.zoom(true),
      { mpp } = this.app.info,
      um = mpp / zoom;
    if (mpp) {
      const { px, label } = scaleBar(um);
      byId("scale-line").style.width = `${px}px`;
      byId("scale-said").textContent = label;
    } else byId("scale-said").textContent = "no scale: the slide states no µm/px";
    byId("scale-line").hidden = !mpp;
    byId("zoom").textContent = mpp
      ? `${+objectiveOf(um).toPrecision(3)}× · ${+um.toPrecision(3)} µm/px`
      : `${share(zoom)} of full size`;
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.settled(), SETTLED_MS);
  }

  settled() {
    if (!this.app.info || !this.app.pane.item) return;
    const { x, y } = this.app.pane.centre(),
      scale = this.app.info.mpp
        ? `${+objectiveOf(this.app.info.mpp / this.app.pane.zoom()).toPrecision(3)}x`
        : `zoom ${+this.app.pane.zoom().toPrecision(3)}`;
    byId("live").textContent = `${scale}, centre ${count(x)}, ${count(y)}`;
    this.remember();
  }

  remember() {
    // the address leads here again
    if (!this.app.info || !this.app.pane.item) return;
    const { x, y } = this.app.pane.centre(),
      link = new URLSearchParams({
        slide: this.app.info.name,
        x: Math.round(x),
        y: Math.round(y),
        zoom: +this.app.pane.zoom().toPrecision(4),
        layer: this.app.pane.layer,
      });
    if (this.app.inspector.row >= 0) link.set("patch", this.app.inspector.row);
    history.replaceState(null, "", `#${link}`);
  }

  showPointer() {
    const at = this.pointer,
      mpp = this.app.info?.mpp;
    byId("pointer").textContent =
      at && this.app.info
        ? `${count(Math.floor(at.x))}, ${count(Math.floor(at.y))} px${mpp ? ` · ${say(at.x * mpp)}, ${say(at.y * mpp)} µm` : ""}`
        : "";
  }
}
