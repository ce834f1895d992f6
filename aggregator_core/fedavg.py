"""Federated averaging: the mean of the updates, weighted by the examples that each has seen.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
algorithm 1 (arXiv:1602.05629).

Sums are in the order that the updates are given in (`sums`), so the same updates in the same order give the same bytes
on every board; callers sort by peer.
"""

from __future__ import annotations

import numpy as np

from aggregator_core.checks import RefusedUpdateError, check_counts, check_update
from aggregator_core.sums import BLOCK, GROUP, ZERO, add_scaled, aligned_rows, factors_of, scale, weighted_average
from aggregator_core.updates import F32, F64, Counts, Updates, rows_of

#: Values that are looked at twice before the next, while they are in the second-level cache.
PEAK_BLOCK = 131_072


def weighted_mean(updates: Updates, counts: Counts) -> F32:
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
    rows, exact = rows_of(updates, counts)
    return weighted_average(rows, exact.astype(np.float64))


class StreamingMean:
    """The same mean, one update at a time: memory is 4 bytes a value for up to GROUP updates, and 12 for any number.

    The same updates in the same order give the same bytes as `weighted_mean`, as long as no product leaves float32.

    Args:
        size: Number of values of an update.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise RefusedUpdateError(f"size {size} is negative")
        self._sum: F64 | None = None
        self._group = aligned_rows(1, size, np.float32)[0]
        self._product = aligned_rows(1, min(BLOCK, size), np.float32)[0]
        self._in_group = 0
        self._first = 0
        self._weights = 0.0
        self._total = 0

    @property
    def total(self) -> int:
        """Examples seen so far."""
        return self._total

    def add(self, update: F32, count: int, *, checked: bool = False) -> None:
        """Add one update; on an error the mean is as before.

        Args:
            update: Shape (size,), float32, finite; not modified.
            count: Its weight, a positive integer.
            checked: The caller has looked at every value, as who receives an update does (`check_update`): then its
                values are read once instead of twice. If that was not so, it is `result` that refuses.

        Raises:
            RefusedUpdateError: The update or the count is of no use, or a value is so large that sums of it leave
                float32.
        """
        check_update(update[:0], 0)
        if update.shape != self._group.shape:
            raise RefusedUpdateError(f"shape is {list(update.shape)}, the model's is [{self._group.size}]")
        check_counts([self._total, count] if self._total else [count])
        peak = 0.0 if checked else _peak(update)
        weight = np.float32(count / (self._first or count))
        if peak * float(weight) > float(np.finfo(np.float32).max) / GROUP:
            raise RefusedUpdateError(f"a value of {peak:.3g} is too large to be summed with a weight of {weight:.3g}")
        factor = factors_of(np.array([weight]))[0]
        full = self._in_group == GROUP
        if full and self._sum is None:
            self._sum = np.zeros(update.size, np.float64)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for start in range(0, update.size, BLOCK):
                here, part = self._group[start : start + BLOCK], update[start : start + BLOCK]
                if full and self._sum is not None:
                    self._sum[start : start + BLOCK] += here
                if full or self._in_group == 0:
                    scale(here, part, factor)
                else:
                    add_scaled(here, iter([part]), [factor], self._product[: part.size])
        self._in_group = 1 if full else self._in_group + 1
        self._first = self._first or int(count)
        self._weights += float(weight)
        self._total += int(count)

    def result(self) -> F32:
        """The mean of what was added.

        Returns:
            Shape (size,), float32, finite.

        Raises:
            RefusedUpdateError: Nothing was added, or a `checked` update was not finite or too large.
        """
        if self._total == 0:
            raise RefusedUpdateError("there is no update to average")
        mean = np.empty(self._group.size, np.float32)
        buffer = aligned_rows(1, min(BLOCK, mean.size), np.float64)[0]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for start in range(0, mean.size, BLOCK):
                group, out = self._group[start : start + BLOCK], mean[start : start + BLOCK]
                total = buffer[: out.size]
                np.add(group, ZERO if self._sum is None else self._sum[start : start + BLOCK], out=total)
                np.multiply(total, 1.0 / self._weights, out=total)
                np.copyto(out, total, casting="same_kind")
        check_update(mean, mean.size)
        return mean


def _peak(update: F32) -> float:
    """The largest magnitude of an update; raises RefusedUpdateError if a value is not finite.

    The bits of values of one sign are in the order of their magnitudes as integers, those of what is not finite on top;
    and integers are compared faster than values, of which every one might be NaN.
    """
    largest = 0
    for start in range(0, update.size, PEAK_BLOCK):
        bits = update[start : start + PEAK_BLOCK].view(np.int32)
        # Signed, a positive value is the largest; unsigned, a negative one.
        for top in (int(bits.max()), int(bits.view(np.uint32).max())):
            largest = max(largest, top & np.iinfo(np.int32).max)
    peak = float(np.int32(largest).view(np.float32))
    if not peak < np.inf:
        check_update(update, update.size)
    return peak
