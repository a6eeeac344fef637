// Questions to the node. The token of the login is kept for this tab and this origin; another port is another origin.

const BASE = "/me/sync/v4/";
const KEY = "me-sync-token";
const OFFERS = "me-sync-offers";

/** What the node refused: `code`, `message`, and `hint` with what to do next. */
export class Refused extends Error {
  constructor(status, body) {
    super(body.message ?? `the node answered with ${status}`);
    this.status = status;
    this.code = body.code ?? "";
    this.hint = body.hint ?? "";
  }
}

/** The node did not answer. */
export class Unreachable extends Error {
  constructor() {
    super("the node does not answer");
    this.hint = "is it running? start it with `me-sync node`";
  }
}

let signedOut = () => {};

/** Whom to tell when the token is good no more. */
export function onSignedOut(tell) {
  signedOut = tell;
}

export function headers() {
  return { Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
}

export function isSignedIn() {
  return sessionStorage.getItem(KEY) !== null;
}

/** Uses up the key of a link. */
export async function login(key) {
  sessionStorage.removeItem(KEY);
  sessionStorage.removeItem(OFFERS);
  const answer = await ask("dashboard/login", { method: "POST", headers: { Authorization: `Bearer ${key}` } });
  sessionStorage.setItem(KEY, answer.token);
}

export async function logout() {
  try {
    await post("dashboard/logout");
  } finally {
    forget();
  }
}

export function forget() {
  sessionStorage.removeItem(KEY);
  sessionStorage.removeItem(OFFERS);
}

export function get(route) {
  return ask(route, { headers: headers() });
}

export function post(route, body) {
  const sent = body === undefined ? {} : { body: JSON.stringify(body) };
  return ask(route, { method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, ...sent });
}

async function ask(route, options) {
  let answer;
  try {
    answer = await fetch(route.startsWith("/") ? route : BASE + route, { ...options, credentials: "omit", cache: "no-store" });
  } catch {
    throw new Unreachable();
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const refused = new Refused(answer.status, body);
  if (refused.status === 401) {
    forget();
    signedOut();
  }
  throw refused;
}

/** The ticket of an offer is told once; it is kept for a reload of this tab. */
export function keepOffer(offer) {
  const kept = { ...offers(), [offer.job_id]: { ticket_uri: offer.ticket_uri, qr: offer.qr, code: offer.code, expires_at: offer.expires_at } };
  sessionStorage.setItem(OFFERS, JSON.stringify(kept));
}

export function keptOffer(job) {
  return offers()[job];
}

export function forgetOffer(job) {
  const { [job]: _, ...rest } = offers();
  sessionStorage.setItem(OFFERS, JSON.stringify(rest));
}

function offers() {
  try {
    return JSON.parse(sessionStorage.getItem(OFFERS) ?? "{}");
  } catch {
    return {};
  }
}
