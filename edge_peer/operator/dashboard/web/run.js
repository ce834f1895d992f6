/** The run in a few numbers, and the election. */
import { Keyed, Mark, make, setText } from "./elements.js";
import { accuracyText } from "./numbers.js";
import { COLOURS } from "./palette.js";

const STATES = { waiting: "waiting", training: "training", finished: "finished" };

export class Run {
  constructor(root) {
    this.root = root;
    this.progress = root.querySelector("#run-progress");
    this.mark = new Mark();
    root.querySelector("#run-controller-mark").append(this.mark.element);
  }

  _set(name, text) {
    setText(this.root.querySelector(`#run-${name}`), text);
  }

  show(federation) {
    const document = federation.round;
    const controller = federation.controller;
    this._set("federation", federation.name);
    this.mark.element.toggleAttribute("hidden", controller === null);
    if (document === null) {
      this._set("state", federation.peers.length > 0 ? "no controller: an election is on" : "nobody is there");
      this._set("controller", "none");
      return;
    }
    this.mark.show(federation.peers.indexOf(controller), COLOURS);
    const done = document.state === "finished" ? document.round : Math.max(0, document.round - 1);
    this._set("id", document.runId ?? "none yet");
    this._set("state", STATES[document.state] + (document.reason ? `: ${document.reason}` : ""));
    this._set("round", document.runId === null ? "–" : `${document.round} of ${document.roundsMax}`);
    this._set("controller", `${controller}, term ${document.term}`);
    this._set("accuracy", accuracyText(document.accuracy));
    this._set("int8", accuracyText(document.int8));
    const after = document.accuracy === null ? "no model evaluated yet" : `after round ${document.accuracyRound}`;
    const target = document.target === null ? "" : `, target ${document.target}`;
    this._set("accuracy-note", after + target);
    this._set("model", document.modelId);
    this.progress.max = document.roundsMax;
    this.progress.value = done;
  }
}

export class Election {
  constructor(root) {
    this.title = root.querySelector("#election-title");
    this.candidates = new Keyed(root.querySelector("#election-votes"), () => {
      const mark = new Mark();
      const name = make("strong");
      const voters = make("span");
      return { element: make("li", {}, mark.element, name, voters), mark, name, voters };
    });
  }

  show(federation) {
    const election = federation.election;
    if (election === null) {
      setText(this.title, "No election has been seen.");
      this.candidates.show([], () => {});
      return;
    }
    const { controller, round } = federation;
    const leads = controller === null ? "" : ` ${controller} leads in term ${round.term}.`;
    const won = round !== null && round.term === election.term;
    setText(this.title, won ? `Term ${election.term} was won by ${controller}.` : `Votes are for term ${election.term}.${leads}`);
    const candidates = [...election.votes.keys()].sort(
      (one, other) => election.votes.get(other).length - election.votes.get(one).length || (one < other ? -1 : 1),
    );
    this.candidates.show(candidates, (item, candidate) => {
      const voters = election.votes.get(candidate);
      const index = federation.peers.indexOf(candidate);
      item.mark.element.toggleAttribute("hidden", index < 0);
      item.mark.show(Math.max(0, index), COLOURS);
      setText(item.name, candidate);
      const names = voters.length > 12 ? `${voters.slice(0, 12).join(", ")} and ${voters.length - 12} more` : voters.join(", ");
      setText(item.voters, ` ${voters.length} ${voters.length === 1 ? "vote" : "votes"}: ${names}`);
    });
  }
}
