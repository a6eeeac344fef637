// What the other device needs to take an offer: a code to be spoken, a QR code, the ticket.

import { button, el, say } from "./dom.js";
import { span } from "./format.js";

/** The panel of one offer, with a clock that runs until `element` leaves the page. */
export function offerPanel(offer) {
  const time = el("p", { class: "quiet" });
  const ticket = el("textarea", { readOnly: true, rows: "3", spellcheck: "false", class: "ticket", "data-test": "ticket" });
  ticket.value = offer.ticket_uri;
  ticket.addEventListener("focus", () => ticket.select());
  const copy = button("Copy the ticket", async () => {
    try {
      await navigator.clipboard.writeText(offer.ticket_uri);
      say(copy, "Copied");
    } catch {
      ticket.focus();
      say(copy, "Selected: press Ctrl+C");
    }
    setTimeout(() => say(copy, "Copy the ticket"), 3000);
  });
  const code = offer.code && [
    el("p", { class: "quiet" }, "Say this code to whoever is at the other device:"),
    el("p", { class: "code", "data-test": "code" }, offer.code),
    offer.burnt > 0 && el("p", { class: "notice warn" }, `A wrong code was tried ${offer.burnt === 1 ? "once" : `${offer.burnt} times`}, so this is a new one.`),
  ];
  const label = el("label", {}, offer.code ? "or give it this ticket" : "Ticket for the other device", ticket);
  const words = el("div", { class: "words" }, code, label, el("div", { class: "actions" }, copy), time);
  const picture = offer.qr && el("img", { class: "qr", src: offer.qr, alt: "The ticket as a QR code", width: "184", height: "184" });
  const element = el("div", { class: "offer" }, picture, words);
  const tick = () => {
    const rest = (offer.expires_at - Date.now()) / 1000;
    const text = `It works once, and for ${span(rest)} more. Keep it secret: whoever has it gets the folder.`;
    say(time, rest > 0 ? text : "Its time is over. Withdraw this offer and make another one.");
  };
  tick();
  const clock = setInterval(() => (element.isConnected ? tick() : clearInterval(clock)), 1000);
  return element;
}
