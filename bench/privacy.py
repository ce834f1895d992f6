"""What differential privacy costs in accuracy: `python -m bench.privacy`.

Federated averaging as a bare loop over LiteRTTrainer and aggregator_core on Fashion-MNIST, every board with images of
its own. For each number of boards: without privacy, and by mode and noise. A model that noise has made useless can also
be one that no longer trains; its accuracy is none.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from aggregator_core import StreamingMean, l2_norm
from aggregator_core.privacy import Privacy, clipped, noised
from aggregator_core.privacy_accountant import epsilon
from aggregator_core.privacy_state import possible
from bench.codecs import ARTIFACTS, never
from bench.tables import report
from data_shards.datasets import load_dataset
from data_shards.split import divide, limit
from edge_peer.trainers.artifacts import ModelArtifacts, load_artifacts
from edge_peer.trainers.interface import F32, I32, Examples, TrainingDivergedError
from edge_peer.trainers.litert import LiteRTTrainer

BOARDS = (10, 100)
WAYS = ("none 0", "central 0.1", "central 0.3", "central 1", "central 3", "local 0.1", "local 0.3")
ROUNDS = 20
EXAMPLES = 600
CLIP = 0.3
DELTA = 1e-5


def federate(
    privacy: Privacy | None,
    trainer: LiteRTTrainer,
    artifacts: ModelArtifacts,
    shards: Sequence[tuple[Examples, I32]],
    rounds: int,
) -> tuple[F32, float]:
    """The global weights after all rounds, shape (p,), and the median norm of what updates changed of the weights."""
    layout, rng = artifacts.layout, random.Random(1)
    trained = layout.trained_size
    weights, norms = artifacts.initial(), []
    for round_ in range(rounds):
        mean = StreamingMean(layout.size)
        for peer, (x, y) in enumerate(shards):
            draw = round_ * len(shards) + peer
            result = trainer.train(
                weights, x, y, epochs=1, learning_rate=artifacts.learning_rate, seed=draw, cancelled=never
            )
            change = result.weights - weights
            norms.append(l2_norm(change[:trained]))
            if privacy is not None:
                change = clipped(change, privacy, trained)
                if privacy.mode == "local":
                    change = noised(change, privacy, trained, rng)
            mean.add(change, 1)
        step = mean.result()
        if privacy is not None and privacy.mode == "central":
            step = noised(step, privacy, trained, rng, peers=len(shards))
        weights = weights + step
        if privacy is not None:
            weights = possible(weights, layout)
    return weights, statistics.median(norms)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.privacy", description="accuracy by differential privacy")
    parser.add_argument("--boards", type=int, nargs="+", default=BOARDS, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each federation (default %(default)s)")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of a board, at most (default %(default)s)")
    parser.add_argument("--clip", type=float, default=CLIP, help="(default %(default)s)")
    options = parser.parse_args(arguments)
    artifacts = load_artifacts(ARTIFACTS)
    dataset = load_dataset("fashion-mnist", say=print)
    trainer = LiteRTTrainer(artifacts)
    rows: list[dict[str, Any]] = []
    for boards in options.boards:
        rng = np.random.default_rng(1)
        parts = divide("iid", dataset.y_train, boards, rng, dataset.subjects_train)
        parts = [limit(part, options.examples, rng) for part in parts]
        shards = [(dataset.x_train[part], dataset.y_train[part]) for part in parts]
        for way in WAYS:
            mode, _, multiplier = way.partition(" ")
            noise = float(multiplier)
            privacy = Privacy(mode, options.clip, noise, DELTA) if noise else None
            row: dict[str, Any] = {
                "boards": boards,
                "privacy": mode,
                "noise": noise,
                "epsilon": round(epsilon(noise, options.rounds, DELTA), 1) if noise else "",
            }
            try:
                weights, norm = federate(privacy, trainer, artifacts, shards, options.rounds)
                score = trainer.evaluate(weights, dataset.x_test, dataset.y_test, cancelled=never)
                int8 = trainer.evaluate_int8(weights, dataset.x_test, dataset.y_test, cancelled=never)
            except TrainingDivergedError:
                row |= {"accuracy": "", "int8": "", "norm of updates": ""}
            else:
                row |= {
                    "accuracy": round(score.accuracy, 3),
                    "int8": "" if int8 is None else round(int8, 3),
                    "norm of updates": round(norm, 2),
                }
            print(row, flush=True)
            rows.append(row)
    report(
        "privacy",
        f"Accuracy by differential privacy, image_cnn on Fashion-MNIST, {options.examples} images a board, "
        f"{options.rounds} rounds, clip {options.clip:g}, delta {DELTA:g}",
        rows,
    )


if __name__ == "__main__":
    main()
