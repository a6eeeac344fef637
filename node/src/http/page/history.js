// What there was, the newest first, and the way back.

import { busy, button, el, name, put } from "./dom.js";
import { base, bytes, count, day, isWanted, moment, short, state } from "./format.js";
import { canRollBack, rollBack } from "./transfer.js";

const FEW = 10;
const GOOD = ["completed", "swapped", "committed", "cleaned"];

export class History {
  #root;
  #reload;
  #shown = "";
  #all = false;
  #problem = el("p", { class: "notice bad", role: "alert", hidden: true });

  constructor(root, reload) {
    this.#root = root;
    this.#reload = reload;
  }

  /** Those of `except` are shown elsewhere; `total` counts what is on record. */
  set(records, except, total) {
    // only the last migration into a folder can be undone
    const latest = new Map();
    for (const record of records) if (canRollBack(record) && !latest.has(record.path)) latest.set(record.path, record.session_id);
    const over = records.filter((record) => !record.unfinished && !except.has(record.session_id));
    const few = this.#all ? over : over.slice(0, FEW);
    const key = JSON.stringify([few, over.length, total]);
    if (key === this.#shown) return;
    this.#shown = key;
    if (over.length === 0) return put(this.#root, el("p", { class: "empty quiet" }, "Nothing yet."));
    const rows = few.map((record) => this.#row(record, latest.get(record.path) === record.session_id));
    const more = over.length > few.length && button(`Show all ${over.length}`, () => {
      this.#all = true;
      this.set(records, except, total);
    }, "plain");
    const older = this.#all && total > records.length && el("p", { class: "quiet" }, `${count(total - records.length, "older one")}: `, el("code", {}, "me-sync sessions"));
    put(this.#root, el("ul", { class: "card history" }, rows), this.#problem, more, older);
  }

  #row(record, isLast) {
    const sends = record.role === "exporter";
    const device = record.device_name || "a device without a name";
    const back = isLast && button("Roll back…", () => busy(back, (error) => this.#fail(error), () => rollBack(record, { rolledBack: this.#reload })), "small");
    back && back.setAttribute("aria-label", `Roll back ${base(record.path)}`);
    const kind = GOOD.includes(record.state) ? "good" : record.state === "failed" && !isWanted(record.code) ? "bad" : "";
    const until = isLast && record.retained_until_ms ? `, can be rolled back until ${day(record.retained_until_ms)}` : "";
    const why = record.code && !GOOD.includes(record.state) ? ` (${record.code.replaceAll("_", " ")})` : "";
    const size = record.files > 0 ? ` · ${count(record.files, "file")}, ${bytes(record.bytes)}` : "";
    return el(
      "li",
      {},
      el("div", { class: "what" },
        el("p", { class: "title" }, sends ? "Sent " : "Received ", name(base(record.path))),
        el("p", { class: "quiet" }, sends ? "to " : "from ", name(device), el("span", {}, ` …${short(record.peer_id)}`), ` · ${moment(record.updated_ms)}${size}${until}`),
      ),
      el("span", { class: `pill ${kind}` }, state(record) + why),
      back,
    );
  }

  #fail(error) {
    put(this.#problem, name(error.message), error.hint && el("span", {}, ` Next: ${error.hint}.`));
    this.#problem.hidden = false;
  }
}
