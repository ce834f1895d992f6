"""What FedProx and SCAFFOLD do against client drift: `python -m bench.drift`, or `make bench-drift`.

Federated averaging as a bare loop over LiteRTTrainer and aggregator_core: ten peers with unlike data that train for
several epochs between two averages, which is when local training drifts to the peers' own optima. All ways begin with
the same weights and see the same divisions and orders of examples. Means are weighted by examples, controls' too.

Each way is measured with the model's learning rate and with a smaller one, for it decides who wins. SCAFFOLD's
correction is a constant force for as many steps as there are: with a large rate and very unlike data it drives a
training away until it is not finite. Such a peer is left out of the round, as the daemon does, and counted. SCAFFOLD
sends a control beside each update, so it is twice as many bytes a round as the others.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aggregator_core import weighted_mean
from aggregator_core.scaffold import correction_of, new_control, step_server
from bench.tables import report
from data_shards.datasets import Dataset, load_dataset
from data_shards.split import divide, limit
from edge_peer.trainers.artifacts import ModelArtifacts, load_artifacts
from edge_peer.trainers.interface import I32, Examples, TrainingDivergedError
from edge_peer.trainers.litert import LiteRTTrainer

ARTIFACTS = Path(__file__).resolve().parent.parent / "models/artifacts/image_cnn"
DIVISIONS = ("dirichlet:0.1", "labels:2")
PEERS = 10
EXAMPLES = 400
EPOCHS = 5
ROUNDS = 15
SEEDS = 3
#: The model's own, and a smaller one.
RATES = (0.1, 0.03)
#: Rounds whose accuracy the table shows, as shares of all.
SHOWN = (1 / 3, 2 / 3, 1.0)
#: Rounds whose mean accuracy is compared: with unlike data a single round's jumps up and down.
LAST = 5

Shards = list[tuple[Examples, I32]]


@dataclass(frozen=True)
class Way:
    """How peers train.

    Attributes:
        title: For a row.
        proximal: Strength of FedProx's term.
        controls: Whether SCAFFOLD's control variates correct gradients.
    """

    title: str
    proximal: float = 0.0
    controls: bool = False


FEDAVG = Way("FedAvg")
WAYS = (
    FEDAVG,
    Way("FedProx, 0.01", proximal=0.01),
    Way("FedProx, 0.1", proximal=0.1),
    Way("SCAFFOLD", controls=True),
)


@dataclass(frozen=True)
class Setup:
    """What all ways of a comparison share; `participants` of a round are drawn from all peers."""

    rounds: int
    epochs: int
    participants: int


@dataclass
class Measured:
    """What one federation gave.

    Attributes:
        accuracies: Of the global model after each round, 0..1.
        diverged: How many trainings ended with values that are not finite.
    """

    accuracies: list[float] = field(default_factory=list)
    diverged: int = 0

    @property
    def end(self) -> float:
        """Mean accuracy of the last rounds."""
        return statistics.mean(self.accuracies[-LAST:])


def never() -> bool:
    """Nobody interrupts a benchmark."""
    return False


def shards_of(dataset: Dataset, division: str, seed: int, examples: int) -> Shards:
    """Training examples of each peer."""
    rng = np.random.default_rng(seed)
    parts = [limit(it, examples, rng) for it in divide(division, dataset.y_train, PEERS, rng, dataset.subjects_train)]
    return [(dataset.x_train[part], dataset.y_train[part]) for part in parts]


def federate(
    way: Way,
    rate: float,
    trainer: LiteRTTrainer,
    artifacts: ModelArtifacts,
    shards: Shards,
    dataset: Dataset,
    setup: Setup,
    seed: int,
) -> Measured:
    """A federation with a learning rate."""
    size = artifacts.layout.trained_size
    population = sum(len(y) for _, y in shards)
    weights = artifacts.initial()
    server = np.zeros(size, np.float32)
    controls = [server] * len(shards)
    draw = random.Random(seed)
    measured = Measured()
    for round_ in range(setup.rounds):
        counts, changes, control_changes = [], [], []
        for peer in sorted(draw.sample(range(len(shards)), setup.participants)):
            try:
                result = trainer.train(
                    weights,
                    *shards[peer],
                    epochs=setup.epochs,
                    learning_rate=rate,
                    seed=(seed * setup.rounds + round_) * PEERS + peer,
                    cancelled=never,
                    proximal=way.proximal,
                    correction=correction_of(controls[peer], server) if way.controls else None,
                )
            except TrainingDivergedError:
                measured.diverged += 1
                continue
            change = result.weights - weights
            counts.append(result.examples)
            changes.append(change)
            if way.controls:
                steps = artifacts.optimizer.effective_steps(result.steps, rate, way.proximal)
                control = new_control(controls[peer], server, change[:size], steps, rate)
                control_changes.append(control - controls[peer])
                controls[peer] = control
        if changes:
            weights = weights + weighted_mean(changes, counts)
        if control_changes:
            server = step_server(server, weighted_mean(control_changes, counts), sum(counts), population)
        score = trainer.evaluate(weights, dataset.x_test, dataset.y_test, cancelled=never)
        measured.accuracies.append(score.accuracy)
    return measured


def row_of(
    division: str, rate: float, way: Way, runs: Sequence[Measured], plain: Sequence[Measured], rounds: int
) -> dict[str, Any]:
    """A row of the table; a run a seed, beside FedAvg's with the same rate."""
    points = [100 * (run.end - other.end) for run, other in zip(runs, plain, strict=True)]
    shown = sorted({max(1, round(share * rounds)) for share in SHOWN})
    return {
        "division": division,
        "rate": rate,
        "way": way.title,
        **{f"round {it}": round(statistics.mean(run.accuracies[it - 1] for run in runs), 4) for it in shown},
        f"last {LAST}": round(statistics.mean(run.end for run in runs), 4),
        "points beside FedAvg": round(statistics.mean(points), 2),
        "of each seed": " ".join(f"{it:+.1f}" for it in points),
        "diverged": sum(run.diverged for run in runs),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.drift", description="FedProx and SCAFFOLD beside FedAvg")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each federation (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of division and order (default %(default)s)")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of a peer, at most (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a round (default %(default)s)")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates (default: %(default)s)")
    parser.add_argument("--participants", type=int, default=PEERS, help="of a round (default: all %(default)s peers)")
    parser.add_argument("--divisions", nargs="+", default=DIVISIONS, help="default: %(default)s")
    parser.add_argument("--name", default="drift", help="of the file in bench/results/ (default %(default)s)")
    options = parser.parse_args(arguments)
    artifacts = load_artifacts(ARTIFACTS)
    setup = Setup(options.rounds, options.epochs, options.participants)

    dataset = load_dataset("fashion-mnist", say=print)
    trainer = LiteRTTrainer(artifacts)
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = [{"round": round_ + 1} for round_ in range(setup.rounds)]
    for division in options.divisions:
        shards = {seed: shards_of(dataset, division, seed, options.examples) for seed in range(1, options.seeds + 1)}
        for rate in options.rates:
            runs: dict[Way, list[Measured]] = {way: [] for way in WAYS}
            for way in WAYS:
                for seed, it in shards.items():
                    runs[way].append(federate(way, rate, trainer, artifacts, it, dataset, setup, seed))
                    print(f"{division}, rate {rate:g}, {way.title}, seed {seed}: {runs[way][-1].end:.4f}", flush=True)
            rows += [row_of(division, rate, way, found, runs[FEDAVG], setup.rounds) for way, found in runs.items()]
            for round_, row in enumerate(curves):
                for way, found in runs.items():
                    accuracy = statistics.mean(run.accuracies[round_] for run in found)
                    row[f"{division}, {rate:g}, {way.title}"] = round(accuracy, 4)
    settings = (
        f"image_cnn on Fashion-MNIST, {setup.participants} of {PEERS} peers a round with up to {options.examples:,} "
        f"images, {setup.epochs} epochs a round, {options.seeds} seeds"
    )
    report(f"{options.name}_rounds", f"Accuracy by round, {settings}", curves)
    report(options.name, f"Client drift, {settings}", rows)


if __name__ == "__main__":
    main()
