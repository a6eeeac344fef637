// The two forms: what to send, what to receive and where to.

import { post } from "./api.js";
import { announce, busy, el, name, put } from "./dom.js";

const TICKET = /me\.things:me\.sync\.v4:[A-Za-z0-9_-]+/;
let fields = 0;

/** `begun` gets what the node answered. */
export function sendForm(roots, begun) {
  if (roots.length === 0) return noRoots("sent from", "export");
  const path = pathField("Folder on this device", "send-path", roots, roots.length === 1 ? roots[0].path : "", true);
  const limit = limitField();
  const unreadable = check("Leave out what cannot be read");
  const unsupported = check("Leave out names that other systems cannot have");
  return form("Make a ticket", [path, options(limit, unreadable, unsupported)], async () => {
    const answer = await post("session/create", {
      source_path: tidy(path.input.value),
      skip_unreadable: unreadable.input.checked,
      skip_unsupported: unsupported.input.checked,
      ...limit.value(),
    });
    announce("The offer is ready");
    await begun(answer);
  });
}

export function receiveForm(roots, begun) {
  if (roots.length === 0) return noRoots("received at", "import");
  const ticket = field("Code or ticket from the other device", { autocomplete: "off", spellcheck: "false", autocapitalize: "off", required: true, "data-test": "receive-ticket" }, "Like 7-velvet-harbor, or me.things:…");
  const path = pathField("Becomes this folder here", "receive-path", roots, `${roots[0].path}/`, false);
  const limit = limitField();
  return form("Receive", [ticket, path, options(limit)], async (tell) => {
    const given = ticket.input.value.trim();
    const found = TICKET.exec(given.replaceAll(/\s/g, ""));
    const which = found ? { ticket_uri: found[0] } : { code: given.toLowerCase() };
    if (!found) tell("Looking for the device that shows this code…");
    // its card shows how the other device is looked for
    const answer = await post("session/start", { ...which, target_path: tidy(path.input.value), confirm: true, wait_secs: 0, ...limit.value() });
    ticket.input.value = "";
    if (answer.job_id === null) announce("This folder is in place already");
    await begun(answer);
    return answer.job_id === null ? "This folder is in place already: nothing had to be done." : null;
  });
}

function form(text, parts, act) {
  const problem = el("p", { class: "notice bad", role: "alert", hidden: true });
  const done = el("p", { class: "notice good", role: "status", hidden: true });
  const submit = el("button", { type: "submit", class: "primary" }, text);
  const fail = (error) => {
    put(problem, name(error.message), error.hint && el("span", {}, ` Next: ${error.hint}.`));
    problem.hidden = false;
  };
  const send = (event) => {
    event.preventDefault();
    problem.hidden = done.hidden = true;
    const tell = (text) => {
      put(done, text ?? "");
      done.hidden = !text;
    };
    busy(submit, fail, async () => {
      try {
        tell(await act(tell));
      } catch (error) {
        tell(null);
        throw error;
      }
    });
  };
  return el("form", { onsubmit: send }, parts.map((part) => part.element), problem, done, el("div", { class: "actions" }, submit));
}

function field(label, attributes, help) {
  const id = `field-${++fields}`;
  const input = el("input", { id, type: "text", ...attributes, "aria-describedby": help ? `${id}-help` : null });
  const explained = help && el("p", { id: `${id}-help`, class: "help quiet" }, help);
  return { input, element: el("div", { class: "field" }, el("label", { for: id }, label), input, explained) };
}

function pathField(label, test, roots, value, whole) {
  const list = `list-${++fields}`;
  const made = field(label, { list, required: true, autocomplete: "off", spellcheck: "false", autocapitalize: "off", "data-test": test }, null);
  made.input.value = value;
  const choices = roots.flatMap((root) => [...(whole ? [root.path] : []), ...root.directories.map((inside) => `${root.path}/${inside}`)]);
  const below = el("p", { class: "help quiet" }, whole ? "It lies in " : "It lies below ");
  roots.forEach((root, at) => below.append(at === 0 ? "" : at === roots.length - 1 ? " or " : ", ", name(root.path), root.is_there ? "" : " (not there now)"));
  made.element.append(el("datalist", { id: list }, choices.map((choice) => el("option", { value: choice }))), below);
  return made;
}

function limitField() {
  const made = field("At most so many MB a second", { type: "number", inputmode: "decimal", min: "0.064", step: "any", class: "narrow", "data-test": "limit" }, "Empty: as the settings say");
  made.value = () => (made.input.value === "" ? {} : { limit_bps: Math.round(Number(made.input.value) * 1e6) });
  return made;
}

function check(label) {
  const input = el("input", { type: "checkbox" });
  return { input, element: el("label", { class: "check" }, input, label) };
}

function options(...parts) {
  return { element: el("details", { class: "options" }, el("summary", {}, "Options"), parts.map((part) => part.element)) };
}

/** A path is typed with a slash at its end now and then. */
function tidy(path) {
  return path.trim().replace(/(.)\/+$/, "$1");
}

function noRoots(what, kind) {
  return el(
    "div",
    { class: "notice", "data-test": `no-${kind}-roots` },
    el("p", {}, el("strong", {}, `No folder may be ${what} this page yet.`)),
    el("p", {}, "Say where, when you start the node:"),
    el("pre", {}, el("code", {}, kind === "export" ? "me-sync node --export-root ~/photos" : "me-sync node --import-root ~/copies")),
    el("p", {}, "or in its settings (", el("code", {}, "me-sync config path"), " says which file), and start it again:"),
    el("pre", {}, el("code", {}, kind === "export" ? '[api]\nexport_roots = ["/home/ann/photos"]' : '[api]\nimport_roots = ["/home/ann/copies"]')),
  );
}
