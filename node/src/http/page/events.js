// The stream of events, by fetch, since an EventSource cannot send a token. After a loss it goes on behind the last event
// that was heard, so that nothing is missed and nothing comes twice.

import { forget, headers } from "./api.js";

// the node says something every 15 seconds
const SILENCE = 40_000;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8_000;

/** Tells `hear(name, data)` of events, and `live(true | false)` of the line. Ends with `over()` when the token is good no more. */
export function listen({ hear, live, over }) {
  let last = null;
  let pause = FIRST_PAUSE;
  const ending = new AbortController();

  async function run() {
    while (!ending.signal.aborted) {
      try {
        await once();
      } catch (error) {
        if (error === "over") {
          forget();
          over();
          return;
        }
      }
      if (ending.signal.aborted) return;
      live(false);
      await new Promise((done) => setTimeout(done, pause * (0.75 + Math.random() / 2)));
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }

  async function once() {
    const line = new AbortController();
    const cut = () => line.abort();
    ending.signal.addEventListener("abort", cut);
    let silence = setTimeout(cut, SILENCE);
    try {
      const more = last === null ? {} : { "Last-Event-ID": last };
      const answer = await fetch("/me/sync/v4/events", {
        headers: { ...headers(), ...more },
        credentials: "omit",
        cache: "no-store",
        signal: line.signal,
      });
      if (answer.status === 401) throw "over";
      if (!answer.ok) return;
      pause = FIRST_PAUSE;
      await live(true);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const parse = parser((event) => {
        if (event.id) last = event.id;
        if (event.data) hear(event.name, JSON.parse(event.data));
      });
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(silence);
        silence = setTimeout(cut, SILENCE);
        parse(value);
      }
    } finally {
      clearTimeout(silence);
      ending.signal.removeEventListener("abort", cut);
    }
  }

  run();
  return () => ending.abort();
}

/** Takes text in pieces and gives whole events. */
function parser(give) {
  let rest = "";
  let event = { name: "message", data: "", id: "" };
  return (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        give(event);
        event = { name: "message", data: "", id: "" };
        continue;
      }
      const at = line.indexOf(":");
      const field = at < 0 ? line : line.slice(0, at);
      const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
      if (field === "event") event.name = value;
      else if (field === "data") event.data += value;
      else if (field === "id") event.id = value;
    }
  };
}
