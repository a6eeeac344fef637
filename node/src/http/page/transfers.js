// All that is under way, has just ended, or can be gone on with.

import { forgetOffer, get, keepOffer } from "./api.js";
import { el, put } from "./dom.js";
import { TransferCard } from "./transfer.js";

const NONE = { failures: [], total: 0 };

export class Transfers {
  #jobs = new Map();
  #records = [];
  #cards = new Map();
  // jobs that ran while this page looked on
  #watched = new Set();
  #dismissed = new Set();
  // jobs that were begun here: their questions are asked at once
  #mine = new Set();
  #asking = new Map();
  // of sessions that failed in an earlier run or before this page was opened
  #failures = new Map();
  #list = el("div", { class: "stack" });
  #empty = el("p", { class: "empty quiet" }, "Nothing is under way.");
  #reload;

  constructor(root, reload) {
    this.#reload = reload;
    put(root, this.#empty, this.#list);
  }

  /** Everything anew. */
  set(jobs, records) {
    const known = new Set(jobs.map((job) => job.job_id));
    for (const id of this.#jobs.keys()) if (!known.has(id)) this.#jobs.delete(id);
    for (const job of jobs) this.#take(job);
    this.#records = records;
    this.#show();
    this.#findFailures();
  }

  async #findFailures() {
    const failed = this.#records.filter((record) => record.resumable && record.state === "failed");
    for (const { session_id: id } of failed) {
      if (this.#failures.has(id)) continue;
      this.#failures.set(id, await get(`session/failures?session_id=${id}&limit=100`));
      this.#show();
    }
  }

  /** Sessions that have a card, so that the history can leave them out. */
  sessions() {
    return new Set([...this.#visible()].map(([, { status }]) => status.session_id).filter(Boolean));
  }

  /** An event of the node. */
  async hear(kind, event) {
    const known = this.#jobs.get(event.job_id);
    if (known && !known.outcome) {
      const { status: _, code: __, needs_decision: ___, ...news } = event;
      // the view of a job knows its end only with all of it
      if (kind !== "ended") Object.assign(known, news, event.needs_decision ? {} : { review: null });
      this.#show();
    }
    const more = !known || kind === "ended" || (event.needs_decision && !known.review) || known.failures.length !== Math.min(100, event.failures_total);
    if (more) await this.#fetch(event.job_id);
    if (kind === "ended") {
      forgetOffer(event.job_id);
      await this.#reload();
    }
  }

  /** A job that was begun here. */
  async begun(answer) {
    if (answer.ticket_uri) keepOffer(answer);
    if (answer.offer) keepOffer(answer.offer);
    if (answer.job_id === null || answer.job_id === undefined) return this.#reload();
    this.#mine.add(answer.job_id);
    await this.#fetch(answer.job_id);
    this.#cards.get(`job ${answer.job_id}`)?.title.focus();
  }

  /** Asks for all of a job. Who asks while that is under way waits for one more answer. */
  #fetch(id) {
    const under = this.#asking.get(id);
    if (under) {
      under.again = true;
      return under.answered;
    }
    const asking = { again: false };
    const ask = async () => {
      try {
        do {
          asking.again = false;
          this.#take(await get(`job/status?job_id=${id}`));
          this.#show();
        } while (asking.again);
      } catch (error) {
        if (error.status !== 404) throw error;
      } finally {
        this.#asking.delete(id);
      }
    };
    this.#asking.set(id, asking);
    asking.answered = ask();
    return asking.answered;
  }

  #take(job) {
    const known = this.#jobs.get(job.job_id);
    if (known && known.version > job.version) return;
    this.#jobs.set(job.job_id, job);
    if (!job.outcome) this.#watched.add(job.job_id);
  }

  *#visible() {
    const taken = new Set();
    const jobs = [...this.#jobs.values()].sort((one, other) => other.job_id - one.job_id);
    for (const status of jobs) {
      const stays = !status.outcome || this.#watched.has(status.job_id) || this.#mine.has(status.job_id);
      const repeated = status.outcome && status.session_id && taken.has(status.session_id);
      if (!stays || repeated) continue;
      if (status.session_id) taken.add(status.session_id);
      if (this.#dismissed.has(status.job_id)) continue;
      const record = this.#record(status.session_id);
      // somebody has paused it: that is no failure
      const rests = status.outcome?.code === "node_stopping" && record?.resumable;
      yield [`job ${status.job_id}`, { status: rests ? asStatus(record, NONE) : status, record }];
    }
    for (const record of this.#records) {
      if (!record.resumable || taken.has(record.session_id)) continue;
      const failed = this.#failures.get(record.session_id) ?? NONE;
      yield [`session ${record.session_id}`, { status: asStatus(record, failed), record }];
    }
  }

  #record(session) {
    return this.#records.find((record) => record.session_id === session) ?? null;
  }

  #show() {
    const wanted = new Map(this.#visible());
    for (const [key, card] of this.#cards) {
      if (wanted.has(key)) continue;
      card.element.remove();
      this.#cards.delete(key);
    }
    let before = null;
    for (const [key, { status, record }] of wanted) {
      let card = this.#cards.get(key);
      if (!card) {
        card = new TransferCard({
          changed: () => this.#reload(),
          rolledBack: () => this.#reload(),
          started: (answer) => this.begun(answer),
          dismiss: () => this.#dismiss(key, status.job_id),
        });
        this.#cards.set(key, card);
      }
      card.update(status, record);
      const place = before ? before.nextSibling : this.#list.firstChild;
      if (place !== card.element) this.#list.insertBefore(card.element, place);
      before = card.element;
      this.#askOnce(card, status);
    }
    this.#empty.hidden = wanted.size > 0;
  }

  #askOnce(card, status) {
    if (!status.review || !this.#mine.has(status.job_id) || document.querySelector("dialog[open]")) return;
    this.#mine.delete(status.job_id);
    this.#watched.add(status.job_id);
    card.review();
  }

  #dismiss(key, job) {
    this.#dismissed.add(job);
    const cards = [...this.#cards.keys()];
    const next = this.#cards.get(cards[cards.indexOf(key) + 1]) ?? null;
    this.#reload();
    (next?.title ?? document.getElementById("main")).focus();
  }
}

/** What is on record only, in the shape of a job's view. */
function asStatus(record, failed) {
  return {
    job_id: null,
    session_id: record.session_id,
    role: record.role,
    path: record.path,
    phase: "waiting_for_peer",
    files_ok: record.files_ok ?? 0,
    files_total: record.files,
    bytes_received: record.bytes_ok ?? 0,
    bytes_total: record.bytes,
    bytes_hashed: null,
    transfer_bps: 0,
    retry_round: 0,
    peer: { device_name: record.device_name, peer_id: record.peer_id },
    failures: failed.failures,
    failures_total: failed.total,
    outcome: null,
  };
}
