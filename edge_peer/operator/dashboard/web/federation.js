/**
 * One federation as its documents tell it: who is there, who leads, what each board does in the round. The rules are
 * those of edge_peer/operator/live/federation.py; times are this page's own, in milliseconds.
 */
import { Rows } from "./rows.js";

/** Boards beyond are not shown: memory stays bounded whatever is published. */
const PEERS_MAX = 1024;
/** How long a finished round stays in the timeline before the one that has begun takes its place. */
const SHOW_CLOSED_MS = 1000;

export const WAITING = "waiting";
export const DOWNLOADING = "downloading";
export const TRAINING = "training";
export const SENDING = "sending";
export const ACCEPTED = "accepted";
export const REFUSED = "refused";
export const MISSING = "missing";
const ENDS = new Set([ACCEPTED, REFUSED, MISSING]);

/** What every board does from a round's opening to its end. */
class Timeline {
  constructor(runId, round, now, whole) {
    this.runId = runId;
    this.round = round;
    this.openedMs = now;
    this.closedMs = null;
    /** The opening was seen: else the times begin when the page was opened. */
    this.whole = whole;
    /** peer -> [{phase, ms, why}], in order. */
    this.phases = new Map();
  }

  now(peer) {
    return this.phases.get(peer)?.at(-1) ?? null;
  }

  enter(peer, phase, ms, why = "") {
    const last = this.now(peer);
    if (last?.phase === phase && last.why === why) {
      return;
    }
    if (last === null) {
      this.phases.set(peer, []);
    }
    this.phases.get(peer).push({ phase, ms, why });
  }

  close(now) {
    this.closedMs ??= now;
  }
}

export class Federation {
  constructor(name) {
    this.name = name;
    this.presences = new Map();
    this.votes = new Map();
    this.rounds = new Map();
    this.histories = new Map();
    /** peer -> when it last said something while this page looked. */
    this.heardMs = new Map();
    /** peer -> since when its presence says that it is gone. */
    this.goneMs = new Map();
    this.runId = null;
    this.rows = new Rows();
    this.timeline = null;
    this.closed = null;
    /** Round -> seconds from its opening to its end, where both were seen. */
    this.roundSeconds = new Map();
    /** peer -> digest of the model that it has told its score of. */
    this.evaluated = new Map();
  }

  /** Everybody of whom there is a presence, sorted: their places are their colours. */
  get peers() {
    return [...this.presences.keys()].sort();
  }

  isOnline(peer) {
    return this.presences.get(peer)?.online === true;
  }

  /** Who has the document of the highest term, while it is online in the session that wrote it. */
  get controller() {
    let best = null;
    for (const [peer, document] of this.rounds) {
      const presence = this.presences.get(peer);
      const valid = presence?.online && presence.session === document.session;
      const term = best === null ? -1 : this.rounds.get(best).term;
      if (valid && (document.term > term || (document.term === term && peer > best))) {
        best = peer;
      }
    }
    return best;
  }

  get round() {
    const controller = this.controller;
    return controller === null ? null : this.rounds.get(controller);
  }

  role(peer) {
    if (!this.isOnline(peer)) {
      return "missing";
    }
    if (peer === this.controller) {
      return "controller";
    }
    const last = this.timeline?.now(peer)?.phase ?? WAITING;
    const trains = this.round?.participants.includes(peer) || ![WAITING, MISSING].includes(last);
    return trains ? "trainer" : "waiting";
  }

  /** The round whose timeline is worth looking at: the open one, but for its first moments. */
  shownTimeline(now) {
    const open = this.timeline;
    const young = open !== null && open.closedMs === null && now - open.openedMs < SHOW_CLOSED_MS;
    return young && this.closed !== null ? this.closed : (open ?? this.closed);
  }

  /** Votes of the newest election that anybody has voted in: {term, votes: Map(candidate -> voters)}; null: none. */
  get election() {
    const valid = [...this.votes].filter(([peer, vote]) => this.presences.get(peer)?.session === vote.session);
    const called = [...this.presences.values()].filter((it) => it.online).map((it) => it.election);
    const term = Math.max(0, ...valid.map(([, vote]) => vote.term), ...called);
    if (term === 0) {
      return null;
    }
    const votes = new Map();
    for (const [peer, vote] of valid.filter(([, it]) => it.term === term)) {
      votes.set(vote.candidate, [...(votes.get(vote.candidate) ?? []), peer].sort());
    }
    return { term, votes };
  }

  /** Hold a document; null: it was cleared. `retained`: it was said before this page looked. */
  take(peer, kind, document, retained, now) {
    if (!this.presences.has(peer) && this.presences.size >= PEERS_MAX) {
      return;
    }
    if (!retained && document !== null && document.online !== false) {
      this.heardMs.set(peer, now);
    }
    const takers = {
      presence: () => this._takePresence(peer, document, now),
      vote: () => hold(this.votes, peer, document),
      round: () => hold(this.rounds, peer, document),
      evaluation: () => this._takeEvaluation(peer, document, now),
      sending: () => this._takeSending(peer, document, now),
      history: () => this._takeHistory(peer, document),
    };
    takers[kind]();
    if (kind === "presence" || kind === "round") {
      this._follow(retained, now);
    }
  }

  _takePresence(peer, document, now) {
    hold(this.presences, peer, document);
    if (document === null || document.online) {
      this.goneMs.delete(peer);
    } else if (!this.goneMs.has(peer)) {
      this.goneMs.set(peer, now);
    }
  }

  _takeEvaluation(peer, document, now) {
    if (document === null) {
      return;
    }
    this.evaluated.set(peer, document.sha256);
    if (document.runId !== this.runId) {
      return;
    }
    this.rows.addEvaluation(peer, document.round, document.report);
    if (this.timeline?.now(peer)?.phase === DOWNLOADING && document.sha256 === this.round?.base) {
      this.timeline.enter(peer, TRAINING, now);
    }
  }

  _takeSending(peer, document, now) {
    const open = this.timeline;
    const fits = document !== null && open !== null && document.runId === open.runId && document.round === open.round;
    if (fits && !ENDS.has(open.now(peer)?.phase)) {
      open.enter(peer, SENDING, now);
    }
  }

  _takeHistory(peer, document) {
    hold(this.histories, peer, document);
    if (document !== null && document.runId === this.runId) {
      this.rows.addHistory(peer, document);
    }
  }

  /** Take over what the controller's document says of run and round. */
  _follow(retained, now) {
    const document = this.round;
    if (document === null || document.runId === null) {
      return;
    }
    if (document.runId !== this.runId) {
      this._begin(document.runId);
    }
    for (const [peer, report] of document.reports) {
      this.rows.addEvaluation(peer, document.round, report);
    }
    const open = this.timeline;
    if (document.state === "training" && document.round !== open?.round) {
      this._close(document, now);
      this.timeline = new Timeline(document.runId, document.round, now, !retained);
    } else if (document.state === "finished") {
      this._close(document, now);
    }
    if (document.state === "training") {
      this._phases(document, now);
    }
  }

  _begin(runId) {
    this.runId = runId;
    this.rows = new Rows();
    this.timeline = this.closed = null;
    this.roundSeconds = new Map();
    for (const [peer, history] of this.histories) {
      if (history.runId === runId) {
        this.rows.addHistory(peer, history);
      }
    }
  }

  _close(document, now) {
    const open = this.timeline;
    if (open === null || open.closedMs !== null) {
      return;
    }
    // The next document lists what was accepted of the round before; the last of a run has no next.
    const follows = document.state === "finished" || document.round === open.round + 1;
    for (const peer of follows ? document.closedAccepted.keys() : []) {
      open.enter(peer, ACCEPTED, now);
    }
    open.close(now);
    if (open.whole && follows) {
      this.roundSeconds.set(open.round, (now - open.openedMs) / 1000);
    }
    this.closed = open;
  }

  _phases(document, now) {
    const open = this.timeline;
    for (const peer of this.peers) {
      if (document.accepted.has(peer)) {
        open.enter(peer, ACCEPTED, now);
      } else if (document.refused.has(peer)) {
        open.enter(peer, REFUSED, now, document.refused.get(peer));
      } else if (document.missing.has(peer)) {
        open.enter(peer, MISSING, now, document.missing.get(peer));
      } else if (!this.isOnline(peer)) {
        open.enter(peer, MISSING, now, "not connected");
      } else if (!document.participants.includes(peer)) {
        open.enter(peer, WAITING, now, this.presences.get(peer).note || "not asked to train in this round");
      } else if ([null, WAITING, MISSING].includes(open.now(peer)?.phase ?? null)) {
        open.enter(peer, this.evaluated.get(peer) === document.base ? TRAINING : DOWNLOADING, now);
      }
    }
  }
}

function hold(documents, peer, document) {
  if (document === null) {
    documents.delete(peer);
  } else {
    documents.set(peer, document);
  }
}
