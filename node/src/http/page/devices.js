// Devices on this network that answered.

import { get } from "./api.js";
import { busy, button, el, name, put, say } from "./dom.js";
import { count, short } from "./format.js";

const LOOK = 5;

export class Devices {
  #list = el("ul", { class: "devices" });
  #said = el("p", { class: "quiet", role: "status" });
  #problem = el("p", { class: "notice bad", role: "alert", hidden: true });
  #look = button("Look again", () => this.look());

  constructor(root, mdns) {
    put(root, this.#said, this.#list, this.#problem);
    if (mdns) {
      root.append(el("div", { class: "actions" }, this.#look));
      this.look();
    } else {
      say(this.#said, "Finding devices is turned off on this node. Tickets work: they say where the other device is.");
    }
  }

  look() {
    say(this.#said, "Looking…");
    this.#problem.hidden = true;
    const fail = (error) => {
      say(this.#said, "");
      put(this.#problem, error.message);
      this.#problem.hidden = false;
    };
    return busy(this.#look, fail, async () => {
      this.show((await get("peers")).peers, true);
      this.show((await get(`peers?wait_secs=${LOOK}`)).peers, false);
    });
  }

  show(peers, looking) {
    const row = (peer) => el("li", {},
      el("span", { class: "dot", "aria-hidden": "true" }),
      el("div", {},
        el("p", {}, name(peer.device_name || "a device without a name")),
        el("p", { class: "quiet" }, `…${short(peer.peer_id)}`, peer.rtt_ms === null ? "" : ` · ${peer.rtt_ms.toFixed(1)} ms away`),
      ),
    );
    put(this.#list, ...peers.map(row));
    const none = "None answered. Is me-sync running there, on the same network?";
    say(this.#said, looking ? "Looking…" : peers.length > 0 ? `${count(peers.length, "device")} found` : none);
  }
}
