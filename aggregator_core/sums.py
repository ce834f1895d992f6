"""Weighted sums of updates, block by block: the same bytes on every board, at about the speed of a copy.

Products and sums of up to GROUP updates are float32, the sums of groups are float64: n updates lose no more than GROUP
roundings of float32 each, and conversion, the slow part of a sum in float64, is done once a group. Every step is an
elementwise operation that IEEE 754 defines to the last bit, in the order of the updates. A matrix product or `einsum`
would be up to twice as fast, but their results depend on the processor (fused or separate products, order of partial
sums), and a BLAS wakes a thread for each core.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aggregator_core.updates import F32, F64, refuse_non_finite

#: Updates that are summed in float32 before they go to the float64 sum.
GROUP = 16
#: Values a block: what is worked on stays in the second-level cache. It changes no result.
BLOCK = 32_768
_ONE = np.float32(1)


def weighted_sum(rows: Sequence[F32], weights: F32, divisor: float = 1.0) -> F32:
    """The sum of weights[i] * rows[i], divided.

    Args:
        rows: n arrays of shape (p,), float32; at least one.
        weights: Shape (n,), float32. A weight of exactly one costs no product.
        divisor: What the sum is divided by, in float64.

    Returns:
        Shape (p,), float32. A value that is not finite in a row, and a sum beyond float32, show as values that are not
        finite here: whoever calls looks at p values instead of n * p.
    """
    size = rows[0].size
    result = np.empty(size, np.float32)
    width = min(BLOCK, size)
    total, group, product = np.empty(width, np.float64), np.empty(width, np.float32), np.empty(width, np.float32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            here, partial, scaled = total[: stop - start], group[: stop - start], product[: stop - start]
            here.fill(0.0)
            for first in range(0, len(rows), GROUP):
                parts = [row[start:stop] for row in rows[first : first + GROUP]]
                _group_sum(parts, weights[first : first + GROUP], partial, scaled)
                np.add(here, partial, out=here)
            np.divide(here, divisor, out=here)
            result[start:stop] = here
    return result


def _group_sum(parts: Sequence[F32], weights: F32, result: F32, scaled: F32) -> None:
    """Put the sum of weighted parts into `result`; the first of them begins it."""
    np.multiply(parts[0], weights[0], out=result)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        add_scaled(result, part, weight, scaled)


def add_scaled(total: F32, row: F32, weight: np.float32, scaled: F32) -> None:
    """Add weight * row to `total`; shapes (b,), float32; `scaled` is overwritten."""
    if weight == _ONE:
        np.add(total, row, out=total)
    else:
        np.multiply(row, weight, out=scaled)
        np.add(total, scaled, out=total)


def float64_sum(rows: Sequence[F32], weights: F64) -> F64:
    """The sum of weights[i] * rows[i] in float64 alone, for values whose products would leave float32; shape (p,)."""
    total = np.zeros(rows[0].size, np.float64)
    for start in range(0, total.size, BLOCK):
        here = total[start : start + BLOCK]
        for row, weight in zip(rows, weights, strict=True):
            here += np.multiply(row[start : start + BLOCK], weight, dtype=np.float64)
    return total


def weighted_average(rows: Sequence[F32], weights: F64, unit: float | None = None) -> F32:
    """The mean of finite updates, weighted by anything positive.

    Args:
        rows: n arrays of shape (p,), float32; at least one.
        weights: Shape (n,), float64, positive, finite. They need not sum to one.
        unit: The weight that costs no product; None: the first. So a single update comes out as it went in, and updates
            of one weight are summed at once.

    Returns:
        Shape (p,), float32.

    Raises:
        RefusedUpdateError: A value is not finite.
    """
    relative = (weights / (weights[0] if unit is None else unit)).astype(np.float32)
    mean = weighted_sum(rows, relative, float(relative.sum(dtype=np.float64)))
    if not np.isfinite(mean).all():
        refuse_non_finite(rows)
        total = float64_sum(rows, weights)
        mean = (total / float(weights.sum())).astype(np.float32)
    return mean
