/** The numbers behind the curves, as a table: what a screen reader reads, and what can be copied. */
import { Keyed, make, setText } from "./elements.js";
import { accuracyText, bytesText, secondsText } from "./numbers.js";

/** Newest rounds that the table has. */
const SHOWN_MAX = 200;

const COLUMNS = [
  (it, round) => accuracyText(it.rows.mean(round, "accuracy")),
  (it, round) => accuracyText(it.rows.mean(round, "int8")),
  (it, round) => accuracyText(it.rows.mean(round, "loss")),
  (it, round) => String(it.rows.values(round, "accuracy").length),
  (it, round) => orDash(it.rows.sum(round, "sent"), bytesText),
  (it, round) => orDash(it.rows.sum(round, "received"), bytesText),
  (it, round) => orDash(it.roundSeconds.get(round) ?? null, secondsText),
];

function orDash(value, say) {
  return value === null ? "–" : say(value);
}

export class Rounds {
  constructor(root) {
    this.rows = new Keyed(root.querySelector("#rounds tbody"), (round) => {
      const cells = COLUMNS.map(() => make("td"));
      const head = make("th", { scope: "row", textContent: String(round) });
      return { element: make("tr", {}, head, ...cells), cells };
    });
  }

  show(federation) {
    const newest = federation.rows.rounds.slice(-SHOWN_MAX).reverse();
    this.rows.show(newest, (row, round) => {
      COLUMNS.forEach((say, place) => setText(row.cells[place], say(federation, round)));
    });
  }
}
