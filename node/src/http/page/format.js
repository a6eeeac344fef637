// Figures, times and names as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
// control characters, what turns the direction of text, and what has no width
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

export function visible(text) {
  return String(text ?? "").replace(UNSEEN, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

export function number(n) {
  return Number(n).toLocaleString("en");
}

export function count(n, one, many = `${one}s`) {
  return `${number(n)} ${n === 1 ? one : many}`;
}

export function bytes(n) {
  let unit = 0;
  let value = Number(n);
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export function rate(bps) {
  return `${bytes(bps)}/s`;
}

/** A limit, in the unit in which it is set. */
export function limit(bps) {
  return `${Number((bps / 1e6).toPrecision(3))} MB/s`;
}

/** A span in seconds, of two parts at most. */
export function span(secs) {
  const s = Math.max(0, Math.round(secs));
  const two = (one, other, unit) => (other === 0 ? one : `${one} ${other} ${unit}`);
  if (s < 60) return `${s} s`;
  if (s < 3600) return two(`${Math.floor(s / 60)} min`, s % 60, "s");
  if (s < 86400) return two(`${Math.floor(s / 3600)} h`, Math.floor((s % 3600) / 60), "min");
  return two(count(Math.floor(s / 86400), "day"), Math.floor((s % 86400) / 3600), "h");
}

/** The same for people who wait: no seconds where minutes count. */
export function left(secs) {
  if (secs < 5) return "a few seconds left";
  if (secs < 60) return `about ${Math.ceil(secs / 5) * 5} s left`;
  if (secs < 3600) return `about ${Math.ceil(secs / 60)} min left`;
  return `about ${span(Math.ceil(secs / 60) * 60)} left`;
}

const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

export function moment(ms) {
  if (!ms) return "";
  const today = new Date().toDateString() === new Date(ms).toDateString();
  return today ? `Today, ${TIME.format(ms)}` : MOMENT.format(ms);
}

export function day(ms) {
  return DAY.format(ms);
}

/** The last part of a path. */
export function base(path) {
  return String(path).replace(/\/+$/, "").split("/").pop() || String(path);
}

/** Enough of an id to tell devices apart. */
export function short(id) {
  return String(id ?? "").slice(-8);
}

const REASONS = {
  io_error: "could not be read or written",
  hash_mismatch: "arrived with other contents than promised",
  size_mismatch: "has another size than promised",
  timeout: "made no progress in time",
  protocol_error: "was not sent as promised",
};

const CODES = {
  source_changed: "it changed while it was sent",
  source_unreadable: "it cannot be read on the sending device",
  no_space: "there is no space left",
  path_collision: "its name clashes with another one here",
};

export function reason(failure) {
  const finer = failure.code && failure.code !== failure.reason ? CODES[failure.code] ?? failure.code.replaceAll("_", " ") : "";
  return (REASONS[failure.reason] ?? String(failure.reason).replaceAll("_", " ")) + (finer ? ` (${finer})` : "");
}

const PHASES = {
  nearby_connecting: ["Waiting for the other device", "Looking for the other device"],
  waiting_for_peer: ["Connection lost; waiting", "Connection lost; trying again"],
  manifest_receiving: ["Telling what there is", "Reading what will come"],
  bulk_transferring: ["Sending", "Receiving"],
  retrying_failed: ["Sending failed files again", "Trying failed files again"],
  final_verifying: ["The other device checks everything", "Checking everything"],
  applying: ["The other device puts it in place", "Putting it in place"],
  restarting_runtime: ["The other device finishes", "Running what follows"],
  completed: ["Sent", "Received"],
  failed: ["Not sent", "Not received"],
};

export function phase(status) {
  return (PHASES[status.phase] ?? [status.phase, status.phase])[status.role === "exporter" ? 0 : 1];
}

const STATES = {
  running: "Under way",
  interrupted: "Interrupted",
  failed: "Failed",
  completed: "Done",
  ended: "Ended",
  receiving: "Interrupted",
  verified: "Interrupted",
  swap_intent: "Being put in place",
  swapped: "Done",
  committed: "Done",
  rollback_intent: "Being rolled back",
  rolled_back: "Rolled back",
  cleaned: "Over; nothing is kept",
};

// ends that somebody wanted
const WANTED = ["aborted", "declined"];

export function isWanted(code) {
  return WANTED.includes(code);
}

export function state(known) {
  if (known.state === "failed" && isWanted(known.code)) return "Ended";
  return STATES[known.state] ?? known.state;
}
