"""Coordinate median and trimmed mean.

Source: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018
(arXiv:1803.01498).

Blocks of columns go through a selection network (`selection`) while they are in the cache. Where a network would have
too many comparators, columns are sorted; both give the same order statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator_core.rule import Received, RobustRule, majority
from aggregator_core.selection import Comparator, apply, cost, run, sorting, trimming
from aggregator_core.sums import Buffers, aligned_rows, sum_block, weighted_average
from aggregator_core.updates import F32, refuse_non_finite

#: Operations on rows up to which a network is faster than numpy's sort, where that is vectorized.
NETWORK_COST_MAX = 1_200
#: Columns that go through a network at a time: fewer cost more calls than arithmetic, more do not stay in a cache.
COLUMNS = 24_576
#: Columns that are sorted at a time, and of these, that are transposed at a time.
SORTED_COLUMNS, TRANSPOSED_COLUMNS = 4_096, 512


def arranged(rows: Sequence[F32], network: Sequence[Comparator]) -> Iterator[tuple[slice, list[F32]]]:
    """Blocks of columns after a network, or sorted where the network is too large.

    Args:
        rows: n arrays of shape (p,), float32; not modified.
        network: For n rows.

    Yields:
        Where the block stands, and n arrays of shape (b,), which the next block overwrites. One that the network has
        not touched is the row's own memory: only those that it has may be overwritten.

    Raises:
        RefusedUpdateError: A value is not finite.
    """
    n, size = len(rows), rows[0].size
    sort = cost(network) > NETWORK_COST_MAX
    width = min(SORTED_COLUMNS if sort else COLUMNS, size)
    work = aligned_rows(n + 1, width, np.float32)
    for start in range(0, size, width):
        stop = min(start + width, size)
        block = work[:, : stop - start]
        parts = [row[start:stop] for row in rows]
        if sort:
            parts = sort_columns(parts, block[:n])
        else:
            apply(network, parts, list(block))
        refuse_bad_ends(parts, rows)
        yield slice(start, stop), parts


def refuse_bad_ends(parts: Sequence[F32], rows: Sequence[F32]) -> None:
    """Raise RefusedUpdateError if rows are not all finite, seen by the smallest and the largest values of a block.

    A NaN comes out of every comparator that it goes into, and a sort puts it last.
    """
    if not (np.isfinite(parts[0]).all() and np.isfinite(parts[-1]).all()):
        refuse_non_finite(rows)


def sort_columns(parts: Sequence[F32], block: F32) -> list[F32]:
    """The rows of a block, shape (n, b), after its columns, copied from n parts of shape (b,), have been sorted."""
    for target, part in zip(block, parts, strict=True):
        np.copyto(target, part)
    for first in range(0, block.shape[1], TRANSPOSED_COLUMNS):
        piece = block[:, first : first + TRANSPOSED_COLUMNS]
        columns = np.ascontiguousarray(piece.T)
        columns.sort(axis=1)
        np.copyto(piece, columns.T)
    return list(block)


def blockwise(rows: Sequence[F32], network: Sequence[Comparator], combine: Callable[[list[F32]], F32]) -> F32:
    """A result of shape (p,) of what `combine` makes of the n arrays of each block of `arranged`."""
    result = np.empty(rows[0].size, np.float32)
    for where, parts in arranged(rows, network):
        result[where] = combine(parts)
    return result


def middle(parts: Sequence[F32]) -> F32:
    """The median of parts whose middle rows hold the middle order statistics; shape (b,), float32."""
    n = len(parts)
    # Zero is added because a network does not say which of -0.0 and 0.0 comes out.
    zero, half = np.float32(0), np.float32(0.5)
    if n % 2:
        single: F32 = parts[n // 2] + zero
        return single
    # Halves are summed: a sum of two large values would leave float32.
    mean: F32 = parts[n // 2 - 1] * half + parts[n // 2] * half + zero
    return mean


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


def trimmed_mean(rows: Sequence[F32], f: int) -> F32:
    """The mean of each coordinate without its f smallest and its f largest values.

    Values go into the sum as soon as the network has let them pass, so that they are still in a cache.

    Args:
        rows: n arrays of shape (p,), float32; not modified.
        f: From 0; 2f < n.

    Returns:
        Shape (p,), float32.

    Raises:
        RefusedUpdateError: A value is not finite.
    """
    n, size = len(rows), rows[0].size
    weights = np.ones(n - 2 * f)
    if f == 0:
        return weighted_average(rows, weights)
    network = trimming(n, f)
    if cost(network) > NETWORK_COST_MAX:
        return blockwise(rows, network, lambda parts: weighted_average(parts[f : n - f], weights))
    result = np.empty(size, np.float32)
    work, buffers = aligned_rows(n + 1, min(COLUMNS, size), np.float32), Buffers.of(min(COLUMNS, size))
    for start in range(0, size, COLUMNS):
        here = result[start : start + COLUMNS]
        parts = [row[start : start + COLUMNS] for row in rows]
        passing = passed(network, parts, list(work[:, : here.size]), range(f, n - f))
        sum_block(passing, [None] * (n - 2 * f), n - 2 * f, buffers, here)
        # The network goes on to its end, for the extremes.
        next(passing, None)
        refuse_bad_ends(parts, rows)
        if not np.isfinite(here).all():
            # The values are so large that sums have left float32.
            parts = [row[start : start + COLUMNS] for row in rows]
            apply(network, parts, list(work[:, : here.size]))
            np.copyto(here, weighted_average(parts[f : n - f], weights))
    return result


def passed(network: Sequence[Comparator], parts: list[F32], pool: list[F32], wanted: Container[int]) -> Iterator[F32]:
    """Each wanted row once it has its result; the network then works on in its memory. Arguments as for `run`."""
    for index in run(network, parts, pool):
        if index in wanted:
            yield parts[index]
            pool.append(parts[index])


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
        return trimmed_mean(received.rows, self.byzantine)
