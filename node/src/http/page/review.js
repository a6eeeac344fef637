// The question before anything is received: from whom, what, and what it takes the place of.

import { ask, el, facts, name } from "./dom.js";
import { bytes, count, short, span } from "./format.js";

/** Resolves with true, false, or null for later. */
export async function askReview(status) {
  const { review, peer } = status;
  const old = review.replaces;
  const from = peer
    ? el("span", {}, name(peer.device_name || "a device without a name"), el("span", { class: "quiet" }, ` …${short(peer.peer_id)}`))
    : "the other device";
  const parts = [count(review.files, "file"), review.dirs && count(review.dirs, "folder"), review.symlinks && count(review.symlinks, "link")];
  const least = old?.is_partial ? "at least " : "";
  const replaced = old
    ? `${least}${count(old.files, "file")}, ${bytes(old.bytes)}; kept for ${span(review.keep_for)}, so that you can roll back`
    : "Nothing: the folder is new or empty";
  const content = [
    facts([
      ["From", from],
      ["Folder", name(review.source_name)],
      ["Contents", `${parts.filter(Boolean).join(", ")}; ${bytes(review.bytes)}`],
      ["Becomes", name(review.target)],
      ["Replaces", replaced],
    ]),
    review.top_names.length > 0 &&
      el("details", {}, el("summary", {}, "At the top of it"), el("ul", { class: "names" }, review.top_names.map((top) => el("li", {}, name(top))))),
    ...review.warnings.map((warning) => el("p", { class: "notice warn" }, name(warning))),
  ].filter(Boolean);
  const answer = await ask(old ? "Replace this folder?" : "Receive this folder?", content, [
    { text: "Later", value: "" },
    { text: "Decline", value: "decline" },
    { text: old ? "Replace it" : "Receive it", value: "accept", kind: "primary" },
  ]);
  return answer === null ? null : answer === "accept";
}
