"""Federated averaging: the mean of the updates, weighted by the examples that each has seen.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
algorithm 1 (arXiv:1602.05629).

Sums are float64 and in the order that the updates are given in, so the same updates in the same order give the same
bytes on every board; callers sort by peer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aggregator_core.checks import BLOCK, RefusedUpdateError, check_counts, check_update

F32 = npt.NDArray[np.float32]


def weighted_mean(updates: F32 | Sequence[F32], counts: Sequence[int] | npt.NDArray[np.int64]) -> F32:
    """Mean of n updates.

    Args:
        updates: Shape (n, p), or n arrays of shape (p,); float32, finite. They are not modified.
        counts: n positive integers, the weights.

    Returns:
        Shape (p,), float32.

    Raises:
        RefusedUpdateError: No updates, counts that do not fit, shapes or dtypes that differ, or a value that is not
            finite. There is no silent zero.
    """
    weights = check_counts(counts)
    if len(updates) != len(weights):
        raise RefusedUpdateError(f"{len(updates)} updates but {len(weights)} example counts")
    size = len(updates[0]) if updates[0].ndim == 1 else -1
    for update in updates:
        check_update(update, size)
    total = float(weights.sum())
    mean = np.empty(size, np.float32)
    block_sum = np.empty(min(BLOCK, size), np.float64)
    product = np.empty_like(block_sum)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        part, scaled = block_sum[: stop - start], product[: stop - start]
        part.fill(0.0)
        for update, weight in zip(updates, weights, strict=True):
            np.multiply(update[start:stop], float(weight), out=scaled, dtype=np.float64)
            part += scaled
        np.divide(part, total, out=part)
        mean[start:stop] = part
    return mean


class StreamingMean:
    """The same mean, one update at a time: memory does not grow with the number of updates.

    The same updates in the same order give the same bytes as `weighted_mean`.

    Args:
        size: Number of values of an update.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise RefusedUpdateError(f"size {size} is negative")
        self._sum = np.zeros(size, np.float64)
        self._product = np.empty(min(BLOCK, size), np.float64)
        self._total = 0

    @property
    def total(self) -> int:
        """Examples seen so far."""
        return self._total

    def add(self, update: F32, count: int) -> None:
        """Add one update; on an error the mean is as before.

        Args:
            update: Shape (size,), float32, finite; not modified.
            count: Its weight, a positive integer.

        Raises:
            RefusedUpdateError: The update or the count is of no use.
        """
        check_update(update, self._sum.size)
        check_counts([self._total, count] if self._total else [count])
        for start in range(0, self._sum.size, BLOCK):
            stop = min(start + BLOCK, self._sum.size)
            scaled = self._product[: stop - start]
            np.multiply(update[start:stop], float(count), out=scaled, dtype=np.float64)
            self._sum[start:stop] += scaled
        self._total += int(count)

    def result(self) -> F32:
        """The mean of what was added, shape (size,), float32; raises RefusedUpdateError when that is nothing."""
        if self._total == 0:
            raise RefusedUpdateError("there is no update to average")
        return (self._sum / float(self._total)).astype(np.float32)
