// One transfer: a card that is made once and then changes, so that focus and readers stay where they are.

import { get, keptOffer, post } from "./api.js";
import { Chart } from "./chart.js";
import { announce, busy, button, confirm, el, name, put, say } from "./dom.js";
import { base, bytes, count, day, isWanted, left, limit, number, phase, rate, reason, short, span } from "./format.js";
import { offerPanel } from "./offer.js";
import { askReview } from "./review.js";

const ENDS = { completed: "good", failed: "bad" };
let ids = 0;

export class TransferCard {
  #chart = new Chart();
  #status = {};
  #record = null;
  #said = "";
  #quarter = 0;
  #offered = null;
  #failuresShown = "";
  #actionsShown = "";
  #host;

  /** `host` hears of what was done here: `changed()`, `dismiss(card)`, `started(answer)`, `rolledBack()`. */
  constructor(host) {
    this.#host = host;
    const id = `transfer-${++ids}`;
    this.title = el("h3", { id, tabindex: "-1" });
    this.who = el("p", { class: "who quiet" });
    this.pill = el("span", { class: "pill", "data-test": "phase" });
    this.bar = el("progress", { "aria-labelledby": id, max: "1" });
    this.figures = el("p", { class: "figures" });
    this.notice = el("div", { hidden: true });
    this.panel = el("div", { hidden: true });
    this.failures = el("details", { class: "failures", hidden: true });
    this.actions = el("div", { class: "actions" });
    this.problem = el("p", { class: "notice bad", role: "alert", hidden: true });
    const head = el("header", {}, el("div", { class: "what" }, this.title, this.who), this.pill);
    const body = [this.bar, this.figures, this.panel, this.#chart.element, this.notice, this.failures, this.problem, this.actions];
    this.element = el("article", { class: "card transfer", "aria-labelledby": id }, head, body);
  }

  /** A job of this run of the node, and its session's record, if there is one. */
  update(status, record) {
    this.#status = status;
    this.#record = record;
    const over = status.outcome;
    this.element.dataset.phase = status.phase;
    this.#head();
    this.#progress();
    if (!over && status.job_id !== null) this.#chart.add(moves(status) ? status.transfer_bps : 0);
    this.#showOffer();
    this.#showNotice();
    this.#showFailures();
    this.#showActions();
    this.#tell();
  }

  #head() {
    const { role, path, peer, source_name } = this.#status;
    const sends = role === "exporter";
    if (this.title.dataset.path !== path) {
      this.title.dataset.path = path;
      put(this.title, el("span", {}, sends ? "Send " : "Receive "), name(base(path)));
    }
    const device = peer?.device_name || (peer ? "a device without a name" : "");
    const key = JSON.stringify([device, peer?.peer_id, source_name, path]);
    if (this.who.dataset.key !== key) {
      this.who.dataset.key = key;
      const whom = device && [sends ? "to " : "from ", name(device), el("span", {}, ` …${short(peer.peer_id)}`), " · "];
      put(this.who, ...(whom || []), name(path));
    }
    const { outcome, waiting } = this.#status;
    const wanted = isWanted(outcome?.code);
    const rests = this.#record && this.#status.job_id === null;
    const asks = this.#status.review && !outcome;
    say(this.pill, wanted ? "Ended" : asks ? "Waiting for your answer" : rests ? recordPhase(this.#record) : phase(this.#status));
    this.pill.className = `pill ${wanted ? "" : ENDS[this.#status.phase] ?? (waiting || rests || asks ? "warn" : "")}`;
  }

  #progress() {
    const status = this.#status;
    const hashes = status.bytes_hashed !== null && status.bytes_hashed !== undefined;
    const done = hashes ? status.bytes_hashed : status.bytes_received;
    const files = hashes ? status.files_hashed : status.files_ok;
    const known = status.files_total > 0;
    const over = status.phase === "completed" || status.phase === "failed";
    this.bar.hidden = over || (status.job_id === null && !known) || waitsForTaker(status) || Boolean(status.review);
    if (!known) this.bar.removeAttribute("value");
    else this.bar.value = status.bytes_total > 0 ? Math.min(1, done / status.bytes_total) : files / status.files_total;
    const parts = [];
    if (known && waitsForTaker(status) && !over) {
      parts.push(`${count(status.files_total, "file")}, ${bytes(status.bytes_total)}`);
    } else if (known && !over) {
      parts.push(`${hashes ? "Read for checking: " : ""}${bytes(done)} of ${bytes(status.bytes_total)}`);
      parts.push(`${number(files)} of ${count(status.files_total, "file")}`);
    }
    if (!over && moves(status) && status.transfer_bps > 0) {
      parts.push(rate(status.transfer_bps));
      if (status.eta_secs !== null && status.eta_secs !== undefined) parts.push(left(status.eta_secs));
    }
    if (!over && status.limit_bps && moves(status)) parts.push(`limited to ${limit(status.limit_bps)}`);
    if (status.retry_round > 0 && !over) parts.push(`round ${status.retry_round}`);
    if (status.outcome?.status === "completed") {
      const { files: all, bytes: size, payload_bytes: sent } = status.outcome;
      parts.push(`${count(all, "file")}, ${bytes(size)}`);
      if (sent < size) parts.push(`${bytes(sent)} over the network, the rest was here`);
    }
    say(this.figures, parts.join(" · "));
    this.figures.hidden = parts.length === 0;
  }

  #showOffer() {
    const status = this.#status;
    const kept = waitsForTaker(status) && !status.outcome ? keptOffer(status.job_id) : null;
    // a code that somebody got wrong is replaced by another one
    const code = status.spoken_code === undefined ? kept?.code : status.spoken_code;
    const offer = kept ? { ...kept, code, burnt: status.codes_burnt ?? 0 } : null;
    const key = offer ? `${offer.ticket_uri} ${offer.code} ${offer.burnt}` : null;
    if (this.#offered !== null && offer?.code && key !== this.#offered) announce(`The code is now ${offer.code}`);
    if (key === this.#offered) return;
    this.#offered = key;
    this.panel.hidden = !offer;
    put(this.panel, offer && offerPanel(offer));
  }

  #showNotice() {
    const { outcome, waiting, review, detail } = this.#status;
    const record = this.#record;
    const lines = [];
    let kind = "";
    if (outcome?.status === "failed") {
      kind = isWanted(outcome.code) ? "" : "bad";
      lines.push(outcome.message, outcome.hint && `Next: ${outcome.hint}`);
    } else if (outcome?.status === "completed") {
      kind = "good";
      if (outcome.unchanged) lines.push("The folder was the same already, to the last bit. Nothing was replaced.");
      else if (outcome.target) lines.push("The new folder is in place.");
      else lines.push("The other device has put it in place.");
      if (record?.state === "rolled_back") lines[0] = "Rolled back: what was there before is in place again.";
      else if (outcome.retained) lines.push(`What it replaced is kept until ${day(outcome.retained_until_ms)}.`);
      lines.push(...(outcome.notes ?? []));
    } else if (waiting) {
      kind = "warn";
      const next = waiting.next_try_in_secs > 0 ? ` Next try in ${span(waiting.next_try_in_secs)}.` : "";
      lines.push(`No connection for ${span(waiting.for_secs)}.${next} Nothing that arrived is lost.`, waiting.reason);
    } else if (review) {
      kind = "warn";
      lines.push(`${count(review.files, "file")}, ${bytes(review.bytes)}. Nothing comes before you have answered.`);
    } else if (this.#status.job_id === null && record) {
      if (record.kept_until_ms) lines.push(`What arrived is kept until ${day(record.kept_until_ms)}. Go on with it on both devices.`);
    } else if (waitsForTaker(this.#status) && !keptOffer(this.#status.job_id)) {
      lines.push("Its ticket was shown where the offer was made. Withdraw it to make a new one here.");
    } else if (detail && this.#status.phase === "manifest_receiving") {
      lines.push(`${detail[0].toUpperCase()}${detail.slice(1)}.`);
    }
    const shown = lines.filter(Boolean);
    const key = JSON.stringify([kind, shown]);
    if (this.notice.dataset.key === key) return;
    this.notice.dataset.key = key;
    this.notice.hidden = shown.length === 0;
    this.notice.className = `notice ${kind}`;
    put(this.notice, ...shown.map((line) => el("p", {}, name(line))));
  }

  #showFailures() {
    const { failures = [], failures_total: total = 0, session_id } = this.#status;
    const key = `${session_id} ${total} ${failures.length}`;
    if (key === this.#failuresShown) return;
    this.#failuresShown = key;
    this.failures.hidden = total === 0;
    const list = el("ul", {});
    const rows = (all) => put(list, ...all.map((one) => el("li", {}, name(one.path, { class: "path" }), el("span", { class: "quiet" }, ` ${reason(one)}`))));
    rows(failures);
    const more = failures.length < total && button(`Show all ${number(total)}`, async () => {
      const answer = await get(`session/failures?session_id=${session_id}&limit=1000`);
      rows(answer.failures);
      more.remove();
    }, "plain");
    put(this.failures, el("summary", {}, `${count(total, "file")} failed`), list, more);
  }

  #showActions() {
    const status = this.#status;
    const record = this.#record;
    const wanted = [];
    if (status.job_id !== null && !status.outcome) {
      if (status.review) wanted.push(["Review…", () => this.review(), "primary"]);
      if (waitsForTaker(status)) wanted.push(["Withdraw", () => this.#abort(true)]);
      else {
        wanted.push(["Pause", () => post("job/suspend", { job_id: status.job_id })]);
        wanted.push(["Abort…", () => this.#abort(false), "danger"]);
      }
    } else {
      if (record?.resumable) {
        const again = record.state === "failed";
        wanted.push([again ? "Retry" : "Resume", () => this.#goOn(again ? "retry" : "resume"), "primary"]);
        wanted.push(["Abort…", () => this.#abort(false), "danger"]);
      }
      if (canRollBack(record)) wanted.push(["Roll back…", () => rollBack(record, this.#host), "danger"]);
      if (status.outcome && !record?.resumable) wanted.push(["Dismiss", () => this.#host.dismiss(this)]);
    }
    const key = JSON.stringify([status.job_id, record?.state, wanted.map(([text]) => text)]);
    if (key === this.#actionsShown) return;
    this.#actionsShown = key;
    const focused = this.actions.contains(document.activeElement);
    put(this.actions, ...wanted.map(([text, act, kind]) => {
      const pressed = button(text, () => this.#do(pressed, act), kind ?? "");
      pressed.dataset.act = text.replace("…", "");
      return pressed;
    }));
    this.actions.hidden = wanted.length === 0;
    if (focused && !this.actions.contains(document.activeElement)) this.title.focus();
  }

  #do(pressed, act) {
    this.problem.hidden = true;
    return busy(pressed, (error) => this.#fail(error), act);
  }

  #fail(error) {
    put(this.problem, name(error.message), error.hint && el("span", {}, ` Next: ${error.hint}.`));
    this.problem.hidden = false;
  }

  /** Shows what will come, and hands the answer on. */
  async review() {
    const answer = await askReview(this.#status);
    if (answer === null) return;
    try {
      await post("job/decide", { job_id: this.#status.job_id, accept: answer });
    } catch (error) {
      this.#fail(error);
    }
  }

  async #abort(untaken) {
    const status = this.#status;
    if (!untaken) {
      const gone = status.role === "importer" ? "What has arrived is deleted, and the folder stays as it is." : "The other device keeps its folder as it is.";
      if (!(await confirm("End this transfer for good?", el("p", {}, gone), "End it"))) return;
    }
    // a job that looks for its peer has no session yet: it has nothing to keep either
    if (status.session_id) await post("session/abort", { session_id: status.session_id });
    else await post("job/suspend", { job_id: status.job_id });
    this.#host.changed();
  }

  async #goOn(how) {
    const answer = await post(`session/${how}`, { session_id: this.#status.session_id ?? this.#record.session_id });
    this.#host.started(answer);
  }

  #tell() {
    const text = this.pill.textContent;
    const what = base(this.#status.path);
    if (text !== this.#said) {
      // what was there when the page opened is no news
      if (this.#said) announce(`${what}: ${text}`);
      this.#said = text;
    }
    const part = this.bar.hidden || !moves(this.#status) ? 0 : Math.floor(this.bar.value * 4);
    if (part > this.#quarter) announce(`${what}: ${part * 25} percent`);
    this.#quarter = part;
  }
}

function moves(status) {
  // while nobody has taken the offer its files are read for their hashes, which is not what it waits for
  if (waitsForTaker(status)) return false;
  const hashes = status.bytes_hashed !== null && status.bytes_hashed !== undefined;
  return hashes || status.phase === "bulk_transferring" || status.phase === "retrying_failed";
}

function waitsForTaker(status) {
  return status.role === "exporter" && status.job_id !== null && !status.peer && !status.waiting;
}

function recordPhase(record) {
  return record.state === "failed" ? "Failed; can be tried again" : "Interrupted";
}

export function canRollBack(record) {
  return record?.role === "importer" && (record.state === "swapped" || record.state === "committed");
}

/** Asks, then brings back what the migration of this record replaced. */
export async function rollBack(record, host) {
  const text = record.target_existed === false
    ? ["There was nothing before: the folder ", name(record.path), " goes away."]
    : ["What was in ", name(record.path), " before comes back, in one step."];
  const kept = el("p", { class: "quiet" }, "What is there now is kept beside it for some days.");
  if (!(await confirm("Roll back this migration?", [el("p", {}, text), kept], "Roll back"))) return;
  await post("session/rollback", { target_path: record.path, session_id: record.session_id });
  announce(`${base(record.path)}: rolled back`);
  host.rolledBack();
}
