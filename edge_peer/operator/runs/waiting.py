"""How boards spend the seconds of a round: training, evaluating, and the rest, which is mostly waiting for others."""

from __future__ import annotations

from dataclasses import dataclass

from edge_peer.operator.runs.results import Results, Row


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one round, by one board, or the mean of several.

    Attributes:
        training_s: Of its shard.
        evaluation_s: Of the round's first model, which comes before training.
        rest_s: What is left: waiting for the others, sending, merging, and scoring its own model meanwhile.
    """

    training_s: float
    evaluation_s: float
    rest_s: float

    @property
    def share(self) -> float:
        """Of the rest, 0..1."""
        total = self.training_s + self.evaluation_s + self.rest_s
        return self.rest_s / total if total > 0 else 0.0


def spent_by(rows: list[Row], took_s: dict[int, float]) -> dict[int, Spent]:
    """What one board did in the rounds that it trained in.

    Args:
        rows: Of that board.
        took_s: Seconds of each round, from its opening to its commit.
    """
    evaluation_s = {row.round: row.evaluation_s for row in rows}
    found = {}
    for row in rows:
        if row.training_s is None or row.round not in took_s:
            continue
        total_s = took_s[row.round]
        training_s = min(max(row.training_s, 0.0), total_s)
        # The base of a round is the model of the round before.
        scoring_s = min(max(evaluation_s.get(row.round - 1, 0.0), 0.0), total_s - training_s)
        found[row.round] = Spent(training_s, scoring_s, total_s - training_s - scoring_s)
    return found


def spent_by_all(results: Results) -> dict[int, Spent]:
    """The mean over the boards that trained, by round."""
    took_s = results.round_seconds()
    rounds: dict[int, list[Spent]] = {}
    for rows in results.peers.values():
        for round_, spent in spent_by(rows, took_s).items():
            rounds.setdefault(round_, []).append(spent)
    return {round_: mean_of(spent) for round_, spent in sorted(rounds.items())}


def mean_of(spent: list[Spent]) -> Spent:
    """Of at least one."""
    count = len(spent)
    return Spent(
        sum(it.training_s for it in spent) / count,
        sum(it.evaluation_s for it in spent) / count,
        sum(it.rest_s for it in spent) / count,
    )
