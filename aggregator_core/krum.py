"""Krum and Multi-Krum: the updates that are nearest to their neighbours.

Sources: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017
(arXiv:1703.02757); Damaskinos et al., "AggregaThor: Byzantine Machine Learning via Robust Gradient Aggregation",
MLSys 2019, for the number of updates that Multi-Krum may average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator_core.distances import gram, squared_distances
from aggregator_core.median import with_state
from aggregator_core.rule import Received, RobustRule
from aggregator_core.sums import weighted_average
from aggregator_core.updates import F32, F64, I64


def scores(distances: F64, f: int) -> F64:
    """Krum's score of each update: the sum of the squared distances to its n - f - 2 nearest others, at least one.

    Args:
        distances: Shape (n, n), squared, n >= 2.
        f: Bad updates to bear.

    Returns:
        Shape (n,), float64: the smaller, the more central.
    """
    n = len(distances)
    nearest = max(1, n - f - 2)
    # The first of each sorted row is the zero that the update is from itself.
    ordered = np.sort(distances, axis=1)[:, 1 : nearest + 1]
    return sum_of_columns(ordered)


def sum_of_columns(values: F64) -> F64:
    """The sum of each row, column by column: an order that no processor changes; shape (n,), float64."""
    total = np.zeros(len(values), np.float64)
    for column in values.T:
        total += column
    return total


def ranking(distances: F64, f: int) -> I64:
    """Indices of updates from the most central on, shape (n,).

    Of equal scores the one with the smaller sum of all distances comes first, then the one that was given first: the
    two of the nearest pair always have equal scores where a single neighbour counts.
    """
    n = len(distances)
    if n == 1:
        return np.zeros(1, np.int64)
    return np.lexsort((np.arange(n), sum_of_columns(distances), scores(distances, f))).astype(np.int64)


@dataclass(frozen=True)
class Krum(RobustRule):
    """The one update that is nearest to its neighbours."""

    name: ClassVar[str] = "krum"

    def tolerates(self, n: int) -> int:
        """As many as n >= 2f + 3 permits."""
        return max(0, (n - 3) // 2)

    def _combine(self, received: Received) -> F32:
        trained = self.trained(received.rows)
        chosen = ranking(squared_distances(gram(trained)), self.byzantine)[: self._kept(len(received.rows))]
        mean = weighted_average([trained[i] for i in sorted(chosen)], np.ones(len(chosen)))
        return with_state(mean, received.rows)

    def _kept(self, n: int) -> int:
        """How many updates are averaged."""
        return min(1, n)


@dataclass(frozen=True)
class MultiKrum(Krum):
    """The mean of the n - f - 2 updates of the smallest scores, at least one."""

    name: ClassVar[str] = "multi_krum"

    def _kept(self, n: int) -> int:
        return max(1, n - self.byzantine - 2)
