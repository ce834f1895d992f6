/** The table of boards: role, what each does in the round, its score, when it was last heard, its health. */
import { Keyed, Mark, make, setClass, setText } from "./elements.js";
import { MISSING } from "./federation.js";
import { accuracyText, bytesText, clockText, secondsText } from "./numbers.js";
import { COLOURS } from "./palette.js";

/** With more boards each has one line. */
const MANY = 16;
const COLUMNS = ["Board", "Role", "This round", "Accuracy", "Last heard", "Health"];
const ORDER = { missing: 0, controller: 1, trainer: 2, waiting: 2 };
const ROLES = { missing: "✕ missing", controller: "★ controller", trainer: "trainer", waiting: "waiting" };
const PHASES = {
  waiting: "waiting",
  downloading: "downloading",
  training: "training",
  sending: "sending",
  accepted: "✓ accepted",
  refused: "✕ refused",
  missing: "✕ missing",
};
const HEALTH = {
  temperature_c: (value) => `${Math.round(value)} °C`,
  load_1m: (value) => `load ${value.toFixed(1)}`,
  memory_free_bytes: (value) => `memory ${bytesText(value)} free`,
  disk_free_bytes: (value) => `disk ${bytesText(value)} free`,
};

class Row {
  constructor(peer) {
    this.mark = new Mark();
    this.cells = COLUMNS.map((name, place) => {
      const cell = make(place === 0 ? "th" : "td", {});
      cell.setAttribute("role", place === 0 ? "rowheader" : "cell");
      cell.dataset.label = name;
      return cell;
    });
    this.cells[0].scope = "row";
    this.cells[0].append(this.mark.element, make("span", { className: "name", textContent: peer }));
    this.role = make("span");
    this.cells[1].append(this.role);
    this.track = make("div", { className: "track" });
    this.track.setAttribute("aria-hidden", "true");
    this.phase = make("span", { className: "phase" });
    this.cells[2].append(make("div", { className: "doing" }, this.track, this.phase));
    this.segments = [];
    this.element = make("tr", {}, ...this.cells);
    this.element.setAttribute("role", "row");
  }

  /** The row's bar: a segment for each phase, over the time that the round has taken so far. */
  showBar(phases, startMs, endMs) {
    while (this.segments.length < phases.length) {
      const segment = make("div");
      this.track.append(segment);
      this.segments.push(segment);
    }
    const whole = Math.max(1, endMs - startMs);
    this.segments.forEach((segment, place) => {
      const phase = phases[place];
      segment.hidden = phase === undefined;
      if (phase !== undefined) {
        const until = phases[place + 1]?.ms ?? endMs;
        setClass(segment, `segment ${phase.phase}`);
        // A phase that took no time is still to be seen.
        segment.style.left = `${(100 * (phase.ms - startMs)) / whole}%`;
        segment.style.width = `max(3px, ${(100 * Math.max(0, until - phase.ms)) / whole}%)`;
      }
    });
  }
}

export class Boards {
  constructor(root) {
    this.summary = root.querySelector("#boards-summary");
    this.roundTitle = root.querySelector("#boards-round");
    this.table = root.querySelector("#boards");
    this.rows = new Keyed(this.table.querySelector("tbody"), (peer) => new Row(peer));
  }

  show(federation, now) {
    const peers = federation.peers;
    this.table.classList.toggle("many", peers.length > MANY);
    const places = new Map(peers.map((peer, place) => [peer, place]));
    const roles = new Map(peers.map((peer) => [peer, federation.role(peer)]));
    const timeline = federation.shownTimeline(now);
    // Who is missing stands first: on a long list that is what has to be seen.
    const sorted = [...peers].sort(
      (one, other) => ORDER[roles.get(one)] - ORDER[roles.get(other)] || places.get(one) - places.get(other),
    );
    this.rows.show(sorted, (row, peer) => this._row(row, peer, federation, timeline, places.get(peer), now));
    this._title(timeline, now);
    const missing = peers.filter((peer) => roles.get(peer) === "missing");
    const text =
      peers.length === 0
        ? "No board has been heard of yet."
        : missing.length === 0
          ? `All ${peers.length} boards are there.`
          : `${missing.length} of ${peers.length} boards missing: ${missing.slice(0, 8).join(", ")}` +
            (missing.length > 8 ? ` and ${missing.length - 8} more` : "");
    setText(this.summary, text);
    setClass(this.summary, missing.length > 0 ? "summary alarm" : "summary");
  }

  _title(timeline, now) {
    if (timeline === null) {
      setText(this.roundTitle, "no round yet");
      return;
    }
    const seconds = secondsText(((timeline.closedMs ?? now) - timeline.openedMs) / 1000);
    const state = timeline.closedMs === null ? "open for" : "took";
    setText(this.roundTitle, `round ${timeline.round} ${timeline.whole ? `${state} ${seconds}` : "was open already"}`);
  }

  _row(row, peer, federation, timeline, place, now) {
    const presence = federation.presences.get(peer);
    const role = federation.role(peer);
    row.mark.show(place, COLOURS);
    setClass(row.element, role);
    setText(row.role, ROLES[role]);
    const phases = timeline?.phases.get(peer) ?? [];
    const last = phases.at(-1);
    row.showBar(phases, timeline?.openedMs ?? now, timeline?.closedMs ?? now);
    const gone = role === "missing";
    const why = gone ? "not connected" : last?.why;
    const words = gone ? PHASES[MISSING] : (PHASES[last?.phase] ?? "–");
    setText(row.phase, why ? `${words}: ${why}` : words);
    setClass(row.phase, `phase ${gone ? MISSING : (last?.phase ?? "none")}`);
    setText(row.cells[3], this._score(peer, federation));
    setText(row.cells[4], heard(peer, federation, now));
    setText(row.cells[5], gone ? "–" : health(presence));
  }

  _score(peer, federation) {
    const rounds = federation.rows.byPeer.get(peer);
    const newest = rounds ? Math.max(...rounds.keys()) : null;
    return newest === null ? "–" : `${accuracyText(federation.rows.value(peer, newest, "accuracy"))} (round ${newest})`;
  }
}

function heard(peer, federation, now) {
  const gone = federation.goneMs.get(peer);
  if (gone !== undefined) {
    return `gone ${clockText(gone)}`;
  }
  const ms = federation.heardMs.get(peer);
  if (ms === undefined) {
    return "before this page";
  }
  return now - ms < 2000 ? "now" : `${secondsText((now - ms) / 1000)} ago`;
}

function health(presence) {
  const parts = Object.entries(HEALTH)
    .filter(([name]) => presence.health.has(name))
    .map(([name, say]) => say(presence.health.get(name)));
  const warning = presence.strained ? ["⚠ hot or throttled"] : [];
  const note = presence.note ? [presence.note] : [];
  return [...warning, ...note, ...parts].join(" · ") || "–";
}
