"""A federation in one process, with the trainer of the boards, some of whose peers are bad."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aggregator_core import l2_norm
from aggregator_core.rule import Rule, TooFewUpdatesError
from aggregator_core.rules import make_rule
from bench.attacks.scenarios import Attack
from bench.attacks.updates import flip_labels
from data_shards.datasets import Dataset
from data_shards.split import divide, limit
from edge_peer.trainers.artifacts import ModelArtifacts
from edge_peer.trainers.interface import F32, I32, U8, Trainer, TrainingDivergedError

#: Models of the last rounds whose accuracies are averaged: one alone says more of its last batches than of the rule.
LAST = 3


@dataclass(frozen=True)
class Setting:
    """What rules and attacks have in common.

    Attributes:
        trainer: Trains and scores.
        artifacts: Of its model.
        shards: Examples and labels of each peer.
        test: Examples and labels that models are scored on.
        bad: How many of the last peers are bad, where there is an attack.
        rounds: How many.
        seed: Of the order of examples and of noise.
    """

    trainer: Trainer
    artifacts: ModelArtifacts
    shards: Sequence[tuple[U8, I32]]
    test: tuple[U8, I32]
    bad: int
    rounds: int
    seed: int

    def change(self, weights: F32, peer: int, round_: int, flips: bool = False) -> F32:
        """A peer's update of weights of shape (p,); raises TrainingDivergedError."""
        x, y = self.shards[peer]
        result = self.trainer.train(
            weights,
            x,
            flip_labels(y, self.artifacts.classes) if flips else y,
            epochs=1,
            learning_rate=self.artifacts.learning_rate,
            # The same for every rule and attack, so that these alone make the difference.
            seed=(self.seed * self.rounds + round_) * len(self.shards) + peer,
            cancelled=never,
        )
        return result.weights - weights

    def accuracy(self, weights: F32) -> float:
        """Of a model, 0..1."""
        return self.trainer.evaluate(weights, *self.test, cancelled=never).accuracy


def never() -> bool:
    """Nobody interrupts a benchmark."""
    return False


def shards_of(dataset: Dataset, split: str, peers: int, examples: int, seed: int) -> list[tuple[U8, I32]]:
    """Training examples of each peer, at most so many."""
    rng = np.random.default_rng(seed)
    parts = divide(split, dataset.y_train, peers, rng, dataset.subjects_train)
    return [(dataset.x_train[it], dataset.y_train[it]) for it in (limit(part, examples, rng) for part in parts)]


def updates_of(setting: Setting, weights: F32, round_: int, attack: Attack | None) -> tuple[list[F32], list[int]]:
    """All updates of a round, the bad ones last, and the examples of each.

    A peer whose training diverges sits the round out, as in a run. With none left there are no updates.
    """
    honest_peers = range(len(setting.shards) - (setting.bad if attack else 0))
    peers, rows = trained(setting, weights, round_, honest_peers)
    if attack is not None and rows:
        bad_peers = list(range(len(honest_peers), len(setting.shards)))
        own = [np.zeros_like(weights) for _ in bad_peers]
        if attack.trains:
            bad_peers, own = trained(setting, weights, round_, bad_peers, attack.flips)
        if own:
            rng = np.random.default_rng([setting.seed, round_])
            rows.extend(attack.craft(np.stack(own), np.stack(rows), rng))
            peers += bad_peers
    return rows, [len(setting.shards[peer][1]) for peer in peers]


def trained(
    setting: Setting, weights: F32, round_: int, peers: Sequence[int], flips: bool = False
) -> tuple[list[int], list[F32]]:
    """The peers whose training did not diverge, and their updates."""
    done, rows = [], []
    for peer in peers:
        try:
            rows.append(setting.change(weights, peer, round_, flips))
        except TrainingDivergedError:
            continue
        done.append(peer)
    return done, rows


def federate(
    setting: Setting, rule: Rule, attack: Attack | None, watch: Callable[[Sequence[F32]], None] | None = None
) -> float:
    """The accuracy that a rule leaves, 0..1: the mean of the models of the last rounds.

    A federation ends early with a model that too few peers can train any more.

    Args:
        setting: Peers, data and trainer.
        rule: Makes one update of those of a round.
        attack: What the bad peers do; None: there are none.
        watch: Is told the updates of each round.
    """
    weights = setting.artifacts.initial()
    scores = []
    for round_ in range(setting.rounds):
        rows, counts = updates_of(setting, weights, round_, attack)
        if not rows:
            return setting.accuracy(weights)
        if watch is not None:
            watch(rows)
        try:
            weights = weights + rule.aggregate(rows, counts)
        except TooFewUpdatesError:
            if round_ == 0:
                raise
            return setting.accuracy(weights)
        if round_ >= setting.rounds - LAST:
            scores.append(setting.accuracy(weights))
    return statistics.mean(scores)


def usual_norm(setting: Setting) -> float:
    """The median L2 norm of updates in a federation without attack and with the mean: a bound for fixed clipping."""
    size = setting.artifacts.layout.trained_size
    norms: list[float] = []
    federate(setting, make_rule("fedavg"), None, lambda rows: norms.extend(l2_norm(row[:size]) for row in rows))
    return statistics.median(norms)
