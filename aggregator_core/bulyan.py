"""Bulyan: a trimmed mean around the median of the updates that Krum chooses one after another.

Source: El Mhamdi et al., "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018
(arXiv:1802.07927).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator_core.distances import gram, squared_distances
from aggregator_core.krum import ranking
from aggregator_core.median import blockwise, middle, with_state
from aggregator_core.rule import Received, RobustRule
from aggregator_core.selection import sorting_ends_and_middle
from aggregator_core.sums import weighted_average
from aggregator_core.updates import F32, F64


def select(distances: F64, f: int) -> list[int]:
    """The n - 2f updates that Krum takes one after another, each out of those that are left; indices in order."""
    left = np.arange(len(distances))
    chosen: list[int] = []
    for _ in range(len(distances) - 2 * f):
        best = int(ranking(distances[np.ix_(left, left)], f)[0])
        chosen.append(int(left[best]))
        left = np.delete(left, best)
    return sorted(chosen)


def nearest_to_median(parts: Sequence[F32], kept: int) -> F32:
    """The mean of the values of each column that are nearest to its median.

    In a sorted column they are neighbours. A window of `kept` values moves on by one as long as the value that it
    leaves is farther from the median than the one that it takes; its values are kept in `kept` slots, so that nothing
    is subtracted that was added before: a bad value could be so large that all others vanish beside it. The slots are
    the first rows: a row has been compared before its slot is overwritten. Only the first and the last m - kept rows
    and the middle are compared, so only these need be in order.

    Args:
        parts: m rows of shape (b,), float32, after `sorting_ends_and_middle(m, m - kept)`; overwritten.
        kept: How many, 1 to m.

    Returns:
        Shape (b,), float32.
    """
    median = middle(parts)
    slots = list(parts[:kept])
    with np.errstate(over="ignore"):
        for first, part in enumerate(parts[kept:]):
            np.copyto(slots[first % kept], part, where=median - parts[first] > part - median)
    return weighted_average(slots, np.ones(kept))


@dataclass(frozen=True)
class Bulyan(RobustRule):
    """The mean, in each coordinate, of the n - 4f values nearest to the median of n - 2f chosen updates."""

    name: ClassVar[str] = "bulyan"

    def tolerates(self, n: int) -> int:
        """As many as n >= 4f + 3 permits."""
        return max(0, (n - 3) // 4)

    def _combine(self, received: Received) -> F32:
        trained = self.trained(received.rows)
        chosen = [trained[i] for i in select(squared_distances(gram(trained)), self.byzantine)]
        m = len(chosen)
        kept = m - 2 * self.byzantine
        mean = blockwise(chosen, sorting_ends_and_middle(m, m - kept), lambda parts: nearest_to_median(parts, kept))
        return with_state(mean, received.rows)
