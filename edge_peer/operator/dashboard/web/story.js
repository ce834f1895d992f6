/** What has happened in a federation, in sentences: the difference between one look and the next. Each is told once. */
import { accuracyText } from "./numbers.js";

export class Story {
  constructor() {
    this.online = new Set();
    this.seen = new Set();
    this.led = "";
    this.runId = null;
    this.scored = "";
    this.finished = null;
    this.told = new Set();
    this.waits = "";
  }

  /**
   * What is new, as [{kind, text, peer}]; kinds: gone, back, elected, run, refused, score, end, wait.
   * Who was there when this page was opened (`retained`) is in the table, and no event.
   */
  tell(federation, retained) {
    const news = [];
    const say = (kind, text, peer = null) => news.push({ kind, text, peer });
    const online = new Set(federation.peers.filter((peer) => federation.isOnline(peer)));
    for (const peer of online) {
      if (!this.online.has(peer) && !retained) {
        say("back", this.seen.has(peer) ? `${peer} is back` : `${peer} is there`, peer);
      }
    }
    for (const peer of this.online) {
      if (!online.has(peer)) {
        this.told.forEach((key) => key.startsWith(`${peer}: `) && this.told.delete(key));
        say("gone", `${peer} is gone`, peer);
      }
    }
    this.online = online;
    online.forEach((peer) => this.seen.add(peer));
    const controller = federation.controller;
    const document = federation.round;
    if (document === null) {
      return news;
    }
    const led = `${controller}/${document.term}`;
    if (led !== this.led) {
      this.led = led;
      say("elected", `${controller} is elected controller of term ${document.term}`, controller);
    }
    if (document.state === "waiting" && document.reason !== this.waits) {
      say("wait", document.reason || "waiting", controller);
    }
    this.waits = document.state === "waiting" ? document.reason : "";
    if (document.runId !== null) {
      this._ofRun(document, say);
    }
    return news;
  }

  _ofRun(document, say) {
    const { runId, round } = document;
    if (runId !== this.runId) {
      this.runId = runId;
      this.told.clear();
      say("run", `run ${runId} with ${document.participants.length} boards`);
    }
    for (const [what, reasons] of [["refused", document.refused], ["missing", document.missing]]) {
      for (const [peer, reason] of reasons) {
        // A board that stays away is no news in every round.
        const key = what === "refused" ? `${round}/${document.attempt}/${peer}` : `${peer}: ${reason}`;
        if (!this.told.has(key) && (what === "refused" || this.online.has(peer))) {
          this.told.add(key);
          const words = what === "refused" ? `update of ${peer} refused` : `${peer} is missing`;
          say(what === "refused" ? "refused" : "gone", `round ${round}: ${words}: ${reason}`, peer);
        }
      }
    }
    const scored = `${runId}/${document.accuracyRound}`;
    if (document.accuracy !== null && document.accuracyRound > 0 && scored !== this.scored) {
      this.scored = scored;
      const int8 = document.int8 === null ? "" : `, int8 ${accuracyText(document.int8)}`;
      say("score", `round ${document.accuracyRound}: accuracy ${accuracyText(document.accuracy)}${int8}`);
    }
    if (document.state === "finished" && document.complete && this.finished !== runId) {
      this.finished = runId;
      say("end", `run ${runId} is finished after round ${round}: ${document.reason}`);
    }
  }
}
