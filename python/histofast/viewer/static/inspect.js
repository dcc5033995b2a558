// The patch that was picked: its pixels, where it lies, where it ranks, and those most like it.

import * as api from "./api.js";
import { byId, count, el, fill, ordinal, say, share } from "./words.js";

const NEAREST = 24;

export class Inspector {
  constructor(app) {
    this.app = app;
    this.scope = "slide";
    this.clear();
  }

  clear() {
    this.row = -1;
    byId("patch-hint").hidden = false;
    byId("patch-body").hidden = true;
  }

  // Show row `row` of the slide `info`; the place is the overlay's.
  async pick(info, row) {
    this.row = row;
    this.info = info;
    try {
      const patch = await api.patch(info.id, row);
      if (this.row !== row || this.info !== info) return;
      byId("patch-hint").hidden = true;
      byId("patch-body").hidden = false;
      fill(
        byId("patch-body"),
        this.head(patch),
        ...(patch.notes || []).map((note) => el("p", { class: "note" }, note)),
        this.ranks(patch),
        this.nearest(),
      );
      this.app.announce(
        `patch ${count(row)}, ${patch.ranks
          .map((r) => `${r.name} ${ordinal(r.rank)} of ${count(r.of)}`)
          .slice(0, 2)
          .join(", ")}`,
      );
      await this.findNearest();
    } catch (error) {
      this.app.warn(error.message);
    }
  }

  head(patch) {
    const { info } = this;
    const picture =
      patch.pixels === null
        ? el("p", { class: "note" }, "its pixels cannot be shown")
        : el("img", {
            id: "patch-picture",
            src: api.patchUrl(info.id, patch.row),
            alt: `patch ${patch.row} as the encoder saw it`,
            width: info.patches.patch_px ?? 224,
            height: info.patches.patch_px ?? 224,
          });
    const um = (v) => (v === null || v === undefined ? null : `${say(v)} µm`);
    const facts = [
      ["Row", count(patch.row)],
      ["x, y px", `${count(patch.x)}, ${count(patch.y)}`],
      patch.x_um !== null && ["x, y µm", `${count(patch.x_um)}, ${count(patch.y_um)}`],
      ["Side", [um(patch.side_um), info.patches.patch_px && `${info.patches.patch_px} px`].filter(Boolean).join(", ")],
      patch.tissue_fraction !== null && patch.tissue_fraction !== undefined && ["Tissue", share(patch.tissue_fraction)],
      patch.label && ["Label", patch.label],
      patch.prediction && [
        "Prediction",
        `${patch.prediction.class} ${share(Math.max(...[patch.prediction.p].flat()))}`,
      ],
      patch.unreadable && ["Pixels", "not all could be read"],
      patch.pixels === "region" && ["Pixels", "of the slide: the encoder's own are not known"],
    ].filter(Boolean);
    return el(
      "div",
      { class: "head" },
      picture,
      el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    );
  }

  ranks(patch) {
    if (!patch.ranks.length) return null;
    return el(
      "table",
      { class: "ranks" },
      el("caption", { class: "unseen" }, "Where this patch ranks in its slide"),
      el("thead", {}, el("tr", {}, ...["Layer", "Value", "Rank"].map((name) => el("th", { scope: "col" }, name)))),
      el(
        "tbody",
        {},
        ...patch.ranks.map((r) =>
          el(
            "tr",
            { class: r.layer === this.app.pane.layer ? "current" : "" },
            el("th", { scope: "row" }, r.name),
            el("td", {}, say(r.value)),
            el(
              "td",
              { "data-layer": r.layer },
              r.rank === null ? "none" : `${ordinal(r.rank)} of ${count(r.of)}`,
              bar(r),
            ),
          ),
        ),
      ),
    );
  }

  nearest() {
    const scopes = el(
      "div",
      { class: "choice", role: "radiogroup", "aria-label": "Where to look" },
      ...["slide", "cohort"].map((scope) => {
        const radio = el("input", { type: "radio", name: "scope", value: scope, checked: scope === this.scope });
        radio.onchange = () => {
          this.scope = scope;
          this.findNearest();
        };
        return el("label", {}, radio, el("span", {}, scope === "slide" ? "This slide" : "All slides"));
      }),
    );
    scopes.hidden = !this.app.session.cohort;
    return el(
      "div",
      { id: "nearest" },
      el("h3", {}, "Most similar patches"),
      scopes,
      el("p", { id: "nearest-said", class: "note", role: "status" }, "looking …"),
      el("ul", { id: "nearest-list" }),
    );
  }

  async findNearest() {
    const { row, info } = this,
      scope = this.app.session.cohort ? this.scope : "slide";
    byId("nearest-said").textContent = "looking …";
    const found = await api
      .similar(info.id, row, scope, NEAREST)
      .catch((error) => ({ items: [], error: error.message }));
    if (this.row !== row || this.info !== info || !byId("nearest-said")) return;
    byId("nearest-said").textContent =
      found.error ||
      `${found.same_slide} of ${found.items.length} from this slide, of ${count(found.searched)} patches searched; by cosine of features`;
    fill(byId("nearest-list"), ...found.items.map((item) => this.neighbour(item)));
    this.app.showNear(found.items.filter((item) => item.slide === info.id).map((item) => item.row));
  }

  neighbour(item) {
    const here = item.slide === this.info.id,
      where = here ? `patch ${item.row}` : `${item.name}, patch ${item.row}`;
    return el(
      "li",
      {},
      el(
        "button",
        {
          title: where,
          "aria-label": `${where}, cosine ${item.cosine.toFixed(3)}`,
          onclick: () => this.app.jump(item.slide, item.row),
        },
        el("img", { src: api.patchUrl(item.slide, item.row), alt: "", loading: "lazy" }),
        el("span", {}, item.cosine.toFixed(3)),
        here ? null : el("span", { class: "other" }, item.name),
      ),
    );
  }
}

function bar({ rank, of }) {
  // how high, as a length
  if (rank === null) return "";
  const made = el("span", { class: "bar", "aria-hidden": "true" });
  made.style.setProperty("--share", of > 1 ? (of - rank) / (of - 1) : 1);
  return made;
}
