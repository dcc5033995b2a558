// A pane: one slide under OpenSeadragon, its overlay, and where one is. `zoom` is css px per level-0 px.

import { tileUrl } from "./api.js";
import { Overlay } from "./overlay.js";
import { say } from "./words.js";

const still = matchMedia("(prefers-reduced-motion: reduce)");
const MOST_ZOOM = 8;

export class Pane {
  constructor(element, { navigator = false } = {}) {
    this.element = element;
    this.layer = ""; // id of the layer shown
    this.viewer = OpenSeadragon({
      element,
      drawer: drawer(),
      showNavigationControl: false,
      showNavigator: navigator,
      navigatorPosition: "TOP_RIGHT",
      navigatorSizeRatio: 0.16,
      navigatorDisplayRegionColor: "#b02a00",
      animationTime: still.matches ? 0 : 0.5,
      springStiffness: 9,
      maxZoomPixelRatio: MOST_ZOOM,
      minZoomImageRatio: 0.7,
      visibilityRatio: 0.3,
      preserveImageSizeOnResize: true,
      imageLoaderLimit: 6,
      maxImageCacheCount: 300,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsPen: { clickToZoom: false },
    });
    this.overlay = new Overlay(this.viewer);
    this.viewer.addHandler("canvas-key", (event) => (event.preventDefaultAction = true)); // keys.js has them
    this.viewer.addHandler("zoom", () => this.sharpen());
    // The whole slide stays whole when the window or the text above changes, until somebody moves it.
    // (OpenSeadragon zooms after it has said so.)
    this.viewer.addHandler("resize", () =>
      queueMicrotask(() => this.isWhole && this.item && this.viewer.viewport.goHome(true)),
    );
    for (const moved of ["drag", "scroll", "pinch", "double-click"])
      this.viewer.addHandler(`canvas-${moved}`, () => (this.isWhole = false));
    const canvas = this.viewer.canvas;
    canvas.setAttribute("role", "application");
    canvas.setAttribute(
      "aria-label",
      "Slide. Arrows move, plus and minus zoom, Enter picks the patch in the middle, question mark lists all keys.",
    );
  }

  get item() {
    return this.viewer.world.getItemAt(0);
  }

  // Show a slide of `info` ({id, width, height, tile_px, max_level}); resolves when it can be moved about.
  open(info) {
    this.viewer.close();
    this.isWhole = true;
    this.viewer.open({
      width: info.width,
      height: info.height,
      tileSize: info.tile_px,
      tileOverlap: 0,
      minLevel: 0,
      maxLevel: info.max_level,
      getTileUrl: (z, x, y) => tileUrl(info.id, z, x, y),
    });
    return new Promise((resolve, reject) => {
      this.viewer.addOnceHandler("open", resolve);
      this.viewer.addOnceHandler("open-failed", (event) => reject(new Error(event.message)));
    });
  }

  close() {
    this.viewer.close();
    this.overlay.clear();
  }

  zoom(current = false) {
    return this.item ? this.item.viewportToImageZoom(this.viewer.viewport.getZoom(current)) : 0;
  }

  centre(current = false) {
    const at = this.item.viewportToImageCoordinates(this.viewer.viewport.getCenter(current));
    return { x: at.x, y: at.y };
  }

  // Level-0 px under a point of the pane, css px.
  under(x, y) {
    const at = this.item.viewerElementToImageCoordinates(new OpenSeadragon.Point(x, y));
    return { x: at.x, y: at.y };
  }

  // At a whole number of device px for a level-0 px the corner is put on one, so that pixels stay pixels.
  goTo({ x, y, zoom = this.zoom() }, jump = still.matches) {
    const ratio = devicePixelRatio,
      { clientWidth, clientHeight } = this.viewer.canvas,
      { viewport } = this.viewer;
    this.isWhole = false;
    if (Math.abs(zoom * ratio - Math.round(zoom * ratio)) < 1e-6) {
      const snap = (centre, length) => (Math.round((centre * zoom - length / 2) * ratio) / ratio + length / 2) / zoom;
      [x, y] = [snap(x, clientWidth), snap(y, clientHeight)];
    }
    viewport.zoomTo(this.item.imageToViewportZoom(zoom), null, jump);
    viewport.panTo(this.item.imageToViewportCoordinates(x, y), jump);
  }

  zoomTo(zoom) {
    this.goTo({ ...this.centre(), zoom });
  }
  zoomBy(factor) {
    this.goTo({ ...this.centre(), zoom: Math.min(MOST_ZOOM, this.zoom() * factor) });
  }

  whole() {
    this.isWhole = true;
    this.viewer.viewport.goHome(still.matches);
  }

  pan(right, down) {
    // in shares of what is seen
    this.isWhole = false;
    const { width, height } = this.viewer.viewport.getBounds();
    const by = new OpenSeadragon.Point(right * width, down * height);
    this.viewer.viewport.panBy(by, still.matches);
    this.viewer.viewport.applyConstraints(still.matches);
  }

  sharpen() {
    const scale = this.zoom() * devicePixelRatio,
      smooth = scale < 1.001; // above 1:1 a pixel is a square, not a blur
    // Tiles without overlap are drawn a pixel larger, against seams. There are none where pixels lie on pixels, and there
    // it would stretch them; so nearly none is said to be a little.
    if (this.item) this.item.source.tileOverlap = Math.abs(scale - Math.round(scale)) < 1e-6 ? 1e-9 : 0;
    if (smooth === this.smooth) return;
    this.smooth = smooth;
    this.viewer.drawer?.setImageSmoothingEnabled?.(smooth);
  }
}

// WebGL where a GPU draws it, else the canvas: WebGL in software takes 120 ms for a frame that the canvas draws in 7.
function drawer() {
  const asked = new URLSearchParams(location.search).get("drawer");
  if (asked) return asked;
  const gl = document.createElement("canvas").getContext("webgl"),
    names = gl?.getExtension("WEBGL_debug_renderer_info");
  const by = gl ? String(gl.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER)) : "software";
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return /swiftshader|llvmpipe|software|basic render/i.test(by) ? "canvas" : "auto";
}

// Two panes move as one: whoever is moved leads, until the other is.
export function together(first, second) {
  let leading = false;
  const follow = (from, to) => () => {
    if (leading || !from.item || !to.item) return;
    leading = true;
    to.isWhole = from.isWhole;
    to.viewer.viewport.zoomTo(from.viewer.viewport.getZoom(true), null, true);
    to.viewer.viewport.panTo(from.viewer.viewport.getCenter(true), true);
    to.viewer.forceRedraw();
    leading = false;
  };
  first.viewer.addHandler("viewport-change", follow(first, second));
  second.viewer.addHandler("viewport-change", follow(second, first));
  follow(first, second)();
}

// --- Scale ------------------------------------------------------------------------------------------

// The longest round length that is no wider than `most` css px.
export function scaleBar(umPerPx, most = 140) {
  const room = umPerPx * most,
    ten = 10 ** Math.floor(Math.log10(room));
  const um = [5, 2, 1].map((step) => step * ten).find((length) => length <= room);
  return {
    px: um / umPerPx,
    label: um >= 1000 ? `${say(um / 1000)} mm` : um < 1 ? `${say(um * 1000)} nm` : `${say(um)} µm`,
  };
}

// An objective of M x shows 10 / M um on a pixel of the screen: what microscopes' makers and QuPath mean by it.
export const objectiveOf = (umPerPx) => 10 / umPerPx;
export const zoomOf = (objective, mpp) => (mpp * objective) / 10;
