// All that keys do: one table, which the help is made of as well.

import { byId, el, fill } from "./words.js";

const STEP = 0.2; // of the view, for an arrow

export function keys(app) {
  const onSlide = (action) => () => app.pane.item && action(app.pane);
  const flip = (name) => () => app.layers.mark(name, !app.layers.marks[name]);
  const opacity = (by) => () => app.layers.mark("opacity", Math.max(0, Math.min(1, app.layers.marks.opacity + by)));
  const table = [
    [
      "Move",
      [
        [
          "← ↑ → ↓",
          "move",
          {
            ArrowLeft: onSlide((p) => p.pan(-STEP, 0)),
            ArrowRight: onSlide((p) => p.pan(STEP, 0)),
            ArrowUp: onSlide((p) => p.pan(0, -STEP)),
            ArrowDown: onSlide((p) => p.pan(0, STEP)),
          },
        ],
        [
          "+ −",
          "closer, farther",
          {
            "+": onSlide((p) => p.zoomBy(1.5)),
            "=": onSlide((p) => p.zoomBy(1.5)),
            "-": onSlide((p) => p.zoomBy(1 / 1.5)),
          },
        ],
        ["0", "the whole slide", { 0: onSlide((p) => p.whole()) }],
        [
          "1",
          "1:1, one pixel of the slide on one of the screen",
          { 1: onSlide((p) => p.zoomTo(1 / devicePixelRatio)) },
        ],
        ["[ ]", "slide before, slide after", { "[": () => app.step(-1), "]": () => app.step(1) }],
        ["/", "find a slide", { "/": () => app.find() }],
      ],
    ],
    [
      "Patches",
      [
        ["m", "the most attended, or highest, patch", { m: () => app.goRanked(0) }],
        ["n p", "next in rank, the one before", { n: () => app.stepRanked(1), p: () => app.stepRanked(-1) }],
        [
          "Enter",
          "pick the patch in the middle",
          { Enter: onSlide(() => (app.regions.kind ? app.regions.enter() : app.pickMiddle())) },
        ],
      ],
    ],
    [
      "Colours",
      [
        ["h", "colours on, off", { h: () => app.heat() }],
        ["l", "choose what colours the patches", { l: () => app.chooseLayer() }],
        ["o O", "fainter, stronger", { o: opacity(-0.1), O: opacity(0.1) }],
        ["s", "smooth or square", { s: flip("smooth") }],
        ["g", "outlines of patches", { g: flip("grid") }],
        ["t", "outline of the tissue", { t: flip("tissue") }],
        ["c", "two layers side by side", { c: () => app.compare() }],
      ],
    ],
    [
      "Regions",
      [
        ["r", "draw a rectangle", { r: () => app.regions.start("rectangle") }],
        ["v", "draw a polygon", { v: () => app.regions.start("polygon") }],
        ["w", "what is in view, as a region", { w: () => app.regions.wholeView() }],
        ["Space", "set a corner in the middle", { " ": () => app.regions.kind && app.regions.cornerInTheMiddle() }],
        ["Esc", "stop drawing, close", { Escape: () => app.escape() }],
        ["?", "this list", { "?": () => byId("help").showModal() }],
      ],
    ],
  ];
  fill(
    byId("keys"),
    ...table.map(([title, rows]) =>
      el(
        "section",
        {},
        el("h3", {}, title),
        el(
          "dl",
          {},
          ...rows.flatMap(([names, words]) => [
            el("dt", {}, ...names.split(" ").map((name) => el("kbd", {}, name))),
            el("dd", {}, words),
          ]),
        ),
      ),
    ),
  );
  const actions = Object.assign({}, ...table.flatMap(([, rows]) => rows.map(([, , does]) => does)));
  document.addEventListener("keydown", (event) => press(event, actions));
}

function press(event, actions) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const { tagName, type } = event.target,
    typing = tagName === "SELECT" || (tagName === "INPUT" && !["checkbox", "radio"].includes(type));
  if (typing && event.key !== "Escape") return;
  // Buttons and boxes keep what presses them.
  if (["BUTTON", "INPUT", "A", "SUMMARY", "LABEL"].includes(tagName) && ["Enter", " "].includes(event.key)) return;
  if (type === "radio" && event.key.startsWith("Arrow")) return;
  const action = Object.hasOwn(actions, event.key) && actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}
