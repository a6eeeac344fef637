// Elements from data. Data become text nodes and attributes, never markup.

import { visible } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

/** An element: `el("p", { class: "quiet", onclick: f }, "text", child)`. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same in SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && typeof value !== "string") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A name or path that comes from a disk or another device: what cannot be seen is made visible, and it stays apart. */
export function name(text, attributes = {}) {
  return el("bdi", attributes, visible(text));
}

/** Sets a text if it is another one, so that a reader hears of what has changed only. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Puts children in place of what was there. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat().filter(Boolean));
}

export function button(text, onclick, kind = "") {
  return el("button", { type: "button", class: kind, onclick }, text);
}

/** Runs an action with its button busy; what goes wrong is shown by `fail`. */
export async function busy(pressed, fail, action) {
  if (pressed.getAttribute("aria-disabled") === "true") return;
  pressed.setAttribute("aria-disabled", "true");
  try {
    await action();
  } catch (error) {
    fail(error);
  } finally {
    pressed.removeAttribute("aria-disabled");
  }
}

/** Tells everybody, also those who do not look. */
export function announce(text) {
  say(document.getElementById("announce"), text);
}

let dialogs = 0;

/**
 * A modal dialog. Resolves with the value of the button that was pressed, or with null. The browser keeps the focus inside
 * and gives it back.
 */
export function ask(title, content, choices) {
  return new Promise((resolve) => {
    const id = `dialog-${++dialogs}`;
    const buttons = choices.map(({ text, value, kind }) => button(text, () => dialog.close(value), kind ?? ""));
    const heading = el("h2", { id, tabindex: "-1" }, title);
    const dialog = el("dialog", { "aria-labelledby": id }, heading, el("div", { class: "content" }, content), el("div", { class: "actions end" }, buttons));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue || null);
    });
    document.body.append(dialog);
    dialog.showModal();
    heading.focus();
  });
}

/** A question that is answered with yes or no. */
export async function confirm(title, content, yes, kind = "danger") {
  const choices = [{ text: "Cancel", value: "" }, { text: yes, value: "yes", kind }];
  return (await ask(title, content, choices)) === "yes";
}

/** A list of terms and what they are. */
export function facts(pairs) {
  const rows = pairs.filter(([, value]) => value !== null && value !== undefined);
  return el("dl", { class: "facts" }, rows.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))));
}
