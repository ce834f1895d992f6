"""Centered clipping: steps from a center towards every update, none of them longer than a radius.

Source: Karimireddy et al., "Learning from History for Byzantine Robust Optimization", ICML 2021 (arXiv:2012.10333).
There the center is the aggregate of the round before. Here it is the coordinate median of the round, and the radius may
be the median distance from it: both bear any minority, no number has to be tuned to the model, and a new controller
needs no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator_core.checks import BLOCK
from aggregator_core.median import coordinate_median, with_state
from aggregator_core.parameters import Parameter
from aggregator_core.rule import Received, RobustRule, majority
from aggregator_core.sums import weighted_sum
from aggregator_core.updates import F32, F64


def distances_from(center: F32, rows: Sequence[F32]) -> F64:
    """Euclidean distances of rows from a point, without BLAS; shape (n,), float64.

    Args:
        center: Shape (p,), float32.
        rows: n arrays of shape (p,), float32.
    """
    squares = np.zeros(len(rows), np.float64)
    difference = np.empty(min(BLOCK, center.size), np.float64)
    for start in range(0, center.size, BLOCK):
        here = center[start : start + BLOCK]
        part = difference[: here.size]
        for index, row in enumerate(rows):
            np.subtract(row[start : start + BLOCK], here, out=part, dtype=np.float64)
            squares[index] += np.square(part, out=part).sum()
    return np.sqrt(squares)


@dataclass(frozen=True)
class CenteredClipping(RobustRule):
    """The median of each coordinate, moved towards every update by a step no longer than `radius`, several times.

    Attributes:
        radius: Longest step; None: the median distance of the updates from the center that it begins with.
        iterations: How often the center moves.
    """

    name: ClassVar[str] = "centered_clipping"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *RobustRule.parameters,
        Parameter("radius", float, 0, np.inf, "longest step; none: the median distance", above=True, optional=True),
        Parameter("iterations", int, 1, 1_000, "how often the center moves"),
    )

    radius: float | None = None
    iterations: int = 3

    def tolerates(self, n: int) -> int:
        """Below half."""
        return majority(n)

    def _combine(self, received: Received) -> F32:
        trained = self.trained(received.rows)
        n = len(received.rows)
        center = coordinate_median(trained)
        radius = self.radius
        for _ in range(self.iterations):
            away = distances_from(center, trained)
            if radius is None:
                radius = float(np.sort(away)[(n - 1) // 2])
            steps = np.ones(n)
            far = away > radius
            steps[far] = radius / away[far]
            weights = steps / n
            rest = max(0.0, 1.0 - float(np.cumsum(weights)[-1]))
            center = weighted_sum([*trained, center], np.append(weights, rest).astype(np.float32))
        return with_state(center, received.rows)
