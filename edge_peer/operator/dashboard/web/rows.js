/**
 * What every board has measured in every round of a run: from evaluations as they come, and from the boards' own
 * histories, which tell of rounds before this page was opened. Where both tell, the history is the board's CSV.
 */

export const MEASURES = ["accuracy", "loss", "int8", "examples", "trainingS", "evaluationS", "sent", "received"];
/** Rounds of a run that are kept; a page may be open for weeks. */
const ROUNDS_MAX = 2000;

export class Rows {
  constructor() {
    /** peer -> round -> measures. */
    this.byPeer = new Map();
  }

  _row(peer, round) {
    const rounds = this.byPeer.get(peer) ?? new Map();
    this.byPeer.set(peer, rounds);
    const row = rounds.get(round) ?? {};
    rounds.set(round, row);
    if (rounds.size > ROUNDS_MAX) {
      rounds.delete(rounds.keys().next().value);
    }
    return row;
  }

  addEvaluation(peer, round, { accuracy, loss, int8, examples }) {
    const row = this._row(peer, round);
    // A second evaluation of the same model may have no int8 accuracy yet.
    Object.assign(row, { accuracy, loss, examples }, int8 === null ? {} : { int8 });
  }

  addHistory(peer, history) {
    history.rounds.forEach((round, place) => {
      if (!Number.isSafeInteger(round) || round < 0) {
        return;
      }
      const row = this._row(peer, round);
      row.examples = history.testExamples;
      for (const measure of MEASURES) {
        const value = history[measure]?.[place] ?? null;
        if (value !== null) {
          row[measure] = value;
        }
      }
    });
  }

  get peers() {
    return [...this.byPeer.keys()].sort();
  }

  /** All rounds of which anybody has told, ascending. */
  get rounds() {
    const rounds = new Set();
    for (const own of this.byPeer.values()) {
      for (const round of own.keys()) {
        rounds.add(round);
      }
    }
    return [...rounds].sort((one, other) => one - other);
  }

  value(peer, round, measure) {
    return this.byPeer.get(peer)?.get(round)?.[measure] ?? null;
  }

  /** Over the boards that have told, weighted by their test examples; null where none has. */
  mean(round, measure) {
    let sum = 0;
    let weight = 0;
    for (const rounds of this.byPeer.values()) {
      const row = rounds.get(round);
      const value = row?.[measure] ?? null;
      if (value !== null && row.examples) {
        sum += value * row.examples;
        weight += row.examples;
      }
    }
    return weight > 0 ? sum / weight : null;
  }

  sum(round, measure) {
    const values = this.values(round, measure);
    return values.length > 0 ? values.reduce((one, other) => one + other, 0) : null;
  }

  /** Of the boards that have told, sorted. */
  values(round, measure) {
    return [...this.byPeer.values()]
      .map((rounds) => rounds.get(round)?.[measure] ?? null)
      .filter((value) => value !== null)
      .sort((one, other) => one - other);
  }

  /** As plain values, for the browser's session. */
  toJSON() {
    return [...this.byPeer].map(([peer, rounds]) => [peer, [...rounds]]);
  }

  static fromJSON(saved) {
    const rows = new Rows();
    for (const [peer, rounds] of saved) {
      rows.byPeer.set(peer, new Map(rounds));
    }
    return rows;
  }
}
