/** Documents in, page out: at most four times a second, however fast they come. */
import { Boards } from "./boards.js";
import { connect } from "./broker.js";
import { Charts } from "./charts.js";
import { RefusedError, parseTopic, readDocument } from "./documents.js";
import { make, setClass, setText } from "./elements.js";
import { Federation } from "./federation.js";
import { Log } from "./log.js";
import { clockText } from "./numbers.js";
import { Rounds } from "./rounds.js";
import { Rows } from "./rows.js";
import { Election, Run } from "./run.js";
import { Story } from "./story.js";

const SHOW_EVERY_MS = 250;
const AGE_EVERY_MS = 1000;
const KEY = "edge-peer";
const FEDERATIONS_MAX = 16;

class Page {
  constructor(config) {
    this.config = config;
    this.federations = new Map();
    this.selected = null;
    this.refused = 0;
    this.connected = null;
    this.lostMs = null;
    this.run = new Run(document);
    this.election = new Election(document);
    this.boards = new Boards(document);
    this.charts = new Charts(document);
    this.rounds = new Rounds(document);
    this.log = new Log(document);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.shownMs = 0;
    this.timer = null;
    this.select = document.querySelector("#federation");
    this.select.addEventListener("change", () => {
      this.selected = this.select.value;
      this.show();
    });
    this.dark.addEventListener("change", () => this.show());
    document.querySelector("#numbers").addEventListener("toggle", () => this.show());
    addEventListener("resize", () => this.due());
    addEventListener("pagehide", () => this.save());
    document.addEventListener("visibilitychange", () => this.due());
    setInterval(() => this.due(), AGE_EVERY_MS);
  }

  start() {
    this.saved = load();
    this.log.restore(this.saved.events);
    connect(this.config, {
      state: (connected, reason) => this.link(connected, reason),
      message: (topic, payload, retained) => this.take(topic, payload, retained),
    });
    this.show();
  }

  link(connected, reason) {
    if (connected !== this.connected) {
      const now = Date.now();
      if (this.connected !== null || !connected) {
        this.log.add([{ kind: "link", text: connected ? "connected to the broker again" : `no broker: ${reason}` }], now);
      }
      this.lostMs = connected ? null : now;
      this.connected = connected;
      this.due();
    }
  }

  take(topic, payload, retained) {
    try {
      const [name, peer, kind] = parseTopic(topic);
      const known = this.federations.has(name);
      if (!known && this.federations.size >= FEDERATIONS_MAX) {
        return;
      }
      const read = payload.length > 0 ? readDocument(kind, payload) : null;
      const it = known ? this.federations.get(name) : this._meet(name);
      const now = Date.now();
      const runId = it.federation.runId;
      it.federation.take(peer, kind, read, retained, now);
      if (it.federation.runId !== runId) {
        this._recall(it.federation);
      }
      if (name === this.selected) {
        this.log.add(it.story.tell(it.federation, retained), now);
      }
    } catch (error) {
      if (!(error instanceof RefusedError)) {
        throw error;
      }
      // A peer drops it too. Once is enough to say it: a sender may repeat itself.
      this.refused += 1;
      if (this.refused === 1) {
        this.log.add([{ kind: "link", text: `a message is not shown: ${error.message}` }], Date.now());
      }
    }
    this.due();
  }

  _meet(name) {
    const it = { federation: new Federation(name), story: new Story() };
    this.federations.set(name, it);
    this.selected ??= name;
    const option = make("option", { value: name, textContent: name });
    this.select.append(option);
    this.select.closest("label").hidden = this.federations.size < 2;
    return it;
  }

  /** Of the run that is on, what this tab had seen before it was reloaded. */
  _recall(federation) {
    const { runId, rows, seconds } = this.saved;
    if (runId !== null && runId === federation.runId) {
      const fresh = federation.rows;
      federation.rows = Rows.fromJSON(rows);
      for (const [peer, rounds] of fresh.byPeer) {
        rounds.forEach((row, round) => Object.assign(federation.rows._row(peer, round), row));
      }
      federation.roundSeconds = new Map(seconds);
    }
  }

  save() {
    const federation = this.federations.get(this.selected)?.federation;
    if (federation !== undefined) {
      const kept = {
        runId: federation.runId,
        rows: federation.rows,
        seconds: [...federation.roundSeconds],
        events: this.log.events,
      };
      try {
        sessionStorage.setItem(KEY, JSON.stringify(kept));
      } catch {
        // Full, or forbidden by the browser's settings: then a reload knows what the boards tell of themselves.
      }
    }
  }

  /** Show soon: at once if the last time is long ago. */
  due() {
    if (this.timer === null && !document.hidden) {
      const wait = Math.max(0, this.shownMs + SHOW_EVERY_MS - Date.now());
      this.timer = setTimeout(() => {
        this.timer = null;
        this.show();
      }, wait);
    }
  }

  show() {
    const now = Date.now();
    this.shownMs = now;
    this._showLink();
    this.log.speak(now);
    const federation = this.federations.get(this.selected)?.federation;
    if (federation === undefined) {
      return;
    }
    this._title(federation);
    this.run.show(federation);
    this.election.show(federation);
    this.boards.show(federation, now);
    this.charts.show(federation, this.dark.matches);
    if (document.querySelector("#numbers").open) {
      this.rounds.show(federation);
    }
  }

  /** For who has the page in another tab. */
  _title(federation) {
    const missing = federation.peers.filter((peer) => !federation.isOnline(peer)).length;
    const { round } = federation;
    const parts = [
      missing > 0 ? `✕ ${missing} missing` : "",
      round !== null && round.runId !== null ? `round ${round.round} of ${round.roundsMax}` : "",
      federation.name,
    ];
    const title = parts.filter((part) => part !== "").join(" · ");
    if (document.title !== title) {
      document.title = title;
    }
  }

  _showLink() {
    const banner = document.querySelector("#link");
    if (this.connected) {
      setText(banner, "● live");
      setClass(banner, "live");
    } else {
      const since = this.lostMs === null ? "" : ` since ${clockText(this.lostMs)}: what is shown is from before`;
      setText(banner, this.connected === null ? "○ connecting" : `✕ no connection to the broker${since}`);
      setClass(banner, "lost");
    }
  }
}

function load() {
  const nothing = { runId: null, rows: [], seconds: [], events: [] };
  try {
    return { ...nothing, ...JSON.parse(sessionStorage.getItem(KEY) ?? "{}") };
  } catch {
    return nothing;
  }
}

new Page(JSON.parse(document.querySelector("#config").textContent)).start();
