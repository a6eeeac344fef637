// The rate of one transfer over time, as SVG.

import { el, say, svg } from "./dom.js";
import { rate, span } from "./format.js";

const WIDTH = 600;
const HEIGHT = 96;
// more are joined two by two, so that a day fits as well as a minute
const MOST = 240;

export class Chart {
  #points = [];
  #each = 1;
  #pending = [];
  #began = 0;
  #ended = 0;
  #area = svg("path", { class: "area" });
  #line = svg("path", { class: "line" });
  #now = el("span", { class: "figure" });
  #peak = el("span", { class: "quiet" });
  #since = el("span");
  #picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });

  constructor() {
    const lines = [0.25, 0.5, 0.75].map((part) =>
      svg("line", { class: "grid", x1: "0", x2: `${WIDTH}`, y1: `${HEIGHT * part}`, y2: `${HEIGHT * part}` }),
    );
    this.#picture.append(...lines, this.#area, this.#line);
    this.element = el(
      "figure",
      { class: "chart", hidden: true },
      el("figcaption", {}, el("span", {}, "Rate ", this.#now), this.#peak),
      this.#picture,
      el("div", { class: "axis quiet", "aria-hidden": "true" }, this.#since, el("span", {}, "now")),
    );
  }

  /** A rate in bytes a second, measured now. */
  add(bps) {
    const now = Date.now();
    if (this.#points.length === 0 && this.#pending.length === 0) {
      if (bps === 0) return;
      this.#began = now;
    }
    this.#ended = now;
    this.#pending.push(bps);
    if (this.#pending.length >= this.#each) {
      this.#points.push(mean(this.#pending));
      this.#pending = [];
    }
    if (this.#points.length >= MOST) {
      const halved = [];
      for (let at = 0; at + 1 < this.#points.length; at += 2) halved.push(mean(this.#points.slice(at, at + 2)));
      this.#points = halved;
      this.#each *= 2;
    }
    this.#draw(bps);
  }

  #draw(bps) {
    const points = [...this.#points, ...this.#pending.slice(-1)];
    if (points.length < 2) return;
    const peak = Math.max(...points);
    const top = Math.max(peak * 1.15, 1);
    const step = WIDTH / (points.length - 1);
    const at = points.map((value, n) => `${(n * step).toFixed(1)} ${(HEIGHT - (value / top) * HEIGHT).toFixed(1)}`);
    this.#line.setAttribute("d", `M${at.join("L")}`);
    this.#area.setAttribute("d", `M0 ${HEIGHT}L${at.join("L")}L${WIDTH} ${HEIGHT}Z`);
    const time = span((this.#ended - this.#began) / 1000);
    say(this.#now, rate(bps));
    say(this.#peak, `highest ${rate(peak)}`);
    say(this.#since, `${time} ago`);
    this.#picture.setAttribute("aria-label", `Rate over ${time}: now ${rate(bps)}, highest ${rate(peak)}`);
    this.element.hidden = false;
  }
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
