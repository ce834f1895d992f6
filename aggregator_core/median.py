"""Coordinate median and trimmed mean.

Source: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018
(arXiv:1803.01498).

Blocks of columns go through a selection network (`selection`) while they are in the cache. Where a network would have
too many comparators, columns are sorted; both give the same order statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator_core.rule import Received, RobustRule, majority
from aggregator_core.selection import Comparator, apply, cost, sorting, trimming
from aggregator_core.sums import weighted_average
from aggregator_core.updates import F32, refuse_non_finite

#: Operations on rows up to which a network is faster than numpy's sort, where that is vectorized.
NETWORK_COST_MAX = 1_200
#: Values that are worked on at a time, n rows together: a small board's second-level cache.
VALUES = 262_144
#: Columns a block: fewer cost more calls than arithmetic, more do not stay in a cache.
COLUMNS_MIN, COLUMNS_MAX = 8_192, 16_384
#: Columns that are transposed and sorted at a time.
SORTED_COLUMNS = 512


def columns_of(n: int) -> int:
    """Columns a block of n rows."""
    return min(COLUMNS_MAX, max(COLUMNS_MIN, VALUES // n))


def arranged(rows: Sequence[F32], network: Sequence[Comparator]) -> Iterator[tuple[slice, list[F32]]]:
    """Blocks of columns after a network, or sorted where the network is too large.

    Args:
        rows: n arrays of shape (p,), float32; not modified.
        network: For n rows.

    Yields:
        Where the block stands, and n arrays of shape (b,), which are overwritten by the next block.

    Raises:
        RefusedUpdateError: A value is not finite.
    """
    n, size = len(rows), rows[0].size
    width = min(columns_of(n), size)
    work = np.empty((n + 1, width), np.float32)
    sort = cost(network) > NETWORK_COST_MAX
    for start in range(0, size, width):
        stop = min(start + width, size)
        block = work[:, : stop - start]
        for target, row in zip(block[:n], rows, strict=True):
            np.copyto(target, row[start:stop])
        if not np.isfinite(block[:n]).all():
            refuse_non_finite(rows)
        if sort:
            for first in range(0, stop - start, SORTED_COLUMNS):
                part = block[:n, first : first + SORTED_COLUMNS]
                columns = np.ascontiguousarray(part.T)
                columns.sort(axis=1)
                np.copyto(part, columns.T)
        parts = list(block[:n])
        if not sort:
            apply(network, parts, block[n])
        yield slice(start, stop), parts


def blockwise(rows: Sequence[F32], network: Sequence[Comparator], combine: Callable[[list[F32]], F32]) -> F32:
    """A result of shape (p,) of what `combine` makes of the n arrays of each block of `arranged`."""
    result = np.empty(rows[0].size, np.float32)
    for where, parts in arranged(rows, network):
        result[where] = combine(parts)
    return result


def middle(parts: Sequence[F32]) -> F32:
    """The median of parts whose middle rows hold the middle order statistics; shape (b,), float32."""
    n = len(parts)
    half = np.float32(0.5)
    # Halves are summed: a sum of two large values would leave float32. Zero is added because a network does not say
    # which of -0.0 and 0.0 comes out.
    median: F32 = parts[(n - 1) // 2] * half + parts[n // 2] * half + np.float32(0)
    return median


def coordinate_median(rows: Sequence[F32]) -> F32:
    """The median of each coordinate; of an even number, the mean of the two in the middle.

    Args:
        rows: n arrays of shape (p,), float32; not modified.

    Returns:
        Shape (p,), float32.

    Raises:
        RefusedUpdateError: A value is not finite.
    """
    n = len(rows)
    return blockwise(rows, sorting(n, (n - 1) // 2, n // 2 + 1), middle)


def with_state(trained: F32, rows: Sequence[F32]) -> F32:
    """An update of whose state nothing is known yet: that becomes the coordinate median of the rows'.

    Distances are of trained weights and say nothing of state: a peer that is honest in one may be bad in the other.

    Args:
        trained: Shape (t,), float32.
        rows: n arrays of shape (p,), float32, p >= t.

    Returns:
        Shape (p,), float32; `trained` itself where p is t.

    Raises:
        RefusedUpdateError: A value of the state is not finite.
    """
    if trained.size == rows[0].size:
        return trained
    return np.concatenate([trained, coordinate_median([row[trained.size :] for row in rows])])


@dataclass(frozen=True)
class CoordinateMedian(RobustRule):
    """The median of each coordinate; bears any minority."""

    name: ClassVar[str] = "median"

    def tolerates(self, n: int) -> int:
        """Below half."""
        return majority(n)

    def _combine(self, received: Received) -> F32:
        return coordinate_median(received.rows)


@dataclass(frozen=True)
class TrimmedMean(RobustRule):
    """The mean of each coordinate without the `byzantine` smallest and the `byzantine` largest values."""

    name: ClassVar[str] = "trimmed_mean"

    def tolerates(self, n: int) -> int:
        """Below half: something must be left between what is trimmed."""
        return majority(n)

    def _combine(self, received: Received) -> F32:
        n, f = len(received.rows), self.byzantine
        weights = np.ones(n - 2 * f)
        return blockwise(received.rows, trimming(n, f), lambda parts: weighted_average(parts[f : n - f], weights))
