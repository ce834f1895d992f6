/** Events as a readable log, and the important ones for a screen reader, not faster than it can speak. */
import { make, setText } from "./elements.js";
import { clockText } from "./numbers.js";

const KEPT_MAX = 300;
const SPEAK_EVERY_MS = 3000;
const SPOKEN = new Set(["gone", "back", "elected", "run", "refused", "end", "link"]);
const SIGNS = { gone: "✕", back: "●", elected: "★", run: "▶", refused: "✕", score: "↗", end: "■", wait: "…", link: "⚠" };

export class Log {
  constructor(root) {
    this.list = root.querySelector("#log");
    this.voice = root.querySelector("#voice");
    this.events = [];
    this.unspoken = [];
    this.spokenMs = 0;
  }

  add(events, ms) {
    for (const { kind, text } of events) {
      this._append({ kind, text, ms });
      if (SPOKEN.has(kind)) {
        this.unspoken.push(text);
      }
    }
  }

  /** What an earlier look at this page has left. */
  restore(events) {
    events.forEach((event) => this._append(event));
  }

  _append(event) {
    this.events.push(event);
    const time = make("time", { textContent: clockText(event.ms), dateTime: new Date(event.ms).toISOString() });
    const sign = make("span", { className: "sign", textContent: SIGNS[event.kind] ?? "·" });
    sign.setAttribute("aria-hidden", "true");
    const item = make("li", { className: event.kind }, time, sign, make("span", { textContent: event.text }));
    this.list.prepend(item);
    if (this.events.length > KEPT_MAX) {
      this.events.shift();
      this.list.lastElementChild.remove();
    }
  }

  speak(now) {
    if (this.unspoken.length > 0 && now - this.spokenMs >= SPEAK_EVERY_MS) {
      const left = this.unspoken.length - 3;
      setText(this.voice, this.unspoken.slice(0, 3).join(". ") + (left > 0 ? `. ${left} more events` : ""));
      this.unspoken = [];
      this.spokenMs = now;
    }
  }
}
