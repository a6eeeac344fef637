// Logs in, asks what there is, and follows what happens.

import { forget, get, isSignedIn, login, logout, onSignedOut } from "./api.js";
import { Devices } from "./devices.js";
import { announce, put, say } from "./dom.js";
import { listen } from "./events.js";
import { receiveForm, sendForm } from "./forms.js";
import { visible } from "./format.js";
import { History } from "./history.js";
import { Transfers } from "./transfers.js";

const RECORDS = 200;
const place = (id) => document.getElementById(id);
let stop = () => {};

function showDoor(title, why) {
  stop();
  place("content").hidden = place("logout").hidden = place("link").hidden = true;
  say(place("device"), "");
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close("");
  say(place("door-title"), title);
  say(place("door-why"), why);
  place("door").hidden = false;
  place("door-title").focus();
}

function showLine(up) {
  const pill = place("link");
  pill.hidden = false;
  pill.className = `pill ${up ? "good" : "warn"}`;
  say(pill, up ? "Live" : "No answer; trying again");
}

async function start() {
  const [health, roots] = await Promise.all([get("/healthz"), get("roots")]);
  say(place("device"), `on ${visible(health.device_name)}`);
  document.title = `me-sync on ${visible(health.device_name)}`;
  place("door").hidden = true;
  place("content").hidden = place("logout").hidden = false;

  let transfers = null;
  const history = new History(place("history"), () => reload());
  const reload = async () => {
    const [{ jobs }, { sessions, total }] = await Promise.all([get("jobs"), get(`sessions?limit=${RECORDS}`)]);
    transfers.set(jobs, sessions);
    history.set(sessions, transfers.sessions(), total);
  };
  transfers = new Transfers(place("transfers"), reload);
  const begun = (answer) => transfers.begun(answer);
  put(place("send"), sendForm(roots.export_roots, begun));
  put(place("receive"), receiveForm(roots.import_roots, begun));
  new Devices(place("devices"), health.mdns);

  // what the line may cost is no reason to stop listening
  const quietly = (work) => work.catch((error) => console.warn(error.message));
  const back = () => document.visibilityState === "visible" && isSignedIn() && quietly(reload());
  document.addEventListener("visibilitychange", back);
  const hangUp = listen({
    hear: (kind, event) => quietly(kind === "reset" ? reload() : transfers.hear(kind, event)),
    // first the line, then the picture: so nothing falls between the two
    live: async (up) => {
      showLine(up);
      if (up) await quietly(reload());
    },
    over: () => showDoor("Signed out", "The node was started again, or this page was not used for long."),
  });
  stop = () => {
    hangUp();
    document.removeEventListener("visibilitychange", back);
    stop = () => {};
  };
}

async function main() {
  onSignedOut(() => showDoor("Signed out", "The node was started again, or this page was not used for long."));
  place("logout").addEventListener("click", async () => {
    stop();
    await logout().catch(() => forget());
    showDoor("Signed out", "This page has forgotten its token.");
    announce("Signed out");
  });
  const key = /^#login=([A-Za-z0-9_-]+)$/.exec(location.hash)?.[1];
  if (key) {
    // the key is used up, and stays in no history
    history.replaceState(null, "", "/");
    try {
      await login(key);
    } catch (error) {
      const used = "That link was used already, or its time is over.";
      return showDoor("Sign in", error.status === 401 ? used : error.message);
    }
  }
  if (!isSignedIn()) return showDoor("Sign in", "This page shows and steers the migrations of this device. It needs a link that only you can get.");
  try {
    await start();
  } catch (error) {
    if (isSignedIn()) showDoor("No answer", `${error.message}. Start the node with \`me-sync node\`, then reload this page.`);
  }
}

addEventListener("hashchange", () => location.hash.startsWith("#login=") && location.reload());
main();
