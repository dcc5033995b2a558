// The list of slides: those in error first, found by name, label or prediction.

import { slide, tileUrl } from "./api.js";
import { byId, count, el, fill, plural, share } from "./words.js";

export class SlideList {
  constructor(slides, open) {
    Object.assign(this, { slides, open, current: -1 });
    this.rows = new Map(slides.map((slide) => [slide.id, this.row(slide)]));
    this.input = byId("search");
    this.input.oninput = () => this.filter();
    this.input.onkeydown = (event) => this.step(event, -1);
    this.waiting = new Set();
    this.seen = new IntersectionObserver((entries) => this.want(entries), { root: byId("list") });
    this.filter();
  }

  row(slide) {
    const picture = el("span", { class: "thumb" });
    const row = el("button", { onclick: () => this.open(slide.id) }, picture);
    row.onkeydown = (event) => this.step(event, this.shown.indexOf(slide));
    return this.tell(Object.assign(row, { slide, picture }));
  }

  tell(row) {
    const { name, error, patches, label, prediction: said } = row.slide;
    row.className = error ? "slide failed" : "slide";
    row.about?.remove();
    const isWrong = said && label !== null && said.class !== label;
    const facts = [
      patches === null ? null : plural(patches, "patch"),
      label === null ? null : el("span", { class: "label" }, label),
      said && el("span", { class: isWrong ? "said wrong" : "said" }, `${said.class} ${share(highest(said))}`),
    ];
    const more = error ? el("span", { class: "error", title: error }, error) : el("span", { class: "facts" }, ...facts);
    row.about = el("span", { class: "about" }, el("span", { class: "name", title: name }, name), more);
    row.append(row.about);
    return row;
  }

  step(event, at) {
    // arrows walk the list
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const next = this.shown[at + by];
    (next ? this.rows.get(next.id) : this.input).focus();
  }

  // What was not known before somebody looked at the slide: its error, its number of patches.
  learn(id, facts) {
    const row = this.rows.get(id);
    if (Object.entries(facts).every(([name, value]) => row.slide[name] === value)) return;
    Object.assign(row.slide, facts);
    this.tell(row);
    if (facts.error) this.filter(); // it comes first now
  }

  filter() {
    const failed = (slide) => (slide.error ? 0 : 1);
    this.sorted = [...this.slides].sort((a, b) => failed(a) - failed(b) || a.id - b.id);
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = ({ name, label, prediction, error }) =>
      [name, label, prediction?.class, error && "error"].join(" ").toLowerCase();
    this.shown = this.sorted.filter((slide) => words.every((word) => text(slide).includes(word)));
    const focused = document.activeElement;
    fill(byId("list"), ...this.shown.map((slide) => el("li", {}, this.rows.get(slide.id))));
    if (byId("list").contains(focused)) focused.focus({ preventScroll: true }); // it was out of the page for a moment
    const broken = this.slides.filter((slide) => slide.error).length,
      all = plural(this.slides.length, "slide");
    byId("found").textContent = words.length
      ? `${count(this.shown.length)} of ${all}`
      : all + (broken ? `, ${count(broken)} in error` : "");
  }

  mark(id) {
    this.current = id;
    for (const row of this.rows.values()) row.setAttribute("aria-current", row.slide.id === id);
    this.rows.get(id)?.scrollIntoView({ block: "nearest" });
  }

  neighbour(id, by) {
    // id of the next one that can be opened, as the list stands
    const open = this.shown.filter((slide) => !slide.error || slide.id === id);
    return open[open.findIndex((slide) => slide.id === id) + by]?.id;
  }

  // Small pictures come one at a time, once the slide itself is there, and only of rows in sight.
  pictures() {
    for (const row of this.rows.values()) if (!row.slide.error) this.seen.observe(row);
  }

  want(entries) {
    for (const { target, isIntersecting } of entries)
      isIntersecting ? this.waiting.add(target) : this.waiting.delete(target);
    this.next();
  }

  next() {
    const [row] = this.waiting;
    if (!row || this.loading) return;
    this.waiting.delete(row);
    this.seen.unobserve(row);
    this.loading = el("img", { alt: "", src: tileUrl(row.slide.id, 0, 0, 0) });
    this.loading.onload = () => row.picture.append(this.loading);
    const done = () => {
      this.loading = null;
      this.next();
    };
    this.loading.addEventListener("load", done);
    this.loading.addEventListener("error", async () => {
      const info = await slide(row.slide.id).catch((error) => ({ error: error.message }));
      if (info.error) this.learn(row.slide.id, { error: info.error });
      done();
    });
  }
}

export const highest = ({ p }) => (Array.isArray(p) ? Math.max(...p) : p);
