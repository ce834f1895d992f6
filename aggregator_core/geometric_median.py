"""The geometric median: the point whose sum of distances to the updates is smallest.

Source: Pillutla et al., "Robust Aggregation for Federated Learning" (RFA), IEEE Transactions on Signal Processing 70,
2022 (arXiv:1912.13445): Weiszfeld's algorithm with distances no smaller than a smoothing constant.

Every iterate is a weighted mean of the updates, so its distances to them follow from the matrix of their products
(`distances`): the updates are read twice, however many iterations there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator_core.distances import gram, squared_distances
from aggregator_core.krum import sum_of_columns
from aggregator_core.median import with_state
from aggregator_core.parameters import Parameter
from aggregator_core.rule import Received, RobustRule, majority
from aggregator_core.sums import weighted_average
from aggregator_core.updates import F32, F64, I64

#: An update farther from the most central one than this many median distances is left out. Its pull would be of the
#: size of a median distance like that of any other, but beside it float64 would lose the others' distances.
REACH = 1e6


def most_central(roots: F64) -> int:
    """The update whose sum of distances is smallest; of equal ones, the first."""
    return int(np.lexsort((np.arange(len(roots)), sum_of_columns(roots)))[0])


def within_reach(distances: F64) -> I64:
    """Indices of the updates that are not absurdly far away, more than half of them.

    Args:
        distances: Squared, between each two updates, shape (n, n).
    """
    roots = np.sqrt(distances)
    away = roots[most_central(roots)]
    scale = float(np.sort(away)[len(away) // 2])
    return np.flatnonzero(away <= REACH * scale).astype(np.int64)


def weiszfeld(distances: F64, iterations: int, smoothing: float) -> F64:
    """Weights of the updates in their geometric median.

    The first point is the update whose sum of distances is smallest. It is nearer to the median than a mean, which one
    update can draw anywhere.

    Args:
        distances: Squared, between each two updates, shape (n, n).
        iterations: At most; it ends before where weights change by less than a millionth.
        smoothing: Smallest distance that counts, as a share of the median distance from the first point.

    Returns:
        Shape (n,), float64, positive, sum one.
    """
    n = len(distances)
    roots = np.sqrt(distances)
    start = most_central(roots)
    away = np.sort(roots[start])
    scale = float(away[n // 2])
    if n == 1 or scale == 0.0:
        # More than half of the updates are this one: it is the median.
        weights = np.full(n, np.finfo(np.float64).tiny)
        weights[roots[start] == 0.0] = 1.0
        return normalized(weights)
    least = smoothing * scale
    # The point is an update, and its weight would be without bound: it counts as far as its nearest neighbour.
    first = np.maximum(roots[start], max(least, float(away[away > 0][0])))
    weights = normalized(1.0 / first)
    for _ in range(iterations - 1):
        new = normalized(1.0 / np.maximum(from_mean(distances, weights), least))
        settled = float(np.abs(new - weights).max()) < 1e-6
        weights = new
        if settled:
            break
    return weights


def normalized(weights: F64) -> F64:
    """The same with sum one, summed in order."""
    shares: F64 = weights / float(np.cumsum(weights)[-1])
    return shares


def from_mean(distances: F64, weights: F64) -> F64:
    """Distances of the updates from their weighted mean; weights of sum one; shape (n,), float64."""
    spread = sum_of_columns(distances * weights)
    inertia = float(np.cumsum(spread * weights)[-1]) / 2
    away: F64 = np.sqrt(np.maximum(spread - inertia, 0.0))
    return away


@dataclass(frozen=True)
class GeometricMedian(RobustRule):
    """The geometric median, smoothed; bears any minority.

    Attributes:
        iterations: At most.
        smoothing: Smallest distance that counts, as a share of the median distance from the most central update.
    """

    name: ClassVar[str] = "geometric_median"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *RobustRule.parameters,
        Parameter("iterations", int, 1, 10_000, "iterations of Weiszfeld's algorithm, at most"),
        Parameter("smoothing", float, 0, 1, "smallest distance that counts, as a share of the median one", above=True),
    )

    iterations: int = 100
    smoothing: float = 1e-3

    def tolerates(self, n: int) -> int:
        """Below half."""
        return majority(n)

    def _combine(self, received: Received) -> F32:
        trained = self.trained(received.rows)
        distances = squared_distances(gram(trained))
        near = within_reach(distances)
        weights = weiszfeld(distances[np.ix_(near, near)], self.iterations, self.smoothing)
        return with_state(weighted_average([trained[i] for i in near], weights, float(weights.max())), received.rows)
